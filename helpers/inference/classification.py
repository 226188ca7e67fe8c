"""One call from a sample table to a trained, predicted classifier run; and class probabilities of any photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Transform
from torchvision.transforms.v2.functional import resize, to_dtype, to_image

from helpers.compute import full_precision
from helpers.data.augment import make_augmentations
from helpers.data.datamodule import EpochSampler, PhotoMemory
from helpers.data.images import read_image
from helpers.data.samples import NORMAL, SPLITS, relative_path, write_table
from helpers.inference.engine import (
    FitClock,
    MinuteLines,
    SeededEpochs,
    epoch_checkpoints,
    load_best,
    torch_device,
    trainer_device,
    trainer_precision,
)
from helpers.models.backbones import Backbone
from helpers.models.catalog import as_size
from helpers.models.classifier import Classifier, abnormal_scores, build_classifier
from helpers.paths import write_csv, write_json, write_whole
from helpers.progress import is_interactive, progress, quiet_libraries
from helpers.runs import CHECKPOINTS, DRAFT_FILE, LAST_CHECKPOINT, Run, open_run
from helpers.thresholds import Threshold, held_out_thresholds

BINARY_CLASSES = (NORMAL, "defect")
MONITORS = {"val_loss": "min", "val_accuracy": "max", "val_f1": "max"}
TASK = "classification"


@dataclass(frozen=True)
class ClassPredictions:
    """What a classifier says of N photos; C classes, embeddings of D values.

    Attributes:
        logits: (N, C) float32.
        probabilities: (N, C) float32, the softmax of the logits; rows sum to 1.
        embeddings: (N, D) float32, what :meth:`helpers.models.classifier.Classifier.embed` gives.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 index of each photo's most probable class."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """(N,) float32 probability of that class."""
        return self.probabilities.max(axis=1)


def photo_classes(table: pd.DataFrame, binary: bool = False) -> pd.Series:
    """The class of each photo of a sample table: its ``defect_type``; with ``binary`` ``good`` or ``defect``."""
    if not binary:
        return table["defect_type"]
    return table["label_index"].map(dict(enumerate(BINARY_CLASSES)))


# ---------------------------------------------------------------------------------------------------------------- data


class ClassPhotos(Dataset):
    """Photos at the network's size, (3, H, W) float32 in [0, 1], each with its class index.

    They are resized as :func:`helpers.models.patchcore.make_pre_processor` does it: bilinear, with antialiasing, as
    float.

    Args:
        photos: files, or (H, W, 3) uint8 arrays.
        labels: class indices.
        image_size: (height, width) in pixels.
        augmentations: from :func:`helpers.data.augment.make_augmentations`; applied after the resizing.
        read: what reads a file.
    """

    def __init__(
        self,
        photos: Sequence[str | Path | np.ndarray],
        labels: Sequence[int],
        image_size: tuple[int, int],
        augmentations: Transform | None = None,
        read: Callable[[str | Path], np.ndarray] = read_image,
    ) -> None:
        self.photos, self.labels = list(photos), list(labels)
        self.image_size, self.augmentations, self.read = list(image_size), augmentations, read

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        photo = self.photos[index]
        photo = photo if isinstance(photo, np.ndarray) else self.read(photo)
        image = resize(to_dtype(to_image(photo), torch.float32, scale=True), self.image_size, antialias=True)
        if self.augmentations is not None:
            image = self.augmentations(image)
        return image.as_subclass(torch.Tensor), int(self.labels[index])


class BalancedSampler(EpochSampler):
    """As many photos an epoch as there are, drawn with replacement so that every class is expected equally often.

    Args:
        labels: class index of each photo.
        seed: another seed, another order; like that of `EpochSampler` it follows from (seed, epoch).
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        super().__init__(labels, seed)

    def __iter__(self) -> Iterator[int]:
        """Indices of the epoch's photos."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        self.epoch += 1
        weights = 1 / self.labels.bincount().double()[self.labels]
        return iter(torch.multinomial(weights, len(weights), replacement=True, generator=generator).tolist())


# ------------------------------------------------------------------------------------------------------------ training


