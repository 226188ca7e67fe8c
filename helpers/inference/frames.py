"""A video judged frame by frame: its verdicts as rows of a CSV, and the video written with what was found."""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from helpers.analysis.sizing import PixelSize, PixelSizeLike, as_pixel_size, label_defects, measure_labels
from helpers.drawing import shorten
from helpers.inference.clip_writer import NONE_CAME, ClipWriter
from helpers.inference.clips import Frame, FrameSource, at_source_pace
from helpers.inference.frame_drawing import LAYOUTS, FrameContent, MapScale, draw_frame
from helpers.inference.predictor import Prediction, Predictor
from helpers.paths import cell, partial_path, read_csv, uninterrupted, write_json
from helpers.progress import progress
from helpers.runs import Run
from helpers.thresholds import Threshold

GLASS_START = 0.8  # on normalised scores: where the tools that come with GLASS begin
NORMALISED = "normalised"
JUDGED, BROKEN, DROPPED = "judged", "broken", "dropped"
DEFECT_VERDICT, GOOD_VERDICT = "DEFECT", "OK"
TEXT_COLUMNS = ("status", "verdict", "class", "unit", "label", "source", "error")
FRAME_COLUMNS = (
    *("frame", "time_s", "status", "verdict", "score", "normalised_score", "confidence", "class"),
    *("n_defects", "largest_length", "largest_area", "unit", "latency_ms", "label", "source", "error"),
)
"""Of the CSV. ``status`` is judged, broken or dropped. ``normalised_score`` is 0.5 at the calibrated threshold, also
where another one gives the verdict. ``largest_length`` and ``largest_area`` are each the maximum of the frame's
defects. ``latency_ms`` is from the frame's arrival to its verdict: waiting, network, map and sizes."""
_RATE_FRAMES = 30  # behind the burnt-in frame rate
_HISTORY = 100  # scores shown in the layout "side"
_DRAWN_LATER = 2  # frames that may wait to be drawn and encoded while the next ones are judged
_SCALE_VALUES = 2_000_000  # values of val maps that the scale's low end is read off


# ---------------------------------------------------------------------------------------------------------- thresholds


class Normalisation(NamedTuple):
    """Raw scores to 0 to 1, with a threshold at 0.5, as anomalib's ``PostProcessor`` does it.

    n(s) = clip((s - threshold) / (high - low) + 0.5, 0, 1). So 0.8 lies above the threshold by 0.3 of the spread of
    val, whose ends are low and high. The threshold is the stored one.
    """

    threshold: float
    low: float
    high: float

    @classmethod
    def of(cls, predictor: Predictor, kind: str = "image") -> Normalisation:
        """Of photos' scores (image) or of pixels (pixel)."""
        run = predictor.run
        values = run.predictions("val")["score"] if kind == "image" else run.val_maps()
        return cls(predictor.thresholds[kind].value, float(values.min()), float(values.max()))

    def __call__(self, score: float) -> float:
        """In [0, 1]; NaN where val has no spread."""
        spread = self.high - self.low
        return min(1.0, max(0.0, (score - self.threshold) / spread + 0.5)) if spread > 0 else float("nan")

    def raw(self, normalised: float) -> float:
        """The raw score of a normalised one; it need not lie in 0 to 1."""
        return self.threshold + (normalised - 0.5) * (self.high - self.low)


def video_threshold(predictor: Predictor, name: float | str, kind: str = "image") -> Threshold:
    """A threshold by the name of a stored one or ``start`` (`Predictor.threshold`), as a raw score, or on normalised
    scores: ``normalised:0.7``; ``normalised`` is 0.8. ``kind`` is image or pixel.

    Raises:
        ValueError: there is none of that name, or the number is none.
    """
    word, _, number = str(name).partition(":")
    if word != NORMALISED:
        with suppress(ValueError):
            name = float(name)
        return predictor.threshold(name)
    try:
        level = float(number) if number else GLASS_START
    except ValueError:
        raise ValueError(f"threshold={name!r}: write normalised:0.8 with a number.") from None
    value = Normalisation.of(predictor, kind).raw(level)
    return Threshold(value, f"{level:g} on normalised scores (0.5: the stored threshold {kind})", kind=kind)


