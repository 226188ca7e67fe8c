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
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from helpers.analysis.classes import learnable_classes
from helpers.data.images import files_below
from helpers.data.samples import can_be_supervised, content_digest, fingerprint, read_table
from helpers.models.backbones import ENVIRONMENT_VARIABLE, LOCAL_PREFIX, resolve_local_name
from helpers.models.recipes import RECIPES
from helpers.paths import (
    PROJECT_ROOT,
    content_hash,
    dataset_folder,
    hold,
    project_path,
    read_csv,
    write_csv,
    write_json,
)
from helpers.progress import SECONDS_BETWEEN_LINES
from helpers.session import (
    MAKE_NUMBERS,
    MAKE_RESULTS,
    check_finite,
    dataset_name,
    installed_versions,
    read_value,
    split_setting,
)

NOTEBOOKS_FOLDER = PROJECT_ROOT / "notebooks"
BUILT_IN = ("mesh", "nuts")
FOLDERS = ("FRAMES", "GATE_DATASET")  # parameters that may name a folder of photos beside the dataset
CELL_TIMEOUT_SECONDS = 6 * 3600
SUMMARY_COLUMNS = (
    "model",
    "n_test_normal",
    "n_test_abnormal",
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_aupro",
    "recall_at_threshold",
    "false_alarm_at_threshold",
    "fit_seconds",
    "ms_per_image",
)


class PipelineError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Node:
    """One notebook of the series.

    Attributes:
        name: file name without suffix.
        after: names of the notebooks whose results it reads.
        leaves: files below the dataset's artifacts folder that are there once it is finished.
        needs: what it can do nothing without, a key of :data:`NEEDS`; empty: nothing.
        part_of: the notebook's file name without suffix, where the node runs a part of it only.
        without: tag of the cells that are then left out.
        reads: folders of files in ``notebooks/params`` that it reads.
        recipe: raised by hand when what the package computes for it, beside the models, comes out different.
    """

    name: str
    after: tuple[str, ...]
    leaves: tuple[str, ...]
    needs: str = ""
    part_of: str = ""
    without: str = ""
    reads: tuple[str, ...] = ()
    recipe: int = 1

    @property
    def number(self) -> str:
        """``02`` of ``02_train_patchcore``."""
        return self.name[:2]

    @property
    def path(self) -> Path:
        """The notebook itself."""
        return NOTEBOOKS_FOLDER / f"{self.part_of or self.name}.ipynb"


SERIES: tuple[Node, ...] = (
    Node("01_setup_and_validate", (), ("samples.csv", "findings.csv")),
    Node("02_train_patchcore", ("01_setup_and_validate",), ("patchcore/run.json",), "good photos in train"),
    Node(
        "03_train_unet_deeplabv3plus",
        ("01_setup_and_validate",),
        ("unet/run.json", "deeplabv3plus/run.json"),
        "masks of defects",
    ),
    Node(
        "04_train_draem_glass",
        ("01_setup_and_validate",),
        ("draem/run.json", "glass/run.json"),
        "good photos in train",
    ),
    Node(
        "05_train_classifiers",
        ("01_setup_and_validate", "02_train_patchcore"),
        ("classifier/run.json", "open_set/open_set.npz", "open_set/thresholds.json"),
        "two classes of three photos",
        reads=("open_set",),
    ),
    Node(
        "06_evaluate",
        ("02_train_patchcore", "03_train_unet_deeplabv3plus", "04_train_draem_glass", "05_train_classifiers"),
        ("leaderboard.csv", "evaluation/report.html"),
    ),
    Node(
        "07_cascade_inference",
        ("02_train_patchcore", "03_train_unet_deeplabv3plus", "04_train_draem_glass", "05_train_classifiers"),
        ("cascades/rates.csv",),
        "masks of defects or classes",
        reads=("cascades",),
    ),
    Node(
        "08_size_analysis",
        ("02_train_patchcore", "03_train_unet_deeplabv3plus", "04_train_draem_glass"),
        ("sizes/defects.csv", "sizes/verdicts.csv", "sizes/sizes.json", "sizes/defects.coco.json"),
        reads=("sizes",),
    ),
    Node(
        "09_export_and_video",
        ("02_train_patchcore", "03_train_unet_deeplabv3plus", "04_train_draem_glass", "05_train_classifiers"),
        ("export/files.csv", "export/parity.csv", "export/speed.csv"),
        "good photos in train",
    ),
    Node(
        "10_inspection_app",
        ("02_train_patchcore", "03_train_unet_deeplabv3plus", "04_train_draem_glass", "05_train_classifiers"),
        ("app/annotated.png", "app/inspection.csv"),
        reads=("sizes", "cascades"),
    ),
)

