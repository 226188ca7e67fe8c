"""Draws hex nuts from above on a workbench, and what can go wrong with them."""

from __future__ import annotations

import cv2
import numpy as np

from helpers.pictures import scene
from helpers.pictures.scene import TURN, Defect, Drawing, Float, Points, Seed, smoothstep

LOOK = scene.look("nuts")


class Nut:
    """One nut: where it lies, its size and its surface. ``angle`` is that of the first corner."""

    def __init__(self, rng: np.random.Generator, scale: float, x: float, y: float, flats: float) -> None:
        self.look, self.scale, self.x, self.y = LOOK, scale, x, y
        self.flats = flats  # across flats, in pixels
        self.margin, self.distance = 1, 6 * scale  # of defects
        metal = rng.uniform(*LOOK.metal) * np.array([1.0, 0.985, 0.95]) * (1 + rng.normal(0, 0.012, 3))
        self.metal = metal.astype(np.float32)
        self.angle, self.thread_phase = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        self.surface = np.random.default_rng(int(rng.integers(2**62)))

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


# --- defects: each looks for a place; `Defect.how` says how it is painted


def _scratch(rng: np.random.Generator, nut: Nut) -> Defect:
    look = nut.look
    low, high = nut.radius(look.countersink) + 2 * nut.scale, nut.flats / 2 - 4 * nut.scale
    wanted = rng.uniform(*look.scratch_length) * nut.scale
    begin, end = rng.uniform(low, high), rng.uniform(low, high)
    turn = np.sqrt(max(wanted**2 - (end - begin) ** 2, (0.5 * wanted) ** 2)) / ((begin + end) / 2)
    t = np.linspace(0, 1, 40)
    radius = begin + (end - begin) * t
    angle = rng.uniform(0, 2 * np.pi) + turn * t
    straight = nut.place(radius[[0, -1]], angle[[0, -1]])
    chord = straight[:1] + t[:, None] * (straight[1:] - straight[:1])
    centreline = curved = nut.place(radius, angle)
    for bend in (rng.uniform(0.0, 0.4), 0.5, 0.7, 0.85):  # as straight as the place between hole and edge allows
        trial = bend * curved + (1 - bend) * chord
        if np.hypot(trial[:, 0] - nut.x, trial[:, 1] - nut.y).min() >= low - nut.scale:
            centreline = trial
            break
    width = max(rng.uniform(*look.scratch_width) * nut.scale, 1.9) * (1 - 0.45 * np.abs(2 * t - 1) ** 3)
    outline = scene.stroke_polygon(centreline, width)
    return Defect("scratch", outline, scene.polyline_length(centreline), "centreline", (centreline,))


def _dent(rng: np.random.Generator, nut: Nut) -> Defect:
    look = nut.look
    axes = rng.uniform(*look.dent_radius) * nut.scale * np.array([1.0, rng.uniform(0.7, 1.0)])
    low, high = nut.radius(look.countersink) + 0.7 * axes[0], nut.radius(look.face) - 0.5 * axes[0]
    centre = nut.place(np.array([rng.uniform(low, max(high, low + 0.1))]), np.array([rng.uniform(0, 2 * np.pi)]))[0]
    directions = scene.rotation(rng.uniform(0, np.pi))
    outline = centre + np.column_stack([axes[0] * np.cos(TURN), axes[1] * np.sin(TURN)]) @ directions
    return Defect.feret("dent", outline, centre, directions / axes[:, None], rng.uniform(*look.dent_depth))


def _stain(rng: np.random.Generator, nut: Nut) -> Defect:
    look = nut.look
    size = rng.uniform(*look.stain_radius) * nut.scale
    radii = size * scene.blob_radii(rng, 0.35)
    middle = rng.uniform(nut.radius(look.countersink) + 0.6 * size, nut.radius(look.face) - 0.4 * size)
    stretch = rng.uniform(1.0, 1.9)  # drops spread around the ring
    outline = nut.place(
        middle + 0.8 * radii * np.sin(TURN), rng.uniform(0, 2 * np.pi) + stretch * radii * np.cos(TURN) / middle
    )
    colour = np.array([[0.42, 0.25, 0.12], [0.16, 0.15, 0.17], [0.50, 0.38, 0.18]])[rng.integers(3)]
    return Defect.feret("stain", outline, colour.astype(np.float32), rng.uniform(*look.stain_opacity))


