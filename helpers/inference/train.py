"""Training: one `train` for every model, on Lightning's trainer; and one call a family from sample table to run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from helpers.compute import full_precision, torch_device, trainer_device
from helpers.data.augment import make_augmentations
from helpers.data.coco import InstancePhoto
from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import NORMAL, SPLITS, relative_path, write_table
from helpers.inference.cutting import ABOUT_FILE, load_foreground, photo_table
from helpers.inference.object_mask import Refine
from helpers.models.backbones import Backbone, model_args
from helpers.models.classifier import Classifier, abnormal_scores, build_classifier, known_classes, photo_classes
from helpers.models.foreground import CHECKPOINT_NAME, ForegroundNet, FrameCrops
from helpers.models.segmentation import build_network
from helpers.paths import hold, write_csv, write_json, write_whole
from helpers.progress import SECONDS_BETWEEN_LINES, is_interactive, quiet_libraries
from helpers.runs import CHECKPOINTS, DRAFT_FILE, LAST_CHECKPOINT, Run, open_run, run_fingerprint
from helpers.thresholds import Threshold, exceeds, held_out_thresholds

CLASSIFIER = {"binary": False, "allow_unknown": False, "weighted_sampling": True, "start_threshold": 0.4}
CLASSIFIER |= {"accept": 0.95, "precision": "auto"}


class MinuteLines(Callback):
    """One printed line a minute of an epoch, for runs that nobody watches."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        epoch = f"training, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._say(epoch, batch_idx, trainer.num_training_batches)

    def on_predict_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._say("predicting", batch_idx, trainer.num_predict_batches[0])

    def _say(self, what: str, batch_idx: int, n_batches: float) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            print(f"{what}: batch {batch_idx + 1}/{n_batches}, {now - self._started:.0f} s", flush=True)
            self._last = now


class SeededEpochs(Callback):
    """Seeds everything random from (seed, epoch), so that a training that is resumed ends as one that was not.

    Exact with ``num_workers=0``: worker processes have random states of their own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        seed_everything((1_000_003 * self.seed + trainer.current_epoch) % 2**32, verbose=False)


class MapWriter(Callback):
    """Collects the rows of a split, and writes its maps (N, H, W) float16 batch by batch: memory does not grow."""

    def __init__(self, n_images: int, maps_file: Path | None, area_threshold: float | None, refine: Refine | None):
        self.n_images, self.maps_file, self.area_threshold, self.refine = n_images, maps_file, area_threshold, refine
        self.rows: list[pd.DataFrame] = []
        self._written = 0

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        scores = outputs.pred_score.detach().float().cpu().reshape(-1).numpy()
        maps = outputs.anomaly_map.detach().float().cpu().numpy()
        maps = maps.reshape(len(scores), *maps.shape[-2:])
        if self.refine is not None:
            scores, maps = self.refine(outputs.image_path, maps)
        if self.maps_file is not None:
            shape = (self.n_images, *maps.shape[1:])
            mode = {"mode": "r+"} if self._written else {"mode": "w+", "dtype": np.float16, "shape": shape}
            stored = np.lib.format.open_memmap(self.maps_file, **mode)
            stored[self._written : self._written + len(maps)] = maps
            self._written += len(maps)
        flat = maps.reshape(len(scores), -1)
        self.rows.append(pd.DataFrame({"image_path": outputs.image_path, "score": scores, "map_max": flat.max(1)}))
        if self.area_threshold is not None:
            self.rows[-1]["area"] = exceeds(flat, self.area_threshold).mean(1)


def trainer_precision(precision: str, device: str) -> str:
    """Lightning's ``precision``: ``auto`` is 16-bit mixed on an NVIDIA GPU, full elsewhere; other words stay."""
    if precision != "auto":
        return precision
    return "16-mixed" if torch_device(device).startswith("cuda") else "32-true"


