"""Figures of classifiers, open-set recognition and cascades: data in, a matplotlib Figure out; nothing is computed.

As in :mod:`helpers.views.figures` every function takes ``note``, printed small in the lower right corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from helpers.thresholds import Threshold, percent
from helpers.views.figures import (
    BLACK,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    clean_axis,
    legend_right,
    new_figure,
    number_text,
    shorten,
    threshold_line,
)

_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":")
BULK, FAR = 0.95, 2.0  # a histogram ends near this share of the scores where the farthest lie that many times as far


def confusion_figure(confusion: pd.DataFrame, *, title: str = "", note: str | None = None) -> Figure:
    """Shows how many photos of each class were called what: the count, and below it the share of the row.

    Args:
        confusion: as from :func:`helpers.analysis.classes.confusion_table`: rows true, columns predicted.
        title: of the figure; None given, it says the number of photos.
        note: printed in the corner.

    Raises:
        ValueError: When there is no row or no column.
    """
    if confusion.empty:
        raise ValueError("confusion is empty: there is no class to show.")
    counts = confusion.to_numpy(dtype=float)
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], out=np.zeros_like(counts), where=totals[:, None] > 0)
    n_rows, n_columns = counts.shape
    rows = [f"{shorten(name, 22)} (n={int(total)})" for name, total in zip(confusion.index, totals, strict=True)]
    columns = [shorten(name, 22) for name in confusion.columns]
    cell = float(np.clip(7.0 / n_columns, 0.5, 0.95))
    size = 9 if cell > 0.7 else 7
    left, below = 0.075 * max(map(len, rows)) + 0.5, 0.06 * max(map(len, columns)) + 0.7
    figure = new_figure(0.8 * cell * n_rows + below + 0.5, note, width=max(4.5, cell * n_columns + left + 1.1))
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(n_rows, n_columns):
        if counts[row, column]:
            text = f"{int(counts[row, column])}\n{100 * shares[row, column]:.0f} %"
            colour = "white" if shares[row, column] > 0.55 else "black"
        else:
            text, colour = "0", "#909090"
        axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.1)
    axis.set_xticks(range(n_columns), columns, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(n_rows), rows)
    axis.set_xticks(np.arange(n_columns - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(n_rows - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(title or f"Confusion of {int(totals.sum())} photos")
    bar = figure.colorbar(image, ax=axis, pad=0.015, aspect=25)
    bar.set_label("share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def reliability_figure(reliability: pd.DataFrame, ece: float, *, note: str | None = None) -> Figure:
    """Shows the accuracy against the confidence, bin by bin, and below it how many photos each bin holds.

    Args:
        reliability: as from :func:`helpers.analysis.classes.reliability_table`.
        ece: the expected calibration error, for the title.
        note: printed in the corner.
    """
    used = reliability[reliability["n"] > 0]
    figure = new_figure(5.2, note, width=7)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    widths = reliability["high"] - reliability["low"]
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.4, zorder=3, label="perfectly calibrated")
    upper.bar(
        used["low"], used["accuracy"], widths[used.index], align="edge", color=SKY, edgecolor="white", label="accuracy"
    )
    errors = [used["accuracy"] - used["accuracy_low"], used["accuracy_high"] - used["accuracy"]]
    middles = used["low"] + widths[used.index] / 2
    upper.errorbar(
        middles, used["accuracy"], np.maximum(errors, 0), fmt="none", ecolor=BLACK, capsize=3, label="95 % interval"
    )
    upper.plot(
        middles,
        used["confidence"],
        linestyle="",
        marker="D",
        markersize=5,
        color=VERMILLION,
        markeredgecolor="black",
        label="mean confidence",
    )
    upper.set(ylim=(0, 1.02), ylabel="share of right predictions")
    n = int(reliability["n"].sum())
    upper.set_title(f"Calibration: expected error {number_text(ece)} (n={n}, {len(reliability)} bins)")
    lower.bar(reliability["low"], reliability["n"], widths, align="edge", color=GREY, edgecolor="white")
    highest = max(1, int(reliability["n"].max()))
    for middle, count in zip(middles, used["n"], strict=True):
        lower.annotate(
            f"{int(count)}", (middle, count), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8
        )
    lower.set(xlim=(0, 1), ylim=(0, 1.3 * highest), xlabel="confidence", ylabel="photos")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (upper, lower):
        clean_axis(axis)
    legend_right(figure, upper, None)
    return figure


def unknown_histogram(
    scores: ArrayLike,
    groups: Iterable[str],
    known: Iterable[str],
    tau: float | Threshold | None = None,
    *,
    label: str = "Mahalanobis distance to the nearest known class",
    note: str | None = None,
) -> Figure:
    """Shows how the scores of known photos and of each unknown class spread about tau.

    Where a few scores lie so far out that they would press all others together, the last bar holds what lies beyond.

    Args:
        scores: (N,) larger is more unknown.
        groups: (N,) classes of the photos.
        known: names of the known classes; their photos are drawn together.
        tau: highest score that is accepted, drawn as a line.
        label: what the score is, with its unit if it has one.
        note: printed in the corner.

    Raises:
        ValueError: When the two differ in length or are empty.
    """
    values = np.asarray(scores, dtype=float)
    names = np.asarray([str(name) for name in groups], dtype=object)
    if values.shape != names.shape or not values.size:
        raise ValueError(f"scores {values.shape} and groups {names.shape} must be two (N,) arrays with N > 0.")
    known_names = {str(name) for name in known}
    is_known = np.array([name in known_names for name in names])
    marks = values if tau is None else np.r_[values, float(tau)]
    low, high = float(marks.min()), float(marks.max())
    bulk = max(float(np.quantile(values, BULK)), -np.inf if tau is None else float(tau))
    beyond = high - low > FAR * (bulk - low) > 0
    if beyond:
        high = low + 1.25 * (bulk - low)
        values = np.minimum(values, high)
    bins = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
    figure = new_figure(4.2, note)
    axis = figure.subplots()
    if is_known.any():
        axis.hist(values[is_known], bins, color=GREY, label=f"known classes (n={is_known.sum()})")
    for number, name in enumerate(sorted(set(names[~is_known]))):
        chosen = values[(names == name) & ~is_known]
        axis.hist(
            chosen,
            bins,
            histtype="step",
            linewidth=1.8,
            color=CYCLE[number % len(CYCLE)],
            linestyle=_DASHES[number // len(CYCLE) % len(_DASHES)],
            label=f"unknown: {shorten(name, 20)} (n={chosen.size})",
        )
    if tau is not None:
        threshold_line(axis, float(tau))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    more = "; last bar: all beyond" if beyond else ""
    axis.set(xlabel=f"{label} (larger: more unknown{more})", ylabel="photos")
    axis.set_title(f"Known and unknown photos (n={values.size})", pad=22 if tau is not None else 6)
    clean_axis(axis)
    legend_right(figure, axis, None)
    return figure


def embedding_figure(
    points: ArrayLike,
    groups: Iterable[str],
    known: Iterable[str],
    shares: ArrayLike,
    *,
    note: str | None = None,
) -> Figure:
    """Shows photos in the plane of the embeddings: known classes as filled dots, unknown ones as crosses.

    Args:
        points: (N, 2), as from :func:`sklearn.decomposition.PCA`.
        groups: (N,) classes of the photos.
        known: names of the known classes.
        shares: (2,) of the training photos' variance in the two directions.
        note: printed in the corner.

    Raises:
        ValueError: When the two differ in length or are empty.
    """
    place = np.asarray(points, dtype=float)
    names = np.asarray([str(name) for name in groups], dtype=object)
    if place.shape != (names.size, 2) or not names.size:
        raise ValueError(f"points {place.shape} must be (N, 2) with N = {names.size} groups, and N > 0.")
    known_names = [str(name) for name in known]
    present = [name for name in known_names if (names == name).any()]
    strange = sorted(set(names) - set(known_names))
    figure = new_figure(5.4, note, width=9)
    axis = figure.subplots()
    size = float(np.clip(6000 / names.size, 9, 30))
    colours = {name: CYCLE[number % len(CYCLE)] for number, name in enumerate([*present, *strange])}
    for name in [*present, *strange]:
        chosen = place[names == name]
        is_known = name in present
        style: dict[str, Any] = {"color": colours[name], "s": size, "alpha": 0.75}
        style |= {"marker": "o", "linewidths": 0} if is_known else {"marker": "x", "linewidths": 1.2}
        word = "" if is_known else "unknown: "
        axis.scatter(*chosen.T, label=f"{word}{shorten(name, 20)} (n={len(chosen)})", **style)
    first, second = np.asarray(shares, dtype=float)
    axis.set_xlabel(f"first main direction ({percent(float(first))} of train's variance)")
    axis.set_ylabel(f"second main direction ({percent(float(second))})")
    axis.set_title(f"Embeddings in two dimensions (n={names.size})")
    axis.set_aspect("equal", adjustable="datalim")
    clean_axis(axis)
    legend_right(figure, axis, None)
    return figure


def oscr_figure(curves_by_method: Mapping[str, Mapping[str, np.ndarray]], *, note: str | None = None) -> Figure:
    """Shows what each method names rightly of the known photos against what it lets pass of the unknown ones.

    Args:
        curves_by_method: name -> ``curves`` of :class:`helpers.analysis.classes.OpenSetReport`.
        note: printed in the corner.
    """
    figure = new_figure(4.6, note, width=9)
    axis = figure.subplots()
    counts = ""
    for number, (name, curves) in enumerate(curves_by_method.items()):
        axis.plot(
            curves["fpr"],
            curves["ccr"],
            color=CYCLE[number % len(CYCLE)],
            linestyle=_DASHES[number // len(CYCLE) % len(_DASHES)],
            linewidth=1.8,
            clip_on=False,
            label=f"{shorten(name, 26)}: {number_text(curves['oscr'])}",
        )
        counts = f" (n={int(curves['n_known'])} known + {int(curves['n_unknown'])} unknown photos)"
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_xlabel("unknown photos accepted")
    axis.set_ylabel("known photos accepted\nand named rightly")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1.0))
    axis.set_title(f"Open-set classification rate{counts}")
    axis.grid(color="#E5E5E5")
    clean_axis(axis)
    legend_right(figure, axis, "area under the curve")
    return figure


def detection_bars(by_class: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows the share of right verdicts of each class: named rightly if it is known, called unknown if it is not.

    Args:
        by_class: of :class:`helpers.analysis.classes.OpenSetReport`.
        note: printed in the corner.
    """
    figure = new_figure(1.6 + 0.42 * max(1, len(by_class)), note, width=9)
    axis = figure.subplots()
    places = np.arange(len(by_class))
    values = by_class["right"].to_numpy(dtype=float)
    colours = [SKY if known else ORANGE for known in by_class["known"]]
    axis.barh(places, np.nan_to_num(values), color=colours, height=0.65)
    low, high = by_class["right_low"].to_numpy(dtype=float), by_class["right_high"].to_numpy(dtype=float)
    seen = np.isfinite(values)
    errors = np.maximum([(values - low)[seen], (high - values)[seen]], 0)
    axis.errorbar(values[seen], places[seen], xerr=errors, fmt="none", ecolor=BLACK, capsize=4, clip_on=False)
    for place, value, a, b in zip(places, values, low, high, strict=True):
        text = f"{value:.2f}  [{a:.2f}, {b:.2f}]" if np.isfinite(value) else "no photo"
        axis.text(1.03, place, text, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    names = [f"{shorten(name, 24)} (n={count})" for name, count in zip(by_class["class"], by_class["n"], strict=True)]
    axis.set_yticks(places, names)
    axis.set_ylim(len(by_class) - 0.4, -0.6)
    axis.set(xlim=(0, 1), xlabel="right verdicts", ylabel="class")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_title("Right verdicts by class")
    clean_axis(axis)
    handles = [
        Patch(color=SKY, label="known: accepted and\nnamed rightly"),
        Patch(color=ORANGE, label="unknown: called so"),
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def cascade_flow(outcomes: Mapping[str, pd.DataFrame], *, note: str | None = None) -> Figure:
    """Shows where the defect photos and the good photos of each cascade ended, as stacked shares with their counts.

    Args:
        outcomes: cascade -> counts, rows ``defect`` and ``good``, as from :func:`helpers.studies.cascades.outcomes`.
        note: printed in the corner.

    Raises:
        ValueError: When there is no cascade.
    """
    if not outcomes:
        raise ValueError("outcomes is empty: there is no cascade to show.")
    figure = new_figure(1.9 + 0.5 * len(outcomes), note)
    panels = figure.subplots(1, 2, sharey=True)
    columns = list(next(iter(outcomes.values())).columns)
    colours = {
        "defect": dict(zip(columns, (VERMILLION, ORANGE, GREEN, GREY), strict=True)),
        "good": dict(zip(columns, (GREEN, SKY, VERMILLION, GREY), strict=True)),
    }
    words = {
        "defect": ("lost by stage 1", "missed by stage 2", "found", "not judged"),
        "good": ("let go by stage 1", "let go by stage 2", "false alarm", "not judged"),
    }
    for axis, kind, title in zip(panels, ("defect", "good"), ("Defect photos", "Good photos"), strict=True):
        for place, counts in enumerate(outcomes.values()):
            row = counts.loc[kind]
            left, total = 0.0, max(1, int(row.sum()))
            for name in columns:
                share = row[name] / total
                axis.barh(place, share, left=left, color=colours[kind][name], edgecolor="white", height=0.62)
                if share >= 0.05:
                    dark = colours[kind][name] in (VERMILLION, GREEN)
                    text = {"ha": "center", "va": "center", "fontsize": 9, "color": "white" if dark else "black"}
                    axis.text(left + share / 2, place, f"{int(row[name])}", **text)
                left += share
            axis.text(1.02, place, f"n={int(row.sum())}", va="center", fontsize=9)
        used = [name for name in columns if any(counts.loc[kind, name] for counts in outcomes.values())]
        handles = [Patch(color=colours[kind][name], label=words[kind][columns.index(name)]) for name in used]
        axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=9)
        axis.set_title(title, pad=42)
        axis.set(xlim=(0, 1), xlabel="share of the photos")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        clean_axis(axis)
    panels[0].set_yticks(range(len(outcomes)), [shorten(name, 22) for name in outcomes])
    panels[0].set_ylim(len(outcomes) - 0.5, -0.5)
    panels[0].set_ylabel("cascade")
    return figure


def stage_rates_figure(rates: pd.DataFrame, *, unit: str = "photos", note: str | None = None) -> Figure:
    """Shows recall and false alarms of each stage alone and of both together, with intervals and counts.

    Args:
        rates: as from :func:`helpers.analysis.costs.cascade_rates`, with a column ``cascade``.
        unit: what is counted.
        note: printed in the corner.

    Raises:
        ValueError: When there is no row.
    """
    if rates.empty:
        raise ValueError("rates is empty: there is nothing to show.")
    figure = new_figure(1.6 + 0.48 * len(rates), note)
    panels = figure.subplots(1, 2, sharey=True)
    first, total = rates["cascade"] != rates["cascade"].shift(), ("n_defect", "n_normal")
    places = np.arange(len(rates)) + 0.35 * (first.cumsum().to_numpy() - 1)  # a gap between cascades
    for axis, rate, count, n, title in zip(
        panels,
        ("recall", "false_alarm_rate"),
        ("found", "false_alarms"),
        total,
        (f"Defect {unit} found", f"Good {unit} called defect"),
        strict=True,
    ):
        for place, row in zip(places, rates.to_dict("records"), strict=True):
            colour = CYCLE[("stage 1", "stage 2", "both").index(_stage_word(row["decided_by"]))]
            if not np.isfinite(row[rate]):
                axis.text(0.02, place, "none to count", va="center", fontsize=9, color="#606060")
                continue
            axis.plot([row[f"{rate}_low"], row[f"{rate}_high"]], [place, place], color=colour, linewidth=3)
            axis.plot([row[rate]], [place], "o", color=colour, markeredgecolor="black", markersize=8, clip_on=False)
            axis.text(
                1.03, place, f"{row[count]} of {row[n]}", va="center", fontsize=9, transform=axis.get_yaxis_transform()
            )
        axis.set(xlim=(0, 1), xlabel=f"share of the {unit} (Wilson 95 %)", title=title)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(axis="x", color="#E5E5E5")
        clean_axis(axis)
    names = [f"{shorten(row.cascade, 16)}: {row.decided_by}" for row in rates.itertuples()]
    panels[0].set_yticks(places, names)
    panels[0].set_ylim(places[-1] + 0.6, -0.6)
    panels[0].set_ylabel("decided by")
    return figure


def _stage_word(decided_by: str) -> str:
    return next((word for word in ("stage 1", "stage 2") if decided_by.startswith(word)), "both")


def cost_curves(
    costs: Mapping[str, pd.DataFrame],
    best: Mapping[str, float] | None = None,
    without_stage_1: Mapping[str, float] | None = None,
    *,
    unit: str = "false alarms",
    note: str | None = None,
) -> Figure:
    """Shows the expected cost of a photo against the first-stage threshold, one curve a case.

    Args:
        costs: case (say "1 % defects") -> table of :func:`helpers.analysis.costs.expected_costs`, thresholds
            finite and rising.
        best: case -> best threshold, marked by a dot.
        without_stage_1: case -> cost when stage 2 sees every photo, a dotted line.
        unit: what the prices are in.
        note: printed in the corner.
    """
    figure = new_figure(4.4, note)
    axis = figure.subplots()
    for number, (name, table) in enumerate(costs.items()):
        colour = CYCLE[number % len(CYCLE)]
        dash = _DASHES[number // len(CYCLE) % len(_DASHES)]
        axis.plot(
            table["threshold_1"],
            table["cost"],
            drawstyle="steps-post",  # between two scores nothing changes
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            label=shorten(name, 30),
        )
        if best is not None:
            row = table[table["threshold_1"] == best[name]]
            axis.plot(row["threshold_1"], row["cost"], "o", color=colour, markeredgecolor="black", markersize=9)
        if without_stage_1 is not None:
            axis.axhline(without_stage_1[name], color=colour, linestyle=":", linewidth=1.2)
    ends = [end for table in costs.values() for end in (table["cost"].min(), table["cost"].max())]
    if min(ends) > 0 and max(ends) > 10 * min(ends):
        axis.set_yscale("log")  # or the dearest case would flatten the others
        axis.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
        axis.yaxis.set_minor_formatter(LogFormatter())
    else:
        axis.set_ylim(bottom=0)
    axis.set(xlabel="threshold of stage 1 (score above it: on to stage 2)", ylabel=f"expected cost a photo ({unit})")
    axis.set_title("What a photo costs, by the threshold of stage 1")
    axis.grid(axis="y", color="#E5E5E5")
    clean_axis(axis)
    handles, labels = axis.get_legend_handles_labels()
    if best is not None:
        handles.append(Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor="black", markersize=8))
        labels.append("lowest on val")
    if without_stage_1 is not None:
        handles.append(Line2D([], [], linestyle=":", color="#606060", linewidth=1.2))
        labels.append("stage 2 alone")
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def best_threshold_figure(table: pd.DataFrame, *, note: str | None = None) -> Figure:
    """Shows how the best first threshold, and the photos that stage 2 then sees, move with the share of defects.

    Args:
        table: as from :func:`helpers.analysis.costs.best_threshold_table`; a curve a price ratio.
        note: printed in the corner.
    """
    figure = new_figure(4.0, note)
    axes = figure.subplots(1, 2)
    for number, (ratio, rows) in enumerate(table.groupby("price_ratio")):
        rows = rows.sort_values("prevalence")
        style: dict[str, Any] = {
            "color": CYCLE[number % len(CYCLE)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _DASHES[number // len(CYCLE) % len(_DASHES)],
        }
        for axis, column in zip(axes, ("threshold_1", "passed"), strict=True):
            axis.plot(rows["prevalence"], rows[column], label=f"{ratio:g} : 1", clip_on=False, **style)
    for axis in axes:
        if (table["prevalence"] > 0).all():
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axis.set_xlabel("share of defects on the line")
        axis.grid(color="#E5E5E5")
        clean_axis(axis)
    axes[0].set(ylabel="best threshold of stage 1", title="Where stage 1 should stop photos")
    axes[1].set(ylabel="photos on to stage 2", title="What stage 2 then sees", ylim=(0, 1.02))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    legend_right(figure, axes[0], "miss : false alarm")
    return figure


def throughput_figure(tables: Mapping[str, pd.DataFrame], *, measured: str = "", note: str | None = None) -> Figure:
    """Shows photos per second against the share of defects in the stream.

    Args:
        tables: name of a cascade -> table of :func:`helpers.compute.throughput_against_defects`; its stages
            alone are drawn when it is the only one.
        measured: what the times were measured on, for the title (say "CPU, batch 1").
        note: printed in the corner.
    """
    figure = new_figure(4.2, note)
    axis = figure.subplots()
    for number, (name, table) in enumerate(tables.items()):
        axis.plot(
            table["defect_share"],
            table["cascade"],
            color=CYCLE[number % len(CYCLE)],
            linewidth=2,
            label=shorten(name, 30),
        )
    if len(tables) == 1:
        table = next(iter(tables.values()))
        for column, dash in (("stage_1", "--"), ("stage_2", ":")):
            label = f"{column.replace('_', ' ')} alone"
            axis.plot(table["defect_share"], table[column], color="#606060", linestyle=dash, label=label)
    axis.set(xlim=(0, 1), xlabel="share of defects in the stream", ylabel="photos per second")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_title("Throughput by the share of defects" + (f" ({measured})" if measured else ""))
    axis.grid(color="#E5E5E5")
    clean_axis(axis)
    legend_right(figure, axis, None)
    return figure


def stage_time_bars(times: pd.DataFrame, *, measured: str = "", note: str | None = None) -> Figure:
    """Shows mean time per photo of every stage and batch size, with median and 95th percentile.

    Args:
        times: as from :func:`helpers.compute.time_stages`.
        measured: what the times were measured on, for the title.
        note: printed in the corner.
    """
    figure = new_figure(1.5 + 0.42 * max(1, len(times)), note, width=9)
    axis = figure.subplots()
    places = np.arange(len(times))
    sizes = sorted(times["batch_size"].unique())
    colours = {size: (SKY, ORANGE, GREY)[number % 3] for number, size in enumerate(sizes)}
    axis.barh(places, times["mean_ms"], color=[colours[size] for size in times["batch_size"]], height=0.65)
    axis.plot(times["median_ms"], places, "|", color=BLACK, markersize=14, markeredgewidth=2)
    axis.plot(times["p95_ms"], places, ">", color=VERMILLION, markeredgecolor="black", markersize=7)
    for place, mean, calls in zip(places, times["mean_ms"], times["n_calls"], strict=True):
        text = f"{mean:.3g} ms ({calls} call{'' if calls == 1 else 's'})"
        axis.text(1.02, place, text, va="center", fontsize=9, transform=axis.get_yaxis_transform())
    names = [
        f"{shorten(name, 24)}, batch {size}" for name, size in zip(times["stage"], times["batch_size"], strict=True)
    ]
    axis.set_yticks(places, names)
    axis.set_ylim(len(times) - 0.4, -0.6)
    axis.set_xlim(0, 1.05 * float(times[["mean_ms", "p95_ms"]].max().max()) or 1.0)
    axis.set(xlabel="milliseconds per photo", ylabel="stage")
    axis.set_title("Time per photo by stage" + (f" ({measured})" if measured else ""))
    clean_axis(axis)
    handles = [
        *(Patch(color=colour, label=f"mean, batch {size}") for size, colour in colours.items()),
        Line2D([], [], color=BLACK, marker="|", linestyle="", markersize=12, markeredgewidth=2, label="median"),
        Line2D([], [], color=VERMILLION, marker=">", markeredgecolor="black", linestyle="", label="95th percentile"),
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure
