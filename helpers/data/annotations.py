"""What the readers of annotations share: text of files, which file is whose, splits, and objects that become rows."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers.analysis.regions import Drawn
from helpers.data.images import IMAGE_SUFFIXES
from helpers.data.layouts import Found, LayoutError, files_in, first_names, is_normal, tree
from helpers.data.masks import PHOTO_WORDS
from helpers.data.names import SPLIT_NAMES, folded, match_names, split_in
from helpers.progress import progress

_KINDS = {
    "labelme": (".json", rb'"shapes"'),
    "coco": (".json", rb'(?s)\A(?=.*"images")(?=.*"annotations")'),
    "voc": (".xml", rb"<annotation"),
    "yolo": (".txt", rb"\A\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*(\n|\r|$)"),
}
"""Suffix and content of the files of a layout."""

_FOLDER_WORDS = PHOTO_WORDS | {"labels", "label", "annotations", "annotation", "json", "xml"}
_ASKED = 100  # files of a folder that are asked what they are: the first may be of normal photos, and empty


class Content(NamedTuple):
    """What a file says of a photo: of each object where it stands, its name and how it is drawn on a photo of a size
    (H, W); and, where it does, the size and the name of the photo.
    """

    objects: Iterable[tuple[str, str, Callable[[tuple[int, int]], Drawn]]]
    size: tuple[int, int] | None = None
    name: str = ""


class Photo(NamedTuple):
    """A photo, its split, its objects by name, and its file, if it has one."""

    path: Path
    split: str
    objects: list[tuple[str, Drawn]]
    file: Path | None


# ---------------------------------------------------------------------------------------------------------------- files


def read_text(file: Path, encoding: str | None = None) -> str:
    """Text of a file: as ``encoding`` or its XML declaration says, else UTF-8, or UTF-16 with its mark."""
    try:
        data = file.read_bytes()
        declared = re.match(rb"[^<]{0,3}<\?xml[^>]*encoding=[\"'](?!utf)([\w.-]+)", data[:200], re.IGNORECASE)
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = encoding or (declared.group(1).decode() if declared else "utf-16" if marked else "utf-8-sig")
        return data.decode(encoding)
    except OSError as error:
        raise LayoutError(f"{file} cannot be read ({error.strerror}); check who may read it.") from None
    except (UnicodeDecodeError, LookupError):
        fix = "name its encoding, such as encoding='gb18030', or convert it to UTF-8 with iconv"
        raise LayoutError(f"{file} is not encoded as {encoding}; {fix}.") from None


def read_json(file: Path, encoding: str | None = None) -> Any:
    text = read_text(file, encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits too
        raise LayoutError(f"{file} is not valid JSON ({error}); export it again.") from None


def known_id(value: Any) -> str:
    """An id as text, so that "1", "01", 1 and 1.0 are one; "" for what is none."""
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    return re.sub(r"^([+-]?)0*(\d+)(\.0+)?$", r"\1\2", str(value).strip())


def known_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(H, W) of whole numbers above 0, or None: some tools write zeros for a size they do not know."""
    try:
        size = int(height), int(width)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def annotation_kind(file: Path) -> str:
    """Layout that a file's content belongs to, or ""."""
    kinds = {kind: content for kind, (suffix, content) in _KINDS.items() if suffix == file.suffix.lower()}
    if not kinds or not file.is_file():  # to read a pipe would never end
        return ""
    try:
        data = file.read_bytes().replace(b"\0", b"")  # UTF-16 then reads like ASCII
    except OSError:
        return ""
    return next((kind for kind, content in kinds.items() if re.search(content, data)), "")


def has_files(path: Path, kind: str) -> bool:
    """Whether files of a kind lie in the places of photos, or (not YOLO's, nor beside masks) anywhere."""
    if not path.is_dir():
        return False
    photos, others = files_in(path)
    places = {_place(photo, path) for photo in photos}
    in_place = kind == "yolo" or any(folded(photo.parent.name) in ("mask", "masks", "gt") for photo in photos)
    asked: dict[Path, list[Path]] = defaultdict(list)
    for file in others:
        if file.suffix.lower() == _KINDS[kind][0] and (not in_place or _place(file, path) in places):
            asked[file.parent].append(file)
    return any(annotation_kind(file) == kind for files in asked.values() for file in files[:_ASKED])


# ------------------------------------------------------------------------------------------------------ photos and rows


