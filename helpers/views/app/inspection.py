"""Photos one by one before a person: verdicts at thresholds that can be moved, and the sizes of what is marked.

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
    rating_file,
    read_rules,
    read_severity_limits,
    shapes,
    verdicts,
)
from helpers.analysis.sizing import PixelSize, label_defects, measure_labels
from helpers.data.images import ImageReadError, decode_image
from helpers.inference.cascade import Cascade, deciding_row, judge_by_parts
from helpers.inference.pictures import Item
from helpers.inference.predictor import Prediction, Predictor
from helpers.inference.presets import PRESETS_FOLDER, Choice
from helpers.inference.stages import RunStage
from helpers.runs import RUN_FILE
from helpers.thresholds import Threshold

MOVED = "moved by hand"
SEGMENTERS = ("unet", "deeplabv3plus")  # learned to draw outlines: sizes are theirs where there is one
SERIOUS = ("high", "critical")  # severities that speak against a good verdict
NOWHERE = Path()  # where stages save pictures; here they save none
MEASURED = {
    "score": "score",
    "peak": "highest value of the map",
    "area": "share of the map",
}
ROW_COLUMNS = (
    *("photo", "verdict", "abnormal", "stage", "rule", "value", "threshold", "origin", "score", "confidence"),
    *("class", "n_objects", "n_abnormal", "n_defects", "drawing", "contradiction", "measured_by", "error"),
)
DEFECT_COLUMNS = (
    *("defect", "defect_type", "severity", "unit", "length", "width", "area", "length_px", "width_px", "area_px"),
    *("edge_distance", "centroid_x", "centroid_y", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "peak_score"),
)
Outlined = tuple[str, np.ndarray, np.ndarray]
"""Name of a run or stage, its map (H, W) float32 and its mask (H, W) bool, both at the photo's size."""


class RefusedPhotoError(ValueError):
    """An upload that is not inspected; the message is a sentence for the person who sent it."""


def read_upload(name: str, content: bytes, max_megapixels: float = 60, bits: int | None = None) -> np.ndarray:
    """Read a photo that somebody sent, (H, W, 3) uint8, as :func:`helpers.data.images.read_image` reads a file.

    Raises:
        RefusedPhotoError: it is empty, no image, truncated, of a kind that cannot be read, or has so many megapixels
            or more, which is said before they are decoded.
    """
    width, height = _header_size(content)
    if width * height >= max_megapixels * 1e6:
        size = "far too many pixels"
        if np.isfinite(width):
            size = f"{width * height / 1e6:.4g} megapixels ({width} x {height})"
        raise RefusedPhotoError(f"{name} has {size}; a photo must have less than {max_megapixels:g}. Make it smaller.")
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


@dataclass(frozen=True)
class MovableThreshold:
    stage: str
    of_map: bool  # of the stage's map, or of what its rule looks at
    label: str
    stored: Threshold  # where it stands when nobody has moved it


@dataclass
class Looked:
    """A photo after all stages have looked at it."""

    name: str
    item: Item  # with the objects cut out of it
    seen: dict[tuple[str, int], Prediction] = field(
        default_factory=dict
    )  # by stage and number of the object, 0: the photo
    outlined: Outlined | None = None  # by a segmenter that is no stage

    @property
    def photo(self) -> np.ndarray:
        return self.item.photo


@dataclass(frozen=True)
class Inspection:
    """What is decided on a photo at the thresholds as they stood."""

    name: str
    photo: np.ndarray  # (H, W, 3) uint8
    verdict: str
    abnormal: bool | None  # None where nobody can say
    error: str
    rows: list[dict[str, Any]]  # what every stage noted, of the photo and of its objects
    deciding: dict[str, Any]  # the one of these that decided
    stage: str = ""  # whose map is shown, the last one that looked; empty: none has a map
    anomaly_map: np.ndarray | None = None  # (H, W) float32
    mask: np.ndarray | None = None  # (H, W) bool
    pixel_threshold: float | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()  # x, y, width, height of each object
    boxes_abnormal: tuple[bool, ...] = ()
    note: str | None = None  # what the runs must say of themselves (``untrained backbone``)
    outlined: Outlined | None = None

    @property
    def measured(self) -> Outlined | None:
        """Whose map and mask sizes are taken from: a segmenter's where one marks something; None: there is no map."""
        return self.outlined or (None if self.mask is None else (self.stage, self.anomaly_map, self.mask))


