"""Photos and masks paired by their names; a folder of images and one of masks, or both in one, as a sample table."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.annotations import Notes, cached_mask, is_published, mask_folder, region_of
from helpers.data.formats import (
    NORMAL_NAMES,
    SPLIT_NAMES,
    Found,
    LayoutError,
    folders_in,
    images_in,
    label_of,
    split_folders,
    split_of,
    tree,
    words_in,
)
from helpers.data.images import UNREAD_SUFFIXES, ImageReadError, decode_image, image_sizes, read_mask
from helpers.data.samples import NORMAL, absolute_path
from helpers.progress import progress

MASK_WORDS = frozenset(
    words_in(
        "mask masks gt groundtruth ground truth label labels seg segm segmentation segmentations annotation "
        "annotations anno annot binary"
    )
)
"""Words (lower case) that names of masks and of their folders have beside what they share with the photo."""

PHOTO_WORDS = frozenset(words_in("image images img imgs photo photos picture pictures pic frame rgb jpegimages"))
"""Likewise for photos."""

_ENDINGS = ("_mask", "", "_gt", "_ground_truth", "_label", "-mask", ".mask")
_METADATA = "metadata.json"
_FIELDS = frozenset({"split", "label", "label_index", "defect_type", "group"})
_NAME_KEYS = ("file_name", "filename", "image", "image_path", "image_name", "file", "name", "path")
_FEW_VALUES = 32  # more classes has no mask of indices, and fewer grey values no photo
_FLAT_SHARE = 0.95  # of a mask with soft edges is 0 or the largest value


# ------------------------------------------------------------------------------------------------------ pairing by name


def stripped(words: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    """Words without known ones at their ends."""
    start, end = 0, len(words)
    while start < end and words[start] in known:
        start += 1
    while start < end and words[end - 1] in known:
        end -= 1
    return words[start:end]


class MaskFinder:
    """Masks of one folder, given to photos by what their names have in common, each mask once.

    A mask is that of a photo if it lies in a folder of the photo's name (then all that lie there are), or if its name
    is the photo's with a usual ending, with other words for masks around it, or with any others where that leaves one
    photo only; in the same subfolder, or elsewhere where no other photo has the name. Case and suffix do not matter.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._relative = {file: file.relative_to(folder) for file in files}
        self._used: set[Path] = set()
        self._guesses: list[tuple[Path, str]] = []

    def pair(self, photos: Mapping[Any, Path]) -> dict[Any, list[Path]]:
        """Masks of photos, which are given by any key and their path relative to their folder."""
        pairs: dict[Any, list[Path]] = {}
        self._pair_folders(photos, pairs)
        self._pair_endings(photos, pairs)
        for anywhere in (False, True):
            self._pair_words(photos, pairs, anywhere)
        self._pair_affixes(photos, pairs)
        return pairs

    def unused(self) -> list[Path]:
        """Masks that no photo asked for."""
        return [file for file in self._relative if file not in self._used]

    def note_guesses(self, notes: Notes) -> None:
        """Note, in one finding, that names were taken for those of a photo by what they have in common alone."""
        if self._guesses:
            mask, photo = self._guesses[0]
            problem = (
                f"{len(self._guesses)} mask(s) belong to a photo by what the names share alone: this one to {photo}"
            )
            notes.add("info", mask, "masks-by-name", problem, "look at a few in notebook 01")

    def _give(self, pairs: dict[Any, list[Path]], key: Any, mask: Path) -> None:
        pairs.setdefault(key, []).append(mask)
        self._used.add(mask)

    def _pair_folders(self, photos: Mapping[Any, Path], pairs: dict[Any, list[Path]]) -> None:
        by_folder = defaultdict(list)
        for mask, relative in self._relative.items():
            by_folder[_folded(relative.parent.as_posix())].append(mask)
        for key, photo in photos.items():
            for folder in (photo.with_suffix(""), photo):  # 1/000.png or 1.png/000.png of 1.png
                for mask in by_folder.get(_folded(folder.as_posix()), []):
                    if mask not in self._used:
                        self._give(pairs, key, mask)

    def _pair_endings(self, photos: Mapping[Any, Path], pairs: dict[Any, list[Path]]) -> None:
        by_stem: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for mask, relative in self._relative.items():
            by_stem[_folded(relative.parent.as_posix()), _folded(relative.stem)].append(mask)
        alike = _grouped(photos, lambda photo: (_folded(photo.parent.as_posix()), _folded(photo.stem)))
        for (parent, stem), keys in alike.items():
            names = Counter(photos[key].name for key in keys)
            for key in keys:
                name = photos[key].name
                if key in pairs or names[name] > 1:  # photos of several folders, whose masks lie in one
                    continue
                # of photos that differ in suffix or case alone, only the whole name says whose a mask is
                stems = [name] if len(keys) > 1 else [name, stem]
                exact = [by_stem.get((parent, _folded(text + ending)), []) for text in stems for ending in _ENDINGS]
                if len(keys) > 1:
                    exact.append([mask for mask in by_stem.get((parent, stem), []) if mask.name == name])
                free = next((left for masks in exact if (left := [m for m in masks if m not in self._used])), [])
                if free:
                    self._give(
                        pairs, key, min(free, key=lambda mask: (mask.stem[: len(stem)] != photos[key].stem, mask))
                    )

    def _pair_words(self, photos: Mapping[Any, Path], pairs: dict[Any, list[Path]], anywhere: bool) -> None:
        free = {mask: relative for mask, relative in self._relative.items() if mask not in self._used}
        if not free:
            return

        def place(path: Path) -> str:
            return "" if anywhere else _folded(path.parent.as_posix())

        masks = _grouped(free, lambda path: (place(path), stripped(words_in(path.stem), MASK_WORDS)))
        for known in (frozenset(), PHOTO_WORDS):
            alike = _grouped(photos, lambda path, known=known: (place(path), stripped(words_in(path.stem), known)))
            for where, keys in alike.items():
                left = [mask for mask in masks.get(where, []) if mask not in self._used]
                if where[1] and left and len(keys) == 1 and keys[0] not in pairs:
                    self._give(pairs, keys[0], left[0])
                    if anywhere:
                        self._guesses.append((left[0], photos[keys[0]].name))

    def _pair_affixes(self, photos: Mapping[Any, Path], pairs: dict[Any, list[Path]]) -> None:
        named = set(pairs)
        for known in (frozenset(), PHOTO_WORDS):
            alike = _grouped(photos, lambda path, known=known: (path.parent, stripped(words_in(path.stem), known)))
            lengths: dict[Path, set[int]] = defaultdict(set)
            for parent, words in alike:
                lengths[parent].add(len(words))
            for mask, relative in self._relative.items():
                length = lengths.get(relative.parent, set())
                words = words_in(relative.stem)
                # names of different lengths may be one another's beginning
                if mask in self._used or len(length) != 1 or not 0 < (count := min(length)) < len(words):
                    continue
                ends = {words[:count], words[-count:]}
                keys = [key for end in ends for key in alike.get((relative.parent, end), [])]
                if len(keys) == 1 and keys[0] not in named:
                    self._give(pairs, keys[0], mask)
                    self._guesses.append((mask, photos[keys[0]].name))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _grouped(paths: Mapping[Any, Path], key: Callable[[Path], Any]) -> dict[Any, list[Any]]:
    groups = defaultdict(list)
    for name, path in paths.items():
        groups[key(path)].append(name)
    return groups


