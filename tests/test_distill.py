"""Distillation: the loss by hand, seeded crops, a resumed training equals an uninterrupted one, the exported file."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from benchmarks import distill
from benchmarks.distill import Recipe, draw_batch, export, train
from helpers.models.builtin import BuiltinNet

# full precision: on one core of some processors bfloat16 is fifty times slower
TINY = Recipe(steps=4, batch_size=2, crop=32, n_textures=3, n_built_in=2, bf16=False)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)


@pytest.fixture
def teacher_name(tmp_path, monkeypatch) -> str:
    """A MobileNetV2 with random weights in timm's folder format; training and test crops come from three pictures."""
    monkeypatch.setattr(distill, "training_pictures", lambda recipe: PICTURES)
    monkeypatch.setattr(distill, "held_out_pictures", lambda: PICTURES)
    monkeypatch.setattr(distill, "HELD_OUT_BATCHES", 1)
    monkeypatch.setattr(distill, "STANDARDISING_BATCHES", 4)
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_100", pretrained=False)
    timm.models.save_for_hf(model, tmp_path / "teacher", safe_serialization=True)
    return f"local-dir:{tmp_path / 'teacher'}"


def test_crops_follow_from_seed_and_step_and_are_normalised_as_for_imagenet():
    first = draw_batch(PICTURES, TINY, 7)
    assert first.shape == (2, 3, 32, 32) and torch.equal(first, draw_batch(PICTURES, TINY, 7))
    assert not torch.equal(first, draw_batch(PICTURES, TINY, 8))
    assert not torch.equal(first, draw_batch(PICTURES, replace(TINY, seed=1), 7))
    white = draw_batch(np.full((1, 256, 256, 3), 255, dtype=np.uint8), TINY, 0)
    expected = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(white[0, :, 5, 5], expected, atol=1e-5)
    pictures = distill.training_pictures(TINY)
    assert pictures.dtype == np.uint8 and pictures.shape[1:] == (256, 256, 3) and len(pictures) > 3 + 2 * 2 + 11


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, teacher_name, monkeypatch):
    whole, record = train(TINY, teacher_name, tmp_path / "whole", save_every=2)
    assert np.isfinite(record["held_out_mse"]) and record["steps"] == 4

    def interrupted(pictures, recipe, step):
        if step == 3:
            raise KeyboardInterrupt
        return draw_batch(pictures, recipe, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill, "draw_batch", interrupted)
        train(TINY, teacher_name, tmp_path / "parts", save_every=2)
    resumed, _ = train(TINY, teacher_name, tmp_path / "parts", save_every=2)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(TINY, seed=5), teacher_name, tmp_path / "parts")


def test_the_exported_file_holds_the_weights_in_half_precision_and_its_hash(tmp_path):
    student = BuiltinNet().eval()
    export(student, {"teacher": "t"}, tmp_path)
    file, about = tmp_path / "model.safetensors", json.loads((tmp_path / "config.json").read_text())
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert about["bytes"] == file.stat().st_size <= 4 * 2**20 and about["teacher"] == "t"
    half = {name: value.half().float() for name, value in student.state_dict().items()}
    assert all(torch.equal(value.float(), half[name]) for name, value in load_file(file).items())
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(again.head8.weight, half["head8.weight"])
