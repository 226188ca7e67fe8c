"""The inspection page without a browser: what there is to inspect with, uploads, verdicts, thresholds, downloads."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from html import escape, unescape
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CHANNELS, CLASSES, KnownBackend, write_run
from conftest import REPOSITORY
from PIL import Image

from helpers import pipeline
from helpers.analysis.sizing import PixelSize
from helpers.drawing import DEFECT, SOUND, draw_boxes, draw_overlay
from helpers.inference import predictor, presets
from helpers.inference.cascade import Cascade
from helpers.inference.cutting import ABOUT_FILE
from helpers.inference.presets import Choice, choose, find_choices, missing_files
from helpers.inference.stages import THRESHOLDS_FILE
from helpers.models.open_set import OPEN_SET_FILE
from helpers.runs import MissingRunError
from helpers.views.app import inspection, serve
from helpers.views.app.inspection import Inspector, RefusedPhotoError, inspection_table, measure, read_upload
from helpers.views.app.page import InspectionPage
from helpers.views.inspection_figures import draw_inspection, inspection_figure, verdict_words, why

DRAWN = {
    "name": "two",
    "parameters": {"DATASET": "drawn"},
    "stages": [
        {"run": "first", "rule": "area >= 0.1", "pixel_threshold": 0.5, "otherwise": "OK"},
        {"run": "second", "rule": "score > image", "then": "DEFECT", "otherwise": "FINE"},
    ],
}


@pytest.fixture
def known(monkeypatch):
    """Runs of known networks (see cascade_runs), and a count of the photos that they have seen."""
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)
    monkeypatch.setattr(KnownBackend, "seen", 0)


@pytest.fixture
def two(known, tmp_path) -> Inspector:
    """A cascade of two known networks: red is the map of the first, green that of the second."""
    for name in ("first", "second"):
        write_run(tmp_path / "drawn" / "quick" / name)
    file = tmp_path / "two.yml"
    file.write_text(yaml.safe_dump(DRAWN))
    return Inspector(Cascade.from_yaml(file, {"ARTIFACTS": str(tmp_path)}))


def photo(red: float = 0, green: float = 0, side: int = 24) -> np.ndarray:
    """A black photo of 64 x 64 pixels with a square of this side, brightness 0 to 1 in red and green."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16 : 16 + side, 16 : 16 + side, :2] = round(255 * red), round(255 * green)
    return picture


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------- what there is


def test_runs_and_complete_cascades_are_found_without_loading_anything(tmp_path):
    for place in ("wire/quick/unet", "wire/quick/deeplabv3plus", "wire/quick/.draem.partial", "mesh/full/patchcore"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").touch()
    (tmp_path / "mesh" / "full" / "glass").mkdir()  # no run.json: no run
    choices, lacking = find_choices(tmp_path)
    labels = ["mesh / full / patchcore", "wire / quick / deeplabv3plus", "wire / quick / unet"]
    assert [one.label for one in choices] == [*labels, "wire / quick / cascade mesh"]
    assert choices[-1].folder == tmp_path / "wire" / "quick"
    assert set(lacking) == {"bicycle", "nuts", "steel"}
    assert lacking["nuts"] == [tmp_path / "mesh/full/foreground/foreground.json"], "where less is missing"
    code = f"import sys; from helpers.inference.presets import find_choices; find_choices({str(tmp_path)!r}); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_what_a_preset_needs(tmp_path):
    place = tmp_path / "mesh" / "quick"
    needed = [place / name for name in ("patchcore/run.json", "classifier/run.json")]
    opened = [place / "open_set" / name for name in ("open_set.npz", "thresholds.json")]
    assert missing_files("steel", {"ARTIFACTS": str(tmp_path)}) == needed + opened
    assert missing_files("steel", {"ARTIFACTS": str(tmp_path), "UNKNOWN": "none"}) == needed
    for file in needed:
        file.parent.mkdir(parents=True)
        file.touch()
    assert missing_files("steel", {"ARTIFACTS": str(tmp_path)}) == opened
    with pytest.raises(presets.CascadeError, match="steeel.*bicycle, mesh"):
        missing_files("steeel")
    assert presets.MARKS["foreground"] == (ABOUT_FILE,) and presets.MARKS["unknown"] == (OPEN_SET_FILE, THRESHOLDS_FILE)


def test_choosing():
    def one(dataset: str, name: str, cascade: bool = False) -> Choice:
        return Choice(dataset, "quick", name, cascade, Path("artifacts"))

    choices = [one("mesh", "draem"), one("mesh", "patchcore"), one("nuts", "unet"), one("nuts", "mesh", True)]
    assert choose(choices, "mesh", "quick") == choices[1]
    assert choose(choices, "nuts", "quick") == choices[2], "no PatchCore: the first"
    assert choose(choices, "nuts", "quick", "mesh") == choices[3]
    assert choose(choices, "wire", "quick") == choices[1], "nothing of this dataset: another one's"
    with pytest.raises(
        MissingRunError, match=r"RUN='glass'.*mesh, profile quick; there is draem, patchcore\..*make run"
    ):
        choose(choices, "mesh", "quick", "glass")
    with pytest.raises(MissingRunError, match="make run"):
        choose([])


# -------------------------------------------------------------------------------------------------------- uploads


def test_uploads_are_read_as_files_are(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_upload("a.png", png(picture)), picture)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(picture).save(buffer, format="TIFF", exif=exif)
    np.testing.assert_array_equal(read_upload("a.tif", buffer.getvalue()), np.rot90(picture, -1))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"no picture at all", "notes.txt is not an image"),
        ("empty.png", b"", "empty.png has zero bytes"),
        ("half.png", png(photo(1))[:100], "half.png is truncated"),
        ("huge.png", png(np.zeros((6000, 10000), np.uint8)), r"huge.png has 60 megapixels \(10000 x 6000\)"),
    ],
)
def test_refused_uploads_get_a_sentence(name, content, says):
    with pytest.raises(RefusedPhotoError, match=says) as refused:
        read_upload(name, content, 60)
    assert re.fullmatch(r"[^\n]+\.", str(refused.value))