def _chipped_corner(rng: np.random.Generator, nut: Nut) -> Defect:
    corner, corners = int(rng.integers(6)), nut.outline()
    tip = corners[corner]
    edges = [corners[(corner + step) % 6] - tip for step in (-1, 1)]
    reach = [rng.uniform(*nut.look.chip_edge) * nut.scale for _ in range(2)]
    ends = [tip + edge / np.hypot(*edge) * length for edge, length in zip(edges, reach, strict=True)]
    t = np.linspace(0, 1, 9)
    inward = np.array([nut.x, nut.y]) - tip
    inward /= np.hypot(*inward)
    depth = rng.normal(0, 0.8, 9) + rng.uniform(2.0, 5.5) * np.sqrt(np.sin(np.pi * t))
    depth[[0, -1]] = 0
    broken = ends[0] + t[:, None] * (ends[1] - ends[0]) + nut.scale * depth[:, None] * inward
    return Defect.feret("chipped_corner", np.concatenate([broken, tip[None]]), corner, broken)


def _damaged_thread(rng: np.random.Generator, nut: Nut) -> Defect:
    look = nut.look
    span = np.deg2rad(rng.uniform(*look.thread_damage))
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, span, 24)
    taper = np.sin(np.pi * np.linspace(0.12, 0.88, 24)) ** 0.5
    inner, outer = nut.radius(look.thread_minor) + 0.5 * nut.scale, nut.radius(look.thread_major) + 1.0 * nut.scale
    middle, half = (inner + outer) / 2, (outer - inner) / 2
    wobble = 1 + 0.10 * rng.normal(size=24)
    low = nut.place(middle - half * taper * np.minimum(wobble, 1.1), angle)
    outline = np.concatenate([low, nut.place(middle + half * taper, angle)[::-1]])
    return Defect("damaged_thread", outline, middle * span, "centreline", (int(rng.integers(2**31)),))


NUT_DEFECTS = {one.__name__[1:]: one for one in (_scratch, _dent, _stain, _chipped_corner, _damaged_thread)}


# --- the picture


