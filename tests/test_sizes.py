"""Sizes of a finished run: from its maps to files, against what was put into the maps."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from helpers.analysis.pixel_size import Calibration
from helpers.analysis.severity import FOLDER, Limit, check_rules, rate_severity, verdicts
from helpers.analysis.sizing import PixelSize, label_defects, measure_defects
from helpers.data.coco import read_instances
from helpers.data.samples import write_table
from helpers.paths import write_json
from helpers.pictures.calibration_scene import LENS, PATTERN, TILTS, bar_sizes, photograph
from helpers.runs import MissingRunError, Run
from helpers.session import ParameterError
from helpers.studies import sizes
from helpers.studies.calibration import choose_calibration, read_calibration
from helpers.studies.sizes import coco_of_defects, measure_run, threshold_errors, write_measurements
from helpers.thresholds import Threshold

SIZE = Calibration(PixelSize(0.1, 0.1, 0.001, "mm"))
SHAPE = (96, 128)  # of the photos; maps have half of it


def _run(folder: Path) -> Run:
    """A run of three photos whose maps hold a block of 40 x 8 px, one of 20 x 20 px, and nothing."""
    maps = np.zeros((3, SHAPE[0] // 2, SHAPE[1] // 2), np.float16)
    maps[0, 10:14, 20:40] = 4
    maps[1, 20:30, 30:40] = 8
    kinds, photos = ["cut", "dent", "good"], []
    for kind, found in zip(kinds, maps, strict=True):
        photos.append(folder / "data" / kind / "0.png")
        photos[-1].parent.mkdir(parents=True)
        Image.fromarray(np.full((*SHAPE, 3), 120, np.uint8)).save(photos[-1])
        Image.fromarray(np.kron(found > 0, np.ones((2, 2))).astype(np.uint8) * 255).save(
            photos[-1].with_name("mask.png")
        )
    masks = [str(photo.with_name("mask.png")) for photo in photos[:2]]
    table = pd.DataFrame({"image_path": [str(photo) for photo in photos], "mask_path": [*masks, ""]})
    table = table.assign(label_index=[1, 1, 0], defect_type=kinds, split="test", group=list("012"))
    table = table.assign(score=[0.0, 1.0, 2.0], map_max=0.0)
    table.attrs["root"] = str(folder / "data")
    place = folder / "patchcore"
    place.mkdir()
    np.save(place / "maps_test.npy", maps)
    written = table.assign(image_path=[f"{kind}/0.png" for kind in kinds])
    written.drop(columns=["mask_path", "group"]).to_csv(place / "predictions.csv", index=False)
    parameters = {"image_size": [48, 64], "center_crop": None, "scheme": "one_class"}
    thresholds = {kind: Threshold(value, "known", kind).to_dict() for kind, value in (("image", 1.5), ("pixel", 2.0))}
    info = {"model": "patchcore", "parameters": parameters, "thresholds": thresholds}
    return Run(place, info, table)


@pytest.fixture
def run(tmp_path) -> Run:
    return _run(tmp_path)


def test_defects_of_every_photo(run):
    measured = measure_run(run, 2.0, SIZE)
    table = measured.table
    assert table["image_path"].tolist() == ["cut/0.png", "dent/0.png"]
    assert table["photo_type"].tolist() == ["cut", "dent"]
    assert table["defect_type"].tolist() == ["scratch", "spot"]
    # Bilinear, a pixel beside a block has a quarter of its height (1 and 2), and one at its corner inside 9 sixteenths.
    assert table["area_px"].tolist() == [40 * 8, 20 * 20]
    assert table["length"].iloc[0] == pytest.approx(0.1 * np.hypot(40, 8))
    assert table["length_error"].iloc[0] == pytest.approx(0.01 * table["length"].iloc[0])
    assert table["peak_score"].tolist() == [4, 8]
    assert measured.photos["image_path"].tolist() == ["cut/0.png", "dent/0.png", "good/0.png"]
    labels = measured.labels("dent/0.png")
    assert labels.shape == SHAPE and labels.max() == 1 and (labels > 0).sum() == table["area_px"].iloc[1]
    assert not measured.labels("good/0.png").any()
    assert measure_run(run, 2.0, SIZE, types="label").table["defect_type"].tolist() == ["cut", "dent"]
    empty = measure_run(run, 99.0, SIZE).table
    assert len(empty) == 0 and empty.dtypes.equals(table.dtypes)


def test_edges_are_those_of_the_product(run):
    photo = np.full((*SHAPE, 3), 10, np.uint8)
    photo[:, 40:] = 200
    photo[:10] = 10
    for path in run.predictions("test")["image_path"]:
        Image.fromarray(photo).save(path)
    measured = measure_run(run, 2.0, SIZE, product="otsu")
    cut, dent = measured.table["edge_distance_px"]
    assert cut == 0, "it reaches over the product's left edge"
    assert dent == pytest.approx(60 - 40, abs=1)
    with pytest.raises(ValueError, match=r"cut/0\.png: min_defect_area"):
        measure_run(run, 2.0, SIZE, min_defect_area=-1)


def test_size_errors_over_thresholds_have_the_runs_own_among_them(run):
    curve = threshold_errors(run, 3, SIZE)
    assert curve["own"].sum() == 1 and curve.loc[curve["own"], "threshold"].item() == 2.0
    assert (curve["n"] == 2).all() and curve["threshold"].is_monotonic_increasing
    own = curve[curve["own"]].iloc[0]
    assert own["found"] == 1 and abs(own["area_error"]) < 0.12
    shown = curve.dropna()
    assert (shown["area_error_low"] <= shown["area_error"]).all() and len(shown) == 3
    with pytest.raises(ValueError, match="MIN_DEFECT_AREA"):
        threshold_errors(run, 3, SIZE, min_defect_area=10**6)


def _judged(measured, longest=2.5):
    limits = [Limit("length", "medium", 1, "mm"), Limit("length", "critical", 3.5, "mm")]
    table = measured.table.assign(severity=rate_severity(measured.table, limits))
    rules = [Limit("length", "max", longest, "mm")]
    return table, verdicts(check_rules(measured.table, rules, measured.photos["image_path"]))


def test_annotated_photos(run, tmp_path):
    measured = measure_run(run, 2.0, SIZE)
    table, judged = _judged(measured, 3.5)
    picture = sizes.annotated_photo(measured, table, judged, "cut/0.png")
    assert picture.shape == (7 * SHAPE[0], 7 * SHAPE[1], 3), "96 x 7 is the first multiple from 640 on"
    assert (picture == (213, 94, 0)).all(-1).any(), "critical, as the limits say"
    (file,) = sizes.write_pictures(tmp_path / "photos", ["../cut/0.png"], lambda path: picture, ".jpg")
    assert file == tmp_path / "photos" / "cut" / "0.png.jpg", "a path does not lead out of the folder"
    np.testing.assert_allclose(np.asarray(Image.open(file)).astype(int).mean(), picture.mean(), atol=2)


def test_files_hold_what_was_measured(run, tmp_path):
    measured = measure_run(run, 2.0, SIZE)
    table, judged = _judged(measured)
    write_measurements(measured, table, judged, tmp_path / "sizes", {"detector": "patchcore"})
    defects = pd.read_csv(tmp_path / "sizes" / "defects.csv")
    assert defects["area"].tolist() == pytest.approx(table["area"].tolist())
    assert defects["severity"].tolist() == ["critical", "medium"]
    text = (tmp_path / "sizes" / "sizes.json").read_text()
    assert "NaN" not in text
    content = json.loads(text)
    assert (content["detector"], content["pixel_threshold"], content["pixel_size"]["error"]) == ("patchcore", 2, 0.001)
    cut, dent, good = content["photos"]
    assert (len(cut["defects"]), len(dent["defects"]), good["defects"]) == (1, 1, [])
    assert (good["image_path"], good["verdict"], good["measured"]) == ("good/0.png", "PASS", None)
    assert cut["rule"] == "no defect with length over 2.5 mm"
    assert cut["defects"][0]["length"] == pytest.approx(table["length"].iloc[0])
    # COCO beside the photos: the outlines are the measured pixels
    (tmp_path / "data" / "defects.coco.json").write_bytes((tmp_path / "sizes" / "defects.coco.json").read_bytes())
    for file in (tmp_path / "data").rglob("mask.png"):
        file.unlink()
    drawn = {Path(photo.image_path).parent.name: photo for photo in read_instances(tmp_path / "data")}
    np.testing.assert_array_equal(drawn["dent"].instance_masks().any(0), measured.labels("dent/0.png") > 0)
    assert drawn["dent"].categories == ["spot"]


def test_coco_holds_exactly_the_pixels_of_rings_and_fragments():
    mask = np.zeros((60, 80), bool)
    mask[5:13, 5:10] = mask[5:13, 13:22] = True
    mask[30:42, 30:42] = True
    mask[34:38, 34:38] = False
    options = {"merge_distance": 4, "fill_holes": False}
    labels = label_defects(mask, **options)
    table = measure_defects(mask, **options).assign(image_path="a.png", defect_type="spot", severity="low")
    content = coco_of_defects([("a.png", labels), ("b.png", np.zeros_like(labels))], table)
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert [category["name"] for category in content["categories"]] == ["spot"]
    for annotation in content["annotations"]:
        outline, size = annotation["segmentation"], mask.shape
        regions = coco_mask.frPyObjects(outline, *size) if isinstance(outline, list) else [outline]
        drawn = coco_mask.decode(coco_mask.merge(regions)).astype(bool)
        np.testing.assert_array_equal(drawn, labels == annotation["id"])
        assert annotation["area"] == drawn.sum()
        assert annotation["bbox"] == coco_mask.toBbox(coco_mask.merge(regions)).tolist()
        assert annotation["length"] == table.loc[annotation["id"] - 1, "length"]
    assert isinstance(content["annotations"][0]["segmentation"], dict), "the ring has a hole"
    assert len(content["annotations"][1]["segmentation"]) == 2, "two fragments that were merged"


def test_a_board_rectifies_photos_and_maps(tmp_path):
    """The map is the photo's darkness: bars and squares are measured where the camera was straightened."""
    run = _run(tmp_path)
    photos = [photograph(tilt, LENS) for tilt in TILTS]
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    (tmp_path / "board.yml").write_text(
        f"checkerboard: {{photos: {[f'{n}.png' for n in range(5)]}, pattern: {list(PATTERN)}, square: 0.5 cm}}\n"
    )
    calibration = choose_calibration(run.table, "mm", pixel_size=[], file=str(tmp_path / "board.yml"))
    assert calibration.maps is not None and calibration.pixel_size.unit == "mm"
    file = run.predictions("test")["image_path"].iloc[0]
    Image.fromarray(photos[0]).save(file)
    run.table = run.table.iloc[:1].assign(mask_path="")
    run.table.attrs["root"] = str(tmp_path / "data")
    predictions = pd.read_csv(run.folder / "predictions.csv").iloc[:1]
    predictions.to_csv(run.folder / "predictions.csv", index=False)
    np.save(run.folder / "maps_test.npy", ((photos[0] < 128)[None]).astype(np.float16))
    measured = measure_run(run, 0.5, calibration, min_defect_area=200)
    true_width, true_height = bar_sizes(measured.picture("cut/0.png")[..., 0], calibration.pixel_size)["width"]
    slender = measured.table[measured.table["defect_type"] == "scratch"]
    assert sorted(slender["width"]) == pytest.approx(sorted([true_width, true_height]), abs=0.15)
    table, judged = _judged(measured)
    write_measurements(measured, table, judged, tmp_path / "sizes", {})
    rectified = cv2.imread(str(tmp_path / "sizes" / "rectified" / "cut" / "0.png"))
    content = json.loads((tmp_path / "sizes" / "defects.coco.json").read_text())
    assert rectified.shape[:2] == (content["images"][0]["height"], content["images"][0]["width"])
    assert rectified.shape[:2] == calibration.maps[0].shape


