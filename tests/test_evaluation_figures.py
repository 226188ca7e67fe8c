"""Figures of the evaluation: named axes, counts in words, and marks where the numbers say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.special import expit

from helpers.analysis.comparison import operating_points, paired_differences, recall_by_size, threshold_counts
from helpers.analysis.detection_probability import fit_pod, pod_bins, pod_curve, size_words
from helpers.thresholds import Threshold
from helpers.views import evaluation_figures as figures

DRAW = np.random.default_rng(0)
SIZES = np.geomspace(1, 20, 120)
DEFECTS = pd.DataFrame({"size": SIZES, "detected": DRAW.uniform(size=120) < expit(4 * np.log(SIZES / 4)), "unit": "mm"})
FIT = fit_pod(DEFECTS)
CURVE, BINS = pod_curve(FIT, 20), pod_bins(FIT)
LABELS = np.repeat([0, 1], 30)
TEST = pd.DataFrame({"image_path": [f"{n}.png" for n in range(60)], "label_index": LABELS})
PREDICTIONS = {name: TEST.assign(score=gap * LABELS + DRAW.normal(size=60)) for name, gap in (("a", 0.5), ("b", 3.0))}
DIFFERENCES = paired_differences(PREDICTIONS, n=200)
POINTS = operating_points(TEST.assign(score=0.0).iloc[:30], PREDICTIONS["b"], Threshold(1.5, "given"))
COUNTS = threshold_counts(LABELS, PREDICTIONS["b"]["score"])
BY_SIZE = {"unet": recall_by_size(DEFECTS, [0, 4, 10, np.inf]), "a<b": recall_by_size(DEFECTS, [0, 4, 10, np.inf])}
BOARD = pd.DataFrame(
    {
        "model": ["unet", "glass", "unet"],
        "dataset": ["mesh", "mesh", "nuts"],
        "image_auroc": [0.9, 0.8, np.nan],
        "ms_per_image": [5.0, 60.0, 7.0],
        "fit_seconds": [100.0, np.nan, 30.0],
        "model_mb": [10.0, np.nan, 3.0],
    }
)

FIGURES = {
    "pod": lambda **o: figures.pod_figure(FIT, CURVE, BINS, model="unet", **o),
    "size": lambda **o: figures.recall_by_size_bars(BY_SIZE, **o),
    "time": lambda **o: figures.quality_against_time(BOARD, **o),
    "differences": lambda **o: figures.difference_intervals(DIFFERENCES, **o),
    "points": lambda **o: figures.operating_points_figure(POINTS, **o),
    "threshold": lambda **o: figures.threshold_figure(COUNTS, 1.5, **o),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_figure_with_named_axes_and_its_note(name, tmp_path):
    figure = FIGURES[name](note="untrained backbone")
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert figure.get_supxlabel() == "untrained backbone"
    assert FIGURES[name]().get_supxlabel() == ""
    assert figure.axes[0].get_ylabel()
    assert all(axis.get_xlabel() and axis.get_title() for axis in figure.axes)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_pod_figure_marks_its_sizes_and_every_defect():
    figure = FIGURES["pod"]()
    axis = figure.axes[0]
    words = legend(figure)
    n_hits = int(DEFECTS["detected"].sum())
    assert {f"found (n={n_hits})", f"missed (n={120 - n_hits})", f"a90/95: {FIT.a90_95:.3g} mm"} <= set(words)
    ticks = {line.get_label(): line.get_xdata() for line in axis.lines}
    np.testing.assert_allclose(ticks[f"missed (n={120 - n_hits})"], SIZES[~DEFECTS["detected"]])
    marks = [lines.get_segments()[0][0][0] for lines in axis.collections if str(lines.get_label()).startswith("a")]
    np.testing.assert_allclose(marks, [FIT.a50, FIT.a90, FIT.a90_95])
    assert "mm" in axis.get_xlabel() and "n=120 defects" in axis.get_title() and axis.get_xscale() == "log"


def test_a_size_beyond_the_plot_is_said_not_drawn():
    small = DEFECTS[DEFECTS["size"] < 5]
    fit = fit_pod(small)
    assert fit.a90_95 == np.inf
    figure = figures.pod_figure(fit, pod_curve(fit, 5), pod_bins(fit, 3))
    assert f"a90/95: {size_words(np.inf)}" in legend(figure)
    assert figure.axes[0].get_xlim()[1] < 5.4


def test_bars_are_as_high_as_the_recall():
    axis = FIGURES["size"]().axes[0]
    heights = [bar.get_height() for bar in axis.patches]
    np.testing.assert_allclose(heights, [*BY_SIZE["unet"]["recall"]] * 2)
    names = [label.get_text() for label in axis.get_xticklabels()]
    n = [(SIZES < 4).sum(), ((SIZES >= 4) & (SIZES < 10)).sum(), (SIZES >= 10).sum()]
    assert names == [f"0 to 4\nn={n[0]}", f"4 to 10\nn={n[1]}", f"10 and more\nn={n[2]}"]


def test_rows_without_a_value_are_left_out_of_the_bubbles():
    figure = FIGURES["time"]()
    bubbles = [scatter.get_offsets()[0].tolist() for scatter in figure.axes[0].collections]
    assert sorted(bubbles) == [[5.0, 0.9], [60.0, 0.8]]
    assert "n=2 runs" in figure.axes[0].get_title()
    trained = [scatter.get_offsets()[0].tolist() for scatter in figure.axes[1].collections]
    assert trained == [[100.0, 0.9]], "glass has no training time"
    assert "n=1 runs" in figure.axes[1].get_title()
    areas = sorted(scatter.get_sizes()[0] for scatter in figure.axes[0].collections)
    assert areas == [30, 530], "of no known size, and of the largest"
    with pytest.raises(ValueError, match="no row"):
        figures.quality_against_time(BOARD.assign(ms_per_image=np.nan))
    with pytest.raises(ValueError, match="model_mb"):
        figures.quality_against_time(BOARD.drop(columns="model_mb"))


def test_differences_point_to_the_better_model():
    axis = FIGURES["differences"]().axes[0]
    assert DIFFERENCES["difference"].iloc[0] < 0, "b is better than a"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b − a"]
    dot = next(line for line in axis.lines if line.get_marker() == "o")
    assert dot.get_xdata()[0] == pytest.approx(-DIFFERENCES["difference"].iloc[0])
    ends = next(line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None")
    np.testing.assert_allclose(sorted(ends), sorted(-DIFFERENCES[["low", "high"]].iloc[0].to_numpy(dtype=float)))
    with pytest.raises(ValueError, match="one metric"):
        figures.difference_intervals(DIFFERENCES.iloc[:0])


def test_operating_points_carry_their_counts_or_say_that_there_are_none():
    texts = [text.get_text() for axis in FIGURES["points"]().axes for text in axis.texts]
    found, alarms = ((PREDICTIONS["b"]["score"] > 1.5) & (label == LABELS) for label in (1, 0))
    assert f"{found.sum()} of 30" in texts and f"{alarms.sum()} of 30" in texts
    assert texts.count("no such point") == 4  # val holds good photos only: two points, two panels
    with pytest.raises(ValueError, match="empty"):
        figures.operating_points_figure(POINTS.iloc[:0])


def test_the_threshold_figure_counts_as_the_rule_does():
    scores = PREDICTIONS["b"]["score"]
    for threshold in (1.5, float(scores.iloc[40]), float(scores.min()) - 1, float(scores.max()) + 1):
        words = legend(figures.threshold_figure(COUNTS, threshold))
        missed, alarms = ((scores <= threshold) & (LABELS == 1)).sum(), ((scores > threshold) & (LABELS == 0)).sum()
        assert words == [f"missed: {missed} of 30 abnormal", f"false alarms: {alarms} of 30 normal"]


def test_tables_that_do_not_fit_are_refused():
    other = recall_by_size(DEFECTS, [0, 5, np.inf])
    with pytest.raises(ValueError, match="different bins"):
        figures.recall_by_size_bars({"a": BY_SIZE["unet"], "b": other})
    with pytest.raises(ValueError, match="empty"):
        figures.recall_by_size_bars({})
