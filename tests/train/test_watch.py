"""What is watched while a run trains; mixtures by slice; soft labels; self-check; the memory plan; two processes."""

import json
import math
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, adapter_of, label_rows, log_lines, pair_rows, run_main, same_tensors, sft_rows, write

import dpo
from common import dpo_loss, ipo_loss
from posttrain.chat.encode import encode, prompt_ids
from posttrain.cli import BadInput
from posttrain.model.load import load_policy, load_reference, load_tokenizer
from posttrain.model.memory import free_memory, memory_plan, needs_checkpointing
from posttrain.model.names import resolve_model
from posttrain.packed.reader import teach_lines
from posttrain.processes import trained
from posttrain.records.layouts import normalise
from posttrain.records.mixture import read_mixture
from posttrain.train import watch
from posttrain.train.curves import curves
from posttrain.train.metrics import means, tally
from posttrain.train.order import batches
from posttrain.train.packs import pack_logps, packs
from posttrain.train.reference import reference_logps
from posttrain.train.rows import hold_out
from posttrain.train.watch import say, some_prompts, trouble

SMALL = ["--batch-size", 8, "--lora-r", 2, "--lr", 0.01]


def rows_of(count, make=pair_rows, **more):
    return [row | {"slice": ("a", "b", "c")[n % 3]} | more for n, row in enumerate(make(count))]


@pytest.fixture(scope="module")
def watched(base, tmp_path_factory):
    """A DPO run of 170 pairs, eight of them held out, looked at in every second step."""
    folder = tmp_path_factory.mktemp("watched")
    data = write(folder / "data.jsonl", rows_of(170))
    words = ["--model", base, "--data", data, "--out", folder / "run", *SMALL, "--max-steps", 4, "--eval-every", 2]
    assert run_main("dpo", *words) == 0
    return words, folder / "run"


# ---- held-out rows and what the policy says ------------------------------------------------------------------


def test_held_out_prompts_are_not_trained_on():
    rows = [{"prompt": f"q{n // 2}"} for n in range(400)]
    train, held = hold_out(rows, 0.05, 0)
    assert len(held) == 20 and len(train) + len(held) == 400
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}, "a prompt's answers stay together"
    assert hold_out(rows, 0.05, 0) == (train, held) != hold_out(rows, 0.05, 1)
    assert hold_out(rows[:100], 0.05, 0) == (rows[:100], []), "five rows say nothing"
    assert len(hold_out(rows * 10, 0.5, 0)[1]) == 60 and hold_out(rows, 0, 0)[1] == []  # 20 a prompt
    two = [{"prompt": f"q{n % 2}"} for n in range(200)]
    assert hold_out(two, 0.05, 0) == (two, []), "a prompt of 100 rows is too much for ten"


def test_a_run_is_scored_on_rows_it_does_not_see(watched, base):
    """eval_loss of the last line = the saved adapter on the held-out rows, from the start."""
    words, out = watched
    lines = log_lines(out)
    assert ["eval_loss" in line for line in lines] == [True, True, False, True]
    tokenizer = load_tokenizer(base)
    rows = [dpo.encode_pair(tokenizer, row, 2048) for row in read_mixture([words[3]], "pairs")]
    train, held = hold_out(rows, 0.05, 0)
    assert len(held) == 8
    reference, policy = load_policy(base), load_policy(str(out))
    teach_lines(reference)
    teach_lines(policy)
    reference_logps(reference, held, 4096, "test", out.parent / "test/x")
    with torch.no_grad():
        sums = dpo.batch_loss(policy, held, "dpo", 0.1)[1]
    assert means(sums)["loss"] == pytest.approx(lines[-1]["eval_loss"], rel=1e-5)
    assert lines[-1]["eval_rewards/margins"] == pytest.approx(means(sums)["rewards/margins"], abs=1e-5)


