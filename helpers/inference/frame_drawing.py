"""Frames of a video with what was found drawn and written on them: pictures (H, W, 3) uint8 in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from helpers.analysis.sizing import PixelSize
from helpers.drawing import (
    DEFECT,
    SOUND,
    annotate_photo,
    draw_outline,
    draw_overlay,
    enlargement,
    map_colours,
    picture_font,
    shorten,
)
from helpers.inference.clips import Frame
from helpers.thresholds import exceeds

LAYOUTS = ("overlay", "side", "sizes")
SMALLEST_SIDE = 360  # a smaller frame is enlarged to it, so that what is written can be read
HISTORY = 100  # scores that the layout "side" shows
MAX_WIDTH = 1920  # a wider picture is reduced: many players in hardware end there
_PANEL, _TEXT, _DIM = (24, 24, 24), (235, 235, 235), (165, 165, 165)
_NEITHER = (255, 190, 60)  # good nor bad


@dataclass(frozen=True)
class MapScale:
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


@dataclass(frozen=True)
class FrameContent:
    """What is to be seen in one frame: the verdict, large, in a defect's colour or a good one's (``abnormal`` None:
    neither, a broken frame), short lines of text, map (H, W), numbered defects (H, W) with their table, and the latest
    scores, this frame's last."""

    verdict: str
    abnormal: bool | None
    lines: Sequence[str]
    anomaly_map: np.ndarray | None = None
    labels: np.ndarray | None = None
    defects: pd.DataFrame | None = None
    history: Sequence[float] = ()

    @property
    def colour(self) -> tuple[int, int, int]:
        return _NEITHER if self.abnormal is None else DEFECT if self.abnormal else SOUND


def draw_frame(
    layout: str,
    photo: np.ndarray,
    content: FrameContent,
    scale: MapScale | None,
    threshold: float,
    pixel_size: PixelSize | None = None,
) -> np.ndarray:
    """One frame of a video; its size depends on the photo's size and the layout alone.

    ``overlay`` is the photo under the colours of its map with defects outlined, and below it verdict, scale and text.
    ``side`` is photo, map and verdict side by side, the latter with the latest scores and their threshold. ``sizes`` is
    `annotate_photo` with verdict and text below. Small frames are enlarged by a whole factor, wide ones reduced.
    """
    if layout == "sizes":
        labels, defects = content.labels, content.defects
        if defects is None:  # nothing was measured: the same size, without a mark
            labels = np.zeros(photo.shape[:2], np.int32)
            defects = pd.DataFrame(columns=["length", "bbox_x", "bbox_y", "bbox_width", "bbox_height"], dtype=float)
        body = annotate_photo(photo, labels, defects, pixel_size or PixelSize(1, 1, unit="px"))
        body = _resized(body, min(1.0, MAX_WIDTH / body.shape[1], 4 * MAX_WIDTH / body.shape[0]))
        return np.vstack([body, _banner(body.shape[1], content, None)])
    factor = _factor(photo, 2 if layout == "side" else 1)
    photo = _resized(photo, factor)
    mask = None if content.labels is None else _resized(np.uint8(content.labels > 0), factor, cv2.INTER_NEAREST)
    heat = None if content.anomaly_map is None else _resized(content.anomaly_map, factor, cv2.INTER_LINEAR)
    if layout == "overlay":
        if heat is not None:
            photo = draw_overlay(photo, heat - scale.low, mask, scale.threshold - scale.low)
        return np.vstack([photo, _banner(photo.shape[1], content, scale)])
    panels = [_captioned(photo, "photo", None)]
    if scale is not None:  # a frame that could not be judged has no map, but the picture keeps its shape
        colours = np.zeros_like(photo) if heat is None else draw_outline(scale.colours(heat), mask, _TEXT)
        panels.append(_captioned(colours, "map", scale))
    return np.hstack([*panels, _verdict_panel(panels[0].shape[0], content, threshold)])


def labelled_frame(frame: Frame) -> np.ndarray:
    """A frame's photo with its label and the name of its file in a band below it, enlarged as `draw_frame` does."""
    text = f"{frame.label or 'no label'}   {Path(frame.source).name}"
    return _captioned(_resized(frame.photo, _factor(frame.photo, 1)), shorten(text, 100), None, _TEXT)


def _factor(photo: np.ndarray, n_columns: int) -> float:
    height, width = photo.shape[:2]
    room = MAX_WIDTH if n_columns == 1 else 0.8 * MAX_WIDTH  # the verdict's panel takes the rest
    most = min(room / (n_columns * width), max(1.0, MAX_WIDTH / height))
    return min(float(enlargement(height, width, SMALLEST_SIDE)), most)


def _resized(picture: np.ndarray, factor: float, way: int | None = None) -> np.ndarray:
    if factor == 1:
        return picture
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    way = (cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC) if way is None else way
    return cv2.resize(picture, size, interpolation=way)


# ---------------------------------------------------------------------------------------------------------- text on it


