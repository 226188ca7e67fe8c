"""Cascades: stages worked out from colours, every rule, nothing lost or done twice, refusals that say what to do."""

import copy
import errno
import functools
import json
import operator
import os
import shutil
import signal
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CLASSES, KnownBackend, blue_frame, shrink, use_blue_objects, write_open_set, write_run
from conftest import dead_process
from PIL import Image

from helpers.data.images import map_at_photo_size
from helpers.drawing import draw_overlay
from helpers.inference import Cascade, Predictor, predictor
from helpers.inference.cascade import VERDICT_COLUMNS
from helpers.inference.cutting import CutterStage
from helpers.inference.object_mask import clean_mask
from helpers.inference.pictures import STAGE_COLUMNS, Item
from helpers.inference.presets import PRESETS_FOLDER, CascadeError
from helpers.inference.stages import RunStage
from helpers.paths import InUseError, hold, partial_path
from helpers.runs import MissingRunError

PAIR = {
    "name": "pair",
    "parameters": {"DATASET": "wire", "area_thresh": 0.25, "LIMIT": "image"},
    "stages": [
        {"run": "first", "pixel_threshold": "start", "rule": "area >= area_thresh", "otherwise": "OK"},
        {"run": "second", "rule": "score > LIMIT", "then": "DEFECT", "otherwise": "OK"},
    ],
}
TABLES = {"cascade.json", "journal.jsonl", "verdicts.csv", "verdicts.json", "stages.csv", "stages.json"}
JUDGE = {"then": "DEFECT", "otherwise": "OK"}


@pytest.fixture(autouse=True)
def known_networks(monkeypatch):
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)
    monkeypatch.setattr(KnownBackend, "seen", 0)


