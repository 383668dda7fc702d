"""Thoughts: what a reasoning model writes before its answer, apart from what a person is shown.

Models mark a thought in ways of their own. Three kinds are read here:

    <think> ... </think> answer          a pair of marks in front of the answer (PAIRS)
    ... </think> answer                  the same, where the prompt has opened the thought already
    <|channel|>analysis<|message|> ...   a turn in several parts, each with a header (gpt-oss, Muse)

A thought that never closes has used up the tokens that the answer was for: the visible part is then
empty. Verifiers, filters, judges and the gate see the visible part alone.
"""

import re
from typing import NamedTuple


class Pair(NamedTuple):
    """The marks around a thought."""

    opening: str
    closing: str
    # As they are written, line breaks included, where a template cannot write the thought itself.
    before: str
    after: str
    # A mark that ends the thought too, and is no part of it.
    call: str = ""


# The first whose marks are tokens of the tokenizer is the one that a thought is written with. To
# add a pair, add a line.
PAIRS = (
    Pair("<|channel>thought", "<channel|>", "<|channel>thought\n", "\n<channel|>"),
    Pair("[THINK]", "[/THINK]", "[THINK]", "[/THINK]"),
    Pair("<|START_THINKING|>", "<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
    Pair("◁think▷", "◁/think▷", "◁think▷", "◁/think▷"),
    Pair("<seed:think>", "</seed:think>", "<seed:think>", "</seed:think>"),
    Pair("<think>", "</think>", "<think>\n", "\n</think>\n\n"),
    Pair("<thought>", "</thought>", "<thought>\n", "\n</thought>\n\n"),
    Pair("<longcat_think>", "</longcat_think>", "<longcat_think>\n", "\n</longcat_think>\n"),
    # Apertus calls tools from within its thought, which stays open.
    Pair(
        "<|inner_prefix|>",
        "<|inner_suffix|>",
        "<|inner_prefix|>",
        "<|inner_suffix|>",
        call="<|tools_prefix|>",
    ),
    # Solar Open writes its thought as a turn of its own; <|end|> alone closes any turn.
    Pair(
        "<|think|>",
        "<|end|><|begin|>assistant",
        "<|think|>",
        "<|end|><|begin|>assistant",
    ),
    Pair("<|thought_start|>", "<|thought_end|>", "<|thought_start|>\n", "\n<|thought_end|>\n"),
    Pair(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        "<|begin_of_thought|>\n\n",
        "\n\n<|end_of_thought|>\n\n",
    ),
)
USUAL = PAIRS[5]

# Marks around what is shown, which a model writes behind its thought (Command R7B and A, Solar,
# OpenThoughts).
ANSWER_MARKS = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|START_TEXT|>", "<|END_TEXT|>"),
    ("<|content|>", "<|end|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
OPENED_BY_PROMPT = "<|START_RESPONSE|>"  # Command's prompt may end with it
ANSWER_OPENINGS = tuple(opening for opening, _ in ANSWER_MARKS)
# The same in plain words (Granite 3.3 and ERNIE, Hunyuan). Only behind a thought, and not in data
# that is trained on: elsewhere they may be a form that was asked for.
ANSWER_WORDS = (("<response>", "</response>"), ("<answer>", "</answer>"))


class Parts(NamedTuple):
    """A text that a model has written, in two parts."""

    thought: str  # "" where there is none
    visible: str  # what a person is shown; "" while the thought is not closed


def split_thought(text):
    """The thought at the start of a model's text, and what a person is shown of the rest."""
    parts = without_thought_marks(text)
    marks = ANSWER_MARKS
    if text.removesuffix(parts.visible).rstrip().endswith(USUAL.closing):
        marks += ANSWER_WORDS
    return Parts(parts.thought, _without_answer_marks(parts.visible, marks))


def _without_answer_marks(text, marks):
    """A text without the marks around the whole of it.

    The closing one may be cut off, and the opening one stand in the prompt.
    """
    whole = text.strip()
    for opening, closing in marks:
        begins = whole.startswith(opening)
        begins_in_prompt = opening == OPENED_BY_PROMPT and opening not in whole
        if begins or (begins_in_prompt and whole.endswith(closing)):
            shown = whole.removeprefix(opening).removesuffix(closing)
            return text if closing in shown else shown.strip()
    return text


def without_thought_marks(text):
    """The thought at the start of a model's text, and all that is left when it is taken away."""
    if "<|message|>" in text:
        return _split_channels(text)
    thoughts = []
    rest = text
    while True:
        pair = _pair_at_start(rest)
        if pair is None:
            break
        # A thought that is never closed takes all that is left: there is no answer.
        body = rest.lstrip().removeprefix(pair.opening)
        thought, _, rest = body.partition(pair.closing)
        if pair.call and pair.call in thought:
            thought, call, rest = body.partition(pair.call)
            rest = call + rest
        thoughts.append(thought.strip())
        rest = rest.lstrip()
    if not thoughts and text.lstrip().startswith(ANSWER_OPENINGS):
        return Parts("", text)  # Solar Open closes an answer as it closes a thought
    if not thoughts:
        for pair in PAIRS:
            before, closing, after = text.partition(pair.closing)
            if closing and pair.opening not in before:  # the prompt has opened the thought
                return Parts(before.strip(), after.lstrip())
        return Parts("", text)
    return Parts("\n".join(thought for thought in thoughts if thought), rest)


def visible(text):
    """What a person is shown of a model's text: all but its thought."""
    return split_thought(text).visible


def _pair_at_start(text):
    """The marks of the thought that a text begins with, or None."""
    start = text.lstrip()
    for pair in PAIRS:
        if start.startswith(pair.opening):
            return pair
    return None


# ---- turns in several parts ----------------------------------------------------------------------

# <|start|>assistant HEADER <|message|> BODY, ended by one of these or by the next <|start|>.
PART_ENDS = re.compile(r"<\|(?:end|eom|eot|return)\|>")
THOUGHT_HEADERS = re.compile(r"<\|channel\|>analysis\b|\bto=self\b")
CALL_HEADERS = re.compile(r"\bto=(?!user\b|self\b)")


def _split_channels(text):
    """The parts of a turn with headers; a part that calls a tool stays as it is, header and all."""
    thoughts = []
    shown = []
    for part in re.split(r"<\|start\|>assistant", text):
        header, has_body, body = part.partition("<|message|>")
        body = PART_ENDS.sub("", body)
        if CALL_HEADERS.search(header):
            shown.append(part)
        elif THOUGHT_HEADERS.search(header):
            thoughts.append(body.strip())
        elif has_body:
            shown.append(body)
        elif header.strip() and not header.lstrip().startswith("<|channel|>"):
            shown.append(header)  # text without a header
    return Parts("\n".join(thoughts), "\n".join(shown))


# ---- thoughts in messages ------------------------------------------------------------------------


def with_thought_apart(message):
    """An assistant message whose thought stands in `reasoning_content`, not in its content.

    Data may have it in both places, with its marks in the content: it is one thought then. Where
    the two differ, both were thought.
    """
    if message["role"] != "assistant":
        return message
    content = message["content"]
    thought = message.get("reasoning_content", "")
    if thought and _pair_at_start(content) is None:
        return message
    parts = without_thought_marks(content)
    shown = _without_answer_marks(parts.visible, ANSWER_MARKS)
    if not parts.thought and shown == content:
        return message
    changed = message | {"content": shown}
    if parts.thought and parts.thought != thought.strip():
        thoughts = [text for text in (thought, parts.thought) if text]
        changed["reasoning_content"] = "\n".join(thoughts)
    return changed


def without_thought(message):
    """A message without its thought."""
    return {key: value for key, value in message.items() if key != "reasoning_content"}


# ---- thoughts that a prompt opens ----------------------------------------------------------------

OPENINGS = "|".join(re.escape(pair.opening) for pair in PAIRS)
CLOSINGS = "|".join(re.escape(pair.closing) for pair in PAIRS)
OPEN_AT_END = re.compile(rf"(?:{OPENINGS})\s*\Z")
EMPTY_THOUGHT = re.compile(rf"\s*(?:(?:{OPENINGS})\s*)?(?:{CLOSINGS})\s*")
BLOCK_AT_END = re.compile(rf"(?:{OPENINGS})\s*(?:(?:{CLOSINGS})\s*)?\Z")


def opened_thought(prompt_text):
    """What a prompt's text ends with where it opens a thought, such as "<think>" and a line break.

    "" where it opens none, or closes it again.
    """
    match = OPEN_AT_END.search(prompt_text)
    return match[0] if match else ""


def close_thought(prompt_text, empty=""):
    """A prompt's text with the thought closed that it opens: the model then answers at once.

    empty: what the template writes before an answer without a thought, if anything.
    """
    if empty:
        return BLOCK_AT_END.sub("", prompt_text) + empty
    opening = opened_thought(prompt_text).strip()
    for pair in PAIRS:
        if pair.opening == opening:
            return prompt_text + pair.after
    return prompt_text


def pair_of(tokenizer, opening=""):
    """The marks that a tokenizer's model thinks between: those that are tokens of it.

    <think> where none are. opening: what its prompt opens a thought with, which says more.
    """
    for pair in PAIRS:
        if pair.opening == opening.strip():
            return pair
    tokens = tokenizer.get_added_vocab()
    for pair in PAIRS:
        if pair.closing in tokens:
            return pair
    return USUAL
