"""Loss, gradients and values before step 1 against TRL's trainers: same data, same model, same adapter, one batch.

The adapter of policy and reference are both random (A and B), and differ, so no term vanishes. Measured is
|loss - TRL's loss| and the relative L2 distance of the gradient of all adapter weights."""

import math

import pytest
import torch
from conftest import label_rows, make_model, make_tokenizer, pair_rows, sft_rows

import dpo
import kto
import sft
from common import kto_kl
from posttrain.chat.encode import encode
from posttrain.packed.reader import line_kind, teach_lines
from posttrain.records.layouts import normalise
from posttrain.train.metrics import means
from posttrain.train.packs import pack_logps

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def lora():
    """A function: a fresh tiny model with a random adapter; seed gives the adapter."""
    from peft import LoraConfig, get_peft_model

    def make(seed=1):
        model = get_peft_model(
            make_model(),
            LoraConfig(
                r=4,
                lora_alpha=8,
                target_modules="all-linear",
                lora_dropout=0.0,
                task_type="CAUSAL_LM",
            ),
        )
        randomise(model, seed)
        teach_lines(model)
        assert line_kind(model) == "segments"
        return model.eval()

    return make


def randomise(model, seed, adapter=".default."):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name and adapter in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1


def prepared(rows, kind, tokenizer):
    """Rows as the trainers prepare them."""
    fields = {"pairs": ("chosen", "rejected")}.get(kind, ("completion",))
    out = []
    for row in rows:
        row = {"weight": 1.0} | normalise(row, kind)
        out.append(
            row | {"seqs": [encode(tokenizer, row["prompt"], row[field]) for field in fields]}
        )
    return out


def options(tmp_path, **more):
    """Settings under which TRL computes the same thing: no bf16, no checkpointing, no truncation, no logging."""
    return (
        dict(
            output_dir=str(tmp_path),
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            max_length=None,
            use_cpu=True,
            disable_tqdm=True,
            per_device_train_batch_size=8,
        )
        | more
    )


def gradient(model, loss):
    """The gradient of all trained weights as one vector."""
    model.zero_grad()
    loss.backward()
    return torch.cat(
        [
            p.grad.flatten().double()
            for n, p in sorted(model.named_parameters())
            if p.grad is not None and ".default." in n
        ]
    )


def compare(model, ours, theirs):
    """Both losses as closures on the same model -> (|difference|, relative gradient distance), asserted small."""
    loss, other = ours(), theirs()
    mine, others = gradient(model, loss), gradient(model, other)
    assert mine.shape == others.shape and others.norm() > 1e-4
    difference, distance = (
        abs(loss.item() - other.item()),
        ((mine - others).norm() / others.norm()).item(),
    )
    print(f"loss {loss.item():.7f} difference {difference:.1e} gradient distance {distance:.1e}")
    assert difference <= TOLERANCE and distance <= TOLERANCE
    return loss.item()


def set_reference(model, rows):
    """seq["ref"] under the adapter that TRL calls "ref", through our own code."""
    model.set_adapter("ref")
    with torch.no_grad():
        for seq in (seq for row in rows for seq in row["seqs"]):
            seq["ref"] = pack_logps(model, [{"seqs": [seq]}])[0].item()
    model.set_adapter("default")


def batch_of(trainer):
    """All rows of the trainer's data set in their order, collated."""
    columns = {
        "prompt_ids",
        "chosen_ids",
        "rejected_ids",
        "completion_ids",
        "KL_completion_ids",
        "label",
        "input_ids",
        "completion_mask",
        "labels",
        "assistant_masks",
    }
    return trainer.data_collator(
        [{k: v for k, v in row.items() if k in columns} for row in trainer.train_dataset]
    )


def messages(rows, *fields):
    """The normalised rows as a data set in TRL's conversational form."""
    return datasets.Dataset.from_list([{field: row[field] for field in fields} for row in rows])


