"""Writers: what comes back is what was written."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, draw_photos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from helpers import read_dataset
from helpers.data.convert import connected_regions, main, outlines, write_coco, write_mvtec
from helpers.data.images import read_image, read_mask
from helpers.data.samples import make_table

CAR_DAMAGE = SHARED / "data" / "car_damage_coco"


def redrawn(regions: list[dict], shape: tuple[int, int]) -> np.ndarray:
    """Mask of annotations, drawn by pycocotools alone."""
    mask = np.zeros(shape, dtype=int)
    for region in regions:
        segmentation = region["segmentation"]
        rle = segmentation
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *shape))
        drawn = coco_mask.decode(rle)
        assert drawn.sum() == region["area"]
        assert coco_mask.toBbox(rle).tolist() == region["bbox"]
        mask += drawn
    return mask


def holes(mask: np.ndarray) -> list[bool]:
    """Whether each region (8 neighbours), in scipy's order, has holes."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    parts = [labels == number for number in range(1, count + 1)]
    return [bool((ndimage.binary_fill_holes(part) != part).any()) for part in parts]


def assert_exact(mask: np.ndarray) -> None:
    regions = connected_regions(mask)
    assert np.array_equal(redrawn(regions, mask.shape), mask)
    assert [isinstance(region["segmentation"], dict) for region in regions] == holes(mask)


def named(table: pd.DataFrame) -> dict[str, object]:
    """Rows by the stem of the photo, which is unique in these tests."""
    return {Path(row.image_path).stem: row for row in table.itertuples()}


def assert_same(before: pd.DataFrame, after: pd.DataFrame, *, split: bool = True) -> None:
    old, new = named(before), named(after)
    assert old.keys() == new.keys()
    for stem, row in old.items():
        back = new[stem]
        assert Path(row.image_path).read_bytes() == Path(back.image_path).read_bytes()
        assert (row.label_index, row.defect_type) == (back.label_index, back.defect_type)
        assert bool(row.mask_path) == bool(back.mask_path)
        if row.mask_path:
            assert np.array_equal(read_mask(row.mask_path), read_mask(back.mask_path))
        if split:
            assert row.split == back.split


@pytest.fixture
def mixed(tmp_path) -> pd.DataFrame:
    """Photos in every split, normal and abnormal, with holes, without masks, in awkward folders and names."""
    draw = np.random.default_rng(5)
    rows = []

    def add(name: str, split: str, kind: str = "good", mask: np.ndarray | None = None, **more) -> None:
        for path, picture in ((name, draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)), (f"masks/{name}", mask)):
            if picture is not None:
                file = tmp_path / "old" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)
        row = {"image_path": name, "split": split, "label_index": int(kind != "good"), "defect_type": kind, **more}
        rows.append(row | {"mask_path": "" if mask is None else f"masks/{name}"})

    ring = np.zeros((24, 32), bool)
    ring[4:12, 5:15] = True
    ring[6:9, 8:11] = False
    two = np.zeros((24, 32), bool)
    two[0:3, 0:4] = two[3:5, 4:6] = two[20:24, 30:32] = True
    add("n0.png", "train", group="part 1")
    add("n1.png", "train", group="part 1")
    add("n2.png", "val")
    add("n3.png", "test")
    add("d0.png", "train", "dent", ring)
    add("d1.png", "val", "dent+scratch", two)
    add("d2.png", "test", "scr/atch", two * 7)
    add("d3.png", "test", "dent")
    return make_table(rows, root=tmp_path / "old", layout="table", name="old", published_split=True, pixel_size=0.2)


# ------------------------------------------------------------------------------------------------------------- outlines


def test_outline_of_a_square_has_four_corners():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    (line,) = outlines(mask)
    assert sorted(map(tuple, line.tolist())) == [(2, 1), (2, 3), (5, 1), (5, 3)]


def test_outlines_of_a_ring_and_of_pixels_that_meet_at_a_corner():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert sorted(sorted(map(tuple, line.tolist())) for line in outlines(ring)) == [
        [(0, 0), (0, 3), (3, 0), (3, 3)],
        [(1, 1), (1, 2), (2, 1), (2, 2)],
    ]
    (line,) = outlines(np.eye(2, dtype=bool))
    assert len(line) == 8, "one line through the corner, twice"


