"""YOLO labels as a sample table: a text file a photo, each line a class and a polygon or box in shares of the photo.

As Ultralytics writes it (https://docs.ultralytics.com/datasets/segment): the label of ``images/train/a.jpg`` is
``labels/train/a.txt``, and where no folder is called images it lies beside the photo. Names of classes are in a YAML
file (``names``), ``classes.txt`` or ``obj.names``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis.regions import Drawn, Region, draw_box, draw_polygon
from helpers.data.annotations import AnnotationError, known_id, listed_splits, may_be_normal, pair_files, read_text
from helpers.data.layouts import NORMAL_NAMES, Found, LayoutError, files_in, is_normal
from helpers.data.names import SPLIT_NAMES, match_listed, split_in
from helpers.paths import read_yaml
from helpers.progress import progress

_LINE = re.compile(rb"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*(\n|\r|$)")
_LABELS = "labels"
_NO_LABELS = re.compile(r"(classes|names|notes|readme.*|train|val|valid|test|trainval)\.txt", re.IGNORECASE)


def has_yolo(path: Path) -> bool:
    """Whether one of the first text files in folders called labels, or beside photos, is a label."""
    return path.is_dir() and any(map(_is_label, _label_files(path, *files_in(path))[:100]))


def read_yolo(found: Found, *, boxes_as_masks: bool = False) -> None:
    """Photos with YOLO labels.

    A photo with labels is abnormal, its defect type their classes; one without, or with words for good photos only, is
    normal, and so is one without a file beside others that have one: YOLO's background; that is said. A photo with a
    line that cannot be used is left out. Splits are those of the folders, of the YAML file or of lists (``train.txt``).
    ``boxes_as_masks``: draw boxes as masks. They are no outlines; without it a photo with a box has no mask.
    """
    path = found.path
    photos, others = files_in(path)
    files = _label_files(path, photos, others)
    about = _yaml(path, others)
    names = _class_names(about, others)
    places = {file: _place(file, path) for file in files}
    optional = {file for file in files if not _is_label(file) and not _in_labels(file, path)}
    labels, left_out = pair_files([(match_listed, places, photos, path)], photos, found, {}, optional)
    if not labels:
        raise LayoutError(f"{path} has no YOLO label that goes with a photo:\n{found.summary()}")
    # a folder without any label was not labelled
    normal = may_be_normal([photo for photo in photos if photo not in left_out], labels, found, NORMAL_NAMES)
    photos = [photo for photo in photos if photo in labels.keys() - left_out or photo in normal]
    splits = _splits(photos, about, others, found)
    n_boxed = 0
    for photo in progress([photo for photo in photos if photo in splits], "Reading labels"):
        objects = _objects(photo, labels[photo], names, "kpt_shape" in about, found) if photo in labels else []
        if objects is None:
            continue
        boxed = any(is_box for name, _, is_box in objects if not is_normal(name))
        n_boxed += boxed
        things = [(name, region) for name, region, _ in objects]
        found.add_row(photo, things, masks=boxes_as_masks or not boxed, split=splits[photo])
    if n_boxed:
        found.note("boxes-as-masks" if boxes_as_masks else "boxes-only", path, n=n_boxed)
    if background := sorted(normal & splits.keys()):
        found.note("photos-not-annotated:normal", path, n=len(background), first=background[0].name)


def _label_files(root: Path, photos: list[Path], others: list[Path]) -> list[Path]:
    beside = {photo.parent for photo in photos}
    texts = [file for file in others if file.suffix.lower() == ".txt" and not _NO_LABELS.fullmatch(file.name)]
    return [file for file in texts if file.parent in beside or _in_labels(file, root)]


def _in_labels(file: Path, root: Path) -> bool:
    return _LABELS in [part.lower() for part in file.relative_to(root).parts[:-1]]


def _is_label(file: Path) -> bool:
    with file.open("rb") as content:
        return bool(_LINE.match(content.read(100_000)))


def _place(file: Path, root: Path) -> str:
    """Name of the photo that a label is for, without suffix."""
    parts = list(file.relative_to(root).with_suffix("").parts)
    places = [index for index, part in enumerate(parts[:-1]) if part.lower() == _LABELS]
    if places:
        parts[places[-1]] = "images"
    return "/".join(parts)


def _yaml(root: Path, others: list[Path]) -> dict[str, Any]:
    """The dataset's YAML file, or nothing."""
    found: dict[Path, dict[str, Any]] = {}
    for file in (file for file in others if file.suffix.lower() in (".yaml", ".yml")):
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
        names = [] if file is None else [line for line in read_text(file).splitlines() if line.strip()]
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {number: str(name).strip() for key, name in pairs if (number := known_id(key)) is not None}


def _splits(photos: list[Path], about: dict[str, Any], others: list[Path], found: Found) -> dict[Path, str]:
    """Split of each photo, by its folder, by folders that the YAML file names, or by lists."""
    root = found.path
    splits = {photo: split_in(photo, root) for photo in photos}
    folders: dict[str, list[Path]] = defaultdict(list)
    for word in ("train", "val", "test"):
        entries = about[word] if isinstance(about.get(word), list) else [about.get(word)]
        for entry in (entry for entry in entries if isinstance(entry, str)):
            parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            folders[word] += [root.joinpath(*parts)] * bool(parts)
    for photo in (photo for photo in photos if not splits[photo]):
        named = (word for word, those in folders.items() if any(photo.is_relative_to(folder) for folder in those))
        splits[photo] = next(named, "")
    tops = [file for file in others if file.parent == root and file.suffix.lower() == ".txt"]
    lists = {SPLIT_NAMES[file.stem.lower()]: file for file in tops if file.stem.lower() in SPLIT_NAMES}
    if any(splits.values()) or not lists:
        return splits
    return listed_splits(lists, photos, [root], found) or splits


def _objects(
    photo: Path, file: Path, names: dict[str, str], keypoints: bool, found: Found
) -> list[tuple[str, Region, bool]] | None:
    """Name, pixels and whether it is a box of each object of a label, or None after a finding."""
    try:
        lines = read_text(file).splitlines()
    except AnnotationError as error:
        problem = f"{file.name} {error.problem}; it is left out"
        found.note("invalid-annotation", photo, problem=problem, fix=error.fix)
        return None
    size = found.photo_size(photo, None, file)
    if size is None:
        return None
    objects = []
    for number, tokens in enumerate(map(str.split, lines), start=1):
        if not tokens:
            continue
        tokens = tokens[:5] if keypoints else tokens
        drawn = _draw(tokens[1:], size)
        name = names.get(known_id(tokens[0]) or "", "") if names else f"class_{known_id(tokens[0])}"
        if not name or not re.fullmatch(r"\d+(\.0+)?", tokens[0]):
            drawn = Drawn(None, "unknown-category", f"has the unknown class {tokens[0][:20]!r}")
        found.note_drawn(drawn, photo, f"line {number} of {file.name}")
        if drawn.region is None:
            return None
        objects.append((name, drawn.region, len(tokens) == 5))
    return objects


def _draw(tokens: list[str], size: tuple[int, int]) -> Drawn:
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
