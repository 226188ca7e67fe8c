"""What two stages in a row are for: each stage on every photo, what it decides alone, and how long it takes.

A cascade shows stage 2 only what stage 1 lets through. Here both stages see every photo that none of them learned from:
that gives the rates of each stage, the photos that stage 1 lost, and the costs of other thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.analysis.matching import match_instances
from helpers.compute import time_stages
from helpers.data.coco import InstancePhoto
from helpers.data.images import read_image, read_mask
from helpers.data.samples import NORMAL, origin
from helpers.inference.cascade import Cascade
from helpers.inference.cutting import CutterStage
from helpers.inference.pictures import Item, read_batches
from helpers.inference.stages import CLASS, RunStage
from helpers.paths import read_csv
from helpers.progress import progress
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold


def unseen_photos(cascade: Cascade, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a sample table that no stage learned from: split ``test`` where every run tests them, else ``val``; a
    run of other photos has seen none of these. MissingRunError: one was made with other splits of these photos.
    """
    splits = pd.DataFrame(index=table["image_path"])
    for stage in cascade.run_stages:
        run = stage.predictor.run
        split = run.table.set_index("image_path")["split"].reindex(splits.index)
        if split.notna().any() and run.info["samples"] not in origin(table):
            raise MissingRunError(f"{run.folder} was made with other photos or splits; train it again.")
        splits[stage.name] = split.fillna("test")
    trained, tested = (splits == "train").any(axis=1), (splits == "test").all(axis=1)
    rows = table.assign(split=np.select([trained, tested], ["train", "test"], "val"))
    return rows[rows["split"] != "train"].reset_index(drop=True)


def score_stages(cascade: Cascade, photos: pd.DataFrame) -> tuple[pd.DataFrame, Threshold]:
    """What each of two runs in a row says of every photo, also of those that stage 1 would stop.

    A row a photo: image_path, split, label_index, defect_type; ``score_1``, what the first rule looks at (1 for a rule
    without a number); ``score_2``, 1.0 where the second stage's verdict is a defect; ``alone_2`` bool, what it says
    when nothing is in front of it (of one that has no say in the verdict, by the threshold that is stored with its
    run). And the limit: a photo goes on when ``score_1`` exceeds it.
    """
    first, second = cascade.stages
    ones, twos = [], []
    pictures = ((path, path) for path in progress(photos["image_path"].tolist(), cascade.name))
    for batch in read_batches(pictures, cascade.batch_size, cascade.bit_depth):
        for unreadable in (one.problem for one in batch if one.problem):
            raise unreadable
        items = [Item(one.source, one.source, one.photo) for one in batch]
        ones += _weighed(first, items)
        twos += _weighed(second, items)
    scores = photos[["image_path", "split", "label_index", "defect_type"]].reset_index(drop=True)
    scores["score_1"] = np.array([row.get("value", 1) for row in ones], dtype=np.float32)
    called = np.array([second.calls(row) for row in twos], dtype=bool)
    scores["score_2"], scores["alone_2"] = called.astype(float), called
    if second.rule.kind == "always" and second.then != CLASS:
        scores["alone_2"] = second.predictor.thresholds["image"].exceeds([row["score"] for row in twos])
    return scores, _limit(first)


def _weighed(stage: RunStage, items: Sequence[Item]) -> list[dict[str, Any]]:
    seen = list(stage.look(items))
    for error in (one.error for one in seen if one.error):
        raise ValueError(f"stage {stage.name}: {error}")
    return [stage.weigh(one) for one in seen]


def _limit(stage: RunStage) -> Threshold:
    """A limit that a rule's number exceeds where the rule holds; ``>=`` is above the next lower number."""
    if stage.ignore_no_defect:
        return Threshold(-float(np.finfo(np.float32).max), "the first stage's word is ignored")
    if stage.limit is None:
        return Threshold(0.5, f"rule {stage.rule.text!r}")
    limit = np.float32(stage.limit.value)
    lower = np.nextafter(limit, np.float32(-np.inf))
    return Threshold(float(lower if stage.rule.sign == ">=" else limit), stage.limit.origin)


def frame_table(frames: Sequence[InstancePhoto]) -> pd.DataFrame:
    """Raw frames for testing, a row each as in a sample table; a frame is a defect one where any object is."""
    rows = []
    for frame in frames:
        if not all(frame.defect_types):
            raise ValueError(f"{frame.image_path}: its annotations lack 'defect_type', so no verdict can be checked.")
        kinds = sorted({kind for kind in frame.defect_types if kind != NORMAL})
        rows.append((str(frame.image_path), "test", int(bool(kinds)), ", ".join(kinds) or NORMAL))
    return pd.DataFrame(rows, columns=["image_path", "split", "label_index", "defect_type"])


