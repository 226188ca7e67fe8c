"""Pictures that an inspection leaves behind: the mask of defects, the raw map, and the photo with both drawn in."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.drawing import draw_overlay
from helpers.paths import write_whole

FOLDERS = {"mask": ("masks", ".png"), "map": ("maps", ".npy"), "overlay": ("overlays", ".jpg")}
"""What can be saved -> folder and suffix."""


def save_pictures(
    folder: Path,
    key: str,
    photo: np.ndarray,
    anomaly_map: np.ndarray,
    mask: np.ndarray,
    threshold: float,
    what: Collection[str] = tuple(FOLDERS),
) -> dict[str, str]:
    """Save what was found in one photo, each file whole or not at all; what was saved -> its path below the folder.

    ``masks/<key>.png`` is 8-bit grey, 0 or 255. ``maps/<key>.npy`` is float16, as in a run's folder: half the size of
    float32, off by at most 0.05 % of a value. ``overlays/<key>.jpg`` is :func:`helpers.drawing.draw_overlay`.
    """
    writers = {
        "mask": lambda file: Image.fromarray(mask.astype(np.uint8) * 255).save(file),
        "map": lambda file: np.save(file, anomaly_map.astype(np.float16)),
        "overlay": lambda file: _save_jpeg(draw_overlay(photo, anomaly_map, mask, threshold), file),
    }
    saved = {kind: f"{subfolder}/{key}{suffix}" for kind, (subfolder, suffix) in FOLDERS.items() if kind in what}
    for kind, path in saved.items():
        write_whole(folder / path, writers[kind])
    return saved


def save_overlay(folder: Path, key: str, picture: np.ndarray) -> str:
    """Save a photo that has been drawn on; its path below the folder."""
    path = f"overlays/{key}.jpg"
    write_whole(folder / path, lambda file: _save_jpeg(picture, file))
    return path


def _save_jpeg(picture: np.ndarray, file: Path) -> None:
    Image.fromarray(picture).save(file, quality=90, subsampling=0)
