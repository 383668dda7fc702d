"""Stage A: supervised fine-tuning (SFT) with LoRA / QLoRA on the answers of conversations.

Reads   sft.jsonl: prompt + completion, messages, or ShareGPT conversations; optional weight, slice, id, tools.
Writes  a run folder: adapter, tokenizer + chat template, log.jsonl (a line a step), run.json (arguments, hashes, cost).

    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft --max-steps 20
    python sft.py --model Qwen/Qwen3-0.6B --data data/sft.jsonl=2 hf:my-org/chats --out runs/sft-qwen --epochs 2
    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft-look --show-mask

What to look at: the data report (duplicates and hedging openers teach style faster than content), --show-mask once per
new model, and `loss` in log.jsonl: it should fall and level off. A loss near 0 after one epoch means memorised rows.
Killed at any moment, the same command continues and ends in the same weights.
Left out on purpose: full-parameter training, evaluation during training (the gate does it), several GPUs.
"""

import math
import time
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from common import (at_least, cost_line, encode, forecast, money, parser, read_mixture, run, save_run, show_mask,
                    start_run)
from training import (batches, check_length, load_checkpoint, load_policy, load_tokenizer, lr_at, optimiser_step,
                      pack_logps, packs, prepare, save_adapter, save_checkpoint, trained, warn_if_still, write_log)


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--model", required=True, help="hub name, model folder or run folder to start from")
    p.add_argument("--data", required=True, nargs="+", metavar="FILE[=WEIGHT]", help="JSONL files or hf:name[:split]")
    p.add_argument("--out", required=True, help="run folder to write")
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
    # look before you pay
    p.add_argument("--show-mask", action="store_true", help="print rows, trained parts in ⟦ ⟧, and exit")
    p.add_argument("--plan", action="store_true", help="print tokens, seconds, cost; load no model; exit")
    p.add_argument("--tokens-per-second", type=at_least(1e-9, float), help="for the forecast (default: an earlier run)")
    p.add_argument("--price-gpu-hour", type=at_least(0, float), default=0.0, help="price of the machine per hour")
    return p.parse_args(argv)


# ---- the method ----------------------------------------------------------------------------------------------


def batch_loss(model, pack):
    """Sum over the pack of weight x negative log-likelihood of the supervised tokens; divide by the batch's weight."""
    logps, _ = pack_logps(model, pack)
    weights = torch.tensor([row["weight"] for row in pack], dtype=torch.float64, device=logps.device)
    return -(weights * logps[:, 0]).sum()


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
    rows = read_mixture(args.data, "sft", args.limit)
    tokenizer = load_tokenizer(args.model)
    print("\n".join(data_report(rows)))
    rows = prepare(rows, lambda row: row | {"seqs": [
        encode(tokenizer, row["prompt"], row["completion"], row.get("tools"), args.max_len, args.all_turns)]},
        tokenizer, args.max_dropped)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, args.max_steps)
    if args.show_mask:
        print(*(show_mask(tokenizer, row["seqs"][0]) for row in rows[:3]), sep="\n---\n")
        return 0
    tokens = sum(len(rows[n]["seqs"][0]["ids"]) for batch in steps for n in batch)
    plan = forecast(args.out, "sft.py", tokens, args.tokens_per_second, price_gpu_hour=args.price_gpu_hour,
                    model=args.model)
    print(f"plan     {len(steps)} steps, {cost_line(plan)}")
    if args.plan:
        return 0
    record = start_run(args.out, "sft.py", vars(args), args.data + [args.model])
    if record["finished"]:
        (Path(args.out) / "checkpoint.pt").unlink(missing_ok=True)
        print(f"{args.out} is finished: nothing to do")
        return 0
    start = time.perf_counter()
    model = load_policy(args.model, args.quantize, args.lora_r, args.lora_alpha, args.seed)
    optimizer = torch.optim.AdamW(trained(model), lr=args.lr, weight_decay=0.0)
    check_length(model, max(len(row["seqs"][0]["ids"]) for row in rows))
    state = load_checkpoint(args.out, model, optimizer)
    seconds, tokens = state.get("seconds", 0.0), state.get("tokens", 0)

    for step in tqdm(range(state["step"], len(steps)), initial=state["step"], total=len(steps), desc="sft"):
        batch = [rows[n] for n in steps[step]]
        total = sum(row["weight"] * sum(row["seqs"][0]["mask"]) for row in batch)
        loss = 0.0
        for pack in packs(batch, args.pack_tokens):
            pack_loss = batch_loss(model, pack) / total
            pack_loss.backward()
            loss += pack_loss.item()
        lr = lr_at(step, len(steps), args.lr, args.warmup)
        grad_norm = optimiser_step(optimizer, lr)
        warn_if_still(step, grad_norm, None)
        elapsed = seconds + time.perf_counter() - start
        read = sum(len(row["seqs"][0]["ids"]) for row in batch)
        write_log(args.out, step, len(steps), loss=loss, grad_norm=grad_norm, lr=lr, seconds=elapsed, tokens=read,
                  perplexity=math.exp(min(loss, 50)))
        tokens += read
        if (step + 1) % args.save_every == 0 or step + 1 == len(steps):
            state = {"seconds": elapsed, "tokens": tokens, "loss": loss}
            save_checkpoint(args.out, model, optimizer, step + 1, **state)

    save_adapter(args.out, model, tokenizer)
    cost = money(seconds=state["seconds"], price_gpu_hour=args.price_gpu_hour)
    measured = {"tokens": state["tokens"], "seconds": state["seconds"], "cost": cost}
    save_run(record, finished=True, forecast=plan, **measured, loss=state["loss"])
    (Path(args.out) / "checkpoint.pt").unlink(missing_ok=True)
    print(f"result   {len(steps)} steps, last loss {state['loss']:.4f}, {cost_line(measured)} -> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
