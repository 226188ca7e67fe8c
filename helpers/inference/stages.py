"""The stages that a cascade is made of: a finished run with a rule, and the network that cuts objects out."""

from __future__ import annotations

import errno
import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from helpers.analysis.classes import decide
from helpers.compute import torch_device
from helpers.data.images import to_network_frame
from helpers.data.pieces import BORDERS, background_colour, cut_window, own_pixels, require_window
from helpers.inference.object_mask import clean_mask, otsu_object_mask
from helpers.inference.predictor import NOTEBOOKS, Prediction, Predictor, foreground_segmenter
from helpers.inference.saving import save_boxes, save_pictures
from helpers.models.open_set import OPEN_SET_FILE, MahalanobisScorer
from helpers.paths import file_sha256, printable
from helpers.runs import MissingRunError
from helpers.thresholds import Threshold

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # of a name, or the path with it
UNKNOWN = "unknown"  # what a classifier names a defect that is like none it knows
ERROR = "ERROR"  # verdict on a photo that could not be judged
THRESHOLDS_FILE = "thresholds.json"  # of an open set, beside its open_set.npz
UNKNOWN_BY = {"distance": ("tau",), "confidence": ("kappa",), "both": ("tau", "kappa")}
CLASS = "class"  # as a verdict: the class that the classifier names
BACKGROUNDS = ("keep", "hide_neighbours", "remove")
SHADOW = 5  # pixels around an object that are not taken for background
MARGIN = 0.1  # free room on each side of a cut-out object, in parts of its longer side, as in cut_outs

STAGE_COLUMNS = (
    *("photo", "object", "x", "y", "width", "height"),
    *("stage", "decision", "passed", "rule", "value", "threshold", "origin"),
    *("score", "confidence", "class", "probability", "distance", "tau", "kappa"),
    *("peak", "area", "pixel_threshold", "mask_pixels", "milliseconds", "mask", "map", "overlay", "error"),
)


