import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from helpers.analysis.metrics import evaluate, image_curves
from helpers.thresholds import conformal_threshold
from helpers.views import figures

RNG = np.random.default_rng(0)
TYPES = ["good"] * 30 + ["hole"] * 10 + ["scratch"] * 10
LABELS = np.array([name != "good" for name in TYPES])
SCORES = RNG.normal(0.4, 0.1, 50) + 0.3 * LABELS
VAL = RNG.normal(0.4, 0.1, 40)
THRESHOLD = conformal_threshold(VAL)


def _photos(n, height=24, width=32):
    photos = [RNG.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(n)]
    mask = np.zeros((height, width), bool)
    mask[:6, 10:16] = True  # touches the border
    return photos, [mask] + [None] * (n - 1), [RNG.random((12, 16)) * (k + 1) for k in range(n)]


def by_type(labels, scores, types, threshold=None):
    table = pd.DataFrame({"label_index": labels, "score": scores, "defect_type": types})
    return evaluate(table, image_threshold=threshold, n_bootstrap=50).by_type


PHOTOS, MASKS, MAPS = _photos(3)
COUNTS = pd.DataFrame({"good": [20, 5, 5], "hole": [0, 0, 10], "scratch": [0, 1, 9]}, index=["train", "val", "test"])
HISTORY = pd.DataFrame({"epoch": range(4), "train_loss": [4.0, 3, 2, 1], "val_loss": [4.0, 3, 3, 3], "dice": 0.5})
PANELS = {"loss": ["train_loss", "val_loss"], "overlap": ["dice"]}
LABELLED = [np.repeat([[0, 1, 2, 0]], 24, axis=0).repeat(8, axis=1)] * 3
WEAK = pd.DataFrame(
    {
        "model": ["patchcore"] * 3 + ["unet"] * 3,
        "opacity": [1.0, 0.0, 0.5] + [0.0, 0.5, 1.0],
        "n": 40,
        "rate": [0.9, 0.05, 0.4, 0.1, 0.1, 1.0],
        "low": [0.8, 0.01, 0.3, 0.04, 0.04, 0.9],
        "high": [0.95, 0.16, 0.55, 0.23, 0.23, 1.0],
    }
)
FIGURES = {
    "sample_grid": lambda **o: figures.sample_grid(PHOTOS, MASKS, ["a", "b", "c"], **o),
    "split_bars": lambda **o: figures.split_bars(COUNTS, **o),
    "size_scatter": lambda **o: figures.size_scatter([256, 256, 512], [256, 256, 300], **o),
    "score_histogram": lambda **o: figures.score_histogram(SCORES, TYPES, THRESHOLD, **o),
    "roc_and_pr": lambda **o: figures.roc_and_pr({"patchcore": image_curves(LABELS, SCORES, THRESHOLD)}, **o),
    "map_gallery": lambda **o: figures.map_gallery(PHOTOS, MAPS, MASKS, ["a", "b", "c"], 1.5, **o),
    "training_curves": lambda **o: figures.training_curves(
        {"unet": HISTORY, "deeplabv3plus": HISTORY}, PANELS, best={"unet": 2, "deeplabv3plus": 1}, **o
    ),
    "instances_gallery": lambda **o: figures.instances_gallery(PHOTOS, MAPS, LABELLED, ["a", "b", "c"], **o),
    "calibration_figure": lambda **o: figures.calibration_figure(VAL, THRESHOLD, **o),
    "coreset_figure": lambda **o: figures.coreset_figure(1 / np.arange(1, 100), **o),
    "metric_bars": lambda **o: figures.metric_bars(by_type(LABELS, SCORES, TYPES, THRESHOLD), **o),
    "weak_defect_curves": lambda **o: figures.weak_defect_curves(WEAK, **o),
}
PICTURES = ("sample_grid", "map_gallery", "instances_gallery")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_figure_with_named_axes_and_its_note(name, tmp_path):
    figure = FIGURES[name](note="untrained backbone")
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert figure.get_supxlabel() == "untrained backbone"
    assert FIGURES[name]().get_supxlabel() == ""
    assert figure.get_size_inches()[0] <= 10.5
    if name not in PICTURES:
        for axis in figure.axes:
            assert axis.get_xlabel()
            assert axis.get_ylabel()
            assert axis.get_title()


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_texts_overlap(name):
    figure = FIGURES[name](note="untrained backbone")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = {  # the ticks of an axis without frame, and tick labels beyond the limits, exist but are not drawn
        text for axis in figure.axes if not axis.axison for text in (*axis.get_xticklabels(), *axis.get_yticklabels())
    }
    boxes = []
    for text in set(figure.findobj(matplotlib.text.Text)) - hidden:
        box = text.get_window_extent(renderer)
        in_view = box.x1 > figure.bbox.x0 and box.x0 < figure.bbox.x1
        if text.get_visible() and text.get_text().strip() and box.width > 1 and in_view:
            boxes.append((text.get_text(), box))
    assert len(boxes) > 3
    overlaps = []
    for k, (words, box) in enumerate(boxes):
        for other_words, other in boxes[k + 1 :]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            tall = min(box.y1, other.y1) - max(box.y0, other.y0)
            if wide > 1 and tall > 2:
                overlaps.append((words, other_words))
    assert not overlaps


