"""The sample table: one row an image, the same columns for every dataset, and splits without leaks.

Columns, in this order (a reader may add more after them): ``image_path`` and ``mask_path`` (absolute, "" for no mask),
``label_index`` (0 normal, 1 abnormal), ``defect_type`` ("good" for normal photos), ``split`` (train, val, test, or ""),
``group`` (photos of one group never part; by default every photo is alone, with all copies that Roboflow made of it).
``table.attrs`` has ``root`` (absolute), ``layout``, ``name``, ``pixel_size`` (mm a pixel, or None), ``published_split``
(whether the data set came with a split) and how `assign_splits` split it.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from helpers.data import digests
from helpers.data.digests import content_digest
from helpers.data.images import remember_bit_depth
from helpers.paths import from_cells, write_csv, write_json

COLUMNS: tuple[str, ...] = ("image_path", "mask_path", "label_index", "defect_type", "split", "group")
TEXTS = [column for column in COLUMNS if column != "label_index"]
SPLITS: tuple[str, ...] = ("train", "val", "test")
SCHEMES: tuple[str, ...] = ("one_class", "supervised")
NORMAL = "good"
SUPERVISED_SHARE = 0.15  # of each defect type, that scheme ``supervised`` holds out for val, and again for test
PUBLISHED_COLUMN = "published_split"  # is added where a table is split, so that it can be split again from the start


def make_table(
    rows: Iterable[dict[str, Any]],
    *,
    root: str | Path,
    layout: str,
    name: str,
    published_split: bool,
    pixel_size: float | None = None,
) -> pd.DataFrame:
    """Build a sample table from one dictionary an image, sorted by path; paths are relative to ``root``.

    ``image_path`` is needed; ``label_index`` defaults to 0, ``mask_path`` and ``split`` to "", ``defect_type`` to
    "good" for normal and "defect" for abnormal photos, ``group`` to the photo alone. ValueError: a row says what cannot
    be, or a photo comes twice.
    """
    root = absolute_path(root)
    frame = pd.DataFrame(list(rows))
    frame = frame.reindex(columns=[*COLUMNS, *(column for column in frame if column not in COLUMNS)])
    frame[TEXTS] = frame[TEXTS].astype("object").where(frame[TEXTS].notna(), "").map(str)
    frame["label_index"] = frame["label_index"].astype("object").where(frame["label_index"].notna(), 0)
    labels, types = frame["label_index"], frame["defect_type"]
    _refuse(frame["image_path"] == "", frame, "a row has no image_path; add it")
    _refuse(~labels.isin([0, 1]), frame, "has label_index {label_index}; use 0 (normal) or 1 (abnormal)")
    frame["defect_type"] = types = types.mask(types == "", labels.map({0: NORMAL, 1: "defect"}))
    problem = "has label_index {label_index} but defect_type {defect_type!r}; normal photos, and no others, are 'good'"
    _refuse((types == NORMAL) != (labels == 0), frame, problem)
    _refuse(~frame["split"].isin(["", *SPLITS]), frame, "is in split {split!r}; known are train, val, test and ''")

    for column in ("image_path", "mask_path"):
        frame[column] = [path and os.path.abspath(root / path) for path in frame[column]]  # noqa: PTH100
    # macOS may hand out decomposed accents: the same file has the same key everywhere
    keys = _relative(frame["image_path"], root).map(lambda path: unicodedata.normalize("NFC", path)).astype("str")
    frame["group"] = frame["group"].mask(frame["group"] == "", keys.map(_original))
    frame = frame.astype(dict.fromkeys(TEXTS, "str") | {"label_index": "int64"})
    _refuse(frame["image_path"].duplicated(), frame, "occurs twice; every photo has one row")
    frame = frame.loc[keys.sort_values(kind="stable").index].reset_index(drop=True)
    frame.attrs = {"root": str(root), "layout": layout, "name": name, "published_split": bool(published_split)}
    frame.attrs["pixel_size"] = None if pixel_size is None else float(pixel_size)
    return frame


def _refuse(wrong: pd.Series, frame: pd.DataFrame, problem: str) -> None:
    if wrong.any():
        row = frame[wrong].iloc[0].to_dict()
        raise ValueError(f"{row['image_path']} {problem.format_map(row)}.".lstrip())


def _original(key: str) -> str:
    """Name of the photo that Roboflow made a copy of (``NAME.rf.HASH.jpg``), in whichever split; else the key."""
    copy = re.fullmatch(r"(.+)\.rf\.[0-9A-Za-z]+\.\w+", PurePosixPath(key).name)
    return copy.group(1) if copy else key


def absolute_path(path: str | Path) -> Path:
    """Absolute path without ``..``; unlike ``Path.resolve`` a link inside the dataset keeps its name."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


