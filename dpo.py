"""Stage B: preference optimisation on pairs, DPO or IPO (Identity preference optimisation).

Reads   pairs.jsonl: prompt, chosen, rejected; optional weight, slice, id, tools, p.
Writes  a run folder: LoRA adapter, tokenizer, ref_logps.jsonl (the reference's log-probabilities,
        lent to runs beside it), log.jsonl (a line a step), curves.png, run.json.

    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/dpo
    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/ipo --loss ipo
    python dpo.py --model runs/sft --data data/pairs.jsonl --out runs/dpo2 --ref runs/dpo --beta 0.3

The reference is the model that the run starts from (or --ref). It is scored once, before step 1.
What to look at: rewards/margins rises while logps/chosen should not fall far. When both logps sink,
the policy is only learning what not to say (lower --lr, raise --beta). rewards/accuracies near 1
says nothing about prompts that are not in the data; eval_... are rows that were held out.
Killed at any moment, the same command goes on from the last checkpoint (--save-every) and ends in
the same weights. A run ends early where --max-kl is passed, or where a gradient is not finite.
Left out on purpose: fifteen other losses. A new one is a function and a line in common.py.
"""

from collections import Counter
from functools import partial

from common import PAIR_LOSSES
from posttrain.chat.encode import encode_answers
from posttrain.cli import BadInput, at_least, parse_training, parser, run_stage, training_flags
from posttrain.model.load import load_policy, load_shared_tokenizer
from posttrain.model.names import fingerprint
from posttrain.packed.reader import teach_lines
from posttrain.processes import join_processes
from posttrain.records.mixture import read_mixture
from posttrain.train.checks import check_start
from posttrain.train.metrics import batch_means, tally
from posttrain.train.order import batches, hold_out, rows_used
from posttrain.train.packs import (
    all_packs,
    each_pack,
    pack_logps,
    packs_of,
    ref_logps,
    row_weights,
)
from posttrain.train.reference import score_other_reference, score_reference
from posttrain.train.rows import (
    batch_weight,
    masked_texts,
    prepare,
    row_lengths,
    tokens_with_shared_prompts,
)
from posttrain.train.selfcheck import self_check
from posttrain.train.step import lr_at, make_optimizer, optimiser_step
from posttrain.train.training_run import TrainingRun
from posttrain.train.watch import Watch, watched_prompts


def parse_args(argv=None):
    p = parser(__doc__)
    method = training_flags(p, lr=2e-5, unit="pairs")
    positive = at_least(1e-6, float)
    share = at_least(0, float, 0.499)
    method.add_argument("--ref", help="reference policy (default: --model as it is before step 1)")
    method.add_argument("--loss", choices=PAIR_LOSSES, default="dpo", help="preference loss")
    betas = ", ".join(f"{name} {loss.beta}" for name, loss in PAIR_LOSSES.items())
    method.add_argument("--beta", type=positive, help=f"dpo, ipo: higher stays closer ({betas})")
    method.add_argument("--label-smoothing", type=share, default=0.0, help="share of wrong labels")
    method.add_argument(
        "--soft-labels", action="store_true", help="use each row's p, a probability"
    )
    method.add_argument(
        "--nll-weight", type=at_least(0, float), default=0.0, help="add W x NLL per token of chosen"
    )
    method.add_argument(
        "--ipo-length",
        choices=["mean", "sum"],
        default="mean",
        help="ipo and its like: means per token, or sums",
    )
    args = parse_training(p, argv)
    if args.beta is None:
        args.beta = PAIR_LOSSES[args.loss].beta
    if args.ref and not PAIR_LOSSES[args.loss].needs_reference:
        p.error(f"--loss {args.loss} has no reference: leave --ref out")
    if args.soft_labels and args.label_smoothing:
        p.error("--soft-labels takes each row's p: leave --label-smoothing out")
    return args


# ---- the method ----------------------------------------------------------------------------------


def encode_pair(tokenizer, row, max_len, *, truncate="right", think=False):
    """The row with row["seqs"] = [chosen, rejected], each {"ids", "mask", "truncated"}.

    The mask (made in chat/encode.py) is 1 for the answer's tokens up to its stop token. What lies
    beyond max_len is cut off: at the end, or with truncate "left" at the prompt's start, of both
    alike. ValueError(reason) for a useless pair: prepare counts and drops it.
    """
    prompt, tools = row["prompt"], row.get("tools")
    answers = [row["chosen"], row["rejected"]]
    chosen, rejected = encode_answers(
        tokenizer, prompt, answers, tools, max_len=max_len, truncate=truncate, think=think
    )
    if chosen["ids"] == rejected["ids"]:
        raise ValueError("chosen and rejected are the same")
    if prompt_of(chosen) != prompt_of(rejected):
        # Many templates end the prompt of an answer that is given at once with an empty thought.
        raise ValueError("one answer has a thought and the other none: their prompts differ")
    return row | {"seqs": [chosen, rejected]}


def prompt_of(seq):
    """The tokens of a sequence before the first that is trained on."""
    return seq["ids"][: seq["mask"].index(1)]


def require_probabilities(rows):
    """BadInput when a pair has no p, the judge's probability that chosen is better."""
    without = sum("p" not in row for row in rows)
    if without:
        raise BadInput(
            f"--soft-labels: {without} of {len(rows)} pairs have no 'p' (probability that chosen "
            "is better)"
        )


