"""Draws hex nuts from above on a workbench, and what can go wrong with them."""

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

AREA_SHARE = (0.0006, 0.029)  # of a single nut's picture, a little inside 0.05 % to 3 %


@dataclass(frozen=True)
class NutStyle:
    """How the nuts look and how much they vary. Lengths in pixels of a 256 pixel picture.

    With 0.05 mm per pixel the default is an M3 nut: 5.5 mm across flats.
    """

    across_flats: float = 110.0
    size_spread: float = 0.02  # largest relative change of the size, either way
    thread_major: float = 0.545  # outer diameter of the thread, in parts of across_flats
    thread_minor: float = 0.425  # inner diameter of the thread
    countersink: float = 0.62  # outer diameter of the countersink
    face: float = 0.93  # diameter of the flat face; the chamfer lies outside
    turning_marks: float = 0.05  # standard deviation of the rings left by turning, relative brightness
    grain: float = 0.035  # standard deviation of the fine grain of the metal, relative brightness
    metal: tuple[float, float] = (0.46, 0.58)  # brightness of the metal, from - to
    bench: tuple[float, float] = (0.26, 0.40)  # brightness of the workbench, from - to
    light_azimuth: float = 20.0  # largest turn of the light in degrees, either way
    two_defects: float = 0.15  # share of defect photos with a second defect of the same type
    scratch_length: tuple[float, float] = (24.0, 58.0)
    scratch_width: tuple[float, float] = (2.8, 4.0)
    dent_radius: tuple[float, float] = (5.0, 9.0)
    dent_depth: tuple[float, float] = (0.50, 0.80)  # steepest slope of a dent
    stain_radius: tuple[float, float] = (6.0, 11.0)
    stain_opacity: tuple[float, float] = (0.42, 0.75)
    chip_edge: tuple[float, float] = (17.0, 30.0)  # chipped corner: how far along the edges it reaches
    thread_damage: tuple[float, float] = (35.0, 95.0)  # damaged thread: angle in degrees
    camera: CameraStyle = field(default_factory=lambda: CameraStyle(exposure=0.09, contrast=0.14))


@dataclass
class _Nut:
    """One nut: where it lies, its size and its surface."""

    x: float
    y: float
    angle: float  # of the first corner, in radians
    flats: float  # across flats, in pixels
    scale: float
    metal: Float  # (3,)
    thread_phase: float
    surface: np.random.Generator
    style: NutStyle

    @property
    def corner_radius(self) -> float:
        return self.flats / np.sqrt(3)

    def radius(self, diameter: float) -> float:
        """Radius in pixels of a diameter given in parts of the distance across flats."""
        return diameter * self.flats / 2

    def place(self, radius: np.ndarray, angle: np.ndarray) -> Points:
        """Picture coordinates (N, 2) of places given by distance from the axis and angle in the nut."""
        turned = np.asarray(angle) + self.angle
        return np.column_stack([self.x + radius * np.cos(turned), self.y + radius * np.sin(turned)])

    def outline(self) -> Points:
        """The six corners (6, 2)."""
        return self.place(np.full(6, self.corner_radius), np.arange(6) * np.pi / 3)


@dataclass
class _Edits:
    """What the defects change on a nut."""

    scratches: list[tuple[Points, Points]] = field(default_factory=list)  # outline, centreline
    dents: list[tuple[Points, np.ndarray, np.ndarray, float]] = field(
        default_factory=list
    )  # outline, centre, axes, depth
    stains: list[tuple[Points, Float, float]] = field(default_factory=list)  # outline, colour, opacity
    chips: list[tuple[Points, int, Points]] = field(default_factory=list)  # outline, corner, broken line
    threads: list[tuple[Points, int]] = field(default_factory=list)  # outline, seed of the torn surface


# --- defects: each looks for a place and says what changes and what is recorded -------------------------