def relative_path(table: pd.DataFrame) -> pd.Series:
    """Posix path of each image relative to ``table.attrs["root"]`` (starts with ``..`` where it lies outside)."""
    return _relative(table["image_path"], Path(table.attrs["root"]))


def _relative(paths: pd.Series, root: Path) -> pd.Series:
    def relative(path: str) -> str:
        file = Path(path)
        with suppress(ValueError):  # another drive
            file = file.relative_to(root) if file.is_relative_to(root) else Path(os.path.relpath(path, root))
        return file.as_posix()

    return pd.Series([path and relative(path) for path in paths], index=paths.index, dtype="str")


def assign_splits(
    table: pd.DataFrame,
    scheme: str = "one_class",
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    val_abnormal_fraction: float = 0.0,
    seed: int = 0,
    unseen_types: Sequence[str] = (),
) -> pd.DataFrame:
    """A copy of the table with every photo in a split, the same on every machine, from the published split if any.

    Groups are ordered by the BLAKE2b hash of ``f"{seed}:{group}"``, and a share is the first in that order whose photos
    come nearest to ``fraction * photos`` (a tie takes more); defects are shared out per type. A group never parts; one
    with any defect photo counts as abnormal. Whoever gives keeps at least one group, and a share of normal photos above
    zero gets one where there are two. A published test or val that holds normal photos stays; else ``test_fraction`` of
    train's becomes test, then ``val_fraction`` of the rest val. Defect photos, by scheme:

    - ``one_class``: test, but for ``val_abnormal_fraction`` of it; none is in train.
    - ``supervised``, for models that learn from defects too: what ``one_class`` tests is divided per type, the first
      15 % val (from three groups on), the last 15 % test (from two on), the rest train; so this test set lies inside
      that of ``one_class``. Where a published split trains on defects, only what it lacks is taken from its train.
      ``unseen_types`` are in test alone, whole, as if nobody knew them yet.

    ValueError: a published split that the scheme cannot keep.
    """
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    fractions["val_abnormal_fraction"] = val_abnormal_fraction
    _check_options(table, scheme, fractions, unseen_types)
    result = table.copy()
    if PUBLISHED_COLUMN not in result and result.attrs.get("published_split", (result["split"] != "").any()):
        result[PUBLISHED_COLUMN] = result["split"]
    published = result.get(PUBLISHED_COLUMN, pd.Series("", result.index, "str"))
    # one row a group: its defect types, its one split (or several joined), and its number of photos
    by_group = table.assign(published=published).groupby("group")
    groups = by_group[["defect_type", "published"]].agg(lambda values: "+".join(sorted(set(values) - {NORMAL})))
    groups["photos"] = by_group.size()
    abnormal = groups["defect_type"] != ""
    split = abnormal.map({True: "test", False: "train"})
    if (published != "").any():
        split = _whole_split(groups)
    learned = abnormal & (split == "train")
    if scheme == "one_class" and learned.any():
        problem = (
            f"{groups.index[learned][0]} is published as train with abnormal photos; 'one_class' learns from normal"
        )
        raise ValueError(f"{problem} ones only: take scheme 'supervised', move them to test, or {_DROP}.")
    for name, fraction in (("test", test_fraction), ("val", val_fraction)):
        if not ((published == name) & (table["label_index"] == 0)).any():
            split.loc[_draw(groups[~abnormal & (split == "train")], fraction, seed, at_least_one=True)] = name
    if scheme == "supervised":
        _hold_out(groups, split, learned, seed)
    else:
        for _, stratum in groups[abnormal & (split == "test")].groupby("defect_type"):
            split.loc[_draw(stratum, val_abnormal_fraction, seed)] = "val"
    hidden = table["defect_type"].isin(unseen_types).groupby(table["group"]).transform("any")
    result["split"] = table["group"].map(split).mask(hidden, "test").astype("str")
    unseen = {"unseen_types": list(unseen_types)} if unseen_types else {}
    result.attrs = {**table.attrs, "scheme": scheme, "seed": seed, **fractions, **unseen}
    return result


