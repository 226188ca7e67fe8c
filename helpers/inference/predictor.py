"""A finished run at work on photos it has never seen: raw score, map at the photo's own size, verdict.

A photo is read, resized and masked as the run's val photos were, so its score compares with the stored thresholds.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from helpers.compute import cpu_name, time_stages
from helpers.data.images import map_at_photo_size, read_image, require_resizable
from helpers.inference.backends import CHECKPOINT, CLASSIFICATION, Backend, TorchBackend
from helpers.inference.exported import FORMATS, open_exported
from helpers.inference.pictures import Picture, as_pictures, read_batches
from helpers.paths import file_sha256, project_path, write_json
from helpers.runs import RUN_FILE, MissingRunError, Run
from helpers.session import installed_versions
from helpers.thresholds import Threshold

if TYPE_CHECKING:
    from helpers.inference.object_mask import ObjectMasks

SPEED_FILE, TIMED_PHOTOS = "speed.json", 20
START = "start"  # threshold name: the run's own starting value, not calibrated
NOTEBOOKS = {"patchcore": "02_train_patchcore"}  # name of a run -> what makes it
NOTEBOOKS |= dict.fromkeys(("unet", "deeplabv3plus"), "03_train_unet_deeplabv3plus")
NOTEBOOKS |= dict.fromkeys(("draem", "glass"), "04_train_draem_glass")
NOTEBOOKS |= dict.fromkeys(("classifier", "open_set"), "05_train_classifiers")

BACKENDS: dict[str, Callable[[Run, str], Backend]] = {
    "torch": TorchBackend,
    **{name: lambda run, device, name=name: open_exported(run, name, device) for name in FORMATS},
}
"""Name -> what opens a finished run on a device; all but ``torch`` need :mod:`helpers.inference.export` first."""


@dataclass(frozen=True)
class Prediction:
    """What a run says of one photo; with an ``error`` there is no score and no verdict."""

    source: str  # the file, or # and the photo's number
    score: float = float("nan")  # raw, higher is more abnormal
    abnormal: bool = False
    confidence: float = float("nan")  # see Predictions
    shape: tuple[int, int] | None = None  # (H, W) of the photo
    network_map: np.ndarray | None = None  # (h, w) float32 at the network's size, confined to the object
    probabilities: np.ndarray | None = None  # (C,) float32 of a classifier
    embedding: np.ndarray | None = None  # (D,) float32 of a classifier
    error: Exception | None = None
    distance: float | None = None  # of a cascade's stage: to the nearest class that its open set knows
    milliseconds: float = float("nan")  # likewise: what it took


@dataclass(frozen=True)
class Predictions:
    """What a run says of N photos.

    Confidence of a detector is read off the n good photos of val that set its threshold. With
    p = (1 + how many of their scores are >= the photo's) / (n + 1), the conformal p-value (Vovk et al. 2005), it is
    1 - p for an abnormal verdict and p for a normal one: no probability of a defect, since half of the good photos have
    less than about 0.5. Confidence of a classifier is the probability of its verdict, P(abnormal) or P(normal), or the
    highest probability where it has no normal class.
    """

    scores: np.ndarray  # (N,) float32, raw
    labels: np.ndarray  # (N,) bool: threshold.exceeds(scores)
    maps: list[np.ndarray] | None  # (H, W) float32 a photo, at its own size; None for a classifier
    classes: list[str] | None  # of a classifier, as the next and the embeddings
    probabilities: np.ndarray | None  # (N, C) float32
    confidences: np.ndarray  # (N,) float32 in [0, 1], NaN where val held no good photo
    embeddings: np.ndarray | None  # (N, D) float32
    threshold: Threshold

    @property
    def predicted(self) -> list[str] | None:
        return None if self.classes is None else [self.classes[index] for index in self.probabilities.argmax(1)]


class Predictor:
    """A finished run, ready for photos: its folder (relative: to the project) or the run, and a name from `BACKENDS` or
    a backend that is open already. MissingRunError: there is no finished run, or no exported file of it.
    """

    def __init__(
        self, run_dir: str | Path | Run, backend: str | Backend = "torch", *, device: str = "auto", batch_size: int = 8
    ) -> None:
        if batch_size < 1 or (isinstance(backend, str) and backend not in BACKENDS):
            known = ", ".join(BACKENDS)
            raise ValueError(f"backend={backend!r} must be one of {known}, and batch_size={batch_size} 1 or more.")
        self.run = run_dir if isinstance(run_dir, Run) else open_finished(project_path(run_dir))
        check_run(self.run)
        self.backend, self.batch_size = backend if isinstance(backend, str) else "", batch_size
        self.parameters: dict[str, Any] = self.run.info["parameters"]
        self.bit_depth: int = self.parameters.get("bit_depth", 16)  # of the 16-bit photos it learned from
        classifies = self.parameters.get("task") == CLASSIFICATION
        self.classes: list[str] | None = list(self.parameters["classes"]) if classifies else None
        self.normal_class: str | None = self.parameters.get("normal_class") if classifies else None
        self.thresholds, val = self.run.thresholds, self.run.predictions("val")
        normal_scores = val.loc[val["label_index"] == 0, "score"].to_numpy(np.float32)
        self._masks = self._object_masks()
        self._backend = BACKENDS[backend](self.run, device) if isinstance(backend, str) else backend
        self.device: str = getattr(self._backend, "device", "cpu")
        calibration = getattr(self._backend, "calibration", None)
        if calibration is not None:  # in 8 bits scores are others, and so are the thresholds on them
            self.thresholds, normal_scores = calibration.thresholds, calibration.normal_scores
        self._normal_scores = np.sort(normal_scores)

    def predict(
        self, images: Picture | Iterable[Picture], *, threshold: float | str | Threshold = "image"
    ) -> Predictions:
        """Judge one photo, several, or those of a folder and below; all results are held in memory. Where a photo, or
        the mask of its object, cannot be read or judged, its ImageReadError, FileNotFoundError or ValueError is raised.
        """
        limit, found = self.threshold(threshold), []
        for one in self.predict_stream(images):
            if one.error:
                raise one.error
            found.append(self.rejudge(one, limit))
        if not found:
            raise ValueError("There is no photo to predict.")
        return Predictions(
            np.array([one.score for one in found], dtype=np.float32),
            np.array([one.abnormal for one in found], dtype=bool),
            None if self.classes else [self.photo_map(one) for one in found],
            self.classes,
            np.stack([one.probabilities for one in found]) if self.classes else None,
            np.array([one.confidence for one in found], dtype=np.float32),
            None if found[0].embedding is None else np.stack([one.embedding for one in found]),
            limit,
        )

    def predict_stream(self, images: Picture | Iterable[Picture]) -> Iterator[Prediction]:
        """Judge a batch at a time with constant memory; a photo that fails is a row with its error."""
        pictures = enumerate(as_pictures(images))
        named = ((str(one) if isinstance(one, str | Path) else f"#{number}", one) for number, one in pictures)
        for batch in read_batches(named, self.batch_size, self.bit_depth):
            readable = [one for one in batch if one.problem is None]
            judged = iter(self.judge_each([one.photo for one in readable], [one.source for one in readable]))
            for one in batch:
                yield next(judged) if one.problem is None else Prediction(one.source, error=one.problem)

    def judge_each(self, photos: Sequence[np.ndarray], sources: Sequence[str]) -> list[Prediction]:
        """As `judge`, but a photo that fails gets its error, and the others their results."""
        try:
            return self.judge(photos, sources)
        except (OSError, ValueError) as error:
            if len(photos) == 1:
                return [Prediction(sources[0], error=error)]
        return [self.judge_each([photo], [source])[0] for photo, source in zip(photos, sources, strict=True)]

    def judge(self, photos: Sequence[np.ndarray], sources: Sequence[str]) -> list[Prediction]:
        """Judge photos (H, W, 3) uint8 of any sizes by the stored threshold, all of them at once.

        FileNotFoundError: there is no object mask for a photo; ImageReadError: it is too thin to be resized;
        ValueError: what the network says is not finite: that would be no verdict, yet every comparison says no.
        """
        if not photos:
            return []
        for photo, source in zip(photos, sources, strict=True):
            require_resizable(photo.shape, self.parameters["image_size"], source)
        output = self._backend(photos)
        if self.classes is not None and output.probabilities.shape[1] != len(self.classes):
            raise ValueError(f"{self.run.folder}: its network tells other classes apart than {RUN_FILE} names.")
        if self._masks is not None and output.maps is not None:
            scores, maps = self._masks.confine(sources, output.maps, photos)
            output = replace(output, scores=scores, maps=maps)
        for name, values in vars(output).items():
            for source, value in zip(sources, () if values is None else values, strict=False):
                if not np.isfinite(value).all():
                    raise ValueError(f"{source}: its {name} are not finite: train the run, or export it, again.")
        parts = (output.scores.tolist(), output.maps, output.probabilities, output.embeddings)
        rows = zip(*([None] * len(photos) if part is None else part for part in parts), strict=True)
        return [
            self.rejudge(Prediction(source, score, False, float("nan"), photo.shape[:2], *arrays))
            for source, photo, (score, *arrays) in zip(sources, photos, rows, strict=True)
        ]

    def rejudge(self, prediction: Prediction, threshold: float | str | Threshold = "image") -> Prediction:
        """A prediction without an error by another threshold; the network is not asked again."""
        score, n = prediction.score, len(self._normal_scores)
        abnormal = bool(self.threshold(threshold).exceeds(score))
        if self.classes is not None:
            confidence = score if abnormal and self.normal_class else 1 - score
        elif n == 0:
            confidence = float("nan")
        else:
            as_high = n - int(np.searchsorted(self._normal_scores, np.float32(score), side="left"))
            p_value = (1 + as_high) / (n + 1)
            confidence = 1 - p_value if abnormal else p_value
        return replace(prediction, abnormal=abnormal, confidence=confidence)

    def threshold(self, name: float | str | Threshold = "image") -> Threshold:
        """A threshold with its origin: one stored with the run, ``start`` (the run's starting value), or a number."""
        if not isinstance(name, str):
            return name if isinstance(name, Threshold) else Threshold(value=name, origin="given")
        known, start = dict(self.thresholds), self.parameters.get("start_threshold")
        if start is not None:
            known.setdefault(START, Threshold(value=float(start), origin="starting value, not calibrated"))
        if name not in known:
            raise ValueError(
                f"threshold={name!r} is none of {self.run.name}; it has {', '.join(known)}, or give a number."
            )
        return known[name]

    def photo_time(self, paths: Sequence[str | Path]) -> dict[str, Any]:
        """Milliseconds from one decoded photo to its verdict and network map, warm, one photo at a time: a row of
        `time_stages`. Measured once for a backend and machine and kept in ``speed.json``, for every notebook alike.
        """
        machine = torch.cuda.get_device_name(self.device) if str(self.device).startswith("cuda") else cpu_name()
        key = f"{self.backend}, {self.device}, {machine}, {torch.get_num_threads()} threads"
        file = self.run.folder / SPEED_FILE
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # not measured yet, or damaged
            known = dict(json.loads(file.read_text(encoding="utf-8")))
        if key not in known:
            chosen = np.linspace(0, len(paths) - 1, min(TIMED_PHOTOS, len(paths))).astype(int)
            photos = [(str(paths[one]), read_image(Path(paths[one]), self.bit_depth)) for one in chosen]
            stage = {self.run.name: lambda batch: self.judge([one for _, one in batch], [path for path, _ in batch])}
            known[key] = time_stages(stage, photos, (1,)).to_dict("records")[0]
            with contextlib.suppress(OSError):  # a run on a read-only disk is measured each time
                write_json(known, file)
        return known[key]

    def photo_map(self, prediction: Prediction) -> np.ndarray:
        """A detector's map at the photo's own size, (H, W) float32, see `helpers.data.images.map_at_photo_size`."""
        return map_at_photo_size(prediction.network_map, prediction.shape, self.parameters)

    def _object_masks(self) -> ObjectMasks | None:
        """What confined the run's maps to the object, or None. GLASS used its masks in training only."""
        kind = self.parameters.get("object_mask")
        if not kind or self.run.name == "glass":
            return None
        from helpers.inference.cutting import foreground_segmenter
        from helpers.inference.object_mask import ObjectMasks

        segment = foreground_segmenter(self.run.folder.parent) if kind == "foreground" else None
        return ObjectMasks(kind, self.parameters, segment)


def open_finished(folder: Path) -> Run:
    """A finished run; MissingRunError: there is none, and the message says which notebook makes it."""
    if not (folder / RUN_FILE).is_file():
        notebook = NOTEBOOKS.get(folder.name, "02 to 05")
        raise MissingRunError(f"{folder} holds no finished run (no {RUN_FILE}): run notebook {notebook} first.")
    return Run.load(folder)


def check_run(run: Run) -> None:
    """Refuse a checkpoint that is missing or not the run's own; warn of libraries that have moved on since."""
    checkpoint = run.folder / CHECKPOINT
    if not checkpoint.is_file():
        raise MissingRunError(f"There is no {checkpoint}; copy the whole folder of the run, or train it again.")
    recorded = run.info.get("files", {}).get(CHECKPOINT)
    if recorded and file_sha256(checkpoint) != recorded:  # runs made before hashes were stored have none
        raise ValueError(f"{checkpoint} is not the file that {RUN_FILE} was written for (SHA-256); copy the run again.")
    now, then = installed_versions(), run.info.get("versions", {})
    for name in ("torch", "anomalib"):
        if name in then and then[name].split(".")[:2] != now[name].split(".")[:2]:
            warnings.warn(
                f"{run.folder.name} was trained with {name} {then[name]}, this is {now[name]}: its scores may differ "
                "from those its thresholds were set on. Train again, or install the pinned versions.",
                stacklevel=3,
            )
