"""Readers: a folder or a table of photos becomes a sample table; the layout is recognised and said.

``LAYOUTS`` is the registry. A layout is a test whether a path has it, a reader and a sketch for the error message; a
new one is one more entry. See `helpers.data.samples` for the table.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.data.annotations import Notes
from helpers.data.images import (
    CLUTTER,
    IMAGE_SUFFIXES,
    files_below,
    measure_bit_depth,
    remember_bit_depth,
    repeated_links,
)
from helpers.data.samples import NORMAL, absolute_path, make_table, read_frame, read_table, relative_path

logger = logging.getLogger(__name__)

NORMAL_NAMES = frozenset({"good", "normal", "ok", "free", "intact", "undamaged"})
"""Folder and label names (lower case) that mean a normal photo."""

MASK_ENDINGS = ("_mask", "", "_gt", "_ground_truth", "_label", "-mask", ".mask")
"""What follows the photo's stem in the name of its mask, in the order they are tried."""

MAX_IGNORED = 100
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Words for the splits in names of folders and files (lower case)."""

_NORMAL_LABELS = NORMAL_NAMES | {"0", "0.0", "false", "normal_test"}
_NAMELESS_LABELS = frozenset({"1", "1.0", "true"})
_CLASS_PHOTO_FOLDERS = ("imgs", "images", "img")


class LayoutError(ValueError):
    """The folder has no layout that is known; the message shows what was found and what the known ones look like."""


@dataclass(frozen=True)
class Layout:
    """One way a data set may lie on disk.

    Attributes:
        title: its name in a sentence.
        sketch: short drawing for the error message.
        detect: whether a path has this layout.
        read: ``read(path, **options) -> Found``.
        options: names of the options that ``read`` takes.
    """

    title: str
    sketch: str
    detect: Callable[[Path], bool]
    read: Callable[..., Found]
    options: frozenset[str] = frozenset()


@dataclass
class Found:
    """What a reader hands back: rows for `make_table`, and what `read_dataset` puts beside them."""

    rows: list[dict[str, Any]]
    root: Path
    published_split: bool
    name: str
    ignored: list[Path] = field(default_factory=list)
    unused_masks: list[Path] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)


def read_dataset(
    path: str | Path,
    *,
    layout: str | None = None,
    group: str | Mapping[str, str] | pd.Series | None = None,
    name: str | None = None,
    pixel_size: float | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Read a folder of photos, or a table that lists them, as a sample table.

    Args:
        path: the dataset's folder, or a CSV or Parquet file.
        layout: one of ``LAYOUTS``; default: recognised.
        group: photos that must stay in one split: a regular expression with one capturing group that is searched in
            each photo's path relative to the root (``r"part(\\d+)_"``), or a mapping or Series from relative path to
            group. Default: what the layout says, else every photo alone.
        name: name of the dataset; default: from dataset.json, else of the folder.
        pixel_size: mm a pixel; default: ``pixel_size_mm`` of dataset.json, else unknown.
        **options: of the layout: ``category`` (mvtec, plain, visa: which product of a data set with many), ``root``
            (table: folder the paths are relative to; default: the folder of the file), ``normal`` (classes: which
            folder holds the normal photos, upper and lower case alike; "" where none does, and then every photo is
            abnormal; with ``layout="classes"``, for such folders are not recognised); those of coco, labelme,
            voc, image_mask and severstal are described at `helpers.data.coco.read_coco`,
            `helpers.data.labelme.read_labelme`, `helpers.data.class_files.read_voc`,
            `helpers.data.image_masks.read_image_masks` and `helpers.data.severstal.read_severstal`.

    Returns:
        The sample table. Its ``attrs`` also hold ``ignored`` and ``unused_masks``: up to 100 relative paths each of
        files in the photo folders that are no images, and of masks that no photo goes with. Where annotations were
        read, ``findings`` lists what is wrong with them (`check_dataset` repeats it) and ``mask_cache`` is the folder
        in which masks were drawn.

    Raises:
        FileNotFoundError: nothing lies at ``path``.
        LayoutError: no known layout (a ValueError).
        TypeError: an option that the layout does not take.
        ValueError: several products and no ``category``, an unknown layout name, a bad ``group`` or ``pixel_size``.
    """
    path = absolute_path(path)
    if not path.exists():
        near = next(parent for parent in path.parents if parent.exists())
        there = ", ".join(sorted(entry.name for entry in _entries(near))[:10])
        raise FileNotFoundError(
            f"There is no dataset at {path}; check the path ({near} holds: {there or 'nothing'}). "
            "The built-in ones are drawn by `python -m helpers.data.synthetic mesh --out datasets`."
        )
    if pixel_size is not None and not pixel_size > 0:
        raise ValueError(f"pixel_size is {pixel_size!r}; give the mm of one pixel, above 0.")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; known are: {', '.join(LAYOUTS)}.")
    if layout is None:
        layout = next((key for key, known in LAYOUTS.items() if known.detect(path)), None)
    if layout is None:
        raise LayoutError(_unknown_layout(path))
    known = LAYOUTS[layout]
    foreign = sorted(set(options) - known.options)
    if foreign:
        takes = f"it takes {', '.join(sorted(known.options))}" if known.options else "it takes none"
        raise TypeError(f"The {known.title} has no option {', '.join(foreign)}; {takes}.")

    found = known.read(path, **options)
    _note_links(found)
    if not found.rows:
        raise LayoutError(f"{path} was read as {known.title}, but no photo was found in it.\n{tree(path)}")
    about = _dataset_json(path if path.is_dir() else path.parent) if layout != "table" else {}
    category = options.get("category")
    if category is not None and (path / category).is_dir():
        about = {**about, **_dataset_json(path / category)}
    table = make_table(
        found.rows,
        root=found.root,
        layout=found.attrs.get("layout", layout),
        name=name or about.get("name") or found.name,
        published_split=found.published_split,
        pixel_size=pixel_size or about.get("pixel_size_mm") or found.attrs.get("pixel_size"),
    )
    table.attrs = {**found.attrs, **table.attrs}
    if "bit_depth" not in table.attrs and (bits := measure_bit_depth(table["image_path"])):
        table.attrs["bit_depth"] = bits
    remember_bit_depth(found.root, table.attrs.get("bit_depth"))
    table.attrs["ignored"] = _relative_names(found.ignored, found.root)
    table.attrs["unused_masks"] = _relative_names(found.unused_masks, found.root)
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


