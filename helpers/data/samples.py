"""The sample table: one row an image, the same columns for every dataset, and splits without leaks.

Columns, in this order (a reader may add more after them):

==============  ======  =====================================================================================
image_path      str     absolute path
mask_path       str     absolute path, or "" when there is none
label_index     int64   0 normal, 1 abnormal
defect_type     str     "good" for normal photos, else the name of the class or folder
split           str     "train", "val", "test", or "" while the photo is in no split
group           str     photos with the same group never part; by default every photo is a group of its own, with
                        all copies that Roboflow made of it (``NAME.rf.HASH.jpg``)
==============  ======  =====================================================================================

``table.attrs`` says where it comes from: ``root`` (absolute), ``layout``, ``name``, ``pixel_size`` (mm a pixel, or
None) and ``published_split`` (whether the data set came with a split). `assign_splits` adds how it split.
"""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from hashlib import blake2b, file_digest
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from helpers.data.images import remember_bit_depth
from helpers.paths import cells, from_cells, write_whole

logger = logging.getLogger(__name__)

COLUMNS: tuple[str, ...] = ("image_path", "mask_path", "label_index", "defect_type", "split", "group")
SPLITS: tuple[str, ...] = ("train", "val", "test")
NORMAL = "good"
SUPERVISED_SHARE = 0.15
"""Share of each defect type that scheme ``supervised`` holds out for val, and again for test."""
PUBLISHED_COLUMN = "published_split"
"""Column that `assign_splits` adds to a table with a published split, so that it can be split again from the start."""


def make_table(
    rows: Iterable[dict[str, Any]],
    *,
    root: str | Path,
    layout: str,
    name: str,
    published_split: bool,
    pixel_size: float | None = None,
) -> pd.DataFrame:
    """Build a sample table: paths made absolute, gaps filled, types set, rows sorted by relative path.

    Args:
        rows: one dictionary an image. ``image_path`` is needed (relative paths are relative to ``root``);
            ``label_index`` defaults to 0, ``mask_path`` and ``split`` to "", ``defect_type`` to "good" for normal and
            "defect" for abnormal photos, ``group`` to the photo alone. Other keys become further columns.
        root: folder the dataset lies in.
        layout: name of the layout it was read from.
        name: name of the dataset.
        published_split: whether ``split`` is the data set's own.
        pixel_size: mm a pixel, if known.

    Raises:
        ValueError: a row has no image path, a label other than 0 or 1, an unknown split, or a path occurs twice.
    """
    root = absolute_path(root)
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        frame = pd.DataFrame(columns=list(COLUMNS))
    if "image_path" not in frame:
        raise ValueError("A sample table needs the column image_path; add it to every row.")
    paths = frame["image_path"]
    if (paths.isna() | (paths.astype(str) == "")).any():
        raise ValueError(f"Row {int((paths.isna() | (paths.astype(str) == '')).argmax())} has no image_path; add it.")
    frame["image_path"] = [_absolute(path, root) for path in paths]
    masks = frame["mask_path"] if "mask_path" in frame else pd.Series("", index=frame.index)
    frame["mask_path"] = ["" if pd.isna(path) or str(path) == "" else _absolute(path, root) for path in masks]

    labels = frame["label_index"] if "label_index" in frame else pd.Series(0, index=frame.index)
    labels = labels.astype("object").where(labels.notna(), 0)
    wrong = ~labels.isin([0, 1])
    if wrong.any():
        row = frame[wrong].iloc[0]
        raise ValueError(
            f"{row['image_path']} has label_index {labels[wrong].iloc[0]!r}; use 0 (normal) or 1 (abnormal)."
        )
    frame["label_index"] = labels.astype("int64")

    types = _filled(frame, "defect_type")
    normal = frame["label_index"] == 0
    mislabelled = (normal & ~types.isin(["", NORMAL])) | (~normal & (types == NORMAL))
    if mislabelled.any():
        row = int(mislabelled.to_numpy().argmax())
        raise ValueError(
            f"{frame['image_path'].iloc[row]} has label_index {frame['label_index'].iloc[row]} but defect_type "
            f"{types.iloc[row]!r}; normal photos are {NORMAL!r}, abnormal ones have the name of their defect."
        )
    frame["defect_type"] = types.mask(types == "", normal.map({True: NORMAL, False: "defect"})).astype("str")

    frame["split"] = _filled(frame, "split")
    unknown = ~frame["split"].isin(["", *SPLITS])
    if unknown.any():
        row = frame[unknown].iloc[0]
        raise ValueError(f"{row['image_path']} is in split {row['split']!r}; known are {', '.join(SPLITS)} and ''.")

    keys = _keys(_relative_paths(frame["image_path"], root))
    groups = _filled(frame, "group")
    frame["group"] = groups.mask(groups == "", keys.map(_original)).astype("str")
    frame = frame.astype({"image_path": "str", "mask_path": "str"})

    twice = frame["image_path"].duplicated()
    if twice.any():
        raise ValueError(f"{frame.loc[twice, 'image_path'].iloc[0]} occurs twice; every photo has one row.")
    frame = frame[[*COLUMNS, *(column for column in frame if column not in COLUMNS)]]
    frame = frame.loc[keys.sort_values(kind="stable").index].reset_index(drop=True)
    frame.attrs = {
        "root": str(root),
        "layout": layout,
        "name": name,
        "pixel_size": None if pixel_size is None else float(pixel_size),
        "published_split": bool(published_split),
    }
    return frame


