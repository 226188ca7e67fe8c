"""What lies in a dataset's folder and its reader did not use, or read twice."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from helpers.data.images import UNREAD_SUFFIXES, repeated_links
from helpers.data.layouts import Found, files_in, first_names, is_normal_name, word_for_defect, words_in
from helpers.data.masks import MASK_WORDS, are_marked, looks_like_mask, stripped
from helpers.paths import printable

_FOLDER_LAYOUTS = ("visa", "mvtec", "plain", "classes", "image_mask")
_KNOWN_FILES = re.compile(r"dataset\.json|defects\.csv|samples\.(csv|parquet)(\.json)?|(readme|license|licence).*")
_YOLO = re.compile(rb"\s*\d+(\s+-?\d+(\.\d+)?(e-?\d+)?){4,}\s*(\n|$)")


def note_unused(path: Path, found: Found, layout: str) -> None:
    """Findings for folders of pictures, photos in formats that are not read, and annotations that nobody used."""
    pictures, others = files_in(path)
    if layout in (*_FOLDER_LAYOUTS, "voc", "severstal"):  # others say so themselves
        _note_folders(path, pictures, found)
    if layout in ("coco", "labelme", "voc", "yolo", "severstal", "image_mask"):
        _note_masks_of_normal(pictures, found)
        _note_normal_among_defects(found)
    found.ignored = [file for file in found.ignored if not file.is_dir()]
    by_kind: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in others:
        if file.is_dir():
            found.note("link-loop", file)
        elif file.suffix.lower() in UNREAD_SUFFIXES:
            by_kind[file.parent, file.suffix.lower()].append(file)
        elif layout in _FOLDER_LAYOUTS and (kind := _annotation_kind(file)):
            by_kind[file.parent, kind].append(file)
    all_masked = all(row.get("mask_path") for row in found.rows if row.get("label_index"))
    for (_, kind), files in by_kind.items():
        code = "unread-format" if kind in UNREAD_SUFFIXES else f"unused-annotations{':masked' * all_masked}"
        found.note(code, files[0], n=len(files), layout=kind, first=first_names(files))
    said = {file for files in by_kind.values() for file in files}
    found.ignored = [file for file in found.ignored if file not in said]
    said.update(found.ignored)
    rest = [f for f in others if f not in said and not f.is_dir() and not _KNOWN_FILES.fullmatch(f.name.lower())]
    if layout in ("mvtec", "plain", "classes") and rest:
        found.note("ignored-file:others", path, n=len(rest), first=first_names(rest, 3))


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


def _files_of(found: Found) -> set[Path]:
    """Photos and masks of the rows, and masks that are known to be no photos."""
    rows = (found.root / str(row[key]) for row in found.rows for key in ("image_path", "mask_path") if row.get(key))
    return {*rows, *found.unused_masks, *found.empty_masks}


def _note_folders(path: Path, pictures: list[Path], found: Found) -> None:
    """A finding for each name of a folder that holds pictures of which none is a photo, a mask or listed as unused."""
    real: dict[Path, Path] = {}

    def place(folder: Path) -> Path:
        return real.setdefault(folder, Path(os.path.realpath(folder)))  # a link may lead there

    used = {place(file.parent) for file in _files_of(found)}
    around = used | {parent for folder in used for parent in folder.parents}
    unused: Counter[Path] = Counter()
    for folder in (picture.parent for picture in pictures if place(picture.parent) not in used):
        while folder != path and place(folder.parent) not in around:
            folder = folder.parent
        unused[folder] += 1
    by_name: dict[str, list[Path]] = defaultdict(list)
    for folder in unused:
        by_name["" if folder == path else folder.name].append(folder)
    for name, folders in by_name.items():
        count = sum(unused[folder] for folder in folders)
        more = f", as {len(folders) - 1} more folder(s) of this name" if len(folders) > 1 else ""
        kind = "unused-pictures:xyz" if name == "xyz" else "unused-pictures"  # MVTec 3D-AD: positions as pictures
        found.note(kind, folders[0], n=count, more=more)


def _note_masks_of_normal(pictures: list[Path], found: Found) -> None:
    """Errors for folders of masks that were not read and mark pixels of photos which count as normal."""
    known = _files_of(found)
    labels: Counter[tuple[str, ...]] = Counter()
    for row in found.rows:
        labels[words_in(Path(str(row["image_path"])).stem)] += row["label_index"]

    def is_of_normal(file: Path) -> bool:
        words = stripped(words_in(file.stem), MASK_WORDS)
        return file not in known and words in labels and not labels[words] and looks_like_mask(file)

    asked = list(filter(is_of_normal, pictures))
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file, marks in zip(asked, are_marked([[file] for file in asked]), strict=True):
        if marks:
            by_folder[file.parent].append(file)
    for files in by_folder.values():
        found.note("mask-on-good:folder", files[0], n=len(files))


def _note_normal_among_defects(found: Found) -> None:
    """Errors for folders called as defects, beside one called as normal photos, with photos that count as normal."""
    photos = [found.root / str(row["image_path"]) for row in found.rows]
    below = {photo: [folder for folder in photo.parents if folder.is_relative_to(found.root)] for photo in photos}
    beside_normal = {folder.parent for folders in below.values() for folder in folders if is_normal_name(folder.name)}
    counts = Counter(
        folder
        for photo, row in zip(photos, found.rows, strict=True)
        if not row["label_index"]
        for folder in below[photo]
        if folder.parent in beside_normal and word_for_defect(folder.name)
    )
    for folder, count in counts.items():
        found.note("defect-in-good:beside", folder, n=count)


def _annotation_kind(file: Path) -> str:
    """Layout that a file's content belongs to, or ""."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".xml", ".txt") or not file.is_file():  # to read a pipe would never end
        return ""
    content = file.read_bytes()
    if suffix == ".txt":
        return "yolo" * bool(_YOLO.match(content))
    words = {"labelme": (b'"shapes"',), "coco": (b'"annotations"', b'"images"')}
    words = words if suffix == ".json" else {"voc": (b"<annotation",)}
    return next((layout for layout, those in words.items() if all(word in content for word in those)), "")
