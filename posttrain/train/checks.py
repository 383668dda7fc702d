"""The check before step 1: the loss at zero ratio."""

from posttrain.cli import BadInput


def check_start(name, value, expected, model):
    """Print the step-0 invariant and refuse to start when it fails: policy and reference must be the same model."""
    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")
    if not abs(value - expected) <= tolerance * max(1.0, expected):
        raise BadInput(f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: the reference is not "
                       "the policy that training starts from (stale ref_logps.jsonl? delete it and start again)")
