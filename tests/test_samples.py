"""The hand-written samples in data/: ids, types, and that the verifiers agree with the people who wrote the answers."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
from posttrain.chat.calls import message_calls
from posttrain.gating.rule import PROFILES
from posttrain.gating.suite import SUITE_TYPES, read_policy, read_suite
from posttrain.verify.calls import check_call
from posttrain.verify.checks import check_fields, verify
from posttrain.verify.values import is_number

DATA = ROOT / "data"
FILES = ["prompts", "sft", "pairs", "labels", "candidates", "judged"]
SUITES = [
    "capability",
    "safety",
    "overrefusal",
    "format",
    "tools",
    "multilingual",
    "longcontext",
    "canaries",
    "choice",
    "requests",
    "twins",
]
LISTS = ("prompt", "completion", "chosen", "rejected", "messages")


def rows(name):
    return [
        json.loads(line)
        for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def is_messages(value):
    return (
        isinstance(value, list)
        and value
        and all(
            m["role"] in ("system", "user", "assistant", "tool")
            and (m["content"] or m.get("tool_calls"))
            for m in value
        )
    )


@pytest.mark.parametrize("name", FILES + [f"gate/{suite}" for suite in SUITES])
def test_rows_are_well_formed(name):
    found = rows(name)
    assert (8 <= len(found) <= 15) if name.startswith("gate/") else (10 <= len(found) <= 50)
    keys = [(row["id"], row.get("candidate")) for row in found]
    assert len(set(keys)) == len(keys)
    for row in found:
        assert isinstance(row["id"], str) and isinstance(row["slice"], str) and row["slice"]
        if not isinstance(row.get("tools"), str):  # ShareGPT has its tools as text
            check_fields(row)
        for field in LISTS:
            value = row.get(field)
            assert (
                value is None or isinstance(value, str) and name == "sft" or is_messages(value)
            ), (row["id"], field)
        for field in ("completion", "chosen", "rejected"):
            assert not isinstance(row.get(field), list) or [m["role"] for m in row[field]] == [
                "assistant"
            ]
        if isinstance(row.get("prompt"), list):
            assert row["prompt"][-1]["role"] in ("user", "tool")


def test_gold_answers_verify_and_the_others_do_not():
    """Right where a person called it right; where a verifier can tell, wrong where a person called it wrong."""
    passed, caught = 0, 0
    for name in FILES:
        for row in rows(name):
            if isinstance(row.get("tools"), str):
                continue
            good = {
                "sft": row.get("completion"),
                "pairs": row.get("chosen"),
                "labels": row.get("completion") if row.get("label") else None,
            }
            bad = {
                "pairs": row.get("rejected"),
                "labels": row.get("completion") if row.get("label") is False else None,
            }
            for answer, right in ((good.get(name), True), (bad.get(name), False)):
                rude = row["slice"] == "support" and not right  # tone is for the judge
                result = None if rude else answer and verify(row, answer, run_code=True)
                assert not result or result["ok"] is right and "weak" not in result, (
                    name,
                    row["id"],
                    right,
                    result,
                )
                passed, caught = (
                    passed + bool(result and right),
                    caught + bool(result and not right),
                )
    assert passed >= 40 and caught >= 20


def test_slices_and_layouts():
    prompts = rows("prompts")
    slices = {
        "support",
        "tools",
        "safety",
        "overrefusal",
        "code",
        "math",
        "format",
        "multilingual",
        "context",
    }
    assert {row["slice"] for row in prompts} == slices
    assert all(
        row["expected"] == {"safety": "refuse", "overrefusal": "comply"}[row["slice"]]
        for row in prompts
        if row["slice"] in ("safety", "overrefusal")
    )
    needs = {
        "code": {"tests", "sql"},
        "math": {"answer"},
        "format": {"constraints"},
        "tools": {"call"},
    }
    assert all(needs.get(row["slice"], row.keys()) & row.keys() for row in prompts)
    sft = rows("sft")
    assert any("messages" in row for row in sft) and any("conversations" in row for row in sft)
    assert any(
        len(row.get("prompt", [])) == 3 and row["prompt"][1]["role"] == "assistant" for row in sft
    )  # multi-turn
    assert any(
        isinstance(row.get("prompt"), list) and row["prompt"][0]["role"] == "system" for row in sft
    )
    assert any(
        "tools" in row
        and isinstance(row.get("prompt"), list)
        and row["prompt"][-1]["role"] == "tool"
        for row in sft
    )


def test_values():
    for row in rows("pairs"):
        assert row["chosen"] != row["rejected"] and 0.5 < row["p"] < 1 and row["weight"] > 0
        assert (
            row["margin"]
            == row["score_chosen"] - row["score_rejected"]
            > 0
            <= row["score_rejected"]
        )
    labels = rows("labels")
    assert {row.get("label") for row in labels} == {True, False, None} and all(
        ("label" in r) != ("scores" in r) for r in labels
    )
    assert all(
        is_number(score) and 0 <= score <= 5
        for row in labels
        for score in row.get("scores", {}).values()
    )
    candidates, judged = rows("candidates"), rows("judged")
    assert [row["candidate"] for row in candidates] == [0, 1, 2, 3] * 4
    assert [
        {key: row[key] for key in first} for row, first in zip(judged, candidates)
    ] == candidates
    assert all(
        row["finish"] in ("stop", "length") and row["tokens"] > 0 and row["temperature"] > 0
        for row in candidates
    )
    for row in judged:
        assert (
            row["verify"] == verify(row, row["completion"])
            and 0 <= row["mass"] <= 1
            and isinstance(row["flags"], list)
        )
        assert row["constitution"].startswith("everyday@") and 0 <= row["score"] <= 5


def test_constitution():
    text = (DATA / "constitution.md").read_text()
    criteria = text.split("\n## ")[1:]
    assert len(text.split()) <= 200 and 4 <= len(criteria) <= 5
    for criterion in criteria:
        head, question, *anchors = criterion.strip().splitlines()
        assert (
            "(weight " in head
            and question.endswith("?")
            and [line[:3] for line in anchors] == ["0: ", "3: ", "5: "]
        )


def test_tools_and_suites():
    tools = json.loads((DATA / "tools.json").read_text())
    check_fields({"tools": tools, "call": None})
    assert len({tool["function"]["name"] for tool in tools}) == len(tools) == 5
    for name in [f"gate/{suite}" for suite in SUITES] + ["prompts"]:
        for row in rows(name):
            assert all(tool in tools for tool in row.get("tools", []))
            if row.get("call"):
                message = {"content": json.dumps(row["call"])}
                assert check_call(message, row["call"])
                assert message_calls(message, row["tools"]) == ("", [row["call"]])
    items = read_suite(DATA / "gate")
    for item in items:
        verifiable = {"answer", "call", "sql", "constraints", "expected", "tests"} & item.keys()
        assert bool(verifiable) is (item["type"] not in ("judge", "budget")), item["id"]
    recorded = [*read_suite(DATA / "ab.jsonl"), *read_suite(DATA / "scored.jsonl")]
    assert {item["type"] for item in [*items, *recorded]} == {
        item_type.scored_as for item_type in SUITE_TYPES.values()
    }
    policies, limits = read_policy(
        DATA / "policy.jsonl", {item["slice"] for item in items}, PROFILES["hobby"]
    )
    assert (
        policies["safety"] == {"margin": 0.05, "min_n": 60, "hard": True}
        and limits["tokens"] == 1.25
    )
    ids = [row["id"] for suite in SUITES for row in rows(f"gate/{suite}")]
    assert len(set(ids)) == len(ids)
    trained = {json.dumps(row.get("prompt")) for name in FILES for row in rows(name)}
    assert not trained & {
        json.dumps(row["prompt"]) for suite in SUITES for row in rows(f"gate/{suite}")
    }  # held out
