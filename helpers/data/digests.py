"""Hashes of the contents of files, each read once for its size and modification time."""

from __future__ import annotations

from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

DIGESTS: dict[str, list[Any]] = {}
"""Path -> size, modification time in ns, hash of the content; tables on disk bring those of their files along."""


def content_digest(path: str | Path) -> str:
    """Hash of a file's content, "" for none; it is read again only when its size or modification time has changed."""
    if not path:  # Path("") would be the current directory
        return ""
    try:
        stat = Path(path).stat()
        state = [stat.st_size, stat.st_mtime_ns]
        if DIGESTS.get(str(path), [])[:2] != state:
            with Path(path).open("rb") as file:
                DIGESTS[str(path)] = [*state, file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()]
    except OSError:
        return ""
    return DIGESTS[str(path)][2]
