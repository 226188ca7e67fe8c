"""Judge a video frame by frame, and write it with what was found; or make a clip, or a dataset, of frames.

    python -m helpers.inference.video IN OUT --run artifacts/mesh/quick/patchcore --layout side
    python -m helpers.inference.video 0 line.mp4 --run RUN                         camera 0, to Ctrl-C
    python -m helpers.inference.video datasets/mesh mesh.mp4 --photos all --run RUN --labels
    python -m helpers.inference.video datasets/mesh mesh.mp4 --photos good         a clip, not judged
    python -m helpers.inference.video clip.mp4 datasets/clip --extract --max-frames 200

IN is a video file, a folder or pattern of images (``frames/%04d.png``), a camera (``0`` or ``/dev/video0``), the
address of a stream, or with --photos a dataset. OUT is an .mp4, .mov or .mkv, or a folder that gets one. Beside the
video lie, under its name, .csv (a row a frame), .png (the timeline) and .json (settings and counts).

A frame that cannot be decoded is counted and shown as BROKEN, and the rest goes on. Ctrl-C ends a video; what is done
is kept and can be played.

Exit status: 0 all is well; 1 some frames were broken; 2 refused, with the reason; 130 interrupted.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from helpers.paths import cell, partial_path, printable, stopped_alike, uninterrupted
from helpers.progress import quiet_libraries, sentence

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from helpers.analysis.sizing import PixelSize, PixelSizeLike
    from helpers.inference.clips import Frame, FrameSource
    from helpers.inference.predictor import Prediction, Predictor
    from helpers.runs import Run
    from helpers.thresholds import Threshold
    from helpers.views.video_figures import Found, MapScale

GLASS_START = 0.8  # on normalised scores: where the tools that come with GLASS begin
NORMALISED = "normalised"
QUEUE = 64  # frames that may wait with --queue
JUDGED, BROKEN, DROPPED = "judged", "broken", "dropped"
DEFECT_VERDICT, GOOD_VERDICT = "DEFECT", "OK"
FRAME_COLUMNS = (
    *("frame", "time_s", "status", "verdict", "score", "normalised_score", "confidence", "class"),
    *("n_defects", "largest_length", "largest_area", "unit", "latency_ms", "label", "source", "error"),
)
"""Of the CSV. ``status`` is judged, broken or dropped. ``normalised_score`` is 0.5 at the calibrated threshold, also
where another one gives the verdict. ``largest_length`` and ``largest_area`` are each the maximum of the frame's
defects. ``latency_ms`` is from the frame's arrival to its verdict: waiting, network, map and sizes."""
_NONE_CAME = "None came: does the start, in seconds, lie behind its end?"
_RATE_FRAMES = 30  # behind the burnt-in frame rate
_MOST_LISTED = 5  # broken frames that a command names
_HISTORY = 100  # scores shown in the layout "side"
_DRAWN_LATER = 2  # frames that may wait to be drawn and encoded while the next ones are judged
_SCALE_VALUES = 2_000_000  # values of val maps that the scale's low end is read off


# ---------------------------------------------------------------------------------------------------------- thresholds


@dataclass(frozen=True)
class Normalisation:
    """Raw scores to 0 to 1, with a threshold at 0.5, as anomalib's ``PostProcessor`` does it.

    n(s) = clip((s - threshold) / (high - low) + 0.5, 0, 1). So 0.8 lies above the threshold by 0.3 of the spread of
    val. anomalib takes low and high from validation too; here the threshold is the run's calibrated one.

    Attributes:
        threshold: the calibrated one, raw; becomes 0.5.
        low: smallest value on val.
        high: largest value on val.
    """

    threshold: float
    low: float
    high: float

    @classmethod
    def of_scores(cls, predictor: Predictor) -> Normalisation:
        """Of photos' scores, from the run's of val; the threshold is the one that the predictor judges by."""
        scores = predictor.run.predictions("val")["score"]
        return cls(predictor.thresholds["image"].value, float(scores.min()), float(scores.max()))

    @classmethod
    def of_maps(cls, predictor: Predictor) -> Normalisation:
        """Of pixels, likewise, from the maps of val."""
        maps = predictor.run.val_maps()
        return cls(predictor.thresholds["pixel"].value, float(maps.min()), float(maps.max()))

    def __call__(self, score: float) -> float:
        """Normalised score, in [0, 1]; NaN where val has no spread."""
        spread = self.high - self.low
        return min(1.0, max(0.0, (score - self.threshold) / spread + 0.5)) if spread > 0 else float("nan")

    def raw(self, normalised: float) -> float:
        """The raw score of a normalised one; it need not lie in 0 to 1."""
        return self.threshold + (normalised - 0.5) * (self.high - self.low)


