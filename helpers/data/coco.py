"""COCO annotations as a sample table, and as one mask an object.

Read are the files of Roboflow, CVAT, COCO itself, Label Studio, and any folder with one COCO file. pycocotools draws
outlines, so parts are added together and a hole needs run lengths (or a polygon whose line leads into it and back).
What is broken becomes a finding and is left out, never an exception.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from helpers.analysis.regions import Drawn, Region, draw_box, draw_polygon, draw_rle, pixels_of, united
from helpers.data.annotations import (
    Content,
    annotation_kind,
    draw_objects,
    known_id,
    known_size,
    note_unknown,
    read_json,
)
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

_ASKED = 100  # JSON files of a folder that are asked whether they are COCO's: others may be of one photo each


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


def read_instances(path: str | Path, *, annotations: str | None = None) -> list[InstancePhoto]:
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
    return any(annotation_kind(file) == "coco" for folder in _folders(path) for file in _json_files(folder)[:_ASKED])


def read_coco(
    found: Found,
    *,
    annotations: str | None = None,
    objects_are_defects: bool = True,
    image_dir: str | Path | None = None,
    encoding: str | None = None,
) -> None:
    """A folder with COCO annotations.

    A photo with annotations is abnormal, its defect type the names of its categories; one without is normal, and so is
    one whose only categories are words for good photos. Photos that no file lists are left out with a finding. Where
    the outline of an object is not known (boxes only), the photo has no mask. A photo may name its ``group``.

    ``annotations``: file name or pattern (``*``, ``?``) of the COCO files to read where a folder holds several, or its
    path in the dataset; ``{split}`` in it stands for train, val, test and their other spellings.
    ``objects_are_defects``: False where objects are parts, not defects (the frames of ``nuts``): photos are then
    abnormal only if an annotation has a key ``defect_type`` that says so, and have no masks. ``image_dir``: folder of
    the photos, relative to the dataset or to the folder of each COCO file; default: found. ``encoding``: of the files.
    """
    for photo in _photos(found, annotations, image_dir, encoding):
        names = photo.categories if objects_are_defects else [kind or NORMAL for kind in photo.defect_types]
        objects = list(zip(names, photo.regions, strict=True))
        columns = {"split": photo.split, "group": photo.group}
        found.add_row(photo.image_path, objects, lost=photo.lost, masks=objects_are_defects, **columns)


# ---------------------------------------------------------------------------------------------------------------- files


def _folders(root: Path) -> dict[Path, str]:
    """Folders that may hold COCO files, with their splits: the dataset's, its splits' and inner ones without photos."""
    folders = {root: ""} | {folder: split for split, folder in split_folders(root).items()}
    inner = {entry: split for folder, split in folders.items() for entry in folders_in(folder) if entry not in folders}
    return folders | {folder: split for folder, split in inner.items() if not _photos_in(folder)}


def _photos_in(folder: Path) -> set[str]:
    return {file.stem for file in entries(folder) if file.suffix.lower() in IMAGE_SUFFIXES}


def _json_files(folder: Path) -> list[Path]:
    """JSON files in a folder that are not those of single photos, as labelme writes them."""
    photos = _photos_in(folder)
    return [file for file in entries(folder) if file.suffix.lower() == ".json" and file.stem not in photos]


def _annotation_files(root: Path, annotations: str | None) -> list[tuple[Path, str]]:
    """COCO files to read, each with its split."""
    patterns = {(annotations or "*").replace("{split}", word) for word in SPLIT_NAMES}
    chosen: list[tuple[Path, str]] = []
    there: list[str] = []
    for folder, split in _folders(root).items():
        files = {f.relative_to(root).as_posix(): f for f in _json_files(folder) if annotation_kind(f) == "coco"}
        there += files
        here = [f for name, f in files.items() for p in patterns if fnmatchcase(name, p) or fnmatchcase(f.name, p)]
        here = list(dict.fromkeys(here))
        if not annotations and len(here) > 1:
            here = [file for file in here if file.name.startswith("instances_")] or here
        splits = [split or _split_of_file(file) for file in here]
        if len(here) > 1 and (len(set(splits)) < len(here) or "" in splits):
            pattern = re.sub(rf"(?<![a-zA-Z])({'|'.join(SPLIT_NAMES)})(?![a-zA-Z])", "{split}", here[0].name)
            names = ", ".join(file.name for file in here)
            raise LayoutError(f"{folder} holds several COCO files ({names}); choose with annotations={pattern!r}.")
        chosen += zip(here, splits, strict=True)
    if not chosen:
        has = f"it has: {', '.join(there)}" if there else f"it holds:\n{tree(root)}"
        raise LayoutError(f"{root} has no COCO file (with images and annotations) called {annotations or '*'}; {has}.")
    return chosen


def _split_of_file(file: Path) -> str:
    """Split that the file's name speaks of, as ``instances_train2017.json`` does."""
    splits = splits_of(re.split(r"[^a-z]+", file.stem.lower()))
    return splits.pop() if len(splits) == 1 else ""


