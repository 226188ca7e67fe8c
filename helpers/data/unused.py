"""What lies in a dataset's folder and its reader did not use, or read twice."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from helpers.data.images import UNREAD_SUFFIXES, repeated_links
from helpers.data.layouts import Found, files_in, is_normal_name, word_for_defect, words_in
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
            problem = "is a link to a folder around it, whose photos are read once, where they lie"
            found.note("warning", "link-loop", file, problem, "nothing, or remove the link")
        elif file.suffix.lower() in UNREAD_SUFFIXES:
            by_kind[file.parent, file.suffix.lower()].append(file)
        elif layout in _FOLDER_LAYOUTS and (kind := _annotation_kind(file)):
            by_kind[file.parent, kind].append(file)
    all_masked = all(row.get("mask_path") for row in found.rows if row.get("label_index"))
    for (_, kind), files in by_kind.items():
        if kind in UNREAD_SUFFIXES:
            problem = f"{len(files)} photo(s) in a format that is not read ({_names(files, 1)}) are left out"
            found.note("warning", "unread-format", files[0], problem, "save them as PNG or JPEG")
        else:
            problem = f"{len(files)} {kind} annotation file(s) lie here ({_names(files, 1)}) and are not used"
            fix = f"read them with layout={kind!r}, or move them out"
            found.note("info" if all_masked else "warning", "unused-annotations", files[0], problem, fix)
    said = {file for files in by_kind.values() for file in files}
    found.ignored = [file for file in found.ignored if file not in said]
    said.update(found.ignored)
    rest = [f for f in others if f not in said and not f.is_dir() and not _KNOWN_FILES.fullmatch(f.name.lower())]
    if layout in ("mvtec", "plain", "classes") and rest:
        found.note(
            "info", "ignored-file", path, f"{len(rest)} other file(s) are not used ({_names(rest, 3)})", "nothing"
        )


def drop_unusable(found: Found) -> None:
    """Leave out, with findings, photos that another row has under another name, and paths that no table can hold."""
    alike: dict[Any, list[Path]] = defaultdict(list)
    for row in found.rows:
        what = tuple(str(row.get(column, "")) for column in ("label_index", "defect_type", "split", "mask_path"))
        alike[what].append(found.root / str(row.get("image_path", "")))
    repeated = {link for paths in alike.values() for link in repeated_links(paths)}
    for link in sorted(repeated):
        problem = "is a link to a photo that is in the table already; it is left out"
        found.note("info", "repeated-link", link, problem, "nothing, or remove the link")
    rows, found.rows = found.rows, []
    for row in rows:
        paths = [str(row.get(key) or "") for key in ("image_path", "mask_path")]
        if any(printable(path) != path for path in paths):
            problem = "is left out: its name (or its mask's) is not valid UTF-8, or holds control characters"
            fix = "rename it with letters, digits, dots, dashes and underscores"
            found.note("error", "unusable-name", found.root / paths[0], problem, fix)
        elif found.root / paths[0] not in repeated:
            texts = {key: printable(value) for key, value in row.items() if isinstance(value, str)}
            found.rows.append(row | texts)


def _names(files: list[Path], most: int) -> str:
    return ", ".join(file.name for file in files[:most]) + (", ..." if len(files) > most else "")


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
        severity = "info" if name == "xyz" else "warning"  # MVTec 3D-AD: positions as pictures
        fix = "move them to where this layout has photos or masks, or out of the dataset"
        found.note(severity, "unused-pictures", folders[0], f"{count} picture(s) lie here{more} and are not read", fix)


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
        problem = f"{len(files)} mask(s) here are not read and mark pixels of photos that count as normal"
        fix = "remove them if they mark no defects, or read them: layout='image_mask' with image_dir and mask_dir"
        found.note("error", "mask-on-good", files[0], problem, fix)


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
        problem = f"{count} photo(s) here count as normal, but the name of their folder is that of defects"
        fix = "annotate them, rename the folder, or read the folders as they are called: layout='classes'"
        found.note("error", "defect-in-good", folder, problem, fix)


def _annotation_kind(file: Path) -> str:
    """Layout that a file's content belongs to, or ""."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".xml", ".txt") or not file.is_file():  # to read a pipe would never end
        return ""
    content = file.read_bytes()
    if suffix == ".json" and b'"shapes"' in content:
        return "labelme"
    if suffix == ".json":
        return "coco" if b'"annotations"' in content and b'"images"' in content else ""
    if suffix == ".xml":
        return "voc" if b"<annotation" in content else ""
    return "yolo" if _YOLO.match(content) else ""