def test_a_header_that_promises_gigapixels_is_refused_before_decoding():
    content = bytearray(png(np.zeros((1, 1), np.uint8)))
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of the PNG header
    content[29:33] = __import__("zlib").crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(RefusedPhotoError, match=r"bomb.png has far too many pixels; a photo must have less than 60"):
        read_upload("bomb.png", bytes(content), 60)
    assert read_upload("ok.png", png(np.zeros((10, 10), np.uint8)), 0.00011).shape == (10, 10, 3)
    with pytest.raises(RefusedPhotoError, match=r"0.0001 megapixels \(10 x 10\)"):
        read_upload("limit.png", png(np.zeros((10, 10), np.uint8)), 0.0001)


# ------------------------------------------------------------------------------------- verdicts that follow thresholds


def test_thresholds_move_without_asking_a_network(two):
    score = next(movable for movable in two.movables if movable.stage == "second" and not movable.of_map)
    area = next(movable for movable in two.movables if movable.stage == "first" and not movable.of_map)
    pixel = next(movable for movable in two.movables if movable.stage == "first" and movable.of_map)
    assert [movable.label for movable in two.movables] == [
        "1 · first: share of the map >=",
        "1 · first: map pixel >",
        "2 · second: score >",
        "2 · second: map pixel >",
    ]
    # a square of 24 of 64 pixels is 3 of 8 in the network's frame: 9 / 64 of its map
    looked = two.look("a", photo(0.8, 0.4))
    assert KnownBackend.seen == 2, "both stages have looked"
    assert two.judge(looked).verdict == "FINE", "0.4 is not above 0.5"
    stopped = two.look("b", photo(0, 0.9))
    two.move(score, 0.3)
    found = two.judge(looked)
    assert two.judge(stopped).stage == "first"
    assert (found.verdict, found.abnormal, found.stage) == ("DEFECT", True, "second")
    assert found.deciding["origin"] == inspection.MOVED and found.deciding["threshold"] == 0.3
    two.move(area, 0.2)
    found = two.judge(looked)
    assert (found.verdict, found.abnormal, found.stage) == ("OK", False, "first"), "9 / 64 is below 0.2"
    two.move(area, 9 / 64)
    assert two.judge(looked).verdict == "DEFECT"
    two.move(pixel, 0.9)
    assert two.judge(looked).verdict == "OK", "no pixel above 0.9: no area"
    for movable in two.movables:
        two.move(movable, movable.stored.value)
    found = two.judge(looked)
    assert found.verdict == "FINE" and found.deciding["origin"] == "by hand (image)"
    two.move(area, 0.0)
    assert two.judge(stopped).verdict == "DEFECT", "what the first stage stopped, the second has seen as well"
    assert KnownBackend.seen == 4, "no network was asked again"


