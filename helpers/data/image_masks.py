"""A folder of images and a folder of masks as a sample table, with what a metadata file says of each photo."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.data.annotations import Notes, is_published
from helpers.data.formats import (
    NORMAL_NAMES,
    SPLIT_NAMES,
    Found,
    LayoutError,
    MaskFinder,
    folders_in,
    images_in,
    label_of,
    split_folders,
    split_of,
    tree,
)
from helpers.data.images import ImageReadError, read_mask
from helpers.data.samples import NORMAL, absolute_path
from helpers.progress import progress

_IMAGE_FOLDERS = ("images", "imgs", "image", "img")
_MASK_FOLDERS = ("masks", "mask", "ground_truth", "gt")
_METADATA = "metadata.json"
_NAME_KEYS = ("file_name", "filename", "image", "image_path", "image_name", "file", "name", "path")


@dataclass(frozen=True)
class _Pair:
    """A folder of images, that of their masks, and the split they stand for."""

    images: Path
    masks: Path
    split: str


def has_image_masks(path: Path) -> bool:
    """Whether the folder, or one of its split folders, holds images and masks in folders of these names."""
    return path.is_dir() and any(images_in(pair.images, []) and images_in(pair.masks, []) for pair in _pairs(path))


def read_image_masks(
    path: Path,
    *,
    image_dir: str | Path | None = None,
    mask_dir: str | Path | None = None,
    metadata_path: str | Path | None = None,
) -> Found:
    """Read ``images/`` and ``masks/``, or those of each split's folder; reached through `helpers.read_dataset`.

    A mask has the stem of its photo, perhaps with ``_mask`` or the like behind it, in the same subfolder. A photo whose
    mask is missing or empty is normal, any other abnormal; a label in the metadata goes before a missing or empty mask.
    A photo whose label says normal and whose mask marks pixels is left out with a finding.

    The metadata file is a list of records with ``file_name`` (or ``image``, ``filename``, ``name``, ...), or an object
    from file name to record, names being relative to the image folder, with or without folders and suffix. Fields that
    are read: ``split``, ``label`` or ``defect_type`` (good, 0: normal; 1 or a word: abnormal), ``group``.

    Args:
        path: the folder.
        image_dir: folder of the images, relative to ``path``; default: found by its name.
        mask_dir: folder of the masks, likewise.
        metadata_path: the metadata file, likewise; default: ``metadata.json`` beside the images' folder, if any.

    Raises:
        FileNotFoundError: a folder or file that was named is not there.
        LayoutError: no such folders, or the metadata cannot be read.
    """
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    pairs = _chosen_pairs(path, image_dir, mask_dir)
    root = Path(os.path.commonpath([path, *(folder for pair in pairs for folder in (pair.images, pair.masks))]))
    notes = Notes(root)
    found = Found([], root, published_split=False, name=path.name, attrs={"findings": notes.rows})
    metadata = _Metadata(_metadata_files(path, pairs, metadata_path))
    photos: list[tuple[Path, Path | None, str, _About | None]] = []
    for pair in pairs:
        masks = MaskFinder(images_in(pair.masks, found.ignored), pair.masks)
        for photo in images_in(pair.images, found.ignored):
            relative = photo.relative_to(pair.images)
            split = pair.split or SPLIT_NAMES.get(relative.parts[0].lower(), "")
            photos.append((photo, masks.take(relative), split, metadata.take(relative, pair.split)))
        found.unused_masks.extend(masks.unused())
    found.ignored = [file for file in found.ignored if file not in metadata.files]

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as executor:
        marked = executor.map(_is_marked, [mask for _, mask, _, _ in photos])
        for (photo, mask, split, about), defect in progress(zip(photos, marked, strict=True), "Reading masks"):
            row = _row(photo, mask, defect, split, about, notes)
            if row is not None:
                found.rows.append(row)
    found.published_split = is_published([row["split"] for row in found.rows])
    if not found.published_split:
        found.rows = [{**row, "split": ""} for row in found.rows]
    _note_gaps(path, photos, metadata, notes)
    return found


def _pairs(path: Path) -> Iterator[_Pair]:
    """Pairs of folders by their names: in the folder itself, else in its split folders."""
    own = _pair(path, "")
    if own is not None:
        yield own
        return
    for split, folder in split_folders(path).items():
        pair = _pair(folder, split)
        if pair is not None:
            yield pair


def _pair(folder: Path, split: str) -> _Pair | None:
    inside = {entry.name.lower(): entry for entry in folders_in(folder)}
    images = next((inside[name] for name in _IMAGE_FOLDERS if name in inside), None)
    masks = next((inside[name] for name in _MASK_FOLDERS if name in inside), None)
    return _Pair(images, masks, split) if images and masks else None


def _chosen_pairs(path: Path, image_dir: str | Path | None, mask_dir: str | Path | None) -> list[_Pair]:
    if (image_dir is None) != (mask_dir is None):
        raise LayoutError("image_dir and mask_dir go together; give both.")
    if image_dir is None or mask_dir is None:
        pairs = list(_pairs(path))
        if not pairs:
            raise LayoutError(
                f"{path} has no folders images and masks; name them with image_dir, mask_dir.\n{tree(path)}"
            )
        return pairs
    folders = [absolute_path(path / folder) for folder in (image_dir, mask_dir)]
    for name, folder in zip(("image_dir", "mask_dir"), folders, strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}; check {name}, which is relative to {path}.")
    return [_Pair(*folders, "")]


def _is_marked(mask: Path | None) -> bool:
    """Whether a mask marks any pixel; one that cannot be read counts, and check_dataset says what is wrong with it."""
    try:
        return mask is not None and bool(read_mask(mask).any())
    except ImageReadError:
        return True


def _row(
    photo: Path, mask: Path | None, marked: bool, split: str, about: _About | None, notes: Notes
) -> dict[str, Any] | None:
    """A row of the table, or None where label and mask contradict each other."""
    about = about or _About(None, "", "", "")
    if about.label == 0 and marked:
        problem = f"is normal by its metadata, but its mask {mask.name if mask else ''} marks pixels; it is left out"
        notes.add("error", photo, "mask-on-good", problem, "correct the label or the mask")
        return None
    if about.split and split and about.split != split:
        problem = f"lies in {split} but is in {about.split} by its metadata, which counts"
        notes.add("warning", photo, "split-contradiction", problem, "correct one of the two")
    abnormal = marked or about.label == 1
    return {
        "image_path": str(photo),
        "mask_path": str(mask) if abnormal and mask else "",
        "label_index": int(abnormal),
        "defect_type": about.defect_type if abnormal else NORMAL,
        "split": about.split or split,
        "group": about.group,
    }


def _note_gaps(
    path: Path, photos: list[tuple[Path, Path | None, str, _About | None]], metadata: _Metadata, notes: Notes
) -> None:
    """Note photos without a mask or a record, and records without a photo."""

    def first(files: list[Path]) -> str:
        return f"{files[0].name}{', ...' if len(files) > 1 else ''}"

    without = [photo for photo, mask, _, about in photos if mask is None and (about is None or about.label is None)]
    if without:
        problem = f"{len(without)} photo(s) without a mask count as normal ({first(without)})"
        notes.add("info", path, "photos-without-mask", problem, "add masks for those with a defect")
    unlisted = [photo for photo, _, _, about in photos if about is None]
    if metadata.files and unlisted:
        problem = f"{len(unlisted)} photo(s) are not in the metadata ({first(unlisted)})"
        notes.add("warning", metadata.files[0], "photos-not-in-metadata", problem, "add them, or remove the photos")
    for file, name in metadata.unused():
        notes.add(
            "error", file, "missing-photo", f"lists {name}, which is no photo here", "add it, or remove its record"
        )


# ------------------------------------------------------------------------------------------------------------- metadata


def _metadata_files(path: Path, pairs: list[_Pair], given: str | Path | None) -> list[tuple[Path, str]]:
    """Metadata files, each with the split whose photos it is about ("" for all)."""
    if given is not None:
        file = absolute_path(path / given)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}; check metadata_path, which is relative to {path}.")
        return [(file, "")]
    places = [(path / _METADATA, "")] + [(pair.images.parent / _METADATA, pair.split) for pair in pairs]
    return [(file, split) for file, split in dict(places).items() if file.is_file()]


@dataclass(frozen=True)
class _About:
    """What the metadata says of a photo; ``label`` is None and text "" where it says nothing."""

    label: int | None
    defect_type: str
    split: str
    group: str


class _Metadata:
    """Records of photos, found by name with or without folders and suffix."""

    def __init__(self, files: list[tuple[Path, str]]) -> None:
        self.files = [file for file, _ in files]
        self._records: dict[tuple[str, str], tuple[Path, str, _About]] = {}
        self._used: set[tuple[str, str]] = set()
        for file, split in files:
            for name, record in _records(file):
                key = (split, name.replace("\\", "/").removeprefix("./").lower())
                if key in self._records:
                    raise LayoutError(f"{file} has two records of {name}; keep one.")
                self._records[key] = (file, name, _about(record, file))

    def take(self, photo: Path, split: str) -> _About | None:
        """The record of a photo, given relative to the image folder."""
        whole = photo.as_posix().lower()
        names = (whole, photo.with_suffix("").as_posix().lower(), photo.name.lower(), photo.stem.lower())
        keys = [(of, name) for of in dict.fromkeys((split, "")) for name in names]
        # last, names with the image folder, or the folders of another machine, before them
        keys += [key for key in self._records if key[0] in (split, "") and key[1].endswith(f"/{whole}")]
        key = next((key for key in keys if key in self._records), None)
        if key is None:
            return None
        self._used.add(key)
        return self._records[key][2]

    def unused(self) -> list[tuple[Path, str]]:
        """Files and names of records that no photo asked for."""
        return [(file, name) for key, (file, name, _) in self._records.items() if key not in self._used]


def _about(record: dict[str, Any], file: Path) -> _About:
    label, defect_type = _text(record, "label", "label_index"), _text(record, "defect_type")
    if defect_type.lower() in NORMAL_NAMES:
        label, defect_type = label or NORMAL, ""
    index: int | None = 1 if defect_type else None
    if label:
        index, name = label_of(label, file)
        defect_type = defect_type or name
    split = _text(record, "split")
    return _About(index, defect_type, split_of(split, file), _text(record, "group"))


def _text(record: dict[str, Any], *keys: str) -> str:
    return next((str(record[key]).strip() for key in keys if record.get(key) is not None), "")


def _records(file: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LayoutError(f"{file} is not valid JSON ({error}); fix or remove it.") from error
    if isinstance(content, list):
        records = []
        for index, record in enumerate(content):
            name = _text(record, *_NAME_KEYS) if isinstance(record, dict) else ""
            if not name:
                raise LayoutError(f"{file}: record {index} has no file_name; give each record its photo.")
            records.append((name, record))
        return records
    if isinstance(content, dict) and all(isinstance(record, dict) for record in content.values()):
        return list(content.items())
    raise LayoutError(f"{file} is neither a list of records nor an object from file name to record; make it one.")
