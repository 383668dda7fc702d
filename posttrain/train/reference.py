"""Log-probabilities under the reference policy: computed once, kept in ref_logps.jsonl.

The reference never changes, so each sequence is scored once, before step 1 and by the code path of
training. Never are two models in memory: the reference is the policy before its first step, or the
model of --ref, which is freed before the policy comes.
"""

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
from posttrain.model.names import fingerprint
from posttrain.packed.lines import line_tokens, prompt_length
from posttrain.packed.reader import base_of, teach_lines
from posttrain.processes import from_first, is_first, my_share, summed
from posttrain.train.packs import all_packs, pack_logps
from posttrain.train.rows import sequences

FILE = "ref_logps.jsonl"


def score_reference(model, rows, *, pack_tokens, model_key, out):
    """Set seq["ref"] of every sequence. Returns the tokens that were read.

    model: the reference. model_key: its fingerprint (weights, number format). Runs beside `out`
    lend their values, so another loss on the same data and packs costs nothing; what is borrowed is
    copied before step 1. A run that was killed scores its half-done groups whole, so the last
    digits do not depend on when. BadInput when a cached value is not what the model says now.
    """
    unique = unique_sequences(rows, pack_tokens, model_key)
    cache = ReferenceCache(out)
    groups = group_by_prompt(unique.values(), pack_tokens, model)
    missing = [group for group in groups if not cache.has_all(group)]
    scored = [group for group in groups if cache.has_all(group)]
    if scored:
        cache.compare(scored[0], score_group(model, scored[0]), on_cpu=is_on_cpu(model))

    with cache.open() as file:
        cache.copy_borrowed(file, unique)
        score_missing(model, missing, cache, file)
    for seq in sequences(rows):
        seq["ref"] = cache.logps[seq["key"]]
    return sum(line_tokens(group) for group in missing)


def score_other_reference(name, tokenizer, quantize, rows, *, pack_tokens, out):
    """score_reference by the model of --ref, which is freed again before the policy comes."""
    model = load_reference(name, tokenizer, quantize)
    teach_lines(model)
    tokens_read = score_reference(
        model,
        rows,
        pack_tokens=pack_tokens,
        model_key=fingerprint(name, quantize),
        out=out,
    )
    del model
    free_memory()
    return tokens_read


def unique_sequences(rows, pack_tokens, model_key):
    """{key: sequence}, each once. The key says all that its log-probability depends on."""
    unique = {}
    for seq in sequences(rows):
        text = f"{model_key}|{pack_tokens}|{seq['ids']}|{seq['mask']}"
        seq["key"] = hashlib.sha256(text.encode()).hexdigest()[:24]
        unique.setdefault(seq["key"], seq)
    return unique


def group_by_prompt(seqs, pack_tokens, model):
    """Sequences in groups that are read at once: answers to one prompt side by side.

    A prompt is then read once for all its answers, as far as a pack goes.
    """
    rows_of_prompt = {}
    for seq in seqs:
        prompt = tuple(seq["ids"][: prompt_length(seq)])
        rows = rows_of_prompt.setdefault(prompt, [{"seqs": []}])
        last = rows[-1]["seqs"]
        if last and line_tokens([*last, seq]) > pack_tokens:
            rows.append({"seqs": []})
        rows[-1]["seqs"].append(seq)
    rows = []
    for same_prompt in rows_of_prompt.values():
        rows += same_prompt
    return [sequences(pack) for pack in all_packs(rows, pack_tokens, model)]


def score_group(model, group):
    """Log-probabilities of a group of sequences, as numbers."""
    with torch.no_grad():
        logps, _ = pack_logps(model, [{"seqs": group}])
    return logps[0].tolist()


def score_missing(model, missing, cache, file):
    """Score the groups that no run has scored, each process its share, and write the values."""
    turns = my_share([(group, True) for group in missing], idle_turn)
    for group, counts in tqdm(turns, desc="reference", leave=False):
        logps = score_group(model, group)
        pairs = []
        if counts:
            pairs = [(seq["key"], logp) for seq, logp in zip(group, logps)]
        for key, logp in summed(pairs):
            cache.logps[key] = logp
            cache.write(file, key)
        file.flush()


def idle_turn(turn):
    """A turn that reads like the last one and gives nothing: all processes read equally often."""
    group, _ = turn
    return group, False


def is_on_cpu(model):
    return base_of(model).device.type == "cpu"


class ReferenceCache:
    """The values of ref_logps.jsonl in `out`, and those that the runs beside it lend.

    logps: {key: log-probability}; own_keys: those that stand in this run's own file.
    """

    def __init__(self, out):
        self.path = Path(out) / FILE
        # Another run may be writing its file: all processes must see the same state of it.
        self.logps, self.own_keys = from_first(self.read_files)

    def read_files(self):
        """(logps, own keys) of all files; this run's own comes last, as it decides."""
        logps = {}
        own_keys = set()
        paths = list(self.path.parent.parent.glob(f"*/{FILE}"))
        paths.sort(key=lambda path: (path == self.path, path))
        for path in paths:
            entries = read_entries(path)
            logps.update(entries)
            if path == self.path:
                own_keys.update(entries)
        return logps, own_keys

    def has_all(self, group):
        return all(seq["key"] in self.logps for seq in group)

    def compare(self, group, logps, on_cpu):
        """BadInput when cached values are not what the model says now.

        A wrong cache would not show in the loss of step 1: both sides of it would be wrong alike.
        """
        errors = []
        for seq, logp in zip(group, logps):
            errors.append(abs(self.logps[seq["key"]] - logp) / len(seq["ids"]))
        worst = max(errors)
        allowed = 1e-4 if on_cpu else 0.02  # half precision rounds differently in another pack
        if worst > allowed:
            raise BadInput(
                f"cached reference log-probabilities are off by {worst:.2g} a token: delete {FILE} "
                f"in {self.path.parent.parent}/* and start again"
            )

    def open(self):
        """The file to append to; nowhere for processes that do not write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path if is_first() else os.devnull, "a", encoding="utf-8")
        if is_first() and self.path.stat().st_size:
            file.write("\n")  # a line that a kill has torn stays alone
        return file

    def write(self, file, key):
        file.write(json.dumps({"key": key, "logp": self.logps[key]}) + "\n")

    def copy_borrowed(self, file, keys):
        """Write the values that other runs lend: those runs may be deleted."""
        for key in keys:
            if key in self.logps and key not in self.own_keys:
                self.write(file, key)


def read_entries(path):
    """{key: log-probability} of one file; a torn line is left out, and scored again."""
    entries = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries[entry["key"]] = float(entry["logp"])
    return entries
