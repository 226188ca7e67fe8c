"""The built-in datasets: pictures, masks, annotations and recorded sizes agree, and no grey statistic solves them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from helpers.data.images import read_image, read_mask
from helpers.pictures import datasets, scene
from helpers.pictures.__main__ import main
from helpers.pictures.datasets import draw_dataset
from helpers.pictures.nut_frames import convex_gap, render_frame

RENDER = {name: render for name, (render, _, _) in datasets.DRAWN.items()}
TYPES = {name: types for name, (_, types, _) in datasets.DRAWN.items()}
CASES = [(name, each) for name, types in TYPES.items() for each in types]
SMALL = {"n_train": 2, "n_test_normal": 2, "n_test_per_defect": 2, "n_frames": 2, "image_size": 128}
TINY = {"n_train": 1, "n_test_normal": 1, "n_test_per_defect": 1, "n_frames": 0, "image_size": 64}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shapes(coco: dict, image: dict) -> list[tuple[dict, np.ndarray]]:
    """The annotations of an image and their outlines; of each, area and box are those that OpenCV finds."""
    found = []
    for one in coco["annotations"]:
        if one["image_id"] == image["id"]:
            polygon = np.array(one["segmentation"][0]).reshape(-1, 2)
            assert cv2.contourArea(polygon.astype(np.float32)) == pytest.approx(one["area"], rel=1e-3)
            x, y, width, height = one["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx([*polygon.min(0), *polygon.max(0)], abs=0.01)
            found.append((one, polygon))
    return found


def perimeter(polygon: np.ndarray) -> float:
    return scene.polyline_length(np.concatenate([polygon, polygon[:1]]))


def test_polygon_sizes_by_hand():
    l_shape = np.array([[0, 0], [4, 0], [4, 1], [1, 1], [1, 3], [0, 3]], dtype=float)
    assert scene.polygon_area(l_shape) == scene.polygon_area(l_shape[::-1]) == pytest.approx(4 + 2)
    assert scene.feret_diameter(l_shape) == pytest.approx(5)  # from (4, 0) to (0, 3)
    assert scene.polyline_length(np.array([[0, 0], [3, 4], [3, 10]], dtype=float)) == pytest.approx(11)
    assert scene.polygon_area(
        scene.stroke_polygon(np.array([[0, 0], [5, 0], [10, 0]], dtype=float), 2.0)
    ) == pytest.approx(20)
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], dtype=float)
    for shift, gap in (([5, 0], 3), ([2, 1], 0), ([1.5, 0], -0.5)):
        assert convex_gap(square, square + shift) == pytest.approx(gap)


def test_coverage_uses_pixel_corners_as_coco_does():
    square, expected = np.array([[2, 1], [5, 1], [5, 3], [2, 3]], dtype=float), np.zeros((6, 7), dtype=bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(scene.polygon_mask(square, (6, 7)), expected)
    half = scene.polygon_coverage(square + [0.5, 0], (6, 7), oversample=4)
    np.testing.assert_allclose(half[1, 1:7], [0, 0.5, 1, 1, 0.5, 0], atol=1e-6)
    for shift, area in ((3.5, 3.0), (9, 0)):  # partly and wholly outside
        assert scene.polygon_coverage(square - [shift, 0], (6, 7), oversample=4).sum() == pytest.approx(area)


@pytest.mark.parametrize(("dataset", "defect_type"), CASES)
def test_defects_have_believable_sizes_and_show_where_their_mask_is(dataset, defect_type):
    size, areas, within, covered = 256, [], [], []
    for seed in range(8):
        drawing, clean = RENDER[dataset]([7, seed], defect_type), RENDER[dataset]([7, seed])
        assert (drawing.image.dtype, drawing.image.shape) == (np.uint8, (size, size, 3))
        assert 1 <= len(drawing.defects) <= 2 and not clean.defects and not clean.mask.any()
        masks = [scene.polygon_mask(defect.polygon, (size, size)) for defect in drawing.defects]
        assert drawing.mask.sum() == sum(mask.sum() for mask in masks), "two defects do not overlap"
        for defect, mask in zip(drawing.defects, masks, strict=True):
            assert defect.type == defect_type and 0.0005 <= defect.area / size**2 <= 0.03
            # Only pixels on the outline can be counted wrong, each by half at most.
            assert abs(mask.sum() - defect.area) <= 0.5 * perimeter(defect.polygon)
            areas.append((mask.sum(), defect.area))
            if defect.length_kind == "centreline":
                assert defect.area / defect.length < 25
                assert 0.5 * scene.feret_diameter(defect.polygon) <= defect.length <= perimeter(defect.polygon) / 2 + 1
            else:
                corners = np.argwhere(mask)[:, ::-1] + 0.5
                assert abs(scene.feret_diameter(corners) - defect.length) <= 3.5
        difference = np.abs(drawing.image.astype(int) - clean.image).max(axis=-1)
        near = ndimage.binary_dilation(drawing.mask, iterations=3)
        within.append((near & (difference >= 16)).sum() / (difference >= 16).sum())
        covered.append((difference[drawing.mask] >= 8).mean())
    counted, drawn_area = np.sum(areas, axis=0)
    assert counted == pytest.approx(drawn_area, rel=0.03), "the errors have no preferred sign"
    assert np.mean(within) >= 0.95 and np.min(within) >= 0.85 and np.mean(covered) >= 0.60


@pytest.mark.parametrize("dataset", TYPES)
def test_grey_statistics_do_not_solve_the_dataset(dataset):
    def greys(split: str, defect_type: str | None, n: int) -> np.ndarray:
        seeds = [scene.photo_seed(5, dataset, split, defect_type or "good", i) for i in range(n)]
        return np.stack([RENDER[dataset](seed, defect_type, image_size=128).image for seed in seeds]).mean(axis=-1)

    mean_photo = greys("train", None, 40).mean(axis=0)
    good, types = greys("test", None, 60), TYPES[dataset]
    bad = np.concatenate([greys("test", each, 60 // len(types)) for each in types])
    photos, labels = np.concatenate([good, bad]), np.r_[np.zeros(len(good)), np.ones(len(bad))]
    for values in (photos.mean((1, 2)), photos.var((1, 2)), ((photos - mean_photo) ** 2).sum((1, 2))):
        auroc = roc_auc_score(labels, values)
        assert max(auroc, 1 - auroc) < 0.75


@pytest.mark.parametrize("render", RENDER.values())
def test_photos_differ_and_senseless_requests_are_named(render):
    assert (render(3, image_size=128).image != render(4, image_size=128).image).mean() > 0.5
    for wrong in ({"defect_type": "rust"}, {"image_size": 32}):
        with pytest.raises(ValueError, match=str(*wrong.values())):
            render(3, **wrong)


def test_frames_hold_nuts_that_touch_but_do_not_overlap():
    touching, defective = [], []
    for seed in range(8):
        image, nuts = render_frame([2, seed])
        assert image.shape == (512, 512, 3) and 4 <= len(nuts) <= 9
        masks = [scene.polygon_coverage(polygon, (512, 512), oversample=1) > 0 for polygon, _ in nuts]
        painted = np.sum(masks, axis=0)
        assert (painted > 1).sum() <= 0.001 * (painted > 0).sum()
        for (polygon, defects), mask in zip(nuts, masks, strict=True):
            assert polygon.min() >= 0 and polygon.max() <= 512
            # A regular hexagon: area = sqrt(3) / 2 * (across flats)^2, here 110 px +- 2 %, less a chip.
            assert 0.93 * 0.866 * (110 * 0.98) ** 2 <= scene.polygon_area(polygon) <= 0.867 * (110 * 1.02) ** 2
            touching.append((ndimage.binary_dilation(mask, iterations=2) & (painted - mask > 0)).any())
            defective.append(bool(defects))
    assert sum(touching) >= 6 and 0.1 < np.mean(defective) < 0.45
    with pytest.raises(ValueError, match="frame_size=100"):
        render_frame(0, frame_size=100)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("datasets")
    for name in TYPES:
        draw_dataset(name, out, **SMALL)
    return out


@pytest.mark.parametrize("dataset", TYPES)
def test_folder_annotations_masks_and_sizes_agree(drawn, dataset):
    root, types = drawn / dataset, TYPES[dataset]
    info = json.loads((root / "dataset.json").read_text())
    assert (info["name"], info["layout"], info["pixel_size_mm"], info["seed"]) == (dataset, "mvtec", 0.05, 0)
    assert len(list((root / "train/good").glob("*.png"))) == 2
    coco = json.loads((root / "annotations.coco.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert list(names.values()) == types and len(coco["images"]) == 2 + 2 * len(types)
    rows = pd.read_csv(root / "defects.csv").set_index("defect_id")
    assert sorted(rows.index) == sorted(annotation["id"] for annotation in coco["annotations"])
    for image in coco["images"]:
        kind, stem = Path(image["file_name"]).parent.name, Path(image["file_name"]).stem
        assert read_image(root / image["file_name"]).shape == (128, 128, 3) == (image["height"], image["width"], 3)
        mask_path, again = root / "ground_truth" / kind / f"{stem}_mask.png", np.zeros((128, 128), bool)
        annotations = shapes(coco, image)
        assert bool(annotations) == (kind != "good") == mask_path.exists()
        for annotation, polygon in annotations:
            row = rows.loc[annotation["id"]]
            assert names[annotation["category_id"]] == kind == row["defect_type"] and row["image"] == image["file_name"]
            assert row["area_px2"] == pytest.approx(annotation["area"], rel=1e-3)
            assert row["area_mm2"] == pytest.approx(annotation["area"] * 0.05**2, rel=1e-3)
            assert row["length_mm"] == pytest.approx(row["length_px"] * 0.05, abs=1e-4)
            again |= scene.polygon_coverage(polygon, (128, 128), oversample=8) >= 0.5
        if annotations:
            mask = read_mask(mask_path)
            assert (again & mask).sum() / (again | mask).sum() > 0.9


def test_frames_folder_is_coco(drawn):
    coco = json.loads((drawn / "nuts/frames/_annotations.coco.json").read_text())
    assert len(coco["images"]) == 2 and not (drawn / "mesh/frames").exists()
    for image in coco["images"]:
        assert read_image(drawn / "nuts/frames" / image["file_name"]).shape == (256, 256, 3)
        annotations = shapes(coco, image)
        assert len(annotations) >= 4
        assert {one["defect_type"] for one, _ in annotations} <= {"good", *TYPES["nuts"]}
    assert {each["category_id"] for each in coco["annotations"]} <= {each["id"] for each in coco["categories"]}


@pytest.mark.parametrize("dataset", TYPES)
def test_same_seed_same_bytes_and_counts_do_not_matter(drawn, tmp_path, dataset):
    before = files(drawn / dataset)
    assert files(draw_dataset(dataset, tmp_path / "again", **SMALL)) == before
    fewer = files(draw_dataset(dataset, tmp_path / "fewer", **{**SMALL, "n_train": 1, "n_test_per_defect": 1}))
    other = files(draw_dataset(dataset, tmp_path / "other", **SMALL, seed=1))
    assert all(before[name] == data for name, data in fewer.items() if name.endswith(".png"))
    assert all(before[name] != data for name, data in other.items() if name.endswith(".png"))


def test_existing_folder_is_kept_refused_or_replaced(tmp_path, monkeypatch):
    folder = draw_dataset("mesh", tmp_path, **TINY)
    (folder / "mine.txt").write_text("kept")
    before = files(folder)
    assert draw_dataset("mesh", tmp_path, **TINY) == folder
    with pytest.raises(FileExistsError, match="force"):
        draw_dataset("mesh", tmp_path, **{**TINY, "n_train": 2})
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setitem(datasets.DRAWN, "mesh", (lambda *_, **__: 1 / 0, *datasets.DRAWN["mesh"][1:]))
        draw_dataset("mesh", tmp_path, **TINY, seed=1, force=True)
    assert files(folder) == before and [path.name for path in tmp_path.iterdir()] == ["mesh"]
    draw_dataset("mesh", tmp_path, **{**TINY, "n_train": 2}, force=True)
    assert len(list((folder / "train/good").iterdir())) == 2 and not (folder / "mine.txt").exists()
    (tmp_path / "nuts").mkdir()  # somebody else's folder
    with pytest.raises(FileExistsError, match="nuts"):
        draw_dataset("nuts", tmp_path, **TINY)


@pytest.mark.parametrize("wrong", [{"n_train": -1}, {"pixel_size": 0}, {"image_size": 10}, {"seed": -2}])
def test_senseless_parameters_are_named(tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        draw_dataset("mesh", tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    given = ["--n-train=2", "--n-test-normal=1", "--n-test-per-defect=1", "--n-frames=1", "--image-size=64"]
    main(["mesh", "nuts", "--out", str(tmp_path), *given])
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["mesh", "nuts"]
    assert len(list(tmp_path.glob("mesh/test/*/*.png"))) == 5 and len(list(tmp_path.glob("nuts/test/*/*.png"))) == 6
    with pytest.raises(SystemExit) as stop:
        main(["mesh", "--out", str(tmp_path), *given, "--seed", "4"])
    assert stop.value.code == 2 and "--force" in capsys.readouterr().err
