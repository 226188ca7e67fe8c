"""Write a new dataset from an old one: photos upright, in one mode, cropped and resized, masks alike.

``python -m helpers.data.preprocess DATASET OUT [--mode RGB|L|keep] [--crop ...] [--size H,W]``. Never in place.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from helpers.data.convert import add_reader_options, folder_names, unique_name, write_samples
from helpers.data.images import decode_image
from helpers.data.samples import NORMAL, relative_path
from helpers.paths import write_whole_folder
from helpers.progress import progress

logger = logging.getLogger(__name__)

MODES: tuple[str, ...] = ("RGB", "L")
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "bmp": {"format": "BMP"},
    "tif": {"format": "TIFF"},
    "webp": {"format": "WEBP", "lossless": True},
}
_MAX_LISTED = 20
_PIXEL_SIZE_TOLERANCE = 0.005


class Crop(NamedTuple):
    """A window in pixels of the upright photo; ``top`` and ``left`` are None where it is centred."""

    top: int | None
    left: int | None
    height: int
    width: int


@dataclass(frozen=True)
class _Job:
    """One photo: where it comes from and goes to; ``mask`` and ``mask_target`` are "" where there is none."""

    source: str
    mask: str
    target: str
    mask_target: str
    split: str


@dataclass(frozen=True)
class _Outcome:
    """What became of a photo: ``scale`` is (down, across), source pixels per new pixel."""

    error: str = ""
    scale: tuple[float, float] = (1.0, 1.0)
    lost_mask: bool = False


def preprocess_dataset(
    table: pd.DataFrame,
    out_dir: str | Path,
    *,
    mode: str | None = "RGB",
    size: int | tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | str | None = None,
    keep_aspect: bool = False,
    image_format: str = "png",
) -> Path:
    """Write the photos and masks of a table as a new dataset in MVTec layout.

    In this order: turned upright (EXIF), converted to 8 bits and ``mode``, cropped, resized (photos bilinear with
    antialiasing, masks to the nearest pixel; masks are written as PNG with 0 and 255). The published split is kept,
    else the one of the table; photos in no split go to train (normal) and test (abnormal). ``samples.csv`` is the
    sample table of the new dataset, with exact split, group, type and further columns, and ``source``, the path in the
    old one; ``dataset.json`` has the name and, where it is still known, the pixel size.

    The dataset appears under its name when it is complete; on any error nothing is left.

    Args:
        table: a sample table.
        out_dir: the new folder; must not exist, nor lie in the old dataset or around it.
        mode: "RGB", "L" (grey), or None: grey photos stay grey, all others become RGB.
        size: (height, width) in pixels; an int is both.
        crop: (top, left, height, width) in pixels of the upright photo, or "center:HxW".
        keep_aspect: fit photos inside ``size`` instead of stretching them to it; nothing is padded.
        image_format: "png", "jpg" (quality 95), "bmp", "tif" or "webp" (lossless) for the photos.

    Returns:
        The new folder.

    Raises:
        FileExistsError: ``out_dir`` exists.
        ValueError: a parameter is invalid, ``out_dir`` touches the old dataset, the table cannot be laid out so, or
            photos or masks cannot be read or are smaller than the crop (all are listed).
    """
    if mode is not None and mode not in MODES:
        raise ValueError(f"mode is {mode!r}; use 'RGB', 'L' or None (keep).")
    if image_format not in _SAVE_OPTIONS:
        raise ValueError(f"image_format is {image_format!r}; use one of {', '.join(_SAVE_OPTIONS)}.")
    target_size = _parsed_size(size)
    window = _parsed_crop(crop)
    if keep_aspect and target_size is None:
        raise ValueError("keep_aspect needs a size; give one.")
    out = _checked_target(table, out_dir)
    jobs = _jobs(table, image_format)
    if not jobs:
        raise ValueError("The table has no photos; check the path of the dataset.")

    outcomes: list[_Outcome] = []

    def write(folder: Path) -> None:
        def work(job: _Job) -> _Outcome:
            return _process(job, folder, mode, window, target_size, keep_aspect, _SAVE_OPTIONS[image_format])

        targets = {target for job in jobs for target in (job.target, job.mask_target) if target}
        for parent in {(folder / target).parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as executor:
            outcomes.extend(progress(executor.map(work, jobs), "Writing photos", total=len(jobs)))
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors:
            more = f"\n- and {len(errors) - _MAX_LISTED} more" if len(errors) > _MAX_LISTED else ""
            raise ValueError(
                f"{len(errors)} photo(s) cannot be processed, so nothing was written; fix or remove them:\n- "
                + "\n- ".join(errors[:_MAX_LISTED])
                + more
            )
        _write_about(table, folder, out.name, jobs, outcomes)
        _refuse_existing(out)

    write_whole_folder(out, write)
    lost = [job.target for job, outcome in zip(jobs, outcomes, strict=True) if outcome.lost_mask]
    if lost:
        logger.warning("%d mask(s) became empty by crop or size, the first of %s.", len(lost), lost[0])
    return out


def _process(
    job: _Job,
    folder: Path,
    mode: str | None,
    crop: Crop | None,
    size: tuple[int, int] | None,
    keep_aspect: bool,
    options: dict[str, object],
) -> _Outcome:
    """Write one photo and its mask."""
    try:
        decoded = decode_image(job.source)
        photo = Image.fromarray(decoded.pixels())
        if mode is not None and photo.mode != mode:
            photo = photo.convert(mode)
        mask = None
        if job.mask:
            pixels = decode_image(job.mask).mask()
            if pixels.shape != decoded.shape:
                raise ValueError(
                    f"{job.mask}: the mask is {pixels.shape[1]}x{pixels.shape[0]} pixels but its photo "
                    f"{decoded.shape[1]}x{decoded.shape[0]} (width x height)"
                )
            mask = Image.fromarray(pixels.astype(np.uint8) * 255)
        box = _box(crop, decoded.shape, job.source)
        height, width = box[3] - box[1], box[2] - box[0]
        new_height, new_width = _fitted(height, width, size, keep_aspect)
        photo = photo.crop(box)
        if (new_height, new_width) != (height, width):
            photo = photo.resize((new_width, new_height), Image.Resampling.BILINEAR)
        photo.save(folder / job.target, **options)
        lost = False
        if mask is not None:
            marked = mask.getbbox() is not None
            mask = mask.crop(box).resize((new_width, new_height), Image.Resampling.NEAREST)
            lost = marked and mask.getbbox() is None
            mask.save(folder / job.mask_target, format="PNG")
    except (ValueError, FileNotFoundError) as error:
        return _Outcome(error=str(error))
    return _Outcome(scale=(height / new_height, width / new_width), lost_mask=lost)


def _box(crop: Crop | None, shape: tuple[int, int], path: str) -> tuple[int, int, int, int]:
    """Pillow's (left, upper, right, lower)."""
    height, width = shape
    if crop is None:
        return 0, 0, width, height
    top = (height - crop.height) // 2 if crop.top is None else crop.top
    left = (width - crop.width) // 2 if crop.left is None else crop.left
    if top < 0 or left < 0 or top + crop.height > height or left + crop.width > width:
        raise ValueError(
            f"{path}: the photo is {height}x{width} (height x width), which the crop of {crop.height}x{crop.width} at "
            f"({top}, {left}) does not lie in; choose a smaller crop"
        )
    return left, top, left + crop.width, top + crop.height


