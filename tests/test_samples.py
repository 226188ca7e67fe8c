"""The sample table and its splits."""

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
from readers import columns

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


def table_of(rows: list[dict], published_split: bool = False, root: Path = ROOT, **more) -> pd.DataFrame:
    return make_table(rows, root=root, layout="test", name="parts", published_split=published_split, **more)


def photos(n_normal: int, **n_defects: int) -> list[dict]:
    rows = [{"image_path": f"good/{i:03d}.png"} for i in range(n_normal)]
    for kind, count in n_defects.items():
        rows += [{"image_path": f"{kind}/{i}.png", "label_index": 1, "defect_type": kind} for i in range(count)]
    return rows


def published(*splits: str, **more) -> pd.DataFrame:
    """A table with a published split: ``train``, or ``train!`` for a defect photo."""
    rows = [{"split": split.strip("!"), "label_index": int("!" in split)} for split in splits]
    return table_of([row | more | {"image_path": f"{i:02d}.png"} for i, row in enumerate(rows)], True)


def by_path(table: pd.DataFrame) -> dict[str, str]:
    return columns(table, "split")


def ranked(seed: int, names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=16).hexdigest())


def test_table_is_sorted_filled_and_typed():
    rows = [
        {"image_path": "b/2.png", "label_index": 1, "mask_path": "m/2.png", "line": 7},
        {"image_path": ROOT / "a" / "1.png", "mask_path": None, "line": 8},
        {"image_path": "../other/x.rf.0a1b.jpg"},
    ]
    table = table_of(rows)
    assert tuple(table.columns) == (*COLUMNS, "line")
    assert list(relative_path(table)) == ["../other/x.rf.0a1b.jpg", "a/1.png", "b/2.png"]
    assert list(table["mask_path"]) == ["", "", str(ROOT / "m" / "2.png")]
    assert list(table["defect_type"]) == ["good", "good", "defect"]
    assert list(table["split"]) == ["", "", ""] and table["label_index"].dtype == "int64"
    assert list(table["group"]) == ["x", "a/1.png", "b/2.png"], "Roboflow's copies of x stay together"
    assert tuple(table_of([]).columns) == COLUMNS


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"label_index": 0}], "image_path"),
        ([{"image_path": "a.png", "label_index": 2}], "a.png .*2"),
        ([{"image_path": "a.png", "label_index": 1, "defect_type": "good"}], "'good'"),
        ([{"image_path": "a.png", "label_index": 0, "defect_type": "hole"}], "'hole'"),
        ([{"image_path": "a.png", "split": "dev"}], "'dev'"),
        ([{"image_path": "a.png"}, {"image_path": "b/../a.png"}], "twice"),
    ],
)
def test_table_refuses_what_it_cannot_mean(rows, words):
    with pytest.raises(ValueError, match=words):
        table_of(rows)


def test_one_class_against_hashes_worked_out_here():
    """10 normals: 0.2 -> 2 test, then 0.25 of 8 -> 2 val; 4 holes: half -> 2 val."""
    options = {"test_fraction": 0.2, "val_fraction": 0.25, "val_abnormal_fraction": 0.5, "seed": 5}
    table = table_of(photos(10, hole=4))
    before = table.copy()
    result = assign_splits(table, **options)
    normal = ranked(5, [f"good/{i:03d}.png" for i in range(10)])
    holes = ranked(5, [f"hole/{i}.png" for i in range(4)])
    expected = dict.fromkeys(normal[:2], "test") | dict.fromkeys(normal[2:4], "val")
    expected |= dict.fromkeys(normal[4:], "train")
    expected |= dict.fromkeys(holes[:2], "val") | dict.fromkeys(holes[2:], "test")
    assert by_path(result) == expected
    pd.testing.assert_frame_equal(table, before)
    assert result.attrs == {**table.attrs, "scheme": "one_class", **options}
    # written down once: a change of hash or key would break every recorded run
    assert ranked(0, [f"good/{i:03d}.png" for i in range(8)]) == [f"good/{i:03d}.png" for i in (0, 3, 4, 5, 2, 6, 7, 1)]


def test_published_test_stays_and_val_comes_from_train():
    whole = published(*["train"] * 10, *["test"] * 4, *["test!"] * 4)
    table = assign_splits(whole, val_fraction=0.3, test_fraction=0.9)
    split = by_path(table)
    assert all(split[f"{i:02d}.png"] == "test" for i in range(10, 18))
    first = ranked(0, [f"{i:02d}.png" for i in range(10)])[:3]
    assert {path for path, name in split.items() if name == "val"} == set(first)
    # split again with other numbers: from the published split, not from the last result
    again = split_counts(assign_splits(table, val_fraction=0.5, val_abnormal_fraction=0.5))
    assert again.loc["val"].to_dict() == {"normal": 5, "abnormal": 2, "defect": 2}
    assert by_path(assign_splits(table, val_fraction=0.3)) == split


