"""Photos in different splits that look the same, told from photos of parts that all look alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import euclidean_distances

from helpers.data.images import DecodedImage

SIDE = 32
SCALE = 128.0  # thumbnails are stored as grey value * 128 in uint16: averages keep their fractions
LARGEST = 4.0  # grey values
_REFERENCE_PHOTOS = 256


def thumbnail(decoded: DecodedImage, pixels: np.ndarray) -> np.ndarray:
    """Upright grey thumbnail of a photo's pixels, uint16 (32, 32), grey value * 128."""
    grey = decoded.image if decoded.turn == 1 and decoded.image.mode in ("L", "RGB") else Image.fromarray(pixels)
    small = np.asarray(grey.convert("L").resize((4 * SIDE, 4 * SIDE), Image.Resampling.BOX), dtype=np.float32)
    return np.rint(small.reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3)) * SCALE).astype(np.uint16)


def near_duplicate_pairs(
    thumbnails: np.ndarray, splits: np.ndarray, normal: np.ndarray, identical: np.ndarray
) -> pd.DataFrame:
    """Pairs of photos in different splits that look the same, nearest first; ``second`` is of the later split.

    They differ (root mean square, in grey values) by less than 15 % of what is typical around them (by less than 30 %
    if that is under 0.6, what re-encoding as JPEG does), and by less than 4. Typical is the 10 % quantile of the
    distances to 256 photos of the dataset, so for aligned photos of good parts, which all look alike, the limit is
    small. Before, what lighting does is removed: a quadratic in position, alone and times the mean of the ``normal``
    photos (bool (N,)). Shifted, rotated or cropped copies are not found. ``thumbnails``: uint16 (N, 32, 32).
    ``splits``: int (N,), -1 for none. ``identical``: int (N,), the same for photos that are not compared.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    residuals = _without_light(flat, flat[normal] if normal.any() else flat)
    typical = _typical_distances(residuals, identical)
    limits = np.minimum(np.maximum(0.15 * typical, np.minimum(0.3 * typical, 0.6)), LARGEST)
    chosen = np.flatnonzero(splits >= 0)
    pairs, start = [np.empty((2, 0), dtype=int)], 0
    for part in pairwise_distances_chunked(residuals[chosen], working_memory=64):
        rows = chosen[start : start + len(part)]
        start += len(part)
        close = part / SIDE < np.minimum.outer(limits[rows], limits[chosen])
        close &= (splits[rows][:, None] > splits[chosen]) & (identical[rows][:, None] != identical[chosen])
        later, earlier = np.nonzero(close)
        pairs.append(np.stack([chosen[earlier], rows[later]]))
    first, second = np.concatenate(pairs, axis=1)
    distance = np.sqrt(np.mean((residuals[first] - residuals[second]) ** 2, axis=1))
    found = {"first": first, "second": second, "distance": distance}
    table = pd.DataFrame(found | {"typical": np.minimum(typical[first], typical[second])})
    return table.sort_values(["distance", "first", "second"], ignore_index=True)


def _without_light(flat: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Residuals, float32 (N, 1024) in grey values, of a least-squares fit of quadratic * (1, mean reference photo)."""
    mean = reference.mean(axis=0, dtype=np.float64) / SCALE
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j])
    polynomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    basis = np.concatenate([polynomials, polynomials * (mean / max(mean.std(), 1e-6))[:, None]], axis=1)
    basis /= np.linalg.norm(basis, axis=0).clip(1e-12)
    left, strengths, _ = np.linalg.svd(basis, full_matrices=False)
    basis = left[:, strengths > 1e-6 * strengths[0]].astype(np.float32)
    residuals = flat.astype(np.float32) / np.float32(SCALE)
    return residuals - (residuals @ basis) @ basis.T


def _typical_distances(residuals: np.ndarray, identical: np.ndarray) -> np.ndarray:
    """For each photo: 10 % quantile (at least the third smallest) of distances to 256 other photos; 0 without any."""
    chosen = np.random.default_rng(0).permutation(len(residuals))[:_REFERENCE_PHOTOS]
    distance = euclidean_distances(residuals, residuals[chosen]) / SIDE
    distance[identical[:, None] == identical[chosen]] = np.inf
    distance.sort(axis=1)
    finite = np.isfinite(distance).sum(axis=1)
    rank = np.clip(np.maximum(2, (0.1 * finite).astype(int)), 0, np.maximum(finite - 1, 0))
    typical = distance[np.arange(len(distance)), rank]
    return np.where(np.isfinite(typical), typical, 0)
