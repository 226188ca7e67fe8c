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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from helpers.analysis.regions import connected_regions
from helpers.data.coco import InstancePhoto, read_instances
from helpers.data.folders import folder_name
from helpers.data.formats import read_dataset
from helpers.data.images import decode_image, exif_orientation, image_sizes, known_bit_depth, read_mask
from helpers.data.pieces import MIN_AREA, MODES, cut_outs, resized, tiles
from helpers.data.samples import NORMAL, absolute_path, make_table, relative_path, write_table
from helpers.paths import write_json, write_whole_folder
from helpers.progress import in_threads, progress

logger = logging.getLogger(__name__)

FORMATS = ("mvtec", "coco")
COCO_FILE = "_annotations.coco.json"
COCO_FOLDERS = {"train": "train", "val": "valid", "test": "test", "": ""}
TABLE_FILE = "samples.csv"
ABOUT_FILE = "dataset.json"
PIXEL_SIZE_TOLERANCE = 0.005
MAX_LISTED = 20
_LONGEST_STEM = 200  # bytes; file systems end at 255, and masks have longer names

Row = dict[str, Any]


def write_dataset(
    rows: pd.DataFrame | Iterable[Row],
    out: str | Path,
    *,
    format: str = "mvtec",
    change: Callable[[Row], list[Row]] | None = None,
    source: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    force: bool = False,
) -> pd.DataFrame:
    """Write rows of a sample table as a new dataset, and return its own sample table.

    A row may bring what is to be written: ``image``, uint8 (H, W) or (H, W, 3), else its file is copied; ``mask``,
    bool (H, W), else that of ``mask_path``; ``name``, the file's without suffix; ``shrunk``, pixels of the old photo
    per new one, down and across. Further columns are kept. A row with ``left_out`` is not written but counted, and one
    with ``note`` is both; a warning says how many there are of each.

    ``mvtec`` knows no val and no defect in train: normal photos of val and of no split lie in ``train/good``, all
    abnormal ones in ``test/<type>``. ``samples.csv`` beside them has the exact split, type and group.

    ``coco`` is a folder a split, each with ``_annotations.coco.json``: a connected region of a mask (8 neighbours) is
    an annotation of the photo's type, exact to the pixel. An abnormal photo without any gets one with the box of the
    whole photo and no outline, for it would count as normal. Records of photos that share a group have a key ``group``.

    ``change`` makes of one row those that are written, in threads (see `helpers.data.pieces`); ``source`` has ``root``,
    ``name``, ``pixel_size`` and ``bit_depth`` of the old dataset (of a table: its own); ``about`` goes into
    ``dataset.json``. ``force`` replaces a dataset that was written before, nothing else. The folder appears under its
    name when it is complete; photos and masks that cannot be read or do not fit are all listed in one ValueError.
    """
    total = None
    if isinstance(rows, pd.DataFrame):
        if not rows.attrs.get("root"):
            raise ValueError("table.attrs['root'] is missing; read it with helpers.read_dataset and keep its attrs.")
        source, total = rows.attrs if source is None else source, len(rows)
        alone = rows["group"] == relative_path(rows)  # where a photo was its own group, its new path is
        rows = rows.assign(group=rows["group"].mask(alone, "")).to_dict("records")
    source, folder = source or {}, absolute_path(out)
    _require_new(folder, source.get("root"), force)
    encode = connected_regions if format == "coco" else lambda mask: _encoded(mask.astype(np.uint8) * 255)
    pictures = partial(_pictures, folder, change, encode)

    def write(new: Path) -> None:
        add = _adder(format, new)
        written.extend(_written(progress(in_threads(pictures, rows), "Writing photos", total), add, folder))
        facts.update(_describe(new, format, folder.name, source, written, about or {}))
        if format == "coco":
            _write_coco(new, written, source.get("name") or "")
        else:
            write_table(_table(written, new, facts), new / TABLE_FILE)
        _require_new(folder, source.get("root"), force)  # somebody else may have been quicker

    written: list[_Picture] = []
    facts: dict[str, Any] = {}
    write_whole_folder(folder, write)
    return _table(written, folder, facts)


