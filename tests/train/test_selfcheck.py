"""--selfcheck: it passes where nothing is wrong, and finds planted faults."""

import math

import pytest
import torch
from conftest import (
    adapter_of,
    label_rows,
    pair_rows,
    run_main,
    same_tensors,
    sft_rows,
    write,
)

import dpo
from posttrain.train.selfcheck import finite_differences, relative_distance

SMALL = ["--batch-size", 8, "--lora-r", 2, "--lr", 0.01]


@pytest.mark.parametrize(
    ("stage", "make"), [("sft", sft_rows), ("dpo", pair_rows), ("kto", label_rows)]
)
def test_selfcheck_passes(base, tmp_path, capsys, stage, make):
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", make(9)),
        "--out",
        tmp_path / "run",
        *SMALL,
    ]
    words += ["--batch-size", 9, "--max-steps", 1]
    assert run_main(stage, *words, "--selfcheck") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("selfcheck")]
    assert len(lines) == (5 if stage == "sft" else 6) and all(
        "selfcheck ok" in line for line in lines
    )
    assert "gradient of 8 x 1 row = 1 x 8 rows" in lines[0], "eight rows at most"
    allowed = ["1e-04"] * 2 + ["1e-05"] * (len(lines) - 3) + ["5e-02"]
    assert [line.split("allowed ")[1] for line in lines] == allowed

    again = [tmp_path / "again/run" if word == tmp_path / "run" else word for word in words]
    assert run_main(stage, *again) == 0
    assert same_tensors(adapter_of(tmp_path / "run"), adapter_of(tmp_path / "again/run")), (
        "a check changes nothing"
    )


def plant_head(monkeypatch):
    """A gradient of the output layer that is ten per cent too large."""
    from posttrain.packed.head import HeadLogps

    real = HeadLogps.backward
    monkeypatch.setattr(
        HeadLogps,
        "backward",
        staticmethod(lambda ctx, grad: (real(ctx, grad)[0] * 1.1, *[None] * 6)),
    )


def plant_positions(monkeypatch):
    """Wrong positions on a line, after the comparison that teach_lines makes."""
    from posttrain.packed import reader

    lay_out = reader.lay_out

    def broken(seqs, *rest, **more):
        line = lay_out(seqs, *rest, **more)
        line.positions = line.positions + torch.arange(len(line.ids)) // 3
        return line

    def teach_and_break(model):
        reader.teach_lines(model)
        monkeypatch.setattr(reader, "lay_out", broken)

    monkeypatch.setattr(dpo, "teach_lines", teach_and_break)


def plant_reference(monkeypatch):
    """A cached log-probability that is off by 0.002."""
    real = dpo.score_reference

    def stale(model, rows, **more):
        tokens = real(model, rows, **more)
        rows[0]["seqs"][0]["ref"] += 0.002
        return tokens

    monkeypatch.setattr(dpo, "score_reference", stale)


FAULTS = {
    "head": (plant_head, "gradient of packs = padded rows"),
    "positions": (plant_positions, "packs = padded"),
    "reference": (plant_reference, "cached = live reference"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_selfcheck_finds_planted_faults(base, tmp_path, monkeypatch, capsys, fault):
    plant, check = FAULTS[fault]
    plant(monkeypatch)
    words = [
        "--model",
        base,
        "--data",
        write(tmp_path / "d.jsonl", pair_rows(9)),
        "--out",
        tmp_path / "run",
        *SMALL,
    ]
    with pytest.raises(dpo.BadInput, match="self-check failed"):
        run_main("dpo", *words, "--batch-size", 9, "--selfcheck")
    failed = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("selfcheck FAILED")
    ]
    assert any(check in line for line in failed), failed


def test_relative_distance_by_hand():
    """|(3, 4) - (3, 3)| / |(3, 4)| = 1 / 5, over all tensors together."""
    gradient, other = (
        [torch.tensor([3.0]), torch.tensor([4.0])],
        [torch.tensor([3.0]), torch.tensor([3.0])],
    )
    assert relative_distance(gradient, other) == pytest.approx(0.2)
    assert math.isnan(relative_distance(gradient, [other[0], torch.tensor([math.nan])]))


def test_finite_differences_see_a_wrong_gradient():
    """Of the loss sum w^2 the gradient is 2 w; ten per cent more is seen; w is left as it was."""
    model = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]

    def loss():
        return sum(p.double().pow(2).sum().item() for p in model.parameters())

    assert finite_differences(model, [2 * p for p in before], loss) < 1e-4
    assert finite_differences(model, [2.2 * p for p in before], loss) == pytest.approx(
        0.1 / 1.1, rel=1e-3
    )
    assert all(torch.allclose(p, value) for p, value in zip(model.parameters(), before))
