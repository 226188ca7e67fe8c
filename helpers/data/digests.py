"""Hashes of the contents of files, each read once for its size and modification time."""

from __future__ import annotations

from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

DIGESTS: dict[str, list[Any]] = {}
"""Path -> size, modification time in ns, hash of the content; tables on disk bring those of their files along."""


def content_digest(path: str | Path) -> str:
    """Hash of a file's content, "" for none; it is read again only when its size or modification time has changed."""
    state = file_state(path)
    if not state:
        return ""
    if DIGESTS.get(str(path), [])[:2] != state:
        try:
            with Path(path).open("rb") as file:
                DIGESTS[str(path)] = [*state, file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()]
        except OSError:
            return ""
    return DIGESTS[str(path)][2]


def file_state(path: str | Path) -> list[int]:
    """Size and modification time in ns; empty for no file."""
    try:
        state = Path(path).stat() if path else None  # Path("") would be the current directory
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns] if state else []
