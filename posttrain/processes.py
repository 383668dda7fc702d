"""The processes of accelerate launch that share a model. Nothing of rank or size leaves this room."""

import atexit
import functools
import os
import sys

import torch
import torch.distributed
from tqdm import tqdm

from posttrain.cli import BadInput


def trained(model):
    """The parameters that are trained (the adapter's)."""
    return [p for p in model.parameters() if p.requires_grad]


def join_processes():
    """Join the processes of `accelerate launch` if there are several -> (number of this one, how many). Each holds the
    whole model (a part of it under FSDP: shard) and reads its share of the packs; gradients are summed once a
    step, so the update is that of one. Only the first speaks and writes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    import accelerate

    state = accelerate.PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise BadInput("the processes of accelerate launch do not find each other: each would train alone")
    atexit.register(torch.distributed.destroy_process_group)  # else a process may end by an abort after its work
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would give weights to the first process only
    if state.process_index:
        sys.stdout = open(os.devnull, "w")  # errors stay visible
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)
    return state.process_index, state.num_processes


def is_first():
    """False in the other processes of accelerate launch."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def from_first(make):
    """make() of the first process, for all: a run record must be opened once. So is its refusal: nobody waits."""
    found = [None, None]
    try:
        found[0] = make() if is_first() else None
    except (BadInput, OSError) as error:
        found[1] = error
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    if found[1]:
        raise found[1]
    return found[0]


def summed(values):
    """Sum of Counters or lists over all processes."""
    if not torch.distributed.is_initialized():
        return values
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, values)
    total = type(values)()
    for one in everyone:
        total.extend(one) if isinstance(total, list) else total.update(one)
    return total


def sum_gradients(model):
    """Sum the adapter's gradient over all processes, in one message."""
    if torch.distributed.is_initialized():
        parameters = trained(model)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        torch.distributed.all_reduce(flat)
        for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = grad.view_as(parameter).clone()


def sharded():
    """True when accelerate launch was told to use FSDP."""
    return torch.distributed.is_initialized() and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model):
    """Under FSDP spread the frozen weights over the processes; a layer is gathered while it is read. The adapter stays
    whole in each, so gradients, clipping and checkpoints are those of one process. From then on all must read the model
    equally often (training.packs)."""
    if not sharded():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    device, whole = "cuda" if torch.cuda.is_available() else "cpu", set(trained(model))
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for part in [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] + [model]:
        fully_shard(part, mesh=mesh, ignored_params=whole)
    frozen = [p for p in model.parameters() if p not in whole]
    sizes = [sum(p.nbytes for p in same) / 2**20 for same in ([p.to_local() for p in frozen], frozen)]
    print(f"fsdp     {sizes[0]:,.1f} of {sizes[1]:,.1f} MiB of frozen weights in each process")

    def same_logits(module, inputs, options, output):  # while sampling: with other tokens the steps could be more
        if options.get("use_cache"):
            torch.distributed.broadcast(output.logits, 0)
    model.register_forward_hook(same_logits, with_kwargs=True)


def as_forward(model, read):
    """A function that reads a model's weights, so that it may be called instead of the model's forward.

    Under FSDP the weights lie spread over the processes. Each layer gathers its own; the rest (embedding and output
    layer) is gathered by hooks around the model's forward. The function becomes a second forward with these hooks."""
    if not sharded():
        return read
    from torch.distributed.fsdp import register_fsdp_forward_method

    model.second_forward = read
    register_fsdp_forward_method(model, "second_forward")
    return model.second_forward
