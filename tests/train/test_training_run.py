"""A run's folder, method by method: the plan, checkpoints, going on after a kill, lines of the log."""

import json
from types import SimpleNamespace

import pytest
import torch

from posttrain.model.limits import Limits
from posttrain.train import training_run
from posttrain.train.training_run import TrainingRun, rounded, save_checkpoint


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three steps at --save-every 2 that is open, of a model without limits."""
    monkeypatch.setattr(training_run, "check_format", lambda name, quantize: None)
    monkeypatch.setattr(training_run, "read_limits", lambda name: Limits(name, None, None))
    args = SimpleNamespace(
        out=str(tmp_path / "run"),
        model="a",
        quantize="none",
        lora_r=3,
        plan=False,
        holdout=0.05,
        pack_tokens=8,
        save_every=2,
        max_kl=None,
        tokens_per_second=10.0,
        price_gpu_hour=3600.0,
    )
    (tmp_path / "run").mkdir()
    made = TrainingRun("sft.py", args)
    made.begin, made.steps, made.track = 100.0, 3, lambda values, step: None
    return made


# ---- the plan ------------------------------------------------------------------------------------

ROWS = [{"seqs": [{"ids": [1] * 7}, {"ids": [1] * 11}]}, {"seqs": [{"ids": [1] * 10}]}]
LENGTHS = [[5, 9], [3]]


def test_a_plan_by_hand(run, capsys):
    """The steps' tokens and those of the reference, their time, and its price."""
    run.plan(LENGTHS, ROWS, held=0, other_tokens=100)
    assert run.forecast == pytest.approx({"tokens": 117, "seconds": 11.7, "cost": 11.7})
    assert (run.steps, run.tokens_of_step) == (2, [14, 3])
    assert capsys.readouterr().out == (
        "plan     2 steps, 0 rows held out (fewer than 8 would say little), 117 tokens, 12 s, "
        "cost 11.7000\n"
    )
    run.plan(LENGTHS, ROWS, held=9)
    assert "2 steps, 9 rows held out, 17 tokens, 2 s" in capsys.readouterr().out
    run.args.holdout = 0.0
    run.plan(LENGTHS, ROWS, held=0)
    assert "2 steps, 0 rows held out, 17 tokens" in capsys.readouterr().out


def test_a_plan_takes_the_speed_of_the_same_model(run, tmp_path):
    record = {"script": "sft.py", "finished": True, "tokens": 100, "seconds": 4.0}
    run.args.tokens_per_second = None
    for model, seconds in (("b", None), ("a", 0.68)):
        (tmp_path / "old.run.json").write_text(json.dumps(record | {"arguments": {"model": model}}))
        run.plan(LENGTHS, ROWS, held=0)
        assert run.forecast["seconds"] == seconds


