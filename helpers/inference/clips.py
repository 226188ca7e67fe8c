"""Clips: frames one at a time from files, cameras and image sequences, and H.264 files made of pictures.

Nothing here holds more than a few frames. Decoding and encoding are PyAV's (FFmpeg's libraries).
"""

from __future__ import annotations

import heapq
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from helpers.data.images import IMAGE_SUFFIXES, find_images, measure_bit_depth, read_image
from helpers.paths import PARTIAL, partial_path, remove_partial, uninterrupted

SEQUENCE_FPS = 10.0  # frames a second of photos that carry no time
CAMERA_FPS = 30.0  # until a camera says otherwise
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")  # that H.264 can be written to
CRF, PRESET = 20, "veryfast"  # x264: quality 0 (lossless) to 51, and how long it may search for a smaller file
TICKS = 90_000  # a second: times of written frames are rounded to these
MAX_WIDTH = 1920  # pixels of what is written: players and encoders in hardware often end there
_MOST_BROKEN_READS = 20  # in a row, before a file is given up
_FOLLOWS_BROKEN = "follows a broken frame: its picture may be damaged"


@dataclass(frozen=True)
class Frame:
    """One frame on its way.

    Attributes:
        number: its place in the source, from 0; broken ones count.
        seconds: since the source's first frame.
        photo: (H, W, 3) uint8 RGB, upright; None where it is broken or dropped.
        source: its file, or the clip's name and its number.
        label: the type of defect that is known to be in it (``good``: none); empty: not known.
        error: why there is no photo, or what is doubtful about it; empty if all is well.
        dropped: whether it was given up because others waited.
        arrived: reading of ``time.perf_counter`` when it was there.
    """

    number: int
    seconds: float
    photo: np.ndarray | None
    source: str
    label: str = ""
    error: str = ""
    dropped: bool = False
    arrived: float = 0.0


