"""Forward and backward of one optimiser step against TRL's trainers: same rows and weights, one process, one CPU core.

    python bench/train.py > runs/train.jsonl                              # 20 minutes; progress on stderr
    python bench/train.py --losses dpo --shapes h256_V32k --repeats 3 --no-memory

TRL runs in two ways. "default" is what its settings give without bf16: gradient checkpointing, the reference computed
anew in every step, micro-batches of 8 in the given order. "t3" is the best its settings can give: no checkpointing, the
reference (and that of KTO's KL pairs) precomputed, micro-batches of 8 sorted by length, for SFT the faster of padded
rows and bfd packing into 2048 tokens. In both only supervised tokens reach the head, which TRL does on a GPU but not on
a CPU: without that switch every ratio would flatter us by what a GPU does not show.

A line of output is one loss and shape:
  vs_t3         TRL t3 / ours, both with the reference values at hand; above 1 ours is faster
  vs_default    TRL default / (ours + our reference pass, charged in full)
  memory_vs_t3  peak memory of the step above the loaded model, ours / TRL t3, in fresh processes; below 1 ours is less
  loss_diff     largest |loss - TRL's|; grad_rel: largest relative L2 distance of the gradient of all adapter weights
  flops_share   needed arithmetic / (our time x measured matmul peak): how much is left to gain at most
  seconds*      per pair or example; seconds_reference is our reference pass (0 for SFT)

Ratios are medians over repeats of the ratio within a repeat. The order is reversed every repeat; a first round, which
compares losses and gradients, is not counted. Time is CPU time of the process: others on the machine matter little.
Ours includes its own batching, TRL's batches are collated before the clock starts; optimiser, data loading and logging
are timed on neither side. A jemalloc that keeps its pages is preloaded where found: with the C library's allocator TRL
loses half of its time to page faults, which no GPU would show.

The models and LoRA weights (A and B, other ones for policy and reference) are random. In h384_prop the head has the
share of the model that it has in real ones of 0.5B; in the others it is 5 and 20 times as heavy. Exit code 1: a loss or
gradient is not TRL's. Steps on a GPU, in bf16 or on quantised models are not measured here."""

import argparse
import contextlib
import ctypes.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import timeit
from functools import partial
from pathlib import Path
from statistics import NormalDist, median

for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}.items():
    os.environ[name] = value  # before torch and the hub's client load
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
JEMALLOC = ctypes.util.find_library("jemalloc")
if (
    __name__ == "__main__" and JEMALLOC and "BENCH_MALLOC" not in os.environ
):  # the allocator is chosen at the start
    os.environ |= {
        "BENCH_MALLOC": "jemalloc",
        "LD_PRELOAD": JEMALLOC,
        "MALLOC_CONF": "dirty_decay_ms:-1",
    }
    os.execv(sys.executable, [sys.executable, *sys.argv])

import posttrain  # noqa: F401, I001  (quietens the libraries, which must not be loaded before)
import tokenizers
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from qwen3 import adapter, fill

import dpo
import kto
import sft
from posttrain.packed.reader import teach_lines
from posttrain.train.packs import cut_packs, each_pack
from posttrain.train.reference import score_reference
from posttrain.train.rows import batch_weight

