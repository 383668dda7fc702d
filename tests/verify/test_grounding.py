"""What an answer may not make up: digits in tool calls, sentences against a text. Honest ones must pass."""

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from posttrain.cli import BadInput
from posttrain.records.jsonl import read_jsonl
from posttrain.records.messages import as_messages
from posttrain.verify.checks import verify
from posttrain.verify.grounding import (
    Conversation,
    bm25,
    check_facts,
    clocks_of,
    dates_of,
    invented,
    is_covered,
    is_named,
    numbers_of,
    spoken,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "people": {"type": "integer"},
        "date": {"type": "string"},
        "limit": {"default": 10},
        "unit": {"enum": ["m2", "km"]},
        "order": {"type": "string", "pattern": "(a+)+$"},
        "time": {"type": "string"},
        "format": {"type": "string"},
        "items": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "said", "made_up"),
    [
        ({"city": "Rome"}, "Weather please", []),
        ({"people": 4}, "a table for 4", []),
        ({"people": 4}, "for four", []),
        ({"people": 5}, "a table for 4", ["people: 5"]),
        ({"people": 45}, "a table for 4 or 5", ["people: 45"]),
        ({"order": "1.2.3"}, "version 1", ["order: 1.2.3"]),
        ({"people": 1234}, "1,234 guests", []),
        ({"people": 34}, "rooms 12,34", []),
        ({"people": 1234}, "rooms 12,34", ["people: 1234"]),
        ({"people": 3.0}, "3 of us", []),
        ({"people": 5000}, "about 5k", []),
        ({"people": 0.05}, "a rate of 5%", []),
        ({"people": True}, "yes", []),
        ({"people": None}, "no", []),
        ({"order": "AB-1234"}, "order ab 1234", []),
        ({"order": "AB-1235"}, "order AB-1234", ["order: AB-1235"]),
        ({"order": "77"}, "order number 177", ["order: 77"]),
        ({"order": "x9"}, "nothing", ["order: x9"]),
        ({"limit": 10}, "all", []),
        ({"limit": 11}, "all", ["limit: 11"]),
        ({"unit": "m2"}, "in metres", []),
        ({"date": "2024-05-03"}, "on the 3rd of May 2024", []),
        ({"date": "2024-05-03"}, "May 3, please", []),
        ({"date": "2024-05-04"}, "on 3 May 2024", ["date: 2024-05-04"]),
        ({"date": "2024-05-04"}, "tomorrow", []),
        ({"date": "2024-03-05"}, "on 5/3/2024", []),
        ({"time": "15:30"}, "at 3:30 pm", []),
        ({"time": "15:00"}, "at 3", []),
        ({"time": "16:30"}, "at 3:30 pm", ["time: 16:30"]),
        ({"items": [{"n": 2}, {"n": 9}]}, "2 of them", ["items[1].n: 9"]),
    ],
)
def test_invented(arguments, said, made_up):
    assert invented(arguments, SCHEMA, said) == made_up


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.0 of 1,234.5", {"3", "1234.5"}),
        ("1.2.3", {"1", "2", "3"}),
        ("12,34", {"12", "34"}),
        ("5k 5 km", {"5", "5000"}),
        ("2 thousand", {"2", "2000"}),
        ("2 million and 3m", {"2", "2000000", "3", "3000000"}),
        ("4% or 50 percent", {"4", "0.04", "50", "0.5"}),
        ("half a dozen", {"0.5", "12"}),
        ("nothing", set()),
    ],
)
def test_numbers_of_a_text(text, numbers):
    assert numbers_of(text) == numbers


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("12 am", {0}),
        ("12:05 pm", {725}),
        ("9 a.m.", {540}),
        ("3:30 pm", {930}),
        ("15:30", {930}),
        ("15:30:20", {930}),
        ("3:15:00 pm", {915}),
        ("24:00 or 0:01", {0, 1}),
        ("at 3", set()),
    ],
)
def test_clocks_of_a_text(text, minutes):
    assert clocks_of(text) == minutes


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("2024-5-03", {(5, 3), (2024, 5, 3)}),
        ("3/4/2024", {(3, 4), (2024, 3, 4), (4, 3), (2024, 4, 3)}),
        ("the 1st of december, 2023", {(12, 1), (2023, 12, 1)}),
        ("jan. 31", {(1, 31), (None, 1, 31)}),
        ("march 2nd 2024", {(3, 2), (2024, 3, 2)}),
        ("may", set()),
    ],
)
def test_dates_of_a_text(text, dates):
    assert dates_of(text) == dates


