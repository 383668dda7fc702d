"""The judge: its constitution, its prompt, its digits, and what becomes a pair or a label."""

import copy
import json
import math
import random
import statistics
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import make_tokenizer, run_main, text_of, write
from judge_samples import GOOD, TEXT, candidate_rows, lines, message, save_judge, save_reward_model
from scipy.stats import norm

import judge
from common import judge_tokens
from judge import (
    BROKEN,
    Pick,
    ask_more,
    by_prompt,
    calibrate,
    certainty,
    confirm,
    grade,
    judge_names,
    keep_surest,
    make_labels,
    make_pair,
    means_of_votes,
    pick_pair,
    preference,
    why_more,
    with_chosen,
    with_grades,
    with_orders,
)
from posttrain.cli import BadInput
from posttrain.filters import read_words
from posttrain.judging.constitution import overall_score, read_constitution
from posttrain.judging.digits import judge_answers
from posttrain.judging.prompt import Case, case_of, judge_ids, pair_ids, reward_ids
from posttrain.model.family import family_of, related
from posttrain.records.files import read_records
from posttrain.run import file_run
from posttrain.verify.checks import CHECKS


@pytest.fixture(scope="module")
def constitution(tmp_path_factory):
    path = tmp_path_factory.mktemp("constitution") / "c.md"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    return save_judge(tmp_path_factory.mktemp("models") / "judge")


# ---- the constitution ----------------------------------------------------------------------------------------


# ---- the judge's prompt --------------------------------------------------------------------------------------


# ---- digits --------------------------------------------------------------------------------------------------


# ---- from scores to pairs and labels -------------------------------------------------------------------------

CRITERIA = [{"name": "a", "weight": 3.0, "veto": None}, {"name": "b", "weight": 1.0, "veto": 2.0}]
RIGHT, WRONG, OPEN = {"ok": True}, {"ok": False}, {"ok": None}


@pytest.mark.parametrize(
    ("a", "b", "verified", "expected"),
    [
        (4, 2, None, 3.5),
        (0, 4, None, 1.0),
        (4, 2, OPEN, 3.5),
        (4, 1.9, None, 1.0),
        (0, 0, None, 0.0),
        (None, 4, None, None),
        (4, None, None, None),
        ("none", 4, None, 4.0),
        ("none", "none", None, None),
        (5, 5, RIGHT, 5.0),
        (0, 2, RIGHT, 3.2),
        (5, 5, WRONG, 2.0),
        (0, 0, WRONG, 0.0),
        (5, 0, RIGHT, 3.4),
        (None, 4, RIGHT, 4.0),
        (None, 4, WRONG, 1.0),
        ("none", "none", RIGHT, 4.0),
        (None, None, OPEN, None),
    ],
)
def test_grade(a, b, verified, expected):
    scores = {name: {"score": value} for name, value in (("a", a), ("b", b)) if value != "none"}
    got = grade(overall_score(scores, CRITERIA), verified)
    assert got is None if expected is None else got == pytest.approx(expected)


def test_the_verifier_beats_the_judge():
    draw = random.Random(0)
    grades = {True: [], False: []}
    for _ in range(300):
        scores = {name: {"score": draw.choice([None, 0, 5, draw.uniform(0, 5)])} for name in "ab"}
        for ok in grades:
            grades[ok].append(grade(overall_score(scores, CRITERIA), {"ok": ok}))
    assert {grade(5.0, {"ok": True}, [flag]) for flag in BROKEN} == {0.0} and grade(
        5.0, None, ["refusal"]
    ) == 5.0
    assert (
        0 <= min(grades[False])
        and max(grades[False]) <= 2
        and 3 <= min(grades[True])
        and max(grades[True]) <= 5
    )


def answer(score, candidate=0, sd=0.5, flags=(), ok=None, **more):
    return {
        "id": "q",
        "candidate": candidate,
        "prompt": [{"role": "user", "content": "?"}],
        "score": score,
        "sd": sd,
        "completion": message(f"{score} {candidate}"),
        "flags": list(flags),
        "verify": None if ok is None else {"ok": ok},
        "judged": score,
        "scores": {},
        "mass": 1.0,
    } | more


@pytest.mark.parametrize(
    ("scores", "margin", "expected"),
    [
        ([1, 4, 3], 1, (1, 0)),
        ([4, 3.5], 1, "tied"),
        ([4, 3], 1, (0, 1)),
        ([2, 2, 2], 0, "tied"),
        ([4, None], 1, "fewer"),
        ([None, None], 1, "fewer"),
        ([5, None, 1, 1], 1, (0, 3)),
        ([4, 4, 1], 1, (0, 2)),
        ([3], 1, "fewer"),
        ([2.1, 2], 0, (0, 1)),
    ],
)
def test_pick_pair(scores, margin, expected):
    """Null is no score: it is neither the worst answer nor a tie. Equal scores: the earlier candidate is chosen."""
    pick = pick_pair([answer(s, n) for n, s in enumerate(scores)], margin)
    if isinstance(expected, str):
        assert pick.chosen is pick.rejected is None and pick.reason.startswith(expected)
    else:
        assert (pick.chosen["candidate"], pick.rejected["candidate"]) == expected
        assert pick.reason is pick.both_orders is None
    assert (pick.id, pick.slice) == ("q", "all")


def test_the_same_words_are_no_pair():
    """A judge that scores the same words twice (at random, at an endpoint) must not be taken for a preference."""
    words = {"completion": message("same")}
    assert pick_pair([answer(1, 0, **words), answer(5, 1, **words)], 0).reason == "tied"
    ends_alike = [answer(1, 0, **words), answer(2, 1), answer(5, 2, **words)]
    assert pick_pair(ends_alike, 1).reason == "tied"
    worst_alike = [answer(1, 0, **words), answer(2, 1, **words), answer(5, 2)]
    assert pick_pair(worst_alike, 1).rejected["candidate"] == 0


def test_random_scores_do_not_favour_the_answer_given_most_often():
    """Three of four answers say the same: as chosen it must not come up more often than as rejected."""
    rng, sides = random.Random(0), [0, 0]
    for _ in range(4000):
        same = {"completion": message("same")}
        made = [
            answer(rng.random() * 5, n, **(same if n else {"completion": message("other")}))
            for n in range(4)
        ]
        pick = pick_pair(made, 0)
        if not pick.reason:
            sides[pick.chosen["completion"] == message("same")] += 1
    assert sum(sides) > 1500 and abs(sides[0] - sides[1]) < 4 * sum(sides) ** 0.5


@pytest.mark.parametrize("flag", sorted(BROKEN))
def test_broken_answers_are_in_no_pair(flag):
    pick = pick_pair(
        [answer(5, 0, flags=[flag]), answer(4, 1), answer(2, 2), answer(0, 3, flags=[flag])], 1
    )
    assert (pick.chosen["candidate"], pick.rejected["candidate"]) == (1, 2)
    assert pick_pair([answer(5, 0), answer(0, 1, flags=[flag])], 1).reason.startswith("fewer")


def pick_of(chosen, rejected, both_orders=None):
    return Pick("q", "all", chosen, rejected, None, both_orders)


def test_preference():
    def p(*answers):
        return preference(pick_of(*answers))

    assert p(answer(4, ok=True), answer(3.5, ok=False)) == 1.0
    assert p(answer(4, sd=0.6), answer(3, sd=0.8)) == pytest.approx(norm.cdf(1.0))
    # both right: the scores are squeezed into 3-5, the judge's own means and spreads are not
    right = answer(4.6, sd=0.6, ok=True, judged=4.0), answer(4.2, sd=0.8, ok=True, judged=3.0)
    assert p(*right) == pytest.approx(norm.cdf(1.0))
    assert p(answer(3, sd=1.0), answer(3, sd=1.0)) == 0.5
    # right, and to the judge worse than what no verifier looked at
    assert p(answer(3, ok=True, judged=0), answer(1)) == 0.5
    assert p(answer(4, sd=None), answer(3, sd=1.0)) == 0.5
    assert p(answer(4, sd=0.0), answer(3, sd=0.0)) == 1.0
    assert p(answer(4, sd=0.6), answer(3, sd=0.8), [0.9, 0.6]) == pytest.approx(0.75)


