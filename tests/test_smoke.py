"""The real series, small, through the pipeline."""

import json
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import HOSTILE, visit
from conftest import SERIES_BACKBONE as BACKBONE

from helpers import pipeline
from helpers.data.samples import read_table
from helpers.runs import Run, find_runs

pytestmark = pytest.mark.slow

SHARES = (
    *("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_aupro", "pixel_dice"),
    *("recall_at_threshold", "false_alarm_at_threshold"),
)
COLUMNS = ("model", "n_test_normal", "n_test_abnormal", *SHARES, "threshold", "fit_seconds", "ms_per_image")


@pytest.fixture(scope="session")
def settings(series_settings, small_nuts) -> list[str]:
    """With the frames that a cascade of notebook 07 judges."""
    return [*series_settings, f"FRAMES_DATASET={small_nuts}"]


@pytest.fixture(scope="session")
def series(small_mesh, small_nuts, settings, tmp_path_factory) -> Path:
    """The artifacts folder of the series, run once under the profile ``smoke``; beside it what 07 needs of nuts."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    pipeline.run(small_nuts, "smoke", settings=settings, artifacts=artifacts, only=["01", "02", "03"])
    return pipeline.run(small_mesh, "smoke", settings=settings, artifacts=artifacts)


def test_leaderboard_has_a_row_a_model_with_plausible_numbers(series):
    table = pd.read_csv(series / "leaderboard.csv")
    assert set(COLUMNS) <= set(table.columns)
    table["model"] = table["model"].str.split(" ").str[0]
    assert set(table["model"]) == {"patchcore", "unet", "deeplabv3plus", "draem", "glass", "classifier"}
    # of 3 photos of each of 4 defects a segmenter learns from one, and chooses its epoch by another
    assert (table["n_test_normal"] == 12).all() and (table["n_test_abnormal"] == 4).all()
    maps = table["model"] != "classifier"
    for name in SHARES:
        of_pixels = name.startswith("pixel")
        assert table.loc[maps | (not of_pixels), name].between(0, 1).all(), name
        assert not of_pixels or table.loc[~maps, name].isna().all(), name
    assert (table["fit_seconds"] > 0).all() and (table["ms_per_image"] > 0).all()
    schemes = table.set_index("model")["scheme"].to_dict()
    supervised = dict.fromkeys(("unet", "deeplabv3plus", "classifier"), "supervised")
    assert schemes == supervised | dict.fromkeys(("patchcore", "draem", "glass"), "one_class")
    if BACKBONE != "untrained:":
        auroc = table.set_index("model")["image_auroc"]["patchcore"]
        assert auroc > 0.7, "ImageNet features tell most of these defects; a guess has 0.5"


def test_raw_frames_become_a_dataset(series):
    from helpers import read_dataset

    measured = pd.read_csv(series / "foreground" / "objects_on_test.csv")
    assert measured["photo"].iloc[-1] == "all" and measured["n_true"].iloc[-1] > 4
    cutouts = read_dataset(series / "cutouts")
    assert (cutouts["label_index"] == 0).any()


def test_every_cascade_has_run(series):
    rates = pd.read_csv(series / "cascades" / "rates.csv")
    assert set(rates["cascade"]) == {"mesh", "nuts", "bicycle", "steel"}
    objects = rates[rates["unit"] == "objects"]
    assert set(objects["cascade"]) == {"nuts"} and (objects["n_abnormal"] > 0).all()
    for name in ("mesh", "nuts", "bicycle", "steel"):
        verdicts = pd.read_csv(series / "cascades" / name / "verdicts.csv")
        assert len(verdicts) and verdicts["verdict"].notna().all()


def test_invented_defects_leave_their_source_and_judgement(series):
    parameters = Run.load(series / "draem").info["parameters"]
    assert parameters["anomaly_source"]["kind"] == "built in" and parameters["anomaly_source"]["n_pictures"] == 200
    assert parameters["object_mask"] == "otsu" and parameters["backbone"] is None
    row = pd.read_csv(series / "evaluation" / "judgement.csv")
    pd.testing.assert_frame_equal(pd.read_excel(series / "evaluation" / "judgement.xlsx"), row)
    assert row["taken"].item() == Run.load(series / "glass").info["parameters"]["model"]["distribution"]


def test_leaderboard_follows_from_the_stored_predictions(series):
    from sklearn.metrics import average_precision_score, roc_auc_score

    table = pd.read_csv(series / "leaderboard.csv")
    row = table[table["model"].str.startswith("patchcore")].iloc[0]
    run = next(run for run in find_runs(series, read_table(series / "samples.csv")) if run.name == "patchcore")
    test, threshold = run.predictions("test"), run.thresholds["image"].value
    abnormal, flagged = test["label_index"] == 1, test["score"] > threshold
    expected = {
        "image_auroc": roc_auc_score(abnormal, test["score"]),
        "image_ap": average_precision_score(abnormal, test["score"]),
        "threshold": threshold,
        "recall_at_threshold": flagged[abnormal].mean(),
        "false_alarm_at_threshold": flagged[~abnormal].mean(),
    }
    assert len(test) == 16 and row[list(expected)].to_dict() == pytest.approx(expected)


def test_thresholds_rest_on_enough_photos(series):
    run = Run.load(series / "patchcore")
    assert run.info["counts"]["val_normal"] >= 20 and not run.thresholds["image"].warning
    val = run.predictions("val")
    for name, column in (("image", "score"), ("pixel", "map_max")):
        assert 0.95 <= (val[column] <= run.thresholds[name].value).mean() <= 1, name


def test_report_and_records_are_complete(series):
    index = (series / "report" / "index.html").read_text(encoding="utf-8")
    assert ("untrained" in index) == (BACKBONE == "untrained:")
    for node in pipeline.SERIES:
        assert f'href="{node.name}.html"' in index
        page = (series / "report" / f"{node.name}.html").read_text(encoding="utf-8")
        assert "<img" in page, f"{node.name} shows no figure"
        record = json.loads((series / "records" / f"{node.name}.json").read_text(encoding="utf-8"))
        assert record["notebook"] == node.name
        for file in node.leaves:
            assert (series / file).is_file()
    findings = pd.read_csv(series / "findings.csv")
    assert not (findings["severity"] == "error").any()


def test_executed_copies_show_no_error_and_no_warning(series):
    for node in pipeline.SERIES:
        notebook = nbformat.read(series / "notebooks" / f"{node.name}.ipynb", as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error"
                if output.output_type == "stream" and output.name == "stderr" and BACKBONE != "untrained:":
                    pytest.fail(f"{node.name} says on stderr: {output.text}")


def test_second_time_everything_is_skipped(series, small_mesh, settings, capsys):
    before = (series / "patchcore" / "run.json").stat().st_mtime_ns
    started = time.monotonic()
    pipeline.run(small_mesh, "smoke", settings=settings, artifacts=series.parents[1])
    assert time.monotonic() - started < 30
    assert capsys.readouterr().out.count("finished and unchanged, skipped") == len(pipeline.SERIES)
    assert (series / "patchcore" / "run.json").stat().st_mtime_ns == before


def test_a_forced_second_run_finds_the_trainings_finished(series, small_mesh, settings):
    files = [series / "patchcore" / "run.json", series / "unet" / "run.json", series / "foreground" / "foreground.ckpt"]
    before = [file.stat().st_mtime_ns for file in files]
    pipeline.run(small_mesh, "smoke", settings=settings, artifacts=series.parents[1], only=["02", "03"], force=True)
    assert [file.stat().st_mtime_ns for file in files] == before
    for name in ("02_train_patchcore", "03_train_unet_deeplabv3plus"):
        copy = (series / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        assert "found finished: " in copy


def test_command_line_refuses_a_typing_error_before_anything_runs(small_mesh, tmp_path, capsys):
    arguments = ["run", "--dataset", str(small_mesh), "--artifacts", str(tmp_path), "--profile", "smoke"]
    assert pipeline.main([*arguments, "--set", "CORESET_RATO=0.1"]) == 1
    message = capsys.readouterr().err
    assert "CORESET_RATO" in message and "CORESET_RATIO" in message and not list(tmp_path.iterdir())


def test_a_class_whose_name_is_a_script_is_text_in_every_report(series, browser):
    pages = [series / "report" / f"{name}.html" for name in ("index", *(node.name for node in pipeline.SERIES))]
    assert sum(HOSTILE in visit(browser, page) for page in [series / "evaluation" / "report.html", *pages]) >= 5
