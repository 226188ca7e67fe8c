"""How faint may a defect be and still be found? The same invented defects at falling opacity, and what is found.

Place, outline and look stay, only the strength falls, down to the unchanged photo, whose rate is the false-alarm rate.
Each detector keeps the threshold it was given before. What it says holds for these defects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.analysis.intervals import wilson_interval
from helpers.data.convert import write_dataset
from helpers.data.images import read_image
from helpers.data.samples import NORMAL
from helpers.inference.pictures import read_batches
from helpers.inference.predictor import Predictor
from helpers.pictures.defects import KINDS, simulate_defect
from helpers.pictures.scene import photo_seed
from helpers.progress import progress
from helpers.runs import MissingRunError, Run
from helpers.thresholds import exceeds

OPACITIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def weak_defect_photos(
    table: pd.DataFrame,
    *,
    out: str | Path,
    opacities: Sequence[float] = OPACITIES,
    n_photos: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw one defect on each of some good test photos, at every opacity, 0 (the unchanged photo) among them.

    The kinds take turns, so that every photo counts once at each opacity: its rates come from independent photos.
    ``out`` becomes a dataset of its own, which replaces an earlier study; its sample table, with further columns kind,
    opacity and source_path, is returned.
    """
    if not all(0 <= opacity <= 1 for opacity in opacities) or not any(opacity > 0 for opacity in opacities):
        raise ValueError(f"opacities must lie in [0, 1], one at least above 0, got {list(opacities)}.")
    if n_photos < 1 or seed < 0:
        raise ValueError(f"n_photos must be 1 or more and seed not negative, got n_photos={n_photos}, seed={seed}.")
    normal = table[(table["split"] == "test") & (table["label_index"] == 0)].reset_index(drop=True)
    if normal.empty:
        raise ValueError("test holds no good photo to draw defects on; split so that some good photos are in test.")

    def draw(row: dict[str, Any]) -> list[dict[str, Any]]:
        number, kind, rows = row.pop("number"), row["kind"], []
        photo = read_image(row["source_path"])
        for opacity in sorted({0.0, *map(float, opacities)}):
            new = {"image": photo, "label_index": 0, "defect_type": NORMAL}
            if opacity:
                rng = np.random.default_rng((seed, number))
                try:
                    picture, mask = simulate_defect(photo, kind, rng, opacity=opacity)
                except ValueError as error:
                    raise ValueError(f"{row['source_path']}: {error}") from error
                new = {"image": picture, "mask": mask, "label_index": 1, "defect_type": kind}
            rows.append(row | new | {"opacity": opacity, "name": f"{number:03d}_{kind}_{opacity:g}"})
        return rows

    order = np.random.default_rng(photo_seed(seed, "order")).permutation(len(normal))[:n_photos]
    chosen = normal.iloc[order][["image_path", "group"]].assign(split="test", number=range(len(order)))
    chosen = chosen.assign(source_path=chosen["image_path"], kind=list(islice(cycle(KINDS), len(order))))
    return write_dataset(chosen.to_dict("records"), out, change=draw, source=table.attrs, force=True)


def score_photos(run: Run, table: pd.DataFrame, *, device: str = "auto", batch_size: int = 8) -> NDArray[np.float32]:
    """Raw scores (N,) of a finished run on photos, made as those that its thresholds were set on, object mask included.

    Where object masks are a folder of files, a weak defect gets that of the photo it was drawn on (``source_path``).
    """
    if not run.finished:
        raise MissingRunError(f"{run.folder} is a draft; train and calibrate {run.name} first.")
    if table.empty:
        raise ValueError("The table has no photos; there is nothing to score.")
    predictor = Predictor(run, device=device, batch_size=batch_size)
    pictures = zip(table.get("source_path", table["image_path"]), table["image_path"], strict=True)
    named = progress(pictures, f"Scoring with {run.name}", len(table))
    scores: list[float] = []
    for batch in read_batches(named, batch_size, predictor.bit_depth, strict=True):
        judged = predictor.judge([item.photo for item in batch], [item.source for item in batch])
        scores += [one.score for one in judged]
    return np.array(scores, dtype=np.float32)


def detection_rates(scores: pd.DataFrame, thresholds: Mapping[str, SupportsFloat]) -> pd.DataFrame:
    """Share of photos that each model calls abnormal, by opacity; at 0 that is the false-alarm rate.

    ``scores`` has model, opacity and score. One row a model and opacity: model, opacity, n, found, rate, low, high, the
    last two Wilson's 95 % interval, which takes photos as independent: several of one part make the true one wider.
    """
    without = [model for model in scores["model"].unique() if model not in thresholds]
    if without:
        raise ValueError(f"thresholds has none for {', '.join(without)}; it has {', '.join(thresholds) or 'none'}.")
    rows = []
    for model, of_model in scores.groupby("model", sort=False):
        for opacity, group in of_model.groupby("opacity"):
            n, found = len(group), int(exceeds(group["score"], thresholds[model]).sum())
            rows.append((model, float(opacity), n, found, found / n, *wilson_interval(found / n, n)))
    return pd.DataFrame(rows, columns=["model", "opacity", "n", "found", "rate", "low", "high"])
