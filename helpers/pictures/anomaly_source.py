"""Where DRAEM and GLASS take the look of invented defects from: a checked folder of texture pictures.

Names, as notebook 04 takes them in ANOMALY_SOURCE:

- ``builtin:``: the procedural bank (:mod:`helpers.pictures.textures`), drawn once into a cache; no download.
- a path: a folder of pictures, DTD (Cimpoi et al. 2014, "Describing textures in the wild") or one's own.

DTD itself comes with ``python -m helpers.data.download dtd``, when asked for. A folder without pictures is an error:
anomalib's generator would draw its defects from noise then, and say nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from helpers.data.images import files_below
from helpers.pictures.textures import write_textures

BUILTIN_SOURCE = "builtin:"
DTD_COUNT = 5640  # pictures of DTD release 1.0.1: 120 in each of 47 classes
DTD_CLASS_COUNT = 47
BUILTIN_COUNT, BUILTIN_SIZE, BUILTIN_SEED = 200, 256, 0


@dataclass(frozen=True)
class AnomalySource:
    """A folder of textures that was looked at.

    Attributes:
        folder: absolute.
        kind: ``built in`` (drawn by code), ``DTD`` (all of it) or ``folder``.
        n_pictures: how many it holds.
        sha256: of names and sizes of the files: other pictures in the same place are another run.
    """

    folder: str
    kind: str
    n_pictures: int
    sha256: str

    def describe(self) -> str:
        """One line for a notebook or a log."""
        return f"{self.n_pictures} textures ({self.kind}) in {self.folder}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``run.json``: without the folder, since the same pictures elsewhere are the same source."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def texture_files(folder: Path | str) -> list[Path]:
    """Pictures in a folder and its subfolders, in the order of their names, which is the same on every machine.

    Raises:
        ValueError: if there is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"ANOMALY_SOURCE={str(folder)!r}: there is no such folder; give one of textures, or builtin:.")
    files = [path for path in files_below(folder, []) if path.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise ValueError(
            f"ANOMALY_SOURCE={str(folder)!r}: no picture in it (a download that failed leaves such a folder). Remove "
            "it, or give a folder of textures, or builtin:."
        )
    return files


def resolve_anomaly_source(name: str, cache: Path) -> AnomalySource:
    """Find the textures that a name stands for, and check each picture's header.

    Args:
        name: ``builtin:``, or a folder.
        cache: where the built-in pictures are drawn, in a folder ``textures``.

    Raises:
        ValueError: if the folder is missing or empty, or holds a file that is no picture; the message names it.
    """
    if name == BUILTIN_SOURCE:
        folder = write_textures(cache / "textures", BUILTIN_COUNT, size=BUILTIN_SIZE, seed=BUILTIN_SEED)
    else:
        folder = Path(name).expanduser()
    files = texture_files(folder)
    digest = hashlib.sha256()
    for path in files:
        try:
            with Image.open(path) as picture:
                picture.verify()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"{path} is no picture that can be read ({error}); remove it from the textures."
            ) from error
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
    kind = "built in" if name == BUILTIN_SOURCE else "DTD" if _is_dtd(files) else "folder"
    return AnomalySource(str(folder.resolve()), kind, len(files), digest.hexdigest())


def _is_dtd(files: list[Path]) -> bool:
    return len(files) == DTD_COUNT and len({path.parent.name for path in files}) == DTD_CLASS_COUNT
