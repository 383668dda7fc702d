"""What the gate compares: suites and policies, read from JSONL as checked items.

A suite is a *.jsonl file, or a folder of them. A row is an item {"id", "slice", "type", "prompt",
...}. Where they are absent, id is the file's name with the line, slice the file's name, type
"verify", and `cluster` the id: items of a cluster (one passage, one template, one user) count as
one draw.

    verify   the answers are graded by verify/checks.py; the row has at least one of its fields
    math exact code tool sql format comply refuse
             verify, and the row must have its field: answer, answer, tests, call, sql, constraints;
             the last two say what is `expected`
    mc       `choices`, 2 to 10 different texts; `answer`, the right one: its index from 0, its
             letter, or its text
    judge    an AI judge compares both models' answers
    canary   as verify, but it must pass; it counts in no slice
    budget   only the tokens and the time of its answers count
    ab       no prompt; `winner`: "candidate", "baseline" or "tie", from live traffic
    scored   no prompt; `candidate` and `baseline`, their scores from 0 to 1, from another program;
             `models`, if it is there, says whose they are: {"candidate": NAME, "baseline": NAME}

A slice is scored in one way: verify, mc, judge, ab and scored items cannot share one. What can be
wrong in a file is one line, with its place. Left out on purpose: grading, and statistics.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from posttrain.cli import BadInput, at
from posttrain.records.files import note_unread
from posttrain.records.jsonl import read_jsonl
from posttrain.records.layouts import normalise
from posttrain.verify.checks import CHECKS, check_fields
from posttrain.verify.values import is_number, need

ROLES = ("baseline", "candidate")
WINNERS = ("candidate", "baseline", "tie")
LETTERS = "ABCDEFGHIJ"  # of choices

# Types of items, as they are scored.
IN_SLICES = ("verify", "mc", "judge", "ab", "scored")  # the others count in no slice
ONCE = ("mc", "ab", "scored")  # with one deterministic outcome
RECORDED = ("ab", "scored")  # the outcome stands in the item: no model is asked

# The largest ratio to the baseline (of truncated: the largest extra share) without a policy.
BUDGETS = {
    "tokens": 1.10,
    "slice_tokens": 1.25,
    "truncated": 0.05,
    "latency": None,
    "cost": None,
}
MOST_ITEMS = 10**9


# ---- the types of items --------------------------------------------------------------------------


def read_verifiers(item, type_name, checks):
    """An item that a program can grade."""
    check_fields(item, checks=checks)
    need(
        any(field in item for field in checks),
        "type",
        f"another one, or a field to verify ({', '.join(checks)}; is one misspelt, or "
        "--verifiers missing?)",
        type_name,
    )


def read_alias(item, type_name, checks, *, field):
    """An item whose type says which verifier's field it must have."""
    need(field in item, field, f"it in an item of type {type_name}, and it is missing")
    read_verifiers(item, type_name, checks)


def read_expected(item, type_name, checks):
    """An item whose type says what is expected of the answer: to comply, or to refuse."""
    expected = item.setdefault("expected", type_name)
    need(expected == type_name, "expected", f'"{type_name}", as the type', expected)
    read_verifiers(item, type_name, checks)


def read_ungraded(item, type_name, checks):
    """An item that no program grades; verifiers' fields may be there, and are well-formed then."""
    check_fields(item, checks=checks)


def read_choice(item, type_name, checks):
    """Multiple choice: the answer becomes an index."""
    item["answer"] = choice_index(item.get("choices"), item.get("answer"))


def choice_index(choices, answer):
    """Index of the right one of `choices`.

    answer: that index, its letter ("A" is the first) or its text.
    """
    texts = []
    if isinstance(choices, list):
        texts = [text.strip() for text in choices if isinstance(text, str) and text.strip()]
    all_are_texts = isinstance(choices, list) and len(texts) == len(choices)
    all_differ = len(texts) == len(set(texts))
    need(
        all_are_texts and all_differ and 2 <= len(texts) <= len(LETTERS),
        "choices",
        "2 to 10 different texts",
        choices,
    )

    matches = []
    if type(answer) is int:
        matches = [answer]
    elif isinstance(answer, str):
        for index, text in enumerate(texts):
            if answer.strip() in (text, LETTERS[index]):
                matches.append(index)
    need(
        len(matches) < 2,
        "answer",
        "an index: this is the letter of one choice and the text of another",
        answer,
    )
    need(
        matches and matches[0] in range(len(texts)),
        "answer",
        f"index (up to {len(texts) - 1}), letter or text",
        answer,
    )
    return matches[0]


