"""Folders of photos by type, with or without split folders, and the masks that lie inside, among or beside them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.data.annotations import Notes, mask_folder
from helpers.data.formats import (
    DENIALS,
    NORMAL_NAMES,
    SPLIT_NAMES,
    Found,
    LayoutError,
    folders_in,
    images_in,
    is_normal_name,
    many_categories,
    split_folders,
    tree,
    word_for_defect,
    word_for_normal,
    words_in,
)
from helpers.data.image_masks import (
    MASK_WORDS,
    MaskFinder,
    are_marked,
    looks_like_mask,
    masks_beside,
    stripped,
    united_mask,
)
from helpers.data.samples import NORMAL

RESULT_WORDS = frozenset(
    words_in(
        "thumbnail thumbnails thumb thumbs result results output outputs prediction predictions heatmap "
        "heatmaps overlay overlays visualization visualizations visualisation visualisations preview previews "
        "visual visuals vis viz map maps debug"
    )
)
"""Words in the name of a folder whose pictures are made from photos: it is no defect type."""

_PHOTO_FOLDERS = ("rgb", "imgs", "images", "img")
_METADATA = "metadata.json"


@dataclass
class _Inside:
    """Folders in one: those of types, those of masks, and those of one type's masks (``crack_mask``) by its words."""

    types: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    masks_of: dict[tuple[str, ...], Path] = field(default_factory=dict)


def _inside(parent: Path) -> _Inside:
    inside = _Inside()
    entries = folders_in(parent)
    words = [words_in(entry.name) for entry in entries]
    for entry, own in zip(entries, words, strict=True):
        rest = stripped(own, MASK_WORDS)
        if (not rest or (rest != own and rest in words)) and _holds_masks(entry):
            if rest:
                inside.masks_of[rest] = entry
            else:
                inside.masks.append(entry)
        elif not RESULT_WORDS & set(own) or own[0] == "defect":
            inside.types.append(entry)
    # what is called ground_truth comes before label
    inside.masks.sort(key=lambda folder: "truth" not in folder.name.lower())
    return inside


def _holds_masks(folder: Path) -> bool:
    """Whether the first pictures look like masks: a defect may be called "label"."""
    pictures = images_in(folder, [])[:3]
    return bool(pictures) and all(looks_like_mask(picture) for picture in pictures)


def _child(folder: Path, name: str) -> Path | None:
    return next((entry for entry in folders_in(folder) if entry.name.lower() == name.lower()), None)


# --------------------------------------------------------------------------------------------------------------- normal


