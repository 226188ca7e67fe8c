"""A finished run on new photos: the run's own numbers again, any kind of picture, and nothing that is not the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cascade_runs import CLASSES, write_run
from conftest import draw_photos, split_table
from PIL import Image
from torchvision.transforms.v2.functional import resize

from helpers.data.images import ImageReadError, read_image, to_network_frame
from helpers.inference import Predictor
from helpers.inference.object_mask import ObjectMasks, otsu_object_mask
from helpers.inference.pictures import as_photo
from helpers.inference.predictor import Prediction
from helpers.inference.train import find_or_train
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model, load_model, network_frame
from helpers.models.classifier import build_classifier, load_classifier
from helpers.models.draem import smoothed_maximum
from helpers.runs import MissingRunError, Run, open_run
from helpers.thresholds import held_out_thresholds

SIZE = 64
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory, table, settings, fit_run, backbone_folder, textures) -> dict[str, Run]:
    """PatchCore with a centre crop, and DRAEM confined to the object, both tiny."""
    folder = tmp_path_factory.mktemp("runs")
    backbone = resolve_backbone(f"local-dir:{backbone_folder}").to_dict()
    patchcore = fit_run(open_run(folder, "patchcore", settings | {"backbone": backbone}, table, seed=0))
    squares = draw_photos(tmp_path_factory.mktemp("data") / "squares", n_train=6, n_good=3, n_defect=8)
    small = {"learning_rate": 1e-3, "base_width": 4, "discriminative_width": 4, "anomaly_source": textures}
    own = {"epochs": 1, "batch_size": 4, "scheme": "one_class", "backbone": None, "start_threshold": 0.6}
    draem = find_or_train(
        folder,
        "draem",
        split_table(squares),
        network_frame(SIZE) | own | {"object_mask": "otsu"},
        lambda: build_model("draem", None, image_size=SIZE, **small),
        refine=ObjectMasks("otsu", {"image_size": [SIZE, SIZE], "center_crop": None}).confine,
        device="cpu",
        eval_batch_size=4,
    )
    return {"patchcore": patchcore, "draem": draem.finish(held_out_thresholds(draem.predictions("val"), 0.75))}


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    """A run's folder that a test may change."""
    return Path(shutil.copytree(runs["patchcore"].folder, tmp_path / "patchcore"))


@pytest.fixture(scope="module")
def patchcore(runs) -> Predictor:
    return Predictor(runs["patchcore"].folder, device="cpu")


@pytest.fixture(scope="module")
def squares(photos) -> list[Path]:
    return sorted((photos / "test" / "square").iterdir())


def rewrite(folder: Path, **changes) -> None:
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | changes))


@pytest.mark.parametrize(("name", "batch_size"), [("patchcore", 1), ("patchcore", 16), ("draem", 3)])
def test_scores_and_maps_are_those_of_the_runs_own_predictions(runs, name, batch_size):
    test, paths = runs[name].predictions("test"), runs[name].predictions("test")["image_path"].tolist()
    predictor = Predictor(runs[name].folder, device="cpu", batch_size=batch_size)
    found, each = predictor.predict(paths), list(predictor.predict_stream(paths))
    assert test["score"].nunique() > 1
    np.testing.assert_allclose(found.scores, test["score"], rtol=1e-4)
    np.testing.assert_array_equal(found.labels, test["score"] > runs[name].thresholds["image"].value)
    assert found.scores.dtype == np.float32 and found.labels.dtype == bool
    np.testing.assert_allclose([one.network_map.max() for one in each], test["map_max"], rtol=1e-4)
    if "area" in test:
        start = runs[name].info["parameters"]["start_threshold"]
        np.testing.assert_allclose([(one.network_map > start).mean() for one in each], test["area"], atol=1e-9)
    assert [one.shape for one in found.maps] == [(72, 96)] * len(test)
    if name == "patchcore":  # 0 where the centre crop hid the photo: 48 x 56 of a frame of 64 x 64
        inside = np.pad(np.ones((56, 86), bool), ((8, 8), (5, 5)))
        assert all(one.any() and not one[~inside].any() for one in found.maps)
    assert found.classes is found.probabilities is found.predicted is found.embeddings is None


