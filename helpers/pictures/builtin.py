"""Built-in datasets, drawn by code: ``mesh`` (woven wire) and ``nuts`` (hex nuts).

They need no download and their defects are known exactly. Each defect is a polygon: what is painted, the pixel
mask (pixels of which at least half lies in the polygon), the COCO annotation and the recorded size all come from
that one polygon. Sizes are those of the polygon, never counted in the mask:

* ``area_mm2``: area of the polygon (shoelace formula).
* ``length_mm``: by type,

  ================  ============================================================================
  broken_strand     centreline: length of the missing piece of wire, along the wire
  hole              feret: largest diameter of the hole
  shifted_strand    centreline: length of the stretch of wire that lies beside its place
  contamination     centreline of a fibre, feret (largest diameter) of a particle
  scratch           centreline: length along the scratch
  dent, stain       feret: largest diameter
  chipped_corner    feret: largest diameter of the missing corner
  damaged_thread    centreline: length of the arc in the middle of the damaged ring
  ================  ============================================================================

  The column ``length_kind`` in ``defects.csv`` says which of the two it is.

Coordinates are those of COCO: (x, y), origin at the corner of the picture, pixel centres at halves.

    python -m helpers.pictures.builtin mesh nuts --out datasets
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.paths import write_whole_folder
from helpers.pictures.mesh import MESH_DEFECTS, MeshStyle, render_mesh
from helpers.pictures.nuts import NUT_DEFECTS, Frame, NutInstance, NutStyle, render_frame, render_nut
from helpers.pictures.scene import CameraStyle, Defect, Drawing, Points, photo_seed, polygon_area, polygon_bbox
from helpers.progress import progress

__all__ = [
    "MESH_DEFECTS",
    "NUT_DEFECTS",
    "CameraStyle",
    "Defect",
    "Drawing",
    "Frame",
    "MeshStyle",
    "NutInstance",
    "NutStyle",
    "draw_mesh",
    "draw_nuts",
    "main",
    "photo_seed",
    "render_frame",
    "render_mesh",
    "render_nut",
]

VERSION = 1  # of the pictures; raise it when the same seed gives other bytes
DATE_CAPTURED = "1970-01-01T00:00:00+00:00"  # no clock: the same seed gives the same bytes
DEFECT_COLUMNS = (
    "image",
    "defect_id",
    "defect_type",
    "area_mm2",
    "length_mm",
    "length_kind",
    "area_px2",
    "length_px",
)


def draw_mesh(
    out_dir: str | Path,
    *,
    n_train: int = 200,
    n_test_normal: int = 100,
    n_test_per_defect: int = 25,
    image_size: int = 256,
    pixel_size: float = 0.05,
    seed: int = 0,
    force: bool = False,
    style: MeshStyle | None = None,
) -> Path:
    """Draw the dataset ``mesh``: woven wire with broken and shifted strands, holes and contamination.

    A folder that was drawn with the same parameters is left as it is. Drawing happens beside the folder, which
    appears only when complete.

    Args:
        out_dir: the folder ``mesh`` is made in it.
        n_train: number of good photos for training.
        n_test_normal: number of good photos in the test set.
        n_test_per_defect: number of test photos of each defect type.
        image_size: side of the square photos in pixels; the scene scales with it.
        pixel_size: millimetres per pixel of the photos as written.
        seed: of everything; one photo depends on it and on its own name, not on the counts.
        force: draw again even if the folder exists, whatever it holds.
        style: how the mesh looks and varies.

    Returns:
        The dataset's folder, MVTec layout, with ``dataset.json``, ``defects.csv`` and ``annotations.coco.json``.

    Raises:
        FileExistsError: when the folder holds something else and ``force`` is False.
        ValueError: for counts, sizes or a seed that make no sense.
    """
    style = style or MeshStyle()
    info = _describe(
        "mesh",
        list(MESH_DEFECTS),
        n_train,
        n_test_normal,
        n_test_per_defect,
        image_size,
        pixel_size,
        seed,
        asdict(style),
    )

    def render(photo: Sequence[int], defect_type: str | None) -> Drawing:
        return render_mesh(photo, defect_type, image_size=image_size, style=style)

    return _write_folder(Path(out_dir) / "mesh", info, lambda folder: _write_photos(folder, info, render), force)


def draw_nuts(
    out_dir: str | Path,
    *,
    n_train: int = 200,
    n_test_normal: int = 100,
    n_test_per_defect: int = 20,
    n_frames: int = 24,
    image_size: int = 256,
    frame_size: int | None = None,
    pixel_size: float = 0.05,
    seed: int = 0,
    force: bool = False,
    style: NutStyle | None = None,
) -> Path:
    """Draw the dataset ``nuts``: one hex nut a photo, anywhere and turned anyhow, and frames of several.

    A folder that was drawn with the same parameters is left as it is. Drawing happens beside the folder, which
    appears only when complete.

    Args:
        out_dir: the folder ``nuts`` is made in it.
        n_train: number of good photos for training.
        n_test_normal: number of good photos in the test set.
        n_test_per_defect: number of test photos of each defect type.
        n_frames: number of frames with four to nine nuts, some touching, about a quarter of them defective.
        image_size: side of the square photos in pixels; the scene scales with it.
        frame_size: side of the frames in pixels, nuts being as large as in the photos; twice ``image_size`` if None.
        pixel_size: millimetres per pixel of the photos and frames as written.
        seed: of everything; one photo depends on it and on its own name, not on the counts.
        force: draw again even if the folder exists, whatever it holds.
        style: how the nuts look and vary.

    Returns:
        The dataset's folder, MVTec layout, with ``dataset.json``, ``defects.csv``, ``annotations.coco.json`` and
        ``frames/_annotations.coco.json`` (one polygon a nut, Roboflow style; ``defect_type`` is a custom key).

    Raises:
        FileExistsError: when the folder holds something else and ``force`` is False.
        ValueError: for counts, sizes or a seed that make no sense.
    """
    style = style or NutStyle()
    frame_size = 2 * image_size if frame_size is None else frame_size
    info = _describe(
        "nuts",
        list(NUT_DEFECTS),
        n_train,
        n_test_normal,
        n_test_per_defect,
        image_size,
        pixel_size,
        seed,
        asdict(style),
    )
    if n_frames < 0:
        raise ValueError(f"n_frames={n_frames} must not be negative")
    info["counts"]["frames"] = n_frames
    info["frame_size"] = [frame_size, frame_size]

    def render(photo: Sequence[int], defect_type: str | None) -> Drawing:
        return render_nut(photo, defect_type, image_size=image_size, style=style)

    def frame(photo: Sequence[int]) -> Frame:
        return render_frame(photo, frame_size=frame_size, image_size=image_size, style=style)

    def write(folder: Path) -> None:
        _write_photos(folder, info, render)
        _write_frames(folder / "frames", info, frame)

    return _write_folder(Path(out_dir) / "nuts", info, write, force)


def _describe(
    name: str,
    defect_types: list[str],
    n_train: int,
    n_test_normal: int,
    n_test_per_defect: int,
    image_size: int,
    pixel_size: float,
    seed: int,
    style: dict[str, Any],
) -> dict[str, Any]:
    """What ``dataset.json`` says; two folders with the same description hold the same bytes."""
    counts = {"n_train": n_train, "n_test_normal": n_test_normal, "n_test_per_defect": n_test_per_defect}
    for parameter, value in counts.items():
        if value < 0:
            raise ValueError(f"{parameter}={value} must not be negative")
    if image_size < 64:
        raise ValueError(f"image_size={image_size} is too small to show a defect; use 64 or more")
    if not pixel_size > 0:
        raise ValueError(f"pixel_size={pixel_size} must be a positive number of millimetres per pixel")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    return {
        "name": name,
        "layout": "mvtec",
        "version": VERSION,
        "seed": seed,
        "image_size": [image_size, image_size],
        "pixel_size_mm": float(pixel_size),
        "counts": {
            "train_good": n_train,
            "test_good": n_test_normal,
            "test_per_defect": n_test_per_defect,
        },
        "defect_types": defect_types,
        "style": json.loads(json.dumps(style)),  # tuples become lists, as they will when read back
    }


def _write_folder(folder: Path, info: dict[str, Any], write: Callable[[Path], None], force: bool) -> Path:
    """Write a dataset beside its place and move it there when complete."""
    if folder.exists():
        if not force and _read_info(folder) == info:
            return folder
        if not force:
            raise FileExistsError(
                f"{folder} exists and was not drawn with these parameters (see its dataset.json); "
                "pass force=True (--force) to replace it or choose another output folder"
            )

    def write_all(partial: Path) -> None:
        write(partial)
        _write_json(partial / "dataset.json", info)

    write_whole_folder(folder, write_all)
    return folder


def _read_info(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 picture, (H, W, 3) RGB or (H, W)."""
    if image.ndim == 3:
        image = image[..., ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(image), [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not done:
        raise OSError(f"{path} could not be encoded as PNG")
    path.write_bytes(data.tobytes())  # not cv2.imwrite: on Windows it fails on names outside ASCII


def _flat(polygon: Points) -> list[float]:
    return [round(float(value), 3) for value in polygon.ravel()]


def _write_photos(folder: Path, info: dict[str, Any], render: Callable[[Sequence[int], str | None], Drawing]) -> None:
    """Photos, masks, ``defects.csv`` and ``annotations.coco.json``."""
    name, counts, types = info["name"], info["counts"], info["defect_types"]
    pixel_size, (height, width) = info["pixel_size_mm"], info["image_size"]
    jobs = [("train", "good", index) for index in range(counts["train_good"])]
    jobs += [("test", "good", index) for index in range(counts["test_good"])]
    jobs += [("test", each, index) for each in types for index in range(counts["test_per_defect"])]
    for split, kind in dict.fromkeys(job[:2] for job in jobs):
        (folder / split / kind).mkdir(parents=True)
        if kind != "good":
            (folder / "ground_truth" / kind).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    for split, kind, index in progress(jobs, f"drawing {name}"):
        drawing = render(photo_seed(info["seed"], name, split, kind, index), None if kind == "good" else kind)
        relative = f"{split}/{kind}/{index:04d}.png"
        _write_png(folder / relative, drawing.image)
        if split != "test":
            continue
        images.append({"id": len(images) + 1, "file_name": relative, "height": height, "width": width})
        if kind != "good":
            mask = folder / "ground_truth" / kind / f"{index:04d}_mask.png"
            _write_png(mask, drawing.mask.astype(np.uint8) * 255)
        for defect in drawing.defects:
            number = len(annotations) + 1
            annotations.append(
                {
                    "id": number,
                    "image_id": len(images),
                    "category_id": types.index(kind) + 1,
                    "segmentation": [_flat(defect.polygon)],
                    "area": round(defect.area, 3),
                    "bbox": [round(value, 3) for value in defect.bbox],
                    "iscrowd": 0,
                }
            )
            sizes = (defect.area * pixel_size**2, defect.length * pixel_size)
            rows.append(
                (
                    relative,
                    number,
                    kind,
                    *(f"{value:.6f}" for value in sizes),
                    defect.length_kind,
                    f"{defect.area:.3f}",
                    f"{defect.length:.3f}",
                )
            )
    with (folder / "defects.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(DEFECT_COLUMNS)
        writer.writerows(rows)
    categories = [{"id": i + 1, "name": each, "supercategory": "defect"} for i, each in enumerate(types)]
    coco = {
        "info": {"description": f"built-in dataset {name}, drawn by code", "version": str(info["version"])},
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }
    _write_json(folder / "annotations.coco.json", coco)


def _write_frames(folder: Path, info: dict[str, Any], render: Callable[[Sequence[int]], Frame]) -> None:
    """Frames of several nuts and their outlines in Roboflow's variety of COCO."""
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    height, width = info["frame_size"]
    for index in progress(range(info["counts"]["frames"]), f"drawing frames of {info['name']}"):
        frame = render(photo_seed(info["seed"], info["name"], "frames", "", index))
        file_name = f"{index:04d}.png"
        _write_png(folder / file_name, frame.image)
        images.append(
            {
                "id": index,
                "license": 1,
                "file_name": file_name,
                "height": height,
                "width": width,
                "date_captured": DATE_CAPTURED,
            }
        )
        for nut in frame.nuts:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [round(value, 3) for value in polygon_bbox(nut.polygon)],
                    "area": round(polygon_area(nut.polygon), 3),
                    "segmentation": [_flat(nut.polygon)],
                    "iscrowd": 0,
                    "defect_type": nut.defects[0].type if nut.defects else "good",
                }
            )
    coco = {
        "info": {
            "year": "1970",
            "version": str(info["version"]),
            "description": "built-in frames of nuts, drawn by code",
            "contributor": "",
            "url": "",
            "date_created": DATE_CAPTURED,
        },
        "licenses": [{"id": 1, "url": "https://www.apache.org/licenses/LICENSE-2.0", "name": "Apache-2.0"}],
        "categories": [
            {"id": 0, "name": "nuts", "supercategory": "none"},
            {"id": 1, "name": "nut", "supercategory": "nuts"},
        ],
        "images": images,
        "annotations": annotations,
    }
    _write_json(folder / "_annotations.coco.json", coco)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: draw the named datasets and print one line for each."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.pictures.builtin", description="Draw the built-in datasets: photos, masks, known sizes."
    )
    parser.add_argument("datasets", nargs="+", choices=["mesh", "nuts"], help="which datasets to draw")
    parser.add_argument("--out", type=Path, required=True, help="folder in which the dataset folders are made")
    parser.add_argument("--n-train", type=int, help="good photos for training (200)")
    parser.add_argument("--n-test-normal", type=int, help="good photos in the test set (100)")
    parser.add_argument("--n-test-per-defect", type=int, help="test photos of each defect type (mesh 25, nuts 20)")
    parser.add_argument("--n-frames", type=int, help="frames with several nuts, only for nuts (24)")
    parser.add_argument("--image-size", type=int, help="side of the photos in pixels (256)")
    parser.add_argument("--pixel-size", type=float, help="millimetres per pixel (0.05)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same bytes (0)")
    parser.add_argument("--force", action="store_true", help="replace folders drawn with other parameters")
    options = parser.parse_args(arguments)
    given = {key: value for key, value in vars(options).items() if value is not None}
    names, out, n_frames = given.pop("datasets"), given.pop("out"), given.pop("n_frames", None)
    for name in dict.fromkeys(names):
        frames = {} if name == "mesh" or n_frames is None else {"n_frames": n_frames}
        try:
            folder = (draw_mesh if name == "mesh" else draw_nuts)(out, **given, **frames)
        except (FileExistsError, ValueError) as error:
            parser.exit(2, f"{name}: {error}\n")
        n_test = len(list((folder / "test").glob("*/*.png")))
        n_train = len(list((folder / "train").glob("*/*.png")))
        print(f"{name}: {n_train} training and {n_test} test photos in {folder}")


if __name__ == "__main__":
    main()
