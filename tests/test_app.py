"""The inspection page without a browser: what there is to inspect with, uploads, verdicts, thresholds, downloads."""

import asyncio
import base64
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from datetime import UTC, datetime
from html import escape, unescape
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import yaml
from cascade_runs import CHANNELS, CLASSES, KnownBackend, blue_frame, use_blue_objects, write_run
from conftest import REPOSITORY
from PIL import Image

from helpers import pipeline
from helpers.analysis.sizing import IN_PIXELS, PixelSize
from helpers.drawing import DEFECT, SOUND
from helpers.inference import predictor
from helpers.inference.cascade import Cascade
from helpers.inference.cutting import ABOUT_FILE, CutterStage
from helpers.inference.presets import Choice, choose, find_choices, missing_files
from helpers.inference.stages import THRESHOLDS_FILE, RunStage
from helpers.models.open_set import OPEN_SET_FILE
from helpers.runs import MissingRunError
from helpers.views.app import page as app
from helpers.views.app import serve
from helpers.views.app.inspection import MOVED, Inspector, Photo, photo_table, read_upload
from helpers.views.app.page import InspectionPage

FIRST = {"run": "first", "rule": "area >= 0.1", "pixel_threshold": 0.5, "otherwise": "OK"}
SECOND = {"run": "second", "rule": "score > image", "then": "DEFECT", "otherwise": "FINE"}
TENTH_MM = PixelSize(0.1, 0.1, 0, "mm")


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
    file.write_text(yaml.safe_dump({"name": "two", "parameters": {"DATASET": "drawn"}, "stages": [FIRST, SECOND]}))
    return Inspector(Cascade.from_yaml(file, {"ARTIFACTS": str(tmp_path)}))


