"""Step 2: N candidate answers per prompt, over temperatures, system prompts, competing checkpoints.

Reads   prompts.jsonl: prompt, id, and whatever else the row carries (slice, answer, tools, tests
        ... are kept).
Writes  candidates.jsonl, a line per answer: the prompt's fields, candidate (0..N-1), completion,
        generator, family, temperature, system, seed, tokens, read, finish ("stop" or "length"),
        thought_tokens where a part of the tokens is a thought; and candidates.run.json beside it.

    python gen_candidates.py --model runs/sft --data data/prompts.jsonl --out runs/candidates.jsonl
    python gen_candidates.py --model runs/sft runs/dpo --data data/prompts.jsonl \\
        --out runs/two.jsonl --n 8 --temperatures 0.7 1.0
    python gen_candidates.py --model qwen3 --endpoint http://localhost:8000/v1 \\
        --data data/prompts.jsonl --out runs/api.jsonl

Candidate k takes model k mod M, then temperature, then system prompt, so that N answers cover every
combination evenly.
What to look at: the share of answers that end in "length" (raise --max-tokens), and whether
temperature 1.0 still makes sense. Killed at any moment, the same command continues; the file ends
the same as an uninterrupted one.
Left out on purpose: top-p, top-k, beam search (temperature alone keeps the policy's own
distribution).
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from common import cost_line, generation_tokens, money
from posttrain.chat.encode import prompt_ids
from posttrain.chat.replies import reply_message, reply_to
from posttrain.cli import BadInput, at, at_least, parser, run_stage
from posttrain.generate.endpoint import ask_endpoint, messages_for_server
from posttrain.generate.local import generation_batches, sample
from posttrain.hashing import seed_for
from posttrain.model.family import family_of
from posttrain.model.limits import check_format, fit_prompts
from posttrain.model.load import load_merged, load_tokenizer
from posttrain.model.memory import OneInMemory
from posttrain.records.files import read_records
from posttrain.records.jsonl import read_jsonl, stream_jsonl
from posttrain.run.file_run import FileRun
from posttrain.run.forecast import forecast
from posttrain.verify.checks import check_fields


def parse_args(argv=None):
    p = parser(__doc__)
    count = at_least(1)
    positive = at_least(1e-9, float)
    price = at_least(0, float)

    add = p.add_argument_group("files").add_argument
    names = "models that compete: hub names, folders, run folders"
    server = "URL of an OpenAI-compatible server; --model is then its name there"
    add("--model", required=True, nargs="+", help=names)
    add("--endpoint", help=server)
    add("--data", required=True, nargs="+", help="prompts: JSONL files or hf:name[:split]")
    add("--out", required=True, help="JSONL file to write")
    add("--limit", type=count, help="only the first rows of each file")

    add = p.add_argument_group("the method").add_argument
    first = "number of the first answer: a second round's are new"
    systems = 'JSONL of {"system": text}: system prompts that take turns (null = none)'
    truncate = "left: cut a local model's prompts at their start until an answer fits behind them"
    think = "on: a local model may think first (a server decides by itself)"
    seed = "each answer's own seed derives from it, its id and its number"
    add("--n", type=count, default=4, help="answers per prompt, over all models and settings")
    add("--first", type=at_least(0), default=0, help=first)
    add("--temperatures", type=price, nargs="+", default=[1.0], help="0 is greedy")
    add("--system", help=systems)
    add("--max-tokens", type=count, default=512, help="longest answer, its thought included")
    add("--truncate", choices=["left"], help=truncate)
    add("--seed", type=int, default=0, help=seed)
    add("--think", choices=["off", "on"], default="off", help=think)

    add = p.add_argument_group("speed and memory").add_argument
    quantize = ["auto", "nf4", "none"]
    refill = (
        "N: waiting answers take the places of finished ones, in groups of N batches "
        "(for a GPU: 8; a run cut off redoes a group)"
    )
    add("--quantize", choices=quantize, default="auto", help="auto = nf4 on a GPU")
    add("--batch-size", type=count, default=64, help="answers sampled at once")
    add("--concurrency", type=count, default=8, help="requests at an endpoint at the same time")
    add("--refill", type=count, default=1, help=refill)

    add = p.add_argument_group("look before you pay").add_argument
    length = "expected tokens per answer, for the forecast (--max-tokens)"
    speed = "for the forecast (default: an earlier run)"
    per_million = "price per million tokens read or written"
    add("--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit")
    add("--answer-len", type=count, help=length)
    add("--tokens-per-second", type=positive, help=speed)
    add("--price-gen", type=price, default=0.0, help=per_million)
    add("--price-gpu-hour", type=price, default=0.0, help="price of the machine per hour")
    return p.parse_args(argv)


# ---- the method ----------------------------------------------------------------------------------


class Draw(NamedTuple):
    """One answer to come: candidate number k of its prompt."""

    k: int
    temperature: float
    seed: int


@dataclass
class Job:
    """A prompt that one model reads once, under one system text, for all its answers to it."""

    row: dict  # the prompt's record
    model: str
    system: str | None
    prompt: list  # messages, the system text in them
    ids: list | None  # their tokens; None for an endpoint, which counts them itself
    draws: list

    def length(self):
        """Tokens of the prompt; for an endpoint characters, which nobody has counted yet."""
        return len(str(self.prompt) if self.ids is None else self.ids)


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
    if system is None:
        return prompt
    rest = prompt[1:] if prompt[0]["role"] == "system" else prompt
    return [{"role": "system", "content": system}, *rest]


def read_prompts(paths, limit):
    """The prompts of all files; BadInput when an id occurs in two of them.

    What verifiers will need is checked here, before an answer is paid for.
    """
    rows = []
    for path in paths:
        rows += read_records(path, "prompts", limit, check=check_fields)
    if len({row["id"] for row in rows}) < len(rows):
        raise BadInput("--data: the same id occurs in two files; ids must be unique")
    return rows


def make_jobs(model, rows, recipes, seed, *, tokenizer=None, think=False):
    """All jobs of one model. recipes: {k: recipe of candidate k}; tokenizer: a local model's."""
    numbers = {}  # system prompt: [(k, temperature), ...] of the answers under it
    for k, (name, temperature, system) in recipes.items():
        if name == model:
            numbers.setdefault(system, []).append((k, temperature))

    jobs = []
    for row in rows:
        for system, candidates in numbers.items():
            prompt = with_system(row["prompt"], system)
            ids = None
            if tokenizer:
                with at(f"{model}, id {row['id']!r}"):
                    ids = prompt_ids(tokenizer, prompt, row.get("tools"), think=think)
            draws = [Draw(k, t, seed_for(seed, row["id"], k)) for k, t in candidates]
            jobs.append(Job(row, model, system, prompt, ids, draws))
    return jobs


