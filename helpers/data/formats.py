"""Readers: a folder or a table of photos becomes a sample table; the layout is recognised and said.

``LAYOUTS`` is the registry; a new layout is one more entry. See `helpers.data.samples` for the table.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from helpers.data import coco, folders, image_masks, labelme, severstal, tables, voc, yolo
from helpers.data.annotations import read_json
from helpers.data.images import BIT_DEPTHS, UNREAD_SUFFIXES, measure_bit_depth, remember_bit_depth
from helpers.data.layouts import Found, LayoutError, entries, files_in, folders_in, pictures_in, split_folders, tree
from helpers.data.masks import are_all_masks
from helpers.data.samples import absolute_path, make_table, relative_path
from helpers.data.unused import drop_unusable, note_unused
from helpers.paths import printable

logger = logging.getLogger(__name__)

MAX_IGNORED = 100


class Layout(NamedTuple):
    """One way a dataset may lie on disk: its name in a sentence, whether a path has it, ``read(Found(path), ...)``."""

    title: str
    detect: Callable[[Path], bool]
    read: Callable[..., None]

    @property
    def options(self) -> set[str]:
        return set(signature(self.read).parameters) - {"found"}


LAYOUTS: dict[str, Layout] = {
    "table": Layout("table", tables.has_table, tables.read_listed),
    "visa": Layout("VisA layout", tables.has_visa, tables.read_visa),
    "mvtec": Layout("MVTec layout", folders.has_mvtec, folders.read_mvtec),
    "plain": Layout("plain layout", folders.has_plain, folders.read_plain),
    "classes": Layout("class folders", folders.has_classes, folders.read_classes),
    "coco": Layout("COCO layout", coco.has_coco, coco.read_coco),
    "labelme": Layout("labelme layout", labelme.has_labelme, labelme.read_labelme),
    "voc": Layout("Pascal VOC layout", voc.has_voc, voc.read_voc),
    "yolo": Layout("YOLO layout", yolo.has_yolo, yolo.read_yolo),
    "severstal": Layout("Severstal layout", severstal.has_severstal, severstal.read_severstal),
    "image_mask": Layout("image and mask folders", image_masks.has_image_masks, image_masks.read_image_masks),
}
"""Layouts by name, in the order they are tried."""

_SKETCHES = """
  table:       samples.csv or .parquet   columns image_path, label (good or the defect) or label_index (0 or 1),
                                         optional mask_path, split, defect_type, group
  visa:        split_csv/1cls.csv        columns object, split, label, image, mask
  mvtec:       train/good/000.png   test/good/000.png   test/scratch/000.png   ground_truth/scratch/000_mask.png
  plain:       train/good/000.png   test/good/000.png   test/defect/000.png    (no masks: image-level results only)
  classes:     MT_Free/Imgs/a.jpg   (normal: free, good, normal, ok, intact, undamaged; others: see normal=)
               MT_Crack/Imgs/b.jpg   MT_Crack/Imgs/b.png   (mask, same name)
  coco:        train/_annotations.coco.json and train/a.jpg   (Roboflow; or one *.json of any name, with or without
               splits)   annotations/instances_train.json and images/ (CVAT), result.json and images/ (Label Studio)
  labelme:     a.jpg and a.json          (shapes; or json/a.json with its imagePath; with or without splits)
  voc:         IMAGES/crazing_1.jpg and ANNOTATIONS/crazing_1.xml     (or JPEGImages, or side by side)
  yolo:        images/train/a.jpg and labels/train/a.txt   (polygons or boxes; or train/images, train/labels; data.yaml)
  severstal:   train.csv   train_images/a.jpg   columns ImageId_ClassId (or ImageId, ClassId), EncodedPixels
  image_mask:  images/a.png and masks/a.png   (no mask or an empty one: normal)
               metadata.json   optional: per photo split, label or defect_type, group
