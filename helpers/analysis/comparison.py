"""Detectors side by side: paired differences, operating points, recall by size, and one table over all datasets.

One rule everywhere: abnormal is what ``Threshold.exceeds`` says, and no threshold is set on test photos.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.analysis.intervals import wilson_interval
from helpers.analysis.metrics import IMAGE_METRICS, check_scores, image_draws, image_metrics
from helpers.paths import read_csv
from helpers.runs import RUN_FILE, Run
from helpers.thresholds import Threshold, _just_below, best_f1_threshold

AT_THRESHOLD = ("recall_at_threshold", "false_alarm_at_threshold")
BYTES_PER_MB = 1e6


# -------------------------------------------------------------------------------------------------- paired differences


def paired_differences(
    predictions: Mapping[str, pd.DataFrame],
    metric: str = "image_auroc",
    thresholds: Mapping[str, SupportsFloat] | None = None,
    *,
    n: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """How much better is one model than another on the same photos, and how sure is that?

    Paired bootstrap: each resample draws the same photos for all models (normal and abnormal ones apart), so that
    photos that are hard for all do not blur the difference. Photos are taken as independent; several of one part make
    the true interval wider. With many pairs some intervals exclude 0 by chance: at 95 %, one in twenty.

    Args:
        predictions: model -> its predictions of the test photos (``image_path``, ``label_index``, ``score``); the same
            photos for all, in any order. Two models at least.
        metric: one of `helpers.analysis.metrics.IMAGE_METRICS`.
        thresholds: model -> its threshold; needed for the two rates at a threshold.
        n: resamples.
        level: of the percentile intervals, in (0, 1).
        seed: of the resamples.

    Returns:
        One row a pair: ``model_a``, ``model_b``, ``metric``, ``value_a``, ``value_b``, ``difference`` (a minus b),
        ``low``, ``high``, ``share_above`` and ``share_below`` (of the resamples with a difference above and below 0;
        the rest are ties), ``n_normal``, ``n_abnormal``, ``n_resamples``. NaN where the metric has no value.

    Raises:
        ValueError: for fewer than two models, photos or labels that differ between them, an unknown metric, a missing
            threshold or a level outside (0, 1).
    """
    if metric not in IMAGE_METRICS:
        raise ValueError(f"metric must be one of {', '.join(IMAGE_METRICS)}; got {metric!r}.")
    if len(predictions) < 2:
        raise ValueError(f"predictions holds {len(predictions)} model(s); a difference needs two.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1 (both excluded), got {level}.")
    limits = dict(thresholds or {})
    missing = [model for model in predictions if model not in limits]
    if metric in AT_THRESHOLD and missing:
        raise ValueError(f"{metric} needs thresholds; there is none for {', '.join(missing)}.")
    truth, scores = _same_photos(predictions)
    values, draws = {}, {}
    for model, column in scores.items():
        limit = limits.get(model)
        numbers = image_metrics(truth, column, limit)
        values[model] = numbers[metric]
        # The same seed draws the same photos: what is drawn depends on the labels alone.
        draws[model] = image_draws(truth, column, limit, n=n, seed=seed)[metric]
    tails = [(1 - level) / 2, (1 + level) / 2]
    rows = []
    for first, second in itertools.combinations(predictions, 2):
        difference = draws[first] - draws[second]
        known = not np.isnan(difference).any()
        low, high = np.quantile(difference, tails) if known else (np.nan, np.nan)
        rows.append(
            {
                "model_a": first,
                "model_b": second,
                "metric": metric,
                "value_a": values[first],
                "value_b": values[second],
                "difference": values[first] - values[second],
                "low": low,
                "high": high,
                "share_above": (difference > 0).mean() if known else np.nan,
                "share_below": (difference < 0).mean() if known else np.nan,
                "n_normal": int((~truth).sum()),
                "n_abnormal": int(truth.sum()),
                "n_resamples": n,
            }
        )
    return pd.DataFrame(rows)


def _same_photos(predictions: Mapping[str, pd.DataFrame]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels (N,) and each model's scores (N,), rows in the first model's order."""
    (first, reference), *_ = predictions.items()
    order = reference["image_path"]
    scores, truth = {}, reference["label_index"].to_numpy().astype(bool)
    for model, table in predictions.items():
        if table["image_path"].duplicated().any():
            raise ValueError(f"{model} has two predictions of one photo; give one row a photo.")
        if set(table["image_path"]) != set(order):
            raise ValueError(
                f"{model} and {first} were tested on different photos ({len(table)} and {len(reference)}); a paired "
                "difference needs the same ones. Load the runs with find_runs, which confines them to those."
            )
        aligned = table.set_index("image_path").loc[order]
        labels, scores[model] = check_scores(aligned["label_index"], aligned["score"])
        if (labels != truth).any():
            raise ValueError(f"{model} and {first} give some photos different labels; train them on one sample table.")
    return truth, scores


