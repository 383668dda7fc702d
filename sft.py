"""Stage A: supervised fine-tuning (SFT) with LoRA / QLoRA on the answers of conversations.

Reads   sft.jsonl: prompt + completion, messages, or ShareGPT conversations; optional weight, slice, id, tools.
Writes  a run folder: adapter, tokenizer + chat template, log.jsonl (a line a step), run.json (arguments, hashes, cost).

    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft --max-steps 20
    python sft.py --model Qwen/Qwen3-0.6B --data data/sft.jsonl=2 hf:my-org/chats --out runs/sft-qwen --epochs 2
    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft-look --show-mask

What to look at: the data report (duplicates and hedging openers teach style faster than content), --show-mask once per
new model, and `loss` in log.jsonl: it should fall and level off. A loss near 0 after one epoch means memorised rows.
Killed at any moment, the same command continues and ends in the same weights.
Beside it stand eval_loss (held-out rows) and what the policy says by itself; curves.png draws them.
Left out on purpose: full-parameter training.
"""

import math
import time
from collections import Counter
from functools import partial

import torch
from tqdm import tqdm

from common import cost_line
from posttrain.chat.encode import encode, show_mask
from posttrain.cli import at_least, parser, run
from posttrain.model.load import check_length, load_policy, load_tokenizer
from posttrain.model.memory import memory_line, memory_plan, needs_checkpointing
from posttrain.packed.reader import reads_lines, teach_lines
from posttrain.processes import join_processes, sum_gradients, summed, trained
from posttrain.records.mixture import read_mixture
from posttrain.run.forecast import forecast
from posttrain.run.training_run import (
    close_run,
    load_checkpoint,
    open_run,
    read_log,
    save_adapter,
    save_checkpoint,
    start_tracker,
    write_log,
)
from posttrain.train.checks import self_check
from posttrain.train.curves import curves
from posttrain.train.metrics import means, tally
from posttrain.train.order import batches
from posttrain.train.packs import pack_logps, packs
from posttrain.train.rows import hold_out, prepare
from posttrain.train.step import lr_at, make_optimizer, optimiser_step
from posttrain.train.watch import evaluate, some_prompts, too_far, warn, watch_steps


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--model", required=True, help="hub name, model folder or run folder to start from")
    p.add_argument("--data", required=True, nargs="+", metavar="FILE[=WEIGHT]", help="JSONL files or hf:name[:split]")
    p.add_argument("--out", required=True, help="run folder to write")
    p.add_argument("--slice-weight", nargs="+", metavar="SLICE=W", help="draw rows of a slice W times, like =WEIGHT")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    p.add_argument("--max-dropped", type=at_least(0, float, 1), default=0.05, help="largest share of unusable rows")
    # the method
    p.add_argument("--all-turns", action="store_true", help="train on every assistant turn, not only the last")
    p.add_argument("--max-len", type=at_least(8), default=2048, help="tokens per conversation; the start is kept")
    p.add_argument("--lora-r", type=at_least(1), help="adapter rank (default 16, or that of the run continued)")
    p.add_argument("--lora-alpha", type=at_least(1), help="adapter scale (default 2 x rank)")
    p.add_argument("--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU")
    # optimisation
    p.add_argument("--lr", type=at_least(0, float), default=2e-4, help="peak learning rate")
    p.add_argument("--warmup", type=at_least(0, float, 1), default=0.1, help="share of steps with rising rate")
    p.add_argument("--epochs", type=at_least(1), default=1, help="passes over the data")
    p.add_argument("--max-steps", type=at_least(1), help="stop after so many steps")
    p.add_argument("--batch-size", type=at_least(1), default=16, help="rows per optimiser step")
    p.add_argument("--pack-tokens", type=at_least(1), default=4096, help="tokens in memory at once")
    p.add_argument("--seed", type=int, default=0, help="order of the rows and initial adapter")
    p.add_argument("--save-every", type=at_least(1), default=50, help="steps between checkpoints")
    # what is watched
    p.add_argument("--holdout", type=at_least(0, float, 0.5), default=0.05, help="share of prompts only scored (<= 64)")
    p.add_argument("--eval-every", type=at_least(0), help="steps between evaluations (default: five a run; 0 = none)")
    p.add_argument("--max-kl", type=at_least(0, float), help="stop when answers are further (nats) from the start")
    p.add_argument("--selfcheck", action="store_true", help="check gradients, packs and reference before step 1")
    p.add_argument("--track", help="also log to accelerate's tracker: tensorboard, wandb, trackio ...")
    # look before you pay
    p.add_argument("--show-mask", action="store_true", help="print rows, trained parts in ⟦ ⟧, and exit")
    p.add_argument("--plan", action="store_true", help="print tokens, time, memory, cost; load no model; exit")
    p.add_argument("--tokens-per-second", type=at_least(1e-9, float), help="for the forecast (default: an earlier run)")
    p.add_argument("--price-gpu-hour", type=at_least(0, float), default=0.0, help="price of the machine per hour")
    args = p.parse_args(argv)
    if args.max_kl is not None and args.eval_every == 0:
        p.error("--max-kl is looked at in evaluations: --eval-every must be above 0")
    return args


# ---- the method ----------------------------------------------------------------------------------------------


def batch_loss(model, pack):
    """(sum over the pack of weight x negative log-likelihood of the supervised tokens, sums of the metrics by slice);
    divide by the batch's weighted tokens."""
    logps, tokens = pack_logps(model, pack)  # [rows, 1]
    weights = torch.tensor([row["weight"] for row in pack], dtype=torch.float64, device=logps.device)
    losses = -logps[:, 0] / tokens[:, 0]
    return -(weights * logps[:, 0]).sum(), tally(pack, losses, weights * tokens[:, 0], {"tokens/answer": tokens[:, 0]})


