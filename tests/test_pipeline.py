"""The graph of notebooks: what runs, what is skipped, what is refused. With tiny notebooks made here."""

import ast
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import FIRST_CODE, FIRST_PARAMETERS, SECOND_PARAMETERS, write_notebook

from helpers import pipeline
from helpers.data.samples import make_table, write_table
from helpers.paths import InUseError
from helpers.pipeline import Node, PipelineError, ensure_dataset, execute, main
from helpers.session import collect_parameters


@pytest.fixture
def notebooks(small_series, monkeypatch) -> Path:
    """A series of two: 02 reads what 01 leaves."""
    series = (Node("01_first", (), ("first.json",)), Node("02_second", ("01_first",), ("leaderboard.csv",)))
    monkeypatch.setattr(pipeline, "NOTEBOOKS_FOLDER", small_series)
    monkeypatch.setattr(pipeline, "SERIES", series)
    return small_series


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "data" / "tiles"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"photo a")
    return folder


@pytest.fixture
def executed(monkeypatch) -> list[str]:
    """Stands in for the processes: notes which notebooks would run, and leaves what they leave."""
    calls: list[str] = []

    def leave(node, parameters, folder):
        calls.append(node.number)
        for name in node.leaves:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("model,image_auroc\npatchcore,0.5\n")
        return 1.0

    monkeypatch.setattr(pipeline, "execute", leave)
    return calls


@pytest.fixture
def run(dataset, tmp_path, executed):
    """Run the series; returns the numbers of the notebooks that ran."""

    def start(*settings: str, **options) -> list[str]:
        executed.clear()
        pipeline.run(dataset, "quick", settings=settings, artifacts=tmp_path / "artifacts", **options)
        return list(executed)

    return start


def test_first_all_then_nothing_then_what_is_asked_for(notebooks, run, dataset, tmp_path):
    assert run() == ["01", "02"]
    os.utime(dataset / "a.png", ns=(5, 5))
    assert run() == [], "the same photo"
    assert run(force=True) == ["01", "02"]
    assert run(start="02") == ["02"]
    assert run(start="01") == ["01", "02"]
    assert run(only=["02"], force=True) == ["02"]
    assert run(name="other") == ["01", "02"] and run() == [], "another name shares no results"
    (tmp_path / "artifacts" / "tiles" / "quick" / "leaderboard.csv").unlink()
    assert run(only=["01"]) == []
    assert run() == ["02"], "its result is missing"
    write_notebook(notebooks / "02_second.ipynb", SECOND_PARAMETERS, "print('edited')")
    assert run() == ["02"]


def test_what_depends_on_a_change_runs_again(notebooks, run, dataset):
    run()
    assert run("LABEL=y") == ["02"], "only 02 has it"
    assert run("LABEL=y", "01.COUNT=9") == ["01", "02"], "02 reads what 01 leaves"
    assert run("LABEL=y", "01.COUNT=9") == []
    assert run() == ["01", "02"]
    (dataset / "b.png").write_bytes(b"photo b")
    assert run() == ["01", "02"], "another photo"
    (dataset / "a.png").write_bytes(b"photo A")
    os.utime(dataset / "a.png", ns=(1, 1))
    assert run() == ["01", "02"], "a changed photo"
    (dataset / "b.png").unlink()
    assert run() == ["01", "02"], "a photo less"


@pytest.mark.parametrize("folder", [False, True])
def test_whatever_a_parameter_names_is_looked_into(notebooks, run, tmp_path, folder):
    named = tmp_path / "named"
    file = named / "limits.yml" if folder else named
    file.parent.mkdir(exist_ok=True)
    file.write_text("a: 1")
    setting = f"LABEL={named}"
    assert run(setting) == ["01", "02"]
    file.touch()
    assert run(setting) == []
    file.write_text("a: 2")
    assert run(setting) == ["02"]
    assert run("LABEL=" + 400 * "x") == ["02"]


