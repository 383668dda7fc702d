"""LoRA: which of a model's matrices an adapter is put on, and how much of the model it reaches.

LoRA (arXiv 2106.09685) adds (alpha / r) B A x to what a matrix makes of x. A is random and B is 0,
so the policy starts as the base model. What current advice names is the default here: an adapter on
every matrix of every layer, alpha = 2 r and so a scale of 2, no dropout.

Where a layer has experts (a mixture, MoE), transformers keeps all of their matrices in one
parameter [experts, outputs, inputs]. Each expert then gets an A and a B of its own, of rank
r / (experts that read a token), so that a token meets the same rank there as elsewhere
("LoRA Without Regret", Schulman et al. 2025).
"""

import contextlib
import sys
from collections import Counter
from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.cli import BadInput

RANK = 16

# What a config calls the number of experts that read a token.
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k")


# ---- the matrices of a model ---------------------------------------------------------------------


class Matrix(NamedTuple):
    """A matrix that hidden states are multiplied with, or those of all experts of a layer."""

    module: str  # its module's name in the model, without an adapter
    parameter: str  # its name in that module
    shape: tuple  # [outputs, inputs], with experts [experts, ., .]
    kind: str  # LINEAR, EXPERTS, or the words for what it is

    @property
    def name(self):
        return f"{self.module}.{self.parameter}"

    @property
    def numbers(self):
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


# A matrix of one of these two kinds can have an adapter. Any other kind is the words for what is
# left out.
LINEAR = "linear layers"
EXPERTS = "experts"
# Kernels for Mamba layers take the others themselves, past an adapter that lies on them.
MAMBA = "all but in_proj of Mamba layers"
ROUTERS = "routers"
INDEXERS = "indexers"  # they choose which tokens are seen: a choice has no gradient
# Taken itself, too: Gemma 3n clips this one while it trains.
READ_PAST = ("correction_coefs",)
# Parameters with rows and columns that nothing is multiplied with.
NO_MATRICES = ("bias", "A_log", "scale", "norm")


def decoder_of(model):
    """The layers of a causal LM that read text, without its output layer and without a tower."""
    decoder = model.get_decoder()
    if isinstance(decoder, nn.Linear):  # ModernBERT's decoder calls its output layer so
        return model.base_model
    return decoder


def matrices_of(model):
    """The matrices of a causal LM's text layers, with or without adapters: a list of Matrix.

    No matrices in this sense are embeddings, the output layer, norms, kernels of convolutions, and
    whatever belongs to a vision tower.
    """
    decoder = decoder_of(model)
    head = model.get_output_embeddings()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    matrices = []
    parents = {}  # module: the one that it is a part of
    for name, module in decoder.named_modules(prefix=prefix):
        for part in module.children():
            parents[part] = module
        is_of_an_adapter = ".lora_" in name
        if not is_of_an_adapter and module is not head:
            matrices += matrices_in(without_wrappers(name), module, parents.get(module))
    return matrices


