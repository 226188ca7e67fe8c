"""Where things lie, and files and folders that are the old ones or the whole new ones; one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml
from filelock import FileLock, Timeout
from pandas.api.types import is_object_dtype, is_string_dtype

PROJECT_ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS_FOLDER = PROJECT_ROOT / "notebooks"
LOCAL_PREFIX = "local-dir:"  # of a backbone's name: weights in a folder
PARTIAL = ".*.partial*"  # what finds them, see `partial_path`
_PARTIAL = re.compile(r"\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial(\.\w+)?")
_NO_NAME = re.compile(r'[/\\:*?"<>|\x00-\x1f\ud800-\udfff]')
_FORMULA, _QUOTED_FORMULA = re.compile(r"'*[=+\-@\t\r\n]"), re.compile(r"'+[=+\-@\t\r\n]")
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DEEPEST_YAML = 50  # levels
_LONGEST_NAME = 200  # bytes of UTF-8: systems end at 255, and a suffix may follow
_STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class InUseError(OSError):
    """Another process works there; the message says which, and since when."""


def project_path(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the project's folder, wherever the notebook was started."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else (PROJECT_ROOT / path).resolve()


def dataset_folder(artifacts: str | Path, dataset: str, profile: str) -> Path:
    """``<artifacts>/<dataset>/<profile>``: where one dataset's results under one profile lie."""
    return project_path(artifacts) / check_name(dataset, "dataset") / check_name(profile, "PROFILE")


def absolute_backbone(name: str) -> str:
    """A backbone's name with the path in ``local-dir:PATH`` made absolute against the current folder."""
    if not name.startswith(LOCAL_PREFIX):
        return name
    return f"{LOCAL_PREFIX}{Path(name.removeprefix(LOCAL_PREFIX)).expanduser().resolve()}"


def check_name(name: Any, what: str) -> str:
    """A name of ``what`` (for the message) that can be a folder's on any system; ValueError if it cannot."""
    ends = (name[:1] + name[-1:]) if isinstance(name, str) and name else " "
    if set(ends) & {".", " "} or _NO_NAME.search(name) or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"{what} becomes the name of a folder; {printable(str(name))[:80]!r} cannot be one.")
    return name


def short_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name of at most so many bytes of UTF-8; of a longer one the beginning, and a hash of the whole."""
    if len(name.encode()) <= longest:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name.encode()[: longest - 17].decode(errors='ignore')}-{digest}"


def printable(text: str) -> str:
    """A file's name for tables and messages: bytes of it that are no UTF-8, or steer a terminal, as ``\\xe9``."""
    with suppress(UnicodeEncodeError):  # half of a pair, as JSON may say it
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = text.encode("utf-8", "backslashreplace").decode()
    return _STEERS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def content_hash(content: Any) -> str:
    """Hash (32 hexadecimal digits) of plain data."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def hold(lock: Path, what: str) -> Iterator[None]:
    """Let no other process (or thread) in while the block runs; InUseError says that ``what`` is held by another.

    The system itself frees the lock of a process that has ended, however it ended, so the next one takes it over.
    """
    held = FileLock(lock, blocking=False)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout as error:
        raise InUseError(f"{what} is in use{_holder(lock)}. Wait until that has ended, or end it.") from error
    except OSError as error:
        raise OSError(f"{what} cannot be written to ({error}).") from error
    mark = lock.stat().st_ino
    try:
        with suppress(OSError):  # for the message only: a full disk, or Windows, where a locked file is not written to
            lock.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            if lock.stat().st_ino == mark:  # not that of another process, in a folder that was deleted and made anew
                lock.unlink()  # before it is let go: filelock does not take one that has lost its name meanwhile
        held.release()


def _holder(lock: Path) -> str:
    try:
        pid, host, *_ = lock.read_text(encoding="utf-8").splitlines()
        since = datetime.fromtimestamp(lock.stat().st_mtime).astimezone()
    except (OSError, ValueError):
        return " by another process"
    return f" by process {pid} on {host}, since {since:%Y-%m-%d %H:%M:%S}"


def uninterrupted() -> AbstractContextManager[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP not stop what finishes a file; in a thread beside the main one they never do."""
    return _handled(signal.SIG_IGN)


def stopped_alike() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; one that is ignored (by nohup) stays so."""
    return _handled(signal.default_int_handler)


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, by a function of the path, and rename it there; nothing is left if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a file is written until it is whole, with the same suffix; the name is short, for the file's own may be as
    long as names can be, and says which process is writing."""
    return path.with_name(f".{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{path.suffix}")


def remove_partial(files: Iterable[Path]) -> None:
    """Of files that `PARTIAL` finds, remove those that processes of this machine began, and that have ended."""
    for file in files:
        name = _PARTIAL.fullmatch(file.name)
        if name and name["host"] == _host() and not psutil.pid_exists(int(name["pid"])):
            file.unlink(missing_ok=True)


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def write_whole_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write an empty folder beside its place, by a function of it, and rename it there; on any error the old stays."""
    token = uuid.uuid4().hex[:8]
    partial, old = (folder.with_name(f".{folder.name}.{word}-{token}") for word in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        write(partial)
        with suppress(FileNotFoundError):
            folder.replace(old)
        try:
            partial.replace(folder)
        except OSError:
            with suppress(FileNotFoundError):
                old.replace(folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        old.unlink()  # a link, which is not followed


def write_json(content: Any, path: Path, indent: int = 2) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def read_yaml(source: str | Path, where: str = "") -> Any:
    """What YAML (or its file) says: plain values, without aliases, of which a few lines can make millions of values.

    The ValueError of what is no such YAML says ``where`` it stands (default: the file).
    """
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"alias *{event.anchor} is not read here; write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_YAML:
                raise ValueError(f"more than {_DEEPEST_YAML} levels")
        return yaml.safe_load(text)
    except Exception as error:  # values like "!!timestamp x" raise what Python's own functions like
        why = str(error) or type(error).__name__
        raise ValueError(f"{where or source} is no YAML that can be read ({why}).") from error


def cell(value: Any) -> Any:
    """A value for a CSV: text that a spreadsheet would run as a formula gets ``'`` in front; numbers stay."""
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """A table for a CSV: each `cell`, and the names of its columns."""
    return _map_text(table, cell)


def from_cells(table: pd.DataFrame) -> pd.DataFrame:
    """A table read from a CSV of `cells`, as it was."""
    return _map_text(table, lambda one: one[1:] if isinstance(one, str) and _QUOTED_FORMULA.match(one) else one)


def _map_text(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    changed = table.rename(columns=change)  # classes are columns too
    for place, kind in enumerate(table.dtypes):
        if is_object_dtype(kind) or is_string_dtype(kind):
            changed.isetitem(place, table.iloc[:, place].map(change, na_action="ignore"))
    return changed


def write_csv(table: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write a whole CSV of `cells`, without the index."""
    write_whole(path, lambda file: cells(table).to_csv(file, index=False, **options))


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read what `write_csv` wrote."""
    return from_cells(pd.read_csv(path, **options))
