"""Stage A: supervised fine-tuning (SFT) on the answers of conversations, with LoRA / QLoRA.

Reads   sft.jsonl: prompt + completion, messages, ShareGPT conversations, or Alpaca's instruction,
        input, output; optional weight, slice, id, tools.
Writes  a run folder: LoRA adapter, tokenizer and chat template, log.jsonl (a line a step),
        curves.png, run.json (arguments, hashes, cost).

    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft --max-steps 20
    python sft.py --model Qwen/Qwen3-0.6B --data data/sft.jsonl=2 hf:my-org/chats --out runs/qwen
    python sft.py --model data/tiny/base --data data/sft.jsonl --out runs/sft-look --show-mask

What to look at: the data report (duplicates and hedging openers teach style faster than content),
--show-mask once per new model, and `loss` in log.jsonl. It should fall and level off; near 0 after
one epoch it means memorised rows. Beside it stand eval_loss (rows that were held out) and what the
policy says by itself (sampled_...). Killed at any moment, the same command goes on from the last
checkpoint (--save-every) and ends in the same weights.
Left out on purpose: training of all parameters.
"""

import math
from collections import Counter
from functools import partial

from posttrain.chat.encode import encode, encode_all_turns
from posttrain.cli import parse_training, parser, run_stage, training_flags
from posttrain.model.load import load_policy, load_tokenizer
from posttrain.packed.reader import teach_lines
from posttrain.processes import join_processes
from posttrain.records.mixture import read_mixture
from posttrain.train.metrics import batch_means, tally
from posttrain.train.order import batches, hold_out, rows_used
from posttrain.train.packs import each_pack, pack_logps, packs_of, row_weights
from posttrain.train.report import data_report
from posttrain.train.rows import masked_texts, prepare, row_lengths
from posttrain.train.selfcheck import self_check
from posttrain.train.step import lr_at, make_optimizer, optimiser_step
from posttrain.train.training_run import TrainingRun
from posttrain.train.watch import Watch, watched_prompts


def parse_args(argv=None):
    p = parser(__doc__)
    method = training_flags(p, lr=2e-4, unit="rows")
    method.add_argument(
        "--all-turns", action="store_true", help="train on every assistant turn, not only the last"
    )
    return parse_training(p, argv)


# ---- the method ----------------------------------------------------------------------------------


def encode_conversation(tokenizer, row, max_len, all_turns, *, truncate="right", think=False):
    """The row with row["seqs"] = [the conversation]; ValueError(reason) for a useless row.

    Of a conversation whose turns cannot stand in one sequence there are several.
    """
    prompt, completion, tools = row["prompt"], row["completion"], row.get("tools")
    options = {"max_len": max_len, "truncate": truncate, "think": think}
    if all_turns:
        seqs = encode_all_turns(tokenizer, prompt + completion, tools, **options)
    else:
        seqs = [encode(tokenizer, prompt, completion, tools, **options)]
    return row | {"seqs": seqs}


def one_sequence_each(rows):
    """Rows with several sequences -> a row for each of them."""
    return [row | {"seqs": [seq]} for row in rows for seq in row["seqs"]]


def pack_loss(model, pack):
    """The loss of a pack of rows: (sum of weight x negative log-likelihood, sums of its metrics).

    The sum runs over all supervised tokens. It is divided by the weighted tokens of the whole batch
    later, so that every token counts the same, in a long answer and in a short one.
    """
    logps, tokens = pack_logps(model, pack)  # [rows, 1]
    logps, tokens = logps[:, 0], tokens[:, 0]
    weights = row_weights(pack, like=logps)
    per_token = -logps / tokens
    metrics = {"tokens/answer": tokens}
    return -(weights * logps).sum(), tally(pack, per_token, weights * tokens, metrics)


def step_metrics(sums):
    """A step's line in the log: the means over its batch, and the perplexity."""
    metrics = batch_means(sums)
    metrics["perplexity"] = math.exp(min(metrics["loss"], 50))
    return metrics


def batch_tokens(rows):
    """The weighted supervised tokens of a batch, which its summed loss is divided by."""
    return sum(row["weight"] * sum(row["seqs"][0]["mask"]) for row in rows)


# ---- the run -------------------------------------------------------------------------------------


def main(args):
    join_processes()  # those of accelerate launch, if there are several

    # The data: encoded conversations, some held out, and which of them each step reads.
    rows = read_mixture(args.data, "sft", args.limit, args.slice_weight)
    tokenizer = load_tokenizer(args.model)
    print("\n".join(data_report(rows)))
    think = args.think == "on"
    encode_row = partial(
        encode_conversation,
        tokenizer,
        max_len=args.max_len,
        all_turns=args.all_turns,
        truncate=args.truncate,
        think=think,
    )
    readers = [args.model]
    rows = prepare(rows, encode_row, tokenizer, args.max_dropped, think=think, readers=readers)
    rows = one_sequence_each(rows)
    if args.show_mask:
        print(masked_texts(rows, tokenizer))
        return 0
    rows, held = hold_out(rows, args.holdout, args.seed)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, max_steps=args.max_steps)

    # The plan: tokens, time, memory and cost, before anything is loaded.
    run = TrainingRun("sft.py", args)
    run.plan(row_lengths(rows, steps), rows_used(rows, steps) + held, held=len(held))
    if args.plan or not run.open():
        return 0

    # The policy.
    model = load_policy(
        args.model,
        args.quantize,
        lora_r=args.lora_r,
        lora_alpha=args.lora_alpha,
        seed=args.seed,
        checkpointing=run.checkpointing,
    )
    teach_lines(model)  # it then reads packs without padding, with the same logps
    optimizer = make_optimizer(model, args.lr)

    # The loss, and with --selfcheck its gradient on this model, data and machine.
    loss_of_pack = partial(pack_loss, model)
    losses_of = partial(each_pack, loss_of_pack)  # packs -> the loss of each, one in memory
    if args.selfcheck:
        self_check(model, [rows[n] for n in steps[0]], loss_of_pack, args.pack_tokens)

    # Every step: the loss of a batch, pack by pack, and the update.
    watch = Watch(
        model,
        tokenizer,
        held,
        watched_prompts(held or rows, model, args.max_kl),
        steps=len(steps),
        every=args.eval_every,
        seed=args.seed,
        pack_tokens=args.pack_tokens,
    )
    run.resume(model, optimizer)
    for step in run.steps_left():
        batch = [rows[n] for n in steps[step]]
        divisor = batch_tokens(batch)

        # The update: the same text in sft.py, dpo.py and kto.py. A loss is a sum over its pack and
        # is divided by the weight of the whole batch, so packs change the memory and no result.
        sums = Counter()
        for loss, pack_sums in losses_of(packs_of(batch, args.pack_tokens, model)):
            (loss / divisor).backward()
            sums.update(pack_sums)
        metrics = step_metrics(sums)
        metrics["lr"] = lr_at(step, len(steps), args.lr, args.warmup)
        metrics["grad_norm"] = optimiser_step(optimizer, metrics["lr"])
        metrics |= watch.look(step, losses_of)
        run.log(step, metrics)
        run.save(step, model, optimizer)

    run.finish(model, tokenizer, {"loss": "loss {:.4f}"})
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