def matrices_in(name, module, parent):
    """The matrices that a module of this name holds itself, not in its parts."""
    if isinstance(module, nn.Linear | Conv1D):
        return [Matrix(name, "weight", linear_shape(module), kind_of_linear(name, module, parent))]
    if isinstance(module, nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return []

    matrices = []
    for parameter, weight in module.named_parameters(recurse=False):
        place = f"{name}.{parameter}"
        shape = tuple(weight.shape)
        if len(shape) < 2 or min(shape) == 1 or any(word in place for word in NO_MATRICES):
            continue
        kind = short_place(place)
        if len(shape) == 3 and "expert" in class_name(module):
            kind = EXPERTS
        elif is_router(module) or is_router(parent):
            kind = ROUTERS
        matrices.append(Matrix(name, parameter, shape, kind))
    return matrices


def read_past(model):
    """Names of linear layers whose matrix is taken itself: in 4 bits it would be another one."""
    readable = (LINEAR, EXPERTS, INDEXERS)
    return [matrix.module for matrix in matrices_of(model) if matrix.kind not in readable]


def linear_shape(module):
    """[outputs, inputs]. In 4 bits the weight itself has another shape."""
    if isinstance(module, Conv1D):  # GPT-2's linear layer, [inputs, outputs]
        return tuple(module.weight.shape)[::-1]
    return module.out_features, module.in_features


def kind_of_linear(name, module, parent):
    """LINEAR, or what a linear layer is that no adapter is put on."""
    is_in_mamba = hasattr(parent, "A_log") and hasattr(parent, "D")
    if is_in_mamba and last_word(name) != "in_proj":
        return MAMBA
    if "indexer" in name:
        return INDEXERS
    if is_router(module) or is_router(parent):
        return ROUTERS
    if last_word(name) in READ_PAST or not gives_a_tensor(module):
        return short_place(name)
    return LINEAR


def is_router(module):
    """Does it choose the experts of a token? Its numbers are few, and peft reaches few of them."""
    return any(word in class_name(module) for word in ("router", "topk"))


def class_name(module):
    return type(module).__name__.lower()


def gives_a_tensor(module):
    """Does a linear layer do what its name says? Some of its kind return a tuple or want groups,
    and peft could not add to what they return."""
    forward = type(module).forward
    if forward in (nn.Linear.forward, Conv1D.forward) or hasattr(module.weight, "quant_state"):
        return True
    weight = module.weight
    row = torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            output = module(row)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, module.out_features)


def short_place(name):
    """Where a matrix stands, in two words: self_attn.q_proj, experts.down_proj."""
    words = name.removesuffix(".weight").split(".")
    return ".".join(words[-2:])


def without_wrappers(name):
    """A module's name as it was before peft has wrapped it."""
    return name.replace(".base_layer", "")


# ---- a new adapter -------------------------------------------------------------------------------


def add_adapter(model, lora_r, lora_alpha, seed):
    """The model with a new LoRA adapter on every matrix of its layers that can have one.

    lora_r defaults to RANK, lora_alpha to 2 lora_r. A is drawn with `seed`. BadInput when no matrix
    can have an adapter.
    """
    rank = lora_r or RANK
    alpha = lora_alpha or 2 * rank
    with without_bitsandbytes(model):
        targets = targets_of(model)
        if not targets:
            raise BadInput(f"{type(model).__name__} has no matrix that LoRA can be put on")
        layers = [matrix.module for matrix in targets if matrix.kind == LINEAR]
        experts = [matrix.name for matrix in targets if matrix.kind == EXPERTS]

        # A smaller rank for each expert, and an alpha that leaves the scale as it is.
        expert_rank = rank_of_experts(rank, model.config)
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=short_names(layers, [name for name, _ in model.named_modules()]),
            target_parameters=experts or None,
            rank_pattern=dict.fromkeys(experts, expert_rank),
            alpha_pattern=dict.fromkeys(experts, alpha * expert_rank / rank),
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def targets_of(model):
    """The matrices of a model without adapters that a new one is put on: a list of Matrix."""
    targets = []
    for matrix in matrices_of(model):
        is_linear = matrix.kind == LINEAR and not is_taken_for_experts(matrix.module, model)
        if is_linear or matrix.kind == EXPERTS:
            targets.append(matrix)
    return targets


def short_names(targets, others):
    """The last words of module names, where all modules that end with them are targets.

    targets, others: full names; `others` may hold the targets, too. A target whose last word
    another module shares keeps its full name.
    """
    shared = {last_word(name) for name in set(others) - set(targets)}
    names = set()
    for name in targets:
        names.add(name if last_word(name) in shared else last_word(name))
    return sorted(names)


def last_word(name):
    return name.rpartition(".")[2]


