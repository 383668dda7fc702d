"""Log-probabilities of packs: a prompt is read once for all its answers, nothing is padded, no [T, V] is held.

A pack is one line of tokens: each prompt with its first answer behind it, then its further answers, each of which sees
its prompt and itself only. A tree is a line, too: whatever rows of tokens have in common at their start stands there
once. T = tokens of the line, S = supervised tokens, H = hidden size, V = vocabulary. The padded path of common.py stays
the yardstick: share_prompts compares the two on every model before it is used.
"""

from collections import UserDict

import torch


def prompt_length(seq):
    """Number of tokens before the first supervised one (at least 1: nothing predicts the first token)."""
    return seq["mask"].index(1, 1) if 1 in seq["mask"][1:] else len(seq["ids"])


def lay_out(seqs, device="cpu", memory=None):
    """Sequences [{"ids", "mask"}] on one line -> {"ids", "positions" [T], "segments", "source", "target", "row" [S]}.

    Sequences with the same tokens before their first supervised one share them. segments: [(seen, start, end)]: the
    queries start:end see the keys of the ranges in `seen`, each from the start of a segment, then their own past.
    source[s] is the place whose hidden state predicts target[s], a token of sequence row[s]; the last token of a prompt
    predicts several. memory: a line that was read before and kept its keys and values; its prompts are not read again
    but for the last token, which predicts the first of an answer."""
    groups, known = {}, memory["prompts"] if memory else {}
    for number, seq in enumerate(seqs):
        groups.setdefault(tuple(seq["ids"][:prompt_length(seq)]), []).append(number)
    ids, positions, segments, source, target, row, prompts = [], [], [], [], [], [], {}
    for prompt, members in groups.items():
        cut = len(prompt)
        begin = prompts[prompt] = known[prompt] if memory else len(ids)
        for k, number in enumerate(members):
            own, mask = seqs[number]["ids"], seqs[number]["mask"]
            skip = cut - 1 if memory else cut * (k > 0)  # tokens of the prompt that are not read again
            start, shift = len(ids), len(ids) - skip  # token t of this sequence stands at shift + t
            ids += own[skip:]
            positions += range(skip, len(own))
            segments.append(([(begin, begin + skip)] * (skip > 0), start, len(ids)))
            scored = [t for t in range(cut, len(own)) if mask[t]]
            source += [begin + cut - 1 if t == cut and not memory else shift + t - 1 for t in scored]
            target += [own[t] for t in scored]
            row += [number] * len(scored)
    line = {"ids": ids, "positions": positions, "source": source, "target": target, "row": row}
    return as_line(line, device, segments) | {"prompts": prompts, "past": memory["kept"] if memory else None}


def as_line(values, device, segments):
    """A line from lists of numbers and its segments."""
    line = {name: torch.tensor(numbers, device=device) for name, numbers in values.items()}
    return UserDict(line | {  # of a plain dict FSDP hands on a copy, and the layers write into this one
        "segments": segments, "kept": {}, "past": None, "cache": {}, "windows": 0})


def line_tokens(seqs):
    """Tokens that sequences take on a line."""
    prompts = {tuple(seq["ids"][:prompt_length(seq)]) for seq in seqs} if len(seqs) > 1 else ()
    return sum(map(len, prompts)) + sum(len(seq["ids"]) - prompt_length(seq) * bool(prompts) for seq in seqs)