def relative_path(table: pd.DataFrame) -> pd.Series:
    """Posix path of each image relative to ``table.attrs["root"]`` (starts with ``..`` where it lies outside)."""
    return _relative_paths(table["image_path"], Path(table.attrs["root"]))


# --------------------------------------------------------------------------------------------------------------- splits


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
    """Return a copy of the table with every photo in a split, the same on every machine.

    Groups are ordered by the BLAKE2b hash of ``f"{seed}:{group}"``, never by a directory listing, and a share is the
    first groups in that order whose photo count comes nearest to ``fraction * photos`` (a tie takes more: half rounds
    up). Shares are drawn per defect type. A group is never parted; one that holds any defect photo counts as abnormal
    (its type is the set of its types). Whoever gives keeps at least one group, and a share of normal photos above zero
    gets at least one group where there are two or more.

    Scheme ``one_class``:

    - With a published split, test stays test and normal photos of train are divided into train and val. Photos that
      were published as validation stay in val, and then none are taken from train. Where there is no published test
      or it has no normal photo, ``test_fraction`` of the normal training photos goes there (nothing could be measured
      without).
    - Without one, ``test_fraction`` of the normal photos is test, then ``val_fraction`` of the rest is val, the rest
      train. All defect photos are test.
    - ``val_abnormal_fraction`` of the defect photos of test goes to val. Train never holds a group with a defect photo.

    Scheme ``supervised`` is for models that learn from defects too; its test set lies inside that of ``one_class``:

    - Normal photos are where ``one_class`` with the same fractions and seed puts them.
    - Defect photos that ``one_class`` tests are divided per type: the first ``SUPERVISED_SHARE`` (15 %) of the groups
      in hash order go to val, the last 15 % to test, the rest to train. From two groups on one is in test, from three
      on one in val. ``val_abnormal_fraction`` has no part in this (up to 0.85 one test set lies in the other).
    - Where the published split trains on defect photos, it stays, and only what it lacks (val, or test) is taken from
      its train, per type and by the same shares.

    A table that has been split before is split again from the start.

    Args:
        table: a sample table.
        scheme: one of ``SCHEMES``.
        val_fraction: share of the normal training photos held out for calibration, 0 <= f < 1.
        test_fraction: share of the normal photos for test where the data set publishes none, 0 <= f < 1.
        val_abnormal_fraction: share of the defect photos of test that goes to val, 0 <= f < 1.
        seed: another seed, another split.
        unseen_types: only with ``supervised``: defect types that are in test alone, whole, as if nobody knew them yet.

    Raises:
        ValueError: unknown scheme or unseen type, a fraction out of range, or a published split that the scheme cannot
            keep (abnormal photos in train, a group in two splits, photos without a split).
    """
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown split scheme {scheme!r}; known are: {', '.join(SCHEMES)}.")
    fractions = {
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "val_abnormal_fraction": val_abnormal_fraction,
    }
    for name, value in fractions.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{name} is {value!r}; give a share of at least 0 and less than 1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number.")

    result = table.copy()
    if PUBLISHED_COLUMN in result:
        published = result[PUBLISHED_COLUMN]
    elif result.attrs.get("published_split", bool((result["split"] != "").any())):
        published = result["split"]
        result[PUBLISHED_COLUMN] = published
    else:
        published = pd.Series("", index=result.index, dtype="str")
    split = SCHEMES[scheme](result, published, seed=seed, **fractions)
    if unseen_types:
        split = _hide_types(table, split, scheme, unseen_types)
    result["split"] = split.astype("str")
    result.attrs = {**table.attrs, "scheme": scheme, "seed": seed, **fractions}
    if unseen_types:
        result.attrs["unseen_types"] = list(unseen_types)
    return result


