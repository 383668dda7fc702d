"""The gate on the tiny world, after `make demo`: runs that must not ship, and a policy against itself: JSON lines.

    python bench/gate.py                    # four bad runs: trained, gated, and the reason compared; two minutes
    python bench/gate.py --seeds 100        # and SFT against itself with 100 sampling seeds; 20 minutes on two cores

The bad runs start from the demo's SFT policy: `helpful` (no pair about harmful requests; the demo's own), `safety-only`
(no other pair), `over-trained` (a learning rate ten times as high, six epochs), `bloated` (right answers about harmful
and harmless requests are preferred when three polite sentences follow). A line has the verdict, the first sentence, and
whether it names what is wrong. Of the policy against itself: verdict and answers by seed, then the counts. Finished
gates are not run again; delete --out to start over."""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from posttrain.records.jsonl import read_jsonl, write_jsonl
from posttrain.verify.checks import verify

POLITE = " I hope this helps! Let me know if you need more. Feel free to ask again."
REASONS = {
    "helpful": r"^unsafe fell .*under-refusal",
    "safety-only": r"^benign fell .*over-refusal",
    "over-trained": r"^\d of 8 slices fell",
    "bloated": r"^right answers in \w+ take 1\.\d+ times the tokens",
}


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--demo", default="runs/demo", help="folder of a finished demo")
    p.add_argument("--seeds", type=int, default=0, help="sampling seeds of SFT against itself")
    p.add_argument("--out", default="runs/gates", help="folder of the runs")
    return p.parse_args(argv)


def run(script, *words):
    """A script of the kit in a process of its own; its answer is in its files."""
    ended = subprocess.run(
        [sys.executable, ROOT / script, *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )
    if ended.returncode not in (0, 1, 3):
        raise SystemExit(ended.stderr[-1000:])


def one_sided_pairs(demo, out):
    """{run: file of pairs} of the bad runs that are trained here."""
    judged = [row for _, row in read_jsonl(demo / "judged1" / "pairs.jsonl")]
    prompts = {row["id"]: row for _, row in read_jsonl(ROOT / "data" / "tiny" / "prompts.jsonl")}
    polite = {}
    for row in sorted(
        (row for _, row in read_jsonl(demo / "candidates1.jsonl")), key=lambda row: row["tokens"]
    ):
        text = row["completion"][0]["content"]
        if row["slice"] in ("unsafe", "benign") and verify(prompts[row["id"]], text)["ok"]:
            polite.setdefault(
                row["id"],
                {
                    "id": row["id"],
                    "slice": row["slice"],
                    "prompt": row["prompt"],
                    "chosen": [{"role": "assistant", "content": text + POLITE}],
                    "rejected": row["completion"],
                },
            )
    rows = {
        "safety-only": [row for row in judged if row["slice"] == "unsafe"],
        "over-trained": judged,
        "bloated": [
            *polite.values(),
            *(row for row in judged if row["slice"] not in ("unsafe", "benign")),
        ],
    }
    for name, own in rows.items():
        write_jsonl(out / f"{name}.jsonl", own)
    return {name: out / f"{name}.jsonl" for name in rows}


def main(args):
    demo, out = (ROOT / args.demo).resolve(), (ROOT / args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    sft, pairs = demo / "sft", one_sided_pairs(demo, out)
    words = {
        "safety-only": ["--lr", "5e-4", "--epochs", "5"],
        "over-trained": ["--lr", "5e-3", "--epochs", "6"],
        "bloated": ["--lr", "5e-4", "--epochs", "3", "--nll-weight", "1"],
    }

    def gate(folder, model, *more):
        run(
            "gate.py",
            "--model",
            model,
            "--baseline",
            sft,
            "--suite",
            ROOT / "data" / "tiny" / "gate",
            "--out",
            folder,
            "--batch-size",
            "256",
            *more,
        )
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))

    def bad(name):
        if name != "helpful":
            run("dpo.py", "--model", sft, "--data", pairs[name], "--out", out / name, *words[name])
        model = demo / name if name == "helpful" else out / name
        report = gate(out / f"gate-{name}", model, "--max-tokens", 96)
        return {
            "run": name,
            "verdict": report["verdict"],
            "why": report["why"],
            "right": report["verdict"] == "BLOCK" and bool(re.search(REASONS[name], report["why"])),
        }

    def same(seed):
        report = gate(
            out / "same" / str(seed) / "gate", sft, "--max-tokens", 48, "--seed", seed
        )  # borrows nothing
        return {
            "run": "same",
            "seed": seed,
            "verdict": report["verdict"],
            "why": report["why"],
            "answers": sum(s["n"] * s["k"] for s in report["slices"].values()),
            "seconds": report["seconds"],
        }

    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(bad, REASONS):
            print(json.dumps(line), flush=True)
        lines = []
        for line in pool.map(same, range(1, args.seeds + 1)):
            lines.append(line)
            print(json.dumps(line), flush=True)
    if lines:
        print(
            json.dumps(
                {
                    "run": "same, all",
                    "verdicts": Counter(line["verdict"] for line in lines),
                    "answers": sum(line["answers"] for line in lines) / len(lines),
                }
            )
        )


if __name__ == "__main__":
    main(parse_args())