def test_share_of_small_counts():
    """Half rounds up; at least one, never all, and one photo cannot be shared; the last is 28.999... in floats."""
    rows = ((10, 0, 0), (10, 0.25, 3), (10, 0.24, 2), (3, 0.1, 1), (2, 0.99, 1), (1, 0.5, 0), (200, 0.145, 29))
    for n, fraction, expected in rows:
        table = assign_splits(table_of(photos(n)), test_fraction=0.0, val_fraction=fraction)
        assert (table["split"] == "val").sum() == expected, (n, fraction)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        (table_of(photos(4)), {"scheme": "two_class"}, "one_class"),
        (table_of(photos(4)), {"val_fraction": 1.0}, "val_fraction"),
        (table_of(photos(4)), {"val_fraction": float("nan")}, "val_fraction"),
        (table_of(photos(4)), {"scheme": "supervised", "val_abnormal_fraction": 0.9}, "0.85"),
        (table_of(photos(4, dent=4)), {"scheme": "supervised", "unseen_types": ["dnet"]}, "dnet.*dent"),
        (table_of(photos(4, dent=4)), {"unseen_types": ["dent"]}, "one_class"),
        (published("train!", "test"), {}, "00.png"),
        (published("train", "test", group="g"), {}, r"'g'.*test\+train"),
        (published("train", ""), {}, "01.png"),
    ],
)
def test_what_cannot_be_split_is_named(table, change, words):
    with pytest.raises(ValueError, match=words):
        assign_splits(table, **change)


@pytest.mark.parametrize(
    ("splits", "scheme", "kind", "counts"),
    [
        (["train"] * 10 + ["test!"] * 3, "one_class", "normal", [6, 2, 2]),  # test needs normal photos
        (["train!"] * 20 + ["test!"] * 4, "supervised", "abnormal", [17, 3, 4]),  # 15 % of train
        (["train!"] * 20 + ["test!"] * 4 + ["val!"] * 2, "supervised", "abnormal", [20, 2, 4]),
    ],
)
def test_published_splits_that_lack_something(splits, scheme, kind, counts):
    table = assign_splits(published(*splits), scheme, test_fraction=0.2, val_fraction=0.25)
    assert split_counts(table)[kind].to_list() == counts


@st.composite
def tables(draw):
    """Tables without a published split: some photos in shared groups, some defects."""
    rows = []
    for i in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(["good", "good", "good", "hole", "dent"]))
        group = draw(st.sampled_from(["", "", f"g{draw(st.integers(0, 12))}"]))
        row = {"image_path": f"{i:02d}.png", "label_index": int(kind != "good"), "defect_type": kind, "group": group}
        rows.append(row)
    return table_of(rows)


fractions = st.floats(0, 0.85).map(lambda value: round(value, 2))


