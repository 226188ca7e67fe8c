"""What the drawn datasets share: outlines and their sizes, noise, a camera, reproducible random states.

Coordinates are (x, y) in pixels from the corner of the picture, as in COCO: the pixel in row i and column j has its
centre at (j + 0.5, i + 0.5). Lengths of a look are in pixels of a picture of `REFERENCE_SIZE`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from skimage.draw import polygon as fill_polygon

from helpers.paths import write_json, write_whole_folder

Float = NDArray[np.float32]
Points = NDArray[np.float64]
Seed = int | Sequence[int]
Look = SimpleNamespace

LOOKS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("looks.yml").read_text(encoding="utf-8"))

REFERENCE_SIZE = 256
AREA_SHARE = (0.0006, 0.029)  # of a picture that a defect covers: a little inside 0.05 % to 3 %
TURN = np.linspace(0, 2 * np.pi, 48, endpoint=False)


@dataclass(frozen=True)
class Defect:
    """One defect as it is drawn: ``polygon`` (N, 2) does not cross itself; ``length`` is in pixels, along the middle of
    a stroke (``length_kind`` centreline) or the largest diameter (feret)."""

    type: str
    polygon: Points
    length: float
    length_kind: str
    how: tuple[Any, ...] = field(default=(), repr=False, compare=False)  # what its drawer needs to paint it

    @classmethod
    def feret(cls, kind: str, polygon: Points, *how: Any) -> Defect:
        return cls(kind, polygon, feret_diameter(polygon), "feret", how)

    @property
    def area(self) -> float:
        return polygon_area(self.polygon)


@dataclass(frozen=True)
class Drawing:
    """One drawn photo: ``image`` (H, W, 3) uint8 RGB, and its defects, none for a good part."""

    image: NDArray[np.uint8]
    defects: list[Defect]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W); True where at least half of a pixel lies in a defect's polygon."""
        shape = self.image.shape[:2]
        return np.any([polygon_mask(one.polygon, shape) for one in self.defects] or [np.zeros(shape, bool)], axis=0)


def look(name: str) -> Look:
    """How a part looks by ``looks.yml``: its entries as attributes."""
    return Look(**LOOKS[name] | {"camera": Look(**LOOKS[name]["camera"])})


def polygon_area(polygon: Points) -> float:
    """Area of a simple polygon (N, 2) by the shoelace formula."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def feret_diameter(polygon: Points) -> float:
    """Largest distance between two vertices."""
    return float(np.sqrt(((polygon[:, None] - polygon[None]) ** 2).sum(axis=-1).max()))


def polyline_length(points: Points) -> float:
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def tangents(line: Points) -> Points:
    """Unit vectors along a line, one a point."""
    tangent = np.gradient(line, axis=0)
    return tangent / np.hypot(tangent[:, 0], tangent[:, 1])[:, None]


def stroke_polygon(centreline: Points, width: float | NDArray[np.float64]) -> Points:
    """Outline (2N, 2) of a stroke along a centreline (N, 2), of one width or of one a point."""
    normal = tangents(centreline)[:, ::-1] * [-1, 1]
    half = (np.broadcast_to(np.asarray(width, dtype=np.float64), len(centreline)) / 2)[:, None]
    return np.concatenate([centreline + half * normal, (centreline - half * normal)[::-1]])


def rotation(turn: float) -> NDArray[np.float64]:
    """What points (N, 2) are multiplied by to be turned."""
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def blob_radii(rng: np.random.Generator, roughness: float) -> NDArray[np.float64]:
    """Radii about 1 of an irregular closed outline, at the angles of `TURN`; a few low harmonics."""
    radii = np.ones(len(TURN))
    for order in range(2, 8):
        radii += roughness / order * rng.normal() * np.cos(order * TURN + rng.uniform(0, 2 * np.pi))
    return np.clip(radii, 0.55, 1.45)


def polygon_coverage(polygon: Points, shape: tuple[int, int], oversample: int = 5) -> Float:
    """Share of each pixel (H, W) that lies in a polygon, counted on ``oversample**2`` points a pixel.

    With an odd number an edge along the pixel grid does not tie at one half.
    """
    height, width = shape
    coverage = np.zeros(shape, dtype=np.float32)
    left, top = np.clip(np.floor(polygon.min(axis=0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)).astype(int), 0, [width, height])
    if right <= left or bottom <= top:
        return coverage
    fine = np.zeros(((bottom - top) * oversample, (right - left) * oversample), dtype=np.float32)
    local = (polygon - [left, top]) * oversample - 0.5  # skimage has pixel centres at whole numbers
    fine[fill_polygon(local[:, 1], local[:, 0], shape=fine.shape)] = 1
    blocks = fine.reshape(bottom - top, oversample, right - left, oversample)
    coverage[top:bottom, left:right] = blocks.mean(axis=(1, 3))
    return coverage


def polygon_mask(polygon: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) of which at least half lies in the polygon."""
    return polygon_coverage(polygon, shape) >= 0.5


