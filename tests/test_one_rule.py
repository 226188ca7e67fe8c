"""One rule for "above the threshold": verdict, mask, metric, size table and curves agree, also exactly on a value."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import openvino
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import nn

from helpers.analysis.comparison import decision_rates, operating_points, threshold_counts
from helpers.analysis.costs import Prices, expected_costs
from helpers.analysis.metrics import image_draws, image_metrics
from helpers.analysis.pixels import count_pixels, photo_overlap
from helpers.analysis.sizing import label_defects, measure_defects
from helpers.data.images import map_at_photo_size
from helpers.inference.export import OUTPUTS, FixedClassifier, FixedDetector, trace
from helpers.models.classifier import abnormal_scores
from helpers.studies.weak_defects import detection_rates
from helpers.thresholds import Threshold, conformal_threshold, exceeds

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
    metric = count_pixels(found, np.ones(found.shape, bool), threshold)
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
    draws = image_draws(labels, scores, threshold, n=3, seed=0)["recall_at_threshold"]
    assert (draws == 0).all() if not above.any() else (draws == 1).all() if above.all() else True
    photos = pd.DataFrame({"label_index": 1, "score": scores})
    points = operating_points(photos, photos, threshold).set_index("point")
    assert points.loc["acceptance", "found"] == above.sum()
    counts = threshold_counts(labels, scores)
    assert counts["found"].tolist() == [int(exceeds(scores, limit).sum()) for limit in counts["threshold"]]
    weak = photos.assign(model="m", kind="spot", opacity=0.5)
    assert detection_rates(weak, {"m": threshold})["found"].item() == above.sum()
    two = pd.DataFrame({"label_index": 1, "score_1": scores, "score_2": scores})
    assert decision_rates({"both": threshold.exceeds(scores)}, labels)["found"].item() == above.sum()
    costs = expected_costs(two, [value], threshold, prevalence=1, prices=Prices(1))
    assert costs["recall"].item() == pytest.approx(share)


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


class Said(nn.Module):
    """A network whose answer is its photo: logits of a classifier, or the map of a detector."""

    head = staticmethod(lambda embedding: embedding)
    embed = staticmethod(lambda frames: frames[:, :, 0, 0])

    def forward(self, frames):
        return SimpleNamespace(pred_score=frames[:, :1].amax((1, 2, 3)), anomaly_map=frames[:, :1])


def answers(network: nn.Module, frames: np.ndarray, classifies: bool) -> dict[str, dict[str, np.ndarray]]:
    """What a network says in each format."""
    names = OUTPUTS[classifies]
    graph = trace(network.eval(), torch.from_numpy(frames), ["N"], names)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    with TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder) / "model.onnx")
        model = openvino.convert_model(Path(folder) / "model.onnx")
        found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(frames)
        in_openvino = [np.array(found[name]) for name in names]
    with torch.no_grad():
        in_torch = [each.numpy() for each in network(torch.from_numpy(frames))]
    said = {"torch": in_torch, "onnx": session.run(list(names), {"photos": frames}), "openvino": in_openvino}
    return {where: dict(zip(names, arrays, strict=True)) for where, arrays in said.items()}


@pytest.mark.parametrize("normal", [1, None])
def test_a_classifiers_verdict_is_the_same_everywhere_at_margins_from_0_to_40(normal):
    """In float32 1 - p is 0 or a multiple of 6e-8 from a margin of 15 on, where thresholds are 1e-8 and less."""
    margins = np.linspace(0, 40, 201, dtype=np.float32)
    logits = np.zeros((201, 3), np.float32)
    logits[:, normal or 0] += margins
    logits[:, 2] -= 1.5
    exact = np.exp(logits.astype(float))
    exact = np.sort(exact / exact.sum(1, keepdims=True), axis=1)[:, :2].sum(1)
    expected = abnormal_scores(torch.from_numpy(logits).softmax(1), normal).numpy()  # training's and the Predictor's
    np.testing.assert_allclose(expected, exact, rtol=1e-5)
    between = np.sqrt(exact[1:] * exact[:-1])  # thresholds between every photo and the next
    for where, found in answers(FixedClassifier(Said(), normal), logits[:, :, None, None], True).items():
        np.testing.assert_allclose(found["score"], exact, rtol=1e-4, err_msg=where)
        for limit in between:
            np.testing.assert_array_equal(exceeds(found["score"], limit), exact > limit, err_msg=where)
    stored = conformal_threshold(expected, 0.9)
    assert stored.exceeds(expected).sum() == 201 - stored.rank  # the photo that set it is not above it


def test_an_exported_map_is_above_thresholds_that_lie_on_its_values_where_torchs_is():
    drawn = np.random.default_rng(0).choice(np.float32([0.1, 0.2, 0.3, 1.2, 7.7]), (6, 3, 9, 7))
    found = answers(FixedDetector(Said()), drawn, False)
    for value in (0.1, 0.2, 0.3, 1.2, 7.7, 0.30000000001):
        above = drawn[:, 0] > np.float32(value)
        for where, said in found.items():
            np.testing.assert_array_equal(exceeds(said["map"], value), above, err_msg=where)
            np.testing.assert_array_equal(exceeds(said["score"], value), above.any((1, 2)), err_msg=where)
