"""Draws woven wire: round wires over and under each other, and what can go wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from helpers.pictures.scene import (
    REFERENCE_SIZE,
    CameraStyle,
    Defect,
    Drawing,
    Float,
    Points,
    Seed,
    apart,
    blob_radii,
    defects_mask,
    feret_diameter,
    inside,
    pixel_centres,
    polygon_area,
    polygon_coverage,
    polyline_length,
    random_states,
    smooth_noise,
    smoothstep,
    stroke_polygon,
    take_photo,
)

AREA_SHARE = (0.0006, 0.029)  # of the picture, a little inside 0.05 % to 3 %


@dataclass(frozen=True)
class MeshStyle:
    """How the mesh looks and how much it varies. Lengths in pixels of a 256 pixel picture."""

    weave: str = "plain"  # "plain" (over one, under one) or "twill" (over two, under two)
    pitch: float = 16.0  # distance of neighbouring wires
    pitch_spread: float = 0.03  # standard deviation of the pitch of a photo, relative
    wire_diameter: float = 7.4
    diameter_spread: float = 0.03  # standard deviation, relative
    rotation: float = 4.0  # largest rotation in degrees, either way
    spacing_wobble: float = 0.30  # standard deviation of a wire's distance from its place
    wave_amplitude: float = 0.32  # standard deviation of the amplitude of a wire's slow sideways wave
    wire_tone: float = 0.045  # standard deviation of the brightness from wire to wire, relative
    streaks: float = 0.06  # standard deviation of the brightness along a wire, relative
    light_azimuth: float = 25.0  # largest turn of the light in degrees, either way
    two_defects: float = 0.15  # share of defect photos with a second defect of the same type
    gap_length: tuple[float, float] = (1.4, 3.6)  # broken strand: length of the gap in pitches
    hole_radius: tuple[float, float] = (0.65, 1.35)  # hole: mean radius in pitches
    shift: tuple[float, float] = (0.37, 0.53)  # shifted strand: sideways in pitches
    shift_length: tuple[float, float] = (3.2, 6.0)  # shifted strand: length in pitches
    particle_radius: tuple[float, float] = (5.0, 10.5)  # contamination: mean radius of a particle
    fibre_length: tuple[float, float] = (32.0, 76.0)  # contamination: length of a fibre
    fibre_width: tuple[float, float] = (2.6, 3.8)
    contamination_opacity: tuple[float, float] = (0.82, 0.97)
    camera: CameraStyle = field(default_factory=CameraStyle)


@dataclass
class _Wires:
    """The parallel wires of one direction; index 0 is the wire with number ``first``."""

    pitch: float
    phase: float
    first: int
    offset: Float
    amplitude: Float
    frequency: Float
    wave_phase: Float
    tone: Float
    streaks: Float  # (number of wires, length along the wire)

    def centre(self, number: int, along: np.ndarray) -> np.ndarray:
        """Position across of wire ``number`` at places along it."""
        i = number - self.first
        wave = self.amplitude[i] * np.sin(self.frequency[i] * along + self.wave_phase[i])
        return (number + self.phase) * self.pitch + self.offset[i] + wave


@dataclass
class _Edits:
    """What the defects change in the weave."""

    cuts: list[tuple[int, int, float, float]] = field(default_factory=list)  # direction, wire, from, to
    shifts: list[tuple[int, int, float, float, float]] = field(default_factory=list)  # ..., amount
    holes: list[tuple[Points, Points, int]] = field(default_factory=list)  # centre, radii, seed of the ragged ends
    overlays: list[tuple[Points, Float, float, bool]] = field(default_factory=list)  # polygon, colour, opacity, solid


@dataclass
class _Weave:
    """One mesh, in its own coordinates: u across the wires of direction 0, v across those of direction 1."""

    shape: tuple[int, int]
    scale: float
    angle: float
    diameter: float
    wires: tuple[_Wires, _Wires]
    style: MeshStyle

    def to_xy(self, u: np.ndarray, v: np.ndarray) -> Points:
        """Picture coordinates (N, 2) of places in the weave."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.column_stack([c * u - s * v + self.shape[1] / 2, s * u + c * v + self.shape[0] / 2])

    def to_uv(self, x: Float, y: Float) -> tuple[Float, Float]:
        """Weave coordinates of places in the picture."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        x, y = x - np.float32(self.shape[1] / 2), y - np.float32(self.shape[0] / 2)
        return c * x + s * y, -s * x + c * y

    def line(self, direction: int, across: np.ndarray, along: np.ndarray) -> Points:
        """Picture coordinates (N, 2) of places given across and along the wires of a direction."""
        return self.to_xy(across, along) if direction == 0 else self.to_xy(along, across)


def _shift_profile(along: np.ndarray, start: float, stop: float, pitch: float) -> np.ndarray:
    """Share of the full sideways shift: 0 outside, 1 in the middle, smooth flanks of one pitch."""
    return smoothstep((along - start) / pitch) * smoothstep((stop - along) / pitch)


def _draw_wires(rng: np.random.Generator, style: MeshStyle, size: int, scale: float) -> _Wires:
    pitch = style.pitch * scale * (1 + np.clip(rng.normal(0, style.pitch_spread), -0.08, 0.08))
    first = -int(0.75 * size / pitch) - 3
    n = -2 * first + 1
    length = int(1.6 * size) + 8
    streaks = cv2.GaussianBlur(
        rng.standard_normal((n, length), dtype=np.float32), (0, 0), 2.0 * scale + 0.3, sigmaY=0.01
    )
    streaks *= style.streaks / max(float(streaks.std()), 1e-6)
    wobble = np.clip(rng.normal(0, style.spacing_wobble, n), -2.5 * style.spacing_wobble, 2.5 * style.spacing_wobble)
    return _Wires(
        pitch=pitch,
        phase=rng.uniform(0, 1),
        first=first,
        offset=(wobble * scale).astype(np.float32),
        amplitude=(np.clip(rng.normal(0, style.wave_amplitude, n), -1.2, 1.2) * scale).astype(np.float32),
        frequency=(2 * np.pi / (rng.uniform(90, 260, n) * scale)).astype(np.float32),
        wave_phase=rng.uniform(0, 2 * np.pi, n).astype(np.float32),
        tone=(1 + rng.normal(0, style.wire_tone, n)).astype(np.float32),
        streaks=streaks,
    )


# --- defects: each looks for a place and says what changes and what is recorded -------------------------


def _pick_wire(rng: np.random.Generator, weave: _Weave) -> tuple[int, int, float]:
    """A direction, a wire in the picture and a place along it."""
    direction = int(rng.integers(2))
    half = 0.42 * weave.shape[0]
    number = int(np.round(rng.uniform(-half, half) / weave.wires[direction].pitch))
    return direction, number, rng.uniform(-half, half)


def _broken_strand(rng: np.random.Generator, weave: _Weave, edits: _Edits) -> Defect:
    direction, number, middle = _pick_wire(rng, weave)
    wires = weave.wires[direction]
    length = rng.uniform(*weave.style.gap_length) * wires.pitch
    along = np.linspace(middle - length / 2, middle + length / 2, 24)
    centreline = weave.line(direction, wires.centre(number, along), along)
    edits.cuts.append((direction, number, along[0], along[-1]))
    outline = stroke_polygon(centreline, weave.diameter)
    return Defect("broken_strand", outline, polyline_length(centreline), "centreline")


def _shifted_strand(rng: np.random.Generator, weave: _Weave, edits: _Edits) -> Defect:
    direction, number, middle = _pick_wire(rng, weave)
    wires = weave.wires[direction]
    length = rng.uniform(*weave.style.shift_length) * wires.pitch
    amount = rng.choice([-1, 1]) * rng.uniform(*weave.style.shift) * wires.pitch
    start, stop = middle - length / 2, middle + length / 2
    edits.shifts.append((direction, number, start, stop, amount))
    along = np.linspace(start, stop, 64)
    moved = amount * _shift_profile(along, start, stop, wires.pitch)
    keep = np.abs(moved) >= 0.12 * abs(amount)  # the feet of the flanks are not visibly out of place
    along, moved, old = along[keep], moved[keep], wires.centre(number, along[keep])
    half = weave.diameter / 2
    low = np.minimum(old, old + moved) - half
    high = np.maximum(old, old + moved) + half
    outline = np.concatenate([weave.line(direction, low, along), weave.line(direction, high, along)[::-1]])
    return Defect("shifted_strand", outline, polyline_length(weave.line(direction, old + moved, along)), "centreline")


def _hole(rng: np.random.Generator, weave: _Weave, edits: _Edits) -> Defect:
    half = 0.40 * weave.shape[0]
    centre = np.array([weave.shape[1] / 2, weave.shape[0] / 2]) + rng.uniform(-half, half, 2)
    radii = rng.uniform(*weave.style.hole_radius) * weave.style.pitch * weave.scale * blob_radii(rng, 0.28)
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    outline = centre + radii[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    edits.holes.append((centre, radii, int(rng.integers(2**31))))
    return Defect("hole", outline, feret_diameter(outline), "feret")


def _contamination(rng: np.random.Generator, weave: _Weave, edits: _Edits) -> Defect:
    style, scale = weave.style, weave.scale
    half = 0.42 * weave.shape[0]
    centre = np.array([weave.shape[1] / 2, weave.shape[0] / 2]) + rng.uniform(-half, half, 2)
    opacity = rng.uniform(*style.contamination_opacity)
    if rng.random() < 0.5:
        length = rng.uniform(*style.fibre_length) * scale
        bend = rng.uniform(-1.1, 1.1) + np.linspace(-1, 1, 40) * rng.uniform(-0.9, 0.9)
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend) / 40
        steps = np.column_stack([np.cos(heading), np.sin(heading)]) * (length / 39)
        centreline = np.cumsum(steps, axis=0)
        centreline += centre - centreline.mean(axis=0)
        width = np.full(40, max(rng.uniform(*style.fibre_width) * scale, 1.8))
        width[[0, -1]] *= 0.6
        outline = stroke_polygon(centreline, width)
        colour = np.array([[0.93, 0.91, 0.86], [0.08, 0.07, 0.09], [0.55, 0.16, 0.12]])[rng.integers(3)]
        edits.overlays.append((outline, colour.astype(np.float32), opacity, False))
        return Defect("contamination", outline, polyline_length(centreline), "centreline")
    radii = rng.uniform(*style.particle_radius) * scale * blob_radii(rng, 0.40)
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    squeeze = rng.uniform(0.65, 1.0)
    local = radii[:, None] * np.column_stack([np.cos(angle), squeeze * np.sin(angle)])
    turn = rng.uniform(0, np.pi)
    outline = centre + local @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    colour = np.array([[0.12, 0.10, 0.08], [0.46, 0.27, 0.14], [0.80, 0.78, 0.72]])[rng.integers(3)]
    edits.overlays.append((outline, colour.astype(np.float32), opacity, True))
    return Defect("contamination", outline, feret_diameter(outline), "feret")


MESH_DEFECTS: dict[str, Callable[[np.random.Generator, _Weave, _Edits], Defect]] = {
    "broken_strand": _broken_strand,
    "hole": _hole,
    "shifted_strand": _shifted_strand,
    "contamination": _contamination,
}


def _place_defects(rng: np.random.Generator, weave: _Weave, defect_type: str) -> tuple[list[Defect], _Edits]:
    edits, defects = _Edits(), []
    wanted = 2 if rng.random() < weave.style.two_defects else 1
    area = weave.shape[0] * weave.shape[1]
    for attempt in range(200):
        if len(defects) == wanted or (defects and attempt >= 60):
            break
        trial = _Edits()
        defect = MESH_DEFECTS[defect_type](rng, weave, trial)
        share = polygon_area(defect.polygon) / area
        if (
            AREA_SHARE[0] <= share <= AREA_SHARE[1]
            and inside(defect.polygon, weave.shape, 4 * weave.scale)
            and apart(defect.polygon, defects, weave.style.pitch * weave.scale)
        ):
            defects.append(defect)
            for name in ("cuts", "shifts", "holes", "overlays"):
                getattr(edits, name).extend(getattr(trial, name))
    if not defects:
        raise RuntimeError(f"no place found for a defect of type {defect_type!r}; check the sizes in MeshStyle")
    return defects, edits


# --- the picture ----------------------------------------------------------------------------------------


@dataclass
class _Layer:
    coverage: Float
    height: Float
    tone: Float
    gloss: Float


def _hole_factor(edits: _Edits, number: np.ndarray, direction: int, x: Float, y: Float) -> Float | None:
    """Share of the wire that is left, with ends that stick out a little differently from wire to wire."""
    factor = None
    for centre, radii, seed in edits.holes:
        dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
        angle = np.arctan2(dy, dx) % (2 * np.pi) / (2 * np.pi) * len(radii)
        closed = np.append(radii, radii[0]).astype(np.float32)
        edge = np.interp(angle, np.arange(len(closed)), closed).astype(np.float32)
        ragged = np.random.default_rng([seed, direction]).uniform(0.80, 1.0, 64).astype(np.float32)
        left = np.clip(np.hypot(dx, dy) - edge * ragged[number % 64] + 0.5, 0, 1)
        factor = left if factor is None else factor * left
    return factor


def _layer(weave: _Weave, direction: int, edits: _Edits, light: np.ndarray, x: Float, y: Float) -> _Layer:
    """The wires of one direction: coverage, height of the surface, brightness."""
    style, wires, other = weave.style, weave.wires[direction], weave.wires[1 - direction]
    u, v = weave.to_uv(x, y)
    across, along = (u, v) if direction == 0 else (v, u)
    base = np.floor(across / np.float32(wires.pitch) - np.float32(wires.phase)).astype(np.int32)
    distance = number = None
    for candidate in (base, base + 1):
        i = candidate - wires.first
        wave = wires.amplitude[i] * np.sin(wires.frequency[i] * along + wires.wave_phase[i])
        centre = (candidate + np.float32(wires.phase)) * np.float32(wires.pitch) + wires.offset[i] + wave
        for d, k, start, stop, amount in edits.shifts:
            if d == direction:
                centre += np.where(candidate == k, amount * _shift_profile(along, start, stop, wires.pitch), 0)
        offset = (across - centre).astype(np.float32)
        if distance is None:
            distance, number = offset, candidate
        else:
            nearer = np.abs(offset) < np.abs(distance)
            distance, number = np.where(nearer, offset, distance), np.where(nearer, candidate, number)
    radius = np.float32(weave.diameter / 2)
    coverage = np.clip(radius - np.abs(distance) + np.float32(0.5), 0, 1)
    for d, k, start, stop in edits.cuts:
        if d == direction:
            gap = np.clip(along - start + 0.5, 0, 1) * np.clip(stop - along + 0.5, 0, 1)
            coverage = coverage * np.where(number == k, 1 - gap, 1).astype(np.float32)
    left = _hole_factor(edits, number, direction, x, y)
    if left is not None:
        coverage = coverage * left

    # Plain weave: up at every second crossing wire. Twill: up at two, down at two.
    turn = np.pi if style.weave == "plain" else np.pi / 2
    lag = 0.0 if style.weave == "plain" else np.pi / 4
    sign = np.float32(1 if direction == 0 else -1)
    argument = np.float32(turn) * (along / np.float32(other.pitch) - np.float32(other.phase) + number) - np.float32(lag)
    crimp = np.float32(0.48) * radius
    height = sign * crimp * np.cos(argument)
    slope = -sign * crimp * np.float32(turn / other.pitch) * np.sin(argument)
    side = np.clip(distance / radius, -1, 1)
    up = np.sqrt(1 - side * side)
    norm = 1 / np.sqrt(1 + (slope * up) ** 2)
    normal = (side * norm, -slope * up * norm, up * norm)
    lu = light if direction == 0 else light[[1, 0, 2]]
    diffuse = np.maximum(lu[0] * normal[0] + lu[1] * normal[1] + lu[2] * normal[2], 0)
    half = lu + np.array([0, 0, 1], dtype=np.float32)
    half = half / np.linalg.norm(half)
    shine = np.maximum(half[0] * normal[0] + half[1] * normal[1] + half[2] * normal[2], 0)
    shine = shine**24
    i = number - wires.first
    column = np.clip(along + np.float32(wires.streaks.shape[1] / 2), 0, wires.streaks.shape[1] - 1).astype(np.int32)
    surface = wires.tone[i] * (1 + wires.streaks[i, column])
    hidden = np.float32(0.80) + np.float32(0.20) * height / crimp  # less light reaches a wire that dives
    return _Layer(
        coverage=coverage,
        height=height + radius * up,
        tone=surface * hidden * (np.float32(0.20) + np.float32(0.62) * diffuse),
        gloss=surface * hidden * shine,
    )


def render_mesh(
    seed: Seed,
    defect_type: str | None = None,
    *,
    image_size: int = 256,
    style: MeshStyle | None = None,
) -> Drawing:
    """Draw one photo of woven wire.

    The same seed with and without a defect gives the same mesh under the same light with the same noise.

    Args:
        seed: a number or a sequence of numbers.
        defect_type: one of ``MESH_DEFECTS``, or None for a good part.
        image_size: side of the square picture in pixels; the scene scales with it.
        style: how the mesh looks.

    Returns:
        Drawing: image uint8 (image_size, image_size, 3), its mask and its defects.

    Raises:
        ValueError: for an unknown defect type or weave, or a picture under 64 pixels.
    """
    style = style or MeshStyle()
    if defect_type is not None and defect_type not in MESH_DEFECTS:
        raise ValueError(f"defect_type={defect_type!r} is unknown; use one of {', '.join(MESH_DEFECTS)}")
    if style.weave not in ("plain", "twill"):
        raise ValueError(f"weave={style.weave!r} is unknown; use 'plain' or 'twill'")
    if image_size < 64:
        raise ValueError(f"image_size={image_size} is too small to show a defect; use 64 or more")
    rng, defect_rng, camera_rng = random_states(seed)
    shape, scale = (image_size, image_size), image_size / REFERENCE_SIZE
    weave = _Weave(
        shape=shape,
        scale=scale,
        angle=np.deg2rad(rng.uniform(-style.rotation, style.rotation)),
        diameter=style.wire_diameter * scale * (1 + np.clip(rng.normal(0, style.diameter_spread), -0.08, 0.08)),
        wires=(_draw_wires(rng, style, image_size, scale), _draw_wires(rng, style, image_size, scale)),
        style=style,
    )
    defects, edits = ([], _Edits()) if defect_type is None else _place_defects(defect_rng, weave, defect_type)

    x, y = pixel_centres(shape)
    azimuth = np.deg2rad(-125 + rng.uniform(-style.light_azimuth, style.light_azimuth))
    light = np.array([np.cos(azimuth) * 0.62, np.sin(azimuth) * 0.62, 0.785], dtype=np.float32)
    c, s = np.cos(weave.angle), np.sin(weave.angle)
    turned = np.array([c * light[0] + s * light[1], -s * light[0] + c * light[1], light[2]], dtype=np.float32)
    layers = [_layer(weave, direction, edits, turned, x, y) for direction in (0, 1)]

    ground = rng.uniform(0.13, 0.19) * (
        1 + 0.10 * smooth_noise(rng, shape, 1.2 * scale) + 0.08 * smooth_noise(rng, shape, 14 * scale)
    )
    solid = np.maximum(layers[0].coverage, layers[1].coverage)
    move = np.float32([[1, 0, -3.0 * scale * light[0]], [0, 1, -3.0 * scale * light[1]]])
    shadow = cv2.warpAffine(solid, move, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    ground = ground * (1 - 0.40 * cv2.GaussianBlur(shadow, (0, 0), 1.6 * scale + 0.2))

    metal = rng.uniform(0.92, 1.08)
    metal_colour = metal * (np.array([1.0, 0.985, 0.96]) + rng.normal(0, 0.008, 3)).astype(np.float32)
    shine = rng.uniform(0.22, 0.38)
    first_above = layers[0].height > layers[1].height
    picture = ground[..., None].astype(np.float32) * np.array([0.93, 1.0, 1.08], dtype=np.float32)
    for take_first in (False, True):  # the lower wire of each pixel, then the upper one
        chosen = first_above if take_first else ~first_above
        alpha = np.where(chosen, layers[0].coverage, layers[1].coverage)[..., None]
        tone = np.where(chosen, layers[0].tone, layers[1].tone)[..., None]
        gloss = np.where(chosen, layers[0].gloss, layers[1].gloss)[..., None]
        picture += alpha * (tone * metal_colour + np.float32(shine) * gloss - picture)
    _paint_overlays(picture, edits, defect_rng, scale)
    image = take_photo(picture.astype(np.float32), camera_rng, style.camera, scale)
    return Drawing(image=image, mask=defects_mask(defects, shape), defects=defects)


def _paint_overlays(picture: Float, edits: _Edits, rng: np.random.Generator, scale: float) -> None:
    """Foreign matter on top of the mesh, in place."""
    shape = picture.shape[:2]
    for polygon, colour, opacity, solid in edits.overlays:
        coverage = polygon_coverage(polygon, shape)
        soft = cv2.GaussianBlur(coverage, (0, 0), (2.5 if solid else 0.8) * scale + 0.2)
        relief = np.roll(soft, (1, 1), axis=(0, 1)) - np.roll(soft, (-1, -1), axis=(0, 1))
        grain = 0.16 * smooth_noise(rng, shape, 1.0 * scale) if solid else 0.06 * smooth_noise(rng, shape, 2.0 * scale)
        tone = 1 + grain - (1.3 if solid else 0.5) * relief
        paint = colour * tone[..., None]
        alpha = (coverage * opacity)[..., None]
        picture += alpha * (paint - picture)
