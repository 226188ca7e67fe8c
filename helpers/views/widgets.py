"""Widgets of the notebooks, garnish beside figures that say the same: move a threshold and see what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.analysis.calibration import Threshold
from helpers.views.figures import NotebookFigure, map_gallery

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
    Without JavaScript `helpers.views.evaluation_figures.threshold_figure` shows the counts at every threshold.

    Args:
        test: a run's ``predictions("test")``: ``label_index`` and ``score``.
        examples: from some rows of it to what `helpers.views.figures.map_gallery` takes (``Run.examples``).
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
        flagged = scores > slider.value
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
