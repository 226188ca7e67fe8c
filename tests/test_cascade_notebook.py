"""What notebook 07 shows, worked out from known networks: stages by hand, rates, losses, costs, times; its pipeline."""

from __future__ import annotations

import ast
import builtins
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, write_run
from PIL import Image

from helpers import pipeline
from helpers.analysis.costs import Prices
from helpers.data.coco import InstancePhoto
from helpers.data.samples import fingerprint, make_table
from helpers.inference import Cascade, predictor
from helpers.inference.stages import CutterStage, Item, RunStage
from helpers.pipeline import Node
from helpers.runs import MissingRunError
from helpers.studies import cascades as study
from helpers.thresholds import Threshold
from helpers.views.widgets import cost_explorer

REDS = [10, 60, 70, 200, 250, 30, 65, 240]
GREENS = [250, 250, 100, 200, 90, 100, 90, 140]
DEFECT = [1, 1, 1, 1, 1, 0, 0, 0]
# red above 0.25 goes on, green above 0.5 is called a defect
PASSES = [False, False, True, True, True, False, True, True]
CALLED = [True, True, False, True, False, False, False, True]


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)


@pytest.fixture
def photos(tmp_path) -> pd.DataFrame:
    """8 photos of test: so much red (what stage 1 sees) and green (what stage 2 sees), all over."""
    rows = []
    for number, (red, green, label) in enumerate(zip(REDS, GREENS, DEFECT, strict=True)):
        picture = np.zeros((16, 24, 3), np.uint8)
        picture[..., 0], picture[..., 1] = red, green
        file = tmp_path / "photos" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(file)
        kind = "hole" if label else "good"
        rows.append({"image_path": str(file), "split": "test", "label_index": label, "defect_type": kind})
    return pd.DataFrame(rows)


@pytest.fixture
def pair(tmp_path) -> Cascade:
    """``first`` lets pass what has red above 0.25 everywhere, ``second`` calls green above 0.5 a defect."""
    home = tmp_path / "artifacts" / "drawn" / "quick"
    first, second = (predictor.Predictor(write_run(home / name)) for name in ("first", "second"))
    stages = [
        RunStage(first, "area >= 1", pixel_threshold="start", otherwise="OK"),
        RunStage(second, "score > image", then="DEFECT", otherwise="OK"),
    ]
    return Cascade("pair", stages, batch_size=3)


# --------------------------------------------------------------------------------------------------- stages by hand


def test_both_stages_see_every_photo(pair, photos):
    hand = study.score_by_hand(pair, photos)
    assert (hand.first, hand.second, hand.second_decides) == ("first", "second", True)
    assert hand.limit.value < 1 and np.float64(1) > hand.limit.value, "area >= 1 is area > a hair below 1"
    assert (hand.scores["score_1"] > hand.limit.value).tolist() == PASSES
    assert (hand.scores["score_2"] == 1).tolist() == CALLED and hand.scores["alone_2"].tolist() == CALLED


def test_rates_and_losses_by_hand(pair, photos):
    hand = study.score_by_hand(pair, photos)
    rates = study.stage_rates(hand).set_index("decided_by")
    assert rates["found"].to_dict() == {"stage 1 alone": 3, "stage 2 alone": 3, "both": 1}
    assert rates["false_alarms"].to_dict() == {"stage 1 alone": 2, "stage 2 alone": 1, "both": 1}
    assert (rates["n_defect"] == 5).all() and (rates["n_normal"] == 3).all()
    # Wilson 1927 for 3 of 5, by a calculator
    assert rates.loc["stage 1 alone", ["recall_low", "recall_high"]].tolist() == pytest.approx(
        [0.2307, 0.8824], abs=1e-4
    )
    lost = study.lost_for_good(hand)
    assert [Path(path).stem for path in lost["image_path"]] == ["0", "1"] and lost["found_by_stage_2"].all()


def test_a_cascade_agrees_with_its_stages_by_hand_and_a_changed_verdict_is_noticed(pair, photos, tmp_path):
    hand = study.score_by_hand(pair, photos)
    verdicts = pair.run(photos["image_path"].tolist(), tmp_path / "out")
    assert study.disagreements(hand, verdicts).empty
    verdicts.loc[3, "abnormal"] = False
    verdicts.loc[5, "stage"] = "second"
    assert [Path(path).stem for path in study.disagreements(hand, verdicts)["image_path"]] == ["3", "5"]
    with pytest.raises(ValueError, match="1 photos of the cascade were not run by hand"):
        study.disagreements(study.score_by_hand(pair, photos.iloc[1:]), verdicts)


