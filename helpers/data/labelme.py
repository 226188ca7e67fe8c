"""labelme annotations as a sample table: a JSON file of shapes beside each photo, or in a folder of its own."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.analysis.regions import Drawn, Region, draw_polygon, region_of
from helpers.data.annotations import AnnotationError, Way, may_be_normal, pair_files, read_json
from helpers.data.image_masks import has_image_masks
from helpers.data.layouts import NORMAL_NAMES, Found, LayoutError, files_in, tree
from helpers.data.names import SPLIT_NAMES, match_listed, match_names, split_in
from helpers.progress import progress

_SAMPLED = 20  # files of a folder that are asked whether they are labelme's
_PHOTO_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
_CORNERS = frozenset({"rotation", "robndbox", "oriented_rectangle", "quadrilateral"})


def has_labelme(path: Path) -> bool:
    """Whether one of the first JSON files holds shapes: beside a photo, or anywhere if no folder holds masks."""
    if not path.is_dir():
        return False
    pictures, others = files_in(path)
    photos = {photo.with_suffix("") for photo in pictures}
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in others:
        if file.suffix.lower() == ".json":
            by_folder[file.parent].append(file)
    # some of every folder, for other files may come first
    some = [file for files in by_folder.values() for file in files[:_SAMPLED]][: 10 * _SAMPLED]
    found = [file for file in some if _looks_like_labelme(file)]
    return any(file.with_suffix("") in photos for file in found) or (bool(found) and not has_image_masks(path))


def _looks_like_labelme(file: Path) -> bool:
    try:
        data = file.read_bytes()
    except OSError:
        return False
    return b'"shapes"' in data and (b'"imagePath"' in data or b'"points"' in data)


def read_labelme(found: Found, *, line_width: float = 10.0, encoding: str | None = None) -> None:
    """Photos with labelme's files.

    A file is that of the photo of its stem beside it, else of the one that its ``imagePath`` names, else of the one of
    its stem in another folder. A photo with shapes is abnormal, its defect type their labels; one without shapes, or
    without a file, is normal, and so is one whose labels all are words for good photos. Where there are no shapes,
    flags of the whole photo that are set count as labels. Points have no area and are left out with a finding.
    ``line_width``: of lines, in pixels; 10 is labelme's own. ``encoding``: of the files; default: UTF-8.
    """
    if isinstance(line_width, bool) or not isinstance(line_width, int | float) or not line_width > 0:
        raise ValueError(f"line_width is {line_width!r}; give a width in pixels, above 0.")
    photos, others = files_in(found.path)
    contents = _load([file for file in others if file.suffix.lower() == ".json"], photos, encoding, found)
    if not contents:
        raise LayoutError(f"{found.path} has no labelme file (a JSON file with shapes).\n{tree(found.path)}")
    written = {file: str(content.get("imagePath") or "").replace("\\", "/") for file, content in contents.items()}
    files, left_out = pair_files(_ways(written, photos, found.path), photos, found, written)
    annotated = {photo.with_suffix("") for photo in files}
    for photo in photos:
        if photo not in files and photo.with_suffix("") in annotated:
            found.note("photo-left-out:twin", photo)
            left_out.add(photo)
    words = NORMAL_NAMES | set(SPLIT_NAMES) | _PHOTO_FOLDERS
    normal = may_be_normal([photo for photo in photos if photo not in left_out], files, found, words)
    for photo in progress(photos, "Reading shapes"):
        split = split_in(photo, found.path)
        if photo in normal:
            found.add_row(photo, [], split=split)
        elif photo in files and photo not in left_out and contents[files[photo]]:
            _add(photo, files[photo], contents[files[photo]], line_width, split, found)
    if normal:
        found.note("photos-not-annotated:normal", found.path, n=len(normal), first=min(normal).name)
    found.ignored = [file for file in others if file not in contents]


def _load(files: list[Path], photos: list[Path], encoding: str | None, found: Found) -> dict[Path, dict[str, Any]]:
    """Content of labelme's files, empty after a finding. Other JSON files are passed over."""
    beside = {(photo.parent, photo.stem.lower()) for photo in photos}
    contents: dict[Path, dict[str, Any]] = {}
    for file in files:
        paired = (file.parent, file.stem.lower()) in beside
        problem, fix = "is no labelme file: it has no list of shapes", "save it again in labelme, or remove it"
        try:
            content = read_json(file, encoding)
        except AnnotationError as error:
            content, problem, fix = None, error.problem, error.fix
            paired = paired or _looks_like_labelme(file)
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            # not the photo that it may hold
            contents[file] = {key: value for key, value in content.items() if key != "imageData"}
        elif paired:
            contents[file] = {}
            found.note("invalid-annotation", file, problem=f"{problem}; its photo is left out", fix=fix)
    return contents


