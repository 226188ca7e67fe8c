"""labelme annotations as a sample table: a JSON file of shapes beside each photo, or in a folder of its own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.data.annotations import (
    AnnotationError,
    Drawn,
    Notes,
    cached_mask,
    draw_polygon,
    is_published,
    mask_folder,
    photo_size,
    read_json,
    region_of,
    require_encoding,
)
from helpers.data.formats import NORMAL_NAMES, SPLIT_NAMES, Found, LayoutError, images_in, tree
from helpers.data.image_masks import has_image_masks
from helpers.data.layouts import match_names, split_in
from helpers.progress import progress

LINE_WIDTH = 10.0
"""Width of lines in pixels, as labelme itself draws them."""

_LOOKED_AT = 20
_PHOTO_WORDS = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
_CORNERS = frozenset({"rotation", "robndbox", "oriented_rectangle", "quadrilateral"})


def has_labelme(path: Path) -> bool:
    """Whether one of the first JSON files holds shapes: beside a photo, or anywhere if no folder holds masks."""
    if not path.is_dir():
        return False
    others: list[Path] = []
    photos = {photo.with_suffix("") for photo in images_in(path, others)}
    # some of every folder, for other files may come first
    by_folder: dict[Path, list[Path]] = {}
    for file in others:
        if file.suffix.lower() == ".json":
            by_folder.setdefault(file.parent, []).append(file)
    some = [file for folder in by_folder.values() for file in folder[:_LOOKED_AT]][: 10 * _LOOKED_AT]
    found = [file for file in some if _looks_like_labelme(file)]
    return any(file.with_suffix("") in photos for file in found) or (bool(found) and not has_image_masks(path))


def _looks_like_labelme(file: Path) -> bool:
    try:
        data = file.read_bytes()
    except OSError:
        return False
    return b'"shapes"' in data and (b'"imagePath"' in data or b'"points"' in data)


def read_labelme(
    path: Path,
    *,
    line_width: float = LINE_WIDTH,
    encoding: str | None = None,
    mask_cache: str | Path | None = None,
) -> Found:
    """Read a folder of photos with labelme's files; reached through `helpers.read_dataset`.

    A file is that of the photo of its stem beside it, else of the one that its ``imagePath`` names, else of the one of
    its stem in another folder. A photo with shapes is abnormal, its defect type their labels, sorted and joined by "+";
    one without shapes, or without a file, is normal, and so is one whose labels all are words for good photos
    (`NORMAL_NAMES`). Where there are no shapes, flags of the whole photo that are set count as labels. Polygons,
    rectangles, rotated ones, circles, lines and masks are drawn; points have no area and are left out with a finding,
    and so is a photo without a defect if one of its shapes is. Folders train, valid and test are the published split,
    if there is more than one.

    Args:
        path: the folder.
        line_width: width in pixels of shapes that are lines.
        encoding: text encoding of the files, such as ``gb18030``; default: UTF-8.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: there is no labelme file, or no photo that can be used.
        ValueError: ``line_width`` is not above 0.
    """
    if isinstance(line_width, bool) or not isinstance(line_width, int | float) or not line_width > 0:
        raise ValueError(f"line_width is {line_width!r}; give a width in pixels, above 0.")
    require_encoding(encoding)
    notes = Notes(path)
    folder = mask_folder(path, mask_cache)
    others: list[Path] = []
    images = images_in(path, others)
    if not has_labelme(path):
        raise LayoutError(f"{path} has no labelme file (a JSON file with shapes).\n{tree(path)}")
    contents = _load([file for file in others if file.suffix.lower() == ".json"], images, encoding, notes)
    mine, left_out = _match(contents, images, path, notes)
    normal = may_be_normal([photo for photo in images if photo not in left_out], set(mine), path, notes)
    rows, without = [], []
    splits = {photo: split_in(photo, path) for photo in images}
    published = is_published(list(splits.values()))
    for photo in progress(images, "Drawing masks"):
        file = mine.get(photo)
        shapes: list[tuple[str, dict[str, Any] | None]] = []
        if photo in left_out or (file is None and photo not in normal):
            continue
        if file is None:
            without.append(photo)
        else:
            content = contents[file]
            found = _shapes(photo, file, content, line_width, notes) if content is not None else None
            if found is None:
                continue
            shapes = found
        defects = [(label, region) for label, region in shapes if label.lower() not in NORMAL_NAMES]
        regions = [region for _, region in defects if region is not None]
        row = {
            "image_path": str(photo),
            "mask_path": str(cached_mask(folder, photo.relative_to(path).as_posix(), regions)) if regions else "",
            "label_index": int(bool(defects)),
            "defect_type": "+".join(sorted({label for label, _ in defects})),
            "split": splits[photo] if published else "",
        }
        rows.append(row)
    if without:
        problem = f"{len(without)} photo(s) have no labelme file and count as normal, {without[0].name} first"
        notes.add("info", path, "photos-not-annotated", problem, "annotate them if they have defects")
    if not rows:
        raise LayoutError(f"{path} has labelme files, but no photo that can be used:\n{notes.summary()}")
    ignored = [file for file in others if file not in contents]
    attrs = {"findings": notes.rows, "mask_cache": str(folder)}
    return Found(rows, path, published_split=published, name=path.name, ignored=ignored, attrs=attrs)


def _load(
    files: list[Path], images: list[Path], encoding: str | None, notes: Notes
) -> dict[Path, dict[str, Any] | None]:
    """What is needed of labelme's files; None after a finding. Other JSON files are passed over."""
    beside = {(photo.parent, photo.stem.lower()) for photo in images}
    contents: dict[Path, dict[str, Any] | None] = {}
    for file in files:
        paired = (file.parent, file.stem.lower()) in beside
        try:
            content = read_json(file, encoding)
        except AnnotationError as error:
            if paired or _looks_like_labelme(file):
                contents[file] = None
                notes.add("error", file, "invalid-annotation", f"{error.problem}; its photo is left out", error.fix)
            continue
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            # not the photo that it may hold
            contents[file] = {key: value for key, value in content.items() if key != "imageData"}
        elif paired:
            contents[file] = None
            problem = "is no labelme file: it has no list of shapes; its photo is left out"
            notes.add("error", file, "invalid-annotation", problem, "save it again in labelme, or remove it")
    return contents


