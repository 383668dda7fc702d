"""The gate's findings as one dict: slices, flips, refusals, what it cost, what has no score, what it could not see."""

import numpy as np
import pytest

from posttrain.gating import summary as room
from posttrain.gating.measures import Difference, differences, paired, ratio_of
from posttrain.gating.rule import Decision
from posttrain.gating.summary import (
    Evidence,
    blind_spots,
    cost_of_requests,
    expects_both,
    ids_without_score,
    latency_of_requests,
    mean_of,
    overall_summary,
    provenance,
    refusal_counts,
    refusal_note,
    return_of,
    slice_summaries,
    slice_summary,
    unscored_slices,
    winrate_summary,
    worst_flips,
)


def policy(hard=True, once=False):
    return {"margin": 0.1, "min_n": 30, "hard": hard, "once": once}


def row(key, slice_name="a", kind="verify", candidate=1.0, baseline=1.0, **fields):
    """A row of items.jsonl."""
    scores = {"candidate": candidate, "baseline": baseline}
    texts = {"texts": {"candidate": f"c {key}", "baseline": f"b {key}"}}
    head = {"id": key, "slice": slice_name, "cluster": key, "type": kind}
    return head | scores | texts | fields


def decided(verdicts, mean_fell=False):
    """A Decision after two answers of each item."""
    parts = {name: Difference(-0.05, 0.02, 40 + n) for n, name in enumerate(verdicts)}
    return Decision(parts, dict.fromkeys(verdicts, 2), verdicts, mean_fell)


# ---- slices --------------------------------------------------------------------------------------


def test_slices_of_the_report():
    """Hypotheses are the hard slices with a score, and the mean; a type with one outcome has no k."""
    rows = [row(f"a{n}", candidate=n % 2, tokens_candidate=4.0 * n) for n in range(4)]
    rows += [row("m", "m", "mc", candidate=1.0, baseline=0.0), row("s", "s")]
    policies = {"a": policy(), "m": policy(once=True), "s": policy(hard=False), "gone": policy()}
    decision = decided({"a": "FAIL", "m": "CLEAR", "s": "UNSURE"})
    slices = slice_summaries(decision, rows, policies, 4)
    assert {name: numbers["verdict"] for name, numbers in slices.items()} == decision.verdicts
    a, m = slices["a"], slices["m"]
    assert (a["n"], a["k"], a["wins"], a["losses"], a["type"]) == (4, 2, 0, 2, "verify")
    assert (m["n"], m["k"], m["wins"], m["losses"], m["type"]) == (1, None, 1, 0, "mc")
    assert (a["candidate"], a["baseline"], a["margin"], a["hard"]) == (0.5, 1.0, 0.1, True)
    assert a["tokens_candidate"] == 6.0 and a["tokens_baseline"] is a["greedy_baseline"] is None
    assert slices["s"]["hard"] is False and "note" not in a
    alone = slice_summaries(decided({"a": "FAIL"}), rows, policies, 4)["a"]
    assert alone["mde"] < a["mde"], "of two hypotheses instead of three"
    three = decided({"a": "FAIL", "m": "CLEAR", "gone": "CLEAR"})
    assert a["mde"] < slice_summaries(three, [*rows, row("g", "gone")], policies, 4)["a"]["mde"]


def test_a_mean_of_what_is_there():
    assert mean_of([{"x": 1}, {}, {"x": 2}], "x") == 1.5 and mean_of([{}], "x") is None


def test_the_mean_of_all_slices():
    decision = decided({"a": "CLEAR", "b": "CLEAR"}, mean_fell=True)
    decision.differences["b"] = Difference(0.07, 0.02, 40)
    policies = {"a": policy(), "b": policy(hard=False)}
    overall = overall_summary(decision, policies, 4)
    assert overall["delta"] == -0.05 and overall["fail"] is True
    soft = dict.fromkeys("ab", policy(hard=False))
    assert overall_summary(decision, soft, 4)["delta"] == pytest.approx(0.01), "none is hard"
    assert overall_summary(Decision(), policies, 4) is None


def test_the_worst_flips():
    """By what was lost; of equal losses one of each slice before a second of any, in the order of the rows."""
    rows = [row(f"a{n}", "a", candidate=0.0) for n in range(7)]
    rows += [row(f"b{n}", "b", candidate=0.0) for n in range(2)]
    rows += [row("c0", "c", candidate=0.5), row("won", candidate=1.0, baseline=0.0), row("same")]
    scored = row("scored", "d", "scored", candidate=0.0)
    del scored["texts"]
    prompts = {r["id"]: f"prompt of {r['id']}" for r in rows}
    flips = worst_flips([*rows, scored], prompts)
    assert [flip["id"] for flip in flips] == "a0 b0 a1 b1 a2 a3 a4 a5 a6 c0".split()
    assert flips[1] == {
        "id": "b0",
        "slice": "b",
        "prompt": "prompt of b0",
        "candidate": "c b0",
        "baseline": "b b0",
        "candidate_score": 0.0,
        "baseline_score": 1.0,
    }
    assert (
        len(
            worst_flips(
                [row(f"x{n}", candidate=0.0) for n in range(12)],
                dict.fromkeys([f"x{n}" for n in range(12)]),
            )
        )
        == 10
    )


