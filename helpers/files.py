"""Files and folders that are the old ones or the whole new ones, never half of either; one writer at a time."""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_PARTIAL = re.compile(r"\.[0-9a-f]{12}\.partial(\.\w+)?")


class InUseError(OSError):
    """Another process works there; the message says which, and since when."""


@contextmanager
def hold(lock: Path, what: str) -> Iterator[None]:
    """Let no other process (or thread) in while the block runs.

    The system itself frees the lock of a process that has ended, however it ended, so the next one takes it over.

    Args:
        lock: a file for it, in a folder that is made if it is missing; it is gone when the block ends.
        what: is held, for the message.

    Raises:
        InUseError: another one holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise InUseError(f"{what} is in use{_holder(lock)}. Wait until that has ended, or end it.") from error
    try:
        with suppress(OSError):  # for the message only: a full disk, or Windows, where a locked file is not written to
            lock.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before it is let go: filelock does not take one that has lost its name meanwhile
        held.release()


def _holder(lock: Path) -> str:
    try:
        pid, host, *_ = lock.read_text(encoding="utf-8").splitlines()
        since = datetime.fromtimestamp(lock.stat().st_mtime).astimezone()
    except (OSError, ValueError):
        return " by another process"
    return f" by process {pid} on {host}, since {since:%Y-%m-%d %H:%M:%S}"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it there; nothing is left behind if writing fails.

    Args:
        path: the file; its folder is made if it is missing.
        write: called with the path to write to, which has the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a file is written until it is whole: a short name, for the file's own may be as long as names can be."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.partial{path.suffix}")


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half written in a folder and those below; nothing may be writing there."""
    for file in folder.rglob(".*.partial*"):
        if _PARTIAL.fullmatch(file.name) and file.is_file():
            file.unlink()


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
