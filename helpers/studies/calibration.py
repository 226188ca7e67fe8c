"""The pixel size that notebook 08 is given: a file's, a number or the dataset's, and what straightens photos first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.pixel_size import (
    BoardCalibration,
    calibrate_checkerboard,
    pixel_size_from_object,
    pixel_size_from_points,
)
from helpers.analysis.severity import Quantity
from helpers.analysis.sizing import MM_PER_UNIT, PixelSize
from helpers.data.images import read_image
from helpers.inference.object_mask import otsu_object_mask
from helpers.paths import project_path, read_yaml
from helpers.session import ParameterError, check_number

# way -> its length, other keys that it needs, and those it may have
_WAYS: dict[str, tuple[str, set[str], set[str]]] = {
    "points": ("distance", {"first", "second"}, {"click_error", "distance_error"}),
    "object": ("size", {"photo"}, {"measure", "edge_error", "size_error"}),
    "checkerboard": ("square", {"photos", "pattern"}, {"square_error"}),
}


class CalibrationError(ValueError):
    """A calibration file that cannot be used; names the file, what is wrong and the fix."""


@dataclass(frozen=True)
class Calibration:
    """The pixel size of the photos that are measured: rectified ones where there is a board."""

    pixel_size: PixelSize
    board: BoardCalibration | None = None

    def rectify(self, picture: np.ndarray) -> np.ndarray:
        """A photo or map as it is measured: seen straight from above where there is a board, else as it is."""
        return picture if self.board is None else self.board.rectify(picture)


def choose_calibration(
    table: pd.DataFrame, unit: str, *, pixel_size: list[float], error: float = 0.0, file: str = ""
) -> Calibration:
    """From the file, ``pixel_size`` ([size] or [x, y] in the unit), or ``table.attrs["pixel_size"]`` (mm); else px.

    ``error``: standard error of ``pixel_size``, or of what the dataset says, in the unit.
    """
    given = ["PIXEL_SIZE"] * bool(pixel_size) + ["PIXEL_SIZE_FROM"] * bool(file)
    if len(given) == 2 or (given and unit == "px"):
        raise ParameterError(f"{' and '.join([*given, *(['UNIT=px'] if unit == 'px' else [])])}: give one of them.")
    if file:
        found = read_calibration(project_path(file))
        return replace(found, pixel_size=found.pixel_size.to(unit))
    if pixel_size:
        if len(pixel_size) > 2:
            raise ParameterError(f"PIXEL_SIZE={pixel_size!r}: expected [size] or [x, y].")
        for value in pixel_size:
            check_number("PIXEL_SIZE", value, 1e-9, 1e9)
        return Calibration(PixelSize(pixel_size[0], pixel_size[-1], error, unit, "PIXEL_SIZE"))
    known = table.attrs.get("pixel_size")
    if unit == "px" or not known:
        return Calibration(PixelSize(1, 1, 0, "px", "UNIT" if unit == "px" else "the size of a pixel is not known"))
    return Calibration(replace(PixelSize(known, known, 0, "mm", "the dataset says so").to(unit), error=error))


def read_calibration(file: str | Path) -> Calibration:
    """What a YAML file with one of the keys points, object and checkerboard says, see
    ``notebooks/params/sizes/calibration.yml``; photos count from the file's folder.
    """
    file = Path(file)
    if not file.is_file():
        raise CalibrationError(f"There is no file {file}; notebooks/params/sizes/calibration.yml is an example.")
    try:
        content = read_yaml(file)
        if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in _WAYS:
            raise ValueError(f"expected one of {', '.join(_WAYS)} and nothing else.")
        ((way, given),) = content.items()
        main, needed, possible = _WAYS[way]
        needed = needed | {main}
        if not isinstance(given, dict) or not needed <= set(given) <= needed | possible:
            raise ValueError(f"{way} needs {', '.join(sorted(needed))} and may have {', '.join(sorted(possible))}.")
        return _calibrate(way, given, _length(given, main), _error(given, main), file.parent)
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def _calibrate(way: str, given: Mapping[str, Any], known: Quantity, error: float, folder: Path) -> Calibration:
    if way == "points":
        first, second = (tuple(float(value) for value in given[name]) for name in ("first", "second"))
        if len(first) != 2 or len(second) != 2:
            raise ValueError("first and second must be [x, y] in pixels.")
        click = float(given.get("click_error", 1.0))
        options = {"click_error": click, "distance_error": error}
        return Calibration(pixel_size_from_points(first, second, known.value, known.unit, **options))
    if way == "object":
        options = {"measure": given.get("measure", "equivalent_diameter"), "known_size_error": error}
        options["edge_error"] = float(given.get("edge_error", 0.5))
        mask = otsu_object_mask(read_image(folder / given["photo"]))
        return Calibration(pixel_size_from_object(mask, known.value, known.unit, **options))
    across, down = given["pattern"]
    photos = [read_image(folder / name) for name in given["photos"]]
    board = calibrate_checkerboard(photos, (int(across), int(down)), known.value, known.unit, square_error=error)
    return Calibration(board.pixel_size, board)


def _length(given: Mapping[str, Any], name: str) -> Quantity:
    length = Quantity.parse(given[name], name)
    if length.squared or length.unit == "px":
        raise ValueError(f"{name}: {given[name]!r} must be a length in mm, cm or inch.")
    return length


def _error(given: Mapping[str, Any], main: str) -> float:
    """The standard error of the length, in its unit; 0 where none is given."""
    if f"{main}_error" not in given:
        return 0.0
    error = _length(given, f"{main}_error")
    return error.value * MM_PER_UNIT[error.unit] / MM_PER_UNIT[_length(given, main).unit]
