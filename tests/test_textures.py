"""The procedural texture bank: deterministic, varied, never flat, and each family what its name says."""

from __future__ import annotations

import colorsys
import itertools
import json
import pickle

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from helpers.pictures import textures
from helpers.pictures.textures import FAMILIES, TextureBank, draw_texture, write_textures

N_SEEDS = 20
SIDE = 96


@pytest.fixture(scope="module")
def samples() -> dict[str, list[np.ndarray]]:
    """N_SEEDS raw pictures of each family, grey, (96, 96)."""
    return {
        name: [
            picture if picture.ndim == 2 else picture.mean(axis=2)
            for picture in (draw(np.random.default_rng([1, seed]), SIDE, SIDE) for seed in range(N_SEEDS))
        ]
        for name, draw in FAMILIES.items()
    }


def power(picture: np.ndarray) -> np.ndarray:
    """Power spectrum without the mean, under a window that hides the picture's borders."""
    window = np.outer(np.hanning(picture.shape[0]), np.hanning(picture.shape[1]))
    return np.abs(np.fft.fft2((picture - picture.mean()) * window)) ** 2


def radial_frequency(shape: tuple[int, int]) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])


# --- whole pictures ---------------------------------------------------------------------------------------------------


def test_same_seed_same_picture_whatever_the_global_state() -> None:
    np.random.seed(1)
    first = [draw_texture((3, index), 64) for index in range(12)]
    np.random.seed(2)
    before = np.random.get_state()[1].copy()
    again = [draw_texture((3, index), 64) for index in reversed(range(12))][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_seeds_differ() -> None:
    seeds = [0, 1, (0, 1), (1, 0), (0, 0), (1, 0, 0), 2**32, (0, 2**40)]
    pictures = [draw_texture(seed, 48, family="spectral", mix=0.0) for seed in seeds]
    for one, other in itertools.combinations(pictures, 2):
        assert np.abs(one.astype(int) - other).mean() > 3
    np.testing.assert_array_equal(draw_texture(5, 32), draw_texture((5,), 32))


def test_rounding_errors_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processors round noise and blurs differently in the last digit; no pixel may flip for that."""
    seeds = [(4, index) for index in range(2 * len(FAMILIES))]
    exact = [draw_texture(seed, 128, family=list(FAMILIES)[seed[1] % len(FAMILIES)]) for seed in seeds]
    jitter = np.random.default_rng(0)

    def disturbed(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            noise = jitter.standard_normal(result.shape, dtype=np.float32)
            return result + np.float32(2e-7) * np.abs(result).max() * noise

        return call

    monkeypatch.setattr(textures, "_smooth_noise", disturbed(textures._smooth_noise))
    monkeypatch.setattr(textures, "_spectral_noise", disturbed(textures._spectral_noise))
    monkeypatch.setattr(cv2, "GaussianBlur", disturbed(cv2.GaussianBlur))
    differences = [
        np.abs(draw_texture(seed, 128, family=list(FAMILIES)[seed[1] % len(FAMILIES)]).astype(int) - picture)
        for seed, picture in zip(seeds, exact, strict=True)
    ]
    assert max(difference.max() for difference in differences) > 0  # the disturbance did arrive
    assert np.mean([(difference > 1).mean() for difference in differences]) < 1e-5


@pytest.mark.parametrize("size", [16, 33, (47, 130), (121, 40)])
def test_shape_type_and_range(size: int | tuple[int, int]) -> None:
    shape = (size, size) if isinstance(size, int) else size
    for index, name in enumerate(FAMILIES):
        raw = FAMILIES[name](np.random.default_rng(index), *shape)
        assert raw.dtype == np.float32, name
        assert raw.shape in (shape, (*shape, 3)), name
        assert np.isfinite(raw).all() and raw.min() >= 0 and raw.max() <= 1 + 1e-6, name
        picture = draw_texture(index, size, family=name)
        assert picture.dtype == np.uint8 and picture.shape == (*shape, 3), name


def test_grey_and_colour() -> None:
    for index in range(20):
        grey = draw_texture(index, 48, grey=1.0).astype(int)
        colour = draw_texture(index, 48, grey=0.0).astype(int)
        assert np.ptp(grey, axis=2).max() == 0
        assert np.ptp(colour, axis=2).max() >= 5
    share = np.mean([np.ptp(draw_texture((8, index), 16, mix=0.0), axis=2).max() == 0 for index in range(150)])
    assert 0.22 < share < 0.48  # 0.35, three and a half standard errors about


def test_family_argument_and_mix() -> None:
    rng = np.random.default_rng(0)
    plain = [draw_texture((2, index), 64, family="stripes", mix=0.0) for index in range(8)]
    mixed = [draw_texture((2, index), 64, family="stripes", mix=1.0) for index in range(8)]
    assert all(np.abs(one.astype(int) - other).mean() > 2 for one, other in zip(plain, mixed, strict=True))
    # Unnamed, all families come: some name gives the very picture.
    found = set()
    for _ in range(6):
        seed = int(rng.integers(1000))
        unnamed = draw_texture(seed, 24, mix=0.0)
        names = [name for name in FAMILIES if np.array_equal(draw_texture(seed, 24, family=name, mix=0.0), unnamed)]
        assert len(names) == 1
        found.update(names)
    assert len(found) > 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": ()}, "seed"),
        ({"seed": 0, "size": 8}, "size"),
        ({"seed": 0, "mix": 1.5}, "mix"),
        ({"seed": 0, "grey": -0.1}, "grey"),
        ({"seed": 0, "family": "tartan"}, "tartan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        draw_texture(**arguments)


def test_no_picture_is_flat_or_burnt_out() -> None:
    for index in range(120):
        picture = draw_texture((6, index), 64)
        grey = picture.mean(axis=2)
        assert grey.std() > 8, index
        assert ((picture == 0).all(axis=2) | (picture == 255).all(axis=2)).mean() < 0.6, index
        assert 15 < grey.mean() < 240, index


# --- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_contrast_and_is_not_saturated(samples: dict[str, list[np.ndarray]], name: str) -> None:
    for seed, picture in enumerate(samples[name]):
        assert picture.std() > 0.05, seed
        assert 0.03 < picture.mean() < 0.97, seed
    # A mosaic of two tones is black and white on purpose; it too holds greys at joints and by wear.
    clipped = [((picture <= 0) | (picture >= 1)).mean() for picture in samples[name]]
    assert np.median(clipped) < (0.5 if name == "mosaic" else 0.05)


def test_families_can_be_told_apart(samples: dict[str, list[np.ndarray]]) -> None:
    """Three neighbours in a few statistics name the family far more often than the 4 % of chance."""
    frequency = radial_frequency((SIDE, SIDE))
    rings = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(np.geomspace(0.015, 0.5, 9))]

    def describe(picture: np.ndarray) -> list[float]:
        spectrum = power(picture)
        scaled = (picture - picture.mean()) / picture.std()
        slopes = np.abs(np.gradient(picture)).sum(axis=0) / picture.std()
        return [
            *(np.log(spectrum[ring].mean() / spectrum.mean()) for ring in rings),
            np.log(np.sort(spectrum, axis=None)[-10:].sum() / spectrum.sum()),
            (scaled**3).mean(),
            np.log((scaled**4).mean()),
            np.log((slopes**4).mean() / (slopes**2).mean() ** 2),
            (slopes < 0.05).mean(),
        ]

    features = np.array([[describe(picture) for picture in samples[name]] for name in FAMILIES])
    labels = np.repeat(np.arange(len(FAMILIES))[:, None], N_SEEDS, axis=1)
    half = N_SEEDS // 2
    scaler = StandardScaler().fit(features[:, :half].reshape(-1, features.shape[-1]))
    known = scaler.transform(features[:, :half].reshape(-1, features.shape[-1]))
    new = scaler.transform(features[:, half:].reshape(-1, features.shape[-1]))
    accuracy = KNeighborsClassifier(3).fit(known, labels[:, :half].ravel()).score(new, labels[:, half:].ravel())
    assert accuracy > 0.25


def test_stripes_and_moire_have_dominant_frequencies(samples: dict[str, list[np.ndarray]]) -> None:
    def peak_share(name: str) -> float:
        spectra = [np.sort(power(picture)[radial_frequency((SIDE, SIDE)) > 0.03]) for picture in samples[name]]
        return float(np.median([spectrum[-8:].sum() / spectrum.sum() for spectrum in spectra]))

    assert peak_share("stripes") > 0.3
    for other in ("spectral", "grain", "fractal", "leaves", "cells", "rust"):
        assert peak_share("stripes") > 1.5 * peak_share(other), other


def test_mosaic_is_flat_within_its_pieces() -> None:
    def flat_share(name: str) -> float:
        shares = []
        for seed in range(10):
            picture = FAMILIES[name](np.random.default_rng([2, seed]), 160, 160)
            shares.append((np.abs(np.gradient(picture)).sum(axis=0) < 0.03).mean())
        return float(np.median(shares))

    assert flat_share("mosaic") > 0.4
    assert flat_share("mosaic") > 2 * max(flat_share("cells"), flat_share("spectral"), flat_share("fabric"))


def test_brushed_metal_runs_one_way(samples: dict[str, list[np.ndarray]]) -> None:
    def coherence(picture: np.ndarray) -> float:
        dy, dx = np.gradient(cv2.GaussianBlur(picture, (0, 0), 1.0)[:48, :48])
        xx, yy, xy = (dx * dx).mean(), (dy * dy).mean(), (dx * dy).mean()
        return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))

    medians = {name: np.median([coherence(picture) for picture in samples[name]]) for name in FAMILIES}
    assert medians["brushed"] > 0.35  # turned metal bends within the window
    assert medians["brushed"] > 2 * max(medians[name] for name in ("grain", "fractal", "leaves", "spectral"))


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.7, 1.0, 2.0])
def test_spectral_noise_has_the_slope_asked_for(slope: float) -> None:
    spectrum = np.mean(
        [
            np.abs(np.fft.fft2(textures._spectral_noise(np.random.default_rng(seed), 256, 256, slope))) ** 2
            for seed in range(4)
        ],
        axis=0,
    )
    frequency = radial_frequency((256, 256))
    chosen = (frequency > 0.01) & (frequency < 0.45)
    fitted = np.polyfit(np.log(frequency[chosen]), np.log(spectrum[chosen]), 1)[0]
    assert fitted == pytest.approx(-2 * slope, abs=0.06)


def test_spectral_noise_keeps_to_its_band_and_direction() -> None:
    noise = textures._spectral_noise(np.random.default_rng(0), 256, 256, 0.0, band=(0.1, 0.2))
    frequency, spectrum = radial_frequency((256, 256)), np.abs(np.fft.fft2(noise)) ** 2
    assert spectrum[(frequency > 0.08) & (frequency < 0.25)].sum() > 0.95 * spectrum.sum()
    along_x = textures._spectral_noise(np.random.default_rng(0), 256, 256, 1.0, anisotropy=16.0, angle=0.0)
    dy, dx = np.gradient(along_x)
    assert (dy**2).mean() > 4 * (dx**2).mean()
    dy, dx = np.gradient(textures._spectral_noise(np.random.default_rng(0), 256, 256, 1.0))
    assert (dy**2).mean() == pytest.approx((dx**2).mean(), rel=0.1)


@pytest.mark.parametrize("cell", [1, 5, 20, 31, 32, 100])
def test_smooth_noise_is_of_unit_variance_and_of_its_cell(cell: int) -> None:
    fields = [textures._smooth_noise(np.random.default_rng(seed), 256, 320, cell) for seed in range(30)]
    assert fields[0].shape == (256, 320)
    assert np.mean([(field**2).mean() for field in fields]) == pytest.approx(1.0, abs=0.3)
    far = np.mean([(field[:, : -2 * cell] * field[:, 2 * cell :]).mean() for field in fields])
    assert abs(far) < 0.2
    if cell >= 5:
        near = np.mean([(field[:, : -(cell // 4)] * field[:, cell // 4 :]).mean() for field in fields])
        assert near > 0.7


@pytest.mark.parametrize(("jitter", "brick"), [(0.0, 0.0), (0.5, 0.0), (0.95, 0.0), (0.0, 0.5), (0.4, 0.5)])
def test_cells_are_those_of_a_nearest_neighbour_search(jitter: float, brick: float) -> None:
    rng = np.random.default_rng(3)
    x, y = textures._rotated(rng, 128, 150)
    cells = textures._cells(rng, x, y, 25.0, jitter, brick=brick)
    place = np.stack([x + cells.dx, y + cells.dy], axis=-1)
    _, first = np.unique(cells.number, return_index=True)
    points = place.reshape(-1, 2)[first]
    tree = cKDTree(points)
    distance, index = tree.query(np.stack([x, y], axis=-1), k=2)
    np.testing.assert_allclose(cells.nearest, distance[..., 0], atol=0.01)
    inner = np.s_[40:-40, 40:-40]  # the second nearest of a pixel at the border may be nearest to none
    assert (np.abs(cells.second - distance[..., 1])[inner] < 0.01).mean() > 0.99
    # Distance to the bisector of the two points, by its definition.
    pixel = np.stack([x, y], axis=-1)
    one, two = points[index[..., 0]], points[index[..., 1]]
    across = (two - one) / np.linalg.norm(two - one, axis=-1, keepdims=True)
    border = (((one + two) / 2 - pixel) * across).sum(axis=-1)
    agree = np.abs(cells.second - distance[..., 1]) < 0.01
    unique = agree & (np.abs(tree.query(pixel, k=3)[0][..., 2] - distance[..., 1]) > 0.01)
    np.testing.assert_allclose(cells.border[unique], border[unique], atol=0.02)


def test_hsv_is_that_of_the_standard_library() -> None:
    hsv = np.random.default_rng(0).uniform([-1, 0, 0], [2, 1, 1], (50, 3))
    expected = [colorsys.hsv_to_rgb(hue % 1, saturation, value) for hue, saturation, value in hsv]
    np.testing.assert_allclose(textures._hsv_to_rgb(hsv), expected, atol=1e-6)


# --- bank and folder --------------------------------------------------------------------------------------------------


def test_bank_gives_the_documented_pictures() -> None:
    bank = TextureBank(seed=9, size=(24, 32), families=["wood", "knit", "dots"])
    for index in (0, 1, 5, 10**6):
        expected = draw_texture((9, index), (24, 32), family=["wood", "knit", "dots"][index % 3])
        np.testing.assert_array_equal(bank[index], expected)
    for index, picture in enumerate(itertools.islice(bank, 4)):
        np.testing.assert_array_equal(picture, bank[index])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(bank))[7], bank[7])
    assert TextureBank().names == tuple(FAMILIES)
    with pytest.raises(IndexError, match="-1"):
        bank[-1]
    with pytest.raises(ValueError, match="tartan"):
        TextureBank(families=["tartan"])


def test_write_textures_class_folders_and_refusal(tmp_path) -> None:
    n = len(FAMILIES) + 2
    folder = write_textures(tmp_path / "deep" / "textures", n, size=24, seed=4)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
    names = list(FAMILIES)
    assert files == sorted([f"{name}/0000.png" for name in names] + [f"{name}/0001.png" for name in names[:2]])
    stored = cv2.imread(str(folder / names[1] / "0001.png"))[..., ::-1]
    np.testing.assert_array_equal(stored, TextureBank(4, 24)[len(names) + 1])
    info = json.loads((folder / "textures.json").read_text(encoding="utf-8"))
    assert (info["n"], info["size"], info["seed"]) == (n, [24, 24], 4)

    marker = folder / names[0] / "0000.png"
    written = marker.stat().st_mtime_ns
    assert write_textures(folder, n, size=(24, 24), seed=4) == folder
    assert marker.stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match=r"textures\.json"):
        write_textures(folder, n, size=24, seed=5)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    with pytest.raises(FileExistsError, match="photos"):
        write_textures(foreign, 3, size=24)
    assert list(foreign.iterdir()) == []
    with pytest.raises(ValueError, match="n=0"):
        write_textures(tmp_path / "none", 0)


def test_write_textures_leaves_nothing_when_it_fails(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def failing(seed, *arguments, **options):
        drawn.append(seed)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_texture(seed, *arguments, **options)

    monkeypatch.setattr(textures, "draw_texture", failing)
    with pytest.raises(KeyboardInterrupt):
        write_textures(tmp_path / "textures", 10, size=24)
    assert len(drawn) == 3
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    textures.main([str(tmp_path / "out"), "--n", "3", "--size", "20", "--seed", "1"])
    assert len(list((tmp_path / "out").glob("*/0000.png"))) == 3
    assert "3 textures" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        textures.main([str(tmp_path / "out"), "--n", "4", "--size", "20", "--seed", "1"])
    assert stop.value.code == 2
