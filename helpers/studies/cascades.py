"""What two stages in a row are for: each stage by hand on every photo, what it decides alone, and how long it takes.

A cascade shows stage 2 only what stage 1 lets through, so its results cannot say what stage 2 would have made of the
rest. Here both stages see every photo that none of them learned from, by :class:`helpers.inference.Predictor` alone:
that gives the rates of each stage, the photos that stage 1 lost, the costs of other thresholds, and a check of the
cascade by other code than its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.costs import (
    Prices,
    best_first_threshold,
    cascade_rates,
    cost_without_stage_1,
    expected_costs,
    lost_photos,
)
from helpers.analysis.intervals import wilson_interval
from helpers.analysis.matching import match_instances, separate
from helpers.compute import time_stages
from helpers.data.coco import InstancePhoto, read_instances
from helpers.data.images import read_image, read_mask, to_network_frame
from helpers.data.samples import NORMAL, origin
from helpers.inference.cascade import Cascade
from helpers.inference.cutting import split_photos
from helpers.inference.predictor import Prediction
from helpers.inference.presets import PRESETS_FOLDER, find_cascade, read_cascade
from helpers.inference.stages import CLASS, UNKNOWN, CutterStage, Item, RunStage
from helpers.models.foreground import predict_distance
from helpers.paths import read_csv
from helpers.progress import progress
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold, exceeds

CALLED = 0.5  # threshold of ``score_2``, which is 1 where the last stage calls a photo a defect, else 0
OUTCOMES = ("stopped by stage 1", "stopped by stage 2", "called defect")


# ------------------------------------------------------------------------------------------------------- what is there


def open_cascades(
    names: Iterable[str], places: Mapping[bool, Mapping[str, Any]], **options: Any
) -> tuple[dict[str, Cascade], pd.DataFrame]:
    """The cascades whose runs are there, and a table that says of the others what is missing.

    Args:
        names: presets or YAML files.
        places: whether the cascade cuts objects out of raw frames -> ARTIFACTS, DATASET and PROFILE of its runs.
        **options: of :meth:`helpers.inference.Cascade.from_yaml`.

    Returns:
        The cascades by name, and columns ``cascade``, ``dataset``, ``about``, ``state`` (``ready``, or what is missing
        and which notebook makes it).

    Raises:
        MissingRunError: none can run.
        CascadeError: a file that says something that is not known.
    """
    found, rows = {}, []
    for name in names:
        content = read_cascade(find_cascade(name))
        settings = places["foreground" in content["stages"][0]]
        row = {"cascade": content.get("name", Path(name).stem), "dataset": settings["DATASET"]}
        row |= {"about": content.get("about", ""), "state": "ready"}
        try:
            found[row["cascade"]] = Cascade.from_yaml(name, settings, **options)
        except MissingRunError as missing:
            row["state"] = str(missing)
        rows.append(row)
    table = pd.DataFrame(rows)
    if not found:
        raise MissingRunError("None of the cascades can run.\n" + "\n".join(table["cascade"] + ": " + table["state"]))
    return found, table


def unseen_photos(cascade: Cascade, table: pd.DataFrame) -> pd.DataFrame:
    """The photos that no stage learned from: ``test`` where every run tests them, else ``val``.

    A run that was made from other photos (a gate that is shared by several datasets) has seen none of these.

    Args:
        cascade: of finished runs.
        table: sample table of the dataset.

    Returns:
        Rows of the table of split val and test.

    Raises:
        MissingRunError: a run was made with other splits of these photos.
    """
    splits = pd.DataFrame(index=table["image_path"])
    for stage in (one for one in cascade.stages if isinstance(one, RunStage)):
        run = stage.predictor.run
        split = run.table.set_index("image_path")["split"].reindex(splits.index)
        if split.notna().any() and run.info["samples"] not in origin(table):
            raise MissingRunError(f"{run.folder} was made with other photos or splits; train it again.")
        splits[stage.name] = split.fillna("test")
    trained, tested = (splits == "train").any(axis=1), (splits == "test").all(axis=1)
    split = np.select([trained, tested], ["train", "test"], "val")
    rows = table.assign(split=split)
    return rows[rows["split"] != "train"].reset_index(drop=True)


def preset_names() -> list[str]:
    """Names of the cascades in ``notebooks/params/cascades``."""
    return sorted(file.stem for file in PRESETS_FOLDER.glob("*.yml"))


def figure_note(cascades: Iterable[Cascade]) -> str | None:
    """What every figure must say of the runs behind it (``untrained backbone``), or None."""
    runs = [stage.predictor.run for one in cascades for stage in one.stages if isinstance(stage, RunStage)]
    return "; ".join(sorted({run.note for run in runs if run.note})) or None


# ------------------------------------------------------------------------------------------------------ photos by hand


@dataclass(frozen=True)
class ByHand:
    """What two stages say of every photo, each by itself.

    Attributes:
        scores: a row a photo: image_path, split, label_index, defect_type; ``score_1``, what the first rule looks at
            (1 or 0 for a rule without a number); ``score_2``, 1.0 where the second stage's verdict is a defect, else
            0.0; ``alone_2`` bool, what the second stage says when nothing is in front of it; ``named``, the class that
            it names, or "".
        limit: a photo goes on when ``score_1`` exceeds it.
        first: name of the first stage.
        second: name of the second stage.
        second_decides: whether the second stage has a say in the verdict, or only shows where the defect is. If not,
            ``alone_2`` is by its score at the threshold that is stored with its run.
    """

    scores: pd.DataFrame
    limit: Threshold
    first: str
    second: str
    second_decides: bool

    def part(self, split: str) -> pd.DataFrame:
        """The scores of one split."""
        return self.scores[self.scores["split"] == split].reset_index(drop=True)

    def has_both_classes(self) -> bool:
        """Whether val and test each hold good and defect photos: a threshold can be chosen, and its cost measured."""
        return all(self.part(split)["label_index"].nunique() == 2 for split in ("val", "test"))


def has_two_stages(cascade: Cascade) -> bool:
    """Whether a cascade is two runs in a row, which :func:`score_by_hand` can take apart."""
    return len(cascade.stages) == 2 and all(isinstance(stage, RunStage) for stage in cascade.stages)


def score_by_hand(cascade: Cascade, photos: pd.DataFrame) -> ByHand:
    """Judge photos with both stages, also those that stage 1 would stop.

    Args:
        cascade: see :func:`has_two_stages`; no rule on area or peak may be confined to an ``object_mask``.
        photos: image_path, split, label_index, defect_type.

    Raises:
        ValueError: a photo cannot be read, or the cascade is another one.
    """
    if not has_two_stages(cascade):
        raise ValueError(f"cascade {cascade.name}: expected two runs in a row.")
    first, second = cascade.stages
    for stage in cascade.stages:
        if stage.object_mask != "none" and stage.rule.kind in ("area", "peak"):
            raise ValueError(f"cascade {cascade.name}: stage {stage.name} measures inside an object mask.")
    paths = photos["image_path"].tolist()
    ones, twos = _judge_all(first, paths), _judge_all(second, paths)
    scores = photos[["image_path", "split", "label_index", "defect_type"]].reset_index(drop=True)
    values, limit = _above(first, [_looked_at(first, one) for one in ones])
    if first.ignore_no_defect:
        limit = Threshold(value=-float(np.finfo(np.float32).max), origin="the first stage's word is ignored")
    scores["score_1"] = values
    called = _calls(second, twos)
    scores["score_2"] = called.astype(float)
    decides = not (second.rule.kind == "always" and second.then != CLASS)
    stored = second.predictor.thresholds["image"]
    scores["alone_2"] = called if decides else stored.exceeds([one.score for one in twos])
    scores["named"] = [_named(second, one) for one in twos]
    return ByHand(scores, limit, first.name, second.name, decides)


def disagreements(by_hand: ByHand, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Photos on which a cascade and its stages run by hand differ: in verdict, deciding stage or named class.

    Args:
        by_hand: of the same cascade.
        verdicts: of :meth:`helpers.inference.Cascade.run`.
    """
    both = verdicts.merge(by_hand.scores, on="image_path", validate="one_to_one")
    if len(both) != len(verdicts):
        raise ValueError(f"{len(verdicts) - len(both)} photos of the cascade were not run by hand.")
    goes_on = by_hand.limit.exceeds(both["score_1"])
    abnormal = goes_on & exceeds(both["score_2"], CALLED)
    stage = np.where(goes_on, by_hand.second, by_hand.first)
    named = (both["named"] != "") & goes_on
    differ = (both["abnormal"].astype(bool) != abnormal) | (both["stage"] != stage)
    return both[differ | (named & (both["class"] != both["named"]))]


