"""The inspection page of notebook 10, as widgets: photos in, a verdict out, in Voilà and in JupyterLab alike.

What it shows is worked out in :mod:`helpers.views.app.inspection`; here it is laid out. Networks and what
they need are imported when the first run is opened, in the background where somebody watches: the page is there first.
Nothing is written: what is downloaded travels in the page.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
from PIL import Image

from helpers.inference.presets import Choice, choose, find_choices
from helpers.paths import cells, project_path, write_csv, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from helpers.analysis.sizing import PixelSize
    from helpers.views.app.inspection import Inspection, Inspector, Knob, Looked, Sizes

MOST_PHOTOS_MEGAPIXELS = 300  # of all photos that the page holds
SHOWN_PIXELS = 1.5e6  # a larger picture is made smaller before it is shown
DOWNLOADED_PIXELS = 4e6  # likewise, before it is handed out
SLOW_PIXELS = 2e6  # of a larger photo a slider is followed only when it is let go
NO_SAMPLE = "choose a test photo …"
NO_RUN = (
    "<h2>No finished run yet</h2><p>Photos are inspected with a detector that has been trained, and <code>{artifacts}"
    "</code> holds none. This command makes some on the built-in data, in minutes:</p><pre>make run</pre><p>and this "
    "one on a folder of your own photos:</p><pre>make run DATASET=path/to/photos</pre><p>Then load this page again.</p>"
)


class InspectionPage:
    """The page; :attr:`widget` is what a notebook displays.

    Args:
        artifacts: folder of results.
        dataset: name of the dataset that is offered first.
        profile: of its runs.
        run: name of the run or cascade that is chosen first; empty: PatchCore's, else the first.
        device: see :func:`helpers.compute.trainer_device`.
        max_megapixels: a photo of so many, or more, is refused.
        opacity: of the map over the photo where its slider begins, 0 to 1.
        pixel_size: millimetres a pixel; 0: what the dataset says.
        severity: YAML file of severity limits; empty: the example in ``notebooks/params/sizes``.
        rules: YAML file of a drawing's rules; empty: likewise.

    Attributes:
        widget: the page.
        choices: what there is to inspect with.
        inspector: the run or cascade that is open, or None.
        photos: those on the page.
        refused: name of a photo that was refused -> the sentence that says why.

    Raises:
        MissingRunError: there are runs, but none of the name that was asked for.
    """

    def __init__(
        self,
        artifacts: str | Path,
        *,
        dataset: str = "",
        profile: str = "",
        run: str = "",
        device: str = "auto",
        max_megapixels: float = 60,
        opacity: float = 0.5,
        pixel_size: float = 0.0,
        severity: str = "",
        rules: str = "",
    ) -> None:
        self.choices, self.lacking = find_choices(artifacts)
        self.device, self.max_megapixels = device, max_megapixels
        self.ratings = {"severity": _file(severity), "rules": _file(rules)}
        self.inspector: Inspector | None = None
        self.photos: list[Looked] = []
        self.refused: dict[str, str] = {}
        self._given_mm, self._mm = pixel_size, pixel_size
        self._found: list[tuple[Inspection, Sizes | None]] = []
        self._sizes_of: dict[int, tuple[Inspection, Sizes]] = {}  # id of a photo -> what was measured last
        self._waiting: list[Callable[[], None]] = []
        self._task: asyncio.Task | None = None
        self._size_problem = self._problem = ""
        self._quiet = False  # while widgets are set by the program
        if not self.choices:
            missing = ipywidgets.HTML(NO_RUN.format(artifacts=escape(str(project_path(artifacts)))))
            self.widget = _box([_head(), missing.add_class("insp-card")], "insp-page")
            return
        self._make_widgets(choose(self.choices, dataset, profile, run), opacity)

    # --------------------------------------------------------------------------------------------------- the widgets

    def _make_widgets(self, choice: Choice, opacity: float) -> None:
        wide = ipywidgets.Layout(width="auto")
        options = [(one.label, one) for one in self.choices]
        self.choice = ipywidgets.Dropdown(options=options, value=choice, layout=wide)
        self.about = ipywidgets.HTML()
        self.upload = ipywidgets.FileUpload(
            accept="image/*,.tif,.tiff,.bmp", multiple=True, description="Choose photos", icon="", layout=wide
        ).add_class("insp-upload")
        self.sample = ipywidgets.Dropdown(options=[(NO_SAMPLE, None)], layout=wide).add_class("insp-sample")
        self.listed = ipywidgets.Select(options=[], rows=5, layout=wide).add_class("insp-list")
        self.clear = ipywidgets.Button(description="Remove all photos", layout=wide)
        self.knobs = ipywidgets.VBox().add_class("insp-knobs")
        self.sliders: list[tuple[Knob, ipywidgets.FloatSlider]] = []
        self.on_val: list[tuple[Knob, ipywidgets.HTML]] = []  # what each threshold does on val
        self.reset = ipywidgets.Button(description="Back to the stored thresholds", layout=wide).add_class("insp-reset")
        slider = {"min": 0.0, "max": 1.0, "step": 0.05, "readout_format": ".0%", "layout": wide}
        self.opacity = ipywidgets.FloatSlider(value=opacity, **slider).add_class("insp-opacity")
        narrow = ipywidgets.Layout(width="7em")
        self.pixel_size = ipywidgets.FloatText(value=0.0, step=0.001, layout=narrow).add_class("insp-pixel")
        self.unit = ipywidgets.Dropdown(options=["px", "mm", "cm", "inch"], layout=narrow)
        self.status = ipywidgets.HTML().add_class("insp-status")
        self.verdict, self.picture = ipywidgets.HTML(), ipywidgets.HTML()
        self.stages, self.sizes, self.downloads = (ipywidgets.HTML() for _ in range(3))
        for widget, react in (
            (self.choice, self._on_choice),
            (self.upload, self._on_upload),
            (self.sample, self._on_sample),
            (self.listed, self._show),
            (self.opacity, self._show),
            (self.pixel_size, self._on_pixel_size),
            (self.unit, self._on_unit),
        ):
            widget.observe(self._unless_quiet(react), names="value")
        self.clear.on_click(self._unless_quiet(lambda _: self.remove_all()))
        self.reset.on_click(self._unless_quiet(lambda _: self._reset()))
        left = [
            _card("Inspect with", self.choice, self.about),
            _card("Photos", ipywidgets.HTML(_DROP), self.upload, self.sample, self.listed, self.clear),
            _card("Thresholds", self.knobs, self.reset),
            _card("Opacity of the map", self.opacity),
            _card("Size of a pixel", ipywidgets.HBox([self.pixel_size, self.unit])),
        ]
        right = [self.status, self.verdict, self.picture, self.downloads, self.stages, self.sizes]
        body = ipywidgets.Box([_box(left, "insp-left"), _box(right, "insp-right")]).add_class("insp-body")
        self.widget = _box([_head(), body], "insp-page")
        self._show()

    def _unless_quiet(self, react: Callable[[Any], None]) -> Callable[[Any], None]:
        """What a widget calls: nothing while the program sets it; an error is a sentence, not a page that hangs."""

        def called(change: Any) -> None:
            if self._quiet:
                return
            try:
                react(change)
            except Exception as error:
                self._quiet = False
                self._failed(f"That did not work: {_sentence(error)}")

        return called

    # ------------------------------------------------------------------------------------------------------- opening

    def start(self, background: bool = False) -> None:
        """Open what is chosen, if it is not open yet.

        Args:
            background: return at once and open it beside; what comes in until then waits. Only inside a kernel.

        Raises:
            MissingRunError: there is no finished run, and no page that could say so is being watched.
        """
        if not self.choices:
            if not background:
                choose(self.choices)
            return
        if self.inspector is not None:
            return
        if background:
            self._task = asyncio.get_running_loop().create_task(self._open_beside())
            return
        if self._task is not None:
            self._task.cancel()
        self._open()

    def _open(self) -> None:
        choice = self.choice.value
        self._say(f"Opening {choice.label} …")
        try:
            self._use(_open_inspector(choice, self.device))
        except Exception as error:
            self._cannot_open(choice, error)

    async def _open_beside(self) -> None:
        choice = self.choice.value
        self._say(f"Opening {choice.label} …")
        loop = asyncio.get_running_loop()
        try:
            inspector = await loop.run_in_executor(None, _open_inspector, choice, self.device)
            if choice == self.choice.value:
                self._use(inspector)
                return
        except Exception as error:
            self._cannot_open(choice, error)
            return
        await self._open_beside()  # somebody has chosen another one meanwhile

    def _cannot_open(self, choice: Choice, error: Exception) -> None:
        self._task = self.inspector = None
        self.sliders, self.on_val, self.knobs.children = [], [], []
        self._waiting.clear()
        self._failed(f"{choice.label} cannot be opened: {_sentence(error)}")

    def _failed(self, sentence: str) -> None:
        """Say what went wrong, and show no verdict beside it."""
        self._problem, self._found = sentence, []
        self._say("")
        self._show()

    def _use(self, inspector: Inspector) -> None:
        """Go on with a run or cascade that has been opened: it looks at all photos on the page."""
        self._task, self.inspector = None, inspector
        self._mm = self._given_mm or inspector.pixel_size or self._mm
        self._quiet = True
        self.sample.options = [(NO_SAMPLE, None), *inspector.samples()]
        self.unit.value = "mm" if self._mm else "px"
        self._show_pixel_size()
        self._quiet = False
        self.about.value = _about(inspector, self.lacking)
        photos, self.photos, self._sizes_of = self.photos, [], {}
        for photo in photos:
            self._look(photo.name, photo.photo, photo.item.source)
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            job()
        self._say("")
        self._make_sliders()
        self._refresh()

    def _on_choice(self, _: Any) -> None:
        self.inspector, self._problem = None, ""
        if self._task is None:
            self._open()

    # -------------------------------------------------------------------------------------------------------- photos

    def add(self, uploads: Sequence[tuple[str, bytes]], *, with_folder: bool = False) -> None:
        """Inspect photos; those that are refused are said, and the others go on.

        Args:
            uploads: name (or path) and content of each file.
            with_folder: call a photo by its folder and its name.
        """
        if self.inspector is None:
            self._waiting.append(lambda: self._add(uploads, with_folder))
            if self._task is None:
                self.start()
            return
        self._add(uploads, with_folder)
        self._make_sliders()
        self._refresh()

    def add_file(self, path: str | Path) -> None:
        """Inspect a photo that lies on this machine."""
        path = project_path(path)
        self.add([(str(path), path.read_bytes())], with_folder=True)

    def _add(self, uploads: Sequence[tuple[str, bytes]], with_folder: bool) -> None:
        from helpers.views.app.inspection import RefusedPhotoError, read_upload

        self.refused = {}
        for number, (source, content) in enumerate(uploads, start=1):
            name = self._free_name("/".join(Path(source).parts[-2 if with_folder else -1 :]))
            self._say(f"Looking at {name} ({number} of {len(uploads)}) …")
            try:
                photo = read_upload(name, content, self.max_megapixels, self.inspector.cascade.bit_depth)
                held = sum(one.photo.shape[0] * one.photo.shape[1] for one in self.photos)
                if held + photo.shape[0] * photo.shape[1] > MOST_PHOTOS_MEGAPIXELS * 1e6:
                    raise RefusedPhotoError(f"{name}: the page is full. Remove the photos that are on it first.")
                self._look(name, photo, source)
            except RefusedPhotoError as error:
                self.refused[name] = str(error)
            except Exception as error:
                self.refused[name] = f"{name} could not be inspected: {_sentence(error)}"
        self._say("")

    def _free_name(self, name: str) -> str:
        taken, number = {photo.name for photo in self.photos} | set(self.refused), 2
        free = name
        while free in taken:
            free, number = f"{Path(name).with_suffix('')} ({number}){Path(name).suffix}", number + 1
        return free

    def _look(self, name: str, photo: np.ndarray, source: str) -> None:
        self.photos.append(self.inspector.look(name, photo, source))
        self._quiet = True
        self.listed.options = [(one.name, index) for index, one in enumerate(self.photos)]
        self.listed.value = len(self.photos) - 1
        self._quiet = False

    def first_sample(self) -> Path:
        """The first test photo that is offered: a defect, where there is one.

        Raises:
            FileNotFoundError: the photos of the dataset are gone.
        """
        offered = [path for _, path in self.sample.options if path is not None]
        if not offered:
            raise FileNotFoundError(
                f"No test photo of {self.choice.value.label} is where it was; give SAMPLE the path of a photo."
            )
        return offered[0]

    def remove_all(self) -> None:
        """Take all photos off the page."""
        self.photos, self.refused, self._sizes_of = [], {}, {}
        self._quiet = True
        self.listed.options, self.sample.value = [], None
        self._quiet = False
        self._refresh()

    def _on_upload(self, _: Any) -> None:
        sent = [(str(one["name"]), bytes(one["content"])) for one in self.upload.value]
        if sent:
            self.add(sent)
            self._quiet = True
            self.upload.value = ()  # so that the same file may come again, and is not kept twice
            self._quiet = False

    def _on_sample(self, _: Any) -> None:
        if self.sample.value is not None:
            self.add_file(self.sample.value)

    # ---------------------------------------------------------------------------------------------------- thresholds

    def _make_sliders(self) -> None:
        """One slider a threshold, as far as val and the photos on the page reach."""
        self.sliders, self.on_val, rows = [], [], []
        for knob in self.inspector.knobs:
            low, high, step = _grid(*self.inspector.reach(knob, self.photos), knob.stored.value)
            slider = ipywidgets.FloatSlider(
                value=self.inspector.value(knob),
                min=low,
                max=high,
                step=step,
                readout_format=".4g",
                continuous_update=not any(one.photo[..., 0].size > SLOW_PIXELS for one in self.photos),
                layout=ipywidgets.Layout(width="auto"),
            ).add_class("insp-threshold")
            slider.observe(self._unless_quiet(self._mover(knob, step)), names="value")
            self.sliders.append((knob, slider))
            origin = f"stored: {knob.stored.value:.4g}, {escape(knob.stored.origin)}"
            rows += [ipywidgets.HTML(f"<b>{escape(knob.label)}</b><br><small>{origin}</small>"), slider]
            on_val = ipywidgets.HTML().add_class("insp-val")
            self.on_val.append((knob, on_val))
            rows.append(on_val)
        self.knobs.children = rows

    def _mover(self, knob: Knob, step: float) -> Callable[[Any], None]:
        def move(change: Any) -> None:
            at_stored = abs(change["new"] - knob.stored.value) < step / 2  # the browser rounds
            self.inspector.move(knob, knob.stored.value if at_stored else change["new"])
            self._refresh()

        return move

    def _reset(self) -> None:
        if self.inspector is None:
            return
        self._quiet = True
        for knob, slider in self.sliders:
            self.inspector.move(knob, knob.stored.value)
            slider.value = knob.stored.value
        self._quiet = False
        self._refresh()

    # --------------------------------------------------------------------------------------------------- pixel size

    @property
    def size(self) -> PixelSize:
        """How large a pixel is; 1 px where nobody has said it."""
        from helpers.analysis.sizing import PixelSize

        if self.unit.value == "px" or not self._mm > 0:
            return PixelSize(1, 1, 0, "px", "not known")
        return PixelSize(self._mm, self._mm, 0, "mm", "given on the page").to(self.unit.value)

    def _show_pixel_size(self) -> None:
        from helpers.analysis.sizing import MM_PER_UNIT

        self.pixel_size.disabled = self.unit.value == "px"
        self.pixel_size.value = 1.0 if self.unit.value == "px" else round(self._mm / MM_PER_UNIT[self.unit.value], 9)

    def _on_unit(self, _: Any) -> None:
        self._quiet = True
        self._show_pixel_size()
        self._quiet = False
        self._refresh()

    def _on_pixel_size(self, _: Any) -> None:
        from helpers.analysis.sizing import MM_PER_UNIT

        self._mm = self.pixel_size.value * MM_PER_UNIT[self.unit.value]
        self._refresh()

    # --------------------------------------------------------------------------------------------------------- show

    @property
    def found(self) -> list[tuple[Inspection, Sizes | None]]:
        """What is decided on every photo at the thresholds as they stand, and the sizes of its defects."""
        return list(self._found)

    @property
    def current(self) -> tuple[Inspection, Sizes | None] | None:
        """The photo that is shown."""
        return self._found[self.listed.value] if self._found and self.listed.value is not None else None

    def table(self) -> pd.DataFrame:
        """Verdicts and sizes of all photos, see :func:`helpers.views.app.inspection.inspection_table`."""
        from helpers.views.app.inspection import inspection_table

        return inspection_table(self._found, self.refused)

    def annotated(self) -> np.ndarray:
        """The photo that is shown, (kH, kW, 3) uint8, see :func:`helpers.views.inspection_figures.draw_inspection`."""
        from helpers.views.inspection_figures import draw_inspection

        return draw_inspection(*self.current, self.opacity.value)

    def figure(self) -> Figure:
        """The photo that is shown, for a report that nobody can click on."""
        from helpers.views.inspection_figures import inspection_figure

        return inspection_figure(*self.current, opacity=self.opacity.value)

    def sweep(self) -> pd.DataFrame:
        """Verdicts on the photo that is shown at other thresholds."""
        return self.inspector.sweep(self.photos[self.listed.value])

    def save(self, folder: Path) -> None:
        """Write what the page offers to download: ``annotated.png`` of the photo that is shown, ``inspection.csv``."""
        write_whole(folder / "annotated.png", lambda file: Image.fromarray(self.annotated()).save(file))
        write_csv(self.table(), folder / "inspection.csv")

    def _say(self, sentence: str) -> None:
        self.status.value = f'<div class="insp-busy" role="status">{escape(sentence)}</div>' if sentence else ""

    def _refresh(self) -> None:
        """Decide anew on all photos, and show the one that is chosen."""
        self._found, self._size_problem = [], ""
        self._problem = self._problem if self.inspector is None else ""
        for photo in self.photos if self.inspector is not None else []:
            inspection = self.inspector.judge(photo)
            try:
                sizes = None if inspection.measured is None else self._measured(photo, inspection)
            except ValueError as error:  # limits in another unit, or a file that cannot be used
                sizes, self._size_problem = None, str(error)
            self._found.append((inspection, sizes))
        for knob, words in self.on_val:
            words.value = f"<small>{escape(self.inspector.on_val(knob))}</small>"
        self._relabel()
        self._show()

    def _measured(self, photo: Looked, inspection: Inspection) -> Sizes:
        """The sizes of a photo's defects; those of before, as long as nothing that they follow from has moved."""
        from helpers.views.app.inspection import measure

        before, sizes = self._sizes_of.get(id(photo), (None, None))
        by, _, mask = inspection.measured
        same = before is not None and before.measured[0] == by and np.array_equal(before.measured[2], mask)
        if not (same and sizes.size == self.size and before.deciding.get("class") == inspection.deciding.get("class")):
            sizes = measure(inspection, self.size, **self.ratings)
            self._sizes_of[id(photo)] = (inspection, sizes)
        return sizes

    def _relabel(self) -> None:
        from helpers.views.inspection_figures import verdict_words

        chosen = self.listed.value
        self._quiet = True
        named = [f"{verdict_words(*one)} · {one[0].name}" for one in self._found]
        self.listed.options = [(label, index) for index, label in enumerate(named)]
        self.listed.value = chosen if chosen is not None and chosen < len(named) else None
        self._quiet = False

    def _show(self, _: Any = None) -> None:
        many = bool(self._found)
        self.listed.layout.display = self.clear.layout.display = "" if many else "none"
        self.reset.layout.display = "" if self.sliders else "none"
        problems = [*filter(None, [self._problem]), *self.refused.values()]
        if problems or not self.status.value.startswith('<div class="insp-busy'):
            self.status.value = "".join(
                f'<div class="insp-problem" role="alert">{escape(one)}</div>' for one in problems
            )
        if self.current is None:
            self.verdict.value = "" if problems else _EMPTY
            for widget in (self.picture, self.downloads, self.stages, self.sizes):
                widget.value = ""
            return
        inspection, sizes = self.current
        drawn = self.annotated()
        self.verdict.value = _verdict_html(inspection, sizes)
        self.picture.value = _picture_html(drawn, inspection, sizes)
        self.downloads.value = self._downloads_html(inspection, drawn)
        self.stages.value = _stages_html(inspection)
        problem = f'<div class="insp-problem">{escape(self._size_problem)}</div>' if self._size_problem else ""
        self.sizes.value = problem + ("" if sizes is None else _sizes_html(sizes, inspection))

    def _downloads_html(self, inspection: Inspection, drawn: np.ndarray) -> str:
        from helpers.drawing import reduced

        stem = Path(inspection.name).stem
        png = _encoded(reduced(drawn, DOWNLOADED_PIXELS), "PNG")
        csv = cells(self.table()).to_csv(index=False).encode("utf-8")
        return (
            '<div class="insp-downloads">'
            + _link(f"{stem}_inspected.png", "image/png", png, "Annotated photo (PNG)")
            + _link("inspection.csv", "text/csv", csv, f"Verdicts and sizes, {_photos(len(self._found))} (CSV)")
            + "</div>"
        )


