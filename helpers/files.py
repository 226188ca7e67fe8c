"""Files and folders that are either the old ones or the whole new ones, never half of either."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it there; nothing is left behind if writing fails.

    Args:
        path: the file; its folder is made if it is missing.
        write: called with the path to write to, which has the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder beside its place and rename it there; what was there before is replaced, or stays on any error.

    Args:
        folder: the folder; the one it lies in is made if it is missing.
        write: called with an empty folder to write into.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    partial, old = (folder.with_name(f".{folder.name}.{word}-{token}") for word in ("partial", "old"))
    partial.mkdir()
    try:
        write(partial)
        if folder.exists() or folder.is_symlink():
            folder.replace(old)
        try:
            partial.replace(folder)
        except OSError:
            if old.exists() or old.is_symlink():
                old.replace(folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
