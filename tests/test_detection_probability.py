"""Probability of detection: hits by hand, the fit against scikit-learn and known curves, bounds by brute force."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from scipy.stats import norm

from helpers.analysis.detection_probability import PodRefusedError, fit_pod, pod_bins, pod_curve, pod_table, size_words
from helpers.studies.evaluation import run_defect_hits
from helpers.thresholds import Threshold

A50, SLOPE = 3.0, 4.0
A90 = A50 * np.exp(logit(0.9) / SLOPE)


def draw(n: int, seed: int, *, slope: float = SLOPE, floor: float = 0, ceiling: float = 1) -> pd.DataFrame:
    """Hits and misses of a known curve, sizes spread evenly in log from a quarter to four times a50."""
    rng = np.random.default_rng([seed, n])
    sizes = A50 * np.exp(rng.uniform(-np.log(4), np.log(4), n))
    detected = rng.uniform(size=n) < floor + (ceiling - floor) * expit(slope * np.log(sizes / A50))
    names = [f"{number}.png" for number in range(n)]
    given = {"size": sizes, "detected": detected, "unit": "mm", "measure": "length"}
    return pd.DataFrame(given | {"image_path": names})


def test_the_fit_is_the_likeliest_one():
    """At the top of the likelihood its derivatives are 0: by the intercept and by the slope."""
    defects = draw(150, 1)
    fit = fit_pod(defects)
    left_over = defects["detected"] - fit.pod(defects["size"])
    assert [left_over.sum(), left_over @ np.log(defects["size"])] == pytest.approx([0, 0], abs=1e-6)
    assert fit.pod(fit.a50) == pytest.approx(0.5) and fit.pod(fit.a90) == pytest.approx(0.9)
    assert fit.a90 < fit.a90_95 < 1.5 * A90 and fit.fit_p > 0.05 and fit.warning == ""
    assert (fit.unit, fit.measure, fit.n_photos) == ("mm", "length", 150)
    curve = pod_curve(fit, 9)
    assert (curve["low"] < curve["pod"]).all() and (curve["pod"] < curve["high"]).all()
    assert curve["size"].iloc[[0, -1]].tolist() == pytest.approx([fit.sizes.min(), fit.sizes.max()])


def coverage(n: int, studies: int, slope: float) -> tuple[float, int]:
    """Share of a90/95 at or above the true a90 ("not reached" is above), and the studies that were not refused."""
    covered = []
    for seed in range(studies):
        with contextlib.suppress(PodRefusedError):
            covered.append(fit_pod(draw(n, seed, slope=slope)).a90_95 >= A50 * np.exp(logit(0.9) / slope))
    return float(np.mean(covered)), len(covered)


@pytest.mark.parametrize("n", [30, 120])
def test_the_bound_lies_above_the_true_a90_in_95_of_100_studies(n):
    """Within 2.5 standard errors of 95 %; the plain likelihood ratio covers 91 to 93 % of the same studies."""
    share, studies = coverage(n, 120, 3.0)
    assert studies > 110
    assert share == pytest.approx(0.95, abs=2.5 * np.sqrt(0.95 * 0.05 / studies))


def modified_root(logs: np.ndarray, detected: np.ndarray, log_size: float, target: float) -> float:
    """r* with a general optimiser and numerical second derivatives."""

    def loss(height: float, slope: float) -> float:
        return np.logaddexp(0, np.where(detected, -1, 1) * (height + slope * (logs - log_size))).sum()

    height, slope = minimize(lambda at: loss(*at), [0, 1], method="Nelder-Mead", options={"xatol": 1e-9}).x
    held = minimize_scalar(lambda at: loss(target, at), (0.5, 5)).x
    h = 1e-3
    of_height = (loss(height + h, slope) - 2 * loss(height, slope) + loss(height - h, slope)) / h**2
    of_slope = (loss(height, slope + h) - 2 * loss(height, slope) + loss(height, slope - h)) / h**2
    corners = [loss(height + a * h, slope + b * h) * a * b for a in (-1, 1) for b in (-1, 1)]
    held_slope = (loss(target, held + h) - 2 * loss(target, held) + loss(target, held - h)) / h**2
    r = np.sign(height - target) * np.sqrt(2 * (loss(target, held) - loss(height, slope)))
    q = (height - target) * np.sqrt((of_height * of_slope - (sum(corners) / (4 * h**2)) ** 2) / held_slope)
    return r + np.log(q / r) / r


def test_bounds_are_where_the_modified_root_has_its_quantiles():
    defects = draw(80, 3)
    fit = fit_pod(defects)
    logs, detected = np.log(defects["size"].to_numpy()), defects["detected"].to_numpy()
    assert modified_root(logs, detected, np.log(fit.a90_95), logit(0.9)) == pytest.approx(norm.ppf(0.95), abs=2e-3)
    for row in pod_curve(fit, 5).itertuples():
        at = [modified_root(logs, detected, np.log(row.size), logit(bound)) for bound in (row.low, row.high)]
        assert at == pytest.approx([norm.ppf(0.95), norm.ppf(0.05)], abs=2e-3)


def table(sizes, detected, **more) -> pd.DataFrame:
    given = {"size": np.asarray(sizes, float), "detected": np.asarray(detected, bool)}
    names = [f"{number}.png" for number in range(len(sizes))]
    return pd.DataFrame({**given, "unit": "px", "measure": "length", "image_path": names, **more})


SIZES = np.arange(1, 41)


@pytest.mark.parametrize(
    ("defects", "reason"),
    [
        (table(SIZES, SIZES > 20), "do not overlap"),
        (table(np.r_[SIZES, 20], np.r_[SIZES >= 20, False]), "do not overlap"),  # both at 20: quasi separation
        (table(SIZES, SIZES <= 20), "do not overlap"),
        # 0.05 ** (1 / 40): n of n found has this exact lower bound
        (table(SIZES, SIZES > 0), "at least 92.8 % .*Test smaller"),
        (table(SIZES, SIZES < 0), "at most 7.2 % .*Test larger"),
        (table(SIZES % 4 + 1, SIZES % 3 > 0), "too few"),
        (table(SIZES, SIZES % 2, image_path=["a.png", "b.png"] * 20), "too few"),
        (table([], []), "too few"),
        (table(SIZES, (SIZES <= 20) ^ (SIZES % 5 == 0)), "does not clearly grow"),
        (draw(400, 1, slope=8, floor=0.2, ceiling=0.8), "does not run from 0 to 1"),
    ],
)
def test_what_holds_no_curve_is_refused_with_its_reason(defects, reason):
    with pytest.raises(PodRefusedError, match=reason):
        fit_pod(defects)


def test_warnings_say_what_the_numbers_cannot_promise():
    few = fit_pod(draw(45, 7).assign(image_path=[f"{n // 2}.png" for n in range(45)]))
    assert "45 defects; the handbook asks for 60" in few.warning
    assert "45 defects on 23 photos are taken as independent" in few.warning
    odd = draw(150, 1, slope=6)
    odd.loc[odd["size"].nlargest(2).index, "detected"] = False
    fit = fit_pod(odd)
    assert fit.fit_p < 0.05 and "does not describe the data" in fit.warning
    assert not pod_bins(fit)["agrees"].all()


def test_no_size_is_given_that_was_not_tested():
    """A POD of logit -2 + 1.5 ln(size): a50 = exp(2 / 1.5) = 3.8, a90 = exp((2 + 2.2) / 1.5) = 16."""
    sizes = np.geomspace(1, 10, 200)
    detected = np.random.default_rng(0).uniform(size=200) < expit(-2 + 1.5 * np.log(sizes))
    fit = fit_pod(table(sizes, detected))
    assert 3 < fit.a50 < 5 and (fit.a90, fit.a90_95) == (np.inf, np.inf)
    large = draw(400, 0, slope=2).query("size > 3.5")  # 58 % are found at 3.5
    assert fit_pod(large).a50 == -np.inf
    assert pod_table({"unet": table(sizes, detected)})["a90_95"].tolist() == [np.inf]
    words = [size_words(size, "mm") for size in (3.21987, np.inf, -np.inf, np.nan)]
    assert words[0] == "3.22 mm" and words[3] == "-" and len(set(words)) == 4


def test_bins_by_hand():
    fit = fit_pod(draw(120, 8))
    bins = pod_bins(fit, 4)
    assert bins["n"].tolist() == [30] * 4
    assert bins["found"].sum() == fit.detected.sum()
    order = np.argsort(fit.sizes)
    first, last = order[:30], order[-30:]
    assert bins["expected"].iloc[0] == pytest.approx(fit.pod(fit.sizes[first]).mean())
    assert bins["recall"].iloc[-1] == pytest.approx(fit.detected[last].mean())
    assert bins["agrees"].tolist() == [r.recall_low <= r.expected <= r.recall_high for r in bins.itertuples()]


def test_a_table_of_models_holds_numbers_or_the_reason():
    good, none = draw(80, 9), draw(80, 9).assign(detected=True)
    result = pod_table({"unet": good, "draem": none})
    fit = fit_pod(good)
    assert result.loc[0, ["a50", "a90", "a90_95", "fit_p"]].tolist() == [fit.a50, fit.a90, fit.a90_95, fit.fit_p]
    assert result["refused"].iloc[0] == "" and "are found" in result["refused"].iloc[1]
    assert np.isnan(result["a90"].iloc[1]) and result["n_hits"].tolist() == [good["detected"].sum(), 80]


def test_hits_of_a_run_see_masks_at_the_photos_size(tmp_path):
    """Photos 80 x 100 resized to 40 x 50 and cropped to 32 x 40: the crop begins at (4, 5), at (8, 10) of the photo."""
    rows = [("good", "", 0)]
    for name, (top, left) in {"seen": (30, 40), "missed": (60, 70), "cropped": (0, 0)}.items():
        mask = np.zeros((80, 100), np.uint8)
        mask[top : top + 6, left : left + 8] = 255
        if name == "seen":
            mask[36, 48] = mask[75, 5:8] = 255  # one pixel touches the defect at its corner; a speck of three
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        rows.append((name, str(tmp_path / f"{name}.png"), 1))
    samples = pd.DataFrame(rows, columns=["image_path", "mask_path", "label_index"]).assign(defect_type="dent")
    maps = np.zeros((4, 32, 40), np.float16)
    maps[1, (30 + 2) // 2 - 4, (40 + 2) // 2 - 5] = 1  # inside the first defect, in the map's frame
    maps[3, 0, 0] = 1  # the corner of what is seen, not of the photo
    run = SimpleNamespace(thresholds={"pixel": Threshold(0.5, "given", "pixel")}, predictions=lambda split: samples)
    run.maps, run.info = lambda split: maps, {"parameters": {"image_size": [40, 50], "center_crop": [32, 40]}}
    hits = run_defect_hits(run, pixel_size=0.5, unit="mm")
    assert hits["image_path"].tolist() == ["seen", "missed", "cropped"]
    assert hits["detected"].tolist() == [True, False, False] and set(hits["unit"]) == {"mm"}
    np.testing.assert_allclose(hits["size"], 0.5 * np.hypot([7, 6, 6], [9, 8, 8]))
    area = run_defect_hits(run, measure="area", pixel_size=0.5, unit="mm")
    assert set(area["unit"]) == {"mm²"} and 0 < area["covered"].iloc[0] < 0.5
    np.testing.assert_allclose(area["size"], [0.25 * 49, 12, 12])
    maps *= np.nan
    with pytest.raises(ValueError, match="seen: .* not finite"):
        run_defect_hits(run)


if __name__ == "__main__":  # the long study that the module's docstring quotes: PYTHONPATH=. python tests/test_...
    for slope in (2.0, 3.0, 4.0):
        print(slope, {n: coverage(n, 3000, slope) for n in (30, 60, 120)}, flush=True)