def judged_rows():
    """Six prompts in two slices; margins 4, 3, 2, 1 in a, 3 in b; one prompt of b is tied."""
    rows = []
    for n, (piece, high, low) in enumerate(
        [("a", 5, 1), ("a", 4, 1), ("a", 4, 2), ("a", 4, 3), ("b", 4, 1), ("b", 3, 3)]
    ):
        rows += [
            answer(
                high,
                0,
                id=f"q{n}",
                slice=piece,
                weight=2.0,
                tools=None,
                answer=7,
                seed=1,
                generator="m",
            ),
            answer(
                None,
                1,
                id=f"q{n}",
                slice=piece,
                weight=2.0,
                tools=None,
                answer=7,
                seed=2,
                generator="m",
            ),
            answer(
                low,
                2,
                id=f"q{n}",
                slice=piece,
                weight=2.0,
                tools=None,
                answer=7,
                seed=3,
                generator="m",
            ),
        ]
    return rows


def make_pairs(rows, min_margin, keep):
    """Judged rows -> (pairs, {id: (slice, outcome)}), as main makes them."""
    picks = [pick_pair(answers, min_margin) for answers in by_prompt(rows)]
    picks = keep_surest(picks, keep)
    outcomes = {pick.id: (pick.slice, pick.reason or "kept") for pick in picks}
    return [make_pair(pick) for pick in picks if not pick.reason], outcomes


def test_make_pairs():
    pairs, outcomes = make_pairs(judged_rows(), 1.0, 1.0)
    assert [(p["id"], p["margin"]) for p in pairs] == [
        ("q0", 4),
        ("q1", 3),
        ("q2", 2),
        ("q3", 1),
        ("q4", 3),
    ]
    assert Counter(outcomes.values()) == {("a", "kept"): 4, ("b", "kept"): 1, ("b", "tied"): 1}
    assert pairs[1] == {
        "id": "q1",
        "slice": "a",
        "weight": 2.0,
        "tools": None,
        "answer": 7,
        "margin": 3,
        "prompt": [{"role": "user", "content": "?"}],
        "chosen": message("4 0"),
        "rejected": message("1 2"),
        "score_chosen": 4,
        "score_rejected": 1,
        "p": preference(pick_of(answer(4), answer(1))),
    }
    assert all(0.5 <= p["p"] <= 1 for p in pairs)
    assert make_pair(pick_of(answer(4), answer(1)))["weight"] == 1.0, "where the prompt has none"


def test_keep_takes_the_surest_of_a_slice():
    pairs, outcomes = make_pairs(judged_rows(), 1.0, 0.5)
    assert [p["id"] for p in pairs] == ["q0", "q1", "q4"], "the best half of a, and b keeps its own"
    assert Counter(outcomes.values()) == {
        ("a", "kept"): 2,
        ("a", "below --keep"): 2,
        ("b", "kept"): 1,
        ("b", "tied"): 1,
    }


def test_certainty():
    """What a verifier tells apart comes first, then gaps in spreads; the gap alone where a judge gives no spread."""

    def certain(*answers):
        return certainty(pick_of(*answers))

    sure, wide = (answer(4, sd=0.1), answer(3, sd=0.1)), (answer(5, sd=2.0), answer(1, sd=2.0))
    told = answer(3.2, ok=True, sd=None), answer(1.8, ok=False, sd=None)
    assert certain(*told) > certain(*sure) > certain(*wide)
    assert certain(answer(5, sd=None), answer(1, sd=None)) == (False, 4)
    assert certain(answer(4, sd=0.6), answer(3, sd=0.8)) == (False, pytest.approx(1.0))
    assert certain(answer(4, sd=0.0), answer(3.5, sd=0.0)) == (False, pytest.approx(500.0))


def test_families(tmp_path, base):
    """A vocabulary tells more than a name; an endpoint's model has a name alone."""
    assert related("qwen", "qwen/12") and related("gpt", "gpt") and not related("", "")
    assert not related("llama/12", "llama/34") and related("smollm/12", "tuned/12")
    assert family_of("gpt-4o-mini@http://x") == "gpt" and family_of("Qwen/Qwen3-4B") == "qwen"
    assert family_of("meta-llama/Meta-Llama-3-8B") == "llama"
    assert related(family_of(base), family_of(save_judge(tmp_path / "other-name")))


def test_make_labels():
    rows = [
        answer(4.0),
        answer(3.9),
        answer(2.1),
        answer(2.0),
        answer(None),
        answer(5, flags=["refusal"]),
        answer(0.0),
    ]
    labels = make_labels(rows, 4.0, 2.0)
    assert [(row["score"], row["label"]) for row in labels] == [
        (4.0, True),
        (2.0, False),
        (5, True),
        (0.0, False),
    ]
    assert labels[0] == {
        "id": "q",
        "slice": "all",
        "weight": 1.0,
        "prompt": rows[0]["prompt"],
        "label": True,
        "completion": rows[0]["completion"],
        "score": 4.0,
    }


def test_pairs_whose_orders_disagree_are_ties():
    pairs = answer(4.0, 1), answer(1.0, 0)
    outcomes = {
        (0.9, 0.7): None,
        (0.5, 0.5): None,  # at one half the chosen answer stays
        (0.9, 0.4): "orders disagree",
        (0.4999, 0.5): "orders disagree",
        (0.2, 0.1): "the pair says otherwise",
        (0.9, None): "no verdict on the pair",
        (None, None): "no verdict on the pair",
        None: None,
    }
    for both_orders, reason in outcomes.items():
        pick = pick_of(*pairs, both_orders and list(both_orders))
        assert confirm(pick) == pick._replace(reason=reason), both_orders
    assert make_pair(pick_of(*pairs, [0.9, 0.7]))["p"] == pytest.approx(0.8)
    tied = pick_of(None, None)._replace(reason="tied")
    assert confirm(tied) == tied


def test_calibrated_scores_stay_on_the_scale():
    """The first answer is far above what a judge of small spread gives to the others: 5.7 unclipped."""
    wide, narrow = [5.0, 5.0, 5.0, 0.0, 0.0], [5.0, 4.9, 4.9, 4.9, 4.9]
    assert calibrate([wide, narrow], [False, False])[0] == 5.0
    low = [[5 - score for score in column] for column in (wide, narrow)]
    assert calibrate(low, [False, False])[0] == 0.0


def test_calibrate():
    """One judge stays; several count alike, whatever their units; a reward model alone is ranked; null is null."""
    strict, mild = [0.0, 1.0, 2.0, None], [3.0, 4.0, 5.0, 4.0]
    alone = [0.1, 0.7, 3.3, 4.9, None]
    assert calibrate([alone], [False]) == alone, "to the last bit"
    both = calibrate([strict, mild], [False, False])
    assert both[3] is None and both[0] < both[1] < both[2] and both[1] == pytest.approx((1 + 4) / 2)
    reward = calibrate([[-80.0, 0.0, 80.0]], [True])
    assert reward[1] == pytest.approx(2.5) and reward[0] == pytest.approx(5 * norm.cdf(-(1.5**0.5)))
    mixed = calibrate([[1.0, 2.0, 3.0], [700.0, 0.0, -700.0]], [False, True])
    assert mixed == pytest.approx([2.0, 2.0, 2.0]), (
        "they contradict each other, on the scale of the first"
    )
    assert calibrate([[0.0, 5.0, 5.0]] * 2, [False, False]) == pytest.approx([0.0, 5.0, 5.0])


