"""anomalib's own inferencer with the weights of a run, to be timed against."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from anomalib.deploy import TorchInferencer
from anomalib.models import Patchcore

from helpers.inference.backends import CHECKPOINT
from helpers.inference.predictor import Predictor
from helpers.models.backbones import bare_backbone
from helpers.models.catalog import load_model
from helpers.runs import Run

STOCK = "anomalib TorchInferencer"


class StockJudge:
    """anomalib's ``TorchInferencer`` without gradients."""

    def __init__(self, inferencer: Any) -> None:
        self.inferencer = inferencer

    @torch.no_grad()
    def predict(self, photo: Path | np.ndarray) -> Any:
        """anomalib's ``ImageBatch`` of one photo: a file, or (H, W, 3) uint8 RGB."""
        return self.inferencer.predict(photo)

    def __call__(self, files: Sequence[Path]) -> list[float]:
        """Raw scores, one call of the inferencer each."""
        return [float(self.predict(file).pred_score.reshape(-1)[0]) for file in files]


@contextmanager
def stock_inferencer(run: Run) -> Iterator[StockJudge]:
    """anomalib's ``TorchInferencer`` and Patchcore with the run's weights, memory bank and threshold."""
    if run.name != "patchcore":
        raise ValueError(f"{run.name}: anomalib's inferencer is compared for PatchCore only.")
    parameters = run.info["parameters"]
    architecture = parameters["backbone"]["architecture"]
    ours = load_model(run.name, run.folder / CHECKPOINT, architecture)
    with bare_backbone(architecture, ours.hparams.get("model_args", {})) as backbone:
        stock = Patchcore(
            backbone=backbone,
            layers=parameters["backbone"]["layers"],
            pre_trained=False,
            num_neighbors=parameters["num_neighbors"],
            pre_processor=ours.pre_processor,
            visualizer=False,
        )
    # raw scores; its labels are then by its own limit of 0.5, which is timed but means nothing here
    stock.post_processor.enable_normalization = False
    stock.model.memory_bank = torch.empty_like(ours.model.memory_bank)
    stock.model.load_state_dict(ours.model.state_dict())
    with TemporaryDirectory() as folder:
        path = stock.to_torch(folder)
        # the inferencer unpickles its file only when told to trust it; this one was written a line ago
        with patch.dict(os.environ, TRUST_REMOTE_CODE="1"):
            inferencer = TorchInferencer(path, device="cpu")
        yield StockJudge(inferencer)


def stock_difference(run: Run, paths: Sequence[str | Path]) -> float:
    """Largest difference between our torch scores and the stock inferencer's, as a share of ours."""
    ours = Predictor(run, device="cpu").predict(list(paths)).scores
    with stock_inferencer(run) as judge:
        theirs = np.array(judge([Path(path) for path in paths]))
    return float((np.abs(theirs - ours) / ours).max())
