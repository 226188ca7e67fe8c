"""Where the object is in a photo, so that the background raises no alarm; and a mask of defects cleaned of specks.

Scores and maps are confined to the object before any threshold is set, so that promises hold for what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, disk, opening, remove_small_objects

from helpers.data.images import read_image, read_mask, to_network_frame

Segment = Callable[[np.ndarray], np.ndarray]  # photo (H, W, 3) uint8 -> where the object is, (H, W) bool
# Paths of a batch's photos and its maps (N, H, W) -> scores (N,) and maps (N, H, W) that take their place
Refine = Callable[[Sequence[str], np.ndarray], tuple[np.ndarray, np.ndarray]]


def otsu_object_mask(photo: np.ndarray) -> np.ndarray:
    """The object, (H, W) bool: the largest region on the side of Otsu's threshold (Otsu 1979) that has less of the
    photo's border, its holes filled. A photo of one grey level is all object.
    """
    grey = photo.mean(axis=2)
    if grey.min() == grey.max():
        return np.ones(grey.shape, dtype=bool)
    bright = grey > threshold_otsu(grey)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    regions = label(~bright if border.mean() > 0.5 else bright, connectivity=2)
    return ndimage.binary_fill_holes(regions == 1 + np.bincount(regions.ravel())[1:].argmax())


def clean_mask(
    mask: np.ndarray, *, opening_diameter: int = 3, closing_diameter: int = 5, min_area: int = 0
) -> np.ndarray:
    """Remove specks narrower than the one diameter from a mask of defects (H, W) bool, close gaps narrower than the
    other (0 or 1: none), and drop regions below ``min_area`` pixels; ValueError: an even diameter, a negative number.
    """
    cleaned = np.asarray(mask, dtype=bool)
    for clean, diameter in ((opening, opening_diameter), (closing, closing_diameter)):
        if diameter < 0 or (diameter and diameter % 2 == 0) or min_area < 0:
            given = f"opening_diameter={opening_diameter}, closing_diameter={closing_diameter}, min_area={min_area}"
            raise ValueError(f"{given}: diameters must be odd numbers of pixels, or 0 for none; no area is negative.")
        cleaned = clean(cleaned, disk(diameter // 2)) if diameter > 1 else cleaned
    return remove_small_objects(cleaned, max_size=min_area - 1, connectivity=2) if min_area > 1 else cleaned


class ObjectMasks:
    """Object masks of photos at the network's size, see :func:`helpers.data.images.to_network_frame`.

    ``kind`` is ``otsu``, ``foreground`` (with a ``segment``), or a folder with ``<photo's name without suffix>.png``
    for each photo, all in it or in subfolders that are called like the photos' own; ``parameters`` of the run:
    ``image_size`` and ``center_crop``. ValueError: there is no such folder, or no ``segment``.
    """

    def __init__(self, kind: str, parameters: Mapping[str, Any], segment: Segment | None = None) -> None:
        self.kind, self.parameters = kind, parameters
        self.segment = otsu_object_mask if kind == "otsu" else segment
        if self.segment is None and not Path(kind).is_dir():
            raise ValueError(
                f"OBJECT_MASK={kind!r}: expected none, otsu, foreground (with the network that notebook 03 trains on "
                "raw frames), or a folder with a mask a photo."
            )

    def mask(self, image_path: str, photo: np.ndarray | None = None) -> np.ndarray:
        """Where the object of a photo is, (H, W) bool; FileNotFoundError: the folder has no mask for it."""
        if self.segment is not None:
            return to_network_frame(self.segment(read_image(image_path) if photo is None else photo), self.parameters)
        name = Path(image_path).with_suffix(".png")
        for file in (Path(self.kind) / name.parent.name / name.name, Path(self.kind) / name.name):
            if file.is_file():
                return to_network_frame(read_mask(file), self.parameters)
        raise FileNotFoundError(f"OBJECT_MASK={self.kind!r}: no {name.name} for {image_path}; draw it, or use otsu.")

    def __call__(self, image_paths: Sequence[str], photos: Iterable[np.ndarray | None] = repeat(None)) -> torch.Tensor:
        """Masks of several photos, which are read where they are not given, (B, 1, H, W) float, 0 or 1."""
        masks = [self.mask(path, photo) for path, photo in zip(image_paths, photos, strict=False)]
        return torch.from_numpy(np.stack(masks)[:, None]).float()

    def confine(
        self, image_paths: Sequence[str], maps: np.ndarray, photos: Iterable[np.ndarray | None] = repeat(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores (B,), DRAEM's smoothed maximum, and maps (B, H, W) that are 0 beyond the object."""
        from helpers.models.draem import smoothed_maximum

        confined = torch.from_numpy(maps)[:, None] * self(image_paths, photos)
        return smoothed_maximum(confined).numpy(), confined[:, 0].numpy()
