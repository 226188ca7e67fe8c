"""Frames of a video with what was found drawn and written on them, and figures of a whole video.

As everywhere in :mod:`helpers.views`: data in, a picture or a matplotlib Figure out; nothing is loaded, saved or shown.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw

from helpers.analysis.sizing import PixelSize
from helpers.drawing import DEFECT, SOUND, annotate_photo, draw_overlay, enlargement, picture_font
from helpers.thresholds import exceeds
from helpers.views.figures import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILLION, WIDTH, clean_axis, new_figure, shorten

LAYOUTS = ("overlay", "side", "sizes")
SMALLEST_SIDE = 360  # a smaller frame is enlarged to it, so that what is written can be read
MAX_WIDTH = 1920  # a wider picture is reduced: many players in hardware end there
_PANEL, _TEXT, _DIM = (24, 24, 24), (235, 235, 235), (165, 165, 165)
_BROKEN = (255, 190, 60)
_MARGIN = 0.5  # of the size of the letters


@dataclass(frozen=True)
class MapScale:
    """One scale of colours for all maps of a video, with the pixel threshold in its middle.

    Attributes:
        low: value of the first colour: what good pixels have.
        threshold: of a pixel, above ``low``; the last colour stands for as much above it.
    """

    low: float
    threshold: float

    @property
    def top(self) -> float:
        """Value of the last colour."""
        return 2 * self.threshold - self.low

    def colours(self, anomaly_map: np.ndarray) -> np.ndarray:
        """A map (H, W) as (H, W, 3) uint8."""
        strength = np.clip((anomaly_map - self.low) / (self.top - self.low), 0, 1)
        return cv2.applyColorMap(np.round(strength * 255).astype(np.uint8), cv2.COLORMAP_MAGMA)[:, :, ::-1]


@dataclass(frozen=True)
class Found:
    """What is to be seen in one frame.

    Attributes:
        verdict: in a word or two, printed large.
        abnormal: whether it is a defect's colour; None: neither good nor bad (a broken frame).
        lines: text beside or below it, short.
        anomaly_map: (H, W) float32, or None where there is none.
        labels: (H, W) int32, numbered defects, or None.
        defects: their table (:func:`helpers.analysis.sizing.measure_labels`), for the layout ``sizes``.
        history: latest scores, this frame's last, for the layout ``side``.
    """

    verdict: str
    abnormal: bool | None
    lines: Sequence[str]
    anomaly_map: np.ndarray | None = None
    labels: np.ndarray | None = None
    defects: pd.DataFrame | None = None
    history: Sequence[float] = field(default_factory=tuple)


def draw_frame(
    layout: str,
    photo: np.ndarray,
    found: Found,
    scale: MapScale | None,
    threshold: float,
    pixel_size: PixelSize | None = None,
) -> np.ndarray:
    """One frame of a video; its size depends on the photo's size and the layout alone.

    ``overlay`` is the photo under the colours of its map with defects outlined, and below it verdict, scale and text.
    ``side`` is photo, map and verdict side by side, the latter with the latest scores. ``sizes`` is
    :func:`helpers.drawing.annotate_photo` with verdict and text below. Small frames are enlarged by a whole
    factor, and what is wider than `MAX_WIDTH` is reduced.

    Args:
        layout: one of `LAYOUTS`.
        photo: (H, W, 3) uint8.
        found: in it.
        scale: of the map; None where frames have no map.
        threshold: of a photo's score, drawn into the latest scores.
        pixel_size: of the scale bar in ``sizes``; default: pixels.

    Returns:
        (h, w, 3) uint8, both sides even.

    Raises:
        ValueError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(LAYOUTS)}.")
    if layout == "sizes":
        body = _sized(photo, found, pixel_size or PixelSize(1, 1, unit="px"))
        return _even(np.vstack([body, _banner(body.shape[1], found, None)]))
    n_columns = 2 if layout == "side" else 1
    photo, anomaly_map, labels = _enlarged(photo, found, n_columns)
    if layout == "overlay":
        body = photo
        if anomaly_map is not None and scale is not None:
            mask = labels > 0 if labels is not None else np.zeros(photo.shape[:2], bool)
            body = draw_overlay(photo, anomaly_map - scale.low, mask, scale.threshold - scale.low)
        return _even(np.vstack([body, _banner(body.shape[1], found, scale)]))
    panels = [_captioned(photo, "photo", None)]
    if scale is not None:
        # A frame that could not be judged has no map, but the picture keeps its shape.
        colours = np.zeros_like(photo) if anomaly_map is None else scale.colours(anomaly_map)
        panels.append(_captioned(_outlined(colours, labels), "map", scale))
    return _even(np.hstack([*panels, _verdict_panel(panels[0].shape[0], found, threshold)]))


