"""Public data sets by name, through anomalib's own downloaders, which check the hash; a folder is there when whole.

python -m helpers.data.download mvtec_ad bottle
python -m helpers.data.download visa candle
python -m helpers.data.download dtd                   # textures that DRAEM and GLASS invent defects from
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from helpers.data.images import find_images
from helpers.paths import write_whole_folder

SOURCES = {
    "mvtec_ad": (
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "CC BY-NC-SA 4.0 (no commercial use); about 5 GB; cite Bergmann et al., IJCV 2021",
    ),
    "visa": (
        "https://github.com/amazon-science/spot-diff",
        "see its page (anomalib states CC BY-NC-SA 4.0); about 2 GB; cite Zou et al., ECCV 2022",
    ),
    "dtd": ("https://www.robots.ox.ac.uk/~vgg/data/dtd/", "research use; about 600 MB"),
}
"""Page and licence of each data set."""
# class and module of anomalib, and the folder of the download that holds the categories as `read_dataset` knows them
CATEGORIES = {"mvtec_ad": ("MVTecAD", "mvtecad", ""), "visa": ("Visa", "visa", "visa_pytorch")}
DTD_COUNT = 5640
TIMEOUT = 10.0  # seconds without an answer


class DownloadError(RuntimeError):
    """The data set could not be had; the message says where to get it and where to put it."""


def download(dataset: str, category: str = "", *, out: str | Path) -> Path:
    """Fetch one of ``SOURCES`` unless it is there already; the folder of the category (all come in one archive)."""
    import anomalib.data
    from anomalib.data.utils import download_and_extract
    from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO

    wanted = target = Path(out).absolute() / dataset
    if dataset in CATEGORIES:
        datamodule, module, subfolder = CATEGORIES[dataset]
        known = import_module(f"anomalib.data.datasets.image.{module}").CATEGORIES
        if category not in known:
            raise DownloadError(f"{dataset} has no category {category!r}; choose one of: {', '.join(known)}.")
        wanted = target / subfolder / category

    def fetch(folder: Path) -> None:
        if dataset in CATEGORIES:
            getattr(anomalib.data, datamodule)(root=folder, category=category).prepare_data()
        else:
            download_and_extract(folder, DTD_DOWNLOAD_INFO)

    advice = f"get it from {SOURCES[dataset][0]} and unpack it to {target}, or take another folder."
    if not target.exists():
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            write_whole_folder(target, fetch)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            problem = f"{dataset} could not be downloaded ({type(error).__name__}: {error}). Without a network {advice}"
            raise DownloadError(problem) from error
        finally:
            socket.setdefaulttimeout(before)
    if not (wanted / "train").is_dir() if dataset in CATEGORIES else len(find_images(target)) != DTD_COUNT:
        raise DownloadError(f"{target} does not hold all of {dataset} {category}; remove it and try again, or {advice}")
    return wanted


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.data.download", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=list(SOURCES), help="data set to download")
    parser.add_argument("category", nargs="?", default="", help="product, such as bottle")
    parser.add_argument("--out", default="datasets", help="folder to put it into (default: %(default)s)")
    options = parser.parse_args(arguments)
    print("\n  ".join([options.dataset, *SOURCES[options.dataset]]), flush=True)
    try:
        print(f"in {download(options.dataset, options.category, out=options.out)}")
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
