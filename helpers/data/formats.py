"""Readers: a folder or a table of photos becomes a sample table; the layout is recognised and said.

``LAYOUTS`` is the registry; a new layout is one more entry. See `helpers.data.samples` for the table.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from helpers.data import coco, folders, image_masks, per_photo, tables
from helpers.data.annotations import has_files, read_json
from helpers.data.images import BIT_DEPTHS, IMAGE_SUFFIXES, UNREAD_SUFFIXES, measure_bit_depth, remember_bit_depth
from helpers.data.layouts import Found, LayoutError, entries, files_in, folders_in, pictures_in, split_folders, tree
from helpers.data.masks import are_all_masks
from helpers.data.samples import absolute_path, make_table, relative_path
from helpers.data.unused import drop_unusable, note_unused

logger = logging.getLogger(__name__)


class Layout(NamedTuple):
    """One way a dataset may lie on disk: its name in a sentence, whether a path has it, ``read(Found(path), ...)``."""

    title: str
    detect: Callable[[Path], bool]
    read: Callable[..., None]

    @property
    def options(self) -> set[str]:
        return set(signature(self.read).parameters) - {"found"}


_read_plain = partial(folders.read_folders, with_masks=False)
LAYOUTS: dict[str, Layout] = {
    "table": Layout("table", tables.has_table, tables.read_listed),
    "visa": Layout("VisA layout", tables.has_visa, tables.read_visa),
    "mvtec": Layout("MVTec layout", folders.has_split_folders, folders.read_folders),
    "plain": Layout("plain layout", folders.has_split_folders, _read_plain),
    "classes": Layout("class folders", folders.has_classes, folders.read_folders),
    "coco": Layout("COCO layout", coco.has_coco, coco.read_coco),
    "labelme": Layout("labelme layout", partial(has_files, kind="labelme"), per_photo.read_labelme),
    "voc": Layout("Pascal VOC layout", partial(has_files, kind="voc"), per_photo.read_voc),
    "yolo": Layout("YOLO layout", partial(has_files, kind="yolo"), per_photo.read_yolo),
    "severstal": Layout("Severstal layout", tables.has_severstal, tables.read_severstal),
    "image_mask": Layout("image and mask folders", image_masks.has_image_masks, image_masks.read_image_masks),
}
"""Layouts by name, in the order they are tried."""


def read_dataset(
    path: str | Path,
    *,
    layout: str | None = None,
    group: str | None = None,
    name: str | None = None,
    pixel_size: float | None = None,
    mask_cache: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Read a folder of photos, or a CSV or Parquet file that lists them, as a sample table.

    ``layout``: one of ``LAYOUTS``; default: recognised. ``group``: photos that must stay in one split, as a regular
    expression with one capturing group that is searched in each photo's path relative to the root (``r"part(\\d+)_"``);
    default: what the layout says, else every photo alone. ``name`` and ``pixel_size`` (mm): default: those of
    dataset.json. ``mask_cache``: folder for masks that are drawn; default: ``artifacts/.masks`` in the project.
    ``options``: of the layout's reader, which describes them.

    ``attrs`` of the table also hold ``findings`` (what is wrong or was not used; `check_dataset` repeats it) and, where
    masks were drawn, their folder ``mask_cache``. LayoutError, a ValueError: no known layout, or it cannot be read as
    it lies; its ``hints`` say what to try.
    """
    path = absolute_path(path)
    if not path.exists():
        near = next(parent for parent in path.parents if parent.exists())
        drawn = "the built-in ones are drawn by `python -m helpers.pictures mesh --out datasets`"
        raise FileNotFoundError(f"There is no dataset at {path}; {drawn}. What is there:\n{tree(near)}")
    _require_pixel_size(pixel_size, "pixel_size")
    layout = _chosen_layout(path, layout, options)
    found = Found(path, mask_cache)
    LAYOUTS[layout].read(found, **options)
    drop_unusable(found)
    if not found.rows:
        why = found.summary() if any(row["severity"] == "error" for row in found.findings) else tree(path)
        raise LayoutError(f"{path} was read as {LAYOUTS[layout].title}, but no photo of it can be used:\n{why}")
    layout = found.attrs.get("layout", layout)
    found.draw_masks()
    category = path / str(options.get("category", ""))
    if path.is_dir():
        note_unused(category if category.is_dir() else path, found, layout)
    about = _dataset_json(path) | _dataset_json(category)
    splits = {row.get("split", "") for row in found.rows} - {""}
    published = len(splits) > 1 if found.published_split is None else found.published_split
    table = make_table(
        found.rows if published else [row | {"split": ""} for row in found.rows],
        root=found.root,
        layout=layout,
        name=name or about.get("name") or found.name,
        published_split=published,
        pixel_size=pixel_size or about.get("pixel_size_mm") or found.attrs.get("pixel_size"),
    )
    table.attrs = {**found.attrs, **table.attrs, "findings": found.findings}
    bits = about.get("bit_depth") or found.attrs.get("bit_depth") or measure_bit_depth(table["image_path"])
    if bits:
        table.attrs["bit_depth"] = int(bits)
    remember_bit_depth(found.root, bits)
    if group is not None:
        table["group"] = _groups(table, group)
    logger.info("%s", describe(table))
    return table


