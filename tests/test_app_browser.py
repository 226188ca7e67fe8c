"""The inspection page in a real browser: Voilà serves it, Chromium drops photos on it and downloads what it gives."""

import base64
import http.client
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import CHROMIUM, REPOSITORY
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; tests/test_app.py tests the page without a browser"),
]
PATIENCE = 90_000  # ms: a busy machine may take long to import the libraries
DROP = """([name, kind, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: kind}));
  document.querySelector(".insp-drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
}"""
SIEGE = """async page => { for (let n = 0; n < 9; n++) {
  new Image().src = page + "?" + n;
  document.body.append(Object.assign(document.createElement("iframe"), {src: page}));
  await fetch(page, {mode: "no-cors", credentials: "include"}).catch(() => 0);
} }"""


class Server(NamedTuple):
    url: str  # with the token
    process: subprocess.Popen

    @property
    def base(self) -> str:
        return self.url.split("?")[0]

    def ask(self, path: str = "/", **headers: str) -> int:
        """The status that a request gets; redirections are not followed."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE / 1000)
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status

    def kernels(self) -> int:
        return len(psutil.Process(self.process.pid).children())


@pytest.fixture(scope="module")
def server(finished_folder, photos, tmp_path_factory) -> Iterator[Server]:
    """Voilà with a finished run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "helpers.views.app.serve", "--port", str(port), "--dataset", str(photos)]
    command += ["--profile", "smoke", "--artifacts", str(finished_folder.parents[1]), "--set", "DEVICE=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython"))}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, **options) as process:
        try:
            said = []
            while not said or not said[-1].startswith("http://"):
                said.append(process.stdout.readline())
                assert said[-1], f"Voilà has not started: {said}"
            threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never waits for a reader
            yield Server(said[-1].strip(), process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def send(page, *files: dict | str) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(".insp-upload")
    chooser.value.set_files(list(files))


def download(page, words: str) -> tuple[str, io.BytesIO]:
    with page.expect_download() as waiting:
        page.click(f".insp-downloads a:has-text('{words}')")
    return waiting.value.suggested_filename, io.BytesIO(Path(waiting.value.path()).read_bytes())


def assert_laid_out(page, width: int) -> None:
    """Nothing sticks out, and what is beside each other does not overlap."""
    page.set_viewport_size({"width": width, "height": 900})
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], f"a horizontal scroll bar at {width} px"
    names = (".insp-left", ".insp-right", ".insp-picture", ".insp-verdict")
    left, right, picture, verdict = (page.locator(name).bounding_box() for name in names)
    assert left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= width
    assert verdict["y"] + verdict["height"] <= picture["y"] and picture["x"] + picture["width"] <= width


def test_a_visit(server, browser, photos):
    page = browser.new_page(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    asked, problems = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    verdict = page.locator(".insp-verdict")
    page.goto(server.url)
    page.get_by_text("No photo yet").wait_for()
    assert page.title() == "Inspection" and page.locator("pre, .jp-InputArea:visible").count() == 0, "no code is shown"

    # one photo is chosen, as soon as the page is there
    damaged = photos / "test" / "square" / "000.png"
    send(page, str(damaged))
    verdict.get_by_text("000.png").wait_for()

    # the threshold moves, and the verdict follows
    handle = page.locator(".insp-threshold .noUi-handle").first
    for key, words in (("Home", "✕ DEFECT"), ("End", "? OK")):
        handle.press(key)
        verdict.get_by_text(words).wait_for()
    before = page.get_attribute(".insp-picture", "src")
    page.locator(".insp-opacity .noUi-handle").press("Home")
    page.wait_for_function("before => document.querySelector('.insp-picture').src !== before", arg=before)

    # what is downloaded is what is shown
    name, content = download(page, "PNG")
    assert name == "000_inspected.png"
    assert Image.open(content).size == (9 * 96, 9 * 72), "enlarged by a whole factor"
    name, content = download(page, "CSV")
    (verdicts,) = pd.read_csv(content)[["photo", "verdict", "origin"]].drop_duplicates().to_numpy().tolist()
    assert name == "inspection.csv" and verdicts == ["000.png", "OK", "moved by hand"]

    # a broken file gets a sentence; what comes with it goes on, also when it is larger than 10 MiB
    large, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (1900, 1900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large, format="BMP")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": damaged.read_bytes()[:300]}
    send(page, broken, {"name": "large.bmp", "mimeType": "image/bmp", "buffer": large.getvalue()})
    page.locator(".insp-problem").get_by_text("broken.png: is truncated").wait_for()
    verdict.get_by_text("large.bmp").wait_for()
    listed = page.locator(".insp-list option").all_inner_texts()
    assert large.tell() > 10 * 2**20 and [entry.split("·")[1].strip() for entry in listed] == ["000.png", "large.bmp"]

    # a photo is dropped, a sample is picked
    good = photos / "test" / "good" / "001.png"
    page.evaluate(DROP, ["dropped.png", "image/png", base64.b64encode(good.read_bytes()).decode()])
    verdict.get_by_text("dropped.png").wait_for()
    assert page.locator(".insp-problem").count() == 0, "what was refused before is over"
    page.locator(".insp-sample select").select_option(index=1)
    verdict.get_by_text("square/000.png").wait_for()

    for width in (1400, 800):
        assert_laid_out(page, width)
    assert not problems
    assert all(url.startswith((server.base, server.base.replace("http", "ws"), "data:", "blob:")) for url in asked)
    page.close()


def test_websites_and_other_users_get_nothing(server, browser):
    """A website in the same browser, also under a name that it turns to this machine, and who has no token."""
    login, refused, port = 302, 403, urlsplit(server.url).port
    token, before = "/?" + urlsplit(server.url).query, server.kernels()
    assert server.ask() == login and server.ask(Host=f"localhost:{port}") == login
    for host in (f"evil.example:{port}", "evil.example", "127.0.0.1.evil.example", "192.168.1.7"):
        assert server.ask(Host=host) == refused and server.ask(token, Host=host) == refused
    assert server.ask("/voila/files/10_inspection_app.ipynb") != 200

    visitor = browser.new_context()
    page, sockets = visitor.new_page(), []  # with the cookie of a person who has the page open
    page.set_default_timeout(PATIENCE)
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto(server.url)
    page.get_by_text("No photo yet").wait_for()
    assert server.kernels() == before + 1
    assert {one["sameSite"] for one in visitor.cookies() if one["name"] != "_xsrf"} == {"Strict"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Cookie"] = "; ".join(f"{one['name']}={one['value']}" for one in visitor.cookies())
    upgrade["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    channels = urlsplit(sockets[0]).path
    assert server.ask(channels, Origin="http://evil.example", **upgrade) == refused
    assert server.ask(channels, Origin=server.base.rstrip("/"), **upgrade) == 101
    other = visitor.new_page()
    other.route("http://evil.example/**", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    other.goto("http://evil.example/")
    other.evaluate(SIEGE, server.base)
    time.sleep(2)
    assert server.kernels() == before + 1
    page.goto("about:blank")  # a page that is left ends its kernel
    deadline = time.monotonic() + PATIENCE / 1000
    while server.kernels() > before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.kernels() == before
