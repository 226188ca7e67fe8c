"""YOLO labels as a sample table: a text file a photo, each line a class and a polygon or box in shares of the photo.

As Ultralytics writes it (https://docs.ultralytics.com/datasets/segment): the label of ``images/train/a.jpg`` is
``labels/train/a.txt``, and where no folder is called images it lies beside the photo. Names of classes are in a YAML
file (``names``), ``classes.txt`` or ``obj.names``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis.regions import Drawn, draw_box, draw_polygon
from helpers.data.annotations import Content, Thing, add_rows, has_files, known_id, read_files, read_text
from helpers.data.layouts import Found, LayoutError, files_in
from helpers.paths import read_yaml


def has_yolo(path: Path) -> bool:
    return has_files(path, "yolo")


def read_yolo(found: Found, *, boxes_as_masks: bool = False) -> None:
    """Photos with YOLO labels.

    A photo with labels is abnormal, its defect type their classes; one without, or with words for good photos only, is
    normal, and so is one without a file beside others that have one: YOLO's background; that is said. Splits are those
    of the folders, of the YAML file or of lists (``train.txt``). ``boxes_as_masks``: draw boxes as masks. They are no
    outlines; without it a photo with a box has no mask.
    """
    others = files_in(found.path)[1]
    about = _yaml(found.path, others)
    names, keypoints = _class_names(about, others), "kpt_shape" in about
    folders: dict[Path, str] = {}
    for split in ("train", "val", "test"):
        for entry in about[split] if isinstance(about.get(split), list) else [about.get(split)]:
            parts = [part for part in re.split(r"[\\/]", entry) if part.strip(".")] if isinstance(entry, str) else []
            folders |= {found.path.joinpath(*parts): split} if parts else {}
    photos = read_files(found, "yolo", lambda file: _parse(file, names, keypoints), folders)
    add_rows(found, photos, boxes_as_masks=boxes_as_masks)


def _yaml(root: Path, others: list[Path]) -> dict[str, Any]:
    """The dataset's YAML file, or nothing."""
    about: dict[str, Any] = {}
    for file in (file for file in others if file.suffix.lower() in (".yaml", ".yml")):
        try:
            text = read_text(file)
            content = read_yaml(text, str(file)) if "names" in text else None
        except ValueError as error:
            raise LayoutError(f"{error} Fix or remove it.") from error
        names = content.get("names") if isinstance(content, dict) else None
        if not isinstance(names, list | dict):
            continue
        values = names.values() if isinstance(names, dict) else names
        if not all(isinstance(name, str | int | float) for name in values):
            raise LayoutError(f"{file} has names of classes that are no words; make each one word.")
        if about and about["names"] != names:
            raise LayoutError(f"{root} has several YAML files with other names of classes ({file} too); keep one.")
        about = content
    return about


def _class_names(about: dict[str, Any], others: list[Path]) -> dict[str, str]:
    """Names by class id; empty where no file has them."""
    names = about.get("names")
    if names is None:
        file = next((file for file in others if file.name.lower() in ("classes.txt", "obj.names")), None)
        names = [line for line in read_text(file).splitlines() if line.strip()] if file else []
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    return {known_id(key): str(name).strip() for key, name in pairs}


def _parse(file: Path, names: dict[str, str], keypoints: bool) -> Content:
    lines = [(i, line.split()) for i, line in enumerate(read_text(file).splitlines(), start=1) if line.strip()]
    lines = [(i, tokens[:5] if keypoints else tokens) for i, tokens in lines]

    def name(text: str) -> str:
        number = known_id(text) if re.fullmatch(r"\d+(\.0+)?", text) else ""
        return (names.get(number, "") if names else f"class_{number}") if number else ""

    def things(size: tuple[int, int]) -> list[Thing]:
        return [Thing(f"line {i}", name(t[0]), _draw(t[1:], size), len(t) == 5) for i, t in lines]

    return Content(things)


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
    points = values.reshape(-1, 2) * size[::-1]
    if len(values) > 4:
        return draw_polygon(points, size)
    centre, extent = points
    return draw_box([*(centre - extent / 2), *extent], size)
