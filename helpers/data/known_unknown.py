"""Which classes of a dataset a classifier knows and which are new to it, from a file, and the split that follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

import pandas as pd

from helpers.data.layouts import NORMAL_NAMES
from helpers.data.samples import NORMAL, SUPERVISED_SHARE, assign_splits
from helpers.paths import read_yaml


class ClassSplit(NamedTuple):
    """Defect classes to learn (``known``, two or more) and for test alone (``unknown``); normal photos are neither."""

    name: str
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    dataset: str = ""


def read_split(path: str | Path) -> ClassSplit:
    """Read a split of classes from YAML with the fields ``name``, ``dataset``, ``known`` and ``unknown`` (lists)."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; the splits lie in notebooks/params/open_set.")
    content = read_yaml(file)
    if not isinstance(content, dict) or set(content) != set(ClassSplit._fields):
        has = ", ".join(map(str, content)) if isinstance(content, dict) else "none of them"
        raise ValueError(f"{file} needs the fields {', '.join(ClassSplit._fields)} and no others; it has {has}.")
    for field, value in content.items():
        several, least = field in ("known", "unknown"), 2 if field == "known" else 1
        texts = value if several and isinstance(value, list) else [None if several else value]
        if len(texts) < least or not all(isinstance(text, str) and text for text in texts):
            kind = f"a list of {least} or more names" if several else "a text"
            raise ValueError(f"{file}: {field} is {value!r}; give {kind} (numbers in quotes).")
    both = [*content["known"], *content["unknown"]]
    for name in both:
        if both.count(name) > 1:
            raise ValueError(f"{file} names {name} twice; a class is known or unknown, once.")
        if name.lower() in NORMAL_NAMES:
            raise ValueError(f"{file} names {name}; normal photos are no class of defects: omit it.")
    return ClassSplit(content["name"], tuple(content["known"]), tuple(content["unknown"]), content["dataset"])


def rotating_splits(classes: Sequence[str], n_splits: int = 2, dataset: str = "") -> list[ClassSplit]:
    """Splits in which every class is unknown exactly once, for a dataset that has no files of its own.

    The classes, by name, are dealt out to the splits in turn; those of a split are its unknown ones. ValueError if two
    known ones are not left in each.
    """
    names = sorted(set(classes) - {NORMAL})
    if not 2 <= n_splits <= len(names) or len(names) - -(-len(names) // n_splits) < 2:
        raise ValueError(
            f"{len(names)} defect classes ({', '.join(names) or 'none'}) cannot be split {n_splits} ways with an "
            "unknown and two known ones in each; change N_SPLITS."
        )
    splits = []
    for number in range(n_splits):
        unknown = names[number::n_splits]
        known = tuple(name for name in names if name not in unknown)
        letters = ascii_uppercase[number % 26] * (number // 26 + 1)  # A to Z, then AA, BB, ...
        splits.append(ClassSplit(letters, known, tuple(unknown), dataset))
    return splits


def open_set_table(table: pd.DataFrame, split: ClassSplit, *, seed: int = 0) -> pd.DataFrame:
    """Split a table 70/15/15 by scheme ``supervised``, with the photos of unknown classes in test alone.

    Where a photo of a known class goes depends on its group and ``seed`` only, not on which classes are unknown, so
    results on several splits of classes are of the same photos. A group of photos of known and unknown classes is in
    test whole. ``attrs`` of the copy also hold ``class_split`` (the name) and ``known_types``, beside ``unseen_types``.
    ValueError if the split names a class that the table has not, or leaves one out.
    """
    classes = sorted(set(table["defect_type"]) - {NORMAL})
    named = [*split.known, *split.unknown]
    if foreign := [name for name in named if name not in classes]:
        raise ValueError(
            f"Split {split.name}: {table.attrs.get('name') or 'the dataset'} has no class {foreign[0]!r}; it has: "
            f"{', '.join(classes) or 'none'}."
        )
    if left_out := [name for name in classes if name not in named]:
        raise ValueError(
            f"Split {split.name} does not say whether {', '.join(left_out)} is known; add it to known or unknown."
        )
    # test is drawn first, val from the rest
    fractions = {"test_fraction": SUPERVISED_SHARE, "val_fraction": SUPERVISED_SHARE / (1 - SUPERVISED_SHARE)}
    result = assign_splits(table, "supervised", **fractions, seed=seed, unseen_types=split.unknown)
    result.attrs |= {"class_split": split.name, "known_types": list(split.known)}
    return result