def train_classifier(
    folder: Path,
    table: pd.DataFrame,
    backbone: Backbone,
    *,
    name: str = "classifier",
    classes: Sequence[str] | None = None,
    binary: bool = False,
    allow_unknown: bool = False,
    image_size: int | tuple[int, int],
    epochs: int,
    batch_size: int,
    predict_batch_size: int,
    learning_rate: float,
    augmentation: dict[str, Any],
    backbone_lr_factor: float = 0.1,
    freeze_norm: bool = True,
    hidden: int = 256,
    dropout: float = 0.3,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.1,
    mixup: float = 0.0,
    weighted_sampling: bool = True,
    select_on_val: bool = False,
    monitor: str = "val_loss",
    accept: float = 0.95,
    start_threshold: float = 0.4,
    precision: str = "auto",
    num_workers: int = 0,
    device: str = "auto",
    seed: int = 0,
    note: str | None = None,
) -> Run:
    """Train a classifier, or find the finished run with the same photos, parameters and code.

    The class of a photo is its ``defect_type``. An interrupted training goes on from its last epoch. The weights are
    those of the last epoch, so that val chooses nothing and its good photos can set the threshold. With
    ``select_on_val`` they are those of the epoch that was best on all of val, good photos included: the threshold set
    on those photos then accepts a little less than it promises, the more epochs there were to choose from.

    The run's folder gets ``predictions.csv`` (train without augmentation, val and test: image_path, label_index,
    defect_type, split, score, see :func:`helpers.models.classifier.abnormal_scores`, predicted, confidence, and
    ``p_<class>`` for each class), ``embeddings_<split>.npy`` (N, D) float32 in the order of that table, ``history.csv``
    and ``model.ckpt``.

    Args:
        folder: a dataset's artifacts folder, see :func:`helpers.paths.dataset_folder`.
        table: sample table of scheme ``supervised``.
        backbone: from :func:`helpers.models.backbones.resolve_backbone`.
        name: of the run.
        classes: names, in the order of the logits; None: those in train, ``good`` first, then by name.
        binary: two classes instead: ``good`` and ``defect``.
        allow_unknown: let test hold photos of classes that are not in ``classes``; they are predicted like any other.
        image_size: side, or (height, width), in pixels that photos are resized to.
        epochs: passes over the training photos.
        batch_size: photos at once while training, two or more. A single photo that would be left over at the end of an
            epoch is left out of it: a batch of one has no statistics.
        predict_batch_size: photos at once when predicting.
        learning_rate: the highest one, of the new layers.
        augmentation: arguments of :func:`helpers.data.augment.make_augmentations`, without ``image_size``.
        backbone_lr_factor: see :class:`helpers.models.classifier.Classifier`, as for the next six.
        freeze_norm: keep the backbone's batch statistics; an untrained backbone always learns its own.
        hidden: width of the embedding.
        dropout: share of values dropped before the hidden layer and before the logits.
        loss: ``cross_entropy`` or ``focal``.
        label_smoothing: share of each target that is spread over all classes.
        mixup: alpha; 0: none.
        weighted_sampling: draw photos so that an epoch shows every class equally often; else every photo once.
        select_on_val: keep the weights of the epoch that is best by ``monitor``.
        monitor: ``val_loss``, ``val_accuracy`` or ``val_f1``.
        accept: share of good photos that the threshold is to accept; recorded with the run.
        start_threshold: score above which a photo is called damaged where nothing is calibrated; recorded with the run.
        precision: see :func:`helpers.inference.engine.trainer_precision`.
        num_workers: processes that read photos; 0 for trainings that repeat exactly.
        device: see :func:`helpers.compute.trainer_device`.
        seed: of new layers, order and augmentation.
        note: what everything made from the run must say.

    Returns:
        The run; a draft that lacks its thresholds (:func:`classifier_thresholds`, :meth:`helpers.runs.Run.finish`)
        unless it was found finished.

    Raises:
        ValueError: for photos without a split or of a class that is not known, fewer than two classes, a class without
            a training photo, or a parameter outside its range.
    """
    size = as_size(image_size)
    names = _known_classes(table, classes, binary, allow_unknown)
    if batch_size < 2:
        raise ValueError(f"batch_size must be 2 or more, got {batch_size}: a batch of one photo has no statistics.")
    if select_on_val and monitor not in MONITORS:
        raise ValueError(f"Unknown monitor {monitor!r}; known: {', '.join(MONITORS)}.")
    if select_on_val and not (table["split"] == "val").any():
        raise ValueError("SELECT_ON_VAL: val has no photo, so no epoch can be called the best; keep the last epoch.")
    layers = {"hidden": hidden, "dropout": dropout, "loss": loss, "label_smoothing": label_smoothing, "mixup": mixup}
    layers |= {"learning_rate": learning_rate, "backbone_lr_factor": backbone_lr_factor}
    layers |= {"freeze_norm": freeze_norm and backbone.pretrained}
    settings: dict[str, Any] = {"task": TASK, "classes": names, "binary": binary, "allow_unknown": allow_unknown}
    settings |= {"normal_class": NORMAL if NORMAL in names else None}
    settings |= {"image_size": list(size), "center_crop": None, "scheme": "supervised", "backbone": backbone.to_dict()}
    settings |= {"epochs": epochs, "batch_size": batch_size, "model": layers, "augmentation": augmentation}
    settings |= {"weighted_sampling": weighted_sampling, "monitor": monitor if select_on_val else None}
    settings |= {"accept": accept, "start_threshold": start_threshold, "precision": precision}
    run = open_run(folder, name, settings, table, seed, note=note)
    if run.finished:
        print(f"found finished: {run.describe()}")
        return run
    seed_everything(seed, workers=True, verbose=False)
    model = build_classifier(backbone, names, **layers)
    data = {
        split: _photos(rows, names, binary, size, make_augmentations(**augmentation) if split == "train" else None)
        for split, rows in table.groupby("split", sort=False)
    }
    sampler = (BalancedSampler if weighted_sampling else EpochSampler)(data["train"].labels, seed)
    alone = len(data["train"]) % batch_size == 1
    train = DataLoader(data["train"], batch_size=batch_size, sampler=sampler, num_workers=num_workers, drop_last=alone)
    val = DataLoader(data["val"], batch_size=predict_batch_size, num_workers=num_workers) if "val" in data else None
    watched, precision = monitor if select_on_val else "", trainer_precision(precision, device)
    with run.alone():
        _fit(run, model, train, val, epochs, watched, device, precision)
        _predict(run, model, size, predict_batch_size, device, num_workers)
    return run


