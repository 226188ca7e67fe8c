"""Masks: whose they are by what names have in common, and whether a picture is one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis.regions import region_of
from helpers.data.images import ImageReadError, decode_image, image_sizes, read_mask
from helpers.data.layouts import Found, words_in
from helpers.data.names import folded
from helpers.progress import in_threads, progress

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
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp")
_FEW_VALUES = 32  # more classes has no mask of indices, and fewer grey values no photo
_FLAT_SHARE = 0.95  # of a mask with soft edges is 0 or the largest value


def stripped(words: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    """Words without known ones at their ends."""
    own = [index for index, word in enumerate(words) if word not in known]
    return words[own[0] : own[-1] + 1] if own else ()


class MaskFinder:
    """Masks of one folder, given to photos by what their names have in common, each mask once.

    A mask is that of a photo if it lies in a folder of the photo's name (then all that lie there are), or if its name
    is the photo's with a usual ending, with other words for masks around it, or with any others where that leaves one
    photo only; in the same subfolder, or elsewhere where no other photo has the name. Case and suffix do not matter.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._free = {file: file.relative_to(folder) for file in files}
        self._guesses: list[tuple[Path, str]] = []

    def pair(self, photos: Mapping[Path, Path]) -> dict[Path, list[Path]]:
        """Masks of photos, which are given with their path relative to their folder."""
        pairs: dict[Path, list[Path]] = defaultdict(list)
        self._pair_folders(photos, pairs)
        self._pair_endings(photos, pairs)
        for anywhere in (False, True):
            self._pair_words(photos, pairs, anywhere)
        self._pair_affixes(photos, pairs)
        return dict(pairs)

    def finish(self, found: Found) -> None:
        """Masks that no photo asked for, and a finding for those that names alone give to a photo."""
        found.unused_masks += self._free
        if self._guesses:
            mask, photo = self._guesses[0]
            found.note("masks-by-name", mask, n=len(self._guesses), photo=photo)

    def _give(self, pairs: dict[Path, list[Path]], photo: Path, mask: Path, guess: bool = False) -> None:
        pairs[photo].append(mask)
        del self._free[mask]
        if guess:
            self._guesses.append((mask, photo.name))

    def _pair_folders(self, photos: Mapping[Path, Path], pairs: dict[Path, list[Path]]) -> None:
        by_folder = _grouped(self._free, lambda mask: folded(mask.parent.as_posix()))
        for photo, name in photos.items():
            for folder in (name.with_suffix(""), name):  # 1/000.png or 1.png/000.png of 1.png
                for mask in by_folder.get(folded(folder.as_posix()), []):
                    if mask in self._free:
                        self._give(pairs, photo, mask)

    def _pair_endings(self, photos: Mapping[Path, Path], pairs: dict[Path, list[Path]]) -> None:
        def place(path: Path) -> tuple[str, str]:
            return folded(path.parent.as_posix()), folded(path.stem)

        by_stem = _grouped(self._free, place)
        for (parent, stem), alike in _grouped(photos, place).items():
            names = Counter(photos[photo].name for photo in alike)
            for photo in alike:
                name = photos[photo].name
                if photo in pairs or names[name] > 1:  # photos of several folders, whose masks lie in one
                    continue
                # of photos that differ in suffix or case alone, only the whole name says whose a mask is
                stems = [name] if len(alike) > 1 else [name, stem]
                tries = [by_stem.get((parent, folded(text + ending)), []) for text in stems for ending in _ENDINGS]
                if len(alike) > 1:
                    tries.append([mask for mask in by_stem.get((parent, stem), []) if mask.name == name])
                free = next((left for masks in tries if (left := [m for m in masks if m in self._free])), [])
                if free:
                    own = photos[photo].stem
                    self._give(pairs, photo, min(free, key=lambda mask: (mask.stem[: len(stem)] != own, mask)))

    def _pair_words(self, photos: Mapping[Path, Path], pairs: dict[Path, list[Path]], anywhere: bool) -> None:
        def place(path: Path, known: frozenset[str]) -> tuple[str, tuple[str, ...]]:
            return "" if anywhere else folded(path.parent.as_posix()), stripped(words_in(path.stem), known)

        masks = _grouped(self._free, lambda path: place(path, MASK_WORDS))
        for known in (frozenset(), PHOTO_WORDS):
            for where, alike in _grouped(photos, lambda path, known=known: place(path, known)).items():
                left = [mask for mask in masks.get(where, []) if mask in self._free]
                if where[1] and left and len(alike) == 1 and alike[0] not in pairs:
                    self._give(pairs, alike[0], left[0], guess=anywhere)

    def _pair_affixes(self, photos: Mapping[Path, Path], pairs: dict[Path, list[Path]]) -> None:
        named = set(pairs)
        for known in (frozenset(), PHOTO_WORDS):
            alike = _grouped(photos, lambda path, known=known: (path.parent, stripped(words_in(path.stem), known)))
            lengths: dict[Path, set[int]] = defaultdict(set)
            for parent, words in alike:
                lengths[parent].add(len(words))
            for mask, relative in list(self._free.items()):
                length, words = lengths[relative.parent], words_in(relative.stem)
                # names of different lengths may be one another's beginning
                if len(length) != 1 or not 0 < (count := min(length)) < len(words):
                    continue
                ends = {words[:count], words[-count:]}
                those = [photo for end in ends for photo in alike.get((relative.parent, end), [])]
                if len(those) == 1 and those[0] not in named:
                    self._give(pairs, those[0], mask, guess=True)


