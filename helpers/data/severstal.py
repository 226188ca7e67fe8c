"""Severstal's steel strips: photos and a table of run lengths, one row a photo and class, as a sample table.

From the Kaggle competition "Severstal: Steel Defect Detection" (2019). ``train.csv`` was published twice: with
``ImageId_ClassId`` (``0002cc93b.jpg_1``) and a row for each of the four classes of each photo, empty where there is
none, and with ``ImageId``, ``ClassId`` and rows for defects only. Run lengths are pairs of first pixel and length;
pixels count from 1, down the columns and then across, as COCO's counts do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.analysis.regions import Drawn, region_of
from helpers.data.annotations import Content, Photo, add_rows, draw_objects, known_id, note_unknown
from helpers.data.layouts import Found, LayoutError, pictures_in
from helpers.data.names import match_names
from helpers.progress import progress

_SIZE = (256, 1600)  # (H, W) of every photo: the height is needed to read run lengths
_TABLE = "train.csv"
_RUNS = "EncodedPixels"


def has_severstal(path: Path) -> bool:
    """Whether the folder holds a ``train.csv`` with run lengths."""
    file = path / _TABLE
    if not file.is_file():
        return False
    with file.open("rb") as lines:
        return _RUNS.encode() in lines.readline(1000)


def read_severstal(found: Found, *, image_dir: str | Path = "train_images") -> None:
    """``train.csv`` and the photos it names, in ``image_dir`` relative to it.

    A photo without runs is normal. The defect type of another is the class that covers most pixels (``class_3``), and
    the column ``defect_types`` names all. Photos without a row are normal where the table lists defects only, and are
    left out where it lists every photo, as is a photo of another size.
    """
    file, folder = found.path / _TABLE, found.path / image_dir
    rows = _rows(file)
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder} with the photos of {_TABLE}; name it with image_dir=.")
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
        content = Content([(f"row {row.Index + 2}", row.kind, partial(_draw, row.runs)) for row in those], _SIZE)
        if photo not in unclear and (drawn := draw_objects(found, photo, content, file)):
            read.append(Photo(photo, "", drawn[1], file))
    add_rows(found, sorted(read), largest=True)


def _rows(file: Path) -> pd.DataFrame:
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
    columns = {
        "name": frame["ImageId"].str.strip(),
        "kind": frame["ClassId"].map(known_id).replace(r"(.+)", r"class_\1", regex=True),
    }
    return pd.DataFrame(columns | {"runs": frame[_RUNS].str.strip()})


def _draw(runs: str, size: tuple[int, int]) -> Drawn:
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
