"""One rule for "above the threshold": verdict, mask, metric, size table and curves agree, also exactly on a value."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from helpers.analysis.cascade_costs import Prices, cascade_rates, expected_costs, lost_photos
from helpers.analysis.classification import threshold_rates
from helpers.analysis.comparison import operating_points, threshold_counts
from helpers.analysis.metrics import PixelMetrics, bootstrap_draws, image_metrics, photo_overlap
from helpers.analysis.sizing import label_defects, measure_defects
from helpers.analysis.weak_defects import detection_rates
from helpers.data.images import map_at_photo_size
from helpers.thresholds import Threshold, exceeds

WHOLE = {"min_defect_area": 0, "use_morphology": False, "fill_holes": False}


@st.composite
def maps_and_thresholds(draw):
    """A map with plateaus, and a threshold that lies on one of its values, near one, or anywhere."""
    values = draw(st.lists(st.floats(-2, 8, width=32, allow_subnormal=False), min_size=1, max_size=4))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    found = draw(arrays(np.float32, shape, elements=st.sampled_from(values)))
    on = float(draw(st.sampled_from(values)))
    # a decimal number, as YAML and JSON write it, lies a hair off the float32
    return found, draw(st.sampled_from([on, float(f"{on:.7g}"), on + 1e-12, on - 1e-12, on + 0.5]))


@given(maps_and_thresholds())
@settings(deadline=None, max_examples=150)
def test_a_map_is_above_its_threshold_in_the_same_pixels_everywhere(drawn):
    found, value = drawn
    above = found > np.float32(value)
    threshold = Threshold(value, "given", kind="pixel")
    np.testing.assert_array_equal(threshold.exceeds(found), above)
    np.testing.assert_array_equal(label_defects(found, threshold, **WHOLE) > 0, above)
    assert measure_defects(found, threshold, **WHOLE)["area_px"].sum() == above.sum()
    metric = PixelMetrics(threshold)
    metric.update(found, np.ones(found.shape, bool))
    assert (metric.tp, metric.fn) == (above.sum(), (~above).sum())
    assert photo_overlap([found], [np.ones(found.shape, bool)], threshold)["iou"].item() == above.mean()


@given(maps_and_thresholds())
@settings(deadline=None, max_examples=100)
def test_scores_are_above_their_threshold_in_the_same_photos_everywhere(drawn):
    found, value = drawn
    scores, threshold = found.ravel().astype(float), Threshold(value, "given")
    above = found.ravel() > np.float32(value)
    share, labels = above.mean(), np.ones(scores.size, bool)
    assert image_metrics(labels, scores, threshold)["recall_at_threshold"] == share
    draws = bootstrap_draws(labels, scores, threshold, n=3, seed=0)["recall_at_threshold"]
    assert (draws == 0).all() if not above.any() else (draws == 1).all() if above.all() else True
    photos = pd.DataFrame({"label_index": 1, "score": scores})
    assert threshold_rates({"t": threshold}, photos, photos)["found"].tolist() == [share, share]
    points = operating_points(photos, photos, threshold).set_index("point")
    assert points.loc["acceptance", "found"] == above.sum()
    counts = threshold_counts(labels, scores)
    assert counts["found"].tolist() == [int(exceeds(scores, limit).sum()) for limit in counts["threshold"]]
    weak = photos.assign(model="m", kind="spot", opacity=0.5)
    assert detection_rates(weak, {"m": threshold})["found"].item() == above.sum()
    two = pd.DataFrame({"label_index": 1, "score_1": scores, "score_2": scores})
    assert (cascade_rates(two, threshold, threshold)["found"] == above.sum()).all()
    assert len(lost_photos(two, threshold, threshold)) == (~above).sum()
    costs = expected_costs(two, [value], threshold, prevalence=1, prices=Prices(1))
    assert costs["recall"].item() == pytest.approx(share)


def test_a_tenth_as_a_threshold_is_not_below_a_tenth_as_float32():
    tenth = np.full((8, 8), 0.1, np.float32)
    metric = PixelMetrics(0.1)
    metric.update(tenth)
    assert (metric.fp, int(label_defects(tenth, 0.1, **WHOLE).max()), float(tenth[0, 0]) > 0.1) == (0, 0, True)


@given(maps_and_thresholds(), st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(deadline=None, max_examples=300)
def test_a_photo_shows_a_defect_exactly_where_the_networks_map_does(drawn, shape):
    found, value = drawn
    above = found > np.float32(value)
    whole = map_at_photo_size(found, shape, {})
    mask = Threshold(value, "given").exceeds(whole)
    assert (whole.dtype, whole.shape, whole.max()) == (np.float32, shape, found.max())
    assert mask.any() == above.any() and measure_defects(whole, value, **WHOLE)["area_px"].sum() == mask.sum()
    rows, columns = ((np.arange(cells) + 0.5) * side / cells for cells, side in zip(found.shape, shape, strict=True))
    for row, column in np.argwhere(above):  # no found cell is lost
        assert mask[int(rows[row] - 1e-9), int(columns[column] - 1e-9)]
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    for number in range(1, n + 1):  # and no region is added: each lies within a cell of one that was found
        place = np.argwhere(labels == number) + 0.5
        cells = place * np.array(found.shape) / shape
        near = np.abs(cells[:, None] - (np.argwhere(above)[None] + 0.5)).max(-1)
        assert (near.min(1) <= 1 + 1 / min(shape)).all() or min(shape) < max(found.shape)


def test_a_peak_of_one_cell_stays_a_peak_in_the_photo():
    peak = np.zeros((8, 8), np.float32)
    peak[3, 5] = 1.2
    for shape in ((16, 16), (24, 24), (8, 8), (5, 7), (131, 97)):
        whole = map_at_photo_size(peak, shape, {})
        found = measure_defects(whole, 1.0, **WHOLE)
        assert len(found) == 1 and found["peak_score"].item() == np.float32(1.2)
        assert found["relative_x"].item() == pytest.approx(5.5 / 8, abs=0.5 / shape[1])
        assert found["relative_y"].item() == pytest.approx(3.5 / 8, abs=0.5 / shape[0])
    mirrored = map_at_photo_size(peak[:, ::-1], (24, 24), {})
    np.testing.assert_array_equal(map_at_photo_size(peak, (24, 24), {})[:, ::-1], mirrored)