def read_winner(item, type_name, checks):
    """A comparison from live traffic."""
    winner = item.get("winner")
    need(winner in WINNERS, "winner", f"one of {', '.join(WINNERS)}", winner)


def read_scores(item, type_name, checks):
    """Two scores that another program gave."""
    for role in ROLES:
        score = item.get(role)
        need(is_number(score) and 0 <= score <= 1, role, "a score from 0 to 1", score)
    models = item.get("models")
    if models is not None:
        are_names = isinstance(models, dict) and models.keys() == {*ROLES}
        are_names = are_names and all(isinstance(name, str) and name for name in models.values())
        need(are_names, "models", '{"candidate": NAME, "baseline": NAME}', models)


class ItemType(NamedTuple):
    """What the `type` of a row means."""

    scored_as: str  # the type of its item
    read: Callable  # (item, name of the type, table of verifiers): checks the item and fills it in


def alias(field):
    """A type that is scored as verify and must have a verifier's field."""
    return ItemType("verify", partial(read_alias, field=field))


SUITE_TYPES = {
    "verify": ItemType("verify", read_verifiers),
    "mc": ItemType("mc", read_choice),
    "judge": ItemType("judge", read_ungraded),
    "ab": ItemType("ab", read_winner),
    "scored": ItemType("scored", read_scores),
    "canary": ItemType("canary", read_verifiers),
    "budget": ItemType("budget", read_ungraded),
    "math": alias("answer"),
    "exact": alias("answer"),
    "code": alias("tests"),
    "tool": alias("call"),
    "sql": alias("sql"),
    "format": alias("constraints"),
    "comply": ItemType("verify", read_expected),
    "refuse": ItemType("verify", read_expected),
}


# ---- suites --------------------------------------------------------------------------------------


