import math
import pickle
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from helpers.analysis.unknown import (
    accepted_shares,
    embedding_plane,
    open_set_report,
    open_set_thresholds,
    oscr_curve,
)
from helpers.models.open_set import METHODS, MahalanobisScorer, decide, unknown_scores
from helpers.thresholds import conformal_threshold, describe

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 4, (3, 40))
TRAIN_LABELS = np.repeat(["crack", "blowhole", "fray"], 10)
TRAIN = (np.repeat(CENTRES, 10, axis=0) + RNG.normal(0, 1, (30, 40))).astype(np.float32)
PHOTOS = np.concatenate([CENTRES + RNG.normal(0, 1, (3, 40)), RNG.normal(0, 4, (4, 40))]).astype(np.float32)
WEIGHT, BIAS = RNG.normal(0, 0.2, (3, 40)).astype(np.float32), RNG.normal(0, 1, 3).astype(np.float32)
LOGITS = PHOTOS @ WEIGHT.T + BIAS


# ---------------------------------------------------------------------------------------------------- the distance


def test_distance_by_hand():
    """Classes at (0, 0) and (10, 0), each with the points +-(2, 0) and +-(0, 2) about it: covariance 2 I."""
    steps = np.array([[2.0, 0], [-2, 0], [0, 2], [0, -2]])
    scorer = MahalanobisScorer.fit(np.concatenate([steps, steps + (10, 0)]), ["a"] * 4 + ["b"] * 4)
    assert scorer.classes == ("a", "b")
    np.testing.assert_allclose(scorer.means, [[0, 0], [10, 0]])
    np.testing.assert_allclose(scorer.covariance, 2 * np.eye(2))  # shrinkage towards 2 I changes nothing
    found = scorer.distances([[3.0, 4.0], [10.0, 0.0]])
    np.testing.assert_allclose(found, [[5 / math.sqrt(2), math.sqrt(65 / 2)], [10 / math.sqrt(2), 0]])
    np.testing.assert_allclose(scorer.scores([[3.0, 4.0], [10.0, 0.0]]), [5 / math.sqrt(2), 0], atol=1e-12)


def test_distance_is_scipys_with_the_shrunk_covariance():
    """30 photos, 40 dimensions: without shrinkage there would be no inverse."""
    scorer = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS)
    means = {name: TRAIN[name == TRAIN_LABELS].astype(float).mean(axis=0) for name in scorer.classes}
    centred = TRAIN.astype(float) - [means[name] for name in TRAIN_LABELS]
    reference = LedoitWolf(assume_centered=True).fit(centred)
    assert 0 < scorer.shrinkage < 1
    assert scorer.shrinkage == pytest.approx(reference.shrinkage_)
    inverse = np.linalg.inv(reference.covariance_)
    expected = [[mahalanobis(photo, means[name], inverse) for name in scorer.classes] for photo in PHOTOS.astype(float)]
    np.testing.assert_allclose(scorer.distances(PHOTOS), expected, rtol=1e-9)
    np.testing.assert_allclose(scorer.scores(PHOTOS), np.min(expected, axis=1), rtol=1e-9)


def test_pytorch_oods_distance_agrees_where_shrinkage_does_not_matter():
    """Its score is half the squared distance under the scatter matrix, the covariance times N."""
    from pytorch_ood.detector import Mahalanobis

    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 4000)
    train = rng.normal(size=(8000, 3)) * (1, 2, 3) + 5 * labels[:, None]
    photos = rng.normal(size=(20, 3)) * 4
    other = Mahalanobis(None).fit_features(torch.tensor(train, dtype=torch.float32), torch.tensor(labels))
    theirs = other.predict_features(torch.tensor(photos, dtype=torch.float32)).numpy()
    scorer = MahalanobisScorer.fit(train, labels)
    assert scorer.shrinkage < 0.01
    np.testing.assert_allclose(scorer.scores(photos), np.sqrt(2 * theirs * len(train)), rtol=0.02)


