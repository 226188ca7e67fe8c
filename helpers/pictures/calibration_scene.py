"""A drawn scene with a checkerboard, a bar and a disc of known sizes, seen by a camera that is tilted and distorts.

Here the truth is known to any digit, so that ways to find a pixel size can be compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from helpers.analysis.sizing import PixelSize, measure_defects

SQUARE, PATTERN = 5.0, (9, 6)  # of the checkerboard: mm, and its inner corners
BAR_LENGTH = float(np.hypot(30.0, 4.0))  # mm, largest diameter of the dark bar below the board: its diagonal
DISC = 20.0  # mm, diameter of the reference object, which has a photo of its own
SHAPE = (480, 640)  # (H, W) of the photos
LENS, NO_LENS = (-0.28, 0.07, 0.001, -0.001, 0.0), (0.0,) * 5  # barrel distortion, as OpenCV counts it: k1, k2, p1, ...
Angles = tuple[float, float, float]
TILTS = ((12.0, -8.0, 4.0), (-25.0, 5.0, 0.0), (5.0, 28.0, 10.0), (22.0, 20.0, -12.0), (-18.0, -24.0, 30.0))
"""Of the camera in five photos, degrees about x, y and z; the first is the one that parts are measured at."""

_PLANE, _PER_MM = (60, 80), 16  # mm; pixels of the plane's drawing
_FOCAL, _DISTANCE = 700.0, 95.0  # pixels; mm from the camera to the plane
_CAMERA = np.array([[_FOCAL, 0, SHAPE[1] / 2 - 0.5], [0, _FOCAL, SHAPE[0] / 2 - 0.5], [0, 0, 1]])


def photograph(tilt: Angles = (0.0, 0.0, 0.0), lens: Sequence[float] = NO_LENS, *, disc: bool = False) -> np.ndarray:
    """The plane, turned by ``tilt`` degrees, with blur and noise: `SHAPE` uint8."""
    height, width = SHAPE
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = cv2.undistortPoints(np.stack([x, y], -1).reshape(-1, 1, 2), _CAMERA, np.array(lens))
    # The drawing's pixels have their centres at whole numbers.
    to_mm = np.array([[1 / _PER_MM, 0, 0.5 / _PER_MM], [0, 1 / _PER_MM, 0.5 / _PER_MM], [0, 0, 1]])
    places = cv2.perspectiveTransform(rays, np.linalg.inv(_to_rays(tilt) @ to_mm))
    places = places.reshape(height, width, 2).astype(np.float32)
    plane = cv2.GaussianBlur(_plane(disc), (0, 0), _PER_MM * _DISTANCE / _FOCAL / 2)
    photo = cv2.remap(plane, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.clip(photo + np.random.default_rng(0).normal(0, 2, photo.shape), 0, 255).astype(np.uint8)


def project(points: np.ndarray, tilt: Angles, lens: Sequence[float] = NO_LENS) -> np.ndarray:
    """Where the camera of `photograph` sees points of the plane: (N, 2) in mm from its upper left, to pixels (N, 2)."""
    rays = cv2.perspectiveTransform(np.asarray(points, dtype=float)[:, None], _to_rays(tilt))[:, 0]
    solid = np.column_stack([rays, np.ones(len(rays))])
    return cv2.projectPoints(solid, np.zeros(3), np.zeros(3), _CAMERA, np.array(lens))[0][:, 0]


def bar_sizes(photo: np.ndarray, size: PixelSize) -> pd.DataFrame:
    """The two bars as they are measured in a photo (H, W) of the board, rectified or not: first that of 30 x 4 mm."""
    dark = (photo < 128) & (photo > 5)  # black is what the camera did not see
    table = measure_defects(dark, pixel_size=size, unit="mm", use_morphology=False, min_defect_area=200)
    slender = table[(table["length"] / table["width"] > 4) & ~table["touches_border"]]
    return slender.sort_values("area", ascending=False, ignore_index=True)


def _plane(disc: bool) -> np.ndarray:
    """60 x 80 mm, (960, 1280) uint8: a disc of 20 mm; or a board, a bar of 30 x 4 mm below it and one of 3 x 18 mm."""
    y, x = (np.mgrid[0 : _PLANE[0] * _PER_MM, 0 : _PLANE[1] * _PER_MM] + 0.5) / _PER_MM
    dark = np.hypot(x - _PLANE[1] / 2, y - _PLANE[0] / 2) <= DISC / 2
    if not disc:
        row, column = np.floor((y - 6) / SQUARE), np.floor((x - 8) / SQUARE)
        on_board = (row >= 0) & (row <= PATTERN[1]) & (column >= 0) & (column <= PATTERN[0])
        dark = on_board & ((row + column) % 2 == 0)
        dark |= (y > 50) & (y < 54) & (x > 20) & (x < 50) | (y > 15) & (y < 33) & (x > 70) & (x < 73)
    return np.where(dark, 30, 225).astype(np.uint8)


def _to_rays(tilt: Angles) -> np.ndarray:
    """Homography (3, 3) from mm in the plane to rays, its middle in the camera's axis."""
    turned = cv2.Rodrigues(np.deg2rad([0.0, 0, tilt[2]]))[0]
    rotation = cv2.Rodrigues(np.deg2rad([tilt[0], tilt[1], 0.0]))[0] @ turned
    centred = np.array([[1, 0, -_PLANE[1] / 2], [0, 1, -_PLANE[0] / 2], [0, 0, 1]])
    return np.column_stack([rotation[:, 0], rotation[:, 1], [0, 0, _DISTANCE]]) @ centred
