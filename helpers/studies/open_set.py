"""Known and unknown defect classes: one stage against two, over fixed splits of the classes.

- One stage: a classifier of the known classes; unknown is what lies far from all of them (Mahalanobis distance above
  tau, and if asked a confidence below kappa).
- Two stages: PatchCore, trained on good photos, lets through what it does not flag; the same classifier names what it
  flags, or calls it unknown where its confidence is below kappa (or the distance above tau), or where good is what it
  would name: the two stages contradict each other then.

The gate is trained once for all splits (:func:`open_gate`). A split has a folder of its own:

    classifier/     run of the classifier (:mod:`helpers.inference.train`)
    embeddings/     embeddings_<split>.npy as the classifier gave them, and plane.csv, their two main directions
    osr/            open_set.npz (means, covariance), thresholds.json, scores.csv (every method, val and test),
                    methods.csv, accepted.csv
    cascade/        verdicts.csv (both approaches, test), gate.csv (the gate's scores)
    plots/          figures as PNG
    metrics.json    all of it in numbers, with counts and intervals; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from helpers import read_dataset
from helpers.analysis.classes import (
    accepted_shares,
    confusion_table,
    decide,
    learnable_classes,
    open_set_report,
    open_set_thresholds,
)
from helpers.analysis.intervals import wilson_interval
from helpers.data.datamodule import SampleDataModule
from helpers.data.known_unknown import ClassSplit, open_set_table, read_split, rotating_splits
from helpers.data.samples import NORMAL, assign_splits, supervised_table
from helpers.inference.predictor import Predictor
from helpers.inference.stages import THRESHOLDS_FILE
from helpers.inference.train import classifier_thresholds, train, train_classifier
from helpers.models.backbones import Backbone
from helpers.models.catalog import build_model
from helpers.models.classifier import load_classifier
from helpers.models.open_set import METHODS, OPEN_SET_FILE, MahalanobisScorer, unknown_scores
from helpers.paths import PROJECT_ROOT, project_path, read_csv, write_csv, write_json, write_whole
from helpers.progress import progress
from helpers.runs import RUN_FILE, MissingRunError, Run, open_run
from helpers.thresholds import Threshold, exceeds, held_out_thresholds
from helpers.views import figures as class_figures
from helpers.views.plots import curves, interval_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from sklearn.decomposition import PCA

UNKNOWN, NO_DEFECT = "unknown", "no_defect"
GATE_BATCH = 8
METRICS_FILE = "metrics.json"
UNKNOWN_BY = ("distance", "confidence", "both")
SPLITS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "open_set"
ONE_STAGE, TWO_STAGES = "one stage", "two stages"
WITH_KAPPA = f"{ONE_STAGE} with kappa"


# --------------------------------------------------------------------------------------------------------- the splits


def find_splits(files: Sequence[str], name: str, table: pd.DataFrame, n_splits: int = 2) -> list[ClassSplit]:
    """The splits of a dataset's classes into known and unknown ones.

    Args:
        files: YAML files (relative: to the project). Empty: those in ``notebooks/params/open_set`` for a dataset of
            this name and these classes; where there are none, `rotating_splits`, in which every class is unknown once.
        name: of the dataset.
        table: its sample table.
        n_splits: for `rotating_splits`; fewer where there are too few classes for them.

    Returns:
        In the order of the files; empty where no files are given and fewer than three defect classes have the photos
        to be learned from. Classes with fewer photos are unknown in every split that is made here.

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
    if fitting:
        return fitting
    enough = sorted(set(learnable_classes(table)) - {NORMAL})
    rare = tuple(sorted(classes - set(enough)))
    if len(enough) < 3:
        return []
    while len(enough) - -(-len(enough) // n_splits) < 2:  # each must leave two known ones
        n_splits += 1
    splits = rotating_splits(enough, min(n_splits, len(enough)), name)
    return [replace(split, unknown=split.unknown + rare) for split in splits]


def split_table(table: pd.DataFrame, split: ClassSplit, seed: int = 0) -> pd.DataFrame:
    """A table with the unknown classes in test alone; see :func:`helpers.data.known_unknown.open_set_table`.

    Where notebook 01 has divided the table, every photo of a known class and every good one stays in the part that it
    has in scheme ``supervised`` there, so that a gate trained on its good photos has seen none of val and test.

    Args:
        table: sample table with all classes.
        split: of the classes.
        seed: for a table that has not been divided before.
    """
    divided = open_set_table(table, split, seed=seed)
    if "val_fraction" not in table.attrs:
        return divided
    again = supervised_table(table, split.unknown)
    again.attrs |= {name: divided.attrs[name] for name in ("class_split", "known_types")}
    return again


# ------------------------------------------------------------------------------------------------------------ the gate


@dataclass(frozen=True)
class Gate:
    """What lets good photos go.

    Attributes:
        run: a finished PatchCore.
        about: what it learned from, for tables.
        stand_in: whether that were photos of another product.
    """

    run: Run
    about: str
    stand_in: bool

    @classmethod
    def of(cls, run: Run, table: pd.DataFrame) -> Gate:
        """A finished run as the gate for the photos of a table."""
        trained = run.table
        n = int(((trained["split"] == "train") & (trained["label_index"] == 0)).sum())
        stand_in = trained.attrs["root"] != table.attrs["root"]
        name = trained.attrs.get("name") or Path(trained.attrs["root"]).name
        about = f"{n} good photos of {name}{', stand-ins' if stand_in else ''}"
        return cls(run, f"{about} ({run.note})" if run.note else about, stand_in)

    @property
    def false_alarms(self) -> tuple[float, int]:
        """Share of the good photos of its own test set that it flags, and their number; NaN without any."""
        test = self.run.predictions("test")
        scores = test.loc[test["label_index"] == 0, "score"]
        flagged = self.run.thresholds["image"].exceeds(scores)
        return (float(flagged.mean()) if len(scores) else float("nan")), len(scores)


def open_gate(
    gate: str, folder: Path, table: pd.DataFrame, stand_in: Path, backbone: Backbone, **options: Any
) -> Gate | None:
    """The gate for a dataset: the run of notebook 02, or where there is no good photo one trained on stand-ins.

    Args:
        gate: ``auto``; ``none``; or a finished PatchCore: a run's name in the folder, or a path.
        folder: the dataset's artifacts folder. A gate of stand-ins is kept in ``open_set/gate`` there.
        table: the dataset's sample table.
        stand_in: another dataset, whose good photos are taken by ``auto`` where this one has none to train on.
        backbone: of a gate that must be trained.
        **options: of :func:`run_gate`.

    Raises:
        MissingRunError: the run is not there; the message names the notebook that makes it.
        ValueError: the dataset of the stand-ins has no good photo either.
    """
    if gate == "none":
        return None
    if gate != "auto" and not (folder / gate / RUN_FILE).is_file():
        return Gate.of(Run.load(project_path(gate)), table)
    if gate != "auto" or ((table["label_index"] == 0) & (table["split"] == "train")).any():
        place = folder / ("patchcore" if gate == "auto" else gate)
        if not (place / RUN_FILE).is_file():
            raise MissingRunError(
                f"GATE={gate!r}: there is no finished run in {place}. Run notebook 02_train_patchcore with the same "
                "DATASET and PROFILE, or set GATE to none."
            )
        return Gate.of(Run.load(place), table)
    photos = read_dataset(stand_in)
    good = photos[photos["label_index"] == 0].reset_index(drop=True)
    if len(good) < 3:
        raise ValueError(f"GATE_DATASET={str(stand_in)!r} has {len(good)} good photos; a gate needs three or more.")
    good.attrs = photos.attrs
    return Gate.of(run_gate(folder / "open_set" / "gate", assign_splits(good), backbone, **options), table)


def run_gate(
    folder: Path,
    table: pd.DataFrame,
    backbone: Backbone,
    *,
    image_size: int = 256,
    coreset_ratio: float = 0.01,
    accept: float = 0.95,
    batch_size: int = 4,
    device: str = "auto",
    seed: int = 0,
) -> Run:
    """Train the gate, PatchCore on good photos, or find it finished: once for all splits.

    Args:
        folder: gets a run ``patchcore``.
        table: sample table whose train and val photos are good.
        backbone: of PatchCore.
        image_size: side in pixels that photos are resized to.
        coreset_ratio: share of the patches that is kept.
        accept: share of held-out good photos that its threshold accepts.
        batch_size: photos at once.
        device: see :func:`helpers.compute.trainer_device`.
        seed: of the projection.

    Returns:
        The finished run.
    """
    size = [image_size, image_size]
    settings = {"image_size": size, "center_crop": None, "coreset_sampling_ratio": coreset_ratio, "accept": accept}
    settings |= {"backbone": backbone.to_dict(), "scheme": table.attrs["scheme"]}
    run = open_run(folder, "patchcore", settings, table, seed, note=backbone.note)
    if run.finished:
        return run
    torch.manual_seed(seed)
    model = build_model("patchcore", backbone, image_size=image_size, coreset_sampling_ratio=coreset_ratio)
    train(run, model, SampleDataModule(table, train_batch_size=batch_size, eval_batch_size=batch_size), device=device)
    return run.finish(held_out_thresholds(run.predictions("val"), accept))


def gate_scores(gate: Run, photos: Iterable[str], file: Path, device: str = "auto") -> pd.Series:
    """The gate's raw score of each photo, by path; those that an earlier call wrote to the file are not judged again.

    Args:
        gate: finished.
        photos: paths.
        file: CSV that keeps them, with the gate they are of.
        device: see :func:`helpers.compute.trainer_device`.
    """
    known = pd.Series(dtype=np.float64)
    if file.is_file():
        stored = read_csv(file)
        stored = stored[stored["gate"] == gate.info["fingerprint"]]
        known = stored.set_index("image_path")["score"]
    missing = [path for path in dict.fromkeys(photos) if path not in known.index]
    if missing:
        judge, found = Predictor(gate.folder, device=device, batch_size=GATE_BATCH), []
        for first in progress(range(0, len(missing), GATE_BATCH), "gate"):
            found += judge.predict(missing[first : first + GATE_BATCH]).scores.tolist()
        known = pd.concat([known, pd.Series(found, index=missing, dtype=np.float64)])
        rows = pd.DataFrame({"image_path": known.index, "score": known.to_numpy(), "gate": gate.info["fingerprint"]})
        write_csv(rows, file)
    return known


@dataclass(frozen=True)
class SplitResult:
    """What one split of the classes gave.

    Attributes:
        split: which classes were known.
        folder: where everything lies.
        run: of the classifier.
        scores: val and test photos: image_path, split, defect_type, known, predicted, confidence, a column a method,
            the two coordinates ``x``, ``y`` of the embedding, and ``gate``, the gate's score (NaN without a gate).
        verdicts: test photos: defect_type and one column an approach with the outcome.
        thresholds: tau, kappa, and gate where there is one.
        methods: a row a method: auroc, fpr_at_95_tpr, oscr with intervals and counts.
        approaches: a row an approach: shares with intervals and counts.
        by_class: test photos of each class by the distance, see :class:`helpers.analysis.classes.OpenSetReport`.
        accepted: see :func:`helpers.analysis.classes.accepted_shares`.
        plane_shares: (2,) share of train's variance in each direction of ``x`` and ``y``.
        curves: OSCR curves by method.
        confusions: counts by approach, columns the known classes and ``unknown`` (and ``no_defect``).
        gate: what the gate learned from; ``none`` without one.
        ignore_no_defect: whether its outcome was noted only.
    """

    split: ClassSplit
    folder: Path
    run: Run
    scores: pd.DataFrame
    verdicts: pd.DataFrame
    thresholds: dict[str, Threshold]
    methods: pd.DataFrame
    approaches: pd.DataFrame
    by_class: pd.DataFrame
    accepted: pd.DataFrame
    curves: dict[str, dict[str, np.ndarray]]
    confusions: dict[str, pd.DataFrame]
    plane_shares: np.ndarray
    gate: str = "none"
    ignore_no_defect: bool = False


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
    """One split of the classes into known and unknown, from the training to the numbers.

    Photos of unknown classes are in test alone. Both approaches use the same classifier and the same photos.

    Args:
        folder: gets a folder with the split's name.
        table: sample table with all classes.
        split: see `find_splits`.
        backbone: of the classifier.
        gate: for the two-stage approach, see `open_gate`; None: only one stage.
        use_kappa: also report one stage with both thresholds.
        unknown_by: how the second stage knows the unknown: ``distance``, ``confidence`` or ``both``.
        ignore_no_defect: the gate's score is noted, but every photo goes on: for data without good photos, or with a
            gate that was trained on stand-ins.
        accept: share of held-out known photos that tau and kappa each accept.
        n_bootstrap: resamples behind each interval.
        device: see :func:`helpers.compute.trainer_device`.
        seed: of split, training and resamples.
        **training: of :func:`helpers.inference.train.train_classifier`.

    Raises:
        ValueError: for another word for ``unknown_by``, a split that does not fit the table, or a gate that was trained
            or calibrated on photos that are tested here.
    """
    if unknown_by not in UNKNOWN_BY:
        raise ValueError(f"UNKNOWN_BY={unknown_by!r}: expected {', '.join(UNKNOWN_BY)}.")
    place = folder / split.name
    (place / METRICS_FILE).unlink(missing_ok=True)
    divided = split_table(table, split, seed)
    if gate is not None:
        _refuse_seen(gate.run, divided)
    run = train_classifier(
        place, divided, backbone, allow_unknown=True, accept=accept, device=device, seed=seed, **training
    )
    if not run.finished:
        run = run.finish(classifier_thresholds(run, accept))
    scores, scorer, plane_shares = _scores(run, place)
    known_val, test = scores[scores["split"] == "val"], scores[scores["split"] == "test"].reset_index(drop=True)
    thresholds = open_set_thresholds(known_val["mahalanobis"], known_val["confidence"], accept)
    if gate is not None:
        judged = gate_scores(gate.run, scores["image_path"], folder / "gate.csv", device)
        scores["gate"] = judged.loc[scores["image_path"]].to_numpy()
        test["gate"] = judged.loc[test["image_path"]].to_numpy()
        thresholds["gate"] = gate.run.thresholds["image"]
    classes = run.info["parameters"]["classes"]
    options = {"n_bootstrap": n_bootstrap, "seed": seed}
    methods, by_class, curves = _methods(test, known_val, classes, accept, options)
    verdicts = _verdicts(test, thresholds, use_kappa, unknown_by, ignore_no_defect)
    known_test = test[test["known"]]
    accepted = accepted_shares(
        thresholds,
        known_val["mahalanobis"],
        known_test["mahalanobis"],
        known_val["confidence"],
        known_test["confidence"],
    )
    names = [column for column in verdicts if column not in ("image_path", "defect_type", "known")]
    confusions = {name: confusion(verdicts["defect_type"], verdicts[name], classes) for name in names}
    approaches = pd.DataFrame([{"approach": name, **approach_row(verdicts, name, classes)} for name in names])
    tables = (scores, verdicts, thresholds, methods, approaches, by_class, accepted)
    about = ("none", False) if gate is None else (gate.about, ignore_no_defect)
    result = SplitResult(split, place, run, *tables, curves, confusions, plane_shares, *about)
    _write(result, scorer)
    return result


def _refuse_seen(gate: Run, divided: pd.DataFrame) -> None:
    """Refuse a gate that knows photos of test."""
    seen = set(gate.table.loc[gate.table["split"] != "test", "image_path"])
    known = divided["image_path"][(divided["split"] == "test") & divided["image_path"].isin(seen)]
    if len(known):
        raise ValueError(
            f"The gate {gate.folder} was trained or calibrated on {len(known)} of the photos that are tested here "
            f"({known.iloc[0]}, ...); train it with the same sample table, by notebook 02_train_patchcore."
        )


def _scores(run: Run, place: Path) -> tuple[pd.DataFrame, MahalanobisScorer, np.ndarray]:
    """Scores of val and test by every method, with what is fitted on train alone."""
    (place / "embeddings").mkdir(exist_ok=True)
    embeddings = {}
    for part in ("train", "val", "test"):
        source = run.folder / f"embeddings_{part}.npy"
        shutil.copyfile(source, place / "embeddings" / source.name)
        embeddings[part] = np.load(source, allow_pickle=False)
    backbone = run.info["parameters"]["backbone"]
    head = load_classifier(run.folder / "model.ckpt", backbone["architecture"], "cpu").head
    weight, bias = (values.detach().numpy() for values in (head.weight, head.bias))
    labels = run.predictions("train")["defect_type"].tolist()
    classes, parts = run.info["parameters"]["classes"], []
    plane = PCA(2, svd_solver="full").fit(embeddings["train"].astype(np.float64))  # for a figure only
    for part in ("val", "test"):
        rows = run.predictions(part)[["image_path", "split", "defect_type", "predicted", "confidence"]]
        logits = embeddings[part] @ weight.T + bias
        found = unknown_scores(embeddings["train"], labels, embeddings[part], logits, weight, bias)
        where = pd.DataFrame(plane.transform(embeddings[part].astype(np.float64)), columns=["x", "y"])
        parts.append(pd.concat([rows.reset_index(drop=True), found, where], axis=1))
    scores = pd.concat(parts, ignore_index=True)
    scores["known"] = scores["defect_type"].isin(classes)
    return (
        scores.assign(gate=np.nan),
        MahalanobisScorer.fit(embeddings["train"], labels),
        plane.explained_variance_ratio_,
    )


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


def _verdicts(
    test: pd.DataFrame,
    thresholds: Mapping[str, Threshold],
    use_kappa: bool,
    unknown_by: str,
    ignore_no_defect: bool,
) -> pd.DataFrame:
    """One outcome a photo and approach: a known class, ``unknown``, or ``no_defect`` where the gate lets it go."""
    tau, kappa = thresholds["tau"], thresholds["kappa"]
    distance, confidence, predicted = test["mahalanobis"], test["confidence"], test["predicted"]
    unknown = {
        "distance": decide(distance, confidence, tau),
        "confidence": decide(distance, confidence, None, kappa),
        "both": decide(distance, confidence, tau, kappa),
    }
    verdicts = test[["image_path", "defect_type", "known"]].copy()
    verdicts[ONE_STAGE] = predicted.mask(unknown["distance"], UNKNOWN)
    if use_kappa:
        verdicts[WITH_KAPPA] = predicted.mask(unknown["both"], UNKNOWN)
    if "gate" in thresholds:
        # what the gate flags and the classifier calls good is like no defect that it knows
        second = predicted.mask(unknown[unknown_by] | (predicted == NORMAL), UNKNOWN)
        passed = exceeds(test["gate"], thresholds["gate"]) | ignore_no_defect
        # where good photos are a known class, what the gate lets go is called good
        nothing = NORMAL if (predicted == NORMAL).any() or (test["defect_type"] == NORMAL).any() else NO_DEFECT
        verdicts[TWO_STAGES] = second.where(passed, nothing)
    return verdicts


def confusion(truth: Sequence[str], outcome: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Counts by true class, known ones first, and outcome: known classes, ``no_defect`` if any, ``unknown``."""
    strange = sorted(set(truth) - set(classes))
    columns = [*classes, *([NO_DEFECT] if NO_DEFECT in set(outcome) else [])]
    return confusion_table(truth, outcome, columns, rows=[*classes, *strange], unknown=True)


def approach_row(verdicts: pd.DataFrame, name: str, classes: Sequence[str]) -> dict[str, Any]:
    """Shares of test photos by what became of them, each with Wilson's 95 % interval.

    Args:
        verdicts: columns ``defect_type`` and the approach's.
        name: the column.
        classes: the known ones.

    Returns:
        ``n_known``, ``n_unknown``; ``known_right``, ``known_accepted`` (not called unknown), ``unknown_detected``,
        ``lost`` (defects that were called good or let go by the gate), ``open_set_accuracy``.
    """
    truth, outcome = verdicts["defect_type"].to_numpy(), verdicts[name].to_numpy()
    known, defect = np.isin(truth, list(classes)), truth != NORMAL
    right = np.where(known, outcome == truth, outcome == UNKNOWN)
    shares = {
        "known_right": right[known],
        "known_accepted": outcome[known] != UNKNOWN,
        "unknown_detected": right[~known],
        "lost": np.isin(outcome[defect], (NORMAL, NO_DEFECT)),
        "open_set_accuracy": right,
    }
    row: dict[str, Any] = {"n_known": int(known.sum()), "n_unknown": int((~known).sum())}
    for column, photos in shares.items():
        share = float(photos.mean()) if photos.size else np.nan
        low, high = wilson_interval(share, photos.size)
        row |= {column: share, f"{column}_low": low, f"{column}_high": high}
    return row


def _write(result: SplitResult, scorer: MahalanobisScorer) -> None:
    place = result.folder
    for part in ("osr", "cascade", "plots"):
        (place / part).mkdir(exist_ok=True)
    scorer.save(place / "osr" / OPEN_SET_FILE)
    write_json({name: limit.to_dict() for name, limit in result.thresholds.items()}, place / "osr" / THRESHOLDS_FILE)
    write_csv(result.scores.drop(columns=["x", "y", "gate"]), place / "osr" / "scores.csv")
    write_csv(result.methods, place / "osr" / "methods.csv")
    write_csv(result.accepted, place / "osr" / "accepted.csv")
    write_csv(result.scores[["image_path", "split", "defect_type", "x", "y"]], place / "embeddings" / "plane.csv")
    write_csv(result.verdicts, place / "cascade" / "verdicts.csv")
    write_csv(result.scores[["image_path", "split", "defect_type", "gate"]], place / "cascade" / "gate.csv")
    content = {
        "split": result.split.name,
        "known": list(result.split.known),
        "unknown": list(result.split.unknown),
        "gate": result.gate,
        "ignore_no_defect": result.ignore_no_defect,
        "classifier": result.run.info["fingerprint"],
        "note": result.run.note,
        "methods": _records(result.methods),
        "approaches": _records(result.approaches),
        "accepted": _records(result.accepted),
    }
    write_json(content, place / METRICS_FILE)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data, NaN as null: JSON has no NaN."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def split_figures(result: SplitResult) -> dict[str, Figure]:
    """The figures of one split by name, each also written to ``plots/NAME.png``."""
    test, note = result.scores[result.scores["split"] == "test"], result.run.note
    known = result.run.info["parameters"]["classes"]
    drawn = {
        f"confusion, {name}": class_figures.confusion_figure(
            table, title=f"split {result.split.name}: {name}", note=note
        )
        for name, table in result.confusions.items()
    }
    drawn["distance"] = class_figures.unknown_histogram(
        test["mahalanobis"], test["defect_type"], known, result.thresholds["tau"], note=note
    )
    shares = result.plane_shares.tolist()
    drawn["embeddings"] = class_figures.embedding_figure(test, known, shares, note=note)
    oscr = {f"{name}: {float(found['oscr']):.3f}": found for name, found in result.curves.items()}
    named = {"xlim": (0, 1), "ylim": (0, 1), "title": "Open-set classification rate"}
    named |= {"xlabel": "unknown photos accepted", "ylabel": "known photos accepted\nand named rightly"}
    drawn["oscr"] = curves(oscr, "fpr", "ccr", legend="area under the curve", note=note, **named)
    rows = result.by_class
    names = [f"{name} (n={n})" for name, n in zip(rows["class"], rows["n"], strict=True)]
    colours = ["#56B4E9" if known else "#E69F00" for known in rows["known"]]
    named = {"xlabel": "right verdicts (known: accepted and named rightly; unknown: called so)", "ylabel": "class"}
    named["title"] = "Right verdicts by class (orange: unknown)"
    drawn["classes"] = interval_bars(rows, "right", names, colours=colours, note=note, **named)
    for name, figure in drawn.items():
        file = result.folder / "plots" / f"{name.replace(', ', '_').replace(' ', '_')}.png"
        write_whole(file, partial(figure.savefig, bbox_inches="tight"))
    return drawn


def summary(results: Sequence[SplitResult]) -> pd.DataFrame:
    """One row a split and approach, with the open-set figures of the score that the approach goes by.

    ``gate`` says what the gate learned from, and ``no_defect`` whether its outcome counted or was ignored.
    """
    rows = []
    for result in results:
        ranking = result.methods.set_index("method")
        for row in result.approaches.to_dict("records"):
            two = row["approach"] == TWO_STAGES
            method = "max_softmax" if two else "mahalanobis"
            figures = ranking.loc[method, ["closed_set_accuracy", "auroc", "fpr_at_95_tpr", "oscr"]].to_dict()
            counted = "ignored" if result.ignore_no_defect else "counts"
            gate = {"gate": result.gate if two else "", "no_defect": counted if two else ""}
            head = {"split": result.split.name, "unknown": ", ".join(result.split.unknown)}
            rows.append({**head, **row, "score": method, **figures, **gate, "note": result.run.note})
    return pd.DataFrame(rows)
