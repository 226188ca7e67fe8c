"""The notebooks as a graph, run headless through papermill.

    python -m helpers.pipeline run --dataset datasets/mesh --profile quick
    python -m helpers.pipeline sweep --dataset datasets/mvtec --classes "screw grid" --profile quick
    python -m helpers.pipeline prepare --profile smoke --out DIR        copies with parameters, for pytest --nbval-lax

Each notebook runs in a process of its own. What is finished and unchanged is skipped: its code cells, its parameters,
the dataset's content, what the notebooks before it left, the libraries' versions and RECIPE numbers; not prose, and not
the source of this package. The first failing cell stops the run, with its error and the path of the executed copy.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import pandas as pd

from helpers.analysis.classes import learnable_classes
from helpers.data.digests import content_digest
from helpers.data.images import files_below
from helpers.data.samples import can_be_supervised, fingerprint, read_table
from helpers.models.recipes import RECIPES
from helpers.paths import (
    NOTEBOOKS_FOLDER,
    PROJECT_ROOT,
    content_hash,
    dataset_folder,
    hold,
    read_csv,
    write_csv,
    write_json,
)
from helpers.progress import SECONDS_BETWEEN_LINES
from helpers.session import (
    MAKE_NUMBERS,
    MAKE_RESULTS,
    collect_parameters,
    dataset_name,
    installed_versions,
    named_paths,
    split_setting,
)

BUILT_IN = ("mesh", "nuts")
CELL_TIMEOUT_SECONDS = 6 * 3600
HEADLESS = {"HELPERS_HEADLESS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}
SUMMARY_COLUMNS = ("model", "n_test_normal", "n_test_abnormal", "image_auroc", "image_ap", "pixel_auroc", "pixel_aupro")
SUMMARY_COLUMNS += ("recall_at_threshold", "false_alarm_at_threshold", "fit_seconds", "ms_per_image")


class PipelineError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Node:
    """One notebook of the series: what it reads, what it leaves, and what it can do nothing without."""

    name: str  # the file's, without suffix
    after: tuple[str, ...]  # names of the notebooks whose results it reads
    leaves: tuple[str, ...]  # files below the dataset's artifacts folder that are there once it is finished
    needs: str = ""  # a key of NEEDS
    part_of: str = ""  # the file's name, where the node runs a part of it only
    without: str = ""  # tag of the cells that are then left out
    reads: tuple[str, ...] = ()  # folders in notebooks/params that it reads
    recipe: int = 1  # raised by hand when what the package computes for it, beside the models, comes out different

    @property
    def number(self) -> str:
        return self.name.split("_")[0]

    @property
    def file(self) -> str:
        return self.part_of or self.name


SETUP, PATCHCORE = "01_setup_and_validate", "02_train_patchcore"
SEGMENTERS, INVENTED = "03_train_unet_deeplabv3plus", "04_train_draem_glass"
CLASSIFIERS, CASCADES = "05_train_classifiers", "07_cascade_inference"
MAPS = (PATCHCORE, SEGMENTERS, INVENTED)
ALL = (*MAPS, CLASSIFIERS)

SERIES: tuple[Node, ...] = (
    Node(SETUP, (), ("samples.csv", "findings.csv")),
    Node(PATCHCORE, (SETUP,), ("patchcore/run.json",), "good photos in train"),
    Node(SEGMENTERS, (SETUP,), ("unet/run.json", "deeplabv3plus/run.json"), "masks of defects"),
    Node(INVENTED, (SETUP,), ("draem/run.json", "glass/run.json"), "good photos in train"),
    Node(
        CLASSIFIERS,
        (SETUP, PATCHCORE),
        ("classifier/run.json", "open_set/open_set.npz", "open_set/thresholds.json"),
        "two classes of three photos",
        reads=("open_set",),
    ),
    Node("06_evaluate", ALL, ("leaderboard.csv", "evaluation/report.html")),
    Node(CASCADES, ALL, ("cascades/rates.csv",), "masks of defects or classes", reads=("cascades",)),
    Node(
        "08_size_analysis",
        MAPS,
        ("sizes/defects.csv", "sizes/verdicts.csv", "sizes/sizes.json", "sizes/defects.coco.json"),
        reads=("sizes",),
    ),
    Node(
        "09_export_and_video",
        ALL,
        ("export/files.csv", "export/parity.csv", "export/speed.csv"),
        "good photos in train",
    ),
    Node("10_inspection_app", ALL, ("app/annotated.png", "app/inspection.csv"), reads=("sizes", "cascades")),
)
FOREGROUND = Node("03f_foreground", (SETUP,), ("foreground/foreground.json",), part_of=SEGMENTERS, without="segmenters")
# Built-in dataset -> another one that a cascade of notebook 07 judges, and what makes the runs for it.
BESIDE = {"mesh": ("nuts", ("01", "02", "03f"))}
NOT_BESIDE = ("FRAMES", "GATE_DATASET")  # parameters that may name a folder of photos of the one dataset

NEEDS: dict[str, Callable[[pd.DataFrame], bool]] = {
    "good photos in train": lambda table: bool(((table["split"] == "train") & (table["label_index"] == 0)).any()),
    "masks of defects": can_be_supervised,
    "two classes of three photos": lambda table: len(learnable_classes(table)) >= 2,
    "masks of defects or classes": lambda table: can_be_supervised(table) or len(learnable_classes(table)) >= 2,
}
"""What a notebook may need of a dataset's sample table; where it is not there, the series goes on without it."""


