"""From raw photos of several objects to one picture an object: the foreground network of notebook 03 at work, as the
first stage of a cascade and for a dataset of cut-outs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage

from helpers.analysis import matching
from helpers.compute import torch_device
from helpers.data.coco import InstancePhoto, read_instances
from helpers.data.convert import write_dataset
from helpers.data.images import read_image
from helpers.data.pieces import background_colour, cut_outs, cut_window, own_pixels, require_window
from helpers.data.samples import NORMAL, SPLITS, assign_splits, make_table
from helpers.drawing import draw_boxes
from helpers.inference.pictures import Item, save_overlay
from helpers.progress import progress
from helpers.runs import MissingRunError

if TYPE_CHECKING:
    from helpers.models.foreground import ForegroundNet

ABOUT_FILE = "foreground.json"
SHADOW = 5  # pixels around an object that are not taken for background
MARGIN = 0.1  # free room on each side of a cut-out object, in parts of its longer side, as in cut_outs
BEYOND = "symmetric"  # how a photo goes on beyond its border


def photo_table(photos: Sequence[InstancePhoto]) -> pd.DataFrame:
    """A sample table of raw photos, all of them normal: what their split and fingerprint are taken from."""
    root = photos[0].image_path.parent
    rows = [{"image_path": photo.image_path, "split": photo.split} for photo in photos]
    published = any(photo.split for photo in photos)
    return make_table(rows, root=root, layout="coco", name=root.name, published_split=published)


def split_photos(photos: Sequence[InstancePhoto], seed: int = 0) -> dict[str, list[InstancePhoto]]:
    """Photos for ``train`` (about 60 %), ``val`` (15 %) and ``test`` (25 %), or as they were published."""
    if not photos:
        return {part: [] for part in SPLITS}
    table = photo_table(photos)
    if (table["split"] == "").any():
        table = assign_splits(table, "one_class", val_fraction=0.2, test_fraction=0.25, seed=seed)
    split = dict(zip(table["image_path"], table["split"], strict=True))
    return {part: [photo for photo in photos if split[str(photo.image_path)] == part] for part in SPLITS}


def load_foreground(folder: Path) -> ForegroundNet:
    """The network that notebook 03 left in a dataset's folder ``foreground``; MissingRunError: there is none."""
    from helpers.models.foreground import CHECKPOINT_NAME, ForegroundNet

    if not (folder / ABOUT_FILE).is_file():
        notebook = "03_train_unet_deeplabv3plus on a dataset with raw frames"
        raise MissingRunError(f"There is no {folder / ABOUT_FILE}: run notebook {notebook} first.")
    return ForegroundNet.load_from_checkpoint(folder / CHECKPOINT_NAME, map_location="cpu", weights_only=True).eval()


def find_objects(network: ForegroundNet, photo: np.ndarray, **options: Any) -> np.ndarray:
    """Objects of a photo (H, W, 3) uint8: labels (H, W) int32, 0 is background; options of `separate`."""
    from helpers.models.foreground import predict_distance

    return matching.separate(predict_distance(network, photo), **options)


