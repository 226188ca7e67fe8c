"""Public data sets by name, through anomalib's own datamodules: ``python -m helpers.data.download mvtec_ad bottle``.

And annotations of one's own from Roboflow, as COCO: ``... download roboflow WORKSPACE/PROJECT/VERSION``. And
the textures that DRAEM and GLASS invent defects from: ``... download dtd``.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
DTD_COUNT, DTD_CLASSES = 5640, 47  # pictures of release 1.0.1, in so many folders


class DownloadError(RuntimeError):
    """The data set could not be had; the message says where to get it and where to put it."""


@dataclass(frozen=True)
class Source:
    """A data set that anomalib can fetch.

    Attributes:
        title: its name.
        page: where it is described and offered.
        licence: its terms.
        datamodule: class name in ``anomalib.data``.
        categories: module that has ``CATEGORIES``.
        default: category if none is asked for.
        subfolder: folder inside the download that holds the categories in a layout `read_dataset` knows.
        automatic: False if its authors offer it in a browser only.
    """

    title: str
    page: str
    licence: str
    datamodule: str
    categories: str
    default: str
    subfolder: str = ""
    automatic: bool = True


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
"""Data sets by the name they are asked for."""


def categories(dataset: str) -> tuple[str, ...]:
    """Categories of a data set.

    Raises:
        ValueError: unknown data set.
    """
    return tuple(import_module(_source(dataset).categories).CATEGORIES)


def download_dataset(dataset: str, category: str | None = None, *, out: str | Path, timeout: float = 10.0) -> Path:
    """Fetch a data set unless it is there already.

    All categories come in one archive, so asking for a second one finds it there.

    Args:
        dataset: one of ``SOURCES``.
        category: product; default: the data set's first.
        out: folder the data set's own folder is put into.
        timeout: seconds without an answer after which to give up.

    Returns:
        Folder of the category, for ``helpers.read_dataset``.

    Raises:
        ValueError: unknown data set or category.
        DownloadError: no network, a broken archive, or a data set that is offered in a browser only.
    """
    source = _source(dataset)
    category = category or source.default
    if category not in categories(dataset):
        raise ValueError(f"{dataset} has no category {category!r}; choose one of: {', '.join(categories(dataset))}.")
    target = Path(out).absolute() / dataset
    wanted = target / source.subfolder / category
    for folder in (wanted, target / category):
        if (folder / "train").is_dir():
            logger.info("Found %s.", folder)
            return folder
    if target.exists():
        raise DownloadError(
            f"{target} exists but holds no {category}; remove or complete it. {_by_hand(source, target, category)}"
        )
    if not source.automatic:
        raise DownloadError(f"{source.title} is offered in a browser only. {_by_hand(source, target, category)}")

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{dataset}-") as temporary:
        partial = Path(temporary) / dataset
        try:
            with _socket_timeout(timeout):
                _prepare(source.datamodule, partial, category)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise DownloadError(
                f"{source.title} could not be downloaded ({type(error).__name__}: {error}). "
                f"{_by_hand(source, target, category)}"
            ) from error
        if not (partial / source.subfolder / category / "train").is_dir():
            raise DownloadError(
                f"The download of {source.title} holds no {category}. {_by_hand(source, target, category)}"
            )
        shutil.move(partial, target)
    return wanted


def download_roboflow(project: str, *, out: str | Path, timeout: float = 10.0, limit: float = 3600.0) -> Path:
    """Fetch one version of a Roboflow project as COCO, unless it is there already.

    Args:
        project: ``workspace/project/version``, as in the address of its page.
        out: folder that a folder ``<project>-<version>`` is put into.
        timeout: seconds without an answer after which to give up.
        limit: seconds after which to give up, answer or not.

    Returns:
        That folder, for ``helpers.read_dataset`` (layout ``coco``).

    Raises:
        ValueError: a project that is not three names.
        DownloadError: no key in the environment, no network, no such project, or a broken archive.
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
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".roboflow-") as temporary:
        archive, partial = Path(temporary) / "export.zip", Path(temporary) / "export"
        try:
            address = f"{ROBOFLOW_API}/{'/'.join(map(quote, names))}/coco?api_key={quote(key)}"
            end = time.monotonic() + limit
            with io.BytesIO() as stream:
                _fetch(address, stream, timeout, end)
                link = json.loads(stream.getvalue())["export"]["link"]
            with archive.open("wb") as stream:
                _fetch(link, stream, timeout, end)
            with zipfile.ZipFile(archive) as content:
                content.extractall(partial)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            # the address holds the key: what is shown of the error must not
            reason = str(error).replace(key, "...")
            raise DownloadError(
                f"Roboflow's {project} could not be downloaded ({type(error).__name__}: {reason}). Check the name, the "
                "key and the network, and that the version has a COCO export; or export it as COCO in the browser."
            ) from None
        shutil.move(partial, target)
    return target


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


