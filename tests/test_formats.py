"""Readers of folder layouts and tables."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import helpers
from helpers.data.checks import check_dataset
from helpers.data.formats import LAYOUTS, describe, read_dataset
from helpers.data.layouts import LayoutError
from helpers.data.samples import assign_splits, read_table, relative_path, split_counts, write_table
from helpers.paths import write_csv

MAGNETIC_TILE = Path(__file__).parents[2] / "shared" / "data" / "magnetic_tile"


def put(root: Path, *names: str) -> Path:
    """Write a tiny grey picture under each name."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(file)
    return root


def rows(table: pd.DataFrame, *columns: str) -> dict[str, tuple]:
    values = table[list(columns)].itertuples(index=False, name=None)
    return dict(zip(relative_path(table), values, strict=True))


def mask_names(table: pd.DataFrame) -> dict[str, str]:
    """Relative mask path, or "", of every abnormal photo."""
    root = Path(table.attrs["root"])
    abnormal = table[table["label_index"] == 1]
    masks = [Path(mask).relative_to(root).as_posix() if mask else "" for mask in abnormal["mask_path"]]
    return dict(zip(relative_path(abnormal), masks, strict=True))


MVTEC = ("train/good/000.png", "train/good/001.png", "test/good/000.png", "test/hole/000.png", "test/cut/010.png")


# ---------------------------------------------------------------------------------------------------------------- MVTec


def test_mvtec_layout(tmp_path, caplog):
    root = put(tmp_path / "bottle", *MVTEC, "ground_truth/hole/000_mask.png", "ground_truth/cut/010_mask.png")
    with caplog.at_level(logging.INFO, logger="helpers"):
        table = read_dataset(root)
    assert rows(table, "label_index", "defect_type", "split", "group") == {
        "test/cut/010.png": (1, "cut", "test", "test/cut/010.png"),
        "test/good/000.png": (0, "good", "test", "test/good/000.png"),
        "test/hole/000.png": (1, "hole", "test", "test/hole/000.png"),
        "train/good/000.png": (0, "good", "train", "train/good/000.png"),
        "train/good/001.png": (0, "good", "train", "train/good/001.png"),
    }
    assert mask_names(table) == {
        "test/cut/010.png": "ground_truth/cut/010_mask.png",
        "test/hole/000.png": "ground_truth/hole/000_mask.png",
    }
    assert table.attrs["layout"] == "mvtec" and table.attrs["name"] == "bottle"
    assert table.attrs["published_split"] is True and table.attrs["root"] == str(root)
    line = "bottle: MVTec layout, 5 photos (3 normal, 2 abnormal of 2 types), pixel masks for 2"
    assert describe(table) == line
    assert line in caplog.text


@pytest.mark.parametrize(
    "mask",
    [
        "000_mask.png",  # MVTec AD, MPDD, WFDD, MAD-man, MAD-sys
        "000.png",  # VisA as anomalib converts it, and other mirrors
        "000_mask.PNG",
        "000_MASK.bmp",
        "000_gt.png",
        "000_mask.jpg",
    ],
)
def test_mvtec_mask_names(tmp_path, mask):
    put(tmp_path, "train/good/1.png", "test/hole/000.png", "test/hole/0.png", f"ground_truth/hole/{mask}")
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "mvtec"
    # the number of digits counts: 0 is not 000
    assert mask_names(table) == {"test/hole/0.png": "", "test/hole/000.png": f"ground_truth/hole/{mask}"}


def test_mvtec_mask_with_the_usual_ending_wins(tmp_path):
    put(tmp_path, "train/good/1.png", "test/hole/a.png", "ground_truth/hole/a.png", "ground_truth/hole/a_mask.png")
    table = read_dataset(tmp_path)
    assert mask_names(table) == {"test/hole/a.png": "ground_truth/hole/a_mask.png"}
    assert table.attrs["unused_masks"] == ["ground_truth/hole/a.png"]


def test_mvtec_photo_whose_name_ends_like_a_mask(tmp_path):
    put(tmp_path, "train/good/1.png", "test/hole/a.png", "test/hole/a_mask.png", "ground_truth/hole/a_mask_mask.png")
    assert mask_names(read_dataset(tmp_path)) == {
        "test/hole/a.png": "",
        "test/hole/a_mask.png": "ground_truth/hole/a_mask_mask.png",
    }


