"""bench/learning_rates.py: the default rates are among those it tries, and its figures are the runs'."""

import json

import learning_rates
import pytest
from conftest import ROOT

import dpo
import kto
import sft
from posttrain.cli import BadInput

TRAINERS = {"sft": sft, "dpo": dpo, "kto": kto}


def line(**measures):
    return {"trainer": "dpo", "lr": 2e-5, "seed": 0, "steps": 38, "eval_loss": 0.6} | measures


@pytest.mark.parametrize("trainer", TRAINERS)
def test_default_rates_have_been_tried(trainer):
    """And the figures of each are in bench/RESULTS.md."""
    words = ["--model", "m", "--data", "d", "--out", "o"]
    default = TRAINERS[trainer].parse_args(words).lr
    rates = getattr(learning_rates.parse_args([]), trainer)
    assert default in rates
    results = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    assert all(f"| {trainer} | {rate:g} |" in results for rate in rates)


def test_a_row_of_the_table():
    lines = [line(right=0.25), line(seed=1, right=0.5, steps=39, eval_loss=0.7)]
    head, rule, row = learning_rates.table(lines)
    cells = row.strip("| ").split(" | ")
    assert len(head.split("|")) == len(rule.split("|")) == len(row.split("|"))
    assert cells[:4] == ["dpo", "2e-05", "38, 39", "0.650 (0.600, 0.700)"]
    assert cells[-2:] == ["37.5% (25.0%, 50.0%)", "-"]


def test_rates_and_trainers_have_rows_of_their_own():
    lines = [line(), line(lr=1e-4), line(trainer="kto"), line(seed=1)]
    rows = learning_rates.table(lines)[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| dpo", "2e-05"],
        ["| dpo", "0.0001"],
        ["| kto", "2e-05"],
    ]


def test_a_failed_run_has_no_mean():
    lines = [line(right=0.25), {"trainer": "dpo", "lr": 2e-5, "seed": 1, "failed": "nan"}]
    row = learning_rates.table(lines)[2]
    assert row.count("failed") == len(learning_rates.COLUMNS) and "| 38 |" in row


def test_the_last_evaluation_counts(tmp_path):
    last = {
        "step": 38,
        "eval_loss": 0.6,
        "eval_rewards/chosen": 0.5,
        "eval_rewards/rejected": -0.25,
        "eval_rewards/accuracies": 0.9,
        "sampled_kl": 1.5,
    }
    log = tmp_path / "log.jsonl"
    log.write_text(f"{json.dumps(last | {'step': 1})}\n{json.dumps(last)}\n")
    assert learning_rates.last_evaluation(tmp_path) == {
        "steps": 38,
        "eval_loss": 0.6,
        "eval_margin": 0.75,
        "eval_accuracy": 0.9,
        "sampled_kl": 1.5,
    }


def test_a_run_without_held_out_rows_says_so(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.6}\n')
    with pytest.raises(BadInput, match="raise --limit"):
        learning_rates.last_evaluation(tmp_path)


def test_accepted_answers_are_counted(tmp_path, monkeypatch):
    """Of the gate's prompts in every slice; one that the verifiers refuse is wrong."""
    commands = []

    def answer(*words):
        """In place of gen_candidates.py: the right number, then a wrong one."""
        commands.append(words)
        rows = [{"answer": "4", "completion": "It is 4.", "tokens": 3}]
        rows.append({"answer": "4", "completion": "It is 5.", "tokens": 6})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        words[words.index("--out") + 1].write_text(text)

    monkeypatch.setattr(learning_rates, "run", answer)
    args = learning_rates.parse_args(["--out", str(tmp_path)])
    (tmp_path / "seed-0").mkdir()
    assert learning_rates.Walk(args, 0).answers("m", "sft-1") == {"right": 0.5, "tokens": 4.5}
    files = [word for word in commands[0] if str(word).startswith("data/tiny/gate/")]
    assert len(files) == 8 and "data/tiny/gate/canaries.jsonl" not in files


def test_every_run_gets_its_rate_and_its_start(tmp_path, monkeypatch):
    """DPO and KTO start from the SFT run of --start-rate, and end at the rates that the lines name."""
    commands = []
    monkeypatch.setattr(learning_rates, "run", lambda *words: commands.append([*map(str, words)]))
    monkeypatch.setattr(learning_rates, "last_evaluation", lambda folder: {})
    monkeypatch.setattr(learning_rates.Walk, "answers", lambda walk, model, name: {})
    words = ["--sft", "1e-4", "--dpo", "1e-3", "2e-3", "--kto", "3e-3", "--out", str(tmp_path)]
    args = learning_rates.parse_args([*words, "--lora-r", "4", "--lora-alpha", "32"])
    lines = list(learning_rates.lines_of(args, 7))
    assert [(line["trainer"], line["lr"]) for line in lines] == [
        ("base", 0.0),
        ("sft", 1e-4),
        ("sft", 2e-3),
        ("dpo", 1e-3),
        ("dpo", 2e-3),
        ("kto", 3e-3),
    ]

    def flag(command, name):
        return command[command.index(name) + 1]

    training = [command for command in commands if "--lr" in command]
    assert [float(flag(command, "--lr")) for command in training] == [1e-4, 2e-3, 1e-3, 2e-3, 3e-3]
    start = str(tmp_path / "seed-7" / "sft-0.002")
    models = [flag(command, "--model") for command in training]
    assert models == [learning_rates.TINY + "/base"] * 2 + [start] * 3
    data = [flag(command, "--data") for command in training[2:]]
    assert [file.rsplit("/")[-1] for file in data] == ["pairs.jsonl"] * 2 + ["labels.jsonl"]
    for command in training:
        assert flag(command, "--seed") == "7" and flag(command, "--lora-r") == "4"
        assert flag(command, "--lora-alpha") == "32"


def test_sft_alone_needs_no_labels(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(learning_rates, "run", lambda *words: commands.append(words[0]))
    monkeypatch.setattr(learning_rates, "last_evaluation", lambda folder: {})
    monkeypatch.setattr(learning_rates.Walk, "answers", lambda walk, model, name: {})
    args = learning_rates.parse_args(["--dpo", "--kto", "--out", str(tmp_path)])
    assert len(list(learning_rates.lines_of(args, 0))) == 6
    assert set(commands) == {"sft.py"}


def test_a_run_that_fails_is_a_line(tmp_path, monkeypatch):
    def fail(*words):
        raise BadInput("the gradient norm is nan")

    monkeypatch.setattr(learning_rates, "run", fail)
    args = learning_rates.parse_args(["--out", str(tmp_path)])
    measures = learning_rates.Walk(args, 0).train("dpo", 1.0, "m", "d")
    assert measures == {"failed": "the gradient norm is nan"}


def test_the_last_line_of_a_command_that_fails():
    with pytest.raises(BadInput, match=r"sft.py: error: .*--model"):
        learning_rates.run("sft.py")
