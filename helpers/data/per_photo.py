"""Annotations in a file a photo: parsers of labelme's JSON, Pascal VOC's XML and YOLO's text for `read_files`."""

from __future__ import annotations

import base64
import io
import re
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from helpers.analysis.regions import Drawn, draw_box, draw_polygon, judged, region_of
from helpers.data.annotations import (
    Content,
    Photo,
    add_rows,
    known_id,
    known_size,
    note_unknown,
    read_files,
    read_json,
    read_text,
)
from helpers.data.layouts import Found, LayoutError, files_in, is_normal
from helpers.paths import read_yaml

# ------------------------------------------------------------------------------------------------------------- labelme

_POLYGONS = frozenset({"polygon", "rotation", "robndbox", "oriented_rectangle", "quadrilateral"})


def read_labelme(found: Found, *, line_width: float = 10.0, encoding: str | None = None) -> None:
    """Photos with labelme's files.

    A photo with shapes is abnormal, its defect type their labels; one without shapes, or without a file beside others
    that have one, is normal, and so is one whose labels all are words for good photos. Where there are no shapes,
    flags of the whole photo that are set count as labels. Points have no area and are left out with a finding.
    ``line_width``: of lines, in pixels; 10 is labelme's own. ``encoding``: of the files; default: UTF-8.
    """
    if isinstance(line_width, bool) or not isinstance(line_width, int | float) or not line_width > 0:
        raise ValueError(f"line_width is {line_width!r}; give a width in pixels, above 0.")
    add_rows(found, read_files(found, "labelme", partial(_parse_labelme, line_width=line_width, encoding=encoding)))


def _parse_labelme(file: Path, line_width: float, encoding: str | None) -> Content:
    content = read_json(file, encoding)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise LayoutError(f"{file} is no labelme file: it has no list of shapes; save it in labelme, or remove it.")
    objects = []
    for i, shape in enumerate(content["shapes"], start=1):
        shape = shape if isinstance(shape, dict) else {}
        draw = partial(_draw_shape, shape, line_width=line_width)
        objects.append((f"shape {i}", str(shape.get("label") or "").strip(), draw))
    if not objects and isinstance(content.get("flags"), dict):
        set_flags = (str(flag).strip() for flag, value in content["flags"].items() if value is True)
        objects = [("flag", flag, lambda size: Drawn(None)) for flag in set_flags]
    size = known_size(content.get("imageHeight"), content.get("imageWidth"))
    return Content(objects, size, str(content.get("imagePath") or ""))


def _draw_shape(shape: dict[str, Any], size: tuple[int, int], line_width: float) -> Drawn:
    """Pixels of one shape: those whose centre it covers."""
    kind = str(shape.get("shape_type") or "polygon")[:40]
    if kind in ("point", "points"):
        return Drawn(None, "point", "is a point, which has no area")
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return Drawn(None, "invalid-polygon", "has no list of points")
    if kind in _POLYGONS or (kind == "rectangle" and len(points) > 2):
        return draw_polygon(points, size)
    if kind not in ("rectangle", "circle", "line", "linestrip", "mask"):
        return Drawn(None, "unknown-shape", f"is a {kind}, which is not drawn: use a polygon")
    if len(points) < 2 or not (np.abs(points) < 1e9).all():
        return Drawn(None, "too-few-points", f"is a {kind} of {len(points)} points that cannot be drawn")
    if kind == "rectangle":
        (x, y), (right, bottom) = points
        return draw_polygon([x, y, right, y, right, bottom, x, bottom], size)
    if kind == "mask":
        return _pasted(shape.get("mask"), points[0], size)
    if kind == "circle":
        radius = np.hypot(*(points[1] - points[0]))
        return judged(region_of(_near(points[[0, 0]], radius, size)), points[0] - radius, points[0] + radius)
    return judged(region_of(_near(points, line_width / 2, size)), points.min(axis=0), points.max(axis=0))


