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
from helpers.paths import file_sha256
from helpers.runs import MissingRunError, Run
from helpers.thresholds import Threshold

if TYPE_CHECKING:
    import openvino

FORMATS = ONNX, OPENVINO, INT8 = "onnx", "openvino", "openvino-int8"
FILES = {ONNX: "export/model.onnx", OPENVINO: "export/openvino/model.xml", INT8: "export/openvino_int8/model.xml"}
INPUT = "photos"
FIELDS = {"score": "scores", "map": "maps", "probabilities": "probabilities", "embedding": "embeddings"}
NORMAL_SCORES = "normal_scores"  # entry of a file with a calibration of its own
RT_INFO = "defect_detection"  # OpenVINO's name for our entries
Infer = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # photos (n, H, W, 3) uint8 -> outputs by name (`FIELDS`)


def read_about(file: Path) -> dict[str, str]:
    """The entries of an exported file; empty if it has none."""
    if file.suffix == ".onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load(file, load_external_data=False).metadata_props}
    import openvino

    model = openvino.Core().read_model(file)
    entries = model.get_rt_info([RT_INFO]).value if model.has_rt_info([RT_INFO]) else {}
    return {name: str(value) for name, value in entries.items()}


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


def hashes(file: Path) -> str:
    """What stands beside a file, in ``.sha256``, as ``sha256sum -c`` reads it."""
    return "".join(f"{file_sha256(part)}  {part.name}\n" for part in file_parts(file))


def misfit(file: Path, run: Run) -> str:
    """Why a file is not that of the run as it is now; empty if it is."""
    try:
        whole = file.with_suffix(".sha256").read_text(encoding="utf-8") == hashes(file)
    except (OSError, ValueError):
        whole = False
    if not whole:
        return "is damaged, or its .sha256 is missing"
    about = read_about(file)
    other = [name for name, value in identity(run).items() if about.get(name) != value]
    made = "was made from another checkpoint or other thresholds than the run's, or by another version of the exporter"
    return f"is out of date: it {made} ({', '.join(other)})" if other else ""


class Calibration(NamedTuple):
    """What the scores of a file in 8 bits say instead of the run's: its thresholds, and the scores (n,) of val's good
    photos."""

    thresholds: dict[str, Threshold]
    normal_scores: np.ndarray


class ExportedBackend:
    """Photos of any sizes through an exported file; those of one size go through at once."""

    def __init__(self, infer: Infer, calibration: Calibration | None = None) -> None:
        self.infer, self.calibration = infer, calibration

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        shapes = [photo.shape for photo in photos]
        groups = [[n for n, one in enumerate(shapes) if one == shape] for shape in dict.fromkeys(shapes)]
        parts = [self.infer(np.stack([photos[n] for n in group])) for group in groups]
        order = np.argsort(np.concatenate(groups))
        return Output(**{FIELDS[name]: np.concatenate([part[name] for part in parts])[order] for name in parts[0]})


def open_exported(run: Run, backend: str, device: str = "auto") -> ExportedBackend:
    """An exported run on the CPU, with as many threads as torch would take; in float32, also where the CPU could do it
    faster in 16 bits (``openvino-int8``: most products in 8 bits).

    MissingRunError: it has not been exported. ValueError: the device is not the CPU, or the file is damaged, or of
    another checkpoint, threshold or exporter.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(f"DEVICE={device!r}: backend {backend} runs on the CPU; take DEVICE='cpu', or backend torch.")
    file = run.folder / FILES[backend]
    call = f"run notebook 09_export_and_video, or python -m helpers.inference.export {run.folder} --formats {backend}"
    if not file.is_file():
        raise MissingRunError(f"backend={backend!r}: there is no {file}; {call}")
    if wrong := misfit(file, run):
        raise ValueError(f"backend={backend!r}: {file} {wrong}; {call}")
    if backend == ONNX:
        return ExportedBackend(onnx_infer(file))
    about, calibration = read_about(file), None
    if NORMAL_SCORES in about:
        stored = {name: Threshold.from_dict(fields) for name, fields in json.loads(about["thresholds"]).items()}
        calibration = Calibration(stored, np.array(json.loads(about[NORMAL_SCORES]), np.float32))
    return ExportedBackend(openvino_infer(file), calibration)


def onnx_infer(file: Path) -> Infer:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {INPUT: batch}), strict=True))


def openvino_infer(model: Path | openvino.Model) -> Infer:
    import openvino
    import torch

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    options["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    compiled = openvino.Core().compile_model(model, "CPU", options)
    # an output may have further names, of what it was before the conversion
    names = [next(name for name in FIELDS if name in output.get_names()) for output in compiled.outputs]
    # copied, as the next call writes into the same memory
    return lambda batch: dict(zip(names, map(np.array, compiled(batch).values()), strict=True))
