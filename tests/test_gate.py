"""The gate: verdicts, scores, answers that are cached and go on after a kill, every type of item, the whole stage."""

import json
import random
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROOT, make_model, make_tokenizer, run_main, save_folder, text_of, write
from test_judge import TEXT, save_judge

import gate
from gate import EXIT, decide
from posttrain.chat.encode import encode, prompt_ids
from posttrain.cli import BadInput, run_stage
from posttrain.gating import collect
from posttrain.gating.answers import Answer, lendable
from posttrain.gating.collect import AnswerCollector, Sampling, Side
from posttrain.gating.grades import grade, grade_unjudged
from posttrain.gating.rates import promise_lines
from posttrain.gating.suite import read_suite
from posttrain.gating.summary import refusal_counts
from posttrain.generate.local import sample
from posttrain.hashing import seed_for
from posttrain.judging.constitution import read_constitution
from posttrain.judging.digits import judge_pairs
from posttrain.judging.prompt import Case
from posttrain.model import memory
from posttrain.run.file_run import FileRun
from posttrain.verify.checks import CHECKS, verify

# ---- verdicts and scores --------------------------------------------------------------------------------------


def piece(verdict, **more):
    return {
        "verdict": verdict,
        "delta": -0.2,
        "p_drop": 0.001,
        "clusters": 10,
        "need": None,
        "hard": True,
    } | more


CALM = {"fail": False, "p_gain": 0.5, "delta": 0.0, "low": -0.05, "high": 0.05}
OVER = {"ratio": 1.5, "low": 1.4, "high": 1.6, "limit": 1.1, "fail": True}


@pytest.mark.parametrize(
    ("slices", "overall", "canaries", "spent", "verdict", "why"),
    [
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {},
            "SHIP",
            r"no improvement shown: \+0.0 points over all slices \[",
        ),
        (
            {"a": piece("CLEAR")},
            CALM | {"low": 0.01, "delta": 0.1},
            [],
            {},
            "SHIP",
            r"; improved: \+10.0 points over all slices \[",
        ),
        (
            {"a": piece("CLEAR"), "b": piece("FAIL")},
            CALM,
            [],
            {},
            "BLOCK",
            r"^b fell by 20.0 points \(p = 0.001\)$",
        ),
        (
            {"a": piece("FAIL", delta=-0.1), "b": piece("FAIL", delta=-0.3, note="all refused")},
            CALM,
            [],
            {},
            "BLOCK",
            r"^b fell by 30.0 points \(p = 0.001; all refused\); a fell by 10.0 points",
        ),
        ({"a": piece("UNSURE"), "b": piece("FAIL")}, CALM, [], {}, "BLOCK", "b fell"),
        (
            {name: piece("FAIL", delta=-n / 10) for n, name in enumerate("abc", 1)},
            CALM,
            [],
            {},
            "BLOCK",
            r"^c fell [^;]*; b fell [^;]*; a fell [^;]*$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM | {"low": 0.0},
            [],
            {},
            "SHIP",
            "^no slice fell; no improvement shown: ",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [(False, True, True)] * 6,
            {},
            "BLOCK",
            "fail: c0, c1, c2, c3, c4$",
        ),
        (
            {name: piece("FAIL", delta=-n / 10) for n, name in enumerate("abcde", 1)},
            CALM,
            [],
            {},
            "BLOCK",
            r"^5 of 5 slices fell: e fell by 50.0 [^;]*; d fell[^;]*; c fell[^;]*; and b, a$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM | {"fail": True, "delta": -0.03},
            [],
            {},
            "BLOCK",
            "mean over all slices fell by 3.0",
        ),
        (
            {"a": piece("UNSURE", need=44)},
            CALM,
            [],
            {},
            "NOT ENOUGH DATA",
            "a has 10 prompts and needs 44",
        ),
        (
            {"a": piece("UNSURE")},
            CALM,
            [],
            {},
            "NOT ENOUGH DATA",
            "a has 10 prompts and needs more",
        ),
        (
            {"a": piece("UNSURE", n=40)},
            CALM,
            [],
            {},
            "NOT ENOUGH DATA",
            "a has 10 clusters and needs more",
        ),
        ({"a": piece("UNSURE", need=44)}, CALM | {"fail": True}, [], {}, "BLOCK", "the mean"),
        ({}, None, [], {}, "NOT ENOUGH DATA", "no comparable slice"),
        (
            {"a": piece("CLEAR")},
            CALM,
            [(True, True, None), (False, False, None), (True, False, None)],
            {},
            "SHIP",
            "no sl",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [(True, True, None), (False, True, True)],
            {},
            "BLOCK",
            "^canaries .* fail: c1$",
        ),
        ({"a": piece("CLEAR")}, CALM, [(False, True, False)], {}, "SHIP", "no slice fell"),
        ({}, None, [(False, True, True)], {}, "BLOCK", "c0"),
        (
            {"b": piece("FAIL")},
            CALM,
            [(False, True, True)],
            {},
            "BLOCK",
            "^b fell by .*; canaries .* fail: c0$",
        ),
        ({"b": piece("FAIL")}, CALM | {"fail": True}, [], {}, "BLOCK", r"^b fell by [^;]*$"),
        (
            {"b": piece("FAIL", hard=False), "a": piece("CLEAR")},
            CALM,
            [],
            {},
            "SHIP",
            "not clear, but soft: b$",
        ),
        ({"b": piece("UNSURE", hard=False)}, CALM, [], {}, "NOT ENOUGH DATA", "no slice is hard"),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"tokens": OVER},
            "BLOCK",
            r"take 1.50 times .* \[1.40, 1.60\], limit 1.10$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"tokens": OVER, "slice_tokens": OVER | {"slice": "a"}},
            "BLOCK",
            r"^right answers take 1.50 times [^;]*$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"tokens": None, "slice_tokens": OVER | {"slice": "a"}},
            "BLOCK",
            r"^right answers in a take 1.50 times [^;]*$",
        ),
        (
            {name: piece("UNSURE") for name in "abcde"},
            CALM,
            [],
            {},
            "NOT ENOUGH DATA",
            r"; e has 10 prompts and needs more$",
        ),
        (
            {name: piece("UNSURE") for name in "abcdef"},
            CALM,
            [],
            {},
            "NOT ENOUGH DATA",
            r"; d has 10 [^;]*; and 2 slices more$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"tokens": OVER | {"fail": False}, "latency": None},
            "SHIP",
            "no slice fell",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"truncated": OVER | {"ratio": 0.2, "low": 0.1, "high": 0.3, "limit": 0.05}},
            "BLOCK",
            r"are cut off grew by 20.0 points \[10.0, 30.0\], limit 5$",
        ),
        (
            {"a": piece("CLEAR")},
            CALM,
            [],
            {"latency": OVER, "cost": OVER},
            "BLOCK",
            "1.50 times as long.*1.50 times as m",
        ),
        ({}, None, [(False, False, None)], {}, "NOT ENOUGH DATA", "no comparable"),
    ],
)
def test_decide(slices, overall, canaries, spent, verdict, why):
    assert decide({"a": piece("CLEAR")}, CALM, [], {}, unscored=["z"]) == (
        "NOT ENOUGH DATA",
        "z has too many items without a score",
    )
    canaries = [
        {"id": f"c{n}", "candidate": c, "baseline": b, "confirmed": again}
        for n, (c, b, again) in enumerate(canaries)
    ]
    got, sentence = decide(slices, overall, canaries, spent)
    assert got == verdict and re.search(why, sentence), sentence


def answer(text, ok=None, tokens=3, finish="stop", p=None):
    return Answer(text, tokens, finish, verdict={"ok": ok}, p=p)


def test_grade():
    """Shares over the answers that count; what has no score on one side has none; tokens of right answers alone."""
    item = {"id": "a", "slice": "s", "cluster": "7", "type": "verify", "answer": 1}
    made = {
        "candidate": {
            0: answer("good", True, tokens=5),
            1: answer("bad", False, tokens=1),
            2: answer("good", True),
            "greedy": answer("good", True),
        },
        "baseline": {
            n: answer("good" * (n < 3), n < 3, tokens=n + 2, finish="length" if n else "stop")
            for n in range(4)
        }
        | {"greedy": answer("bad", False)},
    }
    row = grade(item, made, {"candidate": 2, "baseline": 4})
    assert json.dumps([row["greedy_candidate"], row["greedy_baseline"]]) == "[1.0, 0.0]"
    assert row.pop("texts") == {"candidate": "bad", "baseline": "good"}
    assert row == {
        "id": "a",
        "slice": "s",
        "cluster": "7",
        "type": "verify",
        "candidate": 0.5,
        "baseline": 0.75,
        "tokens_candidate": 3.0,
        "tokens_baseline": 3.5,
        "right_tokens_candidate": 5.0,
        "right_tokens_baseline": 3.0,
        "cut_candidate": 0.0,
        "cut_baseline": 0.75,
        "greedy_candidate": 1.0,
        "greedy_baseline": 0.0,
        "answers": {"candidate": 2, "baseline": 4},
    }
    made["baseline"][1] = answer("?", None)
    assert grade(item, made, {"candidate": 2, "baseline": 4}) is None
    assert grade(item, made, {"candidate": 3, "baseline": 1})["candidate"] == pytest.approx(2 / 3)
    empty = {role: {0: answer(" ", True, tokens=1)} for role in ("candidate", "baseline")}
    assert "right_tokens_candidate" not in grade(item, empty, {"candidate": 1, "baseline": 1})
    refusing = {
        "candidate": {0: answer("I cannot help with that.", False), 1: answer("Sure.", True)},
        "baseline": {0: answer("Yes", True)},
    }
    row = grade(item | {"expected": "comply"}, refusing, {"candidate": 2, "baseline": 1})
    assert (row["refused_candidate"], row["refused_baseline"], row["expected"]) == (1, 0, "comply")
    found = refusal_counts([row, row | {"expected": "refuse", "refused_baseline": 1}])
    assert found == {
        "candidate": {"harmful": [1, 2], "harmless": [1, 2]},
        "baseline": {"harmful": [1, 1], "harmless": [0, 1]},
    }


