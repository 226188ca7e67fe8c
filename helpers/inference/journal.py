"""What a cascade has done, one JSON line a photo: a run that was killed goes on from it; and the tables made of it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.inference.presets import CascadeError
from helpers.inference.stages import FOLDERS, STAGE_COLUMNS
from helpers.paths import PARTIAL, cell, remove_partial, write_whole

JOURNAL, ABOUT, LOCK = "journal.jsonl", "cascade.json", ".lock"
TABLES = ("verdicts.csv", "verdicts.json", "stages.csv", "stages.json")
STAGE_FILE = "inference_results.json"
VERSION = 1


class Journal:
    """The journal in a folder of results, appended and forced to the disk batch by batch.

    The first line says what the results depend on (``about``). A last line that a power cut left half written is
    dropped. Of two lines on one photo the later counts. ``restart`` removes what is noted here as written.

    Raises:
        CascadeError: the folder holds results of something else, or other files.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], restart: bool = False) -> None:
        self.file = folder / JOURNAL
        self.places: dict[str, int] = {}  # key of a photo -> where its line begins
        self._stamps: dict[str, str] = {}  # of those that were judged without an error
        self._about = json.loads(json.dumps(dict(about)))  # as JSON gives it back: tuples become lists
        if self.file.is_file():
            remove_partial(folder.rglob(PARTIAL))
            if not restart:
                self._open()
                return
            _remove_results(self.file)
        elif any(file.name != LOCK for file in folder.iterdir()):
            raise CascadeError(f"{folder} holds other files (no {JOURNAL}); give a new or empty folder.")
        self._begin()

    def has(self, key: str, stamp: str) -> bool:
        """Whether a photo is judged, and has not changed since."""
        return self._stamps.get(key) == stamp

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append photos; they are on the disk when this returns, and none is noted if that fails."""
        lines = [(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode() for record in records]
        try:
            size = self.file.stat().st_size
        except FileNotFoundError as error:
            self._begin()  # so that the next call finds a journal to go on with
            raise FileNotFoundError(f"{self.file.parent} was deleted or moved meanwhile") from error
        try:
            with self.file.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # else the next call drops the half line
                os.truncate(self.file, size)
            raise
        for record, line in zip(records, lines, strict=True):
            self._note(record, size)
            size += len(line)

    def read(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        """What is noted of photos, in the order of the keys; those that are not done are left out."""
        with self.file.open("rb") as file:
            for key in keys:
                if key in self.places:
                    file.seek(self.places[key])
                    yield json.loads(file.readline())

    def _begin(self) -> None:
        self.places, self._stamps = {}, {}
        header = json.dumps({"version": VERSION, "about": self._about}, ensure_ascii=False) + "\n"
        write_whole(self.file, lambda file: file.write_text(header, encoding="utf-8"))

    def _open(self) -> None:
        with self.file.open("rb") as lines:
            self._check_header(_parse(lines.readline()))
            place = lines.tell()
            for line in lines:
                record = _parse(line)
                if not _is_record(record):
                    break
                self._note(record, place)
                place += len(line)
            if lines.read(1):
                raise CascadeError(f"{self.file} is damaged at byte {place}; start again with restart (--restart).")
        os.truncate(self.file, place)

    def _note(self, record: Mapping[str, Any], place: int) -> None:
        self.places[record["key"]] = place
        self._stamps[record["key"]] = record["stamp"]
        if any(row["error"] for row in record["stages"]):
            del self._stamps[record["key"]]  # it is tried again

    def _check_header(self, header: Any) -> None:
        there = header.get("about") if isinstance(header, dict) else None
        if not isinstance(there, dict):
            raise CascadeError(f"{self.file} is damaged at its beginning; start again with restart (--restart).")
        if header.get("version") != VERSION:
            raise CascadeError(f"{self.file} was written by another version; give another folder, or --restart.")
        different = sorted(name for name in {*there, *self._about} if there.get(name) != self._about.get(name))
        what = f"another cascade ({', '.join(different)} differ: other rules, thresholds or runs)"
        if different == ["root"]:
            what = f"the photos in {there.get('root') or 'memory'}, not of those in {self._about['root'] or 'memory'}"
        if different:
            ways = "Give another folder (--out), or replace them (restart=True, --restart)."
            raise CascadeError(f"{self.file.parent} holds results of {what}. {ways}")


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None


def _is_record(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("key"), str)
        and isinstance(content.get("verdict"), dict)
        and isinstance(content.get("stages"), list)
        and all(isinstance(row, dict) and {*STAGE_COLUMNS} <= {*row} for row in content["stages"])
        and "stamp" in content
    )


def _remove_results(journal: Path) -> None:
    """Remove what a journal says was written, the journal last, and the folders that are empty then."""
    folder, names = journal.parent, {ABOUT, *TABLES}
    with journal.open("rb") as lines:
        for record in filter(_is_record, map(_parse, lines)):
            for row in record["stages"]:
                names |= {f"{row['stage']}/{STAGE_FILE}", *(str(row[kind]) for kind in FOLDERS if row[kind])}
    # a journal is a file like others: what it names elsewhere was not written by us
    within = [Path(name) for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
    for file in [*(folder / name for name in within), journal]:
        if file.is_file():
            file.unlink()
    for below in sorted({folder / parent for name in within for parent in name.parents[:-1]}, reverse=True):
        with suppress(OSError):  # not empty
            below.rmdir()


def write_rows(rows: Callable[[], Iterator[dict[str, Any]]], columns: Sequence[str], stem: Path) -> None:
    """Write rows as ``.csv`` and ``.json``, each whole, with constant memory."""

    def write_csv(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: cell(value) for name, value in row.items()} for row in rows())

    write_whole(stem.with_suffix(".csv"), write_csv)
    write_json_rows(rows(), stem.with_suffix(".json"))


def write_json_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as a JSON list, a line a row, with constant memory."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, row in enumerate(rows):
                file.write(("\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
            file.write("\n]\n")

    write_whole(path, write)
