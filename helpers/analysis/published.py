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
    """Published numbers of the data set that a sample table comes from.

    It is recognised by the name of the table, its layout (VisA's own) or a folder on the way to its photos, such as
    ``datasets/mvtec/screw``. The MVTec layout says nothing: many data sets have it. Published figures are means over
    all categories of a data set, trained by their authors at their own settings; one category of ours may be easier or
    harder than that mean.

    Args:
        table: a sample table, with ``attrs`` name, layout and root.

    Returns:
        One row a published model, columns `PUBLISHED_COLUMNS`: ``scope`` says what it is a mean of, AUROC in [0, 1],
        ``cited`` is True. Empty where nothing is known.
    """
    root = str(table.attrs.get("root", ""))
    words = [*re.split(r"[\\/]", root), str(table.attrs.get("name", ""))]
    if table.attrs.get("layout") == "visa":
        words.append("visa")
    rows = [
        ("glass (published)", name, f"mean over {n} categories", image / 100, pixel / 100, _GLASS, True)
        for name, (pattern, n, image, pixel) in _OF_GLASS.items()
        if any(re.fullmatch(pattern, word, re.IGNORECASE) for word in words)
    ]
    return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS))
