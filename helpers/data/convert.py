"""The one writer of datasets: a sample table as a folder in the MVTec layout or in COCO, as it is or changed.

    python -m helpers.data.convert DATASET NEW_FOLDER [--format coco] [--size 512 | --tile 256 | --cut-out 256]

Photos that are not changed are copied byte for byte, but written upright where EXIF turns them.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from helpers.analysis.regions import connected_regions
from helpers.data.coco import InstancePhoto, read_instances
from helpers.data.folders import folder_name
from helpers.data.formats import read_dataset
from helpers.data.images import decode_image, known_bit_depth, read_header, read_mask
from helpers.data.pieces import MIN_AREA, MODES, cut_outs, resized, tiles
from helpers.data.samples import NORMAL, absolute_path, make_table, relative_path, write_table
from helpers.paths import write_json, write_whole, write_whole_folder
from helpers.progress import in_threads, progress

logger = logging.getLogger(__name__)

FORMATS = ("mvtec", "coco")
COCO_FILE = "_annotations.coco.json"
COCO_FOLDERS = {"train": "train", "val": "valid", "test": "test", "": ""}
TABLE_FILE, ABOUT_FILE = "samples.csv", "dataset.json"
PIXEL_SIZE_TOLERANCE = 0.005
_LONGEST_STEM = 200  # bytes; file systems end at 255, and masks have longer names

Row = dict[str, Any]


class _Picture(NamedTuple):
    """A photo ready to be written; ``mask`` is PNG, or COCO's regions; paths of the row are new when it is written."""

    row: Row
    source: str
    name: str
    suffix: str
    data: bytes
    shape: tuple[int, int]
    mask: Any
    shrunk: tuple[float, float]