def test_verdicts_are_those_of_the_cascade(two, tmp_path):
    pictures = [photo(red, green) for red in (0, 0.55, 0.9) for green in (0, 0.45, 0.95)]
    table = two.cascade.run(pictures, tmp_path / "out", save=())
    for picture, row in zip(pictures, table.itertuples(), strict=True):
        found = two.judge(two.look("a", picture))
        assert (found.verdict, found.abnormal, found.deciding["stage"]) == (row.verdict, row.abnormal, row.stage)
        assert found.deciding["value"] == row.value


def test_sliders_reach_from_all_to_nothing(two):
    photos = [two.look("a", photo(0.8, 0.9)), two.look("b", photo())]
    score = two.movables[2]
    low, high = two.reach(score, photos)
    assert low < 0 and high > 0.9
    low, high = two.reach(two.movables[0], photos)
    assert low < 0 and high > 1
    swept = two.sweep(photos[0])
    assert swept["position"].tolist() == ["now", "0 %", "25 %", "50 %", "75 %", "100 %"]
    assert swept["verdict"].iloc[[0, 1, -1]].tolist() == ["DEFECT", "DEFECT", "OK"]
    assert two.value(score) == score.stored.value


def test_a_photo_that_a_run_fails_on_is_an_error_and_no_verdict(two, monkeypatch):
    def fail(self, photos):
        raise ValueError("a mask is missing")

    monkeypatch.setattr(KnownBackend, "__call__", fail)
    found = two.judge(two.look("a", photo(0.9, 0.9)))
    assert (found.verdict, found.abnormal, found.error) == ("ERROR", None, "a mask is missing")
    assert found.anomaly_map is None and why(found) == "a mask is missing"
    assert inspection_table([(found, None)])["error"].tolist() == ["a mask is missing"]


def test_a_classifier_names_and_has_no_map(known, tmp_path):
    write_run(tmp_path / "drawn" / "quick" / "classifier", classes=CLASSES, normal="good")
    inspector = Inspector.open(Choice("drawn", "quick", "classifier", False, tmp_path))
    picture = np.full((32, 32, 3), (10, 30, 60), np.uint8)  # P = 0.1 good, 0.3 hole, 0.6 scratch
    found = inspector.judge(inspector.look("a", picture))
    assert (found.verdict, found.abnormal, found.anomaly_map) == ("scratch", True, None)
    assert [movable.of_map for movable in inspector.movables] == [False]
    inspector.move(inspector.movables[0], 0.95)
    assert inspector.judge(inspector.look("a", picture)).verdict == "good"
    assert draw_inspection(found).shape == (32, 32, 3)


class Cutter:
    """Finds two objects, 16 x 16, at known places; the second at the border."""

    name, otherwise = "cutter", "NO OBJECT"

    def run(self, items, out, save):
        from helpers.inference.pictures import Item

        (item,) = items
        for number, (x, y) in enumerate([(8, 8), (48, 40)], start=1):
            mask = np.zeros((32, 32), bool)
            mask[8:24, 8:24] = True
            window = np.pad(item.photo, ((8, 8), (8, 8), (0, 0)))[y : y + 32, x : x + 32]
            item.parts.append(Item(item.source, f"a/{number}", window, number, (x, y, 16, 16), mask))
        item.add_row(self.name, decision="2 objects", passed=True, milliseconds=1.0)
        return item.parts

    def describe(self):
        return {}