def read_suite(path, limit=None, *, checks=CHECKS):
    """Items of one file, or of a folder's *.jsonl.

    Each has id, slice, cluster (strings) and type (that of the table's scored_as); those with a
    prompt have it as messages, mc items their answer as index.
    limit: only so many rows of each file; the rest is not read. checks: the table of verifiers,
    whose fields an item may have.
    BadInput: file:line, field and what was expected.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path}: no *.jsonl in this folder")

    items = {}
    type_of_slice = {}
    for file in files:
        rows = read_jsonl(file, limit)
        if not rows:
            raise BadInput(f"{file}: no records")
        stem = file.stem.encode("utf-8", "replace").decode()
        unread = Counter()
        for number, row in rows:
            with at(f"{file}:{number}"):
                item = suite_item(row, stem, number, checks=checks, unread=unread)
                is_new = item["id"] not in items
                need(is_new, "id", "one that no other item of the suite has", item["id"])
                check_slice(item, type_of_slice)
            items[item["id"]] = item
        note_unread(file, unread)
    return list(items.values())


def check_slice(item, type_of_slice):
    """BadInput unless all items of a slice are scored alike. type_of_slice: so far; filled here."""
    if item["type"] not in IN_SLICES:
        return
    type_here = type_of_slice.setdefault(item["slice"], item["type"])
    need(
        type_here == item["type"],
        "slice",
        f"one for items of type {item['type']}, not {type_here}",
        item["slice"],
    )


def suite_item(row, stem, number, *, checks=CHECKS, unread=None):
    """One row of a suite -> the checked item. stem: the name of its file. unread: see normalise."""
    type_name = "verify" if row.get("type") is None else row["type"]
    need(
        isinstance(type_name, str) and type_name in SUITE_TYPES,
        "type",
        f"one of {', '.join(SUITE_TYPES)}",
        type_name,
    )
    item_type = SUITE_TYPES[type_name]
    read_row = row_without_prompt if item_type.scored_as in RECORDED else row_with_prompt
    item = {"id": f"{stem}-{number}", "slice": stem} | read_row(row, unread)
    item["type"] = item_type.scored_as

    cluster = item.get("cluster")
    if cluster is None:
        cluster = item["id"]
    item["cluster"] = str(cluster) if type(cluster) is int else cluster
    for field in ("id", "slice", "cluster"):
        is_name = isinstance(item[field], str) and item[field].strip() not in ("", "*")
        need(is_name, field, "a name", item[field])

    item_type.read(item, type_name, checks)
    return item


def row_with_prompt(row, unread):
    """A row that models are asked: its prompt as messages, which end where the answer begins."""
    return normalise(row, "prompts", unread)


def row_without_prompt(row, unread):
    """A row with an outcome. Its `candidate` is a score, elsewhere the number of an answer."""
    scores = {role: row[role] for role in ROLES if role in row}
    others = {field: value for field, value in row.items() if field not in scores}
    read = normalise(others | {"prompt": "-"}, "prompts", unread)
    del read["prompt"]
    return read | scores


# ---- policies ------------------------------------------------------------------------------------


def read_policy(path, slices, defaults):
    """({slice: {"margin", "min_n", "hard"}} for all of `slices`, {budget: limit or None}).

    path None: `defaults` {"margin", "min_n"}, hard slices and BUDGETS. A policy is JSONL:
        {"slice": NAME or "*", "margin": 0..1, "min_n": clusters, "hard": does its fall block?}
        {"budget": "tokens", "slice_tokens", "latency" or "cost", "limit": ratio to the baseline}
        {"budget": "truncated", "limit": extra share of cut answers, 0..1}
    A limit of null is no limit; ratios are 1 or more. A slice's own line outdoes "*". BadInput
    names file:line.
    """
    lines = {}  # ("slice" or "budget", its name) -> what the line says of it
    for number, row in read_jsonl(path) if path is not None else []:
        with at(f"{path}:{number}"):
            field = policy_field(row, slices)
            need((field, row[field]) not in lines, field, "one line for each", row[field])
            check_keys(row, field)
            check_values(row, field)
        lines[field, row[field]] = {key: row[key] for key in row if key != field}

    base = {"margin": defaults["margin"], "min_n": defaults["min_n"], "hard": True}
    base |= lines.get(("slice", "*"), {})
    policies = {name: base | lines.get(("slice", name), {}) for name in slices}
    limits = {}
    for name, limit in BUDGETS.items():
        limits[name] = lines.get(("budget", name), {"limit": limit})["limit"]
    return policies, limits


def policy_field(row, slices):
    """What a line of a policy speaks of: "slice" or "budget"."""
    need(
        ("slice" in row) != ("budget" in row),
        "slice",
        'either "slice" or "budget" in a line',
        [*row],
    )
    if "slice" in row:
        field = "slice"
        names = ("*", *slices)
    else:
        field = "budget"
        names = tuple(BUDGETS)
    need(row[field] in names, field, f"one of {', '.join(names)[:300]}", row[field])
    return field


def check_keys(row, field):
    """BadInput for a line of a policy that says nothing, or something unknown."""
    keys = {"slice": {"margin", "min_n", "hard"}, "budget": {"limit"}}[field]
    says_something = row.keys() > {field}
    is_known = row.keys() <= keys | {field}
    need(says_something and is_known, field, f"beside it some of {', '.join(sorted(keys))}", [*row])


def check_values(row, field):
    """BadInput for a value in a line of a policy that is none."""
    margin = row.get("margin", 1)
    is_share = is_number(margin) and 0 < margin <= 1
    need(is_share, "margin", "a share above 0, at most 1", margin)
    least = row.get("min_n", 1)
    is_count = type(least) is int and 1 <= least <= MOST_ITEMS
    need(is_count, "min_n", "a number of items from 1", least)
    hard = row.get("hard", True)
    need(isinstance(hard, bool), "hard", "true or false", hard)

    limit = row.get("limit")
    low = 1
    high = 1000
    if row[field] == "truncated":  # a difference of shares, not a ratio
        low = 0
        high = 1
    is_limit = limit is None or (is_number(limit) and low <= limit <= high)
    need(is_limit, "limit", f"{low} to {high}, null", limit)
