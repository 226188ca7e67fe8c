"""What runs a network in PyTorch: photos (H, W, 3) uint8 of any sizes in, one :class:`Output` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.compute import full_precision, torch_device

if TYPE_CHECKING:
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


class TorchBackend:
    """A finished run's network with its checkpoint, and the pre-processing of its training."""

    def __init__(self, run: Run, device: str = "auto") -> None:
        from helpers.models.catalog import load_model
        from helpers.models.classifier import load_classifier

        self.device, self.parameters = torch_device(device), run.info["parameters"]
        self.classifies = self.parameters.get("task") == CLASSIFICATION
        architecture, file = (self.parameters.get("backbone") or {}).get("architecture", ""), run.folder / CHECKPOINT
        if self.classifies:
            self.model = load_classifier(file, architecture, self.device)
        else:
            self.model = load_model(run.name, file, architecture, self.device)

    def __call__(self, photos: Sequence[np.ndarray]) -> Output:
        """Judge photos, all of them at once; a classifier's score is `abnormal_scores`."""
        import torch
        from torchvision.transforms.v2.functional import resize

        from helpers.models.classifier import abnormal_scores

        with torch.inference_mode(), full_precision():
            # one by one: photos of a batch need not be of one size, and the network must not see the others' sizes
            arrays = map(np.ascontiguousarray, photos)
            tensors = [torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255 for array in arrays]
            if not self.classifies:
                frames = torch.cat([self.model.pre_processor.transform(tensor) for tensor in tensors])
                found = self.model.model(frames.to(self.device))
                scores, maps = found.pred_score.float().cpu(), found.anomaly_map.float().cpu()
                return Output(scores.reshape(-1).numpy(), maps.reshape(len(photos), *maps.shape[-2:]).numpy())
            size = list(self.parameters["image_size"])
            frames = torch.cat([resize(tensor, size, antialias=True) for tensor in tensors])
            embeddings = self.model.embed(frames.to(self.device))
            probabilities = self.model.head(embeddings).cpu().float().softmax(1)
        normal = self.parameters.get("normal_class")
        scores = abnormal_scores(probabilities, self.parameters["classes"].index(normal) if normal else None)
        return Output(scores.numpy(), None, probabilities.numpy(), embeddings.float().cpu().numpy())
