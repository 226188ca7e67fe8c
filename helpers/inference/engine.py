"""anomalib's engine, set up the same way for every model; and predictions that go to disk as they come."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anomalib.callbacks.checkpoint import ModelCheckpoint
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback

from helpers.progress import SECONDS_BETWEEN_LINES, is_interactive
from helpers.quiet import quiet_libraries

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

    from helpers.data.datamodule import SampleDataModule


def trainer_device(device: str) -> dict[str, Any]:
    """Lightning's ``accelerator`` and ``devices`` for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ValueError: for another word, or a device that this machine does not have.
    """
    if device == "auto":
        return {"accelerator": "auto", "devices": 1}
    if device == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("DEVICE='mps': this machine has no Apple GPU that torch can use; take DEVICE='auto'.")
        return {"accelerator": "mps", "devices": 1}
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ValueError(f"DEVICE={device!r}: expected auto, cpu, cuda, cuda:N or mps.")
    index = int(number or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ValueError(f"DEVICE={device!r}: torch sees {torch.cuda.device_count()} CUDA devices; take DEVICE='auto'.")
    return {"accelerator": "gpu", "devices": [index]}


def torch_device(device: str) -> str:
    """The torch name of the device that ``auto`` (or another word for :func:`trainer_device`) stands for here."""
    trainer_device(device)
    if device != "auto":
        return "cuda:0" if device == "cuda" else device
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


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
        device: see :func:`trainer_device`.
        callbacks: more Lightning callbacks.
        **trainer: further arguments of Lightning's ``Trainer``.
    """
    quiet_libraries()
    interactive = is_interactive()
    # With a checkpoint callback of ours the engine adds none of its own, which would save a second copy of each model.
    keep_none = ModelCheckpoint(dirpath=folder / "lightning", save_top_k=0)
    return Engine(
        callbacks=[keep_none, *([] if interactive else [MinuteLines()]), *(callbacks or [])],
        default_root_dir=folder / "lightning",
        enable_progress_bar=interactive,
        enable_model_summary=False,
        logger=False,
        **trainer_device(device),
        **trainer,
    )


class PredictionWriter(Callback):
    """Collects scores, and writes maps to disk batch by batch, so that memory does not grow with the test set.

    Args:
        n_images: number of photos that will come.
        maps_file: ``.npy`` file for the (N, H, W) float16 maps, or None to keep only their maxima.
    """

    def __init__(self, n_images: int, maps_file: Path | None) -> None:
        self.n_images = n_images
        self.maps_file = maps_file
        self.rows: list[dict[str, Any]] = []
        self._maps: np.memmap | None = None

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take over one batch."""
        scores = outputs.pred_score.detach().float().cpu().reshape(-1).numpy()
        maps = outputs.anomaly_map.detach().float().cpu().numpy()
        maps = maps.reshape(len(scores), *maps.shape[-2:])
        if self.maps_file is not None:
            self._write(maps)
        maxima = maps.reshape(len(scores), -1).max(1)
        for path, score, maximum in zip(outputs.image_path, scores, maxima, strict=True):
            self.rows.append({"image_path": path, "score": float(score), "map_max": float(maximum)})

    def _write(self, maps: np.ndarray) -> None:
        if self._maps is None:
            shape = (self.n_images, *maps.shape[1:])
            self._maps = np.lib.format.open_memmap(self.maps_file, mode="w+", dtype=np.float16, shape=shape)
        first = len(self.rows)
        self._maps[first : first + len(maps)] = maps

    def close(self) -> pd.DataFrame:
        """Flush the maps and return the rows: image_path, score, map_max."""
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
) -> tuple[pd.DataFrame, float]:
    """Score every photo of a split through the engine.

    Args:
        model: trained.
        data: the datamodule it was trained with.
        split: ``val`` or ``test``.
        folder: where the engine may write.
        device: see :func:`trainer_device`.
        maps_file: where the maps go, or None.

    Returns:
        Rows in the table's order (image_path absolute, label_index, defect_type, split, score, map_max), and the
        seconds it took, reading of the photos included.
    """
    table = data.table[data.table["split"] == split]
    writer = PredictionWriter(len(table), maps_file)
    engine = make_engine(folder, device, callbacks=[writer])
    data.predict_split = split
    started = time.monotonic()
    engine.predict(model, datamodule=data, return_predictions=False)
    seconds = time.monotonic() - started
    rows = writer.close().set_index("image_path")
    columns = ["image_path", "label_index", "defect_type", "split"]
    predictions = table[columns].reset_index(drop=True).join(rows, on="image_path")
    if predictions["score"].isna().any() or len(rows) != len(table):
        raise RuntimeError(f"{len(table)} photos of {split} went in, {len(rows)} predictions came out.")
    return predictions, seconds
