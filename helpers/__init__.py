"""Industrial defect detection: the mechanics behind the notebooks.

``helpers.read_dataset`` and ``helpers.check_dataset`` are looked up when first used: ``import helpers`` is fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Torch's threads wait for each other after every operation, spinning unless OpenMP is told to sleep before torch is
# imported. Where another process has one of the cores they spin for one that cannot run: 12 steps of a U-Net took 35 s
# of two busy cores, 29 s of it on the CPU, and 8 s, 7 of it on the CPU, when they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
