"""The sample table: one row an image, the same columns for every dataset, and splits without leaks.

Columns, in this order (a reader may add more after them): ``image_path`` and ``mask_path`` (absolute, "" for no mask),
``label_index`` (0 normal, 1 abnormal), ``defect_type`` ("good" for normal photos), ``split`` (train, val, test, or ""),
``group`` (photos of one group never part; by default every photo is alone, with all copies that Roboflow made of it).

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
from contextlib import suppress
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from helpers.data import digests
from helpers.data.digests import content_digest, file_state
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
    """Build a sample table from one dictionary an image, sorted by relative path.

    ``image_path`` is needed; ``label_index`` defaults to 0, ``mask_path`` and ``split`` to "", ``defect_type`` to
    "good" for normal and "defect" for abnormal photos, ``group`` to the photo alone. Paths are relative to ``root``.

    A row without a path, with a label other than 0 or 1 or one that contradicts its type, with an unknown split or a
    path that occurs twice is refused.
    """
    root = absolute_path(root)
    frame = pd.DataFrame(list(rows))
    texts = {column: _filled(frame, column) for column in COLUMNS if column != "label_index"}
    images, types, split = texts["image_path"], texts["defect_type"], texts["split"]
    _refuse(images == "", images, "a row has no image_path; add it")
    labels = frame["label_index"] if "label_index" in frame else pd.Series(0, index=frame.index)
    labels = labels.astype("object").where(labels.notna(), 0)
    _refuse(~labels.isin([0, 1]), images, "has label_index {}; use 0 (normal) or 1 (abnormal)", labels.map(repr))
    normal = labels == 0
    types = types.mask((types == "") & normal, NORMAL).mask((types == "") & ~normal, "defect")
    problem = "has label_index {} but defect_type {}; normal photos are 'good', abnormal ones named after their defect"
    _refuse((types == NORMAL) != normal, images, problem, labels, types.map(repr))
    _refuse(~split.isin(["", *SPLITS]), images, "is in split {}; known are train, val, test and ''", split.map(repr))

    frame["image_path"] = [os.path.abspath(root / path) for path in images]  # noqa: PTH100  (as absolute_path, for many)
    frame["mask_path"] = [path and os.path.abspath(root / path) for path in texts["mask_path"]]  # noqa: PTH100
    frame["label_index"] = labels.astype("int64")
    frame["defect_type"], frame["split"] = types, split
    # macOS may hand out decomposed accents: the same file has the same key everywhere
    keys = _relative_paths(frame["image_path"], root).map(lambda path: unicodedata.normalize("NFC", path)).astype("str")
    frame["group"] = texts["group"].mask(texts["group"] == "", keys.map(_original))
    frame = frame[[*COLUMNS, *(column for column in frame if column not in COLUMNS)]]
    frame = frame.astype({column: "str" for column in texts})
    _refuse(frame["image_path"].duplicated(), frame["image_path"], "occurs twice; every photo has one row")
    frame = frame.loc[keys.sort_values(kind="stable").index].reset_index(drop=True)
    frame.attrs = {"root": str(root), "layout": layout, "name": name, "published_split": bool(published_split)}
    frame.attrs["pixel_size"] = None if pixel_size is None else float(pixel_size)
    return frame


def _filled(frame: pd.DataFrame, column: str) -> pd.Series:
    if column not in frame:
        return pd.Series("", index=frame.index, dtype="str")
    return frame[column].astype("object").where(frame[column].notna(), "").map(str).astype("str")


def _refuse(wrong: pd.Series, names: pd.Series, problem: str, *values: pd.Series) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(f"{names.iloc[row]} {problem.format(*(value.iloc[row] for value in values))}.".lstrip())


def _original(key: str) -> str:
    """Name of the photo that Roboflow made a copy of (``NAME.rf.HASH.jpg``), in whichever split; else the key."""
    copy = re.fullmatch(r"(.+)\.rf\.[0-9A-Za-z]+\.\w+", PurePosixPath(key).name)
    return copy.group(1) if copy else key


# --------------------------------------------------------------------------------------------------------------- paths


def absolute_path(path: str | Path) -> Path:
    """Absolute path without ``..``; unlike ``Path.resolve`` a link inside the dataset keeps its name."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


