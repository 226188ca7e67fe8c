"""Where pretrained weights come from: the hub, a local folder, this package, or (only if asked for by name) nowhere.

Names, as the notebooks' parameter ``BACKBONE`` and the environment variable of that name take them:

- ``auto``: the environment variable ``BACKBONE``; else the default from the hub; else ``builtin:``.
- ``wide_resnet50_2.tv_in1k``: a timm model name with its weights' tag, from the Hugging Face hub or its cache.
- ``local-dir:PATH``: a folder in timm's own format, ``config.json`` beside ``model.safetensors``; needs no network. A
  relative path counts from the project's folder, wherever the notebook was started.
- ``builtin:``: the small network that the package ships (:mod:`helpers.models.builtin`); needs no network, and
  whatever is made with it says so.
- ``untrained:`` or ``untrained:ARCHITECTURE``: random weights. PatchCore on them is little better than a guess (image
  AUROC 0.54 against 0.97 on magnetic tiles), so every run, figure and leaderboard made with them carries the word.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from helpers.paths import LOCAL_PREFIX, file_sha256, project_path

logger = logging.getLogger(__name__)

DEFAULT_NAME = "mobilenetv2_100.ra_in1k"
HUB_TIMEOUT_SECONDS = 3.0
BUILTIN_NAME = "builtin:"
UNTRAINED_PREFIX = "untrained:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
LAYER_STRIDES = (8, 16)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORIGINS = {
    "hub": ("weights from the hub", None),
    "local folder": ("weights from a local folder", None),
    "built in": ("weights shipped with this package", "built-in backbone"),
    "untrained": ("UNTRAINED: random weights", "untrained backbone"),
}
"""Origin -> in words, and what figures and tables must say about it, or None when there is nothing to warn of."""


class BackboneError(ValueError):
    """No usable weights, or no such layer: the message says what was tried and what to do."""


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and where its weights come from.

    ``name`` is timm's and anomalib's; ``architecture``, without weights, is enough to load a checkpoint into; photos
    in [0, 1] are normalised with ``mean`` and ``std``; ``sha256`` is that of a file of weights: others, another run.
    """

    name: str
    architecture: str
    layers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    sha256: str = ""

    @property
    def pretrained(self) -> bool:
        return self.origin != "untrained"

    @property
    def note(self) -> str | None:
        return ORIGINS[self.origin][1]

    def describe(self) -> str:
        return f"{self.name} ({ORIGINS[self.origin][0]}), layers {', '.join(self.layers)}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def resolve_backbone(name: str = "auto", layers: Sequence[str] = ()) -> Backbone:
    """Find the weights that a name stands for (see the module's docstring), without guessing.

    Layers are by default the deepest ones at strides 8 and 16, as in PatchCore (layer2 and layer3 of a ResNet).
    """
    if name in ("", "auto"):
        name = os.environ.get("BACKBONE", "").strip() or "auto"
    if name == "auto" and hub_reachable(DEFAULT_NAME):
        name = DEFAULT_NAME
    elif name == "auto":
        name = BUILTIN_NAME
        logger.warning(
            "The hub cannot be reached and no BACKBONE is set: taking the small backbone that this package ships. "
            "Larger pretrained weights find more: give BACKBONE=local-dir:PATH."
        )
    normalisation, sha256 = (IMAGENET_MEAN, IMAGENET_STD), ""
    if name == BUILTIN_NAME:
        from helpers.models import builtin

        try:
            sha256, origin = builtin.check_weights(), "built in"
        except (OSError, ValueError) as error:
            raise BackboneError(f"BACKBONE={BUILTIN_NAME}: {error}") from error
        name, architecture = f"{builtin.ARCHITECTURE}.{builtin.TAG}", builtin.ARCHITECTURE
    elif name.startswith(UNTRAINED_PREFIX):
        name = architecture = name.removeprefix(UNTRAINED_PREFIX) or DEFAULT_NAME.split(".")[0]
        origin = "untrained"
    elif name.startswith(LOCAL_PREFIX):
        folder, origin = project_path(name.removeprefix(LOCAL_PREFIX)).resolve(), "local folder"
        name, (architecture, normalisation, sha256) = f"{LOCAL_PREFIX}{folder}", _local(folder)
    else:
        architecture, normalisation, origin = name.partition(".")[0], _from_hub(name), "hub"
    strides = feature_strides(architecture)
    by_stride = {stride: layer for layer, stride in strides.items()}
    chosen = tuple(layers or (by_stride[stride] for stride in LAYER_STRIDES if stride in by_stride))
    unknown = [layer for layer in chosen if layer not in strides]
    if (strides and unknown) or (not layers and len(chosen) < len(LAYER_STRIDES)):
        missing = ", ".join(unknown) or f"feature maps at strides {LAYER_STRIDES}"
        raise BackboneError(f"LAYERS: {architecture} has no {missing}. It has {', '.join(strides)}; name some of them.")
    return Backbone(name, architecture, chosen, *map(tuple, normalisation), origin, sha256)


