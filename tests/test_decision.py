"""The gate's statistics: against scipy and by hand, the rule with scripted answers, and its promises by simulation."""

import json
import math
import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binom, binomtest, ttest_rel
from scipy.stats import t as student

import decision
from decision import (ALPHA, BASELINE_DRAWS, PROFILES, assumed, budgets, clears, describe, describe_mean, differences,
                      error_rates, fell, known_rates, low_bound, lowered, measured, number, paired, pool, promises,
                      prompts_needed, rate_lines, ratio_of, repeat, sequential, wilson, win_rate)

LOOKS = (2, 4, 8, 16)


def policy(margin=0.1, min_n=30, hard=True, once=False):
    return {"margin": margin, "min_n": min_n, "hard": hard, "once": once}


def plain(value):
    """Only what JSON knows: dicts, lists, strings, finite floats, ints, bools, None."""
    if isinstance(value, dict):
        return all(isinstance(key, str | float) and plain(one) for key, one in value.items())
    return value is None or isinstance(value, bool | int | str) or isinstance(value, float) and math.isfinite(value)


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
    assert paired(np.zeros(5), np.arange(5)) == (0.0, 1 / 5, 5), "never below what one flipped cluster makes"
    assert paired(np.array([1.0, 0.5]), np.array([0, 0])) == (0.75, math.inf, 1), "one cluster knows no spread"


def test_copies_in_a_cluster_add_no_evidence():
    d = np.random.default_rng(2).normal(0, 1, 40)
    assert paired(np.repeat(d, 7), np.repeat(np.arange(40), 7)) == pytest.approx(paired(d, np.arange(40)))


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
    assert not clears((0.0, 1e-9, 30), policy(), 0.05) and clears((0.0, 1e-9, 31), policy(), 0.05), "rule of three"
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
    assert df == math.floor((9 + 16)**2 / (81 / 49 + 256 / 20)), "Welch-Satterthwaite"
    assert pool({"a": (0.0, 0.02, 30), "b": (0.0, 0.02, 30)})[2] == 58
    assert pool({"a": (-1.0, math.inf, 1), "b": (0.0, 0.02, 30)}) == (-0.5, math.inf, 0)


def test_describe_gives_repeated_intervals():
    found = (-0.02, 0.03, 60)
    for once, level in ((True, 0.975), (False, 1 - 0.05 / 8)):
        got = describe(found, policy(once=once), 9, 4, False)
        assert (got["low"], got["high"]) == pytest.approx([-0.02 + s * student.ppf(level, 59) * 0.03 for s in (-1, 1)])
        assert got["mde"] == pytest.approx(0.03 * (student.ppf(1 - 0.05 / 9 / (1 if once else 4), 59)
                                                   + student.ppf(0.8, 59)))
    assert got["p_drop"] == pytest.approx(student.cdf(-2 / 3, 59)) and got["delta"] == -0.02 and got["clusters"] == 60
    assert (got["low"], got["high"]) > (-1, -1) and describe((0.9, 0.3, 9), policy(), 2, 4, False)["high"] == 1.0
    assert got["verdict"] == "CLEAR" or got["need"]
    assert describe(found, policy(), 9, 4, True)["verdict"] == "FAIL"
    alone = describe((0.5, math.inf, 1), policy(), 2, 4, False)
    assert plain(alone) and (alone["low"], alone["high"], alone["need"]) == (-1.0, 1.0, None)


@pytest.mark.parametrize("found", [(-0.02, 0.05, 60), (0.0, 0.06, 31), (-0.06, 0.02, 90), (0.0, 1 / 12, 12)])
def test_need_decides(found):
    """With that many clusters of the same spread the slice is clear, with 0.6 of them it is not."""
    mean, error, G = found
    need = describe(found, policy(), 9, 4, False)["need"]
    for n, clear in ((need, True), (int(0.6 * need), False)):
        assert clears((mean, error * math.sqrt(G / n), n), policy(), ALPHA / 4) is clear
    assert describe((-0.1, error, G), policy(), 9, 4, False)["need"] is None, "no number of prompts clears a lost margin"
    assert describe((0.0, 0.01, G + 100), policy(), 9, 4, False)["need"] is None


