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
RUN_KEYS = {"run", "name", "rule", "then", "otherwise", "pixel_threshold", "object_mask", "morphology", "unknown"} | {
    *("unknown_by", "ignore_no_defect")
}
CUTTER_KEYS = {"foreground", "name", "otherwise", "window", "background", "shrink", "separate"}
FIRST = "patchcore"  # the run that is offered first where nothing else is asked for
MARKS = {"run": (RUN_FILE,), "foreground": ("foreground.json",), "unknown": ("open_set.npz", "thresholds.json")}
"""Key of a stage -> the files that are in the folder it names once that is finished."""


class CascadeError(ValueError):
    """A cascade, or the folder its results are to go to, that cannot be used; the message says why and what to do."""


def find_cascade(path: str | Path) -> Path:
    """The YAML file of a cascade: a path, or the name of a preset.

    Raises:
        CascadeError: there is none; the message lists the presets.
    """
    for file in (Path(path).expanduser(), project_path(path), PRESETS_FOLDER / f"{path}.yml"):
        if file.is_file():
            return file
    known = ", ".join(sorted(file.stem for file in PRESETS_FOLDER.glob("*.yml")))
    raise CascadeError(f"There is no cascade {path}; give a YAML file or a preset: {known}.")


def missing_files(path: str | Path, settings: Mapping[str, Any] | None = None) -> list[Path]:
    """What a cascade needs of its runs and is not there; nothing is loaded. Empty where it can be opened.

    Args:
        path: YAML file, or the name of a preset.
        settings: see :meth:`helpers.inference.cascade.Cascade.from_yaml`.

    Raises:
        CascadeError: the file is missing or says something that is not known; the message names it.
        ValueError: nobody knows where a run lies.
    """
    file = find_cascade(path)
    content = read_cascade(file)
    parameters = cascade_parameters(content, settings or {}, file)
    needed = []
    for number, written in enumerate(content["stages"], start=1):
        check_stage(written, f"{file.name}, stage {number}")
        for key, names in MARKS.items():
            place = resolve(written.get(key), parameters)
            if place not in (None, False, "none"):
                needed += [run_folder(place, parameters) / name for name in names]
    return [one for one in needed if not one.is_file()]


def read_cascade(file: Path) -> dict[str, Any]:
    """What a cascade's file says, with at least one stage.

    Raises:
        CascadeError: it is no YAML, or has other keys than :data:`KEYS`.
    """
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise CascadeError(str(error)) from error
    if not isinstance(content, dict):
        raise CascadeError(f"{file}: expected keys ({', '.join(KEYS)}), got {type(content).__name__}.")
    check_keys(content, KEYS, file.name)
    if not isinstance(content.get("stages"), list) or not content["stages"]:
        raise CascadeError(f"{file.name}: 'stages' must be a list of at least one stage.")
    return content


