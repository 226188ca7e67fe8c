"""Reading a dataset: tables and VisA, groups, what dataset.json says, and what is said where nothing fits."""

import os
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from readers import MASK, columns, masks, photos, told, types, write

import helpers
from helpers import read_dataset
from helpers.data.formats import LAYOUTS
from helpers.data.layouts import LayoutError
from helpers.data.samples import assign_splits, read_table, write_table
from helpers.paths import write_csv

MVTEC = photos("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/hole/0.png")


def test_visa_layout(tmp_path):
    lines = ["object,split,label,image,mask"]
    for thing in ("candle", "pcb1"):
        images = [f"{thing}/Data/Images/{name}.JPG" for name in ("Normal/0", "Normal/1", "Anomaly/0")]
        mask = f"{thing}/Data/Masks/Anomaly/0.png"
        write(tmp_path, {**photos(*images), mask: MASK})
        lines += [f"{thing},train,normal,{images[0]},", f"{thing},test,normal,{images[1]},"]
        lines.append(f"{thing},test,anomaly,{images[2]},{mask}")
    write(tmp_path, {"split_csv/1cls.csv": "\n".join(lines) + "\n"})
    table = read_dataset(tmp_path, category="pcb1")
    rows = {"Anomaly/0": ("anomaly", "test"), "Normal/0": ("good", "train"), "Normal/1": ("good", "test")}
    assert columns(table, "defect_type", "split") == {f"pcb1/Data/Images/{name}.JPG": row for name, row in rows.items()}
    assert masks(table) == {"pcb1/Data/Images/Anomaly/0.JPG": "pcb1/Data/Masks/Anomaly/0.png"}
    assert (table.attrs["layout"], table.attrs["name"]) == ("visa", "pcb1")
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    assert caught.value.hints == [{"category": "candle"}, {"category": "pcb1"}]
    with pytest.raises(ValueError, match="candle, pcb1"):
        read_dataset(tmp_path, category="nut")
    with pytest.raises(LayoutError, match="object"):
        read_dataset(write(tmp_path, {"split_csv/1cls.csv": "split,label,image,mask\n"}))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_table_with_words_for_labels(tmp_path, separator):
    text = "image_path,label,mask_path,split,group\na/1.png,good,,training,07\na/2.png,scratch,m/2.png,test,08\n"
    text = (text + "a/3.png,1,,test,08\na/4.png,Normal,,valid,09\n").replace(",", separator)
    table = read_dataset(write(tmp_path, {"list.csv": text}) / "list.csv", pixel_size=0.2)
    assert types(table) == {"a/1.png": "good", "a/2.png": "scratch", "a/3.png": "defect", "a/4.png": "good"}
    assert [list(table[name]) for name in ("split", "group")] == [
        ["train", "test", "test", "val"],
        ["07", "08", "08", "09"],
    ]
    assert masks(table) == {"a/2.png": "m/2.png"} and table.attrs["published_split"] is True
    assert [table.attrs[key] for key in ("root", "name", "pixel_size")] == [str(tmp_path), "list", 0.2]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_label_index_and_root(tmp_path, suffix):
    frame = pd.DataFrame({"image_path": ["1.png", "2.png"], "label_index": [0, 1], "defect_type": [None, "dent"]})
    file = tmp_path / f"list{suffix}"
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
    table = read_dataset(file, root=tmp_path / "photos")
    assert list(table["image_path"]) == [str(tmp_path / "photos" / name) for name in frame["image_path"]]
    assert list(types(table).values()) == ["good", "dent"] and table.attrs["published_split"] is False


@pytest.mark.parametrize(
    "content",
    [
        "file,label\n1.png,good\n",
        "image_path,defect_type\n1.png,good\n",
        "image_path,label_index,label\n1.png,0,hole\n",  # a defect that is called normal
        b"image_path,label\nN\xe4he.png,good\n",
        "image_path,label\na,b,c\nd\n,,,,\n",
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"list\.csv"):
        read_dataset(write(tmp_path, {"list.csv": content}) / "list.csv")


def test_numbers_that_are_names_stay_text_and_words_for_nothing_are_none(tmp_path):
    text = "image_path,label,defect_type,defect_types,serial,size\na.png,good,-,,,1\nb.png,1,007,007,0012,2.5\n"
    table = read_dataset(write(tmp_path, {"list.csv": text}) / "list.csv")
    for each in (table, read_table(write_table(table, tmp_path / "out.csv"))):
        assert types(each) == {"a.png": "good", "b.png": "007"} and each["defect_types"].tolist() == ["", "007"]
        assert each["serial"].tolist() == ["", "0012"] and each["size"].tolist() == [1, 2.5]


@pytest.mark.parametrize("folder", ["", "D:\\line 3\\"])
def test_names_in_a_table_from_elsewhere(tmp_path, folder):
    write(tmp_path, photos("photos/ok/9.png", "photos/ng/N\u00e4he 9.png") | {"masks/9.png": MASK})
    names = f"{folder}photos\\ng\\N\u00e4he 9.png,dent,{folder}masks\\9.png"
    text = f"image_path,label,mask_path\nphotos/ok/9.png,good,\n{names}\n"
    table = read_dataset(write(tmp_path, {"list.csv": text}) / "list.csv")
    assert masks(table) == {"photos/ng/N\u00e4he 9.png": "masks/9.png"}
    assert not {code for code, _ in told(table, "error")} & {"missing-file", "missing-mask"}
    assert "names-matched" in {code for code, _ in told(table, "info")}


def test_a_photo_that_is_gone_is_not_found_in_its_mask(tmp_path):
    text = "image_path,label,mask_path\nphotos/1.png,good,\n9.png,dent,masks/9.png\n"
    write(tmp_path, {"photos/1.png": None, "masks/9.png": MASK, "list.csv": text})
    assert ("missing-file", "9.png") in told(read_dataset(tmp_path / "list.csv"), "error")


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0.png", "../../etc/passwd", "C:\\a.png"])
def test_names_in_a_table_that_no_file_can_have_are_findings(tmp_path, name):
    root = write(tmp_path, {"b.png": None, "list.csv": f"image_path,label\nb.png,good\n{name},dent\n"})
    table = read_dataset(root / "list.csv")
    assert len(table) == (1 if "\0" in name else 2)  # a name that no table can hold is left out
    assert len({path for _, path in told(table, "error") if path}) == 1


def test_groups(tmp_path):
    write(tmp_path, photos("good/part1_a.png", "good/part1_b.png", "good/part2_a.png", "hole/part2_b.png"))
    table = read_dataset(tmp_path, group=r"part(\d+)_")
    assert table["group"].tolist() == ["1", "1", "2", "2"]
    splits = columns(assign_splits(table, test_fraction=0.0), "split")
    assert splits["good/part2_a.png"] == splits["hole/part2_b.png"] == "test"
    for group in ("part", "(p)(a)", "(", r"good/(\w)", r"(x?)", 3):
        with pytest.raises(ValueError, match="group="):
            read_dataset(tmp_path, group=group)


def test_dataset_json_gives_name_and_pixel_size(tmp_path):
    about = {"name": "mesh", "layout": "mvtec", "pixel_size_mm": 0.05}
    root = write(tmp_path / "folder", MVTEC | {"dataset.json": about})
    table = read_dataset(root)
    assert (table.attrs["name"], table.attrs["pixel_size"]) == ("mesh", 0.05)
    assert read_dataset(root, pixel_size=0.1).attrs["pixel_size"] == 0.1
    assert read_dataset(write(root, {"dataset.json": "[]"})).attrs["name"] == "folder"


@pytest.mark.parametrize(
    "text",
    [f'{{"pixel_size_mm": {value}}}' for value in ("0", "NaN", "Infinity", '"0,05"')] + ["{", '{"name": 3}'],
)
def test_a_dataset_json_that_is_wrong_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"dataset\.json"):
        read_dataset(write(tmp_path, MVTEC | {"dataset.json": text}))


def test_unknown_layout_shows_what_was_found_and_what_is_known(tmp_path):
    write(tmp_path, photos(*(f"IMAGES/crazing_{i}.jpg" for i in range(30)), *(f"extra{i}/a.jpg" for i in range(40))))
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    message = str(caught.value)
    assert "IMAGES/" in message and "crazing_0.jpg" in message and "27 more" in message
    assert all(name in message for name in LAYOUTS) and len(message.splitlines()) < 40


def test_empty_folder_and_photo_are_no_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", write(tmp_path, photos("photo.png")) / "photo.png"):
        with pytest.raises(LayoutError, match="no layout"):
            read_dataset(path)