@dataclass(frozen=True)
class FrameSource:
    """Where frames come from; each iteration begins anew (a camera: with what it sees now).

    Attributes:
        name: for messages and file names.
        fps: frames a second, as the source states them.
        n_frames: how many there should be, or None where that is not known.
        live: whether frames come whether or not somebody takes them (a camera, a stream).
        read: gives the frames.
    """

    name: str
    fps: float
    n_frames: int | None
    live: bool
    read: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        for frame in self.read():
            yield frame if frame.arrived else replace(frame, arrived=time.perf_counter())

    def part(self, *, start: float = 0.0, every: int = 1, max_frames: int | None = None) -> FrameSource:
        """A part of the source, frame by frame with its own numbers and times.

        Args:
            start: seconds to leave out at the beginning.
            every: take each so-manyth frame; a broken one is always taken, so that it is counted.
            max_frames: stop after so many.

        Raises:
            ValueError: naming the argument that is out of range.
        """
        if not start >= 0:
            raise ValueError(f"start={start} must be 0 or more seconds.")
        if every < 1 or (max_frames is not None and max_frames < 1):
            raise ValueError(f"every={every} and max_frames={max_frames} must be 1 or more.")

        def read() -> Iterator[Frame]:
            taken = (
                frame for frame in self if frame.seconds >= start and (frame.number % every == 0 or frame.photo is None)
            )
            return islice(taken, max_frames)

        n_frames = self.n_frames
        if n_frames is not None:
            first = math.ceil(start * self.fps)
            first -= first > 0 and (first - 1) / self.fps >= start  # as frames are compared: 0.28 * 25 is above 7
            n_frames = max(0, -(-n_frames // every) - -(-first // every))
        if max_frames is not None:
            n_frames = max_frames if n_frames is None else min(n_frames, max_frames)
        return replace(self, fps=self.fps / every, n_frames=n_frames, read=read)


# ------------------------------------------------------------------------------------------------------------- reading


def open_source(what: str | Path, *, fps: float | None = None, bits: int | None = None) -> FrameSource:
    """Frames of whatever holds some.

    Args:
        what: a video file; a folder of images, a pattern (``frames/*.png``, ``frames/%04d.png``) or one image, in
            natural order (``2.png`` before ``10.png``); a camera by number (``0``) or device (``/dev/video0``); or the
            address of a stream (``rtsp://...``).
        fps: frames a second, where the source has none or a wrong one; default: a file's own, `SEQUENCE_FPS` for
            images. A camera is asked for it.
        bits: of 16-bit images, see `helpers.data.images.read_image`; default: the fewest that all of them fit into.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in it.
        ValueError: a file that is no video, or an ``fps`` that is not above 0.
    """
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps} must be above 0.")
    text, path = str(what), Path(what).expanduser()
    if (text.isdigit() and not path.exists()) or text.startswith("/dev/video"):
        return _camera(text, fps)
    if "://" in text:
        return FrameSource(text, fps or CAMERA_FPS, None, True, lambda: _live_frames(text, None, {}))
    if path.is_dir():
        return _sequence(find_images(path), fps, text, bits)
    if not path.exists() and re.search(r"[*?\[]|%\d*d", text):
        # what is there is a folder, whatever marks its name has; beside %04d a bracket is one too
        folder = next(parent for parent in path.parents if parent.is_dir())
        pattern = path.relative_to(folder).as_posix()
        if re.search(r"%\d*d", pattern):
            pattern = re.sub(r"%\d*d", "*", pattern.replace("[", "[[]"))
        found = [file for file in folder.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES]
        return _sequence(found, fps, text, bits)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {what}; give a video, a folder or pattern of images, or a camera (0).")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _sequence([path], fps, text, bits)
    return _video_file(path, fps)


def _sequence(photos: Sequence[Path], fps: float | None, name: str, bits: int | None) -> FrameSource:
    bits = bits or measure_bit_depth(photos)
    return photo_sequence(sorted(photos, key=_natural), fps=fps or SEQUENCE_FPS, name=name, bits=bits)


def photo_sequence(
    photos: Sequence[str | Path],
    *,
    fps: float = SEQUENCE_FPS,
    labels: Sequence[str] = (),
    name: str = "photos",
    bits: int | None = None,
) -> FrameSource:
    """Photos as the frames of a clip, as they are: no video compression lies between.

    Args:
        photos: files.
        fps: frames a second.
        labels: type of defect of each, where known.
        name: of the source.
        bits: of 16-bit photos, see `helpers.data.images.read_image`.

    Raises:
        FileNotFoundError: there is no photo.
    """
    if not photos:
        raise FileNotFoundError(f"{name} holds no image (PNG, JPEG, BMP, TIFF, WebP); give another folder or pattern.")

    def read() -> Iterator[Frame]:
        for number, file in enumerate(photos):
            photo, error = None, ""
            try:
                photo = read_image(file, bits)
            except (OSError, ValueError) as problem:
                error = str(problem)
            yield Frame(number, number / fps, photo, str(file), labels[number] if labels else "", error)

    return FrameSource(name, fps, len(photos), False, read)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that takes digits as numbers."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _video_file(path: Path, fps: float | None) -> FrameSource:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no picture, only sound or data; give a video.")
            stream = container.streams.video[0]
            stated = stream.average_rate or stream.guessed_rate or SEQUENCE_FPS
            count = stream.frames or None
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be opened as a video ({_words(error)}); it is damaged or no video: copy it again."
        ) from error
    return FrameSource(path.name, fps or float(stated), count, False, lambda: _file_frames(path, fps or 0.0))


