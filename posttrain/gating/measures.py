"""What is measured between two models: differences, win-rates and ratios, each with its error.

Everything rests on d [n], one number per item: what the candidate scores minus what the baseline
scores (each the mean over its answers), or the judge's probability minus one half. n items fall
into G clusters (one passage, one template, twins); a cluster counts as one draw.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

MISSES = 0.05  # share of the draws in which an interval does not hold the truth: 95 % intervals

# A win-rate at equal lengths is an extrapolation where fewer than this share of the answers are
# longer, or shorter, than their rival, or where the median ratio of lengths is outside of these.
LEAST_SHARE_EACH_WAY = 0.05
LENGTH_RATIOS = (0.5, 2)

LEAST_ITEMS = 5  # a budget of fewer says nothing


# ---- differences ---------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A mean of d over n items."""

    mean: float
    error: float  # standard error; math.inf for one cluster, which has no spread
    clusters: int  # G

    @property
    def df(self):
        """Degrees of freedom of the error."""
        return self.clusters - 1


class PooledMean(NamedTuple):
    """The mean of the means of several slices."""

    mean: float
    error: float
    df: int


def differences(rows):
    """Rows of items.jsonl -> (d [n], groups [n])."""
    d = np.array([row["candidate"] - row["baseline"] for row in rows])
    return d, number([row["cluster"] for row in rows])


def number(clusters):
    """Names of clusters [n] -> groups [n], numbered from 0 in order of appearance."""
    numbers = {}
    groups = [numbers.setdefault(name, len(numbers)) for name in clusters]
    return np.array(groups, dtype=int)


def paired(d, groups, floor=1):
    """The Difference of d [n]. groups [n]: the cluster of each item, 0 .. G-1.

    The error is cluster-robust, with s_g the summed deviations from the mean in cluster g:

        error^2 = G / (G - 1) x sum over g of s_g^2 / n^2

    which is that of the paired t test where each item is its own cluster. It is never below
    floor / G, what one flipped cluster would make: few items that all agree are no proof.
    """
    n = len(d)
    mean = float(np.mean(d))
    sums = np.bincount(groups, d - mean)
    clusters = len(sums)
    error = math.inf
    if clusters > 1:
        error = math.sqrt(clusters / (clusters - 1) * float(sums @ sums)) / n
    return Difference(mean, max(error, floor / clusters), clusters)


def pool(parts):
    """The PooledMean of Differences, each counting alike. df: Welch and Satterthwaite's.

    Those of one cluster have no spread and are left out, unless there is nothing else.
    """
    spread = [part for part in parts if part.clusters > 1] or list(parts)
    mean = sum(part.mean for part in spread) / len(spread)
    variance = sum(part.error * part.error for part in spread)
    df = 0
    if math.isfinite(variance):
        df = math.floor(variance * variance / sum(part.error**4 / part.df for part in spread))
    return PooledMean(mean, math.sqrt(variance) / len(spread), df)


@cache
def quantile(level, df):
    """Quantile of Student's t with df degrees of freedom, 1 at least; math.inf: of the normal."""
    from scipy.stats import t as student  # an extra: loaded where it is used

    return float(student.ppf(level, max(df, 1)))


def half_width(estimate, misses=MISSES):
    """Half of the two-sided t interval around a mean that misses the truth in this share."""
    return quantile(1 - misses / 2, estimate.df) * estimate.error


def p_drop(estimate):
    """One-sided p of "it did not fall"; one half where the error is infinite."""
    from scipy.stats import t as student

    return float(student.cdf(estimate.mean / estimate.error, max(estimate.df, 1)))


# ---- win-rate ------------------------------------------------------------------------------------


def win_rate(p, lengths, rivals, groups, *, looks=1):
    """The win-rate, with its 95 % interval, as it is and as it would be at equal lengths -> dict.

    p [n]: the judge's probabilities that the candidate's answer is better. lengths, rivals [n]:
    tokens of the two answers. looks: how often the rule may have looked before it stopped; the
    intervals are repeated ones then, as in rule.describe.

    "outside_support": the answers hardly ever are of one length, so that the length-controlled rate
    is an extrapolation. That rate is None where it cannot be had at all.
    """
    p = np.asarray(p, float)
    lengths = np.asarray(lengths, float)
    gap = lengths - np.asarray(rivals, float)
    difference = paired(p, groups)
    width = half_width(difference, MISSES / looks)
    length_ratio = float(np.median(lengths / np.maximum(rivals, 1)))
    result = {
        "raw": difference.mean,
        "low": max(difference.mean - width, 0.0),
        "high": min(difference.mean + width, 1.0),
        "wins": int(sum(p > 0.5)),
        "losses": int(sum(p < 0.5)),
        "ties": int(sum(p == 0.5)),
        "length_controlled": None,
        "lc_low": None,
        "lc_high": None,
        "length_ratio": length_ratio,
        "outside_support": not lengths_meet(gap, length_ratio),
    }
    fit = rate_at_equal_lengths(p, gap, groups)
    if fit is None:
        return result
    theta, error = fit
    # A twin of `paired`'s floor: 1/G of the win-rate at least, whose slope over theta is
    # q (1 - q) = 1 / (2 + 2 cosh theta).
    error = max(error, (2 + 2 * math.cosh(theta)) / difference.clusters)
    width = half_width(Difference(theta, error, difference.clusters), MISSES / looks)
    return result | {
        "length_controlled": float(logistic(theta)),
        "lc_low": float(logistic(theta - width)),
        "lc_high": float(logistic(theta + width)),
    }


