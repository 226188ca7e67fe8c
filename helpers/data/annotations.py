"""What the readers of annotations share: their files, and which file is whose."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from helpers.data.layouts import Found, LayoutError
from helpers.data.names import Matches, match_listed, match_names

_ENCODINGS = ("gb18030", "cp1252")  # what editors write that do not write UTF-8


class AnnotationError(LayoutError):
    """A file of annotations that cannot be read; ``problem`` and ``fix`` in words."""

    def __init__(self, file: Path, problem: str, fix: str) -> None:
        super().__init__(f"{file} {problem}; {fix}.")
        self.problem, self.fix = problem, fix


def read_text(file: Path, encoding: str | None = None) -> str:
    """Text of a file: UTF-8, UTF-16 with its mark, or as ``encoding`` says; nothing is guessed."""
    try:
        data = file.read_bytes()
    except OSError as error:
        fix = "check the file and who may read it"
        raise AnnotationError(file, f"cannot be read ({error.strerror})", fix) from None
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode(encoding or ("utf-16" if marked else "utf-8-sig"))
    except (UnicodeDecodeError, LookupError):
        readable = (
            name for name in _ENCODINGS if name != encoding and data.decode(name, "ignore").encode(name) == data
        )
        likely = next(readable, "latin-1")
        fix = f"read it with encoding={likely!r} if it is that, or convert it: iconv -f {likely.upper()} -t UTF-8"
        raise AnnotationError(file, f"is not encoded as {(encoding or 'UTF-8').upper()}", fix) from None


def read_json(file: Path, encoding: str | None = None) -> Any:
    """Content of a JSON file; AnnotationError says what is wrong with it."""
    text = read_text(file, encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits too
        raise AnnotationError(file, f"is not valid JSON ({error})", "export it again") from None


def known_id(value: Any) -> str | None:
    """An id as text, so that "1", "01", 1 and 1.0 are one; None for what is none."""
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if value is None or isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return re.sub(r"^([+-]?)0*(\d+)(\.0+)?$", r"\1\2", str(value).strip()) or None


# ------------------------------------------------------------------------------------------------- which file is whose

Way = tuple[Callable[[Iterable[str], Sequence[Path], Path], Matches], dict[Path, str], Sequence[Path], Path]
"""How files are given to photos: `match_names` or `match_listed`, a name for each file, photos, the names' folder."""


def pair_files(
    ways: Iterable[Way], photos: Sequence[Path], found: Found, written: dict[Path, str], optional: Collection[Path] = ()
) -> tuple[dict[Path, Path], set[Path]]:
    """The file of each photo, by the first way that tells, and photos left out: what is said of them is not known.

    ``written``: the photo's name in the file, which tells between photos of one stem. ``optional``: files that may have
    no photo.
    """
    claims: dict[Path, list[Path]] = defaultdict(list)
    names: dict[Path, str] = {}
    settled: set[Path] = set()
    left_out: set[Path] = set()
    for match, named, candidates, folder in ways:
        rest = {file: name for file, name in named.items() if file not in settled}
        hits, refused = match(rest.values(), candidates, folder) if rest else ({}, {})
        for file, name in rest.items():
            names.setdefault(file, name)
            alike = refused.get(name, [])
            last = re.split(r"[\\/]", written.get(file, ""))[-1]
            meant = match_names([last], alike, folder)[0] if len(alike) > 1 and last else {}
            photo = hits.get(name) or next(iter(meant.values()), None)
            if photo is not None:
                claims[photo].append(file)
            elif alike:
                found.note_ambiguous(file, name, alike)
                left_out.update(alike)
            if photo is not None or alike:
                settled.add(file)
    strays = [file for file in names if file not in settled and file not in optional]
    for file in strays:
        found.note("missing-photo", file, name=written.get(file) or names[file])
    for photo, files in claims.items():
        if len(files) > 1:
            found.note("photo-listed-twice", photo, names=", ".join(map(found.relative, files[:3])))
            left_out.add(photo)
    # the photo of a file without one may have been moved
    stems = {file.stem.lower() for file in strays}
    left_out.update(photo for photo in photos if photo not in claims and photo.stem.lower() in stems)
    return {photo: files[0] for photo, files in claims.items()}, left_out


def may_be_normal(photos: Sequence[Path], annotated: Collection[Path], found: Found, words: Collection[str]) -> set:
    """Photos without annotations that count as normal: those beside annotated ones, in the dataset's own folder, or in
    one of these names. The others (masks, previews) are left out with a finding a folder.
    """
    folders = {photo.parent for photo in annotated} | {found.root}
    elsewhere: dict[Path, list[Path]] = defaultdict(list)
    normal = set()
    for photo in (photo for photo in photos if photo not in annotated):
        if photo.parent in folders or photo.parent.name.lower() in words:
            normal.add(photo)
        else:
            elsewhere[photo.parent].append(photo)
    for folder, those in sorted(elsewhere.items()):
        found.note("photos-not-annotated:folder", folder, n=len(those), first=those[0].name)
    return normal


def listed_splits(lists: dict[str, Path], photos: list[Path], folders: list[Path], found: Found) -> dict[Path, str]:
    """Split of each photo by lists of names, with or without suffix, relative to one of the folders.

    Photos in no list, or in two, have none, with a finding; if no photo is listed nobody has one.
    """
    splits: dict[Path, set[str]] = defaultdict(set)
    for split, file in lists.items():
        # some tools write the name of the XML file behind that of the photo
        lines = [re.sub(r"\s+\S+\.xml$", "", line.strip()) for line in read_text(file).splitlines()]
        lines = [line for line in lines if line]
        named, refused = match_listed(lines, photos, found.root, folders)
        for line, files in refused.items():
            found.note_ambiguous(file, line, files)
        missing = [line for line in lines if line not in named and line not in refused]
        if missing:
            found.note("missing-photo:listed", file, n=len(missing), first=", ".join(missing[:3]))
        for photo in named.values():
            splits[photo].add(split)
    for photo, of in splits.items():
        if len(of) > 1:
            found.note("split-contradiction", photo, splits=" and ".join(sorted(of)))
    unlisted = [photo.name for photo in photos if photo not in splits]
    if splits and unlisted:
        found.note("photos-not-in-lists", next(iter(lists.values())).parent, n=len(unlisted), first=unlisted[0])
    return {photo: next(iter(of)) for photo, of in splits.items() if len(of) == 1}