@pytest.mark.parametrize(
    ("rule", "colours"),
    [("score > 0.5", (0.4, 0.35, 0.25)), ("always", (0.4, 0.35, 0.25)), ("score > 0.65", (0.4, 0.3, 0.3))],
)
def test_named_classes_agree(tmp_path, pair, rule, colours):
    """Good is the likeliest, but a rule on the score may call the photo a defect all the same."""
    home = tmp_path / "artifacts" / "drawn" / "quick"
    classifier = predictor.Predictor(write_run(home / "classifier", classes=CLASSES, normal="good"))
    otherwise = "" if rule == "always" else "good"
    stages = [RunStage(pair.stages[0].predictor, "score > 0.3", otherwise="no_defect")]
    stages.append(RunStage(classifier, rule, then="class", otherwise=otherwise))
    file = tmp_path / "a.png"
    Image.fromarray(np.full((16, 24, 3), np.round(255 * np.array(colours)), np.uint8)).save(file)
    table = pd.DataFrame([{"image_path": str(file), "split": "test", "label_index": 1, "defect_type": "hole"}])
    cascade = Cascade("steel", stages)
    hand = study.score_by_hand(cascade, table)
    assert hand.scores["named"].item() == ("hole" if rule == "score > 0.5" else "good")
    assert hand.scores["score_2"].item() == (rule == "score > 0.5")
    assert study.disagreements(hand, cascade.run([str(file)], tmp_path / "out", save=())).empty


def test_a_stage_that_only_shows_where_decides_nothing(pair, photos, tmp_path):
    """As in the preset bicycle: alone it is judged by the threshold that is stored with its run."""
    first, second = pair.stages
    shows = RunStage(second.predictor, "always", then="DAMAGED")
    cascade = Cascade("bicycle", [RunStage(first.predictor, "score > 0.25", otherwise="INTACT"), shows])
    hand = study.score_by_hand(cascade, photos)
    assert not hand.second_decides and (hand.scores["score_2"] == 1).all()
    assert hand.scores["alone_2"].tolist() == CALLED
    rates = study.stage_rates(hand).set_index("decided_by")
    assert (
        rates.loc["both", ["found", "false_alarms"]].tolist()
        == rates.loc["stage 1 alone", ["found", "false_alarms"]].tolist()
    )
    assert rates.loc["stage 2 alone", "found"] == 3


def test_a_cascade_that_cannot_be_taken_apart_is_refused(pair, photos):
    with pytest.raises(ValueError, match="two runs in a row"):
        study.score_by_hand(Cascade("one", [pair.stages[1]]), photos)
    masked = RunStage(pair.stages[0].predictor, "area >= 1", object_mask="otsu", otherwise="OK")
    with pytest.raises(ValueError, match="inside an object mask"):
        study.score_by_hand(Cascade("masked", [masked, pair.stages[1]]), photos)
    (Path(photos["image_path"][2])).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2\.png"):
        study.score_by_hand(pair, photos)


def test_where_photos_end_and_what_each_stage_saw(pair, photos, tmp_path):
    (tmp_path / "photos" / "7.png").write_bytes(b"no picture")
    verdicts = pair.run(photos["image_path"].tolist(), tmp_path / "out")
    counts = study.outcomes(verdicts, photos, "first")
    assert counts.loc["defect"].tolist() == [2, 2, 1, 0]
    assert counts.loc["good"].tolist() == [1, 1, 0, 1]
    stages = study.stage_counts(tmp_path / "out", photos).set_index("stage")
    assert stages.loc["first", ["seen", "of defect photos", "of good photos", "held"]].tolist() == [8, 5, 3, 4]
    assert stages.loc["second", ["seen", "of defect photos", "of good photos", "held"]].tolist() == [4, 3, 1, 1]
    shown = study.overlay_examples(tmp_path / "out", verdicts, photos, 4)
    assert shown["columns"] == 3 and len(shown["images"]) == len(shown["titles"]) == 12
    firsts = shown["titles"][::3]
    assert sorted(firsts) == ["good: OK", "hole: DEFECT", "hole: OK", "hole: OK"], "one of each way to end"
    assert "second: not seen" in shown["titles"]


