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

from helpers.analysis.sizing import MM_PER_UNIT, PixelSize, label_defects, measure_labels

MAX_ENLARGEMENT = 4.0  # side of a rectified photo over that of the photo
MIN_PHOTOS_FOR_LENS = 3
RIVAL_SHARE = 0.1  # of the reference object's area: another region as large may be meant


def pixel_size_from_points(
    first: tuple[float, float],
    second: tuple[float, float],
    distance: float,
    unit: str = "mm",
    *,
    click_error: float = 1.0,
    distance_error: float = 0.0,
) -> PixelSize:
    """From two points (x, y) in pixels a known distance apart; ``click_error`` is that of each coordinate, in pixels.

    Of each point only the error along the line counts, so that the error of the length in pixels is sqrt(2) times it;
    relative errors of both lengths are added in squares.
    """
    _check(unit, {"distance": distance}, {"click_error": click_error, "distance_error": distance_error})
    pixels = math.dist(first, second)
    if not pixels > 0:
        raise ValueError(f"Both points are {first}; click two different ones, as far apart as the photo allows.")
    relative = math.hypot(math.sqrt(2) * click_error / pixels, distance_error / distance)
    value = distance / pixels
    return PixelSize(value, value, value * relative, unit, f"two points {distance:g} {unit} ({pixels:.1f} px) apart")


def pixel_size_from_object(
    object_mask: np.ndarray,
    known_size: float,
    unit: str = "mm",
    *,
    measure: str = "equivalent_diameter",
    edge_error: float = 0.5,
    known_size_error: float = 0.0,
) -> PixelSize:
    """From the largest region of an (H, W) bool mask, such as a gauge disc, a coin or a rod (``measure``: length).

    Both edges of the object shift together when its segmentation is too generous or too strict, so the error of the
    measured size is twice ``edge_error`` (pixels).
    """
    _check(unit, {"known_size": known_size}, {"edge_error": edge_error, "known_size_error": known_size_error})
    if measure not in (known := ("equivalent_diameter", "length", "width")):
        raise ValueError(f"measure={measure!r} is unknown; use one of {', '.join(known)}.")
    if not object_mask.any():
        raise ValueError("The photo shows no object; take it on a plain background that is lighter or darker.")
    regions = measure_labels(label_defects(object_mask, min_defect_area=1, use_morphology=False, fill_holes=False))
    measured, others = regions.iloc[0], regions.iloc[1:]
    if len(others) and others["area"].iloc[0] > RIVAL_SHARE * measured["area"]:
        places = [
            f"x {row.centroid_x:.0f}, y {row.centroid_y:.0f}: {row.area:.0f} px" for row in regions[:2].itertuples()
        ]
        raise ValueError(
            f"object_mask shows {len(regions)} regions, the two largest at {' and at '.join(places)}: which is the "
            "reference object? Take a photo of it alone, or cut the other one off."
        )
    if measured["touches_border"]:
        raise ValueError("The photo's border cuts the reference object; take a photo that shows all of it.")
    pixels = float(measured[f"{measure}_px"])
    value = known_size / pixels
    relative = math.hypot(2 * edge_error / pixels, known_size_error / known_size)
    origin = f"object with {measure.replace('_', ' ')} {known_size:g} {unit} ({pixels:.1f} px)"
    return PixelSize(value, value, value * relative, unit, origin)


@dataclass(frozen=True)
class BoardCalibration:
    """What a checkerboard tells of a camera that stays where it is, and what photos of ``photo_shape`` become.

    ``to_photo`` (3, 3) leads from rectified pixels to those of the photo without lens distortion; ``camera_matrix``
    (3, 3) and ``distortion`` (5,) are OpenCV's; ``residual`` is the root mean square distance of the board's corners
    from where they belong, in the unit.
    """

    pixel_size: PixelSize
    photo_shape: tuple[int, int]
    rectified_shape: tuple[int, int]
    to_photo: np.ndarray
    camera_matrix: np.ndarray
    distortion: np.ndarray
    residual: float

    def rectify(self, photo: np.ndarray) -> np.ndarray:
        """A photo (H, W) or (H, W, 3) of the same camera seen straight from above; what it did not see is black."""
        if photo.shape[:2] != self.photo_shape:
            raise ValueError(f"The photo has the size {photo.shape[:2]} and the calibration {self.photo_shape}.")
        # OpenCV's "rectification" takes any homography from rays to rectified pixels.
        from_rays, size = np.linalg.inv(np.linalg.inv(self.camera_matrix) @ self.to_photo), self.rectified_shape[::-1]
        lens = self.camera_matrix, self.distortion
        maps = cv2.initUndistortRectifyMap(*lens, from_rays, np.eye(3), size, cv2.CV_32FC1)
        if photo.dtype == bool:
            return cv2.remap(photo.astype(np.uint8), *maps, cv2.INTER_NEAREST).astype(bool)
        return cv2.remap(photo, *maps, cv2.INTER_LINEAR)


