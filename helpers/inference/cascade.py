"""Stages in a row: a photo goes on as long as each stage's rule lets it, and gets one verdict.

A cascade is written as YAML:

    name: mesh
    about: what it is for
    parameters:                 # --set NAME=VALUE; ARTIFACTS, DATASET and PROFILE say where runs lie
      DATASET: mesh
      area_thresh: 0.02
    stages:
      - run: unet               # artifacts/<DATASET>/<PROFILE>/unet, or a path
        pixel_threshold: start
        rule: area >= area_thresh
        otherwise: OK           # verdict where the rule does not hold
      - run: deeplabv3plus
        rule: score > image     # the threshold that is stored with the run
        then: DEFECT            # verdict where it holds: in the last stage only
        otherwise: OK

A value that is the name of a parameter stands for the parameter's value. Keys of a stage: those of
:class:`helpers.inference.stages.RunStage`, or with ``foreground:`` instead of ``run:`` those of
:class:`helpers.inference.stages.CutterStage`.

Results go to a folder:

    cascade.json                    what decided: stages, rules, thresholds, runs, parameters
    verdicts.csv, .json             one row a photo, see VERDICT_COLUMNS
    stages.csv, .json               one row a photo (or object) and stage, see STAGE_COLUMNS
    <stage>/inference_results.json  the rows of one stage
    <stage>/masks, maps, overlays   see helpers.inference.saving
    journal.jsonl                   what is done, one line a photo; a run that was killed goes on from it
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers.inference.predictor import Picture, Predictor, as_pictures, read_batches
from helpers.inference.presets import (
    CascadeError,
    cascade_parameters,
    check_keys,
    check_stage,
    check_values,
    find_cascade,
    read_cascade,
    resolve,
    run_folder,
)
from helpers.inference.saving import FOLDERS
from helpers.inference.stages import (
    CLASS,
    ERROR,
    STAGE_COLUMNS,
    CutterStage,
    Item,
    OpenSet,
    Rule,
    RunStage,
    Stage,
    sign_of,
)
from helpers.paths import (
    PARTIAL,
    cell,
    check_name,
    hold,
    printable,
    project_path,
    remove_partial,
    short_name,
    write_json,
    write_whole,
)
from helpers.progress import progress, sentence
from helpers.runs import Run

JOURNAL, ABOUT, LOCK = "journal.jsonl", "cascade.json", ".lock"
TABLES = ("verdicts.csv", "verdicts.json", "stages.csv", "stages.json")
OWN_FILES = (JOURNAL, ABOUT, *TABLES)
STAGE_FILE = "inference_results.json"
VERSION = 1  # of the journal
VERDICT_COLUMNS = (
    *("photo", "image_path", "verdict", "abnormal", "stage", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "n_objects", "n_abnormal", "marked_pixels", "milliseconds", "error"),
)
"""Of a photo. ``marked_pixels`` is the most that the map of any stage, or of an object, marks as defect: where it is
above 0 and the verdict is good, map and verdict disagree."""


class Cascade:
    """Stages in a row.

    Args:
        name: of the cascade.
        stages: at least one; all but the last pass photos on, the last gives its own verdict.
        parameters: what they were made with, for the record.
        about: what it is for.
        batch_size: photos that are read and judged at once.

    Raises:
        CascadeError: no stage, two of one name, or a verdict is missing or never given.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        *,
        parameters: Mapping[str, Any] | None = None,
        about: str = "",
        batch_size: int = 8,
    ) -> None:
        if not stages:
            raise CascadeError(f"cascade {name}: it has no stages; give at least one.")
        try:
            check_name(name, "name of the cascade")
            names = [check_name(stage.name, f"cascade {name}: name of a stage").casefold() for stage in stages]
        except ValueError as error:
            raise CascadeError(f"{error} Give another 'name'.") from error
        for twice in (one for one in names if names.count(one) > 1):
            raise CascadeError(f"cascade {name}: two stages are called {twice}; give one of them another 'name'.")
        for taken in {*names} & {*OWN_FILES}:
            raise CascadeError(f"cascade {name}: {taken} is a file of the results; give that stage another 'name'.")
        for stage in stages:
            _check_verdicts(name, stage, is_last=stage is stages[-1])
        if sum(isinstance(stage, CutterStage) for stage in stages) > 1:
            raise CascadeError(f"cascade {name}: objects are cut out once; two stages with 'foreground' are too many.")
        if batch_size < 1:
            raise CascadeError(f"batch_size must be 1 or more, got {batch_size}.")
        depths = {stage.predictor.bit_depth for stage in stages if isinstance(stage, RunStage)}
        if len(depths) > 1:
            listed = " and ".join(map(str, sorted(depths)))
            raise CascadeError(f"cascade {name}: its runs learned from photos of {listed} bits; train them alike.")
        self.bit_depth = next(iter(depths), None)
        self.name, self.stages, self.about = name, list(stages), about
        self.parameters, self.batch_size = dict(parameters or {}), batch_size

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        *,
        backend: str = "torch",
        device: str = "auto",
        batch_size: int = 8,
    ) -> Cascade:
        """Open a cascade and the runs it needs.

        Args:
            path: YAML file, or the name of a preset (a file in ``notebooks/params/cascades``).
            settings: values of parameters that the file declares, and of ARTIFACTS, DATASET and PROFILE.
            backend: of every run, see :data:`helpers.inference.predictor.BACKENDS`; a network that cuts objects out
                stays in torch.
            device: see :func:`helpers.compute.trainer_device`.
            batch_size: photos at once.

        Raises:
            CascadeError: the file is missing or says something that is not known; the message names it.
            MissingRunError: a run is not there; the message says which notebook makes it.
        """
        file = find_cascade(path)
        content = read_cascade(file)
        parameters = cascade_parameters(content, settings or {}, file)
        stages = []
        for number, written in enumerate(content["stages"], start=1):
            where = f"{file.name}, stage {number}"
            check_stage(written, where)
            keys = {key: value if key == "rule" else resolve(value, parameters) for key, value in written.items()}
            check_values(keys, where)
            try:
                stages.append(_open_stage(keys, parameters, backend, device, batch_size))
            except OSError:
                raise
            except Exception as error:  # a damaged network raises what torch likes
                raise CascadeError(f"{where}: {sentence(error)}") from error
        name = content.get("name", file.stem)
        return cls(name, stages, parameters=parameters, about=str(content.get("about", "")), batch_size=batch_size)

    @classmethod
    def of_run(
        cls,
        run_dir: str | Path | Run,
        settings: Mapping[str, Any] | None = None,
        *,
        backend: str = "torch",
        device: str = "auto",
        batch_size: int = 8,
    ) -> Cascade:
        """A finished run as a cascade of one stage.

        A detector calls a photo DEFECT or OK. A classifier with a normal class names the defect where the threshold is
        passed, else the normal class; one without names the class.

        Args:
            run_dir: the run's folder (relative: to the project), or the run.
            settings: ``threshold`` of the score and ``pixel_threshold`` of the map: name of a threshold stored with
                the run (default: ``image`` and ``pixel``), or a number.
            backend: see :data:`helpers.inference.predictor.BACKENDS`.
            device: see :func:`helpers.compute.trainer_device`.
            batch_size: photos at once.

        Raises:
            CascadeError: for another setting.
            MissingRunError: there is no finished run.
        """
        parameters = {"threshold": "image", "pixel_threshold": "pixel"}
        check_keys(settings or {}, parameters, "settings of a run")
        parameters |= settings or {}
        predictor = Predictor(run_dir, backend, device=device, batch_size=batch_size)
        options: dict[str, Any] = {"rule": "score > threshold", "then": "DEFECT", "otherwise": "OK"}
        if predictor.normal_class:
            options |= {"then": CLASS, "otherwise": predictor.normal_class}
        elif predictor.classes:
            options |= {"rule": "always", "then": CLASS, "otherwise": ""}
        stage = RunStage(predictor, pixel_threshold=parameters["pixel_threshold"], parameters=parameters, **options)
        return cls(
            stage.name, [stage], parameters=parameters, about=f"run {predictor.run.folder}", batch_size=batch_size
        )

    def describe(self) -> dict[str, Any]:
        """All that decides the results, plain data."""
        return {"name": self.name, "stages": [stage.describe() for stage in self.stages]}

    def run(
        self,
        images: Picture | Iterable[Picture],
        out_dir: str | Path,
        *,
        save: Collection[str] = tuple(FOLDERS),
        restart: bool = False,
    ) -> pd.DataFrame:
        """Judge photos, a batch at a time, and write what every stage decided.

        Memory does not grow with the number of photos, but for the table that is returned. Each finished batch is on
        the disk before the next one begins: after an interruption, or with more photos in the folder, the same call
        goes on with what is missing. A photo that has changed since is judged again. One that cannot be read has the
        verdict ``ERROR``, and the rest goes on; the next call tries it again.

        Args:
            images: a folder (with those below), a photo, or several of either all paths or all pictures, see
                :data:`helpers.inference.predictor.Picture`.
            out_dir: folder for the results (relative: to the project).
            save: pictures to save of each photo and stage with a map: ``mask``, ``map``, ``overlay``.
            restart: throw away what an earlier run wrote into the folder; other files stay.

        Returns:
            One row a photo, in order, with :data:`VERDICT_COLUMNS`.

        Raises:
            CascadeError: the folder holds results of another cascade or of other photos, or something else; or it
                cannot be written to.
            FileNotFoundError: there are no such photos.
            InUseError: another process judges into this folder.
        """
        unknown = [kind for kind in save if kind not in FOLDERS]
        if unknown:
            raise CascadeError(f"save: {', '.join(unknown)} is not known; known: {', '.join(FOLDERS)}.")
        root, jobs = _jobs(images)
        out = project_path(out_dir)
        # files that are listed one by one cannot be mistaken for results, whatever folder they have in common
        if root and isinstance(images, str | Path) and out.is_relative_to(root):
            raise CascadeError(
                f"{out} lies among the photos of {root}; the results need a folder of their own (--out)."
            )
        if out.exists() and not out.is_dir():
            raise CascadeError(f"{out} is a file; give a folder for the results.")
        about = self.describe() | {"save": sorted(save), "root": root}
        with hold(out / LOCK, f"The folder of results {out}"):
            with _writing(out):
                journal = Journal(out, about, restart)
                write_json(about | {"parameters": self.parameters, "about": self.about}, out / ABOUT)
            try:
                self._judge_all(jobs, journal, out, save)
            except BaseException:
                with suppress(OSError):  # it must not hide what went wrong first
                    self._write_tables(jobs, journal, out)
                raise
            with _writing(out):
                rows = self._write_tables(jobs, journal, out)
        return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS))

    def _judge_all(self, jobs: Jobs, journal: Journal, out: Path, save: Collection[str]) -> None:
        pending: list[Job] = []

        def feed() -> Iterator[tuple[str, Picture]]:
            todo = (job for job in jobs if not journal.has(job))
            for job in progress(todo, self.name, total=jobs.count_if(lambda job: not journal.has(job))):
                pending.append(job)
                yield job.source, job.picture

        for batch in read_batches(feed(), self.batch_size, self.bit_depth):
            done = pending[: len(batch)]
            del pending[: len(batch)]
            items = [Item(job.source, job.key, read.photo) for job, read in zip(done, batch, strict=True)]
            for item, read in zip(items, batch, strict=True):
                if read.problem is not None:
                    item.fail(self.stages[0].name, printable(str(read.problem)))
            with _writing(out):
                self.judge(items, out, save)
                journal.add([_record(job, item) for job, item in zip(done, items, strict=True)])

    def judge(self, items: Sequence[Item], out: Path, save: Collection[str] = ()) -> None:
        """Take items that have been read through all stages; their rows and verdicts are noted in them.

        Args:
            items: photos; those with a verdict already are left alone.
            out: folder for the pictures.
            save: which pictures.
        """
        active = [item for item in items if not item.verdict]
        for stage in self.stages:
            active = stage.run(active, out, save) if active else []
        for item in items:
            if item.parts:
                judge_by_parts(item)
        for stage in self.stages:
            if isinstance(stage, CutterStage):
                for item in items:
                    stage.finish(item, out, save)

    def _write_tables(self, jobs: Jobs, journal: Journal, out: Path) -> list[dict[str, Any]]:
        """Write the tables from the journal, streaming; returns the verdicts."""
        order = [job.key for job in jobs] if jobs.repeatable else list(journal.keys)

        def rows_of(stage: str) -> Callable[[], Iterator[dict[str, Any]]]:
            def rows() -> Iterator[dict[str, Any]]:
                for record in journal.read(order):
                    yield from (row for row in record["stages"] if stage in ("", row["stage"]))

            return rows

        verdicts = [record["verdict"] for record in journal.read(order)]
        _write_rows(lambda: iter(verdicts), VERDICT_COLUMNS, out / "verdicts")
        _write_rows(rows_of(""), STAGE_COLUMNS, out / "stages")
        for stage in self.stages:
            _write_json_rows(rows_of(stage.name), out / stage.name / STAGE_FILE)
        return verdicts


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CascadeError(
            f"{out} cannot be written to ({printable(str(error))}). What is done is kept; once it can be, the same "
            "call goes on with the rest."
        ) from error