# --------------------------------------------------------------------------------------------------------------- photos


def _photos(
    found: Found, annotations: str | None, image_dir: str | Path | None = None, encoding: str | None = None
) -> list[InstancePhoto]:
    """All photos that can be used, by path; the rest are findings."""
    root = found.path
    pictures, others = files_in(root)
    splits = {file: splits_of(file.relative_to(root).parts[:-1]) for file in pictures + others}
    there = set().union(*(splits[file] for file in pictures))
    listed: dict[Path, tuple[dict[str, Any], str, Path, list[tuple[str, dict[str, Any]]]]] = {}
    unlisted = set(pictures)
    for file, split in _annotation_files(root, annotations):
        folders = [folder for folder in (file.parent, file.parent.parent, root) if folder.is_relative_to(root)]
        # not in a folder of another split, where the file's own split has a folder
        files = [f for f, of in splits.items() if not of or not split or split in of or split not in there]
        if image_dir is not None:
            folders = [absolute_path(folder / image_dir) for folder in folders]
            folders = [folder for folder in folders if folder.is_dir() and folder.is_relative_to(root)]
            files = [photo for photo in files if any(photo.is_relative_to(folder) for folder in folders)]
        if not folders:
            raise FileNotFoundError(f"There is no folder {root / image_dir}; check image_dir, which is inside {root}.")
        content = read_json(file, encoding)
        keys = ("images", "annotations")
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
            raise LayoutError(f"{file} is no COCO file: it needs the lists images and annotations.")
        entries = _entries(content["images"], file, files, folders, found, unlisted)
        marks = _marks(content["annotations"], entries, file, found)
        names = _categories(content.get("categories"))
        for path, record in filter(None, entries.values()):
            if path in listed and listed[path][2] != file:
                found.note("photo-listed-twice:files", path)
            if path in marks:
                those = listed.setdefault(path, (record, split, file, []))[3]
                those += [(names.get(known_id(mark.get("category_id")), ""), mark) for mark in marks.pop(path)]
    note_unknown(unlisted, found)
    read = progress(sorted(listed.items()), "Reading outlines")
    photos = [photo for path, those in read if (photo := _drawn(path, *those, found))]
    if boxed := [photo for photo in photos if None in photo.regions]:
        found.note("boxes-only", root, n=len(boxed))
    return photos


def _entries(
    images: list[Any], file: Path, files: list[Path], folders: list[Path], found: Found, unlisted: set[Path]
) -> dict[str, tuple[Path, dict[str, Any]] | None]:
    """Photos and what the file says of them by id; None for those that cannot be told."""
    records: dict[str, dict[str, Any]] = {}
    unclear: set[str] = set()
    for index, record in enumerate(images):
        record = record if isinstance(record, dict) else {}
        number, name = known_id(record.get("id")), record.get("file_name")
        if not number or not isinstance(name, str) or not name.strip():
            found.note("invalid-photo", file, index=index)
        elif records.setdefault(number, record)["file_name"] != name:
            found.note("duplicate-photo-id", file, number=number, name=name, other=records[number]["file_name"])
            unclear.add(number)
    named, refused = match_names((record["file_name"] for record in records.values()), files, found.root, folders)
    unlisted.difference_update(named.values(), *refused.values())
    entries: dict[str, tuple[Path, dict[str, Any]] | None] = dict.fromkeys(records)
    for number, record in records.items():
        name = record["file_name"]
        if name in refused:
            found.note_ambiguous(file, name, refused[name])
        elif name not in named:
            where = ", ".join(found.relative(folder) or "." for folder in folders)
            found.note("missing-photo:coco", file, name=name, where=where)
        elif number not in unclear:
            entries[number] = named[name], record
    return entries


