"""Photos whose class is in their file name or in Pascal VOC files of boxes, such as those of NEU, as a sample table.

A VOC file (Everingham et al., "The Pascal Visual Object Classes Challenge", 2010) has the stem of its photo. Its boxes
count from 1 and hold their last column and row.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from helpers.analysis.regions import Drawn, Region, draw_box, draw_polygon
from helpers.data.annotations import AnnotationError, listed_splits, pair_files, read_text
from helpers.data.images import IMAGE_SUFFIXES
from helpers.data.layouts import (
    Found,
    LayoutError,
    child,
    entries,
    files_in,
    folders_in,
    is_normal,
    split_folders,
    tree,
)
from helpers.data.names import match_listed
from helpers.progress import progress

_CLASS_SOURCES = ("auto", "name", "objects")
_IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROTATED = ("cx", "cy", "w", "h", "angle")  # roLabelImg; the angle in radians


class _Content(NamedTuple):
    """What a VOC file says: (H, W) if it does, and for each object a name and corners (or centre, size and angle)."""

    size: tuple[int, int] | None
    objects: list[tuple[str, list[str]]]
    file_name: str


class _Photo(NamedTuple):
    """A photo, its VOC file and what that says; None where there is no file, or none that can be read."""

    path: Path
    split: str
    file: Path | None
    content: _Content | None


def has_voc(path: Path) -> bool:
    """Whether the folder, or one of its split folders, holds photos and XML files in folders of these names."""
    return path.is_dir() and any(_xml_files(files) and files_in(images)[0] for images, files, _ in _pairs(path))


def _class_in_name(photo: Path) -> str:
    match = re.fullmatch(r"(.+)_\d+", photo.stem)
    return match.group(1) if match else ""


def read_voc(
    found: Found, *, class_from: str = "auto", boxes_as_masks: bool = False, encoding: str | None = None
) -> None:
    """Photos with VOC files, or those of each split's folder.

    ``class_from`` "name": the class is what stands before the last ``_`` and digits of the file name, and the photo is
    normal if that is a word for good photos. "objects": it is the name whose boxes cover most pixels, objects of those
    words count as none, a photo without objects is normal, and one without a file is left out. "auto": by name where
    every photo's name begins with the name of some object of the dataset or a word for normal, else by objects. The
    column ``defect_types`` has the names of all objects. Lists ``train.txt``, ``val.txt`` and ``test.txt`` in
    ``ImageSets/Main`` (or in ``ImageSets``, or beside) are the published split, and photos in none of them are left
    out. A file with a document type is refused unread: it could define entities that grow without limit.
    ``boxes_as_masks``: draw all boxes of a photo as its mask, though most of what a box holds may be sound.
    ``encoding``: of the files; default: what they declare, else UTF-8.
    """
    path = found.path
    if class_from not in _CLASS_SOURCES:
        raise ValueError(f"class_from is {class_from!r}; use one of {', '.join(_CLASS_SOURCES)}.")
    if not path.is_dir() or not _pairs(path):
        raise LayoutError(f"{path} has no XML files beside photos or in ANNOTATIONS beside IMAGES.\n{tree(path)}")
    photos = _photos(found, encoding)
    names = {name for photo in photos if photo.content for name, _ in photo.content.objects if name}
    are_classes = bool(names) and all((name := _class_in_name(p.path)) in names or is_normal(name) for p in photos)
    by_name = class_from == "name" or (class_from == "auto" and are_classes)
    nameless = [photo.path for photo in photos if by_name and not _class_in_name(photo.path)]
    if nameless:
        raise LayoutError(
            f"{nameless[0]} and {len(nameless) - 1} more: the name is not <class>_<number>; use class_from='objects'."
        )
    mixed = [photo.path for photo in progress(photos, "Reading boxes") if _add(photo, by_name, boxes_as_masks, found)]
    without = [photo.path for photo in photos if photo.file is None]
    if without:
        counts = "their class is that of their name" if by_name else "neither normal nor abnormal is known; left out"
        found.note("photos-not-annotated:file", path, n=len(without), first=without[0].name, counts=counts)
    if mixed:
        found.note(f"several-classes{':name' * by_name}", path, n=len(mixed), first=mixed[0].name)
    if boxes_as_masks:
        found.note("boxes-as-masks", path)


def _pairs(path: Path) -> list[tuple[Path, Path, str]]:
    """Folders of photos, of their files, and split: by their names, or of both kinds; this one, else split folders."""
    pairs = []
    for split, folder in {"": path, **split_folders(path)}.items():
        images, files = child(folder, *_IMAGE_FOLDERS), child(folder, "annotations")
        if images is None or files is None:
            here = entries(folder)
            stems = {entry.stem.lower() for entry in here if entry.suffix.lower() == ".xml"}
            both = any(e.stem.lower() in stems and e.suffix.lower() in IMAGE_SUFFIXES for e in here)
            images = files = folder if both else None
        if images and files:
            pairs.append((images, files, split))
            if not split:
                break
    return pairs


def _xml_files(folder: Path) -> list[Path]:
    return [file for file in files_in(folder)[1] if file.suffix.lower() == ".xml"]


def _photos(found: Found, encoding: str | None) -> list[_Photo]:
    """All photos that may be used, with what their files say, in the splits of folders or else of lists."""
    ways, photos, contents = [], {}, {}
    for images, files, split in _pairs(found.path):
        pictures, others = files_in(images)
        photos |= dict.fromkeys(pictures, split)
        # each XML file is used, or has a finding
        found.ignored += [file for file in others if file.suffix.lower() != ".xml"]
        stems = {file: file.relative_to(files).with_suffix("").as_posix() for file in _xml_files(files)}
        contents |= {file: _load(file, found, encoding) for file in stems}
        # photos may lie in folders of their classes while the files lie together
        ways.append((match_listed, stems, pictures, images))
    written = {file: content.file_name for file, content in contents.items() if content}
    files, left_out = pair_files(ways, list(photos), found, written)
    splits = _listed_splits(list(photos), [images for *_, images in ways], found)
    kept = [photo for photo in photos if photo not in left_out and (not splits or photo in splits)]
    return [
        _Photo(photo, splits.get(photo, photos[photo]), files.get(photo), contents.get(files.get(photo)))
        for photo in kept
    ]


def _listed_splits(photos: list[Path], folders: list[Path], found: Found) -> dict[Path, str]:
    """Splits by lists in ``ImageSets/Main``, in another folder of ``ImageSets``, in it or beside it."""
    sets = [entry for entry in folders_in(found.path) if entry.name.lower() == "imagesets"]
    inside = sorted((entry for entry in sets for entry in folders_in(entry)), key=lambda e: e.name.lower() != "main")
    for folder in (*inside, *sets, found.path):
        there = {entry.name.lower(): entry for entry in entries(folder) if entry.is_file()}
        lists = {split: there[f"{split}.txt"] for split in ("train", "val", "test") if f"{split}.txt" in there}
        if not {"train", "val"} & set(lists) and "trainval.txt" in there:
            lists["train"] = there["trainval.txt"]
        if lists:
            return listed_splits(lists, photos, folders, found)
    return {}


def _load(file: Path, found: Found, encoding: str | None) -> _Content | None:
    """Content of a VOC file, or None after a finding."""
    problem, fix = "", "export it again"
    try:
        with file.open("rb") as beginning:
            declared = re.match(rb"[^<]{0,3}<\?xml[^>]*encoding=[\"']([\w.-]+)", beginning.read(200))
        named = declared.group(1).decode() if declared else "utf"
        text = read_text(file, encoding or (None if named.lower().startswith("utf") else named))
        # expat expands entities that a document type defines; without the zeros UTF-16 reads like ASCII
        if "<!doctype" in text.replace("\0", "").lower():
            problem = "has a document type (DOCTYPE), which VOC files have not; it is not read"
            fix = "remove it if you trust the file"
        else:
            top = ElementTree.fromstring(text)
            if top.tag != "annotation":
                problem = f"is no VOC file: it begins with <{top.tag}>, not <annotation>"
    except AnnotationError as error:
        problem, fix = error.problem, error.fix
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        problem = f"is not valid XML ({error})"
    if problem:
        found.note("invalid-annotation", file, problem=problem, fix=fix)
        return None
    objects = []
    for thing in top.iterfind("object"):
        kind, keys = ("robndbox", _ROTATED) if thing.find("robndbox") is not None else ("bndbox", _CORNERS)
        name = (thing.findtext("name") or "").strip()
        objects.append((name, [thing.findtext(f"{kind}/{key}") or "" for key in keys]))
    stated = [top.findtext(f"size/{key}") or "" for key in ("height", "width")]
    # some tools write zeros for a size they do not know
    known = all(text.strip().isdecimal() and len(text) < 10 and int(text) > 0 for text in stated)
    size = (int(stated[0]), int(stated[1])) if known else None
    return _Content(size, objects, (top.findtext("filename") or "").strip())


def _add(photo: _Photo, by_name: bool, boxes_as_masks: bool, found: Found) -> bool:
    """Add a photo's row, or a finding where it is left out; whether its objects are of other names than its class."""
    if photo.file is None and not by_name:  # counted in one finding
        return False
    objects: list[tuple[str, Region]] = []
    lost = int(photo.file is not None and photo.content is None)
    if photo.content is not None and photo.file is not None:
        size = found.photo_size(photo.path, photo.content.size, photo.file)
        if size is None:
            return False
        for index, (name, corners) in enumerate(photo.content.objects, start=1):
            drawn = _draw(corners, size) if name else Drawn(None, "unknown-category", "has no name")
            found.note_drawn(drawn, photo.path, f"object {index} of {photo.file.name}")
            objects += [(name, drawn.region)] * (drawn.region is not None)
        lost = len(photo.content.objects) - len(objects)
    names = {name for name, _ in objects if not is_normal(name)}
    named = _class_in_name(photo.path) if by_name else ""
    if named and is_normal(named) and names:
        found.note("mask-on-good:name", photo.path, names=", ".join(sorted(names)))
        return False
    abnormal = bool(named) and not is_normal(named)
    row = found.add_row(
        photo.path, objects, lost=0 if abnormal else lost, masks=boxes_as_masks, largest=True, split=photo.split
    )
    if row is None:
        return False
    if abnormal:
        row |= {"label_index": 1, "defect_type": named, "defect_types": row["defect_types"] or named}
        if photo.content is not None and not photo.content.objects:
            found.note("no-objects", photo.path, name=named)
    return bool(names - {row["defect_type"]})


def _draw(corners: list[str], size: tuple[int, int]) -> Drawn:
    try:
        numbers = [float(text) for text in corners]
    except ValueError:
        return Drawn(None, "invalid-box", f"has no box of {len(corners)} numbers")
    if len(numbers) == len(_ROTATED):
        return draw_polygon(_corners_of(*numbers), size)
    left, top, right, bottom = numbers
    if right < left or bottom < top:
        return Drawn(None, "no-area", "has a box whose end lies before its beginning")
    # the first pixel is 1, but some tools count from 0
    left, top = (value - 1 if value != 0 else 0.0 for value in (left, top))
    return draw_box([left, top, right - left, bottom - top], size)


def _corners_of(x: float, y: float, width: float, height: float, angle: float) -> np.ndarray:
    """Corners x, y, ... of a box around (x, y) that is turned clockwise by an angle in radians."""
    if not all(map(math.isfinite, (x, y, width, height, angle))):
        return np.full(8, np.nan)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    half = np.array([(-width, -height), (width, -height), (width, height), (-width, height)]) / 2
    return (half @ turn.T + (x, y)).ravel()
