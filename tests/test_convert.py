"""The one writer: what comes back is what was written; copies, resized photos, tiles and cut-outs."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_photos
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from readers import write
from scipy import ndimage

from helpers import read_dataset
from helpers.analysis.regions import connected_regions
from helpers.data.checks import check_dataset
from helpers.data.convert import FORMATS, main, write_dataset
from helpers.data.images import read_image, read_mask
from helpers.data.pieces import cut_outs, resized, tiles
from helpers.data.samples import assign_splits, make_table, relative_path


def save(path: Path, picture: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    return path


def stored(path: Path) -> np.ndarray:
    """As a program that knows nothing of EXIF sees it."""
    with Image.open(path) as image:
        return np.asarray(image)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def table_of(rows: list[dict], root: Path, split: bool = False) -> pd.DataFrame:
    return make_table(rows, root=root, layout="table", name="old", published_split=split, pixel_size=0.1)


def named(table: pd.DataFrame) -> dict[str, object]:
    """Rows by the stem of the photo, which is unique in these tests."""
    return {Path(row.image_path).stem: row for row in table.itertuples()}


def assert_same(before: pd.DataFrame, after: pd.DataFrame, *, split: bool = True) -> None:
    new = named(after)
    for stem, row in named(before).items():
        back = new.pop(stem)
        assert Path(row.image_path).read_bytes() == Path(back.image_path).read_bytes()
        assert (row.label_index, row.defect_type) == (back.label_index, back.defect_type)
        assert bool(row.mask_path) == bool(back.mask_path)
        assert not row.mask_path or np.array_equal(read_mask(row.mask_path), read_mask(back.mask_path))
        assert not split or row.split == back.split
    assert not new


@pytest.fixture
def mixed(tmp_path) -> pd.DataFrame:
    """Photos of 24x32 in every split, normal and abnormal, with holes, without masks, in awkward folders and names."""
    ring, two = np.zeros((2, 24, 32), np.uint8)
    ring[4:12, 5:15], ring[6:9, 8:11] = 1, 0
    two[0:3, 0:4] = two[3:5, 4:6] = two[20:24, 30:32] = 7
    rows, draw = [], np.random.default_rng(5)
    for name, split, kind, mask in (
        ("n0.png", "train", "good", None),
        ("n1.png", "train", "good", None),
        ("n2.png", "val", "good", None),
        ("n3.png", "test", "good", None),
        ("d0.png", "train", "dent", ring),
        ("d1.png", "val", "dent+scratch", two),
        ("d2.png", "test", "scr/atch", two),
        ("d3.png", "test", "dent", None),
    ):
        save(tmp_path / "old" / name, draw.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        path = "" if mask is None else save(tmp_path / "old/masks" / name, mask)
        row = {"image_path": name, "mask_path": path, "split": split, "label_index": int(kind != "good")}
        rows.append(row | {"defect_type": kind, "group": "part 1" if kind == "good" and split == "train" else ""})
    return table_of(rows, tmp_path / "old", split=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 50), st.floats(0, 4), st.floats(-0.5, 0.5))
@settings(max_examples=60, deadline=None)
def test_outlines_drawn_by_pycocotools_alone_are_the_mask(seed, height, width, smooth, level):
    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), smooth)
    mask = blobs > level * blobs.std()
    redrawn, holes = np.zeros(mask.shape, dtype=int), []
    for region in connected_regions(mask):
        runs = region["segmentation"]
        if isinstance(runs, list):
            runs = coco_mask.merge(coco_mask.frPyObjects(runs, *mask.shape))
        part = coco_mask.decode(runs)
        assert part.sum() == region["area"] and coco_mask.toBbox(runs).tolist() == region["bbox"]
        assert ndimage.label(part, np.ones((3, 3)))[1] == 1
        redrawn += part
        holes.append((ndimage.binary_fill_holes(part) != part).any())
    assert np.array_equal(redrawn, mask)
    # only regions with holes are run lengths
    assert [isinstance(region["segmentation"], dict) for region in connected_regions(mask)] == holes


def test_mvtec_round_trip(tmp_path, mixed):
    out = tmp_path / "new"
    written = write_dataset(mixed, out)
    photos = [*(f"train/good/n{i}.png" for i in range(3)), "test/good/n3.png"]  # val is train here
    photos += ["test/dent/d0.png", "test/dent/d3.png", "test/dent+scratch/d1.png", "test/scr_atch/d2.png"]
    masks = [f"ground_truth/{name}_mask.png" for name in ("dent/d0", "dent+scratch/d1", "scr_atch/d2")]
    assert files(out) == sorted([*photos, *masks, "samples.csv", "samples.csv.json", "dataset.json"])
    assert set(np.unique(stored(out / masks[-1]))) == {0, 255}
    folder = read_dataset(out)
    assert folder.attrs["layout"] == "mvtec" and folder.attrs["pixel_size"] == 0.1
    assert_same(mixed.replace("scr/atch", "scr_atch"), folder, split=False)
    exact = read_dataset(out / "samples.csv")
    pd.testing.assert_frame_equal(exact, written)
    assert [named(exact)[name].group for name in ("n0", "n1", "n2")] == ["part 1", "part 1", "train/good/n2.png"]
    assert_same(mixed, read_dataset(out.rename(tmp_path / "moved") / "samples.csv"))


def test_coco_round_trip(tmp_path, mixed):
    out = tmp_path / "new"
    write_dataset(mixed, out, format="coco")
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "test", "train", "valid"]
    table = read_dataset(out, mask_cache=tmp_path / "cache")
    assert table.attrs["layout"] == "coco" and table.attrs["pixel_size"] == 0.1
    assert_same(mixed, table)
    assert named(table)["n0"].group == named(table)["n1"].group == "part 1"
    # one abnormal photo has no mask, and stays abnormal
    assert [row["code"] for row in table.attrs["findings"]] == ["boxes-only"]
    train, valid = (json.loads((out / each / "_annotations.coco.json").read_text()) for each in ("train", "valid"))
    assert ["group" in image for image in train["images"]] == [False, True, True]
    (ring,) = train["annotations"]
    assert (ring["area"], ring["bbox"]) == (80 - 9, [5, 4, 10, 8])
    assert [(each["area"], type(each["segmentation"])) for each in valid["annotations"]] == [(16, list), (8, list)]
    coco = COCO(out / "test" / "_annotations.coco.json")  # pycocotools itself reads it
    number = next(i for i, image in coco.imgs.items() if image["file_name"] == "d2.png")
    drawn = np.max([coco.annToMask(each) for each in coco.imgToAnns[number]], axis=0)
    assert np.array_equal(drawn, read_mask(named(mixed)["d2"].mask_path))
    assert {coco.cats[each["category_id"]]["name"] for each in coco.imgToAnns[number]} == {"scr/atch"}


def test_photos_in_no_split(tmp_path, mixed):
    table = mixed.assign(split="")
    write_dataset(table, tmp_path / "coco", format="coco")
    assert_same(table, read_dataset(tmp_path / "coco", mask_cache=tmp_path / "cache"))
    assert_same(table, write_dataset(table, tmp_path / "mvtec"))
    assert len(files(tmp_path / "mvtec/train/good")) == 4


def test_awkward_names(tmp_path):
    long = "\N{CJK UNIFIED IDEOGRAPH-7F3A}" * 83  # 249 bytes: a mask has a longer name
    kinds = {"a/1.png": "x", "b/1.png": "x", "c/1.jpg": "x", "d/1.PNG": "X", f"{long}.png": "dent", "e.png": "OK"}
    for number, name in enumerate(kinds):
        save(tmp_path / "old" / name, np.full((8, 8), 40 * number, np.uint8))
    rows = [{"image_path": name, "label_index": 1, "defect_type": kind} for name, kind in kinds.items()]
    rows[4]["mask_path"] = rows[4]["image_path"]
    table = table_of(rows, tmp_path / "old")
    write_dataset(table, tmp_path / "mvtec")
    short = long.encode()[:200].decode(errors="ignore")
    names = ["x/1.png", "x/1_2.png", "x/1_3.jpg", "X_2/1.PNG", f"dent/{short}.png", "defect_OK/e.png"]
    assert files(tmp_path / "mvtec/test") == sorted(names)
    assert set(read_dataset(tmp_path / "mvtec/samples.csv")["defect_type"]) == set(kinds.values())
    coco = write_dataset(table, tmp_path / "coco", format="coco")
    assert list(relative_path(coco)) == ["1.png", "1_2.png", "1_3.jpg", "1_4.PNG", "e.png", f"{short}.png"]
    assert read_dataset(tmp_path / "coco", mask_cache=tmp_path / "cache")["label_index"].tolist() == [1] * 6


@pytest.mark.parametrize(("suffix", "bits"), [(".jpg", 8), (".png", 8), (".tif", 8), (".png", 16)])
@pytest.mark.parametrize("format", FORMATS)
def test_a_photo_that_exif_turns_is_written_as_its_mask_lies(tmp_path, format, suffix, bits):
    noise = np.random.default_rng(0).integers(0, 256, (16, 24)).astype(f"u{bits // 8}")
    photo, mask = save(tmp_path / f"old/a{suffix}", noise, exif=turned()), np.zeros((24, 16), np.uint8)
    mask[2:9, 3:7] = 255
    save(tmp_path / "old/m.png", mask)
    row = {"image_path": photo.name, "mask_path": "m.png", "label_index": 1, "defect_type": "dent", "split": "test"}
    table = table_of([row], tmp_path / "old", split=True)
    (path,) = write_dataset(table, tmp_path / "new", format=format)["image_path"]
    with Image.open(path) as image:
        assert np.asarray(image).shape == mask.shape and image.getexif().get(0x0112, 1) == 1
    change = np.abs(read_image(path, 8).astype(int) - read_image(photo, 8)).max()
    assert change <= (6 if suffix == ".jpg" else 0)
    if format == "mvtec":
        assert np.array_equal(read_mask(tmp_path / "new/ground_truth/dent/a_mask.png"), mask > 0)
    else:
        content = json.loads((tmp_path / "new/test/_annotations.coco.json").read_text())
        assert content["images"][0]["file_name"] == Path(path).name and content["images"][0]["height"] == 24
        assert content["annotations"][0]["bbox"] == [3, 2, 4, 7]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_kept_unless_it_is_a_dataset_and_forced(tmp_path, mixed, format):
    out = tmp_path / "new"
    out.mkdir()
    write_dataset(mixed, out, format=format)  # empty: no harm
    (out / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError):
        write_dataset(mixed, out, format=format)
    (out / "dataset.json").rename(tmp_path / "dataset.json")
    with pytest.raises(FileExistsError):
        write_dataset(mixed, out, format=format, force=True)
    (tmp_path / "dataset.json").rename(out / "dataset.json")
    Path(named(mixed)["d2"].mask_path).unlink()
    with pytest.raises(ValueError, match=r"d2\.png"):
        write_dataset(mixed, out, format=format, force=True)
    assert (out / "mine.txt").read_text() == "kept"
    write_dataset(mixed[mixed["label_index"] == 0], out, format=format, force=True)
    assert not (out / "mine.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"], "nothing else is left"


def test_never_into_the_dataset_or_around_it(tmp_path, mixed):
    before, other = files(tmp_path), tmp_path / "other"
    for place in ("old", ".", "missing/../old/new"):
        with pytest.raises(ValueError, match="folder of its own"):
            write_dataset(mixed, tmp_path / place, force=True)
    mixed.loc[0, "image_path"] = str(shutil.copy(mixed["image_path"][0], save(other / "x.png", np.zeros((2, 2), "u1"))))
    (other / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x\.png"):
        write_dataset(mixed, other, force=True)
    with pytest.raises(ValueError, match="nothing to write"):
        write_dataset(mixed.iloc[:0], tmp_path / "new")
    mixed.attrs = {}
    with pytest.raises(ValueError, match="root"):
        write_dataset(mixed, tmp_path / "new")
    assert files(tmp_path) == sorted([*before, "other/dataset.json", "other/x.png"])


@pytest.fixture
def upright(tmp_path) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """A table of two photos of 4x6, their pixels and the mask; the defect is stored turned, its mask upright."""
    good, grey = np.arange(72, dtype=np.uint8).reshape(4, 6, 3), np.arange(100, 124, dtype=np.uint8).reshape(4, 6)
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:4] = 255
    save(tmp_path / "old/good/0.png", good)
    save(tmp_path / "old/scratch/0.png", np.rot90(grey, 1), exif=turned())
    save(tmp_path / "old/masks/0.png", mask)
    rows = [{"image_path": "good/0.png"}, {"image_path": "scratch/0.png", "mask_path": "masks/0.png", "label_index": 1}]
    rows[1]["defect_type"] = "scratch"
    return table_of(rows, tmp_path / "old"), [good, grey, mask]


def write_resized(table: pd.DataFrame, out: Path, **options) -> list[np.ndarray]:
    """Photos and mask as they were written."""
    write_dataset(table, out, change=resized(table, **options))
    paths = ("train/good/0.png", "test/scratch/0.png", "ground_truth/scratch/0_mask.png")
    return [stored(out / path) for path in paths]


def test_orientation_mode_and_crop(tmp_path, upright):
    table, (good, grey, mask) = upright
    expected = {"colour": [good, np.dstack([grey] * 3), mask]}
    expected["crop"] = [each[1:3, 2:5] for each in (good, grey, mask)]
    for name, options in (("colour", {}), ("crop", {"crop": (1, 2, 2, 3), "mode": "keep"})):
        pairs = zip(write_resized(table, tmp_path / name, **options), expected[name], strict=True)
        assert all(np.array_equal(picture, wanted) for picture, wanted in pairs), name
    written = read_dataset(tmp_path / "colour" / "samples.csv")
    assert list(written["source"]) == ["scratch/0.png", "good/0.png"]
    assert list(relative_path(written)) == list(written["group"]) == ["test/scratch/0.png", "train/good/0.png"]
    assert set(written["split"]) == {""} and not written.attrs["published_split"]
    # ITU-R 601 luma, as Pillow documents it for RGB -> L
    luma = good @ np.array([299, 587, 114]) / 1000
    assert np.abs(write_resized(table, tmp_path / "grey", mode="L")[0] - luma).max() <= 1


def test_sizes_keep_masks_binary_and_average_photos(tmp_path, upright):
    table, (_, _, mask) = upright
    _, photo, marked = write_resized(table, tmp_path / "double", size=(8, 12))
    assert photo.shape == (8, 12, 3)
    np.testing.assert_array_equal(marked, np.kron(mask, np.ones((2, 2))))
    photo, _, marked = write_resized(table, tmp_path / "odd", size=5)
    assert photo.shape == (5, 5, 3) and set(np.unique(marked)) == {0, 255}
    # Pillow's antialiased triangle over a checkerboard of single pixels is grey in the middle, not one of its pixels
    save(tmp_path / "board/a.png", (np.indices((16, 16)).sum(axis=0) % 2 * 200).astype(np.uint8))
    board = table_of([{"image_path": "a.png"}], tmp_path / "board")
    write_dataset(board, tmp_path / "small", change=resized(board, size=8, mode="L"))
    inner = stored(tmp_path / "small/train/good/a.png")[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 100).max() <= 1


def test_pixel_size_follows_the_scale(tmp_path, upright):
    cases = [({"size": (2, 3)}, 0.2), ({"crop": (0, 0, 4, 4), "size": 8}, 0.05), ({"size": 8}, None)]
    for number, (options, expected) in enumerate(cases):
        written = write_dataset(upright[0], tmp_path / f"{number}", change=resized(upright[0], **options))
        about = json.loads((tmp_path / f"{number}/dataset.json").read_text())
        assert about.get("pixel_size_mm") == written.attrs["pixel_size"] == (expected and pytest.approx(expected))


SIDE = 16  # tiles of a photo of 16x56 begin at 0, 16, 32 and, to end with it, 40


def strips(folder: Path, boxes: dict[str, tuple[int, int, int, int] | None], **more: dict[str, str]) -> pd.DataFrame:
    """A table of photos of noise; a box (top, bottom, left, right) is the mask, None a normal photo."""
    draw, rows = np.random.default_rng(0), []
    for name, box in boxes.items():
        save(folder / f"{name}.png", draw.integers(0, 256, (16, 56, 3), dtype=np.uint8))
        row = {"image_path": f"{name}.png", "label_index": int(box is not None)}
        if box is not None:
            mask = np.zeros((16, 56), np.uint8)
            mask[box[0] : box[1], box[2] : box[3]] = 255
            row |= {"mask_path": save(folder / f"{name}_mask.png", mask), "defect_type": "dent"}
        rows.append(row | {key: values.get(name, "") for key, values in more.items()})
    return table_of(rows, folder)


@pytest.mark.parametrize(("stride", "expected"), [(16, [0, 16, 32, 40]), (12, [0, 12, 24, 36, 40])])
def test_tiles_have_the_pixels_and_labels_of_their_place(tmp_path, stride, expected, caplog):
    table = strips(tmp_path / "strips", {"a": (2, 12, 12, 24), "b": None})
    written = write_dataset(table, tmp_path / "out", change=tiles(table, SIDE, stride=stride, min_area=41))
    assert sorted(written.loc[written["photo"] == "b.png", "left"]) == expected
    for tile in written.itertuples():
        window = (slice(tile.top, tile.top + SIDE), slice(tile.left, tile.left + SIDE))
        assert np.array_equal(read_image(tile.image_path), read_image(tmp_path / "strips" / tile.photo)[window])
        marked = np.zeros((16, 56), bool)
        marked[2:12, 12:24] = tile.photo == "a.png"
        assert tile.label_index == (marked[window].sum() >= 41)
        assert not tile.label_index or np.array_equal(read_mask(tile.mask_path), marked[window])
    assert written.attrs["pixel_size"] == 0.1 and read_dataset(tmp_path / "out").attrs["layout"] == "mvtec"
    if stride == 16:  # 4 x 10 pixels in the tile at 0, 8 x 10 in that at 16, none in those at 32 and 40
        assert written["label_index"].tolist().count(1) == 1 and len(written) == 7
        assert "1 tile(s)" in caplog.text


def test_tiles_of_a_photo_never_part(tmp_path):
    boxes = {f"bad{i}": (2, 12, 2, 12) for i in range(10)} | {f"good{i}": None for i in range(20)}
    groups = {name: f"part{name[-1]}" for name in boxes if name.startswith("good")}
    table = strips(tmp_path / "strips", boxes, group=groups, split=dict.fromkeys(boxes, "test"))
    write_dataset(table, tmp_path / "out", change=tiles(table, SIDE))
    written = read_dataset(tmp_path / "out" / "samples.csv")
    bad = written[written["photo"].str.startswith("bad")]
    assert (bad["group"] == bad["photo"]).all() and set(bad["label_index"]) == {0, 1}
    assert set(written["group"]) == {*bad["photo"], *groups.values()} and set(written["split"]) == {"test"}
    written.attrs["published_split"] = False
    split = assign_splits(written, "supervised")
    assert split.groupby("group")["split"].nunique().max() == 1 and set(split["split"]) == {"train", "val", "test"}


def test_what_cannot_be_labelled_is_left_out_and_said(tmp_path, caplog):
    types = {"a": "dent+hole", "c": "dent"}
    table = strips(tmp_path / "strips", {"a": (0, 16, 0, 16), "b": None, "c": (0, 16, 0, 16)}, defect_types=types)
    table.loc[2, "mask_path"] = ""
    written = write_dataset(table, tmp_path / "out", change=tiles(table, SIDE))
    # of a, the tile with the defect; the other three show none. c has no mask
    assert written["photo"].value_counts().to_dict() == {"a.png": 3, "b.png": 4}
    assert set(written["defect_type"]) == {"good"} and set(written["defect_types"]) == {""}
    assert "1 tile(s)" in caplog.text and "1 abnormal photo(s)" in caplog.text


WRONG_SIZES = [{"mode": "CMYK"}, {"size": 0}, {"crop": (0, 0, 17, 2)}, {"crop": (1, -2, 2, 2)}]
WRONG_TILES = [{"tile": 57}, {"stride": 17}, {"stride": 0}, {"min_area": 0}, {"min_area": 10_000}]


@pytest.mark.parametrize("options", WRONG_SIZES + WRONG_TILES)
def test_wrong_parameters_leave_nothing(tmp_path, options):
    table = strips(tmp_path / "strips", {"a": (0, 16, 0, 56)})
    with pytest.raises(ValueError, match="{}|{}".format(*next(iter(options.items())))):
        change = resized(table, **options) if options in WRONG_SIZES else tiles(table, **{"tile": 16} | options)
        write_dataset(table, tmp_path / "out", change=change)
    assert [path.name for path in tmp_path.iterdir()] == ["strips"]


GREY, RED, BLUE = (128, 128, 128), (200, 30, 30), (30, 30, 200)


@pytest.fixture
def scene(tmp_path) -> tuple[list[Path], list[np.ndarray]]:
    """Two grey photos of 60 x 40 pixels: a red 10 x 10 and a blue 8 x 6 that touch; a red one at the corner."""
    first, second = np.full((2, 40, 60, 3), GREY, np.uint8)
    labels = list(np.zeros((2, 40, 60), np.int32))
    first[15:25, 20:30], first[17:25, 30:36] = RED, BLUE
    labels[0][15:25, 20:30], labels[0][17:25, 30:36] = 1, 2
    second[0:10, 50:60] = RED
    labels[1][0:10, 50:60] = 5
    return [save(tmp_path / "raw/a.png", first), save(tmp_path / "raw/b.png", second)], labels


def pictures(scene, out: Path, size: int = 20, margin: float = 0.5, **options) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The table, in order of the numbers, and the pictures."""
    rows = cut_outs(*scene, size=size, margin=margin, **options)
    written = write_dataset(rows, out, source={"pixel_size": 0.1})
    return written, [stored(path) for path in written["image_path"]]