def is_taken_for_experts(name, model):
    """Would peft put an adapter for this linear layer on the layer's experts instead?

    In transformers 4 every expert had a gate_proj, an up_proj and a down_proj of its own. So that
    adapters of that time can be read, peft takes these names for the experts of a model that has
    any, wherever else they stand (beside the experts, in layers without).
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # it misses the other half of what the experts have in one
        return True
    return name not in config.target_modules


def rank_of_experts(rank, config):
    """The rank of one expert's adapter: `rank` shared out over the experts that read a token."""
    return max(1, rank // experts_per_token(config))


def experts_per_token(config):
    """How many experts of a layer read a token; 1 where the config has no word for it."""
    config = config.get_text_config()
    for name in EXPERTS_PER_TOKEN:
        count = getattr(config, name, None)
        if count:
            return count
    return 1


@contextlib.contextmanager
def without_bitsandbytes(model):
    """Spare a model that is not quantised the import of bitsandbytes, more than a second.

    peft asks for it when it is itself imported and whenever it adds an adapter, to see whether a
    layer is of a kind that is made there. In this context it is told that there is none."""
    if getattr(model, "is_quantized", False) or "bitsandbytes" in sys.modules:
        yield
        return

    sys.modules["bitsandbytes"] = None  # how Python notes that a module cannot be imported
    try:
        yield
    finally:
        del sys.modules["bitsandbytes"]
        from peft import import_utils

        # It keeps what it was told; the next model may be a quantised one.
        import_utils.is_bnb_available.cache_clear()
        import_utils.is_bnb_4bit_available.cache_clear()


# ---- an adapter that is there --------------------------------------------------------------------


def check_adapter(name, model, lora_r, lora_alpha):
    """BadInput when the adapter is no LoRA, or of another rank or alpha than the flags say."""
    from peft import LoraConfig

    config = model.peft_config["default"]
    if not isinstance(config, LoraConfig):
        raise BadInput(
            f"{name}: an adapter of another kind than LoRA ({config.peft_type}): merge it first"
        )
    if config.task_type == "SEQ_CLS":
        raise BadInput(f"{name}: the adapter of a reward model, which cannot be trained here")
    if lora_r not in (None, config.r) or lora_alpha not in (None, config.lora_alpha):
        raise BadInput(
            f"{name} continues an adapter of rank {config.r}, alpha {config.lora_alpha}: leave "
            "--lora-r and --lora-alpha out, or start from the base model"
        )


class Reach(NamedTuple):
    """What of a model's matrices an adapter reaches."""

    share: float  # of their numbers
    layers: list  # names of the matrices that have an adapter
    left_out: Counter  # {kind or name: numbers} of the others


def reach_of(model):
    """The Reach of the adapter of a peft model."""
    base = model.get_base_model()
    adapted = adapted_weights(base)
    layers = []
    left_out = Counter()
    reached = 0
    for matrix in matrices_of(base):
        if matrix.name in adapted:
            layers.append(matrix.name)
            reached += matrix.numbers
        elif matrix.kind in (LINEAR, EXPERTS):
            left_out[short_place(matrix.name)] += matrix.numbers
        else:
            left_out[matrix.kind] += matrix.numbers
    return Reach(reached / (reached + left_out.total()), layers, left_out)


def adapted_weights(base):
    """Names of the matrices that LoRA layers lie on, as Matrix has them."""
    names = set()
    for name, module in lora_layers(base):
        parameter = getattr(module, "parameter_name", "weight")  # one of experts has a name
        names.add(f"{without_wrappers(name)}.{parameter}")
    return names


def adapted_parameters(model):
    """The matrices that LoRA layers lie on, one for each layer: the parameters themselves."""
    parameters = []
    for _, module in lora_layers(model):
        parameter = getattr(module, "parameter_name", "weight")
        parameters.append(getattr(module.get_base_layer(), parameter))
    return parameters


def lora_layers(model):
    """[(name, module), ...] of a model's LoRA layers."""
    return [(n, m) for n, m in model.named_modules() if len(getattr(m, "lora_A", ()))]


def reach_line(model):
    """One line for people: rank, scale, how much of the model is reached, and what is left out."""
    config = model.peft_config["default"]
    reach = reach_of(model)
    words = Counter(last_word(name.removesuffix(".weight")) for name in reach.layers)
    names = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    line = (
        f"lora     rank {config.r}, scale {config.lora_alpha / config.r:g}, on {reach.share:.1%} "
        f"of the weights in matrices ({names})"
    )
    if reach.left_out:
        line += f"; left out: {', '.join(reach.left_out)}"
    return line
