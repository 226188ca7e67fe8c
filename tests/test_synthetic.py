"""The built-in datasets: pictures, masks, annotations and recorded sizes agree, and no grey statistic solves them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon as fill_polygon
from sklearn.metrics import roc_auc_score

from helpers.pictures import builtin as synthetic
from helpers.pictures.builtin import (
    MESH_DEFECTS,
    NUT_DEFECTS,
    MeshStyle,
    draw_mesh,
    draw_nuts,
    photo_seed,
    render_frame,
    render_mesh,
    render_nut,
)
from helpers.pictures.nuts import convex_gap
from helpers.pictures.scene import (
    feret_diameter,
    polygon_area,
    polygon_coverage,
    polygon_mask,
    polyline_length,
    stroke_polygon,
)

CASES = [("mesh", each) for each in MESH_DEFECTS] + [("nuts", each) for each in NUT_DEFECTS]
RENDER = {"mesh": render_mesh, "nuts": render_nut}
DRAW = {"mesh": draw_mesh, "nuts": draw_nuts}
SMALL = {"n_train": 3, "n_test_normal": 2, "n_test_per_defect": 2, "image_size": 128}


def read(path: Path) -> np.ndarray:
    """A PNG as it is, colours in the order of OpenCV."""
    return cv2.imdecode(np.frombuffer(path.read_bytes(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)


def files(folder: Path) -> dict[str, bytes]:
    """Contents of every file by relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def perimeter(polygon: np.ndarray) -> float:
    """Length of a closed outline."""
    return polyline_length(np.concatenate([polygon, polygon[:1]]))


# --- geometry -------------------------------------------------------------------------------------------


def test_polygon_sizes_by_hand():
    l_shape = np.array([[0, 0], [4, 0], [4, 1], [1, 1], [1, 3], [0, 3]], dtype=float)
    assert polygon_area(l_shape) == pytest.approx(4 + 2)
    assert polygon_area(l_shape[::-1]) == pytest.approx(6)
    assert feret_diameter(l_shape) == pytest.approx(5)  # from (4, 0) to (0, 3)
    assert polyline_length(np.array([[0, 0], [3, 4], [3, 10]], dtype=float)) == pytest.approx(11)
    stroke = stroke_polygon(np.array([[0, 0], [5, 0], [10, 0]], dtype=float), 2.0)
    assert polygon_area(stroke) == pytest.approx(20)


def test_coverage_uses_pixel_corners_as_coco_does():
    square = np.array([[2, 1], [5, 1], [5, 3], [2, 3]], dtype=float)
    expected = np.zeros((6, 7), dtype=bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(polygon_mask(square, (6, 7)), expected)
    half = polygon_coverage(square + [0.5, 0], (6, 7), oversample=4)
    np.testing.assert_allclose(half[1, 1:7], [0, 0.5, 1, 1, 0.5, 0], atol=1e-6)
    cut = polygon_coverage(square - [3.5, 0], (6, 7), oversample=4)  # partly outside the picture
    assert cut.sum() == pytest.approx(3.0)


def test_convex_gap_by_hand():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], dtype=float)
    assert convex_gap(square, square + [5, 0]) == pytest.approx(3)
    assert convex_gap(square, square + [2, 1]) == pytest.approx(0)
    assert convex_gap(square, square + [1.5, 0]) == pytest.approx(-0.5)


