"""Draw the built-in datasets: ``python -m helpers.pictures mesh nuts --out datasets``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from helpers.pictures.datasets import DRAWN, draw_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: draw the named datasets and print one line for each."""
    about = "Draw the built-in datasets: photos, masks, known sizes."
    parser = argparse.ArgumentParser(prog="python -m helpers.pictures", description=about)
    parser.add_argument("datasets", nargs="+", choices=list(DRAWN), help="which datasets to draw")
    parser.add_argument("--out", type=Path, required=True, help="folder in which the dataset folders are made")
    parser.add_argument("--n-train", type=int, help="good photos for training (200)")
    parser.add_argument("--n-test-normal", type=int, help="good photos in the test set (100)")
    parser.add_argument("--n-test-per-defect", type=int, help="test photos of each defect type (mesh 25, nuts 20)")
    parser.add_argument("--n-frames", type=int, help="frames with several nuts, only for nuts (24)")
    parser.add_argument("--image-size", type=int, help="side of the photos in pixels (256)")
    parser.add_argument("--pixel-size", type=float, help="millimetres per pixel (0.05)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same bytes (0)")
    parser.add_argument("--force", action="store_true", help="replace folders drawn with other parameters")
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    names, out = given.pop("datasets"), given.pop("out")
    for name in dict.fromkeys(names):
        try:
            folder = draw_dataset(name, out, **given)
        except (FileExistsError, ValueError) as error:
            parser.exit(2, f"{name}: {error}\n")
        n_train, n_test = (len(list((folder / split).glob("*/*.png"))) for split in ("train", "test"))
        print(f"{name}: {n_train} training and {n_test} test photos in {folder}")


if __name__ == "__main__":
    main()