CASCADES = "07_cascade_inference"
BESIDE: dict[str, tuple[str, tuple[Node, ...]]] = {
    "mesh": (
        "nuts",
        (
            Node("01_setup_and_validate", (), ("samples.csv", "findings.csv")),
            Node("02_train_patchcore", ("01_setup_and_validate",), ("patchcore/run.json",)),
            Node(
                "03_foreground",
                ("01_setup_and_validate",),
                ("foreground/foreground.json",),
                part_of="03_train_unet_deeplabv3plus",
                without="segmenters",
            ),
        ),
    )
}
"""Built-in dataset -> another one that a cascade of notebook 07 judges, and the notebooks that make the runs for it."""

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
    """Run the series on one dataset.

    Args:
        dataset: folder (or table file) with the photos; a built-in one is drawn if it is missing.
        profile: name of a file in ``notebooks/params``.
        only: numbers of notebooks to run; the others are left as they are.
        start: number of the notebook from which on everything is run again.
        force: run again even what is finished and unchanged.
        settings: ``NAME=VALUE`` for every notebook that has the parameter, or ``02.NAME=VALUE`` for one.
        artifacts: folder of results, relative to the project unless absolute.
        name: name of the dataset in ``artifacts``; default: that of its folder.

    Returns:
        The dataset's artifacts folder.

    Raises:
        PipelineError: for an unknown parameter, profile or notebook, a missing dataset, or a failing cell.
        InUseError: another pipeline is at work in that folder.
    """
    dataset = ensure_dataset(Path(dataset))
    given = {"DATASET": str(dataset), "PROFILE": profile, "ARTIFACTS": str(artifacts)} | (
        {"NAME": name} if name else {}
    )
    parameters = collect_parameters(profile, settings, given)
    chosen = _choose(only, start)
    folder = dataset_folder(artifacts, dataset_name(str(dataset), name), profile)
    with _alone_in(folder):
        state = _State(folder)
        for node in chosen:
            before = [state.made(one) for one in SERIES if one.name in node.after]
            if node.name == CASCADES:
                before += _run_beside(dataset, profile, settings, artifacts, left_alone=bool(only), again=force)
            again = force or (bool(start) and node.number >= start)
            _update(node, parameters[node.name], dataset, state, before, again)
        write_report(folder, state)
    return folder


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    """Two pipelines in one folder would read each other's runs."""
    return hold(folder / ".pipeline.lock", str(folder))


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


def _run_beside(
    dataset: Path, profile: str, settings: Sequence[str], artifacts: str | Path, *, left_alone: bool, again: bool
) -> list[str]:
    """Make the runs that notebook 07 needs of another built-in dataset, see :data:`BESIDE`; returns how they were made.

    Args:
        dataset: of the series; nothing is done for any but a built-in one.
        profile: see :func:`run`.
        settings: see :func:`run`.
        artifacts: see :func:`run`.
        left_alone: leave the other dataset's runs as they are.
        again: run even what is finished and unchanged.
    """
    if dataset.parent != PROJECT_ROOT / "datasets" or dataset.name not in BESIDE:
        return []
    name, nodes = BESIDE[dataset.name]
    state = _State(dataset_folder(artifacts, name, profile))
    if left_alone:
        return [state.made(node) for node in nodes]
    print(f"{name}, which a cascade of {CASCADES} judges:", flush=True)
    other = ensure_dataset(dataset.parent / name)
    given = {"DATASET": str(other), "PROFILE": profile, "ARTIFACTS": str(artifacts)}
    parameters = collect_parameters(profile, settings, given)
    with _alone_in(state.folder):
        for node in nodes:
            values = {key: value for key, value in parameters[node.path.stem].items() if key not in FOLDERS}
            _update(node, values, other, state, [state.made(one) for one in nodes if one.name in node.after], again)
    return [state.made(node) for node in nodes]


