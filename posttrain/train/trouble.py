"""Signs of trouble in a run's log, each with its likely cause: printed once, as soon as they show.

A sign is a small function of what has been logged so far that returns a line of text, or None. A
new one is such a function and a line in SIGNS.
"""

from collections import deque

from tqdm import tqdm

# Steps over which the chosen answers' log-probabilities are averaged.
RECENT = 8


class Trouble:
    """What the signs need of a log, taken line by line, and which have been printed already."""

    def __init__(self, beta=None, *, learns_length=False):
        """beta: that of the loss, where its rewards are ratios to a reference; None elsewhere.

        learns_length: are answers meant to take the length of the data's (SFT)?
        """
        self.beta = beta
        self.learns_length = learns_length
        self.count = 0  # lines so far
        self.recent = deque(maxlen=RECENT)
        # Lines of steps after which answers were drawn ("sampled_...").
        self.first_sampled = None
        self.last_sampled = None
        # Losses on held-out rows.
        self.held_out_count = 0
        self.lowest_held_out = float("inf")
        self.last_held_out = deque(maxlen=2)
        self.printed = set()

    def add(self, line, quiet=False):
        """Take the next line of the log (a dict); print each sign that shows for the first time.

        quiet: print nothing. This is for the lines of before a resume: what they show is printed
        with the next line.
        """
        self.count += 1
        self.recent.append(line)
        if "sampled_tokens" in line:
            self.first_sampled = self.first_sampled or line
            self.last_sampled = line
        if "eval_loss" in line:
            self.held_out_count += 1
            self.lowest_held_out = min(self.lowest_held_out, line["eval_loss"])
            self.last_held_out.append(line["eval_loss"])

        if quiet:
            return
        for name, text in self.signs().items():
            if name not in self.printed:
                tqdm.write(f"WARNING  step {line['step']}: {text}")
            self.printed.add(name)

    def signs(self):
        """{name of a sign: its line of text} for those that show after the last line."""
        shown = {}
        for name, sign in SIGNS.items():
            text = sign(self)
            if text is not None:
                shown[name] = text
        return shown


# ---- the signs -----------------------------------------------------------------------------------


def no_gradient(log):
    """The adapter is not reached by the backward pass."""
    if log.recent[-1].get("grad_norm") == 0:
        return "the adapter's gradient is zero: nothing is being trained"
    return None


def rewards_stand_still(log):
    """Rewards are exactly 0 before step 1; by the third line of the log they must have moved."""
    if not log.beta or log.count != 3:
        return None
    last = log.recent[-1]
    if last.get("rewards/chosen") or last.get("rewards/rejected"):
        return None
    return "after 3 steps no reward has moved: is --lr too small?"


def chosen_answers_sink(log):
    """Chosen answers have lost more than 0.05 nats a token against the reference."""
    if not log.beta:
        return None
    # reward = beta x ratio, so reward / beta / tokens is the ratio in nats a token.
    ratios = []
    for line in log.recent:
        if "rewards/chosen" in line and line.get("tokens/chosen"):
            ratios.append(line["rewards/chosen"] / log.beta / line["tokens/chosen"])
    if len(ratios) == RECENT and sum(ratios) / RECENT < -0.05:
        lost = -sum(ratios) / RECENT
        cause = why_chosen_answers_sink(log.recent[-1])
        return (
            f"the chosen answers have lost {lost:.2f} nats a token against the reference; {cause}"
        )
    return None


def why_chosen_answers_sink(line):
    """The likely cause, by whether the rejected answers sink faster."""
    if line["rewards/chosen"] > line.get("rewards/rejected", 0):
        return (
            "the rejected ones fall faster, so the margin still grows: the policy learns what not "
            "to say (lower --lr, raise --beta, or add --nll-weight 0.1; arXiv 2410.08847)"
        )
    return "and the margin does not grow: the steps are too large (lower --lr)"


def answers_grow(log):
    """Answers drawn now are half as long again as the first ones, and four tokens more."""
    if log.learns_length or log.last_sampled is None:
        return None
    first = log.first_sampled["sampled_tokens"]
    last = log.last_sampled["sampled_tokens"]
    if last > 1.5 * first + 4:
        return (
            f"answers grew from {first:.0f} to {last:.0f} tokens (are chosen answers the longer "
            "ones? mend the pairs, or lower --lr)"
        )
    return None


def answers_repeat(log):
    """Answers repeat more of their own 4-grams than at first: a share higher by 0.1."""
    if log.last_sampled is None:
        return None
    first = log.first_sampled["sampled_repetition"]
    last = log.last_sampled["sampled_repetition"]
    if last > first + 0.1:
        return (
            f"answers repeat themselves ({last:.0%} of 4-grams, at first {first:.0%}): the policy "
            "is breaking (lower --lr)"
        )
    return None


def held_out_loss_rises(log):
    """The last two evaluations are both 5 % above the best one. Three are too few to tell."""
    lowest = log.lowest_held_out
    if log.held_out_count > 3 and min(log.last_held_out) > 1.05 * lowest + 1e-3:
        return (
            f"the held-out loss rises ({lowest:.4f} -> {log.last_held_out[-1]:.4f}): rows are "
            "being memorised (fewer --epochs, lower --lr)"
        )
    return None


# Name of a sign: its function. They are printed in this order.
SIGNS = {
    "gradient": no_gradient,
    "still": rewards_stand_still,
    "chosen": chosen_answers_sink,
    "length": answers_grow,
    "repetition": answers_repeat,
    "held out": held_out_loss_rises,
}