def _scratch(rng: np.random.Generator, nut: _Nut, edits: _Edits) -> Defect:
    style = nut.style
    low, high = nut.radius(style.countersink) + 2 * nut.scale, nut.flats / 2 - 4 * nut.scale
    wanted = rng.uniform(*style.scratch_length) * nut.scale
    begin = rng.uniform(low, high)
    end = rng.uniform(low, high)
    turn = np.sqrt(max(wanted**2 - (end - begin) ** 2, (0.5 * wanted) ** 2)) / ((begin + end) / 2)
    t = np.linspace(0, 1, 40)
    radius = begin + (end - begin) * t
    angle = rng.uniform(0, 2 * np.pi) + turn * t
    straight = nut.place(radius[[0, -1]], angle[[0, -1]])
    chord = straight[:1] + t[:, None] * (straight[1:] - straight[:1])
    curved = nut.place(radius, angle)
    centreline = curved
    for bend in (rng.uniform(0.0, 0.4), 0.5, 0.7, 0.85):  # as straight as the place between hole and edge allows
        trial = bend * curved + (1 - bend) * chord
        if np.hypot(trial[:, 0] - nut.x, trial[:, 1] - nut.y).min() >= low - nut.scale:
            centreline = trial
            break
    width = max(rng.uniform(*style.scratch_width) * nut.scale, 1.9) * (1 - 0.45 * np.abs(2 * t - 1) ** 3)
    outline = stroke_polygon(centreline, width)
    edits.scratches.append((outline, centreline))
    return Defect("scratch", outline, polyline_length(centreline), "centreline")


def _dent(rng: np.random.Generator, nut: _Nut, edits: _Edits) -> Defect:
    style = nut.style
    axes = rng.uniform(*style.dent_radius) * nut.scale * np.array([1.0, rng.uniform(0.7, 1.0)])
    low, high = nut.radius(style.countersink) + 0.7 * axes[0], nut.radius(style.face) - 0.5 * axes[0]
    centre = nut.place(np.array([rng.uniform(low, max(high, low + 0.1))]), np.array([rng.uniform(0, 2 * np.pi)]))[0]
    turn, t = rng.uniform(0, np.pi), np.linspace(0, 2 * np.pi, 48, endpoint=False)
    directions = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outline = centre + np.column_stack([axes[0] * np.cos(t), axes[1] * np.sin(t)]) @ directions
    edits.dents.append((outline, centre, directions / axes[:, None], rng.uniform(*style.dent_depth)))
    return Defect("dent", outline, feret_diameter(outline), "feret")


def _stain(rng: np.random.Generator, nut: _Nut, edits: _Edits) -> Defect:
    style = nut.style
    size = rng.uniform(*style.stain_radius) * nut.scale
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = size * blob_radii(rng, 0.35)
    middle = rng.uniform(nut.radius(style.countersink) + 0.6 * size, nut.radius(style.face) - 0.4 * size)
    stretch = rng.uniform(1.0, 1.9)  # drops spread around the ring
    outline = nut.place(
        middle + 0.8 * radii * np.sin(t), rng.uniform(0, 2 * np.pi) + stretch * radii * np.cos(t) / middle
    )
    colour = np.array([[0.42, 0.25, 0.12], [0.16, 0.15, 0.17], [0.50, 0.38, 0.18]])[rng.integers(3)]
    edits.stains.append((outline, colour.astype(np.float32), rng.uniform(*style.stain_opacity)))
    return Defect("stain", outline, feret_diameter(outline), "feret")


def _chipped_corner(rng: np.random.Generator, nut: _Nut, edits: _Edits) -> Defect:
    corner = int(rng.integers(6))
    corners = nut.outline()
    tip = corners[corner]
    edges = [corners[(corner + step) % 6] - tip for step in (-1, 1)]
    reach = [rng.uniform(*nut.style.chip_edge) * nut.scale for _ in range(2)]
    ends = [tip + edge / np.hypot(*edge) * length for edge, length in zip(edges, reach, strict=True)]
    t = np.linspace(0, 1, 9)
    inward = np.array([nut.x, nut.y]) - tip
    inward /= np.hypot(*inward)
    depth = rng.normal(0, 0.8, 9) + rng.uniform(2.0, 5.5) * np.sqrt(np.sin(np.pi * t))
    depth[[0, -1]] = 0
    broken = ends[0] + t[:, None] * (ends[1] - ends[0]) + nut.scale * depth[:, None] * inward
    outline = np.concatenate([broken, tip[None]])
    edits.chips.append((outline, corner, broken))
    return Defect("chipped_corner", outline, feret_diameter(outline), "feret")