def fit_jobs(model, tokenizer, jobs, *, max_tokens, truncate, quantize):
    """Make the prompts of a local model's jobs fit it, see fit_prompts.

    BadInput when it cannot read them. An endpoint, which has no tokenizer here, decides by itself.
    """
    if tokenizer is None:
        return
    check_format(model, quantize)
    prompts = [(job.row["id"], job.ids) for job in jobs]
    fitted = fit_prompts(model, tokenizer, prompts, max_tokens, truncate=truncate)
    for job, ids in zip(jobs, fitted):
        job.ids = ids


def make_batches(jobs, batch_rows):
    """Lists of jobs: prompts of similar length together, at most batch_rows answers."""
    lengths = [job.length() for job in jobs]
    answers = [len(job.draws) for job in jobs]
    batches = []
    for numbers in generation_batches(lengths, answers, batch_rows):
        batches.append([jobs[number] for number in numbers])
    return batches


def count_draws(batch):
    """How many answers, and so lines of the file, a batch makes."""
    return sum(len(job.draws) for job in batch)


def tokens_to_read(jobs):
    """Tokens of all prompts. An endpoint reads one per answer, at about 4 characters a token."""
    tokens = 0
    for job in jobs:
        tokens += job.length() * len(job.draws) / 4 if job.ids is None else job.length()
    return tokens


def sample_batch(batch, model, tokenizer, max_tokens, *, slots, think=False):
    """A local model's answers, a list for each job. "read": its prompt, counted once a job.

    "message": the answer as the model's own template would write it.
    """
    prompts = []
    for job in batch:
        prompts.append((job.ids, [(draw.temperature, draw.seed) for draw in job.draws]))
    answers = sample(model, tokenizer, prompts, max_tokens, slots=slots)
    for job, answers_of_job in zip(batch, answers):
        for number, answer in enumerate(answers_of_job):
            answer["read"] = len(job.ids) if number == 0 else 0
            tools = job.row.get("tools")
            text = answer["text"]
            answer["message"] = reply_to(tokenizer, job.prompt, tools, text, think=think)
    return answers


def ask_batch(batch, url, max_tokens, concurrency, *, kept):
    """An endpoint's answers, a list for each job."""
    requests = []
    for job in batch:
        for draw in job.draws:
            request = {
                "messages": messages_for_server(job.prompt),
                "temperature": draw.temperature,
                "max_tokens": max_tokens,
                "seed": draw.seed % 2**31,
            }
            if job.row.get("tools"):
                request["tools"] = job.row["tools"]
            requests.append(request)
    replies = ask_endpoint(url, batch[0].model, requests, concurrency, kept=kept)
    for reply in replies:
        reply["message"] = reply_message(reply["text"], reply.get("thought", ""))
    replies = iter(replies)
    return [[next(replies) for _ in job.draws] for job in batch]