def test_every_mask_of_three_by_four_pixels_is_redrawn_exactly():
    for bits in itertools.product([False, True], repeat=12):
        assert_exact(np.array(bits).reshape(3, 4))


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 50), st.floats(0, 4), st.floats(-0.5, 0.5))
@settings(max_examples=60, deadline=None)
def test_blobs_are_redrawn_exactly(seed, height, width, smooth, level):
    noise = np.random.default_rng(seed).normal(size=(height, width))
    blobs = ndimage.gaussian_filter(noise, smooth)
    assert_exact(blobs > level * blobs.std())


# ------------------------------------------------------------------------------------------------------------- folders


def test_mvtec_round_trip(tmp_path, mixed):
    out = write_mvtec(mixed, tmp_path / "new")
    files = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert files == {
        *(f"train/good/n{i}.png" for i in range(3)),  # val too
        "test/good/n3.png",
        "test/dent/d0.png",
        "test/dent/d3.png",
        "test/dent+scratch/d1.png",
        "test/scr_atch/d2.png",
        "ground_truth/dent/d0_mask.png",
        "ground_truth/dent+scratch/d1_mask.png",
        "ground_truth/scr_atch/d2_mask.png",
        "samples.csv",
        "samples.csv.json",
        "dataset.json",
    }
    assert set(np.unique(np.asarray(Image.open(out / "ground_truth/scr_atch/d2_mask.png")))) == {0, 255}
    folder = read_dataset(out)
    assert folder.attrs["layout"] == "mvtec" and folder.attrs["pixel_size"] == 0.2
    assert_same(mixed.replace("scr/atch", "scr_atch"), folder, split=False)
    exact = read_dataset(out / "samples.csv")
    assert_same(mixed, exact)
    assert exact.attrs["pixel_size"] == 0.2
    groups = named(exact)
    assert groups["n0"].group == groups["n1"].group == "part 1"
    assert groups["n2"].group == "train/good/n2.png", "alone as before"
    moved = out.rename(tmp_path / "moved")
    assert_same(mixed, read_dataset(moved / "samples.csv"))


def test_coco_round_trip(tmp_path, mixed):
    out = write_coco(mixed, tmp_path / "new")
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "test", "train", "valid"]
    table = read_dataset(out, mask_cache=tmp_path / "cache")
    assert table.attrs["layout"] == "coco" and table.attrs["pixel_size"] == 0.2
    assert_same(mixed, table)
    assert named(table)["n0"].group == named(table)["n1"].group == "part 1"
    # one abnormal photo has no mask, and stays abnormal
    assert [row["code"] for row in table.attrs["findings"]] == ["boxes-only"]
    train = json.loads((out / "train" / "_annotations.coco.json").read_text())
    (ring,) = train["annotations"]
    assert isinstance(ring["segmentation"], dict) and ring["iscrowd"] == 0
    assert (ring["area"], ring["bbox"]) == (80 - 9, [5, 4, 10, 8])
    valid = json.loads((out / "valid" / "_annotations.coco.json").read_text())
    assert [each["area"] for each in valid["annotations"]] == [16, 8]
    assert all(isinstance(each["segmentation"], list) for each in valid["annotations"])


def test_pycocotools_itself_reads_what_is_written(tmp_path, mixed):
    from pycocotools.coco import COCO

    out = write_coco(mixed, tmp_path / "new")
    coco = COCO(out / "test" / "_annotations.coco.json")
    truth = read_mask(named(mixed)["d2"].mask_path)
    number = next(i for i, image in coco.imgs.items() if image["file_name"] == "d2.png")
    assert np.array_equal(np.max([coco.annToMask(a) for a in coco.imgToAnns[number]], axis=0), truth)
    assert {coco.cats[a["category_id"]]["name"] for a in coco.imgToAnns[number]} == {"scr/atch"}


def test_from_mvtec_to_coco_and_back(tmp_path):
    first = read_dataset(draw_photos(tmp_path / "stripes"))
    # names repeat between the folders of MVTec
    coco = read_dataset(write_coco(first, tmp_path / "coco"), mask_cache=tmp_path / "cache")
    back = read_dataset(write_mvtec(coco, tmp_path / "mvtec"))

    def content(table: pd.DataFrame) -> list:
        rows = table.itertuples()
        return sorted(
            (
                row.split,
                row.defect_type,
                Path(row.image_path).read_bytes(),
                row.mask_path and read_mask(row.mask_path).tobytes(),
            )
            for row in rows
        )

    assert content(first) == content(coco) == content(back)


