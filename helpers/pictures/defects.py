"""Invented defects on good photos, with exact masks and at any strength: what a detector should find, made to measure.

``perlin_texture``, a blob of smooth noise filled with a texture (Zavrtanik, Kristan & Skocaj 2021, DRAEM; Chen et al.
2024, GLASS); ``cut_paste``, a patch of the photo pasted elsewhere, turned and recoloured (Li et al. 2021, CutPaste);
``scratch``, a thin curved stroke; ``spot``, a soft blob; the last two darker or lighter than what lies under them.

All random numbers are drawn before the opacity counts: the same state of the generator gives the same defect at any
opacity. :mod:`helpers.studies.weak_defects` writes them as a dataset. DRAEM and GLASS learn from defects much like the
first kind, and find those more easily than others; none of them is a substitute for real ones.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.pictures import scene
from helpers.pictures.scene import TURN, Float, pixel_centres, polygon_coverage
from helpers.pictures.textures import draw_texture

Photo = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

MINIMUM_SIDE = 16  # pixels of a photo
MINIMUM_EXTENT = 5.0  # pixels: what is smaller has no shape
MINIMUM_PIXELS = 4  # of a mask
MINIMUM_DIFFERENCE = 10.0  # grey levels, mean over the mask, at full opacity: a defect that can be seen
ATTEMPTS = 30


# --- place and shape


def _place(
    rng: Rng, draw: Callable[..., Float], extent: float, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], Float]:
    """A part of the photo, and how much of the defect shows at each of its pixels: all of it, or the most there was."""
    best, best_kept, side = None, 0.0, int(np.ceil(extent)) + 3
    for _ in range(ATTEMPTS):
        x, y = (
            float(rng.uniform(min(extent, length) / 2, max(length - extent / 2, length / 2))) for length in shape[::-1]
        )
        left, top = (int(np.floor(middle - extent / 2)) - 1 for middle in (x, y))
        weight = draw(rng, extent, (x - left, y - top), side)
        rows, columns = (
            slice(max(low, 0), min(low + side, high)) for low, high in zip((top, left), shape, strict=True)
        )
        inside = weight[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        kept = np.count_nonzero(inside) / max(np.count_nonzero(weight), 1)
        if np.count_nonzero(inside) >= MINIMUM_PIXELS and kept > best_kept:
            best, best_kept = ((rows, columns), inside), kept
        if best_kept == 1:
            break
    if best is None:
        raise ValueError("the photo has no room for the defect.")
    return best


def _perlin_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """The highest parts of smooth noise in a circle, higher in its middle: 30 to 60 % of its area."""
    x, y = pixel_centres((side, side))
    away = np.hypot(x - centre[0], y - centre[1]) / (extent / 2)
    field = scene.smooth_noise(rng, (side, side), extent * rng.uniform(0.06, 0.2)) - 2 * away**2
    circle = away <= 1
    return (circle & (field >= np.quantile(field[circle], 1 - rng.uniform(0.3, 0.6)))).astype(np.float32)


def _patch_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """A rectangle with the circle through its corners, sides at most as 1 to 3 (CutPaste: 1 to 3.3), turned at will."""
    half = np.arctan(np.exp(rng.uniform(-np.log(3), np.log(3))))  # half the angle between the diagonals
    angles = rng.uniform(0, np.pi) + np.array([half, np.pi - half, np.pi + half, -half])
    corners = np.column_stack([np.cos(angles), np.sin(angles)]) * extent / 2 + centre
    return (polygon_coverage(corners, (side, side), oversample=3) >= 0.5).astype(np.float32)


def _scratch_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """A stroke along an arc that bends a little more at one end, thinner at both; the share of each pixel in it."""
    along = np.linspace(-1, 1, 40)
    heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.8, 0.8) * along + rng.uniform(-0.5, 0.5) * along**2
    line = np.cumsum(np.column_stack([np.cos(heading), np.sin(heading)]), axis=0)
    line -= (line.min(axis=0) + line.max(axis=0)) / 2
    width = max(2.0, extent * rng.uniform(0.02, 0.05))
    line *= (extent - width) / 2 / np.hypot(*line.T).max()
    outline = scene.stroke_polygon(line + centre, width * (1 - 0.4 * np.abs(along) ** 3))
    coverage = polygon_coverage(outline, (side, side), oversample=3)
    return np.where(coverage >= 0.5, coverage, 0)


def _spot_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """An irregular outline that is 1 in the middle and falls off softly towards it."""
    radii = scene.blob_radii(rng, 0.3)
    radii *= extent / 2 / radii.max()
    softness = rng.uniform(0.3, 0.7)
    x, y = pixel_centres((side, side))
    x, y = x - centre[0], y - centre[1]
    radius = np.interp(np.arctan2(y, x), TURN, radii, period=2 * np.pi)
    weight = scene.smoothstep(((1 - np.hypot(x, y) / radius) / softness).astype(np.float32))
    return np.where(weight >= 0.1, weight, 0)  # a rim that nobody sees is not part of the mask


# --- look, (h, w, 3) float32


def _texture(rng: Rng, photo: Photo, under: Float, inside: Mask) -> Float:
    """A piece of a texture that is as large as the photo, turned at will."""
    picture, side = draw_texture(int(rng.integers(2**32))), min(photo.shape[:2])
    picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if side < 256 else cv2.INTER_LINEAR)
    return _piece(rng, picture, inside.shape, rng.uniform(-180, 180))


def _pasted(rng: Rng, photo: Photo, under: Float, inside: Mask) -> Float:
    """A piece of the photo, turned by up to 45 degrees, its light changed a little."""
    piece = _piece(rng, photo, inside.shape, rng.uniform(-45, 45))
    return np.clip(piece * np.float32(rng.uniform(0.8, 1.2)) + np.float32(rng.uniform(-25, 25)), 0, 255)


def _shaded(rng: Rng, photo: Photo, under: Float, inside: Mask) -> Float:
    """What lies there, darker or lighter by 50 to 115 grey levels, with a slight tint."""
    strength, darker = rng.uniform(50, 115), rng.uniform() < 0.5
    tint = 1 + rng.uniform(-0.1, 0.1, 3)
    level = float(under[inside].mean())
    if strength > (level if darker else 255 - level):  # one of the two always has room: 115 < 255 / 2
        darker = not darker
    return np.clip(under + ((-strength if darker else strength) * tint).astype(np.float32), 0, 255)


def _piece(rng: Rng, picture: Photo, shape: tuple[int, int], angle: float) -> Float:
    """A piece (h, w, 3) of a picture from anywhere in it, turned, mirrored where it reaches beyond the border."""
    height, width = shape
    x, y = (
        rng.uniform(min(part / 2, side / 2), max(side - part / 2, side / 2))
        for side, part in ((picture.shape[1], width), (picture.shape[0], height))
    )
    matrix = cv2.getRotationMatrix2D((x - 0.5, y - 0.5), angle, 1.0)  # a pixel's centre is a whole number here
    matrix[:, 2] += (width / 2 - x, height / 2 - y)
    how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT}
    return cv2.warpAffine(np.ascontiguousarray(picture), matrix, (width, height), **how).astype(np.float32)


# --- a defect

KINDS: dict[str, tuple[tuple[float, float], Callable[..., Float], Callable[..., Float]]] = {
    "perlin_texture": ((0.1, 0.3), _perlin_shape, _texture),
    "cut_paste": ((0.1, 0.3), _patch_shape, _pasted),
    "scratch": ((0.1, 0.4), _scratch_shape, _shaded),
    "spot": ((0.04, 0.12), _spot_shape, _shaded),
}
"""Each kind's size (diameter of the circle that a defect lies in, smallest and largest, as a share of the photo's
shorter side), shape and look."""


def simulate_defect(
    photo: Photo, kind: str, rng: Rng, *, opacity: float = 1.0, size: tuple[float, float] | None = None
) -> tuple[Photo, Mask]:
    """A photo (H, W, 3) uint8 with one defect, and where it lies (H, W), however faint; elsewhere no byte changes.

    Inside a pixel is ``photo * (1 - opacity) + defect * opacity``, less of it at soft edges; on a grey photo the defect
    is grey too. ``size`` is as in `KINDS`, not less than 5 pixels. A ValueError where nothing could be seen.
    """
    if min(photo.shape[:2]) < MINIMUM_SIDE:
        raise ValueError(f"photo is {photo.shape[1]}x{photo.shape[0]} pixels; a defect needs {MINIMUM_SIDE} each way.")
    sizes, shape, look = KINDS[kind]
    low, high = size or sizes
    extent = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * min(photo.shape[:2])
    window, weight = _place(rng, shape, max(extent, MINIMUM_EXTENT), photo.shape[:2])
    under, inside = photo[window].astype(np.float32), weight > 0
    for _ in range(ATTEMPTS):
        defect = look(rng, photo, under, inside)
        if (photo == photo[..., :1]).all():  # colour on a grey photo would be found by its colour alone
            defect = defect.mean(axis=2, keepdims=True)
        change = weight[..., None] * (defect - under)
        if np.abs(change[inside]).mean() >= MINIMUM_DIFFERENCE:
            break
    else:
        raise ValueError(f"No {kind} can be seen on this photo: what it is made of looks just like what lies there.")

    # Opacity comes in only here, after the last random number.
    blend = np.rint(under + np.float32(opacity) * change).astype(np.uint8)
    result, mask = photo.copy(), np.zeros(photo.shape[:2], dtype=bool)
    mask[window] = inside
    result[mask] = blend[inside]
    return result, mask
