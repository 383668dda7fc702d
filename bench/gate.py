"""The gate on the tiny world, after `make demo`: runs that must not ship, and a policy against itself: JSON lines.

    python bench/gate.py                    # four bad runs: trained, gated, and the reason compared; five minutes
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
from functools import partial
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


WORDS = {
    "safety-only": ["--lr", "5e-4", "--epochs", "5"],
    "over-trained": ["--lr", "5e-3", "--epochs", "6"],
    "bloated": ["--lr", "5e-4", "--epochs", "3", "--nll-weight", "1"],
}


def polite_pairs(demo):
    """A pair for each prompt about a harmful or harmless request: a right answer, and the same
    with polite sentences behind it, which is preferred. Of several right answers the shortest."""
    prompts = {row["id"]: row for _, row in read_jsonl(ROOT / "data" / "tiny" / "prompts.jsonl")}
    candidates = [row for _, row in read_jsonl(demo / "candidates1.jsonl")]
    candidates.sort(key=lambda row: row["tokens"])
    pairs = {}
    for row in candidates:
        text = row["completion"][0]["content"]
        is_request = row["slice"] in ("unsafe", "benign")
        if is_request and row["id"] not in pairs and verify(prompts[row["id"]], text)["ok"]:
            pairs[row["id"]] = {
                "id": row["id"],
                "slice": row["slice"],
                "prompt": row["prompt"],
                "chosen": [{"role": "assistant", "content": text + POLITE}],
                "rejected": row["completion"],
            }
    return list(pairs.values())


def one_sided_pairs(demo, out):
    """{run: file of pairs} of the bad runs that are trained here."""
    judged = [row for _, row in read_jsonl(demo / "judged1" / "pairs.jsonl")]
    others = [row for row in judged if row["slice"] not in ("unsafe", "benign")]
    rows = {
        "safety-only": [row for row in judged if row["slice"] == "unsafe"],
        "over-trained": judged,
        "bloated": polite_pairs(demo) + others,
    }
    files = {}
    for name, pairs in rows.items():
        files[name] = out / f"{name}.jsonl"
        write_jsonl(files[name], pairs)
    return files


def gate(folder, model, baseline, *more):
    """Run the gate on the tiny world's suite -> its report."""
    words = ["--model", model, "--baseline", baseline, "--out", folder]
    words += ["--suite", ROOT / "data" / "tiny" / "gate", "--batch-size", "256"]
    run("gate.py", *words, *more)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def bad_run(demo, out, pairs, name):
    """Train a bad run, unless the demo has it, and gate it -> a line."""
    sft = demo / "sft"
    model = demo / name
    if name in pairs:
        model = out / name
        run("dpo.py", "--model", sft, "--data", pairs[name], "--out", model, *WORDS[name])
    report = gate(out / f"gate-{name}", model, sft, "--max-tokens", 96)
    names_it = bool(re.search(REASONS[name], report["why"]))
    return {
        "run": name,
        "verdict": report["verdict"],
        "why": report["why"],
        "right": report["verdict"] == "BLOCK" and names_it,
    }


def same_policy(demo, out, seed):
    """SFT against itself with a sampling seed, in a folder where it borrows nothing -> a line."""
    sft = demo / "sft"
    folder = out / "same" / str(seed) / "gate"
    report = gate(folder, sft, sft, "--max-tokens", 48, "--seed", seed)
    return {
        "run": "same",
        "seed": seed,
        "verdict": report["verdict"],
        "why": report["why"],
        "answers": sum(slice_["n"] * slice_["k"] for slice_ in report["slices"].values()),
        "seconds": report["seconds"],
    }


def main(args):
    demo = (ROOT / args.demo).resolve()
    out = (ROOT / args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    pairs = one_sided_pairs(demo, out)
    lines = []
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(partial(bad_run, demo, out, pairs), REASONS):
            print(json.dumps(line), flush=True)
        for line in pool.map(partial(same_policy, demo, out), range(1, args.seeds + 1)):
            lines.append(line)
            print(json.dumps(line), flush=True)
    if lines:
        verdicts = Counter(line["verdict"] for line in lines)
        answers = sum(line["answers"] for line in lines) / len(lines)
        print(json.dumps({"run": "same, all", "verdicts": verdicts, "answers": answers}))


if __name__ == "__main__":
    main(parse_args())