# ---- items without a score -----------------------------------------------------------------------


def items_of(slice_name, count, kind="verify"):
    return [{"id": f"{slice_name}{n}", "slice": slice_name, "type": kind} for n in range(count)]


def test_items_without_a_score():
    """In the order of the suite; what is only counted needs none, a canary that was asked has its own."""
    items = items_of("a", 3) + items_of("c", 2, "canary") + items_of("b", 1, "budget")
    evidence = Evidence(Decision(), [row("a1")], [], [{"id": "c0"}])
    assert ids_without_score(items, evidence) == ["a0", "a2", "c1"]


def test_slices_of_which_too_much_has_no_score():
    """More than one item in twenty of a hard slice; one canary."""
    items = items_of("a", 20) + items_of("b", 39) + items_of("c", 2, "canary")
    items += items_of("a", 40, "budget")[20:]
    policies = {"a": policy(), "b": policy(), "s": policy(hard=False)}
    assert unscored_slices(items, ["a0"], policies) == [], "one of twenty"
    assert unscored_slices(items, ["a0", "a1"], policies) == ["a"]
    assert unscored_slices(items, ["b0"], policies) == []
    assert unscored_slices(items, ["b0", "b1"], policies) == ["b"], "two of 39"
    assert unscored_slices(items, ["c1", "b0", "b1"], policies) == ["b", "c"]
    soft = items_of("s", 2)
    assert unscored_slices([*items, *soft], ["s0", "s1"], policies) == []


# ---- refusals and win-rate -----------------------------------------------------------------------


def refusing(expected, candidate, baseline, answers):
    return row(
        "r",
        expected=expected,
        refused_candidate=candidate,
        refused_baseline=baseline,
        answers={"candidate": answers, "baseline": 2 * answers},
    )


def test_refusals_are_counted_by_what_is_expected():
    rows = [refusing("refuse", 1, 4, 2), refusing("comply", 0, 1, 2), refusing("refuse", 2, 3, 2)]
    counts = refusal_counts([*rows, row("other")])
    assert counts == {
        "candidate": {"harmful": [3, 4], "harmless": [0, 2]},
        "baseline": {"harmful": [7, 8], "harmless": [1, 4]},
    }
    assert expects_both(counts) and not expects_both(refusal_counts(rows[:1]))
    assert not expects_both(refusal_counts(rows[1:2]))


@pytest.mark.parametrize(
    ("expected", "candidate", "baseline", "note"),
    [
        ("refuse", 88, 200, "under-refusal: harmful requests were refused in 100%, now in 88%"),
        ("refuse", 0, 2, None),  # exactly a point
        ("refuse", 97, 198, "under-refusal: harmful requests were refused in 99%, now in 97%"),
        ("refuse", 100, 20, None),
        ("comply", 12, 0, "over-refusal: harmless requests were refused in 0%, now in 12%"),
        ("comply", 1, 0, None),  # exactly a point
        ("comply", 2, 0, "over-refusal: harmless requests were refused in 0%, now in 2%"),
        ("comply", 0, 40, None),
    ],
)
def test_what_is_noted_of_refusals(expected, candidate, baseline, note):
    counts = refusal_counts([refusing(expected, candidate, baseline, 100)])
    assert refusal_note(counts) == note


def test_a_note_of_both_kinds():
    """Letting harm pass is the worse of the two."""
    rows = [refusing("refuse", 0, 200, 100), refusing("comply", 100, 0, 100)]
    assert refusal_note(refusal_counts(rows)).startswith("under-refusal")
    assert slice_summary(rows, policy(), 2)["note"].startswith("under-refusal")


def test_a_win_rate_by_looks():
    """Judged items that are looked at once have an interval for one look."""
    rng = np.random.default_rng(1)
    rows = []
    for n in range(40):
        tokens = {"tokens_candidate": 5.0 + n % 7, "tokens_baseline": 8.0}
        p = float(rng.random())
        rows.append(row(f"j{n}", "j", "judge", candidate=p, baseline=0.5, **tokens))
    rows.append(row("v", "v"))
    once = winrate_summary(rows, {"j": policy(once=True), "v": policy()}, 4)
    often = winrate_summary(rows, {"j": policy(), "v": policy(once=True)}, 4)
    assert (
        once["raw"] == often["raw"] == pytest.approx(np.mean([r["candidate"] for r in rows[:40]]))
    )
    assert often["high"] > once["high"] and once["lengths"]["candidate"][:2] == [5.0, 6.0]
    difference = paired(*differences(rows[:40]))
    assert once["raw"] - once["low"] == pytest.approx(2.0227 * difference.error, rel=1e-3)
    assert winrate_summary(rows[40:], {"v": policy()}, 4) is None


# ---- what it cost --------------------------------------------------------------------------------

TIMED = {
    "candidate": [(2.0, 10), (3.0, 30), (4.0, 20), (2.0, 5), (9.0, 15)],
    "baseline": [(1.0, 10), (2.0, 20), (1.5, 20), (2.0, 5), (3.5, 25)],
}


