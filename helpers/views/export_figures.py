"""Figures of notebook 09: how fast each backend is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.views.figures import clean_axis, new_figure


def speed_bars(speed: pd.DataFrame, note: str | None = None) -> Figure:
    """Median time a photo by model and backend, one panel a batch size, whiskers up to the 95th percentile.

    Args:
        speed: columns ``model``, ``backend``, ``batch_size``, ``median_ms``, ``p95_ms``.
        note: what the figure must say, see :attr:`helpers.runs.Run.note`.
    """
    sizes = sorted(speed["batch_size"].unique())
    models, backends = list(dict.fromkeys(speed["model"])), list(dict.fromkeys(speed["backend"]))
    figure = new_figure(0.9 + 0.24 * len(models) * (len(backends) + 1), note)
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    height = 1 / (len(backends) + 1)
    for axis, size in zip(axes, sizes, strict=True):
        for number, backend in enumerate(backends):
            rows = speed[(speed["batch_size"] == size) & (speed["backend"] == backend)].set_index("model")
            rows = rows.reindex(models)
            places = np.arange(len(models)) + height * (number - (len(backends) - 1) / 2)
            late = (rows["p95_ms"] - rows["median_ms"]).clip(lower=0)
            whiskers = np.stack([np.zeros(len(rows)), late])
            axis.barh(places, rows["median_ms"], 0.9 * height, xerr=whiskers, label=backend, color=f"C{number}")
        axis.set_title(f"batch of {size}")
        axis.set_xlabel("ms a photo (whisker: 95th percentile)")
        clean_axis(axis)
    axes[0].set_yticks(np.arange(len(models)), models)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure
