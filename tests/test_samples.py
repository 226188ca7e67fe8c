"""The sample table and its splits."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data import digests
from helpers.data.samples import (
    COLUMNS,
    assign_splits,
    can_be_supervised,
    fingerprint,
    make_table,
    read_table,
    relative_path,
    split_counts,
    supervised_table,
    without_train_defects,
    write_table,
)

ROOT = Path("/data/parts") if os.name != "nt" else Path("C:/data/parts")


def table_of(rows: list[dict], published_split: bool = False, root: Path = ROOT) -> pd.DataFrame:
    return make_table(rows, root=root, layout="test", name="parts", published_split=published_split)


def photos(n_normal: int, **n_defects: int) -> list[dict]:
    rows = [{"image_path": f"good/{i:03d}.png"} for i in range(n_normal)]
    for kind, count in n_defects.items():
        rows += [{"image_path": f"{kind}/{i}.png", "label_index": 1, "defect_type": kind} for i in range(count)]
    return rows


def by_path(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(relative_path(table), table["split"], strict=True))


def rank(seed: int, key: str) -> str:
    return blake2b(f"{seed}:{key}".encode(), digest_size=16).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- table


def test_table_is_sorted_filled_and_typed():
    table = table_of(
        [
            {"image_path": "b/2.png", "label_index": 1, "mask_path": "m/2.png", "line": 7},
            {"image_path": ROOT / "a" / "1.png", "mask_path": None, "line": 8},
        ]
    )
    assert tuple(table.columns) == (*COLUMNS, "line")
    assert list(relative_path(table)) == ["a/1.png", "b/2.png"]
    assert list(table["image_path"]) == [str(ROOT / "a" / "1.png"), str(ROOT / "b" / "2.png")]
    assert list(table["mask_path"]) == ["", str(ROOT / "m" / "2.png")]
    assert list(table["defect_type"]) == ["good", "defect"]
    assert list(table["split"]) == ["", ""]
    assert list(table["group"]) == ["a/1.png", "b/2.png"]
    assert table["label_index"].dtype == "int64"
    about = {"root": str(ROOT), "layout": "test", "name": "parts", "pixel_size": None, "published_split": False}
    assert table.attrs == about
    assert tuple(table_of([]).columns) == COLUMNS
    assert list(relative_path(table_of([{"image_path": "../other/1.png"}]))) == ["../other/1.png"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"label_index": 0}], "image_path"),
        ([{"image_path": ""}], "no image_path"),
        ([{"image_path": "a.png", "label_index": 2}], "label_index 2"),
        ([{"image_path": "a.png", "label_index": 1, "defect_type": "good"}], "defect_type 'good'"),
        ([{"image_path": "a.png", "label_index": 0, "defect_type": "hole"}], "defect_type 'hole'"),
        ([{"image_path": "a.png", "split": "dev"}], "split 'dev'"),
        ([{"image_path": "a.png"}, {"image_path": "b/../a.png"}], "occurs twice"),
    ],
)
def test_table_refuses_what_it_cannot_mean(rows, words):
    with pytest.raises(ValueError, match=words):
        table_of(rows)


# --------------------------------------------------------------------------------------------------------------- splits


def test_one_class_without_published_split_against_hashes_worked_out_here():
    """10 normals: 0.2 -> 2 test, then 0.25 of 8 -> 2 val; 4 holes: half -> 2 val."""
    split = by_path(
        assign_splits(
            table_of(photos(10, hole=4)), test_fraction=0.2, val_fraction=0.25, val_abnormal_fraction=0.5, seed=5
        )
    )
    normal = sorted((f"good/{i:03d}.png" for i in range(10)), key=lambda path: rank(5, path))
    holes = sorted((f"hole/{i}.png" for i in range(4)), key=lambda path: rank(5, path))
    expected = dict.fromkeys(normal[:2], "test") | dict.fromkeys(normal[2:4], "val")
    expected |= dict.fromkeys(normal[4:], "train")
    expected |= dict.fromkeys(holes[:2], "val") | dict.fromkeys(holes[2:], "test")
    assert split == expected


def test_one_class_is_the_same_on_every_machine():
    """Written down once (seed 0): a change of hash, key or order would break every recorded run."""
    table = assign_splits(table_of(photos(8, hole=2)), test_fraction=0.25, val_fraction=0.34, seed=0)
    ranked = sorted((f"good/{i:03d}.png" for i in range(8)), key=lambda path: rank(0, path))
    assert ranked == [f"good/{i:03d}.png" for i in FROZEN_ORDER]
    assert [path for path, split in by_path(table).items() if split == "test" and path.startswith("good")] == sorted(
        ranked[:2]
    )


FROZEN_ORDER = (0, 3, 4, 5, 2, 6, 7, 1)


def test_published_test_stays_and_val_comes_from_train():
    rows = [{"image_path": f"train/{i}.png", "split": "train"} for i in range(10)]
    rows += [{"image_path": f"test/good{i}.png", "split": "test"} for i in range(4)]
    rows += [{"image_path": f"test/h{i}.png", "split": "test", "label_index": 1} for i in range(4)]
    table = assign_splits(table_of(rows, True), val_fraction=0.3, test_fraction=0.9)
    split = by_path(table)
    assert all(split[f"test/good{i}.png"] == "test" for i in range(4))
    assert all(split[f"test/h{i}.png"] == "test" for i in range(4))
    first = sorted((f"train/{i}.png" for i in range(10)), key=lambda path: rank(0, path))[:3]
    assert sorted(path for path, name in split.items() if name == "val") == sorted(first)
    # split again with other numbers: from the published split, not from the last result
    again = by_path(assign_splits(table, val_fraction=0.5, val_abnormal_fraction=0.5))
    assert sum(name == "val" for path, name in again.items() if path.startswith("train")) == 5
    assert sum(name == "val" for path, name in again.items() if path.startswith("test/h")) == 2
    assert by_path(assign_splits(table, val_fraction=0.3)) == split


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [
        (10, 0.0, 0),
        (10, 0.25, 3),  # 2.5: half rounds up
        (10, 0.24, 2),
        (3, 0.1, 1),  # at least one
        (2, 0.99, 1),  # never all
        (1, 0.5, 0),  # one photo cannot be shared
        (200, 0.145, 29),  # 28.999... in floats
    ],
)
def test_share_of_small_counts(n, fraction, expected):
    table = assign_splits(table_of(photos(n)), test_fraction=0.0, val_fraction=fraction)
    assert (table["split"] == "val").sum() == expected


def published(*splits: str, **more) -> pd.DataFrame:
    """A table with a published split: ``train``, or ``train!`` for a defect photo."""
    rows = [
        {"image_path": f"{i:02d}.png", "split": s.strip("!"), "label_index": "!" in s} | more
        for i, s in enumerate(splits)
    ]
    return table_of([row | {"label_index": int(row["label_index"])} for row in rows], True)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        (table_of(photos(4)), {"scheme": "two_class"}, "known are: one_class"),
        (table_of(photos(4)), {"val_fraction": 1.0}, "val_fraction is 1.0"),
        (table_of(photos(4)), {"test_fraction": -0.1}, "test_fraction is -0.1"),
        (table_of(photos(4)), {"val_abnormal_fraction": "half"}, "val_abnormal_fraction is 'half'"),
        (table_of(photos(4)), {"val_fraction": float("nan")}, "val_fraction is nan"),
        (table_of(photos(4)), {"seed": 1.5}, "seed is 1.5"),
        (table_of(photos(4)), {"scheme": "supervised", "val_abnormal_fraction": 0.9}, "at most 0.85"),
        (published("train!", "test"), {}, "00.png .*1 abnormal"),
        (published("train", "test", group="g"), {}, r"'g'.*\(test\+train\)"),
        (published("train", ""), {}, "01.png is in no split"),
    ],
)
def test_what_cannot_be_split_is_named(table, change, words):
    with pytest.raises(ValueError, match=words):
        assign_splits(table, **change)


@pytest.mark.parametrize(
    ("splits", "normal"),
    [
        (["train"] * 6 + ["val", "test"], {"train": 6, "val": 1, "test": 1}),  # none is taken from train
        (["train"] * 10 + ["test!"] * 3, {"train": 6, "val": 2, "test": 2}),  # test needs normal photos
    ],
)
def test_published_splits_that_lack_something(splits, normal):
    counts = split_counts(assign_splits(published(*splits), test_fraction=0.2, val_fraction=0.25))
    assert counts["normal"].to_dict() == normal


def test_parameters_are_recorded_and_the_table_is_left_alone():
    table = table_of(photos(10, hole=2))
    before = table.copy()
    options = {"val_fraction": 0.1, "test_fraction": 0.3, "seed": 9}
    attrs = assign_splits(table, **options).attrs
    pd.testing.assert_frame_equal(table, before)
    assert attrs == {**table.attrs, "scheme": "one_class", "val_abnormal_fraction": 0.0, **options}


@st.composite
def tables(draw):
    """Tables without a published split: some photos in shared groups, some defects."""
    n = draw(st.integers(1, 40))
    rows = []
    for i in range(n):
        kind = draw(st.sampled_from(["good", "good", "good", "hole", "dent"]))
        group = draw(st.sampled_from(["", "", f"g{draw(st.integers(0, 12))}"]))
        rows.append(
            {"image_path": f"{i:02d}.png", "label_index": int(kind != "good"), "defect_type": kind, "group": group}
        )
    return table_of(rows)


fractions = st.floats(0, 0.9).map(lambda value: round(value, 2))


@settings(max_examples=30, deadline=None)
@given(tables(), fractions, fractions, fractions, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_splits_never_leak(table, val, test, val_abnormal, seed, random):
    options = {"val_fraction": val, "test_fraction": test, "val_abnormal_fraction": val_abnormal, "seed": seed}
    result = assign_splits(table, **options)
    assert set(result["split"]) <= {"train", "val", "test"}
    assert list(result["image_path"]) == list(table["image_path"])
    assert (result.groupby("group")["split"].nunique() == 1).all()
    assert (result.loc[result["split"] == "train", "label_index"] == 0).all()
    if val_abnormal == 0:
        assert set(result.loc[result["label_index"] == 1, "split"]) <= {"test"}
    # the order of the rows plays no part
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = table.iloc[order].reset_index(drop=True)
    shuffled.attrs = table.attrs
    assert by_path(assign_splits(shuffled, **options)) == by_path(result)


def test_decomposed_accents_make_no_difference():
    """macOS may list "ü" as u and a combining mark."""
    names = [f"prüfling{i}.png" for i in range(20)]
    composed = assign_splits(table_of([{"image_path": name} for name in names]))
    decomposed = assign_splits(table_of([{"image_path": unicodedata.normalize("NFD", name)} for name in names]))
    assert list(composed["split"]) == list(decomposed["split"])
    assert list(composed["group"]) == list(decomposed["group"])
    assert list(composed["image_path"]) != list(decomposed["image_path"])


def test_split_counts_by_hand():
    rows = photos(3, hole=2, dent=1)
    for row, split in zip(rows, ["train", "train", "test", "test", "val", ""], strict=True):
        row["split"] = split
    counts = split_counts(table_of(rows))
    assert counts.to_dict("index") == {
        "train": {"normal": 2, "abnormal": 0, "dent": 0, "hole": 0},
        "val": {"normal": 0, "abnormal": 1, "dent": 0, "hole": 1},
        "test": {"normal": 1, "abnormal": 1, "dent": 0, "hole": 1},
        "(none)": {"normal": 0, "abnormal": 1, "dent": 1, "hole": 0},
    }


# ----------------------------------------------------------------------------------------------------------- supervised


def test_supervised_shares_against_hashes_worked_out_here():
    """20 holes: 3 first in hash order to val, 3 last to test, 14 stay in train; normals as one_class has them."""
    table = table_of(photos(10, hole=20, dent=2))
    split = by_path(assign_splits(table, "supervised", seed=5))
    holes = sorted((f"hole/{i}.png" for i in range(20)), key=lambda path: rank(5, path))
    expected = dict.fromkeys(holes[:3], "val") | dict.fromkeys(holes[3:17], "train") | dict.fromkeys(holes[17:], "test")
    dents = sorted(("dent/0.png", "dent/1.png"), key=lambda path: rank(5, path))
    expected |= {dents[0]: "train", dents[1]: "test"}  # two groups: one is tested, none is left for val
    assert {path: name for path, name in split.items() if not path.startswith("good")} == expected
    one_class = by_path(assign_splits(table, seed=5))
    assert all(one_class[path] == name for path, name in split.items() if path.startswith("good"))


@settings(max_examples=30, deadline=None)
@given(tables(), fractions, fractions, st.floats(0, 0.85), st.integers(0, 1000))
def test_supervised_never_leaks_and_its_test_lies_in_that_of_one_class(table, val, test, val_abnormal, seed):
    options = {"val_fraction": val, "test_fraction": test, "seed": seed}
    supervised = assign_splits(table, "supervised", val_abnormal_fraction=round(val_abnormal, 2), **options)
    one_class = assign_splits(table, "one_class", **options)
    assert (supervised.groupby("group")["split"].nunique() == 1).all()
    tested = set(supervised.loc[supervised["split"] == "test", "image_path"])
    assert tested <= set(one_class.loc[one_class["split"] == "test", "image_path"])
    apart = ~supervised["group"].isin(supervised.loc[supervised["label_index"] == 1, "group"])
    assert list(supervised["split"][apart]) == list(one_class["split"][apart])


def test_supervised_keeps_a_published_split_that_trains_on_defects():
    rows = [{"image_path": f"train/h{i}.png", "split": "train", "label_index": 1} for i in range(20)]
    rows += [{"image_path": f"test/h{i}.png", "split": "test", "label_index": 1} for i in range(4)]
    table = assign_splits(table_of(rows, published_split=True), "supervised")
    counts = split_counts(table)["abnormal"]
    assert counts.to_dict() == {"train": 17, "val": 3, "test": 4}  # val: 15 % of the 20, since none was published
    rows += [{"image_path": f"val/h{i}.png", "split": "val", "label_index": 1} for i in range(2)]
    table = assign_splits(table_of(rows, published_split=True), "supervised")
    assert split_counts(table)["abnormal"].to_dict() == {"train": 20, "val": 2, "test": 4}


def test_unseen_types_are_in_test_alone():
    table = table_of(photos(10, hole=10, dent=10))
    split = assign_splits(table, "supervised", unseen_types=["dent"])
    assert set(split.loc[split["defect_type"] == "dent", "split"]) == {"test"}
    assert set(split.loc[split["defect_type"] == "hole", "split"]) == {"train", "val", "test"}
    assert split.attrs["unseen_types"] == ["dent"]
    with pytest.raises(ValueError, match="no defect type 'dnet'; known: dent, hole"):
        assign_splits(table, "supervised", unseen_types=["dnet"])
    with pytest.raises(ValueError, match="supervised"):
        assign_splits(table, "one_class", unseen_types=["dent"])


def test_what_a_segmenter_can_learn_from():
    rows = photos(2, hole=3)
    assert not can_be_supervised(table_of(rows))
    masked = [{**row, "mask_path": row["image_path"]} for row in rows]
    assert can_be_supervised(table_of(masked))
    assert not can_be_supervised(table_of([*masked[:-1], rows[-1]])), "one mask is missing"
    assert not can_be_supervised(table_of(masked[:-1])), "two defects cannot be in three splits"


def test_train_without_its_defects():
    table = assign_splits(table_of(photos(10, hole=10)), "supervised")
    kept = without_train_defects(table)
    assert split_counts(kept)["hole"].to_dict() == split_counts(table)["hole"].to_dict() | {"train": 0}
    assert split_counts(kept)["normal"].to_dict() == split_counts(table)["normal"].to_dict()
    assert kept.attrs["derived_from"][0] == fingerprint(table)
    one_class = assign_splits(table_of(photos(10, hole=10)))
    assert without_train_defects(one_class) is one_class


def test_supervised_table_takes_over_how_the_table_was_split():
    table = assign_splits(table_of(photos(20, hole=10)), seed=3, val_fraction=0.25, test_fraction=0.3)
    again = supervised_table(table)
    normal = table["label_index"] == 0
    assert list(again["split"][normal]) == list(table["split"][normal])
    assert again.attrs["derived_from"][0] == fingerprint(table)
    assert by_path(again) == by_path(
        assign_splits(table_of(photos(20, hole=10)), "supervised", seed=3, val_fraction=0.25, test_fraction=0.3)
    )


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_survives_a_file(tmp_path, suffix):
    rows = photos(5, NA=2)  # a defect type that pandas would read as missing
    rows[0] |= {"group": "007", "batch": 3}
    rows[-1]["mask_path"] = "masks/ö, 1.png"
    table = assign_splits(
        make_table(rows, root=tmp_path, layout="test", name="x", published_split=False, pixel_size=0.5)
    )
    path = write_table(table, tmp_path / "run" / f"samples{suffix}")
    back = read_table(path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back.attrs == table.attrs
    assert back["label_index"].dtype == "int64"
    assert sorted(file.name for file in path.parent.iterdir()) == [f"samples{suffix}", f"samples{suffix}.json"]
    assert json.loads((path.parent / f"samples{suffix}.json").read_text("utf-8"))["pixel_size"] == 0.5

    moved = read_table(path, root=tmp_path / "elsewhere")
    assert moved["image_path"].iloc[0] == str(tmp_path / "elsewhere" / "NA" / "0.png")
    assert moved["mask_path"].iloc[0] == "" and by_path(moved) == by_path(table)


def test_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    table = table_of(photos(3))
    path = write_table(table, tmp_path / "samples.csv")
    before = path.read_bytes()

    def broken(self, file, **_):
        Path(file).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
    with pytest.raises(OSError, match="disk full"):
        write_table(table_of(photos(9)), path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["samples.csv", "samples.csv.json"]


def test_table_files_are_csv_or_parquet(tmp_path):
    with pytest.raises(ValueError, match=r"samples.xlsx is neither"):
        write_table(table_of([]), tmp_path / "samples.xlsx")
    with pytest.raises(FileNotFoundError, match="no table"):
        read_table(tmp_path / "samples.csv")


def test_photos_that_a_stored_table_knows_are_not_read_again(tmp_path, monkeypatch):
    photos = [tmp_path / f"{number}.png" for number in range(3)]
    for photo in photos:
        photo.write_bytes(photo.name.encode())
    table = table_of([{"image_path": photo.name} for photo in photos], root=tmp_path)
    write_table(table, tmp_path / "samples.csv")
    first = fingerprint(table)
    monkeypatch.setattr(digests, "DIGESTS", {})  # as in a new process
    opened = []
    real = io.open
    monkeypatch.setattr("io.open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    again = read_table(tmp_path / "samples.csv")
    assert fingerprint(again) == first
    assert not [path for path in opened if str(path).endswith(".png")]
    photos[1].write_bytes(b"another")
    opened.clear()
    assert fingerprint(again) != first
    assert [path for path in opened if str(path).endswith(".png")] == [photos[1]]


def test_fingerprint_follows_files_and_splits_not_row_order(tmp_path):
    for name in ("a.png", "b.png", "m.png"):
        (tmp_path / name).write_bytes(b"123")
    rows = [{"image_path": "a.png", "split": "train"}, {"image_path": "b.png", "label_index": 1, "mask_path": "m.png"}]
    table = table_of(rows, root=tmp_path)
    first = fingerprint(table)
    reverse = table.iloc[::-1].reset_index(drop=True)
    assert fingerprint(reverse) == first
    assert fingerprint(table.assign(split="test")) != first
    os.utime(tmp_path / "m.png", ns=(10**18, 10**18))
    assert fingerprint(table) == first, "the same bytes at another time"
    (tmp_path / "m.png").write_bytes(b"321")
    second = fingerprint(table)
    assert second != first
    state = (tmp_path / "a.png").stat()
    (tmp_path / "a.png").write_bytes(b"1234")
    os.utime(tmp_path / "a.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(table) != second
    (tmp_path / "b.png").unlink()
    assert len(fingerprint(table)) == 32
