"""A bar where somebody watches, one line a minute where nobody does."""

import itertools
import sys
from types import SimpleNamespace

import pytest

from helpers import progress as progress_module
from helpers.progress import is_interactive, progress


@pytest.fixture
def unset(monkeypatch) -> None:
    for name in ("HELPERS_HEADLESS", "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("step", "items", "total", "lines"),
    [  # a clock that goes on by a step whenever it is read
        (25.0, range(10), None, ["2/10, 75 s", "5/10, 150 s", "8/10, 225 s"]),
        (0.01, range(1000), None, []),
        (70.0, "ab", 0, ["0, 70 s", "1, 140 s"]),
        (70.0, "a", 5, ["0/5, 70 s"]),
    ],
)
def test_headless_prints_once_a_minute(monkeypatch, capsys, step, items, total, lines):
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=itertools.count(0, step).__next__))
    source = items if total is None else iter(items)  # an iterator has no length
    assert list(progress(source, "reading", total=total)) == list(items)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"reading: {line}" for line in lines] and not captured.err


def test_a_watched_terminal_gets_a_bar(unset, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(3), "reading")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == "" and "reading" in captured.err


def test_who_is_watching(unset, monkeypatch):
    def kernel(started: bool) -> SimpleNamespace:
        return SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: started))

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp", raising=False)
    assert not is_interactive()
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel(False))
    assert not is_interactive(), "imported, as by papermill, but no kernel of ours"
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel(True))
    assert is_interactive(), "a notebook"
    for name in ("HELPERS_HEADLESS", "CI"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not is_interactive(), f"a notebook that is executed with {name} set"
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_interactive(), "a terminal"