def read_files(
    found: Found, kind: str, parse: Callable[[Path], Content], split_folders: Mapping[Path, str] | None = None
) -> Iterator[Photo]:
    """Photos of a folder in which each has a file of its own, which ``parse`` reads or raises LayoutError.

    Photos without a file come too if they lie beside others, in the dataset's own folder or in one called as good ones
    are; elsewhere (masks, previews) they are left out. ``split_folders``: with their split, where their names say none.
    """
    root = found.path
    photos, others = files_in(root)
    places = {_place(photo, root) for photo in photos}
    contents: dict[Path, Content] = {}
    for file in (file for file in others if file.suffix.lower() == _KINDS[kind][0] and file.is_file()):
        if _place(file, root) in places or annotation_kind(file) == kind:
            try:
                contents[file] = parse(file)
            except LayoutError as error:
                drawn = Drawn(None, "invalid-annotation", f"cannot be used: {error}")
                contents[file] = Content([("content", "", lambda size, drawn=drawn: drawn)])
    pairs, left_out = _pair_files(contents, photos, found)
    if not pairs:
        raise LayoutError(f"{root} has no {kind} file that goes with a photo.\n{found.summary()}\n{tree(root)}")
    folders = {photo.parent for photo in pairs} | {root}
    rest = [photo for photo in photos if photo not in left_out]
    kept = [p for p in rest if p in pairs or p.parent in folders or is_normal(p.parent.name)]
    note_unknown(set(rest) - set(kept), found)
    splits = _splits(kept, others, found, split_folders or {})
    for photo in progress([photo for photo in kept if photo in splits], "Reading annotations"):
        file = pairs.get(photo)
        drawn = draw_objects(found, photo, contents[file], file) if file else (None, [])
        if drawn is not None:
            yield Photo(photo, splits[photo], drawn[1], file)


def draw_objects(
    found: Found, photo: Path, content: Content, file: Path
) -> tuple[tuple[int, int], list[tuple[str, Drawn]]] | None:
    """Size and objects of a photo, with findings for what is wrong; None after one if it cannot be used."""
    size = found.photo_size(photo, content.size, file)
    if size is None:
        return None
    objects = []
    for where, name, draw in content.objects:
        drawn = draw(size)
        if not name and not drawn.lost:
            drawn = Drawn(None, "unknown-category", "has no name, or a class that has none")
        found.note_drawn(drawn, photo, f"{where} of {file.name}")
        objects.append((name, drawn))
    return size, objects


def add_rows(found: Found, photos: Iterable[Photo], *, boxes_as_masks: bool = False, largest: bool = False) -> None:
    """Rows of photos by their objects (see `Found.add_row`); without a file they are normal. A box is no outline."""
    bare, n_boxed = [], 0
    for path, split, read, file in photos:
        objects = [(name, drawn.region) for name, drawn in read if not drawn.lost]
        boxed = any(drawn.box for name, drawn in read if not drawn.lost and not is_normal(name))
        masks, lost = boxes_as_masks or not boxed, len(read) - len(objects)
        found.add_row(path, objects, lost=lost, masks=masks, largest=largest, split=split)
        n_boxed += boxed
        bare += [path] * (file is None)
    if n_boxed:
        found.note("boxes-as-masks" if boxes_as_masks else "boxes-only", found.path, n=n_boxed)
    if bare:
        found.note("photos-not-annotated:normal", found.path, n=len(bare), first=first_names(bare))


