"""Checks before step 1: the loss at zero ratio, and --selfcheck."""

import math

import torch

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.model.load import autocast
from posttrain.packed.reader import padded_rows_only, seq_logps
from posttrain.processes import trained
from posttrain.train.packs import packs


def check_start(name, value, expected, model):
    """Print the step-0 invariant and refuse to start when it fails: policy and reference must be the same model."""
    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")
    if not abs(value - expected) <= tolerance * max(1.0, expected):
        raise BadInput(f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: the reference is not "
                       "the policy that training starts from (stale ref_logps.jsonl? delete it and start again)")


def self_check(model, rows, losses, pack_tokens, reference=False):
    """Check this very model, data and machine in seconds, and print each result; BadInput when one fails.

    rows: training rows, of which as many as fit into a pack are used, eight at most. losses: pack -> (loss, tally).
    reference: seq["ref"] must be what the model says now. Checked: one pack = packs of one row; lines = padded rows =
    single rows; in full precision also the gradient = finite differences on three adapter weights."""
    exact = model.device.type == "cpu"
    rows = max(packs(rows[:8], pack_tokens, padded=True), key=len)

    def gradient(groups):
        model.zero_grad()
        for group in groups:
            losses(group)[0].backward()
        return [p.grad.detach().clone() if p.grad is not None else torch.zeros_like(p) for p in trained(model)]

    def apart(one, other):
        return math.sqrt(sum((a - b).double().pow(2).sum().item() for a, b in zip(one, other))
                         / sum(a.double().pow(2).sum().item() for a in one))

    slopes = gradient([rows])
    worst = 1e-4 if exact else 0.05
    single = gradient([[row] for row in rows])
    with padded_rows_only(model):
        padded = gradient([rows])
    results = [(f"gradient of {len(rows)} x 1 row = 1 x {len(rows)} rows", apart(slopes, single), worst),
               ("gradient of packs = padded rows", apart(slopes, padded), worst)]
    seqs = [seq for row in rows for seq in row["seqs"]]
    with torch.no_grad(), autocast(model):
        lines, rows_of = seq_logps(model, seqs)[0], completion_logps(model, seqs)[0]
        alone = torch.cat([completion_logps(model, [seq])[0] for seq in seqs])
    tokens = torch.tensor([float(sum(seq["mask"])) for seq in seqs], device=lines.device)
    worst = 1e-5 if exact else 0.01
    results += [("log-probability a token, packs = padded", ((lines - rows_of).abs() / tokens).max().item(), worst),
                ("log-probability a token, padded = single", ((alone - rows_of).abs() / tokens).max().item(), worst)]
    if reference:
        ref = torch.tensor([seq["ref"] for seq in seqs], dtype=lines.dtype, device=lines.device)
        results.append(("cached = live reference a token", ((ref - lines).abs() / tokens).max().item(), worst))
    if exact:
        worst = finite_differences(model, slopes, lambda: losses(rows)[0].item())
        results.append(("gradient = finite differences, three weights", worst, 0.05))
    model.zero_grad()
    for name, value, limit in results:
        print(f"selfcheck {'ok    ' if value <= limit else 'FAILED'} {name}: {value:.1e}, allowed {limit:.0e}")
    if not all(value <= limit for _, value, limit in results):
        raise BadInput("the self-check failed: this model, data or machine does not compute what the losses assume")


def finite_differences(model, slopes, loss, step=1e-2):
    """Largest relative distance of the gradient from (loss(w + step) - loss(w - step)) / (2 step), for the steepest
    weight of the three steepest tensors. In half precision such steps drown in rounding."""
    worst = 0.0
    for number in sorted(range(len(slopes)), key=lambda k: -slopes[k].abs().max().item())[:3]:
        place = slopes[number].abs().argmax().item()
        weight, ends = trained(model)[number].data.view(-1), []
        before, slope = weight[place].item(), slopes[number].view(-1)[place].item()
        for sign in (1, -1):
            weight[place] = before + sign * step
            with torch.no_grad():
                ends.append(loss())
        weight[place] = before
        worst = max(worst, abs((ends[0] - ends[1]) / (2 * step) - slope) / abs(slope))
    return worst
