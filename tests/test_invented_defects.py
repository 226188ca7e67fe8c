"""Invented defects: exact masks, the same defect at any opacity, sizes and places as asked for."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist

from helpers.pictures.defects import KINDS, simulate_defect

SHAPE = (100, 140)
SEEDS = range(6)


def noise(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.clip(np.random.default_rng(1).normal(120, 25, (*shape, 3)), 0, 255).astype(np.uint8)


PHOTO = noise()


def simulated(kind: str, seed: int, photo: np.ndarray = PHOTO, **options):
    return simulate_defect(photo, kind, np.random.default_rng((0, seed)), **options)


def diameter(mask: np.ndarray) -> float:
    """Largest distance between the centres of two pixels of the mask."""
    return float(pdist(np.argwhere(mask & ~ndimage.binary_erosion(mask))).max())


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_mask_changes_and_opacity_changes_nothing_but_the_strength(kind):
    for seed in SEEDS:
        photo, mask = simulated(kind, seed)
        assert (photo.dtype, photo.shape, mask.dtype, mask.shape) == (np.uint8, PHOTO.shape, bool, SHAPE)
        np.testing.assert_array_equal(photo[~mask], PHOTO[~mask])
        change = np.abs(photo[mask].astype(int) - PHOTO[mask])
        assert change.mean() >= 9.5 and (change.max(axis=1) > 0).mean() > 0.9
        for opacity in (0.75, 0.05):
            rng, again = np.random.default_rng((0, seed)), np.random.default_rng((0, seed))
            faint, same = simulate_defect(PHOTO, kind, rng, opacity=opacity)
            np.testing.assert_array_equal(same, mask)
            mixed = PHOTO + opacity * (photo.astype(float) - PHOTO)
            # both are rounded to whole grey levels: half a level each at most
            assert np.abs(faint - mixed).max() <= 0.5 + 0.5 * opacity + 1e-3
            simulate_defect(PHOTO, kind, again)
            assert rng.bit_generator.state == again.bit_generator.state
    assert (simulated(kind, 4)[1] != mask).any()
    np.testing.assert_array_equal(PHOTO, noise())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_size_is_the_circle_around_the_defect(kind, share):
    extent = share * 100  # the shorter side
    for seed in SEEDS:
        mask = simulated(kind, seed, size=(share, share))[1]
        area, across = mask.sum(), diameter(mask)
        assert across <= extent + 1
        if kind == "cut_paste":
            # its corners lie on the circle; sides from 1 to 1 (half of the square of the diagonal) to 1 to 3 (0.3)
            assert across >= extent - 3 and 0.27 * extent**2 < area < 0.53 * extent**2
        elif kind == "scratch":
            assert across > 0.8 * extent and area < extent * max(3.0, 0.06 * extent), "thin"
        elif kind == "perlin_texture":
            # of the circle's pixels, 30 to 60 %; counting pixels is off by about one along its rim
            circle = np.pi * extent**2 / 4
            assert 0.3 * circle - 2 * extent < area < 0.6 * circle + 2 * extent
        else:
            assert across > 0.4 * extent
        if kind != "perlin_texture":
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1, "one region"


def test_sizes_come_from_the_whole_range_and_defects_from_everywhere():
    diameters = [diameter(simulated("cut_paste", seed, size=(0.1, 0.8))[1]) for seed in range(40)]
    # drawn evenly on a logarithmic scale: half of them below sqrt(10 * 80) = 28
    assert min(diameters) < 15 and max(diameters) > 55
    assert 10 <= sum(value < 28 for value in diameters) <= 30
    for kind in KINDS:
        assert 4 <= simulated(kind, 0, size=(0.001, 0.001))[1].sum() <= 25, "in a circle of 5 pixels"
    covered = np.any([simulated("spot", seed, size=(0.2, 0.3))[1] for seed in range(150)], axis=0)
    assert covered.reshape(5, 20, 7, 20).any(axis=(1, 3)).all(), "corners included"


@pytest.mark.parametrize("kind", KINDS)
def test_grey_photos_get_grey_defects(kind):
    for seed in SEEDS:
        photo, _ = simulated(kind, seed, np.repeat(PHOTO[..., :1], 3, axis=2))
        assert (photo == photo[..., :1]).all()
    with pytest.raises(ValueError, match="140x15"):
        simulated(kind, 0, PHOTO[:15])
