"""Exported runs: what a file says of itself, and ONNX Runtime and OpenVINO as backends of the Predictor.

A file says which run it was made from, and by which exporter; one that does not fit the run as it is now is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from helpers.inference.backends import CHECKPOINT, Output
from helpers.models.recipes import RECIPES
from helpers.paths import file_sha256, write_whole
from helpers.runs import MissingRunError, Run
from helpers.thresholds import Threshold

if TYPE_CHECKING:
    import openvino

ONNX, OPENVINO, INT8, BF16 = "onnx", "openvino", "openvino-int8", "openvino-bf16"
FORMATS = (ONNX, OPENVINO, INT8)
FILES = {
    ONNX: "export/model.onnx",
    OPENVINO: "export/openvino/model.xml",
    INT8: "export/openvino_int8/model.xml",
    BF16: "export/openvino/model.xml",  # the same file: it is the CPU that computes in 16 bits
}
BACKEND_NAMES = tuple(FILES)
INPUT = "photos"
FIELDS = {"score": "scores", "map": "maps", "probabilities": "probabilities", "embedding": "embeddings"}
NORMAL_SCORES = "normal_scores"  # entry of a file with a calibration of its own
RT_INFO = "defect_detection"  # OpenVINO's name for our entries
MAKE = "run notebook 09_export_and_video, or python -m helpers.inference.export"

Infer = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Photos (n, H, W, 3) uint8 -> outputs by name, see `FIELDS`."""


# ------------------------------------------------------------------------------------------- what a file says of itself


def read_about(file: Path) -> dict[str, str]:
    """The entries of an exported file; empty if it has none."""
    if file.suffix == ".onnx":
        import onnx

        model = onnx.load(file, load_external_data=False)
        return {entry.key: entry.value for entry in model.metadata_props}
    import openvino

    model = openvino.Core().read_model(file)
    if not model.has_rt_info([RT_INFO]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info([RT_INFO]).value.items()}


def stored_thresholds(about: Mapping[str, str]) -> dict[str, Threshold]:
    """Thresholds among a file's entries, by name."""
    return {name: Threshold.from_dict(fields) for name, fields in json.loads(about.get("thresholds", "{}")).items()}


def identity(run: Run) -> dict[str, str]:
    """The entries by which a file fits its run."""
    return {
        "run_fingerprint": run.info["fingerprint"],
        "checkpoint_sha256": run.info.get("files", {}).get(CHECKPOINT) or file_sha256(run.folder / CHECKPOINT),
        "exporter_recipe": str(RECIPES["export"]),
        "run_thresholds": json.dumps({name: threshold.to_dict() for name, threshold in run.thresholds.items()}),
    }


def file_parts(file: Path) -> list[Path]:
    """The file, and OpenVINO's weights that belong to it."""
    return [file] if file.suffix == ".onnx" else [file, file.with_suffix(".bin")]


def _hashes(file: Path) -> Path:
    return file.with_suffix(".sha256")


def write_hashes(file: Path) -> None:
    """Write the hashes of a file and its weights beside it, as ``sha256sum -c`` reads them."""
    text = "".join(f"{file_sha256(part)}  {part.name}\n" for part in file_parts(file))
    write_whole(_hashes(file), lambda place: place.write_text(text, encoding="utf-8"))


def is_whole(file: Path) -> bool:
    """Whether a file and its weights are those that were written."""
    try:
        lines = _hashes(file).read_text(encoding="utf-8").splitlines()
        return lines == [f"{file_sha256(part)}  {part.name}" for part in file_parts(file)]
    except (OSError, ValueError):
        return False


def outdated(file: Path, run: Run) -> list[str]:
    """Names of the entries in which a file does not fit its run."""
    about = read_about(file)
    return [name for name, value in identity(run).items() if about.get(name) != value]


def exported_file(run: Run, backend: str) -> Path:
    """The run's file for a backend.

    Raises:
        MissingRunError: it has not been made; the message says how.
        ValueError: it is damaged, or was made from another checkpoint, from other thresholds, or by another exporter.
    """
    file = run.folder / FILES[backend]
    call = f"{MAKE} {run.folder} --formats {OPENVINO if backend == BF16 else backend}"
    if not file.is_file():
        raise MissingRunError(f"backend={backend!r}: there is no {file}; {call}")
    if not is_whole(file):
        raise ValueError(f"backend={backend!r}: {file} is damaged, or {_hashes(file).name} is missing; {call}")
    other = outdated(file, run)
    if other:
        raise ValueError(
            f"backend={backend!r}: {file} is out of date: it was made from another checkpoint or other thresholds than "
            f"those of {run.folder}, or by another version of the exporter ({', '.join(other)}); {call}"
        )
    return file


# ------------------------------------------------------------------------------------------------------------- backends


class Calibration(NamedTuple):
    """What the scores of a file in 8 bits say instead of the run's: its thresholds, and the scores (n,) of val's good
    photos."""

    thresholds: dict[str, Threshold]
    normal_scores: np.ndarray


class ExportedBackend:
    """Photos of any sizes through an exported file; those of one size go through at once."""

    def __init__(self, infer: Infer, calibration: Calibration | None = None) -> None:
        self.infer = infer
        self.calibration = calibration

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        shapes = [photo.shape for photo in photos]
        groups = [[n for n, one in enumerate(shapes) if one == shape] for shape in dict.fromkeys(shapes)]
        parts = [self.infer(np.stack([photos[n] for n in group])) for group in groups]
        order = np.argsort(np.concatenate(groups))
        return Output(**{FIELDS[name]: np.concatenate([part[name] for part in parts])[order] for name in parts[0]})


def open_exported(run: Run, backend: str, device: str = "auto") -> ExportedBackend:
    """An exported run on the CPU, with as many threads as torch would take.

    ``openvino`` computes in float32, also where the CPU could do it faster in 16 bits; ``openvino-bf16`` in 16 bits
    (bfloat16); ``openvino-int8`` most products in 8 bits, the rest in float32.

    Raises:
        MissingRunError: it has not been exported.
        ValueError: the file is damaged or out of date, the device is not the CPU, or the CPU has no bfloat16.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(f"DEVICE={device!r}: backend {backend} runs on the CPU; take DEVICE='cpu', or backend torch.")
    file = exported_file(run, backend)
    if backend == BF16 and not has_bf16():
        raise ValueError(f"backend={BF16!r}: this CPU has no bfloat16; take backend={OPENVINO!r} or {INT8!r}.")
    if backend == ONNX:
        return ExportedBackend(onnx_infer(file))
    about, calibration = read_about(file), None
    if NORMAL_SCORES in about:
        calibration = Calibration(stored_thresholds(about), np.array(json.loads(about[NORMAL_SCORES]), np.float32))
    return ExportedBackend(openvino_infer(file, bf16=backend == BF16), calibration)


def onnx_infer(file: Path) -> Infer:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {INPUT: batch}), strict=True))


def openvino_infer(file: Path | openvino.Model, *, bf16: bool = False) -> Infer:
    """An OpenVINO file, or model, in OpenVINO."""
    import openvino
    import torch

    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(file, "CPU", options)
    # an output may have further names, of what it was before the conversion
    names = [next(name for name in FIELDS if name in output.get_names()) for output in compiled.outputs]
    # copied, as the next call writes into the same memory
    return lambda batch: dict(zip(names, map(np.array, compiled(batch).values()), strict=True))


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
