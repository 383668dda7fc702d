"""Conversations -> token ids and the mask of what is trained on.

`ids` and `mask` are plain lists of one length. Where the mask is 1, the model is trained to predict
that token from all tokens before it; where it is 0, the token is only read. With ChatML, and the
trained part between ⟦ and ⟧ as show_mask prints it:

    <|im_start|>user
    Hi.<|im_end|>
    <|im_start|>assistant
    ⟦Hello.<|im_end|>⟧
"""

from posttrain.chat.stops import stops_of
from posttrain.chat.template import render
from posttrain.chat.thoughts import (
    BLOCK_AT_END,
    opened_thought,
    pair_of,
    visible,
    with_thought_apart,
    without_thought,
    without_thought_marks,
)


def prompt_ids(tokenizer, prompt, tools=None, *, think=False):
    """What the model sees before it answers: used alike in training, generation and judging."""
    text = render(tokenizer, prompt, tools, True, think=think)
    return tokenizer(text, add_special_tokens=False).input_ids


def encode(
    tokenizer, prompt, completion, tools=None, *, max_len=None, truncate="right", think=False
):
    """Tokens and mask of a prompt and its answer.

    Returns {"ids": [T], "mask": [T], "truncated": bool, "prompt_cut": bool}. prompt, completion:
    message lists. Supervised (mask 1) are the tokens of the answer, up to and including its stop
    token; with `think` those of its thought, too, which is left out else. The prompt's tokens are
    those that generation would use. At most max_len tokens are kept: truncate says which, see
    cut_answers. Raises ValueError(reason) for a row that cannot be trained on.
    """
    completions = [completion]
    return encode_answers(
        tokenizer, prompt, completions, tools, max_len=max_len, truncate=truncate, think=think
    )[0]


def encode_answers(
    tokenizer, prompt, completions, tools=None, *, max_len=None, truncate="right", think=False
):
    """encode of several answers to a prompt, whose tokens stay the same for all of them."""
    seqs = []
    for completion in completions:
        messages = prompt + completion
        turns = [len(messages) - 1]
        seqs += encode_turns(tokenizer, messages, turns, tools, think=think)
    seqs = cut_answers(seqs, max_len, truncate, tokenizer.bos_token_id)
    for seq in seqs:
        require_supervised([seq])
    return seqs


def encode_all_turns(
    tokenizer, messages, tools=None, *, max_len=None, truncate="right", think=False
):
    """Every assistant turn of a conversation, supervised -> a list of sequences as encode has them.

    A turn continues the sequence of the turn before, where its prompt does. Some templates write
    earlier turns otherwise than the last (without thoughts, for instance): then the turn gets a
    sequence of its own, with the prompt that generation would see. Turns with `weight` 0 are read
    and not trained on. truncate "left" keeps the last max_len tokens of each sequence.
    """
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    seqs = encode_turns(tokenizer, messages, turns, tools, think=think)
    if truncate == "left":
        seqs = [keep_end(seq, max_len, tokenizer.bos_token_id) for seq in seqs]
    else:
        seqs = [keep_start(seq, max_len) for seq in seqs]
    require_supervised(seqs)
    return [seq for seq in seqs if 1 in seq["mask"]]


def encode_turns(tokenizer, messages, turns, tools=None, *, think=False):
    """The turns at these positions, supervised -> a list of sequences as encode has them, uncut."""
    turns = [turn for turn in turns if messages[turn].get("weight") != 0]
    if not turns:
        raise ValueError("the answer has weight 0")
    messages = [with_thought_apart(message) for message in messages]
    sequences = [Sequence(tokenizer)]
    for turn in turns:
        if _is_empty(messages[turn]):
            has_thought = messages[turn].get("reasoning_content")
            raise ValueError("no answer behind the thought" if has_thought else "empty answer")
        prompt_text, turn_text = turn_texts(tokenizer, messages[: turn + 1], tools, think=think)
        if not prompt_text.startswith(sequences[-1].text):
            sequences.append(Sequence(tokenizer))
        calls_a_tool = bool(messages[turn].get("tool_calls"))
        sequences[-1].add_turn(prompt_text, turn_text, calls_a_tool)
    return [sequence.as_row() for sequence in sequences]


def _is_empty(message):
    """Does the assistant neither say nor call anything?"""
    return not message["content"].strip() and not message.get("tool_calls")


# ---- texts ---------------------------------------------------------------------------------------


