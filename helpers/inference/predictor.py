"""A finished run at work on photos it has never seen: raw score, map at the photo's own size, verdict.

What happens to a photo is what happened to the run's own val photos when its thresholds were set: the same reading, the
same resize, the same object mask. So a score compares with the stored thresholds.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from helpers.compute import cpu_name, full_precision, time_stages, torch_device
from helpers.data.images import (
    BIT_DEPTHS,
    DecodedImage,
    ImageReadError,
    deep_values,
    find_images,
    is_deep,
    map_at_photo_size,
    read_image,
    require_resizable,
    to_8_bits,
    to_network_frame,
)
from helpers.paths import file_sha256, project_path, write_json
from helpers.runs import RUN_FILE, MissingRunError, Run
from helpers.session import installed_versions
from helpers.thresholds import Threshold

if TYPE_CHECKING:
    from helpers.inference.object_mask import ObjectMasks

Picture = str | Path | np.ndarray | Image.Image
"""A file, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or bool, or a PIL image of any mode."""

CLASSIFICATION = "classification"  # "task" in the parameters of a classifier's run
CHECKPOINT = "model.ckpt"
SPEED_FILE, TIMED_PHOTOS = "speed.json", 20
START = "start"  # threshold name: the run's own starting value, not calibrated
PIXELS_AT_ONCE = 32_000_000  # photos of one batch together: large ones come in smaller batches
NOTEBOOKS = {
    "patchcore": "02_train_patchcore",
    "unet": "03_train_unet_deeplabv3plus",
    "deeplabv3plus": "03_train_unet_deeplabv3plus",
    "foreground": "03_train_unet_deeplabv3plus (with raw frames)",
    "draem": "04_train_draem_glass",
    "glass": "04_train_draem_glass",
    "classifier": "05_train_classifiers",
    "open_set": "05_train_classifiers",
}
_EXIF_ORIENTATION = 0x0112


# ------------------------------------------------------------------------------------------------------------ backends


@dataclass(frozen=True)
class Output:
    """What a backend gives for N photos.

    Attributes:
        scores: (N,) float32, raw, higher is more abnormal.
        maps: (N, h, w) float32 at the network's size, or None for a classifier.
        probabilities: (N, C) float32, rows sum to 1, or None for a detector.
        embeddings: (N, D) float32 of a classifier's penultimate layer, or None.
    """

    scores: np.ndarray
    maps: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    embeddings: np.ndarray | None = None


class Backend(Protocol):
    """Something that runs a network: photos (H, W, 3) uint8 of any sizes in, one :class:`Output` out."""

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Score photos, all of them at once."""
        ...


class TorchDetector:
    """A detector in PyTorch, with the pre-processing of its training.

    Args:
        run: finished.
        device: see :func:`helpers.compute.trainer_device`.
    """

    def __init__(self, run: Run, device: str = "auto") -> None:
        from helpers.models.catalog import load_model

        self.device = torch_device(device)
        backbone = run.info["parameters"].get("backbone")
        self.model = load_model(
            run.name, run.folder / CHECKPOINT, backbone["architecture"] if backbone else "", self.device
        )

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Score photos, all of them at once."""
        with torch.inference_mode(), full_precision():
            # One by one: photos of a batch need not be of one size, and the network must not see the others' sizes.
            frames = [self.model.pre_processor.transform(_unit_tensor(photo))[0] for photo in photos]
            found = self.model.model(torch.stack(frames).to(self.device))
            scores, maps = found.pred_score.float().cpu(), found.anomaly_map.float().cpu()
        return Output(scores.reshape(-1).numpy(), maps.reshape(len(photos), *maps.shape[-2:]).numpy())


class TorchClassifier:
    """A classifier in PyTorch; its score is that of :func:`helpers.models.classifier.abnormal_scores`.

    Args:
        run: finished, with ``"task": "classification"``.
        device: see :func:`helpers.compute.trainer_device`.
    """

    def __init__(self, run: Run, device: str = "auto") -> None:
        from helpers.models.classifier import load_classifier

        self.device = torch_device(device)
        self.parameters = run.info["parameters"]
        architecture = self.parameters["backbone"]["architecture"]
        self.model = load_classifier(run.folder / CHECKPOINT, architecture, self.device)

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Classify photos, all of them at once."""
        from torchvision.transforms.v2.functional import resize

        from helpers.models.classifier import abnormal_scores

        size = list(self.parameters["image_size"])
        with torch.inference_mode(), full_precision():
            frames = torch.cat([resize(_unit_tensor(photo), size, antialias=True) for photo in photos])
            embeddings = self.model.embed(frames.to(self.device))
            probabilities = self.model.head(embeddings).cpu().float().softmax(1)
        normal = self.parameters.get("normal_class")
        index = self.parameters["classes"].index(normal) if normal else None
        return Output(
            abnormal_scores(probabilities, index).numpy(),
            probabilities=probabilities.numpy(),
            embeddings=embeddings.float().cpu().numpy(),
        )


