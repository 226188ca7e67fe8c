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
_LOOK = {"continuous_update": False, "layout": ipywidgets.Layout(width="90%")}


def threshold_explorer(
    test: pd.DataFrame,
    examples: Callable[[pd.DataFrame], Mapping[str, Any]],
    threshold: float | Threshold,
    pixel_threshold: float | Threshold | None = None,
    *,
    n_examples: int = 3,
    note: str | None = None,
) -> ipywidgets.VBox:
    """A slider over the image scores, the choice of one of `OUTCOMES`, the counts of all at it (HTML), and a gallery
    (PNG) of the photos closest to it.

    It is for understanding: a threshold that looks good on test photos was chosen on them; the stored one was not.
    ``test`` is a run's ``predictions("test")``, ``examples`` makes of rows of it what `map_gallery` takes.
    """
    scores, abnormal = test["score"].to_numpy(dtype=float), test["label_index"].to_numpy() == 1
    low, high = min(scores.min(), float(threshold)), max(scores.max(), float(threshold))
    margin = 0.02 * (high - low) or 0.5
    ends = {"min": low - margin, "max": high + margin, "step": (high - low + 2 * margin) / 1000}
    slider = ipywidgets.FloatSlider(float(threshold), **ends, description="threshold", readout_format=".4g", **_LOOK)
    outcome = ipywidgets.Dropdown(options=OUTCOMES, description="show")
    counts, gallery = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(_: object = None) -> None:
        flagged = exceeds(scores, slider.value)
        outcomes = (abnormal & ~flagged, ~abnormal & flagged, abnormal & flagged, ~abnormal & ~flagged)
        chosen = dict(zip(OUTCOMES, outcomes, strict=True))
        cells = "".join(f"<td>{rows.sum()} {name}</td>" for name, rows in chosen.items())
        counts.value = f"<table cellpadding='6'><tr>{cells}<td>(stored: {float(threshold):.4g})</td></tr></table>"
        rows = np.flatnonzero(chosen[outcome.value])
        nearest = rows[np.argsort(np.abs(scores[rows] - slider.value), kind="stable")][:n_examples]
        if nearest.size:
            options = {"heading": f"{outcome.value}, closest to the threshold first", "note": note}
            figure = map_gallery(**examples(test.iloc[nearest]), threshold=pixel_threshold, **options)
        else:
            figure = new_figure(0.6, width=6)
            figure.text(0.02, 0.4, f"no {outcome.value} at this threshold", fontsize=11)
        gallery.value = figure._repr_png_()

    return _updated_by(update, [slider, outcome], [counts, gallery])


def cost_explorer(scores: pd.DataFrame, threshold_2: float, prices: Prices) -> ipywidgets.VBox:
    """Two sliders, the share of defects and the price of a miss in false alarms; below them the best threshold (HTML)
    and the cost curve (PNG). ``scores`` are those of val, both classes (`helpers.analysis.costs`)."""
    look = {"base": 10, "step": 0.05, "style": {"description_width": "11em"}, "readout_format": ".3g", **_LOOK}
    share = ipywidgets.FloatLogSlider(0.01, min=-4, max=np.log10(0.5), description="share of defects", **look)
    ratio = ipywidgets.FloatLogSlider(100, min=0, max=4, description="miss : false alarm", **look)
    words, curve = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(_: object = None) -> None:
        case = {"prevalence": share.value, "prices": replace(prices, miss=ratio.value * prices.false_alarm)}
        best = best_first_threshold(scores, threshold_2, **case)
        table = expected_costs(scores, first_thresholds(scores), threshold_2, **case)
        lowest = table.loc[table["threshold_1"] == best.value].iloc[0]
        passed, cost = f"{100 * lowest['passed']:.3g} % of the photos go on", f"a photo costs {lowest['cost']:.3g}"
        words.value = f"lowest at {best.value:.4g}: {passed}, {cost} (val, n={len(scores)})"
        name = f"{100 * share.value:.3g} % defects, {ratio.value:.3g} : 1"
        alone = cost_without_stage_1(scores, threshold_2, **case)
        curve.value = cost_curves({name: table}, {name: best.value}, {name: alone})._repr_png_()

    return _updated_by(update, [share, ratio], [words, curve])


def _updated_by(update: Callable, inputs: list, outputs: list) -> ipywidgets.VBox:
    for widget in inputs:
        widget.observe(update, names="value")
    update()
    return ipywidgets.VBox([*inputs, *outputs])
