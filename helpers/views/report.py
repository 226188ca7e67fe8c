"""Pages to read without Python: the report of a quality engineer, every word explained, and the executed notebooks.

Pages need no network and no other file. All text is escaped: names of photos and types are whatever their folders say.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from helpers.analysis.intervals import share_interval
from helpers.paths import read_csv, write_whole
from helpers.thresholds import Threshold, percent
from helpers.views.tables import POLICY, page_html, table_html

Part = str | pd.DataFrame | Figure  # a paragraph (plain text), a table, a figure

THRESHOLD_WORDS = {
    "image": "For the verdict on a photo",
    "pixel": "For marking pixels",
    "image_best_f1": "For comparison, not in use",
    "image_start": "The starting value, not in use",
    "pixel_best_dice": "For marking pixels, for comparison, not in use",
}
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
# nbconvert's page without what it fetches from other servers: require.js, MathJax, mermaid, widgets, the Colab badge.
_NOTEBOOK = (
    "{%- extends 'lab/index.html.j2' -%}"
    f"{{%- block html_head_js -%}}{POLICY}{{%- endblock -%}}"
    "{%- block html_head_css -%}<style>img[src^='http'] { display: none; }</style>{%- endblock -%}"
    + "".join(
        f"{{%- block {name} -%}}{{%- endblock -%}}"
        for name in ("html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
    )
    + "".join(f"{{%- block {name} scoped -%}}{{%- endblock -%}}" for name in ("data_widget_view", "data_javascript"))
)


def write_report(path: Path, title: str, sections: Mapping[str, Sequence[Part]]) -> Path:
    """Write one HTML page of sections (heading -> parts) and the glossary; a click on a column's head sorts a table."""
    made = datetime.now(UTC).strftime("Made %Y-%m-%d %H:%M UTC")
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in GLOSSARY.items())
    parts = [f"<p>{made}</p>"]
    for heading, content in sections.items():
        parts += [f"<h2>{escape(heading)}</h2>", *(_part_html(part, heading) for part in content)]
    page = page_html(title, "\n".join([*parts, f"<h2>Words</h2><dl>{words}</dl>"]))
    write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))
    return path


def _part_html(part: Part, heading: str) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part).replace(' %', '&nbsp;%')}</p>"
    if isinstance(part, pd.DataFrame):
        return f"<div>{table_html(part)}</div>"
    buffer = io.BytesIO()
    part.savefig(buffer, format="png", dpi=110)
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(heading)}" src="data:image/png;base64,{picture}">'


def summary(leaderboard: pd.DataFrame, model: str, differences: pd.DataFrame | None = None) -> list[str]:
    """In a few sentences: how one detector did at its threshold, and which others these photos tell it apart from."""
    row = leaderboard.set_index("model").loc[model]
    n, n_good, n_defect = len(leaderboard), int(row["n_test_normal"]), int(row["n_test_abnormal"])
    were = "detector was" if n == 1 else "detectors were"
    texts = [f"{n} {were} tested on the same {n_good} good and {n_defect} defect photos. {model} is looked at closely."]
    rates = (
        ("recall_at_threshold", f"finds {{}} of the {n_defect} photos with a defect"),
        ("false_alarm_at_threshold", f"raises a false alarm on {{}} of the {n_good} good ones"),
    )
    known = [words.format(percent(row[name])) for name, words in rates if pd.notna(row[name])]
    if known:
        texts.append(f"At the threshold that was set before these photos were looked at, it {' and '.join(known)}.")
    sentences = {
        "worse": "It ranks photos better than {}.",
        "better": "Better than it at ranking photos: {}.",
        "open": "These photos do not tell it apart from {}: the difference may be chance.",
    }
    others: dict[str, list[str]] = {group: [] for group in sentences}
    for pair in () if differences is None else differences.dropna(subset=["low", "high"]).itertuples():
        if model in (pair.model_a, pair.model_b):
            sign, other = (1, pair.model_b) if pair.model_a == model else (-1, pair.model_a)
            low, high = sorted((sign * pair.low, sign * pair.high))
            others["worse" if low > 0 else "better" if high < 0 else "open"].append(other)
    return texts + [sentences[group].format(", ".join(names)) for group, names in others.items() if names]


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
    exporter = HTMLExporter(raw_template=_NOTEBOOK, exclude_input_prompt=True, exclude_output_prompt=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": executed.stem}})
    return page


def write_index(folder: Path, seconds: Mapping[str, float]) -> Path:
    """Executed notebooks of an artifacts folder as pages in ``report/``, with an index that says how long they took."""
    report, items = folder / "report", []
    report.mkdir(parents=True, exist_ok=True)
    for executed in sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        (report / f"{executed.stem}.html").write_text(notebook_html(executed), encoding="utf-8")
        took = f", {seconds[executed.stem]:.0f} s" if executed.stem in seconds else ""
        items.append(f'<li><a href="{executed.stem}.html">{escape(executed.stem)}</a>{took}</li>')
    leaderboard = folder / "leaderboard.csv"
    table = table_html(read_csv(leaderboard)) if leaderboard.is_file() else ""
    body = f"<div>{table}</div><h2>Executed notebooks</h2><ol>{''.join(items)}</ol>"
    page = page_html(f"{folder.parent.name}, profile {folder.name}", body)
    (report / "index.html").write_text(page, encoding="utf-8")
    return report / "index.html"
