"""Invented defects on good photos, with exact masks and at any strength: what a detector should find, made to measure.

Four kinds: ``perlin_texture``, a blob of smooth noise filled with a texture (Zavrtanik, Kristan & Skocaj 2021, "DRAEM";
Chen et al. 2024, "A unified anomaly synthesis strategy with gradient ascent for industrial anomaly detection and
localization", GLASS); ``cut_paste``, a patch of a photo pasted elsewhere, turned and recoloured (Li et al. 2021,
"CutPaste: self-supervised learning for anomaly detection and localization"); ``scratch``, a thin curved stroke; and
``spot``, a soft blob; the last two darker or lighter than what lies under them.

All random numbers of a defect are drawn before its opacity counts: the same state of the generator gives the same
defect at any opacity, which is how the smallest strength that a detector still sees can be measured
(:mod:`helpers.studies.weak_defects`). Invented defects are no substitute for real ones: DRAEM and GLASS learn from
defects much like the first kind, and find those more easily than others.

    python -m helpers.pictures.defects GOOD_FOLDER OUT --n 100 --kinds scratch spot --opacity 1.0 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from helpers.data.images import find_images, read_image
from helpers.data.samples import absolute_path
from helpers.paths import cell, write_whole_folder
from helpers.pictures.scene import (
    Float,
    blob_radii,
    photo_seed,
    pixel_centres,
    polygon_coverage,
    smooth_noise,
    smoothstep,
    stroke_polygon,
)
from helpers.pictures.textures import draw_texture
from helpers.progress import progress

__all__ = ["KINDS", "SIZES", "SimulatedDefect", "main", "simulate_defect", "write_simulated"]

Photo = NDArray[np.uint8]
Rng = np.random.Generator

SIZES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"perlin_texture": (0.1, 0.3), "cut_paste": (0.1, 0.3), "scratch": (0.1, 0.4), "spot": (0.04, 0.12)}
)
"""Diameter of the circle that a defect lies in, smallest and largest, as a share of the photo's shorter side."""
KINDS: tuple[str, ...] = tuple(SIZES)

MINIMUM_SIDE = 16  # pixels of a photo
MINIMUM_EXTENT = 5.0  # pixels: what is smaller has no shape
MINIMUM_PIXELS = 4  # of a mask
MINIMUM_DIFFERENCE = 10.0  # grey levels, mean over the mask, at full opacity: a defect that can be seen
ATTEMPTS = 30
MAP_NAME = "defects.csv"
COLUMNS = ("image", "mask", "kind", "opacity", "source")


@dataclass(frozen=True)
class SimulatedDefect:
    """A good photo with one invented defect.

    Attributes:
        photo: uint8 (H, W, 3), RGB; outside the mask it is the good photo, byte by byte.
        mask: bool (H, W); where the defect lies, however faint. It does not depend on the opacity.
        kind: a name from :data:`KINDS`.
        opacity: in (0, 1].
    """

    photo: Photo
    mask: NDArray[np.bool_]
    kind: str
    opacity: float


@dataclass(frozen=True)
class _Window:
    """A part of the photo and how much of the defect shows at each of its pixels: float32, 0 to 1; 0: outside."""

    rows: slice
    columns: slice
    weight: Float


