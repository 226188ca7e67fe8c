"""What every notebook does first and last: read and check its parameters, and record that it ran."""

from __future__ import annotations

import difflib
import math
import os
import platform
import re
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from helpers.paths import LOCAL_PREFIX, absolute_backbone, dataset_folder, project_path, read_yaml, write_json

# Packages: with another version of the first it is another run; notebooks compute from finished runs with the second.
MAKE_NUMBERS = ("anomalib", "lightning", "numpy", "pillow", "scikit-learn", "segmentation-models-pytorch")
MAKE_NUMBERS += ("timm", "torch", "torchvision")
MAKE_RESULTS = ("nncf", "onnx", "onnxruntime", "opencv-python-headless", "openvino", "scikit-image", "scipy")

TYPES = {"bool": bool, "float": (float, int), "int": int, "list": list, "str": str}


class ParameterError(ValueError):
    """A parameter cannot be used; the message names it, its value and what it may be."""


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    if value not in choices:
        raise ParameterError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}.")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse what is no number from ``low`` to ``high``, both included."""
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise ParameterError(f"{name}={value!r}: expected {what} from {low} to {high}.")


def check_finite(name: str, value: object) -> None:
    """Refuse infinity and what is not a number, also in a list."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{name}={value}: expected a finite number.")
    for each in value if isinstance(value, list) else []:
        check_finite(name, each)


def check_known(name: str, known: Iterable[str], where: str) -> None:
    """Refuse a name that is not known; the message says which one may be meant, or all where none is near."""
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        raise ParameterError(f"{where}: there is no parameter {name}. {hint}")


def split_setting(setting: str) -> tuple[str, str]:
    """Name and text of a ``NAME=VALUE`` of the command line."""
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ParameterError(f"--set {setting}: expected NAME=VALUE.")
    return name.strip(), text


def read_value(name: str, text: str) -> Any:
    """What a text on the command line says as YAML 1.2, where 5e-2 is a number; an empty one stays text."""
    try:
        read_yaml(text, "it")  # OmegaConf writes aliases out, however many there are
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"] if text else ""
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ParameterError(f"{name}={text:.60}: {' '.join(str(error).split())}") from error
    check_finite(name, value)
    return value


def declared_parameters(notebook: Path) -> dict[str, str]:
    """Names and declared types of a notebook's parameters, as papermill reads them from its tagged cell."""
    import papermill

    return {name: found["inferred_type_name"] for name, found in papermill.inspect_notebook(str(notebook)).items()}


