"""--selfcheck: does this very model, data and machine compute what the losses assume?"""

import math
from typing import NamedTuple

import torch

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.model.load import autocast, trained
from posttrain.packed.reader import padded_rows_only, seq_logps
from posttrain.train.packs import cut_packs


class Check(NamedTuple):
    """What was compared, how far apart both sides are, and how far apart they may be."""

    name: str
    error: float
    allowed: float


def self_check(model, rows, loss_of_pack, pack_tokens, *, reference=False):
    """Run the checks and print each result, in seconds; BadInput when one fails.

    rows: training rows, of which as many as fit into a pack are used, eight at most. loss_of_pack:
    a function pack -> (loss, tally). reference: seq["ref"] must be what the model says now.
    Compared are
        gradients             one pack = packs of one row each; packed lines = padded rows
        log-probabilities     packed lines = padded rows = single rows; the cached ones, too
        finite differences    of the loss = the gradient on three weights; in full precision alone
    """
    rows = max(cut_packs(rows[:8], pack_tokens, padded=True), key=len)
    seqs = []
    for row in rows:
        seqs += row["seqs"]
    exact = model.device.type == "cpu"  # fp32; on a GPU bf16 rounds otherwise in every pack

    gradient = summed_gradient(model, loss_of_pack, [rows])
    checks = check_gradients(model, rows, loss_of_pack, gradient, allowed=1e-4 if exact else 0.05)
    checks += check_logps(model, seqs, 1e-5 if exact else 0.01, reference)
    if exact:
        worst = finite_differences(model, gradient, lambda: loss_of_pack(rows)[0].item())
        checks.append(Check("gradient = finite differences, three weights", worst, 0.05))
    model.zero_grad()

    passed = [check.error <= check.allowed for check in checks]  # False for NaN, too
    for check, is_ok in zip(checks, passed):
        verdict = "ok    " if is_ok else "FAILED"
        print(f"selfcheck {verdict} {check.name}: {check.error:.1e}, allowed {check.allowed:.0e}")
    if not all(passed):
        raise BadInput(
            "the self-check failed: this model, data or machine does not compute what the losses "
            "assume"
        )


# ---- gradients -----------------------------------------------------------------------------------


def check_gradients(model, rows, loss_of_pack, gradient, *, allowed):
    """The gradient of one pack against that of single rows and that of padded rows."""
    single = summed_gradient(model, loss_of_pack, [[row] for row in rows])
    with padded_rows_only(model):
        padded = summed_gradient(model, loss_of_pack, [rows])
    to_single = relative_distance(gradient, single)
    to_padded = relative_distance(gradient, padded)
    name = f"gradient of {len(rows)} x 1 row = 1 x {len(rows)} rows"
    return [
        Check(name, to_single, allowed),
        Check("gradient of packs = padded rows", to_padded, allowed),
    ]


def summed_gradient(model, loss_of_pack, groups):
    """The gradient of the summed loss of some packs: a tensor for each trained parameter."""
    model.zero_grad()
    for pack in groups:
        loss, _ = loss_of_pack(pack)
        loss.backward()
    gradient = []
    for parameter in trained(model):
        if parameter.grad is None:
            gradient.append(torch.zeros_like(parameter))
        else:
            gradient.append(parameter.grad.detach().clone())
    return gradient


def relative_distance(gradient, other):
    """|gradient - other| / |gradient|, with the norms over all parameters."""
    difference = sum(squared_norm(a - b) for a, b in zip(gradient, other))
    return math.sqrt(difference / sum(squared_norm(a) for a in gradient))


def squared_norm(tensor):
    """Sum of squares, in double precision."""
    return tensor.double().pow(2).sum().item()


def finite_differences(model, gradient, loss):
    """Largest relative distance of the gradient from (loss(w + step) - loss(w - step)) / (2 step).

    Weights w: the steepest one of each of the three steepest tensors. Of each the best of two
    steps counts: a loss jumps where a token goes to another expert, and a small step seldom gets
    there; in a smooth loss rounding asks for the large one. loss: () -> number. In half precision
    such steps would drown in rounding.
    """
    steepest = [n for n in range(len(gradient)) if gradient[n].any()]  # A is flat while B is 0
    steepest.sort(key=lambda n: -gradient[n].abs().max().item())
    worst = 0.0
    for n in steepest[:3]:
        place = gradient[n].abs().argmax().item()
        slope = gradient[n].view(-1)[place].item()
        weights = trained(model)[n].data.view(-1)
        distances = []
        for step in (1e-2, 1e-3, 1e-4):
            rise = moved(weights, place, step, loss) - moved(weights, place, -step, loss)
            distances.append(abs(rise / (2 * step) - slope) / abs(slope))
        worst = max(worst, min(distances))
    return worst


@torch.no_grad()
def moved(weights, place, step, loss):
    """The loss with one of the weights moved by `step`."""
    before = weights[place].item()
    weights[place] = before + step
    value = loss()
    weights[place] = before
    return value


# ---- log-probabilities ---------------------------------------------------------------------------


def check_logps(model, seqs, allowed, reference):
    """Log-probabilities of lines, padded and single rows; with `reference` the cached ones."""
    with torch.no_grad(), autocast(model):
        lines = seq_logps(model, seqs)[0]  # [B] float64
        padded = completion_logps(model, seqs)[0]
        single = torch.cat([completion_logps(model, [seq])[0] for seq in seqs])
    lengths = [float(sum(seq["mask"])) for seq in seqs]
    tokens = torch.tensor(lengths, device=lines.device)  # [B], supervised ones

    def worst(logps, others):
        return ((logps - others).abs() / tokens).max().item()

    checks = [
        Check("log-probability a token, packs = padded", worst(lines, padded), allowed),
        Check("log-probability a token, padded = single", worst(single, padded), allowed),
    ]
    if reference:
        cached = torch.tensor([seq["ref"] for seq in seqs], dtype=lines.dtype, device=lines.device)
        checks.append(Check("cached = live reference a token", worst(cached, lines), allowed))
    return checks
