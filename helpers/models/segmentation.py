"""U-Net and DeepLabV3+ as anomalib modules, on segmentation-models-pytorch: supervised, from masks of known defects.

Networks: U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: convolutional networks for biomedical image segmentation")
and DeepLabV3+ (Chen et al. 2018, "Encoder-decoder with atrous separable convolution for semantic image segmentation"),
both with an encoder that :mod:`helpers.models.backbones` resolves. Losses: Dice (Milletari, Navab & Ahmadi 2016,
"V-Net"), focal (Lin et al. 2017, "Focal loss for dense object detection") and binary cross-entropy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import AnomalibModule
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import nn
from torch.nn import functional

import helpers.models.builtin  # noqa: F401  (registers its architecture with timm)
from helpers.models.parts import adamw, log_loss

if TYPE_CHECKING:
    from anomalib.data import Batch

STRIDE = 32  # sides of what the networks take are multiples of it
ATROUS_RATES = (6, 12, 18)  # of DeepLabV3+ at output stride 16, by the paper; smp's own are those of stride 8
POOLING_GROUPS = 32
SMOOTHING = 3  # pixels, odd: side of the score's mean filter
WEIGHT_DECAY = 0.01
LOSSES = ("dice_focal", "dice_bce", "dice", "focal", "bce")  # by their terms
TERMS = {"dice": smp.losses.DiceLoss("multilabel"), "focal": smp.losses.FocalLoss("binary", gamma=2.0)}
TERMS |= {"bce": smp.losses.SoftBCEWithLogitsLoss()}
PRIOR = 0.01  # probability of a defect that an untrained network gives to every pixel, about


def build_network(architecture: str, encoder: str, *, pretrained: bool) -> nn.Module:
    """A ``unet`` or ``deeplabv3plus``: normalised photos (B, 3, H, W), sides multiples of 32, to logits (B, 1, H, W).

    ``encoder`` is timm's name (``Backbone.name``), or the architecture for one without weights.
    """
    options = {"encoder_name": f"tu-{encoder}", "encoder_weights": True if pretrained else None, "classes": 1}
    try:
        if architecture == "unet":
            return smp.Unet(**options)
        network = smp.DeepLabV3Plus(decoder_atrous_rates=ATROUS_RATES, **options)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"BACKBONE={encoder!r} cannot be the encoder of {architecture}: {error}. Take a convolutional network with "
            "feature maps at strides 2 to 32 (mobilenetv2_100, resnet18, ...)."
        ) from error
    for module in network.modules():
        if isinstance(module, ASPPPooling):
            # One value a channel and photo comes here, which batch normalisation cannot train on when a batch, and
            # every last one may, holds one photo. Group normalisation does not look at the batch.
            module[2] = nn.GroupNorm(POOLING_GROUPS, module[2].num_features)
    return network


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor, name: str = "dice_focal") -> dict[str, torch.Tensor]:
    """The terms of a loss between logits and masks (B, 1, H, W), by one of the names `LOSSES`; the loss is their sum.

    With p the probability of a pixel, t its truth, q = p where t is 1 and 1 - p where it is 0, means over pixels:
    ``focal`` of -(1 - q)^2 log(q), ``bce`` of -log(q). ``dice``: 1 - 2 sum(p t) / (sum(p) + sum(t)) of each photo, then
    the mean; a photo without a defect pixel has the term 0 and teaches nothing by it.
    """
    # Half precision cannot hold sums over the pixels of a batch.
    logits, masks = logits.float(), masks.float()
    # smp takes one Dice a channel: here each photo is one. Over the batch, a large defect would drown a small one.
    photos = logits.transpose(0, 1), masks.transpose(0, 1)
    return {term: TERMS[term](*(photos if term == "dice" else (logits, masks))) for term in name.split("_")}


class SegmenterModel(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H, W) for normalised photos (B, 3, H, W), filled up to multiples of 32 with their border."""
        height, width = batch.shape[-2:]
        padded = functional.pad(batch, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        return self.network(padded)[..., :height, :width]

    def forward(self, batch: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Logits while training, as anomalib's models; else ``anomaly_map`` (B, 1, H, W), float32 in [0, 1], and
        ``pred_score`` (B,), the maximum after a mean over 3 x 3 pixels (at the border over those inside), so that a
        single pixel does not decide.
        """
        logits = self.logits(batch)
        if self.training:
            return logits
        probability = logits.float().sigmoid()
        smooth = functional.avg_pool2d(probability, SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)
        return InferenceBatch(pred_score=smooth.amax(dim=(1, 2, 3)), anomaly_map=probability)


class Segmenter(AnomalibModule):
    """U-Net or DeepLabV3+ as an anomalib module, trained with masks; ``learning_rate`` is the highest.

    Validation counts on the abnormal photos only: the normal photos of val set the threshold later, which would look
    better than it is had they helped to choose the checkpoint. ``val_iou`` and ``val_dice`` are means over photos, at
    probability 0.5.
    """

    learning_type = LearningType.ONE_CLASS  # anomalib has no word for supervised models
    trainer_arguments: dict[str, Any] = {}

    def __init__(
        self,
        architecture: str = "unet",
        backbone: str = "mobilenetv2_100.ra_in1k",
        pre_trained: bool = True,
        loss: str = "dice_focal",
        learning_rate: float = 2e-4,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        super().__init__(pre_processor=pre_processor, post_processor=False, evaluator=False, visualizer=False)
        network = build_network(architecture, backbone, pretrained=pre_trained)
        # Defects are rare: starting there spares the epochs in which a network only learns to say no (Lin et al., 3.3)
        nn.init.constant_(network.segmentation_head[0].bias, -math.log((1 - PRIOR) / PRIOR))
        self.model = SegmenterModel(network)

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw(self, [{"params": list(self.model.parameters())}], self.hparams.learning_rate, WEIGHT_DECAY)

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        terms = segmentation_loss(self.model(batch.image), _masks(batch), self.hparams.loss)
        return log_loss(self, terms, len(batch.image))

    def on_validation_epoch_start(self) -> None:
        self._counts: list[torch.Tensor] = []

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> None:
        abnormal = batch.gt_label.bool()
        if not abnormal.any():
            return
        masks = _masks(batch)[abnormal]
        logits = self.model.logits(batch.image[abnormal])
        loss = torch.stack(list(segmentation_loss(logits, masks, self.hparams.loss).values())).sum()
        self.log("val_loss", loss, on_epoch=True, batch_size=len(masks))
        counts = smp.metrics.get_stats(logits.float().sigmoid(), masks.long(), mode="binary", threshold=0.5)
        self._counts.append(torch.cat(counts[:3], dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        counts = torch.cat(self._counts) if self._counts else torch.zeros(0, 3)
        true_positive, false_positive, false_negative = counts[counts[:, 0] + counts[:, 2] > 0].double().T
        if not len(true_positive):
            raise ValueError(
                "val holds no photo with a marked defect, so no epoch can be called the best: split with scheme "
                "'supervised' and a larger share for val."
            )
        wrong = false_positive + false_negative
        self.log("val_iou", (true_positive / (true_positive + wrong)).mean().float())
        self.log("val_dice", (2 * true_positive / (2 * true_positive + wrong)).mean().float(), prog_bar=True)


def _masks(batch: Batch) -> torch.Tensor:
    if batch.gt_mask is None:
        raise ValueError("A segmenter needs the mask of every abnormal photo: see the findings of notebook 01.")
    masks = batch.gt_mask.as_subclass(torch.Tensor)
    return masks.reshape(len(masks), 1, *masks.shape[-2:])
