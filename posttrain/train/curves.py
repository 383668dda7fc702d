"""curves.png: log.jsonl as a picture."""

import json
import warnings
from pathlib import Path


def curves(out):
    """Draw out/log.jsonl as out/curves.png: loss, rewards, log-probabilities and KL, what was said, by slice. When that
    fails it is said: a picture must not cost a run."""
    try:
        draw(out)
    except Exception as error:
        print(f"WARNING  {out}/curves.png could not be drawn ({type(error).__name__}: {str(error)[:100]})")


def draw(out):
    """curves, without the net."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    panels = {"loss": ["loss", "eval_loss"], "loss by slice": [],
              "rewards": ["rewards/chosen", "rewards/rejected", "rewards/margins", "eval_rewards/margins"],
              "log-probability of an answer": ["logps/chosen", "logps/rejected"],
              "KL (nats an answer)": ["kl", "sampled_kl"], "answers drawn": ["sampled_tokens"],
              "gradient norm": ["grad_norm"], "repeated 4-grams": ["sampled_repetition"]}
    figure, axes = plt.subplots(2, 4, figsize=(18, 8), layout="constrained")
    for (title, names), axis in zip(panels.items(), axes.flat):
        series = {name: [(line["step"], line[name]) for line in lines if name in line] for name in names}
        if not names:
            for line in lines:
                for part, values in line.get("slices", {}).items():
                    series.setdefault(part, []).append((line["step"], values["loss"]))
        for name, points in series.items():
            if points:  # a name is no formula, and one that begins with _ would not be named
                axis.plot(*zip(*points), label=name.replace("$", r"\$").lstrip("_"),
                          marker="o" if len(points) < 15 else None, markersize=3)
        axis.set(title=title, xlabel="step", visible=any(series.values()))
        if axis.get_visible():
            axis.legend(fontsize=8)
    with warnings.catch_warnings(action="ignore"):  # letters that the font lacks
        figure.savefig(Path(out) / "curves.png", dpi=80)
    plt.close(figure)
