"""Sizes of all defects of a finished run: from its stored maps to measured defects, annotated photos and files.

Notebook 08 decides (threshold, pixel size, limits, rules); what is done to every photo is here. Maps are enlarged to
each photo's own size before anything is measured, so that a photo that the network saw squeezed is measured as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array

from helpers.analysis.pixel_size import (
    BoardCalibration,
    calibrate_checkerboard,
    pixel_size_from_object,
    pixel_size_from_points,
)
from helpers.analysis.severity import Quantity, Rule, SeverityLimits
from helpers.analysis.sizing import PixelSize, coco_of_defects, label_defects, measure_labels, size_error_by_threshold
from helpers.data.images import image_sizes, map_at_photo_size, read_image, read_mask
from helpers.data.samples import relative_path
from helpers.drawing import annotate_photo
from helpers.inference.predictor import START, open_finished
from helpers.paths import PROJECT_ROOT, project_path, read_yaml, write_csv, write_json, write_whole_folder
from helpers.progress import progress
from helpers.runs import MissingRunError, Run
from helpers.session import ParameterError, check_number
from helpers.thresholds import Threshold

OUTLINE_ORDER = ("unet", "deeplabv3plus", "patchcore", "glass", "draem")  # those that learned to draw outlines first
RATINGS_FOLDER = PROJECT_ROOT / "notebooks" / "params" / "sizes"
PRODUCTS = ("photo", "otsu")
TYPES_OF_DEFECTS = ("shape", "label")
LONG, COMPACT = "scratch", "spot"
ELONGATION = 3.0  # length over width from which a defect is long
JPEG_QUALITY = 92


# -------------------------------------------------------------------------------------------------------------- choices


def choose_run(folder: Path, model: str = "") -> Run:
    """The run that measures: the one named, else the first of `OUTLINE_ORDER` that is finished.

    Args:
        folder: a dataset's artifacts folder.
        model: name of a run; empty: choose.

    Raises:
        MissingRunError: for no finished run; the message says which notebook makes it.
        ParameterError: for a run without maps or pixel threshold, such as a classifier's.
    """
    names = [model] if model else [name for name in OUTLINE_ORDER if (folder / name / "run.json").is_file()]
    if not names:
        raise MissingRunError(f"No finished detector in {folder}. Run notebook 02_train_patchcore (or 03, 04) first.")
    run = open_finished(folder / names[0])
    if not run.has_maps or "pixel" not in run.thresholds:
        raise ParameterError(f"MODEL={model!r}: {run.folder} has no maps of defects; choose a detector's run.")
    return run


def pixel_threshold(run: Run, name: str = "pixel") -> Threshold:
    """The threshold of a run's maps.

    Args:
        run: finished.
        name: of a pixel threshold stored with it; ``start``, what a segmenter began with; or a number as text.

    Raises:
        ParameterError: for another name; the message lists those there are.
    """
    stored = {key: found for key, found in run.thresholds.items() if found.kind == "pixel"}
    start = run.info["parameters"].get("start_threshold")
    if start is not None:
        stored.setdefault(START, Threshold(float(start), "starting value, not calibrated", kind="pixel"))
    if name in stored:
        return stored[name]
    try:
        value = float(name)
        if np.isfinite(value):
            return Threshold(value, "given", kind="pixel")
    except ValueError:
        pass
    raise ParameterError(f"PIXEL_THRESHOLD={name!r}: {run.name} has {', '.join(stored)}; a number works as well.")


def rating_file(kind: str, unit: str, given: str = "") -> Path:
    """The YAML file of limits (``severity``) or rules (``drawing``): the one given, else the example for the unit."""
    return project_path(given) if given else RATINGS_FOLDER / f"{kind}{'_px' if unit == 'px' else ''}.yml"


def check_types(types: str, table: pd.DataFrame, limits: Sequence[SeverityLimits], rules: Sequence[Rule]) -> None:
    """Refuse limits and rules of a type that no defect can have: they would hold for nothing, and pass every photo.

    Args:
        types: what a type is, see :func:`measure_run`.
        table: the sample table.
        limits: of severity.
        rules: of a drawing.

    Raises:
        ParameterError: naming the type and those there are.
    """
    known = {LONG, COMPACT} if types == "shape" else set(table["defect_type"])
    for name, lines in (("SEVERITY", limits), ("RULES", rules)):
        unknown = sorted({line.defect_type for line in lines if line.defect_type} - known)
        if unknown:
            raise ParameterError(
                f"{name} names the type {unknown[0]!r}, which no defect has with TYPES={types!r}. It may name "
                f"{', '.join(sorted(known))}; give a file of your own, or the other TYPES."
            )


# ---------------------------------------------------------------------------------------------------------- calibration


class CalibrationError(ValueError):
    """A calibration file that cannot be used; names the file, what is wrong and the mend."""


@dataclass(frozen=True)
class Calibration:
    """How large a pixel is, and what straightens a photo first.

    Attributes:
        pixel_size: of the photos that are measured, rectified ones where there is a board.
        board: perspective and lens, from a checkerboard; None: photos are measured as they are.
    """

    pixel_size: PixelSize
    board: BoardCalibration | None = None

    def rectify(self, picture: np.ndarray) -> np.ndarray:
        """A photo or map as it is measured: seen straight from above where there is a board, else as it is."""
        return picture if self.board is None else self.board.rectify(picture)


def choose_calibration(
    table: pd.DataFrame, unit: str, *, pixel_size: list[float], error: float = 0.0, file: str = ""
) -> Calibration:
    """The calibration that notebook 08 is given: a file's, a number's, or the dataset's; pixels where there is none.

    Args:
        table: sample table; ``attrs["pixel_size"]`` is mm a pixel, or None.
        unit: of sizes; px leaves out what the dataset says.
        pixel_size: [size] or [x, y] in the unit; empty: none is given.
        error: its standard error, or that of what the dataset says, in the unit.
        file: see :func:`read_calibration`; empty: none.

    Raises:
        ParameterError: for what does not fit together.
    """
    given = ["PIXEL_SIZE"] * bool(pixel_size) + ["PIXEL_SIZE_FROM"] * bool(file)
    if len(given) == 2 or (given and unit == "px"):
        raise ParameterError(f"{' and '.join([*given, *(['UNIT=px'] if unit == 'px' else [])])}: give one of them.")
    if file:
        found = read_calibration(project_path(file))
        return replace(found, pixel_size=found.pixel_size.to(unit))
    if pixel_size:
        if len(pixel_size) > 2:
            raise ParameterError(f"PIXEL_SIZE={pixel_size!r}: expected [size] or [x, y].")
        for value in pixel_size:
            check_number("PIXEL_SIZE", value, 1e-9, 1e9)
        return Calibration(PixelSize(pixel_size[0], pixel_size[-1], error, unit, "PIXEL_SIZE"))
    known = table.attrs.get("pixel_size")
    if unit == "px" or not known:
        return Calibration(PixelSize(1, 1, 0, "px", "UNIT" if unit == "px" else "the size of a pixel is not known"))
    return Calibration(replace(PixelSize(known, known, 0, "mm", "the dataset says so").to(unit), error=error))


_CALIBRATION_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "points": ({"first", "second", "distance"}, {"click_error", "distance_error"}),
    "object": ({"photo", "size"}, {"measure", "edge_error", "size_error"}),
    "checkerboard": ({"photos", "pattern", "square"}, {"square_error"}),
}


def read_calibration(file: str | Path) -> Calibration:
    """The pixel size that a YAML file tells how to find; ``notebooks/params/sizes/calibration.yml`` is an example.

    It has one of the keys ``points``, ``object`` and ``checkerboard``, with the arguments of
    :mod:`helpers.analysis.pixel_size`; lengths are written with their unit. Photos count from the file's folder.

    Raises:
        CalibrationError: for a missing file, unknown or missing keys, or values that cannot be used.
        ImageReadError: for a photo that cannot be read.
    """
    file = Path(file)
    if not file.is_file():
        raise CalibrationError(f"There is no file {file}; notebooks/params/sizes/calibration.yml is an example.")
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise CalibrationError(str(error)) from error
    if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in _CALIBRATION_KEYS:
        raise CalibrationError(f"{file}: expected one of {', '.join(_CALIBRATION_KEYS)} and nothing else.")
    ((way, given),) = content.items()
    needed, possible = _CALIBRATION_KEYS[way]
    if not isinstance(given, dict) or not needed <= set(given) <= needed | possible:
        raise CalibrationError(
            f"{file}: {way} needs {', '.join(sorted(needed))} and may have {', '.join(sorted(possible))}."
        )
    try:
        return _CALIBRATIONS[way](given, file.parent)
    except (ValueError, TypeError) as error:
        raise CalibrationError(f"{file}: {error}") from error


def _from_points(given: Mapping[str, Any], folder: Path) -> Calibration:
    first, second = (tuple(float(value) for value in given[name]) for name in ("first", "second"))
    if len(first) != 2 or len(second) != 2:
        raise ValueError("first and second must be [x, y] in pixels.")
    distance = _length(given, "distance")
    size = pixel_size_from_points(
        first,
        second,
        distance.value,
        distance.unit,
        click_error=float(given.get("click_error", 1.0)),
        distance_error=_error(given, "distance_error", distance.unit),
    )
    return Calibration(size)


def _from_object(given: Mapping[str, Any], folder: Path) -> Calibration:
    known = _length(given, "size")
    size = pixel_size_from_object(
        _product_mask(read_image(folder / given["photo"])),
        known.value,
        known.unit,
        measure=given.get("measure", "equivalent_diameter"),
        edge_error=float(given.get("edge_error", 0.5)),
        known_size_error=_error(given, "size_error", known.unit),
    )
    return Calibration(size)


def _from_checkerboard(given: Mapping[str, Any], folder: Path) -> Calibration:
    square = _length(given, "square")
    across, down = given["pattern"]
    board = calibrate_checkerboard(
        [read_image(folder / name) for name in given["photos"]],
        (int(across), int(down)),
        square.value,
        square.unit,
        square_error=_error(given, "square_error", square.unit),
    )
    return Calibration(board.pixel_size, board)


_CALIBRATIONS = {"points": _from_points, "object": _from_object, "checkerboard": _from_checkerboard}


def _length(given: Mapping[str, Any], name: str) -> Quantity:
    length = Quantity.parse(given[name], name)
    if length.squared or length.unit == "px":
        raise ValueError(f"{name}: {given[name]!r} must be a length in mm, cm or inch.")
    return length


def _error(given: Mapping[str, Any], name: str, unit: str) -> float:
    """A standard error in a unit; 0 where none is given."""
    if name not in given:
        return 0.0
    error = _length(given, name)
    return PixelSize(error.value, error.value, 0.0, error.unit).to(unit).value_x if error.value else 0.0


# -------------------------------------------------------------------------------------------------------------- measure


@dataclass(frozen=True)
class MeasuredPhotos:
    """What was measured on the photos of a run.

    Attributes:
        table: one row a defect: image_path (relative to the dataset), photo_type (the photo's label), defect_type (what
            rules call a type) and the columns of :func:`helpers.analysis.sizing.measure_labels`.
        photos: one row a photo, in the run's order: image_path (relative), file (absolute), defect_type, label_index
            and score.
        calibration: as given.
        threshold: of the map's pixels.
    """

    table: pd.DataFrame
    photos: pd.DataFrame
    calibration: Calibration
    threshold: float
    _labels: Mapping[str, csr_array] = field(repr=False)

    def labels(self, image_path: str) -> np.ndarray:
        """(H, W) int32 numbers of a photo's defects, those of the table; 0 is background.

        Raises:
            KeyError: for a photo that was not measured.
        """
        return self._labels[image_path].toarray()

    def picture(self, image_path: str) -> np.ndarray:
        """(H, W, 3) uint8 photo as it was measured, rectified where there is a board."""
        file = self.photos.set_index("image_path").at[image_path, "file"]
        return self.calibration.rectify(read_image(file))


def measure_run(
    run: Run,
    threshold: float,
    calibration: Calibration,
    *,
    product: str = "photo",
    types: str = "shape",
    **options: Any,
) -> MeasuredPhotos:
    """Measure every defect on the test photos of a finished run, from its stored maps.

    Args:
        run: with maps.
        threshold: of the map's pixels.
        calibration: pixel size, and what rectifies photos and maps.
        product: where the product is: ``photo``, it fills the photo; ``otsu``, see
            :func:`helpers.inference.object_mask.otsu_object_mask`.
        types: a defect's type: its ``shape``, see :func:`shapes`, or the ``label`` of its photo.
        **options: of :func:`helpers.analysis.sizing.label_defects`.

    Raises:
        ValueError: for another product or kind of types, a run without maps, or an option outside its range; a photo
            at fault is named.
    """
    if product not in PRODUCTS:
        raise ValueError(f"product={product!r}: expected one of {', '.join(PRODUCTS)}.")
    if types not in TYPES_OF_DEFECTS:
        raise ValueError(f"types={types!r}: expected one of {', '.join(TYPES_OF_DEFECTS)}.")
    test = run.predictions("test")
    photos = test[["image_path", "defect_type", "label_index", "score"]].rename(columns={"image_path": "file"})
    names = dict(zip(run.table["image_path"], relative_path(run.table), strict=True))
    photos.insert(0, "image_path", photos["file"].map(names))
    size = calibration.pixel_size
    parts, counts, labels_of = [measure_labels(np.zeros((1, 1), np.int32), size)], [], {}
    rows = progress(photos.itertuples(), "Measuring defects", total=len(photos))
    for row, network_map in zip(rows, photo_maps(run, test), strict=True):
        try:
            score_map = calibration.rectify(network_map)
            labels = label_defects(score_map, threshold, size, **options)
            mask = _product_mask(calibration.rectify(read_image(row.file))) if product == "otsu" else None
            parts.append(measure_labels(labels, size, score_map=score_map, product_mask=mask))
        except ValueError as error:
            raise ValueError(f"{row.image_path}: {error}") from error
        counts.append(len(parts[-1]))
        labels_of[row.image_path] = csr_array(labels)
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "image_path", pd.Series(np.repeat(photos["image_path"], counts).to_numpy(), dtype="str"))
    table.insert(1, "photo_type", pd.Series(np.repeat(photos["defect_type"], counts).to_numpy(), dtype="str"))
    kinds = shapes(table) if types == "shape" else table["photo_type"]
    table.insert(2, "defect_type", pd.Series(kinds, dtype="str"))
    table.attrs["pixel_size"] = size.to_dict()
    return MeasuredPhotos(table, photos, calibration, float(threshold), labels_of)


def _product_mask(photo: np.ndarray) -> np.ndarray:
    """(H, W) bool, see `otsu_object_mask`; imported late, for it brings all of Lightning along."""
    from helpers.inference.object_mask import otsu_object_mask

    return otsu_object_mask(photo)


def photo_maps(run: Run, rows: pd.DataFrame) -> Iterator[np.ndarray]:
    """Stored maps of some test photos, (H, W) float32 each at the photo's own size.

    Args:
        run: with maps.
        rows: of ``run.predictions("test")``, with that table's index.
    """
    if not run.has_maps:
        raise ValueError(f"{run.name} has no maps: only a detector's defects can be measured, not a classifier's.")
    maps = run.test_maps()
    for index, shape in zip(rows.index, image_sizes(rows["image_path"]).tolist(), strict=True):
        yield map_at_photo_size(maps[index], tuple(shape), run.info["parameters"])


def shapes(table: pd.DataFrame, elongation: float = ELONGATION) -> list[str]:
    """``scratch`` for each defect that is long (length over width at or above the elongation), else ``spot``.

    So that rules of a drawing that speak of scratches and spots can be kept without a classifier.
    """
    return np.where(table["length"] >= elongation * table["width"], LONG, COMPACT).tolist()


def threshold_errors(run: Run, n_thresholds: int, calibration: Calibration, **options: Any) -> pd.DataFrame:
    """Size error of a run's test defects over pixel thresholds, its own among them.

    Thresholds lie evenly between the 90 and the 99.9 % quantile of the maps' pixels: from where background begins to
    pass to where hardly anything does.

    Args:
        run: with maps; its photos need masks.
        n_thresholds: besides its own.
        calibration: as for :func:`measure_run`.
        **options: of :func:`helpers.analysis.sizing.label_defects`.

    Returns:
        As :func:`helpers.analysis.sizing.size_error_by_threshold`, with a column own: the run's own pixel threshold.

    Raises:
        ValueError: if no defect photo has a mask.
    """
    test = run.predictions("test")
    rows = test[(test["label_index"] == 1) & (test["mask_path"] != "")]
    own = run.thresholds["pixel"].value
    low, high = np.quantile(np.asarray(run.test_maps()[:: max(1, len(test) // 50)], dtype=np.float32), [0.9, 0.999])
    masks = (
        calibration.rectify(read_mask(path, tuple(shape)))
        for path, shape in zip(rows["mask_path"], image_sizes(rows["image_path"]).tolist(), strict=True)
    )
    maps = (calibration.rectify(found) for found in photo_maps(run, rows))
    thresholds = sorted({*np.linspace(low, high, n_thresholds).tolist(), own})
    table = size_error_by_threshold(maps, masks, thresholds, calibration.pixel_size, **options)
    return table.assign(own=table["threshold"] == own)


def threshold_summary(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What the own threshold makes of sizes, and what the threshold of the least area error would.

    Args:
        curves: detector -> from :func:`threshold_errors`.

    Returns:
        One row a detector: n, found, area_error, area_error_low, area_error_high, length_error at its own threshold;
        then least_area_error (its median, at the best of the thresholds that find at least half of what the own one
        finds), found_there, spread_there (between the quartiles): what no single threshold mends.
    """
    rows = []
    for name, curve in curves.items():
        own = curve[curve["own"]].iloc[0]
        fair = curve[(curve["n_found"] >= own["n_found"] / 2) & curve["area_error"].notna()]
        row = {"detector": name, **own[["n", "found", "area_error", "area_error_low", "area_error_high"]].to_dict()}
        row |= {"length_error": own["length_error"]}
        best = fair.loc[fair["area_error"].abs().idxmin()] if len(fair) else own
        row |= {"least_area_error": best["area_error"], "found_there": best["found"]}
        rows.append(row | {"spread_there": best["area_error_high"] - best["area_error_low"]})
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------------------- export