def video_threshold(predictor: Predictor, name: float | str, pixel: bool = False) -> Threshold:
    """A threshold by name or number.

    Args:
        predictor: of the run.
        name: of one that is stored with the run, or ``start`` (see :meth:`Predictor.threshold`); a raw score;
            ``normalised:0.7``, a normalised one; or ``normalised``, which is 0.8.
        pixel: whether it is one of pixels.

    Raises:
        ValueError: there is none of that name, or the number is none.
    """
    from helpers.thresholds import Threshold

    word, _, number = str(name).partition(":")
    if word != NORMALISED:
        with suppress(ValueError):
            name = float(name)
        return predictor.threshold(name)
    try:
        level = float(number) if number else GLASS_START
    except ValueError:
        raise ValueError(f"threshold={name!r}: write normalised:0.8 with a number.") from None
    known = Normalisation.of_maps(predictor) if pixel else Normalisation.of_scores(predictor)
    kind = "pixel" if pixel else "image"
    return Threshold(known.raw(level), f"{level:g} on normalised scores (0.5: the stored threshold {kind})", kind=kind)


def map_scale(run: Run, pixel_threshold: float) -> MapScale:
    """The scale of colours for all maps of a video: from what good pixels have to as far beyond the threshold.

    Its low end is the first percentile of the maps of val's good photos; 0 for a run that kept no maps of val.
    """
    import numpy as np

    from helpers.views.video_figures import MapScale

    low = 0.0
    if (run.folder / "maps_val.npy").is_file():
        maps = run.val_maps()
        good = np.flatnonzero(run.predictions("val")["label_index"].to_numpy() == 0)
        rows = good[:: max(1, len(good) * maps[0].size // _SCALE_VALUES)] if len(good) else np.arange(0)
        low = float(np.percentile(maps[rows], 1)) if len(rows) else 0.0
    least = max(abs(pixel_threshold), 1.0) * 1e-6
    return MapScale(min(low, pixel_threshold - least), pixel_threshold)


# -------------------------------------------------------------------------------------------------------------- videos


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Attributes:
        video: the file.
        n_frames: that came: judged, broken or dropped.
        n_expected: that the source said it has, or None.
        n_judged: with a verdict.
        n_flagged: of these, called DEFECT.
        n_broken: that could not be decoded or judged.
        n_dropped: given up because others waited.
        seconds: from the first frame to the last, with drawing and encoding.
        interrupted: whether Ctrl-C ended it.
        threshold: of scores, raw.
        other_thresholds: the calibrated one and 0.8 of normalised scores, as raw scores; without the one that was used.
    """

    video: Path
    n_frames: int
    n_expected: int | None
    n_judged: int
    n_flagged: int
    n_broken: int
    n_dropped: int
    seconds: float
    interrupted: bool
    threshold: Threshold
    other_thresholds: dict[str, float]

    @property
    def table_path(self) -> Path:
        """The CSV with a row a frame."""
        return self.video.with_suffix(".csv")

    def frames(self) -> pd.DataFrame:
        """A row a frame: `FRAME_COLUMNS`."""
        from helpers.paths import read_csv

        text = dict.fromkeys(("status", "verdict", "class", "unit", "label", "source", "error"), "str")
        blank = dict.fromkeys(_NUMBERS, [""])
        return read_csv(self.table_path, dtype=text, keep_default_na=False, na_values=blank)

    def summary(self) -> dict[str, Any]:
        """Counts and speed: frames a second reached, median and 95th percentile of the latency in milliseconds."""
        latency = self.frames()["latency_ms"].dropna()
        counts = {name: getattr(self, name) for name in vars(self) if name.startswith("n_")}
        return counts | {
            "fps_reached": self.n_judged / self.seconds if self.seconds > 0 else float("nan"),
            "latency_median_ms": float(latency.median()),
            "latency_p95_ms": float(latency.quantile(0.95)),
            "interrupted": self.interrupted,
        }


_NUMBERS = (
    *("time_s", "score", "normalised_score", "confidence"),
    *("n_defects", "largest_length", "largest_area", "latency_ms"),
)


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
    """Judge a video, frame by frame, and write it with what was found; only a few frames are held at a time.

    Frames are drawn and encoded in order, in a thread while the next ones are judged if there is a core for it.

    Written are ``out`` (H.264) and, under its name, a CSV with a row a frame and a JSON with settings and counts; each
    is whole or not there. Dropped frames are not in the video; the others keep their times, so that it is as long as
    the source.

    Args:
        source: of frames, see :func:`helpers.inference.clips.open_source`.
        out: the video, .mp4, .m4v, .mov or .mkv.
        predictor: of a finished run.
        layout: one of :data:`helpers.views.video_figures.LAYOUTS`; see :func:`~helpers.views.video_figures.draw_frame`.
        threshold: of a frame's score, see `video_threshold`.
        pixel_threshold: of the map, likewise; default: the stored ``pixel``, or with a normalised threshold the same
            level on normalised maps.
        pixel_size: of the frames, see :func:`helpers.analysis.sizing.measure_labels`.
        unit: of sizes.
        min_defect_area: pixels; smaller regions are no defects.
        waiting: 0: every frame is judged, however long that takes (for a live source: 1); 1: the newest, and those that
            came meanwhile are dropped; more: so many may wait. A file is then played at its own speed.
        show_labels: print the frame's own label beside the verdict, where the source has one.
        on_picture: called with each picture that was written.

    Raises:
        ValueError: an argument that cannot be, or a source of which no frame could be judged.
    """
    from helpers.inference.clips import ClipWriter, at_source_pace
    from helpers.paths import write_json
    from helpers.progress import progress

    out = Path(out)
    judge = _Judge(predictor, source, layout, threshold, pixel_threshold, (pixel_size, unit), min_defect_area)
    waiting = waiting or int(source.live)
    frames = at_source_pace(source, waiting) if waiting else iter(source)
    judge.warm_up()
    interrupted = False
    beside = _draws_beside(predictor)
    with (
        ExitStack() as finishing,
        ClipWriter(out, source.fps) as clip,
        _TableFile(out.with_suffix(".csv")) as table,
        _drawing_thread() if beside else _AtOnce() as pool,  # left first: what is drawn gets into the clip
    ):
        begun = time.perf_counter()
        drawn: deque[Future[np.ndarray]] = deque()

        def draw(photo: np.ndarray, row: dict[str, Any], found: Found, seconds: float) -> np.ndarray:
            picture = judge.draw(photo, row, found, show_labels)
            clip.write(picture, seconds)
            return picture

        def show(left: int) -> None:
            while len(drawn) > left:
                picture = drawn.popleft().result()
                if on_picture is not None:
                    on_picture(picture)

        with closing(frames):
            try:
                for frame in progress(frames, source.name, source.n_frames):
                    row, found = judge(frame)
                    if found is not None:
                        photo = judge.shown_photo(frame, row)
                        drawn.append(pool.submit(draw, photo, row, found, judge.since_first(frame)))
                    table.add(row)
                    show(left=_DRAWN_LATER if beside else 0)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                finishing.enter_context(uninterrupted())
        show(left=0)
        seconds = time.perf_counter() - begun
        if not judge.counts[JUDGED]:
            if interrupted:
                raise KeyboardInterrupt
            why = judge.first_error if any(judge.counts.values()) else _NONE_CAME
            raise ValueError(f"{source.name}: no frame could be judged. {why}".strip())
    result = VideoResult(
        video=out,
        n_frames=sum(judge.counts.values()),
        n_expected=source.n_frames,
        n_judged=judge.counts[JUDGED],
        n_flagged=judge.n_flagged,
        n_broken=judge.counts[BROKEN],
        n_dropped=judge.counts[DROPPED],
        seconds=seconds,
        interrupted=interrupted,
        threshold=judge.threshold,
        other_thresholds=judge.other_thresholds(),
    )
    with uninterrupted():
        about = {"settings": judge.settings() | {"waiting": waiting}, "results": result.summary()}
        write_json(about, out.with_suffix(".json"))
    return result


def _draws_beside(predictor: Predictor) -> bool:
    """Whether frames are drawn in a thread.

    Not beside torch on two cores, which it needs both: as many frames a second there, but a verdict after 48 ms instead
    of 28. With OpenVINO on the same cores 22 frames a second instead of 17.
    """
    import torch

    return predictor.backend != "torch" or predictor.device != "cpu" or torch.get_num_threads() > 2


@contextmanager
def _drawing_thread() -> Iterator[Executor]:
    """One thread; torch has one less meanwhile, for all its threads wait for the one that has to share a core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        with ThreadPoolExecutor(1, "drawing") as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


class _AtOnce(Executor):
    """Does what is submitted before it returns."""

    def submit(self, function: Callable[..., Any], /, *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*given))
        return done


class _Judge:
    """From a frame to its row and what is to be drawn."""

    def __init__(
        self,
        predictor: Predictor,
        source: FrameSource,
        layout: str,
        threshold: float | str,
        pixel_threshold: float | str | None,
        size: tuple[PixelSizeLike, str],
        min_defect_area: int,
    ) -> None:
        from helpers.analysis.sizing import as_pixel_size
        from helpers.views.video_figures import LAYOUTS

        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; use one of {', '.join(LAYOUTS)}.")
        if layout == "sizes" and predictor.classes is not None:
            raise ValueError(
                f"{predictor.run.name} is a classifier and finds no sizes; use the layout overlay or side."
            )
        if min_defect_area < 0:
            raise ValueError(f"min_defect_area={min_defect_area} must not be negative.")
        self.predictor, self.source, self.layout = predictor, source, layout
        self.threshold = video_threshold(predictor, threshold)
        self.normalisation = Normalisation.of_scores(predictor)
        self.pixel_threshold: Threshold | None = None
        self.scale: MapScale | None = None
        if predictor.classes is None:
            default = threshold if str(threshold).startswith(NORMALISED) else "pixel"
            self.pixel_threshold = video_threshold(predictor, pixel_threshold or default, pixel=True)
            self.scale = map_scale(predictor.run, self.pixel_threshold.value)
        self.pixel_size: PixelSize = as_pixel_size(*size)
        self.min_defect_area = min_defect_area
        self.counts = dict.fromkeys((JUDGED, BROKEN, DROPPED), 0)
        self.n_flagged = 0
        self.first_error = ""
        self._first_seconds: float | None = None
        self._last_photo: np.ndarray | None = None
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._finished: deque[float] = deque(maxlen=_RATE_FRAMES)

    def warm_up(self) -> None:
        """Let the network choose its kernels before a frame's delay is measured."""
        import numpy as np

        self.predictor.judge_each([np.full((64, 64, 3), 128, np.uint8)], ["warm-up"], threshold=self.threshold)

    def other_thresholds(self) -> dict[str, float]:
        """The calibrated one and 0.8 of normalised scores, raw, by name; without the one that decides."""
        known = self.normalisation
        both = {"calibrated": known.threshold}
        if known.high > known.low:
            both[f"{GLASS_START} normalised"] = known.raw(GLASS_START)
        return {name: value for name, value in both.items() if value != self.threshold.value}

    def settings(self) -> dict[str, Any]:
        """What the video was made with, plain JSON data."""
        run, scale = self.predictor.run, self.scale
        return {
            "source": self.source.name,
            "fps": self.source.fps,
            "run": str(run.folder),
            "run_fingerprint": run.info.get("fingerprint"),
            "layout": self.layout,
            "threshold": self.threshold.to_dict(),
            "pixel_threshold": self.pixel_threshold.to_dict() if self.pixel_threshold else None,
            "map_scale": [scale.low, scale.threshold, scale.top] if scale else None,
            "normalisation": vars(self.normalisation),
            "pixel_size": self.pixel_size.to_dict(),
            "min_defect_area": self.min_defect_area,
        }

    def since_first(self, frame: Frame) -> float:
        """Seconds since the first frame that was drawn."""
        if self._first_seconds is None:
            self._first_seconds = frame.seconds
        return frame.seconds - self._first_seconds

    def __call__(self, frame: Frame) -> tuple[dict[str, Any], Found | None]:
        """The frame's row, and what to draw; None for a dropped frame, or a broken one before the first whole one."""
        row = dict.fromkeys(FRAME_COLUMNS, "") | {
            "frame": frame.number,
            "time_s": round(frame.seconds, 4),
            "label": frame.label,
            "source": frame.source,
            "error": frame.error,
        }
        if frame.dropped:
            return self._not_judged(row, DROPPED)
        if frame.photo is None:
            return self._not_judged(row, BROKEN)
        prediction = self.predictor.judge_each([frame.photo], [frame.source], threshold=self.threshold)[0]
        if prediction.error:
            return self._not_judged(row | {"error": prediction.error}, BROKEN)
        self._last_photo = frame.photo
        return self._judged(frame, row, prediction)

    def _not_judged(self, row: dict[str, Any], status: str) -> tuple[dict[str, Any], Found | None]:
        from helpers.views.video_figures import Found

        row["status"] = status
        self.counts[status] += 1
        self._history.append(float("nan"))
        if status == BROKEN:
            self.first_error = self.first_error or row["error"]
        if status == DROPPED or self._last_photo is None:
            return row, None
        return row, Found(status.upper(), None, [self._where(row), row["error"]], history=tuple(self._history))

    def _judged(self, frame: Frame, row: dict[str, Any], prediction: Prediction) -> tuple[dict[str, Any], Found]:
        from helpers.analysis.sizing import label_defects, measure_labels
        from helpers.views.video_figures import Found

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
        return row, Found(
            row["verdict"], prediction.abnormal, self._lines(row), photo_map, labels, defects, tuple(self._history)
        )

    def shown_photo(self, frame: Frame, row: dict[str, Any]) -> np.ndarray:
        """The frame's photo; of a broken one the last whole photo, darkened."""
        return frame.photo if row["status"] == JUDGED else self._last_photo // 3

    def draw(self, photo: np.ndarray, row: dict[str, Any], found: Found, labels: bool) -> np.ndarray:
        """The picture of a frame, see `shown_photo`; with its own label, where there is one and it is asked for."""
        from dataclasses import replace

        from helpers.views.figures import shorten
        from helpers.views.video_figures import draw_frame

        self._finished.append(time.perf_counter())
        lines = [*found.lines, self._speed(row)]
        if labels and row["label"]:
            lines.append(f"label: {row['label']}")
        if row["error"] and row["status"] == JUDGED:
            lines.append(row["error"].partition(":")[0])
        found = replace(found, lines=[shorten(line, 200) for line in lines if line])
        return draw_frame(self.layout, photo, found, self.scale, self.threshold.value, self.pixel_size)

    def _lines(self, row: dict[str, Any]) -> list[str]:
        over = ">" if row["verdict"] == DEFECT_VERDICT else "≤"
        calibrated = self.threshold.value == self.normalisation.threshold
        half = "" if calibrated else ", calibrated threshold 0.50"
        lines = [
            f"score {row['score']:.4g} {over} {self.threshold.value:.4g} "
            f"({row['normalised_score']:.2f} normalised{half})"
        ]
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
            rate = f", {per_second:.1f} frames/s (source {self.source.fps:.3g})"
        return f"latency {row['latency_ms']:.0f} ms{rate}"


class _TableFile:
    """A CSV that grows row by row, from its first row on, and appears under its name when the block ends.

    After an error nothing is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = partial_path(path)
        self._file: TextIO | None = None

    def __enter__(self) -> _TableFile:
        return self

    def add(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            self._writer = csv.DictWriter(self._file, FRAME_COLUMNS)
            self._writer.writeheader()
        self._writer.writerow({name: cell(value) for name, value in row.items()})

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        self._file.close()
        if kind is None:
            self._partial.replace(self.path)
        self._partial.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- clips and datasets


def dataset_source(
    table: pd.DataFrame,
    photos: str = "all",
    *,
    fps: float | None = None,
    max_frames: int | None = None,
    seed: int | None = 0,
) -> FrameSource:
    """Test photos of a dataset as the frames of a clip, uncompressed, each with its label.

    Args:
        table: a sample table (:func:`helpers.read_dataset`, `unseen_photos`); without any split all photos count.
        photos: ``all``, ``good``, or a type of defect.
        fps: frames a second; default: :data:`helpers.inference.clips.SEQUENCE_FPS`.
        max_frames: so many, drawn at random with ``seed``; the first ones without.
        seed: of the order, in which types are mixed as on a line; None: that of the table.

    Raises:
        ValueError: there is no such photo; the message lists what there is.
    """
    from helpers.inference.clips import SEQUENCE_FPS, photo_sequence

    test = table[table["split"] == "test"]
    test = table[table["split"] == ""] if test.empty else test  # a dataset that nobody has split
    chosen = test if photos == "all" else test[test["defect_type"] == photos]
    if chosen.empty:
        known = ", ".join(["all", *sorted(test["defect_type"].unique())]) if len(test) else "no test photo at all"
        raise ValueError(f"photos={photos!r}: the dataset has no such test photo; it has {known}.")
    if seed is not None:
        chosen = chosen.sample(frac=1, random_state=seed)
    chosen = chosen.head(max_frames) if max_frames is not None else chosen
    name = f"{table.attrs.get('name') or 'dataset'} ({photos})"
    paths, labels = chosen["image_path"].tolist(), chosen["defect_type"].tolist()
    return photo_sequence(paths, fps=fps or SEQUENCE_FPS, labels=labels, name=name)


def unseen_photos(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The rows of a sample table that a run was neither trained nor calibrated on; those that it tests are ``test``."""
    known = table["image_path"].map(run.table.set_index("image_path")["split"]).fillna("")
    kept = table.assign(split=table["split"].mask(known == "test", "test"))[~known.isin(["train", "val"])]
    kept.attrs = dict(table.attrs)
    return kept


def write_clip(source: FrameSource, out: str | Path, *, labels: bool = False) -> int:
    """Write frames as an H.264 file, not judged; broken ones are left out.

    Args:
        source: of frames.
        out: the video.
        labels: burn each frame's label and file name into a band below it. Such a clip is for people: a detector would
            judge the band too.

    Returns:
        How many frames were written.

    Raises:
        ValueError: no frame can be read.
    """
    from helpers.inference.clips import ClipWriter
    from helpers.progress import progress
    from helpers.views.video_figures import labelled_photo

    error = ""
    with ClipWriter(out, source.fps) as clip:
        for frame in progress(source, source.name, source.n_frames):
            if frame.photo is None:
                error = error or frame.error
                continue
            text = f"{frame.label or 'no label'}   {Path(frame.source).name}"
            clip.write(labelled_photo(frame.photo, text) if labels else frame.photo, frame.seconds)
        if not clip.n_written:
            raise ValueError(f"{source.name}: no frame can be read. {error or _NONE_CAME}")
    return clip.n_written


def extract_frames(source: FrameSource, folder: str | Path, split: str = "train/good") -> int:
    """Write frames as PNG files of a dataset to train on, ``<folder>/train/good/000000.png``; broken ones are left out.

    Args:
        source: of frames that show good products only.
        folder: of the dataset; it is made. Files of earlier frames stay.
        split: folder in it.

    Returns:
        How many were written.

    Raises:
        ValueError: no frame can be read.
    """
    from PIL import Image

    from helpers.paths import write_whole
    from helpers.progress import progress

    count, error = 0, ""
    for frame in progress(source, source.name, source.n_frames):
        if frame.photo is None or frame.error:
            error = error or frame.error
            continue
        image = Image.fromarray(frame.photo)
        write_whole(Path(folder) / split / f"{frame.number:06d}.png", image.save)
        count += 1
    if not count:
        raise ValueError(f"{source.name}: no frame can be read. {error or _NONE_CAME}")
    return count


def write_timeline(result: VideoResult, note: str | None = None) -> Path:
    """The timeline of a video (:func:`helpers.views.video_figures.score_timeline`) as a PNG under its name."""
    from helpers.paths import write_whole
    from helpers.views.video_figures import score_timeline

    figure = score_timeline(result.frames(), result.threshold.value, result.other_thresholds, note=note)
    path = result.video.with_suffix(".png")
    write_whole(path, lambda file: figure.savefig(file, dpi=110))
    return path


# ------------------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    quiet_libraries()
    try:
        source, table = _source(options)
        broken: list[Frame] = []
        noted = replace(source, read=lambda: _noting(source, broken))
        if options.extract:
            count = extract_frames(noted, options.out)
            return _report_written(count, f"{options.out}/train/good", broken)
        out = _video_path(options, source)
        if not options.run:
            return _report_written(write_clip(noted, out, labels=options.labels), out, broken)
        return _report(_judge_command(options, source, table, out))
    except KeyboardInterrupt:
        print("\nInterrupted; what was done is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2


def _noting(source: FrameSource, broken: list[Frame]) -> Iterator[Frame]:
    for frame in source:
        if frame.error:
            broken.append(frame)
        yield frame


def _report_written(count: int, where: str | Path, broken: Sequence[Frame]) -> int:
    print(f"{count} frames: {where}")
    for frame in broken[:_MOST_LISTED]:
        said = frame.error if frame.source in frame.error else f"{frame.source} {frame.error}"
        print(printable(said), file=sys.stderr)
    if broken:
        print(f"{len(broken)} broken or doubtful frames", file=sys.stderr)
    return 1 if broken else 0


def _source(options: argparse.Namespace) -> tuple[FrameSource, pd.DataFrame | None]:
    from helpers.inference.clips import open_source

    table, run = None, None
    if options.run:
        from helpers.inference.predictor import open_finished
        from helpers.paths import project_path

        run = open_finished(project_path(options.run))
    if options.photos:
        from helpers import read_dataset

        table = read_dataset(options.source)
        if run:
            table = unseen_photos(table, run)
        seed = None if options.in_order else 0
        source = dataset_source(table, options.photos, fps=options.fps, seed=seed)
    else:
        bits = run.info["parameters"].get("bit_depth", 16) if run else None
        source = open_source(options.source, fps=options.fps, bits=bits)
    part = source.part(start=options.start, every=options.every, max_frames=options.max_frames)
    return part, table


def _video_path(options: argparse.Namespace, source: FrameSource) -> Path:
    from helpers.inference.clips import VIDEO_SUFFIXES

    out = Path(options.out).expanduser()
    if out.is_dir() or not out.suffix:
        name = Path(options.source).name if not source.live else "camera"
        out = out / f"{Path(name).stem.strip('*?%') or 'video'}.mp4"
    if out.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{options.out}: OUT must be a folder or end with {', '.join(VIDEO_SUFFIXES)}.")
    if out.exists() and Path(options.source).exists() and out.samefile(options.source):
        raise ValueError(f"OUT is IN ({out}); give another name.")
    return out


def _judge_command(
    options: argparse.Namespace, source: FrameSource, table: pd.DataFrame | None, out: Path
) -> VideoResult:
    from helpers.analysis.sizing import MM_PER_UNIT
    from helpers.inference.predictor import Predictor

    if options.queue is not None and options.queue < 1:
        raise ValueError(f"--queue {options.queue}: 1 frame or more can wait.")
    pixel_size, unit = 1.0, "px"
    if options.pixel_size:
        pixel_size, unit = _pair(options.pixel_size), options.unit
    elif table is not None and table.attrs.get("pixel_size"):
        pixel_size, unit = table.attrs["pixel_size"] / MM_PER_UNIT[options.unit], options.unit
    predictor = Predictor(options.run, options.backend, device=options.device)
    waiting = 1 if options.skip else (options.queue or 0)
    result = judge_video(
        source,
        out,
        predictor,
        layout=options.layout,
        threshold=options.threshold,
        pixel_threshold=options.pixel_threshold,
        pixel_size=pixel_size,
        unit=unit,
        min_defect_area=options.min_defect_area,
        waiting=waiting,
        show_labels=options.labels,
    )
    with uninterrupted():
        write_timeline(result, predictor.run.note)
    return result


def _report(result: VideoResult) -> int:
    summary = result.summary()
    print(f"{result.n_flagged} of {result.n_judged} frames called {DEFECT_VERDICT}", end="")
    print(f" (score above {result.threshold.value:.4g}: {result.threshold.origin})")
    print(
        f"{summary['fps_reached']:.1f} frames/s; latency {summary['latency_median_ms']:.0f} ms (median), "
        f"{summary['latency_p95_ms']:.0f} ms (95 %)"
    )
    if result.n_broken or result.n_dropped:
        print(f"{result.n_broken} broken and {result.n_dropped} dropped frames", file=sys.stderr)
    ended = not result.interrupted
    if ended and result.n_expected is not None and result.n_frames < result.n_expected:
        print(f"The source states {result.n_expected} frames; {result.n_frames} came.", file=sys.stderr)
    print(f"video, .csv, .json and timeline .png: {result.video}")
    if result.interrupted:
        print("Interrupted; what is done is kept.", file=sys.stderr)
        return 130
    return 1 if result.n_broken else 0


def _pair(text: str) -> float | tuple[float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise ValueError(f"--pixel-size {text}: give one number, or two with a comma for a pixel that is not square.")
    return values[0] if len(values) == 1 else (values[0], values[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.inference.video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="video, folder or pattern of images, camera, stream; or a dataset")
    parser.add_argument("out", metavar="OUT", help="the video, or a folder for it; with --extract: the new dataset")
    parser.add_argument("--run", help="folder of the finished run that judges; without it the frames are only copied")
    parser.add_argument("--layout", default="overlay", choices=("overlay", "side", "sizes"))
    parser.add_argument(
        "--threshold",
        default="image",
        metavar="NAME|NUMBER",
        help="of a frame's score: one that is stored with the run, start, a raw score, normalised:0.7 (0.5 is the "
        "calibrated threshold), or normalised: 0.8, where the tools of GLASS begin; default: image",
    )
    parser.add_argument("--pixel-threshold", metavar="NAME|NUMBER", help="of the map, likewise; default: pixel")
    parser.add_argument("--pixel-size", metavar="SIZE[,SIZE]", help="of a pixel, in --unit; default: sizes in pixels")
    parser.add_argument("--unit", default="mm", choices=("mm", "cm", "inch"))
    parser.add_argument("--min-defect-area", type=int, default=10, metavar="PIXELS", help="smaller ones do not count")
    slower = parser.add_mutually_exclusive_group()
    slower.add_argument("--skip", action="store_true", help="judge the newest frame, drop the others (live: default)")
    slower.add_argument("--queue", type=int, nargs="?", const=QUEUE, metavar="N", help=f"let N frames wait ({QUEUE})")
    parser.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="leave out the beginning")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th frame only")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--fps", type=float, help="frames a second, where the source has none or a wrong one")
    parser.add_argument("--photos", metavar="all|good|TYPE", help="IN is a dataset: its test photos become the frames")
    parser.add_argument("--in-order", action="store_true", help="with --photos: as in the dataset, types not mixed")
    parser.add_argument("--labels", action="store_true", help="burn in the labels of a dataset's photos")
    parser.add_argument("--extract", action="store_true", help="write frames to OUT/train/good, to train on")
    parser.add_argument("--backend", default="torch", help="torch, onnx or openvino")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:N or mps")
    return parser


if __name__ == "__main__":
    with stopped_alike():
        sys.exit(main())
