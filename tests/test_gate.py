"""The gate: its statistics against scipy, its error rates in simulated worlds, every verdict, and the whole stage."""

import json
import math
import re

import numpy as np
import pytest
import transformers
from conftest import make_model, make_tokenizer, run_main, save_folder, text_of, write
from scipy.stats import t as student
from scipy.stats import ttest_rel
from test_judge import TEXT, save_judge

import common
import gate
from common import BadInput, prompt_ids, seed_for
from gate import EXIT, compare_slice, compare_slices, decide, paired_difference, read_suite, score_items
from inference import sample
from scoring import judge_answers, read_constitution
from verify import verify

# ---- statistics ----------------------------------------------------------------------------------------------


def world(rng, n, drop=0.0, k=4):
    """Scores of n prompts, k answers each, whose success rates differ; the candidate's lie `drop` below."""
    rates = rng.uniform(0.3, 0.9, n)
    return rng.binomial(k, rates - drop, n) / k, rng.binomial(k, rates, n) / k


@pytest.mark.parametrize("drop", [-0.1, 0.0, 0.1, 0.25])
def test_without_clusters_it_is_the_paired_t_test(drop):
    rng = np.random.default_rng(3)
    for n in (30, 40, 90):
        candidate, baseline = world(rng, n, drop)
        got = compare_slice(list(candidate), list(baseline), range(n), 0.1, 20, 7)
        less, both = ttest_rel(candidate, baseline, alternative="less"), ttest_rel(candidate, baseline)
        interval = both.confidence_interval(0.95)
        assert got["p_drop"] == pytest.approx(less.pvalue, rel=1e-6)
        assert (got["low"], got["high"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert (got["n"], got["candidate"], got["baseline"]) == pytest.approx((n, candidate.mean(), baseline.mean()))
        assert got["delta"] == pytest.approx((candidate - baseline).mean())
        assert (got["wins"], got["losses"]) == ((candidate > baseline).sum(), (candidate < baseline).sum())


def test_clusters_by_hand():
    """Three clusters: their summed deviations are -0.8, 0.2 and 0.6 around the mean 0.3 of six differences."""
    differences, clusters = [0.0, -0.1, 0.4, 0.4, 0.3, 0.8], list("aabbcc")
    mean, error, df, raw = paired_difference(differences, [0.0] * 6, clusters)
    expected = math.sqrt(3 / 2 * (0.7**2 + 0.2**2 + 0.5**2)) / 6
    assert (mean, error, df, raw) == pytest.approx((0.3, expected, 2, expected))
    assert paired_difference([0.5, 0.5], [0.5, 0.5], "ab")[1:] == (0.5, 1, 0), "never below one flipped prompt"
    assert paired_difference([1.0, 0.5], [0.5, 0.5], "aa")[1] == math.inf, "one cluster says nothing about its spread"


def test_copies_in_a_cluster_add_no_evidence():
    rng = np.random.default_rng(5)
    candidate, baseline = world(rng, 30, 0.1)
    once = compare_slice(candidate, baseline, range(30), 0.1, 20, 3)
    four = compare_slice(np.repeat(candidate, 4), np.repeat(baseline, 4), np.repeat(range(30), 4), 0.1, 20, 3)
    alone = compare_slice(np.repeat(candidate, 4), np.repeat(baseline, 4), range(120), 0.1, 20, 3)
    assert four["p_drop"] == pytest.approx(once["p_drop"]) and alone["p_drop"] < once["p_drop"] / 2


def test_a_drop_fails_and_the_same_gain_does_not():
    high, low = [1.0, 0.75] * 15, [0.75, 0.25] * 15
    fell, rose = (compare_slice(*pair, range(30), 0.1, 20, 7) for pair in ((low, high), (high, low)))
    assert fell["verdict"] == "FAIL" and fell["delta"] == -0.375 and fell["p_drop"] < 1e-6 and fell["need"] is None
    assert rose["verdict"] == "CLEAR" and rose["delta"] == 0.375 and rose["p_drop"] > 1 - 1e-6
    assert (fell["wins"], fell["losses"], rose["wins"], rose["losses"]) == (0, 30, 30, 0)


def test_significance_needs_a_point_and_the_shared_level():
    drop = [-0.005 + 0.0001 * (-1) ** n for n in range(5000)]
    assert compare_slice(drop, [0.0] * 5000, range(5000), 0.1, 20, 7)["verdict"] == "CLEAR", "half a point is no harm"
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=40)
    noisy = (noisy - noisy.mean()) / noisy.std(ddof=1) * 0.3
    for hypotheses in (1, 7):
        edge = student.ppf(0.05 / hypotheses, 39) * 0.3 / math.sqrt(40)
        for shift, verdict in ((-1e-4, "FAIL"), (1e-4, "UNSURE")):
            got = compare_slice(noisy + edge + shift, np.zeros(40), range(40), 0.01, 20, hypotheses)
            assert got["verdict"] == verdict, (hypotheses, shift)


def test_equal_answers_do_not_clear_a_small_slice():
    for n in (1, 2, 5, 19):
        got = compare_slice([1.0] * n, [1.0] * n, range(n), 0.1, 20, 2)
        assert got["verdict"] == "UNSURE" and (got["need"] or 20) >= 20
    assert compare_slice([1.0] * 31, [1.0] * 31, range(31), 0.1, 20, 2)["verdict"] == "CLEAR"
    assert compare_slice([1.0] * 29, [1.0] * 29, range(29), 0.1, 20, 2)["verdict"] == "UNSURE", "rule of three"
    assert compare_slice([1.0] * 40, [1.0] * 40, range(40), 0.05, 20, 2)["verdict"] == "UNSURE", "3 of 40 is 7.5 points"
    assert compare_slice([1.0] * 40, [1.0] * 40, [0] * 40, 0.1, 20, 2)["verdict"] == "UNSURE", "one cluster"
    assert compare_slice([1.0] * 99, [1.0] * 99, range(99), 0.1, 100, 2)["verdict"] == "UNSURE", "min_n"
    assert paired_difference([1.0] * 40, [1.0] * 40, range(40))[1] == 1 / 40, "no spread at all is no certainty"
    assert compare_slice([0.98] * 40, [1.0] * 40, range(40), 0.1, 20, 2)["verdict"] == "CLEAR", "2 points, no spread"
    need = compare_slice([1.0] * 20, [1.0] * 20, range(20), 0.05, 20, 2)["need"]
    assert compare_slice([1.0] * need, [1.0] * need, range(need), 0.05, 20, 2)["verdict"] == "CLEAR" and need == 61


def test_need_prompts_of_the_same_spread_would_decide():
    rng, seen, cleared = np.random.default_rng(1), 0, 0
    for _ in range(150):
        n, min_n, margin = int(rng.integers(3, 60)), int(rng.choice([5, 20, 100])), float(rng.choice([0.05, 0.1]))
        candidate, baseline = world(rng, n, float(rng.uniform(-0.05, 0.05)))
        got = compare_slice(candidate, baseline, range(n), margin, min_n, 7)
        assert (got["verdict"] == "UNSURE") or got["need"] is None
        if got["need"] is None or got["need"] > 20_000:
            continue
        assert got["need"] > n and got["need"] >= min_n
        z = rng.normal(size=got["need"])
        z = (z - z.mean()) / z.std(ddof=1) * (candidate - baseline).std(ddof=1)
        again = compare_slice(got["delta"] + z, np.zeros(got["need"]), range(got["need"]), margin, min_n, 7)
        assert again["verdict"] == "CLEAR" or (again["verdict"] == "FAIL" and got["delta"] < -0.01), (got, again)
        cleared += again["verdict"] == "CLEAR"
        enough = max(min_n, n + 1)
        if got["need"] > 1.5 * enough:  # not far too many either
            z = z[:int(0.6 * got["need"])]
            z = (z - z.mean()) / z.std(ddof=1) * (candidate - baseline).std(ddof=1)
            fewer = compare_slice(got["delta"] + z, np.zeros(len(z)), range(len(z)), margin, min_n, 7)
            assert fewer["verdict"] != "CLEAR"
        seen += 1
    assert seen > 60 and cleared > 0.7 * seen
    assert compare_slice([0.5, 0.6] * 4, [0.9, 0.8] * 4, range(8), 0.1, 20, 500)["need"] is None, "it will not clear"


def worlds(count, seed, drop=0.0, thin=0.0):
    """Share of simulated gate runs (6 slices x 60 prompts x 4 answers) that are blocked."""
    rng, blocked = np.random.default_rng(seed), 0
    for _ in range(count):
        items = []
        for s in range(6):
            candidate, baseline = world(rng, 60, drop * (s == 0) + thin)
            items += [{"slice": f"s{s}", "cluster": str(n), "candidate": c, "baseline": b}
                      for n, (c, b) in enumerate(zip(candidate, baseline))]
        slices, overall = compare_slices(items, 0.1, 20)
        blocked += decide(slices, overall, [])[0] == "BLOCK"
    return blocked / count


def test_two_equal_models_are_seldom_blocked():
    assert worlds(600, seed=11) <= 0.05


def test_a_fall_of_20_points_in_one_slice_is_caught():
    assert worlds(150, seed=12, drop=0.2) >= 0.95


def test_a_thin_drop_everywhere_is_caught_by_the_mean():
    assert worlds(60, seed=13, thin=0.07) >= 0.9


def test_overall_by_hand():
    rng = np.random.default_rng(2)
    items, errors = [], []
    for s, n in enumerate((25, 60)):
        candidate, baseline = world(rng, n, 0.1 * s)
        errors.append((candidate - baseline).std(ddof=1) / math.sqrt(n))
        items += [{"slice": f"s{s}", "cluster": str(i), "candidate": c, "baseline": b}
                  for i, (c, b) in enumerate(zip(candidate, baseline))]
    slices, overall = compare_slices(items, 0.1, 20)
    deltas = [s["delta"] for s in slices.values()]
    error = math.sqrt(sum(e * e for e in errors)) / 2
    delta = sum(deltas) / 2
    assert overall["delta"] == pytest.approx(delta) and list(slices) == ["s0", "s1"]
    assert overall["p_drop"] == pytest.approx(student.cdf(delta / error, 24 + 59))
    assert overall["p_gain"] == pytest.approx(1 - overall["p_drop"])
    assert overall["low"] == pytest.approx(delta - student.ppf(0.975, 83) * error)


def piece(verdict, **more):
    return {"verdict": verdict, "delta": -0.2, "p_drop": 0.001, "n": 10, "need": None} | more


CALM = {"fail": False, "p_gain": 0.5, "delta": 0.0, "low": -0.05, "high": 0.05}


@pytest.mark.parametrize(("slices", "overall", "canaries", "verdict", "why"), [
    ({"a": piece("CLEAR")}, CALM, [], "SHIP", "no improvement shown: .0.0% over all slices"),
    ({"a": piece("CLEAR")}, CALM | {"p_gain": 0.01, "delta": 0.1}, [], "SHIP", "improved: .10.0%"),
    ({"a": piece("CLEAR"), "b": piece("FAIL")}, CALM, [], "BLOCK", r"b fell by 20.0 points \(p = 0.001\)"),
    ({"a": piece("UNSURE"), "b": piece("FAIL")}, CALM, [], "BLOCK", "b fell"),
    ({"a": piece("CLEAR")}, CALM | {"fail": True, "delta": -0.03}, [], "BLOCK", "mean over all slices fell by 3.0"),
    ({"a": piece("UNSURE", need=44)}, CALM, [], "NOT ENOUGH DATA", "a has 10 prompts and needs 44"),
    ({"a": piece("UNSURE")}, CALM, [], "NOT ENOUGH DATA", "a has 10 prompts and needs more"),
    ({"a": piece("UNSURE", need=44)}, CALM | {"fail": True}, [], "BLOCK", "the mean"),
    ({}, {"fail": False}, [], "NOT ENOUGH DATA", "no comparable slice"),
    ({"a": piece("CLEAR")}, CALM, [(True, True), (False, False), (True, False)], "SHIP", "no slice fell"),
    ({"a": piece("CLEAR")}, CALM, [(True, True), (False, True)], "BLOCK", "canaries that the baseline passes fail: c1"),
    ({}, {"fail": False}, [(False, True)], "BLOCK", "c0"),
    ({"b": piece("FAIL")}, CALM, [(False, True)], "BLOCK", "^b fell by .*; canaries .* fail: c0$"),
    ({"b": piece("FAIL")}, CALM | {"fail": True}, [], "BLOCK", r"^b fell by [^;]*$"),
    ({}, {"fail": False}, [(False, False)], "NOT ENOUGH DATA", "no comparable")])
def test_decide(slices, overall, canaries, verdict, why):
    assert decide({"a": piece("CLEAR")}, CALM, [], ["z"]) == (
        "NOT ENOUGH DATA", "z has too many items without a score")
    canaries = [{"id": f"c{n}", "candidate": c, "baseline": b} for n, (c, b) in enumerate(canaries)]
    got, sentence = decide(slices, overall, canaries)
    assert got == verdict and re.search(why, sentence), sentence


def test_score_items(monkeypatch):
    """Means over the answers; what has no score on one side is left out and named; clusters default to the item."""
    monkeypatch.setattr(gate, "verify", lambda item, text, run_code: {"ok": text})

    def rows(**ok):
        return [{"id": name, "sample": n, "text": value, "tokens": 3 + n}
                for name, values in ok.items() for n, value in enumerate(values)]

    items = [{"id": "a", "slice": "s", "type": "verify"}, {"id": "b", "slice": "s", "type": "verify", "cluster": 7},
             {"id": "c", "slice": "t", "type": "canary"}, {"id": "j", "slice": "s", "type": "judge"},
             {"id": "k", "slice": "s", "type": "judge"}]
    answers = {"baseline": rows(a=[True, False], b=[True, None], c=[True], j=[None] * 2, k=[None] * 2),
               "candidate": rows(a=[True, True], b=[True, True], c=[False], j=[None] * 2, k=[None] * 2)}
    for role, right in (("baseline", False), ("candidate", True)):
        answers[role].append({"id": "a", "sample": "greedy", "text": right, "tokens": 99})
    judged = {("baseline", "j"): 0.25, ("candidate", "j"): 0.75, ("baseline", "k"): 0.5, ("candidate", "k"): None}
    compared, canaries, missing = score_items(items, answers, judged)
    tokens = {"tokens_baseline": 3.5, "tokens_candidate": 3.5}
    assert compared == [{"id": "a", "slice": "s", "cluster": "a", "baseline": 0.5, "candidate": 1.0,
                         "greedy_baseline": 0.0, "greedy_candidate": 1.0} | tokens,
                        {"id": "j", "slice": "s", "cluster": "j", "baseline": 0.25, "candidate": 0.75} | tokens]
    assert canaries == [{"id": "c", "baseline": True, "candidate": False}] and missing == ["b", "k"]


# ---- the whole stage -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("other") / "other", seed=1)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    return save_judge(tmp_path_factory.mktemp("judges") / "judge")


def greedy_items(count, name="g", words=3, **more):
    """Items that the base passes at temperature 0 and a model with other weights does not: its own first characters."""
    model, tokenizer, items = make_model(), make_tokenizer(), []
    for n in range(count * 3):
        prompt = f"{name} {n} {text_of(n, words)}"
        [[made]] = sample(model, tokenizer, [(prompt_ids(tokenizer, [{"role": "user", "content": prompt}]),
                                              [(0.0, 0)])], 8)
        start = made["text"].strip()[:3]
        item = {"id": f"{name}{n}", "prompt": prompt, "slice": name, **more,
                "constraints": [{"type": "starts_with", "value": start or "?"}]}
        items += [item] if verify(item, made["text"])["ok"] else []
    assert len(items) >= count, len(items)
    return items[:count]


def noisy_items(count, name):
    """Items that a random model passes about half of the time."""
    return [{"id": f"{name}{n}", "prompt": f"{name} {text_of(n, 2 + n % 5)}", "slice": name,
             "constraints": [{"type": "not_contains", "value": "e" if n % 2 else "o"}]} for n in range(count)]


def suite_of(path, **files):
    path.mkdir(exist_ok=True)
    for name, rows in files.items():
        write(path / f"{name}.jsonl", rows)
    return str(path)


def settings(base, suite, out, *more):
    return ["--model", base, "--baseline", base, "--suite", suite, "--out", out, "--max-tokens", 8, "--batch-size", 32,
            *more]


def unfinish(out):
    """The record of a run that was killed before it could write its report."""
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"finished": False}))