def data_report(rows):
    """Lines that describe SFT rows: answer lengths, duplicates, hedging openers, empty answers: what you will get."""
    answers = [row["completion"][-1]["content"].strip() for row in rows]
    words = sorted(len(a.split()) for a in answers)
    hedges = ("great question", "sure", "certainly", "of course", "i think", "i could be wrong", "as an ai",
              "absolutely", "i'd be happy")
    openers = Counter(next((h for h in hedges if a.lower().startswith(h)), None) for a in answers)
    hedging = ", ".join(f"'{h}' {n}" for h, n in openers.most_common(4) if h)
    copies = len(rows) - len({(str(row["prompt"]), a) for row, a in zip(rows, answers)})
    asked_twice = len(rows) - len({str(row["prompt"]) for row in rows})
    empty = sum(not a and not row["completion"][-1].get("tool_calls") for a, row in zip(answers, rows))
    return [f"report   words per answer: median {words[len(words) // 2]}, 90 % below {words[int(len(words) * 0.9)]}, "
            f"longest {words[-1]}; {copies} exact duplicates, {asked_twice} repeated prompts, {empty} empty answers",
            f"report   {len(rows) - openers[None]} answers open with a hedge{f' ({hedging})' if hedging else ''}"]


# ---- the run -------------------------------------------------------------------------------------------------


def main(args):
    rank, size = join_processes()
    rows = read_mixture(args.data, "sft", args.limit, args.slice_weight)
    tokenizer = load_tokenizer(args.model)
    print("\n".join(data_report(rows)))
    rows = prepare(rows, lambda row: row | {"seqs": [
        encode(tokenizer, row["prompt"], row["completion"], row.get("tools"), args.max_len, args.all_turns)]},
        tokenizer, args.max_dropped)
    if args.show_mask:
        print(*(show_mask(tokenizer, row["seqs"][0]) for row in rows[:3]), sep="\n---\n")
        return 0
    rows, held = hold_out(rows, args.holdout, args.seed)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, args.max_steps)
    tokens = sum(len(rows[n]["seqs"][0]["ids"]) for batch in steps for n in batch)
    longest = max(len(row["seqs"][0]["ids"]) for row in rows + held)
    plan = forecast(args.out, "sft.py", tokens, args.tokens_per_second, price_gpu_hour=args.price_gpu_hour,
                    model=args.model)
    print(f"plan     {len(steps)} steps, {len(held)} rows held out, {cost_line(plan)}")
    memory = memory_plan(args.model, args.quantize, args.lora_r, max(args.pack_tokens, longest)) if (
        args.plan or torch.cuda.is_available()) else {}
    if args.plan:
        print(memory_line(memory))
        return 0
    record = open_run("sft.py", vars(args))
    if not record:
        return 0
    track = start_tracker(args.track, args.out, vars(args))
    start = time.perf_counter()
    model = load_policy(args.model, args.quantize, args.lora_r, args.lora_alpha, args.seed, needs_checkpointing(memory))
    teach_lines(model)
    optimizer, at_start = make_optimizer(model, args.lr), [p.detach().clone() for p in trained(model)]
    check_length(model, longest)
    state = load_checkpoint(args.out, model, optimizer)
    seconds, tokens = state.get("seconds", 0.0), state.get("tokens", 0)

    losses, padded = partial(batch_loss, model), not reads_lines(model)
    if args.selfcheck:
        self_check(model, [rows[n] for n in steps[0]], losses, args.pack_tokens)
    history, told = read_log(args.out), set()
    watched, prompts = watch_steps(len(steps), args.eval_every), some_prompts(held or rows, model, args.max_kl)
    for step in tqdm(range(state["step"], len(steps)), initial=state["step"], total=len(steps), desc="sft"):
        if state.get("stopped"):
            break
        batch = [rows[n] for n in steps[step]]
        total, sums = sum(row["weight"] * sum(row["seqs"][0]["mask"]) for row in batch), Counter()
        for pack in packs(batch, args.pack_tokens, rank, size, padded):
            loss, found = losses(pack)
            (loss / total).backward()
            sums.update(found)
        sum_gradients(model)
        values, lr = means(summed(sums)), lr_at(step, len(steps), args.lr, args.warmup)
        values["perplexity"] = math.exp(min(values["loss"], 50))
        grad_norm = optimiser_step(optimizer, lr)
        read = sum(len(row["seqs"][0]["ids"]) for row in batch)
        values |= {"grad_norm": grad_norm, "lr": lr, "seconds": seconds + time.perf_counter() - start, "tokens": read}
        if step in watched:
            values |= evaluate(model, tokenizer, at_start, held, prompts, losses, args.seed, args.pack_tokens)
        tokens += read
        history.append(write_log(args.out, step, len(steps), **values))
        track(values, step + 1)
        warn(history, told)
        stopped = too_far(values, args.max_kl)
        if stopped or (step + 1) % args.save_every == 0 or step + 1 == len(steps):
            state = {"tokens": tokens, "stopped": stopped} | {name: values[name] for name in ("seconds", "loss")}
            save_checkpoint(args.out, model, optimizer, step + 1, **state)

    if rank:
        return 0
    save_adapter(args.out, model, tokenizer)
    curves(args.out)
    measured = close_run(args.out, record, plan, state, args.price_gpu_hour)
    print(f"result   {len(history)} steps, last loss {state['loss']:.4f}, {cost_line(measured)} -> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
