"""What `helpers.data.convert.write_dataset` can make of a photo: a resized one, square tiles, one picture an object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from helpers.data.images import MAX_RESIZED_PIXELS, decode_image, read_image, read_mask
from helpers.data.layouts import NORMAL_NAMES
from helpers.data.samples import NORMAL, relative_path

MODES = ("RGB", "L", "keep")
MIN_AREA = 64  # defect pixels from which a tile is abnormal; below, it shows too little to be called either
MIRRORED = "symmetric"  # how a photo goes on beyond its border, as NumPy calls it
GROWN = 2  # pixels by which an object is grown before its background is removed, so that its edge stays

Row = dict[str, Any]


def resized(
    table: pd.DataFrame,
    *,
    mode: str = "RGB",
    size: int | Sequence[int] | None = None,
    crop: Sequence[int] | None = None,
) -> Callable[[Row], list[Row]]:
    """A change that turns photos upright, makes them 8-bit, crops and resizes them, and their masks alike.

    ``mode``: "RGB", "L" (grey), or "keep": grey photos stay grey, all others become RGB. ``crop``: (top, left, height,
    width) in pixels of the upright photo. ``size``: (height, width), or one number for both; bilinear with
    antialiasing, masks to the nearest pixel. The column ``source`` has the path in the old dataset.
    """
    size = (size, size) if isinstance(size, int) else size
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use {', '.join(MODES)}.")
    for name, values, length in (("size", size, 2), ("crop", crop, 4)):
        if values is not None and (len(values) != length or min(values) < 0 or 0 in values[-2:]):
            raise ValueError(f"{name} is {values!r}; give {length} whole numbers of pixels.")
    names = dict(zip(table["image_path"], relative_path(table), strict=True))

    def change(row: Row) -> list[Row]:
        path = row["image_path"]
        decoded = decode_image(path)
        photo = Image.fromarray(decoded.pixels())
        photo = photo if mode in ("keep", photo.mode) else photo.convert(mode)
        top, left, height, width = crop or (0, 0, *decoded.shape)
        if top + height > decoded.shape[0] or left + width > decoded.shape[1]:
            raise ValueError(f"{path} of {photo.width}x{photo.height} pixels does not hold the crop {crop}; lower it.")
        box, new = (left, top, left + width, top + height), size or (height, width)
        photo = photo.crop(box)
        if new != (height, width):
            photo = photo.resize(new[::-1], Image.Resampling.BILINEAR)
        made = row | {"image": np.asarray(photo), "source": names[path]}
        made["shrunk"] = (height / new[0], width / new[1])
        if row["label_index"] == 1 and row["mask_path"]:
            mask = Image.fromarray(read_mask(row["mask_path"], decoded.shape)).crop(box)
            made["mask"] = np.asarray(mask.resize(new[::-1], Image.Resampling.NEAREST))
        return [made]

    return change


def tiles(
    table: pd.DataFrame, tile: int, *, stride: int | None = None, min_area: int = MIN_AREA
) -> Callable[[Row], list[Row]]:
    """A change that cuts photos into squares of side ``tile``, each labelled by its own part of the mask.

    Tiles begin every ``stride`` pixels from the upper left corner; where the last does not end with the photo, one more
    does. A tile keeps the split and the group of its photo; the columns ``photo``, ``top`` and ``left`` say where it
    was cut. With ``min_area`` defect pixels or more it has its photo's defect type, without any it is normal; what
    cannot be labelled is left out: fewer, a defect of a photo of several types, abnormal photos without a mask.
    """
    size, stride = tile, tile if stride is None else stride
    if not 1 <= stride <= size or min_area < 1:
        values = f"tile is {tile}, stride {stride}, min_area {min_area}"
        raise ValueError(f"{values}; give 1 pixel or more, and a stride of at most the tile: pixels would be lost.")
    names = dict(zip(table["image_path"], relative_path(table), strict=True))

    def change(row: Row) -> list[Row]:
        photo = row["image_path"]
        abnormal = row["label_index"] == 1
        if abnormal and not row["mask_path"]:
            return [{"left_out": "abnormal photo(s) without a mask"}]
        pixels = decode_image(photo).pixels()
        shape = height, width = pixels.shape[:2]
        if min(shape) < size:
            raise ValueError(f"{photo} is {width}x{height} pixels (width x height), smaller than {size}; lower it.")
        mask = read_mask(row["mask_path"], shape) if abnormal else np.zeros(shape, dtype=bool)
        several = "+" in str(row.get("defect_types") or row["defect_type"])
        normal = {"label_index": 0, "defect_type": NORMAL} | ({"defect_types": ""} if "defect_types" in row else {})
        made = []
        for top in _starts(height, size, stride):
            for left in _starts(width, size, stride):
                part = mask[top : top + size, left : left + size]
                area = int(part.sum())
                if area and (several or area < min_area):
                    made.append({"left_out": f"tile(s) of several defect types or with under {min_area} defect pixels"})
                    continue
                cut = row | {"image": pixels[top : top + size, left : left + size], "mask": part}
                cut |= {"name": f"{Path(photo).stem[:80]}_{top}_{left}", "group": row["group"] or names[photo]}
                made.append(cut | {"photo": names[photo], "top": top, "left": left} | ({} if area else normal))
        return made

    return change


def _starts(length: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] + size == length else [*starts, length - size]


def cut_outs(
    photos: Sequence[str | Path],
    labels: Sequence[np.ndarray],
    *,
    size: int = 256,
    margin: float = 0.1,
    remove_background: bool = False,
    types: Sequence[Mapping[int, str]] | None = None,
    test_share: float = 0.3,
) -> Iterator[Row]:
    """Rows of one square picture an object, named ``<photo's number>_<object's number>``.

    ``labels`` are, for each photo, (H, W) int: 0 is background, every other number an object; ``types`` the defect type
    of every object by its number. Without them all are good and for training. With them, objects with a defect are for
    testing, good ones too where their photo is one of the ``test_share`` of the photos, evenly spaced.

    One window serves all, after the largest object with a ``margin`` in parts of it on each side, so that sizes stay
    comparable; beyond its border the photo is mirrored. ``remove_background`` paints over whatever is not the object,
    with the median colour outside all objects. Further columns: photo, label, the object's box and the window (in
    pixels of the photo), and scale (pixels of the picture per pixel of the photo).
    """
    if size < 1 or margin < 0 or not 0 <= test_share <= 1:
        raise ValueError(f"size={size} must be 1 or more, margin={margin} 0 or more, test_share={test_share} a share.")
    kinds = [None] * len(photos) if types is None else types
    objects = [list(_objects(*each)) for each in zip(photos, labels, kinds, strict=True)]
    longest = max((max(row["width"], row["height"]) for rows in objects for row in rows), default=0)
    if not longest:
        raise ValueError("There is no object in any of the labels; lower the threshold of separate(), or train longer.")
    side = max(1, round(longest * (1 + 2 * margin)))
    n_test = round(test_share * len(photos)) if types is not None else 0
    for_test = {int((k + 0.5) * len(photos) / n_test) for k in range(n_test)}
    for number, photo in enumerate(photos):
        pixels, split = read_image(photo), "test" if number in for_test else "train"
        if pixels.shape[:2] != labels[number].shape:
            raise ValueError(f"{photo} has {pixels.shape[:2]} pixels but its labels {labels[number].shape} (H, W).")
        colour = background_colour(pixels, labels[number]) if remove_background else None
        for row in objects[number]:
            require_window(photo, side, pixels.shape)
            window = (row["x"] + (row["width"] - side) // 2, row["y"] + (row["height"] - side) // 2, side)
            picture = cut_window(pixels, window, MIRRORED)
            if colour is not None:
                picture[~own_pixels(labels[number], row["label"], window, GROWN)] = colour
            way = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
            row |= {"image": cv2.resize(picture, (size, size), interpolation=way), "shrunk": (side / size, side / size)}
            row |= dict(zip(("window_x", "window_y", "window_side"), window, strict=True)) | {"scale": size / side}
            row |= {"name": f"{number:04d}_{row['label']:03d}", "split": "test" if row["label_index"] else split}
            yield row


def _objects(photo: str | Path, labels: np.ndarray, types: Mapping[int, str] | None) -> Iterator[Row]:
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        kind = NORMAL if types is None else types.get(label, "").strip()
        if not kind:
            raise ValueError(f"{photo}: object {label} has no type; give {NORMAL!r} for good ones.")
        kind = NORMAL if kind.lower() in NORMAL_NAMES else kind
        (top, bottom), (left, right) = ((part.start, part.stop) for part in box)
        row = {"image_path": str(photo), "label_index": int(kind != NORMAL), "defect_type": kind, "photo": str(photo)}
        yield row | {"label": label, "x": left, "y": top, "width": right - left, "height": bottom - top}


def background_colour(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Median colour (3,) uint8 outside all objects; black where there is no such place."""
    outside = pixels[labels == 0]
    return np.median(outside, axis=0).astype(np.uint8) if len(outside) else np.zeros(3, np.uint8)


