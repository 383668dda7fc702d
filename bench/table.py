"""One look at a folder of runs: policies by slice from the gate reports, the judge against the truth, cost per point
gained, then forecast against measured for every stage.

    python bench/table.py runs/demo

Prompts of the tiny world are also scored by its hidden rubric (right 3, right and short 5), which rewards brevity;
"correct" counts right and wrong alone.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data" / "make")]
from world import SLICES, from_id, kappa, truth

from posttrain.records.jsonl import read_jsonl
from posttrain.run.lineage import lineage

TINY_ID = re.compile(rf"({'|'.join(SLICES)})-(dev|test)-\d+-\d+")


@cache
def source(name):
    return from_id(name)


@cache
def rubric(name, text, ended):
    """The hidden 0-5 score of an answer to a prompt of the tiny world."""
    return truth(source(name), text, ended)


def compare(folder):
    """{slice: measures} of a gate's folder, in the slices' own order: shares right sampled and greedy, tokens, prompts
    won and lost by correctness and by the rubric (None for a suite that is not of the tiny world). Canaries, whose ids
    are of the train split, are not counted."""
    report, scores = json.loads((folder / "report.json").read_text()), {}
    items = [item for _, item in read_jsonl(folder / "items.jsonl")]
    for role in ("candidate", "baseline"):
        lent = [folder / "borrowed.jsonl"] * (
            role == "baseline" and (folder / "borrowed.jsonl").exists()
        )
        for path in [*folder.glob(f"answers-{role}-*.jsonl"), *lent]:
            for _, row in read_jsonl(path):
                if type(row["sample"]) is int and TINY_ID.fullmatch(row["id"]):
                    own = scores.setdefault(row["id"], {"candidate": [], "baseline": []})
                    own[role].append(rubric(row["id"], row["text"], row["finish"] == "stop"))
    result = {}
    for name in sorted(
        report["slices"], key=lambda name: SLICES.index(name) if name in SLICES else 99
    ):
        s = report["slices"][name]
        own = [score for key, score in scores.items() if source(key)["slice"] == name]
        gaps = [fmean(score["candidate"]) - fmean(score["baseline"]) for score in own]
        greedy = [
            item["greedy_candidate"] - item["greedy_baseline"]
            for item in items
            if item["slice"] == name and item.get("greedy_candidate") is not None
        ]
        result[name] = {
            "n": s["n"],
            "acc_sampled": s["candidate"],
            "base_sampled": s["baseline"],
            "acc_greedy": s.get("greedy_candidate"),
            "base_greedy": s.get("greedy_baseline"),
            "tokens": s["tokens_candidate"],
            "base_tokens": s["tokens_baseline"],
            "wins": sum(gap > 0 for gap in gaps) if own else None,
            "losses": sum(gap < 0 for gap in gaps) if own else None,
            "wins_correct": s["wins"],
            "losses_correct": s["losses"],
            "p_drop": s["p_drop"],
            "wins_greedy": sum(gap > 0 for gap in greedy),
            "losses_greedy": sum(gap < 0 for gap in greedy),
            "verdict": report["verdict"],
            "why": report["why"],
        }
    return result


def mean(rows, key):
    values = [row[key] for row in rows.values()]
    return None if None in values else sum(values) / len(values)


def policy_lines(root):
    """The table of policies: a line for each baseline, then one for every gate against it."""
    gates = {
        path.parent.name.removeprefix("gate-"): path.parent
        for path in sorted(root.glob("gate-*/report.json"))
    }
    gates = {
        name: (compare(path), json.loads((path / "report.json").read_text()))
        for name, path in gates.items()
    }
    gates = {name: (rows, report) for name, (rows, report) in gates.items() if rows}
    if not gates:
        return []
    names = list(max((rows for rows, _ in gates.values()), key=len))
    labels = {}
    for name, (_, report) in gates.items():
        policy, against = (Path(report[role]).name for role in ("candidate", "baseline"))
        labels[name] = policy if name in (policy, against) else f"{policy} {name}"
    width = max(map(len, [*labels.values(), "policy"])) + 2

    def shares(sampled, greedy):
        return f"{100 * sampled:.0f}" + ("" if greedy is None else f"/{100 * greedy:.0f}")

    def line(label, rows, side, rest):
        cells = [
            shares(rows[name][f"{side}_sampled"], rows[name][f"{side}_greedy"])
            if name in rows
            else ""
            for name in names
        ]
        total = shares(mean(rows, f"{side}_sampled"), mean(rows, f"{side}_greedy"))
        tokens = mean(rows, "tokens" if side == "acc" else "base_tokens")
        return (
            label.ljust(width)
            + "".join(c.rjust(8) for c in [*cells, total])
            + f"{tokens:8.1f}"
            + rest
        )

    def won(rows, kind):
        pairs = [(row[f"wins{kind}"], row[f"losses{kind}"]) for row in rows.values()]
        return (
            "?" if (None, None) in pairs else ":".join(str(sum(column)) for column in zip(*pairs))
        )

    lines = [
        "right answers in %, sampled/greedy, by slice; tokens per answer; prompts won:lost against the baseline",
        "by the rubric (it rewards brevity, too) and by correctness alone; cost of data and training per point",
        "policy".ljust(width)
        + "".join(n.rjust(8) for n in [*names, "mean", "tokens"])
        + "rubric".rjust(10)
        + "correct".rjust(10)
        + "cost/pt".rjust(9)
        + "  gate",
    ]
    shown = set()
    for name, (rows, report) in sorted(gates.items(), key=lambda gate: gate[1][1]["baseline"]):
        if report["baseline"] not in shown:
            shown.add(report["baseline"])
            lines.append(
                line(
                    Path(report["baseline"]).name + " =",
                    rows,
                    "base",
                    "  the baseline of what follows",
                )
            )
        points = 100 * (mean(rows, "acc_sampled") - mean(rows, "base_sampled"))
        cost = sum(
            record.get("cost", 0.0)
            for record in lineage(report["candidate"], until=report["baseline"])
        )
        price = f"{cost / points:.4f}" if points > 0.5 and cost else "-"
        lines.append(
            line(
                labels[name],
                rows,
                "acc",
                won(rows, "").rjust(10)
                + won(rows, "_correct").rjust(10)
                + price.rjust(9)
                + f"  {report['verdict']}",
            )
        )
    lines += [
        "",
        *(
            f"{labels[name]} against {Path(report['baseline']).name}: {report['verdict']}, {report['why']}"
            for name, (_, report) in gates.items()
            if report["verdict"] != "SHIP"
        ),
    ]
    return lines


def judge_lines(root):
    """The judge alone against the hidden truth: quadratic kappa per slice, and how many pairs point the right way."""
    lines = []
    for path in sorted(root.glob("*judged*/judged.jsonl")):
        rows = [
            row
            for _, row in read_jsonl(path)
            if re.match(rf"({'|'.join(SLICES)})-train-\d", row["id"])
        ]
        both, answers = {}, {}
        for row in rows:
            score = rubric(row["id"], row["completion"][0]["content"], row["finish"] == "stop")
            answers[row["id"], row["completion"][0]["content"]] = score
            if row["judged"] is not None:
                both.setdefault(row["slice"], []).append((row["judged"], score))
        gaps = [
            answers[pair["id"], pair["chosen"][0]["content"]]
            - answers[pair["id"], pair["rejected"][0]["content"]]
            for _, pair in read_jsonl(path.parent / "pairs.jsonl")
        ]
        if not both:
            continue
        cells = [f"{name} {kappa(*zip(*both[name])):.2f}" for name in SLICES if name in both]
        overall = kappa(*zip(*sum(both.values(), [])))
        lines.append(
            f"{path.parent.name}: kappa with the truth {overall:.2f} ({', '.join(cells)}); of {len(gaps)} "
            f"pairs {sum(gap > 0 for gap in gaps)} right, {sum(gap == 0 for gap in gaps)} ties, "
            f"{sum(gap < 0 for gap in gaps)} wrong by the truth"
        )
    return (
        ["the AI judge alone (quadratic kappa), and the pairs that were made", *lines]
        if lines
        else []
    )


def stages(root):
    """Rows (stage, forecast, measured) from every run record below root; both are {"tokens", "seconds", "cost"}."""
    records = [
        json.loads(p.read_text()) for p in [*root.glob("*.run.json"), *root.glob("*/run.json")]
    ]
    return sorted(
        (Path(r["path"].replace("/run.json", "").replace(".run.json", "")).name, r["forecast"], r)
        for r in records
        if r["finished"]
    )


def stage_lines(root):
    lines, sums = (
        [
            "forecast -> measured",
            "run".ljust(16) + "tokens".rjust(24) + "seconds".rjust(18) + "cost".rjust(20),
        ],
        [0.0, 0.0],
    )
    for run, planned, real in stages(root):
        seconds = "?" if planned["seconds"] is None else f"{planned['seconds']:.0f}"
        cost = "?" if planned["cost"] is None else f"{planned['cost']:.4f}"
        lines.append(
            run.ljust(16)
            + f"{planned['tokens']:,.0f} -> {real['tokens']:,.0f}".rjust(24)
            + f"{seconds} -> {real['seconds']:.0f}".rjust(18)
            + f"{cost} -> {real['cost']:.4f}".rjust(20)
        )
        sums = [sums[0] + real["seconds"], sums[1] + real["cost"]]
    return [
        *lines,
        "all".ljust(16) + " " * 24 + f"{sums[0]:.0f}".rjust(18) + f"{sums[1]:.4f}".rjust(20),
    ]


def main(root):
    for lines in (policy_lines(root), judge_lines(root), stage_lines(root)):
        print("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
