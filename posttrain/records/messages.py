"""One field of a record -> a message list, and its tool definitions -> a list in OpenAI's form.

Everything that a message says is read, or its key is named: see Reading. A normalised message has
`role` and `content`, and what of this it needs:

    name, tool_call_id   of a result: the tool's name and the id of the call; texts
    tool_calls           [{"id", "type", "function": {"name", "arguments": object}}, ...]
    reasoning_content    what the assistant thought before it spoke; a text
    weight               0: this turn of the assistant's is never trained on
"""

from posttrain.cli import BadInput
from posttrain.records.jsonl import parse_json
from posttrain.records.nulls import clean_arguments, clean_function, is_nothing

# The names of roles in the data -> those of OpenAI.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's, before there were tools
    # ShareGPT's
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
}

# Where people keep what the assistant thought; the first is the name that we write.
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
# Where people say that a turn is not to be trained on; the first is the name that we write.
WEIGHT_KEYS = ("weight", "train", "training", "loss")
# Type of a part of a content -> where the text of such a part may stand.
TEXTS_OF_PARTS = {
    "text": ("text",),
    "thinking": ("thinking", "text", "content"),
    "reasoning": ("reasoning", "text", "content"),
}
THOUGHT_PARTS = ("thinking", "reasoning")

NO_ARGUMENTS = (None, "", "null")


class Reading:
    """What reading one record needs to know of its tools, and the keys that it has not read."""

    def __init__(self):
        self.schemas = {}  # name of a tool: schema of its parameters
        self.unread = set()  # (what they are of, key)

    def leave(self, what, rest):
        """Note the keys of `rest` that have a value: nothing reads them. what: they are of this."""
        for key, value in rest.items():
            if not is_nothing(value):
                self.unread.add((what, key))


def _take(rest, *keys):
    """Remove the first of these keys that is not null -> its value; None without one."""
    for key in keys:
        if rest.get(key) is not None:
            return rest.pop(key)
    return None


# ---- messages ------------------------------------------------------------------------------------


def as_messages(value, role, field, reading=None):
    """A string, one message or a list of messages -> message list with OpenAI's roles.

    role: who says a plain string. field: its name in the record, for BadInput. reading: of the
    record; it notes the keys that nothing reads.
    """
    reading = reading or Reading()
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not _is_list_of_objects(value) or not value:
        raise BadInput(f"field '{field}': expected a string or a non-empty list of messages")
    return [_as_message(message, field, reading) for message in value]


def _is_list_of_objects(value):
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _as_message(message, field, reading):
    """One message in OpenAI's or ShareGPT's layout -> in OpenAI's, with the keys that we use."""
    rest = dict(message)  # what is read is taken out
    role = _take(rest, "role", "from")
    content = _take(rest, "content", "value")
    if role == "function_call":  # ShareGPT: the call stands where others have the text
        role = "assistant"
        rest["tool_calls"] = _list_of_calls(content) or [content]
        content = ""
    if not isinstance(role, str) or role not in ROLES:
        raise BadInput(
            f"field '{field}': role {str(role)[:40]!r}; expected system, user, assistant or tool"
        )
    role = ROLES[role]
    is_assistant = role == "assistant"

    thought = ""
    calls = []
    if is_assistant:
        content, thought = _split_thought(content, reading)
        thought = _take_thought(rest, thought)
        calls = _take_calls(rest, field, reading)
    content = _join_text(content, reading)
    is_only_calls = content is None and calls
    if not isinstance(content, str) and not is_only_calls:
        raise BadInput(
            f"field '{field}': the content of a message must be text, got {type(content).__name__} "
            f"({role}); {_remedy_of_content(content, role)}"
        )

    read = {"role": role, "content": content or ""}
    _take_names(rest, read)
    if thought:
        read["reasoning_content"] = thought
    if calls:
        read["tool_calls"] = calls
    if _take_weight(rest, field) == 0 and is_assistant:
        read["weight"] = 0
    reading.leave("keys of messages", rest)
    return read


def _take_names(rest, read):
    """Move what names a speaker or a tool from `rest` into the message `read`.

    Hardly a template writes who speaks: the name of a user, or of an example in a system turn,
    stands before the text.
    """
    if read["role"] == "tool":
        for key in ("name", "tool_call_id"):
            if rest.get(key) and isinstance(rest[key], str):
                read[key] = rest.pop(key)
    elif read["role"] != "assistant" and isinstance(rest.get("name"), str):
        name = rest.pop("name").strip()
        if name and name.lower() not in ROLES:
            read["content"] = f"{name}: {read['content']}"


# ---- the text of a message -----------------------------------------------------------------------


def _remedy_of_content(content, role):
    """What to do about a content that is no text."""
    if role == "tool":
        return "write what a tool returns as a text, such as its JSON"
    if isinstance(content, list):
        kinds = [part.get("type") for part in content if isinstance(part, dict)]
        if "tool_use" in kinds or "tool_result" in kinds:  # Anthropic's
            return "write calls as 'tool_calls' and results as messages of the role tool"
        return "only parts of type text are read: leave out rows with pictures or sound"
    return "leave out turns that say nothing"


def _join_text(content, reading):
    """The text of [{"type": "text", "text": ...}, ...], as models that also read pictures have it.

    Any other content is returned as it is.
    """
    if not _is_list_of_objects(content):
        return content
    if not all(part.get("type") == "text" for part in content):
        return content
    texts = [_text_of_part(part, reading) for part in content]
    return "".join(texts) if None not in texts else content