def _marks(
    annotations: list[Any], entries: dict[str, tuple[Path, dict[str, Any]] | None], file: Path, found: Found
) -> dict[Path, list[dict[str, Any]]]:
    """Annotations of each photo, each once; photos of which it is not known that they have none are not there."""
    marks: dict[Path, list[dict[str, Any]]] = {entry[0]: [] for entry in entries.values() if entry}
    strays = []
    for index, mark in enumerate(annotations):
        mark = mark if isinstance(mark, dict) else {}
        image = known_id(mark.get("image_id"))
        if image not in entries:
            found.note("unknown-photo", file, number=mark.get("id", f"number {index}"), photo=mark.get("image_id"))
            strays.append(image)
        elif (entry := entries[image]) and mark not in marks[entry[0]]:
            marks[entry[0]].append(mark)
    kinds = {image.isdecimal() for image in entries}
    bare = [path for path, those in marks.items() if not those]
    if strays and bare and (len(bare) == len(marks) or not kinds.issuperset(image.isdecimal() for image in strays)):
        # the ids are of two kinds, so those annotations may be of any photo that has none
        found.note("photo-left-out:ids", file, n=len(bare), first=first_names(bare))
        marks = {path: those for path, those in marks.items() if those}
    return marks


def _categories(listed: Any) -> dict[str, str]:
    """Names by id; "" for an id of several names."""
    names: dict[str, str] = {}
    for entry in listed if isinstance(listed, list) else []:
        number = known_id(entry.get("id")) if isinstance(entry, dict) else ""
        name = str(entry.get("name") or number).strip() if number else ""
        names[number] = name if names.get(number, name) == name else ""
    return names


def _drawn(
    path: Path, record: dict[str, Any], split: str, file: Path, marks: list[tuple[str, dict[str, Any]]], found: Found
) -> InstancePhoto | None:
    """A photo with its annotations, or None after a finding."""
    objects = [(f"annotation {mark.get('id', '')}", name, partial(_draw, mark)) for name, mark in marks]
    drawn = draw_objects(found, path, Content(objects, known_size(record.get("height"), record.get("width"))), file)
    if drawn is None:
        return None
    group = record.get("group")
    photo = InstancePhoto(path, drawn[0], split=split, group=str(group) if isinstance(group, str | int) else "")
    for (_, mark), (name, each) in zip(marks, drawn[1], strict=True):
        photo.lost += each.lost
        if not each.lost:
            photo.categories.append(name)
            photo.regions.append(None if each.box else each.region)
            photo.crowd.append(bool(mark.get("iscrowd")))
            photo.defect_types.append(str(mark.get("defect_type") or ""))
    return photo


def _draw(mark: dict[str, Any], size: tuple[int, int]) -> Drawn:
    """Pixels of run lengths, or of all polygons that can be drawn, with the worst that is wrong with the others."""
    segmentation = mark.get("segmentation")
    if not segmentation:
        return draw_box(mark.get("bbox"), size)
    if isinstance(segmentation, dict):
        return draw_rle(segmentation, size)
    if not isinstance(segmentation, list):
        return Drawn(None, "invalid-polygon", "is neither a list of polygons nor run lengths")
    flat = not isinstance(segmentation[0], list | tuple)  # a single part without the list around it
    parts = [draw_polygon(part, size) for part in ([segmentation] if flat else segmentation)]
    regions = [part.region for part in parts if part.region is not None]
    harmless = ("", "clipped", "no-area", "too-few-points")  # where others are left
    worst = min(parts, key=lambda part: (part.code in harmless, not part.code))
    if len(parts) == 1 or not regions:
        return worst
    share = coco_mask.iou(regions, regions, [True] * len(regions))  # of the first's own pixels, that the second has too
    np.fill_diagonal(share, 0)
    if not worst.code and (share == 1).any():
        worst = Drawn(None, "part-inside-part", "lies inside another: COCO adds parts, so it is filled and no hole")
    code = f"{worst.code}:part" if worst.code in ("no-area", "too-few-points") else worst.code
    return Drawn(united(regions), code, f"has a part that {worst.problem}")