def test_a_refusal_names_the_folder_or_table_inside_that_can_be_read(tmp_path):
    write(tmp_path / "data" / "v2", photos("train/good/0.png", "test/good/1.png", "test/dent/0.png"))
    with pytest.raises(LayoutError) as caught:
        read_dataset(tmp_path)
    (hint,) = caught.value.hints
    assert len(read_dataset(**{"path": tmp_path, **hint})) == 3
    write(tmp_path / "x", {"a.png": None, "b.heic": b"x", "list.csv": "image_path,label\na.png,good\n"})
    with pytest.raises(LayoutError, match=r"\.heic") as caught:
        read_dataset(tmp_path / "x")
    assert [read_dataset(**hint)["label_index"].tolist() for hint in caught.value.hints] == [[0]]


def test_what_is_not_there_is_named(tmp_path):
    for folder in ("train/good", "test/good", "test/hole"):
        (tmp_path / "mesh" / folder).mkdir(parents=True)
    with pytest.raises(LayoutError, match="no photo"):
        read_dataset(tmp_path / "mesh")
    with pytest.raises(FileNotFoundError, match=r"mush[\s\S]*mesh/"):
        read_dataset(tmp_path / "mush")


def test_options_that_are_wrong_are_named(tmp_path):
    write(tmp_path, photos("good/1.png", "hole/3.png"))
    with pytest.raises(TypeError, match=r"root.* normal"):
        read_dataset(tmp_path, root=".", normal="good")
    with pytest.raises(ValueError, match="'darknet'.*mvtec"):
        read_dataset(tmp_path, layout="darknet")
    for options in ({"with_masks": "no"}, *({"pixel_size": value} for value in (-1.0, float("nan"), "0,05", True))):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
            read_dataset(tmp_path, **options)


def test_relative_paths_become_absolute_and_the_package_finds_its_exports(tmp_path, monkeypatch):
    write(tmp_path / "set", photos("good/1.png", "hole/3.png"))
    monkeypatch.chdir(tmp_path)
    table = helpers.read_dataset("set")
    assert table.attrs["root"] == str(tmp_path / "set") and all(map(os.path.isabs, table["image_path"]))


@pytest.mark.parametrize("kind", ["missing", "too-large"])
@pytest.mark.parametrize("broken", ["images/1.png", "masks/1.png"])
def test_a_picture_that_cannot_be_read_is_a_finding_with_its_name(tmp_path, monkeypatch, kind, broken):
    pictures = photos(*(f"images/{i}.png" for i in range(4))) | {f"masks/{i}.png": MASK for i in (0, 1)}
    file = write(tmp_path / "set", pictures) / broken
    file.unlink()
    if kind == "missing":
        file.symlink_to(tmp_path / "nowhere.png")
    else:
        Image.new("1", (80, 80)).save(file)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    table = read_dataset(tmp_path / "set")
    assert int(table["label_index"].sum()) == 2
    assert broken in {path for _, path in told(table, "error")}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux file names are bytes")
@pytest.mark.parametrize(
    ("name", "code"), [("test/{}/000.png", "unusable-name"), ("ground_truth/hole/{}_mask.png", "mask-without-photo")]
)
def test_a_name_that_is_no_utf8_is_said_and_the_rest_is_read(tmp_path, name, code):
    root, odd = write(tmp_path / "bottle", MVTEC), tmp_path / "bottle" / name.format(os.fsdecode(b"caf\xe9"))
    odd.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(MASK.astype(np.uint8) * 255).save(odd, format="PNG")
    table = read_dataset(root)
    assert len(table) == len(MVTEC)
    findings = helpers.check_dataset(table)
    assert (code, name.format("caf\\xe9")) in set(zip(findings["code"], findings["path"], strict=True))
    write_csv(findings, tmp_path / "findings.csv")
    pd.testing.assert_frame_equal(read_table(write_table(table, tmp_path / "samples.csv")), table)


def test_a_class_that_is_half_a_character_is_a_class(tmp_path):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [box]}
    content["categories"] = [{"id": 1, "name": "hole\ud800"}]
    table = read_dataset(write(tmp_path, {"a.png": None, "coco.json": content}))
    assert types(table) == {"a.png": "hole\\ud800"}
    write_table(table, tmp_path / "samples.csv")