def test_the_run_that_learned_outlines_comes_first(run, tmp_path):
    with pytest.raises(MissingRunError, match="02_train_patchcore"):
        sizes.choose_run(tmp_path)
    with pytest.raises(MissingRunError, match="03_train_unet"):
        sizes.choose_run(tmp_path, "unet")
    written = run.table.drop(columns=["score", "map_max"])
    for name in ("patchcore", "unet"):
        write_json(run.info | {"model": name, "fingerprint": name}, tmp_path / name / "run.json")
        write_table(written, tmp_path / name / "samples.csv")
    np.save(tmp_path / "unet" / "maps_test.npy", np.zeros((3, 2, 2)))
    assert sizes.choose_run(tmp_path).name == "unet"
    assert sizes.choose_run(tmp_path, "patchcore").name == "patchcore"
    (tmp_path / "unet" / "maps_test.npy").unlink()
    with pytest.raises(ParameterError, match="MODEL='unet'"):
        sizes.choose_run(tmp_path, "unet")


def test_rules_of_a_type_that_no_defect_has_are_refused(run):
    scratch, cut = Limit("length", "max", 2, "mm", 0, "scratch"), Limit("length", "high", 2, "mm", 0, "cut")
    sizes.check_types("shape", run.table, [], [scratch])
    sizes.check_types("label", run.table, [cut], [])
    for types, name in (("label", "RULES names the type 'scratch'"), ("shape", "SEVERITY names the type 'cut'")):
        with pytest.raises(ParameterError, match=name):
            sizes.check_types(types, run.table, [cut], [scratch])


