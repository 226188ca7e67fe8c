"""From raw photos of several objects to one picture an object: the distance-map network at work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.matching import match_instances, separate
from helpers.data.coco import InstancePhoto
from helpers.data.convert import write_dataset
from helpers.data.images import read_image
from helpers.data.pieces import cut_outs
from helpers.data.samples import NORMAL, SPLITS, assign_splits, make_table
from helpers.inference.train import train_foreground
from helpers.models.backbones import Backbone
from helpers.models.foreground import CHECKPOINT_NAME, ForegroundNet, predict_distance
from helpers.paths import hold, write_json
from helpers.progress import progress
from helpers.runs import MissingRunError, run_fingerprint

ABOUT_FILE = "foreground.json"


def split_photos(photos: Sequence[InstancePhoto], seed: int = 0) -> dict[str, list[InstancePhoto]]:
    """Photos for ``train`` (about 60 %), ``val`` (15 %) and ``test`` (25 %); a published split is kept.

    Which photo goes where follows from the hash of its name and the seed, as for any dataset here.
    """
    if not photos:
        return {"train": [], "val": [], "test": []}
    table = photo_table(photos)
    if (table["split"] == "").any():
        table = assign_splits(table, "one_class", val_fraction=0.2, test_fraction=0.25, seed=seed)
    split = dict(zip(table["image_path"], table["split"], strict=True))
    return {part: [photo for photo in photos if split[str(photo.image_path)] == part] for part in SPLITS}


def photo_table(photos: Sequence[InstancePhoto]) -> pd.DataFrame:
    """A sample table of raw photos, all of them normal: what their split and fingerprint are taken from."""
    root = photos[0].image_path.parent
    rows = [{"image_path": photo.image_path, "split": photo.split} for photo in photos]
    published = any(photo.split for photo in photos)
    return make_table(rows, root=root, layout="coco", name=root.name, published_split=published)


def train_or_load_foreground(
    parts: Mapping[str, Sequence[InstancePhoto]], backbone: Backbone, folder: Path, *, seed: int = 0, **parameters: Any
) -> ForegroundNet:
    """The network that an earlier call with the same photos (:func:`split_photos`) and parameters (of
    :func:`helpers.inference.train.train_foreground`) left in the folder, or a new one; test photos play no part.

    Raises:
        InUseError: another process is training it.
    """
    photos = [*parts["train"], *parts["val"]]
    plain = {name: value for name, value in parameters.items() if name != "device"}
    settings = {"backbone": backbone.to_dict(), "train": len(parts["train"]), **plain}
    identity = run_fingerprint("foreground", settings, photo_table(photos), seed)
    about = folder / ABOUT_FILE
    if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["fingerprint"] == identity:
        return load_foreground(folder)
    with hold(folder.with_name(f".{folder.name}.lock"), str(folder)):
        about.unlink(missing_ok=True)
        network = train_foreground(parts["train"], backbone, folder, seed=seed, **parameters)
        write_json({"fingerprint": identity, "seed": seed, "note": backbone.note, "parameters": settings}, about)
    return network


def load_foreground(folder: Path) -> ForegroundNet:
    """The network that notebook 03 left in a dataset's folder ``foreground``; MissingRunError: there is none."""
    if not (folder / ABOUT_FILE).is_file():
        raise MissingRunError(f"There is no {folder / ABOUT_FILE}: run notebook 03 on a dataset with raw frames first.")
    return ForegroundNet.load_from_checkpoint(folder / CHECKPOINT_NAME, map_location="cpu", weights_only=True).eval()


def find_objects(network: ForegroundNet, photo: np.ndarray, **options: Any) -> np.ndarray:
    """Objects of a photo (H, W, 3) uint8: labels (H, W) int32, 0 is background; options of
    :func:`helpers.analysis.matching.separate`.
    """
    return separate(predict_distance(network, photo), **options)


def cut_out(
    network: ForegroundNet,
    photos: Sequence[InstancePhoto],
    out: Path,
    *,
    size: int = 256,
    pixel_size: float | None = None,
    **options: Any,
) -> Path:
    """Find the objects of photos and write one picture each, of ``size`` pixels a side, as a dataset for notebooks 01
    and 02; cut-outs of an earlier call are replaced. Options of :func:`helpers.data.pieces.cut_outs`.

    Where the annotations say what is wrong with each object (a key ``defect_type``), a found object has the type of the
    true one that it overlaps by an IoU of 0.5 or more; one that overlaps none counts as good. Where none says, all are
    taken for good.
    """
    labels, types = [], []
    for photo in progress(photos, "finding objects"):
        found = find_objects(network, read_image(photo.image_path))
        labels.append(found)
        kinds = dict.fromkeys((int(number) for number in np.unique(found[found > 0])), NORMAL)
        for true, number, _ in match_instances(photo.instance_masks(), found).pairs:
            kinds[number] = (photo.defect_types[true] if photo.defect_types else "") or NORMAL
        types.append(kinds)
    known = any(any(photo.defect_types) for photo in photos)
    paths = [photo.image_path for photo in photos]
    rows = cut_outs(paths, labels, size=size, types=types if known else None, **options)
    write_dataset(rows, out, source={"pixel_size": pixel_size}, force=True)
    return out