def map_scale(run: Run, pixel_threshold: float) -> MapScale:
    """The scale of colours for all maps of a video: from what good pixels have to as far beyond the threshold.

    Its low end is the first percentile of the maps of val's good photos; 0 for a run that kept no maps of val.
    """
    low = 0.0
    if (run.folder / "maps_val.npy").is_file():
        maps = run.val_maps()
        good = np.flatnonzero(run.predictions("val")["label_index"].to_numpy() == 0)
        rows = good[:: max(1, len(good) * maps[0].size // _SCALE_VALUES)]
        low = float(np.percentile(maps[rows], 1)) if len(rows) else 0.0
    least = max(abs(pixel_threshold), 1.0) * 1e-6
    return MapScale(min(low, pixel_threshold - least), pixel_threshold)


# -------------------------------------------------------------------------------------------------------------- videos


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    ``other_thresholds``: the calibrated one and 0.8 of normalised scores, raw, without the one that was used.
    ``summary``: ``n_frames`` that came, of them ``n_judged``, ``n_broken`` and ``n_dropped``, ``n_flagged`` (called
    DEFECT), ``n_expected`` (that the source states, or None), ``fps_reached`` (with drawing and encoding),
    ``latency_median_ms``, ``latency_p95_ms`` and ``interrupted`` (by Ctrl-C).
    """

    video: Path
    threshold: Threshold
    other_thresholds: dict[str, float]
    summary: dict[str, Any]

    def frames(self) -> pd.DataFrame:
        """A row a frame: `FRAME_COLUMNS`."""
        return _read_frames(self.video)


def _read_frames(video: Path) -> pd.DataFrame:
    numbers = {name: [""] for name in FRAME_COLUMNS if name not in TEXT_COLUMNS}
    text = dict.fromkeys(TEXT_COLUMNS, "str")
    return read_csv(video.with_suffix(".csv"), dtype=text, keep_default_na=False, na_values=numbers)


def judge_video(
    source: FrameSource,
    out: str | Path,
    predictor: Predictor,
    *,
    layout: str = "overlay",
    threshold: float | str = "image",
    pixel_threshold: float | str | None = None,
    pixel_size: PixelSizeLike = 1.0,
    unit: str = "px",
    min_defect_area: int = 10,
    waiting: int = 0,
    show_labels: bool = False,
    on_picture: Callable[[np.ndarray], None] | None = None,
) -> VideoResult:
    """Judge a video and write it (H.264) with what was found; only a few frames are held at a time.

    Under its name come a CSV with a row a frame and a JSON with settings and counts; each is whole or not there.
    Dropped frames are not in the video; the others keep their times, so that it is as long as the source.

    ``threshold`` and ``pixel_threshold`` are those of `video_threshold` (the latter by default the stored one, or with
    a normalised threshold the same level on normalised maps). ``waiting`` is how many frames may wait; 0: each is
    judged, however long that takes (of a live source: 1). 1: the newest, and those that came meanwhile are dropped. A
    file is then played at its own speed. ``on_picture`` is called with each picture that was written.

    Raises:
        ValueError: an argument that cannot be, or a source of which no frame could be judged.
    """
    out, size = Path(out), as_pixel_size(pixel_size, unit)
    judge = FrameJudge(predictor, source.fps, layout, threshold, pixel_threshold, size, min_defect_area, show_labels)
    waiting = waiting or int(source.live)
    interrupted, seconds = _write_judged(judge, source, waiting, out, on_picture)
    with uninterrupted():
        latency = _read_frames(out)["latency_ms"].dropna()
        summary = {
            **{"n_frames": sum(judge.counts.values()), "n_expected": source.n_frames, "n_flagged": judge.n_flagged},
            **{f"n_{status}": count for status, count in judge.counts.items()},
            "fps_reached": judge.counts[JUDGED] / seconds,
            "latency_median_ms": float(latency.median()),
            "latency_p95_ms": float(latency.quantile(0.95)),
            "interrupted": interrupted,
        }
        about = {"source": source.name, "fps": source.fps, "waiting": waiting} | judge.settings()
        write_json({"settings": about, "results": summary}, out.with_suffix(".json"))
    return VideoResult(out, judge.threshold, judge.other_thresholds(), summary)


def _write_judged(
    judge: FrameJudge,
    source: FrameSource,
    waiting: int,
    out: Path,
    on_picture: Callable[[np.ndarray], None] | None,
) -> tuple[bool, float]:
    """Frames to the video and its CSV; whether that was interrupted, and how long it took."""
    frames = at_source_pace(source, waiting) if waiting else iter(source)
    judge.predictor.judge_each([np.full((64, 64, 3), 128, np.uint8)], ["warm-up"])  # kernels are chosen before
    later = _DRAWN_LATER if _draws_beside(judge.predictor) else 0
    drawn: deque[Future[np.ndarray]] = deque()
    interrupted, first = False, None
    with ExitStack() as finishing, ClipWriter(out, source.fps) as clip, _table(out.with_suffix(".csv")) as add_row:

        def draw(photo: np.ndarray, row: dict[str, Any], content: FrameContent, seconds: float) -> np.ndarray:
            picture = judge.draw(photo, row, content)
            clip.write(picture, seconds)
            return picture

        def show(left: int) -> None:
            while len(drawn) > left:
                picture = drawn.popleft().result()
                if on_picture is not None:
                    on_picture(picture)

        begun = time.perf_counter()
        with _drawing_thread(later > 0) as pool, closing(frames):  # the pool ends first: all that is drawn is written
            try:
                for frame in progress(frames, source.name, source.n_frames):
                    row, content = judge(frame)
                    if content is not None:
                        first = frame.seconds if first is None else first
                        photo = frame.photo if row["status"] == JUDGED else judge.last_photo // 3
                        drawn.append(pool.submit(draw, photo, row, content, frame.seconds - first))
                    add_row(row)
                    show(left=later)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                finishing.enter_context(uninterrupted())
        show(left=0)
        if not judge.counts[JUDGED]:
            if interrupted:
                raise KeyboardInterrupt
            why = judge.first_error if any(judge.counts.values()) else NONE_CAME
            raise ValueError(f"{source.name}: no frame could be judged. {why}".strip())
        return interrupted, time.perf_counter() - begun


def _draws_beside(predictor: Predictor) -> bool:
    """Whether frames are drawn while the next ones are judged.

    Not beside torch on two cores, which it needs both: as many frames a second there, but a verdict after 48 ms instead
    of 28. With OpenVINO on the same cores 22 frames a second instead of 17.
    """
    return predictor.backend != "torch" or predictor.device != "cpu" or torch.get_num_threads() > 2


@contextmanager
def _drawing_thread(beside: bool) -> Iterator[ThreadPoolExecutor]:
    """One thread; torch has one less meanwhile, for all its threads wait for the one that has to share a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - beside))
    try:
        with ThreadPoolExecutor(1, "drawing") as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _table(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What adds a row to a CSV, which appears under its name when the block ends; after an error nothing is left."""
    part, writer = partial_path(path), None

    def add(row: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:  # not before: of a video without a frame no folder is left
            path.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(part.open("w", newline="", encoding="utf-8", errors="backslashreplace"))
            writer = csv.DictWriter(file, FRAME_COLUMNS)
            writer.writeheader()
        writer.writerow({name: cell(value) for name, value in row.items()})

    try:
        with ExitStack() as opened:
            yield add
        if writer is not None:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class FrameJudge:
    """From a frame to its row and what is to be drawn; it counts, and remembers the latest scores."""

    def __init__(
        self,
        predictor: Predictor,
        fps: float,
        layout: str,
        threshold: float | str,
        pixel_threshold: float | str | None,
        pixel_size: PixelSize,
        min_defect_area: int,
        show_labels: bool,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(LAYOUTS)}.")
        if layout == "sizes" and predictor.classes is not None:
            raise ValueError(
                f"{predictor.run.name} is a classifier and finds no sizes; use the layout overlay or side."
            )
        self.predictor, self.fps, self.layout, self.pixel_size = predictor, fps, layout, pixel_size
        self.min_defect_area, self.show_labels = min_defect_area, show_labels
        self.threshold = video_threshold(predictor, threshold)
        self.normalisation = Normalisation.of(predictor)
        self.pixel_threshold: Threshold | None = None
        self.scale: MapScale | None = None
        if predictor.classes is None:
            default = threshold if str(threshold).startswith(NORMALISED) else "pixel"
            self.pixel_threshold = video_threshold(predictor, pixel_threshold or default, "pixel")
            self.scale = map_scale(predictor.run, self.pixel_threshold.value)
        self.counts = dict.fromkeys((JUDGED, BROKEN, DROPPED), 0)
        self.n_flagged = 0
        self.first_error = ""
        self.last_photo: np.ndarray | None = None
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._finished: deque[float] = deque(maxlen=_RATE_FRAMES)

    def other_thresholds(self) -> dict[str, float]:
        known = self.normalisation
        both = {"calibrated": known.threshold}
        if known.high > known.low:
            both[f"{GLASS_START} normalised"] = known.raw(GLASS_START)
        return {name: value for name, value in both.items() if value != self.threshold.value}

    def settings(self) -> dict[str, Any]:
        """What the video was made with, plain JSON data."""
        run, scale = self.predictor.run, self.scale
        return {
            "run": str(run.folder),
            "run_fingerprint": run.info.get("fingerprint"),
            "layout": self.layout,
            "threshold": self.threshold.to_dict(),
            "pixel_threshold": self.pixel_threshold.to_dict() if self.pixel_threshold else None,
            "map_scale": [scale.low, scale.threshold, scale.top] if scale else None,
            "normalisation": self.normalisation._asdict(),
            "pixel_size": self.pixel_size.to_dict(),
            "min_defect_area": self.min_defect_area,
        }

    def __call__(self, frame: Frame) -> tuple[dict[str, Any], FrameContent | None]:
        """The frame's row, and what to draw; None for a dropped frame, or a broken one before the first whole one."""
        about = {"frame": frame.number, "time_s": round(frame.seconds, 4), "label": frame.label}
        row = dict.fromkeys(FRAME_COLUMNS, "") | about | {"source": frame.source, "error": frame.error}
        if frame.photo is not None:
            prediction = self.predictor.judge_each([frame.photo], [frame.source], threshold=self.threshold)[0]
            if not prediction.error:
                self.last_photo = frame.photo
                return self._judged(frame, row, prediction)
            row["error"] = prediction.error
        row["status"] = DROPPED if frame.dropped else BROKEN
        self.counts[row["status"]] += 1
        self._history.append(float("nan"))
        if frame.dropped:
            return row, None
        self.first_error = self.first_error or row["error"]
        content = FrameContent("BROKEN", None, [self._where(row), row["error"]], history=tuple(self._history))
        return row, None if self.last_photo is None else content

    def _judged(self, frame: Frame, row: dict[str, Any], prediction: Prediction) -> tuple[dict[str, Any], FrameContent]:
        photo_map, labels, defects = None, None, None
        if prediction.network_map is not None:
            photo_map = self.predictor.photo_map(prediction)
            labels = label_defects(photo_map, self.pixel_threshold.value, min_defect_area=self.min_defect_area)
            defects = measure_labels(labels, self.pixel_size, score_map=photo_map)
            row |= {"n_defects": len(defects), "unit": self.pixel_size.unit}
            if len(defects):
                row |= {f"largest_{name}": float(f"{defects[name].max():.6g}") for name in ("length", "area")}
        if prediction.probabilities is not None:
            row["class"] = self.predictor.classes[int(prediction.probabilities.argmax())]
        row |= {
            "status": JUDGED,
            "verdict": DEFECT_VERDICT if prediction.abnormal else GOOD_VERDICT,
            # nine digits: a float32, as the threshold compares it
            "score": float(f"{prediction.score:.9g}"),
            "normalised_score": round(self.normalisation(prediction.score), 4),
            "confidence": round(prediction.confidence, 4),
            "latency_ms": round(1000 * (time.perf_counter() - frame.arrived), 3),
        }
        self.counts[JUDGED] += 1
        self.n_flagged += prediction.abnormal
        self._history.append(prediction.score)
        history = tuple(self._history)
        return row, FrameContent(
            row["verdict"], prediction.abnormal, self._lines(row), photo_map, labels, defects, history
        )

    def draw(self, photo: np.ndarray, row: dict[str, Any], content: FrameContent) -> np.ndarray:
        """The picture of a frame, with how fast it goes and its own label where that is asked for."""
        self._finished.append(time.perf_counter())
        lines = [*content.lines, self._speed(row)]
        lines += [f"label: {row['label']}"] if self.show_labels and row["label"] else []
        lines += [row["error"].partition(":")[0]] if row["status"] == JUDGED else []
        content = replace(content, lines=[shorten(line, 200) for line in lines if line])
        return draw_frame(self.layout, photo, content, self.scale, self.threshold.value, self.pixel_size)

    def _lines(self, row: dict[str, Any]) -> list[str]:
        over = ">" if row["verdict"] == DEFECT_VERDICT else "≤"
        half = "" if self.threshold.value == self.normalisation.threshold else ", calibrated threshold 0.50"
        score = f"score {row['score']:.4g} {over} {self.threshold.value:.4g}"
        lines = [f"{score} ({row['normalised_score']:.2f} normalised{half})"]
        if row["class"]:
            lines.append(f"class {row['class']}")
        if row["n_defects"] != "":
            count = row["n_defects"]
            largest = f", longest {row['largest_length']:.3g} {row['unit']}" if count else ""
            lines.append(f"{count} defect{'' if count == 1 else 's'}{largest}")
        return [*lines, self._where(row)]

    def _where(self, row: dict[str, Any]) -> str:
        lost = [f"{self.counts[status]} {status}" for status in (DROPPED, BROKEN) if self.counts[status]]
        return f"frame {row['frame']}, {row['time_s']:.2f} s" + (f" ({', '.join(lost)})" if lost else "")

    def _speed(self, row: dict[str, Any]) -> str:
        if row["latency_ms"] == "":
            return ""
        rate = ""
        if len(self._finished) > 1:
            per_second = (len(self._finished) - 1) / (self._finished[-1] - self._finished[0])
            rate = f", {per_second:.1f} frames/s (source {self.fps:.3g})"
        return f"latency {row['latency_ms']:.0f} ms{rate}"
