"""Packs: the rows that are in memory at once, and their log-probabilities.

A batch is cut into packs, each pack gives a sum, and the sums are divided once by the weight of the
whole batch. So packs never change a result, only the memory that it takes.
"""

from typing import NamedTuple

import torch

from posttrain.model.load import autocast
from posttrain.packed.lines import line_tokens
from posttrain.packed.reader import reads_lines, seq_logps
from posttrain.processes import my_share

OPEN_PACKS = 32  # packs that are looked at for room: more would find little and take longer


class RowSize(NamedTuple):
    """What a row takes in a pack."""

    tokens: int  # on a line, where the prompt stands once for the row's answers
    sequences: int
    longest: int  # tokens of its longest sequence, which padded rows all take


def row_size(row):
    longest = max(len(seq["ids"]) for seq in row["seqs"])
    return RowSize(line_tokens(row["seqs"]), len(row["seqs"]), longest)


class Pack:
    """A group of rows while it is filled."""

    def __init__(self):
        self.rows = []
        self.size = RowSize(0, 0, 0)

    def size_with(self, size):
        """The size of this pack with one row more."""
        return RowSize(
            self.size.tokens + size.tokens,
            self.size.sequences + size.sequences,
            max(self.size.longest, size.longest),
        )

    def has_room(self, size, pack_tokens, padded):
        """Would a row of this size still fit?"""
        total = self.size_with(size)
        if padded:
            return total.longest * total.sequences <= pack_tokens
        return total.tokens <= pack_tokens

    def add(self, row, size):
        self.rows.append(row)
        self.size = self.size_with(size)


def cut_packs(rows, pack_tokens, padded=False):
    """Rows in packs of at most pack_tokens tokens, one row at least: a list of lists of rows.

    The longest rows come first, each goes into the first pack with room. On lines a prompt counts
    once for a row's answers; padded: every sequence counts as long as the pack's longest.
    """
    sized = [(row_size(row), row) for row in rows]
    sized.sort(key=lambda pair: pair[0].tokens, reverse=True)
    filled = []
    for size, row in sized:
        pack = first_with_room(filled[-OPEN_PACKS:], size, pack_tokens, padded)
        if pack is None:
            pack = Pack()
            filled.append(pack)
        pack.add(row, size)
    return [pack.rows for pack in filled]


def first_with_room(packs, size, pack_tokens, padded):
    """The first pack that a row of this size still fits into, or None."""
    for pack in packs:
        if pack.has_room(size, pack_tokens, padded):
            return pack
    return None


def all_packs(rows, pack_tokens, model):
    """Rows in packs as this model reads them, on lines or padded."""
    return cut_packs(rows, pack_tokens, padded=not reads_lines(model))


def packs_of(rows, pack_tokens, model):
    """This process's share of the packs of a batch: all of them where there is one process."""
    return my_share(all_packs(rows, pack_tokens, model), idle_copy)


def idle_copy(pack):
    """A pack that is read like `pack` and counts for nothing."""
    return [row | {"weight": 0.0} for row in pack]


def each_pack(loss_of_pack, packs):
    """loss_of_pack of one pack after the other: only one is in memory at a time."""
    for pack in packs:
        yield loss_of_pack(pack)


def pack_logps(model, pack):
    """Log-probabilities of a pack of rows -> (logps [rows, seqs] float64, tokens [rows, seqs]).

    They are those of completion_logps in common.py: from one line of packed tokens, where the
    one-token shift stands in lay_out (packed/lines.py), or by completion_logps itself.
    """
    seqs = []
    for row in pack:
        seqs += row["seqs"]
    with autocast(model):
        logps, tokens, _ = seq_logps(model, seqs)
    return logps.view(len(pack), -1), tokens.view(len(pack), -1)


def ref_logps(pack, like):
    """The reference's log-probabilities of a pack [rows, seqs], as the tensor `like`."""
    values = []
    for row in pack:
        values.append([seq["ref"] for seq in row["seqs"]])
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def row_weights(pack, like):
    """The weights of a pack's rows [rows]."""
    return torch.tensor([row["weight"] for row in pack], dtype=like.dtype, device=like.device)