def test_objects_are_judged_alone_and_shown_together(known, tmp_path):
    from helpers.inference.predictor import Predictor
    from helpers.inference.stages import RunStage

    run = RunStage(Predictor(write_run(tmp_path / "first")), "peak > pixel", then="DEFECT", otherwise="OK")
    inspector = Inspector(Cascade("nuts", [Cutter(), run]))
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[44:52, 52:60, 0] = 204  # on the second object; the map's highest value is 0.8
    picture[0:4, :, 0] = 255  # between objects: nobody's
    found = inspector.judge(inspector.look("a", picture))
    assert (found.verdict, found.abnormal) == ("DEFECT", True)
    assert found.boxes == ((8, 8, 16, 16), (48, 40, 16, 16)) and found.boxes_abnormal == (False, True)
    assert [row["stage"] for row in found.rows] == ["cutter", "first", "first"]
    assert found.deciding["object"] == 2
    rows, columns = np.nonzero(found.mask)
    assert rows.min() >= 40 and columns.min() >= 48, "inside the second object"
    assert found.mask[46:50, 54:58].all() and found.anomaly_map.max() == pytest.approx(0.8)
    assert (found.anomaly_map[:8] == 0).all(), "what belongs to no object"
    inspector.move(inspector.movables[0], 0.9)
    assert inspector.judge(inspector.look("a", picture)).verdict == "OK"


# ------------------------------------------------------------------------------------------------------------ sizes


def test_sizes_and_severity_of_a_drawn_square(two):
    for movable in two.movables:
        two.move(movable, 0.05 if not movable.of_map else 0.5)
    found = two.judge(two.look("a", photo(1, 1, side=32)))
    # enlarged from 8 x 8 bilinearly, the map passes 0.5 exactly at the square's edges
    sizes = measure(found, PixelSize(0.1, 0.1, 0, "mm"))
    (row,) = sizes.table.to_dict("records")
    assert row["area_px"] == pytest.approx(32 * 32, rel=0.05)
    assert row["area"] == pytest.approx(row["area_px"] * 0.01)
    assert row["defect_type"] == "spot" and row["severity"] == "critical" and sizes.drawing == "FAIL"
    in_pixels = measure(found, PixelSize(1, 1, 0, "px"))
    assert in_pixels.table["unit"].item() == "px" and in_pixels.table["area"].item() == row["area_px"]
    table = inspection_table([(found, sizes)], {"b.png": "b.png is no image."})
    assert table["verdict"].tolist() == ["DEFECT", "REFUSED"] and table["error"].tolist()[1] == "b.png is no image."
    assert table["n_defects"].tolist()[0] == 1 and table["area_px"].tolist()[0] == row["area_px"]
    found = two.judge(two.look("a", photo()))
    sizes = measure(found, PixelSize(1, 1, 0, "px"))
    table = inspection_table([(found, sizes)])
    assert sizes.drawing == "PASS" and table["n_defects"].tolist() == [0] and pd.isna(table["length"].item())


def test_sizes_that_speak_against_a_good_verdict_are_said(two):
    """The rule is not met, yet the map marks a square as large as a hole."""
    size, looked = PixelSize(0.1, 0.1, 0, "mm"), two.look("a", photo(1, 1, side=32))
    two.move(two.movables[0], 0.9)  # the first stage lets hardly anything go on
    found = two.judge(looked)
    sizes = measure(found, size)
    assert found.verdict == "OK" and sizes.drawing == "FAIL"
    assert inspection.contradiction(found, sizes) == "drawing rules FAIL, severity critical"
    assert verdict_words(found, sizes) == "? OK" and verdict_words(found) == "✓ OK"
    row = inspection_table([(found, sizes)]).iloc[0]
    assert (row["drawing"], row["measured_by"]) == ("FAIL", "first") and "critical" in row["contradiction"]

    two.move(two.movables[0], two.movables[0].stored.value)
    found = two.judge(looked)
    assert found.verdict == "DEFECT" and inspection.contradiction(found, measure(found, size)) == ""
    two.move(two.movables[3], 1.0)  # the map's own threshold
    found = two.judge(looked)
    assert found.verdict == "DEFECT" and inspection.contradiction(found, measure(found, size)) != "", (
        "nothing is marked"
    )
    good = two.judge(two.look("b", photo()))
    assert good.verdict == "OK" and inspection.contradiction(good, measure(good, size)) == ""


