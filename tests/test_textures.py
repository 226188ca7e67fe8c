"""Textures for DRAEM and GLASS: drawn ones are the same from the same seed, varied and never flat; all are checked."""

import itertools

import numpy as np
import pytest
from PIL import Image

from helpers.data import download
from helpers.data.images import read_image
from helpers.pictures import anomaly_source, textures
from helpers.pictures.anomaly_source import resolve_anomaly_source, texture_files
from helpers.pictures.textures import FAMILIES, draw_texture, write_textures


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[np.ndarray]]:
    return {name: [draw_texture((1, seed), name) for seed in range(8)] for name in FAMILIES}


def test_seeds_decide(drawn):
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(draw_texture((1, 3), "leaves"), drawn["leaves"][3])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    pictures = [draw_texture(seed) for seed in (0, (0, 1), (1, 0), (1, 1), (0, 0, 1))]
    for one, other in itertools.combinations(pictures, 2):
        assert np.abs(one.astype(int) - other).mean() > 3


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_rgb_with_contrast(drawn, name):
    for picture in drawn[name]:
        assert (picture.dtype, picture.shape) == (np.uint8, (256, 256, 3))
        grey = picture.mean(axis=2)
        assert grey.std() > 8 and 15 < grey.mean() < 240
        assert ((picture == 0).all(axis=2) | (picture == 255).all(axis=2)).mean() < 0.6
    shares = [np.ptp(picture, axis=2).max() == 0 for picture in drawn[name]]
    assert 0 < np.mean(shares) < 0.8, "some are grey, and some are not"


def test_stripes_have_dominant_frequencies_and_mosaics_are_flat_within_their_pieces():
    window, frequency = np.outer(np.hanning(256), np.hanning(256)), np.hypot(*np.meshgrid(*[np.fft.fftfreq(256)] * 2))

    def dominance(picture: np.ndarray) -> float:
        power = np.abs(np.fft.fft2((picture - picture.mean()) * window))[frequency > 0.03] ** 2
        return np.sort(power)[-8:].sum() / power.sum()

    peaks, flat = {}, {}
    for name, draw in FAMILIES.items():
        pictures = [draw(np.random.default_rng([2, seed])) for seed in range(8)]
        pictures = [picture if picture.ndim == 2 else picture.mean(axis=2) for picture in pictures]
        peaks[name] = np.median([dominance(picture) for picture in pictures])
        flat[name] = np.median([(np.abs(np.gradient(picture)).sum(axis=0) < 0.03).mean() for picture in pictures])
    assert peaks.pop("stripes") > max(0.25, 1.5 * max(peaks.values()))
    assert flat["mosaic"] > max(0.35, 1.5 * max(flat["cells"], flat["stripes"]))


def test_folder_has_a_subfolder_a_family_and_is_drawn_once(tmp_path, monkeypatch):
    folder = write_textures(tmp_path / "deep" / "textures", 7)
    assert {path.parent.name for path in folder.rglob("*.png")} == set(FAMILIES)
    np.testing.assert_array_equal(read_image(folder / "stripes" / "0001.png"), draw_texture((0, 6), "stripes"))
    stamp = (folder / "cells" / "0000.png").stat().st_mtime_ns
    assert write_textures(folder, 7) == folder and (folder / "cells" / "0000.png").stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match="textures"):
        write_textures(folder, 8)
    monkeypatch.setattr(textures, "VERSION", textures.VERSION + 1)
    assert len(list(write_textures(folder, 8).rglob("*.png"))) == 8, "an older version is replaced"


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
