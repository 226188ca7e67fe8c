"""Widgets of the notebooks, garnish beside figures that say the same: move a threshold and see what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.analysis.costs import (
    Prices,
    best_first_threshold,
    cost_without_stage_1,
    expected_costs,
    first_thresholds,
)
from helpers.thresholds import Threshold, exceeds
from helpers.views.figures import cost_curves
from helpers.views.gallery import map_gallery
from helpers.views.style import NotebookFigure

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
    """A slider over the image scores; below it what is found, missed and falsely alarmed, and the photos closest to it.

    It is for understanding. A threshold that looks good on test photos was chosen on them; the stored one was not.
    Without JavaScript `helpers.views.figures.threshold_figure` shows the counts at every threshold.

    Args:
        test: a run's ``predictions("test")``: ``label_index`` and ``score``.
        examples: from some rows of it to what `helpers.views.gallery.map_gallery` takes (``Run.examples``).
        threshold: the stored threshold, where the slider begins.
        pixel_threshold: drawn in the gallery.
        n_examples: photos in the gallery at most.
        note: printed in its corner.

    Returns:
        A VBox of four children: the slider, the choice of one of `OUTCOMES`, the counts (HTML) and the gallery (PNG).

    Raises:
        ValueError: where there is no photo.
    """
    if test.empty:
        raise ValueError("test has no photos; there is nothing to explore.")
    scores = test["score"].to_numpy(dtype=float)
    abnormal = test["label_index"].to_numpy() == 1
    stored = float(threshold)
    low, high = min(scores.min(), stored), max(scores.max(), stored)
    margin = 0.02 * (high - low) or 0.5
    slider = ipywidgets.FloatSlider(
        value=stored,
        min=low - margin,
        max=high + margin,
        step=(high - low + 2 * margin) / 1000,
        description="threshold",
        readout_format=".4g",
        continuous_update=False,
        layout=ipywidgets.Layout(width="90%"),
    )
    outcome = ipywidgets.Dropdown(options=OUTCOMES, description="show")
    counts = ipywidgets.HTML()
    gallery = ipywidgets.Image(format="png")

    def update(_: object = None) -> None:
        flagged = exceeds(scores, slider.value)
        chosen = dict(
            zip(
                OUTCOMES,
                (abnormal & ~flagged, ~abnormal & flagged, abnormal & flagged, ~abnormal & ~flagged),
                strict=True,
            )
        )
        counts.value = _counts_html({name: int(rows.sum()) for name, rows in chosen.items()}, slider.value, stored)
        rows = np.flatnonzero(chosen[outcome.value])
        nearest = rows[np.argsort(np.abs(scores[rows] - slider.value), kind="stable")][:n_examples]
        gallery.value = _png(_gallery(test.iloc[nearest], examples, pixel_threshold, outcome.value, note))

    slider.observe(update, names="value")
    outcome.observe(update, names="value")
    update()
    return ipywidgets.VBox([slider, outcome, counts, gallery])


def cost_explorer(
    scores: pd.DataFrame, threshold_2: float, prices: Prices, *, prevalence: float = 0.01, price_ratio: float = 100.0
) -> ipywidgets.VBox:
    """Two sliders, the share of defects and the price of a miss; below them the cost curve and its lowest point.

    Without JavaScript `helpers.views.figures.cost_curves` shows several cases at once.

    Args:
        scores: of val, both classes: ``label_index``, ``score_1`` and ``score_2`` (`helpers.analysis.costs`).
        threshold_2: of stage 2.
        prices: of a false alarm and of time; its price of a miss is the slider's.
        prevalence: share of defects where the slider begins, 0.0001 to 0.5.
        price_ratio: price of a miss over that of a false alarm where the slider begins, 1 to 10000.

    Returns:
        A VBox of four children: both sliders, the best threshold (HTML) and the curve (PNG).
    """
    long = {"layout": ipywidgets.Layout(width="90%"), "style": {"description_width": "11em"}}
    options = {"base": 10, "step": 0.05, "readout_format": ".3g", "continuous_update": False, **long}
    share = ipywidgets.FloatLogSlider(prevalence, min=-4, max=np.log10(0.5), description="share of defects", **options)
    ratio = ipywidgets.FloatLogSlider(price_ratio, min=0, max=4, description="miss : false alarm", **options)
    words, curve = ipywidgets.HTML(), ipywidgets.Image(format="png")
    limits = first_thresholds(scores)

    def update(_: object = None) -> None:
        miss = ratio.value * prices.false_alarm
        case = {"prevalence": share.value, "prices": replace(prices, miss=miss)}
        best = best_first_threshold(scores, threshold_2, **case)
        table = expected_costs(scores, limits, threshold_2, **case)
        lowest = table.loc[table["threshold_1"] == best.value].iloc[0]
        words.value = (
            f"lowest at {best.value:.4g}: {100 * lowest['passed']:.3g} % of the photos go on, a photo costs "
            f"{lowest['cost']:.3g} (val, n={len(scores)})"
        )
        name = f"{100 * share.value:.3g} % defects, {ratio.value:.3g} : 1"
        alone = cost_without_stage_1(scores, threshold_2, **case)
        curve.value = _png(cost_curves({name: table}, {name: best.value}, {name: alone}))

    share.observe(update, names="value")
    ratio.observe(update, names="value")
    update()
    return ipywidgets.VBox([share, ratio, words, curve])


def _counts_html(counts: Mapping[str, int], threshold: float, stored: float) -> str:
    missed, alarms, found, accepted = (counts[name] for name in OUTCOMES)
    defect = f"<th>defect photos ({found + missed})</th><td>{found} found</td><td>{missed} missed</td>"
    normal = f"<th>normal photos ({alarms + accepted})</th><td>{alarms} false alarms</td><td>{accepted} accepted</td>"
    where = "the stored threshold" if threshold == stored else f"stored: {stored:.4g}"
    head = f"<tr><th>{threshold:.4g} ({where})</th><th>called abnormal</th><th>called normal</th></tr>"
    return f"<table cellpadding='6'>{head}<tr>{defect}</tr><tr>{normal}</tr></table>"


def _gallery(
    rows: pd.DataFrame,
    examples: Callable[[pd.DataFrame], Mapping[str, Any]],
    pixel_threshold: float | Threshold | None,
    outcome: str,
    note: str | None,
) -> Figure:
    if rows.empty:
        figure = NotebookFigure(figsize=(6, 0.6))
        figure.text(0.02, 0.4, f"no {outcome} at this threshold", fontsize=11)
        return figure
    heading = f"{outcome}, closest to the threshold first"
    return map_gallery(**examples(rows), threshold=pixel_threshold, heading=heading, note=note)


def _png(figure: Figure) -> bytes:
    assert isinstance(figure, NotebookFigure)
    return figure._repr_png_()
