"""Sizes of all defects of a finished run: from its stored maps, enlarged to each photo's own size, to files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array

from helpers.analysis.pixel_size import Calibration
from helpers.analysis.regions import connected_regions, run_lengths
from helpers.analysis.severity import COMPACT, LONG, Limit, shapes
from helpers.analysis.sizing import label_defects, measure_labels
from helpers.data.images import image_sizes, map_at_photo_size, read_image, read_mask
from helpers.data.samples import relative_path
from helpers.drawing import annotate_photo
from helpers.inference.object_mask import otsu_object_mask
from helpers.inference.predictor import START, open_finished
from helpers.paths import write_csv, write_json, write_whole_folder
from helpers.progress import progress
from helpers.runs import MissingRunError, Run
from helpers.session import ParameterError
from helpers.thresholds import Threshold

OUTLINE_ORDER = ("unet", "deeplabv3plus", "patchcore", "glass", "draem")  # those that learned to draw outlines first
PRODUCTS = ("photo", "otsu")
TYPES_OF_DEFECTS = ("shape", "label")
JPEG_QUALITY = 92


def choose_run(folder: Path, model: str = "") -> Run:
    """The run of a dataset's folder that measures: the one named, else the first finished one of `OUTLINE_ORDER`."""
    names = [model] if model else [name for name in OUTLINE_ORDER if (folder / name / "run.json").is_file()]
    if not names:
        raise MissingRunError(f"No finished detector in {folder}. Run notebook 02_train_patchcore (or 03, 04) first.")
    run = open_finished(folder / names[0])
    if not run.has_maps or "pixel" not in run.thresholds:
        raise ParameterError(f"MODEL={model!r}: {run.folder} has no maps of defects; choose a detector's run.")
    return run


def pixel_threshold(run: Run, name: str = "pixel") -> Threshold:
    """A pixel threshold stored with a run; ``start``, what a segmenter began with; or a number as text."""
    stored = {key: found for key, found in run.thresholds.items() if found.kind == "pixel"}
    start = run.info["parameters"].get("start_threshold")
    if start is not None:
        stored.setdefault(START, Threshold(float(start), "starting value, not calibrated", kind="pixel"))
    try:
        return stored[name] if name in stored else Threshold(float(name), "given", kind="pixel")
    except ValueError as error:
        known = ", ".join(stored)
        raise ParameterError(f"PIXEL_THRESHOLD={name!r}: {run.name} has {known}; a number works as well.") from error


def check_types(types: str, table: pd.DataFrame, severity: Sequence[Limit], rules: Sequence[Limit]) -> None:
    """Refuse limits and rules of a type that no defect can have: they would hold for nothing, and pass every photo."""
    known = {LONG, COMPACT} if types == "shape" else set(table["defect_type"])
    for name, limits in (("SEVERITY", severity), ("RULES", rules)):
        unknown = sorted({limit.defect_type for limit in limits if limit.defect_type} - known)
        if unknown:
            raise ParameterError(
                f"{name} names the type {unknown[0]!r}, which no defect has with TYPES={types!r}. It may name "
                f"{', '.join(sorted(known))}; give a file of your own, or the other TYPES."
            )


