"""Photos whose class is in their file name or in Pascal VOC files of boxes, such as those of NEU, as a sample table.

A VOC file (Everingham et al., "The Pascal Visual Object Classes Challenge", 2010) lies beside its photo or in a folder
beside that of the photos, and has the stem of its photo. Its boxes count from 1 and hold their last column and row. A
box is no outline: most of what it holds may be sound, so photos get masks only on request, and pixel results on them
say how well boxes are met.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pycocotools import mask as coco_mask

from helpers.data.annotations import (
    AnnotationError,
    Notes,
    cached_mask,
    draw_box,
    draw_polygon,
    is_published,
    mask_folder,
    photo_size,
    read_text,
    require_encoding,
    united,
)
from helpers.data.formats import NORMAL_NAMES, Found, LayoutError, folders_in, images_in, split_folders, tree
from helpers.data.images import IMAGE_SUFFIXES, files_below
from helpers.data.layouts import match_names
from helpers.data.samples import NORMAL
from helpers.progress import progress

CLASS_SOURCES = ("auto", "name", "objects")

_IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img")
_ANNOTATION_FOLDER = "annotations"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROTATED = ("cx", "cy", "w", "h", "angle")  # roLabelImg; the angle in radians
_SPLIT_LISTS = ("train", "val", "test")


@dataclass(frozen=True)
class _Pair:
    """A folder of photos, that of their VOC files, and the split they stand for."""

    images: Path
    annotations: Path
    split: str


@dataclass(frozen=True)
class _Content:
    """What a VOC file says: (H, W) if it does, and for each object a name and corners (or centre, size and angle)."""

    size: tuple[int, int] | None
    objects: list[tuple[str, list[str]]]
    file_name: str


@dataclass(frozen=True)
class _Photo:
    """A photo, its VOC file and what that says; None where there is no file, or none that can be read.

    ``unclear``: a file may be this photo's, or another's.
    """

    path: Path
    split: str
    file: Path | None
    content: _Content | None
    unclear: bool = False


def has_voc(path: Path) -> bool:
    """Whether the folder, or one of its split folders, holds photos and XML files in folders of these names."""
    return path.is_dir() and any(_xml_files(pair.annotations) and images_in(pair.images, []) for pair in _pairs(path))


def class_in_name(photo: Path) -> str:
    """Class that a file name begins with: what stands before its last ``_`` and digits; "" where it ends otherwise."""
    match = re.fullmatch(r"(.+)_\d+", photo.stem)
    return match.group(1) if match else ""


def read_voc(
    path: Path,
    *,
    class_from: str = "auto",
    boxes_as_masks: bool = False,
    encoding: str | None = None,
    mask_cache: str | Path | None = None,
) -> Found:
    """Read photos with VOC files, or those of each split's folder; reached through `helpers.read_dataset`.

    A photo is abnormal and its ``defect_type`` one class; the column ``defect_types`` has the names of all its
    objects, sorted and joined by "+" ("" for normal photos).

    By name (``crazing_12.jpg`` is of class crazing) the class is what stands before the last ``_`` and digits, and the
    photo is normal if that is good, normal, ok, free, intact or undamaged. By objects the class is the name whose boxes
    cover most pixels, objects of those words count as none, and a photo without objects is normal; one without a file
    is left out, for it is not known to be normal.

    Lists ``train.txt``, ``val.txt`` and ``test.txt`` in ``ImageSets/Main`` (or in ``ImageSets``, or beside) are the
    published split where they are there, and photos in none of them are left out.

    Findings tell of photos whose objects have several names, or other names than the file, of files without a photo,
    that are missing or cannot be read, of photos of another size than their file states, and of boxes that are empty,
    reach out of the picture or lie outside. A file with a document type is refused unread: it could define entities
    that grow without limit.

    Args:
        path: the folder.
        class_from: "name", "objects", or "auto": by name where every photo's name begins with the name of some object
            of the dataset or a word for normal, else by objects.
        boxes_as_masks: draw all boxes of a photo as its mask. They are no outlines; see above.
        encoding: text encoding of the XML files; default: what they declare, else UTF-8.
        mask_cache: folder for drawn masks; default: ``artifacts/.masks`` in the project.

    Raises:
        LayoutError: there are no such folders, no photo that can be used, or, by name, one whose name has no class.
        ValueError: an option has another value than described.
    """
    if class_from not in CLASS_SOURCES:
        raise ValueError(f"class_from is {class_from!r}; use one of {', '.join(CLASS_SOURCES)}.")
    if not isinstance(boxes_as_masks, bool):
        raise ValueError(f"boxes_as_masks is {boxes_as_masks!r}; use True or False.")
    require_encoding(encoding)
    if not path.is_dir() or not any(_pairs(path)):
        raise LayoutError(f"{path} has no XML files beside photos or in ANNOTATIONS beside IMAGES.\n{tree(path)}")
    notes = Notes(path)
    found = Found([], path, published_split=False, name=path.name, attrs={"findings": notes.rows})
    photos = _with_split_lists(path, _photos(path, notes, found.ignored, encoding), notes)
    by_name = class_from == "name" or (class_from == "auto" and _names_are_classes(photos))
    nameless = [photo.path for photo in photos if by_name and not class_in_name(photo.path)]
    if nameless:
        raise LayoutError(
            f"{nameless[0]} and {len(nameless) - 1} more: the name is not <class>_<number>; use class_from='objects'."
        )
    folder = mask_folder(path, mask_cache)
    mixed: list[Path] = []
    for photo in progress(photos, "Reading boxes"):
        row = _row(photo, by_name, notes, mixed)
        if row is None:
            continue
        regions = row.pop("regions")
        if boxes_as_masks and row["label_index"] and regions:
            row["mask_path"] = str(cached_mask(folder, photo.path.relative_to(path).as_posix(), regions))
        found.rows.append(row)
    if not found.rows:
        raise LayoutError(f"{path} has VOC files, but no photo that can be used:\n{notes.summary()}")
    _note_gaps(path, photos, by_name, mixed, notes)
    found.published_split = is_published([row["split"] for row in found.rows])
    if not found.published_split:
        found.rows = [{**row, "split": ""} for row in found.rows]
    if boxes_as_masks:
        found.attrs["mask_cache"] = str(folder)
        problem = "masks are boxes, not outlines: pixel results on them count sound surface as defect"
        notes.add("warning", path, "boxes-as-masks", problem, "draw outlines if pixels matter")
    return found


def _pairs(path: Path) -> Iterator[_Pair]:
    """Pairs of folders by their names, or folders of both kinds of file: the folder itself, else its split folders."""
    for split, folder in {"": path, **split_folders(path)}.items():
        inside = {entry.name.lower(): entry for entry in folders_in(folder)}
        images = next((inside[name] for name in _IMAGE_FOLDERS if name in inside), None)
        if images is not None and _ANNOTATION_FOLDER in inside:
            yield _Pair(images, inside[_ANNOTATION_FOLDER], split)
            if not split:
                return
        elif _both_in(folder):
            yield _Pair(folder, folder, split)
            if not split:
                return


def _both_in(folder: Path) -> bool:
    stems = {"xml": set(), "photo": set()}
    for file in folder.iterdir():
        if file.suffix.lower() in (".xml", *IMAGE_SUFFIXES):
            stems["xml" if file.suffix.lower() == ".xml" else "photo"].add(file.stem.lower())
    return bool(stems["xml"] & stems["photo"])


def _xml_files(folder: Path) -> list[Path]:
    return [file for file in files_below(folder, []) if file.suffix.lower() == ".xml"]


def _photos(root: Path, notes: Notes, ignored: list[Path], encoding: str | None) -> list[_Photo]:
    """All photos with what their files say; findings for files that belong to none or cannot be read."""
    photos = []
    for pair in _pairs(root):
        images = images_in(pair.images, ignored)
        stems = {
            file: file.relative_to(pair.annotations).with_suffix("").as_posix() for file in _xml_files(pair.annotations)
        }
        # photos may lie in folders of their classes while the files lie together
        found, refused = match_names(stems.values(), images, pair.images, suffix=False)
        files: dict[Path, list[Path]] = {}
        unclear: set[Path] = set()
        contents = {file: _load(file, notes, encoding) for file in stems}
        for file, stem in stems.items():
            content = contents[file]
            alike = refused.get(stem, [])
            named, _ = match_names([content.file_name if content else ""], alike, pair.images)
            if stem in found or len(alike) > 1 and named:
                files.setdefault(found.get(stem) or next(iter(named.values())), []).append(file)
            elif alike:
                notes.refused(file, stem, alike)
            else:
                fix = "add the photo, or remove the file"
                notes.add("error", file, "missing-photo", f"belongs to no photo: none in {pair.images.name} is so", fix)
            unclear.update(alike)
        for photo in images:
            own = files.get(photo, [])
            if len(own) > 1:
                problem = f"has several files ({', '.join(file.relative_to(root).as_posix() for file in own[:3])})"
                notes.add(
                    "error", photo, "photo-listed-twice", f"{problem}; it is left out", "remove all but one of them"
                )
            file = own[0] if len(own) == 1 else None
            content = contents[file] if file else None
            photos.append(_Photo(photo, pair.split, file, content, len(own) > 1 or (not own and photo in unclear)))
    ignored[:] = [file for file in ignored if file.suffix.lower() != ".xml"]  # each is used, or has a finding
    return photos


def _with_split_lists(root: Path, photos: list[_Photo], notes: Notes) -> list[_Photo]:
    """Photos in the splits of ``ImageSets/Main``, or of lists in ``ImageSets`` or beside it."""
    sets = [entry for entry in folders_in(root) if entry.name.lower() == "imagesets"]
    inside = sorted((entry for entry in sets for entry in folders_in(entry)), key=lambda e: e.name.lower() != "main")
    lists: dict[str, Path] = {}
    for folder in (*inside, *sets, root):
        there = {entry.name.lower(): entry for entry in folder.iterdir() if entry.is_file()}
        lists = {split: there[f"{split}.txt"] for split in _SPLIT_LISTS if f"{split}.txt" in there}
        if not {"train", "val"} & set(lists) and "trainval.txt" in there:
            lists["train"] = there["trainval.txt"]
        if lists:
            break
    splits = listed_splits(lists, [photo.path for photo in photos], root, [pair.images for pair in _pairs(root)], notes)
    return [replace(photo, split=splits[photo.path]) for photo in photos if photo.path in splits] if splits else photos


def listed_splits(
    lists: dict[str, Path], photos: list[Path], root: Path, folders: list[Path], notes: Notes
) -> dict[Path, str]:
    """Split of each photo by lists of names, with or without suffix, relative to one of the folders.

    Photos in no list, or in two, have none, with a finding; if no photo is listed nobody has one.
    """
    splits: dict[Path, set[str]] = {}
    for split, file in lists.items():
        try:
            # some tools write the name of the XML file behind that of the photo
            lines = [re.sub(r"\s+\S+\.xml$", "", line.strip()) for line in read_text(file).splitlines()]
        except AnnotationError as error:
            raise LayoutError(str(error)) from error
        lines = [line for line in lines if line]
        found, refused = match_names(lines, photos, root, folders, suffix=False)
        rest = [line for line in lines if line not in found and line not in refused]
        more, more_refused = match_names(rest, photos, root, folders)
        for line, files in (refused | more_refused).items():
            notes.refused(file, line, files)
        missing = [line for line in rest if line not in more and line not in more_refused]
        if missing:
            problem = f"lists {len(missing)} photo(s) that are not there ({', '.join(missing[:3])})"
            notes.add("error", file, "missing-photo", problem, "add the photos, or remove their lines")
        for photo in {*found.values(), *more.values()}:
            splits.setdefault(photo, set()).add(split)
    for photo, of in splits.items():
        if len(of) > 1:
            problem = f"is in the lists of {' and '.join(sorted(of))}; it is left out"
            notes.add("error", photo, "split-contradiction", problem, "keep it in one list")
    unlisted = [photo.name for photo in photos if photo not in splits]
    if splits and unlisted:
        problem = f"{len(unlisted)} photo(s) are in no list of a split ({unlisted[0]} first); they are left out"
        folder = next(iter(lists.values())).parent
        notes.add("warning", folder, "photos-not-in-lists", problem, "add them to a list, or remove the lists")
    return {photo: next(iter(of)) for photo, of in splits.items() if len(of) == 1}


def _load(file: Path, notes: Notes, encoding: str | None) -> _Content | None:
    """Content of a VOC file, or None after a finding."""
    try:
        with file.open("rb") as beginning:
            declared = re.match(rb"[^<]{0,3}<\?xml[^>]*encoding=[\"']([\w.-]+)", beginning.read(200))
        named = declared.group(1).decode() if declared else None
        text = read_text(file, encoding or (None if named and named.lower().startswith("utf") else named))
    except AnnotationError as error:
        notes.add("error", file, "invalid-annotation", error.problem, error.fix)
        return None
    except (OSError, LookupError) as error:
        notes.add("error", file, "invalid-annotation", f"is not valid XML ({error})", "check the file and its encoding")
        return None
    # expat expands entities that a document type defines; without the zeros UTF-16 reads like ASCII
    if "<!doctype" in text.replace("\0", "").lower():
        problem = "has a document type (DOCTYPE), which VOC files have not; it is not read"
        notes.add("error", file, "invalid-annotation", problem, "remove it if you trust the file")
        return None
    try:
        top = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        notes.add("error", file, "invalid-annotation", f"is not valid XML ({error})", "export it again")
        return None
    if top.tag != "annotation":
        problem = f"is no VOC file: it begins with <{top.tag}>, not <annotation>"
        notes.add("error", file, "invalid-annotation", problem, "export it again")
        return None
    objects = []
    for thing in top.iterfind("object"):
        rotated = thing.find("robndbox") is not None
        kind, keys = ("robndbox", _ROTATED) if rotated else ("bndbox", _CORNERS)
        objects.append(
            ((thing.findtext("name") or "").strip(), [thing.findtext(f"{kind}/{key}") or "" for key in keys])
        )
    stated = [top.findtext(f"size/{key}") or "" for key in ("height", "width")]
    # some tools write zeros for a size they do not know
    known = all(text.strip().isdecimal() and len(text) < 10 and int(text) > 0 for text in stated)
    size = (int(stated[0]), int(stated[1])) if known else None
    return _Content(size, objects, (top.findtext("filename") or "").strip())


def _names_are_classes(photos: list[_Photo]) -> bool:
    names = {name for photo in photos if photo.content for name, _ in photo.content.objects if name}
    classes = {class_in_name(photo.path) for photo in photos}
    return bool(names) and all(name in names or name.lower() in NORMAL_NAMES for name in classes)


def _row(photo: _Photo, by_name: bool, notes: Notes, mixed: list[Path]) -> dict[str, Any] | None:
    """A row with the ``regions`` of its boxes, or None for a photo to be left out; ``mixed`` takes contradictions."""
    named = class_in_name(photo.path) if by_name else ""
    if photo.unclear:  # noted
        return None
    lost = False
    regions: dict[str, list[dict[str, Any]]] = {}
    if photo.content is not None and photo.file is not None:
        size = photo_size(photo.path, photo.content.size, photo.file, notes)
        if size is None:
            return None
        regions = _regions(photo, photo.content, size, notes)
        lost = sum(map(len, regions.values())) < len(photo.content.objects)
    elif by_name and photo.file is not None and named.lower() in NORMAL_NAMES:
        lost = True
    elif not by_name:
        if photo.file is not None:  # one without a file is counted in _note_gaps
            problem = f"{photo.file.name} cannot be read, so it is not known to be normal; it is left out"
            notes.add("error", photo.path, "photo-left-out", problem, "fix that file")
        return None
    regions = {name: drawn for name, drawn in regions.items() if name.lower() not in NORMAL_NAMES}
    if by_name:
        defect_type = NORMAL if named.lower() in NORMAL_NAMES else named
        contradicted = set(regions) - {named}
    else:
        defect_type = _largest(regions) if regions else NORMAL
        contradicted = set(regions) - {defect_type}
    if defect_type == NORMAL and lost and not regions:
        problem = "an object of it cannot be used, so it is not known to be normal; it is left out"
        notes.add("error", photo.path, "photo-left-out", problem, f"fix {photo.file.name if photo.file else ''}")
        return None
    if defect_type == NORMAL and regions:
        problem = f"is normal by its name, but has objects ({', '.join(sorted(regions))}); it is left out"
        notes.add("error", photo.path, "mask-on-good", problem, "correct the name or the objects")
        return None
    if by_name and defect_type != NORMAL and photo.content is not None and not photo.content.objects:
        problem = f"has no object, but is a {defect_type} by its name, which counts"
        notes.add("warning", photo.path, "no-objects", problem, "correct one of the two, or use class_from='objects'")
    if contradicted:
        mixed.append(photo.path)
    types = set(regions) or ({defect_type} - {NORMAL})
    return {
        "image_path": str(photo.path),
        "mask_path": "",
        "label_index": int(defect_type != NORMAL),
        "defect_type": defect_type,
        "split": photo.split,
        "defect_types": "+".join(sorted(types)),
        "regions": [region for drawn in regions.values() for region in drawn],
    }


def _regions(photo: _Photo, content: _Content, size: tuple[int, int], notes: Notes) -> dict[str, list[dict[str, Any]]]:
    """Regions of the boxes that can be used, by the name of their object."""
    regions: dict[str, list[dict[str, Any]]] = {}
    for index, (name, corners) in enumerate(content.objects, start=1):
        code, problem = "", ""
        region = None
        try:
            numbers = [float(text) for text in corners]
        except ValueError:
            code, problem = "invalid-box", f"has no box of {len(corners)} numbers"
        else:
            if len(numbers) == len(_ROTATED):
                drawn = draw_polygon(_corners_of(*numbers), size)
                region, code, problem = drawn.region, drawn.code, f"has a box that {drawn.problem}"
            elif numbers[2] < numbers[0] or numbers[3] < numbers[1]:
                code, problem = "no-area", "has a box whose end lies before its beginning"
            else:
                left, top, right, bottom = numbers
                # the first pixel is 1, but some tools count from 0
                left, top = (value - 1 if value != 0 else 0.0 for value in (left, top))
                drawn = draw_box([left, top, right - left, bottom - top], size)
                region, code, problem = drawn.region, drawn.code, f"has a box that {drawn.problem}"
        if not name:
            region, code, problem = None, "unknown-category", "has no name"
        if code:
            clipped = code == "clipped"
            left_out = "what lies outside is cut off" if clipped else "it is left out"
            problem = f"object {index} of {photo.file.name if photo.file else ''} {problem}; {left_out}"
            notes.add("warning" if clipped else "error", photo.path, code, problem, "correct its box")
        if region is not None:
            regions.setdefault(name, []).append(region)
    return regions


def _corners_of(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    """Corners x, y, ... of a box around (x, y) that is turned clockwise by an angle in radians."""
    if not all(map(math.isfinite, (x, y, width, height, angle))):
        return [math.nan] * 8
    along = (math.cos(angle) * width / 2, math.sin(angle) * width / 2)
    across = (-math.sin(angle) * height / 2, math.cos(angle) * height / 2)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [c + a * along[i] + b * across[i] for a, b in signs for i, c in enumerate((x, y))]


def _largest(regions: dict[str, list[dict[str, Any]]]) -> str:
    """Name whose boxes together cover most pixels; of two alike the first by name."""
    return min(regions, key=lambda name: (-int(coco_mask.area(united(regions[name]))), name))


def _note_gaps(path: Path, photos: list[_Photo], by_name: bool, mixed: list[Path], notes: Notes) -> None:
    """Note, in one finding each, photos without a file and those whose objects are of several names."""
    without = [photo.path for photo in photos if photo.file is None and not photo.unclear]
    if without:
        counts = "their class is that of their name" if by_name else "neither normal nor abnormal is known; left out"
        problem = f"{len(without)} photo(s) have no XML file ({without[0].name} first): {counts}"
        notes.add("warning", path, "photos-not-annotated", problem, "add files, without objects for normal photos")
    if mixed:
        how = "their name counts" if by_name else "the one with the largest area counts"
        other = "other names than their file" if by_name else "several names"
        problem = f"{len(mixed)} photo(s) have objects of {other} ({mixed[0].name} first): {how}"
        fix = "see the column defect_types; leave them out where one class a photo is needed"
        notes.add("info" if by_name else "warning", path, "several-classes", problem, fix)
