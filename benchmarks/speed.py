"""Speed as ratios to the stock library, measured in the same run: ``make bench``, or ``python -m benchmarks.speed``.

Each measurement runs in a process of its own, so that peak memory is its own. Results go to ``artifacts/bench``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.models.backbones import resolve_backbone
from helpers.paths import PROJECT_ROOT, write_csv, write_json
from helpers.progress import quiet_libraries
from helpers.runs import Run, open_run
from helpers.session import installed_versions

N_PATCHES, N_CHANNELS = 204_800, 128
RATIOS = (0.005, 0.01)
LARGE_RATIO, TIMED_PICKS = 0.1, 300
FIT_RATIO = 0.01
BATCH_SIZE = 4
IMAGE_SIZE = 256
N_SIZING_MAPS = 1000
SIZING = "sizes on 1,000 maps"  # the stock way is scikit-image, one defect after the other
CLIP_FRAMES, CLIP_SIZE = 120, (640, 360)  # of the video: frames; width and height in pixels
VIDEO = f"video, {CLIP_FRAMES} frames of {CLIP_SIZE[0]}x{CLIP_SIZE[1]}"
BENCH_FOLDER = PROJECT_ROOT / "artifacts" / "bench"


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def patch_features() -> Any:
    """Features like those of patches, (204,800, 128) float32: 12 hidden factors, mixed, rectified, with noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(N_PATCHES, 12, generator=generator) @ torch.randn(12, N_CHANNELS, generator=generator)
    return torch.relu(factors + 0.3 * torch.randn(N_PATCHES, N_CHANNELS, generator=generator))


def coreset_ours(ratio: float) -> dict[str, float]:
    """Time the lazy selection."""
    from helpers.models.coreset import k_center_greedy

    features = patch_features()
    started = time.perf_counter()
    k_center_greedy(features, int(N_PATCHES * ratio))
    return {"seconds": time.perf_counter() - started}


def coreset_anomalib(ratio: float, timed_picks: int = 0) -> dict[str, float]:
    """Time anomalib's selection; with ``timed_picks`` only so many are timed, and the rest is extrapolated.

    Every pick costs anomalib the same, so the extrapolation is linear; its random projection is timed apart, once.
    """
    from anomalib.models.components import KCenterGreedy

    features = patch_features()
    n_picks = int(N_PATCHES * ratio)
    sampler = KCenterGreedy(features, (timed_picks or n_picks) / N_PATCHES)
    started = time.perf_counter()
    sampler.select_coreset_idxs()
    seconds = time.perf_counter() - started
    if timed_picks:
        started = time.perf_counter()
        sampler.model.fit(features)
        sampler.model.transform(features)
        once = time.perf_counter() - started
        seconds = once + (seconds - once) * n_picks / timed_picks
    return {"seconds": seconds}


def train_patchcore(folder: Path) -> Run:
    """Train PatchCore on the built-in mesh as notebook 02 does, with its thresholds from val."""
    from helpers.data.datamodule import SampleDataModule
    from helpers.data.samples import write_table
    from helpers.models.catalog import build_model
    from helpers.thresholds import held_out_thresholds

    table, backbone = _bench_dataset(), resolve_backbone()
    settings = {"image_size": [IMAGE_SIZE, IMAGE_SIZE], "center_crop": None, "backbone": backbone.to_dict()}
    settings |= {"coreset_sampling_ratio": FIT_RATIO, "num_neighbors": 9}
    write_table(table, folder / "samples.csv")
    run = open_run(folder, "patchcore", settings, table, 0)
    if run.finished:
        return run
    model = build_model("patchcore", backbone, image_size=IMAGE_SIZE, coreset_sampling_ratio=FIT_RATIO)
    run.fit(model, SampleDataModule(table, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE), device="cpu")
    return run.finish(held_out_thresholds(run.predictions("val")))


def fit_ours() -> dict[str, float]:
    """Train, calibrate and evaluate PatchCore as notebooks 02 and 06 do."""
    from helpers.analysis.metrics import evaluate

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train_patchcore(Path(folder))
        image, pixel = run.thresholds["image"], run.thresholds["pixel"]
        measured = evaluate(run.predictions("test"), run.test_maps(), run.test_masks(), image, pixel, n_bootstrap=10)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "image_auroc": measured.overall["image_auroc"]}


def fit_anomalib() -> dict[str, float]:
    """Train (with its validation) and test anomalib's own Patchcore: same backbone, photos, batches and ratio."""
    from anomalib.engine import Engine
    from anomalib.models import Patchcore

    from helpers.data.datamodule import SampleDataModule

    table, backbone = _bench_dataset(), resolve_backbone()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        model = Patchcore(
            backbone=backbone.name,
            layers=list(backbone.layers),
            pre_trained=backbone.pretrained,
            coreset_sampling_ratio=FIT_RATIO,
            visualizer=False,
        )
        data = SampleDataModule(table, train_batch_size=BATCH_SIZE, eval_batch_size=BATCH_SIZE)
        engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False)
        engine.fit(model, datamodule=data)
        results = engine.test(model, datamodule=data, verbose=False)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "image_auroc": results[0]["image_AUROC"]}


