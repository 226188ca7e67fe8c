"""Known and unknown defect classes: one stage against two, over fixed splits of the classes.

- One stage: a classifier of the known classes; unknown is what lies far from all of them (Mahalanobis distance above
  tau, and if asked a confidence below kappa).
- Two stages: PatchCore, trained on good photos, lets go what it does not flag; the same classifier names what it
  flags, or calls it unknown by confidence or distance, or where good is what it would name: the stages contradict
  each other then.

A split has a folder: ``classifier/`` (the run), ``embeddings/`` (as the classifier gave them; plane.csv: their two main
directions), ``osr/`` (open_set.npz, thresholds.json, scores.csv, methods.csv, accepted.csv), ``cascade/``
(verdicts.csv, gate.csv) and ``metrics.json``: all of it in numbers, written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

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
from helpers.data.known_unknown import ClassSplit, open_set_table, read_split, rotating_splits
from helpers.data.samples import NORMAL, supervised_table
from helpers.inference.stages import THRESHOLDS_FILE
from helpers.inference.train import classifier_thresholds, train_classifier
from helpers.models.backbones import Backbone
from helpers.models.classifier import load_classifier
from helpers.models.open_set import METHODS, OPEN_SET_FILE, MahalanobisScorer, unknown_scores
from helpers.paths import PROJECT_ROOT, project_path, write_csv, write_json
from helpers.runs import Run
from helpers.studies.gate import Gate, gate_scores, refuse_seen
from helpers.thresholds import Threshold, exceeds

NO_DEFECT = "no_defect"
METRICS_FILE = "metrics.json"
UNKNOWN_BY = ("distance", "confidence", "both")
SPLITS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "open_set"
ONE_STAGE, TWO_STAGES = "one stage", "two stages"
WITH_KAPPA = f"{ONE_STAGE} with kappa"


def find_splits(files: Sequence[str], name: str, table: pd.DataFrame, n_splits: int = 2) -> list[ClassSplit]:
    """The splits of a dataset's classes: YAML files, else those stored for a dataset of this name and these classes,
    else `rotating_splits`, in which every class is unknown once; none where fewer than three can be learned from.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is no split, or two have one name.
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

    Where notebook 01 has divided it, all other photos stay in the part that they have in scheme ``supervised`` there,
    so that a gate trained on its good photos has seen none of val and test.
    """
    divided = open_set_table(table, split, seed=seed)
    if "val_fraction" not in table.attrs:
        return divided
    again = supervised_table(table, split.unknown)
    again.attrs |= {name: divided.attrs[name] for name in ("class_split", "known_types")}
    return again


class SplitResult(NamedTuple):
    """What one split gave. ``scores``: a row a photo of val and test, a column a method of `unknown_scores`, the plane
    ``x``, ``y`` and the ``gate``'s score; ``verdicts``: a row a test photo, a column an approach."""

    split: ClassSplit
    folder: Path
    run: Run
    scores: pd.DataFrame
    plane_shares: np.ndarray  # (2,) of train's variance in x and y
    thresholds: dict[str, Threshold]  # tau, kappa, and gate where there is one
    methods: pd.DataFrame
    by_class: pd.DataFrame
    curves: dict[str, dict[str, np.ndarray]]
    verdicts: pd.DataFrame
    approaches: pd.DataFrame
    accepted: pd.DataFrame
    gate: str
    ignore_no_defect: bool


