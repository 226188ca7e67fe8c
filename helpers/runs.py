"""The run folder: everything that is needed to use, judge and repeat a training, and nothing that looks like one.

A run lives in ``artifacts/<dataset>/<profile>/<model>/``:

    run.json          parameters, seed, backbone, thresholds with their origin, timings, versions; written last
    model.ckpt        Lightning checkpoint (tensors and plain data: loads with ``weights_only=True``)
    model_last.ckpt   likewise, of the last epoch, where the run's weights are those of a better one (if asked for)
    samples.csv       the sample table with its splits, and samples.csv.json with where it came from
    predictions.csv   one row a photo of val and test: raw score, maximum of the map
    maps_test.npy     (N, H, W) float16 anomaly maps of the test rows, at the network's size
    maps_val.npy      of the val rows, likewise
    history.csv       one row an epoch: what training logged (models that train by gradient)
    logs/             the same for TensorBoard

While it is being made it is called ``.<model>.partial``; it gets its name in one rename when ``run.json`` is there. A
folder without ``run.json`` is no run. A draft with a checkpoint of its last epoch is gone on with, not begun again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.data.samples import fingerprint, origin, read_table
from helpers.models.recipes import recipe_of
from helpers.paths import content_hash, file_sha256, hold, read_csv, write_json
from helpers.session import MAKE_NUMBERS, installed_versions
from helpers.thresholds import Threshold

RUN_FILE = "run.json"
DRAFT_FILE = "draft.json"
CHECKPOINTS, LAST_CHECKPOINT = "checkpoints", "last.ckpt"  # what a draft that trains by epochs goes on from


class MissingRunError(FileNotFoundError):
    """Something that another notebook makes is not there; the message says which notebook to run."""


def load_samples(folder: Path, dataset: Path) -> pd.DataFrame:
    """The sample table that notebook 01 left in a dataset's artifacts folder.

    Args:
        folder: see :func:`dataset_folder`.
        dataset: the dataset's folder or file, absolute: the table must have been made from it.

    Raises:
        MissingRunError: if there is no table, or one of another dataset of the same name.
    """
    file = folder / "samples.csv"
    if not file.is_file():
        raise MissingRunError(
            f"There is no {file}. Run notebook 01_setup_and_validate with the same DATASET and PROFILE."
        )
    table = read_table(file)
    if table.attrs.get("source") != str(dataset):
        raise MissingRunError(
            f"{file} was made from {table.attrs.get('source')}, not from {dataset}. Run notebook 01_setup_and_validate "
            "again, or give one of the two datasets another NAME."
        )
    return table


def find_runs(folder: Path, table: pd.DataFrame) -> list[Run]:
    """Every finished run in a dataset's artifacts folder, by name, all with the same test photos.

    Runs of scheme ``supervised`` test fewer defect photos than those of ``one_class``, which trained on none. Where
    both are there, each run's ``predictions("test")``, maps and masks are those of the photos that all of them test.

    Args:
        folder: see :func:`dataset_folder`.
        table: the sample table; runs are compared on the same photos, so each must have been made with it, or with one
            derived from it (:func:`helpers.data.samples.supervised_table`).

    Raises:
        MissingRunError: if there is none, or one was made from another table.
    """
    runs = [Run.load(file.parent) for file in sorted(folder.glob(f"[!.]*/{RUN_FILE}"))]
    if not runs:
        raise MissingRunError(
            f"No finished run in {folder}. Run notebook 02_train_patchcore (or another of 02 to 05) first."
        )
    stale = [run.name for run in runs if run.info["samples"] not in origin(table)]
    if stale:
        raise MissingRunError(
            f"{', '.join(stale)}: made with other photos or splits than {folder / 'samples.csv'} now holds. Train "
            "again, or delete that run's folder."
        )
    tested = [frozenset(run.table["image_path"][run.table["split"] == "test"]) for run in runs]
    common = frozenset.intersection(*tested)
    if not common:
        raise MissingRunError(f"The runs in {folder} have no test photo in common; train them again.")
    for run, photos in zip(runs, tested, strict=True):
        run.compared_on = common if photos != common else None
    return runs


def open_run(
    folder: Path,
    model: str,
    parameters: dict[str, Any],
    table: pd.DataFrame,
    seed: int,
    note: str | None = None,
) -> Run:
    """The finished run with these parameters and these photos if there is one, else a draft.

    Versions of the libraries and the model's RECIPE number count too (see :func:`run_fingerprint`), source files do
    not. A draft left over from an interrupted training of the same run is gone on with if it has a checkpoint, else
    thrown away. A finished run with other parameters stays until the new one is complete, and is replaced then.

    Args:
        folder: a dataset's artifacts folder, see :func:`dataset_folder`.
        model: name of the run's folder.
        parameters: all that decides the result, plain JSON data.
        table: the sample table with its splits.
        seed: of everything random.
        note: what every figure and table made from the run must say.

    Raises:
        InUseError: another process is training this run.
    """
    if table.attrs.get("bit_depth", 16) != 16:  # how its photos were read is how others have to be
        parameters = {**parameters, "bit_depth": table.attrs["bit_depth"]}
    identity = run_fingerprint(model, parameters, table, seed)
    final = folder / model
    if (final / RUN_FILE).is_file():
        run = Run.load(final)
        if run.info["fingerprint"] == identity or _made_before_recipes(run, parameters, table, seed):
            return run
    draft = folder / f".{model}.partial"
    with _alone_at(final):
        if draft.exists() and not (
            _draft_identity(draft) == identity and (draft / CHECKPOINTS / LAST_CHECKPOINT).is_file()
        ):
            shutil.rmtree(draft)
        draft.mkdir(parents=True, exist_ok=True)
    info = {"model": model, "recipe": recipe_of(model), "fingerprint": identity, "samples": origin(table)[0]}
    info |= {"note": note, "seed": seed, "parameters": parameters}
    return Run(draft, info, table)


@contextmanager
def _alone_at(run: Path, *, until_finished: bool = False) -> Iterator[None]:
    stack = _TRAINED.pop(run, None)
    if stack is None:
        stack = ExitStack()
        stack.enter_context(hold(run.with_name(f".{run.name}.lock"), str(run)))
    with stack:
        yield
        if until_finished:
            _TRAINED[run] = stack.pop_all()


_TRAINED: dict[Path, ExitStack] = {}
"""What holds the drafts that this process has trained and not finished yet: another one would throw them away."""


def _made_before_recipes(run: Run, parameters: dict[str, Any], table: pd.DataFrame, seed: int) -> bool:
    """Whether a run that notes no RECIPE number, which means 1, was made from the same."""
    info, now = run.info, installed_versions()
    then = info.get("versions", {})
    return (
        "recipe" not in info
        and recipe_of(info["model"]) == 1
        and (info["seed"], info["parameters"]) == (seed, json.loads(json.dumps(parameters)))
        and all(then.get(name, now[name]) == now[name] for name in MAKE_NUMBERS)
        and info["samples"] in origin(table)
        and fingerprint(run.table) == fingerprint(table)
    )


def _draft_identity(draft: Path) -> str:
    try:
        return json.loads((draft / DRAFT_FILE).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def run_fingerprint(model: str, parameters: dict[str, Any], table: pd.DataFrame, seed: int) -> str:
    """Hash of what decides a run's result: RECIPE, parameters, seed, photos with masks and splits, library versions."""
    versions = [metadata.version(name) for name in MAKE_NUMBERS]
    return content_hash([model, recipe_of(model), parameters, seed, fingerprint(table), versions])


