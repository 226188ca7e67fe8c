"""The backbone that the package ships: small, trained by this project, good without any network.

A student of 1.89 million parameters (timm's ``resnet10t`` up to stride 16 with one block more at strides 8 and 16, two
1x1 heads) that learned to give the feature maps of an ImageNet MobileNetV2 (:mod:`benchmarks.distill`,
``weights/README.md``). Importing this module registers it with timm, so that timm, anomalib and
segmentation-models-pytorch (``tu-helpers_r10t``) build it by name.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from helpers.paths import file_sha256

ARCHITECTURE = "helpers_r10t"
TAG = "distilled"
WEIGHTS_NAME, DESCRIPTION_NAME = "model.safetensors", "config.json"  # timm's names for a folder with a model
WEIGHTS_FILE = Path(__file__).parent / "weights" / ARCHITECTURE / WEIGHTS_NAME
DESCRIPTION_FILE = WEIGHTS_FILE.with_name(DESCRIPTION_NAME)
STAGES = {"layers": (1, 2, 2, 1), "channels": (64, 128, 192, 32)}  # the fourth, as small as can be, is not used
HEAD_CHANNELS = (32, 96)

_CFG = {"file": str(WEIGHTS_FILE), "input_size": (3, 256, 256), "num_classes": 0, "classifier": None}
_CFG |= {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "conv1.0"}
default_cfgs = generate_default_cfgs({f"{ARCHITECTURE}.{TAG}": _CFG})


class BuiltinNet(nn.Module):
    """Student network: photos (B, 3, H, W), normalised as for ImageNet, to feature maps at strides 2 to 32.

    They are the stem ``act1`` (64 channels), ``layer1`` (64), the 1x1 heads ``head8`` (32) and ``head16`` (96), learned
    from the teacher's ``blocks.2`` and ``blocks.4``, and ``pool32``, head16 averaged over 2x2: for encoders that want
    five strides. ``output_stride`` 16 leaves it at stride 16 (DeepLabV3+); there is no classifier.
    """

    def __init__(self, in_chans: int = 3, output_stride: int = 32, **unused: Any) -> None:
        super().__init__()
        body = timm.create_model("resnet10t", pretrained=False, in_chans=in_chans, **STAGES)
        self.conv1, self.bn1, self.act1, self.maxpool = body.conv1, body.bn1, body.act1, body.maxpool
        self.layer1, self.layer2, self.layer3 = body.layer1, body.layer2, body.layer3
        _, *deep, _ = STAGES["channels"]
        self.head8, self.head16 = (nn.Conv2d(*widths, 1) for widths in zip(deep, HEAD_CHANNELS, strict=True))
        self.pool32 = nn.AvgPool2d(2, ceil_mode=True) if output_stride == 32 else nn.Identity()
        widths = {"act1": 64, "layer1": 64, "head8": 32, "head16": 96, "pool32": 96}
        self.feature_info = [
            {"num_chs": width, "reduction": min(2 ** (index + 1), output_stride), "module": name}
            for index, (name, width) in enumerate(widths.items())
        ]
        self.num_features = HEAD_CHANNELS[1]

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, intermediates_only: bool = False, **unused: Any
    ) -> Any:
        """Feature maps at the asked for indices (timm's interface), shallow to deep."""
        take, deepest = feature_take_indices(len(self.feature_info), indices)
        stem = self.act1(self.bn1(self.conv1(x)))
        maps = [stem, self.layer1(self.maxpool(stem))]
        body = self.layer2(maps[1])
        maps.append(self.head8(body))
        if deepest >= 3:
            maps.append(self.head16(self.layer3(body)))
            maps.append(self.pool32(maps[3]))
        chosen = [maps[index] for index in take]
        return chosen if intermediates_only else (maps[-1], chosen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The deepest map, (B, 96, H/32, W/32)."""
        return self.forward_intermediates(x, [4], intermediates_only=True)[0]


@register_model
def helpers_r10t(pretrained: bool = False, **kwargs: Any) -> BuiltinNet:
    """Build the student; with ``pretrained`` its shipped weights, after their hash has been checked.

    timm hands over a ``pretrained_cfg`` of its own for weights from another place (``local-dir:``).
    """
    if pretrained and isinstance(kwargs.get("pretrained_cfg"), str | None):
        check_weights()
    features = {"feature_cls": "getter", "out_indices": (0, 1, 2, 3, 4)}
    return build_model_with_cfg(BuiltinNet, ARCHITECTURE, pretrained, feature_cfg=features, **kwargs)


@cache
def check_weights() -> str:
    """The SHA-256 of the shipped file; one that is not as recorded is refused."""
    sha256 = json.loads(DESCRIPTION_FILE.read_text(encoding="utf-8"))["sha256"]
    if file_sha256(WEIGHTS_FILE) != sha256:
        raise ValueError(f"{WEIGHTS_FILE} is damaged or another (SHA-256); install the package again.")
    return sha256
