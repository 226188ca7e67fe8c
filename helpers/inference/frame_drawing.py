"""Frames of a video with what was found drawn and written on them: pictures (H, W, 3) uint8 in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from helpers.analysis.sizing import IN_PIXELS, PixelSize
from helpers.drawing import annotate_photo, draw_outline, draw_overlay, enlargement, map_colours, picture_font, shorten
from helpers.inference.clips import Frame

LAYOUTS = ("overlay", "side", "sizes")
SMALLEST_SIDE = 360  # a smaller frame is enlarged to it, so that what is written can be read
MAX_WIDTH = 1920  # a wider picture is reduced: many players in hardware end there
NEITHER = (255, 190, 60)  # neither a defect's colour nor a good one's
_PANEL, _TEXT, _DIM = (24, 24, 24), (235, 235, 235), (165, 165, 165)


class MapScale(NamedTuple):
    """One scale of colours for all maps of a video: ``low`` (what good pixels have) is the first, the pixel threshold,
    above it, the middle."""

    low: float
    threshold: float

    @property
    def top(self) -> float:
        """Value of the last colour."""
        return 2 * self.threshold - self.low

    def colours(self, anomaly_map: np.ndarray) -> np.ndarray:
        """A map (H, W) as (H, W, 3) uint8."""
        return map_colours(np.clip((anomaly_map - self.low) / (self.top - self.low), 0, 1))


class FrameContent(NamedTuple):
    """What is to be seen in one frame: the verdict, large, in its colour, short lines of text, map (H, W), and numbered
    defects (H, W) with their table."""

    verdict: str
    colour: tuple[int, int, int]
    lines: Sequence[str]
    anomaly_map: np.ndarray | None = None
    labels: np.ndarray | None = None
    defects: pd.DataFrame | None = None


def draw_frame(
    layout: str, photo: np.ndarray, content: FrameContent, scale: MapScale | None, size: PixelSize = IN_PIXELS
) -> np.ndarray:
    """One frame of a video, with verdict and text below; its size depends on the photo's and the layout alone.

    ``overlay`` is the photo under the colours of its map with defects outlined, ``side`` photo and map side by side,
    ``sizes`` `annotate_photo`. Small frames are enlarged by a whole factor, wide ones reduced.
    """
    if layout == "sizes":
        labels, defects = content.labels, content.defects
        if defects is None:  # nothing was measured: the same size, without a mark
            labels = np.zeros(photo.shape[:2], np.int32)
            defects = pd.DataFrame(columns=["length", "bbox_x", "bbox_y", "bbox_width", "bbox_height"], dtype=float)
        body = annotate_photo(photo, labels, defects, size)
        body = _resized(body, min(1.0, MAX_WIDTH / body.shape[1], 4 * MAX_WIDTH / body.shape[0]))
        return np.vstack([body, _banner(body.shape[1], content, None)])
    factor = _factor(photo, 2 if layout == "side" and scale is not None else 1)
    body = photo = _resized(photo, factor)
    mask = None if content.labels is None else _resized(np.uint8(content.labels > 0), factor, cv2.INTER_NEAREST)
    heat = None if content.anomaly_map is None else _resized(content.anomaly_map, factor, cv2.INTER_LINEAR)
    if layout == "side" and scale is not None:  # a broken frame has no map, but the picture keeps its shape
        colours = np.zeros_like(photo) if heat is None else draw_outline(scale.colours(heat), mask, _TEXT)
        body = np.hstack([photo, colours])
    elif heat is not None:
        body = draw_overlay(photo, heat - scale.low, mask, scale.threshold - scale.low)
    return np.vstack([body, _banner(body.shape[1], content, scale)])


def labelled_frame(frame: Frame) -> np.ndarray:
    """A frame's photo with its label and the name of its file in a band below it, enlarged as `draw_frame` does."""
    photo = _resized(frame.photo, _factor(frame.photo, 1))
    about = FrameContent(shorten(frame.label or "no label", 30), NEITHER, [shorten(Path(frame.source).name, 100)])
    return np.vstack([photo, _banner(photo.shape[1], about, None)])


def _factor(photo: np.ndarray, n_columns: int) -> float:
    height, width = photo.shape[:2]
    most = min(MAX_WIDTH / (n_columns * width), max(1.0, MAX_WIDTH / height))
    return min(float(enlargement(height, width, SMALLEST_SIDE)), most)


def _resized(picture: np.ndarray, factor: float, way: int | None = None) -> np.ndarray:
    if factor == 1:
        return picture
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    way = (cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC) if way is None else way
    return cv2.resize(picture, size, interpolation=way)


def _banner(width: int, content: FrameContent, scale: MapScale | None) -> np.ndarray:
    """Verdict and the ends of the map's colours in one row, and below it the texts, smaller where they do not fit."""
    size = int(np.clip(width / 28, 13, 26))  # of letters: about 48 of them fit
    rows = 3 if width < 60 * size else 2
    image = Image.new("RGB", (width, round((2.3 + 1.4 * rows) * size)), _PANEL)
    pen = ImageDraw.Draw(image)
    font = picture_font(round(1.5 * size))
    pen.text((0.5 * size, 1.05 * size), content.verdict, fill=content.colour, font=font, anchor="lm")
    if scale is not None:
        text = f"map {scale.low:.3g} to {scale.top:.3g}, threshold {scale.threshold:.3g}"
        pen.text((width - 0.5 * size, 1.05 * size), text, fill=_DIM, font=picture_font(size), anchor="rm")
    for row, texts in enumerate(np.array_split(content.lines, rows)):
        text = "   ".join(texts)
        share = (width - size) / max(1, pen.textlength(text, font=picture_font(size)))
        font = picture_font(size if share >= 1 else max(9, int(size * share)))
        pen.text((0.5 * size, (1.9 + 1.4 * (row + 0.5)) * size), text, fill=_TEXT, font=font, anchor="lm")
    return np.asarray(image)