def _pictures(
    folder: Path, change: Callable[[Row], list[Row]] | None, encode: Callable[[np.ndarray], Any], row: Row
) -> list[_Picture | Row] | Exception:
    try:
        for path in (row.get("image_path"), row.get("mask_path")):
            if path and Path(path).is_relative_to(folder):
                raise ValueError(f"{folder} holds {path}; a new dataset needs a folder of its own.")
        made = [row] if change is None else change(row)
        return [each if "left_out" in each else _picture(each, encode) for each in made]
    except (ValueError, FileNotFoundError) as error:
        return error


def _written(
    results: Iterable[list[_Picture | Row] | Exception], add: Callable[[_Picture], None], folder: Path
) -> list[_Picture]:
    written, errors, said = [], [], Counter()
    for result in results:
        if isinstance(result, Exception):
            errors.append(result)
            continue
        for each in result:
            if isinstance(each, _Picture):
                said.update(each.note)
                add(each)
                written.append(each)
            else:
                said[each["left_out"]] += 1
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "".join(f"\n- {error}" for error in errors[:MAX_LISTED])
        more = f"\n- and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
        raise ValueError(f"{len(errors)} photos cannot be written, so nothing was; fix or remove them:{listed}{more}")
    told = "; ".join(f"{count} {what}" for what, count in said.items())
    if not written:
        raise ValueError(f"There is nothing to write ({told or 'no photo'}); check the path and the parameters.")
    if told:
        logger.warning("%s: %s.", folder, told)
    return written


def _table(written: list[_Picture], root: Path, facts: Mapping[str, Any]) -> pd.DataFrame:
    about = {name: facts[name] for name in ("layout", "name", "pixel_size")}
    rows = [each.row for each in written]
    table = make_table(rows, root=root, published_split=any(row["split"] for row in rows), **about)
    table.attrs |= {"bit_depth": facts["bit_depth"]} if facts["bit_depth"] else {}
    return table


