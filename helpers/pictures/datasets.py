"""The datasets that are drawn by code, ``mesh`` (woven wire) and ``nuts`` (hex nuts): no download, every defect known.

A defect is a polygon: what is painted, the mask (pixels of which at least half lies in it), the COCO annotation and the
recorded size come from that one polygon. Its area is by the shoelace formula; its length, as ``length_kind`` says, that
along its middle (``centreline``: strands, fibres, scratches, the arc of a damaged thread) or its largest diameter
(``feret``: holes, particles, dents, stains, corners).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.paths import write_json
from helpers.pictures.mesh import MESH_DEFECTS, render_mesh
from helpers.pictures.nut_frames import render_frame
from helpers.pictures.nuts import NUT_DEFECTS, render_nut
from helpers.pictures.scene import LOOKS, Points, photo_seed, polygon_area, write_once, write_png
from helpers.progress import progress

VERSION = 1  # of the pictures; raise it when the same seed gives other bytes
DATE = "1970-01-01T00:00:00+00:00"  # no clock: the same seed gives the same bytes
COLUMNS = ["image", "defect_id", "defect_type", "area_mm2", "length_mm", "length_kind", "area_px2", "length_px"]
# How, types of defects, test photos of each.
DRAWN = {"mesh": (render_mesh, list(MESH_DEFECTS), 25), "nuts": (render_nut, list(NUT_DEFECTS), 20)}


def draw_dataset(
    name: str,
    out: str | Path,
    *,
    n_train: int = 200,
    n_test_normal: int = 100,
    n_test_per_defect: int | None = None,
    n_frames: int = 24,
    image_size: int = 256,
    pixel_size: float = 0.05,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Draw ``mesh`` or ``nuts`` into a folder of that name in ``out``, in the MVTec layout.

    Beside the photos lie ``dataset.json``, ``defects.csv``, ``annotations.coco.json`` and, of nuts, ``frames`` of twice
    the size with four to nine nuts and their outlines. A photo depends on the seed and its own name, not on the counts.
    ``pixel_size`` is in mm. A folder with the same parameters is left as it is; another one is replaced by ``force``.
    """
    _, types, n_each = DRAWN[name]
    n_each = n_each if n_test_per_defect is None else n_test_per_defect
    counts = {"n_train": n_train, "n_test_normal": n_test_normal, "n_test_per_defect": n_each, "n_frames": n_frames}
    for parameter, value in (counts | {"seed": seed}).items():
        if value < 0:
            raise ValueError(f"{parameter}={value} must not be negative")
    if not pixel_size > 0:
        raise ValueError(f"pixel_size={pixel_size} must be a positive number of millimetres per pixel")
    about = {"name": name, "layout": "mvtec", "version": VERSION, "seed": seed, "image_size": [image_size] * 2}
    about |= {
        "pixel_size_mm": float(pixel_size),
        "counts": {"train_good": n_train, "test_good": n_test_normal, "test_per_defect": n_each},
        "defect_types": types,
        "style": LOOKS[name],
    }
    if name == "nuts":
        about["counts"]["frames"] = n_frames
        about["frame_size"] = [2 * image_size] * 2

    def write(folder: Path) -> None:
        _write_photos(folder, about)
        if name == "nuts":
            _write_frames(folder / "frames", about)

    return write_once(Path(out) / name, "dataset.json", about, write, force=force)


def _write_photos(folder: Path, about: dict[str, Any]) -> None:
    """Photos, masks, ``defects.csv`` and ``annotations.coco.json``."""
    name, counts, types, pixel = about["name"], about["counts"], about["defect_types"], about["pixel_size_mm"]
    jobs = [("train", "good", index) for index in range(counts["train_good"])]
    jobs += [("test", "good", index) for index in range(counts["test_good"])]
    jobs += [("test", each, index) for each in types for index in range(counts["test_per_defect"])]
    images, annotations, rows = [], [], []
    for split, kind, index in progress(jobs, f"drawing {name}"):
        seed = photo_seed(about["seed"], name, split, kind, index)
        drawing = DRAWN[name][0](seed, None if kind == "good" else kind, image_size=about["image_size"][0])
        relative = f"{split}/{kind}/{index:04d}.png"
        write_png(folder / relative, drawing.image)
        if split == "train":
            continue
        height, width = about["image_size"]
        images.append({"id": len(images) + 1, "file_name": relative, "height": height, "width": width})
        if kind != "good":
            write_png(folder / f"ground_truth/{kind}/{index:04d}_mask.png", drawing.mask.astype(np.uint8) * 255)
        for one in drawing.defects:
            ids = {"id": len(annotations) + 1, "image_id": len(images), "category_id": types.index(kind) + 1}
            annotations.append(ids | _shape(one.polygon) | {"iscrowd": 0})
            in_mm = f"{one.area * pixel**2:.6f}", f"{one.length * pixel:.6f}", one.length_kind
            rows.append((relative, ids["id"], kind, *in_mm, f"{one.area:.3f}", f"{one.length:.3f}"))
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "defects.csv", index=False, lineterminator="\n")
    coco = {
        "info": {"description": f"built-in dataset {name}, drawn by code", "version": str(about["version"])},
        "categories": [{"id": i + 1, "name": each, "supercategory": "defect"} for i, each in enumerate(types)],
    }
    write_json(coco | {"images": images, "annotations": annotations}, folder / "annotations.coco.json", indent=1)


def _write_frames(folder: Path, about: dict[str, Any]) -> None:
    """Frames of several nuts and their outlines in Roboflow's variety of COCO; ``defect_type`` is a key of our own."""
    folder.mkdir()
    images, annotations = [], []
    height, width = about["frame_size"]
    for index in progress(range(about["counts"]["frames"]), f"drawing frames of {about['name']}"):
        seed = photo_seed(about["seed"], about["name"], "frames", "", index)
        picture, nuts = render_frame(seed, frame_size=height, image_size=about["image_size"][0])
        write_png(folder / f"{index:04d}.png", picture)
        image = {"id": index, "license": 1, "file_name": f"{index:04d}.png", "height": height, "width": width}
        images.append(image | {"date_captured": DATE})
        for polygon, defects in nuts:
            ids = {"id": len(annotations), "image_id": index, "category_id": 1}
            outline = dict(reversed(_shape(polygon).items()))
            kind = {"iscrowd": 0, "defect_type": defects[0].type if defects else "good"}
            annotations.append(ids | outline | kind)
    info = {"year": "1970", "version": str(about["version"]), "description": "built-in frames of nuts, drawn by code"}
    coco = {
        "info": info | {"contributor": "", "url": "", "date_created": DATE},
        "licenses": [{"id": 1, "url": "https://www.apache.org/licenses/LICENSE-2.0", "name": "Apache-2.0"}],
        "categories": [
            {"id": 0, "name": "nuts", "supercategory": "none"},
            {"id": 1, "name": "nut", "supercategory": "nuts"},
        ],
    }
    write_json(coco | {"images": images, "annotations": annotations}, folder / "_annotations.coco.json", indent=1)


def _shape(polygon: Points) -> dict[str, Any]:
    box = [*polygon.min(axis=0), *np.ptp(polygon, axis=0)]  # x, y, width, height

    return {
        "segmentation": [[round(float(value), 3) for value in polygon.ravel()]],
        "area": round(polygon_area(polygon), 3),
        "bbox": [round(float(value), 3) for value in box],
    }
