"""COCO annotations as a sample table, and as one mask an object.

Read are the files of Roboflow (``_annotations.coco.json`` in each split's folder), CVAT and COCO itself
(``annotations/instances_*.json`` with the photos in folders beside), Label Studio (``result.json`` and ``images/``),
and any folder with one COCO file. Outlines are polygons of one part or several, or run-length encodings, compressed or
not, crowds included; pycocotools draws them, so parts are added together and a hole needs run lengths (or a polygon
whose line leads into the hole and back).

What is broken becomes a finding and is left out, never an exception: a photo that is missing or has another size, an
outline outside the picture, a part of zero area, an unknown category or photo, an id used twice. A photo without a
defect, some of whose annotations are left out, is left out too, for it is not known to be normal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from helpers.data.annotations import (
    AnnotationError,
    Drawn,
    Notes,
    cached_mask,
    draw_box,
    draw_polygon,
    draw_rle,
    is_published,
    known_id,
    mask_folder,
    photo_size,
    pixels_of,
    read_json,
    require_encoding,
    united,
)
from helpers.data.formats import (
    NORMAL_NAMES,
    SPLIT_NAMES,
    Found,
    LayoutError,
    folders_in,
    images_in,
    split_folders,
    tree,
)
from helpers.data.images import IMAGE_SUFFIXES
from helpers.data.layouts import match_names
from helpers.data.samples import absolute_path
from helpers.progress import progress

logger = logging.getLogger(__name__)

_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json", "coco")
_PHOTO_FOLDERS = ("images", "img", "imgs", "data")
_LEFT_OUT = "it is left out"


@dataclass(frozen=True)
class InstancePhoto:
    """A photo and the outlines of the objects on it.

    Attributes:
        image_path: the photo.
        size: its (H, W).
        categories: name of each object's category.
        crowd: whether an object is a group that was outlined as one (COCO's ``iscrowd``).
        regions: pixels of each object, as pycocotools' compressed run lengths.
        split: train, val, test, or "".
        defect_types: for each object the custom key ``defect_type`` of its annotation; "" where it has none.
    """

    image_path: Path
    size: tuple[int, int]
    categories: list[str]
    crowd: list[bool]
    regions: list[dict[str, Any]]
    split: str = ""
    defect_types: list[str] = field(default_factory=list)

    def instance_masks(self) -> np.ndarray:
        """One mask an object, bool (N, H, W), in the order of the file."""
        if not self.regions:
            return np.zeros((0, *self.size), dtype=bool)
        return np.stack([pixels_of(region) for region in self.regions])

    def boxes(self) -> np.ndarray:
        """Smallest box around each object's pixels, float64 (N, 4): x, y, width, height."""
        return coco_mask.toBbox(self.regions).reshape(-1, 4) if self.regions else np.zeros((0, 4))


def read_instances(path: str | Path, *, annotations: str | Sequence[str] | None = None) -> list[InstancePhoto]:
    """Photos with one mask an object, such as the frames of ``nuts``, in the order of their paths.

    Findings are logged as warnings; `helpers.read_dataset` returns them. A photo one of whose objects has a box and no
    outline is left out.

    Args:
        path: folder with COCO annotations.
        annotations: which files, as for `read_coco`.

    Raises:
        LayoutError: there is no COCO file, or several to choose from.
    """
    root = absolute_path(path)
    notes = Notes(root)
    found = []
    for photo in _photos(root, annotations, notes):
        regions = [thing.region for thing in photo.objects if thing.region is not None]
        if len(regions) == len(photo.objects):
            categories = [thing.category for thing in photo.objects]
            crowd = [thing.crowd for thing in photo.objects]
            types = [thing.defect_type for thing in photo.objects]
            found.append(InstancePhoto(photo.path, photo.size, categories, crowd, regions, photo.split, types))
    if notes.rows:
        logger.warning("%s has %d findings:\n%s", root, len(notes.rows), notes.summary())
    return found


def has_coco(path: Path) -> bool:
    """Whether a folder, or one of its split folders, holds a COCO file."""
    return path.is_dir() and any(
        _looks_like_coco(file) for folder, _ in _searched(path) for file in _json_files(folder)
    )


def read_coco(
    path: Path,
    *,
    annotations: str | Sequence[str] | None = None,
    objects_are_defects: bool = True,
    image_dir: str | Path | None = None,
    encoding: str | None = None,
    mask_cache: str | Path | None = None,
) -> Found:
    """Read a folder with COCO annotations; reached through `helpers.read_dataset`.

    A photo with annotations is abnormal, its defect type the names of its categories, sorted and joined by "+"; one
    without is normal, and so is one whose only categories are words for good photos (`NORMAL_NAMES`). Photos that no
    file lists are left out with a finding. Where the outline of an object is not known (boxes only), the photo has no
    mask. The folders train, valid and test are the published split, if there is more than one. A photo may name its
    ``group``.

    Args:
        path: the folder.
        annotations: file name or pattern (``*``, ``?``), or a list of them, of the COCO files to read where a folder
            holds several, or its path in the dataset; ``{split}`` in it stands for train, val, test and their other
            spellings.
        objects_are_defects: False where objects are parts, not defects (the frames of ``nuts``): photos are then
            abnormal only if an annotation has a key ``defect_type`` that says so, and have no masks. `read_instances`
            gives the objects.
        image_dir: folder of the photos, relative to ``path`` or to the folder of each COCO file; default: found.
        encoding: text encoding of the COCO files; default: UTF-8.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: there is no COCO file, several to choose from, or no photo that can be used.
        FileNotFoundError: there is no folder ``image_dir``.
    """
    if not isinstance(objects_are_defects, bool):
        raise ValueError(f"objects_are_defects is {objects_are_defects!r}; use True or False.")
    require_encoding(encoding)
    notes = Notes(path)
    folder = mask_folder(path, mask_cache)
    photos = _photos(path, annotations, notes, image_dir, encoding, objects_are_defects)
    if not photos:
        raise LayoutError(f"{path} has COCO annotations, but no photo that can be used:\n{notes.summary()}")
    published = is_published([photo.split for photo in photos])
    rows = []
    for photo in progress(photos, "Drawing masks"):
        mask = ""
        defects = photo.defects(objects_are_defects)
        regions = [thing.region for thing in defects if thing.region is not None]
        if objects_are_defects and defects and len(regions) == len(defects):
            mask = str(cached_mask(folder, photo.path.relative_to(path).as_posix(), regions))
        types = {thing.category if objects_are_defects else thing.defect_type for thing in defects}
        row = {
            "image_path": str(photo.path),
            "mask_path": mask,
            "label_index": int(bool(types)),
            "defect_type": "+".join(sorted(types)),
            "split": photo.split if published else "",
            "group": photo.group,
        }
        rows.append(row)
    attrs = {"findings": notes.rows, "mask_cache": str(folder)}
    return Found(rows, path, published_split=published, name=path.name, attrs=attrs)


# ---------------------------------------------------------------------------------------------------------------- files


def _searched(root: Path, patterns: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """Folders that annotation files are looked for in, each with the split it stands for."""
    folders = [(root, "")] + [(folder, split) for split, folder in split_folders(root).items()]
    places = {root / pattern: "" for pattern in patterns if "/" in pattern and "{" not in pattern}
    searched = {file.parent: split for file, split in places.items() if absolute_path(file).is_relative_to(root)}
    for folder, split in folders:
        searched[folder] = split
        for inner in folders_in(folder):
            if inner.name.lower() in _ANNOTATION_FOLDERS or (folder == root and _holds_json_only(inner)):
                searched[inner] = split
    return list(searched.items())


def _holds_json_only(folder: Path) -> bool:
    suffixes = {file.suffix.lower() for file in folder.iterdir()}
    return ".json" in suffixes and not suffixes & IMAGE_SUFFIXES


def _json_files(folder: Path) -> list[Path]:
    """JSON files in a folder that are not those of single photos, as labelme writes them."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.is_file())
    photos = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    return [
        file
        for file in files
        if file.suffix.lower() == ".json" and file.stem not in photos and not file.name.startswith(".")
    ]


def _looks_like_coco(file: Path) -> bool:
    data = file.read_bytes()
    return b'"images"' in data and b'"annotations"' in data


def _annotation_files(root: Path, annotations: str | Sequence[str] | None, notes: Notes) -> list[tuple[Path, str]]:
    """COCO files to read, each with its split."""
    patterns = [annotations] if isinstance(annotations, str) else list(annotations or [])
    chosen: list[tuple[Path, str]] = []
    passed_over: list[Path] = []
    others: list[Path] = []
    for folder, split in _searched(root, patterns):
        files = _json_files(folder)
        candidates = [file for file in files if _looks_like_coco(file)]
        others += [file for file in files if file not in candidates]
        here = [file for file in candidates if _is_wanted(file, root, patterns)]
        if not patterns and len(here) > 1:
            here = [file for file in here if file.name.startswith("instances_")] or here
        splits = [split or _split_in(file) for file in here]
        if len(here) > 1 and (len(set(splits)) < len(here) or "" in splits):
            raise LayoutError(_several(folder, here))
        chosen += zip(here, splits, strict=True)
        if not here or not patterns:
            passed_over += [file for file in candidates if file not in here]
    if not chosen and passed_over:
        names = ", ".join(file.relative_to(root).as_posix() for file in passed_over)
        raise LayoutError(f"{root} has no COCO file called {annotations!r}; it has: {names}.")
    if not chosen:
        wrong = f"{others[0]} is no COCO file: it lacks images and annotations" if others else "There is no JSON file"
        raise LayoutError(f"{root} has no COCO annotations. {wrong}.\n{tree(root)}")
    for file in passed_over:
        problem = f"does not go with annotations={annotations!r}; {_LEFT_OUT}"
        if annotations is None:
            problem = f"is not read, for another file there is called instances_...; {_LEFT_OUT}"
        notes.add(
            "warning", file, "annotations-not-read", problem, "widen the pattern annotations= if it should be read"
        )
    return chosen


def _is_wanted(file: Path, root: Path, patterns: list[str]) -> bool:
    if not patterns:
        return True
    names = (file.name, file.relative_to(root).as_posix())
    spelled = {pattern.replace("{split}", word) for pattern in patterns for word in SPLIT_NAMES}
    return any(fnmatchcase(name, pattern) for name in names for pattern in spelled)


def _split_in(file: Path) -> str:
    """Split that the file's name speaks of, as ``instances_train2017.json`` does."""
    splits = {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else ""


def _several(folder: Path, files: list[Path]) -> str:
    names = [file.name for file in files]
    words = "|".join(SPLIT_NAMES)
    pattern = re.sub(rf"(?<![a-zA-Z])({words})(?![a-zA-Z])", "{split}", names[0])
    more = f" or, for every split's folder alike, annotations={pattern!r}" if pattern != names[0] else ""
    return (
        f"{folder} holds {len(names)} COCO files ({', '.join(names)}); choose with annotations={names[0]!r}{more} "
        "(a file name or a pattern with *)."
    )


def _photo_folders(file: Path, split: str, root: Path, image_dir: str | Path | None) -> list[Path]:
    """Folders that a file's names may be relative to, the likeliest first."""
    inside = file.parent != root and _holds_json_only(file.parent)
    own = file.parent.parent if inside else file.parent
    tail = file.stem.removeprefix("instances_")
    parents = [own, root]
    if image_dir is not None:
        parents = [absolute_path(parent / image_dir) for parent in (own, file.parent, root)]
        parents = [parent for parent in dict.fromkeys(parents) if parent.is_dir() and parent.is_relative_to(root)]
        if not parents:
            raise FileNotFoundError(f"There is no folder {root / image_dir}; check image_dir, which is inside {root}.")
    folders: list[Path] = []
    for parent in parents:
        inner = [parent] + ([parent / name for name in _PHOTO_FOLDERS] if image_dir is None else [])
        # a split's own folder first, where several splits use the same names
        folders += [place / tail for place in inner]
        folders += [folder for place in inner for folder in folders_in(place) if split and _split_name(folder) == split]
        folders += inner
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _split_name(folder: Path) -> str:
    return SPLIT_NAMES.get(folder.name.lower(), "")


def _may_lie_in(path: Path, split: str, root: Path, splits: set[str]) -> bool:
    """Whether no folder of a path speaks of another split, where the file's own split has a folder."""
    words = {SPLIT_NAMES.get(part.lower(), "") for part in path.relative_to(root).parts[:-1]} - {""}
    return not words or not split or split in words or split not in splits


def _load(file: Path, encoding: str | None) -> dict[str, Any]:
    try:
        content = read_json(file, encoding)
    except AnnotationError as error:
        raise LayoutError(str(error)) from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise LayoutError(f"{file} is no COCO file: it needs the lists images and annotations.")
    return content


# --------------------------------------------------------------------------------------------------------------- photos


@dataclass(frozen=True)
class _Object:
    """One annotation; ``region`` is None where only its box is known."""

    category: str
    region: dict[str, Any] | None
    crowd: bool
    defect_type: str


@dataclass
class _Photo:
    """A photo and its annotations; ``lost`` counts those that could not be used."""

    path: Path
    size: tuple[int, int]
    split: str
    group: str
    objects: list[_Object] = field(default_factory=list)
    lost: int = 0

    def defects(self, objects_are_defects: bool = True) -> list[_Object]:
        """Objects that make the photo abnormal."""
        words = [thing.category if objects_are_defects else thing.defect_type for thing in self.objects]
        return [
            thing for thing, word in zip(self.objects, words, strict=True) if word and word.lower() not in NORMAL_NAMES
        ]


def _photos(
    root: Path,
    annotations: str | Sequence[str] | None,
    notes: Notes,
    image_dir: str | Path | None = None,
    encoding: str | None = None,
    objects_are_defects: bool = True,
) -> list[_Photo]:
    """All photos that can be used, by path; the rest are findings."""
    if not root.is_dir():
        raise LayoutError(f"{root} is no folder; give the folder that holds the photos and the COCO files.")
    others: list[Path] = []
    images = images_in(root, others)
    splits = {SPLIT_NAMES.get(part.lower(), "") for file in images for part in file.relative_to(root).parts[:-1]}
    found: dict[Path, list[_Photo]] = {}
    listed: set[Path] = set()
    for file, split in _annotation_files(root, annotations, notes):
        folders = _photo_folders(file, split, root, image_dir)
        files = [photo for photo in images + others if _may_lie_in(photo, split, root, splits)]
        if image_dir is not None:
            files = [photo for photo in files if any(photo.is_relative_to(folder) for folder in folders)]
        for photo in _File(file, split, folders, files, root, notes, listed, encoding).photos():
            found.setdefault(photo.path, []).append(photo)
    kept = []
    for path, photos in sorted(found.items()):
        photo = photos[0]
        defects = [bool(each.defects(objects_are_defects)) for each in photos]
        if any(each.lost and not known for each, known in zip(photos, defects, strict=True)):
            problem = f"an annotation of it cannot be used, so it is not known to be normal; {_LEFT_OUT}"
            notes.add("error", path, "photo-left-out", problem, "fix its annotations")
            continue
        if len(photos) > 1:
            counts = _LEFT_OUT if len(set(defects)) > 1 else "the first counts"
            problem = f"is listed in several COCO files; {counts}"
            notes.add("error", path, "photo-listed-twice", problem, "remove it from all but one")
        if len(set(defects)) == 1:
            kept.append(photo)
    _note_unlisted(root, [file for file in images if file not in listed], notes)
    return kept


def _note_unlisted(root: Path, unlisted: list[Path], notes: Notes) -> None:
    """One finding for each folder with photos that no file lists."""
    by_folder: dict[Path, list[str]] = {}
    for file in unlisted:
        by_folder.setdefault(file.parent, []).append(file.name)
    for folder, names in sorted(by_folder.items()):
        first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        problem = f"{len(names)} photo(s) are in no COCO file ({first}): neither normal nor abnormal is known"
        notes.add("warning", folder, "photos-not-annotated", problem, "list them, without annotations if normal")


class _File:
    """One COCO file being read; every method notes what it finds."""

    def __init__(
        self,
        file: Path,
        split: str,
        folders: list[Path],
        files: list[Path],
        root: Path,
        notes: Notes,
        listed: set[Path],
        encoding: str | None,
    ) -> None:
        self.file, self.split, self.folders, self.files = file, split, folders, files
        self.root, self.notes, self.listed = root, notes, listed
        self.content = _load(file, encoding)
        self.boxes_only = 0

    def photos(self) -> list[_Photo]:
        """The photos, with their annotations."""
        by_id = self._read_images()
        categories = self._read_categories()
        seen: dict[str, Any] = {}
        matched, strays = 0, []
        for index, annotation in enumerate(self.content["annotations"]):
            if not isinstance(annotation, dict):
                self._note("error", "invalid-annotation", f"entry {index} of annotations is no object", "remove it")
                continue
            number = annotation.get("id", f"number {index}")
            if self._is_copy(annotation, seen):
                continue
            image = known_id(annotation.get("image_id"))
            if image is None or image not in by_id:
                problem = f"annotation {number} belongs to photo {annotation.get('image_id')!r}, which is not listed"
                self._note("error", "unknown-photo", f"{problem}; {_LEFT_OUT}", "remove it, or list its photo")
                strays.append(image or "")
                continue
            matched += 1
            photo = by_id[image]
            if photo is not None:  # else the photo itself is a finding
                self._add(photo, annotation, number, categories)
        if self.boxes_only:
            problem = f"{self.boxes_only} annotation(s) have a box but no outline: their photos get no pixel mask"
            self._note("warning", "boxes-only", problem, "export outlines, if there are any")
        photos = list({id(photo): photo for photo in by_id.values() if photo is not None}.values())
        numbers = {image.isdecimal() for image in by_id}
        if not strays or (matched and all(image.isdecimal() in numbers for image in strays)):
            return photos
        # the ids are of two kinds, so those annotations may be of any photo that has none
        bare = [photo for photo in photos if not photo.objects and not photo.lost]
        if bare:
            problem = f"{len(bare)} photo(s) without annotations ({bare[0].path.name} first) are not known to be normal"
            self._note(
                "error", "photo-left-out", f"{problem}; left out", "make the ids of photos and annotations agree"
            )
        return [photo for photo in photos if photo.objects or photo.lost]

    def _note(self, severity: str, code: str, problem: str, fix: str, path: Path | None = None) -> None:
        self.notes.add(severity, path or self.file, code, problem, fix)

    def _read_categories(self) -> dict[str, str]:
        """Names by id; "" for an id of several names."""
        names: dict[str, str] = {}
        entries = self.content.get("categories")
        for entry in entries if isinstance(entries, list) else []:
            number = known_id(entry.get("id")) if isinstance(entry, dict) else None
            if number is None:
                self._note("error", "invalid-category", f"category {entry!r} has no id", "give it one")
                continue
            name = str(entry.get("name") or number).strip()
            if number in names and names[number] != name:
                problem = f"category id {number} is used for {name!r} and for {names[number] or 'others'!r}"
                self._note("error", "duplicate-category-id", problem, "give each category an id of its own")
                name = ""
            names[number] = name
        return names

    def _read_images(self) -> dict[str, _Photo | None]:
        """Photos by id; None for those that cannot be used."""
        by_id: dict[str, _Photo | None] = {}
        names: dict[str, str] = {}
        by_path: dict[Path, _Photo] = {}
        records: list[tuple[str, str, dict[str, Any]]] = []
        for index, record in enumerate(self.content["images"]):
            name = record.get("file_name") if isinstance(record, dict) else None
            number = known_id(record.get("id")) if isinstance(record, dict) else None
            if not isinstance(name, str) or not name.strip() or number is None:
                problem = f"entry {index} of images lacks file_name or id; {_LEFT_OUT}"
                self._note("error", "invalid-photo", problem, "give it both")
                continue
            records.append((number, name, record))
        found, refused = match_names((name for _, name, _ in records), self.files, self.root, self.folders)
        self.listed.update(found.values(), *refused.values())
        for number, name, record in records:
            if number in names:
                same = names[number] == name
                what = "twice" if same else f"for {names[number]} and {name}, whose annotations cannot be told apart"
                problem = f"photo id {number} is used {what}" + ("" if same else "; both are left out")
                self._note("warning" if same else "error", "duplicate-photo-id", problem, "give each photo its own id")
                if not same:
                    by_id[number] = None
                continue
            names[number] = name
            by_id[number] = None
            path = found.get(name)
            if path is None:
                if name in refused:
                    self.notes.refused(self.file, name, refused[name])
                    continue
                where = ", ".join(folder.relative_to(self.root).as_posix() for folder in self.folders[:3])
                problem = f"lists {name}, which is in none of its folders ({where}, ...); {_LEFT_OUT}"
                fix = "put the photo there, remove it from the file, or name the photos' folder with image_dir="
                self._note("error", "missing-photo", problem, fix)
                continue
            if path in by_path:
                problem = "is listed twice; the annotations of both entries are put together"
                self._note("warning", "photo-listed-twice", problem, "remove one entry", path)
                by_id[number] = by_path[path]
                continue
            size = photo_size(path, _stated_size(record), self.file, self.notes)
            if size is not None:
                group = record.get("group")
                group = str(group) if isinstance(group, str | int) else ""
                by_path[path] = by_id[number] = _Photo(path, size, self.split, group)
        return by_id

    def _is_copy(self, annotation: dict[str, Any], seen: dict[str, Any]) -> bool:
        """Whether the very same annotation came before; an id used twice for different ones is noted, no more."""
        number = known_id(annotation.get("id"))
        if number is None:
            return False
        if number not in seen:
            seen[number] = annotation
            return False
        copy = seen[number] == annotation
        problem = f"annotation id {number} is used twice, for {'the same' if copy else 'different'} content"
        fix = "remove the copy" if copy else "give each annotation its own id"
        self._note("warning", "duplicate-annotation-id", problem, fix)
        return copy

    def _add(self, photo: _Photo, annotation: dict[str, Any], number: Any, categories: dict[str, str]) -> None:
        """Draw one annotation and give it to its photo."""
        category = annotation.get("category_id")
        name = categories.get(known_id(category) or "")
        if not name:
            problem = f"annotation {number} has the unknown category {category!r}; {_LEFT_OUT}"
            self._note("error", "unknown-category", problem, "add the category, or correct the annotation", photo.path)
            photo.lost += 1
            return
        segmentation = annotation.get("segmentation")
        if segmentation:
            region = self._region(photo, segmentation, number)
            usable = region is not None
        else:
            region = None
            usable = self._has_box(photo, annotation, number)
        if usable:
            crowd = bool(annotation.get("iscrowd"))
            photo.objects.append(_Object(name, region, crowd, str(annotation.get("defect_type") or "")))
        else:
            photo.lost += 1

    def _has_box(self, photo: _Photo, annotation: dict[str, Any], number: Any) -> bool:
        drawn = draw_box(annotation.get("bbox"), photo.size)
        if drawn.region is None:
            problem = f"annotation {number} has no outline, and its box {drawn.problem}; {_LEFT_OUT}"
            self._note("error", drawn.code, problem, "draw it again", photo.path)
            return False
        self.boxes_only += 1
        return True

    def _region(self, photo: _Photo, segmentation: Any, number: Any) -> dict[str, Any] | None:
        """Pixels of an annotation: its parts that can be drawn, or None."""
        if isinstance(segmentation, dict):
            parts = [draw_rle(segmentation, photo.size)]
        elif isinstance(segmentation, list):
            flat = not isinstance(segmentation[0], list | tuple)  # a single part without the list around it
            parts = [draw_polygon(part, photo.size) for part in ([segmentation] if flat else segmentation)]
        else:
            parts = [Drawn(None, "invalid-polygon", "is neither a list of polygons nor run lengths")]
        regions = [part.region for part in parts if part.region is not None]
        for index, part in enumerate(parts):
            if not part.code:
                continue
            # a part of zero area does no harm where others are left
            harmless = part.code == "clipped" or (regions and part.code in ("no-area", "too-few-points"))
            left_out = "what lies outside is cut off" if part.code == "clipped" else _LEFT_OUT
            which = f", part {index + 1} of {len(parts)}," if len(parts) > 1 else ""
            problem = f"annotation {number}{which} {part.problem}; {left_out}"
            fix = "correct its outline"
            self._note("warning" if harmless else "error", part.code, problem, fix, photo.path)
        if len(regions) > 1 and _one_inside_another(regions):
            problem = f"annotation {number} has a part inside another: COCO adds parts, so it is filled and no hole"
            self._note("warning", "part-inside-part", problem, "export holes as run lengths (RLE)", photo.path)
        return united(regions) if regions else None


def _stated_size(record: dict[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = int(record["height"]), int(record["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _one_inside_another(regions: list[dict[str, Any]]) -> bool:
    boxes = coco_mask.toBbox(regions)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    for i, inner in enumerate(corners):
        around = (corners[:, :2] <= inner[:2]).all(axis=1) & (corners[:, 2:] >= inner[2:]).all(axis=1)
        for j in np.flatnonzero(around):
            if i == j or coco_mask.area(regions[i]) > coco_mask.area(regions[j]):
                continue
            common = coco_mask.merge([regions[i], regions[j]], intersect=True)
            if coco_mask.area(common) == coco_mask.area(regions[i]):
                return True
    return False