def test_the_photos_that_no_stage_learned_from(tmp_path, pair):
    rows = [
        {"image_path": f"{number}.png", "split": split} for number, split in enumerate(["train", "val", "test", "test"])
    ]
    table = make_table(rows, root=tmp_path, layout="test", name="drawn", published_split=True)
    for stage, splits in zip(
        pair.stages, (["train", "val", "test", "test"], ["val", "val", "train", "test"]), strict=True
    ):
        run = stage.predictor.run
        run.table = table.assign(split=splits)
        run.info["samples"] = fingerprint(table)
    unseen = study.unseen_photos(pair, table)
    assert [(Path(row.image_path).stem, row.split) for row in unseen.itertuples()] == [("1", "val"), ("3", "test")]
    pair.stages[1].predictor.run.info["samples"] = "of other splits"
    with pytest.raises(MissingRunError, match="second was made with other photos or splits"):
        study.unseen_photos(pair, table)
    pair.stages[1].predictor.run.table = table.assign(image_path=[f"/elsewhere/{n}.png" for n in range(4)])
    assert len(study.unseen_photos(pair, table)) == 3, "a run of other photos has seen none of these"


def test_cascades_that_can_run_and_what_the_others_lack(tmp_path):
    content = yaml.safe_load((study.PRESETS_FOLDER / "mesh.yml").read_text())
    home = tmp_path / "artifacts" / "wire" / "quick"
    for name in ("unet", "deeplabv3plus"):
        write_run(home / name)
    places = dict.fromkeys(
        (False, True), {"ARTIFACTS": str(tmp_path / "artifacts"), "DATASET": "wire", "PROFILE": "quick"}
    )
    found, state = study.open_cascades(study.preset_names(), places)
    assert (
        list(found) == ["mesh"] and found["mesh"].parameters["area_thresh"] == content["parameters"]["area_thresh"] == 0
    )
    said = state.set_index("cascade")["state"]
    assert said["mesh"] == "ready"
    for name, notebook in {
        "bicycle": "05_train_classifiers",
        "steel": "02_train_patchcore",
        "nuts": "03_train",
    }.items():
        assert notebook in said[name]
    with pytest.raises(MissingRunError, match=r"(?s)None of the cascades can run.*steel: .*02_train_patchcore"):
        study.open_cascades(["steel"], places)


# ------------------------------------------------------------------------------------------------------------ costs


def by_hand(val: list[tuple], test: list[tuple]) -> study.ByHand:
    rows = [("val", *row) for row in val] + [("test", *row) for row in test]
    scores = pd.DataFrame(rows, columns=["split", "label_index", "score_1", "score_2"]).assign(defect_type="", named="")
    scores["alone_2"] = scores["score_2"] > 0.5
    return study.ByHand(scores, Threshold(value=0.5, origin="by hand"), "first", "second", True)


VAL = [(1, 0.2, 1.0), (1, 0.8, 1.0), (0, 0.1, 1.0), (0, 0.3, 1.0), (0, 0.4, 0.0), (0, 0.6, 0.0)]


def test_the_best_first_threshold_is_of_val_and_its_cost_of_test():
    """Dear misses: both defects of val must go on, so the limit lies below 0.2; cheap ones: only the one at 0.8."""
    test = [(1, 0.15, 1.0), (1, 0.9, 1.0), (0, 0.7, 1.0), (0, 0.05, 1.0)]
    table = study.costs_by_case(by_hand(VAL, test), [0.5], [1.0, 100.0], Prices(1.0, 1.0))
    cheap, dear = table.iloc[0], table.iloc[1]
    assert dear["threshold_1"] == pytest.approx(0.1) and cheap["threshold_1"] in (np.float32(0.1), np.float32(0.3))
    # at 0.1 both test defects go on and are called; of two good photos one goes on and is a false alarm
    assert dear["recall"] == 1 and dear["false_alarm_rate"] == 0.5
    assert dear["cost"] == pytest.approx(0.5 * 0.5)
    # at 0.5, as set, one defect of two is lost
    assert dear["cost_as_set"] == pytest.approx(0.5 * 0.5 * 100 + 0.5 * 0.5)
    # stage 2 alone calls all four a defect
    assert dear["cost_stage_2"] == pytest.approx(0.5)
    other = study.costs_by_case(by_hand(VAL, [(1, 0.0, 0.0), (0, 9.0, 1.0)]), [0.5], [1.0, 100.0], Prices(1.0, 1.0))
    assert other["threshold_1"].tolist() == table["threshold_1"].tolist(), "test photos choose nothing"


