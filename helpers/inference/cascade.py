"""Stages in a row: a photo goes on as long as each stage's rule lets it, and gets one verdict.

A cascade is written as YAML:

    name: mesh
    parameters:                 # --set NAME=VALUE; ARTIFACTS, DATASET and PROFILE say where runs lie
      area_thresh: 0.02
    stages:
      - run: unet               # artifacts/<DATASET>/<PROFILE>/unet, or a path
        rule: area >= area_thresh
        otherwise: OK           # verdict where the rule does not hold
      - run: deeplabv3plus
        rule: score > image     # the threshold that is stored with the run
        then: DEFECT            # verdict where it holds: in the last stage only
        otherwise: OK

A value that is the name of a parameter stands for the parameter's value. Rules: ``always``, or ``score``, ``peak`` or
``area``, with ``>`` or ``>=`` and a limit. Keys of a stage: those of `helpers.inference.stages.RunStage`, or with
``foreground:`` instead of ``run:`` those of `helpers.inference.cutting.CutterStage`.

Results go to a folder:

    cascade.json                    what decided: stages, rules, thresholds, runs, parameters
    verdicts.csv, .json             one row a photo, see VERDICT_COLUMNS
    stages.csv, .json               one row a photo (or object) and stage, see STAGE_COLUMNS
    <stage>/inference_results.json  the rows of one stage
    <stage>/masks, maps, overlays   what each stage saw and marked
    journal.jsonl                   what is done, one line a photo; a run that was killed goes on from it
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.inference.cutting import CutterStage
from helpers.inference.pictures import FOLDERS, STAGE_COLUMNS, Item, Picture, as_pictures, read_batches
from helpers.inference.predictor import Predictor
from helpers.inference.presets import CascadeError, read_cascade, run_folder
from helpers.inference.stages import CLASS, OpenSet, Rule, RunStage
from helpers.paths import (
    PARTIAL,
    InUseError,
    cell,
    check_name,
    content_hash,
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
STAGE_FILE = "inference_results.json"
VERSION = 1  # of the journal
VERDICT_COLUMNS = (
    *("photo", "image_path", "verdict", "abnormal", "stage", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "n_objects", "n_abnormal", "marked_pixels", "milliseconds", "error"),
)
"""Of a photo. ``marked_pixels`` is the most that the map of any stage, or of an object, marks as defect: where it is
above 0 and the verdict is good, map and verdict disagree."""

Stage = RunStage | CutterStage


class Cascade:
    """Stages in a row: all but the last pass photos on, the last gives its own verdict."""

    def __init__(
        self, name: str, stages: Sequence[Stage], parameters: Mapping[str, Any] | None = None, about: str = ""
    ) -> None:
        self.name, self.stages, self.about, self.parameters = name, list(stages), about, dict(parameters or {})
        _check_stages(name, self.stages)
        self.run_stages = [stage for stage in self.stages if isinstance(stage, RunStage)]
        self.batch_size = self.run_stages[0].predictor.batch_size
        depths = sorted({stage.predictor.bit_depth for stage in self.run_stages})
        if len(depths) > 1:
            raise CascadeError(f"cascade {name}: its runs learned from photos of {depths} bits; train them alike.")
        self.bit_depth = depths[0]

    @classmethod
    def from_yaml(cls, path: str | Path, settings: Mapping[str, Any] | None = None, **options: Any) -> Cascade:
        """Open a cascade, a YAML file or the name of a preset, and its runs, with values of its parameters and options
        of :class:`helpers.inference.Predictor`. A network that cuts objects out stays in torch.
        """
        content = read_cascade(path, settings)
        parameters, stages = content["parameters"], []
        for number, keys in enumerate(content["stages"], start=1):
            try:
                stages.append(_open_stage(keys, parameters, options))
            except OSError:
                raise
            except Exception as error:  # a damaged network raises what torch likes
                raise CascadeError(f"{content['name']}, stage {number}: {sentence(error)}") from error
        return cls(content["name"], stages, parameters, content["about"])

    @classmethod
    def of_run(cls, run_dir: str | Path | Run, settings: Mapping[str, Any] | None = None, **options: Any) -> Cascade:
        """A finished run as a cascade of one stage: a detector says DEFECT or OK, a classifier names a class.

        ``settings``: ``threshold`` of the score and ``pixel_threshold`` of the map, a name stored with the run, or a
        number.
        """
        parameters = {"pixel_threshold": "pixel", "threshold": "image"}
        if not (settings or {}).keys() <= parameters.keys():
            raise CascadeError(f"{', '.join(settings)}: the settings of a run are {', '.join(parameters)}.")
        parameters |= settings or {}
        predictor = Predictor(run_dir, **options)
        keys: dict[str, Any] = {"rule": "score > threshold", "then": "DEFECT", "otherwise": "OK"}
        if predictor.normal_class:
            keys |= {"then": CLASS, "otherwise": predictor.normal_class}
        elif predictor.classes:
            keys |= {"rule": "always", "then": CLASS, "otherwise": ""}
        stage = RunStage(predictor, pixel_threshold=parameters["pixel_threshold"], parameters=parameters, **keys)
        return cls(stage.name, [stage], parameters, f"run {predictor.run.folder}")

    @property
    def note(self) -> str | None:
        """What the runs must say of themselves (``untrained backbone``), or None."""
        notes = filter(None, (stage.predictor.run.note for stage in self.run_stages))
        return "; ".join(dict.fromkeys(notes)) or None

    def run(
        self,
        images: Picture | Iterable[Picture],
        out_dir: str | Path,
        *,
        save: Collection[str] = tuple(FOLDERS),
        restart: bool = False,
    ) -> pd.DataFrame:
        """Judge a folder (with those below it), a photo, or several, all paths or all pictures, and write what every
        stage decided: one row a photo, `VERDICT_COLUMNS`.

        Each finished batch is on the disk before the next one begins: after an interruption, or with more photos in the
        folder, the same call goes on with what is missing, also photos that have changed since. One that cannot be read
        has the verdict ``ERROR``, and the next call tries it again. ``restart``: throw away what an earlier run wrote.
        InUseError: another process judges into this folder.
        """
        if not set(save) <= set(FOLDERS):
            raise CascadeError(f"save: {', '.join(save)} is not known; known: {', '.join(FOLDERS)}.")
        root, items = _items(images)
        out = project_path(out_dir)
        if root and isinstance(images, str | Path) and out.is_relative_to(root):
            raise CascadeError(f"{out} lies among the photos of {root}; give the results another folder (--out).")
        about = {"name": self.name, "stages": [stage.describe() for stage in self.stages]}
        about |= {"save": sorted(save), "root": root}
        try:
            with hold(out / LOCK, f"The folder of results {out}"):
                done = _open_journal(out, about, restart)
                write_json(about | {"parameters": self.parameters, "about": self.about}, out / ABOUT)
                try:
                    self._judge_all(items, done, out, save)
                finally:
                    records = [done[item.key] for item in items if item.key in done]
                    verdicts = _write_tables(records, self.stages, out)
        except InUseError:
            raise
        except OSError as error:
            raise CascadeError(
                f"{out} cannot be written to ({printable(str(error))}). What is done is kept; once it can be, the same "
                "call goes on with the rest."
            ) from error
        return pd.DataFrame(verdicts, columns=list(VERDICT_COLUMNS))

    def _judge_all(self, items: Sequence[Item], done: dict[str, Any], out: Path, save: Collection[str]) -> None:
        todo = [item for item in items if not _is_done(done.get(item.key), item.stamp)]
        queue = iter(todo)
        pictures = ((item.source, item.photo) for item in progress(todo, self.name))
        for batch in read_batches(pictures, self.batch_size, self.bit_depth):
            chosen = list(islice(queue, len(batch)))
            for item, read in zip(chosen, batch, strict=True):
                item.photo = read.photo
                if read.problem is not None:
                    item.fail(self.stages[0].name, printable(str(read.problem)))
            self.judge(chosen, out, save)
            records = [_record(item) for item in chosen]
            _append(out / JOURNAL, records)
            done |= {record["key"]: record for record in records}
            for item in chosen:
                item.photo, item.parts = None, []  # thousands of photos do not fit into memory

    def judge(self, items: Sequence[Item], out: Path, save: Collection[str] = ()) -> None:
        """Take items that have been read through all stages; what those say is noted in them."""
        active = [item for item in items if not item.verdict]
        for stage in self.stages:
            active = stage.run(active, out, save) if active else []
        for item in items:
            item.settle()
            for stage in self.stages:
                if item.parts and isinstance(stage, CutterStage):
                    stage.finish(item, out, save)


def _record(item: Item) -> dict[str, Any]:
    """One photo's line of the journal, all text of it printable."""
    rows = [*item.rows, *(row for part in item.parts for row in part.rows)]
    for row in rows:
        row["photo"] = item.name
    deciding = item.settle()
    verdict = {name: deciding.get(name) for name in VERDICT_COLUMNS} | {
        "photo": item.name,
        "image_path": printable(item.source),
        "verdict": item.verdict,
        "abnormal": item.abnormal,
        "n_objects": len(item.parts) or None,
        "n_abnormal": sum(bool(part.abnormal) for part in item.parts) if item.parts else None,
        "marked_pixels": max((row["mask_pixels"] for row in rows if row["pixel_threshold"] is not None), default=None),
        "milliseconds": round(sum(row["milliseconds"] or 0.0 for row in rows), 3),
        "error": item.error or None,
    }
    return {"key": item.key, "stamp": item.stamp, "verdict": verdict, "stages": rows, "at": round(time.time(), 3)}


