"""PatchCore (Roth et al. 2022, "Towards total recall in industrial anomaly detection") on anomalib's implementation.

What differs from anomalib 2.7.0 is speed and memory, not the method: the coreset is picked by the lazily evaluated
exact greedy k-center of :mod:`helpers.models.coreset`; patch features are written once into memory set aside for them
(anomalib keeps a list and stacks it, which holds all of them twice); the nearest neighbour is found without a root of
every distance; the map is blurred along rows and columns in turn; convolutions run in channels-last order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from anomalib.models import Patchcore
from anomalib.models.components import GaussianBlur2d
from anomalib.models.image.patchcore.torch_model import DEFAULT_CHUNK_SIZE, PatchcoreModel
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim
from torch import nn
from torch.nn import functional

from helpers.models.coreset import CHUNK_SIZE, k_center_greedy

PROJECTION_EPS = 0.9  # anomalib's and the authors' relative distortion of squared distances


class EmbeddingStore:
    """Stands in for the list that anomalib's model appends features to: one tensor, set aside for all of them."""

    def __init__(self, n_images: int, batch_size: int) -> None:
        self.n_images, self.n_first = n_images, min(n_images, batch_size)
        self.rows, self.n_rows = torch.empty(0, 0), 0

    def append(self, features: torch.Tensor) -> None:
        if not self.n_rows:
            self.rows = features.new_empty((len(features) // self.n_first * self.n_images, features.shape[1]))
        self.rows[self.n_rows : self.n_rows + len(features)] = features
        self.n_rows += len(features)


class SeparableBlur(GaussianBlur2d):
    """anomalib's Gaussian blur along rows, then along columns: 66 multiplications a pixel instead of 1,089."""

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        one_dimensional = self.kernel[0, 0].sum(0)
        padded = functional.pad(input_tensor, self.padding_shape, mode=self.border_type)
        rows = functional.conv2d(padded, one_dimensional.view(1, 1, 1, -1))
        return functional.conv2d(rows, one_dimensional.view(1, 1, -1, 1))


class PatchCoreModel(PatchcoreModel):
    """anomalib's PatchCore network with an :class:`EmbeddingStore` and the exact lazy coreset."""

    @classmethod
    def adopt(cls, model: PatchcoreModel) -> PatchCoreModel:
        """Turn a network that anomalib built into one of ours; building it again would load its weights twice."""
        model.__class__ = cls
        model.anomaly_map_generator.blur.__class__ = SeparableBlur
        # MobileNetV2, 256 x 256, 2 CPU cores, batches of 1 to 4: 7 to 12 ms a photo; in the usual order 15 to 27 ms.
        model.feature_extractor.to(memory_format=torch.channels_last)
        return model

    def nearest_neighbors(self, embedding: torch.Tensor, n_neighbors: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (N, k) to the nearest rows of the memory bank, and their indices; (N,) both for one neighbour."""
        if n_neighbors != 1:
            return super().nearest_neighbors(embedding, n_neighbors)
        bank_norm = self.memory_bank.square().sum(1)
        nearest, index = [], []
        for rows in embedding.split(DEFAULT_CHUNK_SIZE):
            # The row's own norm is the same for all candidates: it is added to the smallest only.
            value, position = torch.addmm(bank_norm, rows, self.memory_bank.T, alpha=-2).min(1)
            nearest.append(value.add_(rows.square().sum(1)).clamp_min_(0).sqrt_())
            index.append(position)
        return torch.cat(nearest), torch.cat(index)

    def subsample_embedding(self, sampling_ratio: float, embeddings: None = None) -> None:
        """Replace the collected features by their coreset of ``sampling_ratio`` (0, 1] of them, at least one."""
        features = self.embedding_store.rows[: self.embedding_store.n_rows]
        n_select = max(1, int(len(features) * sampling_ratio))
        picks = k_center_greedy(project_features(features), n_select, show_progress=True)
        self.memory_bank = features[picks].clone()
        self.embedding_store = []


class PatchCore(Patchcore):
    """PatchCore as an anomalib module with arguments of anomalib's; scores are raw distances in feature space."""

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        layers: Sequence[str] = ("layer2", "layer3"),
        pre_trained: bool = True,
        coreset_sampling_ratio: float = 0.1,
        num_neighbors: int = 9,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        options = {"pre_processor": pre_processor, "post_processor": False, "evaluator": False, "visualizer": False}
        options |= {"coreset_sampling_ratio": coreset_sampling_ratio, "num_neighbors": num_neighbors}
        super().__init__(backbone, list(layers), pre_trained, **options)
        self.model = PatchCoreModel.adopt(self.model)
        # An enum of anomalib's, and no argument here: without it a checkpoint is plain data that any torch.load reads.
        self.hparams.pop("precision", None)

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        self.model.embedding_store = EmbeddingStore(len(loader.dataset), loader.batch_size)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """anomalib's, without ``devices``: which device is the caller's choice."""
        return {key: value for key, value in super().trainer_arguments.items() if key != "devices"}


@torch.no_grad()
def patch_features(model: PatchcoreModel, image: torch.Tensor) -> torch.Tensor:
    """Rows (patches, D) that a normalised photo (1, 3, H, W) gives."""
    features = model.feature_extractor(image.to(model.memory_bank.dtype))
    return model.reshape_embedding(model.generate_embedding(features))


def project_features(features: torch.Tensor) -> torch.Tensor:
    """Sparse random projection of features (N, D) for the coreset's distances, where it lowers the dimension.

    anomalib always projects to the Johnson-Lindenstrauss dimension, which can be higher (301 from 128 at 204,800
    patches), and once seeded draws the same columns for every row; this is scikit-learn's (Li, Hastie & Church 2006).
    """
    n_points, n_dims = features.shape
    n_components = int(johnson_lindenstrauss_min_dim(n_points, eps=PROJECTION_EPS)) if n_points > 1 else n_dims
    if n_components >= n_dims:
        return features
    projection = SparseRandomProjection(n_components=n_components, random_state=0).fit(np.zeros((1, n_dims)))
    matrix = torch.from_numpy(projection.components_.toarray().T).to(features)
    return torch.cat([rows @ matrix for rows in features.split(CHUNK_SIZE)])