@pytest.mark.parametrize(("loss", "beta"), [("dpo", 0.1), ("dpo", 0.7), ("ipo", 1.0), ("ipo", 0.1)])
def test_dpo_and_ipo_equal_trl(lora, tmp_path, loss, beta):
    from trl import DPOConfig, DPOTrainer

    tokenizer, model = make_tokenizer(), lora()
    rows = prepared(pair_rows(8), "pairs", tokenizer)
    config = DPOConfig(
        **options(tmp_path), beta=beta, loss_type=[{"dpo": "sigmoid", "ipo": "ipo"}[loss]]
    )
    trainer = DPOTrainer(
        model,
        args=config,
        train_dataset=messages(rows, "prompt", "chosen", "rejected"),
        processing_class=tokenizer,
    )
    model, batch = trainer.model, batch_of(trainer)
    tokens = (
        batch["attention_mask"].sum().item()
    )  # TRL also keeps the line break after the stop token: not trained on
    assert tokens >= sum(len(seq["ids"]) for row in rows for seq in row["seqs"])

    def theirs():
        return trainer.compute_loss(model, align(batch))

    def align(batch):  # the same tokens: nothing after the stop token
        keep = torch.zeros_like(batch["completion_mask"])
        for k, seq in enumerate([row["seqs"][side] for side in (0, 1) for row in rows]):
            assert batch["input_ids"][k, : len(seq["ids"])].tolist() == seq["ids"]
            keep[k, : len(seq["ids"])] = 1
        return batch | {
            "attention_mask": batch["attention_mask"] * keep,
            "completion_mask": batch["completion_mask"] * keep,
        }

    def ours():
        return dpo.pack_loss(model, rows, loss, beta)[0] / len(rows)

    set_reference(model, rows)
    model.eval()
    start = compare_start(ours, theirs)
    assert start == pytest.approx(math.log(2) if loss == "dpo" else 1 / (4 * beta**2), rel=1e-4)
    randomise(model, 2)  # the policy moves away from the reference
    value = compare(model, ours, theirs)
    assert abs(value - start) > 1e-3
    _, sums = dpo.pack_loss(model, rows, loss, beta)
    for name in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
    ):
        assert means(sums)[name] == pytest.approx(
            trainer._metrics["eval"][name][-1], rel=1e-5, abs=1e-5
        ), name


def compare_start(ours, theirs):
    """Both values before step 1."""
    with torch.no_grad():
        mine, other = ours().item(), theirs().item()
    assert mine == pytest.approx(other, rel=TOLERANCE)
    return mine


def test_label_smoothing_equals_trl_on_the_same_ratios(lora, tmp_path):
    """TRL smooths its "aot" loss in DPO's conservative form; on one pair aot's sorting does nothing."""
    from trl import DPOConfig, DPOTrainer

    tokenizer, model = make_tokenizer(), lora()
    rows = prepared(pair_rows(1), "pairs", tokenizer)
    config = DPOConfig(**options(tmp_path), beta=0.3, loss_type=["aot"], label_smoothing=0.2)
    trainer = DPOTrainer(
        model,
        args=config,
        train_dataset=messages(rows, "prompt", "chosen", "rejected"),
        processing_class=tokenizer,
    )
    model, batch = trainer.model, batch_of(trainer)
    for k, seq in enumerate(rows[0]["seqs"]):
        batch["completion_mask"][k, len(seq["ids"]) :] = 0
    set_reference(model, rows)
    randomise(model, 2)
    model.eval()
    compare(
        model,
        lambda: dpo.pack_loss(model, rows, "dpo", 0.3, label_smoothing=0.2)[0],
        lambda: trainer.compute_loss(model, batch),
    )


