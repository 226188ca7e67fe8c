"""Figures of a whole video, and frames shown while they are judged."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
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
    times = judged["time_s"].to_numpy(float)
    for first, last in flagged_spans(frames):
        score.axvspan(first, last, color=VERMILLION, alpha=0.18, linewidth=0)
    # Where frames are missing the line is broken, not drawn through.
    score.plot(frames["time_s"], frames["score"], color=BLUE, linewidth=1, marker="." if len(frames) < 400 else "")
    score.axhline(threshold, color=BLACK, linewidth=1.4)
    handles = [
        Line2D([], [], color=BLUE, label="score"),
        Line2D([], [], color=BLACK, label=f"threshold {threshold:.4g}"),
        Patch(color=VERMILLION, alpha=0.18, linewidth=0, label="called DEFECT"),
    ]
    for (name, value), style in zip((others or {}).items(), ("--", ":", "-."), strict=False):
        label = f"{name} {value:.4g}"
        handles.append(score.axhline(value, color=PURPLE, linewidth=1.2, linestyle=style, label=label))
    for status, colour, marker in (("dropped", ORANGE, "|"), ("broken", VERMILLION, "x")):
        lost = frames.loc[frames["status"] == status, "time_s"]
        if len(lost):
            options = {"transform": score.get_xaxis_transform(), "clip_on": False, "linestyle": ""}
            label = f"{status} (n={len(lost)})"
            handles += score.plot(lost, np.full(len(lost), 0.03), marker, color=colour, label=label, **options)
    n_defects = np.nan_to_num(judged["n_defects"].to_numpy(float))
    count.bar(times, n_defects, width=_usual_gap(times), color=ORANGE, linewidth=0)
    count.yaxis.set_major_locator(MaxNLocator(integer=True))
    count.set(ylabel="defects", ylim=(0, max(1.0, n_defects.max() * 1.1)))
    delay.plot(times, judged["latency_ms"], color=GREY, linewidth=1)
    delay.set(ylabel="latency (ms)", xlabel="time (s)", ylim=(0, None))
    score.set(ylabel="score")
    for axis in (score, count, delay):
        axis.margins(x=0.01)
    n_flagged = (judged["verdict"] == "DEFECT").sum()
    legend_above(figure, handles, f"{n_flagged} of {len(judged)} judged frames called DEFECT")
    return figure


def _usual_gap(times: np.ndarray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.1


def flagged_spans(frames: pd.DataFrame) -> list[tuple[float, float]]:
    """Spans of time (first, last), seconds, in which all judged frames were called DEFECT.

    A span begins and ends half-way to the frames beside it. Frames that were not judged neither end nor begin one.
    """
    judged = frames[frames["status"] == "judged"]
    times, flagged = judged["time_s"].to_numpy(float), (judged["verdict"] == "DEFECT").to_numpy()
    half = _usual_gap(times) / 2
    edges = np.concatenate([times[:1] - half, (times[1:] + times[:-1]) / 2, times[-1:] + half])
    change = np.diff(np.concatenate([[0], flagged.astype(int), [0]]))
    return list(zip(edges[change == 1].tolist(), edges[change == -1].tolist(), strict=True))


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
