"""Judge photos with a finished run or a cascade; they need no labels.

    python -m helpers.inference artifacts/mesh/quick/patchcore PHOTO
    python -m helpers.inference mesh FOLDER --set area_thresh=0.05
    python -m helpers.inference my_cascade.yml FOLDER --out results --set DATASET=wire --set PROFILE=full

The first word is the folder of a run, a YAML file, or a preset of ``notebooks/params/cascades``. A folder of photos is
read with those below it. Called again, it goes on with what is missing.

Exit status: 0 all photos judged; 1 some could not be judged (they are listed with their errors); 2 refused, with the
reason; 130 interrupted, and what is done is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.inference.exported import FORMATS
from helpers.inference.presets import PLACES
from helpers.paths import printable, project_path, short_name
from helpers.progress import quiet_libraries, sentence
from helpers.session import read_value, split_setting

if TYPE_CHECKING:
    import pandas as pd

OUT = "artifacts/inference"
N_SHOWN = 5


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    from helpers.inference.cascade import Cascade
    from helpers.inference.pictures import FOLDERS

    try:
        pairs = map(split_setting, options.settings)
        settings = {name: text if name in PLACES else read_value(name, text) for name, text in pairs}
        common = {"backend": options.backend, "device": options.device, "batch_size": options.batch_size}
        photos = Path(os.path.abspath(options.photos.expanduser()))  # noqa: PTH100  (without "..", but keeps links)
        if not photos.exists():
            raise FileNotFoundError(f"There is no {options.photos}; give a photo or a folder of photos.")
        places = (Path(options.what).expanduser().absolute(), project_path(options.what))
        folder = next((place for place in places if place.is_dir()), None)
        cascade = (Cascade.of_run if folder else Cascade.from_yaml)(folder or options.what, settings, **common)
        name = short_name(printable(photos.name if photos.is_dir() else photos.stem))
        out = project_path(Path(options.out).absolute() if options.out else f"{OUT}/{cascade.name}/{name}")
        words = {"all": ",".join(FOLDERS), "none": ""}.get(options.save, options.save).split(",")
        _report(verdicts := cascade.run(photos, out, save=[*filter(None, words)], restart=options.restart))
    except KeyboardInterrupt:
        print("\nInterrupted; what is done is kept, and the same command goes on with the rest.", file=sys.stderr)
        return 130
    except Exception as error:
        print(sentence(error), file=sys.stderr)
        return 2
    print(f"results: {out}")
    return int(verdicts["error"].notna().any())


def _report(verdicts: pd.DataFrame) -> None:
    """Say what came of the first photos, of all together, and what somebody should look at."""
    for row in verdicts.head(N_SHOWN).itertuples():
        known = row.value == row.value and row.value is not None
        print(f"{row.photo}: {row.verdict}" + (f" ({row.rule}: {row.value:.4g}, {row.threshold:.4g})" if known else ""))
    print(f"{len(verdicts)} photo(s): {verdicts['verdict'].value_counts().to_dict()}")
    doubtful = verdicts[verdicts["abnormal"].eq(False) & (verdicts["marked_pixels"].fillna(0) > 0)]
    if len(doubtful):
        names = ", ".join(doubtful["photo"].head(N_SHOWN)) + (" ..." if len(doubtful) > N_SHOWN else "")
        print(f"look at these {len(doubtful)}: the verdict is good, yet a map marks a defect (marked_pixels): {names}")
    failed = verdicts["error"].dropna()
    for error in failed.head(N_SHOWN):
        print(f"not judged: {error}", file=sys.stderr)
    if len(failed) > N_SHOWN:
        print(f"... {len(failed)} photos were not judged, see the column error", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, backends = parser.add_argument, f"torch, or an exported file: {', '.join(FORMATS)}; see notebook 09"
    add("what", metavar="RUN_OR_CASCADE", help="folder of a run, YAML file, or name of a preset")
    add("photos", metavar="PHOTO_OR_FOLDER", type=Path)
    add("--out", help=f"folder for the results; default: {OUT}/<cascade>/<name of the photos>")
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    add("--save", default="all", help="pictures of each photo: all, none, or some of mask,map,overlay")
    add("--backend", default="torch", help=backends)
    add("--device", default="auto", help="auto, cpu, cuda:N or mps")
    add("--batch-size", type=int, default=8, help="photos at once")
    add("--restart", action="store_true", help="throw away what an earlier call left in the folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
