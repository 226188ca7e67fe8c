"""Industrial defect detection: the mechanics behind the notebooks.

``helpers.read_dataset`` and ``helpers.check_dataset`` are looked up when first used: ``import helpers`` is fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Torch's threads wait for each other after every operation, spinning for long unless OpenMP is told to sleep before
# torch is imported. Where another process has one of the cores they spin for one that cannot run. A short spin first
# keeps the speed of a free machine: 12 steps of a U-Net on two cores take 3.6 s spinning, 4.6 s asleep at once, 3.8 s
# like this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_EXPORTS = {
    "check_dataset": "helpers.data.checks",
    "read_dataset": "helpers.data.formats",
}

__all__ = ["check_dataset", "read_dataset"]  # noqa: F822  (found by __getattr__)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
