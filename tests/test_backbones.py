"""Which weights, from where, and never random ones by accident; the shipped network, and that libraries take it."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file

from benchmarks.distill import fixed_picture
from helpers.models import backbones, builtin
from helpers.models.backbones import (
    Backbone,
    BackboneError,
    bare_backbone,
    feature_strides,
    hub_reachable,
    resolve_backbone,
)
from helpers.models.builtin import ARCHITECTURE, DESCRIPTION_FILE, TAG, WEIGHTS_FILE
from helpers.paths import absolute_backbone

BUILT_IN = f"{ARCHITECTURE}.{TAG}"


@pytest.fixture
def no_hub(monkeypatch) -> None:
    monkeypatch.setattr(backbones, "hub_reachable", lambda name: False)
    monkeypatch.delenv("BACKBONE", raising=False)


@pytest.fixture
def folder(backbone_folder, tmp_path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))


def test_local_folder_and_other_weights_in_it(folder, tmp_path, monkeypatch):
    """A relative one counts from the project: JupyterLab starts a notebook in its folder, ``make`` in the project."""
    monkeypatch.setattr("helpers.paths.PROJECT_ROOT", tmp_path)
    found = resolve_backbone(f"local-dir:{folder.name}")
    assert found == Backbone(
        name=f"local-dir:{folder.resolve()}",
        architecture="test_resnet",
        layers=("layer2", "layer3"),
        mean=(0.5, 0.5, 0.5),  # of test_resnet's own configuration, not ImageNet's
        std=(0.5, 0.5, 0.5),
        origin="local folder",
        sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    )
    assert found.pretrained and found.note is None
    assert json.loads(json.dumps(found.to_dict()))["layers"] == ["layer2", "layer3"]
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert resolve_backbone(f"local-dir:{folder}") != found
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    assert resolve_backbone(f"local-dir:{folder}").mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", "null", '{"architecture": 3}', '{"architecture": "no_such_net"}', None]
)
def test_a_folder_without_configuration_or_weights(folder, content):
    if content is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "config.json").write_text(content)
    with pytest.raises(BackboneError, match=r"local-dir:.*config\.json|timm knows no model"):
        resolve_backbone(f"local-dir:{folder}")
    with pytest.raises(BackboneError, match="nowhere"):
        resolve_backbone(f"local-dir:{folder / 'nowhere'}")


def test_untrained_by_name():
    found = resolve_backbone("untrained:resnet18")
    assert (found.name, found.architecture, found.origin) == ("resnet18", "resnet18", "untrained")
    assert found.layers == ("layer2", "layer3"), "of the paper"
    assert not found.pretrained and "untrained" in found.note and "UNTRAINED" in found.describe()
    default = resolve_backbone("untrained:")
    assert (default.architecture, default.layers) == ("mobilenetv2_100", ("blocks.2", "blocks.4"))
    assert feature_strides("resnet18") == {"act1": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


@pytest.mark.parametrize(
    ("name", "layers", "named"),
    [
        ("untrained:no_such_net", (), "no_such_net"),
        ("no_such_net.tv_in1k", (), "no_such_net"),
        ("resnet18.no_such_tag", (), r"resnet18\.tv_in1k"),
        ("wide_resnet50_2.tv_in1k", (), "local-dir:.*builtin:.*untrained:"),
        ("untrained:resnet18", ("layer2", "layer9"), "layer9.*layer1, layer2"),
        ("untrained:test_vit", (), "LAYERS"),
    ],
)
def test_what_cannot_be_resolved_is_named(no_hub, name, layers, named):
    with pytest.raises(BackboneError, match=named):
        resolve_backbone(name, layers)


def test_hub_within_reach(monkeypatch, caplog):
    monkeypatch.setattr(backbones, "hub_reachable", lambda name: True)
    found = resolve_backbone("resnet18.tv_in1k", ["layer1"])
    assert (found.name, found.architecture, found.origin) == ("resnet18.tv_in1k", "resnet18", "hub")
    assert found.layers == ("layer1",) and found.mean == (0.485, 0.456, 0.406)
    assert resolve_backbone("auto").name == backbones.DEFAULT_NAME and not caplog.records


@pytest.mark.parametrize("name", ["auto", ""])
def test_auto_is_the_environment_variable_or_falls_back_and_says_so(no_hub, name, caplog, monkeypatch, backbone_folder):
    with caplog.at_level(logging.WARNING):
        found = resolve_backbone(name)
    assert (found.name, found.origin, found.layers) == (BUILT_IN, "built in", ("head8", "head16"))
    assert found.pretrained and found.note == "built-in backbone"
    assert any("local-dir:" in record.getMessage() for record in caplog.records)
    monkeypatch.setenv("BACKBONE", f"local-dir:{backbone_folder}")
    assert resolve_backbone(name).origin == "local folder"
    assert resolve_backbone("untrained:resnet18").origin == "untrained", "a name that is given wins"


def test_the_hub_is_asked_by_its_own_client_and_nobody_offline_or_by_an_address_in_a_run(monkeypatch):
    asked = []

    def answer(address: str, timeout: float) -> None:
        asked.append(address)
        if "resnet34" in address:
            raise OSError("no such repository")

    assert not hub_reachable("resnet18.tv_in1k"), "offline, as all tests are"
    with pytest.raises(ValueError, match="hf-hub:evil/model"), bare_backbone("hf-hub:evil/model", {}):
        pass
    with bare_backbone("resnet18", {}) as name:
        assert name == "resnet18"
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    assert hub_reachable("resnet18.tv_in1k") and not hub_reachable("resnet34.tv_in1k")
    assert asked[0].endswith("/timm/resnet18.tv_in1k/resolve/main/config.json")


def test_local_names_become_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("local-dir:weights", "local-dir:~/weights"):
        assert absolute_backbone(name) == f"local-dir:{tmp_path.resolve() / 'weights'}"
    for name in ("auto", "untrained:", "resnet18.tv_in1k"):
        assert absolute_backbone(name) == name


# ------------------------------------------------------------------------------------------------ the shipped backbone


def test_the_file_is_small_and_one_of_another_hash_is_refused(tmp_path, monkeypatch):
    description, content = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8")), WEIGHTS_FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == description["sha256"]
    assert len(content) == description["bytes"] <= 4 * 2**20
    assert {value.dtype for value in load_file(WEIGHTS_FILE).values()} <= {torch.float16, torch.int64}
    (tmp_path / "damaged").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(builtin, "WEIGHTS_FILE", tmp_path / "damaged")
    builtin.check_weights.cache_clear()
    with pytest.raises(BackboneError, match="SHA-256"):
        resolve_backbone("builtin:")
    builtin.check_weights.cache_clear()


def test_features_on_a_fixed_picture_are_those_recorded():
    net = timm.create_model(BUILT_IN, pretrained=True, features_only=True, out_indices=(2, 3)).eval()
    with torch.no_grad():
        maps = net(fixed_picture())
    assert [tuple(found.shape) for found in maps] == [(1, 32, 8, 8), (1, 96, 4, 4)]
    recorded = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8"))["fixed_picture"]
    for found, expected in zip(maps, recorded, strict=True):
        torch.testing.assert_close(found[0, :8, 1, 2], torch.tensor(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["Unet", "DeepLabV3Plus"])
def test_segmenters_take_it_as_an_encoder_with_its_weights(name):
    model = getattr(smp, name)(f"tu-{BUILT_IN}", encoder_weights=True).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    stored = timm.create_model(BUILT_IN, pretrained=True)
    assert torch.equal(model.encoder.model.model.head8.weight, stored.head8.weight)
