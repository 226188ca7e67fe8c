"""Which file of a dataset a name means that was written by another tool or on another machine."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "test_public"), "test"),
}
"""Words for the splits in names of folders and files (lower case)."""

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded
_MANY = 100  # files of one name

Matches = tuple[dict[str, Path], dict[str, list[Path]]]


def match_names(
    names: Iterable[str], files: Iterable[Path], root: Path, folders: Sequence[Path] = (), *, suffix: bool = True
) -> Matches:
    """Files that names mean, and names that cannot be told apart, each with the files that it may mean.

    Names (paths, URLs, Label Studio's ``/data/local-files/?d=NAME``) are compared percent-decoded, in Unicode's NFC,
    with ``\\`` as ``/``, and by case only where two differ by case alone; without ``suffix`` they may lack it. A name
    is relative to one of ``folders`` (default: ``root``), the first counts; else its end must be that of one file below
    ``root`` only, not in a folder of another split, whatever stands before it in all names alike (another machine's
    folders), unless the folder that it names is there without it. A name that is found in neither way is in neither
    result; one that ends like another and shares its only file is refused. Only members of ``files`` are ever given.
    """
    index = _Index(files, root, folders, suffix)
    plain = {name: _without_address(name) for name in names}
    parts = {name: _parts(folded(unquote(text))) for name, text in plain.items()}
    uploads = all(_UPLOAD.match(path[-1]) for path in parts.values() if path)
    starts = {}  # folders that all these names begin with
    for absolute in (False, True):
        starts[absolute] = os.path.commonprefix([parts[name][:-1] for name in parts if _is_absolute(name) == absolute])
    found: dict[str, Path] = {}
    refused: dict[str, list[Path]] = {}
    claims: dict[Path, list[str]] = defaultdict(list)
    literal = {name: hits for name in plain if (hits := index.literal(_parts(plain[name])))}
    for name, path in parts.items():
        start = starts[_is_absolute(name)]
        # another machine's folders may be called test
        splits = splits_of(path[len(start) if _is_absolute(name) else 0 : -1])
        hits = literal.get(name) or index.lookup(path, len(start), splits)
        if not hits and path and (uploads or "upload" in path) and _UPLOAD.match(path[-1]):
            hits = index.lookup([*path[:-1], path[-1][9:]], len(start), splits)
        if len(hits) == 1:
            found[name] = hits[0]
            claims[hits[0]].append(name)
        elif hits:
            refused[name] = hits
    for those in claims.values():
        if len({tuple(_parts(plain[name])) for name in those}) > 1:
            refused |= {name: [found.pop(name)] for name in those if name not in literal}
    return found, refused


def split_in(path: Path, root: Path) -> str:
    """Split that a folder between ``root`` and a file speaks of, or ""."""
    words = (SPLIT_NAMES.get(part.lower(), "") for part in path.relative_to(root).parts[:-1])
    return next(filter(None, words), "")


def folded(text: str) -> str:
    """Text as names are compared: NFC, lower case."""
    return unicodedata.normalize("NFC", text).lower()


def splits_of(folders: Iterable[str]) -> set[str]:
    """Splits that names of folders, or other words, stand for."""
    return {SPLIT_NAMES.get(part.lower(), "") for part in folders} - {""}


def _is_absolute(name: str) -> bool:
    return bool(re.match(r"[\\/]|[A-Za-z][A-Za-z+.-]*:", name.strip()))


def _without_address(name: str) -> str:
    """The path in a URL or in a query of Label Studio."""
    text = name.strip()
    if query := re.search(r"[?&]d=([^&]+)", text):
        return query.group(1)
    url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://[^/?#]*([^?#]*)", text)
    return url.group(1) if url else text


def _parts(path: str) -> list[str]:
    """Parts of a path without its drive and single dots."""
    text = re.sub(r"^[A-Za-z]:", "", path.replace("\\", "/"))
    return [part for part in text.split("/") if part not in ("", ".")]


class _Index:
    """Files by every end of their path, folded; a whole path begins with ""."""

    def __init__(self, files: Iterable[Path], root: Path, folders: Sequence[Path], suffix: bool) -> None:
        self._bases = [folder.relative_to(root).parts for folder in folders or (root,)]
        self._folded = [tuple(_parts(folded(unquote("/".join(base))))) for base in self._bases]
        self._literal: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._ends: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        self._splits: dict[Path, set[str]] = {}
        self._folders: set[tuple[str, ...]] = set()
        for file in dict.fromkeys(files):
            whole = file.relative_to(root)
            for path in {whole, whole if suffix else whole.with_suffix("")}:
                self._literal[path.parts].append(file)
                key = ("", *_parts(folded(unquote(path.as_posix()))))
                for start in range(len(key)):
                    self._ends[key[start:]].append(file)
            self._splits[file] = splits_of(key[:-1])
            self._folders.add(key[:-1])

    def literal(self, parts: list[str]) -> list[Path]:
        """The file that is written as the name is, in the first folder that has it."""
        return next(filter(None, (self._literal.get((*base, *parts), []) for base in self._bases)), [])

    def lookup(self, parts: list[str], start: int, splits: set[str]) -> list[Path]:
        """Files that are meant; several where it is not known which. ``start`` folders may be another machine's."""
        up = len(parts) - parts[::-1].index("..") if ".." in parts else 0
        for first in (0, *range(max(up, 1), len(parts))):
            end = tuple(parts[first:])
            for key in (*(_whole((*base, *end)) for base in self._folded), *[end] * (first <= max(start, up))):
                hits = self._ends.get(key, [])
                if first and splits and len(hits) <= _MANY:  # a file of another split is not meant
                    hits = [file for file in hits if not self._splits[file] or self._splits[file] & splits]
                if hits:
                    return hits
            # a folder that is there has no file elsewhere
            if end[:-1] and any(_whole((*base, *end[:-1])) in self._folders for base in ((), *self._folded)):
                break
        return []


def _whole(parts: Sequence[str]) -> tuple[str, ...]:
    """Key of a path below the root; one that no file has where it leads out."""
    return ("", *posixpath.normpath("/".join(parts)).split("/"))
