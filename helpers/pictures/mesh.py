"""Draws woven wire: round wires over and under each other, and what can go wrong with them."""

from __future__ import annotations

import cv2
import numpy as np

from helpers.pictures import scene
from helpers.pictures.scene import TURN, Defect, Drawing, Float, Points, Seed, smoothstep

LOOK = scene.look("mesh")


class _Wires:
    """The parallel wires of one direction; index 0 is the wire with number ``first``."""

    def __init__(self, rng: np.random.Generator, size: int, scale: float) -> None:
        look = LOOK
        self.pitch = look.pitch * scale * (1 + np.clip(rng.normal(0, look.pitch_spread), -0.08, 0.08))
        self.first = -int(0.75 * size / self.pitch) - 3
        n, wobble = -2 * self.first + 1, look.spacing_wobble
        streaks = rng.standard_normal((n, int(1.6 * size) + 8), dtype=np.float32)
        streaks = cv2.GaussianBlur(streaks, (0, 0), 2.0 * scale + 0.3, sigmaY=0.01)
        self.streaks = streaks * (look.streaks / max(float(streaks.std()), 1e-6))  # (wires, length along them)
        self.offset = (np.clip(rng.normal(0, wobble, n), -2.5 * wobble, 2.5 * wobble) * scale).astype(np.float32)
        self.phase = rng.uniform(0, 1)
        self.amplitude = (np.clip(rng.normal(0, look.wave_amplitude, n), -1.2, 1.2) * scale).astype(np.float32)
        self.frequency = (2 * np.pi / (rng.uniform(90, 260, n) * scale)).astype(np.float32)
        self.wave_phase = rng.uniform(0, 2 * np.pi, n).astype(np.float32)
        self.tone = (1 + rng.normal(0, look.wire_tone, n)).astype(np.float32)

    def centre(self, number: np.ndarray | int, along: np.ndarray, kind: type = np.float64) -> np.ndarray:
        """Position across of a wire at places along it, its regular part computed in numbers of a kind."""
        i = number - self.first
        wave = self.amplitude[i] * np.sin(self.frequency[i] * along + self.wave_phase[i])
        return (number + kind(self.phase)) * kind(self.pitch) + self.offset[i] + wave


