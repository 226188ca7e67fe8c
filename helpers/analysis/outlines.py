"""The exact outline of a mask, along the edges of its pixels, as COCO stores it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def connected_regions(mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO's outline of each connected region (8 neighbours) of a bool mask (H, W), from top to bottom.

    Each has ``segmentation`` (one polygon, or compressed run lengths for a region with holes, which COCO's polygons
    cannot have), ``bbox`` [x, y, width, height], ``area`` in pixels and ``iscrowd`` 0. pycocotools draws exactly the
    pixels of the mask from it.
    """
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == number
        loops = outlines(part)
        # the second holds for every mask tried; a polygon that lost a pixel would do so silently
        if len(loops) == 1 and _drawn(loops[0], part.shape) == _encoded(part):
            segmentation: Any = [(loops[0] + (columns.start, rows.start)).ravel().tolist()]
        else:
            whole = np.zeros(mask.shape, dtype=bool)
            whole[rows, columns] = part
            region = _encoded(whole)
            segmentation = {"size": region["size"], "counts": region["counts"].decode("ascii")}
        bbox = [columns.start, rows.start, part.shape[1], part.shape[0]]
        regions.append({"segmentation": segmentation, "bbox": bbox, "area": int(part.sum()), "iscrowd": 0})
    return regions


def _drawn(polygon: np.ndarray, shape: tuple[int, int]) -> dict[str, Any]:
    return coco_mask.frPyObjects([polygon.astype(float).ravel().tolist()], *shape)[0]


def _encoded(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines along the edges between True and False of a bool mask (H, W), pixels that touch at a corner joined.

    Each is its corners in order, int (N, 2) of x and y from 0 to W and H. A region that is connected by 8 neighbours
    has one line around it and one around each of its holes.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    # edges of one pixel with the object on their right (y points down): clockwise around it, the other way around holes
    down = np.diff(padded, axis=0)[:, 1:-1]
    across = np.diff(padded, axis=1)[1:-1]
    kinds = (
        (down == 1, (0, 0), (1, 0)),  # upper edge, to the right
        (down == -1, (1, 0), (-1, 0)),  # lower edge, to the left
        (across == -1, (0, 0), (0, 1)),  # right edge, down
        (across == 1, (0, 1), (0, -1)),  # left edge, up
    )
    steps_at: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for there, (right, below), step in kinds:
        for y, x in np.argwhere(there).tolist():
            steps_at.setdefault((x + right, y + below), []).append(step)
    lines = []
    done: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for start, first_steps in steps_at.items():
        for first in first_steps:
            point, step = start, first
            edges = []
            while (point, step) not in done:
                done.add((point, step))
                edges.append((point, step))
                point = (point[0] + step[0], point[1] + step[1])
                ways = steps_at[point]
                # where pixels meet at a corner only, turning left keeps them in one line
                step = ways[0] if len(ways) == 1 else (step[1], -step[0])
            corners = [edges[i][0] for i in range(len(edges)) if edges[i][1] != edges[i - 1][1]]
            if corners:
                lines.append(np.array(corners))
    return lines
