"""Exported runs: the graph says what torch says, for any batch and size; whose file it is; thresholds; 8 bits."""

import functools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer
from torch import nn
from torchvision.transforms.functional import to_tensor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize
from torchvision.transforms.v2.functional import resize

from helpers.data.images import read_image
from helpers.data.samples import relative_path, write_table
from helpers.inference import Predictor, export, exported
from helpers.inference.__main__ import main as inference_main
from helpers.inference.backends import TorchBackend
from helpers.inference.export import FixedPatchCore, FromPhotos, about, export_run, openvino_model, trace
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.models.classifier import build_classifier
from helpers.paths import file_sha256
from helpers.runs import MissingRunError, Run, open_run
from helpers.thresholds import held_out_thresholds

SMALL = {
    "patchcore": {},
    "unet": {},
    "deeplabv3plus": {},
    "draem": {"base_width": 4, "discriminative_width": 4},
    "glass": {"pretrain_embed_dim": 24, "target_embed_dim": 20, "discriminator_hidden": 16},
    "classifier": {"hidden": 12},
}
FRAME = {"image_size": [64, 96], "center_crop": None}
CLASSES = ["good", "square"]


def make_run(folder: Path, name: str, table, backbone_folder: Path) -> Run:
    """A finished run with random weights: a checkpoint, and predictions and thresholds that torch gives with it."""
    backbone = resolve_backbone(f"local-dir:{backbone_folder}")
    torch.manual_seed(0)
    parameters = FRAME | {"scheme": "one_class", "backbone": backbone.to_dict() if name != "draem" else None}
    if name == "classifier":
        model = build_classifier(backbone, CLASSES, **SMALL[name])
        parameters |= {"task": "classification", "classes": CLASSES, "normal_class": "good"}
    else:
        size = tuple(FRAME["image_size"])
        model = build_model(name, None if name == "draem" else backbone, image_size=size, **SMALL[name])
        parameters |= {"accept": 0.75}
    draw_statistics(model)
    if name == "draem":  # its own small weights give every photo the same map
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    run = open_run(folder, name, parameters, table, seed=0)
    if name == "patchcore":
        photos = [to_tensor(read_image(path)) for path in table["image_path"][table["split"] == "train"]]
        frames = torch.stack([resize(photo, [64, 96]) for photo in photos])
        model.model.memory_bank = patch_features(model.model, model.pre_processor.transform(frames))[::29].clone()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(run.folder / "model.ckpt", weights_only=True)
    write_table(table, run.folder / "samples.csv")
    rows = table[table["split"] == "val"]
    output = TorchBackend(run, "cpu")([read_image(path) for path in rows["image_path"]])
    maxima = output.scores if output.maps is None else output.maps.max((1, 2))
    val = rows[["image_path", "label_index", "defect_type", "split"]].assign(score=output.scores, map_max=maxima)
    val.assign(image_path=relative_path(table)[rows.index]).to_csv(run.folder / "predictions.csv", index=False)
    return run.finish(held_out_thresholds(val, 0.75))


@torch.no_grad()
def patch_features(model: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    features = {layer: model.feature_pooler(found) for layer, found in model.eval().feature_extractor(frames).items()}
    return model.reshape_embedding(model.generate_embedding(features))


def draw_statistics(model: nn.Module) -> None:
    """Batch normalisation as after training: no mean 0, no variance 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.1, 0.1)


@pytest.fixture(scope="module")
def make(tmp_path_factory, table, backbone_folder):
    """A run by name, exported to ONNX and OpenVINO; made once. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def get(name: str) -> Run:
        run = make_run(folder, name, table, backbone_folder)
        export_run(run, ("onnx", "openvino"))
        return run

    return get


@pytest.fixture
def patchcore(make, tmp_path) -> Run:
    """A copy of the exported PatchCore run, to be changed."""
    return Run.load(Path(shutil.copytree(make("patchcore").folder, tmp_path / "patchcore")))


@pytest.fixture(scope="module")
def mixed(photos) -> list[np.ndarray]:
    """Eight photos of four sizes, none of the network's own shape."""
    files = sorted((photos / "test").rglob("*.png"))
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (131, 77, 3), dtype=np.uint8)
    found = [read_image(file) for file in files[:5]]
    return [*found[:2], noise, found[2][:50, :40], *found[3:], noise[:64, :64], noise[::-1].copy()]


@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_says_what_torch_says_for_any_batch_and_sizes(make, mixed, name, backend):
    run = make(name)
    expected = Predictor(run, device="cpu").predict(mixed)
    assert len(np.unique(expected.scores)) > 5  # the photos do differ
    for batch_size in (1, 8):
        found = Predictor(run, backend, batch_size=batch_size).predict(mixed)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=2e-4)
        if name == "classifier":
            assert found.maps is None
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
            np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=1e-3, atol=1e-4)
            continue
        for ours, theirs in zip(found.maps, expected.maps, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(np.abs(theirs).max()))