def test_calibrate_at_its_edges():
    """No score at all; all alike; far above and below: never outside of 0-5."""
    assert calibrate([[None, None], [1.0, 2.0]], [False, False]) == [None, None]
    assert calibrate([[3.0, 3.0], [700.0, 700.0]], [False, True]) == [3.0, 3.0]
    assert calibrate([[2.0, 2.0]], [True]) == [2.5, 2.5]
    assert judge.mean_and_spread([2.0, None, 2.0]) == (2.0, 1e-6)
    assert judge.mean_and_spread([None]) == (0.0, 1e-6)
    far = [5.0] * 50 + [0.0]
    spread_out = calibrate([far, [x * 900 for x in far]], [False, True])
    assert spread_out[0] == pytest.approx(5.0) and spread_out[-1] == pytest.approx(0.0, abs=1e-9)
    low = [0.1] * 50 + [5.0]
    both = calibrate([low, low, [-x for x in far]], [False, False, True])
    assert all(0.0 <= score <= 5.0 for score in both) and 5.0 in both


def votes_for(*scores, raw=False):
    return [
        {"score": s, "scores": {"a": s}, "sd": 0.5, "mass": m, "raw": raw, "tokens": 1}
        for s, m in scores
    ]


def test_means_of_votes():
    [low, high, none] = votes_for((1.0, 0.9), (4.0, 0.7), (None, 0.2))
    assert means_of_votes([low]) == {"scores": {"a": 1.0}, "sd": 0.5, "mass": 0.9}
    assert means_of_votes([low, high]) == {"scores": {"a": 2.5}, "sd": None, "mass": 0.7}
    assert means_of_votes([low, none]) == {"scores": {"a": None}, "sd": None, "mass": 0.2}
    reward = {"score": 7.0, "scores": {}, "sd": None, "mass": None, "raw": True, "tokens": 1}
    assert means_of_votes([reward, high]) == {"scores": {"a": 4.0}, "sd": None, "mass": 0.7}
    assert means_of_votes([reward]) == {"scores": {}, "sd": None, "mass": None}


def test_the_orders_of_a_jury():
    """The mean of the judges; one without a verdict leaves none; both cost tokens."""
    pick = pick_of(answer(4.0, 0, judge_tokens=5), answer(1.0, 1))
    replies = [{"p": [0.9, 0.7], "tokens": 10}, {"p": [0.5, None], "tokens": 20}]
    asked = with_orders(pick, replies)
    assert asked.both_orders == asked.chosen["both_orders"] == [pytest.approx(0.7), None]
    assert asked.chosen["judge_tokens"] == 35 and pick.chosen["judge_tokens"] == 5
    assert asked.rejected is pick.rejected
    assert with_chosen([pick.rejected, pick.chosen], asked) == [pick.rejected, asked.chosen]
    assert with_chosen([pick.rejected, pick.chosen], pick) == [pick.rejected, pick.chosen]


def test_judges_at_an_endpoint():
    assert judge_names(["a", "random"], None) == ["a", "random"]
    assert judge_names(["a", "random"], "http://x/v1") == ["a@http://x/v1", "random"]
    with pytest.raises(BadInput, match="--endpoint localhost:8000: expected a URL"):
        judge_names(["a"], "localhost:8000")


def test_flags_and_scores_of_judged_rows(tmp_path):
    """Words of a slice are flags of it alone; the control has none, and its scores are the judge's."""
    path = tmp_path / "words.md"
    path.write_text("## s\nguaranteed\n")
    row = answer(4.0, slice="s", completion=message("It is guaranteed to work well."))
    rows = [row, row | {"slice": "t"}, row | {"finish": "length"}]
    graded = with_grades(rows, read_words(path), control=False)
    assert ["words" in row["flags"] for row in graded] == [True, False, True]
    assert [row["score"] for row in graded] == [4.0, 4.0, 0.0]
    assert [row["flags"] for row in with_grades(rows, read_words(path), control=True)] == [[]] * 3
    assert "words" not in with_grades(rows, None, control=False)[0]["flags"]


def test_a_flag_of_the_whole_run_decides_too():
    """Five requests that get the same answer, which is worth nothing."""
    rows = []
    for n in range(30):
        text = "Here is all you need to know." if n < 5 else text_of(n, 6) + f" {n}"
        prompt = [{"role": "user", "content": text_of(n + 40, 4)}]
        rows.append(answer(4.0, id=f"q{n}", prompt=prompt, completion=message(text)))
    graded = with_grades(rows, None, control=False)
    assert ["same" in row["flags"] for row in graded] == [True] * 5 + [False] * 25
    assert [row["score"] for row in graded] == [0.0] * 5 + [4.0] * 25
    assert not any(row["flags"] for row in with_grades(rows, None, control=True))


def test_a_family_that_is_stated_counts_before_the_name():
    """Of the writer; an answer without a writer is nobody's."""
    rows = [
        {"generator": "llama-3", "family": "qwen"},
        {"generator": "qwen-3", "family": "llama"},
        {"generator": "qwen-3"},
        {"family": "qwen"},
        {},
    ]
    marked = judge.mark_family(rows, ["gpt", "qwen"])
    assert [row.get("contaminated") for row in marked] == [True, None, True, True, None]


def judge_args(*more):
    words = ["--judge", "a", "b", "--data", "c.jsonl", "--out", "j", "--constitution", "c.md"]
    return judge.parse_args([*words, *more])


def test_facts_are_paragraphs_of_all_files(tmp_path):
    """They are the evidence of every answer whose prompt brings none of its own."""
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\n\n  The library opens at 9.\nOn Sunday, too.\n\n \n\nIt is warm. \n")
    second.write_text("Dogs are not allowed inside.")
    evidence = judge.read_texts([str(first), str(second)])
    assert evidence == [
        "The library opens at 9.\nOn Sunday, too.",
        "It is warm.",
        "Dogs are not allowed inside.",
    ]
    row = {"completion": message("The library opens at 10."), "slice": "s"}
    rows = [row, row | {"evidence": "The library opens at 10."}]
    said = judge.check_answers(rows, judge_args(), CHECKS, evidence)
    facts = [one["verify"]["facts"] for one in said]
    assert [(one["contradict"], one["support"]) for one in facts] == [(1, 0), (0, 1)]
    assert judge.check_answers([row], judge_args(), CHECKS, []) == [{"verify": None}]
    silent = judge.check_answers([row], judge_args("--no-verify", "s"), CHECKS, evidence)
    assert silent == [{"verify": None}]
    first.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="--facts: .*a.txt: not a text in UTF-8"):
        judge.read_texts([str(first)])


def test_facts_words_and_short_reach_the_run(constitution, judge_folder, tmp_path, capsys):
    """A fact that is contradicted and a policy word are flags; the hash tells the short questions."""
    (tmp_path / "facts.txt").write_text("The library opens at 9.")
    (tmp_path / "words.md").write_text("## all\nmoon\n")
    texts = ["The library opens at 10.", "The moon is full."]
    rows = [row | {"completion": message(text)} for row, text in zip(candidate_rows(2, 1), texts)]
    command = ["--judge", judge_folder, "--constitution", constitution, "--short"]
    command += ["--data", write(tmp_path / "c.jsonl", rows), "--out", tmp_path / "j"]
    command += ["--facts", tmp_path / "facts.txt", "--words", tmp_path / "words.md"]
    assert run_main("judge", *command) == 0
    judged = lines(tmp_path / "j" / "judged.jsonl")
    assert ["facts" in row["flags"] for row in judged] == [True, False]
    assert ["words" in row["flags"] for row in judged] == [False, True]
    assert all(row["constitution"].endswith("-short") for row in judged)
    inputs = json.loads((tmp_path / "j" / "run.json").read_text())["inputs"]
    assert {str(tmp_path / "facts.txt"), str(tmp_path / "words.md")} <= inputs.keys()
    assert "flags    " in capsys.readouterr().out