def run(
    dataset: str | Path,
    profile: str = "quick",
    *,
    only: Sequence[str] = (),
    start: str = "",
    force: bool = False,
    settings: Sequence[str] = (),
    artifacts: str | Path = "artifacts",
    name: str = "",
) -> Path:
    """Run the series on one dataset and return its artifacts folder.

    ``only`` these notebooks (by number); run again from the one called ``start`` on, or all by ``force``; ``settings``
    as in :func:`helpers.session.collect_parameters`. InUseError where another pipeline is at work in that folder.
    """
    from helpers.views.report import write_index

    dataset = ensure_dataset(Path(dataset))
    given = {"DATASET": dataset, "PROFILE": profile, "ARTIFACTS": artifacts} | ({"NAME": name} if name else {})
    parameters = collect_parameters(NOTEBOOKS_FOLDER, profile, settings, given)
    nodes = [*SERIES, *([FOREGROUND] if FOREGROUND.number in only else [])]
    if unknown := {*only, *filter(None, [start])} - {node.number for node in nodes}:
        known = ", ".join(node.number for node in SERIES)
        raise PipelineError(f"There is no notebook {', '.join(sorted(unknown))}; known: {known}.")
    folder = dataset_folder(artifacts, dataset_name(str(dataset), name), profile)
    with hold(folder / ".pipeline.lock", str(folder)):  # two in one folder would read each other's runs
        state = _State(folder)
        for node in [node for node in nodes if not only or node.number in only]:
            before = [state.made(one) for one in SERIES if one.name in node.after]
            if node.name == CASCADES:
                before += _run_beside(dataset, profile, artifacts, settings, force, left_alone=bool(only))
            again = force or (bool(start) and node.number >= start)
            _update(node, parameters[node.file], dataset, state, before, again)
        write_index(folder, {name: entry["seconds"] for name, entry in state.finished.items()})
    return folder


