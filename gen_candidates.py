"""Step 2: N candidate answers per prompt, over temperatures, system prompts and competing checkpoints.

Reads   prompts.jsonl: prompt, id, and whatever else the row carries (slice, answer, tools, tests ... are kept).
Writes  candidates.jsonl, a line per answer: the prompt's fields, candidate (0..N-1), completion, generator,
        temperature, system, seed, tokens, read, finish ("stop" or "length"); and candidates.run.json beside it.

    python gen_candidates.py --model runs/sft --data data/prompts.jsonl --out runs/candidates.jsonl --n 4
    python gen_candidates.py --model runs/sft runs/dpo --data data/prompts.jsonl --out runs/two.jsonl --n 8 \\
        --temperatures 0.7 1.0
    python gen_candidates.py --model qwen3 --endpoint http://localhost:8000/v1 --data data/prompts.jsonl \\
        --out runs/api.jsonl

Candidate k takes model k mod M, then temperature, then system prompt, so that N answers cover every combination evenly.
What to look at: the share of answers that end in "length" (raise --max-tokens), and whether temperature 1.0 still
makes sense. Killed at any moment, the same command continues; the file ends the same as an uninterrupted one.
Left out on purpose: top-p, top-k, beam search (temperature alone keeps the policy's own distribution).
"""

import time
from pathlib import Path

from tqdm import tqdm

from common import cost_line, generation_tokens, money
from posttrain.chat.encode import prompt_ids
from posttrain.cli import BadInput, at_least, parser, run_stage
from posttrain.generate.endpoint import ask_endpoint
from posttrain.generate.local import generation_batches, sample
from posttrain.hashing import seed_for
from posttrain.model.family import family_of
from posttrain.model.load import load_model, load_tokenizer
from posttrain.records.files import read_records
from posttrain.records.jsonl import append_lines, continue_lines, read_jsonl
from posttrain.run.folder import save_run, start_run
from posttrain.run.forecast import forecast


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument(
        "--model",
        required=True,
        nargs="+",
        help="models that compete: hub names, folders, run folders",
    )
    p.add_argument(
        "--endpoint", help="URL of an OpenAI-compatible server; --model is then its name there"
    )
    p.add_argument(
        "--data", required=True, nargs="+", help="prompts: JSONL files or hf:name[:split]"
    )
    p.add_argument("--out", required=True, help="JSONL file to write")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    # the method
    p.add_argument(
        "--n", type=at_least(1), default=4, help="answers per prompt, over all models and settings"
    )
    p.add_argument(
        "--first",
        type=at_least(0),
        default=0,
        help="number of the first answer: a second round's are new",
    )
    p.add_argument(
        "--temperatures", type=at_least(0, float), nargs="+", default=[1.0], help="0 is greedy"
    )
    p.add_argument(
        "--system", help='JSONL of {"system": text}: system prompts that take turns (null = none)'
    )
    p.add_argument("--max-tokens", type=at_least(1), default=512, help="longest answer")
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="each answer's own seed derives from it, its id and its number",
    )
    p.add_argument(
        "--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU"
    )
    p.add_argument("--batch-size", type=at_least(1), default=64, help="answers sampled at once")
    p.add_argument(
        "--concurrency",
        type=at_least(1),
        default=8,
        help="requests at an endpoint at the same time",
    )
    p.add_argument(
        "--refill",
        type=at_least(1),
        default=1,
        help="N: waiting answers take the places of finished ones, "
        "in groups of N batches (for a GPU: 8; a run cut off redoes a group)",
    )
    # look before you pay
    p.add_argument(
        "--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit"
    )
    p.add_argument(
        "--answer-len",
        type=at_least(1),
        help="expected tokens per answer, for the forecast (--max-tokens)",
    )
    p.add_argument(
        "--tokens-per-second",
        type=at_least(1e-9, float),
        help="for the forecast (default: an earlier run)",
    )
    p.add_argument(
        "--price-gen",
        type=at_least(0, float),
        default=0.0,
        help="price per million tokens read or written",
    )
    p.add_argument(
        "--price-gpu-hour",
        type=at_least(0, float),
        default=0.0,
        help="price of the machine per hour",
    )
    return p.parse_args(argv)


# ---- the method -----------------------------------------------------------------------------------------------