def test_neighbours_in_a_batch_change_nothing(patchcore, squares):
    """Photos of three sizes, together and alone."""
    first = read_image(squares[0])
    pictures = [first, first[:50, :40], np.vstack([first, first])]
    together = patchcore.predict(pictures)
    for index, picture in enumerate(pictures):
        np.testing.assert_allclose(patchcore.predict(picture).scores[0], together.scores[index], rtol=1e-4)
        assert together.maps[index].shape == picture.shape[:2]


def test_draem_is_confined_to_the_object_as_in_training(runs):
    """By hand: the map of the bare network times Otsu's mask, and its smoothed maximum."""
    run, predictor = runs["draem"], Predictor(runs["draem"].folder, device="cpu")
    path = run.predictions("test")["image_path"].iloc[-1]
    photo = read_image(path)
    model = load_model("draem", run.folder / "model.ckpt", "")
    with torch.inference_mode():
        frame = model.pre_processor.transform(torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255)
        bare = model.model(frame).anomaly_map
    mask = to_network_frame(otsu_object_mask(photo), run.info["parameters"])
    assert 0 < mask.mean() < 1
    [found] = predictor.predict_stream(path)
    np.testing.assert_allclose(found.network_map, bare[0, 0].numpy() * mask, rtol=1e-4, atol=1e-7)
    assert found.score == pytest.approx(float(smoothed_maximum(bare * torch.from_numpy(mask))[0]), rel=1e-4)


def test_files_arrays_and_pil_images_are_one(patchcore, squares):
    path, array = squares[0], read_image(squares[0])
    kinds = [path, str(path), array, array.astype(np.uint16) * 257, np.dstack([array, array[:, :, 0]])]
    kinds += [Image.open(path), Image.fromarray(array).convert("RGBA")]
    scores = patchcore.predict(kinds).scores
    np.testing.assert_allclose(scores, scores[0], rtol=1e-6)
    np.testing.assert_array_equal(patchcore.predict(np.stack([array, array])).scores, scores[:1].repeat(2))
    assert patchcore.predict(path.parent).scores.shape == (4,)


def test_twelve_bits_are_read_as_the_run_has_learned_them(copy, squares, tmp_path):
    array = read_image(squares[0])[..., 0]
    deep, name = array.astype(np.uint16) * 16 + 15, tmp_path / "deep.png"
    Image.fromarray(deep).save(name)
    rewrite(copy, parameters=json.loads((copy / "run.json").read_text())["parameters"] | {"bit_depth": 12})
    predictor = Predictor(copy, device="cpu")
    kinds = [np.dstack([array] * 3), str(name), deep, np.dstack([deep] * 4), Image.open(name)]
    scores = predictor.predict(kinds).scores
    np.testing.assert_array_equal(scores, scores[0].repeat(5))
    with pytest.raises(ImageReadError) as caught:
        predictor.predict(deep + 4096)
    assert caught.value.code == "beyond-range"


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (GREY[:, :, None], GREY),
        (GREY.astype(np.uint16) * 256 + 255, GREY),
        (GREY > 100, np.uint8(255) * (GREY > 100)),
        (Image.fromarray(GREY).convert("LA"), GREY),
        (Image.fromarray(GREY).convert("P"), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 255), GREY),
        (Image.fromarray(GREY > 100), np.uint8(255) * (GREY > 100)),
    ],
)
def test_any_picture_becomes_rgb(picture, expected):
    found = as_photo(picture)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.dstack([expected] * 3))


