"""Detectors side by side, and beside published numbers: paired differences, operating points, recall by size."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.analysis.intervals import percentile_interval, share_columns, share_interval
from helpers.analysis.metrics import check_scores, image_draws, image_metrics
from helpers.thresholds import Threshold, best_f1_threshold, zero_miss_threshold


def paired_differences(predictions: Mapping[str, pd.DataFrame], *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How much higher is one model's AUROC than another's on the same photos, and how sure is that? One row a pair.

    ``predictions``: model -> ``image_path``, ``label_index``, ``score`` of the same test photos. Each resample draws
    the same photos for all models, so that photos that are hard for all do not blur the difference. Photos are taken as
    independent. With many pairs some intervals exclude 0 by chance: at 95 %, one in twenty. ``share_above`` and
    ``share_below`` are the shares of resamples with a difference above and below 0; the rest are ties.
    """
    (first, reference), *_ = predictions.items()
    values, draws = {}, {}
    for model, table in predictions.items():
        if (
            len({frozenset(zip(each["image_path"], each["label_index"], strict=True)) for each in (table, reference)})
            > 1
        ):
            raise ValueError(
                f"{model} and {first} were tested on different photos or labels ({len(table)} and {len(reference)}); a "
                "paired difference needs the same. Load the runs with find_runs, which confines them to those."
            )
        aligned = table.set_index("image_path").loc[reference["image_path"]]
        truth, scores = check_scores(aligned["label_index"], aligned["score"])
        values[model] = image_metrics(truth, scores)["image_auroc"]
        draws[model] = image_draws(truth, scores, None, n=n, seed=seed)["image_auroc"]
    rows = []
    for a, b in itertools.combinations(values, 2):
        difference = draws[a] - draws[b]
        low, high = percentile_interval(difference)
        row = {"model_a": a, "model_b": b, "metric": "image_auroc", "value_a": values[a], "value_b": values[b]}
        row |= {"difference": values[a] - values[b], "low": low, "high": high}
        row |= {"share_above": np.nan, "share_below": np.nan}
        if not np.isnan(low):
            row |= {"share_above": (difference > 0).mean(), "share_below": (difference < 0).mean()}
        rows.append(row | {"n_normal": int((~truth).sum()), "n_abnormal": int(truth.sum()), "n_resamples": n})
    return pd.DataFrame(rows)


def operating_points(val: pd.DataFrame, test: pd.DataFrame, stored: Threshold) -> pd.DataFrame:
    """What three ways to set a threshold on val lead to on test: stored acceptance, best F1, zero misses.

    ``recall`` and ``false_alarm`` with ``_low`` and ``_high`` and the counts behind them; ``refused`` says why there is
    no such point ("": there is): the last two need defect photos in val.
    """
    val_truth, val_scores = check_scores(val["label_index"], val["score"])
    truth, scores = check_scores(test["label_index"], test["score"])
    thresholds: dict[str, Threshold | str] = {"acceptance": stored}
    thresholds["best F1"] = thresholds["zero misses"] = "val holds no defect photo to set this threshold on"
    if val_truth.any():
        thresholds["zero misses"] = zero_miss_threshold(val_scores, val_truth)
        thresholds["best F1"] = "val holds no normal photo to set this threshold on"
    if val_truth.any() and not val_truth.all():
        thresholds["best F1"] = best_f1_threshold(val_scores, val_truth)
    rows = []
    for point, threshold in thresholds.items():
        row: dict[str, Any] = {"point": point, "threshold": np.nan, "origin": "", "refused": ""}
        row |= {"n_val_normal": int((~val_truth).sum()), "n_val_abnormal": int(val_truth.sum())}
        row |= {"n_test_normal": int((~truth).sum()), "n_test_abnormal": int(truth.sum())}
        if isinstance(threshold, str):
            rows.append(row | {"refused": threshold})
            continue
        row |= {"threshold": threshold.value, "origin": threshold.origin}
        for name, count, chosen in (("recall", "found", truth), ("false_alarm", "false_alarms", ~truth)):
            flagged = threshold.exceeds(scores)[chosen]
            row |= {count: int(flagged.sum()), **share_columns(name, flagged)}
        rows.append(row)
    table = pd.DataFrame(rows).astype({"found": "Int64", "false_alarms": "Int64"})
    return table[[*table.columns.drop("refused"), "refused"]]


