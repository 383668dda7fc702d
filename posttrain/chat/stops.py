"""The tokens that end an assistant turn: the same in training, in sampling and at the gate.

A turn that calls a tool may end in another token than one that speaks (gpt-oss: <|call|>, Gemma 4:
<|tool_response>). Where a template closes no turn at all (GLM), the token that opens the next one
is what the model has learned to stop at.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

from posttrain.chat.template import render
from posttrain.cli import BadInput

ANSWER = "Xq7"  # a text that no template writes by itself
NEXT = "Xq8"  # the same, of a next turn
USER = {"role": "user", "content": "a"}
ASKED_AGAIN = {"role": "user", "content": NEXT}
ANSWERED = {"role": "assistant", "content": ANSWER}
CALL = {"type": "function", "function": {"name": "a", "arguments": {"a": ANSWER}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CALLED_TWICE = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "name": "a", "content": "a"}


class Stops(NamedTuple):
    """What ends a turn, as token ids."""

    ids: list  # all of them; the first ends a turn that speaks
    after_text: int  # what a turn ends in that the template leaves open
    after_call: int  # the same of a turn that calls a tool


# To find them costs as much as many short rows' tokens, and every row asks. Tokenizer: (what the
# stops depend on, the stops).
_FOUND = WeakKeyDictionary()


def stop_ids(tokenizer):
    """Ids of the tokens that end an assistant turn, the template's first.

    They are those that the chat template ends a turn with, the tokenizer's end-of-sequence token,
    and those of the model's generation_config, which load_tokenizer has put into the tokenizer's
    attribute generation_stops. BadInput when there is none.
    """
    return list(stops_of(tokenizer).ids)


def stops_of(tokenizer):
    """The Stops of a tokenizer; remembered until its template or its tokens change."""
    depends_on = (
        str(tokenizer.chat_template),
        tokenizer.eos_token_id,
        len(tokenizer),
        tuple(generation_stops(tokenizer)),
    )
    if tokenizer not in _FOUND or _FOUND[tokenizer][0] != depends_on:
        _FOUND[tokenizer] = (depends_on, find_stops(tokenizer))
    return _FOUND[tokenizer][1]


def generation_stops(tokenizer):
    """The end tokens of the model's generation_config; [] for a tokenizer without a model."""
    return getattr(tokenizer, "generation_stops", [])


def find_stops(tokenizer):
    """stops_of, looked for anew."""
    after_text = _end_of_text(tokenizer)
    after_call = _end_of_call(tokenizer, after_text)

    # An ordinary word as an end is a mistake of a config: it would cut answers at that word.
    special = _special_ids(tokenizer)
    ends = [after_text, after_call, tokenizer.eos_token_id]
    ends += [token for token in generation_stops(tokenizer) if token in special]
    ids = list(dict.fromkeys(token for token in ends if token is not None))
    if not ids:
        raise BadInput(
            "the tokenizer has no end-of-sequence token: the model could never learn to stop"
        )
    if after_text is None:
        after_text = ids[0] if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if after_call is None:
        after_call = after_text
    return Stops(ids, after_text, after_call)


def _end_of_text(tokenizer):
    """The special token behind an answer that ends its turn, or opens the next one, or None.

    It is the first, unless an end of tokenizer or generation_config follows there, also where the
    conversation goes on: Cohere closes first the response, then the turn.
    """
    behind = _text_behind(tokenizer, [USER, ANSWERED])
    tokens = _special_tokens(tokenizer, behind)
    if not tokens:
        return _next_opening(tokenizer, behind, [USER, ANSWERED, USER])
    going_on = _text_behind(tokenizer, [USER, ANSWERED, ASKED_AGAIN]).partition(NEXT)[0]
    before_next = _special_tokens(tokenizer, going_on)
    known_ends = [tokenizer.eos_token_id, *generation_stops(tokenizer)]
    for token in tokens:
        if token in known_ends and token in before_next:
            return token
    return tokens[0]


def _end_of_call(tokenizer, end_of_text):
    """The token behind a call that ends its turn, or the one that opens the tool's turn, or None.

    It is the one that ends a turn of text; if that is not there, the end-of-sequence token; if that
    is not there, the last special token, apart from those that stand between two calls, too. The
    last one alone would be wrong for Command R7B, whose template always opens one more turn.
    """
    behind = _text_behind(tokenizer, [USER, CALLED])
    for end in (end_of_text, tokenizer.eos_token_id):
        if end in _special_tokens(tokenizer, behind):
            return end
    behind_first = _text_behind(tokenizer, [USER, CALLED_TWICE], first=True)
    between = behind_first.partition(ANSWER)[0]
    within_calls = _special_tokens(tokenizer, between)
    ends = [token for token in _special_tokens(tokenizer, behind) if token not in within_calls]
    if ends:
        return ends[-1]
    return _next_opening(tokenizer, behind, [USER, CALLED, RESULT])


def _text_behind(tokenizer, messages, first=False):
    """What a template writes behind the last (or first) ANSWER; "" where it refuses."""
    try:
        text = render(tokenizer, messages)
    except BadInput:
        return ""
    parts = text.partition(ANSWER) if first else text.rpartition(ANSWER)
    return parts[2]


def _next_opening(tokenizer, behind, longer):
    """The special token that follows at once where the conversation goes on, or None.

    behind: what stands behind the answer where it is the end. longer: the messages that go on. A
    token behind a line break is none: the model does not write the break.
    """
    text = _text_behind(tokenizer, longer)
    if not text.startswith(behind) or behind != behind.rstrip():
        return None
    ids = tokenizer(text[len(behind) :], add_special_tokens=False).input_ids
    return ids[0] if ids and ids[0] in _special_ids(tokenizer) else None


def _special_tokens(tokenizer, text):
    """The special tokens of a text, in their order."""
    special = _special_ids(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [token for token in ids if token in special]


def _special_ids(tokenizer):
    """Ids of the tokens that stand for no text."""
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