def _run_beside(
    dataset: Path, profile: str, artifacts: str | Path, settings: Sequence[str], force: bool, *, left_alone: bool
) -> list[str]:
    """Make the runs that notebook 07 needs of another built-in dataset; returns how they were made."""
    name, numbers = BESIDE.get(dataset.name, ("", ())) if dataset.parent == PROJECT_ROOT / "datasets" else ("", ())
    if not name:
        return []
    if not left_alone:
        print(f"{name}, which a cascade of {CASCADES} judges:", flush=True)
        settings = [one for one in settings if split_setting(one)[0].split(".")[-1] not in NOT_BESIDE]
        run(dataset.parent / name, profile, only=numbers, force=force, settings=settings, artifacts=artifacts)
    state = _State(dataset_folder(artifacts, name, profile))
    return [state.made(node) for node in (*SERIES, FOREGROUND) if node.number in numbers]


def _update(
    node: Node, parameters: dict[str, Any], dataset: Path, state: _State, before: Sequence[str], again: bool
) -> None:
    """Run a notebook unless it is finished and unchanged."""
    wanted, folder = _fingerprint(node, parameters, dataset, before), state.folder
    if node.needs and (folder / "samples.csv").is_file() and not NEEDS[node.needs](read_table(folder / "samples.csv")):
        print(f"{node.name}: skipped, the dataset has no {node.needs}", flush=True)
        state.begin(node)
    elif not again and state.is_current(node, wanted):
        print(f"{node.name}: finished and unchanged, skipped", flush=True)
    else:
        state.begin(node)
        seconds = execute(node, parameters, folder)
        state.finish(node, wanted, seconds)
        print(f"{node.name}: done in {seconds:.0f} s", flush=True)


def ensure_dataset(dataset: Path) -> Path:
    """The dataset's absolute path; ``datasets/mesh`` and ``datasets/nuts`` are drawn if they are missing."""
    dataset = dataset.expanduser().resolve()
    if not dataset.exists():
        if dataset.parent != PROJECT_ROOT / "datasets" or dataset.name not in BUILT_IN:
            raise PipelineError(
                f"There is no dataset at {dataset}. Give DATASET= (or --dataset) the folder with your photos; "
                f"datasets/README.md shows the layouts. Built in: {', '.join(f'datasets/{one}' for one in BUILT_IN)}."
            )
        from helpers.pictures.datasets import draw_dataset

        print(f"drawing the built-in dataset {dataset.name} ...", flush=True)
        draw_dataset(dataset.name, dataset.parent)
    return dataset