def _text_of_part(part, reading):
    """The text of a part; "" where there is none, None where it is no text."""
    rest = dict(part)
    text = _take(rest, *TEXTS_OF_PARTS[rest.pop("type")])
    if text is None:
        text = ""
    text = _join_text(text, reading)  # Mistral's thoughts are lists of parts themselves
    reading.leave("keys of messages", rest)
    return text if isinstance(text, str) else None


def _split_thought(content, reading):
    """(content without the parts that are thoughts, the text of those)."""
    if not _is_list_of_objects(content):
        return content, ""
    spoken = []
    thoughts = []
    for part in content:
        text = None
        if part.get("type") in THOUGHT_PARTS:
            text = _text_of_part(part, reading)
        if text is None:
            spoken.append(part)
        else:
            thoughts.append(text)
    return spoken, "".join(thoughts)


def _take_thought(rest, thought):
    """What the assistant thought, from its parts (thought) or else from a key; "" for nothing.

    A key that says something else, or no text, is left where it is.
    """
    for key in THOUGHT_KEYS:
        text = rest.get(key)
        if isinstance(text, str) and text in ("", thought):
            del rest[key]
        elif isinstance(text, str) and not thought:
            thought = rest.pop(key)
    return thought if thought.strip() else ""


def _take_weight(rest, field):
    """The weight of a message, 0 or 1; BadInput for anything else, and for two that differ."""
    weights = {}
    for key in WEIGHT_KEYS:
        value = _take(rest, key)
        if value is None:
            continue
        if not isinstance(value, int | float) or value not in (0, 1):
            raise BadInput(
                f"field '{field}': the '{key}' of a message must be 0 (not trained on) or 1, got "
                f"{str(value)[:40]!r}; the place for fractions is the weight of the whole row"
            )
        weights[key] = int(value)
    if len(set(weights.values())) > 1:
        names = " and ".join(f"'{key}'" for key in weights)
        raise BadInput(f"field '{field}': {names} of a message contradict each other; keep one")
    return min(weights.values(), default=1)


# ---- tool calls ----------------------------------------------------------------------------------


def _take_calls(rest, field, reading):
    """The tool calls of an assistant's message, also from OpenAI's old key `function_call`."""
    calls = _list_of_calls(rest.pop("tool_calls", None))
    calls = [_as_tool_call(call, field, reading) for call in calls]
    old = rest.pop("function_call", None)
    if is_nothing(old):
        return calls
    old = _as_tool_call(old, field, reading)
    functions = [call["function"] for call in calls]
    if functions and functions != [old["function"]]:
        raise BadInput(
            f"field '{field}': a message has different calls in 'tool_calls' and 'function_call'; "
            "keep one of them"
        )
    return calls or [old]


def _list_of_calls(calls):
    """Calls as a list: they may be one alone, or the JSON of either."""
    if is_nothing(calls):
        return []
    if isinstance(calls, str):
        try:
            calls = parse_json(calls)
        except (ValueError, RecursionError):
            pass  # a text that is no call is refused where calls are read
    return calls if isinstance(calls, list) else [calls]


def _as_tool_call(call, field, reading):
    """{"name", "arguments"}, bare, wrapped or as JSON -> OpenAI's {"id", "type", "function"}."""
    try:
        rest = _object_of(call)
        rest.pop("type", None)
        read = {"id": rest.pop("id")} if isinstance(rest.get("id"), str) else {}
        function = _take(rest, "function")
        function = rest if function is None else _object_of(function)
        name = _take(function, "name")
        arguments = _take(function, "arguments")
        arguments = {} if arguments in NO_ARGUMENTS else _object_of(arguments)
        if not isinstance(name, str):
            raise ValueError
    except (ValueError, RecursionError):
        raise BadInput(
            f'field \'{field}\': a tool call must be {{"name": text, "arguments": object}}, got '
            f"{str(call)[:80]!r}; mend it or leave the row out"
        ) from None
    reading.leave("keys of tool calls", rest | function)
    arguments = clean_arguments(arguments, reading.schemas.get(name))
    read["type"] = "function"
    read["function"] = {"name": name, "arguments": arguments}
    return read


def _object_of(value):
    """A copy of an object, which may stand there as JSON; ValueError for anything else."""
    if isinstance(value, str):
        value = parse_json(value)
    if not isinstance(value, dict):
        raise ValueError
    return dict(value)


# ---- tool definitions ----------------------------------------------------------------------------


def as_tools(definitions, reading):
    """Tool definitions, a list or its JSON (ShareGPT) -> a list in OpenAI's form; None for none.

    reading: learns the schemas of the tools, which tell meant nulls of arguments from a table's.
    """
    try:
        if isinstance(definitions, str):
            definitions = parse_json(definitions or "[]")
        tools = [_as_tool(definition, reading) for definition in definitions or []]
    except (ValueError, TypeError, RecursionError):
        raise BadInput(
            "field 'tools': expected a list of function definitions with a name"
        ) from None
    for tool in tools:
        function = tool["function"]
        reading.schemas[function["name"]] = function.get("parameters")
    return tools or None


def _as_tool(definition, reading):
    """A function's definition, bare or wrapped -> {"type": "function", "function": ...}."""
    rest = _object_of(definition)
    kind = _take(rest, "type")
    function = _take(rest, "function")
    if function is None:
        function = rest
    else:
        function = _object_of(function)
        reading.leave("keys of tool definitions", rest)
    if not isinstance(function.get("name"), str):
        raise ValueError
    return {"type": kind or "function", "function": clean_function(function)}