@pytest.mark.parametrize("n", [60, 200])
def test_mde_is_caught_four_times_in_five(n):
    rng = np.random.default_rng(3)
    error = 0.4 / math.sqrt(n)
    mde = describe((0.0, error, n), policy(once=True), 9, 4, False)["mde"]
    caught = [fell(*(found := paired(rng.normal(-mde, 0.4, n), np.arange(n)))[:2], found[2] - 1, ALPHA / 9)
              for _ in range(2000)]
    assert np.mean(caught) == pytest.approx(0.8, abs=0.03)


def test_describe_mean():
    got = describe_mean({"a": (-0.1, 0.03, 50), "b": (0.04, 0.04, 50)}, 4, True)
    df = pool({"a": (-0.1, 0.03, 50), "b": (0.04, 0.04, 50)})[2]
    assert got["low"] == pytest.approx(-0.03 - student.ppf(1 - 0.05 / 8, df) * 0.025) and got["fail"] is True
    assert got["p_drop"] == pytest.approx(student.cdf(-1.2, df)) and got["p_drop"] + got["p_gain"] == 1
    assert plain(describe_mean({"a": (0.5, math.inf, 1)}, 4, False))


# ---- the rule with scripted answers --------------------------------------------------------------------------


def scripted(script):
    """draw() that says what script {slice: {k or None (any): (mean, half spread, n)}} says -> (draw, [(k, slices)]):
    half of d lie above the mean, half below. A slice that is not in the script has no item."""
    asked = []

    def draw(names, k):
        asked.append((k, sorted(names)))
        said = {name: script[name].get(k, script[name].get(None)) for name in names if name in script}
        return {name: (mean + half * (-1.0) ** np.arange(n), np.arange(n)) for name, (mean, half, n) in said.items()}
    return draw, asked


SURE, WIDE = (0.0, 0.05, 100), (0.0, 0.8, 100)  # one clears the margin at once, the other leaves it open


def run(script, looks=LOOKS, **policies):
    draw, asked = scripted(script)
    found, ks, failed, fallen = sequential(policies or {name: policy() for name in script}, looks, draw)
    return {"ks": ks, "failed": failed, "fallen": fallen, "found": found}, asked


def test_all_clear_ends_at_the_first_look():
    got, asked = run({"a": {None: SURE}, "b": {None: SURE}})
    assert asked == [(2, ["a", "b"])] and got["ks"] == {"a": 2, "b": 2} and not got["failed"] and not got["fallen"]
    assert got["found"]["a"] == paired(*scripted({"a": {None: SURE}})[0](["a"], 2)["a"])


def test_clear_slices_are_asked_no_more():
    got, asked = run({"a": {None: SURE}, "b": {2: WIDE, 4: WIDE, None: SURE}})
    assert asked == [(2, ["a", "b"]), (4, ["b"]), (8, ["b"])] and got["ks"] == {"a": 2, "b": 8}


def test_the_last_look_is_the_last():
    got, asked = run({"a": {None: WIDE}})
    assert [k for k, _ in asked] == [2, 4, 8, 16] and (got["failed"], got["fallen"], got["ks"]) == ([], False, {"a": 16})


def test_a_failure_ends_the_run():
    got, asked = run({"a": {None: WIDE}, "b": {2: WIDE, None: (-0.5, 0.05, 100)}})
    assert got["failed"] == ["b"] and asked[-1][0] == 4 and got["ks"] == {"a": 4, "b": 4}


