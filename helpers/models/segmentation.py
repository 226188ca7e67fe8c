"""U-Net and DeepLabV3+ as anomalib modules, on segmentation-models-pytorch: supervised, from masks of known defects.

Networks: U-Net (Ronneberger, Fischer & Brox 2015, "U-Net: convolutional networks for biomedical image segmentation")
and DeepLabV3+ (Chen et al. 2018, "Encoder-decoder with atrous separable convolution for semantic image segmentation"),
both with an encoder that :mod:`helpers.models.backbones` resolves. Losses: Dice (Milletari, Navab & Ahmadi 2016,
"V-Net"), focal (Lin et al. 2017, "Focal loss for dense object detection") and binary cross-entropy.

A :class:`Segmenter` is a detector like any other here: anomalib's engine trains it, its map is the probability of a
defect at each pixel, its score the map's maximum after a small smoothing.
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

if TYPE_CHECKING:
    from anomalib.data import Batch

    from helpers.models.backbones import Backbone

ARCHITECTURES = ("unet", "deeplabv3plus")
STRIDE = 32  # sides of what the networks take are multiples of it
ATROUS_RATES = (6, 12, 18)  # of DeepLabV3+ at output stride 16, by the paper; smp's own are those of stride 8
POOLING_GROUPS = 32

LOSSES = {
    "dice_focal": ("dice", "focal"),
    "dice_bce": ("dice", "bce"),
    "dice": ("dice",),
    "focal": ("focal",),
    "bce": ("bce",),
}
FOCAL_GAMMA = 2.0
PRIOR = 0.01  # probability of a defect that an untrained network gives to every pixel, about
WARM_UP_SHARE = 0.05  # of all steps


def build_network(architecture: str, backbone: Backbone, *, classes: int = 1) -> nn.Module:
    """An untrained segmentation network on an encoder with the backbone's weights (or none, if it is untrained).

    Args:
        architecture: a name from :data:`ARCHITECTURES`.
        backbone: from :func:`helpers.models.backbones.resolve_backbone`; its layers play no part here.
        classes: number of output channels.

    Returns:
        A network from normalised photos (B, 3, H, W), H and W multiples of 32, to logits (B, ``classes``, H, W).

    Raises:
        ValueError: for an unknown architecture, or a backbone that cannot be an encoder.
    """
    return assemble_network(architecture, backbone.name, pretrained=backbone.pretrained, classes=classes)


def assemble_network(architecture: str, encoder: str, *, pretrained: bool, classes: int = 1) -> nn.Module:
    """As :func:`build_network`, from a timm name; without weights it needs neither file nor network.

    Args:
        architecture: a name from :data:`ARCHITECTURES`.
        encoder: what timm takes as a model's name (``Backbone.name``), or with ``pretrained=False`` the bare
            architecture (``Backbone.architecture``), which is enough to load a checkpoint into.
        pretrained: whether the encoder's weights are loaded.
        classes: number of output channels.

    Raises:
        ValueError: for an unknown architecture, or a backbone that cannot be an encoder.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Unknown segmentation network {architecture!r}; known: {', '.join(ARCHITECTURES)}.")
    options = {"encoder_name": f"tu-{encoder}", "encoder_weights": True if pretrained else None, "classes": classes}
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
            # One value a channel and photo comes here: batch normalisation cannot train on a batch of one photo, and
            # every last batch may be one. Group normalisation does not look at the batch.
            module[2] = nn.GroupNorm(POOLING_GROUPS, module[2].num_features)
    return network


class PhotoDiceLoss(smp.losses.DiceLoss):
    """smp's Dice loss of each photo by itself, then the mean; see :class:`SegmentationLoss`."""

    def __init__(self) -> None:
        super().__init__("multilabel")

    def forward(self, y_pred: torch.Tensor, y_true: torch.Tensor) -> torch.Tensor:
        """Mean over photos; logits and masks (B, 1, H, W)."""
        # smp takes one Dice a channel: here each photo is one
        return super().forward(y_pred.transpose(0, 1), y_true.transpose(0, 1))


