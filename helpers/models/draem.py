"""DRAEM (Zavrtanik, Kristan & Skocaj 2021, "DRAEM: a discriminatively trained reconstruction embedding for surface
anomaly detection", arXiv 2108.07610) on anomalib's implementation, with what anomalib 2.7.0 lost of it repaired.

- Focal loss: anomalib's ``FocalLoss(alpha=1)`` of kornia weighs normal pixels with ``1 - alpha``, which is zero: to
  call everything a defect cost nothing. Here no class is weighted, and the mean is over pixels, as with the authors.
- Score: the highest value of the map after a mean over 21 x 21 pixels of 256 (authors), not that of a single pixel.
- Schedule: a fifth of the learning rate after 80 % and again after 90 % of the epochs (authors), not after fixed 400.
- Photos are turned with a probability of 0.3 before a defect is put on them, and weights begin as N(0, 0.02) (authors).
- Nothing is downloaded: textures come from a checked folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import InferenceBatch
from anomalib.models import Draem as StockDraem
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, DraemModel, ReconstructiveSubNetwork
from kornia.losses import focal_loss, ssim_loss
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode, RandomRotation

from helpers.models.parts import LearnsFromInvented, TextureGenerator, log_loss

if TYPE_CHECKING:
    from anomalib.data import Batch

SMOOTHING, SMOOTHED_SIDE = 21, 256  # pixels of the mean filter before the map's maximum becomes the score; of photos
MILESTONES, DECAY = (0.8, 0.9), 0.2  # shares of the epochs; factor of the learning rate
WEIGHT_STD = 0.02
SSIM_WINDOW = 11  # pixels
FOCAL_GAMMA = 2.0
DAMAGED, BETA = 0.5, (0.1, 1.0)  # share of photos that get a defect; range of the texture's share in it


def draem_loss(
    photos: torch.Tensor, reconstructions: torch.Tensor, logits: torch.Tensor, masks: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The terms of DRAEM's loss, which is their sum; photos (B, 3, H, W) in [0, 1], masks (B, 1, H, W).

    ``l2``, the mean squared difference; ``ssim``, 1 - mean structural similarity (Wang et al. 2004); ``focal``, the
    mean over pixels of -(1 - q)^2 log(q), q the probability of the true class, of logits (B, 2, H, W).
    """
    reconstructions, logits = reconstructions.float(), logits.float()
    terms = {"l2": functional.mse_loss(reconstructions, photos)}
    terms["ssim"] = 2 * ssim_loss(reconstructions, photos, SSIM_WINDOW)  # kornia's is half of it
    focal = focal_loss(logits, masks.squeeze(1).long(), alpha=None, gamma=FOCAL_GAMMA, reduction="sum")
    return terms | {"focal": focal / masks.numel()}  # kornia's mean is over classes, too


class DraemNetwork(DraemModel):
    """Both networks of DRAEM; the widths are channels of their first layers, 128 and 64 with the authors."""

    def __init__(self, base_width: int, discriminative_width: int) -> None:
        nn.Module.__init__(self)  # not DraemModel's, which would build the wide networks first
        self.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=base_width)
        self.discriminative_subnetwork = DiscriminativeSubNetwork(6, 2, base_width=discriminative_width)
        self.apply(init_weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | InferenceBatch:
        """Photos (B, 3, H, W) in [0, 1], sides multiples of 32, to reconstructions (B, 3, H, W) and logits (B, 2, H, W)
        while training; else to ``anomaly_map`` (B, 1, H, W), the probability of a defect, and ``pred_score`` (B,).
        """
        reconstruction = self.reconstructive_subnetwork(batch)
        logits = self.discriminative_subnetwork(torch.cat([batch, reconstruction], dim=1))
        if self.training:
            return reconstruction, logits
        anomaly_map = torch.softmax(logits.float(), dim=1)[:, 1:]
        return InferenceBatch(pred_score=smoothed_maximum(anomaly_map), anomaly_map=anomaly_map)


def smoothed_maximum(anomaly_map: torch.Tensor) -> torch.Tensor:
    """Score (B,) of maps (B, 1, H, W): their maximum after the authors' mean over 21 x 21 pixels, zeros outside.

    On photos of other than 256 pixels the same share of the shorter side: 21 of 128 would drown a defect.
    """
    side = 2 * round((SMOOTHING * min(anomaly_map.shape[-2:]) / SMOOTHED_SIDE - 1) / 2) + 1
    return functional.avg_pool2d(anomaly_map, side, stride=1, padding=side // 2).amax(dim=(1, 2, 3))


def init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
        nn.init.zeros_(module.bias)


class Draem(LearnsFromInvented, StockDraem):
    """DRAEM as an anomalib module; without a folder of textures (``anomaly_source``) for inference only.

    ``rotate_probability``: share of training photos turned by up to 90 degrees; 0 for products that lie the same way.
    """

    def __init__(
        self,
        anomaly_source: str = "",
        base_width: int = 128,
        discriminative_width: int = 64,
        rotate_probability: float = 0.3,
        learning_rate: float = 1e-4,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        # Past StockDraem, which downloads; by super(), since Lightning finds the hyperparameters by it.
        super(StockDraem, self).__init__(
            pre_processor=pre_processor, post_processor=False, evaluator=False, visualizer=False
        )
        self.augmenter = TextureGenerator(anomaly_source, DAMAGED, blend_factor=BETA) if anomaly_source else None
        self.rotate_probability = rotate_probability
        self.rotate = RandomRotation((-90, 90), interpolation=InterpolationMode.BILINEAR)
        self.learning_rate = learning_rate
        self.model = DraemNetwork(base_width, discriminative_width)

    def invent(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What one training step sees: photos (B, 3, H, W) turned, the same with defects, and masks (B, 1, H, W)."""
        turned = torch.rand(len(photos)) < self.rotate_probability
        # In mixed precision torchvision takes float photos for whole numbers and rounds what it turns to 0 and 1.
        with torch.autocast(photos.device.type, enabled=False):
            pairs = zip(photos, turned, strict=True)
            photos = torch.stack([self.rotate(photo) if turn else photo for photo, turn in pairs])
            return photos, *self.augmenter(photos)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        photos, damaged, masks = self.invent(batch.image.as_subclass(torch.Tensor))
        return log_loss(self, draem_loss(photos, *self.model(damaged), masks), len(photos))

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """Adam, and the authors' schedule as shares of the epochs."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)
        steps = [round(share * self.trainer.max_epochs) for share in MILESTONES]
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma=DECAY)]

    @torch.no_grad()
    def redraw(self, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the first network makes of photos (H, W, 3) uint8 at the network's size; likewise."""
        values = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255
        drawn = torch.cat([self.model.reconstructive_subnetwork(one) for one in values.split(1)])
        return list((255 * drawn.float().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy())


def reconstruction_errors(photos: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> pd.DataFrame:
    """One row a photo (H, W, 3) uint8 and its reconstruction: ``mse``, of values in [0, 1], and ``ssim``."""
    options = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    pairs = list(zip(photos, drawn, strict=True))
    mse = [float((((photo.astype(np.float64) - other) / 255) ** 2).mean()) for photo, other in pairs]
    return pd.DataFrame({"mse": mse, "ssim": [structural_similarity(*pair, **options) for pair in pairs]})
