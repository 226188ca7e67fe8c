"""What an exported run is worth: does it say the same as torch, what do 8 bits cost, and how fast is it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from helpers.compute import TIME_COLUMNS, time_calls
from helpers.data.images import read_image
from helpers.inference.exported import BACKEND_NAMES, BF16, FILES, has_bf16
from helpers.inference.predictor import CHECKPOINT, Prediction, Predictor
from helpers.progress import progress
from helpers.runs import Run

TORCH = "torch"
STOCK = "anomalib TorchInferencer"


def usable_backends(run: Run) -> list[str]:
    """``torch`` and the backends whose file the run has and this machine can compute."""
    there = [name for name in BACKEND_NAMES if (run.folder / FILES[name]).is_file()]
    return [TORCH, *(name for name in there if name != BF16 or has_bf16())]


def parity_photos(paths: Sequence[str | Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Photos with their files; a square one loses a quarter of its rows or of its columns, in turn.

    So every resize changes the aspect, which is where pre-processing goes wrong first.
    """
    for number, path in enumerate(paths):
        photo = read_image(path)
        if photo.shape[0] == photo.shape[1]:
            short = 3 * photo.shape[0] // 4
            photo = photo[:short] if number % 2 else photo[:, :short]
        yield str(path), photo


def judge_all(predictor: Predictor, photos: Sequence[tuple[str, np.ndarray]]) -> list[Prediction]:
    """Predictions for photos that have been read, in batches.

    Args:
        predictor: open.
        photos: as from :func:`parity_photos`.
    """
    found: list[Prediction] = []
    for first in range(0, len(photos), predictor.batch_size):
        batch = photos[first : first + predictor.batch_size]
        found += predictor.judge([photo for _, photo in batch], [source for source, _ in batch])
    return found


def parity_row(expected: Sequence[Prediction], found: Sequence[Prediction]) -> dict[str, float]:
    """How far predictions are from others of the same photos.

    Returns:
        ``photos``; ``abnormal``: how many of them ``expected`` calls so (where it is all or none, that no verdict flips
        says little); ``score_difference``: the largest |difference| as a share of the expected score, and the median,
        ``median_difference``; ``map_difference``: the largest of any pixel, as a share of the highest expected one (NaN
        for a classifier);
        ``flips``: verdicts that differ.
    """
    scores, others = (np.array([one.score for one in each], dtype=np.float64) for each in (expected, found))
    relative = np.abs(others - scores) / np.abs(scores).clip(1e-12)
    pixels = float("nan")
    if expected[0].network_map is not None:
        apart = [float(np.abs(a.network_map - b.network_map).max()) for a, b in zip(expected, found, strict=True)]
        pixels = max(apart) / max(float(np.abs(one.network_map).max()) for one in expected)
    return {
        "photos": len(scores),
        "abnormal": sum(one.abnormal for one in expected),
        "score_difference": float(relative.max()),
        "median_difference": float(np.median(relative)),
        "map_difference": pixels,
        "flips": sum(a.abnormal != b.abnormal for a, b in zip(expected, found, strict=True)),
    }


def compare_backends(
    run: Run,
    paths: Sequence[str | Path],
    labels: Sequence[int] | None = None,
    backends: Sequence[str] = (),
    *,
    cut: bool = True,
) -> pd.DataFrame:
    """Every backend against torch on the same photos.

    Args:
        run: finished and exported.
        paths: photos.
        labels: 0 good, 1 defect; None: not known.
        backends: names, ``torch`` first; empty: all that are usable.
        cut: cut square photos, see :func:`parity_photos`; what is cut off may be the defect, so not for a quality.

    Returns:
        A row a backend: ``model``, ``backend``, the figures of :func:`parity_row`; with labels of both kinds also
        ``image_auroc``, ``recall`` and ``false_alarm`` at the backend's own threshold.
    """
    photos = list(parity_photos(paths)) if cut else [(str(path), read_image(path)) for path in paths]
    rows, expected = [], None
    for backend in progress(list(backends) or usable_backends(run), f"{run.name}: backends"):
        found = judge_all(Predictor(run, backend, device="cpu"), photos)
        expected = found if expected is None else expected
        row = {"model": run.title, "backend": backend, **parity_row(expected, found)}
        if labels is not None and len(set(labels)) == 2:
            defect, called = np.asarray(labels) == 1, np.array([one.abnormal for one in found])
            row["image_auroc"] = roc_auc_score(defect, [one.score for one in found])
            row |= {"recall": called[defect].mean(), "false_alarm": called[~defect].mean()}
        rows.append(row)
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------------------- speed


def race(
    stages: Mapping[str, Callable[[Sequence[Any]], Any]],
    photos: Sequence[Any],
    batch_sizes: Sequence[int] = (1, 8),
    rounds: int = 3,
) -> pd.DataFrame:
    """Time of a verdict; the rounds of all contestants alternate, so that a busy minute hits all alike.

    Args:
        stages: name -> what judges a batch of photos.
        photos: whatever the stages judge.
        batch_sizes: each at most the number of photos.
        rounds: over all photos.

    Returns:
        As :func:`helpers.compute.time_stages`.
    """
    rows = []
    for size in batch_sizes:
        batches = [photos[start : start + size] for start in range(0, len(photos) - size + 1, size)]
        times: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(rounds):
            for name, judge in stages.items():
                times[name] += time_calls(judge, batches, warmup=2).tolist()
        for name, found in times.items():
            figures = np.mean(found), np.median(found), np.quantile(found, 0.95)
            rows.append((name, size, size * len(batches), len(found), *map(float, figures)))
    return pd.DataFrame(rows, columns=list(TIME_COLUMNS))