class SegmentationLoss(nn.Module):
    """The terms of a loss between logits and masks; the loss is their sum.

    With p the probability of a pixel, t its truth, q = p where t is 1 and 1 - p where it is 0:

    - ``dice``: 1 - 2 sum(p t) / (sum(p) + sum(t)) of each photo, sums over its pixels, without a smoothing constant;
      then the mean over the photos of the batch. (Summed over the batch, as smp does it, a large defect drowns a small
      one.) A photo without any defect pixel has the term 0 and no gradient from it: alone, it teaches nothing on
      normal photos, which is why the default adds a term over pixels.
    - ``focal``: mean of -(1 - q)^2 log(q); without a weight by class.
    - ``bce``: mean of -log(q).

    Args:
        name: a name from :data:`LOSSES`.

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(self, name: str = "dice_focal") -> None:
        super().__init__()
        if name not in LOSSES:
            raise ValueError(f"Unknown loss {name!r}; known: {', '.join(LOSSES)}.")
        known = {
            "dice": PhotoDiceLoss,
            "focal": lambda: smp.losses.FocalLoss("binary", gamma=FOCAL_GAMMA),
            "bce": lambda: smp.losses.SoftBCEWithLogitsLoss(),
        }
        self.terms = nn.ModuleDict({term: known[term]() for term in LOSSES[name]})

    def forward(self, logits: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each term by name, scalars.

        Args:
            logits: (B, 1, H, W) float.
            masks: (B, 1, H, W), 0 or 1, any type.
        """
        # Half precision cannot hold sums over the pixels of a batch.
        logits, masks = logits.float(), masks.float()
        return {name: term(logits, masks) for name, term in self.terms.items()}


class SegmenterModel(nn.Module):
    """A segmentation network as a detector: photos of any size in, the probability of a defect at each pixel out.

    Args:
        network: from :func:`build_network`, with one output channel.
        smoothing: side in pixels, odd, of the mean filter before the map's maximum becomes the score; 1 for none.

    Raises:
        ValueError: for an even or negative ``smoothing``.
    """

    def __init__(self, network: nn.Module, smoothing: int = 3) -> None:
        super().__init__()
        if smoothing < 1 or smoothing % 2 == 0:
            raise ValueError(f"smoothing must be an odd number of pixels, 1 or more, got {smoothing}.")
        self.network = network.to(memory_format=torch.channels_last)
        self.smoothing = smoothing

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H, W) for normalised photos (B, 3, H, W).

        A side that is no multiple of 32 is filled up with copies of its last row or column, and cut off again.
        """
        height, width = batch.shape[-2:]
        padded = functional.pad(batch, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        return self.network(padded)[..., :height, :width]

    def forward(self, batch: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Logits while training, predictions else; anomalib's models do so too.

        Args:
            batch: (B, 3, H, W) float photos, normalised.

        Returns:
            While training logits (B, 1, H, W). Else ``anomaly_map`` (B, 1, H, W), float32 in [0, 1], and ``pred_score``
            (B,), the maximum of the map after a mean over ``smoothing`` x ``smoothing`` pixels (at the border over
            those that lie inside), so that a single pixel does not decide.
        """
        logits = self.logits(batch)
        if self.training:
            return logits
        probability = logits.float().sigmoid()
        smooth = functional.avg_pool2d(
            probability, self.smoothing, stride=1, padding=self.smoothing // 2, count_include_pad=False
        )
        return InferenceBatch(pred_score=smooth.amax(dim=(1, 2, 3)), anomaly_map=probability)


