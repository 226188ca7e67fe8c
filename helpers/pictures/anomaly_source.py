"""Where DRAEM and GLASS take the look of invented defects from: a checked folder of textures.

ANOMALY_SOURCE is ``builtin:`` (:mod:`helpers.pictures.textures`, drawn once into a cache) or a folder: DTD (Cimpoi et
al. 2014, "Describing textures in the wild") or one's own. One without pictures is an error: anomalib's generator would
draw its defects from noise then, and say nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from helpers.data import download
from helpers.data.images import find_images
from helpers.pictures.textures import write_textures

BUILTIN_SOURCE = "builtin:"
BUILTIN_COUNT, DTD_CLASSES = 200, 47


@dataclass(frozen=True)
class AnomalySource:
    """A checked folder of textures; ``kind`` is ``built in``, ``DTD`` (all of it) or ``folder``."""

    folder: str  # absolute
    kind: str
    n_pictures: int
    sha256: str  # of names and sizes of the files

    def describe(self) -> str:
        return f"{self.n_pictures} textures ({self.kind}) in {self.folder}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``run.json``, without the folder: the same pictures elsewhere are the same source."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def texture_files(folder: Path | str) -> list[Path]:
    """Pictures in a folder and its subfolders in the order of their names; a ValueError where there is none."""
    files = find_images(Path(folder)) if Path(folder).is_dir() else []
    if not files:  # a download that failed leaves an empty one
        raise ValueError(f"ANOMALY_SOURCE={str(folder)!r}: no picture in it. Give a folder of textures, or builtin:.")
    return files


def resolve_anomaly_source(name: str, cache: Path) -> AnomalySource:
    """The textures that a name stands for, each one's header checked; built-in ones are drawn into ``cache/textures``.

    A ValueError names the folder that is missing or empty, or the file that is no picture.
    """
    built_in = name == BUILTIN_SOURCE
    folder = write_textures(cache / "textures", BUILTIN_COUNT) if built_in else Path(name).expanduser()
    files, digest = texture_files(folder), hashlib.sha256()
    for path in files:
        try:
            with Image.open(path) as picture:
                picture.verify()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path} is no picture that can be read ({error}); remove it.") from error
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
    is_dtd = len(files) == download.DTD_COUNT and len({path.parent.name for path in files}) == DTD_CLASSES
    kind = "built in" if built_in else "DTD" if is_dtd else "folder"
    return AnomalySource(str(folder.resolve()), kind, len(files), digest.hexdigest())