"""


def read_dataset(
    path: str | Path,
    *,
    layout: str | None = None,
    group: str | Mapping[str, str] | pd.Series | None = None,
    name: str | None = None,
    pixel_size: float | None = None,
    mask_cache: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Read a folder of photos, or a CSV or Parquet file that lists them, as a sample table.

    ``layout``: one of ``LAYOUTS``; default: recognised. ``group``: photos that must stay in one split, as a regular
    expression with one capturing group that is searched in each photo's path relative to the root (``r"part(\\d+)_"``),
    or a mapping or Series from that path; default: what the layout says, else every photo alone. ``name`` and
    ``pixel_size`` (mm): default: those of dataset.json. ``mask_cache``: folder for masks that are drawn; default:
    ``artifacts/.masks`` in the project. ``options``: of the layout's reader, which describes them.

    ``attrs`` of the table also hold ``ignored`` (up to 100 relative paths of files in the photo folders that are no
    images), ``unused_masks`` (those that no photo goes with), ``findings`` (what is wrong or was not used;
    `check_dataset` repeats it) and, where masks were drawn, their folder ``mask_cache``. LayoutError, a ValueError:
    no known layout, or it cannot be read as it lies; its ``hints`` say what to try.
    """
    path = absolute_path(path)
    if not path.exists():
        near = next(parent for parent in path.parents if parent.exists())
        there = ", ".join(entry.name for entry in entries(near)[:10])
        raise FileNotFoundError(
            f"There is no dataset at {path}; check the path ({near} holds: {there or 'nothing'}). "
            "The built-in ones are drawn by `python -m helpers.pictures mesh --out datasets`."
        )
    _require_pixel_size(pixel_size, "pixel_size")
    layout = _chosen_layout(path, layout, options)
    found = Found(path, mask_cache)
    LAYOUTS[layout].read(found, **options)
    drop_unusable(found)
    if not found.rows:
        why = found.summary() if any(row["severity"] == "error" for row in found.findings) else tree(path)
        raise LayoutError(
            f"{path} was read as {LAYOUTS[layout].title}, but no photo that can be used was found:\n{why}"
        )
    found.draw_masks()
    category = path / str(options.get("category", ""))
    if path.is_dir():
        note_unused(category if category.is_dir() else path, found, layout)
    return _table(found, layout, group, name, pixel_size, _dataset_json(path, layout) | _dataset_json(category, layout))


def _table(
    found: Found,
    layout: str,
    group: str | Mapping[str, str] | pd.Series | None,
    name: str | None,
    pixel_size: float | None,
    about: dict[str, Any],
) -> pd.DataFrame:
    published = found.published_split
    if published is None:
        published = len({row.get("split", "") for row in found.rows} - {""}) > 1
    table = make_table(
        found.rows if published else [row | {"split": ""} for row in found.rows],
        root=found.root,
        layout=found.attrs.get("layout", layout),
        name=name or about.get("name") or found.name,
        published_split=published,
        pixel_size=pixel_size or about.get("pixel_size_mm") or found.attrs.get("pixel_size"),
    )
    if (more := len(found.ignored) - MAX_IGNORED) > 0:
        found.note("ignored-file:more", found.root, n=more)
    table.attrs = {**found.attrs, **table.attrs, "findings": found.findings}
    for key, files in (("ignored", found.ignored), ("unused_masks", found.unused_masks)):
        names = [printable(Path(os.path.relpath(file, found.root)).as_posix()) for file in sorted(files)]
        table.attrs[key] = names[:MAX_IGNORED] if key == "ignored" else names
    bits = about.get("bit_depth") or table.attrs.get("bit_depth") or measure_bit_depth(table["image_path"])
    if bits:
        table.attrs["bit_depth"] = int(bits)
    remember_bit_depth(found.root, table.attrs.get("bit_depth"))
    if group is not None:
        table["group"] = _groups(table, group)
    logger.info("%s", describe(table))
    if found.ignored:
        logger.info("%s: %d files that are no images are ignored.", table.attrs["name"], len(found.ignored))
    if found.unused_masks:
        logger.warning("%s: %d masks belong to no photo.", table.attrs["name"], len(found.unused_masks))
    return table


