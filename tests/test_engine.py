"""Devices, predictions on their way to disk, and pictures in the frame that the network sees."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import draw_photos, split_table
from lightning.pytorch.callbacks import Callback
from PIL import Image

from helpers.compute import torch_device, trainer_device
from helpers.data.datamodule import SampleDataModule
from helpers.data.images import to_network_frame
from helpers.inference import engine as engine_module
from helpers.inference.engine import (
    MinuteLines,
    PredictionWriter,
    make_engine,
    predict_split,
    trainer_precision,
)


@pytest.fixture
def two_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_devices_of_any_machine(no_gpu):
    assert trainer_device("auto") == {"accelerator": "auto", "devices": 1}
    assert trainer_device("cpu") == {"accelerator": "cpu", "devices": 1}
    assert torch_device("auto") == torch_device("cpu") == "cpu"


@pytest.mark.parametrize(("word", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_nvidia_devices(two_gpus, word, index):
    assert trainer_device(word) == {"accelerator": "gpu", "devices": [index]}
    assert torch_device(word) == f"cuda:{index}"
    assert torch_device("auto") == "cuda:0"


def test_apple_device(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert trainer_device("mps") == {"accelerator": "mps", "devices": 1}
    assert torch_device("auto") == torch_device("mps") == "mps"


def test_device_that_is_not_there(two_gpus):
    with pytest.raises(ValueError, match=r"DEVICE='cuda:2': torch sees 2 CUDA devices"):
        trainer_device("cuda:2")


@pytest.mark.parametrize("word", ["cuda", "cuda:0", "mps"])
def test_device_on_a_machine_without(no_gpu, word):
    with pytest.raises(ValueError, match=f"DEVICE='{word}'.*DEVICE='auto'"):
        trainer_device(word)


@pytest.mark.parametrize("word", ["", "gpu", "CPU", "cuda:x", "cuda:-1", "cuda:0:1", "0"])
def test_words_that_are_no_device(two_gpus, word):
    with pytest.raises(ValueError, match="expected auto, cpu, cuda, cuda:N or mps"):
        trainer_device(word)


# ------------------------------------------------------------------------------------------------------- predictions


def batch(paths: list[str], maps: np.ndarray, scores: list[float]) -> SimpleNamespace:
    return SimpleNamespace(
        image_path=paths, pred_score=torch.tensor(scores), anomaly_map=torch.from_numpy(maps)[:, None].float()
    )


def test_writer_keeps_order_with_a_short_last_batch(tmp_path):
    maps = np.random.default_rng(0).uniform(0, 30, (5, 6, 4)).astype(np.float32)
    names, scores = list("abcde"), [5.0, 1.0, 4.0, 2.0, 3.0]
    writer = PredictionWriter(5, tmp_path / "maps.npy")
    for number, part in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
        writer.on_predict_batch_end(None, None, batch(names[part], maps[part], scores[part]), None, number)
    rows = writer.close()
    assert rows["image_path"].tolist() == names
    assert rows["score"].tolist() == scores
    np.testing.assert_allclose(rows["map_max"], maps.reshape(5, -1).max(1), rtol=1e-7)
    stored = np.load(tmp_path / "maps.npy")
    assert stored.dtype == np.float16
    assert stored.shape == (5, 6, 4)
    assert np.array_equal(stored, maps.astype(np.float16))


def test_writer_without_file_writes_nothing(tmp_path):
    writer = PredictionWriter(1, None)
    writer.on_predict_batch_end(None, None, batch(["a"], np.ones((1, 2, 2), np.float32), [1.0]), None, 0)
    assert len(writer.close()) == 1
    assert not list(tmp_path.iterdir())


def test_writer_takes_a_column_of_scores():
    writer = PredictionWriter(2, None)
    found = batch(["a", "b"], np.zeros((2, 3, 3), np.float32), [1.0, 2.0])
    found.pred_score = found.pred_score[:, None]
    writer.on_predict_batch_end(None, None, found, None, 0)
    assert writer.close()["score"].tolist() == [1.0, 2.0]


class Masks(Callback):
    """Keeps the masks that anomalib hands to the network's output."""

    def __init__(self) -> None:
        self.masks: dict[str, np.ndarray] = {}

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        for path, mask in zip(outputs.image_path, outputs.gt_mask, strict=True):
            self.masks[path] = mask.squeeze().cpu().numpy().astype(bool)


