"""Findings on a dataset: what is wrong, where, and how to fix it.

An ``error`` would make training or its numbers wrong and stops it (`raise_on_errors`). A ``warning`` is something that
the readers handle (`helpers.data.images`) or that a person should know. ``info`` is for the record.

Every file is read and decoded once, in threads (Pillow's decoders, resizing and hashing release Python's lock). What is
kept of a photo is its facts, two hashes and a 32x32 grey thumbnail (2 KB).
"""

from __future__ import annotations

import os
import threading
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from helpers.data.images import (
    IMAGE_SUFFIXES,
    DecodedImage,
    ImageReadError,
    decode_image,
    files_below,
    remember_bit_depth,
)
from helpers.data.masks import are_marked, is_mask_like
from helpers.progress import progress

SEVERITIES: tuple[str, ...] = ("error", "warning", "info")
FINDING_COLUMNS: tuple[str, ...] = ("code", "severity", "path", "problem", "fix")

MAX_PATH_LENGTH = 240
_REQUIRED_COLUMNS = ("image_path", "mask_path", "label_index", "defect_type", "split", "group")
_SPLITS = ("train", "val", "test")
_WINDOWS_CHARACTERS = frozenset('<>:"|?*\\')
_WINDOWS_NAMES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)
_PREPROCESS = "to write it so for good: python -m helpers.data.convert DATASET NEW_FOLDER"
_KEEP = f"{_PREPROCESS} --mode keep"

_THUMBNAIL = 32
_THUMBNAIL_SCALE = 128.0  # thumbnails are stored as grey value * 128 in uint16: averages keep their fractions
_HASH_BITS = 128
_MAX_HAMMING = 40
_REFERENCE_PHOTOS = 256


class DatasetError(ValueError):
    """A dataset with findings of severity ``error``; ``findings`` is the table of them."""

    def __init__(self, message: str, findings: pd.DataFrame) -> None:
        super().__init__(message)
        self.findings = findings


def raise_on_errors(findings: pd.DataFrame, *, limit: int = 20) -> None:
    """Stop when there are errors among the findings.

    Args:
        findings: what `check_dataset` returned.
        limit: how many errors the message lists.

    Raises:
        DatasetError: there is at least one error; the message lists them with their fixes.
    """
    errors = findings[findings["severity"] == "error"]
    if not len(errors):
        return
    lines = [
        f"- {f'{row.path}: ' if row.path else ''}{row.problem}; {row.fix}."
        for row in errors.head(limit).itertuples(index=False)
    ]
    if len(errors) > limit:
        lines.append(f"- and {len(errors) - limit} more")
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

    Two photos are near-duplicates when their 32x32 grey thumbnails differ by less than 15 % of what is typical around
    them (by less than 30 % if that is under 0.6 grey values, what re-encoding as JPEG does), and by less than 4 grey
    values (root mean square). Typical is the 10 % quantile of the distances to 256 photos of the same dataset, so for
    aligned photos of good parts, which all look alike, the limit is small. Before, what lighting does is removed: a
    quadratic in position, alone and times the mean normal photo. Only pairs whose 128-bit perceptual hashes (signs of
    the DCT of what is left) differ in at most 40 bits are compared. Shifted, rotated or cropped copies are not found.

    Args:
        table: a sample table, ``table.attrs["root"]`` included.
        min_train: fewer normal photos in train than this is a warning, fewer than 2 an error.
        min_val: fewer normal photos in val than this is a warning.
        near_duplicates: whether to look for near-duplicates across splits.
        workers: threads that decode; default: one a core.

    Returns:
        One row a finding, errors first, then by path: ``severity`` (error, warning, info), ``path`` (relative to the
        root where it lies inside, "" for the dataset as a whole), ``problem``, ``fix`` and ``code``, a short stable
        name of the kind of finding.

    Raises:
        ValueError: the table lacks a column or the root it belongs to.
    """
    missing = [column for column in _REQUIRED_COLUMNS if column not in table]
    if missing:
        raise ValueError(f"The table lacks the column(s) {', '.join(missing)}; read it with helpers.read_dataset.")
    if not table.attrs.get("root"):
        raise ValueError("table.attrs['root'] is missing; read the table with helpers.read_dataset and keep its attrs.")
    root = Path(table.attrs["root"])
    samples = _samples(table)
    findings = _Findings(root)
    for noted in table.attrs.get("findings", []):  # what its reader found, that the table cannot show
        findings.add(noted["severity"], noted["path"], noted["code"], noted["problem"], noted["fix"])
    if not samples:
        findings.add("error", "", "no-photos", "there is no photo in the table", "check the path of the dataset")
        return findings.frame()

    _check_table(samples, table, findings)
    _check_counts(samples, table, min_train, min_val, findings)
    _check_names(samples, findings)
    _check_location(samples, table.attrs.get("mask_cache"), findings)

    remember_bit_depth(root, table.attrs.get("bit_depth"))
    photos, masks = _records(samples, workers)
    _check_photos(photos, table.attrs.get("bit_depth", 16), findings)
    _check_classes(samples, photos, findings)
    _check_masks(samples, photos, masks, table, findings)
    _check_exact_copies(samples, photos, findings)
    if near_duplicates:
        _check_near_duplicates(samples, photos, findings)
    return findings.frame()


# -------------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class _Sample:
    """A row of the table; ``label`` is 0 or 1, or -1 where the table has something else."""

    image: str
    mask: str
    label: int
    raw_label: object
    defect_type: str
    split: str
    group: str


@dataclass(slots=True)
class _PhotoRecord:
    """What is kept of a decoded photo."""

    error: ImageReadError | None = None
    content: bytes = b""
    pixels: bytes = b""
    mode: str = ""
    bits: int = 8
    alpha: bool = False
    orientation: int = 1
    pages: int = 1
    shape: tuple[int, int] = (0, 0)
    thumbnail: np.ndarray | None = None
    mask_like: bool = False
    blank: bool = False


@dataclass(slots=True)
class _MaskRecord:
    """What is kept of a decoded mask."""

    error: ImageReadError | None = None
    values: tuple[float, ...] = ()
    value_count: int = 0
    lossy: bool = False
    orientation: int = 1
    defect_share: float = 0.0
    shape: tuple[int, int] = (0, 0)


class _Findings:
    """Collects findings; paths are made relative to the root and printable."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100  (resolve would follow links)
        self._rows: list[tuple[str, str, str, str, str]] = []

    def add(self, severity: str, path: str, code: str, problem: str, fix: str) -> None:
        self._rows.append((code, severity, self.name(path), printable(problem), printable(fix)))

    def name(self, path: str) -> str:
        return printable(self.relative(path)) if path else ""

    def names(self, paths: Iterable[str], limit: int = 5) -> str:
        paths = list(paths)
        more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
        return ", ".join(self.name(path) for path in paths[:limit]) + more

    def relative(self, path: str) -> str:
        try:
            return Path(path).relative_to(self.root).as_posix()
        except ValueError:
            return Path(path).as_posix()

    def frame(self) -> pd.DataFrame:
        rows = sorted(self._rows, key=lambda row: (SEVERITIES.index(row[1]), row[2], row[0], row[3]))
        frame = pd.DataFrame(rows, columns=list(FINDING_COLUMNS))
        return frame.astype({column: "str" for column in FINDING_COLUMNS})


