"""The layouts that people have -> message lists under TRL's column names.

`normalise` reads one record; messages.py has what it makes of one field. What is wrong with a
record is one line (BadInput) that names the field and what was expected; whoever reads the file
puts file:line before it. What nothing reads is named, too: see normalise.
"""

from posttrain.cli import BadInput
from posttrain.records.messages import THOUGHT_KEYS, Reading, as_messages, as_tools
from posttrain.records.nulls import clean_arguments, without_null_keys

# kind of record -> the fields that hold an answer
ANSWER_FIELDS = {
    "prompts": (),
    "sft": ("completion",),
    "candidates": ("completion",),
    "labels": ("completion",),
    "pairs": ("chosen", "rejected"),
}


# Kinds of records that a model is trained on.
TRAINING_KINDS = ("sft", "labels", "pairs")

# Fields with answers. Those of other kinds are named and left out of what is trained on: a row of
# UltraFeedback, for instance, has a conversation for SFT beside its pair.
ALL_ANSWER_FIELDS = ("completion", "chosen", "rejected")

# Columns with a system text. Beside `generator` and `candidate` the first is gen_candidates.py's:
# the text under which an answer was sampled, which stays out of the prompt on purpose.
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")

# Fields that could change what is taught, and that no training reads: they are named.
UNUSED_IN_TRAINING = (
    *THOUGHT_KEYS,
    *("conversations", "response", "instruction", "input", "output", "history"),
    *("context", "documents"),
    *("image", "images", "audio", "audios", "video", "videos"),
    *("functions", "tool_choice", "chat_template_kwargs", "instructions"),
    *("train", "loss_mask", "train_mask"),
)

HISTORY_EXPECTED = "field 'history': expected a list of [user, assistant] pairs of texts"

# What a verifier needs. Null is the same as a field that is absent, but for `call`: no call.
VERIFIER_FIELDS = ("answer", "sql", "constraints", "expected", "tests", "entry_point", "evidence")


# ---- one record ----------------------------------------------------------------------------------


def normalise(row, kind, unread=None):
    """One record in any accepted layout -> message lists under TRL's column names.

    kind: "prompts", "sft", "candidates", "pairs" or "labels". The result has `prompt` and the
    fields of ANSWER_FIELDS[kind] as message lists, each answer being one assistant message; other
    fields are carried through. BadInput names the field and what was expected.

    unread: a Counter of (what they are of, key) over records, to which the keys are added that
    nothing reads; those inside messages, calls and tools are then left out.
    """
    if kind == "labels" and row.get("chosen") is not None:
        kind = "pairs"  # KTO reads pairs, too
    answer_fields = ANSWER_FIELDS[kind]
    row = dict(row)
    reading = Reading()
    _rename_fields(row)
    _read_alpaca(row)
    _read_tools(row, reading)
    _split_conversation(row, kind, reading)
    if kind in ("sft", "labels"):
        _take_thought_column(row)
    _read_answers(row, answer_fields, reading)
    if kind == "pairs":
        _take_shared_prompt(row)
    _read_prompt(row, reading)
    prompt_of_record = row["prompt"]
    _add_system(row, reading)
    for field in answer_fields:
        row[field] = _cut_prompt(row[field], [prompt_of_record, row["prompt"]], field)
    _check_values(row)
    _check_null_labels(row)
    if kind == "labels":
        _check_label(row)
    _clean_verifier_fields(row, reading)

    if kind in TRAINING_KINDS:
        for field in ALL_ANSWER_FIELDS:
            if field in row and field not in answer_fields:
                reading.leave("fields", {field: row.pop(field)})
        unused = UNUSED_IN_TRAINING + (("label",) if kind == "sft" else ())
        reading.leave("fields", {field: row.get(field) for field in unused})
    if unread is not None:
        unread.update(reading.unread)
    return row


def _rename_fields(row):
    """Other names of columns -> ours, where ours has no value."""
    if row.get("completion") is None and "response" in row:
        row["completion"] = row.pop("response")
    if row.get("messages") is None and "conversations" in row:
        row["messages"] = row.pop("conversations")
    if row.get("tools") is None and _are_functions(row.get("functions")):
        row["tools"] = row.pop("functions")  # OpenAI's name, before there were tools


def _read_alpaca(row):
    """Alpaca's `instruction`, `input` and `output` -> `prompt` and `completion`.

    Beside them may stand the turns before, in LLaMA-Factory's `history`. Nothing is read of these
    fields where the record has its prompt in another place.
    """
    if row.get("instruction") is None or _has_prompt(row):
        return
    texts = []
    for field in ("instruction", "input"):
        text = row.pop(field, None)
        if not isinstance(text, str | None):
            raise BadInput(f"field '{field}': expected a text, got {str(text)[:40]!r}")
        if text and text.strip():
            texts.append(text)
    history = _read_history(row.pop("history", None))
    row["prompt"] = [*history, {"role": "user", "content": "\n\n".join(texts)}]
    if row.get("completion") is None and "output" in row:
        row["completion"] = row.pop("output")