# ----------------------------------------------------------------------------------------- the journal, and its tables


def _open_journal(folder: Path, about: dict[str, Any], restart: bool) -> dict[str, dict[str, Any]]:
    """What a folder of results holds already, by a photo's key; of two lines on one photo the later counts. The first
    line says what results depend on. A last line that a power cut tore goes; ``restart`` removes what is noted.
    """
    file, content = folder / JOURNAL, [json.loads(json.dumps({"version": VERSION, "about": about}))]
    if file.is_file():
        remove_partial(folder.rglob(PARTIAL))
        there = [_parsed(line) for line in file.read_bytes().split(b"\n")[:-1]] or [{}]
        header, ways = there[0], "Give another folder (--out), or replace them (restart=True, --restart)."
        if restart:
            _remove_results(folder, there)
        elif header.keys() != content[0].keys() or not all(
            {"key", "stamp", "verdict", "stages"} <= {*r} for r in there[1:]
        ):
            raise CascadeError(f"{file} is damaged, or of another version. {ways}")
        elif header != content[0]:
            names = [name for name, value in content[0]["about"].items() if header["about"].get(name) != value]
            raise CascadeError(f"{folder} holds results of another cascade or photos ({', '.join(names)}). {ways}")
        else:
            content = there
    elif any(other.name != LOCK for other in folder.iterdir()):
        raise CascadeError(f"{folder} holds other files (no {JOURNAL}); give a new or empty folder.")
    write_whole(file, lambda partial: _append(partial, content))
    return {record["key"]: record for record in content[1:]}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_done(record: dict[str, Any] | None, stamp: str) -> bool:
    """Whether a photo is judged without an error, and has not changed since."""
    return record is not None and record["stamp"] == stamp and not any(row["error"] for row in record["stages"])


