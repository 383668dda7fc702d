"""The layouts that people have -> message lists under TRL's column names.

`normalise` reads one record, `as_messages` one of its fields. What is wrong with a record is one
line (BadInput) that names the field and what was expected; whoever reads the file puts file:line
before it.
"""

import json
import math

from posttrain.cli import BadInput

# The names of roles in the data -> those of OpenAI.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    # ShareGPT's
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
}

# kind of record -> the fields that hold an answer
ANSWER_FIELDS = {
    "prompts": (),
    "sft": ("completion",),
    "candidates": ("completion",),
    "labels": ("completion",),
    "pairs": ("chosen", "rejected"),
}


# ---- one field -> message list -------------------------------------------------------------------


def as_messages(value, role, field):
    """A string, one message or a list of messages -> message list with OpenAI's roles.

    role: who says a plain string. field: its name in the record, for BadInput.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not _is_list_of_objects(value) or not value:
        raise BadInput(f"field '{field}': expected a string or a non-empty list of messages")
    return [_as_message(message, field) for message in value]


def _as_message(message, field):
    """One message in OpenAI's or ShareGPT's layout -> in OpenAI's, with the keys that we use."""
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        calls = [calls]
    if role == "function_call":  # ShareGPT: the call stands where others have the text
        role = "assistant"
        calls = [content]
        content = ""
    calls = [_as_tool_call(call, field) for call in calls]
    if _is_text_in_parts(content):
        content = "".join(str(piece.get("text", "")) for piece in content)

    if not isinstance(role, str) or role not in ROLES:
        raise BadInput(
            f"field '{field}': role {str(role)[:40]!r}; expected system, user, assistant or tool"
        )
    is_only_calls = content is None and calls
    if not isinstance(content, str) and not is_only_calls:
        raise BadInput(
            f"field '{field}': the content of a message must be text, got {type(content).__name__}"
        )

    read = {"role": ROLES[role], "content": content or ""}
    for key in ("name", "tool_call_id"):
        if isinstance(message.get(key), str):
            read[key] = message[key]
    if calls:
        read["tool_calls"] = calls
    return read


def _is_list_of_objects(value):
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _is_text_in_parts(content):
    """Is this [{"type": "text", "text": ...}, ...], as models that also read pictures have it?"""
    return _is_list_of_objects(content) and all(piece.get("type") == "text" for piece in content)


def _as_tool_call(call, field):
    """{"name", "arguments"}, bare, wrapped or as JSON -> OpenAI's {"id", "type", "function"}."""
    try:
        if isinstance(call, str):
            call = json.loads(call)
        read = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        name = function["name"]
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise BadInput(
            f'field \'{field}\': a tool call must be {{"name": text, "arguments": object}}'
        ) from None
    read["type"] = "function"
    read["function"] = {"name": name, "arguments": arguments}
    return read


def _as_tools(definitions):
    """Tool definitions, a list or its JSON (ShareGPT) -> a list in OpenAI's form; None for none."""
    try:
        if isinstance(definitions, str):
            definitions = json.loads(definitions or "[]")
        tools = []
        for definition in definitions or []:
            is_wrapped = "function" in definition
            tool = definition if is_wrapped else {"type": "function", "function": definition}
            if not isinstance(tool["function"]["name"], str):
                raise ValueError
            tools.append(tool)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(
            "field 'tools': expected a list of function definitions with a name"
        ) from None
    return tools or None


# ---- one record ----------------------------------------------------------------------------------


