"""Checks of a dataset, each file read and decoded once, in threads; see `helpers.data.findings` for what they find."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import pandas as pd

from helpers.data.duplicates import near_duplicate_pairs, thumbnail
from helpers.data.findings import Findings
from helpers.data.images import ImageReadError, MissingImageError, decode_image, remember_bit_depth
from helpers.data.masks import is_mask_like
from helpers.data.samples import COLUMNS, SPLITS, absolute_path
from helpers.progress import in_threads, progress

MIN_TRAIN = MIN_VAL = 20  # normal photos; with fewer a threshold cannot be promised
MAX_PATH_LENGTH = 240
_UNPORTABLE = re.compile(r'[<>:"|?*\\]|[ .]$')

Facts = dict[str, SimpleNamespace]
"""What was read of each file; of one that cannot be read the ``error``."""


class DatasetError(ValueError):
    """A dataset with findings of severity ``error``."""


def raise_on_errors(findings: pd.DataFrame, *, limit: int = 20) -> None:
    """Raise DatasetError, which lists the first with their fixes, when there are errors among the findings."""
    errors = findings[findings["severity"] == "error"]
    if len(errors):
        listed = Findings("", errors.to_dict("records")).summary(limit)
        raise DatasetError(f"The dataset has {len(errors)} error(s); fix them before training:\n{listed}")


def check_dataset(table: pd.DataFrame) -> pd.DataFrame:
    """Check every photo and mask of a sample table, and the table as a whole.

    One row a finding, errors first, then by path: ``code``, ``severity`` (error, warning, info), ``path`` (relative to
    the root where it lies inside, "" for the dataset as a whole), ``problem`` and ``fix``.
    """
    missing = [column for column in COLUMNS if column not in table]
    if missing or not table.attrs.get("root"):
        lacking = ", ".join(missing) or "the root in its attrs"
        raise ValueError(f"The table lacks {lacking}; read it with helpers.read_dataset and keep its attrs.")
    # what its reader found comes first, for the table cannot show it
    found = Findings(absolute_path(table.attrs["root"]), table.attrs.get("findings", []))
    if table.empty:
        found.note("no-photos")
        return found.table()
    _check_table(table, found)
    _check_counts(table, found)
    _check_paths([*table["image_path"], *table["mask_path"]], table.attrs.get("mask_cache"), found)
    remember_bit_depth(found.root, table.attrs.get("bit_depth"))
    photos, masks = _read_all(table)
    _check_photos(photos, table.attrs.get("bit_depth", 16), found)
    _check_masks(table, photos, masks, found)
    read = table[[photos[path].error is None for path in table["image_path"]]].reset_index(drop=True)
    _check_masks_among_photos(read, photos, found)
    _check_copies(read, photos, found)
    _check_near_duplicates(read, photos, found)
    return found.table()


# --------------------------------------------------------------------------------------------------------------- files


def _read_all(table: pd.DataFrame) -> tuple[Facts, Facts]:
    """Facts of every photo and of every mask."""
    photos, masks = (list(filter(None, dict.fromkeys(table[key]))) for key in ("image_path", "mask_path"))

    def facts(job: tuple[Callable[[str], SimpleNamespace], str]) -> SimpleNamespace:
        try:
            return job[0](job[1])
        except ImageReadError as error:
            return SimpleNamespace(error=error)

    jobs = [(_photo_facts, path) for path in photos] + [(_mask_facts, path) for path in masks]
    result = list(progress(in_threads(facts, jobs), "Checking photos", len(jobs)))
    return dict(zip(photos, result, strict=False)), dict(zip(masks, result[len(photos) :], strict=True))


def _photo_facts(path: str) -> SimpleNamespace:
    decoded = decode_image(path)
    pixels = decoded.pixels()
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return SimpleNamespace(
        error=None,
        pixels=digest.hexdigest(),
        thumbnail=thumbnail(decoded, pixels),
        mask_like=is_mask_like(decoded.mask_values(), lossy=decoded.lossy),
        blank=not pixels.any(),
        grey=pixels.ndim == 2,
        **{name: getattr(decoded, name) for name in ("mode", "bits", "alpha", "orientation", "pages", "shape")},
    )


def _mask_facts(path: str) -> SimpleNamespace:
    decoded = decode_image(path)
    values, share = decoded.mask_values(), float(decoded.mask().mean())
    values = np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
    told = {name: getattr(decoded, name) for name in ("lossy", "orientation", "shape")}
    return SimpleNamespace(error=None, values=values, share=share, **told)


# ------------------------------------------------------------------------------------------------------------ the table


def _check_table(table: pd.DataFrame, found: Findings) -> None:
    if table.attrs.get("scheme") == "one_class":
        for path in table["image_path"][(table["label_index"] == 1) & (table["split"] == "train")]:
            found.note("abnormal-in-train", path)
    for group, rows in table[table["split"] != ""].groupby("group"):
        first = rows.groupby("split")["image_path"].first()
        if len(first) > 1:
            examples = ", ".join(f"{split}: {found.shown(path)}" for split, path in first.items())
            found.note("group-leak", group=group, count=len(first), examples=examples)
    for mask, photos in table[table["mask_path"] != ""].groupby("mask_path")["image_path"]:
        if photos.nunique() > 1:
            found.note("shared-mask", mask, count=photos.nunique(), names=found.names(photos.unique()))


def _check_counts(table: pd.DataFrame, found: Findings) -> None:
    normals, abnormals = (Counter(table["split"][table["label_index"] == label]) for label in (0, 1))
    scheme = table.attrs.get("scheme")
    if not normals:
        found.note("no-normals:supervised" if scheme == "supervised" else "no-normals")
        return
    if not abnormals:
        found.note("no-defects")
    elif bool(normals["test"]) != bool(abnormals["test"]):
        found.note("one-class-test", lacking="defect" if normals["test"] else "normal")
    assigned = (table["split"] != "").any()
    count, where = (normals["train"], "train") if assigned else (normals.total(), "all")
    # where val has not been taken from train yet, train has to be enough for both
    pending = not normals["val"] and scheme is None
    needed = MIN_TRAIN + MIN_VAL if pending else MIN_TRAIN
    together = f" for train ({MIN_TRAIN}) and val ({MIN_VAL}) together" if pending else ""
    if count < needed:
        kind = "too-few-train:two" if count < 2 else "too-few-train"
        found.note(kind, count=count, where=where, needed=needed, together=together)
    if not pending and normals["val"] < MIN_VAL:
        found.note("too-few-val", count=normals["val"], needed=MIN_VAL)


def _check_paths(paths: list[str], mask_cache: str | None, found: Findings) -> None:
    """Names that break tables, or that Windows does not take, and files outside the dataset."""
    alike: dict[str, list[str]] = defaultdict(list)
    for path in filter(None, dict.fromkeys(paths)):
        file, relative = Path(path), found.relative(path)
        alike[unicodedata.normalize("NFC", relative).casefold()].append(path)
        # outside the root only the file's own name is the dataset's business
        parts = [file.name] if Path(relative).is_absolute() else relative.split("/")
        windows = any(_UNPORTABLE.search(part) or PureWindowsPath(part).is_reserved() for part in parts)
        if any(unicodedata.category(character) == "Cc" for character in relative):
            found.note("unusable-name", path)
        elif windows or len(relative) > MAX_PATH_LENGTH:
            found.note("unportable-name", path)
        # masks drawn from annotations lie elsewhere, but the annotations in the dataset
        if not file.is_relative_to(found.root) and not (mask_cache and file.is_relative_to(mask_cache)):
            found.note("outside-root", path)
    for first, *others in alike.values():
        if others:
            found.note("name-collision", first, names=found.names(others))


# ----------------------------------------------------------------------------------------------------- photos and masks


def _check_photos(photos: Facts, bits: int, found: Findings) -> None:
    shapes: Counter[tuple[int, int]] = Counter()
    kinds: Counter[str] = Counter()
    for path, photo in photos.items():
        if photo.error is not None:
            found.note_unread(path, photo.error)
            continue
        shapes[photo.shape] += 1
        kinds["grey" if photo.grey else "colour"] += 1
        holds = {"16-bit": photo.bits == 16, "palette": photo.mode in ("P", "PA"), "cmyk": photo.mode == "CMYK"}
        holds |= {"alpha": photo.alpha, "exif-rotation": photo.orientation != 1, "several-pages": photo.pages > 1}
        for kind in (kind for kind, held in holds.items() if held):
            found.note(kind, path, used=bits, highest=(1 << bits) - 1, shift=bits - 8, **vars(photo))
    if len(shapes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (h, w), count in shapes.most_common(5))
        found.note("mixed-sizes", count=len(shapes), listed=listed + (", ..." if len(shapes) > 5 else ""))
    if len(kinds) > 1:
        found.note("mixed-modes", listed=", ".join(f"{kind} ({count})" for kind, count in kinds.most_common()))


def _check_masks(table: pd.DataFrame, photos: Facts, masks: Facts, found: Findings) -> None:
    for path, mask in masks.items():
        if isinstance(mask.error, MissingImageError):
            found.note("missing-mask", path)
        elif mask.error is not None:
            found.note_unread(path, mask.error, before="the mask ")
        else:
            facts = {"count": len(mask.values), "highest": mask.values[-1], "percent": 100 * mask.share}
            if mask.lossy:
                found.note("lossy-mask", path, **facts)
            elif not (set(mask.values) <= {0, 1} or set(mask.values) <= {0, 255}):
                found.note("non-binary-mask", path, **facts)
            if mask.orientation != 1:
                found.note("exif-rotation", path, orientation=mask.orientation)
            if mask.share > 0.5:  # an inverted mask is rarely all white: it leaves the defect out
                found.note("full-mask", path, **facts)
    some_masks = ((table["mask_path"] != "") & (table["label_index"] == 1)).any()
    for row in table.itertuples():
        photo, mask, name = photos[row.image_path], masks.get(row.mask_path), found.shown(row.image_path)
        if mask is None and row.label_index == 1 and some_masks:
            found.note("missing-mask:none", row.image_path)
        if mask is None or mask.error is not None:
            continue
        if photo.error is None and mask.shape != photo.shape:
            sizes = {"mask": "{1}x{0}".format(*mask.shape), "photo": "{1}x{0}".format(*photo.shape)}
            found.note("mask-size", row.mask_path, name=name, **sizes)
        if row.label_index == 1 and not mask.share:
            found.note("empty-mask", row.mask_path, name=name)
        if row.label_index == 0 and mask.share:
            found.note("mask-on-good", row.mask_path, name=name, percent=100 * mask.share)


# ----------------------------------------------------------------------------------------- photos among one another


def _check_masks_among_photos(read: pd.DataFrame, photos: Facts, found: Findings) -> None:
    good = [photos[path].mask_like for path in read["image_path"][read["label_index"] == 0]]
    if 2 * sum(good) >= len(good):  # good photos look so
        return
    for _, paths in read["image_path"].groupby([str(Path(path).parent) for path in read["image_path"]]):
        # one black photo is a failed one, a folder of them holds empty masks
        whole = len(paths) > 1 and all(photos[path].mask_like for path in paths)
        for path in paths:
            if photos[path].mask_like and (whole or not photos[path].blank):
                found.note("mask-as-photo", path)


def _check_copies(read: pd.DataFrame, photos: Facts, found: Findings) -> None:
    """The same pixels: an error across splits or labels, else a warning."""
    for _, copies in read.groupby([photos[path].pixels for path in read["image_path"]], sort=False):
        if len(copies) < 2:
            continue
        paths, labels = copies["image_path"], copies["label_index"].map({0: "normal", 1: "abnormal"})
        splits = copies["split"].mask(copies["split"] == "", "no split")
        first, *others = paths
        if labels.nunique() > 1:
            listed = found.names(others, labels[1:])
            found.note("contradicting-labels", first, label=labels.iloc[0], listed=listed)
        if copies["split"][copies["split"] != ""].nunique() > 1:
            found.note("split-leak", first, split=splits.iloc[0], listed=found.names(others, splits[1:]))
        elif labels.nunique() == 1:
            found.note("duplicate", first, listed=found.names(others))


def _check_near_duplicates(read: pd.DataFrame, photos: Facts, found: Findings) -> None:
    splits = read["split"].map({split: number for number, split in enumerate(SPLITS)}).fillna(-1).to_numpy(int)
    if len(set(splits[splits >= 0])) < 2:
        return
    facts = [photos[path] for path in read["image_path"]]
    identical = pd.factorize(np.array([photo.pixels for photo in facts]))[0]
    thumbnails = np.stack([photo.thumbnail for photo in facts])
    pairs = near_duplicate_pairs(thumbnails, splits, (read["label_index"] == 0).to_numpy(), identical)
    for second, alike in pairs.groupby("second"):
        pair, later = alike.iloc[0], read.loc[second]
        earlier = read.loc[int(pair["first"])]
        said = {"split": later["split"], "name": found.shown(earlier["image_path"]), "other": earlier["split"]}
        said |= {"more": f" (and like {len(alike) - 1} more)" if len(alike) > 1 else ""}
        found.note("near-duplicate", later["image_path"], **said, **pair[["distance", "typical"]])