def test_without_defects_in_val_no_threshold_is_chosen():
    assert by_hand(VAL, VAL).has_both_classes()
    assert not by_hand([row for row in VAL if row[0] == 0], VAL).has_both_classes()


def test_the_sliders_say_what_the_figure_says():
    hand = by_hand(VAL, VAL)
    page = cost_explorer(hand.part("val"), study.CALLED, Prices(1.0, 1.0), prevalence=0.5, price_ratio=100.0)
    share, ratio, words, curve = page.children
    assert "lowest at 0.1:" in words.value and bytes(curve.value).startswith(b"\x89PNG")
    ratio.value, share.value = 1.0, 0.0001
    # hardly a defect, and no dear miss: above 0.3 no good photo is a false alarm; two of four still go on
    assert "lowest at 0.3:" in words.value and " 50 % of the photos" in words.value


# ------------------------------------------------------------------------------------------------- objects of frames


@pytest.fixture
def frames(tmp_path, monkeypatch) -> tuple[Cascade, list[InstancePhoto]]:
    """Blue squares of 12 pixels; the cutter finds what is blue, the judge calls red above 0.5 a defect.

    Of four squares the third is too faint to be found, and a fifth that is blue is no object.
    """
    from pycocotools import mask as coco

    from helpers.inference import cutting
    from helpers.models import foreground

    home = tmp_path / "artifacts" / "drawn" / "quick"
    (home / "foreground").mkdir(parents=True)
    (home / "foreground" / "foreground.json").write_text(json.dumps({"fingerprint": "x", "seed": 0}))

    class Network:
        def to(self, device):
            return self

    def blue(network, picture):
        return picture[:, :, 2].astype(np.float32) / 255

    monkeypatch.setattr(cutting, "load_foreground", lambda folder: Network())
    monkeypatch.setattr(foreground, "predict_distance", blue)
    monkeypatch.setattr(study, "predict_distance", blue)
    picture = np.zeros((30, 110, 3), np.uint8)
    masks = []
    for number, (shade, red) in enumerate([(255, 0.1), (255, 0.9), (20, 0.8), (255, 0.2), (255, 0.7)]):
        left = 6 + 20 * number
        picture[8:20, left : left + 12, 2] = shade
        picture[12:16, left + 4 : left + 8, 0] = round(255 * red)
        mask = np.zeros(picture.shape[:2], np.uint8)
        mask[8:20, left : left + 12] = 1
        masks.append(coco.encode(np.asfortranarray(mask)))
    file = tmp_path / "frames" / "0.png"
    file.parent.mkdir()
    Image.fromarray(picture).save(file)
    kinds = ["good", "dent", "stain", "good"]
    frame = InstancePhoto(file, picture.shape[:2], ["nut"] * 4, [False] * 4, masks[:4], defect_types=kinds)
    cutter = CutterStage(home / "foreground", window=16, separate={"min_area": 20, "restore": False})
    judge = RunStage(predictor.Predictor(write_run(home / "first")), "peak > 0.5", then="DEFECT", otherwise="OK")
    return Cascade("frames", [cutter, judge]), [frame]


def test_what_becomes_of_every_object(frames, tmp_path):
    cascade, annotated = frames
    objects = study.judge_objects(cascade, annotated)
    true = objects[objects["is_true"]]
    assert true["object"].tolist() == [1, 2, 0, 3]
    assert true["called"].tolist() == [False, True, False, False]
    assert true["alone"].tolist() == [False, True, True, False], "cut out by its outline the lost one is seen, too"
    extra = objects[~objects["is_true"]]
    assert extra["object"].tolist() == [4] and extra["called"].tolist() == [True]
    lost = study.lost_objects(objects)
    assert lost["defect_type"].tolist() == ["stain"] and lost["found_by_stage_2"].tolist() == [True]
    rates = study.object_rates(objects).set_index("decided_by")
    assert rates["found"].to_dict() == {"stage 1 finds": 1, "stage 2 alone": 2, "both": 1}
    assert rates["false_alarms"].tolist() == [0, 0, 0] and rates["n_normal"].tolist() == [0, 2, 2]
    assert np.isnan(rates.loc["stage 1 finds", "false_alarm_rate"])

    truth = study.frame_table(annotated)
    assert truth[["label_index", "defect_type", "n_objects", "n_defect"]].iloc[0].tolist() == [1, "dent, stain", 4, 2]
    verdicts = cascade.run(truth["image_path"].tolist(), tmp_path / "out")
    assert study.object_disagreements(objects, verdicts).empty
    assert len(study.object_disagreements(objects.assign(called=False), verdicts)) == 1
    assert study.frame_rates(verdicts, truth)["found"].item() == 1