def make_trainer(model: LightningModule, device: str, callbacks: Sequence[Callback], **options: Any) -> Trainer:
    """Lightning's trainer on one device, silent but for a bar or one line a minute; what the model asks for counts."""
    quiet_libraries()
    interactive = is_interactive()
    settings = {"logger": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    settings |= {"enable_progress_bar": interactive, "enable_checkpointing": False}
    settings |= {**trainer_device(device), **options, **getattr(model, "trainer_arguments", {})}
    return Trainer(callbacks=[*([] if interactive else [MinuteLines()]), *callbacks], **settings)


def train(
    run: Run,
    model: LightningModule,
    data: SampleDataModule,
    *,
    device: str = "auto",
    monitor: str = "",
    refine: Refine | None = None,
) -> None:
    """Train a model on a run's splits, and leave checkpoint, history, predictions and maps in its draft.

    The run's parameters say how. Without ``epochs`` the model makes its own single pass, without validation. With them
    a state is saved after each look at val, every ``eval_epochs``: an interrupted training goes on from there and ends
    with the weights it would have had. With ``monitor``, a logged value, they are those of the epoch where it was
    highest (``select_on_val``: the last epoch's stay in ``model_last.ckpt``), and ``patience`` epochs without a higher
    one end it (0: never). ``start_threshold``: predictions note the share of each map above it, ``area``;
    ``predict_train``: those of train too; ``refine``: what is done to scores and maps first.
    """
    if run.finished:
        raise RuntimeError(f"{run.folder} is a finished run; delete it or change a parameter to train again.")
    with run.alone():
        seed_everything(run.info["seed"], workers=True, verbose=False)
        timer, settings = Timer(), run.info["parameters"]
        if "epochs" in settings:
            trainer = _fit_epochs(run, model, data, device, monitor, timer)
        else:
            trainer = make_trainer(model, device, [timer], limit_val_batches=0)
            with full_precision():  # PatchCore's memory bank, which scores are distances to
                trainer.fit(model, datamodule=data)
        trainer.save_checkpoint(run.folder / "model.ckpt", weights_only=True)
        run.timings["fit_seconds"] = timer.time_elapsed()
        write_table(run.table, run.folder / "samples.csv")
        with_train = isinstance(model, Classifier) or settings.get("predict_train")
        wanted = [split for split in SPLITS if split in {*run.table["split"]} and (split != "train" or with_train)]
        predictions = pd.concat([_predict(run, model, data, split, device, refine) for split in wanted])
        names = dict(zip(run.table["image_path"], relative_path(run.table), strict=True))
        predictions["image_path"] = predictions["image_path"].map(names)
        write_csv(predictions, run.folder / "predictions.csv", float_format="%.9g")


def _fit_epochs(
    run: Run, model: LightningModule, data: SampleDataModule, device: str, monitor: str, timer: Timer
) -> Trainer:
    settings, checkpoints, logs = run.info["parameters"], run.folder / CHECKPOINTS, run.folder / "logs"
    epochs, patience = settings["epochs"], settings.get("patience")
    # All of them at the end of validation and "last" the last: so the state that training goes on from knows the best.
    common = {"dirpath": checkpoints, "enable_version_counter": False, "save_on_train_epoch_end": False}
    best = ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_weights_only=True, **common)
    callbacks = [timer, SeededEpochs(run.info["seed"]), *([best] if monitor else [])]
    callbacks.append(ModelCheckpoint(filename="last", every_n_epochs=1, **common))
    if monitor and patience:
        callbacks.insert(0, EarlyStopping(monitor, mode="max", patience=patience, check_on_train_epoch_end=False))
    write_json({"fingerprint": run.info["fingerprint"]}, run.folder / DRAFT_FILE)
    loggers = [CSVLogger(logs, name="csv"), TensorBoardLogger(logs, name="", version="")]
    options = {"logger": loggers, "enable_checkpointing": True, "max_epochs": epochs}
    options |= {"check_val_every_n_epoch": min(settings.get("eval_epochs", 1), epochs)}
    options |= {"precision": trainer_precision(settings.get("precision", "auto"), device)}
    trainer, last = make_trainer(model, device, callbacks, **options), checkpoints / LAST_CHECKPOINT
    trainer.fit(model, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    run.info["epochs"] = {"trained": trainer.current_epoch}
    if monitor:
        if settings.get("select_on_val"):
            trainer.save_checkpoint(run.folder / "model_last.ckpt", weights_only=True)
        stored = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        model.load_state_dict(stored["state_dict"])
        run.info["epochs"] |= {"monitor": monitor, "value": float(best.best_model_score), "epoch": int(stored["epoch"])}
    # Each start of an interrupted training wrote a file of its own; what a later one says of an epoch counts.
    files = sorted((logs / "csv").glob("version_*/metrics.csv"), key=lambda file: file.stat().st_mtime)
    rows = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    write_csv(rows.groupby("epoch", as_index=False).last(), run.folder / "history.csv")
    return trainer


def _predict(
    run: Run, model: LightningModule, data: SampleDataModule, split: str, device: str, refine: Refine | None
) -> pd.DataFrame:
    """Rows of a split in the table's order; its maps, or a classifier's embeddings, go to disk."""
    labels = run.table.loc[run.table["split"] == split, ["image_path", "label_index", "defect_type", "split"]]
    maps_file = run.folder / f"maps_{split}.npy" if split != "train" else None
    writer = MapWriter(len(labels), maps_file, run.info["parameters"].get("start_threshold"), refine)
    classifies = isinstance(model, Classifier)
    data.predict_split = split
    with full_precision():
        trainer = make_trainer(model, device, [] if classifies else [writer])
        outputs = trainer.predict(model, datamodule=data, return_predictions=classifies)
    if not classifies:
        return labels.merge(pd.concat(writer.rows), on="image_path", how="left", validate="one_to_one")
    logits, embeddings = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
    write_whole(run.folder / f"embeddings_{split}.npy", partial(np.save, arr=embeddings.numpy()))
    probabilities, classes = logits.softmax(1), model.classes
    scores = abnormal_scores(probabilities, classes.index(NORMAL) if NORMAL in classes else None)
    confidence, predicted = (each.numpy() for each in probabilities.max(1))
    labels = labels.assign(score=scores.numpy(), predicted=np.array(classes)[predicted], confidence=confidence)
    return labels.assign(**{f"p_{name}": probabilities[:, index].numpy() for index, name in enumerate(classes)})


def find_or_train(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    settings: dict[str, Any],
    build: Callable[[], LightningModule],
    *,
    monitor: str = "",
    refine: Refine | None = None,
    device: str = "auto",
    seed: int = 0,
    note: str | None = None,
    **data: Any,
) -> Run:
    """The finished run with these photos and settings, or its draft, trained: that lacks its thresholds (`Run.finish`).

    ``settings``, plain data, decide the result: see `train`, and ``batch_size``, ``abnormal_share``; ``build`` makes
    the untrained model; ``data``: further options of `SampleDataModule`.
    """
    run = open_run(folder, name, settings, table, seed, note=note)
    if run.finished:
        print(f"found finished: {run.describe()}")
        return run
    seed_everything(seed, workers=True, verbose=False)
    model, share = build(), settings.get("abnormal_share", 0.0)
    photos = SampleDataModule(table, train_batch_size=settings["batch_size"], abnormal_share=share, seed=seed, **data)
    train(run, model, photos, device=device, monitor=monitor, refine=refine)
    return run


def train_classifier(
    folder: Path, table: pd.DataFrame, backbone: Backbone, settings: dict[str, Any], layers: dict[str, Any], **how: Any
) -> Run:
    """Train a classifier of `photo_classes`, or find the finished run.

    ``settings``: image_size, epochs, batch_size, augmentation (of `make_augmentations`), and what differs from
    `CLASSIFIER`: ``weighted_sampling`` shows every class equally often; ``layers``: parameters of `Classifier`.

    The weights are those of the last epoch, so that val chooses nothing and its good photos can set the threshold.
    Predictions (train too) have score (`abnormal_scores`), predicted, confidence and ``p_<class>``;
    ``embeddings_<split>.npy`` (N, D) float32 is in their order.
    """
    settings = CLASSIFIER | settings
    binary, size = settings["binary"], [settings["image_size"]] * 2
    names = known_classes(table, binary, settings["allow_unknown"])
    layers = layers | {"freeze_norm": layers.get("freeze_norm", True) and backbone.pretrained}
    settings |= {"task": "classification", "classes": names, "normal_class": NORMAL if NORMAL in names else None}
    settings |= {"scheme": "supervised", "backbone": backbone.to_dict(), "model": layers, "monitor": None}
    settings |= {"image_size": size, "center_crop": None}

    def build() -> LightningModule:
        model = build_classifier(backbone, names, **layers)
        numbers = photo_classes(table, binary).map({each: number for number, each in enumerate(names)})
        model.class_of = dict(zip(table["image_path"], numbers.fillna(-1).astype(int), strict=True))
        return model

    how |= {"train_augmentations": make_augmentations(image_size=size, **settings["augmentation"])}
    how |= {"augmentations": Resize(size), "allow_abnormal_train": True, "with_masks": False, "drop_single": True}
    how |= {"balance": ("label_index" if binary else "defect_type") if settings["weighted_sampling"] else ""}
    return find_or_train(folder, "classifier", table, settings, build, **how)


def classifier_thresholds(run: Run, accept: float = 0.95, start: float = 0.4) -> dict[str, Threshold]:
    """``image`` and ``image_best_f1`` as for detectors, and always ``image_start``."""
    val = run.predictions("val")
    # a classifier has no maps: what would be set on their maxima is set on the scores, and left out
    thresholds = held_out_thresholds(val.assign(map_max=val["score"]), accept, start=start)
    del thresholds["pixel"]
    return thresholds | {"image_start": Threshold(value=start, origin="starting value")}


def train_or_load_foreground(
    parts: Mapping[str, Sequence[InstancePhoto]],
    backbone: Backbone,
    folder: Path,
    *,
    image_size: int = 256,
    crop_size: int = 128,
    crops_per_photo: int = 4,
    epochs: int = 12,
    batch_size: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> ForegroundNet:
    """The network that an earlier call with the same photos (`split_photos`) and parameters left in the folder, or a
    new one, in evaluation mode, on the CPU; test photos play no part.

    At ``image_size``, the longer side, an object should be 20 pixels or more across, and smaller than ``crop_size``.
    """
    photos, about = parts["train"], folder / ABOUT_FILE
    settings = {"backbone": backbone.to_dict(), "train": len(photos), "image_size": image_size, "crop_size": crop_size}
    settings |= {"crops_per_photo": crops_per_photo, "epochs": epochs, "batch_size": batch_size}
    identity = run_fingerprint("foreground", settings, photo_table([*photos, *parts["val"]]), seed)
    if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["fingerprint"] == identity:
        return load_foreground(folder)
    with hold(folder.with_name(f".{folder.name}.lock"), str(folder)):
        about.unlink(missing_ok=True)
        crops = FrameCrops(photos, image_size, crop_size, crops_per_photo * len(photos), seed)
        seed_everything(seed, verbose=False)
        options = {"image_size": image_size, "model_args": model_args(backbone.name)}
        options["network"] = build_network("unet", backbone.name, pretrained=backbone.pretrained)
        net = ForegroundNet(backbone.architecture, backbone.mean, backbone.std, **options)
        trainer = make_trainer(net, device, [], max_epochs=epochs, logger=CSVLogger(folder, name="", version=""))
        trainer.fit(net, DataLoader(crops, batch_size))
        write_whole(folder / CHECKPOINT_NAME, lambda partial: trainer.save_checkpoint(partial, weights_only=True))
        write_json({"fingerprint": identity, "seed": seed, "note": backbone.note, "parameters": settings}, about)
    return net.eval().cpu()