def _near(points: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
    """Pixels, bool (H, W), whose centres are nearer than ``radius`` to a line through points (x, y)."""
    pixels = np.zeros(size, dtype=bool)
    for start, end in zip(points[:-1], points[1:], strict=True):
        low = np.clip(np.floor(np.minimum(start, end) - radius), 0, size[::-1]).astype(int)
        high = np.clip(np.ceil(np.maximum(start, end) + radius), 0, size[::-1]).astype(int)
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
        along = end - start
        length = float(along @ along) or 1.0
        share = (((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length).clip(0, 1)
        distance = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
        pixels[low[1] : high[1], low[0] : high[0]] |= distance < radius
    return pixels


def _pasted(text: Any, corner: np.ndarray, size: tuple[int, int]) -> Drawn:
    """A mask stored as PNG in text, its upper left corner at a point (x, y)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
            stamp = Image.fromarray(np.asarray(image) != 0)
    except Exception:  # whatever the decoders of broken text and pictures raise; colour too
        return Drawn(None, "invalid-polygon", "has no mask as a PNG of one channel")
    picture, (x, y) = Image.new("1", size[::-1]), np.rint(corner).astype(int).tolist()
    picture.paste(stamp, (x, y))
    return judged(region_of(np.asarray(picture)), np.array([x, y]), np.array([x + stamp.width, y + stamp.height]))


# ---------------------------------------------------------------------------------------------------------- Pascal VOC


def read_voc(
    found: Found, *, class_from: str = "auto", boxes_as_masks: bool = False, encoding: str | None = None
) -> None:
    """Photos with VOC files (Everingham et al., "The Pascal Visual Object Classes Challenge", 2010), as those of NEU.

    ``class_from`` "name": the class is what stands before the last ``_`` and digits of the file name, and the photo is
    normal if that is a word for good photos. "objects": it is the name whose boxes cover most pixels, objects of those
    words count as none, a photo without objects is normal, and one without a file is left out. "auto": by name where
    every photo's name begins with the name of some object of the dataset or a word for normal, else by objects. The
    column ``defect_types`` has the names of all objects. A file with a document type is refused unread: it could define
    entities that grow without limit. ``boxes_as_masks``: draw all boxes of a photo as its mask, though most of what a
    box holds may be sound. ``encoding``: of the files; default: what they declare, else UTF-8.
    """
    if class_from not in ("auto", "name", "objects"):
        raise ValueError(f"class_from is {class_from!r}; use auto, name or objects.")
    photos = list(read_files(found, "voc", partial(_parse_voc, encoding=encoding)))
    names = {name for photo in photos for name, _ in photo.objects} - {""}
    are_classes = bool(names) and all((name := _class_in_name(photo)) in names or is_normal(name) for photo in photos)
    if class_from == "name" or (class_from == "auto" and are_classes):
        _add_named(found, photos, boxes_as_masks)
    else:
        note_unknown((photo.path for photo in photos if not photo.file), found)
        add_rows(found, (p for p in photos if p.file), boxes_as_masks=boxes_as_masks, largest=True)
        if mixed := [row["image_path"] for row in found.rows if "+" in row["defect_types"]]:
            found.note("several-classes", found.path, n=len(mixed), first=Path(mixed[0]).name)


def _class_in_name(photo: Photo) -> str:
    match = re.fullmatch(r"(.+)_\d+", photo.path.stem)
    return match.group(1) if match else ""


def _add_named(found: Found, photos: list[Photo], boxes_as_masks: bool) -> None:
    """Rows of photos whose class is in their name."""
    for photo in photos:
        named, objects = _class_in_name(photo), [(name, each.region) for name, each in photo.objects if not each.lost]
        names = sorted({name for name, _ in objects if not is_normal(name)})
        lost, defect = len(photo.objects) - len(objects), {}
        if not named:
            raise LayoutError(f"{photo.path}: the name is not <class>_<number>; use class_from='objects'.")
        if not is_normal(named):
            lost, defect = 0, {"label_index": 1, "defect_type": named, "defect_types": "+".join(names) or named}
        elif names:
            found.note("mask-on-good:name", photo.path, names=", ".join(names))
            continue
        found.add_row(photo.path, objects, lost=lost, masks=boxes_as_masks, largest=True, split=photo.split, **defect)
    if boxes_as_masks:
        found.note("boxes-as-masks", found.path)


def _parse_voc(file: Path, encoding: str | None) -> Content:
    text = read_text(file, encoding)
    # expat expands entities that a document type defines; without the zeros UTF-16 reads like ASCII
    if "<!doctype" in text.replace("\0", "").lower():
        raise LayoutError(f"{file} has a document type (DOCTYPE); remove it if you trust the file.")
    try:
        top = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise LayoutError(f"{file} is not valid XML ({error}); export it again.") from None
    if top.tag != "annotation":
        raise LayoutError(f"{file} is no VOC file: it begins with <{top.tag}>, not <annotation>.")
    things = enumerate(top.iterfind("object"), start=1)
    objects = [(f"object {i}", (o.findtext("name") or "").strip(), partial(_draw_bndbox, o)) for i, o in things]
    size = known_size(top.findtext("size/height"), top.findtext("size/width"))
    return Content(objects, size, (top.findtext("filename") or "").strip())


def _draw_bndbox(thing: ElementTree.Element, size: tuple[int, int]) -> Drawn:
    """Its first pixel is 1, and it holds its last row and column."""
    try:
        box = [float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        return Drawn(None, "invalid-box", "has no bndbox of four numbers")
    # some tools count from 0
    left, top = (value - 1 if value != 0 else 0.0 for value in box[:2])
    return draw_box([left, top, box[2] - left, box[3] - top], size)


# ---------------------------------------------------------------------------------------------------------------- YOLO


def read_yolo(found: Found, *, boxes_as_masks: bool = False) -> None:
    """Photos with YOLO labels (https://docs.ultralytics.com/datasets/segment): lines of a class and a polygon or a box.

    A photo with labels is abnormal, its defect type their classes; one without, or with words for good photos only, is
    normal, and so is one without a file beside others that have one: YOLO's background; that is said. Splits are those
    of the folders, of the YAML file or of lists (``train.txt``). ``boxes_as_masks``: draw boxes as masks. They are no
    outlines; without it a photo with a box has no mask.
    """
    names, about = _classes(found.path)
    folders: dict[Path, str] = {}
    for split in ("train", "val", "test"):
        entries = about.get(split)
        for entry in entries if isinstance(entries, list) else [entries]:
            parts = [part for part in re.split(r"[\\/]", entry) if part.strip(".")] if isinstance(entry, str) else []
            folders |= {found.path.joinpath(*parts): split} if parts else {}
    parse = partial(_parse_yolo, names=names, keypoints="kpt_shape" in about)
    add_rows(found, read_files(found, "yolo", parse, folders), boxes_as_masks=boxes_as_masks)


def _classes(root: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Names by class id, empty where no file has them, and the dataset's YAML file, or nothing."""
    names: Any = None
    about: dict[str, Any] = {}
    for file in files_in(root)[1]:
        if file.suffix.lower() in (".yaml", ".yml"):
            text = read_text(file)
            content = read_yaml(text, str(file)) if "names" in text else None
            if isinstance(content, dict) and isinstance(content.get("names"), list | dict):
                if about and about["names"] != content["names"]:
                    raise LayoutError(f"{root} has YAML files with other names of classes ({file} too); keep one.")
                about, names = content, content["names"]
        elif file.name.lower() in ("classes.txt", "obj.names"):
            names = names or [line for line in read_text(file).splitlines() if line.strip()]
    named = {known_id(k): v for k, v in (names.items() if isinstance(names, dict) else enumerate(names or []))}
    if not all(isinstance(name, str | int | float) for name in named.values()):
        raise LayoutError(f"The YAML file of {root} has names of classes that are no words; make each one word.")
    return {number: str(name).strip() for number, name in named.items()}, about


def _parse_yolo(file: Path, names: dict[str, str], keypoints: bool) -> Content:
    objects = []
    for i, line in enumerate(read_text(file).splitlines(), start=1):
        if tokens := line.split():
            number = known_id(tokens[0]) if re.fullmatch(r"\d+(\.0+)?", tokens[0]) else ""
            name = names.get(number, "") if names or not number else f"class_{number}"
            objects.append((f"line {i}", name, partial(_draw_line, tokens[1 : 5 if keypoints else None])))
    return Content(objects)


def _draw_line(tokens: list[str], size: tuple[int, int]) -> Drawn:
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