def execute(node: Node, parameters: dict[str, Any], folder: Path) -> float:
    """Run one notebook in a process of its own; returns the seconds it took.

    The executed copy goes to ``notebooks/`` in the folder, the log beside it; PipelineError if a cell fails.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    out = folder / "notebooks" / f"{node.name}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    log, started = out.with_suffix(".log"), time.monotonic()
    options = {"cwd": NOTEBOOKS_FOLDER, "kernel_name": "python3", "execution_timeout": CELL_TIMEOUT_SECONDS}
    options["extra_arguments"] = ["--log-level=40"]  # the kernel warns of how it talks, on the terminal
    options |= {"log_output": True, "progress_bar": False}
    try:
        with _logged(node.name, log):
            papermill.execute_notebook(_source(node), str(out), parameters, **options)
    except (papermill.PapermillExecutionError, DeadKernelError, TimeoutError) as error:
        failure = f": {error}"
        if isinstance(error, papermill.PapermillExecutionError):
            source = textwrap.indent(error.source, "    ")
            failure = f" failed in this cell:\n{source}\n{error.ename}: {error.evalue}"
        raise PipelineError(f"{node.name}{failure}\nExecuted copy: {out}\nLog: {log}") from error
    return time.monotonic() - started


def _source(node: Node) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOKS_FOLDER / f"{node.file}.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if node.without not in cell.metadata.get("tags", [])]
    return notebook


@contextmanager
def _logged(name: str, file: Path) -> Iterator[None]:
    """What papermill and the cells say goes to a file, and its last line to the terminal every minute."""
    logger, ended, started = logging.getLogger("papermill"), threading.Event(), time.monotonic()
    handler = logging.FileHandler(file, mode="w", encoding="utf-8")

    def report() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "").strip()
            print(f"{name}: {time.monotonic() - started:.0f} s, {last:.120}", flush=True)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    threading.Thread(target=report, daemon=True).start()
    try:
        with patch.dict(os.environ, HEADLESS):  # the notebook's process inherits it
            yield
    finally:
        ended.set()
        logger.removeHandler(handler)
        handler.close()


class _State:
    """What is finished: ``pipeline.json`` in the dataset's artifacts folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "pipeline.json"
        self.finished: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            read_table(folder / "samples.csv")  # brings the hashes of the photos along: nobody reads them all again
        if self.file.is_file():
            try:
                for name, one in json.loads(self.file.read_text(encoding="utf-8")).items():
                    entry = {"fingerprint": str(one["fingerprint"]), "left": str(one.get("left"))}
                    self.finished[name] = entry | {"seconds": float(one["seconds"])}
            except (ValueError, AttributeError, KeyError, TypeError):
                print(f"{self.file} is damaged and is written anew", flush=True)

    def made(self, node: Node) -> str:
        """How a notebook's results, as they now lie there, came about."""
        return content_hash([self.finished.get(node.name, {}).get("fingerprint"), self.left(node)])

    def left(self, node: Node) -> str:
        return content_hash([_result_digest(self.folder / file) for file in node.leaves])

    def is_current(self, node: Node, fingerprint: str) -> bool:
        """Whether it ran like this, and nobody has changed its results since: in JupyterLab, say."""
        entry = self.finished.get(node.name, {})
        return (entry.get("fingerprint"), entry.get("left")) == (fingerprint, self.left(node))

    def begin(self, node: Node) -> None:
        """Forget that it was finished: if it fails halfway, what it left before may be overwritten."""
        if self.finished.pop(node.name, None) is not None:
            write_json(self.finished, self.file)

    def finish(self, node: Node, fingerprint: str, seconds: float) -> None:
        missing = [file for file in node.leaves if not (self.folder / file).is_file()]
        if missing:
            raise PipelineError(f"{node.name} ended without an error, but did not write {', '.join(missing)}.")
        self.finished[node.name] = {"fingerprint": fingerprint, "left": self.left(node), "seconds": round(seconds, 1)}
        write_json(self.finished, self.file)


def _result_digest(file: Path) -> str:
    if file.name == "samples.csv":
        with suppress(OSError, ValueError):
            return fingerprint(read_table(file))  # its photos too, which may lie anywhere
    return content_digest(file)


def _fingerprint(node: Node, parameters: dict[str, Any], dataset: Path, before: Sequence[str]) -> str:
    versions = installed_versions()
    beside = named_paths(parameters)
    beside += [file for name in node.reads for file in sorted(NOTEBOOKS_FOLDER.glob(f"params/{name}/*.yml"))]
    content = [
        [cell.source for cell in _source(node).cells if cell.cell_type == "code"],
        [node.recipe, RECIPES, {name: versions[name] for name in (*MAKE_NUMBERS, *MAKE_RESULTS)}],
        parameters,
        _folder_content(dataset),
        [_folder_content(path) for path in beside],
        list(before),
    ]
    return content_hash(content)


def _folder_content(folder: Path) -> list[tuple[str, str]]:
    """Relative path and hash of each file in a folder, or of the one file."""
    files = files_below(folder, []) if folder.is_dir() else [folder]
    return [(os.path.relpath(file, folder), content_digest(file)) for file in files]


def _shown(file: Path, columns: Sequence[str] = ()) -> str:
    """A CSV, or some of its columns, as text for a terminal."""
    if not file.is_file():
        return f"no {file} yet"
    table = read_csv(file)
    shown = table[[column for column in columns if column in table] or list(table)]
    return f"{shown.to_string(index=False, float_format='%.3f')}\n"


