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

from helpers.analysis.detection_probability import size_words
from helpers.analysis.intervals import wilson_interval
from helpers.paths import write_whole
from helpers.thresholds import Threshold, describe, percent
from helpers.views.tables import POLICY, SORT, table_html

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
POINT_WORDS = {
    "acceptance": "few good photos are rejected (in use)",
    "best F1": "misses and false alarms are balanced",
    "zero misses": "no known defect is missed",
}
DIFFERENCE_WORDS = (
    "Two detectors are compared on the same photos. The dot is by how much the first ranks them better, the bar how "
    "far that may move with other photos (95 % interval). Where the bar reaches 0, the two are not told apart."
)
WEAK_WORDS = (
    "The same invented defects are drawn on good photos, weaker and weaker. The curve says how many of these photos "
    "are called abnormal; at 0 nothing is drawn, so that what is called abnormal there is a false alarm. It compares "
    "detectors and promises no rate for real defects."
)
COST_WORDS = "Quality against time per photo and training time, as measured on the machine that ran each detector."
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
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{POLICY}<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1><p>Made {made}.</p>\n{body}"
        f"<h2>Words</h2><dl>{words}</dl>\n<script>{SORT}</script></body></html>\n"
    )
    write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))
    return path


# ------------------------------------------------------------------------------------------------------------ sections


def leaderboard_section(leaderboard: pd.DataFrame, heading: str = "Which detector is best") -> Section:
    """The leaderboard with columns a reader knows, rates in percent.

    Args:
        leaderboard: from `helpers.analysis.metrics.leaderboard_row` or
            `helpers.studies.evaluation.overall_leaderboard`.
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


def summary_section(leaderboard: pd.DataFrame, model: str, differences: pd.DataFrame | None = None) -> Section:
    """In a few sentences: how one detector did at its threshold, and which others these photos tell it apart from.

    Args:
        leaderboard: from `helpers.analysis.metrics.leaderboard_row`, one row a detector.
        model: the detector looked at.
        differences: from `helpers.analysis.comparison.paired_differences` in ``image_auroc``; None: nothing is said.
    """
    row = leaderboard.set_index("model").loc[model]
    n, n_good, n_defect = len(leaderboard), int(row["n_test_normal"]), int(row["n_test_abnormal"])
    were = "detector was" if n == 1 else "detectors were"
    texts = [f"{n} {were} tested on the same {n_good} good and {n_defect} defect photos. {model} is looked at closely."]
    rates = (
        ("recall_at_threshold", f"finds {{}} of the {n_defect} photos with a defect"),
        ("false_alarm_at_threshold", f"raises a false alarm on {{}} of the {n_good} good ones"),
    )
    said = [words.format(percent(row[name])) for name, words in rates if not np.isnan(row[name])]
    if said:
        texts.append(f"At the threshold that was set before these photos were looked at, it {' and '.join(said)}.")
    if differences is not None:
        texts += _told_apart(model, differences)
    return Section("In short", texts)


def _told_apart(model: str, differences: pd.DataFrame) -> list[str]:
    """Sentences on the detectors that are better, worse, or not told apart."""
    names: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for row in differences.dropna(subset=["low", "high"]).itertuples():
        if model not in (row.model_a, row.model_b):
            continue
        sign = 1 if row.model_a == model else -1
        low, high = sorted((sign * row.low, sign * row.high))
        group = "worse" if low > 0 else "better" if high < 0 else "open"
        names[group].append(row.model_b if sign == 1 else row.model_a)
    sentences = {
        "worse": "It ranks photos better than {}.",
        "better": "Better than it at ranking photos: {}.",
        "open": "These photos do not tell it apart from {}: the difference may be chance.",
    }
    return [sentences[group].format(", ".join(found)) for group, found in names.items() if found]


def threshold_section(model: str, thresholds: Mapping[str, Threshold]) -> Section:
    """The thresholds of one detector in words: where they come from and what they promise."""
    names = {
        "image": "For the verdict on a photo",
        "pixel": "For marking pixels",
        "image_best_f1": "For comparison, not in use",
        "image_start": "The starting value, not in use",
        "pixel_best_dice": "For marking pixels, for comparison, not in use",
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
    defect, flagged = test["label_index"] == 1, pd.Series(threshold.exceeds(test["score"]), test.index)
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


def operating_points_section(points: pd.DataFrame) -> Section:
    """What other rules for the threshold would have led to, in counts.

    Args:
        points: from `helpers.analysis.comparison.operating_points`.
    """

    def share(count: object, n: int, rate: float) -> str:
        return "-" if pd.isna(rate) else f"{count} of {n} ({percent(rate)})"

    rows = [
        {
            "threshold is set so that": POINT_WORDS.get(row.point, row.point),
            "threshold": row.threshold,
            "defect photos found": share(row.found, row.n_test_abnormal, row.recall),
            "false alarms": share(row.false_alarms, row.n_test_normal, row.false_alarm),
            "remark": row.refused,
        }
        for row in points.itertuples()
    ]
    text = (
        "The first rule is the one in use. All three set the threshold on photos that are not among those tested here; "
        "the last two need photos with known defects for it."
    )
    return Section("What another threshold would lead to", (text, pd.DataFrame(rows)))


def sizes_section(pod: pd.DataFrame, parts: Sequence[Part] = ()) -> Section:
    """How small a defect each detector finds, or why that cannot be said.

    Args:
        pod: from `helpers.analysis.detection_probability.pod_table`; it may be empty.
        parts: such as figures, shown below.
    """
    rows = []
    for row in pod.itertuples():
        sizes = [size_words(size, row.unit) for size in (row.a50, row.a90, row.a90_95)]
        rows.append((row.model, row.n, row.n_hits, *sizes, row.refused or row.warning))
    columns = [
        "detector",
        "defects",
        "found",
        "half are found at",
        "9 of 10 at",
        "9 of 10, 95 % sure (a90/95)",
        "remark",
    ]
    text = (
        "A defect is found if any point of it is marked. For each detector the sizes at which half, and nine of ten, "
        "of the defects are found; a remark says where the test photos cannot tell, or what to beware of. Below, the "
        "share found by size."
    )
    return Section(
        "How small a defect is found", (text, *([pd.DataFrame(rows, columns=columns)] if rows else []), *parts)
    )


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
            parts.append(f"<p>{escape(part).replace(' %', '&nbsp;%')}</p>")
        elif isinstance(part, pd.DataFrame):
            parts.append(f"<div>{table_html(part)}</div>")
        else:
            parts.append(f'<img alt="{escape(section.heading)}" src="data:image/png;base64,{_encoded(part)}">')
    return f"<h2>{escape(section.heading)}</h2>\n" + "\n".join(parts) + "\n"


def _encoded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;line-height:1.5}"
    "div{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}"
    "th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #ddd}"
    "th{cursor:pointer}img{display:block;max-width:100%;margin:1rem 0}dt{font-weight:600}dd{margin:0 0 .5rem 1rem}"
)