def classifier_thresholds(run: Run, accept: float = 0.95, start: float = 0.4) -> dict[str, Threshold]:
    """Thresholds on a classifier's scores.

    Args:
        run: trained; a draft or finished.
        accept: share of good photos to accept.
        start: the starting value.

    Returns:
        ``image`` on the good photos of val (:func:`helpers.thresholds.conformal_threshold`); where there is
        none, the starting value, and its origin says that nothing was calibrated. With good and defect photos in val
        also ``image_best_f1``. Always ``image_start``, the starting value.
    """
    val = run.predictions("val")
    # a classifier has no maps: what would be set on their maxima is set on the scores, and left out
    thresholds = held_out_thresholds(val.assign(map_max=val["score"]), accept, start=start)
    del thresholds["pixel"]
    return thresholds | {"image_start": Threshold(value=start, origin="starting value")}


def _known_classes(table: pd.DataFrame, classes: Sequence[str] | None, binary: bool, allow_unknown: bool) -> list[str]:
    """Names of the classes, after a look at every photo's."""
    unsplit = table["image_path"][~table["split"].isin(SPLITS)]
    if len(unsplit):
        raise ValueError(
            f"{len(unsplit)} photos are in no split ({unsplit.iloc[0]}, ...); "
            "call helpers.data.samples.assign_splits with scheme 'supervised' first."
        )
    if binary and classes is not None:
        raise ValueError(f"binary sets the classes {', '.join(BINARY_CLASSES)}; leave classes at None.")
    found = photo_classes(table, binary)
    trained = set(found[table["split"] == "train"])
    if binary:
        names = list(BINARY_CLASSES)
    elif classes is None:
        names = sorted(trained, key=lambda each: (each != NORMAL, each))
    else:
        names = list(classes)
    if len(names) < 2:
        raise ValueError(
            f"A classifier needs two classes or more; train holds {', '.join(names) or 'no photo'}. Split with scheme "
            "'supervised', which puts defect photos into train."
        )
    absent = [each for each in names if each not in trained]
    if absent:
        raise ValueError(
            f"No photo in train is of class {', '.join(absent)}; leave it out of classes, or split with scheme "
            f"'supervised'. Train holds: {', '.join(sorted(trained))}."
        )
    unknown = ~found.isin(names)
    if allow_unknown:
        unknown &= table["split"] != "test"
    if unknown.any():
        first = table[unknown].iloc[0]
        raise ValueError(
            f"{int(unknown.sum())} photos are of a class that is not among {', '.join(names)} (of class "
            f"{found[unknown].iloc[0]} in {first['split']}: {first['image_path']}, ...). Leave them out of the table, "
            "or keep them for test and pass allow_unknown=True."
        )
    return names


def _photos(
    rows: pd.DataFrame, names: Sequence[str], binary: bool, size: tuple[int, int], augmentations: Transform | None
) -> ClassPhotos:
    index = {each: position for position, each in enumerate(names)}
    labels = [index.get(each, -1) for each in photo_classes(rows, binary)]
    return ClassPhotos(
        rows["image_path"].tolist(), labels, size, augmentations, PhotoMemory(rows.attrs.get("bit_depth"))
    )


