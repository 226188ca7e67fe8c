"""Photos on their way: read from whatever they come as, a batch at a time; and what one carries through a cascade."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from helpers.data.images import ImageReadError, find_images, read_image, to_8_bits
from helpers.paths import write_whole

Picture = str | Path | np.ndarray | Image.Image
"""A file, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or bool, or a PIL image of any mode."""

PIXELS_AT_ONCE = 32_000_000  # photos of one batch together: large ones come in smaller batches
ERROR = "ERROR"  # verdict on a photo that could not be judged
FOLDERS = {"mask": ("masks", ".png"), "map": ("maps", ".npy"), "overlay": ("overlays", ".jpg")}  # what can be saved
STAGE_COLUMNS = (
    *("photo", "object", "x", "y", "width", "height"),
    *("stage", "decision", "passed", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "probability", "distance", "tau", "kappa"),
    *("peak", "area", "pixel_threshold", "mask_pixels", "milliseconds", "mask", "map", "overlay", "error"),
)


class ReadPhoto(NamedTuple):
    source: str  # its file, or # and its number
    photo: np.ndarray | None  # (H, W, 3) uint8
    problem: Exception | None = None  # why there is none


def as_pictures(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Photos one after another, from one, several, or a folder; ValueError: the folder holds none."""
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        found = find_images(path) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path} holds no photo (PNG, JPEG, BMP, TIFF, WebP); give another folder.")
        return found
    return [images] if isinstance(images, Image.Image) or getattr(images, "ndim", 4) < 4 else images


def read_batches(
    pictures: Iterable[tuple[str, Picture]], batch_size: int, bits: int | None = None
) -> Iterator[list[ReadPhoto]]:
    """Read named photos, at most ``batch_size`` at once, fewer where they are large; one that fails says why."""
    batch: list[ReadPhoto] = []
    pixels = 0
    for source, picture in pictures:
        try:
            item = ReadPhoto(source, as_photo(picture, source, bits))
        except (OSError, ValueError) as error:
            item = ReadPhoto(source, None, error)
        size = 0 if item.photo is None else item.photo.shape[0] * item.photo.shape[1]
        if batch and (len(batch) >= batch_size or pixels + size > PIXELS_AT_ONCE):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += size
    if batch:
        yield batch


def as_photo(picture: Picture, name: str = "picture", bits: int | None = None) -> np.ndarray:
    """Any picture as (H, W, 3) uint8 RGB, upright, as `read_image` reads a file; ``bits``: of 16-bit pictures.

    ImageReadError: a file that cannot be read, 32 bits a pixel, values beyond ``bits``; ValueError: no such array.
    """
    if isinstance(picture, str | Path):
        return read_image(picture, bits)
    if isinstance(picture, Image.Image):
        if picture.mode in ("I", "F"):
            raise ImageReadError(name, "32-bit", mode=picture.mode)
        deep = picture.mode.startswith("I;16")
        through = "RGBA" if "transparency" in picture.info else "RGB"  # straight to RGB would mix that colour in
        picture = ImageOps.exif_transpose(picture)
        picture = np.asarray(picture).astype(np.uint16) if deep else picture.convert(through).convert("RGB")
    array = np.asarray(picture)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"{name}: an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}.")
    array = array[:, :, :3]
    if array.dtype == np.uint16:
        array = to_8_bits(array, bits or 16, name)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise ValueError(f"{name}: the range of values of {array.dtype} is not known; scale it to uint8 or uint16.")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.array(array, order="C")


# ------------------------------------------------------------------------------------------------- through a cascade


@dataclass
class Item:
    """A photo, or an object cut out of one, on its way through a cascade."""

    source: str  # its absolute path, or # and its number
    key: str  # its name in the folder of results, unique, without suffix
    photo: Picture | None  # (H, W, 3) uint8 once it has been read; None where it cannot be
    number: int = 0  # of the object, from 1; 0: a whole photo
    box: tuple[int, int, int, int] | tuple[()] = ()  # of the object in its photo: x, y, width, height
    mask: np.ndarray | None = None  # (H, W) bool, what of an object is judged
    rows: list[dict[str, Any]] = field(default_factory=list)  # one for each stage it went through
    verdict: str = ""  # empty while it is on its way
    abnormal: bool | None = None  # None where nobody can say
    parts: list[Item] = field(default_factory=list)  # objects cut out of it
    error: str = ""
    name: str = ""  # in the tables
    stamp: str = ""  # changes when the photo does

    def add_row(self, stage: str, **values: Any) -> None:
        """Note what a stage did with it; non-finite numbers become None."""
        row = dict.fromkeys(STAGE_COLUMNS) | {"object": self.number, "stage": stage}
        row |= dict(zip(("x", "y", "width", "height"), self.box, strict=False))
        row |= {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in values.items()}
        self.rows.append(row)

    def fail(self, stage: str, error: str) -> None:
        self.verdict, self.abnormal, self.error = ERROR, None, error
        self.add_row(stage, decision=ERROR, error=error)

    def settle(self) -> dict[str, Any]:
        """A photo of several objects is as bad as its worst one; returns the row of the stage that decided.

        The worst is an abnormal one before one that nobody could judge; of these that which went through most stages,
        with the highest number that the last rule looked at, else the highest score.
        """

        def badness(part: Item) -> tuple[bool, bool, int, float]:
            row = part.rows[-1] if part.rows else {}
            value = next((row[name] for name in ("value", "score") if row.get(name) is not None), -math.inf)
            return bool(part.abnormal), part.verdict == ERROR, len(part.rows), value

        worst = max(self.parts, key=badness, default=self)
        self.verdict, self.abnormal, self.error = worst.verdict, worst.abnormal, worst.error
        return worst.rows[-1] if worst.rows else {}


def save_result(out: Path, stage: str, kind: str, key: str, write: Callable[[Path], Any]) -> str:
    """Write a picture of `FOLDERS`, whole or not at all; its path in ``out``."""
    folder, suffix = FOLDERS[kind]
    path = f"{stage}/{folder}/{key}{suffix}"
    write_whole(out / path, write)
    return path


def save_overlay(out: Path, stage: str, key: str, picture: np.ndarray) -> str:
    """Save a photo that has been drawn on; its path in ``out``."""
    jpeg = Image.fromarray(picture)
    return save_result(out, stage, "overlay", key, lambda file: jpeg.save(file, quality=90, subsampling=0))
