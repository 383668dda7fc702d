"""QLoRA in 4 bits on the CPU: the three trainers run, start where they should, and their adapters load again."""

import math

import pytest
import torch
import transformers
from conftest import ROWS, adapter_of, log_lines, run_main, write

from common import completion_logps
from posttrain.chat.encode import encode
from posttrain.model.load import load_model, load_policy, load_tokenizer, trained
from posttrain.model.names import fingerprint
from posttrain.packed.reader import teach_lines
from posttrain.train.packs import pack_logps

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_two_steps_in_nf4(base, tmp_path, capsys, stage):
    data = write(tmp_path / "data.jsonl", ROWS[stage](4))
    words = [
        "--model",
        base,
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--quantize",
        "nf4",
        "--batch-size",
        2,
        "--lora-r",
        2,
        "--lr",
        0.01,
    ]
    assert run_main(stage, *words) == 0
    lines = log_lines(tmp_path / "run")
    assert len(lines) == 2 and all(
        math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines
    )
    assert stage == "sft" or "before step 1" in capsys.readouterr().out
    assert any(
        tensor.abs().max() > 0
        for name, tensor in adapter_of(tmp_path / "run").items()
        if "lora_B" in name
    )
    model = load_model(str(tmp_path / "run"), "nf4")
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Linear4bit" in kinds  # 4-bit weights, not a silent fallback
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    row = encode(
        tokenizer, [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello"}]
    )
    with torch.no_grad():
        assert math.isfinite(completion_logps(model, [row])[0].item())


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_gradients_in_nf4_equal_those_of_the_same_weights_in_float(base, tokenizer, stage):
    """Gradients must pass through the 4-bit layers, also after a pass without gradient (the reference): against the
    model whose 4-bit weights were unpacked into plain float layers, to 1e-5 relative L2."""
    import bitsandbytes as bnb

    import dpo
    import kto
    import sft
    from posttrain.records.layouts import normalise

    kind, fields = {"dpo": ("pairs", ("chosen", "rejected"))}.get(
        stage, ("labels", ("completion",))
    )
    rows = [normalise(row, kind) for row in ROWS["kto" if stage == "sft" else stage](4)]
    rows = [
        row
        | {
            "weight": 1.0,
            "seqs": [encode(tokenizer, row["prompt"], row[f]) | {"ref": -30.0} for f in fields],
        }
        for row in rows
    ]
    policy = load_policy(base, "nf4", lora_r=2)
    teach_lines(policy)
    generator = torch.Generator().manual_seed(1)
    for parameter in trained(policy):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1

    def gradient():
        policy.zero_grad()
        loss = {
            "sft": lambda: sft.pack_loss(policy, rows),
            "dpo": lambda: dpo.pack_loss(policy, rows, "dpo", 0.1),
            "kto": lambda: kto.pack_loss(
                rows,
                pack_logps(policy, rows)[0][:, 0],
                1.0,
                0.1,
                weight_good=1.0,
                weight_bad=1.0,
            ),
        }[stage]()
        loss[0].backward()
        return torch.cat([parameter.grad.flatten() for parameter in trained(policy)])

    with torch.no_grad():
        pack_logps(policy, rows)
    found = gradient()
    for module in list(policy.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bnb.nn.Linear4bit):
                weight = bnb.functional.dequantize_4bit(
                    child.weight.data, child.weight.quant_state
                ).float()
                plain = torch.nn.Linear(*reversed(weight.shape), bias=False)
                plain.weight = torch.nn.Parameter(weight, requires_grad=False)
                setattr(module, name, plain)
    expected = gradient()
    distance = ((found - expected).norm() / expected.norm()).item()
    print(f"gradient distance {distance:.1e}")
    assert distance <= 1e-5


def test_the_number_format_is_part_of_the_reference_key(base):
    assert fingerprint(base, "nf4") != fingerprint(base, "none")


def saved(model, folder):
    model.save_pretrained(folder)
    return str(folder)


def test_what_is_read_past_a_layer_stays_whole(tmp_path):
    """Mamba's kernels take x_proj, dt_proj and out_proj themselves: as packed numbers they would be noise."""
    config = transformers.MambaConfig(
        vocab_size=320, hidden_size=64, num_hidden_layers=1, state_size=16, time_step_rank=32
    )
    model = load_model(saved(transformers.MambaForCausalLM(config), tmp_path), "nf4")
    mixer = model.backbone.layers[0].mixer
    kinds = {
        name: type(getattr(mixer, name)).__name__ for name in ("in_proj", "x_proj", "out_proj")
    }
    assert kinds == {"in_proj": "Linear4bit", "x_proj": "Linear", "out_proj": "Linear"}
    assert type(model.lm_head).__name__ == "Linear"


def test_layers_of_odd_sizes_stay_whole_on_a_cpu(tmp_path):
    """The kernels there want outputs in blocks of 32 and inputs in blocks of 64."""
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
    )
    model = load_model(saved(transformers.LlamaForCausalLM(config), tmp_path), "nf4")
    layer = model.model.layers[0]
    modules = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    whole = {name for name, module in modules.items() if type(module).__name__ == "Linear"}
    assert whole == {"k_proj", "v_proj", "down_proj"}
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()
