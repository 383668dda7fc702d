"""What is watched while a run trains, apart from its loss: held-out rows, what the policy says, and signs of trouble.

All goes into the step's line of log.jsonl: "eval_..." are the trainer's own numbers on held-out rows, "sampled_..."
come from answers drawn at temperature 1: sampled_kl (nats an answer, to the policy that training started from),
sampled_tokens and sampled_repetition (share of 4-grams that an answer has said before). curves.png shows it.
"""

import json
import math
import warnings
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from common import BadInput, completion_logps, seed_for
from inference import sample
from models import autocast, from_first, trained
from packed import base_of, prompt_length, seq_logps, shares_prompts, token_logps
from training import means, packs

SAMPLES, SAMPLE_TOKENS = 16, 48


def watch_steps(steps, every=None):
    """Steps (from 0) after which to look: the first, the last, and every so many (default: a fifth; 0: none)."""
    every = math.ceil(steps / 5) if every is None else every
    return {0, steps - 1, *range(every - 1, steps, every)} if every else set()


def some_prompts(rows, model, max_kl=None):
    """Token lists of the first different prompts that leave the model room for an answer; they are answered every time.
    BadInput when there is none and --max-kl counts on it."""
    limit = getattr(model.config, "max_position_embeddings", None) or math.inf
    prompts = dict.fromkeys(tuple(row["seqs"][0]["ids"][:prompt_length(row["seqs"][0])]) for row in rows)
    found = [list(ids) for ids in prompts if len(ids) + SAMPLE_TOKENS <= limit][:SAMPLES]
    if not found and max_kl is not None:
        raise BadInput(f"--max-kl: every prompt fills the model's {limit} positions: no answer can be drawn")
    return found


def too_far(values, limit):
    """Why the run must stop, or None: the policy has left the start by more than `limit` nats an answer (--max-kl)."""
    if limit is None or values.get("sampled_kl", 0.0) <= limit:  # none: not measured after this step
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
        for pack in packs(held, pack_tokens, padded=not shares_prompts(model)):
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
    jobs = [(prompt, [(1.0, seed_for("watch", seed, n))]) for n, prompt in enumerate(prompts)]
    with autocast(model):
        answers = [answer["ids"] for answer, in sample(model, tokenizer, jobs, SAMPLE_TOKENS)]
    seqs = [{"ids": prompt + ids, "mask": [0] * len(prompt) + [1] * len(ids)} for prompt, ids in zip(prompts, answers)]

    def read(values):  # a block of autocast each: within one it would keep the weights of before
        with torch.no_grad(), autocast(model):
            for parameter, value in zip(trained(model), values):
                parameter.copy_(value)
            return token_logps(model, seqs).double()

    now = [p.detach().clone() for p in trained(model)]
    log_r = read(start)
    log_r -= read(now)
    model.train()
    repeated = [1 - len({*grams}) / len(grams) for ids in answers
                if (grams := [tuple(ids[k:k + 4]) for k in range(len(ids) - 3)])]
    return {"sampled_kl": (log_r.exp() - 1 - log_r).sum().item() / len(answers),
            "sampled_tokens": sum(map(len, answers)) / len(answers),
            "sampled_repetition": sum(repeated) / max(1, len(repeated))}


def trouble(history, beta=None):
    """{name: one line with its likely cause} for what the log's lines (dicts, oldest first) show so far."""
    found, recent = {}, history[-8:]
    if history[-1].get("grad_norm") == 0:
        found["gradient"] = "the adapter's gradient is zero: nothing is being trained"
    if beta and len(history) == 3 and not any(history[-1].get(f"rewards/{side}") for side in ("chosen", "rejected")):
        found["still"] = "after 3 steps no reward has moved: is --lr too small?"
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
    """Draw out/log.jsonl as out/curves.png: loss, rewards, log-probabilities and KL, what was said, by slice. When that
    fails it is said: a picture must not cost a run."""
    try:
        draw(out)
    except Exception as error:
        print(f"WARNING  {out}/curves.png could not be drawn ({type(error).__name__}: {str(error)[:100]})")


def draw(out):
    """curves, without the net."""
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
            if points:  # a name is no formula, and one that begins with _ would not be named
                axis.plot(*zip(*points), label=name.replace("$", r"\$").lstrip("_"),
                          marker="o" if len(points) < 15 else None, markersize=3)
        axis.set(title=title, xlabel="step", visible=any(series.values()))
        if axis.get_visible():
            axis.legend(fontsize=8)
    with warnings.catch_warnings(action="ignore"):  # letters that the font lacks
        figure.savefig(Path(out) / "curves.png", dpi=80)
    plt.close(figure)


# ---- --selfcheck ---------------------------------------------------------------------------------------------


def self_check(model, rows, losses, pack_tokens, reference=False):
    """Check this very model, data and machine in seconds, and print each result; BadInput when one fails.

    rows: training rows, of which as many as fit into a pack are used, eight at most. losses: pack -> (loss, tally).
    reference: seq["ref"] must be what the model says now. Checked: one pack = packs of one row; lines = padded rows =
    single rows; in full precision also the gradient = finite differences on three adapter weights."""
    base, exact = base_of(model), model.device.type == "cpu"
    rows = max(packs(rows[:8], pack_tokens, padded=True), key=len)

    def gradient(groups):
        model.zero_grad()
        for group in groups:
            losses(group)[0].backward()
        return [p.grad.detach().clone() if p.grad is not None else torch.zeros_like(p) for p in trained(model)]

    def apart(one, other):
        return math.sqrt(sum((a - b).double().pow(2).sum().item() for a, b in zip(one, other))
                         / sum(a.double().pow(2).sum().item() for a in one))

    def is_padded(work):
        base.packed, way = None, base.packed
        found = work()
        base.packed = way
        return found

    slopes = gradient([rows])
    worst = 1e-4 if exact else 0.05
    single, padded = gradient([[row] for row in rows]), is_padded(lambda: gradient([rows]))
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
