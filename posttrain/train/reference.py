"""Log-probabilities under the reference policy: computed once, kept in ref_logps.jsonl."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import torch
from tqdm import tqdm

from posttrain.cli import BadInput
from posttrain.model.load import load_reference
from posttrain.model.memory import free_memory
from posttrain.packed.lines import line_tokens, prompt_length
from posttrain.packed.reader import base_of, reads_lines, teach_lines
from posttrain.processes import from_first, summed
from posttrain.train.packs import pack_logps, packs


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
                                padded=model is not None and not reads_lines(model))]
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
    model = load_reference(name, tokenizer, quantize)
    teach_lines(model)
    read = reference_logps(model, rows, pack_tokens, key, out, rank, size)
    del model  # nothing may hold it when memory is given back
    free_memory()
    return read