# ---------------------------------------------------------------------------------------------------- operating points


def zero_miss_threshold(scores: ArrayLike, labels: ArrayLike, split: str = "val") -> Threshold:
    """The highest threshold that misses no labelled defect photo: just below the lowest of their scores.

    A new defect photo that is exchangeable with these n is found with probability n / (n + 1) at least (by its rank
    among them), not with certainty.

    Args:
        scores: (N,) finite scores.
        labels: (N,) bool or 0/1, 1 = abnormal.
        split: name of the split the photos come from, for the origin.

    Raises:
        ValueError: where no photo is abnormal.
    """
    truth, values = check_scores(labels, scores)
    n = int(truth.sum())
    if n == 0:
        raise ValueError(f"{split} holds no defect photo: no threshold can be said to miss none.")
    return Threshold(
        value=_just_below(float(values[truth].min()), values),
        origin=f"no defect photo of {split} missed (n = {n})",
        n_normal=int(truth.size - n),
        n_abnormal=n,
        warning=f"Set on {n} defect photos: of new ones like these it finds {100 * n / (n + 1):.0f} % in expectation "
        "at least. It promises no false-alarm rate.",
    )


def operating_points(val: pd.DataFrame, test: pd.DataFrame, stored: Threshold) -> pd.DataFrame:
    """What three ways to set a threshold on val lead to on test.

    ``acceptance`` is the stored threshold, set on good photos of val alone; ``best F1`` and ``zero misses`` need defect
    photos in val too, and are refused where there are none.

    Args:
        val: a run's ``predictions("val")``: ``label_index`` and ``score``.
        test: its ``predictions("test")``, likewise.
        stored: the threshold stored with it.

    Returns:
        One row a point: ``point``, ``threshold``, ``origin``, ``n_val_normal``, ``n_val_abnormal``; on test ``found``
        of ``n_test_abnormal`` (``recall``, ``recall_low``, ``recall_high``) and ``false_alarms`` of ``n_test_normal``
        (``false_alarm``, ``..._low``, ``..._high``), with Wilson's 95 % intervals; ``refused``: why there is no such
        point ("": there is).

    Raises:
        ValueError: for scores that are not finite.
    """
    val_truth, val_scores = check_scores(val["label_index"], val["score"])
    truth, scores = check_scores(test["label_index"], test["score"])
    n_normal, n_abnormal = int((~truth).sum()), int(truth.sum())
    thresholds = {"acceptance": stored, "best F1": None, "zero misses": None}
    refusals = dict.fromkeys(thresholds, "")
    if not val_truth.any():
        refusals |= dict.fromkeys(("best F1", "zero misses"), "val holds no defect photo to set this threshold on")
    else:
        thresholds["zero misses"] = zero_miss_threshold(val_scores, val_truth)
        if val_truth.all():
            refusals["best F1"] = "val holds no normal photo to set this threshold on"
        else:
            thresholds["best F1"] = best_f1_threshold(val_scores, val_truth)
    rows = []
    for point, threshold in thresholds.items():
        row: dict[str, Any] = {"point": point, "threshold": np.nan, "origin": "", "refused": refusals[point]}
        row |= {"n_val_normal": int((~val_truth).sum()), "n_val_abnormal": int(val_truth.sum())}
        row |= {"n_test_normal": n_normal, "n_test_abnormal": n_abnormal}
        rows.append(row)
        if refusals[point] or threshold is None:
            continue
        flagged = threshold.exceeds(scores)
        row |= {"threshold": threshold.value, "origin": threshold.origin}
        for name, count, chosen, n in (
            ("recall", "found", truth, n_abnormal),
            ("false_alarm", "false_alarms", ~truth, n_normal),
        ):
            row[count] = int(flagged[chosen].sum())
            row[name] = row[count] / n if n else np.nan
            row[f"{name}_low"], row[f"{name}_high"] = wilson_interval(row[name], n)
    rates = [f"{name}{end}" for name in ("recall", "false_alarm") for end in ("", "_low", "_high")]
    columns = ["point", "threshold", "origin", "n_val_normal", "n_val_abnormal", "n_test_normal", "n_test_abnormal"]
    table = pd.DataFrame(rows, columns=[*columns, "found", *rates[:3], "false_alarms", *rates[3:], "refused"])
    return table.astype({"found": "Int64", "false_alarms": "Int64"})


