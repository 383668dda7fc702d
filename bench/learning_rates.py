"""Which learning rate suits the tiny base? Rates of sft.py, dpo.py and kto.py: JSON lines, a table.

    python bench/learning_rates.py > runs/learning_rates.jsonl
    python bench/learning_rates.py --seeds 0 --sft 2e-4 2e-3 --dpo 5e-4 --kto > runs/few.jsonl
    python bench/learning_rates.py --dpo --kto --lora-r 64 --out runs/rank-64 > runs/rank-64.jsonl

Forty minutes on one core. For every seed SFT starts from the tiny base, at each rate. The SFT run of
--start-rate then answers the training prompts, the tiny judge and the verifiers label the answers
as in the demo, and DPO and KTO start from it, at each rate. All other flags of a trainer have their
defaults (one pass over the data), so that the rate alone differs.

A line: trainer, lr, seed, steps, eval_loss (rows held out from the training data), with DPO and KTO
eval_margin (of the rewards of chosen and rejected rows) and eval_accuracy (DPO: the share of pairs
with a margin above 0), sampled_kl (nats an answer, to where the run started), right (the share of
greedy answers to the gate's prompts that the verifiers accept) and tokens (of such an answer). Or
"failed": why the run has ended early. The table, on stderr, has means over seeds.
Killed, the same command continues; delete --out to start over.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data" / "make")]
from world import SLICES

from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.records.jsonl import read_jsonl
from posttrain.verify.checks import verify

TINY = "data/tiny"

# The demo's words for sampling and judging.
ANSWER = "--max-tokens 48 --batch-size 384"
CANDIDATES = f"--n 4 --temperatures 1.0 {ANSWER}"
JUDGE = (
    f"--judge {TINY}/judge --constitution {TINY}/constitution.md --min-margin 0.5 "
    "--no-verify unsafe benign context german long"
)

# Column of the table: how a number is written.
COLUMNS = {
    "eval_loss": "{:.3f}",
    "eval_margin": "{:+.3f}",
    "eval_accuracy": "{:.2f}",
    "sampled_kl": "{:.2f}",
    "right": "{:.1%}",
    "tokens": "{:.1f}",
}


def parse_args(argv=None):
    p = parser(__doc__)
    add = p.add_argument
    rate = at_least(0, float)
    count = at_least(1)
    preference_rates = [2e-6, 2e-5, 1e-4, 5e-4, 2e-3]
    add("--seeds", type=int, nargs="+", default=[0, 1], help="of every stage")
    add("--sft", type=rate, nargs="+", default=[2e-5, 2e-4, 1e-3, 2e-3, 5e-3], help="its rates")
    add("--dpo", type=rate, nargs="*", default=preference_rates, help="its rates (none: no DPO)")
    add("--kto", type=rate, nargs="*", default=preference_rates, help="its rates (none: no KTO)")
    add("--start-rate", type=rate, default=2e-3, help="of the SFT run that DPO and KTO start from")
    add("--lora-r", type=count, help="rank (default: the trainers')")
    add("--lora-alpha", type=count, help="scale x rank (default: the trainers')")
    add("--limit", type=count, help="only the first rows of each training file")
    add("--per-slice", type=count, default=50, help="the gate's prompts that are answered, a slice")
    add("--out", default="runs/learning-rates", help="folder of the runs")
    return p.parse_args(argv)


# ---- running -------------------------------------------------------------------------------------


def run(*words):
    """Run a script of the checkout. BadInput, with its last line, when it fails."""
    command = [sys.executable, *map(str, words)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if ended.returncode:
        raise BadInput(ended.stderr.strip().splitlines()[-1])
    results = [line for line in ended.stdout.splitlines() if line.startswith("result")]
    print(*results, sep="\n", file=sys.stderr, flush=True)


class Walk:
    """The runs of one seed."""

    def __init__(self, args, seed):
        self.seed = ["--seed", seed]
        self.out = Path(args.out) / f"seed-{seed}"
        self.per_slice = args.per_slice
        self.limit = ["--limit", args.limit] if args.limit else []
        self.adapter = []
        if args.lora_r:
            self.adapter += ["--lora-r", args.lora_r]
        if args.lora_alpha:
            self.adapter += ["--lora-alpha", args.lora_alpha]

    def train(self, trainer, lr, model, data):
        """Train at a rate and answer the held-out prompts: a line's measures."""
        name = f"{trainer}-{lr:g}"
        folder = self.out / name
        files = ["--model", model, "--data", data, "--out", folder, *self.limit]
        try:
            run(f"{trainer}.py", *files, "--lr", lr, *self.adapter, *self.seed)
        except BadInput as error:  # such as a gradient that is not finite
            return {"failed": str(error)}
        return last_evaluation(folder) | self.answers(folder, name)

    def answers(self, model, name):
        """How often a model's greedy answers to the gate's prompts are right, and how long."""
        prompts = [f"{TINY}/gate/{slice_name}.jsonl" for slice_name in SLICES]
        out = self.out / f"{name}-answers.jsonl"
        limit = ["--limit", self.per_slice]
        words = ["--data", *prompts, "--out", out, *limit, "--n", 1, "--temperatures", 0]
        run("gen_candidates.py", "--model", model, *words, *ANSWER.split())
        rows = [row for _, row in read_jsonl(ROOT / out)]
        verdicts = [verify(row, row["completion"])["ok"] for row in rows]
        return {
            "right": fmean(verdict is True for verdict in verdicts),
            "tokens": fmean(row["tokens"] for row in rows),
        }

    def label(self, model):
        """The folder with pairs and labels, made of a model's answers to the training prompts."""
        candidates = self.out / "candidates.jsonl"
        judged = self.out / "judged"
        words = ["--data", f"{TINY}/prompts.jsonl", "--out", candidates, *self.limit, *self.seed]
        run("gen_candidates.py", "--model", model, *words, *CANDIDATES.split())
        run("judge.py", "--data", candidates, "--out", judged, *self.seed, *JUDGE.split())
        return judged