def threshold_counts(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """What every possible threshold leads to, rising from one below all scores: counts change at scores alone.

    For looking at, not for choosing: a threshold picked on test photos flatters its own rates.
    """
    truth, values = check_scores(labels, scores)
    values = values.astype(np.float32)  # as thresholds compare them
    distinct = np.unique(values)
    limits = np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct]
    table = pd.DataFrame({"threshold": limits.astype(float)})
    for above, below, rate, chosen in (
        ("found", "missed", "recall", truth),
        ("false_alarms", "accepted", "false_alarm", ~truth),
    ):
        table[below] = np.searchsorted(np.sort(values[chosen]), limits, side="right")
        table[above] = chosen.sum() - table[below]
        table[rate] = table[above] / chosen.sum() if chosen.any() else np.nan
    return table[["threshold", "found", "missed", "false_alarms", "accepted", "recall", "false_alarm"]]


def recall_by_size(defects: pd.DataFrame, edges: ArrayLike) -> pd.DataFrame:
    """Share of true defects (``size``, ``detected``, ``unit``) that are found, in bins between the edges."""
    groups, detected = size_groups(defects["size"], edges), defects["detected"].to_numpy(dtype=bool)
    rows = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        hits = detected[groups == number]
        rows.append((low, high, defects["unit"].iloc[0], hits.size, int(hits.sum()), *share_interval(hits)))
    return pd.DataFrame(rows, columns=["size_low", "size_high", "unit", "n", "found", "recall", "low", "high"])


def size_edges(sizes: ArrayLike, bins: int) -> np.ndarray:
    """Edges of so many bins with about equally many sizes each; fewer where sizes repeat."""
    edges = np.unique(np.quantile(np.asarray(sizes, dtype=float), np.linspace(0, 1, bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0]])


def size_groups(sizes: ArrayLike, edges: ArrayLike) -> np.ndarray:
    """(N,) number of each size's bin, from 0; a bin holds its lower edge, the last one its upper edge too."""
    return np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, len(edges) - 2)


_GLASS = (
    "Chen et al., A unified anomaly synthesis strategy with gradient ascent for industrial anomaly detection and "
    "localization (GLASS), ECCV 2024"
)
# dataset -> (how its folder may be called, number of categories, image AUROC, pixel AUROC in percent)
_OF_GLASS: dict[str, tuple[str, int, float, float]] = {
    "MVTec AD": (r"mvtec([_ -]?ad|[_ -]anomaly[_ -]detection)?", 15, 99.9, 99.3),
    "VisA": (r"visa", 12, 98.8, 98.8),
    "MPDD": (r"mpdd", 6, 99.6, 99.4),
    "WFDD": (r"wfdd", 4, 100.0, 98.9),
}


def published_results(table: pd.DataFrame) -> pd.DataFrame:
    """Published numbers of the data set that a sample table comes from, one row a model; empty where none is known.

    It is known by the table's name, its layout (VisA's own) or a folder on the way to its photos. Figures are means
    over all categories (``scope``), trained by their authors in their own way: one category may be easier or harder.
    """
    columns = ["model", "dataset", "scope", "image_auroc", "pixel_auroc", "source", "cited"]
    words = [*re.split(r"[\\/]", str(table.attrs.get("root", ""))), str(table.attrs.get("name", ""))]
    if table.attrs.get("layout") == "visa":
        words.append("visa")
    rows = [
        ("glass (published)", name, f"mean over {n} categories", image / 100, pixel / 100, _GLASS, True)
        for name, (pattern, n, image, pixel) in _OF_GLASS.items()
        if any(re.fullmatch(pattern, word, re.IGNORECASE) for word in words)
    ]
    return pd.DataFrame(rows, columns=columns)
