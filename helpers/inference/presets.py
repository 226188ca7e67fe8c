"""Cascades as they are written down (see :mod:`helpers.inference.cascade`), and what of them and of runs can be opened.

Nothing heavy is imported here, so that a page can list what there is before a network is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

from helpers.paths import PROJECT_ROOT, dataset_folder, project_path, read_yaml
from helpers.runs import RUN_FILE, MissingRunError

PRESETS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "cascades"
PLACES = {"ARTIFACTS": "artifacts", "DATASET": "", "PROFILE": "quick"}  # parameters that every cascade has
# Key of a stage -> the files that are in the folder it names once that is finished
MARKS = {"run": (RUN_FILE,), "foreground": ("foreground.json",), "unknown": ("open_set.npz", "thresholds.json")}
_SCHEMA = json.loads(Path(__file__).with_name("cascade.schema.json").read_text(encoding="utf-8"))


class CascadeError(ValueError):
    """A cascade, or the folder its results are to go to, that cannot be used; the message says why and what to do."""


def preset_names() -> list[str]:
    return sorted(file.stem for file in PRESETS_FOLDER.glob("*.yml"))


def read_cascade(path: str | Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the YAML file of a cascade (a path, or the name of a preset) says: ``name``, ``about``, ``parameters`` (with
    the `PLACES`, and over both the settings) and ``stages``, where names of parameters are replaced by their values.
    """
    places = (Path(path).expanduser(), project_path(path), PRESETS_FOLDER / f"{path}.yml")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise CascadeError(f"There is no cascade {path}; give a YAML file or a preset: {', '.join(preset_names())}.")
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise CascadeError(str(error)) from error
    if not isinstance(content, dict):
        raise CascadeError(f"{file}: expected keys ({', '.join(_SCHEMA['properties'])}), got {type(content).__name__}.")
    parameters = _parameters(content.get("parameters") or {}, settings or {}, file.name)
    content = {"name": file.stem, "about": ""} | content | {"parameters": parameters}
    content["stages"] = _resolved(content.get("stages"), parameters)
    try:
        jsonschema.validate(content, _SCHEMA)
    except jsonschema.ValidationError as error:
        raise CascadeError(f"{file.name}, {error.json_path}: {error.message:.300}") from error
    return content


def _parameters(declared: Any, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parameters of a cascade by name: the `PLACES`, those it declares, and over both the settings."""
    if not isinstance(declared, dict):
        raise CascadeError(f"{where}: 'parameters' must be names with their values.")
    parameters = PLACES | declared
    for name, value in settings.items():
        if name not in parameters or isinstance(parameters[name], bool) != isinstance(value, bool):
            known = ", ".join(f"{key}={known!r}" for key, known in parameters.items())
            raise CascadeError(f"{where} has no parameter {name} that can be {value!r}. It has {known}.")
        parameters[name] = value
    # a folder may be called 2024, and a folder of photos stands for its name
    parameters |= {name: str(parameters[name]) for name in PLACES}
    return parameters | {"DATASET": Path(parameters["DATASET"]).name}


def _resolved(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A value with names of parameters replaced by what they stand for, but in rules, which are read later."""
    if isinstance(value, dict):
        return {key: one if key == "rule" else _resolved(one, parameters) for key, one in value.items()}
    if isinstance(value, list):
        return [_resolved(one, parameters) for one in value]
    return parameters[value] if isinstance(value, str) and value in parameters else value


def run_folder(run: str, parameters: Mapping[str, Any]) -> Path:
    """Folder of a run: a name in the dataset's artifacts, or a path; CascadeError: nobody knows where it lies."""
    if any(mark in run for mark in "/\\"):
        return project_path(run)
    if not run or not parameters["DATASET"]:
        raise CascadeError(f"nobody knows where the run {run!r} lies; DATASET is empty: give --set DATASET=NAME.")
    return dataset_folder(parameters["ARTIFACTS"], parameters["DATASET"], parameters["PROFILE"]) / run


def missing_files(path: str | Path, settings: Mapping[str, Any] | None = None) -> list[Path]:
    """What a cascade needs of its runs and is not there; nothing is loaded. Empty where it can be opened."""
    content = read_cascade(path, settings)
    needed = [
        run_folder(stage[key], content["parameters"]) / name
        for stage in content["stages"]
        for key, names in MARKS.items()
        if stage.get(key) not in (None, False, "none")
        for name in names
    ]
    return [one for one in needed if not one.is_file()]


# ------------------------------------------------------------------------------------------------- what can be opened


class Choice(NamedTuple):
    """A finished run, or a cascade whose runs are finished, in a folder of results."""

    dataset: str
    profile: str
    name: str
    is_cascade: bool
    artifacts: Path

    @property
    def label(self) -> str:
        """For a list: ``mesh / quick / patchcore``."""
        return f"{self.dataset} / {self.profile} / {'cascade ' if self.is_cascade else ''}{self.name}"

    @property
    def folder(self) -> Path:
        return self.artifacts / self.dataset / self.profile

    @property
    def places(self) -> dict[str, str]:
        """Parameters that tell a cascade where its runs lie."""
        return {"ARTIFACTS": str(self.artifacts), "DATASET": self.dataset, "PROFILE": self.profile}


def find_choices(artifacts: str | Path) -> tuple[list[Choice], dict[str, list[Path]]]:
    """Finished runs ``<dataset>/<profile>/<run>`` in a folder of results, and the presets that a dataset has all runs
    of, sorted; and of the presets that none has, by name, what is missing where most of it is there. Nothing is loaded.
    """
    root = project_path(artifacts)
    runs = [file.parent for file in sorted(root.glob(f"[!.]*/[!.]*/[!.]*/{RUN_FILE}"))]
    found = [Choice(run.parts[-3], run.parts[-2], run.name, False, root) for run in runs]
    places = sorted({(choice.dataset, choice.profile) for choice in found})
    lacking: dict[str, list[Path]] = {}
    for preset in preset_names():
        cascades = [Choice(*place, preset, True, root) for place in places]
        missing = {one: missing_files(PRESETS_FOLDER / f"{preset}.yml", one.places) for one in cascades}
        found += [cascade for cascade in cascades if not missing[cascade]]
        if missing and all(missing.values()):
            lacking[preset] = min(missing.values(), key=len)
    return sorted(found, key=lambda one: (one.dataset, one.profile, one.is_cascade, one.name)), lacking


def choose(choices: Sequence[Choice], dataset: str = "", profile: str = "", name: str = "") -> Choice:
    """The choice of a name in a dataset and profile; without a name PatchCore's run, else the first."""
    here = [one for one in choices if one.dataset == dataset and one.profile == profile]
    offered = [one for one in here if one.name == name] if name else here or list(choices)
    if not offered:
        known = ", ".join(dict.fromkeys(one.name for one in here)) or "nothing yet"
        raise MissingRunError(
            f"RUN={name!r}: no finished run or complete cascade of that name for {dataset}, profile {profile}; there "
            f"is {known}. Run notebooks 02 to 05 (make run) first."
        )
    return next((one for one in offered if one.name == "patchcore"), offered[0])