def pack_loss(
    model,
    pack,
    loss_name,
    beta,
    *,
    label_smoothing=0.0,
    ipo_length="mean",
    soft_labels=False,
    nll_weight=0.0,
):
    """The loss of a pack of pairs: (sum of weight x loss, sums of its metrics by slice).

    The sum is divided by the weight of the whole batch later. loss_name: a key of PAIR_LOSSES.
    soft_labels: a row's p is the probability that its label is right, so 1 - p replaces
    label_smoothing.
    nll_weight: so many times the negative log-likelihood per token of the chosen answer is added
    (arXiv 2404.19733, eq. 1).
    """
    spec = PAIR_LOSSES[loss_name]
    # As completion_logps in common.py has them, but read from packed lines. [pairs, 2] each:
    # chosen, rejected.
    logps, tokens = pack_logps(model, pack)
    weights = row_weights(pack, like=logps)

    # What the loss compares: ratios to the reference, or without one the policy's own logps.
    scores = logps
    if spec.needs_reference:
        scores = logps - ref_logps(pack, like=logps)
    rewards = beta * scores.detach()  # for the log
    if spec.per_token and ipo_length == "mean":
        scores = scores / tokens
        # IPO's rewards stay sums, as in DPO; without a reference they are what the loss compares.
        if not spec.needs_reference:
            rewards = beta * scores.detach()

    p_wrong = label_smoothing
    if soft_labels:
        p_wrong = logps.new_tensor([1 - row["p"] for row in pack])
    losses = spec.function(scores[:, 0], scores[:, 1], beta, p_wrong)
    nll_chosen = -logps[:, 0]
    losses = losses + nll_weight * nll_chosen / tokens[:, 0]

    metrics = {
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/margins": rewards[:, 0] - rewards[:, 1],
        "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).double(),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps[:, 1],
        "tokens/chosen": tokens[:, 0],
        "tokens/rejected": tokens[:, 1],
    }
    return (weights * losses).sum(), tally(pack, losses, weights, metrics)


def step_metrics(sums):
    """A step's line in the log: means over its batch. Numbers of your own are added here.

    All pairs count alike in a mean; in that of the loss alone they have their weights.
    """
    return batch_means(sums)


# ---- the run -------------------------------------------------------------------------------------


def main(args):
    join_processes()  # those of accelerate launch, if there are several

    # The data: encoded pairs, some held out, and which of them each step reads. Useless pairs are
    # counted and dropped.
    rows = read_mixture(args.data, "pairs", args.limit, args.slice_weight)
    tokenizer = load_shared_tokenizer(args.model, args.ref)
    rows = prepare(
        rows,
        partial(
            encode_pair,
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
    if args.show_mask:
        print(masked_texts(rows, tokenizer))
        return 0
    if args.soft_labels:
        require_probabilities(rows)
    rows, held = hold_out(rows, args.holdout, args.seed)
    steps = batches(rows, args.batch_size, args.epochs, args.seed, max_steps=args.max_steps)
    rows_read = rows_used(rows, steps) + held

    # The plan: tokens, time, memory and cost, before anything is loaded.
    spec = PAIR_LOSSES[args.loss]
    starts_at_reference = spec.needs_reference and not args.ref
    run = TrainingRun("dpo.py", args, args.beta if spec.needs_reference else None)
    run.plan(
        row_lengths(rows, steps),
        rows_read,
        held=len(held),
        other_tokens=tokens_with_shared_prompts(rows_read) if spec.needs_reference else 0,
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
    teach_lines(model)  # it then reads a prompt once for both answers, with the same logps
    optimizer = make_optimizer(model, args.lr)
    if starts_at_reference:
        tokens_read = score_reference(
            model,
            rows_read,
            pack_tokens=args.pack_tokens,
            model_key=fingerprint(args.model, args.quantize),
            out=args.out,
        )

    # The loss. Where the run starts at its reference, all ratios are 0 before step 1, so that the
    # loss has a known value (ln 2 for DPO). Without a reference it has none.
    loss_of_pack = partial(
        pack_loss,
        model,
        loss_name=args.loss,
        beta=args.beta,
        label_smoothing=args.label_smoothing,
        ipo_length=args.ipo_length,
        soft_labels=args.soft_labels,
        nll_weight=args.nll_weight,
    )
    losses_of = partial(each_pack, loss_of_pack)  # packs -> the loss of each, one in memory
    first = [rows[n] for n in steps[0]]
    if not args.ref:
        check_start(
            args.loss.upper(),
            partial(each_pack, partial(loss_of_pack, nll_weight=0.0)),  # NLL is not 0 there
            all_packs(first, args.pack_tokens, model),
            spec.at_zero(args.beta) if spec.needs_reference else None,
            model=model,
        )
    if args.selfcheck:
        self_check(model, first, loss_of_pack, args.pack_tokens, reference=starts_at_reference)

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
        batch = [rows[n] for n in steps[step]]
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

    run.finish(model, tokenizer, {"loss": "loss {:.4f}", "rewards/margins": "margin {:+.3f}"})
    return 0


if __name__ == "__main__":
    run_stage(main, parse_args())
