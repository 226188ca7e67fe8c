"""Clips: frames one at a time from files, cameras, image sequences and datasets, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from helpers.data.images import IMAGE_SUFFIXES, find_images, measure_bit_depth, read_image

if TYPE_CHECKING:
    import pandas as pd

    from helpers.runs import Run

SEQUENCE_FPS = 10.0  # frames a second of photos that carry no time
CAMERA_FPS = 30.0  # until a camera says otherwise
_MOST_BROKEN_READS = 20  # in a row, before a file is given up
_FOLLOWS_BROKEN = "follows a broken frame: its picture may be damaged"


@dataclass(frozen=True)
class Frame:
    """One frame on its way: its place in the source, from 0, and its time since the first.

    ``photo`` is (H, W, 3) uint8 RGB, upright; None where it is broken or was dropped because others waited. ``error``
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
    arrived: float = 0.0


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
        for frame in self.read():
            yield frame if frame.arrived else replace(frame, arrived=time.perf_counter())

    def part(self, *, start: float = 0.0, every: int = 1, max_frames: int | None = None) -> FrameSource:
        """From ``start`` seconds on every so-manyth frame, each with its own number and time; broken ones are always
        taken, so that they are counted. How many frames that makes is not known beforehand after a ``start``.

        Raises:
            ValueError: naming the argument that is out of range.
        """
        if not start >= 0:
            raise ValueError(f"start={start} must be 0 or more seconds.")
        if every < 1 or (max_frames is not None and max_frames < 1):
            raise ValueError(f"every={every} and max_frames={max_frames} must be 1 or more.")

        def read() -> Iterator[Frame]:
            late = (frame for frame in self if frame.seconds >= start)
            return islice((one for one in late if one.number % every == 0 or one.photo is None), max_frames)

        n_frames = None
        if self.n_frames is not None and not start:
            n_frames = -(-self.n_frames // every)
            n_frames = n_frames if max_frames is None else min(n_frames, max_frames)
        return replace(self, fps=self.fps / every, n_frames=n_frames, read=read)


# ------------------------------------------------------------------------------------------------------------- sources


def open_source(what: str | Path, *, fps: float | None = None, bits: int | None = None) -> FrameSource:
    """Frames of whatever holds some.

    ``what`` is a video file; a folder of images, a pattern (``frames/*.png``, ``frames/%04d.png``) or one image, in
    natural order (``2.png`` before ``10.png``); a camera by number (``0``) or device (``/dev/video0``); or the address
    of a stream (``rtsp://...``). ``fps`` is for where the source has none or a wrong one, and a camera is asked for it;
    ``bits`` as in `read_image` (default: the fewest that all images fit into).

    Raises:
        FileNotFoundError: there is no such file or folder, or no image in it.
        ValueError: a file that is no video, or an ``fps`` that is not above 0.
    """
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps} must be above 0.")
    text, path = str(what), Path(what).expanduser()
    if (text.isdigit() and not path.exists()) or text.startswith("/dev/video"):
        kinds = {"darwin": ("avfoundation", f"{text}:none"), "win32": ("dshow", f"video={text}")}
        kind, name = kinds.get(sys.platform, ("v4l2", f"/dev/video{text}" if text.isdigit() else text))
        options = {"framerate": f"{fps:g}"} if fps else {}
        return FrameSource(f"camera {text}", fps or CAMERA_FPS, None, True, lambda: _live_frames(name, kind, options))
    if "://" in text:
        return FrameSource(text, fps or CAMERA_FPS, None, True, lambda: _live_frames(text, None, {}))
    if path.is_dir():
        photos = find_images(path)
    elif path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            return _video_file(path, fps)
        photos = [path]
    elif re.search(r"[*?\[]|%\d*d", path.name):
        pattern = path.name
        if re.search(r"%\d*d", pattern):  # beside it a bracket is one
            pattern = re.sub(r"%\d*d", "*", pattern.replace("[", "[[]"))
        photos = [file for file in path.parent.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES]
    else:
        raise FileNotFoundError(f"There is no {what}; give a video, a folder or pattern of images, or a camera (0).")
    bits = bits or measure_bit_depth(photos)
    return _photos(sorted(photos, key=_natural), [], fps, text, bits)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that takes digits as numbers."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _photos(
    photos: Sequence[str | Path], labels: Sequence[str], fps: float | None, name: str, bits: int | None = None
) -> FrameSource:
    """Photos as the frames of a clip, as they are: no video compression lies between."""
    if not photos:
        raise FileNotFoundError(f"{name} holds no image (PNG, JPEG, BMP, TIFF, WebP); give another folder or pattern.")
    fps = fps or SEQUENCE_FPS

    def read() -> Iterator[Frame]:
        for number, file in enumerate(photos):
            photo, error = None, ""
            try:
                photo = read_image(file, bits)
            except (OSError, ValueError) as problem:
                error = str(problem)
            yield Frame(number, number / fps, photo, str(file), labels[number] if labels else "", error)

    return FrameSource(name, fps, len(photos), False, read)


def dataset_source(table: pd.DataFrame, photos: str = "all", *, fps: float | None = None) -> FrameSource:
    """Test photos of a sample table (without any split: all photos), types mixed as on a line, each with its label.

    ``photos`` is ``all``, ``good``, or a type of defect.

    Raises:
        ValueError: there is no such photo; the message lists what there is.
    """
    test = table[table["split"] == "test"]
    test = table[table["split"] == ""] if test.empty else test  # a dataset that nobody has split
    chosen = test if photos == "all" else test[test["defect_type"] == photos]
    if chosen.empty:
        known = ", ".join(["all", *sorted(test["defect_type"].unique())]) if len(test) else "no test photo at all"
        raise ValueError(f"photos={photos!r}: the dataset has no such test photo; it has {known}.")
    chosen = chosen.sample(frac=1, random_state=0)
    name = f"{table.attrs.get('name') or 'dataset'} ({photos})"
    return _photos(chosen["image_path"].tolist(), chosen["defect_type"].tolist(), fps, name)


