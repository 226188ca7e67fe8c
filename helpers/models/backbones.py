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

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from helpers.paths import LOCAL_PREFIX, project_path

logger = logging.getLogger(__name__)

DEFAULT_NAME = "mobilenetv2_100.ra_in1k"
HUB_TIMEOUT_SECONDS = 3.0
BUILTIN_NAME = "builtin:"
UNTRAINED_PREFIX = "untrained:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
LAYER_STRIDES = (8, 16)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BackboneError(ValueError):
    """No usable weights: the message says what was tried and what to do."""


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and where its weights come from.

    Attributes:
        name: what timm and anomalib take as the model's name.
        architecture: the timm architecture without weights, enough to rebuild it and load a checkpoint.
        layers: names of the feature maps to use, shallow to deep.
        mean: per-channel mean that photos in [0, 1] are normalised with.
        std: per-channel standard deviation, likewise.
        origin: ``hub``, ``local folder``, ``built in`` or ``untrained``.
        sha256: of the file with the weights, where it is a file here; other weights in the same place are another run.
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
        """Whether there are weights to load."""
        return self.origin != "untrained"

    @property
    def note(self) -> str | None:
        """What figures and tables must say about the weights, or None when there is nothing to warn of."""
        return {"built in": "built-in backbone", "untrained": "untrained backbone"}.get(self.origin)

    def describe(self) -> str:
        """One line for a notebook or a log."""
        weights = {
            "hub": "weights from the hub",
            "local folder": "weights from a local folder",
            "built in": "weights shipped with this package",
            "untrained": "UNTRAINED: random weights",
        }
        return f"{self.name} ({weights[self.origin]}), layers {', '.join(self.layers)}"

    def to_dict(self) -> dict:
        """Plain data for ``run.json``."""
        return asdict(self)


def resolve_backbone(name: str = "auto", layers: tuple[str, ...] | list[str] = ()) -> Backbone:
    """Find the weights that a name stands for, without guessing.

    Args:
        name: see the module's docstring. ``auto`` (or an empty name) reads the environment variable ``BACKBONE``.
        layers: names of feature maps; by default the deepest ones at strides 8 and 16, as in PatchCore (layer2 and
            layer3 of a ResNet).

    Raises:
        BackboneError: if the weights cannot be reached or the name or a layer is unknown.
    """
    if name in ("", "auto"):
        name = os.environ.get("BACKBONE", "").strip() or "auto"
    if name == "auto":
        if hub_reachable(DEFAULT_NAME):
            name = DEFAULT_NAME
        else:
            logger.warning(
                "The hub cannot be reached and no BACKBONE is set: taking the small backbone that this package ships. "
                "Larger pretrained weights find more: give BACKBONE=local-dir:PATH."
            )
            name = BUILTIN_NAME
    if name == BUILTIN_NAME:
        return _built_in(layers)
    if name.startswith(UNTRAINED_PREFIX):
        architecture = name.removeprefix(UNTRAINED_PREFIX) or DEFAULT_NAME.split(".")[0]
        return _untrained(architecture, layers)
    if name.startswith(LOCAL_PREFIX):
        return _local(Path(name.removeprefix(LOCAL_PREFIX)), layers)
    return _from_hub(name, layers)


def hub_reachable(name: str) -> bool:
    """Whether the weights of a timm name are in the hub's cache, or the hub has them and answers within a few seconds.

    The client that would download them asks: by the same proxy, endpoint and certificates, or not at all offline.
    """
    import huggingface_hub

    if _in_hub_cache(name):
        return True
    repo = _hub_repo(name)
    address = huggingface_hub.hf_hub_url(repo, "config.json") if repo else huggingface_hub.constants.ENDPOINT
    try:
        huggingface_hub.get_hf_file_metadata(address, timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:  # noqa: BLE001  # of the client, its transport, a proxy
        logger.debug("%s: %s", address, error)
        return False
    return True


def _timm() -> ModuleType:
    """timm, with the architecture of this package registered; imported late, since it is slow."""
    import timm

    import helpers.models.builtin  # noqa: F401

    return timm


def _hub_repo(name: str) -> str:
    """Repository of the hub that timm has a name's weights from, or empty."""
    timm = _timm()
    try:
        config = timm.get_pretrained_cfg(name)
    except (RuntimeError, ValueError):
        return ""
    if config is None or not config.hf_hub_id:
        return ""
    return config.hf_hub_id if "/" in config.hf_hub_id and not config.hf_hub_id.endswith("/") else f"timm/{name}"


def _in_hub_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    repo = _hub_repo(name)
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, file), str) for file in WEIGHT_FILES)


