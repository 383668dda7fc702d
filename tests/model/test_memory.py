"""The memory plan, and giving back what a deleted model held."""

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from conftest import make_tokenizer, run_main, sft_rows, write

from posttrain.cli import BadInput
from posttrain.model import memory as memory_room
from posttrain.model.load import load_model, load_policy, load_reference, trained
from posttrain.model.memory import (
    OneInMemory,
    bytes_of_weights,
    free_memory,
    memory_line,
    memory_plan,
    needs_checkpointing,
)
from posttrain.packed.reader import teach_lines


def test_the_memory_plan_counts_what_a_model_has(base, capsys, tmp_path):
    """Weights and adapter of the plan = bytes of a model's tensors; the rest grows with tokens."""
    memory = memory_plan(base, "none", 4, 1000)
    policy = load_policy(base, "none", lora_r=4)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    assert memory["weights"] == 2 * sum(p.numel() for p in frozen)
    assert memory["adapter"] == 10 * sum(p.numel() for p in trained(policy))
    small = memory_plan(base, "nf4", 4, 1000)["weights"]
    linear = sum(
        m.weight.numel()
        for name, m in policy.named_modules()
        if "layers" in name and "base_layer" in name
    )
    assert small == pytest.approx(memory["weights"] - linear * (2 - 0.516))
    assert memory_plan(base, "none", 4, 2000)["activations"] == 2 * memory["activations"]
    assert memory["checkpointed"] < memory["activations"]
    total = sum(memory.values()) - memory["checkpointed"]
    assert needs_checkpointing(memory, 0.999 * total / 0.9)  # 90 % of what is free
    assert not needs_checkpointing(memory, 1.001 * total / 0.9)
    data = write(tmp_path / "d.jsonl", sft_rows(9))
    assert (
        run_main("sft", "--model", base, "--data", data, "--out", tmp_path / "run", "--plan") == 0
    )
    assert "memory   about" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_the_memory_plan_by_hand(base, tmp_path):
    """Two layers of width 64 with inner width 128, 320 words, rank 4, 1,000 tokens; NF4."""
    memory = memory_plan(base, "nf4", 4, 1000)
    matrices = 2 * [(64, 64)] * 4 + 2 * [(64, 128)] * 3  # q, k, v, o; gate, up, down
    assert memory["adapter"] == 10 * sum(4 * (a + b) for a, b in matrices)
    layer = 2 * sum(a + b + 4 for a, b in matrices) / 2 + 16 * 64  # bytes a token
    assert memory["activations"] == 2 * 1000 * layer
    assert memory["checkpointed"] == 1000 * layer + 2 * 1000 * 64 * 2
    assert memory["head"] == 12 * (2**25 // 320) * 320 + 4 * 1000 * 64
    assert memory["dequantise"] == 2 * 64 * 128
    assert memory_plan(base, "none", 4, 1000)["dequantise"] == 0
    assert memory_plan(base, "nf4", None, 1000) == memory_plan(base, "nf4", 16, 1000)
    config = json.loads((Path(base) / "config.json").read_text()) | {"vocab_size": 2**25}
    (tmp_path / "config.json").write_text(json.dumps(config))
    large = memory_plan(str(tmp_path), "nf4", 4, 1000)
    assert large["head"] == 12 * 16 * 2**25 + 4 * 1000 * 64, "at least 16 tokens of it"


def test_what_is_free_is_asked_of_the_gpu(monkeypatch):
    """90 % of it may be taken; a CPU has no limit."""
    assert not needs_checkpointing({"weights": 10**18})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 10**9))
    assert needs_checkpointing({"weights": 950}) and not needs_checkpointing({"weights": 850})


def test_the_memory_line_by_hand():
    parts = {
        "weights": 4,
        "experts": 0,
        "adapter": 1,
        "activations": 8,
        "checkpointed": 2,
        "head": 0.5,
        "dequantise": 0.25,
    }
    line = memory_line({name: gib * 2**30 for name, gib in parts.items()})
    assert line == (
        "memory   about 7.8 GiB on a GPU with gradient checkpointing, 13.8 without "
        "(weights 4.00, adapter 1.00, head 0.50, dequantise 0.25, activations 2.00 or 8.00)"
    )
    line = memory_line({name: gib * 2**30 for name, gib in (parts | {"experts": 3}).items()})
    assert "about 10.8 GiB" in line and "weights 4.00, experts 3.00, adapter" in line


def mixture():
    """Two layers of width 64, each with 4 experts of inner width 96, of which 2 read a token."""
    return transformers.MixtralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
    )


