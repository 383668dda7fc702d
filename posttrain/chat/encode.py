"""Conversations -> token ids and the mask of what is trained on."""

from posttrain.chat.stops import stop_ids
from posttrain.chat.template import render


def prompt_ids(tokenizer, prompt, tools=None):
    """What the model sees before it answers: used alike in training, generation and judging."""
    return tokenizer(render(tokenizer, prompt, tools, True), add_special_tokens=False).input_ids


def encode(tokenizer, prompt, completion, tools=None, max_len=None, all_turns=False):
    """Tokens and mask of a conversation. Returns {"ids", "mask", "truncated"}; raises ValueError(reason) for a bad row.

    Supervised are the tokens of the answer up to and including its stop token; with all_turns those of every assistant
    turn. The prompt's tokens are those generation would use: no token crosses the seam. Truncation keeps the start."""
    messages, stops, text, ids, mask = prompt + completion, stop_ids(tokenizer), "", [], []
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant" and (all_turns or i == len(messages) - 1)]
    for turn in turns:
        if not (messages[turn]["content"].strip() or messages[turn].get("tool_calls")):
            raise ValueError("empty answer")
        head, full = render(tokenizer, messages[:turn], tools, True), render(tokenizer, messages[:turn + 1], tools)
        if not (head.startswith(text) and full.startswith(head)):
            raise ValueError("the chat template's prompt is not a prefix of the conversation")
        ids = _extend(tokenizer, ids, text, head)
        mask += [0] * (len(ids) - len(mask))
        whole = _extend(tokenizer, ids, head, full)
        ends = [i for i in range(len(ids), len(whole)) if whole[i] in stops]
        if len(ends) > 1 and tokenizer.decode([i for i in whole[ends[0]:] if i not in stops]).strip():
            raise ValueError("a stop token inside the answer")
        if not ends:  # the template closes the turn with plain text only
            whole, ends, full = whole + stops[:1], [len(whole)], full + tokenizer.convert_ids_to_tokens(stops[0])
        ids, stop = whole[:ends[0] + 1], tokenizer.convert_ids_to_tokens(whole[ends[0]])
        mask += [1] * (len(ids) - len(mask))
        text = full[:full.rindex(stop) + len(stop)]  # what follows is tokenised with the next turn, as in generation
    truncated = max_len is not None and len(ids) > max_len
    ids, mask = ids[:max_len], mask[:max_len]
    if not any(mask):
        raise ValueError("nothing of the answer is left within --max-len")
    return {"ids": ids, "mask": mask, "truncated": truncated}


def _extend(tokenizer, ids, text, longer):
    """Token ids of `longer`, which starts with `text` (= ids): tokenised as one unless a token would cross the seam."""
    joint = tokenizer(longer, add_special_tokens=False).input_ids
    return joint if joint[:len(ids)] == ids else ids + tokenizer(longer[len(text):], add_special_tokens=False).input_ids


def show_mask(tokenizer, row):
    """The row as text: what is trained on stands between ⟦ and ⟧."""
    parts, open_ = [], False
    for token, m in zip(row["ids"] + [None], row["mask"] + [0]):
        if bool(m) != open_:
            parts.append("⟧" if open_ else "⟦")
            open_ = bool(m)
        parts.append("" if token is None else tokenizer.decode([token]))
    return "".join(parts)
