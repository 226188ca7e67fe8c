"""A stage of a cascade: a finished run with a rule that lets a photo go on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from helpers.analysis.classes import UNKNOWN, decide
from helpers.data.images import to_network_frame
from helpers.drawing import draw_overlay
from helpers.inference.cutting import foreground_segmenter
from helpers.inference.object_mask import clean_mask, otsu_object_mask
from helpers.inference.pictures import Item, save_overlay, save_result
from helpers.inference.predictor import NOTEBOOKS, Prediction, Predictor
from helpers.models.open_set import OPEN_SET_FILE, MahalanobisScorer
from helpers.paths import file_sha256, printable
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold

CLASS = "class"  # as a verdict: the class that the classifier names
THRESHOLDS_FILE = "thresholds.json"  # of an open set, beside its open_set.npz
UNKNOWN_BY = {"distance": ("tau",), "confidence": ("kappa",), "both": ("tau", "kappa")}
RULE = re.compile(r"(?P<kind>score|peak|area)\s*(?P<sign>>=?)\s*(?P<limit>[^\s=]\S*)|always")


class Rule(NamedTuple):
    """When a stage lets a photo go on: ``kind`` is always, score, peak or area; ``limit`` a number or the name of a
    threshold stored with the run, ``origin`` says where a number comes from.
    """

    text: str
    kind: str
    sign: str = ""
    limit: float | str = ""
    origin: str = ""

    @classmethod
    def parse(cls, text: str, parameters: Mapping[str, Any] | None = None) -> Rule:
        """Read a rule; its limit may be the name of a parameter."""
        found, parameters = RULE.fullmatch(text.strip()), parameters or {}
        if not found:
            raise ValueError(f"rule {text!r} is none; rules are: always, score > LIMIT, peak > LIMIT, area >= LIMIT.")
        if not found["kind"]:
            return cls("always", "always")
        word = found["limit"]
        limit, origin = (parameters[word], f"parameter {word}") if word in parameters else (word, "given")
        with suppress(ValueError, TypeError, OverflowError):  # the name of a stored threshold
            limit = limit if isinstance(limit, bool) else float(limit)
        if not isinstance(limit, float) and (found["kind"] == "area" or not isinstance(limit, str)):
            raise ValueError(f"rule {text!r}: {word} is {limit!r}, which is no threshold.")
        return cls(text.strip(), found["kind"], found["sign"], limit, origin)


class OpenSet(NamedTuple):
    """A photo is like no known class where the distance of its embedding to the nearest one is above ``tau``, or the
    probability of its class below ``kappa``; None: that does not count.
    """

    scorer: MahalanobisScorer
    tau: Threshold | None
    kappa: Threshold | None
    files: str  # their fingerprints

    @classmethod
    def load(cls, folder: Path, predictor: Predictor, by: str = "distance") -> OpenSet:
        """Open what notebook 05 left for a classifier; ``by`` is one of `UNKNOWN_BY`."""
        files = [folder / OPEN_SET_FILE, folder / THRESHOLDS_FILE]
        for missing in (file for file in files if not file.is_file()):
            raise MissingRunError(
                f"There is no {missing}: run notebook {NOTEBOOKS['open_set']} first, or say 'unknown: none'."
            )
        scorer, stored = MahalanobisScorer.load(files[0]), json.loads(files[1].read_text(encoding="utf-8"))
        limits = {name: Threshold.from_dict(stored.get(name)) for name in UNKNOWN_BY[by]}
        strange = sorted(set(scorer.classes) ^ set(predictor.classes or ()))
        if strange:
            raise ValueError(f"{folder} was fitted on other classes than {predictor.run.folder}: {', '.join(strange)}.")
        return cls(scorer, limits.get("tau"), limits.get("kappa"), " ".join(map(file_sha256, files)))


class RunStage:
    """A finished run with a rule.

    An item for which the rule holds goes on, or gets the verdict ``then`` in the last stage; the others get
    ``otherwise``. ``then: class`` stands for the most probable class, without the normal one where the rule has found
    the photo abnormal by its score; or ``unknown``. With ``ignore_no_defect`` everything goes on.

    The score is the run's own. Peak and area are of its map at the network's size, confined to the object where there
    is one (cut out by an earlier stage, or found by ``object_mask``: none, otsu, or the foreground network beside the
    run): the peak is its maximum, for which the run's ``pixel`` threshold was set; the area is the share of the map
    above ``pixel_threshold`` (a name stored with the run, ``start``, or a number). The mask that is saved is the same
    map at the photo's own size above that threshold, cleaned by ``morphology``, options of `clean_mask`.

    ValueError: the rule asks for something that the run does not give; or an option does not fit.
    """

    def __init__(
        self,
        predictor: Predictor,
        rule: str = "score > image",
        *,
        name: str = "",
        then: str = "",
        otherwise: str = "",
        pixel_threshold: float | str = "pixel",
        object_mask: str = "none",
        morphology: Mapping[str, int] | None = None,
        unknown: OpenSet | None = None,
        ignore_no_defect: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.predictor, self.name = predictor, name or predictor.run.folder.name
        self.rule = Rule.parse(rule, parameters)
        self.then, self.otherwise, self.ignore_no_defect = then, otherwise, ignore_no_defect
        self.unknown, self.object_mask, self.morphology = unknown, object_mask, dict(morphology or {})
        classes = predictor.classes
        if (unknown or then == CLASS) if not classes else (self.rule.kind in ("area", "peak") or self.morphology):
            kind = f"a classifier of {', '.join(classes)}" if classes else "a detector"
            raise ValueError(f"stage {self.name}: {predictor.run.name} is {kind}; its options ask for the other kind.")
        clean_mask(np.zeros((1, 1), dtype=bool), **self.morphology)  # a wrong value now, not at the first photo
        self.limit: Threshold | None = None
        if isinstance(self.rule.limit, float):
            self.limit = Threshold(value=self.rule.limit, origin=self.rule.origin)
        elif self.rule.sign:
            self.limit = predictor.threshold(self.rule.limit)
        self.pixel_limit = None if classes else predictor.threshold(pixel_threshold)
        self._segment = otsu_object_mask if object_mask == "otsu" else None
        if object_mask == "foreground":
            self._segment = foreground_segmenter(predictor.run.folder.parent)

    def describe(self) -> dict[str, Any]:
        """What decides, as plain data."""
        info, unknown = self.predictor.run.info, self.unknown
        limits = (self.limit, self.pixel_limit, unknown and unknown.tau, unknown and unknown.kappa)
        limit, pixel_limit, tau, kappa = (each and each.to_dict() for each in limits)
        said = ("name", "then", "otherwise", "object_mask", "morphology", "ignore_no_defect")
        return {name: getattr(self, name) for name in said} | {
            "run": info["model"],
            "run_fingerprint": info["fingerprint"],
            "run_finished_at": info.get("finished_at"),
            "checkpoint": info.get("files", {}),
            "backend": self.predictor.backend,
            "rule": self.rule.text,
            "limit": limit or [],
            "pixel_threshold": pixel_limit,
            "unknown": unknown and {"files": unknown.files, "tau": tau, "kappa": kappa},
        }

    def run(self, items: Sequence[Item], out: Path, save: Collection[str]) -> list[Item]:
        """Judge items, save pictures below ``out / name``; returns those that go on."""
        seen = zip(items, self.look(items), strict=True)
        return [item for item, one in seen if self.decide(item, one, out, save)]

    def look(self, items: Sequence[Item]) -> Iterator[Prediction]:
        """What the network says of items, a batch at a time, maps confined to the object; nothing is decided."""
        size = self.predictor.batch_size
        for batch in (items[first : first + size] for first in range(0, len(items), size)):
            started = time.perf_counter()
            found = self.predictor.judge_each([item.photo for item in batch], [item.source for item in batch])
            embeddings = [one.embedding for one in found if not one.error]
            distances = iter(self.unknown.scorer.scores(np.stack(embeddings)) if self.unknown and embeddings else ())
            milliseconds = 1000 * (time.perf_counter() - started) / len(batch)
            for item, one in zip(batch, found, strict=True):
                distance = float(next(distances)) if self.unknown and not one.error else None
                confined = self._confined(one.network_map, item)
                yield replace(one, network_map=confined, distance=distance, milliseconds=milliseconds)

    def _confined(self, network_map: np.ndarray | None, item: Item) -> np.ndarray | None:
        """A map that is 0 beyond the object: as it was cut out, and as ``object_mask`` finds it."""
        areas = [] if item.mask is None else [item.mask]
        areas += [self._segment(item.photo)] if self._segment and network_map is not None else []
        if network_map is None or not areas:
            return network_map
        return network_map * to_network_frame(np.logical_and.reduce(areas), self.predictor.parameters)

    def weigh(self, prediction: Prediction) -> dict[str, Any]:
        """Columns of a stage's row: what the rule looks at, and whether it holds (``passed``) at the limits as they are
        now. The one place where a rule is applied.
        """
        kind = self.rule.kind
        score_limit = self.limit if kind == "score" else self.predictor.thresholds["image"]
        prediction = self.predictor.rejudge(prediction, score_limit)
        label, probability = self._name(prediction)
        row: dict[str, Any] = {"rule": self.rule.text, "score": prediction.score, "confidence": prediction.confidence}
        row |= {"class": label, "probability": probability, "distance": prediction.distance}
        limits = {"threshold": self.limit, "pixel_threshold": self.pixel_limit}
        limits |= {"tau": self.unknown.tau, "kappa": self.unknown.kappa} if self.unknown else {}
        row |= {name: limit and limit.value for name, limit in limits.items()}
        if prediction.network_map is not None:
            area = float(self.pixel_limit.exceeds(prediction.network_map).mean())
            row |= {"peak": float(prediction.network_map.max()), "area": area}
        if kind in ("area", "peak"):
            row["confidence"] = None  # nobody knows how good photos are distributed in these
        if kind == "always":
            return row | {"passed": True}
        return row | {"origin": self.limit.origin, "value": row[kind], "passed": bool(self.holds(row[kind]))}

    def decide(self, item: Item, seen: Prediction, out: Path, save: Collection[str] = ()) -> bool:
        """Apply the rule, note what it says in the item, save pictures below ``out / name``; whether it goes on.

        Masks are 8-bit grey, 0 or 255; maps float16, as in a run's folder: off by at most 0.05 % of a value.
        """
        if seen.error:
            item.fail(self.name, printable(str(seen.error)))
            return False
        row = self.weigh(seen) | {"milliseconds": round(seen.milliseconds, 3)}
        if seen.network_map is not None:
            whole, mask = self.photo_map(seen)
            row["mask_pixels"] = int(mask.sum())
            if "mask" in save:
                picture = Image.fromarray(mask.astype(np.uint8) * 255)
                row["mask"] = save_result(out, self.name, "mask", item.key, picture.save)
            if "map" in save:
                values = whole.astype(np.float16)
                row["map"] = save_result(out, self.name, "map", item.key, lambda file: np.save(file, values))
            if "overlay" in save:
                picture = draw_overlay(item.photo, whole, mask, self.pixel_limit.value)
                row["overlay"] = save_overlay(out, self.name, item.key, picture)
        decision, goes_on = self.otherwise, not self.then and (row["passed"] or self.ignore_no_defect)
        if row["passed"] or self.ignore_no_defect:
            decision = (row["class"] if self.then == CLASS else self.then) or "goes on"
        if not goes_on:
            item.verdict, item.abnormal = decision, self.calls(row)
        if self.ignore_no_defect and not row["passed"]:
            decision = f"{decision} ({self.otherwise} ignored)"
        item.add_row(self.name, decision=decision, **row)
        return goes_on

    def calls(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of `weigh` is a defect in a stage that gives its verdict."""
        return row["passed"] and not (self.then == CLASS and row["class"] == self.predictor.normal_class)

    def holds(self, values: ArrayLike) -> np.ndarray:
        """Whether numbers fulfil the rule: ``>=`` is "not below"."""
        below = self.rule.sign == ">="
        return replace(self.limit, below=below).exceeds(values) != below

    def photo_map(self, seen: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """The map at the item's own size, (H, W) float32, and its mask of defects, (H, W) bool."""
        whole = self.predictor.photo_map(seen)
        mask = self.pixel_limit.exceeds(whole)
        return whole, clean_mask(mask, **self.morphology) if self.morphology else mask

    def _name(self, prediction: Prediction) -> tuple[str | None, float | None]:
        """The class that a classifier names, and its probability."""
        if prediction.probabilities is None:
            return None, None
        probabilities, classes, unknown = prediction.probabilities.copy(), self.predictor.classes, self.unknown
        strange = unknown and decide([prediction.distance], [probabilities.max()], unknown.tau, unknown.kappa).item()
        if self.rule.kind == "score" and prediction.abnormal and self.predictor.normal_class:
            probabilities[classes.index(self.predictor.normal_class)] = -1
        best = int(probabilities.argmax())
        return (UNKNOWN if strange else classes[best]), float(probabilities[best])