def test_thresholds_by_name_or_number(run):
    assert sizes.pixel_threshold(run).value == 2.0
    assert sizes.pixel_threshold(run, "0.25").value == 0.25 and sizes.pixel_threshold(run, "0.25").kind == "pixel"
    for name in ("image", "start", "nan"):
        with pytest.raises(ParameterError, match=f"PIXEL_THRESHOLD='{name}'"):
            sizes.pixel_threshold(run, name)
    run.info["parameters"]["start_threshold"] = 0.3
    assert sizes.pixel_threshold(run, "start").value == 0.3


def test_where_the_pixel_size_comes_from(tmp_path):
    table = SimpleNamespace(attrs={"pixel_size": 0.05})
    size = choose_calibration(table, "cm", pixel_size=[], error=0.0001).pixel_size
    assert (size.value_x, size.error, size.unit) == (pytest.approx(0.005), 0.0001, "cm")
    size = choose_calibration(table, "mm", pixel_size=[0.1, 0.2]).pixel_size
    assert (size.value_x, size.value_y) == (0.1, 0.2)
    assert choose_calibration(table, "px", pixel_size=[]).pixel_size.unit == "px"
    unknown = choose_calibration(SimpleNamespace(attrs={}), "mm", pixel_size=[]).pixel_size
    assert unknown.unit == "px" and "not known" in unknown.origin
    file = tmp_path / "points.yml"
    file.write_text("points: {first: [0, 0], second: [254, 0], distance: 1 inch, distance_error: 0.254 mm}")
    size = choose_calibration(table, "mm", pixel_size=[], file=str(file)).pixel_size
    assert size.value_x == pytest.approx(0.1)
    assert size.relative_error == pytest.approx(np.hypot(np.sqrt(2) / 254, 0.01))
    for unit, given, path in (("mm", [0.1], str(file)), ("px", [0.1], ""), ("mm", [1, 2, 3], ""), ("mm", [0], "")):
        with pytest.raises(ParameterError, match="PIXEL_SIZE"):
            choose_calibration(table, unit, pixel_size=given, file=path)