@dataclass(frozen=True)
class OpenSet:
    """What tells that a photo is like no class that a classifier knows.

    Attributes:
        scorer: distance of an embedding to the nearest known class.
        tau: a photo is unknown above this distance; None: the distance does not count.
        kappa: or below this probability of its class; None: that does not count.
        fingerprint: of the files it comes from.
    """

    scorer: MahalanobisScorer
    tau: Threshold | None
    kappa: Threshold | None
    fingerprint: str

    @classmethod
    def load(cls, folder: Path, predictor: Predictor, by: str = "distance") -> OpenSet:
        """Open what notebook 05 left: ``open_set.npz``, and ``thresholds.json`` with ``tau`` and ``kappa``.

        Args:
            folder: that holds both files.
            predictor: the classifier whose embeddings it is to judge.
            by: ``distance`` (above tau), ``confidence`` (below kappa) or ``both`` (either).

        Raises:
            MissingRunError: there is none.
            ValueError: a threshold is missing, it was fitted on other classes, or ``by`` is another word.
        """
        if by not in UNKNOWN_BY:
            raise ValueError(f"unknown_by={by!r}: expected {', '.join(UNKNOWN_BY)}.")
        files = [folder / OPEN_SET_FILE, folder / THRESHOLDS_FILE]
        for missing in (file for file in files if not file.is_file()):
            raise MissingRunError(
                f"There is no {missing}: run notebook {NOTEBOOKS['open_set']} first, or say 'unknown: none'."
            )
        stored = json.loads(files[1].read_text(encoding="utf-8"))
        limits = {}
        for name in UNKNOWN_BY[by]:
            if name not in stored:
                raise ValueError(f"{files[1]} holds no threshold {name!r}; run notebook {NOTEBOOKS['open_set']} again.")
            limits[name] = Threshold.from_dict(stored[name])
        scorer = MahalanobisScorer.load(files[0])
        strange = sorted(set(scorer.classes) ^ set(predictor.classes or ()))
        if strange:
            raise ValueError(f"{folder} was fitted on other classes than {predictor.run.folder}: {', '.join(strange)}.")
        return cls(scorer, limits.get("tau"), limits.get("kappa"), " ".join(map(file_sha256, files)))

    def __call__(self, embeddings: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,) float64 and whether each photo is unknown (N,) bool.

        Args:
            embeddings: (N, D).
            probabilities: (N, C).
        """
        distances = self.scorer.scores(embeddings)
        return distances, decide(distances, probabilities.max(1), self.tau, self.kappa)

    def describe(self) -> dict[str, Any]:
        """What decides, plain data."""
        limits = {
            name: limit.to_dict() if limit else None for name, limit in (("tau", self.tau), ("kappa", self.kappa))
        }
        return {"files": self.fingerprint, **limits}


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
    """When a stage lets a photo go on.

    Attributes:
        text: as it was written.
        kind: ``always``, ``score``, ``peak``, ``area``, ``probability`` or ``class``.
        sign: of the comparison, for the four in the middle.
        limit: number, or name of a threshold stored with the run.
        origin: where a number comes from, in words.
        classes: names that ``probability`` and ``class`` speak of.
        negated: for ``class not in``.
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
        """Read a rule; a limit or a list of classes may be the name of a parameter.

        Raises:
            ValueError: it is none; the message lists what there is.
        """
        parameters = parameters or {}
        stripped = str(text).strip()
        if stripped == "always":
            return cls(stripped, "always")
        if found := _MEASURE.fullmatch(stripped):
            word = found["limit"]
            limit, origin = (parameters[word], f"parameter {word}") if word in parameters else (word, "given")
            if isinstance(limit, bool) or not isinstance(limit, int | float | str):
                raise ValueError(f"rule {stripped!r}: {word} is {limit!r}, which is no threshold.")
            with suppress(ValueError, OverflowError):  # the name of a stored threshold
                limit = float(limit)
            name = found["class"]
            kind = "probability" if name else found[1]
            if kind not in ("score", "peak") and isinstance(limit, str):
                raise ValueError(f"rule {stripped!r}: {limit!r} is no number and no parameter.")
            return cls(stripped, kind, found["sign"], limit, origin, (name,) if name else ())
        if found := _CLASS.fullmatch(stripped):
            names = found["names"]
            if not names.startswith("["):
                if names not in parameters:
                    raise ValueError(f"rule {stripped!r}: {names} is no parameter; give the classes in brackets.")
                values = parameters[names] if isinstance(parameters[names], list) else [parameters[names]]
            else:
                values = names[1:-1].split(",")
            classes = tuple(str(value).strip().strip("'\"") for value in values if str(value).strip())
            if classes:
                return cls(stripped, "class", classes=classes, negated=bool(found["negated"]))
        raise ValueError(f"rule {stripped!r} is none; rules are: {RULES}.")


# ---------------------------------------------------------------------------------------------------------- the things


@dataclass
class Item:
    """A photo, or an object cut out of one, on its way through the stages.

    Attributes:
        source: file that it comes from.
        key: its name in the folder of results.
        photo: (H, W, 3) uint8.
        number: of the object in its photo, from 1; 0: the photo itself.
        box: x, y, width, height of the object in the photo, pixels; empty for the photo itself.
        mask: (H, W) bool, where the object is in ``photo``; None: everywhere.
        rows: one for each stage it went through.
        verdict: empty while it is on its way.
        abnormal: whether the verdict is a defect; None where nobody can say.
        parts: objects cut out of it.
        error: why there is no verdict.
    """

    source: str
    key: str
    photo: np.ndarray
    number: int = 0
    box: tuple[int, ...] = ()
    mask: np.ndarray | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    verdict: str = ""
    abnormal: bool | None = None
    parts: list[Item] = field(default_factory=list)
    error: str = ""

    def add_row(self, stage: str, **values: Any) -> None:
        """Note what a stage did with it; non-finite numbers become None."""
        row = dict.fromkeys(STAGE_COLUMNS)
        row |= {"object": self.number, "stage": stage} | dict(
            zip(("x", "y", "width", "height"), self.box, strict=False)
        )
        row |= {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in values.items()}
        self.rows.append(row)

    def fail(self, stage: str, error: str) -> None:
        """It could not be judged."""
        self.verdict, self.abnormal, self.error = ERROR, None, error
        self.add_row(stage, decision=ERROR, error=error)


