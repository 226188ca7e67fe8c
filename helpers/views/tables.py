"""Tables and pages to read. Names in them are a stranger's (of files, classes, types): text, never markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from html import escape

import pandas as pd
from pandas.io.formats.style import Styler

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

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">{policy}<title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;line-height:1.5}}
div{{overflow-x:auto}}table{{border-collapse:collapse;font-size:.9rem}}th{{cursor:pointer}}dt{{font-weight:600}}
th,td{{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #ddd}}img{{display:block;max-width:100%}}
dd{{margin:0 0 .5rem 1rem}}</style></head>
<body><h1>{title}</h1>{body}<script>{sort}</script></body></html>
"""


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


def page_html(title: str, body: str) -> str:
    """A whole page that needs no network: the title is text, the body HTML; its tables sort by a click."""
    return _PAGE.format(policy=POLICY, sort=SORT, title=escape(title), body=body)
