"""A finished run as one file that other programs run: ONNX, OpenVINO, and OpenVINO in 8 bits.

    python -m helpers.inference.export artifacts/mesh/quick/patchcore [--formats onnx,openvino,openvino-int8]

What is in a file:

- input ``photos``: (N, H, W, 3) uint8 RGB, any N, H and W. Resizing (bilinear, antialiased, as in training), crop and
  normalisation are in the graph.
- outputs of a detector: ``score`` (N,) and ``map`` (N, h, w) at the network's size; of a classifier: ``score`` (N,),
  ``probabilities`` (N, C) and ``embedding`` (N, D). All float32.
- who it is: thresholds with their origin, class names, frame, fingerprint of the run and SHA-256 of its checkpoint
  (:func:`about`), in ONNX's ``metadata_props`` and OpenVINO's ``rt_info``.

Where a run confines its maps to an object mask, that is done by the :class:`helpers.inference.Predictor`, not in the
graph: a file's ``object_mask`` then says so, and its thresholds are those of the confined maps.

Two networks are put differently here, with the same result, since a file is for one frame and any batch. PatchCore:
memory bank and features are centred, the bank is a convolution, neighbours in the bank are looked up. GLASS: patches
are averaged by convolutions. In both, enlarging and blurring the map are two products with constant matrices.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from helpers.data.images import read_image
from helpers.inference.exported import (
    FILES,
    FORMATS,
    INT8,
    NORMAL_SCORES,
    ONNX,
    OPENVINO,
    Calibration,
    ExportedBackend,
    describe,
    identity,
    is_current,
    openvino_infer,
    read_about,
    write_hashes,
)
from helpers.inference.predictor import CHECKPOINT, CLASSIFICATION, Backend, Predictor, check_run, open_finished
from helpers.models.catalog import SEGMENTERS
from helpers.models.classifier import abnormal_scores
from helpers.paths import project_path, write_whole, write_whole_folder
from helpers.progress import quiet_libraries, sentence
from helpers.runs import Run
from helpers.session import installed_versions
from helpers.thresholds import held_out_thresholds

if TYPE_CHECKING:
    import onnx
    import openvino

OPSET = 20
INPUT = "photos"
OUTPUTS = {False: ("score", "map"), True: ("score", "probabilities", "embedding")}  # by: is it a classifier?
BANK_ROWS = 8192  # of PatchCore's memory bank at once: bounds the memory, 32 MB a photo with 1,024 patches
N_CALIBRATION = 64  # good training photos that the ranges of 8-bit values are taken from


# ------------------------------------------------------------------------------------------------------------ networks


class Scale(nn.Module):
    """A batch normalisation in evaluation mode: ``x * scale + shift`` a channel."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        scale, shift = _scale_and_shift(norm)
        shape = (-1,) if isinstance(norm, nn.BatchNorm1d) else (-1, 1, 1)
        self.register_buffer("scale", scale.float().view(shape))
        self.register_buffer("shift", shift.float().view(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape comes back."""
        return x * self.scale + self.shift


def _scale_and_shift(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) float64 each."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.double() if norm.affine else shift


def simplified(network: nn.Module, frame: tuple[int, int]) -> nn.Module:
    """A network, changed in place, whose exported graph is small and quickly made.

    A batch normalisation goes into the weights of the layer before it, or becomes a :class:`Scale` where there is none
    (torch's exporter would take it apart into ten operations), and nothing is computed in place any more.

    Args:
        network: in evaluation mode.
        frame: (H, W) that it sees.
    """
    merged = _normalised_layers(network, frame)
    for norm, layer in merged.items():
        scale, shift = _scale_and_shift(norm)
        bias = 0.0 if layer.bias is None else layer.bias.double() * scale
        layer.weight = nn.Parameter((layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))).float())
        layer.bias = nn.Parameter((bias + shift).float())
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                # timm's normalisations carry their activation
                after = [getattr(child, part) for part in ("drop", "act") if hasattr(child, part)]
                setattr(module, name, nn.Sequential(*([] if child in merged else [Scale(child)]), *after))
    return network.requires_grad_(False)


@torch.no_grad()
def _normalised_layers(network: nn.Module, frame: tuple[int, int]) -> dict[_BatchNorm, nn.Conv2d | nn.Linear]:
    """Batch normalisations that take a layer's output, each with that layer; found by running the network once."""
    made: dict[int, tuple[nn.Module, torch.Tensor]] = {}  # the tensors are kept, so that no other gets their id
    found: dict[_BatchNorm, nn.Conv2d | nn.Linear] = {}

    def note(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = (layer, output)

    def look(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            found[norm] = made[id(inputs[0])][0]

    modules = list(network.modules())
    hooks = [each.register_forward_hook(note) for each in modules if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks += [each.register_forward_pre_hook(look) for each in modules if isinstance(each, _BatchNorm)]
    try:
        network(torch.zeros(1, 3, *frame))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def averaging(channels: int, kernel: int, width: int) -> nn.Conv2d:
    """``adaptive_avg_pool1d`` to ``width`` over the channels of ``unfold(x, kernel, padding=kernel // 2)``, as a
    convolution.

    Both go channel by channel, so bins repeat after ``gcd(channels, width)`` groups.
    """
    groups = math.gcd(channels, width)
    length = channels // groups * kernel**2
    bins = functional.adaptive_avg_pool1d(torch.eye(length)[None], width // groups)[0].T
    layer = nn.Conv2d(channels, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    layer.weight = nn.Parameter(bins.reshape(-1, channels // groups, kernel, kernel).repeat(groups, 1, 1, 1))
    return layer


def enlarging(n: int, size: int, mode: str, blur: torch.Tensor) -> torch.Tensor:
    """Matrix (size, n) that enlarges n values to ``size`` and blurs them, reflected at the ends.

    Args:
        n: values before.
        size: and after.
        mode: ``nearest`` or ``linear``.
        blur: (k,) of odd length, sums to 1.
    """
    basis = torch.eye(n, dtype=torch.float64)[None]
    large = functional.interpolate(basis, size=size, mode=mode)[0]
    padded = functional.pad(large, (len(blur) // 2,) * 2, mode="reflect")
    return functional.conv1d(padded[:, None], blur.double()[None, None])[:, 0].T.float()


class Logistic(nn.Module):
    """The sigmoid, written out.

    ONNX Runtime's own is right to 1e-7 (measured in 1.32), which is more than the whole probability of a defect in a
    good pixel: at -18 it is almost four times too high.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape comes back."""
        return 1 / (1 + torch.exp(-x))


class PatchMap(nn.Module):
    """Scores of patches (N, h, w) -> map (N, H, W), enlarged and blurred.

    Args:
        grid: (h, w).
        frame: (H, W).
        mode: see :func:`enlarging`.
        kernel: (k, k), the product of two of length k.
    """

    def __init__(self, grid: tuple[int, int], frame: tuple[int, int], mode: str, kernel: torch.Tensor) -> None:
        super().__init__()
        blur = kernel.double().sum(0)
        self.register_buffer("down", enlarging(grid[0], frame[0], mode, blur))
        self.register_buffer("across", enlarging(grid[1], frame[1], mode, blur).T.contiguous())

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """(N, H, W)."""
        return self.down @ scores @ self.across


class FixedPatchCore(nn.Module):
    """PatchCore for one size of photos; what depends on the size or the memory bank alone is computed before.

    With x a patch's feature and m a row of the bank, both less the mean of the bank, |x - m|^2 is |x|^2 - 2 c with
    c = x m - |m|^2 / 2, which is a 1 x 1 convolution; the nearest row has the largest c. Centring makes |x| and |m|
    small against the distance, so that little is lost to rounding.

    Args:
        model: :class:`helpers.models.patchcore.PatchCoreModel`, trained.
        frame: (H, W) that the network sees.
    """

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        self.extractor, self.pooler, self.layers = model.feature_extractor, model.feature_pooler, model.layers
        self.embedding = model.generate_embedding
        bank = model.memory_bank.double()
        center = bank.mean(0)
        bank = bank - center
        self.n_neighbors = min(model.num_neighbors, len(bank))
        self.register_buffer("center", center.float().view(1, -1, 1, 1))
        self.register_buffer("bank", bank.float())
        self.register_buffer("bias", (-bank.square().sum(1) / 2).float())
        self.register_buffer("support", self._support(bank.float()))
        with torch.no_grad():
            grid = self.embed(torch.zeros(1, 3, *frame)).shape[-2:]
        self.map = PatchMap(tuple(grid), frame, "nearest", model.anomaly_map_generator.blur.kernel[0, 0])

    def _support(self, bank: torch.Tensor) -> torch.Tensor:
        """(M, k) int64: of each row of the bank the nearest rows, itself first."""
        parts = [torch.cdist(rows, bank).topk(self.n_neighbors, largest=False).indices for rows in bank.split(1024)]
        return torch.cat(parts)

    def embed(self, frames: torch.Tensor) -> torch.Tensor:
        """Features of patches less the bank's mean, (N, D, h, w)."""
        features = {layer: self.pooler(found) for layer, found in self.extractor(frames).items()}
        return self.embedding(features) - self.center

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        features = self.embed(frames)
        closest = None
        for first in range(0, len(self.bank), BANK_ROWS):
            rows = slice(first, first + BANK_ROWS)
            found = functional.conv2d(features, self.bank[rows, :, None, None], self.bias[rows]).amax(1)
            closest = found if closest is None else torch.maximum(closest, found)
        distances = (features.square().sum(1) - 2 * closest).clamp_min(0).sqrt()
        scores = distances.amax((1, 2))
        if self.n_neighbors > 1:
            scores = scores * self.weight(features.flatten(2), distances.flatten(1).argmax(1))
        return scores, self.map(distances)

    def weight(self, features: torch.Tensor, worst: torch.Tensor) -> torch.Tensor:
        """Equation 7 of Roth et al. 2022, (N,): how far the worst patch is, against its neighbour's neighbours.

        Args:
            features: (N, D, h * w).
            worst: (N,) index of the patch with the largest distance.
        """
        index = worst[:, None, None].expand(-1, features.shape[1], 1)
        patch = features.gather(2, index)[:, :, 0]
        neighbor = (patch @ self.bank.T + self.bias).argmax(1)
        support = self.bank[self.support[neighbor]]
        distances = (patch[:, None] - support).square().sum(2).sqrt()
        return 1 - distances.softmax(1)[:, 0]


class FixedGlass(nn.Module):
    """GLASS for one size of photos.

    Args:
        model: :class:`helpers.models.glass.GlassNetwork`, trained.
        frame: (H, W) that the network sees.
    """

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        self.extractor, self.layers = model.forward_modules["feature_aggregator"], model.layers
        with torch.no_grad():
            shapes = [found.shape for found in self.extractor(torch.zeros(1, 3, *frame)).values()]
        width, side = model.forward_modules["preprocessing"].output_dim, model.patch_maker.patchsize
        self.averages = nn.ModuleList(averaging(shape[1], side, width) for shape in shapes)
        self.join = averaging(width * len(shapes), 1, model.target_embed_dimension)
        self.projection = model.projection if model.pre_projection > 0 else nn.Identity()
        self.discriminator = model.discriminator
        self.discriminator.tail[-1] = Logistic()
        self.grid = tuple(shapes[0][-2:])
        self.map = PatchMap(self.grid, frame, "linear", model.anomaly_segmentor._kernel[0, 0])

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        extracted = self.extractor(frames)
        pooled = [average(extracted[layer]) for average, layer in zip(self.averages, self.layers, strict=True)]
        same = [pooled[0], *(functional.interpolate(each, size=self.grid, mode="bilinear") for each in pooled[1:])]
        joined = self.join(torch.cat(same, 1)).permute(0, 2, 3, 1).flatten(0, 2)
        scores = self.discriminator(self.projection(joined)).reshape(-1, *self.grid)
        return scores.amax((1, 2)), self.map(scores)


class FixedSegmenter(nn.Module):
    """U-Net or DeepLabV3+: :class:`helpers.models.segmentation.SegmenterModel` with :class:`Logistic`."""

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        del frame
        self.model, self.logistic = model, Logistic()
        side = model.smoothing
        self.smooth = nn.AvgPool2d(side, stride=1, padding=side // 2, count_include_pad=False)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        maps = self.logistic(self.model.logits(frames))
        return self.smooth(maps).amax((1, 2, 3)), maps[:, 0]


class FixedDetector(nn.Module):
    """Any other detector: its score and map."""

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        del frame
        self.model = model

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N,) and maps (N, H, W) of normalised photos (N, 3, H, W)."""
        found = self.model(frames)
        return found.pred_score.reshape(-1), found.anomaly_map[:, 0]


class FixedClassifier(nn.Module):
    """A classifier: score (see :func:`helpers.models.classifier.abnormal_scores`), probabilities and embedding.

    Args:
        model: :class:`helpers.models.classifier.Classifier`, trained.
        normal: index of the normal class, or None.
    """

    def __init__(self, model: nn.Module, normal: int | None) -> None:
        super().__init__()
        self.model, self.normal = model, normal

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N,), (N, C) and (N, D) of photos (N, 3, H, W) in [0, 1]."""
        embedding = self.model.embed(frames)
        probabilities = self.model.head(embedding).softmax(1)
        return abnormal_scores(probabilities, self.normal), probabilities, embedding


FIXED: dict[str, Callable[[nn.Module, tuple[int, int]], nn.Module]] = {
    "patchcore": FixedPatchCore,
    "glass": FixedGlass,
    **dict.fromkeys(SEGMENTERS, FixedSegmenter),
}


def fixed_network(run: Run) -> tuple[nn.Module, tuple[Sequence[float], Sequence[float]]]:
    """The run's network, ready to be traced, and (mean, std) that photos in [0, 1] are normalised with before it."""
    parameters = run.info["parameters"]
    backbone = parameters.get("backbone")
    architecture = backbone["architecture"] if backbone else ""
    size = network_size(parameters)
    if parameters.get("task") == CLASSIFICATION:
        from helpers.models.classifier import load_classifier

        normal = parameters.get("normal_class")
        index = list(parameters["classes"]).index(normal) if normal else None
        model = simplified(load_classifier(run.folder / CHECKPOINT, architecture), size)
        return FixedClassifier(model, index).eval(), ((0.0,) * 3, (1.0,) * 3)  # it normalises by itself
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import Normalize

    from helpers.models.catalog import load_model

    model = load_model(run.name, run.folder / CHECKPOINT, architecture)
    steps = extract_transforms_by_type(model.pre_processor.transform, Normalize)
    normalisation = (steps[0].mean, steps[0].std) if steps else ((0.0,) * 3, (1.0,) * 3)
    fixed = FIXED.get(run.name, FixedDetector)(simplified(model.model, size), size)
    return fixed.eval().requires_grad_(False), normalisation


def network_size(parameters: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of what the network sees."""
    height, width = parameters.get("center_crop") or parameters["image_size"]
    return height, width


# --------------------------------------------------------------------------------------------------------------- graph


def preprocessing(
    image_size: Sequence[int], crop: Sequence[int] | None, mean: Sequence[float], std: Sequence[float]
) -> onnx.ModelProto:
    """Graph from ``photos`` (N, H, W, 3) uint8 to ``frames`` (N, 3, h, w), as torchvision's transforms make them.

    ``exclude_outside`` makes ONNX Runtime weigh the pixels of the border as torchvision (and Pillow) does; without it,
    differences of up to 20 grey levels were measured there.

    Args:
        image_size: (height, width) to resize to, or (shorter side,).
        crop: (height, width) cut out of the middle, or None.
        mean: of photos in [0, 1], per channel.
        std: likewise.
    """
    from onnx import numpy_helper, parser

    size, frame = list(map(int, image_size)), list(map(int, crop or image_size))
    # torchvision: (s * h // min(h, w), s * w // min(h, w))
    target = (
        "hw = Identity(size)"
        if len(size) == 2
        else "hw0 = Shape<start=1, end=3>(photos)\n short = ReduceMin<keepdims=1>(hw0)\n"
        " long = Mul(size, hw0)\n hw = Div(long, short)"
    )
    # torchvision's centre crop begins at half of what is left over, rounded half to even
    cut = (
        "rest = Sub(hw, crop)\n half = Div(rest, two)\n odd = Mod(rest, two)\n half_odd = Mod(half, two)\n"
        " up = Mul(odd, half_odd)\n first = Add(half, up)\n last = Add(first, crop)\n"
        " cropped = Slice(resized, first, last, axes)"
        if crop
        else "cropped = Identity(resized)"
    )
    text = f"""
    <ir_version: 10, opset_import: ["" : {OPSET}]>
    preprocessing (uint8[N, H, W, 3] photos) => (float[N, 3, {frame[0]}, {frame[1]}] frames) {{
      {target}
      turned = Transpose<perm=[0, 3, 1, 2]>(photos)
      values = Cast<to=1>(turned)
      nc = Shape<start=0, end=2>(values)
      sizes = Concat<axis=0>(nc, hw)
      resized = Resize<mode="linear", antialias=1, exclude_outside=1, coordinate_transformation_mode="half_pixel">
        (values, , , sizes)
      {cut}
      scaled = Mul(cropped, factor)
      frames = Add(scaled, offset)
    }}"""
    model = parser.parse_model(text)
    mean64, std64 = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    constants = {
        "size": np.array(size, np.int64),
        "factor": (1 / (255 * std64)).astype(np.float32).reshape(1, 3, 1, 1),
        "offset": (-mean64 / std64).astype(np.float32).reshape(1, 3, 1, 1),
    }
    if crop:
        constants |= {"crop": np.array(frame, np.int64), "two": np.array([2], np.int64), "axes": np.array([2, 3])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def network_graph(network: nn.Module, frame: tuple[int, int], outputs: Sequence[str]) -> onnx.ModelProto:
    """Trace a network from ``frames`` (N, 3, H, W) on, any N."""
    # two photos: torch takes a batch of one for a constant
    example = torch.rand(2, 3, *frame, generator=torch.Generator().manual_seed(0))
    batch = {0: torch.export.Dim("N", min=1)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["frames"],
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    return exported.model_proto


def onnx_model(run: Run) -> onnx.ModelProto:
    """The run as one graph from photos on, checked, with its metadata."""
    import onnx
    from onnx import compose, helper

    parameters = run.info["parameters"]
    network, (mean, std) = fixed_network(run)
    outputs = OUTPUTS[parameters.get("task") == CLASSIFICATION]
    core = network_graph(network, network_size(parameters), outputs)
    before = preprocessing(parameters["image_size"], parameters.get("center_crop"), mean, std)
    before = compose.add_prefix(before, "pre/", rename_inputs=False, rename_outputs=False)
    before.ir_version = core.ir_version
    if len(core.opset_import) != 1 or core.opset_import[0].version != OPSET:
        raise RuntimeError(f"torch wrote operators of {core.opset_import}, not of opset {OPSET} alone.")
    model = compose.merge_models(before, core, io_map=[("frames", "frames")])
    helper.set_model_props(model, {})
    model.producer_name = "helpers.inference.export"
    onnx.checker.check_model(model, full_check=True)
    return model


def openvino_model(model: onnx.ModelProto) -> openvino.Model:
    """The same graph for OpenVINO.

    OpenVINO reads ONNX's antialiased resizing as one without (2026.4: up to 150 grey levels apart on noise). Its own
    ``bilinear_pillow`` is the one that torchvision and Pillow do; it takes its place.
    """
    import openvino
    from openvino import opset11
    from openvino.utils import replace_node

    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(model.SerializeToString())
        converted = openvino.convert_model(file)
    resizes = [
        node
        for node in converted.get_ops()
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]
    ]
    if len(resizes) != 1:
        raise RuntimeError(f"Expected one antialiased resize in the graph, OpenVINO read {len(resizes)}.")
    (resize,) = resizes
    axes = np.array([2, 3], np.int64)
    sizes = opset11.gather(resize.input_value(1), axes, np.int64(0))
    mended = opset11.interpolate(resize.input_value(0), sizes, "bilinear_pillow", "sizes", axes=axes)
    replace_node(resize, mended)
    mended.set_friendly_name("pre/resize")
    converted.validate_nodes_and_infer_types()
    return converted


def quantised(model: openvino.Model, photos: Sequence[str | Path], *, distances: bool = False) -> openvino.Model:
    """The graph with products in 8 bits, ranges taken from photos (NNCF's post-training quantisation).

    Args:
        model: from :func:`openvino_model`.
        photos: good training photos.
        distances: whether features are compared with a memory bank (PatchCore). That part stays in float32: a distance
            is a small difference of large products.
    """
    import nncf

    # not nncf.set_log_level: it also mutes every handler on that logger, those of others among them (pytest's)
    logging.getLogger("nncf").setLevel(logging.CRITICAL)
    return nncf.quantize(
        model,
        nncf.Dataset(list(photos), lambda path: read_image(path)[None]),
        subset_size=len(photos),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model, distances=distances), validate=False),
    )


def _kept_in_float(model: openvino.Model, *, distances: bool) -> list[str]:
    """Names of the nodes that 8 bits would harm.

    The pre-processing; depthwise convolutions, whose weights differ too much from channel to channel (a U-Net on
    MobileNetV2 called every photo a defect with them in 8 bits, and they are a small share of the work); and what makes
    scores and maps of the last layer's output: its range on good photos says nothing about defects, which would all be
    cut off at the score of a good photo. Of PatchCore what pools, enlarges and joins the extractor's maps too.
    """
    nodes = model.get_ordered_ops()
    before = [
        node
        for node in nodes
        if node.get_type_name() == "GroupConvolution" or node.get_friendly_name().startswith("pre/")
    ]
    if distances:
        # what the memory bank, the last convolution, takes: the centred features
        start = [node for node in nodes if node.get_type_name() == "Convolution"][-1].input_value(0).get_node()
        todo = [start]
        while todo:
            sources = [value.get_node() for value in todo.pop().input_values()]
            joins = [node for node in sources if node.get_type_name() in ("Concat", "Interpolate", "AvgPool")]
            before += joins
            todo += joins
    else:
        start = [node for node in nodes if node.get_type_name() in ("Sigmoid", "Softmax", "Exp")][-1]
    names, todo = {node.get_friendly_name() for node in before}, [start]
    while todo:
        node = todo.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            todo += [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
    return sorted(names)


# ----------------------------------------------------------------------------------------------------------------- run


def about(run: Run) -> dict[str, str]:
    """What a file says of the run it was made from; whatever is not text is JSON."""
    parameters = run.info["parameters"]
    content = identity(run) | {
        "model": run.name,
        "note": run.note or "",
        "task": parameters.get("task", "detection"),
        "thresholds": {name: threshold.to_dict() for name, threshold in run.thresholds.items()},
        "classes": parameters.get("classes"),
        "normal_class": parameters.get("normal_class"),
        "image_size": parameters["image_size"],
        "center_crop": parameters.get("center_crop"),
        "object_mask": parameters.get("object_mask"),
        "input": f"{INPUT}: (N, H, W, 3) uint8 RGB, any N, H, W; resized and normalised in the graph",
        "output": ", ".join(OUTPUTS[parameters.get("task") == CLASSIFICATION]),
        "versions": installed_versions(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def calibration_photos(run: Run, n: int = N_CALIBRATION) -> list[str]:
    """Good training photos of a run, at most n, evenly from its table.

    Raises:
        ValueError: if there is none.
    """
    table = run.table
    paths = table["image_path"][(table["split"] == "train") & (table["label_index"] == 0)].tolist()
    if not paths:
        raise ValueError(f"{run.name}: 8-bit ranges are taken from good training photos, and its table has none.")
    picks = np.linspace(0, len(paths) - 1, min(n, len(paths))).round().astype(int)
    return [paths[pick] for pick in picks]


def export_run(run: Run | str | Path, formats: Sequence[str] = (ONNX, OPENVINO)) -> dict[str, Path]:
    """Write a run's files into its folder ``export``; those that are there and still fit stay.

    Args:
        run: finished, or its folder (relative: to the project).
        formats: ``onnx``, ``openvino``, ``openvino-int8``.

    Returns:
        Each format's file.

    Raises:
        ValueError: for an unknown format, or a checkpoint that is not the run's.
        MissingRunError: if there is no finished run.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"formats={unknown[0]!r}: expected one of {', '.join(FORMATS)}.")
    run = run if isinstance(run, Run) else open_finished(project_path(run))
    check_run(run)
    files = {name: run.folder / FILES[name] for name in formats}
    missing = [name for name in formats if not is_current(files[name], identity(run))]
    if missing:
        quiet_libraries()
        graph = onnx_model(run)
        converted = openvino_model(graph) if missing != [ONNX] else None
        for name in missing:
            _WRITERS[name](files[name], run, graph, converted)
    return files


def _write_onnx(file: Path, run: Run, graph: onnx.ModelProto, converted: openvino.Model) -> None:
    import onnx

    del converted
    onnx.helper.set_model_props(graph, about(run) | {"precision": "f32"})
    write_whole(file, lambda place: onnx.save(graph, place))
    write_hashes(file)


def _write_openvino(file: Path, run: Run, graph: onnx.ModelProto, converted: openvino.Model) -> None:
    del graph
    _save(file, converted, about(run) | {"precision": "f32"})


def _write_int8(file: Path, run: Run, graph: onnx.ModelProto, converted: openvino.Model) -> None:
    """Quantise, and set the thresholds anew on the scores that come out."""
    del graph
    photos = calibration_photos(run)
    model = quantised(converted, photos, distances=run.name == "patchcore")
    entries = about(run) | {"precision": "int8", "calibration": f"ranges from {len(photos)} good photos of train"}
    calibration = calibrated_again(run, ExportedBackend(openvino_infer(model)))
    if calibration is not None:
        thresholds = {name: threshold.to_dict() for name, threshold in calibration.thresholds.items()}
        entries |= {"thresholds": json.dumps(thresholds)}
        entries |= {NORMAL_SCORES: json.dumps(calibration.normal_scores.tolist())}
    _save(file, model, entries)


_WRITERS = {ONNX: _write_onnx, OPENVINO: _write_openvino, INT8: _write_int8}


def _save(file: Path, model: openvino.Model, entries: dict[str, str]) -> None:
    """Write an OpenVINO model with what it says of itself."""
    import openvino

    describe(model, entries)
    # halves the weights unless told not to
    write_whole_folder(
        file.parent,
        lambda folder: (
            openvino.save_model(model, folder / file.name, compress_to_fp16=False),
            write_hashes(folder / file.name),
        ),
    )


def calibrated_again(run: Run, backend: Backend) -> Calibration | None:
    """The run's thresholds set anew, in the same way and on the same photos, on the scores of a backend.

    Args:
        run: finished.
        backend: whose scores are not the run's.

    Returns:
        None where the run's own thresholds were not set on good photos.

    Raises:
        ValueError: if a photo of val cannot be read.
    """
    accept = run.thresholds["image"].accept
    val = run.predictions("val")
    if accept is None or not (val["label_index"] == 0).any():
        return None
    judge = Predictor(run, backend, device="cpu")
    found = list(judge.predict_stream(val["image_path"].tolist()))
    errors = [one.error for one in found if one.error]
    if errors:
        raise ValueError(f"{run.name}: thresholds are set anew on the photos of val, and one fails: {errors[0]}")
    scores = np.array([one.score for one in found], dtype=np.float32)
    maxima = scores if judge.classes else np.array([one.network_map.max() for one in found], dtype=np.float32)
    again = held_out_thresholds(val.assign(score=scores, map_max=maxima), accept)
    said = {name: replace(each, origin=f"{each.origin}, computed in 8 bits") for name, each in again.items()}
    thresholds = {name: said.get(name, old) for name, old in run.thresholds.items()}
    return Calibration(thresholds, scores[val["label_index"] == 0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.inference.export", description="Write a finished run as ONNX and OpenVINO files."
    )
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--formats", default=f"{ONNX},{OPENVINO}", help=f"some of {','.join(FORMATS)}")
    options = parser.parse_args(arguments)
    quiet_libraries()
    folder = Path(options.run).expanduser()
    try:
        files = export_run(folder.absolute() if folder.is_dir() else options.run, options.formats.split(","))
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2
    for name, file in files.items():
        size = sum(part.stat().st_size for part in (file, file.with_suffix(".bin")) if part.is_file())
        print(f"{name}: {file} ({size / 2**20:.1f} MiB, {read_about(file)['precision']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
