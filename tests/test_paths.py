"""Files and folders: the old one or the whole new one."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, dead_process

from helpers.paths import (
    PARTIAL,
    PROJECT_ROOT,
    InUseError,
    cells,
    check_name,
    dataset_folder,
    from_cells,
    hold,
    partial_path,
    printable,
    project_path,
    remove_partial,
    short_name,
    write_json,
    write_whole,
    write_whole_folder,
)


def fill(text: str):
    return lambda folder: (folder / "a.txt").write_text(text)


def fail(folder: Path) -> None:
    (folder / "b.txt").write_text("half")
    raise OSError("disk full")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_there_when_it_is_complete(tmp_path):
    target, seen = tmp_path / "deep" / "data", []
    write_whole_folder(target, lambda folder: (fill("new")(folder), seen.append(target.exists())))
    assert seen == [False]
    assert (target / "a.txt").read_text() == "new"
    write_whole_folder(target, fill("newer"))
    assert (target / "a.txt").read_text() == "newer"
    assert names(target.parent) == ["data"]


def test_failed_writing_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    target, replace = tmp_path / "data", Path.replace
    for expected in ([], ["data"]):
        with pytest.raises(OSError, match="disk full"):
            write_whole_folder(target, fail)
        assert names(tmp_path) == expected
        write_whole_folder(target, fill("old"))

    def refuse(self, other):
        if ".partial-" in self.name:
            raise OSError("in use")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="in use"):
        write_whole_folder(target, fill("new"))
    assert (target / "a.txt").read_text() == "old" and names(tmp_path) == ["data"] and names(target) == ["a.txt"]


def test_link_is_replaced_not_followed(tmp_path):
    write_whole_folder(tmp_path / "elsewhere", fill("kept"))
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    write_whole_folder(tmp_path / "data", fill("new"))
    assert [(tmp_path / folder / "a.txt").read_text() for folder in ("data", "elsewhere")] == ["new", "kept"]


def test_failed_file_leaves_the_old_one_under_a_name_as_long_as_names_can_be(tmp_path):
    file = tmp_path / "deep" / ("x" * 250 + ".json")
    write_json({"a": "ä"}, file)
    with pytest.raises(TypeError):
        write_json({"a": object()}, file)
    with pytest.raises(ZeroDivisionError):
        write_whole(file, lambda partial: (partial.write_text("half"), 1 / 0))
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "ä"} and names(file.parent) == [file.name]


def test_one_process_at_a_time_and_a_dead_one_is_taken_over(tmp_path):
    lock = tmp_path / "out" / ".lock"
    script = "import sys, pathlib, time; from helpers.paths import hold\n"
    script += f"with hold(pathlib.Path({str(lock)!r}), 'it'): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert holder.stdout.readline() == "held\n"
        named = f"The folder is in use by process {holder.pid} on "
        with pytest.raises(InUseError, match=named), hold(lock, "The folder"):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert lock.is_file(), "killed, it left its file"
    with hold(lock, "The folder"), pytest.raises(InUseError), hold(lock, "The folder"):
        pass
    assert names(lock.parent) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="The folder cannot be written to"), hold(tmp_path / "file/.lock", "The folder"):
        pass


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    living = partial_path(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", dead_process)
        left = partial_path(tmp_path / "a.png")
        patch.setattr(platform, "node", lambda: "another machine")
        elsewhere = partial_path(tmp_path / "a.png")
    kept = [living, elsewhere, tmp_path / ".notes.partial", tmp_path / ".a.0123abcd.png", tmp_path / "a.png"]
    for file in [left, *kept]:
        file.write_text("x")
    remove_partial(tmp_path.rglob(PARTIAL))
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".lock", "a/b", "a\\b", "../a", "/a", "a:b", "a\n", "a.", " a", "x" * 256, 7, None]
)
def test_what_cannot_be_a_folder_s_name(name):
    with pytest.raises(ValueError, match="stage becomes the name of a folder"):
        check_name(name, "stage")


def test_names_are_short_and_printable_and_remain_different():
    assert check_name("Größe 2.5 (neu)", "stage") == "Größe 2.5 (neu)"
    long = [f"{'ö' * 150}{number}" for number in range(3)]
    short = [short_name(name) for name in long]
    assert len(set(short)) == 3 and all(len(name.encode()) <= 200 for name in short)
    assert short_name("a") == "a"
    assert printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png" and printable("café.png") == "café.png"
    assert printable("\x1b]0;title\x07\x9b2J.png") == "\\x1b]0;title\\x07\\x9b2J.png"
    assert printable("half \ud800, two\nlines") == "half \\ud800, two\nlines"


def test_cells_that_a_spreadsheet_would_run_and_their_names_come_back(tmp_path):
    names = ["=1+1", "+a", "-b", "@c", "\tx", "'=already", "''@twice", "plain", "it's", "-0.5", "1e-3", ""]
    table = pd.DataFrame({"name": names, "score": [-0.5 * n for n in range(len(names))], "=class": 1})
    cells(table).to_csv(tmp_path / "a.csv", index=False)
    stored = pd.read_csv(tmp_path / "a.csv", keep_default_na=False, dtype={"name": "str"})
    assert stored["name"].tolist() == ["'" + name for name in names[:7]] + names[7:]
    assert stored["score"].tolist() == table["score"].tolist()
    assert stored.columns.tolist() == ["name", "score", "'=class"]
    pd.testing.assert_frame_equal(from_cells(stored), table, check_dtype=False)


def test_relative_paths_count_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project_path("artifacts") == PROJECT_ROOT / "artifacts"
    assert project_path(tmp_path / "x") == tmp_path / "x"
    assert dataset_folder("artifacts", "mesh", "quick") == PROJECT_ROOT / "artifacts" / "mesh" / "quick"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert project_path("~/x") == tmp_path / "x"
    for dataset, profile, named in (("a/b", "quick", "dataset"), ("mesh", "..", "PROFILE")):
        with pytest.raises(ValueError, match=named):
            dataset_folder("artifacts", dataset, profile)