def run_split(
    folder: Path,
    table: pd.DataFrame,
    split: ClassSplit,
    backbone: Backbone,
    gate: Gate | None = None,
    *,
    use_kappa: bool = True,
    unknown_by: str = "confidence",
    ignore_no_defect: bool = False,
    accept: float = 0.95,
    n_bootstrap: int = 1000,
    device: str = "auto",
    seed: int = 0,
    **training: Any,
) -> SplitResult:
    """One split of the classes into known and unknown, from the training (`train_classifier`) to the numbers.

    Both approaches use the same classifier and the same photos. With ``ignore_no_defect`` the gate's score is noted,
    but every photo goes on: for data without good photos, or with a gate that was trained on stand-ins.

    Raises:
        ValueError: another word for ``unknown_by``, a split that does not fit the table, or a gate that was trained or
            calibrated on photos that are tested here.
    """
    if unknown_by not in UNKNOWN_BY:
        raise ValueError(f"UNKNOWN_BY={unknown_by!r}: expected {', '.join(UNKNOWN_BY)}.")
    place = folder / split.name
    (place / METRICS_FILE).unlink(missing_ok=True)
    divided = split_table(table, split, seed)
    if gate is not None:
        refuse_seen(gate.run, divided)
    options = {"accept": accept, "device": device, "seed": seed, **training}
    run = train_classifier(place, divided, backbone, allow_unknown=True, **options)
    if not run.finished:
        run = run.finish(classifier_thresholds(run, accept))
    classes = run.info["parameters"]["classes"]
    scores, scorer, plane_shares = _scores(run, place)
    if gate is not None:
        judged = gate_scores(gate.run, scores["image_path"], folder / "gate.csv", device)
        scores["gate"] = judged.loc[scores["image_path"]].to_numpy()
    val, test = (scores[scores["split"] == part].reset_index(drop=True) for part in ("val", "test"))
    thresholds = open_set_thresholds(val["mahalanobis"], val["confidence"], accept)
    known = test[test["known"]]
    pairs = (val["mahalanobis"], known["mahalanobis"], val["confidence"], known["confidence"])
    accepted = accepted_shares(thresholds, *pairs)
    if gate is not None:
        thresholds["gate"] = gate.run.thresholds["image"]
    methods = _methods(test, val, classes, accept, {"n_bootstrap": n_bootstrap, "seed": seed})
    found = verdicts(test, thresholds, use_kappa, unknown_by, ignore_no_defect)
    approaches = pd.DataFrame([approach_row(found, name, classes) for name in found.columns[3:]])
    about = ("none", False) if gate is None else (gate.about, ignore_no_defect)
    numbers = (scores, plane_shares, thresholds, *methods, found, approaches, accepted)
    result = SplitResult(split, place, run, *numbers, *about)
    _write(result, scorer)
    return result


def _scores(run: Run, place: Path) -> tuple[pd.DataFrame, MahalanobisScorer, np.ndarray]:
    """Scores of val and test by every method, with what is fitted on train alone."""
    (place / "embeddings").mkdir(exist_ok=True)
    embeddings = {}
    for part in ("train", "val", "test"):
        source = run.folder / f"embeddings_{part}.npy"
        shutil.copyfile(source, place / "embeddings" / source.name)
        embeddings[part] = np.load(source, allow_pickle=False)
    parameters = run.info["parameters"]
    head = load_classifier(run.folder / "model.ckpt", parameters["backbone"]["architecture"], "cpu").head
    weight, bias = (values.detach().numpy() for values in (head.weight, head.bias))
    labels, parts = run.predictions("train")["defect_type"].tolist(), []
    plane = PCA(2, svd_solver="full").fit(embeddings["train"].astype(np.float64))  # for a figure only
    for part in ("val", "test"):
        rows = run.predictions(part)[["image_path", "split", "defect_type", "predicted", "confidence"]]
        logits = embeddings[part] @ weight.T + bias
        found = unknown_scores(embeddings["train"], labels, embeddings[part], logits, weight, bias)
        where = pd.DataFrame(plane.transform(embeddings[part].astype(np.float64)), columns=["x", "y"])
        parts.append(pd.concat([rows.reset_index(drop=True), found, where], axis=1))
    scores = pd.concat(parts, ignore_index=True).assign(gate=np.nan)
    scores["known"] = scores["defect_type"].isin(parameters["classes"])
    return scores, MahalanobisScorer.fit(embeddings["train"], labels), plane.explained_variance_ratio_