def test_sizes_are_measured_by_a_segmenter_where_there_is_one(known, tmp_path, monkeypatch):
    monkeypatch.setitem(CHANNELS, "patchcore", 0)
    monkeypatch.setitem(CHANNELS, "unet", 1)
    picture = photo(red=1, side=40)
    picture[16:32, 16:32, 1] = 255  # the segmenter outlines a smaller part
    home, size = tmp_path / "wire" / "quick", PixelSize(1, 1, 0, "px")
    write_run(home / "patchcore")
    choice = Choice("wire", "quick", "patchcore", False, tmp_path)
    alone = Inspector.open(choice, "cpu")
    found = alone.judge(alone.look("a", picture))
    rough = measure(found, size)
    assert (found.verdict, rough.by) == ("DEFECT", "patchcore")
    write_run(home / "unet")
    beside = Inspector.open(choice, "cpu")
    found = beside.judge(beside.look("a", picture))
    fine = measure(found, size)
    assert (found.verdict, found.stage, fine.by) == ("DEFECT", "patchcore", "unet")
    assert fine.table["area_px"].item() < rough.table["area_px"].item() / 4
    found = beside.judge(beside.look("b", photo(red=1)))
    assert measure(found, size).by == "patchcore", "the segmenter marks nothing"
    found = beside.judge(beside.look("c", photo(green=1)))
    assert found.verdict == "OK" and inspection.contradiction(found, measure(found, size)) != "", (
        "it alone marks something"
    )
    own = Inspector.open(Choice("wire", "quick", "unet", False, tmp_path), "cpu")
    assert own.outliner is None


def test_what_a_limit_does_on_val(two):
    stage = two.cascade.stages[1]
    val = stage.predictor.run.predictions("val").assign(label_index=[0, 1, 1], score=[0.1, 0.5, 0.9])
    val.drop(columns="mask_path").to_csv(stage.predictor.run.folder / "predictions.csv", index=False)
    movable = next(movable for movable in two.movables if movable.stage == "second" and not movable.of_map)
    assert two.on_val(movable) == "val: 1 of 2 defects, 0 of 1 good photos"
    two.move(movable, 0.0)
    assert two.on_val(movable) == "val: 2 of 2 defects, 1 of 1 good photos"


# ---------------------------------------------------------------------------------------------------------- pictures


def test_pictures_say_the_same(two):
    found = two.judge(two.look("a.png", photo(0.9, 0.9)))
    sizes = measure(found, PixelSize(0.1, 0.1, 0, "mm"))
    assert draw_inspection(found, sizes).shape == (640, 640, 3), "64 pixels enlarged tenfold"
    figure = inspection_figure(found, sizes)
    assert figure.get_suptitle().startswith("✕ DEFECT: second, score 0.9")
    assert len(figure.axes) == 4, "photo, map, annotated, scale"
    figure.canvas.draw()


def test_opacity_and_boxes():
    picture, heat = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 2.0, np.float32)
    nothing = np.zeros((8, 8), bool)
    np.testing.assert_array_equal(draw_overlay(picture, heat, nothing, 1.0, opacity=0), picture)
    full = draw_overlay(picture, heat, nothing, 1.0, opacity=1)
    half = draw_overlay(picture, heat, nothing, 1.0, opacity=0.5)
    np.testing.assert_allclose(half, (full.astype(float) + picture) / 2, atol=1)
    framed = draw_boxes(picture, [(1, 1, 3, 3), (5, 5, 2, 2)], [True, False])
    assert tuple(framed[1, 1]) == DEFECT and tuple(framed[5, 5]) == SOUND and (picture == 100).all()


# ---------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def page(openable_folder) -> InspectionPage:
    page = open_page(openable_folder)
    page.start()
    return page


def open_page(folder: Path, **options) -> InspectionPage:
    return InspectionPage(folder.parents[1], dataset="stripes", profile="smoke", device="cpu", **options)


@pytest.fixture
def files(photos) -> list[tuple[str, bytes]]:
    """A damaged photo, a good one."""
    return [
        (name.rpartition("/")[2], (photos / name).read_bytes()) for name in ("test/square/000.png", "test/good/001.png")
    ]


def shown(page: InspectionPage) -> str:
    return unescape(re.sub(r"data:[^\"]*", "data:", page.verdict.value + page.stages.value + page.sizes.value))


def downloads(page: InspectionPage) -> dict[str, bytes]:
    links = re.findall(r'download="([^"]+)" href="data:[\w/]+;base64,([^"]+)"', page.downloads.value)
    return {name: base64.b64decode(data) for name, data in links}


def send(page: InspectionPage, uploads: list[tuple[str, bytes]]) -> None:
    """As the browser does it."""
    page.upload.value = [
        {"name": name, "type": "", "size": len(data), "content": memoryview(data), "last_modified": datetime.now(UTC)}
        for name, data in uploads
    ]