def write_annotated(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, folder: Path, *, n_most: int
) -> list[Path]:
    """Write photos with their defects drawn on them; a folder of that name is replaced as a whole.

    Args:
        measured: labels and photos.
        table: its table as it is to be shown: ``severity`` colours the outlines, ``defect_type`` is in the labels.
        verdicts: from :func:`helpers.analysis.severity.verdicts`; printed in the corner with the rule that failed.
        folder: ``folder/<path of the photo>.jpg`` are written.
        n_most: photos with defects at most: those that fail first, then those with the largest defect.

    Returns:
        The files, that order.
    """
    by_photo = verdicts.set_index("image_path")
    largest = table.groupby("image_path")["area"].max().rename("largest")
    order = by_photo.join(largest, how="inner").sort_values(["n_failed", "largest"], ascending=False).index[:n_most]
    names = [f"{_inside(name)}.jpg" for name in order]

    def write(place: Path) -> None:
        for name, file in zip(progress(order, "Annotating photos", total=len(order)), names, strict=True):
            picture = annotated_photo(measured, table, verdicts, name)
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / file, quality=JPEG_QUALITY)

    write_whole_folder(folder, write)
    return [folder / name for name in names]


def annotated_photo(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, image_path: str
) -> np.ndarray:
    """One photo with outlines, length bars, labels, scale bar and verdict, (kH, kW, 3) uint8.

    Args:
        measured: labels and photos.
        table: as for :func:`write_annotated`.
        verdicts: likewise.
        image_path: of the photo, as in the table.
    """
    row = verdicts.set_index("image_path").loc[image_path]
    caption = row["verdict"] + (f", rule broken: {row['rule']}" if row["rule"] else "")
    rows = table[table["image_path"] == image_path]
    return annotate_photo(
        measured.picture(image_path),
        measured.labels(image_path),
        rows,
        measured.calibration.pixel_size,
        caption=caption,
    )