@dataclass
class Run:
    """A training and what it left behind; a draft until :meth:`finish`.

    Attributes:
        folder: where it lies.
        info: what ``run.json`` holds or will hold.
        table: its sample table.
        compared_on: absolute paths of the test photos that :meth:`predictions`, maps and masks are confined to, so that
            runs with different test sets can be compared; None: all.
    """

    folder: Path
    info: dict[str, Any]
    table: pd.DataFrame
    compared_on: frozenset[str] | None = None
    _timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Open a finished run.

        Raises:
            MissingRunError: if there is no ``run.json``.
            ValueError: if it cannot be read.
        """
        file = folder / RUN_FILE
        if not file.is_file():
            raise MissingRunError(f"{folder} holds no finished run: there is no {RUN_FILE}. Train it again.")
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            wrong = list(_wrong_entries(info))
            if wrong:
                raise ValueError(f"missing or of another kind: {', '.join(wrong)}")
            for fields in info["thresholds"].values():
                Threshold.from_dict(fields)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is damaged ({error}); delete the folder and train again.") from error
        return cls(folder, info, read_table(folder / "samples.csv"))

    @property
    def finished(self) -> bool:
        """Whether ``run.json`` is there."""
        return (self.folder / RUN_FILE).is_file()

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.info["model"]

    @property
    def title(self) -> str:
        """Name for tables and legends, with the note where there is one: ``patchcore (untrained backbone)``."""
        return f"{self.name} ({self.note})" if self.note else self.name

    @property
    def note(self) -> str | None:
        """What every figure and table made from this run must say (``untrained backbone``), or None."""
        return self.info.get("note")

    @property
    def scheme(self) -> str:
        """Split scheme it was trained with: ``one_class`` or ``supervised``."""
        return self.info["parameters"]["scheme"]

    @property
    def has_maps(self) -> bool:
        """Whether there are anomaly maps; a classifier has none."""
        return (self.folder / "maps_test.npy").is_file()

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Stored thresholds by name: ``image`` and ``pixel``, and ``image_best_f1`` where val held defects."""
        try:
            return {name: Threshold.from_dict(fields) for name, fields in self.info.get("thresholds", {}).items()}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / RUN_FILE}: a stored threshold cannot be used: {error}") from error

    def alone(self) -> AbstractContextManager[None]:
        """Held while the draft is written to: another process that wants to is refused with an ``InUseError``.

        Where the block ends without an error, that lasts until :meth:`finish`, or until this process works there again.
        """
        return _alone_at(self.folder.with_name(self.name), until_finished=True)

    def note_time(self, name: str, value: float) -> None:
        """Note a timing for ``run.json``, such as ``fit_seconds``."""
        self._timings[name] = value

    def history(self) -> pd.DataFrame:
        """One row an epoch (column ``epoch``, from 0): what training logged, losses among it."""
        file = self.folder / "history.csv"
        if not file.is_file():
            raise MissingRunError(f"There is no {file}: {self.name} does not train by epochs, or is not trained yet.")
        return pd.read_csv(file)

    def predictions(self, split: str) -> pd.DataFrame:
        """One row a photo of ``val`` or ``test`` (``train`` where asked for when fitting) in the table's order.

        Columns: image_path (absolute), mask_path, label_index, defect_type, split, score (raw), map_max (raw maximum of
        the anomaly map), and area (share of it above the area threshold) where one was given when fitting.

        Raises:
            ValueError: a score is no finite number, as after a training that ended in NaN.
        """
        file = self.folder / "predictions.csv"
        if not file.is_file():
            raise MissingRunError(f"There is no {file}; fit the run first.")
        text = ("image_path", "defect_type", "split")  # a type may be called 007
        predictions = read_csv(file, keep_default_na=False, dtype=dict.fromkeys(text, "str"))
        if lacking := {*text, "label_index", "score"} - {*predictions.columns}:
            raise ValueError(f"{file} is damaged (no column {', '.join(sorted(lacking))}); copy the run again.")
        numbers = predictions.filter(["score", "map_max"]).apply(pd.to_numeric, errors="coerce").astype(np.float32)
        finite = np.isfinite(numbers).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{file}: {int((~finite).sum())} of {len(finite)} photos have a score or map that is not finite, "
                f"{predictions['image_path'][~finite].iloc[0]} first. Its training or its weights are broken: train it "
                "again, with a lower learning rate if that ends the same way."
            )
        root = Path(self.table.attrs["root"])
        predictions["image_path"] = [str(root / path) for path in predictions["image_path"]]
        masks = self.table.set_index("image_path")["mask_path"]
        predictions.insert(1, "mask_path", predictions["image_path"].map(masks).fillna(""))
        predictions = predictions[predictions["split"] == split].reset_index(drop=True)
        if split != "test" or self.compared_on is None:
            return predictions
        return predictions[predictions["image_path"].isin(self.compared_on)].reset_index(drop=True)

    def test_maps(self) -> np.ndarray:
        """(N, H, W) float16 anomaly maps of the test rows, in the order of ``predictions("test")``.

        Memory-mapped, unless the run is confined to some of its test photos: then read whole.
        """
        maps = np.load(self.folder / "maps_test.npy", mmap_mode="r")
        if self.compared_on is None:
            return maps
        tested = self.table["image_path"][self.table["split"] == "test"]
        return maps[np.flatnonzero(tested.isin(self.compared_on))]

    def val_maps(self) -> np.ndarray:
        """(N, H, W) float16 anomaly maps of the val rows, memory-mapped, in the order of ``predictions("val")``."""
        return np.load(self.folder / "maps_val.npy", mmap_mode="r")

    def test_masks(self) -> Iterator[np.ndarray | None]:
        """Masks of the test rows, (H, W) bool at the maps' size; None for a defect photo that has no mask."""
        return self._masks("test")

    def val_masks(self) -> Iterator[np.ndarray | None]:
        """Masks of the val rows, likewise."""
        return self._masks("val")

    def _masks(self, split: str) -> Iterator[np.ndarray | None]:
        for row in self.predictions(split).itertuples():
            yield self.mask_at_map_size(row.mask_path, row.label_index)

    def mask_at_map_size(self, mask_path: str, label_index: int) -> np.ndarray | None:
        """One mask, (H, W) bool, resized (nearest) and cropped as its photo is for the network; None without one."""
        if label_index == 0:
            parameters = self.info["parameters"]
            return np.zeros(parameters["center_crop"] or parameters["image_size"], dtype=bool)
        if not mask_path:
            return None
        from helpers.data.images import read_mask, to_network_frame

        return to_network_frame(read_mask(Path(mask_path)), self.info["parameters"])

    def photo_at_map_size(self, image_path: str) -> np.ndarray:
        """One photo (H, W, 3) uint8, resized and cropped as for the network: what lies under its map."""
        from helpers.data.images import read_image, to_network_frame

        return to_network_frame(
            read_image(Path(image_path), self.info["parameters"].get("bit_depth")), self.info["parameters"]
        )

    def examples(self, rows: pd.DataFrame) -> dict[str, list]:
        """Photos, maps, masks and titles of some rows of a split: what ``figures.map_gallery`` takes.

        Args:
            rows: rows of ``predictions("test")`` or ``predictions("val")``, with that table's index.
        """
        maps = self.val_maps() if (rows["split"] == "val").all() and len(rows) else self.test_maps()
        return {
            "photos": [self.photo_at_map_size(path) for path in rows["image_path"]],
            "maps": [np.asarray(maps[index], dtype=np.float32) for index in rows.index],
            "masks": [self.mask_at_map_size(row.mask_path, row.label_index) for row in rows.itertuples()],
            "titles": [f"{row.defect_type}: {row.score:.4g}, {Path(row.image_path).name}" for row in rows.itertuples()],
        }

    def finish(self, thresholds: dict[str, Threshold], **extra: Any) -> Run:
        """Write ``run.json`` and give the folder its name; a run of that name before it is replaced.

        Args:
            thresholds: at least ``image``.
            **extra: more plain data for ``run.json``.

        Returns:
            The finished run at its final place.

        Raises:
            InUseError: another process is training it.
        """
        if self.finished:
            return self
        with _alone_at(self.folder.with_name(self.name)):
            return self._finish(thresholds, extra)

    def _finish(self, thresholds: dict[str, Threshold], extra: dict[str, Any]) -> Run:
        import torch

        self.info |= {
            "thresholds": {name: threshold.to_dict() for name, threshold in thresholds.items()},
            "counts": _counts(self.table),
            "timings": {name: round(value, 4) for name, value in self._timings.items()},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "system": platform.platform(),
                "cpu_count": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "python": platform.python_version(),
            },
            "versions": installed_versions(),
            "files": {file.name: file_sha256(file) for file in [self.folder / "model.ckpt"] if file.is_file()},
            **extra,
        }
        (self.folder / DRAFT_FILE).unlink(missing_ok=True)
        for left_over in (self.folder / CHECKPOINTS, self.folder / "logs" / "csv"):
            # not before: a notebook that stops between training and thresholds must not train again
            shutil.rmtree(left_over, ignore_errors=True)
        write_json(self.info, self.folder / RUN_FILE)
        final = self.folder.with_name(self.name)
        replaced = self.folder.with_name(f".{self.name}.replaced")
        if replaced.exists():
            shutil.rmtree(replaced)
        if final.exists():
            final.rename(replaced)
        self.folder.rename(final)
        if replaced.exists():
            shutil.rmtree(replaced)
        return Run.load(final)

    def describe(self) -> str:
        """One line: what, on how many photos, when."""
        counts, timings = self.info["counts"], self.info["timings"]
        line = (
            f"{self.title}: trained on {counts['train']} photos in {timings['fit_seconds']:.1f} s, "
            f"calibrated on {counts['val_normal']}, finished {self.info['finished_at']}"
        )
        if self.compared_on is None:
            return line
        tested = counts["test_normal"] + counts["test_abnormal"]
        return f"{line}; compared on the {len(self.compared_on)} of its {tested} test photos that all runs test"