def test_the_edge_of_an_object_is_not_judged(frames, tmp_path):
    """Two pixels of red at the edge of an object of 12: seen without ``shrink``, not seen with 3; 6 leave nothing."""
    cascade, annotated = frames
    cutter = cascade.stages[0]
    labels = np.zeros((30, 40), np.int64)
    labels[8:20, 10:22] = 1
    sizes = {0: 12, 3: 6, 5: 2, 6: 12}  # what is left of each side; where that is nothing, all is judged
    for pixels, side in sizes.items():
        cutter.shrink = pixels
        (part,) = cutter.cut(Item("a.png", "a", np.zeros((30, 40, 3), np.uint8)), labels)
        assert part.mask.sum() == side**2, pixels
        assert part.box == (10, 8, 12, 12), "the object is still as large as it is"
    assert cutter.describe()["shrink"] == 6
    picture = np.array(Image.open(annotated[0].image_path))
    picture[8:20, :, 0] = 0
    picture[8:20, 6:8, 0] = 255
    for pixels, called in ((0, 1), (3, 0)):
        cutter.shrink = pixels
        verdicts = cascade.run([picture], tmp_path / f"shrink {pixels}", save=())
        assert verdicts["n_abnormal"].item() == called
    with pytest.raises(ValueError, match="shrink must be 0 or more pixels, got -1"):
        CutterStage(tmp_path / "artifacts/drawn/quick/foreground", shrink=-1)


def test_frames_that_say_nothing_of_defects(frames):
    unlabelled = InstancePhoto(Path("a.png"), (3, 3), ["nut"], [False], [], defect_types=[""])
    with pytest.raises(ValueError, match=r"a\.png: its annotations lack 'defect_type'"):
        study.frame_table([unlabelled])
    with pytest.raises(MissingRunError, match="FRAMES_DATASET"):
        study.test_frames(frames[0], Path("/nowhere/frames"))


# -------------------------------------------------------------------------------------------------------------- time


def test_times_are_of_the_stages_and_of_what_goes_on(pair, photos, frames, monkeypatch):
    """A network that takes 20 ms a photo: half of the photos go on, so the cascade takes one and a half times that."""
    monkeypatch.setattr(KnownBackend, "seconds_a_photo", 0.02)
    four = photos["image_path"].iloc[[0, 1, 3, 4]].tolist()
    times = study.time_cascade(pair, four).set_index("stage")["mean_ms"]
    assert list(times.index) == ["first", "second", "cascade"]
    assert 20 <= times["first"] < 29 and 20 <= times["second"] < 29
    assert [stage.predictor.photo_time([])["mean_ms"] for stage in pair.stages] == times[["first", "second"]].tolist()
    assert 1.5 * 20 <= times["cascade"] < 1.5 * 20 + 13
    cascade, annotated = frames
    times = study.time_cascade(cascade, [annotated[0].image_path]).set_index("stage")["mean_ms"]
    assert list(times.index) == ["foreground", "first", "cascade"]
    assert times["first"] >= 4 * 20, "the four objects of the frame"


# ---------------------------------------------------------------------------------------------------------- pipeline

