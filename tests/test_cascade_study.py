"""What notebook 07 shows, worked out from known networks: both stages on every photo, objects of frames, times."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cascade_runs import CLASSES, KnownBackend, blue_frame, use_blue_objects, write_run
from PIL import Image
from pycocotools import mask as coco

from helpers.data.coco import InstancePhoto
from helpers.data.samples import fingerprint, make_table
from helpers.inference import Cascade, Predictor, predictor
from helpers.inference.cutting import CutterStage
from helpers.inference.stages import RunStage
from helpers.runs import MissingRunError
from helpers.studies import cascades as study

REDS = [10, 60, 70, 200, 250, 30, 65, 240]
GREENS = [250, 250, 100, 200, 90, 100, 90, 140]
DEFECT = [1, 1, 1, 1, 1, 0, 0, 0]
PASSES = [False, False, True, True, True, False, True, True]  # red above 0.25
CALLED = [True, True, False, True, False, False, False, True]  # green above 0.5


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)


@pytest.fixture
def photos(tmp_path) -> pd.DataFrame:
    """8 photos of test: so much red (what stage 1 sees) and green (what stage 2 sees), all over."""
    files = [str(tmp_path / f"{number}.png") for number in range(8)]
    for file, red, green in zip(files, REDS, GREENS, strict=True):
        Image.new("RGB", (24, 16), (red, green, 0)).save(file)
    kinds = ["hole" if label else "good" for label in DEFECT]
    return pd.DataFrame({"image_path": files, "split": "test", "label_index": DEFECT, "defect_type": kinds})


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "artifacts" / "wire" / "quick"


@pytest.fixture
def pair(home) -> Cascade:
    first, second = (Predictor(write_run(home / name), batch_size=3) for name in ("first", "second"))
    gate = RunStage(first, "area >= 1", pixel_threshold="start", otherwise="OK")
    return Cascade("pair", [gate, RunStage(second, "score > image", then="DEFECT", otherwise="OK")])


def test_both_stages_see_every_photo_and_the_cascade_decides_as_they_do(pair, photos, tmp_path):
    scores, limit = study.score_stages(pair, photos)
    assert limit.value < 1 and (scores["score_1"] > limit.value).tolist() == PASSES, "area >= 1 is > a hair below 1"
    assert (scores["score_2"] == 1).tolist() == CALLED == scores["alone_2"].tolist()
    verdicts = pair.run(photos["image_path"].tolist(), tmp_path / "out")
    assert verdicts["abnormal"].tolist() == [passes and called for passes, called in zip(PASSES, CALLED, strict=True)]
    assert (verdicts["stage"] == "second").tolist() == PASSES
    Path(photos["image_path"][2]).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2\.png"):
        study.score_stages(pair, photos)


@pytest.mark.parametrize(
    ("rule", "values", "limit"), [("always", [1.0] * 8, 0.5), ("peak > 0.25", [red / 255 for red in REDS], 0.25)]
)
def test_any_first_rule_is_a_number_above_a_limit(pair, photos, rule, values, limit):
    first = RunStage(pair.stages[0].predictor, rule, otherwise="" if rule == "always" else "OK")
    scores, found = study.score_stages(Cascade("other", [first, pair.stages[1]]), photos)
    np.testing.assert_allclose(scores["score_1"], values, rtol=1e-6)
    assert found.value == limit
    ignored = RunStage(first.predictor, "score > 0.25", otherwise="OK", ignore_no_defect=True)
    scores, found = study.score_stages(Cascade("other", [ignored, pair.stages[1]]), photos)
    assert found.exceeds(scores["score_1"]).all()


@pytest.mark.parametrize(("rule", "named"), [("score > 0.5", "hole"), ("always", "good"), ("score > 0.65", "good")])
def test_good_is_the_likeliest_but_a_rule_on_the_score_may_call_a_defect(tmp_path, home, pair, photos, rule, named):
    classifier = Predictor(write_run(home / "classifier", classes=CLASSES, normal="good"))
    stages = [RunStage(pair.stages[0].predictor, "score > 0.3", otherwise="no_defect")]
    stages.append(RunStage(classifier, rule, then="class", otherwise="" if rule == "always" else "good"))
    cascade, one = Cascade("steel", stages), photos.head(1)
    Image.new("RGB", (24, 16), (102, 89, 64)).save(one["image_path"].item())  # 0.4, 0.35, 0.25
    assert study.score_stages(cascade, one)[0]["score_2"].item() == float(named == "hole")
    (row,) = cascade.run(one["image_path"].tolist(), tmp_path / "out", save=()).itertuples()
    assert (row.verdict, row.abnormal) == (named, named == "hole")


def test_a_stage_that_only_shows_where_is_judged_alone_by_its_stored_threshold(pair, photos):
    first, second = pair.stages
    shows = RunStage(second.predictor, "always", then="DAMAGED")
    gate = RunStage(first.predictor, "score > 0.25", otherwise="INTACT")
    scores, _ = study.score_stages(Cascade("bicycle", [gate, shows]), photos)
    assert (scores["score_2"] == 1).all() and scores["alone_2"].tolist() == CALLED


def test_examples_are_of_every_way_to_end_with_what_each_stage_drew(pair, photos, tmp_path):
    verdicts = pair.run(photos["image_path"].tolist(), tmp_path / "out")
    shown = study.overlay_examples(tmp_path / "out", verdicts, photos, 4)
    assert shown["columns"] == 3 and len(shown["pictures"]) == len(shown["masks"]) == len(shown["titles"]) == 12
    assert sorted(shown["titles"][::3]) == ["good: OK", "hole: DEFECT", "hole: OK", "hole: OK"]
    assert "second: not seen" in shown["titles"]


def test_the_photos_that_no_stage_learned_from(tmp_path, pair):
    splits = ["train", "val", "test", "test"]
    rows = [{"image_path": f"{number}.png", "split": split} for number, split in enumerate(splits)]
    table = make_table(rows, root=tmp_path, layout="test", name="wire", published_split=True)
    for stage, own in zip(pair.stages, (splits, ["val", "val", "train", "test"]), strict=True):
        stage.predictor.run.table = table.assign(split=own)
        stage.predictor.run.info["samples"] = fingerprint(table)
    unseen = study.unseen_photos(pair, table)
    assert [(Path(row.image_path).stem, row.split) for row in unseen.itertuples()] == [("1", "val"), ("3", "test")]
    other = pair.stages[1].predictor.run
    other.info["samples"] = "of other splits"
    with pytest.raises(MissingRunError, match="second"):
        study.unseen_photos(pair, table)
    other.table = table.assign(image_path=[f"/elsewhere/{n}.png" for n in range(4)])
    assert len(study.unseen_photos(pair, table)) == 3, "a run of other photos has seen none of these"


@pytest.fixture
def frames(tmp_path, home, monkeypatch) -> tuple[Cascade, list[InstancePhoto]]:
    """Blue squares of 12 pixels; the cutter finds what is blue, the judge calls red above 0.5 a defect.

    Of four squares the third is too faint to be found, and a fifth that is blue is no object.
    """
    use_blue_objects(monkeypatch, home)
    picture, file = blue_frame(0.1, 0.9, 0.8, 0.2, 0.7), tmp_path / "frame.png"
    picture[8:20, 46:58, 2] = 20
    Image.fromarray(picture).save(file)
    squares = [np.pad(np.ones((12, 12), np.uint8), ((8, 10), (6 + 20 * n, 86 - 20 * n))) for n in range(4)]
    masks = [coco.encode(np.asfortranarray(square)) for square in squares]
    kinds = ["good", "dent", "stain", "good"]
    frame = InstancePhoto(file, picture.shape[:2], ["nut"] * 4, [False] * 4, masks, defect_types=kinds)
    cutter = CutterStage(home / "foreground", window=16, separate={"min_area": 20, "threshold": 0.01})
    judge = RunStage(Predictor(write_run(home / "first")), "peak > 0.5", then="DEFECT", otherwise="OK")
    return Cascade("frames", [cutter, judge]), [frame]


def test_what_becomes_of_every_object(frames, tmp_path):
    cascade, annotated = frames
    objects = study.judge_objects(cascade, annotated)
    true, extra = objects[objects["is_true"]], objects[~objects["is_true"]]
    assert true["object"].tolist() == [1, 2, 0, 3] and true["defect_type"].tolist() == annotated[0].defect_types
    assert true["called"].tolist() == [False, True, False, False]
    assert true["alone"].tolist() == [False, True, True, False], "cut out by its outline the lost one is seen, too"
    assert extra[["object", "label_index", "called"]].to_numpy().tolist() == [[4, 0, True]]
    truth = study.frame_table(annotated)
    assert truth[["split", "label_index", "defect_type"]].iloc[0].tolist() == ["test", 1, "dent, stain"]
    verdicts = cascade.run(truth["image_path"].tolist(), tmp_path / "out")
    assert verdicts["n_abnormal"].item() == objects.loc[objects["object"] > 0, "called"].sum()


def test_frames_that_say_nothing_of_defects(frames):
    unlabelled = InstancePhoto(Path("a.png"), (3, 3), ["nut"], [False], [], defect_types=[""])
    with pytest.raises(ValueError, match="defect_type"):
        study.frame_table([unlabelled])
    with pytest.raises(MissingRunError, match="FRAMES_DATASET"):
        frames[0].stages[0].unseen_frames(Path("/nowhere/frames"))


def test_times_are_of_the_stages_and_of_what_goes_on(pair, photos, frames, monkeypatch):
    """A network that takes 20 ms a photo: half of the photos go on, so the cascade takes one and a half times that."""
    monkeypatch.setattr(KnownBackend, "seconds_a_photo", 0.02)
    four = photos["image_path"].iloc[[0, 1, 3, 4]].tolist()
    times = study.time_cascade(pair, four).set_index("stage")["mean_ms"]
    assert list(times.index) == ["first", "second", "cascade"]
    stored = [json.loads((stage.predictor.run.folder / "speed.json").read_text()) for stage in pair.stages]
    assert [row["mean_ms"] for one in stored for row in one.values()] == times[["first", "second"]].tolist()
    assert 20 <= times["first"] < 29 and 20 <= times["second"] < 29 and 30 <= times["cascade"] < 43
    cascade, annotated = frames
    times = study.time_cascade(cascade, [annotated[0].image_path]).set_index("stage")["mean_ms"]
    assert list(times.index) == ["foreground", "first", "cascade"]
    assert times["first"] >= 4 * 20, "the four objects of the frame"