def normalise(row, kind):
    """One record in any accepted layout -> message lists under TRL's column names.

    kind: "prompts", "sft", "candidates", "pairs" or "labels". The result has `prompt` and the
    fields of ANSWER_FIELDS[kind] as message lists, each answer being one assistant message; other
    fields are carried through. BadInput names the field and what was expected.
    """
    if kind == "labels" and "chosen" in row:
        kind = "pairs"  # KTO reads pairs, too
    answer_fields = ANSWER_FIELDS[kind]
    row = dict(row)
    if "response" in row:
        row["completion"] = row.pop("response")

    _split_conversation(row, kind)
    _read_answers(row, answer_fields)
    if kind == "pairs":
        _take_shared_prompt(row)
    _read_prompt(row)
    _cut_prompt_from_answers(row, answer_fields)
    _check_values(row)
    _check_null_labels(row)
    if kind == "labels":
        _check_label(row)
    if "tools" in row:
        row["tools"] = _as_tools(row["tools"])
    return row


def _split_conversation(row, kind):
    """A conversation in `messages` or `conversations` -> `prompt`, and `completion` from its end.

    It says nothing new, and is left out, where the record has a prompt (for SFT an answer, too).
    """
    conversation = row.pop("conversations", None)
    conversation = row.pop("messages", conversation)
    has_prompt = row.get("prompt") is not None
    has_completion = row.get("completion") is not None
    says_nothing_new = has_prompt and (has_completion or kind != "sft")
    if conversation is None or says_nothing_new:
        return

    messages = as_messages(conversation, "user", "messages")
    system = row.get("system")  # ShareGPT keeps it apart
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row.pop("system")})
    if messages[-1]["role"] == "assistant" and kind != "pairs" and not has_completion:
        row["completion"] = [messages.pop()]  # no use for "prompts": carried through
    row["prompt"] = messages or None


def _read_answers(row, answer_fields):
    """The answers as message lists; all of them must be there."""
    for field in answer_fields:
        if row.get(field) is None:
            raise BadInput(f"field '{field}' is missing")
        row[field] = as_messages(row[field], "assistant", field)


def _take_shared_prompt(row):
    """The prompt of a pair whose answers are whole conversations: all but their last messages."""
    before_chosen = row["chosen"][:-1]
    before_rejected = row["rejected"][:-1]
    if row.get("prompt") is None and before_chosen == before_rejected:
        row["prompt"] = before_chosen or None


def _read_prompt(row):
    """The prompt as message list, which must end where the assistant's turn begins."""
    if row.get("prompt") is None:
        raise BadInput(
            "field 'prompt' is missing (a string, or messages up to the user's last turn)"
        )
    row["prompt"] = as_messages(row["prompt"], "user", "prompt")
    last_role = row["prompt"][-1]["role"]
    if last_role not in ("user", "tool"):
        raise BadInput(
            f"field 'prompt': the last message must be a user or tool turn, got {last_role} (an "
            "answer stands in a field of its own)"
        )


def _cut_prompt_from_answers(row, answer_fields):
    """Each answer must be one message; of one that repeats the prompt the last message is kept."""
    for field in answer_fields:
        answer = row[field]
        if answer[:-1] == row["prompt"]:
            answer = answer[-1:]
        if len(answer) != 1 or answer[0]["role"] != "assistant":
            raise BadInput(f"field '{field}': expected one assistant message after the prompt")
        row[field] = answer


# ---- values of single fields ---------------------------------------------------------------------


def _is_text(value):
    return isinstance(value, str)


def _is_bool(value):
    return isinstance(value, bool)


def _is_object(value):
    return isinstance(value, dict)


def _is_number(value):
    """A finite number from 0 on. True and False are numbers to Python, but a mistake here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_count(value):
    return isinstance(value, int) and _is_number(value)


def _is_share(value):
    return _is_number(value) and value <= 1


# (field, whether a value is good, what was expected), in the order of the complaints
VALUE_CHECKS = (
    ("id", _is_text, "a string"),
    ("slice", _is_text, "a string"),
    ("label", _is_bool, "true or false"),
    ("scores", _is_object, "{criterion: 0-5}"),
    ("weight", _is_number, "a number >= 0"),
    ("candidate", _is_count, "a number >= 0"),
    ("tokens", _is_count, "a number >= 0"),
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
