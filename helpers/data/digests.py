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
    known = DIGESTS.get(str(path))
    if state and (known is None or known[:2] != state):
        try:
            with Path(path).open("rb") as file:
                digest = file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
        except OSError:
            return ""
        known = DIGESTS[str(path)] = [*state, digest]
    return known[2] if state else ""


def file_state(path: str | Path) -> list[int]:
    """Size and modification time in ns; empty for no file."""
    try:
        state = Path(path).stat() if path else None  # Path("") would be the current directory
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns] if state else []