def test_mvtec_ground_truth_beside_the_categories(tmp_path):
    for category in ("tube", "plate"):
        put(tmp_path / category, *MVTEC)
        put(tmp_path / "ground_truth" / category, "hole/000_mask.png", "cut/010_mask.png")
    table = read_dataset(tmp_path / "tube")
    # the root holds the masks too
    assert table.attrs["root"] == str(tmp_path) and table.attrs["name"] == "tube"
    assert mask_names(table) == {
        "tube/test/cut/010.png": "ground_truth/tube/cut/010_mask.png",
        "tube/test/hole/000.png": "ground_truth/tube/hole/000_mask.png",
    }


def test_mvtec_ground_truth_beside_a_single_category(tmp_path):
    put(tmp_path, *(f"images/{name}" for name in MVTEC), "ground_truth/hole/000_mask.png")
    table = read_dataset(tmp_path / "images")
    assert mask_names(table)["images/test/hole/000.png"] == "ground_truth/hole/000_mask.png"


def test_mvtec_3d(tmp_path):
    for kind, split in (("good", "train"), ("good", "validation"), ("good", "test"), ("hole", "test")):
        put(tmp_path, *(f"{split}/{kind}/{part}/{i:03d}.{end}" for i in range(2) for part, end in PARTS))
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "mvtec"
    assert all(path.split("/")[-2] == "rgb" for path in relative_path(table))
    assert split_counts(table)["normal"].to_dict() == {"train": 2, "val": 2, "test": 2}
    assert mask_names(table) == {f"test/hole/rgb/{i:03d}.png": f"test/hole/gt/{i:03d}.png" for i in range(2)}


PARTS = (("rgb", "png"), ("gt", "png"), ("xyz", "tiff"))


def test_mvtec_test_set_only(tmp_path):
    """MAD-man and MAD-sys are test sets for models trained on MVTec AD."""
    put(tmp_path / "carpet", "test/good/0.png", "test/weak/1.png", "ground_truth/weak/1_mask.png")
    table = read_dataset(tmp_path / "carpet")
    assert set(table["split"]) == {"test"} and mask_names(table)["test/weak/1.png"]


def test_mvtec_defects_in_several_splits_share_no_mask(tmp_path):
    put(tmp_path, "train/good/1.png", "val/hole/1.png", "val/hole/2.png", "test/hole/1.png", "val/good/1.png")
    put(tmp_path, "ground_truth/hole/1_mask.png", "ground_truth/hole/2_mask.png")
    table = read_dataset(tmp_path)
    assert mask_names(table) == {
        "test/hole/1.png": "ground_truth/hole/1_mask.png",
        "val/hole/1.png": "",
        "val/hole/2.png": "ground_truth/hole/2_mask.png",
    }
    assert table.attrs["unused_masks"] == []


def test_mvtec_masks_without_photos_and_other_files_are_listed(tmp_path):
    put(tmp_path, *MVTEC, "ground_truth/hole/000_mask.png", "ground_truth/hole/77_mask.png", "ground_truth/old/1.png")
    for name in ("train/good/notes.txt", "train/good/.DS_Store", "test/good/Thumbs.db", "test/__MACOSX/good/x.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    put(tmp_path, "train/good/._000.png", "train/.hidden/1.png", "frames/0.png")
    table = read_dataset(tmp_path)
    assert len(table) == len(MVTEC)
    assert table.attrs["ignored"] == ["train/good/notes.txt"]
    assert table.attrs["unused_masks"] == ["ground_truth/hole/77_mask.png", "ground_truth/old/1.png"]


def test_mvtec_mask_of_a_normal_photo_is_kept_for_the_checks_if_it_marks_a_pixel(tmp_path):
    put(tmp_path, *MVTEC, "ground_truth/good/000_mask.png", "ground_truth/hole/000_mask.png")
    assert rows(read_dataset(tmp_path), "mask_path")["test/good/000.png"] == ("",)
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "ground_truth/good/000_mask.png")
    table = read_dataset(tmp_path)
    assert rows(table, "mask_path")["test/good/000.png"][0].endswith("000_mask.png")
    assert rows(table, "mask_path")["train/good/000.png"] == ("",)  # same name, but the masks belong to test
    assert describe(table).endswith("pixel masks for 1")