def unseen_photos(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows of a sample table that a run was neither trained nor calibrated on; those that it tests are ``test``."""
    known = table["image_path"].map(run.table.set_index("image_path")["split"]).fillna("")
    kept = table.assign(split=table["split"].mask(known == "test", "test"))[~known.isin(["train", "val"])]
    kept.attrs = dict(table.attrs)
    return kept


# ---------------------------------------------------------------------------------------------------- files and cameras


def _video_file(path: Path, fps: float | None) -> FrameSource:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no picture, only sound or data; give a video.")
            stream = container.streams.video[0]
            rate, count = float(stream.average_rate or stream.guessed_rate or SEQUENCE_FPS), stream.frames or None
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be opened as a video ({_words(error)}); it is damaged or no video: copy it again."
        ) from error
    return FrameSource(path.name, fps or rate, count, False, lambda: _file_frames(path, rate, fps))


def _file_frames(path: Path, rate: float, fps: float | None) -> Iterator[Frame]:
    """Frames of a file. Damaged ones are said to be so, not patched up: a patch would be judged. One is taken to be
    shown right after the frame that was decoded before it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Threads over frames would report an error several frames late; without "explode" FFmpeg conceals damage.
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"err_detect": "explode"}
        first, broken_at, seconds, end, number = None, None, 0.0, 0.0, -1
        for number, item in enumerate(_decoded(container, stream)):
            since, shown_for, photo = end, 1 / rate, None
            if isinstance(item, tuple):
                broken_at, error = item
            else:
                if broken_at is not None and item.key_frame and (item.time is None or item.time > broken_at):
                    broken_at = None  # one that is shown earlier was only waiting for its turn
                photo, error = _pixels(item), _FOLLOWS_BROKEN * (broken_at is not None and not item.key_frame)
                if item.time is not None:
                    first = item.time if first is None else first
                    since = item.time - first
                if item.duration:
                    shown_for = max(shown_for, float(item.duration * item.time_base))
            seconds = max(seconds, since)
            end = max(end, seconds + shown_for)
            yield Frame(number, number / fps if fps else seconds, photo, f"{path.name}#{number}", error=error)
        lost = _lost_frames(container, stream, number + 1, end, rate)
        if lost:
            number, seconds = number + 1, (number + 1) / fps if fps else end
            error = f"is where the file breaks off: {lost} frames that it states are missing; copy it again"
            yield Frame(number, seconds, None, f"{path.name}#{number}", error=error)


def _lost_frames(
    container: av.container.InputContainer, stream: av.VideoStream, count: int, end: float, rate: float
) -> int:
    """Frames that did not come though the file's length states them: a trimmed clip holds more than are shown."""
    if not (stream.duration or container.duration) or (stream.frames and count >= stream.frames):
        return 0
    stated = float(stream.duration * stream.time_base) if stream.duration else container.duration / av.time_base
    # another stream, such as sound, may be the longer one
    sure = 1.0 if not stream.duration and len(container.streams) > 1 else 1.5 / rate
    gap = stated - end
    if gap <= max(sure, 0.01 * stated):
        return 0
    return stream.frames - count if stream.frames else round(gap * rate)


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame | tuple[float, str]]:
    """Frames as they come; for one that cannot be decoded, its time (-1: not known) and what is wrong."""
    packets, in_a_row = container.demux(stream), 0
    while in_a_row < _MOST_BROKEN_READS:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            in_a_row += 1
            packets = container.demux(stream)  # a generator that has raised is over
            yield -1.0, f"cannot be read ({_words(error)})"
            continue
        if packet is None:
            return
        in_a_row = 0
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            at = -1.0 if packet.pts is None else float(packet.pts * packet.time_base)
            yield at, f"cannot be decoded ({_words(error)})"
            continue
        yield from ((frame.time or -1.0, "is damaged") if frame.is_corrupt else frame for frame in frames)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright: phones store how they were held."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


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
        for number, item in enumerate(_decoded(container, container.streams.video[0])):
            now = time.perf_counter()
            photo, error = (None, item[1]) if isinstance(item, tuple) else (_pixels(item), "")
            yield Frame(number, now - begun, photo, f"{name}#{number}", error=error, arrived=now)


def at_source_pace(source: FrameSource, waiting: int) -> Iterator[Frame]:
    """Frames at the speed of the source, read in a thread, of which at most ``waiting`` wait.

    When another comes, the oldest that waits is dropped: it comes out without its photo, so that it can be counted. A
    file or sequence is played as a camera would send it. What reading raises is raised here.
    """
    queue: deque[Frame | BaseException | None] = deque()  # at its end what reading has raised, or None
    changed, stop = threading.Condition(), threading.Event()

    def read() -> None:
        begun, first, end = time.perf_counter(), None, None
        try:
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
            end = error
        with changed:
            queue.append(end)
            changed.notify()

    thread = threading.Thread(target=read, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: queue)
                item = queue.popleft()
            if not isinstance(item, Frame):
                break
            yield item
    finally:
        stop.set()
        thread.join(timeout=2)
    if item is not None:
        raise item