def cascade_parameters(content: Mapping[str, Any], settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Parameters of a cascade by name: those of every cascade, those it declares, and over both the settings.

    Raises:
        CascadeError: a setting is no parameter, or of another kind than the file's.
    """
    declared = content.get("parameters") or {}
    if not isinstance(declared, dict):
        raise CascadeError(f"{file.name}: 'parameters' must be names with their values.")
    parameters = PLACES | declared
    for name, value in settings.items():
        if name not in parameters:
            raise CascadeError(f"{name} is no parameter of {file.name}. Known: {', '.join(parameters)}.")
        if name in PLACES:
            value = str(value)  # a folder may be called 2024
        elif isinstance(parameters[name], bool) != isinstance(value, bool):
            raise CascadeError(f"{name}={value!r}: {file.name} has {parameters[name]!r} there; give the same kind.")
        parameters[name] = value
    parameters["DATASET"] = Path(str(parameters["DATASET"])).name  # a folder of photos stands for its name
    return parameters


def check_keys(content: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse keys that are not known; ``where`` is for the message.

    Raises:
        CascadeError: naming them.
    """
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise CascadeError(f"{where}: unknown key {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")


def check_stage(written: Any, where: str) -> None:
    """Refuse what is no stage; ``where`` is for the message.

    Raises:
        CascadeError: saying what is expected.
    """
    if not isinstance(written, dict) or ("run" in written) == ("foreground" in written):
        raise CascadeError(f"{where}: a stage is either 'run: NAME' or 'foreground: NAME', with its options.")
    check_keys(written, RUN_KEYS if "run" in written else CUTTER_KEYS, where)
    for key in ("morphology", "separate"):
        if key in written and not isinstance(written[key], dict):
            raise CascadeError(f"{where}: '{key}' must be names with their values.")


def check_values(keys: Mapping[str, Any], where: str) -> None:
    """Refuse values of a stage, parameters replaced, that are of another kind; ``where`` is for the message.

    Raises:
        CascadeError: naming the key.
    """
    text = ("name", "rule", "then", "otherwise", "object_mask", "unknown_by", "background")
    for name in text:
        if name in keys and not isinstance(keys[name], str):
            raise CascadeError(f"{where}: '{name}' must be text, got {keys[name]!r:.60}; put it in quotes.")
    for name in ("window", "shrink"):
        if name in keys and type(keys[name]) is not int:
            raise CascadeError(f"{where}: '{name}' must be a whole number, got {keys[name]!r:.60}.")
    if "pixel_threshold" in keys and type(keys["pixel_threshold"]) not in (int, float, str):
        raise CascadeError(
            f"{where}: 'pixel_threshold' must be a number or a name, got {keys['pixel_threshold']!r:.60}."
        )
    for name in ("morphology", "separate"):
        for option, value in (keys.get(name) or {}).items():
            if not isinstance(option, str) or type(value) not in (int, float, str):
                raise CascadeError(f"{where}: '{name}' must be names with numbers, got {option!r}: {value!r:.60}.")


def resolve(value: Any, parameters: Mapping[str, Any]) -> Any:
    """A value with names of parameters replaced by what they stand for."""
    if isinstance(value, dict):
        return {key: resolve(one, parameters) for key, one in value.items()}
    if isinstance(value, list):
        return [resolve(one, parameters) for one in value]
    return parameters[value] if isinstance(value, str) and value in parameters else value


def run_folder(run: Any, parameters: Mapping[str, Any]) -> Path:
    """Folder of a run: a name in the dataset's artifacts, or a path.

    Raises:
        ValueError: it is neither, or the parameters do not name a dataset.
    """
    if not isinstance(run, str) or not run:
        raise ValueError(f"a run is the name of its folder, or a path; got {run!r}.")
    if any(mark in run for mark in "/\\"):
        return project_path(run)
    if not parameters["DATASET"]:
        raise ValueError(f"DATASET is empty, so nobody knows where {run} lies; give --set DATASET=NAME.")
    return dataset_folder(parameters["ARTIFACTS"], parameters["DATASET"], str(parameters["PROFILE"])) / run


# ------------------------------------------------------------------------------------------------- what can be opened


@dataclass(frozen=True)
class Choice:
    """A finished run, or a cascade whose runs are finished.

    Attributes:
        dataset: name of the dataset.
        profile: name of the profile.
        name: of the run or the cascade.
        is_cascade: whether it is a cascade.
        artifacts: folder of results.
    """

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
        """The dataset's artifacts folder."""
        return self.artifacts / self.dataset / self.profile

    @property
    def missing(self) -> list[Path]:
        """What a cascade needs and is not there."""
        return missing_files(PRESETS_FOLDER / f"{self.name}.yml", self.places) if self.is_cascade else []

    @property
    def places(self) -> dict[str, str]:
        """Parameters that tell a cascade where its runs lie."""
        return {"ARTIFACTS": str(self.artifacts), "DATASET": self.dataset, "PROFILE": self.profile}


def find_choices(artifacts: str | Path) -> tuple[list[Choice], dict[str, list[Path]]]:
    """All that photos can be inspected with, without loading anything.

    Args:
        artifacts: folder of results (relative: to the project).

    Returns:
        Finished runs ``<dataset>/<profile>/<run>``, and the presets of ``notebooks/params/cascades`` that a dataset has
        all runs of, sorted; and of the presets that none has, by name, what is missing where most of it is there.
    """
    root = project_path(artifacts)
    runs = [file.parent for file in sorted(root.glob(f"[!.]*/[!.]*/[!.]*/{RUN_FILE}"))]
    found = [Choice(run.parts[-3], run.parts[-2], run.name, False, root) for run in runs]
    places = sorted({(choice.dataset, choice.profile) for choice in found})
    lacking: dict[str, list[Path]] = {}
    for preset in sorted(file.stem for file in PRESETS_FOLDER.glob("*.yml")):
        cascades = [Choice(*place, preset, True, root) for place in places]
        complete = [cascade for cascade in cascades if not cascade.missing]
        found += complete
        if cascades and not complete:
            lacking[preset] = min((cascade.missing for cascade in cascades), key=len)
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
        return next((one for one in offered if one.name == FIRST), offered[0])
    named = [one for one in here if one.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(one.name for one in here)) or "nothing yet"
        raise MissingRunError(
            f"RUN={name!r}: no finished run or complete cascade of that name for {dataset}, profile {profile}; there "
            f"is {known}. Run notebooks 02 to 05 (make run) first."
        )
    return named[0]