def _file_frames(path: Path, fps: float) -> Iterator[Frame]:
    """Frames of a file. Damaged ones are said to be so, not patched up: a patch would be judged."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Threads over frames would report an error several frames late; without "explode" FFmpeg conceals damage.
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"err_detect": "explode"}
        rate = float(stream.average_rate or stream.guessed_rate or SEQUENCE_FPS)
        first, end, number = None, 0.0, -1
        for number, (stamp, found, doubtful) in enumerate(_in_order(_decoded(container, stream))):
            first = stamp if first is None else first
            seconds = number / fps if fps else (number / rate if stamp is None else max(0.0, stamp - (first or 0.0)))
            name = f"{path.name}#{number}"
            end = max(end, (stamp or 0.0) - (first or 0.0) + _shown_for(found, rate))
            if isinstance(found, str):
                yield Frame(number, seconds, None, name, error=found)
            else:
                yield Frame(number, seconds, _pixels(found), name, error=_FOLLOWS_BROKEN if doubtful else "")

        lost = _lost_frames(container, stream, rate, number + 1, end)
        if lost:
            error = f"is where the file breaks off: {lost} frames that it states are missing; copy it again"
            yield Frame(number + 1, (number + 1) / (fps or rate), None, f"{path.name}#{number + 1}", error=error)


def _shown_for(frame: av.VideoFrame | str, rate: float) -> float:
    """Seconds for which a frame is shown, at least one by the rate."""
    stated = getattr(frame, "duration", None)
    return max(1 / rate, float(stated * frame.time_base) if stated else 0.0)


def _lost_frames(
    container: av.container.InputContainer, stream: av.VideoStream, rate: float, count: int, seconds: float
) -> int:
    """Frames that the file states, by number and by time, and that did not come.

    By both, where it states both, and then so many as are missing by number: a trimmed clip has more frames than are
    shown, and the last may be shown for long.
    """
    missing = []
    if stream.frames:
        missing.append(stream.frames - count)
    if stream.duration or container.duration:
        stated = stream.duration * stream.time_base if stream.duration else Fraction(container.duration, av.time_base)
        gap = float(stated) - seconds
        # another stream, such as sound, may be the longer one
        sure = 1.0 if not stream.duration and len(container.streams) > 1 else 1.5 / rate
        missing.append(round(gap * rate) if gap > max(sure, 0.01 * float(stated)) else 0)
    return missing[0] if min(missing, default=0) > 0 else 0


def _in_order(
    decoded: Iterator[av.VideoFrame | tuple[float | None, str]],
) -> Iterator[tuple[float | None, av.VideoFrame | str, bool]]:
    """Time, frame (or what is wrong with it), and whether it was decoded after a broken one and before a key frame.

    Frames come in the order in which they are shown, packets that break in that in which they are decoded: they wait
    here until their time has come.
    """
    broken: list[tuple[float, str]] = []
    now, doubtful = 0.0, False
    for found in decoded:
        if isinstance(found, tuple):
            doubtful = True
            heapq.heappush(broken, (now if found[0] is None else found[0], found[1]))
            continue
        doubtful = doubtful and not found.key_frame
        now = now if found.time is None else found.time
        while broken and broken[0][0] < now:
            yield *heapq.heappop(broken), False
        yield found.time, found, doubtful
    for stamp, error in sorted(broken):
        yield stamp, error, False


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame | tuple[float | None, str]]:
    """Frames as they come; for one that cannot be decoded its time, where known, and what is wrong."""
    packets = container.demux(stream)
    in_a_row = 0
    while in_a_row < _MOST_BROKEN_READS:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError as error:
            in_a_row += 1
            packets = container.demux(stream)  # a generator that has raised is over
            yield None, f"cannot be read ({_words(error)})"
            continue
        in_a_row = 0
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            stamp = None if packet.pts is None else float(packet.pts * packet.time_base)
            yield stamp, f"cannot be decoded ({_words(error)})"
            continue
        for frame in frames:
            yield (frame.time, "is damaged") if frame.is_corrupt else frame


def _camera(device: str, fps: float | None) -> FrameSource:
    kind, name = {
        "darwin": ("avfoundation", f"{device}:none"),
        "win32": ("dshow", f"video={device}"),
    }.get(sys.platform, ("v4l2", f"/dev/video{device}" if device.isdigit() else device))
    options = {"framerate": f"{fps:g}"} if fps else {}
    return FrameSource(f"camera {device}", fps or CAMERA_FPS, None, True, lambda: _live_frames(name, kind, options))


def _live_frames(name: str, kind: str | None, options: dict[str, str]) -> Iterator[Frame]:
    """Frames of a camera or stream, timed by the clock when they come."""
    try:
        container = av.open(name, format=kind, options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be opened ({_words(error)}); is it plugged in, and not in use?") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"{name} sends no picture.")
        begun = time.perf_counter()
        for number, found in enumerate(_decoded(container, container.streams.video[0])):
            now = time.perf_counter()
            broken = isinstance(found, tuple)
            photo, error = (None, found[1]) if broken else (_pixels(found), "")
            yield Frame(number, now - begun, photo, f"{name}#{number}", error=error, arrived=now)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright: phones store how they were held."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def at_source_pace(source: FrameSource, waiting: int) -> Iterator[Frame]:
    """Frames at the speed of the source, read in a thread, of which at most so many wait.

    When another comes, the oldest that waits is dropped: it comes out without its photo, so that it can be counted. A
    file or sequence is played as a camera would send it.

    Args:
        source: of frames.
        waiting: 1 skips to the newest; more is a queue.

    Raises:
        ValueError: for a queue below 1, and whatever reading raises.
    """
    if waiting < 1:
        raise ValueError(f"The queue must hold 1 frame or more, got {waiting}.")
    queue: deque[Frame] = deque()
    changed, stop = threading.Condition(), threading.Event()
    failures: list[BaseException] = []
    finished = False

    def read() -> None:
        nonlocal finished
        try:
            begun, first = time.perf_counter(), None
            for frame in source:
                first = frame.seconds if first is None else first
                due = begun + frame.seconds - first
                if stop.wait(0 if source.live else max(0.0, due - time.perf_counter())):
                    return
                with changed:
                    held = [place for place, one in enumerate(queue) if one.photo is not None]
                    if frame.photo is not None and len(held) >= waiting:
                        queue[held[0]] = replace(queue[held[0]], photo=None, dropped=True)
                    queue.append(replace(frame, arrived=time.perf_counter()))
                    changed.notify()
        except BaseException as error:
            failures.append(error)  # raised where the frames are taken
        finally:
            with changed:
                finished = True
                changed.notify()

    thread = threading.Thread(target=read, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                while not queue and not finished:
                    changed.wait()
                if not queue:
                    break
                frame = queue.popleft()
            yield frame
        if failures:
            raise failures[0]
    finally:
        stop.set()
        thread.join(timeout=2)


# ------------------------------------------------------------------------------------------------------------- writing


class ClipWriter:
    """Writes pictures as an H.264 file (yuv420p, which every player shows); a context manager.

    The file appears under its name, whole, when the block ends; if it ends by an error nothing is left, but what was
    written before an interruption (Ctrl-C) is kept.

    Args:
        path: with one of `VIDEO_SUFFIXES`.
        fps: frames a second that players are told; each frame keeps its own time.

    Attributes:
        n_written: pictures so far.

    Raises:
        ValueError: another suffix.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"{path}: a video is written as {', '.join(VIDEO_SUFFIXES)}; give such a name.")
        self.n_written = 0
        self._fps = Fraction(fps).limit_denominator(1001)
        self._partial = partial_path(self.path)
        self._container: av.container.OutputContainer | None = None
        self._last = -1

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Add a picture, (H, W, 3) uint8 RGB; the first decides the size, and others are fitted into it.

        Args:
            picture: of any size; an odd side gets one more row or column, a repetition of its last.
            seconds: since the first picture; times must rise, and are moved on by a tick where they do not.
        """
        if self._container is None:
            self._open(picture)
        frame = av.VideoFrame.from_ndarray(fitted(picture, (self._stream.height, self._stream.width)), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation="BICUBIC",
        )
        self._last = max(self._last + 1, round(seconds * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))
        self.n_written += 1

    def _open(self, picture: np.ndarray) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial(self.path.parent.glob(PARTIAL))
        self._container = av.open(str(self._partial), "w")
        stream = self._container.add_stream("libx264", rate=self._fps)
        height, width = picture.shape[:2]
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        # A key frame at least every two seconds: players can jump there.
        stream.options = {"crf": str(CRF), "preset": PRESET, "g": str(max(1, round(2 * self._fps)))}
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        self._stream = stream

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with uninterrupted():
            try:
                if self._container is not None:
                    self._container.mux(self._stream.encode())
                    self._container.close()
                    if kind is None or issubclass(kind, KeyboardInterrupt):
                        self._partial.replace(self.path)
            finally:
                self._partial.unlink(missing_ok=True)


def fitted(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 of a given (height, width): a row or column short is repeated, others are scaled to
    fit, with black beside."""
    height, width = shape
    down, right = height - picture.shape[0], width - picture.shape[1]
    if (down, right) == (0, 0):
        return np.ascontiguousarray(picture)
    if 0 <= down <= 1 and 0 <= right <= 1:
        return cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE)
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = max(1, min(width, round(picture.shape[1] * scale))), max(1, min(height, round(picture.shape[0] * scale)))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (height - scaled.shape[0]) // 2, (width - scaled.shape[1]) // 2
    return cv2.copyMakeBorder(
        scaled,
        top,
        height - scaled.shape[0] - top,
        left,
        width - scaled.shape[1] - left,
        cv2.BORDER_CONSTANT,
    )
