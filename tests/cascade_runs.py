"""Runs whose networks are known, for the tests of cascades: folders as training leaves them, and a backend by hand.

A photo's channels say what a network gives: red is the map of ``first`` (over 255), green that of ``second``, and a
classifier's probabilities are the mean red, green and blue over their sum.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from helpers.data.samples import make_table, write_table
from helpers.inference import cutting
from helpers.inference.backends import Output
from helpers.models import foreground
from helpers.models.classifier import abnormal_scores
from helpers.models.open_set import MahalanobisScorer
from helpers.paths import write_json
from helpers.runs import Run
from helpers.thresholds import Threshold

CHANNELS = {"first": 0, "second": 1}
CLASSES = ["good", "hole", "scratch"]
SIZE = 8
VAL_SCORES = [0.1, 0.2, 0.3]


class KnownBackend:
    """Stands in for a network; counts the photos it sees, and may take its time."""

    seconds_a_photo = 0.0
    seen = 0

    def __init__(self, run: Run, device: str) -> None:
        self.run = run

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        KnownBackend.seen += len(photos)
        time.sleep(KnownBackend.seconds_a_photo * len(photos))
        if self.run.info["parameters"].get("task") == "classification":
            means = np.stack([photo.reshape(-1, 3).mean(0) for photo in photos])
            probabilities = (means / means.sum(1, keepdims=True)).astype(np.float32)
            normal = self.run.info["parameters"]["normal_class"]
            index = self.run.info["parameters"]["classes"].index(normal) if normal else None
            scores = abnormal_scores(torch.from_numpy(probabilities), index).numpy()
            return Output(scores, probabilities=probabilities, embeddings=means.astype(np.float32))
        channel = CHANNELS[self.run.folder.name]
        maps = np.stack([shrink(photo[:, :, channel]) for photo in photos]).astype(np.float32) / 255
        return Output(maps.max((1, 2)), maps)


def shrink(channel: np.ndarray) -> np.ndarray:
    """Every so many pixels of (H, W), 8 x 8."""
    rows, columns = (np.arange(SIZE) * side // SIZE for side in channel.shape)
    return channel[np.ix_(rows, columns)]


def use_blue_objects(monkeypatch, home: Path) -> Path:
    """A foreground network that finds what is blue, in a dataset's artifacts folder; returns its folder."""
    folder = home / "foreground"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "foreground.json").write_text(json.dumps({"fingerprint": "of the foreground", "seed": 0}))

    monkeypatch.setattr(cutting, "load_foreground", lambda folder: torch.nn.Identity())
    monkeypatch.setattr(foreground, "predict_distance", lambda net, photo: photo[:, :, 2].astype(np.float32) / 255)
    return folder


def blue_frame(*reds: float) -> np.ndarray:
    """Blue squares of 12 pixels, 20 apart, with so much red in the middle of each."""
    picture = np.zeros((30, 20 * max(1, len(reds)) + 4, 3), np.uint8)
    for number, red in enumerate(reds):
        left = 6 + 20 * number
        picture[8:20, left : left + 12, 2] = 255
        picture[12:16, left + 4 : left + 8, 0] = round(255 * red)
    return picture


def write_open_set(folder: Path, classes: Sequence[str] = ("hole", "scratch", "stain")) -> MahalanobisScorer:
    """Three known classes, each 200 in one colour and 50 in the next, with a spread of 10 in every direction."""
    centres = np.repeat([[200.0, 50.0, 0.0], [0.0, 200.0, 50.0], [50.0, 0.0, 200.0]], 200, axis=0)
    noise = np.random.default_rng(0).normal(0, 10, centres.shape)
    scorer = MahalanobisScorer.fit(centres + noise, np.repeat(classes, 200))
    scorer.save(folder / "open_set.npz")
    limits = {"tau": Threshold(5.0, "by hand"), "kappa": Threshold(0.7, "by hand", below=True)}
    write_json({name: limit.to_dict() for name, limit in limits.items()}, folder / "thresholds.json")
    return scorer


def write_run(
    folder: Path,
    *,
    thresholds: dict[str, float] | None = None,
    classes: Sequence[str] = (),
    normal: str | None = None,
    **more: Any,
) -> Path:
    """A finished run's folder with the files that a predictor reads; ``more`` of its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"image_path": folder / f"{number}.png", "split": "val"} for number in range(len(VAL_SCORES))]
    table = make_table(rows, root=folder, layout="table", name="drawn", published_split=True)
    write_table(table, folder / "samples.csv")
    names = [f"{number}.png" for number in range(len(VAL_SCORES))]
    val = pd.DataFrame({"image_path": names, "label_index": 0, "defect_type": "good", "split": "val"})
    val.assign(score=VAL_SCORES, map_max=VAL_SCORES).to_csv(folder / "predictions.csv", index=False)
    (folder / "model.ckpt").write_bytes(b"weights")
    parameters: dict = {"image_size": [SIZE, SIZE], "center_crop": None, "scheme": "one_class", "start_threshold": 0.25}
    if classes:
        parameters |= {"task": "classification", "classes": list(classes), "normal_class": normal}
    parameters |= more
    stored = {"image": 0.5, "pixel": 0.6} | (thresholds or {})
    info = {"model": folder.name, "fingerprint": f"print of {folder.name}", "parameters": parameters}
    info["thresholds"] = {name: {"value": value, "origin": f"by hand ({name})"} for name, value in stored.items()}
    (folder / "run.json").write_text(json.dumps(info))
    return folder
