"""The picture in the README, drawn from a finished run: ``python -m benchmarks.overview RUN_FOLDER OUT.jpg``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from helpers.progress import sentence
from helpers.runs import Run
from helpers.views.gallery import map_gallery


def overview(run: Run, n_types: int = 3) -> Figure:
    """A typical hit (median score) of each of the first defect types: photo, anomaly map, outline at the threshold."""
    test = run.predictions("test")
    groups = list(test[test["label_index"] == 1].groupby("defect_type"))[:n_types]
    rows = [photos.sort_values("score").index[len(photos) // 2] for _, photos in groups]
    return map_gallery(**run.examples(test.loc[rows]), threshold=run.thresholds["pixel"], note=run.note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overview", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    try:
        picture = overview(Run.load(options.run.resolve()))
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(options.out, dpi=80, pil_kwargs={"quality": 85} if options.out.suffix == ".jpg" else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
