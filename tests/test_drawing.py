"""Pictures that are painted on: outlines on the edge, bars as long as they say, labels that keep clear."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers import drawing
from helpers.analysis.sizing import PixelSize, measure_labels
from helpers.inference.frame_drawing import LAYOUTS, FrameContent, MapScale, draw_frame

SHAPE = (100, 160)
MM = PixelSize(0.1, 0.1, unit="mm")
PHOTO = np.full((*SHAPE, 3), 128, np.uint8)


def _square() -> tuple[np.ndarray, pd.DataFrame]:
    labels = np.zeros(SHAPE, np.int32)
    labels[40:60, 60:100] = 1
    return labels, measure_labels(labels, MM)


def test_small_photos_are_enlarged_and_the_outline_lies_on_the_edge():
    labels, table = _square()
    photo = drawing.annotate_photo(PHOTO, labels, table, MM)
    assert photo.dtype == np.uint8
    assert photo.shape == (700, 1120, 3), "700 is the first multiple of 100 from 640 on"
    orange = (photo == (230, 159, 0)).all(-1)
    # The label above has letters of the same colour.
    ys, xs = np.nonzero(orange & (np.arange(700) >= 275)[:, None])
    assert abs(ys.min() - 7 * 40) <= 2 and abs(ys.max() - 7 * 60) <= 2
    assert abs(xs.min() - 7 * 60) <= 2 and abs(xs.max() - 7 * 100) <= 2
    assert (photo[350, 200] == 128).all(), "elsewhere the photo is as it was"
    large = drawing.annotate_photo(np.zeros((700, 900), np.uint8), np.zeros((700, 900), np.int32), table.iloc[:0])
    assert large.shape == (700, 900, 3)


@pytest.mark.parametrize(
    ("pixel_size", "unit", "pixels"), [(0.1, "mm", 7 * 20), (1.0, "px", 7 * 20), (0.01, "inch", 140)]
)
def test_the_scale_bar_is_as_long_as_it_says(pixel_size, unit, pixels):
    """22 % of 160 pixels are 35: the next round length below is 20 pixels, 2 mm or 0.2 inch."""
    labels = np.zeros(SHAPE, np.int32)
    photo = drawing.annotate_photo(PHOTO, labels, measure_labels(labels), PixelSize(pixel_size, pixel_size, unit=unit))
    white = (photo[600:, 700:] == 255).all(-1)
    assert white.sum(axis=1).max() == pytest.approx(pixels, abs=2)


def test_severity_gives_the_colour():
    labels, table = _square()
    severe = table.assign(severity="critical", defect_type="scratch")
    photo = drawing.annotate_photo(PHOTO, labels, severe, MM, caption="FAIL")
    assert (photo == (213, 94, 0)).all(-1).sum() > 500
    assert (photo[:60, :200] == 255).all(-1).any(), "the caption"


def test_labels_keep_clear_of_each_other_and_in_the_picture():
    bodies = [(40.0 * k, 30.0 * k, 40.0 * k + 30, 30.0 * k + 8) for k in range(6)]
    taken: list = [(0, 0, 60, 14)]
    for body in bodies:
        taken.append(drawing.label_place((50, 12), body, (300, 200), taken, bodies, 4))
    boxes = np.array(taken)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (300, 200)).all()
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    assert (shared[~np.eye(len(boxes), dtype=bool)] == 0).all()


def test_what_does_not_fit_is_refused():
    labels, table = _square()
    with pytest.raises(ValueError, match="resize"):
        drawing.annotate_photo(PHOTO[:50], labels, table)
    with pytest.raises(ValueError, match="'weight'"):
        drawing.annotate_photo(PHOTO, labels, table, measure="weight")


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (20, 8000), (3, 20_000), (300, 10)])
def test_thin_photos_stay_small(shape):
    """One pixel high and 5000 wide was enlarged to 640 by 3,200,000, with several arrays of that size."""
    labels = np.zeros(shape, np.int32)
    labels[: max(1, shape[0] // 2), : max(1, shape[1] // 3)] = 1
    table = measure_labels(labels)
    drawn = drawing.annotate_photo(np.zeros((*shape, 3), np.uint8), labels, table, caption="x")
    assert drawn.shape[0] * drawn.shape[1] <= max(drawing.MOST_PIXELS, shape[0] * shape[1])
    high, wide = drawing.folded(drawn).shape[:2]
    assert max(high, wide) <= drawing.LONGEST * min(high, wide) or min(shape) == 1
    found = FrameContent("OK", drawing.SOUND, (), np.zeros(shape, np.float32), labels, table)
    for layout in LAYOUTS:
        frame = draw_frame(layout, np.zeros((*shape, 3), np.uint8), found, MapScale(0, 1))
        assert frame.size < 3 * 4 * drawing.MOST_PIXELS


def test_a_strip_is_folded_so_that_all_of_it_is_seen():
    strip = np.arange(20 * 8000, dtype=np.float32).reshape(20, 8000)
    sheet = drawing.folded(strip)
    assert 0.5 < sheet.shape[1] / sheet.shape[0] < 2
    assert set(strip.ravel()) <= set(sheet.ravel()) and np.isnan(sheet).any(), "nothing is lost; gaps between pieces"
    np.testing.assert_array_equal(drawing.folded(strip.T), sheet.T)
    photo = np.zeros((100, 700, 3), np.uint8)
    assert drawing.folded(photo) is photo


def test_long_names_keep_their_end():
    assert drawing.shorten("short.png", 24) == "short.png"
    short = drawing.shorten("contamination/IMG_20240131_camera2_000123.png", 24)
    assert len(short) == 24 and short.endswith("000123.png") and short.startswith("contam")
