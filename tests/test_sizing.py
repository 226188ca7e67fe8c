"""Sizes against shapes worked out by hand, and against the drawn truth."""

import itertools
import math

import cv2
import numpy as np
import pandas as pd
import pytest
from skimage.measure import perimeter_crofton, regionprops

from helpers.analysis.sizing import COLUMNS, LENGTHS, PixelSize, label_defects, measure_defects, measure_labels
from helpers.thresholds import Threshold

PLAIN = {"use_morphology": False, "min_defect_area": 1}


def blank(height: int = 60, width: int = 80) -> np.ndarray:
    return np.zeros((height, width), bool)


def block(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = blank(*shape)
    mask[top : top + height, left : left + width] = True
    return mask


def only(mask: np.ndarray, **options) -> pd.Series:
    table = measure_defects(mask, **PLAIN | options)
    assert len(table) == 1
    return table.iloc[0]


def test_a_rectangle_in_pixels_and_millimetres():
    row = only(block(10, 20, 6, 30), pixel_size=0.1, unit="mm")
    expected = {
        **{"area_px": 180, "length_px": math.hypot(30, 6), "width_px": 6, "edge_distance_px": 10, "solidity": 1},
        **{"area": 1.8, "length": math.hypot(3, 0.6), "width": 0.6, "edge_distance": 1.0, "orientation_deg": 0},
        **{"centroid_x": 35, "centroid_y": 13, "relative_x": 35 / 80, "relative_y": 13 / 60},
        **{"bbox_x": 20, "bbox_y": 10, "bbox_width": 30, "bbox_height": 6, "unit": "mm", "touches_border": False},
        "equivalent_diameter_px": 2 * math.sqrt(180 / math.pi),
        # Variance of a length a: a² / 12; a full axis is four standard deviations.
        **{"major_axis_px": 4 * math.sqrt(30**2 / 12), "minor_axis": 0.4 * math.sqrt(6**2 / 12)},
    }
    assert row[[*expected]].to_dict() == pytest.approx(expected)
    ends = row[["length_x0", "length_y0", "length_x1", "length_y1"]].to_numpy(float).reshape(2, 2)
    assert {tuple(end) for end in ends} in ({(20, 10), (50, 16)}, {(20, 16), (50, 10)})
    assert row[[f"{name}_error" for name in ("area", *LENGTHS)]].eq(0).all(), "a plain number is taken as exact"


def test_a_single_pixel_is_one_pixel_wide():
    row = only(block(5, 7, 1, 1))
    assert row["area_px"] == row["width_px"] == row["solidity"] == 1
    assert row["length_px"] == pytest.approx(math.sqrt(2)), "the diagonal of the pixel"
    assert row["major_axis_px"] == row["minor_axis_px"] == pytest.approx(4 / math.sqrt(12))
    row = only(block(5, 7, 1, 12))
    assert row["minor_axis_px"] == pytest.approx(4 / math.sqrt(12)), "as wide as one pixel, not as none"
    assert (row["width_px"], row["length_px"]) == (1, pytest.approx(math.hypot(12, 1)))


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 128])
def test_a_turned_rectangle(degrees):
    """50 by 12 px, turned counterclockwise as the photo is seen."""
    y, x = np.mgrid[0:128, 0:128] - 63.5
    angle = math.radians(degrees)
    along, across = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    row = only((abs(along) <= 25) & (abs(across) <= 6))
    assert row["area_px"] == pytest.approx(600, rel=0.03)
    assert (row["length_px"], row["width_px"]) == pytest.approx((math.hypot(50, 12), 12), abs=1.5)
    assert (row["orientation_deg"] - degrees + 90) % 180 - 90 == pytest.approx(0, abs=0.5)
    assert -90 < row["orientation_deg"] <= 90
    assert row["perimeter_px"] == pytest.approx(124, rel=0.08)


