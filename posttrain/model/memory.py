"""GPU memory: what training will take, and giving it back."""

import gc

import psutil
import torch
from transformers.pytorch_utils import Conv1D

from posttrain.cli import BadInput
from posttrain.model.adapter import (
    EXPERTS,
    LINEAR,
    RANK,
    experts_per_token,
    matrices_of,
    rank_of_experts,
    read_past,
    targets_of,
)
from posttrain.model.names import (
    UNPACKED,
    architecture_of,
    quantize_mode,
    read_config,
    resolve_model,
)
from posttrain.processes import sharded

# Bytes of a number.
BF16 = 2
FP32 = 4
# 4 bits, an 8-bit scale for 64 weights, an fp32 scale for 256 of those: 1/2 + 1/64 + 4/(64 x 256).
NF4 = 0.516

# Number formats of about that size: ours, and of weights that are quantised already.
FOUR_BITS = ("nf4", "bitsandbytes nf4", "bitsandbytes fp4", "gptq", "awq")
# Number formats that leave no doubt of how large the weights will be.
CERTAIN = ("none", "nf4", UNPACKED)

GIB = 2**30

# Parts of a plan that are the same with and without gradient checkpointing.
SHARED_PARTS = ("weights", "experts", "adapter", "head", "dequantise")


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
        weights       the frozen model, but for
        experts       those of a mixture, which transformers keeps in a tensor or two a layer: nf4
                      does not reach them, so they stay in bf16
        adapter       LoRA weights with their gradient and the optimiser's states
        activations   what all layers keep for the backward pass
        checkpointed  what they keep in place of that with gradient checkpointing
        head          the output layer's tile of logits and hidden states
        dequantise    with nf4, one matrix unpacked for its product
    BadInput when the config makes no model.
    """
    config = read_config(resolve_model(name)[0])
    mode = quantize_mode(quantize, config)
    model = model_without_weights(name, config)
    matrices = matrices_of(model)
    config = config.get_text_config()
    rank = lora_r or RANK
    hidden = config.hidden_size
    is_nf4 = mode in FOUR_BITS
    weight_bytes, expert_bytes = bytes_of_weights(model, is_nf4, BF16)

    # A is [rank, inputs] and B [outputs, rank], one of each for every expert. Each number: itself
    # and its gradient in fp32, and AdamW's two moments in 8 bits.
    adapter_numbers = sum(adapter_size(matrix, rank, config) for matrix in targets_of(model))
    adapter_bytes = adapter_numbers * (FP32 + FP32 + 2)

    # A layer keeps of a token, in bf16, the input and output of each matrix and what lies between A
    # and B. In each of its two norms it keeps the hidden state in fp32 (4 bytes) and, before and
    # after, in bf16 (2 + 2).
    matrix_numbers = sum(numbers_of_a_token(matrix, rank, config) for matrix in matrices)
    norm_bytes = 2 * (FP32 + BF16 + BF16) * hidden
    layer_bytes = BF16 * matrix_numbers / config.num_hidden_layers + norm_bytes
    # An adapter on experts is added to all of them before they are used: a copy of the tensor.
    expert_copy = expert_bytes / config.num_hidden_layers
    one_layer = pack_tokens * layer_bytes + expert_copy
    # With checkpointing each layer keeps its input alone, in bf16, and one layer at a time is
    # computed anew.
    layer_inputs = config.num_hidden_layers * pack_tokens * BF16 * hidden

    # The head reads a tile of tokens x vocabulary at a time (packed/head.py): the logits in fp32,
    # and as much twice again for what is computed from them. Of every token it keeps the hidden
    # state and its gradient's direction, in bf16.
    tile_numbers = max(16, (1 << 25) // config.vocab_size) * config.vocab_size
    head_bytes = 3 * FP32 * tile_numbers + (BF16 + BF16) * pack_tokens * hidden

    largest = max((m.numbers for m in matrices if m.kind != EXPERTS), default=0)
    return {
        "weights": weight_bytes,
        "experts": expert_bytes,
        "adapter": adapter_bytes,
        "activations": config.num_hidden_layers * one_layer,
        "checkpointed": layer_inputs + one_layer,
        "head": head_bytes,
        "dequantise": BF16 * largest if is_nf4 else 0,
    }


def bytes_of_weights(model, is_nf4, bytes_each):
    """(bytes of the experts' tensors excluded, bytes of these) of a model without its weights.

    bytes_each: of a number that is not quantised. In 4 bits are the matrices of linear layers, of a
    vision tower, too; embeddings, norms, output layer, experts and what is read past are not.
    """
    matrices = matrices_of(model)
    head = model.get_output_embeddings()
    left_whole = read_past(model)
    quantised = {}  # parameter: its numbers, once where layers share it
    for name, module in model.named_modules():
        # Conv1D is GPT-2's linear layer.
        is_linear = isinstance(module, torch.nn.Linear | Conv1D)
        if is_linear and module is not head and name not in left_whole:
            quantised[module.weight] = module.weight.numel()
    linear = sum(quantised.values())
    experts = sum(matrix.numbers for matrix in matrices if matrix.kind == EXPERTS)
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones count once
    others = total - linear - experts
    return linear * (NF4 if is_nf4 else bytes_each) + others * bytes_each, experts * bytes_each


def adapter_size(matrix, rank, config):
    """Numbers of a new adapter on a matrix."""
    if matrix.kind == LINEAR:
        return rank * sum(matrix.shape)
    experts, *shape = matrix.shape
    return experts * rank_of_experts(rank, config) * sum(shape)


def numbers_of_a_token(matrix, rank, config):
    """Numbers of a token that are kept at a matrix: its input, its output, between A and B."""
    if matrix.kind == EXPERTS:
        in_and_out = sum(matrix.shape[1:])
        return experts_per_token(config) * (in_and_out + rank_of_experts(rank, config))
    return sum(matrix.shape) + rank


def check_fits(name, model, mode):
    """refuse_too_large for a model without weights (model_without_weights), on this machine.

    mode: see quantize_mode. Of weights in another format than ours the size is not known here.
    """
    if mode in CERTAIN:
        bytes_each = BF16 if torch.cuda.is_available() else FP32
        weights, experts = bytes_of_weights(model, mode in FOUR_BITS, bytes_each)
        refuse_too_large(name, weights, experts, free_bytes())


def free_bytes():
    """What the GPU has left; where there is no GPU all of the machine's memory."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().total


def refuse_too_large(name, weights, experts, free):
    """BadInput when the weights of a model alone are more than there is memory for.

    weights, experts: bytes, the latter of what 4 bits do not reach. Under FSDP each process has a
    part of them only, and nothing is refused.
    """
    if weights + experts <= free or sharded():
        return
    of_experts = ""
    if experts:
        of_experts = f", {experts / GIB:.1f} of them experts, which 4 bits do not reach"
    raise BadInput(
        f"{name}: its weights take {(weights + experts) / GIB:.1f} GiB{of_experts}; there are "
        f"{free / GIB:.1f}: take a smaller model, or spread it over several GPUs "
        "(data/accelerate/fsdp.yaml)"
    )


def model_without_weights(name, config, architecture=None):
    """The model of a config on the meta device: shapes without weights or memory.

    architecture: transformers' class of models; default: that of models that write.
    """
    architecture = architecture or architecture_of(config)
    try:
        with torch.device("meta"):
            return architecture.from_config(config)
    except Exception as error:  # a config that contradicts itself
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"{name}: its config makes no model ({reason})") from None


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
    gib = {part: value / GIB for part, value in memory.items()}
    shared = sum(memory[part] for part in SHARED_PARTS)
    with_checkpointing = (shared + memory["checkpointed"]) / GIB
    without = (shared + memory["activations"]) / GIB
    parts = ", ".join(f"{part} {gib[part]:.2f}" for part in SHARED_PARTS if memory[part])
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