@contextmanager
def _saving(item: Item, stage: str) -> Iterator[None]:
    """An item whose name, or the path with it, the file system refuses could not be judged; the rest goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        item.fail(stage, f"its results cannot be saved under its name ({printable(str(error))})")


@dataclass(frozen=True)
class Seen:
    """What a stage's network says of one item, before any rule is applied.

    Attributes:
        prediction: of the run, its map confined to the object where there is one.
        distance: to the nearest class that an open set knows; None without one.
        is_unknown: whether the open set calls it unknown.
        milliseconds: that the network took.
    """

    prediction: Prediction
    distance: float | None
    is_unknown: bool
    milliseconds: float


class Stage(Protocol):
    """One stage of a cascade."""

    name: str

    def run(self, items: Sequence[Item], out: Path, save: Collection[str]) -> list[Item]:
        """Judge items, save pictures below ``out / name``; returns those that go on."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that decides its results, plain data."""
        ...


class RunStage:
    """A finished run with a rule.

    An item for which the rule holds goes on, or gets the verdict ``then`` in the last stage; the others get
    ``otherwise``.

    The score is the run's own. Peak and area are of its map at the network's size, confined to the object where there
    is one (cut out by an earlier stage, or by ``object_mask``): the peak is its maximum, for which the run's ``pixel``
    threshold was set; the area is the share of the map above the pixel threshold, as in a run's ``predictions.csv``.
    The mask that is saved is the same map at the photo's own size (:func:`helpers.data.images.map_at_photo_size`) above
    the pixel threshold, so that there is one wherever the peak is above it, and cleaned where that is asked for.

    Args:
        predictor: the run.
        rule: see :data:`RULES`.
        name: of the stage, a folder's name; default: of the run.
        then: verdict where the rule holds; empty: goes on to the next stage. ``class`` stands for the class that the
            classifier names: the most probable one, or, where the rule has found the photo abnormal by its score, the
            most probable of those that are not the normal class; ``unknown`` where ``unknown`` says so.
        otherwise: verdict where it does not hold.
        pixel_threshold: of the map: name of a threshold stored with the run, ``start``, or a number.
        object_mask: ``none``, ``otsu``, or ``foreground`` (the network beside the run). A run that was trained with an
            object mask applies that one to its map and score by itself.
        morphology: arguments of :func:`helpers.inference.object_mask.clean_mask`; None: the mask stays as it is.
        unknown: what tells that a photo is like no known class.
        ignore_no_defect: let everything go on; what the rule says is noted only.
        parameters: names that the rule may use.

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
        self.predictor = predictor
        self.name = name or predictor.run.folder.name
        self.rule = Rule.parse(rule, parameters)
        self.then, self.otherwise, self.ignore_no_defect = then, otherwise, ignore_no_defect
        self.unknown, self.morphology = unknown, dict(morphology or {})
        classifies = predictor.classes is not None
        self._check(classifies)
        self.limit: Threshold | None = None
        if self.rule.kind in ("score", "peak"):
            self.limit = predictor.threshold(self.rule.limit)
        elif self.rule.kind in ("area", "probability"):
            self.limit = Threshold(value=float(self.rule.limit), origin=self.rule.origin)
        if self.limit is not None and not isinstance(self.rule.limit, str):
            self.limit = Threshold(value=self.limit.value, origin=self.rule.origin)
        self.pixel_limit = None if classifies else predictor.threshold(pixel_threshold)
        self.object_mask = object_mask
        self._segment = _segmenter(object_mask, predictor)
        if self.morphology:
            clean_mask(np.zeros((1, 1), dtype=bool), **self.morphology)  # a wrong value now, not at the first photo

    def _check(self, classifies: bool) -> None:
        """Refuse what cannot work."""
        rule, run = self.rule, self.predictor.run.name
        if rule.kind in ("class", "probability") or self.then == CLASS:
            if not classifies:
                what = "'then: class'" if self.then == CLASS else f"rule {rule.text!r}"
                raise ValueError(f"stage {self.name}: {what} needs a classifier, and {run} is a detector.")
            known = [*self.predictor.classes, *([UNKNOWN] if self.unknown and rule.kind == "class" else [])]
            wrong = [name for name in rule.classes if name not in known]
            if wrong:
                raise ValueError(
                    f"stage {self.name}: {run} knows no class {', '.join(wrong)}; it knows {', '.join(known)}."
                )
        if rule.kind in ("area", "peak") and classifies:
            raise ValueError(f"stage {self.name}: rule {rule.text!r} needs a detector's map; {run} is a classifier.")
        if self.unknown and not classifies:
            raise ValueError(f"stage {self.name}: 'unknown' needs a classifier, and {run} is a detector.")
        if self.morphology and classifies:
            raise ValueError(f"stage {self.name}: 'morphology' needs a detector's map; {run} is a classifier.")

    def describe(self) -> dict[str, Any]:
        """All that decides its results, plain data."""
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
        going_on = []
        for first in range(0, len(items), self.predictor.batch_size):
            batch = items[first : first + self.predictor.batch_size]
            looked = zip(batch, self.look(batch), strict=True)
            going_on += [item for item, seen in looked if self.decide(item, seen, out, save)]
        return going_on

    def look(self, items: Sequence[Item]) -> list[Seen]:
        """What the network says of items, all of them at once; nothing is decided, nothing is noted."""
        started = time.perf_counter()
        found = self.predictor.judge_each(
            [item.photo for item in items], [item.source for item in items], threshold=self._score_limit
        )
        unknown = self._ask_unknown(found)
        milliseconds = 1000 * (time.perf_counter() - started) / max(1, len(items))
        return [
            Seen(self._confined(one, item), *answer, milliseconds)
            for item, one, answer in zip(items, found, unknown, strict=True)
        ]

    def decide(self, item: Item, seen: Seen, out: Path, save: Collection[str] = ()) -> bool:
        """Apply the rule, with the limits as they are now, to what the network said; whether the item goes on.

        What is decided is noted in the item; pictures are saved below ``out / name``.
        """
        if seen.prediction.error:
            item.fail(self.name, printable(seen.prediction.error))
            return False
        with _saving(item, self.name):
            return self._judge(item, seen, out, save)
        return False

    @property
    def _score_limit(self) -> Threshold:
        return self.limit if self.rule.kind == "score" else self.predictor.thresholds["image"]

    def _ask_unknown(self, found: Sequence[Prediction]) -> list[tuple[float | None, bool]]:
        good = [one for one in found if not one.error]
        if self.unknown is None or not good:
            return [(None, False)] * len(found)
        scores, flags = self.unknown(
            np.stack([one.embedding for one in good]), np.stack([one.probabilities for one in good])
        )
        answers = iter(zip(scores.tolist(), flags.tolist(), strict=True))
        return [(None, False) if one.error else next(answers) for one in found]

    def _judge(self, item: Item, seen: Seen, out: Path, save: Collection[str]) -> bool:
        """Decide one item, note its row; whether it goes on."""
        prediction = self.predictor.rejudge(seen.prediction, self._score_limit)
        values: dict[str, Any] = {}
        label, probability = self._name(prediction, seen.is_unknown)
        if prediction.network_map is not None:
            values |= self._measure(item, seen, out, save)
        value, holds = self._apply(prediction, label, values)
        confidence = prediction.confidence
        if self.rule.kind in ("area", "peak"):
            confidence = None  # nobody knows how good photos are distributed in these
        goes_on = (holds or self.ignore_no_defect) and not self.then
        if holds or self.ignore_no_defect:
            decision = (label if self.then == CLASS else self.then) or "goes on"
        else:
            decision = self.otherwise
        if not goes_on:
            item.verdict = decision
            item.abnormal = holds and not (self.then == CLASS and label == self.predictor.normal_class)
        if self.ignore_no_defect and not holds:
            decision = f"{decision} ({self.otherwise} ignored)"
        item.add_row(
            self.name,
            decision=decision,
            passed=bool(holds),
            rule=self.rule.text,
            value=value,
            threshold=self.limit.value if self.limit else None,
            origin=self.limit.origin if self.limit else None,
            score=prediction.score,
            confidence=confidence,
            probability=probability,
            distance=seen.distance,
            tau=self.unknown.tau.value if self.unknown and self.unknown.tau else None,
            kappa=self.unknown.kappa.value if self.unknown and self.unknown.kappa else None,
            milliseconds=round(seen.milliseconds, 3),
            **{"class": label},
            **values,
        )
        return goes_on

    def _name(self, prediction: Prediction, is_unknown: bool) -> tuple[str | None, float | None]:
        """The class that a classifier names, and its probability."""
        if prediction.probabilities is None:
            return None, None
        probabilities, classes = prediction.probabilities.copy(), self.predictor.classes
        if self.rule.kind == "score" and prediction.abnormal and self.predictor.normal_class:
            probabilities[classes.index(self.predictor.normal_class)] = -1
        best = int(probabilities.argmax())
        return (UNKNOWN if is_unknown else classes[best]), float(probabilities[best])

    def _measure(self, item: Item, seen: Seen, out: Path, save: Collection[str]) -> dict[str, Any]:
        """Area and mask of one item; its pictures are saved."""
        limit, network_map = self.pixel_limit.value, seen.prediction.network_map
        whole, mask = self.photo_map(seen)
        saved = save_pictures(out / self.name, item.key, item.photo, whole, mask, limit, save)
        return {
            "peak": float(network_map.max()),
            "area": float(self.pixel_limit.exceeds(network_map).mean()),
            "pixel_threshold": limit,
            "mask_pixels": int(mask.sum()),
            **{kind: f"{self.name}/{path}" for kind, path in saved.items()},
        }

    def photo_map(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """The map at the item's own size, (H, W) float32, and its mask of defects, (H, W) bool."""
        whole = self.predictor.photo_map(seen.prediction)
        mask = self.pixel_limit.exceeds(whole)
        return whole, clean_mask(mask, **self.morphology) if self.morphology else mask

    def _confined(self, prediction: Prediction, item: Item) -> Prediction:
        """A prediction whose map is 0 beyond the object."""
        area = None if prediction.network_map is None else self._object_area(item)
        if area is None:
            return prediction
        inside = to_network_frame(area, self.predictor.parameters)
        return replace(prediction, network_map=prediction.network_map * inside)

    def _object_area(self, item: Item) -> np.ndarray | None:
        """Where the object is, (H, W) bool: as it was cut out, and as ``object_mask`` finds it; None: everywhere."""
        if self._segment is None:
            return item.mask
        found = self._segment(item.photo)
        return found if item.mask is None else item.mask & found

    def _apply(
        self, prediction: Prediction, label: str | None, measured: Mapping[str, Any]
    ) -> tuple[float | None, bool]:
        """What the rule looks at (None for a class), and whether it holds."""
        if self.rule.kind == "always":
            return None, True
        if self.rule.kind == "class":
            return None, (label in self.rule.classes) != self.rule.negated
        if self.rule.kind == "probability":
            value = float(prediction.probabilities[self.predictor.classes.index(self.rule.classes[0])])
        else:
            value = prediction.score if self.rule.kind == "score" else measured[self.rule.kind]
        return value, self.holds(value)

    def holds(self, value: float) -> bool:
        """Whether a number fulfils the rule: ``>=`` is "not below", ``<=`` is "not above"."""
        below = replace(self.limit, below=self.rule.sign in ("<", ">="))
        return bool(below.exceeds(value)) != (self.rule.sign in (">=", "<="))


