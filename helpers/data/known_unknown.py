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
    content = read_yaml(Path(path))
    try:
        split = ClassSplit(**content)
        classes = [*split.known, *split.unknown]
        texts = all(isinstance(text, str) and text for text in (split.name, split.dataset, *classes))
        lists = isinstance(split.known, list) and isinstance(split.unknown, list)
        sound = texts and lists and len(split.known) >= 2 and len(split.unknown) >= 1
        sound = sound and len(set(classes)) == len(classes) and not {name.lower() for name in classes} & NORMAL_NAMES
    except TypeError:
        sound = False
    if not sound:
        raise ValueError(
            f"{path} makes no split; give it name and dataset (texts), known (a list of 2 or more classes of defects) "
            "and unknown (1 or more), each class once, numbers in quotes, without normal photos."
        )
    return split._replace(known=tuple(split.known), unknown=tuple(split.unknown))


def rotating_splits(classes: Sequence[str], n_splits: int = 2, dataset: str = "") -> list[ClassSplit]:
    """Splits in which every class is unknown exactly once, for a dataset that has no files of its own.

    The classes, by name, are dealt out to the splits in turn; those of a split are its unknown ones.
    """
    names = sorted(set(classes) - {NORMAL})
    if not 2 <= n_splits <= len(names) or len(names) - -(-len(names) // n_splits) < 2:
        problem = f"{len(names)} defect classes ({', '.join(names)}) cannot be split {n_splits} ways with an unknown"
        raise ValueError(f"{problem} and two known ones in each; change N_SPLITS.")
    splits = []
    for number in range(n_splits):
        unknown = tuple(names[number::n_splits])
        letters = ascii_uppercase[number % 26] * (number // 26 + 1)  # A to Z, then AA, BB, ...
        splits.append(ClassSplit(letters, tuple(name for name in names if name not in unknown), unknown, dataset))
    return splits


def open_set_table(table: pd.DataFrame, split: ClassSplit, *, seed: int = 0) -> pd.DataFrame:
    """Split a table 70/15/15 by scheme ``supervised``, with the photos of unknown classes in test alone.

    Where a photo of a known class goes depends on its group and ``seed`` only, not on which classes are unknown, so
    results on several splits of classes are of the same photos. ``attrs`` also get ``class_split`` and ``known_types``.
    """
    classes = set(table["defect_type"]) - {NORMAL}
    if wrong := classes ^ {*split.known, *split.unknown}:
        raise ValueError(
            f"Split {split.name} and {table.attrs.get('name') or 'the dataset'} do not agree on "
            f"{', '.join(sorted(wrong))}: name each class ({', '.join(sorted(classes))}) as known or unknown."
        )
    # test is drawn first, val from the rest
    fractions = {"test_fraction": SUPERVISED_SHARE, "val_fraction": SUPERVISED_SHARE / (1 - SUPERVISED_SHARE)}
    result = assign_splits(table, "supervised", **fractions, seed=seed, unseen_types=split.unknown)
    result.attrs |= {"class_split": split.name, "known_types": list(split.known)}
    return result
