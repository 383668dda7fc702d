"""Trees: rows of tokens that share their starts, each start read once."""

import torch

from posttrain.packed.lines import as_line
from posttrain.packed.reader import base_of, shares_prompts


def lay_out_tree(rows, shared, device="cpu"):
    """Sorted rows of tokens, of which number i begins with the same shared[i] tokens as the one before, on one line:
    what is shared stands there once. As lay_out; source [rows] is the place of each row's last token."""
    ids, positions, segments, source, path = [], [], [], [], []
    for row, common in zip(rows, shared):
        seen, left = [], common
        for first, last in path:  # the ranges of the row before
            seen += [(first, min(last, first + left))] * (left > 0)
            left -= last - first
        if common < len(row):
            segments.append((seen, len(ids), len(ids) + len(row) - common))
            path = [*seen, segments[-1][1:]]
            ids += row[common:]
            positions += range(common, len(row))
        source.append(len(ids) - 1)
    return as_line({"ids": ids, "positions": positions, "source": source}, device, segments)


def cut_lines(fresh, whole, limit):
    """Neighbouring rows as lines of at most `limit` tokens, so that as few as can be are read twice -> [(from, to)].

    fresh[i]: tokens that row i does not share with the row before; whole[i]: all its tokens, which it costs as the
    first of a line."""
    best = [(0, 0)]  # (tokens of all lines up to row i, first row of the last one)
    for end in range(1, len(whole) + 1):
        tokens, found = 0, []
        for start in range(end - 1, -1, -1):
            size = whole[start] + tokens
            if size > limit and found:
                break
            found.append((best[start][0] + size, start))
            tokens += fresh[start]
        best.append(min(found))
    lines, end = [], len(whole)
    while end:
        lines.append((best[end][1], end))
        end = best[end][1]
    return lines[::-1]


def common_start(one, other):
    """Number of tokens that two rows have in common at their start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


@torch.no_grad()
def tree_logits(model, rows, limit=4096):
    """Next-token logits after each row of tokens; yields (row numbers, logits [n, V] float32, tokens read for each).

    What rows have in common at their start is read once a line, for the first of them in sorted order; a line has at
    most `limit` tokens, or one row. A model that reads no lines gets every row alone."""
    device, order = base_of(model).device, sorted(range(len(rows)), key=rows.__getitem__)
    if not shares_prompts(model):
        for number, row in enumerate(rows):
            logits = model(input_ids=torch.tensor([row], device=device), logits_to_keep=1).logits
            yield [number], logits[:, -1].float(), [len(row)]
        return
    rows = [rows[number] for number in order]
    shared = [0, *(common_start(*pair) for pair in zip(rows, rows[1:]))]
    fresh = [len(row) - common for row, common in zip(rows, shared)]
    for start, end in cut_lines(fresh, [*map(len, rows)], limit):
        line = lay_out_tree(rows[start:end], [0, *shared[start + 1:end]], device)
        yield order[start:end], model(line=line), [len(rows[start]), *fresh[start + 1:end]]
