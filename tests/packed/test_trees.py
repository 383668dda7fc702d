"""Trees against rows alone, and where they are cut into lines."""

import random

import pytest
import torch
import transformers
from families import FAMILIES, varlen_by_hand

from posttrain.packed import attention
from posttrain.packed.reader import line_reader, reads_lines, teach_lines
from posttrain.packed.trees import cut_lines, lay_out_tree, tree_logits


def test_a_tree_by_hand():
    """[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6] and [7]: 1 2 3 4 5 6 7 on the line; 6 sees 1 2, 5 and
    itself."""
    line = lay_out_tree([[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6], [7]], [0, 2, 3, 0])
    assert line.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert line.positions.tolist() == [0, 1, 2, 3, 2, 3, 0]
    assert line.segments == [([], 0, 4), ([(0, 2)], 4, 5), ([(0, 2), (4, 5)], 5, 6), ([], 6, 7)]
    assert line.source.tolist() == [3, 4, 5, 6]
    same = lay_out_tree([[1, 2], [1, 2], [1, 2, 3]], [0, 2, 2])
    assert same.ids.tolist() == [1, 2, 3] and same.source.tolist() == [1, 1, 2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_trees_of_every_family(name, monkeypatch, capsys):
    """Rows of random trees, on one line, on several, and by the kernel for a GPU: the logits of
    each row alone."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda: varlen_by_hand)
    rng = random.Random(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[name][0]).float().eval()
    model.requires_grad_(False)
    parts = [[rng.randrange(3, 300) for _ in range(rng.randint(1, 9))] for _ in range(8)]
    rows = [sum(rng.choices(parts, k=rng.randint(1, 4)), []) for _ in range(24)]
    alone = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]
    teach_lines(model)
    read = []
    for kind, limit in (("segments", 4096), ("segments", 30), ("varlen", 4096)):
        if reads_lines(model):
            line_reader(model).kind = kind
        found = [*tree_logits(model, rows, limit)]
        assert sorted(n for numbers, _, _ in found for n in numbers) == [*range(24)]
        for numbers, logits, _ in found:
            for number, one in zip(numbers, logits):
                error = (one - alone[number]).abs().max()
                assert error < 1e-5 * alone[number].abs().max(), (kind, limit, number)
        read.append(sum(sum(tokens) for _, _, tokens in found))
    once = len({tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)})
    each = sum(map(len, rows))
    if reads_lines(model):
        assert read[0] == once and once < read[1] < each
    else:
        assert read == [each] * 3


@pytest.mark.parametrize("limit", [1, 7, 12, 40])
def test_lines_are_cut_where_least_is_read_twice(limit):
    """No way to cut nine rows into lines of that many tokens reads fewer; a longer row has a line
    of its own."""
    rng = random.Random(2)
    splits = [[0, *(k for k in range(1, 9) if cuts >> (k - 1) & 1), 9] for cuts in range(1 << 8)]

    def cost(lines, whole, fresh):
        sizes = [whole[start] + sum(fresh[start + 1 : end]) for start, end in lines]
        fits = all(size <= limit or end - start == 1 for size, (start, end) in zip(sizes, lines))
        return sum(sizes) if fits else float("inf")

    for _ in range(30):
        whole = [rng.randint(1, 9) for _ in range(9)]
        fresh = [
            size - rng.randint(0, min(size, before)) for before, size in zip([0, *whole], whole)
        ]
        lines = cut_lines(fresh, whole, limit)
        assert [n for line in lines for n in range(*line)] == [*range(9)]
        assert cost(lines, whole, fresh) == min(
            cost([*zip(ends, ends[1:])], whole, fresh) for ends in splits
        )