def masks_beside(pictures: Sequence[Path]) -> list[Path]:
    """Those of the pictures that are masks of others beside them: ``1_GT.png`` of ``1.png``, or ``1.png`` of ``1.jpg``.

    A name alone makes no mask where a lossless file lies beside one of the same stem: it has to look like one.
    """
    by_words = _grouped({file: file for file in pictures}, lambda file: (file.parent, words_in(file.stem)))
    by_stem = _grouped({file: file for file in pictures}, lambda file: (file.parent, _folded(file.stem)))
    named = {}
    for file in pictures:
        words = words_in(file.stem)
        rest = stripped(words, MASK_WORDS)
        if rest and rest != words:
            named[file] = (file.parent, rest) in by_words
    masks = {file for file, has_photo in named.items() if has_photo}
    lossless = (".png", ".bmp", ".tif", ".tiff", ".webp")
    couples = [files for files in by_stem.values() if len(files) > 1]
    asked = [file for files in couples for file in files if file.suffix.lower() in lossless]
    twins = {file for file, is_mask in zip(asked, _parallel(looks_like_mask, asked), strict=True) if is_mask}
    for files in couples:
        if twins.issuperset(files):
            twins.discard(files[0])
    if twins:
        # where a mask has the photo's stem, one without a photo has too
        suffixes = {file.suffix.lower() for file in twins}
        lone = [files[0] for files in by_stem.values() if len(files) == 1 and files[0].suffix.lower() in suffixes]
        twins |= {file for file, is_mask in zip(lone, _parallel(looks_like_mask, lone), strict=True) if is_mask}
    if masks:
        masks |= {file for file, has_photo in named.items() if not has_photo and looks_like_mask(file)}
    return sorted(masks | twins)


