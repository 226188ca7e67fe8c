"""Photos one by one before a person: verdicts at thresholds that can be moved, and the sizes of what is marked.

The page (:mod:`helpers.views.app.page`) shows what is worked out here. Every stage of a cascade looks at every
photo once; after that a threshold moves without asking a network again. Nothing is written.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers.analysis import severity as rating
from helpers.analysis.sizing import PixelSize, label_defects, measure_labels
from helpers.data.images import decode_image
from helpers.drawing import annotate_photo, draw_boxes, draw_overlay
from helpers.inference.cascade import VERDICT_COLUMNS, Cascade
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
MEASURED = {"score": "score", "peak": "highest value of the map", "area": "share of the map"}  # by a rule
SYMBOLS = {True: "✕", False: "✓", None: "?"}  # of verdicts: a sign that does not depend on colour


def read_upload(name: str, content: bytes, max_megapixels: float = 60, bits: int | None = None) -> np.ndarray:
    """Read a photo that somebody sent, (H, W, 3) uint8, as :func:`helpers.data.images.read_image` reads a file.

    ValueError, for that person: it is no image, truncated, of a kind that cannot be read, or has so many megapixels or
    more, which is said before they are decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = math.inf
    except Exception:  # decoders of broken files raise nearly anything; decode_image says what is wrong
        pixels = 0
    if pixels >= max_megapixels * 1e6:
        raise ValueError(f"{name}: is too large; a photo must have less than {max_megapixels:g} megapixels.")
    return decode_image(name, content).rgb(bits or 16)


@dataclass(frozen=True)
class Sizes:
    labels: np.ndarray  # (H, W) int32, 0 is background
    table: pd.DataFrame  # of measure_labels, with defect_type and severity
    size: PixelSize
    drawing: str  # PASS or FAIL
    failed: str  # the first rule that failed, in words
    by: str  # whose map they are from
    cause: tuple  # what they follow from