def relative_path(table: pd.DataFrame) -> pd.Series:
    """Posix path of each image relative to ``table.attrs["root"]`` (starts with ``..`` where it lies outside)."""
    return _relative_paths(table["image_path"], Path(table.attrs["root"]))


def _relative_paths(paths: pd.Series, root: Path) -> pd.Series:
    return pd.Series([_relative(path, root) for path in paths], index=paths.index, dtype="str")


def _relative(path: str, root: Path) -> str:
    if not path:
        return ""
    file = Path(path)
    try:
        return (file.relative_to(root) if file.is_relative_to(root) else Path(os.path.relpath(path, root))).as_posix()
    except ValueError:  # another drive
        return file.as_posix()


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
    first groups in that order whose photo count comes nearest to ``fraction * photos`` (a tie takes more). Shares are
    drawn per defect type. A group is never parted; one that holds any defect photo counts as abnormal (its type is the
    set of its types). Whoever gives keeps at least one group, and a share of normal photos above zero gets at least
    one group where there are two or more.

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
    - ``unseen_types`` are in test alone, whole, as if nobody knew them yet.

    A table that has been split before is split again from the start.

    A published split that the scheme cannot keep is refused (abnormal photos in train, a group in two splits, photos
    without a split).
    """
    if scheme not in SCHEMES:
        raise ValueError(f"Unknown split scheme {scheme!r}; known are: {', '.join(SCHEMES)}.")
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    fractions["val_abnormal_fraction"] = val_abnormal_fraction
    _check_numbers(seed, fractions)
    result = table.copy()
    if PUBLISHED_COLUMN not in result and result.attrs.get("published_split", (result["split"] != "").any()):
        result[PUBLISHED_COLUMN] = result["split"]
    published = result[PUBLISHED_COLUMN] if PUBLISHED_COLUMN in result else pd.Series("", result.index, "str")
    split = SCHEMES[scheme](result, published, seed, *fractions.values())
    if unseen_types:
        split = _hide_types(table, split, scheme, unseen_types)
    result["split"] = split.astype("str")
    hidden = {"unseen_types": list(unseen_types)} if unseen_types else {}
    result.attrs = {**table.attrs, "scheme": scheme, "seed": seed, **fractions, **hidden}
    return result


def _check_numbers(seed: int, fractions: dict[str, float]) -> None:
    for name, value in fractions.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{name} is {value!r}; give a share of at least 0 and less than 1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number.")


def can_be_supervised(table: pd.DataFrame) -> bool:
    """Whether a segmenter can learn from the table: each defect photo has a mask, and there is one for each split."""
    abnormal = table[table["label_index"] == 1]
    return abnormal["group"].nunique() >= 3 and bool((abnormal["mask_path"] != "").all())


def without_train_defects(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the defect photos of train, for models that learn from good photos only.

    Where there were any, ``attrs`` of the result hold ``derived_from``, the `origin` of the table that was given.
    """
    rows = (table["split"] != "train") | (table["label_index"] == 0)
    if rows.all():
        return table
    kept = table[rows].reset_index(drop=True)
    kept.attrs = {**table.attrs, "derived_from": origin(table)}
    return kept


def supervised_table(table: pd.DataFrame, unseen_types: Sequence[str] = ()) -> pd.DataFrame:
    """A table from `assign_splits` split again with scheme ``supervised``: same normal photos in each split.

    Its ``attrs`` also hold ``derived_from``, the `origin` of the table that was given.
    """
    names = ("val_fraction", "test_fraction", "val_abnormal_fraction", "seed")
    again = assign_splits(table, "supervised", **{name: table.attrs[name] for name in names}, unseen_types=unseen_types)
    again.attrs["derived_from"] = origin(table)
    return again


