"""PatchCore from file to verdict, one photo at a time on this CPU: exported runs against anomalib's own inferencer.

    python -m benchmarks.export_speed [RUN] [--photos N] [--rounds N]

On the same photos, in rounds that alternate. Results: ``artifacts/bench/export.csv``. ``make bench`` calls it last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.speed import BENCH_FOLDER, train_patchcore
from helpers.inference.export import export_run
from helpers.inference.exported import FORMATS
from helpers.inference.predictor import open_finished
from helpers.paths import project_path, write_csv
from helpers.progress import quiet_libraries
from helpers.runs import Run
from helpers.studies.export import STOCK, compare_backends, speed_table, stock_difference

SAME = 1e-3  # difference of scores as a share, up to which two results count as the same


def measure(run: Run, n_photos: int = 40, rounds: int = 5) -> pd.DataFrame:
    """Speed (on ``n_photos``, batches of one) and cost (on all test photos) of every backend of a finished run."""
    export_run(run, FORMATS)
    test = run.predictions("test")
    timed = test["image_path"].tolist()[:: max(1, len(test) // n_photos)][:n_photos]
    difference = stock_difference(run, timed[:8])
    if difference > SAME:
        raise RuntimeError(f"{STOCK} and this run differ by {difference:.2g} of the score; they must be the same.")
    speed = speed_table(run, timed, (1,), rounds, stock=True)
    cost = compare_backends(run, test["image_path"].tolist(), test["label_index"].tolist(), cut=False)
    table = speed.merge(cost.drop(columns="model"), left_on="stage", right_on="backend", how="left")
    return table.drop(columns="backend")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_speed", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="folder of a PatchCore run; default: one that `make bench` trains")
    parser.add_argument("--photos", type=int, default=40, help="photos that are timed")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over them")
    options = parser.parse_args(arguments)
    quiet_libraries()
    try:
        folder = Path(options.run or BENCH_FOLDER).expanduser()
        folder = folder.absolute() if folder.is_dir() else project_path(folder)
        run = open_finished(folder) if options.run else train_patchcore(BENCH_FOLDER)
        table = measure(run, options.photos, options.rounds)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    write_csv(table, BENCH_FOLDER / "export.csv")
    print(f"\n{table.to_string(index=False, float_format='%.4g')}\n\n{BENCH_FOLDER / 'export.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
