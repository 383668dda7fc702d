"""A new loss is a function and a line in PAIR_LOSSES: dpo.py knows it, checks its start and trains."""

import math

import pytest
import torch
from conftest import Seen, log_lines, pair_rows, run_main, show_call, write

import common
import dpo
import kto
from posttrain.cli import BadInput


def hinge_loss(chosen, rejected, beta, label_smoothing=0.0):
    """SLiC's hinge (arXiv 2305.10425): 1 at zero ratios."""
    return torch.relu(1 - beta * (chosen - rejected))


def simpo_loss(chosen, rejected, beta, label_smoothing=0.0):
    """SimPO (arXiv 2405.14734, eq. 6, gamma 0): without a reference, means per token."""
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected))


@pytest.fixture
def words(base, tmp_path):
    data = write(tmp_path / "pairs.jsonl", pair_rows(6))
    return ["--model", base, "--data", data, "--lora-r", 2, "--batch-size", 6]


@pytest.mark.parametrize("name", common.PAIR_LOSSES)
def test_the_value_at_zero_is_the_loss_at_zero(name):
    kind = common.PAIR_LOSSES[name]
    assert (kind.at_zero is None) == (not kind.needs_reference)
    if kind.at_zero is None:
        return
    zero = torch.zeros(2, dtype=torch.float64)
    for beta in (kind.beta, 0.03, 2.0):
        for smoothing in (0.0, 0.3):
            losses = kind.function(zero, zero, beta, smoothing)
            assert losses.tolist() == pytest.approx([kind.at_zero(beta)] * 2)


def test_a_new_loss_needs_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        common.PAIR_LOSSES, "hinge", common.PairLoss(hinge_loss, lambda beta: 1.0, beta=0.5)
    )
    out = tmp_path / "hinge"
    assert (
        run_main("dpo", *words, "--out", out, "--loss", "hinge", "--epochs", 3, "--lr", 0.01) == 0
    )
    assert "HINGE loss before step 1 = 1.000000" in capsys.readouterr().out
    losses = [line["loss"] for line in log_lines(out)]
    assert losses[0] == pytest.approx(1.0, abs=1e-4) and losses[-1] < 0.95


def test_a_loss_with_another_value_at_zero_is_refused_for_what_it_is(words, tmp_path, monkeypatch):
    monkeypatch.setitem(
        common.PAIR_LOSSES, "hinge", common.PairLoss(hinge_loss, lambda beta: 2.0, beta=0.5)
    )
    with pytest.raises(BadInput, match="policy and reference agree"):
        run_main("dpo", *words, "--out", tmp_path / "hinge", "--loss", "hinge")


def test_a_loss_without_a_reference_pays_for_none(words, tmp_path, monkeypatch, capsys):
    kind = common.PairLoss(simpo_loss, None, beta=2.0, per_token=True, needs_reference=False)
    monkeypatch.setitem(common.PAIR_LOSSES, "simpo", kind)
    out = tmp_path / "simpo"
    assert (
        run_main("dpo", *words, "--out", out, "--loss", "simpo", "--epochs", 9, "--lr", 0.01) == 0
    )
    assert not (out / "ref_logps.jsonl").exists()
    lines = log_lines(out)
    assert len(lines) == 9 and lines[-1]["loss"] < lines[0]["loss"]
    printed = capsys.readouterr().out
    assert "against the reference" not in printed, "there is none to fall behind"
    assert "check    SIMPO has no reference: no value before step 1 is known" in printed
    with pytest.raises(SystemExit):
        dpo.parse_args([*map(str, words), "--out", "x", "--loss", "simpo", "--ref", "y"])


def test_rewards_without_a_reference_are_what_the_loss_compares(words, tmp_path, monkeypatch):
    """One pair a step: the loss then follows from the margin in the log."""
    kind = common.PairLoss(simpo_loss, None, beta=2.0, per_token=True, needs_reference=False)
    monkeypatch.setitem(common.PAIR_LOSSES, "simpo", kind)
    for length in ("mean", "sum"):
        out = tmp_path / length
        options = ["--batch-size", 1, "--ipo-length", length, "--max-steps", 3]
        assert run_main("dpo", *words, *options, "--out", out, "--loss", "simpo") == 0
        for line in log_lines(out):
            margin = line["rewards/margins"]
            assert line["loss"] == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-5)
            assert line["rewards/chosen"] < 0 < abs(margin)


def test_a_threshold_is_a_rubric_score():
    words = ["--model", "m", "--data", "d", "--out", "o", "--threshold"]
    assert kto.parse_args([*words, "5"]).threshold == 5.0
    assert kto.parse_args([*words, "0"]).threshold == 0.0
    for beyond in ("5.1", "-0.1"):
        with pytest.raises(SystemExit):
            kto.parse_args([*words, beyond])


def test_the_loss_is_that_of_the_flags(words, base, tmp_path, monkeypatch):
    show_call(monkeypatch, "dpo.pack_loss")
    plain = {"loss_name": "ipo", "beta": 0.7, "label_smoothing": 0.0, "ipo_length": "mean"}
    plain |= {"soft_labels": False, "nll_weight": 0.0}
    flags = ["--label-smoothing", 0.2, "--ipo-length", "sum", "--nll-weight", 0.3]
    given = {"label_smoothing": 0.2, "ipo_length": "sum", "nll_weight": 0.3}
    data = write(tmp_path / "p.jsonl", [row | {"p": 0.9} for row in pair_rows(6)])
    words = [*words, "--data", data, "--ref", base, "--loss", "ipo", "--beta", 0.7]
    for more, expected in (([], {}), (flags, given), (["--soft-labels"], {"soft_labels": True})):
        out = tmp_path / str(len(more)) / "run"
        with pytest.raises(Seen) as seen:
            run_main("dpo", *words, "--out", out, *more)
        _, options = seen.value.args
        assert options == plain | expected
