"""Textures drawn from a seed, without a download or a licence: what DRAEM and GLASS make defects look like.

Five families, each with random parameters, half of the pictures mixed of two, under random palettes, light and noise;
variety counts more than beauty. Dead leaves follow Lee, Mumford & Huang (2001), cells Worley (1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import scipy.fft
from matplotlib import colormaps
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from helpers.pictures.scene import Float, read_note, rotation, smoothstep, write_once, write_png
from helpers.progress import progress

Rng = np.random.Generator

SIZE = 256  # pixels of a side
VERSION = 4  # raised when the same seed begins to give other pictures
MIX_SHARE, GREY_SHARE = 0.5, 0.35
COLOUR_MAPS = ["gray", "bone", "copper", "pink", "terrain", "cubehelix", "twilight", "RdGy", "BrBG", "viridis"]


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _unit(values: Float) -> Float:
    """The range between two percentiles stretched to 0 .. 1."""
    low, high = np.percentile(values, [0.5, 99.5])
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _noise(
    rng: Rng, slope: float, *, band: tuple[float, float] | None = None, stretch: float = 1, angle: float = 0
) -> Float:
    """Gaussian noise of mean 0 and variance 1 whose amplitude falls as 1 / frequency**slope (1: as in photos).

    ``band`` keeps frequencies between two, in cycles per pixel; ``stretch`` is along ``angle``.
    """
    fy, fx = scipy.fft.fftfreq(SIZE)[:, None], scipy.fft.rfftfreq(SIZE)[None]
    along = (fx * np.cos(angle) + fy * np.sin(angle)) * np.sqrt(stretch)
    across = (fy * np.cos(angle) - fx * np.sin(angle)) / np.sqrt(stretch)
    frequency = np.hypot(along, across)
    frequency[0, 0] = 1
    amplitude = frequency**-slope
    if band:
        amplitude /= (1 + (band[0] / frequency) ** 8) * (1 + (frequency / band[1]) ** 8)
    amplitude[0, 0] = 0
    noise = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * amplitude, s=(SIZE, SIZE))
    return (noise / noise.std()).astype(np.float32)


def _clouds(rng: Rng, cell: float) -> Float:
    """Smooth noise with structures of about ``cell`` pixels, mean 0 and variance 1."""
    return _noise(rng, 0.5, band=(0.2 / cell, 0.5 / cell))


def _surface(rng: Rng, amount: float) -> Float:
    """A factor about 1 with fine and coarse unevenness, as of a real surface."""
    return np.maximum(1 + amount * _noise(rng, rng.uniform(0.7, 1.5)), 0.05)


def _plane(rng: Rng, angle: float | None = None, warp: float = 0, cell: float = 64) -> tuple[Float, Float]:
    """Coordinates x and y (S, S), turned (at random), shifted, and pushed about by ``warp`` pixels."""
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    x, y = x + rng.uniform(-150, 150), y + rng.uniform(-150, 150)
    return (x + warp * _clouds(rng, cell), y + warp * _clouds(rng, cell)) if warp else (x, y)


class _Cells:
    """Cells about random points: ``first`` and ``second`` are the distances (S, S) of a pixel to its nearest points,
    ``border`` that to the next cell."""

    def __init__(self, rng: Rng, x: Float, y: Float, cell: float, jitter: float = 0.9) -> None:
        u, v = (np.arange(np.floor(part.min() / cell) - 2, part.max() / cell + 3) for part in (x, y))
        grid = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
        self.points = cell * (grid + rng.uniform(-jitter / 2, jitter / 2, grid.shape))
        distance, self.nearest = cKDTree(self.points).query(np.stack([x, y], axis=-1), k=2)
        self.first, self.second = distance[..., 0], distance[..., 1]
        apart = np.linalg.norm(self.points[self.nearest[..., 0]] - self.points[self.nearest[..., 1]], axis=-1)
        self.border = (self.second**2 - self.first**2) / (2 * apart + 1e-6)

    def values(self, of_points: NDArray) -> Float:
        """The points' values at each pixel, blended over a pixel to each side of a border."""
        share = np.clip(0.5 - self.border / 2, 0, 0.5)
        one, other = (of_points[self.nearest[..., k]] for k in (0, 1))
        return one * (1 - share) + other * share


def _colours(rng: Rng, values: Float) -> Float:
    """Values in [0, 1] in colour (..., 3): by a part of one of matplotlib's colour maps, its channels exchanged."""
    low, high = rng.uniform([0, 0.6], [0.4, 1])
    colours = colormaps[str(rng.choice(COLOUR_MAPS))](low + (high - low) * values)[..., rng.permutation(3)]
    return 0.6 * colours + 0.4 * values[..., None]  # a map may fold light and dark onto each other


# --- families: (rng) -> (S, S) or (S, S, 3), about 0 .. 1