def stage_rates(by_hand: ByHand, split: str = "test") -> pd.DataFrame:
    """Recall and false alarms of each stage alone and of both, as :func:`helpers.analysis.costs.cascade_rates`.

    Stage 1 alone: what goes on is called a defect. Stage 2 alone: ``alone_2``.
    """
    scores = by_hand.part(split)
    rates = cascade_rates(scores, by_hand.limit, CALLED)
    alone = cascade_rates(scores.assign(score_2=scores["alone_2"].astype(float)), by_hand.limit, CALLED)
    rates.loc[1] = alone.loc[1]
    return rates


def lost_for_good(by_hand: ByHand, split: str = "test") -> pd.DataFrame:
    """The defect photos that stage 1 stops, see :func:`helpers.analysis.costs.lost_photos`."""
    scores = by_hand.part(split)
    return lost_photos(scores.assign(score_2=scores["alone_2"].astype(float)), by_hand.limit, CALLED)


def outcomes(verdicts: pd.DataFrame, truth: pd.DataFrame, first: str) -> pd.DataFrame:
    """How many good and defect photos ended where.

    Args:
        verdicts: of :meth:`helpers.inference.Cascade.run`.
        truth: ``image_path`` and ``label_index`` of these photos.
        first: name of the first stage.

    Returns:
        Rows ``good`` and ``defect``, columns :data:`OUTCOMES` and ``not judged``.
    """
    both = verdicts.merge(truth[["image_path", "label_index"]], on="image_path", validate="one_to_one")
    judged = both["error"].isna()
    stopped = np.where(both["stage"] == first, OUTCOMES[0], OUTCOMES[1])
    ended = np.where(both["abnormal"].eq(True), OUTCOMES[2], stopped)
    kinds = both["label_index"].map({0: NORMAL, 1: "defect"})
    counts = pd.crosstab(kinds, np.where(judged, ended, "not judged"))
    return counts.reindex(index=[NORMAL, "defect"], columns=[*OUTCOMES, "not judged"], fill_value=0)