def test_grade_other_types():
    item, one = {"id": "a", "slice": "s", "cluster": "a"}, {"candidate": 1, "baseline": 1}
    for winner, score in (("candidate", 1.0), ("tie", 0.5), ("baseline", 0.0)):
        row = grade(item | {"type": "ab", "winner": winner}, {}, one)
        assert (row["candidate"], row["baseline"]) == (score, 0.5)
    row = grade(item | {"type": "scored", "candidate": 0.25, "baseline": 1}, {}, one)
    assert json.dumps([row["candidate"], row["baseline"]]) == "[0.25, 1.0]"
    made = {"candidate": {"mc": answer("y", True)}, "baseline": {"mc": answer("x", False)}}
    row = grade(item | {"type": "mc", "choices": ["x", "y"], "answer": 1}, made, one)
    assert json.dumps([row["candidate"], row["baseline"]]) == "[1.0, 0.0]"
    assert (row["candidate"], row["baseline"], row["texts"]) == (
        1.0,
        0.0,
        {"candidate": "y", "baseline": "x"},
    )
    assert type(row["candidate"]) is float, "a score, as those of all types"
    made = {
        "candidate": {
            0: answer("one", p=[0.9, 0.7]),
            1: answer("two", p=[None, 0.1]),
            2: answer("three", p=[0.2, 0]),
        },
        "baseline": {0: answer("b0"), 1: answer("b1"), 2: answer("b2")},
    }
    row = grade(item | {"type": "judge"}, made, {"candidate": 3, "baseline": 6} | {"baseline": 3})
    assert row["candidate"] == pytest.approx((0.8 + 0.1) / 2) and row["baseline"] == 0.5
    assert row["texts"] == {"candidate": "three", "baseline": "b2"}
    made["candidate"] = {0: answer("one", p=[None, None])}
    assert grade(item | {"type": "judge"}, made, one) is None
    made["candidate"] = {0: answer("one", tokens=2), 1: answer("two", tokens=4)}
    row = grade_unjudged(item | {"type": "judge"}, made, {"candidate": 2, "baseline": 2})
    assert row["texts"] == {"candidate": "one", "baseline": "b0"} and "candidate" not in row
    assert (row["tokens_candidate"], row["tokens_baseline"]) == (3, 3)


# ---- the whole stage -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("other") / "other", seed=1)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    return save_judge(tmp_path_factory.mktemp("judges") / "judge", "AB", 30.0)


def greedy_items(count, name="g", words=3, **more):
    """Items that the base passes at temperature 0 and a model with other weights does not: its own first characters."""
    model, tokenizer, items = make_model(), make_tokenizer(), []
    for n in range(count * 3):
        prompt = f"{name} {n} {text_of(n, words)}"
        [[made]] = sample(
            model,
            tokenizer,
            [(prompt_ids(tokenizer, [{"role": "user", "content": prompt}]), [(0.0, 0)])],
            8,
        )
        start = made["text"].strip()[:3]
        item = {
            "id": f"{name}{n}",
            "prompt": prompt,
            "slice": name,
            **more,
            "constraints": [{"type": "starts_with", "value": start or "?"}],
        }
        items += [item] if verify(item, made["text"])["ok"] else []
    assert len(items) >= count, len(items)
    return items[:count]


def noisy_items(count, name):
    """Items that a random model passes about half of the time."""
    return [
        {
            "id": f"{name}{n}",
            "prompt": f"{name} {text_of(n, 2 + n % 5)}",
            "slice": name,
            "constraints": [{"type": "not_contains", "value": "e" if n % 2 else "o"}],
        }
        for n in range(count)
    ]


def suite_of(path, **files):
    path.mkdir(exist_ok=True)
    for name, rows in files.items():
        write(path / f"{name}.jsonl", rows)
    return str(path)


def settings(base, suite, out, *more):
    return [
        "--model",
        base,
        "--baseline",
        base,
        "--suite",
        suite,
        "--out",
        out,
        "--max-tokens",
        8,
        "--batch-size",
        32,
        *more,
    ]


def unfinish(out):
    """The record of a run that was killed before it could write its report."""
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"finished": False}))


def report_of(out):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (out / "report.json").read_text()
    assert len(text.splitlines()) > 20, "a person can read it"
    report = json.loads(text, parse_constant=refuse)
    return {k: v for k, v in report.items() if k not in ("seconds", "cost")}


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers_of(out, role):
    """All answers of a role, borrowed ones too."""
    files = sorted(out.glob(f"answers-{role}-*.jsonl")) + (
        [out / "borrowed.jsonl"] if role == "baseline" else []
    )
    return [row for file in files for row in read_lines(file)]


@pytest.fixture
def scripted(monkeypatch, base, other):
    """scripted(say): both models' answers are say(role, prompt, seed) -> text, or (text, finish); a word is a token."""

    def script(say):
        def sample(model, tokenizer, jobs, max_tokens):
            made = []
            for ids, wanted in jobs:
                said = [say(model, tokenizer.decode(ids), seed) for _, seed in wanted]
                said = [one if isinstance(one, tuple) else (one, "stop") for one in said]
                made.append(
                    [
                        {"text": text, "tokens": len(text.split()) + 1, "finish": end}
                        | {"thought_tokens": 0}
                        for text, end in said
                    ]
                )
            return made

        monkeypatch.setattr(collect, "sample", sample)
        monkeypatch.setattr(memory, "free_memory", lambda: None)  # half a second for nothing
        monkeypatch.setattr(
            collect, "load_merged", lambda name, *_: {base: "baseline", other: "candidate"}[name]
        )
        return lambda suite, out, *more: run_main(
            "gate", "--model", other, *settings(base, suite, out, *more)[2:]
        )

    return script


def test_ship_block_and_not_enough_data(base, other, tmp_path, capsys):
    suite = suite_of(
        tmp_path / "suite",
        a=greedy_items(34, "a"),
        b=greedy_items(32, "b"),
        c=greedy_items(2, "c", type="canary"),
    )
    assert run_main("gate", *settings(base, suite, tmp_path / "same", "--temperature", 0)) == 0
    assert run_main("gate", *settings(base, suite, tmp_path / "same", "--temperature", 0)) == 0
    same, kept = report_of(tmp_path / "same"), (tmp_path / "same" / "report.json").read_text()
    for damaged in ("", "{}", "[1]"):
        (tmp_path / "same" / "report.json").write_text(damaged)
        with pytest.raises(BadInput, match=r"report.json is damaged"):
            run_main("gate", *settings(base, suite, tmp_path / "same", "--temperature", 0))
    (tmp_path / "same" / "report.json").write_text(kept)
    assert same["verdict"] == "SHIP" and same["slices"]["a"]["n"] == 34
    assert all(
        s["candidate"] == s["baseline"] == 1.0 and s["verdict"] == "CLEAR"
        for s in same["slices"].values()
    )
    assert (
        "result   SHIP" in capsys.readouterr().out
        and "2 of 2 pass" in (tmp_path / "same" / "report.md").read_text()
    )
    for role in ("candidate", "baseline"):
        assert len(answers_of(tmp_path / "same", role)) == 34 + 32 + 2, (
            "one greedy answer says it all"
        )
    assert all("texts" not in row for row in read_lines(tmp_path / "same" / "items.jsonl"))
    assert (
        run_main(
            "gate",
            "--model",
            other,
            *settings(base, suite, tmp_path / "worse", "--temperature", 0)[2:],
        )
        == 1
    )
    worse = report_of(tmp_path / "worse")
    again = ["--model", other, *settings(base, suite, tmp_path / "worse", "--temperature", 0)[2:]]
    assert run_main("gate", *again) == 1, "a finished gate repeats its verdict"
    assert (
        worse["verdict"] == "BLOCK"
        and "canaries" in worse["why"]
        and worse["overall"]["fail"] is True
    )
    assert {s["verdict"] for s in worse["slices"].values()} == {"FAIL"}
    assert [flip["slice"] for flip in worse["flips"]] == ["a", "b"] * 5, (
        "equal losses: of every slice in turn"
    )
    assert "<title>BLOCK" in (tmp_path / "worse" / "report.html").read_text()
    few = suite_of(tmp_path / "few", a=greedy_items(5, "a"), b=greedy_items(1, "b"))
    for _ in range(2):
        assert run_main("gate", *settings(base, few, tmp_path / "few-out", "--temperature", 0)) == 3
    report = report_of(tmp_path / "few-out")
    assert report["why"] == "a has 5 prompts and needs 31; b has 1 prompts and needs more"
    assert EXIT == {"SHIP": 0, "BLOCK": 1, "NOT ENOUGH DATA": 3}


def test_canaries(scripted, tmp_path):
    """Failed needs a second failure, in one of two fresh answers; what the baseline fails, too, is quarantined."""
    rows = [
        {"id": name, "prompt": name, "type": "canary", "answer": 4}
        for name in ("good", "bad", "flaky", "both")
    ]
    rows[0]["slice"] = "a"  # a canary counts in no slice, whatever it is called
    suite = suite_of(
        tmp_path / "suite",
        a=[{"id": f"a{n}", "prompt": f"a{n}", "answer": 4} for n in range(40)],
        c=rows,
    )

    def say(role, prompt, seed):
        greedy = seed in {seed_for(0, role, name, "greedy") for name in ("flaky", "bad")}
        wrong = role == "candidate" and (
            "bad" in prompt
            and (greedy or seed == seed_for(0, role, "bad", 1))
            or "flaky" in prompt
            and greedy
        )
        return "3" if wrong or "both" in prompt else "4"

    gates = scripted(say)
    assert gates(suite, tmp_path / "out") == 1
    report = report_of(tmp_path / "out")
    assert (
        report["why"] == "canaries that the baseline passes fail: bad"
        and "c" not in report["slices"]
        and report["slices"]["a"]["n"] == 40
    )
    again = read_lines(tmp_path / "out" / "answers-candidate-again.jsonl")
    assert sorted((row["id"], row["sample"]) for row in again) == [
        ("bad", 0),
        ("bad", 1),
        ("flaky", 0),
        ("flaky", 1),
    ]
    found = {c["id"]: (c["baseline"], c["candidate"], c["confirmed"]) for c in report["canaries"]}
    assert found == {
        "good": (True, True, None),
        "bad": (True, False, True),
        "flaky": (True, False, False),
        "both": (False, False, None),
    }
    assert "1 canaries are quarantined" in " ".join(report["blind"])