@pytest.mark.parametrize(
    ("value", "said", "is_said"),
    [
        ("12:00", "at 12", True),
        ("00:00", "at 12", True),
        ("13:00", "at 1", True),
        ("13:00", "at 13", False),
        ("13:05", "at 1", False),
        ("at 9:00 and 10:00", "9:00 to 10:00", True),
        ("at 9:05 and 10:30", "9:05 to 11:00", False),
        ("at 9:00 and 10:30", "9:00 to 11:00", False),
        ("1e3", "1", False),
        ("1e3", "1e3", True),
        ("1e-05", "0.00001", True),
        ("-2.5e+20", "250000000000000000000", True),
        ("1e-05", "0.0001", False),
        ("-5", "5 below zero", True),
        ("12", "order 112", False),
        ("room a1 b2", "b2 and a1", True),
        ("room a1 b3", "b2 and a1", False),
    ],
)
def test_what_is_said(value, said, is_said):
    assert Conversation(said).says(value) is is_said


def test_what_a_schema_names():
    """One is not one point nought, and no truth."""
    assert is_named(10, {"default": 10}) and is_named("a", {"enum": ["b", "a"]})
    assert is_named(7, {"const": 7}) and not is_named(7, {})
    assert not is_named(10.0, {"default": 10}) and not is_named(1, {"const": True})
    assert not is_named("c", {"enum": ["b", "a"]})


TOOLS = [{"type": "function", "function": {"name": "book", "parameters": SCHEMA}}]


def asked(text, **more):
    return {
        "prompt": [{"role": "user", "content": text}],
        "tools": TOOLS,
        "call": "grounded",
    } | more


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"name": "book", "arguments": {"city": "Rome", "people": 2}}', True),
        ('{"name": "book", "arguments": {"city": "Rome", "people": 3}}', False),
        ('{"name": "book", "arguments": {"people": 2}}', False),
        ('{"name": "cook", "arguments": {"city": "Rome"}}', False),
        ('{"name": "book", "arguments": {"city": "Rome", "colour": "red"}}', False),
        ("A table for 2 in Rome.", False),
        ('{"name": "book", "arguments": {"city": "Rome", "format": "pdf"}}', True),
        ("", False),
        ('{"name": "book", "arguments": {"city": 2}}', False),
        ('{"name": "book", "arguments": {"city": "Rome"}} ok', False),
        ('{"name": "book", "arguments": {"city": "' + "a" * 20_000 + '"}}', False),
        ('{"name": "book", "arguments": {"city": "Rome", "order": "' + "a" * 40 + 'b"}}', True),
    ],
)
def test_a_grounded_call(answer, right):
    """The last one would keep the pattern of `order` busy for ever: patterns never meet hostile text."""
    assert verify(asked("A table for two in Rome"), answer)["ok"] is right


def test_why_a_call_is_not_grounded():
    row = asked("A table for two in Rome")
    for arguments, why in (
        ({"city": "Rome", "people": 3, "order": "x9"}, "made up: people: 3, order: x9"),
        ({"people": 2}, "'city' is a required property"),
        ({"city": "a" * 20_000}, "arguments of more than 10,000 characters"),
    ):
        call = json.dumps({"name": "book", "arguments": arguments})
        assert verify(row, call)["why"] == f"call: {why}"
    assert verify(row, "no")["why"] == "call: expected one call to a tool on offer"


def test_results_of_tools_count_as_said():
    prompt = [
        {"role": "user", "content": "Book what you find"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "find", "arguments": {"id": 81}}}
            ],
        },
        {"role": "tool", "content": '{"order": "ZX-9"}'},
    ]
    for order, right in (("ZX-9", True), ("81", True), ("ZX-8", False)):
        call = json.dumps({"name": "book", "arguments": {"city": "Rome", "order": order}})
        assert verify(asked("") | {"prompt": prompt}, call)["ok"] is right


@pytest.mark.parametrize(
    "row", [asked("x", tools=[]), asked("x") | {"prompt": "x"}, {"evidence": 3}, {"evidence": [3]}]
)
def test_bad_fields(row):
    with pytest.raises(BadInput, match="field '(call|tools|evidence)'"):
        verify(row, "x")


TEXT = (
    "The library opens at 9 on weekdays. It is closed on Sunday. Members may borrow 12 books for four weeks. "
    "Maria Keller has led it since 2015. Dogs are not allowed inside."
)


@pytest.mark.parametrize(
    ("claim", "kind"),
    [
        ("The library opens at 9.", "support"),
        ("The library opens at 10.", "contradict"),
        ("Members may borrow 12 books.", "support"),
        ("Members may borrow 12 books for 4 weeks.", "support"),
        ("Members may borrow 20 books.", "contradict"),
        ("Dogs are allowed inside.", "contradict"),
        ("It is not closed on Sunday.", "contradict"),
        ("Maria Keller has led it since 2015.", "support"),
        ("Maria Berger has led it since 2015.", "absent"),
        ("The moon is made of green cheese.", "absent"),
        ("Dogs not allowed.", "support"),  # three words
        ("Dogs are not allowed inside 2.", "support"),  # a number where the text has none
        ("1 2 3.", "absent"),  # no word at all
    ],
)
def test_facts(claim, kind):
    assert check_facts(claim, [TEXT]) == {"support": 0, "contradict": 0, "absent": 0} | {kind: 1}


