"""Losses at zero, at points computed by hand and in their slopes; log-probabilities of models whose answer is known;
packs and padding that must not matter; the cost model; looking before a run."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import label_rows, make_model, pair_rows, run_main, sft_rows, write

import dpo
import kto
import sft
from common import (
    completion_logps,
    dpo_loss,
    generation_tokens,
    ipo_loss,
    judge_tokens,
    kto_kl,
    kto_loss,
    money,
)
from posttrain.chat.encode import encode
from posttrain.packed.reader import teach_lines
from posttrain.records.layouts import normalise
from posttrain.train.metrics import means
from posttrain.train.packs import ref_logps, row_weights

ZERO = torch.zeros(1, dtype=torch.float64)


def number(x):
    return torch.tensor([x], dtype=torch.float64)


# ---- losses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 3.0])
def test_losses_at_zero(beta):
    for smoothing in (0.0, 0.1, 0.4):
        assert dpo_loss(ZERO, ZERO, beta, smoothing).item() == pytest.approx(
            0.6931471805599453, abs=1e-12
        )
    assert ipo_loss(ZERO, ZERO, beta).item() == pytest.approx(0.25 / (beta * beta), rel=1e-12)
    for label in (True, False):
        assert kto_loss(ZERO, torch.tensor([label]), ZERO, beta).item() == 0.5


def test_losses_at_points_computed_by_hand():
    # e^-2 = 0.1353353, ln(1.1353353) = 0.1269280; ln(1 + e^2) = 2.1269280; e^-0.3 = 0.7408182, 1/1.7408182 = 0.5744425
    assert dpo_loss(number(3.0), number(-1.0), 0.5).item() == pytest.approx(0.1269280, abs=1e-6)
    assert dpo_loss(number(-1.0), number(3.0), 0.5).item() == pytest.approx(2.1269280, abs=1e-6)
    # 0.9 x 0.1269280 + 0.1 x 2.1269280 = 0.1142352 + 0.2126928
    assert dpo_loss(number(3.0), number(-1.0), 0.5, 0.1).item() == pytest.approx(
        0.3269280, abs=1e-6
    )
    # beta 0.25: target 2; (1.5 + 1 - 2)^2 = 0.25, exchanged (-2.5 - 2)^2 = 20.25
    assert ipo_loss(number(1.5), number(-1.0), 0.25).item() == pytest.approx(0.25)
    assert ipo_loss(number(-1.0), number(1.5), 0.25).item() == pytest.approx(20.25)
    # ratio 5, kl 2, beta 0.1: sigmoid(0.3) = 0.5744425; good loses 1 - that, bad loses that
    good, bad = torch.tensor([True]), torch.tensor([False])
    assert kto_loss(number(5.0), good, number(2.0), 0.1).item() == pytest.approx(
        0.4255575, abs=1e-6
    )
    assert kto_loss(number(5.0), bad, number(2.0), 0.1).item() == pytest.approx(0.5744425, abs=1e-6)


def test_losses_fall_when_the_right_side_rises():
    chosen, rejected = number(0.3).requires_grad_(), number(-0.2).requires_grad_()
    for loss in (dpo_loss(chosen, rejected, 0.1), ipo_loss(chosen, rejected, 0.1)):
        up, down = torch.autograd.grad(loss.sum(), (chosen, rejected))
        assert up < 0 < down


def test_gradients_by_finite_differences():
    """Central differences of step 1e-6 in float64 agree with autograd to 1e-7 relative, at twenty random points."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, y, kl = (torch.randn(3, 1, generator=generator, dtype=torch.float64) * 4).unbind(0)
        label = torch.rand(1, generator=generator) < 0.5
        for loss in (
            lambda a, b: dpo_loss(a, b, 0.3),
            lambda a, b: dpo_loss(a, b, 0.3, 0.2),
            lambda a, b: ipo_loss(a, b, 0.4),
            lambda a, b, label=label, kl=kl: kto_loss(a, label, kl, 0.3) + 0 * b,
        ):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            exact = torch.autograd.grad(loss(a, b).sum(), (a, b))
            for k, gradient in enumerate(exact):
                step = [
                    torch.full((1,), 1e-6 if k == j else 0.0, dtype=torch.float64) for j in (0, 1)
                ]
                slope = (loss(x + step[0], y + step[1]) - loss(x - step[0], y - step[1])) / 2e-6
                assert slope.item() == pytest.approx(gradient.item(), rel=1e-6, abs=1e-8)


