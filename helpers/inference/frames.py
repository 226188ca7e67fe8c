"""A video judged frame by frame: its verdicts as rows of a CSV, and the video written with what was found."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
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
from helpers.paths import printable, uninterrupted, write_csv, write_json
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
        values = run.predictions("val")["score"] if kind == "image" else run.maps("val")
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
        maps = run.maps("val")
        good = np.flatnonzero(run.predictions("val")["label_index"].to_numpy() == 0)
        rows = good[:: max(1, len(good) * maps[0].size // _SCALE_VALUES)]
        low = float(np.percentile(maps[rows], 1)) if len(rows) else 0.0
    least = max(abs(pixel_threshold), 1.0) * 1e-6
    return MapScale(min(low, pixel_threshold - least), pixel_threshold)


# -------------------------------------------------------------------------------------------------------------- videos


class VideoResult(NamedTuple):
    """What became of a video; ``frames`` has a row a frame (`FRAME_COLUMNS`).

    ``other_thresholds``: the calibrated one and 0.8 of normalised scores, raw, without the one that was used.
    ``summary``: ``n_frames`` that came, of them ``n_judged``, ``n_broken`` and ``n_dropped``, ``n_flagged`` (called
    DEFECT), ``n_expected`` (that the source states, or None), ``fps_reached`` (with drawing and encoding),
    ``latency_median_ms``, ``latency_p95_ms`` and ``interrupted`` (by Ctrl-C).
    """

    video: Path
    frames: pd.DataFrame
    threshold: Threshold
    other_thresholds: dict[str, float]
    summary: dict[str, Any]


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
    """Judge a video and write it (H.264) with what was found; only a few photos are held at a time.

    Under its name come a CSV with a row a frame and a JSON with settings and counts; each is whole or not there.
    Dropped frames are not in the video; the others keep their times, so that it is as long as the source.

    ``threshold`` and ``pixel_threshold`` are those of `video_threshold` (the latter by default the stored one, or with
    a normalised threshold the same level on normalised maps). ``waiting`` is how many frames may wait; 0: each is
    judged, however long that takes (of a live source: 1). 1: the newest, and those that came meanwhile are dropped. A
    file is then played at its own speed. ``on_picture`` is called with each picture that was written.

    Raises:
        ValueError: an argument that cannot be, or a source of which no frame could be judged.
    """
    out, size, waiting = Path(out), as_pixel_size(pixel_size, unit), waiting or int(source.live)
    judge = FrameJudge(predictor, source.fps, layout, threshold, pixel_threshold, size, min_defect_area, show_labels)
    predictor.judge_each([np.full((64, 64, 3), 128, np.uint8)], ["warm-up"])  # kernels are chosen before
    with ExitStack() as finishing:
        begun = time.perf_counter()
        rows, interrupted = _write_judged(judge, source, waiting, out, on_picture, finishing)
        seconds = time.perf_counter() - begun
        numbers = [name for name in FRAME_COLUMNS if name not in ("frame", *TEXT_COLUMNS)]
        frames = pd.DataFrame(rows, columns=list(FRAME_COLUMNS)).astype(dict.fromkeys(numbers, float))
        write_csv(frames.astype({"n_defects": "Int64"}), out.with_suffix(".csv"))
        summary = {
            **{"n_frames": len(frames), "n_expected": source.n_frames},
            "n_flagged": int((frames["verdict"] == DEFECT_VERDICT).sum()),
            **{f"n_{status}": judge.counts[status] for status in (JUDGED, BROKEN, DROPPED)},
            "fps_reached": judge.counts[JUDGED] / seconds,
            "latency_median_ms": float(frames["latency_ms"].median()),
            "latency_p95_ms": float(frames["latency_ms"].quantile(0.95)),
            "interrupted": interrupted,
        }
        about = {"source": source.name, "fps": source.fps, "waiting": waiting} | judge.settings()
        write_json({"settings": about, "results": summary}, out.with_suffix(".json"))
    return VideoResult(out, frames, judge.threshold, judge.other_thresholds(), summary)


def _write_judged(
    judge: FrameJudge,
    source: FrameSource,
    waiting: int,
    out: Path,
    on_picture: Callable[[np.ndarray], None] | None,
    finishing: ExitStack,
) -> tuple[list[tuple], bool]:
    """The video; a row a frame comes back, and whether that was interrupted. From then on nothing interrupts."""
    rows, interrupted, first = [], False, None
    drawn: deque[Future[np.ndarray]] = deque()

    def draw(photo: np.ndarray, content: FrameContent, seconds: float) -> np.ndarray:
        picture = draw_frame(judge.layout, photo, content, judge.scale, judge.pixel_size)
        clip.write(picture, seconds)
        return picture

    def show(left: int) -> None:
        while len(drawn) > left:
            picture = drawn.popleft().result()
            if on_picture is not None:
                on_picture(picture)

    with ClipWriter(out, source.fps) as clip:
        frames = at_source_pace(source, waiting) if waiting else iter(source)
        with _drawing_thread(judge.predictor) as (pool, later), closing(frames):  # the pool ends last: all is written
            try:
                for frame in progress(frames, source.name, source.n_frames):
                    row, content = judge(frame)
                    rows.append(tuple(row.values()))
                    if content is not None:
                        first = frame.seconds if first is None else first
                        photo = frame.photo if row["status"] == JUDGED else judge.last_photo // 3
                        drawn.append(pool.submit(draw, photo, content, frame.seconds - first))
                    show(left=later)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                finishing.enter_context(uninterrupted())
        show(left=0)
        if not judge.counts[JUDGED]:
            if interrupted:
                raise KeyboardInterrupt
            why = next((row[-1] for row in rows if row[-1]), "") if rows else NONE_CAME
            raise ValueError(f"{source.name}: no frame could be judged. {why}".strip())
    return rows, interrupted


@contextmanager
def _drawing_thread(predictor: Predictor) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """The thread that draws and encodes, and how many frames may wait for it while the next ones are judged.

    None beside torch on two cores, which it needs both: as many frames a second there, but a verdict after 48 ms
    instead of 28. With OpenVINO on the same cores 22 frames a second instead of 17. Torch has one thread less
    meanwhile, for all its threads wait for the one that has to share a core.
    """
    threads = torch.get_num_threads()
    beside = predictor.backend != "torch" or predictor.device != "cpu" or threads > 2
    torch.set_num_threads(max(1, threads - beside))
    try:
        with ThreadPoolExecutor(1, "drawing") as pool:
            yield pool, 2 * beside
    finally:
        torch.set_num_threads(threads)


class FrameJudge:
    """From a frame to its row and what is to be drawn; it counts them."""

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
        self.counts: Counter[str] = Counter()
        self.last_photo: np.ndarray | None = None
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
        row: dict[str, Any] = dict.fromkeys(FRAME_COLUMNS) | dict.fromkeys(TEXT_COLUMNS, "")
        row |= {"frame": frame.number, "time_s": round(frame.seconds, 4), "label": frame.label}
        row |= {"source": printable(frame.source), "error": printable(frame.error)}
        row["status"], measured = DROPPED if frame.dropped else BROKEN, ()
        if frame.photo is not None:
            prediction = self.predictor.judge_each([frame.photo], [frame.source], threshold=self.threshold)[0]
            row["error"] = printable(prediction.error or "") or row["error"]
            if not prediction.error:
                self.last_photo = frame.photo
                measured = self._judged(row, prediction)
                row["latency_ms"] = round(1000 * (time.perf_counter() - frame.arrived), 3)
                self._finished.append(time.perf_counter())
        self.counts[row["status"]] += 1
        if frame.dropped or self.last_photo is None:
            return row, None
        abnormal = row["verdict"] == DEFECT_VERDICT if row["verdict"] else None
        return row, FrameContent(row["verdict"] or "BROKEN", abnormal, self._lines(row), *measured)

    def _judged(self, row: dict[str, Any], prediction: Prediction) -> tuple:
        """The row is filled in; map, numbered defects and their table come back, of a classifier nothing."""
        # nine digits: a float32, as the threshold compares it
        row |= {"status": JUDGED, "score": float(f"{prediction.score:.9g}")}
        row["verdict"] = DEFECT_VERDICT if prediction.abnormal else GOOD_VERDICT
        row["normalised_score"] = round(self.normalisation(prediction.score), 4)
        row["confidence"] = round(prediction.confidence, 4)
        if prediction.probabilities is not None:
            row["class"] = self.predictor.classes[int(prediction.probabilities.argmax())]
        if prediction.network_map is None:
            return ()
        photo_map = self.predictor.photo_map(prediction)
        labels = label_defects(photo_map, self.pixel_threshold.value, min_defect_area=self.min_defect_area)
        defects = measure_labels(labels, self.pixel_size, score_map=photo_map)
        row |= {"n_defects": len(defects), "unit": self.pixel_size.unit}
        if len(defects):
            row |= {f"largest_{name}": float(f"{defects[name].max():.6g}") for name in ("length", "area")}
        return photo_map, labels, defects

    def _lines(self, row: dict[str, Any]) -> list[str]:
        """What is written on a frame."""
        lost = [f"{self.counts[status]} {status}" for status in (DROPPED, BROKEN) if self.counts[status]]
        where = f"frame {row['frame']}, {row['time_s']:.2f} s" + (f" ({', '.join(lost)})" if lost else "")
        if row["status"] == BROKEN:
            return [where, shorten(row["error"], 200)]
        over = ">" if row["verdict"] == DEFECT_VERDICT else "≤"
        half = "" if self.threshold.value == self.normalisation.threshold else ", calibrated threshold 0.50"
        score = f"score {row['score']:.4g} {over} {self.threshold.value:.4g}"
        lines = [f"{score} ({row['normalised_score']:.2f} normalised{half})"]
        lines += [f"class {row['class']}"] if row["class"] else []
        if row["n_defects"] is not None:
            largest = f", longest {row['largest_length']:.3g} {row['unit']}" if row["n_defects"] else ""
            lines.append(f"{row['n_defects']} defect{'' if row['n_defects'] == 1 else 's'}{largest}")
        rate = (len(self._finished) - 1) / max(self._finished[-1] - self._finished[0], 1e-9)
        lines += [where, f"latency {row['latency_ms']:.0f} ms, {rate:.1f} frames/s (source {self.fps:.3g})"]
        lines += [f"label: {row['label']}"] if self.show_labels and row["label"] else []
        return [shorten(line, 200) for line in [*lines, *([row["error"].partition(":")[0]] if row["error"] else [])]]
