"""DRAEM (Zavrtanik, Kristan & Skocaj 2021, "DRAEM: a discriminatively trained reconstruction embedding for surface
anomaly detection", arXiv 2108.07610) on anomalib's implementation, with what anomalib 2.7.0 lost of it mended.

- Focal loss: anomalib's ``FocalLoss(alpha=1)`` of kornia weighs normal pixels with ``1 - alpha``, which is zero: to
  call everything a defect cost nothing. Here no class is weighted, and the mean is over pixels, as with the authors.
- Score: the highest value of the map after a mean over 21 x 21 pixels of 256 (authors), not that of a single pixel.
- Schedule: a fifth of the learning rate after 80 % and again after 90 % of the epochs (authors), not after fixed 400.
- Photos are turned with a probability of 0.3 before a defect is put on them, and weights begin as N(0, 0.02) (authors).
- Nothing is downloaded; textures come from a checked folder, in an order that does not depend on the file system.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models import Draem as StockDraem
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, DraemModel, ReconstructiveSubNetwork
from anomalib.pre_processing import PreProcessor
from kornia.losses import FocalLoss, SSIMLoss
from torch import nn
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2 import CenterCrop, Compose, InterpolationMode, RandomRotation, Resize

from helpers.pictures.anomaly_source import texture_files

if TYPE_CHECKING:
    from anomalib.data import Batch

SMOOTHING, SMOOTHED_SIDE = 21, 256  # pixels of the mean filter before the map's maximum becomes the score; of photos
MILESTONES, DECAY = (0.8, 0.9), 0.2  # shares of the epochs; factor of the learning rate
WEIGHT_STD = 0.02
SSIM_WINDOW = 11  # pixels
STRIDE = 32  # sides of what the networks take are multiples of it


def make_pre_processor(image_size: tuple[int, int], center_crop: tuple[int, int] | None = None) -> PreProcessor:
    """Resize and optional centre crop; photos stay in [0, 1], since DRAEM compares them with what it draws.

    Args:
        image_size: (height, width) in pixels to resize to, or (shorter side,) with a crop.
        center_crop: (height, width) in pixels cut out of that, or None.

    Raises:
        ValueError: if the crop is larger than the resized photo, or a side of what is left is no multiple of 32.
    """
    if center_crop is not None and (center_crop[0] > image_size[0] or center_crop[1] > image_size[-1]):
        raise ValueError(f"center_crop {center_crop} cannot be larger than image_size {image_size}.")
    if any(side % STRIDE for side in center_crop or image_size):
        name, size = ("center_crop", center_crop) if center_crop else ("image_size", image_size)
        raise ValueError(f"DRAEM halves photos five times: sides of {name} must be multiples of {STRIDE}, got {size}.")
    steps: list[nn.Module] = [Resize(image_size, antialias=True)]
    if center_crop is not None:
        steps.append(CenterCrop(center_crop))
    return PreProcessor(transform=Compose(steps))


class TextureAnomalies(PerlinAnomalyGenerator):
    """anomalib's Perlin anomalies with textures of a checked folder, in the order of their names.

    Args:
        folder: see :func:`helpers.pictures.anomaly_source.texture_files`.
        probability: share of photos that get a defect.
        blend: range that the share of the texture in the defect is drawn from, uniformly.

    Raises:
        ValueError: if there is no picture in the folder.
    """

    def __init__(self, folder: Path | str, probability: float, blend: tuple[float, float]) -> None:
        files = texture_files(folder)
        super().__init__(probability=probability, blend_factor=tuple(blend))
        self.anomaly_source_paths = files


class DraemLoss(nn.Module):
    """The terms of DRAEM's loss; the loss is their sum.

    - ``l2``: mean squared difference of photo and reconstruction.
    - ``ssim``: 1 - mean structural similarity (Wang et al. 2004), windows of 11 x 11 pixels.
    - ``focal``: mean over pixels of -(1 - q)^2 log(q), q the probability of the pixel's true class.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ssim = SSIMLoss(window_size=SSIM_WINDOW)
        self.focal = FocalLoss(alpha=None, gamma=2.0, reduction="sum")

    def forward(
        self, photos: torch.Tensor, reconstructions: torch.Tensor, masks: torch.Tensor, logits: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Each term by name, scalars.

        Args:
            photos: (B, 3, H, W) without defects, in [0, 1].
            reconstructions: (B, 3, H, W).
            masks: (B, 1, H, W), 0 or 1.
            logits: (B, 2, H, W) of normal and abnormal.
        """
        reconstructions, logits = reconstructions.float(), logits.float()
        return {
            "l2": functional.mse_loss(reconstructions, photos),
            # kornia's is half of it
            "ssim": 2 * self.ssim(reconstructions, photos),
            # kornia's mean is over classes, too
            "focal": self.focal(logits, masks.squeeze(1).long()) / masks.numel(),
        }


class DraemNetwork(DraemModel):
    """Both networks of DRAEM, with widths to choose.

    Args:
        base_width: channels of the first layer of the reconstructing network; 128 with the authors.
        discriminative_width: of the segmenting one; 64.
    """

    def __init__(self, base_width: int, discriminative_width: int) -> None:
        nn.Module.__init__(self)  # not DraemModel's, which would build the wide networks first
        self.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=base_width)
        self.discriminative_subnetwork = DiscriminativeSubNetwork(6, 2, base_width=discriminative_width)
        self.apply(init_weights)
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | InferenceBatch:
        """Reconstruction and logits while training, predictions else; as anomalib's.

        Args:
            batch: (B, 3, H, W) photos in [0, 1], H and W multiples of 32.

        Returns:
            While training reconstructions (B, 3, H, W) and logits (B, 2, H, W). Else ``anomaly_map`` (B, 1, H, W),
            the probability of a defect, and ``pred_score`` (B,), see :func:`smoothed_maximum`.
        """
        reconstruction = self.reconstructive_subnetwork(batch)
        logits = self.discriminative_subnetwork(torch.cat([batch, reconstruction], dim=1))
        if self.training:
            return reconstruction, logits
        anomaly_map = torch.softmax(logits.float(), dim=1)[:, 1:]
        return InferenceBatch(pred_score=smoothed_maximum(anomaly_map), anomaly_map=anomaly_map)


def smoothed_maximum(anomaly_map: torch.Tensor) -> torch.Tensor:
    """Score (B,) of maps (B, 1, H, W): their maximum after a mean over 21 x 21 pixels, zeros outside.

    That is the authors' filter for photos of 256 x 256 pixels. On others its side is the same share of the shorter
    side, odd: 11 at 128 pixels, where 21 would drown a defect in four times its surroundings.
    """
    side = 2 * round((SMOOTHING * min(anomaly_map.shape[-2:]) / SMOOTHED_SIDE - 1) / 2) + 1
    return functional.avg_pool2d(anomaly_map, side, stride=1, padding=side // 2).amax(dim=(1, 2, 3))


def init_weights(module: nn.Module) -> None:
    """Draw a layer's weights as the authors do: N(0, 0.02), of batch normalisation N(1, 0.02) without offset."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
        nn.init.zeros_(module.bias)


class Draem(StockDraem):
    """DRAEM as an anomalib module.

    Logged each epoch: ``train_loss`` and its terms ``train_l2_loss``, ``train_ssim_loss``, ``train_focal_loss``; of val
    ``val_normal_score``, the mean score of good photos, and ``val_auroc`` where val has defects too.

    Args:
        anomaly_source: folder of textures; empty: for inference only.
        base_width: see :class:`DraemNetwork`.
        discriminative_width: see :class:`DraemNetwork`.
        anomaly_probability: share of training photos that get a defect.
        beta: range that the share of the texture in a defect is drawn from.
        rotate_probability: share of training photos that are turned by up to 90 degrees; 0 for products that lie the
            same way always.
        learning_rate: of Adam.
        pre_processor: from :func:`make_pre_processor`.

    Raises:
        ValueError: for a parameter outside its range, or textures that are not there.
    """

    def __init__(
        self,
        anomaly_source: str = "",
        base_width: int = 128,
        discriminative_width: int = 64,
        anomaly_probability: float = 0.5,
        beta: tuple[float, float] | list[float] = (0.1, 1.0),
        rotate_probability: float = 0.3,
        learning_rate: float = 1e-4,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        for name, value in (("anomaly_probability", anomaly_probability), ("rotate_probability", rotate_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}.")
        for name, value in (("base_width", base_width), ("discriminative_width", discriminative_width)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 <= beta[0] <= beta[1] <= 1:
            raise ValueError(f"beta must be a range inside 0 to 1, got {beta}.")
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {learning_rate}.")
        # Past StockDraem, which downloads; by super(), since Lightning finds the hyperparameters by it.
        super(StockDraem, self).__init__(
            pre_processor=pre_processor, post_processor=False, evaluator=False, visualizer=False
        )
        self.augmenter = TextureAnomalies(anomaly_source, anomaly_probability, beta) if anomaly_source else None
        self.rotate_probability = rotate_probability
        self.rotate = RandomRotation((-90, 90), interpolation=InterpolationMode.BILINEAR)
        self.learning_rate = learning_rate
        self.model = DraemNetwork(base_width, discriminative_width)
        self.loss = DraemLoss()
        self.sspcab = False
        self._val: list[torch.Tensor] = []

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No clipping, no validation before training."""
        return {"gradient_clip_val": 0, "num_sanity_val_steps": 0}

    def on_train_start(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: without textures, or with photos that are normalised.
        """
        if self.augmenter is None:
            raise ValueError("ANOMALY_SOURCE: DRAEM learns from invented defects and needs a folder of textures.")
        super().on_train_start()

    def invent(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What one training step sees: photos (B, 3, H, W) turned, the same with defects, and masks (B, 1, H, W)."""
        turned = torch.rand(len(photos)) < self.rotate_probability
        # In mixed precision torchvision takes float photos for whole numbers and rounds what it turns to 0 and 1.
        with torch.autocast(photos.device.type, enabled=False):
            photos = torch.stack(
                [self.rotate(photo) if turn else photo for photo, turn in zip(photos, turned, strict=True)]
            )
            return photos, *self.augmenter(photos)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of a batch."""
        del args, kwargs
        photos, damaged, masks = self.invent(batch.image.as_subclass(torch.Tensor))
        reconstructions, logits = self.model(damaged)
        terms = self.loss(photos, reconstructions, masks, logits)
        loss = torch.stack(list(terms.values())).sum()
        options = {"on_step": False, "on_epoch": True, "batch_size": len(photos)}
        self.log("train_loss", loss, prog_bar=True, **options)
        self.log_dict({f"train_{name}_loss": value for name, value in terms.items()}, **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the epoch before."""
        self._val.clear()

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> None:
        """Score a batch of val."""
        del args, kwargs
        scores = self.model(batch.image).pred_score
        self._val.append(torch.stack([scores.float(), batch.gt_label.to(scores)]).cpu())

    def on_validation_epoch_end(self) -> None:
        """Log what the scores of val say."""
        self.log_dict(validation_figures(self._val))

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """Adam, and the authors' schedule as shares of the epochs.

        Raises:
            ValueError: if the trainer does not know how many epochs it will train.
        """
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("DRAEM's learning rate follows the number of epochs: give the trainer max_epochs.")
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)
        steps = [round(share * epochs) for share in MILESTONES]
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma=DECAY)]

    @torch.no_grad()
    def reconstruct(self, photos: torch.Tensor) -> torch.Tensor:
        """What the first network makes of photos (B, 3, H, W) in [0, 1] at the network's size; the same shape."""
        return self.model.reconstructive_subnetwork(photos).float()


def validation_figures(batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """``val_normal_score`` and ``val_auroc``, each where val has the photos for it.

    Args:
        batches: (2, B) scores above labels.
    """
    if not batches:
        return {}
    scores, labels = torch.cat(batches, dim=1)
    found = {"val_normal_score": scores[labels == 0].mean()} if (labels == 0).any() else {}
    if len(labels.unique()) == 2:
        # ranks, since the metric takes what lies outside [0, 1] for logits, which float32 may round together
        _, ranks = scores.double().unique(return_inverse=True)
        found["val_auroc"] = binary_auroc(ranks / max(1, int(ranks.max())), labels.int())
    return found