def lengths_meet(gap, length_ratio):
    """Are there answers on both sides of equal length, and not too far from it? gap [n]: tokens."""
    shorter = np.mean(gap <= 0) >= LEAST_SHARE_EACH_WAY
    longer = np.mean(gap >= 0) >= LEAST_SHARE_EACH_WAY
    least, most = LENGTH_RATIOS
    return bool(shorter and longer and least <= length_ratio <= most)


def logistic(x):
    """1 / (1 + e^-x)."""
    from scipy.special import expit

    return expit(x)


def rate_at_equal_lengths(p, gap, groups):
    """(theta, standard error) of a fractional logit; None where the fit has no end.

        logit E[p] = theta + phi tanh(gap / sd(gap))          (arXiv 2404.04475, one model pair)

    1 / (1 + e^-theta) is the win-rate at gap 0. p, gap, groups [n]. The error is the sandwich
    A^-1 B A^-1 with B summed by cluster. None: all answers win, or length alone decides, or there
    are no more clusters than coefficients.
    """
    columns = [np.ones(len(p))]
    if gap.std() > 0:
        columns.append(np.tanh(gap / gap.std()))
    X = np.stack(columns, 1)  # [n, coefficients]
    clusters = groups.max() + 1
    if clusters <= len(columns):
        return None

    # Newton's method.
    beta = np.zeros(len(columns))
    for _ in range(50):
        q = logistic(X @ beta)
        A = X.T @ (X * (q * (1 - q))[:, None])
        if np.linalg.eigvalsh(A)[0] < 1e-6 * len(p):
            return None
        step = np.linalg.solve(A, X.T @ (p - q))
        beta += step
        if abs(step).max() < 1e-10:
            break

    scores = np.zeros((clusters, len(columns)))
    np.add.at(scores, groups, X * (p - q)[:, None])
    B = scores.T @ scores * clusters / (clusters - 1)
    inverse = np.linalg.inv(A)
    V = inverse @ B @ inverse
    return beta[0], math.sqrt(V[0, 0])


# ---- ratios and budgets --------------------------------------------------------------------------


class Ratio(NamedTuple):
    """A ratio or a difference of two means with its interval."""

    ratio: float
    low: float
    high: float


def ratio_of(candidate, baseline, groups, misses=MISSES):
    """The Ratio of two positive quantities [n] per item: exp of the mean log-ratio, t interval."""
    logs = np.log(np.asarray(candidate, float) / np.asarray(baseline, float))
    difference = paired(logs, groups, floor=0)
    width = half_width(difference, misses)
    mean = difference.mean
    return Ratio(exp_within(mean), exp_within(mean - width), exp_within(mean + width))


def exp_within(x):
    """e^x, but never 0 and never infinite."""
    return math.exp(min(max(x, -50), 50))


def difference_of(candidate, baseline, groups, misses=MISSES):
    """The same of the difference of two shares [n] per item."""
    difference = paired(candidate - baseline, groups)
    width = half_width(difference, misses)
    mean = difference.mean
    return Ratio(mean, max(mean - width, -1.0), min(mean + width, 1.0))


def budgets(rows, limits):
    """{"tokens", "truncated", "slice_tokens": a budget, or None}; see budget.

    rows: of items.jsonl. limits {budget: number, or None for no limit}.

    Tokens are compared between right answers (all of them where no program knows which are right):
    a wrong or an empty answer is no economy. slice_tokens is the slice that grew most surely, which
    "slice" names: growth in one is diluted in all. Its interval allows for all slices (Bonferroni).
    "ratio" of truncated is a difference of shares.
    """
    by_slice = token_pairs(rows)
    everywhere = []
    for pairs in by_slice.values():
        everywhere += pairs
    grown = []
    for name, pairs in by_slice.items():
        one_slice = budget(pairs, limits["slice_tokens"], ratio_of, MISSES / len(by_slice))
        if one_slice:
            grown.append({"slice": name} | one_slice)
    cut_off = []
    for row in rows:
        if "cut_candidate" in row:
            cut_off.append((row["cut_candidate"], row["cut_baseline"], row["cluster"]))
    return {
        "tokens": budget(everywhere, limits["tokens"], ratio_of),
        "truncated": budget(cut_off, limits["truncated"], difference_of),
        "slice_tokens": max(grown, key=lambda budget: budget["low"], default=None),
    }


def token_pairs(rows):
    """{slice: [(tokens of the candidate, of the baseline, cluster), ...]} of items that both have.

    Tokens are means over an item's right answers where a program knows which are right.
    """
    by_slice = {}
    for row in rows:
        field = "right_tokens_" if row["type"] == "verify" else "tokens_"
        candidate = row.get(f"{field}candidate")
        baseline = row.get(f"{field}baseline")
        if candidate and baseline:  # neither missing nor zero
            by_slice.setdefault(row["slice"], []).append((candidate, baseline, row["cluster"]))
    return by_slice


def budget(pairs, limit, compare, misses=MISSES):
    """A budget of pairs [(candidate, baseline, cluster), ...], or None of fewer than LEAST_ITEMS.

    compare: ratio_of or difference_of. The budget fails when it is surely overdrawn: when the lower
    bound is above the limit.
    """
    if len(pairs) < LEAST_ITEMS:
        return None
    candidate, baseline, clusters = zip(*pairs)
    candidate = np.array(candidate, float)
    baseline = np.array(baseline, float)
    ratio = compare(candidate, baseline, number(clusters), misses)
    result = {"candidate": float(candidate.mean()), "baseline": float(baseline.mean())}
    return result | ratio._asdict() | limit_of(ratio.low, limit)


def limit_of(low, limit):
    """{"limit", "fail"}: overdrawn by a lower bound above the limit; a limit of None never is."""
    return {"limit": limit, "fail": limit is not None and low > limit}
