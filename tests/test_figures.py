"""Figures: named axes, counts in words, no two texts over each other, and marks where the numbers say."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from scipy.special import expit

from helpers.analysis.comparison import operating_points
from helpers.analysis.detection_probability import fit_pod, pod_bins, pod_curve, size_words
from helpers.analysis.metrics import image_curves
from helpers.drawing import MASK_COLOUR, PREDICTED_COLOUR, SEVERITY_COLOURS
from helpers.thresholds import Threshold, conformal_threshold
from helpers.views import figures, gallery, plots

DRAW = np.random.default_rng(0)
TYPES = ["good"] * 30 + ["hole"] * 10 + ["scratch"] * 10
LABELS = np.array([name != "good" for name in TYPES])
SCORES = DRAW.normal(0.4, 0.1, 50) + 0.3 * LABELS
THRESHOLD = conformal_threshold(DRAW.normal(0.4, 0.1, 40))
PHOTOS = [DRAW.integers(0, 255, (24, 32, 3), dtype=np.uint8) for _ in range(3)]
MASK = np.zeros((24, 32), bool)
MASK[:6, 10:16] = True  # touches the border
EXAMPLES = {"photos": PHOTOS, "maps": [DRAW.random((24, 32)) * (k + 1) for k in range(3)]}
EXAMPLES |= {"masks": [MASK, None, None], "titles": ["a", "b", "c"]}
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
LINES = {"unet": {"x": [0, 0.5, 1], "y": [0.1, np.nan, 1], "low": [0, 0, 0.9], "high": [0.2, 1, 1]}}
OPEN = {"xlabel": "x", "ylabel": "y", "title": "of 50 photos"}
FIGURES = {
    "interval_bars": lambda **o: plots.interval_bars(ROWS, "recall", NAMES, **OPEN, **o),
    "curves": lambda **o: plots.curves(LINES, "x", "y", band=("low", "high"), marker=True, **OPEN, **o),
    "histogram": lambda **o: plots.grouped_histogram(
        SCORES, TYPES, threshold=THRESHOLD, yscale="log", xscale="log", **OPEN, **o
    ),
    "stacked_bars": lambda **o: plots.stacked_bars(COUNTS, **OPEN, **o),
    "training_curves": lambda **o: figures.training_curves(
        {"unet": HISTORY, "b": HISTORY}, PANELS, {"unet": 2, "b": 0}, **o
    ),
    "roc_and_pr": lambda **o: figures.roc_and_pr({"patchcore": image_curves(LABELS, SCORES, THRESHOLD)}, **o),
    "recall_and_alarms": lambda **o: figures.recall_and_alarms(POINTS, POINTS["point"], ylabel="point", **o),
    "pod": lambda **o: figures.pod_figure(FIT, pod_curve(FIT, 20), pod_bins(FIT), model="unet", **o),
    "confusion": lambda **o: plots.confusion_figure(CONFUSION, **o),
    "map_gallery": lambda **o: gallery.map_gallery(**EXAMPLES, threshold=1.5, **o),
    "redrawn gallery": lambda **o: gallery.map_gallery(**EXAMPLES, threshold=1.5, redrawn=PHOTOS, heading="3", **o),
    "gallery": lambda **o: gallery.gallery(PHOTOS, ["a", "b", "c"], [MASK, None, None], **o),
}


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
    if "gallery" not in name:
        assert figure.axes[0].get_ylabel() and figure.axes[0].get_xlabel() and figure.axes[0].get_title()
    hidden = set()  # the ticks of an axis without frame, and tick labels beyond the limits, exist but are not drawn
    for axis in figure.axes:
        for along, (of_axis, limits) in enumerate(((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))):
            labels, (low, high) = of_axis.get_ticklabels(), sorted(limits)
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


def dots(axis) -> list[tuple[float, float]]:
    """Where single round marks are."""
    lines = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]


def test_a_figure_shows_itself_before_pyplot_is_imported():
    code = (
        "import sys\nfrom helpers.views.plots import curves\n"
        "assert curves({'a': {'x': [1], 'y': [1]}}, 'x', 'y')._repr_png_()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def outlines(axis, colour) -> list[np.ndarray]:
    drawn = [each for each in axis.collections if isinstance(each, ContourSet)]
    return [each.get_paths()[0].vertices for each in drawn if to_hex(each.get_edgecolor()[0]).upper() == colour]


def test_maps_share_one_scale_and_one_bar():
    figure = FIGURES["map_gallery"]()
    images = [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_array().ndim == 2]
    low, high = min(values.min() for values in EXAMPLES["maps"]), max(values.max() for values in EXAMPLES["maps"])
    assert [image.get_clim() for image in images] == [(low, high)] * 3
    (bar,) = [axis for axis in figure.axes if axis.get_ylabel() == "anomaly score"]
    assert bar.get_ylim() == pytest.approx((low, high)) and bar.lines[0].get_ydata()[0] == 1.5
    fixed = gallery.map_gallery(**EXAMPLES, scale=(0, 2))
    assert {axis.images[0].get_clim() for axis in fixed.axes[1:6:2]} == {(0, 2)}
    flat = gallery.map_gallery(PHOTOS[:1], [np.zeros((24, 32))], [None], ["flat"], 0.5)
    assert flat.axes[1].images[0].get_clim() == (0, 1)


def test_outlines_lie_on_the_mask_and_on_what_is_called():
    figure = FIGURES["map_gallery"]()
    (line,) = outlines(figure.axes[1], MASK_COLOUR)
    # rows 0-5 and columns 10-15 of the photo; pixel edges lie half a pixel out, the contour on them
    assert (*line.min(0), *line.max(0)) == (9.5, -0.5, 15.5, 5.5)
    assert not outlines(figure.axes[4], MASK_COLOUR), "the second photo has no mask"
    assert legend(figure) == ["labelled defect", "pixel score > 1.5"]
    values = np.where(MASK, 1.0, 0)
    values[23, 31] = 0.5  # the limit itself is not called
    panel = gallery.map_gallery(PHOTOS[:1], [values], [None], ["a"], 0.5).axes[2]
    (line,) = outlines(panel, PREDICTED_COLOUR)
    assert (*line.min(0), *line.max(0)) == (9.5, -0.5, 15.5, 5.5)
    assert panel.get_title(loc="left") == "4.69 % above threshold", "36 of 768"
    numbers = np.kron(np.array([[1, 0, 2]]), np.ones((4, 4), int))
    drawn = gallery.gallery([np.zeros((4, 12), np.uint8)], [""], [numbers], outlined="").axes[0]
    assert len({to_hex(each.get_edgecolor()[0]) for each in drawn.collections}) == 2, "each number has its colour"


def test_galleries_of_no_photo_or_of_unequal_lengths_are_refused():
    for images, titles, masks in (([], [], []), (PHOTOS, ["a"], None), (PHOTOS, ["a", "b", "c"], [MASK])):
        with pytest.raises(ValueError, match="no picture|argument"):
            gallery.gallery(images, titles, masks)


def test_dots_and_intervals_are_the_numbers():
    axis = FIGURES["interval_bars"]().axes[0]
    lines, marks = axis.collections
    np.testing.assert_allclose(lines.get_segments()[:2], [[(0.8, 0), (1, 0)], [(0.2, 1), (0.7, 1)]])
    assert marks.get_offsets()[:2].tolist() == [[0.9, 0], [0.5, 1]]
    assert [text.get_text() for text in axis.texts] == ["0.90  [0.80, 1.00]", "0.50  [0.20, 0.70]", "no value"]


def test_curves_are_the_data_with_band_dots_and_levels():
    figure = plots.curves(
        LINES, "x", "y", band=("low", "high"), dots={"unet": (1, 1)}, levels={"unet": 0.1}, level="false"
    )
    line, level, _ = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 1] and line.get_ydata().tolist() == [0.1, 1], "without what is not known"
    assert set(level.get_ydata()) == {0.1} and level.get_color() == line.get_color()
    assert dots(figure.axes[0]) == [(1, 1)]
    corners = {tuple(point) for point in figure.axes[0].collections[0].get_paths()[0].vertices}
    assert corners >= {(0, 0), (0, 0.2), (1, 0.9), (1, 1)}
    assert legend(figure) == ["unet", "false"]


def test_histograms_count_every_value_and_show_a_threshold_beyond_them():
    figure = plots.grouped_histogram(SCORES, TYPES, threshold=9.0)
    assert legend(figure) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    axis = figure.axes[0]
    assert sum(bar.get_height() for bar in axis.patches[:40]) == 30
    assert axis.get_xlim()[1] >= 9.0 and "threshold 9" in [text.get_text() for text in axis.texts]
    one = plots.grouped_histogram([0.5] * 3, ["good"] * 3, xscale="log")
    assert sum(bar.get_height() for bar in one.axes[0].patches) == 3


def test_stacked_bars_are_the_counts():
    figure = FIGURES["stacked_bars"]()
    assert legend(figure) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words[-3:] == ["20", "6", "24"] and words[:9] == ["20", "5", "5", "", "", "10", "", "", "9"], (
        "not where it is narrow"
    )
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == 50
    levels = pd.DataFrame({level: [1] for level in SEVERITY_COLOURS}, index=["dent"])
    bars = plots.stacked_bars(levels, colours=SEVERITY_COLOURS).axes[0].patches
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == list(SEVERITY_COLOURS.values())


def test_confusion_shows_every_count():
    axis = FIGURES["confusion"]().axes[0]
    assert [text.get_text() for text in axis.texts] == ["30\n75 %", "10\n25 %", "0", "5\n100 %", "0", "0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["crack (n=40)", "hole (n=5)", "dent (n=0)"]


def test_training_curves_are_the_logged_values_and_mark_the_kept_epoch():
    loss, overlap = figures.training_curves({"unet": HISTORY}, PANELS, best={"unet": 2}).axes
    train, _, val = loss.get_lines()
    assert train.get_xdata().tolist() == [1, 2, 3, 4], "epochs are counted from 1 for readers"
    assert train.get_ydata().tolist() == [4, 3, 2, 1]
    assert val.get_xdata().tolist() == [2, 4], "what is logged every other epoch is joined"
    assert dots(loss) == [(3, 2)] and overlap.get_ylabel() == "overlap"


def test_operating_points_lie_where_the_threshold_puts_them():
    figure = FIGURES["roc_and_pr"]()
    roc, pr, *_ = figure.axes
    flagged = THRESHOLD.exceeds(SCORES)
    false_alarm, recall, precision = flagged[~LABELS].mean(), flagged[LABELS].mean(), LABELS[flagged].mean()
    assert dots(roc)[0] == pytest.approx((false_alarm, recall)) and dots(pr)[0] == pytest.approx((recall, precision))
    auroc = float(image_curves(LABELS, SCORES)["image_auroc"])
    assert legend(figure)[0] == f"patchcore (AUROC {auroc:.3f}, n=30+20)"
    assert legend(figures.roc_and_pr({"patchcore": image_curves([0, 0], [0.1, 0.2], 0.15)}))[0].count("nan") == 1


def test_rates_carry_their_counts_or_say_that_there_are_none():
    words = texts(FIGURES["recall_and_alarms"]())
    assert f"{(SCORES[LABELS] > 0.5).sum()} of 20" in words and f"{(SCORES[~LABELS] > 0.5).sum()} of 30" in words
    assert words.count("none") == 4, "val holds good photos only: two points, two panels"


def test_the_pod_figure_marks_its_sizes_and_every_defect():
    figure = FIGURES["pod"]()
    n_hits = int(DEFECTS["detected"].sum())
    assert {f"found (n={n_hits})", f"missed (n={120 - n_hits})", f"a90/95: {FIT.a90_95:.3g} mm"} <= set(legend(figure))
    lines = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines[f"missed (n={120 - n_hits})"], SIZES[~DEFECTS["detected"]])
    marks = [x[0] for label, x in lines.items() if label.startswith("a")]
    np.testing.assert_allclose(marks, [FIT.a50, FIT.a90, FIT.a90_95])
    fit = fit_pod(DEFECTS[DEFECTS["size"] < 5])
    beyond = figures.pod_figure(fit, pod_curve(fit, 5), pod_bins(fit, 3))
    assert f"a90/95: {size_words(np.inf)}" in legend(beyond) and beyond.axes[0].get_xlim()[1] < 5.4