def _has_prompt(row):
    """Is there a prompt, a conversation, or a pair of answers that are whole conversations?"""
    if row.get("prompt") is not None or row.get("messages") is not None:
        return True
    chosen = row.get("chosen")
    return isinstance(chosen, list) and len(chosen) > 1


def _read_history(pairs):
    """[[what the user said, what the assistant said], ...] -> message list; [] for none."""
    if not isinstance(pairs, list | None):
        raise BadInput(HISTORY_EXPECTED)
    messages = []
    for pair in pairs or []:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise BadInput(HISTORY_EXPECTED)
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    return messages


def _are_functions(definitions):
    """Is this a list of functions' definitions, as tools are?"""
    if not isinstance(definitions, list) or not definitions:
        return False
    return all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in definitions
    )


def _read_tools(row, reading):
    """The tool definitions; a record without any has no field for them.

    Where a table has null for tools and call alike, that none is to be called is no demand.
    """
    if "tools" not in row:
        return
    definitions = row["tools"]
    if definitions in (None, "", "null") and row.get("call") is None:
        row.pop("call", None)
    row["tools"] = as_tools(definitions, reading)
    if row["tools"] is None:
        del row["tools"]


def _split_conversation(row, kind, reading):
    """A conversation in `messages` -> `prompt`, and `completion` from its end.

    It says nothing new, and is left out, where the record has a prompt (for SFT an answer, too).
    """
    conversation = row.pop("messages", None)
    has_prompt = row.get("prompt") is not None
    has_completion = row.get("completion") is not None
    says_nothing_new = has_prompt and (has_completion or kind != "sft")
    if conversation is None or says_nothing_new:
        return

    messages = as_messages(conversation, "user", "messages", reading)
    last_role = messages[-1]["role"]
    if kind in ("sft", "labels") and last_role != "assistant" and not has_completion:
        raise BadInput(
            f"field 'messages': the last message must be the assistant's answer, got {last_role}; "
            "cut off what comes after the last answer"
        )
    if messages[-1]["role"] == "assistant" and kind != "pairs" and not has_completion:
        row["completion"] = [messages.pop()]  # no use for "prompts": carried through
    row["prompt"] = messages or None


def _take_thought_column(row):
    """What the assistant thought, from a column beside a plain completion into its message."""
    if not isinstance(row.get("completion"), str):
        return
    message = {"role": "assistant", "content": row["completion"]}
    for key in THOUGHT_KEYS:
        if isinstance(row.get(key), str):
            message[key] = row.pop(key)
    row["completion"] = [message]


def _read_answers(row, answer_fields, reading):
    """The answers as message lists; all of them must be there."""
    for field in answer_fields:
        if row.get(field) is None:
            raise BadInput(f"field '{field}' is missing")
        row[field] = as_messages(row[field], "assistant", field, reading)


def _take_shared_prompt(row):
    """The prompt of a pair whose answers are whole conversations: all but their last messages."""
    before_chosen = row["chosen"][:-1]
    before_rejected = row["rejected"][:-1]
    if row.get("prompt") is None and before_chosen == before_rejected:
        row["prompt"] = before_chosen or None


def _read_prompt(row, reading):
    """The prompt as message list, which must end where the assistant's turn begins."""
    if row.get("prompt") is None:
        raise BadInput(
            "field 'prompt' is missing (a string, or messages up to the user's last turn)"
        )
    row["prompt"] = as_messages(row["prompt"], "user", "prompt", reading)
    last_role = row["prompt"][-1]["role"]
    if last_role not in ("user", "tool"):
        raise BadInput(
            f"field 'prompt': the last message must be a user or tool turn, got {last_role} (an "
            "answer stands in a field of its own)"
        )


def _add_system(row, reading):
    """A system text in a column of its own -> the prompt's system message.

    BadInput when the record has another system text already.
    """
    is_candidate = "generator" in row and "candidate" in row
    for field in SYSTEM_FIELDS[1:] if is_candidate else SYSTEM_FIELDS:
        text = row.get(field)
        if not isinstance(text, str):
            reading.leave("fields", {field: text})
            continue
        del row[field]
        if not text.strip():
            continue
        texts = [turn["content"] for turn in row["prompt"] if turn["role"] == "system"]
        if not texts:
            row["prompt"] = [{"role": "system", "content": text}, *row["prompt"]]
        elif text.strip() not in [other.strip() for other in texts]:
            raise BadInput(
                f"field '{field}': {text[:40]!r} is another system text than the one that the "
                f"record has already, {texts[0][:40]!r}; keep one of them"
            )


