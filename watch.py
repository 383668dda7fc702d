"""What is watched while a run trains, apart from its loss: held-out rows, what the policy says, and signs of trouble.

All goes into the step's line of log.jsonl: "eval_..." are the trainer's own numbers on held-out rows, "sampled_..."
come from answers drawn at temperature 1: sampled_kl (nats an answer, to the policy that training started from),
sampled_tokens and sampled_repetition (share of 4-grams that an answer has said before). curves.png shows it.
"""

import json
import math
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from common import BadInput, completion_logps, seed_for
from inference import sample
from models import autocast, trained
from packed import prompt_length, seq_logps, token_logps
from training import from_first, means, packs

SAMPLES, SAMPLE_TOKENS = 16, 48


def watch_steps(steps, every=None):
    """Steps (from 0) after which to look: the first, the last, and every so many (default: a fifth; 0: none)."""
    every = max(1, steps // 5) if every is None else every
    return {0, steps - 1, *range(every - 1, steps, every)} if every else set()


def some_prompts(rows):
    """Token lists of the first different prompts, which are answered every time."""
    return [list(ids) for ids in dict.fromkeys(
        tuple(row["seqs"][0]["ids"][:prompt_length(row["seqs"][0])]) for row in rows)][:SAMPLES]


def too_far(values, limit):
    """Why the run must stop, or None: the policy has left the start by more than `limit` nats an answer (--max-kl)."""
    if limit is None or values.get("sampled_kl", 0.0) <= limit:
        return None
    tqdm.write(f"STOP     sampled_kl {values['sampled_kl']:.3g} is above --max-kl {limit:g}: the run ends here, its "
               "adapter is kept (lower --lr, raise --beta)")
    return f"sampled_kl {values['sampled_kl']:.6g} > {limit:g}"


def evaluate(model, tokenizer, start, held, prompts, losses, seed, pack_tokens):
    """{"eval_...": means over the held-out rows, "sampled_...": of answers to the prompts}; changes nothing.

    start: the trained parameters' values before step 1. prompts: token lists. losses: pack -> (loss, tally), the
    trainer's own. Of several processes the first one's numbers count, so that all stop in the same step (too_far)."""
    found, sums = {}, Counter()
    with torch.no_grad():
        for pack in packs(held, pack_tokens):
            sums.update(losses(pack)[1])
    if held:
        found = {f"eval_{name}": value for name, value in means(sums).items() if name != "slices"}
    if prompts:
        found |= say(model, tokenizer, start, prompts, seed)
    return from_first(lambda: found)


def say(model, tokenizer, start, prompts, seed):
    """Draw an answer to each prompt: {"sampled_kl", "sampled_tokens", "sampled_repetition"}, means over answers.

    The KL is sum over the answer's tokens of r - 1 - log r, r = probability under `start` / under the policy: never
    negative, and in the mean over tokens drawn from the policy the KL of each step (Schulman, "Approximating KL
    divergence", k3)."""
    model.train(model.device.type == "cpu")  # no checkpointing while sampling; see load_policy for the CPU
    with autocast(model):
        jobs = [(prompt, [(1.0, seed_for("watch", seed, n))]) for n, prompt in enumerate(prompts)]
        answers = [answer["ids"] for answer, in sample(model, tokenizer, jobs, SAMPLE_TOKENS)]
        seqs = [{"ids": prompt + ids, "mask": [0] * len(prompt) + [1] * len(ids)}
                for prompt, ids in zip(prompts, answers)]
        with torch.no_grad():
            policy = token_logps(model, seqs)
            now = [p.detach().clone() for p in trained(model)]
            for parameter, value in zip(trained(model), start):
                parameter.copy_(value)
            log_r = (token_logps(model, seqs) - policy).double()
            for parameter, value in zip(trained(model), now):
                parameter.copy_(value)
    model.train()
    repeated = [1 - len({*grams}) / len(grams) for ids in answers
                if (grams := [tuple(ids[k:k + 4]) for k in range(len(ids) - 3)])]
    return {"sampled_kl": (log_r.exp() - 1 - log_r).sum().item() / len(answers),
            "sampled_tokens": sum(map(len, answers)) / len(answers),
            "sampled_repetition": sum(repeated) / max(1, len(repeated))}


def trouble(history, beta=None):
    """{name: one line with its likely cause} for what the log's lines (dicts, oldest first) show so far."""
    found, recent = {}, history[-8:]
    chosen = [line["rewards/chosen"] / beta / line["tokens/chosen"] for line in recent
              if beta and "rewards/chosen" in line and line.get("tokens/chosen")]
    if len(chosen) == 8 and sum(chosen) / 8 < -0.05:
        wider = recent[-1]["rewards/chosen"] > recent[-1].get("rewards/rejected", 0)
        cause = ("the rejected ones fall faster, so the margin still grows: the policy learns what not to say (lower "
                 "--lr, raise --beta, or add --nll-weight 0.1; arXiv 2410.08847)" if wider else
                 "and the margin does not grow: the steps are too large (lower --lr)")
        found["chosen"] = (f"the chosen answers have lost {-sum(chosen) / 8:.2f} nats a token against the reference; "
                           f"{cause}")
    said = [line for line in history if "sampled_tokens" in line]
    if len(said) > 1:
        first, last = said[0], said[-1]
        if beta and last["sampled_tokens"] > 1.5 * first["sampled_tokens"] + 4:
            found["length"] = (f"answers grew from {first['sampled_tokens']:.0f} to {last['sampled_tokens']:.0f} "
                               "tokens (are chosen answers the longer ones? mend the pairs, or lower --lr)")
        if last["sampled_repetition"] > first["sampled_repetition"] + 0.1:
            found["repetition"] = (f"answers repeat themselves ({last['sampled_repetition']:.0%} of 4-grams, at first "
                                   f"{first['sampled_repetition']:.0%}): the policy is breaking (lower --lr)")
    held = [line["eval_loss"] for line in history if "eval_loss" in line]
    if len(held) > 3 and min(held[-2:]) > 1.05 * min(held) + 1e-3:
        found["held out"] = (f"the held-out loss rises ({min(held):.4f} -> {held[-1]:.4f}): rows are being memorised "
                             "(fewer --epochs, lower --lr)")
    return found


def warn(history, told, beta=None):
    """Print what trouble finds and has not been told yet; `told` (a set) remembers."""
    for name, text in trouble(history, beta).items():
        if name not in told:
            tqdm.write(f"WARNING  step {history[-1]['step']}: {text}")
        told.add(name)


def curves(out):
    """Draw out/log.jsonl as out/curves.png: loss, rewards, log-probabilities and KL, what was said, by slice."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    panels = {"loss": ["loss", "eval_loss"], "loss by slice": [],
              "rewards": ["rewards/chosen", "rewards/rejected", "rewards/margins", "eval_rewards/margins"],
              "log-probability of an answer": ["logps/chosen", "logps/rejected"],
              "KL (nats an answer)": ["kl", "sampled_kl"], "answers drawn": ["sampled_tokens"],
              "gradient norm": ["grad_norm"], "repeated 4-grams": ["sampled_repetition"]}
    figure, axes = plt.subplots(2, 4, figsize=(18, 8), layout="constrained")
    for (title, names), axis in zip(panels.items(), axes.flat):
        series = {name: [(line["step"], line[name]) for line in lines if name in line] for name in names}
        if not names:
            for line in lines:
                for part, values in line.get("slices", {}).items():
                    series.setdefault(part, []).append((line["step"], values["loss"]))
        for name, points in series.items():
            if points:
                axis.plot(*zip(*points), label=name, marker="o" if len(points) < 15 else None, markersize=3)
        axis.set(title=title, xlabel="step", visible=any(series.values()))
        if axis.get_visible():
            axis.legend(fontsize=8)
    figure.savefig(Path(out) / "curves.png", dpi=80)
    plt.close(figure)


# ---- --selfcheck ---------------------------------------------------------------------------------------------


def self_check(model, rows, losses, reference=False):
    """Check this very model, data and machine in seconds, and print each result; BadInput when one fails.

    rows: up to eight training rows. losses: pack -> (loss, tally). reference: seq["ref"] must be what the model says
    now. Checked: one pack of all rows = packs of one row, loss and gradient; lines = padded rows = single rows; the
    gradient = finite differences on three adapter weights."""
    exact = model.device.type == "cpu"
    results = []

    def gradient(groups):
        model.zero_grad()
        total = 0.0
        for group in groups:
            loss, _ = losses(group)
            loss.backward()
            total += loss.item()
        return total, [p.grad.detach().clone() if p.grad is not None else torch.zeros_like(p) for p in trained(model)]

    whole, slopes = gradient([rows])
    single, others = gradient([[row] for row in rows])
    norm = math.sqrt(sum(slope.double().pow(2).sum().item() for slope in slopes))
    apart = math.sqrt(sum((a - b).double().pow(2).sum().item() for a, b in zip(slopes, others)))
    results.append((f"{len(rows)} x 1 row = 1 x {len(rows)} rows, gradient", apart / norm, 1e-4 if exact else 0.05))
    seqs = [seq for row in rows for seq in row["seqs"]]
    with torch.no_grad(), autocast(model):
        lines, padded = seq_logps(model, seqs)[0], completion_logps(model, seqs)[0]
        alone = torch.cat([completion_logps(model, [seq])[0] for seq in seqs])
    allowed = 1e-3 if exact else 0.02 * max(len(seq["ids"]) for seq in seqs)
    results.append(("packed = padded log-probabilities", (lines - padded).abs().max().item(), allowed))
    results.append(("padded = single log-probabilities", (alone - padded).abs().max().item(), allowed))
    if reference and "ref" in seqs[0]:
        live = max(abs(seq["ref"] - logp) for seq, logp in zip(seqs, lines.tolist()))
        results.append(("cached = live reference", live, allowed))
    worst = 0.0
    for number in sorted(range(len(slopes)), key=lambda k: -slopes[k].abs().max().item())[:3]:
        parameter, slope = trained(model)[number], slopes[number]
        place = slope.abs().argmax().item()
        weight, step = parameter.data.view(-1), 1e-2
        before, ends = weight[place].item(), []
        for sign in (1, -1):
            weight[place] = before + sign * step
            with torch.no_grad():
                ends.append(losses(rows)[0].item())
        weight[place] = before
        expected = slope.view(-1)[place].item()
        worst = max(worst, abs((ends[0] - ends[1]) / (2 * step) - expected) / abs(expected))
    results.append(("gradient = finite differences, three weights", worst, 0.05 if exact else 0.3))
    model.zero_grad()
    for name, value, limit in results:
        print(f"selfcheck {'ok    ' if value <= limit else 'FAILED'} {name}: {value:.1e}, allowed {limit:.0e}")
    if not all(value <= limit for _, value, limit in results):
        raise BadInput("the self-check failed: this model, data or machine does not compute what the losses assume")
