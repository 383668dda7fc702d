"""A training run's folder: forecast, record, clock, log, checkpoints, in the end the adapter."""

import json
import os
import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from common import cost_line, money
from posttrain.cli import BadInput
from posttrain.model.limits import check_format, check_length, read_limits
from posttrain.model.memory import (
    free_bytes,
    memory_line,
    memory_plan,
    needs_checkpointing,
    refuse_too_large,
)
from posttrain.model.names import base_record
from posttrain.processes import from_first, is_first
from posttrain.records.jsonl import append_lines, write_whole
from posttrain.records.mixture import split_weight
from posttrain.run.folder import save_run, start_run
from posttrain.run.forecast import forecast
from posttrain.train.curves import curves
from posttrain.train.order import HELD_OUT_LEAST
from posttrain.train.trouble import Trouble


class TrainingRun:
    """A run folder while it is filled. It knows nothing of losses.

    A run that is killed at any moment continues with the same command and ends in the same bytes:
    order and learning rate are functions of the step, nothing in a step is random, so the adapter,
    the optimiser and the counters of the last checkpoint are all that is needed.

    In the order of their use:
        plan(row_lengths, ...)  what it will take, printed
        open()                  the record; False when the run is finished already
        resume(model, ...)      the last checkpoint, if any
        steps_left()            the steps still to do
        log(step, metrics)      a line of log.jsonl
        save(step, ...)         a checkpoint, where one is due
        finish(model, ...)      adapter, curves, record, the result's line
    """

    def __init__(self, script, args, beta=None):
        """beta: that of the loss, where its rewards are ratios to a reference (Trouble)."""
        self.script = script
        self.args = args
        self.out = Path(args.out)
        self.trouble = Trouble(beta, learns_length=script == "sft.py")
        # Set by plan:
        self.forecast = None
        self.tokens_of_step = []
        self.steps = 0
        self.checkpointing = False  # of activations: computed anew in the backward pass
        # Set by open:
        self.record = None
        self.track = None
        self.begin = None
        # Set by resume:
        self.first_step = 0
        self.seconds_before = 0.0
        self.tokens = 0
        self.stopped = None  # why the run has ended early
        self.last_line = {}

    def plan(self, row_lengths, rows, *, held, other_tokens=0):
        """Print the forecast; with --plan also that of the memory. BadInput when a model cannot do
        it: for the number format of --quantize, or for sequences beyond its positions.

        row_lengths: tokens of each row of each step. rows: the longest sequence is looked for in
        them. held: how many rows are held out. other_tokens: read once, for the reference.
        """
        args = self.args
        self.tokens_of_step = [sum(lengths) for lengths in row_lengths]
        self.steps = len(row_lengths)
        self.forecast = forecast(
            args.out,
            self.script,
            sum(self.tokens_of_step) + other_tokens,
            args.tokens_per_second,
            price_gpu_hour=args.price_gpu_hour,
            model=args.model,
        )
        few = (
            f" (fewer than {HELD_OUT_LEAST} would say little)" if args.holdout and not held else ""
        )
        print(f"plan     {self.steps} steps, {held} rows held out{few}, {cost_line(self.forecast)}")

        for name in self.models():
            check_format(name, args.quantize)
            self.check_length(name, rows)
        if args.plan or torch.cuda.is_available():
            longest_row = max(max(lengths) for lengths in row_lengths)
            in_memory = max(args.pack_tokens, longest_row)
            memory = memory_plan(args.model, args.quantize, args.lora_r, in_memory)
            self.checkpointing = needs_checkpointing(memory)
            if args.plan:
                print(memory_line(memory))
            if torch.cuda.is_available():
                refuse_too_large(args.model, memory["weights"], memory["experts"], free_bytes())

    def models(self):
        """Names of the models that read the rows: --model and --ref."""
        names = [self.args.model, getattr(self.args, "ref", None)]
        return [name for name in names if name]

    def check_length(self, name, rows):
        """BadInput, or a warning, when a sequence is longer than what this model was made for."""
        row = max(rows, key=longest_sequence)
        tokens = longest_sequence(row)
        place = f"id {row['id']!r}: " if "id" in row else ""
        check_length(
            read_limits(name), tokens, f"{place}{tokens} tokens in a sequence", "lower --max-len"
        )

    def open(self):
        """Open or continue the record. False, said in a line, when the run is finished already."""
        inputs = [split_weight(spec)[0] for spec in self.args.data]
        inputs += self.models()
        self.record = from_first(partial(self.start, inputs))
        if self.record["finished"]:
            self.checkpoint_path().unlink(missing_ok=True)
            print(f"{self.args.out} is finished: nothing to do")
            return False
        self.track = start_tracker(self.args.track, self.args.out, vars(self.args))
        self.begin = time.perf_counter()
        return True

    def start(self, inputs):
        """The record, begun or continued. It says which base the adapter will belong to."""
        record = start_run(self.args.out, self.script, vars(self.args), inputs)
        if "base" not in record and not record["finished"]:
            save_run(record, base=base_record(self.args.model))
        return record

    def resume(self, model, optimizer, reference_tokens=0):
        """Load the last checkpoint, if there is one, and cut the log behind it.

        reference_tokens: that were read before step 1, now.
        """
        state = load_checkpoint(self.checkpoint_path(), model, optimizer)
        self.first_step = state["step"]
        self.seconds_before = state.get("seconds", 0.0)
        self.tokens = state.get("tokens", 0) + reference_tokens
        self.stopped = state.get("stopped")
        self.last_line = state.get("last_line", {})
        if self.first_step and reference_tokens:
            print(f"note     the reference was scored again: {reference_tokens:,} tokens")
        for line in cut_log(self.out / "log.jsonl", self.first_step):
            self.trouble.add(line, quiet=True)

    def steps_left(self):
        """Numbers of the steps still to do, from 0; fewer when the run is stopped on the way."""
        bar = tqdm(
            range(self.first_step, self.steps),
            initial=self.first_step,
            total=self.steps,
            desc=Path(self.script).stem,
        )
        for step in bar:
            if self.stopped:
                break
            yield step

    def seconds(self):
        """Seconds of work, evaluations and what a checkpoint knows of before a kill included."""
        return self.seconds_before + time.perf_counter() - self.begin

    def log(self, step, metrics):
        """Append a line to log.jsonl (its step counts from 1), send it to the tracker, warn.

        Stops the run when the policy has left its start by more than --max-kl.
        """
        self.tokens += self.tokens_of_step[step]
        metrics = metrics | {"seconds": self.seconds(), "tokens": self.tokens_of_step[step]}
        self.last_line = {"step": step + 1, "steps": self.steps, **metrics}
        logged = rounded(self.last_line)
        if is_first():
            append_lines(self.out / "log.jsonl", [logged])
        self.track(metrics, step + 1)
        self.trouble.add(logged)
        self.stopped = too_far(metrics, self.args.max_kl)

    def save(self, step, model, optimizer):
        """Write a checkpoint every --save-every steps, after the last, and where the run stops."""
        done = step + 1
        is_due = done % self.args.save_every == 0 or done == self.steps or self.stopped
        if is_due and is_first():
            counters = {
                "seconds": self.last_line["seconds"],
                "tokens": self.tokens,
                "stopped": self.stopped,
                "last_line": self.last_line,
            }
            save_checkpoint(self.checkpoint_path(), model, optimizer, step=done, counters=counters)

    def finish(self, model, tokenizer, show):
        """Write adapter, tokenizer, curves and record; print the result with the metrics in show.

        show: {name in the log: format}.
        """
        if not is_first():
            return
        save_adapter(self.out, model, tokenizer)
        curves(self.args.out)
        seconds = self.last_line["seconds"]
        cost = money(seconds=seconds, price_gpu_hour=self.args.price_gpu_hour)
        measured = {"tokens": self.tokens, "seconds": seconds, "cost": cost}
        save_run(
            self.record,
            finished=True,
            forecast=self.forecast,
            **measured,
            loss=self.last_line["loss"],
            stopped=self.stopped,
        )
        self.checkpoint_path().unlink(missing_ok=True)
        last = ", ".join(text.format(self.last_line[name]) for name, text in show.items())
        print(
            f"result   {self.last_line['step']} steps, last {last}, {cost_line(measured)} "
            f"-> {self.args.out}"
        )

    def checkpoint_path(self):
        return self.out / "checkpoint.pt"


