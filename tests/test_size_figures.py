"""Annotated photos and figures of sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers.analysis.severity import p_chart_limits, parse_severity_limits, rate_severity
from helpers.analysis.sizing import label_defects, measure_labels, measure_table, size_error_by_threshold
from helpers.views import size_figures as figures
from helpers.views.video_figures import LAYOUTS, Found, MapScale, draw_frame

DRAW = np.random.default_rng(0)
SHAPE = (100, 160)
LIMITS = parse_severity_limits([{"measure": "length", "medium": "0.5 mm", "high": "1.2 mm", "critical": "1.9 mm"}])


def _mask(n: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for number in range(n):
        top, left = DRAW.integers(5, 70), 10 + 30 * number
        mask[top : top + DRAW.integers(4, 20), left : left + DRAW.integers(4, 20)] = True
    return mask


MASKS = [_mask(n % 5) for n in range(12)]
NAMES = [f"{n:03d}.png" for n in range(12)]
TYPES = ["dent", "scratch", "stain"] * 4
TABLE = measure_table(MASKS, NAMES, pixel_size=0.1, unit="mm", defect_types=TYPES)
TABLE["severity"] = rate_severity(TABLE, LIMITS)
PHOTO = np.full((*SHAPE, 3), 128, np.uint8)
CURVE = size_error_by_threshold([mask.astype(np.float32) for mask in MASKS], MASKS, [0.2, 0.5, 2.0], 0.1, "mm")

FIGURES = {
    "size_distribution": lambda **o: figures.size_distribution(TABLE, "area", **o),
    "severity_bars": lambda **o: figures.severity_bars(TABLE, **o),
    "position_heatmap": lambda **o: figures.position_heatmap(TABLE, PHOTO, n_photos=12, **o),
    "p_chart": lambda **o: figures.p_chart([6, 5, 30], [50, 40, 50], ["one", "two", "three"], **o),
    "largest_size_chart": lambda **o: figures.largest_size_chart([1.0, np.nan, 3.0], "mm", limit=2.0, **o),
    "size_error_curves": lambda **o: figures.size_error_curves({"unet": CURVE, "draem": CURVE}, {"unet": 0.4}, **o),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_figure_with_named_axes_and_its_note(name, tmp_path):
    figure = FIGURES[name](note="untrained backbone")
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert figure.get_supxlabel() == "untrained backbone"
    assert FIGURES[name]().get_supxlabel() == ""
    assert all(axis.get_ylabel() or axis.get_shared_y_axes().get_siblings(axis) for axis in figure.axes)
    assert any(axis.get_xlabel() for axis in figure.axes)
    assert any(axis.get_title() for axis in figure.axes)


def test_figures_say_how_many():
    texts = {name: " ".join(axis.get_title() for axis in draw().axes) for name, draw in FIGURES.items()}
    assert f"{len(TABLE)} defects" in texts["size_distribution"]
    assert f"{len(TABLE)} defects" in texts["severity_bars"]
    assert "on 12 photos" in texts["position_heatmap"]
    assert "1 of 3 subgroups outside" in texts["p_chart"] and "n=40 to 50" in texts["p_chart"]
    assert "3 photos" in texts["largest_size_chart"]
    assert f"n={len(TABLE)} defects" in texts["size_error_curves"]


def test_bars_and_cells_count_every_defect_once():
    axis = FIGURES["severity_bars"]().axes[0]
    assert sum(bar.get_width() for bar in axis.patches) == len(TABLE)
    heat = figures.position_heatmap(TABLE).axes[0].images[-1]
    assert heat.get_array().sum() == len(TABLE)
    upper = FIGURES["size_distribution"]().axes[0]
    assert sum(bar.get_height() for bar in upper.patches) == len(TABLE)


def test_limits_of_a_p_chart_by_hand():
    centre, lower, upper = p_chart_limits([2, 4, 6], [100, 100, 400])
    assert centre == pytest.approx(0.02)
    np.testing.assert_allclose(upper, [0.062, 0.062, 0.041])
    np.testing.assert_allclose(lower, [0, 0, 0])
    for defective, inspected in (([], []), ([1], [0]), ([5], [4]), ([-1], [4]), ([1, 2], [4])):
        with pytest.raises(ValueError, match="n_inspected"):
            figures.p_chart(defective, inspected)


def test_nothing_to_show_is_refused():
    for draw in (figures.size_distribution, figures.severity_bars, figures.position_heatmap):
        with pytest.raises(ValueError, match="no defect"):
            draw(TABLE.iloc[:0])
    with pytest.raises(ValueError, match="'weight'"):
        figures.size_distribution(TABLE, "weight")
    with pytest.raises(ValueError, match="empty"):
        figures.largest_size_chart([], "mm")
    with pytest.raises(ValueError, match="empty"):
        figures.size_error_curves({})
    with pytest.raises(ValueError, match="names has 2"):
        figures.p_chart([1], [2], ["a", "b"])


# ----------------------------------------------------------------------------------------------------- annotated photos


def _square() -> tuple[np.ndarray, pd.DataFrame]:
    labels = np.zeros(SHAPE, np.int32)
    labels[40:60, 60:100] = 1
    return labels, measure_labels(labels, 0.1, "mm")


def test_small_photos_are_enlarged_and_the_outline_lies_on_the_edge():
    labels, table = _square()
    photo = figures.annotate_photo(PHOTO, labels, table, 0.1, "mm")
    assert photo.dtype == np.uint8
    assert photo.shape == (700, 1120, 3), "700 is the first multiple of 100 from 640 on"
    orange = (photo == (230, 159, 0)).all(-1)
    # The label above has letters of the same colour.
    ys, xs = np.nonzero(orange & (np.arange(700) >= 275)[:, None])
    assert abs(ys.min() - 7 * 40) <= 2 and abs(ys.max() - 7 * 60) <= 2
    assert abs(xs.min() - 7 * 60) <= 2 and abs(xs.max() - 7 * 100) <= 2
    assert (photo[350, 200] == 128).all(), "elsewhere the photo is as it was"
    large = figures.annotate_photo(np.zeros((700, 900), np.uint8), np.zeros((700, 900), np.int32), table.iloc[:0])
    assert large.shape == (700, 900, 3)


@pytest.mark.parametrize(
    ("pixel_size", "unit", "pixels"), [(0.1, "mm", 7 * 20), (1.0, "px", 7 * 20), (0.01, "inch", 140)]
)
def test_the_scale_bar_is_as_long_as_it_says(pixel_size, unit, pixels):
    """22 % of 160 pixels are 35: the next round length below is 20 pixels, 2 mm or 0.2 inch."""
    labels = np.zeros(SHAPE, np.int32)
    photo = figures.annotate_photo(PHOTO, labels, measure_labels(labels), pixel_size, unit)
    white = (photo[600:, 700:] == 255).all(-1)
    assert white.sum(axis=1).max() == pytest.approx(pixels, abs=2)


def test_severity_gives_the_colour_and_labels_keep_clear():
    labels, table = _square()
    severe = table.assign(severity="critical", defect_type="scratch")
    photo = figures.annotate_photo(PHOTO, labels, severe, 0.1, "mm", caption="FAIL")
    assert (photo == (213, 94, 0)).all(-1).sum() > 500
    assert (photo[:60, :200] == 255).all(-1).any(), "the caption"
    labels = label_defects(MASKS[4])
    boxes: list = []
    original = figures._text_box

    def noted(*arguments):
        boxes.append(original(*arguments))
        return boxes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_text_box", noted)
        figures.annotate_photo(PHOTO, labels, measure_labels(labels, 0.1, "mm"), 0.1, "mm", caption="FAIL")
    assert len(boxes) == labels.max() + 1
    assert all(figures._overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


def test_what_does_not_fit_is_refused():
    labels, table = _square()
    with pytest.raises(ValueError, match="resize"):
        figures.annotate_photo(PHOTO[:50], labels, table)
    with pytest.raises(ValueError, match="'weight'"):
        figures.annotate_photo(PHOTO, labels, table, measure="weight")


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (20, 8000), (3, 20_000), (300, 10)])
def test_thin_photos_stay_small(shape):
    """One pixel high and 5000 wide was enlarged to 640 by 3,200,000, with several arrays of that size."""
    labels = np.zeros(shape, np.int32)
    labels[: max(1, shape[0] // 2), : max(1, shape[1] // 3)] = 1
    table = measure_labels(labels)
    drawn = figures.annotate_photo(np.zeros((*shape, 3), np.uint8), labels, table, caption="x")
    assert drawn.shape[0] * drawn.shape[1] <= max(figures.MOST_PIXELS, shape[0] * shape[1])
    high, wide = figures.folded(drawn).shape[:2]
    assert max(high, wide) <= figures.LONGEST * min(high, wide) or min(shape) == 1
    found = Found("OK", False, (), np.zeros(shape, np.float32), labels, table, [0.1])
    for layout in LAYOUTS:
        frame = draw_frame(layout, np.zeros((*shape, 3), np.uint8), found, MapScale(0, 1), 0.5)
        assert frame.size < 3 * 4 * figures.MOST_PIXELS


def test_a_strip_is_folded_so_that_all_of_it_is_seen():
    strip = np.arange(20 * 8000, dtype=np.float32).reshape(20, 8000)
    sheet = figures.folded(strip)
    assert 0.5 < sheet.shape[1] / sheet.shape[0] < 2
    assert set(strip.ravel()) <= set(sheet.ravel()) and np.isnan(sheet).any(), "nothing is lost; gaps between pieces"
    np.testing.assert_array_equal(figures.folded(strip.T), sheet.T)
    photo = np.zeros((100, 700, 3), np.uint8)
    assert figures.folded(photo) is photo