def test_code_runs_as_it_is_allowed(monkeypatch):
    asked = []

    def verify(record, text, run_code, unsafe, *, checks):
        asked.append((run_code, unsafe, list(checks)))

    monkeypatch.setattr(judge, "verify", verify)
    row = {"completion": message("x")}
    for more in ([], ["--run-code"], ["--run-code", "--unsafe"]):
        judge.check_answers([row], judge_args(*more), {"own": None}, [])
    assert asked == [(False, False, ["own"]), (True, False, ["own"]), (True, True, ["own"])]


def test_judges_are_made_as_the_flags_say(constitution, tmp_path, monkeypatch):
    made = []

    class Told:
        def __init__(self, name, **settings):
            made.append((name, settings))

        def texts(self, rows):
            return []

    monkeypatch.setattr(judge, "Judge", Told)
    command = ["--judge", "a", "random", "--constitution", constitution, "--show-prompt", 1]
    command += ["--data", write(tmp_path / "c.jsonl", candidate_rows(1)), "--out", tmp_path / "j"]
    run_main("judge", *command, "--quantize", "none", "--concurrency", 3, "--seed", 4)
    assert [name for name, _ in made] == ["a", "random"]
    for _, settings in made:
        told = [settings[key] for key in ("quantize", "concurrency", "seed")]
        assert told == ["none", 3, 4] and settings["memory"] is made[0][1]["memory"]


def test_the_forecast_of_a_run(monkeypatch):
    """All judges together; pairs are asked where no verifier decides, the rubric is the first's."""
    asked, given, checked = [], [], []

    class Reads:
        def __init__(self, tokens, rubric):
            self.numbers = tokens, rubric

        def check(self, prompts, *, pairs):
            checked.append((len(prompts), pairs))

        def forecast(self, prompts, pairs):
            asked.append((len(prompts), pairs))
            return self.numbers

    def forecast(*words, **more):
        given.append((words, more))
        return "plan"

    monkeypatch.setattr(judge, "forecast", forecast)
    prompts = [[{"slice": "s", "answer": 1}], [{"slice": "t", "answer": 1}], [{"slice": "s"}]]
    judges = [Reads(100, 7), Reads(20, 3)]
    prices = ["--price-judge", "2", "--price-gpu-hour", "3", "--tokens-per-second", "4"]
    for more, pairs in (([], 1), (["--no-verify", "t"], 2), (["--no-orders"], 0)):
        args = judge_args(*prices, *more)
        assert judge.forecast_run(args, judges, prompts, CHECKS) == ("plan", 7)
        assert asked == [(3, pairs)] * 2
        words, settings = given[-1]
        assert words == ("j", "judge.py", 120, 4.0)
        prices_told = {"price_per_million": 2.0, "price_gpu_hour": 3.0}
        assert settings == prices_told | {"model": ["a", "b"]}
        asked.clear()
        assert checked[-2:] == [(3, "--no-orders" not in more)] * 2


def test_the_cost_of_a_run():
    args = judge_args("--price-judge", "2", "--price-gpu-hour", "3")
    rows = [{"judge_tokens": 400_000}, {"judge_tokens": 100_000}]
    cost = {"tokens": 500_000, "seconds": 7200, "cost": 1.0 + 6.0}
    assert judge.cost_of_run(args, rows, 7200) == cost


def test_the_last_judge_compares_first(monkeypatch):
    """It is in memory still; without a doubtful pair none is asked, and nothing is to be read."""
    asked = []

    def run_step(run, name, pairs, work, *, at_once):
        asked.append((name, len(pairs)))
        return [{"p": [0.9, 0.8], "tokens": 1} for _ in pairs]

    monkeypatch.setattr(judge, "run_step", run_step)
    judges = [SimpleNamespace(compares=compares, compare=None) for compares in (True, False, True)]
    pick = pick_of(answer(4.0, 0, judge_tokens=5), answer(1.0, 1))
    told = pick_of(answer(4.0, 0, ok=True), answer(1.0, 1, ok=False))._replace(id="told")
    [both, other] = judge.ask_both_orders(None, [pick, told], judges)
    assert asked == [("orders-3", 1), ("orders-1", 1)]
    assert both.both_orders == pytest.approx([0.9, 0.8]) and both.chosen["judge_tokens"] == 7
    assert other == told


def test_a_step_is_made_once(tmp_path):
    """What stands in its file is not made again; a step without items has no file."""
    run = file_run.FileRun(tmp_path / "j", "judge.py", {}, [])
    made = []

    def work(batch):
        made.append(batch)
        return [{"n": 2 * n} for n in batch]

    for _ in range(2):
        rows = judge.run_step(run, "checks", [1, 2, 3], work, at_once=2)
        assert rows == [{"n": 2}, {"n": 4}, {"n": 6}] and made == [[1, 2], [3]]
    assert judge.run_step(run, "orders-1", [], work, at_once=2) == []


def test_ask_more():
    """What all fail and what divides is worth more candidates; what is good alike, or tied in the middle, is not."""

    def rows(name, *scores):
        return [
            answer(score, k, id=name, slice="s", generator="m", judge="j", tools=None)
            for k, score in enumerate(scores)
        ]

    judged = [
        *rows("fail", 1, 2),
        *rows("none", None, None),
        *rows("divided", 5, 1),
        *rows("good", 5, 4),
        *rows("orders", 5, 3),
        *rows("so so", 4, 3),
        *rows("single", 2),
    ]
    prompts = by_prompt(judged)
    picks = [pick_of(None, None)] * len(prompts)
    picks[4] = picks[4]._replace(reason="orders disagree")
    more = {row["id"]: row for row in ask_more(prompts, picks, 4.0, 2.0)}
    assert {name: row["why"] for name, row in more.items()} == {
        "fail": "all fail",
        "none": "no score",
        "divided": "disagree",
        "orders": "disagree",
        "single": "all fail",
    }
    assert more["fail"] == {
        "id": "fail",
        "prompt": [{"role": "user", "content": "?"}],
        "slice": "s",
        "tools": None,
        "why": "all fail",
    }


def test_pairs_of_random_tables():
    """Whatever the scores: nothing broken or unscored in a pair, the margin holds, p lies in [0.5, 1]."""
    draw, count = random.Random(1), 0
    for _ in range(400):
        rows = []
        for k in range(draw.randint(1, 5)):
            ok, judged = (
                draw.choice([None, True, False]),
                draw.choice([None, draw.uniform(0, 5), 3.0]),
            )
            verified = None if ok is None else {"ok": ok}
            scores = {"a": {"score": judged}}
            rows.append(
                answer(
                    grade(overall_score(scores, CRITERIA), verified),
                    k,
                    draw.choice([None, 0.0, 1.0]),
                    draw.sample(sorted(BROKEN) + ["refusal"] * 6, draw.randint(0, 1)),
                    ok,
                )
            )
        for pair in make_pairs(rows, 0.5, 1.0)[0]:
            count += 1
            chosen, rejected = (
                next(r for r in rows if r["completion"] == pair[side])
                for side in ("chosen", "rejected")
            )
            assert not BROKEN & {*chosen["flags"], *rejected["flags"]}
            assert (
                pair["score_chosen"] - pair["score_rejected"] == pair["margin"] >= 0.5
                and 0.5 <= pair["p"] <= 1
            )
            assert not (
                (chosen["verify"] or {}).get("ok") is False and (rejected["verify"] or {}).get("ok")
            )
    assert count > 100