def test_the_plan_of_a_mixture_by_hand(tmp_path):
    """nf4 leaves experts in bf16; each has an adapter of half the rank, and they are copied."""
    mixture().save_pretrained(tmp_path)
    memory = memory_plan(str(tmp_path), "nf4", 4, 1000)
    attention = 2 * [(64, 64)] * 4
    experts = 2 * [(2 * 96, 64), (64, 96)]
    expert_numbers = 4 * sum(a * b for a, b in experts)
    assert memory["experts"] == 2 * expert_numbers
    others = 2 * 320 * 64 + 5 * 64 + 2 * 4 * 64  # embeddings and head, norms, routers
    quantised = sum(a * b for a, b in attention)
    assert memory["weights"] == pytest.approx(0.516 * quantised + 2 * others)
    numbers = 4 * sum(a + b for a, b in attention) + 4 * 2 * sum(a + b for a, b in experts)
    assert memory["adapter"] == 10 * numbers

    kept = sum(a + b + 4 for a, b in attention) + 2 * sum(a + b + 2 for a, b in experts)
    kept += 2 * (4 + 64 + 4)  # the routers
    layer = 1000 * (2 * kept / 2 + 16 * 64) + 2 * expert_numbers / 2
    assert memory["activations"] == pytest.approx(2 * layer)
    assert memory["checkpointed"] == pytest.approx(layer + 2 * 1000 * 64 * 2)
    assert memory["dequantise"] == 2 * 64 * 64, "no tensor of experts is unpacked"


def test_what_nf4_leaves_is_counted_whole(tmp_path):
    """Of Mamba's matrices in_proj alone is in 4 bits; a matrix that layers share counts once."""
    config = transformers.Mamba2Config(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
        num_heads=4,
        head_dim=32,
        n_groups=1,
    )
    config.save_pretrained(tmp_path)
    model = transformers.Mamba2ForCausalLM(config)
    total = sum(p.numel() for p in model.parameters())
    quantised = 2 * model.backbone.layers[0].mixer.in_proj.weight.numel()
    plan = memory_plan(str(tmp_path), "nf4", 4, 1000)
    assert plan["weights"] == pytest.approx(0.516 * quantised + 2 * (total - quantised))

    shared = transformers.MixtralForCausalLM(mixture())
    layers = [layer.self_attn for layer in shared.model.layers]
    layers[1].q_proj.weight = layers[0].q_proj.weight
    before, _ = bytes_of_weights(transformers.MixtralForCausalLM(mixture()), True, 2)
    after, _ = bytes_of_weights(shared, True, 2)
    assert before - after == pytest.approx(0.516 * 64 * 64)


def test_experts_that_do_not_fit_are_refused_with_their_size(tmp_path, monkeypatch):
    """Before anything is loaded, with the real size: by loading, and by a plan on a GPU."""
    folder = str(tmp_path / "mixture")
    transformers.MixtralForCausalLM(mixture()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    load_model(folder)
    whole = 4 * sum(p.numel() for p in load_model(folder).parameters())
    monkeypatch.setattr(memory_room, "free_bytes", lambda: whole)
    load_model(folder)
    monkeypatch.setattr(memory_room, "free_bytes", lambda: whole - 1)
    monkeypatch.setattr(memory_room, "GIB", 1)
    experts = 4 * 2 * 4 * 3 * 64 * 96
    with pytest.raises(
        BadInput, match=rf"{whole}.0 GiB, {experts}.0 of them experts, which 4 bits"
    ):
        load_model(folder)
    data = write(tmp_path / "d.jsonl", sft_rows(9))
    words = ["--model", folder, "--data", data, "--out", tmp_path / "run"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (experts / 2, 10**9))
    for more in ([], ["--plan"]):
        with pytest.raises(BadInput, match=f"{experts // 2}.0 of them experts"):
            run_main("sft", *words, *more)
    assert not (tmp_path / "run").exists()


def test_a_deleted_reference_leaves_the_memory(base, tokenizer):
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


def test_plans_of_other_kinds(tmp_path):
    """GPT-2 has no torch Linear; a config that contradicts itself."""
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=40)
    config.save_pretrained(tmp_path / "gpt2")
    memory = memory_plan(str(tmp_path / "gpt2"), "nf4", 4, 100)
    assert memory["dequantise"] == 2 * 4 * 32 * 32 and memory["adapter"] > 0
    config = json.loads((tmp_path / "gpt2/config.json").read_text()) | {"n_head": 7}
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="gpt2: "):
        memory_plan(str(tmp_path / "gpt2"), "nf4", 4, 100)


class Model:
    """Stands for a model: counts how many are alive."""

    alive = 0
    most = 0

    def __init__(self):
        Model.alive += 1
        Model.most = max(Model.most, Model.alive)
        self.itself = self  # a circle, as patched models are

    def __del__(self):
        Model.alive -= 1


def test_one_model_is_in_memory():
    held = OneInMemory()
    first = id(held.get("a", Model))
    assert id(held.get("a", Model)) == first and Model.alive == 1
    held.get("b", Model)
    held.get("a", Model)
    assert (Model.alive, Model.most, held.name) == (1, 1, "a")


def test_a_model_that_cannot_be_loaded_is_not_held():
    held = OneInMemory()
    held.get("a", list)
    try:
        held.get("b", lambda: 1 / 0)
    except ZeroDivisionError:
        pass
    assert held.name is None and held.get("b", dict) == {}
