"""Distillation: losses by hand, seeded crops, a resumed training equals an uninterrupted one, the exported file."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from benchmarks import distill
from benchmarks.distill import (
    Recipe,
    Teacher,
    distillation_loss,
    draw_batch,
    export,
    learning_rate_factor,
    train,
)
from helpers.models.builtin import BuiltinNet

# full precision: on one core of some processors bfloat16 is fifty times slower
TINY = Recipe(steps=4, batch_size=2, crop=32, n_textures=3, n_built_in=2, bf16=False)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)


@pytest.fixture
def teacher_name(tmp_path) -> str:
    """A MobileNetV2 with random weights in timm's folder format: enough to learn from in a test."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_100", pretrained=False)
    timm.models.save_for_hf(model, tmp_path / "teacher", safe_serialization=True)
    return f"local-dir:{tmp_path / 'teacher'}"


@pytest.fixture
def few_pictures(monkeypatch, pictures):
    monkeypatch.setattr(distill, "training_pictures", lambda recipe, cache: pictures)
    monkeypatch.setattr(distill, "held_out_pictures", lambda: pictures)
    monkeypatch.setattr(distill, "HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(distill, "CALIBRATION_BATCHES", 4)


def test_mse_is_the_mean_over_maps_of_their_means():
    student = [torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 2, 2)]
    teacher = [torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), torch.full((1, 1, 2, 2), 2.0)]
    # map 1: (1 + 9) / 2 = 5; map 2: 4; mean 4.5. A mean over all six values together would be 26 / 6.
    assert float(distillation_loss(student, teacher)) == pytest.approx(4.5)


def test_cosine_loss_by_hand():
    teacher = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)]
    for student, expected in (([1.0, 0.0], 0.0), ([0.0, 1.0], 1.0), ([-2.0, 0.0], 2.0), ([1.0, 1.0], 1 - 2**-0.5)):
        maps = [torch.tensor(student).view(1, 2, 1, 1)]
        assert float(distillation_loss(maps, teacher, "cosine")) == pytest.approx(expected, abs=1e-6)


def test_learning_rate_warms_up_and_falls_to_zero_by_a_cosine():
    factors = [learning_rate_factor(step, 1000) for step in range(1001)]
    assert factors[0] == pytest.approx(1 / 30)
    assert factors[29] == pytest.approx(1)
    assert factors[30 + 485] == pytest.approx(0.5)
    assert factors[1000] == pytest.approx(0, abs=1e-12)
    assert all(later <= earlier for earlier, later in zip(factors[30:], factors[31:], strict=False))


def test_crops_follow_from_seed_and_step(pictures):
    first = draw_batch(pictures, TINY, 7)
    assert first.shape == (2, 3, 32, 32)
    assert torch.equal(first, draw_batch(pictures, TINY, 7))
    assert not torch.equal(first, draw_batch(pictures, TINY, 8))
    assert not torch.equal(first, draw_batch(pictures, replace(TINY, seed=1), 7))


def test_crops_are_normalised_as_for_imagenet():
    white = np.full((1, 256, 256, 3), 255, dtype=np.uint8)
    crops = draw_batch(white, replace(TINY, augment=0.0), 0)
    expected = [(1 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    for channel, value in enumerate(expected):
        assert crops[:, channel].min() == pytest.approx(value, abs=1e-5)
        assert crops[:, channel].max() == pytest.approx(value, abs=1e-5)


def test_the_teachers_maps_are_standardised(pictures, teacher_name):
    from helpers.models.backbones import resolve_backbone

    teacher = Teacher(resolve_backbone(teacher_name))
    batches = [draw_batch(pictures, replace(TINY, batch_size=8), step) for step in range(4)]
    teacher.calibrate(iter(batches))
    maps = [teacher(batch) for batch in batches]
    for index, width in enumerate((32, 96)):
        together = torch.cat([values[index] for values in maps])
        assert together.shape[1] == width
        assert together.mean((0, 2, 3)).abs().max() < 1e-3
        assert (together.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, few_pictures, teacher_name, monkeypatch):
    whole, record = train(TINY, teacher_name, tmp_path / "whole", save_every=2)
    assert math.isfinite(record["held_out_mse"])

    draw, calls = distill.draw_batch, []

    def interrupted(pictures, recipe, step):
        calls.append(step)
        if step == 3:
            raise KeyboardInterrupt
        return draw(pictures, recipe, step)

    monkeypatch.setattr(distill, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, teacher_name, tmp_path / "parts", save_every=2)
    monkeypatch.setattr(distill, "draw_batch", draw)
    resumed, _ = train(TINY, teacher_name, tmp_path / "parts", save_every=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_state_of_another_recipe_is_refused(tmp_path, few_pictures, teacher_name):
    train(replace(TINY, steps=1), teacher_name, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(TINY, steps=1, seed=5), teacher_name, tmp_path)


def test_training_beats_answering_with_the_mean(tmp_path, few_pictures, teacher_name):
    _, record = train(replace(TINY, steps=100, batch_size=8, augment=0.0), teacher_name, tmp_path)
    # targets have variance 1 in every channel, so answering 0 everywhere has a mean squared error of 1
    assert [step for step, _ in record["history"]] == [50, 100]
    assert record["history"][-1][1] < 0.9


def test_the_exported_file_holds_the_weights_in_half_precision_and_its_hash(tmp_path):
    import hashlib

    from safetensors.torch import load_file

    student = BuiltinNet().eval()
    export(student, {"teacher": "t"}, tmp_path)
    file = tmp_path / "model.safetensors"
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["bytes"] == file.stat().st_size <= 4 * 2**20
    assert found["teacher"] == "t"
    stored = load_file(file)
    for name, value in student.state_dict().items():
        assert torch.equal(stored[name].float(), value.half().float()), name
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(again.head8.weight, student.head8.weight.half().float())


@pytest.mark.parametrize(("field", "value"), [("loss", "mae"), ("crop", 100)])
def test_a_recipe_refuses_what_it_cannot_do(field, value):
    with pytest.raises(ValueError, match=field):
        replace(Recipe(), **{field: value})
