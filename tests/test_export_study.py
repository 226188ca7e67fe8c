"""Backends compared: with networks known by construction, so that differences, flips and AUROC are known too."""

from __future__ import annotations

import numpy as np
import pytest
from cascade_runs import KnownBackend, write_run
from PIL import Image

from helpers.export_study import compare_backends, file_sizes, photos_of_many_shapes, time_backends
from helpers.inference import predictor
from helpers.inference.predictor import Output
from helpers.runs import Run
from helpers.views.export_figures import speed_bars


class Shifted(KnownBackend):
    """As the known network, with 0.1 more in every value."""

    def __call__(self, photos):
        found = super().__call__(photos)
        return Output(found.scores + np.float32(0.1), found.maps + np.float32(0.1))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setitem(predictor.BACKENDS, "torch", KnownBackend)
    monkeypatch.setitem(predictor.BACKENDS, "onnx", KnownBackend)
    monkeypatch.setitem(predictor.BACKENDS, "openvino", Shifted)
    return Run.load(write_run(tmp_path / "first"))


def flat(red: int) -> np.ndarray:
    return np.full((16, 24, 3), (red, 0, 0), dtype=np.uint8)


def test_differences_and_flipped_verdicts_are_counted(run):
    # scores 0.2, 0.4 and 1, threshold 0.5: 0.1 more flips none; a fourth of 0.459 goes over
    photos = [flat(51), flat(102), flat(255), flat(117)]
    table = compare_backends(run, photos, [0, 0, 1, 1], ["onnx", "openvino"]).set_index("backend")
    assert list(table.index) == ["torch", "onnx", "openvino"] and (table["n_photos"] == 4).all()
    assert table.loc["onnx", ["score_difference", "map_difference", "flipped"]].tolist() == [0, 0, 0]
    mean = np.mean([51, 102, 255, 117]) / 255
    assert table.loc["openvino", "score_difference"] == pytest.approx(0.1 / mean, rel=1e-5)
    assert table.loc["openvino", "map_difference"] == pytest.approx(0.1, rel=1e-5)  # the highest value is 1
    assert table.loc["openvino", "flipped"] == 1
    assert (table["image_auroc"] == 1).all()


def test_auroc_of_one_class_is_not_a_number(run):
    assert compare_backends(run, [flat(51)], [0], ["onnx"])["image_auroc"].isna().all()
    with pytest.raises(ValueError, match="as many labels"):
        compare_backends(run, [flat(51)], [], ["onnx"])


def test_photos_are_cut_to_three_shapes(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)).save(paths[-1])
    whole, low, narrow = photos_of_many_shapes(paths)
    assert (whole.shape, low.shape, narrow.shape) == ((40, 60, 3), (30, 60, 3), (40, 45, 3))
    np.testing.assert_array_equal(low, whole[:30])
    np.testing.assert_array_equal(narrow, whole[:, :45])


def test_times_name_every_backend_and_batch(run, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path in paths:
        Image.fromarray(flat(51)).save(path)
    table = time_backends(run, paths, ["onnx"], (1, 2))
    assert list(zip(table["backend"], table["batch_size"], table["n_calls"], strict=True)) == [
        *(("torch", 1, 4), ("torch", 2, 2)),
        *(("onnx", 1, 4), ("onnx", 2, 2)),
    ]
    assert (table.loc[table["backend"] == "torch", "times_torch"] == 1).all()
    medians = table.set_index(["backend", "batch_size"])["median_ms"]
    expected = medians["torch", 2] / medians["onnx", 2]
    assert table.iloc[-1]["times_torch"] == pytest.approx(expected)
    axes = speed_bars(table).axes
    assert [axis.get_title() for axis in axes] == ["batch of 1", "batch of 2"]
    widths = [bar.get_width() for bar in axes[1].patches]
    assert widths == pytest.approx([medians["torch", 2], medians["onnx", 2]])


def test_sizes_count_all_parts_of_a_file(run):
    folder = run.folder / "export"
    folder.mkdir()
    (folder / "model.xml").write_bytes(b"x" * 500)
    (folder / "model.bin").write_bytes(b"x" * 1_500_000)
    row = file_sizes(run, {"openvino": folder / "model.xml"}).iloc[0]
    assert row["megabytes"] == pytest.approx(1.5005) and row["file"] == "export/model.xml"