SHAPES = {  # hidden size, layers, vocabulary, pairs in a step; head / body parameters: 1.39, 0.28, 6.6
    "h256_V32k": (256, 6, 32000, 16),
    "h384_prop": (384, 10, 16000, 8),
    "h256_V152k": (256, 6, 151936, 4),
}
BETA = {"dpo": 0.1, "ipo": 1.0, "kto": 0.1, "sft": None}
PAIRED = ("dpo", "ipo")
EXAMPLES, MICRO = 8, 8  # rows of a KTO or SFT step; TRL's per_device_train_batch_size
REFERENCE, POLICY = 1, 2  # seeds of the two adapters; with --seed 0 KTO's KL (h256_V32k) is above 0
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 1e-4
log = partial(print, file=sys.stderr, flush=True)


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        help="models (default: all for dpo, h256_V32k for the rest)",
    )
    p.add_argument("--losses", nargs="+", choices=BETA, default=list(BETA), help="losses")
    p.add_argument("--repeats", type=int, default=5, help="timed rounds")
    p.add_argument(
        "--pairs", type=int, default=0, help="pairs in a step (default: 16, 8, 4 by shape)"
    )
    p.add_argument("--seed", type=int, default=0, help="tokens, lengths and weights")
    p.add_argument("--pack-tokens", type=int, default=768, help="our tokens in memory at once")
    p.add_argument(
        "--memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure peak memory, too",
    )
    p.add_argument(
        "--peak-of", help=argparse.SUPPRESS
    )  # print the peak of one variant: run by peak_memory
    return p.parse_args(argv)


# ---- data and models -----------------------------------------------------------------------------------------


def lengths(middle, low, high, n):
    """n log-normal lengths, the quantiles of the distribution: a small batch then has the mean of a large one."""
    return [
        min(high, max(low, round(middle * math.exp(0.55 * NormalDist().inv_cdf((k + 0.5) / n)))))
        for k in range(n)
    ]


def make_rows(loss, shape, args):
    """The training rows of one step, of random tokens; every answer ends in the stop token. KTO's have their mismatched
    answer as "other".

    357 tokens per pair with the prompt counted once, 507 with it counted twice, 207 of them supervised. Of many ways to
    combine the lengths it is the one with which TRL t3 pads as much as in the median."""
    vocab, n = SHAPES[shape][2:]
    n, sides, rng = (
        *((args.pairs or n, 2) if loss in PAIRED else (EXAMPLES, 1)),
        random.Random(args.seed),
    )

    def padded(order):
        longest = sorted(
            cut + max(order[1][k * sides : (k + 1) * sides]) for k, cut in enumerate(order[0])
        )[::-1]
        return sum(longest[at] * len(longest[at : at + MICRO]) for at in range(0, n, MICRO))

    parts = lengths(130, 50, 400, n), lengths(90, 20, 300, n * sides)
    orders = sorted(
        ([rng.sample(part, len(part)) for part in parts] for _ in range(51)), key=padded
    )
    rows, (prompts, answers) = [], orders[25]
    for k, cut in enumerate(prompts):
        prompt, seqs = [rng.randrange(vocab - 2) for _ in range(cut)], []
        for length in answers[k * sides : (k + 1) * sides]:
            ids = prompt + [rng.randrange(vocab - 2) for _ in range(length - 1)] + [vocab - 1]
            seqs.append({"ids": ids, "mask": [0] * cut + [1] * length, "truncated": False})
        rows.append(
            {
                "id": str(k),
                "prompt": str(k),
                "cut": cut,
                "seqs": seqs,
                "weight": 1.0,
                "label": k % 2 == 0,
                "slice": "all",
            }
        )
    for k, row in enumerate(
        rows if loss == "kto" else []
    ):  # as TRL: each prompt with the answer of the row before
        ids = (
            row["seqs"][0]["ids"][: row["cut"]]
            + rows[k - 1]["seqs"][0]["ids"][rows[k - 1]["cut"] :]
        )
        row["other"] = {"ids": ids, "mask": [0] * row["cut"] + [1] * (len(ids) - row["cut"])}
    return rows


def make_model(shape, seed):
    """A random Qwen2 with tied embeddings and a LoRA adapter on all linear layers."""
    hidden, layers, vocab, _ = SHAPES[shape]
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=4 * hidden,
        num_attention_heads=hidden // 64,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=vocab - 1,
        pad_token_id=vocab - 2,
    )
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return get_peft_model(
        model,
        LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    ).train()


# ---- our step: the loops of dpo.py, kto.py and sft.py ----------------------------------------------------------


