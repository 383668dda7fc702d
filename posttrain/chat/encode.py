"""Conversations -> token ids and the mask of what is trained on.

`ids` and `mask` are plain lists of one length. Where the mask is 1, the model is trained to predict
that token from all tokens before it; where it is 0, the token is only read. With ChatML, and the
trained part between ⟦ and ⟧ as show_mask prints it:

    <|im_start|>user
    Hi.<|im_end|>
    <|im_start|>assistant
    ⟦Hello.<|im_end|>⟧
"""

from posttrain.chat.stops import stop_ids
from posttrain.chat.template import render


def prompt_ids(tokenizer, prompt, tools=None):
    """What the model sees before it answers: used alike in training, generation and judging."""
    return tokenizer(render(tokenizer, prompt, tools, True), add_special_tokens=False).input_ids


def encode(tokenizer, prompt, completion, tools=None, *, max_len=None, all_turns=False):
    """Tokens and mask of a conversation -> {"ids": [T], "mask": [T], "truncated": bool}.

    prompt, completion: message lists. Supervised (mask 1) are the tokens of the answer up to and
    including its stop token; with all_turns those of every assistant turn. The prompt's tokens are
    those that generation would use. max_len: at most so many tokens are kept, from the start.
    Raises ValueError(reason) for a row that cannot be trained on.
    """
    messages = prompt + completion
    stops = stop_ids(tokenizer)
    text = ""  # the conversation so far
    ids = []  # its tokens
    mask = []  # for each token, whether it is trained on
    for turn in _supervised_turns(messages, all_turns):
        if _is_empty(messages[turn]):
            raise ValueError("empty answer")

        # The text up to this turn as generation would see it, and the text with the turn. Each must
        # continue the one before: else the model would be trained on answers to prompts that it
        # never meets.
        prompt_text = render(tokenizer, messages[:turn], tools, True)
        turn_text = render(tokenizer, messages[: turn + 1], tools)
        if not (prompt_text.startswith(text) and turn_text.startswith(prompt_text)):
            raise ValueError("the chat template's prompt is not a prefix of the conversation")

        # Whatever stands before the turn is read, not trained on.
        ids = _extend(tokenizer, ids, text, prompt_text)
        mask += [0] * (len(ids) - len(mask))

        # The turn ends with its first stop token. Where the template closes it with plain text, a
        # stop token is added.
        turn_ids = _extend(tokenizer, ids, prompt_text, turn_text)
        end = _find_stop(tokenizer, turn_ids, len(ids), stops)
        if end is None:
            end = len(turn_ids)
            turn_ids = [*turn_ids, stops[0]]
            turn_text += tokenizer.convert_ids_to_tokens(stops[0])

        # The turn and its stop token are trained on.
        ids = turn_ids[: end + 1]
        mask += [1] * (len(ids) - len(mask))

        # What the template writes behind the stop token, such as a line break, is tokenised with
        # the next turn: the model never writes it, and generation reads it there, too.
        stop_text = tokenizer.convert_ids_to_tokens(ids[-1])
        text = turn_text[: turn_text.rindex(stop_text) + len(stop_text)]

    truncated = max_len is not None and len(ids) > max_len
    ids = ids[:max_len]
    mask = mask[:max_len]
    if not any(mask):
        raise ValueError("nothing of the answer is left within --max-len")
    return {"ids": ids, "mask": mask, "truncated": truncated}


def _supervised_turns(messages, all_turns):
    """Positions of the assistant's messages that are trained on: of all, or of the last message."""
    last = len(messages) - 1
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return turns if all_turns else [n for n in turns if n == last]


def _is_empty(message):
    """Does the assistant neither say nor call anything?"""
    return not message["content"].strip() and not message.get("tool_calls")


def _find_stop(tokenizer, ids, start, stops):
    """Position of the first stop token from `start` on, or None.

    Behind it there may be more stop tokens (Phi closes first the turn, then the conversation) and
    white space. Any other text means that the stop token stands inside the answer, where generation
    would have ended.
    """
    positions = [n for n in range(start, len(ids)) if ids[n] in stops]
    if not positions:
        return None
    if len(positions) > 1:
        behind = [token for token in ids[positions[0] :] if token not in stops]
        if tokenizer.decode(behind).strip():
            raise ValueError("a stop token inside the answer")
    return positions[0]


def _extend(tokenizer, ids, text, longer):
    """Token ids of `longer` that begin with `ids`, the tokens of `text` with which it begins.

    Tokenised as a whole, `longer` may have a token that lies across the seam (two line breaks as
    one token, one of them from the prompt and one from the answer). Generation could not write such
    a token, so then the rest is tokenised by itself.
    """
    joint = tokenizer(longer, add_special_tokens=False).input_ids
    if joint[: len(ids)] == ids:
        return joint
    rest = longer[len(text) :]
    return ids + tokenizer(rest, add_special_tokens=False).input_ids


def show_mask(tokenizer, row):
    """The row {"ids", "mask"} as text: what is trained on stands between ⟦ and ⟧."""
    pieces = []
    is_open = False
    for token, supervised in zip(row["ids"], row["mask"]):
        if supervised and not is_open:
            pieces.append("⟦")
        if is_open and not supervised:
            pieces.append("⟧")
        is_open = bool(supervised)
        pieces.append(tokenizer.decode([token]))
    if is_open:
        pieces.append("⟧")
    return "".join(pieces)