def ensure_dataset(dataset: Path) -> Path:
    """The dataset's absolute path; ``mesh`` and ``nuts`` in the project's ``datasets`` are drawn if they are missing.

    Raises:
        PipelineError: if it is missing and cannot be drawn.
    """
    dataset = dataset.expanduser().resolve()
    if dataset.exists():
        return dataset
    if dataset.parent == PROJECT_ROOT / "datasets" and dataset.name in BUILT_IN:
        from helpers.pictures.builtin import draw_mesh, draw_nuts

        print(f"drawing the built-in dataset {dataset.name} ...", flush=True)
        return {"mesh": draw_mesh, "nuts": draw_nuts}[dataset.name](dataset.parent)
    raise PipelineError(
        f"There is no dataset at {dataset}. Give DATASET= (or --dataset) the folder with your photos; "
        f"datasets/README.md shows the layouts. Built in: {', '.join('datasets/' + known for known in BUILT_IN)}."
    )


# ------------------------------------------------------------------------------------------------------- parameters


def collect_parameters(profile: str, settings: Sequence[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters of every notebook: the profile's section ``all``, its own section, the settings, what is given.

    Raises:
        PipelineError: if a name is unknown to the notebook it is meant for (or to all), or a value has another type.
        ParameterError: for a setting that is no NAME=VALUE, or a number that is not finite.
    """
    file = NOTEBOOKS_FOLDER / "params" / f"{profile}.yml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yml")))
        raise PipelineError(f"PROFILE={profile!r}: there is no {file}. Known profiles: {known}.")
    try:
        sections: dict[str, dict[str, Any]] = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise PipelineError(f"{file} is no YAML: {error}") from error
    declared = {node.name: declared_parameters(node.path) for node in SERIES}
    unknown_sections = set(sections) - {"all"} - set(declared)
    if unknown_sections:
        raise PipelineError(f"{file.name} has sections for no notebook: {', '.join(sorted(unknown_sections))}.")
    for_all = {key: str(value) for key, value in given.items()} | _from_environment()
    result: dict[str, dict[str, Any]] = {}
    for node in SERIES:
        own, all_notebooks = sections.get(node.name) or {}, sections.get("all") or {}
        _refuse_unknown(own, declared[node.name], f"{file.name}, section {node.name}")
        values = {key: value for key, value in {**all_notebooks, **for_all}.items() if key in declared[node.name]}
        result[node.name] = {**values, **own}
    _refuse_unknown(sections.get("all") or {}, _union(declared.values()), f"{file.name}, section all")
    for setting in settings:
        _apply(setting, declared, result)
    for node in SERIES:
        result[node.name] = {
            key: _typed(key, value, declared[node.name][key], node.name) for key, value in result[node.name].items()
        }
    return result


def declared_parameters(notebook: Path) -> dict[str, str]:
    """Names and declared types of a notebook's parameters, as papermill reads them from its tagged cell."""
    import papermill

    return {name: found["inferred_type_name"] for name, found in papermill.inspect_notebook(str(notebook)).items()}


def _from_environment() -> dict[str, str]:
    backbone = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    return {ENVIRONMENT_VARIABLE: resolve_local_name(backbone, Path.cwd())} if backbone else {}


def _apply(setting: str, declared: dict[str, dict[str, str]], result: dict[str, dict[str, Any]]) -> None:
    key, text = split_setting(setting)
    match = re.fullmatch(r"(?:(\d\d)\.)?([A-Za-z_]\w*)", key)
    if match is None:
        raise PipelineError(f"--set {setting}: expected NAME=VALUE, or 02.NAME=VALUE for one notebook.")
    number, name = match.groups()
    targets = [node for node in SERIES if number in (None, node.number)]
    takers = [node for node in targets if name in declared[node.name]]
    if not takers:
        known = sorted(_union(declared[node.name] for node in targets))
        where = f"notebook {number}" if number else "any notebook"
        raise PipelineError(f"--set {setting}: {name} is no parameter of {where}. Known: {', '.join(known)}.")
    for node in takers:
        text_wanted = declared[node.name][name] in ("str", "'str'")
        value = text if text_wanted else read_value(key, text)
        if name == ENVIRONMENT_VARIABLE:
            value = resolve_local_name(value, Path.cwd())
        result[node.name][name] = value


def _refuse_unknown(values: dict[str, Any], declared: Iterable[str], where: str) -> None:
    unknown = sorted(set(values) - set(declared))
    if unknown:
        raise PipelineError(f"{where}: unknown parameter {', '.join(unknown)}. Known: {', '.join(sorted(declared))}.")


def _union(names: Iterable[Iterable[str]]) -> set[str]:
    return {name for group in names for name in group}


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "float": (float, int),
    "int": (int,),
    "list": (list,),
    "str": (str,),
}


def _typed(name: str, value: Any, type_name: str, notebook: str) -> Any:
    expected = _TYPES.get(type_name.split("[")[0])
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
        raise PipelineError(f"{notebook}: {name}={value!r} must be of type {type_name}.")
    check_finite(f"{notebook}: {name}", value)
    return value


def _choose(only: Sequence[str], start: str) -> list[Node]:
    numbers = [node.number for node in SERIES]
    for wanted in [*only, *([start] if start else [])]:
        if wanted not in numbers:
            raise PipelineError(f"There is no notebook {wanted!r}; known: {', '.join(numbers)}.")
    return [node for node in SERIES if not only or node.number in only]


# -------------------------------------------------------------------------------------------------------- execution


def execute(node: Node, parameters: dict[str, Any], folder: Path) -> float:
    """Run one notebook in a process of its own and return the seconds it took.

    The executed copy goes to ``notebooks/`` in the folder, the log beside it.

    Raises:
        PipelineError: if a cell fails, with the cell's error and the path of the executed copy.
    """
    out = folder / "notebooks" / f"{node.name}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    parameter_file = out.with_suffix(".parameters.yml")
    parameter_file.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    log = out.with_suffix(".log")
    source = node.path if not node.without else write_part(node, out.with_suffix(".source.ipynb"))
    command = [sys.executable, "-m", "papermill", str(source), str(out), "-f", str(parameter_file)]
    command += ["--kernel", "python3", "--cwd", str(NOTEBOOKS_FOLDER), "--log-output", "--no-progress-bar"]
    command += ["--execution-timeout", str(CELL_TIMEOUT_SECONDS)]
    started = last = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=_headless())
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    print(f"{node.name}: {last - started:.0f} s, {_last_line(log)}", flush=True)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        raise PipelineError(f"{_failure(out) or _tail(log)}\nExecuted copy: {out}\nLog: {log}")
    return time.monotonic() - started


