"""The defect simulator: exact masks, the same defect at any opacity, sizes and places as asked for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import pdist

from helpers import read_dataset
from helpers.data.images import read_mask
from helpers.pictures.defects import KINDS, SIZES, main, simulate_defect, write_simulated

SHAPE = (100, 140)
SEEDS = range(6)


def noise(level: int = 120, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    draw = np.random.default_rng(1)
    return np.clip(draw.normal(level, 25, (*shape, 3)), 0, 255).astype(np.uint8)


PHOTO = noise()


def simulated(kind: str, seed: int, photo: np.ndarray = PHOTO, **options):
    return simulate_defect(photo, kind, np.random.default_rng((0, seed)), **options)


def diameter(mask: np.ndarray) -> float:
    """Largest distance between the centres of two pixels of the mask."""
    rim = mask & ~ndimage.binary_erosion(mask)
    return float(pdist(np.argwhere(rim)).max())


# -------------------------------------------------------------------------------------------------------- one defect


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opacity", [0.1, 1.0])
def test_outside_the_mask_is_the_photo_and_inside_is_not(kind, opacity):
    before = PHOTO.copy()
    for seed in SEEDS:
        defect = simulated(kind, seed, opacity=opacity)
        assert (defect.photo.dtype, defect.photo.shape) == (np.uint8, PHOTO.shape)
        assert (defect.mask.dtype, defect.mask.shape) == (bool, SHAPE)
        assert (defect.kind, defect.opacity) == (kind, opacity)
        np.testing.assert_array_equal(defect.photo[~defect.mask], PHOTO[~defect.mask])
        assert defect.mask.sum() >= 4
        if opacity == 1:
            change = np.abs(defect.photo[defect.mask].astype(int) - PHOTO[defect.mask])
            assert change.mean() >= 9.5, "10 grey levels, before rounding"
            assert (change.max(axis=1) > 0).mean() > 0.9
    np.testing.assert_array_equal(PHOTO, before)


@pytest.mark.parametrize("kind", KINDS)
def test_opacity_changes_nothing_but_the_strength(kind):
    for seed in SEEDS:
        whole = simulated(kind, seed)
        for opacity in (0.75, 0.3, 0.05):
            faint = simulated(kind, seed, opacity=opacity)
            np.testing.assert_array_equal(faint.mask, whole.mask)
            mixed = PHOTO + opacity * (whole.photo.astype(float) - PHOTO)
            # both are rounded to whole grey levels: half a level each at most
            assert np.abs(faint.photo - mixed).max() <= 0.5 + 0.5 * opacity + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_ends_in_the_same_state_whatever_the_opacity(kind):
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    simulate_defect(PHOTO, kind, one)
    simulate_defect(PHOTO, kind, other, opacity=0.01)
    assert one.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_defect_and_another_seed_another(kind):
    first, again, other = simulated(kind, 3), simulated(kind, 3), simulated(kind, 4)
    np.testing.assert_array_equal(first.photo, again.photo)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.mask != other.mask).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_size_is_the_circle_around_the_defect(kind, share):
    extent = share * 100  # the shorter side
    for seed in SEEDS:
        mask = simulated(kind, seed, size=(share, share)).mask
        area = mask.sum()
        assert diameter(mask) <= extent + 1
        if kind == "cut_paste":
            # its corners lie on the circle; sides from 1 to 1 (half of the square of the diagonal) to 1 to 3 (0.3)
            assert diameter(mask) >= extent - 3
            assert 0.27 * extent**2 < area < 0.53 * extent**2
        elif kind == "scratch":
            assert diameter(mask) > 0.8 * extent
            assert area < extent * max(3.0, 0.06 * extent), "thin"
        elif kind == "perlin_texture":
            # of the circle's pixels, 30 to 60 %; counting pixels is off by about one along its rim
            circle = np.pi * extent**2 / 4
            assert 0.3 * circle - 2 * extent < area < 0.6 * circle + 2 * extent
        else:
            assert diameter(mask) > 0.4 * extent


def test_sizes_are_drawn_from_the_whole_range_and_small_ones_still_show():
    diameters = [diameter(simulated("cut_paste", seed, size=(0.1, 0.8)).mask) for seed in range(40)]
    # drawn evenly on a logarithmic scale: half of them below sqrt(10 * 80) = 28
    assert min(diameters) < 15 and max(diameters) > 55
    assert 10 <= sum(value < 28 for value in diameters) <= 30
    for kind in KINDS:
        assert 4 <= simulated(kind, 0, size=(0.001, 0.001)).mask.sum() <= 25, "in a circle of 5 pixels"
    assert set(SIZES) == set(KINDS)


@pytest.mark.parametrize("kind", ["cut_paste", "scratch", "spot"])
def test_one_region(kind):
    for seed in SEEDS:
        _, count = ndimage.label(simulated(kind, seed, size=(0.05, 0.9)).mask, np.ones((3, 3)))
        assert count == 1


def test_defects_come_everywhere():
    covered = np.zeros(SHAPE, bool)
    for seed in range(150):
        covered |= simulated("spot", seed, size=(0.2, 0.3)).mask
    cells = covered.reshape(5, 20, 7, 20).any(axis=(1, 3))
    assert cells.all(), "corners included"


# -------------------------------------------------------------------------------------------------------------- look


def test_texture_fills_the_blob():
    red = np.full((40, 30, 3), (200, 10, 30), np.uint8)
    for seed in SEEDS:
        whole = simulated("perlin_texture", seed, textures=[red])
        assert (whole.photo[whole.mask] == (200, 10, 30)).all()
        quarter = simulated("perlin_texture", seed, textures=[red], opacity=0.25)
        exact = 0.75 * PHOTO[whole.mask] + 0.25 * np.array([200, 10, 30])
        assert np.abs(quarter.photo[whole.mask] - exact).max() <= 0.5


def test_every_texture_gets_its_turn():
    plain = [np.full((16, 16, 3), level, np.uint8) for level in (0, 250)]
    seen = {
        int(defect.photo[defect.mask].mean())
        for defect in (simulated("perlin_texture", s, textures=plain) for s in SEEDS)
    }
    assert seen == {0, 250}


def test_patch_comes_from_the_photo_or_from_a_donor():
    """Where all is one grey level a patch differs by its light alone: 0.8 to 1.2 times, and 25 levels at most."""
    flat = np.full((64, 64, 3), 100, np.uint8)
    for seed in SEEDS:
        own = simulated("cut_paste", seed, flat)
        (level,) = np.unique(own.photo[own.mask])
        assert 10 <= abs(int(level) - 100) <= 45
        donated = simulated("cut_paste", seed, flat, donors=[np.full((20, 30, 3), 200, np.uint8)])
        (level,) = np.unique(donated.photo[donated.mask])
        assert level >= 200 * 0.8 - 26
    # black and white stripes: what is pasted has both, and little between
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, np.arange(128) // 8 % 2 == 1] = 250
    pasted = simulated("cut_paste", 0, stripes, size=(0.5, 0.5))
    values = pasted.photo[pasted.mask].astype(int)
    assert (values < 30).mean() > 0.2 and (values > 150).mean() > 0.2


@pytest.mark.parametrize("kind", ["scratch", "spot"])
def test_darker_or_lighter_whatever_there_is_room_for(kind):
    signs = set()
    for seed in range(12):
        defect = simulated(kind, seed)
        signs.add(np.sign(defect.photo[defect.mask].astype(int).mean() - PHOTO[defect.mask].mean()))
        for level, sign in ((0, 1), (255, -1)):
            flat = np.full((64, 64, 3), level, np.uint8)
            defect = simulated(kind, seed, flat)
            change = defect.photo[defect.mask].astype(int) - level
            assert (np.sign(change) == sign).all()
            assert np.abs(change).max() > 40
    assert signs == {-1, 1}


def test_a_spot_is_soft_and_strongest_in_its_middle():
    flat = np.full((100, 100, 3), 250, np.uint8)
    for seed in SEEDS:
        spot = simulated("spot", seed, flat, size=(0.4, 0.4))
        change = (250 - spot.photo.astype(float).mean(axis=2)) / (250 - spot.photo.astype(float).mean(axis=2)).max()
        rim = spot.mask & ~ndimage.binary_erosion(spot.mask)
        assert change[rim].mean() < 0.35
        assert change[spot.mask].max() == 1
        middle = ndimage.binary_erosion(
            spot.mask, iterations=int(0.7 * ndimage.distance_transform_edt(spot.mask).max())
        )
        assert change[middle].mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_grey_photos_get_grey_defects(kind):
    grey = np.repeat(PHOTO[..., :1], 3, axis=2)
    for seed in SEEDS:
        defect = simulated(kind, seed, grey)
        assert (defect.photo == defect.photo[..., :1]).all()


# -------------------------------------------------------------------------------------------------------- foreground


@pytest.mark.parametrize("kind", KINDS)
def test_defects_stay_on_the_foreground(kind):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = np.hypot(rows - 50, columns - 90) < 30
    bar = (rows >= 40) & (rows < 45)  # too narrow for the default size: cut off at its border
    pixel_wide = columns == 0
    for seed in SEEDS:
        for foreground in (disc, bar, pixel_wide):
            defect = simulated(kind, seed, foreground=foreground)
            assert defect.mask.sum() >= 4
            assert not (defect.mask & ~foreground).any()
            np.testing.assert_array_equal(defect.photo[~foreground], PHOTO[~foreground])


def test_where_there_is_room_the_foreground_cuts_nothing():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = np.hypot(rows - 50, columns - 90) < 30
    for seed in SEEDS:
        mask = simulated("cut_paste", seed, size=(0.4, 0.4), foreground=disc).mask
        assert diameter(mask) >= 40 - 3, "the corners are still there"


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dent"}, "Unknown kind of defect 'dent'; known: perlin_texture, cut_paste, scratch, spot"),
        ({"opacity": 0.0}, "opacity must be above 0"),
        ({"opacity": 1.01}, "opacity must be above 0"),
        ({"opacity": float("nan")}, "opacity must be above 0"),
        ({"size": (0.3, 0.2)}, "size must be two shares"),
        ({"size": (0.0, 0.2)}, "size must be two shares"),
        ({"size": (0.1, 1.1)}, "size must be two shares"),
        ({"foreground": np.zeros(SHAPE, bool)}, "foreground is empty"),
        ({"foreground": np.ones((5, 5), bool)}, "foreground must be bool"),
        ({"foreground": np.ones(SHAPE, np.uint8)}, "foreground must be bool"),
        ({"kind": "perlin_texture", "textures": []}, "textures is empty"),
        ({"kind": "perlin_texture", "textures": [PHOTO / 255]}, "textures must be uint8"),
        ({"kind": "cut_paste", "donors": [PHOTO[..., 0]]}, "donors must be uint8"),
        ({"photo": PHOTO.astype(np.float32)}, "photo must be uint8"),
        ({"photo": PHOTO[..., 0]}, "photo must be uint8"),
        ({"photo": PHOTO[:15]}, "photo is 140x15 pixels"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    options = {"photo": PHOTO, "kind": "spot"} | options
    with pytest.raises(ValueError, match=message):
        simulate_defect(options.pop("photo"), options.pop("kind"), np.random.default_rng(0), **options)


def test_a_defect_that_nobody_could_see_is_an_error():
    flat = np.full((64, 64, 3), 100, np.uint8)
    with pytest.raises(ValueError, match="looks just like what lies there"):
        simulated("perlin_texture", 0, flat, textures=[flat])


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def good(tmp_path) -> Path:
    """Three good photos of three formats: a PNG in a subfolder, a JPEG that lies on its side, 16 bits."""
    folder = tmp_path / "part" / "good"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(noise(shape=(60, 80))).save(folder / "more" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(noise(shape=(40, 90))).save(folder / "b.jpg", exif=exif)
    Image.fromarray(noise(shape=(50, 50))[..., 0].astype(np.uint16) << 8).save(folder / "c.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_written_folder_is_an_mvtec_dataset(good, tmp_path):
    out = write_simulated(good, tmp_path / "new", n=7, kinds=("spot", "scratch"), seed=4)
    table = read_dataset(out)
    assert table.attrs["layout"] == "mvtec"
    assert (table["split"] == "test").all() and (table["label_index"] == 1).all()
    assert table["defect_type"].value_counts().to_dict() == {"spot": 4, "scratch": 3}
    assert (out / "test" / "spot" / "003.png").is_file()
    assert (out / "ground_truth" / "scratch" / "002_mask.png").is_file()

    with (out / "defects.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shapes = {"more/a.png": (60, 80), "b.jpg": (90, 40), "c.png": (50, 50)}
    assert [row["kind"] for row in rows] == ["spot", "scratch"] * 3 + ["spot"]
    assert {row["source"] for row in rows} == set(shapes)
    for row in rows:
        picture = np.asarray(Image.open(out / row["image"]))
        assert picture.shape == (*shapes[row["source"]], 3), "upright, 8 bits, RGB"
        mask = read_mask(out / row["mask"], picture.shape[:2])
        if row["source"].endswith("a.png"):
            source = np.asarray(Image.open(good / row["source"]))
            np.testing.assert_array_equal(picture[~mask], source[~mask])
            assert (picture[mask] != source[mask]).any()
    about = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    assert (about["layout"], about["seed"], about["opacity"]) == ("mvtec", 4, 1.0)


def test_each_picture_is_that_of_its_number(good, tmp_path):
    """More pictures begin with the same ones, and another opacity leaves the masks as they are."""
    options = {"kinds": ("spot", "cut_paste"), "seed": 2}
    few = contents(write_simulated(good, tmp_path / "few", n=4, **options))
    more = contents(write_simulated(good, tmp_path / "more", n=8, **options))
    faint = contents(write_simulated(good, tmp_path / "faint", n=4, opacity=0.5, **options))
    pictures = {name for name in few if name.endswith(".png")}
    assert len(pictures) == 8
    for name in pictures:
        assert few[name] == more[name]
        assert (few[name] == faint[name]) == name.endswith("_mask.png")
    other = contents(write_simulated(good, tmp_path / "other", n=4, kinds=options["kinds"], seed=3))
    assert all(few[name] != other[name] for name in pictures)


def test_folder_with_a_foreground(good, tmp_path):
    def left(photo: np.ndarray) -> np.ndarray:
        return np.arange(photo.shape[1])[None].repeat(len(photo), axis=0) < photo.shape[1] // 2

    out = write_simulated(good, tmp_path / "new", n=8, foreground=left)
    for path in out.glob("ground_truth/*/*.png"):
        mask = read_mask(path)
        assert mask.any() and not mask[:, mask.shape[1] // 2 :].any()


def test_command_line(good, tmp_path, capsys):
    out = tmp_path / "new"
    arguments = [
        str(good),
        str(out),
        "--n",
        "2",
        "--kinds",
        "spot",
        "scratch",
        "--opacity",
        "0.5",
        "--size",
        "0.2",
        "0.4",
    ]
    assert main(arguments) == 0
    assert "2 pictures written to" in capsys.readouterr().out
    assert contents(out) == contents(
        write_simulated(good, tmp_path / "again" / "new", n=2, kinds=("spot", "scratch"), opacity=0.5, size=(0.2, 0.4))
    )
    assert main(arguments) == 1
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments, "--force", "--seed", "1"]) == 0


def test_folders_that_cannot_be_used(good, tmp_path, capsys):
    out = tmp_path / "new"
    (tmp_path / "empty").mkdir()
    dataset = tmp_path / "dataset"
    (dataset / "ground_truth").mkdir(parents=True)
    Image.fromarray(PHOTO).save(dataset / "photo.png")
    for folder, message in (
        (tmp_path / "missing", "There is no folder"),
        (tmp_path / "empty", "holds no photo"),
        (dataset, "holds masks of defects"),
        (good.parent / "new", "There is no folder"),
    ):
        assert main([str(folder), str(out)]) == 1
        error = capsys.readouterr().err
        assert message in error and str(folder) in error
    for inside in (good / "new", good.parent):
        assert main([str(good), str(inside), "--force"]) == 1
        assert "lie one in the other" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("broken", [b"", b"no picture at all", "small"])
def test_a_photo_that_cannot_be_used_is_named_and_nothing_is_left(good, tmp_path, capsys, broken):
    if broken == "small":
        Image.fromarray(PHOTO[:8, :8]).save(good / "broken.png")
    else:
        (good / "broken.png").write_bytes(broken)
    before = sorted(tmp_path.iterdir())
    assert main([str(good), str(tmp_path / "new"), "--n", "8", "--kinds", "spot"]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be 1 or more"),
        ({"seed": -1}, "seed must not be negative"),
        ({"kinds": ()}, "kinds must name one kind"),
        ({"kinds": ("spot", "spot")}, "kinds must name one kind"),
        ({"kinds": ("dent",)}, "Unknown kind"),
        ({"opacity": 0}, "opacity"),
        ({"size": (0.5, 0.1)}, "size"),
    ],
)
def test_wrong_arguments_of_a_folder(good, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_simulated(good, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
