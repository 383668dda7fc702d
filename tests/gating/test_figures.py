"""The figures of the gate's report inside its page."""

import re

import pytest
from test_report import HOSTILE, a_slice, bare, full

from posttrain.gating.figures import (
    INK,
    LOOKS,
    draw_forest,
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