@pytest.mark.parametrize("crop", [None, (40, 56)])
def test_masks_lie_as_anomalib_lays_them(make_model, tmp_path, crop):
    """Photos of two sizes go through anomalib's own resizing in the datamodule and the crop in the model."""
    from helpers.data.images import read_mask

    folder = draw_photos(tmp_path / "one", n_train=3, n_good=2, n_defect=3, size=(72, 96))
    draw_photos(tmp_path / "other_size", n_train=1, n_good=1, n_defect=3, size=(131, 57))
    for file in (tmp_path / "other_size").rglob("*.png"):
        target = folder / file.relative_to(tmp_path / "other_size")
        target.with_name(f"9{target.name}").write_bytes(file.read_bytes())
    table = split_table(folder)
    model = make_model(image_size=(64, 80), center_crop=crop)
    data = SampleDataModule(table, train_batch_size=2, eval_batch_size=4)
    make_engine(tmp_path, "cpu", limit_val_batches=0).fit(model, datamodule=data)
    masks = Masks()
    make_engine(tmp_path, "cpu", callbacks=[masks]).predict(model, datamodule=data, return_predictions=False)

    defects = table.query("split == 'test' and label_index == 1")
    assert len(defects) == 6
    for row in defects.itertuples():
        frame = to_network_frame(read_mask(row.mask_path), {"image_size": [64, 80], "center_crop": crop})
        assert frame.dtype == bool
        assert frame.shape == (crop or (64, 80))
        assert np.array_equal(frame, masks.masks[row.image_path]), row.image_path


def test_photo_frame_is_the_network_input_before_normalisation(make_model, tmp_path):
    photo = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    frame = to_network_frame(photo, {"image_size": (64, 80), "center_crop": (48, 56)})
    assert frame.dtype == np.uint8
    assert frame.shape == (48, 56, 3)
    model = make_model(image_size=(64, 80), center_crop=(48, 56))
    seen = model.pre_processor.transform(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
    restored = (seen[0] * 0.5 + 0.5).permute(1, 2, 0).numpy() * 255  # mean and std of the tiny backbone
    assert np.abs(restored - frame).max() <= 1.01, "to the rounding of 8 bits"


def test_mask_frame_by_hand():
    mask = np.zeros((4, 8), bool)
    mask[:2, :4] = True
    frame = to_network_frame(mask, {"image_size": [8, 8], "center_crop": None})
    expected = np.zeros((8, 8), bool)
    expected[:4, :4] = True
    assert np.array_equal(frame, expected)
    cropped = to_network_frame(mask, {"image_size": [8, 8], "center_crop": [4, 4]})
    assert np.array_equal(cropped, expected[2:6, 2:6])


def test_predictions_are_in_float32(make_model, table, tmp_path, tf32_seen):
    model, data = make_model(), SampleDataModule(table)
    make_engine(tmp_path, "cpu", limit_val_batches=0).fit(model, datamodule=data)
    assert tf32_seen == {True}
    tf32_seen.clear()
    predict_split(model, data, "test", tmp_path, "cpu")
    assert tf32_seen == {False}


def test_predictions_come_in_the_order_of_the_table(make_model, table, tmp_path):
    model = make_model()
    data = SampleDataModule(table, train_batch_size=4, eval_batch_size=4)  # 9 test photos: 4 + 4 + 1
    make_engine(tmp_path, "cpu", limit_val_batches=0).fit(model, datamodule=data)
    predictions = predict_split(model, data, "test", tmp_path, "cpu", tmp_path / "maps.npy")
    expected = table[table["split"] == "test"]
    assert len(predictions) == 9
    for column in ("image_path", "label_index", "defect_type", "split"):
        assert predictions[column].tolist() == expected[column].tolist()
    maps = np.load(tmp_path / "maps.npy")
    assert maps.shape == (9, 64, 64)

    row = predictions.iloc[-1]  # the photo alone in the last batch, scored by hand
    with Image.open(row["image_path"]) as image:
        photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        found = model.eval().model(model.pre_processor.transform(photo))
    assert row["score"] == pytest.approx(float(found.pred_score), rel=1e-4)
    assert row["map_max"] == pytest.approx(float(found.anomaly_map.max()), rel=1e-4)
    np.testing.assert_allclose(maps[-1], found.anomaly_map[0, 0], rtol=2e-3)


def test_one_line_a_minute(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 100.0, 122.0])
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = MinuteLines()
    trainer = SimpleNamespace(current_epoch=0, max_epochs=1, num_training_batches=40, num_predict_batches=[7])
    for index in range(3):  # at 30, 61 and 100 s
        lines.on_train_batch_end(trainer, None, None, None, index)
    lines.on_predict_batch_end(trainer, None, None, None, 4)  # at 122 s
    assert capsys.readouterr().out.splitlines() == [
        "training, epoch 1/1: batch 2/40, 61 s",
        "predicting: batch 5/7, 122 s",
    ]


def test_precision_is_mixed_on_an_nvidia_gpu_only(two_gpus):
    assert trainer_precision("auto", "auto") == trainer_precision("auto", "cuda:1") == "16-mixed"
    assert trainer_precision("auto", "cpu") == "32-true"
    assert trainer_precision("bf16-mixed", "cpu") == "bf16-mixed"
