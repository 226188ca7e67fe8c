"""Checks of a dataset, each file read and decoded once, in threads; see `helpers.data.findings` for what they find."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd

from helpers.data.digests import content_digest
from helpers.data.duplicates import near_duplicate_pairs, thumbnail
from helpers.data.findings import Findings
from helpers.data.images import ImageReadError, MissingImageError, decode_image, remember_bit_depth
from helpers.data.masks import are_marked, is_mask_like
from helpers.data.samples import COLUMNS, SPLITS
from helpers.progress import in_threads, progress

MAX_PATH_LENGTH = 240
_WINDOWS_CHARACTERS = frozenset('<>:"|?*\\')
_WINDOWS_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
_GREY_MODES = ("1", "L", "LA", "La", "I")


class DatasetError(ValueError):
    """A dataset with findings of severity ``error``; ``findings`` is the table of them."""

    def __init__(self, message: str, findings: pd.DataFrame) -> None:
        super().__init__(message)
        self.findings = findings


def raise_on_errors(findings: pd.DataFrame, *, limit: int = 20) -> None:
    """Raise DatasetError, which lists the first with their fixes, when there are errors among the findings."""
    errors = findings[findings["severity"] == "error"]
    if errors.empty:
        return
    shown = errors.head(limit).itertuples(index=False)
    lines = [f"- {f'{row.path}: ' if row.path else ''}{row.problem}; {row.fix}." for row in shown]
    lines += [f"- and {len(errors) - limit} more"] if len(errors) > limit else []
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    raise DatasetError(f"The dataset has {count}; fix it before training:\n" + "\n".join(lines), errors)


def check_dataset(
    table: pd.DataFrame,
    *,
    min_train: int = 20,
    min_val: int = 20,
    near_duplicates: bool = True,
    workers: int | None = None,
) -> pd.DataFrame:
    """Check every photo and mask of a sample table, and the table as a whole.

    Args:
        min_train: fewer normal photos in train than this is a warning, fewer than 2 an error.
        min_val: fewer normal photos in val than this is a warning.
        near_duplicates: whether to look for photos that look the same across splits.
        workers: threads that decode; default: one a core.

    Returns:
        One row a finding, errors first, then by path: ``code``, ``severity`` (error, warning, info), ``path`` (relative
        to the root where it lies inside, "" for the dataset as a whole), ``problem`` and ``fix``.
    """
    missing = [column for column in COLUMNS if column not in table]
    if missing or not table.attrs.get("root"):
        lacking = ", ".join(missing) or "the root in its attrs"
        raise ValueError(f"The table lacks {lacking}; read it with helpers.read_dataset and keep its attrs.")
    # what its reader found comes first, for the table cannot show it
    findings = Findings(table.attrs["root"], table.attrs.get("findings", []))
    if table.empty:
        findings.add("no-photos")
        return findings.table()
    _check_table(table, findings)
    _check_counts(table, min_train, min_val, findings)
    paths = [path for path in dict.fromkeys([*table["image_path"], *table["mask_path"]]) if path]
    _check_names(paths, findings)
    _check_places(paths, table.attrs.get("mask_cache"), findings)
    remember_bit_depth(findings.root, table.attrs.get("bit_depth"))
    photos, masks = _read_all(table, workers)
    _check_photos(photos, table.attrs.get("bit_depth", 16), findings)
    _check_classes(table, photos, findings)
    for path, mask in masks.items():
        _check_mask(path, mask, findings)
    _check_pairs(table, photos, masks, findings)
    _check_left_over(table, findings)
    _check_copies(table, photos, findings)
    if near_duplicates:
        _check_near_duplicates(table, photos, findings)
    return findings.table()


# --------------------------------------------------------------------------------------------------------------- files


def _read_all(
    table: pd.DataFrame, workers: int | None
) -> tuple[dict[str, SimpleNamespace], dict[str, SimpleNamespace]]:
    """Facts of every photo and mask; those of a file that cannot be read are an ``error``."""
    photos = list(dict.fromkeys(table["image_path"]))
    masks = [path for path in dict.fromkeys(table["mask_path"]) if path]

    def facts(job: tuple[str, bool]) -> SimpleNamespace:
        path, is_mask = job
        try:
            return _mask_facts(path) if is_mask else _photo_facts(path)
        except ImageReadError as error:
            return SimpleNamespace(error=error)

    jobs = [(path, False) for path in photos] + [(path, True) for path in masks]
    result = list(progress(in_threads(facts, jobs, workers), "Checking photos", len(jobs)))
    return dict(zip(photos, result, strict=False)), dict(zip(masks, result[len(photos) :], strict=True))


def _photo_facts(path: str) -> SimpleNamespace:
    decoded = decode_image(path)
    pixels = decoded.pixels()
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return SimpleNamespace(
        error=None,
        content=content_digest(path),
        pixels=digest.digest(),
        mode=decoded.mode,
        bits=decoded.bits,
        alpha=decoded.alpha,
        orientation=decoded.orientation,
        pages=decoded.pages,
        shape=decoded.shape,
        thumbnail=thumbnail(decoded, pixels),
        mask_like=is_mask_like(decoded.mask_values(), lossy=decoded.lossy),
        blank=not pixels.any(),
    )


def _mask_facts(path: str) -> SimpleNamespace:
    decoded = decode_image(path)
    values, mask = decoded.mask_values(), decoded.mask()
    if values.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        present = np.unique(values)
    return SimpleNamespace(
        error=None,
        values=present,
        lossy=decoded.lossy,
        orientation=decoded.orientation,
        share=float(mask.mean()),
        shape=decoded.shape,
    )


# ------------------------------------------------------------------------------------------------------------ the table


def _check_table(table: pd.DataFrame, findings: Findings) -> None:
    if table.attrs.get("scheme") == "one_class":
        for path in table["image_path"][(table["label_index"] == 1) & (table["split"] == "train")]:
            findings.add("abnormal-in-train", path)
    in_split = table[table["split"] != ""]
    for group, rows in in_split.groupby("group"):
        first = rows.groupby("split")["image_path"].first()
        if len(first) > 1:
            examples = ", ".join(f"{split}: {findings.name(path)}" for split, path in first.items())
            findings.add("group-leak", group=group, count=len(first), examples=examples)
    for mask, photos in table[table["mask_path"] != ""].groupby("mask_path")["image_path"]:
        if photos.nunique() > 1:
            findings.add("shared-mask", mask, count=photos.nunique(), names=findings.names(photos.unique()))


def _check_counts(table: pd.DataFrame, min_train: int, min_val: int, findings: Findings) -> None:
    normals = Counter(table["split"][table["label_index"] == 0])
    abnormals = Counter(table["split"][table["label_index"] == 1])
    scheme = table.attrs.get("scheme")
    if not normals.total():
        findings.add("no-normals:supervised" if scheme == "supervised" else "no-normals")
        return
    if not abnormals.total():
        findings.add("no-defects")
    elif bool(normals["test"]) != bool(abnormals["test"]):
        findings.add("one-class-test", lacking="defect" if normals["test"] else "normal")
    assigned = (table["split"] != "").any()
    count, where = (normals["train"], "train") if assigned else (normals.total(), "all")
    # where val has not been taken from train yet, train has to be enough for both
    pending = not normals["val"] and scheme is None
    needed = min_train + min_val if pending else min_train
    together = f" for train ({min_train}) and val ({min_val}) together" if pending else ""
    if count < 2:
        findings.add("too-few-train:two", count=count, where=where)
    elif count < needed:
        findings.add("too-few-train", count=count, where=where, needed=needed, together=together)
    if not pending and normals["val"] < min_val:
        findings.add("too-few-val", count=normals["val"], needed=min_val)


def _check_names(paths: list[str], findings: Findings) -> None:
    by_folded: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        relative = findings.relative(path)
        by_folded[unicodedata.normalize("NFC", relative).casefold()].append(path)
        serious, portable = name_problems(relative)
        if serious or portable:
            kind = "unusable-name" if serious else "unportable-name"
            findings.add(kind, path, clauses=" and ".join(serious or portable))
    for first, *others in by_folded.values():
        if others:
            findings.add("name-collision", first, names=findings.names(others))


def name_problems(relative: str) -> tuple[list[str], list[str]]:
    """What is wrong with a relative path: what breaks tables and logs, and what breaks on Windows; lists of clauses."""
    serious, portable = [], []
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError:
        serious.append("is not valid UTF-8")
    if any(unicodedata.category(character) == "Cc" for character in relative):
        serious.append("holds control characters")
    parts = [part for part in relative.split("/") if part not in ("", ".", "..")]
    if PurePosixPath(relative).is_absolute() or (parts and parts[0].endswith(":")):
        parts = parts[-1:]  # outside the root only the file's own name is the dataset's business
    characters = sorted({character for part in parts for character in part} & _WINDOWS_CHARACTERS)
    if characters:
        portable.append(f"holds {' '.join(characters)}")
    if any(part != part.rstrip(" .") for part in parts):
        portable.append("ends in a space or dot")
    if any(part.split(".")[0].rstrip().lower() in _WINDOWS_NAMES for part in parts):
        portable.append("is reserved on Windows")
    if len(relative) > MAX_PATH_LENGTH:
        portable.append(f"is {len(relative)} characters long with its folders")
    return serious, portable


def _check_places(paths: list[str], mask_cache: str | None, findings: Findings) -> None:
    real_root = os.path.realpath(findings.root)
    real_folders: dict[Path, str] = {}
    linked: dict[Path, list[str]] = defaultdict(list)
    for file in map(Path, paths):
        if mask_cache and file.is_relative_to(mask_cache):
            continue  # drawn from annotations, which lie in the dataset
        try:
            real = os.path.realpath(file) if file.is_symlink() else ""
            folder = real_folders.setdefault(file.parent, "") or os.path.realpath(file.parent)
            real_folders[file.parent] = folder
        except (OSError, ValueError):
            continue  # the file cannot be read either, and that is a finding
        if not file.is_relative_to(findings.root):
            findings.add("outside-root", str(file))
        elif not Path(real or folder).is_relative_to(real_root):
            linked[file.parent].append(str(file))
    for folder, files in linked.items():
        findings.add("outside-root:linked", str(folder) if len(files) > 1 else files[0], count=len(files))


# -------------------------------------------------------------------------------------------------------------- photos


def _check_photos(photos: dict[str, SimpleNamespace], bits: int, findings: Findings) -> None:
    shapes: Counter[tuple[int, int]] = Counter()
    kinds: Counter[str] = Counter()
    for path, photo in photos.items():
        if photo.error is not None:
            findings.unread(path, photo.error)
            continue
        shapes[photo.shape] += 1
        kinds["grey" if photo.mode in _GREY_MODES or photo.mode.startswith("I;16") else "colour"] += 1
        for kind, holds in {
            "16-bit": photo.bits == 16,
            "palette": photo.mode in ("P", "PA"),
            "cmyk": photo.mode == "CMYK",
            "alpha": photo.alpha,
            "exif-rotation": photo.orientation != 1,
            "several-pages": photo.pages > 1,
        }.items():
            if holds:
                findings.add(kind, path, used=bits, highest=(1 << bits) - 1, shift=bits - 8, **vars(photo))
    if len(shapes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (h, w), count in shapes.most_common(5))
        findings.add("mixed-sizes", count=len(shapes), listed=listed + (", ..." if len(shapes) > 5 else ""))
    if len(kinds) > 1:
        findings.add("mixed-modes", listed=", ".join(f"{kind} ({count})" for kind, count in kinds.most_common()))


def _check_classes(table: pd.DataFrame, photos: dict[str, SimpleNamespace], findings: Findings) -> None:
    """Pictures among the photos that are masks or thumbnails of others, by what good photos look like."""
    read = table[[photos[path].error is None for path in table["image_path"]]]
    good = [photos[path] for path in read["image_path"][read["label_index"] == 0]]
    if 2 * sum(photo.mask_like for photo in good) < len(good):
        for _, paths in read["image_path"].groupby([str(Path(path).parent) for path in read["image_path"]]):
            # one black photo is a failed one, a folder of them holds empty masks
            whole = len(paths) > 1 and all(photos[path].mask_like for path in paths)
            for path in paths:
                if photos[path].mask_like and (whole or not photos[path].blank):
                    findings.add("mask-as-photo", path)
    smallest = np.min([photo.shape for photo in good], axis=0) if good else np.zeros(2)
    for defect_type, paths in read[read["label_index"] == 1].groupby("defect_type")["image_path"]:
        if (2 * np.max([photos[path].shape for path in paths], axis=0) <= smallest).all():
            findings.add("small-photos", paths.iloc[0], count=len(paths), defect_type=defect_type)


# --------------------------------------------------------------------------------------------------------------- masks


def _check_mask(path: str, mask: SimpleNamespace, findings: Findings) -> None:
    if isinstance(mask.error, MissingImageError):
        findings.add("missing-mask", path)
    elif mask.error is not None:
        findings.unread(path, mask.error, "the mask ")
    else:
        values = set(mask.values[:4].tolist())
        facts = {"count": len(mask.values), "highest": mask.values[-1], "percent": 100 * mask.share}
        if mask.lossy:
            findings.add("lossy-mask", path, **facts)
        elif len(mask.values) > 2 or not (values <= {0, 1} or values <= {0, 255}):
            findings.add("non-binary-mask", path, **facts)
        if mask.orientation != 1:
            findings.add("exif-rotation", path, orientation=mask.orientation)
        if mask.share > 0.5:  # an inverted mask is rarely all white: it leaves the defect out
            findings.add("full-mask", path, **facts)


def _check_pairs(
    table: pd.DataFrame, photos: dict[str, SimpleNamespace], masks: dict[str, SimpleNamespace], findings: Findings
) -> None:
    some_masks = ((table["mask_path"] != "") & (table["label_index"] == 1)).any()
    for row in table.itertuples():
        if not row.mask_path:
            if row.label_index == 1 and some_masks:
                findings.add("missing-mask:none", row.image_path)
            continue
        photo, mask, name = photos[row.image_path], masks[row.mask_path], findings.name(row.image_path)
        if mask.error is not None:
            continue
        if photo.error is None and mask.shape != photo.shape:
            sizes = {"mask": "{1}x{0}".format(*mask.shape), "photo": "{1}x{0}".format(*photo.shape)}
            findings.add("mask-size", row.mask_path, name=name, **sizes)
        if row.label_index == 1 and not mask.share:
            findings.add("empty-mask", row.mask_path, name=name)
        if row.label_index == 0 and mask.share:
            findings.add("mask-on-good", row.mask_path, name=name, percent=100 * mask.share)


def _check_left_over(table: pd.DataFrame, findings: Findings) -> None:
    """What the reader saw in the folders and did not use."""
    for name in table.attrs.get("ignored", []):
        findings.add("ignored-file", str(findings.root / name))
    orphans = [findings.root / name for name in table.attrs.get("unused_masks", [])]
    for path, marks in zip(orphans, are_marked([[path] for path in orphans]), strict=True):
        findings.add("mask-without-photo" if marks else "mask-without-photo:empty", str(path))


# -------------------------------------------------------------------------------------------------------------- copies


def _check_copies(table: pd.DataFrame, photos: dict[str, SimpleNamespace], findings: Findings) -> None:
    """The same file content or the same pixels: an error across splits or labels, else a warning."""
    read = table[[photos[path].error is None for path in table["image_path"]]]
    for _, copies in read.groupby([photos[path].pixels for path in read["image_path"]], sort=False):
        if len(copies) < 2:
            continue
        paths, labels = copies["image_path"], copies["label_index"].map({0: "normal", 1: "abnormal"})
        splits = copies["split"].mask(copies["split"] == "", "no split")
        same = all(photos[one].content == photos[other].content for one, other in pairwise(paths))
        first = {"alike": "is the same file as" if same else "has the same pixels as"}
        first |= {"label": labels.iloc[0], "split": splits.iloc[0]}
        if labels.nunique() > 1:
            findings.add("contradicting-labels", paths.iloc[0], listed=findings.names(paths[1:], labels[1:]), **first)
        if copies["split"][copies["split"] != ""].nunique() > 1:
            findings.add("split-leak", paths.iloc[0], listed=findings.names(paths[1:], splits[1:]), **first)
        elif labels.nunique() == 1:
            findings.add("duplicate", paths.iloc[0], listed=findings.names(paths[1:]), **first)


def _check_near_duplicates(table: pd.DataFrame, photos: dict[str, SimpleNamespace], findings: Findings) -> None:
    read = table[[photos[path].error is None for path in table["image_path"]]].reset_index(drop=True)
    splits = read["split"].map({split: number for number, split in enumerate(SPLITS)}).fillna(-1).to_numpy(int)
    if len(set(splits[splits >= 0])) < 2:
        return
    facts = [photos[path] for path in read["image_path"]]
    identical = np.unique([photo.pixels.hex() for photo in facts], return_inverse=True)[1].ravel()
    thumbnails = np.stack([photo.thumbnail for photo in facts])
    pairs = near_duplicate_pairs(thumbnails, splits, (read["label_index"] == 0).to_numpy(), identical)
    for second, alike in pairs.groupby("second"):
        pair, later = alike.iloc[0], read.loc[second]
        earlier = read.loc[int(pair["first"])]
        said = {"split": later["split"], "name": findings.name(earlier["image_path"]), "other": earlier["split"]}
        said |= {"more": f" (and like {len(alike) - 1} more)" if len(alike) > 1 else ""}
        sizes = {"distance": pair["distance"], "typical": pair["typical"]}
        findings.add("near-duplicate", later["image_path"], **said, **sizes)
