"""Known and unknown classes: the files, and that unknown photos are in test alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY

from helpers.data.known_unknown import ClassSplit, open_set_table, read_split, rotating_splits
from helpers.data.samples import make_table, relative_path, split_counts

FILES = sorted((REPOSITORY / "notebooks" / "params" / "open_set").glob("neu_*.yml"))
CLASSES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")


def photos(n_normal: int = 0, groups: int = 1):
    """40 photos of each class of NEU; ``groups`` photos share a group."""
    rows = [
        {"image_path": f"{kind}_{i}.png", "label_index": 1, "defect_type": kind, "group": f"{kind}{i // groups}"}
        for kind in CLASSES
        for i in range(40)
    ]
    rows += [{"image_path": f"good_{i}.png", "label_index": 0} for i in range(n_normal)]
    return make_table(rows, root="/data", layout="voc", name="neu_det", published_split=False)


def test_over_the_three_files_every_class_is_unknown_once():
    splits = [read_split(file) for file in FILES]
    assert [split.name for split in splits] == ["A", "B", "C"]
    assert sorted(name for split in splits for name in split.unknown) == sorted(CLASSES)
    for split in splits:
        assert sorted(split.known + split.unknown) == sorted(CLASSES)
        table = open_set_table(photos(n_normal=200), split)
        counts = split_counts(table).T.apply(list, axis=1)
        shares = dict.fromkeys(split.known, [28, 6, 6]) | dict.fromkeys(split.unknown, [0, 0, 40])
        assert {name: counts[name] for name in CLASSES} == shares and counts["normal"] == [140, 30, 30]
        attrs = {"class_split": split.name, "known_types": list(split.known), "unseen_types": list(split.unknown)}
        assert table.attrs.items() >= attrs.items()


@pytest.mark.parametrize("groups", [1, 4])
def test_where_a_known_photo_goes_does_not_depend_on_what_is_unknown(groups):
    table = photos(n_normal=100, groups=groups)
    places = {}
    for file in FILES:
        split = read_split(file)
        result = open_set_table(table, split, seed=3)
        for path, kind, place in zip(relative_path(result), result["defect_type"], result["split"], strict=True):
            if kind not in split.unknown:
                assert places.setdefault(path, place) == place
    assert set(places.values()) == {"train", "val", "test"} and len(places) == len(table)


def test_a_misspelt_class_is_named_and_every_class_has_to_be_said():
    split = ClassSplit("X", ("crazing", "inclusion", "patches", "pitted", "scratches"), ("rolled-in_scale",))
    with pytest.raises(ValueError, match=r"'pitted'.*pitted_surface"):
        open_set_table(photos(), split)
    with pytest.raises(ValueError, match="patches, pitted_surface, rolled-in_scale"):
        open_set_table(photos(), ClassSplit("X", ("crazing", "inclusion"), ("scratches",)))


@pytest.mark.parametrize(
    "text",
    [
        "known: [a, b]\nunknown: [b]",
        "known: [a, a]\nunknown: [b]",
        "known: [a]\nunknown: [b]",
        "known: [a, b]\nunknown: []",
        "known: [a, good]\nunknown: [b]",
        "known: [a, 2]\nunknown: [b]",
        "known: a\nunknown: [b]",
        "known: [a, b]\nunknown: [c]\nseed: 1",
        "known: [a, b",
        "known: &a [b, c]\nunknown: *a",
    ],
)
def test_files_that_make_no_split_are_named(tmp_path, text):
    file = tmp_path / "x.yml"
    file.write_text(f"name: X\ndataset: neu_det\n{text}\n")
    with pytest.raises(ValueError, match=str(file)):
        read_split(file)
    file.write_text("name: 3\ndataset: neu_det\nknown: [a, b]\nunknown: [c]\n")
    with pytest.raises(ValueError, match="name is 3"):
        read_split(file)
    with pytest.raises(FileNotFoundError, match="nowhere.yml"):
        read_split(Path("nowhere.yml"))


def test_rotating_splits_make_every_class_unknown_once():
    splits = rotating_splits(["d", "a", "good", "c", "b", "e"], 2, "x")
    assert [(split.name, split.known, split.unknown) for split in splits] == [
        ("A", ("b", "d"), ("a", "c", "e")),
        ("B", ("a", "c", "e"), ("b", "d")),
    ]
    three = rotating_splits(["a", "b", "c"], 3)
    assert [split.unknown for split in three] == [("a",), ("b",), ("c",)]
    many = [split.name for split in rotating_splits([f"{number:03d}" for number in range(60)], 60)]
    assert len(set(many)) == 60 and all(name.isascii() and name.isalpha() and name.isupper() for name in many)


@pytest.mark.parametrize(("classes", "n"), [(["a", "b", "c"], 2), (["a", "b"], 2), (["a", "b", "c"], 1), (["a"], 4)])
def test_splits_that_leave_fewer_than_two_known_classes_are_refused(classes, n):
    with pytest.raises(ValueError, match="N_SPLITS"):
        rotating_splits(classes, n)
