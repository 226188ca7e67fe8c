"""Shared fixtures: small photos drawn here, a tiny backbone with fixed random weights, and a finished run on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

# Nothing in the tests may wait for a network, draw a progress bar, or follow the settings of the shell they run in.
os.environ["HELPERS_HEADLESS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("BACKBONE", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from helpers.progress import quiet_libraries  # noqa: E402

quiet_libraries()

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
SHARED_BACKBONE = SHARED / "backbones" / "mobilenetv2_100"
HOSTILE = "<img src=x onerror=window.ran=1>"  # a class of the series' dataset
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SERIES_BACKBONE = f"local-dir:{SHARED_BACKBONE}" if SHARED_BACKBONE.is_dir() else "untrained:"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process of pytest-xdist is left alone with them at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_smoke.py", "test_nbval.py"))


def draw_photos(
    folder: Path, *, n_train: int = 8, n_good: int = 5, n_defect: int = 4, size: tuple[int, int] = (72, 96)
) -> Path:
    """A dataset in the MVTec layout: stripes with noise; a defect is a bright square, known exactly by its mask."""
    draw = np.random.default_rng(len(folder.name))

    def stripes() -> np.ndarray:
        wave = 100 + 40 * np.sin(np.arange(size[1]) / 4 + draw.uniform(0, 6))
        return np.clip(wave[None, :, None] + draw.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)

    def save(name: str, picture: np.ndarray) -> None:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)

    for kind, count in (("train", n_train), ("test", n_good)):
        for number in range(count):
            save(f"{kind}/good/{number:03d}.png", stripes())
    for number in range(n_defect):
        photo, mask = stripes(), np.zeros(size, np.uint8)
        top, left = draw.integers(0, size[0] - 20), draw.integers(0, size[1] - 20)
        square = slice(top, top + 20), slice(left, left + 20)
        photo[square], mask[square] = 250, 255
        save(f"test/square/{number:03d}.png", photo)
        save(f"ground_truth/square/{number:03d}_mask.png", mask)
    return folder


def split_table(folder: Path, **options: float) -> pd.DataFrame:
    """The table of a dataset with its splits, as notebook 01 makes it."""
    from helpers import read_dataset
    from helpers.data.samples import assign_splits

    photos = read_dataset(folder)
    photos.attrs["source"] = str(folder)
    return assign_splits(photos, "one_class", **{"val_fraction": 0.4, **options})


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """8 training photos, 5 good and 4 damaged ones for testing; do not change it."""
    return draw_photos(tmp_path_factory.mktemp("data") / "stripes")


@pytest.fixture(scope="session")
def textures(tmp_path_factory) -> str:
    """A folder of three pictures of noise: what invented defects are made of."""
    folder, draw = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return str(folder)


@pytest.fixture(scope="session")
def table(photos) -> pd.DataFrame:
    """Its table: 5 train, 3 val, 9 test."""
    return split_table(photos)


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory) -> Path:
    """A tiny ResNet (0.5 million random weights, always the same) in timm's local-folder format."""
    import timm

    folder = tmp_path_factory.mktemp("backbone")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", pretrained=False)
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def make_model(backbone_folder) -> Callable:
    """PatchCore on the tiny backbone: ``make_model(image_size=64, layers=(...), ...)``."""
    from helpers.models.backbones import resolve_backbone
    from helpers.models.catalog import build_model

    def build(layers: tuple[str, ...] = (), **parameters):
        backbone = resolve_backbone(f"local-dir:{backbone_folder}", layers)
        return build_model("patchcore", backbone, **{"image_size": 64, "coreset_sampling_ratio": 0.1, **parameters})

    return build


@pytest.fixture(scope="session")
def settings(backbone_folder) -> dict:
    """Parameters that a run of :func:`make_model` is opened with."""
    from helpers.models.backbones import resolve_backbone

    frame = {"image_size": [64, 64], "center_crop": [48, 56], "coreset_sampling_ratio": 0.1, "num_neighbors": 9}
    backbone = resolve_backbone(f"local-dir:{backbone_folder}").to_dict()
    return json.loads(json.dumps(frame | {"backbone": backbone}))  # as a run gives them back


@pytest.fixture(scope="session")
def fit_run(make_model) -> Callable:
    """Train a draft on the tiny backbone and finish it, with thresholds from val."""
    from helpers.data.datamodule import SampleDataModule
    from helpers.inference.train import train
    from helpers.runs import Run
    from helpers.thresholds import conformal_threshold

    def fit(draft: Run) -> Run:
        parameters = draft.info["parameters"]
        frame = {name: parameters[name] and tuple(parameters[name]) for name in ("image_size", "center_crop")}
        model = make_model(coreset_sampling_ratio=parameters["coreset_sampling_ratio"], **frame)
        train(draft, model, SampleDataModule(draft.table, train_batch_size=4, eval_batch_size=4), device="cpu")
        normal = draft.predictions("val").query("label_index == 0")
        image = conformal_threshold(normal["score"], 0.75)
        return draft.finish({"image": image, "pixel": conformal_threshold(normal["map_max"], 0.75, kind="pixel")})

    return fit


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory, table, settings, fit_run) -> Path:
    """A dataset's artifacts folder with the sample table and a finished run; copy it before changing it."""
    from helpers.data.samples import write_table
    from helpers.runs import open_run

    folder = tmp_path_factory.mktemp("artifacts") / "stripes" / "smoke"
    write_table(table, folder / "samples.csv")
    fit_run(open_run(folder, "patchcore", settings, table, seed=0, note="untrained backbone"))
    return folder


