"""The one painter: maps, outlines, boxes, lengths and words on photos, (H, W, 3) uint8 in and out; and the one palette.

It lies below `helpers.inference`, which saves what it paints. Figures of matplotlib are in `helpers.views`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from helpers.analysis.severity import LEVELS
from helpers.analysis.sizing import IN_PIXELS, PixelSize

# Okabe and Ito (2008): told apart with any colour vision
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#B8B8B8"
CYCLE = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, BLACK)
MASK_COLOUR, PREDICTED_COLOUR = ORANGE, SKY
SEVERITY_COLOURS = dict(zip(LEVELS, (SKY, YELLOW, ORANGE, VERMILLION), strict=True))
DEFECT, SOUND = (255, 64, 64), (64, 220, 96)  # RGB of verdicts

OPACITY = 0.55  # of the colours where the map is highest
SMALLEST_SIDE = 640  # a smaller photo is enlarged to it, so that labels can be read
MOST_PIXELS = 1.5e6  # but to no more than this: a photo may be one pixel high
LONGEST = 8  # times as long as high: a longer picture is folded before it is looked at

Box = tuple[float, float, float, float]  # left, top, right, bottom


def shorten(text: object, limit: int = 24) -> str:
    """One line, cut in the middle where it is long, keeping its end, where names of files differ."""
    words = " ".join(str(text).split())
    if len(words) <= limit:
        return words
    tail = max(1, (limit - 1) * 2 // 3)
    return f"{words[: limit - 1 - tail]}…{words[-tail:]}"


def picture_font(size: int) -> ImageFont.FreeTypeFont:
    """Letters of a size in pixels: matplotlib's own font, so that pictures are the same on every machine."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def enlargement(height: int, width: int, smallest_side: int = SMALLEST_SIDE) -> int:
    """The whole factor that brings the shorter side to a size, or as far as `MOST_PIXELS` allow; at least 1."""
    allowed = int(math.sqrt(MOST_PIXELS / (height * width)))
    return max(1, min(math.ceil(smallest_side / min(height, width)), allowed))


