"""Outlines from strangers: whatever they are, drawing answers with the right pixels or says what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import read_dataset
from helpers.analysis.regions import draw_box, draw_polygon, draw_rle, pixels_of
from helpers.data.annotations import known_id

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
ODD = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**12), 10**12) | st.floats(-30, 30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
CODES = {"", "clipped", "outside", "no-area", "too-few-points", "invalid-polygon", "invalid-rle"}


def require_sound(drawn, size: tuple[int, int]) -> None:
    assert drawn.code in CODES and (drawn.region is None) == (drawn.code not in ("", "clipped"))
    if drawn.region is not None:
        pixels = pixels_of(drawn.region)
        assert pixels.shape == size and pixels.any()


def packed(counts: list[int]) -> str:
    """COCO's compressed text of run lengths (``rleToString`` in maskApi.c)."""
    text = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr(bits + (0x20 if more else 0) + 48)
            if not more:
                break
    return text


@given(SIZES, st.data(), st.booleans())
@settings(deadline=None)
def test_run_lengths_come_back_exactly(size, data, compressed):
    mask = data.draw(st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    edges = np.flatnonzero(np.diff(np.array([False, *mask]).astype(int), append=0)) if any(mask) else []
    counts = np.diff([0, *edges, len(mask)]).astype(int).tolist()
    drawn = draw_rle({"size": list(size), "counts": packed(counts) if compressed else counts}, size)
    require_sound(drawn, size)
    assert (drawn.code == "no-area") == (not any(mask))
    if any(mask):
        assert pixels_of(drawn.region).ravel(order="F").tolist() == mask


@given(
    SIZES,
    st.text(max_size=30) | st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno", max_size=30),
)
@example((4, 4), "0000")
@example((4, 4), "`" * 40)
@settings(deadline=None)
def test_any_text_as_compressed_run_lengths(size, text):
    require_sound(draw_rle({"size": list(size), "counts": text}, size), size)


@given(SIZES, st.lists(st.integers(-5, 200) | st.integers() | JSON, max_size=8) | JSON, st.none() | JSON)
@example((4, 4), [16, 0], [4, 4])
@example((4, 4), [2**32, 16 - 2**32], None)
@example((4, 4), [0, 2**40], None)
@settings(deadline=None)
def test_any_content_as_run_lengths(size, counts, stated):
    require_sound(draw_rle({"size": stated or list(size), "counts": counts}, size), size)


@given(SIZES, st.lists(ODD, max_size=14) | st.lists(st.tuples(ODD, ODD), max_size=7) | JSON)
@example((4, 4), [0, 0, 1e9, 0, 1e9, 1e9])
@example((4, 4), [-1e9, -1e9, 9e8, 3, 3, 9e8])
@example((4, 4), [0, 0, 4, 0, 4])
@example((4, 4), [math.nan, 0, 4, 0, 4, 4])
@example((4, 4), [10**400, 0, 4, 0, 4, 4])
@settings(deadline=None)
def test_any_content_as_polygon(size, points):
    require_sound(draw_polygon(points, size), size)
    require_sound(draw_box(points, size), size)


@given(SIZES, st.tuples(*[st.integers(0, 12)] * 4))
@settings(deadline=None)
def test_boxes_of_whole_pixels_are_exact(size, box):
    x, y, width, height = box
    expected = np.zeros(size, bool)
    expected[y : y + height, x : x + width] = True
    drawn = draw_box(box, size)
    require_sound(drawn, size)
    assert np.array_equal(pixels_of(drawn.region) if drawn.region else np.zeros(size, bool), expected)


def test_an_outline_without_end_is_refused():
    # each edge crosses the picture: pycocotools would take memory for all of them
    zigzag = np.stack([np.arange(400_000) % 2 * 1000.0, np.arange(400_000) / 400.0], axis=1)
    assert draw_polygon(zigzag, (1000, 1000)).code == "invalid-polygon"


@pytest.mark.parametrize("value", [None, True, math.nan, math.inf, [], {}, "", " "])
def test_what_is_no_id(value):
    assert known_id(value) is None


@given(st.integers(0, 10**30))
def test_ids_are_one_in_every_type(number):
    assert known_id(number) == known_id(str(number)) == known_id(f" 00{number} ") == known_id(f"{number}.0")


@pytest.mark.parametrize("layout", ["coco", "labelme", "voc", "yolo"])
def test_a_photo_beyond_the_limit_of_pillow_is_a_finding(tmp_path, monkeypatch, layout):
    root = tmp_path / "set"
    for name, size in (("big", (40, 50)), ("small", (10, 20))):
        for folder in ("images", "annotations" if layout != "yolo" else "labels"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(size, np.uint8)).save(root / f"images/{name}.png")
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        shapes = [{"label": "dent", "points": [[1, 1], [9, 1], [9, 9]]}]
        files = {
            "labelme": (f"images/{name}.json", json.dumps({"imagePath": f"{name}.png", "shapes": shapes})),
            "voc": (f"annotations/{name}.xml", f"<annotation><object><name>dent</name>{box}</object></annotation>"),
            "yolo": (f"labels/{name}.txt", "0 0.5 0.5 0.2 0.2"),
        }
        if layout in files:
            (root / files[layout][0]).write_text(files[layout][1])
    if layout == "coco":
        images = [
            {"id": i, "file_name": name, "height": h, "width": w}
            for i, (name, h, w) in enumerate((("big.png", 40, 50), ("small.png", 10, 20)))
        ]
        marks = [{"id": i, "image_id": i, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]} for i in range(2)]
        content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "dent"}]}
        (root / "annotations" / "instances.json").write_text(json.dumps(content))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    table = read_dataset(root, layout=layout, mask_cache=tmp_path / "cache")
    assert [Path(path).name for path in table["image_path"]] == ["small.png"]
    errors = [row for row in table.attrs["findings"] if row["severity"] == "error"]
    assert [(row["code"], row["path"]) for row in errors] == [("too-large", "images/big.png")]
