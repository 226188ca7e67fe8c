"""Photos one by one before a person: what there is to inspect with, and verdicts at thresholds that can be moved.

The page (:mod:`helpers.views.app.page`) shows what is worked out here. Every stage of a cascade looks at every
photo once; after that a threshold moves without asking a network again. Nothing is written.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers.analysis.severity import (
    FAIL,
    LEVELS,
    PASS,
    check_rules,
    rate_severity,
    read_rules,
    read_severity_limits,
    verdicts,
)
from helpers.analysis.sizing import PixelSize, label_defects, measure_labels
from helpers.data.images import ImageReadError, decode_image
from helpers.inference.cascade import Cascade, deciding_row, judge_by_parts
from helpers.inference.predictor import Predictor
from helpers.inference.presets import PRESETS_FOLDER, Choice
from helpers.inference.stages import Item, RunStage, Seen
from helpers.runs import RUN_FILE, Run
from helpers.studies.cascades import test_frames
from helpers.studies.sizes import rating_file, shapes
from helpers.thresholds import Threshold

MOVED = "moved by hand"
SEGMENTERS = ("unet", "deeplabv3plus")  # learned to draw outlines: sizes are theirs where there is one
SERIOUS = ("high", "critical")  # severities that speak against a good verdict
NOWHERE = Path()  # where stages save pictures; here they save none
MEASURED = {
    "score": "score",
    "peak": "highest value of the map",
    "area": "share of the map",
    "probability": "probability",
}
ROW_COLUMNS = (
    "photo",
    "verdict",
    "abnormal",
    "stage",
    "rule",
    "value",
    "threshold",
    "origin",
    "score",
    "confidence",
) + (*("class", "n_objects", "n_abnormal", "n_defects", "drawing", "contradiction", "measured_by", "error"),)
DEFECT_COLUMNS = (
    *("defect", "defect_type", "severity", "unit", "length", "width", "area", "length_px", "width_px", "area_px"),
    *("edge_distance", "centroid_x", "centroid_y", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "peak_score"),
)


# --------------------------------------------------------------------------------------------------- photos coming in


class RefusedPhotoError(ValueError):
    """An upload that is not inspected; the message is a sentence for the person who sent it."""


def read_upload(name: str, content: bytes, max_megapixels: float = 60, bits: int | None = None) -> np.ndarray:
    """Read a photo that somebody sent, as :func:`helpers.data.images.read_image` reads a file.

    Args:
        name: of the file, for the message.
        content: of the file.
        max_megapixels: a photo of so many, or more, is refused before its pixels are decoded.
        bits: of 16-bit photos, see :func:`helpers.data.images.read_image`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RefusedPhotoError: it is empty, no image, truncated, too large or of a kind that cannot be read.
    """
    width, height = _header_size(content)
    if width * height >= max_megapixels * 1e6:
        size = (
            f"{width * height / 1e6:.4g} megapixels ({width} x {height})"
            if np.isfinite(width)
            else "far too many pixels"
        )
        raise RefusedPhotoError(
            f"{name} has {size}; a photo must have less than {max_megapixels:g}. Make it smaller first."
        )
    try:
        return decode_image(name, content).rgb(bits or 16)
    except ImageReadError as error:
        raise RefusedPhotoError(f"{name} {error.problem}; {error.fix}.") from error


def _header_size(content: bytes) -> tuple[float, float]:
    """(width, height) that a file's header states; 0 where it states none, infinite for a decompression bomb."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                return image.size
    except Image.DecompressionBombError:
        return np.inf, np.inf
    except Exception:  # decoders of broken files raise nearly anything; decode_image says what is wrong
        return 0, 0


# ------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class Knob:
    """A threshold that can be moved.

    Attributes:
        stage: name of its stage.
        of_map: whether pixels of the map are compared with it, or what the stage's rule looks at.
        label: for a person.
        stored: where it stands when nobody has moved it.
    """

    stage: str
    of_map: bool
    label: str
    stored: Threshold


