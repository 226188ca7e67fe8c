"""Grad-CAM: where in a photo a classifier found what speaks for a class.

Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based localization".
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from helpers.models.classifier import Classifier


def grad_cam(model: Classifier, photos: Sequence[np.ndarray], class_indices: Sequence[int]) -> np.ndarray:
    """Maps (N, H, W) float32 in [0, 1] of photos (H, W, 3) uint8 of the network's size, each for a class.

    A map is the paper's ReLU of the weighted sum of channels at the backbone's last feature map, divided by its
    maximum: maps of two photos do not compare, and one without anything that speaks for the class is 0 all over. The
    minimum is not taken off: in a map of nearly one value no place is to stand out. What it shows is what the network
    used, no outline of the defect.
    """
    model.eval()
    maps = []
    for photo, index in zip(photos, class_indices, strict=True):
        with torch.enable_grad():
            features = model.feature_map(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
            channels_first = features.ndim == 4 and getattr(model.backbone, "output_fmt", "NCHW") == "NCHW"
            if not channels_first or features.shape[2] * features.shape[3] < 2:
                raise ValueError(
                    f"{model.hparams.architecture} has no feature map of more than a pixel in a photo of "
                    f"{photo.shape[1]}x{photo.shape[0]}; Grad-CAM needs a convolutional network and a larger photo."
                )
            logit = model.head(model.pool(features))[0, int(index)]
            (gradient,) = torch.autograd.grad(logit, features)
        found = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1)[0].clamp_min(0).numpy()
        shares = found / (found.max() or 1)
        maps.append(cv2.resize(shares, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    return np.stack(maps)
