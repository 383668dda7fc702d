"""Stage B: KTO, preference optimisation on single answers that are marked good or bad, with LoRA / QLoRA.

Reads   labels.jsonl: prompt, completion, and label (true/false) or scores {criterion: 0-5} (good when their mean
        reaches --threshold). Pairs are read too: chosen counts as good, rejected as bad, unless label_chosen and
        label_rejected say otherwise (true, false, null = leave it out): "A acceptable, B unsafe", or both bad.
Writes  a run folder: adapter, tokenizer, ref_logps.jsonl, log.jsonl (loss, kl, rewards/chosen, ...), run.json.

    python kto.py --model runs/sft --data data/labels.jsonl --out runs/kto
    python kto.py --model runs/sft --data data/labels.jsonl data/pairs.jsonl=0.5 --out runs/kto2 --threshold 3.5

KTO compares each answer's ratio with a reference point: the KL between policy and reference, estimated in every
optimiser step from its prompts with the answers of other prompts. It is drawn per step, not per pack: packs of one row,
batches of one class and shuffling are all fine.
What to look at: kl grows slowly (a jump means --lr is too high), rewards/chosen rises above rewards/rejected.
Left out on purpose: other unary losses (BCO, APO).
"""

import math
import time
from collections import Counter
from itertools import chain, islice

import torch
from tqdm import tqdm

from common import cost_line, kto_kl, kto_loss
from posttrain.chat.encode import encode, show_mask
from posttrain.cli import BadInput, at_least, parser, run
from posttrain.model.load import autocast, check_length, load_policy, load_tokenizer
from posttrain.model.memory import memory_line, memory_plan, needs_checkpointing
from posttrain.model.names import fingerprint
from posttrain.packed.lines import line_tokens, prompt_length
from posttrain.packed.reader import logps_after, reads_lines, seq_logps, teach_lines
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
    p.add_argument("--beta", type=at_least(1e-6, float), default=0.1, help="higher stays closer to the reference")
    p.add_argument("--threshold", type=at_least(0, float, 5), default=3.0, help="mean score that counts as good")
    p.add_argument("--desirable-weight", type=at_least(0, float), help="weight of good answers (default: balance)")
    p.add_argument("--undesirable-weight", type=at_least(0, float), help="weight of bad answers (default: balance)")
    p.add_argument("--max-len", type=at_least(8), default=2048, help="tokens per conversation; the start is kept")
    p.add_argument("--lora-r", type=at_least(1), help="adapter rank (default 16, or that of the run continued)")
    p.add_argument("--lora-alpha", type=at_least(1), help="adapter scale (default 2 x rank)")
    p.add_argument("--quantize", choices=["auto", "nf4", "none"], default="auto", help="auto = nf4 on a GPU")
    # optimisation
    p.add_argument("--lr", type=at_least(0, float), default=2e-5, help="peak learning rate")
    p.add_argument("--warmup", type=at_least(0, float, 1), default=0.1, help="share of steps with rising rate")
    p.add_argument("--epochs", type=at_least(1), default=1, help="passes over the data")
    p.add_argument("--max-steps", type=at_least(1), help="stop after so many steps")
    p.add_argument("--batch-size", type=at_least(1), default=16, help="answers per optimiser step")
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


def unary(row, threshold):
    """A labels or pairs record -> [{"completion", "label", ...}, ...] (0, 1 or 2 labelled answers)."""
    if "chosen" in row:
        sides = [(side, row.get(f"label_{side}", side == "chosen")) for side in ("chosen", "rejected")]
        return [row | {"completion": row[side], "label": label} for side, label in sides if label is not None]
    if "label" in row:
        return [row]
    scores = [score for score in row["scores"].values() if score is not None]
    return [row | {"label": sum(scores) / len(scores) >= threshold}] if scores else []  # no score says nothing


def class_weights(labels, desirable=None, undesirable=None, weights=None):
    """(weight of good, weight of bad) answers. Default: the lighter class is weighted up until both count the same
    (arXiv 2402.01306, eq. 8 allows a ratio of 1 to 4/3); `weights` are those of the single answers."""
    weights = weights or [1.0] * len(labels)
    good = sum(weight for label, weight in zip(labels, weights) if label)
    bad = sum(weights) - good
    balance = (max(1.0, bad / good), max(1.0, good / bad)) if good and bad else (1.0, 1.0)
    return (balance[0] if desirable is None else desirable, balance[1] if undesirable is None else undesirable)