def simulate_defect(
    photo: Photo,
    kind: str,
    rng: Rng,
    *,
    opacity: float = 1.0,
    size: tuple[float, float] | None = None,
    foreground: NDArray[np.bool_] | None = None,
    textures: Sequence[Photo] | None = None,
    donors: Sequence[Photo] | None = None,
) -> SimulatedDefect:
    """Draw one defect on a good photo.

    Inside the mask a pixel is ``photo * (1 - a) + defect * a`` with a = opacity, at the soft edges of scratches and
    spots a share of that; outside it is untouched. On a grey photo (three equal channels) the defect is grey too. The
    mask is one region for ``cut_paste``, ``scratch`` and ``spot`` (unless the foreground cuts it), and may be several
    for ``perlin_texture``.

    Args:
        photo: uint8 (H, W, 3), RGB, sides of 16 pixels or more.
        kind: a name from :data:`KINDS`.
        rng: its state decides the defect, whatever the opacity: ``np.random.default_rng((seed, index))``.
        opacity: in (0, 1]; 1 is the whole defect.
        size: smallest and largest diameter of the circle that the defect lies in, as a share of the photo's shorter
            side, 0 < smallest <= largest <= 1; drawn uniformly on a logarithmic scale, and not less than 5 pixels.
            None: that of the kind in :data:`SIZES`.
        foreground: bool (H, W), where defects may lie (the part, say); None: anywhere. Where it is too narrow for the
            size, the defect is cut off at its border.
        textures: pictures, uint8 (h, w, 3), that ``perlin_texture`` is filled from, resized to the photo's shorter
            side; None: the procedural bank of :mod:`helpers.pictures.textures`.
        donors: pictures, uint8 (h, w, 3), that ``cut_paste`` takes its patch from at their own size; None: the photo.

    Raises:
        ValueError: for an argument of the wrong kind or range; if the foreground has no room for the defect; or if
            nothing that was tried can be seen on this photo (textures or donors that look just like it).
    """
    _check_picture(photo, "photo")
    if min(photo.shape[:2]) < MINIMUM_SIDE:
        raise ValueError(f"photo is {photo.shape[1]}x{photo.shape[0]} pixels; a defect needs {MINIMUM_SIDE} each way.")
    _check_kind(kind)
    _check_opacity(opacity)
    low, high = _checked_size(size or SIZES[kind])
    if foreground is not None and (foreground.dtype != bool or foreground.shape != photo.shape[:2]):
        raise ValueError(
            f"foreground must be bool {photo.shape[:2]} like the photo, got {foreground.dtype} {foreground.shape}."
        )
    for name, pictures in (("textures", textures), ("donors", donors)):
        if pictures is not None and not len(pictures):
            raise ValueError(f"{name} is empty; give pictures, or None.")
    extent = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * min(photo.shape[:2])
    window = _place(rng, kind, max(extent, MINIMUM_EXTENT), photo.shape[:2], foreground)
    under = photo[window.rows, window.columns].astype(np.float32)
    inside = window.weight > 0
    is_grey = bool((photo == photo[..., :1]).all())

    for _ in range(ATTEMPTS):
        if kind == "perlin_texture":
            defect = _texture_patch(rng, textures, photo, inside.shape)
        elif kind == "cut_paste":
            defect = _pasted_patch(rng, donors, photo, inside.shape)
        else:
            defect = _shaded(rng, under, inside)
        if is_grey:  # colour on a grey photo would be found by its colour alone
            defect = defect.mean(axis=2, keepdims=True)
        change = window.weight[..., None] * (defect - under)
        if np.abs(change[inside]).mean() >= MINIMUM_DIFFERENCE:
            break
    else:
        raise ValueError(f"No {kind} can be seen on this photo: what it is made of looks just like what lies there.")

    # Opacity comes in only here, after the last random number.
    blend = np.rint(under + np.float32(opacity) * change).astype(np.uint8)
    result, mask = photo.copy(), np.zeros(photo.shape[:2], dtype=bool)
    mask[window.rows, window.columns] = inside
    result[mask] = blend[inside]
    return SimulatedDefect(result, mask, kind, float(opacity))


# ------------------------------------------------------------------------------------------------------------- geometry


