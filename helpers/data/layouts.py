"""What readers share: words in names, folders as they lie, and what a reader found, with its findings and masks."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from helpers.analysis.regions import Drawn, Region, pixels_of, united
from helpers.data.findings import Findings
from helpers.data.images import CLUTTER, IMAGE_SUFFIXES, ImageReadError, files_below, image_sizes, is_loop
from helpers.data.names import SPLIT_NAMES
from helpers.data.samples import NORMAL
from helpers.paths import project_path, write_whole
from helpers.progress import in_threads, progress

MASK_CACHE = "artifacts/.masks"
"""Folder of drawn masks, in the project's folder whatever the dataset: data may lie where nobody can write."""

NORMAL_NAMES = frozenset({"good", "normal", "ok", "free", "intact", "undamaged", "defect_free", "no_defect"})
"""Folder and label names (lower case) that mean a normal photo."""

NORMAL_LABELS = NORMAL_NAMES | {"0", "0.0", "false", "normal_test"}
"""Likewise what may stand in a table."""


class LayoutError(ValueError):
    """A folder that cannot be read as it lies; ``hints`` are arguments of `read_dataset` (``path`` too) to try."""

    def __init__(self, message: str, hints: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.hints = list(hints)


# ------------------------------------------------------------------------------------------------------ words in names


def words_in(name: str) -> tuple[str, ...]:
    """Words and numbers that a name is made of, in lower case."""
    return tuple(re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFC", name).lower()))


def is_normal(name: str) -> bool:
    """Whether a name says that photos are normal, with no more than a split or a number beside (``ok_2``)."""
    words = words_in(name)
    rest = [word for word in words if not word.isdecimal() and word not in SPLIT_NAMES]
    return "_".join(words) in NORMAL_NAMES or (bool(rest) and all(word in NORMAL_NAMES for word in rest))


DENIALS = frozenset(
    words_in("no non not nok ng bad def defect defects defective damaged abnormal anomaly almost nearly but")
)
"""Words beside one for normal photos that take its meaning away."""


def meaning(folder: str) -> str:
    """What a folder's name says of its photos: ``normal``, ``perhaps`` (a word at an end: ``ok_front``), ``defect``."""
    words, good = words_in(folder), NORMAL_NAMES - {"free"}
    denials = DENIALS.intersection(words)
    if is_normal(folder):
        return "normal"
    if good.intersection(words):
        at_end = good.intersection([words[0], words[-1]])
        return "defect" if denials else "perhaps" if at_end else ""
    without = {"no", "non", "not", "free", "without"}.intersection(words)  # non-defective, anomaly_free
    return "defect" if denials - {"almost", "nearly", "but"} and not without else ""


def label_of(text: str, file: Path) -> tuple[int, str]:
    """Label index and defect type that a word in ``file`` stands for."""
    word = text.strip()
    if not word or word.lower() == "nan":
        raise LayoutError(f"{file} has an empty label; write good or 0 for normal photos, the defect or 1 for others.")
    if word.lower() in NORMAL_LABELS:
        return 0, NORMAL
    if word.lower() in ("1", "1.0", "true"):
        return 1, "defect"
    if re.fullmatch(r"-?\d+(\.\d+)?", word):
        raise LayoutError(f"{file} has the label {word}; use 0 (normal) and 1 (abnormal), or words.")
    return 1, word


def split_of(text: str, file: Path) -> str:
    """Split that a word in ``file`` stands for, "" for an empty one."""
    word = text.strip().lower()
    if word and word not in SPLIT_NAMES:
        raise LayoutError(f"{file} has the split {text!r}; known are train, val, test.")
    return SPLIT_NAMES.get(word, "")


def first_names(files: Sequence[Path], most: int = 1) -> str:
    """Names of the first few."""
    return ", ".join(file.name for file in files[:most]) + (", ..." if len(files) > most else "")


# ------------------------------------------------------------------------------------------------------------- folders


def entries(folder: Path) -> list[Path]:
    """Files and folders directly inside one, by name, without hidden ones and an operating system's clutter."""
    if not folder.is_dir():
        return []
    return sorted(e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in CLUTTER)


def folders_in(folder: Path) -> list[Path]:
    """Folders directly inside one, by name, without links to a folder around them."""
    return [e for e in entries(folder) if e.is_dir() and not (e.is_symlink() and is_loop(e, folder))]


def child(folder: Path, *names: str) -> Path | None:
    """The folder directly inside that has the first of these names (lower case) that is there."""
    inside = {entry.name.lower(): entry for entry in folders_in(folder)}
    return next((inside[name] for name in names if name in inside), None)


def split_folders(path: Path) -> dict[str, Path]:
    """Folders train, val (or validation) and test inside ``path``, by split; of several the first by name."""
    named = [(SPLIT_NAMES.get(entry.name.lower(), ""), entry) for entry in folders_in(path)]
    return {split: entry for split, entry in reversed(named) if split}


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures (by suffix) in a folder and below, and all other files, with links that lead round in circles."""
    others: list[Path] = []
    files = files_below(folder, others)
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    return pictures, others + [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]


def pictures_in(folder: Path) -> list[Path]:
    return files_in(folder)[0]


def tree(path: Path, most: int = 20) -> str:
    """What lies in a folder, a line for each of the first entries, with the first few of what is inside."""
    lines = []
    for entry in entries(path):
        inside = entries(entry)
        more = f", ... {len(inside) - 3} more" if len(inside) > 3 else ""
        lines.append(
            f"  {entry.name}/ ({', '.join(e.name for e in inside[:3])}{more})" if inside else f"  {entry.name}"
        )
    return "\n".join(lines[:most] + [f"  ... {len(lines) - most} more"] * (len(lines) > most)) or "  nothing"


# -------------------------------------------------------------------------------------------------- what a reader finds


class Found(Findings):
    """What is read of ``path``: rows for `make_table`, findings, and what `read_dataset` puts beside them.

    ``root`` holds all photos and masks. ``published_split`` None: it is one if there are photos of several splits, for
    many tools write photos that were never split into a lone folder ``train``. ``empty_masks``: of normal photos;
    ``good_folders``: those of normal photos, where folders are types.
    """

    def __init__(self, path: Path, mask_cache: str | Path | None = None) -> None:
        super().__init__(path)
        self.path, self.name = path, path.stem if path.is_file() else path.name
        self.rows: list[dict[str, Any]] = []
        self.attrs: dict[str, Any] = {}
        self.published_split: bool | None = None
        self.unused_masks: list[Path] = []
        self.empty_masks: list[Path] = []
        self.good_folders: set[Path] = set()
        self._mask_cache = project_path(mask_cache or MASK_CACHE)
        self._drawings: dict[Path, Region] = {}

    def note_ambiguous(self, path: Path, name: str, files: Sequence[Path]) -> None:
        """Add a finding for a name that `match_names` refused."""
        those = " or ".join(map(self.relative, files[:2]))
        alike = f"may be {those}" if len(files) > 1 else f"is one of several names that may be {those}"
        self.note("ambiguous-name", path, name=name, alike=alike)

    def note_drawn(self, drawn: Drawn, path: Path, what: str) -> None:
        if drawn.code:
            self.note(drawn.code, path, what=what, problem=drawn.problem)

    def photo_size(self, photo: Path, stated: tuple[int, int] | None, source: Path) -> tuple[int, int] | None:
        """(H, W) of an upright photo; None after a finding if it cannot be read or has not the ``stated`` size."""
        try:
            height, width = (int(value) for value in image_sizes([photo])[0])
        except ImageReadError as error:
            self.note_unread(photo, error, after="; it is left out")
            return None
        if stated is not None and stated != (height, width):
            turned = ", turned: see its EXIF orientation" if stated == (width, height) else ""
            sizes = {"size": f"{width}x{height}", "stated": f"{stated[1]}x{stated[0]}", "turned": turned}
            self.note("annotation-size", photo, file=source.name, **sizes)
            return None
        return height, width

    def add_row(
        self,
        photo: Path,
        objects: Sequence[tuple[str, Region | None]],
        *,
        lost: int = 0,
        masks: bool = True,
        largest: bool = False,
        **columns: str,
    ) -> dict[str, Any] | None:
        """Add the row of a photo by its objects: names, and pixels where they are known; without all pixels no mask.

        Objects whose name is a word for good photos are none. The defect type is their names, sorted and joined by "+",
        or with ``largest`` the one that covers most pixels, and the column ``defect_types`` has all. A photo without a
        defect of which an object was ``lost`` is not known to be normal: it is left out with a finding.
        """
        by_name: dict[str, list[Region]] = defaultdict(list)
        for name, region in objects:
            if not is_normal(name):
                by_name[name] += [region] if region is not None else []
                masks = masks and region is not None
        if lost and not by_name:
            self.note("photo-left-out", photo, n=lost)
            return None
        types = "+".join(sorted(by_name))
        row = {"image_path": str(photo), "mask_path": "", "label_index": int(bool(by_name)), "defect_type": types}
        if masks and by_name:
            row["mask_path"] = self.mask(photo, [region for regions in by_name.values() for region in regions])
        if largest:
            areas = {name: coco_mask.area(united(by_name[name])) for name in sorted(by_name)}
            row |= {"defect_type": max(areas, key=areas.__getitem__, default=NORMAL), "defect_types": types}
        self.rows.append(row | columns)
        return self.rows[-1]

    def mask(self, photo: Path, regions: Sequence[Region]) -> str:
        """File of the mask that `draw_masks` will draw: a hash of photo and pixels, so no old one is taken for it."""
        region = united(regions)
        root = blake2b(os.fsencode(self.root), digest_size=4).hexdigest()
        digest = blake2b(os.fsencode(self.relative(photo)), digest_size=8)
        digest.update(repr(region["size"]).encode() + region["counts"])
        folder = self._mask_cache / (re.sub(r"[^\w.-]", "_", self.root.name) + f"-{root}")
        path = folder / f"{photo.stem[:40]}-{digest.hexdigest()}.png"
        self.attrs["mask_cache"] = str(folder)
        self._drawings[path] = region
        return str(path)

    def draw_masks(self) -> None:
        """Write the masks that are not there yet: PNG, uint8 (H, W) of 0 and 255."""

        def draw(path: Path) -> None:
            pixels = pixels_of(self._drawings[path]).astype(np.uint8) * 255
            write_whole(path, lambda file: Image.fromarray(pixels).save(file))

        missing = [path for path in self._drawings if not path.is_file()]
        for _ in progress(in_threads(draw, missing), "Drawing masks", total=len(missing)):
            pass
