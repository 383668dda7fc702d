"""Stage B: KTO, preference optimisation on single answers that are marked good or bad.

Reads   labels.jsonl: prompt, completion, and label (true/false) or scores {criterion: 0-5}, which
        are good when their mean reaches --threshold. Pairs are read too: chosen counts as good,
        rejected as bad, unless label_chosen and label_rejected say otherwise (true, false, or null
        = leave it out): "A acceptable, B unsafe", or both bad.
Writes  a run folder: LoRA adapter, tokenizer, ref_logps.jsonl, log.jsonl, curves.png, run.json.

    python kto.py --model runs/sft --data data/labels.jsonl --out runs/kto
    python kto.py --model runs/sft --data data/labels.jsonl data/pairs.jsonl=0.5 --out runs/kto2

KTO compares each answer's ratio with a reference point: the KL between policy and reference,
estimated in every optimiser step from its prompts with the answers of other prompts. It is drawn
per step, not per pack: packs of one row, batches of one class and shuffling are all fine.
What to look at: kl grows slowly (a jump means that --lr is too high), rewards/chosen rises above
rewards/rejected. Killed at any moment, the same command goes on from the last checkpoint
(--save-every) and ends in the same weights.
Left out on purpose: other unary losses (BCO, APO).
"""

import math
from collections import Counter
from functools import partial
from itertools import chain, islice

import torch

from common import kto_kl, kto_loss
from posttrain.chat.encode import encode
from posttrain.cli import BadInput, at_least, parse_training, parser, run_stage, training_flags
from posttrain.model.load import autocast, load_policy, load_shared_tokenizer
from posttrain.model.names import fingerprint
from posttrain.packed.lines import line_tokens, prompt_length
from posttrain.packed.reader import logps_after, seq_logps, teach_lines
from posttrain.processes import join_processes, summed
from posttrain.records.mixture import read_mixture
from posttrain.train.checks import check_start
from posttrain.train.metrics import batch_means, tally
from posttrain.train.order import batches, hold_out, rows_used
from posttrain.train.packs import all_packs, pack_logps, packs_of, ref_logps, row_weights
from posttrain.train.reference import score_other_reference, score_reference
from posttrain.train.rows import (
    batch_weight,
    masked_texts,
    prepare,
    tokens_with_shared_prompts,
)
from posttrain.train.selfcheck import self_check
from posttrain.train.step import lr_at, make_optimizer, optimiser_step
from posttrain.train.training_run import TrainingRun
from posttrain.train.watch import Watch, watched_prompts

LOSS_AT_START = 0.5  # of an answer of weight 1, where policy and reference are one model


def parse_args(argv=None):
    p = parser(__doc__)
    method = training_flags(p, lr=2e-5, unit="answers")
    positive = at_least(1e-6, float)
    at_least_0 = at_least(0, float)
    rubric_score = at_least(0, float, 5)
    method.add_argument("--ref", help="reference policy (default: --model as it is before step 1)")
    method.add_argument(
        "--beta", type=positive, default=0.1, help="higher stays closer to the reference"
    )
    method.add_argument(
        "--threshold", type=rubric_score, default=3.0, help="mean score that counts as good"
    )
    method.add_argument(
        "--desirable-weight", type=at_least_0, help="of good answers (default: balance)"
    )
    method.add_argument(
        "--undesirable-weight", type=at_least_0, help="of bad answers (default: balance)"
    )
    return parse_training(p, argv)


# ---- the method: data ----------------------------------------------------------------------------


def unary(row, threshold):
    """A record of labels or pairs -> its labelled answers: 0, 1 or 2 rows with a completion."""
    if "chosen" in row:
        answers = []
        for side in ("chosen", "rejected"):
            label = row.get(f"label_{side}", side == "chosen")
            if label is not None:
                answers.append(row | {"completion": row[side], "label": label})
        return answers
    if "label" in row:
        return [row]
    scores = [score for score in row["scores"].values() if score is not None]
    if not scores:  # no score says nothing
        return []
    return [row | {"label": sum(scores) / len(scores) >= threshold}]


def read_answers(records, threshold):
    """The labelled answers of all records, and how many records have none."""
    answers = []
    silent = 0
    for record in records:
        labelled = unary(record, threshold)
        answers += labelled
        if not labelled:
            silent += 1
    if not answers:
        raise BadInput("no record has a label, or a score that is not null: nothing to train on")
    return answers, silent


def encode_answer(tokenizer, row, max_len, *, truncate="right", think=False):
    """The row with row["seqs"] = [prompt and answer]; ValueError(reason) for a useless row."""
    prompt, completion, tools = row["prompt"], row["completion"], row.get("tools")
    seq = encode(
        tokenizer, prompt, completion, tools, max_len=max_len, truncate=truncate, think=think
    )
    return row | {"seqs": [seq]}


