"""How faint may a defect be and still be found? The same invented defects at falling opacity, and what is found.

Real defects come at whatever strength they have, and a test set rarely holds enough faint ones. Here one defect of
:mod:`helpers.pictures.defects` is drawn on some good test photos, once at every opacity: place, outline and look
stay, only the strength falls, down to the unchanged photo, whose rate is the false-alarm rate. Each detector keeps the
threshold it was given before. What it says holds for these defects: detectors that learn from invented ones (DRAEM,
GLASS) have seen the like.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from helpers.analysis.intervals import wilson_interval
from helpers.data.images import read_image
from helpers.data.samples import NORMAL, absolute_path, make_table, write_table
from helpers.paths import write_whole_folder
from helpers.pictures.defects import KINDS, simulate_defect
from helpers.pictures.scene import photo_seed
from helpers.progress import progress
from helpers.thresholds import exceeds

if TYPE_CHECKING:
    from helpers.runs import Run

OPACITIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
TABLE_NAME = "weak_defects.csv"  # no other folder has one: this one may be replaced
RATE_COLUMNS = ("model", "opacity", "n", "found", "rate", "low", "high")


def weak_defect_photos(
    table: pd.DataFrame,
    *,
    out: str | Path,
    opacities: Sequence[float] = OPACITIES,
    n_photos: int = 100,
    kinds: Sequence[str] = KINDS,
    size: tuple[float, float] | None = None,
    foreground: Callable[[NDArray[np.uint8]], NDArray[np.bool_]] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw one defect on each of some good test photos, at every opacity.

    The kinds take turns over the photos, so that every photo counts once at each opacity: rates at one opacity come
    from independent photos. Photo ``i`` is drawn with ``np.random.default_rng((seed, i))``, at every opacity alike.
    The folder holds ``<kind>/opacity_<opacity>/NNN.png`` (unchanged photos at 0), ``masks/<kind>/NNN.png`` and the
    table, ``weak_defects.csv``, for :func:`helpers.data.samples.read_table`; it is written beside its place and renamed
    when complete. One that an earlier call wrote is replaced.

    Args:
        table: a sample table with splits; photos of train and val are never used.
        out: the folder.
        opacities: in [0, 1]; 0, the unchanged photo, is always among them.
        n_photos: how many photos, drawn from the seed; all good test photos if there are fewer.
        kinds: names from :data:`helpers.pictures.defects.KINDS`, each once.
        size: see :func:`helpers.pictures.defects.simulate_defect`; None: each kind's own.
        foreground: from a photo, uint8 (H, W, 3), to where defects may lie on it, bool (H, W); None: anywhere.
        seed: not negative.

    Returns:
        A sample table with a row for each photo and opacity: ``label_index`` 1 and ``defect_type`` the kind, at
        opacity 0 label 0, ``good`` and no mask; ``split`` is ``test``, ``group`` that of the photo. Further columns:
        ``kind`` (at opacity 0 that of the photo's defect), ``opacity``, ``source_path``. Its ``attrs`` name the data
        set of ``table``; ``root`` is the folder.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: if test holds no good photo; for an argument out of range; or if a photo cannot be read or takes
            no defect (the message names it).
    """
    folder = absolute_path(out)
    levels = _checked_levels(opacities)
    kinds = tuple(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, each once, got {', '.join(kinds) or 'none'}.")
    if n_photos < 1:
        raise ValueError(f"n_photos must be 1 or more, got {n_photos}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    normal = table[(table["split"] == "test") & (table["label_index"] == 0)].reset_index(drop=True)
    if normal.empty:
        raise ValueError("test holds no good photo to draw defects on; split so that some good photos are in test.")
    if folder.exists() and not (folder.is_dir() and ((folder / TABLE_NAME).is_file() or not any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists and is no folder of weak defects; choose another.")
    if any(Path(path).is_relative_to(folder) for path in table["image_path"]):
        raise ValueError(f"{folder} holds photos of the table; choose another folder.")
    order = np.random.default_rng(photo_seed(seed, "order")).permutation(len(normal))
    chosen = normal.iloc[order[:n_photos]]

    rows = []

    def write(partial: Path) -> None:
        for index, source in enumerate(progress(chosen.to_dict("records"), "Drawing weak defects")):
            kind, name = kinds[index % len(kinds)], f"{index:03d}.png"
            photo = read_image(source["image_path"])
            area = None if foreground is None else foreground(photo)
            common = {"split": "test", "group": source["group"], "kind": kind, "source_path": source["image_path"]}
            mask_name = f"masks/{kind}/{name}"
            for opacity in levels:
                picture, row = photo, {"label_index": 0, "defect_type": NORMAL}
                if opacity > 0:
                    rng = np.random.default_rng((seed, index))
                    try:
                        defect = simulate_defect(photo, kind, rng, opacity=opacity, size=size, foreground=area)
                    except ValueError as error:
                        raise ValueError(f"{source['image_path']}: {error}") from error
                    _save(defect.mask.astype(np.uint8) * 255, partial / mask_name)
                    picture = defect.photo
                    row = {"label_index": 1, "defect_type": kind, "mask_path": mask_name}
                image_name = f"{kind}/opacity_{opacity:g}/{name}"
                _save(picture, partial / image_name)
                rows.append(row | common | {"image_path": image_name, "opacity": opacity})
        written = _as_table(rows, table, partial)
        write_table(written, partial / TABLE_NAME)
        # the file says where the photos lie, and the folder is still to be renamed
        attrs = {key: value for key, value in written.attrs.items() if key != "root"}
        text = json.dumps(attrs, indent=2, ensure_ascii=False) + "\n"
        (partial / f"{TABLE_NAME}.json").write_text(text, encoding="utf-8")

    write_whole_folder(folder, write)
    return _as_table(rows, table, folder)


def score_photos(run: Run, table: pd.DataFrame, *, device: str = "auto", batch_size: int = 8) -> NDArray[np.float32]:
    """Scores that a finished run gives to photos, those it has never seen included.

    They are made as those that its thresholds were set on, object mask included (:class:`helpers.inference.Predictor`).
    Where object masks are a folder of files, a weak defect gets that of the photo it was drawn on (``source_path``).

    Args:
        run: finished.
        table: a row a photo: ``image_path`` and, where there, ``source_path``. Its labels do not count.
        device: see :func:`helpers.compute.trainer_device`.
        batch_size: photos at once.

    Returns:
        (N,) float32, in the order of the table's rows; raw scores, higher is more abnormal.

    Raises:
        MissingRunError: if the run is not finished.
        FileNotFoundError: if a photo, or the mask of its object, is missing.
        ValueError: if there is no photo, or one cannot be read.
    """
    from helpers.inference.predictor import Predictor, read_batches
    from helpers.runs import MissingRunError

    if not run.finished:
        raise MissingRunError(f"{run.folder} is a draft; train and calibrate {run.name} first.")
    if table.empty:
        raise ValueError("The table has no photos; there is nothing to score.")
    predictor = Predictor(run, device=device, batch_size=batch_size)
    pictures = zip(table.get("source_path", table["image_path"]), table["image_path"], strict=True)
    scores: list[float] = []
    for batch in read_batches(
        progress(pictures, f"Scoring with {run.name}", len(table)), batch_size, predictor.bit_depth
    ):
        for item in batch:
            if item.problem is not None:
                raise item.problem
        judged = predictor.judge([item.photo for item in batch], [item.source for item in batch])
        scores += [one.score for one in judged]
    return np.array(scores, dtype=np.float32)


def detection_rates(scores: pd.DataFrame, thresholds: Mapping[str, SupportsFloat]) -> pd.DataFrame:
    """Share of photos that each model calls abnormal (score > threshold), by opacity.

    Opacity 0 is the unchanged photo: there the share is the false-alarm rate. For one kind of defect give the rows of
    that kind only.

    Args:
        scores: a row for each model, photo and opacity: ``model``, ``kind``, ``opacity``, ``score`` (finite).
        thresholds: model -> threshold, a number or a :class:`helpers.thresholds.Threshold`.

    Returns:
        A row for each model (in the order of ``scores``) and opacity (rising): ``model``, ``opacity``, ``n`` photos,
        ``found`` of them, ``rate``, and ``low`` and ``high``, the ends of Wilson's 95 % interval. The interval takes
        photos as independent; several of one part make the true one wider.

    Raises:
        ValueError: if a column or a threshold is missing, there is no row, or a score is not finite.
    """
    missing = [column for column in ("model", "kind", "opacity", "score") if column not in scores]
    if missing:
        raise ValueError(f"scores lacks the column(s) {', '.join(missing)}.")
    if scores.empty:
        raise ValueError("scores is empty: there is nothing to count.")
    without = [model for model in scores["model"].unique() if model not in thresholds]
    if without:
        raise ValueError(f"thresholds has none for {', '.join(without)}; it has {', '.join(thresholds) or 'none'}.")
    rows = []
    for model, of_model in scores.groupby("model", sort=False):
        for opacity, of_level in of_model.groupby("opacity"):
            n, found = len(of_level), int(exceeds(of_level["score"], thresholds[model]).sum())
            rows.append((model, float(opacity), n, found, found / n, *wilson_interval(found / n, n)))
    return pd.DataFrame(rows, columns=list(RATE_COLUMNS))


def _checked_levels(opacities: Sequence[float]) -> list[float]:
    """Opacities, rising, each once, 0 among them."""
    if not all(0 <= opacity <= 1 for opacity in opacities) or not any(opacity > 0 for opacity in opacities):
        raise ValueError(f"opacities must lie in [0, 1], one at least above 0, got {list(opacities)}.")
    return sorted({0.0, *map(float, opacities)})


def _as_table(rows: Sequence[dict[str, Any]], table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows as a sample table of the same data set in another folder."""
    name, pixel_size = table.attrs.get("name") or "samples", table.attrs.get("pixel_size")
    return make_table(rows, root=root, layout="table", name=name, published_split=True, pixel_size=pixel_size)


def _save(picture: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
