"""The figure of a whole video."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from helpers.drawing import BLACK, BLUE, ORANGE, PURPLE, VERMILLION
from helpers.views.style import legend_above, new_figure


def score_timeline(
    frames: pd.DataFrame, threshold: float, others: Mapping[str, float] | None = None, *, note: str | None = None
) -> Figure:
    """The score over time with its threshold and the spans that were flagged.

    ``frames`` is the table of `judge_video`, ``others`` are further thresholds, drawn thin.

    Raises:
        ValueError: no frame was judged.
    """
    judged = frames[frames["status"] == "judged"]
    if judged.empty:
        raise ValueError("No frame was judged: there is nothing to show.")
    figure = new_figure(3.6, note)
    axis, flagged = figure.subplots(), judged["verdict"] == "DEFECT"
    height = axis.get_xaxis_transform()
    spans = {"step": "mid", "transform": height, "color": VERMILLION, "alpha": 0.18, "linewidth": 0}
    # Where frames are missing the line of scores is broken, not drawn through.
    dots = {"linewidth": 1, "marker": "." if len(frames) < 400 else ""}
    handles = [
        *axis.plot(frames["time_s"], frames["score"], color=BLUE, label="score", **dots),
        axis.axhline(threshold, color=BLACK, linewidth=1.4, label=f"threshold {threshold:.4g}"),
        axis.fill_between(judged["time_s"], flagged.astype(float), label="called DEFECT", **spans),
    ]
    for (name, value), style in zip((others or {}).items(), ("--", ":", "-."), strict=False):
        handles.append(axis.axhline(value, color=PURPLE, linestyle=style, label=f"{name} {value:.4g}"))
    for status, colour, marker in (("dropped", ORANGE, "|"), ("broken", VERMILLION, "x")):
        lost = frames.loc[frames["status"] == status, "time_s"]
        if len(lost):
            look = {"color": colour, "transform": height, "clip_on": False, "linestyle": ""}
            handles += axis.plot(lost, [0.03] * len(lost), marker, label=f"{status} (n={len(lost)})", **look)
    axis.set(ylabel="score", xlabel="time (s)")
    axis.margins(x=0.01)
    legend_above(figure, handles, f"{flagged.sum()} of {len(judged)} judged frames called DEFECT")
    return figure
