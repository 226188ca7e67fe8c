"""Does an exported file say what its run says, how fast, and what do 8 bits cost? All backends on the same photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from helpers.analysis.runtime import time_stages
from helpers.data.images import read_image
from helpers.inference.predictor import Predictor
from helpers.runs import Run

PARITY_COLUMNS = ("model", "backend", "n_photos", "score_difference", "map_difference", "flipped", "image_auroc")
SPEED_COLUMNS = ("model", "backend", "batch_size", "n_photos", "n_calls", "median_ms", "p95_ms", "times_torch")
REFERENCE = "torch"


def photos_of_many_shapes(paths: Sequence[str | Path]) -> list[np.ndarray]:
    """Photos (H, W, 3) uint8 of unlike shapes: of three, one is whole, one loses its lower and one its right quarter.

    So a file is tried with photos that are not square, also where all photos of a data set are.
    """
    photos = []
    for number, path in enumerate(paths):
        photo = read_image(path)
        height, width = photo.shape[:2]
        cut = (
            (slice(None), slice(None)),
            (slice(height - height // 4), slice(None)),
            (slice(None), slice(width - width // 4)),
        )
        photos.append(np.ascontiguousarray(photo[cut[number % 3]]))
    return photos


def compare_backends(
    run: Run, photos: Sequence[np.ndarray], labels: Sequence[int], backends: Iterable[str], *, batch_size: int = 8
) -> pd.DataFrame:
    """Judge the same photos with PyTorch and with each backend.

    Args:
        run: finished, and exported for the backends.
        photos: (H, W, 3) uint8, of any shapes.
        labels: 0 normal, 1 abnormal, of the photos.
        backends: names from :data:`helpers.inference.predictor.BACKENDS`.
        batch_size: photos at once.

    Returns:
        `PARITY_COLUMNS`, a row a backend, PyTorch's own first. ``score_difference`` is the largest difference from
        PyTorch's score over the mean size of its scores, ``map_difference`` the same of the maps over PyTorch's highest
        map value (NaN without maps), ``flipped`` the number of verdicts that are not PyTorch's, ``image_auroc`` the
        AUROC of these photos (NaN where they are of one class).

    Raises:
        ValueError: if there is no photo.
    """
    if not photos or len(photos) != len(labels):
        raise ValueError(f"give photos and as many labels, got {len(photos)} and {len(labels)}.")
    expected = Predictor(run, REFERENCE, device="cpu", batch_size=batch_size).predict(photos)
    scale = max(float(np.abs(expected.scores).mean()), 1e-12)
    rows = []
    for backend in (REFERENCE, *(name for name in backends if name != REFERENCE)):
        found = expected
        if backend != REFERENCE:
            found = Predictor(run, backend, device="cpu", batch_size=batch_size).predict(photos)
        difference = np.nan
        if expected.maps is not None and found.maps is not None:
            highest = max(max(float(np.abs(one).max()) for one in expected.maps), 1e-12)
            pairs = zip(found.maps, expected.maps, strict=True)
            difference = max(float(np.abs(one - other).max()) for one, other in pairs) / highest
        both = len(set(labels)) == 2
        rows.append(
            (
                run.name,
                backend,
                len(photos),
                float(np.abs(found.scores - expected.scores).max()) / scale,
                difference,
                int((found.labels != expected.labels).sum()),
                float(roc_auc_score(labels, found.scores)) if both else np.nan,
            )
        )
    return pd.DataFrame(rows, columns=list(PARITY_COLUMNS))


def time_backends(
    run: Run,
    paths: Sequence[str | Path],
    backends: Iterable[str],
    batch_sizes: Sequence[int] = (1, 8),
    repeats: int = 1,
) -> pd.DataFrame:
    """Milliseconds a photo from file to verdict, on this machine's CPU, after a warm-up.

    Args:
        run: finished, and exported for the backends.
        paths: of photos, at least as many as the largest batch.
        backends: names from :data:`helpers.inference.predictor.BACKENDS`; ``torch`` is always timed.
        batch_sizes: photos at once.
        repeats: rounds over all photos.

    Returns:
        `SPEED_COLUMNS`; ``times_torch`` is PyTorch's median of the same batch size over this one.
    """
    predictors: dict[str, Predictor] = {}
    for backend in (REFERENCE, *(name for name in backends if name != REFERENCE)):
        predictors[backend] = Predictor(run, backend, device="cpu", batch_size=max(batch_sizes))
    times = time_stages(
        {name: predictor.predict for name, predictor in predictors.items()},
        [str(path) for path in paths],
        batch_sizes,
        repeats=repeats,
    ).rename(columns={"stage": "backend"})
    by_size = times[times["backend"] == REFERENCE].set_index("batch_size")["median_ms"]
    times["times_torch"] = times["batch_size"].map(by_size) / times["median_ms"]
    return times.assign(model=run.name)[list(SPEED_COLUMNS)]


def file_sizes(run: Run, files: dict[str, Path]) -> pd.DataFrame:
    """Megabytes (10^6 bytes) of a run's exported files: columns ``model``, ``format``, ``megabytes``, ``file``."""
    rows = []
    for name, file in files.items():
        parts = [part for part in (file, file.with_suffix(".bin")) if part.is_file()]
        rows.append(
            (run.name, name, sum(part.stat().st_size for part in parts) / 1e6, f"{file.relative_to(run.folder)}")
        )
    return pd.DataFrame(rows, columns=["model", "format", "megabytes", "file"])
