"""Exported runs at work: ONNX Runtime and OpenVINO as backends of the Predictor.

A file says which run it was made from, and by which exporter (:func:`helpers.inference.export.about`); one that does
not fit the run as it is now is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.models.recipes import RECIPES
from helpers.paths import file_sha256, write_whole
from helpers.runs import MissingRunError, Run
from helpers.thresholds import Threshold

if TYPE_CHECKING:
    import openvino

    from helpers.inference.predictor import Output

ONNX, OPENVINO, INT8, BF16 = "onnx", "openvino", "openvino-int8", "openvino-bf16"
FORMATS = (ONNX, OPENVINO, INT8)
FILES = {
    ONNX: "export/model.onnx",
    OPENVINO: "export/openvino/model.xml",
    INT8: "export/openvino_int8/model.xml",
    BF16: "export/openvino/model.xml",  # the same file: it is the CPU that computes in 16 bits
}
BACKEND_NAMES = tuple(FILES)
HASHES = ".sha256"  # suffix of the file with an exported file's hash
OUTPUT_NAMES = ("score", "map", "probabilities", "embedding")
NORMAL_SCORES = "normal_scores"  # entry of a file with a calibration of its own
RT_INFO = "defect_detection"  # OpenVINO's name for our entries
MAKE = "run notebook 09_export_and_video, or python -m helpers.inference.export"


def read_about(file: Path) -> dict[str, str]:
    """What an exported file says of itself, see :func:`helpers.inference.export.about`; empty if it says nothing."""
    if file.suffix == ".onnx":
        import onnx

        model = onnx.load(file, load_external_data=False)
        return {entry.key: entry.value for entry in model.metadata_props}
    import openvino

    model = openvino.Core().read_model(file)
    if not model.has_rt_info([RT_INFO]):
        return {}
    return {name: str(value) for name, value in model.get_rt_info([RT_INFO]).value.items()}


def describe(model: openvino.Model, entries: Mapping[str, str]) -> None:
    """Write what a file is to say of itself into an OpenVINO model."""
    for name, value in entries.items():
        model.set_rt_info(value, [RT_INFO, name])


def write_hashes(file: Path) -> None:
    """Write the hash of an exported file, and of its weights, beside it, as ``sha256sum -c`` reads them."""
    parts = [part for part in (file, file.with_suffix(".bin")) if part.is_file()]
    text = "".join(f"{file_sha256(part)}  {part.name}\n" for part in parts)
    write_whole(file.with_suffix(HASHES), lambda place: place.write_text(text, encoding="utf-8"))


def is_whole(file: Path) -> bool:
    """Whether an exported file, and its weights, are those that were written."""
    try:
        lines = file.with_suffix(HASHES).read_text(encoding="utf-8").splitlines()
        known = dict(reversed(line.split("  ", 1)) for line in lines)
    except (OSError, ValueError):
        return False
    needed = {file.name} if file.suffix == ".onnx" else {file.name, file.with_suffix(".bin").name}
    return {*known} == needed and all(
        (file.parent / name).is_file() and file_sha256(file.parent / name) == known[name] for name in needed
    )


def is_current(file: Path, entries: Mapping[str, str]) -> bool:
    """Whether a file is there, whole, and says all of this of itself."""
    if not file.is_file() or not is_whole(file):
        return False
    try:
        found = read_about(file)
    except Exception:  # a damaged file raises what its library likes
        return False
    return all(found.get(name) == value for name, value in entries.items())


def identity(run: Run) -> dict[str, str]:
    """What a file must say of itself to be up to date."""
    from helpers.inference.predictor import CHECKPOINT

    return {
        "run_fingerprint": run.info["fingerprint"],
        "checkpoint_sha256": run.info.get("files", {}).get(CHECKPOINT) or file_sha256(run.folder / CHECKPOINT),
        "exporter_recipe": str(RECIPES["export"]),
        "run_thresholds": json.dumps({name: threshold.to_dict() for name, threshold in run.thresholds.items()}),
    }


def exported_file(run: Run, backend: str) -> Path:
    """The run's file for a backend.

    Raises:
        MissingRunError: it has not been made; the message says how.
        ValueError: it is damaged, or was made from another checkpoint, from other thresholds, or by another exporter.
    """
    file = run.folder / FILES[backend]
    formats = OPENVINO if backend == BF16 else backend
    call = f"{MAKE} {run.folder} --formats {formats}"
    if not file.is_file():
        raise MissingRunError(f"backend={backend!r}: there is no {file}; {call}")
    if not is_whole(file):
        raise ValueError(
            f"backend={backend!r}: {file} is damaged, or its hash ({file.with_suffix(HASHES).name}) is missing; {call}"
        )
    said = read_about(file)
    other = [name for name, value in identity(run).items() if said.get(name) != value]
    if other:
        raise ValueError(
            f"backend={backend!r}: {file} is out of date: it was made from another checkpoint or other thresholds than "
            f"those of {run.folder}, or by another version of the exporter ({', '.join(other)}); {call}"
        )
    return file


def by_shape(photos: Sequence[np.ndarray]) -> list[tuple[list[int], np.ndarray]]:
    """Photos of one size together: their indices, and (n, H, W, 3)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(photo.shape, []).append(index)
    return [(indices, np.stack([photos[index] for index in indices])) for indices in groups.values()]


