"""What can be wrong with a dataset: ``findings.csv`` has each code, its severity, the problem and the fix in words.

An ``error`` would make training or its numbers wrong and stops it. A ``warning`` is something that is handled or that a
person should know. ``info`` is for the record.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.paths import printable

SEVERITIES = ("error", "warning", "info")
FINDING_COLUMNS = ("code", "severity", "path", "problem", "fix")

with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    FINDINGS: dict[str, dict[str, str]] = {row.pop("kind"): row for row in csv.DictReader(_file)}
"""By code; after a colon stands a variant of the same code."""


class Findings:
    """Collects findings, rows of plain text; their paths are relative to the root and in one line."""

    def __init__(self, root: str | Path, findings: Iterable[Mapping[str, str]] = ()) -> None:
        self.root = Path(root)
        self.findings = [dict(row) for row in findings]

    def note(self, kind: str, path: str | Path = "", **facts: Any) -> None:
        """Add a finding of the table about a file, or about the dataset."""
        known = FINDINGS[kind]
        problem, fix = known["problem"].format(**facts), known["fix"].format(**facts)
        self._add(kind.partition(":")[0], known["severity"], path, problem, fix)

    def note_unread(self, path: str | Path, error: Any, before: str = "", after: str = "") -> None:
        """A file that cannot be read: `helpers.data.images.ImageReadError` says what is wrong with it."""
        self._add(error.code, "error", path, f"{before}{error.problem}{after}", error.fix)

    def _add(self, code: str, severity: str, path: str | Path, problem: str, fix: str) -> None:
        values = (code, severity, self.shown(path) if path else "", printable(problem), printable(fix))
        self.findings.append(dict(zip(FINDING_COLUMNS, values, strict=True)))

    def relative(self, path: str | Path) -> str:
        """Posix path below the root, "" for the root itself; the whole path of what lies elsewhere."""
        path = Path(path)
        if path == self.root:
            return ""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def shown(self, path: str | Path) -> str:
        """The relative path in one line."""
        return printable(self.relative(path)).translate({9: "\\x09", 10: "\\x0a"})

    def names(self, paths: Iterable[str | Path], remarks: Iterable[str] = (), limit: int = 5) -> str:
        """The first few, each with a remark where there are any."""
        texts, remarks = [self.shown(path) for path in paths], list(remarks)
        if remarks:
            texts = [f"{text} ({remark})" for text, remark in zip(texts, remarks, strict=True)]
        return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")

    def summary(self, limit: int = 5) -> str:
        """The first findings, one a line."""
        places = [f"{row['path']}: " if row["path"] else "" for row in self.findings]
        lines = [f"- {place}{row['problem']}; {row['fix']}." for place, row in zip(places, self.findings, strict=True)]
        return "\n".join(lines[:limit] + [f"- and {len(lines) - limit} more"] * (len(lines) > limit))

    def table(self) -> pd.DataFrame:
        """Errors first, then by path."""
        rows = {tuple(row[column] for column in FINDING_COLUMNS) for row in self.findings}
        ordered = sorted(rows, key=lambda row: (SEVERITIES.index(row[1]), row[2], row[0], row[3]))
        return pd.DataFrame(ordered, columns=list(FINDING_COLUMNS)).astype("str")