def test_a_model_against_itself_is_not_blocked(base, tmp_path):
    """Sampled: both roles draw from streams of their own, the baseline twice as often; scores are those of the recorded
    answers, and tokens and cost those of the run."""
    suite = suite_of(tmp_path / "suite", a=noisy_items(25, "a"), b=noisy_items(25, "b"))
    code = run_main("gate", *settings(base, suite, tmp_path / "out", "--price-gpu-hour", 3600))
    assert code in (0, 3)
    report, out = report_of(tmp_path / "out"), tmp_path / "out"
    rows = {role: answers_of(out, role) for role in ("candidate", "baseline")}
    items, tokenizer, model = read_suite(suite, None), make_tokenizer(), make_model()
    by_id = {item["id"]: item for item in items}
    for role, made in rows.items():
        for name in ("a", "b"):
            s = report["slices"][name]
            own = [row for row in made if row["id"].startswith(name)]
            count = s["k"] * (2 if role == "baseline" else 1)
            assert len(own) == 25 * count and {row["sample"] for row in own} == set(range(count))
            share = sum(verify(by_id[row["id"]], row["text"])["ok"] for row in own) / len(own)
            assert s[role] == pytest.approx(share) and 0.1 < share < 0.9
        for row in made[::37]:
            item = by_id[row["id"]]
            [[alone]] = sample(
                model,
                tokenizer,
                [
                    (
                        prompt_ids(tokenizer, item["prompt"]),
                        [(0.7, seed_for(0, role, item["id"], row["sample"]))],
                    )
                ],
                8,
            )
            assert (row["text"], row["tokens"]) == (alone["text"], alone["tokens"])
    record = json.loads((out / "run.json").read_text())
    read = sum(
        len(prompt_ids(tokenizer, by_id[key]["prompt"]))
        for role in rows
        for file in out.glob(f"answers-{role}-*.jsonl")
        for key in {row["id"] for row in read_lines(file)}
    )
    assert record["tokens"] == read + sum(row["tokens"] for made in rows.values() for row in made)
    assert record["cost"] == pytest.approx(record["seconds"])
    for role, made in rows.items():
        answers, seconds = record["speed"][role]
        assert answers == len(made) and 0 < seconds <= record["seconds"]
    assert report["budgets"]["cost"]["candidate"] == pytest.approx(
        1000 * record["speed"]["candidate"][1] / record["speed"]["candidate"][0]
    )
    assert (
        run_main("gate", *settings(base, suite, tmp_path / "out", "--price-gpu-hour", 3600)) == code
    ), "asked again"


def test_clear_slices_are_asked_no_more(scripted, tmp_path, monkeypatch):
    """Each look asks the open slices alone; a failure ends the run; the baseline answers twice as often."""
    suite = suite_of(
        tmp_path / "suite",
        **{
            name: [{"id": f"{name}{n}", "prompt": f"{name}{n}", "answer": 4} for n in range(60)]
            for name in ("easy", "noisy")
        },
    )

    def say(role, prompt, seed):
        return "4" if "easy" in prompt or random.Random(seed).random() < 0.75 else "3"

    gates, loaded = scripted(say), []
    load, how = collect.load_merged, set()

    def load_merged(name, quantize):
        how.add(quantize)
        loaded.append(load(name))
        return loaded[-1]

    monkeypatch.setattr(collect, "load_merged", load_merged)
    assert gates(suite, tmp_path / "out", "--quantize", "none") == 0
    assert how == {"none"}
    report = report_of(tmp_path / "out")
    assert report["slices"]["easy"]["k"] == 2 < report["slices"]["noisy"]["k"] == 8
    assert loaded == ["baseline", "candidate", "baseline", "candidate"], (
        "who is in memory goes first"
    )
    for role, draws in (("candidate", 1), ("baseline", 2)):
        for k, more in ((2, 2), (4, 2), (8, 4)):
            asked = read_lines(tmp_path / "out" / f"answers-{role}-{k}.jsonl")
            names = {"noisy", "easy"} if k == 2 else {"noisy"}
            assert len(asked) == 60 * more * draws * len(names)
            assert {row["id"].rstrip("0123456789") for row in asked} == names

    def worse(role, prompt, seed):
        return "4" if role == "baseline" or "easy" in prompt else "3"

    assert scripted(worse)(suite, tmp_path / "worse" / "g") == 1  # beside no other gate
    assert report_of(tmp_path / "worse" / "g")["why"].startswith("noisy fell by 100.0 points")
    assert not (tmp_path / "worse" / "g" / "answers-candidate-4.jsonl").exists()


def test_greedy_beside_and_a_cooler_candidate(base, tmp_path):
    """--greedy adds one answer a prompt that decides nothing; --model-temperature is the candidate's alone."""
    suite = suite_of(
        tmp_path / "suite", a=noisy_items(12, "a"), c=greedy_items(2, "c", type="canary")
    )
    for name, more in (
        ("plain", []),
        ("greedy", ["--greedy"]),
        ("cool", ["--greedy", "--model-temperature", 0]),
    ):
        run_main(
            "gate", *settings(base, suite, tmp_path / name / name[:1], *more)
        )  # no cached baseline
    plain, greedy, cool = (
        report_of(tmp_path / name / name[:1]) for name in ("plain", "greedy", "cool")
    )
    without = [
        {key: value for key, value in report["slices"]["a"].items() if "greedy" not in key}
        for report in (plain, greedy)
    ]
    assert without[0] == without[1] and plain["slices"]["a"]["greedy_candidate"] is None
    s = greedy["slices"]["a"]
    assert s["greedy_candidate"] == s["greedy_baseline"], "the same model, greedily"
    assert cool["slices"]["a"]["candidate"] == cool["slices"]["a"]["greedy_candidate"], (
        "at 0 there is one answer"
    )
    assert (
        cool["slices"]["a"]["baseline"] == greedy["slices"]["a"]["baseline"]
        and cool["model_temperature"] == 0
    )
    assert (
        len(
            [row for row in answers_of(tmp_path / "cool" / "c", "candidate") if row["id"][0] == "a"]
        )
        == 24
    )


def test_baseline_answers_are_borrowed(base, other, tmp_path, monkeypatch, capsys):
    """By weights, sampling and prompts: a second gate asks the candidate alone; what it finds does not depend on it."""
    suite, loaded, load = (
        suite_of(tmp_path / "suite", a=noisy_items(20, "a")),
        [],
        collect.load_merged,
    )
    monkeypatch.setattr(
        collect, "load_merged", lambda name, *more: loaded.append(name) or load(name, *more)
    )
    run_main("gate", *settings(base, suite, tmp_path / "runs" / "one"))
    assert set(loaded) == {base}
    asked = len(answers_of(tmp_path / "runs" / "one", "baseline"))
    key = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())["baseline_key"]
    keys = {row["id"]: row["of"] for row in answers_of(tmp_path / "runs" / "one", "baseline")}
    assert lendable(tmp_path / "runs" / "one", key, keys) == [], "its own are not borrowed"
    assert len(lendable(tmp_path / "runs" / "new", key, keys)) == asked
    loaded.clear()
    capsys.readouterr()
    for beside in ("runs", "alone"):
        run_main(
            "gate",
            "--plan",
            "--model",
            other,
            *settings(base, suite, tmp_path / beside / "two")[2:],
        )
    lent, whole = (int(n) for n in re.findall(r"about (\d+) answers", capsys.readouterr().out))
    assert whole / 3 <= lent < whole, (
        "the forecast knows what will be borrowed: at most the baseline's two thirds"
    )
    run_main("gate", "--model", other, *settings(base, suite, tmp_path / "runs" / "two")[2:])
    k = report_of(tmp_path / "runs" / "two")["slices"]["a"]["k"]
    assert loaded[0] == other and (base not in loaded) == (k * 40 <= asked)
    run_main("gate", "--model", other, *settings(base, suite, tmp_path / "alone" / "two")[2:])
    assert (
        report_of(tmp_path / "alone" / "two")["slices"]
        == report_of(tmp_path / "runs" / "two")["slices"]
    )
    loaded.clear()
    run_main("gate", *settings(base, suite, tmp_path / "runs" / "three", "--seed", 1))
    assert loaded and not read_lines(tmp_path / "runs" / "three" / "borrowed.jsonl"), (
        "another seed, other answers"
    )
    rows = noisy_items(20, "a")
    rows[0]["prompt"] += " now"
    rows[1]["constraints"] = [{"type": "min_words", "value": 2}]
    suite_of(tmp_path / "other", a=rows)
    run_main("gate", *settings(base, tmp_path / "other", tmp_path / "runs" / "four"))
    lent = {row["id"] for row in read_lines(tmp_path / "runs" / "four" / "borrowed.jsonl")}
    assert lent == {row["id"] for row in rows[1:]}, "the prompt counts, and its verifier does not"