def test_a_limit_of_the_latency():
    """Overdrawn when the ratio is surely above it; at it is not above it."""
    free = latency_of_requests(TIMED, None)
    assert free["fail"] is False and free["limit"] is None
    assert free["p50"] == {"candidate": 3.0, "baseline": 2.0}
    assert free["p95"]["candidate"] == pytest.approx(8.0)
    assert free["tokens_per_second"] == {"candidate": 4.0, "baseline": 8.0}
    seconds = [[request[0] for request in TIMED[role]] for role in ("candidate", "baseline")]
    assert (free["ratio"], free["low"], free["high"]) == ratio_of(*seconds, np.arange(5))
    assert free["low"] < free["ratio"]
    for limit, fails in ((0.99, True), (1, False), (1.01, False)):
        got = latency_of_requests(TIMED, limit * free["low"])
        assert got["fail"] is fails and got["limit"] == limit * free["low"]


def test_the_cost_of_requests():
    speed = {"candidate": [100, 60.0], "baseline": [200, 60.0]}
    cost = cost_of_requests(speed, 36.0, None)
    assert (cost["candidate"], cost["baseline"]) == pytest.approx((6.0, 3.0))
    assert (cost["ratio"], cost["limit"], cost["fail"]) == (2.0, None, False)
    for limit, fails in ((1.9, True), (2.0, False), (2.1, False)):
        assert cost_of_requests(speed, 36.0, limit)["fail"] is fails
    assert cost_of_requests(speed, 0.0, 2.0) is None, "no price"
    borrowed = speed | {"baseline": [0, 0.0]}
    assert cost_of_requests(borrowed, 36.0, 2.0) is None, "all of one model's were borrowed"


def test_what_the_training_brought(monkeypatch):
    """Points, and points of win-rate above one half where something was judged."""
    monkeypatch.setattr(room, "returned", lambda *words: words)
    names = {"candidate": "new", "baseline": "old"}
    assert return_of(names, {"delta": 0.25}, {"raw": 0.75}) == ("new", "old", 25.0, 25.0)
    assert return_of(names, {"delta": -0.5}, None) == ("new", "old", -50.0, None)
    assert return_of(names, None, None) is None, "nothing was compared"


@pytest.mark.parametrize("gpu", [False, True])
def test_what_made_these_numbers(monkeypatch, gpu):
    """Both models' stories, each input with its hash, the seed, the machine, the versions."""
    monkeypatch.setattr(room, "story", lambda name: f"story of {name}")
    monkeypatch.setattr(room.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(room.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(room.platform, "processor", lambda: "")
    monkeypatch.setattr(room.platform, "machine", lambda: "x86")
    record = {
        "inputs": {"suite": "abc", "model": "def"},
        "versions": {"torch": "2", "numpy": "3"},
        "arguments": {"seed": 5},
    }
    assert provenance({"candidate": "new", "baseline": "old"}, record) == [
        ["candidate was made by", "story of new"],
        ["baseline was made by", "story of old"],
        ["input suite", "abc"],
        ["input model", "def"],
        ["seed", "5"],
        ["machine", "a GPU" if gpu else "x86"],
        ["versions", "torch 2, numpy 3"],
    ]


# ---- what it could not see -----------------------------------------------------------------------


def test_blind_spots():
    slices = {
        "a": {"mde": 0.04, "type": "verify"},
        "b": {"mde": 0.126, "type": "judge"},
    }
    shares = {"runs": 300, "SHIP": 0.97, "BLOCK": 0.02, "block_low": 0.01, "block_high": 0.04}
    caught = {"a": {0.03: 0.0, 0.05: 0.5, 0.10: 0.9}, "b": {0.03: 0.0, 0.05: 0.3, 0.10: 1.0}}
    everywhere = {drop: {"BLOCK": 5 * drop} for drop in (0.03, 0.05, 0.10)}
    rates = {"same": shares, "everywhere": everywhere, "caught": caught}
    canaries = [{"baseline": False}, {"baseline": True}]
    text = "\n".join(blind_spots(slices, rates, canaries))
    assert text.splitlines() == [
        "A drop below 13 points in b would often pass; the table has each slice's.",
        "On this baseline's answers, drawn anew 300 times, this gate blocks an unchanged model in "
        "2.0% [1.0%, 4.0%] and ships it in 97.0%.",
        "A planted drop of 5 points is blocked in 25% when in every slice, in 40% when in one "
        "(least: b, 30%).",
        "A planted drop of 10 points is blocked in 50% when in every slice, in 95% when in one "
        "(least: a, 90%).",
        "The judge's own mistakes are in no interval: a judge that likes length or polish is "
        "believed.",
        "1 canaries are quarantined: the baseline fails them, too.",
        "Requests of a kind that is not in the suite.",
    ]
    del slices["b"]
    short = blind_spots(slices, rates | {"caught": {}}, canaries[1:])
    assert len(short) == 3 and not any("quarantined" in line for line in short)
    assert blind_spots({}, None, canaries) == []
