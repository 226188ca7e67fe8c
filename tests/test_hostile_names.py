"""Names of classes and files that are markup, script or formulas: shown as text; pages ask nobody and run nothing."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, REPOSITORY, visit
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers import pipeline
from helpers.views import gallery, plots, report, tables

NAMES = (
    HOSTILE,
    "<script>window.ran=1</script>",
    "</table><svg onload=window.ran=1>",
    r"$\frac{$ $x_{",
    "[link](javascript:window.ran=1)",
    "`${window.ran=1}`",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
)
MARKUP = re.compile("<(img|script|svg|link)", re.IGNORECASE)


@pytest.fixture(scope="module")
def names() -> pd.DataFrame:
    """A name in every place that a table has: a value, in a list, as a column, in the index and as the index's name."""
    table = pd.DataFrame({"name": NAMES, "listed": [[name] for name in NAMES], "path": [Path(name) for name in NAMES]})
    table["share"] = np.linspace(0, 1, len(NAMES))
    for name in NAMES:
        table[name] = 1
    return table.set_index(pd.MultiIndex.from_arrays([NAMES, range(len(NAMES))], names=[NAMES[0], None]))


def test_tables_are_text(names):
    for html in (
        tables.styled(names, index=True)._repr_html_(),
        tables.styled(names.T, index=True)._repr_html_(),
        tables.sortable_table(names.reset_index(drop=True), script=False),
        names._repr_html_(),
    ):
        assert not MARKUP.search(html)
    assert "0.3" in tables.styled(names, precision=1).to_html()


def test_notebooks_show_tables_by_way_of_the_one_helper():
    for file in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        code = "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code")
        shown = re.findall(r"\.style\.|to_html\(|Markdown\(|HTML\((?!sortable_table\()", code)
        assert not shown, f"{file.name}: {shown}; styled() and sortable_table() of helpers.views.tables escape names"


def test_pages_run_nothing_and_ask_nobody(browser, names, tmp_path):
    flat = names.reset_index(drop=True)
    shown = [tables.styled(names, index=True).to_html(), tables.sortable_table(flat), names._repr_html_()]
    script = {"application/javascript": "window.ran = 1", "text/plain": repr(NAMES)}
    outputs = [new_output("display_data", each) for each in [*({"text/html": html} for html in shown), script]]
    outputs.append(new_output("stream", text=repr(NAMES)))
    folder, name = tmp_path / "mesh <b>" / "quick", pipeline.SERIES[0].name
    (folder / "notebooks").mkdir(parents=True)
    badge = nbformat.v4.new_markdown_cell("[![Open](http://127.0.0.1:9/badge.svg)](http://127.0.0.1:9)")
    notebook = new_notebook(cells=[badge, new_code_cell("1", outputs=outputs)])
    nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    pd.DataFrame({"model": NAMES, NAMES[0]: 1}).to_csv(folder / "leaderboard.csv", index=False)
    index = report.write_index(folder, {})
    for page in (index, index.with_name(f"{name}.html")):
        text = visit(browser, page)
        assert all(one in text for one in NAMES)
    text = visit(browser, report.write_report(tmp_path / "report.html", NAMES[0], {NAMES[1]: [NAMES[2], flat]}))
    assert all(one in text for one in NAMES)


def test_a_policy_stops_what_is_not_escaped(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html><head>{tables.POLICY}</head><body>{''.join(NAMES)}</body></html>")
    visit(browser, page)


def test_tables_of_a_page_sort_by_a_click(browser, tmp_path):
    table = pd.DataFrame({"n": [10, 9, 100]})
    file = report.write_report(tmp_path / "report.html", "x", {"y": [table]})
    page = browser.new_page()
    page.goto(file.as_uri())
    page.click("th")
    assert page.locator("td").all_inner_texts() == ["100", "10", "9"]
    page.close()


def test_figures_take_names_for_names():
    n = len(NAMES)
    photos, maps, masks = [np.zeros((8, 8, 3), np.uint8)] * n, [np.zeros((8, 8), np.float32)] * n, [None] * n
    counts = pd.DataFrame([range(1, n + 1)], index=[NAMES[3]], columns=NAMES)
    for drawn in (
        gallery.gallery(photos, NAMES),
        plots.stacked_bars(counts),
        plots.grouped_histogram(np.arange(n), NAMES, threshold=3.0, yscale="log"),
        gallery.map_gallery(photos, maps, masks, NAMES, 0.5, heading=NAMES[3], note=NAMES[3]),
        plots.confusion_figure(pd.DataFrame(np.eye(n, dtype=int), NAMES, NAMES), title=NAMES[3]),
    ):
        assert drawn._repr_png_()
