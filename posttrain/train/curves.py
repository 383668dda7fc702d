"""curves.png: log.jsonl as a picture.

A panel shows series: {label: [(step, value), ...]}. A new panel is a line in PANELS.
"""

import json
import warnings
from functools import partial
from pathlib import Path

from posttrain.cli import missing_library


def curves(out):
    """Draw out/log.jsonl as out/curves.png; a failure is only printed: it must not cost a run."""
    try:
        draw(out)
    except Exception as error:
        library = missing_library(error)
        reason = f"it needs {library}" if library else f"{type(error).__name__}: {str(error)[:100]}"
        print(f"WARNING  {out}/curves.png could not be drawn ({reason})")


def draw(out):
    """curves, but its errors come through."""
    import matplotlib

    matplotlib.use("Agg")  # draws into a file, without a screen
    import matplotlib.pyplot as plt

    text = (Path(out) / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.split("\n") if line]
    figure, axes = plt.subplots(2, 4, figsize=(18, 8))
    # Room for titles and numbers, as wide as they get; to measure them takes half a second a run.
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.06, top=0.95, wspace=0.2, hspace=0.26)
    for (title, series_of), axis in zip(PANELS.items(), axes.flat):
        draw_panel(axis, title, series_of(lines))
    with warnings.catch_warnings(action="ignore"):  # letters that the font lacks
        figure.savefig(Path(out) / "curves.png", dpi=80)
    plt.close(figure)


def draw_panel(axis, title, series):
    """Draw the series of a panel; one that has no points at all stays invisible."""
    for name, points in series.items():
        if not points:
            continue
        # A name is no formula, and the legend would leave out one that begins with "_".
        label = name.replace("$", r"\$").lstrip("_")
        marker = "o" if len(points) < 15 else None  # a few points are no line
        steps, values = zip(*points)
        axis.plot(steps, values, label=label, marker=marker, markersize=3)
    has_points = any(series.values())
    axis.set(title=title, xlabel="step", visible=has_points)
    if has_points:
        axis.legend(fontsize=8)


# ---- what the panels show ------------------------------------------------------------------------


def columns(lines, names):
    """Columns of the log by their names; not every line has every column."""
    series = {}
    for name in names:
        series[name] = [(line["step"], line[name]) for line in lines if name in line]
    return series


def loss_by_slice(lines):
    """The training loss of each slice."""
    series = {}
    for line in lines:
        for name, values in line.get("slices", {}).items():
            series.setdefault(name, []).append((line["step"], values["loss"]))
    return series


REWARDS = ["rewards/chosen", "rewards/rejected", "rewards/margins", "eval_rewards/margins"]

# Title of a panel: the function that makes its series from the log's lines. Two rows of four.
PANELS = {
    "loss": partial(columns, names=["loss", "eval_loss"]),
    "loss by slice": loss_by_slice,
    "rewards": partial(columns, names=REWARDS),
    "log-probability of an answer": partial(columns, names=["logps/chosen", "logps/rejected"]),
    "KL (nats an answer)": partial(columns, names=["kl", "sampled_kl"]),
    "answers drawn": partial(columns, names=["sampled_tokens"]),
    "gradient norm": partial(columns, names=["grad_norm"]),
    "repeated 4-grams": partial(columns, names=["sampled_repetition"]),
}
