"""The rule of the gate: how differences become verdicts, look by look.

How the verdict of a slice comes about, from the top:

    sequential     looks after 2, 4, 8 and 16 answers of every item, until every slice is decided
    slice_verdict  FAIL, CLEAR or UNSURE, from a slice's difference so far:
    fell           FAIL: it dropped, significantly over all slices and looks
    clears         CLEAR: its lower bound (low_bound) lies above minus the margin

No model, no file and no clock comes in here, so the rule which decides is the rule which is
simulated: gate.py gives `sequential` real answers, rates.py gives it drawn ones. Differences are
shares: 0.01 is one point.
"""

import math
from dataclasses import dataclass, field

from posttrain.gating.measures import (
    Difference,
    half_width,
    p_drop,
    paired,
    pool,
    quantile,
)

PROFILES = {
    "hobby": {"looks": (2, 4, 8, 16), "margin": 0.10, "min_n": 30},
    "release": {"looks": (2, 4, 8, 16), "margin": 0.05, "min_n": 100},
}
# Share of wrong blocks of an unchanged model, over all slices and looks; and of wrong clearings of
# a slice that lost its margin.
ALPHA = 0.05
# Answers of the baseline for each of the candidate: they are cached, and halve its share of noise.
BASELINE_DRAWS = 2
# A drop below one point never blocks, however sure it is.
DUST = 0.01
# With all slices clear, more is asked while the mean of 8 slices may be this far down (of fewer
# slices: further) at this level.
THIN = 0.03
THIN_ALPHA = 0.0125
# The share of runs in which a slice's smallest drop that counts as seen is blocked.
POWER = 0.8


# ---- the rule ------------------------------------------------------------------------------------


@dataclass
class Decision:
    """What the looks have shown."""

    # {slice: Difference} at its last look; slices without a score have none.
    differences: dict = field(default_factory=dict)
    # {slice: answers per item at its last look}
    answers: dict = field(default_factory=dict)
    # {slice: "FAIL", "CLEAR" or "UNSURE"}
    verdicts: dict = field(default_factory=dict)
    # Did the mean of all hard slices fall?
    mean_fell: bool = False

    @property
    def blocks(self):
        """Is the candidate worse, in a slice or as a whole?"""
        return self.mean_fell or "FAIL" in self.verdicts.values()


def sequential(policies, looks, draw):
    """Look at k = looks[0], looks[1] ... answers of every item until it is decided -> Decision.

    policies {slice: {"margin", "min_n", "hard", "once"}}; "once": its items have one deterministic
    outcome, so it is looked at once. draw([slices], k) -> {slice: (d [n], groups [n])}, from k
    answers of every item; a slice that it leaves out has no score, and no part in the decision.

    A slice that is clear, or that has too few clusters to become clear, is asked no more. One
    failure ends the run. With all hard slices clear, sampling goes on as long as their mean may
    have fallen by THIN.
    """
    hard = [name for name, policy in policies.items() if policy["hard"]]
    hypotheses = len(hard) + 1  # that nothing fell: each hard slice, and the mean of them
    decision = Decision()
    names = list(policies)
    for k in looks:
        if not names:
            break
        for name, (d, groups) in draw(names, k).items():
            difference = paired(d, groups)
            decision.differences[name] = difference
            decision.answers[name] = k
            decision.verdicts[name] = slice_verdict(
                difference, policies[name], hypotheses, len(looks)
            )
        policies = {name: policies[name] for name in policies if name in decision.differences}
        hard = [name for name in hard if name in policies]
        if not policies:
            break

        mean = pool([decision.differences[name] for name in hard or policies])
        if hard:
            decision.mean_fell = fell(mean, ALPHA / hypotheses / len(looks))
        all_clear = all(decision.verdicts[name] == "CLEAR" for name in hard)
        asks_all = all_clear and may_have_fallen(mean, len(hard))
        if decision.blocks or (all_clear and not asks_all):
            break
        names = asked_again(policies, decision, asks_all)
    return decision


def slice_verdict(difference, policy, hypotheses, looks):
    """What a slice's Difference says of it so far: "FAIL", "CLEAR" or "UNSURE".

    FAIL     It fell, at level ALPHA / (hypotheses x looks) (Bonferroni): an unchanged model is
             blocked in at most ALPHA of the runs. Only a hard slice can.
    CLEAR    It has lost less than its margin, at level ALPHA / looks (non-inferiority). All slices
             must clear, so their number needs no correction (intersection-union).
    UNSURE   More answers may tell.
    """
    times = looks_at(policy, looks)
    if policy["hard"] and fell(difference, ALPHA / hypotheses / times):
        return "FAIL"
    if clears(difference, policy, ALPHA / times):
        return "CLEAR"
    return "UNSURE"


def fell(estimate, level):
    """Is a mean, a Difference or a PooledMean, a drop with p < level, and more than dust?"""
    return estimate.mean <= -DUST and estimate.mean < quantile(level, estimate.df) * estimate.error


