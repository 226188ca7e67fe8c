"""The download command, without a network."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from helpers.data import download
from helpers.data.download import DownloadError, download_dataset, main


def unpack(subfolder: str = ""):
    def prepare(datamodule: str, root: Path, category: str) -> None:
        for name in ("bottle", "cable", category):
            (root / subfolder / name / "train" / "good").mkdir(parents=True, exist_ok=True)

    return prepare


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_success_moves_the_whole_folder_into_place(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_prepare", unpack())
    folder = download_dataset("mvtec_ad", "cable", out=tmp_path / "datasets")
    assert folder == tmp_path / "datasets" / "mvtec_ad" / "cable" and (folder / "train" / "good").is_dir()
    assert names(tmp_path / "datasets") == ["mvtec_ad"]

    def never(*_):
        raise AssertionError("it is there already")

    monkeypatch.setattr(download, "_prepare", never)
    assert download_dataset("mvtec_ad", "bottle", out=tmp_path / "datasets").name == "bottle"


def test_visa_is_found_where_anomalib_converts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_prepare", unpack("visa_pytorch"))
    assert download_dataset("visa", "candle", out=tmp_path) == tmp_path / "visa" / "visa_pytorch" / "candle"


@pytest.mark.parametrize("error", [URLError("no route"), TimeoutError("slow"), ValueError("hash"), RuntimeError("x")])
def test_failure_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch, error):
    def prepare(datamodule: str, root: Path, category: str) -> None:
        (root / "bottle" / "train").mkdir(parents=True)
        (root / "archive.tar.xz").write_bytes(b"half")
        raise error

    monkeypatch.setattr(download, "_prepare", prepare)
    with pytest.raises(DownloadError) as caught:
        download_dataset("mvtec_ad", out=tmp_path)
    assert names(tmp_path) == []
    assert "https://www.mvtec.com" in str(caught.value)
    assert str(tmp_path / "mvtec_ad" / "bottle" / "train" / "good") in str(caught.value)


def test_archive_without_the_category_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_prepare", lambda datamodule, root, category: root.mkdir())
    with pytest.raises(DownloadError, match="holds no bottle"):
        download_dataset("mvtec_ad", "bottle", out=tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("dataset", "module"), [("mvtec_ad", "mvtecad"), ("visa", "visa")])
def test_anomalib_is_asked_with_a_time_limit(tmp_path, monkeypatch, dataset, module):
    """anomalib's own prepare_data runs; only the opening of the connection is replaced."""
    asked = []

    def urlretrieve(url: str, filename: Path, reporthook) -> None:
        asked.append((url, socket.getdefaulttimeout(), Path(filename).parent.parent.parent))
        raise URLError("no network")

    monkeypatch.setattr("anomalib.data.utils.download.urlretrieve", urlretrieve)
    before = socket.getdefaulttimeout()
    with pytest.raises(DownloadError, match="no network"):
        download_dataset(dataset, out=tmp_path, timeout=7)
    assert socket.getdefaulttimeout() == before
    [(url, timeout, folder)] = asked
    assert url.startswith("https://") and timeout == 7 and folder == tmp_path
    assert names(tmp_path) == []


