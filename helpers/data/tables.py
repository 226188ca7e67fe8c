"""Tables that list photos, VisA's, and Severstal's of run lengths, as a sample table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.regions import Drawn, region_of
from helpers.data.annotations import Content, Photo, add_rows, draw_objects, known_id, note_unknown
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
from helpers.progress import progress

_STRIPS = "train.csv"
_STRIP_SIZE = (256, 1600)  # (H, W) of Severstal's photos: the height is needed to read run lengths
_RUNS = "EncodedPixels"
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


# ----------------------------------------------------------------------------------------------------------- Severstal


def has_severstal(path: Path) -> bool:
    """Whether the folder holds a ``train.csv`` with run lengths."""
    file = path / _STRIPS
    if not file.is_file():
        return False
    with file.open("rb") as lines:
        return _RUNS.encode() in lines.readline(1000)


def read_severstal(found: Found, *, image_dir: str | Path = "train_images") -> None:
    """Severstal's steel strips (Kaggle, 2019): ``train.csv`` and the photos it names, in ``image_dir`` relative to it.

    The table was published twice: with ``ImageId_ClassId`` (``0002cc93b.jpg_1``) and a row for each of four classes of
    each photo, empty where there is none, and with ``ImageId``, ``ClassId`` and rows for defects only.

    A photo without runs is normal. The defect type of another is the class that covers most pixels (``class_3``), and
    the column ``defect_types`` names all. Photos without a row are normal where the table lists defects only, and are
    left out where it lists every photo, as is a photo of another size.
    """
    file, folder = found.path / _STRIPS, found.path / image_dir
    rows = _strip_rows(file)
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder} with the photos of {_STRIPS}; name it with image_dir=.")
    photos = pictures_in(folder)
    named, refused = match_names(rows["name"], photos, folder)
    if not named:
        raise LayoutError(f"{file} lists no photo of {folder}: {', '.join(rows['name'][:3])}; see image_dir=.")
    for name, alike in refused.items():
        found.note_ambiguous(file, name, alike)
    missing = sorted(set(rows["name"]) - set(named) - set(refused))
    if missing:
        found.note("missing-photo:listed", file, n=len(missing), first=", ".join(missing[:3]))
    by_photo = dict(list(rows.groupby(rows["name"].map(named))))
    unclear = {photo for alike in refused.values() for photo in alike}
    without = [photo for photo in photos if photo not in by_photo and photo not in unclear]
    if (rows["runs"] == "").any():  # then it lists every photo
        note_unknown(without, found)
        without = []
    read = [Photo(photo, "", [], None) for photo in without]
    for photo, those in progress(by_photo.items(), "Reading run lengths"):
        those = those[those["runs"] != ""].itertuples()
        objects = [(f"row {row.Index + 2}", row.kind, partial(_draw_runs, row.runs)) for row in those]
        drawn = None if photo in unclear else draw_objects(found, photo, Content(objects, _STRIP_SIZE), file)
        if drawn is not None:
            read.append(Photo(photo, "", drawn[1], file))
    add_rows(found, sorted(read), largest=True)


def _strip_rows(file: Path) -> pd.DataFrame:
    """Columns name (of the photo), kind (class) and runs of the table, all text."""
    try:
        frame = pd.read_csv(file, dtype="str", keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise LayoutError(f"{file} is not a CSV file ({error}); download it again.") from error
    if "ImageId_ClassId" in frame:
        joint = frame["ImageId_ClassId"].str.rpartition("_")
        frame["ImageId"], frame["ClassId"] = joint[0], joint[2]
    if not {"ImageId", "ClassId", _RUNS} <= set(frame):
        raise LayoutError(f"{file} has not the columns {_RUNS} and ImageId_ClassId, or ImageId and ClassId.")
    kinds = frame["ClassId"].map(known_id).replace(r"(.+)", r"class_\1", regex=True)
    return pd.DataFrame({"name": frame["ImageId"].str.strip(), "kind": kinds, "runs": frame[_RUNS].str.strip()})


def _draw_runs(runs: str, size: tuple[int, int]) -> Drawn:
    """Pixels of pairs of first pixel (from 1, down the columns) and length."""
    try:
        values = np.array(runs.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        return Drawn(None, "invalid-rle", "has values that are no whole numbers")
    pixels, starts, lengths = size[0] * size[1], values[::2] - 1, values[1::2]
    if len(values) % 2 or (starts < 0).any() or (lengths < 1).any() or (lengths > pixels - starts).any():
        problem = f"has no pairs of a first pixel and a length within the {pixels} pixels of its picture"
        return Drawn(None, "invalid-rle", problem)
    steps = np.zeros(pixels + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + lengths, -1)
    return Drawn(region_of((np.cumsum(steps[:-1]) > 0).reshape(size[::-1]).T))
