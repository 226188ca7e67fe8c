"""Known and unknown classes: what tells that a photo is like none of a classifier's, and how well that works.

It is measured by hiding classes, over fixed splits of them, one stage against two:

- One stage: a classifier of the known classes; unknown is what lies far from all of them (Mahalanobis distance above
  tau, and if asked a confidence below kappa).
- Two stages: PatchCore lets go what it does not flag; the same classifier names what it flags, or calls it unknown,
  also where it would name it good: the stages contradict each other then.

A split has a folder: ``classifier/`` (the run), ``osr/`` (open_set.npz, thresholds.json, scores.csv), ``cascade/``
(verdicts.csv) and ``metrics.json``: all of it in numbers, written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.classes import (
    UNKNOWN,
    accepted_shares,
    confusion_table,
    decide,
    learnable_classes,
    open_set_report,
    open_set_thresholds,
)
from helpers.analysis.intervals import share_columns
from helpers.compute import synchroniser, time_stages, torch_device
from helpers.data.images import read_image
from helpers.data.known_unknown import ClassSplit, open_set_table, read_split, rotating_splits
from helpers.data.samples import NORMAL, supervised_table
from helpers.inference.predictor import Predictor
from helpers.inference.stages import THRESHOLDS_FILE
from helpers.inference.train import classifier_thresholds, train_classifier
from helpers.models.backbones import Backbone
from helpers.models.classifier import Classifier, grad_cam, load_classifier, photo_classes
from helpers.models.open_set import METHODS, OPEN_SET_FILE, MahalanobisScorer, unknown_scores
from helpers.paths import PROJECT_ROOT, project_path, write_csv, write_json
from helpers.runs import Run
from helpers.studies.gate import Gate
from helpers.thresholds import Threshold, exceeds

NO_DEFECT = "no_defect"
METRICS_FILE = "metrics.json"
UNKNOWN_BY = ("distance", "confidence", "both")
SPLITS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "open_set"
ONE_STAGE, TWO_STAGES = "one stage", "two stages"

# ----------------------------------------------------------------------------------------- around a trained classifier


def leave_open_set(
    run: Run, folder: Path, accept: float = 0.95
) -> tuple[MahalanobisScorer, dict[str, Threshold], pd.DataFrame]:
    """Fit the distance of a classifier's embeddings on train, set tau and kappa on val, and write what
    `helpers.inference.stages.OpenSet` reads. Test shows what they accept; photos of unknown classes have no part in it.
    """
    embeddings, confidence, names = {}, {}, {}
    for split in ("train", "val", "test"):
        rows = run.predictions(split)
        found = photo_classes(rows, run.info["parameters"]["binary"])
        known = found.isin(run.info["parameters"]["classes"]).to_numpy()
        values = _embeddings(run, split) if len(rows) else np.empty((0, embeddings["train"].shape[1]))
        embeddings[split], confidence[split] = values[known], rows["confidence"].to_numpy(dtype=float)[known]
        names[split] = found[known].tolist()
    if not names["val"]:
        raise ValueError("val holds no photo of a known class: no threshold can be set for what is unknown.")
    scorer = MahalanobisScorer.fit(embeddings["train"], names["train"])
    distances = {split: scorer.scores(embeddings[split]) for split in ("val", "test")}
    thresholds = open_set_thresholds(distances["val"], confidence["val"], accept)
    (folder / THRESHOLDS_FILE).unlink(missing_ok=True)  # never new means with old thresholds
    scorer.save(folder / OPEN_SET_FILE)
    write_json({name: limit.to_dict() for name, limit in thresholds.items()}, folder / THRESHOLDS_FILE)
    looked_at = [{"tau": distances[split], "kappa": confidence[split]} for split in ("val", "test")]
    return scorer, thresholds, accepted_shares(thresholds, *looked_at)


def class_maps(run: Run, rows: pd.DataFrame) -> dict[str, list]:
    """Grad-CAM of rows of a classifier's predictions for the class that each was called: what `map_gallery` takes."""
    model, photos = _network(run), [run.photo_at_map_size(path) for path in rows["image_path"]]
    maps = grad_cam(model, photos, [model.classes.index(name) for name in rows["predicted"]])
    titles = []
    for row, truth in zip(rows.itertuples(), photo_classes(rows, run.info["parameters"]["binary"]), strict=True):
        called = row.predicted if row.predicted == truth else f"{truth} called {row.predicted}"
        titles.append(f"{called} ({row.confidence:.2f})")
    masks = [run.mask_at_map_size(row.mask_path, row.label_index) for row in rows.itertuples()]
    return {"photos": photos, "maps": list(maps), "masks": masks, "titles": titles}