def test_changed_photo_outside_of_the_dataset_runs_again(notebooks, run, tmp_path, monkeypatch):
    """A table as the dataset: its photos lie anywhere."""
    photo = tmp_path / "a.png"
    about = {"root": tmp_path, "layout": "table", "name": "tiles", "published_split": False}
    first, second = pipeline.SERIES
    monkeypatch.setattr(pipeline, "SERIES", (replace(first, leaves=("samples.csv",)), second))
    leave = pipeline.execute

    def write(node, parameters, folder):
        seconds = leave(node, parameters, folder)
        if node.number == "01":
            write_table(make_table([{"image_path": photo}], **about), folder / "samples.csv")
        return seconds

    monkeypatch.setattr(pipeline, "execute", write)
    for content in (b"photo", b"another"):
        photo.write_bytes(content)
        assert run() == ["01", "02"] and run() == []


def test_prose_and_the_packages_source_play_no_part(notebooks, run, monkeypatch, tmp_path):
    run()
    opened = []
    real = io.open
    monkeypatch.setattr("io.open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    notebook = nbformat.read(notebooks / "01_first.ipynb", as_version=4)
    notebook.cells[0].source = "# Other prose"
    notebook.cells.append(nbformat.v4.new_markdown_cell("And more of it."))
    nbformat.write(notebook, notebooks / "01_first.ipynb")
    assert run() == []
    assert opened, "the notebook at least"
    assert not [path for path in opened if path.endswith(".py")]
    notebook.cells[2].source += "\nprint(1)"
    nbformat.write(notebook, notebooks / "01_first.ipynb")
    assert run() == ["01", "02"]


def test_changed_file_that_a_notebook_reads_runs_it_again(notebooks, run, monkeypatch):
    first, second = pipeline.SERIES
    monkeypatch.setattr(pipeline, "SERIES", (first, replace(second, reads=("sizes", "cascades"))))
    run()
    for name in ("sizes", "cascades"):
        file = notebooks / "params" / name / "mine.yml"
        file.parent.mkdir(parents=True)
        for content in ("a: 1", "a: 2"):
            file.write_text(content)
            assert run() == ["02"] and run() == []


@pytest.mark.parametrize("raised", ["model", "notebook", "torch", "openvino"])
def test_another_recipe_or_library_runs_again(notebooks, run, monkeypatch, raised):
    run()
    if raised == "model":
        monkeypatch.setitem(pipeline.RECIPES, "patchcore", 2)
    elif raised == "notebook":
        first, second = pipeline.SERIES
        monkeypatch.setattr(pipeline, "SERIES", (first, replace(second, recipe=2)))
    else:
        versions = pipeline.installed_versions() | {raised: "9.0"}
        monkeypatch.setattr(pipeline, "installed_versions", lambda: versions)
    assert run() == (["02"] if raised == "notebook" else ["01", "02"])
    assert run() == []


def test_result_of_somebody_else_is_not_taken_for_ones_own(notebooks, run, tmp_path):
    """Seed 5 finished, then a notebook opened by hand left seed 6: neither it nor what reads it is finished."""
    run()
    (tmp_path / "artifacts" / "tiles" / "quick" / "first.json").write_text('{"seed": 6}')
    assert run(only=["02"]) == ["02"]
    assert run() == ["01", "02"]
    assert run() == []


def test_two_pipelines_do_not_share_a_folder(notebooks, run, dataset, tmp_path, monkeypatch):
    artifacts, refused = tmp_path / "artifacts", []
    working = pipeline.execute

    def meanwhile(node, parameters, folder):
        if node.number == "02":
            with pytest.raises(InUseError, match=rf"tiles.quick is in use by process {os.getpid()}"):
                pipeline.run(dataset, "quick", settings=["COUNT=6"], artifacts=artifacts)
            refused.append(main(["run", "--dataset", str(dataset), "--artifacts", str(artifacts)]))
        return working(node, parameters, folder)

    monkeypatch.setattr(pipeline, "execute", meanwhile)
    assert run("COUNT=5") == ["01", "02"]
    assert refused == [1]
    assert run("COUNT=5") == []


def test_only_is_remembered_with_what_it_really_read(notebooks, run):
    """02 alone under another COUNT of 01 still reads what 01 left under the old one."""
    run()
    run("01.COUNT=9", only=["02"])
    assert run("01.COUNT=9") == ["01", "02"]


@pytest.mark.parametrize("options", [{"only": ["03"]}, {"only": ["01", "9"]}, {"start": "2"}])
def test_number_of_no_notebook(notebooks, run, options):
    with pytest.raises(PipelineError, match="01, 02"):
        run(**options)


def test_failure_keeps_what_was_finished_before(notebooks, run, monkeypatch):
    run()
    working = pipeline.execute

    def fail_second(node, parameters, folder):
        return working(node, parameters, folder) if node.number == "01" else 1 / 0

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(pipeline, "execute", fail_second)
        run("COUNT=2")
    assert run("02.COUNT=2") == ["01", "02"], "it failed halfway: what it left before may be overwritten"
    assert run("02.COUNT=2") == []


def test_notebook_that_leaves_nothing_is_an_error(notebooks, run, monkeypatch):
    monkeypatch.setattr(pipeline, "execute", lambda node, parameters, folder: 1.0)
    with pytest.raises(PipelineError, match=r"01_first.*first\.json"):
        run()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"01_first": 3, "02_second": []}'])