def _grouped(paths: Mapping[Path, Path], key: Callable[[Path], Any]) -> dict[Any, list[Path]]:
    groups = defaultdict(list)
    for name, path in paths.items():
        groups[key(path)].append(name)
    return groups


def masks_beside(pictures: Sequence[Path]) -> list[Path]:
    """Those of the pictures that are masks of others beside them: ``1_GT.png`` of ``1.png``, or ``1.png`` of ``1.jpg``.

    A name alone makes no mask where a lossless file lies beside one of the same stem: it has to look like one.
    """
    files = {file: file for file in pictures}
    by_words = _grouped(files, lambda file: (file.parent, words_in(file.stem)))
    by_stem = _grouped(files, lambda file: (file.parent, folded(file.stem)))
    named = {}
    for (folder, words), those in by_words.items():
        if (rest := stripped(words, MASK_WORDS)) and rest != words:
            named |= dict.fromkeys(those, (folder, rest) in by_words)
    masks = {file for file, has_photo in named.items() if has_photo}
    couples = [files for files in by_stem.values() if len(files) > 1]
    twins = _masks_among(file for files in couples for file in files if file.suffix.lower() in _LOSSLESS)
    twins -= {files[0] for files in couples if twins.issuperset(files)}
    # where a mask has the photo's stem, one without a photo has too
    suffixes = {file.suffix.lower() for file in twins}
    lone = [files[0] for files in by_stem.values() if len(files) == 1 and files[0].suffix.lower() in suffixes]
    rest = [file for file, has_photo in named.items() if not has_photo and masks]
    return sorted(masks | twins | _masks_among([*lone, *rest]))


def is_mask_like(values: np.ndarray, *, lossy: bool = False) -> bool:
    """Whether stored values (H, W) are a mask's: a background of 0, and few values or hardly any between two."""
    if not values.size or values.dtype.kind == "f":
        return False
    if lossy:
        low, flat = values <= 16, (values <= 16) | (values >= 239)
        return bool(low.any()) and float(flat.mean()) >= _FLAT_SHARE
    top = values.max()
    if values.min() != 0:
        return bool(values.min() == top == 255)
    return float(((values == 0) | (values == top)).mean()) >= _FLAT_SHARE or len(np.unique(values)) <= _FEW_VALUES


def looks_like_mask(file: Path) -> bool:
    """Whether a picture is one; a file that cannot be read is none."""
    try:
        decoded = decode_image(file)
        return is_mask_like(decoded.mask_values(), lossy=decoded.lossy)
    except (ImageReadError, OSError):
        return False


def are_all_masks(pictures: Sequence[Path]) -> bool:
    """Whether there are pictures, and the first of them look like masks: a defect may be called "label"."""
    return bool(pictures) and all(map(looks_like_mask, pictures[:5]))


def are_marked(masks: Sequence[Sequence[Path]]) -> list[bool]:
    """Whether the masks of each photo mark any pixel; one that cannot be read counts: the check says what it has."""

    def marked(files: Sequence[Path]) -> bool:
        try:
            return any(bool(read_mask(file).any()) for file in files)
        except ImageReadError:
            return True

    return list(progress(in_threads(marked, masks), "Reading masks", total=len(masks)))


def united_mask(photo: Path, masks: Sequence[Path], found: Found) -> str:
    """The mask of a photo: the only one, or several drawn as one. One that cannot be drawn is given as it is."""
    if len(masks) < 2:
        return str(masks[0]) if masks else ""
    regions = []
    for mask in masks:
        try:
            height, width = image_sizes([photo])[0]
            regions.append(region_of(read_mask(mask, (int(height), int(width)))))
        except ValueError:
            return str(mask)
    return found.mask(photo, regions)


def _masks_among(files: Iterable[Path]) -> set[Path]:
    files = list(files)
    return {file for file, is_mask in zip(files, in_threads(looks_like_mask, files), strict=True) if is_mask}
