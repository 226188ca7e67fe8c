"""Photos on their way into a network, whatever they come as: files, folders, arrays, PIL images; a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from helpers.data.images import ImageReadError, find_images, read_image, to_8_bits

Picture = str | Path | np.ndarray | Image.Image
"""A file, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or bool, or a PIL image of any mode."""

PIXELS_AT_ONCE = 32_000_000  # photos of one batch together: large ones come in smaller batches


class ReadPhoto(NamedTuple):
    """A photo on its way: its file (or number), its pixels (H, W, 3) uint8, or what is wrong with it."""

    source: str
    photo: np.ndarray | None
    problem: Exception | None = None


def as_pictures(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Photos one after another, from one, several, or a folder; ValueError: the folder holds none."""
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        found = find_images(path) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{path} holds no photo (PNG, JPEG, BMP, TIFF, WebP); give another folder.")
        return found
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return images


def named(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Each photo with its path, or ``#`` and its number where it has none."""
    for number, picture in enumerate(pictures):
        yield (str(picture) if isinstance(picture, str | Path) else f"#{number}"), picture


def read_batches(
    pictures: Iterable[tuple[str, Picture]], batch_size: int, bits: int | None = None, *, strict: bool = False
) -> Iterator[list[ReadPhoto]]:
    """Read named photos, at most ``batch_size`` at once, fewer where they are large; one that fails says why, or raises
    it if ``strict``.
    """
    batch: list[ReadPhoto] = []
    pixels = 0
    for source, picture in pictures:
        try:
            item = ReadPhoto(source, as_photo(picture, source, bits))
        except (OSError, ValueError) as error:
            if strict:
                raise
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
    """Any picture as (H, W, 3) uint8 RGB, upright, as :func:`helpers.data.images.read_image` reads a file.

    False and True become 0 and 255; alpha is dropped; ``bits``: of 16-bit pictures.

    Raises:
        FileNotFoundError: there is no such file.
        ImageReadError: a file, or a PIL image, that cannot be read or has 32 bits a pixel, or values beyond ``bits``.
        ValueError: an array of another shape or type.
    """
    if isinstance(picture, str | Path):
        return read_image(picture, bits)
    array = _array_of(picture, name) if isinstance(picture, Image.Image) else np.asarray(picture)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(f"{name}: an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}.")
    array = array[:, :, None] if array.ndim == 2 else array[:, :, :3]
    if array.dtype == np.uint16:
        array = to_8_bits(array, bits or 16, name)
    elif array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"{name}: an array of {array.dtype} has no known range of values; scale it to uint8 (0 to 255) or uint16."
        )
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.array(array, order="C")


def _array_of(image: Image.Image, name: str) -> np.ndarray:
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders of broken files raise nearly anything
        raise ImageReadError(name, "unreadable", f"cannot be decoded ({error})", "open it again") from error
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        problem = f"is a picture with 32 bits a pixel (mode {image.mode}), whose range of values is not known"
        raise ImageReadError(name, "32-bit", problem, "scale it to 8 or 16 bits and save it again")
    transparent = image.mode == "P" and "transparency" in image.info  # straight to RGB would mix that colour in
    return np.asarray((image.convert("RGBA") if transparent else image).convert("RGB"))