def photo(red: float = 0, green: float = 0, side: int = 24) -> np.ndarray:
    """A black photo of 64 x 64 pixels with a square of this side, brightness 0 to 1 in red and green."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16 : 16 + side, 16 : 16 + side, :2] = round(255 * red), round(255 * green)
    return picture


def judged(inspector: Inspector, picture: np.ndarray, size: PixelSize | None = None) -> Photo:
    found = inspector.judge(inspector.look("a.png", picture))
    if size is not None:
        found.measure(size)
    return found


def encoded(picture: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def test_runs_and_complete_cascades_are_found_without_loading_anything(tmp_path):
    for place in ("wire/quick/unet", "wire/quick/deeplabv3plus", "wire/quick/.draem.partial", "mesh/full/patchcore"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").touch()
    (tmp_path / "mesh" / "full" / "glass").mkdir()  # no run.json: no run
    choices, lacking = find_choices(tmp_path)
    labels = ["mesh / full / patchcore", "wire / quick / deeplabv3plus", "wire / quick / unet"]
    assert [one.label for one in choices] == [*labels, "wire / quick / cascade mesh"]
    assert choices[-1].folder == tmp_path / "wire" / "quick" and set(lacking) == {"bicycle", "nuts", "steel"}
    assert lacking["nuts"] == [tmp_path / "mesh/full/foreground/foreground.json"], "where less is missing"
    code = f"import sys; from helpers.inference.presets import find_choices; find_choices({str(tmp_path)!r}); "
    code += "import helpers.views.app.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_what_a_preset_needs(tmp_path):
    place, settings = tmp_path / "mesh" / "quick", {"ARTIFACTS": str(tmp_path)}
    needed = [place / name for name in ("patchcore/run.json", "classifier/run.json")]
    opened = [place / "open_set" / name for name in (OPEN_SET_FILE, THRESHOLDS_FILE)]
    assert missing_files("steel", settings) == needed + opened
    assert missing_files("steel", settings | {"UNKNOWN": "none"}) == needed
    assert missing_files("nuts", settings)[0].name == ABOUT_FILE


def test_choosing():
    names = [("mesh", "draem", False), ("mesh", "patchcore", False), ("nuts", "unet", False), ("nuts", "mesh", True)]
    choices = [Choice(dataset, "quick", name, cascade, Path()) for dataset, name, cascade in names]
    assert choose(choices, "mesh", "quick") == choose(choices, "wire", "quick") == choices[1], "PatchCore, or any"
    assert choose(choices, "nuts", "quick") == choices[2], "no PatchCore: the first"
    assert choose(choices, "nuts", "quick", "mesh") == choices[3]
    for given in ((choices, "mesh", "quick", "glass"), ([],)):
        with pytest.raises(MissingRunError, match="make run"):
            choose(*given)


def test_uploads_are_read_as_files_are():
    picture = np.random.default_rng(0).integers(0, 256, (9, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_upload("a.png", encoded(picture)), picture)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned = read_upload("a.tif", encoded(picture, format="TIFF", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(picture, -1))


BOMB = bytearray(encoded(np.zeros((1, 1), np.uint8)))
BOMB[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of the PNG header
BOMB[29:33] = zlib.crc32(BOMB[12:29]).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no picture at all", "is not an image"),
        (b"", "has zero bytes"),
        (encoded(photo(1))[:100], "is truncated"),
        (bytes(BOMB), "less than 0.01 megapixels"),
    ],
)
def test_refused_uploads_get_a_sentence(content, says):
    with pytest.raises(ValueError, match=says) as refused:
        read_upload("it.png", content, 0.01)
    assert re.fullmatch(r"it.png: [^\n]+\.", str(refused.value))
    assert read_upload("ok.png", encoded(np.zeros((99, 100), np.uint8)), 0.01).shape == (99, 100, 3)


def test_thresholds_move_without_asking_a_network(two):
    area, pixel, score, _ = two.movables
    words = ("1 · first: share of the map >=", "1 · first: map pixel >", "2 · second: score >")
    assert tuple(movable.label for movable in two.movables[:3]) == words
    # a square of 24 of 64 pixels is 3 of 8 in the network's frame: 9 / 64 of its map
    looked, stopped = two.look("a", photo(0.8, 0.4)), two.look("b", photo(0, 0.9))
    assert two.judge(looked).verdict == "FINE", "0.4 is not above 0.5"
    # 9 / 64 is below an area of 0.2; where no pixel is above 0.9, there is no area
    moves = [(score, 0.3, "DEFECT"), (area, 0.2, "OK"), (area, 9 / 64, "DEFECT"), (pixel, 0.9, "OK")]
    for movable, value, verdict in moves:
        movable.move(value)
        found = two.judge(looked)
        assert (found.verdict, found.item.abnormal) == (verdict, verdict == "DEFECT")
        assert found.stage.name == ("second" if verdict == "DEFECT" else "first")
        assert found.row["origin"] == MOVED or movable is pixel
    for movable in two.movables:
        movable.move(movable.stored.value)
    assert two.judge(looked).verdict == "FINE" and looked.row["origin"] == "by hand (image)"
    area.move(0.0)
    assert two.judge(stopped).verdict == "DEFECT", "what the first stage stopped, the second has seen as well"
    assert KnownBackend.seen == 4, "both stages looked at both photos, once"
    with pytest.raises(ValueError, match="finite"):
        area.move(np.nan)


def test_verdicts_are_those_of_the_cascade(two, tmp_path):
    pictures = [photo(red, green) for red in (0, 0.55, 0.9) for green in (0, 0.45, 0.95)]
    table = two.cascade.run(pictures, tmp_path / "out", save=())
    for picture, row in zip(pictures, table.itertuples(), strict=True):
        found = judged(two, picture)
        assert (found.verdict, found.item.abnormal, found.row["stage"]) == (row.verdict, row.abnormal, row.stage)
        assert found.row["value"] == row.value


def test_sliders_reach_from_all_to_nothing_by_way_of_the_stored_value(two):
    looked = two.look("a", photo(0.8, 0.9))
    for movable in two.movables[::2]:
        low, high, step = movable.reach([looked])
        steps = (movable.stored.value - low) / step
        assert steps == pytest.approx(round(steps), abs=1e-6)
        for value, is_defect in ((high, False), (low, True)):
            movable.move(value)
            assert (two.judge(looked).verdict == "DEFECT") == is_defect


def test_what_a_limit_does_on_val(two):
    run, movable = two.cascade.stages[1].predictor.run, two.movables[2]
    val = run.predictions("val").assign(label_index=[0, 1, 1], score=[0.1, 0.5, 0.9])
    val.drop(columns="mask_path").to_csv(run.folder / "predictions.csv", index=False)
    assert movable.on_val() == "val: 0 of 1 good photos, 1 of 2 defects"
    movable.move(0.0)
    assert movable.on_val() == "val: 1 of 1 good photos, 2 of 2 defects"


def test_a_photo_that_a_run_fails_on_is_an_error_and_no_verdict(two, monkeypatch):
    def fail(self, photos):
        raise ValueError("a mask is missing")

    monkeypatch.setattr(KnownBackend, "__call__", fail)
    found = judged(two, photo(0.9, 0.9), TENTH_MM)
    assert (found.words, found.item.abnormal, found.why) == ("? ERROR", None, "a mask is missing")
    assert found.anomaly_map is None and found.sizes is None
    assert photo_table([found], {})["error"].tolist() == ["a mask is missing"]


def test_a_classifier_names_and_has_no_map(known, tmp_path):
    write_run(tmp_path / "drawn" / "quick" / "classifier", classes=CLASSES, normal="good")
    inspector = Inspector.open(Choice("drawn", "quick", "classifier", False, tmp_path))
    picture = np.full((32, 32, 3), (10, 30, 60), np.uint8)  # P = 0.1 good, 0.3 hole, 0.6 scratch
    found = judged(inspector, picture, TENTH_MM)
    assert (found.verdict, found.item.abnormal, found.sizes) == ("scratch", True, None)
    assert found.drawn(0.5).shape == (32, 32, 3)
    assert "<td>scratch (0.60)</td>" in app.HTML.result(found, "", [], "")
    (movable,) = inspector.movables
    movable.move(0.95)
    assert judged(inspector, picture).verdict == "good"


def test_objects_are_judged_alone_and_shown_together(known, tmp_path, monkeypatch):
    folder = use_blue_objects(monkeypatch, tmp_path)
    cutter = CutterStage(folder, window=16, separate={"min_area": 20, "threshold": 0.01})
    run = RunStage(predictor.Predictor(write_run(tmp_path / "first")), "peak > pixel", then="DEFECT", otherwise="OK")
    inspector = Inspector(Cascade("nuts", [cutter, run]))
    picture = blue_frame(0.1, 0.8)  # on squares of 12 at (6, 8) and (26, 8), red in the middle
    picture[:4, :, 0] = 255  # nobody's
    found = judged(inspector, picture)
    assert (found.verdict, found.item.abnormal, found.row["object"]) == ("DEFECT", True, 2)
    assert [row["stage"] for row in found.rows] == ["foreground", "first", "first"]
    assert photo_table([found], {})[["n_objects", "n_abnormal"]].to_numpy().tolist() == [[2, 1]]
    _, anomaly_map, mask = found.marked
    rows, columns = np.nonzero(mask)
    assert rows.min() >= 8 and columns.min() >= 26, "inside the second object"
    assert mask[13:15, 31:33].all() and anomaly_map.max() == pytest.approx(0.8)
    assert (anomaly_map[:6] == 0).all(), "what belongs to no object"
    drawn = found.drawn(0)
    assert tuple(drawn[8, 6]) == SOUND and tuple(drawn[8, 26]) == DEFECT, "boxes"
    inspector.movables[0].move(0.9)
    assert judged(inspector, picture).verdict == "OK"


def test_sizes_and_severity_of_a_drawn_square(two):
    two.movables[2].move(0.05)
    two.movables[3].move(0.5)
    found = judged(two, photo(1, 1, side=32), TENTH_MM)
    # enlarged from 8 x 8 bilinearly, the map passes 0.5 exactly at the square's edges
    (row,) = found.sizes.table.to_dict("records")
    assert row["area_px"] == pytest.approx(32 * 32, rel=0.05) and row["area"] == pytest.approx(row["area_px"] * 0.01)
    assert row["defect_type"] == "spot" and row["severity"] == "critical" and found.sizes.drawing == "FAIL"
    assert found.drawn(0.5).shape == (640, 640, 3), "64 pixels enlarged tenfold"
    table = photo_table([found], {"b.png": "b.png is no image."})
    assert table["verdict"].tolist() == ["DEFECT", "REFUSED"] and table["error"].tolist()[1] == "b.png is no image."
    assert table["n_defects"].tolist()[0] == 1 and table["area_px"].tolist()[0] == row["area_px"]
    found.measure(IN_PIXELS)
    assert found.sizes.table["unit"].item() == "px" and found.sizes.table["area"].item() == row["area_px"]
    good = judged(two, photo(), IN_PIXELS)
    assert good.sizes.drawing == "PASS" and photo_table([good], {})["n_defects"].tolist() == [0]


def test_sizes_that_speak_against_a_verdict_are_said(two):
    """The rule is not met, yet the map marks a square as large as a hole; and the other way round."""
    area, _, _, pixel = two.movables
    square = photo(1, 1, side=32)
    area.move(0.9)  # the first stage lets hardly anything go on
    found = judged(two, square, TENTH_MM)
    assert found.against == "drawing rules FAIL, severity critical" and found.words == "? OK"
    row = photo_table([found], {}).iloc[0]
    assert (row["drawing"], row["measured_by"]) == ("FAIL", "first") and "critical" in row["contradiction"]
    assert judged(two, square).words == "✓ OK", "nothing is measured"
    area.move(area.stored.value)
    assert judged(two, square, TENTH_MM).against == ""
    pixel.move(1.0)
    found = judged(two, square, TENTH_MM)
    assert found.words == "✕ DEFECT" and found.against != "", "nothing is marked"
    assert judged(two, photo(), TENTH_MM).against == ""


def test_sizes_are_measured_by_a_segmenter_where_there_is_one(known, tmp_path, monkeypatch):
    monkeypatch.setitem(CHANNELS, "patchcore", 0)
    monkeypatch.setitem(CHANNELS, "unet", 1)
    picture, home = photo(red=1, side=40), tmp_path / "wire" / "quick"
    picture[16:32, 16:32, 1] = 255  # the segmenter outlines a smaller part
    write_run(home / "patchcore")
    choice = Choice("wire", "quick", "patchcore", False, tmp_path)
    rough = judged(Inspector.open(choice, "cpu"), picture, IN_PIXELS)
    assert (rough.verdict, rough.sizes.by) == ("DEFECT", "patchcore")
    write_run(home / "unet")
    beside = Inspector.open(choice, "cpu")
    fine = judged(beside, picture, IN_PIXELS)
    assert (fine.verdict, fine.stage.name, fine.sizes.by) == ("DEFECT", "patchcore", "unet")
    assert fine.sizes.table["area_px"].item() < rough.sizes.table["area_px"].item() / 4
    assert judged(beside, photo(red=1), IN_PIXELS).sizes.by == "patchcore", "the segmenter marks nothing"
    alone = judged(beside, photo(green=1), IN_PIXELS)
    assert alone.verdict == "OK" and alone.against != "", "it alone marks something"
    assert Inspector.open(Choice("wire", "quick", "unet", False, tmp_path), "cpu").outliner is None


@pytest.fixture
def page(finished_folder) -> InspectionPage:
    page = open_page(finished_folder)
    page.start()
    return page


def open_page(folder: Path, **options) -> InspectionPage:
    return InspectionPage(folder.parents[1], dataset="stripes", profile="smoke", device="cpu", **options)


@pytest.fixture
def files(photos) -> list[tuple[str, bytes]]:
    """A damaged photo, a good one."""
    return [(Path(name).name, (photos / name).read_bytes()) for name in ("test/square/000.png", "test/good/001.png")]


def shown(page: InspectionPage) -> str:
    """What is said of a photo, as text with its tags."""
    return unescape(re.sub(r"data:[^\"]*", "data:", page.result.value))


def send(page: InspectionPage, uploads: list[tuple[str, bytes]]) -> None:
    """As the browser does it."""
    about = {"type": "", "size": 1, "last_modified": datetime.now(UTC)}
    page.upload.value = [{"name": name, "content": memoryview(data), **about} for name, data in uploads]


def test_an_upload_gets_its_verdict(page, files, photos):
    assert "No photo yet" in shown(page) and page.choice.value.label == "stripes / smoke / patchcore"
    send(page, files[:1])
    found, run = page.current, page.choice.value.folder / "patchcore"
    expected = predictor.Predictor(run, device="cpu").predict(photos / "test/square/000.png")
    assert found.row["score"] == pytest.approx(float(expected.scores[0]))
    assert (found.verdict == "DEFECT") == bool(expected.labels[0])
    np.testing.assert_allclose(found.anomaly_map, expected.maps[0], rtol=1e-5)
    assert found.words in shown(page) and "untrained backbone" in page.about.value and "<th>class" not in shown(page)
    assert page.upload.value == () and page.listed.options[0][0].endswith("000.png")
    offered = [path for _, path in page.sample.options if path]
    assert offered[:2] == [photos / f"test/square/{name}.png" for name in ("000", "001")] and len(offered) == 4
    page.sample.value = offered[0]
    assert [one.name for one in page.photos] == ["000.png", "square/000.png"]


def test_the_verdict_follows_the_slider_and_comes_back(page, files):
    send(page, files[:1])
    (movable, slider), (_, pixel) = page.sliders
    stored = movable.stored
    assert slider.value == stored.value and stored.origin in shown(page)
    slider.value = slider.max
    assert page.current.verdict == "OK" and "? OK" in shown(page) and "moved by hand" in shown(page)
    assert "insp-doubt" in shown(page) and "insp-good" not in shown(page), "the drawing rules fail"
    slider.value = slider.min
    assert page.current.verdict == "DEFECT" and "✕ DEFECT" in shown(page) and "insp-bad" in shown(page)
    slider.value = stored.value + 0.4 * slider.step  # a browser rounds
    assert page.current.row["origin"] == stored.origin
    pixel.value = pixel.max
    assert page.current.sizes.table.empty and "No region" in shown(page)
    page.reset.click()
    assert slider.value == stored.value and "moved" not in shown(page) and len(page.current.sizes.table)
    before, words = page.result.value, shown(page)
    page.opacity.value = 0.0
    assert page.result.value != before and shown(page) == words, "the picture alone"


def test_downloads_hold_what_is_shown(page, files):
    def downloads() -> dict[str, bytes]:
        links = re.findall(r'download="([^"]+)" href="data:[\w/]+;base64,([^"]+)"', page.result.value)
        return {name: base64.b64decode(data) for name, data in links}

    send(page, [files[0], ("broken.png", files[0][1][:200]), files[1]])
    found = downloads()
    assert set(found) == {"001_inspected.png", "inspection.csv"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(found["001_inspected.png"]))), page.current.drawn(page.opacity.value)
    )
    verdicts = pd.read_csv(io.BytesIO(found["inspection.csv"])).groupby("photo")["verdict"].first()
    assert set(verdicts.index) == {"000.png", "001.png", "broken.png"}
    assert verdicts["broken.png"] == "REFUSED" and verdicts["001.png"] == page.current.verdict
    page.listed.value = 0
    assert "000_inspected.png" in downloads()


def test_refused_uploads_do_not_stop_the_others(page, files, monkeypatch):
    monkeypatch.setattr(app, "MOST_PHOTOS_MEGAPIXELS", 72 * 96 * 2.5 / 1e6)
    send(page, [("notes <b>.txt", b"text"), files[0], files[0], ("../" + files[0][0], files[0][1])])
    assert [one.name for one in page.photos] == ["000.png", "000 (2).png"], "photos of one name are told apart"
    assert "notes &lt;b&gt;.txt: is not an image" in page.status.value, "a name is no HTML"
    assert "000 (3).png: the page is full" in page.status.value and page.current is not None
    page.clear.click()
    assert page.photos == [] and page.current is None and "No photo yet" in shown(page) and page.status.value == ""


def test_names_and_what_a_run_says_are_no_html(finished_folder, files, tmp_path):
    folder = Path(shutil.copytree(finished_folder, tmp_path / "stripes" / "smoke"))
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
    assert sum(text.count(escape(markup)) for text in said) >= 6, "note, origins, verdict, picture, download, refusal"
    assert not any(markup in text for text in said)


def test_the_size_of_a_pixel_and_limits_that_need_it(finished_folder, files):
    page = open_page(finished_folder, severity="notebooks/params/sizes/severity.yml")
    page.start()
    send(page, files[:1])
    assert page.pixel_size.value == 0 and page.current.sizes is None and "unit of length" in shown(page)
    assert page.current.verdict in shown(page)
    page.pixel_size.value = 0.2
    table = page.current.sizes.table
    np.testing.assert_allclose(table["length"], table["length_px"] * 0.2)
    assert set(table["unit"]) == {"mm"} and "A pixel is 0.2 mm" in shown(page)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml"):
        InspectionPage(finished_folder.parents[1], rules="nowhere.yml")


def test_another_run_looks_at_the_photos_again_and_nothing_is_written(finished_folder, files, tmp_path, monkeypatch):
    for name in ("patchcore", "other"):
        shutil.copytree(finished_folder / "patchcore", tmp_path / "stripes" / "smoke" / name)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    page = open_page(tmp_path / "stripes" / "smoke")
    page.add(files)  # opens it first
    verdicts = [one.verdict for one in page.photos]
    page.choice.value = next(one for one in page.choices if one.name == "other")
    assert [one.verdict for one in page.photos] == verdicts and page.current.row["stage"] == "other"
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "stripes" / "smoke" / "patchcore" / "model.ckpt").write_bytes(b"damaged")
    page.choice.value = next(one for one in page.choices if one.name == "patchcore")
    assert "cannot be opened" in page.status.value and "SHA-256" in page.status.value and page.result.value == ""


def test_without_a_run_the_page_says_which_command_makes_one(tmp_path):
    page = InspectionPage(tmp_path)
    text = "".join(child.value for child in page.widget.children)
    assert "No finished run yet" in text and "<pre>make run</pre>" in text and str(tmp_path) in text
    page.start(background=True)  # somebody watches: the page has said it
    with pytest.raises(MissingRunError, match="make run"):
        page.start()


def test_uploads_wait_until_the_run_is_open(finished_folder, files):
    async def visit() -> InspectionPage:
        page = open_page(finished_folder)
        page.start(background=True)
        send(page, files)
        assert page.inspector is None and page.photos == []
        await page._task
        return page

    page = asyncio.run(visit())
    assert len(page.photos) == 2 and len(page.sliders) == 2 and page.current is not None
    assert page.upload.value == () and page.status.value == "" and not page.choice.disabled


def test_errors_while_opening_and_judging_are_sentences_and_leave_no_old_verdict(finished_folder, files, monkeypatch):
    page = open_page(finished_folder)
    with monkeypatch.context() as patch:
        patch.setattr(Inspector, "open", lambda *_: {}["thresholds"])
        page.start()
    assert "insp-problem" in page.status.value and "KeyError" in page.status.value
    assert "insp-busy" not in page.status.value and page.inspector is None and page.current is None
    page.add(files)
    assert len(page.photos) == 2 and page.status.value == "", "and the next try goes on"
    monkeypatch.setattr(Inspector, "judge", lambda *_: {}["key"])
    page.sliders[0][1].value = page.sliders[0][1].max
    assert "KeyError" in page.status.value and page.result.value == "" and page.current is None


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


def test_the_template_asks_no_other_server_and_none_is_asked_from_elsewhere():
    assert serve.voila_settings(1234)["Voila"]["ip"] == "127.0.0.1"
    for file in serve.VIEWS.rglob("*.j2"):
        assert "//" not in re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.MULTILINE)