def sweep(root: Path, classes: Sequence[str], profile: str, artifacts: str | Path, settings: Sequence[str]) -> Path:
    """Run the series on each category (a folder in ``root``); returns ``<artifacts>/sweeps/<root>-<profile>.csv``.

    One row a category and model, then one mean row a model, in which the counts (``n_...``) are totals, and thresholds
    are left out: scores of two runs share no scale.
    """
    if not classes:
        raise PipelineError('Give the categories to sweep: CLASSES="screw grid" (or --classes "screw grid").')
    missing = [name for name in classes if not (root / name).is_dir()]
    if missing:
        raise PipelineError(f"{root} has no folder {', '.join(missing)}.")
    tables = []
    for name in classes:
        print(f"== {name}", flush=True)
        folder = run(root / name, profile, settings=settings, artifacts=artifacts, name=f"{root.name}-{name}")
        tables.append(read_csv(folder / "leaderboard.csv").assign(category=name))
    together = pd.concat(tables, ignore_index=True)
    together.insert(0, "category", together.pop("category"))
    by_model = together.groupby("model", sort=False)
    means = by_model.mean(numeric_only=True).drop(columns=["threshold", "pixel_threshold"], errors="ignore")
    counts = [column for column in means if column.startswith("n_")]
    means[counts] = by_model[counts].sum()
    means = means.reset_index().assign(category="mean")
    file = dataset_folder(artifacts, root.name, profile).parent.parent / "sweeps" / f"{root.name}-{profile}.csv"
    write_csv(pd.concat([together, means], ignore_index=True), file)
    return file


def prepare(profile: str, out: Path, settings: Sequence[str]) -> list[Path]:
    """Copies of the notebooks with a profile's parameters put in, not executed: what ``pytest --nbval-lax`` can run."""
    import papermill

    parameters = collect_parameters(NOTEBOOKS_FOLDER, profile, settings, {"PROFILE": profile})
    out.mkdir(parents=True, exist_ok=True)
    copies = {node: str(out / f"{node.name}.ipynb") for node in SERIES}
    options = {"prepare_only": True, "progress_bar": False}
    for node, copy in copies.items():
        papermill.execute_notebook(_source(node), copy, parameters[node.name], **options)
    return [Path(copy) for copy in copies.values()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.pipeline", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="run the series on one dataset")
    sweep_parser = commands.add_parser("sweep", help="run the series on each category of a data set")
    prepare_parser = commands.add_parser("prepare", help="write copies with parameters put in, for nbval")
    for command in (run_parser, sweep_parser, prepare_parser):
        command.add_argument("--profile", default="quick", help="quick, full or smoke (default: quick)")
        command.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    for command in (run_parser, sweep_parser):
        command.add_argument("--dataset", type=Path, default=PROJECT_ROOT / "datasets" / "mesh")
        command.add_argument("--artifacts", type=lambda text: str(Path(text).resolve()), default="artifacts")
    run_parser.add_argument("--name", default="", help="name of the dataset in artifacts (default: its folder's)")
    run_parser.add_argument("--only", default="", help="numbers of notebooks, 02 or 02,06")
    run_parser.add_argument("--from", dest="start", default="", help="run this notebook and all after it again")
    run_parser.add_argument("--force", action="store_true", help="run again what is finished and unchanged")
    sweep_parser.add_argument("--classes", default="", help="names of the categories, separated by blanks")
    prepare_parser.add_argument("--out", type=Path, required=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "prepare":
            print("\n".join(str(copy) for copy in prepare(options["profile"], options["out"], options["settings"])))
        elif command == "sweep":
            classes = options.pop("classes").replace(",", " ").split()
            file = sweep(options.pop("dataset").resolve(), classes, **options)
            print(f"{_shown(file)}{file}")
        else:
            options["only"] = options["only"].replace(",", " ").split()
            folder = run(options.pop("dataset"), options.pop("profile"), **options)
            print(
                f"\n{_shown(folder / 'leaderboard.csv', SUMMARY_COLUMNS)}\nReport: {folder / 'report' / 'index.html'}"
            )
    except (PipelineError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
