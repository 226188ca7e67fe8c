"""What the readers of annotations share: findings, regions drawn with pycocotools, and the cache of drawn masks.

A region is a run-length encoding as pycocotools takes it, ``{"size": [H, W], "counts": bytes}``. Coordinates are in
pixels from the upper left corner of the picture, so that the pixel in row r and column c covers x from c to c + 1 and
y from r to r + 1. A pixel belongs to a polygon if its centre lies inside (even-odd rule), to a fifth of a pixel: that
is how pycocotools draws.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from helpers.data.images import ImageReadError, image_sizes
from helpers.paths import printable, project_path, write_whole

MASK_CACHE = "artifacts/.masks"
"""Folder of drawn masks, in the project's folder whatever the data set: data may lie where nobody can write."""

_BORDER_TOLERANCE = 0.5  # less than this beyond the border, and no pixel is lost
_MAX_COORDINATE = 1e9
_MAX_LENGTH = 2e6  # of an outline in pixels: pycocotools takes 100 bytes for each
_ENCODINGS = ("gb18030", "cp1252")  # what editors write that do not write UTF-8


@dataclass
class Notes:
    """Findings of a reader; `helpers.data.checks.check_dataset` takes them over from ``table.attrs["findings"]``.

    Attributes:
        root: folder that paths are made relative to.
        rows: dictionaries with ``severity`` (error, warning, info), ``path``, ``problem``, ``fix`` and ``code``.
    """

    root: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, severity: str, path: Path, code: str, problem: str, fix: str) -> None:
        """Note one thing that is wrong."""
        name = "" if path == self.root else self._relative(path)
        row = {"severity": severity, "path": name, "problem": problem, "fix": fix, "code": code}
        self.rows.append({column: printable(text) for column, text in row.items()})

    def _relative(self, path: Path) -> str:
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def summary(self, limit: int = 5) -> str:
        """The first findings, one a line."""
        lines = [f"- {row['path']}: {row['problem']}; {row['fix']}." for row in self.rows[:limit]]
        return "\n".join(lines + ([f"- and {len(self.rows) - limit} more"] if len(self.rows) > limit else []))

    def refused(self, path: Path, name: str, files: Sequence[Path]) -> None:
        """Note a name that `match_names` refused."""
        those = " or ".join(map(self._relative, files[:2]))
        alike = f"may be {those}" if len(files) > 1 else f"is one of several names that may be {those}"
        problem = f"names {name}, which {alike}; what it is about is left out"
        self.add("error", path, "ambiguous-name", problem, "give each photo a name of its own, with its folder")


# ---------------------------------------------------------------------------------------------------------------- files


class AnnotationError(ValueError):
    """A file of annotations that cannot be read; ``problem`` and ``fix`` in words."""

    def __init__(self, file: Path, problem: str, fix: str) -> None:
        super().__init__(f"{file} {problem}; {fix}.")
        self.problem, self.fix = problem, fix


def require_encoding(encoding: str | None) -> None:
    """Raise ValueError for a name that is no text encoding of Python."""
    try:
        "".encode(encoding or "utf-8")
    except (LookupError, TypeError):
        raise ValueError(f"encoding is {encoding!r}; name one that Python knows, such as 'gb18030'.") from None


