"""Draws frames of several nuts, some of them touching: photos in which the parts must be found first."""

from __future__ import annotations

import numpy as np

from helpers.pictures import nuts as single
from helpers.pictures import scene
from helpers.pictures.nuts import LOOK, NUT_DEFECTS, Nut
from helpers.pictures.scene import Defect, Points, Seed

N_NUTS = (4, 9)  # fewest and most in a frame; fewer where it is too small for them
TOUCHING_SHARE, DEFECT_SHARE = 0.5, 0.25  # of a frame's nuts: pushed against another one; with a defect


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
        best = max(best, float(np.maximum(b.min(axis=0) - a.max(axis=0), a.min(axis=0) - b.max(axis=0)).max()))
    return best


def _fits(nut: Nut, others: list[Nut], size: int, gap: float) -> bool:
    outline = nut.outline()
    return scene.inside(outline, (size, size), 2) and all(
        np.hypot(nut.x - other.x, nut.y - other.y) > nut.corner_radius + other.corner_radius + gap
        or convex_gap(outline, other.outline()) >= gap
        for other in others
    )


def _push_against(nut: Nut, other: Nut, direction: float) -> None:
    """Move a nut along a line from another one until the two touch."""
    near, far = 0.0, nut.corner_radius + other.corner_radius + 1
    for _ in range(30):
        middle = (near + far) / 2
        nut.x, nut.y = other.x + middle * np.cos(direction), other.y + middle * np.sin(direction)
        apart = convex_gap(nut.outline(), other.outline()) >= 0
        near, far = (near, middle) if apart else (middle, far)
    nut.x, nut.y = other.x + far * np.cos(direction), other.y + far * np.sin(direction)


def _scatter(rng: np.random.Generator, frame_size: int, scale: float) -> list[Nut]:
    """Nuts that do not overlap, about half of them pushed against another one."""
    largest = LOOK.across_flats * scale * (1 + LOOK.size_spread) / np.sqrt(3) + 3
    if 2 * largest > frame_size:
        raise ValueError(f"frame_size={frame_size} is too small for one nut; use at least {int(2 * largest) + 1}")
    wanted = int(rng.integers(N_NUTS[0], N_NUTS[1] + 1))
    nuts: list[Nut] = []
    for _ in range(60 * wanted):
        if len(nuts) == wanted:
            break
        flats = LOOK.across_flats * scale * (1 + rng.uniform(-LOOK.size_spread, LOOK.size_spread))
        x, y = rng.uniform(largest, frame_size - largest, 2)
        nut = Nut(rng, scale, x, y, flats)
        if nuts and rng.random() < TOUCHING_SHARE:
            other = nuts[int(rng.integers(len(nuts)))]
            _push_against(nut, other, rng.uniform(0, 2 * np.pi))
            rest = [each for each in nuts if each is not other]
            fits = _fits(nut, [other], frame_size, -1e-3) and _fits(nut, rest, frame_size, 0.0)
        else:
            fits = _fits(nut, nuts, frame_size, 5 * scale)
        if fits:
            nuts.append(nut)
    return nuts


def render_frame(
    seed: Seed, *, frame_size: int = 512, image_size: int = 256
) -> tuple[np.ndarray, list[tuple[Points, list[Defect]]]]:
    """A photo (S, S, 3) uint8 of several nuts, as large as in single photos of ``image_size``, and each one's outline
    (N, 2) and defects, mostly none. Outlines touch but do not overlap."""
    kinds = list(NUT_DEFECTS.values())
    rng, defect_rng, camera_rng = scene.random_states(seed)
    scale, shape = image_size / scene.REFERENCE_SIZE, (frame_size, frame_size)
    nuts = _scatter(rng, frame_size, scale)
    light, picture = single.draw_light(rng), single.draw_bench(rng, shape, scale)
    outlines = []
    for nut in nuts:
        defects = []
        if defect_rng.random() < DEFECT_SHARE:
            draw = kinds[int(defect_rng.integers(len(kinds)))]
            defects = scene.place_defects(defect_rng, draw, nut, shape)
        corners = [point[None] for point in nut.outline()]
        for corner, broken in [one.how for one in defects if one.type == "chipped_corner"]:
            corners[corner] = broken
        outlines.append((np.concatenate(corners), defects))
        single.cast_shadow(picture, nut, light)
    for nut, (_, defects) in zip(nuts, outlines, strict=True):
        single.paint_nut(picture, nut, light, defects)
    return scene.take_photo(picture, camera_rng, LOOK.camera, scale), outlines
