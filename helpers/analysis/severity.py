"""Is a defect severe, and does a part pass? Limits and rules in YAML, read strictly, over the table of defects.

Limits rate each defect low, medium, high or critical. Rules are those of a drawing ("no scratch longer than 2 mm; at
most 3 spots over 0.5 mm²; nothing within 1 mm of the edge") and give each photo PASS or FAIL with the rule that failed.
``notebooks/params/sizes`` has an example of each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.sizing import MEASURES, MM_PER_UNIT, UNITS
from helpers.paths import read_yaml

LEVELS = ("low", "medium", "high", "critical")
PASS, FAIL = "PASS", "FAIL"
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-z]+)(2|²)?\s*")


class SeverityError(ValueError):
    """Limits or rules that cannot be used, or not on this table; names the file or line and the mend."""


@dataclass(frozen=True)
class Quantity:
    """A limit with its unit.

    Attributes:
        value: In the unit.
        unit: px, mm, cm or inch; squared for areas.
        squared: Whether it is an area.
    """

    value: float
    unit: str
    squared: bool = False

    @classmethod
    def parse(cls, text: object, where: str = "limit") -> Quantity:
        """Reads "2 mm", "0.5 mm2" or "0.5 mm²".

        Raises:
            SeverityError: naming ``where``.
        """
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in UNITS:
            raise SeverityError(
                f"{where}: {text!r} is no size with a unit; write it like 2 mm, or 0.5 mm2 for an area "
                f"(units: {', '.join(UNITS)})."
            )
        return cls(float(match[1]), match[2], bool(match[3]))

    def values_of(self, table: pd.DataFrame, measure: str) -> np.ndarray:
        """The measure of each defect (N,) in this unit.

        Raises:
            SeverityError: for a limit in a unit of length on a table in pixels.
        """
        if self.unit == "px":
            return table[f"{measure}_px"].to_numpy(dtype=float)
        factors = np.ones(len(table))
        for unit in table["unit"].unique():
            if unit not in MM_PER_UNIT:
                raise SeverityError(
                    f"The limit {self} needs sizes in a unit of length, and the table is in {unit}: measure with "
                    f"pixel_size=... and unit={self.unit!r}, or give the limit in px."
                )
            factors[table["unit"] == unit] = MM_PER_UNIT[unit] / MM_PER_UNIT[self.unit]
        values = table[measure].to_numpy(dtype=float) * (factors**2 if self.squared else factors)
        return np.round(values, 9)  # three pixels of 0.1 mm are no more than 0.3 mm

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}{'²' if self.squared else ''}"


@dataclass(frozen=True)
class SeverityLimits:
    """From where on a measure makes a defect medium, high or critical.

    Attributes:
        measure: One of `sizing.MEASURES`.
        limits: Level -> limit, the levels rising and the limits with them; for ``edge_distance``, where near is
            severe, falling.
        defect_type: The type it holds for; None: all that have no limits of their own.
    """

    measure: str
    limits: Mapping[str, Quantity]
    defect_type: str | None = None


@dataclass(frozen=True)
class Rule:
    """One rule of a drawing: either ``max``, ``min``, or ``over`` with ``at_most``.

    Attributes:
        measure: One of `sizing.MEASURES`.
        kind: "max", "min" or "at_most".
        limit: The size compared with.
        at_most: How many defects may lie above the limit; 0 for the other kinds.
        defect_type: The type it holds for; None: every defect.
    """

    measure: str
    kind: str
    limit: Quantity
    at_most: int = 0
    defect_type: str | None = None

    def __str__(self) -> str:
        what, measure = self.defect_type or "defect", self.measure.replace("_", " ")
        if self.kind == "at_most":
            return f"at most {self.at_most} of {what} with {measure} over {self.limit}"
        return f"no {what} with {measure} {'over' if self.kind == 'max' else 'below'} {self.limit}"


def read_severity_limits(path: str | Path) -> list[SeverityLimits]:
    """Limits of a YAML file: a list ``severity`` of lines with a measure, some of the levels and perhaps a type.

    Raises:
        SeverityError: naming the file and the line.
    """
    return parse_severity_limits(_read(path, "severity"), str(path))


def parse_severity_limits(lines: Sequence[Mapping[str, Any]], where: str = "severity") -> list[SeverityLimits]:
    """Limits from plain data, such as ``[{"measure": "length", "medium": "0.5 mm", "critical": "2 mm"}]``.

    Raises:
        SeverityError: naming the line.
    """
    found = []
    for line, place in _lines(lines, where, ("measure", "type", *LEVELS[1:])):
        levels = [level for level in LEVELS[1:] if level in line]
        if not levels:
            raise SeverityError(f"{place}: no level; give at least one of {', '.join(LEVELS[1:])}.")
        measure = _measure(line, place)
        limits = {level: _limit(line[level], measure, f"{place}, {level}") for level in levels}
        if len({limit.unit for limit in limits.values()}) > 1:
            raise SeverityError(f"{place}: give all its limits in one unit.")
        values = [limit.value for limit in limits.values()]
        falling = measure == "edge_distance"
        if values != sorted(set(values), reverse=falling):
            raise SeverityError(f"{place}: the limits must {'fall' if falling else 'rise'} from medium to critical.")
        found.append(SeverityLimits(measure, limits, line.get("type")))
    return found


def read_rules(path: str | Path) -> list[Rule]:
    """Rules of a YAML file: a list ``rules`` of lines with a measure, what it must keep to, and perhaps a type.

    Raises:
        SeverityError: naming the file and the line.
    """
    return parse_rules(_read(path, "rules"), str(path))


def parse_rules(lines: Sequence[Mapping[str, Any]], where: str = "rules") -> list[Rule]:
    """Rules from plain data, such as ``[{"type": "scratch", "measure": "length", "max": "2 mm"}]``.

    Raises:
        SeverityError: naming the line.
    """
    found = []
    for line, place in _lines(lines, where, ("measure", "type", "max", "min", "over", "at_most")):
        measure, given = _measure(line, place), set(line) & {"max", "min", "over", "at_most"}
        if given in ({"max"}, {"min"}):
            (kind,) = given
            found.append(Rule(measure, kind, _limit(line[kind], measure, place), 0, line.get("type")))
        elif given == {"over", "at_most"}:
            count = line["at_most"]
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise SeverityError(f"{place}: at_most={count!r} must be a whole number, 0 or more.")
            found.append(Rule(measure, "at_most", _limit(line["over"], measure, place), count, line.get("type")))
        else:
            raise SeverityError(
                f"{place}: give either max, or min, or over together with at_most; got {sorted(given)}."
            )
    return found


def rate_severity(table: pd.DataFrame, limits: Sequence[SeverityLimits]) -> pd.Series:
    """Severity of each defect: the worst that any limit gives it; low where none holds for it.

    A defect reaches a level when its measure is at the limit or above it (``edge_distance``: at it or below).

    Args:
        table: from `sizing.measure_table` (or `measure_defects`, where no limit names a type).
        limits: from `read_severity_limits`.

    Returns:
        Ordered categories `LEVELS`, with the table's index; a column ``severity`` to be.

    Raises:
        SeverityError: if the units do not fit, or a limit names a type and the table has none.
    """
    rank = np.zeros(len(table), dtype=int)
    types = _types(table, limits)
    special = {line.defect_type for line in limits if line.defect_type is not None}
    for line in limits:
        here = types == line.defect_type if line.defect_type is not None else ~np.isin(types, sorted(special))
        for level, limit in line.limits.items():
            values = limit.values_of(table, line.measure)
            reached = values <= limit.value if line.measure == "edge_distance" else values >= limit.value
            rank = np.where(here & reached, np.maximum(rank, LEVELS.index(level)), rank)
    return pd.Series(pd.Categorical.from_codes(rank, LEVELS, ordered=True), index=table.index, name="severity")


def check_rules(table: pd.DataFrame, rules: Sequence[Rule], image_paths: Sequence[str]) -> pd.DataFrame:
    """What each rule says of each photo: one row a photo and rule.

    Args:
        table: from `sizing.measure_table`.
        rules: from `read_rules`.
        image_paths: all photos looked at; one without a defect keeps to every rule.

    Returns:
        Columns image_path, rule (in words), passed (bool), measured (of the worst defect, in the rule's unit; NaN where
        no defect is concerned; for ``at_most`` the number of defects over the limit), limit (likewise), unit ("" for
        numbers of defects), defect (number of the worst; 0 where none is concerned).

    Raises:
        SeverityError: if there are no rules, the units do not fit, a rule names a type and the table has none, or the
            table has a photo that is not in ``image_paths``.
    """
    if not rules:
        raise SeverityError("There are no rules: without one every photo would pass.")
    photos = list(dict.fromkeys(image_paths))
    unknown = sorted(set(table["image_path"]) - set(photos))
    if unknown:
        raise SeverityError(f"image_paths lacks {unknown[0]} and {len(unknown) - 1} more photos of the table.")
    types = _types(table, rules)
    rows = []
    places = {path: table.index.get_indexer(group.index) for path, group in table.groupby("image_path", sort=False)}
    for rule in rules:
        values = rule.limit.values_of(table, rule.measure)
        concerned = np.ones(len(table), dtype=bool) if rule.defect_type is None else types == rule.defect_type
        for path in photos:
            inside = places.get(path, np.zeros(0, dtype=int))
            rows.append({"image_path": path, **_judge(rule, table, values, inside[concerned[inside]])})
    order = {path: place for place, path in enumerate(photos)}
    result = pd.DataFrame(rows)
    return result.sort_values("image_path", key=lambda paths: paths.map(order), kind="stable", ignore_index=True)


def verdicts(checked: pd.DataFrame) -> pd.DataFrame:
    """PASS or FAIL of each photo, with the first rule that failed.

    Args:
        checked: from `check_rules`.

    Returns:
        One row a photo: image_path, verdict, n_failed (rules), rule, measured, limit, unit and defect of the first rule
        that failed; "", NaN and 0 where none did.
    """
    rows = []
    for path, group in checked.groupby("image_path", sort=False):
        failed = group[~group["passed"]]
        row = {"image_path": path, "verdict": FAIL if len(failed) else PASS, "n_failed": len(failed)}
        if len(failed):
            row |= failed.iloc[0][["rule", "measured", "limit", "unit", "defect"]].to_dict()
        else:
            row |= {"rule": "", "measured": math.nan, "limit": math.nan, "unit": "", "defect": 0}
        rows.append(row)
    return pd.DataFrame(
        rows, columns=["image_path", "verdict", "n_failed", "rule", "measured", "limit", "unit", "defect"]
    )


def p_chart_limits(n_defective: np.ndarray, n_inspected: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Middle line and limits of a p-chart: p, the share of defective photos over all, and p ± 3 sqrt(p (1 - p) / n).

    Source: Shewhart (1931); Montgomery (2013), "Introduction to statistical quality control", 7.2.

    Args:
        n_defective: (N,) defective photos in each subgroup.
        n_inspected: (N,) photos in each.

    Returns:
        p; lower and upper limits (N,), kept within 0 and 1.

    Raises:
        ValueError: When the two do not fit, or more are defective than inspected.
    """
    defective, inspected = np.asarray(n_defective, dtype=float), np.asarray(n_inspected, dtype=float)
    if defective.ndim != 1 or defective.shape != inspected.shape or not len(defective):
        raise ValueError("n_defective and n_inspected must have one number a subgroup each, and at least one.")
    if (inspected <= 0).any() or (defective < 0).any() or (defective > inspected).any():
        raise ValueError("n_inspected must be above 0 in every subgroup, and n_defective between 0 and it.")
    centre = float(defective.sum() / inspected.sum())
    reach = 3 * np.sqrt(centre * (1 - centre) / inspected)
    return centre, np.maximum(centre - reach, 0), np.minimum(centre + reach, 1)


