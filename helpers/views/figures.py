"""Figures that are composed of the primitives and used in several cells, or too long for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from helpers.analysis.detection_probability import PodFit, size_words
from helpers.drawing import BLACK, GREEN, GREY, ORANGE, SKY, VERMILLION, shorten
from helpers.thresholds import Threshold
from helpers.views.plots import curves, interval_bars, stacked_shares
from helpers.views.style import legend_right, new_figure, number_text, percents, plain_log, series_style, threshold_line


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
                    at = history["epoch"] == best[model]
                    kept[name] = (best[model] + 1, float(history.loc[at, column].iloc[0]))
        title = f"{label} by epoch" + (" (dot: weights kept)" if best else "")
        curves(lines, "epoch", "value", dots=kept, axis=axis, xlabel="epoch", ylabel=label)
        axis.set_title(title, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        columns = 1 if len(lines) <= 3 else 2
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8)  # clear of the curves
    return figure


def roc_and_pr(found: Mapping[str, Mapping[str, np.ndarray]], *, note: str | None = None) -> Figure:
    """ROC and precision-recall curves of models (`image_curves`), with their operating points."""
    figure = new_figure(5.1 + 0.22 * max(0, len(found) - 2), note)
    roc, pr = figure.subplots(1, 2)
    for number, (name, one) in enumerate(found.items()):
        style = {**series_style(number, name), "clip_on": False}
        count = f"(n={int(one['n_normal'])}+{int(one['n_abnormal'])})"
        label = f"{shorten(name, 36)}: AUROC {number_text(one['image_auroc'])} {count}"
        RocCurveDisplay(fpr=one["fpr"], tpr=one["tpr"]).plot(roc, curve_kwargs=style | {"label": label})
        label = f"{shorten(name, 36)}: AP {number_text(one['image_ap'])} {count}"
        PrecisionRecallDisplay(one["precision"], one["recall"]).plot(pr, curve_kwargs=style | {"label": label})
        false_alarm, recall, precision = np.asarray(one["operating_point"], dtype=float)
        for axis, point in ((roc, (false_alarm, recall)), (pr, (recall, precision))):
            if np.isfinite(point).all():
                mark = {"color": style["color"], "markeredgecolor": BLACK, "markersize": 9, "clip_on": False}
                axis.plot(*point, "o", zorder=5, **mark)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    roc.set(xlabel="false-alarm rate", ylabel="recall", title="ROC")
    pr.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for axis in (roc, pr):
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.grid()
        handles, _ = axis.get_legend_handles_labels()
        dot = {"linestyle": "", "marker": "o", "color": "white", "markeredgecolor": BLACK}
        handles.append(Line2D([], [], **dot, label="at the stored threshold"))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        axis.legend(handles=handles, title="n = normal + abnormal photos", title_fontsize=8, **place)
    return figure


def recall_and_alarms(
    points: pd.DataFrame,
    names: Sequence[str],
    *,
    alarms: str = "false_alarm",
    totals: tuple[str, str] = ("n_test_abnormal", "n_test_normal"),
    unit: str = "photos",
    ylabel: str = "",
    note: str | None = None,
) -> Figure:
    """Shares of defects found and of good ones called defect, row by row, with intervals and counts.

    ``points`` has ``recall``, ``found`` and ``false_alarms``, the column ``alarms``, both with ``_low`` and ``_high``,
    and the counts ``totals`` of defect and of good ones.
    """
    figure = new_figure(1.7 + 0.46 * len(points), note)
    panels = figure.subplots(1, 2, sharey=True)
    shown = (
        ("recall", "found", totals[0], GREEN, f"Defect {unit} found"),
        (alarms, "false_alarms", totals[1], ORANGE, f"Good {unit} called defect"),
    )
    for axis, (rate, count, total, colour, title) in zip(panels, shown, strict=True):
        counts = zip(points[count], points[total], points[rate].notna(), strict=True)
        words = [f"{n:.0f} of {of}" if known else "none" for n, of, known in counts]
        xlabel = f"share of the {unit} (Wilson 95 %)"
        interval_bars(points, rate, names, words=words, colours=colour, axis=axis, xlabel=xlabel, title=title)
    panels[0].set_ylabel(ylabel)
    return figure


def threshold_figure(counts: pd.DataFrame, threshold: float | Threshold, *, note: str | None = None) -> Figure:
    """What every threshold would lead to on these photos (`helpers.analysis.comparison.threshold_counts`)."""
    value = float(threshold)
    x = counts["threshold"].to_numpy(dtype=float)  # the first row stands for all thresholds below the lowest score
    span = max(x[-1], value) - min(x[0], value) or 1.0
    ends = (min(x[0], value) - 0.03 * span, max(x[-1], value) + 0.03 * span)
    at = np.searchsorted(x.astype(np.float32), np.float32(value), side="right")  # as scores are compared
    now, lines, dots, total = counts.iloc[max(0, at - 1)], {}, {}, 0
    for column, others, kind in (("missed", "found", "abnormal"), ("false_alarms", "accepted", "normal")):
        y, n = counts[column].to_numpy(), int(counts[[column, others]].iloc[0].sum())
        name = f"{column.replace('_', ' ')}: {int(now[column])} of {n} {kind}"
        lines[name] = {"threshold": np.r_[ends[0], x, ends[1]], "photos": np.r_[y[0], y, y[-1]]}
        dots[name], total = (value, now[column]), total + n
    figure = new_figure(4.3, note)
    axis = figure.subplots()
    curves(lines, "threshold", "photos", step=True, dots=dots, axis=axis)
    axis.set(xlim=ends, ylim=(0, None), xlabel="threshold on the image score (raw)", ylabel="photos")
    axis.set_title(f"What another threshold would change (n={total} photos)")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    threshold_line(axis, value)
    legend_right(axis, "at the line")
    return figure


def pod_figure(
    fit: PodFit, curve: pd.DataFrame, bins: pd.DataFrame, *, model: str = "", note: str | None = None
) -> Figure:
    """A POD curve (`fit_pod`, `pod_curve`, `pod_bins`): bounds, sizes, every hit and miss, and shares by bin."""
    figure = new_figure(4.6, note)
    axis = figure.subplots()
    curves({"fitted curve": curve}, "size", "pod", band=("low", "high"), axis=axis)
    axis.collections[0].set_label("bounds, each one-sided at 95 %")
    middles = np.sqrt(bins["size_low"] * bins["size_high"])
    for agrees, colour, words in ((True, BLACK, ""), (False, VERMILLION, ": curve disagrees")):
        rows = bins[bins["agrees"] == agrees]
        if len(rows):
            errors = np.maximum([rows["recall"] - rows["low"], rows["high"] - rows["recall"]], 0)
            label = f"share found by bin{words}\n(Wilson 95 %)"
            axis.errorbar(middles[rows.index], rows["recall"], errors, fmt="o", color=colour, markersize=5, label=label)
    ticks = {"linestyle": "", "marker": "|", "markersize": 9, "alpha": 0.6, "clip_on": False}
    for sizes, y, colour, words in (
        (fit.sizes[fit.detected], 1.03, GREEN, "found"),
        (fit.sizes[~fit.detected], -0.03, VERMILLION, "missed"),
    ):
        axis.plot(sizes, np.full(len(sizes), y), color=colour, label=f"{words} (n={len(sizes)})", **ticks)
    for name, size, level, dash in (
        ("a50", fit.a50, 0.5, ":"),
        ("a90", fit.a90, 0.9, "--"),
        ("a90/95", fit.a90_95, 0.9, "-"),
    ):
        at = [size] * 2 if np.isfinite(size) else []
        label = f"{name}: {size_words(size, fit.unit)}"
        axis.plot(at, [-0.06, level][: len(at)], color=BLACK, linestyle=dash, linewidth=1.4, label=label)
    axis.set(xscale="log", xlim=(fit.sizes.min() / 1.08, fit.sizes.max() * 1.08), ylim=(-0.06, 1.06))
    axis.set(xlabel=f"{fit.measure.replace('_', ' ')} of the defect ({fit.unit}, log scale)", ylabel="defects found")
    of = f" of {shorten(model, 40)}" if model else ""
    axis.set_title(f"Probability of detection{of} (n={fit.n} defects)")
    axis.set_yticks(np.linspace(0, 1, 6))
    percents(axis.yaxis)
    plain_log(axis.xaxis)
    legend_right(axis)
    return figure


def cascade_flow(outcomes: Mapping[str, pd.DataFrame], *, note: str | None = None) -> Figure:
    """Where the defect photos and the good photos of each cascade ended: shares with their counts.

    A table a cascade, rows ``defect`` and ``good``, columns: let go by stage 1, let go by stage 2, called defect, and
    not judged.
    """
    figure = new_figure(1.9 + 0.5 * len(outcomes), note)
    panels = figure.subplots(1, 2, sharey=True)
    kinds = {
        "defect": ("Defect photos", ("lost by stage 1", "missed by stage 2", "found"), (VERMILLION, ORANGE, GREEN)),
        "good": ("Good photos", ("let go by stage 1", "let go by stage 2", "false alarm"), (GREEN, SKY, VERMILLION)),
    }
    for axis, (kind, (title, words, colours)) in zip(panels, kinds.items(), strict=True):
        rows = pd.DataFrame({name: counts.loc[kind].to_numpy() for name, counts in outcomes.items()}).T
        rows.columns = [*words, "not judged"]
        used = {name: colour for name, colour in zip(rows, (*colours, GREY), strict=True) if rows[name].any()}
        stacked_shares(rows[[*used]], colours=used, shares=True, axis=axis, xlabel="share of the photos")
        axis.set_title(title, pad=42)
        axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2)
    panels[0].set_ylabel("cascade")
    return figure


def cost_curves(
    costs: Mapping[str, pd.DataFrame],
    best: Mapping[str, float],
    without_stage_1: Mapping[str, float] | None = None,
    *,
    note: str | None = None,
) -> Figure:
    """Expected cost of a photo against the first-stage threshold, a curve a case (`helpers.analysis.costs`), its best
    threshold marked, and the cost when stage 2 judges every photo."""
    dots = {}
    for name, table in costs.items():
        row = table[table["threshold_1"] == best[name]].iloc[0]
        dots[name] = (row["threshold_1"], row["cost"])
    ends = [end for table in costs.values() for end in (table["cost"].min(), table["cost"].max())]
    wide = min(ends) > 0 and max(ends) > 10 * min(ends)  # the dearest case would flatten the others
    scale = {"yscale": "log"} if wide else {"ylim": (0, 1.05 * max(ends))}
    named = {
        "title": "What a photo costs, by the threshold of stage 1",
        "ylabel": "expected cost a photo (false alarms)",
    }
    named |= {"xlabel": "threshold of stage 1 (score above it: on to stage 2)", **scale}
    extra = {"dots": dots, "dot": "lowest on val", "levels": without_stage_1}
    extra["level"] = "stage 2 alone" if without_stage_1 else ""
    return curves(costs, "threshold_1", "cost", step=True, **extra, note=note, **named)
