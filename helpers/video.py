"""Judge a video frame by frame, and write it with what was found; or make a clip, or a dataset, of frames.

    python -m helpers.video IN OUT --run artifacts/mesh/quick/patchcore --layout side
    python -m helpers.video 0 line.mp4 --run RUN                         camera 0, to Ctrl-C
    python -m helpers.video datasets/mesh mesh.mp4 --photos all --run RUN --labels
    python -m helpers.video datasets/mesh mesh.mp4 --photos good         a clip, not judged
    python -m helpers.video clip.mp4 datasets/clip --extract --max-frames 200

IN is a video file, a folder or pattern of images (``frames/%04d.png``), a camera (``0`` or ``/dev/video0``), the
address of a stream, or with --photos a dataset. OUT is an .mp4, .mov or .mkv, or a folder that gets one. Beside the
video lie, under its name, .csv (a row a frame), .png (the timeline) and .json (settings and counts).

A frame that cannot be decoded is counted and shown as BROKEN, and the rest goes on. Ctrl-C ends a video; what is done
is kept and can be played.

Exit status: 0 all is well; 1 some frames were broken; 2 refused, with the reason; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.paths import printable, project_path, stopped_alike, uninterrupted, write_whole
from helpers.progress import quiet_libraries, sentence

if TYPE_CHECKING:
    from helpers.inference.clips import FrameSource
    from helpers.inference.frames import VideoResult

QUEUE = 64  # frames that may wait with --queue
_MOST_LISTED = 5  # broken frames that a command names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    quiet_libraries()
    try:
        if options.queue is not None and options.queue < 1:
            raise ValueError(f"--queue {options.queue}: 1 frame or more can wait.")
        source, mm_a_pixel = _source(options)
        if options.run:
            return _report(_judge(options, source, mm_a_pixel))
        return _copy(options, source)
    except KeyboardInterrupt:
        print("\nInterrupted; what was done is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2


def _source(options: argparse.Namespace) -> tuple[FrameSource, float | None]:
    """The frames, and the millimetres a pixel of a dataset that states them."""
    from helpers import read_dataset
    from helpers.inference.clips import dataset_source, open_source, unseen_photos
    from helpers.inference.predictor import open_finished

    run, mm_a_pixel = open_finished(project_path(options.run)) if options.run else None, None
    if options.photos:
        table = read_dataset(options.source)
        table, mm_a_pixel = unseen_photos(table, run) if run else table, table.attrs.get("pixel_size")
        source = dataset_source(table, options.photos, fps=options.fps)
    else:
        bits = run.info["parameters"].get("bit_depth", 16) if run else None
        source = open_source(options.source, fps=options.fps, bits=bits)
    return source.part(start=options.start, every=options.every, max_frames=options.max_frames), mm_a_pixel


def _video_path(options: argparse.Namespace, source: FrameSource) -> Path:
    from helpers.inference.clip_writer import VIDEO_SUFFIXES

    out = Path(options.out).expanduser()
    if out.is_dir() or not out.suffix:
        name = Path(options.source).name if not source.live else "camera"
        out = out / f"{Path(name).stem.strip('*?%') or 'video'}.mp4"
    if out.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{options.out}: OUT must be a folder or end with {', '.join(VIDEO_SUFFIXES)}.")
    if out.exists() and Path(options.source).exists() and out.samefile(options.source):
        raise ValueError(f"OUT is IN ({out}); give another name.")
    return out


def _copy(options: argparse.Namespace, source: FrameSource) -> int:
    """Frames to a clip or a dataset, without a verdict."""
    from helpers.inference.clip_writer import extract_frames, write_clip
    from helpers.inference.frame_drawing import labelled_frame

    if options.extract:
        out = Path(options.out) / "train/good"
        count, errors = extract_frames(source, options.out)
    else:
        out = _video_path(options, source)
        count, errors = write_clip(source, out, labelled_frame if options.labels else None)
    print(f"{count} frames: {out}")
    for error in errors[:_MOST_LISTED]:
        print(printable(error), file=sys.stderr)
    if errors:
        print(f"{len(errors)} broken or doubtful frames", file=sys.stderr)
    return 1 if errors else 0


def _judge(options: argparse.Namespace, source: FrameSource, mm_a_pixel: float | None) -> VideoResult:
    from helpers.analysis.sizing import MM_PER_UNIT
    from helpers.inference.frames import judge_video
    from helpers.inference.predictor import Predictor
    from helpers.views.video_figures import score_timeline

    pixel_size, unit = 1.0, "px"
    if options.pixel_size:
        pixel_size, unit = options.pixel_size, options.unit
    elif mm_a_pixel:
        pixel_size, unit = mm_a_pixel / MM_PER_UNIT[options.unit], options.unit
    predictor = Predictor(options.run, options.backend, device=options.device)
    result = judge_video(
        source,
        _video_path(options, source),
        predictor,
        layout=options.layout,
        threshold=options.threshold,
        pixel_threshold=options.pixel_threshold,
        pixel_size=pixel_size,
        unit=unit,
        min_defect_area=options.min_defect_area,
        waiting=1 if options.skip else (options.queue or 0),
        show_labels=options.labels,
    )
    with uninterrupted():
        note = predictor.run.note
        figure = score_timeline(result.frames, result.threshold.value, result.other_thresholds, note=note)
        write_whole(result.video.with_suffix(".png"), lambda file: figure.savefig(file, dpi=110))
    return result


def _report(result: VideoResult) -> int:
    counts, threshold = result.summary, result.threshold
    print(
        f"{counts['n_flagged']} of {counts['n_judged']} frames called DEFECT (score above {threshold.value:.4g}: "
        f"{threshold.origin})\n{counts['fps_reached']:.1f} frames/s; latency {counts['latency_median_ms']:.0f} ms "
        f"(median), {counts['latency_p95_ms']:.0f} ms (95 %)\nvideo, .csv, .json and timeline .png: {result.video}"
    )
    if counts["n_broken"] or counts["n_dropped"]:
        print(f"{counts['n_broken']} broken and {counts['n_dropped']} dropped frames", file=sys.stderr)
    if counts["interrupted"]:
        print("Interrupted; what is done is kept.", file=sys.stderr)
        return 130
    return 1 if counts["n_broken"] else 0


def _pixel_size(text: str) -> tuple[float, float]:
    across, _, down = text.partition(",")
    return float(across), float(down or across)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="IN", help="video, folder or pattern of images, camera, stream; or a dataset")
    add("out", metavar="OUT", help="the video, or a folder for it; with --extract: the new dataset")
    add("--run", help="folder of the finished run that judges; without it the frames are only copied")
    add("--layout", default="overlay", choices=("overlay", "side", "sizes"))
    threshold = "of a frame's score: one that is stored with the run, start, a raw score, normalised:0.7 (0.5 is the "
    threshold += "calibrated threshold), or normalised: 0.8, where the tools of GLASS begin; default: image"
    add("--threshold", default="image", metavar="NAME|NUMBER", help=threshold)
    add("--pixel-threshold", metavar="NAME|NUMBER", help="of the map, likewise; default: pixel")
    add("--pixel-size", type=_pixel_size, metavar="SIZE[,SIZE]", help="of a pixel, in --unit; default: sizes in pixels")
    add("--unit", default="mm", choices=("mm", "cm", "inch"))
    add("--min-defect-area", type=int, default=10, metavar="PIXELS", help="smaller ones do not count")
    slower = parser.add_mutually_exclusive_group()
    slower.add_argument("--skip", action="store_true", help="judge the newest frame, drop the others (live: default)")
    slower.add_argument("--queue", type=int, nargs="?", const=QUEUE, metavar="N", help=f"let N frames wait ({QUEUE})")
    add("--start", type=float, default=0.0, metavar="SECONDS", help="leave out the beginning")
    add("--every", type=int, default=1, metavar="N", help="take each N-th frame only")
    add("--max-frames", type=int, metavar="N", help="stop after N frames")
    add("--fps", type=float, help="frames a second, where the source has none or a wrong one")
    add("--photos", metavar="all|good|TYPE", help="IN is a dataset: its test photos become the frames")
    add("--labels", action="store_true", help="burn in the labels of a dataset's photos")
    add("--extract", action="store_true", help="write frames to OUT/train/good, to train on")
    add("--backend", default="torch", help="torch, onnx or openvino")
    add("--device", default="auto", help="auto, cpu, cuda:N or mps")
    return parser


if __name__ == "__main__":
    with stopped_alike():
        sys.exit(main())
