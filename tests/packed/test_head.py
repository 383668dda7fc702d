"""The output layer in tiles against the plain formula."""

import pytest
import torch
from conftest import make_model

from posttrain.packed.head import HeadLogps, OutputLayer, tile_size


@pytest.mark.parametrize(
    ("bias", "scale", "cap"), [(False, 1.0, None), (True, 0.5, None), (True, 2.0, 3.0)]
)
@pytest.mark.parametrize("tile", [(1, 20), (4, 7), (100, 100), (3, 1)])
def test_the_head_in_tiles(bias, scale, cap, tile):
    """Values and gradients of the plain formula, in float64, for a gradient that differs from token
    to token."""
    torch.manual_seed(0)
    hidden = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    weight, target = torch.randn(20, 8, dtype=torch.float64), torch.randint(0, 20, (9,))
    offset = torch.randn(20, dtype=torch.float64) if bias else None
    logits = scale * torch.nn.functional.linear(hidden, weight, offset)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    expected = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    upstream = torch.randn(9, dtype=torch.float64)
    (slope,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    head = [None if x is None else x.float() for x in (weight, offset)]
    again = hidden.detach().float().requires_grad_()
    found = HeadLogps.apply(again, *head, target, scale, cap, tile)
    (found * upstream.float()).sum().backward()
    assert (found - expected).abs().max() < 1e-5 and (again.grad - slope).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("words", "on_gpu", "tile"),
    [
        (151_936, True, (220, 151_936)),  # 128 MiB of logits in float32
        (2_097_152, True, (16, 2_097_152)),
        (4_000_000, True, (16, 4_000_000)),  # however large the vocabulary
        (151_936, False, (512, 1024)),  # 2 MiB
    ],
)
def test_the_size_of_a_tile(words, on_gpu, tile):
    assert tile_size(words, on_gpu) == tile


@torch.no_grad()
def test_a_head_in_half_precision():
    """Its products are rounded to the format; what is made of them is not."""
    model = make_model().bfloat16()
    hidden, target = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    head = OutputLayer(model)
    logits = head.logits(hidden)
    expected = model.lm_head(hidden.bfloat16())
    assert logits.dtype == torch.float32 and torch.equal(logits, expected.float())
    logps = expected.double().log_softmax(-1).gather(1, target[:, None])[:, 0]
    found = head.logps(hidden, target)
    assert found.dtype == torch.float32 and (found - logps).abs().max() < 1e-4