@pytest.mark.parametrize(
    ("size", "crop"), [((40, 56), None), ((41,), (33, 40)), ((64, 48), (33, 35)), ((30,), (30, 30))]
)
def test_photos_are_resized_cut_and_normalised_as_torchvision_does(size, crop):
    import onnxruntime
    import openvino

    mean, std = (0.1, 0.5, 0.4), (0.2, 0.25, 0.5)
    example = torch.zeros(2, 50, 70, 3, dtype=torch.uint8)
    graph = trace(FromPhotos(nn.Identity(), size, crop, mean, std).eval(), example, ("N", "H", "W"), ["frames"])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    compiled = openvino.Core().compile_model(openvino_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    steps = Compose([Resize(size, antialias=True), *([CenterCrop(crop)] if crop else []), Normalize(mean, std)])
    draw = np.random.default_rng(1)
    for shape in ((97, 131), (131, 97), (40, 56), (25, 90), (200, 70), (41, 41)):
        photo = draw.integers(0, 256, (3, *shape, 3), dtype=np.uint8)
        expected = steps(torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 255).numpy()
        for found in (session.run(None, {"photos": photo})[0], compiled(photo)[0]):
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("num_neighbors", [1, 4, 9])
def test_patchcore_says_the_same_whatever_part_of_the_bank_is_searched_at_once(make_model, monkeypatch, num_neighbors):
    model = make_model(num_neighbors=num_neighbors).model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.memory_bank = patch_features(model, torch.rand(2, 3, 64, 64, generator=generator))[::3].clone()
        frames = torch.rand(3, 3, 64, 64, generator=generator)
        expected = model(frames)
        monkeypatch.setattr(export, "BANK_ROWS", 7)
        scores, maps = FixedPatchCore(model, (64, 64))(frames)
    torch.testing.assert_close(scores, expected.pred_score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps, expected.anomaly_map[:, 0], rtol=1e-4, atol=1e-5)


def test_low_probabilities_keep_their_digits_in_onnx_runtime():
    """Its own sigmoid is off by 1e-7, which near zero is all there is."""
    import onnxruntime

    x = np.linspace(-30, 10, 401, dtype=np.float32).reshape(1, -1).repeat(2, 0)
    graph = trace(nn.Sigmoid().eval(), torch.from_numpy(x), ["N"], ["y"])
    (found,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"photos": x})
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=1e-5)


@pytest.mark.parametrize("name", ["patchcore", "classifier"])
def test_a_file_says_whose_it_is_and_needs_nothing_else(make, mixed, name):
    import onnxruntime
    import openvino

    run = make(name)
    onnx_said, said = (exported.read_about(run.folder / exported.FILES[backend]) for backend in ("onnx", "openvino"))
    assert onnx_said == said == about(run)
    assert said["run_fingerprint"] == run.info["fingerprint"]
    assert said["checkpoint_sha256"] == run.info["files"]["model.ckpt"]
    assert json.loads(said["image_size"]) == [64, 96]
    assert json.loads(said["classes"]) == (CLASSES if name == "classifier" else None)

    session = onnxruntime.InferenceSession(run.folder / exported.FILES["onnx"])
    scores = session.run(["score"], {"photos": np.stack(mixed[:2])})[0]
    limit = json.loads(session.get_modelmeta().custom_metadata_map["thresholds"])["image"]["value"]
    assert (scores > limit).tolist() == Predictor(run, device="cpu").predict(mixed[:2]).labels.tolist()
    nodes = openvino.Core().read_model(run.folder / exported.FILES["openvino"]).get_ops()
    kinds = {node.get_element_type().get_type_name() for node in nodes if node.get_type_name() == "Constant"}
    assert "f32" in kinds and "f16" not in kinds, "weights are not halved"


def test_a_file_of_another_checkpoint_exporter_or_threshold_is_refused_and_made_again(patchcore, monkeypatch):
    """As one of a classifier made before RECIPE 2 is, whose scores are 1 - p."""
    info = json.loads((patchcore.folder / "run.json").read_text())

    def refused(**changed) -> None:
        (patchcore.folder / "run.json").write_text(json.dumps(info | changed))
        for backend in ("onnx", "openvino"):
            with pytest.raises(ValueError, match=r"helpers\.inference\.export"):
                Predictor(patchcore.folder, backend)

    refused(fingerprint="another")
    thresholds = json.loads(json.dumps(info["thresholds"]))
    thresholds["image"]["value"] += 1
    refused(thresholds=thresholds)
    with monkeypatch.context() as patch:
        patch.setitem(exported.RECIPES, "export", exported.RECIPES["export"] + 1)
        refused()
    weights = torch.load(patchcore.folder / "model.ckpt", weights_only=True)
    torch.save(weights | {"epoch": 77}, patchcore.folder / "model.ckpt")
    refused(files={"model.ckpt": file_sha256(patchcore.folder / "model.ckpt")})
    for backend in export_run(patchcore.folder):
        Predictor(patchcore.folder, backend)


