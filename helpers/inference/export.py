"""A finished run as one file that other programs run: ONNX, OpenVINO, and OpenVINO in 8 bits.

    python -m helpers.inference.export artifacts/mesh/quick/patchcore [--formats onnx,openvino,openvino-int8]

What is in a file:

- input ``photos``: (N, H, W, 3) uint8 RGB, any N, H and W. Resizing (bilinear, antialiased, as in training), crop and
  normalisation are in the graph.
- outputs of a detector: ``score`` (N,) and ``map`` (N, h, w) at the network's size; of a classifier: ``score`` (N,),
  ``probabilities`` (N, C) and ``embedding`` (N, D). All float32.
- who it is: thresholds with their origin, class names, frame, fingerprint of the run and SHA-256 of its checkpoint
  (`about`), in ONNX's ``metadata_props`` and OpenVINO's ``rt_info``.

Where a run confines its maps to an object mask, that is done by the `Predictor`, not in the graph: a file's
``object_mask`` then says so, and its thresholds are those of the confined maps.
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

import numpy as np
import torch

from helpers.data.images import read_image
from helpers.inference.backends import CLASSIFICATION
from helpers.inference.export_networks import fixed_network
from helpers.inference.exported import (
    FILES,
    FORMATS,
    INPUT,
    INT8,
    NORMAL_SCORES,
    ONNX,
    OPENVINO,
    RT_INFO,
    ExportedBackend,
    file_parts,
    identity,
    is_whole,
    openvino_infer,
    outdated,
    read_about,
    write_hashes,
)
from helpers.inference.predictor import Predictor, check_run, open_finished
from helpers.paths import project_path, write_whole, write_whole_folder
from helpers.progress import quiet_libraries, sentence
from helpers.runs import Run
from helpers.session import installed_versions
from helpers.thresholds import held_out_thresholds

if TYPE_CHECKING:
    import onnx
    import openvino

OPSET = 20
OUTPUTS = {False: ("score", "map"), True: ("score", "probabilities", "embedding")}  # by: is it a classifier?
N_CALIBRATION = 64  # good training photos that the ranges of 8-bit values are taken from


def classifies(run: Run) -> bool:
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
        made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **options)
    onnx.checker.check_model(made.model_proto, full_check=True)
    return made.model_proto


def onnx_model(run: Run) -> onnx.ModelProto:
    """The run as one graph from photos on."""
    # two photos: torch takes a batch of one for a constant
    example = torch.zeros(2, 50, 70, 3, dtype=torch.uint8)
    return trace(fixed_network(run), example, ("N", "H", "W"), OUTPUTS[classifies(run)])


def openvino_model(model: onnx.ModelProto) -> openvino.Model:
    """The same graph for OpenVINO.

    OpenVINO reads ONNX's antialiased resizing as one without (2026.4: up to 150 grey levels apart on noise). Its own
    ``bilinear_pillow`` is the one that torchvision and Pillow do; it takes its place.
    """
    import openvino
    from openvino import opset11
    from openvino.utils import replace_node

    converted = openvino.convert_model(io.BytesIO(model.SerializeToString()))
    (resize,) = [
        node
        for node in converted.get_ops()
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]
    ]
    axes = np.array([2, 3], np.int64)
    sizes = opset11.gather(resize.input_value(1), axes, np.int64(0))
    replace_node(resize, opset11.interpolate(resize.input_value(0), sizes, "bilinear_pillow", "sizes", axes=axes))
    converted.validate_nodes_and_infer_types()
    return converted


# --------------------------------------------------------------------------------------------------------------- 8 bits


def quantised(model: openvino.Model, photos: Sequence[str | Path], *, distances: bool = False) -> openvino.Model:
    """The graph with products in 8 bits, ranges taken from photos (NNCF's post-training quantisation).

    Where features are compared with a memory bank (``distances``: PatchCore) that part stays in float32: a distance is
    a small difference of large products.
    """
    import nncf

    # not nncf.set_log_level: it also mutes every handler on that logger, those of others among them (pytest's)
    logging.getLogger("nncf").setLevel(logging.CRITICAL)
    return nncf.quantize(
        model,
        nncf.Dataset(list(photos), lambda path: read_image(path)[None]),
        subset_size=len(photos),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=_kept_in_float(model, distances), validate=False),
    )


def _kept_in_float(model: openvino.Model, distances: bool) -> list[str]:
    """Names of the nodes that 8 bits would harm.

    The pre-processing; depthwise convolutions, whose weights differ too much from channel to channel (a U-Net on
    MobileNetV2 called every photo a defect with them in 8 bits, and they are a small share of the work); and what makes
    scores and maps of the last layer's output: its range on good photos says nothing about defects, which would all be
    cut off at the score of a good photo. Of PatchCore what pools, enlarges and joins the extractor's maps too.
    """
    kept: dict[str, openvino.Node] = {}

    def reach(start: openvino.Node, forward: bool, kinds: Sequence[str] = ()) -> None:
        todo = [start]
        while todo:
            node = todo.pop()
            kept[node.get_friendly_name()] = node
            after = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
            steps = after if forward else [value.get_node() for value in node.input_values()]
            todo += [step for step in steps if not kinds or step.get_type_name() in kinds]

    nodes = model.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    for node in nodes:
        if node.get_type_name() == "GroupConvolution":
            kept[node.get_friendly_name()] = node
    reach(convolutions[0].input_value(0).get_node(), forward=False)
    if distances:  # the memory bank is the last convolution before the map's blur, which is of one channel
        wide = [node for node in convolutions if node.get_output_partial_shape(0)[1] != 1]
        last = wide[-1].input_value(0).get_node()
        reach(last, forward=False, kinds=("Concat", "Interpolate", "AvgPool"))
    else:
        last = [node for node in nodes if node.get_type_name() in ("Sigmoid", "Softmax", "Exp")][-1]
    reach(last, forward=True)
    return sorted(kept)


def calibration_photos(run: Run, n: int = N_CALIBRATION) -> list[str]:
    """Good training photos of a run, at most n, evenly from its table.

    Raises:
        ValueError: there is none.
    """
    table = run.table
    paths = table["image_path"][(table["split"] == "train") & (table["label_index"] == 0)].tolist()
    if not paths:
        raise ValueError(f"{run.name}: 8-bit ranges are taken from good training photos, and its table has none.")
    return [paths[pick] for pick in np.linspace(0, len(paths) - 1, min(n, len(paths))).round().astype(int)]


def calibrated_again(run: Run, backend: ExportedBackend) -> dict[str, str]:
    """A file's entries with the run's thresholds set anew, in the same way and on the same photos, on other scores.

    Empty where the run's own thresholds were not set on good photos of val.

    Raises:
        ValueError: a photo of val cannot be read.
    """
    accept, val = run.thresholds["image"].accept, run.predictions("val")
    good = val["label_index"] == 0
    if accept is None or not good.any():
        return {}
    judge = Predictor(run, backend, device="cpu")
    predictions = list(judge.predict_stream(val["image_path"].tolist()))
    errors = [one.error for one in predictions if one.error]
    if errors:
        raise ValueError(f"{run.name}: thresholds are set anew on the photos of val, and one fails: {errors[0]}")
    scores = np.array([one.score for one in predictions], dtype=np.float32)
    maxima = scores if judge.classes else np.array([one.network_map.max() for one in predictions], dtype=np.float32)
    again = held_out_thresholds(val.assign(score=scores, map_max=maxima), accept)
    again = {name: replace(each, origin=f"{each.origin}, computed in 8 bits") for name, each in again.items()}
    thresholds = {name: again.get(name, old).to_dict() for name, old in run.thresholds.items()}
    return {"thresholds": json.dumps(thresholds), NORMAL_SCORES: json.dumps(scores[good].tolist())}


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
        "output": ", ".join(OUTPUTS[classifies(run)]),
        "versions": installed_versions(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def export_run(run: Run | str | Path, formats: Sequence[str] = (ONNX, OPENVINO)) -> dict[str, Path]:
    """Write a run's files of some `FORMATS` into its folder ``export``; those that are there and still fit stay.

    Raises:
        ValueError: an unknown format, or a checkpoint that is not the run's.
        MissingRunError: there is no finished run.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"formats={unknown[0]!r}: expected one of {', '.join(FORMATS)}.")
    run = run if isinstance(run, Run) else open_finished(project_path(run))
    check_run(run)
    files = {name: run.folder / FILES[name] for name in formats}
    missing = [name for name, file in files.items() if not (file.is_file() and is_whole(file)) or outdated(file, run)]
    if not missing:
        return files
    quiet_libraries()
    graph = onnx_model(run)
    if ONNX in missing:
        _write_onnx(files[ONNX], graph, about(run) | {"precision": "f32"})
    if OPENVINO in missing:
        _write_openvino(files[OPENVINO], openvino_model(graph), about(run) | {"precision": "f32"})
    if INT8 in missing:
        photos = calibration_photos(run)
        model = quantised(openvino_model(graph), photos, distances=run.name == "patchcore")
        entries = about(run) | {"precision": "int8", "calibration": f"ranges from {len(photos)} good photos of train"}
        _write_openvino(files[INT8], model, entries | calibrated_again(run, ExportedBackend(openvino_infer(model))))
    return files


def _write_onnx(file: Path, graph: onnx.ModelProto, entries: dict[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(graph, entries)
    write_whole(file, lambda place: onnx.save(graph, place))
    write_hashes(file)


def _write_openvino(file: Path, model: openvino.Model, entries: dict[str, str]) -> None:
    import openvino

    for name, value in entries.items():
        model.set_rt_info(value, [RT_INFO, name])

    def write(folder: Path) -> None:
        openvino.save_model(model, folder / file.name, compress_to_fp16=False)  # it halves the weights unless told
        write_hashes(folder / file.name)

    write_whole_folder(file.parent, write)


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
        size = sum(part.stat().st_size for part in file_parts(file))
        print(f"{name}: {file} ({size / 2**20:.1f} MiB, {read_about(file)['precision']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
