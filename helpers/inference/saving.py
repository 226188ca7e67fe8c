"""Pictures that an inspection leaves behind: the mask of defects, the raw map, and the photo with both drawn in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from helpers.paths import write_whole

FOLDERS = {"mask": ("masks", ".png"), "map": ("maps", ".npy"), "overlay": ("overlays", ".jpg")}
"""What can be saved -> folder and suffix."""

DEFECT, SOUND = (255, 64, 64), (64, 220, 96)  # RGB
OPACITY = 0.55  # of the colours where the map is highest
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


def draw_boxes(photo: np.ndarray, boxes: Sequence[tuple[int, int, int, int]], abnormal: Sequence[bool]) -> np.ndarray:
    """A photo (H, W, 3) uint8 with a box (x, y, width, height) around each object, red where it is abnormal."""
    picture = photo.copy()
    width = max(1, round(max(photo.shape[:2]) / 256))
    for (x, y, across, down), wrong in zip(boxes, abnormal, strict=True):
        cv2.rectangle(picture, (x, y), (x + across - 1, y + down - 1), DEFECT if wrong else SOUND, width)
    return picture


def draw_overlay(
    photo: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray, threshold: float, *, opacity: float = OPACITY
) -> np.ndarray:
    """The photo under the colours of its map, with the outline of the mask.

    The scale is the same for all photos of a stage: its middle is the threshold, its end twice that (for a threshold
    of 0 or less, the map's maximum). Up to half of the threshold nothing is drawn.

    Args:
        photo: (H, W, 3) uint8.
        anomaly_map: (H, W) float32.
        mask: (H, W) bool.
        threshold: of a pixel.
        opacity: of the colours where the map is highest, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    top = 2 * threshold if threshold > 0 else max(float(anomaly_map.max()), np.finfo(np.float32).tiny)
    strength = np.clip(anomaly_map / top, 0, 1).astype(np.float32)
    colours = cv2.applyColorMap(np.round(strength * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[:, :, ::-1]
    share = np.float32(opacity) * np.clip(2 * strength - 0.5, 0, 1)
    picture = cv2.blendLinear(np.ascontiguousarray(photo), np.ascontiguousarray(colours), 1 - share, share)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, outlines, -1, DEFECT, max(1, round(max(mask.shape) / 512)))


def _save_jpeg(picture: np.ndarray, file: Path) -> None:
    Image.fromarray(picture).save(file, quality=JPEG_QUALITY, subsampling=0)