def write_part(node: Node, file: Path) -> Path:
    """Write a node's notebook without the cells that it leaves out; returns the file."""
    import nbformat
    from nbconvert.preprocessors import TagRemovePreprocessor

    remover = TagRemovePreprocessor(remove_cell_tags={node.without}, enabled=True)
    part, _ = remover.preprocess(nbformat.read(node.path, as_version=4), {})
    nbformat.write(part, file)
    return file


def _headless() -> dict[str, str]:
    return {**os.environ, "HELPERS_HEADLESS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].strip()[:120] if lines else ""


def _tail(log: Path, n_lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-n_lines:])


def _failure(executed: Path) -> str:
    """The failing cell of an executed copy and its error, or nothing if there is none."""
    import nbformat

    if not executed.is_file():
        return ""
    for cell in nbformat.read(executed, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                source = "\n".join(f"    {line}" for line in cell.source.splitlines())
                return f"{executed.stem} failed in this cell:\n{source}\n{output.ename}: {output.evalue}"
    return ""


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
                self.finished = {
                    name: {"fingerprint": str(entry["fingerprint"]), "seconds": float(entry["seconds"])}
                    | {"left": str(entry.get("left"))}
                    for name, entry in json.loads(self.file.read_text(encoding="utf-8")).items()
                }
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
    import nbformat

    versions = installed_versions()
    values = [value for name, value in parameters.items() if name not in ("DATASET", "ARTIFACTS")]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    # whatever a parameter names: frames, annotations, limits, weights, textures, a clip
    beside = [project_path(text.removeprefix(LOCAL_PREFIX)) for text in texts if isinstance(text, str) and text]
    beside += [file for name in node.reads for file in sorted(NOTEBOOKS_FOLDER.glob(f"params/{name}/*.yml"))]
    content = [
        [cell.source for cell in nbformat.read(node.path, as_version=4).cells if cell.cell_type == "code"],
        [node.recipe, RECIPES, {name: versions[name] for name in (*MAKE_NUMBERS, *MAKE_RESULTS)}],
        parameters,
        _folder_content(dataset),
        [_folder_content(path) for path in beside if os.path.exists(path)],  # noqa: PTH110  (also a text of any length)
        list(before),
    ]
    return content_hash(content)


def _folder_content(folder: Path) -> list[tuple[str, str]]:
    """Relative path and hash of each file in a folder, or of the one file."""
    files = files_below(folder, []) if folder.is_dir() else [folder]
    return [(os.path.relpath(file, folder), content_digest(file)) for file in files]


# ----------------------------------------------------------------------------------------------------------- report


def write_report(folder: Path, state: _State | None = None) -> Path:
    """Executed notebooks as HTML pages with an index, in ``report/``; returns the index."""
    from html import escape

    from helpers.views.tables import POLICY, notebook_html, table_html

    state = state or _State(folder)
    report = folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    items = []
    for node in SERIES:
        executed = folder / "notebooks" / f"{node.name}.ipynb"
        if not executed.is_file():
            continue
        (report / f"{node.name}.html").write_text(notebook_html(executed), encoding="utf-8")
        seconds = state.finished.get(node.name, {}).get("seconds")
        took = f", {seconds:.0f} s" if seconds is not None else ""
        items.append(f'<li><a href="{node.name}.html">{escape(node.name)}</a>{took}</li>')
    leaderboard = folder / "leaderboard.csv"
    table = table_html(read_csv(leaderboard)) if leaderboard.is_file() else ""
    title = escape(f"{folder.parent.name}, profile {folder.name}")
    page = _PAGE.format(policy=POLICY, title=title, table=table, items="\n".join(items))
    index = report / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}<title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;line-height:1.5}}