@pytest.fixture
def home(tmp_path) -> Path:
    """Runs ``first``, ``second``, ``classifier`` (with a normal class) and ``kinds`` (without)."""
    folder = tmp_path / "artifacts" / "wire" / "quick"
    for name in ("first", "second"):
        write_run(folder / name)
    write_run(folder / "classifier", classes=CLASSES, normal="good")
    write_run(folder / "kinds", classes=[*CLASSES[1:], "stain"])
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def photo(red: float = 0.0, green: float = 0.0, blue: float = 0.0, red_columns: int = 8) -> np.ndarray:
    """A photo of 16 x 24 pixels: so much red (0 to 1) in so many eighths of its width, green and blue everywhere."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, : 3 * red_columns, 0] = round(255 * red)
    picture[:, :, 1], picture[:, :, 2] = round(255 * green), round(255 * blue)
    return picture


def save(folder: Path, **pictures: np.ndarray) -> Path:
    folder.mkdir()
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def open_pair(home: Path, content: dict | None = None, batch_size: int = 8, **settings) -> Cascade:
    file = home / "pair.yml"
    file.write_text(yaml.safe_dump(content or PAIR))
    return Cascade.from_yaml(file, {"ARTIFACTS": str(home.parents[1])} | settings, batch_size=batch_size)


def one_stage(**options) -> dict:
    return {"parameters": {"DATASET": "wire"}, "stages": [options]}


def judge(home: Path, run: str, rule: str, **options) -> RunStage:
    return RunStage(Predictor(home / run), rule, **options)


def judged(stage: RunStage, picture: np.ndarray, out: Path, pictures: Sequence[str] = ()) -> tuple[Item, dict]:
    item = Item("a.png", "a", picture)
    stage.run([item], out, pictures)
    return item, item.rows[0]


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.drop(columns="milliseconds"), other.drop(columns="milliseconds"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """20 photos: red grows with the number, green falls."""
    pictures = {f"{n:02d}": photo(red=n / 20, green=1 - n / 20, red_columns=4) for n in range(20)}
    return save(tmp_path / "photos", **pictures)


# ------------------------------------------------------------------------------------------------ stages from colours


def test_a_cascade_is_its_stages_one_after_the_other(home, photos, out, tmp_path):
    """Verdicts, scores, rows and files worked out from the colours; nothing else is left behind."""
    verdicts = open_pair(home).run(photos, out)
    reds = [round(255 * (n / 20)) / 255 for n in range(20)]
    greens = [round(255 * (1 - n / 20)) / 255 for n in range(20)]
    passes = [red > 0.25 for red in reds]  # half of the columns are red; a quarter of the map must be above 0.25
    expected = ["DEFECT" if go and green > 0.5 else "OK" for go, green in zip(passes, greens, strict=True)]
    assert verdicts["verdict"].tolist() == expected and 3 < expected.count("DEFECT") < 10
    assert verdicts["abnormal"].tolist() == [word == "DEFECT" for word in expected]
    scores = [green if go else red for go, red, green in zip(passes, reds, greens, strict=True)]
    np.testing.assert_allclose(verdicts["score"], scores, rtol=1e-6)
    rows = pd.read_csv(out / "stages.csv")
    firsts, seconds = rows[rows["stage"] == "first"], rows[rows["stage"] == "second"]
    assert (list(verdicts.columns), list(rows.columns)) == (list(VERDICT_COLUMNS), list(STAGE_COLUMNS))
    assert firsts["photo"].tolist() == verdicts["photo"].tolist() == [f"{n:02d}.png" for n in range(20)]
    np.testing.assert_allclose(firsts["area"], [0.5 * go for go in passes])
    assert firsts["value"].equals(firsts["area"].rename("value")) and firsts["passed"].tolist() == passes
    assert set(firsts["threshold"]) == {0.25} and set(firsts["origin"]) == {"parameter area_thresh"}
    assert seconds["photo"].tolist() == firsts["photo"][firsts["passed"]].tolist()
    assert set(seconds["threshold"]) == {0.5} and set(seconds["origin"]) == {"by hand (image)"}

    stored, every = (json.loads((out / f"{name}.json").read_text()) for name in ("verdicts", "stages"))
    assert [row["verdict"] for row in stored] == expected == pd.read_csv(out / "verdicts.csv")["verdict"].tolist()
    for name in ("first", "second"):
        found = json.loads((out / name / "inference_results.json").read_text())
        assert found == [row for row in every if row["stage"] == name]
    assert json.loads((out / "cascade.json").read_text())["parameters"]["area_thresh"] == 0.25
    kinds = ("masks/{}.png", "maps/{}.npy", "overlays/{}.jpg")
    pictures = {f"{row.stage}/{kind.format(row.photo[:2])}" for row in rows.itertuples() for kind in kinds}
    assert files_below(out) == TABLES | pictures | {f"{name}/inference_results.json" for name in ("first", "second")}
    for size in (1, 3):
        same(open_pair(home, batch_size=size).run(photos, tmp_path / f"out{size}", save=()), verdicts)


def test_pictures_are_those_of_the_map_and_only_those_asked_for(home, tmp_path, out):
    picture = photo(red=0.8, green=0.9, red_columns=4)
    photos = save(tmp_path / "photos", a=picture)
    open_pair(home).run(photos, out)
    found = Predictor(home / "first").predict(picture).maps[0]
    stored, mask = np.load(out / "first/maps/a.npy"), np.asarray(Image.open(out / "first/masks/a.png"))
    assert (stored.dtype, stored.shape, mask.dtype) == (np.float16, (16, 24), np.uint8)
    np.testing.assert_allclose(stored, found, rtol=2**-10, atol=1e-6)
    np.testing.assert_array_equal(mask, np.uint8(255) * (found > 0.25))
    row = json.loads((out / "stages.json").read_text())[0]
    assert row["mask_pixels"] == (found > 0.25).sum() and row["mask"] == "first/masks/a.png"
    overlay = np.asarray(Image.open(out / row["overlay"]), dtype=float)
    assert abs(overlay - draw_overlay(picture, found, found > 0.25, 0.25)).mean() < 6, "JPEG is near it"
    open_pair(home).run(photos, tmp_path / "masks", save=("mask",))
    assert {name.split("/")[1] for name in files_below(tmp_path / "masks") if "/a." in name} == {"masks"}
    with pytest.raises(CascadeError, match="heatmap"):
        open_pair(home).run(photos, tmp_path / "out2", save=("heatmap",))


@pytest.mark.parametrize(
    ("rule", "picture", "passed", "value", "limit", "origin"),
    [
        ("score > image", photo(red=0.6), True, 153 / 255, 0.5, "by hand (image)"),
        ("score > 0.4", photo(red=0.4), False, 0.4, 0.4, "given"),
        ("score>=0.4", photo(red=0.4), True, 0.4, 0.4, "given"),
        ("score > LOW", photo(red=0.4), True, 0.4, 0.3, "parameter LOW"),
        ("score > start", photo(red=0.2), False, 0.2, 0.25, "starting value, not calibrated"),
        ("peak > pixel", photo(red=0.6), False, 0.6, 0.6, "by hand (pixel)"),
        ("area >= 0.5", photo(red=0.8, red_columns=4), True, 0.5, 0.5, "given"),
        ("area > 0.5", photo(red=0.8, red_columns=4), False, 0.5, 0.5, "given"),
    ],
)
def test_rules(home, out, rule, picture, passed, value, limit, origin):
    _, row = judged(judge(home, "first", rule, **JUDGE, parameters={"LOW": 0.3}), picture, out)
    assert (row["passed"], row["decision"]) == (passed, "DEFECT" if passed else "OK")
    assert row["value"] == pytest.approx(value, abs=1e-6)
    assert (row["threshold"], row["origin"], row["rule"]) == (limit, origin, rule)


@pytest.mark.parametrize(
    ("run", "rule", "options", "message"),
    [
        *(("first", rule, {}, "rule") for rule in ("scroe > 0.4", "score = 0.4", "score >> 1", "area >= image", "")),
        ("first", "score > FLAG", {"parameters": {"FLAG": [1]}}, "FLAG"),
        ("first", "always", {"then": "class"}, "is a detector"),
        ("classifier", "area >= 0.1", {}, "is a classifier"),
        ("first", "always", {"pixel_threshold": "pixle"}, "image, pixel, start"),
        ("first", "always", {"morphology": {"opening_diameter": 4}}, "odd number"),
    ],
)
def test_rules_and_options_that_a_run_does_not_take(home, run, rule, options, message):
    with pytest.raises(ValueError, match=message):
        judge(home, run, rule, **options)


# -------------------------------------------------------------------------------------------------- what stages can do


def test_masks_are_cleaned_and_confined(home, out):
    """A bright block and a speck on a bright object; the mask is by hand, the score and area stay."""
    picture = np.full((64, 64, 3), 10, np.uint8)
    picture[8:56, 8:56, 1:] = 220  # the object
    picture[:24, :24, 0] = 100  # block, partly outside the object
    picture[40:42, 40, 0] = 100  # speck
    options = {"then": "BAD", "pixel_threshold": 0.3, "object_mask": "otsu", "morphology": {"opening_diameter": 9}}
    _, row = judged(judge(home, "first", "always", **options), picture, out, ("mask",))
    (bare,) = Predictor(home / "first").predict_stream(picture)
    inside = np.zeros(bare.network_map.shape, bool)
    inside[1:-1, 1:-1] = True
    found = map_at_photo_size(bare.network_map * inside, (64, 64), {}) > 0.3
    expected = clean_mask(found, opening_diameter=9)
    assert found[36:46, 36:46].any() and expected[:20, :20].any()
    assert not expected[36:46, 36:46].any() and not expected[:8].any()
    np.testing.assert_array_equal(np.asarray(Image.open(out / "first/masks/a.png")) > 0, expected)
    assert row["mask_pixels"] == expected.sum() < found.sum()
    assert row["area"] == pytest.approx((shrink(picture[:, :, 0]) * shrink(inside) > 0.3 * 255).mean())
    assert row["peak"] == row["score"] == pytest.approx(100 / 255)


def test_the_gates_word_can_be_noted_and_ignored(home, tmp_path, out):
    folder = save(tmp_path / "photos", faint=photo(red=0.1, green=0.6, blue=0.1), clear=photo(red=0.9, blue=0.1))
    content = one_stage(run="first", rule="score > image", otherwise="no_defect")
    content["stages"].append({"run": "kinds", "rule": "always", "then": "class"})
    for ignored, said in ((False, "no_defect"), (True, "scratch")):
        content["stages"][0]["ignore_no_defect"] = ignored
        found = open_pair(home, content).run(folder, tmp_path / said)  # red is the class hole of kinds
        assert found.set_index("photo")["verdict"].to_dict() == {"clear.png": "hole", "faint.png": said}
    row = json.loads((tmp_path / "scratch/stages.json").read_text())[2]
    assert (row["stage"], row["passed"], row["decision"]) == ("first", False, "goes on (no_defect ignored)")


def test_a_defect_like_none_that_is_known_is_unknown(home, tmp_path):
    """A near one of 67 % and a far one of 75 %, where 70 % are asked for."""
    last = {"run": "kinds", "rule": "always", "then": "class", "unknown": "open_set"}
    with pytest.raises(MissingRunError, match="05_train_classifiers"):
        open_pair(home, one_stage(**last))
    scorer = write_open_set(home / "open_set")
    pictures = {"a_near": photo(200 / 255, 60 / 255, 40 / 255), "b_far": photo(60 / 255, 10 / 255, 10 / 255)}
    folder = save(tmp_path / "photos", **pictures)
    found = {
        by: open_pair(home, one_stage(**last, unknown_by=by)).run(folder, tmp_path / by)
        for by in ("distance", "confidence", "both")
    }
    assert found["distance"]["verdict"].tolist() == ["hole", "unknown"] and found["distance"]["abnormal"].all()
    assert found["confidence"]["verdict"].tolist() == ["unknown", "hole"]
    assert found["both"]["verdict"].tolist() == ["unknown", "unknown"]
    rows = pd.read_csv(tmp_path / "distance/stages.csv")
    expected = scorer.scores([[200.0, 60.0, 40.0], [60.0, 10.0, 10.0]])
    np.testing.assert_allclose(rows["distance"], expected, rtol=1e-6)
    assert expected[0] < 5 < expected[1] and set(rows["tau"]) == {5.0} and rows["kappa"].isna().all()
    assert open_pair(home, one_stage(**last | {"unknown": "none"})).stages[0].unknown is None
    write_open_set(home / "open_set", classes=("hole", "rust", "stain"))
    for wrong, message in (({"unknown_by": "distanec"}, "unknown_by"), ({}, "rust, scratch")):
        with pytest.raises(CascadeError, match=message):
            open_pair(home, one_stage(**last, **wrong))


# ------------------------------------------------------------------------------------------------------------- objects


@pytest.fixture
def cutter(home, monkeypatch) -> CutterStage:
    folder = use_blue_objects(monkeypatch, home)
    return CutterStage(folder, window=16, separate={"min_area": 20, "threshold": 0.01})


def test_each_object_is_judged_and_one_bad_one_makes_a_bad_photo(home, tmp_path, cutter, out):
    folder = save(tmp_path / "frames", bad=blue_frame(0.1, 0.9, 0.6), empty=blue_frame(), fine=blue_frame(0.1, 0.2))
    one = judge(home, "first", "score > image", **JUDGE)
    bad, empty, fine = Cascade("frames", [cutter, one]).run(folder, out).itertuples()
    assert [bad.verdict, empty.verdict, fine.verdict] == ["DEFECT", "NO OBJECT", "OK"]
    assert [bad.abnormal, empty.abnormal, fine.abnormal] == [True, None, False]
    assert (bad.n_objects, bad.n_abnormal, fine.n_objects, fine.n_abnormal) == (3, 2, 2, 0)
    assert bad.score == pytest.approx(230 / 255), "that of the worst object"
    rows = pd.read_csv(out / "stages.csv")
    of_bad = rows[(rows["photo"] == "bad.png") & (rows["stage"] == "first")]
    assert of_bad["object"].tolist() == [1, 2, 3] and of_bad["decision"].tolist() == ["OK", "DEFECT", "DEFECT"]
    assert of_bad[["x", "y", "width", "height"]].to_numpy().tolist() == [[x, 8, 12, 12] for x in (6, 26, 46)]
    # the window of 16 pixels around the second object is the photo from (24, 6) on
    alone = one.predictor.predict(blue_frame(0.1, 0.9, 0.6)[6:22, 24:40])
    np.testing.assert_allclose(np.load(out / "first/maps/bad.objects/002.npy"), alone.maps[0], rtol=2**-10, atol=1e-6)
    boxes = np.asarray(Image.open(out / "foreground/overlays/bad.jpg")).astype(int)
    assert boxes[8, 12, 1] > boxes[8, 12, 0] and boxes[8, 32, 0] > boxes[8, 32, 1], "green and red boxes"


def test_a_neighbour_in_the_window_does_not_count(home, cutter, out):
    """A window of 60 pixels shows all three; peak and area are of each object alone."""
    cutter.window = 60
    picture = blue_frame(0.0, 0.0, 0.0)
    picture[8:20, 26:38, 0] = 230  # all of the second one
    item = Item("a.png", "a", picture)
    judge(home, "first", "peak > 0.5", **JUDGE).run(cutter.run([item], out, ()), out, ())
    rows = [part.rows[0] for part in item.parts]
    assert [row["decision"] for row in rows] == ["OK", "DEFECT", "OK"]
    assert all(row["score"] == pytest.approx(230 / 255) for row in rows), "the run's own score is of the whole picture"
    assert [row["area"] > 0 for row in rows] == [False, True, False]


def test_windows_at_the_border_without_background_and_of_strips(cutter, out):
    item = Item("a.png", "a", blue_frame(0.5, 0.5)[:, 6:])  # the first square begins at the left border
    cutter.background, cutter.window = "remove", 40
    first, second = cutter.run([item], out, ())
    assert first.box == (0, 8, 12, 12) and first.photo.shape == second.photo.shape == (40, 40, 3)
    # its own pixels and the two by which they are grown, which the mirrored photo continues; not the neighbour
    assert (first.photo[:, :, 2] > 0).sum() == 144 + 2 * 12
    cutter.window = 0
    assert cutter.run([item], out, ())[0].photo.shape == (14, 14, 3), "a tenth on each side"
    strip = Item("strip.png", "strip", np.full((20, 8000, 3), 255, np.uint8))
    assert len(cutter.run([strip, Item("a.png", "a", blue_frame(0.5))], out, ())) == 1, "no picture of gigabytes"
    assert strip.verdict == "ERROR" and "strip.png" in strip.error


def test_neighbours_are_hidden_by_what_the_background_looks_like(cutter, out):
    """A background that grows brighter to the right, with a grain of 4 levels; the squares are 12 pixels."""
    picture = blue_frame(0.0, 0.0, 0.0)
    labels, grain = picture[:, :, 2] > 0, np.random.default_rng(0).normal(0, 4, picture.shape[:2])
    bench = np.clip(60 + np.arange(picture.shape[1])[None] + grain, 0, 255).astype(np.uint8)
    picture[~labels] = bench[~labels][:, None]
    picture[:, :, 2] = np.where(labels, 255, 0)  # what the network of the fixture looks at
    cutter.background, cutter.window = "hide_neighbours", 60
    middle = cutter.run([Item("a.png", "a", picture)], out, ())[1]
    own = middle.mask
    assert middle.photo.shape == (60, 60, 3) and own.sum() == 144 and (middle.photo[own][:, 2] == 255).all()
    assert (middle.photo[~own][:, 2] < 128).all(), "no neighbour is left"
    # where the first square was (columns 6 to 18 of the photo; the window begins at column 2 and 16 rows above it)
    painted = middle.photo[24:36, 4:16, 0].astype(float)
    assert abs(painted.mean() - (60 + 12)) < 12 and 1 < painted.std() < 10


@pytest.mark.parametrize(("shrink", "side"), [(0, 12), (3, 6), (5, 2), (6, 12)])
def test_the_edge_of_an_object_is_not_judged(cutter, shrink, side):
    """What is left of each side of an object of 12 pixels; where that is nothing, all is judged."""
    labels = np.zeros((30, 40), np.int64)
    labels[8:20, 10:22] = 1
    cutter.shrink = shrink
    (part,) = cutter.cut(Item("a.png", "a", np.zeros((30, 40, 3), np.uint8)), labels)
    assert part.mask.sum() == side**2 and part.box == (10, 8, 12, 12), "the object is as large as it is"


def test_cutters_that_cannot_be(home, cutter):
    for stages in ([], [cutter], [cutter, cutter, judge(home, "first", "always", then="BAD")]):
        with pytest.raises(CascadeError, match="foreground"):
            Cascade("cut", stages)


# ------------------------------------------------------------------------------------------------ names, broken photos


def test_photos_of_one_name_do_not_overwrite_each_other(home, tmp_path, out):
    reds = {"A.PNG": 0.7, "a.bmp": 0.3, "a.png": 0.1, "day/a.png": 0.5, "night/a.png": 0.9}
    for name, red in reds.items():
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(red=red)).save(file)
    assert Cascade.of_run(home / "first").run(tmp_path / "photos", out)["photo"].tolist() == list(reds)
    rows = {row["photo"]: row["map"] for row in json.loads((out / "stages.json").read_text())}
    for name, red in reds.items():
        assert np.load(out / rows[name]).max() == pytest.approx(red, abs=0.005)
    assert len({path.casefold() for path in rows.values()}) == 5


def test_an_unreadable_photo_is_a_row_and_is_tried_again(home, photos, out):
    """Also where it is repaired with the same size and time, as by a change of its rights."""
    file = photos / "05.png"
    whole = file.read_bytes()
    (photos / "07b.png").write_bytes((photos / "07.png").read_bytes()[:60])
    for content in (bytes(len(whole)), whole):
        file.write_bytes(content)
        os.utime(file, (1e9, 1e9))
        seen, verdicts = KnownBackend.seen, open_pair(home).run(photos, out)
        failed = verdicts[verdicts["error"].notna()]
        names = ["05.png", "07b.png"] if content != whole else ["07b.png"]
        assert len(verdicts) == 21 and failed["photo"].tolist() == names
        assert (failed["verdict"] == "ERROR").all() and failed["abnormal"].isna().all() and failed["score"].isna().all()
        assert all(name in error for name, error in zip(failed["photo"], failed["error"], strict=True))
        rows = pd.read_csv(out / "stages.csv")
        assert rows[rows["photo"] == "07b.png"]["decision"].tolist() == ["ERROR"]
    assert KnownBackend.seen == seen + 2, "that one alone, in both stages"


def test_odd_names_are_judged_and_the_rest_goes_on(home, photos, cutter, tmp_path):
    """Names as long as a file system takes them, bytes that are no UTF-8, and a path that is longer than any other."""
    long = ["x" * 251 + ".png", "x" * 250 + "y.png", "ö" * 125 + ".png", "/".join(["d" * 250] * 15) + "/a.png"]
    try:
        shutil.copy(photos / "19.png", os.fsencode(photos) + b"/caf\xe9.png")
        (photos / long[-1]).parent.mkdir(parents=True)
        for name in long:
            shutil.copy(photos / "19.png", photos / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    one = judge(home, "first", "score > image", **JUDGE)
    for cascade in [Cascade("plain", [one]), Cascade("objects", [cutter, one])]:
        out = tmp_path / cascade.name / ("o" * 200)
        verdicts = cascade.run(photos, out).set_index("photo")
        assert len(verdicts) == 25 and verdicts["error"].isna().all()
        assert set(verdicts.loc[[*long, "caf\\xe9.png"], "verdict"]) == {verdicts["verdict"]["19.png"]}
        assert pd.read_csv(out / "verdicts.csv")["photo"].tolist() == verdicts.index.tolist()
        maps = [row["map"] for row in json.loads((out / "stages.json").read_text()) if row["map"]]
        assert len(set(maps)) == len(maps) and all((out / file).is_file() for file in maps)


def test_pictures_without_a_path(home, out):
    one, pictures = open_pair(home), [photo(red=0.9, green=0.9), photo(), Image.fromarray(photo(red=0.9, green=0.1))]
    listed = one.run(iter(pictures), out, save=())
    assert listed["verdict"].tolist() == ["DEFECT", "OK", "OK"]
    assert listed["photo"].tolist() == ["000000", "000001", "000002"]
    pictures[1], before = photo(red=0.9, green=0.8), KnownBackend.seen
    assert one.run(pictures, out, save=())["verdict"].tolist() == ["DEFECT", "DEFECT", "OK"]
    assert KnownBackend.seen - before == 2, "the changed one, in both stages"


def test_photos_that_are_not_there_or_cannot_be_told_from_results(home, photos, out):
    one, known = open_pair(home), photos / "00.png"
    with pytest.raises(FileNotFoundError):
        one.run(photos / "nowhere", out)
    for images, place in (([known] * 2, out), (photos, photos / "out"), ([], out), (photos, known)):
        with pytest.raises(CascadeError):
            one.run(images, place)


# ----------------------------------------------------------------------------------------------------- kill and resume


def test_a_torn_line_is_dropped_and_its_photo_done_again(home, photos, out, monkeypatch):
    cascade, journal = open_pair(home), out / "journal.jsonl"
    expected = cascade.run(photos, out)
    content = journal.read_bytes()
    journal.write_bytes(content[: content.rindex(b"\n", 0, -1) + 40])
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", dead_process)
        half = partial_path(out / "first/masks/19.png")
    half.write_bytes(b"half")
    same(cascade.run(photos, out), expected)
    assert sum(json.loads(line)["key"] == "19" for line in journal.read_bytes().splitlines()[1:]) == 1
    assert not half.exists()
    first, *lines = content.splitlines(keepends=True)
    for damaged in ([first, lines[0][:40] + b"\n", *lines[1:]], [b"{}\n", *lines], [b"[" * 9999, first, *lines], []):
        journal.write_bytes(b"".join(damaged))
        with pytest.raises(CascadeError, match="damaged"):
            cascade.run(photos, out)
    assert len(cascade.run(photos, out, restart=True)) == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_killed_run_goes_on_and_every_photo_is_there_exactly_once(home, tmp_path, out, monkeypatch):
    """A real SIGKILL in the middle."""
    folder = save(tmp_path / "photos", **{f"{n:03d}": photo(red=n / 60, green=0.9) for n in range(60)})
    journal, cascade, pictures = out / "journal.jsonl", open_pair(home, batch_size=3), {"save": ("mask", "map")}
    process = get_context("fork").Process(target=cascade.run, args=(folder, out), kwargs=pictures)
    with monkeypatch.context() as patch:
        patch.setattr(KnownBackend, "seconds_a_photo", 0.03)
        process.start()
    while process.is_alive() and not (journal.is_file() and journal.read_bytes().count(b"\n") > 9):
        time.sleep(0.01)
    process.kill()
    process.join(30)
    done = journal.read_bytes().count(b"\n") - 1
    assert process.exitcode == -signal.SIGKILL and 9 <= done < 60, "it must still have been at work"
    assert not (out / "verdicts.csv").exists(), "no table that only looks complete"
    verdicts = cascade.run(folder, out, **pictures)
    lines = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
    passing = sum(line["verdict"]["stage"] == "second" for line in lines[done:])
    assert KnownBackend.seen == 60 - done + passing, "only what was missing"
    assert sorted(line["key"] for line in lines) == [f"{n:03d}" for n in range(60)]
    same(verdicts, cascade.run(folder, tmp_path / "fresh", **pictures))
    assert files_below(out) == files_below(tmp_path / "fresh")


@pytest.mark.parametrize("place", ["write", "fsync", "interrupt"])
def test_what_did_not_get_to_the_disk_is_not_noted_and_comes_later(home, photos, tmp_path, out, monkeypatch, place):
    cascade, calls = open_pair(home, batch_size=4), []
    owner, name, error = {
        "write": (Image.Image, "save", OSError(errno.ENOSPC, "full")),
        "fsync": (os, "fsync", OSError(errno.ENOSPC, "full")),
        "interrupt": (KnownBackend, "__call__", KeyboardInterrupt()),
    }[place]
    works = getattr(owner, name)

    def fails_once(*given: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return works(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails_once)
        with pytest.raises(KeyboardInterrupt if place == "interrupt" else CascadeError):
            cascade.run(photos, out)
    n_done = len((out / "verdicts.csv").read_text().splitlines()) - 1
    assert n_done < 20 and n_done % 4 == 0
    same(cascade.run(photos, out), cascade.run(photos, tmp_path / "fresh"))


def test_results_of_something_else_are_not_mixed_in_and_nothing_else_is_removed(home, photos, tmp_path, out):
    open_pair(home).run(photos, out, save=())
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    moved = open_pair(home, area_thresh=0.4)
    for cascade, folder, kinds in (
        (moved, photos, ()),
        (open_pair(home), photos, ("mask",)),
        (open_pair(home), other, ()),
    ):
        with pytest.raises(CascadeError, match="--restart"):
            cascade.run(folder, out, save=kinds)
    write_run(home / "second", thresholds={"image": 0.8})
    changed = open_pair(home)
    with pytest.raises(CascadeError, match="another cascade"):
        changed.run(photos, out, save=())
    assert set(changed.run(photos, out, save=(), restart=True)["threshold"]) == {0.25, 0.8}
    for restart in (False, True):
        with pytest.raises(CascadeError, match="holds other files"):
            changed.run(photos, home, restart=restart)
    assert (home / "second/run.json").is_file()
    with hold(out / ".lock", "it"), pytest.raises(InUseError, match="process"):
        changed.run(photos, out, save=())
    assert not (out / ".lock").exists()


def test_restart_removes_what_the_journal_names_and_nothing_else(home, photos, tmp_path, out):
    open_pair(home).run(photos, out)
    kept = ["letter.txt", "first/masks/notes.txt", "mine/photo.png", "../elsewhere.txt"]
    for file in (out / name for name in kept):
        file.parent.mkdir(exist_ok=True)
        file.write_text("dear")
    lines = (out / "journal.jsonl").read_text().splitlines()
    forged = json.loads(lines[1])
    for name in ("../elsewhere.txt", str(tmp_path / "elsewhere.txt"), "first/../../elsewhere.txt"):
        forged["stages"][0]["mask"] = name
        lines.append(json.dumps(forged))
    (out / "journal.jsonl").write_text("\n".join([*lines, '{"no": "record"}', "null", ""]))
    assert len(Cascade.of_run(home / "second").run(photos, out, save=("mask",), restart=True)) == 20
    assert all((out / name).read_text() == "dear" for name in kept)
    masks = {f"second/masks/{n:02d}.png" for n in range(20)}
    assert files_below(out) == TABLES | masks | {*kept[:3], "second/inference_results.json"}


@pytest.mark.parametrize("name", ["../out", "..", "", ".lock", "verdicts.csv", "/tmp/x", "a\\b", "x" * 300])
def test_names_that_would_write_elsewhere_are_refused(home, name):
    stages = [judge(home, "first", "score > image", **JUDGE, name=name or " ")]
    with pytest.raises(CascadeError, match="'name'"):
        Cascade("fine", stages)
    with pytest.raises(CascadeError, match="'name'"):
        Cascade(name if name != "verdicts.csv" else "..", [judge(home, "first", "always", then="BAD")])


# ----------------------------------------------------------------------------------------------------------------- YAML


def changed(*path, value) -> dict:
    content = copy.deepcopy(PAIR)
    *path, last = path
    functools.reduce(operator.getitem, path, content)[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (changed("stagess", value=[]), "stagess"),
        (changed("stages", 0, "rull", value="always"), "rull"),
        (changed("stages", 0, "foreground", value="foreground"), "run"),
        (changed("stages", 0, "object_mask", value="otsuu"), "otsuu"),
        (changed("stages", 0, value={"foreground": "foreground", "background": "blur"}), "blur"),
        (changed("stages", 0, value={"foreground": "foreground", "shrink": -1}), "shrink"),
        (changed("stages", 1, "then", value=""), "second.*'then: VERDICT'"),
        (changed("stages", 0, "then", value="BAD"), "first.*'then: VERDICT'"),
        (changed("stages", 0, "otherwise", value=""), "first.*'otherwise: VERDICT'"),
        (changed("stages", 0, "name", value="second"), "'name'"),
        (changed("stages", 1, "ignore_no_defect", value=True), "'ignore_no_defect'"),
        (changed("stages", 0, "morphology", value={"opening": 3}), "stage 1.*opening"),
        (changed("parameters", value=["a"]), "'parameters'"),
        (changed("parameters", "DATASET", value=""), "DATASET"),
    ],
)
def test_yaml_that_says_something_unknown(home, content, named):
    with pytest.raises(CascadeError, match=named):
        open_pair(home, content)


def test_settings(home, tmp_path):
    one = open_pair(home, area_thresh=0.7, LIMIT=0.9)
    limits = [(stage.limit.value, stage.limit.origin) for stage in one.stages]
    assert limits == [(0.7, "parameter area_thresh"), (0.9, "parameter LIMIT")]
    for wrong in ({"AREA": 1}, {"area_thresh": True}):
        with pytest.raises(CascadeError, match=next(iter(wrong))):
            open_pair(home, **wrong)
    with pytest.raises(MissingRunError, match=str(home.with_name("full") / "first")):
        open_pair(home, PROFILE="full")
    assert open_pair(home, DATASET="datasets/wire").parameters["DATASET"] == "wire"
    elsewhere = Path(shutil.copytree(home / "first", tmp_path / "elsewhere" / "first"))
    moved = open_pair(home, changed("stages", 0, "run", value=str(elsewhere)))
    assert moved.stages[0].predictor.run.folder == elsewhere


@pytest.mark.parametrize(
    ("preset", "rules", "limits"),
    [
        ("mesh", ["area > area_thresh", "score > THRESHOLD"], [0, 0.5]),
        ("nuts", ["peak > THRESHOLD"], [0.6]),
        ("bicycle", ["score > DAMAGED_THRESHOLD", "always"], [0.5, None]),
        ("steel", ["score > THRESHOLD", "always"], [0.5, None]),
    ],
)
def test_presets_open_with_their_defaults(tmp_path, preset, rules, limits, monkeypatch):
    """Each with the runs that its notebooks leave; image and pixel of these are 0.5 and 0.6."""
    assert {file.stem for file in PRESETS_FOLDER.glob("*.yml")} == {"mesh", "nuts", "bicycle", "steel"}
    home = tmp_path / "artifacts" / ("nuts" if preset == "nuts" else "mesh") / "quick"
    for name in ("patchcore", "unet", "deeplabv3plus", "draem"):
        write_run(home / name)
    write_run(home / "classifier", classes=CLASSES, normal="good")
    write_open_set(home / "open_set", classes=CLASSES)
    use_blue_objects(monkeypatch, home)
    stages = Cascade.from_yaml(preset, {"ARTIFACTS": str(tmp_path / "artifacts")}).run_stages
    assert [stage.rule.text for stage in stages] == rules
    assert [stage.limit and stage.limit.value for stage in stages] == limits
    assert {stage.pixel_limit.value for stage in stages if stage.pixel_limit} == {0.6}


def test_a_run_is_a_cascade_of_one_stage(home, photos, tmp_path):
    reds = [round(255 * n / 20) / 255 for n in range(20)]
    for settings, limit in (({}, 0.5), ({"threshold": 0.1}, 0.1)):
        found = Cascade.of_run(home / "first", settings).run(photos, tmp_path / str(limit), save=())
        assert found["verdict"].tolist() == ["DEFECT" if red > limit else "OK" for red in reds]
        p_values = [(1 + sum(score >= red for score in (0.1, 0.2, 0.3))) / 4 for red in reds]
        sure = [1 - p if red > limit else p for p, red in zip(p_values, reds, strict=True)]
        np.testing.assert_allclose(found["confidence"], sure)
    with pytest.raises(CascadeError, match="limit.*pixel_threshold"):
        Cascade.of_run(home / "first", {"limit": 1})
    named = Cascade.of_run(home / "classifier").run([photo(0.9, 0.1, 0.0), photo(0.3, 0.2, 0.5)], tmp_path / "named")
    assert named["verdict"].tolist() == ["good", "scratch"] and named["abnormal"].tolist() == [False, True]
    kinds = Cascade.of_run(home / "kinds").run([photo(0.9, 0.1, 0.0)], tmp_path / "kinds")
    assert kinds["verdict"].tolist() == ["hole"] and kinds["abnormal"].tolist() == [True]


# ---------------------------------------------------------------------------------------- 12 bits, and strips of a line


def test_photos_of_twelve_bits_are_judged_as_the_runs_have_learned(home, tmp_path, out):
    levels = {"bright": 2800, "dark": 200, "beyond": 5000}
    photos = save(tmp_path / "photos", **{name: np.full((16, 24), level, np.uint16) for name, level in levels.items()})
    write_run(home / "first", bit_depth=12)
    found = Cascade.of_run(home / "first").run(photos, out).set_index("photo")
    assert found["verdict"].to_dict() == {"beyond.png": "ERROR", "bright.png": "DEFECT", "dark.png": "OK"}
    assert found.at["bright.png", "score"] == pytest.approx((2800 >> 4) / 255)
    write_run(home / "second", bit_depth=10)
    with pytest.raises(ValueError, match="bit"):
        open_pair(home)


def test_a_strip_that_cannot_be_resized_is_an_error_and_the_rest_goes_on(home, tmp_path, out):
    write_run(home / "first", image_size=[512], center_crop=[512, 512])
    photos = save(tmp_path / "photos", a=photo(), b=np.zeros((1, 5000, 3), np.uint8), c=photo(red=1))
    assert Cascade.of_run(home / "first").run(photos, out)["verdict"].tolist() == ["OK", "ERROR", "DEFECT"]
