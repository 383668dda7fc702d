"""What is watched while a run trains, apart from its loss: held-out rows, and what the policy says.

Both go into the step's line of log.jsonl. "eval_..." are the trainer's own numbers on held-out
rows. "sampled_..." come from answers drawn at temperature 1: sampled_kl (nats an answer, to the
policy that training started from), sampled_tokens and sampled_repetition (share of 4-grams that an
answer has said before).
"""

import math
from collections import Counter

import torch

from posttrain.cli import BadInput
from posttrain.generate.local import sample
from posttrain.hashing import seed_for
from posttrain.model.limits import positions_of
from posttrain.model.load import autocast, trained
from posttrain.packed.lines import prompt_length
from posttrain.packed.reader import token_logps
from posttrain.processes import from_first
from posttrain.train.metrics import means
from posttrain.train.packs import all_packs

SAMPLES = 16  # prompts that are answered in an evaluation
SAMPLE_TOKENS = 48  # of the longest answer
LOOKS = 5  # evaluations a run, where --eval-every does not say
TEMPERATURE = 1.0  # the policy's own distribution
GRAM = 4  # tokens of what counts as a repetition


class Watch:
    """Looks at the policy after some steps, by the same rows and prompts every time.

    Made before the first step (and before a checkpoint is loaded): the trained parameters as they
    are now are the start that sampled_kl measures from.
    """

    def __init__(self, model, tokenizer, held, prompts, *, steps, every, seed, pack_tokens):
        self.model = model
        self.tokenizer = tokenizer
        self.start = copy_of(trained(model))
        self.held = held
        self.prompts = prompts
        self.steps = watched_steps(steps, every)
        self.seed = seed
        self.pack_tokens = pack_tokens

    def look(self, step, losses):
        """The numbers of an evaluation after step 0, 1 ...; {} where none is due. Changes nothing.

        losses: a function (packs) -> pairs (loss, sums by tally), the trainer's own. Of several
        processes the first one's numbers count, so that all stop in the same step.
        """
        if step not in self.steps:
            return {}
        values = {}
        if self.held:
            values |= self.score_held_out(losses)
        if self.prompts:
            values |= sampled(self.model, self.tokenizer, self.start, self.prompts, seed=self.seed)
        return from_first(lambda: values)

    def score_held_out(self, losses):
        """{"eval_...": means over the held-out rows}."""
        sums = Counter()
        with torch.no_grad():
            for _, pack_sums in losses(all_packs(self.held, self.pack_tokens, self.model)):
                sums.update(pack_sums)
        values = means(sums)
        values.pop("slices", None)
        return {f"eval_{name}": value for name, value in values.items()}


def watched_steps(steps, every=None):
    """Steps (from 0) after which to look: the first, the last, and every so many (0: none)."""
    if every is None:
        every = math.ceil(steps / LOOKS)
    if every == 0:
        return set()
    return {0, steps - 1, *range(every - 1, steps, every)}


def watched_prompts(rows, model, max_kl=None):
    """Token lists of the first different prompts that leave the model room for an answer.

    BadInput when there is none and --max-kl counts on it.
    """
    limit = positions_of(model.config) or math.inf
    prompts = {}  # a dict keeps their order
    for row in rows:
        seq = row["seqs"][0]
        ids = seq["ids"][: prompt_length(seq)]
        if len(ids) + SAMPLE_TOKENS <= limit:
            prompts[tuple(ids)] = ids
    if not prompts and max_kl is not None:
        raise BadInput(
            f"--max-kl: every prompt fills the model's {limit} positions: no answer can be drawn"
        )
    return list(prompts.values())[:SAMPLES]


def copy_of(parameters):
    """The values of parameters, as they are now."""
    return [parameter.detach().clone() for parameter in parameters]


def sampled(model, tokenizer, start, prompts, *, seed):
    """Draw an answer to each prompt -> {"sampled_kl", "sampled_tokens", "sampled_repetition"}.

    start: values of the trained parameters that the KL is measured to. All three are means over
    answers. The KL is the sum over an answer's tokens of r - 1 - log r, where r is the token's
    probability under `start` divided by that under the policy: never negative, and in the mean over
    answers of the policy the KL of each step (Schulman, "Approximating KL divergence", k3).
    """
    answers = draw_answers(model, tokenizer, prompts, seed)
    seqs = []
    for prompt, ids in zip(prompts, answers):
        seqs.append({"ids": prompt + ids, "mask": [0] * len(prompt) + [1] * len(ids)})

    now = copy_of(trained(model))
    log_r = logps_under(model, start, seqs)
    log_r -= logps_under(model, now, seqs)  # this puts the policy back, too
    model.train()

    kl = (log_r.exp() - 1 - log_r).sum().item()
    shares = [repetition(ids) for ids in answers if len(ids) >= GRAM]
    return {
        "sampled_kl": kl / len(answers),
        "sampled_tokens": sum(len(ids) for ids in answers) / len(answers),
        "sampled_repetition": sum(shares) / max(1, len(shares)),
    }


def draw_answers(model, tokenizer, prompts, seed):
    """Token ids of one answer to each prompt."""
    # In eval mode no activations are recomputed while sampling; load_policy says why not on a CPU.
    model.train(model.device.type == "cpu")
    jobs = []
    for number, prompt in enumerate(prompts):
        job_seed = seed_for("watch", seed, number)
        jobs.append((prompt, [(TEMPERATURE, job_seed)]))
    with autocast(model):
        answers = sample(model, tokenizer, jobs, SAMPLE_TOKENS)
    return [samples[0]["ids"] for samples in answers]


def logps_under(model, values, seqs):
    """Log-probabilities [S] float64 of the answers' tokens with the trained parameters at `values`.

    A block of autocast of its own: within one it would go on with the weights of before.
    """
    with torch.no_grad(), autocast(model):
        for parameter, value in zip(trained(model), values):
            parameter.copy_(value)
        return token_logps(model, seqs).double()


def repetition(ids):
    """Share of an answer's 4-grams that it has said before."""
    grams = [tuple(ids[start : start + GRAM]) for start in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)
