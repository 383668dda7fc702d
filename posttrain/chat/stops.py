"""The tokens that end an assistant turn."""

from posttrain.chat.template import render
from posttrain.cli import BadInput

ANSWER = "Xq7"  # a text that no template writes by itself


def stop_ids(tokenizer):
    """Ids of the tokens that end an assistant turn, one or two, the template's first.

    They are the first special token that the chat template puts behind an answer, and the
    tokenizer's end-of-sequence token. BadInput when there is neither.
    """
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