def _spectral(rng: Rng) -> Float:
    """Noise with a power law or a band, with or without a direction, or both together."""
    kind, angle, low = rng.integers(4), rng.uniform(0, np.pi), _log_uniform(rng, 0.01, 0.15)
    stretch = _log_uniform(rng, 2, 30) if rng.uniform() < 0.4 else 1
    noise = _noise(rng, rng.uniform(0.3, 2.2), stretch=stretch, angle=angle)
    if kind > 1:
        band = _noise(rng, 0.5, band=(low, low * rng.uniform(1.2, 3)), stretch=np.sqrt(stretch), angle=angle)
        noise = band if kind == 2 else noise + rng.uniform(0.3, 1) * band
    return _unit(-np.abs(noise) if rng.uniform() < 0.25 else noise)


def _stripes(rng: Rng) -> Float:
    """One to three gratings, straight or warped, from soft to sharp, some with stripes of different strength."""
    total, angle = np.zeros((SIZE, SIZE)), rng.uniform(0, np.pi)
    warp = rng.choice([0, 0, 0.25, 1]) * rng.uniform(4, 30)
    for number in range(rng.choice([1, 1, 2, 3])):
        x, _ = _plane(rng, angle, warp, 90)
        period = _log_uniform(rng, 6, 70)
        wave = np.sin(2 * np.pi * x / period) - rng.uniform(-0.7, 0.7)
        wave = 0.5 + 0.5 * np.tanh(_log_uniform(rng, 0.5, max(0.6, period / 4)) * wave)
        if rng.uniform() < 0.5:
            wave *= np.interp(x / period / 2, np.arange(-300, 301), rng.uniform(0.3, 1, 601))
        total += 0.6**number * wave
        angle += rng.choice([np.pi / 2, rng.uniform(0, np.pi)])
    return _unit(total * _surface(rng, rng.uniform(0.02, 0.15)))


def _cells(rng: Rng) -> Float:
    """Cells by the distance to their point, to their border, or as pebbles; light on dark or dark on light."""
    cell, kind = _log_uniform(rng, 8, 64), rng.integers(4)
    x, y = _plane(rng, None, rng.choice([0.0, 0.1, 0.4]) * cell, 1.5 * cell)
    cells = _Cells(rng, x, y * _log_uniform(rng, 0.4, 1), cell, rng.uniform(0.3, 0.95))
    border = np.clip(cells.border / (cell * rng.uniform(0.08, 0.5)), 0, 1)
    values = (cells.first / cell, border, (cells.second - cells.first) / cell, np.sqrt(border))[kind]
    values = 1 - values if rng.uniform() < 0.5 else values
    shade = cells.values(rng.uniform(0.5, 1, len(cells.points))) if kind == 3 or rng.uniform() < 0.5 else 1
    return _unit(values * shade * _surface(rng, rng.uniform(0.03, 0.15)))


def _mosaic(rng: Rng) -> Float:
    """Cells of a flat value each, or squares; with or without joints, sometimes small ones in large ones."""
    cell = _log_uniform(rng, 10, 60)
    x, y = _plane(rng, None, rng.choice([0.0, 0.0, 0.5]) * cell, 2 * cell)
    cells = _Cells(rng, x, y, cell, rng.choice([0.0, rng.uniform(0.2, 0.95)], p=[0.2, 0.8]))
    levels = np.linspace(0, 1, rng.integers(2, 9)) ** _log_uniform(rng, 0.6, 1.6)
    values = cells.values(rng.choice(levels, len(cells.points)))
    if rng.uniform() < 0.4:
        small = _Cells(rng, x, y, cell / rng.uniform(2.5, 5))
        values = 0.65 * values + 0.35 * small.values(rng.uniform(size=len(small.points)))
    if rng.uniform() < 0.5:
        joint = np.clip((cells.border - rng.uniform(0.3, 0.06 * cell + 0.4)) / 1.2, 0, 1)
        values = values * joint + rng.choice([0.0, 1.0, rng.uniform()]) * (1 - joint)
    return np.clip(values * _surface(rng, rng.uniform(0.0, 0.08)), 0, 1)