@dataclass
class Looked:
    """A photo after all stages have looked at it.

    Attributes:
        name: for a person.
        item: the photo, with the objects cut out of it (``parts``).
        seen: (stage, number of the object, 0 for the photo) -> what its network said.
        cutter_rows: stage that cuts objects out -> what it noted.
        outlined: name, map and mask, both at the photo's size, of a segmenter that is no stage and marks something.
    """

    name: str
    item: Item
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    cutter_rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    outlined: tuple[str, np.ndarray, np.ndarray] | None = None

    @property
    def photo(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self.item.photo


@dataclass(frozen=True)
class Inspection:
    """What is decided on a photo at the thresholds as they stood.

    Attributes:
        name: of the photo.
        photo: (H, W, 3) uint8.
        verdict: DEFECT, OK, a class, ...; ERROR where it could not be judged.
        abnormal: whether the verdict is a defect; None where nobody can say.
        error: why it could not be judged.
        rows: what every stage noted, of the photo and of its objects; columns as
            :data:`helpers.inference.stages.STAGE_COLUMNS`.
        deciding: the one of these that decided.
        stage: whose map is shown, the last one that looked; empty: none has a map.
        anomaly_map: (H, W) float32 at the photo's size, or None.
        mask: (H, W) bool, what is called defect, or None.
        pixel_threshold: of the map.
        boxes: x, y, width, height of each object that was cut out.
        boxes_abnormal: whether each is a defect.
        note: what the runs must say of themselves (``untrained backbone``), or None.
        outlined: see :class:`Looked`.
    """

    name: str
    photo: np.ndarray
    verdict: str
    abnormal: bool | None
    error: str
    rows: list[dict[str, Any]]
    deciding: dict[str, Any]
    stage: str = ""
    anomaly_map: np.ndarray | None = None
    mask: np.ndarray | None = None
    pixel_threshold: float | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    boxes_abnormal: tuple[bool, ...] = ()
    note: str | None = None
    outlined: tuple[str, np.ndarray, np.ndarray] | None = None

    @property
    def measured(self) -> tuple[str, np.ndarray, np.ndarray] | None:
        """Whose map and mask sizes are taken from: a segmenter's where one marks something; None: there is no map."""
        own = None if self.mask is None else (self.stage, self.anomaly_map, self.mask)
        return self.outlined or own


class Inspector:
    """A run or a cascade, held open.

    Args:
        cascade: it; its stages' limits are moved, so it must not be shared.
        outliner: a segmenter that sizes are measured by, where no stage is one.

    Attributes:
        cascade: it.
        knobs: thresholds that can be moved, in the order of the stages.
    """

    def __init__(self, cascade: Cascade, outliner: Predictor | None = None) -> None:
        self.cascade, self.outliner = cascade, outliner
        stages = [(number, one) for number, one in enumerate(cascade.stages, start=1) if isinstance(one, RunStage)]
        self.knobs = [knob for number, stage in stages for knob in _knobs(stage, number)]

    @classmethod
    def open(cls, choice: Choice, device: str = "auto") -> Inspector:
        """Load the networks of a run or a cascade.

        Raises:
            MissingRunError: a run has gone since.
            ValueError: a run is damaged, or does not fit the cascade.
        """
        if choice.is_cascade:
            cascade = Cascade.from_yaml(PRESETS_FOLDER / f"{choice.name}.yml", choice.places, device=device)
        else:
            cascade = Cascade.of_run(choice.folder / choice.name, device=device)
        return cls(cascade, _outliner(cascade, choice.folder, device))

    @property
    def _judges(self) -> list[RunStage]:
        return [stage for stage in self.cascade.stages if isinstance(stage, RunStage)]

    def _stage(self, name: str) -> RunStage:
        return next(stage for stage in self._judges if stage.name == name)

    @property
    def note(self) -> str | None:
        """What the runs must say of themselves, such as ``untrained backbone``; None: nothing."""
        return "; ".join(dict.fromkeys(run.note for run in self._runs if run.note)) or None

    @property
    def pixel_size(self) -> float | None:
        """Millimetres a pixel, as the runs' dataset says it; None where it does not."""
        return next((size for run in self._runs if (size := run.table.attrs.get("pixel_size"))), None)

    @property
    def _runs(self) -> list[Run]:
        return [stage.predictor.run for stage in self._judges]

    def look(self, name: str, photo: np.ndarray, source: str = "") -> Looked:
        """Let every stage look at a photo, also where the rule of one before would have stopped it.

        Args:
            name: of the photo.
            photo: (H, W, 3) uint8.
            source: its file, where it has one.
        """
        looked = Looked(name, Item(source or name, name, photo))
        items = [looked.item]
        for stage in self.cascade.stages:
            if not isinstance(stage, RunStage):
                items = stage.run(items, NOWHERE, ())
                looked.cutter_rows[stage.name] = looked.item.rows[-1]
                continue
            for first in range(0, len(items), stage.predictor.batch_size):
                batch = items[first : first + stage.predictor.batch_size]
                for item, seen in zip(batch, stage.look(batch), strict=True):
                    looked.seen[stage.name, item.number] = seen
        if self.outliner is not None:
            (found,) = self.outliner.judge_each([photo], [looked.item.source])
            whole = None if found.error else self.outliner.photo_map(found)
            mask = None if whole is None else self.outliner.threshold("pixel").exceeds(whole)
            if mask is not None and mask.any():
                looked.outlined = (self.outliner.run.folder.name, whole, mask)
        return looked

    def move(self, knob: Knob, value: float) -> None:
        """Set a threshold; at its stored value it has its origin again."""
        limit = knob.stored if value == knob.stored.value else Threshold(value=float(value), origin=MOVED)
        stage = self._stage(knob.stage)
        if knob.of_map:
            stage.pixel_limit = limit
        else:
            stage.limit = limit

    def value(self, knob: Knob) -> float:
        """Where a threshold stands."""
        stage = self._stage(knob.stage)
        return (stage.pixel_limit if knob.of_map else stage.limit).value

    def on_val(self, knob: Knob) -> str:
        """For how many photos of val a rule holds at its limit: ``val: 15 of 16 defects, 1 of 40 good photos``."""
        stage = self._stage(knob.stage)
        run, kind = stage.predictor.run, stage.rule.kind
        if knob.of_map or kind not in ("score", "peak", "area") or (kind == "area" and not run.has_maps):
            return ""
        val = run.predictions("val")
        if kind == "area":
            values = [stage.pixel_limit.exceeds(run.val_maps()[index]).mean() for index in val.index]
        else:
            values = val["score" if kind == "score" else "map_max"]
        holds = np.array([stage.holds(float(value)) for value in values], dtype=bool)
        groups = [(words, val["label_index"] == label) for label, words in ((1, "defects"), (0, "good photos"))]
        counts = [f"{int(holds[of].sum())} of {int(of.sum())} {words}" for words, of in groups if of.any()]
        return f"val: {', '.join(counts)}" if counts else ""

    def reach(self, knob: Knob, photos: Sequence[Looked] = ()) -> tuple[float, float]:
        """From where to where it makes sense to move a threshold: over good photos of val, and over these photos.

        At the lower end everything is above it, at the upper end nothing.
        """
        stage = self._stage(knob.stage)
        seen = [one for photo in photos for (name, _), one in photo.seen.items() if name == knob.stage]
        values = [knob.stored.value, self.value(knob)]
        if knob.of_map or stage.rule.kind == "peak":
            maps = [one.prediction.network_map for one in seen if one.prediction.network_map is not None]
            values += [float(end(one)) for one in maps for end in (np.min, np.max)]
            values += _of_val(stage, "map_max")
        elif stage.rule.kind == "score":
            values += [one.prediction.score for one in seen] + _of_val(stage, "score")
        else:
            values += [0.0, 1.0]  # a share or a probability
        finite = np.array(values, dtype=float)[np.isfinite(values)]
        low, high = float(finite.min()), float(finite.max())
        margin = 0.02 * (high - low) or 0.5
        return low - margin, high + margin

    def judge(self, looked: Looked) -> Inspection:
        """Decide on a photo at the thresholds as they stand; no network is asked."""
        item = replace(looked.item, rows=[], parts=[], verdict="", abnormal=None, error="")
        active, shown = [item], ""
        for stage in self.cascade.stages:
            if not active:
                break
            if isinstance(stage, RunStage):
                shown = stage.name if stage.pixel_limit is not None else shown
                active = [one for one in active if stage.decide(one, looked.seen[stage.name, one.number], NOWHERE)]
                continue
            item.rows.append(looked.cutter_rows[stage.name])
            item.parts = [replace(part, rows=[], verdict="", abnormal=None, error="") for part in looked.item.parts]
            if not item.parts:
                item.verdict = stage.otherwise
            active = item.parts
        if item.parts:
            judge_by_parts(item)
        rows = [*item.rows, *(row for part in item.parts for row in part.rows)]
        found = Inspection(
            name=looked.name,
            photo=looked.photo,
            verdict=item.verdict,
            abnormal=item.abnormal,
            error=item.error,
            rows=rows,
            deciding=deciding_row(item),
            boxes=tuple(part.box for part in item.parts),
            boxes_abnormal=tuple(bool(part.abnormal) for part in item.parts),
            note=self.note,
            outlined=None if item.error else looked.outlined,
        )
        return replace(found, **self._map(item, looked, shown)) if shown and not item.error else found

    def _map(self, item: Item, looked: Looked, shown: str) -> dict[str, Any]:
        """Map and mask of a stage at the photo's size; of several objects put together."""
        stage = self._stage(shown)
        about = {"stage": shown, "pixel_threshold": stage.pixel_limit.value}
        if (shown, 0) in looked.seen:
            anomaly_map, mask = stage.photo_map(looked.seen[shown, 0])
            return about | {"anomaly_map": anomaly_map, "mask": mask}
        shape = looked.photo.shape[:2]
        anomaly_map, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for part in item.parts:
            if any(row["stage"] == shown and not row["error"] for row in part.rows):
                _put(part, *stage.photo_map(looked.seen[shown, part.number]), anomaly_map, mask)
        return about | {"anomaly_map": anomaly_map, "mask": mask}

    def sweep(self, looked: Looked, n: int = 5) -> pd.DataFrame:
        """Verdicts on a photo while all thresholds of rules move together; afterwards they are where they were.

        Args:
            looked: the photo.
            n: positions between the ends, both included; that at which they stand now comes on top.

        Returns:
            One row a position: ``position`` (share of the way from where everything is above the thresholds to where
            nothing is; ``now``), the thresholds by stage, ``verdict`` and ``abnormal``. One row where no rule has a
            threshold.
        """
        knobs = [knob for knob in self.knobs if not knob.of_map]
        before = {knob: self.value(knob) for knob in knobs}
        reach = {knob: self.reach(knob, [looked]) for knob in knobs}
        rows = []
        for share in [None, *(np.linspace(0, 1, n) if knobs else [])]:
            for knob in knobs:
                low, high = reach[knob]
                self.move(knob, before[knob] if share is None else low + share * (high - low))
            found = self.judge(looked)
            limits = {knob.stage: self.value(knob) for knob in knobs}
            position = "now" if share is None else f"{100 * share:.0f} %"
            rows.append({"position": position, **limits, "verdict": found.verdict, "abnormal": found.abnormal})
        for knob in knobs:
            self.move(knob, before[knob])
        return pd.DataFrame(rows)

    def samples(self, n_each: int = 2) -> list[tuple[str, Path]]:
        """Test photos that no stage has trained on, ``n_each`` of every type, defects first: (label, file).

        Of a cascade that cuts objects out, raw frames. Empty where the photos are gone.
        """
        if not isinstance(self.cascade.stages[0], RunStage):
            return self._frames(3 * n_each)
        tables = [run.table[run.table["split"] == "test"] for run in self._runs]
        first = tables[0]
        common = first[np.logical_and.reduce([first["image_path"].isin(one["image_path"]) for one in tables])]
        chosen = common.sort_values(["label_index", "image_path"], ascending=[False, True])
        chosen = chosen.groupby("defect_type", sort=False).head(n_each)
        found = zip(chosen["defect_type"], map(Path, chosen["image_path"]), strict=True)
        return [(f"{kind}: {path.name}", path) for kind, path in found if path.is_file()]

    def _frames(self, n: int) -> list[tuple[str, Path]]:
        root = Path(self._runs[0].table.attrs["root"])
        try:
            frames = test_frames(self.cascade, root / "frames")
        except (OSError, ValueError):
            return []
        return [(f"frame: {frame.image_path.name}", frame.image_path) for frame in frames[:n]]


def _knobs(stage: RunStage, number: int) -> list[Knob]:
    found = []
    if stage.limit is not None:
        what = " ".join([MEASURED[stage.rule.kind], *(["of", *stage.rule.classes] if stage.rule.classes else [])])
        found.append(Knob(stage.name, False, f"{number} · {stage.name}: {what} {stage.rule.sign}", stage.limit))
    if stage.pixel_limit is not None:
        found.append(Knob(stage.name, True, f"{number} · {stage.name}: map pixel >", stage.pixel_limit))
    return found


def _outliner(cascade: Cascade, folder: Path, device: str) -> Predictor | None:
    """A finished segmenter beside the runs, where the map that is shown is none's and shows whole photos."""
    if not all(isinstance(stage, RunStage) for stage in cascade.stages):
        return None
    shown = [stage.predictor.run.info["model"] for stage in cascade.stages if stage.pixel_limit is not None]
    beside = [folder / name for name in SEGMENTERS if (folder / name / RUN_FILE).is_file()]
    if not beside or (shown and shown[-1] in SEGMENTERS):
        return None
    try:
        return Predictor(beside[0], device=device)
    except (ValueError, OSError, RuntimeError):  # a damaged run stops no other one; sizes say whose they are
        return None


def _of_val(stage: RunStage, column: str) -> list[float]:
    val = stage.predictor.run.predictions("val")
    return val[column].tolist() if column in val else []


def _put(part: Item, found: np.ndarray, found_mask: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
    """Lay an object's map and mask into those of the photo that it was cut out of."""
    x, y, width, height = part.box
    high, wide = part.photo.shape[:2]
    left, top = x + (width - wide) // 2, y + (height - high) // 2  # of the window, which may reach beyond the photo
    rows = slice(max(0, top), min(anomaly_map.shape[0], top + high))
    columns = slice(max(0, left), min(anomaly_map.shape[1], left + wide))
    inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    place = anomaly_map[rows, columns]
    np.maximum(place, found[inner], out=place)
    mask[rows, columns] |= found_mask[inner]


# ------------------------------------------------------------------------------------------------------ sizes


@dataclass(frozen=True)
class Sizes:
    """The defects of a photo, measured.

    Attributes:
        labels: (H, W) int32, 0 is background.
        by: name of the run or stage whose map they are from.
        table: one row a defect, see :func:`helpers.analysis.sizing.measure_labels`, with ``defect_type`` and
            ``severity``.
        size: of a pixel.
        drawing: PASS, FAIL, or empty where no rules were given.
        failed: the first rule that failed, in words.
    """

    labels: np.ndarray
    table: pd.DataFrame
    size: PixelSize
    drawing: str = ""
    failed: str = ""
    by: str = ""


def measure(
    inspection: Inspection,
    size: PixelSize,
    *,
    severity: str | Path | None = None,
    rules: str | Path | None = None,
    min_defect_area: int = 10,
) -> Sizes:
    """Measure what a map calls defect, as notebook 08 does: cleaned, taken apart, rated.

    A type is the class that the classifier names, where one decided; else it goes by the shape (long: scratch, compact:
    spot).

    Args:
        inspection: of a photo; one without a map has no defect to measure.
        size: of a pixel.
        severity: YAML file of limits; None: the example for the unit.
        rules: YAML file of a drawing's rules; None: the example for the unit.
        min_defect_area: pixels; smaller ones are left out.

    Raises:
        SeverityError: limits or rules that cannot be used, also when they are in mm and the size of a pixel is not
            known.
    """
    nothing = ("", None, np.zeros(inspection.photo.shape[:2], bool))
    by, anomaly_map, mask = inspection.measured or nothing
    labels = label_defects(mask, pixel_size=size, min_defect_area=min_defect_area)
    table = measure_labels(labels, size, score_map=anomaly_map)
    named = inspection.deciding.get("class")
    table["defect_type"] = [named] * len(table) if named else shapes(table)
    limits = read_severity_limits(severity or rating_file("severity", size.unit))
    table["severity"] = rate_severity(table, limits)
    rows = table.assign(image_path=inspection.name)
    drawn = verdicts(check_rules(rows, read_rules(rules or rating_file("drawing", size.unit)), [inspection.name]))
    return Sizes(labels, table, size, drawn["verdict"].iloc[0], drawn["rule"].iloc[0], by)


def contradiction(inspection: Inspection, sizes: Sizes | None) -> str:
    """What sizes, drawing rules and severity say against the verdict, in words; empty: they agree with it."""
    if sizes is None or inspection.abnormal is None:
        return ""
    levels = set(sizes.table["severity"])
    worst = next((level for level in reversed(LEVELS) if level in levels), "")
    words = [f"drawing rules {sizes.drawing}"] if sizes.drawing else []
    words += [f"severity {worst}"] if worst else []
    if not inspection.abnormal:
        return ", ".join(words) if sizes.drawing == FAIL or worst in SERIOUS else ""
    if sizes.table.empty:
        return "no region is above the threshold of the map"
    return ", ".join(words) if sizes.drawing == PASS and worst not in SERIOUS else ""


def inspection_table(
    found: Sequence[tuple[Inspection, Sizes | None]], refused: dict[str, str] | None = None
) -> pd.DataFrame:
    """Verdicts and sizes of several photos: one row a defect, one row for a photo without any.

    Args:
        found: inspections with their sizes.
        refused: name of a photo that was not inspected -> why.

    Returns:
        :data:`ROW_COLUMNS` of the photo, :data:`DEFECT_COLUMNS` of the defect (empty where there is none).
    """
    parts = []
    for inspection, sizes in found:
        row = {name: inspection.deciding.get(name) for name in ROW_COLUMNS}
        row |= {"photo": inspection.name, "verdict": inspection.verdict, "abnormal": inspection.abnormal}
        if sizes is not None:
            row |= {
                "drawing": sizes.drawing,
                "contradiction": contradiction(inspection, sizes),
                "measured_by": sizes.by,
            }
        row |= {"error": inspection.error or None, "n_defects": None if sizes is None else len(sizes.table)}
        if inspection.boxes:
            row |= {"n_objects": len(inspection.boxes), "n_abnormal": sum(inspection.boxes_abnormal)}
        defects = [{}] if sizes is None or sizes.table.empty else sizes.table.to_dict("records")
        parts += [row | {name: defect.get(name) for name in DEFECT_COLUMNS} for defect in defects]
    for name, why in (refused or {}).items():
        parts.append({"photo": name, "verdict": "REFUSED", "error": why})
    return pd.DataFrame(parts, columns=[*ROW_COLUMNS, *DEFECT_COLUMNS])