class Inspector:
    """A run or a cascade, held open; its stages' limits are moved, so it must not be shared. ``outliner``: a segmenter
    that sizes are measured by, where no stage is one; ``movables``: thresholds that can be moved.
    """

    def __init__(self, cascade: Cascade, outliner: Predictor | None = None) -> None:
        self.cascade, self.outliner, self.note = cascade, outliner, cascade.note
        self.movables: list[MovableThreshold] = []
        for number, stage in enumerate(cascade.stages, start=1):
            where = f"{number} · {stage.name}:"
            if getattr(stage, "limit", None) is not None:
                what = MEASURED[stage.rule.kind]
                self.movables.append(
                    MovableThreshold(stage.name, False, f"{where} {what} {stage.rule.sign}", stage.limit)
                )
            if getattr(stage, "pixel_limit", None) is not None:
                self.movables.append(MovableThreshold(stage.name, True, f"{where} map pixel >", stage.pixel_limit))

    @classmethod
    def open(cls, choice: Choice, device: str = "auto") -> Inspector:
        if choice.is_cascade:
            cascade = Cascade.from_yaml(PRESETS_FOLDER / f"{choice.name}.yml", choice.places, device=device)
        else:
            cascade = Cascade.of_run(choice.folder / choice.name, device=device)
        return cls(cascade, _outliner(cascade, choice.folder, device))

    @property
    def pixel_size(self) -> float | None:
        """Millimetres a pixel, as the runs' dataset says it; None where it does not."""
        sizes = (stage.predictor.run.table.attrs.get("pixel_size") for stage in self.cascade.run_stages)
        return next(filter(None, sizes), None)

    def look(self, name: str, photo: np.ndarray, source: str = "") -> Looked:
        """Let every stage look at a photo (H, W, 3) uint8, also where the rule of one before would have stopped it."""
        looked = Looked(name, Item(source or name, name, photo))
        items = [looked.item]
        for stage in self.cascade.stages:
            if isinstance(stage, RunStage):
                looked.seen |= {(stage.name, i.number): s for i, s in zip(items, stage.look(items), strict=True)}
            else:
                items = stage.run(items, NOWHERE, ())
        if self.outliner is not None:
            (found,) = self.outliner.judge_each([photo], [looked.item.source])
            whole = None if found.error else self.outliner.photo_map(found)
            mask = None if whole is None else self.outliner.threshold("pixel").exceeds(whole)
            if mask is not None and mask.any():
                looked.outlined = (self.outliner.run.folder.name, whole, mask)
        return looked

    def move(self, movable: MovableThreshold, value: float) -> None:
        """Set a threshold; at its stored value it has its origin again."""
        limit = movable.stored if value == movable.stored.value else Threshold(value=float(value), origin=MOVED)
        setattr(self._stage(movable.stage), "pixel_limit" if movable.of_map else "limit", limit)

    def value(self, movable: MovableThreshold) -> float:
        stage = self._stage(movable.stage)
        return (stage.pixel_limit if movable.of_map else stage.limit).value

    def on_val(self, movable: MovableThreshold) -> str:
        """For how many photos of val a rule holds at its limit: ``val: 15 of 16 defects, 1 of 40 good photos``."""
        stage = self._stage(movable.stage)
        run, kind = stage.predictor.run, stage.rule.kind
        if movable.of_map or kind not in ("score", "peak", "area") or (kind == "area" and not run.has_maps):
            return ""
        val = run.predictions("val")
        if kind == "area":
            values = [stage.pixel_limit.exceeds(run.maps("val")[index]).mean() for index in val.index]
        else:
            values = val["score" if kind == "score" else "map_max"]
        holds = stage.holds(values)
        groups = [(words, val["label_index"] == label) for label, words in ((1, "defects"), (0, "good photos"))]
        counts = [f"{int(holds[of].sum())} of {int(of.sum())} {words}" for words, of in groups if of.any()]
        return f"val: {', '.join(counts)}" if counts else ""

    def reach(self, movable: MovableThreshold, photos: Sequence[Looked] = ()) -> tuple[float, float]:
        """From where to where it makes sense to move a threshold: over good photos of val, and over these photos.

        At the lower end everything is above it, at the upper end nothing.
        """
        stage = self._stage(movable.stage)
        found = [one for photo in photos for (name, _), one in photo.seen.items() if name == movable.stage]
        val, values = stage.predictor.run.predictions("val"), [movable.stored.value, self.value(movable)]
        if movable.of_map or stage.rule.kind == "peak":
            maps = [one.network_map for one in found if one.network_map is not None]
            values += [float(end(one)) for one in maps for end in (np.min, np.max)]
            values += val["map_max"].tolist() if "map_max" in val else []
        elif stage.rule.kind == "score":
            values += [one.score for one in found] + val["score"].tolist()
        else:
            values += [0.0, 1.0]  # a share or a probability
        finite = np.array(values, dtype=float)[np.isfinite(values)]
        low, high = float(finite.min()), float(finite.max())
        margin = 0.02 * (high - low) or 0.5
        return low - margin, high + margin

    def judge(self, looked: Looked) -> Inspection:
        """Decide on a photo at the thresholds as they stand; no network is asked."""
        cut, item, shown = looked.item, _fresh(looked.item), ""
        active = [item]
        for stage in self.cascade.stages:
            if not active:
                break
            if isinstance(stage, RunStage):
                shown = stage.name if stage.pixel_limit is not None else shown
                active = [one for one in active if stage.decide(one, looked.seen[stage.name, one.number], NOWHERE)]
            else:  # what it finds depends on no threshold
                item.rows += cut.rows
                item.verdict, item.error, item.parts = cut.verdict, cut.error, [_fresh(part) for part in cut.parts]
                active = item.parts
        if item.parts:
            judge_by_parts(item)
        inspection = Inspection(
            name=looked.name,
            photo=looked.photo,
            verdict=item.verdict,
            abnormal=item.abnormal,
            error=item.error,
            rows=[*item.rows, *(row for part in item.parts for row in part.rows)],
            deciding=deciding_row(item),
            boxes=tuple(part.box for part in item.parts),
            boxes_abnormal=tuple(bool(part.abnormal) for part in item.parts),
            note=self.note,
            outlined=None if item.error else looked.outlined,
        )
        return replace(inspection, **self._map(item, looked, shown)) if shown and not item.error else inspection

    def _map(self, item: Item, looked: Looked, shown: str) -> dict[str, Any]:
        """Map and mask of a stage at the photo's size; of several objects put together."""
        stage, shape = self._stage(shown), looked.photo.shape[:2]
        if (shown, 0) in looked.seen:
            anomaly_map, mask = stage.photo_map(looked.seen[shown, 0])
        else:
            anomaly_map, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
            for part in item.parts:
                if any(row["stage"] == shown and not row["error"] for row in part.rows):
                    _put(part, *stage.photo_map(looked.seen[shown, part.number]), anomaly_map, mask)
        return {
            "stage": shown,
            "pixel_threshold": stage.pixel_limit.value,
            "anomaly_map": anomaly_map,
            "mask": mask,
        }

    def sweep(self, looked: Looked, n: int = 5) -> pd.DataFrame:
        """Verdicts on a photo while all thresholds of rules move together; afterwards they are where they were.

        One row a ``position`` (``now``, then ``n`` shares of the way from where everything is above the thresholds to
        where nothing is) with the thresholds by stage, ``verdict`` and ``abnormal``.
        """
        movables = [movable for movable in self.movables if not movable.of_map]
        before, reach = {one: self.value(one) for one in movables}, {one: self.reach(one, [looked]) for one in movables}
        rows = []
        for share in [None, *(np.linspace(0, 1, n) if movables else [])]:
            for movable, (low, high) in reach.items():
                self.move(movable, before[movable] if share is None else low + share * (high - low))
            found = self.judge(looked)
            limits = {movable.stage: self.value(movable) for movable in movables}
            position = "now" if share is None else f"{100 * share:.0f} %"
            rows.append({"position": position, **limits, "verdict": found.verdict, "abnormal": found.abnormal})
        for movable in movables:
            self.move(movable, before[movable])
        return pd.DataFrame(rows)

    def samples(self, n_each: int = 2) -> list[tuple[str, Path]]:
        """Test photos that no stage has trained on, ``n_each`` of every type, defects first: (label, file).

        Of a cascade that cuts objects out, raw frames. Empty where the photos are gone.
        """
        cutter, tables = self.cascade.stages[0], [stage.predictor.run.table for stage in self.cascade.run_stages]
        if not isinstance(cutter, RunStage):
            try:
                frames = cutter.unseen_frames(Path(tables[0].attrs["root"]) / "frames")[: 3 * n_each]
            except (OSError, ValueError):
                return []
            return [(f"frame: {frame.image_path.name}", frame.image_path) for frame in frames]
        tests = [set(table["image_path"][table["split"] == "test"]) for table in tables]
        common = tables[0][tables[0]["image_path"].isin(set.intersection(*tests))]
        chosen = common.sort_values(["label_index", "image_path"], ascending=[False, True])
        chosen = chosen.groupby("defect_type", sort=False).head(n_each)
        found = zip(chosen["defect_type"], map(Path, chosen["image_path"]), strict=True)
        return [(f"{kind}: {path.name}", path) for kind, path in found if path.is_file()]

    def _stage(self, name: str) -> RunStage:
        return next(stage for stage in self.cascade.run_stages if stage.name == name)


