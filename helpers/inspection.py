"""Photos one by one before a person: what there is to inspect with, and verdicts at thresholds that can be moved.

The inspection page (:mod:`helpers.views.app`) shows what is worked out here. Every stage of a cascade looks at every
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

from helpers.analysis.severity import check_rules, rate_severity, read_rules, read_severity_limits, verdicts
from helpers.analysis.sizing import PixelSize, label_defects, measure_labels
from helpers.cascade_study import test_frames
from helpers.data.images import ImageReadError, decode_image
from helpers.inference.cascade import Cascade, deciding_row, judge_by_parts
from helpers.inference.stages import Item, RunStage, Seen
from helpers.presets import PRESETS_FOLDER, Choice
from helpers.runs import Run
from helpers.size_inspection import rating_file, shapes
from helpers.thresholds import Threshold

MOVED = "moved by hand"
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
) + (*("class", "n_objects", "n_abnormal", "n_defects", "error"),)
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
    """

    name: str
    item: Item
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    cutter_rows: dict[str, dict[str, Any]] = field(default_factory=dict)

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


class Inspector:
    """A run or a cascade, held open.

    Args:
        cascade: it; its stages' limits are moved, so it must not be shared.

    Attributes:
        cascade: it.
        knobs: thresholds that can be moved, in the order of the stages.
    """

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
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
            return cls(Cascade.from_yaml(PRESETS_FOLDER / f"{choice.name}.yml", choice.places, device=device))
        return cls(Cascade.of_run(choice.folder / choice.name, device=device))

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
    mask = np.zeros(inspection.photo.shape[:2], bool) if inspection.mask is None else inspection.mask
    labels = label_defects(mask, pixel_size=size, min_defect_area=min_defect_area)
    table = measure_labels(labels, size, score_map=inspection.anomaly_map)
    named = inspection.deciding.get("class")
    table["defect_type"] = [named] * len(table) if named else shapes(table)
    limits = read_severity_limits(severity or rating_file("severity", size.unit))
    table["severity"] = rate_severity(table, limits)
    rows = table.assign(image_path=inspection.name)
    drawn = verdicts(check_rules(rows, read_rules(rules or rating_file("drawing", size.unit)), [inspection.name]))
    return Sizes(labels, table, size, drawn["verdict"].iloc[0], drawn["rule"].iloc[0])


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
        row |= {"error": inspection.error or None, "n_defects": None if sizes is None else len(sizes.table)}
        if inspection.boxes:
            row |= {"n_objects": len(inspection.boxes), "n_abnormal": sum(inspection.boxes_abnormal)}
        defects = [{}] if sizes is None or sizes.table.empty else sizes.table.to_dict("records")
        parts += [row | {name: defect.get(name) for name in DEFECT_COLUMNS} for defect in defects]
    for name, why in (refused or {}).items():
        parts.append({"photo": name, "verdict": "REFUSED", "error": why})
    return pd.DataFrame(parts, columns=[*ROW_COLUMNS, *DEFECT_COLUMNS])
