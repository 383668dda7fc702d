"""One optimiser step: the learning rate, the optimiser, clipping."""

import importlib.util
import math

import torch

from posttrain.cli import BadInput
from posttrain.model.load import trained
from posttrain.processes import sum_gradients


def make_optimizer(model, lr):
    """AdamW without weight decay.

    On a GPU its states have 8 bits and lie in paged memory, which leaves the GPU when room is short
    (as in QLoRA, arXiv 2305.14314).
    """
    if model.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(trained(model), lr=lr, weight_decay=0.0)
    return torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)


def lr_at(step, steps, lr, warmup=0.1):
    """Learning rate of step 0..steps-1: a linear rise over the share `warmup`, then a cosine to 0.

    It is a function of the step alone, so a run that was killed needs no scheduler to continue.
    """
    ramp = math.ceil(warmup * steps)
    if step < ramp:
        return lr * (step + 1) / ramp
    progress = (step - ramp) / (steps - ramp)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))


def optimiser_step(optimizer, lr, max_norm=1.0):
    """Sum the gradients of all processes, clip, step, clear. Returns the norm before clipping.

    A norm that is not finite stops the run before the step would spoil the weights.
    """
    parameters = optimizer.param_groups[0]["params"]
    sum_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    if not math.isfinite(norm):
        raise BadInput(
            f"the gradient norm is {norm}: lower --lr, --beta or weights, and take another --out"
        )
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm
