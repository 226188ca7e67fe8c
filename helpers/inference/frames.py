"""A video judged frame by frame: its verdicts as rows of a CSV, and the video written with what was found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from helpers.analysis.sizing import IN_PIXELS, PixelSize, label_defects, measure_labels
from helpers.drawing import DEFECT, SOUND, shorten
from helpers.inference.clips import ClipWriter, Frame, FrameSource, newest
from helpers.inference.frame_drawing import LAYOUTS, NEITHER, FrameContent, MapScale, draw_frame
from helpers.inference.predictor import Prediction, Predictor
from helpers.paths import printable, uninterrupted, write_csv, write_json
from helpers.progress import in_threads, progress
from helpers.thresholds import Threshold

NORMALISED, GLASS_START = "normalised", 0.8  # on normalised scores: where the tools that come with GLASS begin
JUDGED, BROKEN, DROPPED = "judged", "broken", "dropped"
NO_ROW: dict[str, Any] = {"frame": 0, "time_s": np.nan, "status": "", "verdict": "", "score": np.nan}
NO_ROW |= {"normalised_score": np.nan, "confidence": np.nan, "class": "", "n_defects": np.nan}
NO_ROW |= {"largest_length": np.nan, "largest_area": np.nan, "unit": "", "latency_ms": np.nan}
NO_ROW |= {"label": "", "source": "", "error": ""}
"""The columns of the CSV. ``status`` is judged, broken or dropped. ``normalised_score`` is 0.5 at the calibrated
threshold, also where another one gives the verdict. ``largest_length`` and ``largest_area`` are each the maximum of the
frame's defects. ``latency_ms`` is from the frame's arrival to its verdict: waiting, network, map and sizes."""


def val_spread(predictor: Predictor, kind: str = "image") -> float:
    """From the lowest to the highest of val's scores (image) or pixels (pixel).

    As anomalib's ``PostProcessor`` has it, a normalised score is clip((s - threshold) / spread + 0.5, 0, 1), with the
    stored threshold.
    """
    values = predictor.run.predictions("val")["score"].to_numpy() if kind == "image" else predictor.run.maps("val")
    return float(values.max()) - float(values.min())


def video_threshold(predictor: Predictor, name: float | str, kind: str = "image") -> Threshold:
    """`Predictor.threshold`, by a number as text, too; or ``normalised``: 0.8 on normalised scores."""
    if name == NORMALISED:
        value = predictor.thresholds[kind].value + (GLASS_START - 0.5) * val_spread(predictor, kind)
        return Threshold(value, f"{GLASS_START} on normalised scores (0.5: the stored threshold {kind})", kind=kind)
    with suppress(ValueError):
        name = float(name)
    return predictor.threshold(name)


def map_scale(predictor: Predictor, pixel_threshold: float) -> MapScale:
    """The scale of colours for all maps of a video: from what good pixels have to as far beyond the threshold.

    Its low end is the first percentile of the maps of val's good photos; 0 for a run that kept no maps of val.
    """
    run, low = predictor.run, 0.0
    if (run.folder / "maps_val.npy").is_file():
        maps = run.maps("val")
        good = np.flatnonzero(run.predictions("val")["label_index"].to_numpy() == 0)
        rows = good[:: max(1, len(good) * maps[0].size // 2_000_000)]  # as many values tell it
        low = float(np.percentile(maps[rows], 1)) if len(rows) else 0.0
    least = max(abs(pixel_threshold), 1.0) * 1e-6
    return MapScale(min(low, pixel_threshold - least), pixel_threshold)


class VideoResult(NamedTuple):
    """What became of a video; ``frames`` has a row a frame (`NO_ROW`). ``other_thresholds``: the calibrated one and 0.8
    of normalised scores, raw, without the one that was used. In ``summary`` ``n_flagged`` are called DEFECT,
    ``n_expected`` is what the source states, or None, and ``fps_reached`` is with drawing and encoding."""

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
    pixel_size: float = 0.0,
    show_labels: bool = False,
    on_picture: Callable[[np.ndarray], None] = lambda picture: None,
) -> VideoResult:
    """Judge a video and write it (H.264) with what was found; only a few photos are held at a time.

    Under its name come a CSV with a row a frame and a JSON with settings and counts; each is whole or not there. Of a
    live source the newest frame is judged; those that came meanwhile are dropped, and the others keep their times.
    ``threshold`` is one of `video_threshold`; for pixels it is the stored one, or the normalised one too.
    ``pixel_size``: mm a pixel; 0: sizes in pixels. ``on_picture`` gets each picture that was written. ValueError: an
    argument that cannot be, or a source of which no frame could be judged.
    """
    judge = FrameJudge(predictor, layout, threshold, pixel_size, show_labels)
    predictor.judge_each([np.full((64, 64, 3), 128, np.uint8)], ["warm-up"])  # kernels are chosen before
    out, interrupted, begun = Path(out), False, time.perf_counter()
    came = newest(source) if source.live else iter(source)
    # Beside torch on two cores, which it needs both, a thread that draws and encodes brings nothing: as many frames a
    # second, but a verdict after 48 ms instead of 28. With OpenVINO on the same cores 22 frames a second, not 17.
    beside = predictor.backend != "torch" or predictor.device != "cpu" or torch.get_num_threads() > 2
    with ExitStack() as finishing:
        with ClipWriter(out, source.fps) as clip, closing(came):

            def paint(item: tuple[float, np.ndarray, FrameContent]) -> np.ndarray:
                picture = draw_frame(layout, *item[1:], judge.scale, judge.size)
                clip.write(picture, item[0])
                return picture

            judged = judge.follow(progress(came, source.name, source.n_frames))
            try:
                for picture in in_threads(paint, judged, 1) if beside else map(paint, judged):
                    on_picture(picture)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                finishing.enter_context(uninterrupted())
            if not judge.counts[JUDGED]:
                if interrupted:
                    raise KeyboardInterrupt
                why = next((row["error"] for row in judge.rows if row["error"]), "" if judge.rows else "None came.")
                raise ValueError(f"{source.name}: no frame could be judged. {why}".strip())
        frames = pd.DataFrame(judge.rows).astype({"n_defects": float})
        summary = {"n_frames": len(frames), "n_expected": source.n_frames, "interrupted": interrupted}
        summary["fps_reached"] = judge.counts[JUDGED] / (time.perf_counter() - begun)
        summary |= judge.summary(frames)
        write_csv(frames.astype({"n_defects": "Int64"}), out.with_suffix(".csv"))
        about = {"source": source.name, "fps": source.fps, "layout": layout} | judge.settings()
        write_json({"settings": about, "results": summary}, out.with_suffix(".json"))
    others = {"calibrated": judge.calibrated, f"{GLASS_START} normalised": video_threshold(predictor, NORMALISED).value}
    others = {name: value for name, value in others.items() if value != judge.threshold.value}
    return VideoResult(out, frames, judge.threshold, others, summary)


class FrameJudge:
    """From a frame to its row and what is to be drawn; it counts them."""

    def __init__(
        self, predictor: Predictor, layout: str, threshold: float | str, pixel_size: float, show_labels: bool
    ) -> None:
        if layout not in LAYOUTS or (layout == "sizes" and predictor.classes is not None):
            raise ValueError(f"layout={layout!r}: use one of {', '.join(LAYOUTS)}; a classifier finds no sizes.")
        self.predictor, self.show_labels = predictor, show_labels
        self.size = PixelSize(pixel_size, pixel_size) if pixel_size else IN_PIXELS
        self.threshold, self.spread = video_threshold(predictor, threshold), val_spread(predictor)
        self.calibrated = predictor.thresholds["image"].value
        self.pixel_threshold, self.scale = None, None
        if predictor.classes is None:
            pixel = NORMALISED if threshold == NORMALISED else "pixel"
            self.pixel_threshold = video_threshold(predictor, pixel, "pixel")
            self.scale = map_scale(predictor, self.pixel_threshold.value)
        self.rows: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.last_photo: np.ndarray | None = None

    def settings(self) -> dict[str, Any]:
        """What the video was made with, plain JSON data."""
        run, pixel = self.predictor.run, self.pixel_threshold
        about = {"run": str(run.folder), "run_fingerprint": run.info.get("fingerprint")}
        about |= {"threshold": self.threshold.to_dict(), "pixel_threshold": pixel and pixel.to_dict()}
        return about | {"map_scale": self.scale and [*self.scale, self.scale.top], "pixel_size": self.size.to_dict()}

    def summary(self, frames: pd.DataFrame) -> dict[str, Any]:
        return {
            "n_flagged": int((frames["verdict"] == "DEFECT").sum()),
            **{f"n_{status}": self.counts[status] for status in (JUDGED, BROKEN, DROPPED)},
            "latency_median_ms": float(frames["latency_ms"].median()),
            "latency_p95_ms": float(frames["latency_ms"].quantile(0.95)),
        }

    def follow(self, frames: Iterator[Frame]) -> Iterator[tuple[float, np.ndarray, FrameContent]]:
        """Judge frames; what is to be drawn comes out, with its seconds since the first picture: nothing of a dropped
        frame, of a broken one the last whole photo, darkened."""
        first = None
        for frame in frames:
            content = self._content(frame)
            if content is not None:
                first = frame.seconds if first is None else first
                photo = self.last_photo if frame.photo is self.last_photo else self.last_photo // 3
                yield frame.seconds - first, photo, content

    def _content(self, frame: Frame) -> FrameContent | None:
        row = NO_ROW | {"frame": frame.number, "time_s": round(frame.seconds, 4), "label": frame.label}
        row |= {"source": printable(frame.source), "error": printable(frame.error)}
        row["status"], measured = DROPPED if frame.dropped else BROKEN, ()
        if frame.photo is not None:
            prediction = self.predictor.judge_each([frame.photo], [frame.source])[0]
            if not prediction.error:
                prediction = self.predictor.rejudge(prediction, self.threshold)
            row["error"] = printable(str(prediction.error or "")) or row["error"]
            if not prediction.error:
                self.last_photo = frame.photo
                measured = self._judged(row, prediction)
                row["latency_ms"] = round(1000 * (time.perf_counter() - frame.arrived), 3)
        self.rows.append(row)
        self.counts[row["status"]] += 1
        if frame.dropped or self.last_photo is None:
            return None
        colour = {"DEFECT": DEFECT, "OK": SOUND}.get(row["verdict"], NEITHER)
        return FrameContent(row["verdict"] or "BROKEN", colour, self._lines(row), *measured)

    def _judged(self, row: dict[str, Any], prediction: Prediction) -> tuple:
        """The row is filled in; map, numbered defects and their table come back, of a classifier nothing."""
        # nine digits: a float32, as the threshold compares it
        row |= {"status": JUDGED, "score": float(f"{prediction.score:.9g}")}
        row["verdict"] = "DEFECT" if prediction.abnormal else "OK"
        if self.spread > 0:
            normalised = (prediction.score - self.calibrated) / self.spread + 0.5
            row["normalised_score"] = round(min(1.0, max(0.0, normalised)), 4)
        row["confidence"] = round(prediction.confidence, 4)
        if prediction.probabilities is not None:
            row["class"] = self.predictor.classes[int(prediction.probabilities.argmax())]
        if prediction.network_map is None:
            return ()
        photo_map = self.predictor.photo_map(prediction)
        labels = label_defects(photo_map, self.pixel_threshold.value)
        defects = measure_labels(labels, self.size, score_map=photo_map)
        row |= {"n_defects": len(defects), "unit": self.size.unit}
        if len(defects):
            row |= {f"largest_{name}": float(f"{defects[name].max():.6g}") for name in ("length", "area")}
        return photo_map, labels, defects

    def _lines(self, row: dict[str, Any]) -> list[str]:
        """What is written on a frame."""
        lost = [f"{self.counts[status]} {status}" for status in (DROPPED, BROKEN) if self.counts[status]]
        lines = [f"frame {row['frame']}, {row['time_s']:.2f} s" + (f" ({', '.join(lost)})" if lost else "")]
        if row["status"] == JUDGED:
            over = ">" if row["verdict"] == "DEFECT" else "≤"
            score = f"score {row['score']:.4g} {over} {self.threshold.value:.4g}"
            lines.insert(0, f"{score} ({row['normalised_score']:.2f} normalised)")
            lines.append(f"latency {row['latency_ms']:.0f} ms")
        if row["n_defects"] >= 0:
            largest = f", longest {row['largest_length']:.3g} {row['unit']}" if row["n_defects"] else ""
            lines.insert(1, f"{row['n_defects']} defects{largest}")
        lines += [f"class {row['class']}"] if row["class"] else []
        lines += [f"label: {row['label']}"] if self.show_labels and row["label"] else []
        return [shorten(line, 200) for line in [*lines, row["error"]] if line]
