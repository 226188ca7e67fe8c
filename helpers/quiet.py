"""Let the libraries speak of problems only: notebooks are read by people."""

from __future__ import annotations

import logging
import warnings

from helpers.files import printable

CHATTY_LOGGERS = (
    "anomalib",
    "lightning",
    "lightning.fabric",
    "lightning.pytorch",
    "lightning_fabric",
    "pytorch_lightning",
    "timm",
    "torch.utils.cpp_extension",  # that there is no CUDA compiler, when NNCF is imported
)


def quiet_libraries() -> None:
    """Silence notices and deprecation warnings that the libraries raise about themselves and each other.

    Errors, and warnings about what the caller does, still show. Call it before anomalib is imported: some of the
    notices come at import.
    """
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
        for handler in logging.getLogger(name).handlers:
            handler.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(timm|anomalib|lightning|torch)\b.*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning\b.*")
    for message in (".*does not have many workers.*", ".*treespec, LeafSpec.*", ".*no `configure_optimizers`.*"):
        warnings.filterwarnings("ignore", message=message)


def sentence(error: Exception) -> str:
    """What a command says instead of a traceback: an error's own words, or its kind too where nobody foresaw it."""
    if isinstance(error, ValueError | TypeError | OSError):
        return printable(str(error))
    return printable(
        f"{type(error).__name__}: {error} (a damaged file, of the run, the cascade or the photos; or a fault of the "
        "program, which is worth a report)"
    )