def _damaged_thread(rng: np.random.Generator, nut: _Nut, edits: _Edits) -> Defect:
    style = nut.style
    span = np.deg2rad(rng.uniform(*style.thread_damage))
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, span, 24)
    taper = np.sin(np.pi * np.linspace(0.12, 0.88, 24)) ** 0.5
    inner, outer = nut.radius(style.thread_minor) + 0.5 * nut.scale, nut.radius(style.thread_major) + 1.0 * nut.scale
    middle, half = (inner + outer) / 2, (outer - inner) / 2
    wobble = 1 + 0.10 * rng.normal(size=24)
    low = nut.place(middle - half * taper * np.minimum(wobble, 1.1), angle)
    high = nut.place(middle + half * taper, angle)
    outline = np.concatenate([low, high[::-1]])
    edits.threads.append((outline, int(rng.integers(2**31))))
    return Defect("damaged_thread", outline, middle * span, "centreline")


NUT_DEFECTS: dict[str, Callable[[np.random.Generator, _Nut, _Edits], Defect]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
    "chipped_corner": _chipped_corner,
    "damaged_thread": _damaged_thread,
}


def _place_defects(
    rng: np.random.Generator, nut: _Nut, defect_type: str, shape: tuple[int, int]
) -> tuple[list[Defect], _Edits]:
    edits, defects = _Edits(), []
    wanted = 2 if rng.random() < nut.style.two_defects else 1
    area = (REFERENCE_SIZE * nut.scale) ** 2
    for attempt in range(200):
        if len(defects) == wanted or (defects and attempt >= 60):
            break
        trial = _Edits()
        defect = NUT_DEFECTS[defect_type](rng, nut, trial)
        share = polygon_area(defect.polygon) / area
        if (
            AREA_SHARE[0] <= share <= AREA_SHARE[1]
            and inside(defect.polygon, shape, 1)
            and apart(defect.polygon, defects, 6 * nut.scale)
        ):
            defects.append(defect)
            for name in ("scratches", "dents", "stains", "chips", "threads"):
                getattr(edits, name).extend(getattr(trial, name))
    if not defects:
        raise RuntimeError(f"no place found for a defect of type {defect_type!r}; check the sizes in NutStyle")
    return defects, edits


# --- the picture ----------------------------------------------------------------------------------------


def _draw_bench(rng: np.random.Generator, style: NutStyle, shape: tuple[int, int], scale: float) -> Float:
    """A cast, slightly worn workbench: (H, W, 3)."""
    tone = rng.uniform(*style.bench)
    grain = 0.06 * smooth_noise(rng, shape, 0.8 * scale) + 0.05 * smooth_noise(rng, shape, 2.6 * scale)
    patches = 0.06 * smooth_noise(rng, shape, 24 * scale)
    colour = np.array([0.94, 1.0, 1.05]) * (1 + rng.normal(0, 0.015, 3))
    return (tone * (1 + grain + patches))[..., None] * colour.astype(np.float32)


def _hex_distance(nut: _Nut, px: Float, py: Float) -> tuple[Float, Float, Float]:
    """Signed distance to the nearest flat (negative inside) and that flat's normal in the nut's frame."""
    best = nx = ny = None
    for k in range(3):
        angle = np.pi / 6 + k * np.pi / 3
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = c * px + s * py
        distance = np.abs(along)
        sign = np.sign(along)
        if best is None:
            best, nx, ny = distance, c * sign, s * sign
        else:
            nearer = distance > best
            best, nx, ny = (
                np.where(nearer, distance, best),
                np.where(nearer, c * sign, nx),
                np.where(nearer, s * sign, ny),
            )
    return best - np.float32(nut.flats / 2), nx, ny


def _window(nut: _Nut, shape: tuple[int, int], pad: float) -> tuple[slice, slice]:
    reach = nut.corner_radius + pad
    rows = slice(max(int(nut.y - reach), 0), min(int(nut.y + reach) + 2, shape[0]))
    columns = slice(max(int(nut.x - reach), 0), min(int(nut.x + reach) + 2, shape[1]))
    return rows, columns


def _cast_shadow(picture: Float, nut: _Nut, light: np.ndarray) -> None:
    """Darken the bench beside a nut, in place."""
    s = nut.scale
    rows, columns = _window(nut, picture.shape[:2], 26 * s)
    x, y = pixel_centres((rows.stop - rows.start, columns.stop - columns.start))
    x, y = x + np.float32(columns.start - nut.x), y + np.float32(rows.start - nut.y)
    c, sn = np.float32(np.cos(nut.angle)), np.float32(np.sin(nut.angle))
    dark = np.zeros_like(x)
    for throw, soft, strength in ((7.0, 9.0, 0.50), (2.0, 4.0, 0.35)):  # cast shadow, contact shadow
        sx, sy = x + np.float32(throw * s * light[0]), y + np.float32(throw * s * light[1])
        distance = _hex_distance(nut, c * sx + sn * sy, -sn * sx + c * sy)[0]
        dark = np.maximum(dark, strength * smoothstep(0.5 - distance / np.float32(soft * s)))
    picture[rows, columns] *= (1 - dark)[..., None]


