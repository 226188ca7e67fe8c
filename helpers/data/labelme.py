"""labelme annotations as a sample table: a JSON file of shapes beside each photo, or in a folder of its own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.analysis.regions import Drawn, draw_polygon, judged, region_of
from helpers.data.annotations import (
    AnnotationError,
    Content,
    Thing,
    add_rows,
    has_files,
    known_size,
    read_files,
    read_json,
)
from helpers.data.image_masks import has_image_masks
from helpers.data.layouts import Found

_CORNERS = frozenset({"rotation", "robndbox", "oriented_rectangle", "quadrilateral"})
_KINDS = frozenset({"rectangle", "circle", "line", "linestrip", "mask"})


def has_labelme(path: Path) -> bool:
    """Whether files of shapes lie beside photos, or anywhere if no folder holds masks."""
    return has_files(path, "labelme") or (has_files(path, "labelme", anywhere=True) and not has_image_masks(path))


def read_labelme(found: Found, *, line_width: float = 10.0, encoding: str | None = None) -> None:
    """Photos with labelme's files.

    A photo with shapes is abnormal, its defect type their labels; one without shapes, or without a file beside others
    that have one, is normal, and so is one whose labels all are words for good photos. Where there are no shapes,
    flags of the whole photo that are set count as labels. Points have no area and are left out with a finding.
    ``line_width``: of lines, in pixels; 10 is labelme's own. ``encoding``: of the files; default: UTF-8.
    """
    if isinstance(line_width, bool) or not isinstance(line_width, int | float) or not line_width > 0:
        raise ValueError(f"line_width is {line_width!r}; give a width in pixels, above 0.")
    add_rows(found, read_files(found, "labelme", lambda file: _parse(file, line_width, encoding)))


def _parse(file: Path, line_width: float, encoding: str | None) -> Content:
    content = read_json(file, encoding)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise AnnotationError(file, "is no labelme file: it has no list of shapes", "save it in labelme, or remove it")
    shapes = [shape if isinstance(shape, dict) else {} for shape in content["shapes"]]
    flags = content.get("flags")
    flags = [str(flag).strip() for flag, value in flags.items() if value is True] if isinstance(flags, dict) else []

    def things(size: tuple[int, int]) -> list[Thing]:
        if not shapes:
            return [Thing("flag", flag, Drawn(None)) for flag in flags]
        labels = [str(shape.get("label") or "").strip() for shape in shapes]
        drawn = [_draw(shape, size, line_width) for shape in shapes]
        return [Thing(f"shape {i}", *each) for i, each in enumerate(zip(labels, drawn, strict=True), start=1)]

    size = known_size(content.get("imageHeight"), content.get("imageWidth"))
    return Content(things, size, str(content.get("imagePath") or ""))


def _draw(shape: dict[str, Any], size: tuple[int, int], line_width: float) -> Drawn:
    """Pixels of one shape: those whose centre it covers."""
    kind = str(shape.get("shape_type") or "polygon")[:40]
    if kind in ("point", "points"):
        return Drawn(None, "point", "is a point, which has no area")
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return Drawn(None, "invalid-polygon", "has no list of points")
    if kind in _CORNERS and len(points) != 4:
        return Drawn(None, "too-few-points", f"is a {kind} of {len(points)} points, not 4")
    if kind == "polygon" or kind in _CORNERS:
        return draw_polygon(points, size)
    if kind not in _KINDS:
        return Drawn(None, "unknown-shape", f"is a {kind}, which is not drawn: use a polygon")
    if len(points) < 2 or not (np.abs(points) < 1e9).all():
        return Drawn(None, "too-few-points", f"is a {kind} of {len(points)} points that cannot be drawn")
    if kind == "rectangle":
        (x, y), (right, bottom) = points[:2]
        return draw_polygon(points if len(points) > 2 else [x, y, right, y, right, bottom, x, bottom], size)
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