def _fresh(item: Item) -> Item:
    """The item before any stage that judges has decided on it."""
    return replace(item, rows=[], parts=[], verdict="", abnormal=None, error="")


def _outliner(cascade: Cascade, folder: Path, device: str) -> Predictor | None:
    """A finished segmenter beside the runs, where the map that is shown is none's and shows whole photos."""
    shown = [stage.predictor.run.info["model"] for stage in cascade.run_stages if stage.pixel_limit is not None]
    beside = [folder / name for name in SEGMENTERS if (folder / name / RUN_FILE).is_file()]
    cuts = len(cascade.run_stages) < len(cascade.stages)
    if cuts or not beside or (shown and shown[-1] in SEGMENTERS):
        return None
    try:
        return Predictor(beside[0], device=device)
    except (ValueError, OSError, RuntimeError):  # a damaged run stops no other one; sizes say whose they are
        return None


def _put(part: Item, found: np.ndarray, found_mask: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
    """Lay an object's map and mask into those of the photo that it was cut out of."""
    x, y, width, height = part.box
    high, wide = part.photo.shape[:2]
    left, top = x + (width - wide) // 2, y + (height - high) // 2  # of the window, which may reach beyond the photo
    rows = slice(max(0, top), min(anomaly_map.shape[0], top + high))
    columns = slice(max(0, left), min(anomaly_map.shape[1], left + wide))
    inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    np.maximum(anomaly_map[rows, columns], found[inner], out=anomaly_map[rows, columns])
    mask[rows, columns] |= found_mask[inner]


@dataclass(frozen=True)
class Sizes:
    labels: np.ndarray  # (H, W) int32, 0 is background
    table: pd.DataFrame  # of measure_labels, with defect_type and severity
    size: PixelSize
    drawing: str = ""  # PASS or FAIL
    failed: str = ""  # the first rule that failed, in words
    by: str = ""  # whose map they are from


def measure(
    inspection: Inspection,
    size: PixelSize,
    *,
    severity: str | Path | None = None,
    rules: str | Path | None = None,
    min_defect_area: int = 10,
) -> Sizes:
    """Measure what a map calls defect, as notebook 08 does: cleaned, taken apart, rated by YAML files of severity
    limits and of a drawing's rules (None: the examples for the unit).

    A type is the class that the classifier names, where one decided; else it goes by the shape (long: scratch, compact:
    spot). SeverityError: limits or rules that cannot be used, also when they are in mm and the size of a pixel is not
    known.
    """
    by, anomaly_map, mask = inspection.measured or ("", None, np.zeros(inspection.photo.shape[:2], bool))
    labels = label_defects(mask, size=size, min_defect_area=min_defect_area)
    table = measure_labels(labels, size, score_map=anomaly_map)
    named = inspection.deciding.get("class")
    table["defect_type"] = [named] * len(table) if named else shapes(table)
    limits = read_severity_limits(severity or rating_file("severity", size.unit))
    table["severity"] = rate_severity(table, limits)
    rows = table.assign(image_path=inspection.name)
    rated = verdicts(check_rules(rows, read_rules(rules or rating_file("drawing", size.unit)), [inspection.name]))
    return Sizes(labels, table, size, rated["verdict"].iloc[0], rated["rule"].iloc[0], by)


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
    """Verdicts and sizes of several photos: :data:`ROW_COLUMNS` of the photo and :data:`DEFECT_COLUMNS` of each of its
    defects, one row for a photo without any; and ``refused``, name of a photo that was not inspected -> why.
    """
    parts = []
    for inspection, sizes in found:
        row = {name: inspection.deciding.get(name) for name in ROW_COLUMNS}
        row |= {"photo": inspection.name, "verdict": inspection.verdict, "abnormal": inspection.abnormal}
        row |= {"error": inspection.error or None, "n_defects": None if sizes is None else len(sizes.table)}
        if sizes is not None:
            row |= {"drawing": sizes.drawing, "contradiction": contradiction(inspection, sizes)}
            row |= {"measured_by": sizes.by}
        if inspection.boxes:
            row |= {"n_objects": len(inspection.boxes), "n_abnormal": sum(inspection.boxes_abnormal)}
        defects = [{}] if sizes is None or sizes.table.empty else sizes.table.to_dict("records")
        parts += [row | {name: defect.get(name) for name in DEFECT_COLUMNS} for defect in defects]
    parts += [{"photo": name, "verdict": "REFUSED", "error": why} for name, why in (refused or {}).items()]
    return pd.DataFrame(parts, columns=[*ROW_COLUMNS, *DEFECT_COLUMNS])