def inside(polygon: Points, shape: tuple[int, int], margin: float) -> bool:
    """Whether a polygon stays ``margin`` pixels away from the border of a picture (H, W)."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return bool((low >= margin).all() and (high <= np.array([shape[1], shape[0]]) - margin).all())


def _apart(polygon: Points, other: Points, distance: float) -> bool:
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return bool(max((other.min(axis=0) - high).max(), (low - other.max(axis=0)).max()) >= distance)


def place_defects(
    rng: np.random.Generator, draw: Callable[[np.random.Generator, Any], Defect], part: Any, shape: tuple[int, int]
) -> list[Defect]:
    """One defect of a part, at times a second one ``part.distance`` away, ``part.margin`` from the picture's border and
    a believable share of a photo."""
    defects: list[Defect] = []
    area = (REFERENCE_SIZE * part.scale) ** 2
    wanted = 2 if rng.random() < part.look.two_defects else 1
    for attempt in range(200):
        if len(defects) == wanted or (defects and attempt >= 60):
            break
        defect = draw(rng, part)
        if (
            AREA_SHARE[0] <= defect.area / area <= AREA_SHARE[1]
            and inside(defect.polygon, shape, part.margin)
            and all(_apart(defect.polygon, other.polygon, part.distance) for other in defects)
        ):
            defects.append(defect)
    if not defects:
        raise RuntimeError("there is no place for a defect; check the sizes in looks.yml")
    return defects


def smoothstep(x: Float) -> Float:
    """0 below 0, 1 above 1, ``3 x^2 - 2 x^3`` between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float:
    """Gaussian noise (H, W) of unit variance and correlation length ``sigma`` pixels."""
    step = max(1, int(sigma / 2))  # wide noise is drawn coarse and enlarged
    coarse = (-(-shape[0] // step) + 2, -(-shape[1] // step) + 2)
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(sigma / step, 0.3), borderType=cv2.BORDER_REFLECT)
    if step > 1:
        noise = cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    noise = noise[: shape[0], : shape[1]]
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def random_states(seed: Seed) -> list[np.random.Generator]:
    """Generators for the scene, its defects and the camera: a defect changes neither the part nor the photo's noise."""
    return [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(3)]


def photo_seed(seed: int, *parts: str | int) -> tuple[int, ...]:
    """A seed that belongs to one photo, whatever else is drawn: (seed, dataset, split, type, index)."""
    return (seed, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts))


def pixel_centres(shape: tuple[int, int]) -> tuple[Float, Float]:
    """x and y of the pixel centres, (H, W) each."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    return x + np.float32(0.5), y + np.float32(0.5)


def write_png(path: Path, picture: np.ndarray) -> None:
    """A uint8 picture, (H, W, 3) RGB or (H, W); its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture)
    # not cv2.imwrite: on Windows it fails on names outside ASCII
    path.write_bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 2])[1].tobytes())


def read_note(file: Path) -> dict[str, Any]:
    """What a folder was drawn with; empty where that is not known."""
    with suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    return {}


def write_once(
    folder: Path, note: str, about: dict[str, Any], write: Callable[[Path], None], *, force: bool = False
) -> Path:
    """Write a folder, and what it was drawn with as ``note``, beside its place; the very same one is left as it is."""
    if folder.exists() and not force:
        if read_note(folder / note) == about:
            return folder
        raise FileExistsError(
            f"{folder} exists and was not drawn with these parameters (see its {note}); "
            "pass force=True (--force) to replace it or choose another output folder"
        )
    write_whole_folder(folder, lambda partial: (write(partial), write_json(about, partial / note, indent=1)))
    return folder


def check_request(defect_type: str | None, known: Sequence[str], image_size: int) -> None:
    if defect_type is not None and defect_type not in known:
        raise ValueError(f"defect_type={defect_type!r} is unknown; use one of {', '.join(known)}")
    if image_size < 64:
        raise ValueError(f"image_size={image_size} is too small to show a defect; use 64 or more")


def take_photo(scene: Float, rng: np.random.Generator, look: Look, scale: float) -> NDArray[np.uint8]:
    """Light, blur and sensor noise on a reflectance (H, W, 3) of about 0 to 1."""
    height, width = scene.shape[:2]
    gain = np.exp(np.clip(rng.normal(0, look.exposure), -2.5 * look.exposure, 2.5 * look.exposure))
    temperature = np.clip(rng.normal(0, look.temperature), -0.1, 0.1)
    contrast = 1 + rng.uniform(-look.contrast, look.contrast)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, look.gradient)
    blur, noise = rng.uniform(*look.blur), rng.uniform(*look.noise)
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