def _ways(written: dict[Path, str], photos: list[Path], root: Path) -> Iterator[Way]:
    """The photo beside a file; the one that it names; ``train/photos/a.jpg`` of ``train/json/a.json``; its stem's."""
    files: dict[Path, list[Path]] = defaultdict(list)
    for file in written:
        files[file.parent].append(file)
    here, below = defaultdict(list), defaultdict(list)
    for photo in photos:
        here[photo.parent].append(photo)
        for folder in photo.parents:
            below[folder].append(photo)
    for folder in files.keys() & here.keys():
        yield match_listed, {file: file.stem for file in files[folder]}, here[folder], folder
    yield match_names, {file: _from_root(name, file, root) for file, name in written.items() if name}, photos, root
    for folder in files.keys() - below.keys():
        names = {file: written[file].rpartition("/")[2] for file in files[folder] if written[file]}
        yield match_names, names, below[folder.parent], folder.parent
    yield match_listed, {file: file.relative_to(root).with_suffix("").as_posix() for file in written}, photos, root


def _from_root(name: str, file: Path, root: Path) -> str:
    absolute = name.startswith("/") or name[1:2] == ":" or "://" in name
    return name if absolute else f"{file.parent.relative_to(root).as_posix()}/{name}"


def _add(photo: Path, file: Path, content: dict[str, Any], line_width: float, split: str, found: Found) -> None:
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    known = all(type(value) is int and value > 0 for value in stated)
    size = found.photo_size(photo, stated if known else None, file)
    if size is None:
        return
    objects: list[tuple[str, Region | None]] = []
    if not content["shapes"] and isinstance(content.get("flags"), dict):
        objects = [(str(flag).strip(), None) for flag, value in content["flags"].items() if value is True]
    for index, shape in enumerate(content["shapes"], start=1):
        shape = shape if isinstance(shape, dict) else {}
        drawn, label = _draw(shape, size, line_width), str(shape.get("label") or "").strip()
        if not label and drawn.region is not None:
            drawn = Drawn(None, "unknown-category", "has no label")
        if drawn.region is not None:
            objects.append((label, drawn.region))
        found.note_drawn(drawn, photo, f"shape {index} of {file.name}")
    lost = len(content["shapes"]) - sum(region is not None for _, region in objects)
    found.add_row(photo, objects, lost=lost, split=split)


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
    if kind not in ("rectangle", "circle", "line", "linestrip", "mask"):
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
        pixels, low, high = _near([points[0], points[0]], radius, size), points[0] - radius, points[0] + radius
    else:
        pixels, low, high = _near(points, line_width / 2, size), points.min(axis=0), points.max(axis=0)
    if not pixels.any():
        outside = (high <= 0).any() or (low >= size[::-1]).any()
        return Drawn(None, "outside", "lies outside the picture") if outside else Drawn(None, "no-area", "has no area")
    if (low < -0.5).any() or (high > np.array(size[::-1]) + 0.5).any():
        return Drawn(region_of(pixels), "clipped", "reaches beyond the picture")
    return Drawn(region_of(pixels))


def _near(points: Any, radius: float, size: tuple[int, int]) -> np.ndarray:
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
            stamp = np.asarray(image) != 0
    except Exception:  # whatever the decoders of broken text and pictures raise
        return Drawn(None, "invalid-polygon", "has a mask that cannot be decoded")
    if stamp.ndim != 2:
        return Drawn(None, "invalid-polygon", "has a mask in colour")
    places = np.argwhere(stamp) + np.rint(corner[::-1]).astype(int)
    inside = ((places >= 0) & (places < size)).all(axis=1)
    pixels = np.zeros(size, dtype=bool)
    pixels[tuple(places[inside].T)] = True
    if not pixels.any():
        problem = "lies outside the picture" if len(places) else "covers no pixel"
        return Drawn(None, "outside" if len(places) else "no-area", problem)
    return Drawn(region_of(pixels)) if inside.all() else Drawn(region_of(pixels), "clipped", "reaches beyond it")