def test_damaged_record_of_what_is_finished(notebooks, run, tmp_path, content, capsys):
    run()
    file = tmp_path / "artifacts" / "tiles" / "quick" / "pipeline.json"
    file.write_text(content)
    assert run() == ["01", "02"]
    assert "pipeline.json is damaged" in capsys.readouterr().out
    assert set(json.loads(file.read_text())) == {"01_first", "02_second"}


def test_notebook_that_the_dataset_gives_nothing_to_is_skipped(notebooks, run, tmp_path, monkeypatch, capsys):
    """Three defect photos; first one lacks its mask, then all have one."""
    first, second = pipeline.SERIES
    monkeypatch.setattr(pipeline, "SERIES", (first, replace(second, needs="masks of defects")))
    about = {"root": tmp_path, "layout": "test", "name": "tiles", "published_split": False}
    for lacking, ran in ((["0_mask.png"], ["01"]), ([], ["02"])):
        names = [(f"{number}.png", f"{number}_mask.png") for number in range(3)]
        rows = [{"image_path": a, "label_index": 1, "mask_path": "" if b in lacking else b} for a, b in names]
        write_table(make_table(rows, **about), tmp_path / "artifacts" / "tiles" / "quick" / "samples.csv")
        assert run() == ran
        skipped = "02_second: skipped, the dataset has no masks of defects"
        assert (skipped in capsys.readouterr().out) == bool(lacking)
    assert run() == []


