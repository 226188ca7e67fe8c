"""The engine that trains and predicts, finished runs at work on new photos, and cascades of them.

``Predictor`` and ``Cascade`` are looked up when first used, so that importing the package is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Cascade": "helpers.inference.cascade",
    "Predictor": "helpers.inference.predictor",
}

__all__ = ["Cascade", "Predictor"]  # noqa: F822  (found by __getattr__)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
