"""Train the backbone that the package ships: ``make backbone``, or ``python -m benchmarks.distill``.

A student (:class:`helpers.models.builtin.BuiltinNet`) learns to give the feature maps of a teacher, an ImageNet
MobileNetV2, standardised by channel (feature distillation as in Romero et al. 2015, "FitNets"), on random crops of
pictures that need no licence: procedural textures, mesh and nuts, and scikit-image's public-domain sample photos. Crops
follow from (seed, step), the state is saved every few hundred steps, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from numpy.lib.stride_tricks import sliding_window_view
from skimage import data
from torch import nn
from torch.nn import functional

from helpers.models import builtin
from helpers.models.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, feature_strides, resolve_backbone
from helpers.models.builtin import BuiltinNet
from helpers.paths import PROJECT_ROOT, file_sha256, write_json, write_whole
from helpers.pictures.datasets import DRAWN
from helpers.pictures.textures import FAMILIES, draw_texture
from helpers.progress import progress
from helpers.session import installed_versions

TEACHER_LAYERS = ("blocks.2", "blocks.4")
STUDENT_MAPS = [2, 3]  # head8 and head16
SIDE = 256  # of the pictures
# Sample photos inside scikit-image's own package (no download), public domain or CC0 according to its docs.
SKIMAGE_PHOTOS = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "page", "rocket")
HELD_OUT_SEED, HELD_OUT_BATCHES = 10**6, 16
STANDARDISING_BATCHES = 40


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the teacher."""

    steps: int = 6000
    batch_size: int = 32
    crop: int = 128  # pixels, a multiple of 16
    learning_rate: float = 2e-3  # peak of AdamW's, after 3 % of the steps
    weight_decay: float = 0.01
    n_textures: int = 2500
    n_built_in: int = 100  # as for mesh, and as many as for nuts
    bf16: bool = True  # forward passes in bfloat16, twice as fast on processors that have it
    seed: int = 0


# --- pictures


def training_pictures(recipe: Recipe) -> np.ndarray:
    """All pictures that crops are cut from, (N, 256, 256, 3) uint8."""
    tiles = [tile for name in SKIMAGE_PHOTOS for tile in _tiles(np.asarray(getattr(data, name)()))]
    return np.concatenate([_drawn(recipe.n_textures, recipe.n_built_in, recipe.seed), np.stack(tiles)])


def held_out_pictures() -> np.ndarray:
    """Pictures with other seeds, for comparing variants; no sample photo is among them."""
    return _drawn(200, 20, HELD_OUT_SEED)


def _drawn(n_textures: int, n_built_in: int, seed: int) -> np.ndarray:
    families, pictures = list(FAMILIES), []
    for index in progress(range(n_textures), "drawing textures"):
        pictures.append(draw_texture((seed, index), families[index % len(families)]))
    for name, (render, defects, _) in DRAWN.items():
        kinds = [None, *defects]
        for index in progress(range(n_built_in), f"drawing {name}"):
            # Seeds of its own: none of these pictures is one of the datasets that results are measured on.
            photo = render((seed, 7, len(name), index), kinds[index % len(kinds)], image_size=SIDE)
            pictures.append(photo.image)
    return np.stack(pictures)