@pytest.mark.parametrize(("plan", "gpu"), [(True, False), (False, True), (False, False)])
def test_the_memory_of_a_plan(run, monkeypatch, capsys, plan, gpu):
    """Of a pack, or of a row that is longer; shown by --plan, and heeded on a GPU."""
    asked = []
    compared = []
    memory = {"weights": 3, "experts": 4}

    def memory_plan(*args):
        asked.append(args)
        return memory

    cuda = SimpleNamespace(is_available=lambda: gpu)
    monkeypatch.setattr(training_run, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(training_run, "memory_plan", memory_plan)
    monkeypatch.setattr(training_run, "memory_line", lambda plan: f"the memory {plan}")
    monkeypatch.setattr(training_run, "needs_checkpointing", lambda plan: plan == memory)
    monkeypatch.setattr(training_run, "free_bytes", lambda: 5)
    monkeypatch.setattr(training_run, "refuse_too_large", lambda *args: compared.append(args))
    run.args.plan = plan
    for run.args.pack_tokens in (8, 50):
        run.plan(LENGTHS, ROWS, held=0)
    assert asked == ([("a", "none", 3, 9), ("a", "none", 3, 50)] if plan or gpu else [])
    assert run.checkpointing == (plan or gpu)
    assert ("the memory" in capsys.readouterr().out) == plan
    assert compared == (2 * [("a", 3, 4, 5)] if gpu else [])


# ---- the record ----------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [False, True])
def test_what_a_run_is_made_of(run, monkeypatch, finished):
    """Files without their weights, model and reference; their hashes stand in the record."""
    asked = []

    def start_run(*given):
        asked.append(given)
        return {"finished": finished}

    records = []
    monkeypatch.setattr(training_run, "start_run", start_run)
    monkeypatch.setattr(training_run, "base_record", "the base of {}".format)
    monkeypatch.setattr(training_run, "save_run", lambda record, **more: records.append(more))
    run.args.data, run.args.ref, run.args.track = ["d.jsonl=2", "e.jsonl"], "r", None
    assert run.open() is not finished
    ((out, script, arguments, inputs),) = asked
    assert (out, script, arguments) == (run.args.out, "sft.py", vars(run.args))
    assert inputs == ["d.jsonl", "e.jsonl", "a", "r"]
    assert records == ([] if finished else [{"base": "the base of a"}])


# ---- checkpoints ---------------------------------------------------------------------------------


def test_when_checkpoints_are_written(run, monkeypatch):
    """Every --save-every steps, after the last one, and where the run stops."""
    written = []

    def note(path, model, optimizer, *, step, counters):
        written.append((path.name, step, counters))

    monkeypatch.setattr(training_run, "save_checkpoint", note)
    run.tokens, run.last_line = 30, {"seconds": 7.0, "loss": 0.5}
    for step in range(3):
        run.save(step, None, None)
    assert [step for _, step, _ in written] == [2, 3]
    counters = {"seconds": 7.0, "tokens": 30, "stopped": None, "last_line": run.last_line}
    assert written[0] == ("checkpoint.pt", 2, counters)
    run.stopped = "why"
    run.save(0, None, None)
    assert written[2] == ("checkpoint.pt", 1, counters | {"stopped": "why"})


def test_a_checkpoint_holds_what_is_trained(tmp_path):
    """And not the weights of the base model; it replaces the one before at once."""
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([model.weight])
    save_checkpoint(tmp_path / "c.pt", model, optimizer, step=4, counters={"tokens": 9})
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert [*state["adapter"]] == ["weight"] and (state["step"], state["tokens"]) == (4, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_run_goes_on_where_its_checkpoint_was(run, monkeypatch, capsys):
    """Seconds, tokens and the log count on; signs of trouble are known, and not printed again."""
    state = {"step": 2, "seconds": 50.0, "tokens": 30, "stopped": "why", "last_line": {"loss": 1}}
    monkeypatch.setattr(training_run, "load_checkpoint", lambda *args: state)
    monkeypatch.setattr(training_run.time, "perf_counter", lambda: 103.0)
    log = run.out / "log.jsonl"
    log.write_text("".join(f'{{"step": {n}, "grad_norm": 0.0}}\n' for n in (1, 2, 3)))
    run.resume(None, None, 7)
    assert (run.seconds(), run.tokens, run.stopped, run.last_line) == (53.0, 37, "why", {"loss": 1})
    assert run.trouble.count == 2 and len(log.read_text().splitlines()) == 2
    assert capsys.readouterr().out == "note     the reference was scored again: 7 tokens\n"


@pytest.mark.parametrize(("step", "tokens"), [(0, 7), (2, 0)])
def test_a_reference_that_is_not_scored_twice(run, monkeypatch, capsys, step, tokens):
    monkeypatch.setattr(training_run, "load_checkpoint", lambda *args: {"step": step})
    run.resume(None, None, tokens)
    assert (run.first_step, run.tokens, run.seconds_before) == (step, tokens, 0.0)
    assert capsys.readouterr().out == ""


# ---- the log -------------------------------------------------------------------------------------


def test_numbers_of_the_log_have_eight_digits():
    """Inside slices, too; whole numbers and words are left."""
    line = {"step": 123456789, "loss": 1 / 3, "slices": {"a": {"loss": 2e5 / 3}}, "stopped": None}
    assert rounded(line) == {
        "step": 123456789,
        "loss": 0.33333333,
        "slices": {"a": {"loss": 66666.667}},
        "stopped": None,
    }


def test_a_line_of_the_log(run, monkeypatch, capsys):
    """What was measured, the step and its tokens; to the tracker, and looked through for trouble."""
    sent = []
    run.tokens_of_step, run.track = [14, 3, 5], lambda *given: sent.append(given)
    monkeypatch.setattr(training_run.time, "perf_counter", lambda: 103.0)
    run.log(1, {"loss": 1 / 3, "grad_norm": 0.0})
    (line,) = (run.out / "log.jsonl").read_text().splitlines()
    more = {"grad_norm": 0.0, "seconds": 3.0, "tokens": 3}
    assert json.loads(line) == {"step": 2, "steps": 3, "loss": 0.33333333} | more
    assert sent == [({"loss": 1 / 3} | more, 2)] and run.tokens == 3
    assert run.last_line["loss"] == 1 / 3, "the record of the run has all digits"
    assert "step 2: the adapter's gradient is zero" in capsys.readouterr().out
