"""What every notebook of the series does first and last: check its parameters, and record that it ran."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from helpers.paths import dataset_folder, project_path, read_yaml, write_json

MAKE_NUMBERS = ("anomalib", "lightning", "numpy", "pillow", "scikit-learn", "segmentation-models-pytorch")
MAKE_NUMBERS += ("timm", "torch", "torchvision")  # packages: with another version it is another run
MAKE_RESULTS = ("nncf", "onnx", "onnxruntime", "opencv-python-headless", "openvino", "scikit-image", "scipy")
"""Packages that notebooks compute with from a finished run on."""


class ParameterError(ValueError):
    """A parameter of a notebook cannot be used; the message names it, its value and what it may be."""


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Refuse a parameter that is not one of the choices."""
    if value not in choices:
        raise ParameterError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}.")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse a parameter that is no number between ``low`` and ``high``, both included."""
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise ParameterError(f"{name}={value!r}: expected {what} from {low} to {high}.")


def split_setting(setting: str) -> tuple[str, str]:
    """Name and text of a ``NAME=VALUE`` of the command line.

    Raises:
        ParameterError: it is none.
    """
    name, equals, text = setting.partition("=")
    if not equals or not name.strip():
        raise ParameterError(f"--set {setting}: expected NAME=VALUE.")
    return name.strip(), text


def read_value(name: str, text: str) -> Any:
    """What a text on the command line says as YAML 1.2, where 5e-2 is a number; an empty one stays text.

    Raises:
        ParameterError: it is no YAML, or a number that is not finite.
    """
    try:
        read_yaml(text, "it")  # OmegaConf writes aliases out, however many there are
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"] if text else ""
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ParameterError(f"{name}={text:.60}: {' '.join(str(error).split())}") from error
    check_finite(name, value)
    return value


def check_finite(name: str, value: object) -> None:
    """Refuse infinity and what is not a number, also in a list."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"{name}={value}: expected a finite number.")
    for each in value if isinstance(value, list) else []:
        check_finite(name, each)


def dataset_name(dataset: str, name: str = "") -> str:
    """Name of a dataset in ``artifacts``: the one given, else that of its folder (or file, without the suffix).

    Raises:
        ParameterError: if there is neither.
    """
    path = project_path(dataset)
    found = name or (path.stem if path.is_file() else path.name)
    if not dataset or not found:
        raise ParameterError(f"DATASET={dataset!r}: give the folder with the photos, or NAME a name for it.")
    return found


def free_cores(seconds: float = 0.5) -> tuple[int, int]:
    """How many of the cores that this process may use nobody uses at present, 1 at least; and how many there are."""
    used = psutil.cpu_percent(seconds, percpu=True)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(used))
    return max(1, round(sum(1 - used[core % len(used)] / 100 for core in cores))), len(cores)


def use_free_cores() -> None:
    """Let torch work with as many threads as cores are free, and say so; ``OMP_NUM_THREADS`` says otherwise.

    Each operation takes as long as its slowest thread: one that shares its core holds up all the others.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return
    import torch

    free, cores = free_cores()
    torch.set_num_threads(min(free, torch.get_num_threads()))
    if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):  # the inspection page is no place for it
        print(f"{free} of {cores} cores {'is' if free == 1 else 'are'} free")


class Session:
    """One notebook at work on one dataset under one profile, with torch on the cores that are free when it starts.

    Args:
        notebook: name of the notebook, ``02_train_patchcore``.
        dataset: the parameter DATASET.
        profile: the parameter PROFILE.
        artifacts: the parameter ARTIFACTS.
        name: the parameter NAME.

    Attributes:
        folder: ``<artifacts>/<dataset>/<profile>``, absolute.
        dataset: the dataset's folder or file, absolute.
        dataset_name: its name in ``artifacts``.

    Raises:
        ParameterError: if DATASET is empty.
    """

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
        path = self.folder / "records" / f"{self.notebook}.json"
        write_json(content, path)
        return path


def machine_table() -> pd.DataFrame:
    """Versions of what results depend on, and the devices that training can use: columns ``what`` and ``found``."""
    import torch

    rows = [("system", platform.platform()), *installed_versions().items()]
    rows += [
        ("CPU cores", str(os.cpu_count())),
        ("free memory", f"{psutil.virtual_memory().available / 2**30:.1f} GiB"),
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "Apple GPU"))
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        rows.append(("GPU", "none: training runs on the CPU"))
    return pd.DataFrame(rows, columns=["what", "found"])


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    return versions | {name: metadata.version(name) for name in (*MAKE_NUMBERS, *MAKE_RESULTS, "pandas")}
