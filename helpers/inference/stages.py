"""A stage of a cascade: a finished run with a rule; and what a photo carries on its way through them."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from helpers.analysis.classes import decide
from helpers.data.images import to_network_frame
from helpers.drawing import draw_overlay
from helpers.inference.object_mask import clean_mask, otsu_object_mask
from helpers.inference.predictor import NOTEBOOKS, Prediction, Predictor, foreground_segmenter
from helpers.models.open_set import OPEN_SET_FILE, MahalanobisScorer
from helpers.paths import file_sha256, printable, write_whole
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # of a name, or the path with it
UNKNOWN = "unknown"  # what a classifier names a defect that is like none it knows
ERROR = "ERROR"  # verdict on a photo that could not be judged
CLASS = "class"  # as a verdict: the class that the classifier names
FOLDERS = {"mask": ("masks", ".png"), "map": ("maps", ".npy"), "overlay": ("overlays", ".jpg")}  # what can be saved
THRESHOLDS_FILE = "thresholds.json"  # of an open set, beside its open_set.npz
UNKNOWN_BY = {"distance": ("tau",), "confidence": ("kappa",), "both": ("tau", "kappa")}

STAGE_COLUMNS = (
    *("photo", "object", "x", "y", "width", "height"),
    *("stage", "decision", "passed", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "probability", "distance", "tau", "kappa"),
    *("peak", "area", "pixel_threshold", "mask_pixels", "milliseconds", "mask", "map", "overlay", "error"),
)

# --------------------------------------------------------------------------------------------------------------- rules

_MEASURE = re.compile(r"(score|peak|area|probability of (?P<class>.+?))\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>\S+)")
_CLASS = re.compile(r"class (?P<negated>not )?in (?P<names>\[.*\]|\w+)")
RULES = (
    "always, score > LIMIT, peak > LIMIT, area >= LIMIT, probability of CLASS > LIMIT, class in [A, B], "
    "class not in [A, B]"
)


def sign_of(rule: str) -> str:
    """The comparison in a rule as it was written, ``>=``, ``<`` ...; empty where it has none."""
    found = _MEASURE.fullmatch(rule)
    return found["sign"] if found else ""


@dataclass(frozen=True)
class Rule:
    """When a stage lets a photo go on: ``kind`` is always, score, peak, area, probability or class; ``limit`` a number
    or the name of a threshold stored with the run, ``origin`` says where a number comes from.
    """

    text: str
    kind: str
    sign: str = ""
    limit: float | str = 0.0
    origin: str = ""
    classes: tuple[str, ...] = ()
    negated: bool = False

    @classmethod
    def parse(cls, text: str, parameters: Mapping[str, Any] | None = None) -> Rule:
        """Read a rule; a limit or a list of classes may be the name of a parameter. ValueError: it is none."""
        parameters, text = parameters or {}, str(text).strip()
        if text == "always":
            return cls(text, "always")
        if found := _MEASURE.fullmatch(text):
            word, name = found["limit"], found["class"]
            limit, origin = (parameters[word], f"parameter {word}") if word in parameters else (word, "given")
            if isinstance(limit, bool) or not isinstance(limit, int | float | str):
                raise ValueError(f"rule {text!r}: {word} is {limit!r}, which is no threshold.")
            with suppress(ValueError, OverflowError):  # the name of a stored threshold
                limit = float(limit)
            kind = "probability" if name else found[1]
            if kind not in ("score", "peak") and isinstance(limit, str):
                raise ValueError(f"rule {text!r}: {limit!r} is no number and no parameter.")
            return cls(text, kind, found["sign"], limit, origin, (name,) if name else ())
        if found := _CLASS.fullmatch(text):
            names = found["names"]
            if names.startswith("["):
                values = names[1:-1].split(",")
            elif names in parameters:
                values = parameters[names] if isinstance(parameters[names], list) else [parameters[names]]
            else:
                raise ValueError(f"rule {text!r}: {names} is no parameter; give the classes in brackets.")
            classes = tuple(str(value).strip().strip("'\"") for value in values if str(value).strip())
            if classes:
                return cls(text, "class", classes=classes, negated=bool(found["negated"]))
        raise ValueError(f"rule {text!r} is none; rules are: {RULES}.")


@dataclass(frozen=True)
class OpenSet:
    """What tells that a photo is like no class that a classifier knows: the distance of its embedding to the nearest
    class is above ``tau``, or the probability of its class below ``kappa``; None: that does not count.
    """

    scorer: MahalanobisScorer
    tau: Threshold | None
    kappa: Threshold | None
    files: str  # their fingerprints

    @classmethod
    def load(cls, folder: Path, predictor: Predictor, by: str = "distance") -> OpenSet:
        """Open what notebook 05 left for a classifier; ``by``: distance (tau), confidence (kappa) or both (either)."""
        if by not in UNKNOWN_BY:
            raise ValueError(f"unknown_by={by!r}: expected {', '.join(UNKNOWN_BY)}.")
        files, notebook = [folder / OPEN_SET_FILE, folder / THRESHOLDS_FILE], NOTEBOOKS["open_set"]
        for missing in (file for file in files if not file.is_file()):
            raise MissingRunError(f"There is no {missing}: run notebook {notebook} first, or say 'unknown: none'.")
        stored = json.loads(files[1].read_text(encoding="utf-8"))
        for name in UNKNOWN_BY[by]:
            if name not in stored:
                raise ValueError(f"{files[1]} holds no threshold {name!r}; run notebook {notebook} again.")
        limits = {name: Threshold.from_dict(stored[name]) for name in UNKNOWN_BY[by]}
        scorer = MahalanobisScorer.load(files[0])
        strange = sorted(set(scorer.classes) ^ set(predictor.classes or ()))
        if strange:
            raise ValueError(f"{folder} was fitted on other classes than {predictor.run.folder}: {', '.join(strange)}.")
        return cls(scorer, limits.get("tau"), limits.get("kappa"), " ".join(map(file_sha256, files)))

    def __call__(self, embeddings: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,) float64 and whether each photo is unknown (N,) bool, from (N, D) and (N, C)."""
        distances = self.scorer.scores(embeddings)
        return distances, decide(distances, probabilities.max(1), self.tau, self.kappa)

    def describe(self) -> dict[str, Any]:
        limits = {"tau": self.tau, "kappa": self.kappa}
        return {"files": self.files} | {name: limit.to_dict() if limit else None for name, limit in limits.items()}