# --- single photos --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "defect_type"), CASES)
def test_defects_have_believable_sizes_and_agree_with_their_mask(dataset, defect_type):
    size, areas = 256, []
    for seed in range(12):
        drawing = RENDER[dataset]([7, seed], defect_type, image_size=size)
        assert drawing.image.shape == (size, size, 3)
        assert drawing.image.dtype == np.uint8
        assert drawing.mask.shape == (size, size)
        assert drawing.mask.dtype == bool
        assert 1 <= len(drawing.defects) <= 2
        for defect in drawing.defects:
            assert defect.type == defect_type
            assert defect.polygon.min() >= 0
            assert defect.polygon.max() <= size
            assert 0.0005 <= defect.area / size**2 <= 0.03
            mask = polygon_mask(defect.polygon, (size, size))
            # Only pixels on the outline can be counted wrong, each by half at most.
            assert abs(mask.sum() - defect.area) <= 0.5 * perimeter(defect.polygon)
            areas.append((mask.sum(), defect.area))
            # A centreline cannot be longer than the outline's half; no outline point is farther than the Feret.
            if defect.length_kind == "centreline":
                assert defect.area / defect.length < 25
                assert defect.length <= perimeter(defect.polygon) / 2 + 1
                assert defect.length >= 0.5 * feret_diameter(defect.polygon)
            else:
                assert defect.length_kind == "feret"
                rows, columns = np.nonzero(mask)
                corners = np.column_stack([columns + 0.5, rows + 0.5])
                assert abs(feret_diameter(corners) - defect.length) <= 3.5
        together = sum(int(polygon_mask(defect.polygon, drawing.mask.shape).sum()) for defect in drawing.defects)
        assert drawing.mask.sum() == together  # two defects of a photo do not overlap
    counted, drawn_area = np.sum(areas, axis=0)
    assert counted == pytest.approx(drawn_area, rel=0.03)  # and the errors have no preferred sign


@pytest.mark.parametrize(("dataset", "defect_type"), CASES)
def test_the_picture_changes_where_the_mask_is_and_nowhere_else(dataset, defect_type):
    inside, covered = [], []
    for seed in range(10):
        clean = RENDER[dataset]([11, seed])
        bad = RENDER[dataset]([11, seed], defect_type)
        assert not clean.mask.any()
        assert clean.defects == []
        difference = np.abs(bad.image.astype(int) - clean.image.astype(int)).max(axis=-1)
        near = ndimage.binary_dilation(bad.mask, ndimage.generate_binary_structure(2, 1), iterations=3)
        noticeable = difference >= 16
        inside.append((noticeable & near).sum() / noticeable.sum())
        covered.append((difference[bad.mask] >= 8).mean())
    assert np.mean(inside) >= 0.95
    assert np.min(inside) >= 0.85
    assert np.mean(covered) >= 0.60