def test_what_says_too_little_is_no_claim():
    """Two words, or the same one again; and nothing is held against an empty text."""
    nothing = {"support": 0, "contradict": 0, "absent": 0}
    assert check_facts("Not allowed. Dogs dogs dogs.", [TEXT]) == nothing
    for empty in ([], [" "], ["\n\n"]):
        assert check_facts("The moon is made of cheese.", empty) == nothing
    assert bm25("a", []) == []


def test_facts_flag_and_never_decide():
    row = {"evidence": TEXT, "answer": 10}
    told = verify(row, "The library opens at 10.")
    assert told["ok"] is True and told["facts"]["contradict"] == 1
    assert verify({"evidence": [TEXT]}, "The library opens at 9.") == {
        "ok": None,
        "facts": {"support": 1, "contradict": 0, "absent": 0},
    }


def test_what_is_covered_by_hand():
    """Words of one passage in two weigh log 2, an unknown one log 6: 4 and 1 are 61 % there, 3 and 1 54 %."""
    passages = ("p q r s", "c")
    assert is_covered("p q r s x", passages[0], passages)
    assert not is_covered("p q r x", passages[0], passages)
    passages = ("p q r s t u v w", "c")  # 8 and 2 are 61 % there, 7 and 2 57 %
    assert is_covered("p q r s t u v w x y", passages[0], passages)
    assert not is_covered("p q r s t u v x y", passages[0], passages)


def test_bm25_by_hand():
    """Two passages of three and one words; the query has one word of the first, twice there."""
    import math

    idf, mean = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5)), 2
    expected = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / mean))
    assert bm25("a z", ["a a b", "c"]) == [pytest.approx(expected), 0]


@pytest.mark.skipif("KIT_REAL" not in os.environ, reason="no real data")
def test_real_calls_and_real_contexts():
    """Glaive's calls: nearly all are grounded. Dolly's answers: few contradict their context, changed numbers do."""
    folder, dice, calls = Path(os.environ["KIT_REAL"]) / "data" / "sft", random.Random(0), []
    for _, raw in read_jsonl(folder / "glaive_toolcall300.jsonl"):
        talk = as_messages(raw["conversations"], "user", "conversations")
        calls += [
            invented(m["tool_calls"][0]["function"]["arguments"], {}, spoken(talk[:i]))
            for i, m in enumerate(talk)
            if m.get("tool_calls")
        ]
    assert len(calls) > 200 and sum(map(bool, calls)) <= 0.03 * len(calls)
    honest, changed = Counter(), Counter()
    for _, raw in read_jsonl(folder / "dolly1000.jsonl"):
        context = raw["prompt"].partition("\n\n")[2]
        if len(context) > 200:
            honest.update(check_facts(raw["response"], [context]))
            for claim in re.split(r"(?<=[.!?])\s+|\n+", raw["response"]):
                if re.search(r"\d", claim) and check_facts(claim, [context]).get("support"):
                    other = re.sub(
                        r"\d", lambda m: str((int(m[0]) + dice.randint(1, 8)) % 10), claim
                    )
                    changed.update(check_facts(other, [context]))
    assert (
        honest["contradict"] <= 0.03 * honest.total()
        and changed["contradict"] >= 0.9 * changed.total() > 180
    )


@pytest.mark.parametrize(
    ("schema", "arguments", "right"),
    [
        ({"properties": {"x": {"multipleOf": 0.1}}}, '{"x": ' + "9" * 4000 + "}", False),
        ({"properties": {"x": {}}}, '{"x": 1e400}', False),
        ({"properties": {"x": {}}}, '{"y": "made up"}', False),
        ({"properties": {"x": {}}, "additionalProperties": True}, '{"y": "free"}', True),
        ({}, '{"y": "free"}', True),
        (True, '{"y": "free"}', True),
        ({"properties": {"x": {}}, "patternProperties": {"^y": {}}}, '{"y": "free"}', True),
    ],
)
def test_hostile_and_unknown_arguments(schema, arguments, right):
    row = {
        "prompt": [{"role": "user", "content": "Go."}],
        "tools": [{"function": {"name": "f", "parameters": schema}}],
        "call": "grounded",
    }
    assert verify(row, f'{{"name": "f", "arguments": {arguments}}}')["ok"] is right


@pytest.mark.parametrize("value", [1e999, -1e999])
def test_infinity_is_no_number_that_was_said(value):
    assert invented({"n": value}, {}, f"say {value}") == [f"n: {value}"]