def time_approaches(
    run: Run, scorer: MahalanobisScorer, gate: Gate | None, photos: Sequence[str], sizes: Sequence[int], device: str
) -> pd.DataFrame:
    """Milliseconds per photo of every stage of both approaches, and of each whole, in batches of some sizes."""
    judge, pictures = Predictor(run, device=device, batch_size=max(sizes)), [read_image(path) for path in photos]

    def classify(batch: Sequence[np.ndarray]) -> list[Any]:
        return judge.judge(batch, [""] * len(batch))

    def embed(batch: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([one.embedding for one in classify(batch)])

    some = embed(pictures[: max(sizes)])
    stages: dict[str, Callable[[Any], Any]] = {"classifier": classify}
    stages |= {"distance": lambda batch: scorer.scores(some[: len(batch)])}
    stages |= {f"{ONE_STAGE}: both": lambda batch: scorer.scores(embed(batch))}
    if gate is not None:
        guard = Predictor(gate.run, device=device, batch_size=max(sizes))

        def flag(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            judged = guard.judge(batch, [""] * len(batch))
            return [photo for photo, one in zip(batch, judged, strict=True) if one.abnormal]

        stages |= {"gate": flag, f"{TWO_STAGES}: both": lambda batch: classify(flag(batch))}
    return time_stages(stages, pictures, sizes, synchronise=synchroniser(str(torch_device(device))))


def _embeddings(run: Run, split: str) -> np.ndarray:
    return np.load(run.folder / f"embeddings_{split}.npy", allow_pickle=False)


def _network(run: Run) -> Classifier:
    return load_classifier(run.folder / "model.ckpt", run.info["parameters"]["backbone"]["architecture"])


# ----------------------------------------------------------------------------------------------- with classes hidden


def find_splits(files: Sequence[str], name: str, table: pd.DataFrame, n_splits: int = 2) -> list[ClassSplit]:
    """The splits of a dataset's classes: of YAML files, else those stored for this name and these classes, else
    `rotating_splits`; none where fewer than three classes can be learned from.
    """
    if files:
        splits = [read_split(project_path(file)) for file in files]
        names = [split.name for split in splits]
        if len(set(names)) < len(names):
            raise ValueError(f"Two splits have one name ({', '.join(names)}); a split's name is that of its folder.")
        return splits
    classes = set(table["defect_type"]) - {NORMAL}
    stored = [read_split(file) for file in sorted(SPLITS_FOLDER.glob("*.yml"))]
    fitting = [split for split in stored if split.dataset == name and {*split.known, *split.unknown} == classes]
    enough = sorted(set(learnable_classes(table)) - {NORMAL})
    if fitting or len(enough) < 3:
        return fitting
    while len(enough) - -(-len(enough) // n_splits) < 2:  # each must leave two known ones
        n_splits += 1
    splits = rotating_splits(enough, min(n_splits, len(enough)), name)
    rare = tuple(sorted(classes - set(enough)))  # unknown in all: they cannot be learned from
    return [split._replace(unknown=split.unknown + rare) for split in splits]


def split_table(table: pd.DataFrame, split: ClassSplit, seed: int = 0) -> pd.DataFrame:
    """A table with the unknown classes in test alone (`open_set_table`).

    Where notebook 01 has divided it, others stay where they are, so that a gate has seen none of val and test.
    """
    divided = open_set_table(table, split, seed=seed)
    if "val_fraction" not in table.attrs:
        return divided
    again = supervised_table(table, split.unknown)
    again.attrs |= {name: divided.attrs[name] for name in ("class_split", "known_types")}
    return again


def run_split(
    folder: Path,
    table: pd.DataFrame,
    split: ClassSplit,
    backbone: Backbone,
    settings: dict[str, Any],
    layers: dict[str, Any],
    gate: Gate | None = None,
    *,
    use_kappa: bool = True,
    unknown_by: str = "confidence",
    ignore_no_defect: bool = False,
    n_bootstrap: int = 1000,
    **how: Any,
) -> SimpleNamespace:
    """One split of the classes into known and unknown, from the training (`train_classifier`) to the numbers: split,
    run, thresholds (tau, kappa, gate), curves, and tables: ``scores`` a row a photo of val and test, ``verdicts`` one a
    test photo, methods, by_class, approaches, accepted.

    With ``ignore_no_defect`` the gate's score is noted, but every photo goes on: for data without good photos, or a
    gate of stand-ins. A gate that was trained or calibrated on photos that are tested here is refused.
    """
    place, osr = folder / split.name, folder / split.name / "osr"
    (place / METRICS_FILE).unlink(missing_ok=True)
    seed, divided = how.get("seed", 0), split_table(table, split, how.get("seed", 0))
    if gate is not None:
        gate.refuse_seen(divided)
    run = train_classifier(place, divided, backbone, settings | {"allow_unknown": True}, layers, **how)
    classes, accept = run.info["parameters"]["classes"], run.info["parameters"]["accept"]
    run = run.finish(classifier_thresholds(run, accept))
    scores = _scores(run)
    _, thresholds, accepted = leave_open_set(run, osr, accept)
    if gate is not None:
        scores["gate"] = gate.scores(scores["image_path"], how.get("device", "auto"))
        thresholds["gate"] = gate.run.thresholds["image"]
    val, test = (scores[scores["split"] == part].reset_index(drop=True) for part in ("val", "test"))
    methods, by_class, curves = _methods(test, val, classes, accept, {"n_bootstrap": n_bootstrap, "seed": seed})
    found = verdicts(test, thresholds, use_kappa, unknown_by, ignore_no_defect)
    approaches = pd.DataFrame([approach_row(found, name, classes) for name in found.columns[3:]])
    write_json({name: limit.to_dict() for name, limit in thresholds.items()}, osr / THRESHOLDS_FILE)
    write_csv(scores, osr / "scores.csv")
    write_csv(found, place / "cascade" / "verdicts.csv")
    content = {"split": split.name, "known": list(split.known), "unknown": list(split.unknown)}
    content |= {"gate": gate.about if gate else "none", "ignore_no_defect": gate is not None and ignore_no_defect}
    content |= {"classifier": run.info["fingerprint"], "note": run.note}
    for name, rows in (("methods", methods), ("approaches", approaches), ("accepted", accepted)):
        # by pandas: NaN becomes null, JSON has no NaN
        content[name] = json.loads(rows.to_json(orient="records", double_precision=15))
    write_json(content, place / METRICS_FILE)
    tables = {"scores": scores, "methods": methods, "by_class": by_class, "approaches": approaches}
    tables |= {"accepted": accepted, "verdicts": found}
    return SimpleNamespace(split=split, run=run, thresholds=thresholds, curves=curves, **tables)


def _scores(run: Run) -> pd.DataFrame:
    """Scores of val and test by every method, with what is fitted on train alone."""
    head, train, parts = _network(run).head, _embeddings(run, "train"), []
    weight, bias = (values.detach().numpy() for values in (head.weight, head.bias))
    labels = run.predictions("train")["defect_type"].tolist()
    for part in ("val", "test"):
        rows, values = run.predictions(part), _embeddings(run, part)
        found = unknown_scores(train, labels, values, values @ weight.T + bias, weight, bias)
        parts.append(rows[["image_path", "split", "defect_type", "predicted", "confidence"]].join(found))
    scores = pd.concat(parts, ignore_index=True).assign(gate=np.nan)
    return scores.assign(known=scores["defect_type"].isin(run.info["parameters"]["classes"]))


def _methods(
    test: pd.DataFrame, val: pd.DataFrame, classes: Sequence[str], accept: float, options: Mapping[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """Every score of unknownness on test, each with its own threshold from val; classes by the first."""
    rows, by_class, curves = [], {}, {}
    for method in METHODS:
        tau = open_set_thresholds(val[method], None, accept)["tau"]
        rejected = decide(test[method], None, tau)
        report = open_set_report(test["defect_type"], test["predicted"], test[method], rejected, classes, **options)
        row = {"method": method, **{name: int(report.curves[name]) for name in ("n_known", "n_unknown")}}
        for name, interval in report.intervals.iterrows():
            row |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        rows.append(row | {"threshold": float(tau), "origin": tau.origin})
        curves[method], by_class[method] = report.curves, report.by_class
    return pd.DataFrame(rows), by_class[METHODS[0]], curves


def verdicts(
    test: pd.DataFrame, thresholds: Mapping[str, Threshold], use_kappa: bool, unknown_by: str, ignore_no_defect: bool
) -> pd.DataFrame:
    """One outcome a photo (image_path, defect_type, known) and approach: a known class, ``unknown``, or ``no_defect``
    where the gate lets it go."""
    tau, kappa = thresholds["tau"], thresholds["kappa"]
    distance, confidence, predicted = test["mahalanobis"], test["confidence"], test["predicted"]
    limits = dict(zip(UNKNOWN_BY, ((tau, None), (None, kappa), (tau, kappa)), strict=True))
    unknown = {name: decide(distance, confidence, *both) for name, both in limits.items()}
    found = test[["image_path", "defect_type", "known"]].copy()
    found[ONE_STAGE] = predicted.mask(unknown["distance"], UNKNOWN)
    if use_kappa:
        found[f"{ONE_STAGE} with kappa"] = predicted.mask(unknown["both"], UNKNOWN)
    if "gate" in thresholds:
        # what the gate flags and the classifier calls good is like no defect that it knows
        second = predicted.mask(unknown[unknown_by] | (predicted == NORMAL), UNKNOWN)
        passed = exceeds(test["gate"], thresholds["gate"]) | ignore_no_defect
        # where good photos are a known class, what the gate lets go is called good
        nothing = NORMAL if (predicted == NORMAL).any() or (test["defect_type"] == NORMAL).any() else NO_DEFECT
        found[TWO_STAGES] = second.where(passed, nothing)
    return found


def approach_row(found: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Shares of test photos by what an approach made of them, each with Wilson's 95 % interval; ``lost``: defects that
    were called good or let go by the gate."""
    truth, outcome = found["defect_type"].to_numpy(), found[name].to_numpy()
    known = np.isin(truth, list(classes))
    right = np.where(known, outcome == truth, outcome == UNKNOWN)
    row: dict[str, Any] = {"approach": name, "n_known": int(known.sum()), "n_unknown": int((~known).sum())}
    row |= share_columns("known_right", right[known]) | share_columns("known_accepted", outcome[known] != UNKNOWN)
    row |= share_columns("unknown_detected", right[~known])
    row |= share_columns("lost", np.isin(outcome[truth != NORMAL], (NORMAL, NO_DEFECT)))
    return row | share_columns("open_set_accuracy", right)


def confusion(found: pd.DataFrame, name: str, classes: Sequence[str]) -> pd.DataFrame:
    """Counts by true class, known ones first, and an approach's outcome: known classes, ``no_defect``, ``unknown``."""
    strange = sorted(set(found["defect_type"]) - set(classes))
    columns = [*classes, *([NO_DEFECT] if (found[name] == NO_DEFECT).any() else []), UNKNOWN]
    return confusion_table(found["defect_type"], found[name], [*classes, *strange], columns)
