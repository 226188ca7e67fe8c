"""Photos whose class is in their file name or in Pascal VOC files of boxes, such as those of NEU, as a sample table.

A VOC file (Everingham et al., "The Pascal Visual Object Classes Challenge", 2010) has the stem of its photo. Its boxes
count from 1 and hold their last column and row.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from helpers.analysis.regions import Drawn, draw_box
from helpers.data.annotations import (
    AnnotationError,
    Content,
    Photo,
    Thing,
    add_rows,
    has_files,
    known_size,
    note_unknown,
    read_files,
    read_text,
)
from helpers.data.image_masks import has_image_masks
from helpers.data.layouts import Found, LayoutError, is_normal

_CLASS_SOURCES = ("auto", "name", "objects")


def has_voc(path: Path) -> bool:
    """Whether VOC files lie in the places of photos, or anywhere if no folder holds masks."""
    return has_files(path, "voc") or (has_files(path, "voc", anywhere=True) and not has_image_masks(path))


def read_voc(
    found: Found, *, class_from: str = "auto", boxes_as_masks: bool = False, encoding: str | None = None
) -> None:
    """Photos with VOC files.

    ``class_from`` "name": the class is what stands before the last ``_`` and digits of the file name, and the photo is
    normal if that is a word for good photos. "objects": it is the name whose boxes cover most pixels, objects of those
    words count as none, a photo without objects is normal, and one without a file is left out. "auto": by name where
    every photo's name begins with the name of some object of the dataset or a word for normal, else by objects. The
    column ``defect_types`` has the names of all objects. A file with a document type is refused unread: it could define
    entities that grow without limit. ``boxes_as_masks``: draw all boxes of a photo as its mask, though most of what a
    box holds may be sound. ``encoding``: of the files; default: what they declare, else UTF-8.
    """
    if class_from not in _CLASS_SOURCES:
        raise ValueError(f"class_from is {class_from!r}; use one of {', '.join(_CLASS_SOURCES)}.")
    photos = list(read_files(found, "voc", lambda file: _parse(file, encoding)))
    names = {thing.name for photo in photos for thing in photo.things} - {""}
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
        named, objects = _class_in_name(photo), [(t.name, t.drawn.region) for t in photo.things if not t.lost]
        names = sorted({name for name, _ in objects if not is_normal(name)})
        lost, defect = len(photo.things) - len(objects), {}
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


def _parse(file: Path, encoding: str | None) -> Content:
    text = read_text(file, encoding)
    # expat expands entities that a document type defines; without the zeros UTF-16 reads like ASCII
    if "<!doctype" in text.replace("\0", "").lower():
        raise AnnotationError(file, "has a document type (DOCTYPE); it is not read", "remove it if you trust the file")
    try:
        top = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnnotationError(file, f"is not valid XML ({error})") from None
    if top.tag != "annotation":
        raise AnnotationError(file, f"is no VOC file: it begins with <{top.tag}>, not <annotation>")

    def things(size: tuple[int, int]) -> list[Thing]:
        objects = enumerate(top.iterfind("object"), start=1)
        return [Thing(f"object {i}", (o.findtext("name") or "").strip(), _draw(o, size), True) for i, o in objects]

    size = known_size(top.findtext("size/height"), top.findtext("size/width"))
    return Content(things, size, (top.findtext("filename") or "").strip())


def _draw(thing: ElementTree.Element, size: tuple[int, int]) -> Drawn:
    try:
        box = [float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        return Drawn(None, "invalid-box", "has no bndbox of four numbers")
    # the first pixel is 1, but some tools count from 0
    left, top = (value - 1 if value != 0 else 0.0 for value in box[:2])
    return draw_box([left, top, box[2] - left, box[3] - top], size)