def require_window(name: str | Path, side: int, shape: Sequence[int]) -> None:
    """Raise ValueError where a square window is far larger than its photo (height, width, ...): of a strip, mostly."""
    height, width = shape[:2]
    if side**2 > max(MAX_RESIZED_PIXELS, 4 * height * width):
        raise ValueError(
            f"{name}: a window of {side}x{side} pixels around an object is too large for a photo of {width}x{height} "
            "(width x height); cut it into tiles (python -m helpers.data.convert --tile), or give a smaller window."
        )


def cut_window(picture: np.ndarray, window: tuple[int, int, int], mode: str) -> np.ndarray:
    """Cut (side, side, ...) out at (x, y, side), continuing the picture where the window leaves it."""
    x, y, side = window
    height, width = picture.shape[:2]
    rows, columns = (max(0, -y), max(0, y + side - height)), (max(0, -x), max(0, x + side - width))
    beyond = (rows, columns, (0, 0))[: picture.ndim]
    return np.pad(picture[max(0, y) : y + side, max(0, x) : x + side], beyond, mode=mode)


def own_pixels(labels: np.ndarray, label: int, window: tuple[int, int, int], grow: int) -> np.ndarray:
    """The object's pixels in a window (side, side) bool, grown, but not over another object."""
    inside = cut_window(labels, window, "constant")
    return (ndimage.distance_transform_edt(inside != label) <= grow) & ((inside == 0) | (inside == label))
