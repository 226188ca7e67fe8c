"""labelme annotations as a sample table: a JSON file of shapes beside each photo, with the same stem."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.data.annotations import (
    Drawn,
    Notes,
    cached_mask,
    draw_polygon,
    is_published,
    mask_folder,
    photo_size,
    region_of,
)
from helpers.data.formats import NORMAL_NAMES, SPLIT_NAMES, Found, LayoutError, images_in, tree
from helpers.data.images import IMAGE_SUFFIXES
from helpers.progress import progress

LINE_WIDTH = 10.0
"""Width of lines in pixels, as labelme itself draws them."""

_LOOKED_AT = 5


def has_labelme(path: Path) -> bool:
    """Whether a JSON file with shapes lies beside a photo of its name, in the folder or below."""
    if not path.is_dir():
        return False
    looked_at = 0
    for parent, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        photos = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
        for name in sorted(names):
            if Path(name).suffix.lower() == ".json" and Path(name).stem in photos:
                if b'"shapes"' in Path(parent, name).read_bytes():
                    return True
                looked_at += 1
                if looked_at == _LOOKED_AT:
                    return False
    return False


def read_labelme(path: Path, *, line_width: float = LINE_WIDTH, mask_cache: str | Path | None = None) -> Found:
    """Read a folder of photos with labelme's files beside them; reached through `helpers.read_dataset`.

    A photo with shapes is abnormal, its defect type their labels, sorted and joined by "+"; one without shapes, or
    without a file, is normal, and so is one whose labels all are words for good photos (`NORMAL_NAMES`). Polygons,
    rectangles, circles, lines and masks are drawn; points have no area and are left out with a finding. Folders train,
    valid and test at the top are the published split, if there is more than one.

    Args:
        path: the folder.
        line_width: width in pixels of shapes that are lines.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: there is no labelme file, or no photo that can be used.
        ValueError: ``line_width`` is not above 0.
    """
    if isinstance(line_width, bool) or not isinstance(line_width, int | float) or not line_width > 0:
        raise ValueError(f"line_width is {line_width!r}; give a width in pixels, above 0.")
    notes = Notes(path)
    folder = mask_folder(path, mask_cache)
    others: list[Path] = []
    images = images_in(path, others)
    files = {file.with_suffix(""): file for file in others if file.suffix.lower() == ".json"}
    if not has_labelme(path):
        raise LayoutError(f"{path} has no labelme file (a JSON file with shapes) beside a photo.\n{tree(path)}")
    rows, without = [], []
    splits = {photo: SPLIT_NAMES.get(photo.relative_to(path).parts[0].lower(), "") for photo in images}
    published = is_published(list(splits.values()))
    used: set[Path] = set()
    for photo in progress(images, "Drawing masks"):
        file = files.get(photo.with_suffix(""))
        content = _load(file, notes) if file is not None else None
        if file is not None and content is not None and not _is_meant(content, photo, images):
            file = None
        shapes: list[tuple[str, dict[str, Any]]] = []
        if file is None:
            without.append(photo)
        else:
            used.add(file)
            found = _shapes(photo, file, content, line_width, notes) if content is not None else None
            if found is None:
                continue
            shapes = found
        defects = [(label, region) for label, region in shapes if label.lower() not in NORMAL_NAMES]
        mask = ""
        if defects:
            mask = str(cached_mask(folder, photo.relative_to(path).as_posix(), [region for _, region in defects]))
        row = {
            "image_path": str(photo),
            "mask_path": mask,
            "label_index": int(bool(defects)),
            "defect_type": "+".join(sorted({label for label, _ in defects})),
            "split": splits[photo] if published else "",
        }
        rows.append(row)
    if without:
        problem = f"{len(without)} photo(s) have no labelme file and count as normal, {without[0].name} first"
        notes.add("info", path, "photos-not-annotated", problem, "annotate them if they have defects")
    for file in sorted(set(files.values()) - used):
        if b'"shapes"' in file.read_bytes():
            problem, fix = "belongs to no photo: none of its name lies beside it", "add the photo, or remove the file"
            notes.add("error", file, "missing-photo", problem, fix)
    if not rows:
        raise LayoutError(f"{path} has labelme files, but no photo that can be used:\n{notes.summary()}")
    ignored = [file for file in others if file not in used]
    attrs = {"findings": notes.rows, "mask_cache": str(folder)}
    return Found(rows, path, published_split=published, name=path.name, ignored=ignored, attrs=attrs)


def _load(file: Path, notes: Notes) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        notes.add("error", file, "invalid-annotation", f"is not valid JSON ({error})", "save it again in labelme")
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        problem = "is no labelme file: it has no list of shapes; its photo is left out"
        notes.add("error", file, "invalid-annotation", problem, "save it again in labelme, or remove it")
        return None
    return content


def _is_meant(content: dict[str, Any], photo: Path, images: list[Path]) -> bool:
    """Whether a file is that of this photo, where several have its stem."""
    named = Path(str(content.get("imagePath", "")).replace("\\", "/")).name
    same_stem = {other.name for other in images if other.with_suffix("") == photo.with_suffix("")}
    return named == photo.name if named in same_stem else photo.name == min(same_stem)


def _shapes(
    photo: Path, file: Path, content: dict[str, Any], line_width: float, notes: Notes
) -> list[tuple[str, dict[str, Any]]] | None:
    """Labels and regions of a photo; None if it is to be left out."""
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    known = all(type(value) is int and value > 0 for value in stated)
    size = photo_size(photo, stated if known else None, file, notes)
    if size is None:
        return None
    found: list[tuple[str, dict[str, Any]]] = []
    for index, shape in enumerate(content["shapes"], start=1):
        shape = shape if isinstance(shape, dict) else {}
        drawn = _draw(shape, size, line_width)
        label = str(shape.get("label") or "").strip()
        if not label and drawn.region is not None:
            drawn = Drawn(None, "unknown-category", "has no label")
        if drawn.region is not None:
            found.append((label, drawn.region))
        if drawn.code:
            clipped = drawn.code == "clipped"
            left_out = "what lies outside is cut off" if clipped else "it is left out"
            problem = f"shape {index} of {file.name} {drawn.problem}; {left_out}"
            severity = "warning" if clipped or drawn.code == "point" else "error"
            notes.add(severity, photo, drawn.code, problem, "correct it in labelme")
    if content["shapes"] and not found:
        problem = "none of its shapes can be used, so it is not known to be normal; it is left out"
        notes.add("error", photo, "photo-left-out", problem, "fix its shapes")
        return None
    return found


def _draw(shape: dict[str, Any], size: tuple[int, int], line_width: float) -> Drawn:
    """Pixels of one shape: those whose centre it covers."""
    kind = shape.get("shape_type") or "polygon"
    if kind in ("point", "points"):
        return Drawn(None, "point", "is a point, which has no area")
    try:
        points = np.asarray(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return Drawn(None, "invalid-polygon", "has no list of points")
    if kind == "polygon":
        return draw_polygon(points, size)
    needed = {"rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "mask": 2}.get(kind)
    if needed is None:
        return Drawn(None, "unknown-shape", f"is a {kind}, which is not drawn: use a polygon")
    if len(points) < needed or not (np.abs(points) < 1e9).all():
        return Drawn(None, "too-few-points", f"is a {kind} of {len(points)} points that cannot be drawn")
    if kind == "rectangle":
        (x, y), (right, bottom) = points[0], points[1]
        return draw_polygon(points if len(points) > 2 else [x, y, right, y, right, bottom, x, bottom], size)
    if kind == "mask":
        return _pasted(shape.get("mask"), points, size)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    if kind == "circle":
        radius = np.hypot(*(points[1] - points[0]))
        pixels = np.hypot(columns - points[0, 0], rows - points[0, 1]) < radius
        low, high = points[0] - radius, points[0] + radius
    else:
        pixels = np.zeros(size, dtype=bool)
        for start, end in zip(points[:-1], points[1:], strict=True):
            pixels |= _distance_to_segment(columns, rows, start, end) < line_width / 2
        low, high = points.min(axis=0), points.max(axis=0)
    if not pixels.any():
        outside = (high <= 0).any() or (low >= size[::-1]).any()
        return Drawn(None, "outside", "lies outside the picture") if outside else Drawn(None, "no-area", "has no area")
    if (low < -0.5).any() or (high > np.array(size[::-1]) + 0.5).any():
        return Drawn(region_of(pixels), "clipped", "reaches beyond the picture")
    return Drawn(region_of(pixels))


def _distance_to_segment(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = float(along @ along)
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length if length else np.zeros_like(x)
    share = share.clip(0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])


def _pasted(text: Any, points: np.ndarray, size: tuple[int, int]) -> Drawn:
    """A mask stored as PNG in text, its upper left corner at the first point."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
            stamp = np.asarray(image) != 0
    except Exception:  # whatever the decoders of broken text and pictures raise
        return Drawn(None, "invalid-polygon", "has a mask that cannot be decoded")
    if stamp.ndim != 2:
        return Drawn(None, "invalid-polygon", "has a mask in colour")
    left, top = (int(value) for value in np.rint(points[0]))
    pixels = np.zeros(size, dtype=bool)
    rows, columns = np.nonzero(stamp)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (columns >= 0) & (rows < size[0]) & (columns < size[1])
    pixels[rows[inside], columns[inside]] = True
    if not pixels.any():
        problem = "lies outside the picture" if len(rows) else "covers no pixel"
        return Drawn(None, "outside" if len(rows) else "no-area", problem)
    return Drawn(region_of(pixels)) if inside.all() else Drawn(region_of(pixels), "clipped", "reaches beyond it")