def _tiles(photo: np.ndarray) -> list[np.ndarray]:
    """Tiles of 256 x 256, half overlapping, of a photo that is enlarged where it is too small."""
    photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo[..., :3]
    scale = max(1.0, SIDE / min(photo.shape[:2]))
    photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else photo
    return list(sliding_window_view(photo, (SIDE, SIDE, 3))[:: SIDE // 2, :: SIDE // 2].reshape(-1, SIDE, SIDE, 3))


def draw_batch(pictures: np.ndarray, recipe: Recipe, step: int) -> torch.Tensor:
    """The crops of one step, (B, 3, crop, crop) float32 normalised as for ImageNet; they follow from (seed, step)."""
    rng = np.random.default_rng((recipe.seed, step))
    crops = [_crop(pictures[rng.integers(len(pictures))], recipe.crop, rng) for _ in range(recipe.batch_size)]
    return normalise(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def normalise(photos: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] to what ImageNet networks take."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((photos - mean) / std).contiguous(memory_format=torch.channels_last)


def _crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One crop (size, size, 3) float32 in [0, 1]: any place, scale 0.5 to 1.5, turned, mirrored, at times grey."""
    side = min(round(size / rng.uniform(0.5, 1.5)), picture.shape[0])
    top, left = (int(rng.integers(0, picture.shape[0] - side + 1)) for _ in range(2))
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    crop = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=how)
    crop = np.rot90(crop, int(rng.integers(4)))
    crop = (crop[:, ::-1] if rng.random() < 0.5 else crop).astype(np.float32) / 255
    return np.repeat(crop.mean(2, keepdims=True), 3, axis=2) if rng.random() < 0.3 else crop


# --- training


class Teacher(nn.Module):
    """The teacher's feature maps, standardised by channel as measured on some batches."""

    def __init__(self, backbone: Backbone, batches: Iterable[torch.Tensor], device: str = "cpu") -> None:
        super().__init__()
        known = list(feature_strides(backbone.architecture))
        indices = [known.index(layer) for layer in TEACHER_LAYERS]
        self.net = timm.create_model(backbone.name, pretrained=True, features_only=True, out_indices=indices).eval()
        self.net.to(device, memory_format=torch.channels_last).requires_grad_(False)
        with torch.no_grad():
            maps = [torch.cat(parts) for parts in zip(*(self.net(one.to(device)) for one in batches), strict=True)]
        self.means = [one.mean((0, 2, 3), keepdim=True) for one in maps]
        self.stds = [one.std((0, 2, 3), keepdim=True).clamp_min(1e-6) for one in maps]

    @torch.no_grad()
    def forward(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """Standardised maps of photos (B, 3, H, W)."""
        return [(m - mean) / std for m, mean, std in zip(self.net(photos), self.means, self.stds, strict=True)]


def distillation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """Mean over pairs of maps (B, C, H, W) of their mean squared errors."""
    return torch.stack(
        [functional.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True)]
    ).mean()


def train(
    recipe: Recipe, teacher_name: str, folder: Path, device: str = "cpu", save_every: int = 200
) -> tuple[BuiltinNet, dict[str, Any]]:
    """The student, in evaluation mode on the CPU, and a record; goes on from ``state.pt`` of the same recipe."""
    backbone, pictures = resolve_backbone(teacher_name), training_pictures(recipe)
    torch.manual_seed(recipe.seed)
    student = BuiltinNet().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, max(recipe.steps, 2), pct_start=0.03, cycle_momentum=False
    )
    some = (draw_batch(pictures, recipe, 10**9 - 1 - index) for index in range(STANDARDISING_BATCHES))
    teacher = Teacher(backbone, some, device)
    parts = {"student": student, "optimizer": optimizer, "schedule": schedule}
    state = {"recipe": asdict(recipe), "teacher": backbone.architecture, "step": 0, "seconds": 0.0, "history": []}
    file = folder / "state.pt"
    if file.is_file():
        stored = torch.load(file, map_location=device, weights_only=True)
        if any(stored[name] != state[name] for name in ("recipe", "teacher")):
            raise ValueError(f"{file} is of another recipe or teacher; give another --folder, or delete it.")
        for name, part in parts.items():
            part.load_state_dict(stored.pop(name))
        state = stored
    started, seconds = time.monotonic(), state["seconds"]
    for step in progress(range(state["step"], recipe.steps), "distilling"):
        crops = draw_batch(pictures, recipe, step).to(device)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=recipe.bf16):
            maps = student.forward_intermediates(crops, STUDENT_MAPS, intermediates_only=True)
            loss = distillation_loss(maps, teacher(crops))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            state["history"].append([step + 1, float(loss.detach())])
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            state |= {"step": step + 1, "seconds": seconds + time.monotonic() - started}
            whole = state | {name: part.state_dict() for name, part in parts.items()}
            write_whole(file, lambda partial, whole=whole: torch.save(whole, partial))
    student = student.eval()
    record = {"steps": recipe.steps, "seconds": round(state["seconds"]), "history": state["history"]}
    record["held_out_mse"] = crop_loss(student, teacher, held_out_pictures(), device)
    return student.cpu(), record


def crop_loss(student: BuiltinNet, teacher: Teacher, pictures: np.ndarray, device: str = "cpu") -> float:
    """Mean squared error on fixed crops of pictures: what variants are compared by."""
    losses, recipe = [], replace(Recipe(), seed=HELD_OUT_SEED)
    with torch.no_grad():
        for step in range(HELD_OUT_BATCHES):
            crops = draw_batch(pictures, recipe, step).to(device)
            maps = student.forward_intermediates(crops, STUDENT_MAPS, intermediates_only=True)
            losses.append(float(distillation_loss(maps, teacher(crops))))
    return float(np.mean(losses))


def export(student: BuiltinNet, description: dict[str, Any], folder: Path) -> None:
    """Write a folder that timm takes as ``local-dir:``: half-precision safetensors, and its description."""
    from safetensors.torch import save_file

    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in student.state_dict().items()
    }
    weights = folder / builtin.WEIGHTS_NAME
    write_whole(weights, lambda file: save_file(half, file))
    stored = BuiltinNet().eval()
    stored.load_state_dict(half)
    with torch.no_grad():
        maps = stored.forward_intermediates(fixed_picture(), STUDENT_MAPS, intermediates_only=True)
    timm_config = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "num_classes": 0, "input_size": [3, 256, 256]}
    about = {"architecture": builtin.ARCHITECTURE, "num_classes": 0, "pretrained_cfg": timm_config}
    about |= {"sha256": file_sha256(weights), "bytes": weights.stat().st_size}
    about["fixed_picture"] = [[round(float(value), 5) for value in one[0, :8, 1, 2]] for one in maps]
    write_json(about | description, folder / builtin.DESCRIPTION_NAME)


