"""Readers: a folder or a table of photos becomes a sample table; the layout is recognised and said.

``LAYOUTS`` is the registry. A layout is a test whether a path has it, a reader and a sketch for the error message; a
new one is one more entry. See `helpers.data.samples` for the table.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.data.annotations import Notes
from helpers.data.images import (
    BIT_DEPTHS,
    CLUTTER,
    IMAGE_SUFFIXES,
    files_below,
    is_loop,
    measure_bit_depth,
    remember_bit_depth,
    repeated_links,
)
from helpers.data.layouts import SPLIT_NAMES, match_names
from helpers.data.samples import NORMAL, absolute_path, make_table, read_frame, read_table, relative_path
from helpers.paths import printable

logger = logging.getLogger(__name__)

NORMAL_NAMES = frozenset({"good", "normal", "ok", "free", "intact", "undamaged", "defect_free", "no_defect"})
"""Folder and label names (lower case) that mean a normal photo."""

MAX_IGNORED = 100

_NORMAL_LABELS = NORMAL_NAMES | {"0", "0.0", "false", "normal_test"}
_NOTHING = frozenset({"none", "nothing", "no", "nan", "n/a"})  # for a defect type
_NAMELESS_LABELS = frozenset({"1", "1.0", "true"})


class LayoutError(ValueError):
    """A folder that cannot be read as it lies; ``hints`` are arguments of `read_dataset` (``path`` too) to try."""

    def __init__(self, message: str, hints: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.hints = list(hints)


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
    empty_masks: list[Path] = field(default_factory=list)  # of normal photos, whose rows name none
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
            (table: folder the paths are relative to; default: the folder of the file), ``normal`` (mvtec, plain,
            classes: which folder holds the normal photos, or a list of several, upper and lower case alike; "" where
            none does, and then every photo is abnormal), ``mask_cache`` (mvtec, classes: folder for masks that are
            drawn from several of one photo); those of coco, labelme, voc, yolo, image_mask and severstal are described
            at `helpers.data.coco.read_coco`, `helpers.data.labelme.read_labelme`, `helpers.data.voc.read_voc`,
            `helpers.data.yolo.read_yolo`,
            `helpers.data.image_masks.read_image_masks` and `helpers.data.severstal.read_severstal`.

    Returns:
        The sample table. Its ``attrs`` also hold ``ignored`` (up to 100 relative paths of files in the photo folders
        that are no images), ``unused_masks`` (those that no photo goes with), ``findings`` (what is wrong or was not
        used; `check_dataset` repeats it) and, where masks were drawn, their folder ``mask_cache``.

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
            "The built-in ones are drawn by `python -m helpers.pictures mesh --out datasets`."
        )
    if pixel_size is not None:
        _require_pixel_size(pixel_size, "pixel_size")
    if isinstance(options.get("normal"), int):  # a folder called 0, named in YAML
        options["normal"] = str(options["normal"])
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; known are: {', '.join(LAYOUTS)}.")
    if layout is None:
        layout = _recognised(path, options)
    if layout is None:
        raise _unknown_layout(path)
    known = LAYOUTS[layout]
    foreign = sorted(set(options) - known.options)
    if foreign:
        takes = f"it takes {', '.join(sorted(known.options))}" if known.options else "it takes none"
        raise TypeError(f"The {known.title} has no option {', '.join(foreign)}; {takes}.")

    found = known.read(path, **options)
    _note_links(found)
    _note_names(found)
    if not found.rows:
        raise LayoutError(f"{path} was read as {known.title}, but no photo was found in it.\n{tree(path)}")
    if path.is_dir():
        from helpers.data.beside import note_unused

        category_folder = path / options.get("category", "")
        note_unused(category_folder if category_folder.is_dir() else path, found, layout)
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
    bits = about.get("bit_depth") or table.attrs.get("bit_depth") or measure_bit_depth(table["image_path"])
    if bits:
        table.attrs["bit_depth"] = int(bits)
    remember_bit_depth(found.root, table.attrs.get("bit_depth"))
    table.attrs["ignored"] = _relative_names(found.ignored, found.root)[:MAX_IGNORED]
    if (more := len(found.ignored) - MAX_IGNORED) > 0:
        notes = Notes(found.root, table.attrs.setdefault("findings", []))
        notes.add("info", found.root, "ignored-file", f"{more} more files are no images and are ignored", "nothing")
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


# ----------------------------------------------------------------------------------------------------- words in names


def words_in(name: str) -> tuple[str, ...]:
    """Words and numbers that a name is made of, in lower case."""
    return tuple(re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFC", name).lower()))


DENIALS = frozenset(
    words_in("no non not nok ng bad def defect defects defective damaged abnormal anomaly almost nearly but")
)
"""Words beside one for normal photos that take its meaning away."""


def is_normal_name(name: str) -> bool:
    """Whether a folder's name says that its photos are normal, with no more than a split or a number beside."""
    words = words_in(name)
    if "_".join(words) in NORMAL_NAMES:
        return True
    rest = [word for word in words if not word.isdecimal() and word not in SPLIT_NAMES]
    return bool(rest) and all(word in NORMAL_NAMES for word in rest)


