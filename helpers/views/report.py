"""Pages to read without Python: the report of a quality engineer, every word explained, and the executed notebooks.

Pages need no network and no other file. All text is escaped: names of photos and types are whatever their folders say.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from helpers.analysis.intervals import share_interval
from helpers.paths import read_csv, write_whole
from helpers.thresholds import Threshold, percent
from helpers.views.tables import PAGES, POLICY, TEMPLATES, sortable_table

Part = str | pd.DataFrame | Figure  # a paragraph (plain text), a table, a figure


def write_report(path: Path, title: str, sections: Mapping[str, Sequence[Part]]) -> Path:
    """Write one HTML page of sections (heading -> parts) and a glossary; a click on a column's head sorts a table."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    shown = {heading: [_part_html(part, heading) for part in parts] for heading, parts in sections.items()}
    text = PAGES.get_template("report.html.j2").render(title=title, made=made, sections=shown)
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
    return path


def _part_html(part: Part, heading: str) -> Markup:
    if isinstance(part, str):
        return Markup("<p>{}</p>").format(part.replace(" %", "\N{NO-BREAK SPACE}%"))
    if isinstance(part, pd.DataFrame):
        return sortable_table(part, script=False)
    buffer = io.BytesIO()
    part.savefig(buffer, format="png", dpi=110)
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(heading, picture)


def summary(leaderboard: pd.DataFrame, model: str, differences: pd.DataFrame | None = None) -> list[str]:
    """In a few sentences: how one detector did at its threshold, and which others these photos tell it apart from."""
    row = leaderboard.set_index("model").loc[model]
    n, n_good, n_defect = len(leaderboard), int(row["n_test_normal"]), int(row["n_test_abnormal"])
    tested = "detector was" if n == 1 else "detectors were"
    rates = row[["recall_at_threshold", "false_alarm_at_threshold"]]
    found, alarms = ("an unknown share" if pd.isna(rate) else percent(rate) for rate in rates)
    texts = [
        f"{n} {tested} tested on the same {n_good} good and {n_defect} defect photos. {model} is looked at closely.",
        f"At the threshold that was set before these photos were looked at, it finds {found} of the {n_defect} photos "
        f"with a defect and raises a false alarm on {alarms} of the {n_good} good ones.",
    ]
    others: dict[str, list[str]] = {
        "It ranks photos better than {}.": [],
        "Better than it at ranking photos: {}.": [],
        "These photos do not tell it apart from {}: the difference may be chance.": [],
    }
    better, worse, open_ = others.values()
    for pair in () if differences is None else differences.dropna(subset=["low", "high"]).itertuples():
        if pair.model_a == model:
            (better if pair.low > 0 else worse if pair.high < 0 else open_).append(pair.model_b)
        elif pair.model_b == model:
            (worse if pair.low > 0 else better if pair.high < 0 else open_).append(pair.model_a)
    return texts + [words.format(", ".join(names)) for words, names in others.items() if names]


def misses(test: pd.DataFrame, threshold: Threshold) -> list[Part]:
    """What is missed and where false alarms are raised, in sentences and by type of defect."""
    defect, flagged = test["label_index"] == 1, pd.Series(threshold.exceeds(test["score"]), test.index)
    parts: list[Part] = []
    for hits, what in (
        (~flagged[defect], "photos with a defect are missed"),
        (flagged[~defect], "good photos raise a false alarm"),
    ):
        if hits.empty:
            parts.append(f"No photo of this kind was tested, so it is unknown how many {what}.")
            continue
        share, low, high = map(percent, share_interval(hits))
        parts.append(
            f"{hits.sum()} of {len(hits)} {what} ({share}). With this many photos tested the true share may lie "
            f"anywhere from {low} to {high} (95 % interval)."
        )
    rows = []
    for name, found in flagged[defect].groupby(test["defect_type"][defect]):
        _, low, high = map(percent, share_interval(found))
        rows.append((name, len(found), int(found.sum()), int((~found).sum()), low, high))
    columns = ["type of defect", "photos", "found", "missed", "share found: from", "to (95 % interval)"]
    return parts + ([pd.DataFrame(rows, columns=columns).sort_values("missed", ascending=False)] if rows else [])


def notebook_html(executed: Path) -> str:
    """An executed notebook as one HTML page that needs no network; widgets, which need a kernel, are left out."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("widgets", None)
    template = (TEMPLATES / "notebook.html.j2").read_text(encoding="utf-8")
    exporter = HTMLExporter(raw_template=template, exclude_input_prompt=True, exclude_output_prompt=True)
    resources = {"metadata": {"name": executed.stem}, "policy": POLICY}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def write_index(folder: Path, seconds: Mapping[str, float]) -> Path:
    """Executed notebooks of an artifacts folder as pages in ``report/``, with an index that says how long they took."""
    report, notebooks = folder / "report", {}
    report.mkdir(parents=True, exist_ok=True)
    for executed in sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        (report / f"{executed.stem}.html").write_text(notebook_html(executed), encoding="utf-8")
        notebooks[executed.stem] = f", {seconds[executed.stem]:.0f} s" if executed.stem in seconds else ""
    leaderboard = folder / "leaderboard.csv"
    table = sortable_table(read_csv(leaderboard), script=False) if leaderboard.is_file() else ""
    title = f"{folder.parent.name}, profile {folder.name}"
    index = PAGES.get_template("index.html.j2").render(title=title, leaderboard=table, notebooks=notebooks)
    (report / "index.html").write_text(index, encoding="utf-8")
    return report / "index.html"
