"""One record: nothing of it is lost in silence, and the values of its fields are checked in order."""

from collections import Counter

import pytest
from conftest import write

from posttrain.cli import BadInput
from posttrain.records.files import read_records
from posttrain.records.layouts import ANSWER_FIELDS, normalise

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
        ("weight", [-0.1, True, "1", float("inf"), 10**400], [0, 2.5], "a number from 0 to 1e15"),
        ("candidate", [-1, 0.5, False], [0, 12, 3.0], "a whole number from 0 to 1e15"),
        ("tokens", [-1, 0.5, True, 1e16], [0, 12], "a whole number from 0 to 1e15"),
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
        assert field not in ("candidate", "tokens") or isinstance(read[field], int)


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


@pytest.mark.parametrize("last_role", ["user", "tool"])
def test_a_conversation_to_train_on_ends_with_an_answer(last_role):
    messages = USER + ANSWER + [{"role": last_role, "content": "Hm"}]
    for kind in ("sft", "labels"):
        with pytest.raises(
            BadInput, match=f"field 'messages': the last message .* got {last_role}"
        ):
            normalise({"messages": messages}, kind)
        assert normalise({"messages": messages} | ANSWERS[kind], kind)["prompt"] == messages


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
    """Tools, which calls are read by, before answers, these before the prompt, values in the table's order."""
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
        ("tools", None),
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
    assert normalise(row, "labels")


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
    mended = {"name": "add", "arguments": {"a": 1}}
    answer[0]["tool_calls"] = [mended, {"name": "now", "id": 7}]
    read = normalise({"prompt": USER, "completion": answer}, "sft")["completion"][0]["tool_calls"]
    functions = [mended, {"name": "now", "arguments": {}}]
    assert read == [{"type": "function", "function": function} for function in functions]


@pytest.mark.parametrize(
    "content",
    [None, 5, ["a"], [{"type": "text", "text": "a"}, {"type": "image", "url": "b"}]],
    ids=["null", "number", "list", "picture"],
)
def test_what_a_message_says_is_text(content):
    """Null only beside a call; a picture would be lost in silence."""
    for calls in ([], [{"name": "add"}]):
        message = {"role": "assistant", "content": content, "tool_calls": calls}
        if content is None and calls:
            assert normalise({"prompt": "Hi", "completion": message}, "sft")
            continue
        with pytest.raises(BadInput, match="field 'completion': the content of a message must be"):
            normalise({"prompt": "Hi", "completion": message}, "sft")


def test_a_part_without_text_says_nothing():
    parts = [{"type": "text", "text": "Hi"}, {"type": "text"}]
    assert normalise({"prompt": {"role": "user", "content": parts}}, "prompts")["prompt"] == [
        {"role": "user", "content": "Hi"}
    ]


def test_tools_of_a_record():
    """None, an empty text and an empty list mean that there are none; each of others has a name."""
    for none in (None, "", "null", "[]", []):
        assert "tools" not in normalise(ROW | {"tools": none}, "sft")
    wrapped = [{"type": "function", "function": {"name": "add"}}]
    for given in (wrapped, [{"name": "add"}]):
        assert normalise(ROW | {"tools": given}, "sft")["tools"] == wrapped
    for bad in (
        [{"name": 5}],
        [{"function": {"name": None}}],
        [{"function": {}}],
        [{}],
        ["a"],
        "[",
    ):
        with pytest.raises(
            BadInput, match="field 'tools': expected a list of function definitions"
        ):
            normalise(ROW | {"tools": bad}, "sft")


def test_answers_of_other_kinds_are_left_out_and_named():
    """A row of UltraFeedback has a conversation beside its pair; what a stray column holds does not matter."""
    for stray in ("text", [{"from": "gpt", "value": "x"}], {"a": 1}, ["<think>hm</think>"]):
        unread = Counter()
        read = normalise(ROW | {"chosen": stray, "rejected": None}, "sft", unread)
        assert read == normalise(ROW, "sft") and unread == {("fields", "chosen"): 1}
    pair = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    for kind in ("pairs", "labels"):
        assert "completion" not in normalise(pair | {"completion": "stray"}, kind)
    both = ROW | {"label": True, "chosen": None, "rejected": None}
    assert "chosen" not in normalise(both, "labels"), "a table of pairs and labels"


