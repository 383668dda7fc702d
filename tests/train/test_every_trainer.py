"""What all trainers promise, asked of each: plan, mask, limit, mixture, held-out rows, a run's end."""

import json
from types import SimpleNamespace

import pytest
from conftest import (
    ROWS,
    Seen,
    adapter_of,
    log_lines,
    make_model,
    make_tokenizer,
    run_main,
    show_call,
    write,
)

from posttrain.cli import BadInput
from posttrain.train import training_run

STAGES = ["sft", "dpo", "kto"]
ANSWER = {"sft": "completion", "dpo": "rejected", "kto": "completion"}  # a field of each one's rows

pytestmark = pytest.mark.parametrize("stage", STAGES)


def command(stage, base, folder, rows, *more):
    """A small run's command line; --out is folder/run."""
    data = write(folder / "data.jsonl", rows)
    words = ["--model", base, "--data", data, "--out", folder / "run"]
    return [*words, "--batch-size", 3, "--lora-r", 2, "--lr", 0.01, *more]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refuse_to_load(monkeypatch, stage):
    def load_policy(*args, **more):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(f"{stage}.load_policy", load_policy)


def test_processes_are_joined_before_anything_is_read(monkeypatch, stage):
    show_call(monkeypatch, f"{stage}.join_processes")
    with pytest.raises(Seen):
        run_main(stage, "--model", "none", "--data", "none", "--out", "none")


def test_the_adapter_is_that_of_the_flags(base, tmp_path, monkeypatch, stage):
    """Its rank, scale and seed, and layers computed anew where the GPU is too small."""
    on_gpu = SimpleNamespace(is_available=lambda: True)
    monkeypatch.setattr(training_run, "torch", SimpleNamespace(cuda=on_gpu))
    monkeypatch.setattr(training_run, "needs_checkpointing", lambda memory: True)
    show_call(monkeypatch, f"{stage}.load_policy")
    words = command(stage, base, tmp_path, ROWS[stage](4), "--lora-alpha", 5, "--seed", 3)
    with pytest.raises(Seen) as seen:
        run_main(stage, *words, "--quantize", "none")
    args, more = seen.value.args
    assert args == (base, "none")
    assert more == {"lora_r": 2, "lora_alpha": 5, "seed": 3, "checkpointing": True}


@pytest.mark.parametrize(("share", "expected"), [(0.4, 8), (0, 20)])
def test_answers_are_drawn_to_held_out_prompts(base, tmp_path, monkeypatch, stage, share, expected):
    """Where none are held out, to those that are trained on."""
    show_call(monkeypatch, f"{stage}.watched_prompts")
    words = command(stage, base, tmp_path, ROWS[stage](20), "--holdout", share)
    with pytest.raises(Seen) as seen:
        run_main(stage, *words)
    assert len(seen.value.args[0][0]) == expected


# ---- before anything is paid ---------------------------------------------------------------------


def test_a_plan_loads_nothing_and_writes_nothing(base, tmp_path, monkeypatch, capsys, stage):
    refuse_to_load(monkeypatch, stage)
    words = command(stage, base, tmp_path, ROWS[stage](7), "--plan", "--tokens-per-second", 10)
    assert run_main(stage, *words) == 0
    printed = capsys.readouterr().out
    assert (
        "plan     3 steps, 0 rows held out (fewer than 8 would say little), " in printed
        and "memory   about" in printed
    )
    assert not (tmp_path / "run").exists()


def test_the_mask_is_shown_and_nothing_written(base, tmp_path, monkeypatch, capsys, stage):
    """Three rows of a file, of pairs both answers; KTO says their labels."""
    refuse_to_load(monkeypatch, stage)
    rows = ROWS[stage](5)
    assert run_main(stage, *command(stage, base, tmp_path, rows, "--show-mask")) == 0
    printed = capsys.readouterr().out
    shown = printed[printed.index("<|im_start|>") :].split("\n---\n")
    answers = [row[ANSWER[stage]] for row in rows[:3]]
    if stage == "dpo":
        answers = []
        for row in rows[:3]:
            answers += [row["chosen"], row["rejected"]]
    assert len(shown) == len(answers)
    for text, answer in zip(shown, answers):
        assert f"⟦{answer}<|im_end|>⟧" in text
    if stage == "kto":
        assert "False: <|im_start|>user" in printed and "\nTrue: <|im_start|>user" in printed
    assert not (tmp_path / "run").exists()


def test_the_mask_is_shown_of_every_file(base, tmp_path, capsys, stage):
    """Three rows of each: a second file may be read otherwise than the first."""
    second = write(tmp_path / "more.jsonl", ROWS[stage](2))
    words = command(stage, base, tmp_path, ROWS[stage](5), "--show-mask")
    words.insert(words.index("--out"), second)
    assert run_main(stage, *words) == 0
    printed = capsys.readouterr().out
    answers_of_a_row = 2 if stage == "dpo" else 1
    assert printed.count("⟦") == (3 + 2) * answers_of_a_row