def our_losses(loss, model, packs):
    """(loss, sums) of every pack, as the trainer of this loss computes them."""
    if loss == "sft":
        return each_pack(partial(sft.pack_loss, model), packs)
    if loss == "kto":
        return kto.answer_losses(model, packs, beta=BETA[loss], weight_good=1.0, weight_bad=1.0)
    return each_pack(partial(dpo.pack_loss, model, loss_name=loss, beta=BETA[loss]), packs)


def our_step(loss, model, rows, pack_tokens):
    """Forward and backward of one step, as the trainers' loops do it -> loss."""
    divisor = sft.batch_tokens(rows) if loss == "sft" else batch_weight(rows)
    value = 0.0
    for pack_loss, _ in our_losses(loss, model, cut_packs(rows, pack_tokens)):
        (pack_loss / divisor).backward()
        value += pack_loss.item() / divisor
    return value


def our_variants(loss, shape, args):
    """{"reference": ..., "ours": (prepare, step, model)}. The reference pass leaves its values in the rows."""
    rows, model = make_rows(loss, shape, args), make_model(shape, args.seed)
    with contextlib.redirect_stdout(sys.stderr):
        teach_lines(model)

    def reference():
        everything = rows + [{"seqs": [row["other"]]} for row in rows if "other" in row]
        with tempfile.TemporaryDirectory() as folder:  # a new one: nothing is found there
            score_reference(
                model,
                everything,
                pack_tokens=args.pack_tokens,
                model_key="bench",
                out=f"{folder}/run",
            )

    variants = (
        {"reference": (partial(fill, model, REFERENCE), reference, model)} if loss != "sft" else {}
    )
    return variants | {
        "ours": (
            partial(fill, model, POLICY),
            partial(our_step, loss, model, rows, args.pack_tokens),
            model,
        )
    }


# ---- TRL's step --------------------------------------------------------------------------------------------------


def make_tokenizer(vocab):
    """One word per token: token 17 is the text "17"."""
    table = {str(n): n for n in range(vocab - 2)} | {"<pad>": vocab - 2, "<eos>": vocab - 1}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(table))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>"
    )


def as_text(loss, rows):
    """The rows as TRL's data set of texts; it adds the stop token itself."""
    names, texts = (
        ("prompt", "chosen", "rejected") if loss in PAIRED else ("prompt", "completion"),
        [],
    )
    for row in rows:
        parts = [
            row["seqs"][0]["ids"][: row["cut"]],
            *(seq["ids"][row["cut"] : -1] for seq in row["seqs"]),
        ]
        texts.append({name: "".join(f" {n}" for n in part) for name, part in zip(names, parts)})
        texts[-1] |= {"label": row["label"]} if loss == "kto" else {}
    return Dataset.from_list(texts)


def trl_variant(loss, shape, args, variant, folder):
    """(prepare, step, model) of TRL: variant "default", "t3" or, for SFT, "t3_packed"."""
    rows, model, default = (
        make_rows(loss, shape, args),
        make_model(shape, args.seed),
        variant == "default",
    )
    fill(model, REFERENCE)  # the trainer makes a copy of what it is given: adapter "ref"
    options = dict(
        output_dir=folder,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        gradient_checkpointing=default,
        per_device_train_batch_size=MICRO,
    )
    if loss == "sft":
        options |= (
            {"packing": True, "packing_strategy": "bfd", "max_length": 2048}
            if variant == "t3_packed"
            else {}
        )
    else:
        options |= {"beta": BETA[loss], "precompute_ref_log_probs": not default}
    if loss in PAIRED:
        options |= {"loss_type": [{"dpo": "sigmoid", "ipo": "ipo"}[loss]]}
    kind = {"sft": "SFT", "kto": "KTO"}.get(loss, "DPO")
    trainer = getattr(trl, f"{kind}Trainer")(
        model,
        args=getattr(trl, f"{kind}Config")(**options),
        train_dataset=as_text(loss, rows),
        processing_class=make_tokenizer(SHAPES[shape][2]),
    )
    model = trainer.model
    if default:  # train() would switch it on
        model.activation_checkpointing_enable()
    trainer._set_signature_columns_if_needed()
    examples = [
        {name: value for name, value in row.items() if name in trainer._signature_columns}
        for row in trainer.train_dataset
    ]
    if (
        variant == "t3" and loss != "kto"
    ):  # KTO's KL pairs hang on the order, which TRL therefore fixes
        longest = [max(len(seq["ids"]) for seq in row["seqs"]) for row in rows]
        examples = [examples[k] for k in sorted(range(len(rows)), key=lambda k: -longest[k])]
    size = (
        1 if variant == "t3_packed" else MICRO
    )  # a pack is a micro-batch: two on one line would attend longer
    batches = [
        trainer.data_collator(examples[at : at + size]) for at in range(0, len(examples), size)
    ]
    trainer.current_gradient_accumulation_steps = len(batches)
    tokens = (
        torch.tensor(sum(sum(row["seqs"][0]["mask"]) for row in rows)) if loss == "sft" else None
    )

    def step():
        return sum(trainer.training_step(model, dict(batch), tokens).item() for batch in batches)

    return partial(fill, model, POLICY), step, model


