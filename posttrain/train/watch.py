"""What is watched while a run trains, apart from its loss: held-out rows and what the policy says.

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
from posttrain.model.load import autocast, trained
from posttrain.packed.lines import prompt_length
from posttrain.packed.reader import shares_prompts, token_logps
from posttrain.processes import from_first
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
