"""What is watched while a run trains, apart from its loss: held-out rows, what the policy says, and signs of trouble.

All goes into the step's line of log.jsonl: "eval_..." are the trainer's own numbers on held-out rows, "sampled_..."
come from answers drawn at temperature 1: sampled_kl (nats an answer, to the policy that training started from),
sampled_tokens and sampled_repetition (share of 4-grams that an answer has said before). curves.png shows it.
"""

import math
from collections import Counter

import torch
from tqdm import tqdm

from posttrain.cli import BadInput
from posttrain.generate.local import sample
from posttrain.hashing import seed_for
from posttrain.model.load import autocast
from posttrain.packed.lines import prompt_length
from posttrain.packed.reader import reads_lines, token_logps
from posttrain.processes import from_first, trained
from posttrain.train.metrics import means
from posttrain.train.packs import packs

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
        for pack in packs(held, pack_tokens, padded=not reads_lines(model)):
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
