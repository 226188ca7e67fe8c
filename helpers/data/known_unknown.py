"""Which classes of a dataset a classifier knows and which are new to it, from a file, and the split that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import pandas as pd

from helpers.data.formats import NORMAL_NAMES
from helpers.data.samples import NORMAL, SUPERVISED_SHARE, assign_splits
from helpers.paths import read_yaml

_FIELDS = ("name", "dataset", "known", "unknown")


@dataclass(frozen=True)
class ClassSplit:
    """Defect classes that are known and unknown; normal photos are neither.

    Attributes:
        name: name of the split, such as A.
        known: classes to learn, two or more.
        unknown: classes for test alone, one or more.
        dataset: name of the dataset it is for.
    """

    name: str
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    dataset: str = ""

    def __post_init__(self) -> None:
        for field, least in (("known", 2), ("unknown", 1)):
            classes = getattr(self, field)
            if len(classes) < least:
                raise ValueError(f"Split {self.name}: {field} has {len(classes)} class(es); name {least} or more.")
        both = [*self.known, *self.unknown]
        twice = sorted({name for name in both if both.count(name) > 1})
        if twice:
            raise ValueError(f"Split {self.name} names {', '.join(twice)} twice; a class is known or unknown, once.")
        normal = sorted(name for name in both if name.lower() in NORMAL_NAMES)
        if normal:
            raise ValueError(
                f"Split {self.name} names {normal[0]}; normal photos are no class of defects: leave it out."
            )


def read_split(path: str | Path) -> ClassSplit:
    """Read a split of classes from YAML with the fields ``name``, ``dataset``, ``known`` and ``unknown`` (lists).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such YAML, fewer than two classes are known or none unknown, or a class is named twice.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; the splits lie in notebooks/params/open_set.")
    content = read_yaml(file)
    if not isinstance(content, dict) or set(content) != set(_FIELDS):
        has = ", ".join(map(str, content)) if isinstance(content, dict) else "none of them"
        raise ValueError(f"{file} needs the fields {', '.join(_FIELDS)} and no others; it has {has}.")
    for field in ("name", "dataset"):
        if not isinstance(content[field], str) or not content[field]:
            raise ValueError(f"{file}: {field} is {content[field]!r}; give a text (in quotes, where it is a number).")
    for field in ("known", "unknown"):
        classes = content[field]
        if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
            raise ValueError(f"{file}: {field} is {classes!r}; give a list of names (numbers in quotes).")
    try:
        return ClassSplit(content["name"], tuple(content["known"]), tuple(content["unknown"]), content["dataset"])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def rotating_splits(classes: Sequence[str], n_splits: int = 2, dataset: str = "") -> list[ClassSplit]:
    """Splits in which every class is unknown exactly once, for a dataset that has no files of its own.

    The classes, by name, are dealt out to the splits in turn; those of a split are its unknown ones.

    Args:
        classes: of defects, three or more.
        n_splits: at most as many as there are classes, and so that two known ones are left in each.
        dataset: its name.

    Raises:
        ValueError: if two known classes are not left in each split.
    """
    names = sorted(set(classes) - {NORMAL})
    if not 2 <= n_splits <= len(names) or len(names) - -(-len(names) // n_splits) < 2:
        raise ValueError(
            f"{len(names)} defect classes ({', '.join(names) or 'none'}) cannot be split {n_splits} ways with an "
            "unknown and two known ones in each; change N_SPLITS."
        )
    # A to Z, then AA, BB, ...
    letters = [ascii_uppercase[number % 26] * (number // 26 + 1) for number in range(n_splits)]
    dealt = {letter: names[number::n_splits] for number, letter in enumerate(letters)}
    return [
        ClassSplit(letter, tuple(name for name in names if name not in unknown), tuple(unknown), dataset)
        for letter, unknown in dealt.items()
    ]


def open_set_table(table: pd.DataFrame, split: ClassSplit, *, seed: int = 0) -> pd.DataFrame:
    """Split a table 70/15/15 by scheme ``supervised``, with the photos of unknown classes in test alone.

    Where a photo of a known class goes depends on its group and ``seed`` only, not on which classes are unknown, so
    results on several splits of classes are of the same photos. Normal photos, if there are any, are split 70/15/15
    too. A published split is kept as `helpers.data.samples.assign_splits` says. A group of photos of known and unknown
    classes is in test whole.

    Args:
        table: a sample table whose defect types are the classes of ``split``, all of them.
        split: from `read_split`.
        seed: another seed, another split.

    Returns:
        A copy; its ``attrs`` also hold ``class_split`` (the name) and ``known_types``, beside ``unseen_types``.

    Raises:
        ValueError: the split names a class that the table has not, or leaves one out.
    """
    classes = sorted(set(table["defect_type"]) - {NORMAL})
    named = [*split.known, *split.unknown]
    foreign = [name for name in named if name not in classes]
    if foreign:
        raise ValueError(
            f"Split {split.name}: {table.attrs.get('name') or 'the dataset'} has no class {foreign[0]!r}; it has: "
            f"{', '.join(classes) or 'none'}."
        )
    left_out = [name for name in classes if name not in named]
    if left_out:
        raise ValueError(
            f"Split {split.name} does not say whether {', '.join(left_out)} is known; add it to known or unknown."
        )
    # test is drawn first, val from the rest
    val_fraction = SUPERVISED_SHARE / (1 - SUPERVISED_SHARE)
    result = assign_splits(
        table,
        "supervised",
        test_fraction=SUPERVISED_SHARE,
        val_fraction=val_fraction,
        seed=seed,
        unseen_types=split.unknown,
    )
    result.attrs |= {"class_split": split.name, "known_types": list(split.known)}
    return result
