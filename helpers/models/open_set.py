"""How unlike all known classes is a photo? Scores on a classifier's embeddings and logits; larger is more unknown.

The Mahalanobis distance is that of Lee et al. 2018, "A simple unified framework for detecting out-of-distribution
samples and adversarial attacks" (section 2.1): the mean of each class and one covariance that all classes share. With
more dimensions than photos the covariance of the sample is singular; pytorch-ood's detector inverts it all the same (a
ridge of 1e-6 is its only help), and then the smallest, accidental directions decide. Here the covariance is shrunk by
the share of Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", as
scikit-learn computes it. The other scores are pytorch-ood's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_ARRAYS = ("classes", "means", "covariance", "shrinkage", "n_train")


@dataclass(frozen=True)
class MahalanobisScorer:
    """Distance to the nearest of C known classes, in an embedding of D values.

    Attributes:
        classes: names, sorted.
        means: (C, D) float64, a row a class.
        covariance: (D, D) float64, shared by the classes, shrunk.
        shrinkage: share in [0, 1] that was taken from the multiple of the identity.
        n_train: photos it was fitted on.
    """

    classes: tuple[str, ...]
    means: NDArray[np.float64]
    covariance: NDArray[np.float64]
    shrinkage: float
    n_train: int

    @classmethod
    def fit(cls, embeddings: ArrayLike, labels: Sequence[object] | NDArray[Any]) -> MahalanobisScorer:
        """Fits means and covariance.

        Args:
            embeddings: (N, D) finite, of training photos of known classes.
            labels: (N,) their classes, names or numbers.

        Raises:
            ValueError: When shapes differ, a value is not finite, or no class has two different photos.
        """
        from sklearn.covariance import ledoit_wolf

        values = _matrix(embeddings, "embeddings")
        names = np.asarray([str(label) for label in labels])
        if names.shape != (len(values),) or not len(values):
            raise ValueError(f"labels has {names.size} entries for {len(values)} embeddings; give one each, and some.")
        classes, index = np.unique(names, return_inverse=True)
        means = np.stack([values[index == number].mean(axis=0) for number in range(len(classes))])
        centred = values - means[index]
        if not centred.any():
            raise ValueError("embeddings do not vary within any class: give several different photos a class.")
        covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
        return cls(tuple(classes.tolist()), means, covariance, float(shrinkage), len(values))

    def distances(self, embeddings: ArrayLike) -> NDArray[np.float64]:
        """The Mahalanobis distance itself, not its square, to every class.

        It is computed in float64, whatever the embeddings come in.

        Args:
            embeddings: (N, D) finite.

        Returns:
            (N, C), 0 or more, columns in the order of ``classes``.

        Raises:
            ValueError: When the width is another one or a value is not finite.
        """
        values = _matrix(embeddings, "embeddings")
        if values.shape[1] != self.means.shape[1]:
            raise ValueError(f"embeddings are {values.shape[1]} wide, but it was fitted on {self.means.shape[1]}.")
        root, centres = self._whitening
        whitened = torch.linalg.solve_triangular(root, torch.from_numpy(values).T, upper=False).T
        # a class at a time: the expanded square would lose the small distances
        return torch.stack([(whitened - centre).norm(dim=1) for centre in centres], dim=1).numpy()

    @cached_property
    def _whitening(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cholesky root (D, D) of the covariance, and the means (C, D) in its coordinates.

        In torch, as the network before it: NumPy's own threads would be awake beside torch's and make it wait.
        """
        try:
            root = torch.linalg.cholesky(torch.from_numpy(self.covariance))
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "The covariance is singular: some embedding values never vary and shrinkage came out as "
                f"{self.shrinkage:.3g}. Fit on more different photos."
            ) from error
        return root, torch.linalg.solve_triangular(root, torch.from_numpy(self.means).T, upper=False).T

    def scores(self, embeddings: ArrayLike) -> NDArray[np.float64]:
        """Distance to the nearest class, (N,): larger is more unknown; see `distances`."""
        return self.distances(embeddings).min(axis=1)

    def save(self, file: Path) -> None:
        """Writes plain arrays (npz, nothing pickled), whole or not at all."""
        # numpy adds ".npz" to other names, and the written file would not be where it is looked for
        if file.suffix != ".npz":
            raise ValueError(f"{file} must end in .npz.")
        write_whole(file, partial(np.savez, **{name: np.asarray(getattr(self, name)) for name in _ARRAYS}))

    @classmethod
    def load(cls, file: Path) -> MahalanobisScorer:
        """Reads what `save` wrote; no code in the file is run.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When it holds something else.
        """
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there; fit it with notebook 05_train_classifiers.")
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in _ARRAYS}
        except (KeyError, ValueError, EOFError, TypeError, AttributeError, BadZipFile) as error:
            raise ValueError(f"{file} holds no open-set scorer ({error}); fit it again with notebook 05.") from error
        return cls(
            tuple(arrays["classes"].tolist()),
            arrays["means"],
            arrays["covariance"],
            float(arrays["shrinkage"]),
            int(arrays["n_train"]),
        )


