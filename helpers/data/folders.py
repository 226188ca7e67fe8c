"""Folders of photos by type, with or without split folders, and the masks that lie inside, among or beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers.data.layouts import (
    DENIALS,
    NORMAL_NAMES,
    Found,
    LayoutError,
    child,
    folders_in,
    is_normal,
    meaning,
    pictures_in,
    split_folders,
    tree,
    words_in,
)
from helpers.data.masks import MASK_WORDS, MaskFinder, are_all_masks, are_marked, masks_beside, stripped, united_mask
from helpers.data.samples import NORMAL

_RESULT_WORDS = frozenset(
    words_in(
        "thumbnail thumbnails thumb thumbs result results output outputs prediction predictions heatmap heatmaps debug "
        "overlay overlays visualization visualizations visualisation visualisations preview previews visual visuals "
        "vis viz map maps"
    )
)  # in the name of a folder whose pictures are made from photos: it is no defect type
_PHOTO_FOLDERS = ("rgb", "imgs", "images", "img")

Normal = str | Sequence[str] | None


def folder_name(defect_type: str) -> str:
    """A name for the folder of a defect type that no reader takes for anything else."""
    taken = _is_result(words_in(defect_type)) or meaning(defect_type) in ("normal", "perhaps")
    return f"defect_{defect_type}" if taken else defect_type


def _is_result(words: tuple[str, ...]) -> bool:
    return words[:1] != ("defect",) and not _RESULT_WORDS.isdisjoint(words)


def _inside(parent: Path) -> tuple[list[Path], dict[Path, tuple[str, ...]]]:
    """Folders of types in one, and those of masks with the words of the type that they are for (``crack_mask``)."""
    types, masks = [], {}
    words = {entry: words_in(entry.name) for entry in folders_in(parent)}
    for entry, own in sorted(words.items(), key=lambda item: ("truth" not in item[0].name.lower(), item[0])):
        rest = stripped(own, MASK_WORDS)
        if (not rest or (rest != own and rest in words.values())) and are_all_masks(pictures_in(entry)):
            masks[entry] = rest
        elif not _is_result(own):
            types.append(entry)
    return types, masks


def _masks_in(parent: Path) -> list[Path]:
    """Folders of masks of any type in one."""
    return [folder for folder, words in _inside(parent)[1].items() if not words]


def _tops(path: Path) -> dict[str, Path]:
    """Folders that hold those of types, by split: split folders, ``images`` if it has one of good photos, or itself."""
    if splits := split_folders(path):
        return splits
    images = next((entry for entry in _inside(path)[0] if entry.name.lower() in _PHOTO_FOLDERS), None)
    beside = images is None or (path / "metadata.json").is_file() or not _normal_names(_inside(images)[0])
    return {"": path if beside else images}


def _types(path: Path) -> list[tuple[str, Path]]:
    """Split and folder of every type."""
    return [(split, entry) for split, top in _tops(path).items() for entry in _inside(top)[0]]


def _photo_folder(folder: Path) -> Path:
    return child(folder, *_PHOTO_FOLDERS) or folder


def has_split_folders(path: Path) -> bool:
    """Whether split folders hold types of photos, one of them normal, here or in folders of products."""
    return _is_product(path) or bool(product_folders(path))


def product_folders(path: Path) -> list[Path]:
    return [] if split_folders(path) else [entry for entry in folders_in(path) if _is_product(entry)]


def _is_product(path: Path) -> bool:
    """Whether train or test holds a folder of normal photos, or a test set of defects has masks."""
    types = [folder for _, folder in _types(path)] if split_folders(path) else []
    return bool(_normal_names(types)) or (bool(types) and _is_test_of_defects(path))


def _is_test_of_defects(path: Path) -> bool:
    """MAD-man and MAD-sys have no normal photo: they are for models trained on others."""
    return "test" in split_folders(path) and _ground_truth(path) is not None


def has_classes(path: Path) -> bool:
    """Whether folders of photos, one of them normal, lie side by side."""
    types = [] if split_folders(path) else [each for _, each in _types(path) if pictures_in(_photo_folder(each))]
    return _normal_names(types) not in (set(), {folder.name for folder in types})


def _ground_truth(path: Path) -> Path | None:
    """Folder of masks that is called ground_truth: inside the category, or beside it with folders of its types."""
    inside, beside = (child(folder, "ground_truth", "groundtruth") for folder in (path, path.parent))
    if inside is not None or beside is None:
        return inside
    if (beside / path.name).is_dir():
        return beside / path.name
    types = {entry.name for entry in folders_in(split_folders(path).get("test", path / "test"))}
    # the masks of a single category, whose folder holds photos only
    return beside if types & {entry.name for entry in folders_in(beside)} else None


# --------------------------------------------------------------------------------------------------------------- normal


def _short_names(folders: Iterable[Path]) -> dict[str, str]:
    """Names of folders, sorted, without what all begin with, such as ``MT_``."""
    names = sorted({folder.name for folder in folders})
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    prefix = common[: max(common.rfind("_"), common.rfind("-")) + 1]
    prefix = "" if DENIALS & set(words_in(prefix)) else prefix
    return {name: name.removeprefix(prefix) or name for name in names}


def _normal_names(folders: Iterable[Path], normal: Normal = None) -> set[str]:
    """Names of the folders of normal photos: simply called so, else with a word for them (``ok_front``), not all."""
    short = _short_names(folders)
    if normal is not None:
        wanted = {name.lower() for name in ([normal] if isinstance(normal, str) else normal)}
        return {name for name in short if {name.lower(), short[name].lower()} & wanted}
    certain = {name for name in short if is_normal(short[name]) or is_normal(name)}
    guessed = {name for name in short if meaning(name) == "perhaps"}
    return certain or (guessed if len(guessed) < len(short) else set())


def _type_names(found: Found, path: Path, folders: list[Path], normal: Normal, *, needed: bool) -> dict[str, str]:
    """Defect type of each folder by its name; findings where a name leaves a doubt.

    LayoutError where ``normal`` fits no folder or passes one over, or where a folder of normal photos is ``needed``.
    """
    short, normals = _short_names(folders), _normal_names(folders, normal)
    listed = ", ".join(short) or "none"
    if normal is None and not normals and needed:
        raise LayoutError(
            f"{path} has no folder for normal photos among {listed}; name it {', '.join(sorted(NORMAL_NAMES))}, say "
            f"which it is with normal='FOLDER', or with normal='' that there is none.\n{tree(path)}",
            hints=[{"layout": "mvtec" if split_folders(path) else "classes", "normal": name} for name in short],
        )
    if normal and not normals:
        raise LayoutError(f"{path} has no folder {normal!r} (normal=); it has: {listed}.")
    for name in short:
        if name not in normals and normal is not None and is_normal(short[name]):
            raise LayoutError(f"{path} has the folder {name!r}, a name of normal photos, but normal={normal!r}.")
        if meaning(name) == "perhaps" and name not in normals:
            found.note("normal-by-word:defect", path, name=name)
        elif meaning(name) == "perhaps" and normal is None and not is_normal(short[name]):
            found.note("normal-by-word", path, name=name)
        if name not in normals and not stripped(words_in(name), MASK_WORDS) and name.lower() != "label":
            found.note("named-as-masks", path, name=name)
    types = {name: name if split_folders(path) else short[name] for name in short if name not in normals}
    if types:
        found.note("defect-types", path, names=", ".join(types))
    found.good_folders = {folder for folder in folders if folder.name in normals}
    return dict.fromkeys(normals, NORMAL) | types


# -------------------------------------------------------------------------------------------------------------- readers


def many_categories(path: Path, names: list[str], *, as_folder: bool = True) -> LayoutError:
    """The error that says which products there are to choose from."""
    how = f"category={names[0]!r} to read_dataset" + (f", or the path {path / names[0]}" if as_folder else "")
    message = f"{path} holds {len(names)} product(s): {', '.join(names)}; give {how}."
    return LayoutError(message, [{"category": name} for name in names])


def read_folders(found: Found, *, category: str | None = None, normal: Normal = None, with_masks: bool = True) -> None:
    """``train/<type>``, ``test/<type>`` or ``<type>``, and masks; ``category``: which product of a dataset with many.

    ``normal``: which folder holds the normal photos, or a list of several, upper and lower case alike; "" where none
    does, and then every photo is abnormal.
    """
    path = found.path
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    categories = [entry.name for entry in product_folders(path)]
    if category is not None and category not in categories:
        raise ValueError(f"{path} has no category {category!r}; choose one of: {', '.join(categories) or 'none'}.")
    if category is not None:
        path = path / category
    elif categories:
        raise many_categories(path, categories)
    splits = split_folders(path)
    truth = _ground_truth(path) if splits and with_masks else None
    # a root that holds the masks too, so that no path leaves it
    found.root = path if truth is None or truth.is_relative_to(path) else path.parent
    found.name, found.published_split = path.name, bool(splits)
    types = [(split, folder) for split, folder in _types(path) if splits or pictures_in(_photo_folder(folder))]
    needed = not splits or (bool(types) and not _is_test_of_defects(path))
    names = _type_names(found, path, [folder for _, folder in types], normal, needed=needed)
    roots = [truth] * (truth is not None) + [masks for masks in _masks_in(path) if masks != truth]
    _read_types(found, [(split, folder, names[folder.name]) for split, folder in types], roots, with_masks)
    has_masks = any(row["mask_path"] for row in found.rows) or found.unused_masks
    found.attrs["layout"] = "classes" if not splits else "mvtec" if has_masks else "plain"


def _masks_of(folder: Path, name: str, split: str, roots: list[Path]) -> Path | None:
    """Folder of the masks of a type, beside its folder or elsewhere."""
    inside = _inside(folder.parent)[1]
    own = (masks for masks, words in inside.items() if words and words == words_in(folder.name))
    if (first := next(own, None)) is not None:
        return first
    for root in [*_masks_in(folder.parent), *roots]:
        places = [place for of, place in split_folders(root).items() if of == split]
        if split in ("test", "") or name != NORMAL or root in inside:
            places.append(root)
        for place in places:
            if (named := child(place, folder.name.lower())) is not None:
                return named
            if not folders_in(place):
                return place
    return None


def _read_types(found: Found, types: list[tuple[str, Path, str]], roots: list[Path], with_masks: bool) -> None:
    """Rows of all photos, by split, folder and type, with their masks; a normal photo's is kept if it marks a pixel.

    The published masks are first those of test, and those in a folder without types are sooner a defect's.
    """
    read = []
    for split, folder, name in types:
        place = _photo_folder(folder)
        inner = [*_masks_in(place), *_masks_in(folder)]
        photos = [file for file in pictures_in(place) if not any(file.is_relative_to(masks) for masks in inner)]
        read.append((split, name, place, photos, inner[0] if inner else _masks_of(folder, name, split, roots)))
    beside = set(masks_beside([photo for *_, photos, masks in read if masks is None for photo in photos]))
    finders: dict[Path, MaskFinder] = {}
    together: dict[tuple[bool, bool, Path], dict[Path, Path]] = defaultdict(dict)
    for split, name, place, photos, masks in read:
        source = masks or place
        if source not in finders:
            files = pictures_in(masks) if masks else [photo for photo in photos if photo in beside]
            finders[source] = MaskFinder(files, source)
        for photo in (photo for photo in photos if photo not in beside):
            together[split not in ("test", ""), name == NORMAL, source][photo] = photo.relative_to(place)
            row = {"image_path": str(photo), "mask_path": "", "label_index": int(name != NORMAL)}
            found.rows.append(row | {"defect_type": name, "split": split})
    if not with_masks:
        return
    pairs: dict[str, list[Path]] = {}
    for (_, _, source), those in sorted(together.items(), key=lambda item: item[0][:2]):
        pairs |= {str(photo): masks for photo, masks in finders[source].pair(those).items()}
    goods = [row["image_path"] for row in found.rows if not row["label_index"] and row["image_path"] in pairs]
    for path, marks in zip(goods, are_marked([pairs[path] for path in goods]), strict=True):
        if not marks:
            found.empty_masks += pairs.pop(path)
    for row in found.rows:
        row["mask_path"] = united_mask(Path(row["image_path"]), pairs.get(row["image_path"], []), found)
    for finder in finders.values():
        finder.finish(found)
    for root in roots:  # masks of types that have no photos
        lone = (file for file in pictures_in(root) if not any(file.is_relative_to(source) for source in finders))
        found.unused_masks.extend(lone)