def can_be_supervised(table: pd.DataFrame) -> bool:
    """Whether a segmenter can learn from the table: each defect photo has a mask, and there are three or more.

    One each is needed in train, val and test.
    """
    abnormal = table[table["label_index"] == 1]
    return abnormal["group"].nunique() >= 3 and bool((abnormal["mask_path"] != "").all())


def without_train_defects(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the defect photos of train, for models that learn from good photos only.

    A table of scheme ``one_class`` comes back as it is. Else ``attrs`` of the result hold ``derived_from``, the
    `origin` of the table that was given.
    """
    rows = (table["split"] != "train") | (table["label_index"] == 0)
    if rows.all():
        return table
    kept = table[rows].reset_index(drop=True)
    kept.attrs = {**table.attrs, "derived_from": origin(table)}
    return kept


def supervised_table(table: pd.DataFrame, unseen_types: Sequence[str] = ()) -> pd.DataFrame:
    """The table split again with scheme ``supervised`` and otherwise as it was: same normal photos in each split.

    Args:
        table: from `assign_splits`, with any scheme.
        unseen_types: defect types to keep for test alone.

    Returns:
        Its ``attrs`` also hold ``derived_from``, the `origin` of the table that was given.
    """
    names = ("val_fraction", "test_fraction", "val_abnormal_fraction", "seed")
    again = assign_splits(table, "supervised", **{name: table.attrs[name] for name in names}, unseen_types=unseen_types)
    again.attrs["derived_from"] = origin(table)
    return again


def _one_class(
    table: pd.DataFrame,
    published: pd.Series,
    *,
    val_fraction: float,
    test_fraction: float,
    val_abnormal_fraction: float,
    seed: int,
) -> pd.Series:
    """Split of each row; see `assign_splits`."""
    groups = _group_summary(table, published)
    normal = ~groups["abnormal"]
    if (published != "").any():
        _require_usable_published_split(table, published, groups)
        split = groups["published"].copy()
        if not (table["label_index"][published == "test"] == 0).any():
            taken = _draw(groups[normal & (split == "train")], test_fraction, seed, at_least_one=True)
            split.loc[taken] = "test"
            if taken:
                logger.warning("The published split has no normal test photo: %d groups of train go there.", len(taken))
        if not (split == "val").any():
            split.loc[_draw(groups[normal & (split == "train")], val_fraction, seed, at_least_one=True)] = "val"
    else:
        split = groups["abnormal"].map({True: "test", False: "train"})
        split.loc[_draw(groups[normal], test_fraction, seed, at_least_one=True)] = "test"
        split.loc[_draw(groups[normal & (split == "train")], val_fraction, seed, at_least_one=True)] = "val"
    for _, stratum in groups[groups["abnormal"] & (split == "test")].groupby("stratum", sort=True):
        split.loc[_draw(stratum, val_abnormal_fraction, seed)] = "val"
    return table["group"].map(split)


def _supervised(
    table: pd.DataFrame,
    published: pd.Series,
    *,
    val_fraction: float,
    test_fraction: float,
    val_abnormal_fraction: float,
    seed: int,
) -> pd.Series:
    """Split of each row; see `assign_splits`."""
    if val_abnormal_fraction > 1 - SUPERVISED_SHARE:
        raise ValueError(
            f"val_abnormal_fraction is {val_abnormal_fraction}; scheme 'supervised' tests the last "
            f"{SUPERVISED_SHARE:.0%} of the defect photos, so it can be at most {1 - SUPERVISED_SHARE:.2f}."
        )
    groups = _group_summary(table, published)
    trains_on_defects = groups["abnormal"] & groups["published"].str.contains("train", regex=False)
    if trains_on_defects.any():
        _require_whole_published_split(published, groups)
        split = groups["published"].copy()
        normal = groups[~groups["abnormal"]]
        if not (split[normal.index] == "test").any():
            split.loc[_draw(normal[normal["published"] == "train"], test_fraction, seed, at_least_one=True)] = "test"
        if not (split[normal.index] == "val").any():
            split.loc[_draw(normal[split[normal.index] == "train"], val_fraction, seed, at_least_one=True)] = "val"
        lacks = [name for name in ("test", "val") if not (split[groups["abnormal"]] == name).any()]
        divided = groups[groups["abnormal"] & (split == "train")]
    else:
        fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction, "val_abnormal_fraction": 0.0}
        rows = _one_class(table, published, seed=seed, **fractions)
        split = rows.groupby(table["group"]).first().reindex(groups.index)
        lacks = ["test", "val"]
        divided = groups[groups["abnormal"] & (split == "test")]
        split.loc[divided.index] = "train"
    for _, stratum in divided.groupby("stratum", sort=True):
        last = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True, last=True) if "test" in lacks else []
        first = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True) if "val" in lacks else []
        split.loc[last] = "test"
        if len(stratum) - len(last) > 1:  # train keeps at least one
            split.loc[[name for name in first if name not in last]] = "val"
    return table["group"].map(split)


def _hide_types(table: pd.DataFrame, split: pd.Series, scheme: str, unseen_types: Sequence[str]) -> pd.Series:
    if scheme != "supervised":
        raise ValueError(f"unseen_types is for scheme 'supervised'; {scheme!r} sees no defect in training anyway.")
    known = sorted(set(table["defect_type"][table["label_index"] == 1]))
    unknown = [name for name in unseen_types if name not in known]
    if unknown:
        raise ValueError(f"unseen_types: there is no defect type {unknown[0]!r}; known: {', '.join(known)}.")
    hidden = table["defect_type"].isin(unseen_types).groupby(table["group"]).transform("any")
    return split.mask(hidden, "test")


SCHEMES: dict[str, Callable[..., pd.Series]] = {"one_class": _one_class, "supervised": _supervised}
"""Split schemes by name: ``scheme(table, published, *, seed, **fractions) -> split of each row``."""


def _group_summary(table: pd.DataFrame, published: pd.Series) -> pd.DataFrame:
    """One row a group: photos, abnormal, stratum (its defect types), published (its one split, or several joined)."""
    rows = pd.DataFrame(
        {
            "group": table["group"],
            "label_index": table["label_index"],
            "defect_type": table["defect_type"].where(table["label_index"] == 1, ""),
            "published": published,
        }
    )
    by_group = rows.groupby("group", sort=True)
    return pd.DataFrame(
        {
            "photos": by_group.size(),
            "abnormal": by_group["label_index"].max() == 1,
            "stratum": by_group["defect_type"].agg(lambda types: "+".join(sorted(set(types) - {""}))),
            "published": by_group["published"].agg(lambda splits: "+".join(sorted(set(splits)))),
        }
    )


def _require_usable_published_split(table: pd.DataFrame, published: pd.Series, groups: pd.DataFrame) -> None:
    wrong = (published == "train") & (table["label_index"] == 1)
    if wrong.any():
        raise ValueError(
            f"{table['image_path'][wrong].iloc[0]}: the training split holds {int(wrong.sum())} abnormal photo(s), but "
            "scheme 'one_class' learns from normal photos only; take scheme 'supervised', move them to test, or drop "
            "the published split with table.assign(split='') and table.attrs['published_split'] = False."
        )
    _require_whole_published_split(published, groups)


def _require_whole_published_split(published: pd.Series, groups: pd.DataFrame) -> None:
    if (published == "").any():
        group = groups.index[groups["published"].str.split("+").map(lambda names: "" in names)][0]
        raise ValueError(f"{group} is in no split while others are; give every photo a split, or none.")
    spread = groups[groups["published"].str.contains("+", regex=False)]
    if len(spread):
        raise ValueError(
            f"Group {spread.index[0]!r} lies in several published splits ({spread['published'].iloc[0]}), "
            f"as do {len(spread) - 1} more; groups never part, so remove these photos from one split, choose another "
            "group=, or drop the published split with table.assign(split='') and "
            "table.attrs['published_split'] = False."
        )


def _draw(
    groups: pd.DataFrame, fraction: float, seed: int, *, at_least_one: bool = False, last: bool = False
) -> list[str]:
    """Names of the first (or last) groups in hash order whose photos come nearest to the share; never all groups."""
    share = Fraction(str(fraction))  # 0.145 of 200 is 29 exactly, which a float does not know
    if share == 0 or len(groups) < 2:
        return []
    ordered = sorted(groups.index, key=lambda name: _order(seed, name), reverse=last)
    target = share * int(groups["photos"].sum())
    best, best_gap, total = 0, target, 0
    for count, name in enumerate(ordered[:-1], start=1):
        total += int(groups.at[name, "photos"])
        gap = abs(total - target)
        if gap <= best_gap:
            best, best_gap = count, gap
    return ordered[: max(best, 1) if at_least_one else best]


def _order(seed: int, key: str) -> tuple[str, str]:
    text = f"{seed}:{unicodedata.normalize('NFC', key)}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(), key


def split_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Photos in each split (rows) that are normal, abnormal, and of each defect type (columns); integers."""
    splits = [*SPLITS, *(["(none)"] if (table["split"] == "").any() else [])]
    named = table["split"].mask(table["split"] == "", "(none)")
    abnormal = table["label_index"] == 1
    columns = {"normal": ~abnormal, "abnormal": abnormal}
    for defect_type in sorted(table["defect_type"][abnormal].unique()):
        columns[defect_type] = abnormal & (table["defect_type"] == defect_type)
    counts = {
        column: [int((chosen & (named == split)).sum()) for split in splits] for column, chosen in columns.items()
    }
    return pd.DataFrame(counts, index=pd.Index(splits, name="split"))


def fingerprint(table: pd.DataFrame, state: Callable[[str], Any] | None = None) -> str:
    """Hash (32 hexadecimal digits) of what a run depends on: rows, splits, and the content of every photo and mask.

    It covers relative path, label, defect type, split and group of every photo, in the order of the relative paths; so
    it changes when a file does, and not with the order of the rows. ``state`` says what is taken of a file.
    """
    root, state = Path(table.attrs["root"]), state or content_digest
    masks = _relative_paths(table["mask_path"], root)
    lines = sorted(
        json.dumps(
            [path, state(row.image_path), mask, state(row.mask_path)]
            + [int(row.label_index), row.defect_type, row.split, row.group]
        )
        for path, mask, row in zip(relative_path(table), masks, table.itertuples(index=False), strict=True)
    )
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def origin(table: pd.DataFrame) -> list[str]:
    """Fingerprints by which a run knows the table it was made from, or the one which that was derived from.

    By content, and by size and modification time as runs made before RECIPE numbers noted it.
    """
    return table.attrs.get("derived_from") or [fingerprint(table), fingerprint(table, _file_state)]


def content_digest(path: str | Path) -> str:
    """Hash of a file's content, "" for none; it is read again only when its size or modification time has changed."""
    state = _file_state(path)
    known = _DIGESTS.get(str(path))
    if state and (known is None or known[:2] != state):
        try:
            with Path(path).open("rb") as file:
                known = [*state, file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()]
        except OSError:
            return ""
        _DIGESTS[str(path)] = known
    return known[2] if state else ""


_DIGESTS: dict[str, list[Any]] = {}
"""Path -> size, modification time in ns, hash of the content; tables on disk bring those of their files along."""


def _file_state(path: str | Path) -> list[int]:
    if not path:  # Path("") would be the current directory
        return []
    try:
        state = Path(path).stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]


