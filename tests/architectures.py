"""Tiny random models of many architectures, for the tests of families; and what the README's table says of them.

Each line of FAMILIES: the models that have this architecture, its config in transformers, and what makes it tiny
beside SIZE. The table's shares of weights are those of the config's own defaults, which are a real model's sizes.
"""

import inspect
from dataclasses import dataclass, field

import conftest  # noqa: F401  (it finds posttrain)
import torch
import transformers

from posttrain.model.names import architecture_of

WORDS = 320  # those of conftest.make_tokenizer

# Whatever of this a config has. Weights ten times the usual size: log-probabilities differ clearly.
SIZE = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 128}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR = ["linear_attention", "full_attention"]
DELTA_NET = {  # Qwen3-Next's layers with states
    "layer_types": LINEAR,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA = {  # without kernels, texts are padded to whole chunks
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
TWO_OF_FOUR = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
EXPERTS = TWO_OF_FOUR | {"num_experts": 4}
ROUTED = TWO_OF_FOUR | {
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
SHARED = EXPERTS | {"shared_expert_intermediate_size": 32}
LATENT = {  # DeepSeek's attention
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
}
QWEN_TOKENS = {
    "image_token_id": 321,
    "video_token_id": 322,
    "vision_start_token_id": 323,
    "vision_end_token_id": 324,
}


@dataclass
class Family:
    """An architecture: models that have it, its config, a chat template of one of them."""

    models: str
    config: str  # its class in transformers
    more: dict = field(default_factory=dict)  # beside SIZE; of a wrapper beside its text part
    template: str | None = None  # its name among those of tests/chat/test_templates.py
    slow: bool = False  # only in `make slow`
    text: tuple | None = None  # of a wrapper: (config class of its text part, what is beside SIZE)
    real: dict = field(default_factory=dict)  # what the config's defaults lack for a model


F = Family
FAMILIES = {
    "llama": F("Llama 2-3.2, SmolLM2", "LlamaConfig", template="llama3_1"),
    "qwen2": F("Qwen2, Qwen2.5", "Qwen2Config", {"tie_word_embeddings": True}, "qwen2_5"),
    "qwen2_moe": F("Qwen2-MoE", "Qwen2MoeConfig", SHARED, "qwen2_5", slow=True),
    "qwen3": F("Qwen3", "Qwen3Config", {"tie_word_embeddings": True}, "qwen3"),
    "qwen3_moe": F("Qwen3-MoE", "Qwen3MoeConfig", EXPERTS, "qwen3"),
    "qwen3_next": F("Qwen3-Next", "Qwen3NextConfig", SHARED | DELTA_NET, "qwen3", slow=True),
    "qwen3_5": F(
        "Qwen3.5",
        "Qwen3_5Config",
        {"vision_config": QWEN_VISION, **QWEN_TOKENS},
        "qwen3_5_think",
        text=("Qwen3_5TextConfig", DELTA_NET),
    ),
    "qwen3_5_moe": F("Qwen3.5-MoE", "Qwen3_5MoeTextConfig", SHARED | DELTA_NET, "qwen3_5_think"),
    "qwen3_vl": F(
        "Qwen3-VL",
        "Qwen3VLConfig",
        {"vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0]}, **QWEN_TOKENS},
        "qwen3_vl",
        slow=True,
        text=("Qwen3VLTextConfig", {}),
    ),
    "gemma": F("Gemma", "GemmaConfig", template="gemma", slow=True),
    "gemma2": F("Gemma 2", "Gemma2Config", WINDOW | {"query_pre_attn_scalar": 16}, "gemma"),
    "gemma3_text": F(
        "Gemma 3 1B",
        "Gemma3TextConfig",
        WINDOW | {"query_pre_attn_scalar": 16},
        "gemma3",
        slow=True,
    ),
    "gemma3": F(
        "Gemma 3 4B and up",
        "Gemma3Config",
        {
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "boi_token_index": 321,
            "eoi_token_index": 322,
            "image_token_index": 323,
        },
        "gemma3",
        text=("Gemma3TextConfig", WINDOW | {"query_pre_attn_scalar": 16}),
    ),
    "gemma3n": F(
        "Gemma 3n",
        "Gemma3nTextConfig",
        {
            "sliding_window": 8,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": 2 * WINDOW["layer_types"],
            "intermediate_size": 4 * [96],
            "activation_sparsity_pattern": 4 * [0.0],
            "vocab_size_per_layer_input": WORDS,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
        },
        "gemma3",
        slow=True,
    ),
    "gemma4": F(
        "Gemma 4",
        "Gemma4TextConfig",
        {
            "sliding_window": 8,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": 2 * WINDOW["layer_types"],
            "vocab_size_per_layer_input": WORDS,
            "hidden_size_per_layer_input": 16,
            "global_head_dim": 16,
        },
        "gemma4_v5",
    ),
    "phi": F("Phi-1, Phi-2", "PhiConfig", slow=True),
    "phi3": F("Phi-3, Phi-4", "Phi3Config", template="phi3"),
    "phi4_mini": F(
        "Phi-4-mini",
        "Phi3Config",
        {"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
        "phi_4_mini",
        slow=True,
    ),
    "phimoe": F("Phi-3.5-MoE", "PhimoeConfig", LOCAL, "phi3_5", slow=True),
    "mistral": F("Mistral", "MistralConfig", {"sliding_window": 8}, "mistral_v3"),
    "ministral": F("Ministral", "MinistralConfig", WINDOW, "mistral_v3", slow=True, real=HEADS),
    "ministral3": F("Ministral 3", "Ministral3Config", template="mistral_v3"),
    "mistral3": F(
        "Mistral Small 3.1-3.2",
        "Mistral3Config",
        {
            "vision_config": VISION | {"model_type": "pixtral", "head_dim": 8},
            "image_token_index": 323,
        },
        "mistral_v3",
        text=("Ministral3Config", {}),
    ),
    "mistral4": F(
        "Mistral Small 4", "Mistral4Config", ROUTED | LATENT | {"n_shared_experts": 1}, slow=True
    ),
    "mixtral": F("Mixtral", "MixtralConfig", LOCAL, "mistral_v3", slow=True),
    "smollm3": F("SmolLM3", "SmolLM3Config"),
    "olmo": F("OLMo", "OlmoConfig", slow=True),
    "olmo2": F("OLMo 2", "Olmo2Config"),
    "olmo3": F("OLMo 3", "Olmo3Config", WINDOW),
    "olmoe": F("OLMoE", "OlmoeConfig", EXPERTS, slow=True),
    "olmo_hybrid": F(
        "OLMo hybrid",
        "OlmoHybridConfig",
        DELTA_NET | {"linear_num_key_heads": 4},
        slow=True,
    ),
    "glm4": F("GLM-4", "Glm4Config"),
    "glm4_moe": F("GLM-4.5 to 4.7", "Glm4MoeConfig", ROUTED, "glm4moe", slow=True),
    "gpt_oss": F("gpt-oss", "GptOssConfig", LOCAL | WINDOW, "gptoss"),
    "deepseek_v2": F("DeepSeek-V2", "DeepseekV2Config", ROUTED | LATENT, "deepseekv3", slow=True),
    "deepseek_v3": F("DeepSeek-V3, Kimi-K2", "DeepseekV3Config", ROUTED | LATENT, "deepseekv3"),
    "lfm2": F(
        "LFM2",
        "Lfm2Config",
        {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
        "lfm2_v2",
    ),
    "lfm2_moe": F(
        "LFM2-MoE",
        "Lfm2MoeConfig",
        EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
        "lfm2_v2",
        slow=True,
        real={"layer_types": 16 * ["conv", "full_attention"]},
    ),
    "granite": F("Granite 3", "GraniteConfig", {"logits_scaling": 4.0}, slow=True),
    "granite_moe": F("Granite MoE", "GraniteMoeConfig", LOCAL, slow=True),
    "granite_hybrid": F(
        "Granite 4 hybrid",
        "GraniteMoeHybridConfig",
        MAMBA | LOCAL | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    ),
    "nemotron_h": F(
        "Nemotron-H, Nemotron 3",
        "NemotronHConfig",
        {
            "layers_block_type": ["mamba", "attention", "mlp", "moe"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "chunk_size": 16,
            "n_groups": 1,
            "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": 32,
            **TWO_OF_FOUR,
        },
        "nemotron_3_nano",
    ),
    "nemotron": F("Nemotron 4", "NemotronConfig", slow=True, real={"num_key_value_heads": 8}),
    "falcon_h1": F("Falcon-H1", "FalconH1Config", MAMBA | {"mamba_d_ssm": 128}),
    "falcon": F("Falcon", "FalconConfig", slow=True),
    "falcon_mamba": F("Falcon-Mamba", "FalconMambaConfig", {"state_size": 8}, slow=True),
    "mamba": F("Mamba", "MambaConfig", {"state_size": 8}, slow=True),
    "mamba2": F(
        "Mamba-2",
        "Mamba2Config",
        {"state_size": 8, "num_heads": 4, "head_dim": 32, "n_groups": 1, "chunk_size": 16},
    ),
    "bamba": F("Bamba", "BambaConfig", MAMBA | {"attn_layer_indices": [1]}, slow=True),
    "jamba": F(
        "Jamba",
        "JambaConfig",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
        },
        slow=True,
    ),
    "zamba2": F(
        "Zamba 2",
        "Zamba2Config",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "mamba_d_state": 16,
            "n_mamba_heads": 4,
            "mamba_headdim": 32,
            "mamba_ngroups": 1,
            "num_mem_blocks": 1,
            "chunk_size": 16,
        },
        slow=True,
    ),
    "kimi_linear": F(
        "Kimi Linear",
        "KimiLinearConfig",
        ROUTED
        | LATENT
        | {
            "layer_types": LINEAR,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "linear_head_dim": 16,
            "linear_num_heads": 2,
            "linear_conv_kernel_dim": 4,
        },
        "kimi_k2",
        slow=True,
    ),
    "minimax": F("MiniMax-Text, M1", "MiniMaxConfig", LOCAL | {"layer_types": LINEAR}, slow=True),
    "minimax_m2": F("MiniMax-M2", "MiniMaxM2Config", LOCAL, slow=True),
    "cohere": F("Command R", "CohereConfig", template="cohere", slow=True),
    "cohere2": F("Command A, R7B", "Cohere2Config", WINDOW, "cohere2", slow=True),
    "exaone4": F("EXAONE 4", "Exaone4Config", WINDOW, slow=True),
    "hunyuan": F("Hunyuan dense", "HunYuanDenseV1Config", slow=True, real=HEADS),
    "seed_oss": F("Seed-OSS", "SeedOssConfig", slow=True),
    "apertus": F("Apertus", "ApertusConfig", template="apertus", slow=True),
    "ernie4_5": F("ERNIE 4.5", "Ernie4_5Config", slow=True),
    "ernie4_5_moe": F(
        "ERNIE 4.5 MoE",
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
        slow=True,
    ),
    "llama4": F(
        "Llama 4",
        "Llama4TextConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 96,
            "interleave_moe_layer_step": 2,
        },
        slow=True,
    ),
    "starcoder2": F("StarCoder 2", "Starcoder2Config", slow=True),
    "stablelm": F("StableLM 2", "StableLmConfig", slow=True),
    "gpt2": F("GPT-2", "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "gpt_neox": F("Pythia, GPT-NeoX", "GPTNeoXConfig", slow=True),
    "opt": F("OPT", "OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}, slow=True),
    "bloom": F("BLOOM", "BloomConfig", {"n_layer": 2, "n_head": 4}, slow=True),
    "recurrent_gemma": F(
        "RecurrentGemma",
        "RecurrentGemmaConfig",
        {"num_hidden_layers": 3, "attention_window_size": 8, "lru_width": 64},
        slow=True,
    ),
    "rwkv": F("RWKV-4", "RwkvConfig", slow=True),
}


def tiny_config(name, more):
    """A config of this class with those parts of SIZE that it has, and with `more`."""
    kind = getattr(transformers, name)
    fields = {*inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    fields |= {*getattr(kind, "__dataclass_fields__", ())}
    sizes = {key: value for key, value in SIZE.items() if key in fields}
    return kind(**sizes | more)


def tiny(name, seed=0):
    """A random model of the family `name`, in eval mode."""
    family = FAMILIES[name]
    more = family.more
    if family.text:
        text = tiny_config(*family.text).to_dict()
        more = more | {"text_config": text | {"vocab_size": WORDS + 10}}  # those of images, too
    config = tiny_config(family.config, more)
    torch.manual_seed(seed)
    model = architecture_of(config).from_config(config).float().eval()
    for parameter in model.parameters():  # what begins as 0 (biases, gates) would hide what it does
        if not parameter.any():
            parameter.data.normal_(std=0.1)
    return model


def whole(name):
    """The model of the config's own defaults, without weights."""
    config = getattr(transformers, FAMILIES[name].config)(**FAMILIES[name].real)
    with torch.device("meta"):
        return architecture_of(config).from_config(config)
