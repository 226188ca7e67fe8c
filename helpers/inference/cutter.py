"""The stage that cuts objects out of a photo, so that the stages behind it judge each by itself."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from helpers.compute import torch_device
from helpers.data.pieces import background_colour, cut_window, own_pixels, require_window
from helpers.drawing import draw_boxes
from helpers.inference.predictor import NOTEBOOKS
from helpers.inference.stages import Item, save_overlay
from helpers.runs import MissingRunError

if TYPE_CHECKING:
    from helpers.data.coco import InstancePhoto

BACKGROUNDS = ("keep", "hide_neighbours", "remove")
SHADOW = 5  # pixels around an object that are not taken for background
MARGIN = 0.1  # free room on each side of a cut-out object, in parts of its longer side, as in cut_outs
BEYOND = "symmetric"  # how a photo goes on beyond its border


class CutterStage:
    """The foreground network of notebook 03, in the folder ``foreground`` of a dataset's artifacts: every object it
    finds goes on by itself. ``otherwise`` is the verdict on a photo without any: neither normal nor abnormal.

    ``window`` is the side in pixels of the square cut out around each object, so that objects are shown as large as in
    the photos that the next stage learned from; 0: the object's longer side and a tenth of it on each side. The
    ``background``: keep it; hide_neighbours, which paints over other objects with the look of the background, for a run
    that learned from photos of single objects; or remove all of it, the median colour instead, as notebook 03 does with
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
        from helpers.analysis.matching import separate as separate_objects
        from helpers.inference.cutting import ABOUT_FILE, load_foreground

        for option, pixels in (("window", window), ("shrink", shrink)):
            if pixels < 0:
                raise ValueError(f"stage {name}: {option} must be 0 or more pixels, got {pixels}.")
        if background not in BACKGROUNDS:
            raise ValueError(f"stage {name}: background={background!r}: expected {', '.join(BACKGROUNDS)}.")
        if not (folder / ABOUT_FILE).is_file():
            raise MissingRunError(f"There is no {folder / ABOUT_FILE}: run notebook {NOTEBOOKS['foreground']} first.")
        self.name, self.otherwise, self.window, self.background = name, otherwise, window, background
        self.shrink, self.options = shrink, dict(separate or {})
        separate_objects(np.zeros((1, 1)), **self.options)  # a wrong value now, not at the first photo
        self.about = (folder / ABOUT_FILE).read_text(encoding="utf-8")
        self.network = load_foreground(folder).to(torch_device(device))

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
            item.add_row(
                self.name,
                decision=self.otherwise if n == 0 else f"{n} object{'' if n == 1 else 's'}",
                passed=n > 0,
                rule="any object",
                value=n,
                mask_pixels=int((labels > 0).sum()),
                milliseconds=round(1000 * (time.perf_counter() - started), 3),
            )
            item.verdict = "" if n else self.otherwise
        return [part for item in items for part in item.parts]

    def find(self, photo: np.ndarray) -> np.ndarray:
        """Labels (H, W) int32 of the objects of a photo, 0 is background."""
        from helpers.inference.cutting import find_objects

        return find_objects(self.network, photo, **self.options)

    def unseen_frames(self, folder: Path) -> list[InstancePhoto]:
        """Of the raw frames that notebook 03 trained on, in this folder, those that the network has not learned from;
        MissingRunError: there is no such folder.
        """
        from helpers.data.coco import read_instances
        from helpers.inference.cutting import split_photos

        if not folder.is_dir():
            raise MissingRunError(f"There is no {folder}: FRAMES_DATASET must be the dataset with raw frames.")
        return split_photos(read_instances(folder), seed=json.loads(self.about)["seed"])["test"]

    def finish(self, item: Item, out: Path, save: Collection[str]) -> None:
        """Save the photo with a box around each object, once all are judged."""
        if "overlay" in save and item.parts:
            with item.saving(self.name):
                boxes, abnormal = [part.box for part in item.parts], [bool(part.abnormal) for part in item.parts]
                path = save_overlay(out, self.name, item.key, draw_boxes(item.photo, boxes, abnormal))
                next(row for row in item.rows if row["stage"] == self.name)["overlay"] = path

    def cut(self, item: Item, labels: np.ndarray) -> list[Item]:
        """One item for each object of a photo; ``labels`` (H, W) int says where they are, 0 is background."""
        parts = []
        empty = empty_background(item.photo, labels) if self.background == "hide_neighbours" else None
        colour = background_colour(item.photo, labels) if self.background == "remove" else None
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            (top, bottom), (left, right) = ((side.start, side.stop) for side in place)
            width, height = right - left, bottom - top
            side = self.window or max(1, round(max(width, height) * (1 + 2 * MARGIN)))
            require_window(item.source, side, item.photo.shape)
            window = (left + (width - side) // 2, top + (height - side) // 2, side)
            own = own_pixels(labels, number, window, grow=0)
            picture = np.ascontiguousarray(cut_window(item.photo, window, BEYOND))
            if empty is not None:
                # in the window, since beyond the photo's border objects are mirrored, too
                hidden = grown((cut_window(labels, window, BEYOND) > 0) & ~own, SHADOW) & ~grown(own, 1)
                picture[hidden] = cut_window(empty, window, BEYOND)[hidden]
            if colour is not None:
                picture[~own_pixels(labels, number, window, grow=2)] = colour
            key = f"{item.key}.objects/{number:03d}"
            parts.append(Item(item.source, key, picture, number, (left, top, width, height), shrunk(own, self.shrink)))
        return parts


def empty_background(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How a photo (H, W, 3) uint8 would look without its objects: the background's brightness nearby, with its grain.

    The brightness is a mean of the background, weighted by a Gaussian as wide as the objects; the grain is what the
    largest empty place differs from it, mirrored over the whole photo. The photo itself where it has no background.
    """
    outside = ~grown(labels > 0, SHADOW)
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


def grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A mask (H, W) bool with all that is at most so many pixels away."""
    return ndimage.distance_transform_edt(~mask) <= pixels if mask.any() else mask


def shrunk(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A mask (H, W) bool without what is at most so many pixels from its edge; the mask itself where nothing is left.

    The border of the picture is no edge: the object may go on beyond it.
    """
    inner = ndimage.distance_transform_edt(mask) > pixels
    return inner if inner.any() else mask
