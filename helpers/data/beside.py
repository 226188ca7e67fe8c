"""What lies in a dataset's folder and its reader did not use; and what to try where no layout fits."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from helpers.data.annotations import Notes
from helpers.data.folders import masked_layout, product_folders, type_folders
from helpers.data.formats import (
    LAYOUTS,
    Found,
    folders_in,
    images_in,
    is_normal_name,
    split_folders,
    word_for_defect,
    words_in,
)
from helpers.data.image_masks import MASK_WORDS, are_marked, looks_like_mask, stripped
from helpers.data.images import UNREAD_SUFFIXES

_FOLDER_LAYOUTS = ("visa", "mvtec", "plain", "classes", "image_mask")
_KNOWN_FILES = re.compile(r"dataset\.json|defects\.csv|samples\.(csv|parquet)(\.json)?|(readme|license|licence).*")
_YOLO = re.compile(rb"\s*\d+(\s+-?\d+(\.\d+)?(e-?\d+)?){4,}\s*(\n|$)")


def note_unused(path: Path, found: Found, layout: str) -> None:
    """Findings for folders of pictures, photos in formats that are not read, and annotations that nobody used."""
    notes = Notes(found.root, found.attrs.setdefault("findings", []))
    others: list[Path] = []
    pictures = images_in(path, others)
    if layout in (*_FOLDER_LAYOUTS, "voc", "severstal"):  # others say so themselves
        _note_folders(path, pictures, found, notes)

    if layout in ("coco", "labelme", "voc", "yolo", "severstal", "image_mask"):
        _note_masks_of_normal(pictures, found, notes)
        _note_normal_among_defects(found, notes)
    for loop in (entry for entry in others if entry.is_dir()):
        problem = "is a link to a folder around it, whose photos are read once, where they lie"
        notes.add("warning", loop, "link-loop", problem, "nothing, or remove the link")
    others = [file for file in others if not file.is_dir()]
    found.ignored = [file for file in found.ignored if not file.is_dir()]

    by_kind: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in others:
        if file.suffix.lower() in UNREAD_SUFFIXES:
            by_kind[file.parent, file.suffix.lower()].append(file)
        elif layout in _FOLDER_LAYOUTS and (kind := _annotation_kind(file)):
            by_kind[file.parent, kind].append(file)
    all_masked = all(row.get("mask_path") for row in found.rows if row.get("label_index"))
    said: set[Path] = set()
    for (_, kind), files in by_kind.items():
        names = f"{files[0].name}{', ...' if len(files) > 1 else ''}"
        if kind in UNREAD_SUFFIXES:
            problem = f"{len(files)} photo(s) in a format that is not read ({names}) are left out"
            notes.add("warning", files[0], "unread-format", problem, "save them as PNG or JPEG")
        else:
            problem = f"{len(files)} {kind} annotation file(s) lie here ({names}) and are not used"
            fix = f"read them with layout={kind!r}, or move them out"
            notes.add("info" if all_masked else "warning", files[0], "unused-annotations", problem, fix)
        said.update(files)
    found.ignored = [file for file in found.ignored if file not in said]
    said.update(found.ignored)
    rest = [file for file in others if file not in said and not _KNOWN_FILES.fullmatch(file.name.lower())]
    if layout in ("mvtec", "plain", "classes") and rest:
        names = ", ".join(file.name for file in rest[:3]) + (", ..." if len(rest) > 3 else "")
        notes.add("info", path, "ignored-file", f"{len(rest)} other file(s) are not used ({names})", "nothing")


def _note_folders(path: Path, pictures: list[Path], found: Found, notes: Notes) -> None:
    """A finding for each name of a folder that holds pictures of which none is a photo, a mask or listed as unused."""
    rows = (found.root / str(row[key]) for row in found.rows for key in ("image_path", "mask_path") if row.get(key))
    real: dict[Path, Path] = {}

    def place(folder: Path) -> Path:
        return real.setdefault(folder, Path(os.path.realpath(folder)))  # a link may lead there

    used = {place(file.parent) for file in (*rows, *found.unused_masks, *found.empty_masks)}
    around = used | {parent for folder in used for parent in folder.parents}
    unused: dict[Path, int] = defaultdict(int)
    for picture in pictures:
        folder = picture.parent
        if place(folder) in used:
            continue
        while folder != path and place(folder.parent) not in around:
            folder = folder.parent
        unused[folder] += 1
    by_name: dict[str, list[Path]] = defaultdict(list)
    for folder in unused:
        by_name["" if folder == path else folder.name].append(folder)
    for name, folders in by_name.items():
        count = sum(unused[folder] for folder in folders)
        more = f", as {len(folders) - 1} more folder(s) of this name" if len(folders) > 1 else ""
        problem = f"{count} picture(s) lie here{more} and are not read"
        # MVTec 3D-AD: positions as pictures
        severity = "info" if name == "xyz" else "warning"
        fix = "move them to where this layout has photos or masks, or out of the dataset"
        notes.add(severity, folders[0], "unused-pictures", problem, fix)


def _note_masks_of_normal(pictures: list[Path], found: Found, notes: Notes) -> None:
    """Errors for folders of masks that were not read and mark pixels of photos which count as normal."""
    known = {found.root / str(row[key]) for row in found.rows for key in ("image_path", "mask_path") if row.get(key)}
    known.update(found.unused_masks, found.empty_masks)
    labels: dict[tuple[str, ...], int] = defaultdict(int)
    for row in found.rows:
        labels[words_in(Path(str(row["image_path"])).stem)] |= row["label_index"]
    asked = [
        file
        for file in pictures
        if file not in known and not labels.get(stripped(words_in(file.stem), MASK_WORDS), 1) and looks_like_mask(file)
    ]
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file, marks in zip(asked, are_marked([[file] for file in asked]), strict=True):
        if marks:
            by_folder[file.parent].append(file)
    for files in by_folder.values():
        problem = f"{len(files)} mask(s) here are not read and mark pixels of photos that count as normal"
        fix = "remove them if they mark no defects, or read them: layout='image_mask' with image_dir and mask_dir"
        notes.add("error", files[0], "mask-on-good", problem, fix)


def _note_normal_among_defects(found: Found, notes: Notes) -> None:
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
        notes.add("error", folder, "defect-in-good", problem, fix)


def _annotation_kind(file: Path) -> str:
    """Layout that a file's content belongs to, or ""."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".xml", ".txt") or not file.is_file():  # to read a pipe would never end
        return ""
    content = file.read_bytes()
    if suffix == ".json":
        if b'"shapes"' in content:
            return "labelme"
        return "coco" if b'"annotations"' in content and b'"images"' in content else ""
    if suffix == ".xml":
        return "voc" if b"<annotation" in content else ""
    return "yolo" if _YOLO.match(content) else ""


