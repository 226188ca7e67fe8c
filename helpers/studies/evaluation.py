"""What notebook 06 reads from files: one table over all datasets, and the true defects that a run finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.sizing import PixelSizeLike, as_pixel_size, label_defects, measure_labels
from helpers.data.images import map_at_photo_size, read_mask
from helpers.paths import read_csv
from helpers.progress import progress
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


def run_defect_hits(
    run: Run, *, pixel_size: PixelSizeLike = 1.0, unit: str = "px", measure: str = "length"
) -> pd.DataFrame:
    """Of every true defect on a run's test photos how large it is and whether its map shows it, one row a defect.

    A defect is a connected region of the mask, measured as it was drawn; smaller ones than 10 pixels are specks. It is
    found where any pixel is above the run's threshold; ``covered``: which share of them is. What a centre crop kept the
    network from seeing is missed.
    """
    size, maps, test = as_pixel_size(pixel_size, unit), run.maps("test"), run.predictions("test")
    of_measure = f"{size.unit}²" if measure == "area" else size.unit
    photos = test[(test["label_index"] == 1) & (test["mask_path"] != "")]
    rows: list[tuple[Any, ...]] = []
    for photo in progress(photos.itertuples(), "Finding true defects", total=len(photos)):
        mask = read_mask(photo.mask_path)
        try:
            above = run.thresholds["pixel"].exceeds(
                map_at_photo_size(maps[photo.Index], mask.shape, run.info["parameters"])
            )
        except ValueError as error:
            raise ValueError(f"{photo.image_path}: {error}") from error
        labels = label_defects(mask, use_morphology=False, fill_holes=False)
        sizes, pixels = measure_labels(labels, size)[measure], np.bincount(labels.ravel(), minlength=1)[1:]
        covered = np.bincount(labels[above], minlength=len(pixels) + 1)[1:] / pixels
        for number, (value, share) in enumerate(zip(sizes, covered, strict=True), start=1):
            about = (photo.image_path, photo.defect_type, number)
            rows.append((*about, value, of_measure, measure, share, share > 0))
    columns = ["image_path", "defect_type", "defect", "size", "unit", "measure", "covered", "detected"]
    types = {"defect": int, "size": float, "covered": float, "detected": bool}
    return pd.DataFrame(rows, columns=columns).astype(types)