BESIDE = ["01_setup_and_validate", "02_train_patchcore", "03_foreground"]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Built-in datasets in a project of its own, and processes that only leave what notebooks leave."""
    root = tmp_path / "project"
    for name in ("mesh", "nuts", "other"):
        (root / "datasets" / name).mkdir(parents=True)
    monkeypatch.setattr(pipeline, "PROJECT_ROOT", root)
    monkeypatch.setattr(pipeline, "NEEDS", dict.fromkeys(pipeline.NEEDS, lambda table: True))
    about = {"root": root, "layout": "plain", "name": "any", "published_split": False}
    monkeypatch.setattr(pipeline, "read_table", lambda file: make_table([], **about))
    monkeypatch.setattr(pipeline, "_fingerprint", lambda node, values, dataset, before: repr((values, list(before))))
    return root


@pytest.fixture
def run(project, tmp_path, monkeypatch):
    """Run the series on a built-in dataset; returns dataset and node of what was executed."""
    calls: list[tuple[str, str]] = []

    def leave(node, parameters, folder):
        calls.append((folder.parent.name, node.name))
        assert parameters["DATASET"] == str(project / "datasets" / folder.parent.name)
        for name in node.leaves:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("x")
        return 1.0

    monkeypatch.setattr(pipeline, "execute", leave)
    monkeypatch.setattr(pipeline, "write_report", lambda folder, state: folder)

    def start(dataset: str, *settings: str, **options) -> list[tuple[str, str]]:
        calls.clear()
        path = project / "datasets" / dataset
        pipeline.run(path, "quick", settings=settings, artifacts=tmp_path / "artifacts", **options)
        return list(calls)

    return start


def test_the_series_on_mesh_makes_what_the_cascade_of_nuts_needs(run, tmp_path):
    calls = run("mesh")
    assert [name for dataset, name in calls if dataset == "nuts"] == BESIDE
    own = [name for dataset, name in calls if dataset == "mesh"]
    assert own == [node.name for node in pipeline.SERIES]
    assert calls.index(("nuts", BESIDE[-1])) + 1 == calls.index(("mesh", pipeline.CASCADES)), (
        "right before they are read"
    )
    assert run("mesh") == []
    (tmp_path / "artifacts/nuts/quick/foreground/foreground.json").unlink()
    assert run("mesh") == [("nuts", "03_foreground")]
    assert {("nuts", "03_foreground"), ("mesh", pipeline.CASCADES)} <= set(run("mesh", "FOREGROUND_EPOCHS=3"))


def test_other_datasets_and_single_notebooks_have_nothing_beside_them(run):
    for dataset in ("other", "nuts"):
        assert {name for name, _ in run(dataset)} == {dataset}
    assert run("mesh", only=["07"]) == [("mesh", pipeline.CASCADES)]
    assert run("mesh", only=["01"]) == [("mesh", "01_setup_and_validate")]


def test_the_runs_of_nuts_are_not_done_twice(run):
    """What the series on nuts has made is found finished, and the other way round."""
    run("nuts")
    assert [call for call in run("mesh") if call[0] == "nuts"] == [("nuts", "03_foreground")]
    assert run("nuts") == []


def test_part_of_a_notebook_is_written_without_the_tagged_cells(tmp_path, monkeypatch):
    cells = [nbformat.v4.new_code_cell(f"a = {number}") for number in range(3)]
    cells[1].metadata["tags"] = ["slow"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "03_all.ipynb")
    monkeypatch.setattr(pipeline, "NOTEBOOKS_FOLDER", tmp_path)
    node = Node("03_part", (), (), part_of="03_all", without="slow")
    assert node.path == tmp_path / "03_all.ipynb" and node.number == "03"
    part = nbformat.read(pipeline.write_part(node, tmp_path / "part.ipynb"), as_version=4)
    assert [cell.source for cell in part.cells] == ["a = 0", "a = 2"]


def test_the_part_of_notebook_03_stands_alone(tmp_path):
    """Every name that its cells read is made in one of them, before; and it trains no segmenter."""
    node = pipeline.BESIDE["mesh"][1][-1]
    part = nbformat.read(pipeline.write_part(node, tmp_path / "part.ipynb"), as_version=4)
    known = set(dir(builtins))
    for cell in part.cells:
        if cell.cell_type == "code":
            nodes = list(ast.walk(ast.parse(cell.source)))
            known |= {name.id for name in nodes if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
            known |= {
                a.asname or a.name.split(".")[0]
                for one in nodes
                if isinstance(one, ast.Import | ast.ImportFrom)
                for a in one.names
            }
            read = {name.id for name in nodes if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load)}
            assert read <= known, cell.source
    text = "\n".join(cell.source for cell in part.cells if cell.cell_type == "code")
    assert "train_or_load_foreground(" in text and "train_segmenter(" not in text
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in part.cells) == 1
