"""What long work says: a bar where somebody watches, else one line a minute; and libraries kept to problems only."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from helpers.paths import printable

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 60.0
UNFORESEEN = "a damaged file, of the run, the cascade or the photos; or a fault of the program, which is worth a report"
CHATTY_LOGGERS = ("anomalib", "lightning", "lightning.fabric", "lightning.pytorch", "lightning_fabric", "timm")
# the last one says, when NNCF is imported, that there is no CUDA compiler
CHATTY_LOGGERS += ("onnxscript", "pytorch_lightning", "torch.utils.cpp_extension")


def is_interactive() -> bool:
    """Whether a person is likely to be watching: a terminal, or a notebook that no batch run executes.

    Batch runs (papermill, nbval) execute in the same kernel as JupyterLab does, so they set ``HELPERS_HEADLESS=1``.
    """
    if os.environ.get("HELPERS_HEADLESS") or os.environ.get("CI"):
        return False
    kernel = sys.modules.get("ipykernel.kernelapp")  # which papermill's own process imports too, and does not start
    return bool(kernel and kernel.IPKernelApp.initialized()) or sys.stderr.isatty()


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a tqdm bar where somebody watches, else with one printed line a minute."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if is_interactive():
        from tqdm.auto import tqdm

        yield from tqdm(iterable, desc=description, total=total, leave=False)
        return
    started = last = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            share = f"{done}/{total}" if total else str(done)
            print(f"{description}: {share}, {now - started:.0f} s", flush=True)
            last = now
        yield item


def quiet_libraries() -> None:
    """Silence what libraries say about themselves and each other, some of it when they are imported: call it before.

    Errors, and warnings about what the caller does, still show.
    """
    for logger in map(logging.getLogger, CHATTY_LOGGERS):
        for one in (logger, *logger.handlers):
            one.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(timm|anomalib|lightning|torch)\b.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning\b.*")
    for message in (".*does not have many workers.*", ".*treespec, LeafSpec.*", ".*no `configure_optimizers`.*"):
        warnings.filterwarnings("ignore", message=message)


def sentence(error: Exception) -> str:
    """What a command says instead of a traceback: an error's own words, or its kind too where nobody foresaw it."""
    foreseen = isinstance(error, ValueError | TypeError | OSError)
    return printable(str(error) if foreseen else f"{type(error).__name__}: {error} ({UNFORESEEN})")


def in_threads(work: Callable[[Any], T], items: Iterable[Any], workers: int | None = None) -> Iterator[T]:
    """Results of some work on each item, in order; few are ahead, so that neither items nor results pile up."""
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as executor:
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
