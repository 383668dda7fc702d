"""What the gate compares: suites, A/B logs, policies and the sample logs of lm-evaluation-harness, as checked items.

A suite is a *.jsonl file, or a folder of them; a row is an item {"id", "slice", "type", "prompt", ...}. Where absent,
id is the file's name with the line, slice the file's name, type "verify" and `cluster` the id: items of a cluster (one
passage, one template, one user) count as one draw.

    verify   the answers are graded by verify/checks.py; the row has at least one of its fields
    math exact code tool sql format comply refuse
             verify, and the row must have its field: answer, answer, tests, call, sql, constraints; the last two say
             what is `expected`
    mc       `choices`, 2 to 10 different texts; `answer`, the right one: its index from 0, its letter, or its text
    judge    an AI judge compares both models' answers
    canary   as verify, but it must pass; it counts in no slice
    budget   only the tokens and the time of its answers count
    ab       no prompt; `winner`: "candidate", "baseline" or "tie", from live traffic

A slice is scored in one way: verify, mc, judge and ab items cannot share one. What can be wrong in a file is said in
one line, with its place. Left out on purpose: grading, and statistics.
"""

import contextlib
import re
from collections import Counter
from pathlib import Path

from posttrain.cli import BadInput
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import normalise
from posttrain.verify.checks import CHECKS, check_fields
from posttrain.verify.values import is_number

SCORED = ("verify", "mc", "judge", "ab")
ONCE = ("mc", "ab", "lm-eval")  # types with one deterministic outcome
TYPES, WINNERS = (*SCORED, "canary", "budget"), ("candidate", "baseline", "tie")
ALIASES = {
    "math": "answer",
    "exact": "answer",
    "code": "tests",
    "tool": "call",
    "sql": "sql",
    "format": "constraints",
    "comply": "expected",
    "refuse": "expected",
}  # type -> the verifier field that it demands
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
BUDGETS = {
    "tokens": 1.10,
    "slice_tokens": 1.25,
    "truncated": 0.05,
    "latency": None,
    "cost": None,
}  # without a policy


def need(good, field, expected, got=""):
    """BadInput that names the field and what it is, unless `good`."""
    if not good:
        raise BadInput(
            f"field '{field}': expected {expected}{'' if got == '' else f', got {str(got)[:60]!r}'}"
        )


@contextlib.contextmanager
def at(place):
    """Whatever is refused inside is refused with its place, file:line."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None


# ---- suites ---------------------------------------------------------------------------------------------------


def read_suite(path, limit=None):
    """Items of a folder's *.jsonl, or of one file; `limit`: of each file only the first rows, the rest is not read.

    Each has id, slice, cluster (strings) and type (of TYPES); those with a prompt have it as messages, mc items their
    answer as index. BadInput: file:line, field and what was expected."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: no *.jsonl in this folder")
    items, types = {}, {}
    for file in files:
        rows = read_jsonl(file, limit)
        if not rows:
            raise BadInput(f"{file}: no records")
        for number, row in rows:
            with at(f"{file}:{number}"):
                item = suite_item(row, file.stem.encode("utf-8", "replace").decode(), number)
                need(
                    item["id"] not in items,
                    "id",
                    "one that no other item of the suite has",
                    item["id"],
                )
                kind = (
                    types.setdefault(item["slice"], item["type"])
                    if item["type"] in SCORED
                    else item["type"]
                )
                need(
                    kind == item["type"],
                    "slice",
                    f"one for items of type {item['type']}, not {kind}",
                    item["slice"],
                )
            items[item["id"]] = item
    return [*items.values()]


def suite_item(row, stem, number):
    """One row of a suite -> the checked item. stem: the name of its file."""
    kind = "verify" if row.get("type") is None else row["type"]
    need(
        isinstance(kind, str) and kind in (*TYPES, *ALIASES),
        "type",
        f"one of {', '.join((*TYPES, *ALIASES))}",
        kind,
    )
    row = normalise({"prompt": "-"} | row if kind == "ab" else row, "prompts")
    item = (
        {"id": f"{stem}-{number}", "slice": stem}
        | row
        | {"type": "verify" if kind in ALIASES else kind}
    )
    cluster = item["id"] if item.get("cluster") is None else item["cluster"]
    item["cluster"] = str(cluster) if type(cluster) is int else cluster
    for field in ("id", "slice", "cluster"):
        need(
            isinstance(item[field], str) and item[field].strip() not in ("", "*"),
            field,
            "a name",
            item[field],
        )
    if kind == "ab":
        del item["prompt"]
        need(
            item.get("winner") in WINNERS,
            "winner",
            f"one of {', '.join(WINNERS)}",
            item.get("winner"),
        )
    elif kind == "mc":
        item["answer"] = choice_index(item.get("choices"), item.get("answer"))
    else:
        if kind in ("comply", "refuse"):
            need(
                item.setdefault("expected", kind) == kind,
                "expected",
                f'"{kind}", as the type',
                item["expected"],
            )
        need(
            ALIASES.get(kind, "id") in item,
            ALIASES.get(kind),
            f"it in an item of type {kind}, and it is missing",
        )
        check_fields(item)
        need(
            item["type"] in ("judge", "budget") or {*CHECKS} & item.keys(),
            "type",
            f"another one, or something to verify ({', '.join(CHECKS)})",
            kind,
        )
    return item