def test_a_reference_object_in_a_photo(tmp_path):
    Image.fromarray(photograph(disc=True)).save(tmp_path / "disc.png")
    file = tmp_path / "disc.yml"
    file.write_text("object: {photo: disc.png, size: 2 cm, size_error: 0.1 mm}")
    size = read_calibration(file).pixel_size
    assert size.unit == "cm" and size.value_x == pytest.approx(9.5 / 700, rel=0.005)
    # half a pixel at each of two edges of a disc of 147 px, and the error of its size
    assert size.relative_error == pytest.approx(np.hypot(9.5 / 700 / 2, 0.1 / 20), rel=0.01)
    example = read_calibration(FOLDER / "calibration.yml").pixel_size
    assert example.value_x == pytest.approx(0.05) and example.unit == "mm"


@pytest.mark.parametrize(
    "text",
    [
        "points: [",
        "points: {a: &a [1], b: *a}",
        "ruler: {}",
        "points: {first: [0, 0], second: [9, 1], distance: 5 mm, colour: red}",
        "points: {first: [0, 0], second: [0, 0], distance: 5 mm}",
        "points: {first: [0, 0], second: [9, 0], distance: 5}",
        "checkerboard: {photos: [a.png], pattern: [9, 6], square: 5 mm}",
    ],
)
def test_a_calibration_that_cannot_be_used_is_named(tmp_path, text):
    (tmp_path / "board.yml").write_text(text)
    for name in ("board.yml", "none.yml"):
        with pytest.raises(ValueError, match=name):
            read_calibration(tmp_path / name)
