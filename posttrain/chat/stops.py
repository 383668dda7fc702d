"""The tokens that end an assistant turn."""

from posttrain.chat.template import render
from posttrain.cli import BadInput


def stop_ids(tokenizer):
    """Token ids that end an assistant turn: the first special token the template puts after the text, and eos."""
    text = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Xq7"}])
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    after = [i for i in tokenizer(text.rpartition("Xq7")[2], add_special_tokens=False).input_ids if i in special][:1]
    stops = after + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])
    if not stops:
        raise BadInput("the tokenizer has no end-of-sequence token: the model could never learn to stop")
    return list(dict.fromkeys(stops))
