"""Folders of photos by type, with or without split folders, and the masks that lie inside, among or beside them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.data.layouts import (
    DENIALS,
    NORMAL_NAMES,
    Found,
    LayoutError,
    child,
    files_in,
    folders_in,
    is_normal_name,
    pictures_in,
    split_folders,
    tree,
    word_for_defect,
    word_for_normal,
    words_in,
)
from helpers.data.masks import (
    MASK_WORDS,
    MaskFinder,
    are_all_masks,
    are_marked,
    masks_beside,
    stripped,
    united_mask,
)
from helpers.data.samples import NORMAL

_RESULT_WORDS = frozenset(
    words_in(
        "thumbnail thumbnails thumb thumbs result results output outputs prediction predictions heatmap "
        "heatmaps overlay overlays visualization visualizations visualisation visualisations preview previews "
        "visual visuals vis viz map maps debug"
    )
)  # in the name of a folder whose pictures are made from photos: it is no defect type
_PHOTO_FOLDERS = ("rgb", "imgs", "images", "img")

Normal = str | Sequence[str] | None


@dataclass
class _Inside:
    """Folders in one: those of types, those of masks, and those of one type's masks (``crack_mask``) by its words."""

    types: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    masks_of: dict[tuple[str, ...], Path] = field(default_factory=dict)


def _inside(parent: Path) -> _Inside:
    inside = _Inside()
    words = {entry: words_in(entry.name) for entry in folders_in(parent)}
    for entry, own in words.items():
        rest = stripped(own, MASK_WORDS)
        if (not rest or (rest != own and rest in words.values())) and are_all_masks(pictures_in(entry)):
            if rest:
                inside.masks_of[rest] = entry
            else:
                inside.masks.append(entry)
        elif not _RESULT_WORDS & set(own) or own[0] == "defect":
            inside.types.append(entry)
    # what is called ground_truth comes before label
    inside.masks.sort(key=lambda folder: "truth" not in folder.name.lower())
    return inside


def folder_name(defect_type: str) -> str:
    """A name for the folder of a defect type that no reader takes for anything else."""
    words = words_in(defect_type)
    result = words[:1] != ("defect",) and _RESULT_WORDS & set(words)
    other = result or is_normal_name(defect_type) or word_for_normal(defect_type)
    return f"defect_{defect_type}" if other else defect_type


# --------------------------------------------------------------------------------------------------------------- normal


def _short_names(folders: Iterable[Path]) -> dict[str, str]:
    """Names of folders, sorted, without what all begin with, such as ``MT_``."""
    names = sorted({folder.name for folder in folders})
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    prefix = common[: max(common.rfind("_"), common.rfind("-")) + 1]
    prefix = "" if DENIALS & set(words_in(prefix)) else prefix
    return {name: name.removeprefix(prefix) or name for name in names}


def _normal_names(folders: Iterable[Path], normal: Normal = None) -> dict[str, bool]:
    """Names (lower case) of the folders of normal photos, and whether that is a guess.

    It is one from the first or last word (``ok_front``), made where no folder is simply called good.
    """
    short = _short_names(folders)
    if normal is not None:
        wanted = {name.lower() for name in ([normal] if isinstance(normal, str) else normal)}
        return {name.lower(): False for name in short if {name.lower(), short[name].lower()} & wanted}
    certain = {name.lower(): False for name in short if is_normal_name(short[name]) or is_normal_name(name)}
    guessed = {name.lower(): True for name in short if word_for_normal(name)}
    return certain or (guessed if len(guessed) < len(short) else {})


