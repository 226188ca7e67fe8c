"""The gate of two stages: PatchCore that lets good photos go, trained once for all splits of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import read_dataset
from helpers.data.samples import assign_splits
from helpers.inference.predictor import Predictor
from helpers.inference.train import find_or_train
from helpers.models.backbones import Backbone
from helpers.models.catalog import build_model
from helpers.paths import project_path
from helpers.progress import progress
from helpers.runs import RUN_FILE, MissingRunError, Run
from helpers.thresholds import held_out_thresholds


@dataclass
class Gate:
    """What lets good photos go: a finished PatchCore, what it learned from, and whether that was another product."""

    run: Run
    about: str
    stand_in: bool
    _known: dict[str, float] = field(default_factory=dict)

    def scores(self, photos: Sequence[str], device: str = "auto") -> np.ndarray:
        """Its raw scores (N,) of photos, of which it judges each once; one that cannot be judged raises its error."""
        missing = [path for path in dict.fromkeys(photos) if path not in self._known]
        judged = Predictor(self.run, device=device).predict_stream(progress(missing, "gate")) if missing else ()
        for one in judged:
            if one.error:
                raise one.error
            self._known[one.source] = one.score
        return np.array([self._known[path] for path in photos])

    def refuse_seen(self, divided: pd.DataFrame) -> None:
        """Refuse a gate that knows photos of test."""
        seen = set(self.run.table.loc[self.run.table["split"] != "test", "image_path"])
        known = divided["image_path"][(divided["split"] == "test") & divided["image_path"].isin(seen)]
        if len(known):
            raise ValueError(
                f"The gate {self.run.folder} was trained or calibrated on {len(known)} of the photos that are tested "
                f"here ({known.iloc[0]}, ...); train it with the same sample table, by notebook 02_train_patchcore."
            )


def open_gate(
    gate: str,
    folder: Path,
    table: pd.DataFrame,
    stand_in: Path,
    backbone: Backbone,
    *,
    image_size: int = 256,
    coreset_ratio: float = 0.01,
    accept: float = 0.95,
    device: str = "auto",
) -> Gate:
    """The gate of a dataset whose artifacts are in the folder: a run's name or path, or ``auto``: the run of notebook
    02, and where there is no good photo to train on one trained on those of the dataset ``stand_in``.
    """
    own = folder / ("patchcore" if gate == "auto" else gate)
    if (own / RUN_FILE).is_file():
        run = Run.load(own)
    elif gate != "auto" and (project_path(gate) / RUN_FILE).is_file():
        run = Run.load(project_path(gate))
    elif gate != "auto" or ((table["label_index"] == 0) & (table["split"] == "train")).any():
        raise MissingRunError(
            f"GATE={gate!r}: there is no finished run in {own}. Run notebook 02_train_patchcore with the same DATASET "
            "and PROFILE, or set GATE to none."
        )
    else:
        photos = read_dataset(stand_in)
        good = photos[photos["label_index"] == 0].reset_index(drop=True)
        if len(good) < 3:
            raise ValueError(f"GATE_DATASET={str(stand_in)!r} has {len(good)} good photos; a gate needs three or more.")
        good.attrs = photos.attrs
        good, ratio = assign_splits(good), {"coreset_sampling_ratio": coreset_ratio}
        settings = {"image_size": [image_size] * 2, "center_crop": None, "accept": accept, "batch_size": 4, **ratio}
        settings |= {"backbone": backbone.to_dict(), "scheme": good.attrs["scheme"]}
        place, how = folder / "open_set" / "gate", {"note": backbone.note, "device": device, "eval_batch_size": 4}
        build = lambda: build_model("patchcore", backbone, image_size=image_size, **ratio)  # noqa: E731
        run = find_or_train(place, "patchcore", good, settings, build, **how)
        run = run.finish(held_out_thresholds(run.predictions("val"), accept))
    trained = run.table
    n = int(((trained["split"] == "train") & (trained["label_index"] == 0)).sum())
    is_stand_in = trained.attrs["root"] != table.attrs["root"]
    about = f"{n} good photos of {trained.attrs.get('name') or Path(trained.attrs['root']).name}"
    about += (", stand-ins" if is_stand_in else "") + (f" ({run.note})" if run.note else "")
    return Gate(run, about, is_stand_in)
