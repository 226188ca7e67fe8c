"""Speed as ratios to the stock library, measured in the same run: ``make bench``, or ``python -m benchmarks.speed``.

Each measurement runs in a process of its own, so that peak memory is its own. Results go to ``artifacts/bench``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from benchmarks.stock import STOCK, stock_difference, stock_inferencer
from helpers.analysis.metrics import evaluate
from helpers.analysis.sizing import measure_defects
from helpers.compute import time_stages
from helpers.data.datamodule import SampleDataModule
from helpers.data.formats import read_dataset
from helpers.data.images import read_image
from helpers.data.samples import assign_splits, write_table
from helpers.inference.clips import ClipWriter, open_source
from helpers.inference.export import export_run
from helpers.inference.exported import FORMATS
from helpers.inference.frames import judge_video
from helpers.inference.predictor import Predictor
from helpers.inference.train import train
from helpers.models.backbones import resolve_backbone
from helpers.models.catalog import build_model
from helpers.models.coreset import k_center_greedy
from helpers.paths import PROJECT_ROOT, write_csv, write_json
from helpers.pipeline import ensure_dataset
from helpers.progress import quiet_libraries
from helpers.runs import Run, open_run
from helpers.session import installed_versions
from helpers.studies.export import compare_backends, judges
from helpers.thresholds import held_out_thresholds

N_PATCHES, N_CHANNELS = 204_800, 128
RATIOS, LARGE_RATIO, TIMED_PICKS = (0.005, 0.01), 0.1, 300
FIT_RATIO, BATCH_SIZE, IMAGE_SIZE = 0.01, 4, 256
N_SIZING_MAPS = 1000
SAME = 1e-3  # difference of scores as a share, up to which two results count as the same
CLIP_FRAMES, CLIP_SIZE = 120, (640, 360)  # of the video: frames; width and height in pixels
VIDEO = f"video, {CLIP_FRAMES} frames of {CLIP_SIZE[0]}x{CLIP_SIZE[1]}"
BENCH_FOLDER = PROJECT_ROOT / "artifacts" / "bench"

Result = dict[str, float]


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def patch_features() -> torch.Tensor:
    """Features like those of patches, (204,800, 128) float32: 12 hidden factors, mixed, rectified, with noise."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(N_PATCHES, 12, generator=generator) @ torch.randn(12, N_CHANNELS, generator=generator)
    return torch.relu(factors + 0.3 * torch.randn(N_PATCHES, N_CHANNELS, generator=generator))


def coreset_ours(ratio: float) -> Result:
    features = patch_features()
    return {"seconds": seconds(lambda: k_center_greedy(features, int(N_PATCHES * ratio)))}


def coreset_stock(ratio: float, timed_picks: int = 0) -> Result:
    """anomalib's selection; with ``timed_picks`` the rest is extrapolated: each pick costs the same."""
    from anomalib.models.components import KCenterGreedy

    features, n_picks = patch_features(), int(N_PATCHES * ratio)
    sampler = KCenterGreedy(features, (timed_picks or n_picks) / N_PATCHES)
    taken = seconds(sampler.select_coreset_idxs)
    if timed_picks:
        once = seconds(lambda: sampler.model.fit(features) and sampler.model.transform(features))
        taken = once + (taken - once) * n_picks / timed_picks
    return {"seconds": taken}


def bench_dataset() -> pd.DataFrame:
    return assign_splits(read_dataset(ensure_dataset(PROJECT_ROOT / "datasets" / "mesh")))


def train_patchcore(folder: Path) -> Run:
    """PatchCore on the built-in mesh as notebook 02 trains it, with its thresholds from val."""
    table, backbone = bench_dataset(), resolve_backbone()
    settings = {"image_size": [IMAGE_SIZE, IMAGE_SIZE], "center_crop": None, "backbone": backbone.to_dict()}
    settings |= {"coreset_sampling_ratio": FIT_RATIO, "num_neighbors": 9}
    write_table(table, folder / "samples.csv")
    run = open_run(folder, "patchcore", settings, table, 0)
    if run.finished:
        return run
    model = build_model("patchcore", backbone, image_size=IMAGE_SIZE, coreset_sampling_ratio=FIT_RATIO)
    train(run, model, SampleDataModule(table, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE), device="cpu")
    return run.finish(held_out_thresholds(run.predictions("val")))


