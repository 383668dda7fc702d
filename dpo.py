"""Stage B: preference optimisation on pairs, DPO or IPO (Identity preference optimisation), with LoRA / QLoRA.

Reads   pairs.jsonl: prompt, chosen, rejected; optional weight, slice, id, tools.
Writes  a run folder: adapter, tokenizer, ref_logps.jsonl (reference log-probabilities, reused by other runs beside it),
        log.jsonl (loss, rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies, logps/...), run.json.

    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/dpo
    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/ipo --loss ipo
    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/dpo2 --ref runs/dpo --beta 0.3

The reference is the model the run starts from (or --ref); its log-probabilities are computed once, before step 1.
What to look at: rewards/margins rises while logps/chosen should not fall far: when both logps sink, the policy is only
learning what not to say (lower --lr, raise --beta). rewards/accuracies near 1 says nothing about held-out prompts.
Left out on purpose: fifteen other losses; a new one is a function like dpo_loss in common.py and a line in batch_loss.
"""

import math
import time
from collections import Counter

import torch
from tqdm import tqdm

from common import cost_line, dpo_loss, ipo_loss
from posttrain.chat.encode import encode, show_mask
from posttrain.cli import BadInput, at_least, parser, run
from posttrain.model.load import check_length, load_policy, load_tokenizer
from posttrain.model.memory import memory_line, memory_plan, needs_checkpointing
from posttrain.model.names import fingerprint
from posttrain.packed.lines import line_tokens
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
from posttrain.train.checks import check_start, self_check
from posttrain.train.curves import curves
from posttrain.train.metrics import means, tally
from posttrain.train.order import batches
from posttrain.train.packs import pack_logps, packs
from posttrain.train.reference import other_reference, reference_logps
from posttrain.train.rows import hold_out, prepare
from posttrain.train.step import lr_at, make_optimizer, optimiser_step
from posttrain.train.watch import evaluate, some_prompts, too_far, warn, watch_steps


def parse_args(argv=None):
    p = parser(__doc__)
    # files
    p.add_argument("--model", required=True, help="hub name, model folder or run folder to start from")
    p.add_argument("--ref", help="reference policy (default: --model as it is before step 1)")
    p.add_argument("--data", required=True, nargs="+", metavar="FILE[=WEIGHT]", help="JSONL files or hf:name[:split]")
    p.add_argument("--out", required=True, help="run folder to write")
    p.add_argument("--slice-weight", nargs="+", metavar="SLICE=W", help="draw rows of a slice W times, like =WEIGHT")
    p.add_argument("--limit", type=at_least(1), help="only the first rows of each file")
    p.add_argument("--max-dropped", type=at_least(0, float, 1), default=0.05, help="largest share of unusable rows")
    # the method
    p.add_argument("--loss", choices=["dpo", "ipo"], default="dpo", help="preference loss")
    p.add_argument("--beta", type=at_least(1e-6, float), help="higher stays closer to the reference (dpo 0.1, ipo 1.0)")
    p.add_argument("--label-smoothing", type=at_least(0, float, 0.499), default=0.0, help="share of wrong labels")
    p.add_argument("--soft-labels", action="store_true", help="take it from each row's p, the judge's probability")
    p.add_argument("--nll-weight", type=at_least(0, float), default=0.0, help="add W x NLL per token of chosen")
    p.add_argument("--ipo-length", choices=["mean", "sum"], default="mean", help="ipo: per-token ratios, or sums")
    p.add_argument("--max-len", type=at_least(8), default=2048, help="tokens per conversation; the start is kept")
    p.add_argument("--lora-r", type=at_least(1), help="adapter rank (default 16, or that of the run continued)")
    p.add_argument("--lora-alpha", type=at_least(1), help="adapter scale (default 2 x rank)")
    p.add_argument("--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU")
    # optimisation
    p.add_argument("--lr", type=at_least(0, float), default=2e-5, help="peak learning rate")
    p.add_argument("--warmup", type=at_least(0, float, 1), default=0.1, help="share of steps with rising rate")
    p.add_argument("--epochs", type=at_least(1), default=1, help="passes over the data")
    p.add_argument("--max-steps", type=at_least(1), help="stop after so many steps")
    p.add_argument("--batch-size", type=at_least(1), default=16, help="pairs per optimiser step")
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
    p.add_argument("--show-mask", action="store_true", help="print a pair, trained parts in ⟦ ⟧, and exit")
    p.add_argument("--plan", action="store_true", help="print tokens, time, memory, cost; load no model; exit")
    p.add_argument("--tokens-per-second", type=at_least(1e-9, float), help="for the forecast (default: an earlier run)")
    p.add_argument("--price-gpu-hour", type=at_least(0, float), default=0.0, help="price of the machine per hour")
    args = p.parse_args(argv)
    args.beta = args.beta or {"dpo": 0.1, "ipo": 1.0}[args.loss]
    if args.soft_labels and args.label_smoothing:
        p.error("--soft-labels takes each row's p: leave --label-smoothing out")
    if args.max_kl is not None and args.eval_every == 0:
        p.error("--max-kl is looked at in evaluations: --eval-every must be above 0")
    return args


