"""The gate's statistics: against scipy and by hand, the rule with scripted answers, and its promises by simulation."""

import json
import math
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import beta as beta_dist
from scipy.stats import binom, binomtest, ttest_rel
from scipy.stats import t as student

from posttrain.gating import decision
from posttrain.gating.decision import (
    ALPHA,
    BASELINE_DRAWS,
    PROFILES,
    assumed,
    budgets,
    clears,
    describe,
    describe_mean,
    differences,
    error_rates,
    fell,
    known_rates,
    low_bound,
    lowered,
    measured,
    number,
    paired,
    pool,
    promises,
    prompts_needed,
    rate_lines,
    ratio_of,
    repeat,
    sequential,
    win_rate,
)

LOOKS = (2, 4, 8, 16)


def policy(margin=0.1, min_n=30, hard=True, once=False):
    return {"margin": margin, "min_n": min_n, "hard": hard, "once": once}


def plain(value):
    """Only what JSON knows: dicts, lists, strings, finite floats, ints, bools, None."""
    if isinstance(value, dict):
        return all(isinstance(key, str | float) and plain(one) for key, one in value.items())
    return (
        value is None
        or isinstance(value, bool | int | str)
        or isinstance(value, float)
        and math.isfinite(value)
    )


# ---- one slice -----------------------------------------------------------------------------------------------


def test_paired_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    for n in (40, 90):
        own, base = rng.normal(0, 3, n), rng.normal(0.4, 3, n)
        mean, error, G = paired(own - base, np.arange(n))
        scipys = ttest_rel(own, base)
        assert (mean / error, G) == pytest.approx((scipys.statistic, n))
        low = scipys.confidence_interval(0.95).low
        assert mean + student.ppf(0.025, n - 1) * error == pytest.approx(low)


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


def test_a_drop_is_tested_at_its_level():
    for level, df in ((0.05, 12), (0.0014, 99)):
        edge = student.ppf(level, df) * 0.1
        assert fell(edge - 1e-9, 0.1, df, level) and not fell(edge + 1e-9, 0.1, df, level)
    assert fell(-0.0101, 1e-6, 99, 0.05) and not fell(-0.0099, 1e-6, 99, 0.05), "dust"
    assert not fell(-1.0, math.inf, 0, 0.05)


def test_a_slice_is_cleared_at_its_level():
    error = 0.03
    edge = -0.1 + student.ppf(0.9875, 99) * error
    assert clears((edge + 1e-9, error, 100), policy(), 0.0125)
    assert not clears((edge - 1e-9, error, 100), policy(), 0.0125)
    assert not clears((edge + 1e-9, error, 100), policy(min_n=101), 0.0125)
    assert not clears((0.0, 1e-9, 30), policy(), 0.05) and clears(
        (0.0, 1e-9, 31), policy(), 0.05
    ), "rule of three"
    assert low_bound(0.2, math.inf, 1, 0.05) == -math.inf


