"""Loading: names of models, tokenizers without a template, references, adapters, checkpointing."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from architectures import tiny
from conftest import make_tokenizer, save_folder, sft_rows
from safetensors.torch import load_file, save_file

from posttrain.chat.encode import encode
from posttrain.chat.template import PLAIN_TEMPLATE
from posttrain.cli import BadInput
from posttrain.model import load as load_room
from posttrain.model import names
from posttrain.model.load import (
    load_merged,
    load_model,
    load_policy,
    load_reference,
    load_tokenizer,
    trained,
)
from posttrain.model.names import fingerprint, resolve_model
from posttrain.records.layouts import normalise
from posttrain.train.packs import pack_logps


def test_names_that_lead_nowhere(base, tmp_path):
    assert resolve_model(base) == (base, None)
    assert resolve_model("somebody/model") == ("somebody/model", None), (
        "a hub name is left to the hub"
    )
    for name in ("a/b/c", "./model", "runs/none", str(tmp_path / "none")):
        with pytest.raises(BadInput, match="no such folder"):
            resolve_model(name)
    with pytest.raises(BadInput, match="neither a model nor a run folder"):
        resolve_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    with pytest.raises(BadInput, match="adapter_model.safetensors is missing"):
        resolve_model(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_text("")
    assert resolve_model(str(tmp_path)) == ("base", str(tmp_path))


def test_a_tokenizer_without_a_template_gets_the_plain_one(tmp_path):
    """With the beginning-of-sequence token in front where the tokenizer itself puts it there."""
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "without")
    assert load_tokenizer_of(tmp_path / "without").chat_template == PLAIN_TEMPLATE
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(tmp_path / "named")
    assert load_tokenizer_of(tmp_path / "named").chat_template == PLAIN_TEMPLATE, (
        "it has one, but adds none"
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path / "added")
    assert load_tokenizer_of(tmp_path / "added").chat_template == "{{ bos_token }}" + PLAIN_TEMPLATE


def load_tokenizer_of(folder):
    """load_tokenizer of a folder that holds nothing else."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return load_tokenizer(str(folder))


def test_a_reference_with_other_words_is_refused(base, tokenizer, monkeypatch):
    monkeypatch.setattr(
        load_room,
        "load_tokenizer",
        lambda name: type("T", (), {"get_vocab": lambda self: {"a": 0}})(),
    )
    with pytest.raises(BadInput, match="not the tokenizer"):
        load_reference("other", tokenizer, "none")


def test_a_new_adapter_starts_as_the_base(base):
    """B is 0 and A is drawn by the seed; the output layer has none; everything else is frozen."""
    policy = load_policy(base, "none", lora_r=3, seed=5)
    config = policy.peft_config["default"]
    assert (config.r, config.lora_alpha) == (3, 6)
    config = load_policy(base, "none", lora_alpha=5).peft_config["default"]
    assert (config.r, config.lora_alpha, config.task_type) == (16, 5, "CAUSAL_LM")
    matrices = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    assert len(matrices) == 2 * 7 * 2 and not any("lm_head" in name for name in matrices)
    assert all(bool(value.any()) == ("lora_A" in name) for name, value in matrices.items())
    assert all(value.dtype == torch.float32 for value in matrices.values())
    same, other = (
        load_policy(base, "none", lora_r=3, seed=5),
        load_policy(base, "none", lora_r=3, seed=6),
    )
    assert all(torch.equal(a, b) for a, b in zip(trained(policy), trained(same)))
    assert not all(torch.equal(a, b) for a, b in zip(trained(policy), trained(other)))


def test_dropout_alone_is_taken_out_of_a_config():
    config = SimpleNamespace(attention_dropout=0.3, dropped="words", norm_eps=1e-6, layers=2)
    assert vars(load_room.without_dropout(config)) == {
        "attention_dropout": 0.0,
        "dropped": "words",
        "norm_eps": 1e-6,
        "layers": 2,
    }