def test_the_level_of_a_failure():
    """ALPHA over three hypotheses (two slices, the mean) and four looks, or over the hypotheses for what is seen once."""
    half, n = 0.4, 65
    error = half * math.sqrt(n / (n - 1)) / math.sqrt(n)
    for once, tests in ((False, 12), (True, 3)):
        edge = student.ppf(0.05 / tests, n - 1) * error
        for nudge, failed in ((-1e-3, ["a"]), (1e-3, [])):
            rows = np.where(np.arange(n) % 2, half, -half)
            rows += edge + nudge - rows.mean()
            both = {"a": rows, "b": np.tile([0.8, -0.8], 33)[:n]}
            got = sequential({"a": policy(once=once), "b": policy()}, LOOKS,
                             lambda names, k, both=both: {name: (both[name], np.arange(n)) for name in names})
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
    thin = (-0.02, 0.14, 100)
    got, asked = run({"a": {2: thin, None: (0.02, 0.02, 100)}, "b": {2: thin, 4: (-0.02, 0.4, 100), None: SURE}})
    assert asked == [(2, ["a", "b"]), (4, ["a", "b"]), (8, ["b"])] and clears(got["found"]["b"], policy(), ALPHA / 4)


def test_soft_slices_neither_fail_nor_count():
    got, asked = run({"a": {None: SURE}, "b": {None: (-0.9, 0.05, 100)}}, a=policy(), b=policy(hard=False))
    assert got["failed"] == [] and not got["fallen"] and asked == [(2, ["a", "b"])]
    got, asked = run({"b": {None: (-0.9, 0.05, 100)}}, b=policy(hard=False))
    assert got["failed"] == [] and not got["fallen"], "nothing is hard"


def test_slices_that_are_seen_once():
    """Level ALPHA, not ALPHA / looks; asked at the first look only."""
    once = (-0.04, 0.3, 100)
    assert clears(paired(*scripted({"a": {None: once}})[0](["a"], 2)["a"]), policy(), ALPHA)
    assert not clears(paired(*scripted({"a": {None: once}})[0](["a"], 2)["a"]), policy(), ALPHA / 4)
    got, asked = run({"a": {None: once}, "b": {2: WIDE, None: (0.08, 0.05, 100)}}, a=policy(once=True), b=policy())
    assert asked == [(2, ["a", "b"]), (4, ["b"])] and got["ks"] == {"a": 2, "b": 4} and not got["failed"]
    got, asked = run({"a": {None: WIDE}}, a=policy(once=True))
    assert asked == [(2, ["a"])], "open, and nothing more to ask"


