"""COCO annotations as a sample table, and as one mask an object.

Read are the files of Roboflow, CVAT, COCO itself, Label Studio, and any folder with one COCO file. pycocotools draws
outlines, so parts are added together and a hole needs run lengths (or a polygon whose line leads into it and back).
What is broken becomes a finding and is left out, never an exception.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from helpers.analysis.regions import Drawn, Region, draw_box, draw_polygon, draw_rle, pixels_of, united
from helpers.data.annotations import known_id, read_json
from helpers.data.images import IMAGE_SUFFIXES
from helpers.data.layouts import (
    Found,
    LayoutError,
    entries,
    files_in,
    first_names,
    folders_in,
    is_normal,
    split_folders,
    tree,
)
from helpers.data.names import SPLIT_NAMES, match_names, splits_of
from helpers.data.samples import NORMAL, absolute_path
from helpers.progress import progress

logger = logging.getLogger(__name__)

_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json", "coco")
_PHOTO_FOLDERS = ("images", "img", "imgs", "data")


@dataclass
class InstancePhoto:
    """A photo and its objects: their categories, pixels (None where only a box is known), whether one is a group that
    was outlined as one (COCO's ``iscrowd``), and the custom key ``defect_type`` of its annotation, "" for none.

    ``size`` is (H, W); ``lost`` counts objects that cannot be used.
    """

    image_path: Path
    size: tuple[int, int]
    categories: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    regions: list[Region | None] = field(default_factory=list)
    split: str = ""
    defect_types: list[str] = field(default_factory=list)
    group: str = ""
    lost: int = 0

    def instance_masks(self) -> np.ndarray:
        """One mask an object, bool (N, H, W), in the order of the file."""
        return np.array([pixels_of(region) for region in self.regions], dtype=bool).reshape(-1, *self.size)

    def objects(self, objects_are_defects: bool = True) -> list[tuple[str, Region | None]]:
        """Names that say what is a defect, with its pixels."""
        names = self.categories if objects_are_defects else [kind or NORMAL for kind in self.defect_types]
        return list(zip(names, self.regions, strict=True))


def read_instances(path: str | Path, *, annotations: str | Sequence[str] | None = None) -> list[InstancePhoto]:
    """Photos with one mask an object, such as the frames of ``nuts``, in the order of their paths.

    Findings are logged as warnings; `helpers.read_dataset` returns them. A photo one of whose objects has a box and no
    outline is left out. ``annotations``: which files, as for `read_coco`.
    """
    found = Found(absolute_path(path))
    photos = _photos(found, annotations)
    if found.findings:
        logger.warning("%s has %d findings:\n%s", found.path, len(found.findings), found.summary())
    # one without objects of which one was lost is not known to be normal
    usable = (photo for photo in photos if not photo.lost or not all(map(is_normal, photo.categories)))
    return [photo for photo in usable if None not in photo.regions]


def has_coco(path: Path) -> bool:
    """Whether a folder, or one of its split folders, holds a COCO file."""
    return path.is_dir() and any(
        _looks_like_coco(file) for folder, _ in _searched(path) for file in _json_files(folder)
    )


def read_coco(
    found: Found,
    *,
    annotations: str | Sequence[str] | None = None,
    objects_are_defects: bool = True,
    image_dir: str | Path | None = None,
    encoding: str | None = None,
) -> None:
    """A folder with COCO annotations.

    A photo with annotations is abnormal, its defect type the names of its categories; one without is normal, and so is
    one whose only categories are words for good photos. Photos that no file lists are left out with a finding. Where
    the outline of an object is not known (boxes only), the photo has no mask. A photo may name its ``group``.

    ``annotations``: file name or pattern (``*``, ``?``), or a list of them, of the COCO files to read where a folder
    holds several, or its path in the dataset; ``{split}`` in it stands for train, val, test and their other spellings.
    ``objects_are_defects``: False where objects are parts, not defects (the frames of ``nuts``): photos are then
    abnormal only if an annotation has a key ``defect_type`` that says so, and have no masks. ``image_dir``: folder of
    the photos, relative to the dataset or to the folder of each COCO file; default: found. ``encoding``: of the files.
    """
    for photo in progress(_photos(found, annotations, image_dir, encoding, objects_are_defects), "Reading outlines"):
        objects = photo.objects(objects_are_defects)
        columns = {"split": photo.split, "group": photo.group}
        found.add_row(photo.image_path, objects, lost=photo.lost, masks=objects_are_defects, **columns)


# ---------------------------------------------------------------------------------------------------------------- files


def _searched(root: Path, patterns: Sequence[str] = ()) -> list[tuple[Path, str]]:
    """Folders that annotation files are looked for in, each with the split it stands for."""
    places = [(root / pattern).parent for pattern in patterns if "/" in pattern and "{" not in pattern]
    searched = {place: "" for place in places if absolute_path(place).is_relative_to(root)}
    for split, folder in {"": root, **split_folders(root)}.items():
        searched[folder] = split
        for inner in folders_in(folder):
            if inner.name.lower() in _ANNOTATION_FOLDERS or (folder == root and _holds_json_only(inner)):
                searched[inner] = split
    return list(searched.items())


def _holds_json_only(folder: Path) -> bool:
    suffixes = {file.suffix.lower() for file in entries(folder)}
    return ".json" in suffixes and not suffixes & IMAGE_SUFFIXES


def _json_files(folder: Path) -> list[Path]:
    """JSON files in a folder that are not those of single photos, as labelme writes them."""
    files = [file for file in entries(folder) if file.is_file()]
    photos = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    return [file for file in files if file.suffix.lower() == ".json" and file.stem not in photos]


def _looks_like_coco(file: Path) -> bool:
    data = file.read_bytes()
    return b'"images"' in data and b'"annotations"' in data


def _annotation_files(found: Found, annotations: str | Sequence[str] | None) -> list[tuple[Path, str]]:
    """COCO files to read, each with its split."""
    root, patterns = found.path, [annotations] if isinstance(annotations, str) else list(annotations or [])
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
        splits = [split or _split_of_file(file) for file in here]
        if len(here) > 1 and (len(set(splits)) < len(here) or "" in splits):
            raise LayoutError(_several(folder, here))
        chosen += zip(here, splits, strict=True)
        if not here or not patterns:
            passed_over += [file for file in candidates if file not in here]
    if not chosen and passed_over:
        raise LayoutError(
            f"{root} has no COCO file called {annotations!r}; it has: {', '.join(map(found.relative, passed_over))}."
        )
    if not chosen:
        wrong = f"{others[0]} is no COCO file: it lacks images and annotations" if others else "There is no JSON file"
        raise LayoutError(f"{root} has no COCO annotations. {wrong}.\n{tree(root)}")
    for file in passed_over:
        found.note("annotations-not-read", file, given=annotations)
    return chosen


def _is_wanted(file: Path, root: Path, patterns: list[str]) -> bool:
    names = (file.name, file.relative_to(root).as_posix())
    spelled = {pattern.replace("{split}", word) for pattern in patterns for word in SPLIT_NAMES}
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in spelled)


def _split_of_file(file: Path) -> str:
    """Split that the file's name speaks of, as ``instances_train2017.json`` does."""
    splits = splits_of(re.split(r"[^a-z]+", file.stem.lower()))
    return splits.pop() if len(splits) == 1 else ""


def _several(folder: Path, files: list[Path]) -> str:
    names = [file.name for file in files]
    pattern = re.sub(rf"(?<![a-zA-Z])({'|'.join(SPLIT_NAMES)})(?![a-zA-Z])", "{split}", names[0])
    more = f" or, for every split's folder alike, annotations={pattern!r}" if pattern != names[0] else ""
    return (
        f"{folder} holds {len(names)} COCO files ({', '.join(names)}); choose with annotations={names[0]!r}{more} "
        "(a file name or a pattern with *)."
    )


def _photo_folders(file: Path, split: str, root: Path, image_dir: str | Path | None) -> list[Path]:
    """Folders that a file's names may be relative to, the likeliest first."""
    above = file.parent.parent if file.parent != root and _holds_json_only(file.parent) else file.parent
    parents = [above, root]
    if image_dir is not None:
        parents = [absolute_path(parent / image_dir) for parent in (above, file.parent, root)]
        parents = [parent for parent in dict.fromkeys(parents) if parent.is_dir() and parent.is_relative_to(root)]
        if not parents:
            raise FileNotFoundError(f"There is no folder {root / image_dir}; check image_dir, which is inside {root}.")
    folders: list[Path] = []
    for parent in parents:
        inner = [parent] + ([parent / name for name in _PHOTO_FOLDERS] if image_dir is None else [])
        # a split's own folder first, where several splits use the same names
        folders += [place / file.stem.removeprefix("instances_") for place in inner]
        folders += [own for place in inner if (own := split_folders(place).get(split))]
        folders += inner
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


# --------------------------------------------------------------------------------------------------------------- photos


def _photos(
    found: Found,
    annotations: str | Sequence[str] | None,
    image_dir: str | Path | None = None,
    encoding: str | None = None,
    objects_are_defects: bool = True,
) -> list[InstancePhoto]:
    """All photos that can be used, by path; the rest are findings."""
    root = found.path
    if not root.is_dir():
        raise LayoutError(f"{root} is no folder; give the folder that holds the photos and the COCO files.")
    pictures, others = files_in(root)
    folder_splits = {file: splits_of(file.relative_to(root).parts[:-1]) for file in pictures + others}
    there = set().union(*(folder_splits[file] for file in pictures))
    photos: dict[Path, list[InstancePhoto]] = defaultdict(list)
    listed: set[Path] = set()
    for file, split in _annotation_files(found, annotations):
        folders = _photo_folders(file, split, root, image_dir)
        # not in a folder of another split, where the file's own split has a folder
        files = [f for f, of in folder_splits.items() if not of or not split or split in of or split not in there]
        if image_dir is not None:
            files = [photo for photo in files if any(photo.is_relative_to(folder) for folder in folders)]
        for photo in _File(file, split, folders, files, found, listed, encoding).photos():
            photos[photo.image_path].append(photo)
    kept = []
    for path, alike in sorted(photos.items()):
        abnormal = {not all(is_normal(name) for name, _ in photo.objects(objects_are_defects)) for photo in alike}
        if len(alike) > 1:
            counts = "it is left out" if len(abnormal) > 1 else "the first counts"
            found.note("photo-listed-twice:files", path, counts=counts)
            alike[0].lost = sum(photo.lost for photo in alike)
        if len(abnormal) == 1:
            kept.append(alike[0])
    unlisted: dict[Path, list[Path]] = defaultdict(list)
    for file in pictures:
        if file not in listed:
            unlisted[file.parent].append(file)
    for folder, files in sorted(unlisted.items()):
        found.note("photos-not-annotated:unlisted", folder, n=len(files), first=first_names(files, 3))
    return kept


@dataclass
class _File:
    """One COCO file being read; every method notes what it finds."""

    file: Path
    split: str
    folders: list[Path]
    files: list[Path]
    found: Found
    listed: set[Path]
    encoding: str | None
    boxes_only: int = 0

    def __post_init__(self) -> None:
        self.content = read_json(self.file, self.encoding)
        keys = ("images", "annotations")
        if not isinstance(self.content, dict) or not all(isinstance(self.content.get(key), list) for key in keys):
            raise LayoutError(f"{self.file} is no COCO file: it needs the lists images and annotations.")

    def photos(self) -> list[InstancePhoto]:
        """The photos, with their annotations."""
        by_id, categories = self._read_images(), self._read_categories()
        seen: dict[str | int, Any] = {}
        matched, strays = 0, []
        for index, annotation in enumerate(self.content["annotations"]):
            if not isinstance(annotation, dict):
                self.found.note("invalid-annotation:entry", self.file, index=index)
                continue
            number = annotation.get("id", f"number {index}")
            first = seen.setdefault(known_id(annotation.get("id")) or index, annotation)
            if first is not annotation:
                which = "the same" if first == annotation else "different"
                self.found.note("duplicate-annotation-id", self.file, number=known_id(number), which=which)
            if first is not annotation and first == annotation:
                continue
            image = known_id(annotation.get("image_id"))
            if image is None or image not in by_id:
                self.found.note("unknown-photo", self.file, number=number, photo=annotation.get("image_id"))
                strays.append(image or "")
                continue
            matched += 1
            if (photo := by_id[image]) is not None:  # else the photo itself is a finding
                self._add(photo, annotation, number, categories)
        if self.boxes_only:
            self.found.note("boxes-only", self.file, n=self.boxes_only)
        photos = list({id(photo): photo for photo in by_id.values() if photo is not None}.values())
        numbers = {image.isdecimal() for image in by_id}
        if not strays or (matched and all(image.isdecimal() in numbers for image in strays)):
            return photos
        # the ids are of two kinds, so those annotations may be of any photo that has none
        bare = [photo for photo in photos if not photo.categories and not photo.lost]
        if bare:
            self.found.note("photo-left-out:ids", self.file, n=len(bare), first=bare[0].image_path.name)
        return [photo for photo in photos if photo not in bare]

    def _read_categories(self) -> dict[str, str]:
        """Names by id; "" for an id of several names."""
        names: dict[str, str] = {}
        listed = self.content.get("categories")
        for entry in listed if isinstance(listed, list) else []:
            number = known_id(entry.get("id")) if isinstance(entry, dict) else None
            if number is None:
                self.found.note("invalid-category", self.file, entry=entry)
                continue
            name = str(entry.get("name") or number).strip()
            if names.setdefault(number, name) != name:
                self.found.note("duplicate-category-id", self.file, number=number, name=name, other=names[number])
                names[number] = ""
        return names

    def _read_images(self) -> dict[str, InstancePhoto | None]:
        """Photos by id; None for those that cannot be used."""
        records: list[tuple[str, str, dict[str, Any]]] = []
        for index, record in enumerate(self.content["images"]):
            name = record.get("file_name") if isinstance(record, dict) else None
            number = known_id(record.get("id")) if isinstance(record, dict) else None
            if isinstance(name, str) and name.strip() and number is not None:
                records.append((number, name, record))
            else:
                self.found.note("invalid-photo", self.file, index=index)
        named, refused = match_names((name for _, name, _ in records), self.files, self.found.root, self.folders)
        self.listed.update(named.values(), *refused.values())
        by_id: dict[str, InstancePhoto | None] = {}
        names: dict[str, str] = {}
        by_path: dict[Path | None, InstancePhoto] = {}
        for number, name, record in records:
            if number in names:
                kind = "duplicate-photo-id" if names[number] == name else "duplicate-photo-id:other"
                self.found.note(kind, self.file, number=number, name=name, other=names[number])
                by_id[number] = by_id[number] if names[number] == name else None
                continue
            names[number], path = name, named.get(name)
            if name in refused:
                self.found.note_ambiguous(self.file, name, refused[name])
            elif path is None:
                where = ", ".join(self.found.relative(folder) or "." for folder in self.folders[:3])
                self.found.note("missing-photo:coco", self.file, name=name, where=where)
            elif path in by_path:
                self.found.note("photo-listed-twice:entries", path)
            elif size := self.found.photo_size(path, _stated_size(record), self.file):
                group = record.get("group")
                group = str(group) if isinstance(group, str | int) else ""
                by_path[path] = InstancePhoto(path, size, split=self.split, group=group)
            by_id[number] = by_path.get(path)
        return by_id

    def _add(self, photo: InstancePhoto, annotation: dict[str, Any], number: Any, categories: dict[str, str]) -> None:
        """Draw one annotation and give it to its photo."""
        category, region = annotation.get("category_id"), None
        name = categories.get(known_id(category) or "")
        what, box = f"annotation {number}", Drawn(None)
        if not name:
            box = Drawn(None, "unknown-category", f"has the unknown category {category!r}")
        elif annotation.get("segmentation"):
            region = self._region(photo, annotation["segmentation"], number)
        else:
            what, box = f"{what} has no outline, and its box", draw_box(annotation.get("bbox"), photo.size)
        if region is None and box.region is None:
            self.found.note_drawn(box, photo.image_path, what)
            photo.lost += 1
            return
        self.boxes_only += region is None
        photo.categories.append(name)
        photo.regions.append(region)
        photo.crowd.append(bool(annotation.get("iscrowd")))
        photo.defect_types.append(str(annotation.get("defect_type") or ""))

    def _region(self, photo: InstancePhoto, segmentation: Any, number: Any) -> Region | None:
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
            if regions and part.code in ("no-area", "too-few-points"):  # no harm where others are left
                part = part._replace(code=f"{part.code}:part")
            which = f", part {index + 1} of {len(parts)}," if len(parts) > 1 else ""
            self.found.note_drawn(part, photo.image_path, f"annotation {number}{which}")
        if len(regions) > 1 and _one_inside_another(regions):
            self.found.note("part-inside-part", photo.image_path, number=number)
        return united(regions) if regions else None


def _stated_size(record: dict[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = int(record["height"]), int(record["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _one_inside_another(regions: list[Region]) -> bool:
    share = coco_mask.iou(regions, regions, [True] * len(regions))  # of the first's own pixels, that the second has too
    np.fill_diagonal(share, 0)
    return bool((share == 1).any())
