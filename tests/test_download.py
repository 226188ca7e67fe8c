"""The download command, without a network."""

import socket
from pathlib import Path
from urllib.error import URLError

import pytest

from helpers.data import download
from helpers.data.download import main


@pytest.fixture
def anomalib(monkeypatch):
    """What anomalib's downloaders do here: unpack these files, then perhaps fail; the folders they were given."""
    asked = []

    def come(*files: str, error: Exception | None = None) -> list[Path]:
        def unpack(root: Path) -> None:
            asked.append(root)
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).touch()
            if error:
                raise error

        for name in ("MVTecAD", "Visa"):
            monkeypatch.setattr(f"anomalib.data.{name}.prepare_data", lambda module: unpack(Path(module.root)))
        monkeypatch.setattr("anomalib.data.utils.download_and_extract", lambda root, info: unpack(root))
        return asked

    return come


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [(["mvtec_ad", "cable"], "mvtec_ad/cable"), (["visa", "candle"], "visa/visa_pytorch/candle"), (["dtd"], "dtd")],
)
def test_a_whole_folder_comes_into_place_once(tmp_path, anomalib, monkeypatch, capsys, arguments, folder):
    monkeypatch.setattr(download, "DTD_COUNT", 2)
    asked = anomalib("cable/train/good/0.png", "visa_pytorch/candle/train/good/0.png")
    for _ in range(2):
        assert main([*arguments, "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert f"in {tmp_path / folder}" in said and "https://" in said and (tmp_path / folder).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [arguments[0]] and len(asked) == 1


@pytest.mark.parametrize("dataset", [["mvtec_ad", "bottle"], ["visa", "candle"], ["dtd"]])
@pytest.mark.parametrize("error", [URLError("no route"), TimeoutError("slow"), ValueError("hash")])
def test_failure_leaves_nothing_and_says_what_to_do(tmp_path, anomalib, capsys, dataset, error):
    anomalib("half.tar.xz", error=error)
    assert main([*dataset, "--out", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert str(error) in said and "get it from https://" in said and str(tmp_path / dataset[0]) in said


@pytest.mark.parametrize("dataset", [["mvtec_ad", "bottle"], ["visa", "candle"], ["dtd"]])
def test_anomalib_is_asked_with_a_time_limit(tmp_path, monkeypatch, dataset):
    """anomalib's own downloader runs; only the opening of the connection is replaced."""
    asked = []

    def urlretrieve(url: str, **_) -> None:
        asked.append((url[:8], socket.getdefaulttimeout()))
        raise URLError("no network")

    monkeypatch.setattr("anomalib.data.utils.download.urlretrieve", urlretrieve)
    before = socket.getdefaulttimeout()
    assert main([*dataset, "--out", str(tmp_path)]) == 1
    assert asked == [("https://", download.TIMEOUT)] and socket.getdefaulttimeout() == before


def test_what_is_not_whole_or_not_known_is_named(tmp_path, capsys):
    for name in ("mvtec_ad", "dtd"):
        (tmp_path / name).mkdir()
    for arguments, word in ((["mvtec_ad", "bottle"], "bottle"), (["dtd"], "dtd"), (["visa", "candel"], "candle")):
        assert main([*arguments, "--out", str(tmp_path)]) == 1
        assert word in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["imagenet"])
