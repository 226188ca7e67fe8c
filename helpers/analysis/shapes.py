"""Geometry of a mask, whose pixels are squares: hull, diameters, perimeter, axes, gaps. ``scale``: a pixel's (x, y)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from scipy.spatial import cKDTree


def hull_of(part: np.ndarray) -> np.ndarray:
    """Convex hull (N, 2) float of the corners of a mask's pixels, as x and y in the mask; at least four points."""
    rows = np.flatnonzero(part.any(1))
    part = part[rows]
    first, last = part.argmax(1), part.shape[1] - part[:, ::-1].argmax(1)
    x, y = np.concatenate([first, first, last, last]), np.concatenate([rows, rows + 1] * 2)
    return cv2.convexHull(np.column_stack([x, y]).astype(np.int32))[:, 0].astype(float)


def feret(hull: np.ndarray) -> tuple[float, float, tuple[int, int]]:
    """Largest and smallest diameter of a convex polygon (N, 2), and the two points the largest lies between."""
    between = hull[None] - hull[:, None]  # [i, j]: from i to j
    squared = (between**2).sum(-1)
    first, second = divmod(int(squared.argmax()), len(hull))
    edges = np.roll(hull, -1, axis=0) - hull
    # The strip of the least width has an edge of the hull on one side.
    heights = np.abs(edges[:, None, 0] * between[..., 1] - edges[:, None, 1] * between[..., 0]).max(1)
    return math.sqrt(squared[first, second]), float((heights / np.hypot(*edges.T)).min()), (first, second)


def second_moments(part: np.ndarray) -> tuple[float, float, float]:
    """Variances of x and y and their covariance over a mask's area."""
    y, x = np.nonzero(part)
    x, y = x - x.mean(), y - y.mean()
    return x @ x / len(x) + 1 / 12, y @ y / len(x) + 1 / 12, x @ y / len(x)  # 1/12: of a square's own points


def axes(moments: Sequence[tuple[float, float, float]], scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Full axes (2, N) and orientation in degrees (N,) of the ellipses with N `second_moments`."""
    factors = np.array([scale[0] ** 2, scale[1] ** 2, scale[0] * scale[1]])
    xx, yy, xy = (np.array(moments).reshape(-1, 3) * factors).T
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    both = 4 * np.sqrt(np.maximum([middle + spread, middle - spread], 0))
    degrees = np.rad2deg(np.arctan2(-2 * xy, xx - yy) / 2)  # y points down
    return both, np.where(degrees <= -90, degrees + 180, degrees)


def crossings(part: np.ndarray) -> tuple[int, int, int]:
    """How often lines through the pixels' centres enter or leave a mask: along rows, columns, both diagonals."""
    padded = np.zeros((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    padded[1:-1, 1:-1] = part
    rows = np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    columns = np.count_nonzero(padded[1:] != padded[:-1])
    falling = np.count_nonzero(padded[1:, 1:] != padded[:-1, :-1])
    return rows, columns, falling + np.count_nonzero(padded[1:, :-1] != padded[:-1, 1:])


def perimeter(crossed: tuple[int, int, int], scale: np.ndarray) -> float:
    """Half the integral over directions of the number of `crossings` (Cauchy-Crofton)."""
    x, y = scale
    diagonal = math.atan2(y, x)
    rows, columns, diagonals = crossed
    lines = x * y / math.hypot(x, y)  # distance between neighbouring diagonal lines
    # Each direction stands for the angles that are nearest to it.
    total = diagonal * y * rows + (math.pi / 2 - diagonal) * x * columns + math.pi / 4 * lines * diagonals
    return total / 2


def edge_distances(labels: np.ndarray, numbers: np.ndarray, product: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Smallest gap (N,) of each defect to what is not the product, outside the photo included; 0 where it overlaps."""
    inside = np.pad(product, 1).astype(np.uint8)
    rim = (inside == 0) & (cv2.dilate(inside, np.ones((3, 3), np.uint8)) > 0)
    distances = np.zeros(len(numbers))
    if not rim.any():
        return distances
    tree = cKDTree((corners(rim) - 1) * scale)
    for row, number in enumerate(numbers):
        part = labels == number
        if product[part].all():
            distances[row] = tree.query(corners(part) * scale)[0].min()
    return distances


def corners(mask: np.ndarray) -> np.ndarray:
    """Corners (N, 2) of a mask's pixels, x and y."""
    rows, columns = np.nonzero(mask)
    return np.concatenate([np.column_stack([columns + right, rows + down]) for right in (0, 1) for down in (0, 1)])
