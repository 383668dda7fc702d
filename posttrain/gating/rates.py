"""How often the rule is wrong: the rule itself, run again and again on drawn answers.

A world is a function: rng -> {slice: (pass rates [n], groups [n])}, the baseline's probability to
answer each prompt right, and the prompt's cluster. `assumed` makes one where nothing was measured,
`measured` one from a gate's own answers. An unchanged candidate has the baseline's pass rates; a
planted drop lowers them.
"""

import json
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from posttrain.cli import BadInput
from posttrain.gating.measures import Difference, differences, quantile
from posttrain.gating.rule import (
    ALPHA,
    BASELINE_DRAWS,
    PROFILES,
    enough,
    sequential,
)
from posttrain.gating.suite import IN_SLICES
from posttrain.gating.text import between, share
from posttrain.records.jsonl import read_jsonl, write_whole

# Mean and concentration of the Beta from which pass rates are drawn where nothing was measured:
# most are near 0 or 1 then.
RATES = (0.7, 1.0)
# Share of items with one outcome (multiple choice) that two equal models answer differently,
# assumed.
DISCORDANT = 0.2
DROPS = (0.03, 0.05, 0.10, 0.20)  # that are planted

POWER_RUNS = 400
SELFTEST_RUNS = 1500
PROMISE_RUNS = 2000


# ---- worlds --------------------------------------------------------------------------------------


def assumed(sizes, rates=RATES):
    """A world of sizes {slice: n}, its pass rates from a Beta of this mean and concentration."""
    mean, concentration = rates
    a = mean * concentration
    b = (1 - mean) * concentration

    def world(rng):
        return {name: (rng.beta(a, b, n), np.arange(n)) for name, n in sizes.items()}

    return world


def measured(counts):
    """The world of counts {slice: (right [n], answers [n], groups [n])} of a baseline's answers."""
    slices = {name: MeasuredSlice(*columns) for name, columns in counts.items()}

    def world(rng):
        return {name: measured_slice.draw(rng) for name, measured_slice in slices.items()}

    return world


class MeasuredSlice:
    """Prompts to be drawn anew with their clusters, and pass rates from what their answers show.

    A prompt's rate is drawn from Beta(a + right, b + wrong), where Beta(a, b) is the slice's own,
    see beta_prior. Halves of the answers in place of rates would share prompts: no noise of theirs.
    """

    def __init__(self, right, tried, groups):
        """right, tried [n]: right answers and all answers to each prompt."""
        a, b = beta_prior(right, tried)
        self.a = a + right
        self.b = b + (tried - right)
        # The prompts cluster by cluster, and where each cluster begins among them.
        self.items = np.argsort(groups, kind="stable")
        self.sizes = np.bincount(groups)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, rng):
        """(pass rates, groups) of as many clusters as there are, drawn with replacement."""
        chosen = rng.integers(len(self.sizes), size=len(self.sizes))
        sizes = self.sizes[chosen]
        groups = np.repeat(np.arange(len(chosen)), sizes)
        first = np.cumsum(sizes) - sizes  # place of each drawn cluster's first prompt
        within = np.arange(len(groups)) - first[groups]
        items = self.items[self.starts[chosen][groups] + within]
        return rng.beta(self.a[items], self.b[items]), groups


def beta_prior(right, tried):
    """(a, b) of the Beta that a slice's pass rates come from: moments of a beta-binomial.

    right, tried [n]. The shares of right answers vary between prompts by the variance of the rates
    and by that of m answers each, rate (1 - rate) / m; the first is what is left of their variance.
    """
    shares = right / tried
    m = float(np.mean(tried))
    edge = 0.5 / len(right)  # all right or all wrong: half a prompt that was not
    rate = min(max(float(np.mean(shares)), edge), 1 - edge)
    if m > 1:
        between = float(np.var(shares)) - rate * (1 - rate) / m
        between = max(between * m / max(m - 1, 1), 1e-3 * rate * (1 - rate))
    else:
        between = 0.5 * rate * (1 - rate)  # one answer shows no spread of rates: assumed
    concentration = min(max(rate * (1 - rate) / between - 1, 0.05), 1e3)
    return rate * concentration, (1 - rate) * concentration


