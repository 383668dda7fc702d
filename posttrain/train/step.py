"""One optimiser step: the learning rate, the optimiser, clipping."""

import importlib.util
import math

import torch
import torch.distributed

from posttrain.cli import BadInput
from posttrain.model.load import trained


def make_optimizer(model, lr):
    """AdamW without weight decay; on a GPU with 8-bit states in paged memory, which leave it when room is short."""
    if model.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(trained(model), lr=lr, weight_decay=0.0)
    return torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)


def lr_at(step, steps, lr, warmup=0.1):
    """Learning rate of step 0..steps-1: linear warm-up over the share `warmup`, then a cosine to 0."""
    ramp = math.ceil(warmup * steps)
    if step < ramp:
        return lr * (step + 1) / ramp
    return lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def optimiser_step(optimizer, lr, max_norm=1.0):
    """Clip, step, clear -> gradient norm before clipping. One that is not finite stops the run before its step."""
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    if not math.isfinite(norm):
        raise BadInput(f"the gradient norm is {norm}: lower --lr, --beta or weights, and take another --out")
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm
