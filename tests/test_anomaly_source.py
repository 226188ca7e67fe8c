"""Textures for DRAEM and GLASS: checked before they are used."""

from __future__ import annotations

import pytest
from PIL import Image

from helpers.data import download
from helpers.pictures import anomaly_source
from helpers.pictures.anomaly_source import resolve_anomaly_source, texture_files
from helpers.pictures.textures import FAMILIES


def write_picture(path, colour=(10, 20, 30), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_pictures_come_in_the_order_of_their_names_from_subfolders_too(tmp_path):
    expected = [write_picture(tmp_path / name) for name in ("a/2.png", "a/b/1.jpg", "c/0.PNG", "d.jpeg")]
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    assert texture_files(tmp_path) == expected


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: (folder / "dtd" / "images").mkdir(parents=True)])
def test_a_missing_or_empty_folder_is_refused(tmp_path, make):
    make(tmp_path)
    with pytest.raises(ValueError, match=r"ANOMALY_SOURCE=.*dtd"):
        texture_files(tmp_path / "dtd")
    with pytest.raises(ValueError, match=r"ANOMALY_SOURCE=.*dtd"):
        resolve_anomaly_source(str(tmp_path / "dtd"), tmp_path)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"half a picture")
    with pytest.raises(ValueError, match=r"b\.png is no picture"):
        resolve_anomaly_source(str(tmp_path), tmp_path)


def test_the_same_pictures_elsewhere_are_the_same_source_and_others_are_not(tmp_path):
    for place in ("one", "two"):
        write_picture(tmp_path / place / "a.png")
    one, two = (resolve_anomaly_source(str(tmp_path / place), tmp_path) for place in ("one", "two"))
    assert one.kind == "folder" and one.n_pictures == 1
    assert one.to_dict() == two.to_dict() and one.folder != two.folder
    assert set(one.to_dict()) == {"kind", "n_pictures", "sha256"}
    write_picture(tmp_path / "two" / "b.png")
    assert resolve_anomaly_source(str(tmp_path / "two"), tmp_path).sha256 != one.sha256


def test_all_of_dtd_is_told_from_other_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DTD_COUNT", 4)
    monkeypatch.setattr(download, "DTD_CLASSES", 2)
    for name in ("banded/1.jpg", "banded/2.jpg", "dotted/1.jpg", "dotted/2.jpg"):
        write_picture(tmp_path / name)
    assert resolve_anomaly_source(str(tmp_path), tmp_path).kind == "DTD"
    write_picture(tmp_path / "dotted" / "3.jpg")
    assert resolve_anomaly_source(str(tmp_path), tmp_path).kind == "folder"


def test_the_built_in_pictures_are_drawn_once_with_every_family(tmp_path, monkeypatch):
    monkeypatch.setattr(anomaly_source, "BUILTIN_COUNT", len(FAMILIES))
    monkeypatch.setattr(anomaly_source, "BUILTIN_SIZE", 32)
    source = resolve_anomaly_source("builtin:", tmp_path)
    assert source.kind == "built in" and source.n_pictures == len(FAMILIES)
    assert source.folder == str(tmp_path / "textures")
    assert {path.parent.name for path in texture_files(source.folder)} == set(FAMILIES)
    before = [path.stat().st_mtime_ns for path in texture_files(source.folder)]
    assert resolve_anomaly_source("builtin:", tmp_path) == source
    assert [path.stat().st_mtime_ns for path in texture_files(source.folder)] == before