def test_the_feret_diameters_are_those_of_all_directions():
    """Against projections of the pixels' corners on lines at every tenth of a degree."""
    draw = np.random.default_rng(1)
    directions = np.deg2rad(np.arange(0, 180, 0.1))
    lines = np.stack([np.cos(directions), np.sin(directions)])
    for _ in range(10):
        points = draw.integers(10, 50, (7, 2))
        mask = cv2.fillPoly(blank().astype(np.uint8), [points.astype(np.int32)], 1).astype(bool)
        rows, columns = np.nonzero(mask)
        for scale in ((1.0, 1.0), (0.5, 2.0)):
            corners = [np.column_stack([columns + i, rows + j]) for i, j in itertools.product((0, 1), (0, 1))]
            extents = np.ptp((np.concatenate(corners) * scale) @ lines, axis=0)
            row = only(mask, pixel_size=scale, unit="mm", fill_holes=False)
            assert row["length"] == pytest.approx(extents.max(), rel=1e-4)
            assert row["width"] == pytest.approx(extents.min(), rel=5e-3)
            assert row["width"] <= extents.min() + 1e-9


def test_against_scikit_image():
    """Perimeter, axes, orientation and scores of blobs with holes, as the library has them."""
    draw = np.random.default_rng(2)
    noise = cv2.GaussianBlur(draw.normal(size=(120, 150)).astype(np.float32), (0, 0), 4)
    labels = label_defects(noise, 0.06, fill_holes=False, **PLAIN)
    table = measure_labels(labels, score_map=noise)
    assert len(table) > 8
    assert (table["area"].diff().dropna() <= 0).all(), "the largest first"
    for row, region in zip(table.itertuples(), regionprops(labels, noise), strict=True):
        assert row.defect == region.label
        assert row.area == region.num_pixels
        assert row.perimeter == pytest.approx(perimeter_crofton(np.pad(region.image, 1), directions=4))
        assert row.mean_score == pytest.approx(region.intensity_mean)
        assert row.peak_score == pytest.approx(region.intensity_max)
        # The library takes pixels for points: without the 1/12 that a square's own points add.
        for axis, length in ((row.major_axis, region.axis_major_length), (row.minor_axis, region.axis_minor_length)):
            assert axis == pytest.approx(math.hypot(length, 4 / math.sqrt(12)), abs=1e-4)
        # The library measures from the vertical axis.
        assert math.cos(2 * math.radians(row.orientation_deg)) == pytest.approx(
            math.cos(2 * (region.orientation + math.pi / 2)), abs=1e-6
        )


def test_pixels_that_are_not_square():
    """A disc of 5 mm seen with pixels of 0.1 by 0.2 mm is an ellipse of 100 by 50 pixels."""
    y, x = np.mgrid[0:100, 0:160] + 0.5
    mask = ((x - 80) * 0.1) ** 2 + ((y - 50) * 0.2) ** 2 <= 25
    row = only(mask, pixel_size=(0.1, 0.2), unit="mm")
    assert row["area"] == pytest.approx(math.pi * 25, rel=0.01)
    assert (row["length"], row["width"]) == pytest.approx((10, 10), abs=0.25)
    assert row["perimeter"] == pytest.approx(10 * math.pi, rel=0.03)
    assert row["major_axis"] == pytest.approx(row["minor_axis"], rel=0.02)
    assert (row["length_px"], row["width_px"]) == pytest.approx((100, 50), abs=1.5)
    row = only(block(10, 30, 8, 4), pixel_size=(0.1, 0.2), unit="cm")
    assert (row["length"], row["width"]) == pytest.approx((math.hypot(0.4, 1.6), 0.4))
    assert row["edge_distance"] == pytest.approx(2.0), "10 pixels of 0.2 above, 30 of 0.1 to the left"
    assert row["edge_distance_px"] == 10


def test_inches_and_other_units():
    row = only(block(10, 20, 5, 8), pixel_size=PixelSize(0.508, 0.508, 0.00508, "mm"), unit="inch")
    assert (row["area"], row["unit"]) == (pytest.approx(0.1 * 0.16), "inch")
    assert row["area_error"] == pytest.approx(0.1 * 0.16 * 0.02), "1 % of the pixel size: 2 % of an area"
    assert row["width_error"] == pytest.approx(0.1 * 0.01)
    own = only(block(10, 20, 5, 8), pixel_size=PixelSize(0.508, 0.508))
    assert (own["unit"], own["width"]) == ("mm", pytest.approx(5 * 0.508))