def joined(row, other, max_len):
    """The prompt of one row with the answer of another, one token of it at least: {"ids", "mask"}."""
    (prompt, _), (_, answer) = ((seq["ids"][:cut], seq["ids"][cut:]) for seq in (row["seqs"][0], other["seqs"][0])
                                for cut in [prompt_length(seq)])
    ids = (prompt + answer)[:max(max_len, len(prompt) + 1)]
    return {"ids": ids, "mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))}


def mismatched(rows, steps, max_len):
    """For every step, each prompt with the completion of the next row of its batch that answers another prompt (the
    next batch helps out when there is none). These pairs estimate the KL: they depend on the order, never on packs."""
    pairs, flat, at = [], [n for batch in steps for n in batch], 0  # flat: the order over all steps
    for batch in steps:
        pairs.append([])
        for k, n in enumerate(batch):
            others = chain(batch[k + 1:], batch[:k], islice(flat, at + len(batch), None), islice(flat, at))
            other = next((m for m in others if rows[m]["prompt"] != rows[n]["prompt"]), None)
            if other is None:
                raise BadInput("KTO needs at least two prompts: its KL term pairs each with an answer to another")
            pairs[-1].append(joined(rows[n], rows[other], max_len))
        at += len(batch)
    return pairs


def step_kl(model, cut):
    """KTO's reference point of one optimiser step, from the mismatched answers row["other"] of all its packs, and what
    reading the first pack gave: (kl, logps [rows] of that pack, with gradient). Its prompts are read once for both."""
    ratios, first = [], None
    for number, pack in enumerate(cut):
        others = [row["other"] for row in pack]
        with autocast(model):
            if number == 0:
                first, _, line = seq_logps(model, [row["seqs"][0] for row in pack], keep=True)
                logps = logps_after(model, others, line)
            else:
                with torch.no_grad():
                    logps = seq_logps(model, others)[0]
        ratios += [logp - row["other"]["ref"] for logp, row in zip(logps.tolist(), pack) if row["weight"]]
    return kto_kl(torch.tensor(summed(ratios), dtype=torch.float64)), first


def batch_loss(model, pack, kl, beta, weight_good, weight_bad, logps=None):
    """(sum over the pack of weight x class weight x loss, sums of the metrics); divide by the batch's weight. logps: if
    step_kl has read this pack, what it got."""
    logps = pack_logps(model, pack)[0][:, 0] if logps is None else logps
    ratio = logps - torch.tensor([row["seqs"][0]["ref"] for row in pack], dtype=logps.dtype, device=logps.device)
    label = torch.tensor([row["label"] for row in pack], device=ratio.device)
    weights = torch.tensor([row["weight"] for row in pack], dtype=ratio.dtype, device=ratio.device)
    classes = torch.tensor([weight_good if row["label"] else weight_bad for row in pack], device=ratio.device)
    losses = classes * kto_loss(ratio, label, kl.to(ratio.device), beta)
    tokens = torch.tensor([float(sum(row["seqs"][0]["mask"])) for row in pack], device=ratio.device)
    metrics = {f"{kind}/{side}": values.where(label == (side == "chosen"), math.nan) for side in ("chosen", "rejected")
               for kind, values in (("rewards", beta * ratio), ("logps", logps), ("tokens", tokens))}
    return (weights * losses).sum(), tally(pack, losses, weights, metrics)


# ---- the run -------------------------------------------------------------------------------------------------


def main(args):
    rank, size = join_processes()
    raw = read_mixture(args.data, "labels", args.limit, args.slice_weight)
    rows = [answer for row in raw for answer in unary(row, args.threshold)]
    if not rows:
        raise BadInput("no record has a label, or a score that is not null: nothing to train on")
    tokenizer = load_tokenizer(args.model)
    rows = prepare(rows, lambda row: row | {"seqs": [
        encode(tokenizer, row["prompt"], row["completion"], row.get("tools"), args.max_len)]},
        tokenizer, args.max_dropped)
    silent = sum(not unary(row, args.threshold) for row in raw)
    labels = [row["label"] for row in rows]
    shares = [row["weight"] * row["source"][-1] for row in rows]
    good, bad = class_weights(labels, args.desirable_weight, args.undesirable_weight, shares)
    print(f"labels   {sum(labels)} good x {good:.3g}, {len(labels) - sum(labels)} bad x {bad:.3g}, {silent} records "
          "without a score left out")
    if args.show_mask:
        print(*(f"{row['label']}: {show_mask(tokenizer, row['seqs'][0])}" for row in rows[:3]), sep="\n---\n")
        return 0
    rows, held = hold_out(rows, args.holdout, args.seed)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, args.max_steps)
    kl_pairs = mismatched(rows, steps, args.max_len)
    used = sorted({n for batch in steps for n in batch})  # what the steps never reach needs no reference
    held = [row | {"other": joined(row, rows[k % len(rows)], args.max_len)} for k, row in enumerate(held)]
    others = [seq for seqs in kl_pairs for seq in seqs] + [row["other"] for row in held]
    everything = [rows[n] for n in used] + held + [{"seqs": [seq]} for seq in others]
    lengths = [[line_tokens([rows[n]["seqs"][0], other]) for n, other in zip(*pair)] for pair in zip(steps, kl_pairs)]
    tokens = sum(map(sum, lengths)) + line_tokens([seq for row in everything for seq in row["seqs"]])  # and reference
    plan = forecast(args.out, "kto.py", tokens, args.tokens_per_second, price_gpu_hour=args.price_gpu_hour,
                    model=args.model)
    print(f"plan     {len(steps)} steps, {len(held)} rows held out, {cost_line(plan)}")
    memory = memory_plan(args.model, args.quantize, args.lora_r, max(args.pack_tokens, *map(max, lengths))) if (
        args.plan or torch.cuda.is_available()) else {}
    if args.plan:
        print(memory_line(memory))
        return 0
    record = open_run("kto.py", vars(args))
    if not record:
        return 0
    track = start_tracker(args.track, args.out, vars(args))
    start, read = time.perf_counter(), 0
    key = fingerprint(args.ref or args.model, args.quantize)
    if args.ref:
        read += other_reference(args.ref, tokenizer, args.quantize, everything, args.pack_tokens, key, args.out, rank,
                                size)
    model = load_policy(args.model, args.quantize, args.lora_r, args.lora_alpha, args.seed, needs_checkpointing(memory))
    teach_lines(model)
    optimizer, at_start = make_optimizer(model, args.lr), [p.detach().clone() for p in trained(model)]
    check_length(model, max(len(seq["ids"]) for row in everything for seq in row["seqs"]))
    state = load_checkpoint(args.out, model, optimizer)
    if not args.ref:
        policy = model if state["step"] == 0 else None
        read += reference_logps(policy, everything, args.pack_tokens, key, args.out, rank, size)
    kl, padded = torch.zeros(()), not reads_lines(model)

    def losses(pack):
        return batch_loss(model, pack, kl, args.beta, good, bad)

    if state["step"] == 0 and not args.ref:
        first = [rows[n] | {"label": True} for n in steps[0]]  # one side, no KL: opposite errors would cancel
        with torch.no_grad():
            total = sum(batch_loss(model, pack, kl, args.beta, 1.0, 1.0)[0].item()
                        for pack in packs(first, args.pack_tokens))
        check_start("KTO", total / sum(row["weight"] for row in first), 0.5, model)
    if args.selfcheck:
        self_check(model, [rows[n] for n in steps[0]], losses, args.pack_tokens, state["step"] == 0 and not args.ref)
    seconds, tokens = state.get("seconds", 0.0), state.get("tokens", read)
    history, told = read_log(args.out), set()
    watched, prompts = watch_steps(len(steps), args.eval_every), some_prompts(held or rows, model, args.max_kl)
    for step in tqdm(range(state["step"], len(steps)), initial=state["step"], total=len(steps), desc="kto"):
        if state.get("stopped"):
            break
        batch = [rows[n] | {"other": other} for n, other in zip(steps[step], kl_pairs[step])]
        total, sums = sum(row["weight"] for row in batch), Counter()
        cut = packs(batch, args.pack_tokens, rank, size, padded)
        kl, logps = step_kl(model, cut)
        for pack in cut:
            loss, found = batch_loss(model, pack, kl, args.beta, good, bad, logps)
            (loss / total).backward()
            sums.update(found)
            logps = None
        sum_gradients(model)
        values, lr = means(summed(sums)) | {"kl": kl.item()}, lr_at(step, len(steps), args.lr, args.warmup)
        grad_norm = optimiser_step(optimizer, lr)
        read = sum(lengths[step])
        values |= {"grad_norm": grad_norm, "lr": lr, "seconds": seconds + time.perf_counter() - start, "tokens": read}
        if step in watched:
            with torch.no_grad():
                kl = step_kl(model, packs(held, args.pack_tokens, padded=padded))[0] if held else kl
            values |= evaluate(model, tokenizer, at_start, held, prompts, losses, args.seed, args.pack_tokens)
        tokens += read
        history.append(write_log(args.out, step, len(steps), **values))
        track(values, step + 1)
        warn(history, told, args.beta)
        stopped = too_far(values, args.max_kl)
        if stopped or (step + 1) % args.save_every == 0 or step + 1 == len(steps):
            state = {"tokens": tokens, "stopped": stopped} | {name: values[name] for name in ("seconds", "loss", "kl")}
            save_checkpoint(args.out, model, optimizer, step + 1, **state)

    if rank:
        return 0
    save_adapter(args.out, model, tokenizer)
    curves(args.out)
    measured = close_run(args.out, record, plan, state, args.price_gpu_hour)
    print(f"result   {len(history)} steps, last loss {state['loss']:.4f}, kl {state['kl']:.4f}, "
          f"{cost_line(measured)} -> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
