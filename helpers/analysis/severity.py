"""Is a defect severe, and does a part pass? Limits of severity and a drawing's rules, over the table of defects.

``notebooks/params/sizes`` has an example of each YAML file.
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
from helpers.paths import PROJECT_ROOT, project_path, read_yaml

LEVELS = ("low", "medium", "high", "critical")
PASS, FAIL = "PASS", "FAIL"
LONG, COMPACT = "scratch", "spot"
ELONGATION = 3.0  # length over width from which a defect is long
RATINGS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "sizes"
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-z]+)(2|²)?\s*")


class SeverityError(ValueError):
    """Limits or rules that cannot be used, or not on this table; names the file or line and the fix."""


@dataclass(frozen=True)
class Quantity:
    """A limit in px, mm, cm or inch, squared for areas."""

    value: float
    unit: str
    squared: bool = False

    @classmethod
    def parse(cls, text: object, where: str) -> Quantity:
        """Reads "2 mm", "0.5 mm2" or "0.5 mm²"; ``where`` names its place in the error."""
        match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in UNITS:
            raise SeverityError(
                f"{where}: {text!r} is no size with a unit; write it like 2 mm, or 0.5 mm2 for an area "
                f"(units: {', '.join(UNITS)})."
            )
        return cls(float(match[1]), match[2], bool(match[3]))

    def values_of(self, table: pd.DataFrame, measure: str) -> np.ndarray:
        """The measure of each defect (N,) in this unit."""
        if self.unit == "px":
            return table[f"{measure}_px"].to_numpy(dtype=float)
        if "px" in set(table["unit"]):
            raise SeverityError(
                f"The limit {self} needs sizes in a unit of length, and the table is in px: measure with "
                f"pixel_size=... and unit={self.unit!r}, or give the limit in px."
            )
        factors = table["unit"].map(MM_PER_UNIT).to_numpy(dtype=float) / MM_PER_UNIT[self.unit]
        values = table[measure].to_numpy(dtype=float) * (factors**2 if self.squared else factors)
        return np.round(values, 9)  # three pixels of 0.1 mm are no more than 0.3 mm

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}{'²' if self.squared else ''}"


@dataclass(frozen=True)
class SeverityLimits:
    """From where on a measure makes a defect medium, high or critical; rising, or falling for ``edge_distance``.

    ``defect_type``: the type it holds for; None: all that have no limits of their own.
    """

    measure: str
    limits: Mapping[str, Quantity]
    defect_type: str | None = None


@dataclass(frozen=True)
class Rule:
    """One rule of a drawing: ``kind`` max, min or at_most (of so many defects may lie above the limit).

    ``defect_type``: the type it holds for; None: every defect.
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


def shapes(table: pd.DataFrame) -> list[str]:
    """``scratch`` for each defect that is at least three times as long as wide, else ``spot``."""
    return np.where(table["length"] >= ELONGATION * table["width"], LONG, COMPACT).tolist()


# -------------------------------------------------------------------------------------------------------------- reading


def rating_file(kind: str, unit: str, given: str = "") -> Path:
    """The YAML file of limits (``severity``) or rules (``drawing``): the one given, else the example for the unit."""
    return project_path(given) if given else RATINGS_FOLDER / f"{kind}{'_px' if unit == 'px' else ''}.yml"


def read_severity_limits(path: str | Path) -> list[SeverityLimits]:
    """Limits of a YAML file: a list ``severity`` of lines with a measure, some of the levels and perhaps a type."""
    found = []
    for line, measure, place in _lines(path, "severity", LEVELS[1:]):
        limits = {level: _limit(line[level], measure, f"{place}, {level}") for level in LEVELS[1:] if level in line}
        if not limits:
            raise SeverityError(f"{place}: no level; give at least one of {', '.join(LEVELS[1:])}.")
        if len({limit.unit for limit in limits.values()}) > 1:
            raise SeverityError(f"{place}: give all its limits in one unit.")
        values, falling = [limit.value for limit in limits.values()], measure == "edge_distance"
        if values != sorted(set(values), reverse=falling):
            raise SeverityError(f"{place}: the limits must {'fall' if falling else 'rise'} from medium to critical.")
        found.append(SeverityLimits(measure, limits, line.get("type")))
    return found


def read_rules(path: str | Path) -> list[Rule]:
    """Rules of a YAML file: a list ``rules`` of lines with a measure, what it must keep to, and perhaps a type."""
    found = []
    for line, measure, place in _lines(path, "rules", ("max", "min", "over", "at_most")):
        given, count = set(line) - {"measure", "type"}, line.get("at_most", 0)
        if given not in ({"max"}, {"min"}, {"over", "at_most"}):
            raise SeverityError(
                f"{place}: give either max, or min, or over together with at_most; got {sorted(given)}."
            )
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise SeverityError(f"{place}: at_most={count!r} must be a whole number, 0 or more.")
        kind = "at_most" if "over" in line else given.pop()
        limit = _limit(line["over" if kind == "at_most" else kind], measure, place)
        found.append(Rule(measure, kind, limit, count, line.get("type")))
    return found