def test_dataset_json_gives_name_and_pixel_size(tmp_path):
    root = put(tmp_path / "folder", *MVTEC, "ground_truth/hole/000_mask.png")
    about = {"name": "mesh", "layout": "mvtec", "pixel_size_mm": 0.05}
    (root / "dataset.json").write_text(json.dumps(about))
    (root / "defects.csv").write_text("image,area_mm2\n")
    table = read_dataset(root)
    assert (table.attrs["name"], table.attrs["pixel_size"]) == ("mesh", 0.05)
    given = read_dataset(root, name="mine", pixel_size=0.1)
    assert (given.attrs["name"], given.attrs["pixel_size"]) == ("mine", 0.1)
    (root / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="dataset.json is not valid JSON"):
        read_dataset(root)


def test_root_with_many_categories_lists_them(tmp_path):
    for category in ("bottle", "cable"):
        put(tmp_path / category, *MVTEC, "ground_truth/hole/000_mask.png")
    with pytest.raises(
        ValueError, match=r"holds 2 categories \(bottle, cable\); give the path of one, such as .*bottle"
    ):
        read_dataset(tmp_path)
    table = read_dataset(tmp_path, category="cable")
    assert table.attrs["name"] == "cable" and table.attrs["root"] == str(tmp_path / "cable")
    with pytest.raises(ValueError, match="no category 'screw'; choose one of: bottle, cable"):
        read_dataset(tmp_path, category="screw")


# ---------------------------------------------------------------------------------------------------------------- plain


def test_plain_layout_has_no_masks(tmp_path):
    put(tmp_path / "nut", "train/good/1.jpg", "test/good/2.JPG", "test/defect/3.jpg")
    table = read_dataset(tmp_path / "nut")
    assert rows(table, "label_index", "defect_type", "split", "mask_path") == {
        "test/defect/3.jpg": (1, "defect", "test", ""),
        "test/good/2.JPG": (0, "good", "test", ""),
        "train/good/1.jpg": (0, "good", "train", ""),
    }
    assert table.attrs["layout"] == "plain"
    assert describe(table) == (
        "nut: plain layout, 3 photos (2 normal, 1 abnormal of 1 type), no pixel masks (image-level results only)"
    )


def test_masks_can_be_left_out_by_naming_the_layout(tmp_path):
    put(tmp_path, *MVTEC, "ground_truth/hole/000_mask.png")
    table = read_dataset(tmp_path, layout="plain")
    assert table.attrs["layout"] == "plain" and (table["mask_path"] == "").all()


# ----------------------------------------------------------------------------------------------------------------- VisA


def visa(root: Path) -> Path:
    lines = ["object,split,label,image,mask"]
    for thing in ("candle", "pcb1"):
        images = f"{thing}/Data/Images"
        lines += [f"{thing},train,normal,{images}/Normal/0000.JPG,", f"{thing},test,normal,{images}/Normal/0001.JPG,"]
        lines.append(f"{thing},test,anomaly,{images}/Anomaly/000.JPG,{thing}/Data/Masks/Anomaly/000.png")
        put(root, f"{images}/Normal/0000.JPG", f"{images}/Normal/0001.JPG", f"{images}/Anomaly/000.JPG")
        put(root, f"{thing}/Data/Masks/Anomaly/000.png")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def test_visa_layout(tmp_path):
    table = read_dataset(visa(tmp_path), category="pcb1")
    assert rows(table, "label_index", "defect_type", "split") == {
        "pcb1/Data/Images/Anomaly/000.JPG": (1, "anomaly", "test"),
        "pcb1/Data/Images/Normal/0000.JPG": (0, "good", "train"),
        "pcb1/Data/Images/Normal/0001.JPG": (0, "good", "test"),
    }
    assert mask_names(table) == {"pcb1/Data/Images/Anomaly/000.JPG": "pcb1/Data/Masks/Anomaly/000.png"}
    assert all(Path(path).is_file() for path in table["image_path"])
    assert (table.attrs["layout"], table.attrs["name"]) == ("visa", "pcb1")


