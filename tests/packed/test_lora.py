"""Adapters of other kinds than plain LoRA."""

import pytest
import torch
import transformers
from families import sequences

from common import completion_logps
from posttrain.packed.lora import is_plain
from posttrain.packed.reader import reads_lines, seq_logps, teach_lines


@pytest.fixture(scope="module")
def seqs():
    return sequences()


@pytest.mark.parametrize(
    "options", [{"lora_bias": True}, {"use_dora": True, "lora_dropout": 0.3}], ids=str
)
def test_adapters_of_another_make_are_left_to_peft(base, tmp_path, seqs, options):
    """With biases, or with DoRA and dropout: the log-probabilities of peft, twice the same, all
    trained."""
    from peft import LoraConfig, PeftModel, get_peft_model

    from posttrain.model.load import load_policy, trained

    made = get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(
            r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", **options
        ),
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    made.save_pretrained(tmp_path / "run")
    plain = PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "run"
    ).eval()
    own = [{name: seq[name] for name in ("ids", "mask")} for seq in seqs[0]]
    with torch.no_grad():
        expected = completion_logps(plain, own)[0]
    policy = load_policy(str(tmp_path / "run"))
    teach_lines(policy)
    found = seq_logps(policy, own)[0]
    assert reads_lines(policy) and (found - expected).abs().max() < 1e-4
    assert torch.equal(found, seq_logps(policy, own)[0])
    found.sum().backward()
    assert all(p.grad is not None for p in trained(policy))


def test_which_layers_are_computed_in_one_pass(base):
    """Plain LoRA. A second active adapter, none, a merged one, a bias, DoRA: by peft."""
    from peft import LoraConfig, get_peft_model

    def layer(**options):
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
        model = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config)
        return model.get_decoder().layers[0].self_attn.q_proj

    plain = layer()
    assert is_plain(plain) is True
    assert not is_plain(layer(lora_bias=True)) and not is_plain(layer(use_dora=True))
    plain.enable_adapters(False)
    assert not is_plain(plain)
    plain.enable_adapters(True)
    plain.merge()
    assert not is_plain(plain)
    plain.unmerge()
    plain.update_layer("other", 2, lora_alpha=2, config=LoraConfig(r=2))
    plain.set_adapter(["default", "other"])
    assert not is_plain(plain)