def threshold_counts(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """What every possible threshold leads to: the counts change at the scores, and nowhere else.

    For looking at, not for choosing: a threshold picked on test photos flatters its own rates.

    Args:
        labels: (N,) bool or 0/1, 1 = abnormal.
        scores: (N,) finite scores.

    Returns:
        One row a threshold, rising: first one below all scores, then every distinct score. Columns ``threshold``,
        ``found`` and ``missed`` (abnormal photos), ``false_alarms`` and ``accepted`` (normal ones), ``recall``,
        ``false_alarm`` (NaN without photos of that kind).

    Raises:
        ValueError: when shapes differ, a score is not finite or there is no photo.
    """
    truth, values = check_scores(labels, scores)
    if not truth.size:
        raise ValueError("scores is empty: there is nothing to count.")
    values = values.astype(np.float32)  # as thresholds compare them
    distinct = np.unique(values)
    limits = np.r_[np.nextafter(distinct[0], np.float32(-np.inf)), distinct]
    table = pd.DataFrame({"threshold": limits.astype(float)})
    for above, below, rate, chosen in (
        ("found", "missed", "recall", truth),
        ("false_alarms", "accepted", "false_alarm", ~truth),
    ):
        ordered = np.sort(values[chosen])
        table[below] = np.searchsorted(ordered, limits, side="right")
        table[above] = ordered.size - table[below]
        table[rate] = table[above] / ordered.size if ordered.size else np.nan
    return table[["threshold", "found", "missed", "false_alarms", "accepted", "recall", "false_alarm"]]


# ------------------------------------------------------------------------------------------------------ recall by size


def recall_by_size(defects: pd.DataFrame, bins: int | Sequence[float]) -> pd.DataFrame:
    """Share of true defects that are found, in bins of size.

    Args:
        defects: one row a defect, as from `helpers.analysis.detection_probability.defect_hits`: ``size``, ``detected``
            and, where known, ``unit`` (one for all).
        bins: rising edges, each bin with its lower edge and without its upper one (the last with both; inf may be
            the last); or the number of bins, made to hold about equally many defects.

    Returns:
        One row a bin: ``size_low``, ``size_high``, ``unit``, ``n``, ``found``, ``recall``, and ``low`` and ``high``,
        Wilson's 95 % interval (defects taken as independent); recall is NaN in an empty bin.

    Raises:
        ValueError: for a missing column, no defect, mixed units, edges that do not rise or sizes outside them.
    """
    missing = [name for name in ("size", "detected") if name not in defects]
    if missing or defects.empty:
        raise ValueError(f"defects lacks {', '.join(missing) or 'rows'}; give what defect_hits returns.")
    units = defects["unit"].unique().tolist() if "unit" in defects else ["px"]
    if len(units) > 1:
        raise ValueError(f"defects mixes the units {', '.join(units)}; give one unit.")
    sizes = defects["size"].to_numpy(dtype=float)
    edges = size_edges(sizes, bins)
    groups = size_groups(sizes, edges)
    detected = defects["detected"].to_numpy(dtype=bool)
    rows = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        n, found = int((groups == number).sum()), int(detected[groups == number].sum())
        recall = found / n if n else np.nan
        rows.append((low, high, units[0], n, found, recall, *wilson_interval(recall, n)))
    return pd.DataFrame(rows, columns=["size_low", "size_high", "unit", "n", "found", "recall", "low", "high"])


def size_edges(sizes: ArrayLike, bins: int | Sequence[float]) -> np.ndarray:
    """Edges of bins: those given, checked, or quantiles of the sizes (fewer where sizes repeat; twice the only size).

    Raises:
        ValueError: for edges that do not rise or that leave sizes out, or no bin.
    """
    values = np.asarray(sizes, dtype=float)
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"bins={bins} must be 1 or more.")
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)))
        return edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    edges = np.asarray(bins, dtype=float)
    one_size = len(edges) == 2 and edges[0] == edges[1]
    if edges.ndim != 1 or len(edges) < 2 or not (one_size or (np.diff(edges) > 0).all()):
        raise ValueError(f"bins={list(bins)} must be two or more rising edges, or a number of bins.")
    outside = int(((values < edges[0]) | (values > edges[-1])).sum())
    if outside:
        raise ValueError(
            f"{outside} of {len(values)} sizes ({values.min():.3g} to {values.max():.3g}) lie outside "
            f"bins={list(bins)}; begin with 0 and end with inf to take all."
        )
    return edges