def test_a_file_that_fits_stays_and_a_damaged_one_is_made_again(patchcore):
    files = export_run(patchcore)
    before = {name: file.stat().st_mtime_ns for name, file in files.items()}
    for backend, file in (("onnx", files["onnx"]), ("openvino", files["openvino"].with_suffix(".bin"))):
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 1  # one bit of the weights: it can still be read
        file.write_bytes(whole)
        with pytest.raises(ValueError, match="damaged"):
            Predictor(patchcore, backend)
        whole[len(whole) // 2] ^= 1
        file.write_bytes(whole)
    files["onnx"].write_bytes(b"half")
    export_run(patchcore)
    Predictor(patchcore, "onnx")
    assert files["openvino"].stat().st_mtime_ns == before["openvino"]


def test_refuses_what_it_cannot_do(patchcore, tmp_path):
    with pytest.raises(ValueError, match="formats='tflite'"):
        export_run(patchcore, ("tflite",))
    with pytest.raises(MissingRunError):
        export_run(tmp_path)
    for backend in ("onnx", "openvino"):
        with pytest.raises(ValueError, match="DEVICE='cuda'"):
            Predictor(patchcore, backend, device="cuda")
    shutil.rmtree(patchcore.folder / "export")
    for backend in exported.FORMATS:
        with pytest.raises(MissingRunError, match=rf"helpers\.inference\.export .* --formats {backend}"):
            Predictor(patchcore, backend)


@pytest.mark.parametrize("name", ["patchcore", "unet"])
def test_8_bits_are_close_and_have_their_own_thresholds(make, name, table, caplog):
    import openvino

    run = make(name)
    (file,) = export_run(run, ("openvino-int8",)).values()
    logging.getLogger("helpers.test").warning("heard after NNCF was told to be silent")
    assert "heard after NNCF" in caplog.text
    model = openvino.Core().read_model(file)
    assert sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops()) > 5
    judge = Predictor(run, "openvino-int8")
    val = table["image_path"][table["split"] == "val"].tolist()
    found, expected = judge.predict(val), Predictor(run, device="cpu").predict(val)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0.25)
    assert not np.array_equal(found.scores, expected.scores)
    apart = max(np.abs(ours - theirs).max() for ours, theirs in zip(found.maps, expected.maps, strict=True))
    assert apart < 0.25 * max(one.max() for one in expected.maps)
    # three good photos in val, 75 % of them accepted: the threshold is the highest of their own scores in 8 bits
    assert judge.thresholds["image"].value == pytest.approx(float(found.scores.max()), rel=1e-6)
    assert "8 bits" in judge.thresholds["image"].origin
    assert judge.thresholds.keys() == run.thresholds.keys()
    assert not found.labels.any()
    # the highest of three good scores: 1 of 3 is as high, so p = (1 + 1) / (3 + 1)
    assert found.confidences[found.scores.argmax()] == pytest.approx(0.5)
    assert exported.read_about(file)["calibration"] == "ranges from 5 good photos of train"


def test_8_bits_need_good_photos_and_leave_no_file_if_they_are_stopped(patchcore):
    table = patchcore.table
    shutil.rmtree(patchcore.folder / "export")
    with pytest.raises(ValueError, match="good training photos"):
        export_run(Run(patchcore.folder, patchcore.info, table[table["split"] != "train"]), ("openvino-int8",))
    file = patchcore.folder / "predictions.csv"
    pd.read_csv(file).assign(image_path="nowhere.png").to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"nowhere\.png"):  # when the thresholds' turn comes
        export_run(patchcore, ("openvino-int8",))
    assert not (patchcore.folder / exported.FILES["openvino-int8"]).exists()


def test_commands(patchcore, photos, tmp_path, capsys):
    assert export.main([str(patchcore.folder), "--formats", "onnx"]) == 0
    assert "model.onnx" in capsys.readouterr().out
    assert export.main([str(patchcore.folder), "--formats", "tflite"]) == 2
    verdicts = {}
    for backend in ("torch", "onnx"):
        command = [str(patchcore.folder), str(photos / "test" / "square"), "--out", str(tmp_path / backend)]
        assert inference_main([*command, "--save", "none", "--device", "cpu", "--backend", backend]) == 0
        verdicts[backend] = json.loads((tmp_path / backend / "verdicts.json").read_text())
        assert backend in (tmp_path / backend / "cascade.json").read_text()
    assert [row["verdict"] for row in verdicts["onnx"]] == [row["verdict"] for row in verdicts["torch"]]
    assert inference_main([*command, "--backend", "tensorrt"]) == 2
    assert "tensorrt" in capsys.readouterr().err