def _describe(
    folder: Path, format: str, name: str, source: Mapping[str, Any], written: list[_Picture], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``dataset.json``; the facts of the table."""
    size, scales = source.get("pixel_size"), np.array([each.shrunk for each in written])
    if size and np.ptp(scales) > PIXEL_SIZE_TOLERANCE * scales.mean():
        logger.warning("The photos are not all scaled alike, down and across, so they have no pixel size any more.")
        size = None
    size = float(size) * float(np.median(scales)) if size else None
    # kept also where photos are written with 8 bits: so runs read others as these were read
    bits = source.get("bit_depth") or next(filter(None, (known_bit_depth(each.source) for each in written)), None)
    layout = format if format == "coco" or any(each.row["mask_path"] for each in written) else "plain"
    described = {"name": name, "layout": layout, "source": source.get("name") or ""}
    described |= ({"pixel_size_mm": size} if size else {}) | ({"bit_depth": bits} if bits else {})
    write_json(described | dict(about), folder / ABOUT_FILE, indent=1)
    return {"layout": layout, "name": name, "pixel_size": size, "bit_depth": bits}


def _require_new(folder: Path, root: str | Path | None, force: bool) -> None:
    """The one guard of what is there already."""
    if root:
        real, old = folder.resolve(), Path(root).resolve()
        if real.is_relative_to(old) or old.is_relative_to(real):
            raise ValueError(f"{folder} lies in {root} or around it; a new dataset needs a folder of its own.")
    if not (folder.exists() or folder.is_symlink()) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder, or replace it with force.")
    if not (folder / ABOUT_FILE).is_file():
        raise FileExistsError(f"{folder} holds no {ABOUT_FILE}, so it is no dataset to be replaced; remove it first.")


# ------------------------------------------------------------------------------------------------------------- pictures


@dataclass
class _Picture:
    """A photo ready to be written; ``mask`` is PNG, or COCO's regions; paths of the row are new when it is written."""

    row: Row
    source: str
    name: str
    suffix: str
    data: bytes
    shape: tuple[int, int]
    mask: Any
    shrunk: tuple[float, float]
    note: list[str]


def _picture(row: Row, encode_mask: Callable[[np.ndarray], Any]) -> _Picture:
    row = {"image_path": "", "mask_path": "", "label_index": 0, "defect_type": NORMAL, "split": "", "group": ""} | row
    source = row["image_path"]
    image, mask, note = (row.pop(key, None) for key in ("image", "mask", "note"))
    name, shrunk = row.pop("name", Path(source).stem), row.pop("shrunk", (1.0, 1.0))
    if image is None:
        data, suffix, shape = _copied(Path(source))
    else:
        data, suffix, shape = _encoded(image), ".png", image.shape[:2]
    abnormal = row["label_index"] == 1
    if abnormal and mask is None and row["mask_path"]:
        mask = read_mask(row["mask_path"], shape)
    mask = encode_mask(mask) if abnormal and mask is not None else None
    return _Picture(row, source, name, suffix, data, shape, mask, shrunk, [note] if note else [])


def _copied(photo: Path) -> tuple[bytes, str, tuple[int, int]]:
    """Content, suffix and size of a copy; of one upright where EXIF turns the photo (JPEG with its own tables, others
    as PNG), for not every program turns it as its mask is turned."""
    if exif_orientation(photo) == 1:
        height, width = image_sizes([photo])[0].tolist()
        return photo.read_bytes(), photo.suffix, (height, width)
    decoded = decode_image(photo)
    upright = Image.fromarray(decoded.pixels() if decoded.deep is None else decoded.upright(decoded.deep))
    tables, stream = getattr(decoded.image, "quantization", None), io.BytesIO()
    if tables:
        if decoded.turn >= 5:  # rows become columns, of the tables too
            tables = {key: np.reshape(table, (8, 8)).T.ravel().tolist() for key, table in tables.items()}
        upright.save(stream, "JPEG", qtables=tables, subsampling=get_sampling(decoded.image))
    else:
        upright.save(stream, "PNG")
    return stream.getvalue(), photo.suffix if tables else ".png", decoded.shape


def _encoded(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=3)  # more would take most of the time
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------------------- formats


def _adder(format: str, folder: Path) -> Callable[[_Picture], None]:
    """What writes a photo, and its mask, to where the format has it, and notes that in its row."""
    taken: set[str] = set()
    kinds = {NORMAL: NORMAL}

    def add(picture: _Picture) -> None:
        row, abnormal = picture.row, picture.row["label_index"] == 1
        if format == "coco":
            unique_in = place = COCO_FOLDERS[row["split"]]
        else:
            if abnormal and row["defect_type"] not in kinds:
                others = {f"/{kind}".lower() for kind in kinds.values()}
                kinds[row["defect_type"]] = _unique(folder_name(row["defect_type"]), "", others)
            # one name a type over all splits, for the masks of a type share a folder
            unique_in = kinds[row["defect_type"]] if abnormal else NORMAL
            place = f"{'test' if abnormal or row['split'] == 'test' else 'train'}/{unique_in}"
        name = _unique(picture.name, unique_in, taken)
        row["image_path"] = f"{place}/{name}{picture.suffix}".lstrip("/")
        row["mask_path"] = f"ground_truth/{unique_in}/{name}_mask.png" if picture.mask and format != "coco" else ""
        _write(folder / row["image_path"], picture.data)
        picture.data = b""
        if row["mask_path"]:
            _write(folder / row["mask_path"], picture.mask)
            picture.mask = None

    return add


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
    for place, records in images.items():
        content = {"info": {"description": description}, "licenses": [], "categories": categories}
        write_json(
            content | {"images": records, "annotations": annotations[place]}, folder / place / COCO_FILE, indent=1
        )


def _unique(name: str, place: str, taken: set[str]) -> str:
    """A name that is safe on every system and not yet taken in its place."""
    clean = re.sub(r"[^\w\-.+ ]", "_", name).encode()[:_LONGEST_STEM].decode(errors="ignore").strip(" .") or "unnamed"
    unique, number = clean, 2
    while f"{place}/{unique}".lower() in taken:
        unique, number = f"{clean}_{number}", number + 1
    taken.add(f"{place}/{unique}".lower())
    return unique


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# --------------------------------------------------------------------------------------------------------- command line


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.lower().replace("x", ",").split(","))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
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
    group.add_argument("--mode", choices=[*MODES, "keep"], help="colour (RGB, the default), grey (L), or as it is")
    group.add_argument("--size", type=_numbers, metavar="H,W", help="new size in pixels; one number is both")
    group.add_argument("--crop", metavar="T,L,H,W", help="window cut before resizing, or center:HxW")
    group.add_argument("--keep-aspect", action="store_true", help="fit inside the size instead of stretching")
    group = parser.add_argument_group("cut every photo into squares, each labelled by its part of the mask")
    group.add_argument("--tile", type=int, metavar="SIDE", help="side of a square in pixels")
    group.add_argument("--stride", type=int, help="pixels from one square to the next (default: their side)")
    group.add_argument("--min-area", type=int, help=f"defect pixels that make a square abnormal (default {MIN_AREA})")
    group = parser.add_argument_group("cut every object out that COCO outlines")
    group.add_argument("--cut-out", type=int, metavar="SIDE", help="side of the pictures in pixels")
    return parser


