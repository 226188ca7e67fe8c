"""One call from a sample table to a trained, predicted run, for models that train by epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from helpers.compute import trainer_device
from helpers.data.augment import make_augmentations
from helpers.data.coco import InstancePhoto
from helpers.data.datamodule import SampleDataModule
from helpers.data.images import read_image, to_network_frame
from helpers.inference.engine import MinuteLines, trainer_precision
from helpers.inference.object_mask import ObjectMasks
from helpers.models.backbones import Backbone
from helpers.models.catalog import build_model, model_args, network_frame
from helpers.models.draem import TextureAnomalies, smoothed_maximum
from helpers.models.foreground import CHECKPOINT_NAME, ForegroundNet, FrameCrops, Onward, WholeFrames
from helpers.models.glass import GlassAnomalies
from helpers.models.segmentation import build_network
from helpers.paths import write_whole
from helpers.pictures.anomaly_source import AnomalySource
from helpers.progress import is_interactive, quiet_libraries
from helpers.runs import Run, open_run


def train_segmenter(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    backbone: Backbone,
    *,
    image_size: int,
    epochs: int,
    batch_size: int,
    predict_batch_size: int,
    learning_rate: float,
    loss: str,
    augmentation: dict[str, Any],
    abnormal_share: float,
    patience: int = 0,
    start_threshold: float = 0.3,
    accept: float = 0.95,
    precision: str = "auto",
    predict_train: bool = False,
    num_workers: int = 0,
    device: str = "auto",
    seed: int = 0,
    note: str | None = None,
) -> Run:
    """Train U-Net or DeepLabV3+, or find the finished run with the same photos, parameters and code.

    The weights are those of the epoch with the best ``val_dice``; an interrupted training goes on from its last epoch.

    Args:
        folder: a dataset's artifacts folder, see :func:`helpers.paths.dataset_folder`.
        name: ``unet`` or ``deeplabv3plus``.
        table: sample table of scheme ``supervised``.
        backbone: encoder.
        image_size: side in pixels that photos are resized to.
        epochs: passes over the training photos.
        batch_size: photos at once while training.
        predict_batch_size: photos at once when predicting.
        learning_rate: the highest one.
        loss: see :class:`helpers.models.segmentation.SegmentationLoss`.
        augmentation: arguments of :func:`helpers.data.augment.make_augmentations`, without ``image_size``.
        abnormal_share: see :class:`helpers.data.datamodule.EpochSampler`; taken for 0 where train has one class only.
        patience: epochs without a better ``val_dice`` before training stops; 0: never.
        start_threshold: predictions note the share of each map above it (column ``area``).
        accept: share of good photos that the thresholds are to accept; recorded with the run.
        precision: see :func:`helpers.inference.engine.trainer_precision`.
        predict_train: also predict the training photos.
        num_workers: processes that read photos.
        device: see :func:`helpers.compute.trainer_device`.
        seed: of new layers, order and augmentation.
        note: what everything made from the run must say.

    Returns:
        The run; a draft that lacks its thresholds (:meth:`helpers.runs.Run.finish`) unless it was found finished.
    """
    if table.loc[table["split"] == "train", "label_index"].nunique() < 2:
        abnormal_share = 0.0
    size = [image_size, image_size]
    settings = {"image_size": size, "center_crop": None, "scheme": "supervised", "backbone": backbone.to_dict()}
    settings |= {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "loss": loss}
    settings |= {"augmentation": augmentation, "abnormal_share": abnormal_share, "patience": patience, "accept": accept}
    settings |= {"start_threshold": start_threshold, "precision": precision, "predict_train": predict_train}
    run = open_run(folder, name, settings, table, seed, note=note)
    if run.finished:
        print(f"found finished: {run.describe()}")
        return run
    torch.manual_seed(seed)
    model = build_model(name, backbone, image_size=image_size, learning_rate=learning_rate, loss=loss)
    data = SampleDataModule(
        table,
        train_batch_size=batch_size,
        eval_batch_size=predict_batch_size,
        num_workers=num_workers,
        train_augmentations=make_augmentations(image_size=(image_size, image_size), **augmentation),
        seed=seed,
        allow_abnormal_train=True,
        abnormal_share=abnormal_share,
    )
    run.fit(
        model,
        data,
        device=device,
        epochs=epochs,
        monitor="val_dice",
        patience=patience,
        area_threshold=start_threshold,
        predict_train=predict_train,
        precision=trainer_precision(precision, device),
    )
    return run


def train_on_synthetic(
    folder: Path,
    name: str,
    table: pd.DataFrame,
    backbone: Backbone | None,
    source: AnomalySource,
    *,
    image_size: int,
    center_crop: int = 0,
    keep_aspect: bool = False,
    epochs: int,
    batch_size: int,
    predict_batch_size: int,
    eval_epochs: int = 1,
    select_on_val: bool = False,
    object_masks: ObjectMasks | None = None,
    start_threshold: float | None = None,
    accept: float = 0.95,
    precision: str = "auto",
    num_workers: int = 0,
    device: str = "auto",
    seed: int = 0,
    note: str | None = None,
    **parameters: Any,
) -> Run:
    """Train DRAEM or GLASS, or find the finished run with the same photos, textures, parameters and code.

    The weights are those of the last epoch, unless ``select_on_val``; an interrupted training goes on from the last
    epoch after which val was looked at.

    Args:
        folder: a dataset's artifacts folder, see :func:`helpers.paths.dataset_folder`.
        name: ``draem`` or ``glass``.
        table: sample table; its train photos are all normal.
        backbone: of GLASS; None for DRAEM.
        source: textures that the invented defects are made of.
        image_size: side in pixels that photos are resized to.
        center_crop: side in pixels cut out of that; 0: none.
        keep_aspect: see :func:`helpers.models.catalog.network_frame`.
        epochs: passes over the training photos.
        batch_size: photos at once while training.
        predict_batch_size: photos at once when predicting.
        eval_epochs: val is looked at after every so many epochs.
        select_on_val: keep the weights of the epoch with the best ``val_auroc``, which needs defect photos in val; the
            last epoch's stay beside them.
        object_masks: where the object is: GLASS invents defects there only, DRAEM's maps are confined to it; None: all.
        start_threshold: predictions note the share of each map above it (column ``area``); None: they do not.
        accept: share of good photos that the thresholds are to accept; recorded with the run.
        precision: see :func:`helpers.inference.engine.trainer_precision`.
        num_workers: processes that read photos.
        device: see :func:`helpers.compute.trainer_device`.
        seed: of new layers, order and invented defects.
        note: what everything made from the run must say.
        **parameters: the model's own, see its class.

    Returns:
        The run; a draft that lacks its thresholds (:meth:`helpers.runs.Run.finish`) unless it was found finished.

    Raises:
        ValueError: if an epoch is to be selected on val and val lacks normal or defect photos.
    """
    if select_on_val and table.loc[table["split"] == "val", "label_index"].nunique() < 2:
        raise ValueError(
            "SELECT_ON_VAL: val has no defect photo, so no epoch is better than another by AUROC; keep the last epoch."
        )
    frame = network_frame(image_size, center_crop, keep_aspect=keep_aspect)
    settings = frame | {"scheme": table.attrs["scheme"], "backbone": backbone.to_dict() if backbone else None}
    settings |= {"anomaly_source": source.to_dict(), "epochs": epochs, "batch_size": batch_size, "accept": accept}
    settings |= {"eval_epochs": eval_epochs, "select_on_val": select_on_val, "precision": precision}
    settings |= {"start_threshold": start_threshold, "model": parameters}
    settings |= {"object_mask": object_masks.kind if object_masks else None}
    run = open_run(folder, name, settings, table, seed, note=note)
    if run.finished:
        print(f"found finished: {run.describe()}")
        return run
    torch.manual_seed(seed)
    sizes = {"image_size": image_size, "center_crop": center_crop, "keep_aspect": keep_aspect}
    model = build_model(name, backbone, anomaly_source=source.folder, **sizes, **parameters)
    refine = None
    if object_masks:
        masks = ObjectMasks(object_masks.kind, frame, object_masks.segment)
        if name == "glass":
            model.object_masks = masks
        else:
            refine = masks.refine(smoothed_maximum)
    data = SampleDataModule(
        table, train_batch_size=batch_size, eval_batch_size=predict_batch_size, num_workers=num_workers, seed=seed
    )
    run.fit(
        model,
        data,
        device=device,
        epochs=epochs,
        monitor="val_auroc" if select_on_val else "",
        area_threshold=start_threshold,
        keep_last=select_on_val,
        refine=refine,
        check_val_every_n_epoch=min(eval_epochs, epochs),
        precision=trainer_precision(precision, device),
    )
    return run


def invented_examples(
    name: str, source: AnomalySource, image_paths: Sequence[str], frame: Mapping[str, Any], seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """Photos with defects as DRAEM or GLASS invents them, their masks and names: for ``figures.sample_grid``.

    Args:
        name: ``draem`` or ``glass``.
        source: textures.
        image_paths: good photos.
        frame: from :func:`helpers.models.catalog.network_frame`.
        seed: of the defects.
    """
    photos = np.stack([to_network_frame(read_image(Path(path)), frame) for path in image_paths])
    batch = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    torch.manual_seed(seed)
    if name == "draem":
        damaged, masks = TextureAnomalies(source.folder, 1.0, (0.1, 1.0))(batch)
    else:
        damaged, masks = GlassAnomalies(source.folder)(batch)
    pictures = (255 * damaged.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
    return list(pictures), list(masks[:, 0].numpy() > 0), [Path(path).name for path in image_paths]


def train_foreground(
    train: Sequence[InstancePhoto],
    val: Sequence[InstancePhoto],
    backbone: Backbone,
    folder: Path,
    *,
    image_size: int = 256,
    crop_size: int = 128,
    crops_per_photo: int = 4,
    epochs: int = 12,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    loss: str = "smooth_l1",
    object_weight: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> ForegroundNet:
    """Train a network on annotated photos, and write it and its losses to a folder.

    Args:
        train: photos to cut the training crops from.
        val: photos whose ``val_loss`` is followed; nothing is chosen by it. May be empty.
        backbone: encoder, from :func:`helpers.models.backbones.resolve_backbone`.
        folder: gets ``foreground.ckpt`` and ``metrics.csv`` (columns epoch, step, train_loss, val_loss).
        image_size: longer side of a photo, in pixels, as the network sees it. An object should be 20 pixels or more
            across then.
        crop_size: side of the training crops in pixels, a multiple of 32; best larger than an object.
        crops_per_photo: training crops an epoch from each photo.
        epochs: times that many crops are seen.
        batch_size: crops a step.
        learning_rate: see :class:`ForegroundNet`.
        loss: see :func:`distance_loss`.
        object_weight: see :func:`distance_loss`.
        seed: of the decoder's first weights and of the crops. The global random state is left as it was.
        device: see :func:`helpers.compute.trainer_device`.

    Returns:
        The trained network in evaluation mode, on the CPU.

    Raises:
        ValueError: no photo to train on, or a parameter or a photo that does not fit; the message names it.
    """
    quiet_libraries()
    crops = FrameCrops(train, image_size, crop_size, crops_per_photo * len(train), seed)
    loaders = [DataLoader(crops, batch_size, sampler=Onward(len(crops)))]
    if val:
        loaders.append(DataLoader(WholeFrames(val, image_size), batch_size=1))
    interactive = is_interactive()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ForegroundNet(
            backbone.architecture,
            backbone.mean,
            backbone.std,
            image_size,
            learning_rate,
            loss,
            object_weight,
            model_args(backbone.name),
            network=build_network("unet", backbone),
        )
        trainer = Trainer(
            max_epochs=epochs,
            logger=CSVLogger(folder, name="", version=""),
            callbacks=[] if interactive else [MinuteLines()],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=interactive,
            num_sanity_val_steps=0,
            **trainer_device(device),
        )
        trainer.fit(net, *loaders)
    write_whole(folder / CHECKPOINT_NAME, lambda partial: trainer.save_checkpoint(partial, weights_only=True))
    return net.eval().cpu()
