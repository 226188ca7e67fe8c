"""A widget of notebook 06, garnish beside figures that say the same: move a threshold and see what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from helpers.thresholds import Threshold, exceeds
from helpers.views.gallery import map_gallery
from helpers.views.style import new_figure

OUTCOMES = ("missed defects", "false alarms", "found defects", "accepted normal photos")


def threshold_explorer(
    test: pd.DataFrame,
    examples: Callable[[pd.DataFrame], Mapping[str, Any]],
    threshold: Threshold,
    pixel_threshold: Threshold,
    *,
    n_examples: int = 3,
    note: str | None = None,
) -> ipywidgets.VBox:
    """A slider over the image scores, the choice of one of `OUTCOMES`, the counts of all at it (HTML), and a gallery
    (PNG) of the photos closest to it.

    It is for understanding: a threshold that looks good on test photos was chosen on them; the stored one was not.
    ``test`` is a run's ``predictions("test")``, ``examples`` makes of rows of it what `map_gallery` takes.
    """
    scores, abnormal, stored = test["score"].to_numpy(float), test["label_index"].to_numpy() == 1, float(threshold)
    low, high = min(scores.min(), stored), max(scores.max(), stored)
    margin = 0.02 * (high - low) or 0.5
    ends = {"min": low - margin, "max": high + margin, "step": (high - low + 2 * margin) / 1000}
    look = {"readout_format": ".4g", "continuous_update": False, "layout": ipywidgets.Layout(width="90%")}
    slider = ipywidgets.FloatSlider(stored, **ends, description="threshold", **look)
    outcome = ipywidgets.Dropdown(options=OUTCOMES, description="show")
    counts, gallery = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def update(_: object = None) -> None:
        flagged = exceeds(scores, slider.value)
        outcomes = (abnormal & ~flagged, ~abnormal & flagged, abnormal & flagged, ~abnormal & ~flagged)
        chosen = dict(zip(OUTCOMES, outcomes, strict=True))
        words = ", ".join(f"{rows.sum()} {name}" for name, rows in chosen.items())
        counts.value = f"<p>{words} (stored threshold: {stored:.4g})</p>"
        rows = np.flatnonzero(chosen[outcome.value])
        nearest = rows[np.argsort(np.abs(scores[rows] - slider.value), kind="stable")][:n_examples]
        if nearest.size:
            options = {"heading": f"{outcome.value}, closest to the threshold first", "note": note}
            figure = map_gallery(**examples(test.iloc[nearest]), threshold=pixel_threshold, **options)
        else:
            figure = new_figure(0.6, width=6)
            figure.text(0.02, 0.4, f"no {outcome.value} at this threshold", fontsize=11)
        gallery.value = figure._repr_png_()

    for widget in (slider, outcome):
        widget.observe(update, names="value")
    update()
    return ipywidgets.VBox([slider, outcome, counts, gallery])
