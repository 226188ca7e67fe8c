"""The plan of the house: imports point down only, no circle, short files and functions, nothing without a caller."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    "paths",
    "progress",
    "compute",
    "thresholds",
    "session",
    "analysis",
    "drawing",
    "data",
    "pictures",
    "models",
    "runs",
    "inference",
    "views",
    "studies",
    "video",
    "pipeline",
]


def modules() -> dict[str, ast.Module]:
    """Each module of helpers by its dotted name."""
    found = {}
    for file in sorted((ROOT / "helpers").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports() -> dict[str, set[str]]:
    """Which modules of helpers each module of helpers imports, at its top or inside a function."""
    trees, found = modules(), defaultdict(set)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                deeper = {f"{node.module}.{alias.name}" for alias in node.names} & set(trees)
                found[name] |= deeper or {node.module}
    return {name: {target for target in targets if target.startswith("helpers.")} for name, targets in found.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_is_in_a_room_of_the_plan():
    assert {room(name) for name in modules() if "." in name} <= set(ROOMS)


def test_imports_point_down():
    up = {
        (name, target)
        for name, targets in imports().items()
        if "." in name
        for target in targets
        if ROOMS.index(room(target)) > ROOMS.index(room(name))
    }
    assert not up


def test_no_circle():
    edges = imports()

    def reach(name: str, seen: set[str]) -> set[str]:
        for target in edges.get(name, set()) - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    assert not [name for name in edges if name in reach(name, set())]


def test_the_package_does_not_know_its_benchmarks_or_tests():
    for name, tree in modules().items():
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [one for one in imported if one.split(".")[0] in ("benchmarks", "tests")], name


def test_a_file_is_read_in_one_sitting_and_a_function_at_a_glance():
    long = {}
    for file in (ROOT / "helpers").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
        long |= {f"{file.name}, {name}": length for name, length in lengths.items() if length > 60}
        long |= {file.name: text.count("\n")} if text.count("\n") > 500 else {}
    assert not long


def test_nothing_public_is_without_a_caller_outside_tests():
    files = [file for folder in ("helpers", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    texts = [file.read_text(encoding="utf-8") for file in [*files, *(ROOT / "notebooks").glob("*.ipynb")]]
    named = Counter(re.findall(r"\w+", "\n".join(texts)))
    public = {
        node.name
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert not [name for name in public if named[name] < 2]