# ----------------------------------------------------------------------------------------------------- MVTec and plain


def split_folders(path: Path) -> dict[str, Path]:
    """Folders train, val (or validation) and test inside ``path``, by split."""
    folders: dict[str, Path] = {}
    for entry in folders_in(path):
        split = SPLIT_NAMES.get(entry.name.lower())
        if split is not None:
            folders.setdefault(split, entry)
    return folders


def _has_split_folders(path: Path) -> bool:
    """Whether train or test holds a folder of normal photos, or a test set of defects has masks."""
    splits = split_folders(path)
    if any(entry.name.lower() in NORMAL_NAMES for folder in splits.values() for entry in folders_in(folder)):
        return True
    return "test" in splits and _ground_truth(path) is not None


def _categories(path: Path) -> list[Path]:
    return [] if split_folders(path) else [entry for entry in folders_in(path) if _has_split_folders(entry)]


def _ground_truth(path: Path) -> Path | None:
    """Folder with one folder of masks a defect type: inside the category or beside it."""

    def named(folder: Path) -> Path | None:
        return next((e for e in folders_in(folder) if e.name.lower() in ("ground_truth", "groundtruth")), None)

    inside = named(path)
    if inside is not None:
        return inside
    beside = named(path.parent)
    if beside is None:
        return None
    if (beside / path.name).is_dir():
        return beside / path.name
    test = split_folders(path).get("test")
    types = {entry.name.lower() for entry in folders_in(test)} if test else set()
    # the masks of a single category, whose folder holds photos only
    return beside if types & {entry.name.lower() for entry in folders_in(beside)} else None


def _has_masks(path: Path) -> bool:
    if _ground_truth(path) is not None:
        return True
    return any(
        _child(defect, "gt") is not None for folder in split_folders(path).values() for defect in folders_in(folder)
    )


def _detect_mvtec(path: Path) -> bool:
    if not path.is_dir():
        return False
    if split_folders(path):
        return _has_split_folders(path) and _has_masks(path)
    return any(_has_masks(category) for category in _categories(path))


def _detect_plain(path: Path) -> bool:
    return path.is_dir() and (_has_split_folders(path) or bool(_categories(path)))


