"""Temporary."""

from tqdm import tqdm


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


class Trouble:
    def __init__(self, beta):
        self.beta, self.history, self.told = beta, [], set()

    def add(self, line, quiet=False):
        self.history.append(line)
        if quiet:
            return
        for name, text in trouble(self.history, self.beta).items():
            if name not in self.told:
                tqdm.write(f"WARNING  step {self.history[-1]['step']}: {text}")
            self.told.add(name)