def test_visa_with_several_objects_needs_one(tmp_path):
    visa(tmp_path)
    with pytest.raises(ValueError, match=r"holds 2 categories \(candle, pcb1\); give category='candle'"):
        read_dataset(tmp_path)
    with pytest.raises(ValueError, match="no object 'nut'; choose one of: candle, pcb1"):
        read_dataset(tmp_path, category="nut")


# -------------------------------------------------------------------------------------------------------- class folders


@pytest.mark.parametrize(("prefix", "photos"), [("MT_", "Imgs/"), ("", "")])
def test_class_folders(tmp_path, prefix, photos):
    put(tmp_path, *(f"{prefix}Free/{photos}{i}.{end}" for i in range(3) for end in ("jpg", "png")))
    put(tmp_path, *(f"{prefix}Crack/{photos}{i}.{end}" for i in range(2) for end in ("jpg", "png")))
    put(tmp_path, f"{prefix}Break/{photos}5.jpg", f"{prefix}Break/{photos}6.png")
    table = read_dataset(tmp_path)
    assert table.attrs["layout"] == "classes" and table.attrs["published_split"] is False
    assert rows(table, "label_index", "defect_type", "split") == {
        f"{prefix}Break/{photos}5.jpg": (1, "Break", ""),
        **{f"{prefix}Crack/{photos}{i}.jpg": (1, "Crack", "") for i in range(2)},
        **{f"{prefix}Free/{photos}{i}.jpg": (0, "good", "") for i in range(3)},
    }
    assert mask_names(table) == {
        f"{prefix}Break/{photos}5.jpg": "",
        **{f"{prefix}Crack/{photos}{i}.jpg": f"{prefix}Crack/{photos}{i}.png" for i in range(2)},
    }
    assert (table.loc[table["label_index"] == 0, "mask_path"] == "").all()
    assert table.attrs["unused_masks"] == [f"{prefix}Break/{photos}6.png"]


def test_class_folders_of_png_photos(tmp_path):
    put(tmp_path, "ok/1.png", "ok/2.png", "scratch/1.png", "scratch/1_mask.png", "not_ok/9.png")
    table = read_dataset(tmp_path)
    assert mask_names(table) == {"not_ok/9.png": "", "scratch/1.png": "scratch/1_mask.png"}
    assert rows(table, "defect_type")["not_ok/9.png"] == ("not_ok",)
    assert (table["label_index"] == 0).sum() == 2


@pytest.mark.parametrize(("normal", "damaged"), [("intact", "damaged"), ("Undamaged", "Damaged")])
def test_class_folders_of_intact_and_damaged(tmp_path, normal, damaged):
    table = read_dataset(put(tmp_path, f"{normal}/1.jpg", f"{damaged}/1.jpg"))
    assert table.attrs["layout"] == "classes"
    assert rows(table, "defect_type") == {f"{normal}/1.jpg": ("good",), f"{damaged}/1.jpg": (damaged,)}


def test_class_folders_of_any_names_are_read_when_told(tmp_path):
    put(tmp_path, "bike_Whole/1.jpg", "bike_bent/1.jpg", "bike_torn/2.jpg")
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path)
    with pytest.raises(LayoutError, match="say which it is with normal='FOLDER'"):
        read_dataset(tmp_path, layout="classes")
    for normal in ("whole", "bike_WHOLE"):
        table = read_dataset(tmp_path, layout="classes", normal=normal)
        assert rows(table, "label_index", "defect_type") == {
            "bike_Whole/1.jpg": (0, "good"),
            "bike_bent/1.jpg": (1, "bent"),
            "bike_torn/2.jpg": (1, "torn"),
        }
    table = read_dataset(tmp_path, layout="classes", normal="")
    assert table["label_index"].tolist() == [1, 1, 1] and table["defect_type"].tolist() == ["Whole", "bent", "torn"]
    with pytest.raises(LayoutError, match=r"no folder 'hole' \(normal=\); it has: bike_Whole"):
        read_dataset(tmp_path, layout="classes", normal="hole")


