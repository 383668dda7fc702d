"""The check before step 1: policy and reference are one model, so the loss has a known value."""

from collections import Counter

import torch

from posttrain.cli import BadInput

REFERENCE_IS_ANOTHER = (
    "the reference is not the policy that training starts from (stale ref_logps.jsonl? delete it "
    "and start again)"
)
LOSS_IS_ANOTHER = "policy and reference agree, so the loss is not worth that at zero ratios"


def check_start(name, losses, weight, expected, model):
    """Print the loss of the first batch before step 1; BadInput when it is not `expected`.

    losses: (loss summed over a pack, its sums by tally) of every pack. weight: of the whole batch.
    """
    total, sums = 0, Counter()
    with torch.no_grad():
        for loss, pack_sums in losses:
            total += loss.item()
            sums.update(pack_sums)
    value = total / weight
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")

    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    if abs(value - expected) <= tolerance * max(1.0, expected):
        return
    cause = REFERENCE_IS_ANOTHER if has_moved(sums, tolerance) else LOSS_IS_ANOTHER
    raise BadInput(
        f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: {cause}"
    )


def has_moved(sums, tolerance):
    """Is any mean reward, beta x ratio, away from zero? NaN counts as away."""
    for key, value in sums.items():
        slice_name, name = key[:2]
        if len(key) == 2 and name in ("rewards/chosen", "rewards/rejected"):
            mean = value / sums[slice_name, name, "rows"]
            if not abs(mean) <= tolerance:
                return True
    return False