def test_pyplot_is_never_touched():
    code = (
        "import sys, numpy as np\n"
        "from helpers.views import figures\n"
        "f = figures.coreset_figure(np.ones(5))\n"
        "assert f._repr_png_()[:4] == b'\\x89PNG'\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_maps_share_one_scale_and_one_bar():
    figure = FIGURES["map_gallery"]()
    images = [axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_array().ndim == 2]
    assert len(images) == 3
    low, high = min(values.min() for values in MAPS), max(values.max() for values in MAPS)
    assert {image.get_clim() for image in images} == {(low, high)}
    bars = [axis for axis in figure.axes if axis.get_ylabel() == "anomaly score"]
    assert len(bars) == 1
    assert bars[0].get_ylim() == pytest.approx((low, high))
    fixed = figures.map_gallery(PHOTOS, MAPS, MASKS, ["a", "b", "c"], vmin=0, vmax=2)
    assert {axis.images[0].get_clim() for axis in fixed.axes[1:6:2]} == {(0, 2)}


def _outlines(axis, colour):
    return [line for line in axis.lines if to_hex(line.get_color()).upper() == colour]


def test_outlines_lie_on_the_mask_of_their_photo():
    axes = FIGURES["map_gallery"]().axes
    (line,) = _outlines(axes[1], figures.MASK_COLOUR)
    x, y = line.get_data()
    # Rows 0-5 and columns 10-15 of the photo; pixel edges lie half a pixel out, the contour on them.
    assert (x.min(), x.max(), y.max()) == (9.5, 15.5, 5.5)
    assert y.min() == -0.5
    assert not _outlines(axes[4], figures.MASK_COLOUR)  # the second photo has no mask


def test_outline_of_a_small_map_is_stretched_over_the_photo():
    values = np.zeros((6, 8))
    values[2:4, 2:4] = 1.0  # a quarter of the photo's size: rows 8-15, columns 8-15
    axes = figures.map_gallery(PHOTOS[:1], [values], [None], ["a"], 0.5).axes
    (line,) = _outlines(axes[2], figures.PREDICTED_COLOUR)
    x, y = line.get_data()
    assert (x.min(), x.max(), y.min(), y.max()) == (7.5, 15.5, 7.5, 15.5)
    assert axes[2].get_title(loc="left") == "8.33 % above threshold"  # 4 of 48
    assert axes[1].images[0].get_extent() == [-0.5, 31.5, 23.5, -0.5]


def test_threshold_lines_are_at_the_threshold():
    for name in ("score_histogram", "calibration_figure"):
        axis = FIGURES[name]().axes[0]
        lines = [line for line in axis.lines if list(line.get_xdata()) == [THRESHOLD.value] * 2]
        assert len(lines) == 1, name
        assert f"threshold {THRESHOLD.value:.4g}" in [text.get_text() for text in axis.texts]
    outside = figures.score_histogram(SCORES, TYPES, 9.0).axes[0]
    assert outside.get_xlim()[1] >= 9.0  # a threshold beyond all scores is in view


def _labels(figure):
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_counts_are_in_legends_and_titles():
    assert _labels(FIGURES["score_histogram"]()) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    assert _labels(FIGURES["split_bars"]()) == ["good (n=30)", "hole (n=10)", "scratch (n=10)"]
    assert FIGURES["split_bars"]().axes[0].get_title().endswith("(n=50)")
    ticks = [text.get_text() for text in FIGURES["metric_bars"]().axes[0].get_yticklabels()]
    assert sorted(ticks) == ["hole (n=10)", "scratch (n=10)"]
    curve = _labels(FIGURES["roc_and_pr"]())
    auroc = float(image_curves(LABELS, SCORES)["image_auroc"])
    assert curve[0] == f"patchcore: AUROC {auroc:.3f} (n=30+20)"
    assert curve[1] == "at the stored threshold"


def test_operating_point_lies_where_the_threshold_puts_it():
    roc, pr = FIGURES["roc_and_pr"]().axes
    flagged = (SCORES - float(THRESHOLD)) > 0
    false_alarm, recall, precision = flagged[~LABELS].mean(), flagged[LABELS].mean(), LABELS[flagged].mean()
    (dot,) = [line for line in roc.lines if line.get_marker() == "o"]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (pytest.approx(false_alarm), pytest.approx(recall))
    (dot,) = [line for line in pr.lines if line.get_marker() == "o"]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (pytest.approx(recall), pytest.approx(precision))


def test_calibration_band_is_the_interval():
    axis = FIGURES["calibration_figure"]().axes[0]
    (band,) = axis.patches
    assert band.get_y() == pytest.approx(THRESHOLD.interval_low)
    assert band.get_y() + band.get_height() == pytest.approx(THRESHOLD.interval_high)


def test_one_class_one_size_and_one_value_still_draw(tmp_path):
    drawn = [
        figures.size_scatter([256] * 9, [200] * 9),
        figures.score_histogram([0.5] * 3, ["good"] * 3),
        figures.score_histogram(SCORES, TYPES, THRESHOLD, log=True),
        figures.roc_and_pr({"patchcore": image_curves([0, 0], [0.1, 0.2], 0.15)}),
        figures.map_gallery(PHOTOS[:1], [np.zeros((4, 4))], [None], ["flat"], 0.5),
        figures.calibration_figure([0.5], conformal_threshold([0.5])),
        figures.coreset_figure([1.0]),
        figures.metric_bars(by_type([0, 1], [0.1, 0.2], ["good", "hole"])),  # no threshold: all NaN
        figures.sample_grid([PHOTOS[0][..., 0]], [None], ["grey"]),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png")
    assert drawn[0].axes[0].get_title() == "All 9 photos are 256 × 200 px"
    assert _labels(drawn[3])[0].startswith("patchcore: AUROC undefined")


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="one entry a photo"):
        figures.sample_grid(PHOTOS, MASKS, ["a"])
    with pytest.raises(ValueError, match="one entry a photo"):
        figures.map_gallery([], [], [], [])
    with pytest.raises(ValueError, match="no column 'recall'"):
        figures.metric_bars(pd.DataFrame({"defect_type": ["a"]}), "recall")
    with pytest.raises(ValueError, match="scores"):
        figures.score_histogram([0.1], ["good", "hole"])
    with pytest.raises(ValueError, match="widths"):
        figures.size_scatter([], [])


def test_long_names_keep_their_end():
    assert figures.shorten("short.png", 24) == "short.png"
    short = figures.shorten("contamination/IMG_20240131_camera2_000123.png", 24)
    assert len(short) == 24
    assert short.endswith("000123.png")
    assert short.startswith("contam")


def test_training_curves_are_the_logged_values_and_mark_the_kept_epoch():
    figure = figures.training_curves({"unet": HISTORY}, PANELS, best={"unet": 2})
    loss, overlap = figure.axes
    train, circle, val = loss.get_lines()
    assert list(train.get_xdata()) == [1, 2, 3, 4]  # epochs are counted from 1 for readers
    assert list(train.get_ydata()) == [4, 3, 2, 1] and list(val.get_ydata()) == [4, 3, 3, 3]
    assert (list(circle.get_xdata()), list(circle.get_ydata())) == ([3], [2])
    assert overlap.get_ylabel() == "overlap"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["unet, train_loss", "unet, val_loss"]


def test_objects_are_counted():
    figure = figures.instances_gallery(PHOTOS, MAPS, LABELLED, ["a", "b", "c"])
    assert [axis.get_title() for axis in figure.axes if "objects" in axis.get_title()] == ["2 objects"] * 3


def test_weak_defects_run_from_weak_to_strong_with_the_false_alarms_marked():
    figure = figures.weak_defect_curves(WEAK)
    (axis,) = figure.axes
    curves = [line for line in axis.lines if len(line.get_xdata()) == 3]
    assert list(curves[0].get_xdata()) == [0, 0.5, 1] and list(curves[0].get_ydata()) == [0.05, 0.4, 0.9]
    levels = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert [set(line.get_ydata()) for line in levels] == [{0.05}, {0.1}]
    assert [line.get_color() for line in levels] == [line.get_color() for line in curves]
    band = axis.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} >= {
        (0.0, 0.01),
        (0.5, 0.3),
        (1.0, 0.8),
        (1.0, 0.95),
        (0.5, 0.55),
        (0.0, 0.16),
    }
    assert "n=40 photos" in axis.get_title()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["patchcore\n5 % false alarms", "unet\n10 % false alarms"]
    with pytest.raises(ValueError, match="lacks high"):
        figures.weak_defect_curves(WEAK.drop(columns="high"))
    with pytest.raises(ValueError, match="lacks rows"):
        figures.weak_defect_curves(WEAK.iloc[:0])