def write_dataset(
    rows: pd.DataFrame | Iterable[Row],
    out: str | Path,
    *,
    format: str = "mvtec",
    change: Callable[[Row], list[Row]] | None = None,
    source: Mapping[str, Any] | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Write rows of a sample table as a new dataset, and return its own sample table.

    A row may bring what is to be written: ``image``, uint8 (H, W) or (H, W, 3), else its file is copied; ``mask``,
    bool (H, W), else that of ``mask_path``; ``name``, the file's without suffix; ``shrunk``, pixels of the old photo
    per new one, down and across. Further columns are kept. A row with ``left_out``, a reason, is counted in a warning.

    ``mvtec`` knows no val and no defect in train: normal photos of val and of no split lie in ``train/good``, all
    abnormal ones in ``test/<type>``. ``samples.csv`` beside them has the exact split, type and group. ``coco`` is a
    folder a split, each with ``_annotations.coco.json``: a connected region of a mask (8 neighbours) is an annotation
    of the photo's type, exact to the pixel. An abnormal photo without any gets one with the box of the whole photo and
    no outline, for it would count as normal. Records of photos that share a group have a key ``group``.

    ``change`` makes of one row those that are written, in threads (see `helpers.data.pieces`); ``source`` has ``root``,
    ``name``, ``pixel_size`` and ``bit_depth`` of the old dataset (of a table: its own). ``force`` replaces a dataset
    that was written before, nothing else. The folder appears under its name when it is complete.
    """
    total, folder, source = None, absolute_path(out), source or {}
    if isinstance(rows, pd.DataFrame):
        if not rows.attrs.get("root"):
            raise ValueError("table.attrs['root'] is missing; read it with helpers.read_dataset and keep its attrs.")
        source, total = source or rows.attrs, len(rows)
        alone = rows["group"] == relative_path(rows)  # where a photo was its own group, its new path is
        rows = rows.assign(group=rows["group"].mask(alone, "")).to_dict("records")
    _require_new(folder, source.get("root"), force)
    tables: list[partial] = []

    def write(new: Path) -> None:
        made = progress(in_threads(partial(_pictures, folder, change, format), rows), "Writing photos", total)
        written = _written(made, format, new)
        tables.append(partial(_table, written, _described(new / ABOUT_FILE, format, folder.name, source, written)))
        if format == "coco":
            _write_coco(new, written, source.get("name") or "")
        else:
            write_table(tables[0](new), new / TABLE_FILE)
        _require_new(folder, source.get("root"), force)  # somebody else may have been quicker

    write_whole_folder(folder, write)
    return tables[0](folder)


def _require_new(folder: Path, root: str | Path | None, force: bool) -> None:
    """The one guard of what is there already."""
    if root:
        real, old = folder.resolve(), Path(root).resolve()
        if real.is_relative_to(old) or old.is_relative_to(real):
            raise ValueError(f"{folder} lies in {root} or around it; a new dataset needs a folder of its own.")
    if not (folder.exists() or folder.is_symlink()) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force or not (folder / ABOUT_FILE).is_file():
        raise FileExistsError(
            f"{folder} exists and is not empty; choose another folder, or with force (--force) replace a dataset that "
            f"was written here before (it holds {ABOUT_FILE})."
        )


def _described(
    file: Path, format: str, name: str, source: Mapping[str, Any], written: list[_Picture]
) -> dict[str, Any]:
    """Write ``dataset.json``; what it says."""
    size, scales = source.get("pixel_size"), np.array([each.shrunk for each in written])
    if size and np.ptp(scales) > PIXEL_SIZE_TOLERANCE * scales.mean():
        logger.warning("The photos are not all scaled alike, down and across, so they have no pixel size any more.")
        size = None
    # kept also where photos are written with 8 bits: so runs read others as these were read
    bits = source.get("bit_depth") or next(filter(None, (known_bit_depth(each.source) for each in written)), None)
    layout = format if format == "coco" or any(each.row["mask_path"] for each in written) else "plain"
    about = {"name": name, "layout": layout, "source": source.get("name") or ""}
    about |= {"pixel_size_mm": float(size) * float(np.median(scales))} if size else {}
    about |= {"bit_depth": bits} if bits else {}
    write_json(about, file, indent=1)
    return about


def _table(written: list[_Picture], about: dict[str, Any], root: Path) -> pd.DataFrame:
    rows, size = [each.row for each in written], about.get("pixel_size_mm")
    known = {"layout": about["layout"], "name": about["name"], "published_split": any(row["split"] for row in rows)}
    table = make_table(rows, root=root, pixel_size=size, **known)
    table.attrs |= {"bit_depth": about["bit_depth"]} if "bit_depth" in about else {}
    return table


def _pictures(folder: Path, change: Callable[[Row], list[Row]] | None, format: str, row: Row) -> list[_Picture | str]:
    """What a row becomes: pictures, and why something is left out."""
    for path in (row.get("image_path"), row.get("mask_path")):
        if path and Path(path).is_relative_to(folder):
            raise ValueError(f"{folder} holds {path}; a new dataset needs a folder of its own.")
    return [each.get("left_out") or _picture(each, format) for each in (change(row) if change else [row])]


def _picture(row: Row, format: str) -> _Picture:
    row = {"image_path": "", "mask_path": "", "label_index": 0, "defect_type": NORMAL, "split": "", "group": ""} | row
    source, image, mask = row["image_path"], row.pop("image", None), row.pop("mask", None)
    name, shrunk = row.pop("name", Path(source).stem), row.pop("shrunk", (1.0, 1.0))
    data, suffix, shape = _copied(Path(source)) if image is None else (_encoded(image), ".png", image.shape[:2])
    if row["label_index"] == 0:
        mask = None
    elif mask is None and row["mask_path"]:
        mask = read_mask(row["mask_path"], shape)
    if mask is not None:
        mask = connected_regions(mask) if format == "coco" else _encoded(mask.astype(np.uint8) * 255)
    return _Picture(row, source, name, suffix, data, shape, mask, shrunk)


def _copied(photo: Path) -> tuple[bytes, str, tuple[int, int]]:
    """Content, suffix and size of a copy; of one upright where EXIF turns the photo (JPEG with its own tables, others
    as PNG), for not every program turns it as its mask is turned."""
    shape, orientation = read_header(photo)
    if orientation == 1:
        return photo.read_bytes(), photo.suffix, shape
    decoded = decode_image(photo)
    upright = decoded.pixels() if decoded.deep is None else decoded.upright(decoded.deep)
    tables = getattr(decoded.image, "quantization", None)
    if not tables:
        return _encoded(upright, compress_level=6), ".png", shape
    if decoded.turn >= 5:  # rows become columns, of the tables too
        tables = {key: np.reshape(table, (8, 8)).T.ravel().tolist() for key, table in tables.items()}
    return _encoded(upright, "JPEG", qtables=tables, subsampling=get_sampling(decoded.image)), photo.suffix, shape


def _encoded(picture: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    # a higher level of compression would take most of the time
    Image.fromarray(picture).save(stream, format, **{"compress_level": 3} | options)
    return stream.getvalue()


def _written(results: Iterable[list[_Picture | str]], format: str, folder: Path) -> list[_Picture]:
    """Write photos, and their masks, to where the format has them, and note that in their rows."""
    taken, kinds, said, written = set(), {NORMAL: NORMAL}, Counter(), []
    for each in chain.from_iterable(results):
        if isinstance(each, str):
            said[each] += 1
            continue
        row, kind = each.row, each.row["defect_type"]
        if format == "coco":
            unique_in = parent = COCO_FOLDERS[row["split"]]
        else:
            # one name a type over all splits, for the masks of a type share a folder
            if kind not in kinds:
                kinds[kind] = _unique(folder_name(kind), "", {f"/{other}".lower() for other in kinds.values()})
            unique_in = kinds[kind]
            parent = f"{'test' if row['label_index'] or row['split'] == 'test' else 'train'}/{unique_in}"
        name = _unique(each.name, unique_in, taken)
        row["image_path"], row["mask_path"] = f"{parent}/{name}{each.suffix}".lstrip("/"), ""
        write_whole(folder / row["image_path"], lambda file, data=each.data: file.write_bytes(data))
        if each.mask and format != "coco":
            row["mask_path"] = f"ground_truth/{unique_in}/{name}_mask.png"
            write_whole(folder / row["mask_path"], lambda file, data=each.mask: file.write_bytes(data))
        written.append(each._replace(data=b"", mask=each.mask if format == "coco" else None))
    if not written:
        raise ValueError(f"There is nothing to write ({dict(said) or 'no photo'}); check the path and the parameters.")
    for reason, number in said.items():
        logger.warning("%d %s left out.", number, reason)
    return written


def _unique(name: str, place: str, taken: set[str]) -> str:
    """A name that is safe on every system and not yet taken in its place."""
    clean = re.sub(r"[^\w\-.+ ]", "_", name).encode()[:_LONGEST_STEM].decode(errors="ignore").strip(" .") or "unnamed"
    unique, number = clean, 2
    while f"{place}/{unique}".lower() in taken:
        unique, number = f"{clean}_{number}", number + 1
    taken.add(f"{place}/{unique}".lower())
    return unique


def _write_coco(folder: Path, written: list[_Picture], description: str) -> None:
    kinds = sorted({each.row["defect_type"] for each in written if each.row["label_index"] == 1})
    categories = [{"id": n, "name": folder_name(kind), "supercategory": "defect"} for n, kind in enumerate(kinds, 1)]
    shared = {group for group, count in Counter(each.row["group"] for each in written).items() if group and count > 1}
    images: dict[str, list[Row]] = defaultdict(list)
    annotations: dict[str, list[Row]] = defaultdict(list)
    for picture in written:
        row, (height, width) = picture.row, picture.shape
        place = COCO_FOLDERS[row["split"]]
        number = len(images[place]) + 1
        record = {"id": number, "file_name": Path(row["image_path"]).name, "height": height, "width": width}
        images[place].append(record | ({"group": row["group"]} if row["group"] in shared else {}))
        whole = {"segmentation": [], "bbox": [0, 0, width, height], "area": height * width, "iscrowd": 0}
        for region in (picture.mask or [whole]) if row["label_index"] == 1 else []:
            about = {"id": len(annotations[place]) + 1, "image_id": number}
            about["category_id"] = kinds.index(row["defect_type"]) + 1
            annotations[place].append(about | region)
    head = {"info": {"description": description}, "licenses": [], "categories": categories}
    for place, records in images.items():
        content = head | {"images": records, "annotations": annotations[place]}
        write_json(content, folder / place / COCO_FILE, indent=1)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.lower().replace("x", ",").split(","))


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.data.convert", description="Write a dataset as a new one.")
    parser.add_argument("dataset", type=Path, help="folder or table of the dataset")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--format", choices=FORMATS, default="mvtec", help="layout to write (default: %(default)s)")
    parser.add_argument("--layout", help="layout of the dataset (default: recognised)")
    text = "option of that layout, such as category=bottle or image_dir=photos; may be repeated"
    parser.add_argument("--option", type=_option, action="append", default=[], metavar="NAME=VALUE", help=text)
    parser.add_argument("--force", action="store_true", help="replace the dataset that is there")
    group = parser.add_argument_group("decode every photo and write it upright, in 8 bits")
    group.add_argument("--mode", choices=MODES, help="colour (RGB, the default), grey (L), or as it is")
    group.add_argument("--size", type=_numbers, metavar="H,W", help="new size in pixels; one number is both")
    group.add_argument("--crop", type=_numbers, metavar="T,L,H,W", help="window cut before resizing")
    group = parser.add_argument_group("cut every photo into squares, each labelled by its part of the mask")
    group.add_argument("--tile", type=int, metavar="SIDE", help="side of a square in pixels")
    group.add_argument("--stride", type=int, help="pixels from one square to the next (default: their side)")
    group.add_argument("--min-area", type=int, help=f"defect pixels that make a square abnormal (default {MIN_AREA})")
    group = parser.add_argument_group("cut every object out that COCO outlines")
    group.add_argument("--cut-out", type=int, metavar="SIDE", help="side of the pictures in pixels")
    return parser


def _convert(options: argparse.Namespace) -> pd.DataFrame:
    given = {name: value for name, value in vars(options).items() if value is not None}
    names = ("mode", "size", "crop"), ("tile", "stride", "min_area"), ("cut_out",)
    resize, tile, cut = ({name: given[name] for name in those if name in given} for those in names)
    if bool(resize) + bool(tile) + bool(cut) > 1 or (tile and "tile" not in tile):
        raise ValueError("--size and the like, --tile (with --stride, --min-area) and --cut-out exclude each other.")
    write = partial(write_dataset, out=options.out, format=options.format, force=options.force)
    if cut:
        photos = read_instances(options.dataset, **dict(options.option))
        types = [dict(enumerate((kind or NORMAL for kind in photo.defect_types), start=1)) for photo in photos]
        paths, labels = [photo.image_path for photo in photos], [_labels(photo) for photo in photos]
        source = {"root": absolute_path(options.dataset), "name": options.dataset.name}
        return write(cut_outs(paths, labels, size=options.cut_out, types=types), source=source)
    table = read_dataset(options.dataset, layout=options.layout, **dict(options.option))
    for severity, count in sorted(Counter(row["severity"] for row in table.attrs.get("findings", [])).items()):
        print(f"{count} finding(s) of severity {severity}: see helpers.check_dataset", file=sys.stderr)
    if len(resize.get("size", ())) == 1:
        resize["size"] *= 2
    return write(table, change=resized(table, **resize) if resize else tiles(table, **tile) if tile else None)


def _labels(photo: InstancePhoto) -> np.ndarray:
    """The number of the object at each pixel; a group that was outlined as one is none."""
    labels = np.zeros(photo.size, dtype=np.int32)
    for number, (mask, crowd) in enumerate(zip(photo.instance_masks(), photo.crowd, strict=True), start=1):
        labels[mask] = 0 if crowd else number
    return labels


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        written = _convert(options)
    except (ValueError, TypeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    abnormal = int(written["label_index"].sum())
    print(f"{len(written) - abnormal} normal and {abnormal} abnormal photos written to {options.out}")
    if options.format == "mvtec":
        print(f"read {options.out / TABLE_FILE}: it keeps groups and splits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