def _place(rng: Rng, kind: str, extent: float, shape: tuple[int, int], foreground: NDArray[np.bool_] | None) -> _Window:
    """A shape of the kind at a place where all of it lies on the foreground, or the most of it that was found."""
    room = None if foreground is None else _room(foreground)
    best: _Window | None = None
    best_kept = 0.0
    for _ in range(ATTEMPTS):
        x, y = _centre(rng, extent, shape, room)
        left, top = int(np.floor(x - extent / 2)) - 1, int(np.floor(y - extent / 2)) - 1
        side = int(np.ceil(extent)) + 3
        weight = _SHAPES[kind](rng, extent, (x - left, y - top), side)
        n_drawn = np.count_nonzero(weight)
        rows = slice(max(top, 0), min(top + side, shape[0]))
        columns = slice(max(left, 0), min(left + side, shape[1]))
        weight = weight[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if foreground is not None:
            weight = weight * foreground[rows, columns]
        n_kept = np.count_nonzero(weight)
        kept = n_kept / max(n_drawn, 1)
        if n_kept >= MINIMUM_PIXELS and kept > best_kept:
            best, best_kept = _Window(rows, columns, weight), kept
        if best_kept == 1:
            break
    if best is None:
        raise ValueError(f"foreground has no room for a {kind}; is it empty, or that of another photo?")
    return best


def _room(foreground: NDArray[np.bool_]) -> Float:
    """Distance in pixels from each pixel to the nearest that is no foreground, or lies outside: float32 (H, W)."""
    padded = np.pad(foreground.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _centre(rng: Rng, extent: float, shape: tuple[int, int], room: Float | None) -> tuple[float, float]:
    """x and y of a circle that lies in the photo and on the foreground, or where there is most room for it."""
    radius = extent / 2
    if room is None:
        return tuple(
            float(rng.uniform(min(radius, side / 2), max(side - radius, side / 2))) for side in (shape[1], shape[0])
        )
    wanted = min(radius + 1, 0.9 * float(room.max()))
    places = np.flatnonzero(room >= max(wanted, 1))
    if not len(places):
        raise ValueError("foreground is empty: there is nowhere to draw a defect.")
    row, column = divmod(int(places[rng.integers(len(places))]), shape[1])
    return column + 0.5, row + 0.5


def _perlin_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """The highest parts of smooth noise in a circle, higher in its middle: 30 to 60 % of its area."""
    x, y = pixel_centres((side, side))
    away = np.hypot(x - centre[0], y - centre[1]) / (extent / 2)
    field = smooth_noise(rng, (side, side), extent * rng.uniform(0.06, 0.2)) - 2 * away**2
    circle = away <= 1
    cut = np.quantile(field[circle], 1 - rng.uniform(0.3, 0.6))
    return (circle & (field >= cut)).astype(np.float32)


def _patch_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """A rectangle with the circle through its corners, sides at most as 1 to 3 (CutPaste: 1 to 3.3), turned at will."""
    half = np.arctan(np.exp(rng.uniform(-np.log(3), np.log(3))))  # half the angle between the diagonals
    angles = rng.uniform(0, np.pi) + np.array([half, np.pi - half, np.pi + half, -half])
    corners = np.column_stack([np.cos(angles), np.sin(angles)]) * extent / 2 + centre
    # At least half of a pixel in the outline: the rule of helpers.pictures.scene
    return (polygon_coverage(corners, (side, side), oversample=3) >= 0.5).astype(np.float32)


def _scratch_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """A stroke along an arc that bends a little more at one end, thinner at both; the share of each pixel in it."""
    along = np.linspace(-1, 1, 40)
    heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.8, 0.8) * along + rng.uniform(-0.5, 0.5) * along**2
    line = np.cumsum(np.column_stack([np.cos(heading), np.sin(heading)]), axis=0)
    line -= (line.min(axis=0) + line.max(axis=0)) / 2
    width = max(2.0, extent * rng.uniform(0.02, 0.05))
    line *= (extent - width) / 2 / np.hypot(*line.T).max()
    outline = stroke_polygon(line + centre, width * (1 - 0.4 * np.abs(along) ** 3))
    coverage = polygon_coverage(outline, (side, side), oversample=3)
    return np.where(coverage >= 0.5, coverage, 0)


def _spot_shape(rng: Rng, extent: float, centre: tuple[float, float], side: int) -> Float:
    """An irregular outline that is 1 in the middle and falls off softly towards it."""
    radii = blob_radii(rng, 0.3)
    radii *= extent / 2 / radii.max()
    softness = rng.uniform(0.3, 0.7)
    x, y = pixel_centres((side, side))
    x, y = x - centre[0], y - centre[1]
    angle = np.arctan2(y, x)
    radius = np.interp(angle, np.linspace(0, 2 * np.pi, len(radii), endpoint=False), radii, period=2 * np.pi)
    weight = smoothstep(((1 - np.hypot(x, y) / radius) / softness).astype(np.float32))
    # A rim that nobody sees is not part of the mask
    return np.where(weight >= 0.1, weight, 0)


_SHAPES: Mapping[str, Callable[[Rng, float, tuple[float, float], int], Float]] = MappingProxyType(
    {"perlin_texture": _perlin_shape, "cut_paste": _patch_shape, "scratch": _scratch_shape, "spot": _spot_shape}
)


# ----------------------------------------------------------------------------------------------------------------- look


def _texture_patch(rng: Rng, textures: Sequence[Photo] | None, photo: Photo, shape: tuple[int, int]) -> Float:
    """A piece of a texture that is as large as the photo, turned at will: float32 (h, w, 3)."""
    if textures is None:
        picture = draw_texture(int(rng.integers(2**32)), 256)
    else:
        picture = textures[int(rng.integers(len(textures)))]
        _check_picture(picture, "textures")
    factor = min(photo.shape[:2]) / min(picture.shape[:2])
    size = tuple(max(2, round(side * factor)) for side in (picture.shape[1], picture.shape[0]))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return _piece(rng, picture, shape, rng.uniform(-180, 180))


def _pasted_patch(rng: Rng, donors: Sequence[Photo] | None, photo: Photo, shape: tuple[int, int]) -> Float:
    """A piece of a photo, turned by up to 45 degrees, its light changed a little: float32 (h, w, 3)."""
    picture = photo
    if donors is not None:
        picture = donors[int(rng.integers(len(donors)))]
        _check_picture(picture, "donors")
    piece = _piece(rng, picture, shape, rng.uniform(-45, 45))
    return np.clip(piece * np.float32(rng.uniform(0.8, 1.2)) + np.float32(rng.uniform(-25, 25)), 0, 255)


def _shaded(rng: Rng, under: Float, inside: NDArray[np.bool_]) -> Float:
    """What lies there, darker or lighter by 50 to 115 grey levels, with a slight tint: float32 (h, w, 3)."""
    strength, darker = rng.uniform(50, 115), rng.uniform() < 0.5
    tint = 1 + rng.uniform(-0.1, 0.1, 3)
    level = float(under[inside].mean())
    # One of the two always has room: 115 < 255 / 2
    if strength > (level if darker else 255 - level):
        darker = not darker
    return np.clip(under + ((-strength if darker else strength) * tint).astype(np.float32), 0, 255)


def _piece(rng: Rng, picture: Photo, shape: tuple[int, int], angle: float) -> Float:
    """A piece (h, w, 3) of a picture from anywhere in it, turned, mirrored where it reaches beyond the border."""
    height, width = shape
    x, y = (
        rng.uniform(min(part / 2, side / 2), max(side - part / 2, side / 2))
        for side, part in ((picture.shape[1], width), (picture.shape[0], height))
    )
    # In OpenCV's coordinates a pixel's centre is a whole number.
    matrix = cv2.getRotationMatrix2D((x - 0.5, y - 0.5), angle, 1.0)
    matrix[:, 2] += (width / 2 - x, height / 2 - y)
    piece = cv2.warpAffine(
        np.ascontiguousarray(picture), matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return piece.astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- checks


def _check_picture(picture: Photo, name: str) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"{name} must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}.")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of defect {kind!r}; known: {', '.join(KINDS)}.")


def _check_opacity(opacity: float) -> None:
    if not 0 < opacity <= 1:
        raise ValueError(f"opacity must be above 0 and at most 1, got {opacity}.")


def _checked_size(size: tuple[float, float]) -> tuple[float, float]:
    low, high = size
    if not 0 < low <= high <= 1:
        raise ValueError(f"size must be two shares, 0 < smallest <= largest <= 1, got {size}.")
    return low, high


# -------------------------------------------------------------------------------------------------------------- folders


def write_simulated(
    good: str | Path,
    out: str | Path,
    *,
    n: int = 100,
    kinds: Sequence[str] = KINDS,
    opacity: float = 1.0,
    size: tuple[float, float] | None = None,
    foreground: Callable[[Photo], NDArray[np.bool_]] | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Write ``test/<kind>/NNN.png`` and ``ground_truth/<kind>/NNN_mask.png`` from a folder of good photos.

    The kinds take turns, and the photos too, in an order drawn from the seed. ``defects.csv`` says which photo each
    picture was made from (keep those of one photo in one split), ``dataset.json`` how. Defect ``i`` is drawn with
    ``np.random.default_rng((seed, i))``: another opacity gives the same defects on the same photos, a larger ``n``
    more of them. The folder is written beside its place and renamed when complete.

    Args:
        good: folder of good photos, looked through with its subfolders.
        out: the new folder; must not exist or be empty.
        n: number of pictures in all.
        kinds: names from :data:`KINDS`, each once.
        opacity: see :func:`simulate_defect`.
        size: see :func:`simulate_defect`; one range for all kinds, or None: each kind's own.
        foreground: from a photo, uint8 (H, W, 3), to where defects may lie on it, bool (H, W); None: anywhere.
        seed: not negative.
        force: replace a folder that is not empty.

    Returns:
        The new folder.

    Raises:
        FileExistsError: the folder is not empty and ``force`` is False.
        FileNotFoundError: there is no folder ``good``.
        ValueError: no photo in it; a photo that cannot be read or takes no defect (the message names it); masks beside
            the photos; a folder that lies in the other; or an argument out of range.
    """
    good, folder = absolute_path(good), absolute_path(out)
    files = _good_photos(good)
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    kinds = tuple(kinds)
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must name one kind or more, each once, got {', '.join(kinds) or 'none'}.")
    for kind in kinds:
        _check_kind(kind)
    _check_opacity(opacity)
    if size is not None:
        _checked_size(size)
    if folder.resolve().is_relative_to(good.resolve()) or good.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} and {good} lie one in the other; the new dataset needs a folder of its own.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())) and not force:
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or force=True to replace it.")
    order = np.random.default_rng(photo_seed(seed, "order")).permutation(len(files))

    def draw() -> Iterator[tuple[str, Path, SimulatedDefect]]:
        for index in range(n):
            turn, number = index % len(kinds), index // len(kinds)
            source = files[order[number % len(files)]]
            photo, rng = read_image(source), np.random.default_rng((seed, index))
            area = None if foreground is None else foreground(photo)
            try:
                defect = simulate_defect(photo, kinds[turn], rng, opacity=opacity, size=size, foreground=area)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from error
            yield f"{number:03d}", source, defect

    def write(partial: Path) -> None:
        rows = []
        for name, source, defect in progress(draw(), f"drawing defects in {folder.name}", n):
            image, mask = f"test/{defect.kind}/{name}.png", f"ground_truth/{defect.kind}/{name}_mask.png"
            for relative, picture in ((image, defect.photo), (mask, defect.mask.astype(np.uint8) * 255)):
                (partial / relative).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(partial / relative)
            rows.append((image, mask, defect.kind, defect.opacity, cell(source.relative_to(good).as_posix())))
        with (partial / MAP_NAME).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *rows])
        about = {"name": folder.name, "layout": "mvtec", "source": good.name, "seed": seed, "opacity": float(opacity)}
        about |= {"size": {kind: list(size or SIZES[kind]) for kind in kinds}}
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        (partial / "dataset.json").write_text(text, encoding="utf-8", newline="\n")

    write_whole_folder(folder, write)
    return folder


def _good_photos(good: Path) -> list[Path]:
    """Photos of a folder, which must not be a whole dataset: its defects would pass for good photos."""
    if not good.is_dir():
        raise FileNotFoundError(f"There is no folder {good}; give one of good photos.")
    files = find_images(good)
    if not files:
        raise ValueError(f"{good} holds no photo (PNG, JPEG, BMP, TIFF, WebP); give a folder of good photos.")
    if (good / "ground_truth").is_dir():
        raise ValueError(f"{good} holds masks of defects; give its folder of good photos, {good / 'train' / 'good'}.")
    return files


# --------------------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.pictures.defects",
        description="Draw invented defects on good photos and write them, with their masks, in the MVTec layout.",
    )
    parser.add_argument("good", type=Path, metavar="GOOD_FOLDER", help="folder of good photos")
    parser.add_argument("out", type=Path, metavar="OUT", help="the new folder")
    parser.add_argument("--n", type=int, default=100, help="number of pictures (100)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of defect (all)")
    parser.add_argument("--opacity", type=float, default=1.0, help="above 0, at most 1: the whole defect (1)")
    parser.add_argument(
        "--size",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="diameter of the defects as a share of the shorter side (default: by kind)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same defects (0)")
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    given = vars(parser.parse_args(arguments))
    given["size"] = tuple(given["size"]) if given["size"] else None
    try:
        out = write_simulated(**given)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given['n']} pictures written to {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
