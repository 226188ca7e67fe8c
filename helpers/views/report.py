"""A report that a quality engineer reads without Python: one HTML file, figures inside, every word explained.

Sections are made from tables and figures that a notebook has; :func:`write_report` puts them into one page that needs
no network and no other file. All text is escaped: names of photos and defect types are whatever their folders say.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from helpers.analysis.calibration import Threshold, describe, percent
from helpers.analysis.metrics import wilson_interval
from helpers.files import write_whole

Part = str | pd.DataFrame | Figure

LEADERBOARD_WORDS = {
    "dataset": "data set",
    "profile": "profile",
    "model": "detector",
    "scheme": "trained on",
    "n_test_normal": "good photos tested",
    "n_test_abnormal": "defect photos tested",
    "image_auroc": "ranking quality (AUROC)",
    "recall_at_threshold": "defect photos found",
    "false_alarm_at_threshold": "false alarms",
    "pixel_aupro": "outline quality (AUPRO)",
    "fit_seconds": "training (s)",
    "ms_per_image": "time per photo (ms)",
    "model_mb": "size (MB)",
}
SCHEME_WORDS = {"one_class": "good photos only", "supervised": "good and defect photos"}
GLOSSARY = {
    "Score": "A number the detector gives each photo. The higher, the more it differs from good parts.",
    "Threshold": "A photo with a score above it is called abnormal. It is fixed before the test photos are looked at.",
    "False alarm": "A good photo that is called abnormal.",
    "Missed": "A photo with a defect that is called normal.",
    "Ranking quality (AUROC)": "The chance that a defect photo gets a higher score than a good one: 1 is perfect, 0.5 "
    "is guessing. It does not depend on the threshold.",
    "Outline quality (AUPRO)": "How much of each defect region is marked, small ones counting as much as large ones, "
    "while few good pixels are: 1 is perfect.",
    "95 % interval": "Another set of test photos would give another number; in 95 of 100 cases such an interval holds "
    "the true one. Few photos make it wide.",
    "a90/95": "The defect size of which one can be 95 % confident that at least 90 of 100 such defects are found.",
}


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        heading: its title, plain text.
        parts: paragraphs (plain text), tables and figures, in the order they are shown. Columns of text in a table
            stay as they are; of numbers, at most four digits are shown.
    """

    heading: str
    parts: Sequence[Part] = field(default_factory=tuple)


