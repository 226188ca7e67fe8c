"""The run folder ``artifacts/<dataset>/<profile>/<model>/``: everything that is needed to use, judge and repeat a
training, and nothing that looks like one. artifacts/README.md lists its files.

While it is being made it is called ``.<model>.partial``; it gets its name in one rename when ``run.json`` is there. A
folder without ``run.json`` is no run. A draft with a checkpoint of its last epoch is gone on with, not begun again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd

from helpers.data.images import read_image, read_mask, to_network_frame
from helpers.data.samples import fingerprint, origin, read_table
from helpers.models.recipes import recipe_of
from helpers.paths import content_hash, file_sha256, hold, read_csv, write_json
from helpers.session import MAKE_NUMBERS, installed_versions
from helpers.thresholds import Threshold

RUN_FILE = "run.json"
DRAFT_FILE = "draft.json"
_SCHEMA = json.loads(Path(__file__).with_name("run.schema.json").read_text(encoding="utf-8"))
CHECKPOINTS, LAST_CHECKPOINT = "checkpoints", "last.ckpt"  # what a draft that trains by epochs goes on from


class MissingRunError(FileNotFoundError):
    """Something that another notebook makes is not there; the message says which notebook to run."""


def load_samples(folder: Path, dataset: Path) -> pd.DataFrame:
    """The sample table that notebook 01 left in a dataset's artifacts folder, made from that (absolute) dataset."""
    file = folder / "samples.csv"
    if not file.is_file():
        raise MissingRunError(f"There is no {file}. Run notebook 01_setup_and_validate with this DATASET and PROFILE.")
    table = read_table(file)
    if table.attrs.get("source") != str(dataset):
        raise MissingRunError(
            f"{file} was made from {table.attrs.get('source')}, not from {dataset}. Run notebook 01_setup_and_validate "
            "again, or give one of the two datasets another NAME."
        )
    return table


def find_runs(folder: Path, table: pd.DataFrame) -> list[Run]:
    """Every finished run in a dataset's artifacts folder, by name, all confined to the photos that all of them test:
    those of scheme ``supervised`` test fewer defect photos than those of ``one_class``, which trained on none."""
    runs = [Run.load(file.parent) for file in sorted(folder.glob(f"[!.]*/{RUN_FILE}"))]
    if not runs:
        raise MissingRunError(f"No finished run in {folder}. Run notebook 02_train_patchcore (or 03 to 05) first.")
    stale = [run.name for run in runs if run.info["samples"] not in origin(table)]
    if stale:
        raise MissingRunError(
            f"{', '.join(stale)}: made with other photos or splits than {folder / 'samples.csv'} now holds. "
            "Train again, or delete that run's folder."
        )
    tested = [frozenset(run.table["image_path"][run.table["split"] == "test"]) for run in runs]
    common = frozenset.intersection(*tested)
    if not common:
        raise MissingRunError(f"The runs in {folder} have no test photo in common; train them again.")
    for run, photos in zip(runs, tested, strict=True):
        run.compared_on = common if photos != common else None
    return runs


def open_run(
    folder: Path, model: str, parameters: dict[str, Any], table: pd.DataFrame, seed: int, note: str | None = None
) -> Run:
    """The finished run with these parameters (plain data) and these photos if there is one, else a draft.

    Versions of the libraries and the model's RECIPE number count too, source files do not. A draft left over from an
    interrupted training of the same run is gone on with if it has a checkpoint, else thrown away. A finished run with
    other parameters stays until the new one is complete. InUseError where another process is training this run.
    """
    if table.attrs.get("bit_depth", 16) != 16:  # how its photos were read is how others have to be
        parameters = {**parameters, "bit_depth": table.attrs["bit_depth"]}
    identity = run_fingerprint(model, parameters, table, seed)
    final, draft = folder / model, folder / f".{model}.partial"
    if (final / RUN_FILE).is_file():
        run = Run.load(final)
        if run.info["fingerprint"] == identity:
            return run
    resumable = False
    with _alone_at(final):
        with suppress(OSError, ValueError, KeyError, TypeError):
            begun = json.loads((draft / DRAFT_FILE).read_text(encoding="utf-8"))["fingerprint"]
            resumable = (draft / CHECKPOINTS / LAST_CHECKPOINT).is_file() and begun == identity
        if draft.exists() and not resumable:
            shutil.rmtree(draft)
        draft.mkdir(parents=True, exist_ok=True)
    info = {"model": model, "recipe": recipe_of(model), "fingerprint": identity, "samples": origin(table)[0]}
    info |= {"note": note, "seed": seed, "parameters": parameters}
    return Run(draft, info, table)


