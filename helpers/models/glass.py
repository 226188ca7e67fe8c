"""GLASS (Chen et al. 2024, "A unified anomaly synthesis strategy with gradient ascent for industrial anomaly detection
and localization", arXiv 2407.09359) on anomalib's implementation, with what anomalib 2.7.0 changed of it repaired.

A frozen backbone gives features of patches, a linear projection adapts them, a small discriminator tells normal from
abnormal. It learns from three kinds of features: those of good photos; the same moved by noise and gradient ascent
until they lie just outside (global synthesis), as far from each feature (``manifold``) or from the centre of all
(``hypersphere``, see `judge_distribution`); those of photos with textures blended in (local synthesis).

Repaired: the centre comes from photos normalised as in training; masks are one Perlin mask, the union or the
intersection of two, a third each; the photo keeps a share of N(0.5, 0.1), clipped to [0.2, 0.8], in a defect; defects
can be kept inside a foreground; the map is (B, 1, H, W), for any batch in an exported model too; it builds without
pretrained weights; nothing is downloaded. The authors keep the checkpoint best on test data; ours never looks there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.generators.perlin import generate_perlin_noise
from anomalib.models import Glass as StockGlass
from anomalib.models.image.glass.torch_model import GlassModel
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import io
from torchvision.transforms.v2.functional import resize

import helpers.models.builtin  # noqa: F401  (registers its architecture with timm)
from helpers.data.images import read_image, to_network_frame
from helpers.models.parts import LearnsFromInvented, TextureGenerator, log_loss

if TYPE_CHECKING:
    import pandas as pd
    from anomalib.data import Batch

DISTRIBUTIONS = ("manifold", "hypersphere")
RENAMED = {"steps": "step", "noise_std": "gaussian_noise_std", "patch_size": "patchsize"}
RENAMED |= {"focal_quantile": "focal_loss_quantile_threshold"}
BLEND_MEAN, BLEND_STD, BLEND_RANGE = 0.5, 0.1, (0.2, 0.8)  # share of the photo in an invented defect
MASK_TRIES = 20
ASCENT_RATE, PROJECT_EVERY = 1e-3, 5  # of the gradient ascent: step in feature space; steps between projections
MANIFOLD_RADIUS = 0.5

JUDGED_SIDE, JUDGED_BLUR = 289, 39  # pixels; of the judgement, all by the authors' code
BRIGHT, DENSE, MIN_RADIUS, MIN_POINTS = 170.0, 0.21, 12, 60

ObjectMasks = Callable[[Sequence[str]], torch.Tensor]  # paths -> (B, 1, H, W) 0 or 1 at the network's size


def judge_distribution(photos: Iterable[np.ndarray]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Judge from good photos (H, W, 3) uint8 of one size whether their features lie on a manifold or about a centre.

    The authors' rule, with limits found on their data: in the spectrum of the blurred mean photo, bright points that
    fill a disc or box about the middle are smooth shades, a hypersphere; where they scatter far out, a pattern that is
    the same in all photos has stayed: a manifold.

    Returns a row (``density``: share that the ``n_points`` bright points fill of the box about the middle that holds
    them, or of the disc of ``radius`` if that is larger), the mean photo, and the spectrum (289, 289) float32, 20 log
    of the magnitude, frequency 0 in the middle.
    """
    total, count = 0.0, 0
    for photo in photos:
        total, count = total + photo.astype(np.float64), count + 1
    if not count:
        raise ValueError("There is no good photo to judge the distribution by.")
    mean_photo = np.uint8(total / count)
    grey = cv2.cvtColor(cv2.resize(mean_photo, (JUDGED_SIDE, JUDGED_SIDE)), cv2.COLOR_RGB2GRAY)
    smooth = cv2.blur(grey, (JUDGED_BLUR, JUDGED_BLUR)).astype(np.float64)
    spectrum = 20 * np.log(np.maximum(np.abs(np.fft.fftshift(np.fft.fft2(smooth))), 1e-12))

    rows, columns = np.nonzero(spectrum > BRIGHT)
    middle, n_points = JUDGED_SIDE // 2, len(rows)
    high, wide = (int(np.abs(side - middle).max(initial=0)) for side in (rows, columns))
    radius = float(np.hypot(rows - middle, columns - middle).max(initial=0))
    every = np.arange(-JUDGED_SIDE, JUDGED_SIDE)
    in_disc = int((np.hypot(every[:, None], every) <= radius).sum())
    density = max(n_points / (4 * max(high, 1) * max(wide, 1)), n_points / in_disc)
    centred = density > DENSE and radius > MIN_RADIUS and n_points > MIN_POINTS
    row = {"distribution": DISTRIBUTIONS[centred], "density": density, "radius": radius}
    return row | {"n_points": n_points, "n_photos": count}, mean_photo, spectrum.astype(np.float32)


