"""PatchCore (Roth et al. 2022, "Towards total recall in industrial anomaly detection") on anomalib's implementation.

What differs from anomalib 2.7.0 is speed and memory, not the method: the coreset is picked by the lazily evaluated
exact greedy k-center of :mod:`helpers.models.coreset`; patch features are written once into memory set aside for them
(anomalib keeps a list and stacks it, which holds all of them twice); the nearest neighbour is found without a root of
every distance; the map is blurred along rows and columns in turn; convolutions run in channels-last order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anomalib.models import Patchcore
from anomalib.models.components import GaussianBlur2d
from anomalib.models.image.patchcore.torch_model import DEFAULT_CHUNK_SIZE, PatchcoreModel
from anomalib.pre_processing import PreProcessor
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim
from torch import nn
from torch.nn import functional

from helpers.models.coreset import CHUNK_SIZE, k_center_greedy

logger = logging.getLogger(__name__)

PROJECTION_EPS = 0.9  # anomalib's and the authors' distortion of the Johnson-Lindenstrauss projection


class EmbeddingStore:
    """Patch features of the training photos, written once into one tensor that is set aside for them.

    Stands in for the list that anomalib's model appends to: it has the ``append``, ``clear`` and length of a list.

    Args:
        n_images: number of training photos that will come, so that the memory can be set aside at the first batch.
    """

    def __init__(self, n_images: int | None = None) -> None:
        self.n_images = n_images
        self.n_rows = 0
        self._rows: torch.Tensor | None = None

    def reserve(self, n_rows: int, like: torch.Tensor) -> None:
        """Set memory aside for ``n_rows`` features of the width, type and device of ``like`` (rows, D)."""
        self._rows = torch.empty((n_rows, like.shape[1]), dtype=like.dtype, device=like.device)

    def append(self, rows: torch.Tensor) -> None:
        """Write the features (rows, D) of one batch behind those already there."""
        if self._rows is None:
            raise RuntimeError("EmbeddingStore.reserve must be called before the first batch is appended.")
        end = self.n_rows + len(rows)
        if end > len(self._rows):
            raise RuntimeError(f"More patch features came ({end}) than memory was set aside for ({len(self._rows)}).")
        self._rows[self.n_rows : end] = rows
        self.n_rows = end

    def features(self) -> torch.Tensor:
        """All features so far, (N, D), a view without a copy.

        Raises:
            ValueError: if no feature was stored.
        """
        if self._rows is None or self.n_rows == 0:
            raise ValueError("No patch features were collected: the training split is empty.")
        return self._rows[: self.n_rows]

    def clear(self) -> None:
        """Give the memory back."""
        self._rows, self.n_rows = None, 0

    def __len__(self) -> int:
        """Number of stored features."""
        return self.n_rows


class SeparableBlur(GaussianBlur2d):
    """anomalib's Gaussian blur with the same kernel, applied along rows and then along columns.

    A 33 x 33 Gaussian is the product of two of length 33: 66 multiplications a pixel instead of 1,089.
    """

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        """Blur (B, 1, H, W) maps, reflected at the border; the same size comes back."""
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
        model.embedding_store = EmbeddingStore()
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
        del embeddings  # deprecated in anomalib; kept because the signature is theirs
        features = self.embedding_store.features()
        n_select = max(1, int(len(features) * sampling_ratio))
        picks = k_center_greedy(project_features(features), n_select, show_progress=True)
        self.memory_bank = features[picks].clone()
        self.embedding_store.clear()


class PatchCore(Patchcore):
    """PatchCore as an anomalib module; arguments are those of ``anomalib.models.Patchcore``.

    Scores are raw distances in feature space (0 upwards, no unit); nothing is normalised and no threshold is set here:
    thresholds come from held-out normal photos (:mod:`helpers.thresholds`).

    One photo costs ``H/8 * W/8 * D * 4`` bytes of features while training with layers of stride 8 and 16, D their
    channels together (see :func:`embedding_cost`); the memory bank keeps ``coreset_sampling_ratio`` of that.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        layers: tuple[str, ...] | list[str] = ("layer2", "layer3"),
        pre_trained: bool = True,
        coreset_sampling_ratio: float = 0.1,
        num_neighbors: int = 9,
        pre_processor: nn.Module | bool = True,
    ) -> None:
        if not 0 < coreset_sampling_ratio <= 1:
            raise ValueError(f"coreset_sampling_ratio must be in (0, 1], got {coreset_sampling_ratio}.")
        if num_neighbors < 1:
            raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}.")
        super().__init__(
            backbone=backbone,
            layers=list(layers),
            pre_trained=pre_trained,
            coreset_sampling_ratio=coreset_sampling_ratio,
            num_neighbors=num_neighbors,
            pre_processor=pre_processor,
            post_processor=False,
            evaluator=False,
            visualizer=False,
        )
        self.model = PatchCoreModel.adopt(self.model)
        # An enum of anomalib's, and no argument here: without it a checkpoint is plain data that any torch.load reads.
        self.hparams.pop("precision", None)

    def on_train_start(self) -> None:
        """Note how many photos will come; memory is set aside when the first one's features are known."""
        self.model.embedding_store = EmbeddingStore(n_images=len(self.trainer.datamodule.train_data))

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Write the patch features of a batch into the store; there is no loss to minimise."""
        store = self.model.embedding_store
        if store._rows is None:
            cost = measure_embedding(self.model, batch.image[:1])
            store.reserve(cost.n_patches * store.n_images, cost.example)
        return super().training_step(batch, *args, **kwargs)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """anomalib's, without ``devices``: which device is the caller's choice."""
        return {key: value for key, value in super().trainer_arguments.items() if key != "devices"}


@dataclass(frozen=True)
class PhotoFeatures:
    """Size of one photo's patch features: ``n_patches`` rows like ``example`` (rows, D)."""

    n_patches: int
    example: torch.Tensor