div{{overflow-x:auto}} table{{border-collapse:collapse;font-size:.85rem}} th,td{{padding:.3rem .6rem;text-align:right;
border-bottom:1px solid #ddd;white-space:nowrap}}</style></head>
<body><h1>{title}</h1><div>{table}</div><h2>Executed notebooks</h2><ol>{items}</ol></body></html>
"""


def summary(folder: Path) -> str:
    """The leaderboard's main columns as text for a terminal."""
    file = folder / "leaderboard.csv"
    if not file.is_file():
        return f"no leaderboard yet in {folder}"
    table = read_csv(file)
    return table[[column for column in SUMMARY_COLUMNS if column in table]].to_string(index=False, float_format="%.3f")


def sweep(root: Path, classes: Sequence[str], profile: str, artifacts: str | Path, settings: Sequence[str]) -> Path:
    """Run the series on each category of a data set and write one CSV with a mean row.

    Args:
        root: folder that holds one folder a category.
        classes: names of the categories.
        profile: see :func:`run`.
        artifacts: see :func:`run`.
        settings: see :func:`run`.

    Returns:
        ``<artifacts>/sweeps/<root's name>-<profile>.csv``: one row a category and model, then one mean row a model.
        In a mean row the counts (``n_...``) are totals, and thresholds are left out: scores of two runs share no scale.
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
        table = read_csv(folder / "leaderboard.csv")
        table.insert(0, "category", name)
        tables.append(table)
    together = pd.concat(tables, ignore_index=True)
    by_model = together.groupby("model", sort=False)
    means = by_model.mean(numeric_only=True).drop(columns=["threshold", "pixel_threshold"], errors="ignore")
    counts = [column for column in means if column.startswith("n_")]
    means[counts] = by_model[counts].sum()
    means = means.reset_index()
    means.insert(0, "category", "mean")
    file = dataset_folder(artifacts, root.name, profile).parent.parent / "sweeps" / f"{root.name}-{profile}.csv"
    write_csv(pd.concat([together, means], ignore_index=True), file)
    return file


def prepare(profile: str, out: Path, settings: Sequence[str]) -> list[Path]:
    """Copies of the notebooks with a profile's parameters put in, not executed: what ``pytest --nbval-lax`` can run."""
    import papermill

    parameters = collect_parameters(profile, settings, {"PROFILE": profile})
    out.mkdir(parents=True, exist_ok=True)
    copies = []
    for node in SERIES:
        copy = out / f"{node.name}.ipynb"
        papermill.execute_notebook(
            str(node.path), str(copy), parameters=parameters[node.name], prepare_only=True, progress_bar=False
        )
        copies.append(copy)
    return copies


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
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
    options = parser.parse_args(arguments)
    try:
        if options.command == "prepare":
            print("\n".join(str(copy) for copy in prepare(options.profile, options.out, options.settings)))
        elif options.command == "sweep":
            classes = options.classes.replace(",", " ").split()
            file = sweep(options.dataset.resolve(), classes, options.profile, options.artifacts, options.settings)
            print(f"{read_csv(file).to_string(index=False, float_format='%.3f')}\n{file}")
        else:
            folder = run(
                options.dataset,
                options.profile,
                only=options.only.replace(",", " ").split(),
                start=options.start,
                force=options.force,
                settings=options.settings,
                artifacts=options.artifacts,
                name=options.name,
            )
            print(f"\n{summary(folder)}\n\nReport: {folder / 'report' / 'index.html'}")
    except (PipelineError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