def _torch_backend(run: Run, device: str) -> Backend:
    classifies = run.info["parameters"].get("task") == CLASSIFICATION
    return TorchClassifier(run, device) if classifies else TorchDetector(run, device)


def _exported(name: str) -> Callable[[Run, str], Backend]:
    """What opens an exported run; the libraries are imported when one is opened."""

    def opened(run: Run, device: str) -> Backend:
        from helpers.inference.exported import open_exported

        return open_exported(run, name, device)

    return opened


BACKENDS: dict[str, Callable[[Run, str], Backend]] = {
    "torch": _torch_backend,
    **{name: _exported(name) for name in ("onnx", "openvino", "openvino-bf16", "openvino-int8")},
}
"""Name -> what opens a finished run on a device; all but ``torch`` need :mod:`helpers.inference.export` first."""


# --------------------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class Prediction:
    """What a run says of one photo.

    Attributes:
        source: the file, or the photo's number for an array.
        score: raw, higher is more abnormal; NaN with an error.
        abnormal: whether the score is above the threshold; False with an error.
        confidence: see :class:`Predictions`; NaN where there is nothing to say.
        shape: (H, W) of the photo; None with an error.
        network_map: (h, w) float32 at the network's size, confined to the object where the run is; None for a
            classifier or with an error.
        probabilities: (C,) float32 of a classifier, or None.
        embedding: (D,) float32 of a classifier, or None.
        error: why there is nothing else; empty if all is well.
    """

    source: str
    score: float
    abnormal: bool
    confidence: float
    shape: tuple[int, int] | None = None
    network_map: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    embedding: np.ndarray | None = None
    error: str = ""

    @classmethod
    def failed(cls, source: str, error: Exception) -> Prediction:
        """The row of a photo that could not be judged."""
        return cls(source, float("nan"), False, float("nan"), error=str(error))


