"""What the inspection page shows, as HTML; whatever comes from files or people is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from helpers.analysis.sizing import PixelSize
from helpers.drawing import folded, reduced
from helpers.paths import cells
from helpers.views.app.inspection import Inspection, Inspector, Sizes, contradiction
from helpers.views.inspection_figures import verdict_words, why

SHOWN_PIXELS = 1.5e6  # a larger picture is made smaller before it is shown
DOWNLOADED_PIXELS = 4e6  # likewise, before it is handed out
CONFIDENCE = (
    "Of a detector, from held-out good photos: nearly 1 for a defect where hardly any of them scores as high; for a "
    "good photo the share of them that score as high or higher. It is no probability of a defect. Of a classifier: the "
    "probability that it gives to the verdict."
)


def about(inspector: Inspector, lacking: Mapping[str, Sequence[Path]]) -> str:
    """The runs that inspect, and the cascades that lack some, each with the files that are not there."""
    stages = inspector.cascade.stages
    runs = [stage.predictor.run for stage in stages if hasattr(stage, "predictor")]
    lines = [inspector.cascade.about] * (len(stages) > 1) + [run.describe() for run in runs]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if inspector.note:
        text += f'<p class="insp-note">{escape(inspector.note)}</p>'
    if lacking:
        files = {name: " and ".join("/".join(file.parts[-4:]) for file in each) for name, each in lacking.items()}
        items = "".join(f"<li>{escape(f'{name}: there is no {each}')}</li>" for name, each in files.items())
        text += f"<details><summary>Cascades whose runs are missing</summary><ul>{items}</ul><p>make run</p></details>"
    return f'<div class="insp-small">{text}</div>'


def verdict(inspection: Inspection, sizes: Sizes | None) -> str:
    """The banner: never green where sizes speak against a good verdict."""
    against, words = contradiction(inspection, sizes), ""
    kind = {True: "insp-bad", False: "insp-good", None: "insp-unknown"}[inspection.abnormal]
    if against:
        kind = kind if inspection.abnormal else "insp-doubt"
        against += f" (sizes by {sizes.by})" if sizes.by else ""
        words = f'<p class="insp-against">{escape(f"The verdict is {inspection.verdict}, yet: {against}.")}</p>'
    confidence, boxes = inspection.deciding.get("confidence"), inspection.boxes_abnormal
    details = f"<span>{escape(inspection.name)}</span><span>{escape(why(inspection))}</span>"
    details += f"<span>{sum(boxes)} of {len(boxes)} objects</span>" if boxes else ""
    if confidence is not None:
        details += f'<span title="{CONFIDENCE}">confidence {confidence:.2f}</span>'
    title = f"<strong>{escape(verdict_words(inspection, sizes))}</strong>"
    return f'<div class="insp-verdict {kind}" role="status">{title}{words}<div>{details}</div></div>'


def picture(annotated: np.ndarray, inspection: Inspection, sizes: Sizes | None) -> str:
    buffer = io.BytesIO()
    shown = Image.fromarray(reduced(folded(annotated), SHOWN_PIXELS))
    shown.save(buffer, format="JPEG", quality=92, subsampling=0)
    words = f"{inspection.name}: {inspection.verdict}, {0 if sizes is None else len(sizes.table)} regions outlined"
    jpeg = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="insp-picture" alt="{escape(words)}" src="data:image/jpeg;base64,{jpeg}">'


def downloads(annotated: np.ndarray, inspection: Inspection, table: pd.DataFrame, n_photos: int) -> str:
    """Links to the annotated photo and the table, which travel in the page."""
    buffer = io.BytesIO()
    Image.fromarray(reduced(annotated, DOWNLOADED_PIXELS)).save(buffer, format="PNG", compress_level=1)
    photos = "1 photo" if n_photos == 1 else f"{n_photos} photos"
    csv = cells(table).to_csv(index=False).encode("utf-8")
    links = (
        (f"{Path(inspection.name).stem}_inspected.png", "image/png", buffer.getvalue(), "Annotated photo (PNG)"),
        ("inspection.csv", "text/csv", csv, f"Verdicts and sizes, {photos} (CSV)"),
    )
    text = "".join(
        f'<a download="{escape(name)}" href="data:{kind};base64,{base64.b64encode(content).decode()}">{words}</a>'
        for name, kind, content, words in links
    )
    return f'<div class="insp-downloads">{text}</div>'


def stages(inspection: Inspection) -> str:
    """The table of what every stage said."""
    rows = []
    for row in inspection.rows:
        value, limit, kind = row["value"], row["threshold"], row["class"]
        rows.append(
            {
                "stage": row["stage"] + (f" · object {row['object']}" if row["object"] else ""),
                "rule": row["rule"] or "",
                "value": "" if value is None else f"{value:.4g}",
                "threshold": "" if limit is None else f"{limit:.4g} ({row['origin']})",
                "class": "" if kind is None else f"{kind} ({row['probability']:.2f})",
                "decision": row["error"] or row["decision"],
            }
        )
    table = pd.DataFrame(rows)
    if not table["class"].any():
        table = table.drop(columns="class")
    return f"<h2>What every stage said</h2>{_table(table)}"


def measures(sizes: Sizes, inspection: Inspection) -> str:
    """The table of sizes and severities, with who measured them."""
    size, unit = sizes.size, escape(sizes.size.unit)
    words = f"Drawing rules: <b>{sizes.drawing}</b>" + (f", {escape(sizes.failed)}" if sizes.failed else "")
    text = f"<h2>Sizes and severity</h2><p>Measured by <b>{escape(sizes.by)}</b>. {_pixel(size)} {words}.</p>"
    if sizes.table.empty:
        return f"{text}<p>No region of the map is above its threshold.</p>"
    if not inspection.abnormal:
        yet = f"The verdict is {inspection.verdict}, yet the map of {sizes.by} has regions above its own threshold."
        text += f"<p>{escape(yet)}</p>"
    table = sizes.table[["defect", "defect_type", "severity", "length", "width", "area", "peak_score"]].copy()
    for name in ("length", "width", "area", "peak_score"):
        table[name] = [f"{value:.0f}" if value >= 1000 else f"{value:.3g}" for value in table[name]]
    table["defect"] = "#" + table["defect"].astype(str)
    table.columns = ["region", "type", "severity", f"length, {unit}", f"width, {unit}", f"area, {unit}²", "peak score"]
    return text + _table(table)


def _pixel(size: PixelSize) -> str:
    if size.unit == "px":
        return "The size of a pixel is not known: sizes are in pixels."
    return f"A pixel is {escape(str(size).split(' ± ')[0])} {escape(size.unit)}."


def _table(table: pd.DataFrame) -> str:
    severities = {
        level: f'<span class="insp-{level}">{level}</span>' for level in ("low", "medium", "high", "critical")
    }
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table)
    body = ""
    for row in table.to_dict("records"):
        texts = [severities[value] if name == "severity" else escape(str(value)) for name, value in row.items()]
        body += f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
    return f'<div class="insp-scroll"><table><tr>{head}</tr>{body}</table></div>'