def test_the_border_cuts_and_the_product_has_an_edge():
    row = only(block(0, 20, 5, 8))
    assert row["touches_border"]
    assert row["edge_distance_px"] == 0
    product = block(10, 10, 40, 60)
    row = only(block(15, 30, 6, 6), product_mask=product, pixel_size=0.5, unit="mm")
    assert row["edge_distance_px"] == 5, "rows 10 to 14 lie between"
    assert (row["relative_x"], row["relative_y"]) == (23 / 60, 8 / 40), "in the product's box"
    assert row["edge_distance"] == pytest.approx(2.5)
    assert only(block(8, 60, 6, 6), product_mask=product)["edge_distance_px"] == 0, "it reaches beyond the product"
    diagonal = np.ones((60, 80), bool)
    assert only(block(7, 30, 6, 6), product_mask=diagonal)["edge_distance_px"] == 7, "then the photo's edge"
    diagonal[27, 37] = False
    assert only(block(31, 42, 6, 6), product_mask=diagonal)["edge_distance_px"] == pytest.approx(5), "3 down, 4 right"


def test_holes():
    ring = block(10, 20, 12, 12) & ~block(14, 24, 4, 4)
    assert only(ring)["area_px"] == 144
    assert only(ring, fill_holes=False)["area_px"] == 128
    bay = block(0, 20, 12, 12) & ~block(0, 24, 8, 4)
    assert only(bay)["area_px"] == 144 - 32, "what the border closes is no hole"


def test_specks_go_and_thin_scratches_keep_their_length():
    mask = block(10, 10, 10, 20) | block(40, 10, 1, 30) | block(55, 60, 2, 4) | block(30, 50, 3, 3)
    mask[13, 30:38] = True  # a crack of one pixel's width that starts at the block
    table = measure_defects(mask, min_defect_area=1)
    # Closing fills two corners at the crack's root; 8 px without a disc of three in them are a speck.
    assert table["area"].tolist() == [210, 30, 9]
    assert table["bbox_width"].tolist() == [28, 30, 3]
    assert measure_defects(mask, min_defect_area=1, use_morphology=False)["area"].tolist() == [208, 30, 9, 8]
    assert measure_defects(mask)["area"].tolist() == [210, 30]
    assert measure_defects(mask, min_defect_area=31)["area"].tolist() == [210]
    row = block(20, 20, 1, 3) | block(20, 25, 1, 3) | block(20, 30, 1, 3) | block(20, 35, 1, 3)
    assert len(measure_defects(row)) == 0, "specks go before they can be closed or merged into a defect"
    assert len(measure_defects(row, merge_distance=5)) == 0


def test_closing_bridges_small_gaps_and_never_reaches_the_border():
    mask = block(10, 10, 10, 10) | block(10, 22, 10, 10)
    assert len(measure_defects(mask)) == 1, "2 px are narrower than 3"
    assert len(measure_defects(block(10, 10, 10, 10) | block(10, 23, 10, 10))) == 2
    assert len(measure_defects(mask, use_morphology=False)) == 2
    row = measure_defects(block(1, 10, 10, 10)).iloc[0]
    assert row["area"] == 100 and not row["touches_border"]


def test_a_photo_with_more_background_has_the_same_defects():
    """Of a mask that keeps off the border, far background decides nothing, whatever lies near it."""
    draw = np.random.default_rng(0)
    for _ in range(40):
        picture = cv2.GaussianBlur(draw.random((48, 40)), (0, 0), float(draw.uniform(0.5, 3)))
        near = np.zeros((48, 40), bool)
        near[12:36, 12:28] = picture[12:36, 12:28] > np.quantile(picture, draw.uniform(0.4, 0.95))
        near, far = (label_defects(np.pad(near, side), merge_distance=3) for side in (0, 60))
        np.testing.assert_array_equal(far, np.pad(near, 60))


