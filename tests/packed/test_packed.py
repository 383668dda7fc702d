"""Lines of tokens against padded rows: families of models, leaks, windows, the head, prompts kept for other answers."""

import random

import pytest
import torch
import transformers
from conftest import make_model

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.packed import attention
from posttrain.packed.attention import register_attention
from posttrain.packed.head import HeadLogps
from posttrain.packed.lines import lay_out, line_tokens
from posttrain.packed.reader import base_of, logps_after, seq_logps, teach_lines, reads_lines
from posttrain.packed.trees import cut_lines, lay_out_tree, tree_logits

SIZE = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEADS = SIZE | {"head_dim": 16}
FAMILIES = {  # name: (config, is its prompt shared?)
    "llama": (transformers.LlamaConfig(**SIZE), True),
    "qwen2": (transformers.Qwen2Config(**SIZE, tie_word_embeddings=True), True),
    "qwen2 with a window in two layers": (transformers.Qwen2Config(
        **SIZE, use_sliding_window=True, sliding_window=8, max_window_layers=1), True),
    "qwen3": (transformers.Qwen3Config(**HEADS), True),
    "qwen3 moe": (transformers.Qwen3MoeConfig(**HEADS, num_experts=4, num_experts_per_tok=2,
                                              moe_intermediate_size=32), True),
    "mistral": (transformers.MistralConfig(**SIZE, sliding_window=None), True),
    "mistral with a window": (transformers.MistralConfig(**SIZE, sliding_window=7), True),
    "smollm3": (transformers.SmolLM3Config(**SIZE), True),
    "gemma": (transformers.GemmaConfig(**HEADS), True),
    "gemma2, soft caps": (transformers.Gemma2Config(**HEADS, sliding_window=8, query_pre_attn_scalar=16), False),
    "gemma3, soft cap and windows": (transformers.Gemma3TextConfig(
        **HEADS, sliding_window=8, query_pre_attn_scalar=16, final_logit_softcapping=3.0), True),
    "phi, bias on the head": (transformers.PhiConfig(**SIZE), True),
    "phi3 with a window": (transformers.Phi3Config(**SIZE, sliding_window=9), True),
    "granite, divided logits": (transformers.GraniteConfig(**SIZE, logits_scaling=4.0), True),
    "cohere, multiplied logits": (transformers.CohereConfig(**SIZE, logit_scale=0.3), True),
    "gpt2, learned positions": (transformers.GPT2Config(
        vocab_size=300, n_embd=64, n_layer=3, n_head=4, n_positions=512, initializer_range=0.2), True),
    "falcon, attention of its own": (transformers.FalconConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, initializer_range=0.2), False),
    "lfm2, convolutions": (transformers.Lfm2Config(
        **SIZE, layer_types=["conv", "full_attention", "conv"], block_multiple_of=16), False),
    "bloom, no positions": (transformers.BloomConfig(
        vocab_size=300, hidden_size=64, n_layer=3, n_head=4, initializer_range=0.2), False)}


def draw(rng, prompt, tokens):
    return {"ids": prompt + [rng.randrange(3, 300) for _ in range(tokens)], "mask": [0] * len(prompt) + [1] * tokens}


