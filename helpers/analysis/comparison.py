"""Ways to decide and detectors side by side: rates, paired differences, operating points, recall by size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.analysis.intervals import percentile_interval, share_columns
from helpers.analysis.metrics import check_scores, image_draws, image_metrics
from helpers.thresholds import Threshold, best_f1_threshold, zero_miss_threshold


def decision_rates(called: Mapping[str, ArrayLike], defect: ArrayLike) -> pd.DataFrame:
    """Recall and false alarms, with Wilson's intervals, of several ways to decide on the same photos: ``called``, name
    -> (N,) bool, and whether each is a ``defect`` (N,). NaN where a class is missing.
    """
    defect, rows = np.asarray(defect, dtype=bool), []
    for name, flags in called.items():
        flagged = np.asarray(flags, dtype=bool)
        row: dict[str, Any] = {"decided_by": name, "n_normal": int((~defect).sum()), "n_abnormal": int(defect.sum())}
        row |= {"found": int(flagged[defect].sum()), "false_alarms": int(flagged[~defect].sum())}
        rows.append(row | share_columns("recall", flagged[defect]) | share_columns("false_alarm", flagged[~defect]))
    return pd.DataFrame(rows)


def paired_differences(predictions: Mapping[str, pd.DataFrame], *, n: int = 2000, seed: int = 0) -> pd.DataFrame:
    """How much higher is one model's AUROC than another's on the same photos, and how sure is that? One row a pair.

    ``predictions``: model -> ``image_path``, ``label_index``, ``score`` of the same test photos. Each resample draws
    the same photos for all models, so that photos that are hard for all do not blur the difference. Photos are taken as
    independent. With many pairs some intervals exclude 0 by chance: at 95 %, one in twenty. ``share_above`` and
    ``share_below`` are the shares of resamples with a difference above and below 0; the rest are ties.
    """
    values, draws, labels = {}, {}, next(iter(predictions.values())).set_index("image_path")["label_index"]
    for model, table in predictions.items():
        aligned = table.set_index("image_path").reindex(labels.index)
        if len(table) != len(labels) or not aligned["label_index"].equals(labels):
            raise ValueError(
                f"{model} was tested on other photos or labels; a paired difference needs the same. Load the runs with "
                "find_runs, which confines them to those."
            )
        truth, scores = check_scores(labels, aligned["score"])
        values[model] = image_metrics(truth, scores)["image_auroc"]
        draws[model] = image_draws(truth, scores, None, n=n, seed=seed)["image_auroc"]
    rows = []
    for a, b in itertools.combinations(values, 2):
        difference = draws[a] - draws[b]
        low, high = percentile_interval(difference)
        row = {"model_a": a, "model_b": b, "metric": "image_auroc", "value_a": values[a], "value_b": values[b]}
        row |= {"difference": values[a] - values[b], "low": low, "high": high}
        for name, resamples in (("share_above", difference > 0), ("share_below", difference < 0)):
            row[name] = np.nan if np.isnan(low) else resamples.mean()
        rows.append(row | {"n_normal": int((~truth).sum()), "n_abnormal": int(truth.sum()), "n_resamples": n})
    return pd.DataFrame(rows)


def operating_points(val: pd.DataFrame, test: pd.DataFrame, stored: Threshold) -> pd.DataFrame:
    """What three ways to set a threshold on val lead to on test: stored acceptance, best F1, zero misses.

    ``point``, ``threshold`` and ``origin``, then `decision_rates`; ``refused`` says why there is no such point ("":
    there is): the last two need defect photos in val.
    """
    found, refused = {"acceptance": stored}, {}
    fits = {"best F1": best_f1_threshold, "zero misses": zero_miss_threshold}
    for point, fit in fits.items():
        try:
            found[point] = fit(val["score"], val["label_index"])
        except ValueError as error:
            refused[point] = str(error)
    called = {point: limit.exceeds(test["score"]) for point, limit in found.items()}
    rates = decision_rates(called, test["label_index"] == 1).rename(columns={"decided_by": "point"}).set_index("point")
    rates.insert(0, "threshold", [limit.value for limit in found.values()])
    rates.insert(1, "origin", [limit.origin for limit in found.values()])
    rates = rates.reindex(["acceptance", *fits]).fillna({"origin": ""})
    counts = dict.fromkeys(["n_normal", "n_abnormal", "found", "false_alarms"], "Int64")
    return rates.astype(counts).assign(refused=[refused.get(point, "") for point in rates.index]).reset_index()


def threshold_counts(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """What every possible threshold leads to, rising from one below all scores: counts change at scores alone.

    For looking at, not for choosing: a threshold picked on test photos flatters its own rates.
    """
    truth, values = check_scores(labels, scores)
    values = values.astype(np.float32)  # as thresholds compare them
    distinct = np.unique(values)
    limits = np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct]
    table = pd.DataFrame({"threshold": limits.astype(float)})
    for chosen, above, below in ((truth, "found", "missed"), (~truth, "false_alarms", "accepted")):
        table[below] = np.searchsorted(np.sort(values[chosen]), limits, side="right")
        table[above] = chosen.sum() - table[below]
    return table


def recall_by_size(defects: pd.DataFrame, edges: ArrayLike) -> pd.DataFrame:
    """Share of true defects (``size``, ``detected``, ``unit``) that are found, in bins between the edges."""
    groups, detected, rows = size_groups(defects["size"], edges), defects["detected"].to_numpy(dtype=bool), []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        hits = detected[groups == number]
        row = {"size_low": low, "size_high": high, "unit": defects["unit"].iloc[0], "n": hits.size}
        rows.append(row | {"found": int(hits.sum())} | share_columns("recall", hits))
    return pd.DataFrame(rows)


def size_edges(sizes: ArrayLike, bins: int) -> np.ndarray:
    """Edges of so many bins with about equally many sizes each; fewer where sizes repeat."""
    edges = np.unique(np.quantile(np.asarray(sizes, dtype=float), np.linspace(0, 1, bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0]])


def size_groups(sizes: ArrayLike, edges: ArrayLike) -> np.ndarray:
    """(N,) number of each size's bin, from 0; a bin holds its lower edge, the last one its upper edge too."""
    return np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, len(edges) - 2)
