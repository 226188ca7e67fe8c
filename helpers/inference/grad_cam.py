"""Grad-CAM: where in a photo a classifier found what speaks for a class.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization", as the
library grad-cam computes it, but for the scale of a map (see :func:`grad_cam`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import torch
from torch import nn

from helpers.models.classifier import Classifier


def grad_cam(
    model: Classifier,
    photos: Sequence[np.ndarray],
    class_index: int | Sequence[int] | None = None,
    *,
    batch_size: int = 8,
) -> np.ndarray:
    """Grad-CAM maps of photos, at the backbone's last feature map.

    A map is the paper's ReLU of the weighted sum of channels, divided by its maximum: maps of two photos do not
    compare, and one without anything that speaks for the class is 0 all over. The library also takes the minimum off,
    which gives a map of nearly one value (the whole photo speaks for the class) a place that stands out.

    What it shows is what the network used, no outline of the defect: a pixel of the feature map stands for 32 (or so)
    of the photo and has seen most of it. Judge it against known defects before reading places from it.

    Args:
        model: trained; it is put into evaluation mode and stays on its device.
        photos: (H, W, 3) uint8, all of the network's size: what ``Run.photo_at_map_size`` gives.
        class_index: the class to look for, the same for all photos or one for each; None: each photo's most probable.
        batch_size: photos at once.

    Returns:
        (N, H, W) float32 in [0, 1].

    Raises:
        ValueError: for photos of several sizes or of another type, a class index that does not exist, or a backbone
            without feature maps (a vision transformer).
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if not len(photos):
        raise ValueError("photos is empty; give one or more.")
    shapes = {(photo.shape, str(photo.dtype)) for photo in photos}
    if len(shapes) > 1 or len(photos[0].shape) != 3 or photos[0].shape[2] != 3 or photos[0].dtype != np.uint8:
        found = ", ".join(f"{shape} {kind}" for shape, kind in sorted(shapes))
        raise ValueError(f"photos must be (H, W, 3) uint8, all of the network's size, got {found}.")
    if class_index is not None and np.ndim(class_index) and len(class_index) != len(photos):
        raise ValueError(f"class_index must be one index, or one for each of the {len(photos)} photos.")
    indices = None if class_index is None else np.broadcast_to(class_index, len(photos))
    if indices is not None and not ((indices >= 0) & (indices < len(model.classes))).all():
        raise ValueError(f"class_index must lie in 0..{len(model.classes) - 1}, got {class_index}.")
    model.eval()
    images = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() / 255
    maps = []
    with torch.enable_grad(), _unstretched()(model, [last_feature_layer(model, images[:1])]) as cam:
        for first in range(0, len(images), batch_size):
            chosen = slice(first, first + batch_size)
            targets = None if indices is None else [ClassifierOutputTarget(int(index)) for index in indices[chosen]]
            maps += [_to_photo_size(each, photos[0].shape[:2]) for each in cam(images[chosen], targets)]
    model.zero_grad(set_to_none=True)
    return np.stack(maps)


def points_at(cam: np.ndarray, mask: np.ndarray, tolerance: int = 0) -> bool:
    """Whether the highest place of a map lies in a defect (the pointing game of Zhang et al. 2018, "Top-down neural
    attention by excitation backprop", section 5.1).

    A map that points anywhere hits as often as the mask covers the photo: compare with its share.

    Args:
        cam: (H, W) from `grad_cam`.
        mask: (H, W) bool.
        tolerance: pixels that it may lie beside the defect; the paper has 15.

    Raises:
        ValueError: for two sizes.
    """
    if cam.shape != mask.shape:
        raise ValueError(f"cam {cam.shape} and mask {mask.shape} must have one size.")
    row, column = np.unravel_index(int(cam.argmax()), cam.shape)
    rows = slice(max(0, row - tolerance), row + tolerance + 1)
    return bool(mask[rows, max(0, column - tolerance) : column + tolerance + 1].any())


def _to_photo_size(cam: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w), 0 or more, as shares of its maximum, (H, W) float32."""
    shares = (cam / (cam.max() or 1)).astype(np.float32)
    return cv2.resize(shares, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


@cache
def _unstretched() -> type:
    """The library's class without its stretching; made late, as the library is slow to import."""
    from pytorch_grad_cam import GradCAM

    class UnstretchedGradCAM(GradCAM):
        def compute_cam_per_layer(self, input_tensor: torch.Tensor, targets: list, eigen_smooth: bool) -> np.ndarray:
            found = self.activations_and_grads
            activations, gradients = found.activations[0].numpy(), found.gradients[0].numpy()
            layer = self.target_layers[0]
            return self.get_cam_image(input_tensor, layer, targets, activations, gradients, eigen_smooth).clip(min=0)

        def aggregate_multi_layers(self, cam_per_target_layer: np.ndarray) -> np.ndarray:
            return cam_per_target_layer

    return UnstretchedGradCAM


def last_feature_layer(model: Classifier, image: torch.Tensor) -> nn.Module:
    """The layer of the backbone that gives its last feature map (B, C, H, W) of more than one pixel.

    Args:
        model: in evaluation mode.
        image: (1, 3, H, W) float32 in [0, 1], at the network's size.

    Raises:
        ValueError: if there is none, or if vectors (of a transformer) come after it.
    """
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
