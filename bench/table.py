"""One look at a folder of runs: policy x slice from the gate reports, then forecast against measured for every stage.

    python bench/table.py runs/demo
"""

import json
import sys
from pathlib import Path


def policies(root):
    """Rows (policy, verdict, {slice: share right}, tokens per answer, "wins:losses") from the gate reports in root."""
    rows, baseline = [], None
    for path in sorted(root.glob("*/report.json")):
        report = json.loads(path.read_text())
        if "verdict" not in report or not report["slices"]:
            continue
        slices = report["slices"]
        mean = {side: sum(s[f"tokens_{side}"] for s in slices.values()) / len(slices)
                for side in ("candidate", "baseline")}
        baseline = (f"{Path(report['baseline']).name} (baseline)", "", {n: s["baseline"] for n, s in slices.items()},
                    mean["baseline"], "")
        decided = f"{sum(s['wins'] for s in slices.values())}:{sum(s['losses'] for s in slices.values())}"
        rows.append((Path(report["candidate"]).name, report["verdict"], {n: s["candidate"] for n, s in slices.items()},
                     mean["candidate"], decided))
    return [baseline, *rows] if baseline else []


def stages(root):
    """Rows (stage, forecast, measured) from every run record below root; both are {"tokens", "seconds", "cost"}."""
    records = [json.loads(p.read_text()) for p in [*root.glob("*.run.json"), *root.glob("*/run.json")]]
    return sorted((Path(r["path"].replace("/run.json", "").replace(".run.json", "")).name, r["forecast"], r)
                  for r in records if r["finished"])


def main(root):
    rows = policies(root)
    if rows:
        names = list(rows[0][2])
        width = max(len(row[0]) for row in rows) + 2
        print("share of sampled answers that are right, by slice; tokens per answer; prompts won:lost against baseline")
        heads = "".join(name[:8].rjust(9) for name in [*names, "mean", "tokens", "W:L"])
        print("policy".ljust(width) + heads + "  gate")
        for policy, verdict, shares, tokens, decided in rows:
            values = [shares[name] for name in names]
            cells = [f"{value:.0%}" for value in [*values, sum(values) / len(values)]] + [f"{tokens:.1f}", decided]
            print(policy.ljust(width) + "".join(cell.rjust(9) for cell in cells) + f"  {verdict}")
    print("\nforecast -> measured")
    print("run".ljust(14) + "tokens".rjust(24) + "seconds".rjust(18) + "cost".rjust(20))
    sums = [0.0, 0.0]
    for run, planned, real in stages(root):
        seconds = "?" if planned["seconds"] is None else f"{planned['seconds']:.0f}"
        cost = "?" if planned["cost"] is None else f"{planned['cost']:.4f}"
        print(run.ljust(14) + f"{planned['tokens']:,.0f} -> {real['tokens']:,.0f}".rjust(24)
              + f"{seconds} -> {real['seconds']:.0f}".rjust(18) + f"{cost} -> {real['cost']:.4f}".rjust(20))
        sums = [sums[0] + real["seconds"], sums[1] + real["cost"]]
    print("all".ljust(14) + " " * 24 + f"{sums[0]:.0f}".rjust(18) + f"{sums[1]:.4f}".rjust(20))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