# ---------------------------------------------------------------------------------------------------------------- files


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV or Parquet (by suffix), paths relative to its root, and ``<path>.json`` beside it.

    The JSON file holds ``table.attrs``, and the hashes of photos and masks, so that nobody need read them again to know
    them. Both are written to a temporary file first and then moved into place.

    Raises:
        ValueError: the suffix is neither .csv nor .parquet.
    """
    path = Path(path)
    suffix = _table_suffix(path)
    root = Path(table.attrs["root"])
    stored = table.copy()
    stored.attrs = {}
    stored["image_path"] = _relative_paths(table["image_path"], root)
    stored["mask_path"] = _relative_paths(table["mask_path"], root)
    pairs = [pair for column in ("image_path", "mask_path") for pair in zip(stored[column], table[column], strict=True)]
    digests = {name: " ".join(map(str, _DIGESTS[path])) for name, path in pairs if content_digest(path)}
    # a table beside its photos can be moved with them
    kept = {name: value for name, value in table.attrs.items() if name != "root" or absolute_path(path).parent != root}
    attrs = json.dumps(kept | {"digests": digests}, indent=2, ensure_ascii=False)
    # the table comes last: where there is a table there are its attributes
    write_whole(path.with_name(path.name + ".json"), lambda file: file.write_text(attrs + "\n", encoding="utf-8"))
    if suffix == ".csv":
        write_whole(path, lambda file: cells(stored).to_csv(file, index=False, encoding="utf-8", lineterminator="\n"))
    else:
        write_whole(path, lambda file: stored.to_parquet(file, index=False))
    return path


def read_table(path: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read what `write_table` wrote.

    Args:
        path: the CSV or Parquet file; ``<path>.json`` beside it gives the attributes.
        root: folder the paths are relative to; default: the one recorded, else the folder of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is neither .csv nor .parquet, or a column is missing.
    """
    path = Path(path)
    frame = read_frame(path)
    if path.suffix.lower() == ".csv":
        frame = from_cells(frame)
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise ValueError(f"{path} lacks the column(s) {', '.join(missing)}; helpers.read_dataset reads other tables.")
    attrs_path = path.with_name(path.name + ".json")
    attrs = json.loads(attrs_path.read_text(encoding="utf-8")) if attrs_path.is_file() else {}
    if not isinstance(attrs, dict):
        raise ValueError(f"{attrs_path} is damaged: expected names with their values.")
    root = Path(root if root is not None else attrs.get("root", path.parent))
    for name, known in attrs.pop("digests", {}).items():
        size, time, digest = known.split()
        _DIGESTS[_absolute(name, absolute_path(root))] = [int(size), int(time), digest]
    published = bool(attrs.get("published_split", (frame["split"] != "").any()))
    table = make_table(
        frame.astype({"label_index": "int64"}).to_dict("records"),
        root=root,
        layout=attrs.get("layout", "table"),
        name=attrs.get("name", path.stem),
        published_split=published,
        pixel_size=attrs.get("pixel_size"),
    )
    table.attrs = {**attrs, **table.attrs}
    remember_bit_depth(root, attrs.get("bit_depth"))
    return table