def test_shrinkage_is_worth_having_with_many_dimensions_and_few_photos():
    from pytorch_ood.detector import Mahalanobis

    ours, theirs = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scales = np.geomspace(3, 0.3, 64)
        centres = rng.normal(0, 2, (3, 64))
        labels = np.repeat(np.arange(3), 12)  # 36 photos, 64 dimensions
        train = centres[labels] + rng.normal(size=(36, 64)) * scales
        known = centres[rng.integers(0, 3, 200)] + rng.normal(size=(200, 64)) * scales
        unknown = rng.normal(0, 2, 64) + rng.normal(size=(200, 64)) * scales
        truth, photos = np.repeat([0, 1], 200), np.concatenate([known, unknown])
        ours.append(roc_auc_score(truth, MahalanobisScorer.fit(train, labels).scores(photos)))
        other = Mahalanobis(None).fit_features(torch.tensor(train).float(), torch.tensor(labels))
        theirs.append(roc_auc_score(truth, other.predict_features(torch.tensor(photos).float()).numpy()))
    assert np.mean(ours) > np.mean(theirs) + 0.05


def test_float32_and_float64_embeddings_give_the_same_distances():
    single = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).scores(PHOTOS)
    double = MahalanobisScorer.fit(TRAIN.astype(np.float64), TRAIN_LABELS).scores(PHOTOS.astype(np.float64))
    assert single.dtype == np.float64
    np.testing.assert_array_equal(single, double)


def test_distance_does_not_depend_on_the_batch():
    scorer = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS)
    one_by_one = np.concatenate([scorer.scores(photo[None]) for photo in PHOTOS])
    np.testing.assert_allclose(scorer.scores(PHOTOS), one_by_one, rtol=1e-12)
    assert scorer.scores(PHOTOS[:0]).shape == (0,)


def test_distance_of_embeddings_far_from_the_origin():
    """A common offset changes no distance, though its square is 10^12 times theirs."""
    scorer = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS)
    moved = MahalanobisScorer.fit(TRAIN + np.float64(1e6), TRAIN_LABELS)
    np.testing.assert_allclose(moved.scores(PHOTOS + np.float64(1e6)), scorer.scores(PHOTOS), rtol=1e-6)


def test_saved_and_loaded_is_the_same(tmp_path):
    scorer = MahalanobisScorer.fit(TRAIN, TRAIN_LABELS)
    file = tmp_path / "run" / "open_set.npz"
    scorer.save(file)
    assert [path.name for path in file.parent.iterdir()] == ["open_set.npz"]
    again = MahalanobisScorer.load(file)
    assert (again.classes, again.n_train, again.shrinkage) == (("blowhole", "crack", "fray"), 30, scorer.shrinkage)
    assert type(again.classes[0]) is str
    np.testing.assert_array_equal(again.scores(PHOTOS), scorer.scores(PHOTOS))


def test_no_pickled_object_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    arrays = dict.fromkeys(["means", "covariance", "shrinkage", "n_train"], np.zeros(1))
    np.savez(tmp_path / "trap.npz", classes=np.array([Trap()], dtype=object), **arrays)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"classes": Trap()}))
    np.savez(tmp_path / "other.npz", something=np.zeros(2))
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).save(tmp_path / "half.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "half.npz").read_bytes()[:500])
    for name in ("trap", "pickle", "other", "empty", "array", "half"):
        with pytest.raises(ValueError, match=f"{name}.npz holds no open-set scorer"):
            MahalanobisScorer.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="notebook 05"):
        MahalanobisScorer.load(tmp_path / "missing.npz")
    with pytest.raises(ValueError, match=r"\.npz"):
        MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).save(tmp_path / "open_set.bin")


