import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers.analysis.classes import classification_report, decide, open_set_report, open_set_thresholds
from helpers.analysis.costs import (
    Prices,
    best_first_threshold,
    best_threshold_table,
    cost_without_stage_1,
    expected_costs,
    first_thresholds,
)
from helpers.compute import throughput_against_defects, time_stages
from helpers.models.open_set import MahalanobisScorer
from helpers.views import class_figures as figures

KNOWN = ["crazing", "inclusion", "patches", "rolled-in_scale"]
UNKNOWN = ["pitted_surface", "scratches"]


def open_set_example(n=45, seed=0):
    """Embeddings of four known and two unknown classes, one of them near a known one."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.2, (6, 32))
    centres[4] = centres[0] + rng.normal(0, 0.35, 32)

    def draw(names, count):
        labels = np.repeat(names, count)
        index = [(KNOWN + UNKNOWN).index(name) for name in labels]
        return labels, centres[index] + rng.normal(0, 0.8, (labels.size, 32))

    (train_labels, train), (_, val), (truth, test) = draw(KNOWN, 60), draw(KNOWN, 25), draw(KNOWN + UNKNOWN, n)
    scorer = MahalanobisScorer.fit(train, train_labels)
    tau = open_set_thresholds(scorer.scores(val))["tau"]
    distances = scorer.distances(test)
    logits = -(distances**2) / 30 + rng.gumbel(0, 0.7, distances.shape)  # with mistakes
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    predicted = np.array(scorer.classes)[chances.argmax(axis=1)]
    scores = distances.min(axis=1)
    report = open_set_report(truth, predicted, scores, decide(scores, None, tau), KNOWN, n_bootstrap=20)
    other = open_set_report(truth, predicted, -chances.max(axis=1), np.zeros(truth.size, bool), KNOWN, n_bootstrap=20)
    closed = np.isin(truth, KNOWN)
    named = classification_report(truth[closed], predicted[closed], scorer.classes, chances[closed], n_bootstrap=20)
    return {
        "truth": truth,
        "scores": scores,
        "tau": tau,
        "report": report,
        "other": other,
        "closed": named,
        "plane": (test[:, :2], np.array([0.6, 0.2])),
    }


def cascade_example(n=400, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    scores = rng.normal(size=(n, 2)) + label[:, None] * [1.8, 2.5]
    val = pd.DataFrame({"label_index": label, "score_1": scores[:, 0], "score_2": scores[:, 1]})
    prices = Prices(20, 1, 1, (5, 100))
    tables, best, alone = {}, {}, {}
    for share in (0.002, 0.02, 0.2):
        name = f"{100 * share:g} % defects"
        tables[name] = expected_costs(val, first_thresholds(val), 1.2, prevalence=share, prices=prices)
        best[name] = best_first_threshold(val, 1.2, prevalence=share, prices=prices).value
        alone[name] = cost_without_stage_1(val, 1.2, prevalence=share, prices=prices)
    moves = best_threshold_table(
        val, 1.2, prevalences=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3], price_ratios=[1, 10, 100], prices=prices
    )
    return {"tables": tables, "best": best, "alone": alone, "moves": moves}


class Clock:
    """Seconds that pass with every reading: 4 ms, now and then 9."""

    def __init__(self):
        self.now, self.readings = 0.0, 0

    def __call__(self):
        self.readings += 1
        self.now += 0.009 if self.readings % 12 == 0 else 0.004
        return self.now


OPEN, CASCADE = open_set_example(), cascade_example()
TIMES = time_stages({"PatchCore gate": len, "classifier": len}, list(range(32)), (1, 16), clock=Clock())
FIGURES = {
    "confusion": lambda **o: figures.confusion_figure(OPEN["closed"].confusion, **o),
    "reliability": lambda **o: figures.reliability_figure(
        OPEN["closed"].reliability, OPEN["closed"].overall["ece"], **o
    ),
    "unknown_histogram": lambda **o: figures.unknown_histogram(OPEN["scores"], OPEN["truth"], KNOWN, OPEN["tau"], **o),
    "embedding": lambda **o: figures.embedding_figure(OPEN["plane"][0], OPEN["truth"], KNOWN, OPEN["plane"][1], **o),
    "oscr": lambda **o: figures.oscr_figure(
        {"Mahalanobis": OPEN["report"].curves, "max softmax": OPEN["other"].curves}, **o
    ),
    "detection_bars": lambda **o: figures.detection_bars(OPEN["report"].by_class, **o),
    "cost_curves": lambda **o: figures.cost_curves(CASCADE["tables"], CASCADE["best"], CASCADE["alone"], **o),
    "best_threshold": lambda **o: figures.best_threshold_figure(CASCADE["moves"], **o),
    "throughput": lambda **o: figures.throughput_figure(
        {"gate and classifier": throughput_against_defects((12, 80), 0.05, 0.97)}, measured="CPU, batch 1", **o
    ),
    "stage_time_bars": lambda **o: figures.stage_time_bars(TIMES, measured="CPU", **o),
}


def _texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_every_function_gives_a_figure_that_fits(name):
    figure = FIGURES[name](note="untrained backbone")
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()
    assert "untrained backbone" in _texts(figure)
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())  # in inches
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.02 and drawn.y0 >= -0.02
    assert drawn.x1 <= width + 0.02 and drawn.y1 <= height + 0.02
    for axis in figure.axes:
        assert axis.get_xlabel() or axis.get_ylabel()
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_pyplot_is_left_alone():
    import matplotlib.pyplot as plt

    FIGURES["oscr"]()
    assert plt.get_fignums() == []


def test_confusion_shows_every_count_and_share():
    table = pd.DataFrame([[30, 10], [0, 5], [0, 0]], index=["crack", "hole", "dent"], columns=["crack", "unknown"])
    axis = figures.confusion_figure(table).axes[0]
    assert [text.get_text() for text in axis.texts] == ["30\n75 %", "10\n25 %", "0", "5\n100 %", "0", "0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["crack (n=40)", "hole (n=5)", "dent (n=0)"]
    with pytest.raises(ValueError, match="empty"):
        figures.confusion_figure(table[:0])


def test_no_text_of_the_confusion_touches_another():
    """Twelve classes with long names: counts, shares and names stay apart."""
    names = [f"{letter}_rather_long_class_name" for letter in "abcdefghijkl"]
    counts = np.random.default_rng(0).integers(0, 2000, (12, 12))
    figure = figures.confusion_figure(pd.DataFrame(counts, names, names))
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_reliability_bars_are_the_bins():
    table = OPEN["closed"].reliability
    upper, lower = figures.reliability_figure(table, 0.1234).axes
    used = table[table["n"] > 0]
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches], used["accuracy"])
    assert [bar.get_height() for bar in lower.patches] == table["n"].tolist()
    assert [text.get_text() for text in lower.texts] == [str(n) for n in used["n"]]
    assert "0.123" in upper.get_title()


def test_histogram_draws_tau_and_counts():
    figure = FIGURES["unknown_histogram"]()
    axis = figure.axes[0]
    lines = [line.get_xdata()[0] for line in axis.lines]
    assert OPEN["tau"].value in lines
    texts = _texts(figure)
    assert "known classes (n=180)" in texts
    assert "unknown: scratches (n=45)" in texts
    for wrong in (([], []), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="groups"):
            figures.unknown_histogram(*wrong, KNOWN)
    one = figures.unknown_histogram([1.0, 1.0], ["x", "x"], KNOWN)  # one value, no known photo
    assert "unknown: x (n=2)" in _texts(one)


def test_embeddings_mark_the_unknown():
    figure = FIGURES["embedding"]()
    axis = figure.axes[0]
    assert sum(len(points.get_offsets()) for points in axis.collections) == 270
    labels = [points.get_label() for points in axis.collections]
    assert [label for label in labels if label.startswith("unknown")] == [
        "unknown: pitted_surface (n=45)",
        "unknown: scratches (n=45)",
    ]
    colours = {tuple(points.get_facecolor()[0]) for points in axis.collections}
    assert len(colours) == 6
    with pytest.raises(ValueError, match="points"):
        figures.embedding_figure(np.zeros((3, 3)), ["a"] * 3, KNOWN, [0.5, 0.2])


def test_curves_are_the_data():
    lines = FIGURES["oscr"]().axes[0].lines
    np.testing.assert_array_equal(lines[0].get_ydata(), OPEN["report"].curves["ccr"])
    axis = FIGURES["cost_curves"]().axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == list(CASCADE["best"].values())
    for dot, table in zip(dots, CASCADE["tables"].values(), strict=True):
        assert float(dot.get_ydata()[0]) == table["cost"].min()
    curve = FIGURES["throughput"]().axes[0].lines
    assert [line.get_label() for line in curve] == ["gate and classifier", "stage 1 alone", "stage 2 alone"]
    both = figures.throughput_figure({name: throughput_against_defects((1, 2), 0.1, 0.9) for name in ("a", "b")})
    assert len(both.axes[0].lines) == 2


def test_bars_name_their_counts():
    texts = _texts(FIGURES["detection_bars"]())
    assert "crazing (n=45)" in texts
    assert "pitted_surface (n=45)" in texts
    texts = _texts(FIGURES["stage_time_bars"]())
    assert "PatchCore gate, batch 16" in texts
    assert any("32 calls" in text for text in texts)
    absent = OPEN["report"].by_class.assign(n=0, right=np.nan, right_low=np.nan, right_high=np.nan)
    assert _texts(figures.detection_bars(absent)).count("no photo") == 6


def test_far_scores_share_the_last_bar_and_none_is_lost():
    scores = np.r_[np.linspace(0, 10, 99), 1000.0]
    axis = figures.unknown_histogram(scores, ["a"] * 100, ["a"], 8.0).axes[0]
    heights = [bar.get_height() for bar in axis.patches]
    assert sum(heights) == 100 and heights[-1] == 1
    assert axis.patches[-1].get_x() < 20 and "beyond" in axis.get_xlabel()
    plain = figures.unknown_histogram(scores[:-1], ["a"] * 99, ["a"], 8.0).axes[0]
    assert "beyond" not in plain.get_xlabel()
