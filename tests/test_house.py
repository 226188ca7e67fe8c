"""The plan of the house: imports point down only, no circle, short files and functions, nothing without a caller."""

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    *("paths", "progress", "compute", "thresholds", "session", "analysis", "drawing", "data", "pictures", "models"),
    *("runs", "inference", "views", "studies", "video", "pipeline"),
]


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Each module of helpers by its dotted name."""
    files = sorted((ROOT / "helpers").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in zip(names, files, strict=True)}


@pytest.fixture(scope="module")
def imports(modules) -> dict[str, set[str]]:
    """What each module of helpers imports, at its top or inside a function: of helpers, whole modules."""
    found = defaultdict(set)
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                deeper = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules)
                found[name] |= deeper or {node.module}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down(modules, imports):
    assert {room(name) for name in modules if "." in name} <= set(ROOMS)
    up = {
        (name, target)
        for name, targets in imports.items()
        for target in targets
        if "." in name and target.startswith("helpers.") and ROOMS.index(room(target)) > ROOMS.index(room(name))
    }
    assert not up


def test_no_circle_and_nothing_of_benchmarks_or_tests(imports):
    def reach(name: str, seen: set[str]) -> set[str]:
        for target in imports.get(name, set()) - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    assert not [name for name in imports if name in reach(name, set())]
    targets = set().union(*imports.values())
    assert not [target for target in targets if target.split(".")[0] in ("benchmarks", "tests")]


def test_a_file_is_read_in_one_sitting_and_a_function_at_a_glance():
    long = {}
    for file in (ROOT / "helpers").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
        long |= {f"{file.name}, {name}": length for name, length in lengths.items() if length > 60}
        long |= {file.name: text.count("\n")} if text.count("\n") > 500 else {}
    assert not long


def test_nothing_public_is_without_a_caller_outside_tests(modules):
    files = [file for folder in ("helpers", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in [*files, *(ROOT / "notebooks").glob("*.ipynb")]]
    named = Counter(re.findall(r"\w+", "\n".join(texts)))
    defined = [node for tree in modules.values() for node in tree.body]
    public = {node.name for node in defined if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert not [name for name in public if not name.startswith("_") and named[name] < 2]