# ---- the whole stage -----------------------------------------------------------------------------------------


def test_judge_end_to_end(judge_folder, constitution, tmp_path, base, capsys):
    data = write(tmp_path / "c.jsonl", candidate_rows(20))
    out = tmp_path / "judged"
    assert (
        run_main(
            "judge",
            "--judge",
            judge_folder,
            "--constitution",
            constitution,
            "--data",
            data,
            "--out",
            out,
            "--min-margin",
            0.1,
            "--good",
            3.0,
            "--bad",
            2.5,
            "--price-judge",
            3e6,
            "--no-orders",
        )
        == 0
    )
    read, judged = read_constitution(constitution), lines(out / "judged.jsonl")
    model, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(judge_folder),
        make_tokenizer(),
    )
    total = 0
    for row in judged:
        [([score], tokens)] = judge_answers(
            model, tokenizer, read, [Case(row["prompt"], [row["completion"]], row["slice"])]
        )
        assert row["scores"] == pytest.approx(
            {name: s["score"] for name, s in score.items()}, abs=1e-4
        )
        weights = {"true": 3.0, "kind": 1.0, "safe": 1.0}
        used = sum(weights[name] for name in score)
        assert row["judged"] == pytest.approx(
            min(
                sum(weights[n] * s["score"] for n, s in score.items()) / used,
                1.0 if score["safe"]["score"] < 1.5 else 5.0,
            ),
            abs=1e-4,
        )
        assert row["sd"] == pytest.approx(
            math.sqrt(sum((weights[n] * s["sd"]) ** 2 for n, s in score.items())) / used, abs=1e-4
        )
        assert row["mass"] == pytest.approx(min(s["mass"] for s in score.values()), abs=1e-4)
        known = row["id"] in {f"q{p}" for p in range(0, 20, 2)}
        assert (row["verify"] is not None) == known
        if known:
            right = row["candidate"] == 0
            assert row["verify"]["ok"] is right
            assert row["score"] == pytest.approx(3 * right + 2 * row["judged"] / 5)
        else:
            assert row["score"] == row["judged"]
        assert row["judge"] == judge_folder and row["constitution"] == f"test@{read['hash']}"
        assert "contaminated" not in row and "votes" not in row and "both_orders" not in row
    record, report = (
        json.loads((out / "run.json").read_text()),
        json.loads((out / "report.json").read_text()),
    )
    total = sum(row["judge_tokens"] for row in judged)
    assert (
        record["tokens"] == total > 0
        and record["cost"] == pytest.approx(3 * total)
        and record["finished"]
    )
    pairs, labels = (
        read_records(out / "pairs.jsonl", "pairs"),
        read_records(out / "labels.jsonl", "labels"),
    )
    assert (report["pairs"], report["labels"], report["answers"]) == (len(pairs), len(labels), 60)
    assert report["compared"] == 20 and 0 <= report["agreement_with_verifiers"] <= 1
    assert report["cost_per_kept_pair"] == pytest.approx(3 * total / len(pairs))
    assert all(
        pair["chosen"][0]["content"] == pair["id"][1:] and pair["p"] == 1.0
        for pair in pairs
        if "answer" in pair
    )
    assert sum("answer" in pair for pair in pairs) == 10
    assert f"{len(pairs)} pairs from 20 prompts" in capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == [
        "judged.jsonl",
        "labels.jsonl",
        "pairs.jsonl",
        "report.json",
        "run.json",
    ]
    for stage, name in (("dpo", "pairs"), ("kto", "labels")):
        assert (
            run_main(
                stage,
                "--model",
                base,
                "--data",
                out / f"{name}.jsonl",
                "--out",
                tmp_path / stage,
                "--plan",
            )
            == 0
        )
        assert "0 dropped" in capsys.readouterr().out


def test_both_orders_are_asked_of_what_no_verifier_tells_apart(
    judge_folder, constitution, tmp_path, monkeypatch, capsys
):
    asked, p = [], [[0.9, 0.8], [0.7, 0.2]]

    def judge_pairs(model, tokenizer, read, pairs):
        asked.extend(([text[0]["content"] for text in texts], more) for _, texts, *more in pairs)
        return [(p[(len(asked) - len(pairs) + k) % 2], 1000) for k in range(len(pairs))]

    monkeypatch.setattr("posttrain.judging.judges.judge_pairs", judge_pairs)
    data, out = write(tmp_path / "c.jsonl", candidate_rows(12)), {}
    for name, more in (("plain", ["--no-orders"]), ("both", [])):
        run_main(
            "judge",
            "--judge",
            judge_folder,
            "--constitution",
            constitution,
            "--data",
            data,
            "--out",
            tmp_path / name,
            "--min-margin",
            0.1,
            *more,
        )
        out[name] = {pair["id"]: pair for pair in lines(tmp_path / name / "pairs.jsonl")}
    plain, both = out["plain"], out["both"]
    undecided = [name for name, pair in plain.items() if "answer" not in pair]
    assert len(undecided) > 2 and len(asked) == len(undecided) and both.keys() < plain.keys()
    for number, (name, (texts, more)) in enumerate(zip(undecided, asked)):
        pair = plain[name]
        assert texts == [pair[side][0]["content"] for side in ("chosen", "rejected")]
        assert more == [pair["slice"], pair.get("tools")]
        assert (name in both) == (min(p[number % 2]) > 0.5)
        assert name not in both or both[name]["p"] == pytest.approx(sum(p[number % 2]) / 2)
    tokens = [
        json.loads((tmp_path / name / "run.json").read_text())["tokens"]
        for name in ("plain", "both")
    ]
    assert tokens[1] == tokens[0] + 1000 * len(asked)
    assert all(plain[name] == both[name] for name in plain if name not in undecided)
    report = json.loads((tmp_path / "both" / "report.json").read_text())
    flips = len(asked) // 2
    assert report["pairs_asked"] == len(asked) and report["order_flips"] == pytest.approx(
        flips / len(asked)
    )
    assert report["first_shown_picked"] == pytest.approx(0.5 + flips / len(asked) / 2)
    assert f"{len(asked)} pairs asked in both orders" in capsys.readouterr().out


def test_a_reward_model_is_a_judge(constitution, tmp_path):
    folder = save_reward_model(tmp_path / "reward")
    run_main(
        "judge",
        "--judge",
        folder,
        "--constitution",
        constitution,
        "--data",
        write(tmp_path / "c.jsonl", candidate_rows(12)),
        "--out",
        tmp_path / "j",
        "--min-margin",
        0.1,
    )
    judged = lines(tmp_path / "j" / "judged.jsonl")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer, rewards = make_tokenizer(), []
    for row in judged:
        ids = tokenizer.apply_chat_template(
            row["prompt"] + row["completion"], tokenize=True, return_dict=False
        )
        with torch.no_grad():
            rewards.append(model(input_ids=torch.tensor([ids])).logits[0, 0].item())
    mean, spread = statistics.mean(rewards), statistics.pstdev(rewards)
    for row, reward in zip(judged, rewards):
        assert row["judged"] == pytest.approx(5 * norm.cdf((reward - mean) / spread), abs=1e-3)
        assert row["mass"] is row["sd"] is None and row["scores"] == {}
    reward_of = {
        (row["id"], row["completion"][0]["content"]): reward for row, reward in zip(judged, rewards)
    }
    pairs = [pair for pair in lines(tmp_path / "j" / "pairs.jsonl") if "answer" not in pair]
    for pair in pairs:  # Bradley and Terry, the same in both orders
        gap = (
            reward_of[pair["id"], pair["chosen"][0]["content"]]
            - reward_of[pair["id"], pair["rejected"][0]["content"]]
        )
        assert pair["p"] == pytest.approx(1 / (1 + math.exp(-gap)), abs=1e-4) and gap > 0
    assert pairs