def test_kl_is_the_clamped_mean_without_gradient():
    assert kto_kl(torch.tensor([3.0, 1.0])).item() == 2.0
    assert kto_kl(torch.tensor([3.0, -1.0])).item() == 1.0  # the mean is clamped, not the terms
    assert kto_kl(torch.tensor([-3.0, 1.0])).item() == 0.0
    ratio = torch.tensor([2.0, 4.0], requires_grad=True)
    kl = kto_kl(ratio)
    kto_loss(ratio, torch.tensor([True, True]), kl, 0.5).sum().backward()
    # sigmoid(0.5) = 0.6224593, times 1 - itself = 0.2350037, times beta; through kl it would sum to zero
    assert ratio.grad.tolist() == pytest.approx([-0.1175019, -0.1175019], rel=1e-5)


# ---- log-probabilities ---------------------------------------------------------------------------------------


class KnowsTheText:
    """A stand-in for a model: logits that are right about the next token, repeat the present one, or are all equal."""

    device = torch.device("cpu")

    def __init__(self, kind, vocabulary=11):
        self.kind, self.vocabulary = kind, vocabulary

    def __call__(self, input_ids, attention_mask, logits_to_keep, use_cache):
        known = {"perfect": input_ids.roll(-1, 1), "echo": input_ids, "uniform": None}[self.kind]
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        if known is not None:
            logits = 30.0 * torch.nn.functional.one_hot(known, self.vocabulary).float()
        return SimpleNamespace(logits=logits)


ROW = {"ids": [4, 5, 6, 7, 8, 9, 1], "mask": [0, 0, 0, 1, 1, 1, 1]}


def test_perfect_echo_and_uniform_models():
    short = {"ids": [3, 2, 1], "mask": [0, 1, 1]}
    logps, tokens = completion_logps(KnowsTheText("perfect"), [ROW, short])
    assert tokens.tolist() == [4, 2] and logps.tolist() == pytest.approx([0, 0], abs=1e-6)
    logps, _ = completion_logps(KnowsTheText("echo"), [ROW, short])
    assert logps.tolist() == pytest.approx(
        [-120, -60], rel=1e-3
    )  # sure of the wrong token, 30 nats each
    logps, _ = completion_logps(KnowsTheText("uniform"), [ROW, short])
    assert logps.tolist() == pytest.approx([-4 * math.log(11), -2 * math.log(11)], rel=1e-6)


def test_mask_in_the_middle_counts_only_its_tokens(model):
    row = {"ids": [5, 9, 20, 31, 7, 11], "mask": [0, 1, 0, 0, 1, 0]}
    with torch.no_grad():
        logits = model(torch.tensor([row["ids"]])).logits[0].double()
        logps, tokens = completion_logps(model, [row])
    expected = logits[0].log_softmax(-1)[9] + logits[3].log_softmax(-1)[7]
    assert tokens.item() == 2 and logps.item() == pytest.approx(expected.item(), rel=1e-6)


def test_padding_and_its_id_do_not_matter(model, tokenizer):
    """Alone, beside a long row, padded with eos or with an id that occurs in the answer: the same, to 1e-6 relative."""
    pad = tokenizer.pad_token_id
    row = {
        "ids": [5, 9, pad, 20, tokenizer.eos_token_id, pad, 31, tokenizer.eos_token_id],
        "mask": [0, 0, 0, 1, 1, 1, 1, 1],
    }
    long = {"ids": list(range(3, 60)), "mask": [0] * 10 + [1] * 47}
    with torch.no_grad():
        alone, tokens = completion_logps(model, [row])
        for pad_id in (0, pad, tokenizer.eos_token_id, 20, 319):
            logps, count = completion_logps(model, [long, row], pad_id)
            assert logps[1].item() == pytest.approx(alone.item(), rel=1e-6)
            assert tokens.item() == count[1].item() == 5