def _paint_nut(picture: Float, nut: _Nut, light: np.ndarray, edits: _Edits) -> None:
    """Paint one nut over a bench that already has its shadow, in place."""
    style, s = nut.style, np.float32(nut.scale)
    rows, columns = _window(nut, picture.shape[:2], 3 * nut.scale)
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    origin = np.array([columns.start, rows.start], dtype=np.float64)
    below = picture[rows, columns]
    gx, gy = pixel_centres(shape)
    x, y = gx + np.float32(columns.start - nut.x), gy + np.float32(rows.start - nut.y)
    c, sn = np.float32(np.cos(nut.angle)), np.float32(np.sin(nut.angle))
    px, py = c * x + sn * y, -sn * x + c * y
    r = np.sqrt(x * x + y * y) + np.float32(1e-3)
    theta = np.arctan2(y, x)
    hexagon, fx, fy = _hex_distance(nut, px, py)
    coverage = np.clip(0.5 - hexagon, 0, 1)
    minor, major = np.float32(nut.radius(style.thread_minor)), np.float32(nut.radius(style.thread_major))
    sink, face = np.float32(nut.radius(style.countersink)), np.float32(nut.radius(style.face))

    # Slope of the surface away from the axis: countersink, flat face, chamfer.
    in_sink = smoothstep((sink - r) / (1.5 * s) + 0.5)
    in_chamfer = smoothstep((r - face) / (2.0 * s) + 0.5)
    in_thread = smoothstep((major - r) / (1.2 * s) + 0.5)
    in_hole = smoothstep((minor - r) / (1.5 * s) + 0.5)
    slope = -0.55 * in_sink + 0.42 * in_chamfer
    ripple = np.sin(
        2 * np.pi * 1.9 * (r - minor) / (major - minor) + (theta - np.float32(nut.angle)) + nut.thread_phase
    )
    slope = slope * (1 - in_thread) + in_thread * (0.95 * ripple - 0.35)
    nx, ny = slope * x / r, slope * y / r
    bevel = smoothstep((hexagon + 2.2 * s) / (2.2 * s)) * 0.7  # the sharp edge of each flat is a little round
    nx += bevel * (c * fx - sn * fy)
    ny += bevel * (sn * fx + c * fy)

    covers = {}
    for polygon in [edit[0] for name in vars(edits) for edit in getattr(edits, name)]:
        covers[id(polygon)] = polygon_coverage(polygon - origin, shape)
    for polygon, centre, to_unit, depth in edits.dents:
        ux = to_unit[0, 0] * (gx + origin[0] - centre[0]) + to_unit[0, 1] * (gy + origin[1] - centre[1])
        uy = to_unit[1, 0] * (gx + origin[0] - centre[0]) + to_unit[1, 1] * (gy + origin[1] - centre[1])
        rho2 = np.clip(ux * ux + uy * uy, 0, 1)
        pressed = depth * 3.0 * np.sqrt(rho2) * (1 - rho2) + 0.25 * depth * np.sqrt(rho2)
        norm = np.sqrt(ux * ux + uy * uy) + 1e-3
        bx = (to_unit[0, 0] * ux + to_unit[1, 0] * uy) / norm
        by = (to_unit[0, 1] * ux + to_unit[1, 1] * uy) / norm
        size = np.sqrt(abs(np.linalg.det(to_unit)))
        nx -= covers[id(polygon)] * pressed * bx / size
        ny -= covers[id(polygon)] * pressed * by / size
    for polygon, centreline in edits.scratches:
        local = centreline - origin
        d2 = (gx[..., None] - local[::4, 0]) ** 2 + (gy[..., None] - local[::4, 1]) ** 2
        nearest = d2.argmin(axis=-1)
        tangent = np.gradient(local, axis=0)[::4]
        tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None]
        points = local[::4]
        across = -(gx - points[nearest, 0]) * tangent[nearest, 1] + (gy - points[nearest, 1]) * tangent[nearest, 0]
        groove = -0.5 * np.clip(across / (1.0 * s), -1, 1) * covers[id(polygon)]
        nx += groove * -tangent[nearest, 1]
        ny += groove * tangent[nearest, 0]

    # Light: matt part, a broad highlight, and the bow tie that turned rings reflect.
    inv = 1 / np.sqrt(1 + nx * nx + ny * ny)
    diffuse = np.maximum((light[0] * nx + light[1] * ny + light[2]) * inv, 0)
    half = light + np.array([0, 0, 1], dtype=np.float32)
    half = half / np.linalg.norm(half)
    shine = np.maximum((half[0] * nx + half[1] * ny + half[2]) * inv, 0) ** 18
    azimuth = np.arctan2(light[1], light[0])
    on_face = (1 - in_sink) * (1 - in_chamfer)
    bow = np.abs(np.cos(theta - np.float32(azimuth))) ** 6 * on_face
    rings = nut.surface.standard_normal(int(4 * nut.corner_radius / nut.scale) + 16, dtype=np.float32)
    rings = cv2.GaussianBlur(rings[None], (0, 0), 1.6)[0]
    rings = style.turning_marks * rings / rings.std()
    marks = rings[np.clip((r / s * 3).astype(np.int32), 0, len(rings) - 1)] * (1 - in_thread)
    grain = nut.surface.standard_normal((192, 192), dtype=np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.8)
    grain *= style.grain / grain.std()
    grain = grain[np.clip((py / s + 96).astype(np.int32), 0, 191), np.clip((px / s + 96).astype(np.int32), 0, 191)]
    tone = (0.30 + 0.80 * diffuse) * (1 + marks + grain) * (1 - 0.35 * in_thread)
    gloss = 0.26 * shine * (1 - in_thread * 0.4) + 0.13 * bow
    metal = tone[..., None] * nut.metal + gloss[..., None]

    for polygon, _ in edits.scratches:  # bare metal glints
        cover = covers[id(polygon)][..., None]
        metal = metal + cover * (0.45 * metal + np.float32(0.27) - metal * np.float32(0.30))
    for polygon, seed in edits.threads:
        cover = covers[id(polygon)][..., None]
        torn = np.random.default_rng(seed)
        rough = smooth_noise(torn, (192, 192), 1.5)
        rough = rough[np.clip((py / s + 96).astype(np.int32), 0, 191), np.clip((px / s + 96).astype(np.int32), 0, 191)]
        flat = nut.metal * np.clip(0.85 + 0.30 * rough, 0.2, 1.6)[..., None]
        metal = metal + 0.92 * cover * (flat - metal)
    for polygon, colour, opacity in edits.stains:
        cover = covers[id(polygon)]
        rim = cover * (1 - cv2.GaussianBlur(cover, (0, 0), 2.2 * nut.scale + 0.2))  # drops dry darkest at their rim
        film = np.clip(opacity * cover + 0.35 * rim, 0, 0.92)[..., None]
        metal = metal * (1 - film) + film * colour * (0.45 + 0.55 * tone[..., None])

    hole_tone = 0.28 + 0.25 * smoothstep(0.5 - (x * light[0] + y * light[1]) / (1.6 * minor))
    surface = metal + in_hole[..., None] * (below * hole_tone[..., None] - metal)
    for polygon, _, broken in edits.chips:
        cover = covers[id(polygon)]
        ends = broken[[0, -1]] - origin
        chord = ends[1] - ends[0]
        chord /= np.hypot(*chord)
        middle = np.array([nut.x, nut.y]) - origin
        side = np.sign((middle[0] - ends[0, 0]) * -chord[1] + (middle[1] - ends[0, 1]) * chord[0])
        out = -side * ((gx - ends[0, 0]) * -chord[1] + (gy - ends[0, 1]) * chord[0])
        ledge = cover * smoothstep((3.8 * s - out) / (1.5 * s) + 0.5)  # the broken face slopes down to the bench
        rough = np.clip(0.96 + 0.22 * smooth_noise(nut.surface, shape, 1.3 * nut.scale), 0.3, 1.5)
        broken_face = rough[..., None] * nut.metal
        gone = below * 1.45  # most of the shadow went with the corner
        lost = gone + (ledge / np.maximum(cover, 1e-3))[..., None] * (broken_face - gone)
        surface = surface + cover[..., None] * (lost - surface)
    picture[rows, columns] = below + coverage[..., None] * (surface - below)