def test_an_upload_gets_its_verdict(page, files, photos):
    assert "No photo yet" in page.verdict.value and page.choice.value.label == "stripes / smoke / patchcore"
    send(page, files[:1])
    found, sizes = page.current
    expected = predictor.Predictor(page.choice.value.folder / "patchcore", device="cpu")
    judged = expected.predict(photos / "test/square/000.png")
    assert found.deciding["score"] == pytest.approx(float(judged.scores[0]))
    assert (found.verdict == "DEFECT") == bool(judged.labels[0])
    np.testing.assert_allclose(found.anomaly_map, judged.maps[0], rtol=1e-5)
    assert found.verdict in shown(page) and "untrained backbone" in page.about.value
    assert page.upload.value == () and page.listed.options[0][0].endswith("000.png")
    assert sizes.size.unit == "px", "the dataset does not say how large a pixel is"


def test_the_verdict_follows_the_slider_and_comes_back(page, files):
    send(page, files[:1])
    slider = page.sliders[0][1]
    stored = page.sliders[0][0].stored
    assert slider.value == stored.value and stored.origin in shown(page)
    slider.value = slider.max
    assert page.current[0].verdict == "OK" and "? OK" in shown(page) and "moved by hand" in shown(page)
    assert "insp-doubt" in shown(page) and "insp-good" not in shown(page), "the drawing rules fail"
    slider.value = slider.min
    assert page.current[0].verdict == "DEFECT" and "✕ DEFECT" in shown(page) and "insp-bad" in page.verdict.value
    slider.value = stored.value + 0.4 * slider.step  # a browser rounds
    assert page.current[0].deciding["origin"] == stored.origin
    slider.value = slider.max
    page.reset.click()
    assert slider.value == stored.value and "moved" not in shown(page)


def test_the_slider_of_the_map_moves_the_sizes_and_opacity_the_picture(page, files):
    send(page, files[:1])
    pixel = page.sliders[1][1]
    pixel.value = pixel.max
    assert page.current[1].table.empty and "No region" in page.sizes.value
    pixel.value = (pixel.min + pixel.max) / 2
    assert len(page.current[1].table) >= 1
    before, verdict = page.picture.value, page.verdict.value
    page.opacity.value = 0.0
    assert page.picture.value != before and page.verdict.value == verdict


def test_downloads_hold_what_is_shown(page, files):
    send(page, [files[0], ("broken.png", files[0][1][:200]), files[1]])
    found = downloads(page)
    assert set(found) == {"001_inspected.png", "inspection.csv"}
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found["001_inspected.png"]))), page.annotated())
    table = pd.read_csv(io.BytesIO(found["inspection.csv"]))
    assert set(table["photo"]) == {"000.png", "001.png", "broken.png"}
    verdicts = table.groupby("photo")["verdict"].first()
    assert verdicts["broken.png"] == "REFUSED" and verdicts["001.png"] == page.current[0].verdict
    page.listed.value = 0
    assert "000_inspected.png" in downloads(page)


def test_one_bad_upload_does_not_stop_the_others(page, files):
    send(page, [("notes <b>.txt", b"text"), files[0], ("huge.png", png(np.zeros((6000, 10000), np.uint8)))])
    assert [one.name for one in page.photos] == ["000.png"]
    assert "notes &lt;b&gt;.txt is not an image" in page.status.value, "a name is no HTML"
    assert "huge.png has 60 megapixels" in page.status.value and page.current is not None
    send(page, [files[1]])
    assert page.status.value == "", "what was refused before is over"


def test_names_and_what_a_run_says_are_no_html(openable_folder, files, tmp_path):
    folder = Path(shutil.copytree(openable_folder, tmp_path / "stripes" / "smoke"))
    about, markup = folder / "patchcore" / "run.json", "<img src=x onerror=alert(1)>"
    info = json.loads(about.read_text())
    for threshold in info["thresholds"].values():
        threshold["origin"] = markup
    about.write_text(json.dumps(info | {"note": markup}))
    page = open_page(folder)
    page.start()
    send(page, [(f"{markup}.png", files[0][1]), (f"{markup}.txt", b"text")])
    assert len(page.photos) == 1 and len(page.refused) == 1
    widgets = [page.widget]
    for widget in widgets:
        widgets += getattr(widget, "children", ())
    said = [widget.value for widget in widgets if isinstance(widget, ipywidgets.HTML)]
    assert sum(escape(markup) in text for text in said) >= 5, "note, origin, verdict, download, refusal"
    assert not any(markup in text for text in said)


