"""Annotated photos and figures of sizes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from helpers.analysis.severity import p_chart_limits, parse_severity_limits, rate_severity
from helpers.analysis.sizing import measure_table, size_error_by_threshold
from helpers.views import size_figures as figures

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
