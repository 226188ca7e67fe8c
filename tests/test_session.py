"""What every notebook does first and last: parameters read and checked, torch on free cores, a record at the end."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import torch

from helpers.paths import PROJECT_ROOT
from helpers.session import (
    ParameterError,
    Session,
    check_choice,
    check_number,
    collect_parameters,
    dataset_name,
    declared_parameters,
    machine_table,
)


@pytest.fixture
def collect(small_series):
    return lambda *settings, **given: collect_parameters(small_series, "quick", settings, given)


def test_sections_given_and_declared(small_series, collect):
    texts = ("DATASET", "NAME", "PROFILE", "ARTIFACTS", "LABEL", "MODE")
    assert declared_parameters(small_series / "02_second.ipynb") == dict.fromkeys(texts, "str") | {"COUNT": "int"}
    assert collect() == {"01_first": {"PROFILE": "quick", "COUNT": 5}, "02_second": {"PROFILE": "quick"}}
    labelled = collect(LABEL="n")
    assert labelled["02_second"] == {"PROFILE": "quick", "LABEL": "n"} and "LABEL" not in labelled["01_first"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("FLAG=false", False), ("COUNT=-7", -7), (" COUNT =7", 7), ("LAYERS=[]", []), ("LAYERS=[a, b]", ["a", "b"])),
        *(("RATIO=1", 1), ("RATIO=1e-3", 0.001), ("RATIO=1.E+2", 100.0)),
    ],
)
def test_settings_have_the_type_of_their_parameter(collect, setting, value):
    found = collect(setting)["01_first"][setting.split("=")[0].strip()]
    assert found == value and type(found) in (type(value), float)


@pytest.mark.parametrize("text", ["false", "007", "1e3", "null", "", "[a]", "a=b", "x: y", "2024-01-01", ".nan", "["])
def test_text_stays_text(collect, text):
    assert collect(f"LABEL={text}")["02_second"]["LABEL"] == text


@pytest.mark.parametrize(
    ("settings", "counts"),
    [(["COUNT=7"], [7, 7]), (["02.COUNT=7"], [5, 7]), (["COUNT=7", "02.COUNT=8", "01.COUNT=9"], [9, 8])],
)
def test_setting_for_all_and_for_one(collect, settings, counts):
    assert [values["COUNT"] for values in collect(*settings).values()] == counts


@pytest.mark.parametrize(
    "setting",
    [
        *("COUNT=1.5", "COUNT=true", "COUNT=many", "FLAG=1", "FLAG=maybe", "LAYERS=layer2", "RATIO=true", "RATIO=wide"),
        *("RATIO=.nan", "RATIO=.inf", "RATIO=[", "RATIO=a: b: c", "LAYERS=[1, .nan]", "LAYERS=[1, []"),
        *("COUNT", "=3", "2.COUNT=3", "first.COUNT=3", "COUNT 3=4", "09.COUNT=1", "02.FLAG=true"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(collect, setting):
    with pytest.raises(ParameterError, match=setting.split("=")[0] or "--set"):
        collect(setting)


@pytest.mark.parametrize(("setting", "named"), [("CONUT=3", "CONUT.*COUNT"), ("02.ZZZ=3", "COUNT.*LABEL.*PROFILE")])
def test_misspelt_name_answers_with_the_one_meant_or_all(collect, setting, named):
    with pytest.raises(ParameterError, match=named):
        collect(setting)


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ("all:\n  CONUT: 3\n", "CONUT"),
        ("01_first:\n  LABEL: a\n", "LABEL"),
        ("03_third:\n  COUNT: 3\n", "03_third"),
        ("01_first:\n  COUNT: many\n", "COUNT"),
        ("01_first:\n  RATIO: .nan\n", "RATIO"),
        ("01_first: [\n", "quick.yml"),
    ],
)
def test_mistakes_in_a_profile_are_named(small_series, collect, profile, named):
    (small_series / "params" / "quick.yml").write_text(profile)
    with pytest.raises(ParameterError, match=named):
        collect()
    (small_series / "params" / "full.yml").touch()
    with pytest.raises(ParameterError, match="full, quick"):
        collect_parameters(small_series, "fast", [], {})


@pytest.mark.parametrize("profile", ["", "all:\n", "01_first:\n  RATIO: 1e-3\n"])
def test_empty_profile_or_section_and_a_number_written_as_a_power(small_series, collect, profile):
    """YAML 1.1 takes 1e-3 for text."""
    (small_series / "params" / "quick.yml").write_text(profile)
    ratio = {"RATIO": 0.001} if profile.endswith("3\n") else {}
    assert collect("COUNT=3") == {"01_first": {"COUNT": 3} | ratio, "02_second": {"COUNT": 3}}


def test_backbone_from_the_environment(small_series, collect, monkeypatch, tmp_path):
    """Notebooks run in their own folder, so a relative path is made absolute here."""
    monkeypatch.chdir(tmp_path)
    (small_series / "params" / "quick.yml").write_text("all:\n  BACKBONE: resnet18.tv_in1k\n")
    assert collect()["01_first"]["BACKBONE"] == "resnet18.tv_in1k"
    monkeypatch.setenv("BACKBONE", "local-dir:weights")
    assert collect()["01_first"]["BACKBONE"] == f"local-dir:{tmp_path / 'weights'}"
    assert "BACKBONE" not in collect()["02_second"]
    assert collect("BACKBONE=local-dir:w2")["01_first"]["BACKBONE"] == f"local-dir:{tmp_path / 'w2'}"


@pytest.mark.parametrize(("value", "whole"), [(0, False), (1, True), (0.5, False), (1.0, False)])
def test_choices_and_numbers_within_range(value, whole):
    check_number("ACCEPT", value, 0, 1, whole=whole)
    check_choice("ACCEPT", value, [0, 0.5, 1])
    with pytest.raises(ParameterError, match="SCHEME='oneclass'.*'supervised'"):
        check_choice("SCHEME", "oneclass", ["one_class", "supervised"])


@pytest.mark.parametrize(
    ("value", "whole"),
    [*((value, False) for value in (-0.01, 1.01, float("nan"), float("inf"), "0.5", None, True, [0.5]))]
    + [*((value, True) for value in (0.5, 1.0, "1", False, 2))],
)
def test_numbers_that_are_none_or_out_of_range(value, whole):
    with pytest.raises(ParameterError, match="ACCEPT="):
        check_number("ACCEPT", value, 0, 1, whole=whole)


def test_name_of_a_dataset(tmp_path):
    (tmp_path / "photos.v2").mkdir()
    (tmp_path / "table.csv").touch()
    cases = {("photos.v2", ""): "photos.v2", ("table.csv", ""): "table", ("photos.v2", "mine"): "mine"}
    assert {case: dataset_name(str(tmp_path / case[0]), case[1]) for case in cases} == cases
    assert dataset_name("datasets/mesh/") == "mesh"
    for dataset, name in (("", ""), ("/", ""), ("", "mine")):
        with pytest.raises(ParameterError, match="DATASET="):
            dataset_name(dataset, name)


@pytest.mark.parametrize(
    ("used", "told", "threads"), [((0, 3), "", 2), ((99, 2), "", 1), ((99, 99), "", 1), ((99, 99), "2", 2)]
)
def test_torch_takes_the_cores_that_are_free_or_as_many_as_it_is_told(
    monkeypatch, capsys, tmp_path, used, told, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: used)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Session("02_train_patchcore", str(tmp_path), "quick", str(tmp_path))
        assert torch.get_num_threads() == threads
        assert (f"{threads} of 2 cores" in capsys.readouterr().out) == (not told)
    finally:
        torch.set_num_threads(before)


def test_threads_that_wait_sleep():
    """Torch reads the policy when it is imported, and every notebook and command imports helpers first."""
    code = "import helpers, os; print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for more, policy in (({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None")):
        done = subprocess.run([sys.executable, "-c", code], env=plain | more, capture_output=True, check=True)
        assert done.stdout.decode().strip() == policy


def test_session_knows_its_folders_and_records_the_last_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session("01_setup_and_validate", "datasets/mesh", "quick")
    assert session.dataset == PROJECT_ROOT / "datasets" / "mesh" and session.dataset_name == "mesh"
    assert session.folder == PROJECT_ROOT / "artifacts" / "mesh" / "quick"
    other = Session("01_setup_and_validate", str(tmp_path / "mesh"), "quick", str(tmp_path / "out"), name="mine")
    assert other.dataset == tmp_path / "mesh" and other.folder == tmp_path / "out" / "mine" / "quick"
    other.record({"SEED": 3}, {})
    file = other.record({"SEED": 4}, {"auroc": 0.9})
    assert file == other.folder / "records" / "01_setup_and_validate.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert (record["parameters"], record["results"]) == ({"SEED": 4}, {"auroc": 0.9})
    assert record["dataset"] == str(tmp_path / "mesh") and 0 <= record["seconds"] < 60
    with pytest.raises(ValueError, match="PROFILE"):
        Session("01_setup_and_validate", str(tmp_path), "a/b", str(tmp_path))


def test_machine_table():
    found = machine_table().set_index("what")["found"]
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert int(found["CPU cores"]) >= 1
    assert ("GPU" in found) == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