def stage_counts(folder: Path, truth: pd.DataFrame) -> pd.DataFrame:
    """How many photos (or objects of photos) each stage of a cascade saw, let through and decided.

    Args:
        folder: results of :meth:`helpers.inference.Cascade.run`.
        truth: ``image_path`` and ``label_index`` of the photos.

    Returns:
        A row a stage, in order: ``stage``, ``seen``, of these ``of defect photos`` and ``of good photos``; ``rule``,
        ``held`` (how often the rule held), ``threshold``, ``origin``.
    """
    rows = read_csv(folder / "stages.csv")
    paths = read_csv(folder / "verdicts.csv").set_index("photo")["image_path"]
    rows["defect"] = rows["photo"].map(paths).map(truth.set_index("image_path")["label_index"]) == 1
    by_stage = rows.groupby("stage", sort=False)
    counts = by_stage.agg(
        seen=("photo", "size"),
        defect=("defect", "sum"),
        rule=("rule", "first"),
        held=("passed", lambda passed: int(passed.eq(True).sum())),
        threshold=("threshold", "first"),
        origin=("origin", "first"),
    ).reset_index()
    counts.insert(3, "of good photos", counts["seen"] - counts["defect"])
    return counts.rename(columns={"defect": "of defect photos"})


def overlay_examples(folder: Path, verdicts: pd.DataFrame, truth: pd.DataFrame, n: int) -> dict[str, Any]:
    """Photos and what each stage drew in them, for :func:`helpers.views.gallery.sample_grid`.

    The photo with its labelled defect, then the overlay of every stage that has one; grey where a stage did not see it.
    Two photos share a row where only one stage draws. First one photo of each way to end (found, lost, false alarm, let
    go), then further ones.

    Args:
        folder: results of :meth:`helpers.inference.Cascade.run`, with overlays.
        verdicts: of that call.
        truth: ``image_path``, ``label_index``, ``defect_type`` and, where there are masks, ``mask_path``.
        n: photos at most.
    """
    both = verdicts.merge(truth.drop(columns="split", errors="ignore"), on="image_path")
    both = both[both["error"].isna()]
    both["ended"] = both["abnormal"].astype(str) + both["label_index"].astype(str) + both["stage"].fillna("")
    turn = both.groupby("ended").cumcount()
    order = both.assign(turn=turn, defect=-both["label_index"]).sort_values(["turn", "defect", "ended"], kind="stable")
    drawn = read_csv(folder / "stages.csv")
    drawn = drawn[(drawn["object"] == 0) & drawn["overlay"].notna()]
    stages = list(dict.fromkeys(drawn["stage"]))
    overlays = drawn.set_index(["photo", "stage"])["overlay"].to_dict()
    columns = 1 + len(stages)
    found: dict[str, Any] = {
        "images": [],
        "masks": [],
        "titles": [],
        "columns": columns if columns > 2 else 2 * columns,
    }
    for row in order.head(n).itertuples():
        photo = read_image(Path(row.image_path))
        mask_path = getattr(row, "mask_path", "")
        pictures = [(photo, read_mask(Path(mask_path)) if mask_path else None, f"{row.defect_type}: {row.verdict}")]
        for stage in stages:
            file = overlays.get((row.photo, stage))
            picture = read_image(folder / file) if file else np.full_like(photo, 225)
            pictures.append((picture, None, stage if file else f"{stage}: not seen"))
        for name, values in zip(("images", "masks", "titles"), zip(*pictures, strict=True), strict=True):
            found[name] += values
    return found