def test_cut_outs_are_square_and_centred_and_their_table_leads_back(scene, tmp_path):
    table, (first, _, third) = pictures(scene, tmp_path / "out")
    np.testing.assert_array_equal(first, stored(scene[0][0])[10:30, 15:35])  # 10 wide, a margin of 5 around it
    assert list(relative_path(table)) == [f"train/good/{name}.png" for name in ("0000_001", "0000_002", "0001_005")]
    columns = ["label", "x", "y", "width", "height", "window_x", "window_y", "window_side", "scale"]
    assert table.loc[1, columns].to_list() == [2, 30, 17, 6, 8, 23, 11, 20, 1.0]
    assert table.loc[1, "photo"] == str(scene[0][0])
    assert (third == RED).all(axis=2).sum() == 15 * 15  # 5 mirrored pixels above and to the right
    assert pictures(scene, tmp_path / "large", 80)[0].attrs["pixel_size"] == pytest.approx(0.025)  # 4 times


def test_without_background_only_the_object_is_left(scene, tmp_path):
    (alone, _, _) = pictures(scene, tmp_path / "out", remove_background=True)[1]
    # grown by 2: a ring of background comes back, but nothing of the blue neighbour on the right
    assert (alone == RED).all(axis=2).sum() == 100 and (alone == GREY).all(axis=2).sum() == 300


