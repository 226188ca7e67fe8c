"""Backends compared: with networks known by construction, so that differences, flips and AUROC are known too."""

from pathlib import Path

import numpy as np
import pytest
from cascade_runs import KnownBackend, write_run
from PIL import Image

from helpers.data.images import read_image
from helpers.inference import predictor
from helpers.inference.backends import Output
from helpers.inference.exported import FILES
from helpers.runs import Run
from helpers.studies.export import compare_backends, judges


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


def flat_photos(folder: Path, reds: list[int]) -> list[str]:
    paths = [str(folder / f"photo_{number}.png") for number in range(len(reds))]
    for path, red in zip(paths, reds, strict=True):
        Image.new("RGB", (24, 16), (red, 0, 0)).save(path)
    return paths


def test_differences_and_flipped_verdicts_are_counted(run, tmp_path):
    # scores are the reds over 255; the threshold is 0.5, and 0.1 more takes the last over it
    reds = [51, 102, 255, 117]
    paths = flat_photos(tmp_path, reds)
    table = compare_backends(run, paths, [0, 0, 1, 1], ["torch", "onnx", "openvino"]).set_index("backend")
    assert (table["photos"] == 4).all()
    assert table.loc["onnx", ["score_difference", "map_difference", "flips"]].tolist() == [0, 0, 0]
    shares = 0.1 / (np.array(reds) / 255)
    assert table.loc["openvino", "score_difference"] == pytest.approx(shares.max(), rel=1e-5)
    assert table.loc["openvino", "median_difference"] == pytest.approx(np.median(shares), rel=1e-5)
    assert table.loc["openvino", "map_difference"] == pytest.approx(0.1, rel=1e-5)  # the highest value is 1
    assert table.loc["openvino", "flips"] == 1
    assert (table["image_auroc"] == 1).all() and (table["false_alarm"] == 0).all()
    assert table["recall"].tolist() == [0.5, 0.5, 1.0]
    for labels in (None, [0, 0]):
        assert "image_auroc" not in compare_backends(run, paths[:2], labels, ["torch"])
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        compare_backends(run, ["nowhere.png"], backends=["torch"])


def test_every_usable_backend_judges_named_photos(run, tmp_path):
    file = run.folder / FILES["onnx"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"exported")
    photos = [(path, read_image(path)) for path in flat_photos(tmp_path, [51, 255])]
    found = {name: [one.abnormal for one in judge(photos)] for name, judge in judges(run).items()}
    assert found == {"torch": [False, True], "onnx": [False, True]}