def _judge_all(stage: RunStage, paths: Sequence[str]) -> list[Prediction]:
    found = list(progress(stage.predictor.predict_stream(paths), stage.name, total=len(paths)))
    for one in found:
        if one.error:
            raise ValueError(f"stage {stage.name}: {one.error}")
    return found


def _looked_at(stage: RunStage, prediction: Prediction) -> float:
    """The number that a stage's rule compares; 1 or 0 for a rule without one."""
    rule = stage.rule
    if rule.kind == "score":
        return prediction.score
    if rule.kind == "peak":
        return float(prediction.network_map.max())
    if rule.kind == "area":
        return float(stage.pixel_limit.exceeds(prediction.network_map).mean())
    if rule.kind == "probability":
        return float(prediction.probabilities[stage.predictor.classes.index(rule.classes[0])])
    if rule.kind == "class":
        return float((_named(stage, prediction) in rule.classes) != rule.negated)
    return 1.0


def _above(stage: RunStage, values: Sequence[float]) -> tuple[np.ndarray, Threshold]:
    """Numbers and a limit so that a rule holds where a number is **above** the limit."""
    found = np.asarray(values, dtype=np.float32)
    if stage.limit is None:
        return found, Threshold(value=0.5, origin=f"rule {stage.rule.text!r}")
    limit = np.float32(stage.limit.value)
    if stage.rule.sign in ("<", "<="):
        found, limit = -found, -limit
    if stage.rule.sign in (">=", "<="):
        limit = np.nextafter(limit, np.float32(-np.inf))
    return found, Threshold(value=float(limit), origin=stage.limit.origin)


def _calls(stage: RunStage, found: Sequence[Prediction]) -> np.ndarray:
    """Whether a last stage calls each photo a defect, (N,) bool."""
    values, limit = _above(stage, [_looked_at(stage, one) for one in found])
    holds = limit.exceeds(values)
    if stage.then != CLASS:
        return holds
    return holds & np.array([_named(stage, one) != stage.predictor.normal_class for one in found])