@pytest.mark.parametrize(
    ("photos", "normal", "words"),
    [
        (("ok/1.jpg", "bent/1.jpg"), "", "folder 'ok', a name of normal photos, but normal=''"),
        (("good/1.jpg", "whole/1.jpg"), "whole", "folder 'good', a name of normal photos, but normal='whole'"),
        (("train/a/1.jpg", "test/a/1.jpg"), "", r"folders of splits \(test, train\).*layout='plain'"),
    ],
)
def test_class_folders_whose_names_say_otherwise(tmp_path, photos, normal, words):
    with pytest.raises(LayoutError, match=words):
        read_dataset(put(tmp_path, *photos), layout="classes", normal=normal)


def test_class_folders_split_70_15_15(tmp_path):
    put(tmp_path, *(f"intact/{i}.png" for i in range(200)), *(f"damaged/{i}.png" for i in range(100)))
    # each share counts from what is left: 15 of the 85 % that test leaves
    fractions = {"test_fraction": 0.15, "val_fraction": 0.15 / 0.85}
    counts = split_counts(assign_splits(read_dataset(tmp_path), "supervised", **fractions))
    assert counts["normal"].to_dict() == {"train": 140, "val": 30, "test": 30}
    assert counts["damaged"].to_dict() == {"train": 70, "val": 15, "test": 15}
    # photos of one part stay together
    table = assign_splits(read_dataset(tmp_path, group=r"(\d)\.png$"), "supervised", **fractions)
    assert table.groupby("group")["split"].nunique().tolist() == [1] * 10


def test_class_folders_without_a_normal_class_split_70_15_15(tmp_path):
    put(tmp_path, *(f"{kind}/{i}.png" for kind in ("bent", "torn") for i in range(20)))
    counts = split_counts(assign_splits(read_dataset(tmp_path, layout="classes", normal=""), "supervised"))
    assert counts["normal"].sum() == 0
    assert counts["bent"].to_dict() == counts["torn"].to_dict() == {"train": 14, "val": 3, "test": 3}


@pytest.mark.skipif(not MAGNETIC_TILE.is_dir(), reason="../shared/data/magnetic_tile is not there")
def test_magnetic_tiles():
    table = read_dataset(MAGNETIC_TILE)
    counts = table["defect_type"].value_counts().to_dict()
    assert counts == {"good": 952, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103}
    abnormal = table["label_index"] == 1
    assert abnormal.sum() == 392 and all(Path(mask).is_file() for mask in table["mask_path"][abnormal])
    assert describe(table) == (
        "magnetic_tile: class folders, 1344 photos (952 normal, 392 abnormal of 5 types), pixel masks for 392"
    )
    counts = split_counts(assign_splits(table, val_fraction=0.2, test_fraction=0.2, val_abnormal_fraction=0.1))
    assert counts["normal"].to_dict() == {"train": 610, "val": 152, "test": 190}  # 190.4; 0.2 of 762 = 152.4
    assert counts.loc["val"].drop(["normal", "abnormal"]).to_dict() == {
        "Blowhole": 12,  # 11.5 rounds up
        "Break": 9,  # 8.5 rounds up
        "Crack": 6,
        "Fray": 3,
        "Uneven": 10,
    }


# --------------------------------------------------------------------------------------------------------------- tables


def test_table_with_words_for_labels(tmp_path):
    (tmp_path / "list.csv").write_text(
        "image_path,label,mask_path,split,group\n"
        "a/1.png,good,,training,07\n"
        "a/2.png,scratch,m/2.png,test,08\n"
        "a/3.png,1,,test,08\n"
        "a/4.png,Normal,,valid,09\n"
    )
    table = read_dataset(tmp_path / "list.csv", pixel_size=0.2)
    assert rows(table, "label_index", "defect_type", "split", "group") == {
        "a/1.png": (0, "good", "train", "07"),
        "a/2.png": (1, "scratch", "test", "08"),
        "a/3.png": (1, "defect", "test", "08"),
        "a/4.png": (0, "good", "val", "09"),
    }
    assert mask_names(table) == {"a/2.png": "m/2.png", "a/3.png": ""}
    assert table.attrs["root"] == str(tmp_path) and table.attrs["published_split"] is True
    assert table.attrs["name"] == "list" and table.attrs["pixel_size"] == 0.2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_label_index_and_root(tmp_path, suffix):
    frame = pd.DataFrame({"image_path": ["1.png", "2.png"], "label_index": [0, 1], "defect_type": [None, "dent"]})
    file = tmp_path / f"list{suffix}"
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
    table = read_dataset(file, root=tmp_path / "photos")
    assert list(table["image_path"]) == [str(tmp_path / "photos" / "1.png"), str(tmp_path / "photos" / "2.png")]
    assert list(table["defect_type"]) == ["good", "dent"] and table.attrs["published_split"] is False


