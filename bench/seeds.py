"""The demo's commands over seeds, on a fresh gate suite, with the controls: JSON lines, a summary.

    python bench/seeds.py --seeds 0 1 2 --world-seed 7 --per-slice 200 > runs/seeds.jsonl
    python bench/seeds.py --seeds 0 --world-seed 123 --per-slice 100 --only judge rules

An hour on two cores. For every seed demo.py runs as it stands (a program labels three slices, the
tiny judge five), then with a program that says right or wrong in all eight (upper bound; the judge
ranks only among the right), with --judge random (lower bound), and again with the program from the
clean SFT set.

A line: seed, run, slice, acc_sampled, acc_greedy, tokens, wins, losses (by the hidden rubric),
wins_correct, losses_correct, wins_greedy, losses_greedy, verdict, and the same of the baseline
(base_sampled ...). Run names: dpo, ipo, kto, helpful, dpo2, base (SFT against the base), sft
(against itself), cool; rules-*, random-*, clean-*. Summary on stderr: mean over slices, gain over
SFT by seed, verdicts, slices that are lower by a paired one-sided test at 0.05 / slices (t test of
the sampled answers, sign test of the greedy ones).
Killed, the same command continues; delete --out to start over.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
import table

from posttrain.cli import at_least, parser

ALPHA = 0.05  # of all slices of a gate together

# Flags for demo.py. All but "clean" share a folder, and so its SFT run.
PARTS = {
    "judge": ["--labels", "judge"],
    "rules": ["--labels", "rules"],
    "random": ["--labels", "random"],
    "clean": ["--labels", "rules", "--sft", "data/tiny/sft_clean.jsonl"],
}


def parse_args(argv=None):
    p = parser(__doc__)
    add = p.add_argument
    splits = ["dev", "test"]
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of every stage")
    add("--world-seed", type=int, default=7, help="world of the gate's prompts")
    add("--split", choices=splits, default="test", help="tune on dev, report on test")
    add("--per-slice", type=at_least(1), default=200, help="the gate's prompts per slice")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="labels")
    add("--out", default="runs/seeds", help="folder of the runs")
    return p.parse_args(argv)


# ---- running -------------------------------------------------------------------------------------


def make_suite(suite, args):
    """Write the gate's prompts, unless they are there."""
    if (suite / "canaries.jsonl").exists():  # written last
        return
    flags = ["--split", args.split, "--world-seed", args.world_seed, "--per-slice", args.per_slice]
    run("data/make/make_tiny.py", "suite", *flags, "--out", suite)


def run(*words):
    """Run a script of the checkout; what it prints goes to stderr."""
    command = [sys.executable, *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def run_folder(out, part, seed):
    return out / f"{'clean' if part == 'clean' else 'seed'}-{seed}"


# ---- what came out -------------------------------------------------------------------------------


def lines_of(root, seed, prefix=""):
    """One dict per gate and slice below root."""
    lines = []
    for path in sorted(root.glob("gate-*/report.json")):
        name = prefix + path.parent.name.removeprefix("gate-")
        for slice_name, row in table.compare(path.parent).items():
            lines.append({"seed": seed, "run": name, "slice": slice_name} | row)
    return lines


def percent(rows, key):
    """The mean of a share over rows, in percent."""
    return 100 * fmean(row[key] for row in rows)


def gain(rows, kind):
    """Points gained over the baseline; kind: "sampled" or "greedy"."""
    return percent(rows, f"acc_{kind}") - percent(rows, f"base_{kind}")


def more_tokens(rows):
    """How many percent longer the answers are than the baseline's."""
    return 100 * (percent(rows, "tokens") / percent(rows, "base_tokens") - 1)


def won_to_lost(rows, kind):
    """Prompts won for each prompt lost; kind: of the measures."""
    lost = sum(row[f"losses{kind}"] for row in rows)
    return sum(row[f"wins{kind}"] for row in rows) / max(1, lost)


FIGURES = {
    "gain sampled": lambda rows: gain(rows, "sampled"),
    "gain greedy": lambda rows: gain(rows, "greedy"),
    "final greedy": lambda rows: percent(rows, "acc_greedy"),
    "tokens %": more_tokens,
    "won:lost rubric": lambda rows: won_to_lost(rows, ""),
    "won:lost correct": lambda rows: won_to_lost(rows, "_correct"),
}


def sign_test(row):
    """p of a drop of the greedy answers: prompts lost against prompts won, ties left out."""
    from scipy.stats import binomtest

    decided = row["wins_greedy"] + row["losses_greedy"]
    if decided == 0:
        return 1.0
    return binomtest(row["losses_greedy"], decided, alternative="greater").pvalue


def lower_slices(by_seed):
    """Slices that are lower than the baseline's, with the seed: sampled first, then greedy."""
    sampled = []
    greedy = []
    for seed, rows in by_seed.items():
        for row in rows:
            if row["p_drop"] < ALPHA / len(rows):
                sampled.append(f"{row['slice']} ({seed})")
            if sign_test(row) < ALPHA / len(rows):
                greedy.append(f"{row['slice']} at greedy ({seed})")
    return sampled + greedy


def summary(rows):
    """Per run: each figure, its mean and by seed; the verdicts, and slices that are lower."""
    runs = {}  # {run: {seed: rows}}
    for row in rows:
        runs.setdefault(row["run"], {}).setdefault(row["seed"], []).append(row)

    lines = []
    for name, by_seed in runs.items():
        for title, figure in FIGURES.items():
            values = [figure(seed_rows) for seed_rows in by_seed.values()]
            each = " ".join(f"{value:+.1f}" for value in values)
            lines.append(f"{name:13} {title:17} mean {fmean(values):+7.1f}   by seed {each}")
        verdicts = ", ".join(seed_rows[0]["verdict"] for seed_rows in by_seed.values())
        lower = ", ".join(lower_slices(by_seed))
        ending = f"   lower: {lower}" if lower else ""
        lines.append(f"{name:13} {'verdicts':17} {verdicts}{ending}")
    return lines


def main(args):
    out = ROOT / args.out
    suite = out / f"suite-{args.split}-{args.world_seed}-{args.per_slice}"
    make_suite(suite, args)
    for part in args.only:
        for seed in args.seeds:
            root = run_folder(out, part, seed)
            print(f"seed {seed}, {part}: {root}", file=sys.stderr, flush=True)
            run("demo.py", "--seed", seed, "--out", root, "--suite", suite, *PARTS[part])

    rows = []
    for seed in args.seeds:
        if args.only != ["clean"]:
            rows += lines_of(run_folder(out, "judge", seed), seed)
        if "clean" in args.only:
            rows += lines_of(run_folder(out, "clean", seed), seed, "clean-")
    for row in rows:
        print(json.dumps(row))
    print("\n".join(summary(rows)), file=sys.stderr)


if __name__ == "__main__":
    main(parse_args())
