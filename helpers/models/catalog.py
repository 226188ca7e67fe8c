"""Name -> configured model: the one place where notebooks and the pipeline ask for a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from helpers.models.backbones import Backbone
from helpers.paths import LOCAL_PREFIX

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule


def build_model(
    name: str,
    backbone: Backbone | None,
    *,
    image_size: int | tuple[int, int] = 256,
    center_crop: int | tuple[int, int] | None = None,
    keep_aspect: bool = False,
    **parameters: Any,
) -> AnomalibModule:
    """Build an untrained model.

    Args:
        name: a name from :data:`MODELS`.
        backbone: from :func:`helpers.models.backbones.resolve_backbone`; None for a model that has none (``draem``).
        image_size: side, or (height, width), in pixels that photos are resized to.
        center_crop: side, or (height, width), in pixels cut out of that; None or 0 for none.
        keep_aspect: see :func:`network_frame`.
        **parameters: the model's own, see its class.

    Raises:
        ValueError: for an unknown model, or a missing backbone.
        TypeError: for a parameter that the model does not have.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
    if backbone is None and name not in WITHOUT_BACKBONE:
        raise ValueError(f"{name} needs a backbone; see helpers.models.backbones.resolve_backbone.")
    frame = network_frame(image_size, center_crop, keep_aspect=keep_aspect)
    crop = tuple(frame["center_crop"]) if frame["center_crop"] else None
    model = MODELS[name](backbone, tuple(frame["image_size"]), crop, **parameters)
    if backbone is not None:
        # They go into the checkpoint: without them the architecture is another one, which takes the same weights.
        model.hparams["model_args"] = model_args(backbone.name)
    return model