def size_groups(sizes: ArrayLike, edges: np.ndarray) -> np.ndarray:
    """(N,) number of each size's bin, from 0; the last bin holds its upper edge."""
    return np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, len(edges) - 2)


# -------------------------------------------------------------------------------------------------- overall leaderboard


def overall_leaderboard(artifacts: str | Path) -> pd.DataFrame:
    """One table over all datasets and profiles that have a leaderboard.

    Args:
        artifacts: folder of ``<dataset>/<profile>/leaderboard.csv`` and the runs beside it.

    Returns:
        The rows of all leaderboards, ``dataset`` and ``profile`` before and ``model_mb`` (size of ``model.ckpt`` in
        10^6 bytes; NaN where the run is gone) behind them; by dataset and profile, the best image AUROC first. Rows of
        two datasets are not comparable with each other. Empty, with those columns, where there is no leaderboard.

    Raises:
        ValueError: for a file that is no leaderboard; the message names it.
    """
    tables = []
    for file in sorted(Path(artifacts).glob("[!.]*/[!.]*/leaderboard.csv")):
        try:
            table = read_csv(file)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read ({error}); run notebook 06_evaluate again.") from error
        if "model" not in table or "image_auroc" not in table:
            raise ValueError(f"{file} has no column model or image_auroc; run notebook 06_evaluate again.")
        table.insert(0, "dataset", file.parent.parent.name)
        table.insert(1, "profile", file.parent.name)
        table["model_mb"] = table["model"].map(_model_sizes(file.parent)).astype(float)
        tables.append(table)
    if not tables:
        return pd.DataFrame(columns=["dataset", "profile", "model", "image_auroc", "model_mb"])
    together = pd.concat(tables, ignore_index=True)
    order = ["dataset", "profile", "image_auroc"]
    return together.sort_values(order, ascending=[True, True, False], ignore_index=True)


def _model_sizes(folder: Path) -> dict[str, float]:
    """Title of each run in a dataset's folder -> its checkpoint's size in MB."""
    sizes = {}
    for file in folder.glob(f"[!.]*/{RUN_FILE}"):
        checkpoint = file.with_name("model.ckpt")
        if checkpoint.is_file():
            run = Run(file.parent, json.loads(file.read_text(encoding="utf-8")), pd.DataFrame())
            sizes[run.title] = checkpoint.stat().st_size / BYTES_PER_MB
    return sizes