def describe(table: pd.DataFrame) -> str:
    """One line: name, layout, number of normal and abnormal photos, and of pixel masks."""
    abnormal = table["label_index"] == 1
    types = table["defect_type"][abnormal].nunique()
    masks = int((table["mask_path"][abnormal] != "").sum())
    known = LAYOUTS.get(table.attrs.get("layout", ""))
    title = known.title if known else f"{table.attrs.get('layout')} layout"
    of_types = f" of {types} {'type' if types == 1 else 'types'}" if types else ""
    masked = f"pixel masks for {masks}" if masks else "no pixel masks (image-level results only)"
    return (
        f"{table.attrs.get('name')}: {title}, {len(table)} photos "
        f"({int((~abnormal).sum())} normal, {int(abnormal.sum())} abnormal{of_types}), {masked}"
    )


def _dataset_json(folder: Path, layout: str) -> dict[str, Any]:
    """What the file says of the dataset: ``name``, ``pixel_size_mm``, ``bit_depth``."""
    file = folder / "dataset.json"
    if layout == "table" or not file.is_file():
        return {}
    about = read_json(file)
    if not isinstance(about, dict):
        return {}
    _require_pixel_size(about.get("pixel_size_mm"), f"{file}: pixel_size_mm")
    if about.get("bit_depth") not in (None, *BIT_DEPTHS):
        listed = ", ".join(map(str, BIT_DEPTHS))
        raise ValueError(f"{file}: bit_depth is {about['bit_depth']!r}; give the camera's bits: {listed}.")
    if not isinstance(about.get("name", ""), str):
        raise ValueError(f"{file}: name is {about['name']!r}; give a text.")
    return about