# --------------------------------------------------------------------------------------------------- what masks show


def is_mask_like(values: np.ndarray, *, lossy: bool = False) -> bool:
    """Whether stored values (H, W) are a mask's: a background of 0, and few values or hardly any between two."""
    if not values.size or values.dtype.kind == "f":
        return False
    top = 255 if lossy else values.max()
    if lossy:
        low, flat = values <= 16, (values <= 16) | (values >= 239)
        return bool(low.any()) and float(flat.mean()) >= _FLAT_SHARE
    if values.min() != 0:
        return bool(values.min() == top == 255)
    if float(((values == 0) | (values == top)).mean()) >= _FLAT_SHARE:
        return True
    return len(np.unique(values)) <= _FEW_VALUES


def looks_like_mask(file: Path) -> bool:
    """Whether a picture is one; a file that cannot be read is none."""
    try:
        decoded = decode_image(file)
        return is_mask_like(decoded.mask_values(), lossy=decoded.lossy)
    except (ImageReadError, OSError):
        return False


def are_marked(masks: Sequence[Sequence[Path]]) -> list[bool]:
    """Whether the masks of each photo mark any pixel; one that cannot be read counts: the check says what it has."""

    def marked(files: Sequence[Path]) -> bool:
        try:
            return any(bool(read_mask(file).any()) for file in files)
        except ImageReadError:
            return True

    return list(progress(_parallel(marked, masks), "Reading masks", total=len(masks)))


def united_mask(photo: Path, masks: Sequence[Path], found: Found, cache: Path) -> str:
    """The mask of a photo: the only one, or several drawn as one. One that cannot be drawn is given as it is."""
    if len(masks) < 2:
        return str(masks[0]) if masks else ""
    pixels = []
    for mask in masks:
        try:
            height, width = image_sizes([photo])[0]
            pixels.append(read_mask(mask, (int(height), int(width))))
        except ValueError:
            return str(mask)
    found.attrs["mask_cache"] = str(cache)
    return str(cached_mask(cache, photo.relative_to(found.root).as_posix(), [region_of(part) for part in pixels]))


def _parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as executor:
        yield from executor.map(function, items)


# ------------------------------------------------------------------------------------------------------- the layout


@dataclass(frozen=True)
class _Pair:
    """A folder of images, that of their masks (the same one where they lie together), and the split they stand for."""

    images: Path
    masks: Path
    split: str


@dataclass(frozen=True)
class _Photo:
    path: Path
    masks: list[Path]
    split: str
    about: _About


def has_image_masks(path: Path) -> bool:
    """Whether images and masks lie in folders of these names, in the folder or in its split folders, or together."""
    if not path.is_dir():
        return False
    if any(images_in(pair.images, []) and images_in(pair.masks, []) for pair in _pairs(path)):
        return True
    return bool(masks_beside(images_in(path, [])))


