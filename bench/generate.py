"""Sampling measured beside transformers' generate: N answers to each prompt, a JSON line a setting.

    python bench/generate.py > runs/generate.jsonl             # a few minutes on one core
    python bench/generate.py --shapes h256_V32k --repeats 9

Every answer ends at a length fixed beforehand, the same for all that are compared: whoever reads
the logits finds the stop token forced there. Time is CPU time of the process, one thread; the ways
take turns and each repeat turns their order round; ratios are medians over the repeats. jemalloc,
where installed, keeps page faults out of all of them.

A line: shape; tokens (per repeat); tokens_per_s of ours, of generate with num_return_sequences
called once per prompt, and of generate on all rows in one batch (prompts repeated N times);
vs_num_return_sequences and vs_generate: ours over theirs at temperature 1, [lowest, highest]
beside; vs_generate_greedy: the same without drawing; tokens_equal: greedy tokens of all rows equal
those of generate. h256_V32k: log-normal lengths up to 128; h256_V32k_equal: all 128 long, where no
row leaves early; tiny_base: the demo's base model and prompts.

Exit code 1 when tokens differ, or a ratio of h256_V32k is below 2.0 (num_return_sequences) or 1.4
(generate).
"""

import argparse
import ctypes.util
import json
import os
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
N = 4  # answers to a prompt
STOP = 1  # the stop token
FLOORS = {"vs_num_return_sequences": 2.0, "vs_generate": 1.4}
# A ratio of the line: (our way, the other).
RATIOS = {
    "vs_num_return_sequences": ("ours", "num_return_sequences"),
    "vs_generate": ("ours", "generate"),
    "vs_generate_greedy": ("ours_greedy", "generate_greedy"),
}


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = p.add_argument
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="settings to measure")
    add("--repeats", type=int, default=5, help="turns of each way")
    add("--seed", type=int, default=0, help="of prompts, lengths and weights")
    return p.parse_args(argv)


# ---- what is asked -------------------------------------------------------------------------------


def lengths_of(rng, count, *, median, low, high, total=None):
    """Log-normal lengths in low..high; moved by one, in turn, until they add up to `total`."""
    lengths = []
    for _ in range(count):
        length = round(median * rng.lognormvariate(0, 0.6))
        lengths.append(min(high, max(low, length)))
    while total and sum(lengths) != total:
        step = 1 if sum(lengths) < total else -1
        place = rng.randrange(count)
        lengths[place] = min(high, max(low, lengths[place] + step))
    return lengths