# ---------------------------------------------------------------------------------------------------------- the photos


@dataclass(frozen=True)
class Job:
    """One photo to be judged.

    Attributes:
        picture: the photo or its path.
        source: absolute path, or the key for a picture without one.
        key: its name in the folder of results, unique, without suffix.
        photo: its name in the tables: path relative to the folder, with suffix.
        stamp: changes when the photo does.
    """

    picture: Picture
    source: str
    key: str
    photo: str
    stamp: str


class Jobs:
    """Photos in order; paths can be gone through again, pictures that come one by one cannot."""

    def __init__(self, make: Callable[[], Iterator[Job]], total: int | None) -> None:
        self._make, self.repeatable = make, total is not None

    def __iter__(self) -> Iterator[Job]:
        return self._make()

    def count_if(self, condition: Callable[[Job], bool]) -> int | None:
        """How many meet a condition; None where nobody can say."""
        return sum(map(condition, self)) if self.repeatable else None


def _jobs(images: Picture | Iterable[Picture]) -> tuple[str, Jobs]:
    """The photos, and the folder that their names are relative to (empty for pictures without a path)."""
    if isinstance(images, str | Path) and not Path(images).expanduser().exists():
        raise FileNotFoundError(f"There is no {images}; give a photo or a folder of photos.")
    pictures = as_pictures(images)
    if isinstance(pictures, Sequence) and pictures and all(isinstance(one, str | Path) for one in pictures):
        paths = [Path(os.path.abspath(Path(one).expanduser())) for one in pictures]  # noqa: PTH100  (keeps links)
        given = Path(images).expanduser() if isinstance(images, str | Path) else None
        root = given.absolute() if given is not None and given.is_dir() else _common_folder(paths)
        names = [path.relative_to(root).as_posix() for path in paths]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CascadeError(f"{root / twice} is given twice; give each photo once.")
        names = [printable(name) for name in names]
        entries = list(zip(paths, names, _unique_keys(names), strict=True))
        return str(root), Jobs(
            lambda: (Job(path, str(path), key, name, _file_stamp(path)) for path, name, key in entries), len(entries)
        )
    total = len(pictures) if isinstance(pictures, Sequence | np.ndarray) else None
    if total == 0:
        raise CascadeError("There is no photo to judge.")

    def make() -> Iterator[Job]:
        for number, picture in enumerate(pictures):
            if isinstance(picture, str | Path):
                raise CascadeError("Give paths as a list, and not together with pictures.")
            key = f"{number:06d}"
            yield Job(picture, f"#{number}", key, key, _picture_stamp(picture))

    return "", Jobs(make, total)


