"""Calibrations of the pixel size, against what was drawn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from helpers.analysis.pixel_size import calibrate_checkerboard, pixel_size_from_object, pixel_size_from_points
from helpers.analysis.sizing import PixelSize
from helpers.inference.object_mask import otsu_object_mask
from helpers.pictures.calibration_scene import (
    BAR_LENGTH,
    LENS,
    PATTERN,
    SHAPE,
    SQUARE,
    TILTS,
    bar_sizes,
    calibration_trial,
    photograph,
)

HEIGHT, WIDTH = SHAPE


def test_two_points():
    size = pixel_size_from_points((10, 20), (310, 420), 25.0, "mm", click_error=2.0, distance_error=0.05)
    assert size.value_x == size.value_y == pytest.approx(0.05), "25 mm over 500 px"
    assert size.relative_error == pytest.approx(math.hypot(2 * math.sqrt(2) / 500, 0.05 / 25))
    assert size.unit == "mm"
    assert "25 mm" in size.origin


def test_units_and_their_conversion():
    assert PixelSize(0.05, 0.1, 0.001, "mm").to("cm").value_y == pytest.approx(0.01)
    inch = PixelSize(0.254, 0.254, 0.00254, "mm").to("inch")
    assert (inch.value_x, inch.error, inch.unit) == (pytest.approx(0.01), pytest.approx(0.0001), "inch")
    assert inch.relative_error == pytest.approx(0.01)
    assert inch.to("mm").value_x == pytest.approx(0.254)
    with pytest.raises(ValueError, match="px"):
        PixelSize(1, 1, 0, "px").to("mm")


def test_a_reference_disc_in_aphotograph():
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


def test_of_a_disc_and_specks_the_disc_is_measured():
    y, x = np.mgrid[0:200, 0:300]
    disc = np.hypot(x - 90.2, y - 100.4) <= 50
    expected = pixel_size_from_object(disc, 48.3)
    assert expected.value_x == pytest.approx(0.483, rel=0.002)
    speckled = disc.copy()
    speckled[3, 280] = speckled[150, 0] = True  # one at the border, which cuts no reference
    assert pixel_size_from_object(speckled, 48.3) == expected
    for side, rival in ((27, False), (29, True)):  # a tenth of 7,850 px is a square of side 28
        two = disc.copy()
        two[20 : 20 + side, 200 : 200 + side] = True
        if rival:
            with pytest.raises(ValueError, match="2 regions"):
                pixel_size_from_object(two, 48.3)
        else:
            assert pixel_size_from_object(two, 48.3) == expected


def test_what_cannot_be_a_reference_is_refused():
    mask = np.zeros((20, 20), bool)
    with pytest.raises(ValueError, match="no object"):
        pixel_size_from_object(mask, 1.0)
    mask[0:5, 3:9] = True
    with pytest.raises(ValueError, match="border"):
        pixel_size_from_object(mask, 1.0)
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


def _bars(photo: np.ndarray, size: PixelSize) -> tuple[float, float]:
    """Width of the lying bar (4 mm) and of the standing bar (3 mm) in a rectified photo."""
    lying, standing = bar_sizes(photo, size).itertuples()
    assert lying.area == pytest.approx(120, rel=0.04)
    assert lying.length == pytest.approx(math.hypot(30, 4), rel=0.012)
    assert standing.area == pytest.approx(54, rel=0.05)
    assert standing.length == pytest.approx(math.hypot(18, 3), rel=0.015)
    return lying.width, standing.width


def test_one_photo_takes_the_perspective_away():
    photo = photograph((24.0, -17.0, 8.0))
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE)
    np.testing.assert_array_equal(calibration.camera_matrix, np.eye(3))
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
    photo = np.dstack([photograph((15.0, 10.0, 97.0))] * 3)
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


def test_several_photos_calibrate_the_lens():
    photos = [photograph(tilt, LENS) for tilt in TILTS]
    alone = calibrate_checkerboard(photos[:1], PATTERN, SQUARE)
    calibration = calibrate_checkerboard(photos, PATTERN, SQUARE)
    assert calibration.distortion[0] == pytest.approx(-0.28, abs=0.04)
    np.testing.assert_allclose(np.diag(calibration.camera_matrix)[:2], 700, rtol=0.02)
    assert calibration.residual < 0.5 * alone.residual
    lying, standing = _bars(calibration.rectify(photos[0]), calibration.pixel_size)
    assert lying == pytest.approx(4, abs=0.2)
    assert standing == pytest.approx(3, abs=0.2)


def test_boards_that_cannot_be_used_are_refused():
    photo = photograph((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="Photo 2 shows no whole checkerboard with 9 by 6"):
        calibrate_checkerboard([photo, np.full_like(photo, 99)], PATTERN, SQUARE)
    with pytest.raises(ValueError, match="no whole checkerboard"):
        calibrate_checkerboard([photo], (8, 7), SQUARE)
    with pytest.raises(ValueError, match="one size"):
        calibrate_checkerboard([photo, photo[:-2]], PATTERN, SQUARE)
    with pytest.raises(ValueError, match="square=0"):
        calibrate_checkerboard([photo], PATTERN, 0)
    with pytest.raises(ValueError, match="pattern"):
        calibrate_checkerboard([photo], (2, 6), SQUARE)
    with pytest.raises(ValueError, match="one size"):
        calibrate_checkerboard([], PATTERN, SQUARE)


def test_only_the_checkerboard_holds_for_a_camera_that_is_tilted_and_distorts():
    trial = calibration_trial()
    assert math.hypot(30, 4) == BAR_LENGTH and (trial["true_length"] == BAR_LENGTH).all()
    off = trial["off"].abs()
    straight = trial["camera"] == "straight"
    assert straight.sum() == 3 and (~straight).sum() == 4
    assert (off[straight] <= 1.5 * 95 / 700).all(), "1.5 pixels"
    # no click tells of perspective: the bar is off by far more than the error that is carried
    simple = ~straight & ~trial["calibration"].str.startswith("checkerboard")
    assert (off[simple] > 5 * trial["length_error"][simple]).all()
    assert (trial["off_percent"][simple].abs() > 3).all()
    assert off.iloc[-1] <= 1.5 * 95 / 700 and trial["calibration"].iloc[-1] == "checkerboard, 5 photos"
    np.testing.assert_allclose(trial["off_percent"], 100 * (trial["length"] / BAR_LENGTH - 1))