@dataclass(frozen=True)
class MeasuredPhotos:
    """``table``: one row a defect: image_path (relative), photo_type (the photo's label), defect_type (what rules call
    a type) and the columns of `measure_labels`. ``photos``: image_path, file (absolute), defect_type, label_index and
    score. ``sparse_labels``: those of `label_defects` by image_path.
    """

    table: pd.DataFrame
    photos: pd.DataFrame
    calibration: Calibration
    threshold: float
    sparse_labels: Mapping[str, csr_array]

    def labels(self, image_path: str) -> np.ndarray:
        """(H, W) int32 numbers of a photo's defects, those of the table; 0 is background."""
        return self.sparse_labels[image_path].toarray()

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
    """Measure every defect on the test photos of a finished run, from its stored maps; ``options`` of `label_defects`.

    The ``product`` fills the photo, or is found by `otsu_object_mask`; a defect's type is its ``shape`` or the
    ``label`` of its photo.
    """
    test, size = run.predictions("test"), calibration.pixel_size
    photos = test[["image_path", "defect_type", "label_index", "score"]].rename(columns={"image_path": "file"})
    names = dict(zip(run.table["image_path"], relative_path(run.table), strict=True))
    photos.insert(0, "image_path", photos["file"].map(names))
    parts, labels_of = [measure_labels(np.zeros((1, 1), np.int32), size)], {}
    rows = progress(photos.itertuples(), "Measuring defects", total=len(photos))
    for row, network_map in zip(rows, photo_maps(run, test), strict=True):
        try:
            score_map = calibration.rectify(network_map)
            labels = label_defects(score_map, threshold, size, **options)
        except ValueError as error:
            raise ValueError(f"{row.image_path}: {error}") from error
        mask = otsu_object_mask(calibration.rectify(read_image(row.file))) if product == "otsu" else None
        parts.append(measure_labels(labels, size, score_map=score_map, product_mask=mask))
        labels_of[row.image_path] = csr_array(labels)
    table, counts = pd.concat(parts, ignore_index=True), [len(part) for part in parts[1:]]
    for place, (name, of_photo) in enumerate({"image_path": "image_path", "photo_type": "defect_type"}.items()):
        table.insert(place, name, pd.Series(np.repeat(photos[of_photo], counts).to_numpy(), dtype="str"))
    kinds = shapes(table) if types == "shape" else table["photo_type"]
    table.insert(2, "defect_type", pd.Series(kinds, dtype="str"))
    table.attrs["pixel_size"] = size.to_dict()
    return MeasuredPhotos(table, photos, calibration, float(threshold), labels_of)


def photo_maps(run: Run, rows: pd.DataFrame) -> Iterator[np.ndarray]:
    """Stored maps of some rows of ``run.predictions("test")``, (H, W) float32 each at the photo's own size."""
    maps = run.maps("test")
    for index, shape in zip(rows.index, image_sizes(rows["image_path"]).tolist(), strict=True):
        yield map_at_photo_size(maps[index], tuple(shape), run.info["parameters"])