# ---------------------------------------------------------------------------------------------------------------- hints


def hints_for(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What is nearly there in a folder without a layout: what is missing, and arguments of `read_dataset` to try."""
    if not path.is_dir():
        return []
    return [*_inner_hints(path), *_type_hints(path), *_pair_hints(path)]


def unread_photos(path: Path) -> str:
    """A sentence on photos in formats that are not read, or ""."""
    others: list[Path] = []
    images_in(path, others)
    unread = [file for file in others if file.suffix.lower() in UNREAD_SUFFIXES]
    suffixes = ", ".join(sorted({file.suffix for file in unread}))
    return f"{len(unread)} photo(s) are in a format that is not read ({suffixes}): save them as PNG or JPEG.\n" * bool(
        unread
    )


def _inner_hints(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Folders and tables inside that can be read themselves."""
    hints = []
    for table in sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv"):
        with table.open("rb") as file:
            if b"image_path" in file.readline(10_000):
                hints.append((f"the table {table.name} lists photos", {"path": str(table)}))
    below = folders_in(path)[:20]
    for folder in below + [entry for outer in below for entry in folders_in(outer)[:20]]:
        title = next((known.title for known in LAYOUTS.values() if known.detect(folder)), "")
        if title and not product_folders(folder) and not any(folder.is_relative_to(hint["path"]) for _, hint in hints):
            hints.append((f"its folder {folder.relative_to(path).as_posix()} is of the {title}", {"path": str(folder)}))
    return hints


def _type_hints(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Folders by type, of which none has a word for good photos."""
    folders = [folder for folder in type_folders(path) if not _is_masks(folder)]
    names = sorted({folder.name for folder in folders})
    split = bool(split_folders(path))
    if len(names) < 2 and not split:
        return []
    layout = masked_layout(path) if split else "classes"
    what = f"{LAYOUTS[layout].title}: none of its folders has a word for good photos"
    return [(what, {"layout": layout, "normal": name}) for name in names]


def _pair_hints(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Folders of photos beside one of masks."""
    folders = [folder for folder in folders_in(path) if images_in(folder, [])]
    masks = [folder for folder in folders if _is_masks(folder)]
    title = LAYOUTS["image_mask"].title
    inside = [
        (photos, folder)
        for photos in (path, *folders)
        if any(picture.parent == photos for picture in images_in(photos, []))
        for folder in folders_in(photos)
        if _is_masks(folder)
    ]
    pairs = [(photos, mask) for mask in masks for photos in folders if photos not in masks] + inside
    return [
        (
            f"{title}: the pictures in {mask.name} look like masks",
            _pair(photos.relative_to(path).as_posix(), mask.relative_to(path).as_posix()),
        )
        for photos, mask in pairs
    ]


def _pair(image_dir: str, mask_dir: str) -> dict[str, Any]:
    return {"layout": "image_mask", "image_dir": image_dir, "mask_dir": mask_dir}


def _is_masks(folder: Path) -> bool:
    pictures = images_in(folder, [])[:5]
    return bool(pictures) and all(looks_like_mask(picture) for picture in pictures)
