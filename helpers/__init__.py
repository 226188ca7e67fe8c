"""Industrial defect detection: the mechanics behind the notebooks.

``helpers.read_dataset`` and ``helpers.check_dataset`` are looked up when first used, so that ``import helpers`` is fast
and has no side effect.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