def trl_variants(loss, shape, args, folder, names=None):
    assert callable(
        trl.trainer.utils._use_triton
    )  # renamed, the next line would do nothing and flatter us
    trl.trainer.utils._use_triton = lambda device: (
        True
    )  # only supervised tokens reach the head, as on a GPU
    names = names or ("default", "t3", *(("t3_packed",) if loss == "sft" else ()))
    return {name: trl_variant(loss, shape, args, name, folder) for name in names}


# ---- measures ----------------------------------------------------------------------------------------------------


def needed_operations(loss, shape, args):
    """Of one step: forward and backward without weight gradients of the base, each prompt read once."""
    model, (hidden, layers, vocab, _) = make_model(shape, args.seed), SHAPES[shape]
    lora = sum(p.numel() for p in adapter(model))
    body = sum(p.numel() for name, p in model.named_parameters() if "base_layer.weight" in name)
    rows = make_rows(loss, shape, args)

    def count(rows, read, passes, passes_lora):  # read: whether the prompt's tokens are read, too
        total = 0
        for row in rows:
            cut, answers = row["cut"], [len(seq["ids"]) - row["cut"] for seq in row["seqs"]]
            seen = (
                sum(m * cut + m * m / 2 for m in answers) + read * cut * cut / 2
            )  # keys, over all queries
            total += (sum(answers) + read * cut) * (passes * body + passes_lora * lora)
            total += (
                sum(answers) * passes * hidden * vocab + seen * 2 * passes_lora * hidden * layers
            )
        return total

    return count(rows, 1, 4, 6) + count(  # KL pairs: no gradient, prompts already read
        [{"cut": row["cut"], "seqs": [row["other"]]} for row in rows if "other" in row], 0, 2, 2
    )