@dataclass
class Photo:
    """A photo that every stage has looked at, once: what is decided on it at thresholds as they stood (`judge`), and
    the sizes of what is marked (`measure`)."""

    cut: Item  # with the objects cut out of it, before anything is decided
    seen: dict[tuple[str, int], Prediction] = field(
        default_factory=dict
    )  # by stage and number of the object, 0: the photo
    outlined: tuple[str, np.ndarray, np.ndarray] | None = None  # by a segmenter that is no stage: name, map and mask
    item: Item = None
    row: dict[str, Any] = field(default_factory=dict)  # of the stage that decided
    stage: RunStage | None = None  # whose map is shown, the last one that looked; None: none has a map
    anomaly_map: np.ndarray | None = None  # (H, W) float32
    marked: tuple[str, np.ndarray, np.ndarray] | None = None  # what sizes are taken from: name, map, mask; None: no map
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        return self.cut.key

    @property
    def verdict(self) -> str:
        return self.item.verdict

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What every stage noted, of the photo and of its objects."""
        return [*self.item.rows, *(row for part in self.item.parts for row in part.rows)]

    @property
    def against(self) -> str:
        """What sizes, drawing rules and severity say against the verdict; empty: they agree with it."""
        sizes, abnormal = self.sizes, self.item.abnormal
        if sizes is None or abnormal is None:
            return ""
        worst = next((level for level in reversed(rating.LEVELS) if level in set(sizes.table["severity"])), "")
        bad = sizes.drawing == rating.FAIL or worst in SERIOUS
        if abnormal and sizes.table.empty:
            return "no region is above the threshold of the map"
        return f"drawing rules {sizes.drawing}" + (f", severity {worst}" if worst else "") if bad != abnormal else ""

    @property
    def words(self) -> str:
        """The verdict with its sign: ``✕ DEFECT``; ``? OK`` where sizes speak against it."""
        doubt = self.item.abnormal is False and self.against
        return f"{SYMBOLS[None if doubt else self.item.abnormal]} {self.verdict}"

    @property
    def why(self) -> str:
        """What decided: the rule's value against its threshold, and where that comes from."""
        row = self.row
        if self.item.error or row.get("value") is None:
            return self.item.error or f"{row['stage']}, rule {row['rule']}"
        words = f"{row['stage']}, {row['rule'].split(' ')[0]} {row['value']:.4g}"
        limit = row.get("threshold")
        return words if limit is None else f"{words}, threshold {limit:.4g} ({row['origin']})"

    def drawn(self, opacity: float) -> np.ndarray:
        """The photo (kH, kW, 3) uint8 under the colours of its map, objects framed; with sizes see `annotate_photo`."""
        picture, parts = self.item.photo, self.item.parts
        if self.anomaly_map is not None:
            nothing, limit = np.zeros(picture.shape[:2], bool), self.stage.pixel_limit.value
            picture = draw_overlay(picture, self.anomaly_map, nothing, limit, opacity=float(opacity))
        if parts:
            picture = draw_boxes(picture, [part.box for part in parts], [bool(part.abnormal) for part in parts])
        if self.sizes is None:
            return picture
        return annotate_photo(picture, self.sizes.labels, self.sizes.table, self.sizes.size, caption=self.words)

    def measure(self, size: PixelSize, *, severity: str = "", rules: str = "") -> None:
        """Measure what a map calls defect, as notebook 08 does: cleaned, taken apart, rated by YAML files of severity
        limits and of a drawing's rules (empty: the examples for the unit); once, as long as what is marked stays.

        A type is the class that the classifier names, where one decided; else it goes by the shape (long: scratch,
        compact: spot). ValueError: limits or rules that cannot be used, also when they are in mm and the size of a
        pixel is not known.
        """
        before, self.sizes = self.sizes, None
        if self.marked is None:
            return
        (by, anomaly_map, mask), named = self.marked, self.row.get("class")
        cause = (by, hash(mask.tobytes()), named, size)
        if before is None or before.cause != cause:
            labels = label_defects(mask, size=size)
            table = measure_labels(labels, size, score_map=anomaly_map)
            table["defect_type"] = [named] * len(table) if named else rating.shapes(table)
            limits = rating.read_limits("severity", size.unit, severity)
            table["severity"] = rating.rate_severity(table, limits)
            drawing = rating.read_limits("rules", size.unit, rules)
            checked = rating.check_rules(table.assign(image_path=self.name), drawing, [self.name])
            (judged,) = rating.verdicts(checked).to_dict("records")
            before = Sizes(labels, table, size, judged["verdict"], judged["rule"], by, cause)
        self.sizes = before


def photo_table(photos: Sequence[Photo], refused: Mapping[str, str]) -> pd.DataFrame:
    """Verdicts (`VERDICT_COLUMNS`) and sizes: a row a defect, one for a photo without any, and one for each that was
    refused (name -> why)."""
    lines = []
    for one in photos:
        item, parts, sizes = one.item, one.item.parts, one.sizes
        row = {name: one.row.get(name) for name in VERDICT_COLUMNS} | {"photo": one.name, "image_path": item.source}
        row |= {"verdict": one.verdict, "abnormal": item.abnormal, "error": item.error or None}
        if parts:
            row |= {"n_objects": len(parts), "n_abnormal": sum(bool(part.abnormal) for part in parts)}
        if sizes is not None:
            row |= {"contradiction": one.against, "drawing": sizes.drawing, "measured_by": sizes.by}
            row |= {"n_defects": len(sizes.table)}
        lines += [row | defect for defect in (sizes.table.to_dict("records") if sizes is not None else [])] or [row]
    return pd.DataFrame(lines + [{"photo": name, "verdict": "REFUSED", "error": why} for name, why in refused.items()])