def longest_sequence(row):
    """Tokens of a row's longest sequence."""
    return max(len(seq["ids"]) for seq in row["seqs"])


# ---- the log -------------------------------------------------------------------------------------


def rounded(value):
    """A value of a log line with 8 significant digits, inside dicts too."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, float):
        return float(f"{value:.8g}")
    return value


def cut_log(path, steps):
    """The first `steps` lines of a log; what a killed run has written behind them goes."""
    if not path.exists():
        return []
    # Not splitlines(): a slice may have a name with another kind of line break in it.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1][:steps]
    if is_first():
        write_whole(path, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def too_far(metrics, limit):
    """Why the run must stop, or None: the policy is more than `limit` nats from its start."""
    kl = metrics.get("sampled_kl", 0.0)  # it is measured after some steps only
    if limit is None or kl <= limit:
        return None
    tqdm.write(
        f"STOP     sampled_kl {kl:.3g} is above --max-kl {limit:g}: the run ends here, its adapter "
        "is kept (lower --lr, raise --beta)"
    )
    return f"sampled_kl {kl:.6g} > {limit:g}"


def start_tracker(name, out, arguments):
    """A function (values, step) that sends numbers to accelerate's tracker, if there is one."""
    if not name or not is_first():
        return lambda values, step: None
    import accelerate

    try:
        accelerator = accelerate.Accelerator(log_with=name, project_dir=out)
        if not accelerator.log_with:
            raise ValueError(f"not installed: pip install {name}")
        config = {k: v for k, v in arguments.items() if isinstance(v, int | float | str)}
        accelerator.init_trackers("tracker", config)
    except (ImportError, ValueError) as error:
        raise BadInput(f"--track {name}: {str(error)[:160]}") from None

    def track(values, step):
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        accelerator.log(numbers, step=step)

    return track


