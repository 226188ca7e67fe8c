"""anomalib sees the splits of the table, and nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Tabular
from PIL import Image
from torchvision.transforms.v2 import Resize
from torchvision.tv_tensors import Image as TensorImage
from torchvision.tv_tensors import Mask

from helpers.data import datamodule
from helpers.data.checks import check_dataset
from helpers.data.convert import write_dataset
from helpers.data.datamodule import EpochSampler, SampleDataModule, SampleDataset
from helpers.data.formats import read_dataset
from helpers.data.images import read_image, to_network_frame
from helpers.data.pieces import cut_outs, resized, tiles
from helpers.data.samples import assign_splits, make_table, read_table, write_table
from helpers.models.catalog import network_frame
from helpers.models.parts import make_pre_processor
from helpers.runs import open_run


def picture(file: Path, value: int, size: tuple[int, int] = (6, 8)) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file)
    return str(file)


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """20 train, 12 normal and 8 abnormal test photos; photo i is grey i, every defect covers its upper left pixels."""
    rows = [{"image_path": picture(tmp_path / f"train/{i:02d}.png", i), "split": "train"} for i in range(20)]
    rows += [{"image_path": picture(tmp_path / f"test/good/{i:02d}.png", i), "split": "test"} for i in range(12)]
    for i in range(8):
        mask = np.zeros((6, 8), np.uint8)
        mask[: i + 1 if i < 6 else 6, :2] = 255
        mask_file = tmp_path / f"ground_truth/{i:02d}_mask.png"
        mask_file.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(mask_file)
        rows.append(
            {
                "image_path": picture(tmp_path / f"test/hole/{i:02d}.png", 100 + i),
                "mask_path": str(mask_file),
                "label_index": 1,
                "defect_type": "hole",
                "split": "test",
            }
        )
    made = make_table(rows, root=tmp_path, layout="mvtec", name="parts", published_split=True)
    return assign_splits(made, val_fraction=0.25, val_abnormal_fraction=0.25, seed=4)


class Halved(torch.nn.Module):
    """An augmentation that writes into what it is given."""

    def forward(self, image: torch.Tensor, *masks: Mask) -> torch.Tensor | tuple[torch.Tensor, ...]:
        image.mul_(0.5)
        return (image, *masks) if masks else image


def seen(loader) -> list[str]:
    return [path for batch in loader for path in batch.image_path]


def of(table: pd.DataFrame, split: str) -> list[str]:
    return list(table.loc[table["split"] == split, "image_path"])


def test_loaders_hold_exactly_the_rows_of_the_table(table):
    module = SampleDataModule(table, train_batch_size=4, eval_batch_size=3)
    module.setup()
    assert sorted(seen(module.train_dataloader())) == of(table, "train")
    # val and test in the table's order
    assert seen(module.val_dataloader()) == of(table, "val")
    assert seen(module.test_dataloader()) == of(table, "test") == seen(module.predict_dataloader())
    assert [len(of(table, split)) for split in ("train", "val", "test")] == [15, 5 + 2, 12 + 6]
    assert module.name == "parts"


def for_anomalib(table: pd.DataFrame) -> pd.DataFrame:
    """The columns it knows; without a label of their own, val rows stop it with "None or NaN values"."""
    label = table["label_index"].map({0: "normal", 1: "abnormal"})
    return table[["image_path", "mask_path", "label_index", "split"]].assign(label=label)


def test_without_val_rows_there_is_no_validation(table):
    module = SampleDataModule(table[table["split"] != "val"])
    module.setup()
    assert module.val_dataloader() == []
    assert len(seen(module.test_dataloader())) == 18


def test_without_train_rows_test_works(table):
    module = SampleDataModule(table[table["split"] == "test"])
    module.setup()
    assert len(seen(module.test_dataloader())) == 18
    with pytest.raises(ValueError, match="parts has no train photos"):
        module.train_dataloader()


def test_items_are_what_anomalib_makes_of_them(table):
    dataset = SampleDataset(table, "test")
    mine = dataset[len(dataset) - 1]
    theirs = Tabular(name="x", samples=for_anomalib(table))
    theirs._setup()
    other = next(item for item in theirs.test_data if item.image_path == mine.image_path)
    assert isinstance(mine.image, TensorImage) and isinstance(mine.gt_mask, Mask)
    assert torch.equal(mine.image, other.image) and torch.equal(mine.gt_mask, other.gt_mask)
    assert mine.image.dtype == other.image.dtype == torch.float32 and mine.gt_mask.dtype == other.gt_mask.dtype
    assert mine.gt_label == other.gt_label == 1 and mine.mask_path == other.mask_path
    number = int(Path(mine.image_path).stem)  # the fixture's grey
    assert mine.image.flatten().tolist() == pytest.approx([(100 + number) / 255] * (3 * 6 * 8))


def test_batches(table):
    module = SampleDataModule(table, eval_batch_size=18)
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert batch.image.shape == (18, 3, 6, 8) and batch.gt_mask.shape == (18, 6, 8)
    assert batch.gt_label.tolist() == [False] * 12 + [True] * 6
    assert batch.gt_mask[:12].sum() == 0
    numbers = [int(Path(path).stem) for path in batch.image_path[12:]]
    # defect i covers 2 columns of i + 1 rows, at most 6
    assert batch.gt_mask[12:].sum(dim=(1, 2)).tolist() == [2 * min(i + 1, 6) for i in numbers]


def test_resize_applies_to_photo_and_mask(table):
    module = SampleDataModule(table, augmentations=Resize((12, 16)), eval_batch_size=18)
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert batch.image.shape == (18, 3, 12, 16) and batch.gt_mask.shape == (18, 12, 16)
    numbers = [int(Path(path).stem) for path in batch.image_path[12:]]
    assert batch.gt_mask[12:].sum(dim=(1, 2)).tolist() == [4 * 2 * min(i + 1, 6) for i in numbers]
    assert next(iter(module.train_dataloader())).image.shape[-2:] == (12, 16)


def test_order_of_train_follows_the_seed(table):
    def order(seed: int) -> list[list[str]]:
        module = SampleDataModule(table, seed=seed, train_batch_size=4)
        module.setup()
        torch.manual_seed(torch.randint(0, 10**6, ()).item())  # the global state plays no part
        loader = module.train_dataloader()
        return [seen(loader), seen(loader)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    first, second = order(1)
    assert first != second and sorted(first) == sorted(second)


def test_table_without_masks_is_classification(table):
    table["mask_path"] = ""
    module = SampleDataModule(table)
    module.setup()
    batch = next(iter(module.test_dataloader()))
    assert module.task == "classification" and batch.gt_mask is None and batch.gt_label.shape == (16,)


def test_defect_photo_without_mask_turns_masks_off_for_its_split_only(table, caplog):
    row = table.index[(table["split"] == "test") & (table["label_index"] == 1)][0]
    table.loc[row, "mask_path"] = ""
    module = SampleDataModule(table)
    with caplog.at_level(logging.WARNING, logger="helpers"):
        module.setup()
    assert "1 of 6 abnormal photos in test have no mask" in caplog.text
    assert [module.train_data.task, module.val_data.task, module.test_data.task] == [
        "segmentation",
        "segmentation",
        "classification",
    ]
    assert all(batch.gt_mask is None for batch in module.test_dataloader())
    assert all(batch.gt_mask is not None for batch in module.val_dataloader())


def test_abnormal_train_only_where_allowed(table):
    table.loc[table["split"] == "val", "split"] = "train"
    with pytest.raises(ValueError, match="2 abnormal photos"):
        SampleDataModule(table)
    module = SampleDataModule(table, allow_abnormal_train=True, train_batch_size=22)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert int(batch.gt_label.sum()) == 2 and batch.gt_mask.sum() > 0


def test_unsplit_table_is_refused(table):
    table.loc[3, "split"] = ""
    with pytest.raises(ValueError, match="assign_splits"):
        SampleDataModule(table)
    with pytest.raises(ValueError, match="assign_splits"):
        SampleDataModule(table[table["split"] == "val"])


def test_missing_file_is_named(table):
    Path(of(table, "test")[2]).unlink()
    module = SampleDataModule(table)
    with pytest.raises(FileNotFoundError, match=Path(of(table, "test")[2]).name):
        module.setup()


@pytest.mark.parametrize(("room", "in_worker", "again"), [(2**20, False, 0), (300, False, 13), (2**20, True, 15)])
def test_a_photo_is_decoded_once_while_there_is_room(table, monkeypatch, room, in_worker, again):
    """15 photos of 6 * 8 * 3 = 144 bytes: 300 bytes hold two."""
    read = []
    monkeypatch.setattr(datamodule, "KEPT_BYTES", room)
    monkeypatch.setattr(datamodule, "get_worker_info", lambda: object() if in_worker else None)
    monkeypatch.setattr(datamodule, "read_image", lambda path, bits=None: read.append(path) or read_image(path, bits))
    dataset = SampleDataset(table, "train", augmentations=Halved())
    first = [item.image.clone() for item in dataset]
    assert len(read) == len(dataset) == 15
    second = [item.image for item in dataset]
    assert len(read) - 15 == again
    by_hand = [torch.from_numpy(read_image(path)).permute(2, 0, 1) / 255 / 2 for path in of(table, "train")]
    for found in (first, second):
        torch.testing.assert_close(torch.stack(found), torch.stack(by_hand))


def test_order_follows_from_seed_and_epoch_alone():
    """Epoch 3 is the same whether the epochs before it were run through or skipped (a resumed training)."""
    through, resumed = EpochSampler(9, seed=1), EpochSampler(9, seed=1)
    epochs = [list(through) for _ in range(4)]
    resumed.set_epoch(3)
    assert list(resumed) == epochs[3]
    assert all(sorted(order) == list(range(9)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4


def photos_drawn(table: pd.DataFrame, epochs: int, **options) -> pd.Series:
    """How often each defect type comes in so many epochs."""
    data = SampleDataModule(table, allow_abnormal_train=True, **options)
    sampler, types = data.train_dataloader().sampler, table.loc[table["split"] == "train", "defect_type"].to_numpy()
    drawn = [types[list(sampler)] for _ in range(epochs)]
    assert all(len(epoch) == len(types) == len(sampler) for epoch in drawn)
    return pd.Series(np.concatenate(drawn)).value_counts()


def test_weights_of_photos_in_an_epoch(table):
    """Binomial, so within 5 standard errors of what was asked for."""
    mixed = table.copy()
    mixed.loc[mixed["label_index"] == 1, "split"] = "train"
    mixed.attrs = table.attrs
    n = int((mixed["split"] == "train").sum()) * 60
    bad = n - photos_drawn(mixed, 60, abnormal_share=0.2)["good"]
    assert abs(bad - 0.2 * n) < 5 * (n * 0.2 * 0.8) ** 0.5
    counts, share = photos_drawn(mixed, 60, balance="defect_type"), 1 / mixed["defect_type"].nunique()
    assert (abs(counts - share * n) < 5 * (n * share * (1 - share)) ** 0.5).all()


def test_share_that_cannot_be(table):
    for share in (1.0, 0.5):  # train has no abnormal photo
        with pytest.raises(ValueError, match="abnormal_share"):
            SampleDataModule(table, abnormal_share=share)


def test_the_middle_of_photos_of_any_shape_is_cut_out_where_their_aspect_is_kept(tmp_path):
    rows = []
    for name, turned in (("wide", False), ("tall", True)):
        bands = np.zeros((64, 128, 3), np.uint8)  # a red, a green and a blue band; the middle square is green
        bands[:, :32, 0] = bands[:, 32:96, 1] = bands[:, 96:, 2] = 255
        mask = np.zeros((64, 128), np.uint8)
        mask[:, 30:64] = 255
        photo, mask = (np.swapaxes(each, 0, 1) if turned else each for each in (bands, mask))
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        rows.append({"image_path": f"{name}.png", "mask_path": f"{name}_mask.png", "label_index": 1, "split": "test"})
    table = make_table(rows, root=tmp_path, layout="plain", name="bands", published_split=True)
    frame = network_frame(32, keep_aspect=True)
    pre_processor = make_pre_processor(tuple(frame["image_size"]), tuple(frame["center_crop"]), (0, 0, 0), (1, 1, 1))
    dataset = SampleDataset(table, "test")
    SampleDataModule._update_subset_augmentations(dataset, None, pre_processor.transform)
    batch = dataset.collate_fn([dataset[0], dataset[1]])
    assert batch.image.shape == (2, 3, 32, 32)
    seen = pre_processor.transform(batch.image)  # what the model does to the batch once more
    tall, wide = seen[0], seen[1]
    assert torch.equal(wide, tall.transpose(1, 2))
    inside = wide[:, :, 1:-1]  # the outermost columns are mixed with the bands beside them
    assert torch.allclose(inside, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand_as(inside), atol=1e-6)
    assert batch.gt_mask[1].sum() == 32 * 16 and bool(batch.gt_mask[1, :, :16].all())
    framed = to_network_frame(read_image(tmp_path / "wide.png"), frame)
    assert np.abs(framed.astype(float) / 255 - wide.permute(1, 2, 0).numpy()).max() <= 1 / 255
    assert to_network_frame(np.ones((64, 128), bool), frame).shape == (32, 32)
    with pytest.raises(ValueError, match="keep_aspect"):
        network_frame(32, 16, keep_aspect=True)


def test_twelve_bits_are_one_scale_for_the_data_set_and_its_runs(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (4, 8, 8)).astype(np.uint16)
    values[1:] //= 8  # a photo alone would be taken for one of 10 bits
    for number, name in enumerate(("train/good/0.png", "train/good/1.tif", "test/good/0.png", "test/dent/0.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values[number]).save(tmp_path / "set" / name)
    table = read_dataset(tmp_path / "set")
    assert table.attrs["bit_depth"] == 12
    write_table(table, tmp_path / "samples.csv")
    table = read_table(tmp_path / "samples.csv")
    dataset = SampleDataset(table, "train")
    read = [(dataset[index].image[0] * 255).round().numpy() for index in range(2)]
    np.testing.assert_array_equal(read, values[:2] >> 4)
    found = check_dataset(table)
    assert found.loc[found["code"] == "16-bit", "problem"].str.contains("4095").all()
    assert open_run(tmp_path, "m", {"a": 1}, table, 0).info["parameters"] == {"a": 1, "bit_depth": 12}


@pytest.mark.parametrize(
    ("stated", "highest", "bits"), [(14, 4095, 14), (None, 4095, 12), (10, 4095, None), (11, 0, ValueError)]
)
def test_the_cameras_bits_can_be_stated(tmp_path, stated, highest, bits):
    for name in ("train/good/0.png", "test/good/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(np.array([[7, highest]], np.uint16)).save(tmp_path / name)
    (tmp_path / "dataset.json").write_text(json.dumps({"bit_depth": stated}))
    if bits is ValueError:
        with pytest.raises(ValueError, match="bit_depth"):
            read_dataset(tmp_path)
        return
    table = read_dataset(tmp_path)
    assert table.attrs["bit_depth"] == (bits or stated)
    codes = set(check_dataset(table)["code"])
    assert ("beyond-range" in codes) == (bits is None)


@pytest.mark.parametrize("write", ["mvtec", "coco", "resized", "tiles", "cut_outs"])
def test_what_is_made_of_a_data_set_keeps_its_bits(tmp_path, write):
    values = np.random.default_rng(0).integers(0, 1000, (4, 16, 16)).astype(np.uint16)
    for number, name in enumerate(("train/good/0.png", "train/good/1.png", "test/good/2.png", "test/good/3.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values[number]).save(tmp_path / "set" / name)
    (tmp_path / "set/dataset.json").write_text('{"bit_depth": 12}')
    table, out = read_dataset(tmp_path / "set"), tmp_path / "new"
    if write == "cut_outs":
        labels = [np.ones((16, 16), np.int32)] * 4
        rows = cut_outs(table["image_path"].tolist(), labels, size=16, margin=0, types=[{1: "good"}] * 4)
        write_dataset(rows, out)
    else:
        change = {"resized": resized(table, mode="L"), "tiles": tiles(table, 16)}.get(write)
        write_dataset(table, out, change=change, format="coco" if write == "coco" else "mvtec")
    new = read_dataset(out)
    assert new.attrs["bit_depth"] == 12 and len(new) == 4
    seen = np.sort([read_image(path)[..., 0].ravel() for path in new["image_path"]], axis=0)
    np.testing.assert_array_equal(seen, np.sort((values >> 4).reshape(4, -1), axis=0))
