"""Tables that list photos, and VisA's, as a sample table."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

_NOTHING = frozenset({"", "none", "nothing", "no", "nan", "n/a"})  # for a defect type


def has_visa(path: Path) -> bool:
    return (path / "split_csv" / "1cls.csv").is_file()


def read_visa(found: Found, *, category: str | None = None) -> None:
    """``split_csv/1cls.csv``; ``category``: which object, where there are several."""
    path, file = found.path, found.path / "split_csv" / "1cls.csv"
    frame = read_frame(file)
    missing = [column for column in ("object", "split", "label", "image", "mask") if column not in frame]
    if missing:
        raise LayoutError(f"{file} lacks the column(s) {', '.join(missing)}.")
    objects = sorted(frame["object"].astype("str").unique())
    if category is None and len(objects) > 1:
        raise many_categories(path, objects, as_folder=False)
    found.name = category or objects[0]
    if found.name not in objects:
        raise ValueError(f"{file} has no object {category!r}; choose one of: {', '.join(objects)}.")
    frame = frame[frame["object"] == found.name].rename(columns={"image": "image_path", "mask": "mask_path"})
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
    if "image_path" not in frame or not {"label_index", "label"} & set(frame):
        needed = "image_path, and label or label_index (0 or good: normal, else abnormal)"
        raise LayoutError(f"{path} has the columns {', '.join(map(str, frame.columns))}; it needs {needed}.")
    found.root = absolute_path(Path(root) if root is not None else path.parent)
    _read_rows(found, frame, path)


def labels_of(row: Mapping[str, Any], file: Path) -> tuple[int | None, str]:
    """Label index (None: not said) and defect type by ``label_index`` or ``label``, in words or numbers, and type."""
    keys = ("label_index", "label", "defect_type")
    text = {key: "" if row.get(key) is None or row[key] != row[key] else str(row[key]).strip() for key in keys}
    word, kind = text["label"], text["defect_type"]
    label = text["label_index"] or word or kind
    if not label:
        return None, ""
    index, name = label_of(label, file)
    for said in (word, kind) if index == 0 else ():
        if words_in(said) and not is_normal(said) and said.lower() not in NORMAL_LABELS | _NOTHING:
            raise LayoutError(f"{file} says that a photo is normal ({label}) and {said!r}; correct one:\n{dict(row)}")
    return index, (kind or name) if index else NORMAL


def _read_rows(found: Found, frame: pd.DataFrame, path: Path) -> None:
    found.rows = frame.to_dict("records")
    for row in found.rows:
        row["label_index"], row["defect_type"] = labels_of(row, path)
        if row["label_index"] is None:
            raise LayoutError(f"{path} has no label for {row['image_path']}: good or 0 for normal photos, else 1.")
        row.pop("label", None)
        row["split"] = "" if pd.isna(row.get("split")) else split_of(str(row["split"]), path)
    found.published_split = any(row["split"] for row in found.rows)
    _find_files(found)


def _find_files(found: Found) -> None:
    """Put files in the place of names that were written otherwise, or on another machine; one finding says so."""
    columns, examples = ("image_path", "mask_path"), []
    names = {key: {str(row[key]) for row in found.rows if not pd.isna(row.get(key)) and row[key]} for key in columns}
    there = {
        key: {name: found.root / name for name in names[key] if os.path.exists(found.root / name)}  # noqa: PTH110
        for key in columns
    }
    if all(len(there[key]) == len(names[key]) for key in columns):
        return
    files = set(pictures_in(found.root))
    for key, other in zip(columns, reversed(columns), strict=True):
        free = sorted(files - set(there[other].values()))
        matched, _ = match_names(sorted(names[key] - there[key].keys()), free, found.root)
        there[key] |= matched
        examples += [f"{name} is {found.relative(file)}" for name, file in matched.items()]
        for row in found.rows:
            if str(row.get(key)) in matched:
                row[key] = str(matched[str(row[key])])
    if examples:
        found.note("names-matched", found.path, n=len(examples), example=examples[0])