def report_of(out):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    report = json.loads((out / "report.json").read_text(), parse_constant=refuse)
    return {k: v for k, v in report.items() if k not in ("seconds", "cost")}


def test_ship_block_and_not_enough_data(base, other, tmp_path, capsys):
    suite = suite_of(tmp_path / "suite", a=greedy_items(34, "a"), b=greedy_items(32, "b"),
                     c=greedy_items(2, "c", type="canary"))
    assert run_main("gate", *settings(base, suite, tmp_path / "same", "--temperature", 0)) == 0
    same = report_of(tmp_path / "same")
    assert same["verdict"] == "SHIP" and same["slices"]["a"]["n"] == 34 and same["k"] == 1
    assert all(s["candidate"] == s["baseline"] == 1.0 and s["verdict"] == "CLEAR" for s in same["slices"].values())
    assert "result   SHIP" in capsys.readouterr().out and "2 of 2 pass" in (tmp_path / "same" / "report.md").read_text()
    assert run_main("gate", "--model", other, *settings(base, suite, tmp_path / "worse", "--temperature", 0)[2:]) == 1
    worse = report_of(tmp_path / "worse")
    assert worse["verdict"] == "BLOCK" and "canaries" in worse["why"] and worse["overall"]["fail"] is True
    assert {s["verdict"] for s in worse["slices"].values()} == {"FAIL"}
    assert "| a | 34 | 100.0% |" in (tmp_path / "worse" / "report.md").read_text()
    bare = suite_of(tmp_path / "bare", a=greedy_items(24, "a"))
    assert run_main("gate", "--model", other, *settings(base, bare, tmp_path / "fell", "--temperature", 0)[2:]) == 1
    assert "a fell by" in report_of(tmp_path / "fell")["why"]
    few = suite_of(tmp_path / "few", a=greedy_items(5, "a"), b=greedy_items(1, "b"))
    assert run_main("gate", *settings(base, few, tmp_path / "few-out", "--temperature", 0)) == 3
    report = report_of(tmp_path / "few-out")
    assert report["why"] == "a has 5 prompts and needs 31; b has 1 prompts and needs more"
    assert EXIT == {"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}


def test_canary_that_the_baseline_fails_is_quarantined(base, other, tmp_path):
    broken = [{"id": "c9", "prompt": "hi", "type": "canary", "answer": "no model says this"}]
    suite = suite_of(tmp_path / "suite", a=noisy_items(20, "a"), c=broken)
    run_main("gate", "--model", other, *settings(base, suite, tmp_path / "out")[2:])
    report = report_of(tmp_path / "out")
    assert report["canaries"] == [{"id": "c9", "baseline": False, "candidate": False}]
    assert "canaries" not in report["why"]
    assert "; quarantined, the baseline fails" in (tmp_path / "out" / "report.md").read_text()
    assert "c" not in report["slices"]


def test_a_model_against_itself_is_not_blocked(base, tmp_path):
    """Sampled: both roles draw from streams of their own; scores are those of the recorded answers."""
    suite = suite_of(tmp_path / "suite", a=noisy_items(25, "a"), b=noisy_items(25, "b"))
    code = run_main("gate", *settings(base, suite, tmp_path / "out", "--price-gpu-hour", 3600))
    assert code in (0, 3)
    report = report_of(tmp_path / "out")
    rows = {role: [json.loads(line) for line in (tmp_path / "out" / f"answers-{role}.jsonl").read_text().splitlines()]
            for role in ("candidate", "baseline")}
    assert [row["text"] for row in rows["candidate"]] != [row["text"] for row in rows["baseline"]]
    items, tokenizer, model = read_suite(suite, None), make_tokenizer(), make_model()
    for role, made in rows.items():
        assert len(made) == 50 * 4 and {row["sample"] for row in made} == {0, 1, 2, 3}
        for name in ("a", "b"):
            by_id = {item["id"]: item for item in items}
            own = [verify(by_id[row["id"]], row["text"])["ok"] for row in made if row["id"].startswith(name)]
            share = sum(own) / len(own)
            assert report["slices"][name][role] == pytest.approx(share) and 0.1 < share < 0.9
        for row in made[::37]:
            item = next(item for item in items if item["id"] == row["id"])
            [[alone]] = sample(model, tokenizer, [(prompt_ids(tokenizer, item["prompt"]),
                                                   [(0.7, seed_for(0, role, item["id"], row["sample"]))])], 8)
            assert (row["text"], row["tokens"]) == (alone["text"], alone["tokens"])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    read = sum(len(prompt_ids(tokenizer, item["prompt"])) for item in items)  # by each of the two models
    assert record["tokens"] == 2 * read + sum(row["tokens"] for made in rows.values() for row in made)
    assert record["cost"] == pytest.approx(record["seconds"])
    assert record["forecast"]["tokens"] == 2 * (read + 200 * 8)
    assert run_main("gate", *settings(base, suite, tmp_path / "out", "--price-gpu-hour", 3600)) == code, "asked again"


def test_greedy_beside_and_a_cooler_candidate(base, tmp_path):
    """--greedy adds one answer a prompt that decides nothing; --model-temperature is the candidate's alone."""
    suite = suite_of(tmp_path / "suite", a=noisy_items(12, "a"), c=greedy_items(2, "c", type="canary"))
    for name, more in (("plain", []), ("greedy", ["--greedy"]), ("cool", ["--greedy", "--model-temperature", 0])):
        run_main("gate", *settings(base, suite, tmp_path / name / name[:1], *more))  # no cached baseline
    plain, greedy, cool = (report_of(tmp_path / name / name[:1]) for name in ("plain", "greedy", "cool"))
    rows = {(name, role): [json.loads(line) for line in (
        tmp_path / name / name[:1] / f"answers-{role}.jsonl").read_text().splitlines()]
        for name in ("plain", "greedy", "cool") for role in ("candidate", "baseline")}
    assert "greedy_candidate" not in plain["slices"]["a"] and len(rows["plain", "baseline"]) == 12 * 4 + 2
    assert [r for r in rows["greedy", "candidate"] if r["sample"] != "greedy"] == rows["plain", "candidate"]
    for key in ("candidate", "baseline", "delta", "tokens_candidate", "verdict"):
        assert plain["slices"]["a"][key] == greedy["slices"]["a"][key], "the extra answer decides nothing"
    items = {item["id"]: item for item in read_suite(suite, None)}
    for role in ("candidate", "baseline"):
        extra = [row for row in rows["greedy", role] if row["sample"] == "greedy"]
        right = [verify(items[row["id"]], row["text"])["ok"] for row in extra]
        assert len(extra) == 12 and greedy["slices"]["a"][f"greedy_{role}"] == pytest.approx(sum(right) / 12)
    texts = {}
    for row in rows["cool", "candidate"]:
        texts.setdefault(row["id"], set()).add(row["text"])
    assert all(len(own) == 1 for own in texts.values()), "temperature 0: every answer is the greedy one"
    assert rows["cool", "baseline"] == rows["greedy", "baseline"] and cool["model_temperature"] == 0
    run_main("gate", *settings(base, suite, tmp_path / "greedy" / "plain"))
    assert report_of(tmp_path / "greedy" / "plain")["slices"] == plain["slices"], "no answers of a --greedy run"
    text = (tmp_path / "greedy" / "g" / "report.md").read_text()
    s = greedy["slices"]["a"]
    assert f"| {s['greedy_baseline']:.1%} -> {s['greedy_candidate']:.1%} |" in text and "verdict | greedy |" in text


def test_a_failed_slice_is_asked_again(base, tmp_path, monkeypatch):
    """The first answers show a drop in slice a; whether it blocks depends on fresh ones, of this slice alone."""
    suite, asked = suite_of(tmp_path / "suite", a=noisy_items(40, "a"), b=noisy_items(40, "b")), []
    real = gate.answer_suite
    right = {item["id"]: "a" for item in read_suite(suite, None)}

    def answers(name, role, items, k, out, args, again=""):
        rows, tokens = real(name, role, items, k, out, args, again)
        asked.append((role, again, {item["slice"] for item in items}, len(rows)))
        drops = not again or args.seed == 1
        for row in rows:  # b rises as a falls, so that the mean over all slices stays
            lost = drops and row["id"][0] == {"candidate": "a", "baseline": "b"}[role] and row["sample"] < 2
            row["text"] = right[row["id"]] + "eo" * lost
        return rows, tokens

    monkeypatch.setattr(gate, "answer_suite", answers)
    assert run_main("gate", *settings(base, suite, tmp_path / "chance")) == 3
    chance = report_of(tmp_path / "chance")["slices"]["a"]
    assert chance["delta"] == -0.25 and chance["again"] == {"delta": 0.0, "p_drop": 0.5}
    assert chance["verdict"] == "UNSURE" and chance["need"] == 80 and chance["p_drop"] < 1e-6
    assert run_main("gate", *settings(base, suite, tmp_path / "real", "--seed", 1)) == 1
    real_drop = report_of(tmp_path / "real")["slices"]["a"]
    assert real_drop["verdict"] == "FAIL" and real_drop["delta"] == real_drop["again"]["delta"] == -0.5
    again = [call for call in asked if call[1]]
    assert len(again) == 4 and all(call[2:] == ({"a"}, 160) for call in again)
    one, two = ({(row["id"], row["sample"]): row["text"] for row in map(json.loads, (
        tmp_path / "real" / f"answers-candidate{more}.jsonl").read_text().splitlines())} for more in ("", "-again"))
    assert len(two) == 160 and sum(one[key] == text for key, text in two.items()) < 40, "fresh answers"
    record = json.loads((tmp_path / "real" / "run.json").read_text())
    read = {name: sum(len(prompt_ids(make_tokenizer(), item["prompt"])) for item in read_suite(suite, None)
                      if item["slice"] in name) for name in ("ab", "a")}
    lines = [json.loads(line) for path in (tmp_path / "real").glob("answers-*.jsonl")
             for line in path.read_text().splitlines()]
    assert record["tokens"] == 2 * (read["ab"] + read["a"]) + sum(line["tokens"] for line in lines)


def moved(drop):
    """Scores of two slices, 40 prompts each, in which the candidate lies `drop` below."""
    return [{"id": f"{name}{n}", "slice": name, "cluster": f"{name}{n}", "tokens_candidate": 1.0,
             "tokens_baseline": 1.0, "baseline": 0.5, "candidate": 0.5 - drop - 0.01 * (n % 2)}
            for name in "ab" for n in range(40)]


def test_a_drop_of_the_mean_must_be_there_again():
    first = compare_slices(moved(0.1), 0.2, 20)[1]
    assert first["fail"] and not gate.confirm(moved(0.1), moved(0.0), ["a", "b"], first, 0.2, 20)[1]["fail"]
    slices, overall = gate.confirm(moved(0.1), moved(0.1), ["a", "b"], first, 0.2, 20)
    assert overall["fail"] and {s["verdict"] for s in slices.values()} == {"FAIL"}
    assert gate.confirm(moved(0.1), moved(0.1)[:40], ["a"], first, 0.2, 20)[1]["fail"], "b was not asked again"


def test_baseline_answers_are_reused(base, other, tmp_path, monkeypatch):
    suite, loaded, load = suite_of(tmp_path / "suite", a=noisy_items(20, "a")), [], gate.load_model
    monkeypatch.setattr(gate, "load_model", lambda name, *more: loaded.append(name) or load(name, *more))
    run_main("gate", *settings(base, suite, tmp_path / "runs" / "one"))
    assert loaded == [base, base]
    run_main("gate", "--model", other, *settings(base, suite, tmp_path / "runs" / "two")[2:])
    assert loaded[2:] == [other]
    one, two = ((tmp_path / "runs" / name / "answers-baseline.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    run_main("gate", *settings(base, suite, tmp_path / "runs" / "three", "--seed", 1))
    assert loaded[3:] == [base, base], "another seed, other answers"
    three = (tmp_path / "runs" / "three" / "answers-baseline.jsonl").read_bytes()
    assert three != one
    write(tmp_path / "suite" / "a.jsonl", noisy_items(19, "a"))
    run_main("gate", *settings(base, suite, tmp_path / "runs" / "four"))
    assert loaded[5:] == [base, base], "another suite"


def test_resume_after_a_cut_at_any_byte(base, other, tmp_path, monkeypatch):
    suite = suite_of(tmp_path / "suite", a=noisy_items(20, "a"), b=greedy_items(2, "b", type="canary"))
    command = ["--model", other, *settings(base, suite, tmp_path / "out")[2:]]
    models = {name: gate.load_model(name) for name in (base, other)}
    monkeypatch.setattr(gate, "load_model", lambda name, *_: models[name])
    run_main("gate", *command)
    out, expected = tmp_path / "out", report_of(tmp_path / "out")
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    record = json.loads(kept["run.json"]) | {"finished": False}
    sizes = [len(kept[f"answers-{role}.jsonl"]) for role in ("baseline", "candidate")]
    for cut in [*range(0, sum(sizes), 1709), sizes[0], sum(sizes)]:
        for file in out.iterdir():
            file.unlink()
        (out / "run.json").write_text(json.dumps(record))
        (out / "answers-baseline.jsonl").write_bytes(kept["answers-baseline.jsonl"][:cut])
        if cut >= sizes[0]:
            (out / "answers-candidate.jsonl").write_bytes(kept["answers-candidate.jsonl"][:cut - sizes[0]])
        run_main("gate", *command)
        for name in ("answers-baseline.jsonl", "answers-candidate.jsonl", "items.jsonl", "report.md"):
            assert (out / name).read_bytes() == kept[name], (cut, name)
        assert report_of(out) == expected
    with pytest.raises(BadInput, match="other arguments.*temperature"):
        run_main("gate", *command, "--temperature", 0.9)


def test_items_of_type_judge(base, other, judge_folder, tmp_path, capsys):
    constitution = tmp_path / "c.md"
    constitution.write_text(TEXT)
    items = [{"id": f"j{n}", "type": "judge", "slice": "math", "prompt": text_of(n, 4)} for n in range(6)]
    suite = suite_of(tmp_path / "suite", j=items, v=noisy_items(20, "v"))
    more = ["--judge", judge_folder, "--constitution", constitution]
    command = ["--model", other, *settings(base, suite, tmp_path / "out")[2:], *more]
    run_main("gate", *command)
    report, read = report_of(tmp_path / "out"), read_constitution(constitution)
    model, tokenizer = transformers.AutoModelForCausalLM.from_pretrained(judge_folder), make_tokenizer()
    compared = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    for role in ("baseline", "candidate"):
        made = [json.loads(line) for line in (tmp_path / "out" / f"answers-{role}.jsonl").read_text().splitlines()]
        for item in items:
            texts = [[{"role": "assistant", "content": row["text"]}] for row in made if row["id"] == item["id"]]
            [(scores, _)] = judge_answers(model, tokenizer, read, [
                ([{"role": "user", "content": item["prompt"]}], texts, "math", None)])
            means = [(3 * s["true"]["score"] + s["kind"]["score"] + s["safe"]["score"]) / 25 for s in scores
                     if None not in [one["score"] for one in s.values()]]
            own = [row for row in compared if row["id"] == item["id"]]
            if len(means) == 4 and own:
                assert own[0][role] == pytest.approx(sum(means) / 4, abs=1e-4)
            elif len(means) < 4:
                assert item["id"] in report["missing"] and not own, "an answer without a score: the item is left out"
    assert report["slices"]["math"]["n"] + len(report["missing"]) == 6 and report["slices"]["math"]["n"] >= 2
    judged = (tmp_path / "out" / "judged.jsonl").read_bytes()
    for cut in (0, len(judged) // 2, len(judged) - 1):
        (tmp_path / "out" / "judged.jsonl").write_bytes(judged[:cut])
        unfinish(tmp_path / "out")
        run_main("gate", *command)
        assert (tmp_path / "out" / "judged.jsonl").read_bytes() == judged and report_of(tmp_path / "out") == report
    capsys.readouterr()
    run_main("gate", *settings(base, suite, tmp_path / "none"))
    assert "items of type judge are left out" in capsys.readouterr().out
    assert list(report_of(tmp_path / "none")["slices"]) == ["v"]
    for one in (more[:2], more[2:]):
        with pytest.raises(BadInput, match="go together"):
            run_main("gate", *settings(base, suite, tmp_path / "x"), *one)


def test_a_slice_without_any_score_is_no_success(base, tmp_path):
    """Unit tests need --run-code; without it their slice has no score, and the verdict cannot be SHIP."""
    suite = suite_of(tmp_path / "suite", a=greedy_items(24, "a"),
                     code=[{"id": "t", "prompt": "write f", "tests": ["assert f(1) == 1"]}])
    assert run_main("gate", *settings(base, suite, tmp_path / "out", "--temperature", 0)) == 3
    report = report_of(tmp_path / "out")
    assert report["missing"] == ["t"] and "code" in report["why"]
    assert "1 items without a score left out" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(("rows", "words"), [
    ([{"id": "x", "prompt": "p", "type": "quiz", "answer": 1}], "id 'x': field 'type': 'quiz'"),
    ([{"id": "x", "prompt": "p"}], "id 'x': nothing to verify"),
    ([{"id": "x", "prompt": "p", "type": "canary"}], "nothing to"),
    ([{"id": "x", "prompt": "p", "answer": 1}, {"id": "x", "prompt": "q", "answer": 1}], "'x' occurs twice"),
    ([{"id": "x", "prompt": "p", "answer": []}], "id 'x': field 'answer'"),
    ([{"id": "x", "answer": 1}], "a.jsonl:1: field 'prompt'"),
    ([], "no records"), (None, "no *.jsonl"), ("two files", "id 'x': field 'id' occurs twice"),
    ("no folder", "no such file")])
def test_bad_suites_are_one_line(base, tmp_path, capsys, rows, words):
    suite = tmp_path / "suite"
    if rows == "two files":
        suite_of(suite, a=[{"id": "x", "prompt": "p", "answer": 1}], b=[{"id": "x", "prompt": "p", "answer": 1}])
    elif rows != "no folder":
        suite_of(suite, **({} if rows is None else {"a": rows}))
    arguments = gate.parse_args([str(word) for word in settings(base, suite, tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        common.run(gate.main, arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and words in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_plan_profiles_and_limit(base, tmp_path, monkeypatch, capsys):
    suite = suite_of(tmp_path / "suite", a=noisy_items(20, "a"), c=greedy_items(2, "c", type="canary"))
    monkeypatch.setattr(gate, "load_model", None)
    for profile, k, limit in (("hobby", 4, 20), ("release", 8, 3)):
        assert run_main("gate", *settings(base, suite, tmp_path / "out", "--plan", "--profile", profile, "--limit",
                                          limit,
                                          "--answer-len", 5, "--tokens-per-second", 10, "--price-gpu-hour", 36)) == 0
        count = min(limit, 20) * k + 2
        read = sum(len(prompt_ids(make_tokenizer(), item["prompt"])) for item in read_suite(suite, limit))
        tokens = 2 * (read + 5 * count)  # both models read every prompt once and write 5 tokens an answer
        assert (f"{min(limit, 20) + 2} items, {count} answers a model: {tokens:,} tokens, {tokens / 10:.0f} s, "
                f"cost {tokens / 1000:.4f}") in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
