"""Patches: photos cut into squares, each labelled by its own part of the mask, as a new dataset.

``python -m helpers.data.patches DATASET OUT [--size 256] [--stride 256] [--min-area 64] [--layout NAME] ...``

A strip of Severstal (256x1600) becomes seven photos on which a defect fills a share of the picture that a network
sees. Patches of one photo share its group, so `assign_splits` never parts them: read ``OUT/samples.csv``, which has the
groups, not the folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers.data.convert import add_reader_options, write_mvtec
from helpers.data.images import decode_image, read_mask
from helpers.data.samples import NORMAL, absolute_path, make_table, relative_path
from helpers.progress import progress

logger = logging.getLogger(__name__)

MIN_AREA = 64
"""Defect pixels from which a patch is abnormal; below, a patch shows too little of its defect to be called either."""


@dataclass(frozen=True)
class PatchCounts:
    """What became of the patches.

    Attributes:
        normal: patches written without a defect pixel.
        abnormal: patches written with at least ``min_area`` defect pixels.
        too_small: patches left out with fewer defect pixels than that, but some.
        several_types: patches left out with a defect of a photo of several types: the mask does not tell them apart.
        without_mask: abnormal photos left out whole: where their defect lies is not known.
    """

    normal: int = 0
    abnormal: int = 0
    too_small: int = 0
    several_types: int = 0
    without_mask: int = 0


def write_patches(
    table: pd.DataFrame,
    out: str | Path,
    *,
    size: int = 256,
    stride: int | None = None,
    min_area: int = MIN_AREA,
    force: bool = False,
) -> PatchCounts:
    """Cut every photo of a table and write the patches in the MVTec layout, with ``samples.csv``.

    Patches begin every ``stride`` pixels from the upper left corner; where the last does not end with the photo, one
    more does, and overlaps its neighbour. They are PNG, grey or RGB, at the photo's own scale. A patch keeps split and
    group of its photo; the columns ``photo`` (path relative to the old dataset), ``top`` and ``left`` say where it was
    cut. A patch with at least ``min_area`` defect pixels has its photo's defect type, one without any is normal;
    patches that cannot be labelled are left out and counted. See `helpers.data.convert.write_mvtec` for the folder.

    Args:
        table: a sample table.
        out: the new folder; must not exist or be empty.
        size: side of a patch in pixels.
        stride: pixels from one patch to the next, at most ``size``; default: ``size``.
        min_area: defect pixels that make a patch abnormal.
        force: replace a folder that is not empty.

    Raises:
        FileExistsError: the folder is not empty and ``force`` is False.
        FileNotFoundError: a photo or mask of the table is missing.
        ValueError: a parameter out of range, a photo smaller than a patch or that cannot be read, a mask of another
            size than its photo, no patch at all, or ``out`` lies in the dataset or around it.
    """
    stride = size if stride is None else stride
    for name, value in (("size", size), ("stride", stride), ("min_area", min_area)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; give a whole number of pixels, 1 or more.")
    if stride > size:
        raise ValueError(f"stride is {stride}, more than size {size}: pixels between patches would be lost; lower it.")
    folder = _checked_folder(table, out, force)
    counts: Counter[str] = Counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.patches-", dir=folder.parent) as scratch:

        def cut_photo(job: tuple[int, dict[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
            number, row = job
            # a folder a photo: no folder of a hundred thousand files, and no name twice
            return _cut(row, Path(scratch), f"{number:06d}", size, stride, min_area)

        rows: list[dict[str, Any]] = []
        jobs = enumerate(table.assign(photo=relative_path(table)).to_dict("records"))
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as executor:
            for cut, of_photo in progress(executor.map(cut_photo, jobs), "Cutting patches", total=len(table)):
                rows += cut
                counts += of_photo
        result = PatchCounts(**counts)
        if not rows:
            raise ValueError(f"No patch can be written ({result}); check masks and min_area.")
        patches = make_table(
            rows,
            root=scratch,
            layout="mvtec",
            name=str(table.attrs.get("name") or ""),
            published_split=bool((table["split"] != "").any()),
            pixel_size=table.attrs.get("pixel_size"),
        )
        patches.attrs |= {key: table.attrs[key] for key in ("bit_depth",) if key in table.attrs}
        write_mvtec(patches, folder, force=force)
    if result.too_small or result.several_types or result.without_mask:
        logger.warning("%s: some patches cannot be labelled and are left out: %s.", folder, result)
    return result


def patch_starts(length: int, size: int, stride: int) -> list[int]:
    """Where patches begin along a side of ``length`` pixels, at least ``size``: every ``stride``, and the last fits."""
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] + size == length else [*starts, length - size]


def _cut(
    row: dict[str, Any], root: Path, folder: str, size: int, stride: int, min_area: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Write the patches of a photo that can be labelled into ``root/folder``; their rows, and the count of all."""
    abnormal = row["label_index"] == 1
    if abnormal and not row["mask_path"]:
        return [], Counter(without_mask=1)
    photo = Path(row["image_path"])
    pixels = decode_image(photo).pixels()
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"{photo} is {width}x{height} pixels (width x height), smaller than size {size}; lower it.")
    mask = read_mask(row["mask_path"], (height, width)) if abnormal else np.zeros((height, width), dtype=bool)
    several = "+" in str(row.get("defect_types") or row["defect_type"])
    normal = {"label_index": 0, "defect_type": NORMAL, "mask_path": ""}
    normal |= {"defect_types": ""} if "defect_types" in row else {}
    (root / folder).mkdir()
    rows, counts = [], Counter()
    for top in patch_starts(height, size, stride):
        for left in patch_starts(width, size, stride):
            window = (slice(top, top + size), slice(left, left + size))
            area = int(mask[window].sum())
            if 0 < area < min_area or (area and several):
                counts["too_small" if area < min_area else "several_types"] += 1
                continue
            counts["abnormal" if area else "normal"] += 1
            name = f"{folder}/{photo.stem[:80]}_{top}_{left}"
            # little compression: most of the time goes into it
            Image.fromarray(pixels[window]).save(root / f"{name}.png", compress_level=1)
            cut = row | {"image_path": f"{name}.png", "top": top, "left": left}
            if area:
                Image.fromarray(mask[window].astype(np.uint8) * 255).save(root / f"{name}_mask.png")
            rows.append(cut | ({"mask_path": f"{name}_mask.png"} if area else normal))
    return rows, counts