def _type_names(
    found: Found, path: Path, folders: list[Path], normal: Normal, layout: str, *, needed: bool = True
) -> dict[str, str]:
    """Defect type of each folder by its name; findings where a name leaves a doubt.

    LayoutError where ``normal`` fits no folder or passes one over, or where a folder of normal photos is ``needed``.
    """
    short, normals = _short_names(folders), _normal_names(folders, normal)
    if normal is None and not normals and needed:
        raise LayoutError(
            f"{path} has no folder for normal photos among {', '.join(short) or 'none'}; name it "
            f"{', '.join(sorted(NORMAL_NAMES))}, say which it is with normal='FOLDER', or with normal='' that there is "
            f"none.\n{tree(path)}",
            hints=[{"layout": layout, "normal": name} for name in short],
        )
    if normal and not normals:
        raise LayoutError(f"{path} has no folder {normal!r} (normal=); it has: {', '.join(short) or 'none'}.")
    types = [name for name in short if name.lower() not in normals]
    for name in (name for name in short if normals.get(name.lower())):
        found.note("normal-by-word", path, name=name)
    for name in types:
        if normal is not None and is_normal_name(short[name]):
            raise LayoutError(f"{path} has the folder {name!r}, a name of normal photos, but normal={normal!r}.")
        if word_for_normal(name):
            found.note("normal-by-word:defect", path, name=name)
        if not stripped(words_in(name), MASK_WORDS) and name.lower() != "label":
            found.note("named-as-masks", path, name=name)
    if types:
        found.note("defect-types", path, names=", ".join(types))
    return {name: (short[name] if layout == "classes" else name) if name in types else NORMAL for name in short}


# ------------------------------------------------------------------------------------------------------- split folders


def _split_types(path: Path) -> list[tuple[str, Path]]:
    """Split and folder of every type."""
    return [(split, entry) for split, folder in split_folders(path).items() for entry in _inside(folder).types]


def _has_split_folders(path: Path) -> bool:
    """Whether train or test holds a folder of normal photos, or a test set of defects has masks."""
    types = [folder for _, folder in _split_types(path)]
    if _normal_names(types):
        return True
    return "test" in split_folders(path) and bool(types) and _ground_truth(path) is not None


def product_folders(path: Path) -> list[Path]:
    """Folders of products that each have split folders."""
    return [] if split_folders(path) else [entry for entry in folders_in(path) if _has_split_folders(entry)]


def _ground_truth(path: Path) -> Path | None:
    """Folder of masks that is called ground_truth: inside the category, or beside it with folders of its types."""
    names = ("ground_truth", "groundtruth")
    inside, beside = child(path, *names), child(path.parent, *names)
    if inside is not None or beside is None:
        return inside
    if (beside / path.name).is_dir():
        return beside / path.name
    test = split_folders(path).get("test")
    types = {entry.name.lower() for entry in folders_in(test)} if test else set()
    # the masks of a single category, whose folder holds photos only
    return beside if types & {entry.name.lower() for entry in folders_in(beside)} else None


def _has_masks(path: Path) -> bool:
    if _ground_truth(path) is not None or _inside(path).masks:
        return True
    splits = [_inside(folder) for folder in split_folders(path).values()]
    types = [entry for inside in splits for entry in inside.types]
    if any(inside.masks or inside.masks_of for inside in splits) or any(_inside(entry).masks for entry in types):
        return True
    return any(masks_beside(pictures_in(_photo_folder(entry))) for entry in types)


def masked_layout(path: Path) -> str:
    """Layout of split folders: with masks or without."""
    return "mvtec" if _has_masks(path) else "plain"


def has_mvtec(path: Path) -> bool:
    """Whether split folders hold types of photos, one of them normal, and there are masks."""
    products = [path] if _has_split_folders(path) else product_folders(path)
    return any(map(_has_masks, products))


def has_plain(path: Path) -> bool:
    """Whether split folders hold types of photos, one of them normal."""
    return _has_split_folders(path) or bool(product_folders(path))


def read_mvtec(found: Found, *, category: str | None = None, normal: Normal = None) -> None:
    """``train/<type>``, ``test/<type>`` and masks; ``category``: which product of a dataset with many.

    ``normal``: which folder holds the normal photos, or a list of several, upper and lower case alike; "" where none
    does, and then every photo is abnormal.
    """
    _read_split_folders(found, category, normal, with_masks=True)


