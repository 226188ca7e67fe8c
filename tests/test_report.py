"""The report: one file without references outwards, all names escaped, numbers in words that are right."""

import base64
import io

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup
from PIL import Image

from helpers.thresholds import conformal_threshold
from helpers.views import report
from helpers.views.style import NotebookFigure
from helpers.views.tables import sortable_table

EVIL = "<script>alert('x')</script> & \"Kratzer\""


def test_one_file_with_everything_inside(tmp_path):
    table = pd.DataFrame({EVIL: [EVIL, "b"], "share": [0.123456, np.nan], "n": [12345, 2]})
    sections = {"Größe": (f"A paragraph {EVIL}.", table, NotebookFigure(figsize=(2, 1)))}
    file = report.write_report(tmp_path / "out" / "report.html", f"Mesh {EVIL}", sections)
    page = BeautifulSoup(file.read_text("utf-8"), "html.parser")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    said = {tag: [one.text for one in page.find_all(tag)] for tag in ("title", "h1", "h2", "p", "th", "td", "dt")}
    assert said["h1"] == said["title"] == [f"Mesh {EVIL}"] and said["h2"] == ["Größe", "Words"]
    assert f"A paragraph {EVIL}." in said["p"] and said["th"] == [EVIL, "share", "n"]
    assert said["td"] == [EVIL, "0.1235", "12345", "b", "-", "2"]
    assert {"False alarm", "Threshold", "95 % interval"} <= set(said["dt"])
    assert len(page.find_all("script")) == 1, "its own, for sorting"
    assert not page.find_all(href=True) and not page.find_all(action=True)
    (picture,) = page.find_all(src=True)
    data = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).size == (220, 110)
    alone = BeautifulSoup(sortable_table(table), "html.parser")
    assert [one.text for one in alone.find_all("td")] == said["td"] and len(alone.find_all("script")) == 1


def test_who_is_better_than_whom():
    board = pd.DataFrame({"model": ["unet", "glass", "draem", "patchcore"], "n_test_normal": 50, "n_test_abnormal": 20})
    board["recall_at_threshold"], board["false_alarm_at_threshold"] = [0.95, 0.5, np.nan, 0.9], [0.04, 0.5, np.nan, 0.1]
    pairs = [("unet", "glass", 0.1, 0.3), ("draem", "unet", -0.4, -0.2), ("unet", "patchcore", 0.0, 0.2)]
    pairs += [("glass", "draem", 0.2, 0.3), ("patchcore", "glass", np.nan, np.nan)]
    differences = pd.DataFrame(pairs, columns=["model_a", "model_b", "low", "high"])
    tested, rates, better, open_ = report.summary(board, "unet", differences)
    assert tested.startswith("4 detectors") and "50 good and 20 defect" in tested
    assert "95 % of the 20" in rates and "4 % of the 50" in rates
    assert better == "It ranks photos better than glass, draem."
    assert "do not tell it apart from patchcore:" in open_
    assert report.summary(board, "draem", differences)[2:] == ["Better than it at ranking photos: unet, glass."]
    assert report.summary(board.iloc[:1], "unet")[0].startswith("1 detector was tested")


def test_misses_in_sentences():
    test = pd.DataFrame(
        {
            "label_index": [0] * 10 + [1] * 6,
            "defect_type": ["good"] * 10 + ["dent"] * 4 + ["stain"] * 2,
            "score": [0.1] * 9 + [0.9] + [0.9, 0.2, 0.3, 0.8] + [0.7, 0.6],
        }
    )
    threshold = conformal_threshold(np.linspace(0, 0.5, 19))
    misses, alarms, table = report.misses(test, threshold)
    assert threshold.value == 0.5
    # Wilson for 2 of 6 and 1 of 10, from its closed form with z = 1.96
    assert misses.startswith("2 of 6 photos with a defect are missed (33.3 %)") and "from 9.7 % to 70 %" in misses
    assert alarms.startswith("1 of 10 good photos raise a false alarm (10 %)") and "from 1.8 % to 40.4 %" in alarms
    assert table.iloc[:, :4].to_numpy().tolist() == [["dent", 4, 2, 2], ["stain", 2, 2, 0]]
    assert table["to (95 % interval)"].iloc[1] == "100 %"
    good = report.misses(test[test["label_index"] == 0], threshold)
    assert good[0].startswith("No photo of this kind was tested") and len(good) == 2