def _open_inspector(choice: Choice, device: str) -> Inspector:
    from helpers.views.app.inspection import Inspector

    return Inspector.open(choice, device)


def _sentence(error: Exception) -> str:
    """What an error says; with its kind where its words alone say little (a KeyError is a key)."""
    told = isinstance(error, (OSError, ValueError, RuntimeError)) and str(error)
    return str(error) if told else f"{type(error).__name__}: {error}"


def _grid(low: float, high: float, stored: float, n: int = 1000) -> tuple[float, float, float]:
    """Ends and step of a slider that reaches from low to high and can stand exactly on the stored value."""
    step = (high - low) / n
    below, above = math.ceil((stored - low) / step), math.ceil((high - stored) / step)
    return stored - below * step, stored + above * step, step


def _file(name: str) -> Path | None:
    if not name:
        return None
    path = project_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; notebooks/params/sizes has examples.")
    return path


# ----------------------------------------------------------------------------------------------------------------- HTML


def _box(children: Sequence[ipywidgets.Widget], name: str) -> ipywidgets.VBox:
    return ipywidgets.VBox(list(children)).add_class(name)


def _card(title: str, *children: ipywidgets.Widget) -> ipywidgets.VBox:
    return _box([ipywidgets.HTML(f"<h2>{escape(title)}</h2>"), *children], "insp-card")


