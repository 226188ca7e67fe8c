"""Calibrations of the pixel size, against what was drawn."""

import math

import numpy as np
import pytest

from helpers.analysis.pixel_size import calibrate_checkerboard, pixel_size_from_object, pixel_size_from_points
from helpers.analysis.sizing import PixelSize
from helpers.pictures.calibration_scene import (
    BAR_LENGTH,
    DISC,
    LENS,
    NO_LENS,
    PATTERN,
    SQUARE,
    TILTS,
    bar_sizes,
    photograph,
    project,
)
from helpers.pictures.calibration_scene import SHAPE as PHOTO_SHAPE


def test_two_points():
    size = pixel_size_from_points((10, 20), (310, 420), 25.0, "mm", click_error=2.0, distance_error=0.05)
    assert size.value_x == size.value_y == pytest.approx(0.05), "25 mm over 500 px"
    assert size.relative_error == pytest.approx(math.hypot(2 * math.sqrt(2) / 500, 0.05 / 25))
    assert size.unit == "mm" and "25 mm" in size.origin


def test_units_and_their_conversion():
    assert PixelSize(0.05, 0.1, 0.001, "mm").to("cm").value_y == pytest.approx(0.01)
    inch = PixelSize(0.254, 0.254, 0.00254, "mm").to("inch")
    assert (inch.value_x, inch.error, inch.unit) == (pytest.approx(0.01), pytest.approx(0.0001), "inch")
    assert inch.relative_error == pytest.approx(0.01)
    with pytest.raises(ValueError, match="px"):
        PixelSize(1, 1, 0, "px").to("mm")


def test_a_reference_rectangle_and_its_measures():
    mask = np.zeros((100, 200), bool)
    mask[30:70, 20:140] = True
    width = pixel_size_from_object(mask, 8.0, measure="width", edge_error=0.25, size_error=0.08)
    assert width.value_x == pytest.approx(8 / 40)
    assert width.relative_error == pytest.approx(math.hypot(0.5 / 40, 0.01))
    assert pixel_size_from_object(mask, 3, "inch", measure="length").value_x == pytest.approx(3 / math.hypot(40, 120))


def test_of_a_disc_and_specks_the_disc_is_measured():
    y, x = np.mgrid[0:200, 0:300]
    disc = np.hypot(x - 90.2, y - 100.4) <= 50
    expected = pixel_size_from_object(disc, 48.3)
    assert expected.value_x == pytest.approx(0.483, rel=0.002)
    disc[3, 280] = disc[150, 0] = True  # one at the border, which cuts no reference
    assert pixel_size_from_object(disc, 48.3) == expected
    disc[20:47, 200:227] = True  # a tenth of 7,850 px is a square of side 28
    assert pixel_size_from_object(disc, 48.3) == expected
    disc[20:49, 200:229] = True
    with pytest.raises(ValueError, match="4 regions"):
        pixel_size_from_object(disc, 48.3)


def test_what_cannot_be_a_reference_is_refused():
    mask = np.zeros((20, 20), bool)
    for rows in (np.s_[:0], np.s_[:5]):  # nothing, and an object that the border cuts
        mask[rows, 3:9] = True
        with pytest.raises(ValueError, match="border"):
            pixel_size_from_object(mask, 1.0)
    mask = np.pad(mask, 3)
    for arguments, options in (((mask, 1.0), {"measure": "area"}), ((mask, 0), {})):
        with pytest.raises(ValueError, match="measure|above 0"):
            pixel_size_from_object(*arguments, **options)
    for second, distance, unit in (((1, 2), 5.0, "mm"), ((3, 4), -1, "mm"), ((3, 4), 5, "px"), ((3, 4), 5, "mile")):
        with pytest.raises(ValueError, match="two different|above 0|name its unit"):
            pixel_size_from_points((1, 2), second, distance, unit)