def _named(stage: RunStage, prediction: Prediction) -> str:
    """The class that a classifier names; "" for a detector."""
    if prediction.probabilities is None:
        return ""
    if stage.unknown is not None and stage.unknown(prediction.embedding[None], prediction.probabilities[None])[1][0]:
        return UNKNOWN
    ranked = [stage.predictor.classes[index] for index in np.argsort(-prediction.probabilities, kind="stable")]
    if stage.rule.kind == "score" and stage.limit.exceeds(prediction.score):
        ranked = [name for name in ranked if name != stage.predictor.normal_class]
    return ranked[0]


# --------------------------------------------------------------------------------------------------------------- costs


def costs_by_case(
    by_hand: ByHand, prevalences: Iterable[float], price_ratios: Iterable[float], prices: Prices
) -> pd.DataFrame:
    """The best first threshold on val for each case, and what it comes to on test.

    Args:
        by_hand: with good and defect photos in val and in test.
        prevalences: shares of defects on the line.
        price_ratios: price of a miss over that of a false alarm.
        prices: of a false alarm and of time.

    Returns:
        A row a case: ``prevalence``, ``price_ratio``, ``threshold_1`` (chosen on val); on test ``recall`` and
        ``false_alarm_rate`` of the cascade with ``_low`` and ``_high``, ``passed`` (of the line's photos), and the
        expected costs of a photo: ``cost`` at that threshold, ``cost_as_set`` at the one in use, ``cost_stage_2`` with
        stage 2 alone.
    """
    val, test = by_hand.part("val"), by_hand.part("test")
    rows = []
    for prevalence in prevalences:
        for ratio in price_ratios:
            now = Prices(ratio * prices.false_alarm, prices.false_alarm, prices.second, prices.stage_ms)
            case = {"prevalence": prevalence, "prices": now}
            best = best_first_threshold(val, CALLED, **case)
            at = expected_costs(test, [best.value, by_hand.limit.value], CALLED, **case)
            both = cascade_rates(test, best, CALLED).iloc[2]
            row = {"prevalence": prevalence, "price_ratio": ratio, "threshold_1": best.value}
            row |= {name: both[name] for name in both.index if name.startswith(("recall", "false_alarm_rate"))}
            row |= {"passed": at["passed"][0], "cost": at["cost"][0], "cost_as_set": at["cost"][1]}
            alone = test.assign(score_2=test["alone_2"].astype(float))
            rows.append(row | {"cost_stage_2": cost_without_stage_1(alone, CALLED, **case)})
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------------------- objects by hand


def cuts_objects(cascade: Cascade) -> bool:
    """Whether a cascade cuts objects out of a photo and judges each, which :func:`judge_objects` can take apart."""
    return len(cascade.stages) == 2 and isinstance(cascade.stages[0], CutterStage)


def test_frames(cascade: Cascade, folder: Path) -> list[InstancePhoto]:
    """The raw frames that the network which cuts objects out has not learned from.

    Args:
        cascade: see :func:`cuts_objects`.
        folder: of the frames and the outlines of their objects, the ones that notebook 03 trained on.

    Raises:
        MissingRunError: there is no such folder.
    """
    if not folder.is_dir():
        raise MissingRunError(f"There is no {folder}: FRAMES_DATASET must be the dataset with raw frames.")
    seed = json.loads(cascade.stages[0].about)["seed"]
    return split_photos(read_instances(folder), seed=seed)["test"]