def _head() -> ipywidgets.HTML:
    return ipywidgets.HTML(
        f"<style>{_STYLE}</style><h1>Inspection</h1>"
        "<p>One photo in, a verdict out. Photos stay on this machine, and nothing of them is kept.</p>"
    ).add_class("insp-head")


def _about(inspector: Inspector, lacking: dict[str, list[Path]]) -> str:
    lines = [inspector.cascade.about] if len(inspector.cascade.stages) > 1 else []
    for stage in inspector.cascade.stages:
        run = getattr(getattr(stage, "predictor", None), "run", None)
        lines += [run.describe()] if run is not None else []
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if inspector.note:
        text += f'<p class="insp-note">{escape(inspector.note)}</p>'
    if lacking:
        items = "".join(
            f"<li>{escape(name)}: there is no {escape(_places(files))}</li>" for name, files in lacking.items()
        )
        text += f"<details><summary>Cascades whose runs are missing</summary><ul>{items}</ul><p>make run</p></details>"
    return f'<div class="insp-small">{text}</div>'


def _photos(n: int) -> str:
    return "1 photo" if n == 1 else f"{n} photos"


def _places(files: Sequence[Path]) -> str:
    """``mesh/quick/classifier/run.json and ...``."""
    return " and ".join("/".join(file.parts[-4:]) for file in files)


