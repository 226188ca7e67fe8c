"""Train the backbone that the package ships: ``make backbone``, or ``python -m benchmarks.distill``.

A student (:class:`helpers.models.builtin.BuiltinNet`) learns to give the standardised feature maps of a teacher, an
ImageNet MobileNetV2, on random crops of pictures that need no licence from anybody: the procedural textures of
:mod:`helpers.pictures.textures`, the built-in datasets, and the public-domain sample photos that scikit-image ships.
Feature distillation as in Romero et al. 2015 ("FitNets"), with targets standardised by channel, so that every channel
counts the same, and the mean squared error.

The training is seeded and can be interrupted: crops follow from (seed, step), and the state is saved every few hundred
steps. Checkpoints hold tensors and plain data and are read with ``weights_only=True``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional

from helpers.models.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, feature_strides, resolve_backbone
from helpers.models.builtin import (
    ARCHITECTURE,
    BLOCKS,
    CHANNELS,
    DESCRIPTION_NAME,
    WEIGHTS_FOLDER,
    WEIGHTS_NAME,
    BuiltinNet,
)
from helpers.paths import PROJECT_ROOT, write_json, write_whole
from helpers.progress import SECONDS_BETWEEN_LINES, progress
from helpers.session import installed_versions

TEACHER_LAYERS = ("blocks.2", "blocks.4")
STUDENT_MAPS = (2, 3)  # head8 and head16
EARLIER_LAYER, EARLIER_MAP = "blocks.1", 1  # a third target that a recipe may add: stride 4, from layer1
PICTURE_SIZE = 256
LOSSES = ("mse", "cosine")
# Sample photos inside scikit-image's own package (no download), public domain or CC0 according to its docs.
SKIMAGE_PHOTOS = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "page", "rocket")
HELD_OUT_SEED = 10**6
HELD_OUT_BATCHES = 16
CALIBRATION_BATCHES = 40


@dataclass(frozen=True)
class Recipe:
    """All that decides the shipped weights, besides the teacher.

    Attributes:
        steps: optimiser steps.
        batch_size: crops a step.
        crop: side of a crop in pixels, a multiple of 16.
        learning_rate: peak of AdamW's learning rate; 3 % linear warm-up, then a cosine to zero.
        weight_decay: of AdamW.
        n_textures: procedural pictures of 256 x 256.
        n_built_in: pictures drawn as for ``mesh``, and as many as for ``nuts``.
        families: texture families to draw; empty: all.
        augment: strength of the light, blur and noise changes of a crop, 0 to 1.
        loss: ``mse``, or ``cosine`` (1 minus the cosine similarity over channels).
        earlier: also learn the teacher's ``blocks.1`` from ``layer1``, through a 1x1 head that is thrown away.
        photo_share: share of crops cut from scikit-image's sample photos; 0: as their tiles are among the pictures.
        blocks: residual blocks of the student at strides 4, 8 and 16.
        channels: of these blocks.
        bf16: forward passes in bfloat16, twice as fast on processors that have it.
        seed: of everything random.
    """

    steps: int = 6000
    batch_size: int = 32
    crop: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    n_textures: int = 2500
    n_built_in: int = 100
    families: tuple[str, ...] = ("spectral", "stripes", "cells", "mosaic", "leaves")
    augment: float = 0.0
    loss: str = "mse"
    earlier: bool = False
    photo_share: float = 0.0
    blocks: tuple[int, ...] = BLOCKS
    channels: tuple[int, ...] = CHANNELS
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}: expected one of {', '.join(LOSSES)}.")
        if self.crop % 16:
            raise ValueError(f"crop={self.crop}: expected a multiple of 16.")


# ------------------------------------------------------------------------------------------------------------ pictures


def training_pictures(recipe: Recipe, cache: Path | None = None) -> np.ndarray:
    """All pictures that crops are cut from, (N, 256, 256, 3) uint8.

    Args:
        recipe: which and how many.
        cache: folder to keep them in for the next training (0.5 GB for 2,500 textures), or None.
    """
    from helpers.pictures import builtin as synthetic
    from helpers.pictures import textures

    versions = (textures.VERSION, synthetic.VERSION)
    key = (recipe.n_textures, recipe.n_built_in, recipe.families, recipe.seed, *versions)
    file = None if cache is None else cache / f"pictures-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}.npy"
    if file is not None and file.is_file():
        return np.load(file, mmap_mode="r")
    drawn = _textures(recipe.n_textures, recipe.seed, recipe.families)
    pictures = np.concatenate([drawn, _built_in(recipe.n_built_in, recipe.seed), _sample_photos()])
    if file is not None:
        write_whole(file, lambda partial: np.save(partial, pictures))
    return pictures


def held_out_pictures(n_textures: int = 200, n_built_in: int = 20) -> np.ndarray:
    """Pictures with other seeds, for comparing variants: (N, 256, 256, 3) uint8. No sample photo is among them."""
    return np.concatenate([_textures(n_textures, HELD_OUT_SEED, ()), _built_in(n_built_in, HELD_OUT_SEED)])


def _textures(n: int, seed: int, families: tuple[str, ...]) -> np.ndarray:
    from helpers.pictures.textures import TextureBank

    bank = TextureBank(seed=seed, size=PICTURE_SIZE, families=families or None)
    return np.stack([bank[index] for index in progress(range(n), "drawing textures")])


def _built_in(n: int, seed: int) -> np.ndarray:
    from helpers.pictures.builtin import MESH_DEFECTS, NUT_DEFECTS, render_mesh, render_nut

    pictures = []
    for name, render, defects in (("mesh", render_mesh, MESH_DEFECTS), ("nuts", render_nut, NUT_DEFECTS)):
        kinds = [None, *defects]
        for index in progress(range(n), f"drawing {name}"):
            # Seeds of its own: none of these pictures is one of the datasets that results are measured on.
            photo = render((seed, 7, len(name), index), kinds[index % len(kinds)], image_size=PICTURE_SIZE)
            pictures.append(photo.image)
    return np.stack(pictures)


def _sample_photos() -> np.ndarray:
    """Tiles of 256 x 256 of scikit-image's sample photos, half overlapping."""
    from skimage import data

    tiles = []
    for name in SKIMAGE_PHOTOS:
        photo = np.asarray(getattr(data, name)())
        photo = np.repeat(photo[..., None], 3, axis=2) if photo.ndim == 2 else photo[..., :3]
        scale = max(1.0, PICTURE_SIZE / min(photo.shape[:2]))
        photo = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else photo
        for top in range(0, photo.shape[0] - PICTURE_SIZE + 1, PICTURE_SIZE // 2):
            for left in range(0, photo.shape[1] - PICTURE_SIZE + 1, PICTURE_SIZE // 2):
                tiles.append(photo[top : top + PICTURE_SIZE, left : left + PICTURE_SIZE])
    return np.stack(tiles)


def draw_batch(pictures: np.ndarray, recipe: Recipe, step: int) -> torch.Tensor:
    """The crops of one step, (B, 3, crop, crop) float32 normalised as for ImageNet; they follow from (seed, step)."""
    rng = np.random.default_rng((recipe.seed, step))
    first_photo = recipe.n_textures + 2 * recipe.n_built_in
    crops = []
    for _ in range(recipe.batch_size):
        first = first_photo if recipe.photo_share and rng.random() < recipe.photo_share else 0
        crops.append(_crop(pictures[rng.integers(first, len(pictures))], recipe, rng))
    return normalise(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))


def normalise(photos: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] to what ImageNet networks take."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((photos - mean) / std).contiguous(memory_format=torch.channels_last)


def _crop(picture: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """One crop (crop, crop, 3) float32 in [0, 1]: any place, scale 0.5 to 1.5, turned, with other light."""
    side = int(round(recipe.crop / rng.uniform(0.5, 1.5)))
    side = min(side, picture.shape[0])
    top, left = (int(rng.integers(0, picture.shape[0] - side + 1)) for _ in range(2))
    crop = picture[top : top + side, left : left + side]
    smaller = side > recipe.crop
    crop = cv2.resize(crop, (recipe.crop, recipe.crop), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    crop = np.rot90(crop, int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    values = crop.astype(np.float32) / 255
    strength = recipe.augment
    gain, offset = 1 + strength * rng.uniform(-0.6, 0.6), strength * rng.uniform(-0.3, 0.3)
    values = np.clip((values - 0.5) * gain + 0.5 + offset, 0, 1) ** np.float32(
        math.exp(strength * rng.uniform(-0.8, 0.8))
    )
    if rng.random() < 0.3 * strength:
        values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.5 * strength:
        values = values + rng.normal(0, 0.06 * strength, values.shape).astype(np.float32)
    if rng.random() < 0.3:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    return np.clip(values, 0, 1).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------ training


class Teacher(nn.Module):
    """The teacher's feature maps, standardised by channel.

    Args:
        backbone: where its weights come from.
        layers: names of its feature maps.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[str] = TEACHER_LAYERS) -> None:
        super().__init__()
        known = list(feature_strides(backbone.architecture))
        indices = [known.index(layer) for layer in layers]
        self.net = timm.create_model(backbone.name, pretrained=True, features_only=True, out_indices=indices).eval()
        self.net.to(memory_format=torch.channels_last).requires_grad_(False)
        for index, width in enumerate(self.net.feature_info.channels()):
            self.register_buffer(f"mean{index}", torch.zeros(1, width, 1, 1))
            self.register_buffer(f"std{index}", torch.ones(1, width, 1, 1))

    @torch.no_grad()
    def calibrate(self, batches: Iterator[torch.Tensor]) -> None:
        """Measure the mean and standard deviation of every channel on some batches."""
        maps = [self.net(batch.to(self.mean0.device)) for batch in batches]
        for index in range(len(maps[0])):
            together = torch.cat([values[index] for values in maps])
            getattr(self, f"mean{index}").copy_(together.mean((0, 2, 3), keepdim=True))
            getattr(self, f"std{index}").copy_(together.std((0, 2, 3), keepdim=True).clamp_min(1e-6))

    @torch.no_grad()
    def forward(self, photos: torch.Tensor) -> list[torch.Tensor]:
        """Standardised maps of photos (B, 3, H, W)."""
        maps = self.net(photos)
        return [(m - getattr(self, f"mean{i}")) / getattr(self, f"std{i}") for i, m in enumerate(maps)]


def distillation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor], kind: str = "mse") -> torch.Tensor:
    """Mean over pairs of maps (B, C, H, W) of their mean squared error, or of 1 minus their cosine over channels."""
    if kind == "cosine":
        parts = [1 - functional.cosine_similarity(s, t, dim=1).mean() for s, t in zip(student, teacher, strict=True)]
    else:
        parts = [functional.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(parts).mean()


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 3 % of the steps, then half a cosine to zero."""
    warm_up = max(1, round(0.03 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(
    recipe: Recipe,
    teacher_name: str,
    folder: Path,
    device: str = "cpu",
    save_every: int = 200,
    photos: Path | None = None,
) -> tuple[BuiltinNet, dict[str, Any]]:
    """Train a student, or go on where an interrupted training in ``folder`` stopped.

    Args:
        recipe: the recipe; a state in the folder must have been made with the same one.
        teacher_name: a backbone's name, see :mod:`helpers.models.backbones`.
        folder: for ``state.pt``.
        device: ``cpu`` or ``cuda:N``.
        save_every: steps between two saved states.
        photos: folder of photos to measure the student on as well; nothing is learned from them.

    Returns:
        The student in evaluation mode on the CPU, and a record: steps, seconds, held-out loss, history of the loss.

    Raises:
        ValueError: if the folder holds the state of another recipe or teacher.
    """
    backbone = resolve_backbone(teacher_name)
    torch.manual_seed(recipe.seed)
    student = BuiltinNet(blocks=recipe.blocks, channels=recipe.channels)
    student.to(device, memory_format=torch.channels_last).train()
    earlier_head = nn.Conv2d(64, 24, 1).to(device) if recipe.earlier else None
    trained = nn.ModuleDict({"student": student} | ({"earlier_head": earlier_head} if earlier_head else {}))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, recipe.steps))
    pictures = training_pictures(recipe, folder.parent)
    teacher = Teacher(backbone, (*((EARLIER_LAYER,) if recipe.earlier else ()), *TEACHER_LAYERS)).to(device)
    indices = [*((EARLIER_MAP,) if recipe.earlier else ()), *STUDENT_MAPS]
    teacher.calibrate(draw_batch(pictures, recipe, -1 - index + 10**9) for index in range(CALIBRATION_BATCHES))
    identity = {"recipe": json.loads(json.dumps(asdict(recipe))), "teacher": backbone.architecture}
    state_file = folder / "state.pt"
    first, seconds, history = _resume(state_file, identity, trained, optimizer, schedule, device)
    started = last_line = time.monotonic()
    for step in range(first, recipe.steps):
        crops = draw_batch(pictures, recipe, step).to(device)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=recipe.bf16):
            targets = teacher(crops)
            maps = student.forward_intermediates(crops, indices, intermediates_only=True)
            if earlier_head is not None:
                maps[0] = earlier_head(maps[0])
        loss = distillation_loss([m.float() for m in maps], [t.float() for t in targets], recipe.loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            history.append([step + 1, float(loss.detach())])
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            state = {"trained": trained.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"schedule": schedule.state_dict(), "step": step + 1, "history": history}
            state |= identity | {"seconds": seconds + time.monotonic() - started}
            write_whole(state_file, lambda file, state=state: torch.save(state, file))
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            print(f"distilling: step {step + 1}/{recipe.steps}, loss {float(loss.detach()):.4f}", flush=True)
    seconds += time.monotonic() - started
    student = student.eval().to("cpu")
    record = {"steps": recipe.steps, "seconds": round(seconds), "history": history}
    record["held_out_mse"] = crop_loss(student, teacher.to("cpu"), held_out_pictures())
    if photos is not None:
        record["photos_mse"] = crop_loss(student, teacher, photos_in(photos))
    return student, record


def photos_in(folder: Path) -> np.ndarray:
    """Every photo below a folder, cut or grown to 256 x 256: (N, 256, 256, 3) uint8."""
    from helpers.data.images import find_images, read_image

    pictures = []
    for file in find_images(folder):
        photo = read_image(file)
        scale = PICTURE_SIZE / min(photo.shape[:2])
        photo = cv2.resize(
            photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        pictures.append(photo[:PICTURE_SIZE, :PICTURE_SIZE])
    if not pictures:
        raise ValueError(f"There are no photos in {folder}.")
    return np.stack(pictures)


def crop_loss(student: BuiltinNet, teacher: Teacher, pictures: np.ndarray) -> float:
    """Mean squared error on fixed crops of pictures, without light changes: what variants are compared by."""
    recipe = replace(Recipe(), augment=0.0, seed=HELD_OUT_SEED)
    losses = []
    with torch.no_grad():
        for step in range(HELD_OUT_BATCHES):
            photos = draw_batch(pictures, recipe, step)
            maps = student.forward_intermediates(photos, list(STUDENT_MAPS), intermediates_only=True)
            losses.append(float(distillation_loss(maps, teacher(photos)[-len(maps) :])))
    return float(np.mean(losses))


def _resume(
    state_file: Path,
    identity: dict[str, Any],
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: str,
) -> tuple[int, float, list[list[float]]]:
    if not state_file.is_file():
        return 0, 0.0, []
    state = torch.load(state_file, map_location=device, weights_only=True)
    if {name: state[name] for name in identity} != identity:
        raise ValueError(f"{state_file} is of another recipe or teacher; give another --folder, or delete it.")
    trained.load_state_dict(state["trained"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    print(f"going on after step {state['step']}", flush=True)
    return state["step"], state["seconds"], state["history"]


def export(student: BuiltinNet, description: dict[str, Any], folder: Path) -> None:
    """Write a folder that timm takes as ``local-dir:``: half-precision safetensors, and a description with its SHA-256.

    Args:
        student: trained.
        description: plain data that is recorded beside the weights.
        folder: gets ``model.safetensors`` and ``config.json``.
    """
    from safetensors.torch import save_file

    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in student.state_dict().items()
    }
    weights_file = folder / WEIGHTS_NAME
    write_whole(weights_file, lambda file: save_file(half, file))
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    body = {"blocks": list(student.blocks), "channels": list(student.channels)}
    stored = BuiltinNet(**body).eval()
    stored.load_state_dict(half)
    with torch.no_grad():
        maps = stored.forward_intermediates(fixed_picture(), list(STUDENT_MAPS), intermediates_only=True)
    timm_config = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "num_classes": 0, "input_size": [3, 256, 256]}
    recorded = {"architecture": ARCHITECTURE, "num_classes": 0, "model_args": body, "pretrained_cfg": timm_config}
    recorded["sha256"] = digest
    recorded["fixed_picture"] = [[round(float(value), 5) for value in found[0, :8, 1, 2]] for found in maps]
    write_json(recorded | {"bytes": weights_file.stat().st_size} | description, folder / DESCRIPTION_NAME)


def fixed_picture() -> torch.Tensor:
    """A picture by formula, (1, 3, 64, 64) normalised: the features on it are recorded beside the weights."""
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    photo = np.stack([0.5 + 0.4 * np.sin(x / 3), 0.5 + 0.4 * np.sin(y / 5), 0.5 + 0.3 * np.sin((x + y) / 7)])
    photo[:, 20:30, 34:44] = 0.1
    return normalise(torch.from_numpy(photo.astype(np.float32))[None])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distill", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", default="auto", help="backbone's name; its maps blocks.2 and blocks.4 are learned")
    parser.add_argument(
        "--folder", type=Path, default=PROJECT_ROOT / "artifacts" / "distill" / "shipped", help="for the state"
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS_FOLDER, help="folder for the weights (default: the package)"
    )
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--families", default=",".join(defaults.families), help="texture families, separated by commas; empty: all"
    )
    for name in ("steps", "batch_size", "n_textures", "n_built_in", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    for name in ("learning_rate", "weight_decay", "augment", "photo_share"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(defaults, name))
    for name in ("blocks", "channels"):
        parser.add_argument(f"--{name}", type=int, nargs=3, default=getattr(defaults, name))
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=defaults.bf16, help="forward in bfloat16"
    )
    parser.add_argument(
        "--photos", type=Path, help="folder of photos to measure on as well; nothing is learned from them"
    )
    parser.add_argument("--loss", choices=LOSSES, default=defaults.loss)
    parser.add_argument("--earlier", action="store_true", help="also learn the teacher's blocks.1")
    options = vars(parser.parse_args(arguments))
    families = tuple(name for name in options.pop("families").split(",") if name)
    chosen = {name: options[name] for name in asdict(defaults) if name in options}
    chosen |= {"families": families, "blocks": tuple(options["blocks"]), "channels": tuple(options["channels"])}
    recipe = Recipe(**chosen)
    out: Path = options["out"]
    student, record = train(recipe, options["teacher"], options["folder"], options["device"], photos=options["photos"])
    teacher = resolve_backbone(options["teacher"])
    description = {"teacher": teacher.architecture, "teacher_layers": list(TEACHER_LAYERS), "recipe": asdict(recipe)}
    export(student, description | {"training": record, "versions": installed_versions()}, out)
    on_photos = f", {record['photos_mse']:.4f} on {options['photos']}" if options["photos"] else ""
    print(
        f"held-out mean squared error {record['held_out_mse']:.4f}{on_photos}, after {record['seconds']} s; wrote {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