def _wrong_entries(info: Any) -> Iterator[str]:
    """Names of what is missing in ``run.json``, or not of the kind that is read from there."""
    if not isinstance(info, dict):
        yield "all of it"
        return
    kinds = {"model": str, "fingerprint": str, "parameters": dict, "thresholds": dict}
    later = {"samples": str, "seed": int, "files": dict, "versions": dict, "counts": dict, "timings": dict}
    later |= {"finished_at": str, "epochs": dict}  # not in every run
    kinds |= {name: kind for name, kind in later.items() if name in info}
    yield from (name for name, kind in kinds.items() if not isinstance(info.get(name), kind))
    if not isinstance(info.get("note"), str | None):
        yield "note"
    for name, kind in (("files", str), ("versions", str), ("counts", int), ("timings", int | float)):
        if isinstance(info.get(name), dict) and not all(isinstance(value, kind) for value in info[name].values()):
            yield f"entries of {name}"
    if "image" not in (info.get("thresholds") or ("image",)):
        yield "threshold image"
    parameters = info.get("parameters")
    if not isinstance(parameters, dict):
        return
    for name, sizes in (("image_size", (1, 2)), ("center_crop", (2,))):
        if name not in parameters:
            continue
        pixels = parameters[name]
        if not (pixels is None and name == "center_crop") and not (
            isinstance(pixels, list)
            and len(pixels) in sizes
            and all(type(side) is int and 0 < side < 2**16 for side in pixels)
        ):
            yield f"parameters, {name}"
    classes, normal = parameters.get("classes"), parameters.get("normal_class")
    needed = parameters.get("task") == "classification"
    if parameters.get("task") not in (None, "detection", "classification"):
        yield "parameters, task"
    if (needed or classes is not None) and not (
        isinstance(classes, list)
        and classes
        and all(isinstance(name, str) for name in classes)
        and len({*classes}) == len(classes)
    ):
        yield "parameters, classes"
    elif not isinstance(normal, str | None) or (normal and normal not in (classes or ())):
        yield "parameters, normal_class"
    start = parameters.get("start_threshold")
    if start is not None and (type(start) not in (int, float) or not abs(start) < 1e38):
        yield "parameters, start_threshold"
    backbone = parameters.get("backbone")
    if backbone is not None and not (isinstance(backbone, dict) and isinstance(backbone.get("architecture"), str)):
        yield "parameters, backbone"


def _counts(table: pd.DataFrame) -> dict[str, int]:
    split, abnormal = table["split"], table["label_index"] == 1
    return {
        "train": int((split == "train").sum()),
        "val_normal": int(((split == "val") & ~abnormal).sum()),
        "val_abnormal": int(((split == "val") & abnormal).sum()),
        "test_normal": int(((split == "test") & ~abnormal).sum()),
        "test_abnormal": int(((split == "test") & abnormal).sum()),
    }