def h256(seed, total):
    """A random Qwen2 with a large head (1.39 times the body's parameters), prompts, lengths.

    There are 6 prompts, and so the lengths of 6 x N answers.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=32768,
        hidden_size=256,
        intermediate_size=1056,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).float().eval()
    rng = random.Random(seed)
    prompts = []
    for length in lengths_of(rng, 6, median=130, low=50, high=400):
        prompts.append([rng.randrange(2, 32768) for _ in range(length)])
    return model, prompts, lengths_of(rng, 6 * N, median=50, low=2, high=128, total=total)


def tiny_base(seed):
    """The demo's base model, 24 of its prompts, answers as long as the demo's."""
    folder = str(ROOT / "data/tiny/base")
    model = load_model(folder, "none")
    tokenizer = load_tokenizer(folder)
    rows = [row for _, row in read_jsonl(ROOT / "data/tiny/prompts.jsonl")]
    prompts = []
    for row in random.Random(seed).sample(rows, 24):
        prompts.append(prompt_ids(tokenizer, row["prompt"], row.get("tools")))
    lengths = lengths_of(random.Random(seed), 24 * N, median=20, low=2, high=48)
    return model, prompts, lengths


SHAPES = {
    "h256_V32k": partial(h256, total=1375),
    "h256_V32k_equal": partial(h256, total=6 * N * 128),
    "tiny_base": tiny_base,
}


# ---- the ways ------------------------------------------------------------------------------------


def end_rows(logits, lengths, written):
    """Make the stop token certain where the token to come is an answer's last; else impossible.

    logits [B, V] are changed. written: tokens that every answer has so far.
    """
    logits[:, STOP] = -1e4
    ending = [i for i, length in enumerate(lengths) if length == written + 1]
    logits[ending, STOP] = 1e4


class EndingModel:
    """A model for sample() whose answers end at their lengths.

    The cache tells which row is which: what is selected from it is selected from the rows.
    """

    def __init__(self, model, lengths):
        self.model = model
        self.forward = model.forward  # what CachedText asks for its parameters
        self.reading = reading.CachedText  # taken as it is: it is not tried on this one
        self.device = model.device
        self.lengths = lengths
        self.rows = None  # numbers of the answers that are being written; None: only prompts
        self.written = 0

    def __call__(self, **inputs):
        out = self.model(**inputs)
        if "past_key_values" in inputs:
            self.written += 1
            end_rows(out.logits[:, -1], [self.lengths[row] for row in self.rows], self.written)
        else:
            end_rows(out.logits[:, -1], [], 0)  # no answer is a stop token alone
        return out

    def select_rows(self, cache, indices):
        """Select from the rows what is selected from the cache; first prompts become rows."""
        if self.rows is None:
            self.rows = list(range(len(self.lengths)))
        else:
            self.rows = [self.rows[i] for i in indices]
        SELECT_ROWS(cache, indices)


def ours(model, prompts, lengths, temperature):
    """Answers of sample()."""
    silent = SimpleNamespace(decode=lambda ids: "", unk_token_id=None)
    jobs = []
    for number, prompt in enumerate(prompts):
        jobs.append((prompt, [(temperature, N * number + k) for k in range(N)]))
    ending = EndingModel(model, lengths)
    reading.select_rows = ending.select_rows
    answers = []
    for answers_of_job in sample(ending, silent, jobs, max(lengths)):
        answers += [answer["ids"] for answer in answers_of_job]
    reading.select_rows = SELECT_ROWS
    return answers


def generated(model, prompts, lengths, temperature, *, copies=1):
    """Answers of one call of generate, a row for each length; num_return_sequences = copies."""
    rows = []
    for prompt in prompts:
        rows += [prompt] * (len(lengths) // len(prompts) // copies)
    ids, attention = padded_ids(rows, 0, model.device, left=True)

    def ending(input_ids, scores):
        end_rows(scores, lengths, input_ids.shape[1] - ids.shape[1])
        return scores

    drawing = {"do_sample": False}
    if temperature:
        drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    out = model.generate(
        input_ids=ids,
        attention_mask=attention,
        max_new_tokens=max(lengths),
        eos_token_id=STOP,
        pad_token_id=0,
        num_return_sequences=copies,
        logits_processor=[ending],
        **drawing,
    )
    answers = out[:, ids.shape[1] :].tolist()
    return [answer[:length] for answer, length in zip(answers, lengths)]


def per_prompt(model, prompts, lengths, temperature):
    """Answers of generate, called once for each prompt."""
    answers = []
    for number, prompt in enumerate(prompts):
        lengths_here = lengths[N * number : N * number + N]
        answers += generated(model, [prompt], lengths_here, temperature, copies=N)
    return answers


WAYS = {
    "ours": (ours, 1.0),
    "num_return_sequences": (per_prompt, 1.0),
    "generate": (generated, 1.0),
    "ours_greedy": (ours, 0.0),
    "generate_greedy": (generated, 0.0),
}


# ---- the measurement -----------------------------------------------------------------------------


def measure(shape, repeats, seed):
    """The JSON line of one setting."""
    model, prompts, lengths = SHAPES[shape](seed)
    seconds = {name: [] for name in WAYS}
    answers = {}
    for repeat in range(-1, repeats):  # the first turn warms up
        names = list(WAYS)
        if repeat % 2:
            names.reverse()
        for name in names:
            way, temperature = WAYS[name]
            start = time.process_time()
            answers[name] = way(model, prompts, lengths, temperature)
            if repeat >= 0:
                seconds[name].append(time.process_time() - start)
            if [len(ids) for ids in answers[name]] != lengths:
                raise RuntimeError(f"{shape}, {name}: an answer did not end at its length")

    tokens = sum(lengths)
    speeds = {name: round(tokens / statistics.median(spent)) for name, spent in seconds.items()}
    row = {
        "bench": "generate",
        "shape": shape,
        "prompts": len(prompts),
        "n": N,
        "tokens": tokens,
        "tokens_per_s": speeds,
    }
    for key, (mine, peer) in RATIOS.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds[peer], seconds[mine])]
        row[key] = round(statistics.median(ratios), 2)
        row[f"{key}_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    row["tokens_equal"] = answers["ours_greedy"] == answers["generate_greedy"]
    row["repeats"] = repeats
    row["jemalloc"] = "jemalloc" in os.environ.get("LD_PRELOAD", "")
    return row


def is_too_slow(row):
    """Is a ratio below what is promised for the first shape?"""
    if row["shape"] != "h256_V32k":
        return False
    return any(row[key] < floor for key, floor in FLOORS.items())


def main(args):
    code = 0
    for shape in args.shapes:
        row = measure(shape, args.repeats, args.seed)
        print(json.dumps(row), flush=True)
        if is_too_slow(row) or not row["tokens_equal"]:
            code = 1
    return code


def take_jemalloc():
    """Begin again with jemalloc in place of malloc, where it is installed."""
    library = ctypes.util.find_library("jemalloc")
    if not library:
        print(
            "libjemalloc.so.2 is not installed: page faults of malloc blur the ratios",
            file=sys.stderr,
        )
    elif "jemalloc" not in os.environ.get("LD_PRELOAD", ""):
        settings = {"LD_PRELOAD": library, "MALLOC_CONF": "dirty_decay_ms:-1"}
        environment = os.environ | settings | {"OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


if __name__ == "__main__":
    args = parse_args()
    take_jemalloc()
    sys.path.insert(0, str(ROOT))
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from posttrain.chat.encode import prompt_ids
    from posttrain.generate import local, reading
    from posttrain.generate.local import sample
    from posttrain.generate.reading import padded_ids
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.records.jsonl import read_jsonl

    SELECT_ROWS = reading.select_rows
    local.stop_ids = lambda tokenizer: [STOP]
    torch.set_num_threads(1)
    sys.exit(main(args))