def _fitted(height: int, width: int, size: tuple[int, int] | None, keep_aspect: bool) -> tuple[int, int]:
    if size is None:
        return height, width
    if not keep_aspect:
        return size
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


# ------------------------------------------------------------------------------------------------------ what and where


def _parsed_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    values = (size, size) if isinstance(size, int) else tuple(size)
    if len(values) != 2 or not all(isinstance(value, int) and value > 0 for value in values):
        raise ValueError(f"size is {size!r}; give the height and width as positive whole numbers, or one for both.")
    return values


def _parsed_crop(crop: tuple[int, int, int, int] | str | None) -> Crop | None:
    if crop is None:
        return None
    fix = "give (top, left, height, width) in pixels, or 'center:HxW'"
    if isinstance(crop, str):
        kind, _, numbers = crop.partition(":")
        parts = numbers.lower().split("x")
        if kind not in ("center", "centre") or len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
            raise ValueError(f"crop is {crop!r}; {fix}.")
        window = Crop(None, None, int(parts[0]), int(parts[1]))
    else:
        if len(crop) != 4 or not all(isinstance(value, int) for value in crop):
            raise ValueError(f"crop is {crop!r}; {fix}.")
        window = Crop(*crop)
    if window.height < 1 or window.width < 1 or (window.top or 0) < 0 or (window.left or 0) < 0:
        raise ValueError(f"crop is {crop!r}, which holds no pixel of the photo; {fix}.")
    return window