def test_types_make_a_dataset_that_is_read_and_has_no_errors(scene, tmp_path):
    out = tmp_path / "out"
    pictures(scene, out, types=[{1: "good", 2: "dent"}, {5: "OK"}], test_share=0.5)
    for path in (out, out / "samples.csv"):
        table = read_dataset(path)
        rows = table[["split", "defect_type", "label_index"]].agg(list, axis=1).to_list()
        assert rows == [["test", "dent", 1], ["test", "good", 0], ["train", "good", 0]]
        findings = check_dataset(table)  # three pictures are too few to train on; nothing else is wrong
        assert findings.loc[findings["severity"] == "error", "code"].tolist() == ["too-few-train"]


@pytest.mark.parametrize(("n", "share", "n_test"), [(5, 0.3, 2), (3, 1.0, 3), (7, 0, 0)])
def test_so_many_photos_are_kept_for_testing_as_the_share_says(scene, n, share, n_test):
    rows = list(cut_outs(scene[0][1:] * n, scene[1][1:] * n, types=[{5: "good"}] * n, test_share=share))
    assert [row["split"] for row in rows].count("test") == n_test and len(rows) == n


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"types": [{1: "good"}, {5: "good"}]}, r"a\.png: object 2 has no type"),
        ({"labels": [np.ones((39, 60), int), np.ones((40, 60), int)]}, r"a\.png.*\(39, 60\)"),
        ({"labels": [np.zeros((40, 60), int)] * 2}, "no object"),
        ({"size": 0}, "size"),
        ({"test_share": 1.1}, "test_share"),
        ({"margin": 400.0}, "too large for a photo"),
    ],
)
def test_what_does_not_fit_is_refused(scene, change, match):
    photos, labels = scene
    with pytest.raises(ValueError, match=match):
        list(cut_outs(photos, **{"labels": labels} | change))


