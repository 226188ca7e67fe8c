"""anomalib sees the splits of the table, and nothing else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Tabular
from readers import write
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
from helpers.data.samples import assign_splits, read_table, write_table
from helpers.models.catalog import network_frame
from helpers.models.parts import make_pre_processor
from helpers.runs import open_run


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """20 train, 12 normal and 8 abnormal test photos; photo i is grey i, defect i covers 2 columns of i + 1 rows."""
    files, (row, column) = {}, np.indices((6, 8))
    for folder, count, grey in (("train/good", 20, 0), ("test/good", 12, 0), ("test/hole", 8, 100)):
        files |= {f"{folder}/{i:02d}.png": np.full((6, 8, 3), grey + i, np.uint8) for i in range(count)}
    files |= {f"ground_truth/hole/{i:02d}_mask.png": (row <= i) & (column < 2) for i in range(8)}
    parts = read_dataset(write(tmp_path / "parts", files))
    return assign_splits(parts, val_fraction=0.25, val_abnormal_fraction=0.25, seed=4)


class Halved(torch.nn.Module):
    """An augmentation that writes into what it is given."""

    def forward(self, image: torch.Tensor, *masks: Mask) -> torch.Tensor | tuple[torch.Tensor, ...]:
        image.mul_(0.5)
        return (image, *masks) if masks else image


def module_of(table: pd.DataFrame, **options) -> SampleDataModule:
    module = SampleDataModule(table, **options)
    module.setup()
    return module


def seen(loader) -> list[str]:
    return [path for batch in loader for path in batch.image_path]


def of(table: pd.DataFrame, split: str) -> list[str]:
    return list(table.loc[table["split"] == split, "image_path"])


def test_loaders_hold_exactly_the_rows_of_the_table(table):
    module = module_of(table, train_batch_size=4, eval_batch_size=3)
    assert sorted(seen(module.train_dataloader())) == of(table, "train")
    # val and test in the table's order
    assert seen(module.val_dataloader()) == of(table, "val")
    assert seen(module.test_dataloader()) == of(table, "test") == seen(module.predict_dataloader())
    assert [len(of(table, split)) for split in ("train", "val", "test")] == [15, 5 + 2, 12 + 6]
    assert module.name == "parts"
    alone = module_of(table[table["split"] == "test"])
    assert alone.val_dataloader() == [] and len(seen(alone.test_dataloader())) == 18
    with pytest.raises(ValueError, match="no train photos"):
        alone.train_dataloader()


def test_items_are_what_anomalib_makes_of_them(table):
    dataset = SampleDataset(table, "test")
    mine = dataset[len(dataset) - 1]
    # the columns it knows; without a label of their own, val rows stop it
    label = table["label_index"].map({0: "normal", 1: "abnormal"})
    columns = table[["image_path", "mask_path", "label_index", "split"]].assign(label=label)
    theirs = Tabular(name="x", samples=columns)
    theirs._setup()
    other = next(item for item in theirs.test_data if item.image_path == mine.image_path)
    assert isinstance(mine.image, TensorImage) and isinstance(mine.gt_mask, Mask)
    assert torch.equal(mine.image, other.image) and torch.equal(mine.gt_mask, other.gt_mask)
    assert mine.image.dtype == other.image.dtype == torch.float32 and mine.gt_mask.dtype == other.gt_mask.dtype
    assert mine.gt_label == other.gt_label == 1 and mine.mask_path == other.mask_path
    number = int(Path(mine.image_path).stem)  # the fixture's grey
    assert mine.image.flatten().tolist() == pytest.approx([(100 + number) / 255] * (3 * 6 * 8))


@pytest.mark.parametrize("factor", [1, 2])
def test_batches_and_their_resize(table, factor):
    resize = Resize((12, 16)) if factor == 2 else None
    module = module_of(table, augmentations=resize, eval_batch_size=18)
    batch = next(iter(module.test_dataloader()))
    assert batch.image.shape == (18, 3, 6 * factor, 8 * factor) and batch.gt_mask.shape == (18, 6 * factor, 8 * factor)
    assert batch.gt_label.tolist() == [False] * 12 + [True] * 6 and batch.gt_mask[:12].sum() == 0
    numbers = [int(Path(path).stem) for path in batch.image_path[12:]]
    assert batch.gt_mask[12:].sum(dim=(1, 2)).tolist() == [factor**2 * 2 * min(i + 1, 6) for i in numbers]


def test_order_of_train_follows_from_seed_and_epoch_alone(table):
    def order(seed: int) -> list[list[str]]:
        torch.manual_seed(torch.randint(0, 10**6, ()).item())  # the global state plays no part
        loader = module_of(table, seed=seed, train_batch_size=4).train_dataloader()
        return [seen(loader), seen(loader)]

    first, second = order(1)
    assert order(1) == [first, second] != order(2) and first != second and sorted(first) == sorted(second)
    # epoch 3 is the same whether the epochs before it were run through or skipped (a resumed training)
    through, resumed = EpochSampler(9, seed=1), EpochSampler(9, seed=1)
    epochs = [list(through) for _ in range(4)]
    resumed.set_epoch(3)
    assert list(resumed) == epochs[3] and len({tuple(each) for each in epochs}) == 4


def test_a_split_is_read_without_masks_where_one_is_missing(table, caplog):
    row = table.index[(table["split"] == "test") & (table["label_index"] == 1)][0]
    table.loc[row, "mask_path"] = ""
    module = module_of(table)
    assert "1 abnormal photos in test have no mask" in caplog.text
    tasks = {split: getattr(module, f"{split}_data").task for split in ("train", "val", "test")}
    assert tasks == {"train": "segmentation", "val": "segmentation", "test": "classification"}
    assert all(batch.gt_mask is None for batch in module.test_dataloader())
    assert all(batch.gt_mask is not None for batch in module.val_dataloader())
    assert module_of(table, with_masks=False).task == "classification"


def test_what_cannot_be_trained_on_is_refused(table):
    unsplit, mixed = table.replace({"split": {"val": ""}}), table.copy()
    mixed.loc[mixed["split"] == "val", "split"] = "train"
    for wrong, options, words in (
        (unsplit, {}, "assign_splits"),
        (table[table["split"] == "val"], {}, "assign_splits"),
        (mixed, {}, "2 abnormal photos"),
        (table, {"abnormal_share": 0.5}, "abnormal_share"),
    ):
        with pytest.raises(ValueError, match=words):
            SampleDataModule(wrong, **options)
    batch = next(iter(module_of(mixed, allow_abnormal_train=True, train_batch_size=22).train_dataloader()))
    assert int(batch.gt_label.sum()) == 2 and batch.gt_mask.sum() > 0
    Path(of(table, "test")[2]).unlink()
    with pytest.raises(FileNotFoundError, match=Path(of(table, "test")[2]).name):
        seen(module_of(table).test_dataloader())


@pytest.mark.parametrize(("room", "in_worker", "again"), [(2**20, False, 0), (300, False, 13), (2**20, True, 15)])
def test_a_photo_is_decoded_once_while_there_is_room(table, monkeypatch, room, in_worker, again):
    """15 photos of 6 * 8 * 3 = 144 bytes: 300 bytes hold two."""
    read = []
    monkeypatch.setattr(datamodule, "KEPT_BYTES", room)
    monkeypatch.setattr(datamodule, "get_worker_info", lambda: object() if in_worker else None)
    monkeypatch.setattr(datamodule, "read_image", lambda path, bits=None: read.append(path) or read_image(path, bits))
    dataset = SampleDataset(table, "train", augmentations=Halved())
    first, second = [item.image.clone() for item in dataset], [item.image for item in dataset]
    assert len(read) == 15 + again
    by_hand = torch.stack([torch.from_numpy(read_image(path)).permute(2, 0, 1) / 510 for path in of(table, "train")])
    for found in (first, second):
        torch.testing.assert_close(torch.stack(found).as_subclass(torch.Tensor), by_hand)


def test_weights_of_photos_in_an_epoch(table):
    """Binomial, so within 5 standard errors of what was asked for."""
    table.loc[table["label_index"] == 1, "split"] = "train"
    types = table.loc[table["split"] == "train", "defect_type"].to_numpy()
    for options, share in (({"abnormal_share": 0.2}, 0.2), ({"balance": "defect_type"}, 0.5)):
        sampler = SampleDataModule(table, allow_abnormal_train=True, **options).train_dataloader().sampler
        drawn = np.concatenate([types[list(sampler)] for _ in range(60)])
        assert len(drawn) == 60 * len(types) == 60 * len(sampler)
        assert abs((drawn == "hole").mean() - share) < 5 * (share * (1 - share) / len(drawn)) ** 0.5


def test_the_middle_of_photos_of_any_shape_is_cut_out_where_their_aspect_is_kept(tmp_path):
    bands, mask = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 128), np.uint8)
    bands[:, :32, 0] = bands[:, 32:96, 1] = bands[:, 96:, 2] = 255  # red, green, blue; the middle square is green
    mask[:, 30:64] = 255
    files = {"images/tall.png": bands.transpose(1, 0, 2), "images/wide.png": bands}
    table = read_dataset(write(tmp_path, files | {"masks/tall.png": mask.T, "masks/wide.png": mask})).assign(
        split="test"
    )
    frame = network_frame(32, keep_aspect=True)
    pre_processor = make_pre_processor(tuple(frame["image_size"]), tuple(frame["center_crop"]), (0, 0, 0), (1, 1, 1))
    dataset = SampleDataset(table, "test")
    SampleDataModule._update_subset_augmentations(dataset, None, pre_processor.transform)
    batch = dataset.collate_fn([dataset[0], dataset[1]])
    assert batch.image.shape == (2, 3, 32, 32)
    tall, wide = pre_processor.transform(batch.image)  # what the model does to the batch once more
    assert torch.equal(wide, tall.transpose(1, 2))
    inside = wide[:, :, 1:-1]  # the outermost columns are mixed with the bands beside them
    assert torch.allclose(inside, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand_as(inside), atol=1e-6)
    assert batch.gt_mask[1].sum() == 32 * 16 and bool(batch.gt_mask[1, :, :16].all())
    framed = to_network_frame(bands, frame)
    assert np.abs(framed.astype(float) / 255 - wide.permute(1, 2, 0).numpy()).max() <= 1 / 255


def deep_set(folder: Path, values: np.ndarray, names: tuple[str, ...], bits: int | None = None) -> pd.DataFrame:
    files = dict(zip(names, values.astype(np.uint16), strict=True))
    return read_dataset(write(folder, files | {"dataset.json": {"bit_depth": bits}}))


FOUR = ("train/good/0.png", "train/good/1.tif", "test/good/0.png", "test/dent/0.png")


def test_twelve_bits_are_one_scale_for_the_data_set_and_its_runs(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (4, 8, 8))
    values[1:] //= 8  # a photo alone would be taken for one of 10 bits
    write_table(deep_set(tmp_path / "set", values, FOUR), tmp_path / "samples.csv")
    table = read_table(tmp_path / "samples.csv")
    assert table.attrs["bit_depth"] == 12
    dataset = SampleDataset(table, "train")
    read = [(dataset[index].image[0] * 255).round().numpy() for index in range(2)]
    np.testing.assert_array_equal(read, values[:2] >> 4)
    found = check_dataset(table)
    assert found.loc[found["code"] == "16-bit", "problem"].str.contains("4095").all()
    assert open_run(tmp_path, "m", {"a": 1}, table, 0).info["parameters"] == {"a": 1, "bit_depth": 12}


@pytest.mark.parametrize(("stated", "bits", "code"), [(14, 14, None), (None, 12, None), (10, 10, "beyond-range")])
def test_the_cameras_bits_can_be_stated(tmp_path, stated, bits, code):
    table = deep_set(tmp_path, np.full((2, 1, 2), 4095), FOUR[::2], stated)
    assert table.attrs["bit_depth"] == bits
    assert ("beyond-range" in set(check_dataset(table)["code"])) == (code is not None)
    with pytest.raises(ValueError, match="bit_depth"):
        deep_set(tmp_path, np.full((2, 1, 2), 4095), FOUR[::2], 11)


@pytest.mark.parametrize("how", ["mvtec", "coco", "resized", "tiles", "cut_outs"])
def test_what_is_made_of_a_data_set_keeps_its_bits(tmp_path, how):
    values, out = np.random.default_rng(0).integers(0, 1000, (4, 16, 16)), tmp_path / "new"
    names = [f"{split}/good/{number}.png" for number, split in enumerate(("train", "train", "test", "test"))]
    table = deep_set(tmp_path / "set", values, names, 12)
    if how == "cut_outs":
        labels = [np.ones((16, 16), np.int32)] * 4
        write_dataset(cut_outs(table["image_path"], labels, size=16, margin=0, types=[{1: "good"}] * 4), out)
    else:
        change = {"resized": resized(table, mode="L"), "tiles": tiles(table, 16)}.get(how)
        write_dataset(table, out, change=change, format="coco" if how == "coco" else "mvtec")
    new = read_dataset(out)
    assert new.attrs["bit_depth"] == 12 and len(new) == 4
    read = np.sort([read_image(path)[..., 0].ravel() for path in new["image_path"]], axis=0)
    np.testing.assert_array_equal(read, np.sort((values >> 4).reshape(4, -1), axis=0))