def _fit(
    run: Run,
    model: Classifier,
    train: DataLoader,
    val: DataLoader | None,
    epochs: int,
    monitor: str,
    device: str,
    precision: str,
) -> None:
    """Train by epochs, from the last saved state if there is one, and keep checkpoint, history and time."""
    quiet_libraries()
    checkpoints, logs, interactive = run.folder / CHECKPOINTS, run.folder / "logs", is_interactive()
    savers = epoch_checkpoints(checkpoints, monitor, MONITORS.get(monitor, "max"))
    write_json({"fingerprint": run.info["fingerprint"]}, run.folder / DRAFT_FILE)
    clock = FitClock()
    trainer = Trainer(
        **trainer_device(device),
        precision=precision,
        max_epochs=epochs,
        callbacks=[*([] if interactive else [MinuteLines()]), clock, SeededEpochs(run.info["seed"]), *savers],
        logger=[CSVLogger(logs, name="csv"), TensorBoardLogger(logs, name="", version="")],
        default_root_dir=run.folder,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_progress_bar=interactive,
        enable_model_summary=False,
    )
    last = checkpoints / LAST_CHECKPOINT
    trainer.fit(model, train, val, ckpt_path=last if last.is_file() else None, weights_only=True)
    run.info["epochs"] = {"trained": trainer.current_epoch} | load_best(model, savers)
    trainer.save_checkpoint(run.folder / "model.ckpt", weights_only=True)
    run.note_time("fit_seconds", clock.seconds)
    run.collect_history(logs / "csv")


# ---------------------------------------------------------------------------------------------------------- prediction


def predict_classes(
    model: Classifier,
    photos: Sequence[str | Path | np.ndarray],
    image_size: int | tuple[int, int] | list[int],
    *,
    batch_size: int = 16,
    device: str = "auto",
    num_workers: int = 0,
) -> ClassPredictions:
    """Classify photos, in full precision and in their order.

    Args:
        model: trained, see :func:`helpers.models.classifier.load_classifier`; it is moved to the device.
        photos: files, or (H, W, 3) uint8 arrays, of any size.
        image_size: side, or (height, width), in pixels that the model was trained at.
        batch_size: photos at once.
        device: see :func:`helpers.compute.trainer_device`.
        num_workers: processes that read photos.

    Raises:
        helpers.data.images.ImageReadError: for a file that cannot be read.
    """
    where = torch_device(device)
    model = model.eval().to(where)
    data = ClassPhotos(photos, [0] * len(photos), as_size(image_size))
    # both there also where there is no photo
    logits = [np.zeros((0, len(model.classes)), np.float32)]
    embeddings = [np.zeros((0, model.head.in_features), np.float32)]
    with torch.inference_mode(), full_precision():
        for images, _ in progress(DataLoader(data, batch_size=batch_size, num_workers=num_workers), "classifying"):
            embedding = model.embed(images.to(where))
            embeddings.append(embedding.cpu().numpy())
            logits.append(model.head(embedding).cpu().numpy())
    together = np.concatenate(logits)
    probabilities = torch.from_numpy(together).float().softmax(1).numpy()
    return ClassPredictions(together, probabilities, np.concatenate(embeddings))


def _predict(
    run: Run, model: Classifier, size: tuple[int, int], batch_size: int, device: str, num_workers: int
) -> None:
    """Write the run's sample table, predictions and embeddings."""
    table, parts = run.table, []
    write_table(table, run.folder / "samples.csv")
    normal_index = model.classes.index(model.normal_class) if model.normal_class else None
    for split in SPLITS:
        rows = table[table["split"] == split]
        if rows.empty:
            continue
        options = {"batch_size": batch_size, "device": device, "num_workers": num_workers}
        found = predict_classes(model, rows["image_path"].tolist(), size, **options)
        write_whole(run.folder / f"embeddings_{split}.npy", partial(np.save, arr=found.embeddings))
        columns = {
            "image_path": relative_path(table)[rows.index],
            **{column: rows[column] for column in ("label_index", "defect_type", "split")},
            "score": abnormal_scores(torch.from_numpy(found.probabilities), normal_index).numpy(),
            "predicted": np.array(model.classes)[found.labels],
            "confidence": found.confidence,
            **{f"p_{each}": found.probabilities[:, index] for index, each in enumerate(model.classes)},
        }
        parts.append(pd.DataFrame(columns))
    predictions = pd.concat(parts, ignore_index=True)
    write_csv(predictions, run.folder / "predictions.csv", float_format="%.9g")
