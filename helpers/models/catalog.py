"""Name -> configured model: the one place where notebooks and the pipeline ask for a model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.models.backbones import Backbone, bare_backbone, model_args

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

SEGMENTERS = ("unet", "deeplabv3plus")
MODELS = {"patchcore": ("patchcore", "PatchCore"), "draem": ("draem", "Draem"), "glass": ("glass", "Glass")}
MODELS |= dict.fromkeys(SEGMENTERS, ("segmentation", "Segmenter"))
"""Name -> module and class; imported late, as they are slow."""


def build_model(
    name: str,
    backbone: Backbone | None,
    *,
    image_size: int | tuple[int, int] = 256,
    center_crop: int | tuple[int, int] | None = None,
    keep_aspect: bool = False,
    **parameters: Any,
) -> AnomalibModule:
    """An untrained model that sees photos as `network_frame` says; ``parameters`` are its own, see its class.

    ``backbone`` comes from `resolve_backbone`; None for a model that has none (``draem``).
    """
    from helpers.models.parts import make_pre_processor

    model_class = _class_of(name)
    frame = network_frame(image_size, center_crop, keep_aspect=keep_aspect)
    size, crop = tuple(frame["image_size"]), tuple(frame["center_crop"] or ()) or None
    if name == "draem":
        return model_class(pre_processor=make_pre_processor(size, crop), **parameters)
    if backbone is None:
        raise ValueError(f"{name} needs a backbone; see helpers.models.backbones.resolve_backbone.")
    parameters |= {"backbone": backbone.name, "pre_trained": backbone.pretrained}
    parameters |= {"architecture": name} if name in SEGMENTERS else {"layers": list(backbone.layers)}
    if name == "glass":
        parameters["image_size"] = crop or size
    model = model_class(pre_processor=make_pre_processor(size, crop, backbone.mean, backbone.std), **parameters)
    # They go into the checkpoint: without them the architecture is another one, which takes the same weights.
    model.hparams["model_args"] = model_args(backbone.name)
    return model


def load_model(name: str, checkpoint: Path, architecture: str, device: str = "cpu") -> AnomalibModule:
    """A trained model from its checkpoint, of which no code is run; asks for no pretrained weights.

    ``architecture`` is the backbone's, as ``run.json`` records it.
    """
    import torch

    model_class, options = _class_of(name), {"map_location": device, "weights_only": True}
    if name in SEGMENTERS:  # so that a checkpoint of the other network does not load in silence
        options["architecture"] = name
    if name in ("draem", "glass"):  # textures are for training, and need not be on this machine
        options["anomaly_source"] = ""
    if name == "draem":
        return model_class.load_from_checkpoint(checkpoint, **options).eval().to(device)
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["hyper_parameters"]
    arguments = stored.get("model_args", {})
    with bare_backbone(architecture, arguments) as backbone:
        model = model_class.load_from_checkpoint(checkpoint, backbone=backbone, pre_trained=False, **options)
    model.hparams.update({"backbone": architecture, "model_args": arguments})
    return model.eval().to(device)


def network_frame(
    image_size: int | tuple[int, int], center_crop: int | tuple[int, int] | None = None, *, keep_aspect: bool = False
) -> dict[str, list[int] | None]:
    """How a photo becomes what the network sees, as a run stores it and ``to_network_frame`` takes it.

    Sizes are a side or (height, width) in pixels. With ``keep_aspect`` ``image_size`` becomes [shorter side]: only that
    is resized, and the middle cut out, so that nothing is squashed but what lies outside is not looked at.
    """
    size, crop = _pair(image_size), _pair(center_crop) if center_crop else None
    if keep_aspect and crop:
        raise ValueError("keep_aspect cuts the middle out already; leave center_crop at 0.")
    return {"image_size": [max(size)] if keep_aspect else size, "center_crop": size if keep_aspect else crop}


def _pair(size: int | Sequence[int]) -> list[int]:
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"A size is a positive whole number or a pair (height, width) of them, got {size!r}.")
    return pair


def _class_of(name: str) -> Any:
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
    module, class_name = MODELS[name]
    return getattr(import_module(f"helpers.models.{module}"), class_name)
