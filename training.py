"""What the three trainers share because a mistake in it would be silent: packs, order, metrics, reference
log-probabilities, schedule, run folders. The training loop itself stands in each trainer.

A training row is {"seqs": [{"ids", "mask", "truncated"}, ...], "weight", "slice", "id", "source", ...}: one sequence
for SFT and KTO, two (chosen, rejected) for DPO. Sums are over rows or tokens of a whole batch, so packs never matter.
"""

import contextlib
import hashlib
import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from common import BadInput, money, save_run, seed_for, split_weight, start_run, stop_ids, write_whole
from models import autocast, free_memory, from_first, is_first, load_reference, summed
from packed import base_of, line_tokens, prompt_length, seq_logps, shares_prompts

# ---- rows, order, packs --------------------------------------------------------------------------------------


def prepare(rows, encode_row, tokenizer, max_dropped):
    """encode_row(row) for every row -> training rows; rows that raise ValueError(reason) are counted, printed, dropped.

    BadInput when more than the share max_dropped is lost, or an untruncated answer has no supervised stop token."""
    kept, dropped, stops = [], Counter(), stop_ids(tokenizer)
    rows = [row for row in rows if row["weight"] > 0]
    if not rows:
        raise BadInput("every row has weight 0: nothing to train on")
    for row in tqdm(rows, desc="tokenise", leave=False):
        try:
            kept.append(encode_row(row))
        except ValueError as reason:
            dropped[str(reason)] += 1
    seqs = [seq for row in kept for seq in row["seqs"]]
    truncated = sum(seq["truncated"] for seq in seqs)
    reasons = "; ".join(f"{reason}: {n}" for reason, n in dropped.most_common())
    lost, tokens = len(rows) - len(kept), sum(len(seq["ids"]) for seq in seqs)
    print(f"data     {len(rows)} rows, {len(kept)} kept, {lost} dropped{f' ({reasons})' if lost else ''}, "
          f"{truncated} answers truncated, {tokens:,} tokens, {sum(sum(seq['mask']) for seq in seqs):,} supervised")
    if not kept or lost > max_dropped * len(rows):
        raise BadInput(f"{lost} of {len(rows)} rows would be dropped ({reasons}): mend the data, raise --max-len, or "
                       "allow it with --max-dropped")
    if not all(seq["truncated"] or (seq["mask"][-1] and seq["ids"][-1] in stops) for seq in seqs):
        raise BadInput("an answer has no supervised stop token: the model would not learn to stop (chat template?)")
    return kept


