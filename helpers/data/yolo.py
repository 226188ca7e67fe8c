"""YOLO labels as a sample table: a text file a photo, each line a class and a polygon or box in shares of the photo.

As Ultralytics writes it (https://docs.ultralytics.com/datasets/segment): the label of ``images/train/a.jpg`` is
``labels/train/a.txt``, and where no folder is called images it lies beside the photo. Names of classes are in a YAML
file (``names``), ``classes.txt`` or ``obj.names``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.annotations import (
    AnnotationError,
    Drawn,
    Notes,
    cached_mask,
    draw_box,
    draw_polygon,
    is_published,
    known_id,
    mask_folder,
    photo_size,
    read_text,
)
from helpers.data.formats import NORMAL_NAMES, Found, LayoutError, images_in, tree
from helpers.data.labelme import may_be_normal
from helpers.data.layouts import SPLIT_NAMES, match_names, split_in
from helpers.data.voc import listed_splits
from helpers.paths import read_yaml
from helpers.progress import progress

_LINE = re.compile(rb"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*(\n|\r|$)")
_LABELS = "labels"
_NO_LABELS = re.compile(r"(classes|names|notes|readme.*|train|val|valid|test|trainval)\.txt", re.IGNORECASE)
_LOOKED_AT = 100


@dataclass(frozen=True)
class _Object:
    name: str
    region: dict[str, Any]
    is_box: bool


def has_yolo(path: Path) -> bool:
    """Whether one of the first text files in folders called labels, or beside photos, is a label."""
    if not path.is_dir():
        return False
    others: list[Path] = []
    images = images_in(path, others)
    return any(_is_label(file) for file in list(_label_files(path, images, others))[:_LOOKED_AT])


def read_yolo(path: Path, *, boxes_as_masks: bool = False, mask_cache: str | Path | None = None) -> Found:
    """Read photos with YOLO labels; reached through `helpers.read_dataset`.

    A photo with labels is abnormal, its defect type their classes, sorted and joined by "+"; one without, or with words
    for good photos (`NORMAL_NAMES`) only, is normal. So is one without a file beside others that have one: YOLO's
    background; that is said. A photo with a line that cannot be used is left out. Splits are those of the folders, of
    the YAML file or of lists (``train.txt``).

    Args:
        path: the folder.
        boxes_as_masks: draw boxes as masks. They are no outlines; without it a photo with a box has no mask.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: there are no labels, none goes with a photo, or the names of the classes cannot be read.
    """
    if not isinstance(boxes_as_masks, bool):
        raise ValueError(f"boxes_as_masks is {boxes_as_masks!r}; use True or False.")
    notes = Notes(path)
    others: list[Path] = []
    images = images_in(path, others)
    files = list(_label_files(path, images, others))
    if not any(map(_is_label, files)):
        raise LayoutError(f"{path} has no YOLO labels in folders called labels, or beside photos.\n{tree(path)}")
    about = _yaml(path, others)
    names = _class_names(about, others)
    labels, left_out = _match(files, images, path, notes)
    if not labels:
        raise LayoutError(f"{path} has YOLO labels, but none goes with a photo:\n{notes.summary()}")
    # a folder without any label was not labelled
    normal = may_be_normal([p for p in images if p not in left_out], set(labels), path, notes, NORMAL_NAMES)
    photos = [photo for photo in images if photo in labels.keys() - left_out or photo in normal]
    splits = _splits(photos, about, path, others, notes)
    folder = mask_folder(path, mask_cache)
    rows, boxes = [], 0
    for photo in progress(photos, "Drawing masks"):
        if photo not in splits:  # noted
            continue
        objects = _objects(photo, labels[photo], names, "kpt_shape" in about, notes) if photo in labels else []
        if objects is None:
            continue
        defects = [thing for thing in objects if thing.name.lower() not in NORMAL_NAMES]
        boxed = any(thing.is_box for thing in defects)
        boxes += boxed
        mask = ""
        if defects and (boxes_as_masks or not boxed):
            mask = str(cached_mask(folder, photo.relative_to(path).as_posix(), [thing.region for thing in defects]))
        row = {
            "image_path": str(photo),
            "mask_path": mask,
            "label_index": int(bool(defects)),
            "defect_type": "+".join(sorted({thing.name for thing in defects})),
            "split": splits[photo],
        }
        rows.append(row)
    if not rows:
        raise LayoutError(f"{path} has YOLO labels, but no photo that can be used:\n{notes.summary()}")
    if boxes and boxes_as_masks:
        problem = "masks are boxes, not outlines: pixel results on them count sound surface as defect"
        notes.add("warning", path, "boxes-as-masks", problem, "draw outlines if pixels matter")
    elif boxes:
        problem = f"{boxes} photo(s) have boxes and no outlines: they get no pixel mask"
        notes.add("warning", path, "boxes-only", problem, "label outlines, or take the boxes with boxes_as_masks=True")
    background = sorted(normal & splits.keys())
    if background:
        problem = f"{len(background)} photo(s) have no label file ({background[0].name} first): background, so normal"
        notes.add("info", path, "photos-not-annotated", problem, "label them if they have defects")
    published = is_published([row["split"] for row in rows])
    if not published:
        rows = [{**row, "split": ""} for row in rows]
    attrs = {"findings": notes.rows, "mask_cache": str(folder)}
    return Found(rows, path, published_split=published, name=path.name, attrs=attrs)


def _label_files(root: Path, images: list[Path], others: list[Path]) -> Iterator[Path]:
    beside = {photo.parent for photo in images}
    for file in others:
        if file.suffix.lower() == ".txt" and not _NO_LABELS.fullmatch(file.name):
            words = [part.lower() for part in file.relative_to(root).parts[:-1]]
            if _LABELS in words or file.parent in beside:
                yield file


def _is_label(file: Path) -> bool:
    with file.open("rb") as content:
        return bool(_LINE.match(content.read(100_000)))


def _yaml(root: Path, others: list[Path]) -> dict[str, Any]:
    """The dataset's YAML file, or nothing."""
    found: dict[Path, dict[str, Any]] = {}
    for file in others:
        if file.suffix.lower() not in (".yaml", ".yml"):
            continue
        try:
            text = read_text(file)
            content = read_yaml(text, str(file)) if "names" in text else None
        except ValueError as error:
            raise LayoutError(f"{error} Fix or remove it.") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list | dict):
            values = names.values() if isinstance(names, dict) else names
            if not all(isinstance(name, str | int | float) for name in values):
                raise LayoutError(f"{file} has names of classes that are no words; make each one word.")
            found[file] = content
    if len({str(content["names"]) for content in found.values()}) > 1:
        files = ", ".join(file.relative_to(root).as_posix() for file in found)
        raise LayoutError(f"{root} has several YAML files with other names of classes ({files}); keep one.")
    return next(iter(found.values()), {})