def printable(text: str) -> str:
    """The text with control characters and bytes that are no UTF-8 written as escapes."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)


def _samples(table: pd.DataFrame) -> list[_Sample]:
    def text(value: object) -> str:
        return "" if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)) else str(value)

    samples = []
    columns = [table[column].tolist() for column in _REQUIRED_COLUMNS]
    root = str(table.attrs["root"])
    for image, mask, raw, defect_type, split, group in zip(*columns, strict=True):
        try:
            label = int(raw) if float(raw) in (0.0, 1.0) else -1
        except (TypeError, ValueError):
            label = -1
        image, mask = (os.path.abspath(os.path.join(root, path)) if path else "" for path in (text(image), text(mask)))  # noqa: PTH100, PTH118
        samples.append(_Sample(image, mask, label, raw, text(defect_type), text(split), text(group)))
    return samples


def _records(samples: list[_Sample], workers: int | None) -> tuple[dict[str, _PhotoRecord], dict[str, _MaskRecord]]:
    """Decode every photo and mask once, in threads."""
    images = list(dict.fromkeys(sample.image for sample in samples))
    masks = list(dict.fromkeys(sample.mask for sample in samples if sample.mask))
    work = [(path, False) for path in images] + [(path, True) for path in masks]
    photo_records: dict[str, _PhotoRecord] = {}
    mask_records: dict[str, _MaskRecord] = {}
    stop = threading.Event()

    def record(item: tuple[str, bool]) -> _PhotoRecord | _MaskRecord | None:
        if stop.is_set():
            return None
        return _mask_record(item[0]) if item[1] else _photo_record(item[0])

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as executor:
        try:
            results = executor.map(record, work)
            for (path, _), result in progress(zip(work, results, strict=True), "Checking photos", total=len(work)):
                if isinstance(result, _PhotoRecord):
                    photo_records[path] = result
                elif isinstance(result, _MaskRecord):
                    mask_records[path] = result
        finally:
            stop.set()  # on an interrupt the files still waiting are let go
    return photo_records, mask_records


def _photo_record(path: str) -> _PhotoRecord:
    try:
        data = _read(path)
        content = blake2b(data, digest_size=16).digest()
    except ImageReadError as error:
        return _PhotoRecord(error=error)
    try:
        decoded = decode_image(path, data)
        pixels = decoded.pixels()
    except ImageReadError as error:
        return _PhotoRecord(error=error, content=content)
    digest = blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return _PhotoRecord(
        content=content,
        pixels=digest.digest(),
        mode=decoded.mode,
        bits=decoded.bits,
        alpha=decoded.alpha,
        orientation=decoded.orientation,
        pages=decoded.pages,
        shape=decoded.shape,
        thumbnail=_thumbnail(decoded, pixels),
        mask_like=is_mask_like(decoded.mask_values(), lossy=decoded.lossy),
        blank=not pixels.any(),
    )


def _mask_record(path: str) -> _MaskRecord:
    try:
        decoded = decode_image(path, _read(path))
        values, mask = decoded.mask_values(), decoded.mask()
    except ImageReadError as error:
        return _MaskRecord(error=error)
    if values.dtype == np.uint8:
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        found = np.unique(values)
    return _MaskRecord(
        values=tuple(float(value) for value in (*found[:4], found[-1])),
        value_count=len(found),
        lossy=decoded.lossy,
        orientation=decoded.orientation,
        defect_share=float(mask.mean()),
        shape=decoded.shape,
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageReadError(path, "missing-file", "does not exist", "restore it, or remove its row") from None
    except (OSError, ValueError) as error:
        raise ImageReadError(path, "unreadable", f"cannot be read ({error})", "check its permissions") from error


def _thumbnail(decoded: DecodedImage, pixels: np.ndarray) -> np.ndarray:
    """Upright grey thumbnail, uint16 (32, 32), grey value * 128."""
    grey = decoded.image if decoded.turn == 1 and decoded.image.mode in ("L", "RGB") else Image.fromarray(pixels)
    side = 4 * _THUMBNAIL
    small = np.asarray(grey.convert("L").resize((side, side), Image.Resampling.BOX), dtype=np.float32)
    means = small.reshape(_THUMBNAIL, 4, _THUMBNAIL, 4).mean(axis=(1, 3))
    return np.rint(means * _THUMBNAIL_SCALE).astype(np.uint16)


# ------------------------------------------------------------------------------------------------------------ the table


def _check_table(samples: list[_Sample], table: pd.DataFrame, findings: _Findings) -> None:
    one_class = table.attrs.get("scheme") == "one_class"
    for path, count in Counter(sample.image for sample in samples).items():
        if count > 1:
            findings.add(
                "error", path, "duplicate-row", f"has {count} rows in the table", "keep one row for every photo"
            )
    splits_of: dict[str, dict[str, str]] = defaultdict(dict)
    users: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.label == -1:
            problem = f"has label_index {sample.raw_label!r}"
            findings.add("error", sample.image, "invalid-label", problem, "use 0 for normal and 1 for abnormal")
        elif (sample.defect_type == "good") != (sample.label == 0):
            problem = f"has label_index {sample.label} but defect_type {sample.defect_type!r}"
            fix = "normal photos are 'good', abnormal ones have the name of their defect"
            findings.add("error", sample.image, "label-and-type", problem, fix)
        if sample.split not in ("", *_SPLITS):
            problem = f"is in split {sample.split!r}"
            findings.add("error", sample.image, "invalid-split", problem, "use train, val, test or nothing")
        if one_class and sample.label == 1 and sample.split == "train":
            problem = "is a defect photo in train, but the scheme one_class learns from normal photos only"
            findings.add("error", sample.image, "abnormal-in-train", problem, "move it to test, or correct its label")
        if sample.group and sample.split:
            splits_of[sample.group].setdefault(sample.split, sample.image)
        if sample.mask:
            users[sample.mask].append(sample.image)
    for group, where in splits_of.items():
        if len(where) > 1:
            examples = ", ".join(f"{split}: {findings.name(where[split])}" for split in sorted(where))
            problem = f"group {group!r} lies in {len(where)} splits ({examples})"
            findings.add("error", "", "group-leak", problem, "split the table again: groups must never part")
    for mask, images in users.items():
        if len(set(images)) > 1:
            problem = f"is the mask of {len(set(images))} photos ({findings.names(dict.fromkeys(images))})"
            findings.add("warning", mask, "shared-mask", problem, "check that the masks are paired with their photos")


def _check_counts(
    samples: list[_Sample], table: pd.DataFrame, min_train: int, min_val: int, findings: _Findings
) -> None:
    normals = Counter(sample.split for sample in samples if sample.label == 0)
    abnormals = Counter(sample.split for sample in samples if sample.label == 1)
    if not normals.total():
        supervised = table.attrs.get("scheme") == "supervised"
        problem = "there is no normal photo, and " + (
            "without one no threshold can be calibrated and no false alarm measured"
            if supervised
            else "a detector learns from normal ones (scheme 'supervised' can do without)"
        )
        fix = "add photos of good parts, or correct the labels"
        findings.add("warning" if supervised else "error", "", "no-normals", problem, fix)
        return
    if not abnormals.total():
        problem = "there is no defect photo: only false alarms can be measured, not what is found"
        findings.add("warning", "", "no-defects", problem, "add photos of known defects to test, a few per type")
    elif normals["test"] + abnormals["test"] and not (normals["test"] and abnormals["test"]):
        lacking = "normal" if not normals["test"] else "defect"
        problem = f"test holds no {lacking} photo, so neither AUROC nor both kinds of mistakes can be measured"
        findings.add("warning", "", "one-class-test", problem, f"move some {lacking} photos to test")

    assigned = any(sample.split for sample in samples)
    learned = normals["train"] if assigned else normals.total()
    # where val has not been taken from train yet, train has to be enough for both
    pending = not normals["val"] and "scheme" not in table.attrs
    needed = min_train + min_val if pending else min_train
    where = "train" if assigned else "all"
    if learned < 2:
        problem = f"there {'is' if learned == 1 else 'are'} {learned} normal photo(s) in {where}"
        findings.add("error", "", "too-few-train", problem, "add normal photos; at least 2, better some hundred")
    elif learned < needed:
        together = f" for train ({min_train}) and val ({min_val}) together" if pending else ""
        problem = f"there are {learned} normal photos in {where}, fewer than {needed}{together}"
        findings.add("warning", "", "too-few-train", problem, "add normal photos: what was never seen looks abnormal")
    if not pending and normals["val"] < min_val:
        problem = (
            f"there are {normals['val']} normal photos in val, fewer than {min_val}: a threshold that accepts 95 % of "
            "good parts cannot be promised"
        )
        findings.add("warning", "", "too-few-val", problem, "add normal photos, or raise val_fraction")


def _check_names(samples: list[_Sample], findings: _Findings) -> None:
    paths = list(dict.fromkeys(path for sample in samples for path in (sample.image, sample.mask) if path))
    by_folded: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        relative = findings.relative(path)
        by_folded[unicodedata.normalize("NFC", relative).casefold()].append(path)
        serious, portable = name_problems(relative)
        if serious:
            fix = "rename it with letters, digits, dots, dashes and underscores"
            findings.add("error", path, "unusable-name", f"its name {' and '.join(serious)}", fix)
        elif portable:
            fix = "rename it if the dataset is to be used on Windows too"
            findings.add("warning", path, "unportable-name", f"its name {' and '.join(portable)}", fix)
    for same in by_folded.values():
        if len(same) > 1:
            problem = (
                f"differs from {findings.names(same[1:])} only in upper and lower case or in how accents are written"
            )
            fix = "rename one of them: on Windows and macOS they are the same file"
            findings.add("warning", same[0], "name-collision", problem, fix)


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


def _check_location(samples: list[_Sample], mask_cache: str | None, findings: _Findings) -> None:
    real_root = Path(os.path.realpath(findings.root))
    real_folders: dict[str, str] = {}
    linked: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(path for sample in samples for path in (sample.image, sample.mask) if path):
        folder = str(Path(path).parent)
        try:
            if folder not in real_folders:
                real_folders[folder] = os.path.realpath(folder)
            real = os.path.realpath(path) if Path(path).is_symlink() else f"{real_folders[folder]}{os.sep}x"
        except (OSError, ValueError):
            continue  # the file cannot be read either, and that is a finding
        if mask_cache and Path(path).is_relative_to(mask_cache):
            continue  # drawn from annotations, which lie in the dataset
        if not Path(path).is_relative_to(findings.root):
            fix = "copy the file into the dataset, so that the dataset can be moved and shared"
            findings.add("error", path, "outside-root", "lies outside the root of the dataset", fix)
        elif not Path(real).is_relative_to(real_root):
            linked[folder].append(path)
    for folder, paths in linked.items():
        files = f"{len(paths)} files of this folder lie" if len(paths) > 1 else "lies"
        problem = f"{files} outside the dataset, reached through a link, which is followed"
        fix = "nothing, or copy the files into the dataset, so that it can be moved and shared"
        findings.add("warning", folder if len(paths) > 1 else paths[0], "outside-root", problem, fix)


# -------------------------------------------------------------------------------------------------------------- photos


def _check_photos(photos: dict[str, _PhotoRecord], bits: int, findings: _Findings) -> None:
    shapes: Counter[tuple[int, int]] = Counter()
    kinds: Counter[str] = Counter()
    for path, record in photos.items():
        if record.error is not None:
            findings.add("error", path, record.error.code, record.error.problem, record.error.fix)
            continue
        shapes[record.shape] += 1
        kinds["grey" if record.mode in ("1", "L", "LA", "La", "I") or record.mode.startswith("I;16") else "colour"] += 1
        if record.bits == 16:
            problem = (
                f"has 16 bits a channel, of which the photos of this dataset use {bits} (values up to "
                f"{(1 << bits) - 1}); it is read as 8 bits (value >> {bits - 8})"
            )
            findings.add("warning", path, "16-bit", problem, f"nothing: runs read other photos alike; {_KEEP}")
        if record.mode in ("P", "PA"):
            problem = "has a palette (indexed colours); it is read as RGB"
            findings.add("warning", path, "palette", problem, f"{_PREPROCESS} --mode RGB")
        if record.mode == "CMYK":
            problem = "has CMYK colours; it is read as RGB, without a colour profile"
            findings.add("warning", path, "cmyk", problem, f"{_PREPROCESS} --mode RGB")
        if record.alpha:
            problem = "has an alpha channel (transparency), which is dropped"
            findings.add("warning", path, "alpha", problem, f"{_PREPROCESS} --mode RGB")
        if record.orientation != 1:
            problem = f"has EXIF orientation {record.orientation}; it is turned upright when read"
            fix = f"other programs may not turn it; {_KEEP}"
            findings.add("warning", path, "exif-rotation", problem, fix)
        if record.pages > 1:
            problem = f"has {record.pages} pages or frames; only the first is used"
            findings.add("warning", path, "several-pages", problem, "save the pages as files of their own")
    if len(shapes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (h, w), count in shapes.most_common(5))
        problem = f"photos have {len(shapes)} sizes (width x height): {listed}{', ...' if len(shapes) > 5 else ''}"
        fix = f"every photo is resized alike for the model, so scale and aspect may differ; {_PREPROCESS} --size H,W"
        findings.add("warning", "", "mixed-sizes", problem, fix)
    if len(kinds) > 1:
        problem = "photos have mixed modes: " + ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        fix = f"colour alone may tell them apart; {_PREPROCESS} --mode L"
        findings.add("warning", "", "mixed-modes", problem, fix)


def _check_classes(samples: list[_Sample], photos: dict[str, _PhotoRecord], findings: _Findings) -> None:
    """Pictures among the photos that are masks or thumbnails of others, by what good photos look like."""
    read = {sample.image: sample for sample in samples if photos[sample.image].error is None}
    good = [photos[path] for path, sample in read.items() if sample.label == 0]
    folders: dict[Path, list[str]] = defaultdict(list)
    for path in read:
        folders[Path(path).parent].append(path)
    if 2 * sum(record.mask_like for record in good) < len(good):
        for paths in folders.values():
            # one black photo is a failed one, a folder of them holds empty masks
            whole = len(paths) > 1 and all(photos[path].mask_like for path in paths)
            for path in paths:
                if photos[path].mask_like and (whole or not photos[path].blank):
                    problem = "is black and white as a mask is, but counts as a photo"
                    fix = "move masks to where this layout has them, or out of the dataset"
                    findings.add("error", path, "mask-as-photo", problem, fix)
    smallest = np.min([record.shape for record in good], axis=0) if good else np.zeros(2)
    for defect_type in sorted({sample.defect_type for sample in read.values() if sample.label == 1}):
        paths = [path for path, sample in read.items() if sample.defect_type == defect_type]
        if (2 * np.max([photos[path].shape for path in paths], axis=0) <= smallest).all():
            problem = f"all {len(paths)} photos of type {defect_type!r} are at most half as wide and high as good ones"
            fix = "take them out if they are thumbnails or cut-outs: size alone tells them apart"
            findings.add("warning", paths[0], "small-photos", problem, fix)


# --------------------------------------------------------------------------------------------------------------- masks


def _check_masks(
    samples: list[_Sample],
    photos: dict[str, _PhotoRecord],
    masks: dict[str, _MaskRecord],
    table: pd.DataFrame,
    findings: _Findings,
) -> None:
    for path, record in masks.items():
        if record.error is None:
            _check_mask_values(path, record, findings)
        elif record.error.code == "missing-file":
            fix = "restore it, or empty mask_path of its row"
            findings.add("error", path, "missing-mask", "is the mask of a photo and does not exist", fix)
        else:
            findings.add("error", path, record.error.code, f"the mask {record.error.problem}", record.error.fix)

    some_masks = any(sample.mask for sample in samples if sample.label == 1)
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        if (sample.image, sample.mask) in seen:
            continue
        seen.add((sample.image, sample.mask))
        if not sample.mask:
            if sample.label == 1 and some_masks:
                fix = "draw its mask; without it pixel figures would count every pixel found as a false alarm"
                problem = "is a defect photo without a mask, while others have theirs"
                findings.add("error", sample.image, "missing-mask", problem, fix)
            continue
        mask, photo = masks[sample.mask], photos[sample.image]
        if mask.error is not None:
            continue
        if photo.error is None and mask.shape != photo.shape:
            problem = (
                f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels but its photo {findings.name(sample.image)} "
                f"{photo.shape[1]}x{photo.shape[0]} (width x height, upright)"
            )
            findings.add("error", sample.mask, "mask-size", problem, "save the mask at the size of its photo")
        if sample.label == 1 and mask.defect_share == 0:
            problem = (
                f"the mask is empty, but {findings.name(sample.image)} is a defect photo: image figures count it as "
                "abnormal, pixel figures as having no defect pixel"
            )
            fix = "draw the defect, or correct the label"
            # published data sets have some, and the few pixels they are about make no figure wrong
            findings.add("warning", sample.mask, "empty-mask", problem, fix)
        if sample.label == 0 and mask.defect_share > 0:
            problem = f"the mask marks {100 * mask.defect_share:.2g} % of {findings.name(sample.image)}, a normal photo"
            findings.add("error", sample.mask, "mask-on-good", problem, "correct the label or the mask")
    _check_orphans(samples, table, findings)


def _check_mask_values(path: str, record: _MaskRecord, findings: _Findings) -> None:
    highest = f"{record.values[-1]:g}"
    if record.lossy:
        problem = f"the mask is stored lossily (JPEG or the like): {record.value_count} values, highest {highest}"
        findings.add(
            "warning", path, "lossy-mask", f"{problem}; 128 and more is read as defect", "save it as PNG, 0 and 255"
        )
    elif record.value_count > 2 or not set(record.values) <= {0.0, 1.0} and not set(record.values) <= {0.0, 255.0}:
        problem = (
            f"the mask has {record.value_count} value(s), highest {highest}; every pixel above 0 is read as defect"
        )
        findings.add("warning", path, "non-binary-mask", problem, "save it with 0 and 255 only")
    if record.orientation != 1:
        problem = f"the mask has EXIF orientation {record.orientation}; it is turned upright when read"
        findings.add("warning", path, "exif-rotation", problem, f"other programs may not turn it; {_KEEP}")
    if record.defect_share > 0.5:  # an inverted mask is rarely all white: it leaves the defect out
        problem = f"the mask covers {100 * record.defect_share:.3g} % of the photo"
        findings.add(
            "warning", path, "full-mask", problem, "check that it is not inverted: defect is white, the rest 0"
        )


def _check_orphans(samples: list[_Sample], table: pd.DataFrame, findings: _Findings) -> None:
    for name in table.attrs.get("ignored", []):
        path = str(findings.root / name)
        findings.add(
            "info", path, "ignored-file", "is no image by its suffix and is ignored", "nothing, or move it away"
        )
    # a reader saw the whole dataset; another table may be a part of it
    whole = "unused_masks" in table.attrs
    named = (str(findings.root / name) for name in table.attrs.get("unused_masks", []))
    orphans = list(named if whole else _orphans(samples, findings.root))
    fix = "add its photo, correct its name, or remove it: the photo that it means may count as normal"
    for path, marks in zip(orphans, are_marked([[Path(path)] for path in orphans]), strict=True):
        severity = "error" if whole and marks else "warning"
        findings.add(
            severity, path, "mask-without-photo", f"is {'a' if marks else 'an empty'} mask without a photo", fix
        )


def _orphans(samples: list[_Sample], root: Path) -> Iterator[str]:
    """Image files in the folders that hold masks, and in those beside them in ``ground_truth``, that no row names."""
    used = {path for sample in samples for path in (sample.image, sample.mask) if path}
    photo_folders = {Path(sample.image).parent for sample in samples}
    folders = {Path(sample.mask).parent for sample in samples if sample.mask}
    trees = {parent for folder in folders for parent in (folder, *folder.parents) if parent.name == "ground_truth"}
    trees |= {root / "ground_truth"} if (root / "ground_truth").is_dir() else set()
    for tree in trees:
        folders |= {file.parent for file in files_below(tree, [])}
    for folder in sorted(folders):
        if not folder.is_dir():
            continue
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        stems = Counter(file.stem for file in files)
        mask_suffixes = {Path(sample.mask).suffix.lower() for sample in samples if Path(sample.mask).parent == folder}
        for file in files:
            if str(file) in used or file.name.startswith("."):
                continue
            # where photos and masks share a folder, a file of no row may be a photo, or half of a pair left out
            if folder in photo_folders and (file.suffix.lower() not in mask_suffixes or stems[file.stem] > 1):
                continue
            yield str(file)


# --------------------------------------------------------------------------------------------------------------- copies


def _check_exact_copies(samples: list[_Sample], photos: dict[str, _PhotoRecord], findings: _Findings) -> None:
    """The same file content or the same pixels: an error across splits or labels, else a warning."""
    by_path = {sample.image: sample for sample in samples}
    same: dict[bytes, list[_Sample]] = defaultdict(list)
    for path, sample in by_path.items():
        record = photos[path]
        if record.error is None:
            same[record.pixels].append(sample)
    for copies in same.values():
        if len(copies) < 2:
            continue
        first, *others = copies
        files = len({photos[sample.image].content for sample in copies})
        what = "is the same file as" if files == 1 else "has the same pixels as"
        splits = {sample.split for sample in copies if sample.split}
        labels = {sample.label for sample in copies}
        if len(labels) > 1:
            listed = ", ".join(f"{findings.name(sample.image)} ({_label(sample)})" for sample in others[:5])
            problem = f"({_label(first)}) {what} {listed}: labels contradict"
            findings.add(
                "error", first.image, "contradicting-labels", problem, "keep one of them, with the right label"
            )
        if len(splits) > 1:
            listed = ", ".join(f"{findings.name(sample.image)} ({sample.split or 'no split'})" for sample in others[:5])
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            problem = f"({first.split or 'no split'}) {what} {listed}{more}: the same content in two splits"
            fix = "remove the copies, or give them one group so that they stay in one split"
            findings.add("error", first.image, "split-leak", problem, fix)
        elif len(labels) == 1:
            problem = f"{what} {findings.names(sample.image for sample in others)}"
            findings.add("warning", first.image, "duplicate", problem, "keep one of them: copies count double")


def _label(sample: _Sample) -> str:
    return {0: "normal", 1: "abnormal"}.get(sample.label, "no valid label")


def _check_near_duplicates(samples: list[_Sample], photos: dict[str, _PhotoRecord], findings: _Findings) -> None:
    unique = {sample.image: sample for sample in samples}
    usable = [sample for path, sample in unique.items() if photos[path].thumbnail is not None]
    splits = np.array([_SPLITS.index(sample.split) if sample.split in _SPLITS else -1 for sample in usable])
    if len(set(splits[splits >= 0])) < 2:
        return
    thumbnails = np.stack([photos[sample.image].thumbnail for sample in usable])
    normal = np.array([sample.label == 0 for sample in usable])
    identical = np.unique([photos[sample.image].pixels.hex() for sample in usable], return_inverse=True)[1].ravel()
    first, second, distance, typical = near_duplicate_pairs(thumbnails, splits, normal, identical)
    nearest: dict[int, int] = {}
    count: Counter[int] = Counter()
    for pair in np.argsort(distance, kind="stable"):
        later = int(second[pair])
        nearest.setdefault(later, int(pair))
        count[later] += 1
    for later, pair in nearest.items():
        sample, other = usable[later], usable[int(first[pair])]
        more = f" (and like {count[later] - 1} more)" if count[later] > 1 else ""
        problem = (
            f"({sample.split}) looks the same as {findings.name(other.image)} ({other.split}){more}: they differ by "
            f"{distance[pair]:.2g} grey values where {typical[pair]:.2g} is usual"
        )
        fix = "if it is the same part or sequence, give both one group so that they stay in one split"
        findings.add("warning", sample.image, "near-duplicate", problem, fix)


def near_duplicate_pairs(
    thumbnails: np.ndarray, splits: np.ndarray, normal: np.ndarray, identical: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of photos in different splits that look the same; see `check_dataset` for the rule.

    Args:
        thumbnails: uint16 (N, 32, 32), grey value * 128.
        splits: int (N,), number of the split of each photo, -1 for none.
        normal: bool (N,), which photos the mean photo is made of (all, where there is none).
        identical: int (N,), photos with the same number have the same content and are not compared.

    Returns:
        Four arrays, one entry a pair: index in the earlier split, index in the later split, distance in grey values
        (root mean square over the thumbnail), and the typical distance it was compared with.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    residuals = _without_light(flat, flat[normal] if normal.any() else flat)
    hashes = _perceptual_hashes(residuals)
    first, second = _hash_candidates(hashes, splits)
    different = identical[first] != identical[second]
    first, second = first[different], second[different]
    distance = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), 8192):
        part = slice(start, start + 8192)
        distance[part] = np.sqrt(np.mean((residuals[first[part]] - residuals[second[part]]) ** 2, axis=1))
    close = distance < 4.0
    first, second, distance = first[close], second[close], distance[close]
    involved, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    scale = _typical_distances(residuals, involved, identical)
    typical = np.minimum(scale[place[: len(first)]], scale[place[len(first) :]]) if len(first) else distance
    limit = np.maximum(0.15 * typical, np.minimum(0.3 * typical, 0.6))
    found = distance < limit
    return first[found], second[found], distance[found], typical[found]


def _without_light(flat: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Residuals, float32 (N, 1024) in grey values, of a least-squares fit of quadratic * (1, mean reference photo)."""
    mean = reference.mean(axis=0, dtype=np.float64) / _THUMBNAIL_SCALE
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : _THUMBNAIL * 1j, -1 : 1 : _THUMBNAIL * 1j])
    polynomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    basis = np.concatenate([polynomials, polynomials * (mean / max(mean.std(), 1e-6))[:, None]], axis=1)
    basis /= np.linalg.norm(basis, axis=0).clip(1e-12)
    left, strengths, _ = np.linalg.svd(basis, full_matrices=False)
    basis = left[:, strengths > 1e-6 * strengths[0]].astype(np.float32)
    residuals = flat.astype(np.float32)
    residuals /= np.float32(_THUMBNAIL_SCALE)
    residuals -= (residuals @ basis) @ basis.T
    return residuals