def note_unknown(photos: Iterable[Path], found: Found) -> None:
    """A finding for each folder of photos that are left out, since nothing says whether they are normal."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for photo in sorted(photos):
        by_folder[photo.parent].append(photo)
    for folder, files in by_folder.items():
        found.note("photos-not-annotated", folder, n=len(files), first=first_names(files, 3))


# ------------------------------------------------------------------------------------------------- which file is whose


def _stem(path: Path) -> str:
    """Name without suffixes: a.png.txt may be the label of a.png."""
    inner = Path(path.stem)
    return folded(inner.stem if inner.suffix.lower() in IMAGE_SUFFIXES else path.stem)


def _place(path: Path, root: Path) -> tuple[str, ...]:
    """Folders and stem without words for photos and annotations: of labels/train/a.txt as of images/train/a.png."""
    folders = map(folded, path.relative_to(root).parts[:-1])
    return (*(folder for folder in folders if folder not in _FOLDER_WORDS), _stem(path))


def _pair_files(
    contents: Mapping[Path, Content], photos: Sequence[Path], found: Found
) -> tuple[dict[Path, Path], set[Path]]:
    """The file of each photo, and photos left out: what is said of them is not known.

    A file is that of the photo in its place, else of the one that it names, else, where no photos lie in its folder's
    place, of the only one of its stem in folders below (those of classes).
    """
    root = found.path
    places, stems = defaultdict(list), defaultdict(list)
    for photo in photos:
        places[_place(photo, root)].append(photo)
        stems[_stem(photo)].append(photo)
    photo_folders = {place[:-1] for place in places}

    def below(file: Path) -> list[Path]:
        *folder, _ = _place(file, root)
        those = [] if tuple(folder) in photo_folders else stems.get(_stem(file), [])
        return [photo for photo in those if list(_place(photo, root)[: len(folder)]) == folder]

    written = {file: _from_root(content.name, file, root) for file, content in contents.items() if content.name}
    by_place = {file: places.get(_place(file, root), []) for file in contents}
    named, refused = match_names((name for file, name in written.items() if not by_place[file]), photos, root)
    claims, left_out, strays = defaultdict(list), set(), set()
    for file, there in by_place.items():
        name = written.get(file, "")
        alike = [photo for photo in there if photo.parent == file.parent] or there
        alike = alike or ([named[name]] if name in named else refused.get(name) or below(file))
        if len(alike) > 1 and name:
            alike = list(match_names([name], alike, root)[0].values()) or alike
        if not alike:
            found.note("missing-photo", file, name=name or file.stem)
            strays.add(_stem(file))
        elif len(alike) > 1:
            found.note_ambiguous(file, name or file.stem, alike)
            left_out.update(alike)
        else:
            claims[alike[0]].append(file)
    for photo, files in claims.items():
        if len(files) > 1:
            found.note("photo-listed-twice", photo, names=", ".join(map(found.relative, files[:3])))
            left_out.add(photo)
    annotated = {_place(photo, root) for photo in claims}
    for photo in (photo for photo in photos if photo not in claims and photo not in left_out):
        twin = _place(photo, root) in annotated
        if twin:
            found.note("photo-left-out:twin", photo)
        if twin or _stem(photo) in strays:  # it may have been moved
            left_out.add(photo)
    return {photo: files[0] for photo, files in claims.items() if photo not in left_out}, left_out


def _from_root(name: str, file: Path, root: Path) -> str:
    name = name.replace("\\", "/")
    absolute = name.startswith("/") or name[1:2] == ":" or "://" in name
    return name if absolute else f"{file.parent.relative_to(root).as_posix()}/{name}"


# --------------------------------------------------------------------------------------------------------------- splits


def _splits(photos: list[Path], others: list[Path], found: Found, split_folders: Mapping[Path, str]) -> dict[Path, str]:
    """Split of each photo by its folders, else by lists of names; without both everybody has the split "".

    Lists lie in ``ImageSets/Main``, another folder of ``ImageSets``, or the dataset's own. Photos in no list, or in
    two, have none, with a finding.
    """
    root = found.path
    splits = {photo: split_in(photo, root) for photo in photos}
    for folder, split in split_folders.items():
        splits |= {photo: split for photo in photos if not splits[photo] and photo.is_relative_to(folder)}
    texts = [file for file in others if file.suffix.lower() == ".txt"]
    texts = [file for file in texts if file.stem.lower() in (*SPLIT_NAMES, "trainval")]
    folders = {f.parent for f in texts if f.parent == root or "imagesets" in map(str.lower, f.relative_to(root).parts)}
    if any(splits.values()) or not folders:
        return splits
    folder = min(folders, key=lambda folder: (folder == root, folder.name.lower() != "main", folder))
    lists = {SPLIT_NAMES.get(file.stem.lower(), "trainval"): file for file in texts if file.parent == folder}
    both = lists.pop("trainval", None)
    if both and not {"train", "val"} & lists.keys():
        lists["train"] = both
    listed: dict[Path, set[str]] = defaultdict(set)
    for split, file in lists.items():
        # some tools write the name of the XML file behind that of the photo
        lines = [re.sub(r"\s+\S+\.xml$", "", line.strip()) for line in read_text(file).splitlines() if line.strip()]
        named, refused = match_names(lines, photos, root, sorted({photo.parent for photo in photos}), suffix=False)
        missing = [line for line in lines if line not in named]  # or not to be told from others
        if missing:
            found.note("missing-photo:listed", file, n=len(missing), first=", ".join(missing[:3]))
        for photo in named.values():
            listed[photo].add(split)
    for photo in (photo for photo, of in listed.items() if len(of) > 1):
        found.note("split-contradiction", photo, splits=" and ".join(sorted(listed[photo])))
    if not listed:
        return splits
    unlisted = [photo for photo in photos if photo not in listed]
    if unlisted:
        found.note("photos-not-in-lists", folder, n=len(unlisted), first=unlisted[0].name)
    return {photo: of.pop() for photo, of in listed.items() if len(of) == 1}