def _verdict_html(inspection: Inspection, sizes: Sizes | None) -> str:
    from helpers.views.app.inspection import contradiction
    from helpers.views.inspection_figures import verdict_words, why

    against = contradiction(inspection, sizes)
    kind = {True: "insp-bad", False: "insp-good", None: "insp-unknown"}[inspection.abnormal]
    kind = "insp-doubt" if against and not inspection.abnormal else kind
    by = f" (sizes by {sizes.by})" if against and sizes.by else ""
    against = (
        f'<p class="insp-against">The verdict is {escape(inspection.verdict)}, yet: {escape(against + by)}.</p>'
        if against
        else ""
    )
    confidence = inspection.deciding.get("confidence")
    sure = f'<span title="{_CONFIDENCE}">confidence {confidence:.2f}</span>' if confidence is not None else ""
    objects = (
        f"<span>{sum(inspection.boxes_abnormal)} of {len(inspection.boxes)} objects</span>" if inspection.boxes else ""
    )
    return (
        f'<div class="insp-verdict {kind}" role="status"><strong>{escape(verdict_words(inspection, sizes))}</strong>'
        f"{against}<div><span>{escape(inspection.name)}</span><span>{escape(why(inspection))}</span>{objects}{sure}</div></div>"
    )


def _picture_html(drawn: np.ndarray, inspection: Inspection, sizes: Sizes | None) -> str:
    from helpers.drawing import folded, reduced

    jpeg = base64.b64encode(_encoded(reduced(folded(drawn), SHOWN_PIXELS), "JPEG", quality=92, subsampling=0)).decode()
    n = 0 if sizes is None else len(sizes.table)
    words = f"{inspection.name}: {inspection.verdict}, {n} regions outlined"
    return f'<img class="insp-picture" alt="{escape(words)}" src="data:image/jpeg;base64,{jpeg}">'


