"""The demo's own commands over seeds, on a fresh gate suite, with the controls: JSON lines and a summary.

    python bench/seeds.py --seeds 0 1 2 --world-seed 7 --per-slice 200 > runs/seeds.jsonl      # an hour on two cores
    python bench/seeds.py --seeds 0 --world-seed 123 --per-slice 100 --only judge rules

For every seed demo.sh runs as it stands (a program labels three slices, the tiny judge five), then with a program that
says right or wrong in all eight (upper bound; the judge ranks only among the right), with --judge random (lower bound),
and again with the program from the clean SFT set.

A line: seed, run, slice, acc_sampled, acc_greedy, tokens, wins, losses (by the hidden rubric), wins_correct,
losses_correct, wins_greedy, losses_greedy, verdict, and the same of the baseline (base_sampled ...). Run names: dpo,
ipo, kto, helpful, dpo2, base (SFT against the base), sft (against itself), cool; rules-*, random-*, clean-*. Summary
on stderr: mean over slices, gain over SFT by seed, verdicts, slices that are lower by a paired one-sided test at
0.05 / slices (t test of the sampled answers, sign test of the greedy ones).
Killed, the same command continues; delete --out to start over."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import table

PARTS = {
    "judge": {},
    "rules": {"LABELS": "rules"},
    "random": {"LABELS": "random"},
    "clean": {"SFT": "data/tiny/sft_clean.jsonl", "LABELS": "rules"},
}


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of every stage")
    p.add_argument("--world-seed", type=int, default=7, help="world of the gate's prompts")
    p.add_argument(
        "--split", choices=("dev", "test"), default="test", help="tune on dev, report on test"
    )
    p.add_argument("--per-slice", type=int, default=200, help="the gate's prompts per slice")
    p.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="labels of the tiny judge, controls",
    )
    p.add_argument("--out", default="runs/seeds", help="folder of the runs")
    return p.parse_args(argv)


def lines_of(root, seed, prefix=""):
    """One dict per gate and slice below root."""
    return [
        {"seed": seed, "run": prefix + path.parent.name.removeprefix("gate-"), "slice": name} | row
        for path in sorted(root.glob("gate-*/report.json"))
        for name, row in table.compare(path.parent).items()
    ]


def summary(rows):
    """Per run: gain over its baseline in points (sampled and greedy, mean and by seed), tokens, wins, verdicts."""
    lines = []
    for run in dict.fromkeys(row["run"] for row in rows):
        seeds = {}
        for row in rows:
            if row["run"] == run:
                seeds.setdefault(row["seed"], []).append(row)

        def each(value, seeds=seeds):
            return [value(own) for own in seeds.values()]

        def average(own, key):
            return 100 * sum(row[key] for row in own) / len(own)

        gains = {
            kind: each(
                lambda own, kind=kind: average(own, f"acc_{kind}") - average(own, f"base_{kind}")
            )
            for kind in ("sampled", "greedy")
        }
        final = each(lambda own: average(own, "acc_greedy"))
        tokens = each(lambda own: 100 * (average(own, "tokens") / average(own, "base_tokens") - 1))
        ratio = [
            each(
                lambda own, kind=kind: (
                    sum(row[f"wins{kind}"] for row in own)
                    / max(1, sum(row[f"losses{kind}"] for row in own))
                )
            )
            for kind in ("", "_correct")
        ]
        low = [
            f"{row['slice']} ({seed})"
            for seed, own in seeds.items()
            for row in own
            if row["p_drop"] < 0.05 / len(own)
        ]
        decided = [
            (seed, len(own), row, row["wins_greedy"] + row["losses_greedy"])
            for seed, own in seeds.items()
            for row in own
        ]
        low += [
            f"{row['slice']} at greedy ({seed})"
            for seed, slices, row, n in decided
            if n
            and binomtest(row["losses_greedy"], n, alternative="greater").pvalue < 0.05 / slices
        ]
        for name, values in (
            *((f"gain {kind}", values) for kind, values in gains.items()),
            ("final greedy", final),
            ("tokens %", tokens),
            ("won:lost rubric", ratio[0]),
            ("won:lost correct", ratio[1]),
        ):
            lines.append(
                f"{run:13} {name:17} mean {sum(values) / len(values):+7.1f}   by seed "
                + " ".join(f"{value:+.1f}" for value in values)
            )
        lines.append(
            f"{run:13} {'verdicts':17} {', '.join(own[0]['verdict'] for own in seeds.values())}"
            + (f"   lower: {', '.join(low)}" if low else "")
        )
    return lines


def main(args):
    out = ROOT / args.out
    suite = out / f"suite-{args.split}-{args.world_seed}-{args.per_slice}"
    if not (suite / "canaries.jsonl").exists():  # written last
        subprocess.run(
            [
                sys.executable,
                "data/make/make_tiny.py",
                "suite",
                "--split",
                args.split,
                "--world-seed",
                str(args.world_seed),
                "--per-slice",
                str(args.per_slice),
                "--out",
                str(suite),
            ],
            cwd=ROOT,
            check=True,
            stdout=sys.stderr,
        )
    for part in args.only:
        for seed in args.seeds:
            root = out / f"{'clean' if part == 'clean' else 'seed'}-{seed}"
            print(f"seed {seed}, {part}: {root}", file=sys.stderr, flush=True)
            knobs = {"SEED": str(seed), "R": str(root), "SUITE": str(suite)} | PARTS[part]
            path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            subprocess.run(
                ["bash", "demo.sh"],
                cwd=ROOT,
                check=True,
                env=os.environ | path | knobs,
                stdout=sys.stderr,
            )
    folders = ["seed"] * any(part != "clean" for part in args.only) + ["clean"] * (
        "clean" in args.only
    )
    found = [
        (out / f"{folder}-{seed}", seed, "clean-" * (folder == "clean"))
        for seed in args.seeds
        for folder in folders
    ]
    rows = [row for root, seed, prefix in found for row in lines_of(root, seed, prefix)]
    print("\n".join(map(json.dumps, rows)))
    print("\n".join(summary(rows)), file=sys.stderr)


if __name__ == "__main__":
    main(parse_args())