Infer = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Calibration:
    """What a file's own scores say, where they are not the run's.

    Attributes:
        thresholds: by name.
        normal_scores: (n,) float32, of the good photos of val.
    """

    thresholds: dict[str, Threshold]
    normal_scores: np.ndarray

    @classmethod
    def of_file(cls, file: Path) -> Calibration | None:
        """The one that a file carries, or None: its scores are the run's."""
        said = read_about(file)
        if NORMAL_SCORES not in said:
            return None
        return cls(stored_thresholds(file), np.array(json.loads(said[NORMAL_SCORES]), dtype=np.float32))


class ExportedBackend:
    """Photos of any sizes through an exported file.

    Args:
        infer: (n, H, W, 3) uint8 -> outputs by name.
        calibration: of the file, see :class:`Calibration`.
    """

    def __init__(self, infer: Infer, calibration: Calibration | None = None) -> None:
        self.infer = infer
        self.calibration = calibration

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Score photos; those of one size go through at once."""
        from helpers.inference.predictor import Output

        parts = [(indices, self.infer(batch)) for indices, batch in by_shape(photos)]
        order = np.argsort(np.concatenate([indices for indices, _ in parts]))
        joined = {name: np.concatenate([found[name] for _, found in parts])[order] for name in parts[0][1]}
        return Output(joined["score"], joined.get("map"), joined.get("probabilities"), joined.get("embedding"))


def open_exported(run: Run, backend: str, device: str = "auto") -> ExportedBackend:
    """An exported run on the CPU, with as many threads as torch would take.

    Args:
        run: finished and exported.
        backend: ``onnx``: ONNX Runtime; ``openvino`` computes in float32, also where the CPU could do it faster in 16
            bits; ``openvino-bf16`` in 16 bits (bfloat16); ``openvino-int8`` most products in 8 bits, the rest in
            float32.
        device: ``auto`` or ``cpu``.

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
    return ExportedBackend(openvino_infer(file, bf16=backend == BF16), Calibration.of_file(file))


def onnx_infer(file: Path) -> Infer:
    """An ONNX file in ONNX Runtime: photos (n, H, W, 3) uint8 -> outputs by name."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {"photos": batch}), strict=True))


def openvino_infer(file: Path | openvino.Model, *, bf16: bool = False) -> Infer:
    """An OpenVINO file, or model, in OpenVINO: photos (n, H, W, 3) uint8 -> outputs by name."""
    import openvino
    import torch

    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(file, "CPU", options)
    # an output may have further names, of what it was before the conversion
    names = [next(name for name in OUTPUT_NAMES if name in output.get_names()) for output in compiled.outputs]
    # copied, as the next call writes into the same memory
    return lambda batch: dict(zip(names, map(np.array, compiled(batch).values()), strict=True))


def has_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def stored_thresholds(file: Path) -> dict[str, Threshold]:
    """Thresholds that a file carries, by name."""
    stored = json.loads(read_about(file).get("thresholds", "{}"))
    return {name: Threshold.from_dict(fields) for name, fields in stored.items()}
