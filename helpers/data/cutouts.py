"""One square picture an object, cut out of photos of several: a new dataset for one-class models.

The objects come as labels, one number an object, from :func:`helpers.analysis.matching.separate` or from anywhere
else. What is written has the layout that :func:`helpers.read_dataset` reads, and ``cutouts.csv`` says where each
picture comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from helpers.data.formats import NORMAL_NAMES
from helpers.data.images import MAX_RESIZED_PIXELS, known_bit_depth, read_image
from helpers.data.samples import NORMAL
from helpers.paths import write_csv, write_whole_folder
from helpers.progress import progress

TABLE_NAME = "cutouts.csv"
BORDERS = {"reflect": "symmetric", "edge": "edge"}  # our name -> NumPy's
FOLDER_NAME = r"[\w+-][\w.+ -]*(?<![. ])"
COLUMNS = (
    "image",
    "photo",
    "label",
    "x",
    "y",
    "width",
    "height",
    "window_x",
    "window_y",
    "window_side",
    "scale",
    "defect_type",
    "split",
)


@dataclass(frozen=True)
class _Object:
    """One object of a photo: its number in the labels, its box in pixels, its type."""

    label: int
    x: int
    y: int
    width: int
    height: int
    defect_type: str


def write_cutouts(
    photos: Sequence[str | Path],
    labels: Sequence[np.ndarray],
    out: str | Path,
    *,
    size: int = 256,
    margin: float = 0.1,
    same_scale: bool = True,
    border: str = "reflect",
    remove_background: bool = False,
    fill: tuple[int, int, int] | None = None,
    grow: int = 2,
    types: Sequence[Mapping[int, str]] | None = None,
    test_share: float = 0.3,
    pixel_size: float | None = None,
    force: bool = False,
) -> Path:
    """Cut every object out of its photo, square and centred, and write the pictures as a dataset.

    Without ``types`` all go to ``train/good``: nobody has said yet what is good. With them, objects with a defect go to
    ``test/<type>``, good ones to ``train/good``, or ``test/good`` where their photo is one of the ``test_share`` of the
    photos, evenly spaced, that are kept for testing. Pictures are named ``<photo's number>_<object's number>.png``.
    A good object and a defective one of the same photo can so be on two sides: every object is a part of its own, and
    only its light is shared. ``cutouts.csv`` has the photo of each, for a stricter split.

    ``cutouts.csv`` has a row a picture: image (relative path), photo, label (the object's number in the labels), x, y,
    width, height (the object's box) and window_x, window_y, window_side (what was cut out; it may lie partly outside)
    in pixels of the photo, scale (pixels of the picture per pixel of the photo), defect_type, split.

    The folder appears under its name when it is complete; on any error nothing is left of it.

    Args:
        photos: the photos.
        labels: for each photo (H, W) int: 0 is background, every other number an object.
        out: the new folder.
        size: side of the pictures in pixels.
        margin: free room on each side, in parts of the object's longer side.
        same_scale: one window for all, after the largest object, so that sizes stay comparable and a pixel has one
            size in mm; otherwise every object fills its own picture alike.
        border: how a photo goes on beyond its border: ``reflect`` (mirrored) or ``edge`` (its last pixel).
        remove_background: paint over whatever is not the object, its neighbours included.
        fill: the RGB colour for that; None: the median colour of the photo outside all objects.
        grow: pixels of the photo by which an object is grown before its background is removed, so that its edge stays.
        types: for each photo the defect type of every object by its number; ``good`` for good ones.
        test_share: share of the photos, 0 to 1, whose good objects are for testing. Used only with ``types``.
        pixel_size: mm a pixel of the photos. Written to ``dataset.json``, scaled, if ``same_scale``.
        force: replace the folder, if it holds cut-outs written by this function.

    Returns:
        The new folder.

    Raises:
        FileExistsError: the folder holds something, and ``force`` is False or these are no cut-outs.
        ValueError: a parameter outside its range, inputs that do not fit each other, an object without a type, photos
            inside the new folder, or no object at all; the message says which.
    """
    photos, out = [Path(photo) for photo in photos], Path(out).expanduser().absolute()
    _check(photos, labels, size, margin, border, types, test_share, pixel_size)
    _check_folder(out, photos, force)
    objects = [_objects(photo, labels[i], types[i] if types is not None else None) for i, photo in enumerate(photos)]
    longest = [max(each.width, each.height) for those in objects for each in those]
    if not longest:
        raise ValueError("There is no object in any of the labels; lower the threshold of separate(), or train longer.")
    common_side = _window_side(max(longest), margin)
    n_test = round(test_share * len(photos)) if types is not None else 0
    test_photos = {int((k + 0.5) * len(photos) / n_test) for k in range(n_test)}
    about = {"name": out.name, "layout": "plain", "image_size": [size, size]}
    if bits := known_bit_depth(photos[0]):
        about["bit_depth"] = bits  # runs read other photos as these are read
    if same_scale and pixel_size is not None:
        about["pixel_size_mm"] = pixel_size * common_side / size

    def write(folder: Path) -> None:
        rows = []
        for number, photo in enumerate(progress(photos, "cutting out")):
            pixels = _read_photo(photo, labels[number])
            colour = None
            if remove_background:
                colour = background_colour(pixels, labels[number]) if fill is None else fill
            for each in objects[number]:
                side = common_side if same_scale else _window_side(max(each.width, each.height), margin)
                require_window(photo, side, pixels.shape)
                window = (each.x + (each.width - side) // 2, each.y + (each.height - side) // 2, side)
                picture = cut_window(pixels, window, BORDERS[border])
                if colour is not None:
                    picture[~own_pixels(labels[number], each.label, window, grow)] = colour
                shrink = size < side
                picture = cv2.resize(
                    picture, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
                )
                split = "test" if each.defect_type != NORMAL or number in test_photos else "train"
                name = f"{split}/{each.defect_type}/{number:04d}_{each.label:03d}.png"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / name)
                box = (each.x, each.y, each.width, each.height)
                rows.append((name, str(photo), each.label, *box, *window, size / side, each.defect_type, split))
        write_csv(pd.DataFrame(rows, columns=COLUMNS), folder / TABLE_NAME)
        (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    write_whole_folder(out, write)
    return out


def _check(
    photos: list[Path],
    labels: Sequence[np.ndarray],
    size: int,
    margin: float,
    border: str,
    types: Sequence[Mapping[int, str]] | None,
    test_share: float,
    pixel_size: float | None,
) -> None:
    if len(labels) != len(photos) or (types is not None and len(types) != len(photos)):
        raise ValueError(f"{len(photos)} photos need as many labels and, if given, types.")
    if size < 1 or margin < 0:
        raise ValueError(f"size={size} must be at least 1, and margin={margin} at least 0.")
    if border not in BORDERS:
        raise ValueError(f"border={border!r} is unknown; known: {', '.join(BORDERS)}.")
    if not 0 <= test_share <= 1:
        raise ValueError(f"test_share={test_share} must lie between 0 and 1.")
    if pixel_size is not None and not pixel_size > 0:
        raise ValueError(f"pixel_size={pixel_size} must be above 0, in mm a pixel.")
    for photo, one in zip(photos, labels, strict=True):
        if one.ndim != 2 or not np.issubdtype(one.dtype, np.integer):
            raise ValueError(f"{photo}: its labels are {one.shape} {one.dtype}; they must be (H, W) whole numbers.")


def _check_folder(out: Path, photos: list[Path], force: bool) -> None:
    inside = next((photo for photo in photos if photo.resolve().is_relative_to(out.resolve())), None)
    if inside is not None:
        raise ValueError(f"{inside} lies in {out}; the cut-outs need a folder of their own.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise FileExistsError(f"{out} exists; remove it, choose another folder, or replace the cut-outs with force.")
    if not (out / TABLE_NAME).is_file():
        raise FileExistsError(f"{out} holds no {TABLE_NAME}, so these are no cut-outs to be replaced; remove it.")


def _objects(photo: Path, labels: np.ndarray, types: Mapping[int, str] | None) -> list[_Object]:
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        kind = NORMAL if types is None else types.get(label, "")
        kind = NORMAL if kind.lower() in NORMAL_NAMES else kind
        if not re.fullmatch(FOLDER_NAME, kind):
            raise ValueError(
                f"{photo}: object {label} has the type {kind!r}; the type becomes a folder's name: letters, digits, "
                f"-, _ and +, and {NORMAL!r} for good ones."
            )
        (top, bottom), (left, right) = ((part.start, part.stop) for part in box)
        found.append(_Object(label, left, top, right - left, bottom - top, kind))
    return found


def _window_side(longest: int, margin: float) -> int:
    return max(1, round(longest * (1 + 2 * margin)))


def _read_photo(photo: Path, labels: np.ndarray) -> np.ndarray:
    pixels = read_image(photo)
    if pixels.shape[:2] != labels.shape:
        raise ValueError(
            f"{photo} is {pixels.shape[1]}x{pixels.shape[0]} pixels but its labels {labels.shape[1]}x{labels.shape[0]} "
            "(width x height); they must be of one size."
        )
    return pixels


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
            "(width x height); cut it into pieces (python -m helpers.data.patches), or give a smaller window."
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