def test_table_that_was_written_comes_back(tmp_path):
    root = put(tmp_path / "bottle", *MVTEC, "ground_truth/hole/000_mask.png")
    table = assign_splits(read_dataset(root, pixel_size=0.3), val_fraction=0.5)
    back = read_dataset(write_table(table, tmp_path / "run" / "samples.csv"))
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back.attrs == table.attrs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\n1.png,good\n", "no column image_path but file, label"),
        ("image_path,defect_type\n1.png,good\n", "no column label or label_index"),
        ("image_path,label\n1.png,\n", "empty label"),
        ("image_path,label_index\n1.png,2\n", "label 2"),
        ("image_path,label,split\n1.png,good,dev\n", "split 'dev'"),
    ],
)
def test_table_errors(tmp_path, text, words):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_dataset(tmp_path / "list.csv")


# --------------------------------------------------------------------------------------------------------------- groups


def test_groups_from_an_expression(tmp_path):
    put(tmp_path, "good/part1_a.png", "good/part1_b.png", "good/part2_a.png", "hole/part2_b.png")
    table = read_dataset(tmp_path, group=r"part(\d+)_")
    assert rows(table, "group") == {
        "good/part1_a.png": ("1",),
        "good/part1_b.png": ("1",),
        "good/part2_a.png": ("2",),
        "hole/part2_b.png": ("2",),
    }
    splits = dict(rows(assign_splits(table, test_fraction=0.0), "split"))
    assert splits["good/part2_a.png"] == splits["hole/part2_b.png"] == ("test",)


def test_groups_from_a_mapping(tmp_path):
    put(tmp_path, "good/1.png", "good/2.png", "hole/3.png")
    mapping = {"good/1.png": "x", "good/2.png": "x", "hole/3.png": 5}
    for group in (mapping, pd.Series(mapping)):
        assert list(read_dataset(tmp_path, group=group)["group"]) == ["x", "x", "5"]


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ("part", ValueError, "0 capturing groups"),
        ("(a)(b)", ValueError, "2 capturing groups"),
        ("(", ValueError, "not a regular expression"),
        (r"good/(\d)", ValueError, "hole/3.png does not match"),
        ({"good/1.png": "x"}, ValueError, "good/2.png is no key"),
        (3, TypeError, "group is a int"),
    ],
)
def test_bad_groups_are_named(tmp_path, group, error, words):
    put(tmp_path, "good/1.png", "good/2.png", "hole/3.png")
    with pytest.raises(error, match=words):
        read_dataset(tmp_path, group=group)


# --------------------------------------------------------------------------------------------------------------- errors


def test_unknown_layout_shows_what_was_found_and_what_is_known(tmp_path):
    put(tmp_path, *(f"IMAGES/crazing_{i}.jpg" for i in range(30)), *(f"extra{i}/a.jpg" for i in range(40)))
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    message = str(caught.value)
    assert "IMAGES/" in message and "crazing_0.jpg" in message and "... 29 more files" in message
    assert all(f"  {name}:" in message for name in LAYOUTS)
    assert "ground_truth/scratch/000_mask.png" in message
    found = message.split("Known layouts")[0].splitlines()
    assert len(found) <= 22  # the sentence, and a tree of at most 20 lines


@pytest.mark.parametrize("name", ["empty", "photo.png"])
def test_empty_folder_and_photo_are_no_dataset(tmp_path, name):
    (tmp_path / "empty").mkdir()
    put(tmp_path, "photo.png")
    with pytest.raises(LayoutError, match="no layout that is known"):
        read_dataset(tmp_path / name)