def load_model(name: str, checkpoint: Path, architecture: str, device: str = "cpu") -> AnomalibModule:
    """Rebuild a trained model from its checkpoint, without asking for any pretrained weights.

    The checkpoint is read with ``weights_only=True``: tensors and plain data, no code.

    Args:
        name: a name from :data:`MODELS`.
        checkpoint: file that ``Run.fit`` wrote.
        architecture: timm architecture of the backbone, as ``run.json`` records it.
        device: ``cpu``, ``cuda:N`` or ``mps``.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
    import torch

    model_class, arguments = _class_of(name)
    common = {"map_location": device, "weights_only": True, **arguments}
    if name in WITHOUT_BACKBONE:
        return model_class.load_from_checkpoint(checkpoint, **common).eval().to(device)
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["hyper_parameters"]
    options = stored.get("model_args", {})
    with bare_backbone(architecture, options) as backbone:
        model = model_class.load_from_checkpoint(checkpoint, backbone=backbone, pre_trained=False, **common)
    model.hparams.update({"backbone": architecture, "model_args": options})
    return model.eval().to(device)


def model_args(backbone: str) -> dict[str, Any]:
    """Arguments by which a backbone differs from its architecture, as the ``config.json`` of a local folder names them.

    Weights that came from TensorFlow have ``{"pad_type": "same"}``, say: without it the same weights give other
    features, and no error.

    Args:
        backbone: ``Backbone.name``.

    Returns:
        Plain data; empty for any other than a local folder.
    """
    if not backbone.startswith(LOCAL_PREFIX):
        return {}
    file = Path(backbone.removeprefix(LOCAL_PREFIX)) / "config.json"
    return json.loads(file.read_text(encoding="utf-8")).get("model_args") or {}


@contextmanager
def bare_backbone(architecture: str, options: dict[str, Any]) -> Iterator[str]:
    """A name by which timm, anomalib and segmentation-models-pytorch build a backbone without its weights.

    Args:
        architecture: ``Backbone.architecture``.
        options: from :func:`model_args`.

    Yields:
        The architecture itself; with options, a folder that lasts as long as the context and says both.
    """
    import timm

    import helpers.models.builtin  # noqa: F401  (registers its architecture with timm)

    if not timm.is_model(architecture):  # "hf-hub:..." in somebody's run.json would have timm ask the hub
        raise ValueError(f"timm knows no architecture {architecture[:80]!r}, which the run names; train it again.")
    if not options:
        yield architecture
        return
    with TemporaryDirectory() as folder:
        content = {"architecture": architecture, "pretrained_cfg": {}, "model_args": options}
        (Path(folder) / "config.json").write_text(json.dumps(content), encoding="utf-8")
        yield f"{LOCAL_PREFIX}{folder}"


def network_frame(
    image_size: int | tuple[int, int], center_crop: int | tuple[int, int] | None = None, *, keep_aspect: bool = False
) -> dict[str, list[int] | None]:
    """How a photo becomes what the network sees, as a run stores it and ``to_network_frame`` takes it.

    Args:
        image_size: side, or (height, width), in pixels that photos are resized to.
        center_crop: side, or (height, width), in pixels cut out of that; None or 0 for none.
        keep_aspect: resize the shorter side only, to the larger of ``image_size``, and cut the middle out: nothing is
            squashed, but what lies outside is not looked at. False: squash.

    Returns:
        ``image_size``, [height, width] or [shorter side], and ``center_crop``, [height, width] or None.

    Raises:
        ValueError: for a size that is none, or both ways to crop.
    """
    size = as_size(image_size)
    if keep_aspect and center_crop:
        raise ValueError("keep_aspect cuts the middle out already; leave center_crop at 0.")
    if keep_aspect:
        return {"image_size": [max(size)], "center_crop": list(size)}
    return {"image_size": list(size), "center_crop": list(as_size(center_crop)) if center_crop else None}


def as_size(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(height, width) from a side or a pair.

    Raises:
        ValueError: if a side is not a positive whole number.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"A size is a positive whole number or a pair (height, width) of them, got {size!r}.")
    return pair


def _patchcore(
    backbone: Backbone, image_size: tuple[int, int], center_crop: tuple[int, int] | None, **parameters: Any
) -> AnomalibModule:
    from helpers.models.patchcore import PatchCore, make_pre_processor

    return PatchCore(
        backbone=backbone.name,
        layers=backbone.layers,
        pre_trained=backbone.pretrained,
        pre_processor=make_pre_processor(image_size, center_crop, backbone.mean, backbone.std),
        **parameters,
    )


def _segmenter(name: str) -> Callable[..., AnomalibModule]:
    def build(
        backbone: Backbone, image_size: tuple[int, int], center_crop: tuple[int, int] | None, **parameters: Any
    ) -> AnomalibModule:
        from helpers.models.patchcore import make_pre_processor
        from helpers.models.segmentation import Segmenter

        return Segmenter(
            architecture=name,
            backbone=backbone.name,
            pre_trained=backbone.pretrained,
            pre_processor=make_pre_processor(image_size, center_crop, backbone.mean, backbone.std),
            **parameters,
        )

    return build


def _draem(
    backbone: None, image_size: tuple[int, int], center_crop: tuple[int, int] | None, **parameters: Any
) -> AnomalibModule:
    from helpers.models.draem import Draem, make_pre_processor

    del backbone  # DRAEM learns from nothing
    return Draem(pre_processor=make_pre_processor(image_size, center_crop), **parameters)


def _glass(
    backbone: Backbone, image_size: tuple[int, int], center_crop: tuple[int, int] | None, **parameters: Any
) -> AnomalibModule:
    from helpers.models.glass import Glass
    from helpers.models.patchcore import make_pre_processor

    return Glass(
        backbone=backbone.name,
        layers=list(backbone.layers),
        pre_trained=backbone.pretrained,
        image_size=center_crop or image_size,
        pre_processor=make_pre_processor(image_size, center_crop, backbone.mean, backbone.std),
        **parameters,
    )


def _class_of(name: str) -> tuple[type[AnomalibModule], dict[str, str]]:
    """A model's class, and what its checkpoint is not to decide; imported late, as it is slow."""
    if name in SEGMENTERS:
        from helpers.models.segmentation import Segmenter

        # given, so that a checkpoint of the other network does not load in silence
        return Segmenter, {"architecture": name}
    if name == "draem":
        from helpers.models.draem import Draem

        # without textures: they are for training, and need not be on this machine
        return Draem, {"anomaly_source": ""}
    if name == "glass":
        from helpers.models.glass import Glass

        return Glass, {"anomaly_source": ""}
    from helpers.models.patchcore import PatchCore

    return PatchCore, {}


SEGMENTERS = ("unet", "deeplabv3plus")
WITHOUT_BACKBONE = ("draem",)
MODELS: dict[str, Callable[..., AnomalibModule]] = {
    "patchcore": _patchcore,
    **{name: _segmenter(name) for name in SEGMENTERS},
    "draem": _draem,
    "glass": _glass,
}