def fixed_picture() -> torch.Tensor:
    """A picture by formula, (1, 3, 64, 64) normalised: the features on it are recorded beside the weights."""
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    photo = np.stack([0.5 + 0.4 * np.sin(x / 3), 0.5 + 0.4 * np.sin(y / 5), 0.5 + 0.3 * np.sin((x + y) / 7)])
    photo[:, 20:30, 34:44] = 0.1
    return normalise(torch.from_numpy(photo.astype(np.float32))[None])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    folder = PROJECT_ROOT / "artifacts" / "distill" / "shipped"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", default="auto", help="backbone's name; its maps blocks.2 and blocks.4 are learned")
    parser.add_argument("--folder", type=Path, default=folder, help="for the state")
    parser.add_argument("--out", type=Path, default=builtin.WEIGHTS_FILE.parent, help="for the weights (the package)")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    for field in fields(Recipe):
        kind = {"action": argparse.BooleanOptionalAction} if field.name == "bf16" else {"type": type(field.default)}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, **kind)
    options = vars(parser.parse_args(arguments))
    recipe = Recipe(**{field.name: options[field.name] for field in fields(Recipe)})
    student, record = train(recipe, options["teacher"], options["folder"], options["device"])
    teacher = resolve_backbone(options["teacher"]).architecture
    description = {"teacher": teacher, "teacher_layers": list(TEACHER_LAYERS), "recipe": asdict(recipe)}
    export(student, description | {"training": record, "versions": installed_versions()}, options["out"])
    print(json.dumps({name: value for name, value in record.items() if name != "history"}), options["out"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
