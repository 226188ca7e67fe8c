"""How unlike all known classes is a photo? Scores on a classifier's embeddings and logits; larger is more unknown.

The Mahalanobis distance is that of Lee et al. 2018, "A simple unified framework for detecting out-of-distribution
samples and adversarial attacks" (section 2.1): the mean of each class and one covariance that all share. With more
dimensions than photos that is singular, and in pytorch-ood's detector accidental directions decide; here it is shrunk
by the share of Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".
The other scores are pytorch-ood's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from helpers.paths import write_whole

METHODS = ("mahalanobis", "max_softmax", "energy", "knn", "vim")
OPEN_SET_FILE = "open_set.npz"
NEIGHBOUR = 10


@dataclass(frozen=True)
class MahalanobisScorer:
    """Distance to the nearest of C known classes (sorted): means (C, D) and their one shrunk covariance (D, D)."""

    classes: tuple[str, ...]
    means: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def fit(cls, embeddings: ArrayLike, labels: Sequence[object] | NDArray[Any]) -> MahalanobisScorer:
        """Fit means and covariance on embeddings (N, D) of training photos, and their classes (N,)."""
        from sklearn.covariance import ledoit_wolf

        values = _matrix(embeddings)
        classes, index = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        means = np.stack([values[index == number].mean(axis=0) for number in range(len(classes))])
        return cls(tuple(classes.tolist()), means, ledoit_wolf(values - means[index], assume_centered=True)[0])

    def scores(self, embeddings: ArrayLike) -> NDArray[np.float64]:
        """The Mahalanobis distance itself, not its square, of embeddings (N, D) to the nearest class, (N,)."""
        root, centres = self._whitening
        values = torch.from_numpy(_matrix(embeddings)).T
        whitened = torch.linalg.solve_triangular(root, values, upper=False).T
        # a class at a time: the expanded square would lose the small distances
        return torch.stack([(whitened - centre).norm(dim=1) for centre in centres], dim=1).numpy().min(axis=1)

    @cached_property
    def _whitening(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cholesky root (D, D) of the covariance, and the means (C, D) in its coordinates; in torch, as the network
        before it: NumPy's threads would be awake beside torch's and make it wait."""
        root = torch.linalg.cholesky(torch.from_numpy(self.covariance))
        return root, torch.linalg.solve_triangular(root, torch.from_numpy(self.means).T, upper=False).T

    def save(self, file: Path) -> None:
        arrays = {"classes": self.classes, "means": self.means, "covariance": self.covariance}
        write_whole(file, partial(np.savez, **arrays))

    @classmethod
    def load(cls, file: Path) -> MahalanobisScorer:
        """Read what `save` wrote; no code in the file is run."""
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; fit it with notebook 05_train_classifiers.")
        try:
            with np.load(file, allow_pickle=False) as stored:
                return cls(tuple(stored["classes"].tolist()), stored["means"], stored["covariance"])
        except (KeyError, ValueError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise ValueError(f"{file} holds no open-set scorer ({error}); fit it again with notebook 05.") from error


def unknown_scores(
    train_embeddings: ArrayLike,
    train_labels: Sequence[object] | NDArray[Any],
    embeddings: ArrayLike,
    logits: ArrayLike,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> pd.DataFrame:
    """Score M photos by `METHODS`, a float64 column each; larger is more unknown. What is fitted is fitted on train.

    - ``mahalanobis``: `MahalanobisScorer.scores`, 0 or more.
    - ``max_softmax``: minus the highest probability, in [-1, 0] (Hendrycks & Gimpel 2017).
    - ``energy``: minus the log of the summed exponentials of the logits (Liu et al. 2020).
    - ``knn``: distance of the embedding, at unit length, to its tenth nearest of train, in [0, 2] (Sun et al. 2022).
    - ``vim``: virtual-logit matching (Wang et al. 2022); the principal space has half the dimensions of the embedding
      or, if fewer, of the training photos: in a space that holds all of train no residual would be left to scale by.

    Embeddings are (N, D) and (M, D), logits (M, C), ``weight`` (C, D) and ``bias`` (C,) those of the last layer.
    """
    from pytorch_ood.detector import KNN, EnergyBased, MaxSoftmax, ViM

    train, photos = _matrix(train_embeddings), _matrix(embeddings)
    known, tested, outputs = (torch.from_numpy(values) for values in (train, photos, _matrix(logits)))
    same = torch.zeros(len(train), dtype=torch.int64)
    knn = KNN(None, k=min(NEIGHBOUR, len(train))).fit_features(known, same)
    layer = {name: torch.from_numpy(np.asarray(each, np.float32)) for name, each in (("w", weight), ("b", bias))}
    vim = ViM(None, d=min(train.shape[1], len(train)) // 2, **layer).fit_features(known, same)
    scores = {
        "mahalanobis": MahalanobisScorer.fit(train, train_labels).scores(photos),
        "max_softmax": MaxSoftmax.score(outputs).numpy(),
        "energy": EnergyBased.score(outputs).numpy(),
        "knn": knn.predict_features(tested).numpy() if len(photos) else np.empty(0),
        "vim": vim.predict_features(tested).numpy(),
    }
    return pd.DataFrame(scores, dtype=np.float64)


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} embedding values are not finite.")
    return array