def test_nothing_stale_is_borrowed(base, tmp_path, monkeypatch):
    """Other choices, or a template that ends an answer elsewhere, make another question; damaged files are one line."""
    rows = [
        {
            "id": f"m{n}",
            "slice": "m",
            "type": "mc",
            "prompt": text_of(n, 5),
            "answer": 0,
            "choices": [text_of(n + 7 * c, 1 + c) for c in range(3)],
        }
        for n in range(6)
    ]
    suite, swapped = (
        suite_of(tmp_path / name, m=some)
        for name, some in (
            ("suite", rows),
            ("swapped", [row | {"choices": row["choices"][1:]} for row in rows]),
        )
    )
    for side, own in (("runs", suite), ("alone", swapped), ("runs", swapped)):
        run_main("gate", *settings(base, own, tmp_path / side / own[-3:]))
    found = [report_of(tmp_path / side / "ped")["slices"] for side in ("alone", "runs")]
    assert found[0] == found[1] and not read_lines(tmp_path / "runs" / "ped" / "borrowed.jsonl")
    shutil.copytree(base, tmp_path / "m")
    monkeypatch.setattr(
        gate, "fingerprint", lambda *_: "equal weights"
    )  # an adapter's template lies beside them
    for name, said in (("one", "{{ '<s>' }}"), ("two", "{{ 1 }}")):
        (tmp_path / "m" / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}"
            + said
            + "{% endif %}"
            "{% endfor %}"
        )
        run_main("gate", *settings(tmp_path / "m", suite, tmp_path / "ends" / name))
    assert not read_lines(tmp_path / "ends" / "two" / "borrowed.jsonl")
    out = tmp_path / "runs" / "ped"
    unfinish(out)
    for text in (
        '{"id": "m0"}',
        '{"id": ["m0"], "of": "", "sample": 0, "tokens": 1}',
        "[]",
        '{"id"',
    ):
        (out / "borrowed.jsonl").write_text(text + "\n")
        with pytest.raises(BadInput, match="borrowed.jsonl:1: "):
            run_main("gate", *settings(base, swapped, out))


class StubJudge:
    """Prefers the longer answer; shares memory with nobody."""

    def check(self, pairs):
        pass

    def compare(self, pairs):
        texts = [[row["completion"][0]["content"] for row in pair] for pair in pairs]
        return [{"p": [len(a) / (len(a) + len(b))] * 2, "tokens": 7} for a, b in texts]