def _class_names(about: dict[str, Any], others: list[Path]) -> dict[str, str]:
    """Names by class id; empty where no file has them."""
    names = about.get("names")
    if names is None:
        file = next((file for file in others if file.name.lower() in ("classes.txt", "obj.names")), None)
        try:
            names = [] if file is None else [line for line in read_text(file).splitlines() if line.strip()]
        except AnnotationError as error:
            raise LayoutError(str(error)) from error
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {number: str(name).strip() for key, name in pairs if (number := known_id(key)) is not None}


def _match(files: list[Path], images: list[Path], root: Path, notes: Notes) -> tuple[dict[Path, Path], set[Path]]:
    """The label of each photo, and photos to be left out, for it is not known which label is theirs."""
    places: dict[Path, str] = {}
    for file in files:
        parts = list(file.relative_to(root).with_suffix("").parts)
        words = [part.lower() for part in parts[:-1]]
        if _LABELS in words:
            parts[len(words) - 1 - words[::-1].index(_LABELS)] = "images"
        places[file] = "/".join(parts)
    found, refused = match_names(places.values(), images, root, suffix=False)
    rest = [place for place in places.values() if place not in found and place not in refused]
    more, more_refused = match_names(rest, images, root)  # some tools keep the suffix: a.jpg.txt
    found, refused = found | more, refused | more_refused
    labels: dict[Path, Path] = {}
    left_out: set[Path] = set()
    strays: set[str] = set()
    for file, place in places.items():
        photo = found.get(place)
        if photo in labels:
            problem = f"has several labels ({labels[photo].name}, {file.name}); it is left out"
            notes.add("error", photo, "photo-listed-twice", problem, "remove all but one of them")
            left_out.add(photo)
        elif photo is not None:
            labels[photo] = file
        elif place in refused:
            notes.refused(file, place, refused[place])
            left_out.update(refused[place])
        elif _is_label(file) or _LABELS in [part.lower() for part in file.parts]:
            fix = "add the photo, or remove the file"
            notes.add("error", file, "missing-photo", f"belongs to no photo: there is no {place}", fix)
            strays.add(file.stem.lower())
    # its photo may have been moved
    left_out.update(photo for photo in images if photo not in labels and photo.stem.lower() in strays)
    return labels, left_out


