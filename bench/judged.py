"""How often are the judge's pairs right? The tiny world knows: pairs of its unverified slices against the hidden truth.

    python bench/judged.py --data runs/demo/candidates1.jsonl       # prints one JSON line per way to choose

Every slice is judged by the AI judge alone, in both orders, without a least margin. A pair is right when the hidden
rubric (world.truth, 0-5) gives the chosen answer more than the rejected one, even when both get the same. The ways are
compared on the same answers: all pairs, the surest half of each slice (--keep 0.5), pairs that one order confirms,
that both confirm. Intervals: Wilson, 95 %; "gain" is a way's share right minus that of all pairs (paired bootstrap by
prompt).
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data" / "make")]
from world import from_id, truth

from judge import by_prompt, confirm, keep_surest, pick_pair
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.records.jsonl import read_jsonl

UNVERIFIED = ("unsafe", "benign", "context", "german", "long")


def parse_args(argv=None):
    p = parser(__doc__)
    p.add_argument("--data", required=True, nargs="+", help="candidates of tiny-world prompts")
    p.add_argument("--judge", default="data/tiny/judge", help="model that judges")
    p.add_argument("--constitution", default="data/tiny/constitution.md", help="its constitution")
    p.add_argument("--slices", nargs="+", default=list(UNVERIFIED), help="slices that count")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    return p.parse_args(argv)


def verdicts(rows, orders, keep):
    """{id: +1 right, 0 even, -1 wrong} of the pairs that a way keeps. orders: which of both orders must confirm."""

    picks = []
    for answers in by_prompt(rows):
        pick = pick_pair(answers, 0.0)
        if not pick.reason and "both_orders" in pick.chosen:
            verdicts_seen = [pick.chosen["both_orders"][order] for order in orders]
            pick = confirm(pick._replace(both_orders=verdicts_seen))
        picks.append(pick)
    worth = {}
    for pick in keep_surest(picks, keep):
        if not pick.reason:
            record = from_id(pick.id)
            chosen = truth(record, pick.chosen["completion"][0]["content"])
            rejected = truth(record, pick.rejected["completion"][0]["content"])
            worth[pick.id] = (chosen > rejected) - (chosen < rejected)
    return worth


def gain(way, every, rounds=2000):
    """Share right of a way minus that of all pairs, with a 95 % bootstrap interval by prompt."""
    ids, dice = list(every), random.Random(0)

    def difference(names):
        a, b = ([worth[name] > 0 for name in names if name in worth] for worth in (way, every))
        return sum(a) / max(len(a), 1) - sum(b) / max(len(b), 1)

    draws = sorted(difference(dice.choices(ids, k=len(ids))) for _ in range(rounds))
    return round(difference(ids), 4), [
        round(draws[round(q * (rounds - 1))], 4) for q in (0.025, 0.975)
    ]


def main(args):
    with tempfile.TemporaryDirectory() as out:
        command = [
            "judge.py",
            "--judge",
            args.judge,
            "--constitution",
            args.constitution,
            "--data",
            *args.data,
            "--out",
            f"{out}/j",
            "--min-margin",
            "0",
            "--no-verify",
            *args.slices,
        ]
        command += ["--limit", str(args.limit)] if args.limit else []
        ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        if ended.returncode:
            raise BadInput(ended.stderr.strip().splitlines()[-1])
        rows = [
            row for _, row in read_jsonl(f"{out}/j/judged.jsonl") if row["slice"] in args.slices
        ]
    ways = {
        "all pairs": ((), 1.0),
        "surest half": ((), 0.5),
        "one order": ((0,), 1.0),
        "the other order": ((1,), 1.0),
        "both orders": ((0, 1), 1.0),
        "both orders, surest half": ((0, 1), 0.5),
    }
    found = {name: verdicts(rows, *way) for name, way in ways.items()}
    for name, worth in found.items():
        right, wrong = (sum(value == side for value in worth.values()) for side in (1, -1))
        interval = binomtest(right, len(worth)).proportion_ci(method="wilson")
        line = {
            "bench": "judged",
            "way": name,
            "pairs": len(worth),
            "right": right,
            "wrong": wrong,
            "even": len(worth) - right - wrong,
            "share_right": round(right / len(worth), 4),
            "interval": [round(end, 4) for end in interval],
            "right_of_uneven": round(right / (right + wrong), 4),
        }
        if name != "all pairs":
            line["gain"], line["gain_interval"] = gain(worth, found["all pairs"])
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