def read_text(file: Path, encoding: str | None = None) -> str:
    """Text of a file: UTF-8, UTF-16 with its mark, or as ``encoding`` says; nothing is guessed."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise AnnotationError(
            file, f"cannot be read ({error.strerror})", "check the file and who may read it"
        ) from None
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode(encoding or ("utf-16" if marked else "utf-8-sig"))
    except UnicodeDecodeError:
        likely = next((name for name in _ENCODINGS if name != encoding and _decodes(data, name)), "latin-1")
        fix = f"read it with encoding={likely!r} if it is that, or convert it: iconv -f {likely.upper()} -t UTF-8"
        raise AnnotationError(file, f"is not encoded as {(encoding or 'UTF-8').upper()}", fix) from None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        return bool(data.decode(encoding)) or True
    except UnicodeDecodeError:
        return False


def read_json(file: Path, encoding: str | None = None) -> Any:
    """Content of a JSON file; AnnotationError says what is wrong with it."""
    text = read_text(file, encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits too
        raise AnnotationError(file, f"is not valid JSON ({error})", "export it again") from None


def known_id(value: Any) -> str | None:
    """An id as text, so that "1", "01", 1 and 1.0 are one; None for what is none."""
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if value is None or isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return re.sub(r"^([+-]?)0*(\d+)(\.0+)?$", r"\1\2", text) or None


# -------------------------------------------------------------------------------------------------------------- regions


@dataclass(frozen=True)
class Drawn:
    """What became of an outline.

    Attributes:
        region: its pixels, or None if it cannot be used.
        code: "" where all is well, else what is wrong: ``clipped`` (it is drawn all the same), ``outside``,
            ``no-area``, ``too-few-points``, ``invalid-polygon`` or ``invalid-rle``.
        problem: the same in words.
    """

    region: dict[str, Any] | None
    code: str = ""
    problem: str = ""


def draw_polygon(points: Any, size: tuple[int, int]) -> Drawn:
    """Pixels of one closed polygon; what lies beyond the border is cut off.

    Args:
        points: x, y, x, y, ... or pairs (x, y).
        size: (H, W) of the picture.
    """
    try:
        vertices = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        vertices = np.empty(1)
    pairs = vertices.ndim == 1 or vertices.shape[1:] == (2,)
    if not pairs or vertices.size % 2 or not (np.abs(vertices) < _MAX_COORDINATE).all():  # false for NaN too
        return Drawn(None, "invalid-polygon", "is no list of x and y in pixels")
    vertices = vertices.reshape(-1, 2)
    if len(vertices) < 3:
        return Drawn(None, "too-few-points", f"has {len(vertices)} point(s), fewer than 3")
    if np.linalg.matrix_rank(vertices - vertices[0]) < 2:
        return Drawn(None, "no-area", "has no area: its points lie on a line")
    height, width = size
    extent = np.array([width, height], dtype=np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    outside = Drawn(None, "outside", f"lies outside the picture, which is {width}x{height} (width x height)")
    if (high <= 0).any() or (low >= extent).any():
        return outside
    if (low < -extent).any() or (high > 2 * extent).any():
        # pycocotools walks along every edge, however far it goes
        vertices = _clipped(vertices, -extent, 2 * extent)
    length = float(np.abs(np.diff(vertices, axis=0, append=vertices[:1])).max(axis=1, initial=0).sum())
    if length > _MAX_LENGTH:
        return Drawn(None, "invalid-polygon", f"has an outline of {length:.3g} pixels, which is no outline")
    region = coco_mask.frPyObjects([vertices.ravel().tolist()], height, width)[0]
    beyond = max(float((-low).max()), float((high - extent).max()))
    if not coco_mask.area(region):
        return outside if beyond > _BORDER_TOLERANCE else Drawn(None, "no-area", "covers no pixel")
    if beyond > _BORDER_TOLERANCE:
        return Drawn(region, "clipped", f"reaches {beyond:.3g} pixels beyond the picture")
    return Drawn(region)


def _clipped(vertices: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Polygon (N, 2) cut at a box (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for sign, bound in ((1, low[axis]), (-1, high[axis])):
            inside = sign * (vertices[:, axis] - bound) >= 0
            kept = []
            for i, after in enumerate(vertices):
                before = vertices[i - 1]
                if inside[i] != inside[i - 1]:
                    share = (bound - before[axis]) / (after[axis] - before[axis])
                    kept.append(before + share * (after - before))
                if inside[i]:
                    kept.append(after)
            vertices = np.array(kept).reshape(-1, 2)
    return vertices


def draw_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> Drawn:
    """Pixels of COCO's run-length encoding, with counts as numbers or compressed to text.

    Args:
        segmentation: with ``size`` [H, W] and ``counts``: runs of background and object in turn, down the columns.
        size: (H, W) of the picture.
    """
    height, width = size
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        problem = f"has the size {segmentation.get('size')}, but its picture is [{height}, {width}] (height, width)"
        return Drawn(None, "invalid-rle", problem)
    if isinstance(counts, str):
        counts = _unpacked_counts(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        return Drawn(None, "invalid-rle", "has counts that are no run lengths")
    if sum(counts) != height * width:
        # pycocotools would write beyond the end of the picture
        problem = f"has counts for {sum(counts)} pixels, but its picture has {height * width}"
        return Drawn(None, "invalid-rle", problem)
    region = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Drawn(region) if coco_mask.area(region) else Drawn(None, "no-area", "covers no pixel")


def _unpacked_counts(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form (``rleFrString`` in maskApi.c); None for text that is not one."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts if not shift else None


def draw_box(box: Any, size: tuple[int, int]) -> Drawn:
    """Pixels of a rectangle [x, y, width, height]."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        return Drawn(None, "invalid-polygon", "has no box of four numbers")
    return draw_polygon([x, y, x + width, y, x + width, y + height, x, y + height], size)


