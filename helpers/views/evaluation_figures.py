"""Figures that notebook 06 compares detectors with: sizes found, speed, differences, operating points.

As everywhere in :mod:`helpers.views`: data in, a matplotlib Figure out; nothing is loaded, computed or shown. Every
function takes ``note``, printed small in the lower right corner.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from helpers.analysis.detection_probability import PodFit, size_words
from helpers.thresholds import Threshold
from helpers.views.figures import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    clean_axis,
    legend_right,
    new_figure,
    shorten,
    threshold_line,
)

_GRID = "#E5E5E5"
_MARKERS = "osD^vPX"


def pod_figure(
    fit: PodFit, curve: pd.DataFrame, bins: pd.DataFrame, *, model: str = "", note: str | None = None
) -> Figure:
    """Shows a POD curve with its bounds, the sizes a50, a90 and a90/95, every hit and miss, and plain shares found.

    Args:
        fit: from `helpers.analysis.detection_probability.fit_pod`.
        curve: from `pod_curve`: ``size``, ``pod``, ``low``, ``high``.
        bins: from `pod_bins`: ``size_low``, ``size_high``, ``recall``, ``low``, ``high``; a bin the curve does not
            agree with is drawn red.
        model: named in the title.
        note: Printed in the corner.
    """
    figure = new_figure(4.6, note)
    axis = figure.subplots()
    band = "bounds, each one-sided at 95 %"
    axis.fill_between(curve["size"], curve["low"], curve["high"], color=BLUE, alpha=0.18, linewidth=0, label=band)
    axis.plot(curve["size"], curve["pod"], color=BLUE, linewidth=2, label="fitted curve")
    _pod_bins(figure, bins)
    ticks = {"linestyle": "", "marker": "|", "markersize": 9, "alpha": 0.6, "clip_on": False}
    hits, misses = fit.sizes[fit.detected], fit.sizes[~fit.detected]
    axis.plot(hits, np.full(len(hits), 1.03), color=GREEN, label=f"found (n={len(hits)})", **ticks)
    axis.plot(misses, np.full(len(misses), -0.03), color=VERMILLION, label=f"missed (n={len(misses)})", **ticks)
    left, right = fit.sizes.min() / 1.08, fit.sizes.max() * 1.08
    axis.hlines([0.5, 0.9], left, right, color=_GRID, linewidth=1, zorder=0)
    for name, size, level, style in (
        ("a50", fit.a50, 0.5, ":"),
        ("a90", fit.a90, 0.9, "--"),
        ("a90/95", fit.a90_95, 0.9, "-"),
    ):
        label = f"{name}: {size_words(size, fit.unit)}"
        if np.isfinite(size):
            axis.vlines(size, -0.06, level, color=BLACK, linestyle=style, linewidth=1.4, label=label)
        else:
            axis.plot([], [], color=BLACK, linestyle=style, linewidth=1.4, label=label)
    axis.set_xscale("log")
    axis.set(xlim=(left, right), ylim=(-0.06, 1.06))
    _log_ticks(axis.xaxis)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel=f"{fit.measure.replace('_', ' ')} of the defect ({fit.unit}, log scale)", ylabel="defects found")
    of = f" of {shorten(model, 40)}" if model else ""
    axis.set_title(f"Probability of detection{of} (n={fit.n} defects)")
    clean_axis(axis)
    legend_right(figure, axis, None)
    return figure


def _pod_bins(figure: Figure, bins: pd.DataFrame) -> None:
    axis = figure.axes[0]
    middles = np.sqrt(bins["size_low"] * bins["size_high"])
    for agrees, colour, words in ((True, BLACK, ""), (False, VERMILLION, ": curve disagrees")):
        rows = bins[bins["agrees"] == agrees]
        if rows.empty:
            continue
        errors = np.maximum([rows["recall"] - rows["low"], rows["high"] - rows["recall"]], 0)
        axis.errorbar(
            middles[rows.index],
            rows["recall"],
            yerr=errors,
            fmt="o",
            color=colour,
            markersize=5,
            capsize=3,
            linewidth=1.1,
            label=f"share found by bin{words}\n(Wilson 95 %)",
        )


def recall_by_size_bars(tables: Mapping[str, pd.DataFrame], *, note: str | None = None) -> Figure:
    """Shows the share of true defects that each model finds, by size, with intervals and counts.

    Args:
        tables: model -> as from `helpers.analysis.comparison.recall_by_size`, with the same bins for all.
        note: Printed in the corner.

    Raises:
        ValueError: for no model, or bins that differ.
    """
    if not tables:
        raise ValueError("tables is empty: there is no model to show.")
    first = next(iter(tables.values()))
    edges = ["size_low", "size_high", "n"]
    if any(not table[edges].equals(first[edges]) for table in tables.values()):
        raise ValueError("the models' tables have different bins or counts; make all with the same edges and photos.")
    figure = new_figure(4.4, note)
    axis = figure.subplots()
    width = 0.8 / len(tables)
    places = np.arange(len(first))
    for number, (model, table) in enumerate(tables.items()):
        x = places + (number - (len(tables) - 1) / 2) * width
        recall = table["recall"].to_numpy(dtype=float)
        hatch = ("", "//", "..")[number // len(CYCLE) % 3]
        style = {"color": CYCLE[number % len(CYCLE)], "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        axis.bar(x, np.nan_to_num(recall), width * 0.92, label=shorten(model, 30), **style)
        known = np.isfinite(recall)
        errors = np.maximum([(recall - table["low"])[known], (table["high"] - recall)[known]], 0)
        axis.errorbar(x[known], recall[known], yerr=errors, fmt="none", ecolor="#404040", capsize=2, linewidth=1)
    names = [
        f"{row.size_low:.3g} "
        + (f"to {row.size_high:.3g}" if np.isfinite(row.size_high) else "and more")
        + f"\nn={row.n}"
        for row in first.itertuples()
    ]
    axis.set_xticks(places, names)
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    total = int(first["n"].sum())
    axis.set(xlabel=f"size of the defect ({first['unit'].iloc[0]})", ylabel="defects found")
    axis.set_title(f"Defects found by size (n={total}, with 95 % intervals)")
    clean_axis(axis)
    legend_right(figure, axis, "model")
    return figure


def quality_against_time(leaderboard: pd.DataFrame, metric: str = "image_auroc", *, note: str | None = None) -> Figure:
    """Shows what a model's quality costs: time per photo on the left, training on the right, the size of its weights.

    Args:
        leaderboard: as from `helpers.studies.evaluation.overall_leaderboard`, one bubble a row: ``model``,
            ``ms_per_image``, ``fit_seconds``, ``model_mb``, the metric and, where there are several, ``dataset``. Rows
            without a value or a time are left out; those without a size get the smallest bubble.
        metric: column on the vertical axis.
        note: Printed in the corner.

    Raises:
        ValueError: for a missing column, or where no row has a value and a time per photo.
    """
    missing = [name for name in ("model", "ms_per_image", "fit_seconds", "model_mb", metric) if name not in leaderboard]
    if missing:
        raise ValueError(f"leaderboard has no column {', '.join(missing)}.")
    table = leaderboard.dropna(subset=["ms_per_image", metric])
    if table.empty:
        raise ValueError(f"no row of the leaderboard has both ms_per_image and {metric}.")
    table = table.assign(dataset=table.get("dataset", ""))
    models, datasets = (list(dict.fromkeys(table[name])) for name in ("model", "dataset"))
    table = table.sort_values("model_mb", ascending=False)  # small bubbles over large ones
    figure = new_figure(4.6, note)
    panels = figure.subplots(1, 2, sharey=True)
    words = metric.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")
    for axis, column, name in zip(
        panels,
        ("ms_per_image", "fit_seconds"),
        ("time per photo (ms, log scale)", "training time (s, log scale)"),
        strict=True,
    ):
        rows = table.dropna(subset=[column])
        for row in rows.to_dict("records"):
            axis.scatter(
                row[column],
                row[metric],
                s=_bubble_area(row["model_mb"], table["model_mb"].max()),
                color=CYCLE[models.index(row["model"]) % len(CYCLE)],
                marker=_MARKERS[datasets.index(row["dataset"]) % len(_MARKERS)],
                alpha=0.7,
                edgecolor=BLACK,
                linewidth=0.6,
            )
        axis.set_xscale("log")
        axis.margins(x=0.2, y=0.18)
        _log_ticks(axis.xaxis)
        axis.set(xlabel=name, ylabel=words, title=f"{name.split(' (')[0].capitalize()} (n={len(rows)} runs)")
        axis.grid(color=_GRID)
        axis.set_axisbelow(True)
        clean_axis(axis)
    panels[1].set_ylabel("")
    _bubble_legend(figure, table, models, datasets)
    return figure


def _bubble_area(megabytes: float, largest: float) -> float:
    return 30.0 + (0.0 if np.isnan(megabytes) or not largest > 0 else 500 * megabytes / largest)


def _bubble_legend(figure: Figure, table: pd.DataFrame, models: list[str], datasets: list[str]) -> None:
    """Colours are models, shapes are data sets (where there are several), areas are megabytes."""
    dot = {"linestyle": "", "marker": "o", "markeredgecolor": BLACK, "markeredgewidth": 0.6}
    handles = [
        Line2D([], [], color=CYCLE[number % len(CYCLE)], label=shorten(model, 30), markersize=8, **dot)
        for number, model in enumerate(models)
    ]
    if len(datasets) > 1:
        handles += [
            Line2D(
                [], [], **dot | {"marker": _MARKERS[number % len(_MARKERS)]}, color="white", label=shorten(dataset, 30)
            )
            for number, dataset in enumerate(datasets)
        ]
    largest = table["model_mb"].max()
    sizes = sorted({float(f"{value:.2g}") for value in (table["model_mb"].min(), largest) if not np.isnan(value)})
    handles += [
        Line2D([], [], **dot, color=GREY, markersize=np.sqrt(_bubble_area(size, largest)), label=f"{size:g} MB")
        for size in sizes
    ]
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=9, labelspacing=1.1, handletextpad=1.3
    )


def difference_intervals(differences: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how much better one model is than another on the same photos, pair by pair, with intervals.

    Args:
        differences: as from `helpers.analysis.comparison.paired_differences`, one metric. A pair is shown the way round
            that makes its difference positive; where the interval excludes 0 the mark is filled.
        note: Printed in the corner.

    Raises:
        ValueError: for no row, or more than one metric.
    """
    if differences.empty or differences["metric"].nunique() != 1:
        raise ValueError("differences must hold one metric and one pair at least.")
    figure = new_figure(1.6 + 0.42 * len(differences), note)
    axis = figure.subplots()
    names, texts = [], []
    for place, row in enumerate(differences.itertuples()):
        sign = -1 if row.difference < 0 else 1
        better, other = (row.model_a, row.model_b)[::sign]
        names.append(f"{shorten(better, 26)} − {shorten(other, 26)}")
        low, high = sorted((sign * row.low, sign * row.high))
        value = sign * row.difference
        if not np.isfinite([value, low, high]).all():
            texts.append("no value")
            continue
        apart = low > 0 or high < 0
        axis.plot([low, high], [place, place], color=BLUE, linewidth=2, solid_capstyle="butt")
        fill = BLUE if apart else "white"
        axis.plot([value], [place], "o", color=BLUE, markerfacecolor=fill, markersize=8, markeredgewidth=1.6)
        texts.append(f"{value:+.3f}  [{low:+.3f}, {high:+.3f}]")
    axis.axvline(0, color=BLACK, linewidth=1.2)
    for place, words in enumerate(texts):
        axis.text(1.03, place, words, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.grid(axis="x", color=_GRID)
    first = differences.iloc[0]
    metric = str(first["metric"]).replace("_", " ").replace("auroc", "AUROC")
    axis.set(xlabel=f"difference in {metric} (filled: the interval excludes 0)", ylabel="pair")
    n = f"n={first['n_normal']} normal + {first['n_abnormal']} abnormal photos"
    axis.set_title(f"Paired differences, the same {n}")
    clean_axis(axis)
    return figure


def operating_points_figure(points: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows recall and false-alarm rate on test of each way to set the threshold, with intervals and counts.

    Args:
        points: as from `helpers.analysis.comparison.operating_points`.
        note: Printed in the corner.

    Raises:
        ValueError: where there is no row.
    """
    if points.empty:
        raise ValueError("points is empty: there is nothing to show.")
    figure = new_figure(1.7 + 0.55 * len(points), note)
    panels = figure.subplots(1, 2, sharey=True)
    columns = (
        ("recall", "found", "n_test_abnormal", "abnormal photos found", GREEN),
        ("false_alarm", "false_alarms", "n_test_normal", "normal photos with a false alarm", ORANGE),
    )
    for axis, (rate, count, total, title, colour) in zip(panels, columns, strict=True):
        for place, row in enumerate(points.to_dict("records")):
            if np.isnan(row[rate]):
                words = "no such point" if row["refused"] else "no photos"
                axis.text(0.02, place, words, va="center", fontsize=9, color="#606060")
                continue
            axis.plot([row[f"{rate}_low"], row[f"{rate}_high"]], [place, place], color=colour, linewidth=3)
            axis.plot([row[rate]], [place], "o", color=colour, markeredgecolor=BLACK, markersize=9, clip_on=False)
            # above the mark, and towards the middle, so that it stays inside at both ends
            side = "left" if row[rate] < 0.5 else "right"
            words = f"{row[count]} of {row[total]}"
            axis.annotate(words, (row[rate], place), (0, 8), textcoords="offset points", ha=side, fontsize=9)
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set(xlabel="share of test photos (Wilson 95 %)", title=title[0].upper() + title[1:])
        axis.grid(axis="x", color=_GRID)
        clean_axis(axis)
    names = [
        f"{row.point}\n" + ("refused" if row.refused else f"threshold {row.threshold:.4g}")
        for row in points.itertuples()
    ]
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.7)
    panels[0].set_ylabel("threshold set on val by")
    return figure


def threshold_figure(counts: pd.DataFrame, threshold: float | Threshold, *, note: str | None = None) -> Figure:
    """Shows what every threshold would lead to on these photos: what the threshold explorer's slider shows, at once.

    Args:
        counts: as from `helpers.analysis.comparison.threshold_counts`.
        threshold: the stored one, drawn as a line with its counts.
        note: Printed in the corner.
    """
    value = float(threshold)
    figure = new_figure(4.3, note)
    axis = figure.subplots()
    n_abnormal, n_normal = (
        int(counts[list(pair)].iloc[0].sum()) for pair in (("found", "missed"), ("false_alarms", "accepted"))
    )
    # The first row stands for all thresholds below the lowest score.
    x = counts["threshold"].to_numpy(dtype=float)
    span = max(x[-1], value) - min(x[0], value) or 1.0
    ends = (min(x[0], value) - 0.03 * span, max(x[-1], value) + 0.03 * span)
    at = np.searchsorted(x.astype(np.float32), np.float32(value), side="right")  # as scores are compared
    now = counts.iloc[max(0, at - 1)]
    for column, of, n, colour, style in (
        ("missed", "abnormal", n_abnormal, VERMILLION, "-"),
        ("false_alarms", "normal", n_normal, SKY, "--"),
    ):
        y = counts[column].to_numpy()
        name = column.replace("_", " ")
        label = f"{name}: {int(now[column])} of {n} {of}"
        line = {"where": "post", "color": colour, "linestyle": style, "linewidth": 2, "label": label}
        axis.step(np.r_[ends[0], x, ends[1]], np.r_[y[0], y, y[-1]], **line)
        axis.plot([value], [now[column]], "o", color=colour, markeredgecolor=BLACK, markersize=8, clip_on=False)
    threshold_line(axis, value)
    axis.set_xlim(ends)
    axis.set_ylim(0, 1.04 * max(n_abnormal, n_normal))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="threshold on the image score (raw)", ylabel="photos")
    axis.set_title(f"What another threshold would change (n={n_abnormal + n_normal} photos)", pad=22)
    clean_axis(axis)
    legend_right(figure, axis, "at the line")
    return figure


def _log_ticks(axis: Axis) -> None:
    """Plain numbers, several of them also where the range holds no power of ten."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
