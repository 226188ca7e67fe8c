"""Known and unknown classes: the files, and that unknown photos are in test alone."""

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
        table = open_set_table(photos(n_normal=200), split)
        counts = split_counts(table).T.apply(list, axis=1)
        shares = dict.fromkeys(split.known, [28, 6, 6]) | dict.fromkeys(split.unknown, [0, 0, 40])
        assert {name: counts[name] for name in CLASSES} == shares and counts["normal"] == [140, 30, 30]
        attrs = {"class_split": split.name, "known_types": list(split.known), "unseen_types": list(split.unknown)}
        assert table.attrs.items() >= attrs.items()


@pytest.mark.parametrize("groups", [1, 4])
def test_where_a_known_photo_goes_does_not_depend_on_what_is_unknown(groups):
    table, places = photos(n_normal=100, groups=groups), {}
    for split in map(read_split, FILES):
        result = open_set_table(table, split, seed=3)
        for path, kind, place in zip(relative_path(result), result["defect_type"], result["split"], strict=True):
            assert kind in split.unknown or places.setdefault(path, place) == place
    assert set(places.values()) == {"train", "val", "test"} and len(places) == len(table)


def test_a_misspelt_class_is_named_and_every_class_has_to_be_said():
    for known, word in (((*CLASSES[:3], "pitted", "scratches"), "pitted,"), (CLASSES[:4], "scratch")):
        with pytest.raises(ValueError, match=word):
            open_set_table(photos(), ClassSplit("X", known, ("rolled-in_scale",)))


@pytest.mark.parametrize(
    "text",
    [
        "name: X\nknown: [a, b]\nunknown: [b]",
        "name: X\nknown: [a, a]\nunknown: [b]",
        "name: X\nknown: [a]\nunknown: [b]",
        "name: X\nknown: [a, 2]\nunknown: [b]",
        "name: X\nknown: a\nunknown: [b]",
        "name: X\nknown: [a, b]\nunknown: [c]\nseed: 1",
        "name: X\nknown: [a, b",
    ],
)
def test_files_that_make_no_split_are_named(tmp_path, text):
    file = tmp_path / "x.yml"
    with pytest.raises(ValueError, match=str(file)):
        read_split(file)
    file.write_text(f"dataset: neu_det\n{text}\n")
    with pytest.raises(ValueError, match=str(file)):
        read_split(file)


def test_rotating_splits_make_every_class_unknown_once():
    splits = rotating_splits(["d", "a", "good", "c", "b", "e"], 2, "x")
    assert splits == [("A", ("b", "d"), ("a", "c", "e"), "x"), ("B", ("a", "c", "e"), ("b", "d"), "x")]
    assert [split.unknown for split in rotating_splits(["a", "b", "c"], 3)] == [("a",), ("b",), ("c",)]
    many = [split.name for split in rotating_splits([f"{number:03d}" for number in range(60)], 60)]
    assert len(set(many)) == 60 and all(name.isascii() and name.isalpha() and name.isupper() for name in many)


@pytest.mark.parametrize(("classes", "n"), [("abc", 2), ("ab", 2), ("abc", 1), ("a", 4)])
def test_splits_that_leave_fewer_than_two_known_classes_are_refused(classes, n):
    with pytest.raises(ValueError, match="N_SPLITS"):
        rotating_splits(list(classes), n)