_DROP = "drop the published split with table.assign(split='') and table.attrs['published_split'] = False"


def _check_options(table: pd.DataFrame, scheme: str, fractions: dict[str, float], unseen_types: Sequence[str]) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown split scheme {scheme!r}; known are: {', '.join(SCHEMES)}.")
    for name, value in fractions.items():
        # with a larger share in val, the test set of supervised would not lie in that of one_class
        most = 1 - SUPERVISED_SHARE if scheme == "supervised" and name == "val_abnormal_fraction" else 1
        if not 0 <= value <= most or value == 1:
            raise ValueError(f"{name} is {value!r}; give a share of at least 0 and less than 1, at most {most}.")
    known = set(table["defect_type"]) - {NORMAL} if scheme == "supervised" else set()
    if unknown := set(unseen_types) - known:
        raise ValueError(f"unseen_types: {scheme} of this table has no {unknown}; known: {', '.join(sorted(known))}.")


def _hold_out(groups: pd.DataFrame, split: pd.Series, learned: pd.Series, seed: int) -> None:
    abnormal, lacks = groups["defect_type"] != "", ["test", "val"]
    if learned.any():
        lacks = [name for name in lacks if not (split[abnormal] == name).any()]
        divided = groups[learned]
    else:
        divided = groups[abnormal & (split == "test")]
        split.loc[divided.index] = "train"
    for _, stratum in divided.groupby("defect_type"):
        last = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True, last=True) if "test" in lacks else []
        first = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True) if "val" in lacks else []
        split.loc[last] = "test"
        if len(stratum) - len(last) > 1:  # train keeps at least one
            split.loc[[name for name in first if name not in last]] = "val"


def _whole_split(groups: pd.DataFrame) -> pd.Series:
    """The published split of each group; ValueError where it has none, or several."""
    wrong = groups["published"][~groups["published"].isin(SPLITS)]
    if len(wrong):
        problem = f"Group {wrong.index[0]!r} lies in several published splits or in none ({wrong.iloc[0]}), as do"
        raise ValueError(
            f"{problem} {len(wrong) - 1} more: give all its photos one, choose another group=, or {_DROP}."
        )
    return groups["published"].copy()


def _draw(
    groups: pd.DataFrame, fraction: float, seed: int, *, at_least_one: bool = False, last: bool = False
) -> list[str]:
    """Names of the first (or last) groups in hash order whose photos come nearest to the share; never all groups."""

    def order(name: str) -> tuple[str, str]:
        text = f"{seed}:{unicodedata.normalize('NFC', name)}"
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(), name

    share = Fraction(str(fraction))  # 0.145 of 200 is 29 exactly, which a float does not know
    if share == 0 or len(groups) < 2:
        return []
    ordered = sorted(groups.index, key=order, reverse=last)
    target = share * int(groups["photos"].sum())
    totals = [0, *groups["photos"].loc[ordered[:-1]].cumsum().tolist()]
    best = min(range(len(totals)), key=lambda count: (abs(totals[count] - target), -count))
    return ordered[: max(best, 1) if at_least_one else best]


def can_be_supervised(table: pd.DataFrame) -> bool:
    """Whether a segmenter can learn from the table: each defect photo has a mask, and there is one for each split."""
    abnormal = table[table["label_index"] == 1]
    return abnormal["group"].nunique() >= 3 and bool((abnormal["mask_path"] != "").all())