def _match(
    contents: dict[Path, dict[str, Any] | None], images: list[Path], root: Path, notes: Notes
) -> tuple[dict[Path, Path], set[Path]]:
    """The file of each photo, and photos to be left out, for it is not known what their file says."""
    stems = {file: file.relative_to(root).with_suffix("").as_posix() for file in contents}
    by_stem, alike = match_names(stems.values(), images, root, suffix=False)
    written = {
        file: str((content or {}).get("imagePath") or "").replace("\\", "/") for file, content in contents.items()
    }
    claims: dict[Path, list[Path]] = {}
    left_out: set[Path] = set()
    elsewhere: list[Path] = []
    strays: set[str] = set()
    for file, stem in stems.items():
        near = [photo for photo in [by_stem.get(stem), *alike.get(stem, [])] if photo and photo.parent == file.parent]
        if len(near) > 1:  # of one stem: the name says which
            meant, _ = match_names([written[file].rpartition("/")[2]], near, file.parent)
            near = list(meant.values()) or near
        if len(near) == 1 and (stem in by_stem or len(alike[stem]) > 1):
            claims.setdefault(near[0], []).append(file)
        elif near:
            notes.refused(file, stem, near)
            left_out.update(near)
        else:
            elsewhere.append(file)
    named = {file: _from_root(written[file], file, root) for file in elsewhere if written[file]}
    by_name, alike_names = match_names(named.values(), images, root)
    _match_beside([file for file in elsewhere if named.get(file) not in by_name], named, images, by_name, alike_names)
    for file in elsewhere:
        name, stem = named.get(file, ""), stems[file]
        photo = by_name.get(name) or (by_stem.get(stem) if name not in alike_names else None)
        others = alike_names.get(name) or alike.get(stem)
        if photo is not None:
            claims.setdefault(photo, []).append(file)
        elif others:
            notes.refused(file, written[file] or stem, others)
            left_out.update(others)
        else:
            fix = "add the photo, or remove the file"
            notes.add("error", file, "missing-photo", f"belongs to no photo: there is no {written[file] or stem}", fix)
            strays.add(file.stem.lower())
    for photo, files in claims.items():
        if len(files) > 1:
            problem = (
                f"has several files ({', '.join(file.relative_to(root).as_posix() for file in files[:3])}); left out"
            )
            notes.add("error", photo, "photo-listed-twice", problem, "remove all but one of them")
            left_out.add(photo)
    # the photo of a file without one may have been moved
    left_out.update(photo for photo in images if photo not in claims and photo.stem.lower() in strays)
    annotated = {photo.with_suffix("") for photo in claims}
    twins = [photo for photo in images if photo not in claims and photo.with_suffix("") in annotated]
    for photo in twins:
        problem = "has the stem of an annotated photo, so it is not known to be normal; it is left out"
        notes.add("warning", photo, "photo-left-out", problem, "remove it if it is a copy, else rename and annotate it")
    return {photo: files[0] for photo, files in claims.items()}, left_out | set(twins)


