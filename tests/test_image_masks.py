"""Folders of images and masks, what their names have in common, and metadata."""

import json

import pytest
from readers import EMPTY, MASK, boxes, codes, columns, count_calls, masks, photos, read, told, types, write

from helpers import read_dataset
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError


def test_images_and_masks(tmp_path):
    files = {**photos(*(f"images/{name}.jpg" for name in "abcd")), "masks/a.png": MASK, "masks/b.png": EMPTY}
    files["old/e.json"] = {"shapes": [], "imagePath": "a.jpg"}  # beside masks no file of labelme
    table = read_dataset(write(tmp_path, {**files, "masks/d_mask.png": MASK, "masks/z.png": MASK}))
    assert table.attrs["layout"] == "image_mask" and table.attrs["published_split"] is False
    assert list(types(table).values()) == ["defect", "good", "good", "defect"]
    assert masks(table) == {"images/a.jpg": "masks/a.png", "images/d.jpg": "masks/d_mask.png"}
    others = [("info", "photos-without-mask"), ("info", "unused-annotations")]
    assert codes(table) == [("error", "mask-without-photo"), *others]


@pytest.mark.parametrize("order", ["{split}/{kind}", "{kind}/{split}", "{split}_{kind}"])
def test_images_and_masks_in_splits(tmp_path, order):
    for split in ("train", "test"):
        images, marks = (order.format(split=split, kind=kind) for kind in ("images", "masks"))
        files = {f"{images}/a.png": None, f"{images}/b.png": None, f"{marks}/a.png": EMPTY, f"{marks}/b.png": MASK}
        write(tmp_path, files)
    table = read_dataset(tmp_path)
    rows = sorted(table[["split", "label_index"]].itertuples(index=False, name=None))
    assert rows == [("test", 0), ("test", 1), ("train", 0), ("train", 1)]
    assert table.attrs["published_split"] is True and codes(table) == []
    assert all(("train" in image) == ("train" in mask) for image, mask in masks(table).items())


PREFIXED = ["img{} img{}_seg_mask", "img_{} mask_{}", "cam1_{} cam1_{}_0", "a/{} a/{}_mask", "a/{} {}"]


@pytest.mark.parametrize(
    "names", [*PREFIXED, "{} {}-lesion", "{} defect_{}", "{} {}.png", "{} {}.png/000", "{} {}/000"]
)
def test_masks_are_paired_by_what_names_have_in_common(tmp_path, names):
    image, mask = names.split()
    pairs = [[f"images/{image}.png".format(f"{i:04d}"), f"masks/{mask}.png".format(f"{i:04d}")] for i in range(4)]
    for i, (image, mask) in enumerate(pairs):
        write(tmp_path, {image: None, mask: boxes((0, i > 1, 0, 9))})
    table = read_dataset(tmp_path)
    assert masks(table) == dict(pairs[2:])
    assert (names == "{} {}-lesion") <= ("masks-by-name" in {code for code, _ in told(table, "info")})
    assert "mask-without-photo" not in {code for code, _ in told(table, "error", "warning")}


@pytest.mark.parametrize("named", ["x0002", "00002", "0001_0002", "0002_a_0", "0000"])
def test_masks_whose_photo_cannot_be_told_are_an_error(tmp_path, named):
    names = (*(f"images/{i:04d}.png" for i in range(3)), "images/0002.jpg", "images/0002_a.png")
    table = read_dataset(write(tmp_path, {**photos(*names), "masks/0000.bmp": MASK, f"masks/{named}.png": MASK}))
    assert masks(table) == {"images/0000.png": "masks/0000.bmp"}  # of two masks of one name one is taken
    assert ("mask-without-photo", f"masks/{named}.png") in told(table, "error")


def test_parts_of_a_photo_in_masks_of_their_own(tmp_path):
    parts = {"masks/0001_crack.png": MASK, "masks/0001_hole.png": boxes((18, 20, 0, 30))}
    table = read(write(tmp_path / "set", {**photos("images/0001.png", "images/0002.png"), **parts}))
    assert table["label_index"].tolist() == [1, 0]
    assert read_mask(table["mask_path"][0]).sum() == 6 * 9 + 2 * 30


@pytest.mark.parametrize("ending", ["_GT", "_label", "-mask"])
def test_masks_beside_their_photos_without_folders_of_types(tmp_path, ending):
    """KolektorSDD and KolektorSDD2."""
    names = {f"{split}/{i}": split for split, first in (("train", 10), ("test", 20)) for i in range(first, first + 3)}
    for name in names:
        write(tmp_path, {f"{name}.png": None, f"{name}{ending}.png": MASK if name.endswith("2") else EMPTY})
    table = read_dataset(tmp_path)
    assert columns(table, "split") == {f"{name}.png": split for name, split in names.items()}
    assert masks(table) == {f"{name}.png": f"{name}{ending}.png" for name in ("train/12", "test/22")}


@pytest.mark.parametrize("name", ["x.gif", "x.npy", "x_mask.tga", "x.png", "x.png/"])
def test_a_mask_that_cannot_be_read_makes_no_photo_normal(tmp_path, name):
    write(tmp_path, {**photos("images/x.png", "images/y.png"), "masks/y.png": EMPTY})
    if name.endswith("/"):
        (tmp_path / "masks" / name).mkdir()
    else:
        write(tmp_path, {f"masks/{name}": b"no picture"})
    table = read_dataset(tmp_path)
    assert columns(table, "label_index") == {"images/x.png": 1, "images/y.png": 0}
    found = {code for code, path in told(table, "error") if path == f"masks/{name.rstrip('/')}"}
    assert found & {"not-an-image", "unreadable"}