@pytest.fixture(scope="module")
def seqs():
    """Nine answers to three prompts of 1, 13 and 30 tokens, in mixed order; one has a gap in its mask."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 300) for _ in range(length)] for length in (1, 13, 30)]
    found = [draw(rng, prompts[k], n) for k, n in ((0, 9), (1, 20), (2, 11), (1, 5), (2, 3), (2, 14))]
    found[1]["mask"][18:24] = [0] * 6  # a user turn between two answers
    return found, [draw(rng, prompts[k], n) for k, n in ((2, 6), (1, 8), (0, 4), (1, 3))]


def with_adapter(model, seed=1):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def gradient(model, logps):
    model.zero_grad()
    (logps * torch.linspace(-2, 2, len(logps), dtype=torch.float64)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_padded_rows(name, seqs, capsys):
    """Log-probabilities to 1e-4, gradients to 1e-5 relative, also of answers to prompts that were kept; where prompts
    cannot be shared, one line says so, and the model computes what it did before."""
    config, shared = FAMILIES[name]
    torch.manual_seed(0)
    model = with_adapter(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    own, others = seqs
    expected, after = completion_logps(model, own)[0], completion_logps(model, others)[0].detach()
    slope = gradient(model, expected)
    teach_lines(model)
    said = capsys.readouterr().out
    assert base_of(model).packed == ("segments" if shared else None) and said.count("\n") == (not shared)
    assert shared or said.startswith("packs    padded rows")
    found, tokens, line = seq_logps(model, own, keep=True)
    assert (found - expected).abs().max() < 1e-4
    assert tokens.tolist() == [sum(seq["mask"]) for seq in own]
    assert (gradient(model, found) - slope).norm() < 1e-5 * slope.norm()
    kept = logps_after(model, others, line)
    assert (kept - after).abs().max() < 1e-4 and not kept.requires_grad
    assert torch.equal(completion_logps(model, own)[0], expected), "an ordinary call of the model has changed"


@pytest.fixture(scope="module")
def model():
    made = with_adapter(make_model())
    teach_lines(made)
    return made


def test_nothing_leaks_between_answers(model, seqs):
    """Another second answer to a prompt, or another prompt on the line, moves the first answer by exactly nothing."""
    own, _ = seqs
    before = seq_logps(model, own)[0]
    changed = [dict(seq) for seq in own]
    changed[3] = {"ids": own[3]["ids"][:13] + [7] * 5, "mask": own[3]["mask"]}
    after = seq_logps(model, changed)[0]
    assert (after[3] - before[3]).abs() > 0.1
    assert torch.equal(after[[0, 1, 2, 4, 5]], before[[0, 1, 2, 4, 5]])


def test_an_answer_sees_its_whole_prompt(model, seqs):
    """A token at the start of the prompt moves every answer to it, and no other."""
    own, _ = seqs
    before = seq_logps(model, own)[0]
    changed = [seq | {"ids": [5, *seq["ids"][1:]]} if len(seq["ids"]) - sum(seq["mask"]) == 30 else seq for seq in own]
    moved = (seq_logps(model, changed)[0] - before).abs() > 1e-3
    assert moved.tolist() == [False, False, True, False, True, True]


def test_the_line_by_hand():
    """Prompt [5, 6] with answers [7, 8] and [9]; prompt [4] with [3]."""
    seqs = [{"ids": [5, 6, 7, 8], "mask": [0, 0, 1, 1]}, {"ids": [4, 3], "mask": [0, 1]},
            {"ids": [5, 6, 9], "mask": [0, 0, 1]}]
    line = lay_out(seqs)
    assert line["ids"].tolist() == [5, 6, 7, 8, 9, 4, 3] and line["positions"].tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert line["segments"] == [([], 0, 4), ([(0, 2)], 4, 5), ([], 5, 7)]
    assert line["source"].tolist() == [1, 2, 1, 5] and line["target"].tolist() == [7, 8, 9, 3]
    assert line["row"].tolist() == [0, 0, 2, 1]
    assert line_tokens(seqs) == 7 and line_tokens(seqs[:1]) == 4 and line_tokens(seqs[::2]) == 5
    after = lay_out([{"ids": [5, 6, 1, 2], "mask": [0, 0, 1, 1]}], memory=line)  # the prompt's last token once more
    assert after["ids"].tolist() == [6, 1, 2] and after["positions"].tolist() == [1, 2, 3]
    assert after["segments"] == [([(0, 1)], 0, 3)] and after["source"].tolist() == [0, 1]


def test_a_tree_by_hand():
    """[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6] and [7]: 1 2 3 4 5 6 7 on the line; 6 sees 1 2, 5 and itself."""
    line = lay_out_tree([[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6], [7]], [0, 2, 3, 0])
    assert line["ids"].tolist() == [1, 2, 3, 4, 5, 6, 7] and line["positions"].tolist() == [0, 1, 2, 3, 2, 3, 0]
    assert line["segments"] == [([], 0, 4), ([(0, 2)], 4, 5), ([(0, 2), (4, 5)], 5, 6), ([], 6, 7)]
    assert line["source"].tolist() == [3, 4, 5, 6]
    same = lay_out_tree([[1, 2], [1, 2], [1, 2, 3]], [0, 2, 2])
    assert same["ids"].tolist() == [1, 2, 3] and same["source"].tolist() == [1, 1, 2]


def varlen_by_hand(q, k, v, ends_q, ends_k, longest_q, longest_k, scale, window_size, enable_gqa):
    """What torch's kernel computes, as it is documented: segments apart, queries and keys aligned at their ends."""
    assert enable_gqa == (q.shape[1] != k.shape[1]) and window_size[1] == 0
    out = []
    for a, b, c, d in zip(ends_q, ends_q[1:], ends_k, ends_k[1:]):
        queries, keys = int(b - a), int(d - c)
        assert queries <= longest_q and keys <= longest_k
        place = torch.arange(queries)[:, None] + keys - queries
        seen = torch.arange(keys) <= place
        if window_size[0] >= 0:
            seen &= torch.arange(keys) >= place - window_size[0]
        parts = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        out.append(torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_trees_of_every_family(name, monkeypatch, capsys):
    """Rows of random trees, on one line, on several, and by the kernel for a GPU: the logits of each row alone."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda: varlen_by_hand)
    rng = random.Random(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[name][0]).float().eval().requires_grad_(False)
    parts = [[rng.randrange(3, 300) for _ in range(rng.randint(1, 9))] for _ in range(8)]
    rows = [sum(rng.choices(parts, k=rng.randint(1, 4)), []) for _ in range(24)]
    alone = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]
    teach_lines(model)
    read = []
    for packed_as, limit in (("segments", 4096), ("segments", 30), ("varlen", 4096)):
        base_of(model).packed = base_of(model).packed and packed_as
        found = [*tree_logits(model, rows, limit)]
        assert sorted(n for numbers, _, _ in found for n in numbers) == [*range(24)]
        for numbers, logits, _ in found:
            for number, one in zip(numbers, logits):
                assert (one - alone[number]).abs().max() < 1e-5 * alone[number].abs().max(), (packed_as, limit, number)
        read.append(sum(sum(tokens) for _, _, tokens in found))
    once, each = len({tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)}), sum(map(len, rows))
    assert read[0] == once and once < read[1] < each if reads_lines(model) else read == [each] * 3


@pytest.mark.parametrize("limit", [1, 7, 12, 40])
def test_lines_are_cut_where_least_is_read_twice(limit):
    """No way to cut nine rows into lines of that many tokens reads fewer; a longer row has a line of its own."""
    rng = random.Random(2)
    splits = [[0, *(k for k in range(1, 9) if cuts >> (k - 1) & 1), 9] for cuts in range(1 << 8)]

    def cost(lines, whole, fresh):
        sizes = [whole[start] + sum(fresh[start + 1:end]) for start, end in lines]
        fits = all(size <= limit or end - start == 1 for size, (start, end) in zip(sizes, lines))
        return sum(sizes) if fits else float("inf")

    for _ in range(30):
        whole = [rng.randint(1, 9) for _ in range(9)]
        fresh = [size - rng.randint(0, min(size, before)) for before, size in zip([0, *whole], whole)]
        lines = cut_lines(fresh, whole, limit)
        assert [n for line in lines for n in range(*line)] == [*range(9)]
        assert cost(lines, whole, fresh) == min(cost([*zip(ends, ends[1:])], whole, fresh) for ends in splits)


@pytest.mark.parametrize("name", ["qwen2", "mistral with a window", "gemma3, soft cap and windows"])
def test_one_call_for_all_segments(name, seqs, monkeypatch):
    """The path for a GPU's kernel, with the kernel written out: the same log-probabilities and gradients."""
    monkeypatch.setattr(attention, "varlen_kernel", lambda: varlen_by_hand)
    torch.manual_seed(0)
    model = with_adapter(transformers.AutoModelForCausalLM.from_config(FAMILIES[name][0]).float().eval())
    own, others = seqs
    teach_lines(model)
    expected, _, line = seq_logps(model, own, keep=True)
    slope, after = gradient(model, expected), logps_after(model, others, line)
    base_of(model).packed = "varlen"
    found, _, line = seq_logps(model, own, keep=True)
    assert (found - expected).abs().max() < 1e-5
    assert (gradient(model, found) - slope).norm() < 1e-5 * slope.norm()
    assert (logps_after(model, others, line) - after).abs().max() < 1e-5


@pytest.mark.parametrize(("bias", "scale", "cap"), [(False, 1.0, None), (True, 0.5, None), (True, 2.0, 3.0)])
@pytest.mark.parametrize("tile", [(1, 20), (4, 7), (100, 100), (3, 1)])
def test_the_head_in_tiles(bias, scale, cap, tile):
    """Values and gradients of the plain formula, in float64, for a gradient that differs from token to token."""
    torch.manual_seed(0)
    hidden = torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    weight, target = torch.randn(20, 8, dtype=torch.float64), torch.randint(0, 20, (9,))
    offset = torch.randn(20, dtype=torch.float64) if bias else None
    logits = scale * torch.nn.functional.linear(hidden, weight, offset)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    expected = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    upstream = torch.randn(9, dtype=torch.float64)
    slope, = torch.autograd.grad((expected * upstream).sum(), hidden)
    head = [None if x is None else x.float() for x in (weight, offset)]
    again = hidden.detach().float().requires_grad_()
    found = HeadLogps.apply(again, *head, target, scale, cap, tile)
    (found * upstream.float()).sum().backward()
    assert (found - expected).abs().max() < 1e-5 and (again.grad - slope).abs().max() < 1e-5


def test_a_trained_output_layer_is_refused():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", ensure_weight_tying=True)
    with pytest.raises(BadInput, match="lm_head"):
        teach_lines(get_peft_model(make_model(), config))


def test_a_model_that_forgets_the_segments_is_found_out(capsys, monkeypatch):
    """Attention that ignores the line, or cuts branches off their prompts: the check sends the model to padded rows."""
    real = torch.nn.functional.scaled_dot_product_attention
    broken = [lambda module, q, k, v, mask, **options: (real(q, k, v, is_causal=True).transpose(1, 2), None)]

    def cut_off(module, q, k, v, mask, line=None, **options):
        line = line and line | {"segments": [([], start, end) for _, start, end in line["segments"]]}
        return packed_attend(module, q, k, v, mask, line=line, **options)

    packed_attend = attention.attend
    register_attention()
    for attend in [*broken, cut_off]:
        transformers.AttentionInterface.register("packed", attend)
        try:
            made = make_model().requires_grad_(False)
            teach_lines(made)
        finally:
            transformers.AttentionInterface.register("packed", packed_attend)
        assert base_of(made).packed is None and "would differ by" in capsys.readouterr().out


def test_logits_that_are_scaled_elsewhere_are_found_out(capsys):
    """Two per mille, by a hook outside of what the config says."""
    made = make_model().requires_grad_(False)
    real = made.forward

    def scaled(*args, **kwargs):
        out = real(*args, **kwargs)
        return out if not hasattr(out, "logits") else type(out)(logits=out.logits * 1.002)
    made.forward = scaled
    teach_lines(made)
    assert base_of(made).packed is None and "would differ by" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"lora_bias": True}, {"use_dora": True, "lora_dropout": 0.3}], ids=str)
def test_adapters_of_another_make_are_left_to_peft(base, tmp_path, seqs, options):
    """With biases, or with DoRA and dropout: the log-probabilities of peft, twice the same, all trained."""
    from peft import LoraConfig, PeftModel, get_peft_model

    from posttrain.model.load import load_policy
    from posttrain.processes import trained

    made = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    made.save_pretrained(tmp_path / "run")
    plain = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "run").eval()
    own = [{name: seq[name] for name in ("ids", "mask")} for seq in seqs[0]]
    with torch.no_grad():
        expected = completion_logps(plain, own)[0]
    policy = load_policy(str(tmp_path / "run"))
    found = seq_logps(policy, own)[0]
    assert reads_lines(policy) and (found - expected).abs().max() < 1e-4
    assert torch.equal(found, seq_logps(policy, own)[0])
    found.sum().backward()
    assert all(p.grad is not None for p in trained(policy))
