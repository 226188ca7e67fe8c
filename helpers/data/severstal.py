"""Severstal's steel strips: photos and a table of run lengths, one row a photo and class, as a sample table.

From the Kaggle competition "Severstal: Steel Defect Detection" (2019). ``train.csv`` was published twice: with
``ImageId_ClassId`` (``0002cc93b.jpg_1``) and a row for each of the four classes of each photo, empty where there is
none, and with ``ImageId``, ``ClassId`` and rows for defects only. Run lengths are pairs of first pixel and length;
pixels count from 1, down the columns and then across. COCO's counts go down the columns too, so pycocotools draws
them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from helpers.data.annotations import Drawn, Notes, cached_mask, draw_rle, mask_folder, photo_size
from helpers.data.formats import Found, LayoutError, images_in, tree
from helpers.data.layouts import match_names
from helpers.data.samples import NORMAL
from helpers.progress import progress

SIZE = (256, 1600)
"""(H, W) of every photo; the height is needed to read run lengths, so a photo of another size is left out."""
CLASSES = ("1", "2", "3", "4")

_TABLE = "train.csv"
_PHOTOS = "train_images"
_RUNS = "EncodedPixels"
_JOINT = "ImageId_ClassId"
_COLUMNS = ("ImageId", "ClassId")
_MEND = "take train.csv as it was published, or correct this row"


def has_severstal(path: Path) -> bool:
    """Whether the folder holds a ``train.csv`` with run lengths."""
    file = path / _TABLE
    if not file.is_file():
        return False
    with file.open("rb") as lines:
        return _RUNS.encode() in lines.readline(1000)


def read_severstal(path: Path, *, image_dir: str | Path = _PHOTOS, mask_cache: str | Path | None = None) -> Found:
    """Read ``train.csv`` and the photos it names; reached through `helpers.read_dataset`.

    A photo without runs is normal. The mask of an abnormal one holds the defects of all its classes, its
    ``defect_type`` is the class that covers most pixels (``class_3``), and the column ``defect_types`` names all of
    them (``class_1+class_3``; "" for normal photos). Photos without a row are normal where the table lists defects
    only, and are left out with a finding where it lists every photo.

    A photo is left out with a finding, for its mask would lack a defect, if one of its rows has an unknown class, an
    odd number of values, values that are no pixels, or a run beyond the picture, or if it is missing or of another
    size. Runs that overlap count once, with a finding.

    Args:
        path: the folder of ``train.csv``.
        image_dir: folder of the photos, relative to ``path``.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: no such table or folder, columns are missing, or no photo can be used.
    """
    file = path / _TABLE
    if not has_severstal(path):
        raise LayoutError(f"{path} has no {_TABLE} with a column {_RUNS}.\n{tree(path)}")
    folder = path / image_dir
    if not folder.is_dir():
        raise LayoutError(f"There is no folder {folder} with the photos of {_TABLE}; name it with image_dir=.")
    notes = Notes(path)
    found = Found([], path, published_split=False, name=path.name, attrs={"findings": notes.rows})
    found.attrs["mask_cache"] = str(mask_folder(path, mask_cache))
    photos = {photo.relative_to(folder).as_posix(): photo for photo in images_in(folder, found.ignored)}
    frame = _rows(file)
    names, refused = match_names(frame["photo"], photos.values(), folder)
    unclear = {photo.relative_to(folder).as_posix() for alike in refused.values() for photo in alike}
    for name, alike in refused.items():
        notes.refused(file, name, alike)
    known = {name: photo.relative_to(folder).as_posix() for name, photo in names.items()}
    frame["photo"] = frame["photo"].map(lambda name: known.get(name, name))
    frame = frame[~frame["photo"].isin(set(refused))]
    if not names:
        raise LayoutError(f"{file} lists no photo of {folder}: {', '.join(frame['photo'][:3])}; see image_dir=.")
    left_out = unclear | _note_missing(frame, photos, file, notes) | _note_unknown_classes(frame, file, notes)
    every_photo = bool((frame["runs"] == "").any())
    without = sorted(set(photos) - set(frame["photo"]) - unclear)
    if without:
        normal = "neither normal nor abnormal is known; left out" if every_photo else "they count as normal"
        problem = f"{len(without)} photo(s) are not in {_TABLE} ({without[0]} first): {normal}"
        severity = "warning" if every_photo else "info"
        notes.add(severity, folder, "photos-not-annotated", problem, f"add rows for them, if {_TABLE} is not whole")
        left_out |= set(without) if every_photo else set()

    drawn = _regions(frame[(frame["runs"] != "") & ~frame["photo"].isin(left_out)], photos, file, notes, left_out)
    kept = {name: photo for name, photo in sorted(photos.items()) if name not in left_out}
    if not kept:
        raise LayoutError(f"{path} has no photo that can be used:\n{notes.summary()}")

    def mask_of(name: str) -> str:
        regions = list(drawn[name].values()) if name in drawn else []
        photo = photos[name].relative_to(path).as_posix() if photos[name].is_relative_to(path) else name
        return str(cached_mask(Path(found.attrs["mask_cache"]), photo, regions)) if regions else ""

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as executor:
        masks = list(progress(executor.map(mask_of, kept), "Drawing masks", total=len(kept)))
    for (name, photo), mask in zip(kept.items(), masks, strict=True):
        areas = {kind: int(coco_mask.area(region)) for kind, region in drawn.get(name, {}).items()}
        row = {
            "image_path": str(photo),
            "mask_path": mask,
            "label_index": int(bool(areas)),
            "defect_type": min(areas, key=lambda kind: (-areas[kind], kind)) if areas else NORMAL,
            "defect_types": "+".join(sorted(areas)),
        }
        found.rows.append(row)
    return found


def runs_to_counts(runs: str, size: tuple[int, int] = SIZE) -> tuple[list[int], int]:
    """COCO's counts of pairs of first pixel (from 1, down the columns) and length.

    Args:
        runs: numbers with spaces between; runs may come in any order.
        size: (H, W) of the picture.

    Returns:
        Lengths of background and defect in turn, which add up to H * W, and the number of pixels that more than one
        run holds.

    Raises:
        ValueError: the text is no such list, or a run reaches beyond the picture; the message begins with a verb.
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
        first = int(beyond.argmax())
        raise ValueError(
            f"has the run {starts[first] + 1} {lengths[first]}, which reaches beyond the {pixels} pixels of a picture "
            f"of {size[1]}x{size[0]} (width x height)"
        )
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], (starts + lengths)[order]
    reach = np.maximum.accumulate(ends)
    # a run that does not begin behind all before it goes on with them
    new = starts > np.r_[-1, reach][:-1]
    starts, ends = starts[new], reach[np.r_[new, True][1:]]
    edges = np.stack([starts, ends], axis=1).ravel()
    overlap = int(lengths.sum() - (ends - starts).sum())
    return np.diff(edges, prepend=0, append=pixels).tolist(), overlap


