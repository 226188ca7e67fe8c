"""The threshold explorer, moved without a browser: counts worked out on paper, and the photos it shows."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.thresholds import Threshold
from helpers.views.widgets import threshold_explorer

TEST = pd.DataFrame({"label_index": [0, 0, 0, 1, 1, 1, 1], "score": [0.1, 0.3, 0.5, 0.2, 0.4, 0.6, 0.8]})


@pytest.fixture
def explorer():
    """The explorer at a threshold of 0.45, and the rows its gallery has asked for."""
    asked: list[list[int]] = []

    def examples(rows: pd.DataFrame) -> dict[str, list]:
        asked.append(rows.index.tolist())
        photos = [np.full((20, 30, 3), 40 * index, np.uint8) for index in rows.index]
        maps = [np.ones((20, 30))] * len(rows)
        return {"photos": photos, "maps": maps, "masks": [None] * len(rows), "titles": [""] * len(rows)}

    return threshold_explorer(TEST, examples, Threshold(0.45, "given"), 0.5, n_examples=2), asked


def test_the_counts_follow_the_slider(explorer):
    slider, _, counts, _ = explorer[0].children
    # found, missed, false alarms, accepted; at 0.5 the good photo of that score is accepted: abnormal is above it
    expected = {0.45: "2212", 0.25: "3121", 0.5: "2203", slider.max: "0403", slider.min: "4030"}
    for value, numbers in expected.items():
        slider.value = value
        words = ("found", "missed", "false alarms", "accepted")
        assert [re.search(rf"(\d+) {name}", counts.value)[1] for name in words] == list(numbers)
    assert "0.45" in counts.value, "the stored one"


def test_the_gallery_shows_what_is_closest_to_the_threshold(explorer):
    (slider, outcome, _, gallery), asked = explorer[0].children, explorer[1]
    assert asked == [[4, 3]], "missed at 0.45: 0.4, then 0.2"
    first = gallery.value
    slider.value = 0.7
    assert asked[-1] == [5, 4], "missed at 0.7: 0.6, 0.4 (and 0.2, one too many)"
    assert gallery.value != first and Image.open(io.BytesIO(first)).format == "PNG"
    outcome.value = "found defects"
    assert asked[-1] == [6]
    outcome.value = "accepted normal photos"
    assert asked[-1] == [2, 1]
    outcome.value = "false alarms"
    assert asked[-1] == [2, 1] and Image.open(io.BytesIO(gallery.value)).height < 100, "none at 0.7: a sentence"


def test_one_score():
    explorer = threshold_explorer(TEST.assign(score=0.5), lambda rows: pytest.fail("nothing is missed"), 0.4, 0.4)
    slider = explorer.children[0]
    assert slider.min < 0.4 < 0.5 < slider.max