def _check_bars(photo: np.ndarray, size: PixelSize) -> None:
    """The lying bar (30 x 4 mm) and the standing bar (3 x 18 mm) in a rectified photo."""
    lying, standing = bar_sizes(photo, size).itertuples()
    assert (lying.area, lying.length) == (pytest.approx(120, rel=0.04), pytest.approx(BAR_LENGTH, rel=0.012))
    assert (standing.area, standing.length) == (pytest.approx(54, rel=0.05), pytest.approx(18.25, rel=0.015))
    assert (lying.width, standing.width) == (pytest.approx(4, abs=0.2), pytest.approx(3, abs=0.2))


def test_one_photo_takes_the_perspective_away():
    photo = photograph((24.0, -17.0, 8.0))
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE)
    assert calibration.residual < 0.02, "mm; a pixel is about 0.14"
    assert 0 < calibration.pixel_size.relative_error < 0.01
    assert calibration.pixel_size.value_x == pytest.approx(95 / 700, rel=0.2)
    _check_bars(calibration.rectify(photo), calibration.pixel_size)
    with pytest.raises(ValueError, match="size"):
        calibration.rectify(photo[:-1])


def test_the_rectified_photo_stays_upright_and_keeps_its_kind():
    photo = np.dstack([photograph((15.0, 10.0, 97.0))] * 3)
    calibration = calibrate_checkerboard([photo], PATTERN, SQUARE, square_error=0.1)
    assert calibration.pixel_size.relative_error >= 0.1 / SQUARE
    # What is in the upper left of the photo stays there: the photo is not turned with the board.
    marked = np.zeros(PHOTO_SHAPE, bool)
    marked[100:140, 100:140] = True
    rectified = calibration.rectify(marked)
    assert calibration.rectify(photo).shape == (*rectified.shape, 3) and rectified.dtype == bool
    place = np.argwhere(rectified).mean(0) / rectified.shape
    np.testing.assert_allclose(place, np.array(120) / PHOTO_SHAPE, atol=0.12)


def test_several_photos_calibrate_the_lens():
    photos = [photograph(tilt, LENS) for tilt in TILTS]
    alone, calibration = (calibrate_checkerboard(photos[:n], PATTERN, SQUARE) for n in (1, 5))
    assert calibration.residual < 0.5 * alone.residual
    _check_bars(calibration.rectify(photos[0]), calibration.pixel_size)


def test_boards_that_cannot_be_used_are_refused():
    photo = photograph((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="Photo 2 shows no whole checkerboard with 9 by 6"):
        calibrate_checkerboard([photo, np.full_like(photo, 99)], PATTERN, SQUARE)
    for photos, pattern, square in (([photo, photo[:-2]], PATTERN, 5), ([], PATTERN, 5), ([photo], (2, 6), 5)):
        with pytest.raises(ValueError, match="inner corners"):
            calibrate_checkerboard(photos, pattern, square)


def test_only_the_checkerboard_holds_for_a_camera_that_is_tilted_and_distorts():
    for tilts, lens in (([(0.0, 0.0, 0.0)], NO_LENS), (TILTS, LENS)):
        photos = [photograph(tilt, lens) for tilt in tilts]
        points = pixel_size_from_points(*np.round(project([[8, 6], [58, 6]], tilts[0], lens)), 50.0)
        disc = pixel_size_from_object(photograph(tilts[0], lens, disc=True) < 128, DISC)
        board = calibrate_checkerboard(photos, PATTERN, SQUARE)
        bars = [bar_sizes(photos[0], size).iloc[0] for size in (points, disc)]
        off = [abs(bar["length"] - BAR_LENGTH) for bar in bars]
        # no click tells of perspective: the bar is off by far more than the error that is carried
        assert all(value <= 1.5 * 95 / 700 if lens is NO_LENS else value > 0.03 * BAR_LENGTH for value in off), "1.5 px"
        assert lens is NO_LENS or all(value > 5 * bar["length_error"] for value, bar in zip(off, bars, strict=True))
        rectified = bar_sizes(board.rectify(photos[0]), board.pixel_size).iloc[0]
        assert rectified["length"] == pytest.approx(math.hypot(30, 4), abs=1.5 * 95 / 700)
