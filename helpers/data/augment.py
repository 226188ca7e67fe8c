"""Augmentations for supervised training: a photo and its mask are moved together, and only the photo changes its light.

Each can be switched off: what is physically wrong for the product (a part that never lies upside down, a defect that
is told by its brightness) teaches a network to expect what will not come. Everything random is drawn from torch's
generator, so that ``torch.manual_seed`` repeats it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.tv_tensors import Mask, wrap


def make_augmentations(
    *,
    image_size: tuple[int, int] | None = None,
    flips: bool = True,
    rotation: float = 10.0,
    scale: float = 0.1,
    light: float = 0.2,
    blur: bool = True,
    noise: float = 0.02,
) -> v2.Transform:
    """Augmentations of a photo (3, H, W), float32 in [0, 1], alone or with its ``Mask`` (H, W), uint8 of 0 and 1.

    ``image_size`` (height, width) is resized to first, as the network's pre-processor would do afterwards: the rest is
    faster on the small photo. ``flips``: left to right and top to bottom, each for every second photo. ``rotation`` in
    degrees, ``scale``, ``light`` (brightness and contrast): the largest change either way. ``blur`` and ``noise`` (its
    standard deviation) are for every second photo. 0 or False leaves a step out.
    """
    if not 0 <= rotation <= 180 or not all(0 <= value < 1 for value in (scale, light, noise)):
        values = f"rotation={rotation}, scale={scale}, light={light}, noise={noise}"
        raise ValueError(f"{values}: give a rotation of 0 to 180 degrees, and 0 or more and below 1 for the others.")
    steps: list[v2.Transform] = []
    if image_size is not None:
        steps.append(v2.Resize(list(image_size), antialias=True))
    if flips:
        steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    if rotation or scale:
        steps.append(RandomTurn(rotation, scale))
    if light:
        steps.append(v2.ColorJitter(brightness=light, contrast=light))
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.2))], p=0.5))
    if noise:
        steps.append(v2.RandomApply([v2.GaussianNoise(sigma=noise)], p=0.5))
    return v2.Compose(steps or [v2.Identity()])


class RandomTurn(v2.Transform):
    """Rotation about the centre and change of size at once; what comes from outside is the mirrored photo.

    torchvision's own ``RandomAffine`` fills with a constant: black corners, which a network learns, or which it takes
    for defects. The photo is interpolated bilinearly, the mask takes the nearest pixel.
    """

    def __init__(self, rotation: float, scale: float) -> None:
        super().__init__()
        self.rotation, self.scale = rotation, scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        del flat_inputs
        angle, size = (2 * torch.rand(2) - 1).tolist()
        return {"angle": math.radians(angle * self.rotation), "factor": (1 + self.scale) ** size}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        height, width = inpt.shape[-2:]
        cosine, sine = (wave(params["angle"]) / params["factor"] for wave in (math.cos, math.sin))
        # from where a pixel comes, in coordinates from -1 to 1 along both sides; hence the ratios of the sides
        origin = torch.tensor([[[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]])
        grid = functional.affine_grid(origin.to(inpt.device), [1, 1, height, width], align_corners=False)
        flat = inpt.as_subclass(torch.Tensor).reshape(1, -1, height, width).float()
        way = "nearest" if isinstance(inpt, Mask) else "bilinear"
        moved = functional.grid_sample(flat, grid, mode=way, padding_mode="reflection", align_corners=False)
        return wrap(moved.reshape(inpt.shape).clamp(0, 1).to(inpt.dtype), like=inpt)