def test_bad_embeddings_are_named():
    with pytest.raises(ValueError, match="embeddings must be finite; 1 of 1200"):
        MahalanobisScorer.fit(np.where(np.arange(1200).reshape(30, 40) == 7, np.nan, TRAIN), TRAIN_LABELS)
    with pytest.raises(ValueError, match="29 entries for 30"):
        MahalanobisScorer.fit(TRAIN, TRAIN_LABELS[:-1])
    with pytest.raises(ValueError, match="two-dimensional"):
        MahalanobisScorer.fit(TRAIN[0], ["a"])
    with pytest.raises(ValueError, match="do not vary"):
        MahalanobisScorer.fit(TRAIN[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="39 wide"):
        MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).scores(PHOTOS[:, :39])
    singular = MahalanobisScorer(("a",), np.zeros((1, 2)), np.diag([1.0, 0.0]), 0.0, 9)
    with pytest.raises(ValueError, match="singular"):
        singular.scores([[1.0, 1.0]])


# ------------------------------------------------------------------------------------------------ all methods, table


def test_every_method_by_its_formula():
    table = unknown_scores(TRAIN, TRAIN_LABELS, PHOTOS, LOGITS, WEIGHT, BIAS, neighbour=4)
    assert tuple(table.columns) == METHODS
    assert (table.dtypes == np.float64).all()
    np.testing.assert_allclose(table["mahalanobis"], MahalanobisScorer.fit(TRAIN, TRAIN_LABELS).scores(PHOTOS))
    np.testing.assert_allclose(table["max_softmax"], -softmax(LOGITS.astype(float), axis=1).max(axis=1))
    np.testing.assert_allclose(table["energy"], -logsumexp(LOGITS.astype(float), axis=1))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (TRAIN.astype(float), PHOTOS.astype(float))]
    distances = np.linalg.norm(unit[1][:, None] - unit[0][None], axis=2)
    np.testing.assert_allclose(table["knn"], np.sort(distances, axis=1)[:, 3], rtol=1e-6)
    # ViM (equations 5 to 8): residual beyond the 15 main directions of train about -pinv(W) b, scaled to the logits.
    origin = -np.linalg.pinv(WEIGHT.astype(float)) @ BIAS
    _, _, directions = np.linalg.svd(TRAIN - origin)
    residual = [np.linalg.norm((each - origin) @ directions[15:].T, axis=1) for each in (TRAIN, PHOTOS)]
    scale = (TRAIN.astype(float) @ WEIGHT.T + BIAS).max(axis=1).mean() / residual[0].mean()
    np.testing.assert_allclose(table["vim"], scale * residual[1] - logsumexp(LOGITS.astype(float), axis=1), rtol=1e-3)


def test_every_score_is_larger_for_the_unknown():
    rng = np.random.default_rng(4)
    centres = 6 * np.eye(3, 20)
    train = centres.repeat(40, axis=0) + rng.normal(0, 0.5, (120, 20))
    known = centres.repeat(10, axis=0) + rng.normal(0, 0.5, (30, 20))
    unknown = 6 * np.eye(20)[5] + rng.normal(0, 0.5, (30, 20))  # a direction that the logits do not look at
    photos = np.concatenate([known, unknown])
    weight, bias = np.eye(3, 20), np.zeros(3)
    table = unknown_scores(train, np.repeat([0, 1, 2], 40), photos, photos @ weight.T, weight, bias)
    for method in METHODS:
        assert roc_auc_score(np.repeat([0, 1], 30), table[method]) > 0.99, method


def test_scores_of_float32_and_float64_agree():
    single = unknown_scores(TRAIN, TRAIN_LABELS, PHOTOS, LOGITS, WEIGHT, BIAS)
    arrays = [each.astype(np.float64) for each in (PHOTOS, LOGITS, WEIGHT, BIAS)]
    double = unknown_scores(TRAIN.astype(np.float64), TRAIN_LABELS, *arrays)
    np.testing.assert_allclose(single, double, rtol=1e-6)