def turn_texts(tokenizer, messages, tools=None, *, think=False):
    """(the text before the last message as generation would see it, the same with the message).

    The last message is an assistant's. One without a thought is an answer that is given at once: it
    gets the prompt with which the model does not think, so that an empty thought is never trained
    on. ValueError when the one does not continue the other.
    """
    prompt, answer = messages[:-1], messages[-1]
    thought = answer.get("reasoning_content", "").strip() if think else ""
    think = bool(thought)
    prompt_text = render(tokenizer, prompt, tools, True, think=think)
    turn_text = render(tokenizer, messages, tools, think=think)
    thought_is_missing = False
    if thought:
        text_without = render(tokenizer, [*prompt, without_thought(answer)], tools, think=think)
        thought_is_missing = turn_text == text_without
    is_behind_tool = prompt[-1]["role"] == "tool"
    if turn_text.startswith(prompt_text) and not thought_is_missing:
        body = turn_text[len(prompt_text) :]
        if is_behind_tool:
            _require_one_header(tokenizer, body)
        _require_visible(answer, opened_thought(prompt_text) + body)
        return prompt_text, turn_text

    # The prompt's end may open a thought (or hold an empty one) that the template does not write
    # into the turn, and a template may not write thoughts at all. Then the turn is put together:
    # the prompt, the thought, and what the template writes behind the turn's header.
    header = BLOCK_AT_END.sub("", prompt_text)
    if not turn_text.startswith(header):
        header = _with_space_of(turn_text, header)
    if not turn_text.startswith(header) and is_behind_tool:
        header = _without_header(
            render(tokenizer, prompt, tools, think=think), prompt_text, turn_text
        )
    if not turn_text.startswith(header):
        earlier = [without_thought(message) for message in prompt]
        if earlier == prompt:
            raise ValueError("the chat template's prompt is not a prefix of the conversation")
        # gpt-oss reads the thought before a call until the answer is there, then leaves it out. The
        # turn itself is the same.
        prompt_without, turn_without = turn_texts(tokenizer, [*earlier, answer], tools, think=think)
        return prompt_text, prompt_text + turn_without.removeprefix(prompt_without)
    body = turn_text[len(header) :]
    if is_behind_tool:
        _require_one_header(tokenizer, body)
    if thought:
        body = _with_thought(tokenizer, prompt_text, thought, body)
    _require_visible(answer, opened_thought(prompt_text) + body)
    return prompt_text, prompt_text + body


def _with_thought(tokenizer, prompt_text, thought, body):
    """The text of a turn with a thought before it, behind a prompt that may have opened it."""
    opening = opened_thought(prompt_text)
    if BLOCK_AT_END.search(prompt_text) and not opening:
        raise ValueError("the chat template's prompt ends a thought: with it no model can think")
    pair = pair_of(tokenizer, opening)
    before = "" if opening else pair.before
    return f"{before}{thought}{pair.after}{without_thought_marks(body).visible}"


def _with_space_of(turn_text, header):
    """A header with the white space that a turn has behind it, where its prompt has another."""
    bare = header.rstrip()
    if not turn_text.startswith(bare):
        return header
    body = turn_text[len(bare) :].lstrip()
    return turn_text[: len(turn_text) - len(body)]


def _require_one_header(tokenizer, body):
    """ValueError when a turn begins with the header that its prompt should have ended with."""
    header = turn_header(tokenizer).split()
    if header and body.lstrip().startswith(header[0]):
        raise ValueError("the chat template's prompt does not open the assistant's turn")


def turn_header(tokenizer):
    """What a template opens an assistant turn with, behind a user's, without a thought."""
    prompt = [{"role": "user", "content": "a"}]
    opening = render(tokenizer, prompt, None, True).removeprefix(render(tokenizer, prompt))
    return BLOCK_AT_END.sub("", opening)


def _without_header(conversation, prompt_text, turn_text):
    """The conversation before a turn, where its template goes on without a header.

    Apertus writes what follows a tool's result into the turn that called the tool, but the prompt
    that generation sees opens a turn. Where that opening stands in the turn, too, it is the prompt
    that comes back, with which the turn does not begin.
    """
    opening = "".join(prompt_text.removeprefix(conversation).split())
    body = "".join(turn_text.removeprefix(conversation).split())
    return conversation if opening and opening not in body else prompt_text


def _require_visible(answer, body):
    """ValueError when an answer stands where a model would write its thought (Nemotron Nano 2)."""
    is_text = bool(answer["content"].strip()) and not answer.get("tool_calls")
    if is_text and not visible(body).strip():
        raise ValueError("the chat template writes the answer as a thought")


# ---- tokens --------------------------------------------------------------------------------------


