"""Public data sets by name, through anomalib's own datamodules, and annotations of one's own from Roboflow as COCO.

    python -m helpers.data.download mvtec_ad bottle
    python -m helpers.data.download roboflow WORKSPACE/PROJECT/VERSION
    python -m helpers.data.download dtd                   # textures that DRAEM and GLASS invent defects from

Nothing is downloaded unless asked for by name here. A download happens in a temporary folder beside its destination and
is moved there when complete, so a folder of that name is whole.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO
from urllib import request
from urllib.parse import quote

from helpers.data.images import find_images

logger = logging.getLogger(__name__)

ROBOFLOW_API = "https://api.roboflow.com"
ROBOFLOW_KEY = "ROBOFLOW_API_KEY"
DTD_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
DTD_COUNT = 5640


class DownloadError(RuntimeError):
    """The data set could not be had; the message says where to get it and where to put it."""


@dataclass(frozen=True)
class Source:
    """A data set that anomalib can fetch; ``automatic`` is False if its authors offer it in a browser only."""

    title: str
    page: str
    licence: str
    datamodule: str  # class in anomalib.data
    categories: str  # module that has CATEGORIES
    default: str
    subfolder: str = ""  # of the download, that holds the categories in a layout `read_dataset` knows
    automatic: bool = True

    def by_hand(self, target: Path, category: str) -> str:
        return (
            f"To put it there by hand: get it from {self.page} and unpack it so that "
            f"{target / category / 'train' / 'good'} exists; or give any other folder to helpers.read_dataset."
        )


SOURCES: dict[str, Source] = {
    "mvtec_ad": Source(
        "MVTec AD (about 5 GB)",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        "CC BY-NC-SA 4.0 (no commercial use); cite Bergmann et al., IJCV 2021",
        "MVTecAD",
        "anomalib.data.datasets.image.mvtecad",
        "bottle",
    ),
    "visa": Source(
        "VisA (about 2 GB)",
        "https://github.com/amazon-science/spot-diff",
        "see its page (anomalib states CC BY-NC-SA 4.0); cite Zou et al., ECCV 2022",
        "Visa",
        "anomalib.data.datasets.image.visa",
        "capsules",
        subfolder="visa_pytorch",
    ),
    "mpdd": Source(
        "MPDD",
        "https://github.com/stepanje/MPDD",
        "CC BY-NC-SA 4.0 (no commercial use); cite Jezek et al., ICUMT 2021",
        "MPDD",
        "anomalib.data.datasets.image.mpdd",
        "bracket_black",
        automatic=False,
    ),
}


def download_dataset(dataset: str, category: str | None = None, *, out: str | Path, timeout: float = 10.0) -> Path:
    """Fetch one of ``SOURCES`` unless it is there already; the folder of the category.

    All categories come in one archive, so asking for a second one finds it there. ``timeout`` are seconds without an
    answer after which to give up.
    """
    if dataset not in SOURCES:
        raise ValueError(f"Unknown data set {dataset!r}; known are: {', '.join(SOURCES)}.")
    source = SOURCES[dataset]
    category = category or source.default
    known = import_module(source.categories).CATEGORIES
    if category not in known:
        raise ValueError(f"{dataset} has no category {category!r}; choose one of: {', '.join(known)}.")
    target = Path(out).absolute() / dataset
    wanted, by_hand = target / source.subfolder / category, source.by_hand(target, category)
    for folder in (wanted, target / category):
        if (folder / "train").is_dir():
            logger.info("Found %s.", folder)
            return folder
    if target.exists():
        raise DownloadError(f"{target} exists but holds no {category}; remove or complete it. {by_hand}")
    if not source.automatic:
        raise DownloadError(f"{source.title} is offered in a browser only. {by_hand}")

    def fetch(folder: Path) -> None:
        _prepare(source.datamodule, folder, category)
        if not (folder / source.subfolder / category / "train").is_dir():
            raise ValueError(f"the download holds no {category}")

    _fetch_whole(source.title, target, fetch, by_hand, timeout)
    return wanted


def download_roboflow(project: str, *, out: str | Path, timeout: float = 10.0, limit: float = 3600.0) -> Path:
    """Fetch ``workspace/project/version`` of Roboflow as COCO into ``<project>-<version>``, unless it is there already.

    ``limit`` are seconds after which to give up, answer or not.
    """
    names = project.strip("/").split("/")
    if len(names) != 3 or not all(name and name not in (".", "..") for name in names):
        raise ValueError(f"{project!r} is no Roboflow project; give WORKSPACE/PROJECT/VERSION, as in its address.")
    target = Path(out).absolute() / f"{names[1]}-{names[2]}"
    if target.exists():
        logger.info("Found %s.", target)
        return target
    key = os.environ.get(ROBOFLOW_KEY, "").strip()
    if not key:
        raise DownloadError(
            f"Set {ROBOFLOW_KEY} to your Roboflow API key (its settings page shows it), or export the project as COCO "
            "in the browser and give the unpacked folder to helpers.read_dataset."
        )

    def fetch(folder: Path) -> None:
        address = f"{ROBOFLOW_API}/{'/'.join(map(quote, names))}/coco?api_key={quote(key)}"
        archive, end = folder.with_name("export.zip"), time.monotonic() + limit
        with io.BytesIO() as stream:
            _fetch(address, stream, timeout, end)
            link = json.loads(stream.getvalue())["export"]["link"]
        with archive.open("wb") as stream:
            _fetch(link, stream, timeout, end)
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)

    advice = (
        "Check the name, the key and the network, and that the version has a COCO export; or export it as COCO in the "
        "browser."
    )
    _fetch_whole(f"Roboflow's {project}", target, fetch, advice, timeout, secret=key)
    return target


def download_dtd(*, out: str | Path, timeout: float = 10.0) -> Path:
    """Fetch the texture photos DTD (about 600 MB; research use), unless they are there; hash and count are checked."""
    target = Path(out).absolute() / "dtd"
    by_hand = (
        f"Get {DTD_PAGE} by hand and unpack it to {target}, or take ANOMALY_SOURCE=builtin: or any folder of textures."
    )

    if not target.exists():
        _fetch_whole("DTD", target, _fetch_dtd, by_hand, timeout)
    count = len(find_images(target))
    if count != DTD_COUNT:
        raise DownloadError(f"{target} holds {count} pictures, DTD has {DTD_COUNT}; remove the folder. {by_hand}")
    return target


def _fetch_whole(
    title: str, target: Path, fetch: Callable[[Path], None], advice: str, timeout: float, secret: str = ""
) -> None:
    """Fetch into a folder beside the target, and move it there when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        partial = Path(temporary) / target.name
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(timeout)
        try:
            fetch(partial)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            # an address may hold a key: what is shown of the error must not
            reason = str(error).replace(secret, "...") if secret else str(error)
            problem = f"{title} could not be downloaded ({type(error).__name__}: {reason}). {advice}"
            raise DownloadError(problem) from (None if secret else error)
        finally:
            socket.setdefaulttimeout(before)
        shutil.move(partial, target)


