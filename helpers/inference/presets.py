"""Cascades as they are written down, a YAML file with its parameters, and what of them and of runs can be opened.

What the keys mean is said in :mod:`helpers.inference.cascade`, which opens them. Nothing heavy is imported here, so
that a page can list what there is before a network is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.paths import PROJECT_ROOT, dataset_folder, project_path, read_yaml
from helpers.runs import RUN_FILE, MissingRunError

PRESETS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "cascades"
PLACES = {"ARTIFACTS": "artifacts", "DATASET": "", "PROFILE": "quick"}  # parameters that every cascade has
KEYS = ("name", "about", "parameters", "stages")
# Key of a stage -> kinds of its values
TEXT, NUMBER, WHOLE, NAMES = (str,), (int, float, str), (int,), (dict,)
RUN_KEYS = dict.fromkeys(("run", "name", "rule", "then", "otherwise", "object_mask", "unknown_by"), TEXT)
RUN_KEYS |= {"pixel_threshold": NUMBER, "morphology": NAMES, "unknown": (str, bool, type(None))}
RUN_KEYS |= {"ignore_no_defect": (bool,)}
CUTTER_KEYS = dict.fromkeys(("foreground", "name", "otherwise", "background"), TEXT)
CUTTER_KEYS |= {"window": WHOLE, "shrink": WHOLE, "separate": NAMES}
KINDS = {TEXT: "text, in quotes", NUMBER: "a number or a name", WHOLE: "a whole number", NAMES: "names with numbers"}
# Key of a stage -> the files that are in the folder it names once that is finished
MARKS = {"run": (RUN_FILE,), "foreground": ("foreground.json",), "unknown": ("open_set.npz", "thresholds.json")}


class CascadeError(ValueError):
    """A cascade, or the folder its results are to go to, that cannot be used; the message says why and what to do."""


def preset_names() -> list[str]:
    return sorted(file.stem for file in PRESETS_FOLDER.glob("*.yml"))


def read_cascade(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The YAML file of a cascade (a path, or the name of a preset) and what it says.

    Raises:
        CascadeError: there is none, it is no YAML, has no stage, or other keys than it may have.
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
        raise CascadeError(f"{file}: expected keys ({', '.join(KEYS)}), got {type(content).__name__}.")
    check_keys(content, KEYS, file.name)
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages:
        raise CascadeError(f"{file.name}: 'stages' must be a list of at least one stage.")
    for number, stage in enumerate(stages, start=1):
        where = f"{file.name}, stage {number}"
        if not isinstance(stage, dict) or ("run" in stage) == ("foreground" in stage):
            raise CascadeError(f"{where}: a stage is either 'run: NAME' or 'foreground: NAME', with its options.")
        check_keys(stage, RUN_KEYS if "run" in stage else CUTTER_KEYS, where)
    return file, content


def check_keys(content: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse keys that are not known; ``where`` is for the message."""
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise CascadeError(f"{where}: unknown key {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")


def cascade_parameters(content: Mapping[str, Any], settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Parameters of a cascade by name: those of every cascade, those it declares, and over both the settings."""
    declared = content.get("parameters") or {}
    if not isinstance(declared, dict):
        raise CascadeError(f"{file.name}: 'parameters' must be names with their values.")
    parameters = PLACES | declared
    for name, value in settings.items():
        if name not in parameters:
            raise CascadeError(f"{name} is no parameter of {file.name}. Known: {', '.join(parameters)}.")
        if name not in PLACES and isinstance(parameters[name], bool) != isinstance(value, bool):
            raise CascadeError(f"{name}={value!r}: {file.name} has {parameters[name]!r} there; give the same kind.")
        parameters[name] = str(value) if name in PLACES else value  # a folder may be called 2024
    parameters["DATASET"] = Path(str(parameters["DATASET"])).name  # a folder of photos stands for its name
    return parameters


def stage_options(stage: Mapping[str, Any], parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A stage's options with names of parameters replaced by what they stand for, but in its rule."""
    options = {key: value if key == "rule" else _resolve(value, parameters) for key, value in stage.items()}
    for key, value in options.items():
        kinds = (RUN_KEYS if "run" in stage else CUTTER_KEYS)[key]
        inner = value.items() if kinds == NAMES and isinstance(value, dict) else ()
        if type(value) not in kinds or any(type(n) is not str or type(v) not in NUMBER for n, v in inner):
            expected = KINDS.get(kinds, "a name" if str in kinds else "true or false")
            raise CascadeError(f"{where}: '{key}' must be {expected}; got {value!r:.60}.")
    return options


def _resolve(value: Any, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _resolve(one, parameters) for key, one in value.items()}
    return parameters[value] if isinstance(value, str) and value in parameters else value


def run_folder(run: str, parameters: Mapping[str, Any]) -> Path:
    """Folder of a run: a name in the dataset's artifacts, or a path; ValueError: nobody knows where it lies."""
    if any(mark in run for mark in "/\\"):
        return project_path(run)
    if not run or not parameters["DATASET"]:
        raise ValueError(f"nobody knows where the run {run!r} lies; DATASET is empty: give --set DATASET=NAME.")
    return dataset_folder(parameters["ARTIFACTS"], parameters["DATASET"], str(parameters["PROFILE"])) / run


def missing_files(path: str | Path, settings: Mapping[str, Any] | None = None) -> list[Path]:
    """What a cascade needs of its runs and is not there; nothing is loaded. Empty where it can be opened."""
    file, content = read_cascade(path)
    parameters, needed = cascade_parameters(content, settings or {}, file), []
    for number, stage in enumerate(content["stages"], start=1):
        options = stage_options(stage, parameters, f"{file.name}, stage {number}")
        for key, names in MARKS.items():
            if options.get(key) not in (None, False, "none"):
                needed += [run_folder(options[key], parameters) / name for name in names]
    return [one for one in needed if not one.is_file()]


# ------------------------------------------------------------------------------------------------- what can be opened


@dataclass(frozen=True)
class Choice:
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
    """The choice of a name in a dataset and profile; without a name PatchCore's run, else the first.

    Raises:
        MissingRunError: there is none; the message says which command makes one.
    """
    if not choices:
        raise MissingRunError(
            "There is no finished run yet. Run notebook 02_train_patchcore (or another of 02 to 05) first, or all "
            "of them with: make run"
        )
    here = [one for one in choices if one.dataset == dataset and one.profile == profile]
    if not name:
        offered = here or list(choices)
        return next((one for one in offered if one.name == "patchcore"), offered[0])
    for one in here:
        if one.name == name:
            return one
    known = ", ".join(dict.fromkeys(one.name for one in here)) or "nothing yet"
    raise MissingRunError(
        f"RUN={name!r}: no finished run or complete cascade of that name for {dataset}, profile {profile}; there "
        f"is {known}. Run notebooks 02 to 05 (make run) first."
    )