def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a CSV (text stays text, empty stays "", other columns become numbers where all are) or Parquet file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is neither .csv nor .parquet.
    """
    path = Path(path)
    suffix = _table_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}; check the path.")
    if suffix == ".parquet":
        return pd.read_parquet(path)
    # a defect type may be called "NA" or "007"
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = next((sign for sign in ",;\t" if sign in header), ",")
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", sep=separator)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}); save it as CSV UTF-8.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no CSV table ({error}); save it again.") from error
    text = {*COLUMNS, PUBLISHED_COLUMN, "label", "defect_types"} - {"label_index"}
    for column in frame.columns.difference(text):
        if frame[column].str.match(r"0\d").any():  # 007 is a name
            continue
        try:
            frame[column] = pd.to_numeric(frame[column])
        except (ValueError, TypeError):
            continue
    return frame


def _table_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path.name} is neither .csv nor .parquet; choose one of the two.")
    return suffix


def absolute_path(path: str | Path) -> Path:
    """Absolute path without ``..``; unlike ``Path.resolve`` a link inside the dataset keeps its name."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


def _absolute(path: str | Path, root: Path) -> str:
    return os.path.abspath(root / str(path))  # noqa: PTH100  (as absolute_path, for many)


def _relative_paths(paths: pd.Series, root: Path) -> pd.Series:
    return pd.Series([_relative(path, root) for path in paths], index=paths.index, dtype="str")


def _relative(path: str, root: Path) -> str:
    if not path:
        return ""
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        pass
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # another drive
        return Path(path).as_posix()


def _keys(relative: pd.Series) -> pd.Series:
    # macOS may hand out decomposed accents: the same file has the same key everywhere
    return relative.map(lambda path: unicodedata.normalize("NFC", path)).astype("str")


def _original(key: str) -> str:
    """Name of the photo that Roboflow made a copy of (``NAME.rf.HASH.jpg``), in whichever split; else the key."""
    copy = re.fullmatch(r"(.+)\.rf\.[0-9A-Za-z]+\.\w+", PurePosixPath(key).name)
    return copy.group(1) if copy else key


def _filled(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame:
        return pd.Series("", index=frame.index, dtype="str")
    return frame[column].astype("object").where(frame[column].notna(), "").map(str).astype("str")