def _read_mvtec(path: Path, category: str | None = None) -> Found:
    return _read_split_folders(path, category, with_masks=True)


def _read_plain(path: Path, category: str | None = None) -> Found:
    return _read_split_folders(path, category, with_masks=False)


def _read_split_folders(path: Path, category: str | None, *, with_masks: bool) -> Found:
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    categories = _categories(path)
    if category is not None:
        path = _chosen_category(path, category, [entry.name for entry in categories])
    elif categories:
        raise _many(path, [entry.name for entry in categories])
    splits = split_folders(path)
    truth = _ground_truth(path) if with_masks else None
    # a root that holds the masks too, so that no path leaves it
    root = path if truth is None or truth.is_relative_to(path) else path.parent
    found = Found([], root, published_split=True, name=path.name)
    masks_in: dict[Path, MaskFinder] = {}
    # test first: the published masks are those of the test photos
    for split, folder in sorted(splits.items(), key=lambda item: item[0] != "test"):
        for type_folder in folders_in(folder):
            defect_type = NORMAL if type_folder.name.lower() in NORMAL_NAMES else type_folder.name
            photo_folder = _child(type_folder, "rgb") or type_folder  # MVTec 3D-AD: rgb, gt and xyz side by side
            mask_folder = _child(type_folder, "gt") if photo_folder != type_folder else None
            if mask_folder is None and truth is not None and (split == "test" or defect_type != NORMAL):
                mask_folder = _child(truth, type_folder.name)
            if with_masks and mask_folder is not None and mask_folder not in masks_in:
                masks_in[mask_folder] = MaskFinder(images_in(mask_folder, found.ignored), mask_folder)
            for photo in images_in(photo_folder, found.ignored):
                mask = masks_in[mask_folder].take(photo.relative_to(photo_folder)) if mask_folder in masks_in else None
                found.rows.append(
                    {
                        "image_path": str(photo),
                        "mask_path": str(mask or ""),
                        "label_index": int(defect_type != NORMAL),
                        "defect_type": defect_type,
                        "split": split,
                    }
                )
    for masks in masks_in.values():
        found.unused_masks.extend(masks.unused())
    if truth is not None:
        named = {entry.name.lower() for folder in splits.values() for entry in folders_in(folder)}
        for entry in folders_in(truth):
            if entry.name.lower() not in named:
                found.unused_masks.extend(images_in(entry, found.ignored))
    return found


class MaskFinder:
    """Masks of one folder, found by the photo's name; upper and lower case and the suffix do not matter."""

    def __init__(self, files: list[Path], folder: Path) -> None:
        self._by_name: dict[tuple[str, str], Path] = {}
        for file in files:
            relative = file.relative_to(folder)
            self._by_name.setdefault((relative.parent.as_posix().lower(), relative.stem.lower()), file)
        self._used: set[Path] = set()

    def take(self, photo: Path) -> Path | None:
        """The mask of a photo, given by its path relative to its folder; a mask is given out once."""
        parent, stem = photo.parent.as_posix().lower(), photo.stem.lower()
        for ending in MASK_ENDINGS:
            mask = self._by_name.get((parent, stem + ending))
            if mask is not None and mask not in self._used:
                self._used.add(mask)
                return mask
        return None

    def unused(self) -> list[Path]:
        """Masks that no photo asked for."""
        return [file for file in self._by_name.values() if file not in self._used]


# ---------------------------------------------------------------------------------------------------------------- VisA


def _detect_visa(path: Path) -> bool:
    return (path / "split_csv" / "1cls.csv").is_file()


def _read_visa(path: Path, category: str | None = None) -> Found:
    file = path / "split_csv" / "1cls.csv"
    if not file.is_file():
        raise LayoutError(f"{path} has no split_csv/1cls.csv; the VisA layout needs it.")
    frame = read_frame(file)
    missing = [column for column in ("object", "split", "label", "image", "mask") if column not in frame]
    if missing:
        raise LayoutError(f"{file} lacks the column(s) {', '.join(missing)}.")
    objects = sorted(frame["object"].astype("str").unique())
    if category is None and len(objects) > 1:
        raise _many(path, objects, as_folder=False)
    category = category or objects[0]
    if category not in objects:
        raise ValueError(f"{file} has no object {category!r}; choose one of: {', '.join(objects)}.")
    rows = []
    for row in frame[frame["object"] == category].itertuples(index=False):
        label, defect_type = label_of(str(row.label), file)
        rows.append(
            {
                "image_path": row.image,
                "mask_path": row.mask if label else "",
                "label_index": label,
                "defect_type": defect_type,
                "split": split_of(str(row.split), file),
            }
        )
    return Found(rows, path, published_split=True, name=category)


