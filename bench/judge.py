"""Judging measured beside what others do: digits from one reading of the tree, against forwards and written verdicts.

    python bench/judge.py > runs/bench-judge.jsonl                        # 10 minutes on one core
    python bench/judge.py --model data/tiny/judge --constitution data/tiny/constitution.md --prompts 24

Four answers to each prompt, judged on every criterion. A line of output is one way: ms_per_candidate (median over the
repeats), ratio (its time over ours in the same repeat, median, [lowest, highest] beside), tokens read per candidate.

  ours             digits.judge_answers, prompts rendered and tokenised within the clock; the others get token ids
  forward          one forward for every answer and criterion
  cache            prefix, padded answers and padded questions in turn, with a cache of keys and values
  generate         24 tokens written for every answer and criterion with transformers' generate, one by one, then parsed
  generate_batch   the same, 16 rows of like length at once
  once             one verdict of 24 tokens for all criteria of an answer, one by one, then parsed
  once_batch       the same, 16 rows of like length at once

In "generate" the peers answer the same questions as we do; "once" is the cheapest they can be asked: three digits in
one short text, which the study of judges advises against. Every verdict is 24 tokens long: the stop token is forbidden.
Time is CPU time of one thread of the process; the ways take turns and each repeat turns their order round; the first
is not counted. jemalloc, where installed, keeps page faults out of all of them. The made model is a random Llama in
fp32; prompts of about 120 tokens, answers of about 220 (log-normal), a rubric of about 250 on three criteria.

Exit code 1: a score is not that of "forward" to 1e-5, or, on the made model, a ratio is below its floor (generate 8,
generate_batch 5, forward 2.5)."""

import argparse
import ctypes.util
import json
import os
import random
import re
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
N, WRITTEN, BATCH = 4, 24, 16
FLOORS = {"generate": 8.0, "generate_batch": 5.0, "forward": 2.5}


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--hidden", type=int, default=512, help="hidden size of the made model")
    p.add_argument("--layers", type=int, default=8, help="its layers")
    p.add_argument("--vocab", type=int, default=32000, help="its vocabulary")
    p.add_argument(
        "--model", help="a model folder instead, on prompts and answers of data/tiny/sft.jsonl"
    )
    p.add_argument("--constitution", help="of --model")
    p.add_argument("--prompts", type=int, default=3, help="prompts, with four answers each")
    p.add_argument("--repeats", type=int, default=3, help="turns of each way")
    p.add_argument("--seed", type=int, default=0, help="of weights, texts and lengths")
    return p.parse_args(argv)


# ---- what is judged -------------------------------------------------------------------------------------------


def words(rng, middle, spread, vocab):
    """A text of log-normal length: numbers, each of which is a token."""
    return " ".join(
        str(rng.randrange(10, vocab - 3))
        for _ in range(round(middle * rng.lognormvariate(0, spread)))
    )


def made(args):
    """A random Llama, a tokenizer with a word for every number, a constitution of three criteria, groups to judge."""
    torch.manual_seed(args.seed)
    table = {str(n): n for n in range(args.vocab - 3)} | {
        "<pad>": args.vocab - 3,
        "<eos>": args.vocab - 2,
        "<unk>": args.vocab - 1,
    }
    model = (
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=args.vocab,
                hidden_size=args.hidden,
                intermediate_size=round(2.75 * args.hidden),
                num_hidden_layers=args.layers,
                num_attention_heads=args.hidden // 64,
                max_position_embeddings=4096,
                bos_token_id=None,
                eos_token_id=table["<eos>"],
                pad_token_id=table["<pad>"],
            )
        )
        .float()
        .eval()
    )
    level = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, "<unk>"))
    level.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=level,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=PLAIN_TEMPLATE,
    )
    rng = random.Random(args.seed)
    criteria = [
        {
            "name": name,
            "weight": 1.0,
            "slices": None,
            "veto": None,
            "text": words(rng, 70, 0, args.vocab) + "\n",
        }
        for name in ("correct", "helpful", "brief")
    ]
    groups = [
        Case(
            [{"role": "user", "content": words(rng, 120, 0.4, args.vocab)}],
            [
                [{"role": "assistant", "content": words(rng, 220, 0.5, args.vocab)}]
                for _ in range(N)
            ],
        )
        for _ in range(args.prompts)
    ]
    return model.requires_grad_(False), tokenizer, {"criteria": criteria}, groups