def _lines(path: str | Path, key: str, known: Sequence[str]) -> list[tuple[Mapping[str, Any], str, str]]:
    """Each line with its measure and its place in words, its keys checked."""
    file = Path(path)
    if not file.is_file():
        raise SeverityError(f"There is no file {file}; notebooks/params/sizes has examples.")
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise SeverityError(str(error)) from error
    lines = content.get(key) if isinstance(content, dict) and set(content) == {key} else None
    if not isinstance(lines, list) or not lines:
        raise SeverityError(f"{file}: expected one list called {key}, of at least one line, and nothing else.")
    checked = []
    for number, line in enumerate(lines, start=1):
        place = f"{file}, line {number}"
        if not isinstance(line, dict):
            raise SeverityError(f"{place}: expected keys and values like {{measure: length, ...}}, got {line!r}.")
        unknown = [str(name) for name in line if name not in ("measure", "type", *known)]
        if unknown:
            raise SeverityError(f"{place}: unknown {', '.join(unknown)}; known are measure, type, {', '.join(known)}.")
        if "type" in line and not (isinstance(line["type"], str) and line["type"]):
            raise SeverityError(f"{place}: type={line['type']!r} must be the name of a defect type.")
        if line.get("measure") not in MEASURES:
            raise SeverityError(f"{place}: measure={line.get('measure')!r}; use one of {', '.join(MEASURES)}.")
        checked.append((line, line["measure"], place))
    return checked


def _limit(text: object, measure: str, place: str) -> Quantity:
    limit = Quantity.parse(text, place)
    if limit.squared != (measure == "area"):
        wanted = f"{limit.unit}2" if measure == "area" else limit.unit
        raise SeverityError(f"{place}: {measure} is given in {wanted}, not in {text!r}.")
    return limit


# -------------------------------------------------------------------------------------------------------------- judging


def rate_severity(table: pd.DataFrame, limits: Sequence[SeverityLimits]) -> pd.Series:
    """Severity of each defect (ordered categories `LEVELS`): the worst that any limit gives it; low where none holds.

    A defect reaches a level when its measure is at the limit or above it (``edge_distance``: at it or below).
    """
    rank = np.zeros(len(table), dtype=int)
    types = table["defect_type"].to_numpy()
    special = [line.defect_type for line in limits if line.defect_type is not None]
    for line in limits:
        here = types == line.defect_type if line.defect_type is not None else ~np.isin(types, special)
        for level, limit in line.limits.items():
            values = limit.values_of(table, line.measure)
            reached = values <= limit.value if line.measure == "edge_distance" else values >= limit.value
            rank = np.where(here & reached, np.maximum(rank, LEVELS.index(level)), rank)
    return pd.Series(pd.Categorical.from_codes(rank, LEVELS, ordered=True), index=table.index, name="severity")


def check_rules(table: pd.DataFrame, rules: Sequence[Rule], image_paths: Sequence[str]) -> pd.DataFrame:
    """What each rule says of each of the photos: one without a defect keeps to every rule.

    ``measured`` is of the worst ``defect`` (0 and NaN where none is concerned), in the rule's unit; for ``at_most`` the
    number over the limit, whose unit is "".
    """
    values = [rule.limit.values_of(table, rule.measure) for rule in rules]
    types, owner = table["defect_type"].to_numpy(), table["image_path"].to_numpy()
    places = {path: np.flatnonzero(owner == path) for path in dict.fromkeys(owner)}
    rows = []
    for path in dict.fromkeys(image_paths):
        inside = places.get(path, np.zeros(0, dtype=int))
        for rule, measured in zip(rules, values, strict=True):
            chosen = inside if rule.defect_type is None else inside[types[inside] == rule.defect_type]
            rows.append({"image_path": path, **_judge(rule, table["defect"].to_numpy(), measured, chosen)})
    return pd.DataFrame(rows)


def _judge(rule: Rule, numbers: np.ndarray, values: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
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
    return found | {"defect": 0 if worst is None else int(numbers[worst])}


def verdicts(checked: pd.DataFrame) -> pd.DataFrame:
    """PASS or FAIL of each photo, n_failed (rules), and rule, measured, limit, unit and defect of the first that failed
    ("", NaN and 0 where none did).
    """
    columns, nothing = ["rule", "measured", "limit", "unit", "defect"], ("", math.nan, math.nan, "", 0)
    rows = []
    for path, group in checked.groupby("image_path", sort=False):
        failed = group[~group["passed"]]
        first = failed[columns].iloc[0] if len(failed) else nothing
        rows.append((path, FAIL if len(failed) else PASS, len(failed), *first))
    return pd.DataFrame(rows, columns=["image_path", "verdict", "n_failed", *columns])
