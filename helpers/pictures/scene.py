"""What the two built-in datasets share: polygons, noise, a simple camera and reproducible random states.

Coordinates are (x, y) in pixels with the origin at the corner of the picture, as in COCO: the pixel in
row ``i`` and column ``j`` covers ``[j, j + 1) x [i, i + 1)`` and its centre is ``(j + 0.5, i + 0.5)``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon as fill_polygon

Float = NDArray[np.float32]
Points = NDArray[np.float64]
Seed = int | Sequence[int]

REFERENCE_SIZE = 256  # lengths in the styles are given in pixels of a picture of this side


@dataclass(frozen=True)
class Defect:
    """One defect as it was drawn.

    Attributes:
        type: name of the defect type.
        polygon: outline, shape (N, 2), float64, (x, y) in pixels; simple (does not cross itself).
        length: in pixels; see ``length_kind``.
        length_kind: ``"centreline"`` (length of the line a stroke was drawn along) or ``"feret"``
            (largest distance between two points of the outline).
    """

    type: str
    polygon: Points
    length: float
    length_kind: str

    @property
    def area(self) -> float:
        """Area of the polygon in square pixels (shoelace formula)."""
        return polygon_area(self.polygon)

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """COCO box: x, y, width, height in pixels."""
        return polygon_bbox(self.polygon)


@dataclass(frozen=True)
class Drawing:
    """One drawn photo.

    Attributes:
        image: uint8, (H, W, 3), RGB.
        mask: bool, (H, W); True where at least half of a pixel lies in a defect's polygon.
        defects: the defects, empty for a good part.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    defects: list[Defect] = field(default_factory=list)


@dataclass(frozen=True)
class CameraStyle:
    """How much the photos differ although the part is the same. Lengths in pixels of a 256 pixel picture."""

    exposure: float = 0.10  # standard deviation of the log of the gain
    contrast: float = 0.12  # largest relative change of the contrast about mid grey
    temperature: float = 0.035  # standard deviation of the relative gain of red against blue
    gradient: float = 0.25  # largest relative fall of the light from one side to the other
    blur: tuple[float, float] = (0.50, 0.75)  # standard deviation of the blur, from - to
    noise: tuple[float, float] = (0.008, 0.014)  # standard deviation of the sensor noise, white = 1


def polygon_area(polygon: Points) -> float:
    """Area of a simple polygon (N, 2) by the shoelace formula, in the square of its unit."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def polygon_bbox(polygon: Points) -> tuple[float, float, float, float]:
    """Box around a polygon (N, 2): x, y, width, height."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def feret_diameter(polygon: Points) -> float:
    """Largest distance between two vertices of a polygon (N, 2)."""
    difference = polygon[:, None] - polygon[None]
    return float(np.sqrt((difference**2).sum(axis=-1).max()))


def polyline_length(points: Points) -> float:
    """Length of an open line through the points (N, 2)."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def stroke_polygon(centreline: Points, width: float | NDArray[np.float64]) -> Points:
    """Outline (2N, 2) of a stroke along a centreline (N, 2), of one width or of one width per point."""
    tangent = np.gradient(centreline, axis=0)
    tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None]
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    half = (np.broadcast_to(np.asarray(width, dtype=np.float64), len(centreline)) / 2)[:, None]
    return np.concatenate([centreline + half * normal, (centreline - half * normal)[::-1]])


def blob_radii(rng: np.random.Generator, roughness: float, n: int = 48) -> NDArray[np.float64]:
    """Radii (n,) about 1 of an irregular closed outline, at equal steps of the angle; a few low harmonics."""
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    radii = np.ones(n)
    for order in range(2, 8):
        radii += roughness / order * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.clip(radii, 0.55, 1.45)


def polygon_coverage(polygon: Points, shape: tuple[int, int], oversample: int = 5) -> Float:
    """Share of each pixel that lies in a polygon.

    Args:
        polygon: (N, 2), (x, y) in pixels.
        shape: (H, W) of the result.
        oversample: the share is counted on ``oversample**2`` points a pixel; an odd number, so that
            an edge along the pixel grid does not tie at one half.

    Returns:
        float32, (H, W), 0 to 1.
    """
    height, width = shape
    coverage = np.zeros(shape, dtype=np.float32)
    left, top = np.clip(np.floor(polygon.min(axis=0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)).astype(int), 0, [width, height])
    if right <= left or bottom <= top:
        return coverage
    fine = np.zeros(((bottom - top) * oversample, (right - left) * oversample), dtype=np.float32)
    local = (polygon - [left, top]) * oversample - 0.5  # skimage has pixel centres at whole numbers
    rows, columns = fill_polygon(local[:, 1], local[:, 0], shape=fine.shape)
    fine[rows, columns] = 1
    blocks = fine.reshape(bottom - top, oversample, right - left, oversample)
    coverage[top:bottom, left:right] = blocks.mean(axis=(1, 3))
    return coverage


def polygon_mask(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of which at least half lies in the polygon: bool, (H, W)."""
    return polygon_coverage(polygon, shape) >= 0.5