def draw_bench(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Float:
    """A cast, slightly worn workbench: (H, W, 3)."""
    tone = rng.uniform(*LOOK.bench)
    grain = 0.06 * scene.smooth_noise(rng, shape, 0.8 * scale) + 0.05 * scene.smooth_noise(rng, shape, 2.6 * scale)
    patches = 0.06 * scene.smooth_noise(rng, shape, 24 * scale)
    colour = np.array([0.94, 1.0, 1.05]) * (1 + rng.normal(0, 0.015, 3))
    return (tone * (1 + grain + patches))[..., None] * colour.astype(np.float32)


def _hex_distance(nut: Nut, px: Float, py: Float) -> tuple[Float, Float, Float]:
    """Signed distance to the nearest flat (negative inside) and that flat's normal in the nut's frame."""
    best = nx = ny = np.float32(-1)
    for k in range(3):
        angle = np.pi / 6 + k * np.pi / 3
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along = c * px + s * py
        nearer, sign = np.abs(along) > best, np.sign(along)
        best, nx, ny = (np.where(nearer, *pair) for pair in ((np.abs(along), best), (c * sign, nx), (s * sign, ny)))
    return best - np.float32(nut.flats / 2), nx, ny


def _window(nut: Nut, shape: tuple[int, int], pad: float) -> tuple[slice, slice]:
    reach = nut.corner_radius + pad
    rows = slice(max(int(nut.y - reach), 0), min(int(nut.y + reach) + 2, shape[0]))
    return rows, slice(max(int(nut.x - reach), 0), min(int(nut.x + reach) + 2, shape[1]))


def cast_shadow(picture: Float, nut: Nut, light: np.ndarray) -> None:
    """Darken the bench beside a nut, in place."""
    s = nut.scale
    rows, columns = _window(nut, picture.shape[:2], 26 * s)
    x, y = scene.pixel_centres((rows.stop - rows.start, columns.stop - columns.start))
    x, y = x + np.float32(columns.start - nut.x), y + np.float32(rows.start - nut.y)
    c, sn = np.float32(np.cos(nut.angle)), np.float32(np.sin(nut.angle))
    dark = np.zeros_like(x)
    for throw, soft, strength in ((7.0, 9.0, 0.50), (2.0, 4.0, 0.35)):  # cast shadow, contact shadow
        sx, sy = x + np.float32(throw * s * light[0]), y + np.float32(throw * s * light[1])
        distance = _hex_distance(nut, c * sx + sn * sy, -sn * sx + c * sy)[0]
        dark = np.maximum(dark, strength * smoothstep(0.5 - distance / np.float32(soft * s)))
    picture[rows, columns] *= (1 - dark)[..., None]


class _Surface:
    """The pixels about one nut, and what is known of each: its place on the nut, its zone, its slope."""

    def __init__(self, picture: Float, nut: Nut) -> None:
        look, s = nut.look, np.float32(nut.scale)
        self.nut, self.s, self.window = nut, s, _window(nut, picture.shape[:2], 3 * nut.scale)
        self.below = picture[self.window]
        self.shape = self.below.shape[:2]
        rows, columns = self.window
        self.origin = np.array([columns.start, rows.start], dtype=np.float64)
        self.gx, self.gy = scene.pixel_centres(self.shape)
        x, y = self.gx + np.float32(columns.start - nut.x), self.gy + np.float32(rows.start - nut.y)
        c, sn = np.float32(np.cos(nut.angle)), np.float32(np.sin(nut.angle))
        self.x, self.y, self.px, self.py = x, y, c * x + sn * y, -sn * x + c * y
        self.r, self.theta = np.sqrt(x * x + y * y) + np.float32(1e-3), np.arctan2(y, x)
        hexagon, fx, fy = _hex_distance(nut, self.px, self.py)
        self.coverage = np.clip(0.5 - hexagon, 0, 1)
        minor, major = np.float32(nut.radius(look.thread_minor)), np.float32(nut.radius(look.thread_major))
        sink, face = np.float32(nut.radius(look.countersink)), np.float32(nut.radius(look.face))
        self.in_sink = smoothstep((sink - self.r) / (1.5 * s) + 0.5)
        self.in_chamfer = smoothstep((self.r - face) / (2.0 * s) + 0.5)
        self.in_thread = smoothstep((major - self.r) / (1.2 * s) + 0.5)
        self.in_hole, self.minor = smoothstep((minor - self.r) / (1.5 * s) + 0.5), minor

        # Slope of the surface away from the axis: countersink, flat face, chamfer.
        slope = -0.55 * self.in_sink + 0.42 * self.in_chamfer
        turns = 2 * np.pi * 1.9 * (self.r - minor) / (major - minor)
        ripple = np.sin(turns + (self.theta - np.float32(nut.angle)) + nut.thread_phase)
        slope = slope * (1 - self.in_thread) + self.in_thread * (0.95 * ripple - 0.35)
        bevel = smoothstep((hexagon + 2.2 * s) / (2.2 * s)) * 0.7  # the sharp edge of each flat is a little round
        self.nx = slope * x / self.r + bevel * (c * fx - sn * fy)
        self.ny = slope * y / self.r + bevel * (sn * fx + c * fy)

    def on_metal(self, values: Float) -> Float:
        """Values (192, 192) that turn with the nut, at each pixel."""
        rows, columns = ((place / self.s + 96).astype(np.int32) for place in (self.py, self.px))
        return values[np.clip(rows, 0, 191), np.clip(columns, 0, 191)]

    def cover(self, defect: Defect) -> Float:
        return scene.polygon_coverage(defect.polygon - self.origin, self.shape)

    def press(self, defect: Defect) -> None:
        """Change the slopes by a dent or a scratch."""
        cover = self.cover(defect)
        if defect.type == "dent":
            centre, to_unit, depth = defect.how
            dx, dy = self.gx + self.origin[0] - centre[0], self.gy + self.origin[1] - centre[1]
            ux, uy = to_unit[0, 0] * dx + to_unit[0, 1] * dy, to_unit[1, 0] * dx + to_unit[1, 1] * dy
            rho2 = np.clip(ux * ux + uy * uy, 0, 1)
            pressed = depth * 3.0 * np.sqrt(rho2) * (1 - rho2) + 0.25 * depth * np.sqrt(rho2)
            norm = np.sqrt(ux * ux + uy * uy) + 1e-3
            size = np.sqrt(abs(np.linalg.det(to_unit)))
            self.nx -= cover * pressed * ((to_unit[0, 0] * ux + to_unit[1, 0] * uy) / norm) / size
            self.ny -= cover * pressed * ((to_unit[0, 1] * ux + to_unit[1, 1] * uy) / norm) / size
        elif defect.type == "scratch":
            local = defect.how[0] - self.origin
            points, tangent = local[::4], scene.tangents(local)[::4]
            nearest = ((self.gx[..., None] - points[:, 0]) ** 2 + (self.gy[..., None] - points[:, 1]) ** 2).argmin(-1)
            tx, ty = tangent[nearest, 0], tangent[nearest, 1]
            across = -(self.gx - points[nearest, 0]) * ty + (self.gy - points[nearest, 1]) * tx
            groove = -0.5 * np.clip(across / (1.0 * self.s), -1, 1) * cover
            self.nx += groove * -ty
            self.ny += groove * tx

    def lit(self, light: np.ndarray) -> tuple[Float, Float]:
        """Tone (H, W) and colour (H, W, 3): matt part, a broad highlight, and the bow tie that turned rings reflect."""
        nut, look, surface = self.nut, self.nut.look, self.nut.surface
        inv = 1 / np.sqrt(1 + self.nx * self.nx + self.ny * self.ny)
        diffuse = np.maximum((light[0] * self.nx + light[1] * self.ny + light[2]) * inv, 0)
        half = light + np.array([0, 0, 1], dtype=np.float32)
        half = half / np.linalg.norm(half)
        shine = np.maximum((half[0] * self.nx + half[1] * self.ny + half[2]) * inv, 0) ** 18
        azimuth = np.arctan2(light[1], light[0])
        on_face = (1 - self.in_sink) * (1 - self.in_chamfer)
        bow = np.abs(np.cos(self.theta - np.float32(azimuth))) ** 6 * on_face
        rings = surface.standard_normal(int(4 * nut.corner_radius / nut.scale) + 16, dtype=np.float32)
        rings = cv2.GaussianBlur(rings[None], (0, 0), 1.6)[0]
        rings = look.turning_marks * rings / rings.std()
        marks = rings[np.clip((self.r / self.s * 3).astype(np.int32), 0, len(rings) - 1)] * (1 - self.in_thread)
        grain = cv2.GaussianBlur(surface.standard_normal((192, 192), dtype=np.float32), (0, 0), 0.8)
        grain *= look.grain / grain.std()
        tone = (0.30 + 0.80 * diffuse) * (1 + marks + self.on_metal(grain)) * (1 - 0.35 * self.in_thread)
        gloss = 0.26 * shine * (1 - self.in_thread * 0.4) + 0.13 * bow
        return tone, tone[..., None] * nut.metal + gloss[..., None]

    def marked(self, metal: Float, tone: Float, defect: Defect) -> Float:
        """The metal with a scratch, a torn thread or a stain on it."""
        cover = self.cover(defect)
        if defect.type == "scratch":  # bare metal glints
            return metal + cover[..., None] * (0.45 * metal + np.float32(0.27) - metal * np.float32(0.30))
        if defect.type == "damaged_thread":
            rough = self.on_metal(scene.smooth_noise(np.random.default_rng(defect.how[0]), (192, 192), 1.5))
            flat = self.nut.metal * np.clip(0.85 + 0.30 * rough, 0.2, 1.6)[..., None]
            return metal + 0.92 * cover[..., None] * (flat - metal)
        if defect.type == "stain":
            colour, opacity = defect.how
            soft = cv2.GaussianBlur(cover, (0, 0), 2.2 * self.nut.scale + 0.2)
            film = np.clip(opacity * cover + 0.35 * (cover * (1 - soft)), 0, 0.92)[..., None]  # darkest at its rim
            return metal * (1 - film) + film * colour * (0.45 + 0.55 * tone[..., None])
        return metal

    def chipped(self, surface: Float, defect: Defect) -> Float:
        """The surface where a corner is gone: the broken face slopes down to the bench."""
        cover, s, nut = self.cover(defect), self.s, self.nut
        ends = defect.how[1][[0, -1]] - self.origin
        chord = ends[1] - ends[0]
        chord /= np.hypot(*chord)
        middle = np.array([nut.x, nut.y]) - self.origin
        side = np.sign((middle[0] - ends[0, 0]) * -chord[1] + (middle[1] - ends[0, 1]) * chord[0])
        out = -side * ((self.gx - ends[0, 0]) * -chord[1] + (self.gy - ends[0, 1]) * chord[0])
        ledge = cover * smoothstep((3.8 * s - out) / (1.5 * s) + 0.5)
        rough = np.clip(0.96 + 0.22 * scene.smooth_noise(nut.surface, self.shape, 1.3 * nut.scale), 0.3, 1.5)
        gone = self.below * 1.45  # most of the shadow went with the corner
        lost = gone + (ledge / np.maximum(cover, 1e-3))[..., None] * (rough[..., None] * nut.metal - gone)
        return surface + cover[..., None] * (lost - surface)


def paint_nut(picture: Float, nut: Nut, light: np.ndarray, defects: list[Defect]) -> None:
    """Paint one nut over a bench that already has its shadow, in place."""
    place = _Surface(picture, nut)
    for defect in defects:
        place.press(defect)
    tone, metal = place.lit(light)
    for defect in defects:
        metal = place.marked(metal, tone, defect)
    hole_tone = 0.28 + 0.25 * smoothstep(0.5 - (place.x * light[0] + place.y * light[1]) / (1.6 * place.minor))
    surface = metal + place.in_hole[..., None] * (place.below * hole_tone[..., None] - metal)
    for defect in defects:
        if defect.type == "chipped_corner":
            surface = place.chipped(surface, defect)
    picture[place.window] = place.below + place.coverage[..., None] * (surface - place.below)


def draw_light(rng: np.random.Generator) -> np.ndarray:
    azimuth = np.deg2rad(-130 + rng.uniform(-LOOK.light_azimuth, LOOK.light_azimuth))
    return np.array([0.60 * np.cos(azimuth), 0.60 * np.sin(azimuth), 0.80], dtype=np.float32)


def render_nut(seed: Seed, defect_type: str | None = None, *, image_size: int = 256) -> Drawing:
    """One photo of a nut; the same seed gives the same nut, light and noise with a defect as without."""
    scene.check_request(defect_type, list(NUT_DEFECTS), image_size)
    rng, defect_rng, camera_rng = scene.random_states(seed)
    shape, scale = (image_size, image_size), image_size / scene.REFERENCE_SIZE
    flats = LOOK.across_flats * scale * (1 + rng.uniform(-LOOK.size_spread, LOOK.size_spread))
    margin = flats / np.sqrt(3) + 3 * scale
    x, y = rng.uniform(margin, image_size - margin, 2)
    nut = Nut(rng, scale, x, y, flats)
    light, picture = draw_light(rng), draw_bench(rng, shape, scale)
    defects = [] if defect_type is None else scene.place_defects(defect_rng, NUT_DEFECTS[defect_type], nut, shape)
    cast_shadow(picture, nut, light)
    paint_nut(picture, nut, light, defects)
    return Drawing(scene.take_photo(picture, camera_rng, LOOK.camera, scale), defects)