def kept(args):
    """--model; prompts of the demo, each with its own answer and those to three other prompts of its slice."""
    model, tokenizer = load_model(args.model, "none"), load_tokenizer(args.model)
    slices = {}
    for _, row in read_jsonl(ROOT / "data/tiny/sft.jsonl"):
        slices.setdefault(row["slice"], []).append(row)
    groups = []
    for k in range(args.prompts):
        name = [*slices][k % len(slices)]
        own = random.Random(args.seed + k).sample(slices[name], N)
        completions = [row["completion"] for row in own]
        groups.append(Case(own[0]["prompt"], completions, name, own[0].get("tools")))
    return model, tokenizer, read_constitution(args.constitution), groups


# ---- the ways: each gives the scores of all answers in order, or of what it wrote ------------------------------------


def forward(model, tokenizer, parts):
    """One forward for each answer and criterion."""
    digits, found = choice_ids(tokenizer), []
    for prefix, answers, tails in parts:
        for answer in answers:
            scores = [
                model(input_ids=torch.tensor([prefix + answer + tail]), logits_to_keep=1).logits[
                    :, -1
                ]
                for tail in tails.values()
            ]
            found.append([digit_scores(one.float(), digits, 0.0)[0]["score"] for one in scores])
    return found


def cache(model, tokenizer, parts):
    """The prefix once, then the answers of a prompt padded, then every question behind each of them, padded."""
    digits, found, pad = choice_ids(tokenizer), [], tokenizer.pad_token_id
    for prefix, answers, tails in parts:
        n, tails = len(prefix), [*tails.values()]
        past = model(
            input_ids=torch.tensor([prefix]), use_cache=True, logits_to_keep=1
        ).past_key_values
        past.batch_repeat_interleave(len(answers))
        ids, mask = padded_ids(answers, pad, "cpu", left=False)
        seen = torch.cat([mask.new_ones(len(ids), n), mask], 1)
        model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=n + torch.arange(ids.shape[1]).expand_as(ids),
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        past.batch_repeat_interleave(len(tails))
        start = seen.sum(1).repeat_interleave(len(tails))[:, None]
        ids, mask = padded_ids(tails * len(answers), pad, "cpu", left=False)
        seen = torch.cat([seen.repeat_interleave(len(tails), 0), mask], 1)
        ends = mask.sum(1) - 1
        kept, place = ends.unique(return_inverse=True)
        logits = model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=start + torch.arange(ids.shape[1]),
            past_key_values=past,
            use_cache=True,
            logits_to_keep=kept,
        ).logits[torch.arange(len(ids)), place]
        scores = [one["score"] for one in digit_scores(logits.float(), digits, 0.0)]
        found += [scores[i : i + len(tails)] for i in range(0, len(scores), len(tails))]
    return found


