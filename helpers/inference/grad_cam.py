"""Grad-CAM: where in a photo a classifier found what speaks for a class.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization", as the
library grad-cam computes it, but for the scale of a map (see `grad_cam`).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import nn

from helpers.models.classifier import Classifier

BATCH = 8


def grad_cam(model: Classifier, photos: Sequence[np.ndarray], class_indices: Sequence[int]) -> np.ndarray:
    """Maps (N, H, W) float32 in [0, 1] of photos (H, W, 3) uint8 of the network's size, each for a class.

    A map is the paper's ReLU of the weighted sum of channels at the backbone's last feature map, divided by its
    maximum: maps of two photos do not compare, and one without anything that speaks for the class is 0 all over. The
    library also takes the minimum off, which gives a map of nearly one value (the whole photo speaks for the class) a
    place that stands out. What it shows is what the network used, no outline of the defect.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Unstretched(GradCAM):
        def compute_cam_per_layer(self, input_tensor: torch.Tensor, targets: list, eigen_smooth: bool) -> np.ndarray:
            found, layer = self.activations_and_grads, self.target_layers[0]
            values = found.activations[0].numpy(), found.gradients[0].numpy()
            return self.get_cam_image(input_tensor, layer, targets, *values, eigen_smooth).clip(min=0)

        def aggregate_multi_layers(self, cam_per_target_layer: np.ndarray) -> np.ndarray:
            return cam_per_target_layer

    model.eval()
    images, maps = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255, []
    size = (images.shape[3], images.shape[2])
    with torch.enable_grad(), Unstretched(model, [last_feature_layer(model, images[:1])]) as cam:
        for first in range(0, len(images), BATCH):
            targets = [ClassifierOutputTarget(int(index)) for index in class_indices[first : first + BATCH]]
            for found in cam(images[first : first + BATCH], targets):
                shares = (found / (found.max() or 1)).astype(np.float32)
                maps.append(cv2.resize(shares, size, interpolation=cv2.INTER_LINEAR))
    model.zero_grad(set_to_none=True)
    return np.stack(maps)


def points_at(cam: np.ndarray, mask: np.ndarray, tolerance: int = 0) -> bool:
    """Whether the highest place of a map (H, W) lies in a defect (H, W) bool, or ``tolerance`` pixels beside it.

    The pointing game of Zhang et al. 2018, "Top-down neural attention by excitation backprop", section 5.1, which
    allows 15 pixels. A map that points anywhere hits as often as the mask covers the photo: compare with its share.
    """
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    rows = slice(max(0, row - tolerance), row + tolerance + 1)
    return bool(mask[rows, max(0, column - tolerance) : column + tolerance + 1].any())


def last_feature_layer(model: Classifier, image: torch.Tensor) -> nn.Module:
    """The layer of the backbone that gives its last feature map of more than one pixel for an image (1, 3, H, W)."""
    outputs: list[tuple[nn.Module, torch.Size]] = []

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append((module, output.shape))

    handles = [module.register_forward_hook(note) for module in model.backbone.modules()]
    try:
        with torch.inference_mode():
            model.embed(image.to(model.device))
    finally:
        for handle in handles:
            handle.remove()
    found = None
    for module, shape in outputs:
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            found = module
        elif len(shape) == 3:
            found = None  # a transformer's tokens: what came before was no feature map yet
    if found is None or getattr(model.backbone, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(
            f"{model.hparams.architecture} has no feature map to look at in a photo of {image.shape[2]}x"
            f"{image.shape[3]} pixels; Grad-CAM needs a convolutional network and a photo larger than its stride."
        )
    return found