def word_for_normal(name: str) -> bool:
    """Whether a folder's name begins or ends with a word for normal photos (``ok_front``) and none denies it."""
    words = words_in(name)
    return bool(words) and bool({words[0], words[-1]} & (NORMAL_NAMES - {"free"})) and not DENIALS & set(words)


def split_folders(path: Path) -> dict[str, Path]:
    """Folders train, val (or validation) and test inside ``path``, by split."""
    folders: dict[str, Path] = {}
    for entry in folders_in(path):
        split = SPLIT_NAMES.get(entry.name.lower())
        if split is not None:
            folders.setdefault(split, entry)
    return folders


def word_for_defect(name: str) -> bool:
    """Whether a folder's name says that its photos are no normal ones (``ng``, ``not_ok``)."""
    words = set(words_in(name))
    without = words & {"no", "non", "not", "free", "without"}  # non-defective, anomaly_free
    if words & (NORMAL_NAMES - {"free"}):
        return bool(words & DENIALS)
    return not without and bool(words & (DENIALS - {"almost", "nearly", "but"}))


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
        raise many_categories(path, objects, as_folder=False)
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
        words = ["" if pd.isna(row.get(key)) else str(row[key]).strip() for key in ("label", "defect_type")]
        text = str(row["label_index"] if "label_index" in frame else row.pop("label"))
        label, defect_type = label_of(text, path)
        row["label_index"] = label
        if not label:
            for word in words:
                if words_in(word) and not is_normal_name(word) and word.lower() not in _NORMAL_LABELS | _NOTHING:
                    raise ValueError(f"{path}: {row['image_path']} is normal ({text}) and {word!r}; correct one.")
            row["defect_type"] = NORMAL
        elif not words[1]:
            row["defect_type"] = defect_type
        if "split" in frame:
            row["split"] = "" if pd.isna(row["split"]) else split_of(str(row["split"]), path)
    base = absolute_path(Path(root) if root is not None else path.parent)
    published = any(row.get("split") for row in rows)
    found = Found(rows, base, published_split=published, name=path.stem)
    _find_files(path, found)
    return found


def _find_files(table: Path, found: Found) -> None:
    """Put files in the place of names that were written otherwise, or on another machine; one finding says so."""

    def file_of(name: Any) -> str:
        return "" if pd.isna(name) or not str(name) else os.path.join(found.root, str(name))  # noqa: PTH118

    columns = ("image_path", "mask_path")
    there = {key: {file for row in found.rows if os.path.exists(file := file_of(row.get(key)))} for key in columns}  # noqa: PTH110
    lost = {
        key: [row for row in found.rows if (file := file_of(row.get(key))) and file not in there[key]]
        for key in columns
    }
    if not any(lost.values()):
        return
    files = {file for file in map(str, images_in(found.root, []))}
    examples = []
    for key, other in zip(columns, reversed(columns), strict=True):
        matched, _ = match_names(
            [str(row[key]) for row in lost[key]], map(Path, sorted(files - there[other])), found.root
        )
        for row in lost[key]:
            file = matched.get(str(row[key]))
            if file is not None:
                examples.append(f"{row[key]} is {file.relative_to(found.root).as_posix()}")
                row[key] = str(file)
                there[key].add(str(file))
    if examples:
        problem = f"{len(examples)} name(s) were found written otherwise: {examples[0]}"
        found.attrs["findings"] = Notes(found.root).rows
        notes = Notes(found.root, found.attrs["findings"])
        notes.add("info", table, "names-matched", problem, "nothing, if that is what they mean")


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