def read_plain(found: Found, *, category: str | None = None, normal: Normal = None) -> None:
    """As `read_mvtec`, without masks."""
    _read_split_folders(found, category, normal, with_masks=False)


def many_categories(path: Path, names: list[str], *, as_folder: bool = True) -> LayoutError:
    """The error that says which products there are to choose from."""
    how = f"give the path of one, such as {path / names[0]}, or " if as_folder else "give "
    what = f"{len(names)} categories" if len(names) > 1 else "1 category"
    message = f"{path} holds {what} ({', '.join(names)}); {how}category={names[0]!r} to read_dataset."
    return LayoutError(message, [{"category": name} for name in names])


def _read_split_folders(found: Found, category: str | None, normal: Normal, *, with_masks: bool) -> None:
    path = found.path
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    categories = [entry.name for entry in product_folders(path)]
    if category is not None and category not in categories:
        choose = f"choose one of: {', '.join(categories)}" if categories else "it holds one product only"
        raise ValueError(f"{path} has no category {category!r}; {choose}.")
    if category is not None:
        path = path / category
    elif categories:
        raise many_categories(path, categories)
    truth = _ground_truth(path) if with_masks else None
    # a root that holds the masks too, so that no path leaves it
    found.root = path if truth is None or truth.is_relative_to(path) else path.parent
    found.published_split, found.name = True, path.name
    types = _split_types(path)
    # MAD-man and MAD-sys: a test set of defects with masks needs no normal photo
    needed = bool(types) and not ("test" in split_folders(path) and truth is not None)
    names = _type_names(found, path, [folder for _, folder in types], normal, "plain", needed=needed)
    roots = ([truth] if truth else []) + [folder for folder in _inside(path).masks if folder != truth]
    typed = [_type(folder, names[folder.name], split, roots, found) for split, folder in types]
    _read_types(found, typed, roots, with_masks)


# ------------------------------------------------------------------------------------------------------- class folders


def _class_base(path: Path) -> _Inside:
    """Folders of classes: in the dataset's, or in its ``images`` where that has a folder of good ones."""
    inside = _inside(path)
    images = next((entry for entry in inside.types if entry.name.lower() in _PHOTO_FOLDERS), None)
    if images is not None and not (path / "metadata.json").is_file() and _normal_names(_inside(images).types):
        below = _inside(images)
        return _Inside(below.types, [*below.masks, *inside.masks], below.masks_of)
    return inside


def has_classes(path: Path) -> bool:
    """Whether folders of photos, one of them normal, lie side by side."""
    if split_folders(path):
        return False
    inside = _class_base(path)
    if not (normals := _normal_names(inside.types)):
        return False
    with_photos = {folder.name.lower() for folder in inside.types if pictures_in(_photo_folder(folder))}
    return bool(with_photos & set(normals)) and bool(with_photos - set(normals))


def read_classes(found: Found, *, normal: Normal = None) -> None:
    """``<type>/*.jpg``; ``normal`` as `read_mvtec` says."""
    path = found.path
    if split_folders(path):
        folders = ", ".join(folder.name for folder in split_folders(path).values())
        raise LayoutError(f"{path} has folders of splits ({folders}), which are no classes; use layout='plain'.")
    inside = _class_base(path)
    folders = [folder for folder in inside.types if pictures_in(_photo_folder(folder))]
    names = _type_names(found, path, folders, normal, "classes")
    _read_types(found, [_type(folder, names[folder.name], "", inside.masks, found) for folder in folders], inside.masks)


def type_folders(path: Path) -> list[Path]:
    """Folders of photos that may be types, in the split folders where there are any."""
    types = [folder for _, folder in _split_types(path)] if split_folders(path) else _inside(path).types
    return [folder for folder in types if pictures_in(folder)]


# ----------------------------------------------------------------------------------------------------- photos and masks


