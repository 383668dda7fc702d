"""Where LoRA lies: on every matrix of the text layers that can have one, and what is left out is said."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from architectures import LATENT, ROUTED, tiny, tiny_config

from posttrain.cli import BadInput
from posttrain.model import adapter as adapter_room
from posttrain.model.adapter import (
    EXPERTS,
    INDEXERS,
    LINEAR,
    MAMBA,
    ROUTERS,
    adapted_weights,
    add_adapter,
    decoder_of,
    last_word,
    matrices_of,
    reach_line,
    reach_of,
    short_names,
    targets_of,
)

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
FUSED = {"gate_up_proj", "down_proj"}
CASES = {  # what has an adapter, what has not
    "mixtral": (ATTENTION | FUSED, {ROUTERS}),
    "gpt_oss": (ATTENTION | FUSED, {ROUTERS}),
    "phimoe": (ATTENTION | FUSED, {ROUTERS}),
    "gemma3": (ATTENTION | MLP, set()),
    "mamba2": ({"in_proj"}, {MAMBA}),
    "gpt2": ({"c_attn", "c_proj", "c_fc"}, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_has_an_adapter(name):
    """Every matrix of every text layer; nothing in a vision tower, and not the output layer."""
    model = tiny(name)
    linear = [m for m in matrices_of(model) if m.kind in (LINEAR, EXPERTS)]
    others = {m.kind for m in matrices_of(model)} - {LINEAR, EXPERTS}
    model = add_adapter(model, 2, None, 0)
    adapted = adapted_weights(model.get_base_model())
    assert adapted == {matrix.name for matrix in linear}
    words = {last_word(name.removesuffix(".weight")) for name in adapted}
    assert (words, others) == CASES[name]
    assert not any("vision" in name or "lm_head" in name for name in adapted)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "ernie4_5_moe"])
def test_an_expert_has_a_smaller_rank_and_the_same_scale(name):
    """Two experts read a token: 8 / 2 = 4 for each, and B A is multiplied by 2 everywhere."""
    model = add_adapter(tiny(name), 8, None, 0)
    seen = set()
    for module in model.modules():
        if hasattr(module, "lora_A") and len(module.lora_A):
            is_experts = hasattr(module, "parameter_name")
            assert module.r["default"] == (4 if is_experts else 8)
            assert module.scaling["default"] == 2
            seen.add(is_experts)
    assert seen == {True, False}


@pytest.mark.parametrize("name", [*CASES, "ernie4_5_moe"])
def test_every_adapter_learns_and_comes_back(name, tmp_path):
    """Each B has a gradient, so no adapter lies where nothing reads it; a saved one says the same."""
    model = add_adapter(tiny(name), 4, None, 0)
    ids = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for name, parameter in trained:
        assert parameter.grad is not None, name
        assert ("lora_B" in name) == bool(parameter.grad.any()), name
        parameter.data += 0.1
    model.save_pretrained(tmp_path)
    from peft import PeftModel

    torch.manual_seed(0)
    again = PeftModel.from_pretrained(model.unload(), tmp_path)
    saved = dict(again.named_parameters())
    assert all(torch.equal(saved[name], parameter) for name, parameter in trained)


def test_names_that_peft_takes_for_experts_are_left_out():
    """gate_proj, up_proj and down_proj beside the experts: peft would drop them without a word."""
    model = add_adapter(tiny("ernie4_5_moe"), 2, None, 0)
    reach = reach_of(model)
    assert "model.layers.1.mlp.experts.gate_up_proj" in reach.layers
    left_out = set(reach.left_out) - {ROUTERS}
    assert left_out == {f"{place}.{name}" for place in ("mlp", "shared_experts") for name in MLP}
    assert all(name.split(".")[-1] in reach_line(model) for name in left_out)


def test_the_share_by_hand():
    """Of two Mixtral layers the routers alone, 2 x 4 x 64 numbers, have no adapter."""
    model = add_adapter(tiny("mixtral"), 2, None, 0)
    attention = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64)
    experts = 2 * 4 * (64 * 2 * 96 + 96 * 64)
    routers = 2 * 4 * 64
    reach = reach_of(model)
    assert reach.share == (attention + experts) / (attention + experts + routers)
    assert reach.left_out == {ROUTERS: routers}
    assert reach_line(model) == (
        "lora     rank 2, scale 2, on 99.7% of the weights in matrices (2 down_proj, "
        "2 gate_up_proj, 2 k_proj, 2 o_proj, 2 q_proj, 2 v_proj); left out: routers"
    )


def test_an_adapter_that_was_made_elsewhere_is_measured_too():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    line = reach_line(get_peft_model(tiny("mixtral"), config))
    assert line.startswith("lora     rank 4, scale 0.5, on 4.7%") and "experts.gate_up_proj" in line


def test_what_cannot_learn_has_no_adapter():
    """DeepSeek's indexers choose which tokens are seen: no gradient comes through a choice."""
    indexer = {"index_head_dim": 16, "index_n_heads": 2}
    config = tiny_config("GlmMoeDsaConfig", ROUTED | LATENT | indexer)
    model = transformers.GlmMoeDsaForCausalLM(config)
    kinds = {matrix.name: matrix.kind for matrix in matrices_of(model)}
    assert {kind for name, kind in kinds.items() if "indexer" in name} == {INDEXERS}
    assert not any("indexer" in matrix.name for matrix in targets_of(model))


