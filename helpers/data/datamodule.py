"""The bridge from a sample table to anomalib: the splits of the table, and nothing else.

anomalib's ``Tabular`` ignores ``val`` rows, halves the test set to get a validation set, and takes normal photos from
train when test has none. `SampleDataModule` does none of this: what the table says is what train, val and test hold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import ImageItem
from anomalib.data.datamodules.image.tabular import Tabular
from anomalib.data.datasets.base.image import AnomalibDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.data.utils import TestSplitMode, ValSplitMode
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform
from torchvision.transforms.v2.functional import to_dtype, to_image
from torchvision.tv_tensors import Mask

from helpers.data.images import read_image, read_mask, require_resizable
from helpers.data.samples import SPLITS

logger = logging.getLogger(__name__)

KEPT_BYTES = 2**29  # of decoded photos that a dataset keeps: decoding costs more than all else done to a small photo


class SampleDataset(AnomalibDataset):
    """The rows of one split, in the table's order, as anomalib items.

    An item has ``image`` (3, H, W) float32 in [0, 1], ``gt_label`` (bool once batched), ``gt_mask`` (H, W) uint8 0 or 1
    (zeros for a normal photo), ``image_path``, ``mask_path``. Where an abnormal photo lacks its mask, all of the split
    is read without masks (task "classification") and a warning says so: it would count as free of defects in every
    pixel metric. Photos of train and val, which every epoch sees, are read once and kept, but not by worker processes,
    which end with an epoch.
    """

    def __init__(self, table: pd.DataFrame, split: str, augmentations: Transform | None = None) -> None:
        super().__init__(augmentations=augmentations)
        samples = table[table["split"] == split].reset_index(drop=True)
        abnormal = samples["label_index"] == 1
        without = int((samples["mask_path"][abnormal] == "").sum())
        has_masks = bool((table["mask_path"] != "").any())
        if has_masks and without:
            logger.warning(
                "%d abnormal photos in %s have no mask: it is read without (no pixel metrics).", without, split
            )
        samples.attrs = {"task": "segmentation" if has_masks and not without else "classification"}
        # past the setter, which sorts by the absolute path: the table's order stays
        self._samples = samples
        self.resized_to: Sequence[int] = (0, 0)  # by the augmentations: (height, width), or (shorter side,)
        self._bits = table.attrs.get("bit_depth")
        self._kept: dict[str, np.ndarray] = {}
        self._room = 0 if split == "test" else KEPT_BYTES

    def _photo(self, path: str) -> np.ndarray:
        """A photo, which must not be written into."""
        photo = self._kept.get(path)
        if photo is None:
            photo = read_image(path, self._bits)
            if photo.nbytes <= self._room and get_worker_info() is None:
                self._kept[path] = photo
                self._room -= photo.nbytes
        return photo

    def __getitem__(self, index: int) -> ImageItem:
        row = self.samples.iloc[index]
        photo = self._photo(row.image_path)
        require_resizable(photo.shape, self.resized_to, row.image_path)
        image, mask = to_dtype(to_image(photo), torch.float32, scale=True), None
        if self.task == "segmentation":
            shape = photo.shape[:2]
            pixels = read_mask(row.mask_path, shape) if row.label_index == 1 else np.zeros(shape, bool)
            mask = Mask(torch.from_numpy(pixels), dtype=torch.uint8)
        if self.augmentations and mask is None:
            image = self.augmentations(image)
        elif self.augmentations:
            image, mask = self.augmentations(image, mask)
        label, paths = torch.tensor(int(row.label_index)), {"image_path": row.image_path, "mask_path": row.mask_path}
        return ImageItem(image=image, gt_mask=mask, gt_label=label, **paths)


class EpochSampler(Sampler[int]):
    """Order of the training photos in each epoch; it follows from (seed, epoch), so a resumed training has it too.

    With ``weights``, one a photo, as many as there are are drawn with replacement; without, every photo comes once.
    """

    def __init__(self, n_photos: int, seed: int, weights: Sequence[float] | None = None) -> None:
        self.n_photos, self.seed, self.epoch = n_photos, seed, 0
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch comes next; else it is the one after the last."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        self.epoch += 1
        if self.weights is None:
            return iter(torch.randperm(self.n_photos, generator=generator).tolist())
        return iter(torch.multinomial(self.weights, self.n_photos, replacement=True, generator=generator).tolist())

    def __len__(self) -> int:
        return self.n_photos


class SampleDataModule(Tabular):
    """anomalib datamodule whose train, val and test are exactly the rows of the table.

    Train is shuffled from ``seed``, so that two runs see the photos in the same order; val and test keep the table's.

    ``allow_abnormal_train`` lets train hold abnormal photos, for supervised models; ``abnormal_share`` is theirs in a
    training epoch (0: every photo once); ``balance`` names a column each of whose values comes equally often in one;
    ``drop_single`` leaves out a last training batch of one photo, which has no statistics. ``options`` are `Tabular`'s:
    batch sizes (here 16), ``num_workers`` (here 0), augmentations.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        seed: int = 0,
        allow_abnormal_train: bool = False,
        abnormal_share: float = 0.0,
        balance: str = "",
        with_masks: bool = True,
        drop_single: bool = False,
        **options: Any,
    ) -> None:
        name, train = table.attrs.get("name") or "samples", table[table["split"] == "train"]
        n_abnormal = int(train["label_index"].sum())
        if (table["split"] == "").any() or not table["split"].isin(["train", "test"]).any():
            raise ValueError(f"{name} has photos in no split, or none in train and test; call assign_splits first.")
        if n_abnormal and not allow_abnormal_train:
            raise ValueError(
                f"Train holds {n_abnormal} abnormal photos; split with 'one_class', or allow_abnormal_train."
            )
        if not 0 <= abnormal_share < 1 or (abnormal_share and not 0 < n_abnormal < len(train)):
            raise ValueError(
                f"abnormal_share={abnormal_share}: give 0, or below 1 if train holds normal and abnormal ones."
            )
        split_modes = {"test_split_mode": TestSplitMode.NONE, "val_split_mode": ValSplitMode.NONE}
        options = {"train_batch_size": 16, "eval_batch_size": 16, "num_workers": 0} | options
        super().__init__(name=name, samples=table, seed=seed, **split_modes, **options)
        self.table = table if with_masks else table.assign(mask_path="")
        self.abnormal_share, self.balance, self.drop_single = abnormal_share, balance, drop_single
        self.predict_split = "test"

    def _setup(self, _stage: str | None = None) -> None:
        for split in SPLITS:
            # a split without rows has no dataset, as anomalib's own modules have it
            if (self.table["split"] == split).any():
                setattr(self, f"{split}_data", SampleDataset(self.table, split))

    @staticmethod
    def _update_subset_augmentations(
        dataset: AnomalibDataset, augmentations: Transform | None, model_transform: Transform
    ) -> None:
        """As anomalib has it; where the model resizes the shorter side, also crop, so that a batch has one size."""
        Tabular._update_subset_augmentations(dataset, augmentations, model_transform)
        resize = next(iter(extract_transforms_by_type(model_transform, Resize)), None)
        if resize is not None and len(resize.size) == 1:
            crops = extract_transforms_by_type(model_transform, CenterCrop)
            dataset.augmentations = Compose([dataset.augmentations, *crops])
            dataset.resized_to = resize.size

    def _create_test_split(self) -> None:
        """Leave the table's test split as it is."""

    def train_dataloader(self) -> DataLoader:
        dataset, weights = self._dataset("train"), None
        if self.abnormal_share or self.balance:
            groups = dataset.samples[self.balance or "label_index"]
            share = np.where(groups == 1, self.abnormal_share, 1 - self.abnormal_share) if self.abnormal_share else 1.0
            weights = share / groups.map(groups.value_counts()).to_numpy(dtype=np.float64)
        drop_last = self.drop_single and len(dataset) % self.train_batch_size == 1
        sampler = EpochSampler(len(dataset), self.seed, weights)
        return self._loader(dataset, sampler=sampler, drop_last=drop_last, batch_size=self.train_batch_size)

    def val_dataloader(self) -> DataLoader | list:
        return super().val_dataloader() if hasattr(self, "val_data") else []

    def test_dataloader(self) -> DataLoader:
        return self._loader(self._dataset("test"), batch_size=self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Photos of ``predict_split`` in the table's order; those of train as if they were test photos."""
        dataset = self._dataset(self.predict_split)
        if self.predict_split == "train":
            as_tested = self._dataset("test" if hasattr(self, "test_data") else "val").augmentations
            dataset = SampleDataset(self.table, "train", augmentations=as_tested)
        return self._loader(dataset, batch_size=self.eval_batch_size)

    def _loader(self, dataset: SampleDataset, **options: Any) -> DataLoader:
        return DataLoader(dataset, num_workers=self.num_workers, collate_fn=dataset.collate_fn, **options)

    def _dataset(self, split: str) -> SampleDataset:
        if not hasattr(self, f"{split}_data"):
            self.setup()
        if not hasattr(self, f"{split}_data"):
            raise ValueError(f"The table of {self.name} has no {split} photos; check its splits.")
        return getattr(self, f"{split}_data")