def describe(table: pd.DataFrame) -> str:
    """One line: name, layout, number of normal and abnormal photos, and of pixel masks."""
    abnormal = table[table["label_index"] == 1]
    types, masks = abnormal["defect_type"].nunique(), int((abnormal["mask_path"] != "").sum())
    layout = table.attrs.get("layout", "")
    title = LAYOUTS[layout].title if layout in LAYOUTS else f"{layout} layout"
    of_types = f" of {types} {'type' if types == 1 else 'types'}" if types else ""
    masked = f"pixel masks for {masks}" if masks else "no pixel masks (image-level results only)"
    counts = f"{len(table) - len(abnormal)} normal, {len(abnormal)} abnormal{of_types}"
    return f"{table.attrs.get('name')}: {title}, {len(table)} photos ({counts}), {masked}"


def _dataset_json(folder: Path) -> dict[str, Any]:
    """What the file says of the dataset: ``name``, ``pixel_size_mm``, ``bit_depth``."""
    file = folder / "dataset.json"
    about = read_json(file) if file.is_file() else {}
    if not isinstance(about, dict):
        return {}
    _require_pixel_size(about.get("pixel_size_mm"), f"{file}: pixel_size_mm")
    if about.get("bit_depth") not in (None, *BIT_DEPTHS) or not isinstance(about.get("name", ""), str):
        bits = ", ".join(map(str, BIT_DEPTHS))
        raise ValueError(f"{file}: name is a text, and bit_depth the bits of the camera, one of {bits}; correct it.")
    return about


def _require_pixel_size(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):
        raise ValueError(f"{what} is {value!r}; give the mm of one pixel as a number above 0, such as 0.05.")


def _groups(table: pd.DataFrame, group: str) -> pd.Series:
    relative = relative_path(table)
    try:
        found = relative.str.extract(re.compile(group))
    except (re.error, ValueError, TypeError) as error:  # ValueError: it has no capturing group
        raise ValueError(f"group={group!r} is no regular expression with a capturing group ({error}).") from error
    without = relative[found.isna().any(axis=1) | (found == "").any(axis=1)]
    if len(found.columns) != 1 or len(without):
        problem = f"gives {without.iloc[0]} none, nor {len(without) - 1} more" if len(without) else "has several groups"
        raise ValueError(f"group={group!r} {problem}; every photo needs one.")
    return found.iloc[:, 0].astype("str")


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
    if foreign := sorted(set(options) - known.options):
        takes = ", ".join(sorted(known.options)) or "none"
        raise TypeError(f"The {known.title} has no option {', '.join(foreign)}; it takes {takes}.")
    for name in ("boxes_as_masks", "objects_are_defects", "with_masks"):
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{name} is {options[name]!r}; use True or False.")
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
        return "mvtec" if split_folders(path) else "classes"
    return "image_mask" if {"image_dir", "mask_dir"} <= set(options) else next(iter(detected), None)


def _unknown_layout(path: Path) -> LayoutError:
    hints = list(_hints(path)) if path.is_dir() else []
    given = [", ".join(f"{name}={value!r}" for name, value in options.items()) for _, options in hints]
    lines = [f"  {what}; try {options}\n" for (what, _), options in zip(hints[:8], given, strict=False)]
    near = "Closest (arguments of read_dataset; LAYOUT, NORMAL, OPTIONS in notebook 01):\n" * bool(lines)
    unread = {file.suffix for file in files_in(path)[1] if file.suffix.lower() in UNREAD_SUFFIXES}
    formats = f"Photos as {', '.join(sorted(unread))} are not read: save them as PNG or JPEG.\n" if unread else ""
    return LayoutError(
        f"{path} has no layout that is known. Found:\n{tree(path)}\n{near}{''.join(lines)}{formats}Known layouts: "
        f"{', '.join(LAYOUTS)}; datasets/README.md shows them. Move the photos into one, or list them in a table.",
        [options for _, options in hints],
    )


def _hints(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is nearly there in a folder without a layout, and arguments of `read_dataset` to try."""
    for table in (file for file in entries(path) if file.suffix.lower() == ".csv" and file.is_file()):
        with table.open("rb") as file:
            if b"image_path" in file.readline(10_000):
                yield f"the table {table.name} lists photos", {"path": str(table)}
    below = folders_in(path)[:20]
    below += [entry for outer in below for entry in folders_in(outer)[:20]]
    known: set[Path] = set()
    for folder in (folder for folder in below if not folders.product_folders(folder)):
        title = next((layout.title for layout in LAYOUTS.values() if layout.detect(folder)), "")
        if title and known.isdisjoint(folder.parents):
            known.add(folder)
            yield f"its folder {folder.relative_to(path).as_posix()} is of the {title}", {"path": str(folder)}
    try:
        folders.read_folders(Found(path))
    except LayoutError as error:  # no folder has a word for good photos
        types = [hint for hint in error.hints if not are_all_masks(pictures_in(path / hint.get("normal", "")))]
        yield from (("folders by type", hint) for hint in types if len(types) > 1 or split_folders(path))
    for masks in (folder for folder in below if are_all_masks(pictures_in(folder))):
        for photos in (masks.parent, *folders_in(masks.parent)):
            own = [entry for entry in entries(photos) if entry.suffix.lower() in IMAGE_SUFFIXES]
            if own and not are_all_masks(own):
                dirs = {
                    "image_dir": photos.relative_to(path).as_posix(),
                    "mask_dir": masks.relative_to(path).as_posix(),
                }
                yield f"the pictures in {masks.name} look like masks", {"layout": "image_mask", **dirs}