def frame_table(frames: Sequence[InstancePhoto]) -> pd.DataFrame:
    """Raw frames for testing with what is known of them: a frame is a defect one where any object is.

    Returns:
        image_path, split (test), label_index, defect_type (the types on it, joined), n_objects, n_defect.

    Raises:
        ValueError: the annotations do not say what is wrong with each object.
    """
    rows = []
    for frame in frames:
        if not all(frame.defect_types):
            raise ValueError(f"{frame.image_path}: its annotations lack 'defect_type', so no verdict can be checked.")
        kinds = [kind for kind in frame.defect_types if kind != NORMAL]
        row = {"image_path": str(frame.image_path), "split": "test", "label_index": int(bool(kinds))}
        row |= {"defect_type": ", ".join(sorted(set(kinds))) or NORMAL}
        rows.append(row | {"n_objects": len(frame.defect_types), "n_defect": len(kinds)})
    return pd.DataFrame(rows)


def judge_objects(cascade: Cascade, frames: Sequence[InstancePhoto]) -> pd.DataFrame:
    """What becomes of every object: found or lost by stage 1, and called a defect or not by stage 2.

    Args:
        cascade: see :func:`cuts_objects`.
        frames: with the true outlines of their objects.

    Returns:
        A row a true object, and one a found object that matches none (IoU below 0.5; ``is_true`` False):
        ``image_path``, ``object`` (its number among the found ones, 0: lost), ``is_true``, ``defect_type``,
        ``label_index`` (0 also for what is no object), ``called`` (bool; False for a lost one), ``alone`` (bool: what
        stage 2 says of it, cut out by its true outline; False for what is no object).
    """
    cutter, judge = cascade.stages
    rows = []
    for frame in progress(frames, "objects by hand"):
        photo, path = read_image(frame.image_path), str(frame.image_path)
        labels = separate(predict_distance(cutter.network, photo), **cutter.options)
        masks = frame.instance_masks()
        called = _call_objects(judge, cutter.cut(Item(path, "frame", photo), labels))
        outlines = np.zeros(labels.shape, np.int64)
        for number, mask in enumerate(masks, start=1):
            outlines[mask] = number
        alone = _call_objects(judge, cutter.cut(Item(path, "frame", photo), outlines))
        pairs = {true: found for true, found, _ in match_instances(masks, labels).pairs}
        for true, kind in enumerate(frame.defect_types):
            number = pairs.get(true, 0)
            row = {"image_path": path, "object": number, "is_true": True, "defect_type": kind}
            row |= {"label_index": int(kind != NORMAL), "called": called.get(number, False)}
            rows.append(row | {"alone": alone.get(true + 1, False)})
        for number in sorted(set(called) - set(pairs.values())):
            row = {"image_path": path, "object": number, "is_true": False, "defect_type": "", "label_index": 0}
            rows.append(row | {"called": called[number], "alone": False})
    return pd.DataFrame(rows)


def lost_objects(objects: pd.DataFrame) -> pd.DataFrame:
    """The defect objects that stage 1 does not find, with ``found_by_stage_2``: whether stage 2 would call them so."""
    lost = objects[objects["is_true"] & (objects["label_index"] == 1) & (objects["object"] == 0)]
    return lost.assign(found_by_stage_2=lost["alone"])


def object_rates(objects: pd.DataFrame) -> pd.DataFrame:
    """Recall and false alarms among true objects: of stage 2 on true outlines, and of both stages; what stage 1 finds.

    Returns:
        Rows as of :func:`helpers.analysis.costs.cascade_rates`, counting true objects. Stage 1 says nothing of
        defects: its ``found`` is how many defect objects it cuts out, and it raises no false alarm that could be
        counted (NaN).
    """
    true = objects[objects["is_true"]]
    defect = true["label_index"] == 1
    rows = [
        _rate_row("stage 1 finds", true.loc[defect, "object"] > 0, 0, 0),
        _rate_row(
            "stage 2 alone", true.loc[defect, "alone"], int(true.loc[~defect, "alone"].sum()), int((~defect).sum())
        ),
        _rate_row("both", true.loc[defect, "called"], int(true.loc[~defect, "called"].sum()), int((~defect).sum())),
    ]
    return pd.DataFrame(rows)


