"""What lies in a dataset's folder and its reader did not use, or read twice, or what contradicts what it read."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from helpers.data.annotations import annotation_kind
from helpers.data.images import UNREAD_SUFFIXES, repeated_links
from helpers.data.layouts import Found, files_in, first_names, is_normal, meaning, words_in
from helpers.data.masks import MASK_WORDS, are_marked, masks_among, stripped
from helpers.paths import printable

_TYPED = ("mvtec", "plain", "classes", "visa")  # what a photo is, is said by its folder or by a list


def drop_unusable(found: Found) -> None:
    """Leave out, with findings, photos that another row has under another name, and paths that no table can hold."""
    alike: dict[Any, list[Path]] = defaultdict(list)
    for row in found.rows:
        what = tuple(str(row.get(column, "")) for column in ("label_index", "defect_type", "split", "mask_path"))
        alike[what].append(found.root / str(row.get("image_path", "")))
    repeated = {link for paths in alike.values() for link in repeated_links(paths)}
    for link in sorted(repeated):
        found.note("repeated-link", link)
    rows, found.rows = found.rows, []
    for row in rows:
        paths = [str(row.get(key) or "") for key in ("image_path", "mask_path")]
        if any(printable(path) != path for path in paths):
            found.note("unusable-name:photo", found.root / paths[0])
        elif found.root / paths[0] not in repeated:
            texts = {key: printable(value) for key, value in row.items() if isinstance(value, str)}
            found.rows.append(row | texts)


def note_unused(path: Path, found: Found, layout: str) -> None:
    """Findings for folders of pictures, files and masks that nobody used, and for names that contradict labels."""
    pictures, others = files_in(path)
    rows = (found.root / str(row[key]) for row in found.rows for key in ("image_path", "mask_path") if row.get(key))
    used = {*rows, *found.unused_masks, *found.empty_masks}
    if layout in (*_TYPED, "image_mask", "severstal"):  # others say so themselves
        _note_folders(pictures, used, found)
    if layout not in _TYPED:
        _note_masks_of_normal([file for file in pictures if file not in used], found)
    _note_defects_among_normal(found)
    for mask, marks in zip(found.unused_masks, are_marked([[mask] for mask in found.unused_masks]), strict=True):
        found.note("mask-without-photo" if marks else "mask-without-photo:empty", mask)
    by_kind: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in others:
        if file.is_dir():
            found.note("link-loop", file)
        elif file.suffix.lower() in UNREAD_SUFFIXES:
            by_kind[file.parent, file.suffix.lower()].append(file)
        elif layout in (*_TYPED, "image_mask") and (kind := annotation_kind(file)):
            by_kind[file.parent, kind].append(file)
    all_masked = all(row.get("mask_path") for row in found.rows if row.get("label_index"))
    for (_, kind), files in by_kind.items():
        unused = "unused-annotations:masked" if all_masked else "unused-annotations"
        code = "unread-format" if kind in UNREAD_SUFFIXES else unused
        found.note(code, files[0], n=len(files), layout=kind, first=first_names(files))


def _note_folders(pictures: list[Path], used: set[Path], found: Found) -> None:
    """A finding for each name of folders that hold pictures of which none is a photo, a mask or listed as unused."""
    real = {folder: os.path.realpath(folder) for folder in {file.parent for file in (*pictures, *used)}}
    known = {real[file.parent] for file in used}  # a link may lead there
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in pictures:
        if real[file.parent] not in known:
            by_name[file.parent.name].append(file)
    for files in by_name.values():
        found.note("unused-pictures", files[0].parent, n=len(files))


def _note_masks_of_normal(pictures: list[Path], found: Found) -> None:
    """Errors for folders of masks that were not read and mark pixels of photos which count as normal."""
    labels: Counter[tuple[str, ...]] = Counter()
    for row in found.rows:
        labels[words_in(Path(str(row["image_path"])).stem)] += row["label_index"]
    words = {file: stripped(words_in(file.stem), MASK_WORDS) for file in pictures}
    asked = sorted(masks_among([file for file, own in words.items() if own in labels and not labels[own]]))
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file, marks in zip(asked, are_marked([[file] for file in asked]), strict=True):
        if marks:
            by_folder[file.parent].append(file)
    for files in by_folder.values():
        found.note("mask-on-good:folder", files[0], n=len(files))


def _note_defects_among_normal(found: Found) -> None:
    """Errors for folders called as defects are, in or beside one of normal photos, with photos that count as normal."""
    photos = {found.root / str(row["image_path"]): row for row in found.rows}
    below = {photo: [folder for folder in photo.parents if folder.is_relative_to(found.root)] for photo in photos}
    good = found.good_folders | {folder for folders in below.values() for folder in folders if is_normal(folder.name)}
    types = {str(row.get("defect_type")).lower() for row in found.rows if row["label_index"]}
    beside = {folder.parent for folder in good}
    counts: Counter[Path] = Counter()
    for photo in (photo for photo, row in photos.items() if not row["label_index"]):
        counts.update(below[photo])
    for folder, count in counts.items():
        called = meaning(folder.name) == "defect" or folder.name.lower() in types
        if called and folder not in good and (folder.parent in beside or good.intersection(folder.parents)):
            found.note("defect-in-good", folder, n=count)
