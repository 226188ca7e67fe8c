"""What DRAEM draws of photos, and how near it is to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity

from helpers.models.catalog import load_model
from helpers.runs import Run

BATCH = 8


def reconstruct_photos(run: Run, image_paths: list[str]) -> list[np.ndarray]:
    """Reconstructions (H, W, 3) uint8 of photos at the network's size, by a finished run of DRAEM."""
    model, drawn = load_model("draem", run.folder / "model.ckpt", ""), []
    for first in range(0, len(image_paths), BATCH):
        photos = np.stack([run.photo_at_map_size(path) for path in image_paths[first : first + BATCH]])
        found = model.reconstruct(torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255)
        drawn += list((255 * found.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy())
    return drawn


def reconstruction_errors(photos: list[np.ndarray], reconstructions: list[np.ndarray]) -> pd.DataFrame:
    """One row a photo (H, W, 3) uint8: ``mse``, of values in [0, 1], and ``ssim`` (Wang et al. 2004)."""
    options = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    rows = []
    for photo, drawn in zip(photos, reconstructions, strict=True):
        difference = (photo.astype(np.float64) - drawn) / 255
        rows.append({"mse": float((difference**2).mean()), "ssim": structural_similarity(photo, drawn, **options)})
    return pd.DataFrame(rows, columns=["mse", "ssim"])
