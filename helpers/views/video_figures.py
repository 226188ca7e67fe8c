"""Figures of a whole video, and frames shown while they are judged."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from helpers.drawing import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILLION
from helpers.views.style import legend_above, new_figure


def score_timeline(
    frames: pd.DataFrame, threshold: float, others: Mapping[str, float] | None = None, *, note: str | None = None
) -> Figure:
    """The score over time with its threshold and the spans that were flagged, and below it defects and delays.

    ``frames`` is the table of `judge_video`, ``others`` are further thresholds, drawn thin.

    Raises:
        ValueError: no frame was judged.
    """
    judged = frames[frames["status"] == "judged"]
    if judged.empty:
        raise ValueError("No frame was judged: there is nothing to show.")
    figure = new_figure(5.4, note)
    score, count, delay = figure.subplots(3, 1, sharex=True, height_ratios=(2.6, 1, 1))
    times, flagged = judged["time_s"].to_numpy(float), (judged["verdict"] == "DEFECT").to_numpy()
    height = score.get_xaxis_transform()
    spans = {"step": "mid", "transform": height, "color": VERMILLION, "alpha": 0.18, "linewidth": 0}
    # Where frames are missing the line of scores is broken, not drawn through.
    dots = {"linewidth": 1, "marker": "." if len(frames) < 400 else ""}
    handles = [
        *score.plot(frames["time_s"], frames["score"], color=BLUE, label="score", **dots),
        score.axhline(threshold, color=BLACK, linewidth=1.4, label=f"threshold {threshold:.4g}"),
        score.fill_between(times, flagged.astype(float), label="called DEFECT", **spans),
    ]
    for (name, value), style in zip((others or {}).items(), ("--", ":", "-."), strict=False):
        label = f"{name} {value:.4g}"
        handles.append(score.axhline(value, color=PURPLE, linewidth=1.2, linestyle=style, label=label))
    for status, colour, marker in (("dropped", ORANGE, "|"), ("broken", VERMILLION, "x")):
        lost = frames.loc[frames["status"] == status, "time_s"]
        if len(lost):
            look = {"color": colour, "transform": height, "clip_on": False, "linestyle": ""}
            handles += score.plot(lost, [0.03] * len(lost), marker, label=f"{status} (n={len(lost)})", **look)
    n_defects = np.nan_to_num(judged["n_defects"].to_numpy(float))
    width = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    count.bar(times, n_defects, width=width, color=ORANGE, linewidth=0)
    count.yaxis.set_major_locator(MaxNLocator(integer=True))
    count.set(ylabel="defects", ylim=(0, max(1.0, n_defects.max() * 1.1)))
    delay.plot(times, judged["latency_ms"], color=GREY, linewidth=1)
    delay.set(ylabel="latency (ms)", xlabel="time (s)", ylim=(0, None))
    score.set(ylabel="score")
    for axis in (score, count, delay):
        axis.margins(x=0.01)
    legend_above(figure, handles, f"{flagged.sum()} of {len(judged)} judged frames called DEFECT")
    return figure


class LivePreview:
    """Frames as they are judged, reduced, in a notebook that somebody watches; ``widget`` is what is displayed."""

    def __init__(self, width: int = 640, per_second: float = 5.0) -> None:
        import ipywidgets

        self.widget = ipywidgets.Image(format="jpeg", width=width)
        self._width, self._pause, self._last = width, 1 / per_second, -np.inf

    def __call__(self, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8, if the last one has been there for long enough."""
        if time.perf_counter() - self._last < self._pause:
            return
        self._last = time.perf_counter()
        image = Image.fromarray(picture)
        image.thumbnail((self._width, self._width))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=80)
        self.widget.value = buffer.getvalue()
