"""Which file of a dataset a name means that was written by another tool or on another machine."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "test_public"), "test"),
}
"""Words for the splits in names of folders and files (lower case)."""

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded
_ALIKE = 8  # more files of one name do not differ by case or encoding

Matches = tuple[dict[str, Path], dict[str, list[Path]]]


def match_names(
    names: Iterable[str], files: Iterable[Path], root: Path, folders: Sequence[Path] = (), *, suffix: bool = True
) -> Matches:
    """Files that names mean, and names that cannot be told apart, each with the files that it may mean.

    Names (paths, URLs, Label Studio's ``/data/local-files/?d=NAME``) are compared percent-decoded, in Unicode's NFC,
    with ``\\`` as ``/``, and by case only where two differ by case alone; with ``suffix`` False they have none. A name
    is relative to one of ``folders`` (default: ``root``), the first counts; else its end must be that of one file below
    ``root`` only, not in a folder of another split, whatever stands before it in all names alike (another machine's
    folders), unless the folder that it names is there without it. A name that is found in neither way is in neither
    result; one that ends like another and shares its only file is refused. Only members of ``files`` are ever given.
    """
    index = _Index(files, root, suffix)
    bases = [_parts(_decoded(folder.relative_to(root).as_posix())) for folder in folders or (root,)]
    names = list(dict.fromkeys(names))
    uploads = all(_UPLOAD.match(re.split(r"[\\/]", name)[-1]) for name in names)
    readings = {name: _readings(name, uploads) for name in names}
    starts = {absolute: _common_start(readings, absolute) for absolute in (False, True)}
    found: dict[str, Path] = {}
    refused: dict[str, list[Path]] = {}
    claims: dict[Path, dict[tuple[str, ...], list[tuple[str, bool]]]] = defaultdict(lambda: defaultdict(list))
    for name, spelled in readings.items():
        absolute = _is_absolute(name)
        for parts, raw in spelled:
            # another machine's folders may be called test
            splits = splits_of(parts[starts[absolute] if absolute else 0 : -1])
            hits, whole = index.lookup(parts, raw, bases, starts[absolute], splits)
            if len(hits) == 1:
                found[name] = hits[0]
                claims[hits[0]][tuple(parts)].append((name, whole))
            elif hits:
                refused[name] = hits
            if hits:
                break
    for by_parts in claims.values():
        for name, whole in (claim for group in by_parts.values() for claim in group if len(by_parts) > 1):
            if not whole:
                refused[name] = [found.pop(name)]
    return found, refused


def match_listed(names: Iterable[str], files: Sequence[Path], root: Path, folders: Sequence[Path] = ()) -> Matches:
    """As `match_names`, of names that may lack the suffix."""
    names = list(names)
    found, refused = match_names(names, files, root, folders, suffix=False)
    rest = [name for name in names if name not in found and name not in refused]
    more, more_refused = match_names(rest, files, root, folders) if rest else ({}, {})
    return found | more, refused | more_refused


def split_in(path: Path, root: Path) -> str:
    """Split that a folder between ``root`` and a file speaks of, or ""."""
    words = (SPLIT_NAMES.get(part.lower(), "") for part in path.relative_to(root).parts[:-1])
    return next((word for word in words if word), "")


def folded(text: str) -> str:
    """Text as names are compared: NFC, lower case."""
    return unicodedata.normalize("NFC", text).lower()


def splits_of(folders: Iterable[str]) -> set[str]:
    """Splits that names of folders, or other words, stand for."""
    return {SPLIT_NAMES.get(part.lower(), "") for part in folders} - {""}


def _is_absolute(name: str) -> bool:
    return bool(re.match(r"[\\/]|[A-Za-z][A-Za-z+.-]*:", name.strip()))


def _decoded(text: str) -> str:
    return unicodedata.normalize("NFC", unquote(text))


def _readings(name: str, uploads: bool) -> list[tuple[list[str], list[str]]]:
    """Parts of the path that a name is, in each way that it can be read: decoded, and as they stand."""
    text = name.strip()
    if query := re.search(r"[?&]d=([^&]+)", text):
        text = query.group(1)
    elif url := re.match(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?#]*([^?#]*)", text):
        text = url.group(1)
    parts, raw = _parts(_decoded(text)), _parts(text)
    readings = [(parts, raw)] if parts else []
    if parts and (uploads or "upload" in parts[:-1]) and _UPLOAD.match(parts[-1]):
        readings.append(([*parts[:-1], _UPLOAD.sub("", parts[-1], count=1)], raw))
    return readings


def _parts(path: str) -> list[str]:
    """Parts of a path without its drive and single dots."""
    text = re.sub(r"^[A-Za-z]:", "", path.replace("\\", "/"))
    return [part for part in text.split("/") if part not in ("", ".")]


def _common_start(readings: dict[str, list[tuple[list[str], list[str]]]], absolute: bool) -> int:
    """Number of folders that all these names begin with."""
    folders = [spelled[0][0][:-1] for name, spelled in readings.items() if spelled and _is_absolute(name) == absolute]
    return len(os.path.commonprefix(folders)) if folders else 0


class _Index:
    """Files by every end of their path."""

    def __init__(self, files: Iterable[Path], root: Path, suffix: bool) -> None:
        self._root, self._suffix = root, suffix
        self._whole: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._folders: set[tuple[str, ...]] = set()
        self._ends: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for file in dict.fromkeys(files):
            key = _key(self._parts_of(file))
            self._whole[key].append(file)
            self._folders.add(key[:-1])
            for start in range(len(key)):
                self._ends[key[start:]].append(file)

    def _parts_of(self, file: Path, *, raw: bool = False) -> list[str]:
        path = PurePosixPath(file.relative_to(self._root).as_posix())
        text = str(path if self._suffix else path.with_suffix(""))
        return _parts(text if raw else _decoded(text))

    def lookup(
        self, parts: list[str], raw: list[str], bases: list[list[str]], start: int, splits: set[str]
    ) -> tuple[list[Path], bool]:
        """Files that are meant (several: not known which), and whether the whole name says so."""
        up = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        for first in (0, *range(max(up, 1), self._limit(parts[:-1], bases) + 1)):
            end = parts[first:]
            paths = [_normal([*base, *end]) for base in bases]
            tries = [(self._whole, path) for path in paths if path]
            if first <= max(start, up) and ".." not in end:
                tries.append((self._ends, end))
            for files, path in tries:
                hits = self._nearest(files.get(_key(path), []), path, raw)
                if hits := self._of_splits(hits, splits) if first else hits:
                    return hits, not first and self._parts_of(hits[0])[-len(path) :] == path
        return [], False

    def _limit(self, folders: list[str], bases: list[list[str]]) -> int:
        """Number of folders that may be left out: not one that is there and holds files, but not this one."""
        for first in range(len(folders)):
            paths = [_normal([*base, *folders[first:]]) for base in ([], *bases)]
            if any(path and _key(path) in self._folders for path in paths):
                return first
        return len(folders)

    def _of_splits(self, hits: list[Path], splits: set[str]) -> list[Path]:
        """Those whose folders speak of no split, or of one of these."""
        if not splits or len(hits) > _ALIKE:
            return hits
        return [file for file in hits if not (of := splits_of(self._parts_of(file)[:-1])) or of & splits]

    def _nearest(self, hits: list[Path], parts: list[str], raw: list[str]) -> list[Path]:
        """Of files that differ by case or encoding alone, the one that is written as the name is."""
        if not 1 < len(hits) <= _ALIKE:
            return hits
        same_case = [file for file in hits if self._parts_of(file)[-len(parts) :] == parts]
        same = [file for file in same_case if self._parts_of(file, raw=True)[-1] == raw[-1]]
        return same or same_case or hits


def _key(parts: list[str]) -> tuple[str, ...]:
    return tuple(map(folded, parts))


def _normal(parts: list[str]) -> list[str] | None:
    """Parts without ``..``; None where they lead out."""
    normal = posixpath.normpath("/".join(parts)).split("/")
    return None if normal[0] == ".." else normal
