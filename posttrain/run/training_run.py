"""A training run's folder: log, tracker, checkpoint, adapter."""

import json
import os
from pathlib import Path

import torch

from common import money
from posttrain.cli import BadInput
from posttrain.processes import from_first, is_first
from posttrain.records.jsonl import write_whole
from posttrain.records.mixture import split_weight
from posttrain.run.folder import save_run, start_run


def open_run(script, arguments):
    """Open or continue the record of a trainer's run; None, said in a line, when it is finished already."""
    inputs = [split_weight(spec)[0] for spec in arguments["data"]] + [
        arguments[name] for name in ("model", "ref") if arguments.get(name)]
    record = from_first(lambda: start_run(arguments["out"], script, arguments, inputs))
    if not record["finished"]:
        return record
    (Path(arguments["out"]) / "checkpoint.pt").unlink(missing_ok=True)
    print(f"{arguments['out']} is finished: nothing to do")
    return None


def close_run(out, record, plan, state, price_gpu_hour):
    """Mark a run finished, with what was measured beside what was forecast -> {"tokens", "seconds", "cost"}."""
    cost = money(seconds=state["seconds"], price_gpu_hour=price_gpu_hour)
    measured = {"tokens": state["tokens"], "seconds": state["seconds"], "cost": cost}
    save_run(record, finished=True, forecast=plan, **measured, loss=state["loss"], stopped=state["stopped"])
    (Path(out) / "checkpoint.pt").unlink(missing_ok=True)
    return measured


def write_log(out, step, steps, **values):
    """Append one line to out/log.jsonl (step counts from 1) -> the line."""
    def short(value):
        if isinstance(value, dict):
            return {name: short(part) for name, part in value.items()}
        return float(f"{value:.8g}") if isinstance(value, float) else value

    line = {"step": step + 1, "steps": steps, **short(values)}
    if is_first():
        with open(Path(out) / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return line


def read_log(out):
    """The lines of out/log.jsonl so far."""
    path = Path(out) / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def start_tracker(name, out, arguments):
    """A function (values, step) that sends numbers to accelerate's tracker `name`; one that does nothing for None."""
    if not name or not is_first():
        return lambda values, step: None
    import accelerate

    try:
        accelerator = accelerate.Accelerator(log_with=name, project_dir=out)
        if not accelerator.log_with:
            raise ValueError(f"not installed: pip install {name}")
        accelerator.init_trackers("tracker", {k: v for k, v in arguments.items() if isinstance(v, int | float | str)})
    except (ImportError, ValueError) as error:
        raise BadInput(f"--track {name}: {str(error)[:160]}") from None
    return lambda values, step: accelerator.log(
        {k: v for k, v in values.items() if isinstance(v, int | float)}, step=step)


def save_checkpoint(out, model, optimizer, step, **counters):
    """Adapter, optimiser and counters after `step` steps in one file that is replaced at once. Order and learning rate
    are functions of the step, and nothing in a step is random, so this is all that an exact resume needs."""
    if not is_first():
        return
    adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
    temporary = Path(out) / "checkpoint.pt.tmp"
    with open(temporary, "wb") as file:
        torch.save({"step": step, "adapter": adapter, "optimizer": optimizer.state_dict(), **counters}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, Path(out) / "checkpoint.pt")


def load_checkpoint(out, model, optimizer):
    """Continue from out/checkpoint.pt -> {"step", counters}; {"step": 0} when there is none. Cuts later log lines."""
    out, state = Path(out), {"step": 0}
    if (out / "checkpoint.pt").exists():
        try:
            state = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # a zip, a pickle and tensors: a dozen kinds
            raise BadInput(f"{out}/checkpoint.pt is damaged ({type(error).__name__}): delete it, and the same command "
                           "starts from step 1") from None
        parameters = dict(model.named_parameters())
        for name, value in state.pop("adapter").items():
            parameters[name].data.copy_(value)
        optimizer.load_state_dict(state.pop("optimizer"))
        print(f"resume   from step {state['step']}")
    from_first(lambda: None)  # nobody goes on, and removes it, before all have read it
    if (out / "log.jsonl").exists() and is_first():
        lines = (out / "log.jsonl").read_text().splitlines()[:state["step"]]
        write_whole(out / "log.jsonl", "".join(line + "\n" for line in lines))
    return state


def save_adapter(out, model, tokenizer):
    """The adapter (relative to the untouched base), tokenizer and chat template: what --model reads."""
    if not is_first():
        return
    model.save_pretrained(out, save_embedding_layers=False)
    tokenizer.save_pretrained(out)
    (Path(out) / "README.md").unlink(missing_ok=True)  # peft's empty model card