def _judge(rule: Rule, table: pd.DataFrame, values: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """What one rule says of the defects in some rows."""
    limit, unit = rule.limit.value, str(rule.limit).split(" ", 1)[1]
    found: dict[str, Any] = {"rule": str(rule), "passed": True, "measured": math.nan, "limit": limit, "unit": unit}
    worst = None
    if len(rows):
        worst = rows[values[rows].argmin() if rule.kind == "min" else values[rows].argmax()]
        found["measured"] = float(values[worst])
        found["passed"] = bool(values[worst] >= limit if rule.kind == "min" else values[worst] <= limit)
    if rule.kind == "at_most":
        count = int((values[rows] > limit).sum())
        found |= {"passed": count <= rule.at_most, "measured": float(count), "limit": float(rule.at_most), "unit": ""}
    return found | {"defect": 0 if worst is None else int(table["defect"].iloc[worst])}


def _types(table: pd.DataFrame, lines: Sequence[SeverityLimits | Rule]) -> np.ndarray:
    named = next((line.defect_type for line in lines if line.defect_type is not None), None)
    if named is not None and "defect_type" not in table:
        raise SeverityError(
            f"A line names the type {named!r} and the table has no column defect_type: give defect_types to "
            "measure_table, or use lines without a type."
        )
    return table["defect_type"].to_numpy() if "defect_type" in table else np.full(len(table), "", dtype=object)


def _read(path: str | Path, key: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise SeverityError(f"There is no file {file}; notebooks/params/sizes has examples.")
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise SeverityError(str(error)) from error
    if not isinstance(content, dict) or set(content) != {key}:
        raise SeverityError(f"{file}: expected one list called {key} and nothing else.")
    return content[key]


def _lines(lines: object, where: str, known: tuple[str, ...]) -> list[tuple[Mapping[str, Any], str]]:
    """Each line with its place in words, its keys checked."""
    if not isinstance(lines, Sequence) or isinstance(lines, str) or not lines:
        raise SeverityError(f"{where}: expected a list of at least one line.")
    checked = []
    for number, line in enumerate(lines, start=1):
        place = f"{where}, line {number}"
        if not isinstance(line, Mapping):
            raise SeverityError(f"{place}: expected keys and values like {{measure: length, ...}}, got {line!r}.")
        unknown = [str(key) for key in line if key not in known]
        if unknown:
            raise SeverityError(f"{place}: unknown {', '.join(unknown)}; known are {', '.join(known)}.")
        if "type" in line and not (isinstance(line["type"], str) and line["type"]):
            raise SeverityError(f"{place}: type={line['type']!r} must be the name of a defect type.")
        checked.append((line, place))
    return checked


def _measure(line: Mapping[str, Any], place: str) -> str:
    measure = line.get("measure")
    if measure not in MEASURES:
        raise SeverityError(f"{place}: measure={measure!r}; use one of {', '.join(MEASURES)}.")
    return measure


def _limit(text: object, measure: str, place: str) -> Quantity:
    limit = Quantity.parse(text, place)
    if limit.squared != (measure == "area"):
        wanted = f"{limit.unit}2" if measure == "area" else limit.unit
        raise SeverityError(f"{place}: {measure} is given in {wanted}, not in {text!r}.")
    return limit