def speed_table(
    run: Run, paths: Sequence[str | Path], batch_sizes: Sequence[int] = (1, 8), rounds: int = 3, *, stock: bool = False
) -> pd.DataFrame:
    """Milliseconds a photo on this CPU, by backend and batch size; what is timed is what `Predictor.photo_time` times.

    Args:
        run: finished and exported.
        paths: photos.
        batch_sizes: photos at once.
        rounds: over all photos.
        stock: also time anomalib's own ``TorchInferencer`` with the same weights, one photo at a time: PatchCore only.

    Returns:
        As :func:`race`, and ``times_faster``: than the stock inferencer if it is there, else than torch, by medians of
        the same batch size (the stock one knows batches of one photo only).
    """
    photos = [(str(path), read_image(path)) for path in paths]
    judges = {name: Predictor(run, name, device="cpu") for name in usable_backends(run)}

    def of(predictor: Predictor) -> Callable[[Sequence[tuple[str, np.ndarray]]], Any]:
        return lambda batch: predictor.judge([photo for _, photo in batch], [path for path, _ in batch])

    stages = {name: of(predictor) for name, predictor in judges.items()}
    with stock_inferencer(run) if stock else _nothing() as inferencer:
        tables = []
        for size in batch_sizes:
            contest = stages
            if inferencer is not None and size == 1:
                contest = {STOCK: lambda batch: [inferencer.predict(photo) for _, photo in batch], **stages}
            tables.append(race(contest, photos, (size,), rounds))
    table = pd.concat(tables, ignore_index=True)
    base = {
        size: float(rows.set_index("stage")["median_ms"].get(STOCK, rows.set_index("stage")["median_ms"][TORCH]))
        for size, rows in table.groupby("batch_size")
    }
    return table.assign(times_faster=[base[row.batch_size] / row.median_ms for row in table.itertuples()])


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


class StockJudge:
    """anomalib's ``TorchInferencer`` without gradients."""

    def __init__(self, inferencer: Any) -> None:
        self.inferencer = inferencer

    def predict(self, photo: Path | np.ndarray) -> Any:
        """anomalib's ``ImageBatch`` of one photo: a file, or (H, W, 3) uint8 RGB."""
        import torch

        with torch.no_grad():
            return self.inferencer.predict(photo)

    def __call__(self, files: Sequence[Path]) -> list[float]:
        """Raw scores, one call of the inferencer each."""
        return [float(self.predict(file).pred_score.reshape(-1)[0]) for file in files]


@contextmanager
def stock_inferencer(run: Run) -> Iterator[StockJudge]:
    """anomalib's ``TorchInferencer`` and Patchcore with the run's weights, memory bank and threshold.

    Yields:
        Called with files, it gives their raw scores, one call of the inferencer each.

    Raises:
        ValueError: for another model than PatchCore.
    """
    if run.name != "patchcore":
        raise ValueError(f"{run.name}: anomalib's inferencer is compared for PatchCore only.")
    import torch
    from anomalib.deploy import TorchInferencer
    from anomalib.models import Patchcore

    from helpers.models.catalog import bare_backbone, load_model

    parameters = run.info["parameters"]
    ours = load_model(run.name, run.folder / CHECKPOINT, parameters["backbone"]["architecture"])
    with bare_backbone(parameters["backbone"]["architecture"], ours.hparams.get("model_args", {})) as backbone:
        stock = Patchcore(
            backbone=backbone,
            layers=parameters["backbone"]["layers"],
            pre_trained=False,
            num_neighbors=parameters["num_neighbors"],
            pre_processor=ours.pre_processor,
            visualizer=False,
        )
    # raw scores; its labels are then by its own limit of 0.5, which is timed but means nothing here
    stock.post_processor.enable_normalization = False
    stock.model.memory_bank = torch.empty_like(ours.model.memory_bank)
    stock.model.load_state_dict(ours.model.state_dict())
    with TemporaryDirectory() as folder:
        path = stock.to_torch(folder)
        # the inferencer unpickles its file only when told to trust it; this one was written a line ago
        before = os.environ.get("TRUST_REMOTE_CODE")
        os.environ["TRUST_REMOTE_CODE"] = "1"
        try:
            inferencer = TorchInferencer(path, device="cpu")
        finally:
            os.environ.pop("TRUST_REMOTE_CODE")
            if before is not None:
                os.environ["TRUST_REMOTE_CODE"] = before

        yield StockJudge(inferencer)


def stock_difference(run: Run, paths: Sequence[str | Path]) -> float:
    """Largest difference between our torch scores and the stock inferencer's, as a share of ours.

    It shows that the race is between two ways to the same result.
    """
    ours = Predictor(run, device="cpu").predict(list(paths)).scores
    with stock_inferencer(run) as judge:
        theirs = np.array(judge([Path(path) for path in paths]))
    return float((np.abs(theirs - ours) / ours).max())


def file_sizes(run: Run, files: Mapping[str, Path]) -> pd.DataFrame:
    """Megabytes (10^6 bytes) of a run's exported files: columns ``model``, ``format``, ``megabytes``, ``file``."""
    rows = []
    for name, file in files.items():
        parts = [part for part in (file, file.with_suffix(".bin")) if part.is_file()]
        rows.append(
            (run.name, name, sum(part.stat().st_size for part in parts) / 1e6, f"{file.relative_to(run.folder)}")
        )
    return pd.DataFrame(rows, columns=["model", "format", "megabytes", "file"])