def test_tools_stand_in_every_prompt(base, tmp_path, capsys, stage):
    tools = [{"type": "function", "function": {"name": "weather_of", "parameters": {}}}]
    rows = [row | {"tools": tools} for row in ROWS[stage](2)]
    assert run_main(stage, *command(stage, base, tmp_path, rows, "--show-mask")) == 0
    answers_of_a_row = 2 if stage == "dpo" else 1
    assert capsys.readouterr().out.count("weather_of") == 2 * answers_of_a_row


def test_an_answer_too_long_is_cut(base, tmp_path, capsys, stage):
    """--max-len, and the line on the data says how many."""
    rows = ROWS[stage](4)
    for name in {"completion", "chosen", "rejected"} & rows[0].keys():
        rows[2][name] = f"{name} " * 60
    lines = []
    for longest in (60, 2000):
        words = command(stage, base, tmp_path, rows, "--plan", "--max-len", longest)
        assert run_main(stage, *words) == 0
        lines.append(capsys.readouterr().out.partition("data  ")[2].splitlines()[0])
    cut = 2 if stage == "dpo" else 1
    assert f"4 rows, 4 kept, 0 dropped, {cut} answers truncated" in lines[0]
    assert "4 rows, 4 kept, 0 dropped, 0 answers truncated" in lines[1]


def test_a_prompt_too_long_is_cut_where_that_is_asked_for(base, tmp_path, capsys, stage):
    """Else its answer is lost, and the reason names the flag."""
    rows = ROWS[stage](20)
    rows[2]["prompt"] = "word " * 60
    words = command(stage, base, tmp_path, rows, "--plan", "--max-len", 80)
    assert run_main(stage, *words) == 0
    data = capsys.readouterr().out.partition("data  ")[2].splitlines()[0]
    assert "19 kept, 1 dropped (nothing of the answer is left within --max-len: --truncate" in data
    assert run_main(stage, *words, "--truncate", "left") == 0
    data = capsys.readouterr().out.partition("data  ")[2].splitlines()[0]
    assert "20 kept, 0 dropped, 0 answers truncated, 1 prompts cut, " in data, "that of a pair once"


# ---- which rows are read -------------------------------------------------------------------------


def test_limit(base, tmp_path, capsys, stage):
    """So many rows of each file."""
    second = write(tmp_path / "more.jsonl", ROWS[stage](9))
    words = command(stage, base, tmp_path, ROWS[stage](9), "--limit", 4, "--plan")
    words.insert(words.index("--out"), second)
    assert run_main(stage, *words) == 0
    printed = capsys.readouterr().out
    assert "data     8 rows, 8 kept" in printed and "plan     3 steps" in printed


def test_weight_of_a_slice(base, tmp_path, capsys, stage):
    """Four rows once and four twice are twelve draws: four steps of three."""
    rows = [row | {"slice": "ab"[n % 2]} for n, row in enumerate(ROWS[stage](8))]
    for flags, steps in (([], 3), (["--slice-weight", "b=2"], 4)):
        assert run_main(stage, *command(stage, base, tmp_path, rows, *flags, "--plan")) == 0
        assert f"plan     {steps} steps" in capsys.readouterr().out


def test_held_out_rows(base, tmp_path, capsys, stage):
    """Half of twenty rows; none with --holdout 0; they are scored and not trained on."""
    for share, held in ((0.5, 10), (0, 0)):
        folder = tmp_path / str(share)
        folder.mkdir()
        words = command(stage, base, folder, ROWS[stage](20), "--holdout", share, "--max-steps", 1)
        assert run_main(stage, *words) == 0
        assert f"1 steps, {held} rows held out, " in capsys.readouterr().out
        (line,) = log_lines(folder / "run")
        assert ("eval_loss" in line) == bool(held)


def test_the_learning_rate_is_that_of_the_flags(base, tmp_path, stage):
    """Four steps at 0.01: a rise over half of them, then half a cosine."""
    words = command(stage, base, tmp_path, ROWS[stage](12), "--warmup", 0.5)
    assert run_main(stage, *words) == 0
    rates = [line["lr"] for line in log_lines(tmp_path / "run")]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.005])


@pytest.mark.parametrize(
    ("empty", "flags", "passes"),
    [
        (1, [], True),  # one of twenty is the 5 % that is allowed
        (2, [], False),
        (2, ["--max-dropped", 0.1], True),
        (1, ["--max-dropped", 0.04], False),
        (0, ["--max-dropped", 0], True),
        (1, ["--max-dropped", 0], False),
    ],
)
def test_dropped_rows(base, tmp_path, capsys, stage, empty, flags, passes):
    rows = ROWS[stage](20)
    for row in rows[:empty]:
        row[ANSWER[stage]] = " "
    words = command(stage, base, tmp_path, rows, "--plan", *flags)
    reason = f"empty answer: {empty}" if empty else ""
    if passes:
        assert run_main(stage, *words) == 0
        printed = capsys.readouterr().out
        assert f"20 rows, {20 - empty} kept, {empty} dropped" in printed and reason in printed
    else:
        refusal = rf"{empty} of 20 rows would be dropped \({reason}\).*--max-dropped"
        with pytest.raises(BadInput, match=refusal):
            run_main(stage, *words)


