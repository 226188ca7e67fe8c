"""Progress of long work: a bar where somebody watches, one line a minute where nobody does."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0


def is_interactive() -> bool:
    """Whether a person is likely to be watching: a terminal, or a notebook that no batch run executes.

    Batch runs (papermill, nbval) execute in the same kernel as JupyterLab does, so the pipeline and the tests set
    ``HELPERS_HEADLESS=1``; without it a kernel counts as watched.
    """
    if os.environ.get("HELPERS_HEADLESS") or os.environ.get("CI"):
        return False
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def progress(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a tqdm bar when somebody watches, else with one printed line a minute.

    Args:
        iterable: what to go through.
        description: what is being done, a few words.
        total: number of items; taken from ``len(iterable)`` when it has one.
    """
    if total is None:
        try:
            total = len(iterable)  # type: ignore[arg-type]
        except TypeError:
            total = None
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