def threshold_errors(run: Run, n_thresholds: int, calibration: Calibration, **options: Any) -> pd.DataFrame:
    """How much of the size error is the threshold: a run's test defects against their masks, over thresholds.

    Thresholds are the run's ``own`` and others evenly between the 90 and the 99.9 % quantile of the maps' pixels: from
    where background begins to pass to where hardly anything does. A true defect is compared with the measured one that
    covers most of its pixels; where none does, it is not found and counts in no error. ``area_error``: median of
    measured over true area, minus 1; ``length_error``: of measured minus true, in the unit; each with quartiles.
    """
    test, own, size = run.predictions("test"), run.thresholds["pixel"].value, calibration.pixel_size
    rows = test[(test["label_index"] == 1) & (test["mask_path"] != "")]
    low, high = np.quantile(np.asarray(run.maps("test")[:: max(1, len(test) // 50)], dtype=np.float32), [0.9, 0.999])
    thresholds = sorted({*np.linspace(low, high, n_thresholds).tolist(), own})
    errors, n_true = [], 0
    plain = {"min_defect_area": options.get("min_defect_area", 10), "use_morphology": False}
    paths = progress(rows["mask_path"], "Measuring at every threshold", total=len(rows))
    for path, found_map in zip(paths, photo_maps(run, rows), strict=True):
        true = label_defects(calibration.rectify(read_mask(path, found_map.shape)), 0, size, **plain)
        truth, score_map = measure_labels(true, size), calibration.rectify(found_map)
        n_true += len(truth)
        for threshold in thresholds:
            found = label_defects(score_map, threshold, size, **options)
            covering = []  # of each true defect the measured one that covers most of it; 0: none does
            for number in truth["defect"]:
                covered = np.bincount(found[true == number], minlength=2)[1:]
                covering.append(covered.argmax() + 1 if covered.any() else 0)
            sizes = measure_labels(np.where(np.isin(found, covering), found, 0), size).set_index("defect")
            sizes = sizes[["area", "length"]].reindex(covering).to_numpy()
            pair = zip(sizes[:, 0] / truth["area"] - 1, sizes[:, 1] - truth["length"], strict=True)
            errors += [(threshold, *each) for each in pair if not np.isnan(each[0])]
    if not n_true:
        raise ValueError(f"No mask of {run.name}'s test photos holds a defect of MIN_DEFECT_AREA pixels or more.")
    found = pd.DataFrame(errors, columns=["threshold", "area_error", "length_error"], dtype=float).groupby("threshold")
    table = pd.DataFrame({"threshold": thresholds, "n": n_true}).set_index("threshold")
    table["n_found"] = found.size().reindex(thresholds, fill_value=0)
    table["found"] = table["n_found"] / n_true
    for name in ("area_error", "length_error"):
        for end, share in (("", 0.5), ("_low", 0.25), ("_high", 0.75)):
            table[f"{name}{end}"] = found[name].quantile(share)
    return table.reset_index().assign(unit=size.unit, own=np.array(thresholds) == own)


def annotated_photo(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, image_path: str
) -> np.ndarray:
    """One photo with outlines, length bars, labels, scale bar and verdict, (kH, kW, 3) uint8."""
    row = verdicts.set_index("image_path").loc[image_path]
    caption = row["verdict"] + (f", rule broken: {row['rule']}" if row["rule"] else "")
    rows, size = table[table["image_path"] == image_path], measured.calibration.pixel_size
    return annotate_photo(measured.picture(image_path), measured.labels(image_path), rows, size, caption=caption)


def write_measurements(
    measured: MeasuredPhotos, table: pd.DataFrame, verdicts: pd.DataFrame, folder: Path, about: Mapping[str, Any]
) -> None:
    """Write defects.csv, verdicts.csv, sizes.json (with ``about``: detector, settings) and defects.coco.json.

    Where photos were rectified, ``rectified/`` holds them, for COCO's outlines are theirs.
    """
    write_csv(table, folder / "defects.csv")
    write_csv(verdicts, folder / "verdicts.csv")
    defects = {name: _records(rows.drop(columns="image_path")) for name, rows in table.groupby("image_path")}
    scores = measured.photos.set_index("image_path")["score"]
    photos = [
        {**one, "score": float(scores[one["image_path"]]), "defects": defects.get(one["image_path"], [])}
        for one in _records(verdicts)
    ]
    head = {"pixel_size": measured.calibration.pixel_size.to_dict(), "pixel_threshold": measured.threshold}
    write_json({**about, **head, "photos": photos}, folder / "sizes.json")
    names = measured.photos["image_path"]
    coco = coco_of_defects(((name, measured.labels(name)) for name in names), table.astype({"severity": "str"}))
    if measured.calibration.maps is not None:
        write_pictures(folder / "rectified", names, measured.picture)
        coco["info"] = {"description": "outlines of the rectified photos in rectified/"}
    write_json(coco, folder / "defects.coco.json")


def coco_of_defects(photos: Iterable[tuple[str, np.ndarray]], table: pd.DataFrame) -> dict[str, Any]:
    """Measured defects as a COCO file's content, with the custom keys length, width, unit and severity.

    ``photos``: image path and `label_defects` (H, W) of each. An outline with holes is stored as run lengths.
    """
    names = sorted(table["defect_type"].unique())
    categories = [{"id": number, "name": name, "supercategory": "defect"} for number, name in enumerate(names, 1)]
    rows_of, images, annotations = dict(list(table.groupby("image_path", sort=False))), [], []
    for image_id, (path, labels) in enumerate(photos, start=1):
        height, width = labels.shape
        images.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
        for row in rows_of[path].to_dict("records") if path in rows_of else []:
            mask = labels == row["defect"]
            outlines = [region["segmentation"] for region in connected_regions(mask)]
            polygons = all(isinstance(outline, list) for outline in outlines)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": names.index(row["defect_type"]) + 1,
                "segmentation": sum(outlines, []) if polygons else run_lengths(mask),
                "bbox": [row[f"bbox_{side}"] for side in ("x", "y", "width", "height")],
                "area": int(row["area_px"]),
                "iscrowd": 0,
            }
            annotations.append(annotation | {name: row[name] for name in ("length", "width", "unit", "severity")})
    return {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain data; a number that is not known is null."""
    return json.loads(rows.to_json(orient="records", double_precision=10))


def write_pictures(
    folder: Path, image_paths: Sequence[str], picture: Callable[[str], np.ndarray], suffix: str = ""
) -> list[Path]:
    """Write ``picture(path)`` as ``folder/<path><suffix>`` of each path; an older folder is replaced as a whole."""
    # without the dots at a path's start, which lead out of the dataset's folder
    files = {path: path.lstrip("./") + suffix for path in image_paths}

    def write(place: Path) -> None:
        for path, file in progress(files.items(), "Writing photos", total=len(files)):
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(path)).save(place / file, quality=JPEG_QUALITY)

    write_whole_folder(folder, write)
    return [folder / file for file in files.values()]
