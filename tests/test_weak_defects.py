"""The study of weak defects: the same defects at every opacity, honest rates, and scores that are the run's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_photos, split_table
from PIL import Image
from scipy.stats import binomtest

from helpers.data.images import read_image, read_mask
from helpers.data.samples import COLUMNS
from helpers.runs import Run
from helpers.studies.weak_defects import detection_rates, score_photos, weak_defect_photos
from helpers.thresholds import Threshold

OPTIONS = {"opacities": (1.0, 0.2), "n_photos": 4}


@pytest.fixture(scope="module")
def weak(table, tmp_path_factory) -> pd.DataFrame:
    return weak_defect_photos(table, out=tmp_path_factory.mktemp("study") / "weak", seed=3, **OPTIONS)


def test_every_photo_once_at_every_opacity(weak, table):
    assert list(weak.columns[: len(COLUMNS)]) == list(COLUMNS) and len(weak) == 4 * 3
    assert (weak.groupby("source_path")["opacity"].nunique() == 3).all()
    assert (weak.groupby("source_path")["kind"].nunique() == 1).all()
    assert weak.groupby("opacity")["kind"].value_counts().unique().tolist() == [1]
    drawn, unchanged = weak[weak["opacity"] > 0], weak[weak["opacity"] == 0]
    assert (drawn["label_index"] == 1).all() and (drawn["defect_type"] == drawn["kind"]).all()
    assert (unchanged["label_index"] == 0).all() and (unchanged["mask_path"] == "").all()
    assert (unchanged["defect_type"] == "good").all() and (weak["split"] == "test").all()
    allowed = table[(table["split"] == "test") & (table["label_index"] == 0)].set_index("image_path")["group"]
    assert weak["group"].tolist() == allowed[weak["source_path"]].tolist()


def test_the_same_defect_at_every_opacity(weak):
    for source, rows in weak.groupby("source_path"):
        original = read_image(source)
        pictures = {row.opacity: read_image(row.image_path) for row in rows.itertuples()}
        mask, same = (read_mask(path, original.shape[:2]) for path in rows["mask_path"] if path)
        assert (mask == same).all() and (pictures[0.0] == original).all()
        assert (pictures[1.0][~mask] == original[~mask]).all() and (pictures[1.0] != original).any()


def test_the_seed_decides_and_an_older_study_is_replaced(table, weak, tmp_path):
    again = weak_defect_photos(table, out=tmp_path / "weak", seed=3, **OPTIONS)
    for one, other in zip(weak["image_path"], again["image_path"], strict=True):
        np.testing.assert_array_equal(read_image(one), read_image(other))
    assert len(weak_defect_photos(table, out=tmp_path / "weak", seed=4, **OPTIONS | {"n_photos": 1})) == 3
    assert len(list((tmp_path / "weak").rglob("*.png"))) == 3 + 2, "three photos, two masks, and nothing of before"


def test_what_cannot_be_drawn_is_refused(table, tmp_path):
    for values in ([0.5, 1.2], [0.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="opacities"):
            weak_defect_photos(table, out=tmp_path / "weak", opacities=values)
    with pytest.raises(ValueError, match="test"):
        weak_defect_photos(table[table["split"] != "test"], out=tmp_path / "weak")
    photos = split_table(draw_photos(tmp_path / "stripes"))
    broken = Path(photos["image_path"][(photos["split"] == "test") & (photos["label_index"] == 0)].iloc[0])
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=broken.name):  # more photos are asked for than there are
        weak_defect_photos(photos, out=tmp_path / "weak", **OPTIONS | {"n_photos": 9})
    assert not (tmp_path / "weak").exists()


# --- scores


@pytest.fixture(scope="module")
def run(finished_folder) -> Run:
    return Run.load(finished_folder / "patchcore")


def test_scores_are_those_of_the_runs_own_predictions(run, weak):
    """In any order, some photos twice, whatever split and labels the table gives them."""
    expected = run.predictions("test").set_index("image_path")["score"]
    shuffled = run.table[run.table["split"] == "test"].sample(frac=1, random_state=0)
    rows = pd.concat([shuffled, shuffled.iloc[:2]]).assign(split="val")
    scores = score_photos(run, rows, batch_size=4)
    assert (scores.dtype, scores.shape) == (np.float32, (11,)) and len(np.unique(scores)) > 5
    np.testing.assert_allclose(scores, expected[rows["image_path"]], rtol=1e-4)
    unchanged = weak[weak["opacity"] == 0]
    np.testing.assert_allclose(score_photos(run, unchanged), expected[unchanged["source_path"]], rtol=1e-4)


def test_a_weak_defect_has_the_object_mask_of_the_photo_it_was_drawn_on(run, weak, tmp_path):
    """Masks in a folder are called like the data set's photos: two photos are all object, of two nothing is."""
    masks, sources = tmp_path / "masks", sorted(weak["source_path"].unique())
    masks.mkdir()
    for number, source in enumerate(sources):
        Image.new("L", (96, 72), 255 * (number % 2)).save(masks / f"{Path(source).stem}.png")
    # the run as if its maps had been confined to the object when it was trained
    copy = Path(shutil.copytree(run.folder, tmp_path / "patchcore"))
    parameters = run.info["parameters"] | {"object_mask": str(masks)}
    (copy / "run.json").write_text(json.dumps(run.info | {"parameters": parameters}))
    scores = score_photos(Run.load(copy), weak)
    within = weak["source_path"].isin(sources[1::2]).to_numpy()
    assert within.sum() == 6 and (scores[within] > 0).all() and (scores[~within] == 0).all()


def test_rates_by_hand():
    rows = [("unet", 1.0, score) for score in (0.9, 0.8, 0.7, 0.2)]
    rows += [("unet", 0.0, score) for score in (0.1, 0.2, 0.3, 0.6)]
    rows += [("patchcore", 0.5, score) for score in (5.0, 7.0)]
    scores = pd.DataFrame(rows, columns=["model", "opacity", "score"])
    thresholds = {"unet": Threshold(value=0.5, origin="by hand"), "patchcore": 7.0, "unused": 1.0}
    rates = detection_rates(scores, thresholds)
    assert sorted(rates[["model", "opacity", "n", "found", "rate"]].to_numpy().tolist()) == [
        ["patchcore", 0.5, 2, 0, 0.0],  # a score at the threshold is accepted
        ["unet", 0.0, 4, 1, 0.25],
        ["unet", 1.0, 4, 3, 0.75],
    ]
    for row in rates.itertuples():
        interval = binomtest(row.found, row.n).proportion_ci(0.95, method="wilson")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    with pytest.raises(ValueError, match="not finite"):
        detection_rates(scores.assign(score=np.nan), thresholds)
