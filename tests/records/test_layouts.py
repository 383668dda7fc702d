"""One record: nothing of it is lost in silence, and the values of its fields are checked in order."""

import pytest
from conftest import write

from posttrain.cli import BadInput
from posttrain.records.files import read_records
from posttrain.records.layouts import normalise

USER = [{"role": "user", "content": "What is 2+2?"}]
ANSWER = [{"role": "assistant", "content": "It is 4."}]
ROW = {"prompt": "Hi", "completion": "Hello"}


def test_nothing_of_a_record_is_lost_in_silence():
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    row = normalise({"system": "S", "conversations": turns}, "sft")
    assert row["prompt"][0] == {"role": "system", "content": "S"}
    row = normalise(
        {"prompt": "Hi", "messages": USER + ANSWER}, "sft"
    )  # a prompt beside the whole conversation
    assert row["prompt"] == USER and row["completion"] == ANSWER
    tool = {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}
    assert normalise({"prompt": [*USER, tool]}, "prompts")["prompt"][1] == tool


@pytest.mark.parametrize(
    ("field", "bad_values", "good_values", "expected"),
    [
        ("id", [1.5, ["a"]], ["a", "", 7], "a string"),
        ("slice", [3, {}], ["tools"], "a string"),
        ("label", [1, "true"], [True, False], "true or false"),
        ("scores", [[], 4], [{"a": 5, "b": None}], "{criterion: 0-5}"),
        ("weight", [-0.1, True, "1", float("inf")], [0, 2.5], "a number >= 0"),
        ("candidate", [-1, 0.5, False], [0, 12], "a number >= 0"),
        ("tokens", [-1, 0.5, True], [0, 12], "a number >= 0"),
        ("p", [-0.1, 1.01, True], [0, 0.5, 1], "a number from 0 to 1"),
        ("label_chosen", [0, "no"], [True, False], "true, false or null"),
    ],
)
def test_values_of_fields(field, bad_values, good_values, expected):
    for value in bad_values:
        with pytest.raises(BadInput) as refused:
            normalise(ROW | {field: value}, "sft")
        assert str(refused.value).startswith(f"field '{field}': expected {expected}, got ")
    for value in good_values:
        read = normalise(ROW | {field: value}, "sft")
        assert read[field] == (str(value) if field == "id" else value)


def test_null_is_no_value_but_in_the_labels_of_a_pair():
    fields = ("id", "slice", "label", "scores", "weight", "candidate", "tokens", "p", "extra")
    read = normalise(ROW | dict.fromkeys(fields) | {"label_rejected": None}, "sft")
    assert read == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "extra": None,
        "label_rejected": None,
    } | {"completion": [{"role": "assistant", "content": "Hello"}]}


ANSWERS = {
    "prompts": {},
    "sft": {"completion": "Yo"},
    "candidates": {"completion": "Yo"},
    "labels": {"completion": "Yo", "label": True},
    "pairs": {"chosen": "Yo", "rejected": "No"},
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("last_role", ["assistant", "system"])
def test_a_prompt_ends_where_the_assistant_begins(tmp_path, kind, last_role):
    """Else the model would be trained, asked or judged on an answer to an answer."""
    good = {"prompt": USER} | ANSWERS[kind]
    bad = {"prompt": [*USER, {"role": last_role, "content": "Hm"}]} | ANSWERS[kind]
    path = write(tmp_path / "d.jsonl", [good, bad | {"id": "b"}])
    with pytest.raises(BadInput) as refused:
        read_records(path, kind)
    assert str(refused.value).startswith(f"{path}:2: field 'prompt': the last message must be a ")
    assert f"got {last_role}" in str(refused.value)


@pytest.mark.parametrize("kind", ["prompts", "sft", "candidates", "labels"])
def test_the_end_of_a_conversation_is_the_answer(kind):
    """Of two assistant turns at the end only the last is one: what is left is no prompt."""
    more = {"label": True} if kind == "labels" else {}
    read = normalise({"messages": USER + ANSWER} | more, kind)
    assert (read["prompt"], read["completion"]) == (USER, ANSWER)
    with pytest.raises(BadInput, match="field 'prompt': the last message"):
        normalise({"messages": USER + ANSWER + ANSWER} | more, kind)


def test_pairs_of_whole_conversations_end_in_one_answer():
    whole = USER + ANSWER
    with pytest.raises(BadInput, match="field 'prompt': the last message"):
        normalise({"chosen": whole + ANSWER, "rejected": whole + USER}, "pairs")
    with pytest.raises(BadInput, match="field 'prompt' is missing"):
        normalise({"chosen": ANSWER, "rejected": ANSWER}, "pairs")


def test_the_first_of_several_faults_is_named():
    """Answers before the prompt, the prompt before values, values in the order of the table, tools last."""
    row = {
        "tools": 3,
        "scores": {"a": 9},
        "p": 2,
        "weight": -1,
        "id": [],
        "prompt": [],
        "completion": 3,
    }
    mended = [
        ("completion", "Hello"),
        ("prompt", "Hi"),
        ("id", "a"),
        ("weight", 1),
        ("p", 1),
        ("scores", {"a": 5}),
    ]
    for field, value in mended:
        with pytest.raises(BadInput, match=f"field '{field}'"):
            normalise(row, "labels")
        row[field] = value
    with pytest.raises(BadInput, match="field 'tools'"):
        normalise(row, "labels")


def test_a_record_of_no_known_kind_is_a_fault_of_the_program():
    with pytest.raises(KeyError):
        normalise(ROW, "pair")


@pytest.mark.parametrize(
    "call",
    [
        {"name": 5, "arguments": {}},
        {"name": "add", "arguments": [1]},
        {"name": "add", "arguments": "{"},
        {"arguments": {}},
        "add",
        "[1]",
    ],
)
def test_a_call_has_a_name_and_arguments(call):
    answer = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(BadInput, match="a tool call must be"):
        normalise({"prompt": USER, "completion": answer}, "sft")