def test_that_none_is_to_be_called():
    """Said by [] and by a record without tools; null for both, in a table, says nothing."""
    for said in ({"tools": []}, {"tools": "[]"}, {}):
        assert normalise({"prompt": "Hi", "call": None} | said, "prompts")["call"] is None
    for unsaid in ({"tools": None}, {"tools": ""}):
        assert "call" not in normalise({"prompt": "Hi", "call": None} | unsaid, "prompts")


def test_a_conversation_that_says_nothing_new_is_left_out():
    """Beside a prompt; for SFT only beside an answer, too."""
    other = [{"role": "user", "content": "Other?"}, {"role": "assistant", "content": "Other."}]
    for kind, answers in ANSWERS.items():
        read = normalise({"prompt": USER, "messages": other} | answers, kind)
        assert read == normalise({"prompt": USER} | answers, kind)


def test_a_conversation_beside_an_answer_ends_with_the_user():
    """Its last answer is not taken for the record's, which would be lost, nor for a pair's prompt."""
    whole = {"messages": USER + ANSWER}
    for kind in ("sft", "pairs"):
        with pytest.raises(BadInput, match="field 'prompt': the last message .* got assistant"):
            normalise(whole | ANSWERS[kind], kind)
    with pytest.raises(BadInput, match="field 'prompt' is missing"):
        normalise({"messages": ANSWER}, "sft")


def test_an_answer_is_the_assistants():
    for bad in (USER, ANSWER + ANSWER, USER + USER):
        with pytest.raises(BadInput, match="field 'completion': expected one assistant message"):
            normalise({"prompt": USER, "completion": bad}, "sft")


@pytest.mark.parametrize("score", [-0.1, 5.1, 6, "4", [4]])
def test_scores_from_which_a_label_is_made(score):
    """From 0 to 5, both included; null is no score."""
    for good in (0, 2.5, 5, None):
        assert normalise(ROW | {"scores": {"a": 1, "b": good}}, "labels")["scores"]["b"] == good
    with pytest.raises(BadInput, match="field 'scores': every score must be a number from 0 to 5"):
        normalise(ROW | {"scores": {"a": 1, "b": score}}, "labels")
    with pytest.raises(BadInput, match="field 'label' is missing"):
        normalise(ROW, "labels")


# ---- a system text in a column -------------------------------------------------------------------

SYSTEM = [{"role": "system", "content": "Answer in Latin."}]


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "prompt", [{"prompt": "What is 2+2?"}, {"prompt": USER}, {"messages": USER}]
)
def test_a_system_column_is_the_system_message(kind, column, prompt):
    row = prompt | ANSWERS[kind]
    read = normalise(row | {column: "Answer in Latin."}, kind)
    assert read["prompt"] == SYSTEM + USER and column not in read
    for nothing in (None, "", " "):
        assert normalise(row | {column: nothing}, kind)["prompt"] == USER
    for same in ("Answer in Latin.", " Answer in Latin.\n"):
        again = normalise(read | {column: same}, kind)
        assert again == read
    with pytest.raises(BadInput) as refused:
        normalise(read | {column: "Answer in Greek."}, kind)
    assert str(refused.value) == (
        f"field '{column}': 'Answer in Greek.' is another system text than the one that the record "
        "has already, 'Answer in Latin.'; keep one of them"
    )


def test_two_system_columns():
    row = {"prompt": USER, "system": "Answer in Latin."}
    assert (
        normalise(row | {"system_prompt": "Answer in Latin."}, "prompts")["prompt"] == SYSTEM + USER
    )
    with pytest.raises(BadInput, match="field 'system_prompt': 'Answer in Greek.' is another"):
        normalise(row | {"system_prompt": "Answer in Greek."}, "prompts")


def test_a_system_column_that_is_no_text_is_named():
    unread = Counter()
    row = {"prompt": USER, "system": {"os": "linux"}}
    assert normalise(row, "prompts", unread) == row
    assert unread == {("fields", "system"): 1}


def test_answers_that_repeat_the_prompt_with_or_without_the_system_column():
    whole = {"chosen": USER + ANSWER, "rejected": SYSTEM + USER + ANSWER}
    for prompt in ({"prompt": USER}, {"messages": USER}):
        read = normalise(prompt | whole | {"system": "Answer in Latin."}, "pairs")
        assert read["prompt"] == SYSTEM + USER and read["chosen"] == read["rejected"] == ANSWER
    same = dict.fromkeys(("chosen", "rejected"), USER + ANSWER)
    assert normalise(same | {"system": "Answer in Latin."}, "pairs")["prompt"] == SYSTEM + USER


