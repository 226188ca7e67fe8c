"""How unlike all known classes a photo is: every score by its formula."""

import math
import pickle

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf

from helpers.models.open_set import METHODS, MahalanobisScorer, unknown_scores

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 4, (3, 40))
TRAIN_LABELS = np.repeat(["crack", "blowhole", "fray"], 10)
TRAIN = (np.repeat(CENTRES, 10, axis=0) + RNG.normal(0, 1, (30, 40))).astype(np.float32)
PHOTOS = np.concatenate([CENTRES + RNG.normal(0, 1, (3, 40)), RNG.normal(0, 4, (4, 40))]).astype(np.float32)
WEIGHT, BIAS = RNG.normal(0, 0.2, (3, 40)).astype(np.float32), RNG.normal(0, 1, 3).astype(np.float32)
LOGITS = PHOTOS @ WEIGHT.T + BIAS


def test_distance_by_hand(tmp_path):
    """Classes at (0, 0) and (10, 0), each with the points +-(2, 0) and +-(0, 2) about it: covariance 2 I."""
    steps = np.array([[2.0, 0], [-2, 0], [0, 2], [0, -2]])
    scorer = MahalanobisScorer.fit(np.concatenate([steps, steps + (10, 0)]), ["a"] * 4 + ["b"] * 4)
    np.testing.assert_allclose(scorer.means, [[0, 0], [10, 0]])
    np.testing.assert_allclose(scorer.covariance, 2 * np.eye(2))  # shrinkage towards 2 I changes nothing
    scorer.save(tmp_path / "run" / "open_set.npz")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["open_set.npz"]
    for each in (scorer, MahalanobisScorer.load(tmp_path / "run" / "open_set.npz")):
        assert each.classes == ("a", "b") and type(each.classes[0]) is str
        np.testing.assert_allclose(each.scores([[3.0, 4.0], [10.0, 0.0]]), [5 / math.sqrt(2), 0], atol=1e-12)


def test_distance_is_scipys_with_the_shrunk_covariance():
    """30 photos, 40 dimensions: without shrinkage there would be no inverse."""
    scorer = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS)
    means = {name: TRAIN[name == TRAIN_LABELS].astype(float).mean(axis=0) for name in scorer.classes}
    centred = TRAIN.astype(float) - [means[name] for name in TRAIN_LABELS]
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(centred).covariance_)
    expected = [[mahalanobis(photo, means[name], inverse) for name in scorer.classes] for photo in PHOTOS.astype(float)]
    np.testing.assert_allclose(scorer.scores(PHOTOS), np.min(expected, axis=1), rtol=1e-9)
    # a common offset changes no distance, though its square is 10^12 times theirs
    moved = MahalanobisScorer.fit(TRAIN + np.float64(1e6), TRAIN_LABELS)
    np.testing.assert_allclose(moved.scores(PHOTOS + np.float64(1e6)), scorer.scores(PHOTOS), rtol=1e-6)


def test_no_pickled_object_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    np.savez(tmp_path / "trap.npz", classes=np.array([Trap()], dtype=object), means=[0], covariance=[0])
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"classes": Trap()}))
    np.savez(tmp_path / "other.npz", something=np.zeros(2))
    (tmp_path / "empty.npz").write_bytes(b"")
    MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).save(tmp_path / "half.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:500])
    for name in ("trap", "pickle", "other", "empty", "half"):
        with pytest.raises(ValueError, match=f"{name}.npz"):
            MahalanobisScorer.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="notebook 05"):
        MahalanobisScorer.load(tmp_path / "missing.npz")


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 1200"):
        MahalanobisScorer.fit(np.where(np.arange(1200).reshape(30, 40) == 7, np.nan, TRAIN), TRAIN_LABELS)


def test_every_method_by_its_formula():
    table = unknown_scores(TRAIN, TRAIN_LABELS, PHOTOS, LOGITS, WEIGHT, BIAS)
    assert tuple(table.columns) == METHODS and table.shape == (7, 5)
    np.testing.assert_array_equal(table["mahalanobis"], MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).scores(PHOTOS))
    np.testing.assert_allclose(table["max_softmax"], -softmax(LOGITS.astype(float), axis=1).max(axis=1))
    np.testing.assert_allclose(table["energy"], -logsumexp(LOGITS.astype(float), axis=1))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (TRAIN.astype(float), PHOTOS.astype(float))]
    distances = np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)
    np.testing.assert_allclose(table["knn"], np.sort(distances, axis=1)[:, 9], rtol=1e-6)
    # ViM (equations 5 to 8): residual beyond the 15 main directions of train about -pinv(W) b, scaled to the logits.
    origin = -np.linalg.pinv(WEIGHT.astype(float)) @ BIAS
    _, _, directions = np.linalg.svd(TRAIN - origin)
    residual = [np.linalg.norm((each - origin) @ directions[15:].T, axis=1) for each in (TRAIN, PHOTOS)]
    scale = (TRAIN.astype(float) @ WEIGHT.T + BIAS).max(axis=1).mean() / residual[0].mean()
    np.testing.assert_allclose(table["vim"], scale * residual[1] - logsumexp(LOGITS.astype(float), axis=1), rtol=1e-3)
    assert unknown_scores(TRAIN, TRAIN_LABELS, PHOTOS[:0], LOGITS[:0], WEIGHT, BIAS).shape == (0, 5)
