"""What a model wrote -> the message that it is.

A reply is kept so that training meets the text that was sampled, and verifiers can read it. Its
thought stands apart from what is shown. Tool calls stay in the text, which is where most templates
write them, too. They are kept in `tool_calls` where a template would write that text otherwise (the
channels of gpt-oss, for instance), or where only the tokenizer knows how to read them: some models
come with a response template, which transformers' parse_response goes by.
"""

import json
from typing import NamedTuple

from posttrain.chat.calls import Reading, message_calls, read_calls
from posttrain.chat.dialect import THOUGHT_NAMES
from posttrain.chat.encode import turn_texts
from posttrain.chat.template import render
from posttrain.chat.thoughts import USUAL, opened_thought, split_thought


def reply_message(text, thought=""):
    """The assistant message of a text, with its thought apart. thought: one that came by itself."""
    parts = split_thought(text)
    message = {"role": "assistant", "content": parts.visible}
    thoughts = [part for part in (thought, parts.thought) if part]
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    return message


def reply_to(tokenizer, prompt, tools, text, *, think=False):
    """The message of a text that was sampled behind a prompt; see above.

    text: without its stop token, and with the mark of a thought that the prompt has opened.
    """
    parsed = _parsed_by_tokenizer(tokenizer, prompt, tools, text, think=think)
    if parsed is not None and _is_unusual(parsed, text, tools):
        return _in_parts(reply_message(parsed.prose, parsed.thought), parsed.calls)
    message = reply_message(text)
    reading = _usual_reading(message["content"], tools)
    if not reading.calls or _is_written_alike(tokenizer, prompt, tools, message):
        return message
    return _in_parts(message | {"content": reading.prose}, reading.calls)


def reply_text(tokenizer, prompt, tools, text, *, think=False):
    """A sampled text as verifiers can read it: as it is, but for what they would not find.

    A thought then stands between <think> marks, and calls are JSON behind what is said.
    """
    parsed = _parsed_by_tokenizer(tokenizer, prompt, tools, text, think=think)
    if parsed is None or not _is_unusual(parsed, text, tools):
        return text
    calls = [json.dumps(call, ensure_ascii=False) for call in parsed.calls]
    shown = "\n".join(part for part in [parsed.prose, *calls] if part)
    return f"{USUAL.before}{parsed.thought}{USUAL.after}{shown}" if parsed.thought else shown


def _in_parts(message, calls):
    """A message with calls in `tool_calls`; without any it stays as it is."""
    if not calls:
        return message
    return message | {"tool_calls": [{"type": "function", "function": call} for call in calls]}


# ---- readings ------------------------------------------------------------------------------------


class Parsed(NamedTuple):
    """A text as the tokenizer's own response template reads it."""

    thought: str
    prose: str
    calls: list  # [{"name", "arguments"}, ...]


def _parsed_by_tokenizer(tokenizer, prompt, tools, text, *, think):
    """A text as the tokenizer's response template reads it; None without one, or if it cannot."""
    if getattr(tokenizer, "response_template", None) is None:
        return None
    prefix = render(tokenizer, prompt, tools, True, think=think)
    written = text.removeprefix(opened_thought(prefix))
    try:
        message = tokenizer.parse_response(written, prefix=prefix, tools=tools)
        reading = message_calls({"content": ""} | message, tools)
    except Exception:  # a text that does not fit: of many kinds
        return None
    thoughts = [message.get(name) or "" for name in THOUGHT_NAMES]
    return Parsed(max(thoughts).strip(), reading.prose, reading.calls)


def _is_unusual(parsed, text, tools):
    """Would verifiers miss what the tokenizer's response template finds: a thought, or calls?"""
    parts = split_thought(text)
    misses_a_thought = bool(parsed.thought) and not parts.thought
    return misses_a_thought or parsed.calls != _usual_reading(parts.visible, tools).calls


def _usual_reading(text, tools):
    """The calls of a text as verifiers read them; none where they are not well-formed."""
    try:
        return read_calls(text, tools)
    except ValueError:
        return Reading(text, [])


def _is_written_alike(tokenizer, prompt, tools, message):
    """Does the template write the content of a message as it stands, and nothing else?"""
    content = message["content"]
    plain = {"role": "assistant", "content": content}
    try:
        prompt_text, turn_text = turn_texts(tokenizer, [*prompt, plain], tools)
    except ValueError:
        return False
    return turn_text[len(prompt_text) :].strip().startswith(content.strip())