@dataclass(frozen=True)
class MovableThreshold:
    """A threshold of a stage: ``limit``, of what its rule looks at, or ``pixel_limit``, of its map."""

    stage: RunStage
    name: str
    label: str
    stored: Threshold  # where it stands when nobody has moved it

    @property
    def value(self) -> float:
        return getattr(self.stage, self.name).value

    def move(self, value: float) -> None:
        """Set it; at its stored value it has its origin again."""
        limit = self.stored if value == self.stored.value else Threshold(value=float(value), origin=MOVED)
        setattr(self.stage, self.name, limit)

    @property
    def _column(self) -> str:
        """Where a run's predictions hold what it is compared with; empty: of a share of the map they hold none."""
        kinds = {"score": "score", "peak": "map_max"}
        return "map_max" if self.name == "pixel_limit" else kinds.get(self.stage.rule.kind, "")

    def reach(self, photos: Sequence[Photo] = (), n: int = 1000) -> tuple[float, float, float]:
        """Ends of where it makes sense to move it, over good photos of val and over these, and a step that meets the
        stored value. At the lower end everything is above it, at the upper end nothing."""
        seen = [one for photo in photos for (name, _), one in photo.seen.items() if name == self.stage.name]
        val, stored = self.stage.predictor.run.predictions("val"), self.stored.value
        values = [stored, self.value, *val.get(self._column, [0.0, 1.0])]
        if self._column == "score":
            values += [one.score for one in seen]
        elif self._column == "map_max":
            maps = [one.network_map for one in seen if one.network_map is not None]
            values += [float(end(one)) for one in maps for end in (np.min, np.max)]
        finite = np.array(values, dtype=float)[np.isfinite(values)]
        margin = 0.02 * float(np.ptp(finite)) or 0.5
        low, high = float(finite.min()) - margin, float(finite.max()) + margin
        step = (high - low) / n
        return stored - math.ceil((stored - low) / step) * step, stored + math.ceil((high - stored) / step) * step, step

    def on_val(self) -> str:
        """For how many photos of val a rule on scores or peaks holds: ``val: 1 of 40 good photos, 15 of 16 defects``"""
        val = self.stage.predictor.run.predictions("val")
        if self.name == "pixel_limit" or self._column not in val:
            return ""
        holds = pd.Series(self.stage.holds(val[self._column]), val.index).groupby(val["label_index"])
        words = [f"{part.sum()} of {len(part)} {'defects' if label else 'good photos'}" for label, part in holds]
        return f"val: {', '.join(words)}"