def _require_pixel_size(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ValueError(f"{what} is {value!r}; give the mm of one pixel as a number above 0, such as 0.05.")


def _groups(table: pd.DataFrame, group: str | Mapping[str, str] | pd.Series) -> pd.Series:
    relative = relative_path(table)
    if isinstance(group, str):
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise ValueError(f"group={group!r} is not a regular expression ({error}).") from error
        if pattern.groups != 1:
            raise ValueError(f"group={group!r} has {pattern.groups} capturing groups; put ( ) around the one to use.")
        values, what = relative.str.extract(pattern, expand=False), f"does not match group={group!r}"
    elif isinstance(group, Mapping | pd.Series):
        values, what = relative.map(dict(group)), "is no key of group="
    else:
        raise TypeError(f"group is a {type(group).__name__}; give a regular expression, a mapping or a Series.")
    without = relative[values.isna() | (values == "")]
    if len(without):
        raise ValueError(f"{without.iloc[0]} {what}, nor do {len(without) - 1} more; every photo needs a group.")
    return values.map(str).astype("str")


# --------------------------------------------------------------------------------------------------- which layout it is


def _chosen_layout(path: Path, layout: str | None, options: dict[str, Any]) -> str:
    """The layout that is named or recognised; errors for options that it does not take or whose values are wrong."""
    if isinstance(options.get("normal"), int):  # a folder called 0, named in YAML
        options["normal"] = str(options["normal"])
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; known are: {', '.join(LAYOUTS)}.")
    layout = layout or _recognised(path, options)
    if layout is None:
        raise _unknown_layout(path)
    known = LAYOUTS[layout]
    foreign = sorted(set(options) - known.options)
    if foreign:
        takes = f"it takes {', '.join(sorted(known.options))}" if known.options else "it takes none"
        raise TypeError(f"The {known.title} has no option {', '.join(foreign)}; {takes}.")
    for name in ("boxes_as_masks", "objects_are_defects"):
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{name} is {options[name]!r}; use True or False.")
    try:
        "".encode(options.get("encoding") or "utf-8")
    except (LookupError, TypeError):
        encoding = options["encoding"]
        raise ValueError(f"encoding is {encoding!r}; name one that Python knows, such as 'gb18030'.") from None
    return layout


def _recognised(path: Path, options: Mapping[str, Any]) -> str | None:
    """The first layout that a path has and that takes the options, else the one that they are for, else the first."""
    detected = []
    for key, known in LAYOUTS.items():
        if known.detect(path):
            if known.options.issuperset(options):
                return key
            detected.append(key)
    if "normal" in options and path.is_dir():
        return folders.masked_layout(path) if split_folders(path) else "classes"
    if {"image_dir", "mask_dir"} <= set(options):
        return "image_mask"
    return detected[0] if detected else None


def _unknown_layout(path: Path) -> LayoutError:
    hints = [*_inner_hints(path), *_type_hints(path), *_pair_hints(path)] if path.is_dir() else []
    given = [", ".join(f"{name}={value!r}" for name, value in options.items()) for _, options in hints]
    lines = [f"  {what}; try {options}\n" for (what, _), options in zip(hints[:8], given, strict=False)]
    near = "Closest (arguments of read_dataset; LAYOUT, NORMAL, OPTIONS in notebook 01):\n" if lines else ""
    unread = [file for file in files_in(path)[1] if file.suffix.lower() in UNREAD_SUFFIXES]
    suffixes = ", ".join(sorted({file.suffix for file in unread}))
    formats = f"{len(unread)} photo(s) are in a format that is not read ({suffixes}): save them as PNG or JPEG.\n"
    return LayoutError(
        f"{path} has no layout that is known. Found:\n{tree(path)}\n{near}{''.join(lines)}{formats * bool(unread)}"
        f"Known layouts:{_SKETCHES}Move the photos into one of these, or list them in a table and read that.",
        [options for _, options in hints],
    )


Hint = tuple[str, dict[str, Any]]
"""What is nearly there in a folder without a layout, and arguments of `read_dataset` to try."""


def _inner_hints(path: Path) -> list[Hint]:
    """Folders and tables inside that can be read themselves."""
    hints: list[Hint] = []
    for table in (file for file in entries(path) if file.is_file() and file.suffix.lower() == ".csv"):
        with table.open("rb") as file:
            if b"image_path" in file.readline(10_000):
                hints.append((f"the table {table.name} lists photos", {"path": str(table)}))
    below = folders_in(path)[:20]
    for folder in below + [entry for outer in below for entry in folders_in(outer)[:20]]:
        if any(folder.is_relative_to(hint["path"]) for _, hint in hints) or folders.product_folders(folder):
            continue
        what = f"its folder {folder.relative_to(path).as_posix()} is of the "
        titles = (known.title for known in LAYOUTS.values() if known.detect(folder))
        hints += [(what + title, {"path": str(folder)}) for title in islice(titles, 1)]
    return hints


def _type_hints(path: Path) -> list[Hint]:
    """Folders by type, of which none has a word for good photos."""
    types = [folder for folder in folders.type_folders(path) if not are_all_masks(pictures_in(folder))]
    names, split = sorted({folder.name for folder in types}), bool(split_folders(path))
    if len(names) < 2 and not split:
        return []
    layout = folders.masked_layout(path) if split else "classes"
    what = f"{LAYOUTS[layout].title}: none of its folders has a word for good photos"
    return [(what, {"layout": layout, "normal": name}) for name in names]


def _pair_hints(path: Path) -> list[Hint]:
    """Folders of photos beside one of masks, or around it."""
    inside = [folder for folder in folders_in(path) if pictures_in(folder)]
    masks = [folder for folder in inside if are_all_masks(pictures_in(folder))]
    pairs = [(photos, mask) for mask in masks for photos in inside if photos not in masks]
    for photos in (path, *inside):
        if any(picture.parent == photos for picture in pictures_in(photos)):
            pairs += [(photos, inner) for inner in folders_in(photos) if are_all_masks(pictures_in(inner))]
    title, hints = LAYOUTS["image_mask"].title, []
    for photos, mask in pairs:
        dirs = {"image_dir": photos.relative_to(path).as_posix(), "mask_dir": mask.relative_to(path).as_posix()}
        hints.append((f"{title}: the pictures in {mask.name} look like masks", {"layout": "image_mask", **dirs}))
    return hints