def _common_folder(paths: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:  # two drives
        raise CascadeError(
            f"The photos have no folder in common ({error}); judge them one folder at a time."
        ) from error


def _unique_keys(names: Sequence[str]) -> list[str]:
    """Names without suffix, with it where two would be the same file (also where case does not count); none too long
    for a folder of its objects.
    """
    keys = [Path(name).with_suffix("").as_posix() for name in names]
    keys = [(Path(key).parent / short_name(Path(key).name)).as_posix() for key in keys]
    counts: dict[str, int] = {}
    for key in keys:
        counts[key.casefold()] = counts.get(key.casefold(), 0) + 1
    taken = {key.casefold() for key in keys if counts[key.casefold()] == 1}
    unique = []
    for name, key in zip(names, keys, strict=True):
        if counts[key.casefold()] > 1:
            base = f"{key}_{Path(name).suffix[1:]}"
            key, number = base, 2
            while key.casefold() in taken:
                key, number = f"{base}_{number}", number + 1
            taken.add(key.casefold())
        unique.append(key)
    return unique


def _file_stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _picture_stamp(picture: np.ndarray | Image.Image) -> str:
    array = np.ascontiguousarray(np.asarray(picture))
    return hashlib.blake2b(repr((array.shape, array.dtype.str)).encode() + array.tobytes(), digest_size=16).hexdigest()


# --------------------------------------------------------------------------------------------------------- the journal


class Journal:
    """What is done, one JSON line a photo, appended and forced to the disk batch by batch.

    The first line says which cascade, runs, photos' folder and pictures it belongs to. A last line that a power cut
    left half written is dropped. Of two lines on one photo the later counts.

    Args:
        folder: of the results.
        about: what the results depend on.
        restart: remove what is noted here as written, and begin anew.

    Raises:
        CascadeError: the folder holds results of something else, or other files.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], restart: bool = False) -> None:
        self.file = folder / JOURNAL
        self.keys: dict[str, int] = {}  # key -> where its line begins
        self._stamps: dict[str, str] = {}  # key -> of those that were judged without an error
        # as JSON gives it back: tuples become lists
        self._about = json.loads(json.dumps(dict(about)))
        if self.file.is_file():
            remove_partial(folder.rglob(PARTIAL))
            if not restart:
                self._open()
                return
            _remove_results(self.file)
        elif any(file.name != LOCK for file in folder.iterdir()):
            raise CascadeError(
                f"{folder} holds other files (no {JOURNAL}); give a new or empty folder for the results."
            )
        self._begin()

    def _begin(self) -> None:
        self.keys, self._stamps = {}, {}
        header = json.dumps({"version": VERSION, "about": self._about}, ensure_ascii=False) + "\n"
        write_whole(self.file, lambda file: file.write_text(header, encoding="utf-8"))

    def _open(self) -> None:
        with self.file.open("rb") as lines:
            self._check_header(lines.readline())
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
        key = record["key"]
        self.keys[key] = place
        self._stamps[key] = record["stamp"]
        if any(row["error"] for row in record["stages"]):
            del self._stamps[key]  # it is tried again

    def _check_header(self, line: bytes) -> None:
        header = _parse(line)
        if not isinstance(header, dict) or not isinstance(header.get("about"), dict):
            raise CascadeError(f"{self.file} is damaged at its beginning; start again with restart (--restart).")
        if header.get("version") != VERSION:
            raise CascadeError(f"{self.file} was written by another version; give another folder, or --restart.")
        there = header["about"]
        different = sorted(name for name in {*there, *self._about} if there.get(name) != self._about.get(name))
        if not different:
            return
        if different == ["root"]:
            what = (
                f"of the photos in {there.get('root') or 'memory'}, not of those in {self._about['root'] or 'memory'}"
            )
        else:
            what = f"of another cascade ({', '.join(different)} differ: other rules, thresholds or runs)"
        raise CascadeError(
            f"{self.file.parent} holds results {what}. Give another folder (--out), or replace them (restart=True, "
            "--restart)."
        )

    def has(self, job: Job) -> bool:
        """Whether a photo is judged, and has not changed since."""
        return self._stamps.get(job.key) == job.stamp

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
                if key in self.keys:
                    file.seek(self.keys[key])
                    yield json.loads(file.readline())


def _parse(line: bytes) -> Any:
    """What a whole line says; None for one that breaks off."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None


def _is_record(content: Any) -> bool:
    """Whether a line is one of `_record`."""
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


# ------------------------------------------------------------------------------------------------------------ verdicts


def judge_by_parts(item: Item) -> None:
    """A photo of several objects is as bad as its worst one: an abnormal one before one that nobody could judge."""
    abnormal = [part for part in item.parts if part.abnormal]
    failed = [part for part in item.parts if part.verdict == ERROR]
    worst = max(abnormal or failed or item.parts, key=_badness)
    item.verdict, item.abnormal, item.error = worst.verdict, worst.abnormal, worst.error


def deciding_row(item: Item) -> dict[str, Any]:
    """What the stage that decided on a photo noted: of several objects, on the worst one that has the verdict."""
    if not item.parts:
        return _last(item)
    same = [part for part in item.parts if part.verdict == item.verdict and part.abnormal == item.abnormal]
    return _last(max(same, key=_badness))


def _badness(item: Item) -> tuple[int, float]:
    """How many stages it went through; then what the last rule looked at, turned round for ``<``, else the score."""
    row = _last(item)
    value = next((row[name] for name in ("value", "score") if row.get(name) is not None), -math.inf)
    return len(item.rows), -value if sign_of(row.get("rule") or "") in ("<", "<=") else value


def _last(item: Item) -> dict[str, Any]:
    return item.rows[-1] if item.rows else {}


def _record(job: Job, item: Item) -> dict[str, Any]:
    """One photo's line of the journal, all text of it printable."""
    rows = [*item.rows, *(row for part in item.parts for row in part.rows)]
    for row in rows:
        row["photo"] = job.photo
    deciding = deciding_row(item)
    verdict = {name: deciding.get(name) for name in VERDICT_COLUMNS}
    verdict |= {
        "photo": job.photo,
        "image_path": printable(job.source),
        "verdict": item.verdict,
        "abnormal": item.abnormal,
        "n_objects": len(item.parts) if item.parts else None,
        "n_abnormal": sum(bool(part.abnormal) for part in item.parts) if item.parts else None,
        "marked_pixels": max((row["mask_pixels"] for row in rows if row["pixel_threshold"] is not None), default=None),
        "milliseconds": round(sum(row["milliseconds"] or 0.0 for row in rows), 3),
        "error": item.error or None,
    }
    return {
        "key": job.key,
        "stamp": job.stamp,
        "verdict": {name: verdict[name] for name in VERDICT_COLUMNS},
        "stages": rows,
        "at": round(time.time(), 3),
    }


def _write_rows(rows: Callable[[], Iterator[dict[str, Any]]], columns: Sequence[str], stem: Path) -> None:
    """Write rows as ``.csv`` and ``.json``, each whole."""

    def write_csv(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: cell(value) for name, value in row.items()} for row in rows())

    write_whole(stem.with_suffix(".csv"), write_csv)
    _write_json_rows(rows, stem.with_suffix(".json"))