def batches(rows, batch_size, epochs, seed, max_steps=None):
    """Row numbers of every optimiser step: ceil(rows / batch_size) steps an epoch, a pure function of its arguments.

    A file of weight w gives w times its rows to an epoch (whole copies and a random rest), spread evenly, so that every
    batch is drawn to the mixture."""
    sources = {}
    for number, row in enumerate(rows):
        sources.setdefault(row["source"], []).append(number)
    steps = []
    for epoch in range(epochs):
        rng, keyed = random.Random(seed_for("order", seed, epoch)), []
        for (*_, weight), members in sorted(sources.items()):
            picks = members * int(weight) + rng.sample(members, round(len(members) * (weight % 1)))
            rng.shuffle(picks)
            keyed += [((k + rng.random()) / len(picks), number) for k, number in enumerate(picks)]
        order = [number for _, number in sorted(keyed)]
        steps += [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    drawn = {rows[n]["source"] for step in steps for n in step}
    if len(drawn) < len(sources):
        number, name, weight = min(sources.keys() - drawn)
        count = len(sources[number, name, weight])
        raise BadInput(f"file {number + 1} of --data{f', slice {name}' if name else ''}: {count} rows at weight "
                       f"{weight:g} are less than one a pass: raise the weight or --epochs")
    return steps[:max_steps]


def packs(rows, pack_tokens, rank=0, size=1, padded=False):
    """Rows in groups of at most pack_tokens tokens (one row at least): the longest first, each into the first group
    with room. A prompt counts once for a row's answers; padded: where the model needs padded rows, every answer counts
    as long as the group's longest. Sums over a batch do not depend on the groups.

    Process `rank` of `size` gets its share, as many as every other: copies of the last group, of weight 0, fill up."""
    sized, found = [(line_tokens(row["seqs"]), len(row["seqs"]), row) for row in rows], []
    for tokens, count, row in sorted(sized, key=lambda entry: entry[0], reverse=True):
        longest = max(len(seq["ids"]) for seq in row["seqs"]) if padded else 0
        for pack in found[-32:]:
            tall = max(pack["longest"], longest)
            if (tall * (pack["seqs"] + count) if padded else pack["tokens"] + tokens) <= pack_tokens:
                break
        else:
            pack, tall = {"tokens": 0, "seqs": 0, "rows": []}, longest
            found.append(pack)
        pack.update(tokens=pack["tokens"] + tokens, seqs=pack["seqs"] + count, longest=tall, rows=[*pack["rows"], row])
    found = [pack["rows"] for pack in found]
    idle = [[row | {"weight": 0.0} for row in found[-1]]] * (-len(found) % size) if found else []
    return (found + idle)[rank::size]


def hold_out(rows, share, seed, most=64):
    """(training rows, held-out rows): whole prompts, drawn by their hash; none if that would be fewer than 8 rows."""
    wanted, prompts, held = min(most, round(share * len(rows))), {}, set()
    for n, row in enumerate(rows):
        prompts.setdefault(seed_for("hold out", seed, row["prompt"]), []).append(n)
    for _, members in sorted(prompts.items()):
        held |= {*members} if len(held) + len(members) <= wanted else set()
    held = held if len(held) >= 8 else set()
    return [row for n, row in enumerate(rows) if n not in held], [row for n, row in enumerate(rows) if n in held]


def tally(pack, losses, weights, metrics):
    """Sums over a pack by slice: {(slice, name): sum}. losses, weights and the metrics' values: [rows], NaN = not for
    this row. A metric's count goes under (slice, name, "rows"). Rows of weight 0, which packs adds, do not count."""
    sums, columns = Counter(), {"loss": weights * losses, "weight": weights, **metrics}
    table = torch.stack([values.detach().double() for values in columns.values()]).tolist()  # one wait for the GPU
    for name, values in zip(columns, table):
        for row, value in zip(pack, values):
            if row.get("weight", 1) and not math.isnan(value):
                sums[row.get("slice", "all"), name] += value
                sums[row.get("slice", "all"), name, "rows"] += 1
    return sums


def means(sums):
    """tally's sums as {name: mean}; more than one slice: also {"slices": {slice: {name: mean}}}. The loss is the mean
    by weight, as it is trained."""
    slices = sorted({key[0] for key in sums})

    def over(names):
        found = Counter()
        for key, value in sums.items():
            if key[0] in names:
                found[key[1:]] += value
        return {"loss": found["loss",] / found["weight",]} | {
            name[0]: value / found[name[0], "rows"] for name, value in found.items()
            if len(name) == 1 and name[0] not in ("loss", "weight")}
    return over(slices) | ({"slices": {name: over([name]) for name in slices}} if len(slices) > 1 else {})


def pack_logps(model, pack):
    """Log-probabilities of a pack of rows -> (logps [rows, seqs] float64, tokens [rows, seqs])."""
    with autocast(model):
        logps, tokens, _ = seq_logps(model, [seq for row in pack for seq in row["seqs"]])
    return logps.view(len(pack), -1), tokens.view(len(pack), -1)


# ---- the reference policy ------------------------------------------------------------------------------------


def reference_logps(model, rows, pack_tokens, key, out, rank=0, size=1):
    """Set seq["ref"], the log-probability under the reference; computed once, kept in out/ref_logps.jsonl.

    `key` is the fingerprint of the reference. Runs beside `out` lend their cache, so another loss on the same data is
    free; what is borrowed is copied before step 1. A killed run redoes its partial pack whole: packs, and so the last
    digits, do not depend on interruptions. model None: all must be in the cache (the policy has already moved).
    Returns the tokens that were read."""
    path, unique, prompts = Path(out) / "ref_logps.jsonl", {}, {}
    for seq in (seq for row in rows for seq in row["seqs"]):
        seq["key"] = hashlib.sha256(f"{key}|{pack_tokens}|{seq['ids']}|{seq['mask']}".encode()).hexdigest()[:24]
        unique.setdefault(seq["key"], seq)
    for seq in unique.values():  # all answers to a prompt in one row, so that it is read once, as far as a pack goes
        mine = prompts.setdefault(tuple(seq["ids"][:prompt_length(seq)]), [{"seqs": []}])
        if mine[-1]["seqs"] and line_tokens([*mine[-1]["seqs"], seq]) > pack_tokens:
            mine.append({"seqs": []})
        mine[-1]["seqs"].append(seq)

    def cached():
        known, own, files = {}, set(), path.parent.parent.glob("*/ref_logps.jsonl")
        for file in sorted(files, key=lambda p: (p == path, p)):  # our own last: it wins
            for line in file.read_text().splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a torn last line is redone
                    entry = json.loads(line)
                    known[entry["key"]] = float(entry["logp"])
                    own |= {entry["key"]} if file == path else set()
        return known, own
    known, own = from_first(cached)  # a file that another run extends meanwhile is the same for all
    groups = [[seq for row in pack for seq in row["seqs"]]
              for pack in packs([row for mine in prompts.values() for row in mine], pack_tokens,
                                padded=model is not None and not shares_prompts(model))]
    missing = [group for group in groups if not all(seq["key"] in known for seq in group)]
    checked = [group for group in groups if all(seq["key"] in known for seq in group)][:1]
    for group in checked if model is not None else []:  # a cache that is wrong would not show in the loss of step 1
        with torch.no_grad():
            logps = pack_logps(model, [{"seqs": group}])[0][0].tolist()
        worst = max(abs(known[seq["key"]] - logp) / len(seq["ids"]) for seq, logp in zip(group, logps))
        if worst > (1e-4 if base_of(model).device.type == "cpu" else 0.02):
            raise BadInput(f"cached reference log-probabilities are off by {worst:.2g} a token: delete ref_logps.jsonl "
                           f"in {path.parent.parent}/* and start again")
    if missing and model is None:
        raise BadInput(f"{path} is incomplete though training has begun: delete {out} and start again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.devnull if rank else path, "a", encoding="utf-8") as file:
        file.write("\n" if rank == 0 and path.stat().st_size else "")  # a torn line stays alone
        for borrowed in [k for k in unique if k in known and k not in own]:
            file.write(json.dumps({"key": borrowed, "logp": known[borrowed]}) + "\n")
        for at in tqdm(range(0, len(missing), size), desc="reference", leave=False):
            mine = missing[min(at + rank, len(missing) - 1)]  # nobody reads less often than the others
            with torch.no_grad():
                logps = pack_logps(model, [{"seqs": mine}])[0][0].tolist()
            pairs = [(seq["key"], logp) for seq, logp in zip(mine, logps) if at + rank < len(missing)]
            for seq_key, logp in summed(pairs):
                known[seq_key] = logp
                file.write(json.dumps({"key": seq_key, "logp": logp}) + "\n")
            file.flush()
    for seq in (seq for row in rows for seq in row["seqs"]):
        seq["ref"] = known[seq["key"]]
    return sum(line_tokens(group) for group in missing)


def other_reference(name, tokenizer, quantize, rows, pack_tokens, key, out, rank=0, size=1):
    """reference_logps under the model of --ref, which is freed before the policy comes: one model at a time."""
    read = reference_logps(load_reference(name, tokenizer, quantize), rows, pack_tokens, key, out, rank, size)
    free_memory()
    return read


def check_start(name, value, expected, model):
    """Print the step-0 invariant and refuse to start when it fails: policy and reference must be the same model."""
    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")
    if not abs(value - expected) <= tolerance * max(1.0, expected):
        raise BadInput(f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: the reference is not "
                       "the policy that training starts from (stale ref_logps.jsonl? delete it and start again)")


# ---- steps, run folders --------------------------------------------------------------------------------------


def lr_at(step, steps, lr, warmup=0.1):
    """Learning rate of step 0..steps-1: linear warm-up over the share `warmup`, then a cosine to 0."""
    ramp = math.ceil(warmup * steps)
    if step < ramp:
        return lr * (step + 1) / ramp
    return lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def optimiser_step(optimizer, lr, max_norm=1.0):
    """Clip, step, clear -> gradient norm before clipping. One that is not finite stops the run before its step."""
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    if not math.isfinite(norm):
        raise BadInput(f"the gradient norm is {norm}: lower --lr, --beta or weights, and take another --out")
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm


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