def test_a_jury(judge_folder, constitution, tmp_path, capsys):
    """Judges one after another; a null of one is a null of all; the same judge twice is told to add nothing."""
    folder = save_reward_model(tmp_path / "reward")
    data = write(tmp_path / "c.jsonl", candidate_rows(30))
    for name, judges in (
        ("one", [judge_folder]),
        ("twice", [judge_folder, judge_folder]),
        ("two", [judge_folder, "--judge", folder]),
    ):
        run_main(
            "judge",
            "--judge",
            *judges,
            "--constitution",
            constitution,
            "--data",
            data,
            "--out",
            tmp_path / name,
            "--min-margin",
            0.1,
            "--no-orders",
        )
    printed = capsys.readouterr().out
    assert printed.count("WARNING: nearly the same vote twice") == 1 and "kappa 1.00" in printed
    one, twice, two = (lines(tmp_path / name / "judged.jsonl") for name in ("one", "twice", "two"))
    assert [row["judged"] for row in twice] == pytest.approx([row["judged"] for row in one])
    assert [[vote["judge"] for vote in row["votes"]] for row in two] == [
        [judge_folder, folder]
    ] * len(two)
    expected = calibrate([[row["votes"][j]["score"] for row in two] for j in (0, 1)], [False, True])
    assert [row["judged"] for row in two] == pytest.approx(expected)
    assert two[0]["scores"].keys() == one[0]["scores"].keys()
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert list(report["jury_kappa"].values())[0] < 0.6 and len(report["judges"]) == 2


def test_a_judge_of_the_policys_family_is_named(judge_folder, constitution, tmp_path, capsys):
    rows = candidate_rows(8)
    for row in rows[:12]:
        row["generator"] = judge_folder
    data = write(tmp_path / "c.jsonl", rows)
    command = ["--judge", judge_folder, "--constitution", constitution, "--data", data]
    run_main("judge", *command, "--out", tmp_path / "j", "--min-margin", 0)
    judged = lines(tmp_path / "j" / "judged.jsonl")
    assert [row.get("contaminated", False) for row in judged] == [True] * 12 + [False] * 12
    for name in ("pairs", "labels"):
        made = lines(tmp_path / "j" / f"{name}.jsonl")
        assert made and all(row.get("contaminated", False) == (row["id"] < "q4") for row in made)
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("plan")]
    assert printed[0].startswith("CONTAMINATED  12 of 24 answers")
    run_main("judge", *command, "--out", tmp_path / "k", "--family", "other")
    assert "CONTAMINATED" not in capsys.readouterr().out


def test_a_second_round(constitution, tmp_path):
    """--more names prompts; candidates numbered on join those of the first round, and no number comes twice."""
    first = write(tmp_path / "a.jsonl", candidate_rows(9))
    command = ["--judge", "random", "--constitution", constitution]
    run_main(
        "judge",
        *command,
        "--data",
        first,
        "--out",
        tmp_path / "j",
        "--more",
        tmp_path / "more.jsonl",
    )
    more = read_records(tmp_path / "more.jsonl", "prompts")
    assert 0 < len(more) <= 9 and {row["why"] for row in more} <= {"all fail", "disagree"}
    assert all("completion" not in row and "judge" not in row for row in more)
    with pytest.raises(BadInput, match="candidate 0 occurs twice.*--first"):
        run_main("judge", *command, "--data", first, first, "--out", tmp_path / "k")
    again = [row | {"candidate": row["candidate"] + 3} for row in candidate_rows(9)]
    run_main(
        "judge",
        *command,
        "--data",
        first,
        write(tmp_path / "b.jsonl", again),
        "--out",
        tmp_path / "k",
    )
    assert len(lines(tmp_path / "k" / "judged.jsonl")) == 54


def test_a_slice_without_a_criterion_is_refused(tmp_path):
    (tmp_path / "c.md").write_text("## true (slices: math)\n" + GOOD)
    with pytest.raises(BadInput, match="no criterion of the constitution is for the slice 'chat'"):
        run_main(
            "judge",
            "--judge",
            "random",
            "--constitution",
            tmp_path / "c.md",
            "--data",
            write(tmp_path / "c.jsonl", candidate_rows(2)),
            "--out",
            tmp_path / "j",
        )


def test_forecast_counts_what_is_read(judge_folder, constitution, tmp_path):
    """Every text has the same length: the forecast is exact, or above by what prompts share."""
    rows = [
        {
            "id": f"q{p}",
            "candidate": k,
            "prompt": "what is it?",
            "completion": f"xy {k}",
            "slice": "math",
        }
        for p in range(6)
        for k in range(4)
    ]
    out, read, tokenizer = tmp_path / "j", read_constitution(constitution), make_tokenizer()
    run_main(
        "judge",
        "--judge",
        judge_folder,
        "--constitution",
        constitution,
        "--data",
        write(tmp_path / "c.jsonl", rows),
        "--out",
        out,
        "--no-orders",
    )
    prefix, [ids], tails = judge_ids(
        tokenizer,
        read,
        Case([{"role": "user", "content": "what is it?"}], [message("xy 0")], "math"),
    )
    record = json.loads((out / "run.json").read_text())
    expected = 6 * (len(prefix) + 4 * (len(ids) + sum(map(len, tails.values()))))
    assert (
        record["forecast"]["tokens"] == pytest.approx(expected, rel=0.01)
        and record["tokens"] < expected
    )
    assert expected == judge_tokens(
        6, 4, len(ids) + sum(map(len, tails.values())), 0, rubric_len=len(prefix)
    )


def test_the_cost_of_a_kept_pair_has_that_of_its_candidates(constitution, tmp_path, capsys):
    """Of those files that have a run record beside them."""
    rows = candidate_rows(12)
    first = write(tmp_path / "a.jsonl", rows[:18])
    second = write(tmp_path / "b.jsonl", rows[18:])
    record = {"script": "gen_candidates.py", "finished": True, "cost": 30.0}
    (tmp_path / "a.run.json").write_text(json.dumps(record))
    command = ["--judge", "random", "--constitution", constitution, "--min-margin", 0]
    run_main("judge", *command, "--data", first, second, "--out", tmp_path / "j")
    text = (tmp_path / "j" / "report.json").read_text()
    report = json.loads(text)
    assert text == json.dumps(report, indent=1) + "\n", "to be read by people, too"
    assert report["cost_per_kept_pair"] == pytest.approx(30 / report["pairs"])
    assert (
        f"({30 / report['pairs']:.6f} a kept pair with its candidates)" in capsys.readouterr().out
    )
    run_main("judge", *command[:-1], 5, "--data", first, "--out", tmp_path / "k")
    report = json.loads((tmp_path / "k" / "report.json").read_text())
    assert report["pairs"] == 0 and report["cost_per_kept_pair"] is None
    assert "a kept pair" not in capsys.readouterr().out


def random_judge(constitution, data, out, *more):
    assert (
        run_main(
            "judge",
            "--judge",
            "random",
            "--constitution",
            constitution,
            "--data",
            data,
            "--out",
            out,
            *more,
        )
        == 0
    )
    return {
        name: (out / name).read_bytes() for name in ("judged.jsonl", "pairs.jsonl", "labels.jsonl")
    }