@dataclass
class _Type:
    """Photos of one type in one split, and the folder of their masks (None: among the photos, if anywhere)."""

    name: str
    split: str
    folder: Path
    pictures: list[Path]
    masks: Path | None


def _photo_folder(folder: Path) -> Path:
    return child(folder, *_PHOTO_FOLDERS) or folder


def _type(folder: Path, name: str, split: str, roots: list[Path], found: Found) -> _Type:
    photo_folder = _photo_folder(folder)
    among = _inside(photo_folder).masks + (_inside(folder).masks if photo_folder != folder else [])
    pictures, ignored = files_in(photo_folder)
    found.ignored += ignored
    photos = [file for file in pictures if not any(file.is_relative_to(masks) for masks in among)]
    return _Type(name, split, photo_folder, photos, next(iter(among), None) or _masks_of(folder, name, split, roots))


def _masks_of(folder: Path, name: str, split: str, roots: list[Path]) -> Path | None:
    """Folder of the masks of a type."""
    inside = _inside(folder.parent)
    if (own := inside.masks_of.get(words_in(folder.name))) is not None:
        return own
    for root in [*inside.masks, *roots]:
        split_root = split_folders(root).get(split)
        places = [split_root] if split_root else []
        if split in ("test", "") or name != NORMAL or root in inside.masks:
            places.append(root)
        for place in places:
            if (named := child(place, folder.name.lower())) is not None:
                return named
            if not folders_in(place):
                return place
    return None


def _read_types(found: Found, types: list[_Type], roots: list[Path], with_masks: bool = True) -> None:
    """Rows of all photos with their masks; that of a normal photo is kept if it marks a pixel.

    The published masks are first those of test, and those in a folder without types are sooner a defect's.
    """
    _note_named_defects(types, found)
    beside = set(masks_beside([file for of in types if of.masks is None for file in of.pictures]))
    finders: dict[Path, MaskFinder] = {}
    together: dict[tuple[bool, bool, Path], dict[Path, Path]] = defaultdict(dict)
    for of in types:
        source = of.masks or of.folder
        if source not in finders:
            files, ignored = ([f for f in of.pictures if f in beside], []) if of.masks is None else files_in(source)
            finders[source] = MaskFinder(files, source)
            found.ignored += ignored
        for photo in (photo for photo in of.pictures if photo not in beside):
            order = (of.split not in ("test", ""), of.name == NORMAL, source)
            together[order][photo] = photo.relative_to(of.folder)
            row = {"image_path": str(photo), "mask_path": "", "label_index": int(of.name != NORMAL)}
            found.rows.append(row | {"defect_type": of.name, "split": of.split})
    if not with_masks:
        return
    pairs: dict[str, list[Path]] = {}
    for (_, _, source), photos in sorted(together.items(), key=lambda item: item[0][:2]):
        pairs |= {str(photo): masks for photo, masks in finders[source].pair(photos).items()}
    goods = [row["image_path"] for row in found.rows if not row["label_index"] and row["image_path"] in pairs]
    for path, marks in zip(goods, are_marked([pairs[path] for path in goods]), strict=True):
        if not marks:
            found.empty_masks += pairs.pop(path)
    for row in found.rows:
        path = row["image_path"]
        row["mask_path"] = united_mask(Path(path), pairs.get(path, []), found)
    for finder in finders.values():
        finder.finish(found)
    for root in roots:  # masks of types that have no photos
        lone = (file for file in pictures_in(root) if not any(file.is_relative_to(source) for source in finders))
        found.unused_masks.extend(lone)


def _note_named_defects(types: list[_Type], found: Found) -> None:
    """Errors for folders inside those of normal photos whose names are those of defects."""
    defects = {of.name.lower() for of in types if of.name != NORMAL}
    inside = Counter((of.folder, file.parent) for of in types if of.name == NORMAL for file in of.pictures)
    for (top, folder), count in inside.items():
        if any(part.lower() in defects or word_for_defect(part) for part in folder.relative_to(top).parts):
            found.note("defect-in-good", folder, n=count)
