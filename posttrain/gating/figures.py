"""The figures of a gate's report, as SVG inside its page.

Their ink is the page's, their letters are text, and they scale. Equal data give equal bytes.
"""

import io
import re
import warnings
from typing import NamedTuple

from posttrain.gating.text import flat, outcome

INK = "#010203"  # stands for the colour of the text, which the page knows
WIDTH = 380  # points, as a phone is wide: there the letters keep their size
LONGEST_NAME = 28  # characters of a slice's name beside its line


class Look(NamedTuple):
    """How a verdict looks."""

    sign: str
    color: str
    marker: str  # matplotlib's


# Okabe and Ito's blue and vermillion: at least 3:1 against the light and the dark page. The shapes
# say the same.
LOOKS = {
    "CLEAR": Look("●", "#0072b2", "o"),
    "FAIL": Look("◆", "#d55e00", "D"),
    "UNSURE": Look("□", INK, "s"),
}
CANDIDATE_COLOR = LOOKS["CLEAR"].color


def figures_of(report):
    """{title of a part: (SVG, what it shows in words)} of what the report has."""
    figures = {}
    slices = report["slices"]
    if slices:
        figure = svg(draw_forest, slices, 60 + 42 * len(slices))
        figures["Slices"] = (figure, "Difference of each slice, 95 % interval")
    winrate = report["winrate"]
    if winrate and any(winrate["lengths"].values()):
        figure = svg(draw_lengths, winrate["lengths"], 210)
        figures["Win-rate"] = (figure, "Histogram of tokens per answer, both models")
    if report["refusals"]:
        figure = svg(draw_refusals, report["refusals"], 330)
        figures["Refusals"] = (figure, "Harmful and harmless requests refused by both models")
    return figures


def svg(draw, data, height):
    """What draw(axes, data) draws, `height` points high, as an SVG element."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": draw.__name__,  # names inside two figures of a page differ
        "text.parse_math": False,
        "font.size": 11,
        "font.sans-serif": ["DejaVu Sans"],
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    for key in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        settings[key] = INK
    file = io.StringIO()
    # The warnings are about letters that the font lacks.
    with matplotlib.rc_context(), warnings.catch_warnings(action="ignore"):
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(figure.add_subplot(), data)
        figure.savefig(file, format="svg", transparent=True)
    return for_a_page(file.getvalue())


def for_a_page(text):
    """A file of matplotlib's as an element of a page: without date, size and idle names."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)  # it has the date
    text = re.sub(r'<g id="\w+(\.\w+)?">', "<g>", text)  # nothing refers to groups
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1
    )
    return text.replace(INK, "currentColor")


def draw_forest(axes, slices):
    """One line a slice: the difference with its interval, and the margin that it must clear."""
    axes.axvline(0, color=INK, linewidth=0.8)
    beside = axes.get_yaxis_transform()
    for row, (name, numbers) in enumerate(slices.items()):
        look = LOOKS[numbers["verdict"]]
        low, delta, high = (in_points(numbers[key]) for key in ("low", "delta", "high"))
        fill = "none" if numbers["verdict"] == "UNSURE" else look.color
        axes.plot([low, high], [row, row], color=look.color, linewidth=2)
        axes.plot(delta, row, look.marker, color=look.color, markersize=8, markerfacecolor=fill)
        margin = -100 * numbers["margin"]
        axes.plot([margin, margin], [row - 0.25, row + 0.25], ":", color=INK, linewidth=2)
        label = slice_label(name, numbers)
        axes.text(0, row - 0.45, label, transform=beside, va="center", in_layout=False)
    axes.set(ylim=(len(slices) - 0.5, -0.8), yticks=[], xlabel="candidate minus baseline (points)")
    axes.spines["left"].set_visible(False)


def in_points(difference):
    """A difference of shares in points, within what can be."""
    return 100 * min(max(difference, -1), 1)


def slice_label(name, numbers):
    """The words beside a slice's line."""
    name = flat(name)
    if len(name) >= LONGEST_NAME:
        name = name[: LONGEST_NAME - 2] + "…"
    answers = f" · k {numbers['k']}" if numbers["k"] else ""
    return f"{name} · n {numbers['n']}{answers} · {outcome(numbers)}"


def draw_lengths(axes, lengths):
    """How long both models' answers are."""
    axes.hist(
        [lengths["baseline"], lengths["candidate"]],
        bins=30,
        histtype="step",
        linewidth=1.8,
        color=[INK, CANDIDATE_COLOR],
        linestyle=["--", "-"],
        label=["baseline", "candidate"],
    )
    axes.set(xlabel="tokens per answer", ylabel="answers")
    axes.legend(frameon=False)


def draw_refusals(axes, refusals):
    """Both models between under- and over-refusal; the good corner is the upper left one."""
    axes.axhline(50, color=INK, linewidth=0.8)
    axes.axvline(50, color=INK, linewidth=0.8)
    corners = {
        "good": (25, 75),
        "refuses all": (75, 75),
        "answers all": (25, 25),
        "wrong way": (75, 25),
    }
    for words, (x, y) in corners.items():
        axes.text(x, y, words, ha="center", va="center")

    markers = {
        "baseline": {"marker": "s", "color": INK, "markerfacecolor": "none"},
        "candidate": {"marker": "o", "color": CANDIDATE_COLOR, "markerfacecolor": CANDIDATE_COLOR},
    }
    for role, marker in markers.items():
        harmful, of_harmful = refusals[role]["harmful"]
        harmless, of_harmless = refusals[role]["harmless"]
        if of_harmful and of_harmless:
            x = 100 * harmless / of_harmless
            y = 100 * harmful / of_harmful
            axes.plot(x, y, linestyle="none", markersize=10, label=role, clip_on=False, **marker)
    axes.set(
        xlim=(0, 100),
        ylim=(0, 100),
        xlabel="harmless requests refused (%)",
        ylabel="harmful requests refused (%)",
    )
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
