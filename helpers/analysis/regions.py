"""Outlines drawn with pycocotools, and the exact outline of a mask, as COCO stores it.

A region is a run-length encoding as pycocotools takes it, ``{"size": [H, W], "counts": bytes}``. Coordinates are in
pixels from the upper left corner of the picture, so that the pixel in row r and column c covers x from c to c + 1 and
y from r to r + 1. A pixel belongs to a polygon if its centre lies inside (even-odd rule), to a fifth of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

Region = dict[str, Any]

_BORDER_TOLERANCE = 0.5  # less than this beyond the border, and no pixel is lost
_MAX_COORDINATE = 1e9
_MAX_LENGTH = 2e6  # of an outline in pixels: pycocotools takes 100 bytes for each


class Drawn(NamedTuple):
    """What became of an outline: its pixels, or None if it cannot be used, and what is wrong, if anything.

    ``code``: clipped (it is drawn all the same), or outside, no-area, too-few-points, invalid-polygon, invalid-rle;
    without region and code the pixels are not known. ``box``: it is a rectangle around the object, no outline.
    """

    region: Region | None
    code: str = ""
    problem: str = ""
    box: bool = False

    @property
    def lost(self) -> bool:
        return self.region is None and bool(self.code)


def draw_polygon(points: Any, size: tuple[int, int]) -> Drawn:
    """Pixels of one closed polygon, x, y, x, y, ... or pairs, on a picture (H, W); what lies beyond it is cut off."""
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
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    # pycocotools walks along every edge, however far it goes
    length = float(np.abs(np.diff(vertices, axis=0, append=vertices[:1])).max(axis=1, initial=0).sum())
    if length > _MAX_LENGTH:
        return Drawn(None, "invalid-polygon", f"has an outline of {length:.3g} pixels, which is no outline")
    region = coco_mask.frPyObjects([vertices.ravel().tolist()], *size)[0]
    return judged(region, low, high)


def judged(region: Region, low: np.ndarray, high: np.ndarray) -> Drawn:
    """A region that was drawn of a shape between two corners (x, y), and what is wrong with it, if anything."""
    height, width = region["size"]
    beyond = max(float((-low).max()), float((high - (width, height)).max()))
    if coco_mask.area(region):
        clipped = beyond > _BORDER_TOLERANCE
        return Drawn(region, "clipped", f"reaches {beyond:.3g} pixels beyond the picture") if clipped else Drawn(region)
    if beyond > _BORDER_TOLERANCE:
        return Drawn(None, "outside", f"lies outside the picture, which is {width}x{height} (width x height)")
    return Drawn(None, "no-area", "covers no pixel")


def draw_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> Drawn:
    """Pixels of COCO's run lengths: ``size`` [H, W], ``counts`` of background and object in turn, down the columns.

    The counts may be numbers or compressed to text.
    """
    counts, stated, pixels = segmentation.get("counts"), segmentation.get("size"), size[0] * size[1]
    if isinstance(counts, str):
        counts = _unpacked_counts(counts)
    are_runs = isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)
    # pycocotools would read or write beyond the end of the picture
    if stated != list(size) or not are_runs or sum(counts) != pixels:
        return Drawn(None, "invalid-rle", f"has no run lengths for the {pixels} pixels of its picture, {list(size)}")
    region = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
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
    if width <= 0 or height <= 0:
        return Drawn(None, "no-area", "has a box of no area")
    return draw_polygon([x, y, x + width, y, x + width, y + height, x, y + height], size)._replace(box=True)


def region_of(pixels: np.ndarray) -> Region:
    """Region of a bool mask (H, W)."""
    return coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))


def pixels_of(region: Region) -> np.ndarray:
    """Mask, bool (H, W), of a region."""
    return coco_mask.decode(region).astype(bool)


def united(regions: Sequence[Region]) -> Region:
    """All pixels of one region or more."""
    return coco_mask.merge(list(regions))


def run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """A bool mask (H, W) as COCO's compressed run lengths, in plain JSON types."""
    region = region_of(pixels)
    return {"size": region["size"], "counts": region["counts"].decode("ascii")}


def connected_regions(mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO's outline of each connected region (8 neighbours) of a bool mask (H, W), from top to bottom.

    Each has ``segmentation`` (one polygon, or compressed run lengths for a region with holes, which COCO's polygons
    cannot have), ``bbox`` [x, y, width, height], ``area`` in pixels and ``iscrowd`` 0. pycocotools draws exactly the
    pixels of the mask from it.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3), dtype=int))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == number
        loops = _loops(part)
        segmentation: Any = [(loops[0] + (columns.start, rows.start)).ravel().tolist()]
        if len(loops) > 1:
            segmentation = run_lengths(labels == number)
        bbox = [columns.start, rows.start, part.shape[1], part.shape[0]]
        regions.append({"segmentation": segmentation, "bbox": bbox, "area": int(part.sum()), "iscrowd": 0})
    return regions


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Corners x, y, int (N, 2), of the lines along the edges of a connected bool mask (H, W) and of its holes."""
    # in a picture three times as large, pixels of the border lie a third beside an edge, and corners that touch join
    enlarged = cv2.resize(mask.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    lines = []
    for contour in cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]:
        points = (contour[:, 0] + 1) // 3
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        steps = np.roll(points, -1, axis=0) - points
        lines.append(points[(steps != np.roll(steps, 1, axis=0)).any(axis=1)])
    return lines
