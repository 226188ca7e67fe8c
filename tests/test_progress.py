"""A bar where somebody watches, one line a minute where nobody does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from helpers import progress as progress_module
from helpers.progress import is_interactive, progress


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """A clock that goes on by a fixed time whenever it is read; it starts at 0."""

    def start(step: float) -> None:
        now = {"time": -step}

        def read() -> float:
            now["time"] += step
            return now["time"]

        monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=read))

    return start


@pytest.fixture
def unset(monkeypatch) -> None:
    for name in ("HELPERS_HEADLESS", "CI"):
        monkeypatch.delenv(name, raising=False)


def test_headless_prints_once_a_minute(clock, capsys):
    clock(25.0)  # items come at 25, 50, 75, ... s
    assert list(progress(range(100, 110), "reading")) == list(range(100, 110))
    assert capsys.readouterr().out.splitlines() == [
        "reading: 2/10, 75 s",
        "reading: 5/10, 150 s",
        "reading: 8/10, 225 s",
    ]


def test_headless_says_nothing_of_short_work(clock, capsys):
    clock(0.01)
    assert len(list(progress(range(1000), "reading"))) == 1000
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_headless_without_a_known_total(clock, capsys):
    clock(70.0)
    assert list(progress(iter("ab"), "reading")) == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == ["reading: 0, 70 s", "reading: 1, 140 s"]


def test_total_may_be_given(clock, capsys):
    clock(70.0)
    assert list(progress(iter("a"), "reading", total=5)) == ["a"]
    assert capsys.readouterr().out == "reading: 0/5, 70 s\n"


def test_nothing_to_do(capsys):
    assert list(progress([], "reading")) == []
    assert capsys.readouterr().out == ""


def test_it_is_lazy():
    taken = []
    items = progress((taken.append(number) or number for number in range(5)), "reading")
    assert next(items) == 0
    assert taken == [0]


def test_a_watched_terminal_gets_a_bar(unset, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(3), "reading")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading" in captured.err


def test_who_is_watching(unset, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not is_interactive()
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert is_interactive(), "a notebook"
    for name in ("HELPERS_HEADLESS", "CI"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not is_interactive(), f"a notebook that is executed with {name} set"
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_interactive(), "a terminal"