# ---------------------------------------------------------------------------------------------------------- the things


@dataclass
class Item:
    """A photo, or an object cut out of one, on its way through the stages."""

    source: str  # file that it comes from
    key: str  # its name in the folder of results
    photo: np.ndarray  # (H, W, 3) uint8
    number: int = 0  # of the object in its photo, from 1; 0: the photo itself
    box: tuple[int, ...] = ()  # x, y, width, height of the object in its photo, pixels
    mask: np.ndarray | None = None  # (H, W) bool, where the object is in this photo; None: everywhere
    rows: list[dict[str, Any]] = field(default_factory=list)  # one for each stage it went through
    verdict: str = ""  # empty while it is on its way
    abnormal: bool | None = None  # None where nobody can say
    parts: list[Item] = field(default_factory=list)  # objects cut out of it
    error: str = ""

    def add_row(self, stage: str, **values: Any) -> None:
        """Note what a stage did with it; non-finite numbers become None."""
        row = dict.fromkeys(STAGE_COLUMNS) | {"object": self.number, "stage": stage}
        row |= dict(zip(("x", "y", "width", "height"), self.box, strict=False))
        row |= {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in values.items()}
        self.rows.append(row)

    def fail(self, stage: str, error: str) -> None:
        self.verdict, self.abnormal, self.error = ERROR, None, error
        self.add_row(stage, decision=ERROR, error=error)

    @contextmanager
    def saving(self, stage: str) -> Iterator[None]:
        """An item whose name, or the path with it, the file system refuses could not be judged; the rest goes on."""
        try:
            yield
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            self.fail(stage, f"its results cannot be saved under its name ({printable(str(error))})")


@dataclass(frozen=True)
class Seen:
    """What a stage's network says of one item, its map confined to the object, before any rule is applied."""

    prediction: Prediction
    distance: float | None  # to the nearest class that an open set knows
    is_unknown: bool
    milliseconds: float