def _append(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    with file.open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())


def _remove_results(folder: Path, records: Iterable[dict[str, Any]]) -> None:
    names = {ABOUT, *TABLES}
    for row in (row for record in records for row in record.get("stages", ())):
        names |= {f"{row['stage']}/{STAGE_FILE}", *(row[kind] for kind in FOLDERS if row[kind])}
    for file in (folder / name for name in names):
        # a journal is a file like others: what it names elsewhere was not written by us
        if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
            file.unlink()


def _write_tables(records: Sequence[dict[str, Any]], stages: Sequence[Stage], out: Path) -> list[dict[str, Any]]:
    """Write the tables of what is done; returns the verdicts."""
    verdicts, rows = [record["verdict"] for record in records], [row for record in records for row in record["stages"]]
    for name, columns, table in (("verdicts", VERDICT_COLUMNS, verdicts), ("stages", STAGE_COLUMNS, rows)):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in table)
        content = text.getvalue().encode()
        write_whole(out / f"{name}.csv", lambda file, content=content: file.write_bytes(content))
        _write_rows(table, out / f"{name}.json")
    for stage in stages:
        _write_rows([row for row in rows if row["stage"] == stage.name], out / stage.name / STAGE_FILE)
    return verdicts


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A JSON list, a line a row."""
    lines = ",".join(f"\n{json.dumps(row, ensure_ascii=False)}" for row in rows)
    write_whole(path, lambda file: file.write_text(f"[{lines}\n]\n", encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------- the photos


def _items(images: Picture | Iterable[Picture]) -> tuple[str, list[Item]]:
    """The folder that names are relative to (empty: pictures without a path), and the photos, not yet read."""
    given = Path(images).expanduser() if isinstance(images, str | Path) else None
    if given and not given.exists():
        raise FileNotFoundError(f"There is no {images}; give a photo or a folder of photos.")
    pictures = list(as_pictures(images))
    kinds = {isinstance(one, str | Path) for one in pictures}
    if len(kinds) != 1:
        raise CascadeError("Give photos, all of them paths or all of them pictures.")
    if kinds == {False}:
        each = [(f"#{n}", f"{n:06d}", one) for n, one in enumerate(pictures)]
        return "", [Item(source, key, one, name=key, stamp=_stamp(one)) for source, key, one in each]
    paths = [Path(os.path.abspath(Path(one).expanduser())) for one in pictures]  # noqa: PTH100  (keeps links)
    if len(set(paths)) < len(paths):
        raise CascadeError(f"{Counter(paths).most_common(1)[0][0]} is given twice; give each photo once.")
    root = given.absolute() if given and given.is_dir() else Path(os.path.commonpath([one.parent for one in paths]))
    names = [printable(path.relative_to(root).as_posix()) for path in paths]
    keys = ["/".join(map(short_name, (*Path(name).parent.parts, Path(name).stem))) for name in names]
    keys = [short_name(key.replace("/", "_")) if len(key.encode()) > 1000 else key for key in keys]  # paths have an end
    taken = Counter(key.casefold() for key in keys)
    items = []
    for path, name, key in zip(paths, names, keys, strict=True):
        alone = taken[key.casefold()] == 1  # else the results of two photos would be one file
        key = key if alone else f"{key}-{content_hash(name)[:12]}"
        items.append(Item(str(path), key, path, name=name, stamp=_stamp(path)))
    return str(root), items


def _stamp(picture: Picture) -> str:
    if isinstance(picture, Path):
        with suppress(OSError):
            stat = picture.stat()
            return f"{stat.st_size}-{stat.st_mtime_ns}"
        return "missing"
    array = np.asarray(picture)
    return hashlib.sha256(f"{array.shape} {array.dtype} ".encode() + array.tobytes()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- opening


def _open_stage(keys: dict[str, Any], parameters: Mapping[str, Any], options: Mapping[str, Any]) -> Stage:
    if "foreground" in keys:
        folder = run_folder(keys.pop("foreground"), parameters)
        return CutterStage(folder, device=options.get("device", "auto"), **keys)
    Rule.parse(keys.get("rule", "score > image"), parameters)  # before a network is loaded
    predictor = Predictor(run_folder(keys.pop("run"), parameters), **options)
    unknown, unknown_by = keys.pop("unknown", None), keys.pop("unknown_by", "distance")
    if unknown not in ("none", False, None):
        keys["unknown"] = OpenSet.load(run_folder(unknown, parameters), predictor, unknown_by)
    return RunStage(predictor, parameters=parameters, **keys)


def _check_stages(cascade: str, stages: Sequence[Stage]) -> None:
    """Refuse stages that would write over each other, or whose photos would be left without a verdict, or with two."""
    cutters = [stage for stage in stages if isinstance(stage, CutterStage)]
    if not stages or stages[-1] in cutters or len(cutters) > 1:
        raise CascadeError(f"cascade {cascade}: the last stage must be a run, and one at most 'foreground'.")
    try:
        lower = [check_name(one.name, f"the 'name' of cascade {cascade} or of a stage").casefold() for one in stages]
        check_name(cascade, "the 'name' of a cascade")
    except ValueError as error:
        raise CascadeError(str(error)) from error
    if len({*lower, JOURNAL, ABOUT, *TABLES}) < len(stages) + 6:
        raise CascadeError(f"cascade {cascade}: of {lower} two are alike, or a file of results; give a 'name'.")
    for stage in (one for one in stages if isinstance(one, RunStage)):
        is_last, stops = stage is stages[-1], stage.rule.kind != "always"
        if bool(stage.then) != is_last or bool(stage.otherwise) != stops or (is_last and stage.ignore_no_defect):
            raise CascadeError(
                f"cascade {cascade}, stage {stage.name}: the last stage, and no other, says 'then: VERDICT', and not "
                "'ignore_no_defect'; a stage says 'otherwise: VERDICT' for what it stops, unless its rule is always."
            )