def _from_hub(name: str, layers: tuple[str, ...] | list[str]) -> Backbone:
    timm = _timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:5]) or "see timm.list_models()"
        raise BackboneError(f"BACKBONE={name!r}: timm knows no model {architecture!r}. Similar names: {close}.")
    known = timm.list_pretrained(f"{architecture}*")
    if tag and name not in known or not tag and not any(known_name.startswith(architecture) for known_name in known):
        raise BackboneError(f"BACKBONE={name!r}: no such pretrained weights. Known: {', '.join(known[:8]) or 'none'}.")
    if not hub_reachable(name):
        raise BackboneError(
            f"BACKBONE={name!r}: its weights are not in the hub's cache, and the hub did not answer within "
            f"{HUB_TIMEOUT_SECONDS:.0f} s, or HF_HUB_OFFLINE is set. "
            "Give a folder with BACKBONE=local-dir:PATH (config.json and "
            "model.safetensors, as timm.models.save_for_hf writes them), or connect once so that they get cached, "
            "or take the small one of this package with BACKBONE=builtin:, or random weights by name with "
            "BACKBONE=untrained: (its results are worthless as a judgement)."
        )
    config = timm.get_pretrained_cfg(name)
    return _describe(name, architecture, layers, tuple(config.mean), tuple(config.std), "hub")


def _local(folder: Path, layers: tuple[str, ...] | list[str]) -> Backbone:
    timm = _timm()
    folder = project_path(folder).resolve()
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise BackboneError(f"BACKBONE=local-dir:{folder}: there is no config.json; give a folder in timm's format.")
    if not any((folder / file).is_file() for file in WEIGHT_FILES):
        raise BackboneError(f"BACKBONE=local-dir:{folder}: no weights; expected {' or '.join(WEIGHT_FILES)} there.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        architecture = config["architecture"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"{config_file} is not a timm model configuration with an 'architecture': {error}."
        ) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise BackboneError(f"{config_file}: timm knows no architecture {architecture!r}.")
    cfg = config.get("pretrained_cfg", config)
    mean, std = cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)
    found = _describe(f"{LOCAL_PREFIX}{folder}", architecture, layers, tuple(mean), tuple(std), "local folder")
    weights = next(folder / file for file in WEIGHT_FILES if (folder / file).is_file())
    with weights.open("rb") as stream:
        return replace(found, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def _built_in(layers: tuple[str, ...] | list[str]) -> Backbone:
    from helpers.models import builtin

    try:
        sha256 = builtin.check_weights()["sha256"]
    except (OSError, ValueError) as error:
        raise BackboneError(f"BACKBONE={BUILTIN_NAME}: {error}") from error
    name = f"{builtin.ARCHITECTURE}.{builtin.TAG}"
    found = _describe(name, builtin.ARCHITECTURE, layers, IMAGENET_MEAN, IMAGENET_STD, "built in")
    return replace(found, sha256=sha256)


def _untrained(architecture: str, layers: tuple[str, ...] | list[str]) -> Backbone:
    timm = _timm()
    if not timm.is_model(architecture):
        raise BackboneError(f"BACKBONE={UNTRAINED_PREFIX}{architecture}: timm knows no model of that name.")
    return _describe(architecture, architecture, layers, IMAGENET_MEAN, IMAGENET_STD, "untrained")


def _describe(
    name: str,
    architecture: str,
    layers: tuple[str, ...] | list[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    origin: str,
) -> Backbone:
    chosen = tuple(layers) or default_layers(architecture)
    known = feature_strides(architecture)
    unknown = [layer for layer in chosen if layer not in known]
    if known and unknown:
        raise BackboneError(f"LAYERS: {architecture} has no {', '.join(unknown)}. It has {', '.join(known)}.")
    return Backbone(name, architecture, chosen, mean, std, origin)


def feature_strides(architecture: str) -> dict[str, int]:
    """Names of the feature maps that timm offers of an architecture, shallow to deep, with their strides in pixels."""
    timm = _timm()
    model = timm.create_model(architecture, pretrained=False, features_only=True)
    return {info["module"]: info["reduction"] for info in model.feature_info.get_dicts(keys=["module", "reduction"])}


def default_layers(architecture: str) -> tuple[str, ...]:
    """The deepest feature maps at strides 8 and 16.

    Raises:
        BackboneError: if the architecture has none (a plain vision transformer, say): LAYERS must name some then.
    """
    by_stride = {stride: layer for layer, stride in feature_strides(architecture).items()}
    layers = tuple(by_stride[stride] for stride in LAYER_STRIDES if stride in by_stride)
    if len(layers) < len(LAYER_STRIDES):
        raise BackboneError(f"{architecture} has no feature maps at strides {LAYER_STRIDES}; name some with LAYERS.")
    return layers