def _one_class(
    table: pd.DataFrame, published: pd.Series, seed: int, val: float, test: float, val_abnormal: float
) -> pd.Series:
    groups = _group_summary(table, published)
    normal = ~groups["abnormal"]
    if (published != "").any():
        wrong = (published == "train") & (table["label_index"] == 1)
        problem = (
            f"is in the training split, which holds {int(wrong.sum())} abnormal photo(s), but 'one_class' learns from "
            "normal photos only; take scheme 'supervised', move them to test, or drop the published split with "
            "table.assign(split='') and table.attrs['published_split'] = False"
        )
        _refuse(wrong, table["image_path"], problem)
        _require_whole_published_split(published, groups)
        split = groups["published"].copy()
        if not (table["label_index"][published == "test"] == 0).any():
            taken = _draw(groups[normal & (split == "train")], test, seed, at_least_one=True)
            split.loc[taken] = "test"
            if taken:
                logger.warning("The published split has no normal test photo: %d groups of train go there.", len(taken))
        if not (split == "val").any():
            split.loc[_draw(groups[normal & (split == "train")], val, seed, at_least_one=True)] = "val"
    else:
        split = groups["abnormal"].map({True: "test", False: "train"})
        split.loc[_draw(groups[normal], test, seed, at_least_one=True)] = "test"
        split.loc[_draw(groups[normal & (split == "train")], val, seed, at_least_one=True)] = "val"
    for _, stratum in groups[groups["abnormal"] & (split == "test")].groupby("stratum", sort=True):
        split.loc[_draw(stratum, val_abnormal, seed)] = "val"
    return table["group"].map(split)


def _supervised(
    table: pd.DataFrame, published: pd.Series, seed: int, val: float, test: float, val_abnormal: float
) -> pd.Series:
    if val_abnormal > 1 - SUPERVISED_SHARE:
        raise ValueError(
            f"val_abnormal_fraction is {val_abnormal}; scheme 'supervised' tests the last "
            f"{SUPERVISED_SHARE:.0%} of the defect photos, so it can be at most {1 - SUPERVISED_SHARE:.2f}."
        )
    groups = _group_summary(table, published)
    abnormal, lacks = groups["abnormal"], ["test", "val"]
    if (abnormal & groups["published"].str.contains("train", regex=False)).any():
        _require_whole_published_split(published, groups)
        split = groups["published"].copy()
        for name, fraction in (("test", test), ("val", val)):
            if not (split[~abnormal] == name).any():
                split.loc[_draw(groups[~abnormal & (split == "train")], fraction, seed, at_least_one=True)] = name
        lacks = [name for name in lacks if not (split[abnormal] == name).any()]
        divided = groups[abnormal & (split == "train")]
    else:
        rows = _one_class(table, published, seed, val, test, val_abnormal=0.0)
        split = rows.groupby(table["group"]).first().reindex(groups.index)
        divided = groups[abnormal & (split == "test")]
        split.loc[divided.index] = "train"
    for _, stratum in divided.groupby("stratum", sort=True):
        last = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True, last=True) if "test" in lacks else []
        first = _draw(stratum, SUPERVISED_SHARE, seed, at_least_one=True) if "val" in lacks else []
        split.loc[last] = "test"
        if len(stratum) - len(last) > 1:  # train keeps at least one
            split.loc[[name for name in first if name not in last]] = "val"
    return table["group"].map(split)


SCHEMES: dict[str, Callable[..., pd.Series]] = {"one_class": _one_class, "supervised": _supervised}
"""Split schemes by name: the split of each row, from the published one, a seed and the three fractions."""


def _hide_types(table: pd.DataFrame, split: pd.Series, scheme: str, unseen_types: Sequence[str]) -> pd.Series:
    if scheme != "supervised":
        raise ValueError(f"unseen_types is for scheme 'supervised'; {scheme!r} sees no defect in training anyway.")
    known = sorted(set(table["defect_type"][table["label_index"] == 1]))
    unknown = [name for name in unseen_types if name not in known]
    if unknown:
        raise ValueError(f"unseen_types: there is no defect type {unknown[0]!r}; known: {', '.join(known)}.")
    hidden = table["defect_type"].isin(unseen_types).groupby(table["group"]).transform("any")
    return split.mask(hidden, "test")