@pytest.mark.parametrize(
    "picture", [GREY / 255, GREY[..., None].repeat(2, 2), GREY[:0], GREY[0], Image.fromarray(np.float32(GREY))]
)
def test_what_is_no_picture(picture):
    with pytest.raises(ValueError, match="photo 7"):
        as_photo(picture, "photo 7")


def test_an_unreadable_photo_stops_predict_and_is_a_row_of_a_stream(patchcore, squares, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = [squares[0], tmp_path / "broken.png", tmp_path / "missing.png", squares[0]]
    with pytest.raises(ImageReadError, match="broken.png"):
        patchcore.predict(images)
    first, *failed, last = patchcore.predict_stream(images)
    assert first.score == last.score == pytest.approx(patchcore.predict(squares[0]).scores[0], rel=1e-5)
    for row, name in zip(failed, ("broken.png", "missing.png"), strict=True):
        assert name in str(row.error) and np.isnan(row.score) and not row.abnormal and row.network_map is None


def test_a_stream_reads_a_batch_at_a_time(patchcore):
    taken = []
    stream = patchcore.predict_stream(taken.append(n) or np.full((20, 20, 3), n, np.uint8) for n in range(30))
    next(stream)
    assert len(taken) <= patchcore.batch_size + 1 and len(list(stream)) == 29
    with pytest.raises(ValueError, match="no photo"):
        patchcore.predict([])


def test_threshold_by_name_and_by_number(runs, patchcore, squares):
    found = patchcore.predict(squares, threshold=0.0)
    assert found.labels.all() and (found.threshold.value, found.threshold.origin) == (0.0, "given")
    assert patchcore.predict(squares).threshold == runs["patchcore"].thresholds["image"]
    with pytest.raises(ValueError, match="image, pixel"):
        patchcore.threshold("imagee")
    start = Predictor(runs["draem"].folder, device="cpu").threshold("start")
    assert start.value == 0.6 and "not calibrated" in start.origin


def test_confidence_by_hand(copy):
    """Three good photos of val at 1, 2 and 3: p = (1 + as high) / 4."""
    rows = pd.read_csv(copy / "predictions.csv", keep_default_na=False)
    rows.loc[rows["split"] == "val", "score"] = [1.0, 2.0, 3.0]
    rows.to_csv(copy / "predictions.csv", index=False)
    predictor = Predictor(copy, device="cpu")
    for score, p_value in ((4.0, 1 / 4), (2.5, 2 / 4), (2.0, 3 / 4), (0.5, 1.0)):
        judged = [predictor.rejudge(Prediction("a", score), limit) for limit in (0.0, 10.0)]
        assert [one.abnormal for one in judged] == [True, False]
        assert [one.confidence for one in judged] == [1 - p_value, p_value]
    rows[rows["split"] != "val"].to_csv(copy / "predictions.csv", index=False)
    assert np.isnan(Predictor(copy, device="cpu").rejudge(Prediction("a", 4.0)).confidence)


def test_the_time_of_a_photo_is_measured_once_a_cpu_and_kept_with_the_run(copy, squares, monkeypatch):
    (copy / "speed.json").write_text("3")
    for cpu in ("slow one", "fast one"):
        monkeypatch.setattr("helpers.inference.predictor.cpu_name", lambda cpu=cpu: cpu)
        first = Predictor(copy, device="cpu").photo_time(squares[:3])
        assert (first["batch_size"], first["n_photos"]) == (1, 3) and first["median_ms"] > 0
        assert Predictor(copy, device="cpu").photo_time(squares) == first
    assert len(json.loads((copy / "speed.json").read_text())) == 2


@pytest.mark.parametrize(("name", "notebook"), [("patchcore", "02_train_patchcore"), ("mine", "02 to 05")])
def test_a_missing_run_names_the_notebook(tmp_path, name, notebook):
    with pytest.raises(MissingRunError, match=notebook):
        Predictor(tmp_path / name)


def test_a_changed_checkpoint_is_refused(copy):
    content = bytearray((copy / "model.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.ckpt"):
        Predictor(copy, device="cpu")
    (copy / "model.ckpt").unlink()
    with pytest.raises(MissingRunError, match=r"model\.ckpt"):
        Predictor(copy, device="cpu")


def test_a_checkpoint_with_code_in_it_is_not_run(copy, tmp_path):
    """Pickled code that would leave a file behind."""
    trap = type("Trap", (), {"__reduce__": lambda self: (Path.touch, (tmp_path / "ran",))})
    torch.save({"state_dict": {}, "hyper_parameters": trap()}, copy / "model.ckpt")
    rewrite(copy, files={})
    with pytest.raises(Exception, match="(?i)weights.only"):
        Predictor(copy, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_other_versions_are_said(copy, recwarn):
    Predictor(copy, device="cpu")
    assert not [one for one in recwarn if "was trained with" in str(one.message)]
    rewrite(copy, versions={"torch": "1.13.1"}, files={})
    with pytest.warns(UserWarning, match="patchcore was trained with torch 1.13.1"):
        Predictor(copy, device="cpu")


def test_unknown_backend_and_batch_size(copy):
    for wrong in ({"backend": "tensorflow"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            Predictor(copy, **wrong)


def test_a_folder_of_object_masks_needs_one_for_each_photo(runs, tmp_path):
    folder = Path(shutil.copytree(runs["draem"].folder, tmp_path / "draem"))
    path, *_ = runs["draem"].predictions("test")["image_path"]
    other = shutil.copy(path, tmp_path / "unmasked.png")
    (tmp_path / "masks").mkdir()
    half = np.uint8(255) * np.repeat([[True, False]], [48], axis=1).repeat(72, axis=0)
    Image.fromarray(half).save(tmp_path / "masks" / f"{Path(path).stem}.png")
    rewrite(folder, parameters=runs["draem"].info["parameters"] | {"object_mask": str(tmp_path / "masks")})
    first, second = Predictor(folder, device="cpu").predict_stream([path, other])
    assert not first.error and not first.network_map[:, 32:].any() and first.network_map[:, :32].any()
    assert "unmasked.png" in str(second.error)


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory, backbone_folder) -> Path:
    """A classifier with random weights in a run's folder."""
    backbone = resolve_backbone(f"local-dir:{backbone_folder}")
    torch.manual_seed(0)
    model = build_classifier(backbone, CLASSES, hidden=16)
    parameters = {"image_size": [48, 56], "backbone": backbone.to_dict()}
    folder, limit = tmp_path_factory.mktemp("classes") / "classifier", {"image": 0.4}
    write_run(folder, thresholds=limit, classes=CLASSES, normal="good", **parameters)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(state | {"pytorch-lightning_version": "2.6.0"}, folder / "model.ckpt")
    return folder


def test_a_classifier_gives_classes_and_probabilities(classifier_run, squares):
    found = Predictor(classifier_run, device="cpu").predict(squares)
    model = load_classifier(classifier_run / "model.ckpt", "test_resnet")
    frames = [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255 for path in squares]
    with torch.inference_mode():
        expected = model(torch.stack([resize(frame, [48, 56], antialias=True) for frame in frames])).softmax(1).numpy()
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(found.scores, 1 - expected[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(found.labels, 1 - expected[:, 0] > 0.4)
    assert found.predicted == [CLASSES[index] for index in expected.argmax(1)]
    assert found.maps is None and found.embeddings.shape == (4, 16)
    sure = np.where(found.labels, found.scores, 1 - found.scores)
    np.testing.assert_allclose(found.confidences, sure, rtol=1e-5)


@pytest.mark.parametrize("name", ["patchcore", "draem", "classifier"])
def test_scores_come_from_convolutions_in_float32(runs, classifier_run, squares, tf32_seen, name):
    Predictor(classifier_run if name == "classifier" else runs[name].folder, device="cpu").predict(squares)
    assert tf32_seen == {False}
