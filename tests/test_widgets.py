"""The threshold explorer, moved without a browser: counts by hand, and the photos it shows."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.thresholds import Threshold
from helpers.views.widgets import OUTCOMES, threshold_explorer

TEST = pd.DataFrame({"label_index": [0, 0, 0, 1, 1, 1, 1], "score": [0.1, 0.3, 0.5, 0.2, 0.4, 0.6, 0.8]})


@pytest.fixture
def explorer():
    """The explorer at a threshold of 0.45, and the rows its gallery has asked for."""
    asked: list[list[int]] = []

    def examples(rows: pd.DataFrame) -> dict[str, list]:
        asked.append(rows.index.tolist())
        n = len(rows)
        photo, mask = np.full((20, 30, 3), 90, np.uint8), np.zeros((20, 30), bool)
        return {
            "photos": [photo] * n,
            "maps": [np.full((20, 30), value) for value in rows["score"]],
            "masks": [mask] * n,
            "titles": [str(index) for index in rows.index],
        }

    return threshold_explorer(TEST, examples, Threshold(0.45, "given"), 0.5, n_examples=2), asked


def numbers(html: str) -> list[int]:
    """found, missed, false alarms, accepted."""
    return [int(re.search(rf"(\d+) {name}", html).group(1)) for name in ("found", "missed", "false alarms", "accepted")]


def test_the_counts_follow_the_slider(explorer):
    slider, _, counts, _ = explorer[0].children
    assert slider.value == 0.45
    assert numbers(counts.value) == [2, 2, 1, 2] and "the stored threshold" in counts.value
    slider.value = 0.25
    assert numbers(counts.value) == [3, 1, 2, 1] and "stored: 0.45" in counts.value
    slider.value = 0.5  # abnormal is above the threshold: the good photo at 0.5 is accepted
    assert numbers(counts.value) == [2, 2, 0, 3]
    slider.value = slider.max
    assert numbers(counts.value) == [0, 4, 0, 3]
    slider.value = slider.min
    assert numbers(counts.value) == [4, 0, 3, 0]


def test_the_gallery_shows_what_is_closest_to_the_threshold(explorer):
    (slider, outcome, _, gallery), asked = explorer[0].children, explorer[1]
    assert asked == [[4, 3]], "missed at 0.45: 0.4, then 0.2"
    first = gallery.value
    assert Image.open(io.BytesIO(first)).format == "PNG"
    slider.value = 0.7
    assert asked[-1] == [5, 4], "missed at 0.7: 0.6, 0.4 (and 0.2, one too many)"
    assert gallery.value != first
    outcome.value = "found defects"
    assert asked[-1] == [6]
    outcome.value = "accepted normal photos"
    assert asked[-1] == [2, 1]
    n_asked = len(asked)
    outcome.value = "false alarms"
    assert len(asked) == n_asked, "none at 0.7: nothing is asked for, and a sentence is shown"
    assert Image.open(io.BytesIO(gallery.value)).height < 100


def test_two_explorers_do_not_share_anything(explorer):
    other = threshold_explorer(TEST, lambda rows: pytest.fail("no photo is missed at 0"), 0.0)
    before = explorer[0].children[2].value
    other.children[0].value = 0.05
    assert explorer[0].children[2].value == before
    assert numbers(other.children[2].value) == [4, 0, 3, 0]
    assert tuple(other.children[1].options) == OUTCOMES


def test_one_score_and_no_photo():
    same = TEST.assign(score=0.5)
    slider = threshold_explorer(same, lambda rows: pytest.fail("nothing is missed"), 0.4).children[0]
    assert slider.min < 0.4 < 0.5 < slider.max
    alone = threshold_explorer(same[same["label_index"] == 0], lambda rows: None, 0.5).children[0]
    assert alone.min < 0.5 < alone.max
    with pytest.raises(ValueError, match="no photos"):
        threshold_explorer(TEST.iloc[:0], lambda rows: None, 0.5)