def peak_memory(variant, loss, shape, args):
    """MiB that one step needs above the loaded model, in a fresh process with the C library's allocator."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "MALLOC_CONF")}
    command = [
        sys.executable,
        __file__,
        "--peak-of",
        variant,
        "--losses",
        loss,
        "--shapes",
        shape,
        "--seed",
        str(args.seed),
        "--pack-tokens",
        str(args.pack_tokens),
        "--pairs",
        str(args.pairs),
    ]
    done = subprocess.run(
        command, env=environment | {"BENCH_MALLOC": "libc"}, check=True, stdout=subprocess.PIPE
    )
    return float(done.stdout)


def print_peak(loss, shape, args):
    """The other side of peak_memory."""

    def status(field):
        return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024

    with tempfile.TemporaryDirectory() as folder:
        variants = (
            our_variants(loss, shape, args)
            if args.peak_of == "ours"
            else trl_variants(loss, shape, args, folder, [args.peak_of])
        )
        for name, (
            prepare,
            step,
            _,
        ) in variants.items():  # our reference pass first: it sets what the step reads
            prepare()
            if name == "reference":
                step()
        ctypes.CDLL(None).malloc_trim(
            0
        )  # what loading and the reference pass left free would hide the step's need
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        start = status("VmRSS")
        step()
        print(status("VmHWM") - start)


def measure(loss, shape, args, peak):
    """One row of the result."""
    with tempfile.TemporaryDirectory() as folder:
        variants = our_variants(loss, shape, args) | trl_variants(loss, shape, args, folder)
        seconds, losses, gradients = {name: [] for name in variants}, {}, {}
        for repeat in range(args.repeats + 1):
            for name in reversed(variants) if repeat % 2 else variants:
                prepare, step, model = variants[name]
                prepare()
                start = time.process_time()
                value = step()
                seconds[name].append(time.process_time() - start)
                if repeat == 0 and name != "reference":
                    losses[name] = value
                    gradients[name] = torch.cat([p.grad.flatten().double() for p in adapter(model)])
            log(
                f"{loss} {shape} {'warm-up' if repeat == 0 else f'repeat {repeat}'}: "
                + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            )
    seconds = {name: values[1:] for name, values in seconds.items()}
    mine, others = gradients["ours"], [name for name in losses if name != "ours"]
    best = min(
        (name for name in others if name.startswith("t3")), key=lambda name: median(seconds[name])
    )
    reference = seconds.get("reference", [0.0] * args.repeats)
    n = len(make_rows(loss, shape, args))
    row = {
        "bench": "train",
        "loss": loss,
        "shape": shape,
        "vs_t3": median(t3 / own for t3, own in zip(seconds[best], seconds["ours"])),
        "vs_default": median(
            t / (own + ref) for t, own, ref in zip(seconds["default"], seconds["ours"], reference)
        ),
        "loss_diff": max(abs(losses[name] - losses["ours"]) for name in others),
        "grad_rel": max(
            ((gradients[name] - mine).norm() / gradients[name].norm()).item() for name in others
        ),
        "memory_vs_t3": None,
        "seconds": median(seconds["ours"]) / n,
        "seconds_reference": median(reference) / n,
        "seconds_t3": median(seconds[best]) / n,
        "seconds_default": median(seconds["default"]) / n,
        "flops_share": needed_operations(loss, shape, args) / median(seconds["ours"]) / peak,
        "loss_value": losses["ours"],
        "grad_norm": mine.norm().item(),
        "t3": "packed" if best == "t3_packed" else "padded",
        "pairs": n,
        "repeats": args.repeats,
        "pack_tokens": args.pack_tokens,
        "matmul_gflops": peak / 1e9,
        "malloc": os.environ.get("BENCH_MALLOC", "libc"),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }
    if args.memory:
        row |= {
            "mib": peak_memory("ours", loss, shape, args),
            "mib_t3": peak_memory(best, loss, shape, args),
        }
        row["memory_vs_t3"] = row["mib"] / row["mib_t3"]
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in row.items()
    }


def main(args):
    torch.set_num_threads(1)
    if args.peak_of:
        return print_peak(args.losses[0], args.shapes[0], args)
    if not JEMALLOC:
        log(
            "libjemalloc.so.2 not found (Debian: libjemalloc2): page faults slow TRL down, the figures flatter us"
        )
    a, wrong = torch.randn(1024, 1024), 0
    peak = (
        2
        * 1024**3
        / min(timeit.repeat(lambda: a @ a, number=1, repeat=100, timer=time.process_time))
    )
    for loss in args.losses:
        for shape in args.shapes or (SHAPES if loss == "dpo" else ["h256_V32k"]):
            row = measure(loss, shape, args, peak)
            print(json.dumps(row), flush=True)
            if row["loss_diff"] > LOSS_TOLERANCE or row["grad_rel"] > GRADIENT_TOLERANCE:
                log(
                    f"WRONG  {loss} {shape}: loss differs by {row['loss_diff']}, gradient by {row['grad_rel']}"
                )
                wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(parse_args()))
