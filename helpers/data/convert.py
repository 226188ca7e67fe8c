"""Writers: any sample table as a folder in the MVTec layout or in COCO, so that a person can move between tools.

``python -m helpers.data.convert DATASET OUT --format mvtec|coco [--layout NAME] [--option NAME=VALUE ...] [--force]``

Photos are copied byte for byte, but written upright where EXIF turns them. A folder appears under its name when it is
complete; on any error nothing is left.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import get_sampling
from scipy import ndimage

from helpers.data.annotations import draw_polygon, region_of
from helpers.data.folders import folder_name
from helpers.data.images import decode_image, exif_orientation, image_sizes, read_mask
from helpers.data.samples import NORMAL, absolute_path, make_table, relative_path, write_table
from helpers.paths import write_whole_folder
from helpers.progress import progress

FORMATS = ("mvtec", "coco")
COCO_FILE = "_annotations.coco.json"

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)
_COCO_FOLDERS = {"train": "train", "val": "valid", "test": "test", "": ""}
_MAX_STEM = 200  # bytes; file systems end at 255, and masks have longer names


def write_mvtec(table: pd.DataFrame, out: str | Path, *, force: bool = False) -> Path:
    """Write ``train/good``, ``test/good``, ``test/<type>`` and ``ground_truth/<type>/NAME_mask.png``.

    The layout knows no val and no defect in training. So normal photos of val, and of no split, go to ``train/good``,
    and all abnormal photos to ``test/<type>``; ``samples.csv`` beside them is the sample table of the new folder with
    the exact split, group, type and further columns, and `helpers.read_dataset` reads it too. Masks are written as
    PNG, 0 and 255, at the size of the upright photo. Names of types become names of folders (what is no letter, digit,
    ``-``, ``_``, ``.``, ``+`` or space becomes ``_``), and photos get a number behind their name where it is taken.

    Args:
        table: a sample table.
        out: the new folder; must not exist or be empty.
        force: replace a folder that is not empty.

    Returns:
        The new folder.

    Raises:
        FileExistsError: the folder is not empty and ``force`` is False.
        FileNotFoundError: a photo or mask of the table is missing.
        ValueError: the table has no photos or no root, a mask has not the size of its photo, or the folder lies in the
            dataset or around it.
    """

    def write(folder: Path) -> None:
        types = folder_names(table)
        taken: set[str] = set()
        rows = []
        for row in progress(table.to_dict("records"), "Writing photos"):
            photo, abnormal = Path(row["image_path"]), row["label_index"] == 1
            kind = types[row["defect_type"]] if abnormal else NORMAL
            place = "test" if abnormal or row["split"] == "test" else "train"
            # one name a type over all splits, for the masks of a type share a folder
            name = unique_name(photo.stem, kind, taken) + photo.suffix
            target = _copy(photo, folder / place / kind / name)
            mask = ""
            if abnormal and row["mask_path"]:
                mask = f"ground_truth/{kind}/{target.stem}_mask.png"
                (folder / mask).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_pixels(row).astype(np.uint8) * 255).save(folder / mask)
            rows.append({**row, "image_path": f"{place}/{kind}/{target.name}", "mask_path": mask})
        write_samples(table, rows, folder, absolute_path(out).name, table.attrs.get("pixel_size"))

    return _write_folder(table, out, write, force)


def write_coco(table: pd.DataFrame, out: str | Path, *, force: bool = False) -> Path:
    """Write a folder a split (train, valid, test; photos of no split at the top), each with ``_annotations.coco.json``.

    Every connected region (8 neighbours) of a mask becomes an annotation whose category is the photo's defect type. A
    region without holes is a polygon along the edges of its pixels, which pycocotools redraws exactly; COCO's polygons
    have no holes, so a region with any is stored as compressed run lengths, exact too, with ``iscrowd`` 0. An abnormal
    photo without a mask, or with an empty one, gets an annotation with the box of the whole photo and no outline:
    it would count as normal without. Where photos share a group, their records have the custom key ``group``. Types
    called like a normal photo (ok, free) are written with ``defect_`` before.

    Args:
        table: a sample table.
        out: the new folder; must not exist or be empty.
        force: replace a folder that is not empty.

    Returns:
        The new folder.

    Raises:
        FileExistsError: the folder is not empty and ``force`` is False.
        FileNotFoundError: a photo or mask of the table is missing.
        ValueError: the table has no photos or no root, a mask has not the size of its photo, or the folder lies in the
            dataset or around it.
    """

    def write(folder: Path) -> None:
        abnormal = table["label_index"] == 1
        names = {kind: folder_name(kind) for kind in sorted(table["defect_type"][abnormal].unique())}
        categories = {kind: number for number, kind in enumerate(names, start=1)}
        taken: set[str] = set()
        contents: dict[str, dict[str, Any]] = {}
        shared = table["group"].duplicated(keep=False).tolist()
        rows = zip(table.to_dict("records"), shared, strict=True)
        for row, in_group in progress(rows, "Writing photos", total=len(table)):
            place = _COCO_FOLDERS[row["split"]]
            content = contents.setdefault(place, {"images": [], "annotations": []})
            photo = Path(row["image_path"])
            name = unique_name(photo.stem, place, taken) + photo.suffix
            name = _copy(photo, folder / place / name).name
            height, width = (int(value) for value in image_sizes([photo])[0])
            number = len(content["images"]) + 1
            record = {"id": number, "file_name": name, "height": height, "width": width}
            content["images"].append({**record, "group": row["group"]} if in_group else record)
            if row["label_index"] == 1:
                for region in _annotations(row, (height, width)):
                    about = {"id": len(content["annotations"]) + 1, "image_id": number}
                    content["annotations"].append(about | {"category_id": categories[row["defect_type"]]} | region)
        for place, content in contents.items():
            info = {"description": str(table.attrs.get("name") or "")}
            listed = [{"id": categories[kind], "name": name, "supercategory": "defect"} for kind, name in names.items()]
            _write_json(folder / place / COCO_FILE, {"info": info, "licenses": [], "categories": listed, **content})
        _write_about(table, folder, absolute_path(out).name, "coco", table.attrs.get("pixel_size"))

    return _write_folder(table, out, write, force)


# -------------------------------------------------------------------------------------------------------------- regions


def _annotations(row: dict[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Annotations of an abnormal photo, without their ids."""
    regions = connected_regions(_pixels(row)) if row["mask_path"] else []
    if not regions:
        height, width = size
        return [{"segmentation": [], "bbox": [0, 0, width, height], "area": height * width, "iscrowd": 0}]
    return regions


