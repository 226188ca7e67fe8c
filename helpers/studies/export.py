"""What an exported run is worth: does it say the same as torch, what do 8 bits cost, and how fast is it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from helpers.compute import time_stages
from helpers.data.images import read_image
from helpers.inference.exported import FILES
from helpers.inference.predictor import Prediction, Predictor
from helpers.progress import progress
from helpers.runs import Run

NamedPhoto = tuple[str, np.ndarray]  # file, (H, W, 3) uint8


def usable_backends(run: Run) -> list[str]:
    """``torch`` and the backends whose file the run has."""
    return ["torch", *(name for name, file in FILES.items() if (run.folder / file).is_file())]


def _judge(predictor: Predictor) -> Callable[[Sequence[NamedPhoto]], list[Prediction]]:
    return lambda batch: predictor.judge([photo for _, photo in batch], [path for path, _ in batch])


def compare_backends(
    run: Run, paths: Sequence[str | Path], labels: Sequence[int] | None = None, backends: Sequence[str] = ()
) -> pd.DataFrame:
    """Every backend (default: all that are usable) against the first, ``torch``, on the same photos; a row a backend.

    ``photos``, and how many of them torch calls ``abnormal`` (where it is all or none, that no verdict flips says
    little); ``score_difference``: the largest difference as a share of torch's score, and ``median_difference``;
    ``map_difference``: the largest of any pixel as a share of the highest value (NaN for a classifier); ``flips``:
    verdicts that differ. With labels (0 good, 1 defect) of both kinds also ``image_auroc``, ``recall`` and
    ``false_alarm`` at the backend's own threshold.
    """
    photos = [(str(path), read_image(path)) for path in paths]
    rows, expected = [], {}
    for backend in progress(list(backends) or usable_backends(run), f"{run.name}: backends"):
        predictor = Predictor(run, backend, device="cpu")
        size = predictor.batch_size
        found = [one for n in range(0, len(photos), size) for one in _judge(predictor)(photos[n : n + size])]
        scores, called = (np.array([getattr(one, name) for one in found]) for name in ("score", "abnormal"))
        maps = np.full(1, np.nan) if predictor.classes else np.stack([one.network_map for one in found])
        expected = expected or {"scores": scores, "called": called, "maps": maps}
        relative = np.abs(scores - expected["scores"]) / np.abs(expected["scores"]).clip(1e-12)
        row = {"model": run.title, "backend": backend, "photos": len(photos), "abnormal": expected["called"].sum()}
        row |= {"score_difference": relative.max(), "median_difference": np.median(relative)}
        row["map_difference"] = np.abs(maps - expected["maps"]).max() / np.abs(expected["maps"]).max()
        row["flips"] = (called != expected["called"]).sum()
        if labels is not None and len(set(labels)) == 2:
            defect = np.asarray(labels) == 1
            row["image_auroc"] = roc_auc_score(defect, scores)
            row |= {"recall": called[defect].mean(), "false_alarm": called[~defect].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def speed_table(
    run: Run,
    paths: Sequence[str | Path],
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 1,
    others: Mapping[str, Callable[[Sequence[NamedPhoto]], Any]] | None = None,
) -> pd.DataFrame:
    """Milliseconds a photo on this CPU by backend and batch size, as `Predictor.photo_time` times them.

    In each round all take their turn, so that a busy minute hits all alike; times are medians over the rounds.
    ``others`` are further contestants, first in each round. Columns are those of `time_stages`, and ``times_faster``
    than the first contestant at the same batch size.
    """
    photos = [(str(path), read_image(path)) for path in paths]
    judges = {name: _judge(Predictor(run, name, device="cpu")) for name in usable_backends(run)}
    contest = {**(others or {}), **judges}
    times = pd.concat([time_stages(contest, photos, batch_sizes) for _ in range(rounds)])
    table = times.groupby(["stage", "batch_size"], sort=False, as_index=False).median().astype(times.dtypes)
    first = table["batch_size"].map(table[table["stage"] == next(iter(contest))].set_index("batch_size")["median_ms"])
    return table.assign(times_faster=first / table["median_ms"])
