"""What tests of the readers share: small datasets written from a dictionary, and what their tables say."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers import check_dataset, read_dataset
from helpers.data.samples import relative_path

HEIGHT, WIDTH = 20, 30


def boxes(*sides: tuple[int, int, int, int]) -> np.ndarray:
    """Mask of boxes (top, bottom, left, right)."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, bottom, left, right in sides:
        mask[top:bottom, left:right] = True
    return mask


MASK, EMPTY = boxes((2, 8, 3, 12)), boxes()


def photos(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def write(root: Path, files: dict[str, Any]) -> Path:
    """Write a photo of its own for None, a picture for an array, text, bytes, or anything else as JSON."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        elif content is None or isinstance(content, np.ndarray):
            if content is None:
                content = np.random.default_rng(list(name.encode())).integers(40, 200, (HEIGHT, WIDTH, 3), np.uint8)
            picture = content.astype(np.uint8) * 255 if content.dtype == bool else content
            Image.fromarray(picture).save(file, "JPEG" if file.suffix == ".jfif" else None)
        else:
            file.write_text(json.dumps(content), encoding="utf-8")
    return root


def read(root: Path, **options: Any) -> pd.DataFrame:
    """The table, with masks drawn beside the dataset."""
    return read_dataset(root, mask_cache=root.parent / "cache", **options)


def columns(table: pd.DataFrame, *names: str) -> dict[str, Any]:
    """Relative path of each photo -> its value, or values, of columns."""
    values = table[list(names)].itertuples(index=False, name=None)
    return {path: row if len(names) > 1 else row[0] for path, row in zip(relative_path(table), values, strict=True)}


def types(table: pd.DataFrame) -> dict[str, str]:
    return columns(table, "defect_type")


def masks(table: pd.DataFrame) -> dict[str, str]:
    """Photo -> path of its mask below the root, of those that have one there."""
    root = Path(table.attrs["root"])
    pairs = columns(table, "mask_path").items()
    return {name: Path(path).relative_to(root).as_posix() for name, path in pairs if path}


def codes(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Severity and code of what the reader found, sorted."""
    return sorted((row["severity"], row["code"]) for row in table.attrs["findings"])


def told(table: pd.DataFrame, *severities: str) -> set[tuple[str, str]]:
    """Code and path of the findings of the check."""
    found = check_dataset(table)
    return set(found.loc[found["severity"].isin(severities), ["code", "path"]].itertuples(index=False, name=None))


def count_calls(function: Callable[[], object]) -> int:
    """Calls of Python and C functions while it runs: work that no other process disturbs."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls
