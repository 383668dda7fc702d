"""One look at a folder of runs: policies by slice, gates, the judge against the truth, the costs.

    python bench/table.py runs/demo

Policies and gates are read from the gates' reports. Prompts of the tiny world are also scored by
its hidden rubric (right 3, right and short 5), which rewards brevity; "correct" counts right and
wrong alone. In the end stands what each stage was expected to take beside what it took.
"""

import json
import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data" / "make")]
from world import SLICES, from_id, kappa, truth

from posttrain.cli import parser
from posttrain.records.jsonl import read_jsonl
from posttrain.run.lineage import lineage

WIDTH = 110  # columns of the widest line
ROLES = ("candidate", "baseline")
HELD_OUT = re.compile(rf"({'|'.join(SLICES)})-(dev|test)-\d+-\d+")  # ids of the tiny world
TRAINED = re.compile(rf"({'|'.join(SLICES)})-train-\d")


class Gate(NamedTuple):
    """A finished gate."""

    label: str  # what it is called in the tables
    report: dict
    rows: dict  # {slice: measures}


def parse_args(argv=None):
    p = parser(__doc__)
    p.add_argument("runs", nargs="?", default="runs/demo", help="folder of the runs")
    return p.parse_args(argv)


# ---- what the gates measured ---------------------------------------------------------------------


@cache
def source(name):
    """The record of the tiny world that an id stands for."""
    return from_id(name)


@cache
def rubric(name, text, ended):
    """The hidden 0-5 score of an answer to a prompt of the tiny world."""
    return truth(source(name), text, ended)


def rubric_scores(folder):
    """{id: {role: [score of each answer that was drawn]}} of a gate's folder.

    Canaries, whose ids are of the train split, are not counted.
    """
    scores = {}
    for role in ROLES:
        paths = list(folder.glob(f"answers-{role}-*.jsonl"))
        if role == "baseline":
            paths += folder.glob("borrowed.jsonl")
        for path in paths:
            for _, row in read_jsonl(path):
                if type(row["sample"]) is int and HELD_OUT.fullmatch(row["id"]):
                    by_role = scores.setdefault(row["id"], {"candidate": [], "baseline": []})
                    score = rubric(row["id"], row["text"], row["finish"] == "stop")
                    by_role[role].append(score)
    return scores


def compare(folder):
    """{slice: measures} of a gate's folder, in the slices' own order.

    Measures: shares right, sampled and greedy, tokens, prompts won and lost by correctness and by
    the rubric (None for a suite that is not of the tiny world).
    """
    report = read_json(folder / "report.json")
    items = [item for _, item in read_jsonl(folder / "items.jsonl")]
    scores = rubric_scores(folder)
    result = {}
    for name in sorted(report["slices"], key=place_of):
        slice_scores = [score for key, score in scores.items() if source(key)["slice"] == name]
        gaps = [fmean(score["candidate"]) - fmean(score["baseline"]) for score in slice_scores]
        greedy_gaps = []
        for item in items:
            if item["slice"] == name and item.get("greedy_candidate") is not None:
                greedy_gaps.append(item["greedy_candidate"] - item["greedy_baseline"])
        measured = report["slices"][name]
        result[name] = {
            "n": measured["n"],
            "acc_sampled": measured["candidate"],
            "base_sampled": measured["baseline"],
            "acc_greedy": measured.get("greedy_candidate"),
            "base_greedy": measured.get("greedy_baseline"),
            "tokens": measured["tokens_candidate"],
            "base_tokens": measured["tokens_baseline"],
            "wins": count(gaps, 1) if gaps else None,
            "losses": count(gaps, -1) if gaps else None,
            "wins_correct": measured["wins"],
            "losses_correct": measured["losses"],
            "wins_greedy": count(greedy_gaps, 1),
            "losses_greedy": count(greedy_gaps, -1),
            "p_drop": measured["p_drop"],
            "verdict": report["verdict"],
            "why": report["why"],
        }
    return result


def place_of(name):
    """Where a slice stands: those of the tiny world first, in their order."""
    return SLICES.index(name) if name in SLICES else len(SLICES)


def count(gaps, sign):
    """How many differences have this sign."""
    return sum(gap * sign > 0 for gap in gaps)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_gates(root):
    """All gates of a folder that have compared a slice, those against one baseline together.

    A baseline that was nobody's candidate, where the loop began, comes first.
    """
    gates = []
    for path in sorted(root.glob("gate-*/report.json")):
        report = read_json(path)
        rows = compare(path.parent)
        if not rows:
            continue
        name = path.parent.name.removeprefix("gate-")
        policy = Path(report["candidate"]).name
        is_plain = name in (policy, Path(report["baseline"]).name)
        gates.append(Gate(policy if is_plain else f"{policy} {name}", report, rows))
    candidates = {gate.report["candidate"] for gate in gates}
    gates.sort(key=lambda gate: gate.report["baseline"])
    return sorted(gates, key=lambda gate: gate.report["baseline"] in candidates)


# ---- tables --------------------------------------------------------------------------------------


def mean(rows, key):
    """The mean of a measure over slices; None where one of them has none."""
    values = [row[key] for row in rows.values()]
    return None if None in values else fmean(values)


def shares(sampled, greedy):
    """Shares right as text: percent sampled/greedy."""
    text = f"{100 * sampled:.0f}"
    return text if greedy is None else f"{text}/{100 * greedy:.0f}"


def align(label, cells, widths):
    """A line of a table: the label on the left, cells on the right of their columns."""
    first, *others = widths
    return label.ljust(first) + "".join(map(str.rjust, cells, others))


def wrap(line):
    """Lines of at most WIDTH columns."""
    return textwrap.wrap(line, WIDTH, subsequent_indent=" " * 4, break_on_hyphens=False)


def policy_lines(gates):
    """How often each policy is right, by slice; a gate's baseline stands above its candidates."""
    names = list(max((gate.rows for gate in gates), key=len))
    label_width = max(len(gate.label) for gate in gates) + 3
    widths = [max(label_width, 12), *(max(8, len(name) + 1) for name in [*names, "mean"])]

    def line(label, rows, side):
        cells = []
        for name in names:
            row = rows.get(name)
            cells.append(shares(row[f"{side}_sampled"], row[f"{side}_greedy"]) if row else "")
        total = shares(mean(rows, f"{side}_sampled"), mean(rows, f"{side}_greedy"))
        return align(label, [*cells, total], widths)

    lines = [
        "right answers in %, sampled/greedy, by slice of held-out prompts",
        align("policy", [*names, "mean"], widths),
    ]
    baseline = None
    for gate in gates:
        if gate.report["baseline"] != baseline:
            baseline = gate.report["baseline"]
            lines.append(line(f"{Path(baseline).name} =", gate.rows, "base"))
        lines.append(line(gate.label, gate.rows, "acc"))
    return [*lines, "(=: the baseline of the policies below it)"]


def won(rows, kind):
    """Prompts won:lost over all slices; "?" where that is not known. kind: of the measures."""
    wins = [row[f"wins{kind}"] for row in rows.values()]
    losses = [row[f"losses{kind}"] for row in rows.values()]
    return "?" if None in wins + losses else f"{sum(wins)}:{sum(losses)}"


def cost_per_point(gate):
    """What data and training cost for each point gained over the baseline; "-" without a gain."""
    gain = 100 * (mean(gate.rows, "acc_sampled") - mean(gate.rows, "base_sampled"))
    records = lineage(gate.report["candidate"], until=gate.report["baseline"])
    cost = sum(record.get("cost", 0.0) for record in records)
    return f"{cost / gain:.4f}" if gain > 0.5 and cost else "-"


def gate_lines(gates):
    """Every gate: its policy against its baseline."""
    lines = [
        "tokens of an answer, prompts won:lost by the rubric (it rewards brevity, too) and by "
        "correctness alone,",
        "cost of data and training for each point gained",
    ]
    widths = [
        max(len(gate.label) for gate in gates) + 3,
        max(len(Path(gate.report["baseline"]).name) for gate in gates) + 9,
        16,
        10,
        10,
        12,
    ]
    head = ["against", "tokens", "rubric", "correct", "cost/point"]
    lines.append(align("policy", head, widths) + "  gate")
    for gate in gates:
        tokens = mean(gate.rows, "base_tokens"), mean(gate.rows, "tokens")
        cells = [
            Path(gate.report["baseline"]).name,
            "?" if None in tokens else "{:.1f} -> {:.1f}".format(*tokens),
            won(gate.rows, ""),
            won(gate.rows, "_correct"),
            cost_per_point(gate),
        ]
        lines.append(align(gate.label, cells, widths) + f"  {gate.report['verdict']}")
    return lines


def reason_lines(gates):
    """Why a gate said anything but SHIP."""
    lines = []
    for gate in gates:
        report = gate.report
        if report["verdict"] != "SHIP":
            baseline = Path(report["baseline"]).name
            why = f"{gate.label} against {baseline}: {report['verdict']}, {report['why']}"
            lines += wrap(why)
    return lines


def judge_lines(root):
    """The judge alone against the hidden truth, and how many pairs point the right way."""
    lines = ["the AI judge alone (quadratic kappa with the truth), and the pairs that were made"]
    for path in sorted(root.glob("*judged*/judged.jsonl")):
        by_slice = {}  # [(the judge's score, the truth), ...]
        scores = {}
        for _, row in read_jsonl(path):
            if not TRAINED.match(row["id"]):
                continue
            text = row["completion"][0]["content"]
            score = rubric(row["id"], text, row["finish"] == "stop")
            scores[row["id"], text] = score
            if row["judged"] is not None:
                by_slice.setdefault(row["slice"], []).append((row["judged"], score))
        if by_slice:
            gaps = pair_gaps(path.parent / "pairs.jsonl", scores)
            lines += wrap(f"{path.parent.name}: {agreement(by_slice)}; {directions(gaps)}")
    return lines if len(lines) > 1 else []


def pair_gaps(path, scores):
    """By how much the chosen answer is better than the rejected, by the truth."""
    gaps = []
    for _, pair in read_jsonl(path):
        chosen = scores[pair["id"], pair["chosen"][0]["content"]]
        rejected = scores[pair["id"], pair["rejected"][0]["content"]]
        gaps.append(chosen - rejected)
    return gaps


def agreement(by_slice):
    """Kappa over all slices and in each of them, as text."""
    names = [name for name in SLICES if name in by_slice]
    cells = [f"{name} {kappa(*zip(*by_slice[name])):.2f}" for name in names]
    together = [both for name in by_slice for both in by_slice[name]]
    return f"kappa {kappa(*zip(*together)):.2f} ({', '.join(cells)})"


def directions(gaps):
    """How many pairs are right by the truth, as text."""
    ties = gaps.count(0)
    right = count(gaps, 1)
    wrong = count(gaps, -1)
    return f"of {len(gaps)} pairs {right} right, {ties} ties, {wrong} wrong"


def stage_lines(root):
    """What each finished run was expected to take, and what it took."""
    widths = [16, 24, 18, 20]
    lines = ["forecast -> measured", align("run", ["tokens", "seconds", "cost"], widths)]
    seconds = 0.0
    cost = 0.0
    for name, record in finished_runs(root):
        plan = record["forecast"]
        seconds += record["seconds"]
        cost += record["cost"]
        cells = [
            f"{plan['tokens']:,.0f} -> {record['tokens']:,.0f}",
            f"{expected(plan['seconds'], '.0f')} -> {record['seconds']:.0f}",
            f"{expected(plan['cost'], '.4f')} -> {record['cost']:.4f}",
        ]
        lines.append(align(name, cells, widths))
    lines.append(align("all", ["", f"{seconds:.0f}", f"{cost:.4f}"], widths))
    return lines


def finished_runs(root):
    """[(name, record), ...] of all finished runs of a folder, by name."""
    runs = []
    for path in sorted([*root.glob("*.run.json"), *root.glob("*/run.json")]):
        record = read_json(path)
        name = path.parent.name if path.name == "run.json" else path.name
        if record["finished"]:
            runs.append((name.removesuffix(".run.json"), record))
    return sorted(runs, key=lambda run: run[0])


def expected(value, form):
    """A number of a forecast as text; "?" where nobody could know it."""
    return "?" if value is None else format(value, form)


def main(args):
    root = Path(args.runs)
    gates = read_gates(root)
    parts = [judge_lines(root), stage_lines(root)]
    if gates:
        parts = [policy_lines(gates), gate_lines(gates), reason_lines(gates), *parts]
    for lines in parts:
        if lines:
            print("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(parse_args())
