"""Outlines from strangers: whatever they are, drawing answers with the right pixels or says what is wrong."""

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from helpers.analysis.regions import draw_box, draw_polygon, draw_rle, pixels_of

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
ODD = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**12), 10**12) | st.floats(-30, 30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
PACKED = "".join(map(chr, range(48, 112)))
CODES = {"", "clipped", "outside", "no-area", "too-few-points", "invalid-polygon", "invalid-rle"}
quick = settings(deadline=None, max_examples=60)


def require_sound(drawn, size: tuple[int, int]) -> None:
    assert drawn.code in CODES and (drawn.region is None) == (drawn.code not in ("", "clipped"))
    if drawn.region is not None:
        pixels = pixels_of(drawn.region)
        assert pixels.shape == size and pixels.any()


@given(SIZES, st.data(), st.booleans())
@quick
def test_run_lengths_come_back_exactly(size, data, compressed):
    mask = data.draw(st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    edges = np.flatnonzero(np.diff(np.array([False, *mask]).astype(int), append=0)) if any(mask) else []
    counts = np.diff([0, *edges, len(mask)]).astype(int).tolist()
    if compressed:
        pixels = np.array(mask, np.uint8).reshape(size[::-1]).T
        counts = coco_mask.encode(np.asfortranarray(pixels))["counts"].decode()
    drawn = draw_rle({"size": list(size), "counts": counts}, size)
    require_sound(drawn, size)
    assert (drawn.code == "no-area") == (not any(mask))
    if any(mask):
        assert pixels_of(drawn.region).ravel(order="F").tolist() == mask


@given(SIZES, st.text(max_size=30) | st.text(PACKED, max_size=30) | st.lists(st.integers(-5, 200), max_size=8) | JSON)
@example((4, 4), "`" * 40)
@example((4, 4), [2**32, 16 - 2**32])
@example((4, 4), [0, 2**40])
@quick
def test_any_content_as_run_lengths(size, counts):
    require_sound(draw_rle({"size": list(size), "counts": counts}, size), size)


@given(SIZES, st.lists(ODD, max_size=14) | st.lists(st.tuples(ODD, ODD), max_size=7) | JSON)
@example((4, 4), [0, 0, 1e9, 0, 1e9, 1e9])
@example((4, 4), [-1e9, -1e9, 9e8, 3, 3, 9e8])
@example((4, 4), [math.nan, 0, 4, 0, 4, 4])
@example((1, 1), [0, 4, 0, 5, 5, 0])
@quick
def test_any_content_as_polygon(size, points):
    require_sound(draw_polygon(points, size), size)
    require_sound(draw_box(points, size), size)


def test_an_outline_without_end_is_refused():
    # each edge crosses the picture: pycocotools would take memory for all of them
    zigzag = np.stack([np.arange(400_000) % 2 * 1000.0, np.arange(400_000) / 400.0], axis=1)
    assert draw_polygon(zigzag, (1000, 1000)).code == "invalid-polygon"