# ---- the method ----------------------------------------------------------------------------------------------


def encode_pair(tokenizer, row, max_len):
    """The row with row["seqs"] = [chosen, rejected]; ValueError(reason) for a pair that cannot teach anything."""
    seqs = [encode(tokenizer, row["prompt"], row[side], row.get("tools"), max_len) for side in ("chosen", "rejected")]
    if seqs[0]["ids"] == seqs[1]["ids"]:
        raise ValueError("chosen and rejected are the same")
    return row | {"seqs": seqs}


def batch_loss(model, pack, loss, beta, label_smoothing=0.0, ipo_length="mean", soft_labels=False, nll_weight=0.0):
    """(sum over the pack of weight x loss, sums of the metrics by slice); divide by the batch's weight.

    soft_labels: 1 - p, a row's probability that its label is wrong, in place of label_smoothing. nll_weight: also that
    many times the negative log-likelihood per token of the chosen answer (arXiv 2404.19733, eq. 1)."""
    logps, tokens = pack_logps(model, pack)  # [pairs, 2]: chosen, rejected
    ref = torch.tensor([[seq["ref"] for seq in row["seqs"]] for row in pack], dtype=logps.dtype, device=logps.device)
    weights = torch.tensor([row["weight"] for row in pack], dtype=logps.dtype, device=logps.device)
    wrong = torch.tensor([1 - row["p"] if soft_labels else label_smoothing for row in pack], dtype=logps.dtype,
                         device=logps.device)
    ratio = logps - ref
    if loss == "ipo":
        chosen, rejected = (ratio / tokens if ipo_length == "mean" else ratio).unbind(1)
        losses = ipo_loss(chosen, rejected, beta, wrong)
    else:
        losses = dpo_loss(ratio[:, 0], ratio[:, 1], beta, wrong)
    losses = losses - nll_weight * logps[:, 0] / tokens[:, 0]
    reward_chosen, reward_rejected = (beta * ratio.detach()).unbind(1)
    return (weights * losses).sum(), tally(pack, losses, weights, {
        "rewards/chosen": reward_chosen, "rewards/rejected": reward_rejected,
        "rewards/margins": reward_chosen - reward_rejected,
        "rewards/accuracies": (reward_chosen > reward_rejected).double(), "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1], "tokens/chosen": tokens[:, 0], "tokens/rejected": tokens[:, 1]})


# ---- the run -------------------------------------------------------------------------------------------------


def main(args):
    rank, size = join_processes()
    rows = read_mixture(args.data, "pairs", args.limit, args.slice_weight)
    tokenizer = load_tokenizer(args.model)
    rows = prepare(rows, lambda row: encode_pair(tokenizer, row, args.max_len), tokenizer, args.max_dropped)
    if args.show_mask:
        print(*(show_mask(tokenizer, seq) for seq in rows[0]["seqs"]), sep="\n---\n")
        return 0
    without = sum("p" not in row for row in rows)
    if args.soft_labels and without:
        raise BadInput(f"--soft-labels: {without} of {len(rows)} pairs have no 'p' (probability that chosen is better)")
    rows, held = hold_out(rows, args.holdout, args.seed)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, args.max_steps)
    lengths = [line_tokens(row["seqs"]) for row in rows]
    numbers = sorted({n for batch in steps for n in batch})  # what the steps never reach needs no reference
    used = [rows[n] for n in numbers] + held
    tokens = sum(lengths[n] for batch in steps for n in batch) + line_tokens([s for row in used for s in row["seqs"]])
    plan = forecast(args.out, "dpo.py", tokens, args.tokens_per_second, price_gpu_hour=args.price_gpu_hour,
                    model=args.model)
    print(f"plan     {len(steps)} steps, {len(held)} rows held out, {cost_line(plan)}")
    memory = memory_plan(args.model, args.quantize, args.lora_r, max(args.pack_tokens, *lengths)) if (
        args.plan or torch.cuda.is_available()) else {}
    if args.plan:
        print(memory_line(memory))
        return 0
    record = open_run("dpo.py", vars(args))
    if not record:
        return 0
    track = start_tracker(args.track, args.out, vars(args))
    start, read = time.perf_counter(), 0
    key = fingerprint(args.ref or args.model, args.quantize)
    if args.ref:
        read += other_reference(args.ref, tokenizer, args.quantize, used, args.pack_tokens, key, args.out, rank, size)
    model = load_policy(args.model, args.quantize, args.lora_r, args.lora_alpha, args.seed, needs_checkpointing(memory))
    teach_lines(model)
    optimizer, at_start = make_optimizer(model, args.lr), [p.detach().clone() for p in trained(model)]
    check_length(model, max(len(seq["ids"]) for row in used for seq in row["seqs"]))
    state = load_checkpoint(args.out, model, optimizer)
    if not args.ref:
        policy = model if state["step"] == 0 else None
        read += reference_logps(policy, used, args.pack_tokens, key, args.out, rank, size)
    options, padded = (args.loss, args.beta, args.label_smoothing, args.ipo_length), not reads_lines(model)

    def losses(pack):
        return batch_loss(model, pack, *options, args.soft_labels, args.nll_weight)

    if state["step"] == 0 and not args.ref:
        first = [rows[n] for n in steps[0]]
        with torch.no_grad():
            total = sum(batch_loss(model, pack, *options)[0].item() for pack in packs(first, args.pack_tokens))
        check_start(args.loss.upper(), total / sum(row["weight"] for row in first),
                    math.log(2) if args.loss == "dpo" else 1 / (4 * args.beta**2), model)
    if args.selfcheck:
        self_check(model, [rows[n] for n in steps[0]], losses, args.pack_tokens, state["step"] == 0 and not args.ref)
    seconds, tokens = state.get("seconds", 0.0), state.get("tokens", read)
    history, told = read_log(args.out), set()
    watched, prompts = watch_steps(len(steps), args.eval_every), some_prompts(held or rows, model, args.max_kl)
    for step in tqdm(range(state["step"], len(steps)), initial=state["step"], total=len(steps), desc=args.loss):
        if state.get("stopped"):
            break
        batch = [rows[n] for n in steps[step]]
        total, sums = sum(row["weight"] for row in batch), Counter()
        for pack in packs(batch, args.pack_tokens, rank, size, padded):
            loss, found = losses(pack)
            (loss / total).backward()
            sums.update(found)
        sum_gradients(model)
        values, lr = means(summed(sums)), lr_at(step, len(steps), args.lr, args.warmup)
        grad_norm = optimiser_step(optimizer, lr)
        read = sum(lengths[n] for n in steps[step])
        values |= {"grad_norm": grad_norm, "lr": lr, "seconds": seconds + time.perf_counter() - start, "tokens": read}
        if step in watched:
            values |= evaluate(model, tokenizer, at_start, held, prompts, losses, args.seed, args.pack_tokens)
        tokens += read
        history.append(write_log(args.out, step, len(steps), **values))
        track(values, step + 1)
        warn(history, told, args.beta)
        stopped = too_far(values, args.max_kl)
        if stopped or (step + 1) % args.save_every == 0 or step + 1 == len(steps):
            state = {"tokens": tokens, "stopped": stopped} | {
                name: values[name] for name in ("seconds", "loss", "rewards/margins")}
            save_checkpoint(args.out, model, optimizer, step + 1, **state)

    if rank:
        return 0
    save_adapter(args.out, model, tokenizer)
    curves(args.out)
    measured = close_run(args.out, record, plan, state, args.price_gpu_hour)
    print(f"result   {len(history)} steps, last loss {state['loss']:.4f}, margin {state['rewards/margins']:+.3f}, "
          f"{cost_line(measured)} -> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
