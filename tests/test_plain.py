"""labs/dpo_plain.py is what dpo.py computes, written plainly."""

import importlib.util
import math

import pytest
import torch
from conftest import ROOT, adapter_of, pair_rows, write

import dpo
from posttrain.model.load import load_policy, load_tokenizer, trained
from posttrain.packed.reader import teach_lines


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("dpo_plain", ROOT / "labs/dpo_plain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moved_policy(base):
    """A policy that has left its reference by the same random step every time."""
    model = load_policy(base, lora_r=4)
    generator = torch.Generator().manual_seed(1)
    for parameter in trained(model):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def gradient(model, loss):
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in trained(model)])


def test_loss_and_gradient_are_those_of_dpo(plain, base, tmp_path):
    """On padded rows and on packed lines, for a policy away from its reference."""
    path, tokenizer = write(tmp_path / "pairs.jsonl", pair_rows(6)), load_tokenizer(base)
    pairs = plain.read_pairs(path, tokenizer, 2048)
    rows = []
    for chosen, rejected in pairs:
        seqs = [chosen | {"ref": -20.0}, rejected | {"ref": -22.0}]
        rows.append({"seqs": seqs, "weight": 1.0, "slice": "all"})

    model = moved_policy(base)
    reference = torch.full((6,), -20.0), torch.full((6,), -22.0)
    loss = plain.batch_loss(model, pairs, reference, beta=0.1)
    slope = gradient(model, loss)

    other = moved_policy(base)
    teach_lines(other)
    total, _ = dpo.pack_loss(other, rows, "dpo", 0.1)
    assert loss.item() == pytest.approx(total.item() / 6, rel=1e-6)
    assert abs(loss.item() - math.log(2)) > 1e-3, "the policy has moved"
    assert (gradient(other, total / 6) - slope).norm() < 1e-5 * slope.norm()


def test_it_trains(plain, base, tmp_path, capsys):
    path = write(tmp_path / "pairs.jsonl", pair_rows(9))
    words = ["--model", base, "--data", path, "--out", str(tmp_path / "run"), "--lr", "0.005"]
    assert plain.main(plain.parse_args([*words, "--epochs", "2"])) == 0
    printed = capsys.readouterr().out
    assert "epoch 1  loss 0.6931" in printed and "result   9 pairs" in printed
    tensors = adapter_of(tmp_path / "run")
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert load_policy(str(tmp_path / "run")) is not None, "a run folder for --model"