def read_image_masks(
    path: Path,
    *,
    image_dir: str | Path | None = None,
    mask_dir: str | Path | None = None,
    metadata_path: str | Path | None = None,
    mask_cache: str | Path | None = None,
) -> Found:
    """Read ``images/`` and ``masks/``, or those of each split's folder, or photos and masks that lie together
    (``1.png``, ``1_GT.png``); reached through `helpers.read_dataset`.

    How masks find their photos is said at `MaskFinder`. A photo whose mask is missing or empty is normal, any other
    abnormal; a label in the metadata goes before a missing or empty mask. A photo whose label says normal and whose
    mask marks pixels is left out with a finding.

    The metadata file is a list of records with ``file_name`` (or ``image``, ``filename``, ``name``, ...), or an object
    from file name to record, names being relative to the image folder, with or without folders and suffix. Fields that
    are read: ``split``, ``label`` or ``defect_type`` (good, 0: normal; 1 or a word: abnormal), ``group``.

    Args:
        path: the folder.
        image_dir: folder of the images, relative to ``path``; default: found by its name.
        mask_dir: folder of the masks, likewise.
        metadata_path: the metadata file, likewise; default: ``metadata.json`` beside the images' folder, if any.
        mask_cache: folder for masks that are drawn from several; default: ``artifacts/.masks`` in the project.

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
    photos: list[_Photo] = []
    for pair in pairs:
        images = images_in(pair.images, found.ignored)
        together = pair.images == pair.masks
        others: list[Path] = []
        marks = masks_beside(images) if together else images_in(pair.masks, others)
        found.ignored += others
        unread = [file for file in (found.ignored if together else others) if file.suffix.lower() in UNREAD_SUFFIXES]
        images = sorted(set(images) - set(marks))  # their folder may lie in that of the photos
        relative = {photo: photo.relative_to(pair.images) for photo in images}
        finder = MaskFinder(marks, pair.masks)
        masks = finder.pair(relative)
        # a mask in a format that is not read is one all the same: without it the photo would count as normal
        without = {photo: name for photo, name in relative.items() if photo not in masks}
        masks |= MaskFinder(unread, pair.masks).pair(without)
        abouts = metadata.take(relative, pair.split)
        for photo, name in relative.items():
            split = pair.split or SPLIT_NAMES.get(name.parts[0].lower(), "")
            photos.append(_Photo(photo, masks.get(photo, []), split, abouts.get(photo, _NOTHING)))
        finder.note_guesses(notes)
        found.unused_masks.extend(finder.unused())
    found.ignored = [file for file in found.ignored if file not in metadata.files]

    cache = mask_folder(root, mask_cache)
    for photo, marked in zip(photos, are_marked([photo.masks for photo in photos]), strict=True):
        row = _row(photo, marked, notes)
        if row is not None:
            if row["label_index"] and photo.masks:
                row["mask_path"] = united_mask(photo.path, photo.masks, found, cache)
            else:
                found.empty_masks.extend(photo.masks)
            found.rows.append(row)
    found.published_split = is_published([row["split"] for row in found.rows])
    if not found.published_split:
        found.rows = [{**row, "split": ""} for row in found.rows]
    _note_gaps(path, photos, metadata, notes)
    return found


def _pairs(path: Path) -> list[_Pair]:
    """Pairs of folders whose names are alike but for words for images and masks, here or else in the split folders."""
    found: list[_Pair] = []
    for split, folder in {"": path, **split_folders(path)}.items():
        kinds: dict[str, dict[tuple[str, ...], Path]] = {"images": {}, "masks": {}}
        for entry in folders_in(folder):
            words = words_in(entry.name)
            for kind, known in (("images", PHOTO_WORDS), ("masks", MASK_WORDS)):
                if (rest := stripped(words, known)) != words:
                    kinds[kind].setdefault(rest, entry)
        for rest, images in kinds["images"].items():
            if rest in kinds["masks"]:
                found.append(_Pair(images, kinds["masks"][rest], split or SPLIT_NAMES.get(" ".join(rest), "")))
        if found and not split:
            break
    return found


def _chosen_pairs(path: Path, image_dir: str | Path | None, mask_dir: str | Path | None) -> list[_Pair]:
    if (image_dir is None) != (mask_dir is None):
        raise LayoutError("image_dir and mask_dir go together; give both.")
    if image_dir is None or mask_dir is None:
        pairs = _pairs(path)
        if not pairs and not masks_beside(images_in(path, [])):
            raise LayoutError(
                f"{path} has no folders images and masks; name them with image_dir, mask_dir.\n{tree(path)}"
            )
        return pairs or [_Pair(path, path, "")]
    folders = [absolute_path(path / folder) for folder in (image_dir, mask_dir)]
    for name, folder in zip(("image_dir", "mask_dir"), folders, strict=True):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}; check {name}, which is relative to {path}.")
    return [_Pair(*folders, "")]


def _row(photo: _Photo, marked: bool, notes: Notes) -> dict[str, Any] | None:
    """A row of the table, or None where label and mask contradict each other."""
    about, split = photo.about, photo.split
    if about.label == 0 and marked:
        problem = f"is normal by its metadata, but its mask {photo.masks[0].name} marks pixels; it is left out"
        notes.add("error", photo.path, "mask-on-good", problem, "correct the label or the mask")
        return None
    if about.split and split and about.split != split:
        problem = f"lies in {split} but is in {about.split} by its metadata, which counts"
        notes.add("warning", photo.path, "split-contradiction", problem, "correct one of the two")
    abnormal = marked or about.label == 1
    return {
        "image_path": str(photo.path),
        "mask_path": "",
        "label_index": int(abnormal),
        "defect_type": about.defect_type if abnormal else NORMAL,
        "split": about.split or split,
        "group": about.group,
    }


def _note_gaps(path: Path, photos: list[_Photo], metadata: _Metadata, notes: Notes) -> None:
    """Note photos without a mask or a record, and records without a photo."""

    def first(files: list[Path]) -> str:
        return f"{files[0].name}{', ...' if len(files) > 1 else ''}"

    without = [photo.path for photo in photos if not photo.masks and photo.about.label is None]
    if without:
        problem = f"{len(without)} photo(s) without a mask count as normal ({first(without)})"
        notes.add("info", path, "photos-without-mask", problem, "add masks for those with a defect")
    unlisted = [photo.path for photo in photos if photo.about is _NOTHING]
    if metadata.files and unlisted:
        problem = f"{len(unlisted)} photo(s) are not in the metadata ({first(unlisted)})"
        notes.add("warning", metadata.files[0], "photos-not-in-metadata", problem, "add them, or remove the photos")
    if fields := sorted(metadata.unread - set(_NAME_KEYS)):
        problem = f"has fields that are not read: {', '.join(fields[:5])}{', ...' if len(fields) > 5 else ''}"
        fix = f"where they say what is normal, call them as those that are: {', '.join(sorted(_FIELDS))}"
        notes.add("warning", metadata.files[0], "unread-fields", problem, fix)
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


_NOTHING = _About(None, "", "", "")


class _Metadata:
    """Records of photos, found by name with or without folders and suffix."""

    def __init__(self, files: list[tuple[Path, str]]) -> None:
        self.files = [file for file, _ in files]
        self._records: dict[tuple[str, str], tuple[Path, str, _About]] = {}
        self._used: set[tuple[str, str]] = set()
        self.unread: set[str] = set()
        # names with the image folder, or the folders of another machine, before them; by their last part
        self._by_tail: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for file, split in files:
            for name, record in _records(file):
                key = (split, _folded(name.replace("\\", "/").removeprefix("./")))
                if key in self._records:
                    raise LayoutError(f"{file} has two records of {name}; keep one.")
                self._records[key] = (file, name, _about(record, file))
                self.unread.update(record.keys() - _FIELDS)
                self._by_tail[split, key[1].rpartition("/")[2]].append(key)

    def take(self, photos: Mapping[Path, Path], split: str) -> dict[Path, _About]:
        """Records of photos, given with their path relative to the image folder."""
        taken = {}
        for photo, relative in photos.items():
            whole = _folded(relative.as_posix())
            names = (
                whole,
                _folded(relative.with_suffix("").as_posix()),
                _folded(relative.name),
                _folded(relative.stem),
            )
            keys = [(of, name) for of in dict.fromkeys((split, "")) for name in names]
            last = _folded(relative.name)
            for of in dict.fromkeys((split, "")):
                keys += [key for key in self._by_tail.get((of, last), []) if key[1].endswith(f"/{whole}")]
            key = next((key for key in keys if key in self._records), None)
            if key is not None:
                self._used.add(key)
                taken[photo] = self._records[key][2]
        return taken

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
        if index == 0 and defect_type:
            raise LayoutError(f"{file} has a record that is normal ({label}) and {defect_type!r}; correct one.")
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
