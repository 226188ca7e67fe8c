"""Name -> configured model: the one place where notebooks and the pipeline ask for a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.models.backbones import Backbone

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule


def build_model(
    name: str,
    backbone: Backbone,
    *,
    image_size: int | tuple[int, int] = 256,
    center_crop: int | tuple[int, int] | None = None,
    **parameters: Any,
) -> AnomalibModule:
    """Build an untrained model.

    Args:
        name: a name from :data:`MODELS`.
        backbone: from :func:`helpers.models.backbones.resolve_backbone`.
        image_size: side, or (height, width), in pixels that photos are resized to.
        center_crop: side, or (height, width), in pixels cut out of that; None or 0 for none.
        **parameters: the model's own, see its class.

    Raises:
        ValueError: for an unknown model.
        TypeError: for a parameter that the model does not have.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(MODELS)}.")
    return MODELS[name](backbone, as_size(image_size), as_size(center_crop) if center_crop else None, **parameters)


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
    import helpers.models.builtin  # noqa: F401  (registers its architecture with timm)
    from helpers.models.patchcore import PatchCore

    model = PatchCore.load_from_checkpoint(
        checkpoint, map_location=device, weights_only=True, backbone=architecture, pre_trained=False
    )
    return model.eval().to(device)


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


MODELS: dict[str, Callable[..., AnomalibModule]] = {"patchcore": _patchcore}