# ---- a run's end ---------------------------------------------------------------------------------


def test_seconds_are_those_of_the_clock(base, tmp_path, monkeypatch, stage):
    """From the first step on; a clock that stands still says none."""
    monkeypatch.setattr("posttrain.train.training_run.time.perf_counter", lambda: 5.0)
    assert run_main(stage, *command(stage, base, tmp_path, ROWS[stage](3))) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seconds"] == 0


def test_what_a_run_records(base, tmp_path, monkeypatch, stage):
    """Tokens, seconds and their price, forecast and measured; the loss of the last step."""
    clock = iter(range(10**6))
    monkeypatch.setattr("posttrain.train.training_run.time.perf_counter", lambda: next(clock))
    words = command(stage, base, tmp_path, ROWS[stage](6), "--price-gpu-hour", 3600)
    assert run_main(stage, *words, "--tokens-per-second", 10) == 0
    record, lines = (
        json.loads((tmp_path / "run/run.json").read_text()),
        log_lines(tmp_path / "run", ()),
    )
    assert record["cost"] == record["seconds"] == lines[-1]["seconds"] == 2
    assert record["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-7)
    forecast = record["forecast"]
    assert forecast["cost"] == forecast["seconds"] == forecast["tokens"] / 10
    assert record["tokens"] == forecast["tokens"]
    steps = sum(line["tokens"] for line in lines)
    assert record["tokens"] == steps if stage == "sft" else record["tokens"] > 1.5 * steps
    assert not (tmp_path / "run/README.md").exists(), "peft's empty model card"


def test_a_finished_run_is_left_as_it_is(base, tmp_path, monkeypatch, capsys, stage):
    """The same command again: exit code 0, a line that says so, no model loaded, no byte changed."""
    words = command(stage, base, tmp_path, ROWS[stage](4), "--max-steps", 1)
    assert run_main(stage, *words) == 0
    before = contents(tmp_path / "run")
    capsys.readouterr()
    refuse_to_load(monkeypatch, stage)
    (tmp_path / "run/checkpoint.pt").write_bytes(b"left by a kill after the record was written")
    assert run_main(stage, *words) == 0
    assert "run is finished: nothing to do" in capsys.readouterr().out
    assert contents(tmp_path / "run") == before


def test_a_run_that_goes_too_far_ends_early(base, tmp_path, capsys, stage):
    words = command(stage, base, tmp_path, ROWS[stage](9), "--eval-every", 1, "--max-kl", 1e-9)
    assert run_main(stage, *words) == 0
    lines, record = log_lines(tmp_path / "run"), json.loads((tmp_path / "run/run.json").read_text())
    assert len(lines) < lines[0]["steps"] == 3
    assert lines[-1]["sampled_kl"] > 1e-9 and "is above --max-kl 1e-09" in capsys.readouterr().out
    assert record["finished"] and record["stopped"].startswith("sampled_kl ")
    assert adapter_of(tmp_path / "run") and not (tmp_path / "run/checkpoint.pt").exists()


def test_a_run_that_stays_near_goes_on(base, tmp_path, stage):
    words = command(stage, base, tmp_path, ROWS[stage](6), "--eval-every", 1, "--max-kl", 1e6)
    assert run_main(stage, *words) == 0
    assert len(log_lines(tmp_path / "run")) == 2
    assert json.loads((tmp_path / "run/run.json").read_text())["stopped"] is None


def test_a_limit_that_could_never_be_measured_is_refused(base, tmp_path, capsys, stage):
    """No evaluation at all, or no prompt that leaves the model room for an answer."""
    words = command(stage, base, tmp_path, ROWS[stage](4), "--max-kl", 1)
    with pytest.raises(SystemExit):
        run_main(stage, *words, "--eval-every", 0)
    assert "--eval-every must be above 0" in capsys.readouterr().err

    model = make_model()
    model.config.max_position_embeddings = 12
    model.save_pretrained(tmp_path / "short")
    make_tokenizer().save_pretrained(tmp_path / "short")
    words[1] = tmp_path / "short"
    with pytest.raises(BadInput, match="--max-kl: every prompt fills the model's 12 positions"):
        run_main(stage, *words)


def test_a_tracker_gets_every_step(base, tmp_path, stage):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [row | {"slice": "ab"[n % 2]} for n, row in enumerate(ROWS[stage](6))]
    words = command(stage, base, tmp_path, rows, "--track", "tensorboard")
    assert run_main(stage, *words) == 0
    folder = next((tmp_path / "run/tracker").glob("events*")).parent
    events = EventAccumulator(str(folder)).Reload()
    for name in ("loss", "lr", "grad_norm"):
        logged = [line[name] for line in log_lines(tmp_path / "run")]
        sent = events.Scalars(name)
        assert [event.value for event in sent] == pytest.approx(logged)
        assert [event.step for event in sent] == [1, 2]
