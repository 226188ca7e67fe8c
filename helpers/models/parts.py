"""What several models share: pre-processing, the schedule of the learning rate, losses logged by their terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from sklearn.metrics import roc_auc_score
from torch import nn
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize, Transform

from helpers.data.images import read_image, to_network_frame
from helpers.pictures.anomaly_source import texture_files

if TYPE_CHECKING:
    from anomalib.data import Batch

WARM_UP_SHARE = 0.05  # of all steps


def make_pre_processor(
    image_size: Sequence[int],
    center_crop: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PreProcessor:
    """Resize and centre crop, by sizes as `catalog.network_frame` has them; normalise if there is a mean."""
    steps: list[Transform] = [Resize(tuple(image_size), antialias=True)]
    if center_crop is not None:
        if center_crop[0] > image_size[0] or center_crop[1] > image_size[-1]:
            raise ValueError(f"center_crop {center_crop} cannot be larger than image_size {image_size}.")
        steps.append(CenterCrop(center_crop))
    if mean is not None:
        steps.append(Normalize(mean=list(mean), std=list(std)))
    return PreProcessor(transform=Compose(steps))


def rate_factor(step: int, n_steps: int) -> float:
    """Learning rate at a step (0 the first) as a share of the highest: a rise of 5 % of all, then half a cosine."""
    rise = max(1, round(WARM_UP_SHARE * n_steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise + 1) / (n_steps - rise + 1))))


def adamw(module: LightningModule, groups: list[dict[str, Any]], rate: float, weight_decay: float) -> dict[str, Any]:
    """AdamW (Loshchilov & Hutter 2019) with the rate of `rate_factor`; a group may have a highest ``lr`` of its own."""
    steps = int(module.trainer.estimated_stepping_batches)
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def log_loss(
    module: LightningModule, terms: Mapping[str, torch.Tensor], batch_size: int, **figures: torch.Tensor
) -> torch.Tensor:
    """The sum of a loss's terms, logged as ``train_loss`` and each as ``train_<term>_loss``, means over the epoch."""
    loss = torch.stack(list(terms.values())).sum()
    options = {"on_step": False, "on_epoch": True, "batch_size": batch_size}
    module.log("train_loss", loss, prog_bar=True, **options)
    module.log_dict({f"train_{name}_loss": value for name, value in terms.items()} | figures, **options)
    return loss


class TextureGenerator(PerlinAnomalyGenerator):
    """anomalib's Perlin anomalies with the textures of a checked folder, in the order of their names."""

    def __init__(self, folder: Path | str, probability: float = 1.0, **options: Any) -> None:
        files = texture_files(folder)
        super().__init__(probability=probability, **options)
        self.anomaly_source_paths = files


def invented_examples(
    generator: nn.Module, paths: Sequence[str], frame: Mapping[str, Any], seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Photos (H, W, 3) uint8 with invented defects, and their masks (H, W) bool."""
    photos = np.stack([to_network_frame(read_image(Path(path)), frame) for path in paths])
    torch.manual_seed(seed)
    damaged, masks = generator(torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255)
    return list((255 * damaged.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()), list(masks[:, 0].numpy() > 0)


class LearnsFromInvented:
    """What DRAEM and GLASS share: no training without textures, and val scored each epoch, where it has the photos."""

    trainer_arguments: dict[str, Any] = {}

    def on_train_start(self) -> None:
        if not self.hparams.anomaly_source:
            raise ValueError("ANOMALY_SOURCE: invented defects are made of textures; give a folder of them.")

    def on_validation_epoch_start(self) -> None:
        self._val: list[torch.Tensor] = []

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> None:
        scores = self.model(batch.image).pred_score
        self._val.append(torch.stack([scores.float(), batch.gt_label.to(scores)]).cpu())

    def on_validation_epoch_end(self) -> None:
        scores, labels = torch.cat([torch.zeros(2, 0), *self._val], dim=1)
        if (labels == 0).any():
            self.log("val_normal_score", scores[labels == 0].mean())
        if len(labels.unique()) == 2:
            self.log("val_auroc", roc_auc_score(labels, scores))
