"""Files that are either the old ones or the whole new ones, never half of either."""

from __future__ import annotations

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
