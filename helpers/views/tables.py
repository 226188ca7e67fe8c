"""Tables and pages to read. Names in them are a stranger's (of files, classes, types): text, never markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pandas.io.formats.style import Styler

TEMPLATES = Path(__file__).parent / "templates"
_SORT = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
# A page with this in its head asks nobody for anything, and runs no script but that one.
POLICY = Markup(
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; media-src data:; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SORT.encode()).digest()).decode()}'\">"
)
# The templates: what they are given is text, unless it is Markup.
PAGES = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
PAGES.globals |= {"policy": POLICY, "sort": Markup(_SORT)}


def styled(
    table: pd.DataFrame, *, index: bool = False, precision: int = 3, formats: Mapping[str, str | Callable] | None = None
) -> Styler:
    """A table for a notebook, all text escaped: names of rows and columns occur once, ``formats`` is by column."""
    texts = table.map(lambda value: value if pd.api.types.is_scalar(value) else str(value))
    style = texts.style.format(formats, precision=precision, na_rep="-", escape="html")
    for axis in (0, 1):
        style.format_index(lambda name: escape(str(name)), axis=axis).format_index_names(escape="html", axis=axis)
    return style if index else style.hide(axis="index")


def sortable_table(table: pd.DataFrame, script: bool = True) -> Markup:
    """HTML of a table whose columns sort by a click, all text escaped; a `page` has the script for it already."""
    floats = table.select_dtypes("floating").columns
    digits = dict.fromkeys(floats, lambda value: "-" if pd.isna(value) else f"{value:.4g}")
    with pd.option_context("display.max_colwidth", None):
        text = table.to_html(index=False, border=0, classes="sortable", formatters=digits, na_rep="-")
    return Markup(f"<div>{text}{f'<script>{_SORT}</script>' if script else ''}</div>")
