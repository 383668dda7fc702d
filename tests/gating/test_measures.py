"""What the gate measures: against scipy and by hand, and its intervals by simulation."""

import json
import math
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta as beta_dist
from scipy.stats import t as student
from scipy.stats import ttest_rel

from posttrain.gating.measures import (
    Difference,
    budgets,
    difference_of,
    differences,
    half_width,
    lengths_meet,
    limit_of,
    number,
    p_drop,
    paired,
    pool,
    ratio_of,
    win_rate,
)


def plain(value):
    """Only what JSON knows, and no NaN."""
    return bool(json.dumps(value, allow_nan=False))


# ---- differences ---------------------------------------------------------------------------------


def test_paired_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    for n in (40, 90):
        own, base = rng.normal(0, 3, n), rng.normal(0.4, 3, n)
        mean, error, G = paired(own - base, np.arange(n))
        scipys = ttest_rel(own, base)
        assert (mean / error, G) == pytest.approx((scipys.statistic, n))
        low = scipys.confidence_interval(0.95).low
        assert mean - half_width(Difference(mean, error, G)) == pytest.approx(low)
        assert p_drop(Difference(mean, error, G)) == pytest.approx(
            ttest_rel(own, base, alternative="less").pvalue
        )


def test_clusters_by_hand():
    """Summed deviations of three clusters from the mean 0.3 of six differences: -0.7, 0.2 and 0.5; large numbers, for
    the floor of 1/3 to play no part."""
    d = 10 * np.array([0.0, -0.1, 0.4, 0.4, 0.3, 0.8])
    got = paired(d, np.array([0, 0, 1, 1, 2, 2]))
    assert got == pytest.approx((3.0, 10 * math.sqrt(3 / 2 * (0.7**2 + 0.2**2 + 0.5**2)) / 6, 3))
    assert paired(np.zeros(5), np.arange(5)) == (0.0, 1 / 5, 5), (
        "never below what one flipped cluster makes"
    )
    assert paired(np.array([1.0, 0.5]), np.array([0, 0])) == (0.75, math.inf, 1), (
        "one cluster knows no spread"
    )


def test_copies_in_a_cluster_add_no_evidence():
    d = np.random.default_rng(2).normal(0, 1, 40)
    assert paired(np.repeat(d, 7), np.repeat(np.arange(40), 7)) == pytest.approx(
        paired(d, np.arange(40))
    )


def test_pool_by_hand():
    a, b = Difference(-0.1, 0.03, 50), Difference(0.04, 0.04, 21)
    mean, error, df = pool([a, b])
    assert (mean, error) == pytest.approx((-0.03, 0.025))
    assert df == math.floor((9 + 16) ** 2 / (81 / 49 + 256 / 20)), "Welch-Satterthwaite"
    assert pool([Difference(0.0, 0.02, 30)] * 2).df == 58
    alone = Difference(-1.0, math.inf, 1)
    assert pool([alone, Difference(0.0, 0.02, 30)]) == (0.0, 0.02, 29), "one cluster says nothing"
    assert pool([alone]) == (-1.0, math.inf, 0) and p_drop(pool([alone])) == 0.5


def test_differences_and_number():
    assert number(["b", "a", "b", 3, "a"]).tolist() == [0, 1, 0, 2, 1] and number([]).tolist() == []
    d, groups = differences(
        [item(n, candidate=0.25 * n, baseline=0.5, cluster=n % 2) for n in range(4)]
    )
    assert d.tolist() == [-0.5, -0.25, 0.0, 0.25] and groups.tolist() == [0, 1, 0, 1]


# ---- win-rate ------------------------------------------------------------------------------------


