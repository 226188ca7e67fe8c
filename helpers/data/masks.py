"""Masks: whose they are by what names have in common, and whether a picture is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path

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

Keys = Callable[[Path], list[Hashable]]
"""What names have in common, of the relative path of a photo or of a mask."""


def stripped(words: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    """Words without known ones at their ends."""
    own = [index for index, word in enumerate(words) if word not in known]
    return words[own[0] : own[-1] + 1] if own else ()


class MaskFinder:
    """Masks of one folder, given to photos by what their names have in common, each mask once.

    A mask is that of a photo if it lies in a folder of the photo's name (then all that lie there are), or if its name
    is the photo's with a usual ending, with other words for masks around it, or with any others where that leaves one
    photo only; in the same subfolder, or elsewhere where no other photo has the name. Case and suffix do not matter,
    and a mask that may be that of two photos is nobody's.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self._free = {file: file.relative_to(folder) for file in files}
        self._guesses: list[tuple[Path, str]] = []

    def pair(self, photos: Mapping[Path, Path]) -> dict[Path, list[Path]]:
        """Masks of photos, which are given with their path relative to their folder."""
        pairs: dict[Path, list[Path]] = {}

        def give(photo_keys: Keys, mask_keys: Keys, *, several: bool = False, guess: bool = False) -> None:
            by_key: dict[Hashable, set[Path]] = defaultdict(set)
            for photo, name in photos.items() if self._free else ():
                for key in photo_keys(name):
                    by_key[key].add(photo)
            before = set(pairs)
            for mask, name in list(self._free.items()):
                those = set().union(*(by_key.get(key, ()) for key in mask_keys(name)))
                if len(those) == 1 and not those & (before if several else pairs.keys()):
                    photo = those.pop()
                    pairs.setdefault(photo, []).append(mask)
                    del self._free[mask]
                    self._guesses += [(mask, photo.name)] * guess

        give(_names, lambda mask: [folded(mask.parent.as_posix())], several=True)  # 1/000.png or 1.png/000.png of 1.png
        for ending in _ENDINGS:
            give(_names, partial(_without, ending=ending))
        give(_names, lambda mask: _names(mask)[1:])  # of 1.jpg and 1.png the whole name says which
        for anywhere in (False, True):
            mask_keys = partial(_words, known=MASK_WORDS, anywhere=anywhere)
            for known in (frozenset(), PHOTO_WORDS):
                give(partial(_words, known=known, anywhere=anywhere), mask_keys, guess=anywhere)
        for known in (frozenset(), PHOTO_WORDS):
            lengths = defaultdict(set)
            for name in photos.values():
                lengths[name.parent].add(len(stripped(words_in(name.stem), known)))
            give(partial(_words, known=known), partial(_ends, lengths=lengths), several=True, guess=True)
        return pairs

    def finish(self, found: Found) -> None:
        """Masks that no photo asked for, and a finding for those that names alone give to a photo."""
        found.unused_masks += self._free
        if self._guesses:
            mask, photo = self._guesses[0]
            found.note("masks-by-name", mask, n=len(self._guesses), photo=photo)


def _names(path: Path) -> list[Hashable]:
    """The path without its suffix, and whole."""
    return [folded(path.with_suffix("").as_posix()), folded(path.as_posix())]


def _without(path: Path, ending: str) -> list[Hashable]:
    name = folded(path.with_suffix("").as_posix())
    return [name.removesuffix(ending)] if name.endswith(ending) else []


def _words(path: Path, known: frozenset[str], anywhere: bool = False) -> list[Hashable]:
    words = stripped(words_in(path.stem), known)
    return [(anywhere or folded(path.parent.as_posix()), words)] if words else []


def _ends(path: Path, lengths: Mapping[Path, set[int]]) -> list[Hashable]:
    """The first and the last words, as many as all photos of the folder have: else one may be another's beginning."""
    words, count = words_in(path.stem), min(lengths.get(path.parent, {0}))
    if lengths.get(path.parent) != {count} or not 0 < count < len(words):
        return []
    return [(folded(path.parent.as_posix()), those) for those in (words[:count], words[-count:])]


def masks_beside(pictures: Sequence[Path]) -> list[Path]:
    """Those of the pictures that are masks of others beside them: ``1_GT.png`` of ``1.png``, or ``1.png`` of ``1.jpg``.

    A name alone makes no mask where a lossless file lies beside one of the same stem: it has to look like one.
    """
    words = {file: words_in(file.stem) for file in pictures}
    there = {(file.parent, own) for file, own in words.items()}
    called = {file: rest for file, own in words.items() if (rest := stripped(own, MASK_WORDS)) and rest != own}
    masks = {file for file, rest in called.items() if (file.parent, rest) in there}
    by_stem: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in pictures:
        by_stem[file.parent, folded(file.stem)].append(file)
    couples = [files for files in by_stem.values() if len(files) > 1]
    twins = masks_among([file for files in couples for file in files if file.suffix.lower() in _LOSSLESS])
    twins -= {files[0] for files in couples if twins.issuperset(files)}
    # where a mask has the photo's stem, one without a photo has too
    suffixes = {file.suffix.lower() for file in twins}
    lone = [files[0] for files in by_stem.values() if len(files) == 1 and files[0].suffix.lower() in suffixes]
    rest = [file for file in called if masks and file not in masks]
    return sorted(masks | twins | masks_among([*lone, *rest]))


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


def masks_among(files: Sequence[Path]) -> set[Path]:
    """Pictures that look like masks; a file that cannot be read is none."""

    def is_one(file: Path) -> bool:
        try:
            decoded = decode_image(file)
            return is_mask_like(decoded.mask_values(), lossy=decoded.lossy)
        except (ImageReadError, OSError):
            return False

    return {file for file, is_mask in zip(files, in_threads(is_one, files), strict=True) if is_mask}


def are_all_masks(pictures: Sequence[Path]) -> bool:
    """Whether there are pictures, and the first of them look like masks: a defect may be called "label"."""
    return bool(pictures) and masks_among(pictures[:5]).issuperset(pictures[:5])


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
    regions = []
    for mask in masks if len(masks) > 1 else ():
        try:
            height, width = image_sizes([photo])[0]
            regions.append(region_of(read_mask(mask, (int(height), int(width)))))
        except ValueError:
            return str(mask)
    return found.mask(photo, regions) if regions else str(masks[0]) if masks else ""
