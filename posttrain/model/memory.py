"""GPU memory: what training will take, and giving it back."""

import gc

import torch
import torch.distributed
import transformers

from posttrain.cli import BadInput
from posttrain.model.names import quantize_mode, read_config, resolve_model


def free_memory():
    """Give back what a deleted model held: its patched functions refer to it, and only this finds such circles."""
    gc.collect()
    torch.cuda.empty_cache()


def memory_plan(name, quantize, lora_r, pack_tokens):
    """GPU memory of training in bytes, by part, from the model's config alone: {"weights", "adapter" (with gradient and
    optimiser), "activations", "checkpointed" (the same with gradient checkpointing), "head", "dequantise"}. Estimated
    from what each layer keeps for its backward pass."""
    from transformers.pytorch_utils import Conv1D

    config = read_config(resolve_model(name)[0])
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # a config that contradicts itself
        raise BadInput(f"{name}: its config makes no model ({' '.join(str(error).split())[:160]})") from None
    head, config = model.get_output_embeddings(), config.get_text_config()
    linear = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    packed = sum(weight.numel() for weight in linear)
    whole = sum(p.numel() for p in model.parameters()) - packed  # tied parameters are listed once
    per_weight = 0.516 if quantize_mode(quantize) == "nf4" else 2  # 4 bits, a scale per 64 in 8 bits, theirs per 256
    adapter = sum((lora_r or 16) * sum(weight.shape) for weight in linear)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    # bf16: input and output of every matrix and its low-rank half; in the norms the hidden state, in fp32 and bf16
    per_layer = 2 * sum(sum(weight.shape) + (lora_r or 16) for weight in linear) / layers + 16 * hidden
    kept = pack_tokens * per_layer
    chunk = max(16, (1 << 25) // config.vocab_size) * config.vocab_size
    return {"weights": packed * per_weight + 2 * whole, "adapter": adapter * (4 + 4 + 2), "activations": layers * kept,
            "checkpointed": layers * pack_tokens * 2 * hidden + kept, "head": 3 * 4 * chunk + 4 * pack_tokens * hidden,
            "dequantise": 2 * max(weight.numel() for weight in linear) if per_weight < 1 else 0}


def needs_checkpointing(memory, free=None):
    """True when activations would not fit into 90 % of the free GPU memory (bytes); False on the CPU."""
    if free is None:
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else float("inf")
    return sum(value for part, value in memory.items() if part != "checkpointed") > 0.9 * free


def memory_line(memory):
    """One line for --plan."""
    shared = sum(memory[part] for part in ("weights", "adapter", "head", "dequantise"))
    parts = ", ".join(f"{part} {memory[part] / 2**30:.2f}" for part in ("weights", "adapter", "head", "dequantise"))
    return (f"memory   about {(shared + memory['checkpointed']) / 2**30:.1f} GiB on a GPU with gradient checkpointing, "
            f"{(shared + memory['activations']) / 2**30:.1f} without ({parts}, activations "
            f"{memory['checkpointed'] / 2**30:.2f} or {memory['activations'] / 2**30:.2f})")
