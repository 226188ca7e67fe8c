"""Which weights, from where; and never random ones by accident."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from helpers.models import backbones
from helpers.models.backbones import (
    Backbone,
    BackboneError,
    default_layers,
    feature_strides,
    hub_reachable,
    resolve_backbone,
)
from helpers.models.catalog import bare_backbone
from helpers.paths import absolute_backbone


@pytest.fixture
def no_hub(monkeypatch) -> None:
    monkeypatch.setattr(backbones, "hub_reachable", lambda name: False)


@pytest.fixture
def folder(backbone_folder, tmp_path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))


def test_local_folder(backbone_folder):
    found = resolve_backbone(f"local-dir:{backbone_folder}")
    assert found == Backbone(
        name=f"local-dir:{backbone_folder.resolve()}",
        architecture="test_resnet",
        layers=("layer2", "layer3"),
        mean=(0.5, 0.5, 0.5),  # of test_resnet's own configuration, not ImageNet's
        std=(0.5, 0.5, 0.5),
        origin="local folder",
        sha256=hashlib.sha256((backbone_folder / "model.safetensors").read_bytes()).hexdigest(),
    )
    assert found.pretrained
    assert found.note is None
    assert "local folder" in found.describe()


def test_local_folder_gives_the_stored_weights(backbone_folder, make_model):
    from safetensors.torch import load_file

    stored = load_file(backbone_folder / "model.safetensors")
    network = make_model().model.feature_extractor.state_dict()
    key = next(name for name in network if name.endswith("layer2.0.conv1.weight"))
    torch.testing.assert_close(network[key], stored["layer2.0.conv1.weight"], rtol=0, atol=0)


def test_relative_local_folder_counts_from_the_project_wherever_it_is_started(
    backbone_folder, tmp_path_factory, monkeypatch
):
    """JupyterLab starts a notebook in ``notebooks``; ``make`` starts in the project."""
    project = backbone_folder.parent
    monkeypatch.setattr("helpers.paths.PROJECT_ROOT", project)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert resolve_backbone(f"local-dir:{backbone_folder.name}").name == f"local-dir:{backbone_folder.resolve()}"


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(BackboneError, match=r"nowhere: there is no config\.json"):
        resolve_backbone(f"local-dir:{tmp_path / 'nowhere'}")


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no weights; expected model\.safetensors"):
        resolve_backbone(f"local-dir:{folder}")


@pytest.mark.parametrize("content", ["{", "{}", "[]", "null", '{"architecture": 3}', '{"architecture": "no_such_net"}'])
def test_configuration_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(BackboneError, match="config.json|no_such_net"):
        resolve_backbone(f"local-dir:{folder}")


def test_flat_configuration_without_mean_takes_that_of_imagenet(folder):
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    assert resolve_backbone(f"local-dir:{folder}").mean == (0.485, 0.456, 0.406)


def test_untrained_by_name():
    found = resolve_backbone("untrained:resnet18")
    assert (found.name, found.architecture, found.origin) == ("resnet18", "resnet18", "untrained")
    assert found.layers == ("layer2", "layer3")
    assert not found.pretrained
    assert "untrained" in found.note
    assert "UNTRAINED" in found.describe()


def test_untrained_without_architecture_is_the_default_one():
    assert resolve_backbone("untrained:").architecture == "mobilenetv2_100"


@pytest.mark.parametrize("name", ["untrained:no_such_net", "no_such_net", "no_such_net.tv_in1k"])
def test_unknown_architecture(name):
    with pytest.raises(BackboneError, match="no_such_net"):
        resolve_backbone(name)


def test_unknown_tag_lists_the_known_ones(no_hub):
    with pytest.raises(BackboneError, match=r"resnet18\.tv_in1k"):
        resolve_backbone("resnet18.no_such_tag")


def test_hub_out_of_reach_says_what_to_do(no_hub):
    with pytest.raises(BackboneError, match="hub did not answer") as caught:
        resolve_backbone("wide_resnet50_2.tv_in1k")
    for word in ("wide_resnet50_2.tv_in1k", "local-dir:", "builtin:", "untrained:", "model.safetensors"):
        assert word in str(caught.value)


def test_hub_within_reach(monkeypatch):
    monkeypatch.setattr(backbones, "hub_reachable", lambda name: True)
    found = resolve_backbone("resnet18.tv_in1k", ["layer1"])
    assert (found.name, found.architecture, found.origin) == ("resnet18.tv_in1k", "resnet18", "hub")
    assert found.layers == ("layer1",)
    assert found.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["auto", ""])
def test_auto_without_hub_falls_back_and_says_so(no_hub, name, caplog):
    with caplog.at_level(logging.WARNING):
        found = resolve_backbone(name)
    assert found.origin == "built in"
    assert found.note == "built-in backbone"
    assert any("ships" in record.getMessage() and "local-dir:" in record.getMessage() for record in caplog.records)


def test_auto_with_hub_takes_the_default_and_warns_of_nothing(monkeypatch, caplog):
    monkeypatch.setattr(backbones, "hub_reachable", lambda name: True)
    with caplog.at_level(logging.WARNING):
        found = resolve_backbone("auto")
    assert found.name == backbones.DEFAULT_NAME
    assert found.origin == "hub"
    assert not caplog.records


def test_environment_variable_is_what_auto_means(backbone_folder, monkeypatch, no_hub):
    monkeypatch.setenv("BACKBONE", f"local-dir:{backbone_folder}")
    assert resolve_backbone("auto").origin == "local folder"
    assert resolve_backbone("").origin == "local folder"
    assert resolve_backbone("untrained:resnet18").origin == "untrained", "a name that is given wins"
    monkeypatch.setenv("BACKBONE", "auto")
    assert resolve_backbone("auto").origin == "built in"


def test_environment_variable_with_a_mistake_is_no_silent_fallback(tmp_path, monkeypatch, no_hub):
    monkeypatch.setenv("BACKBONE", f"local-dir:{tmp_path / 'mistyped'}")
    with pytest.raises(BackboneError, match="mistyped"):
        resolve_backbone("auto")


TEMPLATE = "http://hub.invalid/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def web(monkeypatch):
    """A server on this machine, as hub or as proxy, and what it was asked for; online whatever the tests' settings."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):  # noqa: N802
            asked.append(self.path)
            self.send_response(200 if "resnet18" in self.path else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # a client keeps the proxy it was made with
    yield f"http://127.0.0.1:{server.server_port}", asked
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_behind_a_proxy(web, monkeypatch):
    address, asked = web
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE)
    assert hub_reachable("resnet18.tv_in1k")
    assert asked == ["http://hub.invalid/timm/resnet18.tv_in1k/resolve/main/config.json"]
    assert not hub_reachable("resnet34.tv_in1k"), "the hub lacks it"


