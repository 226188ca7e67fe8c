"""A U-Net that finds objects in raw photos: it predicts, at every pixel, how deep inside an object that pixel lies.

The target is the Euclidean distance to the object's edge, divided by its largest value in that object: 0 on the
background, 1 in the middle of every object whatever its size. Touching objects have a valley between them, which a
plain foreground mask has not (Bai & Urtasun 2017, "Deep watershed transform for instance segmentation"; Naylor et al.
2019, "Segmentation of nuclei in histopathology images by deep regression of the distance map"). The network is
a U-Net (Ronneberger, Fischer & Brox 2015) with one sigmoid output, trained by regression.
:mod:`helpers.analysis.matching` turns its map into objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningModule
from scipy import ndimage
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from helpers.compute import full_precision
from helpers.data.images import read_image
from helpers.models.backbones import bare_backbone
from helpers.models.segmentation import STRIDE, build_network

if TYPE_CHECKING:
    from helpers.data.coco import InstancePhoto

Pair = tuple[torch.Tensor, torch.Tensor]  # photos (3, H, W) and targets (1, H, W), or batches of them

SMOOTH_L1_BETA = 0.1  # errors below this count squared; the map goes from 0 to 1
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
CHECKPOINT_NAME = "foreground.ckpt"
SCALES = (0.8, 1.25)  # how much smaller or larger a crop shows its objects
GAIN, OFFSET, GAMMA = 0.3, 0.1, 0.3  # largest changes of the light: factor about mid grey, sum, log of the exponent


def distance_target(instance_masks: np.ndarray) -> np.ndarray:
    """The map (H, W) float32 to learn: depth inside each object of masks (N, H, W), 0 (background) to 1 (its deepest).

    Holes are filled first, so that every object has one peak and not a ring of them. The photo's border is no edge: an
    object that it cuts goes on rising up to it. Where masks overlap the larger depth counts.
    """
    masks = np.asarray(instance_masks, dtype=bool)
    target = np.zeros(masks.shape[1:], dtype=np.float32)
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        # One pixel more on every side that lies in the photo: the nearest background is never farther away.
        top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
        window = np.s_[top : rows[-1] + 2, left : columns[-1] + 2]
        filled = ndimage.binary_fill_holes(mask[window])
        # An object that is all of the photo has no edge, and no pixel of it is deeper than another.
        depth = ndimage.distance_transform_edt(filled) if not filled.all() else np.ones(filled.shape)
        np.maximum(target[window], (depth / depth.max()).astype(np.float32), out=target[window])
    return target


class ForegroundNet(LightningModule):
    """U-Net with one sigmoid output, trained on `distance_target` by the smooth L1 error (Girshick 2015, "Fast R-CNN").

    ``image_size`` is the longer side of what it sees. Hyperparameters are plain data and enough to load a checkpoint;
    ``network`` None builds one without weights.
    """

    def __init__(
        self,
        architecture: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int = 256,
        model_args: dict[str, Any] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        mean, std = list(mean), list(std)  # checkpoints hold plain data only
        self.save_hyperparameters(ignore=["network"])
        if network is None:
            with bare_backbone(architecture, model_args or {}) as encoder:
                network = build_network("unet", encoder, pretrained=False)
        self.network = network.to(memory_format=torch.channels_last)  # faster on a CPU
        self.register_buffer("_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        """Photos (B, 3, H, W) in [0, 1], sides multiples of 32, to maps (B, 1, H, W) in [0, 1]."""
        return torch.sigmoid(self.network((photos - self._mean) / self._std))

    def training_step(self, batch: Pair, batch_idx: int) -> torch.Tensor:
        photos, targets = batch
        loss = functional.smooth_l1_loss(self(photos), targets, beta=SMOOTH_L1_BETA)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(photos))
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class FrameCrops(Dataset):
    """Random crops of photos in turn: any place, turned by quarters, mirrored, 0.8 to 1.25 times as large, other light.

    The n-th that is asked for follows from the seed and n, whatever its index, so that no epoch sees the crops of
    another. A photo smaller than ``crop_size``, a multiple of 32 pixels, goes on mirrored.
    """

    def __init__(self, photos: Sequence[InstancePhoto], image_size: int, crop_size: int, n_crops: int, seed: int):
        if not photos:
            raise ValueError("There is no photo to train on.")
        self.frames = [_read_frame(photo, image_size) for photo in photos]
        self.crop_size, self.n_crops, self.seed, self.n_drawn = crop_size, n_crops, seed, 0

    def __len__(self) -> int:
        return self.n_crops

    def __getitem__(self, index: int) -> Pair:
        index, self.n_drawn = self.n_drawn, self.n_drawn + 1
        rng = np.random.default_rng((self.seed, index))
        photo, target = self.frames[index % len(self.frames)]
        side = round(self.crop_size / math.exp(rng.uniform(math.log(SCALES[0]), math.log(SCALES[1]))))
        photo, target = (_pad(each, max(side, each.shape[0]), max(side, each.shape[1])) for each in (photo, target))
        top, left = (int(rng.integers(0, length - side + 1)) for length in target.shape)
        window, size = np.s_[top : top + side, left : left + side], (self.crop_size, self.crop_size)
        photo, target = (cv2.resize(each[window], size, interpolation=cv2.INTER_LINEAR) for each in (photo, target))
        quarters, mirrored = int(rng.integers(4)), rng.random() < 0.5
        photo, target = (np.rot90(each, quarters)[:, :: -1 if mirrored else 1] for each in (photo, target))
        gain, offset = 1 + rng.uniform(-GAIN, GAIN), rng.uniform(-OFFSET, OFFSET)
        values = np.clip((photo.astype(np.float32) / 255 - 0.5) * gain + 0.5 + offset, 0, 1)
        values = values ** np.float32(math.exp(rng.uniform(-GAMMA, GAMMA)))
        return _photo_tensor(values), torch.from_numpy(target.copy())[None]


@torch.inference_mode()
@full_precision()
def predict_distance(net: ForegroundNet, photo: np.ndarray) -> np.ndarray:
    """The distance map (H, W) float32 in [0, 1] of a photo (H, W, 3) uint8, enlarged from the network's own size."""
    small = _resize(photo, net.hparams.image_size)
    height, width = small.shape[:2]
    padded = _pad(small, *(-(-side // STRIDE) * STRIDE for side in (height, width)))
    predicted = net(_photo_tensor(padded)[None].to(net.device))[0, 0, :height, :width].float().cpu().numpy()
    return np.clip(cv2.resize(predicted, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)


def _read_frame(photo: InstancePhoto, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 photo (H, W, 3) and float32 target (H, W)."""
    if any(photo.crowd):
        raise ValueError(
            f"{photo.image_path} has objects outlined as one group (iscrowd); outline them one by one, or leave it out."
        )
    pixels = read_image(photo.image_path)
    if pixels.shape[:2] != tuple(photo.size):
        raise ValueError(
            f"{photo.image_path} is {pixels.shape[1]}x{pixels.shape[0]} pixels but annotated as "
            f"{photo.size[1]}x{photo.size[0]} (width x height); export the annotation again."
        )
    return _resize(pixels, image_size), _resize(distance_target(photo.instance_masks()), image_size)


def _resize(picture: np.ndarray, longer_side: int) -> np.ndarray:
    scale = longer_side / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Go on mirrored at the right and at the bottom, up to a size."""
    beyond = [(0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)]
    return np.pad(picture, beyond[: picture.ndim], mode="symmetric")


def _photo_tensor(photo: np.ndarray) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1] from uint8, or from float32 in [0, 1]."""
    values = photo.astype(np.float32) / 255 if photo.dtype == np.uint8 else photo
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