def test_mpdd_is_fetched_by_hand(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("no download")

    monkeypatch.setattr(urllib.request, "urlopen", never)
    with pytest.raises(DownloadError, match="browser only.*github.com/stepanje/MPDD.*tubes"):
        download_dataset("mpdd", "tubes", out=tmp_path)
    (tmp_path / "mpdd" / "tubes" / "train").mkdir(parents=True)
    assert download_dataset("mpdd", "tubes", out=tmp_path) == tmp_path / "mpdd" / "tubes"


def test_half_a_folder_put_there_by_hand_is_named(tmp_path):
    (tmp_path / "mvtec_ad").mkdir()
    with pytest.raises(DownloadError, match="exists but holds no bottle"):
        download_dataset("mvtec_ad", "bottle", out=tmp_path)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="known are: mvtec_ad, visa, mpdd"):
        download_dataset("imagenet", out=".")
    with pytest.raises(ValueError, match="no category 'bottel'; choose one of: bottle"):
        download_dataset("mvtec_ad", "bottel", out=".")


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "_prepare", unpack())
    assert main(["mvtec_ad", "cable", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "licence: CC BY-NC-SA 4.0" in out and f"in {tmp_path / 'mvtec_ad' / 'cable'}" in out

    assert main(["mpdd", "--out", str(tmp_path)]) == 1
    assert "browser only" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


# ------------------------------------------------------------------------------------------------------------- Roboflow


@pytest.fixture
def roboflow(monkeypatch):
    """A server that answers as Roboflow does; returns the paths it was asked for."""
    asked, here = [], Path(__file__)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr(
            "train/_annotations.coco.json", json.dumps({"images": [], "annotations": [], "categories": []})
        )

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            if self.path.startswith("/me/nuts/3/coco"):
                link = f"http://127.0.0.1:{server.server_port}/export.zip"
                body = json.dumps({"export": {"link": link}}).encode()
            elif self.path.startswith("/me/link/1/coco"):
                body = json.dumps({"export": {"link": here.as_uri()}}).encode()
            elif self.path.startswith("/me/sent/1/coco"):
                body = json.dumps({"export": {"link": f"http://127.0.0.1:{server.server_port}/sent"}}).encode()
            elif self.path == "/sent":
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1/export.zip")
                self.end_headers()
                return
            elif self.path.startswith("/me/slow/1/coco"):
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b" ")
                        time.sleep(0.02)
                return
            elif self.path == "/export.zip":
                body = archive.getvalue()
            else:
                self.send_error(401)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(download, "ROBOFLOW_API", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ROBOFLOW_API_KEY", "sec ret")
    yield asked
    server.shutdown()
    server.server_close()


def test_roboflow_export_is_unpacked_once(tmp_path, roboflow):
    folder = download.download_roboflow("me/nuts/3", out=tmp_path)
    assert folder == tmp_path / "nuts-3"
    assert (folder / "train" / "_annotations.coco.json").is_file()
    assert roboflow == ["/me/nuts/3/coco?api_key=sec%20ret", "/export.zip"]
    assert download.download_roboflow("me/nuts/3", out=tmp_path) == folder
    assert len(roboflow) == 2, "what is there is not fetched again"
    assert [path.name for path in tmp_path.iterdir()] == ["nuts-3"]


def test_roboflow_failure_leaves_nothing_and_keeps_the_key_to_itself(tmp_path, roboflow, capsys):
    assert download.main(["roboflow", "me/other/1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "me/other/1" in said and "401" in said and "sec ret" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["link", "sent", "slow"])
def test_roboflow_link_to_a_file_or_without_end_is_given_up(tmp_path, roboflow, name):
    started = time.monotonic()
    with pytest.raises(download.DownloadError, match={"link": "file", "sent": "ftp", "slow": "too long"}[name]):
        download.download_roboflow(f"me/{name}/1", out=tmp_path, limit=0.3)
    assert time.monotonic() - started < 5 and not list(tmp_path.iterdir())


def test_roboflow_needs_a_key_and_three_names(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBOFLOW_API_KEY", raising=False)
    with pytest.raises(download.DownloadError, match="ROBOFLOW_API_KEY"):
        download.download_roboflow("me/nuts/3", out=tmp_path)
    with pytest.raises(ValueError, match="WORKSPACE/PROJECT/VERSION"):
        download.download_roboflow("nuts", out=tmp_path)


# ---------------------------------------------------------------------------------------------------------------- DTD


def write_pictures(folder: Path, count: int) -> None:
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        (folder / "images" / f"{number}.jpg").write_bytes(b"")


def test_dtd_is_counted_before_it_is_called_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DTD_COUNT", 3)
    monkeypatch.setattr(download, "_fetch_dtd", lambda folder: write_pictures(folder, 3))
    assert main(["dtd", "--out", str(tmp_path)]) == 0
    assert names(tmp_path) == ["dtd"]
    (tmp_path / "dtd" / "images" / "0.jpg").unlink()
    with pytest.raises(DownloadError, match="holds 2 pictures, DTD has 3; remove the folder"):
        download.download_dtd(out=tmp_path)


@pytest.mark.parametrize("error", [URLError("no route"), TimeoutError("slow"), ValueError("hash")])
def test_a_failed_download_of_dtd_leaves_no_empty_folder(tmp_path, monkeypatch, capsys, error):
    def fetch(folder: Path) -> None:
        folder.mkdir()
        raise error

    monkeypatch.setattr(download, "_fetch_dtd", fetch)
    assert main(["dtd", "--out", str(tmp_path)]) == 1
    assert "ANOMALY_SOURCE=builtin:" in capsys.readouterr().err
    assert names(tmp_path) == []