def test_photos_in_no_split_lie_at_the_top(tmp_path, mixed):
    table = mixed.assign(split="")
    out = write_coco(table, tmp_path / "coco")
    assert (out / "_annotations.coco.json").is_file() and not (out / "train").exists()
    assert_same(table, read_dataset(out, mask_cache=tmp_path / "cache"))
    out = write_mvtec(table, tmp_path / "mvtec")
    assert len(list((out / "train" / "good").iterdir())) == 4
    assert_same(table, read_dataset(out / "samples.csv"))


def test_long_names_leave_room_for_those_of_masks(tmp_path):
    stem = "\N{CJK UNIFIED IDEOGRAPH-7F3A}" * 83  # 249 bytes
    (tmp_path / "old").mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "old" / f"{stem}.png")
    photo = f"{stem}.png"
    row = {"image_path": photo, "mask_path": photo, "label_index": 1, "defect_type": "dent", "split": "test"}
    out = write_mvtec(
        make_table([row], root=tmp_path / "old", layout="table", name="old", published_split=True), tmp_path / "new"
    )
    assert (read_dataset(out)["mask_path"] != "").all()


def test_names_are_made_unique(tmp_path):
    names = ["a/1.png", "b/1.png", "c/1.jpg", "d/1.PNG"]
    for i, name in enumerate(names):
        (tmp_path / "old" / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / "old" / name)
    rows = [
        {"image_path": name, "label_index": 1, "defect_type": kind} for name, kind in zip(names, "xxxX", strict=True)
    ]
    table = make_table(rows, root=tmp_path / "old", layout="table", name="old", published_split=False)
    out = write_coco(table, tmp_path / "coco")
    listed = json.loads((out / "_annotations.coco.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == ["1.png", "1_2.png", "1_3.jpg", "1_4.PNG"]
    assert [(out / image["file_name"]).read_bytes() for image in listed] == [
        (tmp_path / "old" / name).read_bytes() for name in names
    ]
    out = write_mvtec(table, tmp_path / "mvtec")
    written = sorted(path.relative_to(out).as_posix() for path in (out / "test").rglob("*.*"))
    assert written == ["test/X/1.PNG", "test/x_2/1.png", "test/x_2/1_2.png", "test/x_2/1_3.jpg"]
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_defect_called_ok_stays_a_defect(tmp_path):
    (tmp_path / "old").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "old" / "a.png")
    rows = [{"image_path": "a.png", "label_index": 1, "defect_type": "OK"}]
    table = make_table(rows, root=tmp_path / "old", layout="table", name="old", published_split=False)
    assert read_dataset(write_coco(table, tmp_path / "coco"))["label_index"].tolist() == [1]
    out = write_mvtec(table, tmp_path / "mvtec")
    assert (out / "test" / "defect_OK" / "a.png").is_file()
    assert read_dataset(out / "samples.csv")["defect_type"].tolist() == ["OK"]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("write", [write_mvtec, write_coco])
def test_an_existing_folder_is_kept_unless_forced(tmp_path, mixed, write):
    out = tmp_path / "new"
    out.mkdir()
    write(mixed, out)  # empty: no harm
    (out / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="not empty; choose another folder, or force=True"):
        write(mixed, out)
    assert (out / "mine.txt").read_text() == "kept"
    write(mixed, out, force=True)
    assert not (out / "mine.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("write", [write_mvtec, write_coco])
def test_on_an_error_nothing_is_left_and_the_old_folder_stays(tmp_path, mixed, write):
    out = tmp_path / "new"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    mask = Path(named(mixed)["d2"].mask_path)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="the mask is 5x5 pixels but its photo 32x24"):
        write(mixed, out, force=True)
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"d2\.png"):
        write(mixed, out, force=True)
    Path(named(mixed)["d0"].image_path).unlink()
    with pytest.raises(FileNotFoundError, match=r"d0\.png is in the table but not on disk"):
        write(mixed, out, force=True)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("write", [write_mvtec, write_coco])
@pytest.mark.parametrize("place", ["old", "old/new", "."])
def test_never_into_the_dataset_or_around_it(tmp_path, mixed, write, place):
    with pytest.raises(ValueError, match="lies in the dataset .* or around it"):
        write(mixed, tmp_path / place, force=True)