def test_folders_without_photos(tmp_path):
    for folder in ("train/good", "test/good", "test/hole"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(LayoutError, match="read as plain layout"):
        read_dataset(tmp_path)


def test_missing_folder_names_what_is_there(tmp_path):
    (tmp_path / "mesh").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no dataset at .*mush.*holds: mesh"):
        read_dataset(tmp_path / "mush")


def test_foreign_options_are_named(tmp_path):
    put(tmp_path, "good/1.png", "hole/3.png")
    with pytest.raises(TypeError, match="class folders has no option category, root; it takes normal"):
        read_dataset(tmp_path, root=".", category="x")
    with pytest.raises(
        ValueError, match="Unknown layout 'darknet'; known are: table, visa, mvtec, plain, classes, coco"
    ):
        read_dataset(tmp_path, layout="darknet")
    with pytest.raises(ValueError, match="pixel_size is 0"):
        read_dataset(tmp_path, pixel_size=0)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    put(tmp_path / "set", "good/1.png", "hole/3.png")
    monkeypatch.chdir(tmp_path)
    table = helpers.read_dataset("set")
    assert table.attrs["root"] == str(tmp_path / "set")
    assert all(Path(path).is_absolute() for path in table["image_path"])


def test_package_finds_its_exports_late():
    assert helpers.read_dataset is read_dataset
    assert "read_dataset" in dir(helpers)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = helpers.nothing_here


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "too-large"])
@pytest.mark.parametrize("broken", ["images/1.png", "masks/1.png"])
def test_a_picture_that_cannot_be_read_is_a_finding_with_its_name(tmp_path, monkeypatch, kind, broken):
    root = put(tmp_path / "set", *(f"images/{number}.png" for number in range(4)))
    for number in range(2):
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / f"masks/{number}.png")
    file = root / broken
    file.unlink()
    if kind == "missing":
        file.symlink_to(tmp_path / "nowhere.png")
    elif kind == "too-large":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("1", (20992, 10496)).save(file)
        monkeypatch.undo()
    else:
        file.write_bytes(b"" if kind == "empty" else b"no picture")
    table = read_dataset(root)
    assert int(table["label_index"].sum()) == 2
    errors = check_dataset(table).query("severity == 'error'")
    assert broken in set(errors["path"])


# ----------------------------------------------------------------------------------------------- names that are no text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux file names are bytes")
@pytest.mark.parametrize(
    ("name", "n_photos", "code", "path"),
    [
        ("test/hole/{}.png", 5, "unusable-name", "test/hole/caf\\xe9.png"),
        ("test/{}/000.png", 5, "unusable-name", "test/caf\\xe9/000.png"),
        ("ground_truth/hole/{}_mask.png", 5, "mask-without-photo", "ground_truth/hole/caf\\xe9_mask.png"),
        ("train/good/{}.txt", 5, "ignored-file", "train/good/caf\\xe9.txt"),
    ],
)
def test_a_name_that_is_no_utf8_is_said_and_the_rest_is_read(tmp_path, name, n_photos, code, path):
    root, odd = put(tmp_path / "bottle", *MVTEC), tmp_path / "bottle" / name.format(os.fsdecode(b"caf\xe9"))
    odd.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(odd, format="PNG")
    table = read_dataset(root)
    assert len(table) == n_photos
    findings = check_dataset(table)
    assert (code, path) in {*findings[["code", "path"]].itertuples(index=False, name=None)}
    write_csv(findings, tmp_path / "findings.csv")
    pd.testing.assert_frame_equal(read_table(write_table(table, tmp_path / "samples.csv")), table)


def test_a_class_that_is_half_a_character_is_a_class(tmp_path):
    put(tmp_path, "a.png", "b.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    photos = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    content = {"images": photos, "annotations": [box], "categories": [{"id": 1, "name": "hole\ud800"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    table = read_dataset(tmp_path)
    assert rows(table, "defect_type") == {"a.png": ("hole\\ud800",), "b.png": ("good",)}
    write_table(table, tmp_path / "samples.csv")
