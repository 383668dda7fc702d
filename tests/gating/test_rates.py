"""How often the rule is wrong: worlds that are drawn, planted drops, and the promises."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from posttrain.cli import BadInput
from posttrain.gating import rates as room
from posttrain.gating.measures import differences, paired
from posttrain.gating.rates import (
    DISCORDANT,
    RATES,
    MeasuredSlice,
    SignedSlice,
    SimulatedGate,
    assumed,
    beta_prior,
    clusters_of,
    error_rates,
    expected_answers,
    known_rates,
    lowered,
    measured,
    power_lines,
    promise_lines,
    prompts_needed,
    rate_lines,
    selftest_lines,
)
from posttrain.gating.rule import ALPHA, PROFILES, Decision, clears

LOOKS = (2, 4, 8, 16)
EIGHT = {f"s{n}": 100 for n in range(8)}
UNEQUAL = dict(zip(EIGHT, (30, 40, 60, 80, 120, 180, 250, 300)))


def policy(margin=0.1, min_n=30, hard=True, once=False):
    return {"margin": margin, "min_n": min_n, "hard": hard, "once": once}


def gate_of(sizes, rates=RATES):
    """A SimulatedGate of an assumed world."""
    return SimulatedGate(assumed(sizes, rates), {}, dict.fromkeys(sizes, policy()), LOOKS)


# ---- promises ------------------------------------------------------------------------------------


def test_the_promises_are_kept():
    lines, kept = promise_lines(300)
    assert kept is True and len(lines) == 6, "\n".join(lines)


def clustered(sizes, size):
    """World in which `size` prompts share their pass rate."""

    def world(rng):
        return {
            name: (np.repeat(rng.beta(0.7, 0.3, -(-n // size)), size)[:n], np.arange(n) // size)
            for name, n in sizes.items()
        }

    return world


def seen_once(sizes):
    """{slice: (d, groups)} of items with one outcome: better, as good or worse."""
    fixed = {}
    for seed, (name, n) in enumerate(sizes.items(), 1):
        outcomes = np.random.default_rng(seed).choice((-1.0, 0.0, 1.0), n)
        fixed[name] = (outcomes, np.arange(n))
    return fixed


GATES = {
    "low rates": gate_of(EIGHT, (0.3, 1.0)),
    "high rates": gate_of(EIGHT, (0.9, 1.0)),
    "even rates": gate_of(EIGHT, (0.7, 4.0)),
    "steep rates": gate_of(EIGHT, (0.7, 0.3)),
    "unequal": gate_of(UNEQUAL),
    "too few": gate_of({"a": 8, "b": 300}),
    "clusters": SimulatedGate(
        clustered(dict.fromkeys(EIGHT, 200), 5), {}, dict.fromkeys(EIGHT, policy()), LOOKS
    ),
    "seen once": SimulatedGate(
        assumed({"a": 100}),
        seen_once(dict.fromkeys("bcd", 80)),
        {"a": policy()} | dict.fromkeys("bcd", policy(once=True)),
        LOOKS,
    ),
}


@pytest.mark.parametrize("what", GATES)
def test_an_unchanged_model_is_rarely_blocked(what):
    shares = GATES[what].repeat(500, 7, {})
    assert shares["mean"] <= shares["BLOCK"] <= 0.05, f"{what}: {shares}"


@pytest.mark.parametrize("slices", ["a", "abc"])
def test_slices_that_are_seen_once_are_blocked_as_often_as_they_may(slices):
    """Neither more nor less: each at ALPHA / (slices + 1), for there is one look. The mean, tested at a quarter of that,
    adds little."""
    fixed = {}
    for seed, name in enumerate(slices):
        fixed[name] = (np.random.default_rng(seed).normal(0, 0.3, 100), np.arange(100))
    gate = SimulatedGate(lambda rng: {}, fixed, dict.fromkeys(fixed, policy(once=True)), LOOKS)
    shares = gate.repeat(4000, 1, {})
    least = 0.05 * len(slices) / (len(slices) + 1)
    assert 0.75 * least <= shares["BLOCK"] - shares["mean"] <= 1.25 * least
    assert shares["BLOCK"] <= 0.05
    assert shares["answers"] == 0, "none is sampled"


def test_the_share_of_blocks_has_a_wilson_interval():
    shares = gate_of({"a": 40}).repeat(40, 3, {"a": 0.08})
    scipys = binomtest(round(40 * shares["BLOCK"]), 40).proportion_ci(0.95, "wilson")
    assert json.dumps(shares, allow_nan=False) and 0 < shares["BLOCK"] < 1
    assert (shares["block_low"], shares["block_high"]) == (scipys.low, scipys.high)


def test_without_a_hard_slice_nothing_ships():
    """As the gate says: nothing was compared that could block."""

    def ships(policies):
        world = assumed(dict.fromkeys(policies, 400))
        return SimulatedGate(world, {}, policies, (2, 4)).repeat(20, 0, {})["SHIP"]

    assert ships({}) == ships({"a": policy(hard=False)}) == 0 < ships({"a": policy()})


def test_what_blocked_is_told():
    """By the mean, where no slice failed; the answers are those of the candidate."""
    everywhere = gate_of(EIGHT).repeat(100, 1, dict.fromkeys(EIGHT, 0.03))
    assert 0.3 < everywhere["mean"] <= everywhere["BLOCK"]
    total = gate_of({"a": 100}).repeat(100, 1, {"a": 0.5})
    assert total["BLOCK"] == 1.0 and total["mean"] == 0.0 and total["answers"] == 200


def test_expected_answers():
    sizes = {"a": 100, "b": 50}
    policies = dict.fromkeys("abc", policy())
    expected = expected_answers(sizes, policies, LOOKS)
    assert 300 <= expected < 2400
    assert expected == gate_of(sizes).repeat(100, 0, {})["answers"]
    assert expected_answers({}, policies, LOOKS) == 0


# ---- worlds --------------------------------------------------------------------------------------


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
        drawn = (world(rng)["a"][0] for _ in range(200))
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


def drawn_plainly(measured_slice, right, tried, groups, rng):
    """What MeasuredSlice.draw is, cluster by cluster."""
    members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
    chosen = rng.integers(len(members), size=len(members))
    items = np.concatenate([members[g] for g in chosen])
    sizes = [len(members[g]) for g in chosen]
    a, b = beta_prior(right, tried)
    return rng.beta(a + right[items], b + (tried - right)[items]), np.repeat(
        np.arange(len(chosen)), sizes
    )


@pytest.mark.parametrize("what", ["each its own", "clusters", "one cluster"])
def test_a_fast_draw_is_the_plain_one(what):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 60))
        groups = {
            "each its own": np.arange(n),
            "clusters": np.unique(rng.integers(0, n, n), return_inverse=True)[1],
            "one cluster": np.zeros(n, int),
        }[what]
        tried = rng.integers(1, 9, n)
        right = np.floor(tried * rng.random(n))
        fast = MeasuredSlice(right, tried, groups)
        for again in range(2):
            columns = fast.draw(np.random.default_rng([seed, again]))
            plain = drawn_plainly(fast, right, tried, groups, np.random.default_rng([seed, again]))
            assert all(np.array_equal(*pair) for pair in zip(columns, plain))


def test_measured_without_a_spread():
    """All right, all wrong, one answer each: rates stay between 0 and 1 and differ."""
    for right, m in ((4.0, 4), (0.0, 4), (1.0, 1)):
        world = measured({"a": (np.full(40, right), np.full(40, m), np.arange(40))})
        rates, _ = world(np.random.default_rng(1))["a"]
        assert np.all((rates >= 0) & (rates <= 1)) and abs(rates.mean() - right / m) < 0.05


def test_the_prior_of_a_slice():
    """All right: half a prompt that was not; concentrations from 0.05 to 1000; one answer each: 1 is assumed."""
    four = np.full(40, 4.0)
    a, b = beta_prior(four, four)
    assert b / (a + b) == pytest.approx(0.5 / 40) and a + b == pytest.approx(999)
    steep = beta_prior(np.tile([0.0, 4.0], 20), four)
    assert sum(steep) == pytest.approx(0.05), "each prompt always or never"
    once = beta_prior(np.tile([0.0, 1.0], 20), np.ones(40))
    assert sum(once) == pytest.approx(1.0) and once[0] == pytest.approx(once[1])


def test_lowered_falls_by_so_many_points():
    rng = np.random.default_rng(19)
    for n in (1, 7, 100):
        rates = rng.uniform(0.6, 1, n)
        lower = lowered(rates, 0.1, rng)
        assert (rates - lower).mean() == pytest.approx(0.1) and np.all(lower >= 0)
        assert sum(lower < rates) == (n + 1) // 2
    rates = np.full(10, 0.1)
    assert lowered(rates, 0.2, rng).mean() == pytest.approx(0.05)
    assert not lowered(np.zeros(4), 0.1, rng).any()


def watched(monkeypatch, watch):
    """The rule replaced by one that only looks."""

    def sequential(policies, looks, draw):
        for k in looks:
            for name, (d, _) in draw([*policies], k).items():
                watch(name, k, d)
        return Decision(verdicts=dict.fromkeys(policies, "UNSURE"))

    monkeypatch.setattr(room, "sequential", sequential)


def test_fixed_slices_grow_surer_as_real_ones_do(monkeypatch):
    """The differences that are drawn of a judged slice spread like d / sqrt(k), keep from look to look what they had,
    and stay as they are where there is one look."""
    drawn = {}
    watched(monkeypatch, lambda name, k, d: drawn.setdefault((name, k), []).append(d))
    fixed = {
        "j": (np.full(50, 0.4), np.arange(50)),
        "m": (np.tile([1.0, 0.0], 25), np.arange(50) // 2),
    }
    policies = {"j": policy(), "m": policy(once=True)}
    gate = SimulatedGate(lambda rng: {}, fixed, policies, LOOKS)
    gate.repeat(200, 1, {})
    assert np.std(drawn["j", 4]) == pytest.approx(0.2, rel=0.05)
    assert np.std(drawn["j", 16]) == pytest.approx(0.1, rel=0.05)
    kept = np.corrcoef(np.ravel(drawn["j", 4]), np.ravel(drawn["j", 16]))[0, 1]
    assert kept == pytest.approx(0.5, abs=0.05)
    once = np.array(drawn["m", 2])
    assert np.array_equal(once, drawn["m", 16]) and set(np.unique(once)) == {-1.0, 0.0, 1.0}
    drawn.clear()
    gate.repeat(200, 1, {"j": 0.1})
    assert np.mean(drawn["j", 16]) == pytest.approx(-0.1, abs=0.01)
    assert np.mean(drawn["m", 16]) == pytest.approx(0, abs=0.03)


def test_a_drop_of_a_fixed_slice_is_on_half_of_its_items():
    """Twice as large there; no difference of shares is beyond one."""
    for n, hit in ((8, 4), (7, 4)):
        drawn = SignedSlice(np.zeros(n), np.arange(n), once=True)
        drawn.lose(0.1, np.random.default_rng(3))
        assert sorted(drawn.lost) == pytest.approx([0.0] * (n - hit) + [0.2] * hit)
    wide = SignedSlice(np.full(40, 2.0), np.arange(40), once=True)
    assert {*wide.draw(2, np.random.default_rng(4))[0]} == {-1.0, 1.0}
    whole = SignedSlice(np.ones(40), np.arange(40), once=True)
    whole.lose(0.25, np.random.default_rng(5))
    assert {*whole.draw(2, np.random.default_rng(6))[0]} == {-1.0, 0.5, 1.0}


def test_the_sign_of_a_cluster_is_one():
    d, _ = SignedSlice(np.ones(40), np.arange(40) // 4, once=True).draw(8, np.random.default_rng(2))
    assert set(d) == {-1.0, 1.0} and all(len(set(d[n : n + 4])) == 1 for n in range(0, 40, 4))


def test_placebo_moves_prompts_between_slices(monkeypatch):
    """A world of one easy and one hard slice: both become mixed, keep their sizes, and block no more."""

    def world(rng):
        return {"easy": (np.ones(40), np.arange(40) // 2), "hard": (np.zeros(60), np.arange(60))}

    seen = []
    monkeypatch.setattr(room, "lowered", lambda p, points, rng: seen.append(p) or p)
    gate = SimulatedGate(world, {}, dict.fromkeys(("easy", "hard"), policy()), LOOKS)
    shares = gate.repeat(5, 1, {"easy": 0.1, "hard": 0.1}, placebo=True)
    assert [len(p) for p in seen] == [40, 60] * 5 and 0.1 < np.mean(seen[0]) < 0.9
    assert shares["runs"] == 5 and sum(seen[0]) + sum(seen[1]) == 40


# ---- how often it is wrong -----------------------------------------------------------------------


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
        own = policy(PROFILES[profile]["margin"], PROFILES[profile]["min_n"])
        n, flips = prompts_needed(own, k, 4), DISCORDANT / 2
        rng, hits = np.random.default_rng(20), []
        for _ in range(1500):
            if k is None:
                d = rng.choice((-1.0, 0.0, 1.0), n, p=(flips, 1 - 2 * flips, flips))
            else:
                p = rng.beta(0.7, 0.3, n)
                d = rng.binomial(k, p) / k - rng.binomial(2 * k, p) / (2 * k)
            hits.append(clears(paired(d, np.arange(n)), own, ALPHA / (4 if k else 1)))
        assert 0.93 <= np.mean(hits) <= 0.975, (profile, k, n)


def item(key, slice_name, kind="verify", **fields):
    return {"id": key, "slice": slice_name, "cluster": key, "type": kind, **fields}


def rows_of(rng, slices=("a", "b"), n=60):
    """Rows of items.jsonl of an unchanged model: two verified slices, a judged and a multiple-choice one."""
    answers = {"candidate": 4, "baseline": 8}
    rows = []
    for name in slices:
        for i, p in enumerate(rng.beta(0.7, 0.3, n)):
            scores = {"candidate": rng.binomial(4, p) / 4, "baseline": rng.binomial(8, p) / 8}
            rows.append(item(f"{name}{i}", name, answers=answers, **scores))
    for i in range(n):
        scores = {"candidate": float(np.mean(rng.beta(0.5, 0.5, 4))), "baseline": 0.5}
        rows.append(item(f"j{i}", "j", "judge", answers=answers, **scores))
    for i in range(n):
        scores = {role: float(rng.random() < 0.6) for role in ("candidate", "baseline")}
        rows.append(item(f"m{i}", "m", "mc", **scores))
    return rows


POLICIES = {name: policy(once=name == "m") for name in "abjm"} | {"gone": policy()}


def test_known_rates_of_a_gates_own_answers():
    rows = rows_of(np.random.default_rng(21))
    rates = known_rates(rows, POLICIES, LOOKS, 200)
    assert json.loads(json.dumps(rates))["same"] == rates["same"]
    same = rates["same"]
    assert same["runs"] == 200 and same["BLOCK"] <= 0.05 and rates["placebo"]["BLOCK"] <= 0.05
    shares = [same[verdict] for verdict in ("SHIP", "BLOCK", "NOT ENOUGH DATA")]
    assert sum(shares) == pytest.approx(1)
    assert same["block_low"] <= shares[1] <= same["block_high"]
    assert set(rates["caught"]) == {*"abjm"}
    for name in "abj":
        caught = [*rates["caught"][name].values()]
        assert caught[-1] >= 0.9 and caught[0] <= 0.3, name
    everywhere = rates["everywhere"]
    assert everywhere[0.20]["BLOCK"] == 1.0
    assert everywhere[0.03]["BLOCK"] < everywhere[0.10]["BLOCK"]
    assert everywhere[0.03]["runs"] == 40, "a fifth"
    assert any("in j" in line for line in rate_lines(rates))


def test_known_rates_are_seeded():
    """Also where fewer drops are planted, as in a gate, which names two of them."""
    rows = rows_of(np.random.default_rng(21))
    rates = known_rates(rows, POLICIES, LOOKS, 10)
    assert rates == known_rates(rows, POLICIES, LOOKS, 10)
    assert rates["everywhere"][0.05]["runs"] == 20, "a fifth, but never fewer"
    fewer = known_rates(rows, POLICIES, LOOKS, 10, drops=(0.05, 0.20))
    assert {*fewer["everywhere"]} == {*fewer["caught"]["a"]} == {0.05, 0.20}
    assert all(rates["everywhere"][drop] == value for drop, value in fewer["everywhere"].items())


def test_what_known_rates_draws_from(monkeypatch):
    rows = rows_of(np.random.default_rng(21))
    monkeypatch.setattr(room, "error_rates", lambda gate, runs, drops: gate)
    gate = known_rates(rows, POLICIES, LOOKS, 300)
    judged, chosen = (
        differences([row for row in rows if row["slice"] == name])[0] for name in "jm"
    )
    assert np.allclose(gate.fixed["j"][0], 2 * judged), (
        "one answer spreads twice as much as the mean of four"
    )
    assert np.allclose(gate.fixed["m"][0], chosen)
    assert {*gate.world(np.random.default_rng(1))} == {*"ab"} and {*gate.policies} == {*"abjm"}
    greedy = {name: policy(once=True) for name in "abjm"}
    gate = known_rates(rows, greedy, LOOKS, 300)
    assert {*gate.fixed} == {*"abjm"} and np.allclose(gate.fixed["j"][0], judged), (
        "seen once: as it is"
    )


def test_error_rates_of_an_assumed_world():
    rates = error_rates(gate_of({"a": 100, "b": 100}), 150)
    assert rates["same"]["SHIP"] >= 0.9 and rates["caught"]["a"][0.20] == 1.0
    assert rates["caught"]["a"][0.03] < rates["caught"]["a"][0.10]
    assert set(rates["everywhere"]) == {0.03, 0.05, 0.10, 0.20}


class WatchedGate:
    """Only notes what it is asked."""

    policies = {"a": policy(), "b": policy(), "soft": policy(hard=False)}

    def __init__(self):
        self.asked = []

    def repeat(self, runs, seed, drops, placebo=False):
        self.asked.append((runs, seed, drops, placebo))
        return {"BLOCK": len(self.asked)}


def test_what_error_rates_asks():
    """Hard slices alone lose; each question has draws of its own, the same for each drop."""
    gate = WatchedGate()
    rates = error_rates(gate, 150, drops=(0.1, 0.2), seed=7)
    assert gate.asked == [
        (30, 10, {"a": 0.1}, False),
        (30, 10, {"a": 0.2}, False),
        (30, 10, {"b": 0.1}, False),
        (30, 10, {"b": 0.2}, False),
        (30, 9, {"a": 0.1, "b": 0.1}, False),
        (30, 9, {"a": 0.2, "b": 0.2}, False),
        (150, 7, {}, False),
        (150, 8, {}, True),
    ]
    assert rates == {
        "same": {"BLOCK": 7},
        "placebo": {"BLOCK": 8},
        "everywhere": {0.1: {"BLOCK": 5}, 0.2: {"BLOCK": 6}},
        "caught": {"a": {0.1: 1, 0.2: 2}, "b": {0.1: 3, 0.2: 4}},
    }


# ---- for people ----------------------------------------------------------------------------------


def test_clusters_are_counted_in_slices():
    items = [item("1", "a"), item("2", "a"), item("3", "b", "mc")]
    items.append(item("4", "a") | {"cluster": "1"})
    items += [item("5", "a", "canary"), item("6", "a", "budget")]
    assert clusters_of(items, {"a": policy(), "b": policy()}) == {"a": 2, "b": 1}


def test_power_lines(monkeypatch):
    """TOO FEW: no look is enough; just enough at the last one is enough."""
    monkeypatch.setattr(room, "POWER_RUNS", 20)
    last = prompts_needed(policy(), 16, 4)
    once = prompts_needed(policy(once=True), None, 4)
    sizes = {"a": last - 1, "b": last, "m": once - 1, "n": once}
    items = []
    for name, size in sizes.items():
        kind = "verify" if name in "ab" else "mc"
        items += [item(f"{name}{n}", name, kind) for n in range(size)]
    policies = {name: policy(once=name in "mn") for name in sizes}
    lines = power_lines(items, policies, LOOKS)
    assert lines[1].startswith(f"a{last - 1:24}  10 points   k 2: 1")
    assert lines[1].endswith(f"k 16: {last}   TOO FEW") and lines[2].endswith(f"k 16: {last}")
    assert lines[3].endswith(f"10 points   one look: {once}   TOO FEW")
    assert lines[4].endswith(f"one look: {once}")
    assert lines[5].startswith("A/A ") and max(map(len, lines)) <= 110


SHARES = {"runs": 400, "SHIP": 0.955, "BLOCK": 0.02, "NOT ENOUGH DATA": 0.025}
SHARES |= {"block_low": 0.01, "block_high": 0.04, "answers": 12345.6, "mean": 0.0}
RATES_BY_HAND = {
    "same": SHARES,
    "placebo": SHARES | {"BLOCK": 0.03},
    "everywhere": {0.05: {"BLOCK": 0.5}, "0.1": {"BLOCK": 1.0}},
    "caught": {"a": {0.05: 0.25, "0.1": 0.75}, "n" * 30: {0.05: 0.0, "0.1": 0.1}},
}


def test_the_lines_of_error_rates():
    """In columns; drops are texts where the rates were read from a file."""
    assert rate_lines(RATES_BY_HAND) == [
        "A/A         SHIP 95.5%, BLOCK 2.0% [1.0%, 4.0%], NOT ENOUGH DATA 2.5% of 400 runs; "
        "12,346 answers",
        "placebo     BLOCK 3.0% [1.0%, 4.0%] when prompts change their slices at random",
        "blocked after a drop of       5 points   10 points",
        "  in every slice                   50%        100%",
        "  in a                             25%         75%",
        "  in " + "n" * 20 + "           0%         10%",
    ]


def test_the_world_of_the_power(monkeypatch):
    """Of items with one outcome every fifth differs, each its own cluster; the others are drawn."""
    seen = []
    monkeypatch.setattr(room, "error_rates", lambda *words: seen.append(words) or RATES_BY_HAND)
    items = [item(f"a{n}", "a") for n in range(3)] + [item(f"m{n}", "m", "mc") for n in range(11)]
    policies = {"a": policy(), "m": policy(once=True)}
    lines = power_lines(items, policies, LOOKS)
    [(gate, runs)] = seen
    d, groups = gate.fixed["m"]
    assert d.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0] * 2 + [1.0] and groups.tolist() == [*range(11)]
    assert {*gate.fixed} == {"m"} and runs == room.POWER_RUNS
    [(name, (rates, _))] = gate.world(np.random.default_rng(1)).items()
    assert (name, len(rates)) == ("a", 3) and gate.policies is policies and gate.looks == LOOKS
    assert lines[3:-1] == rate_lines(RATES_BY_HAND) and lines[-1].startswith("assumed: pass rates")


def test_a_selftest_needs_a_finished_gate(tmp_path):
    for text in (None, "{", "[]", '{"policies": {}}'):
        if text is not None:
            (tmp_path / "report.json").write_text(text)
            (tmp_path / "items.jsonl").write_text("")
        with pytest.raises(BadInput, match="no finished gate"):
            selftest_lines(tmp_path)
    assert not (tmp_path / "selftest.json").exists()


@pytest.mark.parametrize("broken", [0, 1, None])
def test_one_promise_that_is_not_kept_is_told(monkeypatch, broken):
    """Whichever it is; too many wrong blocks break one, too."""
    promise = room.PROMISES[0]
    promises = [promise._replace(what=f"world {n}") for n in range(2)]
    monkeypatch.setattr(room, "PROMISES", promises)

    def promised_world(promise, runs):
        wrong = 0.06 if promise.what == f"world {broken}" else 0.05
        return {promise.verdict: 0.99, "BLOCK": wrong, "answers": runs}

    monkeypatch.setattr(room, "promised_world", promised_world)
    lines, all_kept = promise_lines(7)
    assert all_kept == (broken is None)
    assert ["NOT KEPT" in line for line in lines] == [broken == 0, broken == 1]


@pytest.mark.parametrize(
    ("changes", "rates", "kept"),
    [
        ({}, {"SHIP": 0.95}, True),
        ({}, {"SHIP": 0.9499}, False),
        ({"most_answers": 500}, {}, True),
        ({"most_answers": 499}, {}, False),
        ({"slices": 1, "verdict": "BLOCK"}, {"BLOCK": 0.96}, True),
        ({"slices": 1, "verdict": "BLOCK"}, {"BLOCK": 0.94}, False),
    ],
)
def test_what_keeps_a_promise(monkeypatch, changes, rates, kept):
    """So many runs end as promised, with so few answers; blocks are wrong where nothing is lost."""
    promise = room.PROMISES[0]._replace(**changes)
    monkeypatch.setattr(room, "PROMISES", [promise])
    usual = {"SHIP": 0.97, "BLOCK": 0.03, "answers": 500}
    monkeypatch.setattr(room, "promised_world", lambda promise, runs: usual | rates)
    [line], all_kept = promise_lines(7)
    assert all_kept is kept and line.endswith("NOT KEPT") is not kept
    assert line.startswith(f"hobby    unchanged                 {promise.verdict} ")
    assert "(promised 95%), BLOCK " in line and ", 500 answers of the candidate" in line


def test_promises_are_worded_as_they_are_tested(monkeypatch):
    """So many points off one slice of eight, or off every one; at the profile's margin and looks."""
    gates = []

    class Gate(SimulatedGate):
        def repeat(self, runs, seed, drops):
            gates.append((self, runs, drops))
            return {}

    monkeypatch.setattr(room, "SimulatedGate", Gate)
    for promise in room.PROMISES:
        room.promised_world(promise, 9)
        gate, runs, drops = gates.pop()
        profile = PROFILES[promise.profile]
        assert len(gate.policies) == 8 and gate.looks == profile["looks"] and runs == 9
        own = policy(profile["margin"], profile["min_n"])
        assert all(slice_policy == own for slice_policy in gate.policies.values())
        sizes = [len(rates) for rates, _ in gate.world(np.random.default_rng(1)).values()]
        assert sizes == [promise.prompts] * 8 and {*drops} <= {*gate.policies}
        points, *words = promise.what.split()
        if promise.what == "unchanged":
            assert promise.verdict == "SHIP" and drops == {}
        else:
            assert promise.verdict == "BLOCK" and {*drops.values()} == {int(points) / 100}
            assert len(drops) == {"one slice": 1, "every slice": 8}[" ".join(words[2:])]
        assert 0.95 <= promise.share < 1
