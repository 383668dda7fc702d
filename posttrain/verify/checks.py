"""Truth that needs no judge: the verifier fields of a prompt record, all of which must hold.

    answer      a string, a number, or a list of accepted ones: the final answer equals it
    call        with `tools` (JSON-schema tool definitions): {"name", "arguments"} = the right call,
                a list = these calls in any order, {"in_order": [...]} = in this order, null = no
                call, "grounded" = some call that fits its schema, with ids, dates and numbers of
                the conversation alone (calls.py, also for "accepted" and "optional")
    sql         {"setup", "rows", "ordered"}: the completion is one query that returns these rows
    constraints [{"type": NAME, "value": ...}, ...]: each a rule of form, see CONSTRAINTS
    expected    "refuse" | "comply": the completion begins with a refusal | neither that nor empty
    tests       ["assert f(2) == 4", ...] with an optional `entry_point`: run only with run_code
    evidence    a text, or a list: "facts" counts the answer's sentences that it supports,
                contradicts, or does not speak of (grounding.py); it never decides

How to add a field. Write a function that looks at an answer and gives a Verdict: True, False, or
None where it cannot tell. Put it into CHECKS, in the file of its idea or in one of its own:

    def regex_verdict(answer, pattern):
        return Verdict(re.search(pattern, answer.text) is not None)

    "regex": Check(regex_verdict),

Behind it may stand a function regex_shape(row, field) that refuses malformed values before anything
is paid for; the others here are examples. Who does not want to touch the kit writes the same into a
file of their own (custom.py, data/my_checks.py). A constraint: constraints.py.

The row may be malformed: BadInput names the field. The completion is not trusted at all: nothing in
it may raise, hang or take memory. Left out on purpose: partial credit, and any reading of what a
text means.
"""

from collections.abc import Callable
from typing import NamedTuple

from posttrain.chat.thoughts import visible
from posttrain.verify.answers import answer_shape, answer_verdict
from posttrain.verify.calls import call_shape, call_verdict, check_tools
from posttrain.verify.constraints import constraints_shape, constraints_verdict
from posttrain.verify.grounding import check_facts
from posttrain.verify.refusals import expected_shape, expected_verdict
from posttrain.verify.sql import sql_shape, sql_verdict
from posttrain.verify.unit_tests import check_entry_point, tests_shape, tests_verdict
from posttrain.verify.values import Answer, Verdict, any_value, need

MAX_TEXT = 200_000  # characters; a longer completion fails unread


class Check(NamedTuple):
    """A line of CHECKS."""

    verdict: Callable  # verdict(answer, value) -> Verdict
    # shape(row, field): BadInput unless row[field] can be checked against
    shape: Callable = any_value


# {field of a prompt record: its check}. Results come in this order, and "why" is of the first that
# fails.
CHECKS = {
    "answer": Check(answer_verdict, answer_shape),
    "call": Check(call_verdict, call_shape),
    "sql": Check(sql_verdict, sql_shape),
    "constraints": Check(constraints_verdict, constraints_shape),
    "expected": Check(expected_verdict, expected_shape),
    "tests": Check(tests_verdict, tests_shape),
}


def verify(row, completion, run_code=False, unsafe=False, *, checks=CHECKS):
    """Check a completion (string or message list) against a prompt record.

    None when the row has no verifier field, else {"ok": True | False | None, FIELD: the same, ...};
    None is not decided (`tests` without run_code). "why": what failed first. checks: a table such
    as CHECKS. BadInput: a malformed row, or no sandbox (with `unsafe` the code runs all the same).
    """
    check_fields(row, checks=checks)
    message = last_message(completion)
    text = message["content"]
    answer = Answer(text, message, row, run_code, unsafe)

    decided = {}
    why = ""
    for field, check in checks.items():
        if field not in row:
            continue
        if len(text) > MAX_TEXT:
            verdict = Verdict(False, f"longer than {MAX_TEXT} characters")
        else:
            verdict = check.verdict(answer, row[field])
        decided[field] = verdict.ok
        if verdict.ok is False and not why:
            why = f"{field}: {verdict.why or f'expected {str(row[field])[:80]}'}"

    result = {"ok": all_hold(decided.values())} | decided
    if row.get("evidence"):
        result["facts"] = check_facts(text[:MAX_TEXT], texts_of(row["evidence"]))
    if why:
        result["why"] = why
    return result if len(result) > 1 else None


def all_hold(values):
    """False when one is, else None when one is or there are none, else True."""
    if False in values:
        return False
    return None if None in values or not values else True


def last_message(completion):
    """A copy of the last assistant message, its "content" the text that is shown; "" for none.

    completion: a string, a message list, or whatever else came.
    """
    if not isinstance(completion, list):
        completion = [{"role": "assistant", "content": completion}]
    message = {}
    for item in completion:
        if isinstance(item, dict) and item.get("role") == "assistant":
            message = item
    content = message.get("content")
    return message | {"content": visible(content) if isinstance(content, str) else ""}


def check_fields(row, *, checks=CHECKS):
    """Refuse malformed verifier fields of a prompt record: BadInput names the field."""
    check_tools(row)
    check_evidence(row)
    check_entry_point(row)
    for field, check in checks.items():
        if field in row:
            check.shape(row, field)


def check_evidence(row):
    evidence = row.get("evidence")
    is_texts = isinstance(evidence, list) and all(isinstance(text, str) for text in evidence)
    is_good = evidence is None or isinstance(evidence, str) or is_texts
    need(is_good, "evidence", "a text or a list of texts")


def texts_of(evidence):
    return [evidence] if isinstance(evidence, str) else evidence
