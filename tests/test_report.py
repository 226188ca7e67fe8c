"""The report: one file without references outwards, all names escaped, numbers in words that are right."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from PIL import Image

from helpers.analysis.comparison import operating_points
from helpers.analysis.detection_probability import fit_pod, pod_table
from helpers.thresholds import Threshold, conformal_threshold
from helpers.views import report
from helpers.views.style import NotebookFigure
from helpers.views.tables import sortable_table

EVIL = "<script>alert('x')</script> & \"Kratzer\""


class Page(HTMLParser):
    """Text, attributes and tables of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "tags are closed in their order"

    def handle_data(self, data):
        if data.strip() and self.open:
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def figure() -> NotebookFigure:
    drawn = NotebookFigure(figsize=(2, 1))
    drawn.subplots().plot([0, 1], [0, 1])
    return drawn


def read(tmp_path, sections: dict) -> Page:
    return Page(report.write_report(tmp_path / "out" / "report.html", f"Mesh {EVIL}", sections).read_text("utf-8"))


def test_one_file_with_everything_inside(tmp_path):
    table = pd.DataFrame({EVIL: [EVIL, "b"], "share": [0.123456, np.nan], "n": [12345, 2]})
    page = read(tmp_path, {"Größe": (f"A paragraph {EVIL}.", table, figure())})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert [tag for tag, _ in page.tags].count("script") == 1, "its own, for sorting"
    assert page.all("h1") == [f"Mesh {EVIL}"] and page.all("title") == [f"Mesh {EVIL}"]
    assert page.all("h2") == ["Größe", "Words"]
    assert f"A paragraph {EVIL}." in page.all("p")
    assert page.all("th") == [EVIL, "share", "n"]
    assert page.all("td") == [EVIL, "0.1235", "12345", "b", "-", "2"]
    source = next(attrs["src"] for tag, attrs in page.tags if tag == "img")
    picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
    assert picture.format == "PNG" and picture.size == (220, 110)
    for _, attrs in page.tags:
        assert not {"href", "action"} & set(attrs)
        assert attrs.get("src", "data:").startswith("data:")
    assert page.open == [], "all is closed"
    assert {"False alarm", "Threshold", "95 % interval"} <= set(page.all("dt"))


def test_the_leaderboard_in_words():
    board = pd.DataFrame(
        {
            "model": ["unet", "glass"],
            "n_test_normal": [50, 50],
            "image_auroc": [0.98765, 0.5],
            "recall_at_threshold": [0.9, np.nan],
            "scheme": ["supervised", "one_class"],
            "pixel_iou": [0.1, 0.2],
        }
    )
    table = report.leaderboard_table(board)
    assert table["detector"].tolist() == ["unet", "glass"]
    assert table["defect photos found"].tolist() == ["90 %", "-"]
    assert table["trained on"].tolist() == ["good and defect photos", "good photos only"]
    assert "pixel_iou" not in table and board["scheme"].iloc[0] == "supervised", "the leaderboard itself is unchanged"


def test_in_short_by_hand():
    board = pd.DataFrame(
        {
            "model": ["unet", "glass", "draem", "patchcore"],
            "n_test_normal": 50,
            "n_test_abnormal": 20,
            "recall_at_threshold": [0.95, 0.5, np.nan, 0.9],
            "false_alarm_at_threshold": [0.04, 0.5, np.nan, 0.1],
        }
    )
    pairs = [("unet", "glass", 0.1, 0.3), ("draem", "unet", -0.4, -0.2), ("unet", "patchcore", 0.0, 0.2)]
    pairs += [("glass", "draem", 0.2, 0.3), ("patchcore", "glass", np.nan, np.nan)]
    differences = pd.DataFrame(pairs, columns=["model_a", "model_b", "low", "high"])
    assert report.summary(board, "unet", differences) == [
        "4 detectors were tested on the same 50 good and 20 defect photos. unet is looked at closely.",
        "At the threshold that was set before these photos were looked at, it finds 95 % of the 20 photos with a "
        "defect and raises a false alarm on 4 % of the 50 good ones.",
        "It ranks photos better than glass, draem.",
        "These photos do not tell it apart from patchcore: the difference may be chance.",
    ]
    assert report.summary(board, "draem", differences)[1:] == ["Better than it at ranking photos: unet, glass."]
    assert report.summary(board.iloc[:1], "unet")[0].startswith("1 detector was tested")


def test_other_thresholds_in_counts():
    val = pd.DataFrame({"label_index": [0, 0, 0], "score": [0.1, 0.2, 0.3]})
    test = pd.DataFrame({"label_index": [0, 0, 1, 1, 1], "score": [0.1, 0.4, 0.2, 0.5, 0.6]})
    table = report.points_table(operating_points(val, test, Threshold(0.3, "given")))
    assert table["defect photos found"].tolist() == ["2 of 3 (66.7 %)", "-", "-"]
    assert table["false alarms"].tolist() == ["1 of 2 (50 %)", "-", "-"]
    assert table["remark"].tolist()[0] == "" and "no defect photo" in table["remark"].iloc[1]
    assert table["threshold is set so that"].iloc[0] == "few good photos are rejected (in use)"


def test_sizes_or_the_reason_why_there_are_none():
    sizes = np.geomspace(1, 20, 40)
    seen = pd.DataFrame(
        {
            "image_path": [f"{n}.png" for n in range(40)],
            "defect_type": "dent",
            "size": sizes,
            "detected": sizes + np.tile([0, 3], 20) > 5,
            "unit": "mm",
            "measure": "length",
        }
    )
    pod = pod_table({"unet": seen, "glass": seen.assign(detected=True)})
    table = report.sizes_table(pod)
    assert table["detector"].tolist() == ["unet", "glass"]
    fit = fit_pod(seen)
    assert table.iloc[0, 3:6].tolist() == [f"{size:.3g} mm" for size in (fit.a50, fit.a90, fit.a90_95)]
    assert table.iloc[1, 3:6].tolist() == ["-", "-", "-"] and table["remark"].iloc[1].startswith("All 40 defects")
    assert report.sizes_table(pod_table({})).empty


def test_misses_in_sentences_by_hand():
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


def test_a_table_for_the_notebook_sorts_too():
    text = sortable_table(pd.DataFrame({"model": [EVIL], "value": [1.5]}))
    page = Page(text)
    assert page.all("td") == [EVIL, "1.5"]
    assert any(tag == "table" and "sortable" in attrs["class"] for tag, attrs in page.tags)