# -------------------------------------------------------------------------------------------------------- other modules
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


def _detect_mvtec(path: Path) -> bool:
    from helpers.data.folders import has_mvtec

    return has_mvtec(path)


def _read_mvtec(path: Path, **options: Any) -> Found:
    from helpers.data.folders import read_split_folders

    return read_split_folders(path, with_masks=True, **options)


def _detect_plain(path: Path) -> bool:
    from helpers.data.folders import has_plain

    return has_plain(path)


def _read_plain(path: Path, **options: Any) -> Found:
    from helpers.data.folders import read_split_folders

    return read_split_folders(path, with_masks=False, **options)


def _detect_classes(path: Path) -> bool:
    from helpers.data.folders import has_classes

    return has_classes(path)


def _read_classes(path: Path, **options: Any) -> Found:
    from helpers.data.folders import read_classes

    return read_classes(path, **options)


def _detect_image_masks(path: Path) -> bool:
    from helpers.data.image_masks import has_image_masks

    return has_image_masks(path)


def _read_image_masks(path: Path, **options: Any) -> Found:
    from helpers.data.image_masks import read_image_masks

    return read_image_masks(path, **options)


def _detect_voc(path: Path) -> bool:
    from helpers.data.voc import has_voc

    return has_voc(path)


def _read_voc(path: Path, **options: Any) -> Found:
    from helpers.data.voc import read_voc

    return read_voc(path, **options)


def _detect_yolo(path: Path) -> bool:
    from helpers.data.yolo import has_yolo

    return has_yolo(path)


def _read_yolo(path: Path, **options: Any) -> Found:
    from helpers.data.yolo import read_yolo

    return read_yolo(path, **options)


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
        frozenset({"category", "normal", "mask_cache"}),
    ),
    "plain": Layout(
        "plain layout",
        "train/good/000.png        (no masks: image-level results only)\ntest/good/000.png\ntest/defect/000.png",
        _detect_plain,
        _read_plain,
        frozenset({"category", "normal"}),
    ),
    "classes": Layout(
        "class folders",
        "MT_Free/Imgs/a.jpg        (normal: free, good, normal, ok, intact, undamaged; others: see normal=)\n"
        "MT_Crack/Imgs/b.jpg\nMT_Crack/Imgs/b.png       (mask, same name)",
        _detect_classes,
        _read_classes,
        frozenset({"normal", "mask_cache"}),
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
        "a.jpg and a.json          (shapes; or json/a.json with its imagePath; with or without splits)",
        _detect_labelme,
        _read_labelme,
        frozenset({"line_width", "encoding", "mask_cache"}),
    ),
    "voc": Layout(
        "Pascal VOC layout",
        "IMAGES/crazing_1.jpg and ANNOTATIONS/crazing_1.xml     (or JPEGImages, or side by side)",
        _detect_voc,
        _read_voc,
        frozenset({"class_from", "boxes_as_masks", "encoding", "mask_cache"}),
    ),
    "yolo": Layout(
        "YOLO layout",
        "images/train/a.jpg and labels/train/a.txt      (polygons or boxes; or train/images, train/labels; data.yaml)",
        _detect_yolo,
        _read_yolo,
        frozenset({"boxes_as_masks", "mask_cache"}),
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
        frozenset({"image_dir", "mask_dir", "metadata_path", "mask_cache"}),
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
    """Folders directly inside one, by name, without hidden ones and links to a folder around them."""
    return [e for e in _entries(folder) if e.is_dir() and not (e.is_symlink() and is_loop(e, folder))]


def images_in(folder: Path, ignored: list[Path]) -> list[Path]:
    """Image files in a folder and below, by suffix; other files, and links that loop, are added to ``ignored``."""
    images = []
    for file in files_below(folder, ignored):
        (images if file.suffix.lower() in IMAGE_SUFFIXES else ignored).append(file)
    return images


def _note_links(found: Found) -> None:
    """Findings for photos that another row has under another name, which are left out."""
    notes = Notes(found.root, found.attrs.get("findings", []))
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


def _note_names(found: Found) -> None:
    """Findings for photos whose path, or whose mask's, is no text that a table can hold; they are left out."""
    notes, rows = Notes(found.root, found.attrs.get("findings", [])), found.rows
    found.rows = []
    for row in rows:
        paths = [str(row.get(key) or "") for key in ("image_path", "mask_path")]
        if any(printable(path) != path for path in paths):
            problem = "is left out: its name (or its mask's) is not valid UTF-8, or holds control characters"
            fix = "rename it with letters, digits, dots, dashes and underscores"
            notes.add("error", found.root / paths[0], "unusable-name", problem, fix)
        else:
            found.rows.append(
                {key: printable(value) if isinstance(value, str) else value for key, value in row.items()}
            )
    if notes.rows:
        found.attrs["findings"] = notes.rows


def _relative_names(files: list[Path], root: Path) -> list[str]:
    return [printable(Path(os.path.relpath(file, root)).as_posix()) for file in sorted(files)]


def _dataset_json(folder: Path) -> dict[str, Any]:
    """``name`` and ``pixel_size_mm`` of the file, where it has them."""
    file = folder / "dataset.json"
    if not file.is_file():
        return {}
    try:
        about = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); fix or remove it.") from error
    if not isinstance(about, dict):
        return {}
    if about.get("pixel_size_mm") is not None:
        _require_pixel_size(about["pixel_size_mm"], f"{file}: pixel_size_mm")
    if about.get("bit_depth") not in (None, *BIT_DEPTHS):
        listed = ", ".join(map(str, BIT_DEPTHS))
        raise ValueError(f"{file}: bit_depth is {about['bit_depth']!r}; give the camera's bits: {listed}.")
    if not isinstance(about.get("name", ""), str):
        raise ValueError(f"{file}: name is {about['name']!r}; give a text.")
    return about


