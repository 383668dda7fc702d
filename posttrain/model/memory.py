"""GPU memory: what training will take, and giving it back."""

import gc

import torch
import transformers
from transformers.pytorch_utils import Conv1D

from posttrain.cli import BadInput
from posttrain.model.names import quantize_mode, read_config, resolve_model

# Bytes of a number.
BF16 = 2
FP32 = 4
# 4 bits, an 8-bit scale for 64 weights, an fp32 scale for 256 of those: 1/2 + 1/64 + 4/(64 x 256).
NF4 = 0.516

# Parts of a plan that are the same with and without gradient checkpointing.
SHARED_PARTS = ("weights", "adapter", "head", "dequantise")


def free_memory():
    """Give back what a deleted model held.

    Its patched functions refer to the model and it to them: only the garbage collector finds such
    circles.
    """
    gc.collect()
    torch.cuda.empty_cache()


def memory_plan(name, quantize, lora_r, pack_tokens):
    """GPU memory that training will take, {part: bytes}, estimated from a model's config alone.

    pack_tokens: tokens that are in memory at once. The parts:
        weights       the frozen model
        adapter       LoRA weights with their gradient and the optimiser's states
        activations   what all layers keep for the backward pass
        checkpointed  what they keep in place of that with gradient checkpointing
        head          the output layer's tile of logits and hidden states
        dequantise    with nf4, one matrix unpacked for its product
    BadInput when the config makes no model.
    """
    config = read_config(resolve_model(name)[0])
    model = model_without_weights(name, config)
    config = config.get_text_config()
    rank = lora_r or 16
    hidden = config.hidden_size

    # The matrices inside the layers are quantised and get an adapter; embeddings, norms and head
    # stay in bf16.
    matrices = matrices_of(model)
    quantised = sum(weight.numel() for weight in matrices)
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones count once
    others = total - quantised
    is_nf4 = quantize_mode(quantize) == "nf4"
    weight_bytes = quantised * (NF4 if is_nf4 else BF16) + others * BF16

    # A is [rank, inputs] and B [outputs, rank]. Each number: itself and its gradient in fp32, and
    # AdamW's two moments in 8 bits.
    adapter_numbers = sum(rank * sum(weight.shape) for weight in matrices)
    adapter_bytes = adapter_numbers * (FP32 + FP32 + 2)

    # A layer keeps of a token, in bf16, the input and output of each matrix and what lies between A
    # and B. In each of its two norms it keeps the hidden state in fp32 (4 bytes) and, before and
    # after, in bf16 (2 + 2).
    matrix_numbers = sum(sum(weight.shape) + rank for weight in matrices)
    norm_bytes = 2 * (FP32 + BF16 + BF16) * hidden
    layer_bytes = BF16 * matrix_numbers / config.num_hidden_layers + norm_bytes
    one_layer = pack_tokens * layer_bytes
    # With checkpointing each layer keeps its input alone, in bf16, and one layer at a time is
    # computed anew.
    layer_inputs = config.num_hidden_layers * pack_tokens * BF16 * hidden

    # The head reads a tile of tokens x vocabulary at a time (packed/head.py): the logits in fp32,
    # and as much twice again for what is computed from them. Of every token it keeps the hidden
    # state and its gradient's direction, in bf16.
    tile_numbers = max(16, (1 << 25) // config.vocab_size) * config.vocab_size
    head_bytes = 3 * FP32 * tile_numbers + (BF16 + BF16) * pack_tokens * hidden

    return {
        "weights": weight_bytes,
        "adapter": adapter_bytes,
        "activations": config.num_hidden_layers * one_layer,
        "checkpointed": layer_inputs + one_layer,
        "head": head_bytes,
        "dequantise": BF16 * max(weight.numel() for weight in matrices) if is_nf4 else 0,
    }


def model_without_weights(name, config):
    """The model of a config on the meta device: shapes without weights or memory."""
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # a config that contradicts itself
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"{name}: its config makes no model ({reason})") from None


def matrices_of(model):
    """Weights of the linear layers inside a model, without the output layer."""
    head = model.get_output_embeddings()
    # Conv1D is GPT-2's linear layer.
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear | Conv1D)]
    return [module.weight for module in linear if module is not head]


def needs_checkpointing(memory, free=None):
    """True when a plan without checkpointing would not fit into 90 % of the free GPU memory.

    free: bytes; default: what the GPU has left. False on the CPU.
    """
    if free is None:
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else float("inf")
    needed = sum(value for part, value in memory.items() if part != "checkpointed")
    return needed > 0.9 * free


def memory_line(memory):
    """One line for --plan."""
    gib = {part: value / 2**30 for part, value in memory.items()}
    shared = sum(memory[part] for part in SHARED_PARTS)
    with_checkpointing = (shared + memory["checkpointed"]) / 2**30
    without = (shared + memory["activations"]) / 2**30
    parts = ", ".join(f"{part} {gib[part]:.2f}" for part in SHARED_PARTS)
    return (
        f"memory   about {with_checkpointing:.1f} GiB on a GPU with gradient checkpointing, "
        f"{without:.1f} without ({parts}, "
        f"activations {gib['checkpointed']:.2f} or {gib['activations']:.2f})"
    )


class OneInMemory:
    """Holds one model at a time: the one that was held goes before another is loaded."""

    def __init__(self):
        self.name = None  # of the model that is held
        self._model = None

    def get(self, name, load):
        """The model of this name; load() makes it unless it is the one that is held."""
        if self.name != name:
            if self._model is not None:
                self.name = self._model = None
                free_memory()
            self._model = load()
            self.name = name
        return self._model
