"""Severity limits and rules: strict reading, units, and verdicts worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers.analysis.severity import (
    LEVELS,
    Limit,
    check_rules,
    rate_severity,
    read_limits,
    shapes,
    verdicts,
)
from helpers.analysis.sizing import measure_defects

PHOTOS = ["a.png", "b.png", "c.png"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Pixels of 0.1 mm. a.png: bars of 3.0 x 0.2 and 0.6 x 0.2 mm; b.png: five squares; c.png: nothing."""
    masks = [np.zeros((100, 100), bool) for _ in PHOTOS]
    masks[0][50:52, 30:60] = True
    masks[0][70:72, 30:36] = True
    for number, side in enumerate((10, 9, 8, 8, 7)):
        masks[1][20 : 20 + side, 3 + 18 * number : 3 + 18 * number + side] = True
    parts = [measure_defects(mask, pixel_size=0.1, unit="mm", use_morphology=False) for mask in masks]
    named = zip(parts, PHOTOS, ("scratch", "spot", "good"), strict=True)
    return pd.concat([part.assign(image_path=path, defect_type=kind) for part, path, kind in named], ignore_index=True)


@pytest.fixture
def read(tmp_path):
    """Lines of limits as their file is read; JSON is YAML."""

    def read_lines(what: str, *lines) -> list[Limit]:
        file = tmp_path / "mine.yml"
        file.write_text(json.dumps({what: lines}))
        return read_limits(what, "mm", file)

    return read_lines


def test_severity_by_length_and_by_area_for_one_type(table, read):
    lines = [{"measure": "length", "medium": "0.5 mm", "high": "1 mm", "critical": "3.1 mm"}]
    lines.append({"type": "spot", "measure": "area", "medium": "0.64 mm2", "high": "0.9 mm2"})
    rated = rate_severity(table, read("severity", *lines))
    assert rated.cat.categories.tolist() == list(LEVELS) and rated.cat.ordered
    # Spots of 1.0, 0.81, 0.64, 0.64 and 0.49 mm²: at a limit is in its level; the line without a type is not theirs.
    assert rated.tolist() == ["high", "medium", "high", "medium", "medium", "medium", "low"]


def test_the_worst_of_several_lines_counts_and_near_the_edge_is_severe(table, read):
    wide = {"measure": "width", "high": "0.95 mm"}
    limits = read("severity", {"measure": "edge_distance", "medium": "2 mm", "critical": "0.5 mm"}, wide)
    # Distances: 3 mm below the photo's nearest edge and so on; the spots begin 0.3, 2.1, 3.9 and 5.7 mm from the left.
    assert table["edge_distance"].round(6).tolist() == [3.0, 2.8, 0.3, 2.0, 2.0, 2.0, 1.8]
    assert rate_severity(table, limits).tolist() == ["low", "low", "critical", "medium", "medium", "medium", "medium"]
    assert rate_severity(table, read("severity", wide)).tolist() == ["low"] * 2 + ["high"] + ["low"] * 4
    assert rate_severity(table.iloc[:0], limits).tolist() == []


@pytest.mark.parametrize(
    ("measure", "high", "n"),
    [("area", "0.009 cm2", 1), ("area", "81 px²", 2), ("length", "0.118 inch", 1), ("length", "0.119 inch", 0)],
)
def test_units_are_converted_and_pixels_mean_pixels(table, read, measure, high, n):
    """The largest length is 3.007 mm, 0.1184 inch."""
    assert (rate_severity(table, read("severity", {"measure": measure, "high": high})) == "high").sum() == n


