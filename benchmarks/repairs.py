"""A/B of DRAEM and GLASS as anomalib has them against ours, repaired, on the same photos with the same budget.

    python -m benchmarks.repairs --dataset PATH --source FOLDER --backbone local-dir:PATH --steps 1500 --seeds 0 1

Both arms of a model have the same narrow network, learning rate, photos, order of photos, textures and number of steps,
and are measured on the same test photos by the weights of the last step. A finished arm is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from helpers import read_dataset
from helpers.analysis.metrics import evaluate
from helpers.data.datamodule import SampleDataModule
from helpers.data.samples import assign_splits
from helpers.inference.train import train
from helpers.models.backbones import Backbone, resolve_backbone
from helpers.models.catalog import build_model, network_frame
from helpers.paths import dataset_folder, project_path, write_csv
from helpers.pictures.anomaly_source import AnomalySource, resolve_anomaly_source
from helpers.runs import Run, open_run
from helpers.thresholds import held_out_thresholds

if TYPE_CHECKING:
    from anomalib.models import AnomalibModule

SIZE = 128  # pixels
BATCH_SIZE = 4  # small, so that a budget of minutes has many steps
WIDTH = 16  # of DRAEM's first convolution; 128 in the paper, and half of it in the second network
LEARNING_RATE = {"draem": 1e-3, "glass": 1e-4}  # the narrow DRAEM learns too little at the paper's 1e-4 in so few steps
# channels of GLASS's features and width of its discriminator; 1536 and 1024 in the paper
GLASS_WIDTHS = {"pretrain_embed_dim": 256, "target_embed_dim": 256, "discriminator_hidden": 256}
ARMS = ("stock", "repaired")


def stock_model(name: str, backbone: Backbone, source: AnomalySource, distribution: str) -> AnomalibModule:
    """anomalib's own model, narrowed; it has no option for the distribution."""
    from anomalib.models import Draem, Glass
    from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork

    common = {"post_processor": False, "evaluator": False, "visualizer": False}
    if name == "glass":
        common |= {"backbone": backbone.name, "layers": list(backbone.layers), "learning_rate": LEARNING_RATE[name]}
        frame = {"input_shape": (SIZE, SIZE), "pre_processor": Glass.configure_pre_processor((SIZE, SIZE))}
        return Glass(anomaly_source_path=source.folder, **frame, **GLASS_WIDTHS, **common)

    class Narrow(Draem):
        """anomalib's DRAEM with this budget's learning rate."""

        def configure_optimizers(self) -> Any:
            optimizers, schedules = super().configure_optimizers()
            for group in optimizers[0].param_groups:
                group["lr"] = group["initial_lr"] = LEARNING_RATE["draem"]
            schedules[0].base_lrs = [LEARNING_RATE["draem"]]
            return optimizers, schedules

    model = Narrow(source.folder, pre_processor=Draem.configure_pre_processor((SIZE, SIZE)), **common)
    model.model.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=WIDTH)
    model.model.discriminative_subnetwork = DiscriminativeSubNetwork(6, 2, base_width=WIDTH // 2)
    return model


def repaired_model(name: str, backbone: Backbone, source: AnomalySource, distribution: str) -> AnomalibModule:
    """Ours, as narrow."""
    common = {"image_size": SIZE, "anomaly_source": source.folder, "learning_rate": LEARNING_RATE[name]}
    if name == "draem":
        return build_model(name, None, base_width=WIDTH, discriminative_width=WIDTH // 2, **common)
    return build_model(name, backbone, distribution=distribution, **GLASS_WIDTHS, **common)


def train_arm(
    folder: Path, arm: tuple[str, str, int], table: pd.DataFrame, budget: dict[str, Any], **parts: Any
) -> Run:
    """One arm (model, arm, seed), trained to the end of the epoch in which it reaches the budget's steps, or found.

    ``budget`` is steps and Lightning's precision; ``parts`` backbone, source and distribution.
    """
    (name, kind, seed), precision = arm, budget["precision"]
    epochs = math.ceil(budget["steps"] / math.ceil((table["split"] == "train").sum() / BATCH_SIZE))
    settings = network_frame(SIZE) | {"scheme": "one_class", "epochs": epochs, "eval_epochs": 5, "precision": precision}
    settings |= {"arm": kind}
    settings |= {part: value if isinstance(value, str) else value.to_dict() for part, value in parts.items()}
    run = open_run(folder, f"{name}_{kind}_{seed}", settings, table, seed)
    if run.finished:
        return run
    torch.manual_seed(seed)
    model = (stock_model if kind == "stock" else repaired_model)(name, **parts)
    data = SampleDataModule(table, train_batch_size=BATCH_SIZE, eval_batch_size=16, seed=seed)
    train(run, model, data, device="cpu")
    return run.finish(held_out_thresholds(run.predictions("val"), start=0.5))


def compare(runs: dict[tuple[str, str, int], Run], n_bootstrap: int = 1000) -> pd.DataFrame:
    """One row an arm: image and pixel AUROC with 95 % bootstrap intervals, counts, seconds."""
    rows = []
    for (name, arm, seed), run in runs.items():
        found = evaluate(run.predictions("test"), run.maps("test"), run.masks("test"), n_bootstrap=n_bootstrap)
        row = {"model": name, "arm": arm, "seed": seed, "seconds": run.info["timings"]["fit_seconds"]}
        row |= {count: found.overall[count] for count in ("n_normal", "n_abnormal")}
        for metric in ("image_auroc", "pixel_auroc"):
            low, high = found.intervals.loc[metric, ["low", "high"]]
            row |= {metric: found.overall[metric], f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train what is missing, print and write the table."""
    from helpers.models.glass import judge_table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.repairs", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="folder with the photos")
    parser.add_argument("--source", default="builtin:", help="folder of textures (%(default)s)")
    parser.add_argument("--backbone", default="auto", help="of GLASS (%(default)s)")
    parser.add_argument("--models", nargs="+", default=["draem", "glass"], choices=["draem", "glass"])
    parser.add_argument("--steps", type=int, default=1500, help="training steps an arm (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--precision", default="32-true", help="Lightning's; mixed harms the stock DRAEM (%(default)s)")
    options = parser.parse_args(arguments)
    dataset = project_path(options.dataset).resolve()
    folder = dataset_folder("artifacts", dataset.name, "repairs")
    table, backbone = assign_splits(read_dataset(dataset)), resolve_backbone(options.backbone)
    source = resolve_anomaly_source(options.source, folder)
    glass = "glass" in options.models
    parts = {"backbone": backbone, "source": source}
    parts["distribution"] = judge_table(table, network_frame(SIZE))[0]["distribution"] if glass else ""
    print(json.dumps({name: getattr(part, "describe", lambda part=part: part)() for name, part in parts.items()}))
    for name in options.models:
        runs = {}
        for arm in [(name, kind, seed) for seed in options.seeds for kind in ARMS]:
            runs[arm] = train_arm(folder, arm, table, vars(options), **parts)
            so_far = compare(runs)
            write_csv(so_far, folder / f"repairs_{name}.csv")
            print(so_far.tail(1).to_string(index=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
