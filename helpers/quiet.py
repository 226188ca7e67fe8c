"""Let the libraries speak of problems only: notebooks are read by people."""

from __future__ import annotations

import logging
import warnings

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