def _methods(
    test: pd.DataFrame, val: pd.DataFrame, classes: Sequence[str], accept: float, options: Mapping[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """Every score of unknownness on test, each with its own threshold from val; classes by the first."""
    rows, by_class, curves = [], pd.DataFrame(), {}
    for method in METHODS:
        tau = open_set_thresholds(val[method], None, accept)["tau"]
        rejected = decide(test[method], None, tau)
        report = open_set_report(test["defect_type"], test["predicted"], test[method], rejected, classes, **options)
        row = {"method": method, **{name: int(report.curves[name]) for name in ("n_known", "n_unknown")}}
        for name, interval in report.intervals.iterrows():
            row |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        rows.append(row | {"threshold": float(tau), "origin": tau.origin})
        curves[method] = report.curves
        by_class = report.by_class if by_class.empty else by_class
    return pd.DataFrame(rows), by_class, curves


def verdicts(
    test: pd.DataFrame, thresholds: Mapping[str, Threshold], use_kappa: bool, unknown_by: str, ignore_no_defect: bool
) -> pd.DataFrame:
    """One outcome a photo and approach: a known class, ``unknown``, or ``no_defect`` where the gate lets it go.

    Columns ``image_path``, ``defect_type``, ``known``, then the approaches.
    """
    tau, kappa = thresholds["tau"], thresholds["kappa"]
    distance, confidence, predicted = test["mahalanobis"], test["confidence"], test["predicted"]
    unknown = {
        "distance": decide(distance, confidence, tau),
        "confidence": decide(distance, confidence, None, kappa),
        "both": decide(distance, confidence, tau, kappa),
    }
    found = test[["image_path", "defect_type", "known"]].copy()
    found[ONE_STAGE] = predicted.mask(unknown["distance"], UNKNOWN)
    if use_kappa:
        found[WITH_KAPPA] = predicted.mask(unknown["both"], UNKNOWN)
    if "gate" in thresholds:
        # what the gate flags and the classifier calls good is like no defect that it knows
        second = predicted.mask(unknown[unknown_by] | (predicted == NORMAL), UNKNOWN)
        passed = exceeds(test["gate"], thresholds["gate"]) | ignore_no_defect
        # where good photos are a known class, what the gate lets go is called good
        nothing = NORMAL if (predicted == NORMAL).any() or (test["defect_type"] == NORMAL).any() else NO_DEFECT
        found[TWO_STAGES] = second.where(passed, nothing)
    return found


def approach_row(found: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Shares of test photos by what an approach made of them, each with Wilson's 95 % interval.

    ``known_right``, ``known_accepted`` (not called unknown), ``unknown_detected``, ``lost`` (defects that were called
    good or let go by the gate), ``open_set_accuracy``; ``n_known`` and ``n_unknown`` photos.
    """
    truth, outcome = found["defect_type"].to_numpy(), found[name].to_numpy()
    known, defect = np.isin(truth, list(classes)), truth != NORMAL
    right = np.where(known, outcome == truth, outcome == UNKNOWN)
    shares = {
        "known_right": right[known],
        "known_accepted": outcome[known] != UNKNOWN,
        "unknown_detected": right[~known],
        "lost": np.isin(outcome[defect], (NORMAL, NO_DEFECT)),
        "open_set_accuracy": right,
    }
    row: dict[str, Any] = {"approach": name, "n_known": int(known.sum()), "n_unknown": int((~known).sum())}
    for column, photos in shares.items():
        row |= share_columns(column, photos)
    return row


def confusion(found: pd.DataFrame, name: str, classes: Sequence[str]) -> pd.DataFrame:
    """Counts by true class, known ones first, and an approach's outcome: known classes, ``no_defect``, ``unknown``."""
    strange = sorted(set(found["defect_type"]) - set(classes))
    columns = [*classes, *([NO_DEFECT] if (found[name] == NO_DEFECT).any() else []), UNKNOWN]
    return confusion_table(found["defect_type"], found[name], [*classes, *strange], columns)


def _write(result: SplitResult, scorer: MahalanobisScorer) -> None:
    place, of_photos = result.folder, result.scores[["image_path", "split", "defect_type"]]
    scorer.save(place / "osr" / OPEN_SET_FILE)
    write_json({name: limit.to_dict() for name, limit in result.thresholds.items()}, place / "osr" / THRESHOLDS_FILE)
    write_csv(result.scores.drop(columns=["x", "y", "gate"]), place / "osr" / "scores.csv")
    write_csv(result.methods, place / "osr" / "methods.csv")
    write_csv(result.accepted, place / "osr" / "accepted.csv")
    write_csv(of_photos.join(result.scores[["x", "y"]]), place / "embeddings" / "plane.csv")
    write_csv(result.verdicts, place / "cascade" / "verdicts.csv")
    write_csv(of_photos.join(result.scores["gate"]), place / "cascade" / "gate.csv")
    content = {"split": result.split.name, "known": list(result.split.known), "unknown": list(result.split.unknown)}
    content |= {"gate": result.gate, "ignore_no_defect": result.ignore_no_defect}
    content |= {"classifier": result.run.info["fingerprint"], "note": result.run.note}
    for name in ("methods", "approaches", "accepted"):  # by pandas: NaN becomes null, JSON has no NaN
        content[name] = json.loads(getattr(result, name).to_json(orient="records", double_precision=15))
    write_json(content, place / METRICS_FILE)
