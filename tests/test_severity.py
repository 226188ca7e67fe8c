"""Severity limits and rules: strict reading, units, and verdicts worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from helpers.analysis.severity import (
    LEVELS,
    Quantity,
    SeverityError,
    check_rules,
    rate_severity,
    read_rules,
    read_severity_limits,
    shapes,
    verdicts,
)
from helpers.analysis.sizing import measure_defects

EXAMPLES = REPOSITORY / "notebooks" / "params" / "sizes"
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
    kinds = ("scratch", "spot", "good")
    named = zip(parts, PHOTOS, kinds, strict=True)
    return pd.concat([part.assign(image_path=path, defect_type=kind) for part, path, kind in named], ignore_index=True)


@pytest.fixture
def severity(tmp_path):
    """Lines of limits as their file is read; JSON is YAML."""
    return lambda lines: read_severity_limits(written(tmp_path, "severity", lines))


@pytest.fixture
def drawing(tmp_path):
    return lambda lines: read_rules(written(tmp_path, "rules", lines))


def written(folder, key, lines):
    file = folder / f"{key}.yml"
    file.write_text(json.dumps({key: lines}))
    return file


# ------------------------------------------------------------------------------------------------------------- severity


def test_severity_by_length_and_by_area_for_one_type(table, severity):
    limits = severity(
        [
            {"measure": "length", "medium": "0.5 mm", "high": "1 mm", "critical": "3.1 mm"},
            {"type": "spot", "measure": "area", "medium": "0.64 mm2", "high": "0.9 mm2"},
        ]
    )
    rated = rate_severity(table, limits)
    assert rated.cat.categories.tolist() == list(LEVELS) and rated.cat.ordered
    # Spots of 1.0, 0.81, 0.64, 0.64 and 0.49 mm²: at a limit is in its level; the line without a type is not theirs.
    assert rated.tolist() == ["high", "medium", "high", "medium", "medium", "medium", "low"]


def test_the_worst_of_several_lines_counts_and_near_the_edge_is_severe(table, severity):
    limits = severity(
        [
            {"measure": "edge_distance", "medium": "2 mm", "critical": "0.5 mm"},
            {"measure": "width", "high": "0.95 mm"},
        ]
    )
    # Distances: 3 mm below the photo's nearest edge and so on; the spots begin 0.3, 2.1, 3.9 and 5.7 mm from the left.
    assert table["edge_distance"].round(6).tolist() == [3.0, 2.8, 0.3, 2.0, 2.0, 2.0, 1.8]
    assert rate_severity(table, limits).tolist() == ["low", "low", "critical", "medium", "medium", "medium", "medium"]
    wide = severity([{"measure": "width", "high": "0.95 mm"}])
    assert rate_severity(table, wide).tolist() == ["low"] * 2 + ["high"] + ["low"] * 4
    assert rate_severity(table.iloc[:0], limits).tolist() == []


def test_units_are_converted_and_pixels_mean_pixels(table, severity):
    centimetres = severity([{"measure": "area", "high": "0.009 cm2"}])
    assert (rate_severity(table, centimetres) == "high").tolist() == [False, False, True, False, False, False, False]
    pixels = severity([{"measure": "area", "high": "81 px²"}])
    assert (rate_severity(table, pixels) == "high").sum() == 2
    inches = severity([{"measure": "length", "high": "0.118 inch"}])
    assert (rate_severity(table, inches) == "high").sum() == 1, "3.007 mm are 0.1184 inch"


def test_limits_in_millimetres_need_a_pixel_size(severity, drawing):
    mask = np.zeros((30, 30), bool)
    mask[5:15, 5:15] = True
    in_pixels = measure_defects(mask).assign(image_path="a.png", defect_type="")
    with pytest.raises(SeverityError, match=r"limit 1 mm .* table is in px: measure with pixel_size"):
        rate_severity(in_pixels, severity([{"measure": "length", "high": "1 mm"}]))
    with pytest.raises(SeverityError, match="table is in px"):
        check_rules(in_pixels, drawing([{"measure": "length", "max": "1 mm"}]), ["a.png"])
    assert rate_severity(in_pixels, severity([{"measure": "length", "high": "14 px"}])).item() == "high"


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("severity", {"measure": "length"}, "line 1: no level"),
        ("severity", {"measure": "weight", "high": "1 mm"}, "measure='weight'"),
        ("severity", {"measure": "length", "high": 1.0}, "high: 1.0 is no size with a unit"),
        ("severity", {"measure": "length", "high": "1"}, "'1' is no size"),
        ("severity", {"measure": "length", "high": "-1 mm"}, "'-1 mm' is no size"),
        ("severity", {"measure": "length", "high": "1 yard"}, "'1 yard' is no size"),
        ("severity", {"measure": "length", "high": "1 mm2"}, "length is given in mm, not in '1 mm2'"),
        ("severity", {"measure": "area", "high": "1 mm"}, "area is given in mm2"),
        ("severity", {"measure": "length", "medium": "2 mm", "high": "1 mm"}, "must rise"),
        ("severity", {"measure": "length", "medium": "1 mm", "high": "1 mm"}, "must rise"),
        ("severity", {"measure": "edge_distance", "medium": "1 mm", "high": "2 mm"}, "must fall"),
        ("severity", {"measure": "length", "medium": "1 mm", "high": "2 cm"}, "one unit"),
        ("severity", {"measure": "length", "severe": "1 mm"}, "unknown severe"),
        ("severity", {"measure": "length", "low": "1 mm"}, "unknown low"),
        ("severity", {"measure": "length", "high": "1 mm", "type": 3}, "type=3"),
        ("severity", "length", "expected keys and values"),
        ("drawing", {"measure": "length"}, "give either max"),
        ("drawing", {"measure": "length", "max": "1 mm", "min": "2 mm"}, "give either max"),
        ("drawing", {"measure": "length", "over": "1 mm"}, "give either max"),
        ("drawing", {"measure": "length", "over": "1 mm", "at_most": -1}, "at_most=-1"),
        ("drawing", {"measure": "length", "over": "1 mm", "at_most": True}, "at_most=True"),
        ("drawing", {"measure": "length", "over": "1 mm", "at_most": 1.5}, "at_most=1.5"),
        ("drawing", {"measure": "length", "max": "1 mm2"}, "length is given in mm"),
        ("drawing", {"max": "1 mm"}, "measure=None"),
        ("drawing", {"measure": "length", "maximum": "1 mm"}, "unknown maximum"),
    ],
)
def test_lines_that_cannot_be_read_are_refused(kind, line, message, request):
    with pytest.raises(SeverityError, match=message):
        request.getfixturevalue(kind)([line])


# ---------------------------------------------------------------------------------------------------------------- rules


def test_a_drawings_rules(table, drawing):
    rules = drawing(
        [
            {"type": "scratch", "measure": "length", "max": "2 mm"},
            {"type": "spot", "measure": "area", "over": "0.5 mm2", "at_most": 3},
            {"measure": "edge_distance", "min": "1 mm"},
        ]
    )
    checked = check_rules(table, rules, PHOTOS)
    assert len(checked) == 9
    assert checked["image_path"].tolist() == [name for name in PHOTOS for _ in rules]
    assert checked["passed"].tolist() == [False, True, True, True, False, False, True, True, True]
    scratch, _, edge = checked.iloc[:3].itertuples()
    assert scratch.measured == pytest.approx(np.hypot(3, 0.2))
    assert (scratch.limit, scratch.unit, scratch.defect) == (2, "mm", 1)
    assert edge.measured == pytest.approx(2.8), "the nearest, here the smaller bar"
    _, spots, near = checked.iloc[3:6].itertuples()
    assert (spots.measured, spots.limit, spots.unit, spots.defect) == (4, 3, "", 1), "0.49 mm² is below 0.5"
    assert near.measured == pytest.approx(0.3)
    assert checked.iloc[6:]["measured"].isna().sum() == 2, "no defect, nothing measured; but a number of spots, 0"
    result = verdicts(checked)
    assert result["verdict"].tolist() == ["FAIL", "FAIL", "PASS"]
    assert result["n_failed"].tolist() == [1, 2, 0]
    assert result["rule"].tolist() == [
        "no scratch with length over 2 mm",
        "at most 3 of spot with area over 0.5 mm²",
        "",
    ]
    assert result["defect"].tolist() == [1, 1, 0]


def test_at_a_limit_a_defect_passes(table, drawing):
    for line in ({"measure": "area", "max": "1 mm2"}, {"measure": "edge_distance", "min": "0.3 mm"}):
        table_b = table[table["image_path"] == "b.png"]
        assert check_rules(table_b, drawing([line]), ["b.png"])["passed"].all()
    assert check_rules(table, drawing([{"measure": "area", "over": "0.5 mm2", "at_most": 4}]), PHOTOS)["passed"].all()


def test_long_and_compact():
    assert shapes(pd.DataFrame({"length": [3.0, 2.9, 1.0], "width": [1.0, 1.0, 1.0]})) == ["scratch", "spot", "spot"]


# ---------------------------------------------------------------------------------------------------------------- files


def test_the_examples_are_read(table):
    limits, rules = read_severity_limits(EXAMPLES / "severity.yml"), read_rules(EXAMPLES / "drawing.yml")
    assert limits[0].limits["critical"] == Quantity(2.0, "mm")
    assert rate_severity(table, limits).iloc[0] == "critical"
    assert [str(rule) for rule in rules] == [
        "no scratch with length over 2 mm",
        "at most 3 of spot with area over 0.5 mm²",
        "no spot with area over 2 mm²",
        "no defect with edge distance below 1 mm",
    ]
    in_pixels = read_severity_limits(EXAMPLES / "severity_px.yml"), read_rules(EXAMPLES / "drawing_px.yml")
    for ours, theirs in zip(in_pixels, (limits, rules), strict=True):
        assert [(one.measure, one.defect_type) for one in ours] == [(one.measure, one.defect_type) for one in theirs]
    assert all(rule.limit.unit == "px" for rule in in_pixels[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "at least one line"),
        ("rules: 3", "expected one list"),
        ("severity: []", "one list called rules"),
        ("rules: [{measure: length, max: 1 mm}]\nmore: 1", "nothing else"),
        ("rules: [", "no YAML"),
        ("rules: [&a [1], *a]", "alias"),
        ("", "one list called rules"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, text, message):
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(SeverityError, match=message) as error:
        read_rules(file)
    assert "mine.yml" in str(error.value)
    with pytest.raises(SeverityError, match="There is no file"):
        read_rules(tmp_path / "none.yml")
