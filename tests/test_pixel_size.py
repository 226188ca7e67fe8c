"""Calibrations of the pixel size, against what was drawn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from helpers.analysis.pixel_size import calibrate_checkerboard, pixel_size_from_object, pixel_size_from_points
from helpers.analysis.sizing import PixelSize, measure_defects, measure_labels
from helpers.inference.object_mask import otsu_object_mask

SQUARE = 5.0  # mm
PATTERN = (9, 6)
PER_MM = 16  # pixels of the plane's drawing
HEIGHT, WIDTH = 480, 640


def test_two_points():
    size = pixel_size_from_points((10, 20), (310, 420), 25.0, "mm", click_error=2.0, distance_error=0.05)
    assert size.value_x == size.value_y == pytest.approx(0.05), "25 mm over 500 px"
    assert size.relative_error == pytest.approx(math.hypot(2 * math.sqrt(2) / 500, 0.05 / 25))
    assert size.unit == "mm"
    assert "25 mm" in size.origin


def test_the_error_of_two_points_is_that_of_repeated_clicks():
    draw = np.random.default_rng(0)
    sizes = [
        pixel_size_from_points(
            tuple(draw.normal((50, 50), 1.5)), tuple(draw.normal((250, 200), 1.5)), 10.0, click_error=1.5
        )
        for _ in range(4000)
    ]
    spread = np.std([size.value_x for size in sizes])
    assert sizes[0].error == pytest.approx(spread, rel=0.06)


def test_units_and_their_conversion():
    assert PixelSize(0.05, 0.1, 0.001, "mm").to("cm").value_y == pytest.approx(0.01)
    inch = PixelSize(0.254, 0.254, 0.00254, "mm").to("inch")
    assert (inch.value_x, inch.error, inch.unit) == (pytest.approx(0.01), pytest.approx(0.0001), "inch")
    assert inch.relative_error == pytest.approx(0.01)
    assert inch.to("mm").value_x == pytest.approx(0.254)
    with pytest.raises(ValueError, match="px"):
        PixelSize(1, 1, 0, "px").to("mm")


def test_a_reference_disc_in_a_photo():
    y, x = np.mgrid[0:300, 0:400]
    covered = np.clip(80 - np.hypot(x - 210.3, y - 140.6) + 0.5, 0, 1)  # a radius of 80 px, edges of one pixel
    photo = np.dstack([40 + covered * bright for bright in (160, 150, 140)]).astype(np.uint8)
    photo = cv2.GaussianBlur(photo, (0, 0), 1.0)
    size = pixel_size_from_object(otsu_object_mask(photo), 20.0, "mm")
    assert size.value_x == pytest.approx(20 / 160, rel=0.005)
    assert size.relative_error == pytest.approx(1 / 160, rel=0.01), "half a pixel at each of two edges"
    assert abs(size.value_x - 20 / 160) < 2 * size.error


def test_a_reference_rectangle_and_its_measures():
    mask = np.zeros((100, 200), bool)
    mask[30:70, 20:140] = True
    width = pixel_size_from_object(mask, 8.0, measure="width", edge_error=0.25, known_size_error=0.08)
    assert width.value_x == pytest.approx(8 / 40)
    assert width.relative_error == pytest.approx(math.hypot(0.5 / 40, 0.01))
    assert pixel_size_from_object(mask, 3, "inch", measure="length").value_x == pytest.approx(3 / math.hypot(40, 120))


def test_what_cannot_be_a_reference_is_refused():
    mask = np.zeros((20, 20), bool)
    with pytest.raises(ValueError, match="object_mask"):
        pixel_size_from_object(mask, 1.0)
    mask[0:5, 3:9] = True
    with pytest.raises(ValueError, match="border"):
        pixel_size_from_object(mask, 1.0)
    with pytest.raises(ValueError, match="object_mask is uint8"):
        pixel_size_from_object(mask.astype(np.uint8), 1.0)
    with pytest.raises(ValueError, match="measure='area'"):
        pixel_size_from_object(mask, 1.0, measure="area")
    with pytest.raises(ValueError, match="known_size=0"):
        pixel_size_from_object(mask, 0)
    with pytest.raises(ValueError, match="two different"):
        pixel_size_from_points((1, 2), (1, 2), 5.0)
    with pytest.raises(ValueError, match="distance=-1"):
        pixel_size_from_points((1, 2), (3, 4), -1)
    with pytest.raises(ValueError, match="click_error"):
        pixel_size_from_points((1, 2), (3, 4), 1, click_error=-1)
    with pytest.raises(ValueError, match="unit='px'"):
        pixel_size_from_points((1, 2), (3, 4), 5, "px")


# -------------------------------------------------------------------------------------------------------- checkerboard


def _plane() -> np.ndarray:
    """A plane of 80 x 60 mm with a board of 10 x 7 squares, a dark bar of 30 x 4 mm below and one of 3 x 18 beside."""
    plane = np.full((60 * PER_MM, 80 * PER_MM), 225, np.uint8)
    side = int(SQUARE * PER_MM)
    top, left = 6 * PER_MM, 8 * PER_MM
    for row in range(7):
        for column in range(10):
            if (row + column) % 2 == 0:
                y, x = top + row * side, left + column * side
                plane[y : y + side, x : x + side] = 30
    plane[50 * PER_MM : 54 * PER_MM, 20 * PER_MM : 50 * PER_MM] = 30
    plane[15 * PER_MM : 33 * PER_MM, 70 * PER_MM : 73 * PER_MM] = 30
    return plane


def _photo(tilt: tuple[float, float, float], distance: float = 95.0, distortion: tuple[float, ...] = ()) -> np.ndarray:
    """The plane as a camera with a focal length of 700 px sees it, turned about x, y and z (degrees)."""
    camera = np.array([[700.0, 0, WIDTH / 2 - 0.5], [0, 700, HEIGHT / 2 - 0.5], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.deg2rad([tilt[0], tilt[1], 0.0]))[0] @ cv2.Rodrigues(np.deg2rad([0.0, 0, tilt[2]]))[0]
    # From millimetres in the plane, from its middle, to rays; the drawing's pixels have their centres at whole numbers.
    to_rays = np.column_stack([rotation[:, 0], rotation[:, 1], [0, 0, distance]])
    to_mm = np.array([[1 / PER_MM, 0, 0.5 / PER_MM - 40], [0, 1 / PER_MM, 0.5 / PER_MM - 30], [0, 0, 1]])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    pixels = np.stack([x, y], -1).reshape(-1, 1, 2)
    rays = cv2.undistortPoints(pixels, camera, np.array(distortion or [0.0] * 5))
    places = cv2.perspectiveTransform(rays, np.linalg.inv(to_rays @ to_mm)).reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    plane = cv2.GaussianBlur(_plane(), (0, 0), PER_MM * 95 / 700 / 2)
    seen = cv2.remap(plane, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    noise = np.random.default_rng(0).normal(0, 2, seen.shape)
    return np.clip(seen + noise, 0, 255).astype(np.uint8)


def _bars(photo: np.ndarray, size: PixelSize) -> tuple[float, float]:
    """Width of the lying bar (4 mm) and of the standing bar (3 mm) in a rectified photo."""
    dark = (photo < 128) & (photo > 5)
    table = measure_defects(dark, pixel_size=size, unit="mm", use_morphology=False, min_defect_area=200)
    slender = table[(table["length"] / table["width"] > 5) & (table["area"] > 30) & (table["area"] < 200)]
    assert len(slender) == 2, table[["area", "length", "width"]]
    lying, standing = slender.sort_values("area", ascending=False).itertuples()
    assert lying.area == pytest.approx(120, rel=0.04)
    assert lying.length == pytest.approx(math.hypot(30, 4), rel=0.012)
    assert standing.area == pytest.approx(54, rel=0.05)
    assert standing.length == pytest.approx(math.hypot(18, 3), rel=0.015)
    return lying.width, standing.width


def test_one_photo_takes_the_perspective_away():
    photo = _photo((24.0, -17.0, 8.0))
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE)
    assert calibration.camera_matrix is None
    assert calibration.n_photos == 1
    assert calibration.residual < 0.02, "mm; a pixel is about 0.14"
    assert 0 < calibration.pixel_size.relative_error < 0.01
    assert calibration.pixel_size.value_x == pytest.approx(95 / 700, rel=0.2)
    rectified = calibration.rectify(photo)
    assert rectified.shape == calibration.rectified_shape
    lying, standing = _bars(rectified, calibration.pixel_size)
    assert lying == pytest.approx(4, abs=0.2)
    assert standing == pytest.approx(3, abs=0.2)
    with pytest.raises(ValueError, match="size"):
        calibration.rectify(photo[:-1])


def test_the_rectified_photo_stays_upright_and_keeps_its_kind():
    photo = np.dstack([_photo((15.0, 10.0, 97.0))] * 3)
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE, square_error=0.1)
    assert calibration.pixel_size.relative_error >= 0.1 / SQUARE
    height, width = calibration.rectified_shape
    rectified = calibration.rectify(photo)
    assert rectified.shape == (height, width, 3)
    # What is in the upper left of the photo stays there: the photo is not turned with the board.
    marked = np.zeros((HEIGHT, WIDTH), bool)
    marked[100:140, 100:140] = True
    place = np.argwhere(calibration.rectify(marked)).mean(0) / (height, width)
    np.testing.assert_allclose(place, [120 / HEIGHT, 120 / WIDTH], atol=0.12)


def test_an_upright_camera_needs_no_mending():
    photo = _photo((0.0, 0.0, 0.0))
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE)
    assert calibration.pixel_size.value_x == pytest.approx(95 / 700, rel=0.002)
    assert calibration.rectified_shape == pytest.approx((HEIGHT, WIDTH), abs=3)


def test_several_photos_calibrate_the_lens():
    lens = (-0.28, 0.07, 0.001, -0.001, 0.0)
    tilts = [(12.0, -8.0, 4.0), (-25.0, 5.0, 0.0), (5.0, 28.0, 10.0), (22.0, 20.0, -12.0), (-18.0, -24.0, 30.0)]
    photos = [_photo(tilt, 100.0, lens) for tilt in tilts]
    alone = calibrate_checkerboard(photos[:1], PATTERN, SQUARE)
    calibration = calibrate_checkerboard(photos, PATTERN, SQUARE)
    assert calibration.distortion[0] == pytest.approx(-0.28, abs=0.04)
    np.testing.assert_allclose(np.diag(calibration.camera_matrix)[:2], 700, rtol=0.02)
    assert calibration.residual < 0.5 * alone.residual
    lying, standing = _bars(calibration.rectify(photos[0]), calibration.pixel_size)
    assert lying == pytest.approx(4, abs=0.2)
    assert standing == pytest.approx(3, abs=0.2)


def test_boards_that_cannot_be_used_are_refused():
    photo = _photo((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="Photo 2 shows no whole checkerboard with 9 by 6"):
        calibrate_checkerboard([photo, np.full_like(photo, 99)], PATTERN, SQUARE)
    with pytest.raises(ValueError, match="no whole checkerboard"):
        calibrate_checkerboard([photo], (8, 7), SQUARE)
    with pytest.raises(ValueError, match="different sizes"):
        calibrate_checkerboard([photo, photo[:-2]], PATTERN, SQUARE)
    with pytest.raises(ValueError, match="square=0"):
        calibrate_checkerboard([photo], PATTERN, 0)
    with pytest.raises(ValueError, match="pattern"):
        calibrate_checkerboard([photo], (2, 6), SQUARE)
    with pytest.raises(ValueError, match="empty"):
        calibrate_checkerboard([], PATTERN, SQUARE)
    with pytest.raises(ValueError, match="float64"):
        calibrate_checkerboard([photo / 255], PATTERN, SQUARE)


def test_the_error_reaches_the_measures():
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 10:40] = 1
    size = pixel_size_from_points((0, 0), (100, 0), 10.0, click_error=1.0)
    row = measure_labels(labels, size).iloc[0]
    assert row["unit"] == "mm"
    assert row["area"] == pytest.approx(3.0)
    assert row["area_error"] == pytest.approx(3.0 * 2 * math.sqrt(2) / 100)
    assert row["length_error"] == pytest.approx(math.hypot(3, 1) * math.sqrt(2) / 100)