@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_whole_losses_of_few_prompts_are_seen(margin):
    """Each prompt is lost with probability `margin`, none is gained: cleared in at most 5 % of the draws, where the t
    interval alone would clear up to 13 %."""
    for n in (70, 100, 150, 200, 500):
        wrong = 0.0
        for lost in range(n // 4):
            found = paired(-(np.arange(n) < lost).astype(float), np.arange(n))
            wrong += binom.pmf(lost, n, margin) * clears(found, policy(margin), ALPHA)
        assert wrong <= 0.05


def test_pool_by_hand():
    mean, error, df = pool({"a": (-0.1, 0.03, 50), "b": (0.04, 0.04, 21)})
    assert (mean, error) == pytest.approx((-0.03, 0.025))
    assert df == math.floor((9 + 16) ** 2 / (81 / 49 + 256 / 20)), "Welch-Satterthwaite"
    assert pool({"a": (0.0, 0.02, 30), "b": (0.0, 0.02, 30)})[2] == 58
    assert pool({"a": (-1.0, math.inf, 1), "b": (0.0, 0.02, 30)}) == (0.0, 0.02, 29), (
        "one cluster says nothing"
    )
    assert pool({"a": (-1.0, math.inf, 1)}) == (-1.0, math.inf, 0)


def test_describe_gives_repeated_intervals():
    found = (-0.02, 0.03, 60)
    for once, level in ((True, 0.975), (False, 1 - 0.05 / 8)):
        got = describe(found, policy(once=once), 9, 4, False)
        assert (got["low"], got["high"]) == pytest.approx(
            [-0.02 + s * student.ppf(level, 59) * 0.03 for s in (-1, 1)]
        )
        assert got["mde"] == pytest.approx(
            0.03 * (student.ppf(1 - 0.05 / 9 / (1 if once else 4), 59) + student.ppf(0.8, 59))
        )
    assert (
        got["p_drop"] == pytest.approx(student.cdf(-2 / 3, 59))
        and got["delta"] == -0.02
        and got["clusters"] == 60
    )
    assert (got["low"], got["high"]) > (-1, -1) and describe((0.9, 0.3, 9), policy(), 2, 4, False)[
        "high"
    ] == 1.0
    assert got["verdict"] == "CLEAR" or got["need"]
    assert describe(found, policy(), 9, 4, True)["verdict"] == "FAIL"
    alone = describe((0.5, math.inf, 1), policy(), 2, 4, False)
    assert plain(alone) and (alone["low"], alone["high"], alone["need"]) == (-1.0, 1.0, None)


@pytest.mark.parametrize(
    "found", [(-0.02, 0.05, 60), (0.0, 0.06, 31), (-0.06, 0.02, 90), (0.0, 1 / 12, 12)]
)
def test_need_decides(found):
    """With that many clusters of the same spread the slice is clear, with 0.6 of them it is not."""
    mean, error, G = found
    need = describe(found, policy(), 9, 4, False)["need"]
    for n, clear in ((need, True), (int(0.6 * need), False)):
        expected = max(error * math.sqrt(G / n) * (error > 1 / G), 1 / n)  # the floor is no spread
        assert clears((mean, expected, n), policy(), ALPHA / 4) is clear
    assert describe((-0.1, error, G), policy(), 9, 4, False)["need"] is None, (
        "no number clears a margin that is lost"
    )
    assert describe((0.0, 0.01, G + 100), policy(), 9, 4, False)["need"] is None
    assert describe((0.0, 1 / 12, 12), policy(), 9, 4, False)["need"] == 31, (
        "no item has differed yet"
    )


@pytest.mark.parametrize("n", [60, 200])
def test_mde_is_caught_four_times_in_five(n):
    rng = np.random.default_rng(3)
    error = 0.4 / math.sqrt(n)
    mde = describe((0.0, error, n), policy(once=True), 9, 4, False)["mde"]
    caught = [
        fell(
            *(found := paired(rng.normal(-mde, 0.4, n), np.arange(n)))[:2], found[2] - 1, ALPHA / 9
        )
        for _ in range(2000)
    ]
    assert np.mean(caught) == pytest.approx(0.8, abs=0.03)


def test_describe_mean():
    got = describe_mean({"a": (-0.1, 0.03, 50), "b": (0.04, 0.04, 50)}, 4, True)
    df = pool({"a": (-0.1, 0.03, 50), "b": (0.04, 0.04, 50)})[2]
    assert (
        got["low"] == pytest.approx(-0.03 - student.ppf(1 - 0.05 / 8, df) * 0.025)
        and got["fail"] is True
    )
    assert (
        got["p_drop"] == pytest.approx(student.cdf(-1.2, df)) and got["p_drop"] + got["p_gain"] == 1
    )
    assert plain(describe_mean({"a": (0.5, math.inf, 1)}, 4, False))


# ---- the rule with scripted answers --------------------------------------------------------------------------


def scripted(script):
    """draw() that says what script {slice: {k or None (any): (mean, half spread, n)}} says -> (draw, [(k, slices)]):
    half of d lie above the mean, half below. A slice that is not in the script has no item."""
    asked = []

    def draw(names, k):
        asked.append((k, sorted(names)))
        said = {
            name: script[name].get(k, script[name].get(None)) for name in names if name in script
        }
        return {
            name: (mean + half * (-1.0) ** np.arange(n), np.arange(n))
            for name, (mean, half, n) in said.items()
        }

    return draw, asked


SURE, WIDE = (
    (0.0, 0.05, 100),
    (0.0, 0.8, 100),
)  # one clears the margin at once, the other leaves it open


def run(script, looks=LOOKS, **policies):
    draw, asked = scripted(script)
    found, ks, failed, fallen = sequential(
        policies or {name: policy() for name in script}, looks, draw
    )
    return {"ks": ks, "failed": failed, "fallen": fallen, "found": found}, asked


def test_all_clear_ends_at_the_first_look():
    got, asked = run({"a": {None: SURE}, "b": {None: SURE}})
    assert (
        asked == [(2, ["a", "b"])]
        and got["ks"] == {"a": 2, "b": 2}
        and not got["failed"]
        and not got["fallen"]
    )
    assert got["found"]["a"] == paired(*scripted({"a": {None: SURE}})[0](["a"], 2)["a"])


def test_clear_slices_are_asked_no_more():
    got, asked = run({"a": {None: SURE}, "b": {2: WIDE, 4: WIDE, None: SURE}})
    assert asked == [(2, ["a", "b"]), (4, ["b"]), (8, ["b"])] and got["ks"] == {"a": 2, "b": 8}


def test_the_last_look_is_the_last():
    got, asked = run({"a": {None: WIDE}})
    assert [k for k, _ in asked] == [2, 4, 8, 16] and got["ks"] == {"a": 16}
    assert got["failed"] == [] and got["fallen"] is False


def test_a_failure_ends_the_run():
    got, asked = run({"a": {None: WIDE}, "b": {2: WIDE, None: (-0.5, 0.05, 100)}})
    assert got["failed"] == ["b"] and asked[-1][0] == 4 and got["ks"] == {"a": 4, "b": 4}


def test_the_level_of_a_failure():
    """ALPHA over three hypotheses (two slices, the mean) and four looks, or one look for what is seen once."""
    half, n = 0.4, 65
    error = half * math.sqrt(n / (n - 1)) / math.sqrt(n)
    for once, tests in ((False, 12), (True, 3)):
        edge = student.ppf(0.05 / tests, n - 1) * error
        for nudge, failed in ((-1e-3, ["a"]), (1e-3, [])):
            rows = np.where(np.arange(n) % 2, half, -half)
            rows += edge + nudge - rows.mean()
            both = {"a": rows, "b": np.tile([0.8, -0.8], 33)[:n]}
            got = sequential(
                {"a": policy(once=once), "b": policy()},
                LOOKS,
                lambda names, k, both=both: {name: (both[name], np.arange(n)) for name in names},
            )
            assert got[2] == failed, (once, nudge)


def test_a_thin_drop_keeps_sampling_until_the_mean_is_known():
    """Every slice is clear, and yet their mean may have fallen by three points."""
    thin = {name: {2: (-0.02, 0.4, 400), None: (-0.02, 0.2, 400)} for name in "abcd"}
    got, asked = run(thin)
    assert asked == [(2, [*"abcd"]), (4, [*"abcd"])] and got["fallen"] and got["failed"] == []
    even = {name: {2: (-0.02, 0.4, 400), None: (0.0, 0.05, 400)} for name in "abcd"}
    got, asked = run(even)
    assert asked == [(2, [*"abcd"]), (4, [*"abcd"])] and not got["fallen"]


def test_a_slice_that_is_clear_no_longer_is_asked_again():
    """b was clear at 2, was asked again for the mean's sake, and is open at 4: the run goes on while looks are left."""
    thin = (-0.03, 0.2, 100)
    got, asked = run(
        {"a": {2: thin, None: (0.02, 0.02, 100)}, "b": {2: thin, 4: (-0.02, 0.4, 100), None: SURE}}
    )
    assert asked == [(2, ["a", "b"]), (4, ["a", "b"]), (8, ["b"])] and clears(
        got["found"]["b"], policy(), ALPHA / 4
    )


def test_few_clusters_are_asked_once():
    """No number of answers clears ten prompts: the other slice is asked on, this one is not."""
    got, asked = run({"a": {2: (0.0, 0.5, 100), None: SURE}, "b": {None: (0.0, 0.2, 10)}})
    assert asked == [(2, ["a", "b"]), (4, ["a"])] and got["failed"] == []


def test_soft_slices_neither_fail_nor_count():
    got, asked = run(
        {"a": {None: SURE}, "b": {None: (-0.9, 0.05, 100)}}, a=policy(), b=policy(hard=False)
    )
    assert got["failed"] == [] and not got["fallen"] and asked == [(2, ["a", "b"])]
    got, asked = run({"b": {None: (-0.9, 0.05, 100)}}, b=policy(hard=False))
    assert got["failed"] == [] and not got["fallen"], "nothing is hard"


def test_slices_that_are_seen_once():
    """Level ALPHA, not ALPHA / looks; asked at the first look only."""
    once = (-0.04, 0.3, 100)
    assert clears(paired(*scripted({"a": {None: once}})[0](["a"], 2)["a"]), policy(), ALPHA)
    assert not clears(paired(*scripted({"a": {None: once}})[0](["a"], 2)["a"]), policy(), ALPHA / 4)
    got, asked = run(
        {"a": {None: once}, "b": {2: WIDE, None: (0.08, 0.05, 100)}},
        a=policy(once=True),
        b=policy(),
    )
    assert (
        asked == [(2, ["a", "b"]), (4, ["b"])]
        and got["ks"] == {"a": 2, "b": 4}
        and not got["failed"]
    )
    got, asked = run({"a": {None: WIDE}}, a=policy(once=True))
    assert asked == [(2, ["a"])], "open, and nothing more to ask"


def test_slices_without_items_break_nothing():
    policies = {name: policy() for name in "abc"}
    got, asked = run({"a": {None: SURE}, "b": {2: WIDE, None: SURE}}, **policies)
    assert (
        asked == [(2, [*"abc"]), (4, ["b"])]
        and set(got["found"]) == {"a", "b"}
        and not got["failed"]
    )
    assert run({}, **policies)[0] == {"ks": {}, "failed": [], "fallen": False, "found": {}}
    assert sequential({}, LOOKS, None) == ({}, {}, [], False)


# ---- promises ------------------------------------------------------------------------------------------------


def world_of(sizes, drops=None, rates=decision.RATES, margin=0.1, **options):
    """Arguments of `repeat` after runs and seed."""
    policies = {name: policy(margin, PROFILES["hobby"]["min_n"], **options) for name in sizes}
    return assumed(sizes, rates), {}, policies, LOOKS, drops or {}


def test_the_promises_are_kept():
    lines, kept = promises(600)
    assert kept is True and len(lines) == 6, "\n".join(lines)


EIGHT = {f"s{n}": 100 for n in range(8)}
UNEQUAL = dict(zip(EIGHT, (30, 40, 60, 80, 120, 180, 250, 300)))


def clustered(sizes, size):
    """World in which `size` prompts share their pass rate."""

    def world(rng):
        return {
            name: (np.repeat(rng.beta(0.7, 0.3, -(-n // size)), size)[:n], np.arange(n) // size)
            for name, n in sizes.items()
        }

    return world


@pytest.mark.parametrize(
    "what",
    [
        "low rates",
        "high rates",
        "even rates",
        "steep rates",
        "unequal",
        "clusters",
        "two few",
        "seen once",
    ],
)
def test_an_unchanged_model_is_rarely_blocked(what):
    given = {
        "low rates": world_of(EIGHT, rates=(0.3, 1.0)),
        "high rates": world_of(EIGHT, rates=(0.9, 1.0)),
        "even rates": world_of(EIGHT, rates=(0.7, 4.0)),
        "steep rates": world_of(EIGHT, rates=(0.7, 0.3)),
        "seen once": (
            assumed({"a": 100}),
            {
                name: (np.random.default_rng(n).choice((-1.0, 0.0, 1.0), 80), np.arange(80))
                for n, name in enumerate("bcd")
            },
            {"a": policy()} | {name: policy(once=True) for name in "bcd"},
            LOOKS,
            {},
        ),
        "unequal": world_of(UNEQUAL),
        "two few": world_of({"a": 8, "b": 300}),
        "clusters": (clustered(dict.fromkeys(EIGHT, 200), 5), *world_of(EIGHT)[1:]),
    }[what]
    got = repeat(1000, 7, *given)
    assert got["BLOCK"] <= 0.05, f"{what}: {got}"


def simulate(runs, seed, make, policies):
    """Shares of (BLOCK, SHIP) where make(rng) -> draw(names, k)."""
    rng, blocked, shipped = np.random.default_rng(seed), 0, 0
    for _ in range(runs):
        found, _, failed, fallen = sequential(policies, LOOKS, make(rng))
        blocked += bool(failed or fallen)
        shipped += (
            not failed
            and not fallen
            and all(clears(found[name], policies[name], ALPHA / 4) for name in found)
        )
    return blocked / runs, shipped / runs


def sampled(rates, own_rates, missing=0.0):
    """make() for `simulate`: answers at pass rates p = rates(rng) [n] of the baseline and own_rates(rng, p) [n] of the
    candidate, kept from look to look; a share of the items is missing."""

    def make(rng):
        p = rates(rng)
        q = own_rates(rng, p)
        kept = rng.random(len(p)) >= missing
        own, base, seen = 0, 0, 0

        def draw(names, k):
            nonlocal own, base, seen
            own, base = (
                own + rng.binomial(k - seen, q),
                base + rng.binomial(BASELINE_DRAWS * (k - seen), p),
            )
            seen = k
            d = (own / k - base / k / BASELINE_DRAWS)[kept]
            return {name: (d, np.arange(len(d))) for name in names}

        return draw

    return make


@pytest.mark.parametrize("what", ["missing", "variance"])
def test_neither_missing_items_nor_a_change_of_variance_block(what):
    """5 % of the items lack a score; or each pass rate becomes 0 or 1 with the same mean."""
    own = (
        (lambda rng, p: p) if what == "missing" else (lambda rng, p: (rng.random(len(p)) < p) * 1.0)
    )
    make = sampled(lambda rng: rng.beta(0.7, 0.3, 100), own, 0.05 if what == "missing" else 0.0)
    blocked, _ = simulate(1500, 5, make, {"a": policy()})
    assert blocked <= 0.05


@pytest.mark.parametrize(
    "how", ["half of the prompts", "a tenth of the prompts", "all of the prompts"]
)
def test_a_drop_of_the_margin_is_rarely_shipped(how):
    """However five points are lost, one slice is cleared in at most 5 % of the runs."""

    def own(rng, p):
        if how.startswith("half"):
            return lowered(p, 0.05, rng)
        return p * (0.65 / 0.7 if how.startswith("all") else rng.random(len(p)) >= 0.05 / 0.7)

    _, shipped = simulate(
        2000, 6, sampled(lambda rng: rng.beta(0.7, 0.3, 100), own), {"a": policy(0.05)}
    )
    assert shipped <= 0.05 + 2 * 0.005, "two standard errors of 2,000 runs"


# ---- intervals -----------------------------------------------------------------------------------------------


def binary_pairs(rng, runs, n, rate, cluster):
    """Paired binary differences [runs, n] whose true mean is 0: both models' pass rates vary together, and items of a
    cluster share the outcome of half of their draws."""
    p = np.repeat(
        np.clip(rng.normal(rate, 0.08, (runs, n // cluster)), 0.01, 0.99), cluster, axis=1
    )
    u, v = (
        np.where(
            rng.random((runs, n)) < 0.5,
            np.repeat(rng.random((runs, n // cluster)), cluster, axis=1),
            rng.random((runs, n)),
        )
        for _ in range(2)
    )
    return (u < p) * 1.0 - (v < p)


@pytest.mark.parametrize("cluster", [1, 5])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_coverage_at_fixed_n(rate, cluster):
    rng = np.random.default_rng(8)
    for n in (30, 100, 300):
        groups, hits = np.arange(n) // cluster, []
        for d in binary_pairs(rng, 800, n, rate, cluster):
            got = describe(paired(d, groups), policy(once=True), 2, 1, False)
            hits.append(got["low"] <= 0 <= got["high"])
        assert np.mean(hits) >= 0.93, f"{n} prompts at {rate}"


def test_coverage_after_optional_stopping():
    """The interval at whichever look the run ended; one for a single look covers 87 % of drops of 2 points."""
    for drop in (0.0, 0.02, 0.04, 0.1):
        rng, hits = np.random.default_rng(9), []
        make = sampled(
            lambda rng: rng.beta(0.7, 0.3, 100), lambda rng, p, drop=drop: lowered(p, drop, rng)
        )
        for _ in range(700):
            found, _, failed, _ = sequential({"a": policy()}, LOOKS, make(rng))
            got = describe(found["a"], policy(), 2, 4, bool(failed))
            hits.append(got["low"] <= -drop <= got["high"])
        assert np.mean(hits) >= 0.93, drop


# ---- win-rate ------------------------------------------------------------------------------------------------


def judged(rng, n, theta, phi, cluster=1):
    """Judge's probabilities around 1 / (1 + e^-(theta + phi tanh(gap / sd))), Beta-distributed with concentration 1.5;
    clusters share half of what is drawn -> arguments of win_rate."""
    lengths, rivals = rng.gamma(4, 50, n), rng.gamma(4, 45, n)
    gap = lengths - rivals
    q = expit(theta + phi * np.tanh(gap / gap.std()))
    shared = np.repeat(rng.random(n // cluster), cluster)
    u = np.where(rng.random(n) < 0.5, shared, rng.random(n)) if cluster > 1 else shared
    return beta_dist.ppf(u, 1.5 * q, 1.5 * (1 - q)), lengths, rivals, np.arange(n) // cluster


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
        got.append(win_rate(*judged(rng, n, 0.5, 1.0, cluster)))
    assert np.mean([one["length_controlled"] for one in got]) == pytest.approx(expit(0.5), abs=0.01)
    assert 0.93 <= np.mean([one["lc_low"] <= expit(0.5) <= one["lc_high"] for one in got]) <= 0.98


def test_the_raw_win_rate_covers_its_truth():
    rng = np.random.default_rng(12)
    for n, cluster in ((50, 1), (200, 1), (200, 4)):
        hits = [
            (got := win_rate(*judged(rng, n, 0.7, 0.0, cluster)))["low"]
            <= expit(0.7)
            <= got["high"]
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


# ---- budgets -------------------------------------------------------------------------------------------------


def test_ratio_of():
    got = ratio_of([20.0, 80.0, 90.0] * 4, [10.0, 10.0, 10.0] * 4, np.arange(12))
    logs = np.log([2, 8, 9] * 4)
    half = student.ppf(0.975, 11) * logs.std(ddof=1) / math.sqrt(12)
    assert got == pytest.approx([math.exp(logs.mean() + s * half) for s in (0, -1, 1)])
    assert all(math.isfinite(x) for x in ratio_of([2.0], [1.0], np.array([0])))


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
        assert budgets(some, NO_LIMIT)["tokens"]["candidate"] == 30.0, "no logarithm of nothing"


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
    for name, edge in (("tokens", low["tokens"]["low"]), ("truncated", low["truncated"]["low"])):
        for nudge, fails in ((-1e-9, True), (1e-9, False)):
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
    assert budgets(rows + [item(5)], NO_LIMIT) == NO_LIMIT
    alone = budgets(
        [row | {"cluster": 0} for row in rows * 2], NO_LIMIT | {"tokens": 1.1, "truncated": 0.1}
    )
    assert plain(alone) and alone["tokens"]["fail"] is False and alone["truncated"]["high"] == 1.0


def test_the_share_of_blocks_has_a_wilson_interval():
    got = repeat(40, 3, assumed({"a": 40}), {}, {"a": policy()}, LOOKS, {"a": 0.08})
    scipys = binomtest(round(40 * got["BLOCK"]), 40).proportion_ci(0.95, "wilson")
    assert plain(got) and 0 < got["BLOCK"] < 1
    assert (got["block_low"], got["block_high"]) == pytest.approx(
        (scipys.low, scipys.high), abs=1e-12
    )


def test_differences_and_number():
    assert number(["b", "a", "b", 3, "a"]).tolist() == [0, 1, 0, 2, 1] and number([]).tolist() == []
    d, groups = differences(
        [item(n, candidate=0.25 * n, baseline=0.5, cluster=n % 2) for n in range(4)]
    )
    assert d.tolist() == [-0.5, -0.25, 0.0, 0.25] and groups.tolist() == [0, 1, 0, 1]


# ---- how often it is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "rates"), [(2, (0.7, 1.0)), (4, (0.7, 1.0)), (8, (0.4, 3.0)), (32, (0.7, 0.4))]
)
def test_worlds_that_were_measured_spread_like_the_truth(m, rates):
    """Spread of a slice's difference between two runs of one model, of new prompts each time, 4 answers each: drawn
    from the true rates and from a world that only m answers of 1,500 prompts have shown."""
    rng, n = np.random.default_rng(18), 1500
    true = assumed({"a": n}, rates)
    right = rng.binomial(m, true(rng)["a"][0]).astype(float)
    learned = measured({"a": (right, np.full(n, m), np.arange(n))})

    def spread(world):
        drawn = (world(rng)["a"][0] for _ in range(300))
        return np.std([np.mean(rng.binomial(4, p) / 4 - rng.binomial(8, p) / 8) for p in drawn])

    assert spread(learned) == pytest.approx(spread(true), rel=0.15)
    noise = [
        np.mean([np.mean(p * (1 - p)) for p in (world(rng)["a"][0] for _ in range(40))])
        for world in (learned, true)
    ]
    assert noise[0] == pytest.approx(noise[1], rel=0.1)


def test_measured_draws_whole_clusters():
    groups = np.array([0, 1, 0, 2, 2, 2])
    right, tried = np.array([0.0, 500, 0, 1000, 1000, 1000]), np.full(6, 1000)
    world, drawn = measured({"a": (right, tried, groups)}), set()
    for seed in range(20):
        rates, own = world(np.random.default_rng(seed))["a"]
        drawn.add(len(rates))
        sizes = np.bincount(own)
        assert len(sizes) == 3 and set(sizes) <= {1, 2, 3}
        for g, size in enumerate(sizes):
            assert rates[own == g] == pytest.approx({2: 0.0, 1: 0.5, 3: 1.0}[size], abs=0.1)
    assert drawn >= {3, 9}, "with replacement"


def test_measured_without_a_spread():
    """All right, all wrong, one answer each: rates stay between 0 and 1 and differ."""
    for right, m in ((4.0, 4), (0.0, 4), (1.0, 1)):
        rates, _ = measured({"a": (np.full(40, right), np.full(40, m), np.arange(40))})(
            np.random.default_rng(1)
        )["a"]
        assert np.all((rates >= 0) & (rates <= 1)) and abs(rates.mean() - right / m) < 0.05


def test_lowered_falls_by_so_many_points():
    rng = np.random.default_rng(19)
    for n in (1, 7, 100):
        rates = rng.uniform(0.6, 1, n)
        lower = lowered(rates, 0.1, rng)
        assert (rates - lower).mean() == pytest.approx(0.1) and np.all(lower >= 0)
        assert sum(lower < rates) == (n + 1) // 2
    rates = np.full(10, 0.1)
    assert (
        lowered(rates, 0.2, rng).mean() == pytest.approx(0.05)
        and not lowered(np.zeros(4), 0.1, rng).any()
    )


def test_prompts_needed_clear_as_often_as_said():
    """k answers of each prompt at one of four looks; None: what is seen once, as 1, 0 or -1."""
    for profile, k in (
        ("hobby", 2),
        ("hobby", 4),
        ("release", 4),
        ("release", 16),
        ("hobby", None),
        ("release", None),
    ):
        own = PROFILES[profile]
        one = policy(own["margin"], own["min_n"])
        n, flips = prompts_needed(one, k, 4), decision.DISCORDANT / 2
        rng, hits = np.random.default_rng(20), []
        for _ in range(1500):
            p = rng.beta(0.7, 0.3, n)
            d = (
                rng.choice((-1.0, 0.0, 1.0), n, p=(flips, 1 - 2 * flips, flips))
                if k is None
                else (rng.binomial(k, p) / k - rng.binomial(2 * k, p) / (2 * k))
            )
            hits.append(clears(paired(d, np.arange(n)), one, ALPHA / (4 if k else 1)))
        assert 0.93 <= np.mean(hits) <= 0.975, (profile, k, n)


def rows_of(rng, slices=("a", "b"), n=60):
    """Rows of items.jsonl of an unchanged model: two verified slices, a judged and a multiple-choice one."""
    rows = []
    for name in slices:
        for i, p in enumerate(rng.beta(0.7, 0.3, n)):
            rows.append(
                item(
                    f"{name}{i}",
                    slice=name,
                    candidate=rng.binomial(4, p) / 4,
                    cluster=f"{name}{i}",
                    baseline=rng.binomial(8, p) / 8,
                    answers={"candidate": 4, "baseline": 8},
                )
            )
    rows += [
        item(
            f"j{i}",
            "judge",
            slice="j",
            cluster=f"j{i}",
            candidate=float(np.mean(rng.beta(0.5, 0.5, 4))),
            baseline=0.5,
            answers={"candidate": 4, "baseline": 8},
        )
        for i in range(n)
    ]
    return rows + [
        item(
            f"m{i}",
            "mc",
            slice="m",
            cluster=f"m{i}",
            candidate=float(rng.random() < 0.6),
            baseline=float(rng.random() < 0.6),
        )
        for i in range(n)
    ]


def test_known_rates_of_a_gates_own_answers():
    rows = rows_of(np.random.default_rng(21))
    policies = {name: policy(once=name == "m") for name in "abjm"} | {"gone": policy()}
    rates = known_rates(rows, policies, LOOKS, 300)
    assert json.loads(json.dumps(rates))["same"] == rates["same"]
    assert (
        rates["same"]["runs"] == 300
        and rates["same"]["BLOCK"] <= 0.05
        and rates["placebo"]["BLOCK"] <= 0.05
    )
    shares = [rates["same"][verdict] for verdict in ("SHIP", "BLOCK", "NOT ENOUGH DATA")]
    assert (
        sum(shares) == pytest.approx(1)
        and rates["same"]["block_low"] <= shares[1] <= rates["same"]["block_high"]
    )
    assert set(rates["caught"]) == {*"abjm"}
    for name in "abj":
        caught = [*rates["caught"][name].values()]
        assert caught[-1] >= 0.9 and caught[0] <= 0.3, name
    everywhere = rates["everywhere"]
    assert (
        everywhere[0.20]["BLOCK"] == 1.0 and everywhere[0.03]["BLOCK"] < everywhere[0.10]["BLOCK"]
    )
    assert [len(line) for line in rate_lines(rates)] and any(
        "in j" in line for line in rate_lines(rates)
    )
    assert known_rates(rows, policies, LOOKS, 300) == rates, "seeded"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision, "error_rates", lambda world, fixed, *given: (world, fixed))
        world, fixed = known_rates(rows, policies, LOOKS, 300)
    judged, chosen = (
        differences([row for row in rows if row["slice"] == name])[0] for name in "jm"
    )
    assert np.allclose(fixed["j"][0], 2 * judged), (
        "one answer spreads twice as much as the mean of four"
    )
    assert np.allclose(fixed["m"][0], chosen) and {*world(np.random.default_rng(1))} == {*"ab"}


def test_fixed_slices_grow_surer_as_real_ones_do():
    """The differences that redraw makes of a judged slice spread like d / sqrt(k), keep from look to look what they
    had, and stay as they are where there is one look."""
    drawn = {}

    def watch(policies, looks, draw):
        for k in looks:
            for name, (d, _) in draw([*policies], k).items():
                drawn.setdefault((name, k), []).append(d)
        return {name: (0.0, 0.1, 50) for name in policies}, {}, [], False

    fixed = {
        "j": (np.full(50, 0.4), np.arange(50)),
        "m": (np.tile([1.0, 0.0], 25), np.arange(50) // 2),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision, "sequential", watch)
        repeat(200, 1, lambda rng: {}, fixed, {"j": policy(), "m": policy(once=True)}, LOOKS, {})
        assert np.std(drawn["j", 4]) == pytest.approx(0.2, rel=0.05)
        assert np.std(drawn["j", 16]) == pytest.approx(0.1, rel=0.05)
        assert np.corrcoef(np.ravel(drawn["j", 4]), np.ravel(drawn["j", 16]))[
            0, 1
        ] == pytest.approx(0.5, abs=0.05)
        once = np.array(drawn["m", 2])
        assert np.array_equal(once, drawn["m", 16]) and set(np.unique(once)) == {-1.0, 0.0, 1.0}
        drawn.clear()
        repeat(
            200,
            1,
            lambda rng: {},
            fixed,
            {"j": policy(), "m": policy(once=True)},
            LOOKS,
            {"j": 0.1},
        )
        assert np.mean(drawn["j", 16]) == pytest.approx(-0.1, abs=0.01)
        assert np.mean(drawn["m", 16]) == pytest.approx(0, abs=0.03)


def test_placebo_moves_prompts_between_slices():
    """A world of one easy and one hard slice: both become mixed, keep their sizes, and block no more."""

    def world(rng):
        return {"easy": (np.ones(40), np.arange(40) // 2), "hard": (np.zeros(60), np.arange(60))}

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decision, "lowered", lambda p, points, rng: seen.append(p) or p)
        got = repeat(
            5,
            1,
            world,
            {},
            {name: policy() for name in ("easy", "hard")},
            LOOKS,
            {"easy": 0.1, "hard": 0.1},
            placebo=True,
        )
    assert (
        [len(p) for p in seen] == [40, 60] * 5 and 0.1 < np.mean(seen[0]) < 0.9 and got["runs"] == 5
    )
    assert sum(seen[0]) + sum(seen[1]) == 40


def test_error_rates_of_an_assumed_world():
    rates = error_rates(*world_of({"a": 100, "b": 100})[:4], 200)
    assert rates["same"]["SHIP"] >= 0.9 and rates["caught"]["a"][0.20] == 1.0
    assert rates["caught"]["a"][0.03] < rates["caught"]["a"][0.10] and set(rates["everywhere"]) == {
        0.03,
        0.05,
        0.10,
        0.20,
    }


def test_without_a_hard_slice_nothing_ships():
    """As the gate says: nothing was compared that could block."""
    soft = {"margin": 0.1, "min_n": 30, "hard": False, "once": False}

    def ships(policies):
        return decision.repeat(
            20, 0, assumed(dict.fromkeys(policies, 400)), {}, policies, (2, 4), {}
        )["SHIP"]

    assert ships({}) == ships({"a": soft}) == 0 < ships({"a": soft | {"hard": True}})