def test_fragments_nearer_than_the_distance_are_one():
    mask = block(10, 10, 10, 10) | block(10, 26, 10, 10)  # a gap of 6 px, 0.3 mm
    options = {"pixel_size": 0.05, "unit": "mm"}
    assert len(measure_defects(mask, **options, merge_distance=0.299)) == 2
    row = measure_defects(mask, **options, merge_distance=0.301).iloc[0]
    assert row["area_px"] == 200, "the gap is not filled"
    assert row["length_px"] == pytest.approx(math.hypot(26, 10))
    assert row["bbox_width"] == 26
    diagonal = block(10, 10, 5, 5) | block(18, 19, 5, 5)  # 3 down and 4 to the right
    assert len(measure_defects(diagonal, merge_distance=5)) == 2, "the gap of 5 is not below 5"
    assert len(measure_defects(diagonal, merge_distance=5.01)) == 1
    across = block(10, 10, 5, 5) | block(20, 10, 5, 5)
    assert len(measure_defects(across, pixel_size=(1, 0.1), unit="mm", merge_distance=0.6)) == 1
    assert len(measure_defects(across.T, pixel_size=(1, 0.1), unit="mm", merge_distance=0.6)) == 2
    chain = block(10, 5, 4, 4) | block(10, 12, 4, 4) | block(10, 19, 4, 4) | block(40, 40, 4, 4)
    assert measure_defects(chain, merge_distance=4)["area"].tolist() == [48, 16]


def test_the_threshold():
    heat = np.zeros((40, 40), np.float32)
    heat[5:15, 5:15] = 0.5
    heat[20:30, 20:30] = 0.8
    table = measure_defects(heat, 0.5)
    assert len(table) == 1, "a defect lies above the threshold, not at it"
    assert table["mean_score"].item() == pytest.approx(0.8)
    assert len(measure_defects(heat, Threshold(0.4, "known"))) == 2
    assert len(measure_defects(heat.astype(np.float16), 0.4)) == 2
    assert len(measure_defects((heat * 255).astype(np.uint8), 150)) == 1
    assert np.isnan(measure_defects(heat > 0.1)["mean_score"]).all()
    table = measure_defects(heat > 0.1, 99, score_map=heat)
    assert table["peak_score"].tolist() == pytest.approx([0.5, 0.8]), "a mask takes no threshold"
    labels = label_defects(block(2, 2, 4, 4) | block(20, 30, 10, 10) | block(40, 10, 4, 4))
    assert (labels[25, 35], labels[3, 3], labels[41, 11]) == (1, 2, 3), "the largest first, then from the top"
    assert measure_labels(labels)["bbox_y"].tolist() == [20, 2, 40]


@pytest.mark.parametrize("picture", [blank(), np.zeros((9, 9), np.float32), block(3, 3, 2, 2)])
def test_nothing_found_is_an_empty_table_of_the_same_kind(picture):
    empty = measure_defects(picture, 0.5, 0.1, "mm")
    full = measure_defects(block(3, 3, 8, 8), 0.5, 0.1, "mm")
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns) == list(COLUMNS)
    assert empty.dtypes.equals(full.dtypes)
    pd.testing.assert_frame_equal(pd.concat([empty, full], ignore_index=True), full)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("map_or_mask", [np.full((4, 4), np.nan), np.zeros((20, 20, 3)), np.zeros((0, 4)), np.full((4, 4), "a")]),
        ("pixel_size", [0, float("nan"), (1, -1)]),
        ("unit", ["furlong", "px"]),
        ("threshold", [float("nan")]),
        ("min_defect_area", [-1]),
        ("merge_distance", [float("nan")]),
    ],
)
def test_what_cannot_be_measured_is_refused(name, values):
    for value in values:
        with pytest.raises(ValueError, match="finite|shape|pixel_size|threshold|min_defect_area"):
            measure_defects(**{"map_or_mask": np.zeros((20, 20)), "pixel_size": 0.1, "unit": "mm", name: value})
