"""Trees: rows of tokens that share their starts, each start read once."""

import torch

from posttrain.packed.lines import LineBuilder
from posttrain.packed.reader import base_of, last_logits, line_reader


@torch.no_grad()
def tree_logits(model, rows, limit=4096):
    """Next-token logits after each row of tokens.

    Yields (row numbers, logits [n, V] float32, tokens read for each), until all rows have come.

    What rows have in common at their start is read once a line, for the first of them in sorted
    order; a line has at most `limit` tokens, or one row. A model that reads no lines gets padded
    rows of like length, as many as make `limit` tokens."""
    device = base_of(model).device
    reader = line_reader(model)
    if reader is None:
        for numbers in batches_by_length(rows, limit):
            logits = last_logits(model, [rows[number] for number in numbers])
            yield numbers, logits, [len(rows[number]) for number in numbers]
        return

    # In sorted order rows that begin alike are neighbours.
    order = sorted(range(len(rows)), key=rows.__getitem__)
    rows = [rows[number] for number in order]
    shared = [0]  # tokens that each row has in common with the one before
    shared += [common_start(before, row) for before, row in zip(rows, rows[1:])]
    fresh = [len(row) - common for row, common in zip(rows, shared)]
    whole = [len(row) for row in rows]
    for start, end in cut_lines(fresh, whole, limit):
        line = lay_out_tree(rows[start:end], [0, *shared[start + 1 : end]], device)
        yield order[start:end], reader.logits(line), [whole[start], *fresh[start + 1 : end]]


def batches_by_length(rows, limit):
    """Numbers of the rows in batches of like length: the longest x rows <= limit, or one row."""
    batches = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        # The first of a batch is its longest.
        if not batches or (len(batches[-1]) + 1) * len(rows[batches[-1][0]]) > limit:
            batches.append([])
        batches[-1].append(number)
    return batches


def lay_out_tree(rows, shared, device="cpu"):
    """Sorted rows of tokens -> a Line on which stands once what they share.

    Its source [rows] is the place of each row's last token. Row number i begins with the same
    shared[i] tokens as the row before it."""
    builder = LineBuilder()
    path = []  # the ranges of places where the row before stands, from its first token to its last
    for row, common in zip(rows, shared):
        seen = first_tokens(path, common)
        if common < len(row):
            builder.add_segment(row[common:], common, seen)
            segment = builder.segments[-1]
            path = [*seen, (segment.start, segment.end)]
        # A row that equals the one before has no segment, and ends where that one does.
        builder.source.append(len(builder.ids) - 1)
    return builder.line(device)


def first_tokens(ranges, count):
    """The ranges of places (first, last) that hold the first `count` tokens of the given ranges."""
    chosen = []
    for first, last in ranges:
        if count <= 0:
            break
        chosen.append((first, min(last, first + count)))
        count -= last - first
    return chosen


def cut_lines(fresh, whole, limit):
    """Neighbouring rows as lines of at most `limit` tokens -> [(from, to)].

    They are cut so that as few tokens as can be are read twice.

    fresh[i]: tokens that row i does not share with the row before; whole[i]: all its tokens, which
    it costs as the first of a line. A row longer than `limit` gets a line of its own.

    Dynamic programming: best[end] = (fewest tokens in which the rows before `end` can be read,
    first row of the last line then). The last line may begin at any row from which it still
    fits."""
    best = [(0, 0)]
    for end in range(1, len(whole) + 1):
        choices = []
        behind_first = 0  # tokens of the last line behind its first row
        for start in range(end - 1, -1, -1):
            size = whole[start] + behind_first
            if size > limit and choices:
                break
            choices.append((best[start][0] + size, start))
            behind_first += fresh[start]
        best.append(min(choices))

    # From the end back to the first row.
    lines, end = [], len(whole)
    while end > 0:
        start = best[end][1]
        lines.append((start, end))
        end = start
    return lines[::-1]


def common_start(one, other):
    """Number of tokens that two rows have in common at their start, by bisection."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
