"""Judge a video frame by frame, and write it with what was found; or make a clip, or a dataset, of frames.

    python -m helpers.video IN OUT.mp4 --run artifacts/mesh/quick/patchcore --layout side
    python -m helpers.video 0 line.mp4 --run RUN                         camera 0, to Ctrl-C
    python -m helpers.video frames clip.mp4                              a clip, not judged
    python -m helpers.video clip.mp4 datasets/clip --extract --max-frames 200

IN is a video file, a folder or pattern of images (``frames/%04d.png``), a camera (``0`` or ``/dev/video0``), or the
address of a stream. Beside the video lie, under its name, .csv (a row a frame) and .json (settings and counts).

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

from helpers.paths import printable, project_path, stopped_alike
from helpers.progress import quiet_libraries, sentence

if TYPE_CHECKING:
    from helpers.inference.frames import VideoResult


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    quiet_libraries()
    from helpers.inference.clips import extract_frames, open_source, write_clip
    from helpers.inference.frames import judge_video
    from helpers.inference.predictor import Predictor

    try:
        out, judge = Path(options.out).expanduser(), None
        if out.is_file() and Path(options.source).is_file() and out.samefile(options.source):
            raise ValueError(f"OUT is IN ({out}); give another name.")
        if options.run:
            judge = Predictor(project_path(options.run), options.backend, device=options.device)
        source = open_source(options.source, fps=options.fps, bits=judge.bit_depth if judge else None)
        source = source.part(every=options.every, max_frames=options.max_frames)
        if judge:
            how = {"layout": options.layout, "threshold": options.threshold, "pixel_size": options.pixel_size}
            return _report(judge_video(source, out, judge, **how))
        n_frames, errors = (extract_frames if options.extract else write_clip)(source, out)
        print(f"{n_frames} frames: {out}")
        for line in [*errors[:5], f"{len(errors)} broken or doubtful frames"] if errors else ():
            print(printable(line), file=sys.stderr)
        return 1 if errors else 0
    except KeyboardInterrupt:
        print("\nInterrupted; what was done is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2


def _report(result: VideoResult) -> int:
    threshold, counts = result.threshold, result.summary
    print(
        f"{counts['n_flagged']} of {counts['n_judged']} frames called DEFECT (score above {threshold.value:.4g}: "
        f"{threshold.origin})\n{counts['fps_reached']:.1f} frames/s; latency {counts['latency_median_ms']:.0f} ms "
        f"(median), {counts['latency_p95_ms']:.0f} ms (95 %)\nvideo, .csv and .json: {result.video}"
    )
    if counts["n_broken"] or counts["n_dropped"]:
        print(f"{counts['n_broken']} broken and {counts['n_dropped']} dropped frames", file=sys.stderr)
    if counts["interrupted"]:
        print("Interrupted; what is done is kept.", file=sys.stderr)
        return 130
    return 1 if counts["n_broken"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.video", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="IN", help="video, folder or pattern of images, camera, or stream")
    add("out", metavar="OUT", help="the video, .mp4, .mov or .mkv; with --extract: the new dataset")
    add("--run", help="folder of the finished run that judges; without it the frames are only copied")
    add("--layout", default="overlay", choices=("overlay", "side", "sizes"))
    threshold = "of a frame's score: one that is stored with the run (default: image), a number, or normalised (0.8 "
    threshold += "where the calibrated one is 0.5, as the tools of GLASS begin)"
    add("--threshold", default="image", metavar="NAME|NUMBER", help=threshold)
    add("--pixel-size", type=float, default=0.0, metavar="MM", help="of a pixel; default: sizes in pixels")
    add("--every", type=int, default=1, metavar="N", help="take each N-th frame only")
    add("--max-frames", type=int, metavar="N", help="stop after N frames")
    add("--fps", type=float, help="frames a second of images")
    add("--extract", action="store_true", help="write frames to OUT/train/good, to train on")
    add("--backend", default="torch", help="torch, onnx or openvino")
    add("--device", default="auto", help="auto, cpu, cuda:N or mps")
    return parser


if __name__ == "__main__":
    with stopped_alike():
        sys.exit(main())
