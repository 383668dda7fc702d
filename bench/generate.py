"""Sampling measured beside transformers' generate: N answers to each prompt, one JSON line per setting.

    python bench/generate.py > runs/generate.jsonl                          # a few minutes on one core
    python bench/generate.py --shapes h256_V32k --repeats 9

Every answer ends at a length fixed beforehand, the same for all that are compared: whoever reads the logits finds the
stop token forced there. Time is CPU time of the process, one thread; the ways take turns and each repeat turns their
order round; ratios are medians over the repeats. jemalloc, where installed, keeps page faults out of all of them.

A line: shape; tokens (per repeat); tokens_per_s of ours, of generate with num_return_sequences called once per prompt,
and of generate on all rows in one batch (prompts repeated N times); vs_num_return_sequences and vs_generate: ours over
theirs at temperature 1, [lowest, highest] beside; vs_generate_greedy: the same without drawing; tokens_equal: greedy
tokens of all rows equal those of generate. h256_V32k: log-normal lengths up to 128; h256_V32k_equal: all 128
long, where no row leaves early; tiny_base: the demo's base model and prompts.

Exit code 1 when tokens differ, or a ratio of h256_V32k is below 2.0 (num_return_sequences) or 1.4 (generate)."""

import argparse
import ctypes.util
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
N, FLOORS = 4, {"vs_num_return_sequences": 2.0, "vs_generate": 1.4}


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="settings to measure"
    )
    p.add_argument("--repeats", type=int, default=5, help="turns of each way")
    p.add_argument("--seed", type=int, default=0, help="of prompts, lengths and weights")
    return p.parse_args(argv)


def lengths_of(rng, count, median, low, high, total=None):
    """Log-normal lengths in low..high; moved by one, in turn, until they add up to `total`."""
    found = [min(high, max(low, round(median * rng.lognormvariate(0, 0.6)))) for _ in range(count)]
    while total and sum(found) != total:
        step, at = (1 if sum(found) < total else -1), rng.randrange(count)
        found[at] = min(high, max(low, found[at] + step))
    return found


