"""What runs a network in PyTorch: photos (H, W, 3) uint8 of any sizes in, one :class:`Output` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.compute import full_precision, torch_device

if TYPE_CHECKING:
    import torch

    from helpers.runs import Run

CLASSIFICATION = "classification"  # "task" in the parameters of a classifier's run
CHECKPOINT = "model.ckpt"


@dataclass(frozen=True)
class Output:
    """Of N photos: raw scores (N,) float32, higher is more abnormal; a detector's maps (N, h, w) float32 at the
    network's size; a classifier's probabilities (N, C) float32 and the embeddings (N, D) float32 before its last layer.
    """

    scores: np.ndarray
    maps: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    embeddings: np.ndarray | None = None


Backend = Callable[[Sequence[np.ndarray]], Output]


def open_torch(run: Run, device: str = "auto") -> Backend:
    """A finished run's network with its checkpoint."""
    classifies = run.info["parameters"].get("task") == CLASSIFICATION
    return TorchClassifier(run, device) if classifies else TorchDetector(run, device)


class TorchDetector:
    """A detector, with the pre-processing of its training."""

    def __init__(self, run: Run, device: str = "auto") -> None:
        from helpers.models.catalog import load_model

        self.device = torch_device(device)
        backbone = run.info["parameters"].get("backbone")
        architecture = backbone["architecture"] if backbone else ""
        self.model = load_model(run.name, run.folder / CHECKPOINT, architecture, self.device)

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Score photos, all of them at once."""
        import torch

        with torch.inference_mode(), full_precision():
            # one by one: photos of a batch need not be of one size, and the network must not see the others' sizes
            frames = [self.model.pre_processor.transform(_unit_tensor(photo))[0] for photo in photos]
            found = self.model.model(torch.stack(frames).to(self.device))
            scores, maps = found.pred_score.float().cpu(), found.anomaly_map.float().cpu()
        return Output(scores.reshape(-1).numpy(), maps.reshape(len(photos), *maps.shape[-2:]).numpy())


class TorchClassifier:
    """A classifier; its score is that of :func:`helpers.models.classifier.abnormal_scores`."""

    def __init__(self, run: Run, device: str = "auto") -> None:
        from helpers.models.classifier import load_classifier

        self.device, self.parameters = torch_device(device), run.info["parameters"]
        architecture = self.parameters["backbone"]["architecture"]
        self.model = load_classifier(run.folder / CHECKPOINT, architecture, self.device)

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Classify photos, all of them at once."""
        import torch
        from torchvision.transforms.v2.functional import resize

        from helpers.models.classifier import abnormal_scores

        size, normal = list(self.parameters["image_size"]), self.parameters.get("normal_class")
        with torch.inference_mode(), full_precision():
            frames = torch.cat([resize(_unit_tensor(photo), size, antialias=True) for photo in photos])
            embeddings = self.model.embed(frames.to(self.device))
            probabilities = self.model.head(embeddings).cpu().float().softmax(1)
        scores = abnormal_scores(probabilities, self.parameters["classes"].index(normal) if normal else None)
        return Output(scores.numpy(), probabilities=probabilities.numpy(), embeddings=embeddings.float().cpu().numpy())


def _unit_tensor(photo: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None].float() / 255
