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
:class:`helpers.inference.cutter.CutterStage`.

Results go to a folder:

    cascade.json                    what decided: stages, rules, thresholds, runs, parameters
    verdicts.csv, .json             one row a photo, see VERDICT_COLUMNS
    stages.csv, .json               one row a photo (or object) and stage, see STAGE_COLUMNS
    <stage>/inference_results.json  the rows of one stage
    <stage>/masks, maps, overlays   what each stage saw and marked
    journal.jsonl                   what is done, one line a photo; a run that was killed goes on from it
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from helpers.inference.cutter import CutterStage
from helpers.inference.journal import ABOUT, JOURNAL, LOCK, STAGE_FILE, TABLES, Journal, write_json_rows, write_rows
from helpers.inference.pictures import Picture, as_pictures, read_batches
from helpers.inference.predictor import Predictor
from helpers.inference.presets import (
    CascadeError,
    cascade_parameters,
    check_keys,
    read_cascade,
    run_folder,
    stage_options,
)
from helpers.inference.stages import CLASS, ERROR, FOLDERS, STAGE_COLUMNS, Item, OpenSet, Rule, RunStage, sign_of
from helpers.paths import check_name, hold, printable, project_path, short_name, write_json
from helpers.progress import progress, sentence
from helpers.runs import Run

VERDICT_COLUMNS = (
    *("photo", "image_path", "verdict", "abnormal", "stage", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "n_objects", "n_abnormal", "marked_pixels", "milliseconds", "error"),
)
"""Of a photo. ``marked_pixels`` is the most that the map of any stage, or of an object, marks as defect: where it is
above 0 and the verdict is good, map and verdict disagree."""

Stage = RunStage | CutterStage


class Cascade:
    """Stages in a row: all but the last pass photos on, the last gives its own verdict.

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
    ) -> None:
        self.name, self.stages, self.about, self.parameters = name, list(stages), about, dict(parameters or {})
        _check_stages(name, self.stages)
        self.batch_size = self.run_stages[0].predictor.batch_size
        depths = {stage.predictor.bit_depth for stage in self.run_stages}
        if len(depths) > 1:
            listed = " and ".join(map(str, sorted(depths)))
            raise CascadeError(f"cascade {name}: its runs learned from photos of {listed} bits; train them alike.")
        self.bit_depth = next(iter(depths), None)

    @classmethod
    def from_yaml(cls, path: str | Path, settings: Mapping[str, Any] | None = None, **options: Any) -> Cascade:
        """Open a cascade, a YAML file or the name of a preset (a file in ``notebooks/params/cascades``), and its runs.

        ``settings`` are values of parameters that the file declares, and of ARTIFACTS, DATASET and PROFILE; ``options``
        those of :class:`helpers.inference.Predictor`. A network that cuts objects out stays in torch.
        """
        file, content = read_cascade(path)
        parameters = cascade_parameters(content, settings or {}, file)
        stages = []
        for number, written in enumerate(content["stages"], start=1):
            where = f"{file.name}, stage {number}"
            keys = stage_options(written, parameters, where)
            try:
                stages.append(_open_stage(keys, parameters, options))
            except OSError:
                raise
            except Exception as error:  # a damaged network raises what torch likes
                raise CascadeError(f"{where}: {sentence(error)}") from error
        name, about = content.get("name", file.stem), str(content.get("about", ""))
        return cls(name, stages, parameters=parameters, about=about)

    @classmethod
    def of_run(cls, run_dir: str | Path | Run, settings: Mapping[str, Any] | None = None, **options: Any) -> Cascade:
        """A finished run as a cascade of one stage; ``options`` of :class:`helpers.inference.Predictor`.

        A detector calls a photo DEFECT or OK. A classifier with a normal class names the defect where the threshold is
        passed, else the normal class; one without names the class. ``settings``: ``threshold`` of the score and
        ``pixel_threshold`` of the map, the name of a threshold stored with the run, or a number.
        """
        parameters = {"threshold": "image", "pixel_threshold": "pixel"}
        check_keys(settings or {}, parameters, "settings of a run")
        parameters |= settings or {}
        predictor = Predictor(run_dir, **options)
        keys: dict[str, Any] = {"rule": "score > threshold", "then": "DEFECT", "otherwise": "OK"}
        if predictor.normal_class:
            keys |= {"then": CLASS, "otherwise": predictor.normal_class}
        elif predictor.classes:
            keys |= {"rule": "always", "then": CLASS, "otherwise": ""}
        stage = RunStage(predictor, pixel_threshold=parameters["pixel_threshold"], parameters=parameters, **keys)
        return cls(stage.name, [stage], parameters=parameters, about=f"run {predictor.run.folder}")

    @property
    def run_stages(self) -> list[RunStage]:
        return [stage for stage in self.stages if isinstance(stage, RunStage)]

    @property
    def note(self) -> str | None:
        """What the runs must say of themselves (``untrained backbone``), or None."""
        notes = filter(None, (stage.predictor.run.note for stage in self.run_stages))
        return "; ".join(dict.fromkeys(notes)) or None

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "stages": [stage.describe() for stage in self.stages]}

    def run(
        self,
        images: Picture | Iterable[Picture],
        out_dir: str | Path,
        *,
        save: Collection[str] = tuple(FOLDERS),
        restart: bool = False,
    ) -> pd.DataFrame:
        """Judge a folder (with those below it), a photo, or several, all paths or all pictures, a batch at a time, and
        write what every stage decided: one row a photo, `VERDICT_COLUMNS`.

        Each finished batch is on the disk before the next one begins: after an interruption, or with more photos in the
        folder, the same call goes on with what is missing. A photo that has changed since is judged again. One that
        cannot be read has the verdict ``ERROR``, and the rest goes on; the next call tries it again. ``save``: which
        pictures of each photo and stage with a map; ``restart``: throw away what an earlier run wrote into the folder;
        other files stay.

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
            raise CascadeError(f"{out} lies among the photos of {root}; give the results another folder (--out).")
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

    def _judge_all(self, jobs: Sequence[Job], journal: Journal, out: Path, save: Collection[str]) -> None:
        todo = [job for job in jobs if not journal.has(job.key, job.stamp)]
        queue = iter(todo)
        pictures = ((job.source, job.picture) for job in progress(todo, self.name))
        for batch in read_batches(pictures, self.batch_size, self.bit_depth):
            done = list(islice(queue, len(batch)))
            items = [Item(job.source, job.key, read.photo) for job, read in zip(done, batch, strict=True)]
            for item, read in zip(items, batch, strict=True):
                if read.problem is not None:
                    item.fail(self.stages[0].name, printable(str(read.problem)))
            with _writing(out):
                self.judge(items, out, save)
                journal.add([_record(job, item) for job, item in zip(done, items, strict=True)])

    def judge(self, items: Sequence[Item], out: Path, save: Collection[str] = ()) -> None:
        """Take items that have been read through all stages; their rows and verdicts are noted in them. Those with a
        verdict already are left alone.
        """
        active = [item for item in items if not item.verdict]
        for stage in self.stages:
            active = stage.run(active, out, save) if active else []
        for item in items:
            if item.parts:
                judge_by_parts(item)
                for stage in self.stages:
                    if isinstance(stage, CutterStage):
                        stage.finish(item, out, save)

    def _write_tables(self, jobs: Sequence[Job], journal: Journal, out: Path) -> list[dict[str, Any]]:
        """Write the tables from the journal, streaming; returns the verdicts."""

        def rows() -> Iterator[dict[str, Any]]:
            return (row for record in journal.read(job.key for job in jobs) for row in record["stages"])

        verdicts = [record["verdict"] for record in journal.read(job.key for job in jobs)]
        write_rows(lambda: iter(verdicts), VERDICT_COLUMNS, out / "verdicts")
        write_rows(rows, STAGE_COLUMNS, out / "stages")
        for stage in self.stages:
            write_json_rows((row for row in rows() if row["stage"] == stage.name), out / stage.name / STAGE_FILE)
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