def cuts_of(whole):
    """Lengths to which a kill may leave a file: nothing, a torn line first, amid and last, whole lines, all."""
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    middle = ends[len(ends) // 2]
    return sorted({0, 5, ends[0], middle - 9, middle, len(whole) - 1, len(whole)})


def test_resume_after_a_cut_at_any_byte(scripted, base, tmp_path, monkeypatch):
    """Every file, cut as kills cut it, with those before it whole and none behind it: all goes on to the same bytes.

    Models, judge and report are stubs: what is tested is which answers are made again and which are kept."""
    suite = suite_of(
        tmp_path / "suite",
        a=[{"id": f"a{n}", "prompt": text_of(n, 2 + n % 5), "answer": 4} for n in range(34)],
        b=[
            {"id": f"b{n}", "prompt": f"canary {n}", "type": "canary", "answer": 4}
            for n in range(3)
        ],
        j=[{"id": f"j{n}", "prompt": f"judged {n}", "type": "judge"} for n in range(5)],
        m=[
            {"id": f"m{n}", "prompt": f"m{n}", "type": "mc", "choices": ["one", "two"], "answer": 0}
            for n in range(9)
        ],
        u=[{"id": f"u{n}", "prompt": f"u{n}", "type": "budget"} for n in range(2)],
    )

    def say(role, prompt, seed):
        wrong = random.Random(seed).random() < 0.4 or ("canary" in prompt and role == "candidate")
        return "well " * (seed % 3) + ("3" if wrong else "4")

    def seq_logps(model, rows):
        return [torch.tensor([-float(sum(row["ids"]) % 13) for row in rows])]

    gates = scripted(say)
    monkeypatch.setattr(collect, "reads_lines", lambda model: True)
    monkeypatch.setattr(collect, "seq_logps", seq_logps)
    monkeypatch.setattr(collect, "READ_AT_ONCE", 4)
    tokenizer = gate.load_tokenizer(base)
    monkeypatch.setattr(gate, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(gate, "make_judge", lambda *_: StubJudge())
    monkeypatch.setattr(gate, "check_judge", lambda *_: None)
    monkeypatch.setattr(gate, "read_constitution", lambda path: {})
    monkeypatch.setattr(gate, "answers_to_make", lambda *_, **__: (0, 0))
    for name in ("markdown", "html"):
        monkeypatch.setattr(gate, name, lambda report: "")
    collected, summaries, order = [], [], []

    def summarise(answers, *more, **named):
        if not collected:
            collected.append(answers)
            summaries.append(gate_summarise(answers, *more, **named))
        assert answers == collected[0]
        return summaries[0]

    def extend(run, path, *more):
        order.append(path.name)
        run_extend(run, path, *more)

    gate_summarise, run_extend = gate.summarise, FileRun.extend
    monkeypatch.setattr(gate, "summarise", summarise)
    (tmp_path / "c.md").write_text(TEXT)
    more = ["--judge", base, "--constitution", tmp_path / "c.md", "--greedy"]
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(FileRun, "extend", extend)
        code = gates(suite, out, *more)
    kept = {file.name: file.read_bytes() for file in out.iterdir()}
    whole_run = json.loads(kept["run.json"])
    record = whole_run | {"finished": False}
    assert len(order) == len({*order}) >= 14, order
    assert {"choices-candidate.jsonl", "judged-2.jsonl", "answers-candidate-again.jsonl"} <= {
        *order
    }

    for number, name in enumerate(order):
        for cut in cuts_of(kept[name]):
            for file in out.iterdir():
                file.unlink()
            (out / "run.json").write_text(json.dumps(record))
            (out / "borrowed.jsonl").write_bytes(kept["borrowed.jsonl"])
            for earlier in order[:number]:
                (out / earlier).write_bytes(kept[earlier])
            (out / name).write_bytes(kept[name][:cut])
            assert gates(suite, out, *more) == code
            for file in (*order, "items.jsonl"):
                assert (out / file).read_bytes() == kept[file], (name, cut, file)
            again = json.loads((out / "run.json").read_text())
            assert (again["tokens"], again["verdict"]) == (
                whole_run["tokens"],
                whole_run["verdict"],
            )
    with pytest.raises(BadInput, match="other arguments.*temperature"):
        gates(suite, out, *more, "--temperature", 0.9)


# ---- types of items -------------------------------------------------------------------------------------------


def test_head_to_head_by_a_judge(base, other, judge_folder, tmp_path, capsys):
    """The judge's probabilities of both orders, averaged; equal answers are a tie unasked; a killed run goes on."""
    (tmp_path / "c.md").write_text(TEXT)
    items = [
        {"id": f"j{n}", "type": "judge", "slice": "math", "prompt": text_of(n, 4)} for n in range(6)
    ]
    suite = suite_of(tmp_path / "suite", j=items, v=noisy_items(30, "v"))
    more = ["--judge", judge_folder, "--constitution", tmp_path / "c.md"]
    command = ["--model", other, *settings(base, suite, tmp_path / "out")[2:], *more]
    run_main("gate", *command)
    out, read = tmp_path / "out", read_constitution(tmp_path / "c.md")
    report, compared = report_of(out), {row["id"]: row for row in read_lines(out / "items.jsonl")}
    model, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(judge_folder),
        make_tokenizer(),
    )
    texts = {
        (role, row["id"], row["sample"]): row["text"]
        for role in ("candidate", "baseline")
        for row in answers_of(out, role)
    }
    k = report["slices"]["math"]["k"]
    for item in items:
        sides = []
        for n in range(k):
            pair = [texts[role, item["id"], n] for role in ("candidate", "baseline")]
            [(p, _)] = judge_pairs(
                model,
                tokenizer,
                read,
                [
                    Case(
                        [{"role": "user", "content": item["prompt"]}],
                        [[{"role": "assistant", "content": text}] for text in pair],
                        "math",
                    )
                ],
            )
            sides += [0.5] if pair[0] == pair[1] else [] if None in p else [sum(p) / 2]
        if sides:
            assert compared[item["id"]]["candidate"] == pytest.approx(
                sum(sides) / len(sides), abs=1e-4
            )
        else:
            assert item["id"] in report["missing"]
    won = report["winrate"]
    assert (
        won["wins"] + won["losses"] + won["ties"]
        == report["slices"]["math"]["n"]
        == len(won["lengths"]["baseline"])
    )
    assert report["slices"]["math"][
        "baseline"
    ] == 0.5 and "mistakes are in no interval" in " ".join(report["blind"])
    [*kept] = ((path, path.read_bytes()) for path in sorted(out.glob("judged-*.jsonl")))
    assert kept and report["contaminated"] is None
    prompts = {item["id"]: item["prompt"] for item in read_suite(suite)}
    spent = sum(row["tokens"] for path, _ in kept for row in read_lines(path))
    for path in out.glob("answers-*.jsonl"):
        rows = read_lines(path)
        spent += sum(row["tokens"] for row in rows)
        spent += sum(len(prompt_ids(tokenizer, prompts[key])) for key in {r["id"] for r in rows})
    assert report["tokens"] == spent, "the judge's, too"
    for path, whole in kept:
        for cut in (len(whole) // 2,):
            path.write_bytes(whole[:cut])
            unfinish(out)
            run_main("gate", *command)
            assert path.read_bytes() == whole and report_of(out) == report
    capsys.readouterr()
    run_main("gate", *settings(base, suite, tmp_path / "none"))
    assert "items of type judge are left out" in capsys.readouterr().out
    assert list(report_of(tmp_path / "none")["slices"]) == ["v"]
    for one in (more[:2], more[2:]):
        with pytest.raises(BadInput, match="go together"):
            run_main("gate", *settings(base, suite, tmp_path / "x"), *one)


@pytest.mark.parametrize(
    ("canary", "broken"),
    [
        ({"baseline": True, "candidate": False}, True),
        ({"baseline": True, "candidate": False, "confirmed": True}, True),
        ({"baseline": True, "candidate": False, "confirmed": False}, False),
        ({"baseline": False, "candidate": False}, False),
        ({"baseline": True, "candidate": True}, False),
    ],
)
def test_a_canary_that_breaks(canary, broken):
    """Asked once it counts; where it was asked again, the second answer decides."""
    assert bool(gate.is_broken(canary)) is broken


def test_what_decides_on_the_result():
    """Files and models on this machine, a judge's, too; not what a server has."""
    words = ["--suite", "s", "--model", "m", "--baseline", "b", "--policy", "p.jsonl"]
    args = gate.parse_args([*words, "--verifiers", "v.py"])
    for judge, inputs in ((None, []), ("runs/judge", ["runs/judge"]), ("m@http://h:1", [])):
        args.judge = judge
        assert gate.inputs_of(args) == ["s", "m", "b", "p.jsonl", "v.py", *inputs]


def test_what_the_judge_is_told(monkeypatch, tmp_path):
    """How it is loaded and asked, where its replies are kept, and what the record knows of it."""
    monkeypatch.setattr(
        gate, "Judge", lambda *names, **more: SimpleNamespace(compares=names, **more)
    )
    words = ["--constitution", str(ROOT / "data/constitution.md"), "--quantize", "none"]
    args = gate.parse_args([*words, "--concurrency", "3", "--seed", "7"])
    run = SimpleNamespace(record={}, replies=tmp_path / "kept.jsonl")
    assert gate.make_judge(args, run, "memory") is None, "without --judge"
    args.judge = "j"
    judge = gate.make_judge(args, run, "memory")
    assert judge.compares == ("j", read_constitution(args.constitution), "memory")
    assert (judge.quantize, judge.concurrency, judge.seed) == ("none", 3, 7)
    assert judge.kept == run.replies and judge.logprobs is run.record["logprobs"] == {}


def test_a_judge_that_compares_nothing_is_refused(monkeypatch):
    """As one of your own may be."""
    monkeypatch.setattr(gate, "Judge", lambda *_, **__: SimpleNamespace(compares=False))
    constitution = str(ROOT / "data/constitution.md")
    args = gate.parse_args(["--constitution", constitution])
    args.judge = "short"
    run = SimpleNamespace(record={}, replies=None)
    with pytest.raises(BadInput, match="--judge short"):
        gate.make_judge(args, run, None)


def collector_of(tmp_path, item, temperature, check=None):
    """An AnswerCollector of one item, which both models are asked at this temperature."""
    sides = {}
    for role in ("baseline", "candidate"):
        sides[role] = Side(role, None, temperature, {item["id"]: [1, 2]}, {item["id"]: "key"})
    run = FileRun(tmp_path / "out", "gate.py", {}, [])
    return AnswerCollector(
        run, [item], sides, Sampling(8, 8, 0), check=check, judge=None, memory=None
    )


@pytest.mark.parametrize(
    ("fresh", "confirmed"),
    [
        ([True, True], [False]),
        ([True, False], [True]),
        ([False, False], [True]),
        ([None, False], [True]),
        ([None, True], []),
        ([True, None], []),
    ],
)
@pytest.mark.parametrize(("temperature", "again"), [(0.0, 0.7), (0.3, 0.3)])
def test_a_canary_is_asked_again(tmp_path, fresh, confirmed, temperature, again):
    """Twice, and not greedily. One wrong answer confirms; one of which nobody can tell leaves it
    without a score, unless the other is wrong."""
    item = {"id": "c", "type": "canary", "slice": "s", "prompt": []}
    collector = collector_of(
        tmp_path, item, temperature, check=lambda item, text: {"ok": json.loads(text)}
    )
    for role, text in (("baseline", "true"), ("candidate", "false")):
        collector.answers[role]["c"]["greedy"] = answer(text)

    def ask(label, items, samples):
        assert (label, items) == ("again", [item])
        assert samples == {"candidate": [(0, again), (1, again)]}
        for number, ok in enumerate(fresh):
            collector.answers["candidate"]["c"][number] = answer(json.dumps(ok))

    collector.ask = ask
    reports = collector.canaries([item])
    assert [report["confirmed"] for report in reports] == confirmed
    assert all(report["text"] == "false" and report["baseline"] for report in reports)
    assert not any(report["candidate"] for report in reports)


def test_tools_are_a_part_of_the_question(tmp_path, monkeypatch):
    """Of a prompt, of a choice, and of what the judge reads; absent where an item has none."""
    seen = []

    def read(tokenizer, prompt, *more):
        seen.append(more[-1])
        return {"ids": [1, 2, 3, 4], "mask": [0, 0, 1, 1]}

    monkeypatch.setattr(gate, "prompt_ids", lambda *words, **_: read(*words)["ids"])
    monkeypatch.setattr(gate, "load_tokenizer", lambda name: name)
    monkeypatch.setattr(gate, "fit_items", lambda *_, prompts, **__: prompts)
    monkeypatch.setattr(collect, "encode", read)
    monkeypatch.setattr(collect, "seq_logps", lambda model, rows: [torch.tensor([-1.0, -2.0])])
    args = gate.parse_args(["--model", "m", "--baseline", "b", "--model-temperature", "0.2"])
    choices = {"choices": ["x", "y"], "answer": 0}
    for more in ({"tools": ["t"]}, {}):
        item = {"id": "a", "type": "mc", "slice": "s", "prompt": ["p"]} | choices | more
        sides = gate.read_sides(args, [item])
        assert [sides[role].name for role in ("baseline", "candidate")] == ["b", "m"]
        assert [sides[role].temperature for role in ("baseline", "candidate")] == [0.7, 0.2]
        collector = collector_of(tmp_path, item, 0.7)
        collector._likeliest_choice(None, collector.sides["baseline"], item)
        assert seen == [more.get("tools")] * 4
        seen.clear()
        pair = collect.pair_of(collect.Duel(item, 0, answer("c"), answer("b")))
        texts = [row["completion"][0]["content"] for row in pair]
        assert texts == ["c", "b"] and [row["candidate"] for row in pair] == [0, 1]
        for row in pair:
            assert {key: row[key] for key in row if key == "tools"} == more
            assert (row["id"], row["prompt"], row["slice"]) == ("a", ["p"], "s")


def test_what_the_judge_reads_is_checked_before_it_is_asked(tmp_path):
    """The answers are there by then."""
    item = {"id": "a", "type": "judge", "slice": "s", "prompt": []}
    calls = []

    class Checked(StubJudge):
        def check(self, pairs):
            calls.append([row["completion"][0]["content"] for row in pairs[0]])
            raise BadInput("too long")

        def compare(self, pairs):
            raise AssertionError("asked")

    collector = collector_of(tmp_path, item, 0.0)
    collector.judge = Checked()
    collector.answers = {"candidate": {"a": {0: answer("c")}}, "baseline": {"a": {0: answer("b")}}}
    with pytest.raises(BadInput, match="too long"):
        collector.compare(1, [item])
    assert calls == [["c", "b"]]


def test_a_choice_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    item = {"id": "m7", "type": "mc", "slice": "s", "prompt": [], "choices": ["x"], "answer": 0}

    def refuse(*_):
        raise ValueError("no answer in it")

    monkeypatch.setattr(collect, "encode", refuse)
    collector = collector_of(tmp_path, item, 0.7)
    with pytest.raises(BadInput, match=r"^id 'm7': a choice cannot be scored: no answer in it$"):
        collector._likeliest_choice(None, collector.sides["baseline"], item)


def test_the_judges_tokenizer_is_tried_where_it_is_here(monkeypatch):
    """Not that of a judge behind an endpoint."""
    tried = []
    monkeypatch.setattr(gate, "load_tokenizer", tried.append)
    for judge in (None, "m@http://h:1", "runs/judge"):
        args = gate.parse_args([])
        args.judge = judge
        assert gate.read_sides(args, []) == {}
    assert tried == ["runs/judge"]


def test_how_many_answers_count():
    """Greedy ones are all the same; the baseline is asked twice as often."""
    draws = {}
    for heats in ((0.7, 0.7), (0.0, 0.7), (0.7, 0.0), (0.0, 0.0)):
        candidate, baseline = heats
        counts = collect.draws_of({"candidate": candidate, "baseline": baseline}, 4)
        draws[heats] = (counts["candidate"], counts["baseline"])
    assert [*draws.values()] == [(4, 8), (1, 8), (4, 1), (1, 1)]


def test_equal_answers_are_a_tie_unasked(tmp_path):
    item = {"id": "a", "type": "judge", "slice": "s", "prompt": []}
    sides = {role: Side(role, None, 0.7, {"a": [1]}, {}) for role in ("baseline", "candidate")}
    run = FileRun(tmp_path / "out", "gate.py", {}, [])
    collector = AnswerCollector(
        run, [item], sides, Sampling(8, 8, 0), check=None, judge=None, memory=None
    )
    assert run.record["speed"] == {"baseline": [0, 0.0], "candidate": [0, 0.0]}
    for role, count in (("candidate", 2), ("baseline", 4)):
        collector.answers[role]["a"] = {n: answer("same") for n in range(count)}
    collector.compare(2, [item])
    assert [one.p for one in collector.answers["candidate"]["a"].values()] == [[0.5, 0.5]] * 2
    assert not (tmp_path / "out" / "judged-2.jsonl").exists() and collector.tokens == 0


def test_a_judge_that_made_the_training_data_is_named(base, other, judge_folder, tmp_path):
    (tmp_path / "c.md").write_text(TEXT)
    run = {
        "script": "dpo.py",
        "finished": True,
        "arguments": {},
        "inputs": {str(tmp_path / "judged" / "pairs.jsonl"): ""},
    }
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "pairs.jsonl").write_text("{}\n")
    (tmp_path / "judged" / "run.json").write_text(
        json.dumps(
            {
                "script": "judge.py",
                "finished": True,
                "arguments": {"judge": [str(judge_folder)]},
                "inputs": {},
            }
        )
    )
    policy = save_folder(tmp_path / "policy", seed=1)
    (tmp_path / "policy" / "run.json").write_text(json.dumps(run | {"path": "run.json"}))
    (tmp_path / "judged" / "run.json").write_text(
        (tmp_path / "judged" / "run.json")
        .read_text()
        .replace('"inputs"', '"path": "run.json", "inputs"')
    )
    suite = suite_of(
        tmp_path / "suite",
        j=[{"id": f"j{n}", "type": "judge", "prompt": text_of(n, 4)} for n in range(4)],
    )
    run_main(
        "gate",
        "--model",
        policy,
        *settings(base, suite, tmp_path / "out")[2:],
        "--judge",
        judge_folder,
        "--constitution",
        tmp_path / "c.md",
    )
    assert "also made the training data" in report_of(tmp_path / "out")["contaminated"]
    assert "CONTAMINATED" in (tmp_path / "out" / "report.md").read_text().splitlines()[0]


def test_multiple_choice_by_log_likelihood(base, other, tmp_path):
    """Per byte of the choice, its stop token left out; one look; the right one is found as a full softmax finds it."""
    rows = [
        {
            "id": f"m{n}",
            "type": "mc",
            "prompt": text_of(n, 5),
            "answer": n % 3,
            "choices": [text_of(n + 7 * c, 1 + c) for c in range(3)],
        }
        for n in range(12)
    ]
    suite = suite_of(tmp_path / "suite", m=rows)
    run_main("gate", "--model", other, *settings(base, suite, tmp_path / "out")[2:])
    report, tokenizer, spent = report_of(tmp_path / "out"), make_tokenizer(), 0
    for role, name in (("candidate", other), ("baseline", base)):
        model, right = transformers.AutoModelForCausalLM.from_pretrained(name), 0
        for row, got in zip(rows, read_lines(tmp_path / "out" / f"choices-{role}.jsonl")):
            scores, read = [], 0
            for choice in row["choices"]:
                one = encode(
                    tokenizer,
                    [{"role": "user", "content": row["prompt"]}],
                    [{"role": "assistant", "content": choice}],
                )
                start, ids = one["mask"].index(1), torch.tensor([one["ids"][:-1]])
                read += ids.shape[1] - start
                with torch.no_grad():
                    logps = model(ids).logits[0].log_softmax(-1)
                total = sum(logps[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1]))
                scores.append(total / len(choice.encode()))
            assert got["logps"] == pytest.approx(scores, abs=1e-5) and got["id"] == row["id"]
            assert got["tokens"] == start + read, "the prompt is read once for all choices"
            spent += got["tokens"]
            right += scores.index(max(scores)) == row["answer"]
        assert report["slices"]["m"][role] == pytest.approx(right / 12)
    assert report["tokens"] == spent
    assert report["slices"]["m"]["k"] is None and report["slices"]["m"]["type"] == "mc"