@dataclass(frozen=True)
class Predictions:
    """What a run says of N photos.

    Confidence of a detector is read off the n good photos of val that set its threshold. With
    p = (1 + how many of their scores are >= the photo's) / (n + 1), the conformal p-value (Vovk et al. 2005), it is
    1 - p for an abnormal verdict (nearly no good photo scores as high) and p for a normal one (so many good photos
    score as high or higher). It is no probability of a defect: of good photos called normal, half have less than about
    0.5. Confidence of a classifier is the probability that it gives to the verdict: P(abnormal) or P(normal), or the
    highest probability where it has no normal class.

    Attributes:
        scores: (N,) float32, raw, higher is more abnormal.
        labels: (N,) bool, True is abnormal: ``threshold.exceeds(scores)``.
        maps: (H, W) float32 a photo, at its own size, see :meth:`Predictor.photo_map`; None for a classifier.
        classes: names of the columns of ``probabilities``, or None for a detector.
        probabilities: (N, C) float32, or None for a detector.
        confidences: (N,) float32 in [0, 1]; NaN where val held no good photo.
        embeddings: (N, D) float32 of a classifier, or None.
        threshold: what the labels were decided by.
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: list[np.ndarray] | None
    classes: list[str] | None
    probabilities: np.ndarray | None
    confidences: np.ndarray
    embeddings: np.ndarray | None
    threshold: Threshold

    @property
    def predicted(self) -> list[str] | None:
        """The most probable class of each photo; None for a detector."""
        if self.classes is None or self.probabilities is None:
            return None
        return [self.classes[index] for index in self.probabilities.argmax(1)]


class Predictor:
    """A finished run, ready for photos.

    Args:
        run_dir: the run's folder (relative: to the project), or the run.
        backend: a name from :data:`BACKENDS`, or what has been opened already.
        device: see :func:`helpers.compute.trainer_device`.
        batch_size: photos that go through the network at once.

    Attributes:
        run: the run.
        backend: the backend's name, empty where it was opened already.
        device: where it runs, torch's name; ``cpu`` for an exported run.
        parameters: it was trained with.
        bit_depth: bits that the 16-bit photos it learned from hold; others are read alike.
        thresholds: stored with it, by name; in 8 bits those that were set anew on the same photos.
        classes: names of a classifier's classes, or None.
        normal_class: the one that is no defect, or None.

    Raises:
        MissingRunError: there is no finished run, or no exported file of it; the message says what makes it.
        ValueError: an unknown backend or one that this machine lacks, a file that is not the one that was trained, or a
            batch size below 1.
    """

    def __init__(
        self,
        run_dir: str | Path | Run,
        backend: str | Backend = "torch",
        *,
        device: str = "auto",
        batch_size: int = 8,
    ) -> None:
        if isinstance(backend, str) and backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is not known here; known: {', '.join(BACKENDS)}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}.")
        self.run = run_dir if isinstance(run_dir, Run) else open_finished(project_path(run_dir))
        check_run(self.run)
        self.backend, self.batch_size = backend if isinstance(backend, str) else "", batch_size
        self.parameters: dict[str, Any] = self.run.info["parameters"]
        self.bit_depth: int = self.parameters.get("bit_depth", 16)
        if self.bit_depth not in BIT_DEPTHS:
            raise ValueError(f"{self.run.folder}: bit_depth is {self.bit_depth!r}; it was changed: copy the run again.")
        self.thresholds = self.run.thresholds
        classifies = self.parameters.get("task") == CLASSIFICATION
        self.classes: list[str] | None = list(self.parameters["classes"]) if classifies else None
        self.normal_class: str | None = self.parameters.get("normal_class") if classifies else None
        val = self.run.predictions("val")
        normal_scores = val.loc[val["label_index"] == 0, "score"].to_numpy(np.float32)
        self._masks = run_object_masks(self.run)
        self._backend = BACKENDS[backend](self.run, device) if isinstance(backend, str) else backend
        self.device: str = getattr(self._backend, "device", "cpu")
        calibration = getattr(self._backend, "calibration", None)
        if calibration is not None:  # in 8 bits scores are others, and so are the thresholds on them
            self.thresholds, normal_scores = calibration.thresholds, calibration.normal_scores
        self._normal_scores = np.sort(normal_scores)

    def predict(
        self, images: Picture | Iterable[Picture], *, threshold: float | str | Threshold = "image"
    ) -> Predictions:
        """Judge photos; all results are held in memory, see :meth:`predict_stream` for many.

        Args:
            images: one photo or several, see :data:`Picture`; a folder stands for the photos in it and below.
            threshold: see :meth:`threshold`.

        Raises:
            ImageReadError: a photo cannot be read; the message names it.
            FileNotFoundError: a photo, or the mask of its object, is missing.
            ValueError: there is no photo, or one is no picture.
        """
        limit = self.threshold(threshold)
        found: list[Prediction] = []
        for batch in read_batches(named(as_pictures(images)), self.batch_size, self.bit_depth):
            for item in batch:
                if item.problem is not None:
                    raise item.problem
            found += self.judge([item.photo for item in batch], [item.source for item in batch], threshold=limit)
        if not found:
            raise ValueError("There is no photo to predict.")
        return Predictions(
            scores=np.array([one.score for one in found], dtype=np.float32),
            labels=np.array([one.abnormal for one in found], dtype=bool),
            maps=None if self.classes else [self.photo_map(one) for one in found],
            classes=self.classes,
            probabilities=np.stack([one.probabilities for one in found]) if self.classes else None,
            confidences=np.array([one.confidence for one in found], dtype=np.float32),
            embeddings=np.stack([one.embedding for one in found])
            if all(one.embedding is not None for one in found)
            else None,
            threshold=limit,
        )

    def predict_stream(
        self, images: Picture | Iterable[Picture], *, threshold: float | str | Threshold = "image"
    ) -> Iterator[Prediction]:
        """Judge photos one batch at a time, in order, with constant memory; a photo that fails is a row with its error.

        Args:
            images: see :meth:`predict`.
            threshold: see :meth:`threshold`.
        """
        limit = self.threshold(threshold)
        for batch in read_batches(named(as_pictures(images)), self.batch_size, self.bit_depth):
            readable = [item for item in batch if item.problem is None]
            judged = iter(
                self.judge_each([item.photo for item in readable], [item.source for item in readable], threshold=limit)
            )
            for item in batch:
                yield next(judged) if item.problem is None else Prediction.failed(item.source, item.problem)

    def judge(
        self, photos: Sequence[np.ndarray], sources: Sequence[str], *, threshold: float | str | Threshold = "image"
    ) -> list[Prediction]:
        """Judge photos that have been read, all of them at once.

        Args:
            photos: (H, W, 3) uint8 each, of any sizes.
            sources: their files; only a run with a folder of object masks looks at them.
            threshold: see :meth:`threshold`.

        Raises:
            FileNotFoundError: the folder of object masks has none for a photo.
            ImageReadError: a photo is too thin to be resized.
        """
        if not photos:
            return []
        limit = self.threshold(threshold)
        for photo, source in zip(photos, sources, strict=True):
            require_resizable(photo.shape, self.parameters["image_size"], source)
        output = self._backend(photos)
        scores, maps = output.scores, output.maps
        if self.classes is not None and output.probabilities.shape[1] != len(self.classes):
            raise ValueError(
                f"{self.run.folder}: its network tells {output.probabilities.shape[1]} classes apart, {RUN_FILE} names "
                f"{len(self.classes)}; copy the run again, or train it again."
            )
        if self._masks is not None and maps is not None:
            scores, maps = self._confine(maps, photos, sources)
        _check_finite(sources, replace(output, scores=scores, maps=maps))
        found = []
        for index, (source, photo) in enumerate(zip(sources, photos, strict=True)):
            prediction = Prediction(
                source,
                float(scores[index]),
                abnormal=False,
                confidence=float("nan"),
                shape=photo.shape[:2],
                network_map=None if maps is None else maps[index],
                probabilities=None if output.probabilities is None else output.probabilities[index],
                embedding=None if output.embeddings is None else output.embeddings[index],
            )
            found.append(self.rejudge(prediction, limit))
        return found

    def rejudge(self, prediction: Prediction, threshold: float | str | Threshold = "image") -> Prediction:
        """The same prediction by another threshold; the network is not asked again.

        Args:
            prediction: without an error.
            threshold: see :meth:`threshold`.
        """
        abnormal = bool(self.threshold(threshold).exceeds(prediction.score))
        return replace(prediction, abnormal=abnormal, confidence=self.confidence(prediction.score, abnormal))

    def judge_each(
        self, photos: Sequence[np.ndarray], sources: Sequence[str], *, threshold: float | str | Threshold = "image"
    ) -> list[Prediction]:
        """As :meth:`judge`, but a photo that fails gets its error, and the others their results."""
        try:
            return self.judge(photos, sources, threshold=threshold)
        except (OSError, ValueError) as error:
            if len(photos) == 1:
                return [Prediction.failed(sources[0], error)]
        return [
            self.judge_each([photo], [source], threshold=threshold)[0]
            for photo, source in zip(photos, sources, strict=True)
        ]

    def threshold(self, name: float | str | Threshold = "image") -> Threshold:
        """A threshold with its origin.

        Args:
            name: of one that is stored with the run; ``start``, the run's own starting value; or a number.

        Raises:
            ValueError: there is none of that name; the message lists those there are.
        """
        if isinstance(name, Threshold):
            return name
        if not isinstance(name, str):
            return Threshold(value=name, origin="given")
        start = self.parameters.get("start_threshold")
        if name == START and start is not None and START not in self.thresholds:
            return Threshold(value=float(start), origin="starting value, not calibrated")
        if name not in self.thresholds:
            known = [*self.thresholds, *([START] if start is not None else [])]
            raise ValueError(
                f"threshold={name!r}: {self.run.name} has none of that name; it has {', '.join(known)}. A number works "
                "as well."
            )
        return self.thresholds[name]

    def photo_time(self, paths: Sequence[str | Path]) -> dict[str, Any]:
        """Milliseconds from one decoded photo to its verdict and map at the network's size, warm, one photo at a time.

        Measured once for a backend and machine, on up to 20 of the photos, and kept with the run in ``speed.json``, so
        that every notebook gives the same figure; delete the file to measure again.

        Returns:
            A row of :func:`helpers.compute.time_stages`; ``median_ms`` is the figure to give.
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
            judge = {
                self.run.name: lambda batch: self.judge([photo for _, photo in batch], [path for path, _ in batch])
            }
            known[key] = time_stages(judge, photos, (1,)).to_dict("records")[0]
            with contextlib.suppress(OSError):  # a run on a read-only disk is measured each time
                write_json(known, file)
        return known[key]

    def photo_map(self, prediction: Prediction) -> np.ndarray:
        """The map at the photo's own size, (H, W) float32, see :func:`helpers.data.images.map_at_photo_size`."""
        assert prediction.network_map is not None and prediction.shape is not None  # a detector, without an error
        return map_at_photo_size(prediction.network_map, prediction.shape, self.parameters)

    def confidence(self, score: float, abnormal: bool) -> float:
        """Confidence of a verdict, see :class:`Predictions`; NaN where val held no good photo."""
        if self.classes is not None:
            return score if abnormal and self.normal_class else 1 - score
        n = len(self._normal_scores)
        if n == 0:
            return float("nan")
        as_high = n - int(np.searchsorted(self._normal_scores, np.float32(score), side="left"))
        p_value = (1 + as_high) / (n + 1)
        return 1 - p_value if abnormal else p_value

    def _confine(
        self, maps: np.ndarray, photos: Sequence[np.ndarray], sources: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and maps confined to the object, as :meth:`ObjectMasks.refine` did before thresholds were set."""
        from helpers.models.draem import smoothed_maximum

        if self._masks.segment is not None:
            areas = [to_network_frame(self._masks.segment(photo), self.parameters) for photo in photos]
        else:
            areas = [self._masks.mask(source) for source in sources]
        confined = torch.from_numpy(maps)[:, None] * torch.from_numpy(np.stack(areas)[:, None])
        return smoothed_maximum(confined).numpy(), confined[:, 0].numpy()


# ------------------------------------------------------------------------------------------------------------- loading


def open_finished(folder: Path) -> Run:
    """A finished run.

    Raises:
        MissingRunError: there is none; the message says which notebook makes it.
    """
    if not (folder / RUN_FILE).is_file():
        notebook = NOTEBOOKS.get(folder.name, "02 to 05")
        raise MissingRunError(f"{folder} holds no finished run (no {RUN_FILE}): run notebook {notebook} first.")
    return Run.load(folder)


def check_run(run: Run) -> None:
    """Refuse a checkpoint that is not the one the run ended with; warn of libraries that have moved on.

    Raises:
        MissingRunError: the checkpoint is missing.
        ValueError: it is another file than the one ``run.json`` was written for.
    """
    checkpoint = run.folder / CHECKPOINT
    if not checkpoint.is_file():
        raise MissingRunError(f"There is no {checkpoint}; copy the whole folder of the run, or train it again.")
    recorded = run.info.get("files", {}).get(CHECKPOINT)
    if recorded and file_sha256(checkpoint) != recorded:  # runs made before hashes were stored have none
        raise ValueError(
            f"{checkpoint} is not the file that {RUN_FILE} was written for (its SHA-256 differs): it was changed "
            "or damaged. Copy the run again, or train it again."
        )
    if "image_size" not in run.info["parameters"]:
        raise ValueError(f"{run.folder / RUN_FILE} is damaged: its parameters lack image_size. Copy the run again.")
    now, then = installed_versions(), run.info.get("versions", {})
    for name in ("torch", "anomalib"):
        if name in then and then[name].split(".")[:2] != now[name].split(".")[:2]:
            warnings.warn(
                f"{run.folder.name} was trained with {name} {then[name]}, this is {now[name]}: its scores may differ "
                "from those its thresholds were set on. Train again, or install the pinned versions.",
                stacklevel=3,
            )


def run_object_masks(run: Run) -> ObjectMasks | None:
    """What confined the run's maps to the object, or None. GLASS used its masks in training only."""
    kind = run.info["parameters"].get("object_mask")
    if not kind or run.name == "glass":
        return None
    from helpers.inference.object_mask import ObjectMasks

    segment = foreground_segmenter(run.folder.parent / "foreground") if kind == "foreground" else None
    return ObjectMasks(kind, run.info["parameters"], segment)


def foreground_segmenter(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Photo (H, W, 3) uint8 -> objects (H, W) bool, by the network that notebook 03 left in the folder."""
    from helpers.analysis.matching import separate
    from helpers.inference.cutting import load_foreground
    from helpers.models.foreground import predict_distance

    network = load_foreground(folder)
    return lambda photo: separate(predict_distance(network, photo)) > 0


# ------------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class ReadPhoto:
    """A photo on its way: its file (or number), its pixels (H, W, 3) uint8, or what is wrong with it."""

    source: str
    photo: np.ndarray | None
    problem: Exception | None = None


def as_pictures(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Photos one after another, from one, several, or a folder.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: a folder without photos.
    """
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        if not path.is_dir():
            return [path]
        found = find_images(path)
        if not found:
            raise ValueError(f"{path} holds no photo (PNG, JPEG, BMP, TIFF, WebP); give another folder.")
        return found
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return images


def named(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Each photo with its path, or ``#`` and its number where it has none."""
    for number, picture in enumerate(pictures):
        yield (str(picture) if isinstance(picture, str | Path) else f"#{number}"), picture


def read_batches(
    pictures: Iterable[tuple[str, Picture]], batch_size: int, bits: int | None = None
) -> Iterator[list[ReadPhoto]]:
    """Read named photos, at most ``batch_size`` at once, fewer where they are large; one that fails says why."""
    batch: list[ReadPhoto] = []
    pixels = 0
    for source, picture in pictures:
        item = read_photo(picture, source, bits)
        size = 0 if item.photo is None else item.photo.shape[0] * item.photo.shape[1]
        if batch and (len(batch) >= batch_size or pixels + size > PIXELS_AT_ONCE):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += size
    if batch:
        yield batch


def read_photo(picture: Picture, source: str, bits: int | None = None) -> ReadPhoto:
    """Read one photo; what is wrong with it comes back in ``problem``."""
    try:
        return ReadPhoto(source, as_photo(picture, source, bits))
    except (OSError, ValueError) as error:
        return ReadPhoto(source, None, error)


def as_photo(picture: Picture, name: str = "picture", bits: int | None = None) -> np.ndarray:
    """Any picture as (H, W, 3) uint8 RGB, upright, as :func:`helpers.data.images.read_image` reads a file.

    False and True become 0 and 255; alpha is dropped.

    Args:
        picture: see :data:`Picture`.
        name: for messages.
        bits: of 16-bit pictures, see :func:`helpers.data.images.read_image`.

    Raises:
        FileNotFoundError: there is no such file.
        ImageReadError: a file, or a PIL image, that cannot be read or has 32 bits a pixel, or values beyond ``bits``.
        ValueError: an array of another shape or type.
    """
    if isinstance(picture, str | Path):
        return read_image(picture, bits)
    if isinstance(picture, Image.Image):
        return _from_pil(picture, name, bits)
    array = np.asarray(picture)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(f"{name}: an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}.")
    if array.dtype == np.uint16:
        array = to_8_bits(array[:, :, :3] if array.ndim == 3 else array, bits or 16, name)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"{name}: an array of {array.dtype} has no known range of values; scale it to uint8 (0 to 255) or uint16."
        )
    array = array.astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array[:, :, :3])


def _from_pil(image: Image.Image, name: str, bits: int | None) -> np.ndarray:
    try:
        image.load()
        turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception as error:  # decoders of broken files raise nearly anything
        raise ImageReadError(name, "unreadable", f"cannot be decoded ({error})", "open it again") from error
    sixteen = is_deep(image) and image.mode.startswith("I")  # of colours Pillow has 8 bits by now
    return DecodedImage(
        path=Path(name),
        image=image,
        mode=image.mode,
        bits=16 if sixteen else 8,
        deep=deep_values(Path(name), image) if sixteen else None,
        alpha="A" in image.mode or "transparency" in image.info,
        orientation=turn,
        turn=turn,
        lossy=False,
        pages=1,
        shape=(image.height, image.width),
    ).rgb(bits or 16)


def _check_finite(sources: Sequence[str], output: Output) -> None:
    """Refuse what is no number: it would be no verdict, yet every comparison with it says no."""
    for name, values in vars(output).items():
        for source, value in zip(sources, () if values is None else values, strict=False):
            if not np.isfinite(value).all():
                raise ValueError(
                    f"{source}: its {name} are not finite, which is no verdict. The weights or the exported file are "
                    "broken: train the run, or export it, again."
                )


def _unit_tensor(photo: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float() / 255
