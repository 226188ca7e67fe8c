"""Sizes of drawn defects, compared defect by defect."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers import read_dataset
from helpers.pictures.datasets import draw_dataset
from helpers.pictures.size_truth import accuracy_summary, compare_with_drawn, is_drawn


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> pd.DataFrame:
    folder = draw_dataset("mesh", tmp_path_factory.mktemp("drawn"), n_train=1, n_test_normal=1, n_test_per_defect=6)
    return compare_with_drawn(read_dataset(folder))


def test_every_drawn_defect_is_compared_and_what_is_beyond_is_so_in_the_mask(compared):
    assert len(compared) >= 24 and compared["image_path"].nunique() == 24
    assert set(compared["defect_type"]) == {"broken_strand", "hole", "shifted_strand", "contamination"}
    assert compared["area"].notna().all()
    np.testing.assert_allclose(compared["area_error"], compared["area"] / compared["true_area"] - 1)
    assert (compared["length_error"].abs() <= 1.5).all()
    summary = accuracy_summary(compared)
    assert (summary["within"] + summary["beyond"] == summary["n"]).all()
    assert (summary["beyond"] == summary["beyond_in_mask"]).all()
    assert summary["n"].iloc[-1] == len(compared)


def test_the_summary_by_hand():
    table = pd.DataFrame(
        {
            "true_area": [100, 250, 300, 350, 500, 600],
            "area_error": [0.5, 0.04, -0.06, np.nan, 0.03, -0.01],
            "mask_area_error": [0.5, 0.04, -0.06, 0.0, 0.0, 0.0],
            "length_error": [0.1, 0.2, 0.3, np.nan, -2.0, 0.5],
            "mask_length_error": [0.0, 0.0, 0.0, 0.0, -1.6, 0.0],
        }
    )
    middle, large, length = accuracy_summary(table).to_dict("records")
    assert (middle["n"], middle["within"], middle["beyond"], middle["beyond_in_mask"]) == (3, 1, 2, 1)
    assert (large["n"], large["within"], large["beyond"], large["beyond_in_mask"]) == (2, 1, 1, 0)
    assert (length["n"], length["within"], length["beyond"], length["beyond_in_mask"]) == (6, 4, 2, 1)
    assert length["largest"] == 2.0 and middle["median"] == pytest.approx(0.05)


def test_a_dataset_that_is_not_drawn_is_refused(photos):
    assert not is_drawn(photos)
    with pytest.raises(FileNotFoundError, match="not drawn"):
        compare_with_drawn(read_dataset(photos))
