"""Tables that list photos, and VisA's, as a sample table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.data.folders import many_categories
from helpers.data.layouts import (
    NORMAL_LABELS,
    Found,
    LayoutError,
    is_normal,
    label_of,
    pictures_in,
    split_of,
    words_in,
)
from helpers.data.names import match_names
from helpers.data.samples import NORMAL, absolute_path, read_frame, read_table

_NOTHING = frozenset({"none", "nothing", "no", "nan", "n/a"})  # for a defect type


def has_visa(path: Path) -> bool:
    return (path / "split_csv" / "1cls.csv").is_file()


def read_visa(found: Found, *, category: str | None = None) -> None:
    """``split_csv/1cls.csv``; ``category``: which object, where there are several."""
    path, file = found.path, found.path / "split_csv" / "1cls.csv"
    if not file.is_file():
        raise LayoutError(f"{path} has no split_csv/1cls.csv; the VisA layout needs it.")
    frame = read_frame(file)
    missing = [column for column in ("object", "split", "label", "image", "mask") if column not in frame]
    if missing:
        raise LayoutError(f"{file} lacks the column(s) {', '.join(missing)}.")
    objects = sorted(frame["object"].astype("str").unique())
    if category is None and len(objects) > 1:
        raise many_categories(path, objects, as_folder=False)
    category = category or objects[0]
    if category not in objects:
        raise ValueError(f"{file} has no object {category!r}; choose one of: {', '.join(objects)}.")
    found.name = category
    frame = frame[frame["object"] == category].rename(columns={"image": "image_path", "mask": "mask_path"})
    _read_rows(found, frame[["image_path", "mask_path", "label", "split"]], file)


def has_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".parquet")


def read_listed(found: Found, *, root: str | Path | None = None) -> None:
    """A CSV or Parquet file; ``root``: folder the paths are relative to; default: the folder of the file."""
    path = found.path
    if path.with_name(path.name + ".json").is_file():
        table = read_table(path, root)
        found.rows, found.attrs = table.to_dict("records"), dict(table.attrs)
        found.root, found.findings = Path(table.attrs["root"]), list(found.attrs.pop("findings", []))
        found.name, found.published_split = table.attrs["name"], table.attrs["published_split"]
        return
    frame = read_frame(path)
    if "image_path" not in frame:
        raise LayoutError(f"{path} has no column image_path but {', '.join(map(str, frame.columns))}; rename one.")
    if "label_index" not in frame and "label" not in frame:
        raise LayoutError(f"{path} has no column label or label_index; add one (0 or good: normal, else abnormal).")
    found.root = absolute_path(Path(root) if root is not None else path.parent)
    _read_rows(found, frame, path)


def _read_rows(found: Found, frame: pd.DataFrame, path: Path) -> None:
    """Rows of a table with ``image_path`` and ``label_index`` or ``label``, in words or numbers."""
    found.rows = frame.to_dict("records")
    for row in found.rows:
        words = {key: "" if pd.isna(row.get(key)) else str(row[key]).strip() for key in ("label", "defect_type")}
        text = str(row["label_index"] if "label_index" in frame else row.pop("label"))
        row["label_index"], defect_type = label_of(text, path)
        for word in words.values() if not row["label_index"] else ():
            if words_in(word) and not is_normal(word) and word.lower() not in NORMAL_LABELS | _NOTHING:
                raise LayoutError(f"{path}: {row['image_path']} is normal ({text}) and {word!r}; correct one.")
        row["defect_type"] = (words["defect_type"] or defect_type) if row["label_index"] else NORMAL
        row["split"] = "" if pd.isna(row.get("split")) else split_of(str(row["split"]), path)
    found.published_split = any(row["split"] for row in found.rows)
    _find_files(found)


def _find_files(found: Found) -> None:
    """Put files in the place of names that were written otherwise, or on another machine; one finding says so."""

    def file_of(name: Any) -> str:
        return "" if pd.isna(name) or not str(name) else os.path.join(found.root, str(name))  # noqa: PTH118

    columns = ("image_path", "mask_path")
    there = {key: {file for row in found.rows if os.path.exists(file := file_of(row.get(key)))} for key in columns}  # noqa: PTH110
    lost = {
        key: [row for row in found.rows if (file := file_of(row.get(key))) and file not in there[key]]
        for key in columns
    }
    if not any(lost.values()):
        return
    files = set(map(str, pictures_in(found.root)))
    examples = []
    for key, other in zip(columns, reversed(columns), strict=True):
        free = map(Path, sorted(files - there[other]))
        matched, _ = match_names([str(row[key]) for row in lost[key]], free, found.root)
        for row in (row for row in lost[key] if str(row[key]) in matched):
            file = matched[str(row[key])]
            examples.append(f"{row[key]} is {found.relative(file)}")
            row[key] = str(file)
            there[key].add(str(file))
    if examples:
        found.note("names-matched", found.path, n=len(examples), example=examples[0])