def _draw_nut(rng: np.random.Generator, style: NutStyle, scale: float, x: float, y: float, flats: float) -> _Nut:
    metal = rng.uniform(*style.metal) * np.array([1.0, 0.985, 0.95]) * (1 + rng.normal(0, 0.012, 3))
    return _Nut(
        x=x,
        y=y,
        angle=rng.uniform(0, 2 * np.pi),
        flats=flats,
        scale=scale,
        metal=metal.astype(np.float32),
        thread_phase=rng.uniform(0, 2 * np.pi),
        surface=np.random.default_rng(int(rng.integers(2**62))),
        style=style,
    )


def _draw_light(rng: np.random.Generator, style: NutStyle) -> np.ndarray:
    azimuth = np.deg2rad(-130 + rng.uniform(-style.light_azimuth, style.light_azimuth))
    return np.array([0.60 * np.cos(azimuth), 0.60 * np.sin(azimuth), 0.80], dtype=np.float32)


def _check(defect_type: str | None, image_size: int) -> None:
    if defect_type is not None and defect_type not in NUT_DEFECTS:
        raise ValueError(f"defect_type={defect_type!r} is unknown; use one of {', '.join(NUT_DEFECTS)}")
    if image_size < 64:
        raise ValueError(f"image_size={image_size} is too small to show a defect; use 64 or more")