def judge_table(table: pd.DataFrame, frame: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The judgement by a sample table's normal training photos, as the network sees them (`network_frame`)."""
    good = table[(table["split"] == "train") & (table["label_index"] == 0)]
    return judge_distribution(to_network_frame(read_image(Path(path)), frame) for path in good["image_path"])


class GlassAnomalies(TextureGenerator):
    """Local synthesis in photos: a texture blended in under a mask of Perlin noise, in every photo."""

    def noise_mask(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        noise = generate_perlin_noise(height, width, device=device)
        if not (noise > 0.5).any():
            low, high = noise.min(), noise.max()
            noise = 2 * (noise - low) / (high - low).clamp_min(1e-12) - 1
        return self.perlin_rotation_transform(noise[None])[0] > 0.5

    def mask(self, height: int, width: int, device: torch.device) -> torch.Tensor:
        """One mask, the union of two or their intersection, a third each; (H, W) bool."""
        first, kind = self.noise_mask(height, width, device), int(torch.randint(3, (1,)))
        if kind == 0:
            return first
        second = self.noise_mask(height, width, device)
        return first | second if kind == 1 else first & second

    def forward(
        self, photos: torch.Tensor, foreground: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Photos (B, 3, H, W) in [0, 1] with defects in a ``foreground`` (B, 1, H, W), and masks (B, 1, H, W), 0 or 1.

        Where twenty masks in a row miss it, the photo stays as it is and its mask is empty.
        """
        masks, damaged = torch.zeros_like(photos[:, :1]), photos.clone()
        for index, photo in enumerate(photos):
            for _ in range(MASK_TRIES):
                mask = self.mask(*photo.shape[-2:], photo.device)
                mask = mask if foreground is None else mask & (foreground[index, 0] > 0)
                if mask.any():
                    break
            else:
                continue
            share = (BLEND_MEAN + BLEND_STD * torch.randn(1)).clamp(*BLEND_RANGE).to(photo.device)
            texture = self.texture(*photo.shape[-2:]).to(photo)
            damaged[index] = torch.where(mask, share * photo + (1 - share) * texture, photo)
            masks[index, 0] = mask.to(masks)
        return damaged, masks

    def texture(self, height: int, width: int) -> torch.Tensor:
        """A random texture, changed in three random ways, (3, H, W) in [0, 1]."""
        path = self.anomaly_source_paths[int(torch.randint(len(self.anomaly_source_paths), (1,)))]
        picture = io.read_image(str(path), mode=io.ImageReadMode.RGB).float() / 255
        return self.augmenters(resize(picture, [height, width], antialias=True)).clamp(0, 1)


class GlassNetwork(GlassModel):
    """anomalib's GLASS network with the repairs, and its arguments."""

    def __init__(self, anomaly_source: str, mean: Sequence[float], std: Sequence[float], **options: Any) -> None:
        super().__init__(normalize_mean=list(mean), normalize_std=list(std), **options)
        self.augmentor = GlassAnomalies(anomaly_source) if anomaly_source else None
        self.pre_trained = True  # in anomalib's code: False would train the backbone
        self.forward_modules.requires_grad_(False).eval()
        self.register_buffer("center", torch.zeros(0), persistent=False)  # of each epoch

    def train(self, mode: bool = True) -> GlassNetwork:
        super().train(mode)
        self.forward_modules.eval()  # frozen
        return self

    def embed(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Adapted features (B * h * w, D) of normalised photos (B, 3, H, W), and the grid (h, w) of the first layer."""
        features, grid = self.patch_features(photos)
        return self.project(features), grid

    @torch.no_grad()
    def patch_features(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Features before the projection; shapes as in :meth:`embed`.

        As anomalib's ``generate_embeddings``, but channels are averaged before deeper maps are enlarged (the same, with
        less work), and an exported model takes any batch.
        """
        extracted = self.forward_modules["feature_aggregator"](photos)
        grid, pooled = extracted[self.layers[0]].shape[-2:], []
        side, width = self.patch_maker.patchsize, self.forward_modules["preprocessing"].output_dim
        for features in (extracted[layer] for layer in self.layers):
            columns = functional.unfold(features, side, padding=side // 2).transpose(1, 2)
            columns = functional.adaptive_avg_pool1d(columns, width).transpose(1, 2)
            columns = columns.reshape(-1, width, *features.shape[-2:])
            if features.shape[-2:] != grid:
                columns = functional.interpolate(columns, size=grid, mode="bilinear", align_corners=False)
            pooled.append(columns.flatten(2).transpose(1, 2))
        joined = functional.adaptive_avg_pool1d(torch.cat(pooled, dim=2), self.target_embed_dimension)
        return joined.reshape(-1, self.target_embed_dimension), grid

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (N, D) after the projection, which is linear in all its layers."""
        return self.projection(features) if self.pre_projection > 0 else features

    def forward(self, batch: torch.Tensor) -> InferenceBatch:
        """Normalised photos (B, 3, H, W), in either mode, to ``anomaly_map`` (B, 1, H, W) in [0, 1] and ``pred_score``
        (B,), the highest score of a patch.
        """
        features, (height, width) = self.embed(batch)
        scores = self.discriminator(features).reshape(-1, height, width)
        maps = self.anomaly_segmentor.convert_to_segmentation(scores)
        return InferenceBatch(pred_score=scores.amax(dim=(1, 2)), anomaly_map=maps[:, None])

    def train_step(
        self, photos: torch.Tensor, damaged: torch.Tensor, masks: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The terms of the loss, which is their sum, and figures to watch, for normalised good photos (B, 3, H, W), the
        same with defects, and where (B, 1, H, W) these are.
        """
        features, grid = self.embed(torch.cat([damaged, photos]))
        fake, true = features.float().chunk(2)
        fake = fake.clone()
        truth = functional.adaptive_max_pool2d(masks.float(), grid).reshape(-1, 1)
        inside, center = truth[:, 0] > 0, self.center.repeat(len(photos), 1)

        offsets = torch.cat([fake[~inside], true]) - torch.cat([center[~inside], center])
        # without a gradient, as with the authors; anomalib's has one
        radius = torch.quantile(torch.linalg.vector_norm(offsets, dim=1).detach(), self.radius_quantile)
        true_scores, gaus_scores = self.global_synthesis(true, center, radius)
        bce = functional.binary_cross_entropy
        terms = {"true": bce(true_scores, torch.zeros_like(true_scores))}
        terms["gaus"] = bce(gaus_scores, torch.ones_like(gaus_scores))

        distance, figures = torch.linalg.vector_norm(fake[inside] - center[inside], dim=1), {"radius_true": radius}
        if inside.any():
            figures["radius_fake"] = torch.quantile(distance.detach(), self.radius_quantile)
            if self.svd == 1:
                # truncated projection of local anomalies: between two and four radii from the centre
                scale = distance.clamp(2 * radius, 4 * radius) / (distance + 1e-10)
                fake[inside] = center[inside] + scale[:, None] * (fake[inside] - center[inside])
        fake_scores = self.discriminator(fake)
        figures["score_true"] = torch.cat([fake_scores[~inside], true_scores]).detach().mean()
        figures["score_fake"] = torch.cat([fake_scores[inside], gaus_scores]).detach().mean()
        if self.focal_loss_quantile_threshold > 0:
            error = (fake_scores - truth) ** 2
            hard = error >= torch.quantile(error, self.focal_loss_quantile_threshold)
            fake_scores, truth = fake_scores[hard][:, None], truth[hard][:, None]
        terms["focal"] = self.focal_loss(torch.cat([1 - fake_scores, fake_scores], dim=1), truth)
        return terms, figures

    def global_synthesis(
        self, true: torch.Tensor, center: torch.Tensor, radius: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N, 1) of good features (N, D) and of the same moved outwards; ``center`` (N, D) is each place's."""
        moved = true + torch.randn_like(true) * self.gaussian_noise_std
        if not moved.requires_grad:  # without a projection nothing before it learns
            moved.requires_grad_()
        linear, normalise, activate = self.discriminator.body.block1
        # Good features stay where they are: in the ascent their first layer is computed once, and they only take part
        # in the statistics of the batch. The same as scoring both in every step, with half the products.
        kept = linear(true).detach()
        origin, low = (center, radius) if self.svd == 1 else (true, MANIFOLD_RADIUS)
        for step in range(self.step if self.mining else 0):
            hidden = normalise(torch.cat([kept, linear(moved)]))[len(true) :]
            scores = self.discriminator.tail(activate(hidden))
            loss = functional.binary_cross_entropy(scores, torch.ones_like(scores))
            gradient = torch.autograd.grad(loss, [moved])[0]
            with torch.no_grad():
                moved.add_(ASCENT_RATE * (gradient / (torch.linalg.vector_norm(gradient, dim=1, keepdim=True) + 1e-10)))
            if (step + 1) % PROJECT_EVERY == 0:
                offset = moved - origin
                length = torch.linalg.vector_norm(offset, dim=1, keepdim=True)
                moved = origin + length.clamp(low, 2 * low) / (length + 1e-10) * offset
        true_scores, scores = self.discriminator(torch.cat([true, moved])).chunk(2)
        return true_scores, scores


class Glass(LearnsFromInvented, StockGlass):
    """GLASS as an anomalib module; without a folder of textures (``anomaly_source``) for inference only.

    ``image_size`` is (height, width) of what the network sees; ``pre_projection`` counts the linear layers of the
    projection; the discriminator learns at twice the ``learning_rate``. ``network``: further parameters of anomalib's
    ``GlassModel``, some under the names of `RENAMED`.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        layers: Sequence[str] = ("layer2", "layer3"),
        pre_trained: bool = True,
        image_size: Sequence[int] = (288, 288),
        anomaly_source: str = "",
        distribution: str = "manifold",
        pre_projection: int = 1,
        learning_rate: float = 1e-4,
        pre_processor: nn.Module | bool = True,
        **network: Any,
    ) -> None:
        # Past StockGlass, which downloads; by super(), since Lightning finds the hyperparameters by it.
        super(StockGlass, self).__init__(
            pre_processor=pre_processor, post_processor=False, evaluator=False, visualizer=False
        )
        mean, std = self._extract_normalize_params()
        options = {RENAMED.get(name, name): value for name, value in network.items() if name != "model_args"}
        options |= {"backbone": backbone, "layers": list(layers), "pre_trained": pre_trained}
        options |= {"input_shape": tuple(image_size), "svd": DISTRIBUTIONS.index(distribution)}
        options |= {"pre_projection": pre_projection}
        self.model = GlassNetwork(anomaly_source, mean or [0.0] * 3, std or [1.0] * 3, **options)
        self.learning_rate, self.pre_projection = learning_rate, pre_projection
        self.pre_trained = True  # in anomalib's code: no optimiser for the backbone
        self.automatic_optimization = False
        self.object_masks: ObjectMasks | None = None
        self._mean: torch.Tensor | None = None  # of the good photos' features before the projection, (h * w, D)

    def within(self, object_masks: ObjectMasks | None) -> Glass:
        """This model; it invents defects on the object only."""
        self.object_masks = object_masks
        return self

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        """Move the centre with the projection, which is linear: the projected mean is the mean of the projected.

        One pass over the photos serves all epochs, in their own order, so that a resumed training finds the same sums.
        """
        if self._mean is None:
            trained, total = self.trainer.train_dataloader, 0.0
            options = {name: getattr(trained, name) for name in ("batch_size", "num_workers", "collate_fn")}
            options |= {"generator": torch.Generator()}  # else a random number of the training's would be used up
            for batch in DataLoader(trained.dataset, **options):
                photos = self.pre_processor.transform(batch.image.to(self.device).as_subclass(torch.Tensor))
                features = self.model.patch_features(photos)[0]
                total = total + features.reshape(len(photos), -1, features.shape[-1]).sum(0)
            self._mean = total / len(trained.dataset)
        self.model.center = self.model.project(self._mean)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        photos, mean, std = batch.image.as_subclass(torch.Tensor), self.model._img_mean, self.model._img_std
        foreground = self.object_masks(batch.image_path).to(photos) if self.object_masks else None
        # features and losses in full precision: probabilities near 0 and 1 do not survive half
        with torch.autocast(photos.device.type, enabled=False):
            photos = photos.float()
            damaged, masks = self.model.augmentor((photos * std + mean).clamp(0, 1), foreground)
            terms, figures = self.model.train_step(photos, (damaged - mean) / std, masks)
            loss = log_loss(self, terms, len(photos), **figures)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
