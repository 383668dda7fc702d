"""Traps that were sprung once: think blocks, borrowed reference values, wrong kinds of input."""

import json
import re
import shutil

import pytest
from conftest import (
    adapter_of,
    label_rows,
    pair_rows,
    run_main,
    run_script,
    same_tensors,
    sft_rows,
    write,
)

import gate
from judge import find_flags
from posttrain.chat.thoughts import visible
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.judging.constitution import overall_score
from posttrain.train import training_run
from posttrain.verify.checks import verify


def test_verifiers_and_filters_look_behind_the_think_block():
    thought = "<think>They ask for harm.</think>\n\nI can't help with that."
    assert visible(thought) == visible(thought[7:]) == "I can't help with that."
    assert verify({"expected": "refuse"}, thought)["ok"] is True
    assert verify({"expected": "comply"}, thought)["ok"] is False
    row = {"expected": "comply", "completion": [{"role": "assistant", "content": thought}]}
    assert find_flags(row) == ["over-refusal"]


# ---- runs ----------------------------------------------------------------------------------------------------


def test_borrowed_reference_values_are_copied(base, tmp_path, monkeypatch):
    """A run that took its reference from a run beside it continues when that one is gone."""
    data = write(tmp_path / "p.jsonl", pair_rows(6))
    common_words = [
        "--model",
        base,
        "--data",
        data,
        "--batch-size",
        2,
        "--lora-r",
        2,
        "--save-every",
        1,
    ]
    assert run_main("dpo", *common_words, "--out", tmp_path / "lender") == 0
    assert run_main("dpo", *common_words, "--out", tmp_path / "whole", "--loss", "ipo") == 0
    calls = []

    def stop(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    real = training_run.append_lines
    monkeypatch.setattr(training_run, "append_lines", stop)
    with pytest.raises(KeyboardInterrupt):
        run_main("dpo", *common_words, "--out", tmp_path / "cut", "--loss", "ipo")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "lender")
    whole = adapter_of(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    assert run_main("dpo", *common_words, "--out", tmp_path / "cut", "--loss", "ipo") == 0
    assert same_tensors(adapter_of(tmp_path / "cut"), whole)
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert record["tokens"] < record["forecast"]["tokens"], (
        "the forecast counts a reference pass, the run needed none"
    )


@pytest.mark.parametrize(
    ("stage", "words", "message"),
    [
        ("sft", ["--data", "{data}=0.01"], "less than one a pass"),
        ("sft", ["--data", "{zero}"], "weight 0"),
        ("sft", ["--model", "{foreign}"], "neither a model"),
        ("dpo", ["--model", "{torn}"], "no model can be loaded"),
        ("sft", ["--out", "{data}/x"], "Not a directory"),
        ("sft", ["--data", "{folder}"], "expected a file"),
    ],
)
def test_plausible_mistakes_are_one_line(base, tmp_path, capsys, stage, words, message):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{")
    shutil.copytree(base, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"\x08" * 50)
    rows = pair_rows(3) if stage == "dpo" else sft_rows(3)
    places = {
        "data": write(tmp_path / "d.jsonl", rows),
        "foreign": tmp_path / "foreign",
        "torn": tmp_path / "torn",
        "zero": write(tmp_path / "z.jsonl", [row | {"weight": 0} for row in rows]),
        "folder": tmp_path,
    }
    given = {"--model": base, "--data": places["data"], "--out": str(tmp_path / "out")}
    given |= {words[0]: words[1].format(**places)}
    module = __import__(stage)
    with pytest.raises(SystemExit) as ended:
        run_stage(module.main, module.parse_args([word for pair in given.items() for word in pair]))
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and message in error, error


def test_a_crash_is_no_verdict(capsys):
    def crash(args):
        raise ZeroDivisionError("planted")

    with pytest.raises(SystemExit) as ended:
        run_stage(crash, None)
    assert ended.value.code == 70 and "planted" in capsys.readouterr().err


def test_shares_have_an_upper_limit(capsys):
    p = parser("x")
    p.add_argument("--share", type=at_least(0, float, 1))
    assert p.parse_args(["--share", "1"]).share == 1
    with pytest.raises(SystemExit):
        p.parse_args(["--share", "10"])
    p.add_argument("--lr", type=at_least(0, float))
    assert p.parse_args(["--lr", "1e9"]).lr == 1e9
    for word in ("inf", "nan", "-1"):
        with pytest.raises(SystemExit):
            p.parse_args(["--lr", word])
        assert "is not a number from 0 to inf" in capsys.readouterr().err


def test_flags_are_written_out(capsys):
    """A shortened one could mean another flag in the next version."""
    p = parser("x")
    p.add_argument("--share")
    with pytest.raises(SystemExit):
        p.parse_args(["--sha", "1"])
    assert "unrecognized arguments: --sha 1" in capsys.readouterr().err


def test_help_shows_the_defaults_that_say_something():
    """A zero does; that a flag is absent does not. The docstring keeps its lines."""
    p = parser("Some lines\n    that stay.\n")
    p.add_argument("--none", help="nothing given")
    p.add_argument("--off", action="store_true", help="a switch")
    p.add_argument("--zero", type=int, default=0, help="a number")
    p.add_argument("--some", default="auto", help="a word")
    text = p.format_help()
    assert "Some lines\n    that stay.\n" in text
    for flag, told in (("none", "nothing given"), ("off", "a switch")):
        assert re.search(rf"--{flag}[ A-Z]* {told}\n", text), text
    assert "a number (default: 0)\n" in text and "a word (default: auto)\n" in text


# ---- judge and gate ------------------------------------------------------------------------------------------


def test_one_id_for_two_prompts_is_refused(base, tmp_path):
    rows = [
        {"id": "1", "candidate": n, "prompt": prompt, "completion": "x"}
        for n, prompt in enumerate(("a?", "b?"))
    ]
    (tmp_path / "c.md").write_text("## good\nGood?\n0: no\n3: so\n5: yes\n")
    with pytest.raises(BadInput, match="two different prompts"):
        run_main(
            "judge",
            "--judge",
            "random",
            "--constitution",
            tmp_path / "c.md",
            "--data",
            write(tmp_path / "c.jsonl", rows),
            "--out",
            tmp_path / "out",
        )


def test_the_random_judge_uses_no_filter(tmp_path):
    rows = [
        {"id": "1", "candidate": n, "prompt": "a?", "completion": "x" * n, "finish": "length"}
        for n in range(4)
    ]
    (tmp_path / "c.md").write_text("## good\nGood?\n0: no\n3: so\n5: yes\n")
    run_main(
        "judge",
        "--judge",
        "random",
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "c.jsonl", rows),
        "--out",
        tmp_path / "out",
    )
    judged = [
        json.loads(line) for line in (tmp_path / "out" / "judged.jsonl").read_text().splitlines()
    ]
    assert all(row["flags"] == [] for row in judged)


def test_a_veto_holds_in_the_one_place_that_makes_a_score():
    criteria = [
        {"name": "a", "weight": 3.0, "veto": None},
        {"name": "safe", "weight": 1.0, "veto": 2.0},
    ]
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": 5.0}}, criteria) == 5.0
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": 1.0}}, criteria) == 1.0
    assert overall_score({"a": {"score": 5.0}, "safe": {"score": None}}, criteria) is None


def test_a_changed_verifier_grades_the_cached_baseline_anew(base, tmp_path, monkeypatch):
    items = [
        {"id": f"i{n}", "prompt": f"say {n}", "constraints": [{"type": "max_words", "value": 50}]}
        for n in range(31)
    ]
    (tmp_path / "suite").mkdir()
    write(tmp_path / "suite" / "a.jsonl", items)
    words = [
        "--model",
        base,
        "--baseline",
        base,
        "--suite",
        tmp_path / "suite",
        "--max-tokens",
        4,
        "--temperature",
        0,
    ]
    assert run_main("gate", *words, "--out", tmp_path / "g1") == 0
    seen = (tmp_path / "g1" / "report.json").read_bytes()
    assert run_main("gate", *words, "--out", tmp_path / "g1") == 0, (
        "a finished gate repeats its verdict"
    )
    assert (tmp_path / "g1" / "report.json").read_bytes() == seen
    monkeypatch.setattr(gate, "verify", lambda item, text, *_, **__: {"ok": False})
    run_main("gate", *words, "--out", tmp_path / "g2")
    report = json.loads((tmp_path / "g2" / "report.json").read_text())
    assert report["slices"]["a"]["baseline"] == 0.0
    assert (tmp_path / "g2" / "borrowed.jsonl").read_text().count("\n") == 31


def test_a_share_above_one_in_a_process(tmp_path):
    done = run_script(
        "kto",
        "--model",
        "x",
        "--data",
        write(tmp_path / "l.jsonl", label_rows(2)),
        "--out",
        tmp_path / "o",
        "--warmup",
        10,
    )
    assert done.returncode == 2 and "from 0 to 1" in done.stderr and "Traceback" not in done.stderr