@pytest.mark.parametrize("kind", ["candidates", "sft", "prompts"])
def test_the_system_text_of_a_candidate_stays_out_of_its_prompt(kind):
    """gen_candidates.py notes there under which text it was sampled."""
    row = {"prompt": USER, "completion": ANSWER, "system": "Be brief."}
    ours = row | {"candidate": 0, "generator": "runs/sft"}
    unread = Counter()
    assert normalise(ours, kind, unread) == ours and not unread
    assert normalise(row, kind)["prompt"][0]["content"] == "Be brief."
    prompt = normalise(ours | {"system_prompt": "Answer in Latin."}, kind)["prompt"]
    assert prompt == SYSTEM + USER


# ---- Alpaca --------------------------------------------------------------------------------------

ALPACA = {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"}
TRANSLATE = [{"role": "user", "content": "Translate.\n\nGuten Tag"}]
GOOD_DAY = [{"role": "assistant", "content": "Good day"}]


def test_an_alpaca_row():
    unread = Counter()
    read = normalise(ALPACA, "sft", unread)
    assert read == {"prompt": TRANSLATE, "completion": GOOD_DAY} and not unread
    assert normalise(ALPACA | {"label": True}, "labels")["completion"] == GOOD_DAY
    assert normalise(ALPACA, "prompts")["prompt"] == TRANSLATE
    assert normalise({**ALPACA, "candidate": 0}, "candidates")["completion"] == GOOD_DAY


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": " \n"}])
def test_an_alpaca_row_without_input(nothing):
    row = {"instruction": "What is 2+2?", "output": "It is 4."} | nothing
    assert normalise(row, "sft") == {"prompt": USER, "completion": ANSWER}


def test_an_input_alone_is_the_prompt():
    row = {"instruction": "", "input": "What is 2+2?", "output": "It is 4."}
    assert normalise(row, "sft") == {"prompt": USER, "completion": ANSWER}


def test_turns_before_an_alpaca_row():
    """LLaMA-Factory's: the system text stands before them."""
    row = ALPACA | {"history": [["What is 2+2?", "It is 4."]], "system": "Answer in Latin."}
    unread = Counter()
    read = normalise(row, "sft", unread)
    assert read == {"prompt": SYSTEM + USER + ANSWER + TRANSLATE, "completion": GOOD_DAY}
    assert not unread
    for none in (None, []):
        assert normalise(ALPACA | {"history": none}, "sft")["prompt"] == TRANSLATE


@pytest.mark.parametrize("history", ["Hi", {}, ["Hi"], [["Hi"]], [["Hi", None]], [["a", "b", "c"]]])
def test_turns_before_an_alpaca_row_are_pairs_of_texts(history):
    with pytest.raises(BadInput, match="field 'history': expected a list of .user, assistant."):
        normalise(ALPACA | {"history": history}, "sft")


@pytest.mark.parametrize("field", ["instruction", "input"])
def test_what_an_alpaca_row_says_is_text(field):
    with pytest.raises(BadInput, match=f"field '{field}': expected a text, got "):
        normalise(ALPACA | {field: ["Hi"]}, "sft")


def test_an_alpaca_row_without_an_answer():
    for row in ({"instruction": "Hi"}, ALPACA | {"output": None}):
        with pytest.raises(BadInput, match="field 'completion' is missing"):
            normalise(row, "sft")


def test_pairs_beside_an_instruction():
    row = {"instruction": "Translate.", "input": "Guten Tag", "chosen": "Good day"}
    read = normalise(row | {"rejected": "Hm"}, "pairs")
    assert (read["prompt"], read["chosen"]) == (TRANSLATE, GOOD_DAY) and "input" not in read


def test_an_instruction_is_no_prompt_where_there_is_another():
    """Fields that could change what is taught: they are named."""
    rows = [
        ({"prompt": USER, "completion": ANSWER}, "sft"),
        ({"messages": USER + ANSWER}, "sft"),
        ({"chosen": USER + ANSWER, "rejected": USER + ANSWER}, "pairs"),
    ]
    for row, kind in rows:
        unread = Counter()
        read = normalise(row | ALPACA | {"history": [["a", "b"]]}, kind, unread)
        assert read["prompt"] == USER and read[ANSWER_FIELDS[kind][0]] == ANSWER
        assert {key for _, key in unread} == {*ALPACA, "history"}