def connected_regions(mask: np.ndarray) -> list[dict[str, Any]]:
    """COCO's outline of each connected region (8 neighbours) of a mask, from top to bottom.

    Args:
        mask: bool (H, W).

    Returns:
        Dictionaries with ``segmentation`` (one polygon, or run lengths for a region with holes), ``bbox``
        [x, y, width, height], ``area`` in pixels and ``iscrowd`` 0; pycocotools draws exactly the pixels of the mask.
    """
    labels, _ = ndimage.label(mask, structure=_EIGHT_NEIGHBOURS)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, columns] == number
        loops = outlines(part)
        # the second holds for every mask tried; a polygon that lost a pixel would do so silently
        if len(loops) == 1 and draw_polygon(loops[0], part.shape).region == region_of(part):
            segmentation: Any = [(loops[0] + (columns.start, rows.start)).ravel().tolist()]
        else:
            whole = np.zeros(mask.shape, dtype=bool)
            whole[rows, columns] = part
            region = region_of(whole)
            segmentation = {"size": region["size"], "counts": region["counts"].decode("ascii")}
        bbox = [columns.start, rows.start, part.shape[1], part.shape[0]]
        found.append({"segmentation": segmentation, "bbox": bbox, "area": int(part.sum()), "iscrowd": 0})
    return found


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines along the edges between True and False, pixels that meet at a corner being joined.

    Args:
        mask: bool (H, W).

    Returns:
        For each line its corners in order, int (N, 2) of x and y from 0 to W and H. A region that is connected by 8
        neighbours has one line around it and one around each of its holes.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    # edges of one pixel with the object on their right (y points down): clockwise around it, the other way around holes
    down = np.diff(padded, axis=0)[:, 1:-1]
    across = np.diff(padded, axis=1)[1:-1]
    kinds = (
        (down == 1, (0, 0), (1, 0)),  # upper edge, to the right
        (down == -1, (1, 0), (-1, 0)),  # lower edge, to the left
        (across == -1, (0, 0), (0, 1)),  # right edge, down
        (across == 1, (0, 1), (0, -1)),  # left edge, up
    )
    steps_at: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for there, (right, below), step in kinds:
        for y, x in np.argwhere(there).tolist():
            steps_at.setdefault((x + right, y + below), []).append(step)
    lines = []
    done: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    for start, first_steps in steps_at.items():
        for first in first_steps:
            point, step = start, first
            edges = []
            while (point, step) not in done:
                done.add((point, step))
                edges.append((point, step))
                point = (point[0] + step[0], point[1] + step[1])
                ways = steps_at[point]
                # where pixels meet at a corner only, turning left keeps them in one line
                step = ways[0] if len(ways) == 1 else (step[1], -step[0])
            corners = [edges[i][0] for i in range(len(edges)) if edges[i][1] != edges[i - 1][1]]
            if corners:
                lines.append(np.array(corners))
    return lines