def test_the_sampled_kl_is_the_kl(base):
    """Against the exact KL of every step along the same answers, from both full distributions."""
    tokenizer, policy = load_tokenizer(base), load_policy(base, lora_r=4)
    teach_lines(policy)
    start = [p.detach().clone() for p in trained(policy)]
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": f"{n} the cat"}]) for n in range(60)]
    assert say(policy, tokenizer, start, prompts[:4], 0)["sampled_kl"] == pytest.approx(0, abs=1e-9)
    generator = torch.Generator().manual_seed(3)
    for parameter in trained(policy):
        parameter.data += 0.06 * torch.randn(parameter.shape, generator=generator)
    moved = [p.detach().clone() for p in trained(policy)]
    answers, real = [], watch.sample
    watch.sample = lambda *given: answers.extend(real(*given)) or answers
    try:
        found = say(policy, tokenizer, start, prompts, 0)
    finally:
        watch.sample = real
    assert all(torch.equal(p, value) for p, value in zip(trained(policy), moved)), "the policy is back"
    exact = 0.0
    for prompt, [answer] in zip(prompts, answers):
        ids, logs = torch.tensor([prompt + answer["ids"]]), []
        for values in (moved, start):
            for parameter, value in zip(trained(policy), values):
                parameter.data.copy_(value)
            with torch.no_grad():
                logs.append(policy(input_ids=ids).logits[0, len(prompt) - 1:-1].double().log_softmax(-1))
        exact += (logs[0].exp() * (logs[0] - logs[1])).sum().item()
    assert exact / 60 > 0.5 and found["sampled_kl"] == pytest.approx(exact / 60, rel=0.15)
    assert found["sampled_tokens"] == sum(len(a["ids"]) for a, in answers) / 60