def generate(model, tokenizer, parts, batch=1, once=False):
    """Verdicts written by generate, for every criterion or once for each answer, and parsed."""
    rows = [
        prefix + answer + tail
        for prefix, answers, tails in parts
        for answer in answers
        for tail in list(tails.values())[: 1 if once else None]
    ]
    rows.sort(key=len)
    found = []
    for at in range(0, len(rows), batch):
        ids, attention = padded_ids(rows[at : at + batch], tokenizer.pad_token_id, "cpu", left=True)
        out = model.generate(
            input_ids=ids,
            attention_mask=attention,
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(out[:, ids.shape[1] :])
        found += [re.search(r"\b[0-5]\b", text) for text in texts]
    return found


# ---- the measurement ------------------------------------------------------------------------------------------


def measure(model, tokenizer, constitution, groups, repeats):
    """{way: (seconds of each repeat, tokens read)}, scores by way."""
    parts = [judge_ids(tokenizer, constitution, group) for group in groups]
    teach_lines(model)
    tokens = {}

    def ours():
        told = judge_answers(model, tokenizer, constitution, groups, min_mass=0.0)
        tokens["ours"] = sum(read for _, read in told)
        return [
            [one["score"] for one in answer.values()] for scores, _ in told for answer in scores
        ]

    ways = {
        "ours": ours,
        "forward": lambda: forward(model, tokenizer, parts),
        "cache": lambda: cache(model, tokenizer, parts),
        "generate": lambda: generate(model, tokenizer, parts),
        "generate_batch": lambda: generate(model, tokenizer, parts, BATCH),
        "once": lambda: generate(model, tokenizer, parts, once=True),
        "once_batch": lambda: generate(model, tokenizer, parts, BATCH, once=True),
    }
    each = sum(
        len(p) + len(a) + len(t)
        for p, answers, tails in parts
        for a in answers
        for t in tails.values()
    )
    first = sum(
        len(p) + len(a) + len(next(iter(tails.values())))
        for p, answers, tails in parts
        for a in answers
    )
    tokens |= {
        "forward": each,
        "generate": each,
        "generate_batch": each,
        "once": first,
        "once_batch": first,
        "cache": sum(
            len(p) + sum(len(a) + sum(map(len, tails.values())) for a in answers)
            for p, answers, tails in parts
        ),
    }
    seconds, scores = {name: [] for name in ways}, {}
    for repeat in range(-1, repeats):
        for name in list(ways)[:: 1 - 2 * (repeat % 2)]:
            start = time.process_time()
            scores[name] = ways[name]()
            seconds[name] += [time.process_time() - start] * (repeat >= 0)
            print(f"{repeat:3} {name:15} {time.process_time() - start:8.2f} s", file=sys.stderr)
    return seconds, tokens, scores


def main(args):
    model, tokenizer, constitution, groups = (kept if args.model else made)(args)
    seconds, tokens, scores = measure(model, tokenizer, constitution, groups, args.repeats)
    candidates = sum(len(completions) for _, completions, _, _ in groups)
    error = {
        name: max(
            abs(a - b)
            for one, other in zip(scores[name], scores["forward"])
            for a, b in zip(one, other)
        )
        for name in ("ours", "cache")
    }
    failed = error["ours"] > 1e-5
    for name, spent in seconds.items():
        ratios = sorted(own / ours for own, ours in zip(spent, seconds["ours"]))
        row = {
            "bench": "judge",
            "model": args.model or f"h{args.hidden}_l{args.layers}_V{args.vocab}",
            "variant": name,
            "ms_per_candidate": round(1000 * statistics.median(spent) / candidates, 2),
            "ratio": round(statistics.median(ratios), 2),
            "range": [round(ratios[i], 2) for i in (0, -1)],
            "tokens_read": round(tokens[name] / candidates, 1),
            "candidates": candidates,
            "repeats": args.repeats,
            "jemalloc": "jemalloc" in os.environ.get("LD_PRELOAD", ""),
        }
        print(
            json.dumps(row | ({"scores_differ_by": error[name]} if name in error else {})),
            flush=True,
        )
        failed |= not args.model and row["ratio"] < FLOORS.get(name, 0)
    return int(failed)


if __name__ == "__main__":
    args = parse_args()
    if bool(args.model) != bool(args.constitution):
        sys.exit("--model and --constitution go together")
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
    import tokenizers
    import torch
    import transformers

    from posttrain.chat.template import PLAIN_TEMPLATE
    from posttrain.generate.reading import padded_ids
    from posttrain.judging.constitution import read_constitution
    from posttrain.judging.digits import choice_ids, digit_scores, judge_answers
    from posttrain.judging.prompt import Case, judge_ids
    from posttrain.model.load import load_model, load_tokenizer
    from posttrain.packed.reader import teach_lines
    from posttrain.records.jsonl import read_jsonl

    torch.set_num_threads(1)
    with torch.no_grad():
        sys.exit(main(args))