def _cut_prompt(answer, prompts, field):
    """An answer that is one message; of one that repeats the prompt the last message is kept.

    prompts: the prompt with and without the system text of a column.
    """
    if answer[:-1] in prompts:
        answer = answer[-1:]
    if len(answer) != 1 or answer[0]["role"] != "assistant":
        raise BadInput(f"field '{field}': expected one assistant message after the prompt")
    return answer


def _clean_verifier_fields(row, reading):
    """Take out the nulls that a table has put into what verifiers need."""
    for field in VERIFIER_FIELDS:
        if row.get(field) is None:
            row.pop(field, None)
    if isinstance(row.get("constraints"), list):
        row["constraints"] = without_null_keys(row["constraints"])
    if isinstance(row.get("sql"), dict):  # the rows of a result may well have nulls in them
        row["sql"] = {key: value for key, value in row["sql"].items() if value is not None}
    if "call" in row:
        row["call"] = _clean_calls(row["call"], reading)


def _clean_calls(call, reading):
    """What a verifier expects to be called (verify/calls.py), without a table's nulls."""
    if isinstance(call, list):
        return [_clean_calls(entry, reading) for entry in call]
    if not isinstance(call, dict):
        return call
    if call.get("in_order") is not None:  # beside plain calls in other rows of the table
        call = {key: value for key, value in call.items() if value is not None}
        return call | {"in_order": _clean_calls(call["in_order"], reading)}
    return _clean_call(call, reading)


def _clean_call(call, reading):
    """One expected call without a table's nulls; null arguments are none."""
    name = call.get("name")
    schema = reading.schemas.get(name) if isinstance(name, str) else None
    cleaned = {key: value for key, value in call.items() if value is not None}
    if "arguments" in call:
        arguments = call["arguments"]
        cleaned["arguments"] = {} if arguments is None else clean_arguments(arguments, schema)
    if isinstance(call.get("accepted"), dict):
        cleaned["accepted"] = {}
        for key, values in call["accepted"].items():
            if isinstance(values, list):
                values = [clean_arguments({key: value}, schema).get(key) for value in values]
            if values is not None:
                cleaned["accepted"][key] = values
    return cleaned


# ---- values of single fields ---------------------------------------------------------------------


def _is_text(value):
    return isinstance(value, str)


def _is_bool(value):
    return isinstance(value, bool)


def _is_object(value):
    return isinstance(value, dict)


def _is_number(value):
    """A number from 0 to LARGEST. True and False are numbers to Python, but a mistake here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_count(value):
    """A whole number, which tables may write as 3.0."""
    return _is_number(value) and value == int(value)


def _is_share(value):
    return _is_number(value) and value <= 1


LARGEST = 1e15  # of a number: sums of larger ones would lose their digits
A_NUMBER = "a number from 0 to 1e15"
A_COUNT = "a whole number from 0 to 1e15"

# (field, whether a value is good, what was expected), in the order of the complaints
VALUE_CHECKS = (
    ("id", _is_text, "a string"),
    ("slice", _is_text, "a string"),
    ("label", _is_bool, "true or false"),
    ("scores", _is_object, "{criterion: 0-5}"),
    ("weight", _is_number, A_NUMBER),
    ("candidate", _is_count, A_COUNT),
    ("tokens", _is_count, A_COUNT),
    ("p", _is_share, "a number from 0 to 1"),
)


def _check_values(row):
    """Check the fields of VALUE_CHECKS. Null is the same as a field that is absent."""
    if isinstance(row.get("id"), int):
        row["id"] = str(row["id"])
    for field, is_good, expected in VALUE_CHECKS:
        value = row.get(field)
        if value is None:
            row.pop(field, None)
        elif not is_good(value):
            raise BadInput(f"field '{field}': expected {expected}, got {str(value)[:40]!r}")
        elif is_good is _is_count:
            row[field] = int(value)


def _check_null_labels(row):
    """Labels of the two answers of a pair. Null means "leave this answer out", so it stays."""
    for field in ("label_chosen", "label_rejected"):
        value = row.get(field)
        if value is not None and not _is_bool(value):
            raise BadInput(
                f"field '{field}': expected true, false or null, got {str(value)[:40]!r}"
            )


def _check_label(row):
    """An answer for KTO has a label, or scores from which one is made."""
    for score in row.get("scores", {}).values():
        is_in_range = isinstance(score, int | float) and 0 <= score <= 5
        if score is not None and not is_in_range:
            raise BadInput("field 'scores': every score must be a number from 0 to 5, or null")
    if "label" not in row and "scores" not in row:
        raise BadInput("field 'label' is missing (true or false; or 'scores' {criterion: 0-5})")