def lowered(rates, drop, rng):
    """Pass rates [n] whose mean has fallen by `drop`, or as far as it can.

    All of it falls on a random half of the prompts: a drop is never even.
    """
    hit = rng.permutation(len(rates))[: (len(rates) + 1) // 2]
    left = rates[hit].sum()
    factor = 0.0
    if left > 0:
        factor = max(0.0, 1 - drop * len(rates) / left)
    lower = rates.copy()
    lower[hit] *= factor
    return lower


def shuffled(rates, rng):
    """A world's {slice: (pass rates, groups)} whose prompts have changed their slices."""
    sizes = [len(slice_rates) for slice_rates, _ in rates.values()]
    everything = np.concatenate([slice_rates for slice_rates, _ in rates.values()])
    pieces = np.split(rng.permutation(everything), np.cumsum(sizes)[:-1])
    return {name: (piece, np.arange(len(piece))) for name, piece in zip(rates, pieces)}


# ---- one run on drawn answers --------------------------------------------------------------------


class SampledSlice:
    """A slice whose answers are drawn at pass rates; those of one look count at the next, too."""

    def __init__(self, baseline_rates, candidate_rates, groups):
        self.baseline_rates = baseline_rates
        self.candidate_rates = candidate_rates
        self.groups = groups
        self.k = 0  # answers of the candidate per item so far
        self.candidate_right = np.zeros(len(groups), dtype=int)
        self.baseline_right = np.zeros(len(groups), dtype=int)

    def draw(self, k, rng):
        """(d [n], groups [n]) of k answers of every item."""
        more = k - self.k
        self.candidate_right += rng.binomial(more, self.candidate_rates)
        self.baseline_right += rng.binomial(more * BASELINE_DRAWS, self.baseline_rates)
        self.k = k
        d = self.candidate_right / k - self.baseline_right / (k * BASELINE_DRAWS)
        return d, self.groups

    def answers(self):
        """Answers of the candidate so far."""
        return self.k * len(self.groups)


class SignedSlice:
    """A slice without pass rates (judged, multiple choice): the sign of its d is drawn.

    d [n] of one answer to each item is kept, and its sign drawn anew for every answer, for a whole
    cluster at once: an unchanged model is as often better as worse.
    """

    def __init__(self, d, groups, once):
        self.d = d
        self.groups = groups
        self.once = once  # there is one outcome, however many answers are asked for
        self.lost = 0.0  # or [n]: what each item loses to a planted drop
        self.k = 0
        self.better = np.zeros(groups.max() + 1, dtype=int)  # of each cluster's k signs

    def lose(self, drop, rng):
        """Plant a drop, all of it on a random half of the items."""
        hit = rng.permutation(len(self.d)) < len(self.d) / 2
        self.lost = 2 * drop * hit

    def draw(self, k, rng):
        """(d [n], groups [n]) of k answers of every item."""
        if self.once:
            k = 1
        self.better += rng.binomial(k - self.k, 0.5, len(self.better))
        self.k = k
        mean_sign = 2 * self.better / k - 1
        return np.clip(self.d * mean_sign[self.groups] - self.lost, -1.0, 1.0), self.groups

    def answers(self):
        """None is sampled."""
        return 0


class Outcome(NamedTuple):
    """How one run ended."""

    verdict: str  # SHIP, BLOCK or NOT ENOUGH DATA
    answers: int  # of the candidate
    by_mean: bool  # blocked, though no slice failed


class SimulatedGate:
    """The rule with drawn answers in the place of real ones.

    world: see above. fixed {slice: (d [n], groups [n])}: slices without pass rates, see
    SignedSlice. policies, looks: see rule.sequential.
    """

    def __init__(self, world, fixed, policies, looks):
        self.world = world
        self.fixed = fixed
        self.policies = policies
        self.looks = looks

    def run(self, drops, rng, placebo=False):
        """One run -> Outcome. drops {slice: share} are planted; placebo: items change slices."""
        slices = self._slices(drops, rng, placebo)
        decision = sequential(self.policies, self.looks, partial(draw_slices, slices, rng))
        answers = sum(drawn_slice.answers() for drawn_slice in slices.values())
        if decision.blocks:
            return Outcome("BLOCK", answers, "FAIL" not in decision.verdicts.values())
        hard = [name for name, policy in self.policies.items() if policy["hard"]]
        if hard and all(decision.verdicts[name] == "CLEAR" for name in hard):
            return Outcome("SHIP", answers, False)
        return Outcome("NOT ENOUGH DATA", answers, False)

    def _slices(self, drops, rng, placebo):
        """{slice: SampledSlice or SignedSlice} of one run."""
        rates = self.world(rng)
        if placebo and rates:
            rates = shuffled(rates, rng)
        slices = {}
        for name, (baseline_rates, groups) in rates.items():
            candidate_rates = baseline_rates
            if drops.get(name):
                candidate_rates = lowered(baseline_rates, drops[name], rng)
            slices[name] = SampledSlice(baseline_rates, candidate_rates, groups)
        for name, (d, groups) in self.fixed.items():
            slices[name] = SignedSlice(d, groups, self.policies[name]["once"])
            if drops.get(name):
                slices[name].lose(drops[name], rng)
        return slices

    def repeat(self, runs, seed, drops, placebo=False):
        """Shares of many runs -> dict.

        SHIP, BLOCK, NOT ENOUGH DATA
        mean                    blocked by the mean of all slices alone
        block_low, block_high   95 % interval of BLOCK (Wilson)
        answers                 of the candidate, on average
        """
        from scipy.stats import binomtest  # an extra: loaded where it is used

        rng = np.random.default_rng(seed)
        outcomes = [self.run(drops, rng, placebo) for _ in range(runs)]
        verdicts = Counter(outcome.verdict for outcome in outcomes)
        blocks = binomtest(verdicts["BLOCK"], runs).proportion_ci(0.95, "wilson")
        return {
            "runs": runs,
            "mean": sum(outcome.by_mean for outcome in outcomes) / runs,
            "block_low": float(blocks.low),
            "block_high": float(blocks.high),
            "answers": sum(outcome.answers for outcome in outcomes) / runs,
            "SHIP": verdicts["SHIP"] / runs,
            "BLOCK": verdicts["BLOCK"] / runs,
            "NOT ENOUGH DATA": verdicts["NOT ENOUGH DATA"] / runs,
        }


def draw_slices(slices, rng, names, k):
    """The next look of a run, as rule.sequential asks for it."""
    return {name: slices[name].draw(k, rng) for name in names}


# ---- how often it is wrong -----------------------------------------------------------------------


def error_rates(gate, runs, drops=DROPS, seed=0):
    """How often a SimulatedGate is wrong -> dict. drops: those that are planted.

    same         an unchanged model, as repeat
    placebo      the same with prompts that change their slices
    everywhere   {drop: as repeat}, planted in every hard slice
    caught       {slice: {drop: share that was blocked}}, planted in one
    """
    hard = [name for name, policy in gate.policies.items() if policy["hard"]]
    few = max(runs // 5, 20)
    caught = {}
    for name in hard:
        caught[name] = {}
        for drop in drops:
            caught[name][drop] = gate.repeat(few, seed + 3, {name: drop})["BLOCK"]
    everywhere = {}
    for drop in drops:
        everywhere[drop] = gate.repeat(few, seed + 2, dict.fromkeys(hard, drop))
    return {
        "same": gate.repeat(runs, seed, {}),
        "placebo": gate.repeat(runs, seed + 1, {}, placebo=True),
        "everywhere": everywhere,
        "caught": caught,
    }


def known_rates(rows, policies, looks, runs, *, drops=DROPS):
    """error_rates on a gate's own answers: rows of its items.jsonl."""
    by_slice = {}
    for row in rows:
        by_slice.setdefault(row["slice"], []).append(row)
    counts = {}
    fixed = {}
    for name, slice_rows in by_slice.items():
        d, groups = differences(slice_rows)
        once = policies[name]["once"]
        if slice_rows[0]["type"] == "verify" and not once:
            tried = np.array([row["answers"]["baseline"] for row in slice_rows])
            shares = np.array([row["baseline"] for row in slice_rows])
            counts[name] = (np.round(shares * tried), tried, groups)
        elif once:
            fixed[name] = (d, groups)
        else:
            # d is the mean of k answers; one of them spreads sqrt(k) times as much.
            fixed[name] = (d * math.sqrt(slice_rows[0]["answers"]["candidate"]), groups)
    compared = {name: policies[name] for name in by_slice}
    return error_rates(SimulatedGate(measured(counts), fixed, compared, looks), runs, drops)


def expected_answers(sizes, policies, looks, runs=100):
    """Answers of the candidate that an unchanged model needs on average. sizes {slice: n}."""
    sampled = {name: policies[name] for name in sizes}
    return SimulatedGate(assumed(sizes), {}, sampled, looks).repeat(runs, 0, {})["answers"]


def prompts_needed(policy, k, looks, *, rates=RATES, power=0.95):
    """Prompts that clear a slice, at k answers each, in `power` of the runs of an unchanged model.

    k None: one outcome per item, of which DISCORDANT differ between two equal models. Otherwise the
    variance of a difference is, with the pass rate p of a prompt and the k BASELINE_DRAWS answers
    of the baseline,

        E[p (1 - p)] (1 / k + 1 / (k BASELINE_DRAWS))
    """
    if k is None:
        variance = DISCORDANT
    else:
        mean, concentration = rates
        of_an_answer = mean * (1 - mean) * concentration / (concentration + 1)  # E[p (1 - p)]
        variance = of_an_answer * (1 + 1 / BASELINE_DRAWS) / k
    unlucky = quantile(1 - power, math.inf) * math.sqrt(variance)
    level = ALPHA / (1 if k is None else looks)

    def expected(n):
        return Difference(unlucky / math.sqrt(n), max(math.sqrt(variance / n), 1 / n), n)

    return enough(expected, policy["min_n"], policy["margin"], level)


# ---- for people ----------------------------------------------------------------------------------


def rate_lines(rates):
    """error_rates as lines."""
    placebo = rates["placebo"]
    drops = rates["everywhere"]
    lines = [
        f"A/A         {verdicts_of(rates['same'])}",
        f"placebo     BLOCK {blocks_of(placebo)} when prompts change their slices at random",
        line_of_cells("blocked after a drop of", [f"{100 * float(d):.0f} points" for d in drops]),
        line_of_cells("  in every slice", [f"{rate['BLOCK']:.0%}" for rate in drops.values()]),
    ]
    for name, caught in rates["caught"].items():
        shares = [f"{caught_share:.0%}" for caught_share in caught.values()]
        lines.append(line_of_cells(f"  in {name}"[:25], shares))
    return lines


def verdicts_of(rates):
    """How the runs of `repeat` ended, in words."""
    return (
        f"SHIP {share(rates['SHIP'])}, BLOCK {blocks_of(rates)}, "
        f"NOT ENOUGH DATA {share(rates['NOT ENOUGH DATA'])} of {rates['runs']} runs; "
        f"{rates['answers']:,.0f} answers"
    )


def blocks_of(rates):
    """The share of blocks with its interval."""
    return f"{share(rates['BLOCK'])} {between(rates['block_low'], rates['block_high'], share)}"


def line_of_cells(label, cells):
    """A label in 26 columns and cells of 12, to the right."""
    return label.ljust(26) + "".join(cell.rjust(12) for cell in cells)


def power_lines(items, policies, looks):
    """What a suite can show if pass rates are as assumed above, as lines; no model is asked."""
    sizes = clusters_of(items, policies)
    lines = [
        f"{'slice':16}{'clusters':>9}{'margin':>11}   "
        "prompts that clear it, unchanged, in 95 % at k answers each"
    ]
    for name, clusters in sizes.items():
        policy = policies[name]
        if policy["once"]:
            needs = {None: prompts_needed(policy, None, len(looks))}
            words = f"one look: {needs[None]}"
        else:
            needs = {k: prompts_needed(policy, k, len(looks)) for k in looks}
            words = ", ".join(f"k {k}: {need}" for k, need in needs.items())
        too_few = "   TOO FEW" if clusters < min(needs.values()) else ""
        margin = f"{100 * policy['margin']:.3g} points"
        lines.append(f"{name[:15]:16}{clusters:9}{margin:>11}   {words}{too_few}")

    # Of items with one outcome, every fifth is answered differently.
    fixed = {}
    sampled = {}
    for name, clusters in sizes.items():
        if policies[name]["once"]:
            pattern = [1.0] + [0.0] * round(1 / DISCORDANT - 1)
            fixed[name] = (np.resize(pattern, clusters), np.arange(clusters))
        else:
            sampled[name] = clusters
    gate = SimulatedGate(assumed(sampled), fixed, policies, looks)
    lines += rate_lines(error_rates(gate, POWER_RUNS))
    lines.append(
        "assumed: pass rates of 70 % in the mean, most of them near 0 or 1; --selftest knows "
        "better after a gate"
    )
    return lines


def clusters_of(items, policies):
    """{slice: number of clusters} of the items that count in a slice."""
    clusters = {name: set() for name in policies}
    for item in items:
        if item["type"] in IN_SLICES:
            clusters[item["slice"]].add(item["cluster"])
    return {name: len(names) for name, names in clusters.items()}


def selftest_lines(out, runs=SELFTEST_RUNS):
    """Error rates on the answers of the finished gate in `out`, as lines; kept in selftest.json."""
    folder = Path(out)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        rows = [row for _, row in read_jsonl(folder / "items.jsonl")]
        rates = known_rates(rows, report["policies"], report["looks"], runs)
        baseline = report["baseline"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{out}: no finished gate (report.json, items.jsonl) in it; run one first, then "
            "--selftest with its --out"
        ) from None
    write_whole(folder / "selftest.json", json.dumps(rates, indent=1) + "\n")
    return [f"on the answers of {baseline}, drawn anew with their prompts:", *rate_lines(rates)]


class Promise(NamedTuple):
    """What a profile promises in a world of 8 slices."""

    profile: str
    prompts: int  # of each slice
    what: str
    slices: int  # that lose
    drop: float
    verdict: str
    share: float  # of the runs that end so, at least
    most_answers: float  # of the candidate, on average


PROMISES = [
    Promise("hobby", 100, "unchanged", 0, 0.0, "SHIP", 0.95, math.inf),
    Promise("hobby", 100, "10 points off one slice", 1, 0.10, "BLOCK", 0.97, 2100),
    Promise("hobby", 100, "3 points off every slice", 8, 0.03, "BLOCK", 0.95, math.inf),
    Promise("release", 200, "unchanged", 0, 0.0, "SHIP", 0.95, math.inf),
    Promise("release", 200, "5 points off one slice", 1, 0.05, "BLOCK", 0.95, 6500),
    Promise("release", 200, "3 points off every slice", 8, 0.03, "BLOCK", 0.95, math.inf),
]
MOST_WRONG_BLOCKS = 0.05


def promise_lines(runs=PROMISE_RUNS):
    """(lines, all kept?): PROMISES against simulated gates."""
    lines = []
    all_kept = True
    for promise in PROMISES:
        rates = promised_world(promise, runs)
        kept = rates[promise.verdict] >= promise.share and rates["answers"] <= promise.most_answers
        if not promise.slices:
            kept = kept and rates["BLOCK"] <= MOST_WRONG_BLOCKS
        all_kept = all_kept and kept
        line = f"{promise.profile:9}{promise.what:26}{promise.verdict} "
        line += f"{rates[promise.verdict]:6.1%} (promised {promise.share:.0%}), "
        line += f"BLOCK {rates['BLOCK']:6.1%}, {rates['answers']:,.0f} answers of the candidate"
        lines.append(line if kept else f"{line}  NOT KEPT")
    return lines, all_kept


def promised_world(promise, runs):
    """The rates of `repeat` in the world of a Promise."""
    profile = PROFILES[promise.profile]
    names = [f"slice {number}" for number in range(1, 9)]
    policy = {"margin": profile["margin"], "min_n": profile["min_n"], "hard": True, "once": False}
    world = assumed(dict.fromkeys(names, promise.prompts))
    gate = SimulatedGate(world, {}, dict.fromkeys(names, policy), profile["looks"])
    return gate.repeat(runs, 1, dict.fromkeys(names[: promise.slices], promise.drop))