def _bench_dataset() -> pd.DataFrame:
    from helpers.data.formats import read_dataset
    from helpers.data.samples import assign_splits
    from helpers.pipeline import ensure_dataset

    return assign_splits(read_dataset(ensure_dataset(PROJECT_ROOT / "datasets" / "mesh")))


def sizing_maps() -> list[Any]:
    """1,000 anomaly maps (256, 256) float32 with five soft, turned ellipses each; the same 50 over and over."""
    import cv2
    import numpy as np

    draw = np.random.default_rng(0)
    maps = []
    for _ in range(50):
        picture = np.zeros((256, 256), np.float32)
        for number in range(5):
            centre, axes = (int(draw.integers(20, 236)), 30 + 45 * number), (int(draw.integers(6, 18)), 6)
            cv2.ellipse(picture, centre, axes, float(draw.uniform(0, 180)), 0, 360, 1.0, -1)
        maps.append(cv2.GaussianBlur(picture, (0, 0), 1) + draw.normal(0, 0.05, picture.shape).astype(np.float32))
    return maps * (N_SIZING_MAPS // len(maps))


def sizing_ours() -> dict[str, float]:
    """Time `measure_table` with its defaults, morphology on, on one core."""
    import cv2

    from helpers.analysis.sizing import measure_table

    cv2.setNumThreads(1)
    maps = sizing_maps()
    names = [str(number) for number in range(len(maps))]
    started = time.perf_counter()
    table = measure_table(maps, names, 0.5, 0.05, "mm")
    return {"seconds": time.perf_counter() - started, "n_defects": len(table)}


def sizing_plain() -> dict[str, float]:
    """Time the plain way: scikit-image's morphology, and for each defect a mask of its own and regionprops."""
    import pandas as pd
    from skimage.measure import label, regionprops
    from skimage.morphology import closing, disk, opening

    maps = sizing_maps()
    rows = []
    started = time.perf_counter()
    for name, picture in enumerate(maps):
        labels = label(closing(opening(picture > 0.5, disk(1)), disk(1)), connectivity=2)
        for number in range(1, labels.max() + 1):
            (region,) = regionprops((labels == number).astype(int), picture)
            if region.area >= 10:
                row = {
                    "image_path": name,
                    "area": region.area,
                    "perimeter": region.perimeter_crofton,
                    "equivalent_diameter": region.equivalent_diameter_area,
                    "length": region.feret_diameter_max,
                    "major_axis": region.axis_major_length,
                    "minor_axis": region.axis_minor_length,
                    "orientation": region.orientation,
                    "solidity": region.solidity,
                    "centroid": region.centroid,
                    "bbox": region.bbox,
                    "mean_score": region.intensity_mean,
                    "peak_score": region.intensity_max,
                }
                rows.append(row)
    return {"seconds": time.perf_counter() - started, "n_defects": len(pd.DataFrame(rows))}


def draw_clip(path: Path) -> Path:
    """A video of the mesh's test photos, one a frame, H.264."""
    import cv2

    from helpers.data.images import read_image
    from helpers.inference.clips import ClipWriter

    table = _bench_dataset()
    photos = table["image_path"][table["split"] == "test"].tolist()
    with ClipWriter(path, 30) as clip:
        for number in range(CLIP_FRAMES):
            photo = read_image(photos[number * len(photos) // CLIP_FRAMES])
            clip.write(cv2.resize(photo, CLIP_SIZE), number / 30)
    return path


def video_ours(backend: str) -> dict[str, float]:
    """Time `judge_video`: decode, score, map, sizes, overlay with text, H.264, and a CSV row a frame."""
    import numpy as np

    from helpers.inference.clips import open_source
    from helpers.inference.export import export_run
    from helpers.inference.predictor import Predictor
    from helpers.inference.video import judge_video

    run = train_patchcore(BENCH_FOLDER)
    if backend != "torch":
        export_run(run, (backend,))
    with tempfile.TemporaryDirectory() as folder:
        source, predictor = open_source(draw_clip(Path(folder) / "clip.mp4")), Predictor(run, backend, device="cpu")
        predictor.predict(np.zeros((64, 64, 3), np.uint8))  # as the plain loop: the first photo is not timed
        started = time.perf_counter()
        result = judge_video(source, Path(folder) / "judged.mp4", predictor)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "frames_per_second": result.n_judged / seconds}


def video_plain() -> dict[str, float]:
    """Time the plain loop: OpenCV reads and writes (MPEG-4), anomalib's inferencer judges; no sizes, no table."""
    import cv2
    import numpy as np

    from helpers.studies.export import stock_inferencer

    run = train_patchcore(BENCH_FOLDER)
    low, high = run.thresholds["pixel"].value / 2, run.thresholds["pixel"].value * 2
    with tempfile.TemporaryDirectory() as folder, stock_inferencer(run) as judge:
        clip = cv2.VideoCapture(str(draw_clip(Path(folder) / "clip.mp4")))
        out = cv2.VideoWriter(str(Path(folder) / "judged.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, CLIP_SIZE)
        judge.predict(np.zeros((64, 64, 3), np.uint8))
        started, n_frames = time.perf_counter(), 0
        while True:
            there, frame = clip.read()
            if not there:
                break
            found = judge.predict(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            shares = np.clip((found.anomaly_map.squeeze().numpy() - low) / (high - low), 0, 1)
            colours = cv2.applyColorMap((255 * cv2.resize(shares, CLIP_SIZE)).astype(np.uint8), cv2.COLORMAP_JET)
            out.write(cv2.addWeighted(frame, 0.6, colours, 0.4, 0))
            n_frames += 1
        out.release()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "frames_per_second": n_frames / seconds}


MEASUREMENTS: dict[str, Callable[[], dict[str, float]]] = {
    **{f"coreset {ratio:.1%}: ours": lambda ratio=ratio: coreset_ours(ratio) for ratio in (*RATIOS, LARGE_RATIO)},
    **{f"coreset {ratio:.1%}: stock": lambda ratio=ratio: coreset_anomalib(ratio) for ratio in RATIOS},
    f"coreset {LARGE_RATIO:.1%}: stock": lambda: coreset_anomalib(LARGE_RATIO, TIMED_PICKS),
    "PatchCore end to end: ours": fit_ours,
    "PatchCore end to end: stock": fit_anomalib,
    f"{SIZING}: ours": sizing_ours,
    f"{SIZING}: stock": sizing_plain,
    f"{VIDEO}: ours": lambda: video_ours("torch"),
    f"{VIDEO}: stock": video_plain,
    f"{VIDEO}, OpenVINO: ours": lambda: video_ours("openvino"),
    f"{VIDEO}, OpenVINO: stock": video_plain,
}


def measure(name: str) -> dict[str, Any]:
    """Run one measurement in a process of its own; its seconds and peak memory come back."""
    command = [sys.executable, "-m", "benchmarks.speed", "--measure", name]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT_ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"The measurement {name!r} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare() -> pd.DataFrame:
    """Measure everything; one row a comparison with seconds, ratio and peak memory of both."""
    rows = []
    for name in [name.removesuffix(": ours") for name in MEASUREMENTS if name.endswith(": ours")]:
        ours, theirs = measure(f"{name}: ours"), measure(f"{name}: stock")
        row = {
            "what": name
            + (f" (anomalib: {TIMED_PICKS} picks timed, extrapolated)" if f"{LARGE_RATIO:.1%}" in name else ""),
            "ours_seconds": ours["seconds"],
            "stock_seconds": theirs["seconds"],
            "times_faster": theirs["seconds"] / ours["seconds"],
            "ours_peak_gib": ours["peak_bytes"] / 2**30,
            "stock_peak_gib": theirs["peak_bytes"] / 2**30,
            "ours_image_auroc": ours.get("image_auroc"),
            "stock_image_auroc": theirs.get("image_auroc"),
            "ours_frames_per_second": ours.get("frames_per_second"),
            "stock_frames_per_second": theirs.get("frames_per_second"),
        }
        rows.append(row)
        print(f"{name}: {row['times_faster']:.1f} times faster ({row['ours_seconds']:.1f} s)", flush=True)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--measure", choices=sorted(MEASUREMENTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        quiet_libraries()
        result = MEASUREMENTS[options.measure]()
        print(json.dumps({**result, "peak_bytes": peak_memory()}))
        return 0
    table = compare()
    write_csv(table, BENCH_FOLDER / "bench.csv")
    about = {
        "patches": N_PATCHES,
        "channels": N_CHANNELS,
        "backbone": resolve_backbone().to_dict(),
        "dataset": "datasets/mesh",
        "batch_size": BATCH_SIZE,
        "versions": installed_versions(),
    }
    write_json(about, BENCH_FOLDER / "bench.json")
    print(f"\n{table.to_string(index=False, float_format='%.3g')}\n\n{BENCH_FOLDER / 'bench.csv'}\n", flush=True)
    return subprocess.run([sys.executable, "-m", "benchmarks.export_speed"], check=False, cwd=PROJECT_ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