def judged(rng, n, theta, phi, cluster=1):
    """Judge's probabilities around 1 / (1 + e^-(theta + phi tanh(gap / sd))), Beta-distributed with concentration 1.5;
    clusters share half of what is drawn -> arguments of win_rate."""
    lengths, rivals = rng.gamma(4, 50, n), rng.gamma(4, 45, n)
    gap = lengths - rivals
    q = expit(theta + phi * np.tanh(gap / gap.std()))
    shared = np.repeat(rng.random(n // cluster), cluster)
    u = np.where(rng.random(n) < 0.5, shared, rng.random(n)) if cluster > 1 else shared
    return beta_dist.ppf(u, 1.5 * q, 1.5 * (1 - q)), lengths, rivals, np.arange(n) // cluster


def cheap(rng, n, theta, phi, cluster=1):
    """The same with a sharper judge, in a hundredth of the time: four fifths of each probability are 0 or 1."""
    lengths, rivals = rng.gamma(4, 50, n), rng.gamma(4, 45, n)
    gap = lengths - rivals
    q = expit(theta + phi * np.tanh(gap / gap.std()))
    shared = np.repeat(rng.random(n // cluster), cluster)
    u = np.where(rng.random(n) < 0.5, shared, rng.random(n)) if cluster > 1 else shared
    return 0.2 * q + 0.8 * (u < q), lengths, rivals, np.arange(n) // cluster


def test_the_length_controlled_fit_is_the_right_one():
    """Against scipy's optimum of the quasi-likelihood and a sandwich of numerical derivatives."""
    for seed, cluster in ((1, 1), (2, 4)):
        p, lengths, rivals, groups = judged(np.random.default_rng(seed), 120, 0.4, 0.8, cluster)
        gap = lengths - rivals
        x = np.tanh(gap / gap.std())

        def loss(beta, keep=slice(None), p=p, x=x):
            eta = beta[0] + beta[1] * x[keep]
            return float(np.sum(np.logaddexp(0, eta) - p[keep] * eta))

        best = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
        h = 1e-4 * np.eye(2)
        A = np.array(
            [
                [
                    (
                        loss(best + a + b)
                        - loss(best + a - b)
                        - loss(best - a + b)
                        + loss(best - a - b)
                    )
                    / 4e-8
                    for a in h
                ]
                for b in h
            ]
        )
        G = groups[-1] + 1
        s = np.array(
            [
                [(loss(best + a, groups == g) - loss(best - a, groups == g)) / 2e-4 for a in h]
                for g in range(G)
            ]
        )
        V = np.linalg.inv(A) @ (s.T @ s * G / (G - 1)) @ np.linalg.inv(A)
        width = student.ppf(0.975, G - 1) * math.sqrt(V[0, 0])
        got = win_rate(p, lengths, rivals, groups)
        assert (got["length_controlled"], got["lc_low"], got["lc_high"]) == pytest.approx(
            [expit(best[0] + s * width) for s in (0, -1, 1)], abs=1e-4
        )


@pytest.mark.parametrize(("n", "cluster"), [(100, 1), (200, 1), (400, 1), (200, 2), (400, 4)])
def test_length_control_recovers_the_truth_and_covers_it(n, cluster):
    rng, got = np.random.default_rng(11), []
    for _ in range(600):
        got.append(win_rate(*cheap(rng, n, 0.5, 1.0, cluster)))
    assert np.mean([rate["length_controlled"] for rate in got]) == pytest.approx(
        expit(0.5), abs=0.01
    )
    assert (
        0.93 <= np.mean([rate["lc_low"] <= expit(0.5) <= rate["lc_high"] for rate in got]) <= 0.98
    )


def test_the_raw_win_rate_covers_its_truth():
    rng = np.random.default_rng(12)
    for n, cluster in ((50, 1), (200, 1), (200, 4)):
        hits = [
            (got := win_rate(*cheap(rng, n, 0.7, 0.0, cluster)))["low"] <= expit(0.7) <= got["high"]
            for _ in range(400)
        ]
        assert np.mean(hits) >= 0.93, (n, cluster)


def test_roles_changed_change_sides():
    p, lengths, rivals, groups = judged(np.random.default_rng(13), 150, 0.6, 0.9)
    here, there = win_rate(p, lengths, rivals, groups), win_rate(1 - p, rivals, lengths, groups)
    for middle, low, high in (("raw", "low", "high"), ("length_controlled", "lc_low", "lc_high")):
        assert there[middle] == pytest.approx(1 - here[middle]) and there[low] == pytest.approx(
            1 - here[high]
        )
        assert there[high] == pytest.approx(1 - here[low])
    assert (here["wins"], here["losses"], here["ties"]) == (there["losses"], there["wins"], 0)


def test_looks_widen_the_intervals_of_a_win_rate():
    given = judged(np.random.default_rng(22), 100, 0.2, 0.4)
    once, often = win_rate(*given), win_rate(*given, looks=4)
    wider = student.ppf(1 - 0.05 / 8, 99) / student.ppf(0.975, 99)
    assert often["high"] - often["raw"] == pytest.approx(wider * (once["high"] - once["raw"]))
    (low, middle), (wide, _) = (
        [math.log(got[key] / (1 - got[key])) for key in ("lc_low", "length_controlled")]
        for got in (once, often)
    )
    assert wide - middle == pytest.approx(wider * (low - middle))


def test_copies_in_clusters_do_not_narrow_a_win_rate():
    p, lengths, rivals, groups = judged(np.random.default_rng(14), 80, 0.3, 0.5)
    once = win_rate(p, lengths, rivals, groups)
    often = win_rate(*(np.repeat(one, 6) for one in (p, lengths, rivals, groups)))
    for key in ("raw", "low", "high", "length_controlled", "lc_low", "lc_high"):
        assert often[key] == pytest.approx(once[key]), key


def test_what_a_win_is():
    """More than one half, not one half itself."""
    got = win_rate([0.5, 0.51, 0.49, 0.5, 1.0], [9] * 5, [9] * 5, np.arange(5))
    assert (got["wins"], got["losses"], got["ties"]) == (2, 1, 2)
    short = win_rate([0.5, 0.7, 0.3], [2, 2, 2], [1, 0, 0], np.arange(3))
    assert short["length_ratio"] == 2, "a rival of no tokens counts as one of one"


def test_win_rates_at_the_edge():
    """No warning, no overflow, plain numbers."""
    n, rng = 60, np.random.default_rng(15)
    lengths, rivals = rng.integers(50, 150, n), rng.integers(50, 150, n)
    alone = np.arange(n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in (np.ones(n), np.zeros(n), (lengths > rivals) * 1.0, (lengths <= rivals) * 1.0):
            got = win_rate(p, lengths, rivals, alone)
            assert got["length_controlled"] is None is got["lc_low"], "separable"
            assert plain(got) and 0 <= got["low"] <= got["high"] <= 1
        same = win_rate(np.full(n, 0.5), lengths, rivals, alone)
        assert same["length_controlled"] == 0.5 and same["ties"] == n and plain(same)
        assert same["lc_high"] - same["lc_low"] > 0.05, "sixty ties are no proof"
        even = win_rate(rng.random(n), lengths, lengths, alone)
        assert (
            even["length_controlled"] == pytest.approx(even["raw"]) and not even["outside_support"]
        )
        few = win_rate(rng.random(n), lengths, rivals, alone % 2)
        assert (
            few["length_controlled"] is None
            and plain(few)
            and (few["low"], few["high"]) == (0.0, 1.0)
        )
        assert plain(win_rate([0.7], [5], [4], np.array([0])))
        almost = np.where(lengths > rivals, 0.999999, 1e-6)
        almost[0] = 0.5
        assert plain(win_rate(almost, lengths, rivals, alone))


def test_lengths_that_never_meet_are_outside():
    n, rng = 50, np.random.default_rng(16)
    short, p, groups = rng.integers(80, 100, n), rng.random(n), np.arange(n)
    assert win_rate(p, short + 20, short, groups)["outside_support"], (
        "always longer, though by less than half"
    )
    assert (
        win_rate(p, short * 3, short, groups)["outside_support"]
        and not win_rate(p, rng.permutation(short), short, groups)["outside_support"]
    )
    assert win_rate(p, short * 3, short, groups)["length_ratio"] == 3


def test_where_lengths_meet():
    """One answer in twenty on either side, and a median ratio from one half to two: themselves included."""
    gap = np.ones(100)
    for longer in (4, 5, 95, 96):
        sign = np.where(np.arange(100) < longer, 1, -1)
        assert lengths_meet(gap * sign, 1.0) is (longer in (5, 95))
    balanced = gap * np.where(np.arange(100) % 2, 1, -1)
    for ratio, meet in ((0.49, False), (0.5, True), (2, True), (2.01, False)):
        assert lengths_meet(balanced, ratio) is meet


# ---- ratios and budgets --------------------------------------------------------------------------


def test_ratio_of():
    got = ratio_of([20.0, 80.0, 90.0] * 4, [10.0, 10.0, 10.0] * 4, np.arange(12))
    logs = np.log([2, 8, 9] * 4)
    half = student.ppf(0.975, 11) * logs.std(ddof=1) / math.sqrt(12)
    assert got == pytest.approx([math.exp(logs.mean() + s * half) for s in (0, -1, 1)])
    alone = ratio_of([2.0], [1.0], np.array([0]))
    assert all(0 < x < math.inf for x in alone) and alone.ratio == pytest.approx(2)


def test_difference_of_shares():
    rng = np.random.default_rng(5)
    candidate, baseline = rng.random(40), rng.random(40)
    got = difference_of(candidate, baseline, np.arange(40))
    scipys = ttest_rel(candidate, baseline).confidence_interval(0.95)
    assert got == pytest.approx(((candidate - baseline).mean(), scipys.low, scipys.high))
    alone = difference_of(np.array([0.5]), np.array([0.0]), np.array([0]))
    assert alone == (0.5, -1.0, 1.0), "a share is never below 0 or above 1"


@pytest.mark.parametrize(("low", "fails"), [(1.0999, False), (1.1, False), (1.1001, True)])
def test_a_limit_is_overdrawn_above_it(low, fails):
    assert limit_of(low, 1.1) == {"limit": 1.1, "fail": fails}
    assert limit_of(low, None) == {"limit": None, "fail": False}
    assert limit_of(low, 0) == {"limit": 0, "fail": True}, "none at all is a limit, too"


def item(n, kind="verify", **fields):
    return {
        "id": str(n),
        "slice": "s",
        "cluster": n,
        "type": kind,
        "candidate": 1.0,
        "baseline": 1.0,
    } | fields


NO_LIMIT = {"tokens": None, "slice_tokens": None, "truncated": None}


def test_tokens_are_compared_between_right_answers():
    """Verified: right answers only; judged and budget prompts: all answers. Empty ones never."""
    rows = [
        item(
            n,
            right_tokens_candidate=120.0,
            right_tokens_baseline=100.0,
            tokens_candidate=9.0,
            tokens_baseline=900.0,
            cut_candidate=0.0,
            cut_baseline=0.0,
        )
        for n in range(20)
    ]
    rows += [
        item(
            20 + n,
            tokens_candidate=9.0,
            tokens_baseline=900.0,
            cut_candidate=0.5,
            cut_baseline=0.0,
            right_tokens_baseline=100.0,
        )
        for n in range(20)
    ]  # the candidate is never right
    got = budgets(rows, NO_LIMIT)
    assert (
        got["tokens"]["ratio"] == pytest.approx(1.2)
        and got["tokens"]["fail"] is False
        and plain(got)
    )
    assert (got["tokens"]["candidate"], got["tokens"]["baseline"]) == (120.0, 100.0)
    assert got["truncated"]["ratio"] == pytest.approx(0.25) and got["truncated"]["fail"] is False
    for kind in ("judge", "budget"):
        some = [
            item(
                n,
                kind,
                tokens_candidate=30.0,
                tokens_baseline=20.0,
                right_tokens_candidate=1.0,
                right_tokens_baseline=1.0,
            )
            for n in range(30)
        ]
        assert (
            budgets(some, NO_LIMIT)["tokens"]["ratio"] == pytest.approx(1.5)
            and not budgets(some, NO_LIMIT)["truncated"]
        )
        some[0] |= {"tokens_candidate": 0.0}
        some[1] |= {"tokens_baseline": 0.0}
        spent = budgets(some, NO_LIMIT)["tokens"]
        assert (spent["candidate"], spent["baseline"]) == (30.0, 20.0), "no logarithm of nothing"
        del some[2]["tokens_baseline"]
        assert budgets(some, NO_LIMIT)["tokens"] == pytest.approx(spent, abs=1e-3)


def test_a_budget_fails_when_it_surely_broke():
    rng = np.random.default_rng(17)
    rows = [
        item(
            n,
            right_tokens_candidate=110.0 * rng.uniform(0.9, 1.1),
            right_tokens_baseline=100.0,
            cut_candidate=float(n % 10 == 0),
            cut_baseline=0.0,
        )
        for n in range(100)
    ]
    low = budgets(rows, NO_LIMIT)
    for name in NO_LIMIT:
        edge = low[name]["low"]
        for nudge, fails in ((-1e-9, True), (0, False), (1e-9, False)):
            got = budgets(rows, NO_LIMIT | {name: edge + nudge})[name]
            assert got["fail"] is fails and got["limit"] == edge + nudge
    assert 1.06 < low["tokens"]["low"] < 1.1 < low["tokens"]["high"] < 1.14


def test_growth_in_one_slice_is_not_diluted():
    """Twice the tokens in one slice of ten: seen there, at the level of ten looks, and named."""
    rng = np.random.default_rng(4)
    rows = [
        item(
            n,
            slice=f"s{n % 10}",
            right_tokens_baseline=float(b),
            right_tokens_candidate=float(b)
            * (2 if n % 10 == 3 else 0.95)
            * math.exp(0.1 * rng.normal()),
        )
        for n, b in enumerate(rng.integers(10, 40, 400))
    ]
    got = budgets(rows, {"tokens": 1.1, "slice_tokens": 1.5, "truncated": None})
    assert (
        got["tokens"]["ratio"] < 1.1 and not got["tokens"]["fail"] and got["slice_tokens"]["fail"]
    )
    one = [row for row in rows if row["slice"] == "s3"]
    log = np.log([row["right_tokens_candidate"] / row["right_tokens_baseline"] for row in one])
    width = student.ppf(1 - 0.0025, 39) * log.std(ddof=1) / math.sqrt(40)
    assert got["slice_tokens"]["slice"] == "s3"
    assert got["slice_tokens"]["low"] == pytest.approx(math.exp(log.mean() - width))


def test_a_budget_of_few_says_nothing():
    rows = [
        item(
            n,
            right_tokens_candidate=1.0,
            right_tokens_baseline=1.0,
            cut_candidate=0.0,
            cut_baseline=0.0,
        )
        for n in range(4)
    ]
    assert budgets(rows, NO_LIMIT) == NO_LIMIT == budgets([], NO_LIMIT)
    five = budgets([*rows, rows[0] | {"cluster": 5}], NO_LIMIT)
    assert all(five.values()), "five say something"
    assert budgets(rows + [item(5)], NO_LIMIT) == NO_LIMIT
    alone = budgets(
        [row | {"cluster": 0} for row in rows * 2], NO_LIMIT | {"tokens": 1.1, "truncated": 0.1}
    )
    assert plain(alone) and alone["tokens"]["fail"] is False and alone["truncated"]["high"] == 1.0
