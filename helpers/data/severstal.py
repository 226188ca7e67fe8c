"""Severstal's steel strips: photos and a table of run lengths, one row a photo and class, as a sample table.

From the Kaggle competition "Severstal: Steel Defect Detection" (2019). ``train.csv`` was published twice: with
``ImageId_ClassId`` (``0002cc93b.jpg_1``) and a row for each of the four classes of each photo, empty where there is
none, and with ``ImageId``, ``ClassId`` and rows for defects only. Run lengths are pairs of first pixel and length;
pixels count from 1, down the columns and then across, as COCO's counts do.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.analysis.regions import Drawn, Region, draw_rle
from helpers.data.layouts import Found, LayoutError, files_in, tree
from helpers.data.names import match_names
from helpers.progress import progress

SIZE = (256, 1600)
"""(H, W) of every photo; the height is needed to read run lengths, so a photo of another size is left out."""

_CLASSES = ("1", "2", "3", "4")
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
    left out where it lists every photo, as is a photo of which one row cannot be used, or of another size.
    """
    path, file = found.path, found.path / _TABLE
    folder = path / image_dir
    if not has_severstal(path):
        raise LayoutError(f"{path} has no {_TABLE} with a column {_RUNS}.\n{tree(path)}")
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder} with the photos of {_TABLE}; name it with image_dir=.")
    photos, found.ignored = files_in(folder)
    frame = _rows(file)
    named, refused = match_names(frame["name"], photos, folder)
    if not named:
        raise LayoutError(f"{file} lists no photo of {folder}: {', '.join(frame['name'][:3])}; see image_dir=.")
    for name, alike in refused.items():
        found.note_ambiguous(file, name, alike)
    left_out = {photo for alike in refused.values() for photo in alike}
    missing = sorted(set(frame["name"]) - set(named) - set(refused))
    if missing:
        found.note("missing-photo:listed", file, n=len(missing), first=", ".join(missing[:3]))
    without = sorted(set(photos) - set(named.values()) - left_out)
    if without:
        every_photo = bool((frame["runs"] == "").any())
        kind = f"photos-not-annotated:{'rows' if every_photo else 'defects'}"
        found.note(kind, folder, n=len(without), first=without[0].name)
        left_out |= set(without) if every_photo else set()
    frame["photo"] = frame["name"].map(named)
    objects = _objects(frame[frame["photo"].notna() & ~frame["photo"].isin(left_out)], file, left_out, found)
    for photo in (photo for photo in photos if photo not in left_out):
        found.add_row(photo, list(objects[photo].items()), largest=True)


def runs_to_counts(runs: str, size: tuple[int, int] = SIZE) -> tuple[list[int], int]:
    """COCO's counts of pairs of first pixel (from 1, down the columns) and length, and how many pixels are repeated.

    ValueError, whose message begins with a verb: the text is no such list, or a run reaches beyond the picture.
    """
    try:
        values = np.array(runs.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError("has values that are no whole numbers") from None
    if len(values) % 2:
        raise ValueError(f"has {len(values)} values, an odd number: starts and lengths come in pairs")
    starts, lengths = values[::2] - 1, values[1::2]
    if (starts < 0).any() or (lengths < 1).any():
        raise ValueError("has a start or a length below 1")
    pixels = size[0] * size[1]
    beyond = (starts >= pixels) | (lengths > pixels - starts)
    if beyond.any():
        run = f"{starts[beyond][0] + 1} {lengths[beyond][0]}"
        picture = f"{pixels} pixels of a picture of {size[1]}x{size[0]} (width x height)"
        raise ValueError(f"has the run {run}, which reaches beyond the {picture}")
    order = np.argsort(starts)
    starts, reach = starts[order], np.maximum.accumulate((starts + lengths)[order])
    # a run that does not begin behind all before it goes on with them
    new = starts > np.r_[-1, reach][:-1]
    edges = np.stack([starts[new], reach[np.r_[new, True][1:]]], axis=1)
    overlap = int(lengths.sum() - np.diff(edges).sum())
    return np.diff(edges.ravel(), prepend=0, append=pixels).tolist(), overlap


def _rows(file: Path) -> pd.DataFrame:
    """Columns name (of the photo), kind (class) and runs of the table, all text."""
    try:
        frame = pd.read_csv(file, dtype="str", keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise LayoutError(f"{file} is not a CSV file ({error}); download it again.") from error
    if "ImageId_ClassId" in frame:
        joint = frame["ImageId_ClassId"].str.rpartition("_")
        frame["ImageId"], frame["ClassId"] = joint[0], joint[2]
    if not {"ImageId", "ClassId"} <= set(frame):
        raise LayoutError(f"{file} has neither a column ImageId_ClassId nor ImageId and ClassId.")
    columns = {"name": frame["ImageId"], "kind": frame["ClassId"], "runs": frame[_RUNS]}
    rows = pd.DataFrame({name: column.str.strip() for name, column in columns.items()})
    rows["kind"] = rows["kind"].str.replace(r"\.0+$", "", regex=True)  # as pandas writes numbers with gaps
    return rows


def _objects(frame: pd.DataFrame, file: Path, left_out: set[Path], found: Found) -> dict[Path, dict[str, Region]]:
    """Region of each class of each photo; photos that cannot be used are added to ``left_out``."""
    objects: dict[Path, dict[str, Region]] = defaultdict(dict)
    sizes: dict[Path, tuple[int, int] | None] = {}
    for row in progress(frame.itertuples(), "Reading run lengths", total=len(frame)):
        photo, kind, where = row.photo, f"class_{row.kind}", f"row {row.Index + 2}"
        if row.kind not in _CLASSES:
            drawn = Drawn(None, "unknown-category", f"has the class {row.kind!r}, not {', '.join(_CLASSES)}")
        elif not row.runs:
            continue
        elif kind in objects[photo]:
            drawn = Drawn(None, "class-listed-twice", f"repeats {kind}")
        else:
            drawn = _draw(row.runs, where, file, found)
        if photo not in sizes and drawn.region is not None:
            sizes[photo] = found.photo_size(photo, SIZE, file)
        found.note_drawn(drawn, file, f"{where}, of {photo.name},")
        if drawn.region is None or sizes[photo] is None:
            left_out.add(photo)
        else:
            objects[photo][kind] = drawn.region
    return objects


def _draw(runs: str, where: str, file: Path, found: Found) -> Drawn:
    try:
        counts, overlap = runs_to_counts(runs)
    except ValueError as error:
        return Drawn(None, "invalid-rle", str(error))
    if overlap:
        found.note("overlapping-runs", file, where=where, n=overlap)
    return draw_rle({"size": [*SIZE], "counts": counts}, SIZE)