def hub_reachable(name: str) -> bool:
    """Whether the weights of a timm name are cached, or the hub, asked by its own client, answers within seconds."""
    import huggingface_hub

    repo = _timm().get_pretrained_cfg(name).hf_hub_id or f"timm/{name}"
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str) for file in WEIGHT_FILES):
        return True
    address = huggingface_hub.hf_hub_url(repo, "config.json")
    try:
        huggingface_hub.get_hf_file_metadata(address, timeout=HUB_TIMEOUT_SECONDS)
        return True
    except Exception as error:  # noqa: BLE001  # of the client, its transport, a proxy
        logger.debug("%s: %s", address, error)
        return False


def _timm() -> ModuleType:
    """timm, with the architecture of this package registered; imported late, since it is slow."""
    import timm

    import helpers.models.builtin  # noqa: F401

    return timm


def _from_hub(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that a timm name's photos are normalised with; its weights are within reach."""
    timm, (architecture, _, tag) = _timm(), name.partition(".")
    known = timm.list_pretrained(f"{architecture}*")
    if (tag and name not in known) or not known:
        close = known[:8] or timm.list_models(f"*{architecture[:6]}*")[:5] or ["see timm.list_models()"]
        raise BackboneError(f"BACKBONE={name!r}: timm knows no such pretrained weights. Similar: {', '.join(close)}.")
    if not hub_reachable(name):
        raise BackboneError(
            f"BACKBONE={name!r}: its weights are not in the hub's cache, and the hub did not answer within "
            f"{HUB_TIMEOUT_SECONDS:.0f} s, or HF_HUB_OFFLINE is set. Give a folder with BACKBONE=local-dir:PATH "
            "(config.json and model.safetensors, as timm.models.save_for_hf writes them), connect once, or take the "
            "small one of this package with BACKBONE=builtin:, or random, worthless ones with BACKBONE=untrained:."
        )
    config = timm.get_pretrained_cfg(name)
    return config.mean, config.std


def _local(folder: Path) -> tuple[str, tuple[Sequence[float], Sequence[float]], str]:
    """Architecture, mean and standard deviation, and the weights' hash, of a folder in timm's format."""
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHT_FILES[0])
    try:
        config, sha256 = json.loads((folder / "config.json").read_text(encoding="utf-8")), file_sha256(weights)
        architecture, cfg = config["architecture"], config.get("pretrained_cfg", config)
        return architecture, (cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)), sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"BACKBONE={LOCAL_PREFIX}{folder}: {error}. Give a folder in timm's format: a config.json that names an "
            f"'architecture' beside {' or '.join(WEIGHT_FILES)}."
        ) from error


def feature_strides(architecture: str) -> dict[str, int]:
    """Names of the feature maps that timm offers of an architecture, shallow to deep, with their strides in pixels."""
    if not isinstance(architecture, str) or not _timm().is_model(architecture):
        raise BackboneError(f"timm knows no model {architecture!r}; see timm.list_models().")
    model = _timm().create_model(architecture, pretrained=False, features_only=True)
    return {info["module"]: info["reduction"] for info in model.feature_info.get_dicts(keys=["module", "reduction"])}


def model_args(name: str) -> dict[str, Any]:
    """Arguments by which a local folder's backbone (``Backbone.name``) differs from its architecture; others: none.

    Without ``{"pad_type": "same"}``, say, weights from TensorFlow give other features, and no error.
    """
    if not name.startswith(LOCAL_PREFIX):
        return {}
    file = Path(name.removeprefix(LOCAL_PREFIX)) / "config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("model_args") or {}


@contextmanager
def bare_backbone(architecture: str, options: dict[str, Any]) -> Iterator[str]:
    """A name by which libraries build a backbone without its weights; with options a folder that says them."""
    if not _timm().is_model(architecture):  # "hf-hub:..." in somebody's run.json would have timm ask the hub
        raise ValueError(f"timm knows no architecture {architecture[:80]!r}, which the run names; train it again.")
    if not options:
        yield architecture
        return
    with TemporaryDirectory() as folder:
        content = {"architecture": architecture, "pretrained_cfg": {}, "model_args": options}
        (Path(folder) / "config.json").write_text(json.dumps(content), encoding="utf-8")
        yield f"{LOCAL_PREFIX}{folder}"