def defects_mask(defects: Sequence[Defect], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Union of the defects' masks: bool, (H, W)."""
    mask = np.zeros(shape, dtype=bool)
    for defect in defects:
        mask |= polygon_mask(defect.polygon, shape)
    return mask


def apart(polygon: Points, others: Sequence[Defect], distance: float) -> bool:
    """Whether a polygon's box is at least ``distance`` pixels away from the boxes of all other defects."""
    x, y, width, height = polygon_bbox(polygon)
    for other in others:
        ox, oy, owidth, oheight = other.bbox
        gap_x = max(ox - (x + width), x - (ox + owidth))
        gap_y = max(oy - (y + height), y - (oy + oheight))
        if max(gap_x, gap_y) < distance:
            return False
    return True


def inside(polygon: Points, shape: tuple[int, int], margin: float) -> bool:
    """Whether a polygon stays ``margin`` pixels away from the border of a picture (H, W)."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return bool((low >= margin).all() and (high <= np.array([shape[1], shape[0]]) - margin).all())


def smoothstep(x: Float) -> Float:
    """0 below 0, 1 above 1, ``3 x^2 - 2 x^3`` between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float:
    """Gaussian noise of unit variance and correlation length ``sigma`` pixels: float32, (H, W)."""
    step = max(1, int(sigma / 2))  # wide noise is drawn coarse and enlarged
    coarse = (-(-shape[0] // step) + 2, -(-shape[1] // step) + 2)
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(sigma / step, 0.3), borderType=cv2.BORDER_REFLECT)
    if step > 1:
        noise = cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def random_states(seed: Seed) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
    """Independent generators for the scene, the defects and the camera.

    A defect therefore never changes the part it is drawn on, nor the noise of the photo.
    """
    scene, defect, camera = np.random.SeedSequence(seed).spawn(3)
    return np.random.default_rng(scene), np.random.default_rng(defect), np.random.default_rng(camera)


def photo_seed(seed: int, *parts: str | int) -> tuple[int, ...]:
    """A seed that belongs to one photo, whatever else is drawn: (seed, dataset, split, type, index)."""
    return (seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts))


def pixel_centres(shape: tuple[int, int]) -> tuple[Float, Float]:
    """x and y of the pixel centres: two float32 arrays (H, W)."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    return x + np.float32(0.5), y + np.float32(0.5)


def take_photo(scene: Float, rng: np.random.Generator, style: CameraStyle, scale: float) -> NDArray[np.uint8]:
    """Light, blur and sensor noise.

    Args:
        scene: reflectance, float32, (H, W, 3), about 0 to 1.
        rng: random state of the camera.
        style: how much photos differ.
        scale: side of the picture divided by ``REFERENCE_SIZE`` (blur only).

    Returns:
        uint8, (H, W, 3), RGB.
    """
    height, width = scene.shape[:2]
    gain = np.exp(np.clip(rng.normal(0, style.exposure), -2.5 * style.exposure, 2.5 * style.exposure))
    temperature = np.clip(rng.normal(0, style.temperature), -0.1, 0.1)
    contrast = 1 + rng.uniform(-style.contrast, style.contrast)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, style.gradient)
    blur, noise = rng.uniform(*style.blur), rng.uniform(*style.noise)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    light = gain * (1 + fall * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))
    colour = np.array([1 + temperature, 1, 1 - temperature], dtype=np.float32)
    photo = scene * light[..., None].astype(np.float32) * colour
    photo = np.float32(0.4) + np.float32(contrast) * (photo - np.float32(0.4))
    photo = cv2.GaussianBlur(photo, (0, 0), max(blur * scale, 0.3))
    grey = rng.standard_normal((height, width, 1), dtype=np.float32)
    tint = rng.standard_normal((height, width, 3), dtype=np.float32)
    photo += np.float32(noise) * (np.float32(0.8) * grey + np.float32(0.5) * tint)
    return np.clip(photo * 255 + 0.5, 0, 255).astype(np.uint8)
