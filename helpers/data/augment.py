"""Augmentations for supervised training: a photo and its mask are moved together, and only the photo changes its light.

Each can be switched off: what is physically wrong for the product (a part that never lies upside down, a defect that
is told by its brightness) teaches a network to expect what will not come. Everything random is drawn from torch's
generator, so that ``torch.manual_seed`` repeats it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_dtype, to_image
from torchvision.tv_tensors import Image, Mask, wrap

from helpers.data.images import read_image, read_mask

BLUR_KERNEL = 5
BLUR_SIGMA = (0.3, 1.2)  # pixels
SOMETIMES = 0.5  # chance of blur, and of noise
FLIPS = {True: ("horizontal", "vertical"), False: (), "horizontal": ("horizontal",), "vertical": ("vertical",)}


def make_augmentations(
    *,
    image_size: tuple[int, int] | None = None,
    flips: bool | str = True,
    rotation: float = 10.0,
    scale: float = 0.1,
    light: float = 0.2,
    blur: bool = True,
    noise: float = 0.02,
) -> v2.Transform:
    """Augmentations of a training photo and its mask.

    The transform takes a photo (3, H, W), float32 in [0, 1], alone or with its mask (``tv_tensors.Mask``, (H, W) uint8,
    0 or 1), as `helpers.data.datamodule.SampleDataset` hands them over. The photo stays in [0, 1], the mask 0 or 1.

    Args:
        image_size: (height, width) in pixels to resize to first, as the network's pre-processor would do afterwards:
            the rest is then done on the small photo, which is faster. None leaves the photo's size.
        flips: left to right and top to bottom, each for every second photo; "horizontal" or "vertical" for one of
            them, False for none.
        rotation: largest angle in degrees, either way, about the centre; 0 for none.
        scale: largest relative change of size, either way, in [0, 1); 0 for none.
        light: largest relative change of brightness and of contrast, in [0, 1); 0 for none.
        blur: whether every second photo is blurred a little (Gaussian, sigma 0.3 to 1.2 pixels).
        noise: standard deviation, photos in [0, 1], of the Gaussian noise on every second photo; 0 for none.
    """
    if flips not in FLIPS:
        raise ValueError(f"flips must be True, False, 'horizontal' or 'vertical', got {flips!r}.")
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation must be 0 to 180 degrees, got {rotation}.")
    for name, value in (("scale", scale), ("light", light), ("noise", noise)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be 0 or more and below 1, got {value}.")
    steps: list[v2.Transform] = []
    if image_size is not None:
        steps.append(v2.Resize(list(image_size), antialias=True))
    if "horizontal" in FLIPS[flips]:
        steps.append(v2.RandomHorizontalFlip())
    if "vertical" in FLIPS[flips]:
        steps.append(v2.RandomVerticalFlip())
    if rotation or scale:
        steps.append(RandomTurn(rotation, scale))
    if light:
        steps.append(v2.ColorJitter(brightness=light, contrast=light))
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(BLUR_KERNEL, BLUR_SIGMA)], p=SOMETIMES))
    if noise:
        steps.append(v2.RandomApply([v2.GaussianNoise(sigma=noise)], p=SOMETIMES))
    return v2.Compose(steps or [v2.Identity()])


class RandomTurn(v2.Transform):
    """Rotation about the centre and change of size at once; what comes from outside is the mirrored photo.

    torchvision's own ``RandomAffine`` fills with a constant: black corners, which a network learns, or which it takes
    for defects. Here photo and mask are continued by reflection at their border. The photo is interpolated bilinearly,
    the mask takes the nearest pixel.
    """

    def __init__(self, rotation: float, scale: float) -> None:
        super().__init__()
        self.rotation = rotation
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the angle in radians and the factor of size."""
        del flat_inputs
        angle, size = (2 * torch.rand(2) - 1).tolist()
        return {"angle": math.radians(angle * self.rotation), "factor": (1 + self.scale) ** size}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Move a photo (..., H, W) or a mask by the drawn parameters."""
        if isinstance(inpt, Mask):
            return wrap(turn(inpt.as_subclass(torch.Tensor), **params, mode="nearest"), like=inpt)
        moved = turn(inpt.as_subclass(torch.Tensor), **params, mode="bilinear").clamp(0, 1)
        return wrap(moved, like=inpt) if isinstance(inpt, Image) else moved


def turn(picture: torch.Tensor, angle: float, factor: float, mode: str) -> torch.Tensor:
    """Rotate and resize a picture about its centre, in its own frame, continued by reflection."""
    height, width = picture.shape[-2:]
    cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
    # From where a pixel comes, in coordinates from -1 to 1 along both sides; hence the ratios of the sides.
    origin = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    grid = functional.affine_grid(
        torch.tensor([origin], device=picture.device), [1, 1, height, width], align_corners=False
    )
    flat = picture.reshape(1, -1, height, width).float()
    moved = functional.grid_sample(flat, grid, mode=mode, padding_mode="reflection", align_corners=False)
    return moved.reshape(picture.shape).to(picture.dtype)


def augmented_examples(
    rows: pd.DataFrame, augmentations: v2.Transform, copies: int = 5, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Some photos with their masks as they are, each followed by augmented copies: what ``gallery`` draws."""
    photos, masks, titles = [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for row in rows.itertuples():
            photo = read_image(row.image_path)
            mask = read_mask(row.mask_path, photo.shape[:2])
            photos.append(photo)
            masks.append(mask.astype(bool))
            titles.append(row.defect_type)
            image = to_dtype(to_image(photo), torch.float32, scale=True)
            for _ in range(copies):
                changed, moved = augmentations(image, Mask(torch.from_numpy(mask), dtype=torch.uint8))
                photos.append((changed.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
                masks.append(moved.numpy().astype(bool))
                titles.append("augmented")
    return photos, masks, titles