def recipe(k, models, temperatures, systems):
    """(model, temperature, system prompt) of candidate k: the first varies fastest."""
    M, S = len(models), len(temperatures)
    return models[k % M], temperatures[k // M % S], systems[k // (M * S) % len(systems)]


def read_systems(path):
    """System prompts of a JSONL file; [None] without one."""
    if not path:
        return [None]
    systems = [row.get("system", 0) for _, row in read_jsonl(path)]
    if not systems or not all(s is None or isinstance(s, str) for s in systems):
        raise BadInput(f'{path}: every line must be {{"system": text or null}}')
    return systems


def with_system(prompt, system):
    """The prompt with its system message replaced by `system`; unchanged when system is None."""
    rest = prompt[prompt[0]["role"] == "system" :]
    return prompt if system is None else [{"role": "system", "content": system}] + rest


def candidate_row(row, k, made_by, family, seed, answer, read):
    """One line of candidates.jsonl; `read` = tokens of the prompt, counted once for all answers it was read for. The
    prompt stays without the extra system text: training learns it by heart."""
    model, temperature, system = made_by
    return row | {
        "candidate": k,
        "completion": [{"role": "assistant", "content": answer["text"]}],
        "generator": model,
        "family": family,
        "temperature": temperature,
        "system": system,
        "seed": seed,
        "tokens": answer["tokens"],
        "read": read,
        "finish": answer["finish"],
    }


# ---- the run --------------------------------------------------------------------------------------------------


def main(args):
    if not args.out.endswith(".jsonl"):
        raise BadInput(f"--out {args.out}: expected the name of a .jsonl file")
    rows = [row for path in args.data for row in read_records(path, "prompts", args.limit)]
    if len({row["id"] for row in rows}) < len(rows):
        raise BadInput("--data: the same id occurs in two files; ids must be unique")
    systems = read_systems(args.system)
    numbers = range(args.first, args.first + args.n)
    made_by = {k: recipe(k - args.first, args.model, args.temperatures, systems) for k in numbers}
    if args.n % (len(args.model) * len(args.temperatures) * len(systems)):
        print(
            f"note     --n {args.n} is no multiple of models x temperatures x systems: some come up more often"
        )
    work = []  # (model, tokenizer, jobs): a job is one prompt under one system text, read once for all its samples
    for model in dict.fromkeys(args.model):
        tokenizer = None if args.endpoint else load_tokenizer(model)
        jobs = []
        for row in rows:
            for system in dict.fromkeys(s for m, _, s in made_by.values() if m == model):
                own = [k for k, (m, _, s) in made_by.items() if m == model and s == system]
                prompt = with_system(row["prompt"], system)
                ids = prompt_ids(tokenizer, prompt, row.get("tools")) if tokenizer else str(prompt)
                jobs.append({"row": row, "numbers": own, "prompt": prompt, "ids": ids})
        order = generation_batches(
            [len(j["ids"]) for j in jobs],
            [len(j["numbers"]) for j in jobs],
            args.batch_size * args.refill,
        )
        work += [(model, tokenizer, [jobs[j] for j in batch]) for batch in order]
    jobs = [job for _, _, batch in work for job in batch]
    # an endpoint reads the prompt once per answer, at about 4 characters a token
    prompt_len = sum(
        len(j["ids"]) * (len(j["numbers"]) / 4 if args.endpoint else 1) for j in jobs
    ) / len(rows)
    read, written = generation_tokens(
        len(rows), args.n, args.answer_len or args.max_tokens, prompt_len
    )
    plan = forecast(
        args.out,
        "gen_candidates.py",
        read + written,
        args.tokens_per_second,
        price_per_million=args.price_gen,
        price_gpu_hour=args.price_gpu_hour,
    )
    print(
        f"plan     {len(rows)} prompts x {args.n} x {args.answer_len or args.max_tokens} tokens: {cost_line(plan)}"
    )
    if args.plan:
        return 0
    record = start_run(
        args.out, "gen_candidates.py", vars(args), args.data + ([] if args.endpoint else args.model)
    )
    if record["finished"]:
        print(f"{args.out} is finished: nothing to do")
        return 0
    kept = Path(args.out).with_suffix(".kept.jsonl")
    families = {model: family_of(model) for model in args.model}
    done = continue_lines(
        args.out, [sum(len(job["numbers"]) for job in batch) for _, _, batch in work]
    )
    seconds, start, loaded, model = record["seconds"], time.perf_counter(), None, None

    for name, tokenizer, batch in tqdm(work[done:], initial=done, total=len(work), desc="sample"):
        if not args.endpoint and loaded != name:
            model = None  # the old model goes before the new one comes
            model, loaded = load_model(name, args.quantize), name
        seeds = [
            [seed_for(args.seed, job["row"]["id"], k) for k in job["numbers"]] for job in batch
        ]
        if args.endpoint:
            flat = [
                {
                    "messages": job["prompt"],
                    "temperature": made_by[k][1],
                    "max_tokens": args.max_tokens,
                    "seed": seed % 2**31,
                }
                | ({"tools": job["row"]["tools"]} if job["row"].get("tools") else {})
                for job, own in zip(batch, seeds)
                for k, seed in zip(job["numbers"], own)
            ]
            replies = iter(ask_endpoint(args.endpoint, name, flat, args.concurrency, kept=kept))
            answers = [[next(replies) for _ in job["numbers"]] for job in batch]
        else:
            prompts = [
                (job["ids"], [(made_by[k][1], seed) for k, seed in zip(job["numbers"], own)])
                for job, own in zip(batch, seeds)
            ]
            slots = args.batch_size if args.refill > 1 else None
            answers = sample(model, tokenizer, prompts, args.max_tokens, slots=slots)
        append_lines(
            args.out,
            [
                candidate_row(
                    job["row"],
                    k,
                    made_by[k],
                    families[made_by[k][0]],
                    seed,
                    answer,
                    answer.get("read", len(job["ids"]) if k == job["numbers"][0] else 0),
                )
                for job, own, some in zip(batch, seeds, answers)
                for k, seed, answer in zip(job["numbers"], own, some)
            ],
        )
        kept.unlink(missing_ok=True)
        save_run(record, seconds=seconds + time.perf_counter() - start)

    made = [row for _, row in read_jsonl(args.out)]
    tokens = sum(row["tokens"] + row["read"] for row in made)
    measured = {
        "tokens": tokens,
        "seconds": record["seconds"],
        "cost": money(tokens, args.price_gen, record["seconds"], args.price_gpu_hour),
    }
    save_run(record, finished=True, forecast=plan, **measured)
    mean, long = (
        sum(row["tokens"] for row in made) / len(made),
        sum(row["finish"] == "length" for row in made),
    )
    print(
        f"result   {len(made)} answers, {mean:.1f} tokens each, {long} cut off at --max-tokens; "
        f"{cost_line(measured)} -> {args.out}"
    )
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