def _group_summary(table: pd.DataFrame, published: pd.Series) -> pd.DataFrame:
    """One row a group: photos, abnormal, stratum (its defect types), published (its one split, or several joined)."""
    rows = table[["group", "label_index"]].assign(published=published)
    by_group = rows.assign(type=table["defect_type"].where(table["label_index"] == 1, "")).groupby("group", sort=True)
    return pd.DataFrame(
        {
            "photos": by_group.size(),
            "abnormal": by_group["label_index"].max() == 1,
            "stratum": by_group["type"].agg(lambda types: "+".join(sorted(set(types) - {""}))),
            "published": by_group["published"].agg(lambda splits: "+".join(sorted(set(splits)))),
        }
    )


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
    named = table["split"].mask(table["split"] == "", "(none)")
    splits = [*SPLITS, *(["(none)"] if (table["split"] == "").any() else [])]
    abnormal = table["label_index"] == 1
    types = sorted(table["defect_type"][abnormal].unique())
    columns = {"normal": ~abnormal, "abnormal": abnormal}
    columns |= {each: abnormal & (table["defect_type"] == each) for each in types}
    counts = pd.DataFrame(columns).groupby(named).sum().reindex(splits, fill_value=0).astype("int64")
    return counts.rename_axis("split")


# --------------------------------------------------------------------------------------------------------- fingerprints


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
    return table.attrs.get("derived_from") or [fingerprint(table), fingerprint(table, file_state)]


# ---------------------------------------------------------------------------------------------------------------- files


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write the table as CSV or Parquet (by suffix), paths relative to its root, and ``<path>.json`` beside it.

    The JSON file holds ``table.attrs``, and the hashes of photos and masks, so that nobody need read them again. A
    table in the root of its photos can be moved with them.
    """
    path = Path(path)
    suffix = _table_suffix(path)
    root = Path(table.attrs["root"])
    paths = ["image_path", "mask_path"]
    stored = table.assign(**{column: _relative_paths(table[column], root) for column in paths})
    stored.attrs = {}
    pairs = [pair for column in paths for pair in zip(stored[column], table[column], strict=True)]
    known = {name: " ".join(map(str, digests.DIGESTS[path])) for name, path in pairs if content_digest(path)}
    kept = {name: value for name, value in table.attrs.items() if name != "root" or absolute_path(path).parent != root}
    attrs = json.dumps(kept | {"digests": known}, indent=2, ensure_ascii=False)
    # the table comes last: where there is a table there are its attributes
    write_whole(path.with_name(path.name + ".json"), lambda file: file.write_text(attrs + "\n", encoding="utf-8"))
    if suffix == ".csv":
        write_whole(path, lambda file: cells(stored).to_csv(file, index=False, encoding="utf-8", lineterminator="\n"))
    else:
        write_whole(path, lambda file: stored.to_parquet(file, index=False))
    return path


def read_table(path: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read what `write_table` wrote; paths are relative to ``root``, by default the one recorded, else the folder."""
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
    suffix = _table_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}; check the path.")
    if suffix == ".parquet":
        return pd.read_parquet(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        separator = next((sign for sign in ",;\t" if sign in header), ",")
        # a defect type may be called "NA" or "007"
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, encoding="utf-8-sig", sep=separator)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}); save it as CSV UTF-8.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no CSV table ({error}); save it again.") from error
    text = {*COLUMNS, PUBLISHED_COLUMN, "label", "defect_types"} - {"label_index"}
    for column in frame.columns.difference(text):
        if not frame[column].str.match(r"0\d").any():  # 007 is a name
            with suppress(ValueError, TypeError):
                frame[column] = pd.to_numeric(frame[column])
    return frame


def _table_suffix(path: Path) -> str:
    if (suffix := path.suffix.lower()) in (".csv", ".parquet"):
        return suffix
    raise ValueError(f"{path.name} is neither .csv nor .parquet; choose one of the two.")