def _normal_folders(folders: Iterable[Path], normal: str | Sequence[str] | None) -> dict[str, str]:
    """Names (lower case) of the folders of normal photos, each with why: ``given``, ``name`` or ``word``.

    ``word`` is a guess from the first or last word (``ok_front``), made where no folder is simply called good.
    """
    names = sorted({folder.name for folder in folders})
    short = _short_names(names)
    if normal is not None:
        wanted = {name.lower() for name in ([normal] if isinstance(normal, str) else normal)}
        return {name.lower(): "given" for name in names if {name.lower(), short[name].lower()} & wanted}
    certain = {name.lower(): "name" for name in names if is_normal_name(short[name]) or is_normal_name(name)}
    guessed = {name.lower(): "word" for name in names if word_for_normal(name)}
    return certain or (guessed if len(guessed) < len(names) else {})


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without what all begin with, such as ``MT_``."""
    common = os.path.commonprefix(list(names)) if len(names) > 1 else ""
    prefix = common[: max(common.rfind("_"), common.rfind("-")) + 1]
    if DENIALS & set(words_in(prefix)):
        prefix = ""
    return {name: name.removeprefix(prefix) or name for name in names}


def _require_normal(
    path: Path, folders: list[Path], normals: dict[str, str], normal: str | Sequence[str] | None, layout: str
) -> None:
    names = sorted({folder.name for folder in folders})
    listed = ", ".join(names) or "none"
    if normal is None and not normals:
        raise LayoutError(
            f"{path} has no folder for normal photos among {listed}; name it {', '.join(sorted(NORMAL_NAMES))}, say "
            f"which it is with normal='FOLDER', or with normal='' that there is none.\n{tree(path)}",
            hints=[{"layout": layout, "normal": name} for name in names],
        )
    if normal is None:
        return
    if normal and not normals:
        raise LayoutError(f"{path} has no folder {normal!r} (normal=); it has: {listed}.")
    others = [name for name in names if is_normal_name(_short_names(names)[name]) and name.lower() not in normals]
    if others:
        raise LayoutError(f"{path} has the folder {others[0]!r}, a name of normal photos, but normal={normal!r}.")


# ------------------------------------------------------------------------------------------------------- split folders


def _split_types(path: Path) -> list[tuple[str, Path]]:
    """Split and folder of every type."""
    return [(split, entry) for split, folder in split_folders(path).items() for entry in _inside(folder).types]


def _has_split_folders(path: Path, normal: str | Sequence[str] | None = None) -> bool:
    """Whether train or test holds a folder of normal photos, or a test set of defects has masks."""
    splits = split_folders(path)
    types = [folder for _, folder in _split_types(path)]
    if _normal_folders(types, normal):
        return True
    return "test" in splits and bool(types) and _ground_truth(path) is not None


def product_folders(path: Path) -> list[Path]:
    """Folders of products that each have split folders."""
    return [] if split_folders(path) else [entry for entry in folders_in(path) if _has_split_folders(entry)]


def _ground_truth(path: Path) -> Path | None:
    """Folder of masks that is called ground_truth: inside the category, or beside it with folders of its types."""

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
    if _ground_truth(path) is not None or _inside(path).masks:
        return True
    for folder in split_folders(path).values():
        inside = _inside(folder)
        if inside.masks or inside.masks_of or any(_inside(entry).masks for entry in inside.types):
            return True
        if any(masks_beside(images_in(_photo_folder(entry), [])) for entry in inside.types):
            return True
    return False


def has_mvtec(path: Path) -> bool:
    """Whether split folders hold types of photos, one of them normal, and there are masks."""
    if not path.is_dir():
        return False
    if split_folders(path):
        return _has_split_folders(path) and _has_masks(path)
    return any(_has_masks(category) for category in product_folders(path))


def has_plain(path: Path) -> bool:
    """Whether split folders hold types of photos, one of them normal."""
    return path.is_dir() and (_has_split_folders(path) or bool(product_folders(path)))


def read_split_folders(
    path: Path,
    *,
    with_masks: bool,
    category: str | None = None,
    normal: str | Sequence[str] | None = None,
    mask_cache: str | Path | None = None,
) -> Found:
    """Read ``train/<type>``, ``test/<type>``, ...; reached through `helpers.read_dataset`.

    Raises:
        LayoutError: no folder is that of normal photos, and none is named.
        ValueError: several products, and no ``category``.
    """
    if not path.is_dir():
        raise LayoutError(f"{path} is a file; this layout is a folder.")
    categories = [entry.name for entry in product_folders(path)]
    if category is not None:
        if category not in categories:
            choose = f"choose one of: {', '.join(categories)}" if categories else "it holds one product only"
            raise ValueError(f"{path} has no category {category!r}; {choose}.")
        path = path / category
    elif categories:
        raise many_categories(path, categories)
    truth = _ground_truth(path) if with_masks else None
    # a root that holds the masks too, so that no path leaves it
    root = path if truth is None or truth.is_relative_to(path) else path.parent
    found = Found([], root, published_split=True, name=path.name)
    types = _split_types(path)
    normals = _normal_folders([folder for _, folder in types], normal)
    if (
        not normals
        and types
        and (normal is not None or "test" not in split_folders(path) or truth is None)
        or normal is not None
    ):
        _require_normal(path, [folder for _, folder in types], normals, normal, "plain")
    roots = ([truth] if truth else []) + [folder for folder in _inside(path).masks if folder != truth]
    reader = _Reader(found, roots, mask_folder(root, mask_cache), with_masks=with_masks)
    for split, folder in types:
        reader.add(folder, NORMAL if folder.name.lower() in normals else folder.name, split)
    reader.note_words(path, [folder for _, folder in types], normals)
    reader.finish()
    return found


# ------------------------------------------------------------------------------------------------------- class folders


def _class_base(path: Path) -> tuple[Path, _Inside]:
    """Folder that holds those of the classes: the dataset's, or its ``images`` where that has a folder of good ones."""
    inside = _inside(path)
    images = next((entry for entry in inside.types if entry.name.lower() in _PHOTO_FOLDERS), None)
    if images is not None and not (path / _METADATA).is_file() and _normal_folders(_inside(images).types, None):
        below = _inside(images)
        return images, _Inside(below.types, [*below.masks, *inside.masks], below.masks_of)
    return path, inside


