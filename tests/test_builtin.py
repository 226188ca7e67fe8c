"""The shipped backbone: its file, its features, and that timm, anomalib and segmentation-models-pytorch take it."""

from __future__ import annotations

import json

import pytest
import timm
import torch

from benchmarks.distill import fixed_picture
from helpers.models import builtin
from helpers.models.backbones import BackboneError, resolve_backbone
from helpers.models.builtin import ARCHITECTURE, DESCRIPTION_FILE, TAG, WEIGHTS_FILE

NAME = f"{ARCHITECTURE}.{TAG}"


def test_the_file_is_small_safetensors_and_matches_its_recorded_hash():
    import hashlib

    description = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8"))
    content = WEIGHTS_FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == description["sha256"]
    assert len(content) == description["bytes"] <= 4 * 2**20
    header_length = int.from_bytes(content[:8], "little")  # safetensors: length of a JSON header, then raw numbers
    header = json.loads(content[8 : 8 + header_length])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} <= {"F16", "I64"}


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    damaged = tmp_path / "model.safetensors"
    content = bytearray(WEIGHTS_FILE.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setattr(builtin, "WEIGHTS_FILE", damaged)
    builtin.check_weights.cache_clear()
    with pytest.raises(BackboneError, match="SHA-256"):
        resolve_backbone("builtin:")
    builtin.check_weights.cache_clear()


def test_features_on_a_fixed_picture_are_those_recorded():
    net = timm.create_model(NAME, pretrained=True, features_only=True, out_indices=(2, 3)).eval()
    with torch.no_grad():
        maps = net(fixed_picture())
    assert [tuple(found.shape) for found in maps] == [(1, 32, 8, 8), (1, 96, 4, 4)]
    recorded = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8"))["fixed_picture"]
    for found, expected in zip(maps, recorded, strict=True):
        torch.testing.assert_close(found[0, :8, 1, 2], torch.tensor(expected), rtol=1e-3, atol=1e-4)


def test_it_is_what_auto_takes_without_network(monkeypatch):
    monkeypatch.delenv("BACKBONE", raising=False)
    monkeypatch.setattr("helpers.models.backbones.hub_reachable", lambda name: False)
    found = resolve_backbone("auto")
    assert (found.name, found.origin, found.layers) == (NAME, "built in", ("head8", "head16"))
    assert found.note == "built-in backbone"
    assert found.pretrained


def test_patchcore_builds_on_it_and_gives_128_channels():
    from helpers.models.catalog import build_model
    from helpers.models.patchcore import patch_features

    model = build_model("patchcore", resolve_backbone("builtin:"), image_size=64)
    assert patch_features(model.model, torch.zeros(1, 3, 64, 64)).shape == (64, 128)
    stored = timm.create_model(NAME, pretrained=True)
    inside = model.model.feature_extractor.feature_extractor.model
    assert torch.equal(inside.head16.weight, stored.head16.weight)


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus"])
def test_segmenters_take_it_as_an_encoder_with_its_weights(name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, name)(f"tu-{NAME}", encoder_weights=True).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    stored = timm.create_model(NAME, pretrained=True)
    assert torch.equal(model.encoder.model.model.head8.weight, stored.head8.weight)


def test_output_stride_16_keeps_the_last_map():
    net = timm.create_model(ARCHITECTURE, features_only=True, output_stride=16)
    assert net.feature_info.reduction() == [2, 4, 8, 16, 16]
    assert net(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 96, 4, 4)
