"""peft's LoRA layer in one pass.

This is the one place where a method of a library is replaced. peft computes W x, then B A x, scales
it, and adds it: three passes over an output [T, out] where one does, and it offers no setting for
another. A layer with anything beyond plain LoRA (biases, DoRA, several adapters, a merged or
disabled one) is computed by peft.
"""

import types

import torch
import torch.nn.functional as F


def fuse_lora(base):
    """Let peft's LoRA layers in a model, on plain or on 4-bit weights, compute in one pass."""
    for module in base.modules():
        if hasattr(module, "lora_A") and type(module).__name__ in ("Linear", "Linear4bit"):
            module.forward = types.MethodType(lora_forward, module)


def restore_lora(base):
    """Undo fuse_lora."""
    for module in base.modules():
        replaced = module.__dict__.get("forward")  # in the instance: the class keeps peft's
        if getattr(replaced, "__func__", None) is lora_forward:
            del module.forward


def lora_forward(self, x, *args, **kwargs):
    """W x + scaling B A x: x [..., in] -> [..., out]. W may be in 4 bits; A [r, in], B [out, r]."""
    if kwargs or not is_plain(self):
        return type(self).forward(self, x, *args, **kwargs)
    (name,) = self.active_adapters
    low_rank = F.linear(x, self.lora_A[name].weight.to(x.dtype)).flatten(0, -2)  # [T, r]
    out = self.base_layer(x)
    up = self.lora_B[name].weight.T.to(out.dtype)  # [r, out]
    fused = torch.addmm(out.flatten(0, -2), low_rank, up, alpha=self.scaling[name])
    return fused.view_as(out)


def is_plain(layer):
    """Is this LoRA layer nothing but W x + scaling B A x with one adapter?"""
    active = layer.active_adapters
    if len(active) != 1 or layer.disable_adapters or layer.merged:
        return False
    return active[0] not in layer.lora_variant and layer.lora_B[active[0]].bias is None
