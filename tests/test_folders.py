"""Folders as the field has them: masks find their photos, nothing becomes a class or is left out without a word."""

import numpy as np
import pandas as pd
import pytest
from readers import EMPTY, MASK, boxes, columns, masks, photos, read, told, types, write

from helpers import read_dataset
from helpers.data.convert import write_dataset
from helpers.data.formats import describe
from helpers.data.images import read_mask
from helpers.data.layouts import LayoutError
from helpers.data.samples import make_table, split_counts

MVTEC = photos("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/hole/000.png", "test/cut/010.png")


def marked(*names: str) -> dict:
    return dict.fromkeys(names, MASK)


def orphans(table: pd.DataFrame) -> set[str]:
    return {row["path"] for row in table.attrs["findings"] if row["code"] == "mask-without-photo"}


def test_mvtec_layout(tmp_path):
    root = write(tmp_path / "bottle", MVTEC | marked("ground_truth/hole/000_mask.png", "ground_truth/cut/010_mask.png"))
    table = read_dataset(root)
    assert list(types(table)) == sorted(MVTEC) == table["group"].tolist()
    rows = table[["label_index", "defect_type", "split"]].agg(list, axis=1).to_list()
    test, train = [[1, "cut", "test"], [0, "good", "test"], [1, "hole", "test"]], [[0, "good", "train"]] * 2
    assert rows == test + train
    expected = {f"test/{name}.png": f"ground_truth/{name}_mask.png" for name in ("cut/010", "hole/000")}
    assert masks(table) == expected and table.attrs["published_split"] is True
    assert [table.attrs[key] for key in ("layout", "name", "root")] == ["mvtec", "bottle", str(root)]
    assert describe(table) == "bottle: MVTec layout, 5 photos (3 normal, 2 abnormal of 2 types), pixel masks for 2"
    assert masks(read_dataset(root, layout="plain")) == {}


@pytest.mark.parametrize("mask", ["000.png", "000_MASK.bmp", "000_gt.png", "000_mask.jpg"])
def test_mask_names(tmp_path, mask):
    file = f"ground_truth/hole/{mask}"
    write(tmp_path, photos("train/good/1.png", "test/hole/000.png", "test/hole/0.png") | marked(file))
    # the number of digits counts: 0 is not 000
    assert masks(read_dataset(tmp_path)) == {"test/hole/000.png": file}


@pytest.mark.parametrize(
    ("pictures", "truth", "pairs"),
    [
        (  # names that are nearly alike; of two masks that may be meant one is
            "train/good/1 test/hole/a test/hole/b test/hole/b_mask",
            "ground_truth/hole/a ground_truth/hole/a_mask ground_truth/hole/b_mask_mask",
            {"test/hole/a": "ground_truth/hole/a_mask", "test/hole/b_mask": "ground_truth/hole/b_mask_mask"},
        ),
        (  # defects in several splits share no mask
            "train/good/1 val/hole/1 val/hole/2 test/hole/1 val/good/1",
            "ground_truth/hole/1_mask ground_truth/hole/2_mask",
            {"test/hole/1": "ground_truth/hole/1_mask", "val/hole/2": "ground_truth/hole/2_mask"},
        ),
        # a mask that may be that of two photos is nobody's
        ("train/good/0 test/hole/0 test/cut/0 test/cut/1", "gt/0 gt/1", {"test/cut/1": "gt/1"}),
        # MAD-man and MAD-sys are test sets for models trained on MVTec AD
        ("test/weak/1", "ground_truth/weak/1_mask", {"test/weak/1": "ground_truth/weak/1_mask"}),
    ],
)
def test_masks_find_their_photos(tmp_path, pictures, truth, pairs):
    files = {f"{name}.png" for name in pictures.split()}
    table = read_dataset(write(tmp_path, photos(*files) | marked(*(f"{name}.png" for name in truth.split()))))
    assert len(table) == len(files) and masks(table) == {f"{a}.png": f"{b}.png" for a, b in pairs.items()}
    assert orphans(table) == {f"{name}.png" for name in set(truth.split()) - set(pairs.values())}


@pytest.mark.parametrize("truth", ["ground_truth/tube/hole/000_mask.png", "ground_truth/hole/000_mask.png"])
def test_ground_truth_beside_the_categories_or_a_single_one(tmp_path, truth):
    table = read_dataset(write(tmp_path, {f"tube/{name}": None for name in MVTEC} | marked(truth)) / "tube")
    # the root holds the masks too
    assert table.attrs["root"] == str(tmp_path) and table.attrs["name"] == "tube"
    assert masks(table) == {"tube/test/hole/000.png": truth}


def test_mvtec_3d(tmp_path):
    for kind, split in (("good", "train"), ("good", "validation"), ("good", "test"), ("hole", "test")):
        gt = MASK if kind == "hole" else EMPTY
        for i, folder in ((i, f"{split}/{kind}") for i in range(2)):
            write(tmp_path, {f"{folder}/rgb/{i}.png": None, f"{folder}/gt/{i}.png": gt, f"{folder}/xyz/{i}.tiff": None})
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "mvtec" and all("/rgb/" in path for path in types(table))
    assert split_counts(table)["normal"].to_dict() == {"train": 2, "val": 2, "test": 2}
    assert masks(table) == {f"test/hole/rgb/{i}.png": f"test/hole/gt/{i}.png" for i in range(2)}
    assert {path for code, path in told(table, "warning") if code == "unused-pictures"} == {"test/good/xyz"}


def test_mvtec_ad_2(tmp_path):
    parts = ("train", "validation", "test_public")
    write(tmp_path, photos(*(f"{part}/good/{i:03d}_regular.png" for part in parts for i in (0, 1))))
    write(tmp_path, photos("test_public/bad/000_over.png", "test_private/000.png", "test_private_mixed/000.png"))
    table = read_dataset(write(tmp_path, marked("test_public/ground_truth/bad/000_over_mask.png")))
    good = {(split, "good"): 2 for split in ("train", "val", "test")}
    assert table.groupby(["split", "defect_type"]).size().to_dict() == good | {("test", "bad"): 1}
    assert masks(table) == {"test_public/bad/000_over.png": "test_public/ground_truth/bad/000_over_mask.png"}
    unread = {("unused-pictures", "test_private"), ("unused-pictures", "test_private_mixed")}
    assert unread <= told(table, "warning")


def test_several_masks_of_one_photo_are_one(tmp_path):
    """MVTec LOCO: a folder of masks a photo, their values from 236 to 255."""
    names = photos("train/good/0.png", "test/good/0.png", "test/logical/000.png", "test/logical/001.png")
    truth = {"000/000": MASK * np.uint8(236), "000/001": boxes((18, 20, 0, 30)), "001/000": MASK * np.uint8(244)}
    files = {f"ground_truth/logical/{name}.png": mask for name, mask in truth.items()}
    table = columns(read(write(tmp_path / "set", names | files)), "mask_path")
    assert np.array_equal(read_mask(table["test/logical/000.png"]), MASK | boxes((18, 20, 0, 30)))
    assert np.array_equal(read_mask(table["test/logical/001.png"]), MASK)


def test_masks_without_photos_are_errors_and_clutter_is_none(tmp_path):
    names = ("train/good/.DS_Store", "test/good/Thumbs.db", "test/__MACOSX/good/x.png", "train/good/._000.png")
    write(tmp_path, MVTEC | dict.fromkeys(names, b"x") | photos("train/.hidden/1.png"))
    truth = [f"ground_truth/{name}.png" for name in ("hole/77_mask", "old/1", "hole/000_mask")]
    table = read_dataset(write(tmp_path, marked(*truth) | {"ground_truth/hole/78_mask.png": EMPTY}))
    severities = {row["path"]: row["severity"] for row in table.attrs["findings"] if row["code"] != "defect-types"}
    assert severities == dict.fromkeys(truth[:2], "error") | {"ground_truth/hole/78_mask.png": "warning"}
    assert len(table) == len(MVTEC)


def test_a_mask_of_a_good_photo_is_kept_if_it_marks_a_pixel(tmp_path):
    root = write(tmp_path, MVTEC | {"ground_truth/good/000_mask.png": EMPTY, "ground_truth/hole/000_mask.png": MASK})
    assert set(masks(read_dataset(root))) == {"test/hole/000.png"}
    table = read_dataset(write(root, marked("ground_truth/good/000_mask.png")))
    # train has the same name, but the masks belong to test
    assert set(masks(table)) == {"test/hole/000.png", "test/good/000.png"}
    assert ("mask-on-good", "ground_truth/good/000_mask.png") in told(table, "error")


@pytest.mark.parametrize(
    "place", ["masks/{}", "label/{}", "masks/test/{}", "test/ground_truth/{}", "test/{}/mask", "gt"]
)
@pytest.mark.parametrize("kind", ["scratch", "label"])
def test_masks_beside_split_folders(tmp_path, place, kind):
    folder = place.format(kind)
    files = photos("train/good/0.png", "test/good/5.png", f"test/{kind}/0.png", f"test/{kind}/1.png")
    table = read_dataset(write(tmp_path, files | marked(f"{folder}/0_mask.png", f"{folder}/1_mask.png")))
    assert table.attrs["layout"] == "mvtec" and set(types(table).values()) == {"good", kind}
    assert masks(table) == {f"test/{kind}/{i}.png": f"{folder}/{i}_mask.png" for i in (0, 1)}


def test_many_categories_are_listed(tmp_path):
    for category in ("bottle", "cable"):
        write(tmp_path / category, MVTEC | marked("ground_truth/hole/000_mask.png"))
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    assert caught.value.hints == [{"category": "bottle"}, {"category": "cable"}]
    assert read_dataset(tmp_path, category="cable").attrs["root"] == str(tmp_path / "cable")
    with pytest.raises(ValueError, match="bottle, cable"):
        read_dataset(tmp_path, category="screw")


@pytest.mark.parametrize("prefix", ["MT_", ""])
@pytest.mark.parametrize("inner", ["Imgs/", ""])
def test_class_folders(tmp_path, prefix, inner):
    free, crack, torn = (f"{prefix}{kind}/{inner}" for kind in ("Free", "Crack", "Break"))
    for i in range(3):
        write(
            tmp_path, photos(f"{free}{i}.jpg", f"{crack}{i}.jpg") | {f"{free}{i}.png": EMPTY, f"{crack}{i}.png": MASK}
        )
    table = read_dataset(write(tmp_path, {f"{torn}5.jpg": None, f"{torn}6.png": MASK}))
    assert table.attrs["layout"] == "classes" and table.attrs["published_split"] is False
    expected = {f"{crack}{i}.jpg": "Crack" for i in range(3)} | {f"{free}{i}.jpg": "good" for i in range(3)}
    assert types(table) == {f"{torn}5.jpg": "Break"} | expected
    assert masks(table) == {f"{crack}{i}.jpg": f"{crack}{i}.png" for i in range(3)}
    assert orphans(table) == {f"{torn}6.png"}


@pytest.mark.parametrize("place", ["mask/{}", "ground_truth/{}", "{}_mask", "mask_{}", "{}/masks"])
def test_masks_of_class_folders_lie_beside_them(tmp_path, place):
    names = photos("good/0.jpg", "good/1.jpg", "good/2.jpg", "crack/0.jpg", "crack/1.jpg", "colour/0.jpg")
    defects = (("crack", 0), ("crack", 1), ("colour", 0))
    table = read_dataset(write(tmp_path, names | marked(*(f"{place.format(kind)}/{i}.png" for kind, i in defects))))
    assert table.attrs["layout"] == "classes" and set(types(table).values()) == {"good", "crack", "colour"}
    assert masks(table) == {f"{kind}/{i}.jpg": f"{place.format(kind)}/{i}.png" for kind, i in defects}
    assert not {code for code, _ in told(table, "error", "warning")} - {"too-few-train", "one-class-test"}


def test_classes_in_a_folder_of_images_beside_one_of_masks(tmp_path):
    names = photos("images/good/0.jpg", "images/good/1.jpg", "images/hole/0.jpg", "images/hole/1.jpg")
    table = read_dataset(write(tmp_path, names | marked("masks/hole/0.png")))
    assert list(types(table).values()) == ["good", "good", "hole", "hole"], "without a mask, but its folder says hole"
    assert masks(table) == {"images/hole/0.jpg": "masks/hole/0.png"}
    assert ("missing-mask", "images/hole/1.jpg") in told(table, "error")


def test_photos_of_one_stem_are_two_photos_but_for_masks(tmp_path):
    write(tmp_path, photos(*(f"{kind}/{name}" for kind in ("good", "scratch") for name in ("1.jpg", "1.png", "2.png"))))
    table = read_dataset(write(tmp_path, {"scratch/3.jpg": None, "scratch/3.png": MASK, "scratch/4_mask.png": MASK}))
    assert len(table) == 7 and masks(table) == {"scratch/3.jpg": "scratch/3.png"}


def test_folders_that_are_no_classes_or_may_be_none(tmp_path):
    folders = ("good", "ng", "results", "thumbs_128", "Anomaly Maps", "gt")
    write(tmp_path, photos(*(f"{kind}/{i}.jpg" for kind in folders for i in range(2))))
    masks_of_nobody = marked("umrisse/0.png", "umrisse/1.png") | {"leer/0.png": EMPTY, "leer/1.png": EMPTY}
    table = read_dataset(write(tmp_path, masks_of_nobody | {"ng/9.png": EMPTY}))
    assert set(types(table).values()) == {"good", "ng", "gt", "umrisse", "leer"}
    warnings = told(table, "warning")
    as_photos = {path for code, path in told(table, "error") if code == "mask-as-photo"}
    assert as_photos == {"umrisse/0.png", "umrisse/1.png", "leer/0.png", "leer/1.png"}, "a black photo is one"
    assert {("unused-pictures", name) for name in ("results", "thumbs_128", "Anomaly Maps")} <= warnings
    assert ("named-as-masks", "") in warnings and ("defect-types", "") in told(table, "info")


@pytest.mark.parametrize("names", ["ok_front def_front", "cast_ok cast_def", "OK NG", "Good-Parts bad", "normal_2 n2"])
@pytest.mark.parametrize("splits", [("train/", "test/"), ("",)])
def test_the_word_for_good(tmp_path, names, splits):
    good, bad = names.split()
    write(tmp_path, photos(*(f"{split}{kind}/{i}.jpg" for split in splits for kind in (good, bad) for i in (0, 1))))
    table = read_dataset(tmp_path)
    short = {"cast_def": "def"}.get(bad, bad) if splits == ("",) else bad
    assert list(types(table).values()).count("good") == 2 * len(splits) and short in set(types(table).values())
    guessed = ("normal-by-word", "") in told(table, "warning")
    assert guessed == (good in ("ok_front", "Good-Parts")), "a guess is said"


@pytest.mark.parametrize("names", ["a b", "not_ok ng", "ok_a ok_b", "almost_good torn"])
@pytest.mark.parametrize("split", ["train/", ""])
def test_which_of_unknown_folders_is_good_is_asked(tmp_path, names, split):
    first, second = names.split()
    write(tmp_path, photos(f"{split}{first}/0.jpg", f"{split}{second}/0.jpg"))
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    assert {hint.get("normal") for hint in caught.value.hints} == {first, second}
    for hint in caught.value.hints:
        table = read_dataset(tmp_path, **hint)
        assert [name for name, kind in types(table).items() if kind == "good"] == [f"{split}{hint['normal']}/0.jpg"]
    assert read_dataset(tmp_path, normal="")["label_index"].tolist() == [1, 1]


def test_several_folders_of_good_photos(tmp_path):
    write(tmp_path, photos("test/ok_a/0.jpg", "test/ok_b/0.jpg", "test/rest/0.jpg", "good_2/0.jpg"))
    for options in ({"normal": ["ok_a", "OK_B"]}, {}):
        assert list(types(read_dataset(tmp_path, **options)).values()) == ["good", "good", "rest"]
    table = read_dataset(write(tmp_path, photos("test/good/0.jpg")))
    assert set(types(table).values()) == {"good", "ok_a", "ok_b", "rest"}
    assert ("normal-by-word", "") in told(table, "warning"), "called ok, and read as defects"


def test_class_folders_of_any_names_are_read_when_told(tmp_path):
    write(tmp_path, photos("bike_Whole/1.jpg", "bike_bent/1.jpg", "bike_torn/2.jpg"))
    for options in ({}, {"normal": "hole"}):
        with pytest.raises(LayoutError):
            read_dataset(tmp_path, **options)
    for normal, first in (("whole", "good"), ("bike_WHOLE", "good"), ("", "Whole")):
        table = read_dataset(tmp_path, layout="classes", normal=normal)
        assert list(types(table).values()) == [first, "bent", "torn"]
    assert types(read_dataset(write(tmp_path / "x", photos("0/a.png", "1/b.png")), normal=0))["0/a.png"] == "good"
    write(tmp_path / "y", photos("good/1.jpg", "bent/1.jpg"))
    for normal in ("", "bent"):  # its name says otherwise
        with pytest.raises(LayoutError):
            read_dataset(tmp_path / "y", layout="classes", normal=normal)


