"""How large a pixel is: from two points, from an object of known size, or from photos of a checkerboard.

It holds in the plane of what was measured; parts that lie higher or lower are measured too large or small. A board also
tells how the camera distorts: its calibration rectifies photos, so that one pixel size holds all over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from helpers.analysis.sizing import PixelSize, label_defects, measure_labels

MAX_ENLARGEMENT = 4.0  # side of a rectified photo over that of the photo
MIN_PHOTOS_FOR_LENS = 3
RIVAL_SHARE = 0.1  # of the reference object's area: another region as large may be meant
SIZES_OF_OBJECTS = ("equivalent_diameter", "length", "width")


@dataclass(frozen=True, eq=False)
class Calibration:
    """The pixel size of the photos that are measured: rectified ones where there was a board.

    ``maps``: OpenCV's, from rectified pixels to those of a photo (H, W) of ``photo_shape``; None: photos are taken as
    they are. ``residual``: root mean square distance of the board's corners from where they belong, in the unit.
    """

    pixel_size: PixelSize
    photo_shape: tuple[int, int] = (0, 0)
    maps: tuple[np.ndarray, np.ndarray] | None = None
    residual: float = 0.0

    def rectify(self, picture: np.ndarray) -> np.ndarray:
        """A photo, map or bool mask as it is measured: seen straight from above where there was a board, and black
        where the camera saw nothing.
        """
        if self.maps is None:
            return picture
        if picture.shape[:2] != self.photo_shape:
            raise ValueError(f"The photo has the size {picture.shape[:2]} and the calibration {self.photo_shape}.")
        if picture.dtype == bool:
            return cv2.remap(picture.astype(np.uint8), *self.maps, cv2.INTER_NEAREST).astype(bool)
        return cv2.remap(picture, *self.maps, cv2.INTER_LINEAR)


def pixel_size_from_points(
    first: Sequence[float],
    second: Sequence[float],
    distance: float,
    unit: str = "mm",
    *,
    click_error: float = 1.0,
    distance_error: float = 0.0,
) -> PixelSize:
    """From two points (x, y) in pixels a known distance apart; ``click_error`` is that of each coordinate, in pixels.

    Of each point only the error along the line counts, so that the error of the length in pixels is sqrt(2) times it;
    errors of both lengths are added in squares.
    """
    pixels = math.dist(first, second)
    if not pixels > 0:
        raise ValueError(f"Both points are {first}; click two different ones, as far apart as the photo allows.")
    value, origin = distance / pixels, f"two points {distance:g} {unit} ({pixels:.1f} px) apart"
    error = math.hypot(math.sqrt(2) * click_error * value, distance_error) / pixels
    return PixelSize(value, value, error, unit, origin)


def pixel_size_from_object(
    object_mask: np.ndarray,
    size: float,
    unit: str = "mm",
    *,
    measure: str = "equivalent_diameter",
    edge_error: float = 0.5,
    size_error: float = 0.0,
) -> PixelSize:
    """From the largest region of an (H, W) bool mask, such as a gauge disc, a coin or a rod (``measure``: length).

    Both edges of the object shift together when its segmentation is too generous or too strict, so the error of the
    measured size is twice ``edge_error`` (pixels).
    """
    if measure not in SIZES_OF_OBJECTS:
        raise ValueError(f"measure={measure!r} is unknown; use one of {', '.join(SIZES_OF_OBJECTS)}.")
    regions = measure_labels(label_defects(object_mask, min_defect_area=1, use_morphology=False, fill_holes=False))
    areas = regions["area"]
    if regions.empty or regions["touches_border"][0] or (len(areas) > 1 and areas[1] > RIVAL_SHARE * areas[0]):
        raise ValueError(
            f"The photo shows {len(regions)} regions, of {areas[:2].tolist()} px and less. Take one of the reference "
            "object alone, on a plain background that is lighter or darker, not cut by the photo's border."
        )
    pixels = float(regions[f"{measure}_px"][0])
    value, origin = size / pixels, f"object with {measure.replace('_', ' ')} {size:g} {unit} ({pixels:.1f} px)"
    return PixelSize(value, value, math.hypot(2 * edge_error * value, size_error) / pixels, unit, origin)


def calibrate_checkerboard(
    photos: Sequence[np.ndarray], pattern: tuple[int, int], square: float, unit: str = "mm", square_error: float = 0.0
) -> Calibration:
    """Pixel size, perspective and lens distortion from uint8 photos of a board with ``pattern`` inner corners.

    The first photo shows the board in the plane that is to be measured: its perspective is removed (Hartley & Zisserman
    2004, "Multiple view geometry", 2.3). Further ones show it tilted and in the photo's corners; with three photos or
    more the lens is calibrated from all of them (Zhang 2000, "A flexible new technique for camera calibration"), else
    it is taken to have no distortion, and what it has shows in the residual.

    The error of the pixel size is the standard deviation of the distances between neighbouring corners on the rectified
    board, as a share of the square: what a length of one square is off by. That of the square is added in squares.
    """
    (columns, rows), shapes = pattern, {photo.shape[:2] for photo in photos}
    if min(pattern) < 3 or not square > 0 or len(shapes) != 1:
        raise ValueError(
            f"pattern={pattern} must be the numbers of inner corners (across, down), at least 3 each, square={square} "
            f"above 0, and all photos of one size: {sorted(shapes)}."
        )
    height, width = shape = photos[0].shape[:2]
    corners = [_board_corners(photo, (columns, rows), number) for number, photo in enumerate(photos, start=1)]
    board = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * float(square)
    camera, distortion, lens = np.eye(3), np.zeros(5), "lens taken as free of distortion"
    if len(photos) >= MIN_PHOTOS_FOR_LENS:
        solid = [np.pad(board, ((0, 0), (0, 1))).astype(np.float32)] * len(photos)
        seen = [points.astype(np.float32) for points in corners]
        _, camera, distortion, *_ = cv2.calibrateCamera(solid, seen, shape[::-1], None, None)
        distortion, lens = distortion.ravel()[:5], "lens calibrated"
    t = np.linspace(0, 1, 50)
    sides = [np.column_stack(side) for side in ((t, 0 * t), (t, 0 * t + 1), (0 * t, t), (0 * t + 1, t))]
    border = np.concatenate(sides) * (width - 1, height - 1)
    both = corners[0], border[:, None]
    straight, border = (cv2.undistortPoints(points, camera, distortion, P=camera)[:, 0] for points in both)
    to_board, _ = cv2.findHomography(straight, board)
    upright, value = _upright(to_board, straight.mean(0))
    depth = np.column_stack([border, np.ones(len(border))]) @ upright[2]
    placed = _mapped(upright, border)
    rectified = np.ceil(placed.max(0) + 1 - placed.min(0))
    if depth.min() * depth.max() <= 0 or (rectified / (width, height)).max() > MAX_ENLARGEMENT:
        raise ValueError(
            "The photo looks along the board's plane, up to its horizon or nearly: put the camera more upright."
        )
    found = _mapped(to_board, straight)
    residual = float(np.sqrt(((found - board) ** 2).sum(1).mean()))
    grid = found.reshape(rows, columns, 2)
    steps = np.concatenate([np.hypot(*np.moveaxis(np.diff(grid, axis=axis), -1, 0)).ravel() for axis in (0, 1)])
    error = math.hypot(float(np.sqrt(((steps - square) ** 2).mean())), square_error) / square
    origin = f"checkerboard of {square:g} {unit} squares, {len(photos)} photo{'s' * (len(photos) > 1)}, {lens}"
    shift = np.array([[1, 0, -placed[:, 0].min()], [0, 1, -placed[:, 1].min()], [0, 0, 1]])
    # OpenCV's "rectification" takes any homography from rays to rectified pixels.
    from_rays, extent = shift @ upright @ camera, tuple(rectified.astype(int))
    maps = cv2.initUndistortRectifyMap(camera, distortion, from_rays, np.eye(3), extent, cv2.CV_32FC1)
    return Calibration(PixelSize(value, value, value * error, unit, origin), shape, maps, residual)


def _board_corners(photo: np.ndarray, pattern: tuple[int, int], number: int) -> np.ndarray:
    """Inner corners (N, 1, 2) as x and y of pixels' centres, row by row."""
    grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    found, corners = cv2.findChessboardCornersSB(grey, pattern, flags=cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_EXHAUSTIVE)
    if not found:
        raise ValueError(
            f"Photo {number} shows no whole checkerboard with {pattern[0]} by {pattern[1]} inner corners: all squares "
            "and a light margin around them must be seen, evenly lit. Count corners where four squares meet."
        )
    return corners.astype(np.float64)


def _upright(to_board: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, float]:
    """A homography to the board's plane that keeps the photo upright and about as large, and unit a pixel there.

    At ``place`` it neither turns nor stretches; a mirrored board is mirrored back.
    """
    here, right_of, below = _mapped(to_board, np.array([place, place + (1, 0), place + (0, 1)]))
    left, stretch, right = np.linalg.svd(np.column_stack([right_of - here, below - here]))
    value, turn = math.sqrt(stretch.prod()), np.eye(3)
    turn[:2, :2] = (left @ right).T
    return np.diag([1 / value, 1 / value, 1]) @ turn @ to_board, value


def _mapped(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[:, None].astype(np.float64), homography)[:, 0]
