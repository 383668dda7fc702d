"""Lines against padded rows: families of models, what the comparison finds out, kept prompts."""

import copy

import pytest
import torch
import transformers
from conftest import make_model
from families import FAMILIES, SIZE, gradient, sequences, with_adapter

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.generate.reading import reading_of
from posttrain.packed import attention, reader
from posttrain.packed.attention import register_attention
from posttrain.packed.lines import Segment
from posttrain.packed.reader import (
    base_of,
    line_kind,
    logps_after,
    padded_rows_only,
    reads_lines,
    seq_logps,
    teach_lines,
)


@pytest.fixture(scope="module")
def seqs():
    return sequences()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_padded_rows(name, seqs, capsys):
    """Log-probabilities to 1e-4, gradients to 1e-5 relative, also of answers to prompts that were
    kept; where prompts cannot be shared, one line says so, and the model computes what it did
    before."""
    config, shared = FAMILIES[name]
    torch.manual_seed(0)
    model = with_adapter(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    own, others = seqs
    expected, after = completion_logps(model, own)[0], completion_logps(model, others)[0].detach()
    slope = gradient(model, expected)
    teach_lines(model)
    printed = capsys.readouterr().out
    if shared:
        assert line_kind(model) == "segments" and printed == ""
    else:
        assert line_kind(model) is None and not reads_lines(model)
        assert printed.startswith("packs    padded rows") and printed.count("\n") == 1
    found, tokens, line = seq_logps(model, own, keep=True)
    assert (found - expected).abs().max() < 1e-4
    assert tokens.tolist() == [sum(seq["mask"]) for seq in own]
    assert (gradient(model, found) - slope).norm() < 1e-5 * slope.norm()
    kept = logps_after(model, others, line)
    assert (kept - after).abs().max() < 1e-4 and not kept.requires_grad
    assert torch.equal(completion_logps(model, own)[0], expected), (
        "an ordinary call of the model has changed"
    )


def test_a_trained_output_layer_is_refused():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", ensure_weight_tying=True
    )
    policy = get_peft_model(make_model(), config)
    with pytest.raises(BadInput, match="lm_head"):
        teach_lines(policy)
    for model in (policy.requires_grad_(False), make_model()):  # its adapter would be left out
        with pytest.raises(BadInput, match="lm_head"):
            teach_lines(model)


def test_an_encoder_is_refused():
    """BERT loads as a causal language model, and sees what it should predict."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=320, num_hidden_layers=2, **sizes)
    model = transformers.BertLMHeadModel(config).eval().requires_grad_(False)
    for use in (teach_lines, reading_of):
        with pytest.raises(BadInput, match="BertLMHeadModel sees the tokens behind"):
            use(model)


def test_a_layer_that_attends_twice_is_found_out(capsys):
    """DiffLlama's layers do: of two kinds of keys one would be kept for further answers."""
    model = transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**SIZE)).eval()
    teach_lines(model.requires_grad_(False))
    assert not reads_lines(model)
    assert "would differ" in capsys.readouterr().out


def test_a_model_that_forgets_the_segments_is_found_out(capsys, monkeypatch):
    """Attention that ignores the line, cuts branches off their prompts, or spoils ordinary calls:
    the check sends the model to padded rows."""
    real = torch.nn.functional.scaled_dot_product_attention
    broken = [
        lambda module, q, k, v, mask, **options: (
            real(q, k, v, is_causal=True).transpose(1, 2),
            None,
        )
    ]

    def cut_off(module, q, k, v, mask, line=None, **options):
        if line is not None:
            line = copy.copy(line)
            line.segments = [Segment([], start, end) for _, start, end in line.segments]
        return packed_attend(module, q, k, v, mask, line=line, **options)

    def ordinary_calls(module, q, k, v, mask, line=None, **options):
        """Lines are read as they should be; padded rows, by the same model, no longer are."""
        out, weights = packed_attend(module, q, k, v, mask, line=line, **options)
        return (out if line is not None else 1.01 * out), weights

    packed_attend = attention.attend
    register_attention()
    for attend in [*broken, cut_off, ordinary_calls]:
        transformers.AttentionInterface.register("packed", attend)
        try:
            made = make_model().requires_grad_(False)
            teach_lines(made)
        finally:
            transformers.AttentionInterface.register("packed", packed_attend)
        assert line_kind(made) is None and "would differ by" in capsys.readouterr().out


def test_attention_without_a_backward_pass_is_found_out(capsys):
    """Its values are right: only learning would have shown it."""

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no backward pass")

    packed_attend = attention.attend

    def attend(module, q, k, v, mask, line=None, **options):
        out, weights = packed_attend(module, q, k, v, mask, line=line, **options)
        return (out if line is None else Forward.apply(out)), weights

    register_attention()
    transformers.AttentionInterface.register("packed", attend)
    try:
        made = with_adapter(make_model())
        teach_lines(made)
    finally:
        transformers.AttentionInterface.register("packed", packed_attend)
    assert line_kind(made) is None and "RuntimeError: no backward" in capsys.readouterr().out