def test_dropout_is_off_in_models_and_adapters(tmp_path):
    """Else policy and reference would differ before step 1."""
    from peft import LoraConfig, get_peft_model

    folder = save_folder(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.config.attention_dropout = 0.3
    model.save_pretrained(folder)
    made = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], lora_dropout=0.2, task_type="CAUSAL_LM")
    )
    made.save_pretrained(tmp_path / "run")
    policy = load_policy(str(tmp_path / "run"))
    assert policy.get_base_model().config.attention_dropout == 0.0
    rates = [module.p for module in policy.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates and not any(rates) and policy.training


def test_adapters_of_other_kinds(base, tmp_path):
    """IA3 is no LoRA; a config that names no base model."""
    from peft import IA3Config, get_peft_model

    other = get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base),
        IA3Config(
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    other.save_pretrained(tmp_path / "ia3")
    with pytest.raises(BadInput, match="another kind than LoRA"):
        load_policy(str(tmp_path / "ia3"))
    (tmp_path / "ia3/adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="names no base model"):
        resolve_model(str(tmp_path / "ia3"))


def test_an_adapter_that_is_continued_keeps_rank_and_scale(base, tmp_path):
    """Flags may repeat them; others are refused, one by one."""
    run = run_with_adapter(base, tmp_path / "run", ["q_proj"])
    assert load_policy(run, lora_r=4, lora_alpha=12).peft_config["default"].r == 4
    for wrong in ({"lora_r": 5}, {"lora_alpha": 8}, {"lora_r": 4, "lora_alpha": 8}):
        with pytest.raises(BadInput, match="an adapter of rank 4, alpha 12"):
            load_policy(run, **wrong)


def test_the_format_of_4_bits():
    """NormalFloat with double quantisation, as QLoRA has it."""
    config = load_room.number_format("nf4", SimpleNamespace())["quantization_config"]
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant and config.bnb_4bit_compute_dtype == torch.float32
    assert "quantization_config" not in load_room.number_format("none", SimpleNamespace())


def test_a_reference_is_read_as_the_policy_is(base, tokenizer):
    """In the same number format, and in train mode."""
    pytest.importorskip("bitsandbytes")
    reference = load_reference(base, tokenizer, "nf4")
    kinds = {type(module).__name__ for module in reference.modules()}
    assert "Linear4bit" in kinds and reference.training


def test_the_fingerprint_of_a_model(tmp_path, monkeypatch):
    """It changes with the adapter's weights and settings, a hub model's commit, libraries, device."""
    monkeypatch.setattr(names, "read_config", lambda base: SimpleNamespace())
    monkeypatch.setattr(names, "commit_of", lambda base: commit)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    (tmp_path / "adapter_model.safetensors").write_text("weights")
    found, commit = [], "one"

    def note():
        found.append(fingerprint(str(tmp_path), "none"))

    note()
    assert found == [fingerprint(str(tmp_path), "none")] != [fingerprint("some/model", "none")]
    (tmp_path / "adapter_model.safetensors").write_text("other weights")
    note()
    settings = '{"base_model_name_or_path": "some/model", "r": 4}'
    (tmp_path / "adapter_config.json").write_text(settings)
    note()
    commit = "two"
    note()
    for library in (names.torch, names.transformers):
        monkeypatch.setattr(library, "__version__", "0.0")
        note()
    assert names.quantize_mode("auto", SimpleNamespace()) == "none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    note()
    assert len(set(found)) == 7 and names.quantize_mode("auto", SimpleNamespace()) == "nf4"


def run_with_adapter(base, folder, targets):
    """A run folder whose adapter moves the model's answers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, config).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_an_adapter_is_merged_where_nothing_is_rounded(base, tmp_path):
    """In full precision; not into weights of 4 bits, nor into an output layer that may be tied."""
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    run = run_with_adapter(base, tmp_path / "run", ["q_proj", "down_proj"])
    expected = load_model(run)(input_ids=ids).logits
    merged = load_merged(run)
    logits = merged(input_ids=ids).logits
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, load_merged(base)(input_ids=ids).logits, atol=1e-2)

    tied = run_with_adapter(base, tmp_path / "tied", ["q_proj", "lm_head"])
    apart = [load_merged(run, "nf4"), load_merged(tied)]
    half = load_model(run).to(torch.bfloat16)
    assert all(hasattr(model, "peft_config") for model in apart)
    assert not load_room.is_mergeable(half)


def test_quantised_layers_are_known_after_others(base):
    """An adapter on 4-bit layers is of peft's own kind for them: merged otherwise, it is wrong."""
    kinds = []
    for quantize in ("none", "nf4"):
        layers = load_policy(base, quantize, lora_r=2).modules()
        kinds.append({type(layer).__name__ for layer in layers if hasattr(layer, "lora_A")})
    assert kinds == [{"Linear"}, {"Linear4bit"}]


def test_checkpointing_changes_nothing(base, tokenizer):
    rows = [{"weight": 1.0} | normalise(row, "sft") for row in sft_rows(5)]
    for row in rows:
        row["seqs"] = [encode(tokenizer, row["prompt"], row["completion"])]
    slopes, calls = [], []
    for checkpointing in (False, True):
        policy = load_policy(base, "none", lora_r=4, checkpointing=checkpointing)
        before = len(calls)
        policy.get_base_model().model.layers[0].mlp.register_forward_pre_hook(
            lambda *given: calls.append(1)
        )
        pack_logps(policy, rows)[0].sum().backward()
        assert len(calls) - before == 1 + checkpointing, (
            "the layer is computed anew in the backward pass"
        )
        slopes.append(torch.cat([p.grad.flatten() for p in trained(policy)]))
    assert slopes[0].norm() > 0 and torch.allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_no_noise_is_left_in_a_config():
    """Dropout of a wrapper's parts, and a router's: policy and reference would differ."""
    text = {"attention_dropout": 0.1, "num_hidden_layers": 2}
    config = transformers.Gemma3Config(text_config=text, vision_config={"attention_dropout": 0.2})
    load_room.without_dropout(config)
    assert config.text_config.attention_dropout == config.vision_config.attention_dropout == 0.0
    config = transformers.PhimoeConfig(router_jitter_noise=0.1)
    assert load_room.without_dropout(config).router_jitter_noise == 0.0


def test_the_text_part_of_a_model_that_reads_images(tmp_path):
    """It is no causal LM for transformers; its own dtype and class are kept."""
    tiny("mistral3").save_pretrained(tmp_path)
    model = load_room.load_model(str(tmp_path))
    assert type(model).__name__ == "Mistral3ForConditionalGeneration"
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7]])).logits.shape[:2] == (1, 3)