def write_measurements(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, folder: Path, about: Mapping[str, Any]
) -> list[Path]:
    """Write the defects as CSV, JSON and COCO, and the verdicts as CSV.

    Where photos were rectified, ``rectified/`` holds them, for COCO's outlines are theirs.

    Args:
        measured: labels and photos.
        table: its table with what was added, such as ``severity``.
        verdicts: from :func:`helpers.analysis.severity.verdicts`.
        folder: for ``defects.csv``, ``verdicts.csv``, ``sizes.json`` and ``defects.coco.json``.
        about: what the JSON says besides: detector, threshold, settings; plain data.

    Returns:
        The files.
    """
    files = [folder / name for name in ("defects.csv", "verdicts.csv", "sizes.json", "defects.coco.json")]
    write_csv(table, files[0])
    write_csv(verdicts, files[1])
    write_json(sizes_as_json(measured, table, verdicts, about), files[2])
    shown = table.astype({"severity": "str"}) if "severity" in table else table
    coco = coco_of_defects(((name, measured.labels(name)) for name in measured.photos["image_path"]), shown)
    if measured.calibration.board is not None:
        _write_rectified(measured, folder / "rectified")
        coco["info"] = {"description": "outlines of the rectified photos in rectified/"}
    write_json(coco, files[3])
    return files


def sizes_as_json(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything as plain data: what was measured how, and each photo with its verdict and its defects.

    A number that is not known (a score of a mask, a limit that did not fail) is null.
    """
    defects = {name: _records(rows.drop(columns="image_path")) for name, rows in table.groupby("image_path")}
    scores = measured.photos.set_index("image_path")["score"]
    photos = [
        {**record, "score": float(scores[record["image_path"]]), "defects": defects.get(record["image_path"], [])}
        for record in _records(verdicts)
    ]
    head = {"pixel_size": measured.calibration.pixel_size.to_dict(), "pixel_threshold": measured.threshold}
    return {**about, **head, "photos": photos}


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(rows.to_json(orient="records", double_precision=10))


def _write_rectified(measured: MeasuredPhotos, folder: Path) -> None:
    def write(place: Path) -> None:
        for name in measured.photos["image_path"]:
            (place / _inside(name)).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(measured.picture(name)).save(place / _inside(name))

    write_whole_folder(folder, write)


def _inside(image_path: str) -> str:
    """A relative path without the dots at its start, which lead out of the dataset's folder."""
    return image_path.lstrip("./")