def _rows(file: Path) -> pd.DataFrame:
    """Columns photo, kind (class) and runs of the table, all text."""
    try:
        frame = pd.read_csv(file, dtype="str", keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise LayoutError(f"{file} is not a CSV file ({error}); download it again.") from error
    if _JOINT in frame:
        photo, kind = frame[_JOINT].str.rpartition("_")[[0, 2]].to_numpy().T
    elif set(_COLUMNS) <= set(frame):
        photo, kind = (frame[column] for column in _COLUMNS)
    else:
        raise LayoutError(f"{file} has neither a column {_JOINT} nor {' and '.join(_COLUMNS)}.")
    kind = pd.Series(kind).str.strip().str.replace(r"\.0+$", "", regex=True)  # as pandas writes numbers with gaps
    columns = {"photo": photo, "kind": kind, "runs": frame[_RUNS]}
    return pd.DataFrame({name: pd.Series(values).str.strip().to_numpy() for name, values in columns.items()})


def _note_missing(frame: pd.DataFrame, photos: dict[str, Path], file: Path, notes: Notes) -> set[str]:
    missing = sorted(set(frame["photo"]) - set(photos))
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        problem = f"lists {len(missing)} photo(s) that are not there ({names}); they are left out"
        notes.add("error", file, "missing-photo", problem, "put them into the folder of the photos")
    return set(missing)


def _note_unknown_classes(frame: pd.DataFrame, file: Path, notes: Notes) -> set[str]:
    unknown = frame[~frame["kind"].isin(CLASSES)]
    for row in unknown.itertuples():
        problem = f"row {row.Index + 2} has the class {row.kind!r}, not {', '.join(CLASSES)}; {row.photo} is left out"
        notes.add("error", file, "unknown-category", problem, _MEND)
    return set(unknown["photo"])


def _regions(
    frame: pd.DataFrame, photos: dict[str, Path], file: Path, notes: Notes, left_out: set[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Region of each class of each photo; photos that cannot be used are added to ``left_out``."""
    drawn: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    sizes: dict[str, tuple[int, int] | None] = {}
    for row in progress(frame.itertuples(), "Reading run lengths", total=len(frame)):
        name = str(row.photo)
        if name not in sizes:
            sizes[name] = photo_size(photos[name], SIZE, file, notes)
        if sizes[name] is None:  # noted
            left_out.add(name)
            continue
        kind = f"class_{row.kind}"
        if kind in drawn[name]:
            found = Drawn(None, "class-listed-twice", f"repeats {kind}")
        else:
            found = _drawn(str(row.runs), notes, file, f"row {row.Index + 2}")
        if found.region is None:
            problem = f"row {row.Index + 2} {found.problem}; {name} is left out"
            notes.add("error", file, found.code, problem, _MEND)
            left_out.add(name)
        else:
            drawn[name][kind] = found.region
    return drawn


def _drawn(runs: str, notes: Notes, file: Path, where: str) -> Drawn:
    try:
        counts, overlap = runs_to_counts(runs)
    except ValueError as error:
        return Drawn(None, "invalid-rle", str(error))
    if overlap:
        problem = f"{where} has runs that overlap in {overlap} pixel(s), which count once"
        notes.add("warning", file, "overlapping-runs", problem, _MEND)
    return draw_rle({"size": list(SIZE), "counts": counts}, SIZE)
