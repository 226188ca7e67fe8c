"""The pixel size that notebook 08 is given: a file's, a number or the dataset's, and what straightens photos first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from helpers.analysis.pixel_size import (
    Calibration,
    calibrate_checkerboard,
    pixel_size_from_object,
    pixel_size_from_points,
)
from helpers.analysis.severity import parse_size
from helpers.analysis.sizing import MM_PER_UNIT, PixelSize
from helpers.data.images import read_image
from helpers.inference.object_mask import otsu_object_mask
from helpers.paths import project_path, read_yaml
from helpers.session import ParameterError, check_number

_LENGTHS = {"points": "distance", "object": "size", "checkerboard": "square"}  # ways, and the length that each knows


def choose_calibration(
    table: pd.DataFrame, unit: str, *, pixel_size: list[float], error: float = 0.0, file: str = ""
) -> Calibration:
    """From the file, ``pixel_size`` ([size] or [x, y] in the unit), or ``table.attrs["pixel_size"]`` (mm); else px.

    ``error``: standard error of ``pixel_size``, or of what the dataset says, in the unit.
    """
    given = ["PIXEL_SIZE"] * bool(pixel_size) + ["PIXEL_SIZE_FROM"] * bool(file) + ["UNIT=px"] * (unit == "px")
    if len(given) > 1:
        raise ParameterError(f"{' and '.join(given)}: give one of them.")
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


def read_calibration(file: Path) -> Calibration:
    """What a YAML file says: one of the keys points, object and checkerboard, whose own keys are the parameters of
    :mod:`helpers.analysis.pixel_size`, with lengths as text. Photos count from the file's folder.
    """
    try:
        ((way, given),) = read_yaml(file).items()
        length = _LENGTHS[way]
        value, unit = _length(given, length)
        options = given | {length: value, "unit": unit}
        if f"{length}_error" in given:
            error, its_unit = _length(given, f"{length}_error")
            options[f"{length}_error"] = error * MM_PER_UNIT[its_unit] / MM_PER_UNIT[unit]
        if way == "points":
            return Calibration(pixel_size_from_points(**options))
        if way == "object":
            mask = otsu_object_mask(read_image(file.parent / options.pop("photo")))
            return Calibration(pixel_size_from_object(mask, **options))
        photos = [read_image(file.parent / name) for name in options.pop("photos")]
        return calibrate_checkerboard(photos, **options)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        example = "notebooks/params/sizes/calibration.yml shows what it may hold"
        raise ValueError(f"{file}: {str(error).removeprefix(f'{file} ')} ({example})") from error


def _length(given: dict[str, str], name: str) -> tuple[float, str]:
    value, unit, squared = parse_size(given[name], name)
    if squared or unit == "px":
        raise ValueError(f"{name}: {given[name]!r} must be a length in mm, cm or inch.")
    return value, unit
