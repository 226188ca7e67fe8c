"""The notebooks as files: one shape for all, parameters that are used, nothing left of a run. They are not run here."""

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
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SLUG = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)/?", PROJECT["urls"]["Repository"]).group(1)
MOST_LINES, MOST_CODE_CELLS_IN_A_ROW = 20, 4


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request) -> Path:
    return request.param


def as_in_git(file: Path) -> NotebookNode:
    """What git has, staged or committed: in the working tree people run notebooks and save them, and that is theirs."""
    text = file.read_text(encoding="utf-8")
    if shutil.which("git"):
        command = ["git", "show", f":./{file.name}"]
        shown = subprocess.run(command, cwd=file.parent, capture_output=True, check=False, encoding="utf-8")
        text = shown.stdout if shown.returncode == 0 else text
    return nbformat.reads(text, as_version=4)


@pytest.fixture
def notebook(file) -> NotebookNode:
    return as_in_git(file)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def parameters_at(notebook: NotebookNode) -> int:
    (index,) = [at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    return index


def declared(notebook: NotebookNode) -> list[ast.AnnAssign]:
    return ast.parse(notebook.cells[parameters_at(notebook)].source).body


def after_parameters(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells[parameters_at(notebook) + 1 :] if cell.cell_type == "code"]


def nodes_after_parameters(notebook: NotebookNode) -> list[ast.AST]:
    return [node for cell in after_parameters(notebook) for node in ast.walk(ast.parse(cell.source))]


def test_there_are_notebooks_and_the_series_is_all_of_them():
    assert {node.name for node in pipeline.SERIES} <= {file.stem for file in FILES}
    assert len({file.name[:2] for file in FILES}) == len(FILES)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", file.stem) and file.stem in README for file in FILES)


def test_is_valid_and_nothing_is_left_of_a_run(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
        assert not {"execution", "papermill"} & set(cell.metadata)


def test_begins_with_title_badge_question_and_what_it_reads_and_writes(notebook, file):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and re.match(rf"# {file.stem[:2]} . \w", first.source)
    badge = f"https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/{file.name}"
    assert re.search(r"colab-badge\.svg\)\]\(([^)]*)\)", first.source).group(1) == badge
    assert re.search(r"\*\*[^*]+\?\*\*", first.source), "the question it answers"
    for row in ("| Reads |", "| Writes |", "| Takes |"):
        assert row in first.source


def test_one_repository_is_named_and_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        for found in re.findall(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w-]+)", cell.source):
            assert found == SLUG
    for target in re.findall(r"\]\(([\w./-]+\.ipynb)\)", "\n".join(prose(notebook))):
        assert (REPOSITORY / "notebooks" / target).is_file(), target


def test_readme_names_the_same_repository():
    for owner, path in re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w-]+)/blob/main/([\w/.]+)", README):
        assert owner == SLUG and (REPOSITORY / path).is_file()
    assert set(re.findall(r"git clone https://github\.com/([\w.-]+/[\w-]+)", README)) <= {SLUG}


def test_colab_cell_does_nothing_anywhere_else(notebook):
    imported, guarded = ast.parse(notebook.cells[1].source).body
    assert ast.unparse(imported) == "import os"
    assert isinstance(guarded, ast.If) and not guarded.orelse
    assert ast.unparse(guarded.test) == "'COLAB_RELEASE_TAG' in os.environ"
    assert f"https://github.com/{SLUG}" in notebook.cells[1].source and "requirements.lock" in notebook.cells[1].source


def test_parameters_are_annotated_literals_with_a_comment(notebook, file):
    assert parameters_at(notebook) <= 4, "near the top"
    source = notebook.cells[parameters_at(notebook)].source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {one.start[0]: one.string.lstrip("# ") for one in tokens if one.type == tokenize.COMMENT}
    for statement in declared(notebook):
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        name = statement.target.id
        declared_type = getattr(builtins, ast.unparse(statement.annotation).split("[")[0])
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and type(ast.literal_eval(statement.value)) is declared_type, name
        assert len(comments.get(statement.end_lineno, "")) >= 5, f"{name} has no comment"
    names = [statement.target.id for statement in declared(notebook)]
    assert sorted(names) == sorted(declared_parameters(file)), "as papermill reads them, each once"
    assert {"DATASET", "NAME", "PROFILE", "ARTIFACTS"} <= set(names)


def test_every_parameter_is_used_and_none_is_changed_later(notebook):
    names = [node for node in nodes_after_parameters(notebook) if isinstance(node, ast.Name)]
    parameters = {statement.target.id for statement in declared(notebook)}
    assert not parameters - {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert not parameters & {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_parameters_of_one_name_mean_one_thing():
    """The same literal in every notebook: run one by one by hand, they find each other's results.

    IMAGE_SIZE is apart: what trains by gradient sees smaller photos in the profile quick.
    """
    values: dict[str, set[str]] = {}
    for statement in (one for file in FILES for one in declared(as_in_git(file))):
        values.setdefault(statement.target.id, set()).add(ast.unparse(statement.value))
    assert {name for name, found in values.items() if len(found) > 1} <= {"IMAGE_SIZE"}


def test_session_has_the_name_of_the_notebook(notebook, file):
    calls = [node for node in nodes_after_parameters(notebook) if isinstance(node, ast.Call)]
    assert [node.args[0].value for node in calls if getattr(node.func, "id", "") == "Session"] == [file.stem]
    first = after_parameters(notebook)[0].source
    assert "Session(" in first and "check_" in first, "parameters are checked first"


def test_code_is_plain_python_in_short_cells_and_loads_nothing(notebook):
    for cell in code(notebook):
        tree = ast.parse(cell.source)  # a magic or a shell line would be no Python
        lines = [one for one in cell.source.splitlines() if one.strip() and not one.startswith(("from ", "import "))]
        assert tree.body and len(lines) <= MOST_LINES or "parameters" in cell.metadata.get("tags", []), cell.source
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body), "into the package"
    for cell in code(notebook)[1:]:  # after Colab's
        for word in ("getcwd", "Path.cwd", "chdir", "sys.path", "plt.show", "subprocess", "urlretrieve", "get_ipython"):
            assert word not in cell.source


def test_prose_comes_before_code_under_headings_of_second_level(notebook):
    kinds = [cell.cell_type for cell in notebook.cells[parameters_at(notebook) + 2 :]]
    assert kinds[0] == "markdown"
    assert "code " * (MOST_CODE_CELLS_IN_A_ROW + 1) not in " ".join([*kinds, ""])
    headings = re.findall(r"^#.*", "\n".join(prose(notebook)[1:]), re.MULTILINE)
    assert headings and all(line.startswith("## ") for line in headings)
    assert len(set(headings)) == len(headings)


def test_ends_with_a_check_a_record_and_a_recap(notebook):
    assert any(isinstance(node, ast.Assert) for node in nodes_after_parameters(notebook))
    *_, record, recap = notebook.cells
    assert record.cell_type == "code" and "session.record(" in record.source
    assert recap.cell_type == "markdown" and recap.source.startswith("## Recap")