def test_a_folder_that_holds_a_photo_of_the_table_is_not_replaced(tmp_path, mixed):
    other = tmp_path / "other"
    other.mkdir()
    photo = Path(mixed["image_path"][0]).rename(other / "x.png")
    mixed.loc[0, "image_path"] = str(photo)
    with pytest.raises(ValueError, match=r"holds .*x\.png of the table"):
        write_coco(mixed, other, force=True)


def test_an_empty_table_and_one_without_a_root(tmp_path, mixed):
    with pytest.raises(ValueError, match="no photos"):
        write_coco(mixed.iloc[:0], tmp_path / "new")
    mixed.attrs = {}
    with pytest.raises(ValueError, match=r"attrs\['root'\] is missing"):
        write_mvtec(mixed, tmp_path / "new")


def test_command_line(tmp_path, capsys):
    draw_photos(tmp_path / "stripes")
    arguments = [str(tmp_path / "stripes"), str(tmp_path / "new"), "--format", "coco"]
    assert main(arguments) == 0
    assert "17 photos written" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "not empty" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    cache = f"mask_cache={tmp_path / 'cache'}"
    options = ["--option", cache, "--option", "objects_are_defects=false"]
    assert main([str(tmp_path / "new"), str(tmp_path / "mvtec"), "--format", "mvtec", *options]) == 0
    assert read_dataset(tmp_path / "mvtec")["label_index"].sum() == 0
    assert main([str(tmp_path / "new"), str(tmp_path / "x"), "--format", "mvtec", "--option", "colour=red"]) == 1
    assert "has no option colour" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- real photos


@pytest.mark.skipif(not CAR_DAMAGE.is_dir(), reason=f"{CAR_DAMAGE} is not there: real photos are not part of it")
@pytest.mark.parametrize("pattern", ["COCO_{split}_annos.json", "COCO_mul_{split}_annos.json"])
def test_car_damage_in_both_directions(tmp_path, pattern):
    table = read_dataset(CAR_DAMAGE, annotations=pattern, mask_cache=tmp_path / "cache")
    assert len(table) == 59 + 11 and (table["mask_path"] != "").all()
    out = write_mvtec(table, tmp_path / "mvtec")
    assert_same(table, read_dataset(out / "samples.csv"))
    assert_same(table, read_dataset(out), split=False)
    assert_same(table, read_dataset(write_coco(table, tmp_path / "coco"), mask_cache=tmp_path / "cache"))


@pytest.mark.parametrize(("suffix", "bits"), [(".jpg", 8), (".png", 8), (".tif", 8), (".png", 16)])
@pytest.mark.parametrize("write", [write_mvtec, write_coco])
def test_a_photo_that_exif_turns_is_written_as_its_mask_lies(tmp_path, write, suffix, bits):
    root, exif = tmp_path / "old", Image.Exif()
    exif[0x0112] = 6
    root.mkdir()
    stored = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8).astype(np.uint8 if bits == 8 else "u2")
    Image.fromarray(stored).save(root / f"a{suffix}", exif=exif)
    mask = np.zeros((24, 16), np.uint8)
    mask[2:9, 3:7] = 255
    Image.fromarray(mask).save(root / "m.png")
    row = {"image_path": f"a{suffix}", "mask_path": "m.png", "label_index": 1, "defect_type": "dent", "split": "test"}
    upright = read_image(root / f"a{suffix}", 8)
    write(make_table([row], root=root, layout="mvtec", name="old", published_split=True), tmp_path / "new")
    [photo] = [file for file in (tmp_path / "new/test").rglob("a*.*")]
    with Image.open(photo) as image:  # as a program that knows nothing of EXIF
        assert np.asarray(image).shape == mask.shape and image.getexif().get(0x0112, 1) == 1
    assert np.abs(read_image(photo, 8).astype(int) - upright).max() <= (6 if suffix == ".jpg" else 0)
    if write is write_mvtec:
        [drawn] = (tmp_path / "new/ground_truth").rglob("*.png")
        assert np.array_equal(read_mask(drawn), mask > 0)
    else:
        content = json.loads((tmp_path / "new/test/_annotations.coco.json").read_text())
        assert content["images"][0]["file_name"] == photo.name and content["images"][0]["height"] == 24
        assert content["annotations"][0]["bbox"] == [3, 2, 4, 7]