def frame_rates(verdicts: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Recall and false alarms of a whole cascade, photo by photo: the row ``both`` of :func:`stage_rates`."""
    both = verdicts.merge(truth[["image_path", "label_index"]], on="image_path", validate="one_to_one")
    called, defect = both["abnormal"].eq(True), both["label_index"] == 1
    return pd.DataFrame([_rate_row("both", called[defect], int(called[~defect].sum()), int((~defect).sum()))])


def object_disagreements(objects: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Photos on which a cascade and its stages run by hand differ in the objects found or called defect."""
    by_hand = objects[objects["object"] > 0].groupby("image_path")["called"].agg(["size", "sum"])
    both = verdicts.join(by_hand.reindex(verdicts["image_path"]).fillna(0).reset_index(drop=True))
    differ = (both["n_objects"].fillna(0) != both["size"]) | (both["n_abnormal"].fillna(0) != both["sum"])
    return both[differ | (both["abnormal"].eq(True) != (both["sum"] > 0))]


def _rate_row(name: str, called: pd.Series, false_alarms: int, n_normal: int) -> dict[str, Any]:
    row: dict[str, Any] = {"decided_by": name, "n_normal": n_normal, "n_defect": len(called)}
    row |= {"found": int(called.sum()), "false_alarms": false_alarms}
    shares = (("recall", called.mean(), len(called)), ("false_alarm_rate", false_alarms / max(n_normal, 1), n_normal))
    for rate, share, n in shares:
        low, high = wilson_interval(float(share), n)
        row |= {rate: float(share) if n else np.nan, f"{rate}_low": low, f"{rate}_high": high}
    return row


def _call_objects(judge: RunStage, parts: Sequence[Item]) -> dict[int, bool]:
    """Number of an object -> whether a stage calls it a defect."""
    found = judge.predictor.judge([part.photo for part in parts], [part.source for part in parts])
    looked_at = []
    for part, one in zip(parts, found, strict=True):
        value = _looked_at(judge, one)
        if judge.rule.kind in ("peak", "area"):
            confined = one.network_map * to_network_frame(part.mask, judge.predictor.parameters)
            value = float(confined.max() if judge.rule.kind == "peak" else judge.pixel_limit.exceeds(confined).mean())
        looked_at.append(value)
    values, limit = _above(judge, looked_at)
    return {part.number: bool(limit.exceeds(value)) for part, value in zip(parts, values, strict=True)}


# ---------------------------------------------------------------------------------------------------------------- time


def time_cascade(cascade: Cascade, paths: Sequence[str | Path]) -> pd.DataFrame:
    """Milliseconds a photo of every stage alone and of the cascade, one photo at a time; reading is not counted.

    Of a stage that judges whole photos it is the run's own :meth:`helpers.inference.Predictor.photo_time`. Where
    objects are cut out, the second stage gets those of a photo, so its time is that of all of them.

    Returns:
        See :func:`helpers.compute.time_stages`; the last stage is called ``cascade``.
    """
    photos = [(str(path), read_image(Path(path))) for path in paths]
    parts: dict[str, list[Item]] = {}
    if cuts_objects(cascade):
        cutter = cascade.stages[0]
        for path, photo in photos:
            item = Item(path, "timed", photo)
            cutter.run([item], Path(), ())
            parts[path] = item.parts

    def fresh(batch: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        return [Item(path, "timed", photo) for path, photo in batch]

    def objects(batch: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        every = [part for path, _ in batch for part in parts[path]]
        return [Item(part.source, part.key, part.photo, part.number, part.box, part.mask) for part in every]

    functions: dict[str, Any] = {}
    known: dict[str, dict[str, Any]] = {}
    for stage in cascade.stages:
        if isinstance(stage, RunStage) and not parts:
            known[stage.name] = stage.predictor.photo_time(paths)
        else:
            make = fresh if isinstance(stage, CutterStage) else objects
            functions[stage.name] = lambda batch, stage=stage, make=make: stage.run(make(batch), Path(), ())
    functions["cascade"] = lambda batch: cascade.judge(fresh(batch), Path())
    stored = pd.DataFrame([{**row, "stage": name} for name, row in known.items()])
    return pd.concat([stored, time_stages(functions, photos, (1,))], ignore_index=True)
