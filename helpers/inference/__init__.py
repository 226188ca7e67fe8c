"""Finished runs at work on new photos, and cascades of them; imported when first used, so that the package is light."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Cascade", "Predictor"]  # noqa: F822  (found by __getattr__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)