def test_no_connection_is_tried_when_told_to_stay_offline(web, monkeypatch):
    address, asked = web
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HTTP_PROXY", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE)
    assert not hub_reachable("resnet18.tv_in1k") and asked == []


def test_a_hub_that_does_not_answer(web, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", TEMPLATE)
    started = time.monotonic()
    assert not hub_reachable("resnet18.tv_in1k")
    assert time.monotonic() - started < 2 * backbones.HUB_TIMEOUT_SECONDS


def test_layers_of_a_resnet_are_those_of_the_paper():
    assert default_layers("resnet18") == ("layer2", "layer3")
    assert default_layers("wide_resnet50_2") == ("layer2", "layer3")  # the papers', of the profile full
    assert feature_strides("resnet18") == {"act1": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


def test_layers_of_mobilenet_are_those_measured():
    assert default_layers("mobilenetv2_100") == ("blocks.2", "blocks.4")


def test_unknown_layer_is_refused_with_the_known_ones():
    with pytest.raises(BackboneError, match=r"has no layer9\. It has act1, layer1, layer2"):
        resolve_backbone("untrained:resnet18", ["layer2", "layer9"])


def test_architecture_without_strides_8_and_16_asks_for_layers():
    with pytest.raises(BackboneError, match="LAYERS"):
        resolve_backbone("untrained:test_vit")


def test_local_names_become_absolute(tmp_path):
    assert absolute_backbone("local-dir:weights/a", tmp_path) == f"local-dir:{tmp_path.resolve() / 'weights' / 'a'}"
    assert absolute_backbone(f"local-dir:{tmp_path}", Path("/elsewhere")) == f"local-dir:{tmp_path.resolve()}"
    for name in ("auto", "untrained:", "resnet18.tv_in1k"):
        assert absolute_backbone(name, tmp_path) == name


def test_local_name_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    expected = f"local-dir:{tmp_path.resolve() / 'weights'}"
    assert absolute_backbone("local-dir:~/weights", Path("/elsewhere")) == expected


def test_description_is_plain_data():
    found = resolve_backbone("untrained:resnet18")
    restored = json.loads(json.dumps(found.to_dict()))
    assert restored["layers"] == ["layer2", "layer3"]
    assert restored["origin"] == "untrained"


def test_other_weights_in_the_same_folder_are_another_backbone(backbone_folder, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    for file in backbone_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = resolve_backbone(f"local-dir:{folder}")
    assert before.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert resolve_backbone(f"local-dir:{folder}") != before


def test_a_run_that_names_an_address_asks_nobody(web, monkeypatch):
    address, asked = web
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(ValueError, match="hf-hub:evil/model"), bare_backbone("hf-hub:evil/model", {}):
        pass
    with bare_backbone("resnet18", {}) as name:
        assert name == "resnet18"
    assert asked == []
