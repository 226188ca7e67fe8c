"""Where the object is in a photo, so that the background raises no alarm; and a mask of defects cleaned of specks.

An object mask comes from a folder of masks, from Otsu's threshold (Otsu 1979, "A threshold selection method from
gray-level histograms") or from the foreground network of notebook 03. Scores and maps are confined to the object before
any threshold is set, so that what is promised holds for what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, disk, opening, remove_small_objects

from helpers.data.images import read_image, read_mask, to_network_frame

MASK_SUFFIX = ".png"

Refine = Callable[[Sequence[str], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Paths of a batch's photos and its maps (N, H, W) -> scores (N,) and maps (N, H, W) that take their place."""


def otsu_object_mask(photo: np.ndarray) -> np.ndarray:
    """The object as the largest region on one side of Otsu's threshold, its holes filled.

    The background is the side that has more of the photo's border. A photo of one grey level is all object.

    Args:
        photo: (H, W, 3) uint8.

    Returns:
        (H, W) bool.
    """
    grey = photo.mean(axis=2)
    if grey.min() == grey.max():
        return np.ones(grey.shape, dtype=bool)
    bright = grey > threshold_otsu(grey)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    inside = ~bright if border.mean() > 0.5 else bright
    regions = label(inside, connectivity=2)
    largest = 1 + np.bincount(regions.ravel())[1:].argmax()
    return ndimage.binary_fill_holes(regions == largest)


def clean_mask(
    mask: np.ndarray, *, opening_diameter: int = 3, closing_diameter: int = 5, min_area: int = 0
) -> np.ndarray:
    """Remove specks from a mask of defects, close gaps in it, and drop what is small.

    Args:
        mask: (H, W) bool.
        opening_diameter: pixels, odd; what is narrower goes; 0 or 1: nothing.
        closing_diameter: pixels, odd; gaps that are narrower close; 0 or 1: none.
        min_area: regions of fewer pixels go.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: for an even or negative diameter or a negative area.
    """
    for name, value in (("opening_diameter", opening_diameter), ("closing_diameter", closing_diameter)):
        if value < 0 or (value > 0 and value % 2 == 0):
            raise ValueError(f"{name} must be an odd number of pixels, or 0 for none; got {value}.")
    if min_area < 0:
        raise ValueError(f"min_area must not be negative, got {min_area}.")
    cleaned = np.asarray(mask, dtype=bool)
    if opening_diameter > 1:
        cleaned = opening(cleaned, disk(opening_diameter // 2))
    if closing_diameter > 1:
        cleaned = closing(cleaned, disk(closing_diameter // 2))
    if min_area > 1:
        cleaned = remove_small_objects(cleaned, max_size=min_area - 1, connectivity=2)
    return cleaned


class ObjectMasks:
    """Object masks of photos at the network's size.

    Args:
        kind: ``otsu``, ``foreground``, or a folder with ``<photo's name without suffix>.png`` for each photo, all in it
            or in subfolders that are called like the photos' own.
        parameters: of the run: ``image_size`` and ``center_crop``, see :func:`helpers.data.images.to_network_frame`.
        segment: for ``foreground``: photo (H, W, 3) uint8 -> object (H, W) bool.

    Raises:
        ValueError: if the folder is missing, or ``foreground`` comes without a network.
    """

    def __init__(
        self, kind: str, parameters: Mapping[str, Any], segment: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self.kind = kind
        self.parameters = parameters
        if kind == "otsu":
            segment = otsu_object_mask
        elif kind == "foreground" and segment is None:
            raise ValueError("OBJECT_MASK='foreground' needs the network that notebook 03 trains on raw frames.")
        elif kind != "foreground" and not Path(kind).is_dir():
            raise ValueError(f"OBJECT_MASK={kind!r}: expected none, otsu, foreground, or a folder with a mask a photo.")
        self.segment = segment

    def mask(self, image_path: str) -> np.ndarray:
        """Where the object of a photo is, (H, W) bool.

        Raises:
            FileNotFoundError: if the folder has no mask for it.
        """
        if self.segment is not None:
            return to_network_frame(self.segment(read_image(Path(image_path))), self.parameters)
        photo = Path(image_path)
        names = (photo.with_suffix(MASK_SUFFIX).name, f"{photo.parent.name}/{photo.with_suffix(MASK_SUFFIX).name}")
        file = next((Path(self.kind) / name for name in reversed(names) if (Path(self.kind) / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"OBJECT_MASK={self.kind!r}: no {names[0]} for {image_path}; draw it, or use otsu.")
        return to_network_frame(read_mask(file), self.parameters)

    def __call__(self, image_paths: Sequence[str]) -> torch.Tensor:
        """Masks of several photos, (B, 1, H, W) float, 0 or 1."""
        return torch.from_numpy(np.stack([self.mask(path) for path in image_paths])[:, None]).float()

    def refine(self, score: Callable[[torch.Tensor], torch.Tensor]) -> Refine:
        """What confines maps to the object and scores them anew.

        Args:
            score: maps (B, 1, H, W) -> scores (B,).
        """

        def confine(image_paths: Sequence[str], maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            confined = torch.from_numpy(maps)[:, None] * self(image_paths)
            return score(confined).numpy(), confined[:, 0].numpy()

        return confine
