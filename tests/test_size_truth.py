"""Sizes of drawn defects, compared defect by defect."""

import numpy as np

from helpers import read_dataset
from helpers.pictures.datasets import draw_dataset
from helpers.pictures.size_truth import LIMITS, compare_with_drawn, is_drawn


def test_every_drawn_defect_is_compared_and_what_is_beyond_is_so_in_the_mask(tmp_path, photos):
    folder = draw_dataset("mesh", tmp_path, n_train=1, n_test_normal=1, n_test_per_defect=6)
    assert is_drawn(folder) and not is_drawn(photos)
    found = compare_with_drawn(read_dataset(folder))
    assert len(found) >= 24 and found["image_path"].nunique() == 24
    assert set(found["defect_type"]) == {"broken_strand", "hole", "shifted_strand", "contamination"}
    assert found["area"].notna().all()
    np.testing.assert_allclose(found["area_error"], found["area"] / found["true_area"] - 1)
    np.testing.assert_allclose(found["length_error"], found["length"] - found["true_length"])
    assert (found["length_error"].abs() <= LIMITS["length"][0]).all()
    large = found[found["true_area"] > 200]
    beyond = large["area_error"].abs() > np.where(large["true_area"] > 400, LIMITS["area"][400], LIMITS["area"][200])
    assert (large["mask_area_error"].abs() > LIMITS["area"][400])[beyond].all()
    nothing = compare_with_drawn(read_dataset(folder), min_defect_area=10**6)
    assert nothing["area_error"].isna().all() and nothing["mask_area_error"].equals(found["mask_area_error"])
