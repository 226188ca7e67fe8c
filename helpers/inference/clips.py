"""Clips: frames one at a time from files, streams, cameras, photos and datasets; written as H.264, or as a dataset."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from queue import SimpleQueue

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageOps

from helpers.data.images import IMAGE_SUFFIXES, find_images, measure_bit_depth, read_image
from helpers.paths import PARTIAL, partial_path, remove_partial, uninterrupted, write_whole
from helpers.progress import progress

SEQUENCE_FPS = 10.0  # frames a second of photos that carry no time
CAMERA_FPS = 30.0
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")  # that H.264 can be written to
CRF, PRESET = 20, "veryfast"  # x264: quality 0 (lossless) to 51, and how long it may search for a smaller file
TICKS = 90_000  # a second: times of written frames are rounded to these
_MOST_BROKEN_READS = 20  # in a row, before a file or camera is given up


@dataclass
class Frame:
    """One frame on its way: its place in the source, from 0, and its time since the first.

    ``photo`` is (H, W, 3) uint8 RGB, upright; None where it is broken or was dropped because newer ones came. ``error``
    says why there is none, or what is doubtful about it. ``label`` is the type of defect that is known to be in it.
    ``arrived`` is a reading of ``time.perf_counter``.
    """

    number: int
    seconds: float
    photo: np.ndarray | None
    source: str
    label: str = ""
    error: str = ""
    dropped: bool = False
    arrived: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class FrameSource:
    """Where frames come from; each iteration begins anew (a camera: with what it sees now).

    ``n_frames``: how many there should be, or None; ``live``: frames come whether or not somebody takes them.
    """

    name: str
    fps: float
    n_frames: int | None
    live: bool
    read: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        yield from self.read()

    def part(self, *, every: int = 1, max_frames: int | None = None) -> FrameSource:
        """Every so-manyth frame, each with its own number and time; broken ones are always taken, to be counted."""
        if every < 1 or (max_frames is not None and max_frames < 1):
            raise ValueError(f"every={every} and max_frames={max_frames} must be 1 or more.")

        def read() -> Iterator[Frame]:
            return islice((one for one in self if one.number % every == 0 or one.photo is None), max_frames)

        n_frames = self.n_frames and -(-self.n_frames // every)
        n_frames = n_frames and min(n_frames, max_frames or n_frames)
        return replace(self, fps=self.fps / every, n_frames=n_frames, read=read)


def open_source(what: str | Path, *, fps: float | None = None, bits: int | None = None) -> FrameSource:
    """Frames of whatever holds some.

    ``what`` is a video file; a folder of images, a pattern (``frames/*.png``, ``frames/%04d.png``) or one image, in
    natural order (``2.png`` before ``10.png``); a camera by number (``0``) or device (``/dev/video0``); or the address
    of a stream (``rtsp://...``). ``fps`` and ``bits`` (as in `read_image`; default: the fewest that all images fit
    into) are those of images. FileNotFoundError: there is none; ValueError: what is no video.
    """
    text, path = str(what), Path(what).expanduser()
    if (text.isdigit() and not path.exists()) or text.startswith("/dev/video"):
        return FrameSource(f"camera {text}", CAMERA_FPS, None, True, lambda: _camera_frames(text))
    if "://" in text or (path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES):
        return _video(text if "://" in text else str(path), live="://" in text)
    pattern = path.name
    if path.is_dir():
        photos = find_images(path)
    elif path.is_file():
        photos = [path]
    elif re.search(r"[*?\[]|%\d*d", pattern):
        if re.search(r"%\d*d", pattern):  # beside it a bracket is one
            pattern = re.sub(r"%\d*d", "*", pattern.replace("[", "[[]"))
        photos = [file for file in path.parent.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES]
    else:
        raise FileNotFoundError(f"There is no {what}; give a video, a folder or pattern of images, or a camera (0).")
    # digits count as numbers; they are every second part
    photos.sort(key=lambda file: [int(one) if n % 2 else one for n, one in enumerate(re.split(r"(\d+)", str(file)))])
    return photo_source(photos, [""] * len(photos), fps, text, bits or measure_bit_depth(photos))


def photo_source(
    photos: Sequence[str | Path], labels: Sequence[str], fps: float | None, name: str, bits: int | None = None
) -> FrameSource:
    """Photos as the frames of a clip, as they are (no video compression lies between), each with its label."""
    if not len(photos):
        raise FileNotFoundError(f"{name} holds no image (PNG, JPEG, BMP, TIFF, WebP); give another folder or pattern.")
    fps = SEQUENCE_FPS if fps is None else fps
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps} must be above 0.")

    def read() -> Iterator[Frame]:
        for number, (file, label) in enumerate(zip(photos, labels, strict=True)):
            photo, error = None, ""
            try:
                photo = read_image(file, bits)
            except (OSError, ValueError) as problem:
                error = str(problem)
            yield Frame(number, number / fps, photo, str(file), label, error)

    return FrameSource(name, fps, len(photos), False, read)


def _camera_frames(name: str) -> Iterator[Frame]:
    camera = cv2.VideoCapture(int(name) if name.isdigit() else name)
    if not camera.isOpened():
        raise ValueError(f"camera {name} cannot be opened; is it plugged in, and not in use?")
    begun, in_a_row = time.perf_counter(), 0
    try:
        for number in count():
            came, picture = camera.read()
            in_a_row = 0 if came else in_a_row + 1
            if in_a_row > _MOST_BROKEN_READS:
                return
            photo, error = (cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), "") if came else (None, "cannot be read")
            yield Frame(number, time.perf_counter() - begun, photo, f"camera {name}#{number}", error=error)
    finally:
        camera.release()


def _video(place: str, live: bool) -> FrameSource:
    """A file, or the address of a stream."""
    try:
        with av.open(place) as container:
            if not container.streams.video:
                raise ValueError(f"{place} holds no picture, only sound or data; give a video.")
            stream = container.streams.video[0]
            rate, n_frames = float(stream.average_rate or stream.guessed_rate or SEQUENCE_FPS), stream.frames or None
    except av.error.FFmpegError as error:
        raise ValueError(f"{place} cannot be opened as a video ({error.strerror}); copy it again.") from error
    name = place if live else Path(place).name
    return FrameSource(name, rate, n_frames, live, lambda: _video_frames(place, name, rate, live))


def _video_frames(place: str, name: str, rate: float, live: bool) -> Iterator[Frame]:
    """Frames of a file, or of a stream, timed by the clock. Damaged ones are said to be so, not patched up: a patch
    would be judged. One is taken to be shown right after the frame that was decoded before it."""
    begun = time.perf_counter()
    with av.open(place) as container:
        stream = container.streams.video[0]
        # Threads over frames would report an error several frames late; without "explode" FFmpeg conceals damage.
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"err_detect": "explode"}
        first, broken_at, seconds, end, number = None, None, 0.0, 0.0, -1
        for number, (item, at, error) in enumerate(_decoded(container, stream)):
            since, shown_for, photo = end, 1 / rate, None
            if item is None:
                broken_at = -1.0 if at is None else at
            else:
                if broken_at is not None and item.key_frame and (at is None or at > broken_at):
                    broken_at = None  # one that is shown earlier was only waiting for its turn
                if broken_at is not None and not item.key_frame:
                    error = "follows a broken frame: its picture may be damaged"
                turns = round(item.rotation / 90) % 4  # counterclockwise: phones store how they were held
                photo = np.ascontiguousarray(np.rot90(item.to_ndarray(format="rgb24"), turns))
                if at is not None:
                    first = at if first is None else first
                    since = at - first
                if item.duration:
                    shown_for = max(shown_for, float(item.duration * item.time_base))
            seconds = max(seconds, since)
            end = max(end, seconds + shown_for)
            now = time.perf_counter() - begun if live else seconds
            yield Frame(number, now, photo, f"{name}#{number}", error=error)
        stated = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / av.time_base
        gap, number = float(stated) - end, number + 1
        lost = stream.frames - number if stream.frames else round(gap * rate)
        # a trimmed clip holds more frames than it shows; of a container's length sound may be the longer part
        if lost > 0 and gap > max(1.5 / rate if stream.duration else 1.0, 0.01 * float(stated)):
            error = f"is where the file breaks off: {lost} frames that it states are missing; copy it again"
            yield Frame(number, end, None, f"{name}#{number}", error=error)


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[tuple[av.VideoFrame | None, float | None, str]]:
    """Frames as they come, with their times; for one that cannot be decoded None, and what is wrong."""
    packets, in_a_row = container.demux(stream), 0
    while in_a_row < _MOST_BROKEN_READS:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            in_a_row += 1
            packets = container.demux(stream)  # a generator that has raised is over
            yield None, None, f"cannot be read ({error.strerror})"
            continue
        if packet is None:
            return
        in_a_row = 0
        try:
            for frame in packet.decode():
                yield (None, frame.time, "is damaged") if frame.is_corrupt else (frame, frame.time, "")
        except av.error.FFmpegError as error:
            at = None if packet.pts is None else float(packet.pts * packet.time_base)
            yield None, at, f"cannot be decoded ({error.strerror})"


def newest(source: FrameSource) -> Iterator[Frame]:
    """Frames of a live source, read in a thread. One that two newer ones wait behind comes out dropped, without its
    photo, so that it can be counted. What reading raises is raised here."""
    came: SimpleQueue[Frame | BaseException | None] = SimpleQueue()  # at its end what reading has raised, or None
    stop = threading.Event()

    def read() -> None:
        end = None
        try:
            for frame in source:
                if stop.is_set():
                    return
                came.put(frame)
        except BaseException as error:
            end = error
        came.put(end)

    thread = threading.Thread(target=read, name="frames", daemon=True)
    thread.start()
    try:
        while isinstance(item := came.get(), Frame):
            if item.photo is not None and came.qsize() > 1:
                item.photo, item.dropped = None, True
            yield item
    finally:
        stop.set()
        thread.join(timeout=2)
    if item is not None:
        raise item


class ClipWriter:
    """Writes pictures as an H.264 file (yuv420p, which every player shows); a context manager.

    The file appears under its name, whole, when the block ends; if it ends by an error nothing is left, but what was
    written before an interruption (Ctrl-C) is kept. Players are told ``fps``; each frame keeps its own time.
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
    ValueError: no frame can be read.
    """
    with ClipWriter(out, source.fps) as clip:
        return _copy(source, lambda frame: clip.write(draw(frame) if draw else frame.photo, frame.seconds))


def extract_frames(source: FrameSource, folder: str | Path) -> tuple[int, list[str]]:
    """As `write_clip`, as PNG files of a dataset to train on, ``<folder>/train/good/000000.png``; doubtful frames are
    left out too, files of earlier frames stay."""

    def write(frame: Frame) -> None:
        write_whole(Path(folder) / f"train/good/{frame.number:06d}.png", Image.fromarray(frame.photo).save)

    return _copy(source, write, doubtful=False)


def _copy(source: FrameSource, write: Callable[[Frame], None], doubtful: bool = True) -> tuple[int, list[str]]:
    n_written, errors = 0, []
    for frame in progress(source, source.name, source.n_frames):
        if frame.error:
            errors.append(frame.error if frame.source in frame.error else f"{frame.source} {frame.error}")
        if frame.photo is not None and (doubtful or not frame.error):
            write(frame)
            n_written += 1
    if not n_written:
        raise ValueError(f"{source.name}: no frame can be read. {errors[0] if errors else 'None came.'}")
    return n_written, errors