def render_nut(
    seed: Seed,
    defect_type: str | None = None,
    *,
    image_size: int = 256,
    style: NutStyle | None = None,
) -> Drawing:
    """Draw one photo of a nut.

    The same seed with and without a defect gives the same nut under the same light with the same noise.

    Args:
        seed: a number or a sequence of numbers.
        defect_type: one of ``NUT_DEFECTS``, or None for a good nut.
        image_size: side of the square picture in pixels; the scene scales with it.
        style: how the nuts look.

    Returns:
        Drawing: image uint8 (image_size, image_size, 3), its mask and its defects.

    Raises:
        ValueError: for an unknown defect type or a picture under 64 pixels.
    """
    style = style or NutStyle()
    _check(defect_type, image_size)
    rng, defect_rng, camera_rng = random_states(seed)
    shape, scale = (image_size, image_size), image_size / REFERENCE_SIZE
    flats = style.across_flats * scale * (1 + rng.uniform(-style.size_spread, style.size_spread))
    margin = flats / np.sqrt(3) + 3 * scale
    x, y = rng.uniform(margin, image_size - margin, 2)
    nut = _draw_nut(rng, style, scale, x, y, flats)
    light = _draw_light(rng, style)
    picture = _draw_bench(rng, style, shape, scale)
    defects, edits = ([], _Edits()) if defect_type is None else _place_defects(defect_rng, nut, defect_type, shape)
    _cast_shadow(picture, nut, light)
    _paint_nut(picture, nut, light, edits)
    image = take_photo(picture, camera_rng, style.camera, scale)
    return Drawing(image=image, mask=defects_mask(defects, shape), defects=defects)


# --- frames with several nuts ---------------------------------------------------------------------------


@dataclass(frozen=True)
class NutInstance:
    """One nut of a frame: its outline (N, 2) in pixels and its defects (none for a good nut)."""

    polygon: Points
    defects: list[Defect]


@dataclass(frozen=True)
class Frame:
    """A photo of several nuts: image uint8 (H, W, 3), the instances, and pairs of indices that touch."""

    image: np.ndarray
    nuts: list[NutInstance]
    touching: list[tuple[int, int]]


def convex_gap(first: Points, second: Points) -> float:
    """Largest gap between two convex polygons over their edges' normals; negative when they overlap.

    Zero exactly when they touch (separating axis theorem); for polygons apart it is at most their distance.
    """
    best = -np.inf
    for polygon in (first, second):
        edges = np.roll(polygon, -1, axis=0) - polygon
        normals = np.column_stack([edges[:, 1], -edges[:, 0]])
        normals /= np.hypot(normals[:, 0], normals[:, 1])[:, None]
        a, b = first @ normals.T, second @ normals.T
        gaps = np.maximum(b.min(axis=0) - a.max(axis=0), a.min(axis=0) - b.max(axis=0))
        best = max(best, float(gaps.max()))
    return best