@pytest.mark.parametrize(("sign", "sizes"), [(1, [8]), (1, [3, 4, 1]), (-1, [8])])
def test_kto_equals_trl(lora, tmp_path, sign, sizes):
    """With KL above zero, in one pack and in three, and with a raw KL below zero, which is clamped."""
    from trl import KTOConfig, KTOTrainer

    tokenizer, model = make_tokenizer(), lora()
    rows = prepared(label_rows(8), "labels", tokenizer)
    config = KTOConfig(**options(tmp_path), beta=0.2, desirable_weight=1.3, undesirable_weight=0.8)
    trainer = KTOTrainer(
        model,
        args=config,
        train_dataset=messages(rows, "prompt", "completion", "label"),
        processing_class=tokenizer,
    )
    model, batch = trainer.model, batch_of(trainer)
    pairs = []
    for k, row in enumerate(
        rows
    ):  # TRL's mismatched pairs: each prompt with the answer of the row before
        seq, other = row["seqs"][0], rows[k - 1]["seqs"][0]
        prompt, answer = seq["ids"][: seq["mask"].index(1)], other["ids"][other["mask"].index(1) :]
        pairs.append({"ids": prompt + answer, "mask": [0] * len(prompt) + [1] * len(answer)})
        row["other"] = pairs[-1]
        batch["completion_mask"][k, len(seq["ids"]) :] = 0
        batch["KL_completion_mask"][k, len(prompt + answer) :] = 0
        assert batch["KL_input_ids"][k, : len(prompt + answer)].tolist() == prompt + answer
    cut = [rows[sum(sizes[:k]) : sum(sizes[: k + 1])] for k in range(len(sizes))]
    policy = raw_kl_above_zero(model, rows, pairs, sign)

    def ours():
        sums = [
            loss
            for loss, _ in kto.answer_losses(model, cut, beta=0.2, weight_good=1.3, weight_bad=0.8)
        ]
        return sum(sums) / len(rows)

    def theirs():
        return trainer.compute_loss(model, batch)

    model.eval()
    start = [p.data.clone() for _, p in sorted(model.named_parameters()) if p.requires_grad]
    copy_adapter(model, "ref", "default")
    good = sum(row["label"] for row in rows)
    assert compare_start(ours, theirs) == pytest.approx(
        0.5 * (1.3 * good + 0.8 * (8 - good)) / 8, rel=1e-4
    )
    for parameter, data in zip(
        [p for _, p in sorted(model.named_parameters()) if p.requires_grad], start
    ):
        parameter.data.copy_(data)
    kl = kto.step_kl(model, cut)[0].item()
    assert (kl > 0.5) if sign > 0 else (kl == 0 and policy < -0.5)
    compare(model, ours, theirs)
    assert trainer._metrics["eval"]["kl"][-1] == pytest.approx(kl, rel=1e-5)


def copy_adapter(model, source, target):
    parameters = dict(model.named_parameters())
    for name in parameters:
        if f".{source}." in name:
            parameters[name.replace(f".{source}.", f".{target}.")].data.copy_(parameters[name].data)


def raw_kl_above_zero(model, rows, pairs, sign):
    """Give the policy a random adapter such that the mean ratio of the mismatched pairs has this sign -> that mean."""
    set_reference(model, rows + [{"seqs": [pair]} for pair in pairs])
    for seed in range(2, 20):
        randomise(model, seed)
        with torch.no_grad():
            ratios = [
                pack_logps(model, [{"seqs": [pair]}])[0].item() - pair["ref"] for pair in pairs
            ]
        mean = sum(ratios) / len(ratios)
        if sign * mean > 0.5:
            return mean
    raise AssertionError("no seed gives such a policy")


def test_sft_equals_trl(lora, tmp_path):
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = make_tokenizer(), lora()
    rows = prepared(sft_rows(8), "sft", tokenizer)
    config = SFTConfig(**options(tmp_path), completion_only_loss=True)
    trainer = SFTTrainer(
        model,
        args=config,
        train_dataset=messages(rows, "prompt", "completion"),
        processing_class=tokenizer,
    )
    model, batch = trainer.model, batch_of(trainer)
    for k, row in enumerate(rows):
        seq = row["seqs"][0]
        assert batch["input_ids"][k, : len(seq["ids"])].tolist() == seq["ids"]
        batch["labels"][k, len(seq["ids"]) :] = -100
    model.eval()
    tokens = sum(sum(row["seqs"][0]["mask"]) for row in rows)
    compare(
        model,
        lambda: sft.pack_loss(model, rows)[0] / tokens,
        lambda: trainer.compute_loss(model, batch),
    )


def test_kl_is_clamped_after_the_mean_and_carries_no_gradient():
    ratio = torch.tensor([3.0, -1.0], requires_grad=True)
    assert kto_kl(ratio).item() == 1.0 and not kto_kl(ratio).requires_grad