class Inspector:
    """A run or a cascade, held open; its stages' limits are moved, so it must not be shared. ``outliner``: a segmenter
    that sizes are measured by, where no stage is one; ``movables``: thresholds that can be moved.
    """

    def __init__(self, cascade: Cascade, outliner: Predictor | None = None) -> None:
        self.cascade, self.outliner = cascade, outliner
        self.movables: list[MovableThreshold] = []
        for number, stage in enumerate(cascade.stages, start=1):
            for name in ("limit", "pixel_limit"):
                if (stored := getattr(stage, name, None)) is not None:
                    what = f"{MEASURED[stage.rule.kind]} {stage.rule.sign}" if name == "limit" else "map pixel >"
                    self.movables.append(MovableThreshold(stage, name, f"{number} · {stage.name}: {what}", stored))

    @classmethod
    def open(cls, choice: Choice, device: str = "auto") -> Inspector:
        if choice.is_cascade:
            cascade = Cascade.from_yaml(PRESETS_FOLDER / f"{choice.name}.yml", choice.places, device=device)
        else:
            cascade = Cascade.of_run(choice.folder / choice.name, device=device)
        return cls(cascade, _outliner(cascade, choice.folder, device))

    def look(self, name: str, picture: np.ndarray, source: str = "") -> Photo:
        """Let every stage look at a photo (H, W, 3) uint8, also where the rule of one before would have stopped it."""
        photo = Photo(Item(source or name, name, picture))
        items = [photo.cut]
        for stage in self.cascade.stages:
            if isinstance(stage, RunStage):
                photo.seen |= {(stage.name, i.number): s for i, s in zip(items, stage.look(items), strict=True)}
            else:
                items = stage.run(items, NOWHERE, ())
        if self.outliner is not None:
            (found,) = self.outliner.judge_each([picture], [photo.cut.source])
            whole = None if found.error else self.outliner.photo_map(found)
            mask = None if whole is None else self.outliner.threshold("pixel").exceeds(whole)
            if mask is not None and mask.any():
                photo.outlined = (self.outliner.run.folder.name, whole, mask)
        return photo

    def judge(self, photo: Photo) -> Photo:
        """Decide on a photo at the thresholds as they stand; no network is asked, nothing is measured."""
        photo.item = item = _fresh(photo.cut)
        photo.stage = photo.anomaly_map = photo.marked = None
        active = [item]
        for stage in self.cascade.stages:
            if active and isinstance(stage, RunStage):
                photo.stage = photo.stage if stage.pixel_limit is None else stage
                active = [one for one in active if stage.decide(one, photo.seen[stage.name, one.number], NOWHERE)]
            elif active:  # what it finds depends on no threshold
                item.rows, item.verdict, item.error = item.rows + photo.cut.rows, photo.cut.verdict, photo.cut.error
                active = item.parts = [_fresh(part) for part in photo.cut.parts]
        photo.row = item.settle()
        if not item.error and photo.stage is not None:
            photo.anomaly_map, mask = _whole_map(photo)
            photo.marked = (photo.stage.name, photo.anomaly_map, mask)
        if not item.error:
            photo.marked = photo.outlined or photo.marked
        return photo

    def samples(self, n_each: int = 2) -> list[tuple[str, Path]]:
        """Test photos that no stage has trained on, ``n_each`` of every type, defects first: (label, file); of a
        cascade that cuts objects out, raw frames. Empty where the photos are gone."""
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


def _fresh(item: Item) -> Item:
    """The item before any stage that judges has decided on it."""
    return replace(item, rows=[], parts=[], verdict="", abnormal=None, error="")


def _outliner(cascade: Cascade, folder: Path, device: str) -> Predictor | None:
    """A finished segmenter beside the runs, where the map that is shown is none's and shows whole photos."""
    shown = [stage.predictor.run.info["model"] for stage in cascade.run_stages if stage.pixel_limit is not None]
    beside = [folder / name for name in SEGMENTERS if (folder / name / RUN_FILE).is_file()]
    if not beside or len(cascade.run_stages) < len(cascade.stages) or {*shown[-1:]} & {*SEGMENTERS}:
        return None
    try:
        return Predictor(beside[0], device=device)
    except (ValueError, OSError, RuntimeError):  # a damaged run stops no other one; sizes say whose they are
        return None


def _whole_map(photo: Photo) -> tuple[np.ndarray, np.ndarray]:
    """Map and mask of a stage at the photo's size; of several objects put together, 0 between them."""
    stage, shape = photo.stage, photo.item.photo.shape[:2]
    if (stage.name, 0) in photo.seen:
        return stage.photo_map(photo.seen[stage.name, 0])
    whole = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for part in photo.item.parts:
        if any(row["stage"] == stage.name and not row["error"] for row in part.rows):
            x, y, width, height = part.box
            high, wide = part.photo.shape[:2]
            left, top = x + (width - wide) // 2, y + (height - high) // 2  # of the window, which may reach beyond
            for frame, found in zip(whole, stage.photo_map(photo.seen[stage.name, part.number]), strict=True):
                place = frame[max(0, top) : top + high, max(0, left) : left + wide]
                inside = found[max(0, -top) :, max(0, -left) :][: place.shape[0], : place.shape[1]]
                np.maximum(place, inside, out=place)
    return whole
