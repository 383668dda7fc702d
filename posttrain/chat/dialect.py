"""What a chat template can write, and what has to be rewritten before it gets it.

A template is tried with short conversations whose every part is a word that occurs nowhere else
(a mark). Of the ways to hand it a feature (FEATURES) the first is taken with which no mark is
missing from the text; the first way of all is always to leave the messages as they are.

The same marks are then put into the shape of every real conversation (lost_in): a template may
know a system turn and tool calls, and still drop what is said beside a call.
"""

import hashlib
import json
from typing import NamedTuple

import jinja2

from posttrain.chat.thoughts import BLOCK_AT_END, EMPTY_THOUGHT

REFUSALS = (jinja2.TemplateError, TypeError)  # a template says no, or trips over what it gets
THOUGHT_NAMES = ("reasoning_content", "thinking", "reasoning")  # templates read one of these


class Chat(NamedTuple):
    """What a template is given."""

    messages: list
    tools: list | None = None


# ---- ways to hand something to a template --------------------------------------------------------


def as_it_is(chat):
    return chat


def text_in_parts(chat):
    """Every text as [{"type": "text", "text": ...}]: models that also see pictures want it so."""
    messages = []
    for message in chat.messages:
        parts = [{"type": "text", "text": message["content"]}]
        messages.append(message | {"content": parts})
    return Chat(messages, chat.tools)


def system_in_user_turn(chat):
    """The system turn's text before that of the user turn behind it (Gemma)."""
    roles = [message["role"] for message in chat.messages[:2]]
    if roles != ["system", "user"]:
        return chat
    system, user, *rest = chat.messages
    text = f"{system['content']}\n\n{user['content']}"
    return Chat([user | {"content": text}, *rest], chat.tools)


def tools_in_system_message(chat):
    """Tool definitions as JSON under the key `tools` of the system message (Phi-4-mini)."""
    if not chat.tools:
        return chat
    functions = [tool["function"] for tool in chat.tools]
    system, rest = _system_and_rest(chat.messages)
    system = system | {"tools": json.dumps(functions, ensure_ascii=False)}
    return Chat([system, *rest], None)


def tools_as_text(chat):
    """Tool definitions as text at the end of the system turn; one is added where there is none."""
    if not chat.tools:
        return chat
    lines = ["You may call these functions:"]
    for tool in chat.tools:
        lines.append(json.dumps(tool["function"], ensure_ascii=False))
    system, rest = _system_and_rest(chat.messages)
    parts = [system["content"], "\n".join(lines)]
    system = system | {"content": "\n\n".join(part for part in parts if part)}
    return Chat([system, *rest], None)


def calls_as_text(chat):
    """Tool calls as text behind what the assistant says, in the form of Qwen and Hermes."""
    if not any("tool_calls" in message for message in chat.messages):
        return chat
    messages = []
    for message in chat.messages:
        message = dict(message)
        texts = [message["content"]] if message["content"] else []
        for call in message.pop("tool_calls", []):
            function = json.dumps(call["function"], ensure_ascii=False)
            texts.append(f"<tool_call>\n{function}\n</tool_call>")
        messages.append(message | {"content": "\n".join(texts)})
    return Chat(messages, chat.tools)


def arguments_as_json(chat):
    """The arguments of calls as JSON text (DeepSeek V3, and OpenAI's protocol)."""
    messages = []
    for message in chat.messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                calls.append(call | {"function": call["function"] | {"arguments": arguments}})
            message = message | {"tool_calls": calls}
        messages.append(message)
    return Chat(messages, chat.tools)


def short_call_ids(chat):
    """Ids of calls as nine letters or digits, whatever they were (Mistral)."""
    return with_call_ids(chat, _short_id)


def call_ids_that_name_the_function(chat):
    """Ids of calls as functions.NAME:NUMBER: Kimi writes the function's name nowhere else."""
    return with_call_ids(chat, _naming_id)


def results_with_names(chat):
    """Each result of a tool with the name of that tool; OpenAI's have the id of the call alone."""
    waiting = []  # calls whose results are to come
    messages = []
    for message in chat.messages:
        waiting += message.get("tool_calls", [])
        if message["role"] == "tool" and waiting:
            call = waiting.pop(_answered(message, waiting))
            if not message.get("name"):
                message = message | {"name": call["function"]["name"]}
        messages.append(message)
    return Chat(messages, chat.tools)