def test_reconstructions_share_a_scale_from_0_to_1_and_say_what_is_flagged():
    photo = np.full((16, 20, 3), 90, np.uint8)
    values = np.zeros((16, 20), np.float32)
    values[:4] = 0.75
    mask = values > 0
    drawn = figures.reconstruction_gallery(
        [photo, photo], [photo, photo], [values, 0 * values], [mask, None], ["a.png", "b.png"], threshold=0.5
    )
    axes = drawn.axes[:8]
    assert [axis.get_title(loc="left") for axis in axes[:4]] == [
        "a.png",
        "reconstruction",
        "map, highest 0.75",
        "25 % above threshold",
    ]
    assert axes[7].get_title(loc="left") == "0 % above threshold"
    assert {axes[2].images[0].get_clim(), axes[6].images[0].get_clim()} == {(0.0, 1.0)}
    with pytest.raises(ValueError, match="maps"):
        figures.reconstruction_gallery([photo], [photo], [], [None], ["a"], threshold=0.5)


def test_the_judgement_shows_the_points_that_are_bright_and_the_disc_about_them():
    spectrum = np.full((9, 9), 10.0)
    spectrum[4, 2:7] = 200.0
    drawn = figures.judgement_figure(np.zeros((5, 5, 3), np.uint8), spectrum, 170.0, 2.0, "judged")
    bright = next(axis for axis in drawn.axes if axis.get_title() == "judged")
    np.testing.assert_array_equal(bright.images[0].get_array(), spectrum > 170)
    assert bright.images[0].get_extent() == [-4.5, 4.5, 4.5, -4.5]
    circle = bright.lines[0]
    np.testing.assert_allclose(np.hypot(circle.get_xdata(), circle.get_ydata()), 2.0)


def test_values_that_are_logged_every_other_epoch_are_joined():
    history = pd.DataFrame({"epoch": [0, 1, 2, 3], "val": [np.nan, 0.5, np.nan, 0.25]})
    (line,) = figures.training_curves({"a": history}, {"score": ["val"]}).axes[0].lines
    assert line.get_xdata().tolist() == [2, 4] and line.get_ydata().tolist() == [0.5, 0.25]


def test_a_single_epoch_is_a_dot():
    (line,) = figures.training_curves({"a": pd.DataFrame({"epoch": [0], "b": [1.0]})}, {"b": ["b"]}).axes[0].lines
    assert line.get_marker() == "o"
