"""The one writer of datasets: a sample table as a folder in the MVTec layout or in COCO, as it is or changed.

    python -m helpers.data.convert DATASET NEW_FOLDER [--format coco] [--size 512 | --tile 256 | --cut-out 256]

Photos that are not changed are copied byte for byte, but written upright where EXIF turns them.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from helpers.analysis.outlines import connected_regions
from helpers.data.coco import InstancePhoto, read_instances
from helpers.data.folders import folder_name
from helpers.data.formats import read_dataset
from helpers.data.images import decode_image, exif_orientation, image_sizes, in_threads, known_bit_depth, read_mask
from helpers.data.pieces import IMAGE_FORMATS, MIN_AREA, MODES, cut_outs, resized, tiles
from helpers.data.samples import NORMAL, absolute_path, make_table, relative_path, write_table
from helpers.paths import write_whole_folder
from helpers.progress import progress

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
    bool (H, W), else that of ``mask_path``; ``name``, the file's without suffix; ``file_format`` (png); ``shrunk``,
    pixels of the old photo per new one, down and across. Further columns are kept. A row with ``left_out`` is not
    written but counted, and one with ``note`` is both; a warning says how many there are of each.

    ``mvtec`` knows no val and no defect in train: normal photos of val and of no split lie in ``train/good``, all
    abnormal ones in ``test/<type>``. ``samples.csv`` beside them has the exact split, type and group.

    ``coco`` is a folder a split, each with ``_annotations.coco.json``: a connected region of a mask (8 neighbours) is
    an annotation of the photo's type, exact to the pixel. An abnormal photo without any gets one with the box of the
    whole photo and no outline, for it would count as normal. Records of photos that share a group have a key ``group``.

    The folder appears under its name when it is complete; on any error nothing is left of it.

    Args:
        rows: a sample table, or its rows.
        change: makes of one row those that are written, in threads; see `helpers.data.pieces`.
        source: ``root``, ``name``, ``pixel_size`` and ``bit_depth`` of the old dataset; default: the table's.
        about: more to be noted in ``dataset.json``.
        force: replace a dataset that was written before; a folder without ``dataset.json`` is never replaced.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: it lies in the old dataset, around it or holds its photos; nothing is to be written; or photos or
            masks cannot be read, are missing or do not fit: all of them are listed.
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
    writer = (_Coco if format == "coco" else _Mvtec)(folder.name, source, dict(about or {}))

    def pictures(row: Row) -> list[_Picture | Row] | Exception:
        try:
            for path in (row.get("image_path"), row.get("mask_path")):
                if path and Path(path).is_relative_to(folder):
                    raise ValueError(f"{folder} holds {path}; a new dataset needs a folder of its own.")
            made = [row] if change is None else change(row)
            return [each if "left_out" in each else _picture(each, writer.encode) for each in made]
        except (ValueError, FileNotFoundError) as error:
            return error

    def write(partial: Path) -> None:
        errors, said = [], Counter()
        for result in progress(in_threads(pictures, rows), "Writing photos", total):
            if isinstance(result, Exception):
                errors.append(result)
                continue
            for each in result:
                if isinstance(each, _Picture):
                    said.update(each.note)
                    writer.add(each, partial)
                else:
                    said[each["left_out"]] += 1
        _raise_all(errors)
        told = "; ".join(f"{count} {what}" for what, count in said.items())
        if not writer.rows:
            raise ValueError(f"There is nothing to write ({told or 'no photo'}); check the path and the parameters.")
        if told:
            logger.warning("%s: %s.", folder, told)
        writer.finish(partial)
        _require_new(folder, source.get("root"), force)  # somebody else may have been quicker

    write_whole_folder(folder, write)
    return writer.table(folder)


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
        raise FileExistsError(
            f"{folder} holds no {ABOUT_FILE}, so it is no dataset to be replaced; remove it yourself."
        )


def _raise_all(errors: list[Exception]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "".join(f"\n- {error}" for error in errors[:MAX_LISTED])
        more = f"\n- and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
        raise ValueError(f"{len(errors)} photos cannot be written, so nothing was; fix or remove them:{listed}{more}")


# ------------------------------------------------------------------------------------------------------------- pictures


@dataclass
class _Picture:
    """A photo ready to be written; ``mask`` is what the format makes of it."""

    row: Row
    name: str
    suffix: str
    data: bytes
    shape: tuple[int, int]
    mask: Any
    shrunk: tuple[float, float]
    note: list[str]


def _picture(row: Row, encode_mask: Callable[[np.ndarray], Any]) -> _Picture:
    row = {"image_path": "", "mask_path": "", "label_index": 0, "defect_type": NORMAL, "split": "", "group": ""} | row
    photo = Path(row["image_path"])
    image, mask, note = (row.pop(key, None) for key in ("image", "mask", "note"))
    name, kind, shrunk = row.pop("name", photo.stem), row.pop("file_format", "png"), row.pop("shrunk", (1.0, 1.0))
    if image is None:
        data, suffix, shape = _copied(photo)
    else:
        data, suffix, shape = _encoded(image, kind), f".{kind}", image.shape[:2]
    abnormal = row["label_index"] == 1
    if abnormal and mask is None and row["mask_path"]:
        mask = read_mask(row["mask_path"], shape)
    mask = encode_mask(mask) if abnormal and mask is not None else None
    return _Picture(row, name, suffix, data, shape, mask, shrunk, [note] if note else [])


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


def _encoded(picture: np.ndarray, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, **IMAGE_FORMATS[kind])
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------------------- formats


class _Writer:
    """What both formats share: names, the pixel size, ``dataset.json``."""

    layout = ""

    def __init__(self, name: str, source: Mapping[str, Any], about: Row) -> None:
        self.name, self.source, self.about = name, source, about
        self.rows: list[Row] = []
        self.taken: set[str] = set()
        self.shrunk: list[tuple[float, float]] = []
        self.bits = source.get("bit_depth")

    def file(self, picture: _Picture, folder: Path, place: str, unique_in: str) -> str:
        """Write the photo in a place under a name that is new in another; its relative path."""
        relative = f"{place}/{_unique(picture.name, unique_in, self.taken)}{picture.suffix}".lstrip("/")
        _write(folder / relative, picture.data)
        self.shrunk.append(picture.shrunk)
        self.bits = self.bits or known_bit_depth(picture.row["image_path"])
        return relative

    @cached_property
    def pixel_size(self) -> float | None:
        """In mm, of all photos that were written."""
        size, scales = self.source.get("pixel_size"), np.array(self.shrunk)
        if size and np.ptp(scales) > PIXEL_SIZE_TOLERANCE * scales.mean():
            logger.warning("%s has no pixel size: its photos are not all scaled alike, down and across.", self.name)
            return None
        return float(size) * float(np.median(scales)) if size else None

    def table(self, folder: Path) -> pd.DataFrame:
        published = any(row["split"] for row in self.rows)
        about = {"layout": self.layout, "name": self.name, "pixel_size": self.pixel_size}
        table = make_table(self.rows, root=folder, published_split=published, **about)
        table.attrs |= self._bits()
        return table

    def describe(self, folder: Path) -> None:
        about = {"name": self.name, "layout": self.layout, "source": self.source.get("name") or ""}
        about |= {"pixel_size_mm": self.pixel_size} if self.pixel_size else {}
        _write_json(folder / ABOUT_FILE, about | self._bits() | self.about)

    def _bits(self) -> dict[str, int]:
        """Kept also where photos are written with 8 bits: so runs read others as these were read."""
        return {"bit_depth": self.bits} if self.bits else {}


class _Mvtec(_Writer):
    layout = "plain"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.folders = {NORMAL: NORMAL}

    def encode(self, mask: np.ndarray) -> bytes:
        return _encoded(mask.astype(np.uint8) * 255)

    def add(self, picture: _Picture, folder: Path) -> None:
        row, abnormal = picture.row, picture.row["label_index"] == 1
        kind = self._folder(row["defect_type"]) if abnormal else NORMAL
        place = "test" if abnormal or row["split"] == "test" else "train"
        # one name a type over all splits, for the masks of a type share a folder
        image = self.file(picture, folder, f"{place}/{kind}", kind)
        mask = f"ground_truth/{kind}/{Path(image).stem}_mask.png" if picture.mask else ""
        if mask:
            _write(folder / mask, picture.mask)
            self.layout = "mvtec"
        self.rows.append({**row, "image_path": image, "mask_path": mask})

    def _folder(self, defect_type: str) -> str:
        if defect_type not in self.folders:
            taken = {f"/{folder}".lower() for folder in self.folders.values()}
            self.folders[defect_type] = _unique(folder_name(defect_type), "", taken)
        return self.folders[defect_type]

    def finish(self, folder: Path) -> None:
        write_table(self.table(folder), folder / TABLE_FILE)
        self.describe(folder)


class _Coco(_Writer):
    layout = "coco"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.contents: dict[str, dict[str, list[Row]]] = {}

    def encode(self, mask: np.ndarray) -> list[Row]:
        return connected_regions(mask)

    def add(self, picture: _Picture, folder: Path) -> None:
        row, place, (height, width) = picture.row, COCO_FOLDERS[picture.row["split"]], picture.shape
        image = self.file(picture, folder, place, place)
        content = self.contents.setdefault(place, {"images": [], "annotations": []})
        number = len(content["images"]) + 1
        record = {"id": number, "file_name": Path(image).name, "height": height, "width": width}
        content["images"].append(record | {"group": row["group"]})
        regions = []
        if row["label_index"] == 1:
            whole = {"segmentation": [], "bbox": [0, 0, width, height], "area": height * width, "iscrowd": 0}
            regions = picture.mask or [whole]
        for region in regions:
            about = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": row["defect_type"]}
            content["annotations"].append(about | region)
        self.rows.append({**row, "image_path": image, "mask_path": ""})

    def finish(self, folder: Path) -> None:
        kinds = sorted({row["defect_type"] for row in self.rows if row["label_index"] == 1})
        numbers = {kind: number for number, kind in enumerate(kinds, start=1)}
        categories = [{"id": numbers[kind], "name": folder_name(kind), "supercategory": "defect"} for kind in kinds]
        groups = Counter(row["group"] for row in self.rows)
        for place, content in self.contents.items():
            for record in content["images"]:
                if not record["group"] or groups[record["group"]] < 2:
                    del record["group"]
            for annotation in content["annotations"]:
                annotation["category_id"] = numbers[annotation["category_id"]]
            write_coco_file(
                folder / place / COCO_FILE, categories, info={"description": self.source.get("name") or ""}, **content
            )
        self.describe(folder)


def write_coco_file(
    path: Path,
    categories: list[Row],
    images: list[Row],
    annotations: list[Row],
    *,
    info: Row,
    licenses: Sequence[Row] = (),
) -> None:
    """A COCO file of records as they are."""
    about = {"info": info, "licenses": list(licenses), "categories": categories}
    _write_json(path, about | {"images": images, "annotations": annotations})


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


def _write_json(path: Path, content: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


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
    group.add_argument("--image-format", choices=list(IMAGE_FORMATS), help="file format of the photos (default png)")
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
    resize = {name: given[name] for name in ("mode", "size", "crop", "keep_aspect", "image_format") if name in given}
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