def test_other_choices_are_another_question(base, tmp_path):
    """A cached choice is not borrowed when the choices have changed under the same prompt and id."""
    row = {"id": "m", "type": "mc", "prompt": "Which?", "choices": ["one", "two"], "answer": 0}
    for name, choices in (
        ("a", ["one", "two"]),
        ("b", ["one", "two"]),
        ("c", ["two", "one", "three"]),
    ):
        suite = suite_of(tmp_path / f"suite-{name}", m=[row | {"choices": choices}])
        run_main("gate", *settings(base, suite, tmp_path / "runs" / name))
    lent = [len(read_lines(tmp_path / "runs" / name / "borrowed.jsonl")) for name in "abc"]
    assert lent == [0, 1, 0]
    assert not (tmp_path / "runs" / "b" / "choices-baseline.jsonl").exists(), "none is left to ask"


def test_recorded_outcomes_need_no_model(tmp_path, monkeypatch):
    """Live traffic, and scores of another program: decided without --model and --baseline."""
    monkeypatch.setattr(gate, "load_tokenizer", None)
    won = ["candidate", "tie", "candidate", "baseline"]
    live = [
        {
            "id": f"x{n}",
            "slice": "live",
            "type": "ab",
            "winner": won[n % 4],
            "cluster": f"user{n // 2}",
        }
        for n in range(200)
    ]
    quiz = [
        {
            "id": f"q{n}",
            "slice": "quiz",
            "type": "scored",
            "candidate": float(n % 4 != 0),
            "baseline": float(n % 5 != 0),
        }
        for n in range(100)
    ]
    suite = suite_of(tmp_path / "suite", ab=live, quiz=quiz)
    assert run_main("gate", "--suite", suite, "--out", tmp_path / "out") == 3
    report = report_of(tmp_path / "out")
    assert report["verdict"] == "NOT ENOUGH DATA"
    live, quiz = report["slices"]["live"], report["slices"]["quiz"]
    assert (live["n"], live["clusters"], live["candidate"], live["baseline"]) == (
        200,
        100,
        0.625,
        0.5,
    )
    assert (live["wins"], live["losses"], live["verdict"]) == (100, 50, "CLEAR")
    assert quiz["candidate"] == 0.75 and quiz["baseline"] == 0.8 and quiz["type"] == "scored"
    assert quiz["k"] is None and report["winrate"] is None and report["returned"] is None
    assert report["refusals"] is None and report["baseline"] == "baseline of unknown name"
    assert report["candidate"] == "candidate of unknown name"
    names = ["--model", "new", "--baseline", "old"]
    assert run_main("gate", "--suite", suite, "--out", tmp_path / "named", *names) == 3
    assert report_of(tmp_path / "named")["candidate"] == "new"


def test_a_users_own_verifier(scripted, tmp_path):
    """--verifiers: an item may have the user's field alone; the file is one of the run's inputs."""
    checks = tmp_path / "my_checks.py"
    checks.write_text(
        "def vowels(text, value):\n    return sum(c in 'aeiou' for c in text) == value\n"
    )
    rows = [{"id": f"a{n}", "prompt": f"a{n}", "vowels": 2} for n in range(40)]
    suite = suite_of(tmp_path / "suite", a=rows)
    gates = scripted(lambda role, prompt, seed: "boo" if role == "baseline" else "baa, baa")
    with pytest.raises(BadInput, match=r"a.jsonl:1: field 'type': .*a field to verify"):
        gates(suite, tmp_path / "without")
    other = suite_of(tmp_path / "other", a=[{"id": "a", "prompt": "a", "answer": 4}])
    with pytest.raises(BadInput, match=r"--verifiers: no row has a field .*\(vowels\)"):
        gates(other, tmp_path / "unused", "--verifiers", checks)
    assert gates(suite, tmp_path / "out", "--verifiers", checks) == 1
    assert report_of(tmp_path / "out")["why"].startswith("a fell by 100.0 points")
    assert str(checks) in json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]
    checks.write_text(checks.read_text() + "# changed\n")
    with pytest.raises(BadInput, match=r"other inputs \(.*my_checks.py\)"):
        gates(suite, tmp_path / "out", "--verifiers", checks)


def test_a_check_that_cannot_tell_of_a_canary(scripted, tmp_path):
    """None is neither passed nor failed: it can be in no SHIP, and it is no crash."""
    checks = tmp_path / "my_checks.py"
    checks.write_text("def quiet(text, value):\n    return None if '?' in text else True\n")
    rows = [{"id": f"a{n}", "prompt": f"a{n}", "quiet": 1} for n in range(40)]
    sure = suite_of(tmp_path / "sure", a=rows)
    canary = {"id": "c", "type": "canary", "prompt": "canary", "quiet": 1}
    suite = suite_of(tmp_path / "suite", a=rows, b=[canary])
    words = ["--verifiers", checks, "--greedy"]

    gates = scripted(lambda role, prompt, seed: "fine")
    assert gates(suite, tmp_path / "fine", *words) == 0
    greedy = {seed_for(0, role, f"a{n}", "greedy") for role in collect.ROLES for n in range(40)}
    gates = scripted(lambda role, prompt, seed: "hm?" if seed in greedy else "fine")
    assert gates(sure, tmp_path / "greedy", *words) == 0
    gates = scripted(lambda role, prompt, seed: "hm?" if "canary" in prompt else "fine")
    assert gates(suite, tmp_path / "out", *words) == 3
    report = report_of(tmp_path / "out")
    assert report["missing"] == ["c"] and not report["canaries"]
    assert "b has too many items without a score" in report["why"]


# ---- policies and budgets -------------------------------------------------------------------------------------


def test_a_price_decides_where_the_cost_has_a_limit(scripted, tmp_path):
    """Then a finished gate is not another one's verdict; else the price may change."""
    rows = [{"id": f"a{n}", "prompt": f"a{n}", "answer": 4} for n in range(40)]
    suite = suite_of(tmp_path / "suite", a=rows)
    gates = scripted(lambda role, prompt, seed: "4")
    limit = write(tmp_path / "p.jsonl", [{"budget": "cost", "limit": 1.5}])
    for name, more in (("free", []), ("limited", ["--policy", limit])):
        words = [suite, tmp_path / name, *more, "--price-gpu-hour"]
        assert gates(*words, 1) == 0
        if name == "free":
            assert gates(*words, 2) == 0
        else:
            with pytest.raises(BadInput, match=r"other arguments \(deciding_price\)"):
                gates(*words, 2)


def test_policy(scripted, tmp_path):
    """A soft slice does not block; a margin and a limit of one's own decide."""
    suite = suite_of(
        tmp_path / "suite",
        **{
            name: [{"id": f"{name}{n}", "prompt": f"{name} {n}", "answer": 4} for n in range(40)]
            for name in ("good", "fun")
        },
    )
    gates = scripted(
        lambda role, prompt, seed: "3" if "fun" in prompt and role == "candidate" else "4"
    )
    assert gates(suite, tmp_path / "hard") == 1
    assert report_of(tmp_path / "hard")["why"].startswith("fun fell by 100.0 points")
    policy = write(
        tmp_path / "p.jsonl", [{"slice": "fun", "hard": False}, {"slice": "*", "margin": 0.2}]
    )
    assert gates(suite, tmp_path / "soft", "--policy", policy) == 0
    soft = report_of(tmp_path / "soft")
    assert (
        soft["why"].endswith("not clear, but soft: fun") and soft["slices"]["good"]["margin"] == 0.2
    )
    assert soft["overall"]["delta"] == 0.0, "soft slices are not in the mean"
    policy = write(
        tmp_path / "q.jsonl", [{"slice": "fun", "hard": False}, {"slice": "good", "min_n": 50}]
    )
    assert gates(suite, tmp_path / "more", "--policy", policy) == 3
    assert report_of(tmp_path / "more")["why"] == "good has 40 prompts and needs 50"


