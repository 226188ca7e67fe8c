"""Pictures that are painted on: outlines on the edge, bars as long as they say, labels that keep clear."""

import numpy as np
import pytest

from helpers import drawing
from helpers.analysis.sizing import PixelSize, measure_labels
from helpers.inference.frame_drawing import LAYOUTS, FrameContent, MapScale, draw_frame

MM = PixelSize(0.1, 0.1, unit="mm")
PHOTO = np.full((100, 160, 3), 128, np.uint8)
LABELS = np.zeros((100, 160), np.int32)
LABELS[40:60, 60:100] = 1
TABLE = measure_labels(LABELS, MM)


def test_small_photos_are_enlarged_and_the_outline_lies_on_the_edge():
    photo = drawing.annotate_photo(PHOTO, LABELS, TABLE, MM)
    assert photo.shape == (700, 1120, 3) and photo.dtype == np.uint8, "700 is the first multiple of 100 from 640 on"
    orange = (photo == (230, 159, 0)).all(-1)
    ys, xs = np.nonzero(orange & (np.arange(700) >= 275)[:, None])  # the label above has letters of the same colour
    np.testing.assert_allclose([ys.min(), ys.max(), xs.min(), xs.max()], [280, 420, 420, 700], atol=2)
    assert (photo[350, 200] == 128).all(), "elsewhere the photo is as it was"
    grey = np.zeros((700, 900), np.uint8)
    assert drawing.annotate_photo(grey, grey.astype(np.int32), TABLE.iloc[:0]).shape == (700, 900, 3)
    severe = drawing.annotate_photo(PHOTO, LABELS, TABLE.assign(severity="critical"), MM, caption="FAIL")
    assert (severe == (213, 94, 0)).all(-1).sum() > 500 and (severe[:60, :200] == 255).all(-1).any(), "the caption"


@pytest.mark.parametrize(("pixel_size", "unit"), [(0.1, "mm"), (1.0, "px"), (0.01, "inch")])
def test_the_scale_bar_is_as_long_as_it_says(pixel_size, unit):
    """22 % of 160 pixels are 35: the next round length below is 20 pixels, 2 mm or 0.2 inch."""
    photo = drawing.annotate_photo(PHOTO, 0 * LABELS, TABLE.iloc[:0], PixelSize(pixel_size, pixel_size, unit=unit))
    white = (photo[600:, 700:] == 255).all(-1)
    assert white.sum(axis=1).max() == pytest.approx(7 * 20, abs=2)


def test_labels_keep_clear_of_each_other_and_in_the_picture():
    bodies = [(40.0 * k, 30.0 * k, 40.0 * k + 30, 30.0 * k + 8) for k in range(6)]
    taken: list = [(0, 0, 60, 14)]
    for body in bodies:
        left, top = drawing.label_place((50, 12), body, (300, 200), taken, bodies, 4)
        taken.append((left, top, left + 50, top + 12))
    boxes = np.array(taken)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (300, 200)).all()
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    assert (shared[~np.eye(len(boxes), dtype=bool)] == 0).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (20, 8000), (3, 20_000), (300, 10)])
def test_thin_photos_stay_small(shape):
    """One pixel high and 5000 wide would be enlarged to 640 by 3,200,000."""
    labels = np.zeros(shape, np.int32)
    labels[: max(1, shape[0] // 2), : max(1, shape[1] // 3)] = 1
    photo, table = np.zeros((*shape, 3), np.uint8), measure_labels(labels)
    drawn = drawing.annotate_photo(photo, labels, table, caption="x")
    assert drawn.shape[0] * drawn.shape[1] <= max(drawing.MOST_PIXELS, labels.size)
    high, wide = drawing.folded(drawn).shape[:2]
    assert max(high, wide) <= drawing.LONGEST * min(high, wide) or min(shape) == 1
    found = FrameContent("OK", drawing.SOUND, (), np.zeros(shape, np.float32), labels, table)
    for layout in LAYOUTS:
        assert draw_frame(layout, photo, found, MapScale(0, 1)).size < 3 * 4 * drawing.MOST_PIXELS


def test_a_strip_is_folded_so_that_all_of_it_is_seen():
    strip = np.arange(20 * 8000, dtype=np.float32).reshape(20, 8000)
    sheet = drawing.folded(strip)
    assert 0.5 < sheet.shape[1] / sheet.shape[0] < 2
    assert set(strip.ravel()) <= set(sheet.ravel()) and np.isnan(sheet).any(), "nothing is lost; gaps between pieces"
    np.testing.assert_array_equal(drawing.folded(strip.T), sheet.T)
    photo = np.zeros((100, 700, 3), np.uint8)
    assert drawing.folded(photo) is photo


def test_maps_are_as_opaque_as_asked_and_boxes_have_the_colour_of_the_verdict():
    picture, heat, nothing = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 2.0, np.float32), np.zeros((8, 8), bool)
    clear, half, full = (drawing.draw_overlay(picture, heat, nothing, 1.0, opacity=share) for share in (0, 0.5, 1))
    np.testing.assert_array_equal(clear, picture)
    np.testing.assert_allclose(half, (full.astype(float) + picture) / 2, atol=1)
    framed = drawing.draw_boxes(picture, [(1, 1, 3, 3), (5, 5, 2, 2)], [True, False])
    assert tuple(framed[1, 1]) == drawing.DEFECT and tuple(framed[5, 5]) == drawing.SOUND and (picture == 100).all()


def test_long_names_keep_their_end():
    assert drawing.shorten("short.png", 24) == "short.png"
    short = drawing.shorten("contamination/IMG_20240131_camera2_000123.png", 24)
    assert len(short) == 24 and short.endswith("000123.png") and short.startswith("contam")