class RunStage:
    """A finished run with a rule (see :data:`RULES`).

    An item for which the rule holds goes on, or gets the verdict ``then`` in the last stage; the others get
    ``otherwise``. ``then: class`` stands for the class that the classifier names: the most probable one, or, where the
    rule has found the photo abnormal by its score, the most probable of those that are not the normal class; or
    ``unknown``. With ``ignore_no_defect`` everything goes on; what the rule says is noted only.

    The score is the run's own. Peak and area are of its map at the network's size, confined to the object where there
    is one (cut out by an earlier stage, or found by ``object_mask``: none, otsu, or the foreground network beside the
    run): the peak is its maximum, for which the run's ``pixel`` threshold was set; the area is the share of the map
    above ``pixel_threshold`` (a name stored with the run, ``start``, or a number). The mask that is saved is the same
    map at the photo's own size above that threshold, so that there is one wherever the peak is above it, and cleaned
    by ``morphology``, options of :func:`helpers.inference.object_mask.clean_mask`.

    Raises:
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
        self._check()
        self.limit: Threshold | None = None
        if isinstance(self.rule.limit, str):
            self.limit = predictor.threshold(self.rule.limit)
        elif self.rule.sign:
            self.limit = Threshold(value=self.rule.limit, origin=self.rule.origin)
        self.pixel_limit = None if predictor.classes else predictor.threshold(pixel_threshold)
        if object_mask not in ("none", "otsu", "foreground"):
            raise ValueError(f"object_mask={object_mask!r}: expected none, otsu or foreground.")
        self._segment = otsu_object_mask if object_mask == "otsu" else None
        if object_mask == "foreground":
            self._segment = foreground_segmenter(predictor.run.folder.parent)
        clean_mask(np.zeros((1, 1), dtype=bool), **self.morphology)  # a wrong value now, not at the first photo

    def _check(self) -> None:
        rule, known = self.rule, list(self.predictor.classes or ())
        wants = {
            f"rule {rule.text!r}": {"class": True, "probability": True, "area": False, "peak": False}.get(rule.kind)
        }
        wants |= {"'then: class'": True if self.then == CLASS else None, "'unknown'": True if self.unknown else None}
        wants |= {"'morphology'": False if self.morphology else None}
        for what, classifier in wants.items():
            if classifier is not None and classifier != bool(known):
                kinds = ("a classifier", "a detector") if classifier else ("a detector's map", "a classifier")
                run = self.predictor.run.name
                raise ValueError(f"stage {self.name}: {what} needs {kinds[0]}, and {run} is {kinds[1]}.")
        known += [UNKNOWN] if self.unknown and rule.kind == "class" else []
        wrong = [name for name in rule.classes if name not in known]
        if wrong:
            raise ValueError(
                f"stage {self.name}: {self.predictor.run.name} knows no class {', '.join(wrong)}; it knows "
                f"{', '.join(known)}."
            )

    def describe(self) -> dict[str, Any]:
        info = self.predictor.run.info
        return {
            "name": self.name,
            "run": info["model"],
            "run_fingerprint": info["fingerprint"],
            "run_finished_at": info.get("finished_at"),
            "checkpoint": info.get("files", {}),
            "backend": self.predictor.backend,
            "rule": self.rule.text,
            "limit": self.limit.to_dict() if self.limit else list(self.rule.classes),
            "then": self.then,
            "otherwise": self.otherwise,
            "pixel_threshold": self.pixel_limit.to_dict() if self.pixel_limit else None,
            "object_mask": self.object_mask,
            "morphology": self.morphology,
            "ignore_no_defect": self.ignore_no_defect,
            "unknown": self.unknown.describe() if self.unknown else None,
        }

    def run(self, items: Sequence[Item], out: Path, save: Collection[str]) -> list[Item]:
        """Judge items, save pictures below ``out / name``; returns those that go on."""
        seen = zip(items, self.look(items), strict=True)
        return [item for item, one in seen if self.decide(item, one, out, save)]

    def look(self, items: Sequence[Item]) -> Iterator[Seen]:
        """What the network says of items, a batch at a time; nothing is decided, nothing is noted."""
        size = self.predictor.batch_size
        for batch in (items[first : first + size] for first in range(0, len(items), size)):
            started = time.perf_counter()
            photos, sources = [item.photo for item in batch], [item.source for item in batch]
            found = self.predictor.judge_each(photos, sources)
            good = [one for one in found if not one.error]
            answers: Iterator[tuple[float | None, bool]] = repeat((None, False))
            if self.unknown is not None and good:
                embedded = np.stack([one.embedding for one in good]), np.stack([one.probabilities for one in good])
                answers = zip(*(part.tolist() for part in self.unknown(*embedded)), strict=True)
            milliseconds = 1000 * (time.perf_counter() - started) / len(batch)
            for item, one in zip(batch, found, strict=True):
                answer = (None, False) if one.error else next(answers)
                yield Seen(self._confined(one, item), *answer, milliseconds)

    def weigh(self, seen: Seen) -> dict[str, Any]:
        """Columns of a stage's row: what the rule looks at, and whether it holds (``passed``) at the limits as they are
        now. The one place where a rule is applied.
        """
        prediction, rule = self.predictor.rejudge(seen.prediction, self._score_limit), self.rule
        label, probability = self._name(prediction, seen.is_unknown)
        row: dict[str, Any] = {"rule": rule.text, "score": prediction.score, "confidence": prediction.confidence}
        row |= {"class": label, "probability": probability, "distance": seen.distance}
        row |= {name: getattr(limit, "value", None) for name, limit in self._limits().items()}
        row |= {"origin": self.limit.origin if self.limit else None, "value": None, "passed": True}
        if prediction.network_map is not None:
            area = float(self.pixel_limit.exceeds(prediction.network_map).mean())
            row |= {"peak": float(prediction.network_map.max()), "area": area}
        if rule.kind in ("area", "peak"):
            row["confidence"] = None  # nobody knows how good photos are distributed in these
        if rule.kind == "class":
            row["passed"] = (label in rule.classes) != rule.negated
        elif rule.kind == "probability":
            row["value"] = float(prediction.probabilities[self.predictor.classes.index(rule.classes[0])])
        elif rule.kind != "always":
            row["value"] = row[rule.kind]
        return row if row["value"] is None else row | {"passed": bool(self.holds(row["value"]))}

    def decide(self, item: Item, seen: Seen, out: Path, save: Collection[str] = ()) -> bool:
        """Apply the rule, note what it says in the item, save pictures below ``out / name``; whether it goes on."""
        if seen.prediction.error:
            item.fail(self.name, printable(seen.prediction.error))
            return False
        row = self.weigh(seen) | {"milliseconds": round(seen.milliseconds, 3)}
        if seen.prediction.network_map is not None:
            whole, mask = self.photo_map(seen)
            row["mask_pixels"] = int(mask.sum())
            row |= self._save(item, whole, mask, out, save)
            if item.error:
                return False
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
        """Whether a row of :meth:`weigh` is a defect in a stage that gives its verdict."""
        return bool(row["passed"]) and not (self.then == CLASS and row["class"] == self.predictor.normal_class)

    def holds(self, values: ArrayLike) -> np.ndarray:
        """Whether numbers fulfil the rule: ``>=`` is "not below", ``<=`` is "not above"."""
        below = replace(self.limit, below=self.rule.sign in ("<", ">="))
        return below.exceeds(values) != (self.rule.sign in (">=", "<="))

    def photo_map(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """The map at the item's own size, (H, W) float32, and its mask of defects, (H, W) bool."""
        whole = self.predictor.photo_map(seen.prediction)
        mask = self.pixel_limit.exceeds(whole)
        return whole, clean_mask(mask, **self.morphology) if self.morphology else mask

    def _save(
        self, item: Item, whole: np.ndarray, mask: np.ndarray, out: Path, save: Collection[str]
    ) -> dict[str, str]:
        """Save the mask (8-bit grey, 0 or 255), the map (float16, as in a run's folder: off by at most 0.05 % of a
        value) and the photo with both drawn in, each file whole or not at all; what was saved -> its path in ``out``.
        """
        saved, limit = {}, self.pixel_limit.value
        with item.saving(self.name):
            if "mask" in save:
                picture = Image.fromarray(mask.astype(np.uint8) * 255)
                saved["mask"] = save_file(out, self.name, "mask", item.key, picture.save)
            if "map" in save:
                values = whole.astype(np.float16)
                saved["map"] = save_file(out, self.name, "map", item.key, lambda file: np.save(file, values))
            if "overlay" in save:
                saved["overlay"] = save_overlay(out, self.name, item.key, draw_overlay(item.photo, whole, mask, limit))
        return saved

    @property
    def _score_limit(self) -> Threshold:
        return self.limit if self.rule.kind == "score" else self.predictor.thresholds["image"]

    def _limits(self) -> dict[str, Threshold | None]:
        known = {"threshold": self.limit, "pixel_threshold": self.pixel_limit}
        return known | {name: getattr(self.unknown, name, None) for name in ("tau", "kappa")}

    def _name(self, prediction: Prediction, is_unknown: bool) -> tuple[str | None, float | None]:
        if prediction.probabilities is None:
            return None, None
        probabilities, classes = prediction.probabilities.copy(), self.predictor.classes
        if self.rule.kind == "score" and prediction.abnormal and self.predictor.normal_class:
            probabilities[classes.index(self.predictor.normal_class)] = -1
        best = int(probabilities.argmax())
        return (UNKNOWN if is_unknown else classes[best]), float(probabilities[best])

    def _confined(self, prediction: Prediction, item: Item) -> Prediction:
        """The map is 0 beyond the object: as it was cut out, and as ``object_mask`` finds it."""
        area = item.mask
        if prediction.network_map is None or (area is None and self._segment is None):
            return prediction
        if self._segment is not None:
            found = self._segment(item.photo)
            area = found if area is None else area & found
        inside = to_network_frame(area, self.predictor.parameters)
        return replace(prediction, network_map=prediction.network_map * inside)


def save_overlay(out: Path, stage: str, key: str, picture: np.ndarray) -> str:
    """Save a photo that has been drawn on; its path in ``out``."""
    return save_file(
        out, stage, "overlay", key, lambda file: Image.fromarray(picture).save(file, quality=90, subsampling=0)
    )


def save_file(out: Path, stage: str, kind: str, key: str, write: Callable[[Path], Any]) -> str:
    folder, suffix = FOLDERS[kind]
    path = f"{stage}/{folder}/{key}{suffix}"
    write_whole(out / path, write)
    return path