def test_long_answers_block(scripted, tmp_path):
    """Right and half as long again: the tokens of right answers block, unless the policy lets them."""
    suite = suite_of(
        tmp_path / "suite", a=[{"id": f"a{n}", "prompt": f"a {n}", "answer": 4} for n in range(40)]
    )

    def say(role, prompt, seed):
        return "well " * random.Random(seed).randint(6, 8) * (2 if role == "candidate" else 1) + "4"

    gates = scripted(say)
    assert gates(suite, tmp_path / "out") == 1
    report = report_of(tmp_path / "out")
    assert re.match(
        r"right answers take 1\.[78]\d times the tokens \[.*\], limit 1.10$", report["why"]
    )
    policy = write(tmp_path / "p.jsonl", [{"budget": "tokens", "limit": None}])
    assert gates(suite, tmp_path / "slice", "--policy", policy) == 1
    assert re.match(
        r"right answers in a take 1\.[78]\d times", report_of(tmp_path / "slice")["why"]
    )
    policy = write(
        tmp_path / "q.jsonl",
        [{"budget": name, "limit": None} for name in ("tokens", "slice_tokens")],
    )
    assert gates(suite, tmp_path / "free", "--policy", policy) == 0
    gates = scripted(lambda role, prompt, seed: ("4", "length" if role == "candidate" else "stop"))
    assert gates(suite, tmp_path / "cut") == 1
    assert "answers that are cut off grew by 100.0 points" in report_of(tmp_path / "cut")["why"]


def test_over_refusal_is_named(scripted, tmp_path):
    """Twins: refusing everything keeps the harmful slice whole, and the other one falls, with the reason."""
    suite = suite_of(
        tmp_path / "suite",
        **{
            kind: [
                {"id": f"{kind}{n}", "prompt": f"{kind} {n}", "type": kind, "cluster": f"t{n}"}
                for n in range(40)
            ]
            for kind in ("refuse", "comply")
        },
    )
    gates = scripted(
        lambda role, prompt, seed: (
            "Sorry, I cannot help with that."
            if role == "candidate" or "refuse" in prompt
            else "Here you are."
        )
    )
    assert gates(suite, tmp_path / "out") == 1
    report = report_of(tmp_path / "out")
    assert "comply fell by 100.0 points" in report["why"]
    assert "over-refusal: harmless requests were refused in 0%, now in 100%" in report["why"]
    assert report["refusals"]["candidate"] == {"harmful": [80, 80], "harmless": [80, 80]}
    assert report["refusals"]["baseline"] == {"harmful": [160, 160], "harmless": [0, 160]}


def test_latency_and_items_that_are_only_counted(scripted, tmp_path, monkeypatch):
    suite = suite_of(
        tmp_path / "suite",
        a=[{"id": f"a{n}", "prompt": f"a {n}", "answer": 4} for n in range(40)],
        b=[{"id": f"b{n}", "prompt": f"b {n}", "type": "budget"} for n in range(6)],
    )
    clock = {"now": 0.0}
    monkeypatch.setattr(collect.time, "perf_counter", lambda: clock["now"])

    def say(role, prompt, seed):
        clock["now"] += (2.0 if role == "candidate" else 1.0) * (1 + len(prompt) % 2 / 1000)
        return "long " * 30 if "b " in prompt and role == "candidate" else "4"

    gates, calls = scripted(say), []
    sampled = collect.sample

    def watched(model, tokenizer, jobs, max_tokens):
        calls.append((jobs, max_tokens))
        return sampled(model, tokenizer, jobs, max_tokens)

    monkeypatch.setattr(collect, "sample", watched)
    policy = write(
        tmp_path / "p.jsonl",
        [{"budget": "latency", "limit": 1.5}]
        + [{"budget": name, "limit": None} for name in ("tokens", "slice_tokens")],
    )
    assert gates(suite, tmp_path / "out", "--latency", 5, "--policy", policy) == 1
    report = report_of(tmp_path / "out")
    assert report["why"].startswith("an answer takes 2.00 times as long")
    timed = json.loads((tmp_path / "out" / "run.json").read_text())["timed"]
    assert [len(timed[role]) for role in ("baseline", "candidate")] == [5, 5], "without the warm-up"
    for jobs, max_tokens in calls[-12:]:
        [[_, [(temperature, _)]]] = jobs
        assert temperature == 0 and max_tokens == 8, "one greedy answer at a time"
    late = report["budgets"]["latency"]
    assert late["p50"] == pytest.approx({"candidate": 2.0, "baseline": 1.0}, rel=1e-3)
    assert late["fail"] and late["limit"] == 1.5
    assert list(report["slices"]) == ["a"] and report["budgets"]["tokens"]["candidate"] > 5
    assert (
        len([row for row in answers_of(tmp_path / "out", "candidate") if row["id"][0] == "b"]) == 12
    )


# ---- before and after -----------------------------------------------------------------------------------------


