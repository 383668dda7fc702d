"""The check before step 1: policy and reference are one model, so the loss has a known value."""

import torch

from posttrain.cli import BadInput
from posttrain.train.packs import pack_logps, ref_logps
from posttrain.train.rows import batch_weight

REFERENCE_IS_ANOTHER = (
    "the reference is not the policy that training starts from (stale ref_logps.jsonl? delete it "
    "and start again)"
)
LOSS_IS_ANOTHER = "policy and reference agree, so the loss is not worth that at zero ratios"


def check_start(name, losses_of, packs, expected, *, model):
    """Print the loss of the first batch before step 1; BadInput when it is not `expected`.

    expected: None for a loss without a reference, of which no value is known.
    losses_of: a function (packs) -> pairs (loss summed over a pack, anything), the trainer's own.
    packs: those of the first batch.
    """
    if expected is None:
        print(f"check    {name} has no reference: no value before step 1 is known (--selfcheck)")
        return
    with torch.no_grad():
        total = sum(loss.item() for loss, _ in losses_of(packs))
    value = total / sum(batch_weight(pack) for pack in packs)
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")

    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    if abs(value - expected) <= tolerance * max(1.0, expected):
        return
    agree = largest_ratio(model, packs) <= tolerance
    cause = LOSS_IS_ANOTHER if agree else REFERENCE_IS_ANOTHER
    raise BadInput(
        f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: {cause}"
    )


def largest_ratio(model, packs):
    """The largest distance of policy and reference, in nats a token; NaN if there is one."""
    largest = []
    for pack in packs:
        with torch.no_grad():
            logps, tokens = pack_logps(model, pack)
        ratios = (logps - ref_logps(pack, like=logps)) / tokens
        largest.append(ratios.abs().max())
    return torch.stack(largest).max().item()