def labelled_photo(photo: np.ndarray, text: str) -> np.ndarray:
    """A photo with a line of text in a band below it, enlarged as `draw_frame` does: (h, w, 3) uint8."""
    photo, _, _ = _enlarged(photo, Found("", None, ()), 1)
    band = Image.new("RGB", (photo.shape[1], round(2 * _letters(photo.shape[1]))), _PANEL)
    _write(
        ImageDraw.Draw(band),
        (0.5 * _letters(photo.shape[1]), band.height / 2),
        shorten(text, 100),
        photo.shape[1],
        _TEXT,
    )
    return _even(np.vstack([photo, np.asarray(band)]))


def _enlarged(
    photo: np.ndarray, found: Found, n_columns: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Photo, map and labels at the size they are drawn at."""
    height, width = photo.shape[:2]
    factor = float(enlargement(height, width, SMALLEST_SIDE))
    room = MAX_WIDTH if n_columns == 1 else 0.8 * MAX_WIDTH  # the verdict's panel takes the rest
    factor = min(factor, room / (n_columns * width), max(1.0, MAX_WIDTH / height))
    if factor == 1:
        return photo, found.anomaly_map, found.labels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    anomaly_map = None if found.anomaly_map is None else cv2.resize(found.anomaly_map, size)
    labels = None if found.labels is None else cv2.resize(found.labels, size, interpolation=cv2.INTER_NEAREST)
    return picture, anomaly_map, labels


def _sized(photo: np.ndarray, found: Found, pixel_size: PixelSize) -> np.ndarray:
    if found.defects is None or found.labels is None:  # nothing was measured: the same size, without a mark
        none = pd.DataFrame(columns=["length", "bbox_x", "bbox_y", "bbox_width", "bbox_height"], dtype=float)
        body = annotate_photo(photo, np.zeros(photo.shape[:2], np.int32), none, pixel_size, pixel_size.unit)
    else:
        body = annotate_photo(photo, found.labels, found.defects, pixel_size, pixel_size.unit)
    height, width = body.shape[:2]
    scale = min(MAX_WIDTH / width, 4 * MAX_WIDTH / height)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        body = cv2.resize(body, size, interpolation=cv2.INTER_AREA)
    return body


def _outlined(picture: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        return picture
    outlines, _ = cv2.findContours((labels > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(picture), outlines, -1, _TEXT, max(1, round(max(labels.shape) / 512)))


def _even(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)


# ---------------------------------------------------------------------------------------------------------- text on it


def _letters(width: int) -> int:
    """Size of letters in pixels so that about 48 of them fit a width."""
    return int(np.clip(width / 28, 13, 26))


def _banner(width: int, found: Found, scale: MapScale | None) -> np.ndarray:
    """Verdict and scale in one row, and the lines of text below it."""
    size = _letters(width)
    rows = 3 if width < 60 * size else 2
    image = Image.new("RGB", (width, round((1.9 + 1.4 * rows + 0.4) * size)), _PANEL)
    pen = ImageDraw.Draw(image)
    margin = _MARGIN * size
    pen.text(
        (margin, 1.05 * size),
        found.verdict,
        fill=_verdict_colour(found),
        font=picture_font(round(1.5 * size)),
        anchor="lm",
    )
    if scale is not None:
        _colour_bar(image, (round(0.5 * width), round(0.25 * size), round(width - margin), round(1.8 * size)), scale)
    for row, text in enumerate(_in_rows(found.lines, rows)):
        _write(pen, (margin, (1.9 + 1.4 * (row + 0.5)) * size), text, width, _TEXT)
    return np.asarray(image)


def _in_rows(lines: Sequence[str], rows: int) -> list[str]:
    """Texts spread over at most so many rows, in order, the last rows the fullest: the first text is the longest."""
    shares = np.array_split(np.arange(len(lines))[::-1], rows)
    return ["   ".join(lines[place] for place in share[::-1]) for share in shares[::-1]]


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, width: int, colour: tuple[int, ...]
) -> None:
    """One line, in smaller letters where it would not fit."""
    size = _letters(width)
    room = width - 2 * place[0]
    needed = pen.textlength(text, font=picture_font(size))
    font = picture_font(size if needed <= room else max(9, int(size * room / max(needed, 1))))
    pen.text(place, text, fill=colour, font=font, anchor="lm")


def _captioned(panel: np.ndarray, caption: str, scale: MapScale | None) -> np.ndarray:
    """A panel with its name, or its scale of colours, in a band below it."""
    width = panel.shape[1]
    size = _letters(width)
    band = Image.new("RGB", (width, round(2 * size)), _PANEL)
    _write(ImageDraw.Draw(band), (_MARGIN * size, band.height / 2), caption, width, _DIM)
    if scale is not None:
        _colour_bar(
            band, (round(0.3 * width), round(0.2 * size), round(width - _MARGIN * size), round(1.85 * size)), scale
        )
    return np.vstack([panel, np.asarray(band)])


def _colour_bar(image: Image.Image, box: tuple[int, int, int, int], scale: MapScale) -> None:
    """The scale of the maps: a strip of its colours, with its ends and the threshold in numbers."""
    left, top, right, bottom = box
    middle = round(top + 0.4 * (bottom - top))
    if right <= left or middle <= top:  # a frame a few pixels wide has no room for it
        return
    values = np.linspace(scale.low, scale.top, right - left, dtype=np.float32)[None]
    image.paste(Image.fromarray(np.repeat(scale.colours(values), middle - top, axis=0)), (left, top))
    pen = ImageDraw.Draw(image)
    centre = (left + right) // 2
    pen.line((centre, top, centre, middle), fill=_TEXT, width=2)
    font = picture_font(max(10, round(0.75 * (bottom - middle))))
    for x, anchor, text in (
        (left, "la", f"{scale.low:.3g}"),
        (centre, "ma", f"threshold {scale.threshold:.3g}"),
        (right, "ra", f"{scale.top:.3g}"),
    ):
        pen.text((x, middle + 1), text, fill=_DIM, font=font, anchor=anchor)


def _verdict_panel(height: int, found: Found, threshold: float) -> np.ndarray:
    """Verdict, text, and the latest scores as a line with the threshold."""
    width = round(0.8 * min(height, 0.25 * MAX_WIDTH)) // 2 * 2
    size = _letters(round(1.3 * width))
    image = Image.new("RGB", (width, height), _PANEL)
    pen = ImageDraw.Draw(image)
    margin = _MARGIN * size
    pen.rectangle((0, 0, width, 2.8 * size), fill=_verdict_colour(found))
    pen.text((width / 2, 1.4 * size), found.verdict, fill=_PANEL, font=picture_font(round(1.7 * size)), anchor="mm")
    y = 3.9 * size
    for text in found.lines:
        needed = pen.textlength(text, font=picture_font(size))
        font = picture_font(min(size, max(9, int(size * (width - 2 * margin) / max(needed, 1)))))
        pen.text((margin, y), text, fill=_TEXT, font=font, anchor="lm")
        y += 1.45 * size
    bottom = height - 0.5 * size
    if bottom - y > 3 * size:
        pen.text(
            (margin, y), "latest scores and threshold", fill=_DIM, font=picture_font(round(0.85 * size)), anchor="lm"
        )
        _score_line(pen, (margin, y + 0.8 * size, width - margin, bottom), found.history, threshold)
    return np.asarray(image)


def _score_line(
    pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], history: Sequence[float], threshold: float
) -> None:
    """Latest scores, the newest at the right, over 100 frames, with the threshold."""
    left, top, right, bottom = box
    scores = np.asarray(history, dtype=float)[-100:]
    seen = np.append(scores[np.isfinite(scores)], threshold)
    margin = max(0.1 * float(np.ptp(seen)), 0.02 * abs(threshold), 1e-9)
    low, high = float(seen.min()) - margin, float(seen.max()) + margin

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    pen.rectangle(box, outline=(70, 70, 70))
    for start in np.arange(left, right, 8):
        pen.line((start, y(threshold), min(start + 4, right), y(threshold)), fill=_DIM)
    xs = right - (len(scores) - 1 - np.arange(len(scores))) * (right - left) / 100
    for place in np.flatnonzero(np.isfinite(scores)):
        colour = DEFECT if exceeds(scores[place], threshold) else SOUND
        spot = xs[place], y(scores[place])
        if place and np.isfinite(scores[place - 1]):
            pen.line((xs[place - 1], y(scores[place - 1]), *spot), fill=_DIM)
        pen.ellipse((spot[0] - 2, spot[1] - 2, spot[0] + 2, spot[1] + 2), fill=colour)


def _verdict_colour(found: Found) -> tuple[int, int, int]:
    return _BROKEN if found.abnormal is None else (DEFECT if found.abnormal else SOUND)


# -------------------------------------------------------------------------------------------------------------- figures


def score_timeline(
    frames: pd.DataFrame,
    threshold: float,
    others: Mapping[str, float] | None = None,
    *,
    title: str = "",
    note: str | None = None,
) -> Figure:
    """Shows the score over time with the threshold and the spans that were flagged, and below it defects and delays.

    Args:
        frames: of :func:`helpers.inference.video.judge_video`: ``time_s``, ``status``, ``verdict``, ``score``,
            ``n_defects`` and ``latency_ms``, a row a frame in order.
        threshold: that verdicts were made with.
        others: further thresholds by name, drawn thin, for comparison.
        title: of the figure; default: counts.
        note: Printed in the corner.

    Raises:
        ValueError: When no frame was judged.
    """
    judged = frames[frames["status"] == "judged"]
    if judged.empty:
        raise ValueError("No frame was judged: there is nothing to show.")
    figure = new_figure(5.4, note)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(2.6, 1, 1))
    times, flagged = judged["time_s"].to_numpy(float), (judged["verdict"] == "DEFECT").to_numpy()
    for first, last in flagged_spans(frames):
        axes[0].axvspan(first, last, color=VERMILLION, alpha=0.18, linewidth=0)
    # Where frames are missing the line is broken, not drawn through.
    axes[0].plot(frames["time_s"], frames["score"], color=BLUE, linewidth=1, marker="." if len(frames) < 400 else "")
    axes[0].axhline(threshold, color=BLACK, linewidth=1.4)
    handles = [
        Line2D([], [], color=BLUE, label="score"),
        Line2D([], [], color=BLACK, label=f"threshold {threshold:.4g}"),
        Patch(color=VERMILLION, alpha=0.18, linewidth=0, label="called DEFECT"),
    ]
    for (name, value), style in zip((others or {}).items(), ("--", ":", "-."), strict=False):
        axes[0].axhline(value, color=PURPLE, linewidth=1.2, linestyle=style)
        handles.append(Line2D([], [], color=PURPLE, linestyle=style, label=f"{name} {value:.4g}"))
    for status, colour, marker in (("dropped", ORANGE, "|"), ("broken", VERMILLION, "x")):
        lost = frames[frames["status"] == status]
        if len(lost):
            height = np.full(len(lost), 0.03)
            transform = axes[0].get_xaxis_transform()
            label = f"{status} (n={len(lost)})"
            handles += axes[0].plot(
                lost["time_s"], height, marker, color=colour, transform=transform, label=label, clip_on=False
            )
    counts = judged["n_defects"].to_numpy(float)
    width = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    axes[1].bar(times, np.nan_to_num(counts), width=width, color=ORANGE, linewidth=0)
    axes[1].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_ylim(0, max(1.0, np.nanmax(counts, initial=0) * 1.1))
    axes[2].plot(times, judged["latency_ms"], color=GREY, linewidth=1)
    axes[2].set_ylim(bottom=0)
    axes[0].set(ylabel="score")
    axes[1].set(ylabel="defects")
    axes[2].set(ylabel="latency (ms)", xlabel="time (s)")
    for axis in axes:
        clean_axis(axis)
        axis.margins(x=0.01)
    heading = title or f"{int(flagged.sum())} of {len(judged)} judged frames called DEFECT"
    legend = figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
        alignment="left",
    )
    legend.set_title(heading, {"size": 12})
    return figure


def flagged_spans(frames: pd.DataFrame) -> list[tuple[float, float]]:
    """Spans of time (first, last), seconds, in which all judged frames were called DEFECT.

    A span begins and ends half-way to the frames beside it. Frames that were not judged neither end nor begin one.

    Args:
        frames: as for `score_timeline`.
    """
    judged = frames[frames["status"] == "judged"]
    times, flagged = judged["time_s"].to_numpy(float), (judged["verdict"] == "DEFECT").to_numpy()
    if not flagged.any():
        return []
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    edges = np.concatenate([[times[0] - usual / 2], (times[1:] + times[:-1]) / 2, [times[-1] + usual / 2]])
    change = np.diff(np.concatenate([[0], flagged.astype(int), [0]]))
    firsts, lasts = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    return [(float(edges[first]), float(edges[last])) for first, last in zip(firsts, lasts, strict=True)]


def frame_strip(pictures: Sequence[np.ndarray], seconds: Sequence[float], *, note: str | None = None) -> Figure:
    """Shows frames of a video below each other, or in two columns where they are less than twice as wide as high.

    Args:
        pictures: (H, W, 3) uint8, all of one size.
        seconds: time of each.
        note: Printed in the corner.

    Raises:
        ValueError: When there is no picture, or not one time each.
    """
    if not pictures or len(pictures) != len(seconds):
        raise ValueError(f"give one time a picture, and at least one; got {len(pictures)} and {len(seconds)}.")
    height, width = pictures[0].shape[:2]
    columns = 1 if width >= 2 * height or len(pictures) == 1 else 2
    rows = -(-len(pictures) // columns)
    figure = new_figure(rows * (WIDTH / columns * min(height / width, 2.0) + 0.3), note)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, picture, time_s in zip(axes, pictures, seconds, strict=False):
        axis.imshow(picture)
        axis.set_title(f"{time_s:.2f} s", fontsize=9, loc="left")
    return figure


class LivePreview:
    """Frames as they are judged, in a notebook that somebody watches.

    Args:
        width: pixels that a picture is reduced to.
        per_second: pictures a second at most; the others are not shown.

    Attributes:
        widget: an ipywidgets.Image, to be displayed.
    """

    def __init__(self, width: int = 640, per_second: float = 5.0) -> None:
        import ipywidgets

        self.widget = ipywidgets.Image(format="jpeg", width=width)
        self._width, self._pause, self._last = width, 1 / per_second, -np.inf

    def __call__(self, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8, if the last one has been seen for long enough."""
        now = time.perf_counter()
        if now - self._last < self._pause:
            return
        self._last = now
        image = Image.fromarray(picture)
        image.thumbnail((self._width, self._width))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=80)
        self.widget.value = buffer.getvalue()