def test_a_slice_without_any_score_is_no_success(base, tmp_path, capsys):
    """Unit tests need --run-code; without it their slice has no score, and the verdict cannot be SHIP."""
    suite = suite_of(
        tmp_path / "suite",
        a=greedy_items(34, "a"),
        code=[{"id": "t", "prompt": "write f", "tests": ["assert f(1) == 1"]}],
    )
    assert run_main("gate", *settings(base, suite, tmp_path / "out", "--temperature", 0)) == 3
    report = report_of(tmp_path / "out")
    assert report["missing"] == ["t"] and report["why"] == "code has too many items without a score"
    assert "without --run-code" in capsys.readouterr().out
    suite = suite_of(
        tmp_path / "more",
        a=greedy_items(34, "a"),
        safe=[{"id": "c", "prompt": "write f", "type": "canary", "tests": ["assert f(1) == 1"]}],
    )
    assert run_main("gate", *settings(base, suite, tmp_path / "canary", "--temperature", 0)) == 3
    report = report_of(tmp_path / "canary")
    assert report["missing"] == ["c"] and report["why"] == "safe has too many items without a score"
    suite = suite_of(tmp_path / "suite", a=greedy_items(34, "a"))
    policy = write(tmp_path / "p.jsonl", [{"slice": "code", "hard": False}])
    assert (
        run_main(
            "gate",
            *settings(base, suite, tmp_path / "soft", "--temperature", 0, "--policy", policy),
        )
        == 0
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "x", "prompt": "p", "type": "quiz", "answer": 1}], "a.jsonl:1: field 'type'"),
        ([{"id": "x", "prompt": "p"}], "a.jsonl:1: field 'type'"),
        ([], "no records"),
        (None, "no *.jsonl"),
        (
            [{"id": "x", "prompt": "p", "answer": 1}, {"id": "x", "prompt": "q", "answer": 1}],
            "a.jsonl:2: field 'id'",
        ),
        ("no folder", "no such file"),
    ],
)
def test_bad_suites_are_one_line(base, tmp_path, capsys, rows, words):
    suite = tmp_path / "suite"
    if rows != "no folder":
        suite_of(suite, **({} if rows is None else {"a": rows}))
    arguments = gate.parse_args([str(word) for word in settings(base, suite, tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run_stage(gate.main, arguments)
    error = capsys.readouterr().err
    assert (
        ended.value.code == 2
        and error.count("\n") == 1
        and words in error
        and "Traceback" not in error
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x"], "--suite is needed"),
        (["--suite", "S"], "--model, --baseline and --out"),
        (["--suite", "S", "--model", "m", "--out", "x"], "--model, --baseline and --out"),
        (["--suite", "S", "--model", "m", "--baseline", "m"], "--model, --baseline and --out"),
        (["--selftest"], "--selftest takes"),
        (["--simulate"], "--selftest takes"),
        (["--selftest", "--out", "nowhere"], "nowhere: no finished gate"),
        (["--suite", "S", "--judge", "a", "b", "--constitution", "c"], "one judge"),
        (["--suite", "S", "--judge", "random", "--constitution", "c"], "no random one"),
        (
            ["--suite", "S", "--model", "m", "--baseline", "m", "--out", "x", "--latency", "5"],
            "the suite has 3 prompts",
        ),
        (["--suite", "S", "--policy", "P", "--power"], "p.jsonl:1: field 'slice'"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, words, said):
    suite = suite_of(tmp_path / "suite", a=noisy_items(3, "a"))
    policy = write(tmp_path / "p.jsonl", [{"slice": "zoo", "margin": 0.1}])
    with pytest.raises(BadInput, match=re.escape(said)):
        run_main("gate", *({"S": suite, "P": policy}.get(word, word) for word in words))


def test_nothing_is_asked_in_vain(base, tmp_path):
    """A judge that is not there, and a prompt that a template refuses, are said before the first answer."""
    suite = suite_of(
        tmp_path / "suite", a=noisy_items(3, "a"), j=[{"id": "j", "prompt": "x", "type": "judge"}]
    )
    with pytest.raises(BadInput, match="nowhere"):
        run_main(
            "gate",
            *settings(
                base, suite, tmp_path / "out", "--judge", "./nowhere", "--constitution", "c.md"
            ),
        )
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text(
        "{% if 'x' in messages[0]['content'] %}{{ raise_exception('no')"
        " }}{% endif %}{{ messages[0]['content'] }}"
    )
    with pytest.raises(BadInput, match=r"m, id 'j': the chat template refuses"):
        run_main(
            "gate",
            *settings(
                tmp_path / "m", suite, tmp_path / "out", "--judge", base, "--constitution", "c.md"
            ),
        )
    assert not (tmp_path / "out").exists()


def test_plan_power_and_limit(base, tmp_path, monkeypatch, capsys):
    suite = suite_of(
        tmp_path / "suite", a=noisy_items(40, "a"), c=greedy_items(2, "c", type="canary")
    )
    monkeypatch.setattr(collect, "load_merged", None)
    for limit in (40, 3):
        assert (
            run_main(
                "gate",
                *settings(
                    base,
                    suite,
                    tmp_path / "out",
                    "--plan",
                    "--limit",
                    limit,
                    "--answer-len",
                    5,
                    "--tokens-per-second",
                    10,
                    "--price-gpu-hour",
                    36,
                ),
            )
            == 0
        )
        read = sum(
            len(prompt_ids(make_tokenizer(), item["prompt"])) for item in read_suite(suite, limit)
        )
        said = capsys.readouterr().out
        count, tokens = (
            int(word.replace(",", ""))
            for word in re.search(r"about ([\d,]+) answers.*: ([\d,]+) tokens", said).groups()
        )
        assert (
            tokens == 2 * read + 5 * count
            and f"at most {48 * limit:,}:" in said
            and f"{limit + 2} items" in said
        )
        assert 6 * limit <= count <= 48 * limit and f"cost {tokens / 1000:.4f}" in said
    assert run_main("gate", "--power", "--suite", suite) == 0
    said = capsys.readouterr().out
    needs = [
        int(need)
        for need in re.findall(r" k \d+: (\d+)", re.search("^a +40 +10 points.*", said, re.M)[0])
    ]
    assert 110 < needs[0] < 130 and needs == sorted(needs, reverse=True) and needs[-1] >= 31
    assert "blocked after a drop" in said
    assert not (tmp_path / "out").exists()


def test_the_forecast_of_answers(monkeypatch):
    """Rounds that the rule is expected to need, times what both models answer in the first; less
    what is lent, at most what the baseline would be asked."""
    asked = []

    def expected_answers(sizes, policies, looks):
        asked.append((dict(sizes), policies, looks))
        return 2 * 3.0 * sum(sizes.values())  # three rounds of two answers

    monkeypatch.setattr(gate, "expected_answers", expected_answers)
    kinds = {"v": "verify", "w": "verify", "j": "judge", "m": "mc", "c": "canary", "b": "budget"}
    items = [{"id": key, "slice": key.upper(), "type": kind} for key, kind in kinds.items()]
    warm = {"baseline": 0.7, "candidate": 0.7}
    looks = (2, 4, 8, 16)
    assert gate.answers_to_make(items, "policies", looks, warm, lent={}) == (3 * 3 * 6, 3 * 48)
    assert asked == [({"V": 1, "W": 1, "J": 1}, "policies", looks)]
    lent = {"v": 5, "w": 99}
    assert gate.answers_to_make(items, "", looks, warm, lent=lent)[0] == 54 - 5 - 3 * 4
    cool = warm | {"candidate": 0.0}
    assert gate.answers_to_make(items, "", looks, cool, lent={}) == (3 * 3 * 5, 3 * 33)
    one = gate.answers_to_make(items[:1], "", looks, warm, lent={})
    assert one == (3 * 6, 48)
    assert gate.answers_to_make(items[3:], "", looks, warm, lent={}) == (0, 0)


def test_what_is_lent_to_the_forecast(monkeypatch, capsys, tmp_path):
    """Answers to items that are sampled look by look, by verifiers or a judge; no canary's."""
    kinds = {"v": "verify", "j": "judge", "m": "mc", "c": "canary"}
    items = [{"id": key, "slice": key, "type": kind} for key, kind in kinds.items()]
    rows = [{"id": key} for key in "vvjmc"]
    monkeypatch.setattr(gate, "lendable", lambda out, key, keys: rows)
    told = []
    monkeypatch.setattr(
        gate, "answers_to_make", lambda *_, lent: told.append(dict(lent)) or (10, 1000)
    )
    args = gate.parse_args(["--out", str(tmp_path / "out"), "--max-tokens", "4"])
    side = Side("m", None, 0.7, {"v": [1, 2], "j": [3]}, {})
    sides = {"baseline": side, "candidate": side}
    plan = gate.plan_run(args, items, items, {"v": 1}, sides=sides, key=[])
    assert told == [{"v": 2, "j": 1}] and plan["tokens"] == 10 * 4 + 2 * 3
    said = capsys.readouterr().out
    assert said.startswith(
        "plan     4 items, 1 slices, about 10 answers if nothing changed, at most 1,000: "
    )
    plan = gate.plan_run(args, items, [], {}, sides={}, key=None)
    assert told[1] == {} and plan["tokens"] == 40


def items_read(suite, *words):
    """(arguments, (items, policies, limits)) of --suite as the gate reads it, without a judge."""
    args = gate.parse_args(["--suite", str(suite), *[str(word) for word in words]])
    args.judge = None
    return args, gate.read_items(args, CHECKS)


def test_slices_that_are_seen_once(tmp_path):
    """Where both models answer greedily, or the type has one outcome."""
    choice = {"prompt": "q", "type": "mc", "choices": ["x", "y"], "answer": 0}
    suite = suite_of(tmp_path / "suite", a=noisy_items(1, "a"), m=[choice])
    for heat, own, once in (
        (0, None, True),
        (0, 0, True),
        (0, 1, False),
        (0, 0.7, False),
        (1, 0, False),
        (0.7, None, False),
    ):
        words = ["--temperature", heat]
        if own is not None:
            words += ["--model-temperature", own]
        _, (_, policies, _) = items_read(suite, *words)
        assert {name: policy["once"] for name, policy in policies.items()} == {"a": once, "m": True}


def test_notes_on_what_is_not_looked_at(tmp_path, capsys):
    """A limit whose measure is not taken, items that cannot be graded; each only where it is so."""
    plain = suite_of(tmp_path / "plain", a=noisy_items(5, "a"))
    items_read(plain)
    assert capsys.readouterr().out == ""
    limits = [{"budget": name, "limit": 2} for name in ("latency", "cost")]
    policy = write(tmp_path / "p.jsonl", limits)
    items_read(plain, "--policy", policy)
    assert capsys.readouterr().out.splitlines() == [
        "note     the limit of latency is not looked at: it needs --latency N",
        "note     the limit of cost is not looked at: it needs --price-gpu-hour",
    ]
    items_read(plain, "--policy", policy, "--latency", 5, "--price-gpu-hour", 1)
    assert capsys.readouterr().out == ""

    sides = ["--model", "m", "--baseline", "b", "--out", "x"]
    args, (items, _, _) = items_read(plain, *sides, "--latency", 5)
    assert gate.items_for_models(args, items) == items, "as many as there are"
    assert capsys.readouterr().out == "", "nothing needs --run-code"
    code = {"prompt": "f", "tests": ["assert f(1) == 1"]}
    mixed = suite_of(tmp_path / "mixed", a=noisy_items(2, "a"), c=[code])
    for more, count in (([], 2), (["--run-code"], 3)):
        args, (items, _, _) = items_read(mixed, *sides, *more)
        assert len(gate.items_for_models(args, items)) == count
        assert ("without --run-code" in capsys.readouterr().out) == (not more)


@pytest.mark.parametrize("more", [[], ["--run-code"], ["--run-code", "--unsafe"]])
def test_how_answers_are_checked(scripted, tmp_path, monkeypatch, more):
    """Unit tests run as the flags allow."""
    asked = []
    monkeypatch.setattr(gate, "verify", lambda item, text, **how: asked.append(how) or {"ok": True})
    suite = suite_of(tmp_path / "suite", a=[{"prompt": "a", "answer": 4}])
    assert scripted(lambda role, prompt, seed: "4")(suite, tmp_path / "out", *more) == 3
    assert {how["run_code"] for how in asked} == {"--run-code" in more}
    assert {how["unsafe"] for how in asked} == {"--unsafe" in more}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["forecast"]["tokens"] > 0 and record["verdict"] == "NOT ENOUGH DATA"


def test_selftest_of_a_gate(scripted, tmp_path, capsys):
    """It redraws the baseline's own answers: a noisy baseline hides what a steady one shows."""
    rates = {}
    for name, flips in (("steady", 0.02), ("noisy", 0.5)):
        suite = suite_of(
            tmp_path / f"suite-{name}",
            a=[{"id": f"a{n}", "prompt": f"a {n}", "answer": 4} for n in range(60)],
        )
        gates = scripted(
            lambda role, prompt, seed, flips=flips: (
                "3" if random.Random(seed).random() < flips else "4"
            )
        )
        assert gates(suite, tmp_path / name / "g") == 0
        assert "blocks an unchanged model in" in " ".join(report_of(tmp_path / name / "g")["blind"])
        assert run_main("gate", "--selftest", "--out", tmp_path / name / "g") == 0
        text = (tmp_path / name / "g" / "selftest.json").read_text()
        assert len(text.splitlines()) > 20, "a person can read it"
        rates[name] = json.loads(text)
        assert rates[name]["same"]["BLOCK"] <= 0.05 and rates[name]["placebo"]["BLOCK"] <= 0.05
    said = capsys.readouterr().out
    assert "blocked after a drop of" in said
    assert f"on the answers of {report_of(tmp_path / name / 'g')['baseline']}, drawn anew" in said
    assert rates["steady"]["caught"]["a"]["0.1"] > 0.9 > rates["noisy"]["caught"]["a"]["0.05"] + 0.2


def test_simulate(monkeypatch, capsys):
    monkeypatch.setattr(gate, "promise_lines", lambda: promise_lines(100))
    assert run_main("gate", "--selftest", "--simulate") in (0, 1)
    assert capsys.readouterr().out.count("promised") == 6
    monkeypatch.setattr(gate, "promise_lines", lambda: (["one"], False))
    assert run_main("gate", "--selftest", "--simulate") == 1
