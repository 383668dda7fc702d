"""Two runs of lm-evaluation-harness as a suite of the gate, joined document by document.

Reads   two folders that lm_eval wrote with --log_samples (or one samples_TASK_TIME.jsonl of each).
Writes  a suite: an item of type "scored" for each document, with both models' scores.

    lm_eval run --model hf --model_args pretrained=BASE,peft=runs/dpo --tasks gsm8k \\
        --log_samples --output_path runs/lm-dpo      (without peft= for BASE itself)
    python data/make/lm_eval.py runs/lm-dpo runs/lm-sft --out runs/lm.jsonl
    python gate.py --suite runs/lm.jsonl --out runs/gate-lm

A task becomes a slice. Its documents are joined by doc_hash; prompts and targets must be the same
on both sides. The score is the first of METRICS that all rows have, under the first filter, or the
first whose name has "strict". What was taken is printed.
Left out on purpose: tasks that one side alone has. A task whose scores lie beyond 0 to 1 (a
perplexity) is refused: leave its files out of the folders.
"""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent.parent)]
from posttrain.cli import BadInput, parser, run_stage
from posttrain.gating.suite import at
from posttrain.records.jsonl import read_jsonl, write_jsonl
from posttrain.verify.values import is_number, need

METRICS = (
    "acc",
    "exact_match",
    "acc_norm",
    "pass@1",
    "pass_at_1",
    "prompt_level_strict_acc",
    "em",
    "f1",
)
SAMPLES = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
FIELDS = {"doc_hash": str, "prompt_hash": str, "target_hash": str, "filter": str, "doc_id": int}
SHARED = 0.95  # the smallest share of either side's documents that the other side has, too


def parse_args(argv=None):
    p = parser(__doc__)
    p.add_argument("candidate", help="folder of lm_eval --log_samples, or one file of it")
    p.add_argument("baseline", help="the same of the model that is in use today")
    p.add_argument("--out", required=True, help="suite to write, *.jsonl")
    return p.parse_args(argv)


# ---- which files ---------------------------------------------------------------------------------


def shared_tasks(candidate, baseline):
    """{task: (candidate's file, baseline's file)} of two paths, in the order of the names."""
    candidate_files = sample_files(Path(candidate))
    baseline_files = sample_files(Path(baseline))
    alone = sorted(candidate_files.keys() ^ baseline_files.keys())
    tasks = {}
    for task in sorted(candidate_files.keys() & baseline_files.keys()):
        tasks[task] = (candidate_files[task], baseline_files[task])
    if not tasks:
        raise BadInput(
            f"{candidate} and {baseline} share no task of lm-eval ({', '.join(alone)[:200]})"
        )
    if alone:
        print(f"lm-eval  left out, for one side only has it: {', '.join(alone)}")
    return tasks


def sample_files(path):
    """{task: its newest samples_TASK_TIME.jsonl} in a folder, or of one such file."""
    versions = {}  # task -> [(time, file), ...]
    for file in path.rglob("*.jsonl") if path.is_dir() else [path]:
        if match := SAMPLES.fullmatch(file.name):
            task, time = match.groups()
            versions.setdefault(task, []).append((time, file))
    if not versions or not path.exists():
        raise BadInput(
            f"{path}: no samples_TASK_TIME.jsonl; run lm_eval with --log_samples and --output_path"
        )
    return {task: newest(task, files, path) for task, files in versions.items()}


def newest(task, files, path):
    """The newest of [(time, file), ...]; BadInput when they are of several models."""
    oldest_file = min(files)[1]
    newest_file = max(files)[1]
    if len({file.parent for _, file in files}) > 1:
        raise BadInput(
            f"{path}: task {task} is in {oldest_file.parent} and in {newest_file.parent}: name one "
            "of them"
        )
    if len(files) > 1:
        print(f"lm-eval  {task}: of {len(files)} files the newest, {newest_file.name}")
    return newest_file


# ---- one task ------------------------------------------------------------------------------------