def test_max_kl_stops_a_run_and_keeps_its_adapter(base, tmp_path, monkeypatch, capsys):
    words = ["--model", base, "--data", write(tmp_path / "data.jsonl", rows_of(60)), *SMALL, "--eval-every", 1]
    assert run_main("dpo", *words, "--out", tmp_path / "run", "--max-kl", 1e-6) == 0
    lines, record = log_lines(tmp_path / "run"), json.loads((tmp_path / "run/run.json").read_text())
    assert len(lines) < 8 and lines[-1]["sampled_kl"] > 1e-6 and record["finished"]
    assert record["stopped"].startswith("sampled_kl") and "--max-kl" in capsys.readouterr().out
    assert resolve_model(str(tmp_path / "run"))[1] and adapter_of(tmp_path / "run")
    assert all(line["sampled_kl"] <= 1e-6 for line in lines[:-1])

    def die(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # killed between its end and its adapter
        patch.setattr(dpo, "save_adapter", die)
        run_main("dpo", *words, "--out", tmp_path / "again", "--max-kl", 1e-6)
    assert run_main("dpo", *words, "--out", tmp_path / "again", "--max-kl", 1e-6) == 0
    assert same_tensors(adapter_of(tmp_path / "run"), adapter_of(tmp_path / "again"))
    assert log_lines(tmp_path / "again") == lines


def chosen(value, rejected, tokens=10.0):
    return {"step": 1, "rewards/chosen": value, "rewards/rejected": rejected, "tokens/chosen": tokens}


def test_signs_of_trouble():
    """Chosen answers 0.1 nats a token below the reference: a warning, with the cause; above it none."""
    fine = [chosen(0.5, -0.5)] * 8
    assert trouble(fine, 0.1) == {} == trouble([chosen(-0.1, -0.9)] * 7, 0.1)
    assert trouble([chosen(-0.04, -0.9)] * 8, 0.1) == {}  # 0.04 nats a token
    sinks = trouble([chosen(-0.1, -0.9)] * 8, 0.1)["chosen"]
    assert "0.10 nats a token" in sinks and "margin still grows" in sinks and "--nll-weight" in sinks
    assert "too large" in trouble([chosen(-0.1, -0.05)] * 8, 0.1)["chosen"]

    def said(tokens, repetition):
        return {"step": 1, "sampled_tokens": tokens, "sampled_repetition": repetition}
    assert trouble([said(20, 0.0), said(33, 0.05)], 0.1) == {}
    assert {*trouble([said(20, 0.0), said(35, 0.2)], 0.1)} == {"length", "repetition"}
    still = [{"step": 1, "grad_norm": 0.3, "rewards/chosen": 0.0, "rewards/rejected": 0.0}] * 3
    assert {*trouble(still, 0.1)} == {"still"} and trouble(still) == {} == trouble(still[:2], 0.1)
    assert trouble([*still[:2], still[2] | {"rewards/rejected": -1e-6}], 0.1) == {}
    assert "nothing is being trained" in trouble([{"step": 1, "grad_norm": 0.0}])["gradient"]
    held = [{"step": 1, "eval_loss": loss} for loss in (0.7, 0.6, 0.5, 0.55)]
    assert trouble(held) == {} and "memorised" in trouble([*held, held[0]])["held out"]


def test_a_run_that_sinks_its_chosen_answers_says_so_once(base, tmp_path, capsys):
    """Pairs whose answers nearly agree, a large step: both sink, which is what the warning is for."""
    rows = [row | {"rejected": row["chosen"] + " house"} for row in pair_rows(8)]
    assert run_main("dpo", "--model", base, "--data", write(tmp_path / "d.jsonl", rows), "--out", tmp_path / "run",
                    "--batch-size", 8, "--lr", 0.05, "--epochs", 25, "--beta", 0.1) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("the chosen answers have lost") == 1


def test_a_renamed_folder_is_continued_where_it_is(base, tmp_path, monkeypatch):
    import sft

    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", sft_rows(9)), *SMALL, "--save-every", 1]

    def die(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft, "save_adapter", die)
        run_main("sft", *words, "--out", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert run_main("sft", *words, "--out", tmp_path / "two") == 0
    assert json.loads((tmp_path / "two/run.json").read_text())["finished"] and not (tmp_path / "one").exists()


def test_a_damaged_checkpoint_is_named(base, tmp_path):
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", sft_rows(9)), *SMALL, "--out", tmp_path / "run"]
    assert run_main("sft", *words) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(record | {"finished": False}))
    for content in (b"", b"text", b"PK\x03\x04 torn"):
        (tmp_path / "run/checkpoint.pt").write_bytes(content)
        with pytest.raises(BadInput, match="checkpoint.pt is damaged"):
            run_main("sft", *words)


def test_curves_are_drawn(watched):
    words, out = watched
    text = (out / "log.jsonl").read_text()
    (out / "log.jsonl").write_text(text.replace('"a": {', '"price_$5_to_$10": {').replace('"b": {', '"_b": {'))
    curves(out)
    data = (out / "curves.png").read_bytes()
    assert data[:4] == b"\x89PNG" and len(data) > 20_000


def test_a_tracker_gets_every_step(base, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", sft_rows(9)), *SMALL, "--max-steps", 2]
    assert run_main("sft", *words, "--out", tmp_path / "run", "--track", "tensorboard") == 0
    events = EventAccumulator(str(next((tmp_path / "run/tracker").glob("events*")).parent)).Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([x["loss"] for x in log_lines(tmp_path / "run")])
    for name in ("nonsense", "wandb"):  # not known, not installed
        with pytest.raises(BadInput, match=f"--track {name}"):
            run_main("sft", *words, "--out", tmp_path / "other", "--track", name)


# ---- mixtures, slices, labels --------------------------------------------------------------------------------


def test_a_picture_costs_no_run(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": "much"}\n{"step"')
    curves(tmp_path)
    assert "curves.png could not be drawn (JSONDecodeError" in capsys.readouterr().out


def test_a_slice_has_its_weight_and_its_own_numbers(base, tmp_path):
    data = write(tmp_path / "data.jsonl", rows_of(24))
    rows = read_mixture([f"{data}=2"], "pairs", slices=["b=0.5"])
    steps = batches(rows, 10, 1, 0)
    drawn = [rows[n]["slice"] for step in steps for n in step]
    assert {name: drawn.count(name) for name in "abc"} == {"a": 16, "b": 8, "c": 16}
    assert all(abs(sum(rows[n]["slice"] == "b" for n in step) - 2) <= 1 for step in steps)
    with pytest.raises(BadInput, match="no row has the slice d .*a, b, c"):
        read_mixture([data], "pairs", slices=["d=2"])
    assert run_main("dpo", "--model", base, "--data", data, "--out", tmp_path / "run", *SMALL, "--slice-weight",
                    "b=2") == 0
    for line in log_lines(tmp_path / "run"):
        assert line["slices"].keys() == {"a", "b", "c"}
        parts = line["slices"].values()
        assert min(p["loss"] for p in parts) - 1e-9 <= line["loss"] <= max(p["loss"] for p in parts) + 1e-9


def test_a_mixture_that_would_do_nothing_is_refused(base, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", rows_of(24))
    with pytest.raises(BadInput, match="expected SLICE=WEIGHT"):
        read_mixture([data], "pairs", slices=["b"])
    with pytest.raises(BadInput, match="slice b: 8 rows at weight 0.05 are less than one a pass"):
        batches(read_mixture([data], "pairs", slices=["b=0.05"]), 10, 1, 0)
    with pytest.raises(SystemExit):
        dpo.parse_args(["--model", base, "--data", data, "--out", "x", "--max-kl", "1", "--eval-every", "0"])
    assert "--eval-every must be above 0" in capsys.readouterr().err


def test_means_by_slice_by_hand():
    pack = [{"slice": "a"}, {"slice": "b"}, {"slice": "b"}]
    sums = tally(pack, torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 1.0]),
                          {"x": torch.tensor([1.0, math.nan, 5.0])})
    found = means(sums)
    assert found["loss"] == pytest.approx((1 + 6 + 4) / 5) and found["x"] == 3.0
    assert found["slices"] == {"a": {"loss": 1.0, "x": 1.0}, "b": {"loss": 2.5, "x": 5.0}}
    assert "slices" not in means(tally(pack[1:], torch.ones(2), torch.ones(2), {}))


def test_soft_labels_are_the_expected_loss(tokenizer, model):
    """A row of p = 0.8 loses what 0.8 of its pair and 0.2 of the turned pair lose, as with a smoothing of 0.2."""
    teach_lines(model.requires_grad_(False))
    row = {"weight": 1.0} | normalise(pair_rows(1)[0] | {"p": 0.8}, "pairs")
    row["seqs"] = [encode(tokenizer, row["prompt"], row[side]) | {"ref": ref}
                   for side, ref in (("chosen", -25.0), ("rejected", -31.0))]
    with torch.no_grad():
        logps, tokens = pack_logps(model, [row])
        ratio = logps - torch.tensor([[-25.0, -31.0]])
        for loss, function, parts in (("dpo", dpo_loss, ratio), ("ipo", ipo_loss, ratio / tokens)):
            one, other = parts.unbind(1)
            expected = 0.8 * function(one, other, 0.3) + 0.2 * function(other, one, 0.3)
            found = dpo.batch_loss(model, [row], loss, 0.3, 0.0, "mean", True)[0]
            assert found.item() == pytest.approx(expected.item(), rel=1e-6)
            assert dpo.batch_loss(model, [row], loss, 0.3, 0.2)[0].item() == pytest.approx(expected.item(), rel=1e-6)
            assert found.item() != pytest.approx(dpo.batch_loss(model, [row], loss, 0.3)[0].item(), rel=1e-2)
        with_nll = dpo.batch_loss(model, [row], "dpo", 0.3, nll_weight=0.7)[0]
        plain = dpo.batch_loss(model, [row], "dpo", 0.3)[0]
    assert (with_nll - plain).item() == pytest.approx(-0.7 * (logps[0, 0] / tokens[0, 0]).item(), rel=1e-6)
    with pytest.raises(BadInput, match="'p': expected a number from 0 to 1"):
        normalise(pair_rows(1)[0] | {"p": 1.2}, "pairs")


def test_soft_labels_need_a_probability_in_every_row(base, tmp_path):
    data = write(tmp_path / "d.jsonl", [row | {"p": 0.9} for row in pair_rows(3)] + [pair_rows(4)[3]])
    with pytest.raises(BadInput, match="--soft-labels: 1 of 4 pairs have no 'p'"):
        run_main("dpo", "--model", base, "--data", data, "--out", tmp_path / "run", "--soft-labels")


# ---- self-check, memory, processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "make"), [("sft", sft_rows), ("dpo", pair_rows), ("kto", label_rows)])
def test_selfcheck_passes(base, tmp_path, capsys, stage, make):
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", make(9)), "--out", tmp_path / "run", *SMALL]
    assert run_main(stage, *words, "--max-steps", 1, "--selfcheck") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("selfcheck")]
    assert len(lines) == (5 if stage == "sft" else 6) and all("selfcheck ok" in line for line in lines)


@pytest.mark.parametrize("fault", ["head", "positions", "reference"])
def test_selfcheck_finds_planted_faults(base, tmp_path, monkeypatch, capsys, fault):
    from posttrain.packed import reader
    from posttrain.packed.head import HeadLogps
    from posttrain.packed.lines import lay_out

    if fault == "head":  # a gradient that is ten per cent too large
        real = HeadLogps.backward
        monkeypatch.setattr(HeadLogps, "backward",
                            staticmethod(lambda ctx, grad: (real(ctx, grad)[0] * 1.1, *[None] * 6)))
    if fault == "positions":
        def broken(seqs, *rest, **more):
            line = lay_out(seqs, *rest, **more)
            line.positions = line.positions + torch.arange(len(line.ids)) // 3
            return line

        def teach_then_break(model):  # after the check that teach_lines makes
            reader.teach_lines(model)
            monkeypatch.setattr(reader, "lay_out", broken)
        monkeypatch.setattr(dpo, "teach_lines", teach_then_break)
    if fault == "reference":
        real = dpo.reference_logps

        def stale(model, rows, *rest):
            tokens = real(model, rows, *rest)
            rows[0]["seqs"][0]["ref"] += 0.002
            return tokens
        monkeypatch.setattr(dpo, "reference_logps", stale)
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", pair_rows(9)), "--out", tmp_path / "run", *SMALL]
    with pytest.raises(BadInput, match="self-check failed"):
        run_main("dpo", *words, "--batch-size", 9, "--selfcheck")
    assert "selfcheck FAILED" in capsys.readouterr().out


def test_the_memory_plan_counts_what_a_model_has(base, capsys, tmp_path):
    """Weights and adapter of the plan = bytes of a loaded model's tensors; the rest grows with the tokens."""
    memory = memory_plan(base, "none", 4, 1000)
    policy = load_policy(base, "none", 4)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    assert memory["weights"] == 2 * sum(p.numel() for p in frozen)
    assert memory["adapter"] == 10 * sum(p.numel() for p in trained(policy))
    small = memory_plan(base, "nf4", 4, 1000)["weights"]
    linear = sum(m.weight.numel() for name, m in policy.named_modules() if "layers" in name and "base_layer" in name)
    assert small == pytest.approx(memory["weights"] - linear * (2 - 0.516))
    assert memory_plan(base, "none", 4, 2000)["activations"] == 2 * memory["activations"]
    assert memory["checkpointed"] < memory["activations"]
    total = sum(memory.values()) - memory["checkpointed"]
    assert needs_checkpointing(memory, total) and not needs_checkpointing(memory, 1.2 * total)
    data = write(tmp_path / "d.jsonl", sft_rows(9))
    assert run_main("sft", "--model", base, "--data", data, "--out", tmp_path / "run", "--plan") == 0
    assert "memory   about" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_a_deleted_reference_leaves_the_memory(base, tokenizer):
    import gc
    import weakref

    gc.disable()
    try:
        other = load_reference(base, tokenizer, "none")
        teach_lines(other)
        left = weakref.ref(other.lm_head.weight)
        del other
        assert left() is not None, "nothing to free: the test says nothing"
        free_memory()
        assert left() is None
    finally:
        gc.enable()


def test_plans_and_adapters_of_other_kinds(base, tmp_path):
    """GPT-2 has no torch Linear; IA3 is no LoRA; a config that contradicts itself; learned positions end early."""
    import transformers
    from peft import IA3Config, get_peft_model

    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=40)
    config.save_pretrained(tmp_path / "gpt2")
    memory = memory_plan(str(tmp_path / "gpt2"), "nf4", 4, 100)
    assert memory["dequantise"] == 2 * 4 * 32 * 32 and memory["adapter"] > 0
    config = json.loads((tmp_path / "gpt2/config.json").read_text()) | {"n_head": 7}
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="gpt2: "):
        memory_plan(str(tmp_path / "gpt2"), "nf4", 4, 100)
    other = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"))
    other.save_pretrained(tmp_path / "ia3")
    with pytest.raises(BadInput, match="another kind than LoRA"):
        load_policy(str(tmp_path / "ia3"))
    (tmp_path / "ia3/adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="names no base model"):
        resolve_model(str(tmp_path / "ia3"))
    policy = load_policy(base)
    policy.config.max_position_embeddings = 60
    rows = [{"seqs": [{"ids": [5] * length + [6], "mask": [0] * length + [1]}]} for length in (12, 13, 5)]
    assert list(map(len, some_prompts(rows, policy))) == [12, 5] and some_prompts(rows[1:2], policy) == []
    with pytest.raises(BadInput, match="--max-kl"):
        some_prompts(rows[1:2], policy, 1.0)


def test_checkpointing_changes_nothing(base, tokenizer):
    rows = [{"weight": 1.0} | normalise(row, "sft") for row in sft_rows(5)]
    for row in rows:
        row["seqs"] = [encode(tokenizer, row["prompt"], row["completion"])]
    slopes, calls = [], []
    for checkpointing in (False, True):
        policy = load_policy(base, "none", 4, checkpointing=checkpointing)
        teach_lines(policy)
        before = len(calls)
        policy.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *given: calls.append(1))
        pack_logps(policy, rows)[0].sum().backward()
        assert len(calls) - before == 1 + checkpointing, "the layer is computed anew in the backward pass"
        slopes.append(torch.cat([p.grad.flatten() for p in trained(policy)]))
    assert slopes[0].norm() > 0 and torch.allclose(*slopes, rtol=1e-5, atol=1e-7)