def candidate_rows(batch, answers, family):
    """Lines of candidates.jsonl: the prompt's fields, and what was made of them.

    The prompt stays without the extra system text: training learns it by heart. `read`: tokens of
    the prompt, counted once for all answers that it was read for.
    """
    rows = []
    for job, answers_of_job in zip(batch, answers):
        for draw, answer in zip(job.draws, answers_of_job):
            row = job.row | {
                "candidate": draw.k,
                "completion": [answer["message"]],
                "generator": job.model,
                "family": family,
                "temperature": draw.temperature,
                "system": job.system,
                "seed": draw.seed,
                "tokens": answer["tokens"],
                "read": answer["read"],
                "finish": answer["finish"],
            }
            if answer.get("thought_tokens"):
                row["thought_tokens"] = answer["thought_tokens"]
            rows.append(row)
    return rows


def count_answers(path):
    """Sums over the lines of candidates.jsonl: answers, their tokens, tokens read, answers cut."""
    sums = Counter()
    for _, row in stream_jsonl(path):
        sums["answers"] += 1
        sums["tokens"] += row["tokens"]
        sums["read"] += row["read"]
        sums["cut"] += row["finish"] == "length"
    return sums


# ---- the run -------------------------------------------------------------------------------------


def main(args):
    if not args.out.endswith(".jsonl"):
        raise BadInput(f"--out {args.out}: expected the name of a .jsonl file")

    # What is asked: jobs in batches, model by model, so that each is loaded once.
    rows = read_prompts(args.data, args.limit)
    systems = read_systems(args.system)
    recipes = {}
    for k in range(args.n):
        recipes[args.first + k] = recipe(k, args.model, args.temperatures, systems)
    if args.n % (len(args.model) * len(args.temperatures) * len(systems)):
        print(
            f"note     --n {args.n} is no multiple of models x temperatures x systems: "
            "some come up more often"
        )
    tokenizers = {}
    think = args.think == "on"
    batches = []
    for model in dict.fromkeys(args.model):
        if not args.endpoint:
            tokenizers[model] = load_tokenizer(model)
        jobs = make_jobs(
            model,
            rows,
            recipes,
            args.seed,
            tokenizer=tokenizers.get(model),
            think=think,
        )
        fit_jobs(
            model,
            tokenizers.get(model),
            jobs,
            max_tokens=args.max_tokens,
            truncate=args.truncate,
            quantize=args.quantize,
        )
        batches += make_batches(jobs, args.batch_size * args.refill)

    # The plan.
    answer_len = args.answer_len or args.max_tokens
    prompt_len = sum(tokens_to_read(batch) for batch in batches) / len(rows)
    read, written = generation_tokens(len(rows), args.n, answer_len, prompt_len)
    plan = forecast(
        args.out,
        "gen_candidates.py",
        read + written,
        args.tokens_per_second,
        price_per_million=args.price_gen,
        price_gpu_hour=args.price_gpu_hour,
    )
    print(f"plan     {len(rows)} prompts x {args.n} x {answer_len} tokens: {cost_line(plan)}")
    if args.plan:
        return 0
    inputs = args.data if args.endpoint else args.data + args.model
    run = FileRun(args.out, "gen_candidates.py", vars(args), inputs)
    if run.finished:
        print(f"{args.out} is finished: nothing to do")
        return 0

    # The answers, batch by batch; with --refill waiting ones take the places of those that end.
    families = {model: family_of(model) for model in args.model}
    slots = args.batch_size if args.refill > 1 else None
    memory = OneInMemory()

    def answer(batch):
        name = batch[0].model
        if args.endpoint:
            answers = ask_batch(
                batch, args.endpoint, args.max_tokens, args.concurrency, kept=run.replies
            )
        else:
            model = memory.get(name, partial(load_merged, name, args.quantize))
            answers = sample_batch(
                batch, model, tokenizers[name], args.max_tokens, slots=slots, think=think
            )
        return candidate_rows(batch, answers, families[name])

    sizes = [count_draws(batch) for batch in batches]
    run.extend(args.out, batches, sizes, answer)

    # What it took, counted in the file, so that a run that was killed says the same.
    sums = count_answers(args.out)
    tokens = sums["tokens"] + sums["read"]
    seconds = run.record["seconds"]
    cost = money(tokens, args.price_gen, seconds, args.price_gpu_hour)
    run.finish(forecast=plan, tokens=tokens, cost=cost)
    print(
        f"result   {sums['answers']} answers, {sums['tokens'] / sums['answers']:.1f} tokens each, "
        f"{sums['cut']} cut off at --max-tokens; {cost_line(run.record)} -> {args.out}"
    )
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