def test_command_line(tmp_path, capsys):
    old, new, cache = str(draw_photos(tmp_path / "stripes")), str(tmp_path / "new"), f"mask_cache={tmp_path / 'cache'}"
    arguments = [old, new, "--format", "coco"]
    assert [main(arguments), main(arguments), main([*arguments, "--force"])] == [0, 1, 0]
    assert main([new, str(tmp_path / "mvtec"), "--option", cache, "--option", "objects_are_defects=false"]) == 0
    assert read_dataset(tmp_path / "mvtec")["label_index"].sum() == 0
    assert main([new, str(tmp_path / "x"), "--option", "colour=red"]) == 1
    assert "colour" in capsys.readouterr().err
    for wrong in (["--stride", "8"], ["--tile", "8", "--size", "8"], ["--tile", "8", "--cut-out", "8"]):
        assert main([old, str(tmp_path / "x"), *wrong]) == 1
    assert main([old, str(tmp_path / "small"), "--mode", "L", "--crop", "0,8,24,24", "--size", "8"]) == 0
    assert {stored(path).shape for path in (tmp_path / "small").rglob("*.png")} == {(8, 8)}
    assert main([old, str(tmp_path / "tiles"), "--tile", "48", "--stride", "24", "--min-area", "400"]) == 0
    tiled = read_dataset(tmp_path / "tiles/samples.csv")  # of 72x96: 2 x 3, and a defect of 20x20 is whole in some
    areas = {read_mask(path).sum() for path in tiled["mask_path"] if path}
    assert tiled.groupby("photo").size().max() == 6 and areas == {400}


