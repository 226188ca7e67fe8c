"""A drawn scene with a checkerboard, a bar and a disc of known sizes, seen by a camera that is tilted and distorts.

Here the truth is known to any digit, so that ways to find a pixel size can be compared with it: `calibration_trial`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from helpers.analysis.pixel_size import calibrate_checkerboard, pixel_size_from_object, pixel_size_from_points
from helpers.analysis.sizing import PixelSize, measure_defects

SQUARE = 5.0  # mm, of the checkerboard
PATTERN = (9, 6)  # its inner corners
BAR_LENGTH = float(np.hypot(30.0, 4.0))  # mm, largest diameter of the dark bar below the board: its diagonal
DISC = 20.0  # mm, diameter of the reference object, which has a photo of its own
SHAPE = (480, 640)  # (H, W) of the photos
LENS = (-0.28, 0.07, 0.001, -0.001, 0.0)  # barrel distortion, as OpenCV counts it: k1, k2, p1, p2, k3
NO_LENS = (0.0,) * 5
Angles = tuple[float, float, float]
TILTS = ((12.0, -8.0, 4.0), (-25.0, 5.0, 0.0), (5.0, 28.0, 10.0), (22.0, 20.0, -12.0), (-18.0, -24.0, 30.0))
"""Of the camera in five photos, degrees about x, y and z; the first is the one that parts are measured at."""

_PLANE, _PER_MM = (60, 80), 16  # mm; pixels of the plane's drawing
_FOCAL, _DISTANCE = 700.0, 95.0  # pixels; mm from the camera to the plane
_CAMERA = np.array([[_FOCAL, 0, SHAPE[1] / 2 - 0.5], [0, _FOCAL, SHAPE[0] / 2 - 0.5], [0, 0, 1]])
_DARK, _LIGHT = 30, 225


def draw_plane(what: str = "board") -> np.ndarray:
    """The plane that the camera looks at, 60 x 80 mm, (960, 1280) uint8.

    ``board``: a checkerboard, a bar of 30 x 4 mm below it and one of 3 x 18 mm beside it; ``disc``: one of 20 mm.
    """
    plane = np.full((_PLANE[0] * _PER_MM, _PLANE[1] * _PER_MM), _LIGHT, np.uint8)
    y, x = (np.mgrid[0 : plane.shape[0], 0 : plane.shape[1]] + 0.5) / _PER_MM
    if what == "disc":
        plane[np.hypot(x - _PLANE[1] / 2, y - _PLANE[0] / 2) <= DISC / 2] = _DARK
        return plane
    row, column = np.floor((y - 6) / SQUARE), np.floor((x - 8) / SQUARE)
    on_board = (row >= 0) & (row <= PATTERN[1]) & (column >= 0) & (column <= PATTERN[0])
    bars = (y > 50) & (y < 54) & (x > 20) & (x < 50) | (y > 15) & (y < 33) & (x > 70) & (x < 73)
    plane[on_board & ((row + column) % 2 == 0) | bars] = _DARK
    return plane


def photograph(tilt: Angles = (0.0, 0.0, 0.0), lens: Sequence[float] = NO_LENS, *, what: str = "board") -> np.ndarray:
    """The plane, turned by ``tilt`` degrees, with blur and noise: `SHAPE` uint8."""
    height, width = SHAPE
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = cv2.undistortPoints(np.stack([x, y], -1).reshape(-1, 1, 2), _CAMERA, np.array(lens))
    # The drawing's pixels have their centres at whole numbers.
    to_mm = np.array([[1 / _PER_MM, 0, 0.5 / _PER_MM], [0, 1 / _PER_MM, 0.5 / _PER_MM], [0, 0, 1]])
    places = cv2.perspectiveTransform(rays, np.linalg.inv(_to_rays(tilt) @ to_mm))
    places = places.reshape(height, width, 2).astype(np.float32)
    plane = cv2.GaussianBlur(draw_plane(what), (0, 0), _PER_MM * _DISTANCE / _FOCAL / 2)
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


def calibration_trial() -> pd.DataFrame:
    """The same bar by every way of calibration, seen by a straight camera and by one that is tilted and distorts.

    The two points are the ends of a side of the board, clicked to the pixel; the disc is photographed where the board
    was. ``length_error`` is the standard error as far as the calibration knows it, ``off`` measured minus true, mm.
    """
    rows = []
    for camera, tilts, lens in (("straight", ((0.0, 0.0, 0.0),), NO_LENS), ("tilted, distorting lens", TILTS, LENS)):
        photos = [photograph(tilt, lens) for tilt in tilts]
        ends = np.round(project(np.array([[8.0, 6.0], [58.0, 6.0]]), tilts[0], lens))
        disc = photograph(tilts[0], lens, what="disc") < 128
        ways = {
            "two points, 50 mm apart": (photos[0], pixel_size_from_points(tuple(ends[0]), tuple(ends[1]), 50.0)),
            f"reference disc, {DISC:g} mm": (photos[0], pixel_size_from_object(disc, DISC)),
        }
        for number in sorted({1, len(photos)}):
            board = calibrate_checkerboard(photos[:number], PATTERN, SQUARE)
            name = f"checkerboard, {number} photo{'s' * (number > 1)}"
            ways[name] = (board.rectify(photos[0]), board.pixel_size)
        for name, (photo, size) in ways.items():
            bar = bar_sizes(photo, size).iloc[0]
            rows.append({"camera": camera, "calibration": name, **bar[["length", "length_error"]].to_dict()})
    table = pd.DataFrame(rows).assign(true_length=BAR_LENGTH)
    table["off"] = table["length"] - table["true_length"]
    return table.assign(off_percent=100 * table["off"] / table["true_length"])


def _to_rays(tilt: Angles) -> np.ndarray:
    """Homography (3, 3) from mm in the plane to rays, its middle in the camera's axis."""
    turned = cv2.Rodrigues(np.deg2rad([0.0, 0, tilt[2]]))[0]
    rotation = cv2.Rodrigues(np.deg2rad([tilt[0], tilt[1], 0.0]))[0] @ turned
    centred = np.array([[1, 0, -_PLANE[1] / 2], [0, 1, -_PLANE[0] / 2], [0, 0, 1]])
    return np.column_stack([rotation[:, 0], rotation[:, 1], [0, 0, _DISTANCE]]) @ centred