def test_limits_in_millimetres_need_a_pixel_size(read):
    mask = np.zeros((30, 30), bool)
    mask[5:15, 5:15] = True
    in_pixels = measure_defects(mask).assign(image_path="a.png", defect_type="")
    for judge, what, kind in ((rate_severity, "severity", "high"), (check_rules, "rules", "max")):
        with pytest.raises(ValueError, match="table is in px"):
            judge(in_pixels, read(what, {"measure": "length", kind: "1 mm"}), *[["a.png"]] * (what == "rules"))
    assert rate_severity(in_pixels, read("severity", {"measure": "length", "high": "14 px"})).item() == "high"


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("severity", {"measure": "length"}),
        ("severity", {"measure": "weight", "high": "1 mm"}),
        ("severity", {"measure": "length", "high": 1.0}),
        ("severity", {"measure": "length", "high": "1 yard"}),
        ("severity", {"measure": "length", "high": "1 mm2"}),
        ("severity", {"measure": "length", "medium": "1 mm", "high": "1 mm"}),
        ("severity", {"measure": "edge_distance", "medium": "1 mm", "high": "2 mm"}),
        ("severity", {"measure": "length", "medium": "1 mm", "high": "2 cm"}),
        ("severity", {"measure": "length", "high": "1 mm", "type": 3}),
        ("severity", "length"),
        ("rules", {"measure": "length", "max": "1 mm", "min": "2 mm"}),
        ("rules", {"measure": "length", "max": "1 mm", "at_most": 1}),
        ("rules", {"measure": "length", "over": "1 mm"}),
        ("rules", {"measure": "length", "over": "1 mm", "at_most": -1}),
        ("rules", {"measure": "length", "maximum": "1 mm"}),
    ],
)
def test_lines_that_cannot_be_read_are_refused(what, line, read):
    with pytest.raises(ValueError, match=r"mine.yml, line 2"):
        read(what, {"measure": "length", "high" if what == "severity" else "max": "1 mm"}, line)


def test_a_drawings_rules(table, read):
    rules = read(
        "rules",
        {"type": "scratch", "measure": "length", "max": "2 mm"},
        {"type": "spot", "measure": "area", "over": "0.5 mm2", "at_most": 3},
        {"measure": "edge_distance", "min": "1 mm"},
    )
    checked = check_rules(table, rules, PHOTOS)
    assert checked["image_path"].tolist() == [name for name in PHOTOS for _ in rules]
    assert checked["passed"].tolist() == [False, True, True, True, False, False, True, True, True]
    scratch, _, edge = checked.iloc[:3].itertuples()
    assert (scratch.measured, scratch.limit) == (pytest.approx(np.hypot(3, 0.2)), 2)
    assert (scratch.unit, scratch.defect) == ("mm", 1)
    assert edge.measured == pytest.approx(2.8), "the nearest, here the smaller bar"
    _, spots, near = checked.iloc[3:6].itertuples()
    assert (spots.measured, spots.limit, spots.unit, spots.defect) == (4, 3, "", 1), "0.49 mm² is below 0.5"
    assert near.measured == pytest.approx(0.3)
    assert checked.iloc[6:]["measured"].isna().sum() == 2, "no defect, nothing measured; but a number of spots, 0"
    result = verdicts(checked)
    assert result["image_path"].tolist() == PHOTOS and result["verdict"].tolist() == ["FAIL", "FAIL", "PASS"]
    assert result["n_failed"].tolist() == [1, 2, 0] and result["defect"].tolist() == [1, 1, 0]
    broken = ["no scratch with length over 2 mm", "at most 3 of spot with area over 0.5 mm²", ""]
    assert result["rule"].tolist() == broken and result["unit"].tolist() == ["mm", "", ""]


def test_at_a_limit_a_defect_passes_and_is_long(table, read):
    assert shapes(pd.DataFrame({"length": [3.0, 2.9], "width": [1.0, 1.0]})) == ["scratch", "spot"]
    lines = [{"measure": "area", "max": "1 mm2"}, {"measure": "edge_distance", "min": "0.3 mm"}]
    lines.append({"measure": "area", "over": "0.5 mm2", "at_most": 4})
    assert check_rules(table[table["image_path"] == "b.png"], read("rules", *lines), ["b.png"])["passed"].all()


def test_the_examples_are_read(table):
    limits, rules = read_limits("severity", "mm"), read_limits("rules", "mm")
    assert limits[2] == Limit("length", "critical", 2.0, "mm")
    assert rate_severity(table, limits).iloc[0] == "critical"
    assert str(rules[-1]) == "no defect with edge distance below 1 mm" and len(rules) == 4
    for what, ours in (("severity", limits), ("rules", rules)):
        theirs = read_limits(what, "px")
        assert [one.measure for one in theirs] == [one.measure for one in ours]
        assert {one.unit for one in theirs} == {"px"}


@pytest.mark.parametrize(
    "text", ["rules: []", "rules: 3", "severity: []", "rules: [{measure: length, max: 1 mm}]\nmore: 1", "rules: [", ""]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "mine.yml").write_text(text)
    for name in ("mine.yml", "none.yml"):
        with pytest.raises(ValueError, match=name):
            read_limits("rules", "mm", tmp_path / name)
