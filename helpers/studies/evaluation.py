"""What notebook 06 reads from files: all leaderboards, published numbers, and the true defects that a run finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.sizing import PixelSizeLike, as_pixel_size, label_defects, measure_labels
from helpers.data.images import map_at_photo_size, read_mask
from helpers.paths import read_csv
from helpers.progress import progress
from helpers.runs import Run

PUBLISHED = Path(__file__).parents[1] / "data" / "published.csv"


def overall_leaderboard(artifacts: Path) -> pd.DataFrame:
    """All ``<dataset>/<profile>/leaderboard.csv`` with ``dataset`` and ``profile``, the best image AUROC of a dataset
    first. Rows of two datasets are not comparable with each other.
    """
    tables, order = [], ["dataset", "profile", "image_auroc"]
    for file in sorted(artifacts.glob("[!.]*/[!.]*/leaderboard.csv")):
        try:
            table = read_csv(file).assign(dataset=file.parts[-3], profile=file.parts[-2])
            tables.append(table[list(dict.fromkeys([*order, *table]))])
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} cannot be read ({error}); run notebook 06_evaluate again.") from error
    return pd.concat(tables).sort_values(order, ascending=[True, True, False], ignore_index=True)


def published_results(table: pd.DataFrame) -> pd.DataFrame:
    """Published numbers of the data set that a sample table comes from, one row a model; empty where none is known.

    It is known by the table's name, its layout (VisA's own) or a folder on the way to its photos. Figures are means
    over all categories (``scope``), trained by their authors in their own way: one category may be easier or harder.
    """
    words = [*re.split(r"[\\/]", str(table.attrs.get("root", ""))), str(table.attrs.get("name", ""))]
    words += ["visa"] * (table.attrs.get("layout") == "visa")
    known = pd.read_csv(PUBLISHED).assign(cited=True)
    of_table = [any(re.fullmatch(folder, word, re.IGNORECASE) for word in words) for folder in known["folder"]]
    return known[of_table].drop(columns="folder").reset_index(drop=True)


def run_defect_hits(
    run: Run, *, pixel_size: PixelSizeLike = 1.0, unit: str = "px", measure: str = "length"
) -> pd.DataFrame:
    """Of every true defect on a run's test photos how large it is and whether its map shows it, one row a defect.

    A defect is a connected region of the mask, measured as it was drawn; smaller ones than 10 pixels are specks. It is
    found where any pixel is above the run's threshold; ``covered``: which share of them is. What a centre crop kept the
    network from seeing is missed.
    """
    size, maps, test = as_pixel_size(pixel_size, unit), run.maps("test"), run.predictions("test")
    photos = test[(test["label_index"] == 1) & (test["mask_path"] != "")]
    parts: list[dict[str, Any]] = [dict.fromkeys(["image_path", "defect_type", "defect", "size", "covered"], [])]
    for photo in progress(photos.itertuples(), "Finding true defects", total=len(photos)):
        mask = read_mask(photo.mask_path)
        whole = map_at_photo_size(maps[photo.Index], mask.shape, run.info["parameters"])
        try:
            above = run.thresholds["pixel"].exceeds(whole)
        except ValueError as error:
            raise ValueError(f"{photo.image_path}: {error}") from error
        labels = label_defects(mask, use_morphology=False, fill_holes=False)
        found, pixels = measure_labels(labels, size), np.bincount(labels.ravel())[1:]
        covered = np.bincount(labels[above], minlength=len(pixels) + 1)[1:] / pixels
        about = {"image_path": photo.image_path, "defect_type": photo.defect_type, "defect": found["defect"]}
        parts.append(about | {"size": found[measure], "covered": covered})
    hits = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    hits = hits.astype({"defect": int, "size": float, "covered": float})
    unit = f"{size.unit}²" if measure == "area" else size.unit
    return hits.assign(unit=unit, measure=measure, detected=hits["covered"] > 0)