def test_table_says_what_is_wrong():
    def score(**changes):
        arguments = {"train_embeddings": TRAIN, "train_labels": TRAIN_LABELS, "embeddings": PHOTOS, "logits": LOGITS}
        return unknown_scores(**{**arguments, "weight": WEIGHT, "bias": BIAS, **changes})

    assert list(score(methods=["energy"], weight=None).columns) == ["energy"]
    assert score(embeddings=PHOTOS[:0], logits=LOGITS[:0]).shape == (0, 5)
    for changes, message in [
        ({"methods": ["odin"]}, "odin"),
        ({"methods": []}, "none"),
        ({"weight": None}, "weight and bias"),
        ({"weight": WEIGHT.T}, "must be"),
        ({"logits": LOGITS[:2]}, "one length"),
        ({"embeddings": PHOTOS[:, :3]}, "one width"),
        ({"neighbour": 31}, r"1\.\.30"),
        ({"train_labels": TRAIN_LABELS[:4]}, "train_labels has 4 entries"),
        ({"logits": LOGITS * np.inf}, "logits must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(**changes)


# ----------------------------------------------------------------------------------------- thresholds and decisions


def test_decisions_by_hand():
    scores, confidence = [1.0, 2.0, 3.0, 1.0], [0.9, 0.9, 0.9, 0.4]
    assert decide(scores, confidence, 2.0).tolist() == [False, False, True, False]
    assert decide(scores, None, 2.0).tolist() == [False, False, True, False]
    assert decide(scores, confidence, 2.0, 0.5).tolist() == [False, False, True, True]
    assert decide(scores, confidence, 2.0, 0.4).tolist() == [False, False, True, False]
    thresholds = open_set_thresholds(np.arange(1.0, 40), np.linspace(0.5, 0.99, 39))
    assert decide([38.0, 38.5], None, thresholds["tau"]).tolist() == [False, True]
    with pytest.raises(ValueError, match="confidence is None"):
        decide(scores, None, 2.0, 0.5)
    with pytest.raises(ValueError, match="one length"):
        decide(scores, [0.5], 2.0, 0.5)
    with pytest.raises(ValueError, match="finite"):
        decide([np.nan], None, 2.0)


def test_rounding_to_float32_rejects_nothing_that_was_accepted():
    rng = np.random.default_rng(5)
    scores, confidence = rng.normal(30, 1, 400), rng.random(400)
    thresholds = open_set_thresholds(scores, confidence)
    double = decide(scores, confidence, thresholds["tau"], thresholds["kappa"])
    single = decide(scores.astype(np.float32), confidence.astype(np.float32), thresholds["tau"], thresholds["kappa"])
    np.testing.assert_array_equal(single, double)


def test_thresholds_speak_of_known_photos():
    scores = np.arange(1.0, 40)
    thresholds = open_set_thresholds(scores, scores / 100)
    assert list(thresholds) == ["tau", "kappa"]
    assert thresholds["tau"].value == 38  # k = ceil(40 * 0.95) = 38 of 39
    assert thresholds["kappa"].value == 0.02  # the 38th largest
    for threshold in thresholds.values():
        assert threshold.origin == "95 % of held-out known photos accepted"
        assert threshold.guaranteed == pytest.approx(0.95)
        assert "normal" not in describe(threshold)
    assert "unknown above 38" in describe(thresholds["tau"])
    assert "unknown below 0.02" in describe(thresholds["kappa"])
    assert list(open_set_thresholds(scores, scores / 100, use_confidence=False)) == ["tau"]
    assert list(open_set_thresholds(scores, use_confidence=False)) == ["tau"]
    with pytest.raises(ValueError, match="val_confidence"):
        open_set_thresholds(scores)
    with pytest.raises(ValueError, match="one length"):
        open_set_thresholds(scores, scores[:3])


def test_five_photos_cannot_promise_95_percent():
    thresholds = open_set_thresholds([3.0, 1, 2, 5, 4], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert (thresholds["tau"].value, thresholds["kappa"].value) == (5, 0.5)
    for threshold, end in ((thresholds["tau"], "highest"), (thresholds["kappa"], "lowest")):
        assert threshold.origin == f"{end} of 5 held-out known photos (too few for 95 %)"
        assert threshold.guaranteed == pytest.approx(5 / 6)
        assert "cannot promise 95 %" in threshold.warning
        assert "83.3 % of known photos" in threshold.warning
        assert "at least 19" in threshold.warning
    assert "83.3 %" in describe(thresholds["tau"])


def test_coverage_on_drawn_scores():
    """Each threshold alone accepts 95 % of new known photos; both together less, but 90 % at least."""
    rng = np.random.default_rng(2)
    normal = NormalDist()
    tau_share, kappa_share, both_share, covered = [], [], [], []
    for _ in range(1500):
        thresholds = open_set_thresholds(rng.normal(size=59), rng.random(59))  # independent: the joint share is known
        accepted = normal.cdf(float(thresholds["tau"])), 1 - float(thresholds["kappa"])
        tau_share.append(accepted[0])
        kappa_share.append(accepted[1])
        both_share.append(accepted[0] * accepted[1])
        covered.append(thresholds["tau"].interval_low <= accepted[0] <= thresholds["tau"].interval_high)
    # k = ceil(60 * 0.95) = 57: the mean over draws is exactly 57 / 60.
    assert np.mean(tau_share) == pytest.approx(0.95, abs=0.003)
    assert np.mean(kappa_share) == pytest.approx(0.95, abs=0.003)
    assert np.mean(both_share) == pytest.approx(0.95**2, abs=0.004)
    assert np.mean(covered) == pytest.approx(0.90, abs=0.03)


def test_accepted_shares_beside_the_promise():
    val = np.arange(1.0, 40)
    thresholds = open_set_thresholds(val, np.linspace(0.5, 0.9, 39))
    test = np.array([1.0] * 15 + [38.5] * 5)  # 15 of 20 within tau = 38
    confidence = np.array([0.9] * 18 + [0.1] * 2)  # the last two are far photos too
    shares = accepted_shares(thresholds, val, test, np.linspace(0.5, 0.9, 39), confidence).set_index(["rule", "split"])
    tau = shares.loc[("tau", "test")]
    assert (tau["n"], tau["accepted"], tau["share"], tau["asked"]) == (20, 15, 0.75, 0.95)
    assert tau["promised"] == pytest.approx(38 / 40)
    # Of 20 new photos a beta-binomial number is accepted: 95 % of it lies between 16 and 20.
    share = np.random.default_rng(0).beta(38, 2, 200_000)
    drawn = np.quantile(np.random.default_rng(1).binomial(20, share), [0.025, 0.975])
    assert [tau["expected_low"], tau["expected_high"]] == (drawn / 20).tolist() == [0.8, 1.0]
    assert not tau["as_promised"]
    assert tau["low"] < 0.75 < tau["high"]
    both = shares.loc[("tau and kappa", "test")]
    assert (both["accepted"], both["promised"]) == (15, pytest.approx(0.9))
    assert np.isnan(both["expected_low"])
    assert shares.loc[("kappa", "test"), "accepted"] == 18
    assert shares.loc[("kappa", "test"), "as_promised"]
    assert shares.loc[("tau", "val"), "accepted"] == 38
    assert np.isnan(shares.loc[("tau", "val"), "expected_low"])
    assert list(accepted_shares({"tau": thresholds["tau"]}, val, test)["rule"]) == ["tau", "tau"]


def test_the_expected_range_is_kept_as_often_as_it_says():
    rng = np.random.default_rng(8)
    kept = []
    for _ in range(400):
        val, test = rng.exponential(size=60), rng.exponential(size=80)
        table = accepted_shares(open_set_thresholds(val, use_confidence=False), val, test)
        kept.append(bool(table["as_promised"].iloc[1]))
    assert 0.93 <= np.mean(kept) <= 1.0  # at least 95 %: counts are whole numbers


def test_perfect_acceptance_of_a_low_promise_is_no_failure():
    """5 photos promise 5/6; that all of 40 new ones are accepted is no broken promise."""
    thresholds = open_set_thresholds([1.0, 2, 3, 4, 5], use_confidence=False)
    row = accepted_shares(thresholds, [1.0, 2, 3, 4, 5], np.zeros(40)).iloc[1]
    assert row["promised"] == pytest.approx(5 / 6)
    assert row["as_promised"]


# ------------------------------------------------------------------------------------------------------ evaluation


def test_oscr_by_hand():
    """Known: scores 1 (right), 2 (wrong), 3 (right), 5 (right); unknown: 4 and 6."""
    fpr, ccr = oscr_curve([1, 2, 3, 5], [True, False, True, True], [4, 6])
    # thresholds 1, 2, 3, 4, 5, 6
    np.testing.assert_allclose(fpr, [0, 0, 0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(ccr, [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])
    report = _report(["a", "a", "a", "a", "x", "x"], ["a", "b", "a", "a", "a", "b"], [1, 2, 3, 5, 4, 6])
    # unknown at 4: two right ones below it, at 6: three; of 4 known photos
    assert report.overall["oscr"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert report.overall["auroc"] == pytest.approx((3 / 4 + 4 / 4) / 2)
    assert report.overall["closed_set_accuracy"] == 0.75


def _report(truth, predicted, scores, rejected=None, **options):
    rejected = np.zeros(len(truth), bool) if rejected is None else rejected
    return open_set_report(truth, predicted, scores, rejected, ["a", "b"], **{"n_bootstrap": 20, **options})


def _draw(seed, n_known=60, n_unknown=40):
    rng = np.random.default_rng(seed)
    truth = np.r_[rng.choice(["a", "b"], n_known), rng.choice(["x", "y"], n_unknown)]
    predicted = np.where(
        rng.random(truth.size) < 0.2, rng.choice(["a", "b"], truth.size), np.where(truth == "a", *"ab")
    )
    scores = rng.normal(size=truth.size) + 1.2 * (np.arange(truth.size) >= n_known)
    return truth, predicted, scores.round(1)  # ties


@pytest.mark.parametrize("seed", range(4))
def test_oscr_and_fpr_against_brute_force_and_pytorch_ood(seed):
    from pytorch_ood.metrics.functional import fpr_at_tpr, oscr_score

    truth, predicted, scores = _draw(seed)
    known, right = np.isin(truth, ["a", "b"]), truth == predicted
    overall = _report(truth, predicted, scores).overall
    pairs = [
        (scores[i] < scores[j]) + 0.5 * (scores[i] == scores[j]) if right[i] else 0.0
        for i in np.flatnonzero(known)
        for j in np.flatnonzero(~known)
    ]
    assert overall["oscr"] == pytest.approx(np.mean(pairs))
    numbers = {"a": 0, "b": 1, "x": -1, "y": -1}
    labels = torch.tensor([numbers[name] for name in truth])
    theirs = oscr_score(torch.tensor(scores), torch.tensor([numbers[name] for name in predicted]), labels)
    assert overall["oscr"] == pytest.approx(theirs)
    assert overall["auroc"] == pytest.approx(roc_auc_score(~known, scores))
    # Known is positive: the lowest threshold that accepts 95 % of the known photos, and what it accepts of the unknown.
    limit = min(value for value in scores if (scores[known] <= value).mean() >= 0.95)
    assert overall["fpr_at_95_tpr"] == pytest.approx((scores[~known] <= limit).mean())
    # pytorch-ood takes unknown for positive; known and unknown change places, and larger and smaller
    swapped = fpr_at_tpr(-torch.tensor(scores), torch.tensor(np.where(known, -1, 0)))
    assert overall["fpr_at_95_tpr"] == pytest.approx(float(swapped))


def test_rates_at_the_thresholds_by_hand():
    truth = ["a", "a", "b", "b", "x", "x", "x", "y"]
    predicted = ["a", "b", "b", "b", "a", "a", "b", "b"]
    rejected = [False, False, True, False, True, True, False, False]
    report = _report(truth, predicted, [1, 2, 5, 1, 6, 7, 2, 1], rejected)
    assert report.overall["n_known"] == 4
    assert report.overall["n_unknown"] == 4
    assert report.overall["closed_set_accuracy"] == 0.75
    assert report.overall["known_accepted"] == 0.75
    assert report.overall["known_right"] == 0.5  # accepted and named rightly
    assert report.overall["unknown_detected"] == 0.5
    assert report.overall["open_set_accuracy"] == 0.5  # 2 known and 2 unknown of 8
    by_class = report.by_class.set_index("class")
    assert by_class["known"].tolist() == [True, True, False, False]
    assert by_class["n"].tolist() == [2, 2, 3, 1]
    assert by_class["rejected"].tolist() == [0, 0.5, pytest.approx(2 / 3), 0]
    assert by_class["right"].tolist() == [0.5, 0.5, pytest.approx(2 / 3), 0]
    assert (by_class["right_low"] <= by_class["right"]).all()
    assert (by_class["right_high"] >= by_class["right"]).all()
    assert by_class["auroc"].isna().tolist() == [True, True, False, False]
    assert by_class.loc["y", "auroc"] == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)  # 1 against 1, 2, 5, 1
    confusion = report.confusion
    assert confusion.loc["x"].to_dict() == {"a": 0, "b": 1, "unknown": 2}
    assert confusion.loc["b"].to_dict() == {"a": 0, "b": 1, "unknown": 1}
    assert confusion.to_numpy().sum() == 8


def test_intervals_hold_their_value_and_shrink_with_photos():
    small, large = (_report(*_draw(0, n, n), n_bootstrap=300).intervals for n in (30, 300))
    assert list(small.index)[:3] == ["auroc", "fpr_at_95_tpr", "oscr"]
    for table in (small, large):
        known = table.dropna(subset="low")
        assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()
        assert (table["n"] > 0).all()
    width = (large["high"] - large["low"]) / (small["high"] - small["low"])
    assert width["oscr"] < 0.5  # about 1 / sqrt(10)
    assert width["auroc"] < 0.5
    assert small.loc["unknown_detected", "method"] == "wilson"


def test_bootstrap_of_oscr_has_the_spread_of_new_samples():
    """The width of the interval against the spread of OSCR over 60 fresh draws."""
    fresh = [_report(*_draw(seed), n_bootstrap=1).overall["oscr"] for seed in range(60)]
    row = _report(*_draw(0), n_bootstrap=1000).intervals.loc["oscr"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.3)


def test_only_known_or_only_unknown_photos():
    known = _report(["a", "b"], ["a", "a"], [1, 2], [False, True])
    assert known.overall["n_unknown"] == 0
    assert all(math.isnan(known.overall[name]) for name in ("auroc", "oscr", "fpr_at_95_tpr", "unknown_detected"))
    assert known.overall["known_accepted"] == 0.5
    unknown = _report(["x"], ["a"], [1], [True])
    assert math.isnan(unknown.overall["closed_set_accuracy"])
    assert unknown.overall["unknown_detected"] == 1


def test_report_says_what_is_wrong():
    with pytest.raises(ValueError, match="rejected has 1"):
        _report(["a", "x"], ["a", "a"], [1, 2], [True])
    with pytest.raises(ValueError, match="no known class: x"):
        _report(["a", "x"], ["a", "x"], [1, 2])
    with pytest.raises(ValueError, match="scores must be finite"):
        _report(["a", "x"], ["a", "a"], [1, np.nan])
    with pytest.raises(ValueError, match="no photo"):
        _report([], [], [])


def test_plane_is_fitted_on_train_alone():
    train = np.array([[0.0, 0, 0], [10, 0, 0], [0, 4, 0], [10, 4, 0]])
    plane, shares = embedding_plane(train, [[20.0, 2, 99]])
    assert shares.tolist() == pytest.approx([100 / 116, 16 / 116])  # variances 25 and 4 times the same factor
    np.testing.assert_allclose(np.abs(plane), [[15, 0]], atol=1e-9)  # the mean is (5, 2, 0); the third value is lost
    with pytest.raises(ValueError, match="wide"):
        embedding_plane(train, [[1.0, 2.0]])


def test_thresholds_are_those_of_calibration():
    scores = np.random.default_rng(0).random(50)
    expected = conformal_threshold(scores, 0.9, population="known")
    assert open_set_thresholds(scores, accept=0.9, use_confidence=False)["tau"] == expected
