"""The inspection page of notebook 10, as widgets: photos in, a verdict out, in Voilà and in JupyterLab alike.

What it shows is worked out in :mod:`helpers.views.app.inspection` and written by ``templates/inspection.html.j2``.
Networks and what they need are imported when the first run is opened, in the background where somebody watches: the
page is there first. Nothing is written: what is downloaded travels in the page.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
from PIL import Image

from helpers.analysis.sizing import IN_PIXELS, PixelSize
from helpers.drawing import folded
from helpers.inference.presets import Choice, choose, find_choices
from helpers.paths import cells, project_path
from helpers.progress import sentence
from helpers.views.tables import PAGES

if TYPE_CHECKING:
    import pandas as pd

    from helpers.views.app.inspection import Inspector, MovableThreshold, Photo

MOST_PHOTOS_MEGAPIXELS = 300  # of all photos that the page holds
SHOWN_PIXELS, DOWNLOADED_PIXELS = 2e6, 4e6  # a larger picture is made smaller
NO_SAMPLE = "choose a test photo …"
HTML = PAGES.get_template("inspection.html.j2").module


class InspectionPage:
    """The page; ``widget`` is what a notebook displays.

    ``dataset``, ``profile`` and ``run`` (empty: PatchCore's, else the first) say what is chosen first; MissingRunError:
    there are runs, but not that one. ``opacity`` of the map is 0 to 1, ``pixel_size`` in millimetres (0: what the
    dataset says), ``severity`` and ``rules`` are YAML files (empty: the examples in ``notebooks/params/sizes``).
    Attributes: ``inspector`` is the run or cascade that is open, or None; ``photos`` are those on the page, ``refused``
    the others: name -> the sentence that says why.
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
        self.device, self.max_megapixels, self.given_size = device, max_megapixels, pixel_size
        self.ratings = {"severity": severity, "rules": rules}
        for file in (project_path(name) for name in self.ratings.values() if name):
            file.open().close()  # a wrong path is said now, not with the first photo
        self.inspector: Inspector | None = None
        self.photos: list[Photo] = []
        self.refused: dict[str, str] = {}
        self.sliders: list[tuple[MovableThreshold, ipywidgets.FloatSlider]] = []
        self._problem = self._size_problem = ""
        self._task: asyncio.Task | None = None
        self._quiet = False
        if self.choices:
            body = self._make_widgets(choose(self.choices, dataset, profile, run), opacity)
        else:
            body = ipywidgets.HTML(HTML.no_run(project_path(artifacts))).add_class("insp-card")
        self.widget = _box("insp-page", ipywidgets.HTML(HTML.head()).add_class("insp-head"), body)

    def _make_widgets(self, choice: Choice, opacity: float) -> ipywidgets.Box:
        wide = {"layout": ipywidgets.Layout(width="auto")}
        self.choice = ipywidgets.Dropdown(options=[(one.label, one) for one in self.choices], value=choice, **wide)
        self.upload = ipywidgets.FileUpload(
            accept="image/*,.tif,.tiff,.bmp", multiple=True, description="Choose photos", icon="", **wide
        )
        self.sample = ipywidgets.Dropdown(options=[(NO_SAMPLE, "")], **wide).add_class("insp-sample")
        self.listed = ipywidgets.Select(options=[], rows=5, **wide).add_class("insp-list")
        self.clear = ipywidgets.Button(description="Remove all photos", **wide)
        self.limits = ipywidgets.VBox().add_class("insp-limits")
        self.reset = ipywidgets.Button(description="Back to the stored thresholds", **wide).add_class("insp-reset")
        self.opacity = _slider(opacity, 0.0, 1.0, 0.05, ".0%").add_class("insp-opacity")
        self.pixel_size = ipywidgets.BoundedFloatText(min=0, max=1e6, step=0.001, **wide).add_class("insp-pixel")
        self.about, self.status, self.result = (ipywidgets.HTML() for _ in range(3))
        for widget, react in (
            (self.choice, self._reopen),
            (self.upload, self._take_upload),
            (self.sample, lambda: self.sample.value and self.add_file(self.sample.value)),
            (self.listed, self._show),
            (self.opacity, self._show),
            (self.pixel_size, self._refresh),
        ):
            widget.observe(self._reaction(react), names="value")
        self.clear.on_click(self._reaction(self._remove_all))
        self.reset.on_click(self._reaction(self._reset))
        photos = [ipywidgets.HTML(HTML.drop()), self.upload.add_class("insp-upload"), self.sample]
        left = {
            "Inspect with": [self.choice, self.about],
            "Photos": [*photos, self.listed, self.clear],
            "Thresholds": [self.limits, self.reset],
            "Opacity of the map": [self.opacity],
            "Millimetres a pixel (0: not known)": [self.pixel_size],
        }
        cards = [_box("insp-card", ipywidgets.HTML(f"<h2>{title}</h2>"), *each) for title, each in left.items()]
        self._show()
        both = [_box("insp-left", *cards), _box("insp-right", self.status, self.result)]
        return ipywidgets.Box(both).add_class("insp-body")

    def _reaction(self, react: Callable[[], Any]) -> Callable[[Any], None]:
        def called(_: Any) -> None:
            if not self._quiet:
                with self._reacting():
                    react()

        return called

    @contextmanager
    def _reacting(self, problem: str = "That did not work") -> Iterator[None]:
        """In the block widgets that are set react to nothing, and an error is a sentence, not a page that hangs."""
        before, self._quiet = self._quiet, True
        try:
            yield
        except Exception as error:
            self._problem = f"{problem}: {sentence(error)}"  # and no verdict beside it
            self._say("")
            self._show()
        finally:
            self._quiet = before

    def start(self, background: bool = False) -> None:
        """Open what is chosen, if it is not open yet; in the background (inside a kernel only) what comes in waits.

        MissingRunError: there is no finished run, and no page that could say so is being watched.
        """
        if not self.choices and not background:
            choose(self.choices)
        elif self.choices and self.inspector is None and background:
            self._task = asyncio.get_running_loop().create_task(self._open_beside())
        elif self.choices and self.inspector is None:
            if self._task is not None:
                self._task.cancel()
            with self._opening() as choice:
                self._use(_open_inspector(choice, self.device))

    async def _open_beside(self) -> None:
        with self._opening() as choice:
            loop = asyncio.get_running_loop()
            self._use(await loop.run_in_executor(None, _open_inspector, choice, self.device))

    @contextmanager
    def _opening(self) -> Iterator[Choice]:
        choice, self.choice.disabled, self._problem = self.choice.value, True, ""
        self._say(f"Opening {choice.label} …")
        try:
            with self._reacting(f"{choice.label} cannot be opened"):
                yield choice
        finally:
            self.choice.disabled = False

    def _use(self, inspector: Inspector) -> None:
        """Go on with a run or cascade that has been opened: it looks at all photos on the page, and at what waits."""
        self.inspector = inspector
        self.sample.options = [(NO_SAMPLE, ""), *inspector.samples()]
        cascade, runs = inspector.cascade, [stage.predictor.run for stage in inspector.cascade.run_stages]
        known = [run.table.attrs["pixel_size"] for run in runs if run.table.attrs.get("pixel_size")]
        self.pixel_size.value = self.given_size or [*known, self.pixel_size.value][0]
        lines = [cascade.about] * (len(cascade.stages) > 1) + [run.describe() for run in runs]
        self.about.value = HTML.about(lines, cascade.note, self.lacking)
        self.photos = [inspector.look(one.name, one.cut.photo, one.cut.source) for one in self.photos]
        self._take_upload()
        self._say("")
        self._make_sliders()
        self._refresh()

    def _reopen(self) -> None:
        self.inspector, self.sliders, self.limits.children = None, [], []
        self.start()

    def add(self, uploads: Sequence[tuple[str, bytes]], *, with_folder: bool = False) -> None:
        """Inspect photos, (name or path, content) each, called by their name or by that and their folder; those that
        are refused are said, and the others go on."""
        from helpers.views.app.inspection import read_upload

        self.start()
        if self.inspector is None:
            return
        with self._reacting():
            self.refused = {}
            for number, (source, content) in enumerate(uploads, start=1):
                name = self._free_name("/".join(Path(source).parts[-2 if with_folder else -1 :]))
                self._say(f"Looking at {name} ({number} of {len(uploads)}) …")
                try:
                    photo = read_upload(name, content, self.max_megapixels, self.inspector.cascade.bit_depth)
                    held = sum(one[..., 0].size for one in (photo, *(each.cut.photo for each in self.photos)))
                    if held > MOST_PHOTOS_MEGAPIXELS * 1e6:
                        raise ValueError(f"{name}: the page is full; remove the photos that are on it first.")
                    self.photos.append(self.inspector.look(name, photo, source))
                except ValueError as error:
                    self.refused[name] = str(error)
                except Exception as error:
                    self.refused[name] = f"{name}: {sentence(error)}"
            self._say("")
            self._make_sliders()
            self._refresh(newest=True)

    def add_file(self, path: str | Path) -> None:
        """Inspect a photo that lies on this machine."""
        path = project_path(path)
        self.add([(str(path), path.read_bytes())], with_folder=True)

    def _take_upload(self) -> None:
        """Inspect what the browser has sent; it waits in its widget as long as no run is open."""
        if self.inspector is not None and self.upload.value:
            self.add([(str(one["name"]), bytes(one["content"])) for one in self.upload.value])
            self.upload.value = ()  # so that the same file may come again, and is not kept twice

    def _free_name(self, name: str) -> str:
        path, taken = Path(name), {photo.name for photo in self.photos} | set(self.refused)
        tries = (f"{path.with_suffix('')} ({number}){path.suffix}" for number in count(2))
        return next(free for free in chain([name], tries) if free not in taken)

    def _remove_all(self) -> None:
        self.photos, self.refused, self.sample.value = [], {}, ""
        self._refresh()

    def _make_sliders(self) -> None:
        """One slider a threshold, as far as val and the photos on the page reach."""
        self.sliders, rows = [], []
        for movable in self.inspector.movables:
            slider = _slider(movable.value, *movable.reach(self.photos), ".4g").add_class("insp-threshold")
            react = self._reaction(partial(self._move, movable, slider))
            slider.observe(react, names="value")
            self.sliders.append((movable, slider))
            rows += [ipywidgets.HTML(HTML.threshold(movable)), slider, ipywidgets.HTML().add_class("insp-val")]
        self.limits.children = rows

    def _move(self, movable: MovableThreshold, slider: ipywidgets.FloatSlider) -> None:
        at_stored = abs(slider.value - movable.stored.value) < slider.step / 2  # the browser rounds
        movable.move(movable.stored.value if at_stored else slider.value)
        self._refresh()

    def _reset(self) -> None:
        for movable, slider in self.sliders:
            movable.move(movable.stored.value)
            slider.value = movable.stored.value
        self._refresh()

    @property
    def current(self) -> Photo | None:
        """The photo that is shown, judged and measured."""
        return None if self._problem or self.listed.value is None else self.photos[self.listed.value]

    def table(self) -> pd.DataFrame:
        """Verdicts and sizes of all photos, see :func:`helpers.views.app.inspection.photo_table`."""
        from helpers.views.app.inspection import photo_table

        return photo_table(self.photos, self.refused)

    def _say(self, doing: str) -> None:
        self.status.value = HTML.busy(doing) if doing else ""

    def _refresh(self, newest: bool = False) -> None:
        """Decide anew on all photos, and show the one that is chosen, or the newest."""
        if self.inspector is None:
            return
        mm, self._size_problem, self._problem = self.pixel_size.value, "", ""
        size = PixelSize(mm, mm, 0, "mm", "given on the page") if mm > 0 else IN_PIXELS
        for photo in self.photos:
            self.inspector.judge(photo)
            try:
                photo.measure(size, **self.ratings)
            except ValueError as error:  # limits in another unit, or a file that cannot be used
                self._size_problem = str(error)
        for (movable, _), words in zip(self.sliders, self.limits.children[2::3], strict=True):
            words.value = f"<small>{movable.on_val()}</small>"
        chosen, n = self.listed.value, len(self.photos)
        self.listed.options = [(f"{one.words} · {one.name}", index) for index, one in enumerate(self.photos)]
        if n:
            self.listed.value = n - 1 if newest or chosen is None or chosen >= n else chosen
        self._show()

    def _show(self) -> None:
        one, problems = self.current, [*filter(None, [self._problem]), *self.refused.values()]
        self.listed.layout.display = self.clear.layout.display = "" if one else "none"
        self.reset.layout.display = "" if self.sliders else "none"
        if problems or "insp-busy" not in self.status.value:
            self.status.value = "".join(map(HTML.problem, problems))
        if one is None:
            self.result.value = "" if problems else HTML.result(None)
            return
        picture, n = one.drawn(self.opacity.value), len(self.photos)
        csv = base64.b64encode(cells(self.table()).to_csv(index=False).encode()).decode()
        png = _data(picture, DOWNLOADED_PIXELS, "png", compress_level=1)
        files = [(f"{Path(one.name).stem}_inspected.png", png, "Annotated photo (PNG)")]
        words = f"Verdicts and sizes, {n} photo{'s' * (n > 1)} (CSV)"
        files.append(("inspection.csv", f"data:text/csv;base64,{csv}", words))
        shown = _data(folded(picture), SHOWN_PIXELS, "jpeg", quality=92, subsampling=0)
        self.result.value = HTML.result(one, shown, files, self._size_problem)


def _open_inspector(choice: Choice, device: str) -> Inspector:
    from helpers.views.app.inspection import Inspector

    return Inspector.open(choice, device)


def _data(picture: np.ndarray, most: float, kind: str, **options: Any) -> str:
    """A picture, with about so many pixels at most, as an address that holds it."""
    buffer, image = io.BytesIO(), Image.fromarray(picture)
    image.reduce(math.ceil(math.sqrt(max(1, picture[..., 0].size / most)))).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _slider(value: float, low: float, high: float, step: float, form: str) -> ipywidgets.FloatSlider:
    """Followed when it is let go: at each step in between pictures would be made for nobody."""
    options = {"readout_format": form, "continuous_update": False, "layout": ipywidgets.Layout(width="auto")}
    return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, **options)


def _box(name: str, *children: ipywidgets.Widget) -> ipywidgets.VBox:
    return ipywidgets.VBox(children).add_class(name)