# ------------------------------------------------------------------------------------------------------------ verdicts


def judge_by_parts(item: Item) -> None:
    """A photo of several objects is as bad as its worst one: an abnormal one before one that nobody could judge."""
    abnormal = [part for part in item.parts if part.abnormal]
    failed = [part for part in item.parts if part.verdict == ERROR]
    worst = max(abnormal or failed or item.parts, key=_badness)
    item.verdict, item.abnormal, item.error = worst.verdict, worst.abnormal, worst.error


def deciding_row(item: Item) -> dict[str, Any]:
    """What the stage that decided on a photo noted: of several objects, on the worst one that has the verdict."""
    same = [part for part in item.parts if part.verdict == item.verdict and part.abnormal == item.abnormal]
    return _last(max(same, key=_badness) if item.parts else item)


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
        "n_objects": len(item.parts) or None,
        "n_abnormal": sum(bool(part.abnormal) for part in item.parts) if item.parts else None,
        "marked_pixels": max((row["mask_pixels"] for row in rows if row["pixel_threshold"] is not None), default=None),
        "milliseconds": round(sum(row["milliseconds"] or 0.0 for row in rows), 3),
        "error": item.error or None,
    }
    return {"key": job.key, "stamp": job.stamp, "verdict": verdict, "stages": rows, "at": round(time.time(), 3)}


# ---------------------------------------------------------------------------------------------------------- the photos


class Job(NamedTuple):
    """One photo to be judged: ``source`` its absolute path, or ``#`` and its number; ``key`` its name in the folder of
    results, unique, without suffix; ``photo`` its name in the tables; ``stamp`` changes when the photo does.
    """

    picture: Picture
    source: str
    key: str
    photo: str
    stamp: str


