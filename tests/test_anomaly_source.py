"""Textures for DRAEM and GLASS: checked before they are used."""

from __future__ import annotations

import pytest
from PIL import Image

from helpers.data import download
from helpers.pictures import anomaly_source
from helpers.pictures.anomaly_source import resolve_anomaly_source, texture_files
from helpers.pictures.textures import FAMILIES


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (10, 20, 30)).save(path)
    return path


def test_pictures_come_in_the_order_of_their_names_from_subfolders_too(tmp_path):
    expected = [write_picture(tmp_path / name) for name in ("a/2.png", "a/b/1.jpg", "c/0.PNG", "d.jpeg")]
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    assert texture_files(tmp_path) == expected


@pytest.mark.parametrize(("folder", "word"), [("missing", "missing"), ("empty", "empty"), ("broken", r"b\.png")])
def test_a_missing_or_empty_folder_and_a_file_that_is_no_picture_are_named(tmp_path, folder, word):
    (tmp_path / "empty" / "images").mkdir(parents=True)
    write_picture(tmp_path / "broken" / "a.png").with_name("b.png").write_bytes(b"half a picture")
    with pytest.raises(ValueError, match=word):
        resolve_anomaly_source(str(tmp_path / folder), tmp_path)


def test_the_same_pictures_elsewhere_are_the_same_source_and_others_are_not(tmp_path, monkeypatch):
    names = ("banded/1.jpg", "banded/2.jpg", "dotted/1.jpg", "dotted/2.jpg")
    for name in names:
        write_picture(tmp_path / "one" / name), write_picture(tmp_path / "two" / name)
    one, two = (resolve_anomaly_source(str(tmp_path / place), tmp_path) for place in ("one", "two"))
    assert (one.kind, one.n_pictures, one.to_dict()) == ("folder", 4, two.to_dict()) and one.folder != two.folder
    assert set(one.to_dict()) == {"kind", "n_pictures", "sha256"}
    monkeypatch.setattr(download, "DTD_COUNT", 4)
    monkeypatch.setattr(anomaly_source, "DTD_CLASSES", 2)
    assert resolve_anomaly_source(str(tmp_path / "two"), tmp_path).kind == "DTD", "all of it"
    write_picture(tmp_path / "two" / "dotted" / "3.jpg")
    more = resolve_anomaly_source(str(tmp_path / "two"), tmp_path)
    assert more.kind == "folder" and more.sha256 != one.sha256


def test_the_built_in_pictures_are_drawn_once_with_every_family(tmp_path, monkeypatch):
    monkeypatch.setattr(anomaly_source, "BUILTIN_COUNT", len(FAMILIES))
    source = resolve_anomaly_source("builtin:", tmp_path)
    assert (source.kind, source.n_pictures, source.folder) == ("built in", len(FAMILIES), str(tmp_path / "textures"))
    assert {path.parent.name for path in texture_files(source.folder)} == set(FAMILIES)
    before = [path.stat().st_mtime_ns for path in texture_files(source.folder)]
    assert resolve_anomaly_source("builtin:", tmp_path) == source
    assert [path.stat().st_mtime_ns for path in texture_files(source.folder)] == before