@pytest.fixture(scope="module")
def policy():
    """The tiny model with a random adapter."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        make_model(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    teach_lines(model)
    return model.eval()


def training_rows(rows, kind, tokenizer):
    fields = ("chosen", "rejected") if kind == "pairs" else ("completion",)
    out = []
    for n, row in enumerate(rows):
        row = {"weight": 1.0 + n % 3} | normalise(row, kind)
        out.append(
            row
            | {
                "seqs": [
                    encode(tokenizer, row["prompt"], row[f]) | {"ref": -20.0 - n} for f in fields
                ]
            }
        )
    return out


def loss_of(stage, rows, model, pack_tokens):
    """(loss, gradient vector) of a batch, accumulated over packs as the trainers do it."""
    from posttrain.train.packs import cut_packs, pack_logps

    model.zero_grad()
    total, value = sum(row["weight"] for row in rows), 0.0
    if stage is kto:
        kl, _ = kto.step_kl(
            model, cut_packs([row | {"other": row["seqs"][0]} for row in rows[:3]], pack_tokens)
        )
    for pack in cut_packs(rows, pack_tokens):
        if stage is sft:
            loss = sft.pack_loss(model, pack)[0] / total
        elif stage is dpo:
            loss = dpo.pack_loss(model, pack, "dpo", 0.1)[0] / total
        else:
            logps = pack_logps(model, pack)[0][:, 0]
            loss = kto.pack_loss(pack, logps, kl, 0.1, weight_good=1.2, weight_bad=0.7)[0] / total
        loss.backward()
        value += loss.item()
    return value, torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    ).double()


@pytest.mark.parametrize(
    ("stage", "rows", "kind"),
    [(sft, sft_rows(7), "sft"), (dpo, pair_rows(7), "pairs"), (kto, label_rows(7), "labels")],
)
def test_packs_do_not_matter(policy, tokenizer, stage, rows, kind):
    """Packs of one row up to all rows: the same loss, and the same gradient, to 1e-6 relative."""
    rows = training_rows(rows, kind, tokenizer)
    value, gradient = loss_of(stage, rows, policy, 1)
    assert gradient.norm() > 0
    for pack_tokens in (60, 150, 10**6):
        other, slope = loss_of(stage, rows, policy, pack_tokens)
        assert other == pytest.approx(value, rel=1e-6)
        assert (slope - gradient).norm() <= 2e-6 * gradient.norm()


@pytest.mark.parametrize(
    ("stage", "rows", "kind"),
    [(sft, sft_rows(4), "sft"), (dpo, pair_rows(4), "pairs"), (kto, label_rows(4), "labels")],
)
def test_a_row_of_weight_two_is_the_row_twice(policy, tokenizer, stage, rows, kind):
    rows = [row | {"weight": 1.0} for row in training_rows(rows, kind, tokenizer)]
    heavy = [*rows[:3], rows[3] | {"weight": 2.0}]
    value, gradient = loss_of(stage, heavy, policy, 10**6)
    other, slope = loss_of(stage, [*rows, rows[3]], policy, 10**6)
    assert (
        value == pytest.approx(other, rel=1e-6)
        and (slope - gradient).norm() <= 2e-6 * gradient.norm()
    )
    assert value != pytest.approx(loss_of(stage, rows, policy, 10**6)[0], rel=1e-3)


def test_ipo_divides_by_tokens_or_not(policy, tokenizer):
    """--ipo-length mean uses ratios per token of each side, sum the sums: against numbers made the long way."""
    rows = training_rows(pair_rows(3), "pairs", tokenizer)
    for length in ("mean", "sum"):
        expected = 0.0
        for row in rows:
            ratios = []
            for seq in row["seqs"]:
                with torch.no_grad():
                    table = policy(torch.tensor([seq["ids"]])).logits[0].double().log_softmax(-1)
                terms = [
                    table[t - 1, seq["ids"][t]].item()
                    for t in range(len(seq["ids"]))
                    if seq["mask"][t]
                ]
                ratios.append((sum(terms) - seq["ref"]) / (len(terms) if length == "mean" else 1))
            expected += row["weight"] * (ratios[0] - ratios[1] - 1 / (2 * 0.5)) ** 2
        value = dpo.pack_loss(policy, rows, "ipo", 0.5, ipo_length=length)[0].item()
        assert value == pytest.approx(expected, rel=1e-5)


# ---- numbers of the log ----------------------------------------------------------------------------------------


def seq_of(tokens, ref=None):
    """A prompt of one token and an answer of so many."""
    return {"ids": [3, *range(4, 4 + tokens)], "mask": [0] + [1] * tokens, "ref": ref}


def test_numbers_of_sft_by_hand():
    """A loss of 0 a token in 2 tokens of weight 3, of 30 in 3 tokens of weight 1: 90 / 9."""
    pack = [
        {"weight": 3.0, "seqs": [{"ids": [3, 3, 3], "mask": [0, 1, 1]}]},
        {"weight": 1.0, "seqs": [seq_of(3)]},
    ]
    loss, sums = sft.pack_loss(KnowsTheText("echo"), pack)
    assert loss.item() == pytest.approx(90, rel=1e-6) and sft.batch_tokens(pack) == 9
    found = sft.step_metrics(sums)
    expected = {"loss": 10, "tokens/answer": 2.5, "perplexity": math.exp(10)}
    assert found == pytest.approx(expected, rel=1e-5)
    far = {("all", "loss"): 1000.0, ("all", "weight"): 1.0}
    assert sft.step_metrics(Counter(far))["perplexity"] == math.exp(50), "not too large a number"


def test_numbers_of_dpo_by_hand():
    """Three pairs, of which two are won and one is a draw, by a model that gives each word 1/11."""
    nat = -math.log(11)
    pack = []
    for chosen, rejected, gain in ((2, 3, 0.5), (1, 4, 0.7), (2, 2, 0.0)):
        seqs = [seq_of(chosen, chosen * nat - gain), seq_of(rejected, rejected * nat)]
        pack.append({"weight": 1.0, "seqs": seqs})
    found = means(dpo.pack_loss(KnowsTheText("uniform"), pack, "dpo", 0.1)[1])
    losses = [math.log(1 + math.exp(-0.1 * gain)) for gain in (0.5, 0.7, 0.0)]
    assert found == pytest.approx(
        {
            "loss": sum(losses) / 3,
            "rewards/chosen": 0.04,
            "rewards/rejected": 0.0,
            "rewards/margins": 0.04,
            "rewards/accuracies": 2 / 3,
            "logps/chosen": 5 / 3 * nat,
            "logps/rejected": 3 * nat,
            "tokens/chosen": 5 / 3,
            "tokens/rejected": 3,
        },
        abs=1e-5,
    )


def test_rewards_of_ipo_are_sums():
    """Also where its loss compares means per token."""
    nat = -math.log(11)
    pack = [{"weight": 1.0, "seqs": [seq_of(2, 2 * nat - 3.0), seq_of(4, 4 * nat + 1.0)]}]
    loss, sums = dpo.pack_loss(KnowsTheText("uniform"), pack, "ipo", 0.5)
    assert loss.item() == pytest.approx((1.5 + 0.25 - 1) ** 2, abs=1e-4)
    assert means(sums)["rewards/chosen"] == pytest.approx(1.5, abs=1e-5)
    assert means(sums)["rewards/rejected"] == pytest.approx(-0.5, abs=1e-5)


def test_numbers_of_kto_by_hand():
    """Two good answers and a bad one: what is said of one side is the mean over that side."""
    pack = []
    for tokens, ref, label in ((2, -5.0, True), (4, -7.0, True), (3, -4.0, False)):
        pack.append({"weight": 1.0, "label": label, "seqs": [seq_of(tokens, ref)]})
    logps = torch.tensor([-4.0, -9.0, -6.0], dtype=torch.float64)
    options = {"weight_good": 1.0, "weight_bad": 2.0}
    found = means(kto.pack_loss(pack, logps, ZERO[0], 0.1, **options)[1])
    sigmoids = [1 / (1 + math.exp(-0.1 * gain)) for gain in (1.0, -2.0, 2.0)]
    loss = (1 - sigmoids[0] + 1 - sigmoids[1] + 2 * (1 - sigmoids[2])) / 3
    assert found == pytest.approx(
        {
            "loss": loss,
            "rewards/chosen": -0.05,
            "rewards/rejected": -0.2,
            "logps/chosen": -6.5,
            "logps/rejected": -6.0,
            "tokens/chosen": 3.0,
            "tokens/rejected": 3.0,
        }
    )


def test_references_and_weights_are_exact():
    """In double precision, as the log-probabilities are."""
    pack = [{"weight": 0.1, "seqs": [{"ref": -0.1}, {"ref": -20.3}]}]
    assert ref_logps(pack, like=ZERO).tolist() == [[-0.1, -20.3]]
    assert row_weights(pack, like=ZERO).tolist() == [0.1]


# ---- cost ----------------------------------------------------------------------------------------------------


def test_cost_model_by_hand():
    assert generation_tokens(1000, 4, 200, 50) == (50_000, 800_000)
    assert judge_tokens(1000, 4, 200, 50, rubric_len=300) == 1_150_000  # 1000 x (300 + 50 + 800)
    assert money(2_000_000, 1.5) == 3.0
    assert money(seconds=1800, price_gpu_hour=4.0) == 2.0


# ---- looking before a run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--plan", "--show-mask"])
@pytest.mark.parametrize(
    ("stage", "rows"), [("sft", sft_rows(4)), ("dpo", pair_rows(4)), ("kto", label_rows(4))]
)
def test_looking_loads_no_model_and_writes_nothing(
    base, tmp_path, monkeypatch, capsys, stage, rows, flag
):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", never)
    data = write(tmp_path / "data.jsonl", rows)
    before = sorted(tmp_path.rglob("*"))
    assert run_main(stage, "--model", base, "--data", data, "--out", tmp_path / "runs/x", flag) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert ("⟦" if flag == "--show-mask" else "plan ") in capsys.readouterr().out
