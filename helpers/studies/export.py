"""What an exported run is worth: does it say the same as torch, and what do 8 bits cost?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from helpers.inference.exported import FILES
from helpers.inference.predictor import Prediction, Predictor
from helpers.progress import progress
from helpers.runs import Run

NamedPhoto = tuple[str, np.ndarray]  # file, (H, W, 3) uint8


def usable_backends(run: Run) -> list[str]:
    """``torch`` and the backends whose file the run has."""
    return ["torch", *(name for name, file in FILES.items() if (run.folder / file).is_file())]


def judges(run: Run) -> dict[str, Callable[[Sequence[NamedPhoto]], list[Prediction]]]:
    """What judges a batch on this CPU, by backend, as `time_stages` takes it."""

    def judge(predictor: Predictor) -> Callable[[Sequence[NamedPhoto]], list[Prediction]]:
        return lambda batch: predictor.judge([photo for _, photo in batch], [path for path, _ in batch])

    return {name: judge(Predictor(run, name, device="cpu")) for name in usable_backends(run)}


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
    rows, expected = [], {}
    for backend in progress(list(backends) or usable_backends(run), f"{run.name}: backends"):
        found = list(Predictor(run, backend, device="cpu").predict_stream(paths))
        if errors := [one.error for one in found if one.error]:
            raise ValueError(errors[0])
        scores, called = (np.array([getattr(one, name) for one in found]) for name in ("score", "abnormal"))
        maps = np.array([np.nan if one.network_map is None else one.network_map for one in found])
        expected = expected or {"scores": scores, "called": called, "maps": maps}
        relative = np.abs(scores - expected["scores"]) / np.abs(expected["scores"]).clip(1e-12)
        row = {"model": run.title, "backend": backend, "photos": len(found), "abnormal": expected["called"].sum()}
        row |= {"score_difference": relative.max(), "median_difference": np.median(relative)}
        row["map_difference"] = np.abs(maps - expected["maps"]).max() / np.abs(expected["maps"]).max()
        row["flips"] = (called != expected["called"]).sum()
        if labels is not None and len(set(labels)) == 2:
            defect = np.asarray(labels) == 1
            row["image_auroc"] = roc_auc_score(defect, scores)
            row |= {"recall": called[defect].mean(), "false_alarm": called[~defect].mean()}
        rows.append(row)
    return pd.DataFrame(rows)