def _stages_html(inspection: Inspection) -> str:
    columns = ["stage", "rule", "value", "threshold", "class", "decision"]
    if all(row["class"] is None for row in inspection.rows):
        columns.remove("class")
    body = ""
    for row in inspection.rows:
        cells = {
            "stage": row["stage"] + (f" · object {row['object']}" if row["object"] else ""),
            "rule": row["rule"] or "",
            "value": "" if row["value"] is None else f"{row['value']:.4g}",
            "threshold": "" if row["threshold"] is None else f"{row['threshold']:.4g} ({row['origin']})",
            "class": "" if row["class"] is None else f"{row['class']} ({row['probability']:.2f})",
            "decision": row["error"] or row["decision"],
        }
        body += "<tr>" + "".join(f"<td>{escape(cells[name])}</td>" for name in columns) + "</tr>"
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f'<h2>What every stage said</h2><div class="insp-scroll"><table><tr>{head}</tr>{body}</table></div>'


def _sizes_html(sizes: Sizes, inspection: Inspection) -> str:
    unit = escape(sizes.size.unit)
    drawing = f"Drawing rules: <b>{sizes.drawing}</b>" + (f", {escape(sizes.failed)}" if sizes.failed else "")
    origin = (
        f"A pixel is {escape(str(sizes.size).split(' ± ')[0])} {unit}."
        if unit != "px"
        else ("The size of a pixel is not known: sizes are in pixels.")
    )
    title = f"<h2>Sizes and severity</h2><p>Measured by <b>{escape(sizes.by)}</b>. {origin} {drawing}.</p>"
    if sizes.table.empty:
        return f"{title}<p>No region of the map is above its threshold.</p>"
    if not inspection.abnormal:
        words = f"The verdict is {inspection.verdict}, yet the map of {sizes.by} has regions above its own threshold."
        title += f"<p>{escape(words)}</p>"
    rows = ""
    for row in sizes.table.itertuples():
        values = (row.length, row.width, row.area, row.peak_score)
        numbers = "".join(f"<td>{value:.0f}</td>" if value >= 1000 else f"<td>{value:.3g}</td>" for value in values)
        level = f'<td><span class="insp-{row.severity}">{row.severity}</span></td>'
        rows += f"<tr><td>#{row.defect}</td><td>{escape(str(row.defect_type))}</td>{level}{numbers}</tr>"
    names = ("region", "type", "severity", f"length, {unit}", f"width, {unit}", f"area, {unit}²", "peak score")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'{title}<div class="insp-scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _link(name: str, kind: str, content: bytes, words: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<a download="{escape(name)}" href="data:{kind};base64,{data}">{escape(words)}</a>'