def write_report(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write one HTML page; a click on a column's head sorts a table.

    Args:
        path: the file, ending in ``.html``.
        title: of the page.
        sections: in their order; a glossary follows them.

    Returns:
        The path.

    Raises:
        ValueError: for no section, or a path of another kind.
    """
    if path.suffix != ".html":
        raise ValueError(f"{path}: a report is an HTML file; let its name end in .html.")
    if not sections:
        raise ValueError("sections is empty: there is nothing to report.")
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in GLOSSARY.items())
    body = "".join(_section_html(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1><p>Made {made}.</p>\n{body}"
        f"<h2>Words</h2><dl>{words}</dl>\n<script>{_SORT}</script></body></html>\n"
    )
    write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))
    return path


def sortable_table(table: pd.DataFrame) -> str:
    """HTML of a table whose columns sort by a click, for a notebook: ``IPython.display.HTML(sortable_table(...))``."""
    return f"<div>{_table_html(table)}<script>{_SORT}</script></div>"


# ------------------------------------------------------------------------------------------------------------ sections


def leaderboard_section(leaderboard: pd.DataFrame, heading: str = "Which detector is best") -> Section:
    """The leaderboard with columns a reader knows, rates in percent.

    Args:
        leaderboard: from `helpers.analysis.metrics.leaderboard_row` or
            `helpers.analysis.comparison.overall_leaderboard`.
        heading: of the section.
    """
    table = leaderboard[[name for name in LEADERBOARD_WORDS if name in leaderboard]].copy()
    if "scheme" in table:
        table["scheme"] = table["scheme"].replace(SCHEME_WORDS)
    for name in ("recall_at_threshold", "false_alarm_at_threshold"):
        if name in table:
            table[name] = ["-" if np.isnan(value) else percent(value) for value in table[name]]
    text = (
        "Each row is one detector, tested on photos that it was neither trained nor adjusted on. Detectors of one data "
        "set are compared on the same photos. Those trained on defect photos had an advantage with the kinds of defect "
        "they have seen."
    )
    return Section(heading, (text, table.rename(columns=LEADERBOARD_WORDS)))


def threshold_section(model: str, thresholds: Mapping[str, Threshold]) -> Section:
    """The thresholds of one detector in words: where they come from and what they promise."""
    names = {
        "image": "For the verdict on a photo",
        "pixel": "For marking pixels",
        "image_best_f1": "For comparison, not in use",
    }
    texts = [f"{names.get(name, name)}: {describe(threshold)}" for name, threshold in thresholds.items()]
    return Section(f"Thresholds of {model}", texts)


def misses_section(model: str, test: pd.DataFrame, threshold: Threshold, figures: Sequence[Figure] = ()) -> Section:
    """What one detector misses and where it raises false alarms, in sentences and by type of defect.

    Args:
        model: its name.
        test: its predictions of the test photos: ``label_index``, ``defect_type``, ``score``.
        threshold: the stored one.
        figures: such as galleries, shown below.
    """
    defect, flagged = test["label_index"] == 1, test["score"].astype(float) > threshold.value
    n, missed = int(defect.sum()), int((defect & ~flagged).sum())
    n_good, alarms = int((~defect).sum()), int((~defect & flagged).sum())
    texts = [
        _rate_sentence(missed, n, "photos with a defect are missed"),
        _rate_sentence(alarms, n_good, "good photos raise a false alarm"),
    ]
    rows = []
    for name, found in flagged[defect].groupby(test["defect_type"][defect]):
        low, high = wilson_interval(float(found.mean()), len(found))
        rows.append((name, len(found), int(found.sum()), int((~found).sum()), percent(low), percent(high)))
    columns = ["type of defect", "photos", "found", "missed", "share found: from", "to (95 % interval)"]
    table = pd.DataFrame(rows, columns=columns).sort_values("missed", ascending=False)
    return Section(f"What {model} misses", [*texts, *([table] if rows else []), *figures])


def _rate_sentence(count: int, n: int, what: str) -> str:
    if n == 0:
        return f"No photo of this kind was tested, so it is unknown how many {what}."
    low, high = wilson_interval(count / n, n)
    return (
        f"{count} of {n} {what} ({percent(count / n)}). With this many photos tested the true share may lie anywhere "
        f"from {percent(low)} to {percent(high)} (95 % interval)."
    )


# ---------------------------------------------------------------------------------------------------------------- HTML


def _section_html(section: Section) -> str:
    parts = []
    for part in section.parts:
        if isinstance(part, str):
            parts.append(f"<p>{escape(part)}</p>")
        elif isinstance(part, pd.DataFrame):
            parts.append(f"<div>{_table_html(part)}</div>")
        else:
            parts.append(f'<img alt="{escape(section.heading)}" src="data:image/png;base64,{_encoded(part)}">')
    return f"<h2>{escape(section.heading)}</h2>\n" + "\n".join(parts) + "\n"


def _table_html(table: pd.DataFrame) -> str:
    formatters = {
        name: (lambda value: "-" if pd.isna(value) else f"{value:.4g}")
        for name in table.columns
        if pd.api.types.is_float_dtype(table[name])
    }
    # pandas escapes names and values
    return table.to_html(index=False, border=0, classes="sortable", formatters=formatters, na_rep="-")


def _encoded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;line-height:1.5}"
    "div{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
    "th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #ddd}"
    "th{cursor:pointer}img{max-width:100%}dt{font-weight:600}dd{margin:0 0 .5rem 1rem}"
)
# A click on a head sorts by that column, numbers as numbers, and turns the order round the next time.
_SORT = """document.querySelectorAll("table.sortable th").forEach(head => head.onclick = () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const key = row => row.cells[column].textContent.trim();
  const down = head.dataset.down = head.dataset.down === "1" ? "0" : "1";
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    return isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q;
  });
  if (down === "1") rows.reverse();
  rows.forEach(row => body.append(row));
});"""