def collect_parameters(
    folder: Path, profile: str, settings: Sequence[str], given: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Parameters of every notebook in a folder, by its name.

    Later ones win: the section ``all`` of ``params/<profile>.yml``, what is given, the environment's BACKBONE, the
    notebook's own section, and the settings (``NAME=VALUE`` for all that have it, ``02.NAME=VALUE`` for one).
    ParameterError for a profile, section or name that is not known, or a value of another type than declared.
    """
    sections = _read_profile(folder / "params", profile)
    declared = {file.stem: declared_parameters(file) for file in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    for section, values in sections.items():
        where = f"{profile}.yml, section {section}"
        if section != "all" and section not in declared:
            raise ParameterError(f"{where}: there is no such notebook; known: all, {', '.join(declared)}.")
        for name in values:
            check_known(name, set().union(*declared.values()) if section == "all" else declared[section], where)
    backbone = os.environ.get("BACKBONE", "").strip()
    shared = sections.get("all", {}) | {key: str(value) for key, value in given.items()}
    shared |= {"BACKBONE": absolute_backbone(backbone)} if backbone else {}
    result = {
        stem: {key: value for key, value in shared.items() if key in types} | sections.get(stem, {})
        for stem, types in declared.items()
    }
    for setting in settings:
        _apply(setting, declared, result)
    for stem, values in result.items():
        for name, value in values.items():
            _check_type(f"{stem}: {name}", value, declared[stem][name])
    return result


def _read_profile(folder: Path, profile: str) -> dict[str, dict[str, Any]]:
    file = folder / f"{profile}.yml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yml")))
        raise ParameterError(f"PROFILE={profile!r}: there is no {file}. Known profiles: {known}.")
    try:
        sections = OmegaConf.to_container(OmegaConf.load(file))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ParameterError(f"{file} is no YAML: {error}") from error
    return {name: values or {} for name, values in sections.items()}


def _apply(setting: str, declared: dict[str, dict[str, str]], result: dict[str, dict[str, Any]]) -> None:
    key, text = split_setting(setting)
    match = re.fullmatch(r"(?:(\d\d)\.)?([A-Za-z_]\w*)", key)
    if match is None:
        raise ParameterError(f"--set {setting}: expected NAME=VALUE, or 02.NAME=VALUE for one notebook.")
    number, name = match.groups()
    targets = [stem for stem in declared if number in (None, stem[:2])]
    check_known(name, set().union(*(declared[stem] for stem in targets)), f"--set {setting}")
    for stem in targets:
        if name in declared[stem]:
            value = text if declared[stem][name] in ("str", "'str'") else read_value(key, text)
            result[stem][name] = absolute_backbone(value) if name == "BACKBONE" else value


def _check_type(name: str, value: Any, declared: str) -> None:
    expected = TYPES.get(declared.split("[")[0], object)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected not in (bool, object)):
        raise ParameterError(f"{name}={value!r} must be of type {declared}.")
    check_finite(name, value)


def named_paths(parameters: dict[str, Any]) -> list[Path]:
    """Files and folders that parameters name: frames, annotations, limits, weights, textures, a clip."""
    values = [value for name, value in parameters.items() if name not in ("DATASET", "ARTIFACTS")]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    paths = [project_path(text.removeprefix(LOCAL_PREFIX)) for text in texts if isinstance(text, str) and text]
    return [path for path in paths if os.path.exists(path)]  # noqa: PTH110  (also a text of any length)


def dataset_name(dataset: str, name: str = "") -> str:
    """Name of a dataset in ``artifacts``: the one given, else that of its folder or file."""
    path = project_path(dataset)
    found = name or (path.stem if path.is_file() else path.name)
    if not dataset or not found:
        raise ParameterError(f"DATASET={dataset!r}: give the folder with the photos, or NAME a name for it.")
    return found


def use_free_cores() -> None:
    """Let torch work with as many threads as cores are free, and say so; ``OMP_NUM_THREADS`` says otherwise.

    Each operation takes as long as its slowest thread: one that shares its core holds up all the others.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return
    import torch

    used = psutil.cpu_percent(0.5, percpu=True)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(used))
    free = max(1, round(sum(1 - used[core % len(used)] / 100 for core in cores)))
    torch.set_num_threads(min(free, torch.get_num_threads()))
    if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):  # the inspection page is no place for it
        print(f"{free} of {len(cores)} cores {'is' if free == 1 else 'are'} free")


class Session:
    """One notebook at work on one dataset: absolute ``dataset``, its ``dataset_name``, and its artifacts ``folder``."""

    def __init__(self, notebook: str, dataset: str, profile: str, artifacts: str = "artifacts", name: str = "") -> None:
        self.notebook = notebook
        self.dataset = project_path(dataset)
        self.dataset_name = dataset_name(dataset, name)
        self.folder: Path = dataset_folder(artifacts, self.dataset_name, profile)
        self._started = time.monotonic()
        use_free_cores()

    def record(self, parameters: dict[str, Any], results: dict[str, Any]) -> Path:
        """Write what ran, with which parameters and what came out, to ``records/<notebook>.json`` in the folder."""
        content = {
            "notebook": self.notebook,
            "dataset": str(self.dataset),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._started, 1),
            "parameters": parameters,
            "results": results,
        }
        file = self.folder / "records" / f"{self.notebook}.json"
        write_json(content, file)
        return file


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    return versions | {name: metadata.version(name) for name in (*MAKE_NUMBERS, *MAKE_RESULTS, "pandas")}


def machine_table() -> pd.DataFrame:
    """Versions of what results depend on, and the devices that training can use: columns ``what`` and ``found``."""
    import torch

    rows = {"system": platform.platform(), **installed_versions(), "CPU cores": str(os.cpu_count())}
    rows["free memory"] = f"{psutil.virtual_memory().available / 2**30:.1f} GiB"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        rows["mps"] = "Apple GPU"
    elif not torch.cuda.is_available():
        rows["GPU"] = "none: training runs on the CPU"
    return pd.DataFrame(rows.items(), columns=["what", "found"])