def _encoded(picture: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, **({"compress_level": 1} if kind == "PNG" else options))
    return buffer.getvalue()


_CONFIDENCE = (
    "Of a detector, from held-out good photos: nearly 1 for a defect where hardly any of them scores as high; for a "
    "good photo the share of them that score as high or higher. It is no probability of a defect. Of a classifier: the "
    "probability that it gives to the verdict."
)
_EMPTY = (
    '<div class="insp-verdict insp-unknown"><strong>No photo yet</strong><div>Drop one, or pick a sample.</div></div>'
)

# ipywidgets' FileUpload takes a click only: the files that are dropped are put into the input that it clicks on.
_DROP = """<div class="insp-drop" onclick="this.closest('.insp-page').querySelector('.insp-upload').click()"
ondragover="event.preventDefault(); this.classList.add('insp-over')" ondragleave="this.classList.remove('insp-over')"
ondrop="event.preventDefault(); this.classList.remove('insp-over'); var files = event.dataTransfer.files;
if (files.length) { var proto = HTMLInputElement.prototype, click = proto.click;
proto.click = function () { this.files = files; this.dispatchEvent(new Event('change')); };
try { this.closest('.insp-page').querySelector('.insp-upload').click(); } finally { proto.click = click; } }"
><b>Drop photos here</b><br>PNG, JPEG, TIFF, BMP or WebP</div>"""

