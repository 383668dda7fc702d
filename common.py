"""What every stage shares because a mistake in it would be silent: records, chat -> tokens and masks, losses, cost.

Shapes: B = sequences in a pack, T = padded length in tokens, V = vocabulary. `mask` marks the tokens that are trained
on (1 = supervised). `logps` are natural-log probabilities, `ratio` = policy - reference, `reward` = beta * ratio."""

import torch
import torch.nn.functional as F


def completion_logps(model, rows, pad_id=0, by_token=False):
    """Summed log-probability of the supervised tokens of each row -> (logps [B] float64, tokens [B] long); by_token:
    those of the single tokens, row after row.

    rows: [{"ids", "mask"}, ...], padded on the right here; padding is known by length, never by its id. The one place
    with the one-token shift: the logits at t-1 score the token at t. Only supervised positions reach the head."""
    device, T = model.device, max(len(row["ids"]) for row in rows)
    ids = torch.tensor([row["ids"] + [pad_id] * (T - len(row["ids"])) for row in rows], device=device)  # [B, T]
    mask = torch.tensor([row["mask"] + [0] * (T - len(row["mask"])) for row in rows], device=device).bool()
    attention = torch.tensor([[1] * len(row["ids"]) + [0] * (T - len(row["ids"])) for row in rows], device=device)
    keep = torch.zeros_like(mask)
    keep[:, :-1] = mask[:, 1:]
    logits = model(input_ids=ids, attention_mask=attention, logits_to_keep=keep, use_cache=False).logits
    logits = (logits[keep] if logits.dim() == 3 else logits).float()  # [supervised tokens, V]
    targets = ids[:, 1:][mask[:, 1:]]
    token_logps = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    if by_token:
        return token_logps
    logps = torch.zeros(len(rows), dtype=torch.float64, device=device)
    return logps.index_add(0, keep.nonzero()[:, 0], token_logps.double()), keep.sum(1)


def dpo_loss(ratio_chosen, ratio_rejected, beta, label_smoothing=0.0):
    """DPO per pair (arXiv 2305.18290, eq. 7). ln 2 at zero ratios. [B], [B] -> [B]

    label_smoothing (number or [B]): probability that the label is wrong; the expected loss (conservative DPO)."""
    margin = beta * (ratio_chosen - ratio_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(ratio_chosen, ratio_rejected, beta, label_smoothing=0.0):
    """IPO per pair (Identity preference optimisation, arXiv 2310.12036, eq. 17): (difference - 1/(2 beta))^2.

    1/(4 beta^2) at zero ratios. The ratios are per-token means (--ipo-length mean, as TRL) or sums (--ipo-length sum);
    the caller divides. beta is the paper's tau: higher keeps the policy closer to the reference. label_smoothing as in
    dpo_loss. [B] -> [B]"""
    margin, target = ratio_chosen - ratio_rejected, 1 / (2 * beta)
    return (1 - label_smoothing) * (margin - target) ** 2 + label_smoothing * (margin + target) ** 2


def kto_loss(ratio, label, kl, beta):
    """KTO per answer (arXiv 2402.01306, eq. 7), before weights: 0.5 at zero ratio and KL. [B], [B] bool, scalar -> [B]

    Desirable: 1 - sigmoid(beta (ratio - kl)). Undesirable: 1 - sigmoid(beta (kl - ratio)). kl: see kto_kl."""
    return 1 - torch.sigmoid(beta * torch.where(label, ratio - kl, kl - ratio))


def kto_kl(ratio):
    """KTO's reference point z0: the mean ratio of mismatched answers, never below 0, without gradient. [B] -> scalar"""
    return ratio.detach().mean().clamp(min=0)


def generation_tokens(prompts, n, answer_len, prompt_len):
    """(tokens read, tokens written) for N answers to each of P prompts; each prompt is read once for its N answers."""
    return prompts * prompt_len, prompts * n * answer_len


def judge_tokens(prompts, n, answer_len, prompt_len, rubric_len):
    """Tokens a judge reads: P x (rubric + prompt + N x T) when rubric and prompt are shared by the N candidates."""
    return prompts * (rubric_len + prompt_len + n * answer_len)


def money(tokens=0, price_per_million=0.0, seconds=0.0, price_gpu_hour=0.0):
    """Cost in the currency of the prices: per million tokens, plus per GPU-hour."""
    return tokens * price_per_million / 1e6 + seconds * price_gpu_hour / 3600


def cost_line(record):
    """One line for the terminal from a forecast or a measurement {"tokens", "seconds", "cost"}."""
    seconds = "time unknown (--tokens-per-second)" if record["seconds"] is None else f"{record['seconds']:.0f} s"
    cost = "unknown" if record["cost"] is None else f"{record['cost']:.4f}"
    return f"{record['tokens']:,.0f} tokens, {seconds}, cost {cost}"