def _checked_folder(table: pd.DataFrame, out: str | Path, force: bool) -> Path:
    """The new folder; what `write_mvtec` would refuse is refused before anything is cut."""
    folder = absolute_path(out)
    root = table.attrs.get("root")
    if not root:
        raise ValueError("table.attrs['root'] is missing; read the table with helpers.read_dataset and keep its attrs.")
    inside, around = (folder.resolve(), Path(root).resolve()), (Path(root).resolve(), folder.resolve())
    if any(one.is_relative_to(other) for one, other in (inside, around)):
        raise ValueError(f"{folder} lies in the dataset {root} or around it; a new dataset needs a folder of its own.")
    if not force and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or force=True to replace it.")
    return folder


# --------------------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data.patches", description="Cut the photos of a dataset into patches (MVTec layout)."
    )
    parser.add_argument("dataset", type=Path, help="folder or table of the dataset")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--size", type=int, default=256, help="side of a patch in pixels (default 256)")
    parser.add_argument("--stride", type=int, help="pixels from one patch to the next (default: size)")
    parser.add_argument(
        "--min-area", type=int, default=MIN_AREA, help=f"defect pixels that make a patch abnormal (default {MIN_AREA})"
    )
    add_reader_options(parser)
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(arguments)
    from helpers.data.formats import read_dataset

    try:
        table = read_dataset(options.dataset, layout=options.layout, **dict(options.option))
        counts = write_patches(
            table,
            options.out,
            size=options.size,
            stride=options.stride,
            min_area=options.min_area,
            force=options.force,
        )
    except (ValueError, TypeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{counts.normal} normal and {counts.abnormal} abnormal patches written to {options.out}")
    print(f"read {options.out / 'samples.csv'}: it keeps the patches of a photo together")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