def without_train_defects(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the defect photos of train, for models that learn from good photos only; see `origin`."""
    rows = (table["split"] != "train") | (table["label_index"] == 0)
    if rows.all():
        return table
    kept = table[rows].reset_index(drop=True)
    kept.attrs = {**table.attrs, "derived_from": origin(table)}
    return kept


def supervised_table(table: pd.DataFrame, unseen_types: Sequence[str] = ()) -> pd.DataFrame:
    """A table split again with scheme ``supervised``: same normal photos in each split; see `origin`."""
    names = ("val_fraction", "test_fraction", "val_abnormal_fraction", "seed")
    again = assign_splits(table, "supervised", **{name: table.attrs[name] for name in names}, unseen_types=unseen_types)
    again.attrs["derived_from"] = origin(table)
    return again


def split_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Photos in each split (rows) that are normal, abnormal, and of each defect type (columns); integers."""
    named = table["split"].mask(table["split"] == "", "(none)")
    splits = [*SPLITS, *(["(none)"] if (table["split"] == "").any() else [])]
    abnormal = table["label_index"] == 1
    columns = {"normal": ~abnormal, "abnormal": abnormal}
    columns |= {each: table["defect_type"] == each for each in sorted(table["defect_type"][abnormal].unique())}
    counts = pd.DataFrame(columns).groupby(named).sum().reindex(splits, fill_value=0).astype("int64")
    return counts.rename_axis("split")


def fingerprint(table: pd.DataFrame) -> str:
    """Hash (32 hexadecimal digits) of what a run depends on: rows, splits, and the content of every photo and mask.

    It changes when a file does, and not with the order of the rows or the place of the dataset.
    """
    masks = _relative(table["mask_path"], Path(table.attrs["root"]))
    lines = sorted(
        json.dumps(
            [path, content_digest(row.image_path), mask, content_digest(row.mask_path)]
            + [int(row.label_index), row.defect_type, row.split, row.group]
        )
        for path, mask, row in zip(relative_path(table), masks, table.itertuples(index=False), strict=True)
    )
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def origin(table: pd.DataFrame) -> list[str]:
    """Fingerprint (in a list) by which a run knows the table it was made from, or the one that was derived from."""
    return table.attrs.get("derived_from") or [fingerprint(table)]


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV, paths relative to its root, and beside it as JSON its attrs and the hashes of its files.

    A table in the root of its photos can be moved with them.
    """
    path, root, paths = Path(path), Path(table.attrs["root"]), ["image_path", "mask_path"]
    stored = table.assign(**{column: _relative(table[column], root) for column in paths})
    stored.attrs = {}
    pairs = [pair for column in paths for pair in zip(stored[column], table[column], strict=True)]
    known = {name: " ".join(map(str, digests.DIGESTS[path])) for name, path in pairs if content_digest(path)}
    kept = {name: value for name, value in table.attrs.items() if name != "root" or absolute_path(path).parent != root}
    # the table comes last: where there is a table there are its attributes
    write_json(kept | {"digests": known}, path.with_name(path.name + ".json"))
    write_csv(stored, path, lineterminator="\n")
    return path


def read_table(path: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read what `write_table` wrote; paths are relative to ``root``, by default the one recorded, else the folder."""
    path = Path(path)
    frame = read_frame(path)
    if path.suffix.lower() == ".csv":
        frame = from_cells(frame)
    if missing := [column for column in COLUMNS if column not in frame]:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; helpers.read_dataset reads other tables.")
    attrs_path = path.with_name(path.name + ".json")
    attrs = json.loads(attrs_path.read_text(encoding="utf-8")) if attrs_path.is_file() else {}
    if not isinstance(attrs, dict) or not isinstance(attrs.get("digests", {}), dict):
        raise ValueError(f"{attrs_path} is damaged; run notebook 01 again, or delete it.")
    root = Path(root if root is not None else attrs.get("root", path.parent))
    for name, known in attrs.pop("digests", {}).items():
        size, time, digest = known.split()
        digests.DIGESTS[str(absolute_path(root / name))] = [int(size), int(time), digest]
    table = make_table(
        frame.astype({"label_index": "int64"}).to_dict("records"),
        root=root,
        layout=attrs.get("layout", "table"),
        name=attrs.get("name", path.stem),
        published_split=bool(attrs.get("published_split", (frame["split"] != "").any())),
        pixel_size=attrs.get("pixel_size"),
    )
    table.attrs = {**attrs, **table.attrs}
    remember_bit_depth(root, attrs.get("bit_depth"))
    return table


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a CSV (text stays text, empty stays "", other columns become numbers where all are) or Parquet file."""
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"{path.name} is neither .csv nor .parquet; choose one of the two.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}; check the path.")
    if path.suffix.lower() == ".parquet":
        return pd.read_parquet(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = next((sign for sign in ",;\t" if sign in header), ",")
        # a defect type may be called "NA" or "007"
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", sep=separator)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no CSV table in UTF-8 ({error}); save it as CSV UTF-8.") from error
    for column in frame.columns.difference({*TEXTS, PUBLISHED_COLUMN, "label", "defect_types"}):
        if not frame[column].str.match(r"0\d").any():  # 007 is a name
            with suppress(ValueError, TypeError):
                frame[column] = pd.to_numeric(frame[column])
    return frame