class _Weave:
    """One mesh, in its own coordinates: u across the wires of direction 0, v across those of direction 1."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        look = self.look = LOOK
        self.shape, self.scale = (size, size), size / scene.REFERENCE_SIZE
        self.angle = np.deg2rad(rng.uniform(-look.rotation, look.rotation))
        spread = np.clip(rng.normal(0, look.diameter_spread), -0.08, 0.08)
        self.diameter = look.wire_diameter * self.scale * (1 + spread)
        self.margin, self.distance = 4 * self.scale, look.pitch * self.scale  # of defects
        self.wires = [_Wires(rng, size, self.scale) for _ in range(2)]

    def line(self, direction: int, across: np.ndarray, along: np.ndarray) -> Points:
        """Picture coordinates (N, 2) of places given across and along the wires of a direction."""
        u, v = (across, along) if direction == 0 else (along, across)
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.column_stack([c * u - s * v + self.shape[1] / 2, s * u + c * v + self.shape[0] / 2])

    def to_uv(self, x: Float, y: Float) -> tuple[Float, Float]:
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        x, y = x - np.float32(self.shape[1] / 2), y - np.float32(self.shape[0] / 2)
        return c * x + s * y, -s * x + c * y


def _shift_profile(along: np.ndarray, start: float, stop: float, pitch: float) -> np.ndarray:
    """Share of the full sideways shift: 0 outside, 1 in the middle, smooth flanks of one pitch."""
    return smoothstep((along - start) / pitch) * smoothstep((stop - along) / pitch)


# --- defects: each looks for a place; `Defect.how` says how it is painted


def _pick_wire(rng: np.random.Generator, weave: _Weave) -> tuple[int, int, float]:
    """A direction, a wire in the picture and a place along it."""
    direction = int(rng.integers(2))
    half = 0.42 * weave.shape[0]
    number = int(np.round(rng.uniform(-half, half) / weave.wires[direction].pitch))
    return direction, number, rng.uniform(-half, half)


def _broken_strand(rng: np.random.Generator, weave: _Weave) -> Defect:
    direction, number, middle = _pick_wire(rng, weave)
    wires = weave.wires[direction]
    length = rng.uniform(*weave.look.gap_length) * wires.pitch
    along = np.linspace(middle - length / 2, middle + length / 2, 24)
    centreline = weave.line(direction, wires.centre(number, along), along)
    outline, how = scene.stroke_polygon(centreline, weave.diameter), (direction, number, along[0], along[-1])
    return Defect("broken_strand", outline, scene.polyline_length(centreline), "centreline", how)


def _shifted_strand(rng: np.random.Generator, weave: _Weave) -> Defect:
    direction, number, middle = _pick_wire(rng, weave)
    wires = weave.wires[direction]
    length = rng.uniform(*weave.look.shift_length) * wires.pitch
    amount = rng.choice([-1, 1]) * rng.uniform(*weave.look.shift) * wires.pitch
    start, stop = middle - length / 2, middle + length / 2
    along = np.linspace(start, stop, 64)
    moved = amount * _shift_profile(along, start, stop, wires.pitch)
    keep = np.abs(moved) >= 0.12 * abs(amount)  # the feet of the flanks are not visibly out of place
    along, moved, old = along[keep], moved[keep], wires.centre(number, along[keep])
    half = weave.diameter / 2
    sides = np.minimum(old, old + moved) - half, np.maximum(old, old + moved) + half
    outline = np.concatenate([weave.line(direction, sides[0], along), weave.line(direction, sides[1], along)[::-1]])
    length = scene.polyline_length(weave.line(direction, old + moved, along))
    return Defect("shifted_strand", outline, length, "centreline", (direction, number, start, stop, amount))


def _somewhere(rng: np.random.Generator, weave: _Weave, half: float) -> np.ndarray:
    height, width = weave.shape
    return np.array([width / 2, height / 2]) + rng.uniform(-half * height, half * height, 2)


def _hole(rng: np.random.Generator, weave: _Weave) -> Defect:
    centre = _somewhere(rng, weave, 0.40)
    radii = rng.uniform(*weave.look.hole_radius) * weave.look.pitch * weave.scale * scene.blob_radii(rng, 0.28)
    outline = centre + radii[:, None] * np.column_stack([np.cos(TURN), np.sin(TURN)])
    return Defect.feret("hole", outline, centre, radii, int(rng.integers(2**31)))


def _contamination(rng: np.random.Generator, weave: _Weave) -> Defect:
    look, scale = weave.look, weave.scale
    centre = _somewhere(rng, weave, 0.42)
    opacity = rng.uniform(*look.contamination_opacity)
    if rng.random() < 0.5:
        length = rng.uniform(*look.fibre_length) * scale
        bend = rng.uniform(-1.1, 1.1) + np.linspace(-1, 1, 40) * rng.uniform(-0.9, 0.9)
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend) / 40
        centreline = np.cumsum(np.column_stack([np.cos(heading), np.sin(heading)]) * (length / 39), axis=0)
        centreline += centre - centreline.mean(axis=0)
        width = np.full(40, max(rng.uniform(*look.fibre_width) * scale, 1.8))
        width[[0, -1]] *= 0.6
        colour = np.array([[0.93, 0.91, 0.86], [0.08, 0.07, 0.09], [0.55, 0.16, 0.12]])[rng.integers(3)]
        outline, how = scene.stroke_polygon(centreline, width), (colour.astype(np.float32), opacity, False)
        return Defect("contamination", outline, scene.polyline_length(centreline), "centreline", how)
    radii = rng.uniform(*look.particle_radius) * scale * scene.blob_radii(rng, 0.40)
    squeeze = rng.uniform(0.65, 1.0)
    local = radii[:, None] * np.column_stack([np.cos(TURN), squeeze * np.sin(TURN)])
    outline = centre + local @ scene.rotation(rng.uniform(0, np.pi))
    colour = np.array([[0.12, 0.10, 0.08], [0.46, 0.27, 0.14], [0.80, 0.78, 0.72]])[rng.integers(3)]
    return Defect.feret("contamination", outline, colour.astype(np.float32), opacity, True)


MESH_DEFECTS = {one.__name__[1:]: one for one in (_broken_strand, _hole, _shifted_strand, _contamination)}


# --- the picture


def _hole_factor(defects: list[Defect], number: np.ndarray, direction: int, x: Float, y: Float) -> Float:
    """Share of the wire that is left, with ends that stick out a little differently from wire to wire."""
    factor = np.float32(1)
    for centre, radii, seed in [one.how for one in defects if one.type == "hole"]:
        dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
        angle = np.arctan2(dy, dx) % (2 * np.pi) / (2 * np.pi) * len(radii)
        closed = np.append(radii, radii[0]).astype(np.float32)
        edge = np.interp(angle, np.arange(len(closed)), closed).astype(np.float32)
        ragged = np.random.default_rng([seed, direction]).uniform(0.80, 1.0, 64).astype(np.float32)
        factor = factor * np.clip(np.hypot(dx, dy) - edge * ragged[number % 64] + 0.5, 0, 1)
    return factor


def _nearest_wire(weave: _Weave, direction: int, defects: list[Defect], across: Float, along: Float) -> list[Float]:
    """Distance (signed) to the middle of the nearest wire at each pixel, and its number."""
    wires = weave.wires[direction]
    base = np.floor(across / np.float32(wires.pitch) - np.float32(wires.phase)).astype(np.int32)
    distances = []
    for number in (base, base + 1):
        centre = wires.centre(number, along, np.float32)
        for d, k, start, stop, amount in [one.how for one in defects if one.type == "shifted_strand"]:
            if d == direction:
                centre += np.where(number == k, amount * _shift_profile(along, start, stop, wires.pitch), 0)
        distances.append((across - centre).astype(np.float32))
    second = np.abs(distances[1]) < np.abs(distances[0])
    return [np.where(second, distances[1], distances[0]), np.where(second, base + 1, base)]


def _layer(
    weave: _Weave, direction: int, defects: list[Defect], light: np.ndarray, x: Float, y: Float
) -> tuple[Float, Float, Float, Float]:
    """The wires of one direction: coverage, height of the surface, tone, gloss."""
    wires, other = weave.wires[direction], weave.wires[1 - direction]
    u, v = weave.to_uv(x, y)
    across, along = (u, v) if direction == 0 else (v, u)
    distance, number = _nearest_wire(weave, direction, defects, across, along)
    radius = np.float32(weave.diameter / 2)
    coverage = np.clip(radius - np.abs(distance) + np.float32(0.5), 0, 1)
    for d, k, start, stop in [one.how for one in defects if one.type == "broken_strand"]:
        if d == direction:
            gap = np.clip(along - start + 0.5, 0, 1) * np.clip(stop - along + 0.5, 0, 1)
            coverage = coverage * np.where(number == k, 1 - gap, 1).astype(np.float32)
    coverage = coverage * _hole_factor(defects, number, direction, x, y)

    # Plain weave: up at every second crossing wire.
    sign = np.float32(1 if direction == 0 else -1)
    argument = np.float32(np.pi) * (along / np.float32(other.pitch) - np.float32(other.phase) + number)
    crimp = np.float32(0.48) * radius
    height = sign * crimp * np.cos(argument)
    slope = -sign * crimp * np.float32(np.pi / other.pitch) * np.sin(argument)
    side = np.clip(distance / radius, -1, 1)
    up = np.sqrt(1 - side * side)
    norm = 1 / np.sqrt(1 + (slope * up) ** 2)
    normal = (side * norm, -slope * up * norm, up * norm)
    lu = light if direction == 0 else light[[1, 0, 2]]
    diffuse = np.maximum(lu[0] * normal[0] + lu[1] * normal[1] + lu[2] * normal[2], 0)
    half = lu + np.array([0, 0, 1], dtype=np.float32)
    half = half / np.linalg.norm(half)
    shine = np.maximum(half[0] * normal[0] + half[1] * normal[1] + half[2] * normal[2], 0) ** 24
    i = number - wires.first
    column = np.clip(along + np.float32(wires.streaks.shape[1] / 2), 0, wires.streaks.shape[1] - 1).astype(np.int32)
    surface = wires.tone[i] * (1 + wires.streaks[i, column])
    hidden = np.float32(0.80) + np.float32(0.20) * height / crimp  # less light reaches a wire that dives
    tone = surface * hidden * (np.float32(0.20) + np.float32(0.62) * diffuse)
    return coverage, height + radius * up, tone, surface * hidden * shine


def render_mesh(seed: Seed, defect_type: str | None = None, *, image_size: int = 256) -> Drawing:
    """One photo of woven wire; the same seed gives the same mesh, light and noise with a defect as without."""
    scene.check_request(defect_type, list(MESH_DEFECTS), image_size)
    rng, defect_rng, camera_rng = scene.random_states(seed)
    weave, defects = _Weave(rng, image_size), []
    if defect_type is not None:
        defects = scene.place_defects(defect_rng, MESH_DEFECTS[defect_type], weave, weave.shape)
    picture = _paint(rng, weave, defects)
    _paint_matter(picture, defects, defect_rng, weave.scale)
    return Drawing(scene.take_photo(picture.astype(np.float32), camera_rng, LOOK.camera, weave.scale), defects)


def _paint(rng: np.random.Generator, weave: _Weave, defects: list[Defect]) -> Float:
    """The wires over a dark ground, (H, W, 3)."""
    shape, scale = weave.shape, weave.scale
    x, y = scene.pixel_centres(shape)
    azimuth = np.deg2rad(-125 + rng.uniform(-weave.look.light_azimuth, weave.look.light_azimuth))
    light = np.array([np.cos(azimuth) * 0.62, np.sin(azimuth) * 0.62, 0.785], dtype=np.float32)
    c, s = np.cos(weave.angle), np.sin(weave.angle)
    turned = np.array([c * light[0] + s * light[1], -s * light[0] + c * light[1], light[2]], dtype=np.float32)
    layers = [_layer(weave, direction, defects, turned, x, y) for direction in (0, 1)]

    ground = rng.uniform(0.13, 0.19) * (
        1 + 0.10 * scene.smooth_noise(rng, shape, 1.2 * scale) + 0.08 * scene.smooth_noise(rng, shape, 14 * scale)
    )
    solid = np.maximum(layers[0][0], layers[1][0])
    move = np.float32([[1, 0, -3.0 * scale * light[0]], [0, 1, -3.0 * scale * light[1]]])
    shadow = cv2.warpAffine(solid, move, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    ground = ground * (1 - 0.40 * cv2.GaussianBlur(shadow, (0, 0), 1.6 * scale + 0.2))

    metal = rng.uniform(0.92, 1.08)
    metal_colour = metal * (np.array([1.0, 0.985, 0.96]) + rng.normal(0, 0.008, 3)).astype(np.float32)
    glint = rng.uniform(0.22, 0.38)
    first_above = layers[0][1] > layers[1][1]
    picture = ground[..., None].astype(np.float32) * np.array([0.93, 1.0, 1.08], dtype=np.float32)
    for chosen in (~first_above, first_above):  # the lower wire of each pixel, then the upper one
        alpha, _, tone, gloss = (np.where(chosen, *values)[..., None] for values in zip(*layers, strict=True))
        picture += alpha * (tone * metal_colour + np.float32(glint) * gloss - picture)
    return picture


def _paint_matter(picture: Float, defects: list[Defect], rng: np.random.Generator, scale: float) -> None:
    """Foreign matter on top of the mesh, in place."""
    shape = picture.shape[:2]
    for polygon, (colour, opacity, solid) in [(one.polygon, one.how) for one in defects if one.type == "contamination"]:
        coverage = scene.polygon_coverage(polygon, shape)
        soft = cv2.GaussianBlur(coverage, (0, 0), (2.5 if solid else 0.8) * scale + 0.2)
        relief = np.roll(soft, (1, 1), axis=(0, 1)) - np.roll(soft, (-1, -1), axis=(0, 1))
        size, strength = (1.0, 0.16) if solid else (2.0, 0.06)
        grain = strength * scene.smooth_noise(rng, shape, size * scale)
        paint = colour * (1 + grain - (1.3 if solid else 0.5) * relief)[..., None]
        picture += (coverage * opacity)[..., None] * (paint - picture)
