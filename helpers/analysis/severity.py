"""Is a defect severe, and does a part pass? Limits of severity and a drawing's rules, over the table of defects.

``notebooks/params/sizes`` has an example of each YAML file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
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
FOLDER = PROJECT_ROOT / "notebooks" / "params" / "sizes"
# what a file holds -> the example's name, and the limits that a line may have
KINDS = {"severity": ("severity", LEVELS[1:]), "rules": ("drawing", ("max", "min", "over"))}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-z]+)(2|²)?\s*")


@dataclass(frozen=True)
class Limit:
    """A limit on a measure: from where a defect is medium, high or critical, or a drawing's max, min, or over.

    ``unit``: px, mm, cm or inch, of an area its square. ``at_most``: so many defects may lie ``over`` it.
    ``defect_type``: the type it holds for; "": all (of severity: all that have no limits of their own).
    """

    measure: str
    kind: str
    value: float
    unit: str
    at_most: int = 0
    defect_type: str = ""

    def values_of(self, table: pd.DataFrame) -> np.ndarray:
        """The measure of each defect (N,) in this unit."""
        if self.unit == "px":
            return table[f"{self.measure}_px"].to_numpy(dtype=float)
        if "px" in set(table["unit"]):
            raise ValueError(
                f"A limit in {self.unit} needs sizes in a unit of length, and the table is in px: measure with "
                f"pixel_size=... and unit={self.unit!r}, or give the limit in px."
            )
        factors = table["unit"].map(MM_PER_UNIT).to_numpy(dtype=float) / MM_PER_UNIT[self.unit]
        values = table[self.measure].to_numpy(dtype=float) * factors ** (2 if self.measure == "area" else 1)
        return np.round(values, 9)  # three pixels of 0.1 mm are no more than 0.3 mm

    @property
    def unit_words(self) -> str:
        return f"{self.unit}{'²' if self.measure == 'area' else ''}"

    def __str__(self) -> str:
        what, limit = self.measure.replace("_", " "), f"{self.value:g} {self.unit_words}"
        no = f"at most {self.at_most} of" if self.kind == "over" else "no"
        return f"{no} {self.defect_type or 'defect'} with {what} {'below' if self.kind == 'min' else 'over'} {limit}"


def shapes(table: pd.DataFrame) -> list[str]:
    """``scratch`` for each defect that is at least three times as long as wide, else ``spot``."""
    return np.where(table["length"] >= ELONGATION * table["width"], LONG, COMPACT).tolist()


def read_limits(what: str, unit: str, file: str | Path = "") -> list[Limit]:
    """Limits of ``severity`` or a drawing's ``rules`` from a YAML file; without one the example for the unit."""
    example = FOLDER / f"{KINDS[what][0]}{'_px' if unit == 'px' else ''}.yml"
    path = project_path(file) if file else example
    try:
        content = read_yaml(path)
        lines = content.get(what) if isinstance(content, dict) and set(content) == {what} else None
        if not isinstance(lines, list) or not lines:
            raise ValueError(f"{path}: expected one list called {what}, of at least one line, and nothing else.")
        read = [_limits(line, what, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
        return [limit for of_line in read for limit in of_line]
    except ValueError as error:
        raise ValueError(f"{error} {example} is an example.") from error


def parse_size(text: object, where: str) -> tuple[float, str, bool]:
    """Value, unit and whether it is an area, of "2 mm", "0.5 mm2" or "0.5 mm²"; ``where`` stands in the error."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in UNITS:
        known = ", ".join(UNITS)
        raise ValueError(f"{where}: {text!r} is no size with a unit like 2 mm, or 0.5 mm2 of an area (units: {known}).")
    return float(match[1]), match[2], bool(match[3])


def _limits(line: Any, what: str, place: str) -> list[Limit]:
    kinds, rules = KINDS[what][1], what == "rules"
    if not isinstance(line, dict) or line.get("measure") not in MEASURES:
        raise ValueError(f"{place}: {line!r} must have a measure: {', '.join(MEASURES)}.")
    given = [kind for kind in kinds if kind in line]
    known = {"measure", "type", *kinds} | ({"at_most"} if "over" in given else set())
    if not set(line) <= known or not given or (rules and len(given) > 1):
        raise ValueError(f"{place}: beside measure and type give {'one' if rules else 'some'} of {', '.join(kinds)}.")
    kind, count = line.get("type", "defect"), line.get("at_most", None if "over" in given else 0)
    if not isinstance(kind, str) or not kind or type(count) is not int or count < 0:
        raise ValueError(f"{place}: type must be a name, and over comes with at_most, a whole number from 0 on.")
    measure, limits = line["measure"], []
    for name in given:
        value, unit, squared = parse_size(line[name], f"{place}, {name}")
        if squared != (measure == "area"):
            raise ValueError(f"{place}, {name}: {line[name]!r} must be {'a length' if squared else 'an area'}.")
        limits.append(Limit(measure, name, value, unit, count, line.get("type", "")))
    values, falling = [limit.value for limit in limits], measure == "edge_distance"
    if len({limit.unit for limit in limits}) > 1 or values != sorted(set(values), reverse=falling):
        order = "fall" if falling else "rise"
        raise ValueError(f"{place}: the limits must have one unit and {order} from medium to critical.")
    return limits


def rate_severity(table: pd.DataFrame, limits: Sequence[Limit]) -> pd.Series:
    """Severity of each defect (ordered categories `LEVELS`): the worst that any limit gives it; low where none holds.

    A defect reaches a level when its measure is at the limit or above it (``edge_distance``: at it or below).
    """
    rank, types = np.zeros(len(table), dtype=int), table["defect_type"].to_numpy()
    special = [limit.defect_type for limit in limits if limit.defect_type]
    for limit in limits:
        here = types == limit.defect_type if limit.defect_type else ~np.isin(types, special)
        values = limit.values_of(table)
        reached = values <= limit.value if limit.measure == "edge_distance" else values >= limit.value
        rank = np.where(here & reached, np.maximum(rank, LEVELS.index(limit.kind)), rank)
    return pd.Series(pd.Categorical.from_codes(rank, LEVELS, ordered=True), index=table.index, name="severity")


def check_rules(table: pd.DataFrame, rules: Sequence[Limit], image_paths: Sequence[str]) -> pd.DataFrame:
    """What each rule says of each of the photos: one without a defect keeps to every rule.

    ``measured`` is of the worst ``defect`` (0 and NaN where none is concerned), in the rule's unit; for ``over`` the
    number over the limit, whose unit is "".
    """
    values, inside = [rule.values_of(table) for rule in rules], table.groupby("image_path").indices
    types, numbers, rows = table["defect_type"].to_numpy(), table["defect"].to_numpy(), []
    for path in dict.fromkeys(image_paths):
        for rule, measured in zip(rules, values, strict=True):
            chosen = [row for row in inside.get(path, []) if rule.defect_type in ("", types[row])]
            row = {"image_path": path, "rule": str(rule), "passed": True, "measured": math.nan, "limit": rule.value}
            row |= {"unit": rule.unit_words, "defect": 0}
            if chosen:
                worst = (min if rule.kind == "min" else max)(chosen, key=measured.__getitem__)
                passed = measured[worst] >= rule.value if rule.kind == "min" else measured[worst] <= rule.value
                row |= {"passed": bool(passed), "measured": float(measured[worst]), "defect": int(numbers[worst])}
            if rule.kind == "over":
                count = int((measured[chosen] > rule.value).sum())
                row |= {"passed": count <= rule.at_most, "measured": float(count), "limit": rule.at_most, "unit": ""}
            rows.append(row)
    return pd.DataFrame(rows).astype({"limit": float})


def verdicts(checked: pd.DataFrame) -> pd.DataFrame:
    """PASS or FAIL of each photo, n_failed (rules), and rule, measured, limit, unit and defect of the first that failed
    ("", NaN and 0 where none did).
    """
    failed = ~checked["passed"]
    first = checked[failed].drop_duplicates("image_path").set_index("image_path").drop(columns="passed")
    table = failed.groupby(checked["image_path"], sort=False).sum().rename("n_failed").to_frame().join(first)
    table = table.fillna({"rule": "", "unit": "", "defect": 0}).astype({"defect": int}).reset_index()
    table.insert(1, "verdict", np.where(table["n_failed"] > 0, FAIL, PASS))
    return table
