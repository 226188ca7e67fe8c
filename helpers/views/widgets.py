"""Widgets of the notebooks, garnish beside figures that say the same: move a threshold and see what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from helpers.analysis.costs import Prices, best_first_threshold, cost_without_stage_1, expected_costs, first_thresholds
from helpers.thresholds import Threshold, exceeds
from helpers.views.figures import cost_curves
from helpers.views.gallery import map_gallery
from helpers.views.style import new_figure

OUTCOMES = ("missed defects", "false alarms", "found defects", "accepted normal photos")


def threshold_explorer(
    test: pd.DataFrame,
    examples: Callable[[pd.DataFrame], Mapping[str, Any]],
    threshold: float | Threshold,
    pixel_threshold: float | Threshold | None = None,
    *,
    n_examples: int = 3,
    note: str | None = None,
) -> ipywidgets.VBox:
    """A slider over the image scores, the choice of one of `OUTCOMES`, what is found, missed and falsely alarmed at it
    (HTML), and a gallery (PNG) of the photos closest to it.

    It is for understanding: a threshold that looks good on test photos was chosen on them; the stored one was not.
    ``test`` is a run's ``predictions("test")``, ``examples`` makes of rows of it what `map_gallery` takes.

    Raises:
        ValueError: no photo.
    """
    if test.empty:
        raise ValueError("test has no photos; there is nothing to explore.")
    scores, abnormal = test["score"].to_numpy(dtype=float), test["label_index"].to_numpy() == 1
    stored = float(threshold)
    low, high = min(scores.min(), stored), max(scores.max(), stored)
    margin = 0.02 * (high - low) or 0.5
    ends = {"min": low - margin, "max": high + margin, "step": (high - low + 2 * margin) / 1000}
    slider = ipywidgets.FloatSlider(stored, **ends, description="threshold", **_slider_options(".4g"))
    outcome = ipywidgets.Dropdown(options=OUTCOMES, description="show")
    counts, gallery = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(_: object = None) -> None:
        flagged = exceeds(scores, slider.value)
        outcomes = (abnormal & ~flagged, ~abnormal & flagged, abnormal & flagged, ~abnormal & ~flagged)
        chosen = dict(zip(OUTCOMES, outcomes, strict=True))
        counts.value = _counts_html({name: int(rows.sum()) for name, rows in chosen.items()}, slider.value, stored)
        rows = np.flatnonzero(chosen[outcome.value])
        nearest = rows[np.argsort(np.abs(scores[rows] - slider.value), kind="stable")][:n_examples]
        if nearest.size:
            heading = f"{outcome.value}, closest to the threshold first"
            options = {"threshold": pixel_threshold, "heading": heading, "note": note}
            figure = map_gallery(**examples(test.iloc[nearest]), **options)
        else:
            figure = new_figure(0.6, width=6)
            figure.text(0.02, 0.4, f"no {outcome.value} at this threshold", fontsize=11)
        gallery.value = figure._repr_png_()

    return _updated_by(update, [slider, outcome], [counts, gallery])


def cost_explorer(
    scores: pd.DataFrame, threshold_2: float, prices: Prices, *, prevalence: float = 0.01, price_ratio: float = 100.0
) -> ipywidgets.VBox:
    """Two sliders, the share of defects and the price of a miss; below them the best threshold (HTML) and the cost
    curve (PNG).

    ``scores`` are those of val, both classes (`helpers.analysis.costs`); the sliders begin at ``prevalence`` and at
    ``price_ratio``, the price of a miss over that of a false alarm.
    """
    options = {"base": 10, "step": 0.05, "style": {"description_width": "11em"}, **_slider_options(".3g")}
    share = ipywidgets.FloatLogSlider(prevalence, min=-4, max=np.log10(0.5), description="share of defects", **options)
    ratio = ipywidgets.FloatLogSlider(price_ratio, min=0, max=4, description="miss : false alarm", **options)
    words, curve = ipywidgets.HTML(), ipywidgets.Image(format="png")
    limits = first_thresholds(scores)

    def update(_: object = None) -> None:
        case = {"prevalence": share.value, "prices": replace(prices, miss=ratio.value * prices.false_alarm)}
        best = best_first_threshold(scores, threshold_2, **case)
        table = expected_costs(scores, limits, threshold_2, **case)
        lowest = table.loc[table["threshold_1"] == best.value].iloc[0]
        words.value = (
            f"lowest at {best.value:.4g}: {100 * lowest['passed']:.3g} % of the photos go on, a photo costs "
            f"{lowest['cost']:.3g} (val, n={len(scores)})"
        )
        name = f"{100 * share.value:.3g} % defects, {ratio.value:.3g} : 1"
        alone = cost_without_stage_1(scores, threshold_2, **case)
        curve.value = cost_curves({name: table}, {name: best.value}, {name: alone})._repr_png_()

    return _updated_by(update, [share, ratio], [words, curve])


def _slider_options(readout: str) -> dict[str, Any]:
    return {"readout_format": readout, "continuous_update": False, "layout": ipywidgets.Layout(width="90%")}


def _updated_by(update: Callable, inputs: list, outputs: list) -> ipywidgets.VBox:
    for widget in inputs:
        widget.observe(update, names="value")
    update()
    return ipywidgets.VBox([*inputs, *outputs])


def _counts_html(counts: Mapping[str, int], threshold: float, stored: float) -> str:
    missed, alarms, found, accepted = (counts[name] for name in OUTCOMES)
    defect = f"<th>defect photos ({found + missed})</th><td>{found} found</td><td>{missed} missed</td>"
    normal = f"<th>normal photos ({alarms + accepted})</th><td>{alarms} false alarms</td><td>{accepted} accepted</td>"
    where = "the stored threshold" if threshold == stored else f"stored: {stored:.4g}"
    head = f"<tr><th>{threshold:.4g} ({where})</th><th>called abnormal</th><th>called normal</th></tr>"
    return f"<table cellpadding='6'>{head}<tr>{defect}</tr><tr>{normal}</tr></table>"
