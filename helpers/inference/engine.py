"""anomalib's engine, set up the same way for every model; and predictions that go to disk as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from lightning import seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping

from helpers.compute import full_precision, torch_device, trainer_device
from helpers.progress import SECONDS_BETWEEN_LINES, is_interactive, quiet_libraries
from helpers.thresholds import exceeds

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

    from helpers.data.datamodule import SampleDataModule


def trainer_precision(precision: str, device: str) -> str:
    """Lightning's ``precision``: ``auto`` is 16-bit mixed on an NVIDIA GPU, full elsewhere; other words stay."""
    if precision != "auto":
        return precision
    return "16-mixed" if torch_device(device).startswith("cuda") else "32-true"


class MinuteLines(Callback):
    """One printed line a minute of an epoch, for runs that nobody watches."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print if a minute has passed."""
        self._say(
            f"training, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", batch_idx, trainer.num_training_batches
        )

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Print if a minute has passed."""
        self._say("predicting", batch_idx, trainer.num_predict_batches[0])

    def _say(self, what: str, batch_idx: int, n_batches: float) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            print(f"{what}: batch {batch_idx + 1}/{n_batches}, {now - self._started:.0f} s", flush=True)
            self._last = now


def make_engine(folder: Path, device: str = "auto", callbacks: list[Callback] | None = None, **trainer: Any) -> Engine:
    """anomalib's ``Engine`` on one device, writing below ``folder``, with a bar or one line a minute.

    Args:
        folder: anything the trainer writes by itself goes into a folder ``lightning`` there.
        device: see :func:`helpers.compute.trainer_device`.
        callbacks: more Lightning callbacks.
        **trainer: further arguments of Lightning's ``Trainer``; without a ``logger`` there is none.
    """
    quiet_libraries()
    interactive = is_interactive()
    callbacks = list(callbacks or [])
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        # With a checkpoint callback of ours the engine adds none of its own, which would save another copy.
        callbacks.append(ModelCheckpoint(dirpath=folder / "lightning", save_top_k=0))
    return Engine(
        callbacks=[*([] if interactive else [MinuteLines()]), *callbacks],
        default_root_dir=folder / "lightning",
        enable_progress_bar=interactive,
        enable_model_summary=False,
        **{"logger": False, **trainer_device(device), **trainer},
    )


class SeededEpochs(Callback):
    """Seeds everything random from (seed, epoch), so that a training that is resumed ends as one that was not.

    Exact on one device with ``num_workers=0``: worker processes have random states of their own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Seed Python, NumPy and torch."""
        seed_everything((1_000_003 * self.seed + trainer.current_epoch) % 2**32, verbose=False)


class FitClock(Callback):
    """Seconds spent training, those before an interruption included."""

    def __init__(self) -> None:
        self.before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self._started

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start counting."""
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.before = float(state_dict["seconds"])


def epoch_checkpoints(folder: Path, monitor: str = "", mode: str = "max", patience: int = 0) -> list[Callback]:
    """Callbacks that save ``last.ckpt`` after each epoch, the best epoch's weights too, and stop when none is better.

    Args:
        folder: where they go.
        monitor: name of the logged value that says which epoch is best; empty: only ``last.ckpt``.
        mode: whether its ``max`` or ``min`` is best.
        patience: epochs without a better one before training stops; 0: never.
    """
    # All of them at the end of validation and "last" the last: so the state that training goes on from knows the best.
    common = {"dirpath": folder, "enable_version_counter": False, "save_on_train_epoch_end": False}
    last = ModelCheckpoint(filename="last", every_n_epochs=1, **common)
    if not monitor:
        return [last]
    best = ModelCheckpoint(filename="best", monitor=monitor, mode=mode, save_weights_only=True, **common)
    stop = [EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False)] if patience else []
    return [*stop, best, last]


