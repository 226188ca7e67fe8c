"""What readers share: which file of a dataset a name means that was written by another tool or on another machine."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "test_public": "test",
}
"""Words for the splits in names of folders and files (lower case)."""

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded
_ALIKE = 8  # more files of one name do not differ by case or encoding


def match_names(
    names: Iterable[str], files: Iterable[Path], root: Path, folders: Sequence[Path] = (), *, suffix: bool = True
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Files that names mean, and names that cannot be told apart, each with the files that it may mean.

    Names are compared percent-decoded, in Unicode's NFC, with ``\\`` as ``/``, and by case only where two differ by
    case alone. A name is relative to one of ``folders`` (default: ``root``), the first counts; else its end must be
    that of one file below ``root`` only, not in a folder of another split, whatever stands before it in all names alike
    (another machine's folders), unless the folder that it names is there without it. A name that is found in neither
    way is in neither result; one that ends like another and shares its only file is refused. Only members of ``files``
    are ever given.

    Args:
        names: as they were written; paths, URLs and Label Studio's ``/data/local-files/?d=NAME`` too.
        files: those that may be meant, all below ``root``.
        suffix: False to compare without the suffixes of the files; names then have none.
    """
    index = _Index(files, root, suffix)
    bases = [_parts(unicodedata.normalize("NFC", unquote(index.relative(folder)))) for folder in folders or (root,)]
    names = list(dict.fromkeys(names))
    uploads = all(_UPLOAD.match(re.split(r"[\\/]", name)[-1]) for name in names)
    readings = {name: _readings(name, uploads) for name in names}
    starts = {absolute: _common_start(readings, absolute) for absolute in (False, True)}
    found: dict[str, Path] = {}
    refused: dict[str, list[Path]] = {}
    claims: dict[Path, dict[tuple[str, ...], list[tuple[str, bool]]]] = defaultdict(lambda: defaultdict(list))
    for name, spelled in readings.items():
        for parts, raw in spelled:
            start = starts[_is_absolute(name)]
            # another machine's folders may be called test
            splits = _splits_of(parts[start if _is_absolute(name) else 0 : -1])
            hits, whole = index.lookup(parts, raw, bases, start, splits)
            if len(hits) == 1:
                found[name] = hits[0]
                claims[hits[0]][tuple(parts)].append((name, whole))
            elif hits:
                refused[name] = hits
            if hits:
                break
    for file, by_parts in claims.items():
        if len(by_parts) > 1:
            for name, whole in (claim for group in by_parts.values() for claim in group):
                if not whole:
                    del found[name]
                    refused[name] = [file]
    return found, refused


def split_in(path: Path, root: Path) -> str:
    """Split that a folder between ``root`` and a file speaks of, or ""."""
    words = (SPLIT_NAMES.get(part.lower(), "") for part in path.relative_to(root).parts[:-1])
    return next((word for word in words if word), "")


def _splits_of(folders: Iterable[str]) -> set[str]:
    return {SPLIT_NAMES.get(part.lower(), "") for part in folders} - {""}


def _is_absolute(name: str) -> bool:
    return bool(re.match(r"[\\/]|[A-Za-z][A-Za-z+.-]*:", name.strip()))


def _readings(name: str, uploads: bool) -> list[tuple[list[str], list[str]]]:
    """Parts of the path that a name is, in each way that it can be read: decoded, and as they stand."""
    text = name.strip()
    query = re.search(r"[?&]d=([^&]+)", text)
    if query:
        text = query.group(1)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        text = re.split(r"[?#]", text)[0].partition("://")[2].partition("/")[2]
    parts, raw = _parts(unicodedata.normalize("NFC", unquote(text))), _parts(text)
    readings = [(parts, raw)]
    if parts and (uploads or "upload" in parts[:-1]) and _UPLOAD.match(parts[-1]):
        readings.append(([*parts[:-1], _UPLOAD.sub("", parts[-1], count=1)], raw))
    return [(parts, raw) for parts, raw in readings if parts]


def _parts(path: str) -> list[str]:
    """Parts of a path without its drive and single dots."""
    text = re.sub(r"^[A-Za-z]:", "", path.replace("\\", "/"))
    return [part for part in text.split("/") if part not in ("", ".")]


def _common_start(readings: dict[str, list[tuple[list[str], list[str]]]], absolute: bool) -> int:
    """Number of folders that all these names begin with."""
    folders = [spelled[0][0][:-1] for name, spelled in readings.items() if spelled and _is_absolute(name) == absolute]
    return len(os.path.commonprefix(folders)) if folders else 0


class _Index:
    """Files by every end of their path; keys are in lower case."""

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

    def relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _parts_of(self, file: Path, *, raw: bool = False) -> list[str]:
        path = PurePosixPath(self.relative(file))
        text = str(path if self._suffix else path.with_suffix(""))
        return _parts(text if raw else unicodedata.normalize("NFC", unquote(text)))

    def lookup(
        self, parts: list[str], raw: list[str], bases: list[list[str]], start: int, splits: set[str]
    ) -> tuple[list[Path], bool]:
        """Files that are meant (several: not known which), and whether the whole name says so."""
        up = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        limit = self._limit(parts[:-1], bases)
        for first in (0, *range(max(up, 1), limit + 1)):
            end = parts[first:]
            for base in bases:
                path = _normal([*base, *end])
                hits = self._nearest(self._whole.get(_key(path), []), path, raw) if path else []
                hits = self._of_splits(hits, splits) if first else hits
                if hits:
                    return hits, not first and self._parts_of(hits[0]) == path
            if first <= max(start, up) and ".." not in end:
                hits = self._nearest(self._ends.get(_key(end), []), end, raw)
                hits = self._of_splits(hits, splits) if first else hits
                if hits:
                    return hits, not first and self._parts_of(hits[0])[-len(end) :] == end
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
        return [file for file in hits if not (of := _splits_of(self._parts_of(file)[:-1])) or of & splits]

    def _nearest(self, hits: list[Path], parts: list[str], raw: list[str]) -> list[Path]:
        """Of files that differ by case or encoding alone, the one that is written as the name is."""
        if not 1 < len(hits) <= _ALIKE:
            return hits
        same_case = [file for file in hits if self._parts_of(file)[-len(parts) :] == parts]
        same = [file for file in same_case if self._parts_of(file, raw=True)[-1] == raw[-1]]
        return same or same_case or hits


def _key(parts: list[str] | None) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part.lower()) for part in parts or ())


def _normal(parts: list[str]) -> list[str] | None:
    """Parts without ``..``; None where they lead out."""
    normal: list[str] = []
    for part in parts:
        if part != "..":
            normal.append(part)
        elif not normal:
            return None
        else:
            normal.pop()
    return normal
