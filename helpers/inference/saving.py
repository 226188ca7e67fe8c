"""Pictures that an inspection leaves behind: the mask of defects, the raw map, and the photo with both drawn in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.drawing import draw_boxes, draw_overlay
from helpers.paths import write_whole

FOLDERS = {"mask": ("masks", ".png"), "map": ("maps", ".npy"), "overlay": ("overlays", ".jpg")}
"""What can be saved -> folder and suffix."""

JPEG_QUALITY = 90


def save_pictures(
    folder: Path,
    key: str,
    photo: np.ndarray,
    anomaly_map: np.ndarray,
    mask: np.ndarray,
    threshold: float,
    what: Collection[str] = tuple(FOLDERS),
) -> dict[str, str]:
    """Save what was found in one photo; each file is whole or not there.

    ``masks/<key>.png`` is 8-bit grey, 0 or 255. ``maps/<key>.npy`` is float16, as in a run's folder: half the size of
    float32, off by at most 0.05 % of a value. ``overlays/<key>.jpg`` is :func:`draw_overlay`.

    Args:
        folder: gets a folder for each kind.
        key: name of the photo without suffix, may hold folders.
        photo: (H, W, 3) uint8.
        anomaly_map: (H, W) float32, raw.
        mask: (H, W) bool, True is defect.
        threshold: of a pixel.
        what: names from :data:`FOLDERS`.

    Returns:
        What was saved -> its path relative to ``folder``.
    """
    writers = {
        "mask": lambda file: Image.fromarray(mask.astype(np.uint8) * 255).save(file),
        "map": lambda file: np.save(file, anomaly_map.astype(np.float16)),
        "overlay": lambda file: _save_jpeg(draw_overlay(photo, anomaly_map, mask, threshold), file),
    }
    saved = {kind: picture_path(kind, key) for kind in FOLDERS if kind in what}
    for kind, path in saved.items():
        write_whole(folder / path, writers[kind])
    return saved


def picture_path(kind: str, key: str) -> str:
    """Path of one picture below its stage's folder."""
    subfolder, suffix = FOLDERS[kind]
    return f"{subfolder}/{key}{suffix}"


def save_boxes(
    folder: Path,
    key: str,
    photo: np.ndarray,
    boxes: Sequence[tuple[int, int, int, int]],
    abnormal: Sequence[bool],
) -> dict[str, str]:
    """Save a photo with a box (x, y, width, height) around each object, red where it is abnormal, else green.

    Returns:
        As :func:`save_pictures`, for ``overlay``.
    """
    path = picture_path("overlay", key)
    write_whole(folder / path, lambda file: _save_jpeg(draw_boxes(photo, boxes, abnormal), file))
    return {"overlay": path}


def _save_jpeg(picture: np.ndarray, file: Path) -> None:
    Image.fromarray(picture).save(file, quality=JPEG_QUALITY, subsampling=0)
