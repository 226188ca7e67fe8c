"""Around a trained classifier: what tells that a photo is like none of its classes, where it looked, how long it takes.

The classifier that is left for inspection knows every class with enough photos; what would be new to it nobody has a
photo of. How well new classes are told is measured in :mod:`helpers.studies.open_set`, by hiding known ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.classes import accepted_shares, open_set_thresholds
from helpers.compute import synchroniser, time_stages, torch_device
from helpers.data.images import read_image
from helpers.inference.grad_cam import grad_cam
from helpers.inference.predictor import Predictor
from helpers.inference.stages import THRESHOLDS_FILE
from helpers.models.classifier import load_classifier, photo_classes
from helpers.models.open_set import OPEN_SET_FILE, MahalanobisScorer
from helpers.paths import write_json
from helpers.runs import Run
from helpers.studies.gate import Gate
from helpers.studies.open_set import ONE_STAGE, TWO_STAGES
from helpers.thresholds import Threshold


def leave_open_set(
    run: Run, folder: Path, accept: float = 0.95
) -> tuple[MahalanobisScorer, dict[str, Threshold], pd.DataFrame]:
    """Fit the distance of a classifier's embeddings on train, set tau and kappa on val, and write ``open_set.npz`` and
    ``thresholds.json``, which `helpers.inference.stages.OpenSet` reads. Test shows what they accept
    (`accepted_shares`). Photos of classes that the classifier does not know have no part in it.

    Raises:
        ValueError: val holds no photo of a known class.
    """
    classes, binary = run.info["parameters"]["classes"], run.info["parameters"]["binary"]
    embeddings, confidence, names = {}, {}, {}
    for split in ("train", "val", "test"):
        rows = run.predictions(split)
        found = photo_classes(rows, binary)
        known = found.isin(classes).to_numpy()
        if split == "val" and not known.any():
            raise ValueError("val holds no photo of a known class: no threshold can be set for what is unknown.")
        file = run.folder / f"embeddings_{split}.npy"
        values = np.load(file, allow_pickle=False) if len(rows) else np.empty((0, embeddings["train"].shape[1]))
        embeddings[split], confidence[split] = values[known], rows["confidence"].to_numpy(dtype=float)[known]
        names[split] = found[known].tolist()
    scorer = MahalanobisScorer.fit(embeddings["train"], names["train"])
    distances = {split: scorer.scores(embeddings[split]) for split in ("val", "test")}
    thresholds = open_set_thresholds(distances["val"], confidence["val"], accept)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / THRESHOLDS_FILE).unlink(missing_ok=True)  # never new means with old thresholds
    scorer.save(folder / OPEN_SET_FILE)
    write_json({name: limit.to_dict() for name, limit in thresholds.items()}, folder / THRESHOLDS_FILE)
    pairs = (distances["val"], distances["test"], confidence["val"], confidence["test"])
    return scorer, thresholds, accepted_shares(thresholds, *pairs)


def class_maps(run: Run, rows: pd.DataFrame) -> dict[str, list]:
    """Grad-CAM of photos (rows of a classifier's predictions) for the class that each was called: what `map_gallery`
    takes."""
    architecture = run.info["parameters"]["backbone"]["architecture"]
    model = load_classifier(run.folder / "model.ckpt", architecture)
    photos = [run.photo_at_map_size(path) for path in rows["image_path"]]
    maps = grad_cam(model, photos, [model.classes.index(name) for name in rows["predicted"]])
    called = photo_classes(rows, run.info["parameters"]["binary"])
    words = [
        row.predicted if row.predicted == truth else f"{truth} called {row.predicted}"
        for row, truth in zip(rows.itertuples(), called, strict=True)
    ]
    titles = [f"{text} ({confidence:.2f})" for text, confidence in zip(words, rows["confidence"], strict=True)]
    masks = [run.mask_at_map_size(row.mask_path, row.label_index) for row in rows.itertuples()]
    return {"photos": photos, "maps": list(maps), "masks": masks, "titles": titles}


def time_approaches(
    run: Run,
    scorer: MahalanobisScorer,
    gate: Gate | None,
    photos: Sequence[str],
    batch_sizes: Iterable[int],
    *,
    device: str = "auto",
) -> pd.DataFrame:
    """Milliseconds per photo of every stage of both approaches, and of each whole, on photos that have been read
    (`time_stages`): ``classifier``, ``distance``, ``one stage: both``, and with a gate ``gate``, ``two stages: both``.

    Two stages need the second for what the gate flags among these photos.
    """
    sizes = list(batch_sizes)
    judge = Predictor(run, device=device, batch_size=max(sizes))
    pictures = [read_image(path) for path in photos]
    some = np.stack([one.embedding for one in judge.judge(pictures[: max(sizes)], list(photos[: max(sizes)]))])

    def classify(batch: Sequence[np.ndarray]) -> list[Any]:
        return judge.judge(batch, [""] * len(batch))

    def one_stage(batch: Sequence[np.ndarray]) -> np.ndarray:
        return scorer.scores(np.stack([one.embedding for one in classify(batch)]))

    stages: dict[str, Callable[[Any], Any]] = {
        "classifier": classify,
        "distance": lambda batch: scorer.scores(some[: len(batch)]),
        f"{ONE_STAGE}: both": one_stage,
    }
    if gate is not None:
        guard = Predictor(gate.run, device=device, batch_size=max(sizes))

        def let_through(batch: Sequence[np.ndarray]) -> list[Any]:
            return guard.judge(batch, [""] * len(batch))

        def two_stages(batch: Sequence[np.ndarray]) -> list[Any]:
            flagged = [photo for photo, one in zip(batch, let_through(batch), strict=True) if one.abnormal]
            return classify(flagged)  # of none there is nothing to do

        stages |= {"gate": let_through, f"{TWO_STAGES}: both": two_stages}
    wait = synchroniser(str(torch_device(device)))
    return time_stages(stages, pictures, sizes, synchronise=wait)
