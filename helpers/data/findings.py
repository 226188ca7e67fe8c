"""What can be wrong with a dataset: ``findings.csv`` has each code, its severity, the problem and the fix in words.

An ``error`` would make training or its numbers wrong and stops it. A ``warning`` is something that is handled or that a
person should know. ``info`` is for the record. Files that cannot be read have findings of their own:
those of `helpers.data.images.ImageReadError`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.data.images import ImageReadError
from helpers.data.samples import absolute_path
from helpers.paths import printable

SEVERITIES = ("error", "warning", "info")
FINDING_COLUMNS = ("code", "severity", "path", "problem", "fix")

with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    FINDINGS: dict[str, dict[str, str]] = {row.pop("kind"): row for row in csv.DictReader(_file)}
"""By code; after a colon stands a variant of the same code."""


class Findings:
    """Collects findings; paths are made relative to the root and printable."""

    def __init__(self, root: str | Path, noted: Iterable[Mapping[str, str]] = ()) -> None:
        self.root = absolute_path(root)
        self._rows = [tuple(row[column] for column in FINDING_COLUMNS) for row in noted]

    def add(self, kind: str, path: str = "", **facts: Any) -> None:
        row = FINDINGS[kind]
        problem, fix = row["problem"].format(**facts), row["fix"].format(**facts)
        self._note(kind.partition(":")[0], row["severity"], path, problem, fix)

    def unread(self, path: str, error: ImageReadError, what: str = "") -> None:
        """A file that cannot be read says itself what is wrong with it."""
        self._note(error.code, "error", path, what + error.problem, error.fix)

    def _note(self, code: str, severity: str, path: str, problem: str, fix: str) -> None:
        self._rows.append((code, severity, self.name(path), printable(problem), printable(fix)))

    def name(self, path: str) -> str:
        """The path in one line."""
        return printable(self.relative(path)).translate({9: "\\x09", 10: "\\x0a"}) if path else ""

    def relative(self, path: str) -> str:
        file = Path(path)
        return (file.relative_to(self.root) if file.is_relative_to(self.root) else file).as_posix()

    def names(self, paths: Iterable[str], remarks: Iterable[str] = (), limit: int = 5) -> str:
        """The first few, each with a remark where there are any."""
        texts, said = [self.name(path) for path in paths], list(remarks)
        shown = [f"{text} ({remark})" for text, remark in zip(texts, said, strict=True)] if said else texts
        more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
        return ", ".join(shown[:limit]) + more

    def table(self) -> pd.DataFrame:
        """Errors first, then by path."""
        rows = sorted(set(self._rows), key=lambda row: (SEVERITIES.index(row[1]), row[2], row[0], row[3]))
        return pd.DataFrame(rows, columns=list(FINDING_COLUMNS)).astype("str")