def _fetch(address: str, stream: BinaryIO, timeout: float, end: float) -> None:
    """Copy what is at an address on the web; TimeoutError where it is not whole by the end (of `time.monotonic`)."""
    web = request.OpenerDirector()  # knows no file: or ftp:, nor is sent there
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
    ):
        web.add_handler(handler())
    with web.open(address, timeout=timeout) as answer:
        while piece := answer.read1(1 << 16):  # read() would wait for a server that gives a byte now and then
            if time.monotonic() > end:
                raise TimeoutError("it took too long; give a longer --limit")
            stream.write(piece)


def _fetch_dtd(folder: Path) -> None:
    """Let anomalib download, check the hash and unpack. Replaced in tests."""
    from anomalib.data.utils import download_and_extract
    from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO

    download_and_extract(folder, DTD_DOWNLOAD_INFO)


def _prepare(datamodule: str, root: Path, category: str) -> None:
    """Let anomalib download, check the hash and unpack. Replaced in tests."""
    import anomalib.data

    getattr(anomalib.data, datamodule)(root=root, category=category).prepare_data()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.data.download", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=[*SOURCES, "roboflow", "dtd"], help="data set to download")
    parser.add_argument("category", nargs="?", help="product (default: the first), or WORKSPACE/PROJECT/VERSION")
    parser.add_argument("--out", default="datasets", help="folder to put it into (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for an answer")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that Roboflow may take in all")
    options = parser.parse_args(arguments)
    place = {"out": options.out, "timeout": options.timeout}
    try:
        if options.dataset == "dtd":
            folder = download_dtd(**place)
        elif options.dataset == "roboflow":
            folder = download_roboflow(options.category or "", **place, limit=options.limit)
        else:
            source = SOURCES[options.dataset]
            print(f"{source.title}\n  source:  {source.page}\n  licence: {source.licence}", flush=True)
            folder = download_dataset(options.dataset, options.category, **place)
    except (DownloadError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