def foreground_segmenter(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Photo (H, W, 3) uint8 -> objects (H, W) bool, by the network that notebook 03 left in a dataset's artifacts."""
    network = load_foreground(folder / "foreground")
    return lambda photo: find_objects(network, photo) > 0


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

    A found object has the ``defect_type`` of the true one that it overlaps by an IoU of 0.5 or more; one that overlaps
    none counts as good, and so do all where no annotation names a type.
    """
    labels, types = [], []
    for photo in progress(photos, "finding objects"):
        found = find_objects(network, read_image(photo.image_path))
        labels.append(found)
        kinds = dict.fromkeys((int(number) for number in np.unique(found[found > 0])), NORMAL)
        for true, number, _ in matching.match_instances(photo.instance_masks(), found).pairs:
            kinds[number] = (photo.defect_types[true] if photo.defect_types else "") or NORMAL
        types.append(kinds)
    known = any(any(photo.defect_types) for photo in photos)
    paths = [photo.image_path for photo in photos]
    rows = cut_outs(paths, labels, size=size, types=types if known else None, **options)
    write_dataset(rows, out, source={"pixel_size": pixel_size}, force=True)
    return out


# ------------------------------------------------------------------------------------------- as a stage of a cascade


class CutterStage:
    """The foreground network in the folder ``foreground`` of a dataset's artifacts: every object it finds goes on by
    itself. ``otherwise`` is the verdict on a photo without any: neither normal nor abnormal.

    ``window`` is the side in pixels of the square cut out around each object, as large as in the photos that the next
    stage learned from; 0: the object's longer side and a tenth of it on each side. The ``background``: keep it;
    hide_neighbours, painted over with the look of the background; or remove all of it, as notebook 03 does with
    REMOVE_BACKGROUND. ``shrink``: so many pixels at an object's edge the next stage does not judge, for what a network
    says there depends on what lies beyond (an object no wider than twice that is judged whole). ``separate``: options
    of :func:`helpers.analysis.matching.separate`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "foreground",
        otherwise: str = "NO OBJECT",
        window: int = 0,
        background: str = "keep",
        shrink: int = 0,
        separate: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.network = load_foreground(folder).to(torch_device(device))
        self.name, self.otherwise, self.window, self.background = name, otherwise, window, background
        self.shrink, self.options = shrink, dict(separate or {})
        matching.separate(np.zeros((1, 1)), **self.options)  # a wrong value now, not at the first photo
        self.about = (folder / ABOUT_FILE).read_text(encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("otherwise", "window", "background", "shrink")}
        return {"name": self.name, "foreground": self.about, **plain, "separate": self.options}

    def run(self, items: Sequence[Item], out: Path, save: Collection[str]) -> list[Item]:
        for item in items:
            started = time.perf_counter()
            try:
                labels = self.find(item.photo)
                item.parts = self.cut(item, labels)
            except ValueError as error:  # a map that is not finite, a strip
                item.fail(self.name, str(error))
                continue
            n = len(item.parts)
            item.verdict = "" if n else self.otherwise
            row = {"decision": item.verdict or f"{n} object{'' if n == 1 else 's'}", "passed": n > 0, "value": n}
            row |= {"rule": "any object", "mask_pixels": int((labels > 0).sum())}
            item.add_row(self.name, **row, milliseconds=round(1000 * (time.perf_counter() - started), 3))
        return [part for item in items for part in item.parts]

    def find(self, photo: np.ndarray) -> np.ndarray:
        """Labels (H, W) int32 of the objects of a photo, 0 is background."""
        return find_objects(self.network, photo, **self.options)

    def unseen_frames(self, folder: Path) -> list[InstancePhoto]:
        """Of the raw frames that notebook 03 trained on, in this folder, those that the network has never seen."""
        if not folder.is_dir():
            raise MissingRunError(f"There is no {folder}: FRAMES_DATASET must be the dataset with raw frames.")
        return split_photos(read_instances(folder), seed=json.loads(self.about)["seed"])["test"]

    def finish(self, item: Item, out: Path, save: Collection[str]) -> None:
        """Save the photo with a box around each object, once all are judged."""
        if "overlay" in save and item.parts:
            boxes, abnormal = [part.box for part in item.parts], [bool(part.abnormal) for part in item.parts]
            path = save_overlay(out, self.name, item.key, draw_boxes(item.photo, boxes, abnormal))
            next(row for row in item.rows if row["stage"] == self.name)["overlay"] = path

    def cut(self, item: Item, labels: np.ndarray) -> list[Item]:
        """One item for each object of a photo; ``labels`` (H, W) int says where they are, 0 is background."""
        parts = []
        empty = _empty_background(item.photo, labels) if self.background == "hide_neighbours" else None
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            (top, bottom), (left, right) = ((side.start, side.stop) for side in place)
            width, height = right - left, bottom - top
            side = self.window or max(1, round(max(width, height) * (1 + 2 * MARGIN)))
            require_window(item.source, side, item.photo.shape)
            window = (left + (width - side) // 2, top + (height - side) // 2, side)
            own = own_pixels(labels, number, window, grow=0)
            picture = np.ascontiguousarray(cut_window(item.photo, window, BEYOND))
            if self.background == "hide_neighbours":
                # in the window, since beyond the photo's border objects are mirrored, too
                hidden = _grown((cut_window(labels, window, BEYOND) > 0) & ~own, SHADOW) & ~_grown(own, 1)
                picture[hidden] = cut_window(empty, window, BEYOND)[hidden]
            elif self.background == "remove":
                picture[~own_pixels(labels, number, window, grow=2)] = background_colour(item.photo, labels)
            inner = ndimage.distance_transform_edt(own) > self.shrink  # the window's border is no edge of the object
            box, mask = (left, top, width, height), inner if inner.any() else own
            parts.append(Item(item.source, f"{item.key}.objects/{number:03d}", picture, number, box, mask))
        return parts


def _empty_background(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How a photo (H, W, 3) uint8 would look without its objects: the background's mean, weighted by a Gaussian as wide
    as they are, with the grain of the largest empty place, mirrored. The photo itself where it has no background.
    """
    outside = ~_grown(labels > 0, SHADOW)
    if not outside.any():
        return photo
    sides = [max(part.stop - part.start for part in place) for place in ndimage.find_objects(labels) if place]
    sigma = max(sides, default=1) / 2
    weight = ndimage.gaussian_filter(outside.astype(np.float64), sigma)
    smooth = ndimage.gaussian_filter(photo * outside[:, :, None].astype(np.float64), (sigma, sigma, 0))
    smooth /= np.maximum(weight, np.finfo(float).tiny)[:, :, None]
    room = ndimage.distance_transform_edt(np.pad(outside, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(room.argmax(), room.shape)
    half = max(0, int(room.max() / math.sqrt(2)) - 1)  # half the side of a square in the empty place
    place = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    grain = photo[place] - smooth[place]
    beyond = [(0, max(0, side - part)) for side, part in zip(photo.shape[:2], grain.shape[:2], strict=True)]
    grain = np.pad(grain, [*beyond, (0, 0)], mode="symmetric")[: photo.shape[0], : photo.shape[1]]
    return np.clip(np.round(smooth + grain), 0, 255).astype(np.uint8)


def _grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A mask (H, W) bool with all that is at most so many pixels away."""
    return ndimage.distance_transform_edt(~mask) <= pixels if mask.any() else mask
