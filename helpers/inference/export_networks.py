"""Networks as exported files hold them: photos in, score and map out, for one frame and any batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from helpers.inference.backends import CHECKPOINT, CLASSIFICATION
from helpers.models.catalog import load_model
from helpers.models.classifier import abnormal_scores, load_classifier
from helpers.runs import Run

BANK_ROWS = 8192  # of PatchCore's memory bank at once: bounds the memory, 32 MB a photo with 1,024 patches


class FromPhotos(nn.Module):
    """A network with what torchvision does to photos (N, H, W, 3) uint8 before it: resize, centre crop, normalise.

    ``image_size`` is (height, width), or (shorter side,); mean and std are those of photos in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: Sequence[int],
        crop: Sequence[int] | None = None,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.network, self.image_size, self.crop = network, list(image_size), crop
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
        self.register_buffer("factor", (1 / (255 * std)).float())
        self.register_buffer("offset", (-mean / std).float())

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frames = photos.permute(0, 3, 1, 2).float()
        size = self.image_size
        if len(size) == 1:
            shorter = torch.sym_min(*frames.shape[-2:])
            size = [size[0] * side // shorter for side in frames.shape[-2:]]
        frames = functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
        for axis, (side, kept) in enumerate(zip(size, self.crop or (), strict=False), start=2):
            half, odd = (side - kept) // 2, (side - kept) % 2
            frames = frames.narrow(axis, half + odd * (half % 2), kept)  # a half is rounded to even
        return self.network(frames * self.factor + self.offset)


class FixedPatchCore(nn.Module):
    """PatchCore; what depends on the size or the memory bank alone is computed before.

    With x a patch's feature and m a row of the bank, both less the mean of the bank, |x - m|^2 is |x|^2 - 2 c with
    c = x m - |m|^2 / 2, which is a 1 x 1 convolution; the nearest row has the largest c. Centring makes |x| and |m|
    small against the distance, so that little is lost to rounding.
    """

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.frame = model, frame
        bank = model.memory_bank.double()
        center = bank.mean(0)
        bank = bank - center
        self.n_neighbors = min(model.num_neighbors, len(bank))
        self.register_buffer("center", center.float().view(1, -1, 1, 1))
        self.register_buffer("bank", bank.float())
        self.register_buffer("bias", (-bank.square().sum(1) / 2).float())
        # of each row of the bank the nearest rows, itself first, (M, k)
        near = [torch.cdist(rows, self.bank).topk(self.n_neighbors, largest=False) for rows in self.bank.split(1024)]
        self.register_buffer("support", torch.cat([one.indices for one in near]))

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        layers = {
            layer: self.model.feature_pooler(part) for layer, part in self.model.feature_extractor(frames).items()
        }
        features = self.model.generate_embedding(layers) - self.center
        closest = None
        for first in range(0, len(self.bank), BANK_ROWS):
            rows = slice(first, first + BANK_ROWS)
            part = functional.conv2d(features, self.bank[rows, :, None, None], self.bias[rows]).amax(1)
            closest = part if closest is None else torch.maximum(closest, part)
        distances = (features.square().sum(1) - 2 * closest).clamp_min(0).sqrt()
        scores = distances.amax((1, 2))
        if self.n_neighbors > 1:
            scores = scores * self.weight(features.flatten(2), distances.flatten(1).argmax(1))
        return scores, self.model.anomaly_map_generator(distances[:, None], self.frame)[:, 0]

    def weight(self, features: torch.Tensor, worst: torch.Tensor) -> torch.Tensor:
        """Equation 7 of Roth et al. 2022, (N,): how far the worst patch (N,) of features (N, D, h * w) is, against its
        neighbour's neighbours."""
        patch = features.gather(2, worst[:, None, None].expand(-1, features.shape[1], 1))[:, :, 0]
        support = self.bank[self.support[(patch @ self.bank.T + self.bias).argmax(1)]]
        return 1 - (patch[:, None] - support).square().sum(2).sqrt().softmax(1)[:, 0]


class FixedDetector(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        output = self.model(frames)
        return output.pred_score.reshape(-1), output.anomaly_map[:, 0]


class FixedClassifier(nn.Module):
    """A classifier, which normalises by itself; ``normal`` is the index of its normal class, or None."""

    def __init__(self, model: nn.Module, normal: int | None) -> None:
        super().__init__()
        self.model, self.normal = model, normal

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores (N,), probabilities (N, C) and embeddings (N, D) of photos (N, 3, H, W) in [0, 1]."""
        embedding = self.model.embed(frames)
        probabilities = self.model.head(embedding).softmax(1)
        return abnormal_scores(probabilities, self.normal), probabilities, embedding


def fixed_network(run: Run) -> nn.Module:
    """The run's network from photos on, ready to be traced."""
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import Normalize

    parameters = run.info["parameters"]
    size, crop = parameters["image_size"], parameters.get("center_crop")
    architecture = (parameters.get("backbone") or {}).get("architecture", "")
    if parameters.get("task") == CLASSIFICATION:
        normal = parameters.get("normal_class")
        index = list(parameters["classes"]).index(normal) if normal else None
        network = FromPhotos(FixedClassifier(load_classifier(run.folder / CHECKPOINT, architecture), index), size)
    else:
        model = load_model(run.name, run.folder / CHECKPOINT, architecture)
        steps = extract_transforms_by_type(model.pre_processor.transform, Normalize)
        statistics = (steps[0].mean, steps[0].std) if steps else ()
        patchcore = run.name == "patchcore"
        fixed = FixedPatchCore(model.model, tuple(crop or size)) if patchcore else FixedDetector(model.model)
        network = FromPhotos(fixed, size, crop, *statistics)
    return network.eval().requires_grad_(False)