def test_photos_of_one_name_are_told_apart(page, files):
    for _ in range(3):
        send(page, files[:1])
    assert [one.name for one in page.photos] == ["000.png", "000 (2).png", "000 (3).png"]
    page.clear.click()
    assert page.photos == [] and page.current is None and "No photo yet" in page.verdict.value


def test_a_page_that_is_full_says_so(page, files, monkeypatch):
    from helpers.views.app import page as app

    monkeypatch.setattr(app, "MOST_PHOTOS_MEGAPIXELS", 72 * 96 * 1.5 / 1e6)
    send(page, files)
    assert len(page.photos) == 1 and "the page is full" in page.status.value


def test_samples_are_test_photos(page, photos):
    offered = [path for _, path in page.sample.options if path]
    assert offered == [photos / f"test/{name}" for name in ("square/000.png", "square/001.png")] + offered[2:]
    assert len(offered) == 4
    page.sample.value = offered[0]
    assert page.photos[0].name == "square/000.png"


def test_the_size_of_a_pixel(page, files):
    send(page, files[:1])
    page.sliders[1][1].value = page.sliders[1][1].min + 0.6 * (page.sliders[1][1].max - page.sliders[1][1].min)
    assert page.unit.value == "px" and page.pixel_size.disabled
    in_pixels = page.current[1].table["length"]
    page.unit.value = "mm"
    assert page.current[1].size.unit == "px", "nobody has said how large it is"
    page.pixel_size.value = 0.2
    np.testing.assert_allclose(page.current[1].table["length"], in_pixels * 0.2)
    page.unit.value = "cm"
    assert page.pixel_size.value == pytest.approx(0.02)
    np.testing.assert_allclose(page.current[1].table["length"], in_pixels * 0.02)


def test_limits_in_another_unit_are_a_sentence(openable_folder, files):
    limits = "notebooks/params/sizes/severity.yml"
    page = open_page(openable_folder, severity=limits)
    send(page, files[:1])
    assert "needs sizes in a unit of length" in page.sizes.value
    assert page.current[0].verdict in shown(page) and page.current[1] is None
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml"):
        InspectionPage(openable_folder.parents[1], rules="nowhere.yml")


def test_another_run_looks_at_the_photos_again(openable_folder, files, tmp_path):
    for name in ("patchcore", "other"):
        shutil.copytree(openable_folder / "patchcore", tmp_path / "stripes" / "smoke" / name)
    page = open_page(tmp_path / "stripes" / "smoke")
    send(page, files)  # before anything is open
    before = [one.verdict for one, _ in page.results]
    page.choice.value = next(one for one in page.choices if one.name == "other")
    assert [one.verdict for one, _ in page.results] == before and page.current[0].deciding["stage"] == "other"
    (tmp_path / "stripes" / "smoke" / "patchcore" / "model.ckpt").write_bytes(b"damaged")
    page.choice.value = next(one for one in page.choices if one.name == "patchcore")
    assert "cannot be opened" in page.status.value and "SHA-256" in page.status.value


def test_without_a_run_the_page_says_which_command_makes_one(tmp_path):
    page = InspectionPage(tmp_path)
    text = "".join(child.value for child in page.widget.children)
    assert "No finished run yet" in text and "<pre>make run</pre>" in text and str(tmp_path) in text
    page.start(background=True)  # somebody watches: the page has said it
    with pytest.raises(MissingRunError, match="make run"):
        page.start()


def test_uploads_wait_until_the_run_is_open(openable_folder, files):
    async def visit() -> InspectionPage:
        page = open_page(openable_folder)
        page.start(background=True)
        send(page, files)
        assert page.inspector is None and page.photos == []
        await page._task
        return page

    page = asyncio.run(visit())
    assert len(page.photos) == 2 and len(page.sliders) == 2 and page.current is not None


