"""A folder of images and one of masks, or both in one, as a sample table."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from helpers.data.annotations import read_json
from helpers.data.images import UNREAD_SUFFIXES
from helpers.data.layouts import (
    NORMAL_NAMES,
    Found,
    LayoutError,
    files_in,
    first_names,
    folders_in,
    label_of,
    pictures_in,
    split_folders,
    split_of,
    tree,
    words_in,
)
from helpers.data.masks import MASK_WORDS, PHOTO_WORDS, MaskFinder, are_marked, masks_beside, stripped, united_mask
from helpers.data.names import SPLIT_NAMES, folded, match_listed
from helpers.data.samples import NORMAL, absolute_path

_METADATA = "metadata.json"
_FIELDS = frozenset({"split", "label", "label_index", "defect_type", "group"})
_NAME_KEYS = ("file_name", "filename", "image", "image_path", "image_name", "file", "name", "path")


class _Pair(NamedTuple):
    """A folder of images, that of their masks (the same one where they lie together), and the split they stand for."""

    images: Path
    masks: Path
    split: str


class _About(NamedTuple):
    """What the metadata says of a photo; ``label`` is None and text "" where it says nothing."""

    label: int | None = None
    defect_type: str = ""
    split: str = ""
    group: str = ""


def has_image_masks(path: Path) -> bool:
    """Whether images and masks lie in folders of these names, in the folder or in its split folders, or together."""
    if not path.is_dir():
        return False
    named = any(pictures_in(pair.images) and pictures_in(pair.masks) for pair in _pairs(path))
    return named or bool(masks_beside(pictures_in(path)))


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
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    pairs = _chosen_pairs(path, image_dir, mask_dir)
    found.root = Path(os.path.commonpath([path, *(folder for pair in pairs for folder in pair[:2])]))
    masks: dict[Path, list[Path]] = {}
    splits: dict[Path, str] = {}
    for pair in pairs:
        pictures, ignored = files_in(pair.images)
        together = pair.images == pair.masks
        marks, others = (masks_beside(pictures), ignored) if together else files_in(pair.masks)
        found.ignored += ignored if together else ignored + others
        # their folder may lie in that of the photos
        photos = {photo: photo.relative_to(pair.images) for photo in sorted(set(pictures) - set(marks))}
        finder = MaskFinder(marks, pair.masks)
        masks |= finder.pair(photos)
        # a mask in a format that is not read is one all the same: without it the photo would count as normal
        unread = [file for file in others if file.suffix.lower() in UNREAD_SUFFIXES]
        without = {photo: name for photo, name in photos.items() if photo not in masks}
        masks |= MaskFinder(unread, pair.masks).pair(without)
        finder.finish(found)
        splits |= {photo: pair.split or SPLIT_NAMES.get(name.parts[0].lower(), "") for photo, name in photos.items()}
    files = _metadata_files(path, pairs, metadata_path)
    abouts = _read_metadata(files, pairs, list(splits), found)
    found.ignored = [file for file in found.ignored if file not in files]
    for photo, marked in zip(splits, are_marked([masks.get(photo, []) for photo in splits]), strict=True):
        _add(photo, masks.get(photo, []), marked, splits[photo], abouts.get(photo, _About()), found)
    without = [photo for photo in splits if photo not in masks and abouts.get(photo, _About()).label is None]
    if without:
        found.note("photos-without-mask", path, n=len(without), first=first_names(without))


def _pairs(path: Path) -> list[_Pair]:
    """Pairs of folders whose names are alike but for words for images and masks, here or else in the split folders."""
    pairs: list[_Pair] = []
    for split, folder in {"": path, **split_folders(path)}.items():
        images, masks = {}, {}
        for entry in folders_in(folder):
            words = words_in(entry.name)
            for kind, known in ((images, PHOTO_WORDS), (masks, MASK_WORDS)):
                if (rest := stripped(words, known)) != words:
                    kind.setdefault(rest, entry)
        for rest in images.keys() & masks.keys():
            pairs.append(_Pair(images[rest], masks[rest], split or SPLIT_NAMES.get(" ".join(rest), "")))
        if pairs and not split:
            break
    return sorted(pairs)


def _chosen_pairs(path: Path, image_dir: str | Path | None, mask_dir: str | Path | None) -> list[_Pair]:
    if (image_dir is None) != (mask_dir is None):
        raise LayoutError("image_dir and mask_dir go together; give both.")
    if image_dir is None or mask_dir is None:
        pairs = _pairs(path)
        if not pairs and not masks_beside(pictures_in(path)):
            how = "name them with image_dir, mask_dir"
            raise LayoutError(f"{path} has no folders images and masks; {how}.\n{tree(path)}")
        return pairs or [_Pair(path, path, "")]
    folders = [absolute_path(path / folder) for folder in (image_dir, mask_dir)]
    for name, folder in zip(("image_dir", "mask_dir"), folders, strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}; check {name}, which is relative to {path}.")
    return [_Pair(*folders, "")]


def _add(photo: Path, masks: list[Path], marked: bool, split: str, about: _About, found: Found) -> None:
    """Add the row of a photo, or a finding where label and mask contradict each other."""
    if about.label == 0 and marked:
        found.note("mask-on-good:record", photo, mask=masks[0].name)
        return
    if about.split and split and about.split != split:
        found.note("split-contradiction:record", photo, split=split, other=about.split)
    abnormal = marked or about.label == 1
    row = {"image_path": str(photo), "mask_path": "", "label_index": int(abnormal), "defect_type": NORMAL}
    if abnormal:
        row |= {"mask_path": united_mask(photo, masks, found), "defect_type": about.defect_type}
    else:
        found.empty_masks.extend(masks)
    found.rows.append(row | {"split": about.split or split, "group": about.group})


# ------------------------------------------------------------------------------------------------------------- metadata


def _metadata_files(path: Path, pairs: list[_Pair], given: str | Path | None) -> dict[Path, list[_Pair]]:
    """Metadata files, each with the folders whose photos it is about."""
    if given is not None:
        file = absolute_path(path / given)
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}; check metadata_path, which is relative to {path}.")
        return {file: pairs}
    files = {path / _METADATA: pairs}
    for pair in pairs:
        file = pair.images.parent / _METADATA
        files[file] = pairs if file.parent == path else [*files.get(file, []), pair]
    return {file: those for file, those in files.items() if file.is_file()}


def _read_metadata(
    files: dict[Path, list[_Pair]], pairs: list[_Pair], photos: list[Path], found: Found
) -> dict[Path, _About]:
    """What is said of each photo; findings for records and photos that do not go together, and for unread fields."""
    abouts: dict[Path, _About] = {}
    for file, those in files.items():
        records = _records(file)
        folders = [pair.images for pair in those]
        candidates = [photo for photo in photos if any(photo.is_relative_to(folder) for folder in folders)]
        named, refused = match_listed(records, candidates, found.root, folders if len(folders) == 1 else ())
        whose: dict[Path, str] = {}
        for name, photo in named.items():
            if photo in whose:
                raise LayoutError(f"{file} has two records of {name}; keep one.")
            whose[photo] = name
            abouts[photo] = _about(records[name], file)
        for name, alike in refused.items():
            found.note_ambiguous(file, name, alike)
        for name in (name for name in records if name not in named and name not in refused):
            found.note("missing-photo:record", file, name=name)
        fields = sorted({field for record in records.values() for field in record} - _FIELDS - set(_NAME_KEYS))
        if fields:
            found.note("unread-fields", file, names=", ".join(fields[:5]), fields=", ".join(sorted(_FIELDS)))
    unlisted = [photo for photo in photos if photo not in abouts]
    if files and unlisted:
        found.note("photos-not-in-metadata", next(iter(files)), n=len(unlisted), first=first_names(unlisted))
    return abouts


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """Records by the name of their photo."""
    content = read_json(file)
    if isinstance(content, list):
        names = [_text(record, *_NAME_KEYS) if isinstance(record, dict) else "" for record in content]
        if not all(names):
            raise LayoutError(f"{file}: record {names.index('')} has no file_name; give each record its photo.")
    elif isinstance(content, dict) and all(isinstance(record, dict) for record in content.values()):
        names, content = list(content), list(content.values())
    else:
        raise LayoutError(f"{file} is neither a list of records nor an object from file name to record; make it one.")
    counts = Counter(map(folded, names))
    if twice := [name for name in names if counts[folded(name)] > 1]:
        raise LayoutError(f"{file} has two records of {twice[-1]}; keep one.")
    return dict(zip(names, content, strict=True))


def _about(record: dict[str, Any], file: Path) -> _About:
    label, defect_type = _text(record, "label", "label_index"), _text(record, "defect_type")
    if defect_type.lower() in NORMAL_NAMES:
        label, defect_type = label or NORMAL, ""
    index: int | None = 1 if defect_type else None
    if label:
        index, name = label_of(label, file)
        if index == 0 and defect_type:
            raise LayoutError(f"{file} has a record that is normal ({label}) and {defect_type!r}; correct one.")
        defect_type = defect_type or name
    return _About(index, defect_type, split_of(_text(record, "split"), file), _text(record, "group"))


def _text(record: dict[str, Any], *keys: str) -> str:
    return next((str(record[key]).strip() for key in keys if record.get(key) is not None), "")
