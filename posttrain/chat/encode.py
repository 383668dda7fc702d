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


def encode(tokenizer, prompt, completion, tools=None, *, max_len=None, think=False):
    """Tokens and mask of a prompt and its answer -> {"ids": [T], "mask": [T], "truncated": bool}.

    prompt, completion: message lists. Supervised (mask 1) are the tokens of the answer, up to and
    including its stop token; with `think` those of its thought, too, which is left out else. The
    prompt's tokens are those that generation would use. max_len: at most so many tokens are kept,
    from the start. Raises ValueError(reason) for a row that cannot be trained on.
    """
    messages = prompt + completion
    turns = [len(messages) - 1]
    return encode_turns(tokenizer, messages, turns, tools, max_len=max_len, think=think)[0]


def encode_all_turns(tokenizer, messages, tools=None, *, max_len=None, think=False):
    """Every assistant turn of a conversation, supervised -> a list of sequences as encode has them.

    A turn continues the sequence of the turn before, where its prompt does. Some templates write
    earlier turns otherwise than the last (without thoughts, for instance): then the turn gets a
    sequence of its own, with the prompt that generation would see. Turns with `weight` 0 are read
    and not trained on.
    """
    turns = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return encode_turns(tokenizer, messages, turns, tools, max_len=max_len, think=think)


def encode_turns(tokenizer, messages, turns, tools=None, *, max_len=None, think=False):
    """The turns at these positions, supervised -> a list of sequences as encode has them."""
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

    rows = [sequence.cut(max_len) for sequence in sequences]
    if not any(1 in row["mask"] for row in rows):
        raise ValueError("nothing of the answer is left within --max-len")
    return [row for row in rows if 1 in row["mask"]]


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

    def cut(self, max_len):
        """The sequence as encode returns it."""
        truncated = max_len is not None and len(self.ids) > max_len
        return {
            "ids": self.ids[:max_len],
            "mask": self.mask[:max_len],
            "truncated": truncated,
        }


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