# ------------------------------------------------------------------------------------------------------- class folders


def _class_folders(path: Path, normal: str | None = None) -> list[tuple[str, Path]]:
    """Class names and folders, a common prefix such as ``MT_`` taken off; the normal class is called "good".

    ``normal`` is the folder of the normal class, with or without the prefix; None: the one of `NORMAL_NAMES`.
    """
    folders = [entry for entry in folders_in(path) if images_in(_photo_folder(entry), [])]
    names = [folder.name for folder in folders]
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    prefix = common[: max(common.rfind("_"), common.rfind("-")) + 1]
    classes = []
    for folder in folders:
        name = folder.name.removeprefix(prefix) or folder.name
        is_normal = name.lower() in NORMAL_NAMES
        if normal is not None:
            is_normal = normal.lower() in (name.lower(), folder.name.lower())
        classes.append((NORMAL if is_normal else name, _photo_folder(folder)))
    return classes


def _photo_folder(folder: Path) -> Path:
    return next((entry for entry in folders_in(folder) if entry.name.lower() in _CLASS_PHOTO_FOLDERS), folder)


def _detect_classes(path: Path) -> bool:
    if not path.is_dir() or split_folders(path):
        return False
    # cheap look first: a folder called Free, good, ... with or without a prefix
    if not any(re.split(r"[_-]", entry.name.lower())[-1] in NORMAL_NAMES for entry in folders_in(path)):
        return False
    names = {name for name, _ in _class_folders(path)}
    return NORMAL in names and len(names) > 1


def _read_classes(path: Path, normal: str | None = None) -> Found:
    found = Found([], path, published_split=False, name=path.name)
    classes = _class_folders(path, normal) if path.is_dir() else []
    _require_normal_class(path, classes, normal)
    files = [(name, folder, images_in(folder, found.ignored)) for name, folder in classes]
    everything = {file for _, _, images in files for file in images}
    stems = {file.with_suffix("") for file in everything if file.suffix.lower() != ".png"}
    # where any JPEG lies beside a PNG of its name, PNGs are masks in the whole dataset
    png_masks = any(file.suffix.lower() == ".png" and file.with_suffix("") in stems for file in everything)
    bases = {file.with_suffix("") for file in everything}

    def is_mask(file: Path) -> bool:
        if png_masks and file.suffix.lower() == ".png":
            return True
        return any(
            ending and file.stem.endswith(ending) and file.with_name(file.stem.removesuffix(ending)) in bases
            for ending in MASK_ENDINGS
        )

    for name, folder, images in files:
        masks = MaskFinder([file for file in images if is_mask(file)], folder)
        for photo in images:
            if is_mask(photo):
                continue
            mask = masks.take(photo.relative_to(folder))
            found.rows.append(
                {
                    "image_path": str(photo),
                    # a normal photo needs no mask; its file is there, all zero, in this layout
                    "mask_path": "" if name == NORMAL else str(mask or ""),
                    "label_index": int(name != NORMAL),
                    "defect_type": name,
                }
            )
        found.unused_masks.extend(masks.unused())
    return found


def _require_normal_class(path: Path, classes: list[tuple[str, Path]], normal: str | None) -> None:
    names = [name for name, _ in classes]
    if normal is None and NORMAL not in names:
        raise LayoutError(
            f"{path} has no class folder for normal photos; name it {', '.join(sorted(NORMAL_NAMES))} (a common prefix "
            f"is allowed), say which it is with normal='FOLDER', or with normal='' that there is none.\n{tree(path)}"
        )
    if normal is None:
        return
    if normal and NORMAL not in names:
        raise LayoutError(f"{path} has no class folder {normal!r} (normal=); it has: {', '.join(names) or 'none'}.")
    if path.is_dir() and split_folders(path):
        folders = ", ".join(folder.name for folder in split_folders(path).values())
        raise LayoutError(f"{path} has folders of splits ({folders}), which are no classes; use layout='plain'.")
    others = [name for name in names if name.lower() in NORMAL_NAMES]
    if normal:
        others.remove(NORMAL)
    if others:
        raise LayoutError(f"{path} has the class folder {others[0]!r}, a name of normal photos, but normal={normal!r}.")