def download_dtd(*, out: str | Path, timeout: float = 10.0) -> Path:
    """Fetch the texture photos DTD (about 600 MB; research use), unless they are there already.

    The archive's hash and the number of pictures are checked.

    Args:
        out: folder that a folder ``dtd`` is put into.
        timeout: seconds without an answer after which to give up.

    Returns:
        That folder, for ANOMALY_SOURCE of notebook 04.

    Raises:
        DownloadError: no network, a broken archive, or a folder of that name that is not all of DTD.
    """
    target = Path(out).absolute() / "dtd"
    by_hand = (
        f"Get {DTD_PAGE} by hand and unpack it to {target}, or take ANOMALY_SOURCE=builtin: or any folder of textures."
    )
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".dtd-") as temporary:
            try:
                with _socket_timeout(timeout):
                    _fetch_dtd(Path(temporary) / "dtd")
            except (OSError, RuntimeError, ValueError, EOFError) as error:
                raise DownloadError(
                    f"DTD could not be downloaded ({type(error).__name__}: {error}). {by_hand}"
                ) from error
            shutil.move(Path(temporary) / "dtd", target)
    count = len(find_images(target)) if target.is_dir() else 0
    if count != DTD_COUNT:
        raise DownloadError(f"{target} holds {count} pictures, DTD has {DTD_COUNT}; remove the folder. {by_hand}")
    return target


def _fetch_dtd(folder: Path) -> None:
    """Let anomalib download, check the hash and unpack. Replaced in tests."""
    from anomalib.data.utils import download_and_extract
    from anomalib.models.image.draem.lightning_model import DTD_DOWNLOAD_INFO

    download_and_extract(folder, DTD_DOWNLOAD_INFO)


def _prepare(datamodule: str, root: Path, category: str) -> None:
    """Let anomalib download, check the hash and unpack. Replaced in tests."""
    import anomalib.data

    getattr(anomalib.data, datamodule)(root=root, category=category).prepare_data()


def _source(dataset: str) -> Source:
    if dataset not in SOURCES:
        raise ValueError(f"Unknown data set {dataset!r}; known are: {', '.join(SOURCES)}.")
    return SOURCES[dataset]


def _by_hand(source: Source, target: Path, category: str) -> str:
    return (
        f"To put it there by hand: get it from {source.page} and unpack it so that "
        f"{target / category / 'train' / 'good'} exists; or give any other folder to helpers.read_dataset."
    )


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.data.download", description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=[*SOURCES, "roboflow", "dtd"], help="data set to download")
    parser.add_argument("category", nargs="?", help="product (default: the first), or WORKSPACE/PROJECT/VERSION")
    parser.add_argument("--out", default="datasets", help="folder to put it into (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for an answer")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that Roboflow may take in all")
    options = parser.parse_args(arguments)
    if options.dataset in ("roboflow", "dtd"):
        place = {"out": options.out, "timeout": options.timeout}
        try:
            if options.dataset == "dtd":
                print(f"in {download_dtd(**place)}")
            else:
                print(f"in {download_roboflow(options.category or '', **place, limit=options.limit)}")
        except (DownloadError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    source = SOURCES[options.dataset]
    print(f"{source.title}\n  source:  {source.page}\n  licence: {source.licence}", flush=True)
    try:
        folder = download_dataset(options.dataset, options.category, out=options.out, timeout=options.timeout)
    except (DownloadError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.category or source.default} is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
