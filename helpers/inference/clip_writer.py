"""Pictures written as an H.264 clip, or frames as a dataset to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageOps

from helpers.inference.clips import Frame, FrameSource
from helpers.paths import PARTIAL, partial_path, remove_partial, uninterrupted, write_whole
from helpers.progress import progress

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")  # that H.264 can be written to
CRF, PRESET = 20, "veryfast"  # x264: quality 0 (lossless) to 51, and how long it may search for a smaller file
TICKS = 90_000  # a second: times of written frames are rounded to these
NONE_CAME = "None came: does the start, in seconds, lie behind its end?"


class ClipWriter:
    """Writes pictures as an H.264 file (yuv420p, which every player shows); a context manager.

    The file appears under its name, whole, when the block ends; if it ends by an error nothing is left, but what was
    written before an interruption (Ctrl-C) is kept. Players are told ``fps``; each frame keeps its own time.

    Raises:
        ValueError: a name without one of `VIDEO_SUFFIXES`.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"{path}: a video is written as {', '.join(VIDEO_SUFFIXES)}; give such a name.")
        self._fps = Fraction(fps).limit_denominator(1001)
        self._partial = partial_path(self.path)
        self._container: av.container.OutputContainer | None = None
        self._last = -1

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; the first decides the size, and others are fitted into it.

        An odd side gets one more row or column. Times since the first picture must rise, and are moved on by a tick
        where they do not.
        """
        if self._container is None:
            self._open(picture)
        height, width = self._stream.height, self._stream.width
        down, right = height - picture.shape[0], width - picture.shape[1]
        if 0 <= down <= 1 and 0 <= right <= 1:
            picture = cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
        else:
            picture = np.asarray(ImageOps.pad(Image.fromarray(picture), (width, height)))
        colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format="yuv420p", interpolation="BICUBIC", **colours)
        self._last = max(self._last + 1, round(seconds * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def _open(self, picture: np.ndarray) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial(self.path.parent.glob(PARTIAL))
        self._container = av.open(str(self._partial), "w")
        self._stream = stream = self._container.add_stream("libx264", rate=self._fps)
        height, width = picture.shape[:2]
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        # A key frame at least every two seconds: players can jump there.
        stream.options = {"crf": str(CRF), "preset": PRESET, "g": str(max(1, round(2 * self._fps)))}
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
        context.color_range = ColorRange.MPEG

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with uninterrupted():
            try:
                if self._container is not None:
                    self._container.mux(self._stream.encode())
                    self._container.close()
                    if kind is None or issubclass(kind, KeyboardInterrupt):
                        self._partial.replace(self.path)
            finally:
                self._partial.unlink(missing_ok=True)


def write_clip(
    source: FrameSource, out: str | Path, draw: Callable[[Frame], np.ndarray] | None = None
) -> tuple[int, list[str]]:
    """Write frames as an H.264 file, not judged; broken ones are left out. How many there are, and what was wrong.

    ``draw`` makes what is written of a frame (say with its label burnt in: for people; a detector would judge it too).

    Raises:
        ValueError: no frame can be read.
    """
    count, errors = 0, []
    with ClipWriter(out, source.fps) as clip:
        for frame in _readable(source, errors, True):
            clip.write(frame.photo if draw is None else draw(frame), frame.seconds)
            count += 1
    return count, errors


def extract_frames(source: FrameSource, folder: str | Path) -> tuple[int, list[str]]:
    """Write frames as PNG files of a dataset to train on, ``<folder>/train/good/000000.png``; broken and doubtful ones
    are left out, files of earlier frames stay. How many there are, and what was wrong with others.

    Raises:
        ValueError: no frame can be read.
    """
    count, errors = 0, []
    for frame in _readable(source, errors, False):
        write_whole(Path(folder) / "train/good" / f"{frame.number:06d}.png", Image.fromarray(frame.photo).save)
        count += 1
    return count, errors


def _readable(source: FrameSource, errors: list[str], doubtful: bool) -> Iterator[Frame]:
    came = False
    for frame in progress(source, source.name, source.n_frames):
        if frame.error:
            errors.append(frame.error if frame.source in frame.error else f"{frame.source} {frame.error}")
        if frame.photo is not None and (doubtful or not frame.error):
            came = True
            yield frame
    if not came:
        raise ValueError(f"{source.name}: no frame can be read. {errors[0] if errors else NONE_CAME}")
