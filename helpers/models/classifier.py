"""Classifiers on timm: intact or damaged, or which of the known defects a photo shows.

One network for both: a backbone, batch normalisation of its features (photos of one product are alike: what tells them
apart is small beside what they share), dropout, a hidden layer (its output is the embedding that open-set recognition
works on), dropout, logits. Losses: cross-entropy, or focal loss (Lin et al. 2017, "Focal loss for dense object
detection"); with label smoothing (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7) and mixup
(Zhang et al. 2018, "mixup: beyond empirical risk minimization").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
import timm
import torch
from lightning import LightningModule
from sklearn.metrics import f1_score
from timm.data.mixup import Mixup, mixup_target
from torch import nn

import helpers.models.builtin  # noqa: F401  (registers its architecture with timm)
from helpers.data.samples import NORMAL
from helpers.models.backbones import Backbone, bare_backbone, model_args
from helpers.models.parts import adamw

if TYPE_CHECKING:
    from anomalib.data import Batch

BINARY_CLASSES = (NORMAL, "defect")
LOSSES = {"cross_entropy": 0.0, "focal": 2.0}  # gamma of `soft_target_loss`
WEIGHT_DECAY = 0.01


def photo_classes(table: pd.DataFrame, binary: bool = False) -> pd.Series:
    """The class of each photo of a sample table: its ``defect_type``; with ``binary`` ``good`` or ``defect``."""
    return table["label_index"].map(dict(enumerate(BINARY_CLASSES))) if binary else table["defect_type"]


def known_classes(table: pd.DataFrame, binary: bool = False, allow_unknown: bool = False) -> list[str]:
    """Classes in train in the order of the logits: ``good`` first, then by name; with ``allow_unknown`` test may hold
    photos of others. Tables that cannot be learned from are refused."""
    found = photo_classes(table, binary)
    names = sorted({*found[table["split"] == "train"]}, key=lambda each: (each != NORMAL, each))
    if len(names) < 2:
        raise ValueError(
            f"A classifier needs two classes or more; train holds {', '.join(names) or 'no photo'}. Split with scheme "
            "'supervised', which puts defect photos into train."
        )
    unknown = ~found.isin(names) & (not allow_unknown or table["split"] != "test")
    if unknown.any():
        raise ValueError(
            f"{int(unknown.sum())} photos are of a class that is not in train, {found[unknown].iloc[0]} among them "
            f"({table['image_path'][unknown].iloc[0]}); leave them out, or keep them for test with allow_unknown=True."
        )
    return names


def abnormal_scores(probabilities: torch.Tensor, normal: int | None) -> torch.Tensor:
    """Score of each photo, (N,) in [0, 1]: of probabilities (N, C) the sum of all but that of the class ``normal``, or
    without one of all but the highest. Training, Predictor and exported graphs have it from here.

    Not 1 - p, which has nothing left to rank by where p is nearly 1.
    """
    if normal is None:
        return probabilities.sort(dim=1, descending=True).values[:, 1:].sum(1)
    return torch.cat([probabilities[:, :normal], probabilities[:, normal + 1 :]], 1).sum(1)


def soft_target_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float = 0.0) -> torch.Tensor:
    """Mean over photos of -sum over classes c of y_c (1 - p_c)^gamma log(p_c), p the softmax of logits (B, C).

    For gamma = 0 cross-entropy, for targets of one class the focal loss (Lin et al. 2017, equation 4). Each row of
    targets sums to 1.
    """
    log_p = logits.float().log_softmax(dim=1)  # half precision cannot hold it
    return -(targets * (1 - log_p.exp()) ** gamma * log_p).sum(dim=1).mean()


class Classifier(LightningModule):
    """A backbone with a hidden layer and logits on top. Hyperparameters are plain data and enough to rebuild it.

    Batches are anomalib's; ``class_of`` knows the class of each photo by its path. Logged each epoch: ``train_loss``;
    ``val_loss`` (without smoothing and mixup), ``val_accuracy`` and ``val_f1`` (macro, over the classes of val).

    ``mixup`` is the alpha of Beta(alpha, alpha), of which a batch draws one share; 0: none. ``learning_rate`` is the
    new layers' highest, the backbone's ``backbone_lr_factor`` times that. ``freeze_norm`` leaves the backbone's batch
    normalisation at its statistics: by a small batch's, photos of one product lose what tells them apart. ``network``:
    normalised photos (B, 3, H, W) to features (B, D) or (B, D, h, w), ``num_features`` = D; None: without weights.
    """

    def __init__(
        self,
        architecture: str,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        hidden: int = 256,
        dropout: float = 0.3,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        learning_rate: float = 1e-3,
        backbone_lr_factor: float = 0.1,
        freeze_norm: bool = True,
        model_args: dict[str, Any] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        mean, std, classes = list(mean), list(std), list(classes)  # checkpoints hold plain data only
        self.save_hyperparameters(ignore=["network"])
        if network is None:
            with bare_backbone(architecture, model_args or {}) as bare:
                network = timm.create_model(bare, pretrained=False, num_classes=0)
        self.backbone = network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        # some networks widen their features after pooling
        width = getattr(network, "head_hidden_size", None) or network.num_features
        self.norm = nn.BatchNorm1d(width)
        self.hidden = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU())
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, len(classes))
        self.register_buffer("_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self._mixup = Mixup(mixup, label_smoothing=label_smoothing, num_classes=len(classes)) if mixup else None
        self._gamma = LOSSES[loss]
        self.classes = tuple(classes)
        self.class_of: dict[str, int] = {}  # path of a photo -> index of its class, for training
        self.train()  # Lightning takes the modes as it finds them

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for module in self.backbone.modules() if self.hparams.freeze_norm else []:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, ``hidden``), 0 or more, of photos (B, 3, H, W) in [0, 1] at the network's size."""
        return self.pool(self.feature_map(images))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """The backbone's last feature map, (B, C, h, w), or what it has instead."""
        return getattr(self.backbone, "forward_features", self.backbone)((images - self._mean) / self._std)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """From the feature map to the embedding; the built-in network has no pooling of its own."""
        pooled = self.backbone.forward_head(features) if hasattr(self.backbone, "forward_head") else features
        return self.hidden(self.norm(pooled.mean(dim=(2, 3)) if pooled.ndim == 4 else pooled))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.embed(images)))

    def mix(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A training batch after mixup and label smoothing: photos, and the shares of the classes (B, C), float32.

        Photo i is mixed with photo B - 1 - i; where B is odd, the last one stays as it is.
        """
        n_mixed = len(images) // 2 * 2 if self._mixup else 0
        shares = mixup_target(labels[n_mixed:], len(self.classes), 1.0, self.hparams.label_smoothing)
        if not n_mixed:
            return images, shares
        mixed, mixed_shares = self._mixup(images[:n_mixed].clone(), labels[:n_mixed])
        return torch.cat([mixed, images[n_mixed:]]), torch.cat([mixed_shares, shares])

    def _labelled(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.tensor([self.class_of[path] for path in batch.image_path], device=batch.image.device)
        return batch.image.as_subclass(torch.Tensor), labels

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        images, targets = self.mix(*self._labelled(batch))
        loss = soft_target_loss(self(images), targets, self._gamma)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, C) and embeddings (B, D)."""
        embeddings = self.embed(batch.image.as_subclass(torch.Tensor))
        return self.head(embeddings), embeddings

    def on_validation_epoch_start(self) -> None:
        self._outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = self._labelled(batch)
        self._outputs.append((self(images).float().cpu(), labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._outputs, strict=True))
        predicted = logits.argmax(dim=1)
        f1 = f1_score(labels, predicted, labels=labels.unique(), average="macro", zero_division=0.0)
        loss = soft_target_loss(logits, mixup_target(labels, len(self.classes)), self._gamma)
        self.log_dict({"val_loss": loss, "val_accuracy": (predicted == labels).float().mean()})
        self.log("val_f1", torch.tensor(f1, dtype=torch.float32), prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        rate, new = self.hparams.learning_rate, (self.norm, self.hidden, self.head)
        head = {"params": [parameter for layer in new for parameter in layer.parameters()]}
        backbone = {"params": list(self.backbone.parameters()), "lr": self.hparams.backbone_lr_factor * rate}
        return adamw(self, [head, backbone], rate, WEIGHT_DECAY)


def build_classifier(backbone: Backbone, classes: Sequence[str], **parameters: Any) -> Classifier:
    network = timm.create_model(backbone.name, pretrained=backbone.pretrained, num_classes=0)
    options = {"model_args": model_args(backbone.name), "network": network, **parameters}
    return Classifier(backbone.architecture, backbone.mean, backbone.std, classes, **options)


def load_classifier(file: Path, architecture: str, device: str = "cpu") -> Classifier:
    """The classifier of a checkpoint, of which no code is run; one on another architecture is refused."""
    stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters", {})
    if "classes" not in stored or stored["architecture"] != architecture:
        raise ValueError(f"{file} holds no classifier on {architecture}; it was written by another model.")
    return Classifier.load_from_checkpoint(file, map_location=device, weights_only=True).eval().to(device)


def grad_cam(model: Classifier, photos: Sequence[np.ndarray], class_indices: Sequence[int]) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017): maps (N, H, W) float32 in [0, 1] of photos (H, W, 3) uint8, each for a class.

    A map is the paper's, at the backbone's last feature map, divided by its maximum: maps of two photos do not compare.
    The minimum is not taken off: in a map of nearly one value no place is to stand out.
    """
    model.eval()
    maps = []
    for photo, index in zip(photos, class_indices, strict=True):
        with torch.enable_grad():
            features = model.feature_map(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
            channels_first = features.ndim == 4 and getattr(model.backbone, "output_fmt", "NCHW") == "NCHW"
            if not channels_first or features.shape[2] * features.shape[3] < 2:
                raise ValueError(
                    f"{model.hparams.architecture} has no feature map of more than a pixel in a photo of "
                    f"{photo.shape[1]}x{photo.shape[0]}; Grad-CAM needs a convolutional network and a larger photo."
                )
            logit = model.head(model.pool(features))[0, int(index)]
            (gradient,) = torch.autograd.grad(logit, features)
        found = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1)[0].clamp_min(0).numpy()
        shares = found / (found.max() or 1)
        maps.append(cv2.resize(shares, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(maps)