@settings(max_examples=30, deadline=None)
@given(tables(), fractions, fractions, fractions, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_splits_never_leak_and_the_test_of_supervised_lies_in_that_of_one_class(table, val, test, bad, seed, random):
    options = {"val_fraction": val, "test_fraction": test, "val_abnormal_fraction": bad, "seed": seed}
    result, supervised = (assign_splits(table, scheme, **options) for scheme in ("one_class", "supervised"))
    for each in (result, supervised):
        assert set(each["split"]) <= {"train", "val", "test"}
        assert list(each["image_path"]) == list(table["image_path"])
        assert (each.groupby("group")["split"].nunique() == 1).all()
    assert (result.loc[result["split"] == "train", "label_index"] == 0).all()
    assert bad or set(result.loc[result["label_index"] == 1, "split"]) <= {"test"}
    one_class = assign_splits(table, **options | {"val_abnormal_fraction": 0.0})
    tested, known = (set(each.loc[each["split"] == "test", "image_path"]) for each in (supervised, one_class))
    assert tested <= known
    apart = ~supervised["group"].isin(supervised.loc[supervised["label_index"] == 1, "group"])
    assert list(supervised["split"][apart]) == list(result["split"][apart])
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
    assert composed[["split", "group"]].equals(decomposed[["split", "group"]])
    assert list(composed["image_path"]) != list(decomposed["image_path"])


def test_supervised_shares_against_hashes_worked_out_here():
    """20 holes: 3 first in hash order to val, 3 last to test, 14 stay in train; normals as one_class has them."""
    table = table_of(photos(10, hole=20, dent=2))
    split = by_path(assign_splits(table, "supervised", seed=5))
    holes, dents = ranked(5, [f"hole/{i}.png" for i in range(20)]), ranked(5, ["dent/0.png", "dent/1.png"])
    expected = dict.fromkeys(holes[:3], "val") | dict.fromkeys(holes[3:17], "train") | dict.fromkeys(holes[17:], "test")
    expected |= {dents[0]: "train", dents[1]: "test"}  # two groups: one is tested, none is left for val
    assert {path: name for path, name in split.items() if not path.startswith("good")} == expected


def test_unseen_types_are_in_test_alone():
    split = assign_splits(table_of(photos(10, hole=10, dent=10)), "supervised", unseen_types=["dent"])
    counts = split_counts(split)
    assert counts.columns.to_list() == ["normal", "abnormal", "dent", "hole"]
    assert counts["dent"].to_list() == [0, 0, 10] and (counts["hole"] > 0).all()
    assert split.attrs["unseen_types"] == ["dent"]


def test_what_a_segmenter_can_learn_from():
    rows = photos(2, hole=3)
    masked = [{**row, "mask_path": row["image_path"]} for row in rows]
    assert can_be_supervised(table_of(masked))
    assert not can_be_supervised(table_of([*masked[:-1], rows[-1]])), "one mask is missing"
    assert not can_be_supervised(table_of(masked[:-1])), "two defects cannot be in three splits"


def test_tables_that_are_derived_know_what_from():
    table = assign_splits(table_of(photos(20, hole=10)), seed=3, val_fraction=0.25, test_fraction=0.3)
    options = {"seed": 3, "val_fraction": 0.25, "test_fraction": 0.3}
    again = supervised_table(table)
    assert by_path(again) == by_path(assign_splits(table_of(photos(20, hole=10)), "supervised", **options))
    assert again.attrs["derived_from"] == [fingerprint(table)]
    kept = without_train_defects(again)
    assert split_counts(kept)["hole"].to_dict() == split_counts(again)["hole"].to_dict() | {"train": 0}
    assert split_counts(kept)["normal"].equals(split_counts(again)["normal"])
    assert kept.attrs["derived_from"] == [fingerprint(table)] and without_train_defects(table) is table


def test_table_survives_a_file(tmp_path):
    rows = photos(5, NA=2)  # a defect type that pandas would read as missing
    rows[0] |= {"group": "007", "batch": 3}
    rows[-1]["mask_path"] = "masks/ö, 1.png"
    table = assign_splits(table_of(rows, root=tmp_path, pixel_size=0.5))
    path = write_table(table, tmp_path / "run" / "samples.csv")
    back = read_table(path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back.attrs == table.attrs and back["label_index"].dtype == "int64"
    assert json.loads(path.with_name("samples.csv.json").read_text("utf-8"))["pixel_size"] == 0.5
    moved = read_table(path, root=tmp_path / "elsewhere")
    assert moved["image_path"].iloc[0] == str(tmp_path / "elsewhere" / "NA" / "0.png")
    assert moved["mask_path"].iloc[0] == "" and by_path(moved) == by_path(table)


def test_tables_that_cannot_be_read_are_named(tmp_path):
    for name, content in (
        ("a.xlsx", b""),
        ("a.csv", None),
        ("b.csv", b""),
        ("c.csv", b"\xff\xfe,"),
        ("d.csv", b"a,b\n"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_table(tmp_path / name)


def test_photos_that_a_stored_table_knows_are_not_read_again(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        file.write_bytes(file.name.encode())
    table = table_of([{"image_path": file} for file in files], root=tmp_path)
    write_table(table, tmp_path / "samples.csv")
    first = fingerprint(table)
    monkeypatch.setattr(digests, "DIGESTS", {})  # as in a new process
    opened, real = [], io.open
    monkeypatch.setattr("io.open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    again = read_table(tmp_path / "samples.csv")
    assert fingerprint(again) == first and not set(opened) & set(files)
    files[1].write_bytes(b"another")
    assert fingerprint(again) != first and set(opened) & set(files) == {files[1]}


def test_fingerprint_follows_files_and_splits_not_row_order(tmp_path):
    for name in ("a.png", "b.png", "m.png"):
        (tmp_path / name).write_bytes(b"123")
    rows = [{"image_path": "a.png", "split": "train"}, {"image_path": "b.png", "label_index": 1, "mask_path": "m.png"}]
    table = table_of(rows, root=tmp_path)
    first = fingerprint(table)
    reverse = table.iloc[::-1].reset_index(drop=True)
    assert len(first) == 32 and fingerprint(reverse) == first
    assert fingerprint(table.assign(split="test")) != first
    os.utime(tmp_path / "m.png", ns=(10**18, 10**18))
    assert fingerprint(table) == first, "the same bytes at another time"
    (tmp_path / "m.png").write_bytes(b"321")
    second = fingerprint(table)
    (tmp_path / "b.png").unlink()
    assert len({first, second, fingerprint(table)}) == 3