def _jobs(images: Picture | Iterable[Picture]) -> tuple[str, list[Job]]:
    """The photos, and the folder that their names are relative to (empty: pictures without a path)."""
    if isinstance(images, str | Path) and not Path(images).expanduser().exists():
        raise FileNotFoundError(f"There is no {images}; give a photo or a folder of photos.")
    pictures = list(as_pictures(images))
    kinds = {isinstance(one, str | Path) for one in pictures}
    if len(kinds) != 1:
        raise CascadeError("Give paths, or pictures; not both together." if kinds else "There is no photo to judge.")
    if kinds == {False}:
        each = enumerate(pictures)
        return "", [Job(one, f"#{number}", f"{number:06d}", f"{number:06d}", _stamp(one)) for number, one in each]
    paths = [Path(os.path.abspath(Path(one).expanduser())) for one in pictures]  # noqa: PTH100  (keeps links)
    given = Path(images).expanduser() if isinstance(images, str | Path) else None
    try:
        root = given.absolute() if given and given.is_dir() else Path(os.path.commonpath([one.parent for one in paths]))
    except ValueError as error:  # two drives
        raise CascadeError(f"{error}: judge the photos of one folder at a time.") from error
    names = [path.relative_to(root).as_posix() for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CascadeError(f"{root / twice} is given twice; give each photo once.")
    names = [printable(name) for name in names]
    each = zip(paths, _unique_keys(names), names, strict=True)
    return str(root), [Job(path, str(path), key, name, _stamp(path)) for path, key, name in each]


def _stamp(picture: Picture) -> str:
    if isinstance(picture, Path):
        with suppress(OSError):
            stat = picture.stat()
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        return "missing"
    array = np.ascontiguousarray(np.asarray(picture))
    return hashlib.blake2b(repr((array.shape, array.dtype.str)).encode() + array.tobytes(), digest_size=16).hexdigest()


def _unique_keys(names: Sequence[str]) -> list[str]:
    """Names without suffix, with it where two would be the same file (also where case does not count); none too long
    for a folder of its objects.
    """
    keys = [Path(name).with_suffix("").as_posix() for name in names]
    keys = [(Path(key).parent / short_name(Path(key).name)).as_posix() for key in keys]
    counts = Counter(key.casefold() for key in keys)
    taken = {key for key, n in counts.items() if n == 1}
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


# ------------------------------------------------------------------------------------------------------------- opening


def _open_stage(keys: dict[str, Any], parameters: Mapping[str, Any], options: Mapping[str, Any]) -> Stage:
    if "foreground" in keys:
        folder = run_folder(keys.pop("foreground"), parameters)
        return CutterStage(folder, device=options.get("device", "auto"), **keys)
    Rule.parse(keys.get("rule", "score > image"), parameters)  # before a network is loaded
    folder, unknown = run_folder(keys.pop("run"), parameters), keys.pop("unknown", None)
    unknown_by = keys.pop("unknown_by", "distance")
    predictor = Predictor(folder, **options)
    if unknown not in ("none", False, None):
        keys["unknown"] = OpenSet.load(run_folder(unknown, parameters), predictor, unknown_by)
    return RunStage(predictor, parameters=parameters, **keys)


def _check_stages(cascade: str, stages: Sequence[Stage]) -> None:
    """Refuse stages that would write over each other, or whose photos would be left without a verdict, or with two."""
    where = f"cascade {cascade}:"
    if not stages:
        raise CascadeError(f"{where} it has no stages; give at least one.")
    try:
        check_name(cascade, "name of the cascade")
        names = [check_name(stage.name, f"{where} name of a stage").casefold() for stage in stages]
    except ValueError as error:
        raise CascadeError(f"{error} Give another 'name'.") from error
    for twice in (one for one in names if names.count(one) > 1):
        raise CascadeError(f"{where} two stages are called {twice}; give one of them another 'name'.")
    for taken in {*names} & {JOURNAL, ABOUT, *TABLES}:
        raise CascadeError(f"{where} {taken} is a file of the results; give that stage another 'name'.")
    if isinstance(stages[-1], CutterStage):
        raise CascadeError(f"{where} {stages[-1].name} finds objects, it judges none; add a stage.")
    if sum(isinstance(stage, CutterStage) for stage in stages) > 1:
        raise CascadeError(f"{where} objects are cut out once; two stages with 'foreground' are too many.")
    for stage in (one for one in stages if isinstance(one, RunStage)):
        is_last = stage is stages[-1]
        if bool(stage.then) != is_last:
            fix = "say 'then: VERDICT'" if is_last else "leave 'then' out, or make it the last"
            raise CascadeError(f"{where} where its rule holds, stage {stage.name} has no way on; {fix}.")
        if stage.rule.kind != "always" and not stage.otherwise:
            raise CascadeError(f"{where} stage {stage.name} needs 'otherwise: VERDICT' for what it stops.")
        if stage.rule.kind == "always" and stage.otherwise:
            raise CascadeError(f"{where} stage {stage.name} stops nothing (rule always); drop 'otherwise'.")
        if is_last and stage.ignore_no_defect:
            raise CascadeError(f"{where} 'ignore_no_defect' is for a stage with another one behind it.")
