"""What every notebook does first and last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import psutil
import pytest
import torch

from helpers.paths import PROJECT_ROOT
from helpers.session import ParameterError, Session, check_choice, check_number, dataset_name, machine_table


@pytest.mark.parametrize(
    ("used", "free"), [([0.0, 3.0], 2), ([100.0, 2.0], 1), ([50.0, 49.0], 1), ([100.0, 100.0], 1), ([20.0, 25.0], 2)]
)
def test_torch_takes_the_cores_that_are_free(monkeypatch, capsys, tmp_path, used, free):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: used)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Session("02_train_patchcore", str(tmp_path), "quick", str(tmp_path))
        assert torch.get_num_threads() == free
        assert f"{free} of 2 cores" in capsys.readouterr().out
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        torch.set_num_threads(2)
        Session("02_train_patchcore", str(tmp_path), "quick", str(tmp_path))
        assert torch.get_num_threads() == 2, "as it is told"
    finally:
        torch.set_num_threads(before)


def test_threads_that_wait_sleep():
    """Torch reads the policy when it is imported, and every notebook and command imports helpers first."""
    code = "import helpers, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for more, policy in (({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None")):
        done = subprocess.run([sys.executable, "-c", code], env=plain | more, capture_output=True, check=True)
        assert done.stdout.decode().strip() == policy


def test_choice():
    check_choice("SCHEME", "one_class", ["one_class", "supervised"])
    with pytest.raises(ParameterError, match="^SCHEME='oneclass': expected one of 'one_class', 'supervised'.$"):
        check_choice("SCHEME", "oneclass", ["one_class", "supervised"])


@pytest.mark.parametrize(("value", "whole"), [(0, False), (1, True), (0.5, False), (1.0, False)])
def test_numbers_within_range(value, whole):
    check_number("ACCEPT", value, 0, 1, whole=whole)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_numbers_that_are_none_or_out_of_range(value):
    with pytest.raises(ParameterError, match=r"^ACCEPT=.*expected a number from 0 to 1\.$"):
        check_number("ACCEPT", value, 0, 1)


@pytest.mark.parametrize("value", [0.5, 1.0, "1", False, 2])
def test_whole_numbers(value):
    with pytest.raises(ParameterError, match="SEED=.*expected a whole number from 0 to 1"):
        check_number("SEED", value, 0, 1, whole=True)


def test_name_of_a_dataset(tmp_path):
    (tmp_path / "photos.v2").mkdir()
    (tmp_path / "table.csv").touch()
    assert dataset_name(str(tmp_path / "photos.v2")) == "photos.v2"
    assert dataset_name(str(tmp_path / "table.csv")) == "table"
    assert dataset_name(str(tmp_path / "photos.v2"), "mine") == "mine"
    assert dataset_name("datasets/mesh/") == "mesh"


@pytest.mark.parametrize("dataset", ["", "/"])
def test_dataset_without_a_name(dataset):
    with pytest.raises(ParameterError, match="DATASET="):
        dataset_name(dataset)


def test_empty_dataset_is_refused_even_with_a_name():
    with pytest.raises(ParameterError, match="DATASET=''"):
        dataset_name("", "mine")


def test_session_knows_its_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session("01_setup_and_validate", "datasets/mesh", "quick")
    assert session.dataset == PROJECT_ROOT / "datasets" / "mesh"
    assert session.dataset_name == "mesh"
    assert session.folder == PROJECT_ROOT / "artifacts" / "mesh" / "quick"
    other = Session("01_setup_and_validate", str(tmp_path / "mesh"), "quick", str(tmp_path / "out"), name="mine")
    assert other.dataset == tmp_path / "mesh"
    assert other.folder == tmp_path / "out" / "mine" / "quick"


def test_session_refuses_a_name_that_cannot_be_a_folder(tmp_path):
    with pytest.raises(ValueError, match="PROFILE"):
        Session("01_setup_and_validate", str(tmp_path), "a/b", str(tmp_path))


def test_record(tmp_path):
    session = Session("02_train_patchcore", str(tmp_path / "mesh"), "quick", str(tmp_path))
    before = datetime.now(UTC)
    file = session.record({"SEED": 3}, {"auroc": 0.9})
    assert file == tmp_path / "mesh" / "quick" / "records" / "02_train_patchcore.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["notebook"] == "02_train_patchcore"
    assert record["dataset"] == str(tmp_path / "mesh")
    assert record["parameters"] == {"SEED": 3}
    assert record["results"] == {"auroc": 0.9}
    assert 0 <= record["seconds"] < 60
    finished = datetime.fromisoformat(record["finished_at"])
    assert abs((finished - before).total_seconds()) < 60
    session.record({"SEED": 4}, {})
    assert json.loads(file.read_text(encoding="utf-8"))["parameters"] == {"SEED": 4}, "the last run counts"


def test_machine_table():
    table = machine_table()
    assert list(table.columns) == ["what", "found"]
    found = table.set_index("what")["found"]
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert int(found["CPU cores"]) >= 1
    assert ("GPU" in found) == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