def test_a_window_that_is_not_used_is_found_out(capsys):
    """It is longer than what is compared, so the log-probabilities are right."""
    packed_attend = attention.attend

    def without_window(module, q, k, v, mask, sliding_window=None, **options):
        return packed_attend(module, q, k, v, mask, **options)

    register_attention()
    transformers.AttentionInterface.register("packed", without_window)
    try:
        config = transformers.MistralConfig(**SIZE, sliding_window=100)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        teach_lines(model.requires_grad_(False))
    finally:
        transformers.AttentionInterface.register("packed", packed_attend)
    assert not reads_lines(model)
    assert "3 layers have a window, 0 use it" in capsys.readouterr().out


def test_logits_that_are_scaled_elsewhere_are_found_out(capsys):
    """Two per mille, by a hook outside of what the config says."""
    made = make_model().requires_grad_(False)
    real = made.forward

    def scaled(*args, **kwargs):
        out = real(*args, **kwargs)
        return out if not hasattr(out, "logits") else type(out)(logits=out.logits * 1.002)

    made.forward = scaled
    teach_lines(made)
    assert line_kind(made) is None and "would differ by" in capsys.readouterr().out


@pytest.mark.parametrize(("noise", "allowed"), [(0.0, 1e-4), (1e-5, 1e-4), (0.5, 4.0), (-0.5, 4.0)])
def test_lines_may_differ_by_eight_times_the_noise_of_padded_rows(monkeypatch, noise, allowed):
    """Which is how far the padded path is from itself when one answer is read alone."""

    def logps(model, seqs):
        return torch.tensor([-5.0 - noise * (len(seqs) > 1)] * len(seqs)), None

    monkeypatch.setattr(reader, "completion_logps", logps)
    assert reader.Yardstick(make_model()).allowed == pytest.approx(allowed, rel=0.1)


def test_the_models_own_forward_stays(seqs):
    """Teaching replaces no forward but those of LoRA layers, and puts them back on refusal."""
    model = with_adapter(make_model())
    replaced = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert replaced == []
    teach_lines(model)
    replaced = [name for name, module in model.named_modules() if "forward" in vars(module)]
    layers = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    assert replaced == layers and len(layers) > 0
    line_reader = base_of(model).line_reader
    teach_lines(model)
    assert base_of(model).line_reader is line_reader, "once is enough"

    refused = with_adapter(make_model())
    real, base = refused.forward, base_of(refused)
    base.lm_head.register_forward_hook(lambda module, inputs, logits: logits * 1.002)
    teach_lines(refused)
    assert not reads_lines(refused) and refused.forward == real
    assert [name for name, module in refused.named_modules() if "forward" in vars(module)] == []
    assert base.config._attn_implementation == "sdpa"


def test_padded_rows_for_the_length_of_a_block(seqs):
    model = with_adapter(make_model())
    teach_lines(model)
    own, _ = seqs
    with pytest.raises(KeyError), padded_rows_only(model):
        assert line_kind(model) is None and seq_logps(model, own, keep=True)[2] is None
        assert torch.equal(seq_logps(model, own)[0], completion_logps(model, own)[0])
        raise KeyError
    assert line_kind(model) == "segments" and seq_logps(model, own)[2] is not None


def test_a_copy_reads_with_its_own_weights(seqs):
    model = with_adapter(make_model())
    teach_lines(model)
    other = copy.deepcopy(model)
    own, _ = seqs
    before = seq_logps(model, own)[0]
    with torch.no_grad():
        base_of(other).lm_head.weight *= 0.5
    assert torch.equal(seq_logps(model, own)[0], before)
    assert (seq_logps(other, own)[0] - completion_logps(other, own)[0]).abs().max() < 1e-4
    assert (seq_logps(other, own)[0] - before).abs().max() > 0.1


def test_another_model_with_the_same_config_is_noticed(seqs):
    """Attention is looked up in the config, and models may share one."""
    model = make_model().requires_grad_(False)
    teach_lines(model)
    model.config._attn_implementation = "sdpa"
    with pytest.raises(RuntimeError, match="shares this one's config"):
        seq_logps(model, seqs[0])


def test_the_arithmetic_of_a_trainer(monkeypatch):
    """Lines are compared under autocast where training will read them under it."""
    monkeypatch.setattr(reader, "autocast", lambda model: "autocast")
    half, full = make_model().bfloat16(), make_model()
    assert reader.arithmetic(half.train()) == "autocast"
    assert reader.arithmetic(half.eval()) != "autocast"
    assert reader.arithmetic(full.train()) != "autocast"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen2 with a window in two layers", "mistral with a window"])
def test_windows_are_counted_once_when_layers_are_computed_anew(name, seqs, capsys):
    """With gradient checkpointing a layer attends once more in the backward pass."""
    torch.manual_seed(0)
    model = with_adapter(transformers.AutoModelForCausalLM.from_config(FAMILIES[name][0]).float())
    slopes = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        base_of(model).line_reader = None
        teach_lines(model.train())
        assert line_kind(model) == "segments", capsys.readouterr().out
        slopes.append(gradient(model, seq_logps(model, seqs[0])[0]))
    assert slopes[0].norm() > 0 and torch.allclose(*slopes, rtol=1e-5, atol=1e-7)