def test_experts_in_two_dimensions_are_named():
    """DBRX stacks those of all experts, and reads them past the module that holds them."""
    ffn = {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2}
    config = transformers.DbrxConfig(
        vocab_size=320,
        d_model=64,
        n_heads=4,
        n_layers=1,
        ffn_config=ffn,
        attn_config={"kv_n_heads": 2, "clip_qkv": None, "rope_theta": 1e4},
    )
    line = reach_line(add_adapter(transformers.DbrxForCausalLM(config), 2, None, 0))
    assert all(f"mlp.{name}" in line.partition("left out")[2] for name in ("w1", "v1", "w2"))


def test_a_decoder_that_is_an_output_layer():
    """ModernBERT's decoder calls it so: its layers are beside it."""
    config = transformers.ModernBertDecoderConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
    )
    model = transformers.ModernBertDecoderForCausalLM(config)
    assert decoder_of(model) is model.model
    assert {matrix.kind for matrix in matrices_of(model)} == {LINEAR}


def test_short_names():
    others = ["a.q_proj", "b.q_proj", "a.out", "b.out", "lm_head"]
    assert short_names(["a.q_proj", "b.q_proj", "a.out"], others) == ["a.out", "q_proj"]


def test_a_model_without_matrices_is_refused():
    class Nothing(transformers.GPT2LMHeadModel):
        def get_decoder(self):
            return self.transformer.wte

    config = transformers.GPT2Config(vocab_size=320, n_embd=64, n_layer=1, n_head=4)
    with pytest.raises(BadInput, match="no matrix that LoRA"):
        add_adapter(Nothing(config), 2, None, 0)


def test_bitsandbytes_is_hidden_from_peft_alone(monkeypatch):
    """And not where a model is quantised, nor for the models that come later."""
    import peft

    def is_found():
        return importlib.util.find_spec("bitsandbytes") is not None

    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    peft.import_utils.is_bnb_available.cache_clear()
    with adapter_room.without_bitsandbytes(SimpleNamespace(is_quantized=True)):
        assert is_found()
    with adapter_room.without_bitsandbytes(SimpleNamespace(is_quantized=False)):
        assert not is_found() and not peft.import_utils.is_bnb_available()
    assert is_found() and peft.import_utils.is_bnb_available()

    with pytest.raises(KeyError), adapter_room.without_bitsandbytes(SimpleNamespace()):
        assert not is_found()
        raise KeyError
    assert is_found() and peft.import_utils.is_bnb_available()