def _checked_target(table: pd.DataFrame, out_dir: str | Path) -> Path:
    root = table.attrs.get("root")
    if not root:
        raise ValueError("table.attrs['root'] is missing; read the table with helpers.read_dataset and keep its attrs.")
    out = Path(out_dir).expanduser().absolute()
    _refuse_existing(out)
    real_out, real_root = out.resolve(), Path(root).resolve()
    if real_out.is_relative_to(real_root) or real_root.is_relative_to(real_out):
        raise ValueError(f"{out} lies in the dataset {root} or around it; a new dataset needs a folder of its own.")
    return out


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} exists; remove it or choose another folder.")


def _jobs(table: pd.DataFrame, image_format: str) -> list[_Job]:
    """Where every photo goes: ``split/type/stem``, stems unique within a type over all splits (masks lie by type)."""
    types, taken = folder_names(table), set()
    jobs = []
    for row in table.to_dict("records"):
        abnormal = int(row["label_index"]) == 1
        kind = types[row["defect_type"]] if abnormal else NORMAL
        split = str(row.get("published_split", row["split"]))
        stem = unique_name(Path(row["image_path"]).stem, kind, taken)
        target = f"{split or ('test' if abnormal else 'train')}/{kind}/{stem}.{image_format}"
        mask = str(row["mask_path"]) if abnormal else ""
        jobs.append(_Job(str(row["image_path"]), mask, target, mask and f"ground_truth/{kind}/{stem}_mask.png", split))
    return jobs


def _write_about(table: pd.DataFrame, folder: Path, name: str, jobs: list[_Job], outcomes: list[_Outcome]) -> None:
    """Write samples.csv and dataset.json."""
    pixel_size = table.attrs.get("pixel_size")
    if pixel_size:
        scales = np.array([outcome.scale for outcome in outcomes])
        if scales.max() - scales.min() <= _PIXEL_SIZE_TOLERANCE * scales.mean():
            pixel_size = float(pixel_size) * float(scales.mean())
        else:
            pixel_size = None
            logger.warning(
                "The photos are not all scaled alike down and across, so the new dataset has no pixel size; crop to "
                "the aspect of the size, or use keep_aspect."
            )
    rows = [
        {**row, "image_path": job.target, "mask_path": job.mask_target, "split": job.split, "source": source}
        for row, job, source in zip(
            table.drop(columns="published_split", errors="ignore").to_dict("records"),
            jobs,
            relative_path(table),
            strict=True,
        )
    ]
    write_samples(table, rows, folder, name, pixel_size)


# --------------------------------------------------------------------------------------------------------- command line


def _whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.lower().replace("x", ",").split(",")]


def _size_argument(text: str) -> tuple[int, int]:
    values = _whole_numbers(text)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _crop_argument(text: str) -> str | tuple[int, ...]:
    return text if ":" in text else tuple(_whole_numbers(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data.preprocess",
        description="Write a new dataset (MVTec layout): photos upright, in one mode, cropped, resized; masks alike.",
    )
    parser.add_argument("dataset", type=Path, help="folder or table of the dataset")
    parser.add_argument("out", type=Path, help="folder of the new dataset; must not exist")
    parser.add_argument(
        "--mode", choices=[*MODES, "keep"], default="RGB", help="colour, grey, or as it is (default RGB)"
    )
    parser.add_argument("--size", type=_size_argument, metavar="H,W", help="new size in pixels; one number is both")
    parser.add_argument(
        "--crop", type=_crop_argument, metavar="T,L,H,W", help="window cut before resizing, or center:HxW"
    )
    parser.add_argument("--keep-aspect", action="store_true", help="fit inside the size instead of stretching")
    parser.add_argument("--format", choices=list(_SAVE_OPTIONS), default="png", help="file format (default png)")
    add_reader_options(parser)
    options = parser.parse_args(arguments)
    from helpers.data.formats import read_dataset  # the library part needs no readers

    try:
        table = read_dataset(options.dataset, layout=options.layout, **dict(options.option))
        out = preprocess_dataset(
            table,
            options.out,
            mode=None if options.mode == "keep" else options.mode,
            size=options.size,
            crop=options.crop,
            keep_aspect=options.keep_aspect,
            image_format=options.format,
        )
    except (ValueError, TypeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(table)} photos written to {out}")
    print(f"read {out / 'samples.csv'}: it keeps groups and splits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