def judge_objects(cascade: Cascade, frames: Sequence[InstancePhoto]) -> pd.DataFrame:
    """What becomes of every object of frames whose objects are known: found or lost by stage 1, which cuts objects out,
    and called a defect or not by stage 2.

    A row a true object, and one a found object that matches none (IoU below 0.5; ``is_true`` False): ``image_path``,
    ``object`` (its number among the found ones, 0: lost), ``is_true``, ``defect_type``, ``label_index``, ``called``
    (False for a lost one), ``alone`` (what stage 2 says of it, cut out by its true outline; False for what is none).
    """
    cutter, judge = cascade.stages
    rows = []
    for frame in progress(frames, "objects"):
        photo, path, masks = read_image(frame.image_path), str(frame.image_path), frame.instance_masks()
        labels = cutter.find(photo)
        outlines = np.zeros(labels.shape, np.int64)
        for number, mask in enumerate(masks, start=1):
            outlines[mask] = number
        verdicts = []  # by an object's number: of those that were found, and of the true ones
        for objects in (labels, outlines):
            parts = cutter.cut(Item(path, "frame", photo), objects)
            each = zip(parts, _weighed(judge, parts), strict=True)
            verdicts.append({part.number: judge.calls(row) for part, row in each})
        called, alone = verdicts
        pairs = {true: found for true, found, _ in match_instances(masks, labels).pairs}
        for true, kind in enumerate(frame.defect_types):
            number = pairs.get(true, 0)
            said = (called.get(number, False), alone.get(true + 1, False))
            rows.append((path, number, True, kind, int(kind != NORMAL), *said))
        rows += [
            (path, number, False, "", 0, called[number], False) for number in called if number not in pairs.values()
        ]
    columns = ["image_path", "object", "is_true", "defect_type", "label_index", "called", "alone"]
    return pd.DataFrame(rows, columns=columns)


def overlay_examples(folder: Path, verdicts: pd.DataFrame, truth: pd.DataFrame, n: int) -> dict[str, Any]:
    """Photos with their labelled defect and the overlay of every stage that has one, grey where a stage did not see it:
    what `gallery` takes, from a folder of results. First one photo of each way to end (found, lost, false alarm, let
    go), then further ones, ``n`` at most.
    """
    both = verdicts[verdicts["error"].isna()].merge(truth.drop(columns="split", errors="ignore"), on="image_path")
    ended = both["abnormal"].astype(str) + both["label_index"].astype(str) + both["stage"].fillna("")
    both = both.assign(ended=ended, turn=both.groupby(ended).cumcount(), defect=-both["label_index"])
    overlays = read_csv(folder / "stages.csv").query("object == 0 and overlay.notna()")
    files = overlays.set_index(["photo", "stage"])["overlay"].to_dict()
    stages = overlays["stage"].unique()
    pictures = []
    for row in both.sort_values(["turn", "defect", "ended"], kind="stable").head(n).itertuples():
        photo, mask_path = read_image(row.image_path), getattr(row, "mask_path", "")
        pictures.append((photo, read_mask(mask_path) if mask_path else None, f"{row.defect_type}: {row.verdict}"))
        for stage in stages:
            file = files.get((row.photo, stage))
            picture = read_image(folder / file) if file else np.full_like(photo, 225)
            pictures.append((picture, None, stage if file else f"{stage}: not seen"))
    grid = dict(zip(("pictures", "masks", "titles"), map(list, zip(*pictures, strict=True)), strict=True))
    return grid | {"columns": 4 if len(stages) == 1 else 1 + len(stages)}


def time_cascade(cascade: Cascade, paths: Sequence[str | Path]) -> pd.DataFrame:
    """Milliseconds a photo of every stage alone and of the cascade (the last row), one photo at a time; reading is not
    counted. Rows as of :func:`helpers.compute.time_stages`; where objects are cut out, the second stage's time is that
    of all objects of a photo.
    """
    photos = [Item(str(path), "timed", read_image(path)) for path in paths]

    def fresh(batch: Sequence[Item]) -> list[Item]:
        return [Item(one.source, one.key, one.photo) for one in batch]

    functions, stored = {}, []
    first, *others = cascade.stages
    if isinstance(first, CutterStage):
        parts = {photo.source: first.run(fresh([photo]), Path(), ()) for photo in photos}
        functions[first.name] = lambda batch: first.run(fresh(batch), Path(), ())
        for stage in others:
            functions[stage.name] = lambda batch, stage=stage: stage.run(parts[batch[0].source], Path(), ())
    else:
        stored = [stage.predictor.photo_time(paths) | {"stage": stage.name} for stage in cascade.run_stages]
    functions["cascade"] = lambda batch: cascade.judge(fresh(batch), Path())
    return pd.concat([pd.DataFrame(stored), time_stages(functions, photos, (1,))], ignore_index=True)
