"""Numbers that others published, to stand beside ours: cited, not measured here."""

from __future__ import annotations

import re

import pandas as pd

PUBLISHED_COLUMNS = ("model", "dataset", "scope", "image_auroc", "pixel_auroc", "source", "cited")

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
    words = [*re.split(r"[\\/]", str(table.attrs.get("root", ""))), str(table.attrs.get("name", ""))]
    if table.attrs.get("layout") == "visa":
        words.append("visa")
    rows = [
        ("glass (published)", name, f"mean over {n} categories", image / 100, pixel / 100, _GLASS, True)
        for name, (pattern, n, image, pixel) in _OF_GLASS.items()
        if any(re.fullmatch(pattern, word, re.IGNORECASE) for word in words)
    ]
    return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS))