def _fits(nut: _Nut, others: list[_Nut], size: int, gap: float) -> bool:
    outline = nut.outline()
    if not inside(outline, (size, size), 2):
        return False
    return all(
        np.hypot(nut.x - other.x, nut.y - other.y) > nut.corner_radius + other.corner_radius + gap
        or convex_gap(outline, other.outline()) >= gap
        for other in others
    )


def _push_against(nut: _Nut, other: _Nut, direction: float) -> None:
    """Move a nut along a line from another one until the two touch."""
    near, far = 0.0, nut.corner_radius + other.corner_radius + 1
    for _ in range(30):
        middle = (near + far) / 2
        nut.x, nut.y = other.x + middle * np.cos(direction), other.y + middle * np.sin(direction)
        if convex_gap(nut.outline(), other.outline()) >= 0:
            far = middle
        else:
            near = middle
    nut.x, nut.y = other.x + far * np.cos(direction), other.y + far * np.sin(direction)


def render_frame(
    seed: Seed,
    *,
    frame_size: int = 512,
    image_size: int = 256,
    n_nuts: tuple[int, int] = (4, 9),
    touching_share: float = 0.5,
    defect_share: float = 0.25,
    style: NutStyle | None = None,
) -> Frame:
    """Draw one photo of several nuts on the workbench, some of them touching.

    Args:
        seed: a number or a sequence of numbers.
        frame_size: side of the square frame in pixels.
        image_size: side of the single photos; it sets the scale, so that nuts are as large as there.
        n_nuts: fewest and most nuts; fewer lie in a frame that is too small for them.
        touching_share: share of the nuts that are pushed against another one.
        defect_share: share of the nuts that have a defect.
        style: how the nuts look.

    Returns:
        Frame with the outlines as float64 polygons; they touch but do not overlap.

    Raises:
        ValueError: when not even one nut fits into the frame.
    """
    style = style or NutStyle()
    rng, defect_rng, camera_rng = random_states(seed)
    scale = image_size / REFERENCE_SIZE
    shape = (frame_size, frame_size)
    largest = style.across_flats * scale * (1 + style.size_spread) / np.sqrt(3) + 3
    if 2 * largest > frame_size:
        raise ValueError(f"frame_size={frame_size} is too small for one nut; use at least {int(2 * largest) + 1}")
    wanted = int(rng.integers(n_nuts[0], n_nuts[1] + 1))
    nuts: list[_Nut] = []
    for _ in range(60 * wanted):
        if len(nuts) == wanted:
            break
        flats = style.across_flats * scale * (1 + rng.uniform(-style.size_spread, style.size_spread))
        x, y = rng.uniform(largest, frame_size - largest, 2)
        nut = _draw_nut(rng, style, scale, x, y, flats)
        if nuts and rng.random() < touching_share:
            other = nuts[int(rng.integers(len(nuts)))]
            _push_against(nut, other, rng.uniform(0, 2 * np.pi))
            rest = [each for each in nuts if each is not other]
            if _fits(nut, [other], frame_size, -1e-3) and _fits(nut, rest, frame_size, 0.0):
                nuts.append(nut)
        elif _fits(nut, nuts, frame_size, 5 * scale):
            nuts.append(nut)
    light = _draw_light(rng, style)
    picture = _draw_bench(rng, style, shape, scale)
    instances, all_edits = [], []
    for nut in nuts:
        defects, edits = [], _Edits()
        if defect_rng.random() < defect_share:
            names = list(NUT_DEFECTS)
            defects, edits = _place_defects(defect_rng, nut, names[int(defect_rng.integers(len(names)))], shape)
        corners = [point[None] for point in nut.outline()]
        for _, corner, broken in edits.chips:
            corners[corner] = broken
        instances.append(NutInstance(np.concatenate(corners), defects))
        all_edits.append(edits)
        _cast_shadow(picture, nut, light)
    for nut, edits in zip(nuts, all_edits, strict=True):
        _paint_nut(picture, nut, light, edits)
    whole = [nut.outline() for nut in nuts]
    touching = [
        (i, j) for i in range(len(nuts)) for j in range(i + 1, len(nuts)) if convex_gap(whole[i], whole[j]) < 0.25
    ]
    image = take_photo(picture, camera_rng, style.camera, scale)
    return Frame(image=image, nuts=instances, touching=touching)