class Segmenter(AnomalibModule):
    """U-Net or DeepLabV3+ as an anomalib module, trained with masks.

    Training wants batches with ``gt_mask``. Validation counts on the abnormal photos only: the normal photos of val
    set the threshold later, and a photo that helped to choose the checkpoint would make that threshold look better
    than it is. Logged each epoch: ``train_loss`` and each of its terms (``train_dice_loss``, ``train_focal_loss``,
    ``train_bce_loss``); ``val_loss``, and ``val_iou`` and ``val_dice``, the means over the abnormal photos of val of
    each one's IoU and Dice at probability 0.5.

    AdamW (Loshchilov & Hutter 2019); the learning rate rises over the first 5 % of the steps and falls along a cosine
    to zero at the last.

    Args:
        architecture: a name from :data:`ARCHITECTURES`.
        backbone: timm's name of the encoder.
        pre_trained: whether the encoder's weights are loaded.
        loss: a name from :data:`LOSSES`.
        learning_rate: the highest one, of the decoder.
        weight_decay: of AdamW.
        encoder_factor: the encoder's learning rate as a multiple of that.
        smoothing: see :class:`SegmenterModel`.
        pre_processor: from :func:`helpers.models.patchcore.make_pre_processor`.

    Raises:
        ValueError: for a parameter outside its range.
    """

    def __init__(
        self,
        architecture: str = "unet",
        backbone: str = "mobilenetv2_100.ra_in1k",
        pre_trained: bool = True,
        loss: str = "dice_focal",
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-2,
        encoder_factor: float = 1.0,
        smoothing: int = 3,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        for name, value in (("learning_rate", learning_rate), ("encoder_factor", encoder_factor)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}.")
        super().__init__(pre_processor=pre_processor, post_processor=False, evaluator=False, visualizer=False)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.encoder_factor = encoder_factor
        self.loss = SegmentationLoss(loss)
        network = assemble_network(architecture, backbone, pretrained=pre_trained)
        # Defects are rare: starting there spares the epochs in which a network only learns to say no (Lin et al., 3.3)
        nn.init.constant_(network.segmentation_head[0].bias, -math.log((1 - PRIOR) / PRIOR))
        self.model = SegmenterModel(network, smoothing)
        self._counts: list[torch.Tensor] = []

    @property
    def learning_type(self) -> LearningType:
        """anomalib has no word for supervised models; by this one its engine trains as usual."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No validation before training: it would count as the first epoch's."""
        return {"num_sanity_val_steps": 0}

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with two learning rates, and the schedule by steps.

        Raises:
            ValueError: if the trainer does not know how long it will train.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("The learning rate falls until the last step: give the trainer max_epochs or max_steps.")
        encoder = list(self.model.network.encoder.parameters())
        known = {id(parameter) for parameter in encoder}
        decoder = [parameter for parameter in self.model.network.parameters() if id(parameter) not in known]
        optimizer = torch.optim.AdamW(
            [{"params": decoder}, {"params": encoder, "lr": self.encoder_factor * self.learning_rate}],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of a batch."""
        del args, kwargs
        terms = self.loss(self.model(batch.image), _masks(batch))
        loss = torch.stack(list(terms.values())).sum()
        options = {"on_step": False, "on_epoch": True, "batch_size": len(batch.image)}
        self.log("train_loss", loss, prog_bar=True, **options)
        self.log_dict({f"train_{name}_loss": value for name, value in terms.items()}, **options)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start counting pixels afresh."""
        self._counts.clear()

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> None:
        """Loss and counts of a batch's abnormal photos."""
        del args, kwargs
        abnormal = batch.gt_label.bool()
        if not abnormal.any():
            return
        masks = _masks(batch)[abnormal]
        logits = self.model.logits(batch.image[abnormal])
        loss = torch.stack(list(self.loss(logits, masks).values())).sum()
        self.log("val_loss", loss, on_epoch=True, batch_size=len(masks))
        counts = smp.metrics.get_stats(logits.float().sigmoid(), masks.long(), mode="binary", threshold=0.5)
        self._counts.append(torch.cat(counts[:3], dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        """Log the mean IoU and Dice over the abnormal photos of val.

        Raises:
            ValueError: if there is none whose mask marks anything at the network's size.
        """
        counts = torch.cat(self._counts) if self._counts else torch.zeros(0, 3)
        true_positive, false_positive, false_negative = counts[counts[:, 0] + counts[:, 2] > 0].double().T
        if not len(true_positive):
            raise ValueError(
                "val holds no photo with a marked defect, so no epoch can be called the best: split with scheme "
                "'supervised' and a larger share for val, or train without validation (limit_val_batches=0)."
            )
        wrong = false_positive + false_negative
        self.log("val_iou", (true_positive / (true_positive + wrong)).mean().float())
        self.log("val_dice", (2 * true_positive / (2 * true_positive + wrong)).mean().float(), prog_bar=True)


def _masks(batch: Batch) -> torch.Tensor:
    """Masks of a batch as a plain tensor (B, 1, H, W)."""
    if batch.gt_mask is None:
        raise ValueError(
            "A segmenter needs the mask of every abnormal photo, and this split was read without masks: see the "
            "findings of notebook 01 for photos that lack theirs."
        )
    masks = batch.gt_mask.as_subclass(torch.Tensor)
    return masks.reshape(len(masks), 1, *masks.shape[-2:])


def rate_factor(step: int, n_steps: int) -> float:
    """Learning rate at a step as a share of the highest: a linear rise, then half a cosine to zero.

    Args:
        step: 0 for the first.
        n_steps: of the whole training; the first 5 % of them, one at least, make the rise.
    """
    rise = max(1, round(WARM_UP_SHARE * n_steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise + 1) / (n_steps - rise + 1))))