def test_random_judge_is_a_control(constitution, tmp_path):
    data = write(tmp_path / "c.jsonl", candidate_rows(120))
    files = random_judge(constitution, data, tmp_path / "a", "--min-margin", 0)
    judged = lines(tmp_path / "a" / "judged.jsonl")
    assert all(row["verify"] is None and 0 <= row["score"] <= 5 for row in judged)
    chosen = [
        p["chosen"][0]["content"] == p["id"][1:]
        for p in lines(tmp_path / "a" / "pairs.jsonl")
        if "answer" in p
    ]
    assert len(chosen) > 50 and 0.15 < sum(chosen) / len(chosen) < 0.55, (
        "right answers are chosen by chance"
    )
    # drawn by id and number, whatever the order of the file
    mixed = write(tmp_path / "d.jsonl", random.Random(0).sample(candidate_rows(120), 360))
    random_judge(constitution, mixed, tmp_path / "b", "--min-margin", 0)
    scores = [
        {
            (row["id"], row["candidate"]): row["score"]
            for row in lines(tmp_path / name / "judged.jsonl")
        }
        for name in "ab"
    ]
    assert scores[0] == scores[1]
    assert files == random_judge(constitution, data, tmp_path / "c", "--min-margin", 0)
    other = random_judge(constitution, data, tmp_path / "e", "--min-margin", 0, "--seed", 1)
    assert other["pairs.jsonl"] != files["pairs.jsonl"]


def test_resume_after_a_kill_at_any_batch(judge_folder, constitution, tmp_path, monkeypatch):
    """A kill inside any append, which leaves a torn line: the same command gives the files of an undisturbed run."""
    data = write(tmp_path / "c.jsonl", candidate_rows(20))
    model = transformers.AutoModelForCausalLM.from_pretrained(judge_folder).requires_grad_(False)
    monkeypatch.setattr(
        "posttrain.judging.digits.load_model", lambda *_, **__: copy.deepcopy(model)
    )
    append = file_run.append_lines

    class Killed(Exception):
        pass

    def torn(path, rows):
        append(path, rows)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - 7)
        raise Killed

    for name in ("random", judge_folder):
        command = [
            "--judge",
            name,
            name,
            "--constitution",
            constitution,
            "--data",
            data,
            "--min-margin",
            0.05,
        ]
        whole, calls = tmp_path / f"whole-{name[-3:]}", []
        with monkeypatch.context() as patch:
            patch.setattr(
                file_run,
                "append_lines",
                lambda path, rows, calls=calls: (calls.append(path), append(path, rows)),
            )
            run_main("judge", *command, "--out", whole)
        assert (
            len({path.name for path in calls}) == (3 if name == "random" else 5) and len(calls) >= 5
        )
        for kill in {calls.index(path) + more for path in calls for more in (0, 1)} - {len(calls)}:
            out, seen = tmp_path / f"{name[-3:]}-{kill}", []
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(
                    file_run,
                    "append_lines",
                    lambda path, rows, seen=seen, kill=kill: (
                        seen.append(0),
                        (torn if len(seen) > kill else append)(path, rows),
                    ),
                )
                run_main("judge", *command, "--out", out)
            run_main("judge", *command, "--out", out)
            for file in ("judged.jsonl", "pairs.jsonl", "labels.jsonl"):
                assert (out / file).read_bytes() == (whole / file).read_bytes(), (kill, file)