class CutterStage:
    """The foreground network of notebook 03: every object it finds goes on by itself.

    Args:
        folder: ``foreground`` of a dataset's artifacts.
        name: of the stage.
        otherwise: verdict on a photo without any object; it is neither normal nor abnormal.
        window: side in pixels of the square cut out around each object, so that objects are shown as large as in the
            photos that the next stage learned from; 0: the object's longer side and a tenth of it on each side.
        background: ``keep`` it as it is; ``hide_neighbours``, which paints over other objects with the look of the
            background (:func:`empty_background`), for a run that learned from photos of single objects; or ``remove``
            all of it, the median colour instead, as notebook 03 does with REMOVE_BACKGROUND.
        shrink: pixels at an object's edge that the next stage does not judge: what a network says there depends on what
            lies beyond, which is not as in the photos of single objects that it learned from. An object that is no
            wider than twice that is judged whole.
        separate: arguments of :func:`helpers.analysis.matching.separate`.
        device: see :func:`helpers.compute.trainer_device`.

    Raises:
        MissingRunError: there is no such network.
        ValueError: for a negative window or shrink, or another word for the background.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "foreground",
        otherwise: str = "NO OBJECT",
        window: int = 0,
        background: str = "keep",
        shrink: int = 0,
        separate: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        from helpers.analysis.matching import separate as separate_objects
        from helpers.inference.cutting import ABOUT_FILE, load_foreground

        for option, pixels in (("window", window), ("shrink", shrink)):
            if pixels < 0:
                raise ValueError(f"stage {name}: {option} must be 0 or more pixels, got {pixels}.")
        if background not in BACKGROUNDS:
            raise ValueError(f"stage {name}: background={background!r}: expected {', '.join(BACKGROUNDS)}.")
        if not (folder / ABOUT_FILE).is_file():
            raise MissingRunError(f"There is no {folder / ABOUT_FILE}: run notebook {NOTEBOOKS['foreground']} first.")
        self.name, self.otherwise, self.window, self.background = name, otherwise, window, background
        self.shrink = shrink
        self.options = dict(separate or {})
        separate_objects(np.zeros((1, 1)), **self.options)  # a wrong value now, not at the first photo
        self.about = (folder / ABOUT_FILE).read_text(encoding="utf-8")
        self.network = load_foreground(folder).to(torch_device(device))

    def describe(self) -> dict[str, Any]:
        """All that decides its results, plain data."""
        return {
            "name": self.name,
            "foreground": self.about,
            "otherwise": self.otherwise,
            "window": self.window,
            "background": self.background,
            "shrink": self.shrink,
            "separate": self.options,
        }

    def run(self, items: Sequence[Item], out: Path, save: Collection[str]) -> list[Item]:
        """Find the objects of photos; returns them."""
        from helpers.analysis.matching import separate
        from helpers.models.foreground import predict_distance

        for item in items:
            started = time.perf_counter()
            try:
                labels = separate(predict_distance(self.network, item.photo), **self.options)
                item.parts = self.cut(item, labels)
            except ValueError as error:  # a map that is not finite, a strip
                item.fail(self.name, str(error))
                continue
            n = len(item.parts)
            decision = self.otherwise if n == 0 else f"{n} object{'' if n == 1 else 's'}"
            milliseconds = round(1000 * (time.perf_counter() - started), 3)
            item.add_row(
                self.name,
                decision=decision,
                passed=n > 0,
                rule="any object",
                value=n,
                mask_pixels=int((labels > 0).sum()),
                milliseconds=milliseconds,
            )
            if n == 0:
                item.verdict = self.otherwise
        return [part for item in items for part in item.parts]

    def finish(self, item: Item, out: Path, save: Collection[str]) -> None:
        """Save the photo with a box around each object, once all are judged."""
        if "overlay" in save and item.parts:
            boxes = [part.box for part in item.parts]
            with _saving(item, self.name):
                saved = save_boxes(out / self.name, item.key, item.photo, boxes, [bool(p.abnormal) for p in item.parts])
                row = next(row for row in item.rows if row["stage"] == self.name)
                row["overlay"] = f"{self.name}/{saved['overlay']}"

    def cut(self, item: Item, labels: np.ndarray) -> list[Item]:
        """One item for each object of a photo; ``labels`` (H, W) int says where they are, 0 is background."""
        parts = []
        empty = empty_background(item.photo, labels) if self.background == "hide_neighbours" else None
        colour = background_colour(item.photo, labels) if self.background == "remove" else None
        for number, place in enumerate(ndimage.find_objects(labels), start=1):
            (top, bottom), (left, right) = ((side.start, side.stop) for side in place)
            width, height = right - left, bottom - top
            side = self.window or max(1, round(max(width, height) * (1 + 2 * MARGIN)))
            require_window(item.source, side, item.photo.shape)
            window = (left + (width - side) // 2, top + (height - side) // 2, side)
            mirrored, own = BORDERS["reflect"], own_pixels(labels, number, window, grow=0)
            picture = np.ascontiguousarray(cut_window(item.photo, window, mirrored))
            if empty is not None:
                # in the window, since beyond the photo's border objects are mirrored, too
                hidden = grown((cut_window(labels, window, mirrored) > 0) & ~own, SHADOW) & ~grown(own, 1)
                picture[hidden] = cut_window(empty, window, mirrored)[hidden]
            if colour is not None:
                picture[~own_pixels(labels, number, window, grow=2)] = colour
            key = f"{item.key}.objects/{number:03d}"
            parts.append(Item(item.source, key, picture, number, (left, top, width, height), shrunk(own, self.shrink)))
        return parts


def empty_background(photo: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How the photo would look without its objects: the background's brightness nearby, with its grain.

    The brightness is a mean of the background, weighted by a Gaussian as wide as the objects; the grain is what the
    largest empty place differs from it, mirrored over the whole photo.

    Args:
        photo: (H, W, 3) uint8.
        labels: (H, W) int, 0 is background.

    Returns:
        (H, W, 3) uint8; the photo itself where it has no background.
    """
    outside = ~grown(labels > 0, SHADOW)
    if not outside.any():
        return photo
    sides = [max(part.stop - part.start for part in place) for place in ndimage.find_objects(labels) if place]
    sigma = max(sides, default=1) / 2
    weight = ndimage.gaussian_filter(outside.astype(np.float64), sigma)
    smooth = ndimage.gaussian_filter(photo * outside[:, :, None].astype(np.float64), (sigma, sigma, 0))
    smooth /= np.maximum(weight, np.finfo(float).tiny)[:, :, None]
    room = ndimage.distance_transform_edt(np.pad(outside, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(room.argmax(), room.shape)
    half = max(0, int(room.max() / math.sqrt(2)) - 1)  # half the side of a square in the empty place
    place = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    grain = photo[place] - smooth[place]
    beyond = [(0, max(0, side - part)) for side, part in zip(photo.shape[:2], grain.shape[:2], strict=True)]
    grain = np.pad(grain, [*beyond, (0, 0)], mode="symmetric")[: photo.shape[0], : photo.shape[1]]
    return np.clip(np.round(smooth + grain), 0, 255).astype(np.uint8)


def grown(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A mask (H, W) bool with all that is at most so many pixels away."""
    return ndimage.distance_transform_edt(~mask) <= pixels if mask.any() else mask


def shrunk(mask: np.ndarray, pixels: float) -> np.ndarray:
    """A mask (H, W) bool without what is at most so many pixels from its edge; the mask itself where nothing is left.

    The border of the picture is no edge: the object may go on beyond it.
    """
    inner = ndimage.distance_transform_edt(mask) > pixels
    return inner if inner.any() else mask


def _segmenter(kind: str, predictor: Predictor) -> Callable[[np.ndarray], np.ndarray] | None:
    if kind == "none":
        return None
    if kind == "otsu":
        return otsu_object_mask
    if kind == "foreground":
        return foreground_segmenter(predictor.run.folder.parent / "foreground")
    raise ValueError(f"object_mask={kind!r}: expected none, otsu or foreground.")
