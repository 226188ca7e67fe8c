"""A finished run as one file that other programs run: ONNX, OpenVINO, and OpenVINO in 8 bits.

    python -m helpers.inference.export artifacts/mesh/quick/patchcore [--formats onnx,openvino,openvino-int8]

- input ``photos``: (N, H, W, 3) uint8 RGB, any N, H and W; resizing, crop and normalisation are in the graph.
- outputs of a detector: ``score`` (N,) and ``map`` (N, h, w) at the network's size; of a classifier: ``score`` (N,),
  ``probabilities`` (N, C) and ``embedding`` (N, D). All float32.
- who it is (`about`), in ONNX's ``metadata_props`` and OpenVINO's ``rt_info``.

Where a run confines its maps to an object mask, the `Predictor` does it, not the graph: a file's ``object_mask`` then
says so, and its thresholds are those of the confined maps.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import networkx
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from helpers.data.images import read_image
from helpers.inference import exported
from helpers.inference.backends import CHECKPOINT, CLASSIFICATION
from helpers.inference.exported import FILES, FORMATS, INPUT, INT8, ONNX, OPENVINO, ExportedBackend
from helpers.inference.predictor import Predictor, check_run, open_finished
from helpers.models.catalog import load_model
from helpers.models.classifier import abnormal_scores, load_classifier
from helpers.paths import project_path, write_whole, write_whole_folder
from helpers.progress import quiet_libraries, sentence
from helpers.runs import Run
from helpers.session import installed_versions
from helpers.thresholds import held_out_thresholds

if TYPE_CHECKING:
    import onnx
    import openvino

OUTPUTS = {False: ("score", "map"), True: ("score", "probabilities", "embedding")}  # by: is it a classifier?
N_CALIBRATION = 64  # good training photos that the ranges of 8-bit values are taken from
BANK_ROWS = 8192  # of PatchCore's memory bank at once: bounds the memory, 32 MB a photo with 1,024 patches


class FromPhotos(nn.Module):
    """A network with what torchvision does to photos (N, H, W, 3) uint8 before it: resize, centre crop, normalise.

    ``image_size`` is (height, width), or (shorter side,); mean and std are those of photos in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        image_size: Sequence[int],
        crop: Sequence[int] | None = None,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.network, self.image_size, self.crop = network, list(image_size), crop
        mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
        self.register_buffer("factor", (1 / (255 * std)).float())
        self.register_buffer("offset", (-mean / std).float())

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frames = photos.permute(0, 3, 1, 2).float()
        size = self.image_size
        if len(size) == 1:
            shorter = torch.sym_min(*frames.shape[-2:])
            size = [size[0] * side // shorter for side in frames.shape[-2:]]
        frames = functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
        for axis, (side, kept) in enumerate(zip(size, self.crop or (), strict=False), start=2):
            half, odd = (side - kept) // 2, (side - kept) % 2
            frames = frames.narrow(axis, half + odd * (half % 2), kept)  # a half is rounded to even
        return self.network(frames * self.factor + self.offset)


class FixedPatchCore(nn.Module):
    """PatchCore for normalised photos (N, 3, H, W); what depends on the memory bank alone is computed before.

    With x a patch's feature and m a row of the bank, both less the mean of the bank, |x - m|^2 is |x|^2 - 2 c with
    c = x m - |m|^2 / 2, which is a 1 x 1 convolution; the nearest row has the largest c. Centring makes |x| and |m|
    small against the distance, so that little is lost to rounding.
    """

    def __init__(self, model: nn.Module, frame: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.frame = model, frame
        bank = model.memory_bank.double()
        center = bank.mean(0)
        bank = bank - center
        self.register_buffer("center", center.float().view(1, -1, 1, 1))
        self.register_buffer("bank", bank.float())
        self.register_buffer("bias", (-bank.square().sum(1) / 2).float())
        # of each row of the bank the nearest rows, itself first, (M, k)
        k = min(model.num_neighbors, len(bank))
        near = [torch.cdist(rows, self.bank).topk(k, largest=False).indices for rows in self.bank.split(1024)]
        self.register_buffer("support", torch.cat(near))

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layers = {name: self.model.feature_pooler(one) for name, one in self.model.feature_extractor(frames).items()}
        features = self.model.generate_embedding(layers) - self.center
        parts = zip(self.bank.split(BANK_ROWS), self.bias.split(BANK_ROWS), strict=True)
        closest = [functional.conv2d(features, rows[:, :, None, None], bias).amax(1) for rows, bias in parts]
        distances = (features.square().sum(1) - 2 * torch.stack(closest).amax(0)).clamp_min(0).sqrt()
        scores = distances.amax((1, 2))
        if self.support.shape[1] > 1:
            # equation 7 of Roth et al. 2022: how far the worst patch is, against its neighbour's neighbours
            features, worst = features.flatten(2), distances.flatten(1).argmax(1)
            patch = features.gather(2, worst[:, None, None].expand(-1, features.shape[1], 1))[:, :, 0]
            support = self.bank[self.support[(patch @ self.bank.T + self.bias).argmax(1)]]
            scores = scores * (1 - (patch[:, None] - support).square().sum(2).sqrt().softmax(1)[:, 0])
        return scores, self.model.anomaly_map_generator(distances[:, None], self.frame)[:, 0]


class FixedDetector(nn.Module):
    """Any other detector, for normalised photos (N, 3, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(frames)
        return output.pred_score.reshape(-1), output.anomaly_map[:, 0]


class FixedClassifier(FixedDetector):
    """A classifier, which normalises by itself; ``normal`` is the index of its normal class, or None."""

    def __init__(self, model: nn.Module, normal: int | None) -> None:
        super().__init__(model)
        self.normal = normal

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedding = self.model.embed(frames)
        probabilities = self.model.head(embedding).softmax(1)
        return abnormal_scores(probabilities, self.normal), probabilities, embedding


def fixed_network(run: Run) -> nn.Module:
    """The run's network from photos on, ready to be traced."""
    from anomalib.data.transforms.utils import extract_transforms_by_type
    from torchvision.transforms.v2 import Normalize

    parameters, checkpoint = run.info["parameters"], run.folder / CHECKPOINT
    size, crop, steps = parameters["image_size"], None, []
    architecture = (parameters.get("backbone") or {}).get("architecture", "")
    if _classifies(run):
        classes, normal = list(parameters["classes"]), parameters.get("normal_class")
        index = classes.index(normal) if normal else None
        fixed = FixedClassifier(load_classifier(checkpoint, architecture), index)
    else:
        model, crop = load_model(run.name, checkpoint, architecture), parameters.get("center_crop")
        steps = extract_transforms_by_type(model.pre_processor.transform, Normalize)
        patchcore = run.name == "patchcore"
        fixed = FixedPatchCore(model.model, tuple(crop or size)) if patchcore else FixedDetector(model.model)
    statistics = (steps[0].mean, steps[0].std) if steps else ()
    return FromPhotos(fixed, size, crop, *statistics).eval().requires_grad_(False)


def _classifies(run: Run) -> bool:
    return run.info["parameters"].get("task") == CLASSIFICATION


def trace(
    network: torch.nn.Module, example: torch.Tensor, axes: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """A network as an ONNX graph, checked; the first axes of its input, as many as have a name, are of any size.

    Sigmoids are written out. ONNX Runtime's own is right to 1e-7 (measured in 1.32), which is more than the whole
    probability of a defect in a good pixel: at -18 it is almost four times too high.
    """
    import onnx
    from onnxscript import opset20 as op

    sigmoid = {torch.ops.aten.sigmoid.default: lambda x: op.Reciprocal(op.Add(op.Exp(op.Neg(x)), 1.0))}
    shapes = {place: torch.export.Dim(name, min=1) for place, name in enumerate(axes)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(network, (example,), dynamic_shapes=(shapes,), strict=False)
        options = {"input_names": [INPUT], "output_names": list(outputs), "custom_translation_table": sigmoid}
        made = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False, **options)
    onnx.checker.check_model(made.model_proto, full_check=True)
    return made.model_proto


def openvino_model(model: onnx.ModelProto) -> openvino.Model:
    """The same graph for OpenVINO.

    OpenVINO reads ONNX's antialiased resizing as one without (2026.4: up to 150 grey levels apart on noise). Its own
    ``bilinear_pillow`` is the one that torchvision and Pillow do; it takes its place.
    """
    import openvino
    from openvino import opset11
    from openvino.utils import replace_node

    converted = openvino.convert_model(io.BytesIO(model.SerializeToString()))
    resizes = [node for node in converted.get_ops() if node.get_type_name() == "Interpolate"]
    (resize,) = [node for node in resizes if node.get_attributes()["antialias"]]
    axes = np.array([2, 3], np.int64)
    sizes = opset11.gather(resize.input_value(1), axes, np.int64(0))
    replace_node(resize, opset11.interpolate(resize.input_value(0), sizes, "bilinear_pillow", "sizes", axes=axes))
    converted.validate_nodes_and_infer_types()
    return converted


def quantised(model: openvino.Model, run: Run) -> tuple[openvino.Model, dict[str, str]]:
    """The graph with products in 8 bits (NNCF's post-training quantisation), and the entries that its file has of its
    own: ranges are taken from good training photos, and thresholds set anew. ValueError: there is no such photo."""
    import nncf

    table = run.table
    paths = table["image_path"][(table["split"] == "train") & (table["label_index"] == 0)].tolist()
    if not paths:
        raise ValueError(f"{run.name}: 8-bit ranges are taken from good training photos, and its table has none.")
    chosen = np.linspace(0, len(paths) - 1, min(N_CALIBRATION, len(paths))).round().astype(int)
    # not nncf.set_log_level: it also mutes every handler on that logger, those of others among them (pytest's)
    logging.getLogger("nncf").setLevel(logging.CRITICAL)
    model = nncf.quantize(
        model,
        nncf.Dataset([paths[one] for one in chosen], lambda path: read_image(path)[None]),
        subset_size=len(chosen),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model, run.name == "patchcore"), validate=False),
    )
    entries = {"precision": "int8", "calibration": f"ranges from {len(chosen)} good photos of train"}
    return model, entries | calibrated_again(run, ExportedBackend(exported.openvino_infer(model)))


def _kept_in_float(model: openvino.Model, distances: bool) -> list[str]:
    """Names of the nodes that 8 bits would harm.

    The pre-processing; depthwise convolutions, whose weights differ too much from channel to channel (a U-Net on
    MobileNetV2 called every photo a defect with them in 8 bits, and they are a small share of the work); and what makes
    scores and maps of the last layer's output: its range on good photos says nothing about defects, which would all be
    cut off at the score of a good photo. Where features are compared with a memory bank (``distances``: PatchCore) that
    part too, as a distance is a small difference of large products, and what pools, enlarges and joins the features.
    """
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    kinds = {name: node.get_type_name() for name, node in nodes.items()}
    inputs = {name: [one.get_node().get_friendly_name() for one in nodes[name].input_values()] for name in nodes}
    graph = networkx.DiGraph((one, name) for name in nodes for one in inputs[name])
    convolutions = [name for name in nodes if kinds[name] == "Convolution"]
    photo, joined = inputs[convolutions[0]][0], set()
    if distances:  # the memory bank is the last convolution before the map's blur, which is of one channel
        wide = [name for name in convolutions if nodes[name].get_output_partial_shape(0)[1] != 1]
        last = inputs[wide[-1]][0]
        kept = [name for name in nodes if name == last or kinds[name] in ("Concat", "Interpolate", "AvgPool")]
        joined = networkx.ancestors(graph.subgraph(kept), last)
    else:
        last = [name for name in nodes if kinds[name] in ("Sigmoid", "Softmax", "Exp")][-1]
    depthwise = {name for name in nodes if kinds[name] == "GroupConvolution"}
    around = networkx.ancestors(graph, photo) | networkx.descendants(graph, last)
    return sorted({photo, last} | around | joined | depthwise)


def calibrated_again(run: Run, backend: ExportedBackend) -> dict[str, str]:
    """A file's entries with the run's thresholds set anew, in the same way and on the same photos, on other scores;
    none where they were not set on good photos of val. ValueError: one of val cannot be read."""
    accept, val = run.thresholds["image"].accept, run.predictions("val")
    good = val["label_index"] == 0
    if accept is None or not good.any():
        return {}
    judge = Predictor(run, backend, device="cpu")
    predictions = list(judge.predict_stream(val["image_path"].tolist()))
    if errors := [one.error for one in predictions if one.error]:
        raise ValueError(f"{run.name}: thresholds are set anew on the photos of val, and one fails: {errors[0]}")
    scores = np.array([one.score for one in predictions], dtype=np.float32)
    maxima = scores if judge.classes else np.array([one.network_map.max() for one in predictions], dtype=np.float32)
    again = held_out_thresholds(val.assign(score=scores, map_max=maxima), accept)
    again = {name: replace(each, origin=f"{each.origin}, computed in 8 bits") for name, each in again.items()}
    thresholds = {name: again.get(name, old).to_dict() for name, old in run.thresholds.items()}
    return {"thresholds": json.dumps(thresholds), exported.NORMAL_SCORES: json.dumps(scores[good].tolist())}


def about(run: Run) -> dict[str, str]:
    """What a file says of the run it was made from; whatever is not text is JSON."""
    parameters = run.info["parameters"]
    names = ("classes", "normal_class", "image_size", "center_crop", "object_mask")
    content = exported.identity(run) | {
        "model": run.name,
        "note": run.note or "",
        "task": parameters.get("task", "detection"),
        "thresholds": {name: threshold.to_dict() for name, threshold in run.thresholds.items()},
        **{name: parameters.get(name) for name in names},
        "input": f"{INPUT}: (N, H, W, 3) uint8 RGB, any N, H, W; resized and normalised in the graph",
        "output": ", ".join(OUTPUTS[_classifies(run)]),
        "versions": installed_versions(),
        "precision": "f32",
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def export_run(run: Run | str | Path, formats: Sequence[str] = (ONNX, OPENVINO)) -> dict[str, Path]:
    """Write a run's files of some `FORMATS` into its folder ``export``; those that are there and still fit stay.

    ValueError: an unknown format, or a checkpoint that is not the run's; MissingRunError: there is no finished run.
    """
    if not {*formats} <= {*FORMATS}:
        raise ValueError(f"formats={','.join(formats)!r}: expected some of {', '.join(FORMATS)}.")
    run = run if isinstance(run, Run) else open_finished(project_path(run))
    check_run(run)
    files = {name: run.folder / FILES[name] for name in formats}
    missing = [name for name, file in files.items() if exported.misfit(file, run)]
    if not missing:
        return files
    quiet_libraries()
    # two photos: torch takes a batch of one for a constant
    example = torch.zeros(2, 50, 70, 3, dtype=torch.uint8)
    graph, entries = trace(fixed_network(run), example, ("N", "H", "W"), OUTPUTS[_classifies(run)]), about(run)
    if ONNX in missing:
        _write_onnx(files[ONNX], graph, entries)
    if OPENVINO in missing:
        _write_openvino(files[OPENVINO], openvino_model(graph), entries)
    if INT8 in missing:
        model, own = quantised(openvino_model(graph), run)
        _write_openvino(files[INT8], model, entries | own)
    return files


def _write_onnx(file: Path, graph: onnx.ModelProto, entries: dict[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(graph, entries)
    write_whole(file, lambda place: onnx.save(graph, place))
    write_whole(file.with_suffix(".sha256"), lambda place: place.write_text(exported.hashes(file), encoding="utf-8"))


def _write_openvino(file: Path, model: openvino.Model, entries: dict[str, str]) -> None:
    import openvino

    for name, value in entries.items():
        model.set_rt_info(value, [exported.RT_INFO, name])

    def write(folder: Path) -> None:
        place = folder / file.name
        openvino.save_model(model, place, compress_to_fp16=False)  # it halves the weights unless told
        place.with_suffix(".sha256").write_text(exported.hashes(place), encoding="utf-8")

    write_whole_folder(file.parent, write)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.inference.export", description=__doc__.split("\n")[0])
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
        size = sum(part.stat().st_size for part in exported.file_parts(file))
        print(f"{name}: {file} ({size / 2**20:.1f} MiB, {exported.read_about(file)['precision']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
