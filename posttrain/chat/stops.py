"""The tokens that end an assistant turn."""

from weakref import WeakKeyDictionary

from posttrain.chat.template import render
from posttrain.cli import BadInput

ANSWER = "Xq7"  # a text that no template writes by itself

# To find them costs as much as a short row's tokens, and every row asks. Tokenizer: (what the
# answer depends on, the answer).
_FOUND = WeakKeyDictionary()


def stop_ids(tokenizer):
    """Ids of the tokens that end an assistant turn, one or two, the template's first.

    They are the first special token that the chat template puts behind an answer, and the
    tokenizer's end-of-sequence token. BadInput when there is neither.
    """
    depends_on = (tokenizer.chat_template, tokenizer.eos_token_id, len(tokenizer))
    if tokenizer not in _FOUND or _FOUND[tokenizer][0] != depends_on:
        _FOUND[tokenizer] = (depends_on, find_stops(tokenizer))
    return list(_FOUND[tokenizer][1])


def find_stops(tokenizer):
    """stop_ids, looked for anew."""
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]
    _, _, behind_answer = render(tokenizer, conversation).rpartition(ANSWER)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = tokenizer(behind_answer, add_special_tokens=False).input_ids
    special_behind_answer = [token for token in ids if token in special]

    stops = special_behind_answer[:1]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        stops.append(tokenizer.eos_token_id)
    if not stops:
        raise BadInput(
            "the tokenizer has no end-of-sequence token: the model could never learn to stop"
        )
    return stops
