"""The gate of two stages: PatchCore that lets good photos go, trained once for all splits of the classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from helpers import read_dataset
from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import assign_splits
from helpers.inference.predictor import Predictor
from helpers.inference.train import train
from helpers.models.backbones import Backbone
from helpers.models.catalog import build_model
from helpers.paths import project_path, read_csv, write_csv
from helpers.progress import progress
from helpers.runs import RUN_FILE, MissingRunError, Run, open_run
from helpers.thresholds import held_out_thresholds

GATE_BATCH = 8


@dataclass(frozen=True)
class Gate:
    """What lets good photos go: a finished PatchCore, what it learned from, and whether that was another product."""

    run: Run
    about: str
    stand_in: bool

    @classmethod
    def of(cls, run: Run, table: pd.DataFrame) -> Gate:
        """A finished run as the gate for the photos of a table."""
        trained = run.table
        n = int(((trained["split"] == "train") & (trained["label_index"] == 0)).sum())
        stand_in = trained.attrs["root"] != table.attrs["root"]
        name = trained.attrs.get("name") or Path(trained.attrs["root"]).name
        about = f"{n} good photos of {name}{', stand-ins' if stand_in else ''}"
        return cls(run, f"{about} ({run.note})" if run.note else about, stand_in)


def open_gate(
    gate: str, folder: Path, table: pd.DataFrame, stand_in: Path, backbone: Backbone, **options: Any
) -> Gate | None:
    """The gate of a dataset whose artifacts are in the folder: ``none``, a run's name or path, or ``auto``: the run of
    notebook 02, and where there is no good photo to train on one trained on those of the dataset ``stand_in``.

    Raises:
        MissingRunError: the run is not there; the message names the notebook that makes it.
        ValueError: the dataset of the stand-ins has no good photo either.
    """
    if gate == "none":
        return None
    if gate != "auto" and not (folder / gate / RUN_FILE).is_file():
        return Gate.of(Run.load(project_path(gate)), table)
    if gate != "auto" or ((table["label_index"] == 0) & (table["split"] == "train")).any():
        place = folder / ("patchcore" if gate == "auto" else gate)
        if not (place / RUN_FILE).is_file():
            raise MissingRunError(
                f"GATE={gate!r}: there is no finished run in {place}. Run notebook 02_train_patchcore with the same "
                "DATASET and PROFILE, or set GATE to none."
            )
        return Gate.of(Run.load(place), table)
    photos = read_dataset(stand_in)
    good = photos[photos["label_index"] == 0].reset_index(drop=True)
    if len(good) < 3:
        raise ValueError(f"GATE_DATASET={str(stand_in)!r} has {len(good)} good photos; a gate needs three or more.")
    good.attrs = photos.attrs
    return Gate.of(run_gate(folder / "open_set" / "gate", assign_splits(good), backbone, **options), table)


def run_gate(
    folder: Path,
    table: pd.DataFrame,
    backbone: Backbone,
    *,
    image_size: int = 256,
    coreset_ratio: float = 0.01,
    accept: float = 0.95,
    device: str = "auto",
    seed: int = 0,
) -> Run:
    """Train the gate ``<folder>/patchcore`` on good photos, or find it finished: once for all splits."""
    size = [image_size, image_size]
    settings = {"image_size": size, "center_crop": None, "coreset_sampling_ratio": coreset_ratio, "accept": accept}
    settings |= {"backbone": backbone.to_dict(), "scheme": table.attrs["scheme"]}
    run = open_run(folder, "patchcore", settings, table, seed, note=backbone.note)
    if run.finished:
        return run
    torch.manual_seed(seed)
    model = build_model("patchcore", backbone, image_size=image_size, coreset_sampling_ratio=coreset_ratio)
    train(run, model, SampleDataModule(table, train_batch_size=4, eval_batch_size=4), device=device)
    return run.finish(held_out_thresholds(run.predictions("val"), accept))


def gate_scores(gate: Run, photos: Iterable[str], file: Path, device: str = "auto") -> pd.Series:
    """The gate's raw score by path; photos whose scores an earlier call wrote to the CSV file are not judged again."""
    known = pd.Series(dtype=np.float64)
    if file.is_file():
        stored = read_csv(file)
        known = stored[stored["gate"] == gate.info["fingerprint"]].set_index("image_path")["score"]
    missing = [path for path in dict.fromkeys(photos) if path not in known.index]
    if missing:
        judge, found = Predictor(gate.folder, device=device, batch_size=GATE_BATCH), []
        for first in progress(range(0, len(missing), GATE_BATCH), "gate"):
            found += judge.predict(missing[first : first + GATE_BATCH]).scores.tolist()
        known = pd.concat([known, pd.Series(found, index=missing, dtype=np.float64)])
        rows = pd.DataFrame({"image_path": known.index, "score": known.to_numpy(), "gate": gate.info["fingerprint"]})
        write_csv(rows, file)
    return known


def refuse_seen(gate: Run, divided: pd.DataFrame) -> None:
    """Refuse a gate that knows photos of test."""
    seen = set(gate.table.loc[gate.table["split"] != "test", "image_path"])
    known = divided["image_path"][(divided["split"] == "test") & divided["image_path"].isin(seen)]
    if len(known):
        raise ValueError(
            f"The gate {gate.folder} was trained or calibrated on {len(known)} of the photos that are tested here "
            f"({known.iloc[0]}, ...); train it with the same sample table, by notebook 02_train_patchcore."
        )
