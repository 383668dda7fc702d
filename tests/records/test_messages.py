"""Messages: what they say is kept under one name, and keys that nothing reads are named, never lost in silence."""

import json
from collections import Counter

import pytest
from conftest import write

from posttrain.cli import BadInput
from posttrain.records.files import read_records
from posttrain.records.layouts import normalise

USER = {"role": "user", "content": "Is 51 prime?"}
SPOKEN = {"role": "assistant", "content": "No."}
THOUGHT = SPOKEN | {"reasoning_content": "It is 3 x 17."}
CALL = {"name": "factor", "arguments": {"n": 51}}


def read(answer, kind="sft", unread=None):
    """The answer of a conversation as it is normalised."""
    return normalise({"messages": [USER, answer]}, kind, unread)["completion"][0]


def unread_keys(answer):
    unread = Counter()
    read(answer, unread=unread)
    return {key for _, key in unread}


# ---- thoughts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_a_thought_has_one_name(key):
    assert read(SPOKEN | {key: "It is 3 x 17."}) == THOUGHT
    sharegpt = {"from": "gpt", "value": "No.", key: "It is 3 x 17."}
    assert read(sharegpt) == THOUGHT
    for nothing in (None, "", " \n"):
        assert read(SPOKEN | {key: nothing}) == SPOKEN
        assert not unread_keys(SPOKEN | {key: nothing})


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "It is 3 x 17.", "text": None},
        {"type": "thinking", "thinking": [{"type": "text", "text": "It is 3 x 17."}]},
        {"type": "reasoning", "reasoning": "It is 3 x 17."},
        {"type": "reasoning", "text": "It is 3 x 17."},
    ],
)
def test_a_thought_among_the_parts_of_a_content(part):
    spoken = {"type": "text", "text": "No.", "thinking": None}
    assert read({"role": "assistant", "content": [part, spoken]}) == THOUGHT
    with pytest.raises(BadInput, match="the content of a message must be text"):
        normalise({"prompt": [{"role": "user", "content": [part, spoken]}]}, "prompts")


def test_the_same_thought_twice_is_one_and_another_is_named():
    assert not unread_keys(THOUGHT | {"reasoning": "It is 3 x 17."})
    assert unread_keys(THOUGHT | {"reasoning": "Other."}) == {"reasoning"}
    assert unread_keys(SPOKEN | {"reasoning": {"effort": "high"}}) == {"reasoning"}


def test_only_the_assistant_thinks():
    unread = Counter()
    row = normalise({"prompt": [USER | {"reasoning": "Hm."}]}, "prompts", unread)
    assert row["prompt"] == [USER] and dict(unread) == {("keys of messages", "reasoning"): 1}


def test_a_part_whose_text_is_null_says_nothing():
    parts = [{"type": "text", "text": "No."}, {"type": "text", "text": None}]
    assert read({"role": "assistant", "content": parts}) == SPOKEN
    with pytest.raises(BadInput, match="the content of a message must be text"):
        read({"role": "assistant", "content": [{"type": "text", "text": 5}]})


@pytest.mark.parametrize("kind", ["sft", "labels"])
def test_a_thought_in_a_column_beside_a_plain_answer(kind):
    row = {
        "prompt": "Is 51 prime?",
        "completion": "No.",
        "label": True,
        "thinking": "It is 3 x 17.",
    }
    unread = Counter()
    record = normalise(row, kind, unread)
    assert record["completion"] == [THOUGHT] and "thinking" not in record
    assert ("fields", "thinking") not in unread
    normalise(row | {"completion": [SPOKEN]}, kind, unread)
    assert unread["fields", "thinking"] == 1


# ---- the weight of a turn ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marks",
    [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": 0}, {"loss": False}],
)
def test_a_turn_that_is_not_trained_on(marks):
    assert read(SPOKEN | marks) == SPOKEN | {"weight": 0}
    row = normalise({"prompt": [USER | marks]}, "prompts")
    assert row["prompt"] == [USER], "nobody trains on it anyway"


def test_the_usual_weight_of_a_turn_says_nothing():
    for key in ("weight", "train", "training", "loss"):
        for value in (1, 1.0, True, None):
            assert read(SPOKEN | {key: value}) == SPOKEN
            assert not unread_keys(SPOKEN | {key: value})


@pytest.mark.parametrize("value", [0.5, 2, -1, "0", [0], ""])
@pytest.mark.parametrize("key", ["weight", "loss"])
def test_a_turn_is_trained_on_or_not(key, value):
    for message in (SPOKEN, USER):
        with pytest.raises(BadInput) as refused:
            normalise({"messages": [USER, SPOKEN, message | {key: value}, SPOKEN]}, "sft")
        assert f"field 'messages': the '{key}' of a message must be 0" in str(refused.value)
        assert f"got {str(value)!r}" in str(refused.value) and "row" in str(refused.value)


