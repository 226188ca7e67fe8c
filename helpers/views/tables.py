"""Tables and pages to read. Names in them are a stranger's (of files, classes, types): text, never markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from helpers.paths import read_csv

# A click on a head sorts by that column, numbers as numbers, and turns the order round the next time.
SORT = """document.querySelectorAll("table.sortable th").forEach(head => head.onclick = () => {
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

# A page with this in its head asks nobody for anything, and runs no script but the one above.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; media-src data:; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()}'\">"
)

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


def styled(
    table: pd.DataFrame, *, index: bool = False, precision: int = 3, formats: Mapping[str, str | Callable] | None = None
) -> Styler:
    """A table for a notebook, all text escaped: names of rows and columns occur once, ``formats`` is by column."""
    texts = table.map(lambda value: value if pd.api.types.is_scalar(value) else str(value))
    style = texts.style.format(formats, precision=precision, na_rep="-", escape="html")
    for axis in (0, 1):
        style.format_index(lambda name: escape(str(name)), axis=axis).format_index_names(escape="html", axis=axis)
    return style if index else style.hide(axis="index")


def sortable_table(table: pd.DataFrame) -> str:
    """HTML of a table whose columns sort by a click, for a notebook: ``IPython.display.HTML(sortable_table(...))``."""
    return f"<div>{table_html(table)}<script>{SORT}</script></div>"


def table_html(table: pd.DataFrame) -> str:
    """HTML of a table, all text escaped; a page that has `SORT` at its end sorts it by a click."""
    four_digits = {
        name: (lambda value: "-" if pd.isna(value) else f"{value:.4g}")
        for name in table.select_dtypes("floating").columns
    }
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(index=False, border=0, classes="sortable", formatters=four_digits, na_rep="-")


def notebook_html(executed: Path) -> str:
    """An executed notebook as one HTML page that needs no network; widgets, which need a kernel, are left out."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(raw_template=_NOTEBOOK, exclude_input_prompt=True, exclude_output_prompt=True)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": executed.stem}})
    return page


_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}<title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;line-height:1.5}}
div{{overflow-x:auto}} table{{border-collapse:collapse;font-size:.85rem}} th,td{{padding:.3rem .6rem;text-align:right;
border-bottom:1px solid #ddd;white-space:nowrap}}</style></head>
<body><h1>{title}</h1><div>{table}</div><h2>Executed notebooks</h2><ol>{items}</ol></body></html>
"""


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
    title = escape(f"{folder.parent.name}, profile {folder.name}")
    page = _INDEX.format(policy=POLICY, title=title, table=table, items="\n".join(items))
    (report / "index.html").write_text(page, encoding="utf-8")
    return report / "index.html"