# -------------------------------------------------------------------------------------------------------------- folders


def _write_folder(table: pd.DataFrame, out: str | Path, write: Callable[[Path], None], force: bool) -> Path:
    """Write beside the folder's place and move it there when complete."""
    folder = absolute_path(out)
    root = table.attrs.get("root")
    if not root:
        raise ValueError("table.attrs['root'] is missing; read the table with helpers.read_dataset and keep its attrs.")
    if table.empty:
        raise ValueError("The table has no photos; check the path of the dataset.")
    if folder.resolve().is_relative_to(Path(root).resolve()) or Path(root).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} lies in the dataset {root} or around it; a new dataset needs a folder of its own.")
    for path in [*table["image_path"], *table["mask_path"]]:
        if path and Path(path).is_relative_to(folder):
            raise ValueError(f"{folder} holds {path} of the table; a new dataset needs a folder of its own.")
    occupied = folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir())))
    if occupied and not force:
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or force=True to replace it.")
    write_whole_folder(folder, write)
    return folder


def _copy(photo: Path, target: Path) -> Path:
    """Copy a photo; one that EXIF turns is written upright (JPEG with its own tables, others as PNG), for not every
    program turns it as its mask is turned."""
    if not photo.is_file():
        raise FileNotFoundError(f"{photo} is in the table but not on disk; read the dataset again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    if exif_orientation(photo) == 1:
        shutil.copyfile(photo, target)
        return target
    decoded = decode_image(photo)
    upright = Image.fromarray(decoded.pixels() if decoded.deep is None else decoded.upright(decoded.deep))
    tables = getattr(decoded.image, "quantization", None)
    if tables:
        if decoded.turn >= 5:  # rows become columns, of the tables too
            tables = {key: np.reshape(table, (8, 8)).T.ravel().tolist() for key, table in tables.items()}
        upright.save(target, "JPEG", qtables=tables, subsampling=get_sampling(decoded.image))
        return target
    upright.save(target.with_suffix(".png"))
    return target.with_suffix(".png")


def _pixels(row: dict[str, Any]) -> np.ndarray:
    height, width = image_sizes([row["image_path"]])[0]
    return read_mask(row["mask_path"], (int(height), int(width)))


def write_samples(
    table: pd.DataFrame, rows: list[dict[str, Any]], folder: Path, name: str, pixel_size: float | None
) -> None:
    """Write ``samples.csv``, the sample table of a new folder, and ``dataset.json``.

    Args:
        table: the old one.
        rows: of the new one, in the old one's order; paths relative to ``folder``.
        folder: where the photos are, to be renamed later.
        name: of the new dataset.
        pixel_size: of the new photos, mm.
    """
    # where a photo was its own group, its new path is
    alone = table["group"] == relative_path(table)
    rows = [{**row, "group": row["image_path"]} if own else row for row, own in zip(rows, alone, strict=True)]
    layout = "mvtec" if any(row["mask_path"] for row in rows) else "plain"
    published = any(row["split"] for row in rows)
    written = make_table(rows, root=folder, layout=layout, name=name, published_split=published, pixel_size=pixel_size)
    write_table(written, folder / "samples.csv")
    # the file says where the photos lie, and the folder is still to be renamed
    attrs = {key: value for key, value in written.attrs.items() if key != "root"} | _bit_depth(table)
    _write_json(folder / "samples.csv.json", attrs)
    _write_about(table, folder, name, layout, pixel_size)


def _write_about(table: pd.DataFrame, folder: Path, name: str, layout: str, pixel_size: float | None) -> None:
    about = {"name": name, "layout": layout, "source": table.attrs.get("name") or ""}
    about |= {"pixel_size_mm": pixel_size} if pixel_size else {}
    _write_json(folder / "dataset.json", about | _bit_depth(table))


def _bit_depth(table: pd.DataFrame) -> dict[str, int]:
    """Kept also where photos are written with 8 bits: so runs read others as these were read."""
    return {"bit_depth": table.attrs["bit_depth"]} if table.attrs.get("bit_depth") else {}


def folder_names(table: pd.DataFrame) -> dict[str, str]:
    """Defect type -> name of its folder, different from all others whatever the case."""
    taken: set[str] = set()
    types = sorted(table["defect_type"][table["label_index"] == 1].unique())
    return {kind: unique_name(folder_name(kind), "", taken) for kind in types}


def unique_name(name: str, place: str, taken: set[str]) -> str:
    """A name that is safe on every system and not yet taken in its place."""
    clean = re.sub(r"[^\w\-.+ ]", "_", name).encode()[:_MAX_STEM].decode(errors="ignore").strip(" .") or "unnamed"
    unique, number = clean, 2
    while f"{place}/{unique}".lower() in taken:
        unique, number = f"{clean}_{number}", number + 1
    taken.add(f"{place}/{unique}".lower())
    return unique


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


# --------------------------------------------------------------------------------------------------------- command line


def add_reader_options(parser: argparse.ArgumentParser) -> None:
    """``--layout`` and ``--option``: what a command hands on to ``helpers.read_dataset``."""
    parser.add_argument("--layout", help="layout of the dataset (default: recognised)")
    parser.add_argument(
        "--option",
        type=_dataset_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of that layout, such as category=bottle or image_dir=photos; may be repeated",
    )


def _dataset_option(text: str) -> tuple[str, Any]:
    """Name and value of an option of ``helpers.read_dataset`` as a command line gives it, ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, {"true": True, "false": False}.get(value.lower(), value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data.convert", description="Write a dataset in the MVTec layout or in COCO."
    )
    parser.add_argument("dataset", type=Path, help="folder or table of the dataset")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    add_reader_options(parser)
    parser.add_argument("--force", action="store_true", help="replace the folder if it is there")
    options = parser.parse_args(arguments)
    from helpers.data.formats import read_dataset

    write = {"mvtec": write_mvtec, "coco": write_coco}[options.format]
    try:
        table = read_dataset(options.dataset, layout=options.layout, **dict(options.option))
        out = write(table, options.out, force=options.force)
    except (ValueError, TypeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for severity, count in sorted(Counter(row["severity"] for row in table.attrs.get("findings", [])).items()):
        print(f"{count} finding(s) of severity {severity}: see helpers.check_dataset", file=sys.stderr)
    print(f"{len(table)} photos written to {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