def unknown_scores(
    train_embeddings: ArrayLike,
    train_labels: Sequence[object] | NDArray[Any],
    embeddings: ArrayLike,
    logits: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    methods: Sequence[str] = METHODS,
    neighbour: int = 10,
) -> pd.DataFrame:
    """Scores the same photos by several methods; every column is oriented so that larger is more unknown.

    - ``mahalanobis``: `MahalanobisScorer.scores`, 0 or more.
    - ``max_softmax``: minus the highest probability, in [-1, 0] (Hendrycks & Gimpel 2017).
    - ``energy``: minus the log of the summed exponentials of the logits (Liu et al. 2020).
    - ``knn``: distance of the embedding, at unit length, to its ``neighbour``-th nearest of train, in [0, 2] (Sun et
      al. 2022).
    - ``vim``: virtual-logit matching (Wang et al. 2022). The principal space has half the dimensions of the embedding,
      or half as many as there are training photos where these are fewer: in a space that holds all of train there
      would be no residual left to scale by.

    What is fitted is fitted on train alone, so photos of several splits may be scored together or apart.

    Args:
        train_embeddings: (N, D) finite, of training photos of known classes.
        train_labels: (N,) their classes.
        embeddings: (M, D) finite, of the photos to score.
        logits: (M, C) finite, of the same photos.
        weight: (C, D) of the classifier's last layer; ``vim`` needs it.
        bias: (C,) likewise.
        methods: some of `METHODS`.
        neighbour: 1 or more; best well below the number of training photos a class.

    Returns:
        M rows, float64, a column a method in the order of ``methods``.

    Raises:
        ValueError: For an unknown method, arrays that do not fit, or fewer training photos than ``neighbour``.
    """
    strange = [method for method in methods if method not in METHODS]
    if strange or not methods:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}; got {', '.join(strange) or 'none'}.")
    train, photos = _matrix(train_embeddings, "train_embeddings"), _matrix(embeddings, "embeddings")
    outputs = _matrix(logits, "logits")
    if train.shape[1] != photos.shape[1] or len(outputs) != len(photos):
        raise ValueError(
            f"train_embeddings {train.shape}, embeddings {photos.shape} and logits {outputs.shape} do not fit: "
            "the first two need one width, the last two one length."
        )
    if len(train_labels) != len(train):
        raise ValueError(f"train_labels has {len(train_labels)} entries for {len(train)} train_embeddings.")
    score: dict[str, Callable[[], ArrayLike]] = {
        "mahalanobis": lambda: MahalanobisScorer.fit(train, train_labels).scores(photos),
        "max_softmax": lambda: _max_softmax(outputs),
        "energy": lambda: _energy(outputs),
        "knn": lambda: _knn(train, photos, neighbour),
        "vim": lambda: _vim(train, photos, weight, bias),
    }
    return pd.DataFrame({method: np.asarray(score[method](), dtype=np.float64) for method in methods})


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{name} must be two-dimensional, a row a photo, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; {int((~np.isfinite(array)).sum())} of {array.size} values are not.")
    return array


def _max_softmax(logits: NDArray[np.float64]) -> ArrayLike:
    from pytorch_ood.detector import MaxSoftmax

    return MaxSoftmax.score(torch.from_numpy(logits)).numpy()


def _energy(logits: NDArray[np.float64]) -> ArrayLike:
    from pytorch_ood.detector import EnergyBased

    return EnergyBased.score(torch.from_numpy(logits)).numpy()


def _knn(train: NDArray[np.float64], photos: NDArray[np.float64], neighbour: int) -> ArrayLike:
    from pytorch_ood.detector import KNN

    if not 1 <= neighbour <= len(train):
        raise ValueError(f"neighbour must lie in 1..{len(train)}, the number of training photos; got {neighbour}.")
    if not len(photos):
        return np.empty(0)
    detector = KNN(None, k=neighbour).fit_features(torch.from_numpy(train), torch.zeros(len(train), dtype=torch.int64))
    return detector.predict_features(torch.from_numpy(photos)).numpy()


def _vim(
    train: NDArray[np.float64], photos: NDArray[np.float64], weight: ArrayLike | None, bias: ArrayLike | None
) -> ArrayLike:
    from pytorch_ood.detector import ViM

    if weight is None or bias is None:
        raise ValueError(
            "Method 'vim' needs weight and bias of the classifier's last layer; give both or leave it out."
        )
    matrix, offset = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != train.shape[1] or offset.shape != (len(matrix),):
        raise ValueError(
            f"weight {matrix.shape} and bias {offset.shape} must be (C, D) and (C,) with D = {train.shape[1]}."
        )
    dimensions = min(train.shape[1], len(train)) // 2
    detector = ViM(None, d=dimensions, w=torch.from_numpy(matrix), b=torch.from_numpy(offset))
    detector.fit_features(torch.from_numpy(train), torch.zeros(len(train), dtype=torch.int64))
    return detector.predict_features(torch.from_numpy(photos)).numpy()
