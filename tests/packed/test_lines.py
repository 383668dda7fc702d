"""The line of a pack, by hand."""

from posttrain.packed.lines import lay_out, line_tokens, prompt_length


def test_the_line_by_hand():
    """Prompt [5, 6] with answers [7, 8] and [9]; prompt [4] with [3]."""
    seqs = [
        {"ids": [5, 6, 7, 8], "mask": [0, 0, 1, 1]},
        {"ids": [4, 3], "mask": [0, 1]},
        {"ids": [5, 6, 9], "mask": [0, 0, 1]},
    ]
    line = lay_out(seqs)
    assert line.ids.tolist() == [5, 6, 7, 8, 9, 4, 3]
    assert line.positions.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert line.segments == [([], 0, 4), ([(0, 2)], 4, 5), ([], 5, 7)]
    assert line.source.tolist() == [1, 2, 1, 5] and line.target.tolist() == [7, 8, 9, 3]
    assert line.row.tolist() == [0, 0, 2, 1]
    assert line_tokens(seqs) == 7 and line_tokens(seqs[:1]) == 4 and line_tokens(seqs[::2]) == 5
    after = lay_out(
        [{"ids": [5, 6, 1, 2], "mask": [0, 0, 1, 1]}], memory=line
    )  # the prompt's last token once more
    assert after.ids.tolist() == [6, 1, 2] and after.positions.tolist() == [1, 2, 3]
    assert after.segments == [([(0, 1)], 0, 3)] and after.source.tolist() == [0, 1]


def test_a_prompt_ends_before_the_first_token_that_is_trained_on():
    """It has the first token at least, which nothing predicts; all tokens where none is."""
    for mask, length in (([0, 0, 1, 0, 1], 2), ([1, 1, 1], 1), ([1, 0, 1], 2), ([1, 0, 0], 3)):
        assert prompt_length({"ids": [5] * len(mask), "mask": mask}) == length
