"""How faint may a defect be and still be found? The same invented defects at falling opacity, and what is found.

Place, outline and look stay, only the strength falls, down to the unchanged photo, whose rate is the false-alarm rate.
Each detector keeps the threshold it was given before. What it says holds for these defects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.analysis.intervals import share_interval
from helpers.data.convert import write_dataset
from helpers.data.images import read_image
from helpers.data.samples import NORMAL
from helpers.inference.predictor import Predictor
from helpers.pictures.defects import KINDS, simulate_defect
from helpers.pictures.scene import photo_seed
from helpers.progress import progress
from helpers.runs import Run
from helpers.thresholds import exceeds

OPACITIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def weak_defect_photos(
    table: pd.DataFrame, *, out: str | Path, opacities: Sequence[float] = OPACITIES, n_photos: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Draw one defect on each of some good test photos, at every opacity, 0 (the unchanged photo) among them.

    The kinds take turns: rates come from independent photos. ``out`` becomes a dataset, which replaces an earlier
    study; its sample table has further columns kind, opacity and source_path.
    """
    if not all(0 <= opacity <= 1 for opacity in opacities) or not any(opacities):
        raise ValueError(f"opacities must lie in [0, 1], one at least above 0, got {list(opacities)}.")
    normal = table[(table["split"] == "test") & (table["label_index"] == 0)]
    if normal.empty:
        raise ValueError("test holds no good photo to draw defects on; split so that some good photos are in test.")

    def draw(row: dict[str, Any]) -> list[dict[str, Any]]:
        number, kind, rows = row.pop("number"), row["kind"], []
        photo = read_image(row["source_path"])
        for opacity in sorted({0.0, *map(float, opacities)}):
            new = {"image": photo, "label_index": 0, "defect_type": NORMAL}
            if opacity:
                try:
                    picture, mask = simulate_defect(photo, kind, np.random.default_rng((seed, number)), opacity=opacity)
                except ValueError as error:
                    raise ValueError(f"{row['source_path']}: {error}") from error
                new = {"image": picture, "mask": mask, "label_index": 1, "defect_type": kind}
            rows.append(row | new | {"opacity": opacity, "name": f"{number:03d}_{kind}_{opacity:g}"})
        return rows

    order = np.random.default_rng(photo_seed(seed, "order")).permutation(len(normal))[:n_photos]
    chosen = normal.iloc[order][["image_path", "group"]].assign(split="test", number=range(len(order)))
    chosen = chosen.assign(source_path=chosen["image_path"], kind=np.resize(list(KINDS), len(order)).tolist())
    return write_dataset(chosen.to_dict("records"), out, change=draw, source=table.attrs, force=True)


def score_photos(run: Run, table: pd.DataFrame, *, device: str = "auto", batch_size: int = 8) -> NDArray[np.float32]:
    """Raw scores (N,) of a finished run on photos, made as those that its thresholds were set on, object mask included.

    Where object masks are a folder of files, a weak defect gets that of the photo it was drawn on (``source_path``).
    """
    predictor, scores = Predictor(run, device=device, batch_size=batch_size), []
    paths, sources = (table.get(name, table["image_path"]).tolist() for name in ("image_path", "source_path"))
    for first in progress(range(0, len(paths), batch_size), f"Scoring with {run.name}"):
        photos = [read_image(path, predictor.bit_depth) for path in paths[first : first + batch_size]]
        scores += [one.score for one in predictor.judge(photos, sources[first : first + batch_size])]
    return np.array(scores, dtype=np.float32)


def detection_rates(scores: pd.DataFrame, thresholds: Mapping[str, SupportsFloat]) -> pd.DataFrame:
    """Share of photos (model, opacity, score) that each model calls abnormal, by opacity; at 0 the false-alarm rate.

    ``low`` and ``high``: Wilson's 95 % interval, which takes photos as independent.
    """
    rows = []
    for (model, opacity), group in scores.groupby(["model", "opacity"], sort=False):
        hits = exceeds(group["score"], thresholds[model])
        row = {"model": model, "opacity": float(opacity), "n": len(hits), "found": int(hits.sum())}
        rows.append(row | dict(zip(("rate", "low", "high"), share_interval(hits), strict=True)))
    return pd.DataFrame(rows)
