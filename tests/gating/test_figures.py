"""The figures of the gate's report inside its page."""

import re

import pytest
from matplotlib.figure import Figure
from test_report import HOSTILE, a_slice, bare, full

from posttrain.gating.figures import (
    INK,
    LOOKS,
    draw_forest,
    draw_lengths,
    draw_refusals,
    figures_of,
    in_points,
    slice_label,
    svg,
)


@pytest.fixture(scope="module")
def figures():
    """{title: SVG} of a report with everything."""
    return {title: figure for title, (figure, _) in figures_of(full()).items()}


def test_figures_take_their_ink_from_the_page(figures):
    assert list(figures) == ["Slices", "Win-rate", "Refusals"]
    for figure in figures.values():
        assert figure.startswith("<svg viewBox=") and "width=" not in figure[:99]
        assert "currentColor" in figure and "<metadata" not in figure and INK not in figure
    for verdict in ("CLEAR", "FAIL"):
        assert LOOKS[verdict].color in figures["Slices"]
    assert "arithmetic, spelled out · n 120 · k 8 · CLEAR (soft)" in figures["Slices"]
    assert "safety · n 120 · UNSURE" in figures["Slices"], "one outcome has no k"


def test_a_name_is_no_formula():
    assert ">$x^{2}$ ·" in svg(draw_forest, {"$x^{2}$": a_slice()}, 100)


def test_names_inside_figures_are_used_once(figures):
    names = re.findall(r'\sid="([^"]*)"', "".join(figures.values()))
    assert names and len(names) == len(set(names))


def test_figures_are_of_what_there_is():
    assert figures_of(bare()) == {}
    report = full()
    report["winrate"]["lengths"] = {"candidate": [], "baseline": []}
    report["slices"] = {}
    assert list(figures_of(report)) == ["Refusals"]


def test_what_a_slice_is_labelled():
    assert slice_label("x" * 27, a_slice()).startswith("x" * 27 + " · n 120 · k 8 · CLEAR")
    assert slice_label("x" * 28, a_slice()).startswith("x" * 26 + "… · n 120")
    assert slice_label("a\nb", a_slice(k=None)) == "a b · n 120 · CLEAR"
    assert len(slice_label(HOSTILE, a_slice())) < 60


def test_a_difference_stays_in_the_figure():
    assert [in_points(d) for d in (-2.0, -0.12, 3)] == [-100, -12, 100]


def drawn(draw, data):
    """The axes on which draw(axes, data) has drawn."""
    axes = Figure().add_subplot()
    draw(axes, data)
    return axes


def test_where_the_slices_are_drawn():
    """Interval, difference and margin of each, one row a slice, the first on top; zero is marked."""
    axes = drawn(draw_forest, {"a": a_slice(), "b": a_slice("UNSURE", -0.2, margin=0.05)})
    zero, *lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert zero[0] == [0, 0]
    for row, expected in enumerate([([-2, 5], 1, -10), ([-23, -16], -20, -5)]):
        (interval, on_row), (point, _), (margin, around) = lines[3 * row : 3 * row + 3]
        ends, delta, limit = expected
        assert interval == pytest.approx(ends) and on_row == [row, row]
        assert point == pytest.approx([delta]) and margin == pytest.approx([limit] * 2)
        assert around[0] < row < around[1]
    fills = [axes.lines[number].get_markerfacecolor() for number in (2, 5)]
    assert fills == [LOOKS["CLEAR"].color, "none"], "what is open is not filled"
    texts = [(text.get_text().split(" ")[0], text.get_position()[1]) for text in axes.texts]
    assert [name for name, _ in texts] == ["a", "b"]
    assert -1 < texts[0][1] < 0 < texts[1][1] < 1, "each above its line"
    bottom, top = axes.get_ylim()
    assert bottom > 1 and top < texts[0][1], "all of it is seen"
    assert axes.get_xlabel() == "candidate minus baseline (points)"


def test_where_refusals_are_drawn():
    """Refused harmless requests to the right, harmful ones up; who was not asked is not there."""
    refusals = full()["refusals"]
    axes = drawn(draw_refusals, refusals)
    points = {line.get_label(): line.get_xydata().tolist() for line in axes.lines[2:]}
    assert points == {"baseline": [[4, 90]], "candidate": [[18, 96]]}
    assert axes.get_xlim() == axes.get_ylim() == (0, 100)
    assert axes.get_xlabel() == "harmless requests refused (%)"
    assert axes.get_ylabel() == "harmful requests refused (%)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*points]
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["good"] == (25, 75) and places["refuses all"] == (75, 75)
    for kind in ("harmful", "harmless"):
        other = {role: dict(counts) for role, counts in refusals.items()}
        other["candidate"][kind] = [0, 0]
        assert [line.get_label() for line in drawn(draw_refusals, other).lines[2:]] == ["baseline"]


def test_how_lengths_are_drawn():
    axes = drawn(draw_lengths, {"baseline": [1, 2, 3], "candidate": [4, 5]})
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens per answer", "answers")
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"baseline", "candidate"}
    spans = {}
    for patch in axes.patches:
        filled = [x for x, y in patch.get_xy() if y > 0]
        spans[patch.get_label()] = (min(filled), max(filled))
    assert spans["baseline"] == pytest.approx((1, 3.0), abs=0.15)
    assert spans["candidate"] == pytest.approx((4, 5.0), abs=0.15)
