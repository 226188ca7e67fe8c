"""An endless bank of procedural textures, drawn from a seed: no download, no licence.

Two uses: pictures to distil a small backbone on, and the anomaly source of DRAEM and GLASS in place of photos of
textures (DTD). For both, variety counts more than beauty: about thirty families (`FAMILIES`), each with random
parameters, mixed with each other and seen under random palettes, light, blur and noise.

The same seed and arguments give the same picture on every machine to within one grey level, with the same versions of
numpy, scipy and opencv: edges are soft, so that a last-digit difference of a sine or a blur does not flip pixels. Only
a pixel that lies on a border to within rounding may differ by more. Lengths are in reference pixels, those of a picture
whose shorter side is 256: a larger picture shows the texture larger, not more of it.

    python -m helpers.pictures.textures OUT --n 200 --size 256 --seed 0

Families follow the textbooks: Ebert et al., Texturing and Modeling (2003) for noise, marble and wood; Worley (1996)
for cells; Lee, Mumford & Huang (2001) for dead leaves; Young (1984) for the activator-inhibitor patterns.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from helpers.paths import write_whole_folder
from helpers.progress import progress

__all__ = ["FAMILIES", "TextureBank", "draw_texture", "main", "write_textures"]

Float = NDArray[np.float32]
Rng = np.random.Generator
Family = Callable[[Rng, int, int], Float]

VERSION = 1  # raised when the same seed begins to give other pictures
REFERENCE_SIZE = 256  # lengths are in pixels of a picture with this shorter side
GREY_SHARE = 0.35
MINIMUM_SIZE = 16


# ---------------------------------------------------------------------------------------------------------------------
# Tools: coordinates, noise, cells, edges, light


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _scale(height: int, width: int) -> float:
    """Pixels of this picture per reference pixel."""
    return min(height, width) / REFERENCE_SIZE


def _coordinates(height: int, width: int) -> tuple[Float, Float]:
    """x and y from the middle of the picture in reference pixels, two float32 arrays (H, W)."""
    scale = _scale(height, width)
    x = ((np.arange(width) - (width - 1) / 2) / scale).astype(np.float32)
    y = ((np.arange(height) - (height - 1) / 2) / scale).astype(np.float32)
    return np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))


def _rotated(rng: Rng, height: int, width: int, angle: float | None = None) -> tuple[Float, Float]:
    """Coordinates turned by an angle (random when None) and shifted at random."""
    x, y = _coordinates(height, width)
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = rng.uniform(-150, 150, 2).astype(np.float32)
    return x * cos + y * sin + dx, y * cos - x * sin + dy


def _smooth_noise(rng: Rng, height: int, width: int, cell: float, stretch: float = 1.0) -> Float:
    """Smooth noise, mean 0 and variance about 1, from a lattice with the cell given; ``stretch`` lengthens it in x."""
    scale = _scale(height, width)
    cell_y = max(1, round(cell * scale))
    cell_x = max(1, round(cell * stretch * scale))
    in_two_steps = min(cell_y, cell_x) >= 32  # so that of large cells little is computed that is cut off
    if in_two_steps:
        cell_y, cell_x = cell_y // 8 * 8, cell_x // 8 * 8
    rows, columns = -(-height // cell_y) + 1, -(-width // cell_x) + 1
    lattice = rng.standard_normal((rows + 2, columns + 2), dtype=np.float32)
    if cell_y == cell_x == 1:
        return lattice[:height, :width]
    if not in_two_steps:
        return _enlarged(lattice, cell_y, cell_x)[:height, :width] * np.float32(1.16)
    step_y, step_x = cell_y // 8, cell_x // 8
    medium = _enlarged(lattice, 8, 8)
    medium = medium[: -(-height // step_y) + 2, : -(-width // step_x) + 2]
    return _enlarged(medium, step_y, step_x)[:height, :width] * np.float32(1.16)


def _enlarged(values: Float, factor_y: int, factor_x: int) -> Float:
    """Cubic interpolation by whole factors, less one cell on every side, where opencv repeats the border."""
    rows, columns = values.shape
    large = cv2.resize(values, (columns * factor_x, rows * factor_y), interpolation=cv2.INTER_CUBIC)
    return large[factor_y : (rows - 1) * factor_y, factor_x : (columns - 1) * factor_x]


def _fbm(
    rng: Rng,
    height: int,
    width: int,
    cell: float = 64.0,
    gain: float = 0.5,
    octaves: int = 6,
    *,
    stretch: float = 1.0,
    ridged: bool = False,
) -> Float:
    """Fractal sum of smooth noises, each of half the cell and ``gain`` times the height; variance about 1."""
    total = np.zeros((height, width), dtype=np.float32)
    power, weight = 0.0, 1.0
    for _ in range(octaves):
        noise = _smooth_noise(rng, height, width, cell, stretch)
        total += np.float32(weight) * ((1 - np.abs(noise)) * np.float32(1.6) if ridged else noise)
        power += weight**2
        weight, cell = weight * gain, cell / 2
        if cell * _scale(height, width) < 0.75:
            break
    return total / np.float32(np.sqrt(power))


def _spectral_noise(
    rng: Rng,
    height: int,
    width: int,
    slope: float,
    *,
    band: tuple[float, float] | None = None,
    anisotropy: float = 1.0,
    angle: float = 0.0,
) -> Float:
    """Gaussian noise whose amplitude falls as 1 / frequency**slope; mean 0, variance 1.

    Args:
        rng: random state.
        height: rows of the picture.
        width: columns of the picture.
        slope: 0 white, 1 pink (photos), 2 brown; of the amplitude, not of the power.
        band: lowest and highest frequency kept, in cycles per reference pixel, with soft limits.
        anisotropy: how many times longer the structures are along ``angle`` than across.
        angle: radians.
    """
    rows, columns = scipy.fft.next_fast_len(height, real=True), scipy.fft.next_fast_len(width, real=True)
    scale = _scale(height, width)
    fy = (scipy.fft.fftfreq(rows) * scale).astype(np.float32)[:, None]
    fx = (scipy.fft.rfftfreq(columns) * scale).astype(np.float32)[None]
    along = (fx * np.cos(angle) + fy * np.sin(angle)) * np.sqrt(anisotropy)
    across = (fy * np.cos(angle) - fx * np.sin(angle)) / np.sqrt(anisotropy)
    squared = (along**2 + across**2).astype(np.float32)
    squared[0, 0] = 1.0
    amplitude = squared ** np.float32(-slope / 2)
    if band is not None:
        low, high = band
        amplitude /= (1 + (low * low / squared) ** 4) * (1 + (squared / (high * high)) ** 4)
    amplitude[0, 0] = 0.0
    spectrum = scipy.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32)) * amplitude
    noise = scipy.fft.irfft2(spectrum, s=(rows, columns))[:height, :width]
    return ((noise - noise.mean()) / (noise.std() + 1e-12)).astype(np.float32)


def _warped(
    rng: Rng, height: int, width: int, x: Float, y: Float, amount: float, cell: float = 64.0
) -> tuple[Float, Float]:
    """Coordinates pushed about by smooth noise of ``amount`` reference pixels (domain warping)."""
    return (
        x + np.float32(amount) * _fbm(rng, height, width, cell, 0.5, 3),
        y + np.float32(amount) * _fbm(rng, height, width, cell, 0.5, 3),
    )


@dataclass(frozen=True)
class _Cells:
    """Voronoi cells at each pixel. Lengths in reference pixels, numbers index arrays of ``n`` values."""

    nearest: Float  # distance to the nearest point (F1)
    border: Float  # distance to the border with the next cell
    second: Float  # distance to the second nearest point (F2)
    dx: Float  # from the pixel to the nearest point
    dy: Float
    number: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    n: int

    def values(self, per_cell: Float, blend: float = 1.0) -> Float:
        """The cells' values (n,) at each pixel, blended over ``blend`` reference pixels at the borders."""
        share = np.clip(0.5 - self.border / np.float32(2 * blend), 0, 0.5)
        return per_cell[self.number] * (1 - share) + per_cell[self.neighbour] * share


def _cells(rng: Rng, x: Float, y: Float, cell: float, jitter: float = 0.85, *, brick: float = 0.0) -> _Cells:
    """Cells about the points of a jittered grid (Worley 1996); ``brick=0.5`` shifts every other row: a hexagonal grid.

    Args:
        rng: random state.
        x: coordinates in reference pixels, (H, W); warp or stretch them for other shapes of cells.
        y: the same.
        cell: distance of the grid's points.
        jitter: 0 regular grid, 1 anywhere in the square.
        brick: shift of every other row in cells.
    """
    u, v = x / np.float32(cell), y / np.float32(cell)
    u, v = u - (np.floor(u.min()) - 2), v - (np.floor(v.min()) - 2)
    rows, columns = int(v.max()) + 4, int(u.max()) + 4
    inset = (1 - jitter) / 2
    px = np.arange(columns, dtype=np.float32)[None] + rng.uniform(inset, 1 - inset, (rows, columns))
    px = (px + brick * (np.arange(rows)[:, None] % 2)).astype(np.float32).ravel()
    py = (np.arange(rows)[:, None] + rng.uniform(inset, 1 - inset, (rows, columns))).astype(np.float32).ravel()
    first = v.astype(np.int32) * columns + u.astype(np.int32)
    nearest = np.full(u.shape, 1e9, dtype=np.float32)
    second = nearest.copy()
    number = np.zeros(u.shape, dtype=np.int32)
    neighbour = number.copy()
    offsets = [(j, i) for j in (-1, 0, 1) for i in ((-2, -1, 0, 1) if brick else (-1, 0, 1))]
    for j, i in offsets:
        index = first + np.int32(j * columns + i)
        dx = px[index]
        dx -= u
        dy = py[index]
        dy -= v
        dx *= dx
        dy *= dy
        distance = dx
        distance += dy
        closer = distance < nearest
        runner_up = distance < second
        neighbour = np.where(closer, number, np.where(runner_up, index, neighbour))
        number = np.where(closer, index, number)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    apart = np.hypot(px[number] - px[neighbour], py[number] - py[neighbour]) + np.float32(1e-6)
    size = np.float32(cell)
    return _Cells(
        nearest=np.sqrt(nearest) * size,
        border=(second - nearest) / (2 * apart) * size,
        second=np.sqrt(second) * size,
        dx=(px[number] - u) * size,
        dy=(py[number] - v) * size,
        number=number,
        neighbour=neighbour,
        n=rows * columns,
    )


def _random(rng: Rng, n: int, low: float = 0.0, high: float = 1.0) -> Float:
    return rng.uniform(low, high, n).astype(np.float32)