def folded(picture: np.ndarray) -> np.ndarray:
    """A strip (H, W) or (H, W, 3), as of a line-scan camera, in pieces that lie below each other in reading order.

    A tall strip's pieces lie beside each other. Pieces overlap a little, so that what one cuts another shows whole.
    A picture that is no more than `LONGEST` times as long as it is high comes back as it is.
    """
    height, width = picture.shape[:2]
    if height > width:
        return folded(picture.swapaxes(0, 1)).swapaxes(0, 1)
    if width <= LONGEST * height:
        return picture
    n = round(math.sqrt(width / height))
    length = min(width, math.ceil(1.1 * width / n))
    nothing = 255 if picture.dtype == np.uint8 else np.nan
    gap = np.full((max(2, height // 15), length, *picture.shape[2:]), nothing, picture.dtype)
    starts = np.linspace(0, width - length, n).round().astype(int)
    return np.vstack([piece for start in starts for piece in (picture[:, start : start + length], gap)][:-1])


def map_colours(strength: np.ndarray) -> np.ndarray:
    """A map (H, W) from 0 to 1 in the colours that all maps have, (H, W, 3) uint8."""
    return cv2.applyColorMap(np.round(strength * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[:, :, ::-1]


def draw_overlay(
    photo: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray, threshold: float, *, opacity: float = OPACITY
) -> np.ndarray:
    """The photo under the colours of its map (H, W), with the outline of the mask (H, W).

    The scale is the same for all photos of a stage: its middle is the threshold of a pixel, its end twice that (for a
    threshold of 0 or less, the map's maximum). Up to half of the threshold nothing is drawn.
    """
    top = 2 * threshold if threshold > 0 else max(float(anomaly_map.max()), np.finfo(np.float32).tiny)
    strength = np.clip(anomaly_map / top, 0, 1).astype(np.float32)
    share = np.float32(opacity) * np.clip(2 * strength - 0.5, 0, 1)
    picture = cv2.blendLinear(
        np.ascontiguousarray(photo), np.ascontiguousarray(map_colours(strength)), 1 - share, share
    )
    return draw_outline(picture, mask, DEFECT)


def draw_outline(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    outlines, _ = cv2.findContours(np.asarray(mask, np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    line = max(1, round(max(mask.shape) / 512))
    return cv2.drawContours(np.ascontiguousarray(picture), outlines, -1, colour, line)


def draw_boxes(photo: np.ndarray, boxes: Sequence[tuple[int, int, int, int]], abnormal: Sequence[bool]) -> np.ndarray:
    """The photo with a box (x, y, width, height) around each object, red where it is abnormal, else green."""
    picture = photo.copy()
    line = max(1, round(max(photo.shape[:2]) / 256))
    for (x, y, across, down), wrong in zip(boxes, abnormal, strict=True):
        cv2.rectangle(picture, (x, y), (x + across - 1, y + down - 1), DEFECT if wrong else SOUND, line)
    return picture


def annotate_photo(
    photo: np.ndarray, labels: np.ndarray, table: pd.DataFrame, size: PixelSize = IN_PIXELS, *, caption: str = ""
) -> np.ndarray:
    """A photo with each defect's outline, its length as a bar, a label with number and length, and a scale bar.

    A small photo is enlarged by a whole factor (`enlargement`). ``labels`` (H, W) int and ``table`` are those of
    `measure_labels`; ``severity`` (the colour) and ``defect_type`` are shown where the table has them. The scale bar
    counts a pixel by its width. The caption stands in the upper left corner.
    """
    factor = enlargement(*labels.shape)
    colour_photo = photo if photo.ndim == 3 else np.dstack([photo] * 3)
    canvas = cv2.resize(colour_photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    side = min(canvas.shape[:2])
    names = table["severity"].map(SEVERITY_COLOURS) if "severity" in table else [MASK_COLOUR] * len(table)
    colours = [tuple(bytes.fromhex(name[1:])) for name in names]
    for row, colour in zip(table.itertuples(), colours, strict=True):
        _outline_and_length(canvas, labels, row, colour, factor, max(2, round(side / 450)))
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    of_strip = min(side // 3, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 60))
    font = picture_font(max(12, round(side / 42), of_strip))
    taken = [_text_box(pen, (side // 60, side // 60), shorten(caption, 100), font, (255, 255, 255))] if caption else []
    taken.append(_scale_bar(pen, picture.size, size.value_x / factor, size.unit, font))
    # What is drawn of the defects is to be seen too: labels keep clear of their boxes first.
    corners = table[["bbox_x", "bbox_y", "bbox_width", "bbox_height"]].to_numpy(dtype=float) * factor
    bodies = np.hstack([corners[:, :2], corners[:, :2] + corners[:, 2:]])
    for row, body, colour in zip(table.itertuples(), bodies, colours, strict=True):
        error, kind = getattr(row, "length_error", 0.0), shorten(getattr(row, "defect_type", ""), 16)
        sized = f"{row.length:.3g}" + (f" ± {error:.1g}" if error > 0 else "")
        text = " ".join(filter(None, [f"#{row.defect}", kind, sized, row.unit]))
        place = label_place(_box_size(pen, text, font), body, picture.size, taken, bodies, 0.4 * font.size)
        taken.append(_text_box(pen, place, text, font, colour))
    return np.asarray(picture)


def label_place(
    size: tuple[float, float],
    body: Box,
    shape: tuple[int, int],
    taken: Sequence[Box],
    bodies: Sequence[Box],
    gap: float,
) -> tuple[float, float]:
    """Where a label (width, height) goes in a picture (width, height), its left and top: of the places around a
    defect's body the one that covers least of other labels (taken), then of bodies."""
    (width, height), (left, top, right, bottom) = size, body
    above, below = top - height - gap, bottom + gap
    columns = (left, (left + right - width) / 2, right - width, right + gap, left - width - gap)
    rows = (above, below, (top + bottom - height) / 2, above - height - gap, below + height + gap)
    wanted = np.array([(x, y) for y in rows for x in columns])
    inside = np.clip(wanted, 0, np.subtract(shape, size) - 1)
    cost = 10 * _overlap(inside, size, taken) + _overlap(inside, size, bodies) + np.abs(inside - wanted).sum(axis=1)
    return tuple(inside[cost.argmin()])


def _overlap(places: np.ndarray, size: tuple[float, float], others: Sequence[Box]) -> np.ndarray:
    """Area that a box of a size shares with the others, at each place (N,)."""
    first, others = places[:, None], np.asarray(others, dtype=float).reshape(1, -1, 4)
    sides = np.minimum(first + size, others[..., 2:]) - np.maximum(first, others[..., :2])
    return np.maximum(sides, 0).prod(axis=2).sum(axis=1)


def _outline_and_length(
    canvas: np.ndarray, labels: np.ndarray, row: object, colour: tuple[int, ...], factor: int, line: int
) -> None:
    """A defect's outline, and its length as a line with a short bar across each end."""
    left, top = row.bbox_x, row.bbox_y
    part = labels[top : top + row.bbox_height, left : left + row.bbox_width] == row.defect
    part = np.kron(part, np.ones((factor, factor))).astype(np.uint8)
    place = (left * factor, top * factor)
    outlines, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=place)
    cv2.drawContours(canvas, outlines, -1, (0, 0, 0), line + 2)
    cv2.drawContours(canvas, outlines, -1, colour, line)
    ends = factor * np.array([(row.length_x0, row.length_y0), (row.length_x1, row.length_y1)])
    x, y = ends[1] - ends[0]
    across = 4 * line * np.array([-y, x]) / max(float(np.hypot(x, y)), 1e-9)
    strokes = [ends, *([end - across, end + across] for end in ends)]
    fine = [np.int32(np.round(16 * np.array(stroke))) for stroke in strokes]  # in sixteenths of a pixel
    for thickness, shade in ((line + 2, (0, 0, 0)), (line, (255, 255, 255))):
        cv2.polylines(canvas, fine, False, shade, thickness, cv2.LINE_AA, shift=4)


def _scale_bar(
    pen: ImageDraw.ImageDraw, shape: tuple[int, int], unit_a_pixel: float, unit: str, font: ImageFont.FreeTypeFont
) -> Box:
    """A bar of a round length in the lower right corner; its box comes back."""
    width, height = shape
    wanted = 0.22 * min(width, 4 * height) * unit_a_pixel
    power = 10.0 ** math.floor(math.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    pixels, text = length / unit_a_pixel, f"{length:g} {unit}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin, thick = round(font.size * 0.6), max(3, round(font.size / 4))
    wide = max(pixels, right - left)
    box = (width - wide - 3 * margin, height - (bottom - top) - thick - 4 * margin, width - margin, height - margin)
    pen.rectangle(box, fill=(0, 0, 0))
    middle, y = (box[0] + box[2]) / 2, box[3] - margin
    pen.rectangle((middle - pixels / 2, y - thick, middle + pixels / 2, y), fill=(255, 255, 255))
    pen.text((middle, box[1] + margin * 0.7), text, fill=(255, 255, 255), font=font, anchor="mt")
    return box


def _box_size(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> tuple[float, float]:
    return pen.textlength(text, font=font) + font.size * 0.6, font.size * 1.4


def _text_box(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, colour: tuple
) -> Box:
    box = (*place, *np.add(place, _box_size(pen, text, font)))
    pen.rectangle(box, fill=(0, 0, 0))
    pen.text((place[0] + font.size * 0.3, (box[1] + box[3]) / 2), text, fill=colour, font=font, anchor="lm")
    return box