class Sequence:
    """Tokens and mask of a conversation, as it grows turn by turn."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.text = ""  # the conversation so far
        self.ids = []  # its tokens
        self.mask = []  # for each token, whether it is trained on

    def add_turn(self, prompt_text, turn_text, calls_a_tool):
        """Add the text up to a turn, which continues what is here, and the turn, supervised."""
        stops = stops_of(self.tokenizer)

        # Whatever stands before the turn is read, not trained on.
        self.ids = _extend(self.tokenizer, self.ids, self.text, prompt_text)
        self.mask += [0] * (len(self.ids) - len(self.mask))

        # The turn ends with its first stop token. Where the template leaves the turn open, a stop
        # token is added.
        turn_ids = _extend(self.tokenizer, self.ids, prompt_text, turn_text)
        end = _find_stop(self.tokenizer, turn_ids, len(self.ids), stops.ids)
        if end is None:
            end = len(turn_ids)
            stop = stops.after_call if calls_a_tool else stops.after_text
            turn_ids = [*turn_ids, stop]
            turn_text += self.tokenizer.convert_ids_to_tokens(stop)

        # The turn and its stop token are trained on.
        self.ids = turn_ids[: end + 1]
        self.mask += [1] * (len(self.ids) - len(self.mask))

        # What the template writes behind the stop token, such as a line break, is tokenised with
        # the next turn: the model never writes it, and generation reads it there, too.
        stop_text = self.tokenizer.convert_ids_to_tokens(self.ids[-1])
        self.text = turn_text[: turn_text.rindex(stop_text) + len(stop_text)]

    def as_row(self):
        """The sequence as encode returns it, whole."""
        return {"ids": self.ids, "mask": self.mask, "truncated": False, "prompt_cut": False}


def _find_stop(tokenizer, ids, start, stops):
    """Position of the first stop token from `start` on, or None.

    Between it and the last one there may be more stop tokens (Phi closes first the turn, then the
    conversation) and white space. Any other text means that the stop token stands inside the
    answer, where generation would have ended. What stands behind the last one is the template's:
    that of Command R7B always opens one more turn.
    """
    positions = [n for n in range(start, len(ids)) if ids[n] in stops]
    if not positions:
        return None
    if len(positions) > 1:
        between = [token for token in ids[positions[0] : positions[-1]] if token not in stops]
        if tokenizer.decode(between).strip():
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


# ---- what is kept of a sequence that is too long -------------------------------------------------


def cut_answers(seqs, max_len, truncate, bos=None):
    """Answers to a prompt, at most max_len tokens each with it. max_len None: all of them.

    truncate "right" cuts the end: of a long prompt no answer may be left. "left" cuts the start of
    the prompt, by what the longest answer needs, so that the prompt stays the same for all; one
    token of it is kept at least, and an answer that still is too long is cut at its end.
    bos: the begin-of-text token, which stays in front.
    """
    if truncate == "left" and max_len is not None:
        longest = max(len(seq["ids"]) - seq["mask"].index(1) for seq in seqs)
        prompt_room = max(1, max_len - longest)
        seqs = [cut_prompt(seq, prompt_room, bos) for seq in seqs]
    return [keep_start(seq, max_len) for seq in seqs]


def cut_prompt(seq, room, bos):
    """The sequence with the last `room` tokens of its prompt."""
    answer = seq["mask"].index(1)
    if answer <= room:
        return seq
    ids = cut_start(seq["ids"][:answer], room, bos) + seq["ids"][answer:]
    mask = [0] * room + seq["mask"][answer:]
    return seq | {"ids": ids, "mask": mask, "prompt_cut": True}


def cut_start(ids, room, bos):
    """The last `room` token ids, at least 1; a begin-of-text token stays in front of them."""
    if len(ids) <= room:
        return ids
    if ids[0] == bos:
        return ids[:1] + ids[len(ids) - room + 1 :]
    return ids[len(ids) - room :]


def keep_start(seq, max_len):
    """The first max_len tokens. Where the end is missing, no stop token is trained on."""
    if max_len is None or len(seq["ids"]) <= max_len:
        return seq
    return seq | {"ids": seq["ids"][:max_len], "mask": seq["mask"][:max_len], "truncated": True}


def keep_end(seq, max_len, bos):
    """The last max_len tokens. Of a turn whose start is gone the rest is read, not trained on.

    A last turn that is too long by itself keeps its start, and what fits before it.
    """
    if max_len is None or len(seq["ids"]) <= max_len:
        return seq
    ids = cut_start(seq["ids"], max_len, bos)
    mask = seq["mask"][len(seq["ids"]) - max_len :]
    whole_turns = mask.index(0) if 0 in mask else len(mask)
    mask = [0] * whole_turns + mask[whole_turns:]
    if 1 in mask[1:]:
        return seq | {"ids": ids, "mask": [0] + mask[1:], "prompt_cut": True}
    [row] = cut_answers([last_turn_alone(seq)], max_len, "left", bos)
    return row


def last_turn_alone(seq):
    """The sequence with its last turn alone supervised."""
    start = len(seq["mask"])
    while start and seq["mask"][start - 1]:
        start -= 1
    return seq | {"mask": [0] * start + seq["mask"][start:]}


def require_supervised(seqs):
    """ValueError when nothing is left of what these sequences train on."""
    if not any(1 in seq["mask"] for seq in seqs):
        raise ValueError(
            "nothing of the answer is left within --max-len: --truncate left cuts the prompt "
            "instead"
        )


# ---- what is trained on, to look at --------------------------------------------------------------


def show_mask(tokenizer, row):
    """The row {"ids", "mask"} as text: what is trained on stands between ⟦ and ⟧.

    Stretches are decoded as wholes, each as what it adds to the text before: a letter may be
    several tokens, and some tokenizers write a space only between two tokens.
    """
    ids, mask = row["ids"], row["mask"]
    pieces = []
    start = 0
    while start < len(ids):
        end = start
        while end < len(ids) and mask[end] == mask[start]:
            end += 1
        before = tokenizer.decode(ids[:start])
        stretch = tokenizer.decode(ids[:end])[len(before) :]
        pieces.append(f"⟦{stretch}⟧" if mask[start] else stretch)
        start = end
    return "".join(pieces)