def _require_pixel_size(value: Any, what: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"{what} is {value!r}; give the mm of one pixel as a number above 0, such as 0.05.")


def many_categories(path: Path, names: list[str], *, as_folder: bool = True) -> LayoutError:
    """The error that says which products there are to choose from."""
    how = f"give the path of one, such as {path / names[0]}, or " if as_folder else "give "
    what = f"{len(names)} categories" if len(names) > 1 else "1 category"
    message = f"{path} holds {what} ({', '.join(names)}); {how}category={names[0]!r} to read_dataset."
    return LayoutError(message, [{"category": name} for name in names])


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


def _recognised(path: Path, options: Mapping[str, Any]) -> str | None:
    """The first layout that a path has and that takes the options, else the one that they are for, else the first."""
    detected = []
    for key, known in LAYOUTS.items():
        if known.detect(path):
            if known.options.issuperset(options):
                return key
            detected.append(key)
    if "normal" in options and path.is_dir():
        from helpers.data.folders import masked_layout

        return masked_layout(path) if split_folders(path) else "classes"
    if {"image_dir", "mask_dir"} <= set(options):
        return "image_mask"
    return detected[0] if detected else None


def _unknown_layout(path: Path) -> LayoutError:
    from helpers.data.beside import hints_for, unread_photos

    hints = hints_for(path)
    lines = []
    for what, options in hints[:8]:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        lines.append(f"  {what}; try {given}\n")
    near = "Closest (arguments of read_dataset; LAYOUT, NORMAL, OPTIONS in notebook 01):\n" if lines else ""
    sketches = "\n".join(
        f"  {name}:\n" + "\n".join(f"    {line}" for line in known.sketch.splitlines())
        for name, known in LAYOUTS.items()
    )
    return LayoutError(
        f"{path} has no layout that is known. Found:\n{tree(path)}\n{near}{''.join(lines)}{unread_photos(path)}"
        f"Known layouts:\n{sketches}\nMove the photos into one of these, or list them in a table and read that.",
        [options for _, options in hints],
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