def test_the_command_cuts_out_what_coco_outlines(tmp_path):
    marked = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]}
    other = marked | {"id": 2, "segmentation": [[20, 10, 30, 10, 30, 20, 20, 20]], "defect_type": "dent"}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [marked, other]}
    content["categories"] = [{"id": 1, "name": "nut"}]
    write(tmp_path / "frames", {"a.png": None, "_annotations.coco.json": content})
    assert main([str(tmp_path / "frames"), str(tmp_path / "out"), "--cut-out", "16"]) == 0
    table = read_dataset(tmp_path / "out" / "samples.csv")
    assert dict(zip(table["defect_type"], table["x"], strict=True)) == {"good": 4, "dent": 20}
    assert stored(table["image_path"][0]).shape == (16, 16, 3)


def test_the_command_of_every_finding_works_on_the_dataset_that_has_it(tmp_path):
    root = tmp_path / "old set"
    grey = np.random.default_rng(0).integers(0, 255, (8, 12), dtype=np.uint8)
    for name, picture, options in (
        ("train/good/palette.png", Image.fromarray(grey).convert("P"), {}),
        ("train/good/deep.png", grey.astype(np.uint16) * 16, {}),
        ("train/good/cmyk.jpg", Image.fromarray(grey).convert("CMYK"), {}),
        ("train/dent/alpha.png", np.dstack([grey] * 4), {}),
        ("train/dent/turned.png", grey[:6], {"exif": turned()}),
        ("test/good/small.png", grey[:4], {}),
        ("test/dent/plain.png", grey.T.copy(), {}),
    ):
        save(root / name, picture, **options)
    table = read_dataset(root, layout="plain")
    findings = check_dataset(table)
    commands = findings[findings["fix"].str.contains("python -m ")]
    gone = {"palette", "16-bit", "cmyk", "alpha", "exif-rotation"}
    assert set(commands["code"]) == gone | {"mixed-sizes", "mixed-modes"}
    for number, command in enumerate(sorted({fix[fix.index("python -m ") :] for fix in commands["fix"]})):
        words = [word.replace("H,W", "6,8") for word in shlex.split(command)]
        assert words[:5] == ["python", "-m", "helpers.data.convert", "DATASET", "NEW_FOLDER"]
        out = tmp_path / f"new{number}"
        assert main([str(root), str(out), "--layout", "plain", *words[5:]]) == 0
        again = read_dataset(out / "samples.csv").sort_values("source")
        assert again["split"].tolist() == table["split"].tolist()
        assert again["defect_type"].tolist() == table["defect_type"].tolist()
        left = set(check_dataset(again)["code"])
        assert not left & gone, command
        assert ("mixed-sizes" in left) == ("--size" not in words) and ("mixed-modes" in left) == ("keep" in words)
