"""Figures that are composed of the primitives and used in several cells, or too long for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.analysis.detection_probability import PodFit, size_words
from helpers.drawing import BLACK, GREEN, ORANGE, VERMILLION, shorten
from helpers.views.plots import curves, interval_bars
from helpers.views.style import legend_right, new_figure, percents


def training_curves(
    histories: Mapping[str, pd.DataFrame],
    panels: Mapping[str, Sequence[str]],
    best: Mapping[str, int] | None = None,
    *,
    note: str | None = None,
) -> Figure:
    """What training logged, epoch by epoch: a panel a quantity (its label -> columns of the histories).

    ``best`` is the epoch (from 0) whose weights were kept, by model; it is marked.
    """
    figure = new_figure(3.8, note)
    for axis, (label, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        lines, kept = {}, {}
        for model, history in histories.items():
            for column in (each for each in columns if each in history):
                name = f"{model}, {column}" if len(columns) > 1 else model
                lines[name] = {"epoch": history["epoch"] + 1, "value": history[column]}
                if best and column == columns[0]:
                    kept[name] = (best[model] + 1, history.set_index("epoch")[column][best[model]])
        curves(lines, "epoch", "value", dots=kept, axis=axis, xlabel="epoch", ylabel=label)
        axis.set_title(f"{label} by epoch" + (" (dot: weights kept)" if best else ""), fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        # below the axis, clear of the curves
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 + (len(lines) > 3), fontsize=8)
    return figure


def roc_and_pr(found: Mapping[str, Mapping[str, np.ndarray]], *, note: str | None = None) -> Figure:
    """ROC and precision-recall curves of models (`image_curves`), with their operating points."""
    rows = 0.22 * (len(found) + 2)  # inches of a legend, which has axes of its own: below others it would be cut off
    figure = new_figure(4.6 + rows, note)
    upper, lower = figure.subplots(2, 2, height_ratios=(4.6, rows))
    panels = (
        ("ROC", {"fpr": "false-alarm rate", "tpr": "recall"}, "image_auroc", "AUROC", slice(0, 2)),
        ("Precision and recall", {"recall": "recall", "precision": "precision"}, "image_ap", "AP", slice(1, 3)),
    )
    for axis, legend, (title, columns, metric, words, point) in zip(upper, lower, panels, strict=True):
        lines, dots = {}, {}
        for model, one in found.items():
            n = f"n={one['n_normal']}+{one['n_abnormal']}"
            name = f"{shorten(model, 36)} ({words} {one[metric]:.3f}, {n})"  # a model's colour goes by its start
            lines[name], dots[name] = one, one["operating_point"][point]
        (x, xlabel), (y, ylabel) = columns.items()
        curves(lines, x, y, step=x == "recall", dots=dots, axis=axis, xlabel=xlabel, ylabel=ylabel, title=title)
        axis.set(xlim=(0, 1), ylim=(0, 1), box_aspect=1)
        legend.axis("off")
        handles, place = axis.get_legend_handles_labels()[0], {"loc": "upper center", "title_fontsize": 8}
        legend.legend(handles=handles, title="n: normal + abnormal; dot: at the stored threshold", **place)
    return figure


def recall_and_alarms(
    points: pd.DataFrame, names: Sequence[str], *, unit: str = "photos", ylabel: str = "", note: str | None = None
) -> Figure:
    """Shares of defects found and of good ones called defect, row by row, with intervals and counts.

    ``points`` has the columns of `helpers.analysis.comparison.decision_rates`.
    """
    figure = new_figure(1.7 + 0.46 * len(points), note)
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("recall", "found", "n_abnormal", GREEN, f"Defect {unit} found"),
        ("false_alarm", "false_alarms", "n_normal", ORANGE, f"Good {unit} called defect"),
    )
    for axis, (rate, count, total, colour, title) in zip(panels, shown, strict=True):
        counts = zip(points[count], points[total], points[rate].notna(), strict=True)
        words = [f"{n:.0f} of {of}" if known else "none" for n, of, known in counts]
        xlabel = f"share of the {unit} (Wilson 95 %)"
        interval_bars(points, rate, names, words=words, colours=colour, axis=axis, xlabel=xlabel, title=title)
    panels[0].set_ylabel(ylabel)
    return figure


def pod_figure(
    fit: PodFit, curve: pd.DataFrame, bins: pd.DataFrame, *, model: str = "", note: str | None = None
) -> Figure:
    """A POD curve (`fit_pod`, `pod_curve`, `pod_bins`): bounds, sizes, every hit and miss, and shares by bin."""
    axis = new_figure(4.6, note).subplots()
    what = f"{fit.measure.replace('_', ' ')} of the defect ({fit.unit}, log scale)"
    title = f"Probability of detection{f' of {shorten(model, 40)}' if model else ''} (n={len(fit.sizes)} defects)"
    named = {"xlabel": what, "ylabel": "defects found", "title": title, "xscale": "log", "ylim": (-0.06, 1.06)}
    named["xlim"] = (fit.sizes.min() / 1.08, fit.sizes.max() * 1.08)
    curves({"fitted curve": curve}, "size", "pod", band=("low", "high"), axis=axis, **named)
    axis.collections[0].set_label("bounds, each one-sided at 95 %")
    for agrees, colour, words in ((True, BLACK, ""), (False, VERMILLION, ": curve disagrees")):
        rows = bins[bins["agrees"] == agrees]
        errors = np.maximum([rows["recall"] - rows["recall_low"], rows["recall_high"] - rows["recall"]], 0)
        look = {"fmt": "o", "color": colour, "label": f"share found by bin{words}\n(Wilson 95 %)"}
        if len(rows):
            axis.errorbar(np.sqrt(rows["size_low"] * rows["size_high"]), rows["recall"], errors, **look)
    for hit, y, colour, words in ((True, 1.03, GREEN, "found"), (False, -0.03, VERMILLION, "missed")):
        sizes = fit.sizes[fit.detected == hit]
        ticks = {"linestyle": "", "marker": "|", "markersize": 9, "alpha": 0.6, "clip_on": False, "color": colour}
        axis.plot(sizes, np.full(len(sizes), y), label=f"{words} (n={len(sizes)})", **ticks)
    for name, size, level, dash in (
        ("a50", fit.a50, 0.5, ":"),
        ("a90", fit.a90, 0.9, "--"),
        ("a90/95", fit.a90_95, 0.9, "-"),
    ):
        look = {"color": BLACK, "linestyle": dash, "linewidth": 1.4, "label": f"{name}: {size_words(size, fit.unit)}"}
        axis.plot([size if np.isfinite(size) else np.nan] * 2, [-0.06, level], **look)
    axis.set_yticks(np.linspace(0, 1, 6))
    percents(axis.yaxis)
    legend_right(axis)
    return axis.get_figure()