def _match_beside(
    files: list[Path],
    named: dict[Path, str],
    images: list[Path],
    found: dict[str, Path],
    refused: dict[str, list[Path]],
) -> None:
    """Match ``train/json/a.json`` to ``train/photos/a.jpg``: a folder of files stands for one of photos beside it."""
    below: dict[Path, list[Path]] = {}
    for photo in images:
        for folder in photo.parents:
            below.setdefault(folder, []).append(photo)
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        if file in named and named[file] not in refused and file.parent not in below:
            by_folder.setdefault(file.parent, []).append(file)
    for folder, those in by_folder.items():
        ends = {file: named[file].rpartition("/")[2] for file in those}
        by_end, alike = match_names(ends.values(), below.get(folder.parent, []), folder.parent)
        found.update({named[file]: by_end[end] for file, end in ends.items() if end in by_end})
        refused.update({named[file]: alike[end] for file, end in ends.items() if end in alike})


def may_be_normal(
    photos: list[Path],
    annotated: set[Path],
    root: Path,
    notes: Notes,
    words: frozenset[str] = NORMAL_NAMES | set(SPLIT_NAMES) | _PHOTO_WORDS,
) -> set[Path]:
    """Photos without annotations that count as normal: those beside annotated ones, in the dataset's own folder, or in
    one of these names. The others (masks, previews) are left out with a finding a folder.
    """
    folders = {photo.parent for photo in annotated} | {root}
    elsewhere: dict[Path, list[str]] = {}
    normal = set()
    for photo in photos:
        if photo in annotated:
            continue
        if photo.parent in folders or photo.parent.name.lower() in words:
            normal.add(photo)
        else:
            elsewhere.setdefault(photo.parent, []).append(photo.name)
    for folder, names in sorted(elsewhere.items()):
        problem = f"{len(names)} photo(s) without annotations ({names[0]} first) in a folder that has none: left out"
        notes.add("warning", folder, "photos-not-annotated", problem, "annotate them; call the folder good if they are")
    return normal


def _from_root(name: str, file: Path, root: Path) -> str:
    absolute = name.startswith("/") or name[1:2] == ":" or "://" in name
    return name if absolute else f"{file.parent.relative_to(root).as_posix()}/{name}"


def _shapes(
    photo: Path, file: Path, content: dict[str, Any], line_width: float, notes: Notes
) -> list[tuple[str, dict[str, Any] | None]] | None:
    """Labels and regions of a photo; None if it is to be left out."""
    stated = (content.get("imageHeight"), content.get("imageWidth"))
    known = all(type(value) is int and value > 0 for value in stated)
    size = photo_size(photo, stated if known else None, file, notes)
    if size is None:
        return None
    found: list[tuple[str, dict[str, Any] | None]] = []
    if not content["shapes"] and isinstance(content.get("flags"), dict):
        found = [(str(flag).strip(), None) for flag, value in content["flags"].items() if value is True]
    lost = 0
    for index, shape in enumerate(content["shapes"], start=1):
        shape = shape if isinstance(shape, dict) else {}
        drawn = _draw(shape, size, line_width)
        label = str(shape.get("label") or "").strip()
        if not label and drawn.region is not None:
            drawn = Drawn(None, "unknown-category", "has no label")
        if drawn.region is None:
            lost += 1
        else:
            found.append((label, drawn.region))
        if drawn.code:
            clipped = drawn.code == "clipped"
            left_out = "what lies outside is cut off" if clipped else "it is left out"
            problem = f"shape {index} of {file.name} {drawn.problem}; {left_out}"
            severity = "warning" if clipped or drawn.code == "point" else "error"
            notes.add(severity, photo, drawn.code, problem, "correct it in labelme")
    if lost and not any(label.lower() not in NORMAL_NAMES for label, _ in found):
        problem = f"{lost} of its shapes cannot be used, so it is not known to be normal; it is left out"
        notes.add("error", photo, "photo-left-out", problem, "fix its shapes")
        return None
    return found


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
    pixels = np.zeros(size, dtype=bool)
    if kind == "circle":
        radius = np.hypot(*(points[1] - points[0]))
        _thick(pixels, points[0], points[0], radius)
        low, high = points[0] - radius, points[0] + radius
    else:
        for start, end in zip(points[:-1], points[1:], strict=True):
            _thick(pixels, start, end, line_width / 2)
        low, high = points.min(axis=0), points.max(axis=0)
    if not pixels.any():
        outside = (high <= 0).any() or (low >= size[::-1]).any()
        return Drawn(None, "outside", "lies outside the picture") if outside else Drawn(None, "no-area", "has no area")
    if (low < -0.5).any() or (high > np.array(size[::-1]) + 0.5).any():
        return Drawn(region_of(pixels), "clipped", "reaches beyond the picture")
    return Drawn(region_of(pixels))


def _thick(pixels: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    # sets the pixels whose centres are nearer than ``radius`` to a line
    limit = np.array(pixels.shape[::-1])
    low = np.clip(np.floor(np.minimum(start, end) - radius), 0, limit).astype(int)
    high = np.clip(np.ceil(np.maximum(start, end) + radius), 0, limit).astype(int)
    rows, columns = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    pixels[low[1] : high[1], low[0] : high[0]] |= _distance_to_segment(columns, rows, start, end) < radius


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