@pytest.mark.parametrize("form", ["records", "mapping", "stems", "elsewhere"])
def test_metadata(tmp_path, form):
    about = {
        "a.png": {"split": "train", "label": "good", "group": "roll 1"},
        "b.png": {"split": "test", "defect_type": "hole", "group": 2},
        "c.png": {"split": "Validation", "label": 0, "group": None},
        "d.png": {"split": "test", "label": 1, "defect_type": "thread"},
        "e.png": {"split": "test", "label": "stain"},
    }
    prefix = {"records": "images/", "elsewhere": "/other/machine/images/"}.get(form, "")
    content = {prefix + (name[:-4] if form == "stems" else name): fields for name, fields in about.items()}
    if form == "records":
        content = [{"file_name": name, **fields} for name, fields in content.items()]
    write(tmp_path, {f"images/{name}": None for name in about} | {"metadata.json": content})
    table = read_dataset(write(tmp_path, {"masks/b.png": MASK, "masks/d.png": MASK}))
    assert columns(table, "defect_type", "split") == {
        "images/a.png": ("good", "train"),
        "images/b.png": ("hole", "test"),
        "images/c.png": ("good", "val"),
        "images/d.png": ("thread", "test"),
        "images/e.png": ("stain", "test"),  # by its label, though it has no mask
    }
    assert table["group"].tolist() == ["roll 1", "2", "images/c.png", "images/d.png", "images/e.png"]
    assert [bool(path) for path in table["mask_path"]] == [False, True, False, True, False]
    assert table.attrs["published_split"] is True and codes(table) == []


def test_metadata_of_splits_and_photos_that_do_not_agree(tmp_path):
    for name in "abc":
        write(tmp_path, {f"images/{name}.png": None, f"masks/{name}.png": MASK})
    records = [
        {"file_name": "a.png", "label": "normal"},
        {"file_name": "b.png", "class": "hole"},
        {"file_name": "gone.png"},
    ]
    table = read_dataset(write(tmp_path, {"metadata.json": records}))
    warnings = [("warning", "photos-not-in-metadata"), ("warning", "unread-fields")]
    assert codes(table) == [("error", "mask-on-good"), ("error", "missing-photo"), *warnings]
    assert types(table) == {"images/b.png": "defect", "images/c.png": "defect"}
    for split, said in (("train", "val"), ("test", "test")):
        about = {"metadata.json": {"a": {"defect_type": f"{split}_hole", "split": said}}}
        write(tmp_path / "other" / split, {"images/a.png": None, "masks/a.png": MASK, **about})
    table = read_dataset(tmp_path / "other")
    assert list(types(table).values()) == ["test_hole", "train_hole"] and table["split"].tolist() == ["test", "val"]
    assert codes(table) == [("warning", "split-contradiction")]


def test_folders_and_metadata_that_are_named(tmp_path):
    files = {**photos("frames/raw/a.png", "frames/raw/b.png"), "frames/truth/a.png": MASK}
    root = write(tmp_path, {**files, "about.json": {"a": {"defect_type": "hole"}, "b": {}}}) / "frames"
    options = {"image_dir": "raw", "mask_dir": root / "truth", "metadata_path": "../about.json"}
    assert types(read_dataset(root, **options)) == {"raw/a.png": "hole", "raw/b.png": "good"}
    outside = read_dataset(root / "raw", layout="image_mask", image_dir=".", mask_dir="../truth")
    assert outside.attrs["root"] == str(root), "a root that holds the masks too"
    for name, value in (("mask_dir", "nothing"), ("image_dir", "nothing"), ("metadata_path", "nothing.json")):
        with pytest.raises(FileNotFoundError, match=name):
            read_dataset(root, **{**options, name: value})
    with pytest.raises(LayoutError, match="image_dir and mask_dir"):
        read_dataset(root, layout="image_mask", image_dir="raw")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        '[{"label": 1}]',
        '{"a.png": {"label": 7}}',
        '{"a.png": {"split": "practice"}}',
        '{"a.png": {"label": 0, "defect_type": "hole"}}',
        '[{"file_name": "a.png"}, {"file_name": "a.png"}]',
    ],
)
def test_metadata_that_cannot_be_read(tmp_path, text):
    write(tmp_path, {"images/a.png": None, "masks/a.png": MASK, "metadata.json": text})
    with pytest.raises(LayoutError, match=r"metadata\.json"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("where", ["bilder", "pictures_of_2024", ".", "Train"])
def test_a_refusal_names_folders_that_may_be_photos_and_masks(tmp_path, where):
    inside = where in (".", "Train")
    folder = "umrisse" if not inside else f"{where}/Label"
    files = photos(*(f"{where}/{name}.png" for name in "abc"))
    root = write(tmp_path, {**files, f"{folder}/a.png": MASK, f"{folder}/b.png": MASK})
    with pytest.raises(LayoutError) as caught:
        read_dataset(root)
    (hint,) = caught.value.hints
    assert hint["layout"] == "image_mask" and hint["image_dir"] == where
    assert read_dataset(root, **hint)["label_index"].tolist() == [1, 1, 0]


def test_work_grows_in_proportion_to_the_photos(tmp_path):
    calls = {}
    for number in (100, 400):
        names = [f"{i:05d}.png" for i in range(number)]
        records = [{"file_name": f"/other/machine/images/{name}", "label": "good"} for name in names]
        files = {f"{folder}/{name}": EMPTY for folder in ("images", "masks") for name in names}
        files |= {f"images/{name}.meta": "" for name in names}
        root = write(tmp_path / str(number), {**files, "metadata.json": json.dumps(records)})
        calls[number] = count_calls(lambda root=root: read_dataset(root))
    assert calls[400] < 5 * calls[100]