def _unit(values: Float, low: float = 0.5, high: float = 99.5) -> Float:
    """Stretch the range between two percentiles to 0 .. 1 and clip."""
    bottom, top = np.percentile(values[:: max(1, values.shape[0] // 96), :: max(1, values.shape[1] // 96)], [low, high])
    return np.clip((values - np.float32(bottom)) / np.float32(max(top - bottom, 1e-6)), 0, 1).astype(np.float32)


def _step(values: Float, threshold: float = 0.0, softness: float = 0.1) -> Float:
    """Smooth step from 0 to 1 about a threshold, ``softness`` wide to each side."""
    t = np.clip((values - np.float32(threshold)) / np.float32(2 * softness) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _quantile_step(values: Float, share: float, softness: float = 0.1) -> Float:
    """Smooth step that is 1 on about ``share`` of the picture, with a softness in standard deviations."""
    threshold = float(np.quantile(values[::3, ::3], 1 - share))
    return _step(values, threshold, softness * float(values.std()))


def _blur(values: Float, sigma: float, scale: float = 1.0) -> Float:
    """Gaussian blur; sigma in reference pixels when the scale of the picture is given."""
    sigma *= scale
    return values if sigma < 0.15 else cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _relief(rng: Rng, height_map: Float, strength: float = 1.0, gloss: float | None = None) -> Float:
    """Light on a surface: 0 .. about 1.3, around 0.6 where it is level. Lambert with a highlight (Blinn-Phong).

    Slopes are measured in their own standard deviation, so that ``strength`` means the same for every surface.
    """
    slope_y, slope_x = np.gradient(height_map)
    spread = np.float32(np.sqrt((slope_x**2 + slope_y**2).mean()) / (0.6 * strength) + 1e-9)
    slope_x, slope_y = slope_x / spread, slope_y / spread
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
    light = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    length = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    shade = np.maximum((light[2] - slope_x * light[0] - slope_y * light[1]) * length, 0)
    gloss = rng.uniform(0, 0.5) if gloss is None else gloss
    half = light + [0, 0, 1]
    half /= np.linalg.norm(half)
    highlight = np.maximum((half[2] - slope_x * half[0] - slope_y * half[1]) * length, 0) ** 24
    return (0.1 + 0.8 * shade + gloss * highlight).astype(np.float32)


def _hsv_to_rgb(hsv: NDArray[np.float64]) -> Float:
    """(N, 3) hue, saturation, value in 0 .. 1 (hue wraps round) to RGB."""
    hue, saturation, value = hsv.T
    ramps = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (value[:, None] * (1 - saturation[:, None] * (1 - np.clip(ramps, 0, 1)))).astype(np.float32)


def _colours(rng: Rng, n: int) -> Float:
    """n colours (n, 3) of one palette: hues about one or two of the wheel, muted to vivid."""
    hue = rng.uniform() + rng.normal(0, _log_uniform(rng, 0.01, 0.3), n)
    hue += np.where(rng.uniform(size=n) < rng.choice([0.0, 0.3]), rng.uniform(0.25, 0.75), 0)
    saturation = np.clip(rng.beta(1.5, rng.choice([1.5, 4.0])) + rng.normal(0, 0.15, n), 0.04, 1)
    value = np.clip(rng.uniform(0.05, 1.0, n), 0, 1)
    return _hsv_to_rgb(np.column_stack([hue, saturation, value]))


def _colour_ramp(rng: Rng, n: int = 16384) -> Float:
    """Smooth colour map (n, 3): mostly dark to light, sometimes up and down."""
    stops = int(rng.integers(2, 7))
    colours = _colours(rng, stops)
    if rng.uniform() < 0.65:
        colours = colours[np.argsort(colours.sum(axis=1), kind="stable")]
        ends = rng.uniform([0.0, 0.65], [0.3, 1.0])
        grey = colours.mean(axis=1, keepdims=True)
        wanted = np.linspace(*ends, stops)[:, None]
        colours = np.clip(colours + 0.8 * (wanted - grey), 0, 1)
    gaps = rng.uniform(0.25, 1, stops - 1)  # none so narrow that neighbouring entries differ visibly
    places = np.concatenate([[0], np.cumsum(gaps) / gaps.sum()])
    t = np.linspace(0, 1, n)
    return np.stack([np.interp(t, places, colours[:, channel]) for channel in range(3)], axis=1).astype(np.float32)


def _paint(rng: Rng, values: Float) -> Float:
    """Colour for a grey picture (H, W): a colour map, a tint, or three channels that go partly their own way."""
    kind = rng.choice(["ramp", "tint", "channels"], p=[0.6, 0.27, 0.13])
    if kind == "ramp":
        ramp = _colour_ramp(rng)
        picture = np.take(ramp, (np.clip(values, 0, 1) * (len(ramp) - 1)).astype(np.int32), axis=0)
        # A map may fold light and dark onto each other; keep some of the texture's own light.
        return 0.75 * picture + np.float32(0.25) * values[..., None]
    if kind == "tint":
        tint = 1 + _log_uniform(rng, 0.05, 0.5) * rng.uniform(-1, 1, 3)
        return (values[..., None] ** np.maximum(tint, 0.3) * np.clip(tint[::-1], 0, 1.2)).astype(np.float32)
    height, width = values.shape
    cell, amount = _log_uniform(rng, 16, 250), _log_uniform(rng, 0.03, 0.16)
    cast = rng.uniform(-0.15, 0.15, 3)
    channels = [values + np.float32(amount) * _fbm(rng, height, width, cell, 0.5, 4) for _ in range(3)]
    return np.stack(channels, axis=-1) + cast.astype(np.float32)


def _points(xy: NDArray[np.float64]) -> NDArray[np.int32]:
    """Points (N, 2) in pixels as opencv's fixed point numbers with four binary places."""
    return np.round(np.clip(xy, -1e4, 1e4) * 16).astype(np.int32)


def _fill(canvas: NDArray[np.uint8], xy: NDArray[np.float64], colour: Any) -> None:
    """Draw a filled polygon with soft edges."""
    cv2.fillPoly(canvas, [_points(xy)], colour, cv2.LINE_AA, 4)


def _line(
    canvas: NDArray[np.uint8], xy: NDArray[np.float64], colour: Any, thickness: float, closed: bool = False
) -> None:
    """Draw a line with soft edges."""
    cv2.polylines(canvas, [_points(xy)], closed, colour, max(1, round(thickness)), cv2.LINE_AA, 4)


def _outline(rng: Rng, radius: float, kind: str) -> NDArray[np.float64]:
    """Closed outline (N, 2) about the origin: disc, polygon, blob, star, rectangle or gear."""
    turn = rng.uniform(0, 2 * np.pi)
    if kind == "rectangle":
        a, b = radius, radius * _log_uniform(rng, 0.15, 1.0)
        corners = np.array([[-a, -b], [a, -b], [a, b], [-a, b]])
        cos, sin = np.cos(turn), np.sin(turn)
        return corners @ np.array([[cos, sin], [-sin, cos]])
    if kind == "polygon":
        n = int(rng.integers(3, 8))
        angle = np.sort(turn + 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n)
        radii = np.full(n, radius)
    elif kind == "star":
        n = 2 * int(rng.integers(3, 9))
        angle = turn + 2 * np.pi * np.arange(n) / n
        radii = radius * np.where(np.arange(n) % 2, rng.uniform(0.3, 0.8), 1.0)
    elif kind == "gear":
        teeth = int(rng.integers(7, 24))
        depth, top = rng.uniform(0.72, 0.9), rng.uniform(0.15, 0.3)
        start = 2 * np.pi * np.arange(teeth)[:, None] / teeth
        angle = (turn + start + 2 * np.pi / teeth * np.array([0, top / 2, 0.5 - top / 4, 0.5 + top / 2])).ravel()
        radii = radius * np.tile([1.0, 1.0, depth, depth], teeth)
    else:
        angle = turn + np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radii = np.full(40, radius)
        if kind == "blob":
            for order in range(2, 6):
                radii = radii * (1 + rng.normal(0, 0.25 / order) * np.cos(order * angle + rng.uniform(0, 7)))
        elif kind == "ellipse":
            aspect = _log_uniform(rng, 0.2, 1)
            radii = radius * aspect / np.hypot(aspect * np.cos(angle - turn), np.sin(angle - turn))
    return radii[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def _curve(rng: Rng, height: int, width: int, length: float, bend: float, n: int = 24) -> NDArray[np.float64]:
    """A line (n, 2) in pixels from a random point, with a heading that drifts by ``bend`` radians over its length."""
    heading = (
        rng.uniform(0, 2 * np.pi)
        + np.cumsum(rng.normal(0, bend / np.sqrt(n), n))
        + rng.normal(0, bend) * (np.linspace(0, 1, n))
    )
    steps = length / n * np.column_stack([np.cos(heading), np.sin(heading)])
    start = rng.uniform([-0.2 * width, -0.2 * height], [1.2 * width, 1.2 * height])
    return start + np.cumsum(steps, axis=0)


def _surface(rng: Rng, height: int, width: int, amount: float) -> Float:
    """A factor about 1 with fine and coarse unevenness, as of a real surface."""
    noise = _fbm(rng, height, width, _log_uniform(rng, 16, 128), rng.uniform(0.55, 0.95), 6)
    return np.maximum(1 + np.float32(amount) * noise, np.float32(0.05))


def _wave(rng: Rng, phase: Float, kind: str, sharpness: float = 4.0) -> Float:
    """A periodic profile, 0 .. 1, of a phase in cycles."""
    angle = np.float32(2 * np.pi) * phase
    if kind == "sine":
        return 0.5 + 0.5 * np.sin(angle)
    if kind == "square":
        return 0.5 + 0.5 * np.tanh(np.float32(sharpness) * (np.sin(angle) - np.float32(rng.uniform(-0.7, 0.7))))
    if kind == "ridge":
        return np.abs(np.sin(angle / 2)) ** np.float32(_log_uniform(rng, 0.3, 3))
    skew = np.float32(rng.uniform(0.5, 0.95))
    return 0.5 + 0.5 * np.sin(angle + skew * np.sin(angle))


# ---------------------------------------------------------------------------------------------------------------------
# Families: (rng, height, width) -> float32 (H, W) or (H, W, 3), 0 .. 1


def draw_spectral(rng: Rng, height: int, width: int) -> Float:
    """Gaussian noise with a power-law, band-passed or oriented spectrum."""
    kind = rng.choice(["power", "band", "oriented", "two"])
    angle = rng.uniform(0, np.pi)
    low = _log_uniform(rng, 0.01, 0.15)
    if kind == "power":
        noise = _spectral_noise(rng, height, width, rng.uniform(0.3, 2.2))
    elif kind == "band":
        noise = _spectral_noise(rng, height, width, 0.5, band=(low, low * rng.uniform(1.2, 3)))
    elif kind == "oriented":
        noise = _spectral_noise(
            rng, height, width, rng.uniform(0.5, 1.8), anisotropy=_log_uniform(rng, 2, 30), angle=angle
        )
    else:
        noise = _spectral_noise(rng, height, width, rng.uniform(1.2, 2.2))
        fine = _spectral_noise(
            rng, height, width, 0.5, band=(low, low * 2), anisotropy=_log_uniform(rng, 1, 8), angle=angle
        )
        noise = noise + rng.uniform(0.3, 1.0) * fine * (_smooth_noise(rng, height, width, 96) > -9)
    if rng.uniform() < 0.25:
        noise = -np.abs(noise)
    return _unit(noise)


def draw_stripes(rng: Rng, height: int, width: int) -> Float:
    """One to three gratings, straight or warped, of several profiles."""
    n = int(rng.choice([1, 1, 2, 3]))
    total = np.zeros((height, width), dtype=np.float32)
    first_angle, warp = rng.uniform(0, np.pi), rng.choice([0.0, 0.0, 0.25, 1.0]) * rng.uniform(4, 30)
    for index in range(n):
        angle = first_angle if index == 0 else first_angle + rng.choice([np.pi / 2, rng.uniform(0, np.pi)])
        x, y = _rotated(rng, height, width, angle)
        if warp:
            x, _ = _warped(rng, height, width, x, y, warp, 90)
        period = _log_uniform(rng, 6, 70)
        wave = _wave(rng, x / np.float32(period), rng.choice(["sine", "square", "ridge", "skew"]), period / 4)
        if rng.uniform() < 0.5:  # stripes of different strength
            strength = np.interp(x / period / 2, np.arange(-300, 301), rng.uniform(0.3, 1, 601)).astype(np.float32)
            wave = wave * strength
        total += wave * np.float32(0.6**index)
    return _unit(total * _surface(rng, height, width, rng.uniform(0.02, 0.15)))


def draw_cells(rng: Rng, height: int, width: int) -> Float:
    """Worley cells: distance to the nearest point, to the border, or lit pebbles."""
    x, y = _rotated(rng, height, width)
    stretch = _log_uniform(rng, 0.4, 1)
    warp, cell = rng.choice([0.0, 0.1, 0.4]), _log_uniform(rng, 8, 64)
    x, y = _warped(rng, height, width, x, y * np.float32(stretch), warp * cell, cell * 1.5)
    cells = _cells(rng, x, y, cell, rng.uniform(0.3, 0.95))
    kind = rng.choice(["nearest", "border", "difference", "pebbles"])
    if kind == "nearest":
        values = _unit(cells.nearest)
    elif kind == "border":
        values = np.minimum(cells.border / np.float32(cell * rng.uniform(0.08, 0.5)), 1)
    elif kind == "difference":
        values = _unit(cells.second - cells.nearest)
    else:
        dome = np.sqrt(np.clip(cells.border / np.float32(cell * 0.45), 0, 1))
        values = _unit(_relief(rng, dome, 1.0) * cells.values(_random(rng, cells.n, 0.5, 1.0)) * (0.2 + 0.8 * dome))
    if rng.uniform() < 0.5:
        values = 1 - values
    shade = cells.values(_random(rng, cells.n, 0.7, 1.0)) if rng.uniform() < 0.5 else 1
    return _unit(values * shade * _surface(rng, height, width, rng.uniform(0.03, 0.15)), 0.2, 99.8)


def draw_mosaic(rng: Rng, height: int, width: int) -> Float:
    """Voronoi cells with a flat value each, with or without joints; sometimes small ones in large ones."""
    x, y = _rotated(rng, height, width)
    cell = _log_uniform(rng, 10, 60)
    x, y = _warped(rng, height, width, x, y, rng.choice([0.0, 0.0, 0.5]) * cell, cell * 2)
    cells = _cells(rng, x, y, cell, rng.uniform(0.2, 0.95))
    n_colours = int(rng.integers(2, 9))
    levels = np.linspace(0, 1, n_colours, dtype=np.float32) ** np.float32(_log_uniform(rng, 0.6, 1.6))
    values = cells.values(levels[rng.integers(0, n_colours, cells.n)], 1.0)
    if rng.uniform() < 0.4:
        small = _cells(rng, x, y, cell / rng.uniform(2.5, 5), rng.uniform(0.2, 0.9))
        values = 0.65 * values + 0.35 * small.values(_random(rng, small.n), 1.0)
    if rng.uniform() < 0.5:
        joint = np.clip((cells.border - np.float32(rng.uniform(0.3, 0.06 * cell + 0.4))) / 1.2, 0, 1)
        values = values * joint + np.float32(rng.choice([0.0, 1.0, rng.uniform()])) * (1 - joint)
    return np.clip(values * _surface(rng, height, width, rng.uniform(0.0, 0.08)), 0, 1)


def draw_leaves(rng: Rng, height: int, width: int) -> Float:
    """Dead leaves: shapes with a power law of sizes that hide each other, plain or textured, in colour."""
    kinds = [
        ["disc"],
        ["polygon"],
        ["rectangle"],
        ["ellipse"],
        ["blob"],
        ["disc", "polygon", "rectangle", "star", "blob"],
    ]
    chosen = kinds[int(rng.integers(len(kinds)))]
    scale = _scale(height, width)
    smallest, largest = _log_uniform(rng, 2, 7), _log_uniform(rng, 30, 80)
    # Radii with density r**-3 between the limits: the statistics of a photo (Lee, Mumford & Huang 2001).
    cover = float(rng.uniform(1.5, 3.0)) * height * width / scale**2
    mean_area = 2 * np.pi * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    n = int(np.clip(cover / mean_area, 60, 700))
    u = rng.uniform(size=n)
    radii = (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5 * scale
    # With a cap on the number, the ground is laid with large leaves first.
    radii[: n // 8] = largest * scale * rng.uniform(0.5, 1.0, n // 8)
    centres = rng.uniform([-0.1 * width, -0.1 * height], [1.1 * width, 1.1 * height], (n, 2))
    palette = _colours(rng, int(rng.integers(4, 24)))
    picks = palette[rng.integers(0, len(palette), n)] * rng.uniform(0.75, 1.0, (n, 1))
    colours = np.round(255 * np.column_stack([picks, rng.uniform(size=n)])).astype(int).tolist()
    canvas = np.empty((height, width, 4), dtype=np.uint8)
    canvas[:] = colours[0]
    outlines = [_outline(rng, 1.0, str(rng.choice(chosen))) for _ in range(24)]
    outlined = rng.uniform() < 0.25
    for index in range(1, n):
        xy = outlines[index % 24] * radii[index] + centres[index]
        _fill(canvas, xy, colours[index])
        if outlined and radii[index] > 4 * scale:
            _line(canvas, xy, [value * 0.4 for value in colours[index]], 1, closed=True)
    painted = canvas.astype(np.float32) / 255
    picture, which = painted[..., :3], painted[..., 3]
    x, y = _rotated(rng, height, width)
    fine = _fbm(rng, height, width, _log_uniform(rng, 4, 24), 0.7, 4)
    lines = np.sin(x / np.float32(_log_uniform(rng, 0.6, 3)) + 3 * fine)
    texture = fine * np.clip(1 - 2 * which, 0, 1) + lines * np.clip(2 * which - 1, 0, 1)
    return np.clip(picture * (1 + np.float32(rng.choice([0.03, 0.15, 0.35])) * texture[..., None]), 0, 1)


def draw_fractal(rng: Rng, height: int, width: int) -> Float:
    """Fractal noise: sums of octaves, ridged, billowed, terraced (plasma), or lit as a landscape."""
    gain, cell = rng.uniform(0.42, 0.75), _log_uniform(rng, 40, 160)
    kind = rng.choice(["fbm", "ridged", "billow", "terraces", "landscape"])
    noise = _fbm(rng, height, width, cell, gain, 8, ridged=kind == "ridged")
    if kind == "billow":
        noise = np.abs(noise) + 0.3 * np.abs(_fbm(rng, height, width, cell / 3, gain, 6))
    elif kind == "terraces":
        noise = noise + np.float32(0.25) * np.sin(noise * np.float32(rng.uniform(4, 14)))
        noise = np.sin(noise * np.float32(rng.uniform(1.5, 5)))
    elif kind == "landscape":
        return _unit(_relief(rng, noise, rng.uniform(0.7, 1.6), 0.0) + rng.uniform(0, 0.3) * noise)
    return _unit(noise)


_WEAVES = {  # 1: the warp thread lies on top
    "plain": np.array([[1, 0], [0, 1]]),
    "basket": np.kron(np.array([[1, 0], [0, 1]]), np.ones((2, 2), dtype=int)),
    "twill": np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]),
    "twill31": np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "satin": np.array([[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]),
    "herringbone": np.array(
        [[1, 1, 0, 0, 0, 0, 1, 1], [0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0, 1]]
    ),
}


def draw_fabric(rng: Rng, height: int, width: int) -> Float:
    """Woven cloth: plain, basket, twill, satin, herringbone; threads of uneven thickness and shade."""
    weave = _WEAVES[str(rng.choice(list(_WEAVES)))]
    pitch = _log_uniform(rng, 5, 22)
    x, y = _rotated(rng, height, width, rng.choice([0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)]))
    x, y = _warped(rng, height, width, x, y, rng.uniform(0, 0.25) * pitch, 48)
    u, v = x / np.float32(pitch), y / np.float32(pitch * _log_uniform(rng, 0.7, 1.4))
    column, row = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    across, along = u - column - 0.5, v - row - 0.5  # -0.5 .. 0.5 within the crossing
    n_rows, n_columns = weave.shape
    top = (2.0 * weave - 1).astype(np.float32)

    def height_along(offset: Float, row_step: int, column_step: int) -> Float:
        """How high the thread lies, between this crossing and the next one in its direction."""
        here = top[row % n_rows, column % n_columns]
        forward = top[(row + row_step) % n_rows, (column + column_step) % n_columns]
        backward = top[(row - row_step) % n_rows, (column - column_step) % n_columns]
        share = np.abs(offset)
        share = share * share * 2  # 0 in the middle of the crossing, one half between two
        return here * (1 - share) + np.where(offset > 0, forward, backward) * share

    thickness = rng.uniform(0.42, 0.5)
    warp_round = np.sqrt(np.clip(1 - (across / thickness) ** 2, 0, 1))
    weft_round = np.sqrt(np.clip(1 - (along / thickness) ** 2, 0, 1))
    swing = np.float32(rng.uniform(0.25, 0.5))
    # -1 at the edges of a thread, so that nothing jumps from one thread to the next
    warp = warp_round * (2 + swing * height_along(along, 1, 0)) - 1
    weft = weft_round * (2 - swing * height_along(across, 0, 1)) - 1
    warp_shade, weft_shade = (
        _random(rng, 256, 0.75, 1.0),
        _random(rng, 256, 0.75, 1.0) * np.float32(rng.uniform(0.5, 1)),
    )
    if rng.uniform() < 0.3:  # a pattern of coloured threads
        warp_shade = warp_shade * np.where(np.arange(256) // int(rng.integers(2, 9)) % 2, 1.0, 0.5).astype(np.float32)
    on_top = _step(warp - weft, 0.0, 0.12)
    fibres = 1 + np.float32(rng.uniform(0.03, 0.15)) * (
        on_top * np.sin(np.float32(2 * np.pi) * (3 * across + along))
        + (1 - on_top) * np.sin(2 * np.pi * (3 * along + across))
    )
    depth = np.maximum(warp, weft)
    cloth = (warp_shade[column % 256] * on_top + weft_shade[row % 256] * (1 - on_top)) * fibres
    cloth = cloth * (0.25 + 0.75 * np.clip((depth + 0.2) / 1.6, 0, 1))
    if rng.uniform() < 0.5:
        cloth = cloth * _relief(rng, _blur(depth.astype(np.float32), 0.7), 0.8, 0.1)
    return _unit(cloth * _surface(rng, height, width, rng.uniform(0.03, 0.12)), 0.2, 99.8)


def draw_knit(rng: Rng, height: int, width: int) -> Float:
    """Knitted stitches: columns of V shapes of twisted yarn."""
    pitch = _log_uniform(rng, 12, 36)
    x, y = _rotated(rng, height, width, rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
    x, y = _warped(rng, height, width, x, y, rng.uniform(0.02, 0.12) * pitch, 64)
    u, v = x / np.float32(pitch), y / np.float32(pitch * rng.uniform(0.6, 0.9))
    side = np.abs(u - np.floor(u) - 0.5) * 2  # 0 in the middle of a column, 1 at its border
    lean = v - np.float32(rng.uniform(0.7, 1.3)) * side
    within = lean - np.floor(lean) - 0.5
    strand = np.clip(1 - (within / 0.5) ** 2, 0, 1) * np.clip(1 - ((side - 0.5) / 0.55) ** 2, 0, 1)
    yarn = np.sqrt(strand)
    twist = 0.5 + 0.5 * np.sin(np.float32(2 * np.pi) * (within * 2 + side * np.float32(rng.uniform(1.5, 4))))
    rows = np.floor(lean).astype(np.int32)
    shade = np.where(rng.uniform() < 0.4, (rng.uniform(0.4, 1, 64))[rows // int(rng.integers(1, 5)) % 64], 1.0)
    shade = 1 + (shade - 1) * np.clip(yarn * 3, 0, 1)  # rows differ only where the yarn is
    values = yarn * shade * (1 - np.float32(rng.uniform(0.1, 0.35)) * twist)
    values = 0.1 + 0.9 * values * _relief(rng, _blur(yarn.astype(np.float32), 0.6), 0.8, 0.0)
    return _unit(values * _surface(rng, height, width, rng.uniform(0.05, 0.15)), 0.2, 99.8)


def draw_scratches(rng: Rng, height: int, width: int) -> Float:
    """Scratches, long and short, bright and dark, over an uneven base."""
    scale = _scale(height, width)
    base = 0.5 + 0.06 * _spectral_noise(
        rng, height, width, rng.uniform(0.6, 1.6), anisotropy=_log_uniform(rng, 1, 12), angle=rng.uniform(0, np.pi)
    )
    marks = np.full((height, width), 128, dtype=np.uint8)
    bend, direction = _log_uniform(rng, 0.02, 1.0), rng.uniform(0, np.pi)
    common = rng.uniform() < 0.4  # all in about one direction, as after wiping
    for _ in range(int(_log_uniform(rng, 15, 160))):
        xy = _curve(rng, height, width, _log_uniform(rng, 15, 350) * scale, bend)
        if common:
            middle, turn = xy.mean(axis=0), direction + rng.normal(0, 0.1)
            heading = np.arctan2(*(xy[-1] - xy[0])[::-1])
            cos, sin = np.cos(turn - heading), np.sin(turn - heading)
            xy = (xy - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
        value = int(np.clip(128 + rng.choice([-1, 1], p=[0.4, 0.6]) * rng.uniform(20, 127), 0, 255))
        _line(marks, xy, value, rng.choice([1, 1, 1, 2, 3]) * max(scale, 0.5))
    lines = _blur(marks.astype(np.float32) / 255 - np.float32(0.5), rng.uniform(0, 0.8), scale)
    return _unit(base + lines + 0.5 * np.roll(-lines, 1, axis=0) * rng.integers(0, 2), 0.1, 99.9)


def draw_fibres(rng: Rng, height: int, width: int) -> Float:
    """Felt, paper, hair: many curved fibres on top of each other, deeper ones darker."""
    scale = _scale(height, width)
    canvas = np.zeros((height, width), dtype=np.uint8)
    n, bend, length = int(_log_uniform(rng, 80, 280)), _log_uniform(rng, 0.1, 3.0), _log_uniform(rng, 50, 250)
    thickness = _log_uniform(rng, 1, 4)
    for index in range(n):
        xy = _curve(rng, height, width, length * rng.uniform(0.5, 1.5) * scale, bend, 16)
        value = 60 + 190 * index / n * rng.uniform(0.6, 1.0)
        width_here = thickness * rng.uniform(0.6, 1.2) * scale
        if thickness > 2:
            _line(canvas, xy, int(0.35 * value), width_here + 2)
        _line(canvas, xy, int(value), width_here)
    top = _blur(canvas.astype(np.float32) / 255, rng.uniform(0, 0.7), scale)
    # Deeper layers are the same fibres turned over and moved, darker and less sharp.
    values = top
    for depth in range(1, int(rng.integers(2, 6))):
        layer = np.roll(
            top[:: (1, -1)[depth % 2], :: (1, -1)[depth // 2 % 2]], rng.integers(0, min(height, width), 2), (0, 1)
        )
        values = np.maximum(values, np.float32(0.82**depth) * _blur(layer, 0.3 * depth, scale))
    values = values + 0.12 * _fbm(rng, height, width, _log_uniform(rng, 6, 60), 0.7, 5)
    return _unit(values * _surface(rng, height, width, 0.1))


def draw_marble(rng: Rng, height: int, width: int) -> Float:
    """Marble: sharp veins along a strongly warped direction, clouds between."""
    x, y = _rotated(rng, height, width)
    x, y = _warped(rng, height, width, x, y, rng.uniform(10, 50), _log_uniform(rng, 50, 120))
    turbulence = _fbm(rng, height, width, 100, 0.55, 7)
    phase = x / np.float32(_log_uniform(rng, 30, 110)) + turbulence * np.float32(rng.uniform(0.2, 0.6))
    veins = 1 - np.abs(np.sin(np.float32(np.pi) * phase)) ** np.float32(_log_uniform(rng, 0.15, 1.0))
    fine = 1 - np.abs(_fbm(rng, height, width, 60, 0.6, 5))
    clouds = _fbm(rng, height, width, 90, 0.6, 7)
    values = 0.75 + 0.15 * clouds - rng.uniform(0.4, 1.0) * veins - rng.uniform(0, 0.25) * np.clip(fine, 0, 1) ** 6
    return _unit(values if rng.uniform() < 0.7 else -values)


def draw_wood(rng: Rng, height: int, width: int) -> Float:
    """Wood: growth rings cut along or across, knots, pores and fibres."""
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    x, y = _rotated(rng, height, width, angle)
    x, y = x - x.mean(), y - y.mean()
    period = _log_uniform(rng, 7, 32)
    if rng.uniform() < 0.3:  # the end of a trunk
        cx, cy = rng.uniform(-120, 120, 2)
        a, b = _warped(rng, height, width, x - np.float32(cx), y - np.float32(cy), 8, 70)
        distance = np.hypot(a, b * np.float32(rng.uniform(0.8, 1)))
    else:  # a board: rings almost parallel to x
        distance = y + np.float32(rng.uniform(6, 26)) * np.sin(x / np.float32(rng.uniform(90, 250)) + rng.uniform(0, 6))
        distance = distance + 14 * _smooth_noise(rng, height, width, 120, 1.0)
        for _ in range(int(rng.integers(0, 3))):
            kx, ky = rng.uniform(-110, 110, 2)
            radius = rng.uniform(10, 30)
            away = np.hypot((x - np.float32(kx)) * np.float32(0.5), y - np.float32(ky))
            distance = distance + np.float32(4 * period) * np.exp(-((away / np.float32(radius)) ** 2))
    distance = distance + np.float32(0.12 * period) * _fbm(rng, height, width, 24, 0.6, 4)
    phase = distance / np.float32(period)
    ring = 0.5 + 0.5 * np.sin(np.float32(2 * np.pi) * phase + 0.9 * np.sin(np.float32(2 * np.pi) * phase))
    ring = ring ** np.float32(rng.uniform(0.6, 2)) * (0.7 + 0.3 * np.sin(phase * np.float32(1.7)))
    fibre = _spectral_noise(rng, height, width, 0.7, anisotropy=_log_uniform(rng, 15, 80), angle=float(angle))
    pores = _quantile_step(fibre, rng.uniform(0.01, 0.08), 0.3)
    values = 0.8 - rng.uniform(0.25, 0.6) * ring + rng.uniform(0.03, 0.12) * fibre - rng.uniform(0, 0.3) * pores
    return _unit(values)


def draw_brushed(rng: Rng, height: int, width: int) -> Float:
    """Brushed or turned metal: long fine marks, straight or round a centre, with bands of light."""
    x, y = _rotated(rng, height, width)
    if rng.uniform() < 0.35:  # turned: the marks are circles, the light is a fan
        x, y = _coordinates(height, width)
        cx, cy = rng.uniform(-150, 150, 2).astype(np.float32)
        radius = np.hypot(x - cx, y - cy) + 1
        turn = np.arctan2(y - cy, x - cx)
        n = 1024
        profile = np.cumsum(rng.normal(size=n)) * 0.15 + rng.normal(size=n)
        profile = profile - ndimage.uniform_filter1d(profile, 101)
        marks = np.interp(radius * np.float32(rng.uniform(0.7, 2)), np.arange(n), profile).astype(np.float32)
        marks = marks + 0.5 * _smooth_noise(rng, height, width, 2)
        light = np.cos(2 * turn + np.float32(rng.uniform(0, 6))) + 0.4 * np.cos(int(rng.integers(3, 6)) * turn)
        light = light * np.clip(radius / 30, 0, 1)
    else:
        angle = rng.uniform(0, np.pi)
        marks = _spectral_noise(
            rng, height, width, rng.uniform(0.2, 0.9), anisotropy=_log_uniform(rng, 60, 900), angle=angle
        )
        along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        light = np.sin(along / np.float32(_log_uniform(rng, 25, 120))) + 0.6 * _smooth_noise(rng, height, width, 150)
    values = marks * np.float32(rng.uniform(0.12, 0.4)) * (1 + 0.4 * light) + rng.uniform(0.1, 0.6) * light
    return _unit(values + 0.03 * _smooth_noise(rng, height, width, 1))


def draw_cracks(rng: Rng, height: int, width: int) -> Float:
    """Cracks and veins: thin dark (or bright) nets of uneven width over a base."""
    x, y = _rotated(rng, height, width)
    base = rng.uniform(0.03, 0.12) * _fbm(rng, height, width, _log_uniform(rng, 20, 140), rng.uniform(0.5, 0.8), 7)
    dark = np.zeros((height, width), dtype=np.float32)
    cell = _log_uniform(rng, 28, 90)
    kind = rng.choice(["net", "veins", "both"])
    if kind != "veins":
        for level in range(int(rng.integers(1, 3))):
            size = cell / 2.7**level
            wx, wy = _warped(rng, height, width, x, y, size * rng.uniform(0.08, 0.3), size * 0.7)
            cells = _cells(rng, wx, wy, size, 0.95)
            breadth = np.clip(
                rng.uniform(0.6, 0.7 + 0.05 * size) + 0.6 * _smooth_noise(rng, height, width, 40), 0.05, None
            )
            dark = np.maximum(dark, np.float32(0.75**level) * np.clip(1.3 - cells.border / breadth, 0, 1))
            if level == 0:
                base = base + cells.values(_random(rng, cells.n, 0, rng.uniform(0.02, 0.25)))
    if kind != "net":
        noise = _fbm(rng, height, width, cell * 1.4, 0.5, 6)
        breadth = 0.02 + 0.03 * np.clip(1 + _smooth_noise(rng, height, width, 64), 0, 2)
        dark = np.maximum(dark, np.exp(-((noise / breadth) ** 2)))
    depth = rng.uniform(0.5, 0.9) * rng.choice([1, 1, -1])
    edge = _blur(dark, 1.2, _scale(height, width))
    lit = rng.uniform(0, 0.4) * (np.roll(edge, 1, axis=0) - edge)
    return _unit(0.6 + base - depth * dark + lit, 0.1, 99.9)


def draw_tiles(rng: Rng, height: int, width: int) -> Float:
    """Checker boards, bricks, tiles and hexagons with joints, uneven faces and a little relief."""
    kind = rng.choice(["checker", "bricks", "tiles", "hexagons"], p=[0.3, 0.3, 0.2, 0.2])
    x, y = _rotated(rng, height, width, rng.choice([0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)]))
    x, y = _warped(rng, height, width, x, y, rng.choice([0.0, 0.5, 3.0]), 60)
    size = _log_uniform(rng, 12, 70)
    uneven = _random(rng, 4096, -1, 1)
    joint = rng.uniform(0.7, 1 + 0.06 * size)
    if kind == "hexagons":
        cells = _cells(rng, x, y * np.float32(2 / np.sqrt(3)), size, 0.0, brick=0.5)
        distance, spread = cells.border, cells.values(_random(rng, cells.n, -1, 1))
    else:
        breadth = size * (_log_uniform(rng, 1.6, 3.2) if kind == "bricks" else rng.choice([1.0, 1.0, 1.6]))
        v = y / np.float32(size)
        row = np.floor(v)
        shift = rng.choice([0.5, 0.5, 0.33]) if kind == "bricks" else 0.0
        u = x / np.float32(breadth) + np.float32(shift) * row
        column = np.floor(u)
        distance = np.minimum(
            (0.5 - np.abs(u - column - 0.5)) * np.float32(breadth), (0.5 - np.abs(v - row - 0.5)) * np.float32(size)
        )
        number = (row.astype(np.int32) * 37 + column.astype(np.int32) * 11) % 4096
        spread = uneven[number]
        if kind == "checker":
            steep = np.float32(size / 3)
            board = np.tanh(steep * np.sin(np.float32(np.pi) * u)) * np.tanh(steep * np.sin(np.float32(np.pi) * v))
            spread = board + rng.uniform(0, 0.3) * spread * np.clip(distance, 0, 1)
            joint = rng.choice([0.0, joint])
    face = 0.6 + rng.uniform(0.08, 0.3) * spread
    face = face * _surface(rng, height, width, rng.uniform(0.04, 0.2))
    inside = np.clip((distance - np.float32(joint)) / 1.2 + 0.5, 0, 1)
    # The face fades to the joint over a pixel, so that no hard edge is left.
    joint_value = rng.choice([0.15, 0.95, 0.4]) * _surface(rng, height, width, 0.15)
    values = face * inside + joint_value * (1 - inside) if joint else face
    if rng.uniform() < 0.6:
        bevel = np.clip(distance / np.float32(joint + rng.uniform(1, 0.15 * size)), 0, 1)
        noise = _fbm(rng, height, width, 12, 0.6, 4)
        values = values * _relief(rng, (bevel + 0.03 * noise).astype(np.float32), rng.uniform(0.4, 1.0), 0.2)
    return _unit(values, 0.2, 99.8)


def draw_dots(rng: Rng, height: int, width: int) -> Float:
    """Dots on a grid: halftone with sizes that follow a picture, perforated sheet, or lit studs."""
    kind = rng.choice(["halftone", "perforation", "studs"])
    x, y = _rotated(rng, height, width, rng.choice([0, np.pi / 4, rng.uniform(0, np.pi)]))
    pitch = _log_uniform(rng, 7, 40)
    x, y = _warped(rng, height, width, x, y, rng.choice([0.0, 0.0, 0.3]) * pitch, 80)
    cells = _cells(rng, x, y, pitch, rng.choice([0.0, 0.0, 0.15, 0.5]), brick=rng.choice([0.0, 0.5]))
    base = _surface(rng, height, width, rng.uniform(0.05, 0.2))
    if kind == "halftone":
        tone = _unit(_fbm(rng, height, width, _log_uniform(rng, 50, 150), 0.45, 4))
        radius = pitch * (0.08 + 0.5 * tone)
    else:
        radius = pitch * rng.uniform(0.22, 0.42) * cells.values(_random(rng, cells.n, rng.uniform(0.6, 1), 1.0))
    edge = np.float32(max(1.0, rng.choice([1.0, 0.1 * pitch])))
    inside = np.clip((radius - cells.nearest) / edge + 0.5, 0, 1)
    if kind == "halftone":
        values = inside * base
    elif kind == "perforation":
        behind = 0.15 + 0.1 * _fbm(rng, height, width, 90, 0.5, 5)
        lit = np.clip((radius + 2 - cells.nearest) / edge + 0.5, 0, 1) - inside
        side = (
            (cells.dx * np.float32(0.54) + cells.dy * np.float32(0.84))
            / (cells.nearest + 1)
            * np.clip(cells.border, 0, 1)
        )
        values = 0.7 * base * (1 - inside) + behind * inside + 0.35 * lit * side
    else:
        dome = np.sqrt(np.clip(1 - (cells.nearest / radius) ** 2, 0, 1))
        values = _relief(rng, (dome * radius / 4).astype(np.float32), 1.0) * (0.6 + 0.25 * inside) * base
    values = _unit(values.astype(np.float32), 0.2, 99.8)
    return 1 - values if rng.uniform() < 0.4 else values


def draw_bubbles(rng: Rng, height: int, width: int) -> Float:
    """Bubbles and drops of several sizes with rims, highlights and shadows."""
    scale = _scale(height, width)
    values = 0.45 + 0.1 * _fbm(rng, height, width, 128, 0.55, 6)
    light = rng.uniform(0, 2 * np.pi)
    lx, ly = np.float32(np.cos(light)), np.float32(np.sin(light))
    rim, body = rng.uniform(0.1, 0.6) * rng.choice([-1, 1]), rng.uniform(-0.15, 0.25)
    for cell in np.geomspace(_log_uniform(rng, 12, 24), _log_uniform(rng, 40, 90), int(rng.integers(2, 4))):
        x, y = _rotated(rng, height, width)
        x, y = _warped(rng, height, width, x, y, rng.uniform(0, 0.1) * cell, cell)
        cells = _cells(rng, x, y, float(cell), 0.8)
        share = rng.uniform(0.3, 0.9)
        radii = cell * _random(rng, cells.n, 0.15, 0.5) * (rng.uniform(size=cells.n) < share)
        radius = radii.astype(np.float32)[cells.number]
        room = np.minimum(radius, cells.border + cells.nearest)  # a bubble ends at its cell
        t = cells.nearest / np.maximum(room, np.float32(0.1))
        inside = np.clip((room - cells.nearest) / np.float32(1 / scale if scale < 1 else 1.0), 0, 1)
        slope = (cells.dx * lx + cells.dy * ly) / np.maximum(room, np.float32(0.1))
        shade = body + rim * t**6 + 0.35 * slope * np.clip(t, 0, 1)
        spot = np.exp(
            -((cells.dx / np.maximum(room, 0.1) - 0.4 * lx) ** 2 + (cells.dy / np.maximum(room, 0.1) - 0.4 * ly) ** 2)
            * 20
        )
        shadow = np.clip(1 - (t - 1) * 3, 0, 1) * np.clip(cells.border / 3, 0, 1)
        values = values * (1 - 0.25 * shadow * (1 - inside)) + inside * (shade + 0.5 * spot)
    return _unit(values.astype(np.float32), 0.2, 99.8)


def draw_rust(rng: Rng, height: int, width: int) -> Float:
    """Rust, stains and flaking paint: layers with ragged borders over a base, in colour."""
    x, y = _rotated(rng, height, width)
    layers = int(rng.integers(2, 5))
    warm = rng.uniform() < 0.5
    if warm:
        hue = 0.06 + rng.normal(0, 0.025, layers + 1)
        saturation, value = rng.uniform(0.4, 0.9, layers + 1), rng.uniform(0.15, 0.8, layers + 1)
        saturation[0], value[0] = rng.uniform(0, 0.3), rng.uniform(0.4, 0.8)
        colours = _hsv_to_rgb(np.column_stack([hue, saturation, value]))
    else:
        colours = _colours(rng, layers + 1)
    picture = colours[0] * _surface(rng, height, width, 0.12)[..., None]
    common = _fbm(rng, height, width, _log_uniform(rng, 60, 150), 0.55, 7)
    for index in range(1, layers + 1):
        field = 0.7 * common + _fbm(rng, height, width, _log_uniform(rng, 20, 100), rng.uniform(0.5, 0.8), 7)
        mask = _quantile_step(field, rng.uniform(0.1, 0.5) / np.sqrt(index), _log_uniform(rng, 0.05, 0.6))
        grain = _surface(rng, height, width, rng.uniform(0.1, 0.3))
        picture = picture * (1 - mask[..., None]) + (colours[index] * grain[..., None]) * mask[..., None]
        if rng.uniform() < 0.5:  # a dark or light border, as of a dried stain or lifted paint
            border = 4 * mask * (1 - mask)
            picture = picture * (1 + rng.uniform(-0.6, 0.3) * border[..., None])
    if rng.uniform() < 0.4:  # runs
        runs = _quantile_step(_fbm(rng, height, width, 10, 0.6, 3, stretch=0.7), 0.2, 0.8)
        runs = cv2.blur(runs, (1, 2 * max(1, round(24 * _scale(height, width))) + 1))
        picture = picture * (1 - rng.uniform(0.2, 0.6) * _unit(runs)[..., None])
    return np.stack([_unit(picture.mean(axis=2))] * 3, axis=2) * 0.35 + 0.65 * np.clip(picture, 0, 1)


def draw_grain(rng: Rng, height: int, width: int) -> Float:
    """Sand, gravel, sandpaper, terrazzo: grains from a pixel up to ten."""
    kind = rng.choice(["sand", "gravel", "terrazzo", "speckle"])
    scale = _scale(height, width)
    coarse = 0.3 * _fbm(rng, height, width, 110, 0.5, 5)
    if kind == "sand":
        noise = _blur(rng.standard_normal((height, width), dtype=np.float32), _log_uniform(rng, 0.5, 2.0), scale)
        values = _relief(rng, noise, rng.uniform(0.6, 1.5)) * (1 + 0.3 * coarse)
        values = values + rng.uniform(0, 0.25) * _smooth_noise(rng, height, width, 3)
    elif kind == "speckle":  # multiplicative, as of coherent light
        values = rng.exponential(1.0, (height, width)).astype(np.float32)
        values = _blur(values, _log_uniform(rng, 0.4, 1.6), scale) * np.exp(coarse)
        values = values ** np.float32(0.6)
    else:
        x, y = _rotated(rng, height, width)
        cell = _log_uniform(rng, 4, 14)
        x, y = _warped(rng, height, width, x, y, 0.3 * cell, cell)
        cells = _cells(rng, x, y, cell, 0.95)
        tone = cells.values(_random(rng, cells.n), 0.8)
        if kind == "gravel":
            dome = np.clip(cells.border / np.float32(0.4 * cell), 0, 1) ** np.float32(0.6)
            values = (0.35 + 0.65 * tone) * _relief(rng, dome, 1.0) * (0.25 + 0.75 * dome)
        else:
            chosen = cells.values((rng.uniform(size=cells.n) < rng.uniform(0.1, 0.5)).astype(np.float32), 0.8)
            values = 0.6 * (1 - chosen) + chosen * tone + 0.05 * _smooth_noise(rng, height, width, 1)
        values = values * (1 + 0.5 * coarse)
    return _unit(values.astype(np.float32))


def draw_gradients(rng: Rng, height: int, width: int) -> Float:
    """Smooth shading broken by edges: regions with a gradient each, as of folded sheets and coated parts."""
    x, y = _coordinates(height, width)
    values = np.full((height, width), 0.5, dtype=np.float32)
    for _ in range(int(rng.integers(4, 12))):
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-110, 110)
        line = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) - np.float32(offset)
        kind = rng.choice(["straight", "bent", "round"])
        if kind == "bent":
            across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
            line = line + np.float32(rng.uniform(5, 40)) * np.sin(
                across / np.float32(rng.uniform(25, 90)) + rng.uniform(0, 6)
            )
        elif kind == "round":
            cx, cy = rng.uniform(-120, 120, 2).astype(np.float32)
            line = np.float32(_log_uniform(rng, 15, 110)) - np.hypot(x - cx, y - cy)
        side = _step(line, 0.0, rng.choice([0.8, 0.8, 3.0, 12.0]))
        shade = (
            rng.uniform(0.1, 0.9) + rng.uniform(-0.6, 0.6) * np.tanh(line / np.float32(_log_uniform(rng, 15, 120)))
        ).astype(np.float32)
        values = values + rng.uniform(0.5, 1.0) * side * (shade - values)
    values = values + rng.uniform(0.005, 0.04) * _fbm(rng, height, width, 24, 0.8, 5)
    return _unit(values, 0.2, 99.8)


def draw_shapes(rng: Rng, height: int, width: int) -> Float:
    """Parts on a table: gears, rings, plates and polygons with a bevel, light and a shadow; in colour."""
    scale = _scale(height, width)
    colours = _colours(rng, 8)
    ground = _spectral_noise(rng, height, width, rng.uniform(0.8, 1.8))
    picture = np.clip(colours[0] * (1 + 0.15 * ground[..., None]), 0, 1)
    n = int(rng.integers(3, 9))
    largest = rng.uniform(35, 90) / np.sqrt(n / 4)
    azimuth = rng.uniform(0, 2 * np.pi)
    grain = _surface(rng, height, width, rng.uniform(0.04, 0.15))
    for index in range(n):
        radius = largest * rng.uniform(0.5, 1.1) * scale
        centre = rng.uniform([0, 0], [width, height])
        mask = np.zeros((height, width), dtype=np.uint8)
        _fill(
            mask,
            _outline(rng, radius, str(rng.choice(["gear", "disc", "polygon", "rectangle", "blob", "star"]))) + centre,
            255,
        )
        if rng.uniform() < 0.5:
            hole = _outline(rng, radius * rng.uniform(0.2, 0.55), str(rng.choice(["disc", "disc", "polygon"])))
            _fill(mask, hole + centre, 0)
        for angle in np.linspace(0, 2 * np.pi, int(rng.choice([0, 0, 4, 6])), endpoint=False):
            bolt = centre + 0.68 * radius * np.array([np.cos(angle), np.sin(angle)])
            _fill(mask, _outline(rng, 0.08 * radius, "disc") + bolt, 0)
        cover = mask.astype(np.float32) / 255
        soft = _blur(cover, _log_uniform(rng, 1.5, 6), scale)
        fall = rng.uniform(2, 8) * scale
        dx, dy = round(-np.cos(azimuth) * fall), round(-np.sin(azimuth) * fall)
        shadow = np.roll(soft, (dy, dx), axis=(0, 1)) * np.float32(rng.uniform(0.3, 0.7))
        slope_y, slope_x = np.gradient(_blur(cover, _log_uniform(rng, 0.8, 3), scale))
        bevel = -(slope_x * np.float32(np.cos(azimuth)) + slope_y * np.float32(np.sin(azimuth)))
        lit = (0.75 * grain - np.float32(3.0 * rng.uniform(0.3, 1)) * bevel)[..., None] * colours[1 + index % 7]
        picture = picture * (1 - (shadow * (1 - cover))[..., None])
        picture = picture * (1 - cover[..., None]) + np.clip(lit + 0.08, 0, 1) * cover[..., None]
    luminance = picture.mean(axis=2)
    bottom, top = np.percentile(luminance[::3, ::3], [1, 99])
    return np.clip((picture - bottom) / max(top - bottom, 0.15) * 0.9 + 0.05, 0, 1).astype(np.float32)


def draw_glyphs(rng: Rng, height: int, width: int) -> Float:
    """Lines of invented writing: stroke signs of one small alphabet, printed, stamped or engraved."""
    scale = _scale(height, width)
    size = _log_uniform(rng, 9, 48) * scale
    alphabet = []
    for _ in range(14):
        strokes = []
        for _ in range(int(rng.integers(2, 5))):
            if rng.uniform() < 0.7:
                strokes.append(rng.integers(0, 3, (int(rng.integers(2, 4)), 2)) / 2.0)
            else:
                start, sweep = rng.uniform(0, 2 * np.pi), rng.uniform(2, 6.2)
                angle = start + np.linspace(0, sweep, 10)
                strokes.append(np.column_stack([0.5 + 0.4 * np.cos(angle), 0.5 + 0.4 * np.sin(angle)]))
        alphabet.append(strokes)
    canvas = np.zeros((height, width), dtype=np.uint8)
    turn = rng.choice([0.0, 0.0, rng.normal(0, 0.1), rng.uniform(0, 2 * np.pi)])
    cos, sin = np.cos(turn), np.sin(turn)
    thickness = max(1.0, size * rng.uniform(0.06, 0.2))
    reach = 0.72 * float(np.hypot(height, width))
    slant = rng.uniform(-0.2, 0.3)
    line_step, word = size * rng.uniform(1.4, 2.2), float(rng.uniform(0.1, 0.25))
    for top in np.arange(-reach, reach, line_step):
        if rng.uniform() < 0.06:
            continue
        for left in np.arange(-reach, reach, size * 0.95):
            middle = np.array([(left * cos - top * sin) + width / 2, (left * sin + top * cos) + height / 2])
            if rng.uniform() < word or (middle < -size).any() or middle[0] > width + size or middle[1] > height + size:
                continue
            for stroke in alphabet[int(rng.integers(len(alphabet)))]:
                local = (stroke - 0.5) * [0.62 * size, size]
                local = local + np.column_stack([-slant * local[:, 1], np.zeros(len(local))])
                turned = local @ np.array([[cos, sin], [-sin, cos]])
                _line(canvas, turned + middle, 255, thickness)
    ink = _blur(canvas.astype(np.float32) / 255, rng.uniform(0.2, 1.0), scale)
    wear = np.clip(1.2 + rng.uniform(0, 0.7) * _fbm(rng, height, width, 40, 0.7, 6), 0, 1)
    ground = 0.5 + rng.uniform(0.05, 0.15) * _fbm(rng, height, width, 100, 0.65, 7)
    if rng.uniform() < 0.35:
        noise = 0.05 * _smooth_noise(rng, height, width, 2)
        values = _relief(rng, _blur(ink, 0.8, scale) + noise, 1.2) * (0.6 + 0.4 * ground)
    else:
        values = ground + rng.choice([-1, 1]) * rng.uniform(0.3, 0.6) * ink * wear
    return _unit(values.astype(np.float32), 0.2, 99.8)


def draw_reaction(rng: Rng, height: int, width: int) -> Float:
    """Spots and labyrinths of an activator and an inhibitor (Young 1984): differences of Gaussians, iterated."""
    scale = _scale(height, width)
    shrink = 2 if scale >= 0.75 else 1
    rows, columns = -(-height // shrink), -(-width // shrink)
    sigma = max(0.7, _log_uniform(rng, 1.2, 5.0) * scale / shrink)
    stretch = rng.choice([1.0, 1.0, rng.uniform(1.3, 2.2)])
    bias = rng.choice([-1, 1]) * rng.choice([0.0, rng.uniform(0.0, 0.3), rng.uniform(0.6, 1.2)])
    state = rng.standard_normal((rows, columns), dtype=np.float32)
    for _ in range(12):
        narrow = cv2.GaussianBlur(state, (0, 0), sigma, sigmaY=sigma * stretch)
        wide = cv2.GaussianBlur(state, (0, 0), 1.7 * sigma, sigmaY=1.7 * sigma * stretch)
        growth = narrow - wide
        state = np.tanh(growth * np.float32(1.6 / (growth.std() + 1e-9)) + np.float32(bias))
    state = cv2.resize(state, (width, height), interpolation=cv2.INTER_CUBIC)
    kind = rng.choice(["flat", "soft", "relief"])
    if kind == "flat":
        values = np.tanh(3 * state) * _surface(rng, height, width, 0.12)
    elif kind == "soft":
        values = state + 0.15 * _fbm(rng, height, width, 60, 0.6, 6)
    else:
        fine = 0.03 * _smooth_noise(rng, height, width, 2)
        values = _relief(rng, _blur(state, 1.0, scale) + fine, 1.0) * (0.8 + 0.2 * state)
    return _unit(values.astype(np.float32), 0.2, 99.8)


def draw_crystals(rng: Rng, height: int, width: int) -> Float:
    """Crystals and metal grain: facets with a tone, a gradient and twin lamellae each."""
    x, y = _rotated(rng, height, width)
    cell = _log_uniform(rng, 16, 80)
    stretch = _log_uniform(rng, 0.3, 1)
    total = np.zeros((height, width), dtype=np.float32)
    for level in range(int(rng.integers(1, 4))):
        size = cell / 2.2**level
        cells = _cells(rng, x, y * np.float32(stretch), size, 0.95)
        turn = _random(rng, cells.n, 0, 2 * np.pi)
        tone = _random(rng, cells.n, -0.6, 0.6)
        steep = np.float32(rng.uniform(0.2, 0.8) / size)
        slope = cells.dx * (np.cos(turn) * steep)[cells.number] + cells.dy * (np.sin(turn) * steep)[cells.number]
        soft = np.clip(cells.border / 1.0, 0, 1)
        facet = cells.values(tone) + slope * soft
        if level == 0 and rng.uniform() < 0.5:
            period = _random(rng, cells.n, 3, 9)
            along = cells.dx * np.cos(turn + 1)[cells.number] + cells.dy * np.sin(turn + 1)[cells.number]
            facet = facet + 0.15 * np.tanh(2 * np.sin(2 * np.pi * along / period[cells.number])) * soft
        total += np.float32(0.6**level) * facet
        if level == 0:
            edge = np.float32(rng.uniform(-0.4, 0.4)) * np.clip(1 - cells.border / 1.2, 0, 1)
            total += edge
    return _unit(total * (1 + 0.05 * _fbm(rng, height, width, 16, 0.8, 5)))


def draw_moire(rng: Rng, height: int, width: int) -> Float:
    """Moire: two or three gratings or ring patterns of nearly the same period on top of each other."""
    period = _log_uniform(rng, 4, 16)
    kind = rng.choice(["lines", "rings", "grids"])
    angle = rng.uniform(0, np.pi)
    values = np.ones((height, width), dtype=np.float32)
    for _ in range(int(rng.integers(2, 4))):
        own = period * rng.uniform(0.88, 1.12)
        x, y = _rotated(rng, height, width, angle + rng.normal(0, 0.12))
        if kind == "rings":
            x, y = _coordinates(height, width)
            cx, cy = rng.uniform(-90, 90, 2).astype(np.float32)
            x = np.hypot(x - cx, y - cy)
        elif rng.uniform() < 0.5:
            x, y = _warped(rng, height, width, x, y, rng.uniform(1, 8), 110)
        grating = _wave(rng, x / np.float32(own), "square", rng.uniform(0.8, 0.35 * own))
        if kind == "grids":
            grating = grating * _wave(rng, y / np.float32(own), "square", rng.uniform(0.8, 0.35 * own))
        values = values * (0.25 + 0.75 * grating) if rng.uniform() < 0.7 else np.abs(values - grating)
    return _unit(values * _surface(rng, height, width, rng.uniform(0.03, 0.15)), 0.2, 99.8)


def draw_mesh(rng: Rng, height: int, width: int) -> Float:
    """Wire mesh, expanded metal, chain link: bars with round light over a background out of focus."""
    x, y = _rotated(rng, height, width)
    x, y = _warped(rng, height, width, x, y, rng.choice([0.0, 1.0, 4.0]), 70)
    pitch = _log_uniform(rng, 12, 50)
    kind = rng.choice(["wires", "hexagons", "diamonds"])
    if kind == "hexagons":
        cells = _cells(rng, x, y * np.float32(2 / np.sqrt(3)), pitch, rng.choice([0.0, 0.2]), brick=0.5)
        distance = cells.border
    else:
        v = y if kind == "wires" else y * np.float32(rng.uniform(0.4, 0.7)) + x
        u = x if kind == "wires" else x - y * np.float32(rng.uniform(0.4, 0.7))
        u, v = u / np.float32(pitch), v / np.float32(pitch)
        distance = np.minimum(np.abs(u - np.round(u)), np.abs(v - np.round(v))) * np.float32(pitch)
    half = pitch * rng.uniform(0.06, 0.2) + 0.6
    t = distance / np.float32(half)
    wire = np.sqrt(np.clip(1 - t * t, 0, 1))
    cover = np.clip((half - distance) / 1.2 + 0.5, 0, 1)
    back = _blur(_spectral_noise(rng, height, width, 1.8), 2.0, _scale(height, width))
    back = 0.3 + rng.uniform(0.05, 0.2) * back
    bars = (0.3 + 0.6 * wire) * _surface(rng, height, width, rng.uniform(0.05, 0.2))
    if rng.uniform() < 0.5:
        bars = bars * _relief(rng, (wire * half).astype(np.float32), 0.8)
    shadow = np.roll(
        _blur(cover.astype(np.float32), 2.5, _scale(height, width)), max(1, round(3 * _scale(height, width))), axis=0
    )
    values = back * (1 - 0.6 * shadow) * (1 - cover) + bars * cover
    values = _unit(values.astype(np.float32), 0.2, 99.8)
    return 1 - values if rng.uniform() < 0.25 else values


def draw_ripples(rng: Rng, height: int, width: int) -> Float:
    """Ripples: waves from several centres added, crumpled foil and hammered sheet, lit from the side."""
    x, y = _coordinates(height, width)
    if rng.uniform() < 0.5:
        surface = np.zeros((height, width), dtype=np.float32)
        for _ in range(int(rng.integers(2, 7))):
            cx, cy = rng.uniform(-260, 260, 2).astype(np.float32)
            period = np.float32(_log_uniform(rng, 8, 50))
            surface += np.sin(np.hypot(x - cx, y - cy) * (np.float32(2 * np.pi) / period)) * period
        surface += 4 * _fbm(rng, height, width, 50, 0.5, 5)
    else:
        cell = _log_uniform(rng, 14, 60)
        surface = np.zeros((height, width), dtype=np.float32)
        for level in range(2):
            wx, wy = _rotated(rng, height, width)
            cells = _cells(rng, wx, wy, cell / 2**level, 0.95)
            folds = cells.nearest if rng.uniform() < 0.5 else cells.second - cells.nearest
            surface += folds * np.float32(0.6**level)
        surface = _blur(surface, _log_uniform(rng, 0.6, 3), _scale(height, width))
        surface += rng.uniform(0.1, 0.6) * _fbm(rng, height, width, 20, 0.6, 5)
    light = _relief(rng, surface, rng.uniform(0.7, 1.6))
    return _unit(light + rng.uniform(0, 0.3) * _unit(surface))


FAMILIES: dict[str, Family] = {
    "spectral": draw_spectral,
    "stripes": draw_stripes,
    "cells": draw_cells,
    "mosaic": draw_mosaic,
    "leaves": draw_leaves,
    "fractal": draw_fractal,
    "fabric": draw_fabric,
    "knit": draw_knit,
    "scratches": draw_scratches,
    "fibres": draw_fibres,
    "marble": draw_marble,
    "wood": draw_wood,
    "brushed": draw_brushed,
    "cracks": draw_cracks,
    "tiles": draw_tiles,
    "dots": draw_dots,
    "bubbles": draw_bubbles,
    "rust": draw_rust,
    "grain": draw_grain,
    "gradients": draw_gradients,
    "shapes": draw_shapes,
    "glyphs": draw_glyphs,
    "reaction": draw_reaction,
    "crystals": draw_crystals,
    "moire": draw_moire,
    "mesh": draw_mesh,
    "ripples": draw_ripples,
}


# ---------------------------------------------------------------------------------------------------------------------
# Whole pictures


def _luminance(picture: Float) -> Float:
    return picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _draw_family(rng: Rng, name: str, height: int, width: int) -> Float:
    """One texture of a family in colour, (H, W, 3)."""
    texture = FAMILIES[name](rng, height, width)
    return texture if texture.ndim == 3 else _paint(rng, texture).astype(np.float32)


def _other(rng: Rng, height: int, width: int) -> Float:
    """Another texture to mix in: any family."""
    return _draw_family(rng, str(rng.choice(list(FAMILIES))), height, width)


def _mix_mask(rng: Rng, first: Float, second: Float) -> Float:
    """One texture through the holes of another."""
    height, width = first.shape[:2]
    if rng.uniform() < 0.5:
        mask_field = _fbm(rng, height, width, _log_uniform(rng, 30, 150), rng.uniform(0.4, 0.65), 6)
    else:
        mask_field = _luminance(second)
    mask = _quantile_step(mask_field, rng.uniform(0.25, 0.7), _log_uniform(rng, 0.05, 0.6))[..., None]
    return first * (1 - mask) + second * mask


def _mix_patchwork(rng: Rng, first: Float, second: Float) -> Float:
    """Pieces of two textures side by side: Voronoi pieces or rectangles, each with a gain of its own."""
    height, width = first.shape[:2]
    x, y = _rotated(rng, height, width, rng.choice([0.0, rng.uniform(0, np.pi)]))
    cells = _cells(rng, x, y, _log_uniform(rng, 40, 130), rng.choice([0.0, 0.9]))
    which = cells.values((rng.uniform(size=cells.n) < 0.5).astype(np.float32))[..., None]
    gain = cells.values(_random(rng, cells.n, 0.6, 1.0))[..., None]
    return (first * (1 - which) + second * which) * gain


def _mix_overlay(rng: Rng, first: Float, second: Float) -> Float:
    """Multiply, screen or overlay, as layers are laid on each other."""
    kind = rng.choice(["multiply", "screen", "overlay", "average"])
    if kind == "multiply":
        return first * (0.25 + 0.75 * second)
    if kind == "screen":
        return 1 - (1 - first) * (1 - 0.7 * second)
    if kind == "average":
        share = rng.uniform(0.3, 0.7)
        return (share * first + (1 - share) * second).astype(np.float32)
    soft = _step(first, 0.5, 0.2)
    return 2 * first * second * (1 - soft) + (1 - 2 * (1 - first) * (1 - second)) * soft


def _mix_depth(rng: Rng, first: Float, second: Float) -> Float:
    """Objects of the first texture in front of the second, which is out of focus and in their shadow."""
    height, width = first.shape[:2]
    scale = _scale(height, width)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        kind = str(rng.choice(["disc", "polygon", "blob", "rectangle", "star", "gear", "ellipse"]))
        centre = rng.uniform([0, 0], [width, height])
        _fill(mask, _outline(rng, _log_uniform(rng, 15, 80) * scale, kind) + centre, 255)
    cover = mask.astype(np.float32) / 255
    shift = rng.normal(0, 4 * scale, 2).round().astype(int)
    shadow = np.roll(_blur(cover, _log_uniform(rng, 2, 8), scale), tuple(shift), axis=(0, 1))
    behind = _blur(second, rng.choice([0.0, rng.uniform(1, 5)]), scale) * (
        1 - rng.uniform(0.2, 0.7) * shadow[..., None]
    )
    return behind * (1 - cover[..., None]) + first * cover[..., None]


def _mix_relief(rng: Rng, first: Float, second: Float) -> Float:
    """The colours of the first on the surface of the second."""
    surface = _blur(_luminance(second), _log_uniform(rng, 0.6, 3.0), _scale(*first.shape[:2]))
    return first * (0.15 + _relief(rng, surface, rng.uniform(0.6, 1.3)))[..., None]


def _mix_scales(rng: Rng, first: Float, second: Float) -> Float:
    """The coarse part of one and the fine part of the other."""
    sigma, scale = _log_uniform(rng, 3, 16), _scale(*first.shape[:2])
    return _blur(first, sigma, scale) + rng.uniform(0.6, 1.2) * (second - _blur(second, sigma, scale))


def _mix_warp(rng: Rng, first: Float, second: Float) -> Float:
    """The first seen through the uneven glass of the second, with a little of the second's light."""
    height, width = first.shape[:2]
    scale = _scale(height, width)
    field = _blur(_luminance(second), _log_uniform(rng, 2, 8), scale)
    slope_y, slope_x = np.gradient(field)
    spread = float(np.sqrt((slope_x**2 + slope_y**2).mean())) + 1e-6
    push = rng.uniform(2, 7) * scale / spread
    rows = np.arange(height)[:, None] + push * slope_y
    columns = np.arange(width)[None] + push * slope_x
    # Not cv2.remap: it rounds coordinates to 1/32 pixel, which is no continuous function of them.
    bent = [
        ndimage.map_coordinates(first[..., channel], [rows, columns], order=1, mode="mirror") for channel in range(3)
    ]
    return (np.stack(bent, axis=-1) * (0.8 + 0.4 * field[..., None])).astype(np.float32)


_MIXES: tuple[tuple[Callable[[Rng, Float, Float], Float], float], ...] = (
    (_mix_mask, 0.25),
    (_mix_patchwork, 0.14),
    (_mix_overlay, 0.17),
    (_mix_depth, 0.14),
    (_mix_relief, 0.12),
    (_mix_scales, 0.1),
    (_mix_warp, 0.08),
)


def _mix(rng: Rng, first: Float) -> Float:
    height, width = first.shape[:2]
    shares = np.array([share for _, share in _MIXES])
    for _ in range(2 if rng.uniform() < 0.15 else 1):
        second = _other(rng, height, width)
        mixer = _MIXES[int(rng.choice(len(_MIXES), p=shares / shares.sum()))][0]
        first = mixer(rng, first, second) if rng.uniform() < 0.7 else mixer(rng, second, first)
        first = np.clip(first, 0, 1).astype(np.float32)
    return first


def _light(rng: Rng, picture: Float) -> Float:
    """Uneven light: a slope, a lamp or a vignette; sometimes coloured."""
    height, width = picture.shape[:2]
    x, y = _coordinates(height, width)
    kind = rng.choice(["slope", "lamp", "shadow"])
    if kind == "slope":
        angle = rng.uniform(0, 2 * np.pi)
        field = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / 180
    elif kind == "lamp":
        cx, cy = rng.uniform(-160, 160, 2).astype(np.float32)
        reach = np.float32(_log_uniform(rng, 50, 200))
        field = 2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * reach * reach)) - 1
    else:
        field = 2 * _quantile_step(_smooth_noise(rng, height, width, 128), rng.uniform(0.4, 0.8), 0.5) - 1
    colour = 1 + rng.choice([0.0, 0.15]) * rng.uniform(-1, 1, 3)
    return picture * np.exp(np.float32(rng.uniform(0.1, 0.55)) * field[..., None] * colour.astype(np.float32))


def _photograph(rng: Rng, picture: Float, grey: bool) -> NDArray[np.uint8]:
    """Light, levels, gamma, blur, colour or grey, noise; 8 bits."""
    height, width = picture.shape[:2]
    scale = _scale(height, width)
    if rng.uniform() < 0.5:
        picture = _light(rng, picture)
    if grey:
        weights = rng.dirichlet([3, 4, 2]).astype(np.float32)
        picture = (picture @ weights)[..., None]
    if rng.uniform() < 0.25:
        picture = np.atleast_3d(_blur(picture, _log_uniform(rng, 0.3, 2.0), scale))
    # Levels: a known range is filled, whatever came before, so that no picture is flat or burnt out.
    sample = picture[::3, ::3].mean(axis=2)
    bottom, top = np.percentile(sample, [0.5, 99.5])
    contrast = rng.uniform(0.45, 1.0)
    low = rng.uniform(0, 1 - contrast)
    picture = (picture - np.float32(bottom)) / np.float32(max(top - bottom, 1e-3))
    if not grey:
        middle = picture.mean(axis=2, keepdims=True)
        picture = middle + np.clip(picture - middle, -0.6, 0.6)
    picture = np.clip(picture, 0, 1) ** np.float32(_log_uniform(rng, 0.6, 1.6))
    picture = np.float32(low) + np.float32(contrast) * picture
    if rng.uniform() < 0.5:
        sigma = _log_uniform(rng, 0.004, 0.04)
        noise = rng.standard_normal((height, width, 1 if grey or rng.uniform() < 0.5 else 3), dtype=np.float32)
        picture = picture + np.float32(sigma) * noise
    picture = np.clip(picture, 0, 1)
    if grey:
        picture = np.repeat(picture, 3, axis=2)
    return np.round(picture * 255).astype(np.uint8)


def draw_texture(
    seed: int | Sequence[int],
    size: int | tuple[int, int] = 256,
    *,
    family: str | None = None,
    mix: float = 0.5,
    grey: float | None = None,
) -> NDArray[np.uint8]:
    """Draw one texture.

    Args:
        seed: a number or several, none negative. ``5`` and ``(5,)`` give the same picture, ``(5, 0)`` another.
        size: side in pixels, or (height, width); 16 or more.
        family: a name in `FAMILIES`; by default one is drawn from the seed.
        mix: probability that the texture is mixed with one or two others of any family.
        grey: probability that the three channels are equal; 0.35 by default.

    Returns:
        uint8, (H, W, 3), RGB. The same for the same arguments to within one grey level on every machine.

    Raises:
        ValueError: for an unknown family, a negative seed, a size under 16 or a probability outside 0 .. 1.
    """
    numbers = (seed,) if isinstance(seed, int | np.integer) else tuple(seed)
    if not numbers or any(number < 0 for number in numbers):
        raise ValueError(f"seed={seed} must be one or more numbers that are not negative")
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    if min(height, width) < MINIMUM_SIZE:
        raise ValueError(f"size={size} is too small for a texture; use {MINIMUM_SIZE} or more")
    grey = GREY_SHARE if grey is None else grey
    for name, share in (("mix", mix), ("grey", grey)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} is a probability; give a number from 0 to 1")
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown; choose one of {', '.join(FAMILIES)}")
    # numpy gives 5 and (5, 0) one state; with the count in front they differ.
    rng = np.random.default_rng([len(numbers), *(int(number) for number in numbers)])
    drawn = list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    is_mixed, is_grey = rng.uniform() < mix, rng.uniform() < grey
    # One stream a stage: the base stays the same texture with and without mixing and colour.
    base_rng, mix_rng, photo_rng = rng.spawn(3)
    picture = _draw_family(base_rng, family or drawn, int(height), int(width))
    if is_mixed:
        picture = _mix(mix_rng, picture)
    return _photograph(photo_rng, picture, is_grey)


@dataclass(frozen=True)
class TextureBank:
    """Endless sequence of textures: ``bank[i]`` for any i from 0 on, the same every time.

    ``bank[i]`` is ``draw_texture((seed, i), size, family=families[i % len(families)], mix=mix, grey=grey)``: the
    families take turns. Nothing is kept in memory.

    Attributes:
        seed: the bank's number, not negative.
        size: side in pixels, or (height, width).
        families: names in `FAMILIES`; None for all.
        mix: see `draw_texture`.
        grey: see `draw_texture`.
    """

    seed: int = 0
    size: int | tuple[int, int] = 256
    families: Sequence[str] | None = None
    mix: float = 0.5
    grey: float | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in FAMILIES]
        if unknown or not self.names:
            raise ValueError(f"families={self.families}: choose from {', '.join(FAMILIES)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The families in their order."""
        return tuple(FAMILIES if self.families is None else self.families)

    def family(self, index: int) -> str:
        """Name of the family of picture ``index``."""
        return self.names[index % len(self.names)]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Picture ``index``: uint8, (H, W, 3), RGB. IndexError for a negative index: there is no last picture."""
        index = int(index)
        if index < 0:
            raise IndexError(f"index {index}: the bank has no end to count back from; use 0 or more")
        return draw_texture((self.seed, index), self.size, family=self.family(index), mix=self.mix, grey=self.grey)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The pictures from 0 on; this never ends."""
        return (self[index] for index in itertools.count())


def write_textures(folder: Path | str, n: int, *, size: int | tuple[int, int] = 256, seed: int = 0) -> Path:
    """Write pictures 0 .. n - 1 of a bank as ``<family>/0000.png``, a folder for DRAEM's or GLASS's anomaly source.

    The folder is written beside its place and renamed when complete, with its parameters in ``textures.json``.

    Args:
        folder: where; it may exist only if it was written with the same parameters, and then is left as it is.
        n: number of pictures in all; the families take turns.
        size: side in pixels, or (height, width).
        seed: of the bank.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder exists and was not written with these parameters.
        ValueError: n is not positive, or see `draw_texture`.
    """
    folder = Path(folder)
    if n < 1:
        raise ValueError(f"n={n} must be 1 or more")
    height, width = (size, size) if isinstance(size, int | np.integer) else size
    info = {
        "version": VERSION,
        "n": int(n),
        "size": [int(height), int(width)],
        "seed": int(seed),
        "families": [*FAMILIES],
    }
    if folder.exists():
        if _read_info(folder) == info:
            return folder
        raise FileExistsError(
            f"{folder} exists and was not written with these parameters (see its textures.json); "
            "remove it or choose another folder"
        )
    bank = TextureBank(seed=seed, size=(int(height), int(width)))

    def write(partial: Path) -> None:
        for index in progress(range(n), f"textures in {folder.name}"):
            path = partial / bank.family(index) / f"{index // len(bank.names):04d}.png"
            path.parent.mkdir(exist_ok=True)
            # Encoded in memory: cv2.imwrite cannot open paths with letters outside the code page on Windows.
            path.write_bytes(cv2.imencode(".png", bank[index][..., ::-1])[1].tobytes())
        (partial / "textures.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    write_whole_folder(folder, write)
    return folder


def _read_info(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "textures.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: write a folder of textures."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.pictures.textures", description="Write procedural textures, one folder a family."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--n", type=int, default=200, help="number of pictures (200)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (256)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (0)")
    options = parser.parse_args(arguments)
    try:
        folder = write_textures(options.out, options.n, size=options.size, seed=options.seed)
    except (FileExistsError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{options.n} textures in {folder}")


if __name__ == "__main__":
    main()