def _perceptual_hashes(residuals: np.ndarray) -> np.ndarray:
    """128-bit hashes, uint64 (N, 2): the 128 lowest DCT-II coefficients, each above its median or not.

    The pHash of Zauner (2010) with the median taken over the dataset, so that aligned photos do not all have one hash.
    """
    k, n = np.mgrid[:_THUMBNAIL, :_THUMBNAIL]
    cosines = np.cos(np.pi / _THUMBNAIL * (n + 0.5) * k)
    order = sorted(((u + v, u, v) for u in range(_THUMBNAIL) for v in range(_THUMBNAIL)), key=lambda f: f)
    waves = [np.outer(cosines[u], cosines[v]).ravel() for _, u, v in order[1 : _HASH_BITS + 1]]
    coefficients = residuals @ np.stack(waves, axis=1).astype(np.float32)
    bits = coefficients > np.median(coefficients, axis=0)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)


def _hash_candidates(hashes: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (index in the earlier split, index in the later) whose hashes differ in at most 40 bits."""
    firsts, seconds = [], []
    members = [np.flatnonzero(splits == split) for split in range(len(_SPLITS))]
    for earlier in range(len(_SPLITS)):
        for later in range(earlier + 1, len(_SPLITS)):
            rows, columns = members[earlier], members[later]
            if not len(rows) or not len(columns):
                continue
            step = max(1, 2_000_000 // len(columns))  # 16 MB a word at a time
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                bits = np.zeros((len(part), len(columns)), dtype=np.uint8)
                for word in range(hashes.shape[1]):
                    bits += np.bitwise_count(hashes[part, word, None] ^ hashes[columns, word])
                row, column = np.nonzero(bits <= _MAX_HAMMING)
                firsts.append(part[row])
                seconds.append(columns[column])
    if not firsts:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    return np.concatenate(firsts), np.concatenate(seconds)


def _typical_distances(residuals: np.ndarray, involved: np.ndarray, identical: np.ndarray) -> np.ndarray:
    """For each involved photo: 10 % quantile (at least the third smallest) of distances to 256 other photos."""
    if not len(involved):
        return np.empty(0, dtype=np.float32)
    chosen = np.random.default_rng(0).permutation(len(residuals))[:_REFERENCE_PHOTOS]
    others = residuals[chosen]
    squares = np.einsum("ij,ij->i", others, others)
    result = np.empty(len(involved), dtype=np.float32)
    for start in range(0, len(involved), 4096):
        part = involved[start : start + 4096]
        own = residuals[part]
        gram = np.einsum("ij,ij->i", own, own)[:, None] + squares - 2 * own @ others.T
        distance = np.sqrt(np.maximum(gram, 0) / residuals.shape[1])
        distance[identical[part][:, None] == identical[chosen]] = np.inf
        distance.sort(axis=1)
        finite = np.isfinite(distance).sum(axis=1)
        rank = np.clip(np.maximum(2, (0.1 * finite).astype(int)), 0, np.maximum(finite - 1, 0))
        result[start : start + len(part)] = distance[np.arange(len(part)), rank]
    return np.where(np.isfinite(result), result, 0)