def _answered(result, calls):
    """Position of the call that a result belongs to; the first of all where it does not say."""
    place = place_of_result(result, calls)
    return 0 if place is None else place


def place_of_result(result, calls):
    """Position of the call that a result names, by its id or else by its tool; None for none."""
    call_id = result.get("tool_call_id")
    if call_id is not None:
        return _place_in([call.get("id") for call in calls], call_id)
    return _place_in([call["function"]["name"] for call in calls], result.get("name"))


def _place_in(names, name):
    """Position of the first such name, or None."""
    return names.index(name) if name in names else None


def results_in_user_turns(chat):
    """The results of tools as text of a user turn, those in a row as one, with the turn behind."""
    messages = []
    for message in chat.messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            message = {"role": "user", "content": text, "is_result": True}
        previous = messages[-1] if messages else {}
        if message["role"] == "user" and previous.get("is_result"):
            text = f"{previous['content']}\n{message['content']}"
            messages[-1] = message | {"content": text}
        else:
            messages.append(message)
    for message in messages:
        message.pop("is_result", None)
    return Chat(messages, chat.tools)


def _system_and_rest(messages):
    """The system message, an empty one where there is none, and the other messages."""
    if messages[0]["role"] == "system":
        return messages[0], messages[1:]
    return {"role": "system", "content": ""}, messages


def with_call_ids(chat, new_id):
    """Calls with new ids, and the results of tools with those of their calls.

    new_id(call, number of the call in the conversation) -> id.
    """
    waiting = []  # calls whose results are to come
    new_ids = []  # theirs
    messages = []
    count = 0
    for message in chat.messages:
        message = dict(message)
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                renamed = new_id(call, count)
                count += 1
                waiting.append(call)
                new_ids.append(renamed)
                calls.append(call | {"id": renamed})
            message["tool_calls"] = calls
        if message["role"] == "tool" and waiting:
            position = _answered(message, waiting)
            waiting.pop(position)
            message["tool_call_id"] = new_ids.pop(position)
        messages.append(message)
    return Chat(messages, chat.tools)


def _short_id(call, number):
    text = f"{number} {call.get('id')}"
    return hashlib.sha256(text.encode()).hexdigest()[:9]


def _naming_id(call, number):
    return f"functions.{call['function']['name']}:{number}"


# ---- what a template is tried with ---------------------------------------------------------------

USER_MARK, ANSWER_MARK, SYSTEM_MARK = "Qusq", "Qanq", "Qsyq"
CALL_MARK, VALUE_MARK, RESULT_MARK = "qcaq", "Qvaq", "Qreq"
TOOL_MARK, FIELD_MARK = "qtoq", "qfiq"

SYSTEM = {"role": "system", "content": SYSTEM_MARK}
USER = {"role": "user", "content": USER_MARK}
ANSWER = {"role": "assistant", "content": ANSWER_MARK}
# Without an id: templates that need one do not say so before they meet a row that has none.
CALL = {"type": "function", "function": {"name": CALL_MARK, "arguments": {"q": VALUE_MARK}}}
# No model writes its arguments like this: such a template wants them as JSON text (Phi-4-mini).
PYTHON_ARGUMENTS = str(CALL["function"]["arguments"])
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CALLS_WITH_ID = CALLS | {"tool_calls": [CALL | {"id": "call_1"}]}
# Without a name: many rows have none, and templates that need one would refuse them.
RESULT = {"role": "tool", "content": RESULT_MARK}
FIELD = {"type": "string", "description": "q"}  # Command-R's template refuses a field without one
PARAMETERS = {"type": "object", "properties": {FIELD_MARK: FIELD}}
TOOL = {
    "type": "function",
    "function": {"name": TOOL_MARK, "description": "a tool", "parameters": PARAMETERS},
}


class Feature(NamedTuple):
    """Something that not every template knows, what it is tried with, and ways to hand it over."""

    chats: list  # of Chat
    marks: list  # words that must stand in the text of each
    ways: list  # functions Chat -> Chat, the first that works is taken