def small(kind, **more):
    """A model of one layer of width 64."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        **more,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def test_weights_that_are_missing_are_not_made_up(tmp_path, capsys):
    """A file that was left behind, or the folder of a model without an output layer."""
    small("Llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    whole = dict(weights)
    up = weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lack 1 of the model's tensors, such as model.layers.0.mlp"):
        load_room.load_model(str(tmp_path))
    more = {"model.layers.1.mlp.up_proj.weight": up.clone()}
    save_file(whole | more, file, metadata={"format": "pt"})
    load_room.load_model(str(tmp_path))
    assert "1 tensors of its files are not read, such as model.layers.1" in capsys.readouterr().out


def test_a_reward_model_without_its_score_is_refused(tmp_path):
    small("Llama").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"such as score\.weight"):
        load_room.load_model(str(tmp_path), classifier=True)


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    """By its config: nothing is loaded. BERT, which loads as one, is found out by what it says."""
    for config in (transformers.T5Config(), transformers.BartConfig(), transformers.AlbertConfig()):
        config.save_pretrained(tmp_path)
        with pytest.raises(BadInput, match=f"{config.model_type} is no causal language model"):
            load_room.load_model(str(tmp_path))


def test_adapters_on_shared_weights_are_not_merged(tmp_path):
    """Zamba's blocks share weights and have adapters of their own."""
    from peft import LoraConfig, get_peft_model

    model = small("Llama")
    config = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    assert load_room.is_mergeable(get_peft_model(model, config))
    shared = small("Llama")
    layer = shared.model.layers[0].self_attn
    layer.v_proj.weight = layer.q_proj.weight
    assert not load_room.is_mergeable(get_peft_model(shared, config))


def test_an_adapter_without_some_of_its_tensors_is_refused(base, tmp_path):
    """peft would leave them random, and warn."""
    run = run_with_adapter(base, tmp_path / "run", ["q_proj", "v_proj"])
    file = tmp_path / "run/adapter_model.safetensors"
    load_room.load_model(run)
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match="run: adapter_model.safetensors lacks tensors"):
        load_room.load_model(run)


def test_the_adapter_of_a_reward_model_is_not_trained(base, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS")
    get_peft_model(model, config).save_pretrained(tmp_path)
    judge = load_room.load_model(str(tmp_path), classifier=True)
    assert judge(torch.tensor([[5, 6]])).logits.shape == (1, 1), "the adapter brings its score"
    with pytest.raises(BadInput, match="adapter of a reward model"):
        load_room.load_policy(str(tmp_path))
