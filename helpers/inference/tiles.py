"""Maps at a photo's own size: the photo resized to the network and its map back, or the photo cut into tiles.

Which of the two depends on how large a defect is. Resizing shows the network what it was trained on, but a scratch of
two pixels on a photo of 4,000 is gone at 256. Tiles keep it; the network must then have been trained at that scale (on
crops, or on photos that are as close up).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from helpers.compute import full_precision
from helpers.data.images import map_at_photo_size

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

WINDOW_FLOOR = 1e-3  # a window that reached zero at its border would leave the corners of the photo without weight


def predict_photo(
    model: AnomalibModule, photo: torch.Tensor, *, device: str | torch.device | None = None
) -> np.ndarray:
    """Map of one photo as the model was trained: resized to the network, and the map enlarged.

    Args:
        model: a detector with a pre-processor of :func:`helpers.models.patchcore.make_pre_processor`.
        photo: (3, H, W) float32 in [0, 1], any size.
        device: where it runs, and where the model stays afterwards; default: where the model is.

    Returns:
        (H, W) float32 in the unit of the model's map, see :func:`helpers.data.images.map_at_photo_size`.

    Raises:
        ValueError: for a photo of another shape or type.
    """
    _check_photo(photo)
    model, device = _ready(model, device)
    with torch.inference_mode(), full_precision():
        found = model.model(model.pre_processor.transform(photo[None].to(device))).anomaly_map.float()
    about = {"image_size": _resized(model), "center_crop": found.shape[-2:]}
    return map_at_photo_size(found[0, 0].cpu().numpy(), tuple(photo.shape[-2:]), about)


def predict_tiled(
    model: AnomalibModule,
    photo: torch.Tensor,
    tile: tuple[int, int],
    *,
    overlap: float = 0.25,
    batch_size: int = 4,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """Map of a photo of any size, tile by tile at the photo's own scale.

    Of the model's pre-processor only the normalisation is applied: a tile is not resized. Tiles lie evenly and overlap;
    where they do, their maps are averaged with a weight that falls towards a tile's border (:func:`blend_window`),
    where a network sees least of the surroundings. A photo smaller than a tile is filled up at the right and below by
    copies of its last column and row, and its map is cut back.

    Args:
        model: a detector with a pre-processor that holds a ``Normalize``.
        photo: (3, H, W) float32 in [0, 1].
        tile: (height, width) in pixels.
        overlap: share of a tile, in [0, 1), that the next one covers too, at least.
        batch_size: tiles that go through the network at once.
        device: where it runs, and where the model stays afterwards; default: where the model is.

    Returns:
        (H, W) float32 in the unit of the model's map.

    Raises:
        ValueError: for a photo of another shape or type, or a tile, an overlap or a batch size outside its range.
    """
    _check_photo(photo)
    if min(tile) < 1 or batch_size < 1:
        raise ValueError(f"tile and batch_size must be 1 or more, got {tile} and {batch_size}.")
    model, device = _ready(model, device)
    height, width = photo.shape[-2:]
    padding = (0, max(0, tile[1] - width), 0, max(0, tile[0] - height))
    whole = functional.pad(photo[None], padding, mode="replicate")[0]
    corners = [
        (top, left)
        for top in tile_starts(whole.shape[-2], tile[0], overlap)
        for left in tile_starts(whole.shape[-1], tile[1], overlap)
    ]
    window = blend_window(tile)
    total, weight = torch.zeros(whole.shape[-2:]), torch.zeros(whole.shape[-2:])
    normalise = _normalisation(model)
    for first in range(0, len(corners), batch_size):
        chosen = corners[first : first + batch_size]
        batch = torch.stack([whole[:, top : top + tile[0], left : left + tile[1]] for top, left in chosen])
        with torch.inference_mode(), full_precision():
            maps = model.model(normalise(batch.to(device))).anomaly_map.float().cpu()
        for (top, left), found in zip(chosen, maps[:, 0], strict=True):
            place = (slice(top, top + tile[0]), slice(left, left + tile[1]))
            total[place] += window * found
            weight[place] += window
    return (total / weight)[:height, :width].numpy()


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one side: at 0, evenly, and so that the last one ends with the side.

    Args:
        length: of the side, in pixels.
        tile: side of a tile, in pixels; a side that is not longer takes one tile.
        overlap: share of a tile, in [0, 1), that the next one covers too, at least.

    Raises:
        ValueError: for an overlap outside its range.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be 0 or more and below 1, got {overlap}.")
    step = max(1, math.floor(tile * (1 - overlap)))
    n_steps = max(0, math.ceil((length - tile) / step))
    return [round(number * (length - tile) / n_steps) for number in range(n_steps + 1)] if n_steps else [0]


def blend_window(tile: tuple[int, int]) -> torch.Tensor:
    """Weight of each pixel of a tile, (height, width) float32 in (0, 1]: a squared sine along both sides (Hann)."""
    rows, columns = (
        torch.sin(torch.pi * (torch.arange(side) + 0.5) / side).square().clamp_min(WINDOW_FLOOR) for side in tile
    )
    return rows[:, None] * columns


def _check_photo(photo: torch.Tensor) -> None:
    if photo.ndim != 3 or photo.shape[0] != 3 or not photo.is_floating_point():
        raise ValueError(f"Expected a photo (3, H, W), float in [0, 1]; got {tuple(photo.shape)}, {photo.dtype}.")


def _ready(model: AnomalibModule, device: str | torch.device | None) -> tuple[AnomalibModule, torch.device]:
    target = model.device if device is None else torch.device(device)
    return model.eval().to(target), target


def _resized(model: AnomalibModule) -> tuple[int, int]:
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import Resize

    height, width = extract_transforms_by_type(model.pre_processor.transform, Resize)[0].size
    return height, width


def _normalisation(model: AnomalibModule) -> torch.nn.Module:
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import Normalize

    return extract_transforms_by_type(model.pre_processor.transform, Normalize)[0]