def test_slices_without_items_break_nothing():
    policies = {name: policy() for name in "abc"}
    got, asked = run({"a": {None: SURE}, "b": {2: WIDE, None: SURE}}, **policies)
    assert asked == [(2, [*"abc"]), (4, ["b"])] and set(got["found"]) == {"a", "b"} and not got["failed"]
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
        return {name: (np.repeat(rng.beta(0.7, 0.3, -(-n // size)), size)[:n], np.arange(n) // size)
                for name, n in sizes.items()}
    return world


@pytest.mark.parametrize("what", ["low rates", "high rates", "even rates", "steep rates", "unequal", "clusters",
                                  "two few"])
def test_an_unchanged_model_is_rarely_blocked(what):
    given = {"low rates": world_of(EIGHT, rates=(0.3, 1.0)), "high rates": world_of(EIGHT, rates=(0.9, 1.0)),
             "even rates": world_of(EIGHT, rates=(0.7, 4.0)), "steep rates": world_of(EIGHT, rates=(0.7, 0.3)),
             "unequal": world_of(UNEQUAL), "two few": world_of({"a": 8, "b": 300}),
             "clusters": (clustered(EIGHT, 5), *world_of(EIGHT)[1:])}[what]
    got = repeat(1000, 7, *given)
    assert got["BLOCK"] <= 0.05, f"{what}: {got}"


def simulate(runs, seed, make, policies):
    """Verdict counts of the rule where make(rng) -> draw(names, k)."""
    rng, failed = np.random.default_rng(seed), 0
    cleared = 0
    for _ in range(runs):
        found, _, bad, fallen = sequential(policies, LOOKS, make(rng))
        failed += bool(bad or fallen)
        cleared += not bad and not fallen and all(clears(found[name], one, ALPHA / (1 if one["once"] else 4))
                                                  for name, one in policies.items())
    return failed / runs, cleared / runs


def sampled(rates, own_rates, missing=0.0):
    """make() for `simulate`: answers of prompts with these pass rates (rng -> [n] each), kept from look to look."""
    def make(rng):
        p, q = rates(rng), own_rates
        q = q(rng, p)
        kept = rng.random(len(p)) >= missing
        own, base, seen = np.zeros(len(p)), np.zeros(len(p)), {}

        def draw(names, k):
            nonlocal own, base
            more = k - seen.get("k", 0)
            own, base = own + rng.binomial(more, q), base + rng.binomial(BASELINE_DRAWS * more, p)
            seen["k"] = k
            d = (own / k - base / k / BASELINE_DRAWS)[kept]
            return {name: (d, np.arange(len(d))) for name in names}
        return draw
    return make


@pytest.mark.parametrize("what", ["missing", "variance"])
def test_neither_missing_items_nor_a_change_of_variance_block(what):
    """5 % of the items lack a score; or each pass rate becomes 0 or 1 with the same mean."""
    own = (lambda rng, p: p) if what == "missing" else (lambda rng, p: (rng.random(len(p)) < p) * 1.0)
    make = sampled(lambda rng: rng.beta(0.7, 0.3, 100), own, 0.05 if what == "missing" else 0.0)
    blocked, _ = simulate(1500, 5, make, {"a": policy()})
    assert blocked <= 0.05


@pytest.mark.parametrize("how", ["half of the prompts", "a tenth of the prompts", "all of the prompts"])
def test_a_drop_of_the_margin_is_rarely_shipped(how):
    """However the ten points are lost, one slice is cleared in at most 5 % of the runs."""
    def own(rng, p):
        if how.startswith("half"):
            return lowered(p, 0.1, rng)
        if how.startswith("all"):
            return p * (0.6 / 0.7)
        return p * (rng.random(len(p)) >= 1 / 7)
    make = sampled(lambda rng: rng.beta(0.7, 0.3, 100), own)
    _, shipped = simulate(2000, 6, make, {"a": policy()})
    assert shipped <= 0.05


# ---- intervals -----------------------------------------------------------------------------------------------


def binary_pairs(rng, runs, n, rate, cluster):
    """Paired binary differences [runs, n] whose true mean is 0: both models' pass rates vary together, and items of a
    cluster share the outcome of half of their draws."""
    p = np.repeat(np.clip(rng.normal(rate, 0.08, (runs, n // cluster)), 0.01, 0.99), cluster, axis=1)
    u, v = (np.where(rng.random((runs, n)) < 0.5, np.repeat(rng.random((runs, n // cluster)), cluster, axis=1),
                     rng.random((runs, n))) for _ in range(2))
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
    """The interval at whichever look the run ended, with drops of 0, 4 and 10 points."""
    for drop in (0.0, 0.04, 0.1):
        rng, hits, state = np.random.default_rng(9), [], {}

        def own(rng, p, drop=drop, state=state):
            q = lowered(p, drop, rng)
            state["truth"] = float(np.mean(q - p))
            return q
        make = sampled(lambda rng: rng.beta(0.7, 0.3, 100), own)
        for _ in range(700):
            draw = make(rng)
            found, _, failed, _ = sequential({"a": policy()}, LOOKS, draw)
            got = describe(found["a"], policy(), 2, 4, bool(failed))
            hits.append(got["low"] <= -drop <= got["high"])
        assert np.mean(hits) >= 0.93, drop