# --------------------------------------------------------------------------------------------------------------- tables


def _detect_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (".csv", ".parquet")


def _read_table(path: Path, root: str | Path | None = None) -> Found:
    if path.with_name(path.name + ".json").is_file():
        table = read_table(path, root)
        rows = table.to_dict("records")
        return Found(
            rows, Path(table.attrs["root"]), table.attrs["published_split"], table.attrs["name"], attrs=table.attrs
        )
    frame = read_frame(path)
    if "image_path" not in frame:
        raise LayoutError(f"{path} has no column image_path but {', '.join(map(str, frame.columns))}; rename one.")
    if "label_index" not in frame and "label" not in frame:
        raise LayoutError(f"{path} has no column label or label_index; add one (0 or good: normal, else abnormal).")
    rows = frame.to_dict("records")
    for row in rows:
        text = str(row.pop("label", "") if "label_index" not in frame else row["label_index"])
        label, defect_type = label_of(text, path)
        row["label_index"] = label
        if not label:
            row["defect_type"] = NORMAL
        elif "defect_type" not in frame or pd.isna(row["defect_type"]) or not str(row["defect_type"]):
            row["defect_type"] = defect_type
        if "split" in frame:
            row["split"] = "" if pd.isna(row["split"]) else split_of(str(row["split"]), path)
    base = Path(root) if root is not None else path.parent
    published = any(row.get("split") for row in rows)
    return Found(rows, absolute_path(base), published_split=published, name=path.stem)


def label_of(text: str, file: Path) -> tuple[int, str]:
    """Label index and defect type that a word stands for."""
    word = text.strip()
    if not word or word.lower() == "nan":
        raise ValueError(f"{file} has an empty label; write good or 0 for normal photos, the defect or 1 for others.")
    if word.lower() in _NORMAL_LABELS:
        return 0, NORMAL
    if word.lower() in _NAMELESS_LABELS:
        return 1, "defect"
    if re.fullmatch(r"-?\d+(\.\d+)?", word):
        raise ValueError(f"{file} has the label {word}; use 0 (normal) and 1 (abnormal), or words.")
    return 1, word


def split_of(text: str, file: Path) -> str:
    """Split that a word in ``file`` stands for, "" for an empty one."""
    word = text.strip().lower()
    if word and word not in SPLIT_NAMES:
        raise ValueError(f"{file} has the split {text!r}; known are train, val, test.")
    return SPLIT_NAMES.get(word, "")


# ---------------------------------------------------------------------------------------------------------- annotations
# Their modules build on this one, so they are imported when they are needed.


def _detect_coco(path: Path) -> bool:
    from helpers.data.coco import has_coco

    return has_coco(path)


def _read_coco(path: Path, **options: Any) -> Found:
    from helpers.data.coco import read_coco

    return read_coco(path, **options)


def _detect_labelme(path: Path) -> bool:
    from helpers.data.labelme import has_labelme

    return has_labelme(path)


def _read_labelme(path: Path, **options: Any) -> Found:
    from helpers.data.labelme import read_labelme

    return read_labelme(path, **options)


def _detect_image_masks(path: Path) -> bool:
    from helpers.data.image_masks import has_image_masks

    return has_image_masks(path)


def _read_image_masks(path: Path, **options: Any) -> Found:
    from helpers.data.image_masks import read_image_masks

    return read_image_masks(path, **options)


def _detect_voc(path: Path) -> bool:
    from helpers.data.class_files import has_voc

    return has_voc(path)


def _read_voc(path: Path, **options: Any) -> Found:
    from helpers.data.class_files import read_voc

    return read_voc(path, **options)


def _detect_severstal(path: Path) -> bool:
    from helpers.data.severstal import has_severstal

    return has_severstal(path)


def _read_severstal(path: Path, **options: Any) -> Found:
    from helpers.data.severstal import read_severstal

    return read_severstal(path, **options)


# ------------------------------------------------------------------------------------------------------------- registry