def _write_json_rows(rows: Callable[[], Iterator[dict[str, Any]]], path: Path) -> None:
    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, row in enumerate(rows()):
                file.write(("\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
            file.write("\n]\n")

    write_whole(path, write)


# ------------------------------------------------------------------------------------------------------------- opening


def _open_stage(
    keys: dict[str, Any], parameters: Mapping[str, Any], backend: str, device: str, batch_size: int
) -> Stage:
    if not isinstance(keys.get("ignore_no_defect", False), bool):
        raise ValueError(f"ignore_no_defect={keys['ignore_no_defect']!r} must be true or false.")
    if "foreground" in keys:
        folder = run_folder(keys.pop("foreground"), parameters)
        return CutterStage(folder, device=device, **keys)
    Rule.parse(keys.get("rule", "score > image"), parameters)  # before a network is loaded
    folder, unknown = run_folder(keys.pop("run"), parameters), keys.pop("unknown", None)
    unknown_by = keys.pop("unknown_by", "distance")
    if unknown in ("none", False):
        unknown = None
    predictor = Predictor(folder, backend, device=device, batch_size=batch_size)
    if unknown is not None:
        unknown = OpenSet.load(run_folder(unknown, parameters), predictor, unknown_by)
    return RunStage(predictor, parameters=parameters, unknown=unknown, **keys)


def _check_verdicts(cascade: str, stage: Stage, is_last: bool) -> None:
    """Refuse a stage whose photos would be left without a verdict, or with two."""
    if isinstance(stage, CutterStage):
        if is_last:
            raise CascadeError(f"cascade {cascade}: {stage.name} finds objects, it judges none; add a stage.")
        return
    if not isinstance(stage, RunStage):
        return
    if bool(stage.then) != is_last:
        mend = "say 'then: VERDICT'" if is_last else "leave 'then' out, or make it the last"
        raise CascadeError(f"cascade {cascade}: where its rule holds, stage {stage.name} has no way on; {mend}.")
    if stage.rule.kind != "always" and not stage.otherwise:
        raise CascadeError(f"cascade {cascade}: stage {stage.name} needs 'otherwise: VERDICT' for what it stops.")
    if stage.rule.kind == "always" and stage.otherwise:
        raise CascadeError(f"cascade {cascade}: stage {stage.name} stops nothing (rule always); drop 'otherwise'.")
    if is_last and stage.ignore_no_defect:
        raise CascadeError(f"cascade {cascade}: 'ignore_no_defect' is for a stage with another one behind it.")