def choice_index(choices, answer):
    """Index of the right one of `choices`; `answer` is that index, its letter ("A" is the first) or its text."""
    texts = (
        [c.strip() for c in choices if isinstance(c, str) and c.strip()]
        if isinstance(choices, list)
        else []
    )
    need(
        2 <= len(texts) == len({*texts}) == len(choices) <= 10,
        "choices",
        "2 to 10 different texts",
        choices,
    )
    said = answer.strip() if isinstance(answer, str) else None
    meant = (
        [answer]
        if type(answer) is int
        else [n for n, text in enumerate(texts) if said in (text, "ABCDEFGHIJ"[n])]
    )
    need(
        len(meant) < 2,
        "answer",
        "an index: this is the letter of one choice and the text of another",
        answer,
    )
    need(
        meant and meant[0] in range(len(texts)),
        "answer",
        f"index (up to {len(texts) - 1}), letter or text",
        answer,
    )
    return meant[0]


# ---- policies -------------------------------------------------------------------------------------------------


def read_policy(path, slices, defaults):
    """({slice: {"margin", "min_n", "hard"}} for all of `slices`, {budget: limit or None}). path None: `defaults`
    {"margin", "min_n"}, hard slices and BUDGETS.

    A policy is JSONL: {"slice": NAME or "*", "margin": 0..1, "min_n": clusters, "hard": does its fall block?} and
    {"budget": "tokens", "slice_tokens", "latency" or "cost", "limit": ratio to the baseline from 1} or {"budget":
    "truncated", "limit": extra share of cut answers, 0..1}; null: no limit. A slice's own line outdoes "*". BadInput
    names file:line."""
    lines = {}
    for number, row in read_jsonl(path) if path is not None else []:
        with at(f"{path}:{number}"):
            need(
                ("slice" in row) != ("budget" in row),
                "slice",
                'either "slice" or "budget" in a line',
                [*row],
            )
            field = "slice" if "slice" in row else "budget"
            allowed = ("*", *slices) if field == "slice" else (*BUDGETS,)
            need(row[field] in allowed, field, f"one of {', '.join(allowed)[:300]}", row[field])
            need((field, row[field]) not in lines, field, "one line for each", row[field])
            keys = {"slice", "margin", "min_n", "hard"} if field == "slice" else {"budget", "limit"}
            need(
                {field} < row.keys() <= keys,
                field,
                f"beside it some of {', '.join(sorted(keys - {field}))}",
                [*row],
            )
            margin, least, limit = row.get("margin", 1), row.get("min_n", 1), row.get("limit")
            need(
                is_number(margin) and 0 < margin <= 1,
                "margin",
                "a share above 0, at most 1",
                margin,
            )
            need(
                type(least) is int and 1 <= least <= 10**9,
                "min_n",
                "a number of items from 1",
                least,
            )
            need(isinstance(row.get("hard", True), bool), "hard", "true or false", row.get("hard"))
            low, high = (0, 1) if row[field] == "truncated" else (1, 1000)
            need(
                limit is None or is_number(limit) and low <= limit <= high,
                "limit",
                f"{low} to {high}, null",
                limit,
            )
        lines[field, row[field]] = {key: row[key] for key in row if key != field}
    base = {"margin": defaults["margin"], "min_n": defaults["min_n"], "hard": True} | lines.get(
        ("slice", "*"), {}
    )
    return (
        {name: base | lines.get(("slice", name), {}) for name in slices},
        {
            name: lines.get(("budget", name), {"limit": limit})["limit"]
            for name, limit in BUDGETS.items()
        },
    )


# ---- lm-evaluation-harness --------------------------------------------------------------------------------------