def last_evaluation(folder):
    """The numbers of a run's last evaluation, which is after its last step."""
    *_, (_, line) = read_jsonl(ROOT / folder / "log.jsonl")
    if "eval_loss" not in line:
        raise BadInput(f"{folder}: too few rows to hold any out: raise --limit")
    measures = {"steps": line["step"], "eval_loss": line["eval_loss"]}
    if "eval_rewards/chosen" in line:
        measures["eval_margin"] = line["eval_rewards/chosen"] - line["eval_rewards/rejected"]
    if "eval_rewards/accuracies" in line:
        measures["eval_accuracy"] = line["eval_rewards/accuracies"]
    return measures | {"sampled_kl": line["sampled_kl"]}


def lines_of(args, seed):
    """A dict per run, as soon as it has ended."""
    walk = Walk(args, seed)
    base = f"{TINY}/base"
    sft_data = f"{TINY}/sft.jsonl"
    yield {"trainer": "base", "lr": 0.0, "seed": seed} | walk.answers(base, "base")

    for lr in sorted({*args.sft, args.start_rate}):
        line = {"trainer": "sft", "lr": lr, "seed": seed}
        yield line | walk.train("sft", lr, base, sft_data)

    if not args.dpo and not args.kto:
        return
    start = walk.out / f"sft-{args.start_rate:g}"
    judged = walk.label(start)
    for lr in args.dpo:
        line = {"trainer": "dpo", "lr": lr, "seed": seed}
        yield line | walk.train("dpo", lr, start, judged / "pairs.jsonl")
    for lr in args.kto:
        line = {"trainer": "kto", "lr": lr, "seed": seed}
        yield line | walk.train("kto", lr, start, judged / "labels.jsonl")


# ---- what came out -------------------------------------------------------------------------------


def table(lines):
    """Lines of a Markdown table: a row per trainer and rate, means over seeds."""
    groups = {}  # {(trainer, rate): its lines}
    for line in lines:
        groups.setdefault((line["trainer"], line["lr"]), []).append(line)

    rows = [["trainer", "rate", "steps", *COLUMNS], ["---"] * (3 + len(COLUMNS))]
    for (trainer, lr), group in groups.items():
        steps = sorted({line["steps"] for line in group if "steps" in line})
        cells = [trainer, f"{lr:g}", ", ".join(map(str, steps))]
        for column, form in COLUMNS.items():
            cells.append(cell(group, column, form))
        rows.append(cells)
    return [f"| {' | '.join(row)} |" for row in rows]


def cell(lines, column, form):
    """The mean of a column and, in brackets, each seed's value; "-" where there is none."""
    if any("failed" in line for line in lines):
        return "failed"
    if column not in lines[0]:
        return "-"
    values = [line[column] for line in lines]
    each = ", ".join(form.format(value) for value in values)
    return f"{form.format(fmean(values))} ({each})"


def main(args):
    lines = []
    for seed in args.seeds:
        for line in lines_of(args, seed):
            print(json.dumps(line), flush=True)
            lines.append(line)
    print("\n".join(table(lines)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