def calibrate_checkerboard(
    photos: Sequence[np.ndarray],
    pattern: tuple[int, int],
    square: float,
    unit: str = "mm",
    *,
    square_error: float = 0.0,
) -> BoardCalibration:
    """Pixel size, perspective and lens distortion from uint8 photos of a board with ``pattern`` inner corners.

    The first photo shows the board in the plane that is to be measured: its perspective is removed (Hartley & Zisserman
    2004, "Multiple view geometry", 2.3). Further ones show it tilted and in the photo's corners; with three photos or
    more the lens is calibrated from all of them (Zhang 2000, "A flexible new technique for camera calibration"), else
    it is taken to have no distortion, and what it has shows in the residual.

    The error of the pixel size is the standard deviation of the distances between neighbouring corners on the rectified
    board, as a share of the square: what a length of one square is off by. That of the square is added in squares.
    """
    _check(unit, {"square": square}, {"square_error": square_error})
    if min(pattern) < 3:
        raise ValueError(f"pattern={pattern} must be the numbers of inner corners (across, down), at least 3 each.")
    if len({photo.shape[:2] for photo in photos}) != 1:
        raise ValueError(f"The photos must be of one size; they have {sorted({photo.shape[:2] for photo in photos})}.")
    shape = photos[0].shape[:2]
    corners = [_board_corners(photo, pattern, number) for number, photo in enumerate(photos, start=1)]
    across, down = np.meshgrid(np.arange(pattern[0]), np.arange(pattern[1]))
    board = np.column_stack([across.ravel(), down.ravel()]) * float(square)
    camera, distortion = np.eye(3), np.zeros(5)
    if len(photos) >= MIN_PHOTOS_FOR_LENS:
        solid = np.column_stack([board, np.zeros(len(board))]).astype(np.float32)
        seen = [points.astype(np.float32)[:, None] for points in corners]
        _, camera, distortion, _, _ = cv2.calibrateCamera([solid] * len(seen), seen, shape[::-1], None, None)
        distortion = distortion.ravel()[:5]
    straight = _undistorted(corners[0], camera, distortion)
    to_board, _ = cv2.findHomography(straight, board)
    # Unit a pixel in the middle of the board, so that the rectified photo is about as large as the photo.
    turn, value = _turn_and_scale(to_board, straight.mean(0))
    upright = np.diag([1 / value, 1 / value, 1]) @ np.block([[turn, np.zeros((2, 1))], [0, 0, 1]]) @ to_board
    low, high = _extent(upright, shape, camera, distortion)
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    rectified = tuple(int(math.ceil(side)) for side in (high - low)[::-1])
    if max(rectified[0] / shape[0], rectified[1] / shape[1]) > MAX_ENLARGEMENT:
        raise ValueError(f"Rectified, the photo would have {rectified} pixels: put the camera more upright.")
    found = _mapped(to_board, straight)
    residual = float(np.sqrt(((found - board) ** 2).sum(1).mean()))
    grid = found.reshape(pattern[1], pattern[0], 2)
    steps = np.concatenate([np.hypot(*np.moveaxis(np.diff(grid, axis=axis), -1, 0)).ravel() for axis in (0, 1)])
    relative = math.hypot(float(np.sqrt(((steps - square) ** 2).mean())) / square, square_error / square)
    lens = "lens calibrated" if len(photos) >= MIN_PHOTOS_FOR_LENS else "lens taken as free of distortion"
    origin = f"checkerboard of {square:g} {unit} squares, {len(photos)} photo{'s' * (len(photos) > 1)}, {lens}"
    size = PixelSize(value, value, value * relative, unit, origin)
    return BoardCalibration(size, shape, rectified, np.linalg.inv(shift @ upright), camera, distortion, residual)


def _board_corners(photo: np.ndarray, pattern: tuple[int, int], number: int) -> np.ndarray:
    """Inner corners (N, 2) as x and y of pixels' centres, row by row."""
    grey = photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    found, corners = cv2.findChessboardCornersSB(grey, pattern, flags=cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_EXHAUSTIVE)
    if not found:
        raise ValueError(
            f"Photo {number} shows no whole checkerboard with {pattern[0]} by {pattern[1]} inner corners: all squares "
            "and a light margin around them must be seen, evenly lit. Count corners where four squares meet."
        )
    return corners.reshape(-1, 2).astype(np.float64)


def _turn_and_scale(to_board: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, float]:
    """What keeps the rectified photo upright: a rotation (2, 2), mirrored if the board was; and unit a pixel there."""
    here, right_of, below = _mapped(to_board, np.array([place, place + (1, 0), place + (0, 1)]))
    left, stretch, right = np.linalg.svd(np.column_stack([right_of - here, below - here]))
    return (left @ right).T, float(math.sqrt(stretch.prod()))


def _extent(
    upright: np.ndarray, shape: tuple[int, int], camera: np.ndarray, distortion: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest x and y of the photo's border in the rectified plane."""
    height, width = shape
    t = np.linspace(0, 1, 50)
    zero, one = np.zeros_like(t), np.ones_like(t)
    sides = [np.column_stack(side) for side in ((t, zero), (t, one), (zero, t), (one, t))]
    border = _undistorted(np.concatenate(sides) * (width - 1, height - 1), camera, distortion)
    depth = np.column_stack([border, np.ones(len(border))]) @ upright[2]
    if depth.min() * depth.max() <= 0:
        raise ValueError("The photo shows the horizon of the board's plane: put the camera more upright.")
    placed = _mapped(upright, border)
    return placed.min(0), placed.max(0) + 1


def _mapped(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[:, None].astype(np.float64), homography)[:, 0]


def _undistorted(points: np.ndarray, camera: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    return cv2.undistortPoints(points[:, None].astype(np.float64), camera, distortion, P=camera)[:, 0]


def _check(unit: str, sizes: dict[str, float], errors: dict[str, float]) -> None:
    if unit not in MM_PER_UNIT:
        raise ValueError(f"unit={unit!r} must be one of {', '.join(MM_PER_UNIT)}.")
    for name, value in (sizes | errors).items():
        if not (math.isfinite(value) and (value > 0 or (name in errors and value == 0))):
            raise ValueError(
                f"{name}={value} must {'not be negative' if name in errors else f'be above 0, in {unit}'}."
            )
