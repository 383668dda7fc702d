"""What a segment of a line sees, and the one call for all of them."""

import pytest
import torch
import transformers
from conftest import make_model
from families import FAMILIES, gradient, sequences, varlen_by_hand, with_adapter

from posttrain.packed import attention
from posttrain.packed.reader import line_reader, logps_after, seq_logps, teach_lines


@pytest.fixture(scope="module")
def seqs():
    return sequences()


@pytest.fixture(scope="module")
def model():
    made = with_adapter(make_model())
    teach_lines(made)
    return made


def test_nothing_leaks_between_answers(model, seqs):
    """Another second answer to a prompt, or another prompt on the line, moves the first answer by
    exactly nothing."""
    own, _ = seqs
    before = seq_logps(model, own)[0]
    changed = [dict(seq) for seq in own]
    changed[3] = {"ids": own[3]["ids"][:13] + [7] * 5, "mask": own[3]["mask"]}
    after = seq_logps(model, changed)[0]
    assert (after[3] - before[3]).abs() > 0.1
    assert torch.equal(after[[0, 1, 2, 4, 5]], before[[0, 1, 2, 4, 5]])


def test_neighbouring_heads_share_keys():
    """For a kernel that cannot share them itself: as torch's enable_gqa does it."""
    torch.manual_seed(0)
    query = torch.randn(1, 6, 3, 4)
    key, value = torch.randn(2, 1, 2, 5, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    own = [attention.one_for_each_head(shared, 6) for shared in (key, value)]
    assert own[0].shape == (1, 6, 5, 4)
    found = torch.nn.functional.scaled_dot_product_attention(query, *own)
    assert torch.allclose(found, expected, atol=1e-6)


def test_an_answer_sees_its_whole_prompt(model, seqs):
    """A token at the start of the prompt moves every answer to it, and no other."""
    own, _ = seqs
    before = seq_logps(model, own)[0]
    changed = [
        seq | {"ids": [5, *seq["ids"][1:]]} if len(seq["ids"]) - sum(seq["mask"]) == 30 else seq
        for seq in own
    ]
    moved = (seq_logps(model, changed)[0] - before).abs() > 1e-3
    assert moved.tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize("name", ["qwen2", "mistral with a window", "gemma3, soft cap and windows"])
def test_one_call_for_all_segments(name, seqs, monkeypatch):
    """The path for a GPU's kernel, with the kernel written out, gives the same."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda: varlen_by_hand)
    torch.manual_seed(0)
    model = with_adapter(
        transformers.AutoModelForCausalLM.from_config(FAMILIES[name][0]).float().eval()
    )
    own, others = seqs
    teach_lines(model)
    expected, _, line = seq_logps(model, own, keep=True)
    slope, after = gradient(model, expected), logps_after(model, others, line)
    line_reader(model).kind = "varlen"
    found, _, line = seq_logps(model, own, keep=True)
    assert (found - expected).abs().max() < 1e-5
    assert (gradient(model, found) - slope).norm() < 1e-5 * slope.norm()
    assert (logps_after(model, others, line) - after).abs().max() < 1e-5