def fit_ours() -> Result:
    """PatchCore trained, calibrated and evaluated as notebooks 02 and 06 do."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train_patchcore(Path(folder))
        image, pixel = run.thresholds["image"], run.thresholds["pixel"]
        measured = evaluate(run.predictions("test"), run.maps("test"), run.masks("test"), image, pixel, n_bootstrap=10)
        return {"seconds": time.perf_counter() - started, "image_auroc": measured.overall["image_auroc"]}


def fit_stock() -> Result:
    """anomalib's own Patchcore, trained (with its validation) and tested: same backbone, photos, batches and ratio."""
    from anomalib.engine import Engine
    from anomalib.models import Patchcore

    table, backbone = bench_dataset(), resolve_backbone()
    weights = {"backbone": backbone.name, "layers": list(backbone.layers), "pre_trained": backbone.pretrained}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        model = Patchcore(**weights, coreset_sampling_ratio=FIT_RATIO, visualizer=False)
        data = SampleDataModule(table, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE)
        engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False)
        engine.fit(model, datamodule=data)
        results = engine.test(model, datamodule=data, verbose=False)
        return {"seconds": time.perf_counter() - started, "image_auroc": results[0]["image_AUROC"]}


def sizing_maps() -> list[np.ndarray]:
    """1,000 anomaly maps (256, 256) float32 with five soft, turned ellipses each; the same 50 over and over."""
    rng, maps = np.random.default_rng(0), []
    for _ in range(50):
        picture = np.zeros((256, 256), np.float32)
        for number in range(5):
            centre, axes = (int(rng.integers(20, 236)), 30 + 45 * number), (int(rng.integers(6, 18)), 6)
            cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        maps.append(cv2.GaussianBlur(picture, (0, 0), 1) + rng.normal(0, 0.05, picture.shape).astype(np.float32))
    return maps * (N_SIZING_MAPS // len(maps))


def sizing_ours() -> Result:
    """`measure_defects` with its defaults, morphology on, on one core."""
    cv2.setNumThreads(1)
    maps = sizing_maps()
    return {"seconds": seconds(lambda: pd.concat([measure_defects(each, 0.5, 0.05, "mm") for each in maps]))}


def sizing_stock() -> Result:
    """The plain way: scikit-image's morphology, and for each defect a mask of its own and regionprops."""
    from skimage.measure import label, regionprops
    from skimage.morphology import closing, disk, opening

    names = "area perimeter_crofton equivalent_diameter_area feret_diameter_max axis_major_length axis_minor_length "
    names = (names + "orientation solidity centroid bbox intensity_mean intensity_max").split()
    maps, rows = sizing_maps(), []
    started = time.perf_counter()
    for picture in maps:
        labels = label(closing(opening(picture > 0.5, disk(1)), disk(1)), connectivity=2)
        for number in range(1, labels.max() + 1):
            (region,) = regionprops((labels == number).astype(int), picture)
            if region.area >= 10:
                rows.append({name: getattr(region, name) for name in names})
    pd.DataFrame(rows)
    return {"seconds": time.perf_counter() - started}


def draw_clip(path: Path) -> Path:
    """A video of the mesh's test photos, one a frame, H.264."""
    table = bench_dataset()
    photos = table["image_path"][table["split"] == "test"].tolist()
    with ClipWriter(path, 30) as clip:
        for number in range(CLIP_FRAMES):
            photo = read_image(photos[number * len(photos) // CLIP_FRAMES])
            clip.write(cv2.resize(photo, CLIP_SIZE), number / 30)
    return path


def video_ours(backend: str) -> Result:
    """`judge_video`: decode, score, map, sizes, overlay with text, H.264, and a CSV row a frame."""
    run = train_patchcore(BENCH_FOLDER)
    if backend != "torch":
        export_run(run, (backend,))
    with tempfile.TemporaryDirectory() as folder:
        source, predictor = open_source(draw_clip(Path(folder) / "clip.mp4")), Predictor(run, backend, device="cpu")
        predictor.predict(np.zeros((64, 64, 3), np.uint8))  # as the plain loop: the first photo is not timed
        taken = seconds(lambda: judge_video(source, Path(folder) / "judged.mp4", predictor))
    return {"seconds": taken, "frames_per_second": CLIP_FRAMES / taken}


def video_stock() -> Result:
    """The plain loop: OpenCV reads and writes (MPEG-4), anomalib's inferencer judges; no sizes, no table."""
    run = train_patchcore(BENCH_FOLDER)
    low, high = run.thresholds["pixel"].value / 2, run.thresholds["pixel"].value * 2
    with tempfile.TemporaryDirectory() as folder, stock_inferencer(run) as judge:
        clip = cv2.VideoCapture(str(draw_clip(Path(folder) / "clip.mp4")))
        out = cv2.VideoWriter(str(Path(folder) / "judged.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, CLIP_SIZE)
        judge.predict(np.zeros((64, 64, 3), np.uint8))
        started = time.perf_counter()
        while (read := clip.read())[0]:
            frame = read[1]
            judged = judge.predict(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            shares = np.clip((judged.anomaly_map.squeeze().numpy() - low) / (high - low), 0, 1)
            colours = cv2.applyColorMap((255 * cv2.resize(shares, CLIP_SIZE)).astype(np.uint8), cv2.COLORMAP_JET)
            out.write(cv2.addWeighted(frame, 0.6, colours, 0.4, 0))
        out.release()
        taken = time.perf_counter() - started
    return {"seconds": taken, "frames_per_second": CLIP_FRAMES / taken}


COMPARISONS: dict[str, tuple[Callable[[], Result], Callable[[], Result]]] = {
    **{f"coreset {r:.1%}": (partial(coreset_ours, r), partial(coreset_stock, r)) for r in RATIOS},
    f"coreset {LARGE_RATIO:.1%} (anomalib: {TIMED_PICKS} picks timed, extrapolated)": (
        partial(coreset_ours, LARGE_RATIO),
        partial(coreset_stock, LARGE_RATIO, TIMED_PICKS),
    ),
    "PatchCore end to end": (fit_ours, fit_stock),
    "sizes on 1,000 maps": (sizing_ours, sizing_stock),
    VIDEO: (partial(video_ours, "torch"), video_stock),
    f"{VIDEO}, OpenVINO": (partial(video_ours, "openvino"), video_stock),
}


def measure(name: str, side: int) -> dict[str, Any]:
    """One side of a comparison in a process of its own; its seconds and peak memory come back."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", name, str(side)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT_ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"The measurement {name!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare() -> pd.DataFrame:
    """Measure everything; one row a comparison with seconds, ratio and peak memory of both."""
    rows = []
    for name in COMPARISONS:
        both = {"ours": measure(name, 0), "stock": measure(name, 1)}
        row = {"what": name} | {f"{side}_seconds": found["seconds"] for side, found in both.items()}
        row["times_faster"] = row["stock_seconds"] / row["ours_seconds"]
        row |= {f"{side}_peak_gib": found["peak_bytes"] / 2**30 for side, found in both.items()}
        for key in ("image_auroc", "frames_per_second"):
            row |= {f"{side}_{key}": found.get(key) for side, found in both.items()}
        rows.append(row)
        print(f"{name}: {row['times_faster']:.1f} times faster ({row['ours_seconds']:.1f} s)", flush=True)
    return pd.DataFrame(rows)


def export_table(run: Run, n_photos: int = 40, rounds: int = 5) -> pd.DataFrame:
    """From file to verdict, one photo at a time, in rounds that alternate: every backend of a run, and anomalib's own
    inferencer, whose scores must be the same; what each export costs on all test photos."""
    export_run(run, FORMATS)
    test = run.predictions("test")
    timed = test["image_path"].tolist()[:: max(1, len(test) // n_photos)][:n_photos]
    if (difference := stock_difference(run, timed[:8])) > SAME:
        raise RuntimeError(f"{STOCK} and this run differ by {difference:.2g} of the score; they must be the same.")
    with stock_inferencer(run) as judge:
        stock = {STOCK: lambda batch: [judge.predict(photo) for _, photo in batch]}
        contest, photos = stock | judges(run), [(path, read_image(path)) for path in timed]
        times = pd.concat([time_stages(contest, photos, (1,)) for _ in range(rounds)])
    speed = times.groupby("stage", sort=False, as_index=False).median().astype(times.dtypes)
    speed["times_faster"] = speed["median_ms"].iloc[0] / speed["median_ms"]
    cost = compare_backends(run, test["image_path"].tolist(), test["label_index"].tolist())
    table = speed.merge(cost.drop(columns="model"), left_on="stage", right_on="backend", how="left")
    return table.drop(columns="backend")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure all, print and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    quiet_libraries()
    if options.measure:
        name, side = options.measure
        result = COMPARISONS[name][int(side)]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({**result, "peak_bytes": peak}))
        return
    about = {"patches": N_PATCHES, "channels": N_CHANNELS, "backbone": resolve_backbone().to_dict()}
    about |= {"dataset": "datasets/mesh", "batch_size": BATCH_SIZE, "versions": installed_versions()}
    for file, measured in (("bench.csv", compare), ("export.csv", lambda: export_table(train_patchcore(BENCH_FOLDER)))):
        table = measured()
        write_csv(table, BENCH_FOLDER / file)
        write_json(about, BENCH_FOLDER / "bench.json")
        print(f"\n{table.to_string(index=False, float_format='%.4g')}\n\n{BENCH_FOLDER / file}\n", flush=True)


if __name__ == "__main__":
    main()
