"""Training in several processes at once, as `accelerate launch` starts them.

Every process runs the same script. Each reads its share of a step's packs, then the gradients are
summed, so the step is the one that a single process would make. The first process alone prints and
writes. Without `accelerate launch` there is one process, and every function here does nothing or
answers for that one. Nobody else need know of rank (the number of a process, from 0) and size (how
many there are).
"""

import atexit
import functools
import os
import sys

import torch
import torch.distributed
import torch.distributed.nn  # imported later, its defaults would hold on to the group for ever
from tqdm import tqdm

from posttrain.cli import AT_END, BadInput


def join_processes():
    """Join the other processes of `accelerate launch`, if any, before anything else is done.

    Each process holds the whole model (under FSDP a part of it, see `shard`). BadInput when they do
    not find each other.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched == 1:
        return
    import accelerate

    state = accelerate.PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != launched:
        raise BadInput(
            "the processes of accelerate launch do not find each other: each would train alone"
        )
    # Without this a process may end by an abort after its work is done.
    atexit.register(torch.distributed.destroy_process_group)
    AT_END.append(leave)
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    # Else transformers would give weights to the first process only.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if not is_first():
        be_quiet()


def leave(code):
    """End this process at once, with this exit code.

    torch keeps parts of the group where nobody can reach them (caches of FSDP, for one). Threads
    that still belong to it may abort a process that takes the long way out.
    """
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def be_quiet():
    """Print nothing more and draw no progress bars; errors stay visible."""
    sys.stdout = open(os.devnull, "w")
    tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)


def rank():
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def size():
    """How many processes there are."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_first():
    """True in the process that prints and writes."""
    return rank() == 0


def my_share(items, idle_copy):
    """This process's share of a list: every size-th item, as many as every other process gets.

    What is missing is filled up with idle_copy(the last item): under FSDP all processes must read
    the model equally often.
    """
    return share_out(items, idle_copy, rank(), size())


def share_out(items, idle_copy, rank, size):
    """my_share of process `rank` of `size`."""
    if not items:
        return []
    missing = -len(items) % size  # up to the next multiple of size
    idle = [idle_copy(items[-1]) for _ in range(missing)]
    return (items + idle)[rank::size]


def from_first(make):
    """make() of the first process, for all of them: a run record, say, must be opened only once.

    A BadInput or OSError that make() raises there is raised in every process, so that nobody waits.
    """
    message = [None, None]  # the result and the error, in a list because broadcasting fills one
    if is_first():
        try:
            message[0] = make()
        except (BadInput, OSError) as error:
            message[1] = error
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(message)
    result, error = message
    if error is not None:
        raise error
    return result


def summed(values):
    """The sum over all processes of what each passes.

    Counters are added up, lists are joined in the order of ranks.
    """
    if not torch.distributed.is_initialized():
        return values
    shares = [None] * size()
    torch.distributed.all_gather_object(shares, values)
    total = type(values)()
    # The `+` of Counters would drop sums below zero; their update() adds as well and keeps them.
    add = total.extend if isinstance(values, list) else total.update
    for share in shares:
        add(share)
    return total


def sum_gradients(parameters):
    """Replace every parameter's gradient by its sum over all processes, in one message."""
    if not torch.distributed.is_initialized():
        return
    flat = torch.cat([gradient_of(parameter).flatten() for parameter in parameters])
    torch.distributed.all_reduce(flat)
    lengths = [parameter.numel() for parameter in parameters]
    for parameter, total in zip(parameters, flat.split(lengths)):
        parameter.grad = total.view_as(parameter).clone()


def gradient_of(parameter):
    """A parameter's gradient; zeros where this process's packs gave it none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


# ---- FSDP ----------------------------------------------------------------------------------------


def sharded():
    """True when `accelerate launch` was told to spread the model's weights (FSDP)."""
    return torch.distributed.is_initialized() and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model, whole):
    """Under FSDP spread the frozen weights over the processes; a layer is gathered when it is read.

    whole: the parameters that stay whole in each process, those that are trained. So gradients,
    clipping and checkpoints are those of one process. From then on all processes must call the
    model equally often: each call waits for the others' parts.
    """
    if not sharded():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (size(),))
    whole = set(whole)
    for parameter in whole:
        parameter.data = parameter.data.to(device)

    # Layer by layer, then what is left (embeddings and head), so that one layer at a time is whole.
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    for module in [*layers, model]:
        fully_shard(module, mesh=mesh, ignored_params=whole)

    frozen = [parameter for parameter in model.parameters() if parameter not in whole]
    here = sum(parameter.to_local().nbytes for parameter in frozen) / 2**20
    everywhere = sum(parameter.nbytes for parameter in frozen) / 2**20
    print(f"fsdp     {here:,.1f} of {everywhere:,.1f} MiB of frozen weights in each process")


def same_everywhere(logits):
    """Under FSDP the first process's logits, in all of them.

    With logits of its own, rounded otherwise, a process might draw other tokens and call the model
    more often.
    """
    if sharded():
        torch.distributed.broadcast(logits, 0)
    return logits


def as_forward(model, read):
    """`read`, a function that reads a model's weights, as something to call like its forward.

    Under FSDP the weights lie spread over the processes. Each layer gathers its own; the rest
    (embedding and output layer) is gathered by hooks around the model's forward. The function
    becomes a second forward with these hooks.
    """
    if not sharded():
        return read
    from torch.distributed.fsdp import register_fsdp_forward_method

    model.second_forward = read
    register_fsdp_forward_method(model, "second_forward")
    return model.second_forward