def has_classes(path: Path) -> bool:
    """Whether folders of photos, one of them normal, lie side by side."""
    if not path.is_dir() or split_folders(path):
        return False
    _, inside = _class_base(path)
    normals = _normal_folders(inside.types, None)
    if not normals or len({folder.name.lower() for folder in inside.types}) < 2:
        return False
    with_photos = {folder.name.lower() for folder in inside.types if images_in(_photo_folder(folder), [])}
    return bool(with_photos & set(normals)) and bool(with_photos - set(normals))


def read_classes(
    path: Path, *, normal: str | Sequence[str] | None = None, mask_cache: str | Path | None = None
) -> Found:
    """Read ``<type>/*.jpg``; reached through `helpers.read_dataset`.

    Raises:
        LayoutError: no folder is that of normal photos, and none is named.
    """
    found = Found([], path, published_split=False, name=path.name)
    if path.is_dir() and split_folders(path):
        folders = ", ".join(folder.name for folder in split_folders(path).values())
        raise LayoutError(f"{path} has folders of splits ({folders}), which are no classes; use layout='plain'.")
    base, inside = _class_base(path) if path.is_dir() else (path, _Inside())
    folders = [folder for folder in inside.types if images_in(_photo_folder(folder), [])]
    normals = _normal_folders(folders, normal)
    _require_normal(base, folders, normals, normal, "classes")
    short = _short_names([folder.name for folder in folders])
    reader = _Reader(found, inside.masks, mask_folder(path, mask_cache))
    for folder in folders:
        defect_type = NORMAL if folder.name.lower() in normals else short[folder.name]
        reader.add(folder, defect_type, "")
    reader.note_words(path, folders, normals)
    reader.finish()
    return found


def _photo_folder(folder: Path) -> Path:
    return next((child for child in (_child(folder, name) for name in _PHOTO_FOLDERS) if child), folder)


def folder_name(defect_type: str) -> str:
    """A name for the folder of a defect type that no reader takes for anything else."""
    words = words_in(defect_type)
    result = words[:1] != ("defect",) and RESULT_WORDS & set(words)
    other = result or is_normal_name(defect_type) or word_for_normal(defect_type)
    return f"defect_{defect_type}" if other else defect_type


def type_folders(path: Path) -> list[Path]:
    """Folders of photos that may be types, in the split folders where there are any."""
    types = [folder for _, folder in _split_types(path)] if split_folders(path) else _inside(path).types
    return [folder for folder in types if images_in(folder, [])]


def masked_layout(path: Path) -> str:
    """Layout of split folders: with masks or without."""
    return "mvtec" if _has_masks(path) else "plain"


# ----------------------------------------------------------------------------------------------------- photos and masks


@dataclass
class _Type:
    """Photos of one type in one split, and the folder of their masks (None: among the photos, if anywhere)."""

    name: str
    split: str
    folder: Path
    pictures: list[Path]
    masks: Path | None


class _Reader:
    """Collects the photos of all types, then pairs them with the masks."""

    def __init__(self, found: Found, roots: list[Path], cache: Path, *, with_masks: bool = True) -> None:
        self.found, self.roots, self.cache, self.with_masks = found, roots, cache, with_masks
        self.notes = Notes(found.root)
        found.attrs["findings"] = self.notes.rows
        self._types: list[_Type] = []

    def add(self, folder: Path, defect_type: str, split: str) -> None:
        photo_folder = _photo_folder(folder)
        among = _inside(photo_folder).masks + (_inside(folder).masks if photo_folder != folder else [])
        pictures = [
            file
            for file in images_in(photo_folder, self.found.ignored)
            if not any(file.is_relative_to(masks) for masks in among)
        ]
        source = next(iter(among), None) or self._source(folder, defect_type, split)
        self._types.append(_Type(defect_type, split, photo_folder, pictures, source))

    def _source(self, folder: Path, defect_type: str, split: str) -> Path | None:
        """Folder of the masks of a type."""
        inside = _inside(folder.parent)
        own = inside.masks_of.get(words_in(folder.name))
        if own is not None:
            return own
        for root in [*inside.masks, *self.roots]:
            split_root = next(
                (entry for entry in folders_in(root) if split and SPLIT_NAMES.get(entry.name.lower()) == split), None
            )
            places = [split_root] if split_root else []
            if split in ("test", "") or defect_type != NORMAL or root in inside.masks:
                places.append(root)
            for place in places:
                named = _child(place, folder.name)
                if named is not None:
                    return named
                if not folders_in(place):
                    return place
        return None

    def finish(self) -> None:
        """Rows of all photos with their masks; that of a normal photo is kept if it marks a pixel.

        The published masks are first those of test, and those in a folder without types are sooner a defect's.
        """
        self._note_named_defects()
        beside = set(masks_beside([file for of in self._types if of.masks is None for file in of.pictures]))
        finders: dict[Path, MaskFinder] = {}
        together: dict[tuple[bool, bool, Path], dict[Path, Path]] = defaultdict(dict)
        for of in self._types:
            source = of.masks or of.folder
            if source not in finders:
                files = (
                    [f for f in of.pictures if f in beside]
                    if of.masks is None
                    else images_in(source, self.found.ignored)
                )
                finders[source] = MaskFinder(files, source)
            for photo in of.pictures:
                if photo not in beside:
                    order = (of.split not in ("test", ""), of.name == NORMAL, source)
                    together[order][photo] = photo.relative_to(of.folder)
                    abnormal = int(of.name != NORMAL)
                    row = {"image_path": str(photo), "mask_path": "", "label_index": abnormal, "defect_type": of.name}
                    self.found.rows.append({**row, "split": of.split})
        if not self.with_masks:
            return
        pairs: dict[str, list[Path]] = {}
        for (_, _, source), photos in sorted(together.items(), key=lambda item: item[0][:2]):
            pairs |= {str(photo): masks for photo, masks in finders[source].pair(photos).items()}
        goods = [row["image_path"] for row in self.found.rows if not row["label_index"] and row["image_path"] in pairs]
        empty = {
            path for path, marks in zip(goods, are_marked([pairs[path] for path in goods]), strict=True) if not marks
        }
        self.found.empty_masks = [mask for path in empty for mask in pairs[path]]
        for row in self.found.rows:
            path = row["image_path"]
            if path in pairs and path not in empty:
                row["mask_path"] = united_mask(Path(path), pairs[path], self.found, self.cache)
        for finder in finders.values():
            finder.note_guesses(self.notes)
            self.found.unused_masks.extend(finder.unused())
        for root in self.roots:  # masks of types that have no photos
            files = images_in(root, [])
            self.found.unused_masks.extend(f for f in files if not any(f.is_relative_to(source) for source in finders))

    def _note_named_defects(self) -> None:
        """Errors for folders inside those of normal photos whose names are those of defects."""
        types = {of.name.lower() for of in self._types if of.name != NORMAL}
        normal = [of for of in self._types if of.name == NORMAL]
        inside = Counter((of.folder, file.parent) for of in normal for file in of.pictures)
        for (top, folder), count in inside.items():
            if any(part.lower() in types or word_for_defect(part) for part in folder.relative_to(top).parts):
                problem = f"{count} photo(s) lie in a folder of normal photos, in one that is called as a defect is"
                fix = "move it out, beside that of the normal photos, or give it another name"
                self.notes.add("error", folder, "defect-in-good", problem, fix)

    def note_words(self, path: Path, folders: list[Path], normals: dict[str, str]) -> None:
        """Say which folders are what, where a name leaves a doubt."""
        names = sorted({folder.name for folder in folders})
        guessed = [name for name in names if normals.get(name.lower()) == "word"]
        doubtful = [name for name in names if name.lower() not in normals and word_for_normal(name)]
        for name in guessed:
            self.notes.add(
                "warning",
                path,
                "normal-by-word",
                f"the folder {name!r} counts as that of normal photos by a word in its name",
                f"check it, and say so with normal={name!r}",
            )
        for name in doubtful:
            self.notes.add(
                "warning",
                path,
                "normal-by-word",
                f"the folder {name!r} has a word for normal photos in its name but counts as a defect",
                "rename it, or name the folders of normal photos with normal=[...]",
            )
        types = sorted({name for name in names if name.lower() not in normals})
        for name in types:
            if not stripped(words_in(name), MASK_WORDS) and name.lower() != "label":
                self.notes.add(
                    "warning",
                    path,
                    "named-as-masks",
                    f"the folder {name!r} counts as a defect type: its name is that of masks, its pictures are none",
                    "rename it if it is a type, or move it out of the dataset",
                )
        if types:
            self.notes.add(
                "info",
                path,
                "defect-types",
                f"folders read as defect types: {', '.join(types)}",
                "nothing, if that is what they are",
            )