def launch(config, stage, *words):
    """`accelerate launch` of a stage with data/accelerate/<config>.yaml: two processes, on a CPU with gloo."""
    file, port = ROOT / f"data/accelerate/{config}.yaml", random.SystemRandom().randrange(20000, 60000)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--main_process_port", port,
               ROOT / f"{stage}.py", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=280,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(("stage", "config", "quantize"), [
    ("sft", "ddp", "none"), ("dpo", "fsdp", "nf4"), ("kto", "fsdp", "none"),
    pytest.param("dpo", "ddp", "none", marks=pytest.mark.slow),
    pytest.param("kto", "ddp", "none", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(base, tmp_path, stage, config, quantize):
    """Log and adapter of the run in one process, to rounding; with FSDP each process holds half the weights."""
    make = {"sft": sft_rows, "dpo": pair_rows, "kto": label_rows}[stage]
    words = ["--model", base, "--data", write(tmp_path / "d.jsonl", rows_of(11, make)), "--batch-size", 5, "--lora-r",
             2, "--lr", 0.01, "--pack-tokens", 70, "--eval-every", 1, "--quantize", quantize]
    assert run_main(stage, *words, "--out", tmp_path / "one/run") == 0
    ended = launch(config, stage, *words, "--out", tmp_path / "two/run")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("result ") == 1
    parts = re.findall(r"fsdp +([\d.]+) of ([\d.]+) MiB", ended.stdout)
    assert [2 * float(part) for part, _ in parts] == pytest.approx([float(all_) for _, all_ in parts], abs=0.2)
    assert len(parts) == (config == "fsdp")
    one, two = log_lines(tmp_path / "one/run"), log_lines(tmp_path / "two/run")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in a.keys() - {"slices"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name
    tensors = adapter_of(tmp_path / "one/run"), adapter_of(tmp_path / "two/run")
    assert max((tensors[0][name] - tensors[1][name]).abs().max() for name in tensors[0]) < 1e-4  # steps of 1e-2


def test_no_process_waits_for_one_that_refuses(tmp_path):
    """The first alone opens the run record; when it refuses, all do."""
    code = """if 1:
        import atexit, sys, torch.distributed as dist
        from posttrain.cli import BadInput, run
        from posttrain.processes import from_first
        atexit.register(dist.destroy_process_group)  # as join_processes does
        dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
        def refuse():
            raise BadInput(f"process {dist.get_rank()} refuses")
        print(from_first(lambda: dist.get_rank() + 5))
        run(lambda args: from_first(refuse), None)"""
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "store", str(rank)], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, cwd=ROOT) for rank in range(2)]
    for process in started:
        printed = process.communicate(timeout=120)[0]
        assert process.returncode == 2 and "5\n" in printed and "process 0 refuses" in printed


def test_fsdp_hands_the_line_itself_to_the_layers():
    """On a GPU it copies every dict among a model's arguments, and what the layers count in it would be lost."""
    from torch.distributed.utils import _to_kwargs

    from posttrain.packed.lines import lay_out

    line = lay_out([{"ids": [1, 2, 3], "mask": [0, 1, 1]}])
    assert _to_kwargs((), {"line": line}, torch.device("cpu"), False)[1][0]["line"] is line


def test_every_process_reads_as_many_packs():
    rows = [{"id": n, "weight": 2.0, "seqs": [{"ids": [n] * 10, "mask": [0] * 5 + [1] * 5}]} for n in range(7)]
    for size in (1, 2, 3, 16):
        shares = [packs(rows, 20, rank, size) for rank in range(size)]
        assert {len(share) for share in shares} == {math.ceil(4 / size)}
        read = [row for share in shares for pack in share for row in pack]
        assert sorted(row["id"] for row in read if row["weight"]) == [*range(7)]
    copies = packs(rows, 20, 1, 3)[1]
    sums = tally(copies, torch.ones(1), torch.zeros(1), {"x": torch.ones(1)})
    assert [row["weight"] for row in copies] == [0.0] and not sums
    assert packs([], 20, 1, 2) == []