def read_lm_eval(candidate, baseline, taken=()):
    """Items {"id", "slice": task, "cluster", "type": "lm-eval", "candidate", "baseline": 0..1} of two runs of

    lm_eval run --model hf --model_args pretrained=BASE,peft=runs/dpo --tasks gsm8k --log_samples --output_path FOLDER

    (without peft= for BASE itself); each path is such a FOLDER, or one of its samples_*.jsonl.
    Documents are joined by doc_hash within a task; its score is the first of METRICS that all rows have, under the
    first filter, or the first whose name has "strict". What was taken is printed. taken: names of the suite's slices.
    BadInput: no shared task, other prompts or targets for one document, less than 95 % of a side's documents joined."""
    sides = [sample_files(Path(candidate)), sample_files(Path(baseline))]
    shared, alone = (
        sorted(sides[0].keys() & sides[1].keys()),
        sorted(sides[0].keys() ^ sides[1].keys()),
    )
    if not shared:
        raise BadInput(
            f"{candidate} and {baseline} share no task of lm-eval ({', '.join(alone)[:200]})"
        )
    if {*shared} & {*taken}:
        raise BadInput(
            f"{candidate}: the suite has a slice {min({*shared} & {*taken})}, too: rename it there"
        )
    if alone:
        print(f"lm-eval  left out, for one side only has it: {', '.join(alone)}")
    return [item for task in shared for item in join_task(task, sides[0][task], sides[1][task])]


def sample_files(path):
    """{task: newest file} of the samples_TASK_TIME.jsonl in a folder of lm-eval, or of one such file."""
    found, name = {}, re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
    for file in path.rglob("*.jsonl") if path.is_dir() else [path]:
        if match := name.fullmatch(file.name):
            found.setdefault(match[1], []).append((match[2], file))
    if not found or not path.exists():
        raise BadInput(
            f"{path}: no samples_TASK_TIME.jsonl; run lm_eval with --log_samples and --output_path"
        )
    for task, files in found.items():
        (_, old), (_, new) = min(files), max(files)
        if len({file.parent for _, file in files}) > 1:
            raise BadInput(
                f"{path}: task {task} is in {old.parent} and in {new.parent}: name one of them"
            )
        if new != old:
            print(f"lm-eval  {task}: of {len(files)} files the newest, {new.name}")
        found[task] = new
    return found


def join_task(task, *files):
    """Items of one task from the candidate's file and the baseline's."""
    read = [
        [row | {"where": f"{file}:{number}"} for number, row in read_jsonl(file)] for file in files
    ]
    for row in read[0] + read[1]:
        with at(row["where"]):
            for field in ("doc_hash", "prompt_hash", "target_hash", "filter", "doc_id"):
                kind = int if field == "doc_id" else str
                need(
                    type(row.get(field)) is kind,
                    field,
                    f"what lm-eval 0.4 logs ({kind.__name__})",
                    row.get(field),
                )
    names = [dict.fromkeys(row["filter"] for row in rows) for rows in read]
    filters = [name for name in names[0] if name in names[1]]
    chosen = min(
        filters, key=lambda name: "strict" not in name, default=None
    )  # the first strict one, or the first
    read = [[row for row in rows if row["filter"] == chosen] for rows in read]
    metric = next((name for name in METRICS if all(name in row for row in read[0] + read[1])), None)
    if chosen is None or metric is None:
        raise BadInput(
            f"{files[0]}: with {files[1]} no shared filter, or no shared metric of {', '.join(METRICS)}"
        )
    again = {
        name
        for rows in read
        for name, n in Counter(row["doc_hash"] for row in rows).items()
        if n > 1
    }
    sides = []
    for rows in read:
        ids = Counter(row["doc_id"] for row in rows)
        for row in rows:
            value = row[metric]
            with at(row["where"]):
                need(
                    ids[row["doc_id"]] == 1,
                    "doc_id",
                    f"a document once under the filter {chosen}",
                    row["doc_id"],
                )
                need(
                    (isinstance(value, bool) or is_number(value)) and 0 <= value <= 1,
                    metric,
                    "0 to 1",
                    value,
                )
        sides.append(
            {(row["doc_hash"], row["doc_hash"] in again and row["doc_id"]): row for row in rows}
        )
    pairs = [(row, sides[1][key]) for key, row in sides[0].items() if key in sides[1]]
    for one, other in pairs:
        for field in ("prompt_hash", "target_hash"):
            with at(one["where"]):
                need(
                    one[field] == other[field],
                    field,
                    f"that of {other['where']} (same task, shots, chat template)",
                )
    counts = f"{len(pairs)} documents of {len(read[0])} and {len(read[1])}"
    if len(pairs) < 0.95 * max(map(len, read)):
        raise BadInput(
            f"{files[0]}: with {files[1]} only {counts}: run both on the same data with the same --limit"
        )
    print(f"lm-eval  {task}: {metric}, filter {chosen} (of {len(filters)}), {counts}")
    return [
        {
            "id": f"{task}:{one['doc_id']}",
            "slice": task,
            "cluster": one["doc_hash"],
            "type": "lm-eval",
            "candidate": float(one[metric]),
            "baseline": float(other[metric]),
        }
        for one, other in pairs
    ]