@pytest.mark.parametrize("dataset", ["mesh", "nuts"])
def test_grey_statistics_do_not_solve_the_dataset(dataset):
    types = list(MESH_DEFECTS if dataset == "mesh" else NUT_DEFECTS)

    def greys(split: str, defect_type: str | None, n: int) -> np.ndarray:
        seeds = [photo_seed(5, dataset, split, defect_type or "good", i) for i in range(n)]
        return np.stack([RENDER[dataset](seed, defect_type, image_size=128).image for seed in seeds]).mean(axis=-1)

    mean_photo = greys("train", None, 60).mean(axis=0)
    good, bad = greys("test", None, 80), np.concatenate([greys("test", each, 80 // len(types)) for each in types])
    photos = np.concatenate([good, bad])
    labels = np.r_[np.zeros(len(good)), np.ones(len(bad))]
    statistics = {
        "mean": photos.mean(axis=(1, 2)),
        "variance": photos.var(axis=(1, 2)),
        "distance": ((photos - mean_photo) ** 2).sum(axis=(1, 2)),
    }
    for name, values in statistics.items():
        auroc = roc_auc_score(labels, values)
        assert max(auroc, 1 - auroc) < 0.75, f"{name} alone tells defects apart: AUROC {auroc:.3f}"


@pytest.mark.parametrize("dataset", ["mesh", "nuts"])
def test_photos_differ_and_repeat(dataset):
    render = RENDER[dataset]
    np.testing.assert_array_equal(render(3, image_size=128).image, render(3, image_size=128).image)
    assert (render(3, image_size=128).image != render(4, image_size=128).image).mean() > 0.5
    with pytest.raises(ValueError, match="rust"):
        render(3, "rust")
    with pytest.raises(ValueError, match="image_size=32"):
        render(3, image_size=32)


def test_twill_differs_from_plain_weave():
    plain, twill = render_mesh(3), render_mesh(3, style=MeshStyle(weave="twill"))
    assert (np.abs(plain.image.astype(int) - twill.image) > 16).mean() > 0.1
    with pytest.raises(ValueError, match="satin"):
        render_mesh(3, style=MeshStyle(weave="satin"))


# --- frames ---------------------------------------------------------------------------------------------


def test_frames_hold_nuts_that_touch_but_do_not_overlap():
    touching = defective = total = 0
    for seed in range(12):
        frame = render_frame([2, seed])
        size = frame.image.shape[0]
        assert frame.image.shape == (512, 512, 3)
        assert 4 <= len(frame.nuts) <= 9
        masks = [polygon_coverage(nut.polygon, (size, size), oversample=1) > 0 for nut in frame.nuts]
        painted = np.sum(masks, axis=0)
        for nut in frame.nuts:
            assert nut.polygon.min() >= 0
            assert nut.polygon.max() <= size
            # A regular hexagon: area = sqrt(3) / 2 * (across flats)^2, here 110 px +- 2 %, less a chip.
            assert 0.93 * 0.866 * (110 * 0.98) ** 2 <= polygon_area(nut.polygon) <= 0.867 * (110 * 1.02) ** 2
        assert (painted > 1).sum() <= 0.001 * (painted > 0).sum()
        for first, second in frame.touching:
            if not any(d.type == "chipped_corner" for i in (first, second) for d in frame.nuts[i].defects):
                assert (ndimage.binary_dilation(masks[first], iterations=2) & masks[second]).any()
        touching += len(frame.touching)
        total += len(frame.nuts)
        defective += sum(bool(nut.defects) for nut in frame.nuts)
    assert touching >= 5
    assert 0.1 < defective / total < 0.45


def test_frame_too_small_for_a_nut():
    with pytest.raises(ValueError, match="frame_size=100"):
        render_frame(0, frame_size=100)


# --- folders --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both datasets, small."""
    out = tmp_path_factory.mktemp("datasets")
    draw_mesh(out, **SMALL)
    draw_nuts(out, n_frames=2, **SMALL)
    return out


@pytest.mark.parametrize("dataset", ["mesh", "nuts"])
def test_folder_annotations_masks_and_sizes_agree(drawn, dataset):
    root = drawn / dataset
    types = list(MESH_DEFECTS if dataset == "mesh" else NUT_DEFECTS)
    assert len(list((root / "train/good").glob("*.png"))) == 3
    assert sorted(path.name for path in (root / "test").iterdir()) == sorted(["good", *types])
    info = json.loads((root / "dataset.json").read_text())
    assert (info["name"], info["layout"], info["pixel_size_mm"], info["seed"]) == (dataset, "mvtec", 0.05, 0)
    assert info["image_size"] == [128, 128]

    coco = json.loads((root / "annotations.coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == types
    assert len(coco["images"]) == 2 + 2 * len(types)
    with (root / "defects.csv").open(newline="") as file:
        rows = {int(row["defect_id"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {annotation["id"] for annotation in coco["annotations"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        relative = Path(image["file_name"])
        assert read(root / relative).shape == (128, 128, 3) == (image["height"], image["width"], 3)
        found = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
        kind = relative.parent.name
        mask_path = root / "ground_truth" / kind / f"{relative.stem}_mask.png"
        assert bool(found) == (kind != "good") == mask_path.exists()
        if kind == "good":
            continue
        mask = read(mask_path)
        assert mask.shape == (128, 128)
        assert set(np.unique(mask)) == {0, 255}
        fine = np.zeros((128 * 8, 128 * 8), dtype=bool)
        for annotation in found:
            polygon = np.array(annotation["segmentation"][0]).reshape(-1, 2)
            row = rows[annotation["id"]]
            assert names[annotation["category_id"]] == kind == row["defect_type"]
            assert row["image"] == image["file_name"]
            # The drawn geometry, worked out by another library: cv2 in float32.
            area = cv2.contourArea(polygon.astype(np.float32))
            assert annotation["area"] == pytest.approx(area, rel=1e-3)
            assert float(row["area_px2"]) == pytest.approx(area, rel=1e-3)
            assert float(row["area_mm2"]) == pytest.approx(area * 0.05**2, rel=1e-3)
            assert float(row["length_mm"]) == pytest.approx(float(row["length_px"]) * 0.05, abs=1e-4)
            x, y, width, height = annotation["bbox"]
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            assert [x, y, x + width, y + height] == pytest.approx([*low, *high], abs=0.01)
            fine[fill_polygon(polygon[:, 1] * 8 - 0.5, polygon[:, 0] * 8 - 0.5, fine.shape)] = True
        again = fine.reshape(128, 8, 128, 8).mean(axis=(1, 3)) >= 0.5
        assert (again & (mask > 0)).sum() / (again | (mask > 0)).sum() > 0.9


def test_frames_folder_is_coco(drawn):
    coco = json.loads((drawn / "nuts/frames/_annotations.coco.json").read_text())
    assert len(coco["images"]) == 2
    for image in coco["images"]:
        assert read(drawn / "nuts/frames" / image["file_name"]).shape == (256, 256, 3)
        found = [each for each in coco["annotations"] if each["image_id"] == image["id"]]
        assert len(found) >= 4
        for annotation in found:
            polygon = np.array(annotation["segmentation"][0]).reshape(-1, 2)
            assert polygon.min() >= 0
            assert polygon.max() <= 256
            assert cv2.contourArea(polygon.astype(np.float32)) == pytest.approx(annotation["area"], rel=1e-3)
            assert annotation["defect_type"] in ["good", *NUT_DEFECTS]
    assert {each["category_id"] for each in coco["annotations"]} <= {each["id"] for each in coco["categories"]}


@pytest.mark.parametrize("dataset", ["mesh", "nuts"])
def test_same_seed_same_bytes_and_counts_do_not_matter(drawn, tmp_path, dataset):
    extra = {"n_frames": 2} if dataset == "nuts" else {}
    again = DRAW[dataset](tmp_path / "again", **SMALL, **extra)
    assert files(again) == files(drawn / dataset)
    fewer = files(DRAW[dataset](tmp_path / "fewer", **{**SMALL, "n_train": 1, "n_test_per_defect": 1}, **extra))
    before = files(drawn / dataset)
    assert all(before[name] == data for name, data in fewer.items() if name.endswith(".png"))
    other = files(DRAW[dataset](tmp_path / "other", **SMALL, **extra, seed=1))
    assert all(before[name] != other[name] for name in before if name.endswith(".png"))


def test_existing_folder_is_kept_refused_or_replaced(tmp_path):
    counts = {"n_train": 1, "n_test_normal": 1, "n_test_per_defect": 1, "image_size": 64}
    folder = draw_mesh(tmp_path, **counts)
    assert folder == tmp_path / "mesh"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / "mine.txt").write_text("kept")
    draw_mesh(tmp_path, **counts)
    assert (folder / "mine.txt").exists()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.is_file())
    with pytest.raises(FileExistsError, match="force"):
        draw_mesh(tmp_path, **{**counts, "n_train": 2})
    assert len(list((folder / "train/good").iterdir())) == 1
    draw_mesh(tmp_path, **{**counts, "n_train": 2}, force=True)
    assert len(list((folder / "train/good").iterdir())) == 2
    assert not (folder / "mine.txt").exists()
    (tmp_path / "nuts").mkdir()  # somebody else's folder
    with pytest.raises(FileExistsError, match="nuts"):
        draw_nuts(tmp_path, n_frames=0, **counts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesh", "nuts"]


def test_an_interrupted_draw_leaves_what_was_there(tmp_path, monkeypatch):
    counts = {"n_train": 1, "n_test_normal": 1, "n_test_per_defect": 1, "image_size": 64}
    before = files(draw_mesh(tmp_path, **counts))
    calls = iter(range(3))

    def stops(*arguments, **options):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return render_mesh(*arguments, **options)

    monkeypatch.setattr(synthetic, "render_mesh", stops)
    with pytest.raises(KeyboardInterrupt):
        draw_mesh(tmp_path, **{**counts, "seed": 1}, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mesh"]
    assert files(tmp_path / "mesh") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_train": -1}, "n_train=-1"), ({"pixel_size": 0}, "pixel_size=0"), ({"image_size": 10}, "image_size=10")],
)
def test_senseless_parameters_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        draw_mesh(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    given = {"--n-train": 2, "--n-test-normal": 1, "--n-test-per-defect": 1, "--n-frames": 1, "--image-size": 64}
    small = [str(part) for pair in given.items() for part in pair]
    synthetic.main(["mesh", "nuts", "--out", str(tmp_path), *small])
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["mesh", "nuts"]
    assert "2 training and 5 test photos" in lines[0]
    assert "2 training and 6 test photos" in lines[1]
    with pytest.raises(SystemExit) as stop:
        synthetic.main(["mesh", "--out", str(tmp_path), *small, "--seed", "4"])
    assert stop.value.code == 2
    assert "--force" in capsys.readouterr().err
