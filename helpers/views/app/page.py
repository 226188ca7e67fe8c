"""The inspection page of notebook 10, as widgets: photos in, a verdict out, in Voilà and in JupyterLab alike.

What it shows is worked out in :mod:`helpers.views.app.inspection`; here it is laid out. Networks and what they need are
imported when the first run is opened, in the background where somebody watches: the page is there first. Nothing is
written: what is downloaded travels in the page.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from helpers.analysis.sizing import MM_PER_UNIT, PixelSize
from helpers.inference.presets import Choice, choose, find_choices
from helpers.paths import project_path
from helpers.progress import sentence

if TYPE_CHECKING:
    import pandas as pd

    from helpers.views.app.inspection import Inspection, Inspector, Looked, MovableThreshold, Sizes

MOST_PHOTOS_MEGAPIXELS = 300  # of all photos that the page holds
NO_SAMPLE = "choose a test photo …"
NO_RUN = (
    "<h2>No finished run yet</h2><p>Photos are inspected with a detector that has been trained, and <code>{artifacts}"
    "</code> holds none. This command makes some on the built-in data, in minutes:</p><pre>make run</pre><p>and this "
    "one on a folder of your own photos:</p><pre>make run DATASET=path/to/photos</pre><p>Then load this page again.</p>"
)
EMPTY = (
    '<div class="insp-verdict insp-unknown"><strong>No photo yet</strong><div>Drop one, or pick a sample.</div></div>'
)
# ipywidgets' FileUpload takes a click only: the files that are dropped are put into the input that it clicks on.
DROP = """<div class="insp-drop" onclick="this.closest('.insp-page').querySelector('.insp-upload').click()"
ondragover="event.preventDefault(); this.classList.add('insp-over')" ondragleave="this.classList.remove('insp-over')"
ondrop="event.preventDefault(); this.classList.remove('insp-over'); var files = event.dataTransfer.files;
if (files.length) { var proto = HTMLInputElement.prototype, click = proto.click;
proto.click = function () { this.files = files; this.dispatchEvent(new Event('change')); };
try { this.closest('.insp-page').querySelector('.insp-upload').click(); } finally { proto.click = click; } }"
><b>Drop photos here</b><br>PNG, JPEG, TIFF, BMP or WebP</div>"""


class InspectionPage:
    """The page; ``widget`` is what a notebook displays.

    ``dataset``, ``profile`` and ``run`` (empty: PatchCore's, else the first) say what is chosen first of ``choices``. A
    photo of ``max_megapixels`` or more is refused. ``opacity`` of the map is 0 to 1, ``pixel_size`` in millimetres (0:
    what the dataset says). ``severity`` and ``rules`` are YAML files (empty: the examples in
    ``notebooks/params/sizes``). Attributes: ``inspector`` is the run or cascade that is open, or None; ``photos`` those
    on the page; ``results`` their inspections and sizes; ``refused`` name of a photo -> the sentence that says why.

    Raises:
        MissingRunError: there are runs, but none of the name that was asked for.
        FileNotFoundError: there is no such YAML file.
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
        self.results: list[tuple[Inspection, Sizes | None]] = []
        self.sliders: list[tuple[MovableThreshold, ipywidgets.FloatSlider]] = []
        self._given_mm, self._mm = pixel_size, pixel_size
        self._sizes: dict[str, tuple[tuple, Sizes]] = {}  # name of a photo -> what they follow from, and they
        self._waiting: list[Callable[[], None]] = []
        self._task: asyncio.Task | None = None
        self._size_problem = self._problem = ""
        self._set_by_program = False
        style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        head = f"<style>{style}</style><h1>Inspection</h1><p>One photo in, a verdict out. Photos stay on this machine, "
        head = ipywidgets.HTML(f"{head}and nothing of them is kept.</p>").add_class("insp-head")
        if self.choices:
            body = self._make_widgets(choose(self.choices, dataset, profile, run), opacity)
        else:
            body = ipywidgets.HTML(NO_RUN.format(artifacts=escape(str(project_path(artifacts))))).add_class("insp-card")
        self.widget = _box([head, body], "insp-page")

    def _make_widgets(self, choice: Choice, opacity: float) -> ipywidgets.Box:
        wide, narrow = ipywidgets.Layout(width="auto"), ipywidgets.Layout(width="7em")
        options = [(one.label, one) for one in self.choices]
        self.choice = ipywidgets.Dropdown(options=options, value=choice, layout=wide)
        self.upload = ipywidgets.FileUpload(
            accept="image/*,.tif,.tiff,.bmp", multiple=True, description="Choose photos", icon="", layout=wide
        ).add_class("insp-upload")
        self.sample = ipywidgets.Dropdown(options=[(NO_SAMPLE, "")], layout=wide).add_class("insp-sample")
        self.listed = ipywidgets.Select(options=[], rows=5, layout=wide).add_class("insp-list")
        self.clear = ipywidgets.Button(description="Remove all photos", layout=wide)
        self.limits = ipywidgets.VBox().add_class("insp-limits")
        self.reset = ipywidgets.Button(description="Back to the stored thresholds", layout=wide).add_class("insp-reset")
        self.opacity = _slider(opacity, 0.0, 1.0, 0.05, ".0%").add_class("insp-opacity")
        self.pixel_size = ipywidgets.FloatText(value=0.0, step=0.001, layout=narrow).add_class("insp-pixel")
        self.unit = ipywidgets.Dropdown(options=["px", "mm", "cm", "inch"], layout=narrow)
        self.status = ipywidgets.HTML().add_class("insp-status")
        self.about, self.verdict, self.picture, self.downloads, self.stages, self.sizes = (
            ipywidgets.HTML() for _ in range(6)
        )
        for widget, react in (
            (self.choice, self._on_choice),
            (self.upload, self._on_upload),
            (self.sample, lambda: self.sample.value and self.add_file(self.sample.value)),
            (self.listed, self._show),
            (self.opacity, self._show),
            (self.pixel_size, self._on_pixel_size),
            (self.unit, self._on_unit),
        ):
            widget.observe(self._reaction(react), names="value")
        self.clear.on_click(self._reaction(self.remove_all))
        self.reset.on_click(self._reaction(self._reset))
        left = [
            _card("Inspect with", self.choice, self.about),
            _card("Photos", ipywidgets.HTML(DROP), self.upload, self.sample, self.listed, self.clear),
            _card("Thresholds", self.limits, self.reset),
            _card("Opacity of the map", self.opacity),
            _card("Size of a pixel", ipywidgets.HBox([self.pixel_size, self.unit])),
        ]
        right = [self.status, self.verdict, self.picture, self.downloads, self.stages, self.sizes]
        self._show()
        return ipywidgets.Box([_box(left, "insp-left"), _box(right, "insp-right")]).add_class("insp-body")

    def _reaction(self, react: Callable[[], Any]) -> Callable[[Any], None]:
        """What a widget calls: nothing while the program sets it; an error is a sentence, not a page that hangs."""

        def called(_: Any) -> None:
            if self._set_by_program:
                return
            try:
                react()
            except Exception as error:
                self._fail(f"That did not work: {sentence(error)}")

        return called

    @contextmanager
    def _setting(self) -> Iterator[None]:
        """In the block widgets are set by the program, and react to nothing."""
        self._set_by_program = True
        try:
            yield
        finally:
            self._set_by_program = False

    # ------------------------------------------------------------------------------------------------------- opening

    def start(self, background: bool = False) -> None:
        """Open what is chosen, if it is not open yet; in the background (inside a kernel only) what comes in waits.

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
        choice = self.choice.value
        self._say(f"Opening {choice.label} …")
        try:
            self._use(_open_inspector(choice, self.device))
        except Exception as error:
            self._cannot_open(choice, error)

    async def _open_beside(self) -> None:
        while True:
            choice = self.choice.value
            self._say(f"Opening {choice.label} …")
            try:
                loop = asyncio.get_running_loop()
                inspector = await loop.run_in_executor(None, _open_inspector, choice, self.device)
                if choice == self.choice.value:  # else somebody has chosen another one meanwhile
                    self._use(inspector)
                    return
            except Exception as error:
                self._cannot_open(choice, error)
                return

    def _cannot_open(self, choice: Choice, error: Exception) -> None:
        self._task = self.inspector = None
        self.sliders, self.limits.children = [], []
        self._waiting.clear()
        self._fail(f"{choice.label} cannot be opened: {sentence(error)}")

    def _fail(self, problem: str) -> None:
        """Say what went wrong, and show no verdict beside it."""
        self._problem, self.results = problem, []
        self._say("")
        self._show()

    def _use(self, inspector: Inspector) -> None:
        """Go on with a run or cascade that has been opened: it looks at all photos on the page."""
        from helpers.views.app import page_html

        self._task, self.inspector = None, inspector
        self._mm = self._given_mm or inspector.pixel_size or self._mm
        with self._setting():
            self.sample.options = [(NO_SAMPLE, ""), *inspector.samples()]
            self.unit.value = "mm" if self._mm else "px"
            self._show_pixel_size()
        self.about.value = page_html.about(inspector, self.lacking)
        photos, self.photos, self._sizes = self.photos, [], {}
        for photo in photos:
            self._look(photo.name, photo.photo, photo.item.source)
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            job()
        self._say("")
        self._make_sliders()
        self._refresh()

    def _on_choice(self) -> None:
        self.inspector, self._problem = None, ""
        self.sliders, self.limits.children = [], []  # of the one before
        if self._task is None:
            self.start()

    # -------------------------------------------------------------------------------------------------------- photos

    def add(self, uploads: Sequence[tuple[str, bytes]], *, with_folder: bool = False) -> None:
        """Inspect photos, (name or path, content) each; those that are refused are said, and the others go on.

        ``with_folder`` calls a photo by its folder and its name.
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
                held = sum(one[..., 0].size for one in (photo, *(each.photo for each in self.photos)))
                if held > MOST_PHOTOS_MEGAPIXELS * 1e6:
                    raise RefusedPhotoError(f"{name}: the page is full. Remove the photos that are on it first.")
                self._look(name, photo, source)
            except RefusedPhotoError as error:
                self.refused[name] = str(error)
            except Exception as error:
                self.refused[name] = f"{name} could not be inspected: {sentence(error)}"
        self._say("")

    def _free_name(self, name: str) -> str:
        taken, number = {photo.name for photo in self.photos} | set(self.refused), 2
        free = name
        while free in taken:
            free, number = f"{Path(name).with_suffix('')} ({number}){Path(name).suffix}", number + 1
        return free

    def _look(self, name: str, photo: np.ndarray, source: str) -> None:
        self.photos.append(self.inspector.look(name, photo, source))
        with self._setting():
            self.listed.options = [(one.name, index) for index, one in enumerate(self.photos)]
            self.listed.value = len(self.photos) - 1

    def remove_all(self) -> None:
        """Take all photos off the page."""
        self.photos, self.refused, self._sizes = [], {}, {}
        with self._setting():
            self.listed.options, self.sample.value = [], ""
        self._refresh()

    def _on_upload(self) -> None:
        sent = [(str(one["name"]), bytes(one["content"])) for one in self.upload.value]
        if sent:
            self.add(sent)
            with self._setting():
                self.upload.value = ()  # so that the same file may come again, and is not kept twice

    # ---------------------------------------------------------------------------------------------------- thresholds

    def _make_sliders(self) -> None:
        """One slider a threshold, as far as val and the photos on the page reach."""
        self.sliders, rows = [], []
        for movable in self.inspector.movables:
            low, high, step = _grid(*self.inspector.reach(movable, self.photos), movable.stored.value)
            slider = _slider(self.inspector.value(movable), low, high, step, ".4g").add_class("insp-threshold")
            slider.observe(
                self._reaction(lambda movable=movable, slider=slider: self._move(movable, slider)), names="value"
            )
            self.sliders.append((movable, slider))
            origin = escape(f"stored: {movable.stored.value:.4g}, {movable.stored.origin}")
            title = ipywidgets.HTML(f"<b>{escape(movable.label)}</b><br><small>{origin}</small>")
            rows += [title, slider, ipywidgets.HTML().add_class("insp-val")]
        self.limits.children = rows

    def _move(self, movable: MovableThreshold, slider: ipywidgets.FloatSlider) -> None:
        at_stored = abs(slider.value - movable.stored.value) < slider.step / 2  # the browser rounds
        self.inspector.move(movable, movable.stored.value if at_stored else slider.value)
        self._refresh()

    def _reset(self) -> None:
        with self._setting():
            for movable, slider in self.sliders:
                self.inspector.move(movable, movable.stored.value)
                slider.value = movable.stored.value
        self._refresh()

    # --------------------------------------------------------------------------------------------------- pixel size

    @property
    def size(self) -> PixelSize:
        """How large a pixel is; 1 px where nobody has said it."""
        if self.unit.value == "px" or not self._mm > 0:
            return PixelSize(1, 1, 0, "px", "not known")
        return PixelSize(self._mm, self._mm, 0, "mm", "given on the page").to(self.unit.value)

    def _show_pixel_size(self) -> None:
        self.pixel_size.disabled = self.unit.value == "px"
        self.pixel_size.value = 1.0 if self.unit.value == "px" else round(self._mm / MM_PER_UNIT[self.unit.value], 9)

    def _on_unit(self) -> None:
        with self._setting():
            self._show_pixel_size()
        self._refresh()

    def _on_pixel_size(self) -> None:
        self._mm = self.pixel_size.value * MM_PER_UNIT[self.unit.value]
        self._refresh()

    # --------------------------------------------------------------------------------------------------------- show

    @property
    def current(self) -> tuple[Inspection, Sizes | None] | None:
        """The photo that is shown."""
        return self.results[self.listed.value] if self.results and self.listed.value is not None else None

    def table(self) -> pd.DataFrame:
        """Verdicts and sizes of all photos, see :func:`helpers.views.app.inspection.inspection_table`."""
        from helpers.views.app.inspection import inspection_table

        return inspection_table(self.results, self.refused)

    def annotated(self) -> np.ndarray:
        """The photo that is shown, (kH, kW, 3) uint8, see :func:`helpers.views.inspection_figures.draw_inspection`."""
        from helpers.views.inspection_figures import draw_inspection

        return draw_inspection(*self.current, self.opacity.value)

    def _say(self, doing: str) -> None:
        self.status.value = f'<div class="insp-busy" role="status">{escape(doing)}</div>' if doing else ""

    def _refresh(self) -> None:
        """Decide anew on all photos, and show the one that is chosen."""
        from helpers.views.inspection_figures import verdict_words

        self.results, self._size_problem = [], ""
        self._problem = self._problem if self.inspector is None else ""
        for photo in self.photos if self.inspector is not None else []:
            inspection, sizes = self.inspector.judge(photo), None
            try:
                sizes = None if inspection.measured is None else self._measured(inspection)
            except ValueError as error:  # limits in another unit, or a file that cannot be used
                self._size_problem = str(error)
            self.results.append((inspection, sizes))
        for (movable, _), words in zip(self.sliders, self.limits.children[2::3], strict=True):
            words.value = f"<small>{escape(self.inspector.on_val(movable))}</small>"
        chosen = self.listed.value
        with self._setting():
            names = [f"{verdict_words(*one)} · {one[0].name}" for one in self.results]
            self.listed.options = [(name, index) for index, name in enumerate(names)]
            self.listed.value = chosen if chosen is not None and chosen < len(names) else None
        self._show()

    def _measured(self, inspection: Inspection) -> Sizes:
        """The sizes of a photo's defects; those of before, as long as nothing that they follow from has moved."""
        from helpers.views.app.inspection import measure

        by, _, mask = inspection.measured
        cause = by, hash(mask.tobytes()), inspection.deciding.get("class"), self.size
        if self._sizes.get(inspection.name, (None,))[0] != cause:
            self._sizes[inspection.name] = cause, measure(inspection, self.size, **self.ratings)
        return self._sizes[inspection.name][1]

    def _show(self) -> None:
        self.listed.layout.display = self.clear.layout.display = "" if self.results else "none"
        self.reset.layout.display = "" if self.sliders else "none"
        problems = [*filter(None, [self._problem]), *self.refused.values()]
        if problems or "insp-busy" not in self.status.value:
            self.status.value = "".join(map(_problem, problems))
        if self.current is None:
            self.verdict.value = "" if problems else EMPTY
            for widget in (self.picture, self.downloads, self.stages, self.sizes):
                widget.value = ""
            return
        from helpers.views.app import page_html

        inspection, sizes = self.current
        annotated = self.annotated()
        self.verdict.value = page_html.verdict(inspection, sizes)
        self.picture.value = page_html.picture(annotated, inspection, sizes)
        self.downloads.value = page_html.downloads(annotated, inspection, self.table(), len(self.results))
        self.stages.value = page_html.stages(inspection)
        text = "" if sizes is None else page_html.measures(sizes, inspection)
        self.sizes.value = (_problem(self._size_problem) if self._size_problem else "") + text


def _open_inspector(choice: Choice, device: str) -> Inspector:
    from helpers.views.app.inspection import Inspector

    return Inspector.open(choice, device)


def _grid(low: float, high: float, stored: float, n: int = 1000) -> tuple[float, float, float]:
    """Ends and step of a slider that reaches from low to high and can stand exactly on the stored value."""
    step = (high - low) / n
    below, above = math.ceil((stored - low) / step), math.ceil((high - stored) / step)
    return stored - below * step, stored + above * step, step


def _slider(value: float, low: float, high: float, step: float, form: str) -> ipywidgets.FloatSlider:
    """Followed when it is let go: at each step in between pictures would be made for nobody."""
    options = {"readout_format": form, "continuous_update": False, "layout": ipywidgets.Layout(width="auto")}
    return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, **options)


def _file(name: str) -> Path | None:
    path = project_path(name) if name else None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; notebooks/params/sizes has examples.")
    return path


def _problem(words: str) -> str:
    return f'<div class="insp-problem" role="alert">{escape(words)}</div>'


def _box(children: Sequence[ipywidgets.Widget], name: str) -> ipywidgets.VBox:
    return ipywidgets.VBox(list(children)).add_class(name)


def _card(title: str, *children: ipywidgets.Widget) -> ipywidgets.VBox:
    return _box([ipywidgets.HTML(f"<h2>{escape(title)}</h2>"), *children], "insp-card")