def _splits(photos: list[Path], about: dict[str, Any], root: Path, others: list[Path], notes: Notes) -> dict[Path, str]:
    """Split of each photo, by its folder, by folders that the YAML file names, or by lists."""
    splits = {photo: split_in(photo, root) for photo in photos}
    for word in ("train", "val", "test"):
        entries = about.get(word)
        for entry in entries if isinstance(entries, list) else [entries]:
            entry = entry if isinstance(entry, str) else ""
            parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            for photo in photos if parts else []:
                if not splits[photo] and photo.is_relative_to(root.joinpath(*parts)):
                    splits[photo] = word
    lists = {SPLIT_NAMES[file.stem.lower()]: file for file in others if _is_list(file, root)}
    if any(splits.values()) or not lists:
        return splits
    return listed_splits(lists, photos, root, [root], notes) or splits


def _is_list(file: Path, root: Path) -> bool:
    return file.parent == root and file.suffix.lower() == ".txt" and file.stem.lower() in SPLIT_NAMES


def _objects(photo: Path, file: Path, names: dict[str, str], keypoints: bool, notes: Notes) -> list[_Object] | None:
    """What a label says, or None after a finding."""
    try:
        lines = read_text(file).splitlines()
    except AnnotationError as error:
        notes.add("error", photo, "invalid-annotation", f"{file.name} {error.problem}; it is left out", error.fix)
        return None
    size = photo_size(photo, None, file, notes)
    if size is None:
        return None
    objects = []
    for number, line in enumerate(lines, start=1):
        tokens = line.split()
        if not tokens:
            continue
        if keypoints:
            tokens = tokens[:5]
        drawn = _drawn(tokens[1:], size)
        name = names.get(known_id(tokens[0]) or "", "") if names else f"class_{known_id(tokens[0])}"
        if not name or not re.fullmatch(r"\d+(\.0+)?", tokens[0]):
            drawn = Drawn(None, "unknown-category", f"has the unknown class {tokens[0][:20]!r}")
        if drawn.region is None:
            problem = f"line {number} of {file.name} {drawn.problem}; the photo is left out"
            notes.add("error", photo, drawn.code, problem, "correct the label")
            return None
        if drawn.code:
            problem = f"line {number} of {file.name} {drawn.problem}; what lies outside is cut off"
            notes.add("warning", photo, drawn.code, problem, "correct the label")
        objects.append(_Object(name, drawn.region, len(tokens) == 5))
    return objects


def _drawn(tokens: list[str], size: tuple[int, int]) -> Drawn:
    try:
        values = np.array([float(token) for token in tokens])
    except ValueError:
        return Drawn(None, "invalid-polygon", "has something that is no number")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        problem = f"has {len(values)} numbers behind its class: neither a box (4) nor a polygon (6, 8, ...)"
        return Drawn(None, "invalid-polygon", problem)
    if not (np.abs(values) <= 2).all():  # false for NaN too
        return Drawn(None, "invalid-polygon", "has coordinates that are no shares of width and height (0 to 1)")
    height, width = size
    points = values.reshape(-1, 2) * (width, height)
    if len(values) > 4:
        return draw_polygon(points, size)
    (x, y), (box_width, box_height) = points
    if box_width <= 0 or box_height <= 0:
        return Drawn(None, "no-area", "has a box of no area")
    return draw_box([x - box_width / 2, y - box_height / 2, box_width, box_height], size)