@pytest.fixture(scope="session")
def small_mesh(tmp_path_factory) -> Path:
    """60 training photos of 128 x 128 pixels, 12 good and 3 of each of 4 defects for testing, one badly named."""
    from helpers.pictures.datasets import draw_dataset

    out = tmp_path_factory.mktemp("datasets")
    mesh = draw_dataset("mesh", out, image_size=128, pixel_size=0.1, n_train=60, n_test_normal=12, n_test_per_defect=3)
    for folder in (mesh / "test", mesh / "ground_truth"):
        (folder / "hole").rename(folder / HOSTILE)
    return mesh


@pytest.fixture(scope="session")
def small_nuts(tmp_path_factory) -> Path:
    """60 training photos of single nuts, 8 good ones and 3 of each defect for testing, and 8 raw frames."""
    from helpers.pictures.datasets import draw_dataset

    out = tmp_path_factory.mktemp("nuts")
    return draw_dataset("nuts", out, image_size=128, n_train=60, n_test_normal=8, n_test_per_defect=3, n_frames=8)


@pytest.fixture(scope="session")
def series_settings(small_nuts) -> list[str]:
    """Parameters for all runs; raw frames of nuts to cut out are among them."""
    return [f"BACKBONE={SERIES_BACKBONE}", "DEVICE=cpu", f"FRAMES={small_nuts / 'frames'}"]


@pytest.fixture(scope="module")
def browser():
    """Chromium, headless; tests that need it are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser, file: Path) -> str:
    """The text of a page, after it was looked at and clicked on: it has run nothing and asked nobody."""
    page, asked, stopped = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: stopped.append(request.url) if request.failure == "csp" else None)
    page.goto(file.as_uri())
    page.locator("th").evaluate_all("heads => heads.forEach(head => head.click())")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert [url for url in asked if not url.startswith(("file:", "data:")) and url not in stopped] == []
    text = page.locator("body").inner_text()
    page.close()
    return text


@pytest.fixture
def tf32_seen(monkeypatch) -> set[bool]:
    """Whether convolutions that ran since could take TF32: a set of True, False or both."""
    seen, forward = set(), torch.nn.Conv2d.forward

    def noted(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.add(torch.backends.cudnn.allow_tf32)
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    return seen


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_notebook(file: Path, parameters: str, code: str) -> None:
    """A title, a cell of parameters, and one of code."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {file.stem}"),
        nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code.strip()),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), file)


BOTH = """
DATASET: str = ""  # photos
NAME: str = ""  # name
PROFILE: str = "quick"  # profile
ARTIFACTS: str = "artifacts"  # results
COUNT: int = 1  # how many
"""
FIRST_PARAMETERS = (
    BOTH
    + """
BACKBONE: str = "auto"  # weights
FLAG: bool = True  # yes or no
RATIO: float = 0.5  # share
LAYERS: list = []  # names
"""
)
SECOND_PARAMETERS = (
    BOTH
    + """
LABEL: str = "x"  # text
MODE: str = "good"  # good, fail or die
"""
)
FIRST_CODE = """
import json
from pathlib import Path

folder = Path(ARTIFACTS) / (NAME or Path(DATASET).name) / PROFILE
found = {"count": COUNT, "flag": FLAG, "ratio": RATIO, "layers": LAYERS, "backbone": BACKBONE}
(folder / "first.json").write_text(json.dumps(found))
"""
SECOND_CODE = r"""
import os
from pathlib import Path

folder = Path(ARTIFACTS) / (NAME or Path(DATASET).name) / PROFILE
if MODE == "fail":
    raise ZeroDivisionError("no photos to divide by")
if MODE == "die":
    os._exit(3)
rest = f"{COUNT},one_class,10,3.5"
rows = f"patchcore,{0.5 + len(Path(DATASET).name) / 100},{rest}\nother,0.25,{rest}"
header = "model,image_auroc,fit_seconds,scheme,n_test_normal,threshold"
(folder / "leaderboard.csv").write_text(f"{header}\n{rows}\n")
print("headless", os.environ.get("HELPERS_HEADLESS"), Path.cwd().name)
"""


@pytest.fixture
def small_series(tmp_path) -> Path:
    """A folder with two small notebooks and a profile; 02 reads what 01 leaves."""
    folder = tmp_path / "notebooks"
    (folder / "params").mkdir(parents=True)
    write_notebook(folder / "01_first.ipynb", FIRST_PARAMETERS, FIRST_CODE)
    write_notebook(folder / "02_second.ipynb", SECOND_PARAMETERS, SECOND_CODE)
    (folder / "params" / "quick.yml").write_text("all:\n  PROFILE: quick\n01_first:\n  COUNT: 5\n")
    return folder