def measure_embedding(model: PatchcoreModel, image: torch.Tensor) -> PhotoFeatures:
    """Run one photo (1, 3, H, W) through the feature extractor and report the size of its patch features."""
    with torch.no_grad():
        features = model.feature_extractor(image.to(model.memory_bank.dtype))
        rows = model.reshape_embedding(model.generate_embedding(features))
    return PhotoFeatures(n_patches=len(rows), example=rows[:1])


@dataclass(frozen=True)
class EmbeddingCost:
    """What the patch features of a training set will take.

    Attributes:
        total_photos: number of training photos.
        patches_per_photo: rows of features a photo gives.
        channels: width D of a row.
        bytes_per_photo: ``patches_per_photo * channels * 4``.
        total_bytes: of all training photos, held until the coreset is picked.
        bank_bytes: of the memory bank that stays.
        available_bytes: free memory where training will run, or None when it is not known.
    """

    total_photos: int
    patches_per_photo: int
    channels: int
    bytes_per_photo: int
    total_bytes: int
    bank_bytes: int
    available_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether the features and as much again for working space fit into the free memory."""
        return self.available_bytes is None or 1.2 * self.total_bytes + self.bank_bytes < self.available_bytes

    @property
    def advice(self) -> str:
        """One sentence: it fits, or what to change."""
        need, gib = self.total_bytes / 2**30, 2**30
        if self.fits:
            return f"The features of all training photos take {need:.2f} GiB; that fits."
        return (
            f"The features of all training photos take {need:.1f} GiB, of {self.available_bytes / gib:.1f} GiB free: "
            "lower IMAGE_SIZE, use fewer training photos, a narrower backbone, or only its stride-16 layer (LAYERS)."
        )


def embedding_cost(model: PatchCore, n_photos: int, image_size: tuple[int, int], device: str = "cpu") -> EmbeddingCost:
    """Predict the memory for training before any of it is spent.

    Args:
        model: an untrained :class:`PatchCore`.
        n_photos: number of training photos.
        image_size: (height, width) in pixels that the network sees, after any crop.
        device: where training will run, ``cpu``, ``cuda:N`` or ``mps``; its free memory is asked for.
    """
    one = measure_embedding(model.model, torch.zeros(1, 3, *image_size, device=model.device))
    channels = one.example.shape[1]
    per_photo = one.n_patches * channels * one.example.element_size()
    total = per_photo * n_photos
    bank = int(total * model.coreset_sampling_ratio)
    return EmbeddingCost(n_photos, one.n_patches, channels, per_photo, total, bank, free_memory(device))


def free_memory(device: str = "cpu") -> int | None:
    """Free bytes on a device, or None where the system does not say."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def project_features(features: torch.Tensor, eps: float = PROJECTION_EPS, seed: int = 0) -> torch.Tensor:
    """Sparse random projection for the coreset's distances, only where it lowers the dimension.

    anomalib always projects to the Johnson-Lindenstrauss dimension, which can be higher than the features' own
    (301 from 128 at 204,800 patches). Here such features are returned as they are, without a copy. The matrix is
    scikit-learn's (Li, Hastie & Church 2006): anomalib's, once seeded, draws the same columns for every row.

    Args:
        features: (N, D) float tensor.
        eps: allowed relative distortion of squared distances, in (0, 1).
        seed: of the projection's random matrix; the global random state is left alone.
    """
    n_points, n_dims = features.shape
    n_components = int(johnson_lindenstrauss_min_dim(n_points, eps=eps)) if n_points > 1 else n_dims
    if n_components >= n_dims:
        return features
    projection = SparseRandomProjection(n_components=n_components, random_state=seed).fit(np.zeros((1, n_dims)))
    matrix = torch.from_numpy(projection.components_.toarray().T).to(features)
    projected = torch.empty((n_points, n_components), dtype=features.dtype, device=features.device)
    for first in range(0, n_points, CHUNK_SIZE):
        projected[first : first + CHUNK_SIZE] = features[first : first + CHUNK_SIZE] @ matrix
    return projected


def make_pre_processor(
    image_size: tuple[int, int],
    center_crop: tuple[int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> PreProcessor:
    """Resize, optional centre crop and the backbone's own normalisation.

    Args:
        image_size: (height, width) in pixels to resize to, or (shorter side,).
        center_crop: (height, width) in pixels cut out of that, or None; needed where the size is a shorter side.
        mean: of the backbone, per channel, for photos in [0, 1].
        std: likewise.

    Raises:
        ValueError: if the crop is larger than the resized photo.
    """
    from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

    steps: list[nn.Module] = [Resize(image_size, antialias=True)]
    if center_crop is not None:
        if center_crop[0] > image_size[0] or center_crop[1] > image_size[-1]:
            raise ValueError(f"center_crop {center_crop} cannot be larger than image_size {image_size}.")
        steps.append(CenterCrop(center_crop))
    return PreProcessor(transform=Compose([*steps, Normalize(mean=list(mean), std=list(std))]))
