"""What notebook 06 reads from files: one table over all datasets, and the true defects that a run finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.detection_probability import defect_hits
from helpers.data.images import map_at_photo_size, read_mask
from helpers.paths import read_csv
from helpers.runs import RUN_FILE, Run

BYTES_PER_MB = 1e6


def overall_leaderboard(artifacts: str | Path) -> pd.DataFrame:
    """All ``<dataset>/<profile>/leaderboard.csv``, with ``dataset``, ``profile`` and ``model_mb`` (size of the
    checkpoint; NaN where the run is gone), the best image AUROC of a dataset first. Rows of two datasets are not
    comparable with each other.
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
        sizes = {}
        for run in file.parent.glob(f"[!.]*/{RUN_FILE}"):
            if (checkpoint := run.with_name("model.ckpt")).is_file():
                title = Run(run.parent, json.loads(run.read_text(encoding="utf-8")), pd.DataFrame()).title
                sizes[title] = checkpoint.stat().st_size / BYTES_PER_MB
        tables.append(table.assign(model_mb=table["model"].map(sizes).astype(float)))
    if not tables:
        return pd.DataFrame(columns=["dataset", "profile", "model", "image_auroc", "model_mb"])
    order = ["dataset", "profile", "image_auroc"]
    return pd.concat(tables).sort_values(order, ascending=[True, True, False], ignore_index=True)


def run_defect_hits(run: Run, **options: Any) -> pd.DataFrame:
    """`defect_hits` of a finished run on its test photos with masks: the maps it stored, at the photos' own size.

    What a centre crop kept the network from seeing is missed.
    """
    test, maps = run.predictions("test"), run.test_maps()
    rows = test[(test["label_index"] == 1) & (test["mask_path"] != "")]

    def photos() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, path in rows["mask_path"].items():
            mask = read_mask(path)
            yield mask, map_at_photo_size(maps[index], mask.shape, run.info["parameters"])

    names = rows["image_path"].tolist(), rows["defect_type"].tolist()
    return defect_hits(photos(), *names, run.thresholds["pixel"], **options)