@pytest.mark.parametrize("kind", ["OK", "good_2", "ok_front", "results", "no_defect", "defect_free", "mask", "label"])
def test_defect_types_of_any_name_come_back_from_folders(tmp_path, kind):
    write(tmp_path / "old", photos("a.png", "b.png", "c.png"))
    rows = [{"image_path": f"{name}.png", "label_index": 1, "defect_type": kind, "split": "test"} for name in "bc"]
    rows.append({"image_path": "a.png", "split": "test"})
    table = make_table(rows, root=tmp_path / "old", layout="table", name="old", published_split=True)
    write_dataset(table, tmp_path / "copied")
    back = read_dataset(tmp_path / "copied")
    assert back.attrs["layout"] != "table" and sorted(back["label_index"]) == [0, 1, 1]


def test_defects_inside_a_folder_of_good_photos_are_an_error(tmp_path):
    wrong, right = ("ng", "not_ok", "OK but dirty", "defect_2", "Hole"), ("camera_1", "no_flash", "non-defective", "ok")
    names = (*(f"train/good/{inner}/1.png" for inner in wrong + right), "test/good/2.png", "test/hole/3.png")
    found = told(read_dataset(write(tmp_path, photos(*names))), "error")
    assert {path for code, path in found if code == "defect-in-good"} == {f"train/good/{inner}" for inner in wrong}


def test_photos_called_defects_that_have_no_mask_are_an_error(tmp_path):
    files = photos("OK/0.jpg", "NG/0.jpg", "NG/1.jpg") | marked("NG/0.png")
    table = read_dataset(write(tmp_path, files), layout="image_mask", image_dir=".", mask_dir=".")
    assert masks(table) == {"NG/0.jpg": "NG/0.png"} and ("defect-in-good", "NG") in told(table, "error")


def test_masks_beside_annotations_that_contradict_them_are_an_error(tmp_path):
    files = photos("0.jpg", "1.jpg", "2.jpg") | marked("masks/0_mask.png", "masks/1_mask.png")
    outline = {"label": "hole", "shape_type": "polygon", "points": [[2, 2], [12, 2], [12, 9]]}
    files |= {f"{i}.json": {"imagePath": f"{i}.jpg", "shapes": [outline] * (i == 0)} for i in range(3)}
    table = read(write(tmp_path / "set", files | {"masks/2_mask.png": EMPTY}))
    assert {path for code, path in told(table, "error") if code == "mask-on-good"} == {"masks/1_mask.png"}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("test/dent/0.json", {"shapes": [], "imagePath": "0.png"}, "unused-annotations"),
        ("a.xml", "<annotation></annotation>", "unused-annotations"),
        ("a.txt", "0 0.5 0.5 0.2 0.2\n", "unused-annotations"),
        ("train/good/IMG_1.HEIC", b"x", "unread-format"),
        ("extra/0.png", None, "unused-pictures"),
    ],
)
def test_what_is_not_read_is_said(tmp_path, name, content, code):
    write(tmp_path, photos("train/good/0.JPG", "train/good/web.jfif", "test/good/0.png", "test/dent/0.png"))
    table = read_dataset(write(tmp_path, {"dataset.json": "{}", "notes.md": "x", name: content}))
    warnings = told(table, "warning")
    assert len(table) == 4 and (code, name.removesuffix("/0.png")) in warnings
    masked = read_dataset(write(tmp_path, marked("ground_truth/dent/0.png")))
    kind = "info" if code == "unused-annotations" else "warning"  # with a mask for every defect none is needed
    assert (code, name.removesuffix("/0.png")) in told(masked, kind)


def test_links_to_a_folder_around_are_no_types_and_linked_photos_are_read_once(tmp_path):
    write(tmp_path, photos("good/0.png", "crack/0.png") | marked("mask/crack/0.png"))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "crack" / "again").symlink_to(tmp_path / "crack")
    (tmp_path / "good" / "same.png").symlink_to(tmp_path / "good" / "0.png")
    table = read_dataset(tmp_path)
    assert types(table) == {"crack/0.png": "crack", "good/0.png": "good"}
    found = told(table, "error", "warning", "info")
    assert {("link-loop", "loop"), ("link-loop", "crack/again"), ("repeated-link", "good/same.png")} <= found
    assert not {code for code, _ in found} & {"mask-without-photo", "unused-pictures"}