def clears(difference, policy, level):
    """Is this slice proven to have lost less than its margin, on enough prompts?"""
    enough_clusters = difference.clusters >= policy["min_n"]
    return enough_clusters and low_bound(difference, level) > -policy["margin"]


def low_bound(difference, level):
    """Lower bound of a mean, one-sided, at this level.

    A loss may be rare and whole, which no t interval sees. x clusters that lost everything may
    stand for

        x + z^2 / 2 + z sqrt(x + z^2 / 4)

    of them (score bound of a Poisson count at ALPHA), and none for 3 (rule of three). The prompts
    are the same at every look, so this second bound needs no correction for looks.
    """
    mean, error, clusters = difference
    z = quantile(1 - ALPHA, math.inf)
    lost = max(-mean, 0.0) * clusters
    lost_at_most = max(3.0, z * z / 2 + z * math.sqrt(lost + z * z / 4))
    return mean - max(quantile(1 - level, difference.df) * error, lost_at_most / clusters)


def may_have_fallen(mean, slices):
    """Is a drop of the mean of all slices, too thin to show in any one of them, still possible?

    mean: PooledMean. One of fewer than 8 slices varies more: the drop that counts is larger then.
    """
    drop = THIN * max(1, (8 / max(slices, 1)) ** 0.5)
    return mean.mean - quantile(1 - THIN_ALPHA, mean.df) * mean.error < -drop


def asked_again(policies, decision, asks_all):
    """Slices to look at once more: the open ones that can be cleared, or all of them."""
    names = []
    for name, policy in policies.items():
        is_open = decision.verdicts[name] != "CLEAR" and can_clear(
            decision.differences[name].clusters, policy
        )
        if not policy["once"] and (asks_all or is_open):
            names.append(name)
    return names


def can_clear(clusters, policy):
    """Are these clusters enough to clear the slice, should they all agree?"""
    agreeing = Difference(0.0, 0.0, clusters)
    return clusters >= policy["min_n"] and low_bound(agreeing, ALPHA) > -policy["margin"]


def looks_at(policy, looks):
    """How often a slice may be looked at, of this many looks."""
    return 1 if policy["once"] else looks


# ---- what a report says of it --------------------------------------------------------------------


def describe(difference, policy, verdict, *, hypotheses, looks):
    """A slice's numbers -> dict.

    delta      candidate minus baseline, with "low" and "high", its 95 % interval. It is a
               repeated one: it holds at whichever look the run ended (level ALPHA / looks)
    error      standard error of delta, as the rule takes it (see paired); None: infinite
    clusters   that it rests on
    p_drop     of one test alone, one-sided
    level      a hard slice fails where p_drop is below it: ALPHA / (hypotheses x looks)
    need       clusters that would clear the slice; None where it is decided, or no number would
    mde        smallest drop that would be blocked in POWER of the runs (minimal detectable
               effect)
    """
    mean, error, clusters = difference
    times = looks_at(policy, looks)
    need = None
    if verdict == "UNSURE":
        need = clusters_needed(difference, policy, ALPHA / times)
    level = ALPHA / hypotheses / times
    mde = (quantile(POWER, difference.df) - quantile(level, difference.df)) * error
    return {
        "delta": mean,
        **interval(difference, times),
        "error": error if math.isfinite(error) else None,
        "clusters": clusters,
        "p_drop": p_drop(difference),
        "level": level,
        "verdict": verdict,
        "need": need,
        "mde": min(mde, 1.0),
    }


def describe_mean(differences, looks, mean_fell):
    """The same of the mean of several slices. "fail": did it fall?"""
    mean = pool(differences)
    p = p_drop(mean)
    return {
        "delta": mean.mean,
        **interval(mean, looks),
        "p_drop": p,
        "p_gain": 1 - p,
        "fail": mean_fell,
    }


def interval(estimate, looks):
    """{"low", "high"}: the interval of a mean that holds after any of several looks."""
    width = half_width(estimate, ALPHA / looks)
    low = max(estimate.mean - width, -1.0)
    high = min(estimate.mean + width, 1.0)
    return {"low": low, "high": high}


def clusters_needed(difference, policy, level):
    """Clusters that would clear a slice if they differ as those so far do; None: no number would.

    The error shrinks with the root of their number. One that is only paired's floor of 1/G, as
    nothing has differed yet, shrinks with the number itself.
    """
    mean, error, clusters = difference
    if mean <= -policy["margin"] or not math.isfinite(error):
        return None
    spread = 0.0
    if error > 1 / clusters:
        spread = error * math.sqrt(clusters)

    def expected(n):
        return Difference(mean, max(spread / math.sqrt(n), 1 / n), n)

    return enough(expected, max(policy["min_n"], clusters + 1), policy["margin"], level)


def enough(expected, n, margin, level):
    """Clusters, n or more (to 2 %), that clear a margin, where they show expected(n)."""
    while low_bound(expected(n), level) <= -margin:
        n = math.ceil(n * 1.02)
    return n
