"""The notebooks as files: one shape for all, parameters that are used, nothing left of a run. They are not run here."""

from __future__ import annotations

import ast
import builtins
import io
import re
import shutil
import subprocess
import tokenize
import tomllib
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY
from nbformat import NotebookNode

from helpers import pipeline
from helpers.session import declared_parameters

FILES = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
MOST_LINES = 20
MOST_CODE_CELLS_IN_A_ROW = 4
COLAB = "https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}.ipynb"


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request) -> Path:
    return request.param


def as_in_git(file: Path) -> str:
    """What git has, staged or committed: in the working tree people run notebooks and save them, and that is theirs."""
    if shutil.which("git"):
        command = ["git", "show", f":./{file.name}"]
        shown = subprocess.run(command, cwd=file.parent, capture_output=True, check=False, encoding="utf-8")
        if shown.returncode == 0:
            return shown.stdout
    return file.read_text(encoding="utf-8")  # no repository


@pytest.fixture
def notebook(file) -> NotebookNode:
    return nbformat.reads(as_in_git(file), as_version=4)


def slug() -> str:
    """``owner/name`` of the repository, as pyproject.toml has it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)/?", project["urls"]["Repository"]).group(1)


def parameter_cells(notebook: NotebookNode) -> list[int]:
    return [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]


def code_after_parameters(notebook: NotebookNode) -> list[NotebookNode]:
    (index,) = parameter_cells(notebook)
    return [cell for cell in notebook.cells[index + 1 :] if cell.cell_type == "code"]


def declared(notebook: NotebookNode) -> list[ast.AnnAssign]:
    (index,) = parameter_cells(notebook)
    return ast.parse(notebook.cells[index].source).body


def test_there_are_notebooks_and_the_series_is_all_of_them():
    assert {node.name for node in pipeline.SERIES} <= {file.stem for file in FILES}
    numbers = [file.name[:2] for file in FILES]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", file.stem) for file in FILES)


def test_is_valid(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata


def test_nothing_is_left_of_a_run(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert "execution" not in cell.metadata
            assert "papermill" not in cell.metadata


def test_begins_with_title_badge_question_and_what_it_reads_and_writes(notebook, file):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title, *rest = first.source.splitlines()
    assert re.match(rf"# {file.stem[:2]} . \w", title)
    text = "\n".join(rest)
    assert re.search(r"colab-badge\.svg\)\]\(([^)]*)\)", text).group(1) == COLAB.format(slug=slug(), name=file.stem)
    assert re.search(r"\*\*[^*]+\?\*\*", text), "the question it answers"
    for row in ("| Reads |", "| Writes |", "| Takes |"):
        assert row in text


def test_names_one_repository_only(notebook):
    for cell in notebook.cells:
        for found in re.findall(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w-]+)", cell.source):
            assert found == slug()


def test_readme_names_the_same_repository_and_every_notebook():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    badges = re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w-]+)/blob/main/([\w/.]+)", text)
    for owner, path in badges:
        assert owner == slug()
        assert (REPOSITORY / path).is_file()
    for clone in re.findall(r"git clone https://github\.com/([\w.-]+/[\w-]+)", text):
        assert clone == slug()
    for file in FILES:
        assert file.stem in text


def test_colab_cell_does_nothing_anywhere_else(notebook):
    cell = notebook.cells[1]
    assert cell.cell_type == "code"
    imported, guarded = ast.parse(cell.source).body
    assert ast.unparse(imported) == "import os"
    assert isinstance(guarded, ast.If)
    assert ast.unparse(guarded.test) == "'COLAB_RELEASE_TAG' in os.environ"
    assert not guarded.orelse
    assert f"https://github.com/{slug()}" in cell.source
    assert "requirements.lock" in cell.source


def test_parameters_are_annotated_literals_with_a_comment(notebook):
    (index,) = parameter_cells(notebook)
    assert index <= 4, "near the top"
    source = notebook.cells[index].source
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    statements = ast.parse(source).body
    assert statements
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        name = statement.target.id
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name)
        value = ast.literal_eval(statement.value)
        declared_type = getattr(builtins, ast.unparse(statement.annotation).split("[")[0])
        assert type(value) is declared_type, name
        assert len(comments.get(statement.end_lineno, "")) >= 5, f"{name} has no comment"
    assert len({statement.target.id for statement in statements}) == len(statements)


def test_papermill_reads_every_parameter(notebook, file):
    names = {statement.target.id for statement in declared(notebook)}
    assert set(declared_parameters(file)) == names
    assert {"DATASET", "NAME", "PROFILE", "ARTIFACTS"} <= names


def test_every_parameter_is_used_and_none_is_changed_later(notebook):
    cells = code_after_parameters(notebook)
    names = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
    parameters = {statement.target.id for statement in declared(notebook)}
    assert not parameters - {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert not parameters & {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_parameters_of_one_name_mean_one_thing():
    """The same literal in every notebook: run one by one by hand, they find each other's results.

    IMAGE_SIZE is apart: what trains by gradient sees smaller photos in the profile quick.
    """
    values: dict[str, set[str]] = {}
    for file in FILES:
        for statement in declared(nbformat.reads(as_in_git(file), as_version=4)):
            values.setdefault(statement.target.id, set()).add(ast.unparse(statement.value))
    assert {name for name, found in values.items() if len(found) > 1} <= {"IMAGE_SIZE"}


def test_session_has_the_name_of_the_notebook(notebook, file):
    names = [
        node.args[0].value
        for cell in code_after_parameters(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Session"
    ]
    assert names == [file.stem]
    first = code_after_parameters(notebook)[0].source
    assert "Session(" in first and "check_" in first, "parameters are checked first"


def test_code_is_plain_python_in_short_cells(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)  # a magic or a shell line would be no Python
            assert cell.source.strip()
            lines = [
                line for line in cell.source.splitlines() if line.strip() and not line.startswith(("from ", "import "))
            ]
            assert len(lines) <= MOST_LINES or "parameters" in cell.metadata.get("tags", []), cell.source
            assert "get_ipython" not in cell.source
            assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body), "into the package"


def test_no_path_from_the_current_directory_and_no_hidden_download(notebook):
    for cell in notebook.cells[2:]:
        if cell.cell_type == "code":
            for word in ("os.getcwd", "Path.cwd", "os.chdir", "sys.path", "plt.show", "subprocess", "urlretrieve"):
                assert word not in cell.source


def test_prose_comes_before_code(notebook):
    after = notebook.cells[parameter_cells(notebook)[0] + 2 :]
    assert after[0].cell_type == "markdown"
    in_a_row = 0
    for cell in after:
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        assert in_a_row <= MOST_CODE_CELLS_IN_A_ROW, cell.source


def test_headings_are_of_second_level_after_the_title(notebook):
    headings = [
        line
        for cell in notebook.cells[1:]
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    assert headings
    assert all(line.startswith("## ") for line in headings)
    assert len(set(headings)) == len(headings)


def test_ends_with_a_check_a_record_and_a_recap(notebook):
    assert any(
        isinstance(node, ast.Assert) for cell in code_after_parameters(notebook) for node in ast.parse(cell.source).body
    )
    assert "session.record(" in code_after_parameters(notebook)[-1].source
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Recap")
    assert notebook.cells[-2].cell_type == "code"


def test_links_to_other_notebooks_lead_somewhere(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([\w./-]+\.ipynb)\)", cell.source):
                assert (REPOSITORY / "notebooks" / target).is_file(), target