def join_task(task, files, models):
    """Items of one task. files: (candidate's, baseline's); models {role: name}."""
    candidate, baseline = [read_samples(file) for file in files]
    filters = shared_filters(candidate, baseline)
    name = chosen_filter(filters)
    candidate = [row for row in candidate if row["filter"] == name]
    baseline = [row for row in baseline if row["filter"] == name]
    metric = shared_metric(candidate + baseline)
    if name is None or metric is None:
        raise BadInput(
            f"{files[0]}: with {files[1]} no shared filter, or no shared metric of "
            f"{', '.join(METRICS)}"
        )
    check_scores(candidate, metric, name)
    check_scores(baseline, metric, name)

    pairs = pair_documents(candidate, baseline)
    counts = f"{len(pairs)} documents of {len(candidate)} and {len(baseline)}"
    if len(pairs) < SHARED * max(len(candidate), len(baseline)):
        raise BadInput(
            f"{files[0]}: with {files[1]} only {counts}: run both on the same data with the same "
            "--limit"
        )
    print(f"lm-eval  {task}: {metric}, filter {name} (of {len(filters)}), {counts}")

    items = []
    for row, other in pairs:
        item = {"id": f"{task}:{row['doc_id']}", "slice": task, "cluster": row["doc_hash"]}
        item |= {"type": "scored", "candidate": float(row[metric])}
        items.append(item | {"baseline": float(other[metric]), "models": models})
    return items


def read_samples(file):
    """Rows of a file, each with its place "where".

    lm-eval writes NaN where a field has no number, which matters in the score alone.
    """
    rows = []
    for number, row in read_jsonl(file, allow_nan=True):
        row["where"] = f"{file}:{number}"
        with at(row["where"]):
            for field, kind in FIELDS.items():
                expected = f"what lm-eval 0.4 logs ({kind.__name__})"
                need(type(row.get(field)) is kind, field, expected, row.get(field))
        rows.append(row)
    return rows


def shared_filters(candidate, baseline):
    """Names of the filters that both sides have, in the candidate's order."""
    names = dict.fromkeys(row["filter"] for row in candidate)
    return [name for name in names if any(row["filter"] == name for row in baseline)]


def chosen_filter(names):
    """The first with "strict" in its name, or the first; None without any."""
    strict = [name for name in names if "strict" in name]
    return next(iter(strict + names), None)


def shared_metric(rows):
    """The first of METRICS that all rows have, or None."""
    for metric in METRICS:
        if all(metric in row for row in rows):
            return metric
    return None


def check_scores(rows, metric, filter_name):
    """BadInput for a score that is none, and for a document that occurs twice."""
    count = Counter(row["doc_id"] for row in rows)
    for row in rows:
        with at(row["where"]):
            once = f"a document once under the filter {filter_name}"
            need(count[row["doc_id"]] == 1, "doc_id", once, row["doc_id"])
            score = row[metric]
            is_score = (isinstance(score, bool) or is_number(score)) and 0 <= score <= 1
            need(is_score, metric, "0 to 1", score)


def pair_documents(candidate, baseline):
    """[(candidate's row, baseline's row), ...] of the documents that both sides have.

    Documents of one text are told apart by their number. BadInput where a prompt or a target is
    another one.
    """
    repeated = repeated_hashes(candidate) | repeated_hashes(baseline)
    partners = {document_key(row, repeated): row for row in baseline}
    pairs = []
    for row in candidate:
        partner = partners.get(document_key(row, repeated))
        if partner is not None:
            pairs.append((row, partner))
    for row, partner in pairs:
        for field in ("prompt_hash", "target_hash"):
            with at(row["where"]):
                expected = f"that of {partner['where']} (same task, shots, chat template)"
                need(row[field] == partner[field], field, expected)
    return pairs


def repeated_hashes(rows):
    count = Counter(row["doc_hash"] for row in rows)
    return {name for name, times in count.items() if times > 1}


def document_key(row, repeated):
    return row["doc_hash"], row["doc_id"] if row["doc_hash"] in repeated else None


def main(args):
    models = {"candidate": args.candidate, "baseline": args.baseline}
    items = []
    tasks = shared_tasks(args.candidate, args.baseline)
    for task, files in tasks.items():
        items += join_task(task, files, models)
    write_jsonl(args.out, items)
    print(f"{args.out}: {len(items)} items in {len(tasks)} slices")
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