# ---- checkpoints and the adapter -----------------------------------------------------------------


def save_checkpoint(path, model, optimizer, *, step, counters):
    """Adapter, optimiser and counters after `step` steps, in one file that is replaced at once."""
    adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
    state = {"step": step, "adapter": adapter, "optimizer": optimizer.state_dict(), **counters}
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path, model, optimizer):
    """Continue from a checkpoint -> {"step", counters}; {"step": 0} where there is none."""
    state = {"step": 0}
    if path.exists():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a zip, a pickle and tensors: a dozen kinds of error
            raise BadInput(
                f"{path} is damaged ({type(error).__name__}): delete it, and the same command "
                "starts from step 1"
            ) from None
        parameters = dict(model.named_parameters())
        for name, value in state.pop("adapter").items():
            parameters[name].data.copy_(value)
        optimizer.load_state_dict(state.pop("optimizer"))
        print(f"resume   from step {state['step']}")
    from_first(lambda: None)  # nobody goes on, and removes the file, before all have read it
    return state


def save_adapter(out, model, tokenizer):
    """The adapter (relative to the untouched base), tokenizer and template: what --model reads."""
    model.save_pretrained(out, save_embedding_layers=False)
    tokenizer.save_pretrained(out)
    (Path(out) / "README.md").unlink(missing_ok=True)  # peft's empty model card