def load_best(model: AnomalibModule, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Put the best epoch's weights back into a trained model, and say which epoch that was.

    Args:
        model: just trained.
        callbacks: from :func:`epoch_checkpoints`, given to its engine.

    Returns:
        ``monitor``, ``value`` and ``epoch`` (from 0); empty where the last epoch's weights stay.
    """
    best = next((saver for saver in callbacks if isinstance(saver, ModelCheckpoint) and saver.monitor), None)
    if best is None:
        return {}
    if not best.best_model_path:
        raise RuntimeError(f"No epoch logged {best.monitor}, so none is the best; is there anything in val?")
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    return {"monitor": best.monitor, "value": float(best.best_model_score), "epoch": int(checkpoint["epoch"])}


Refine = Callable[[Sequence[str], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Paths of a batch's photos and its maps (N, H, W) -> scores (N,) and maps (N, H, W) that take their place."""


class PredictionWriter(Callback):
    """Collects scores, and writes maps to disk batch by batch, so that memory does not grow with the test set.

    Args:
        n_images: number of photos that will come.
        maps_file: ``.npy`` file for the (N, H, W) float16 maps, or None to keep only their maxima.
        area_threshold: also note the share of the map above this value, or None.
        refine: what is done to scores and maps before they are noted, or None.
    """

    def __init__(
        self,
        n_images: int,
        maps_file: Path | None,
        area_threshold: float | None = None,
        refine: Refine | None = None,
    ) -> None:
        self.n_images = n_images
        self.maps_file = maps_file
        self.area_threshold = area_threshold
        self.refine = refine
        self.rows: list[dict[str, Any]] = []
        self._maps: np.memmap | None = None

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take over one batch."""
        scores = outputs.pred_score.detach().float().cpu().reshape(-1).numpy()
        maps = outputs.anomaly_map.detach().float().cpu().numpy()
        maps = maps.reshape(len(scores), *maps.shape[-2:])
        if self.refine is not None:
            scores, maps = self.refine(outputs.image_path, maps)
        if self.maps_file is not None:
            self._write(maps)
        flat = maps.reshape(len(scores), -1)
        rows = {"image_path": outputs.image_path, "score": scores.tolist(), "map_max": flat.max(1).tolist()}
        if self.area_threshold is not None:
            rows["area"] = exceeds(flat, self.area_threshold).mean(1).tolist()
        self.rows += [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def _write(self, maps: np.ndarray) -> None:
        if self._maps is None:
            shape = (self.n_images, *maps.shape[1:])
            self._maps = np.lib.format.open_memmap(self.maps_file, mode="w+", dtype=np.float16, shape=shape)
        first = len(self.rows)
        self._maps[first : first + len(maps)] = maps

    def close(self) -> pd.DataFrame:
        """Flush the maps and return the rows: image_path, score, map_max, and area where it was asked for."""
        if self._maps is not None:
            self._maps.flush()
            self._maps = None
        return pd.DataFrame(self.rows)


def predict_split(
    model: AnomalibModule,
    data: SampleDataModule,
    split: str,
    folder: Path,
    device: str = "auto",
    maps_file: Path | None = None,
    area_threshold: float | None = None,
    refine: Refine | None = None,
) -> pd.DataFrame:
    """Score every photo of a split through the engine.

    Args:
        model: trained.
        data: the datamodule it was trained with.
        split: ``train``, ``val`` or ``test``.
        folder: where the engine may write.
        device: see :func:`helpers.compute.trainer_device`.
        maps_file: where the maps go, or None.
        area_threshold: also note the share of each map above this value, or None.
        refine: see :class:`PredictionWriter`.

    Returns:
        Rows in the table's order (image_path absolute, label_index, defect_type, split, score, map_max, and area where
        it was asked for).
    """
    table = data.table[data.table["split"] == split]
    writer = PredictionWriter(len(table), maps_file, area_threshold, refine)
    engine = make_engine(folder, device, callbacks=[writer])
    data.predict_split = split
    with full_precision():
        engine.predict(model, datamodule=data, return_predictions=False)
    rows = writer.close().set_index("image_path")
    columns = ["image_path", "label_index", "defect_type", "split"]
    predictions = table[columns].reset_index(drop=True).join(rows, on="image_path")
    if len(rows) != len(table) or not predictions["image_path"].isin(rows.index).all():
        raise RuntimeError(f"{len(table)} photos of {split} went in, {len(rows)} predictions came out.")
    return predictions