def _letters(width: int) -> int:
    """Size of letters in pixels so that about 48 of them fit a width."""
    return int(np.clip(width / 28, 13, 26))


def _write(
    pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, room: float, colour: tuple[int, ...] = _TEXT
) -> None:
    """One line from (x, y) on, in smaller letters where it would not fit."""
    needed = max(1, pen.textlength(text, font=picture_font(size)))
    font = picture_font(size if needed <= room else max(9, int(size * room / needed)))
    pen.text((x, y), text, fill=colour, font=font, anchor="lm")


def _banner(width: int, content: FrameContent, scale: MapScale | None) -> np.ndarray:
    """Verdict and scale in one row, and below it the texts."""
    size = _letters(width)
    rows = 3 if width < 60 * size else 2
    image = Image.new("RGB", (width, round((2.3 + 1.4 * rows) * size)), _PANEL)
    pen = ImageDraw.Draw(image)
    font = picture_font(round(1.5 * size))
    pen.text((0.5 * size, 1.05 * size), content.verdict, fill=content.colour, font=font, anchor="lm")
    if scale is not None:
        _colour_bar(image, round(0.5 * width), round(0.25 * size), round(width - 0.5 * size), round(1.8 * size), scale)
    for row, texts in enumerate(np.array_split(content.lines, rows)):
        _write(pen, 0.5 * size, (1.9 + 1.4 * (row + 0.5)) * size, "   ".join(texts), size, width - size)
    return np.asarray(image)


def _captioned(panel: np.ndarray, caption: str, scale: MapScale | None, colour: tuple[int, ...] = _DIM) -> np.ndarray:
    """A panel with its name, and its scale of colours, in a band below it."""
    width = panel.shape[1]
    size = _letters(width)
    band = Image.new("RGB", (width, 2 * size), _PANEL)
    _write(ImageDraw.Draw(band), 0.5 * size, size, caption, size, width - size, colour)
    if scale is not None:
        _colour_bar(band, round(0.3 * width), round(0.2 * size), round(width - 0.5 * size), round(1.85 * size), scale)
    return np.vstack([panel, np.asarray(band)])


def _colour_bar(image: Image.Image, left: int, top: int, right: int, bottom: int, scale: MapScale) -> None:
    """A strip of the colours of the maps, with its ends and the threshold in numbers."""
    middle = round(top + 0.4 * (bottom - top))
    if right <= left or middle <= top:  # a frame a few pixels wide has no room for it
        return
    values = np.linspace(scale.low, scale.top, right - left, dtype=np.float32)[None]
    image.paste(Image.fromarray(np.repeat(scale.colours(values), middle - top, axis=0)), (left, top))
    pen, font = ImageDraw.Draw(image), picture_font(max(10, round(0.75 * (bottom - middle))))
    centre = (left + right) // 2
    pen.line((centre, top, centre, middle), fill=_TEXT, width=2)
    ends = ((left, "la", f"{scale.low:.3g}"), (right, "ra", f"{scale.top:.3g}"))
    for x, anchor, text in (*ends, (centre, "ma", f"threshold {scale.threshold:.3g}")):
        pen.text((x, middle + 1), text, fill=_DIM, font=font, anchor=anchor)


def _verdict_panel(height: int, content: FrameContent, threshold: float) -> np.ndarray:
    """Verdict, text, and the latest scores as dots over a line, the threshold."""
    width = round(0.8 * min(height, 0.25 * MAX_WIDTH)) // 2 * 2
    size = _letters(round(1.3 * width))
    image = Image.new("RGB", (width, height), _PANEL)
    pen = ImageDraw.Draw(image)
    margin, room, y = 0.5 * size, width - size, 3.9 * size
    pen.rectangle((0, 0, width, 2.8 * size), fill=content.colour)
    pen.text((width / 2, 1.4 * size), content.verdict, fill=_PANEL, font=picture_font(round(1.7 * size)), anchor="mm")
    for text in content.lines:
        _write(pen, margin, y, text, size, room)
        y += 1.45 * size
    top, bottom = y + 0.8 * size, height - 0.5 * size
    if bottom - y > 3 * size:
        _write(pen, margin, y, "latest scores and threshold", round(0.85 * size), room, _DIM)
        scores = np.asarray(content.history, dtype=float)
        values = np.append(scores[np.isfinite(scores)], threshold)
        low, spread = values.min(), max(float(np.ptp(values)), 0.04 * abs(threshold), 1e-9)
        heights = bottom - (0.1 + 0.8 * (np.append(scores, threshold) - low) / spread) * (bottom - top)
        pen.line((margin, heights[-1], width - margin, heights[-1]), fill=_DIM)
        for age, (score, middle) in enumerate(zip(scores[::-1], heights[-2::-1], strict=True)):
            if np.isfinite(score):
                x = width - margin - age * room / HISTORY
                pen.ellipse((x - 2, middle - 2, x + 2, middle + 2), fill=DEFECT if exceeds(score, threshold) else SOUND)
    return np.asarray(image)