LAYOUTS: dict[str, Layout] = {
    "table": Layout(
        "table",
        "samples.csv or .parquet   columns image_path, label (good or the defect) or label_index (0 or 1),\n"
        "                          optional mask_path, split, defect_type, group",
        _detect_table,
        _read_table,
        frozenset({"root"}),
    ),
    "visa": Layout(
        "VisA layout",
        "split_csv/1cls.csv        columns object, split, label, image, mask",
        _detect_visa,
        _read_visa,
        frozenset({"category"}),
    ),
    "mvtec": Layout(
        "MVTec layout",
        "train/good/000.png\ntest/good/000.png\ntest/scratch/000.png\nground_truth/scratch/000_mask.png",
        _detect_mvtec,
        _read_mvtec,
        frozenset({"category"}),
    ),
    "plain": Layout(
        "plain layout",
        "train/good/000.png        (no masks: image-level results only)\ntest/good/000.png\ntest/defect/000.png",
        _detect_plain,
        _read_plain,
        frozenset({"category"}),
    ),
    "classes": Layout(
        "class folders",
        "MT_Free/Imgs/a.jpg        (normal: free, good, normal, ok, intact, undamaged; others: see normal=)\n"
        "MT_Crack/Imgs/b.jpg\nMT_Crack/Imgs/b.png       (mask, same name)",
        _detect_classes,
        _read_classes,
        frozenset({"normal"}),
    ),
    "coco": Layout(
        "COCO layout",
        "train/_annotations.coco.json and train/a.jpg   (Roboflow; or one *.json of any name, with or without splits)\n"
        "annotations/instances_train.json and images/   (CVAT), result.json and images/ (Label Studio)",
        _detect_coco,
        _read_coco,
        frozenset({"annotations", "objects_are_defects", "image_dir", "encoding", "mask_cache"}),
    ),
    "labelme": Layout(
        "labelme layout",
        "a.jpg and a.json          (shapes; with or without folders train, val, test)",
        _detect_labelme,
        _read_labelme,
        frozenset({"line_width", "encoding", "mask_cache"}),
    ),
    "voc": Layout(
        "Pascal VOC layout",
        "IMAGES/crazing_1.jpg and ANNOTATIONS/crazing_1.xml     (or JPEGImages; with or without train, val, test)",
        _detect_voc,
        _read_voc,
        frozenset({"class_from", "boxes_as_masks", "mask_cache"}),
    ),
    "severstal": Layout(
        "Severstal layout",
        "train.csv                 columns ImageId_ClassId (or ImageId, ClassId), EncodedPixels\ntrain_images/a.jpg",
        _detect_severstal,
        _read_severstal,
        frozenset({"image_dir", "mask_cache"}),
    ),
    "image_mask": Layout(
        "image and mask folders",
        "images/a.png and masks/a.png                   (no mask or an empty one: normal)\n"
        "metadata.json             optional: per photo split, label or defect_type, group",
        _detect_image_masks,
        _read_image_masks,
        frozenset({"image_dir", "mask_dir", "metadata_path"}),
    ),
}
"""Layouts by name, in the order they are tried."""


# -------------------------------------------------------------------------------------------------------------- helpers


def _entries(folder: Path) -> list[Path]:
    """Files and folders that are neither hidden nor clutter of an operating system, by name."""
    if not folder.is_dir():
        return []
    return sorted(e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in CLUTTER)


def folders_in(folder: Path) -> list[Path]:
    """Folders directly inside one, by name, without hidden ones."""
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _child(folder: Path, name: str) -> Path | None:
    return next((entry for entry in folders_in(folder) if entry.name.lower() == name.lower()), None)


def images_in(folder: Path, ignored: list[Path]) -> list[Path]:
    """Image files in a folder and below, by suffix; other files, and links that loop, are added to ``ignored``."""
    images = []
    for file in files_below(folder, ignored):
        (images if file.suffix.lower() in IMAGE_SUFFIXES else ignored).append(file)
    return images