def class_weights(rows, desirable=None, undesirable=None):
    """(weight of good answers, weight of bad answers).

    By default the lighter class is weighted up until both count the same (arXiv 2402.01306, eq. 8
    allows a ratio of 1 to 4/3). A row counts as much as it is drawn: its weight x its file's.
    """
    counts = [row["weight"] * row["source"].weight for row in rows]
    good = sum(count for row, count in zip(rows, counts) if row["label"])
    bad = sum(counts) - good
    weight_good = weight_bad = 1.0
    if good and bad:
        weight_good = max(1.0, bad / good)
        weight_bad = max(1.0, good / bad)
    if desirable is not None:
        weight_good = desirable
    if undesirable is not None:
        weight_bad = undesirable
    return weight_good, weight_bad


def labels_line(rows, weight_good, weight_bad, silent):
    """One line: the classes and their weights."""
    good = sum(row["label"] for row in rows)
    bad = len(rows) - good
    return (
        f"labels   {good} good x {weight_good:.3g}, {bad} bad x {weight_bad:.3g}, "
        f"{silent} records without a score left out"
    )


def mismatched(row, other, max_len):
    """One row's prompt with another's answer, one token of it at least: {"ids", "mask"}.

    The prompt is that of the row, token by token, also where its start was cut: it is read once for
    both answers. So the other answer is cut at its end, whatever --truncate says.
    """
    seq, other_seq = row["seqs"][0], other["seqs"][0]
    prompt = seq["ids"][: prompt_length(seq)]
    answer = other_seq["ids"][prompt_length(other_seq) :]
    ids = (prompt + answer)[: max(max_len, len(prompt) + 1)]
    return {"ids": ids, "mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))}


def add_mismatched(rows, steps, max_len):
    """The rows of every step, each with row["other"]: its prompt with an answer to another prompt.

    The answer is that of the next row of the batch which answers another prompt; the next batches
    help out where there is none. These estimate the KL. They depend on the order, never on packs.
    """
    order = list(chain.from_iterable(steps))
    batches_of_rows = []
    start = 0
    for step in steps:
        batch = []
        end = start + len(step)
        for k, number in enumerate(step):
            later = chain(step[k + 1 :], step[:k], islice(order, end, None), islice(order, start))
            other = first_with_another_prompt(rows, rows[number], later)
            batch.append(rows[number] | {"other": mismatched(rows[number], other, max_len)})
        batches_of_rows.append(batch)
        start = end
    return batches_of_rows


def first_with_another_prompt(rows, row, numbers):
    """The first of the numbered rows that answers another prompt than `row` does."""
    for number in numbers:
        if rows[number]["prompt"] != row["prompt"]:
            return rows[number]
    raise BadInput(
        "KTO needs at least two prompts: its KL term pairs each with an answer to another"
    )


def add_mismatched_to_held(held, rows, max_len):
    """Held-out rows, each with row["other"]: its prompt with an answer of a training row."""
    result = []
    for k, row in enumerate(held):
        other = rows[k % len(rows)]
        result.append(row | {"other": mismatched(row, other, max_len)})
    return result


def mismatched_rows(batches_of_rows):
    """The mismatched answers as rows of their own: the reference scores them, too."""
    rows = []
    for row in chain.from_iterable(batches_of_rows):
        rows.append({"id": f"{row.get('id')} with an answer to another", "seqs": [row["other"]]})
    return rows


def row_lengths(steps):
    """Tokens of each row of each step: its answer and the mismatched one share the prompt."""
    lengths = []
    for batch in steps:
        lengths.append([line_tokens([row["seqs"][0], row["other"]]) for row in batch])
    return lengths


# ---- the method: losses --------------------------------------------------------------------------


def step_kl(model, packs):
    """KTO's reference point of one optimiser step -> (kl, logps [rows] of the first pack).

    It is the mean ratio of the mismatched answers row["other"] of all packs, never below 0. The
    first pack's own answers are read along, with gradient, as their prompts are in memory then: a
    step of one pack reads every prompt once. Several processes share the mean.
    """
    ratios = []
    for number, pack in enumerate(packs):
        others = [row["other"] for row in pack]
        with autocast(model):
            if number == 0:
                answers = [row["seqs"][0] for row in pack]
                first_logps, _, line = seq_logps(model, answers, keep=True)
                logps = logps_after(model, others, line)
            else:
                with torch.no_grad():
                    logps, _, _ = seq_logps(model, others)
        for row, logp in zip(pack, logps.tolist()):
            if row["weight"]:  # copies that fill up packs have none
                ratios.append(logp - row["other"]["ref"])
    kl = kto_kl(torch.tensor(summed(ratios), dtype=torch.float64))
    return kl, first_logps


def pack_loss(pack, logps, kl, beta, *, weight_good, weight_bad):
    """The loss of a pack of answers: (sum of weight x class weight x loss, sums of its metrics).

    The sum is divided by the weight of the whole batch later. logps [rows]: of the policy.
    """
    ratio = logps - ref_logps(pack, like=logps)[:, 0]
    label = torch.tensor([row["label"] for row in pack], device=logps.device)
    weights = row_weights(pack, like=logps)
    class_weight = torch.where(label, weight_good, weight_bad)
    losses = class_weight * kto_loss(ratio, label, kl, beta)

    tokens = logps.new_tensor([sum(row["seqs"][0]["mask"]) for row in pack])
    metrics = {}
    for side, is_side in (("chosen", label), ("rejected", ~label)):
        for name, values in (("rewards", beta * ratio), ("logps", logps), ("tokens", tokens)):
            metrics[f"{name}/{side}"] = values.where(is_side, math.nan)  # NaN: not counted
    return (weights * losses).sum(), tally(pack, losses, weights, metrics)


def answer_losses(model, packs, **options):
    """pack_loss of one pack after the other, all with the KL of the step."""
    kl, logps = step_kl(model, packs)
    loss, sums = pack_loss(packs[0], logps, kl.to(logps.device), **options)
    sums[None, "kl"] = kl.item()  # of the whole batch, in no slice
    yield loss, sums
    for pack in packs[1:]:
        logps = pack_logps(model, pack)[0][:, 0]
        yield pack_loss(pack, logps, kl.to(logps.device), **options)


def loss_without_kl(model, pack, **options):
    """pack_loss with a KL of 0, as it is before step 1."""
    logps = pack_logps(model, pack)[0][:, 0]
    return pack_loss(pack, logps, 0.0, **options)


def losses_at_start(model, packs, beta):
    """What check_start looks at: as if all answers were good, as opposite errors would cancel."""
    for pack in packs:
        good = [row | {"label": True} for row in pack]
        yield loss_without_kl(model, good, beta=beta, weight_good=1.0, weight_bad=1.0)


def step_metrics(sums):
    """A step's line in the log: the means over its batch, and the KL."""
    metrics = batch_means(sums)
    metrics["kl"] = sums[None, "kl"]
    return metrics


# ---- the run -------------------------------------------------------------------------------------


def main(args):
    join_processes()  # those of accelerate launch, if there are several

    # The data: labelled answers, some held out, and which of them each step reads.
    rows, silent = read_answers(
        read_mixture(args.data, "labels", args.limit, args.slice_weight), args.threshold
    )
    tokenizer = load_shared_tokenizer(args.model, args.ref)
    rows = prepare(
        rows,
        partial(
            encode_answer,
            tokenizer,
            max_len=args.max_len,
            truncate=args.truncate,
            think=args.think == "on",
        ),
        tokenizer,
        args.max_dropped,
        think=args.think == "on",
        readers=[args.model, args.ref],
    )
    weight_good, weight_bad = class_weights(rows, args.desirable_weight, args.undesirable_weight)
    print(labels_line(rows, weight_good, weight_bad, silent))
    if args.show_mask:
        print(masked_texts(rows, tokenizer))
        return 0
    rows, held = hold_out(rows, args.holdout, args.seed)
    numbers = batches(rows, args.batch_size, args.epochs, args.seed, max_steps=args.max_steps)
    steps = add_mismatched(rows, numbers, args.max_len)
    held = add_mismatched_to_held(held, rows, args.max_len)
    rows_read = rows_used(rows, numbers) + held + mismatched_rows([*steps, held])

    # The plan: tokens, time, memory and cost, before anything is loaded.
    run = TrainingRun("kto.py", args, args.beta)
    run.plan(
        row_lengths(steps),
        rows_read,
        held=len(held),
        other_tokens=tokens_with_shared_prompts(rows_read),
    )
    if args.plan or not run.open():
        return 0

    # The reference's log-probabilities and the policy: never are two models in memory.
    tokens_read = 0
    if args.ref:
        tokens_read = score_other_reference(
            args.ref,
            tokenizer,
            args.quantize,
            rows_read,
            pack_tokens=args.pack_tokens,
            out=args.out,
        )
    model = load_policy(
        args.model,
        args.quantize,
        lora_r=args.lora_r,
        lora_alpha=args.lora_alpha,
        seed=args.seed,
        checkpointing=run.checkpointing,
    )
    teach_lines(model)  # it then reads a prompt once for both its answers, with the same logps
    optimizer = make_optimizer(model, args.lr)
    if not args.ref:
        tokens_read = score_reference(
            model,
            rows_read,
            pack_tokens=args.pack_tokens,
            model_key=fingerprint(args.model, args.quantize),
            out=args.out,
        )

    # The loss. Where the run starts at its reference, all ratios are 0 before step 1, so that the
    # loss has a known value.
    options = {"beta": args.beta, "weight_good": weight_good, "weight_bad": weight_bad}
    losses_of = partial(answer_losses, model, **options)  # packs -> the loss of each
    if not args.ref:
        check_start(
            "KTO",
            partial(losses_at_start, model, beta=args.beta),
            all_packs(steps[0], args.pack_tokens, model),
            LOSS_AT_START,
            model=model,
        )
    if args.selfcheck:
        self_check(
            model,
            steps[0],
            partial(loss_without_kl, model, **options),
            args.pack_tokens,
            reference=not args.ref,
        )

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
    run.resume(model, optimizer, tokens_read)
    for step in run.steps_left():
        batch = steps[step]
        divisor = batch_weight(batch)  # the sum of its rows' weights

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

    run.finish(model, tokenizer, {"loss": "loss {:.4f}", "kl": "kl {:.4f}"})
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