@pytest.mark.parametrize("error", [KeyError("thresholds"), ImportError("no torch"), RecursionError()])
@pytest.mark.parametrize("background", [False, True])
def test_any_error_while_opening_is_a_sentence(openable_folder, files, monkeypatch, error, background):
    def fail(*_: object) -> None:
        raise error

    async def visit() -> InspectionPage:
        page = open_page(openable_folder)
        page.start(background)
        if background:
            send(page, files)
            await page._task
        return page

    monkeypatch.setattr(Inspector, "open", fail)
    page = asyncio.run(visit())
    assert "insp-problem" in page.status.value and type(error).__name__ in page.status.value
    assert "insp-busy" not in page.status.value and page.inspector is None and page.results == []
    monkeypatch.undo()
    page.start()
    send(page, files)
    assert len(page.results) == 2 and page.status.value == "", "and the next try goes on"


def test_an_error_while_judging_leaves_no_old_verdict(page, files, monkeypatch):
    send(page, files)
    monkeypatch.setattr(Inspector, "judge", lambda *_: {}["key"])
    page.sliders[0][1].value = page.sliders[0][1].max
    assert "KeyError" in page.status.value and page.verdict.value == "" and page.results == []


def test_nothing_is_written(openable_folder, tmp_path, files, monkeypatch):
    shutil.copytree(openable_folder, tmp_path / "stripes" / "smoke")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    page = open_page(tmp_path / "stripes" / "smoke")
    send(page, files)
    page.sliders[0][1].value = page.sliders[0][1].max
    assert sorted(tmp_path.rglob("*")) == before


# ------------------------------------------------------------------------------------------------------------- serving


def test_the_page_is_served_to_this_machine_alone():
    settings = serve.voila_settings(1234, open_browser=False)
    assert settings["Voila"]["ip"] == "127.0.0.1" and settings["Voila"]["port"] == 1234
    assert settings["Voila"]["tornado_settings"]["websocket_max_message_size"] > 500e6


def test_kernels_have_a_limit(monkeypatch):
    async def start(self, **_: object) -> str:
        await asyncio.sleep(0)
        self._kernels[str(len(self._kernels))] = None
        return "id"

    async def start_many() -> list:
        kernels = serve.FewKernels()
        return await asyncio.gather(*(kernels.start_kernel() for _ in range(20)), return_exceptions=True)

    monkeypatch.setattr(serve.AsyncMappingKernelManager, "start_kernel", start)
    outcomes = asyncio.run(start_many())
    assert outcomes.count("id") == serve.MOST_KERNELS
    assert {one.status_code for one in outcomes if one != "id"} == {503}


def test_the_browser_gets_the_token_by_a_private_file(monkeypatch):
    opened = []
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    monkeypatch.setattr(serve.Page, "display_url", "http://127.0.0.1:1/?token=secret")
    serve.Page().launch_browser()
    while not opened:
        pass
    assert "secret" not in opened[0]
    file = Path(opened[0].removeprefix("file://"))
    assert "token=secret" in file.read_text() and file.parent.stat().st_mode & 0o077 == 0


def test_the_copy_that_is_served_has_its_parameters_and_the_profiles(tmp_path, monkeypatch):
    notebooks = Path(shutil.copytree(serve.NOTEBOOKS_FOLDER, tmp_path / "notebooks"))
    (notebooks / "params" / "mine.yml").write_text("10_inspection_app:\n  OPACITY: 3e-1\n  RUN: glass\n")
    for module in (serve, pipeline):
        monkeypatch.setattr(module, "NOTEBOOKS_FOLDER", notebooks)
    copy = serve.prepare_page("datasets/wire", "mine", str(tmp_path), ["PIXEL_SIZE_MM=5e-2", "RUN=unet"])
    assert copy.is_relative_to(tmp_path / "app")
    source = "\n".join("".join(cell["source"]) for cell in json.loads(copy.read_text())["cells"])
    for line in ('DATASET = "datasets/wire"', "PIXEL_SIZE_MM = 0.05", "OPACITY = 0.3", 'RUN = "unet"'):
        assert line in source
    for setting in ("PIXEL_SIZE_MM=.nan", "PIXEL_SIZE_MM=wide", "MAX_PIXELS=20"):
        assert serve.main(["--artifacts", str(tmp_path), "--profile", "mine", "--set", setting]) == 2


def test_the_template_asks_no_other_server():
    for file in (serve.TEMPLATES / "voila").rglob("*.j2"):
        assert "//" not in re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.MULTILINE)