def _note_links(found: Found) -> None:
    """Findings for links that loop, and for photos that another row has under another name, which are left out."""
    notes = Notes(found.root, found.attrs.get("findings", []))
    loops = [file for file in found.ignored if file.is_symlink() and file.is_dir()]
    for loop in loops:
        problem = "is a link to a folder around it, whose photos are read once, where they lie"
        notes.add("warning", loop, "link-loop", problem, "nothing, or remove the link")
    found.ignored = [file for file in found.ignored if file not in loops]
    alike: dict[Any, list[Path]] = defaultdict(list)
    for row in found.rows:
        what = tuple(str(row.get(column, "")) for column in ("label_index", "defect_type", "split", "mask_path"))
        alike[what].append(found.root / str(row.get("image_path", "")))
    repeated = {link for paths in alike.values() for link in repeated_links(paths)}
    for link in sorted(repeated):
        problem = "is a link to a photo that is in the table already; it is left out"
        notes.add("info", link, "repeated-link", problem, "nothing, or remove the link")
    found.rows = [row for row in found.rows if found.root / str(row.get("image_path", "")) not in repeated]
    if notes.rows:
        found.attrs["findings"] = notes.rows


def _relative_names(files: list[Path], root: Path) -> list[str]:
    return [Path(os.path.relpath(file, root)).as_posix() for file in sorted(files)[:MAX_IGNORED]]


def _dataset_json(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    if not file.is_file():
        return {}
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); fix or remove it.") from error
    return about if isinstance(about, dict) else {}


def _chosen_category(path: Path, category: str, known: list[str]) -> Path:
    if category not in known:
        choose = f"choose one of: {', '.join(known)}" if known else "it holds one product only, so leave category out"
        raise ValueError(f"{path} has no category {category!r}; {choose}.")
    return path / category


def _many(path: Path, names: list[str], *, as_folder: bool = True) -> ValueError:
    how = f"give the path of one, such as {path / names[0]}, or " if as_folder else "give "
    return ValueError(
        f"{path} holds {len(names)} categories ({', '.join(names)}); {how}category={names[0]!r} to read_dataset."
    )


def _groups(table: pd.DataFrame, group: str | Mapping[str, str] | pd.Series) -> pd.Series:
    relative = relative_path(table)
    if isinstance(group, str):
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise ValueError(f"group={group!r} is not a regular expression ({error}).") from error
        if pattern.groups != 1:
            raise ValueError(f"group={group!r} has {pattern.groups} capturing groups; put ( ) around the one to use.")
        matches = [pattern.search(path) for path in relative]
        values = [match.group(1) if match else None for match in matches]
        what = f"does not match group={group!r}"
    elif isinstance(group, Mapping | pd.Series):
        mapping = dict(group)
        values = [mapping.get(path) for path in relative]
        values = [None if value is None or pd.isna(value) else str(value) for value in values]
        what = "is no key of group="
    else:
        raise TypeError(f"group is a {type(group).__name__}; give a regular expression, a mapping or a Series.")
    without = [path for path, value in zip(relative, values, strict=True) if not value]
    if without:
        raise ValueError(f"{without[0]} {what}, nor do {len(without) - 1} more; every photo needs a group.")
    return pd.Series(values, index=table.index, dtype="str")


def _unknown_layout(path: Path) -> str:
    sketches = "\n".join(
        f"  {name}:\n" + "\n".join(f"    {line}" for line in known.sketch.splitlines())
        for name, known in LAYOUTS.items()
    )
    return (
        f"{path} has no layout that is known. Found:\n{tree(path)}\nKnown layouts:\n{sketches}\n"
        "Move the photos into one of these, or list them in a table and read that."
    )


def tree(path: Path, limit: int = 20, most: int = 3) -> str:
    """A few lines that show what lies in a folder: folders with their number of files, and the first files."""
    if path.is_file():
        return f"  {path.name} (a file)"
    lines = [f"  {path.name}/"]

    def walk(folder: Path, depth: int) -> None:
        entries = _entries(folder)
        files = [entry for entry in entries if not entry.is_dir()]
        shown = [entry for entry in entries if entry.is_dir()][: 6 if depth == 1 else most]
        for entry in shown:
            lines.append("  " * (depth + 1) + entry.name + "/")
            if depth < 3:
                walk(entry, depth + 1)
        rest = len(entries) - len(files) - len(shown)
        if rest > 0:
            lines.append("  " * (depth + 1) + f"... {rest} more folders")
        lines.extend("  " * (depth + 1) + file.name for file in files[:1])
        if len(files) > 1:
            lines.append("  " * (depth + 1) + f"... {len(files) - 1} more files")

    walk(path, 1)
    if len(lines) == 1:
        lines.append("    (empty)")
    return "\n".join(lines if len(lines) <= limit else [*lines[: limit - 1], "    ..."])