def region_of(pixels: np.ndarray) -> dict[str, Any]:
    """Region of a bool mask (H, W)."""
    return coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))


def pixels_of(region: dict[str, Any]) -> np.ndarray:
    """Mask, bool (H, W), of a region."""
    return coco_mask.decode(region).astype(bool)


def united(regions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All pixels of one region or more."""
    return coco_mask.merge(list(regions))


# ---------------------------------------------------------------------------------------------------------------- masks


def mask_folder(root: Path, cache: str | Path | None) -> Path:
    """Folder for the masks of one dataset: ``<cache>/<name>-<hash of its path>``.

    Args:
        root: the dataset's folder, absolute.
        cache: folder for the masks of all; default: `MASK_CACHE`. Relative paths count from the project's folder.
    """
    name = re.sub(r"[^\w.-]", "_", root.name)
    digest = blake2b(os.fsencode(root), digest_size=4).hexdigest()
    return project_path(cache or MASK_CACHE) / f"{name}-{digest}"


def cached_mask(folder: Path, photo: str, regions: Sequence[dict[str, Any]]) -> Path:
    """Mask of a photo as PNG, uint8 (H, W) of 0 and 255; drawn once.

    The name ends in a hash of the photo's name and of every pixel drawn, so a changed annotation gets a new file and
    no old one is ever taken for it.

    Args:
        folder: what `mask_folder` gave.
        photo: path of the photo relative to the dataset.
        regions: at least one; the mask is all of them together.
    """
    region = united(regions)
    digest = blake2b(os.fsencode(photo), digest_size=8)
    digest.update(repr(region["size"]).encode() + region["counts"])
    path = folder / f"{Path(photo).stem[:40]}-{digest.hexdigest()}.png"
    if not path.is_file():
        write_whole(path, lambda file: Image.fromarray(pixels_of(region).astype(np.uint8) * 255).save(file))
    return path


# --------------------------------------------------------------------------------------------------------------- photos


def photo_size(path: Path, stated: tuple[int, int] | None, source: Path, notes: Notes) -> tuple[int, int] | None:
    """(H, W) of an upright photo, or None after a finding if it is not what the annotations were made for.

    Args:
        path: the photo.
        stated: (H, W) that the annotations say, if they do.
        source: file of the annotations.
        notes: takes the finding.
    """
    try:
        height, width = (int(value) for value in image_sizes([path])[0])
    except ImageReadError as error:
        notes.add("error", path, error.code, f"{error.problem}; it is left out", error.fix)
        return None
    if stated is not None and stated != (height, width):
        turned = ", turned: see its EXIF orientation" if stated == (width, height) else ""
        problem = (
            f"is {width}x{height} pixels, but {source.name} was made for {stated[1]}x{stated[0]} "
            f"(width x height{turned}); it is left out"
        )
        notes.add("error", path, "annotation-size", problem, "take the photo that was annotated, or annotate this one")
        return None
    return height, width


def is_published(splits: Sequence[str]) -> bool:
    """Whether splits were published: a lone folder ``train`` is how many tools write photos that were never split."""
    return len(set(splits) - {""}) > 1