def test_weights_of_a_turn_do_not_contradict_each_other():
    assert read(SPOKEN | {"weight": 0, "train": False})["weight"] == 0
    with pytest.raises(BadInput, match="'weight' and 'train' of a message contradict"):
        read(SPOKEN | {"weight": 1, "train": False})


# ---- calls ---------------------------------------------------------------------------------------


def test_calls_as_openai_had_them_first():
    old = {"role": "assistant", "content": None, "function_call": CALL | {"arguments": '{"n": 51}'}}
    result = {"role": "function", "name": "factor", "content": "3 x 17"}
    prompt = normalise({"prompt": [USER, old, result]}, "prompts")["prompt"]
    calls = [{"type": "function", "function": CALL}]
    assert prompt[1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert prompt[2] == result | {"role": "tool"}

    assert read(old | {"tool_calls": [CALL]})["tool_calls"] == calls
    with pytest.raises(BadInput, match="different calls in 'tool_calls' and 'function_call'"):
        read(old | {"tool_calls": [CALL | {"arguments": {}}]})


def test_calls_may_be_the_json_of_a_list():
    """In columns of tables, and where ShareGPT has the text of a turn."""
    other = {"name": "factor", "arguments": {"n": 52}}
    calls = [{"type": "function", "function": function} for function in (CALL, other)]
    text = json.dumps([CALL, other])
    assert read(SPOKEN | {"tool_calls": text})["tool_calls"] == calls
    assert read(SPOKEN | {"tool_calls": json.dumps(CALL)})["tool_calls"] == calls[:1]
    assert read({"from": "function_call", "value": text})["tool_calls"] == calls
    assert read(SPOKEN | {"tool_calls": "[]"}) == SPOKEN


@pytest.mark.parametrize("nothing", [None, "", "[]", {}, "factor(51)"])
def test_a_turn_of_calls_has_calls(nothing):
    with pytest.raises(BadInput, match="a tool call must be .* got .*; mend it or leave the row"):
        read({"from": "function_call", "value": nothing})


@pytest.mark.parametrize(
    ("role", "content", "remedy"),
    [
        ("tool", {"level": 3.4}, "write what a tool returns as a text, such as its JSON"),
        ("user", [{"type": "image"}], "leave out rows with pictures"),
        ("assistant", [{"type": "text", "text": "a"}, {"type": "tool_use"}], "write calls as"),
        ("user", [{"type": "tool_result"}], "results as messages of the role tool"),
        ("assistant", None, "leave out turns that say nothing"),
    ],
)
def test_a_content_that_is_no_text_has_a_remedy(role, content, remedy):
    with pytest.raises(BadInput, match=remedy):
        normalise({"prompt": [{"role": role, "content": content}, USER]}, "prompts")


def test_definitions_as_openai_had_them_first():
    functions = [{"name": "factor", "parameters": {"type": "object"}}]
    row = normalise({"prompt": [USER], "functions": functions}, "prompts")
    assert row["tools"] == [{"type": "function", "function": functions[0]}]
    assert "functions" not in row
    row = normalise({"prompt": [USER], "functions": ["sin", "cos"]}, "prompts")
    assert row["functions"] == ["sin", "cos"] and "tools" not in row


@pytest.mark.parametrize(
    "nothing", [None, [], "", {}, {"name": None, "arguments": None}, {"name": ""}]
)
def test_keys_without_a_value_say_nothing(nothing):
    for key in ("function_call", "tool_calls", "refusal", "audio", "annotations", "name"):
        assert read(SPOKEN | {key: nothing}) == SPOKEN
        assert not unread_keys(SPOKEN | {key: nothing})


def test_the_layout_of_a_message_may_differ_from_row_to_row():
    """A table then has the keys of both, the others null."""
    for message in (
        {"role": "assistant", "content": "No.", "from": None, "value": None},
        {"role": None, "content": None, "from": "gpt", "value": "No."},
    ):
        assert read(message) == SPOKEN
    for empty in ("messages", "conversations"):
        other = {"messages": "conversations", "conversations": "messages"}[empty]
        row = normalise({empty: None, other: [USER, SPOKEN]}, "sft")
        assert row["completion"] == [SPOKEN]
    row = normalise({"prompt": "Hi", "completion": "No.", "response": None}, "sft")
    assert row["completion"] == [SPOKEN]
    row = normalise({"prompt": "Hi", "completion": None, "response": "No."}, "sft")
    assert row["completion"] == [SPOKEN]
    call = {"function": None, "name": "factor", "arguments": {"n": 51}, "id": None}
    calls = read(SPOKEN | {"tool_calls": [call]})["tool_calls"]
    assert calls == [{"type": "function", "function": CALL}]


@pytest.mark.parametrize("arguments", [None, {}, "", "null", "{}"])
def test_a_call_without_arguments(arguments):
    [call] = read(SPOKEN | {"tool_calls": [{"name": "now", "arguments": arguments}]})["tool_calls"]
    assert call["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize("text", ['{"n": NaN}', '{"n": "\\ud800"}', '{"n": 1e999}'])
def test_json_inside_a_text_can_be_written_again(text):
    with pytest.raises(BadInput, match="a tool call must be"):
        read(SPOKEN | {"tool_calls": [{"name": "factor", "arguments": text}]})
    with pytest.raises(BadInput, match="field 'tools'"):
        normalise({"prompt": "Hi", "tools": f'[{{"name": "f", "parameters": {text}}}]'}, "prompts")


# ---- what nothing reads --------------------------------------------------------------------------


def test_who_speaks_stands_before_the_text():
    """Templates drop the names of several speakers; the assistant's own is counted, as it is trained on."""
    turns = [
        {"role": "system", "name": "example_user", "content": "Hi"},
        {"role": "user", "name": "Alice", "content": "Tea."},
        {"role": "user", "name": "User", "content": "Coffee."},
        {"role": "user", "name": None, "content": "Water."},
    ]
    spoken = {"role": "assistant", "name": "Bob", "content": "Who wants tea?"}
    unread = Counter()
    record = normalise({"messages": [*turns, spoken]}, "sft", unread)
    texts = [message["content"] for message in record["prompt"]]
    assert texts == ["example_user: Hi", "Alice: Tea.", "Coffee.", "Water."]
    assert record["completion"] == [{"role": "assistant", "content": "Who wants tea?"}]
    assert unread == {("keys of messages", "name"): 1}
    again = normalise(record, "sft")
    assert again["prompt"] == record["prompt"], "what a stage has written reads as it was"


def test_keys_that_nothing_reads_are_counted_by_rows():
    call = {"id": "c", "type": "function", "index": 0, "function": CALL | {"strict": True}}
    stamped = {
        "role": "assistant",
        "content": "No.",
        "timestamp": 5,
        "vote": 0,
        "tool_calls": [call],
    }
    part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    row = {
        "messages": [USER, stamped, {"role": "user", "content": [part]}, stamped],
        "tools": [{"type": "function", "function": {"name": "factor"}, "price": 3, "tag": None}],
        "images": ["a.png"],
        "image": None,
        "instructions": "Answer in Latin.",
        "loss_mask": [0, 1, 0, 1],
        "meta": {"a": 1},
    }
    unread = Counter()
    for _ in range(2):
        record = normalise(row, "sft", unread)
    assert unread == {
        ("keys of messages", "timestamp"): 2,
        ("keys of messages", "vote"): 2,
        ("keys of messages", "cache_control"): 2,
        ("keys of tool calls", "index"): 2,
        ("keys of tool calls", "strict"): 2,
        ("keys of tool definitions", "price"): 2,
        ("fields", "images"): 2,
        ("fields", "instructions"): 2,
        ("fields", "loss_mask"): 2,
    }
    assert record["images"] == ["a.png"] and record["meta"] == {"a": 1}, "fields are carried"
    assert record["completion"][0].keys() == {"role", "content", "tool_calls"}
    unread.clear()
    normalise(row | {"messages": [USER, SPOKEN], "tools": None}, "prompts", unread)
    assert not unread, "pictures are no matter of a prompt file"


def test_calls_of_others_than_the_assistant_are_named():
    unread = Counter()
    message = USER | {"tool_calls": [CALL], "tool_call_id": 7}
    assert normalise({"prompt": [message]}, "prompts", unread)["prompt"] == [USER]
    assert {key for _, key in unread} == {"tool_calls", "tool_call_id"}


def test_a_label_is_no_matter_of_sft():
    row = {"prompt": "Hi", "completion": "No.", "label": False}
    for kind, rows in (("sft", 1), ("labels", 0)):
        unread = Counter()
        normalise(row, kind, unread)
        assert unread["fields", "label"] == rows


def test_one_line_names_them(tmp_path, capsys):
    rows = [{"messages": [USER, SPOKEN | {"vote": n, "a\nb": 1}]} for n in range(3)]
    rows[0] |= {"history": [["a", "b"]], "context": "c"}
    rows[1]["history"] = [["a", "b"]]
    path = write(tmp_path / "x.jsonl", rows)
    read_records(path, "sft")
    assert capsys.readouterr().out == (
        f"note     {path}: nothing reads these keys of messages: a b (3 rows), vote (3 rows); "
        "fields: history (2 rows), context (1 row)\n"
    )
    read_records(write(tmp_path / "y.jsonl", [{"messages": [USER, THOUGHT]}]), "sft")
    assert capsys.readouterr().out == ""
    many = {f"k{n:02}": 1 for n in range(11)}
    read_records(write(tmp_path / "z.jsonl", [{"messages": [USER | many, SPOKEN]}]), "sft")
    assert capsys.readouterr().out.endswith("k07 (1 row), and 3 more\n")