# In the order in which they are tried: what was decided for those above goes for those below.
FEATURES = {
    "text": Feature([Chat([USER])], [USER_MARK], [as_it_is, text_in_parts]),
    "system": Feature(
        # Mistral writes the system turn into the user turn that is the last of all messages.
        [Chat([SYSTEM, USER]), Chat([SYSTEM, USER, ANSWER])],
        [SYSTEM_MARK, USER_MARK],
        [as_it_is, system_in_user_turn],
    ),
    "tools": Feature(
        # Without the description: a model's own form may be short, such as get_weather(city).
        [Chat([USER], [TOOL]), Chat([SYSTEM, USER], [TOOL])],
        [TOOL_MARK, FIELD_MARK],
        [as_it_is, tools_in_system_message, tools_as_text],
    ),
    "calls": Feature(
        [Chat([USER, CALLS])],
        [CALL_MARK, VALUE_MARK],
        [
            as_it_is,
            short_call_ids,
            call_ids_that_name_the_function,
            arguments_as_json,
            calls_as_text,
        ],
    ),
    "results": Feature(
        [
            Chat([USER, CALLS, RESULT]),
            Chat([USER, CALLS, RESULT, ANSWER]),
            Chat([USER, CALLS_WITH_ID, RESULT]),
        ],
        [RESULT_MARK, VALUE_MARK],
        [as_it_is, results_with_names, results_in_user_turns],
    ),
}
# In the order in which they are carried out: a system turn has its tools before it moves.
CARRIED_OUT = ("calls", "results", "tools", "system", "text")


def rewritten(chat, changes):
    """A chat as its template gets it. changes: {feature: way}."""
    messages = [_without_blank_text(message) for message in chat.messages]
    messages = [_under_all_names(message) for message in messages]
    messages = results_in_order(messages)
    chat = Chat(messages, chat.tools)
    for feature in CARRIED_OUT:
        chat = changes[feature](chat)
    return chat


def results_in_order(messages):
    """Messages with the results of tools in the order of their calls.

    Most templates write no ids: the order alone says there which call a result belongs to. Results
    that do not all name a call of the turn before, by its id or by its tool, stay as they are.
    """
    ordered = []
    calls = []  # of the last turn
    results = []  # behind it
    for message in messages:
        if message["role"] == "tool":
            results.append(message)
            continue
        ordered += _in_order_of(calls, results)
        results = []
        calls = message.get("tool_calls", [])
        ordered.append(message)
    return ordered + _in_order_of(calls, results)


def _in_order_of(calls, results):
    """Results in the order of these calls, if each names one of its own."""
    places = [place_of_result(result, calls) for result in results]
    if None in places or len(set(places)) < len(places):
        return results
    return [results[places.index(place)] for place in sorted(places)]


def _without_blank_text(message):
    """A message that has nothing but white space beside its calls, without that.

    Templates that write either the text or the calls would write the white space.
    """
    is_blank = bool(message.get("tool_calls")) and not message["content"].strip()
    return message | {"content": ""} if is_blank else message


def _under_all_names(message):
    """A message whose thought stands under every name that templates read it by."""
    thought = message.get("reasoning_content")
    return message | dict.fromkeys(THOUGHT_NAMES, thought) if thought else message


_CHANGES = {}  # Writer.key: what changes_for has found


def changes_for(write):
    """{feature: the way to hand it over} of a template, a Writer; found by trying, once."""
    if write.key not in _CHANGES:
        changes = dict.fromkeys(FEATURES, as_it_is)
        for name, feature in FEATURES.items():
            changes[name] = _first_that_works(feature, name, changes, write)
        _CHANGES[write.key] = changes
    return _CHANGES[write.key]


def _first_that_works(feature, name, changes, write):
    """The first way with which no mark is missing; as it is, where none works."""
    for way in feature.ways:
        tried = changes | {name: way}
        if all(_shows(chat, feature.marks, tried, write) for chat in feature.chats):
            return way
    return as_it_is


def _shows(chat, marks, changes, write):
    """Do all marks stand in the text, and the arguments of calls not as Python prints them?"""
    try:
        text = write(rewritten(chat, changes))
    except REFUSALS:
        return False
    return all(mark in text for mark in marks) and PYTHON_ARGUMENTS not in text