def test_no_verify_plan_and_refusals(judge_folder, constitution, tmp_path, monkeypatch, capsys):
    data = write(tmp_path / "c.jsonl", candidate_rows(6))
    command = [
        "--judge",
        judge_folder,
        "--constitution",
        constitution,
        "--data",
        data,
        "--out",
        tmp_path / "j",
    ]
    run_main("judge", *command, "--no-verify", "math")
    assert all(
        row["verify"] is None and row["score"] == row["judged"]
        for row in lines(tmp_path / "j" / "judged.jsonl")
    )
    assert (
        run_main("judge", *command, "--no-verify", "math") == 0
        and "nothing to do" in capsys.readouterr().out
    )
    with pytest.raises(BadInput, match="other arguments.*no_verify"):
        run_main("judge", *command)
    monkeypatch.setattr("posttrain.judging.digits.load_model", None)
    command[-1] = tmp_path / "new"
    assert run_main("judge", *command, "--plan") == 0 and not (tmp_path / "new").exists()
    for more, why in (
        (["--bad", 4], "--bad 4.0 must be below --good 4.0"),
        (["--family", "a", "b"], "--family: expected one for each --judge"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run_main("judge", *command, *more)
        assert why in capsys.readouterr().err
    bad = write(
        tmp_path / "bad.jsonl",
        candidate_rows(1, 1) + [candidate_rows(1, 1)[0] | {"candidate": 1, "answer": []}],
    )
    with pytest.raises(BadInput, match=r"bad.jsonl.*'q0'.*answer"):
        run_main(
            "judge",
            "--judge",
            "random",
            "--constitution",
            constitution,
            "--data",
            bad,
            "--out",
            tmp_path / "new",
        )
    assert not (tmp_path / "new").exists()


def test_show_prompt(judge_folder, constitution, tmp_path, monkeypatch, capsys):
    """All that each judge reads of the first prompts; no model, no server, no folder."""
    reward = save_reward_model(tmp_path / "reward")

    def refuse(*_, **__):
        raise AssertionError("loaded or asked")

    for name in ("digits.load_model", "judges.load_model", "judges.ask_endpoint"):
        monkeypatch.setattr(f"posttrain.judging.{name}", refuse)
    data = write(tmp_path / "c.jsonl", candidate_rows(4))
    out = tmp_path / "j"
    names = [judge_folder, reward, "m@http://localhost:1/v1", "random"]
    command = ["--constitution", constitution, "--data", data, "--out", out, "--show-prompt", 2]
    assert run_main("judge", "--judge", *names, *command) == 0
    assert not out.exists()
    printed = capsys.readouterr().out
    assert not printed.startswith("plan")
    tokenizer, read = make_tokenizer(), read_constitution(constitution)
    for p in range(2):
        answers = [row for row in candidate_rows(4) if row["id"] == f"q{p}"]
        case = case_of(answers)
        prefix, shown, tails = judge_ids(tokenizer, read, case)
        first, *others = tails.values()
        assert tokenizer.decode(prefix + shown[0] + first) in printed
        assert all(tokenizer.decode(tail) in printed for tail in others)
        prefix, orders, tail = pair_ids(tokenizer, read, case._replace(completions=case[1][:2]))
        assert tokenizer.decode(prefix + orders[0] + tail) in printed
        assert tokenizer.decode(orders[1]) in printed
        assert tokenizer.decode(reward_ids(tokenizer, case, case.completions[0])) in printed
        for name in names:
            assert f"==== {name}, id 'q{p}': " in printed
    assert "id 'q2'" not in printed
    assert "where the server gives no log-probabilities" in printed
    assert "random, id 'q0': draws its scores and reads nothing" in printed


def test_what_decides_on_the_result():
    """Files and models on this machine; not the control, and not what a server has."""
    words = ["--judge", "random", "--data", "c.jsonl", "--out", "j", "--constitution", "c.md"]
    names = ["random", "runs/judge", "m@http://localhost:1/v1"]
    files = judge.input_files(judge.parse_args(words), names)
    assert files == ["c.jsonl", "c.md", "runs/judge"]


def test_verifiers_of_your_own(constitution, judge_folder, tmp_path, capsys):
    """A field that the kit does not know decides, and its file is one of the run's inputs."""
    checks = tmp_path / "my_checks.py"
    checks.write_text("def shouts(text, value):\n    return text.isupper() == value\n")
    rows = candidate_rows(6, 2)
    for row in rows:
        row.pop("answer", None)
        row["completion"] = message("LOUD" if row["candidate"] else "quiet")
        if row["id"] < "q3":
            row["shouts"] = row["id"] == "q0"
    data = write(tmp_path / "c.jsonl", rows)
    command = ["--judge", judge_folder, "--constitution", constitution, "--data", data]
    command += ["--out", tmp_path / "j", "--verifiers", checks]
    run_main("judge", *command)
    judged = {(row["id"], row["candidate"]): row for row in lines(tmp_path / "j" / "judged.jsonl")}
    right = {key: row["verify"] and row["verify"]["ok"] for key, row in judged.items()}
    assert [right[f"q{p}", k] for p in range(4) for k in (0, 1)] == [
        False,
        True,
        True,
        False,
        True,
        False,
        None,
        None,
    ]
    pairs = {pair["id"]: pair for pair in lines(tmp_path / "j" / "pairs.jsonl")}
    sides = {name: pairs[name]["chosen"][0]["content"] for name in ("q0", "q1", "q2")}
    assert sides == {"q0": "LOUD", "q1": "quiet", "q2": "quiet"}
    assert "right/wrong pairs as verifiers do" in capsys.readouterr().out
    inputs = json.loads((tmp_path / "j" / "run.json").read_text())["inputs"]
    assert str(checks) in inputs and str(judge_folder) in inputs
    checks.write_text("def shouts(text, value):\n    return True\n")
    with pytest.raises(BadInput, match="other inputs.*my_checks.py"):
        run_main("judge", *command)


def test_a_bad_field_of_your_own_verifier_is_refused(constitution, tmp_path):
    checks = tmp_path / "my_checks.py"
    checks.write_text("def slice(text, value):\n    return True\n")
    command = ["--judge", "random", "--constitution", constitution, "--verifiers", checks]
    command += ["--data", write(tmp_path / "c.jsonl", candidate_rows(1)), "--out", tmp_path / "j"]
    with pytest.raises(BadInput, match="my_checks.py"):
        run_main("judge", *command)
    checks.write_text("def misspelt(text, value):\n    return True\n")
    with pytest.raises(BadInput, match=r"no row has a field that it checks \(misspelt\)"):
        run_main("judge", *command)


def test_a_judge_that_scores_nothing_is_no_success():
    """Neither is a jury of which one scores nothing."""
    rows = candidate_rows(3)
    votes = [{"score": None, "scores": {"a": None}, "sd": None, "mass": 0.1, "raw": False}]
    votes = [vote | {"tokens": 1} for vote in votes * len(rows)]
    verdicts = [{"verify": None}] * len(rows)
    with pytest.raises(BadInput, match=f"not one of {len(rows)} answers has a score"):
        judge.judged_rows(rows, verdicts, [votes], judges=["j"], constitution="c")
    votes[1] = votes[1] | {"score": 2.0}
    judged = judge.judged_rows(rows, verdicts, [votes], judges=["j"], constitution="c")
    assert [row["judged"] for row in judged][:2] == [None, 2.0]


def test_limit(constitution, tmp_path, capsys):
    """Of each file."""
    files = []
    for name in "ab":
        rows = [row | {"id": f"{name}{row['id']}"} for row in candidate_rows(3, 2)]
        files.append(write(tmp_path / f"{name}.jsonl", rows))
    command = ["--judge", "random", "--constitution", constitution, "--plan", "--data", *files]
    for more, prompts, answers in (([], 6, 12), (["--limit", 3], 4, 6)):
        run_main("judge", *command, "--out", tmp_path / "j", *more)
        assert f"plan     {prompts} prompts, {answers} answers" in capsys.readouterr().out


# ---- limits, from both sides ---------------------------------------------------------------------


def test_labels_at_their_limits():
    def label(score):
        labels = make_labels([answer(score)], 4.0, 2.0)
        return labels[0]["label"] if labels else None

    scores = (0.0, 2.0, 2.0 + 1e-9, 4.0 - 1e-9, 4.0, 5.0, None)
    assert [label(score) for score in scores] == [False, False, None, None, True, True, None]


@pytest.mark.parametrize(("gap", "kept"), [(1.0 - 1e-9, False), (1.0, True), (1.0 + 1e-9, True)])
def test_a_pair_at_its_least_margin(gap, kept):
    pick = pick_pair([answer(2.0, 0), answer(2.0 + gap, 1)], 1.0)
    assert (pick.reason is None) == kept and (pick.chosen is not None) == kept


def test_equal_scores_are_no_pair_without_a_margin_either():
    assert pick_pair([answer(2.0, 0), answer(2.0, 1)], 0.0).reason == "tied"
    assert pick_pair([answer(2.0, 0), answer(2.0 + 1.5e-9, 1)], 0.0).reason is None


@pytest.mark.parametrize(
    ("keep", "count", "kept"),
    [
        (0.0, 3, 1),  # one stays
        (0.0, 1, 1),
        (0.5, 1, 1),
        (0.5, 3, 2),  # round(1.5)
        (0.5, 4, 2),
        (0.5, 5, 2),  # round(2.5): to the even number
        (0.49, 4, 2),
        (0.1, 4, 1),
        (0.99, 4, 4),
        (1.0, 5, 5),
    ],
)
def test_keep_at_its_limits(keep, count, kept):
    """The surest are those with the largest gaps; without any pair nothing happens."""
    made = []
    for n in range(count):
        made.append(pick_of(answer(5.0, 0), answer(4.0 - n / 10, 1))._replace(id=f"q{n}"))
    tied = pick_of(None, None)._replace(id="tied", reason="tied")
    picks = keep_surest([tied, *made], keep)
    assert picks[0] == tied and [pick.id for pick in picks[1:]] == [pick.id for pick in made]
    reasons = [pick.reason for pick in picks[1:]]
    assert reasons == ["below --keep"] * (count - kept) + [None] * kept
    assert keep_surest([tied], keep) == [tied]


def test_of_equally_sure_pairs_the_first_stay():
    made = [pick_of(answer(4.0, 0), answer(1.0, 1))._replace(id=f"q{n}") for n in range(4)]
    assert [pick.reason for pick in keep_surest(made, 0.5)] == [None, None, *["below --keep"] * 2]


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([3.99, 0.0], "all fail"),
        ([4.0, 2.01], None),
        ([4.0, 2.0], "disagree"),
        ([4.0, None], None),
        ([2.0, None], "all fail"),
        ([None, None], "no score"),
    ],
)
def test_why_more_at_its_limits(scores, why):
    answers = [answer(score, k) for k, score in enumerate(scores)]
    assert why_more(answers, pick_of(None, None), 4.0, 2.0) == why


def test_orders_that_no_judge_was_asked_in_leave_no_trace(constitution, tmp_path):
    """--judge random compares nothing: no orders in its rows, and its pairs stay."""
    data = write(tmp_path / "c.jsonl", candidate_rows(12))
    random_judge(constitution, data, tmp_path / "j")
    judged = lines(tmp_path / "j" / "judged.jsonl")
    assert not any("both_orders" in row for row in judged)
    report = json.loads((tmp_path / "j" / "report.json").read_text())
    assert report["pairs_asked"] == 0 and report["pairs"] > 3


def test_scores_are_spread_like_the_weights(constitution, tmp_path):
    """--judge random: three uniform criteria of weight 3, 1, 1 (two where a slice has no 'true')."""
    data = write(tmp_path / "c.jsonl", candidate_rows(200, 2))
    random_judge(constitution, data, tmp_path / "j", "--no-verify", "math")
    scores = [
        row["judged"]
        for row in lines(tmp_path / "j" / "judged.jsonl")
        if row["scores"]["safe"] >= 1.5
    ]
    assert abs(statistics.mean(scores) - (3 * 2.5 + 2.5 + 3.25) / 5) < 0.25