def h256(seed, total):
    """A random Qwen2 with a large head (1.39 times the parameters of the body), 6 prompts, lengths of 6 x N answers."""
    torch.manual_seed(seed)
    model = (
        Qwen2ForCausalLM(
            Qwen2Config(
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
        )
        .float()
        .eval()
    )
    rng = random.Random(seed)
    prompts = [
        [rng.randrange(2, 32768) for _ in range(n)] for n in lengths_of(rng, 6, 130, 50, 400)
    ]
    return model, prompts, lengths_of(rng, 6 * N, 50, 2, 128, total)


def tiny_base(seed):
    """The demo's base model, 24 of its prompts, answers as long as the demo's."""
    model, tokenizer = (
        load_model(str(ROOT / "data/tiny/base"), "none"),
        load_tokenizer(str(ROOT / "data/tiny/base")),
    )
    rows = random.Random(seed).sample(
        [row for _, row in read_jsonl(ROOT / "data/tiny/prompts.jsonl")], 24
    )
    prompts = [prompt_ids(tokenizer, row["prompt"], row.get("tools")) for row in rows]
    return model, prompts, lengths_of(random.Random(seed), 24 * N, 20, 2, 48)


SHAPES = {
    "h256_V32k": lambda seed: h256(seed, 1375),
    "h256_V32k_equal": lambda seed: h256(seed, 6 * N * 128),
    "tiny_base": tiny_base,
}


# ---- the ways -------------------------------------------------------------------------------------------------


def end_rows(logits, lengths, written):
    """Make the stop token certain, in logits [B, V], where the token to come is an answer's last; else impossible."""
    logits[:, STOP] = -1e4
    logits[[i for i, length in enumerate(lengths) if length == written + 1], STOP] = 1e4


def ours(model, prompts, lengths, temperature):
    """Answers of sample(). The cache tells which row is which: what is selected from it is selected from the rows."""
    rows, written = [], 0

    def forward(**inputs):
        nonlocal written
        out = model(**inputs)
        if "past_key_values" in inputs:
            written += 1
            end_rows(out.logits[:, -1], [lengths[row] for row in rows], written)
        else:
            end_rows(out.logits[:, -1], [], 0)  # no answer is a stop token alone
            cache, select = out.past_key_values, out.past_key_values.batch_select_indices
            rows[:] = [None] * len(prompts)

            def follow(indices):
                rows[:] = range(len(lengths)) if None in rows else [rows[i] for i in indices]
                select(indices)

            cache.batch_select_indices = follow
        return out

    forward.device, silent = model.device, SimpleNamespace(decode=lambda ids: "")
    jobs = [
        (prompt, [(temperature, N * j + s) for s in range(N)]) for j, prompt in enumerate(prompts)
    ]
    return [
        answer["ids"] for found in sample(forward, silent, jobs, max(lengths)) for answer in found
    ]


def generated(model, prompts, lengths, temperature, copies=1):
    """Answers of one call of generate: a row for each of `lengths`; num_return_sequences = copies."""
    rows = [prompt for prompt in prompts for _ in range(len(lengths) // len(prompts) // copies)]
    ids, attention = padded_ids(rows, 0, model.device, left=True)

    def ending(input_ids, scores):
        end_rows(scores, lengths, input_ids.shape[1] - ids.shape[1])
        return scores

    drawn = (
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    out = model.generate(
        input_ids=ids,
        attention_mask=attention,
        max_new_tokens=max(lengths),
        eos_token_id=STOP,
        pad_token_id=0,
        num_return_sequences=copies,
        logits_processor=[ending],
        **drawn,
    )
    return [row[:length] for row, length in zip(out[:, ids.shape[1] :].tolist(), lengths)]


def per_prompt(model, prompts, lengths, temperature):
    return [
        ids
        for j, prompt in enumerate(prompts)
        for ids in generated(model, [prompt], lengths[N * j : N * j + N], temperature, copies=N)
    ]


# ---- the measurement ------------------------------------------------------------------------------------------


def measure(shape, repeats, seed):
    """The JSON line of one setting."""
    model, prompts, lengths = SHAPES[shape](seed)
    ways = {
        "ours": (ours, 1.0),
        "num_return_sequences": (per_prompt, 1.0),
        "generate": (generated, 1.0),
        "ours_greedy": (ours, 0.0),
        "generate_greedy": (generated, 0.0),
    }
    seconds, made = {name: [] for name in ways}, {}
    for repeat in range(-1, repeats):  # the first turn warms up
        for name in list(ways)[:: 1 - 2 * (repeat % 2)]:
            way, temperature = ways[name]
            start = time.process_time()
            made[name] = way(model, prompts, lengths, temperature)
            seconds[name] += [time.process_time() - start] * (repeat >= 0)
            if [len(ids) for ids in made[name]] != lengths:
                raise RuntimeError(f"{shape}, {name}: an answer did not end at its length")
    row = {
        "bench": "generate",
        "shape": shape,
        "prompts": len(prompts),
        "n": N,
        "tokens": sum(lengths),
        "tokens_per_s": {
            name: round(sum(lengths) / statistics.median(spent)) for name, spent in seconds.items()
        },
    }
    for key, mine, peer in (
        ("vs_num_return_sequences", "ours", "num_return_sequences"),
        ("vs_generate", "ours", "generate"),
        ("vs_generate_greedy", "ours_greedy", "generate_greedy"),
    ):
        ratios = sorted(theirs / own for theirs, own in zip(seconds[peer], seconds[mine]))
        row |= {
            key: round(statistics.median(ratios), 2),
            f"{key}_range": [round(ratios[i], 2) for i in (0, -1)],
        }
    return row | {
        "tokens_equal": made["ours_greedy"] == made["generate_greedy"],
        "repeats": repeats,
        "jemalloc": "jemalloc" in os.environ.get("LD_PRELOAD", ""),
    }


def main(args):
    failed = False
    for shape in args.shapes:
        row = measure(shape, args.repeats, args.seed)
        print(json.dumps(row), flush=True)
        slow = shape == "h256_V32k" and any(row[key] < floor for key, floor in FLOORS.items())
        failed |= slow or not row["tokens_equal"]
    return int(failed)


if __name__ == "__main__":
    args = parse_args()
    found = ctypes.util.find_library("jemalloc")
    if not found:
        print(
            "libjemalloc.so.2 is not installed: page faults of malloc blur the ratios",
            file=sys.stderr,
        )
    elif "jemalloc" not in os.environ.get("LD_PRELOAD", ""):
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            os.environ
            | {"LD_PRELOAD": found, "MALLOC_CONF": "dirty_decay_ms:-1", "OMP_NUM_THREADS": "1"},
        )
    sys.path.insert(0, str(ROOT))
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from posttrain.chat.encode import prompt_ids
    from posttrain.generate.local import padded_ids, sample
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.records.jsonl import read_jsonl

    STOP = 1
    from posttrain.generate import local

    local.stop_ids = lambda tokenizer: [STOP]
    torch.set_num_threads(1)
    sys.exit(main(args))