def _rows_and_change(options: argparse.Namespace) -> tuple[pd.DataFrame | Iterable[Row], Row]:
    """What to write and further arguments of `write_dataset`, by the command's options."""
    given = {name: value for name, value in vars(options).items() if value not in (None, False)}
    resize = {name: given[name] for name in ("mode", "size", "crop", "keep_aspect") if name in given}
    tile = {name: given[name] for name in ("stride", "min_area") if name in given}
    if len([way for way in (resize, "tile" in given or tile, "cut_out" in given) if way]) > 1:
        raise ValueError("--size and the like, --tile and --cut-out are three ways; take one after the other.")
    if tile and "tile" not in given:
        raise ValueError("--stride and --min-area need --tile.")
    if "cut_out" in given:
        photos = read_instances(options.dataset, **dict(options.option))
        rows = cut_outs(
            [photo.image_path for photo in photos],
            [_labels(photo) for photo in photos],
            size=options.cut_out,
            types=[dict(enumerate((kind or NORMAL for kind in photo.defect_types), start=1)) for photo in photos],
        )
        return rows, {"source": {"root": absolute_path(options.dataset), "name": options.dataset.name}}
    table = read_dataset(options.dataset, layout=options.layout, **dict(options.option))
    for severity, count in sorted(Counter(row["severity"] for row in table.attrs.get("findings", [])).items()):
        print(f"{count} finding(s) of severity {severity}: see helpers.check_dataset", file=sys.stderr)
    if resize:
        return table, {"change": resized(table, **resize)}
    if "tile" in given:
        return table, {"change": tiles(table, options.tile, **tile)}
    return table, {}


def _labels(photo: InstancePhoto) -> np.ndarray:
    """The number of the object at each pixel; a group that was outlined as one is none."""
    labels = np.zeros(photo.size, dtype=np.int32)
    for number, (mask, crowd) in enumerate(zip(photo.instance_masks(), photo.crowd, strict=True), start=1):
        labels[mask] = 0 if crowd else number
    return labels


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        rows, more = _rows_and_change(options)
        written = write_dataset(rows, options.out, format=options.format, force=options.force, **more)
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
