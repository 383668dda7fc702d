"""The arithmetic of post-training: log-probabilities of answers, losses, and what data costs.

Shapes: B = sequences, or pairs of them, at once; T = their padded length in tokens; V = words of
the vocabulary; S = supervised tokens of all sequences.
mask    marks the tokens that are trained on (1 = supervised)
logps   natural logarithms of probabilities, summed over the supervised tokens of a sequence
ratio   logps of the policy - logps of the reference
reward  beta x ratio
Every loss below is a value for each row or pair: nothing is averaged here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

# ---- log-probabilities of answers ----------------------------------------------------------------


def completion_logps(model, rows, pad_id=0, by_token=False):
    """Log-probabilities of the supervised tokens of each row, by the plain padded path.

    This is what the kit computes wherever it says logps. The trainers call it through seq_logps of
    posttrain/packed/reader.py, which gets the same numbers without padding where the model allows
    it, and is compared with this function before it is used.

    rows: [{"ids": token ids, "mask": 0 or 1 for each}, ...], one sequence each, padded on the right
    here.
    Returns (logps [B] float64, supervised tokens [B]); with by_token the single tokens' values [S],
    row after row.

    Mind the one-token shift: the logits at place t-1 score the token at place t. Only supervised
    places reach the output layer. Padding is known by the rows' lengths, never by its id, which may
    be the id of a real token.
    """
    T = max(len(row["ids"]) for row in rows)
    ids = torch.full((len(rows), T), pad_id)  # [B, T]
    attention = torch.zeros((len(rows), T), dtype=torch.long)
    mask = torch.zeros((len(rows), T), dtype=torch.bool)
    for number, row in enumerate(rows):
        length = len(row["ids"])
        ids[number, :length] = torch.tensor(row["ids"])
        attention[number, :length] = 1
        mask[number, :length] = torch.tensor(row["mask"]).bool()
    ids, attention, mask = (tensor.to(model.device) for tensor in (ids, attention, mask))

    # The first token has nothing before it that could predict it, so its mask does not count.
    predicts = torch.zeros_like(mask)
    predicts[:, :-1] = mask[:, 1:]
    targets = ids[:, 1:][mask[:, 1:]]  # [S]

    output = model(
        input_ids=ids, attention_mask=attention, logits_to_keep=predicts, use_cache=False
    )
    logits = output.logits
    if logits.dim() == 3:  # a model that ignores logits_to_keep
        logits = logits[predicts]
    logits = logits.float()  # [S, V]
    token_logps = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)  # [S]
    if by_token:
        return token_logps

    row_of_token = predicts.nonzero()[:, 0]
    logps = torch.zeros(len(rows), dtype=torch.float64, device=model.device)
    logps = logps.index_add(0, row_of_token, token_logps.double())
    return logps, predicts.sum(1)


# ---- losses --------------------------------------------------------------------------------------


def dpo_loss(chosen, rejected, beta, label_smoothing=0.0):
    """DPO (arXiv 2305.18290, eq. 7) for each pair. Its value at zero ratios is ln 2.

    chosen, rejected: ratios [B] of the two answers. label_smoothing (a number or [B]): the
    probability that the label is wrong; the loss is then the expected one (conservative DPO).
    Returns [B].
    """
    margin = beta * (chosen - rejected)
    loss_if_right = -F.logsigmoid(margin)
    loss_if_wrong = -F.logsigmoid(-margin)
    return (1 - label_smoothing) * loss_if_right + label_smoothing * loss_if_wrong


def ipo_loss(chosen, rejected, beta, label_smoothing=0.0):
    """IPO, Identity preference optimisation (arXiv 2310.12036, eq. 17), for each pair.

    Its value at zero ratios is 1/(4 beta^2). chosen, rejected: ratios [B], means per token
    (--ipo-length mean, as TRL has it) or sums; the caller divides. beta is the paper's tau: a
    higher one keeps the policy closer to the reference. label_smoothing as in dpo_loss.
    """
    margin = chosen - rejected
    target = 1 / (2 * beta)
    loss_if_right = (margin - target) ** 2
    loss_if_wrong = (margin + target) ** 2
    return (1 - label_smoothing) * loss_if_right + label_smoothing * loss_if_wrong


class PairLoss(NamedTuple):
    """A loss on pairs of answers, and what dpo.py must know about it."""

    # (chosen [B], rejected [B], beta, label_smoothing) -> losses [B]
    function: Callable
    # beta -> the loss where chosen and rejected are 0: its value before step 1, which is checked.
    # None where needs_reference is False: the policy's own logps are not 0 then.
    at_zero: Callable | None
    # The default of --beta.
    beta: float
    # chosen and rejected are divided by the tokens of their answers (--ipo-length mean).
    per_token: bool = False
    # They are ratios to a reference; if False, the policy's own logps, and none is scored.
    needs_reference: bool = True


# A new loss is a function above and a line here; dpo.py --loss then knows it.
PAIR_LOSSES = {
    "dpo": PairLoss(dpo_loss, lambda beta: math.log(2), beta=0.1),
    "ipo": PairLoss(ipo_loss, lambda beta: 1 / (4 * beta**2), beta=1.0, per_token=True),
}


def kto_loss(ratio, label, kl, beta):
    """KTO (arXiv 2402.01306, eq. 7) for each answer, before weights.

    Its value at zero ratio and zero KL is 0.5. ratio [B]; label [B] bool, True = desirable; kl: the
    reference point of the step, a scalar (kto_kl). Returns [B]:
    desirable: 1 - sigmoid(beta (ratio - kl)); undesirable: 1 - sigmoid(beta (kl - ratio)).
    """
    return 1 - torch.sigmoid(beta * torch.where(label, ratio - kl, kl - ratio))


def kto_kl(ratio):
    """KTO's reference point z0, a scalar without gradient.

    It is the mean ratio [B] of answers to other prompts, an estimate of the KL between policy and
    reference, and never below 0.
    """
    return ratio.detach().mean().clamp(min=0)


# ---- cost: data is P prompts x N candidates x T tokens, paid twice (generation and judging) ------


def generation_tokens(prompts, n, answer_len, prompt_len):
    """(tokens read, tokens written) for N answers to each prompt, which is read once for all N."""
    return prompts * prompt_len, prompts * n * answer_len


def judge_tokens(prompts, n, answer_len, prompt_len, *, rubric_len):
    """Tokens a judge reads: P x (rubric + prompt + N x T): rubric and prompt are read once."""
    return prompts * (rubric_len + prompt_len + n * answer_len)


def money(tokens=0, price_per_million=0.0, seconds=0.0, price_gpu_hour=0.0):
    """Cost in the currency of the prices: per million tokens, plus per hour of a GPU."""
    return tokens * price_per_million / 1e6 + seconds * price_gpu_hour / 3600


def cost_line(record):
    """One line from a forecast or a measurement {"tokens", "seconds", "cost"}; None is unknown."""
    seconds = "time unknown (--tokens-per-second)"
    if record["seconds"] is not None:
        seconds = f"{record['seconds']:.0f} s"
    cost = "unknown"
    if record["cost"] is not None:
        cost = f"{record['cost']:.4f}"
    return f"{record['tokens']:,.0f} tokens, {seconds}, cost {cost}"