_EMPTY_THOUGHTS = {}  # (Writer.key, role): what empty_thought has found


def empty_thought(changes, write, role):
    """What a template writes before an answer that has no thought; "" for nothing.

    role: of the message before the answer. Some templates (Kimi K2, DeepSeek V3.2) write it into
    the turn, and not into the prompt of a model that shall not think.
    """
    key = (write.key, role)
    if key not in _EMPTY_THOUGHTS:
        prompt = [USER, CALLS, RESULT] if role == "tool" else [USER]
        try:
            prompt_text = write(rewritten(Chat(prompt), changes), True)
            turn_text = write(rewritten(Chat([*prompt, ANSWER]), changes))
        except REFUSALS:
            prompt_text, turn_text = "", ""
        header = BLOCK_AT_END.sub("", prompt_text)
        before = ""
        if turn_text.startswith(header):
            before = turn_text[len(header) :].partition(ANSWER_MARK)[0]
        _EMPTY_THOUGHTS[key] = before if EMPTY_THOUGHT.fullmatch(before) else ""
    return _EMPTY_THOUGHTS[key]


# ---- what a template drops of a conversation -----------------------------------------------------

_LOST = {}  # (Writer.key, shape): what lost_in has found


def lost_in(chat, changes, write):
    """Which parts of a conversation its template would drop: ["a tool message", ...].

    Found with marks in the place of all texts, once for each shape of a conversation. Thoughts are
    not looked for: most templates leave those of earlier turns out, and mean to.
    """
    key = (write.key, shape_of(chat))
    if key not in _LOST:
        marked, names = _with_marks(chat)
        text = write(rewritten(marked, changes))
        missing = [name for mark, name in names.items() if mark not in text]
        for message in marked.messages:
            if _is_said_behind_its_call(message, text):
                missing.append("the order of text and tool call")
        _LOST[key] = list(dict.fromkeys(missing))
    return _LOST[key]


def _is_said_behind_its_call(message, text):
    """Does a text have the call of a message before what the message says first?"""
    if not message["content"] or not message.get("tool_calls"):
        return False
    call = message["tool_calls"][0]["function"]["name"]
    return text.rfind(message["content"]) > text.rfind(call) >= 0


def shape_of(chat):
    """What the parts are that a conversation has, without their texts."""
    messages = []
    for message in chat.messages:
        calls = [bool(call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        keys = [message["role"], *sorted(message), bool(message["content"].strip()), *calls]
        messages.append(tuple(keys))
    tools = []
    for tool in chat.tools or []:
        tools.append(bool(_fields_of(tool["function"])))
    return tuple(messages), tuple(tools)


def _with_marks(chat):
    """(a chat of the same shape with a mark in the place of each text, {mark: what that was})."""
    names = {}

    def mark(name):
        word = f"Q{len(names)}q"
        names[word] = name
        return word

    messages = []
    for message in chat.messages:
        message = dict(message)
        role = message["role"]
        has_calls = bool(message.get("tool_calls"))
        if message["content"].strip():
            beside = " beside a tool call" if has_calls else ""
            message["content"] = mark(f"the text of the role {role}{beside}")
        if has_calls:
            message["tool_calls"] = [_marked_call(call, mark) for call in message["tool_calls"]]
        messages.append(message)
    tools = [_marked_tool(tool, mark) for tool in chat.tools or []]
    return Chat(messages, tools or None), names


def _marked_call(call, mark):
    """A tool call with marks for its name and its arguments."""
    function = call["function"]
    name = mark("the name of a called tool")
    arguments = {}
    if function["arguments"]:
        arguments = {"q": mark("the arguments of a tool call")}
    return call | {"function": {"name": name, "arguments": arguments}}


def _marked_tool(tool, mark):
    """A tool definition with marks for its name and one of its fields."""
    function = dict(tool["function"])
    function["name"] = mark("a tool definition")
    if _fields_of(function):
        properties = {mark("a field of a tool"): FIELD}
        function["parameters"] = {"type": "object", "properties": properties}
    return tool | {"function": function}


def _fields_of(function):
    """The fields of a function's arguments."""
    return (function.get("parameters") or {}).get("properties")
