"""A folder of images and one of masks, or both in one, as a sample table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from helpers.data.annotations import read_json
from helpers.data.images import UNREAD_SUFFIXES
from helpers.data.layouts import (
    Found,
    LayoutError,
    files_in,
    first_names,
    folders_in,
    pictures_in,
    split_folders,
    split_of,
    tree,
    words_in,
)
from helpers.data.masks import MASK_WORDS, PHOTO_WORDS, MaskFinder, are_marked, masks_beside, stripped, united_mask
from helpers.data.names import SPLIT_NAMES, match_names
from helpers.data.samples import NORMAL, absolute_path
from helpers.data.tables import labels_of

_METADATA = "metadata.json"
_FIELDS = frozenset({"split", "label", "label_index", "defect_type", "group"})

Pair = tuple[Path, Path, str]
"""A folder of images, that of their masks (the same one where they lie together), and the split they stand for."""


def has_image_masks(path: Path) -> bool:
    """Whether images and masks lie in folders of these names, in the folder or in its split folders, or together."""
    named = any(pictures_in(images) and pictures_in(masks) for images, masks, _ in _pairs(path))
    return named or (path.is_dir() and bool(masks_beside(pictures_in(path))))


def read_image_masks(
    found: Found,
    *,
    image_dir: str | Path | None = None,
    mask_dir: str | Path | None = None,
    metadata_path: str | Path | None = None,
) -> None:
    """``images/`` and ``masks/``, or those of each split's folder, or both together (``1.png``, ``1_GT.png``).

    How masks find their photos is said at `MaskFinder`. A photo whose mask is missing or empty is normal, any other
    abnormal; a label in the metadata goes before a missing or empty mask. A photo whose label says normal and whose
    mask marks pixels is left out with a finding. ``image_dir``, ``mask_dir``: their folders, relative to the dataset;
    default: found by their names. ``metadata_path``: likewise, a list of records with ``file_name``, or an object from
    file name to record, with ``split``, ``label`` or ``defect_type``, ``group``; default: ``metadata.json`` beside the
    images' folder, if any.
    """
    path = found.path
    pairs = _chosen_pairs(path, image_dir, mask_dir)
    found.root = Path(os.path.commonpath([path, *(folder for pair in pairs for folder in pair[:2])]))
    masks: dict[Path, list[Path]] = {}
    splits: dict[Path, str] = {}
    for images, mask_folder, split in pairs:
        pictures, others = files_in(images)
        if images == mask_folder:
            marks = masks_beside(pictures)
        else:
            marks, others = files_in(mask_folder)
        # their folder may lie in that of the photos
        photos = {photo: photo.relative_to(images) for photo in sorted(set(pictures) - set(marks))}
        finder = MaskFinder(marks, mask_folder)
        masks |= finder.pair(photos)
        # a mask in a format that is not read is one all the same: without it the photo would count as normal
        unread = [file for file in others if file.suffix.lower() in UNREAD_SUFFIXES]
        masks |= MaskFinder(unread, mask_folder).pair(
            {photo: name for photo, name in photos.items() if photo not in masks}
        )
        finder.finish(found)
        splits |= {photo: split or SPLIT_NAMES.get(name.parts[0].lower(), "") for photo, name in photos.items()}
    about = _metadata(pairs, metadata_path, list(splits), found)
    for photo, marked in zip(splits, are_marked([masks.get(photo, []) for photo in splits]), strict=True):
        record, split, those = about.get(photo, {}), splits[photo], masks.get(photo, [])
        abnormal = marked or record.get("label_index") == 1
        row = {"image_path": str(photo), "mask_path": "", "label_index": int(abnormal), "defect_type": NORMAL}
        if marked and record.get("label_index") == 0:
            found.note("mask-on-good:record", photo, mask=those[0].name)
            continue
        if abnormal:
            row |= {"mask_path": united_mask(photo, those, found), "defect_type": record.get("defect_type", "")}
        else:
            found.empty_masks.extend(those)
        other = record.get("split", "")
        if other and split and other != split:
            found.note("split-contradiction:record", photo, split=split, other=other)
        found.rows.append(row | {"split": other or split, "group": record.get("group", "")})
    without = [photo for photo in splits if photo not in masks and about.get(photo, {}).get("label_index") is None]
    if without:
        found.note("photos-without-mask", path, n=len(without), first=first_names(without))


def _pairs(path: Path) -> list[Pair]:
    """Pairs of folders whose names are alike but for words for images and masks, here or else in the split folders."""
    pairs: list[Pair] = []
    for split, folder in {"": path, **split_folders(path)}.items():
        images, masks = {}, {}
        for entry in folders_in(folder):
            words = words_in(entry.name)
            for kind, known in ((images, PHOTO_WORDS), (masks, MASK_WORDS)):
                if (rest := stripped(words, known)) != words:
                    kind.setdefault(rest, entry)
        for rest in images.keys() & masks.keys():
            pairs.append((images[rest], masks[rest], split or SPLIT_NAMES.get(" ".join(rest), "")))
        if pairs and not split:
            break
    return sorted(pairs)


def _chosen_pairs(path: Path, image_dir: str | Path | None, mask_dir: str | Path | None) -> list[Pair]:
    if (image_dir is None) != (mask_dir is None):
        raise LayoutError("image_dir and mask_dir go together; give both.")
    if image_dir is None or mask_dir is None:
        pairs = _pairs(path)
        if not pairs and not masks_beside(pictures_in(path)):
            how = "name them with image_dir, mask_dir"
            raise LayoutError(f"{path} has no folders images and masks; {how}.\n{tree(path)}")
        return pairs or [(path, path, "")]
    folders = [absolute_path(path / folder) for folder in (image_dir, mask_dir)]
    for name, folder in zip(("image_dir", "mask_dir"), folders, strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}; check {name}, which is relative to {path}.")
    return [(*folders, "")]


# ------------------------------------------------------------------------------------------------------------- metadata


def _metadata(
    pairs: list[Pair], given: str | Path | None, photos: list[Path], found: Found
) -> dict[Path, dict[str, Any]]:
    """What is said of each photo; findings for records and photos that do not go together, and for unread fields."""
    file = absolute_path(found.path / (given or _METADATA))
    if given is not None and not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; check metadata_path, which is relative to {found.path}.")
    files = [file] if given else dict.fromkeys([file, *(images.parent / _METADATA for images, *_ in pairs)])
    files = [file for file in files if file.is_file()]
    about: dict[Path, dict[str, Any]] = {}
    for file in files:
        folders = [images for images, *_ in pairs if given or images.is_relative_to(file.parent)]
        candidates = [photo for photo in photos if any(photo.is_relative_to(folder) for folder in folders)]
        records = _records(file)
        below = folders if len(folders) == 1 else ()
        named, refused = match_names(records, candidates, found.root, below, suffix=False)
        if len(set(named.values())) < len(named):
            raise LayoutError(f"{file} has two records of one photo; keep one of each.")
        for name, photo in named.items():
            record = {key: "" if value is None else str(value).strip() for key, value in records[name].items()}
            columns = {"split": split_of(record.get("split", ""), file), "group": record.get("group", "")}
            label, kind = labels_of(record, file)
            about[photo] = columns | {"label_index": label, "defect_type": kind}
        for name, alike in refused.items():
            found.note_ambiguous(file, name, alike)
        for name in (name for name in records if name not in named and name not in refused):
            found.note("missing-photo:record", file, name=name)
        fields = sorted({field for record in records.values() for field in record} - _FIELDS - {"file_name"})
        if fields:
            found.note("unread-fields", file, names=", ".join(fields[:5]), fields=", ".join(sorted(_FIELDS)))
    unlisted = [photo for photo in photos if photo not in about]
    if files and unlisted:
        found.note("photos-not-in-metadata", files[0], n=len(unlisted), first=first_names(unlisted))
    return about


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """Records by the name of their photo."""
    content = read_json(file)
    pairs = list(content.items()) if isinstance(content, dict) else None
    if isinstance(content, list):
        pairs = [(record.get("file_name"), record) if isinstance(record, dict) else ("", record) for record in content]
    if pairs is None or not all(isinstance(name, str) and name and isinstance(about, dict) for name, about in pairs):
        raise LayoutError(f"{file} is neither an object from file name to record nor a list of records with file_name.")
    records = dict(pairs)
    if len(records) < len(pairs):
        raise LayoutError(f"{file} has two records of one photo; keep one of each.")
    return records