def run_fingerprint(model: str, parameters: dict[str, Any], table: pd.DataFrame, seed: int) -> str:
    """Hash of what decides a run's result: RECIPE, parameters, seed, photos with masks and splits, library versions."""
    versions = [metadata.version(name) for name in MAKE_NUMBERS]
    return content_hash([model, recipe_of(model), parameters, seed, fingerprint(table), versions])


_TRAINED: dict[Path, ExitStack] = {}
"""What holds the drafts that this process has trained and not finished yet: another one would throw them away."""


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


@dataclass
class Run:
    """A training and what it left behind; a draft until :meth:`finish`."""

    folder: Path
    info: dict[str, Any]  # what run.json holds or will hold
    table: pd.DataFrame
    compared_on: frozenset[str] | None = None  # absolute paths of the test photos it is confined to; None: all
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Open a finished run; MissingRunError without ``run.json``, ValueError where it is damaged."""
        file = folder / RUN_FILE
        if not file.is_file():
            raise MissingRunError(f"{folder} holds no finished run: there is no {RUN_FILE}. Train it again.")
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            jsonschema.validate(info, _SCHEMA)
            parameters = info["parameters"]
            if parameters.get("normal_class") and parameters["normal_class"] not in (parameters.get("classes") or ()):
                raise ValueError("normal_class is none of its classes")
            for fields in info["thresholds"].values():
                Threshold.from_dict(fields)
        except (jsonschema.ValidationError, ValueError, RecursionError) as error:
            is_other = isinstance(error, jsonschema.ValidationError)
            why = f"{error.json_path}: {error.message:.200}" if is_other else error
            raise ValueError(f"{file} is damaged ({why}); delete the folder and train again.") from error
        return cls(folder, info, read_table(folder / "samples.csv"))

    @property
    def finished(self) -> bool:
        return (self.folder / RUN_FILE).is_file()

    @property
    def name(self) -> str:
        return self.info["model"]

    @property
    def note(self) -> str | None:
        """What every figure made from this run must say (``untrained backbone``), or None."""
        return self.info.get("note")

    @property
    def title(self) -> str:
        """Name for tables and legends, with the note where there is one."""
        return f"{self.name} ({self.note})" if self.note else self.name

    @property
    def scheme(self) -> str:
        return self.info["parameters"]["scheme"]

    @property
    def has_maps(self) -> bool:
        """Whether there are anomaly maps; a classifier has none."""
        return (self.folder / "maps_test.npy").is_file()

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Stored thresholds by name: ``image`` and ``pixel``, and ``image_best_f1`` where val held defects."""
        return {name: Threshold.from_dict(fields) for name, fields in self.info.get("thresholds", {}).items()}

    def alone(self) -> AbstractContextManager[None]:
        """Held while the draft is written to, and after it until :meth:`finish`: another process gets InUseError."""
        return _alone_at(self.folder.with_name(self.name), until_finished=True)

    def history(self) -> pd.DataFrame:
        """One row an epoch (column ``epoch``, from 0): what training logged, losses among it."""
        file = self.folder / "history.csv"
        if not file.is_file():
            raise MissingRunError(f"There is no {file}: {self.name} does not train by epochs, or is not trained yet.")
        return pd.read_csv(file)

    def predictions(self, split: str) -> pd.DataFrame:
        """One row a photo of ``val`` or ``test`` (``train`` where asked for when training) in the table's order.

        Columns: image_path (absolute), mask_path, label_index, defect_type, split, score (raw), map_max (raw maximum of
        the anomaly map), and area (share of it above the area threshold) where one was given when training. ValueError
        where a score is no finite number, as after a training that ended in NaN.
        """
        file = self.folder / "predictions.csv"
        if not file.is_file():
            raise MissingRunError(f"There is no {file}; train the run first.")
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
        wanted = predictions["split"] == split
        if split == "test" and self.compared_on is not None:
            wanted &= predictions["image_path"].isin(self.compared_on)
        return predictions[wanted].reset_index(drop=True)

    def maps(self, split: str) -> np.ndarray:
        """(N, H, W) float16 anomaly maps of ``val`` or ``test``, in the order of ``predictions``; memory-mapped."""
        maps = np.load(self.folder / f"maps_{split}.npy", mmap_mode="r")
        if self.compared_on is None or split != "test":
            return maps
        tested = self.table["image_path"][self.table["split"] == "test"]
        return maps[np.flatnonzero(tested.isin(self.compared_on))]

    def masks(self, split: str) -> Iterator[np.ndarray | None]:
        """Masks of ``val`` or ``test``, likewise: (H, W) bool, None for a defect photo that has none."""
        for row in self.predictions(split).itertuples():
            yield self.mask_at_map_size(row.mask_path, row.label_index)

    def mask_at_map_size(self, mask_path: str, label_index: int) -> np.ndarray | None:
        """One mask, (H, W) bool, resized (nearest) and cropped as its photo is for the network; None without one."""
        parameters = self.info["parameters"]
        if label_index == 0:
            return np.zeros(parameters["center_crop"] or parameters["image_size"], dtype=bool)
        return to_network_frame(read_mask(Path(mask_path)), parameters) if mask_path else None

    def photo_at_map_size(self, image_path: str) -> np.ndarray:
        """One photo (H, W, 3) uint8, resized and cropped as for the network: what lies under its map."""
        parameters = self.info["parameters"]
        return to_network_frame(read_image(Path(image_path), parameters.get("bit_depth")), parameters)

    def examples(self, rows: pd.DataFrame) -> dict[str, list]:
        """Photos, maps, masks and titles of rows of ``predictions``, with its index: a gallery."""
        maps = self.maps("val" if len(rows) and (rows["split"] == "val").all() else "test")
        return {
            "photos": [self.photo_at_map_size(path) for path in rows["image_path"]],
            "maps": [np.asarray(maps[index], dtype=np.float32) for index in rows.index],
            "masks": [self.mask_at_map_size(row.mask_path, row.label_index) for row in rows.itertuples()],
            "titles": [f"{row.defect_type}: {row.score:.4g}, {Path(row.image_path).name}" for row in rows.itertuples()],
        }

    def finish(self, thresholds: dict[str, Threshold], **extra: Any) -> Run:
        """Write ``run.json``, with ``thresholds`` (at least ``image``) and more plain data; give the folder its name.

        A run of that name before it is replaced. InUseError where another process is training it.
        """
        if self.finished:
            return self
        final, replaced = self.folder.with_name(self.name), self.folder.with_name(f".{self.name}.replaced")
        with _alone_at(final):
            self.info |= {"thresholds": {name: one.to_dict() for name, one in thresholds.items()}}
            self.info |= self._circumstances() | extra
            (self.folder / DRAFT_FILE).unlink(missing_ok=True)
            for left_over in (self.folder / CHECKPOINTS, self.folder / "logs" / "csv"):
                # not before: a notebook that stops between training and thresholds must not train again
                shutil.rmtree(left_over, ignore_errors=True)
            write_json(self.info, self.folder / RUN_FILE)
            shutil.rmtree(replaced, ignore_errors=True)
            if final.exists():
                final.rename(replaced)
            self.folder.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        return Run.load(final)

    def _circumstances(self) -> dict[str, Any]:
        import torch

        split, label = self.table["split"], self.table["label_index"]
        counts = {"train": int((split == "train").sum())}
        for name, (index, kind) in product(("val", "test"), enumerate(("normal", "abnormal"))):
            counts[f"{name}_{kind}"] = int(((split == name) & (label == index)).sum())
        machine = {"system": platform.platform(), "cpu_count": os.cpu_count(), "threads": torch.get_num_threads()}
        return {
            "counts": counts,
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine | {"python": platform.python_version()},
            "versions": installed_versions(),
            "files": {file.name: file_sha256(file) for file in [self.folder / "model.ckpt"] if file.is_file()},
        }

    def describe(self) -> str:
        """One line on where the run comes from, for notebooks and reports."""
        counts, timings = self.info["counts"], self.info["timings"]
        line = (
            f"{self.title}: trained on {counts['train']} photos in {timings['fit_seconds']:.1f} s, "
            f"calibrated on {counts['val_normal']}, finished {self.info['finished_at']}"
        )
        if self.compared_on is None:
            return line
        tested = counts["test_normal"] + counts["test_abnormal"]
        return f"{line}; compared on the {len(self.compared_on)} of its {tested} test photos that all runs test"