_STYLE = """
.insp-page { max-width: 1280px; margin: 0 auto; padding: 4px 16px 32px; color: #1f2933; overflow: visible;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.insp-page h1 { font-size: 26px; margin: 8px 0 0; font-weight: 650; }
.insp-page h2 { font-size: 13px; margin: 0 0 6px; font-weight: 650; line-height: 1.3; }
.insp-page p { margin: 2px 0 6px; line-height: 1.45; }
.insp-page .widget-html, .insp-page .jupyter-widgets { overflow: visible; }
.insp-page .widget-html, .insp-page .widget-html-content { height: auto; line-height: 1.45; font-size: 13px; }
.insp-head p { color: #52606d; }
.insp-body { display: flex; flex-flow: row wrap; gap: 20px; align-items: flex-start; }
.insp-left { flex: 1 1 260px; max-width: 360px; gap: 12px; }
.insp-right { flex: 3 1 400px; min-width: 0; gap: 12px; overflow: hidden !important; }
@media (max-width: 720px) { .insp-left { max-width: none; } }
.insp-card { background: #f7f9fb; border: 1px solid #dde3ea; border-radius: 10px; padding: 12px 14px; }
.insp-card pre, .insp-card code { background: #e9eef3; border-radius: 5px; padding: 2px 6px; }
.insp-card pre { padding: 8px 10px; }
.insp-drop { border: 2px dashed #9fb3c8; border-radius: 8px; padding: 16px 8px; text-align: center; cursor: pointer;
  background: #fff; color: #52606d; }
.insp-drop.insp-over { border-color: #0072b2; background: #eaf4fb; color: #0072b2; }
.insp-page .insp-upload { background: #0072b2; color: #fff; border-radius: 6px; font-weight: 600;
  font-size: 0; }
.insp-upload::after { content: "Choose photos"; font-size: 13px; }
.insp-small, .insp-page small { font-size: 12px; color: #52606d; }
.insp-note { color: #a00000; }
.insp-knobs { gap: 2px; }
.insp-busy, .insp-problem { padding: 10px 14px; border-radius: 8px; margin-bottom: 6px; }
.insp-busy { background: #eaf4fb; color: #0b4f78; }
.insp-problem { background: #fdecea; color: #8c1d18; border-left: 4px solid #b3261e; }
.insp-verdict { border-radius: 10px; padding: 14px 18px; color: #fff; }
.insp-verdict strong { font-size: 30px; letter-spacing: .5px; line-height: 1.2; }
.insp-verdict div { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 14px; }
.insp-bad { background: #b3261e; } .insp-good { background: #1b6e3c; } .insp-unknown { background: #52606d; }
.insp-doubt { background: #8a4b00; }
.insp-page .insp-against { font-size: 15px; font-weight: 600; margin: 4px 0; }
.insp-picture { display: block; width: 100%; max-height: 78vh; object-fit: contain; object-position: left top;
  border-radius: 8px; }
.insp-downloads { display: flex; flex-wrap: wrap; gap: 10px; }
.insp-downloads a { border: 1px solid #0072b2; color: #00598c; border-radius: 6px; padding: 6px 12px; font-weight: 600;
  text-decoration: none; background: #fff; }
.insp-downloads a:hover, .insp-downloads a:focus { background: #eaf4fb; }
.insp-right > *, .insp-right .widget-html-content { max-width: 100%; min-width: 0; white-space: normal; }
.insp-scroll { overflow-x: auto; }
.insp-page table { border-collapse: collapse; width: 100%; font-size: 13px; }
.insp-page th, .insp-page td { text-align: left; padding: 6px 10px; border-bottom: 1px solid #dde3ea;
  vertical-align: top; }
@media (max-width: 900px) { .insp-page th, .insp-page td { padding: 5px; font-size: 12px; } }
.insp-page th { color: #52606d; font-weight: 600; }
.insp-low, .insp-medium, .insp-high, .insp-critical { border-radius: 10px; padding: 1px 9px; font-weight: 600; }
.insp-low { background: #d6ecfa; color: #0b4f78; } .insp-medium { background: #faf3b0; color: #5c5300; }
.insp-high { background: #fbdfae; color: #6b4300; } .insp-critical { background: #f6cbb0; color: #7a2f00; }
"""