def _leaves(rng: Rng) -> Float:
    """Shapes, round, long, dented or with corners, with a power law of sizes, that hide each other, in colour."""
    n = int(rng.integers(80, 500))
    low, high = _log_uniform(rng, 2, 7), _log_uniform(rng, 30, 80)
    radii = (low**-2 - rng.uniform(size=n) * (low**-2 - high**-2)) ** -0.5  # density r**-3
    radii[: n // 8] = high * rng.uniform(0.5, 1.0, n // 8)  # the ground is laid with large ones first
    centres, colours = rng.uniform(-0.1 * SIZE, 1.1 * SIZE, (n, 2)), _colours(rng, rng.uniform(size=n))
    canvas = np.full((SIZE, SIZE, 3), 255 * colours[0], dtype=np.uint8)
    corners, dented, long = int(rng.choice([4, 5, 6, 40])), rng.choice([0.0, 0.2]), _log_uniform(rng, 0.25, 1)
    for radius, centre, colour in zip(radii, centres, colours, strict=True):
        angle = rng.uniform(0, 7) + np.linspace(0, 2 * np.pi, corners, endpoint=False)
        reach = radius * (1 + dented * np.cos(rng.integers(2, 6) * angle + rng.uniform(0, 7)))
        xy = reach[:, None] * np.column_stack([np.cos(angle), long * np.sin(angle)])
        xy = xy @ rotation(rng.uniform(0, 7)) + centre
        outline = np.round(xy * 16).astype(np.int32)
        cv2.fillPoly(canvas, [outline], (255 * colour).tolist(), cv2.LINE_AA, 4)
    grain = _clouds(rng, _log_uniform(rng, 2, 12))
    return np.clip(canvas / 255 * (1 + rng.choice([0.03, 0.1, 0.25]) * grain[..., None]), 0, 1)


FAMILIES = {"spectral": _spectral, "stripes": _stripes, "cells": _cells, "mosaic": _mosaic, "leaves": _leaves}


# --- whole pictures


def _mixed(rng: Rng, first: Float, second: Float) -> Float:
    """One texture through the holes of the other or of noise, in pieces beside it, or laid over it."""
    kind = rng.integers(4)
    if kind == 0:
        return first * (0.25 + 0.75 * second)
    if kind == 1:
        cells = _Cells(rng, *_plane(rng), _log_uniform(rng, 40, 130), rng.choice([0.0, 0.9]))
        mask = cells.values(rng.integers(0, 2, len(cells.points)))
    else:
        field = _noise(rng, rng.uniform(1, 2)) if kind == 2 else second.mean(axis=2) / second.std()
        mask = smoothstep((field - np.quantile(field, rng.uniform(0.3, 0.75))) / _log_uniform(rng, 0.1, 1) + 0.5)
    return first + mask[..., None] * (second - first)


def _photographed(rng: Rng, picture: Float, grey: bool) -> NDArray[np.uint8]:
    """Uneven light, levels, blur, colour or grey, noise; a known range is filled, so that no picture is flat."""
    if rng.uniform() < 0.5:
        x, y = _plane(rng)
        field = rng.choice([x / 180, 2 * np.exp(-(x**2 + y**2) / _log_uniform(rng, 70, 280) ** 2) - 1])
        picture = picture * np.exp(rng.uniform(0.1, 0.55) * field[..., None])
    if grey:
        picture = np.repeat((picture @ rng.dirichlet([3, 4, 2]))[..., None], 3, axis=2)
    if rng.uniform() < 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), _log_uniform(rng, 0.3, 2.0))
    low, high = np.percentile(picture.mean(axis=2), [0.5, 99.5])
    contrast = rng.uniform(0.45, 1.0)
    picture = np.clip((picture - low) / max(high - low, 1e-3), 0, 1) ** _log_uniform(rng, 0.6, 1.6)
    picture = rng.uniform(0, 1 - contrast) + contrast * picture
    if rng.uniform() < 0.5:
        noise = rng.standard_normal((SIZE, SIZE, 1 if grey or rng.uniform() < 0.5 else 3))
        picture = picture + _log_uniform(rng, 0.004, 0.04) * noise
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def draw_texture(seed: int | Sequence[int], family: str | None = None) -> NDArray[np.uint8]:
    """One texture (S, S, 3), RGB, the same for the same arguments; of any family where none is named."""
    rng = np.random.default_rng(seed)
    names, pictures = rng.choice(list(FAMILIES), 2).tolist(), []
    for name in (family or names[0], *names[1 : 1 + (rng.uniform() < MIX_SHARE)]):
        picture = FAMILIES[name](rng)
        pictures.append(picture if picture.ndim == 3 else _colours(rng, picture))
    picture = _mixed(rng, *pictures[:: rng.choice([1, -1])]) if len(pictures) == 2 else pictures[0]
    return _photographed(rng, picture, grey=rng.uniform() < GREY_SHARE)


def write_textures(folder: Path, n: int) -> Path:
    """Write ``<family>/0000.png`` and so on; the same textures stay, those of an older version are replaced."""
    names = list(FAMILIES)

    def write(partial: Path) -> None:
        for index in progress(range(n), f"textures in {folder.name}"):
            round_, place = divmod(index, len(names))
            write_png(partial / names[place] / f"{round_:04d}.png", draw_texture((0, index), names[place]))

    about = {"version": VERSION, "n": n, "families": names}
    older = read_note(folder / "textures.json").get("version", VERSION) != VERSION
    return write_once(folder, "textures.json", about, write, force=older)