def test_built_in_dataset_is_drawn_when_missing(tmp_path, monkeypatch):
    from helpers.pictures import datasets

    drawn = []
    monkeypatch.setattr(pipeline, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(datasets, "draw_dataset", lambda name, folder: drawn.append(folder) or folder / name)
    assert ensure_dataset(tmp_path / "datasets" / "mesh") == tmp_path / "datasets" / "mesh"
    assert drawn == [tmp_path / "datasets"]
    with pytest.raises(PipelineError):
        ensure_dataset(tmp_path / "elsewhere" / "mesh")


def test_a_cascade_has_the_runs_of_another_built_in_dataset(notebooks, executed, tmp_path, monkeypatch):
    """Made by a call of its own, without folders that belong to the first dataset, and only what is not there."""
    write_notebook(notebooks / "07_cascade_inference.ipynb", FIRST_PARAMETERS + 'FRAMES: str = ""  # x', FIRST_CODE)
    first, second = pipeline.SERIES
    monkeypatch.setattr(pipeline, "SERIES", (first, second, Node(pipeline.CASCADES, ("01_first",), ("rates.csv",))))
    part = Node("03f_part", ("01_first",), ("part.json",), part_of="02_second", without="segmenters")
    monkeypatch.setattr(pipeline, "FOREGROUND", part)
    monkeypatch.setattr(pipeline, "PROJECT_ROOT", tmp_path)
    for name in ("mesh", "nuts"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    options = {"artifacts": tmp_path / "artifacts", "settings": [f"FRAMES={tmp_path / 'datasets'}"]}
    for expected in (["01", "02", "01", "02", "03f", "07"], []):
        executed.clear()
        pipeline.run(tmp_path / "datasets" / "mesh", "quick", **options)
        assert executed == expected
    left = tmp_path / "artifacts" / "nuts" / "quick"
    (left / "part.json").write_text("changed by somebody")
    executed.clear()
    pipeline.run(tmp_path / "datasets" / "mesh", "quick", **options)
    assert executed == ["03f"], "made again as it was, so 07 has read the same"


def test_run_from_the_command_line(notebooks, dataset, tmp_path, capsys):
    """Both notebooks really run: results, executed copies, report, table; and the second time nothing does."""
    arguments = ["run", "--dataset", str(dataset), "--artifacts", str(tmp_path / "artifacts")]
    arguments += ["--set", "FLAG=false", "--set", "02.COUNT=12"]
    assert main(arguments) == 0
    printed, folder = capsys.readouterr().out, tmp_path / "artifacts" / "tiles" / "quick"
    found = {"count": 5, "flag": False, "ratio": 0.5, "layers": [], "backbone": "auto"}
    assert json.loads((folder / "first.json").read_text()) == found
    assert "patchcore" in printed and "0.550" in printed, "AUROC in the table on the terminal"
    assert str(folder / "report" / "index.html") in printed
    copy = nbformat.read(folder / "notebooks" / "02_second.ipynb", as_version=4)
    assert "headless 1 notebooks" in str(copy.cells), "told to be headless, started in the notebooks' folder"
    index = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "patchcore" in index and "tiles, profile quick" in index
    for name in ("01_first", "02_second"):
        assert f'href="{name}.html"' in index
        assert name in (folder / "report" / f"{name}.html").read_text(encoding="utf-8")

    started = time.monotonic()
    assert main(arguments) == 0 and time.monotonic() - started < 5
    assert capsys.readouterr().out.count("finished and unchanged, skipped") == 2


def test_failing_cell_is_shown(notebooks, dataset, tmp_path, capsys):
    assert main(["run", "--dataset", str(dataset), "--artifacts", str(tmp_path), "--set", "MODE=fail"]) == 1
    message, folder = capsys.readouterr().err, tmp_path / "tiles" / "quick"
    assert message.startswith("error: 02_second failed in this cell:")
    assert "ZeroDivisionError: no photos to divide by" in message
    assert 'raise ZeroDivisionError("no photos to divide by")' in message
    for file in ("02_second.ipynb", "02_second.log"):
        assert str(folder / "notebooks" / file) in message and (folder / "notebooks" / file).is_file()
    assert json.loads((folder / "pipeline.json").read_text()).keys() == {"01_first"}


def test_kernel_that_dies_is_an_error(notebooks, dataset, tmp_path):
    (tmp_path / "tiles" / "quick").mkdir(parents=True)
    parameters = {"DATASET": str(dataset), "ARTIFACTS": str(tmp_path), "MODE": "die"}
    with pytest.raises(PipelineError, match="(?s)[Kk]ernel.*died.*Executed copy: .*02_second.ipynb"):
        execute(pipeline.SERIES[1], parameters, tmp_path / "tiles" / "quick")


def test_sweep_has_a_mean_row_a_model(notebooks, tmp_path, capsys, monkeypatch):
    """Fake AUROC: 0.5 plus a hundredth a letter of the category."""
    monkeypatch.setattr(pipeline, "SERIES", (Node("02_second", (), ("leaderboard.csv",)),))
    for name in ("abcd", "abcdefgh"):
        (tmp_path / "data" / "parts" / name).mkdir(parents=True)
    arguments = ["sweep", "--dataset", str(tmp_path / "data" / "parts"), "--artifacts", str(tmp_path / "artifacts")]
    assert main([*arguments, "--classes", "abcd, abcdefgh", "--set", "02.COUNT=4"]) == 0
    file = tmp_path / "artifacts" / "sweeps" / "parts-quick.csv"
    assert str(file) in capsys.readouterr().out
    table = pd.read_csv(file)
    assert table["category"].tolist() == ["abcd", "abcd", "abcdefgh", "abcdefgh", "mean", "mean"]
    assert table["model"].tolist() == ["patchcore", "other"] * 3 and table["fit_seconds"].tolist() == [4] * 6
    assert table["image_auroc"].tolist() == pytest.approx([0.54, 0.25, 0.58, 0.25, 0.56, 0.25])
    assert table["n_test_normal"].tolist() == [10, 10, 10, 10, 20, 20], "a mean row counts all photos behind it"
    assert table["threshold"].isna().tolist() == [False] * 4 + [True] * 2, "scores of two runs share no scale"
    assert (tmp_path / "artifacts" / "parts-abcd" / "quick" / "leaderboard.csv").is_file()


@pytest.mark.parametrize(
    "mistake",
    [
        *(["run", "--set", "CONUT=3"], ["run", "--profile", "fast"], ["run", "--dataset", "nowhere"]),
        *(["run", "--only", "07"], ["run", "--name", "a/b"], ["sweep"], ["sweep", "--classes", "tiles nothing"]),
    ],
)
def test_mistakes_end_with_status_1_and_one_line(notebooks, dataset, executed, tmp_path, capsys, mistake):
    command, *options = mistake
    assert main([command, "--dataset", str(dataset), "--artifacts", str(tmp_path), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not executed


def test_prepared_copies_hold_the_parameters(notebooks, tmp_path, capsys):
    assert main(["prepare", "--profile", "quick", "--out", str(tmp_path / "out"), "--set", "LABEL=prepared"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / f"{n}.ipynb") for n in ("01_first", "02_second")]
    cells = nbformat.read(tmp_path / "out" / "02_second.ipynb", as_version=4).cells
    (injected,) = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert 'LABEL = "prepared"' in injected.source and not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("profile", ["quick", "full", "smoke"])
def test_profiles_of_the_series_are_valid_and_quick_is_what_the_notebooks_say_themselves(profile):
    import papermill

    found = collect_parameters(pipeline.NOTEBOOKS_FOLDER, profile, [], {})
    assert set(found) == {node.name for node in pipeline.SERIES}
    assert all(values["PROFILE"] == profile for values in found.values())
    for name, values in found.items() if profile == "quick" else ():
        declared = papermill.inspect_notebook(str(pipeline.NOTEBOOKS_FOLDER / f"{name}.ipynb"))
        assert values == {key: ast.literal_eval(declared[key]["default"]) for key in values}


def test_series_is_in_order_and_reads_what_comes_before():
    names = [node.name for node in pipeline.SERIES]
    assert names == sorted(names)
    for position, node in enumerate(pipeline.SERIES):
        assert (pipeline.NOTEBOOKS_FOLDER / f"{node.file}.ipynb").is_file()
        assert set(node.after) <= set(names[:position]) and node.leaves


def test_help_needs_no_heavy_import():
    """``--help`` and mistakes must answer at once: torch is not imported with the pipeline."""
    code = "import sys, helpers.pipeline; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pipeline.PROJECT_ROOT, check=True)
