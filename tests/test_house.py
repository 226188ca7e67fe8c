"""The plan of the house: imports between the rooms of helpers point down only, and nothing goes round in circles."""

from __future__ import annotations

import ast
from collections import defaultdict
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


# What still points up; it shrinks to none. Nothing may be added.
UP: set[tuple[str, str]] = {
    ("helpers.models.backbones", "helpers.runs"),
    ("helpers.session", "helpers.runs"),
}
CIRCLES: set[str] = {
    "helpers.models.backbones",
    "helpers.models.builtin",
}


def test_imports_point_down():
    up = {
        (name, target)
        for name, targets in imports().items()
        if "." in name
        for target in targets
        if ROOMS.index(room(target)) > ROOMS.index(room(name))
    }
    assert not up - UP


def test_no_circle():
    edges = imports()

    def reach(name: str, seen: set[str]) -> set[str]:
        for target in edges.get(name, set()) - seen:
            seen.add(target)
            reach(target, seen)
        return seen

    assert {name for name in edges if name in reach(name, set())} <= CIRCLES
