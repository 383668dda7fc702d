"""What the tests of lines share: tiny models of many families, sequences, adapters, gradients."""

import random

import torch
import transformers

SIZE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = SIZE | {"head_dim": 16}
FAMILIES = {  # name: (config, is its prompt shared?)
    "llama": (transformers.LlamaConfig(**SIZE), True),
    "qwen2": (transformers.Qwen2Config(**SIZE, tie_word_embeddings=True), True),
    "qwen2 with a window in two layers": (
        transformers.Qwen2Config(
            **SIZE, use_sliding_window=True, sliding_window=8, max_window_layers=1
        ),
        True,
    ),
    "qwen3": (transformers.Qwen3Config(**HEADS), True),
    "qwen3 moe": (
        transformers.Qwen3MoeConfig(
            **HEADS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
        ),
        True,
    ),
    "mistral": (transformers.MistralConfig(**SIZE, sliding_window=None), True),
    "mistral with a window": (transformers.MistralConfig(**SIZE, sliding_window=7), True),
    "smollm3": (transformers.SmolLM3Config(**SIZE), True),
    "gemma": (transformers.GemmaConfig(**HEADS), True),
    "gemma2, soft caps": (
        transformers.Gemma2Config(**HEADS, sliding_window=8, query_pre_attn_scalar=16),
        False,
    ),
    "gemma3, soft cap and windows": (
        transformers.Gemma3TextConfig(
            **HEADS, sliding_window=8, query_pre_attn_scalar=16, final_logit_softcapping=3.0
        ),
        True,
    ),
    "phi, bias on the head": (transformers.PhiConfig(**SIZE), True),
    "phi3 with a window": (transformers.Phi3Config(**SIZE, sliding_window=9), True),
    "granite, divided logits": (transformers.GraniteConfig(**SIZE, logits_scaling=4.0), True),
    "cohere, multiplied logits": (transformers.CohereConfig(**SIZE, logit_scale=0.3), True),
    "gpt2, learned positions": (
        transformers.GPT2Config(
            vocab_size=300, n_embd=64, n_layer=3, n_head=4, n_positions=512, initializer_range=0.2
        ),
        True,
    ),
    "falcon, attention of its own": (
        transformers.FalconConfig(
            vocab_size=300,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            initializer_range=0.2,
        ),
        False,
    ),
    "lfm2, convolutions": (
        transformers.Lfm2Config(
            **SIZE, layer_types=["conv", "full_attention", "conv"], block_multiple_of=16
        ),
        False,
    ),
    "bloom, no positions": (
        transformers.BloomConfig(
            vocab_size=300, hidden_size=64, n_layer=3, n_head=4, initializer_range=0.2
        ),
        False,
    ),
}


def draw(rng, prompt, tokens):
    return {
        "ids": prompt + [rng.randrange(3, 300) for _ in range(tokens)],
        "mask": [0] * len(prompt) + [1] * tokens,
    }


def sequences():
    """Six answers to three prompts of 1, 13 and 30 tokens, in mixed order, one with a gap in its
    mask; four others."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 300) for _ in range(length)] for length in (1, 13, 30)]
    seqs = [
        draw(rng, prompts[k], n) for k, n in ((0, 9), (1, 20), (2, 11), (1, 5), (2, 3), (2, 14))
    ]
    seqs[1]["mask"][18:24] = [0] * 6  # a user turn between two answers
    return seqs, [draw(rng, prompts[k], n) for k, n in ((2, 6), (1, 8), (0, 4), (1, 3))]


def with_adapter(model, seed=1):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def gradient(model, logps):
    model.zero_grad()
    (logps * torch.linspace(-2, 2, len(logps), dtype=torch.float64)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def varlen_by_hand(q, k, v, ends_q, ends_k, longest_q, longest_k, scale, window_size, enable_gqa):
    """What torch's kernel computes, as it is documented: segments apart, queries and keys aligned
    at their ends."""
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
        out.append(
            torch.nn.functional.scaled_dot_product_attention(
                *parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
            )[0].transpose(0, 1)
        )
    return torch.cat(out)
