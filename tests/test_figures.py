"""Figures: named axes, counts in words, no two texts over each other, and marks where the numbers say."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scipy.special import expit

from helpers.analysis.comparison import operating_points, threshold_counts
from helpers.analysis.detection_probability import fit_pod, pod_bins, pod_curve, size_words
from helpers.analysis.metrics import image_curves
from helpers.drawing import MASK_COLOUR, PREDICTED_COLOUR, SEVERITY_COLOURS
from helpers.thresholds import Threshold, conformal_threshold
from helpers.views import figures, gallery, plots, size_figures

DRAW = np.random.default_rng(0)
TYPES = ["good"] * 30 + ["hole"] * 10 + ["scratch"] * 10
LABELS = np.array([name != "good" for name in TYPES])
SCORES = DRAW.normal(0.4, 0.1, 50) + 0.3 * LABELS
VAL = DRAW.normal(0.4, 0.1, 40)
THRESHOLD = conformal_threshold(VAL)
PHOTOS = [DRAW.integers(0, 255, (24, 32, 3), dtype=np.uint8) for _ in range(3)]
MASK = np.zeros((24, 32), bool)
MASK[:6, 10:16] = True  # touches the border
MASKS = [MASK, None, None]
MAPS = [DRAW.random((12, 16)) * (k + 1) for k in range(3)]
COUNTS = pd.DataFrame({"good": [20, 5, 5], "hole": [0, 0, 10], "scratch": [0, 1, 9]}, index=["train", "val", "test"])
HISTORY = pd.DataFrame(
    {"epoch": range(4), "train_loss": [4.0, 3, 2, 1], "val_loss": [np.nan, 3, np.nan, 2], "dice": 0.5}
)
PANELS = {"loss": ["train_loss", "val_loss"], "overlap": ["dice"]}
ROWS = pd.DataFrame({"recall": [0.9, 0.5, np.nan], "recall_low": [0.8, 0.2, np.nan], "recall_high": [1, 0.7, np.nan]})
NAMES = ["hole (n=10)", "scratch (n=4)", "dent (n=0)"]
SIZES = np.geomspace(1, 20, 120)
DEFECTS = pd.DataFrame(
    {"size": SIZES, "detected": DRAW.uniform(size=120) < expit(4 * np.log(SIZES / 4)), "unit": "mm"}
).assign(measure="length", image_path=[f"{n}.png" for n in range(120)], defect_type="dent")
FIT = fit_pod(DEFECTS)
TEST = pd.DataFrame({"label_index": LABELS.astype(int), "score": SCORES})
POINTS = operating_points(TEST.iloc[:20], TEST, Threshold(0.5, "given"))
CONFUSION = pd.DataFrame([[30, 10], [0, 5], [0, 0]], index=["crack", "hole", "dent"], columns=["crack", "unknown"])
FLOW = pd.DataFrame([[1, 2, 7, 0], [25, 3, 2, 0]], index=["defect", "good"], columns=["a", "b", "c", "not judged"])
COSTS = {
    name: pd.DataFrame({"threshold_1": [0.0, 1, 2], "cost": [3.0 * n, 1.0 * n, 2.0 * n]})
    for n, name in ((1, "1 % defects"), (30, "10 % defects"))
}
SIZED = pd.DataFrame({"length": [0.5, 1, 2, 4, 9], "defect_type": list("abbab"), "unit": "mm"})
SIZED = SIZED.assign(relative_x=[0.1, 0.2, 0.9, 0.5, 0.5], relative_y=0.5)
ERRORS = pd.DataFrame({"threshold": [0.5, 0.2], "n": 9, "found": [0.5, 1.0], "unit": "mm"})
ERRORS = ERRORS.assign(**{f"{m}_error{e}": [0.1, 0.2] for m in ("area", "length") for e in ("", "_low", "_high")})
DRAWN = pd.DataFrame({"defect_type": ["a", "b"], "true_area": [150.0, 900], "true_length": [20.0, 60]})
DRAWN = DRAWN.assign(area_error=[0.03, -0.01], length_error=[0.5, -1.0])
LIMITS = {"area": {200: 0.05, 400: 0.02}, "length": {0: 1.5}}
LINES = {"unet": {"x": [0, 0.5, 1], "y": [0.1, np.nan, 1], "low": [0, 0, 0.9], "high": [0.2, 1, 1]}}
OPEN = {"xlabel": "x", "ylabel": "y", "title": "of 50 photos"}

FIGURES = {
    "interval_bars": lambda **o: plots.interval_bars(ROWS, "recall", NAMES, **OPEN, **o),
    "series": lambda **o: plots.interval_bars(
        pd.concat([ROWS.assign(model=name) for name in ("a<b", "$x_{")]),
        "recall",
        NAMES * 2,
        series="model",
        **OPEN,
        **o,
    ),
    "curves": lambda **o: plots.curves(LINES, "x", "y", band=("low", "high"), marker=True, **OPEN, **o),
    "grouped_histogram": lambda **o: plots.grouped_histogram(SCORES, TYPES, threshold=THRESHOLD, log=True, **OPEN, **o),
    "stacked_shares": lambda **o: plots.stacked_shares(COUNTS, **OPEN, **o),
    "training_curves": lambda **o: figures.training_curves(
        {"unet": HISTORY, "b": HISTORY}, PANELS, {"unet": 2, "b": 0}, **o
    ),
    "roc_and_pr": lambda **o: figures.roc_and_pr({"patchcore": image_curves(LABELS, SCORES, THRESHOLD)}, **o),
    "recall_and_alarms": lambda **o: figures.recall_and_alarms(POINTS, POINTS["point"], ylabel="point", **o),
    "threshold": lambda **o: figures.threshold_figure(threshold_counts(LABELS, SCORES), 0.5, **o),
    "pod": lambda **o: figures.pod_figure(FIT, pod_curve(FIT, 20), pod_bins(FIT), model="unet", **o),
    "confusion": lambda **o: plots.confusion_figure(CONFUSION, **o),
    "cascade_flow": lambda **o: figures.cascade_flow({"pair": FLOW, "steel": FLOW}, **o),
    "cost_curves": lambda **o: figures.cost_curves(COSTS, dict.fromkeys(COSTS, 1.0), {"1 % defects": 2.5}, **o),
    "size_distribution": lambda **o: size_figures.size_distribution(SIZED, **o),
    "position_heatmap": lambda **o: size_figures.position_heatmap(SIZED, PHOTOS[0], n_photos=12, **o),
    "size_errors": lambda **o: size_figures.size_error_curves({"unet": ERRORS, "draem": ERRORS}, {"unet": 0.4}, **o),
    "size_accuracy": lambda **o: size_figures.size_accuracy(DRAWN, LIMITS, **o),
    "map_gallery": lambda **o: gallery.map_gallery(PHOTOS, MAPS, MASKS, ["a", "b", "c"], 1.5, **o),
    "redrawn": lambda **o: gallery.map_gallery(PHOTOS, MAPS, MASKS, ["a", "b", "c"], 1.5, redrawn=PHOTOS, **o),
    "sample_grid": lambda **o: gallery.sample_grid(PHOTOS, MASKS, ["a", "b", "c"], **o),
}
PICTURES = ("map_gallery", "redrawn", "sample_grid")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_named_axes_and_their_note_and_no_two_texts_overlap(name):
    assert FIGURES[name]().get_supxlabel() == ""
    figure = FIGURES[name](note="untrained backbone")
    assert figure.get_supxlabel() == "untrained backbone"
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert drawn.x0 >= -0.02 and drawn.y0 >= -0.02 and drawn.x1 <= width + 0.02 and drawn.y1 <= height + 0.02
    if name not in PICTURES:
        first = figure.axes[0]
        assert first.get_ylabel() and any(axis.get_xlabel() for axis in figure.axes)
        assert any(axis.get_title() for axis in figure.axes) or figure.legends
    hidden = set()  # the ticks of an axis without frame, and tick labels beyond the limits, exist but are not drawn
    for axis in figure.axes:
        for labels, along, limits in (
            (axis.get_xticklabels(), 0, axis.get_xlim()),
            (axis.get_yticklabels(), 1, axis.get_ylim()),
        ):
            low, high = sorted(limits)
            hidden |= {text for text in labels if not axis.axison or not low <= text.get_position()[along] <= high}
    boxes = []
    for text in set(figure.findobj(matplotlib.text.Text)) - hidden:
        box = text.get_window_extent(renderer)
        in_view = box.x1 > 0 and box.x0 < figure.bbox.x1 and box.y1 > 0 and box.y0 < figure.bbox.y1
        if text.get_visible() and text.get_text().strip() and box.width > 1 and in_view:
            boxes.append((text.get_text(), box))
    assert len(boxes) > 3
    overlaps = []
    for k, (words, box) in enumerate(boxes):
        for other_words, other in boxes[k + 1 :]:
            wide, tall = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            if wide > 1 and tall > 2:
                overlaps.append((words, other_words))
    assert not overlaps


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def legend(figure) -> list[str]:
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for each in legends for text in each.get_texts()]


def test_a_figure_shows_itself_before_pyplot_is_imported():
    code = (
        "import sys\nfrom helpers.views.plots import curves\n"
        "assert curves({'a': {'x': [1], 'y': [1]}}, 'x', 'y')._repr_png_()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------ galleries


def outlines(axis, colour):
    return [line for line in axis.lines if to_hex(line.get_color()).upper() == colour]


def test_maps_share_one_scale_and_one_bar():
    figure = FIGURES["map_gallery"]()
    images = [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_array().ndim == 2]
    low, high = min(values.min() for values in MAPS), max(values.max() for values in MAPS)
    assert [image.get_clim() for image in images] == [(low, high)] * 3
    (bar,) = [axis for axis in figure.axes if axis.get_ylabel() == "anomaly score"]
    assert bar.get_ylim() == pytest.approx((low, high))
    fixed = gallery.map_gallery(PHOTOS, MAPS, MASKS, ["a", "b", "c"], vmin=0, vmax=2)
    assert {axis.images[0].get_clim() for axis in fixed.axes[1:6:2]} == {(0, 2)}
    flat = gallery.map_gallery(PHOTOS[:1], [np.zeros((4, 4))], [None], ["flat"], 0.5)
    assert flat.axes[1].images[0].get_clim() == (0, 1)


def test_outlines_lie_on_the_mask_of_their_photo_and_maps_are_stretched_over_it():
    axes = FIGURES["map_gallery"]().axes
    (line,) = outlines(axes[1], MASK_COLOUR)
    x, y = line.get_data()
    # Rows 0-5 and columns 10-15 of the photo; pixel edges lie half a pixel out, the contour on them.
    assert (x.min(), x.max(), y.min(), y.max()) == (9.5, 15.5, -0.5, 5.5)
    assert not outlines(axes[4], MASK_COLOUR), "the second photo has no mask"
    values = np.zeros((6, 8))
    values[2:4, 2:4] = 1.0  # a quarter of the photo's size: rows 8-15, columns 8-15
    axes = gallery.map_gallery(PHOTOS[:1], [values], [None], ["a"], 0.5).axes
    panel = axes[2]
    (line,) = outlines(panel, PREDICTED_COLOUR)
    x, y = line.get_data()
    assert (x.min(), x.max(), y.min(), y.max()) == (7.5, 15.5, 7.5, 15.5)
    assert panel.get_title(loc="left") == "8.33 % above threshold", "4 of 48"
    assert axes[1].images[0].get_extent() == [-0.5, 31.5, 23.5, -0.5]


def test_galleries_of_no_photo_or_of_unequal_lengths_are_refused():
    assert gallery.sample_grid([PHOTOS[0][..., 0]], [None], ["grey"])._repr_png_()
    for images, masks, titles in (([], [], []), (PHOTOS, MASKS, ["a"])):
        with pytest.raises(ValueError, match="no picture|argument"):
            gallery.sample_grid(images, masks, titles)


# ----------------------------------------------------------------------------------------------------------- primitives


def test_dots_and_intervals_are_the_numbers():
    axis = FIGURES["interval_bars"]().axes[0]
    spans = [line.get_xdata().tolist() for line in axis.lines if len(line.get_xdata()) == 2]
    assert spans[:2] == [[0.8, 1], [0.2, 0.7]]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if len(line.get_xdata()) == 1]
    assert dots[:2] == [(0.9, 0), (0.5, 1)]
    assert [text.get_text() for text in axis.texts] == ["0.90  [0.80, 1.00]", "0.50  [0.20, 0.70]", "no value"]
    both = FIGURES["series"]().axes[0]
    places = [line.get_ydata()[0] for line in both.lines if len(line.get_xdata()) == 1]
    assert np.round(places).tolist() == [0, 1, 2] * 2 and len(set(places)) == 6
    assert legend(FIGURES["series"]()) == ["a<b", "$x_{"]


def test_curves_are_the_data_with_band_dots_and_levels():
    figure = plots.curves(
        LINES, "x", "y", band=("low", "high"), dots={"unet": (1, 1)}, levels={"unet": 0.1}, level="false"
    )
    line, level, dot = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 1] and line.get_ydata().tolist() == [0.1, 1], "without what is not known"
    assert set(level.get_ydata()) == {0.1} and level.get_color() == line.get_color()
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (1, 1)
    corners = {tuple(point) for point in figure.axes[0].collections[0].get_paths()[0].vertices}
    assert corners >= {(0, 0), (0, 0.2), (1, 0.9), (1, 1)}
    assert legend(figure) == ["unet", "false"]


def test_histograms_count_every_value_and_show_a_threshold_beyond_them():
    figure = plots.grouped_histogram(SCORES, TYPES, threshold=9.0)
    assert legend(figure) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    axis = figure.axes[0]
    assert sum(bar.get_height() for bar in axis.patches[:40]) == 30
    assert axis.get_xlim()[1] >= 9.0 and "threshold 9" in [text.get_text() for text in axis.texts]
    assert plots.grouped_histogram([0.5] * 3, ["good"] * 3)._repr_png_()
    for values, groups in (([0.1], ["good", "hole"]), ([], [])):
        with pytest.raises(ValueError, match="N > 0"):
            plots.grouped_histogram(values, groups)


def test_stacked_bars_are_the_counts_or_their_shares():
    figure = FIGURES["stacked_shares"]()
    assert legend(figure) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_fontweight() == "bold"] == ["20", "6", "24"]
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == 50
    shares = plots.stacked_shares(COUNTS, shares=True).axes[0]
    assert [bar.get_width() for bar in shares.patches[:3]] == pytest.approx([1, 5 / 6, 5 / 24])
    levels = pd.DataFrame({level: [1] for level in SEVERITY_COLOURS}, index=["dent"])
    bars = plots.stacked_shares(levels, colours=SEVERITY_COLOURS).axes[0].patches
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == list(SEVERITY_COLOURS.values())


# ---------------------------------------------------------------------------------------------------- composed of them


def test_training_curves_are_the_logged_values_and_mark_the_kept_epoch():
    loss, overlap = figures.training_curves({"unet": HISTORY}, PANELS, best={"unet": 2}).axes
    train, dot, val = loss.get_lines()
    assert train.get_xdata().tolist() == [1, 2, 3, 4], "epochs are counted from 1 for readers"
    assert train.get_ydata().tolist() == [4, 3, 2, 1]
    assert val.get_xdata().tolist() == [2, 4], "what is logged every other epoch is joined"
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([3], [2])
    assert overlap.get_ylabel() == "overlap"


def test_operating_points_lie_where_the_threshold_puts_them():
    figure = FIGURES["roc_and_pr"]()
    roc, pr = figure.axes
    flagged = THRESHOLD.exceeds(SCORES)
    false_alarm, recall, precision = flagged[~LABELS].mean(), flagged[LABELS].mean(), LABELS[flagged].mean()
    for axis, expected in ((roc, (false_alarm, recall)), (pr, (recall, precision))):
        (dot,) = [line for line in axis.lines if line.get_marker() == "o"]
        assert (dot.get_xdata()[0], dot.get_ydata()[0]) == pytest.approx(expected)
    auroc = float(image_curves(LABELS, SCORES)["image_auroc"])
    assert legend(figure)[:2] == [f"patchcore: AUROC {auroc:.3f} (n=30+20)", "at the stored threshold"]
    one_kind = figures.roc_and_pr({"patchcore": image_curves([0, 0], [0.1, 0.2], 0.15)})
    assert legend(one_kind)[0].startswith("patchcore: AUROC undefined")


def test_rates_carry_their_counts_or_say_that_there_are_none():
    words = texts(FIGURES["recall_and_alarms"]())
    assert f"{(SCORES[LABELS] > 0.5).sum()} of 20" in words and f"{(SCORES[~LABELS] > 0.5).sum()} of 30" in words
    assert words.count("none") == 4, "val holds good photos only: two points, two panels"


def test_the_threshold_figure_counts_as_the_rule_does():
    counts = threshold_counts(LABELS, SCORES)
    for threshold in (0.5, float(SCORES[40]), float(SCORES.min()) - 1, float(SCORES.max()) + 1):
        missed, alarms = ((threshold >= SCORES) & LABELS).sum(), ((threshold < SCORES) & ~LABELS).sum()
        words = legend(figures.threshold_figure(counts, threshold))
        assert words == [f"missed: {missed} of 20 abnormal", f"false alarms: {alarms} of 30 normal"]


def test_the_pod_figure_marks_its_sizes_and_every_defect():
    figure = FIGURES["pod"]()
    n_hits = int(DEFECTS["detected"].sum())
    assert {f"found (n={n_hits})", f"missed (n={120 - n_hits})", f"a90/95: {FIT.a90_95:.3g} mm"} <= set(legend(figure))
    lines = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines[f"missed (n={120 - n_hits})"], SIZES[~DEFECTS["detected"]])
    marks = [x[0] for label, x in lines.items() if label.startswith("a")]
    np.testing.assert_allclose(marks, [FIT.a50, FIT.a90, FIT.a90_95])
    fit = fit_pod(DEFECTS[DEFECTS["size"] < 5])
    assert fit.a90_95 == np.inf
    beyond = figures.pod_figure(fit, pod_curve(fit, 5), pod_bins(fit, 3))
    assert f"a90/95: {size_words(np.inf)}" in legend(beyond) and beyond.axes[0].get_xlim()[1] < 5.4


def test_confusion_shows_every_count():
    axis = FIGURES["confusion"]().axes[0]
    assert [text.get_text() for text in axis.texts] == ["30\n75 %", "10\n25 %", "0", "5\n100 %", "0", "0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["crack (n=40)", "hole (n=5)", "dent (n=0)"]


def test_cascades_end_in_counts_and_costs_have_their_lowest_marked():
    words = texts(FIGURES["cascade_flow"]())
    assert {"lost by stage 1 (n=2)", "found (n=14)", "let go by stage 1 (n=50)", "false alarm (n=4)"} <= set(words)
    assert not any("not judged" in word for word in words)
    dots = [
        line
        for line in FIGURES["cost_curves"]().axes[0].lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    ]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(1, 1), (1, 30)]
    assert {"lowest on val", "stage 2 alone"} <= set(legend(FIGURES["cost_curves"]()))


# ---------------------------------------------------------------------------------------------------------------- sizes


def test_figures_of_sizes_count_every_defect_once():
    said = {name: " ".join(axis.get_title() for axis in FIGURES[name]().axes) for name in FIGURES}
    assert "5 defects" in said["size_distribution"] and "5 defects lie on 12 photos" in said["position_heatmap"]
    assert "n=9 defects" in said["size_errors"]
    assert size_figures.position_heatmap(SIZED).axes[0].images[-1].get_array().sum() == 5
    assert sum(bar.get_height() for bar in FIGURES["size_distribution"]().axes[0].patches) == 5
    ratios = FIGURES["size_errors"]().axes[0].lines[0]
    assert ratios.get_xdata().tolist() == [0.2, 0.5] and ratios.get_ydata().tolist() == [1.2, 1.1]
