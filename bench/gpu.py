"""What only a GPU can show: is it correct there, how fast, how much memory. Reads data/tiny alone; one GPU.

    python bench/gpu.py > runs/gpu.jsonl                             # progress on stderr
    python bench/gpu.py --parts speed --shapes 8B --repeats 9
    python bench/gpu.py --tiny                                       # on a CPU, a minute: does it run? No figures

No figures from a GPU exist yet. Models are random Qwen3 of the published sizes, base in NF4 where bitsandbytes is
installed, else in bf16 ("base"), LoRA of rank 16 on all linear layers, A and B random. What lacks a package says so in
a line ("skipped"), what fails in "error"; the rest goes on. A line of output, by its "part":
  correctness  by number format and path ("chosen": the one teach_lines takes): logp_diff, grad_rel to padded rows of
               the same format; logp_error, grad_error to padded rows in fp32; leak: how far the chosen answer moves
               when the rejected one changes (0). Sampling: greedy answers equal to those of generate, of how many
  speed        a DPO step: pairs_per_s, tokens_per_s (prompts counted twice for all); flops_share: needed arithmetic /
               (time x measured matmul rate); vs_trl: time of TRL / this, within a repeat, TRL's batches sorted by
               length, its checkpointing the same; gib = gib_model + gib_step, of the first round; planned: what the
               memory plan would choose. trl_default: given order, checkpointing, reference in the step. loss_diff,
               grad_rel: to TRL's. "mixed": median prompt 130 and answer 90 tokens, "long": 100 and 400
  memory       peak of DPO steps with their optimiser; plan_error: memory_plan's estimate / measured - 1; met: an 8B in
               NF4 with checkpointing and packs of 2,048 tokens stays within "aim"
  nf4          loss per token of the tiny base in NF4 and unquantised (bf16 on a GPU)
  outcome      SFT on a CPU; from there DPO on the CPU in fp32 and on the GPU in bf16, same seed: the last log lines.
               Held-out margin and accuracy should agree; digits need not

Time is wall time between synchronisations. Ours includes its batching, TRL's batches are collated before; optimiser,
data loading and logging are timed on neither side. Exit code 1: a part failed, or something is not correct."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # before the hub's client loads
import qwen3  # bench/qwen3.py; it also finds the modules below
import torch
import transformers
from qwen3 import (
    CUDA,
    DEVICE,
    POLICY,
    REFERENCE,
    ROOT,
    SHAPES,
    base_format,
    distance,
    fill,
    gradient,
    lacking,
    used,
)

from posttrain.chat.encode import encode, prompt_ids
from posttrain.chat.stops import stop_ids
from posttrain.packed.reader import line_kind, line_reader, padded_rows_only, seq_logps, token_logps
from posttrain.records.jsonl import read_jsonl, write_jsonl

TINY, WORLD, PACKS, AIM = (
    "data/tiny/base",
    ROOT / "data" / "tiny",
    (2048, 4096),
    12,
)  # tokens in a pack; GiB
DTYPES = (torch.float32, torch.bfloat16) if CUDA else (torch.float32,)
LAST = (
    "step",
    "loss",
    "rewards/margins",
    "eval_loss",
    "eval_rewards/margins",
    "eval_rewards/accuracies",
    "sampled_kl",
)
log, wrong = partial(print, file=sys.stderr, flush=True), []


def parse_args(argv=None):
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    p.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        help="models (default: all but tiny; correctness: the first)",
    )
    p.add_argument("--repeats", type=int, default=5, help="timed rounds")
    p.add_argument("--pairs", type=int, default=16, help="pairs in a step")
    p.add_argument("--tiny", action="store_true", help="a tiny shape, short data, two repeats")
    args = p.parse_args(argv)
    args.shapes = args.shapes or (["tiny"] if args.tiny else list(SHAPES)[:4])
    args.pairs, args.repeats = (
        (8, min(args.repeats, 2)) if args.tiny else (args.pairs, args.repeats)
    )
    return args


def emit(part, shape=None, **figures):
    """One JSON line. All that others print goes to stderr."""
    row = {
        "bench": "gpu",
        "part": part,
        "shape": shape,
        **figures,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
    }
    row = {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in row.items()
    }
    print(json.dumps(row), file=sys.__stdout__, flush=True)


def check(good, text):
    if not good:
        wrong.append(text)
        log(f"WRONG    {text}")


# ---- correctness ---------------------------------------------------------------------------------------------


def correctness(args):
    shape, exact = args.shapes[0], None
    seqs = [seq for row in qwen3.make_rows(shape, "mixed", 4, args.tiny) for seq in row["seqs"]]
    cut = seqs[1]["mask"].index(1)
    swapped = [
        seqs[0],
        seqs[1] | {"ids": seqs[1]["ids"][:cut] + seqs[1]["ids"][: cut - 1 : -1]},
    ]  # rejected, backwards
    for dtype in DTYPES:
        base, plain = ("fp32", None) if dtype == torch.float32 else ("bf16", None)
        model, context, _ = qwen3.policy(shape, base)
        reader, chosen = line_reader(model), line_kind(model)
        check(chosen, f"teach_lines keeps to padded rows in {base}")
        for path in (None, *((["segments"] + ["varlen"] * (base == "bf16")) if chosen else [])):
            if path:
                reader.kind = path
            model.zero_grad(set_to_none=True)
            try:
                with context(), contextlib.nullcontext() if path else padded_rows_only(model):
                    logps = seq_logps(model, seqs)[0]
                    with torch.no_grad():
                        pair, other = (seq_logps(model, two)[0] for two in (seqs[:2], swapped))
                (logps[::2] - logps[1::2]).sum().backward()
            except (RuntimeError, TypeError) as error:
                emit(
                    "correctness",
                    shape,
                    base=base,
                    path=path,
                    chosen=chosen,
                    error=str(error)[:200],
                )
                check(path != chosen, f"path {path} fails")
                continue
            logps, grads, leak = (
                logps.detach().cpu(),
                gradient(model),
                (pair - other)[0].abs().item(),
            )
            plain = plain or (logps, grads)
            exact = exact or plain
            row = {
                "logp_diff": (logps - plain[0]).abs().max().item(),
                "grad_rel": distance(grads, plain[1]),
                "logp_error": (logps - exact[0]).abs().max().item(),
                "grad_error": distance(grads, exact[1]),
            }
            emit(
                "correctness",
                shape,
                base=base,
                path=path or "padded",
                chosen=chosen,
                leak=leak,
                **row,
            )
            good = (
                row["logp_diff"] < 1e-2 and row["grad_rel"] < 1e-3
                if base == "fp32"
                else row["grad_error"] < 1.5 * distance(plain[1], exact[1])
            )
            check(not path or good and leak == 0, f"path {path} in {base}: leak {leak}, {row}")
        del model, reader, context
        used()
    sampling(args)


def sampling(args):
    """Greedy answers of the tiny base to the demo's prompts, all rows at once and through three slots."""
    from posttrain.generate.local import sample
    from posttrain.model.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(str(ROOT / TINY))
    stops, rows = (
        stop_ids(tokenizer),
        read_jsonl(WORLD / "prompts.jsonl")[: 64 : 8 if args.tiny else 2],
    )
    prompts = [prompt_ids(tokenizer, row["prompt"], row.get("tools")) for _, row in rows]
    for dtype in DTYPES:
        model, expected = load_model(str(ROOT / TINY), "none").to(dtype), []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=DEVICE)
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=32,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )
            expected.append(out[0, len(prompt) :].tolist())
        for slots in (None, 3):
            found = sample(
                model, tokenizer, [(prompt, [(0.0, 0)]) for prompt in prompts], 32, slots=slots
            )
            equal = sum(answer["ids"] == other for (answer,), other in zip(found, expected))
            emit(
                "correctness",
                TINY,
                base="fp32" if dtype == torch.float32 else "bf16",
                path="sampling",
                slots=slots,
                equal=equal,
                answers=len(found),
            )
            check(
                equal == len(found) or dtype == torch.bfloat16,
                f"sampling, slots {slots}: {equal} equal",
            )


# ---- speed and memory ----------------------------------------------------------------------------------------


def our_step(model, rows, pack_tokens):
    """Forward and backward of dpo.py's loop -> loss."""
    import dpo
    from posttrain.train.packs import cut_packs

    value = 0.0
    for pack in cut_packs(rows, pack_tokens):
        loss, _ = dpo.pack_loss(model, pack, "dpo", 0.1)
        (loss / len(rows)).backward()
        value += loss.item() / len(rows)
    return value


def reference_pass(model, rows, pack_tokens):
    """Our reference pass -> its seconds. The values stay in the rows."""
    from posttrain.train.reference import score_reference

    fill(model, REFERENCE)
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = qwen3.seconds_of(
            lambda: score_reference(
                model, rows, pack_tokens=pack_tokens, model_key="bench", out=f"{folder}/run"
            )
        )
    fill(model, POLICY)
    return seconds


def speed(args):
    a = torch.randn(*(8192, 8192) if CUDA else (512, 512), dtype=DTYPES[-1], device=DEVICE)
    rate = (
        2
        * len(a) ** 3
        * 20
        / min(qwen3.seconds_of(lambda: [a @ a for _ in range(20)])[0] for _ in range(10))
    )
    for shape in args.shapes:
        plans = {f"ours_{n}": qwen3.planned(shape, n) for n in PACKS}  # before anything is loaded
        for kind in qwen3.DATA:
            used()
            speed_of(
                shape,
                qwen3.make_rows(shape, kind, args.pairs, args.tiny),
                plans,
                args.repeats,
                {
                    "data": kind,
                    "base": base_format(),
                    "pairs": args.pairs,
                    "matmul_tflops": rate / 1e12,
                },
            )


def speed_of(shape, rows, plans, repeats, about):
    model, _, gib = qwen3.policy(shape, base_format())
    reference = [reference_pass(model, rows, 2048) for _ in range(2)][-1]
    ways = {
        (f"ours_{n}", on): (model, gib, partial(our_step, model, rows, n))
        for n in PACKS
        for on in (False, True)
    }
    folder, missing = tempfile.TemporaryDirectory(), lacking("trl", "datasets")
    try:
        theirs, gib, steps = ({}, 0, {}) if missing else qwen3.trl_steps(shape, rows, folder.name)
        ways |= {
            (name, on): (theirs, gib, step)
            for name, step in steps.items()
            for on in (False, True)
            if on or name == "trl_sorted"
        }
    except (
        Exception
    ) as error:  # of another age than this transformers, no room ...: ours is measured all the same
        missing = {"error": f"{type(error).__name__}: {error}"[:300]}
        check(False, f"TRL: {missing}")
    if missing:
        emit("speed", shape, variant="trl", **about, **missing)
    seconds, memory, losses, grads = {way: [] for way in ways}, {}, {}, {}
    for repeat in range(repeats + 1):
        for way in list(reversed(ways) if repeat % 2 else ways):
            owner, _, step = ways[way]
            qwen3.checkpointing(fill(owner, POLICY), way[1])
            before = 0 if repeat else used()  # later rounds keep the allocator's pages
            try:
                took, value = qwen3.seconds_of(step)
            except torch.OutOfMemoryError:
                emit(
                    "speed",
                    shape,
                    variant=way[0],
                    checkpointing=way[1],
                    **about,
                    error="out of memory",
                )
                del ways[way]
                continue
            if repeat:  # the first round is not counted
                seconds[way].append(took)
            else:
                memory[way] = torch.cuda.max_memory_allocated() / 2**30 - before if CUDA else None
                losses[way], grads[way] = value, gradient(owner)
        log(f"speed {shape} {about['data']} round {repeat} of {repeats}")
    truth, operations = ("trl_sorted", True), qwen3.needed_operations(model, rows, shape)
    for way, (_, gib, _) in ways.items():
        (name, on), took, other = way, median(seconds[way]), seconds.get(("trl_sorted", way[1]), [])
        extra = (
            {"path": line_kind(model), "planned": plans[name] == on, "seconds_reference": reference}
            if "ours" in name
            else {}
        )
        if truth in ways:
            extra |= {
                "loss_diff": abs(losses[way] - losses[truth]),
                "grad_rel": distance(grads[way], grads[truth]),
            }
            check(
                CUDA or max(extra["loss_diff"], extra["grad_rel"]) < 1e-3,
                f"{name} is not TRL's step",
            )
        if len(other) == repeats:
            extra["vs_trl"] = median(b / a for a, b in zip(seconds[way], other))
        emit(
            "speed",
            shape,
            variant=name,
            checkpointing=on,
            **about,
            pairs_per_s=len(rows) / took,
            seconds=took,
            tokens_per_s=sum(len(seq["ids"]) for row in rows for seq in row["seqs"]) / took,
            flops_share=operations / took / about["matmul_tflops"] / 1e12,
            gib_model=gib,
            gib_step=memory[way],
            gib=gib + memory[way] if CUDA else None,
            loss=losses[way],
            grad_norm=grads[way].norm().item(),
            repeats=repeats,
            **extra,
        )
    folder.cleanup()


def memory(args):
    from posttrain.model.load import trained
    from posttrain.train.step import make_optimizer

    for shape in args.shapes[::-1]:  # the largest first
        if not CUDA:
            emit("memory", shape, skipped="needs CUDA", plan_gib=qwen3.planned(shape, 2048, True))
            continue
        rows = qwen3.make_rows(shape, "mixed", args.pairs, args.tiny)
        model, _, _ = qwen3.policy(shape, base_format())
        for on, n in ((True, 2048), (True, 4096), (False, 2048), (False, 4096)):
            qwen3.checkpointing(model, on)
            reference_pass(model, rows, n)
            optimizer = (
                torch.optim.AdamW(trained(model), lr=1e-5)
                if lacking("bitsandbytes")
                else make_optimizer(model, 1e-5)
            )
            used()
            row = {"gib": None, "error": "out of memory"}
            with contextlib.suppress(torch.OutOfMemoryError):
                for _ in range(2):  # the optimiser's states appear in the first
                    our_step(model, rows, n)
                    optimizer.step()
                    optimizer.zero_grad()
                gib, plan = torch.cuda.max_memory_allocated() / 2**30, qwen3.planned(shape, n, on)
                row = {"gib": gib, "plan_gib": plan, "plan_error": plan / gib - 1}
            if (shape, on, n, base_format()) == ("8B", True, 2048, "nf4"):
                row |= {"aim": AIM, "met": bool(row["gib"]) and row["gib"] <= AIM}
            emit(
                "memory",
                shape,
                base=base_format(),
                checkpointing=on,
                pack_tokens=n,
                **row,
                optimizer=type(optimizer).__name__,
                reserved_gib=torch.cuda.max_memory_reserved() / 2**30,
            )
        del model, optimizer
        used()


# ---- what training gives -------------------------------------------------------------------------------------


def nf4(args):
    from posttrain.model.load import autocast, load_model, load_tokenizer

    tokenizer, losses = load_tokenizer(str(ROOT / TINY)), {}
    rows = [row for _, row in read_jsonl(WORLD / "sft_clean.jsonl")][:: 100 if args.tiny else 8]
    seqs = [encode(tokenizer, row["prompt"], row["completion"], row.get("tools")) for row in rows]
    for quantize in ("none", "nf4"):
        model = load_model(
            str(ROOT / TINY), quantize
        ).train()  # in eval mode the 4-bit layers of a CPU round
        with torch.no_grad(), autocast(model):
            logps = [token_logps(model, seqs[at : at + 8]) for at in range(0, len(seqs), 8)]
        losses[quantize] = -torch.cat(logps).double().mean().item()
    change = losses["nf4"] / losses["none"] - 1
    emit("nf4", TINY, loss=losses["none"], loss_nf4=losses["nf4"], change=change, answers=len(seqs))
    check(abs(change) < 0.2, f"NF4 changes the loss by {change:.1%}")


PLAIN_ADAMW = """import runpy, sys, torch
from posttrain.model.load import trained
from posttrain.train import step
step.make_optimizer = lambda model, lr: torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")"""  # where make_optimizer lacks its package


def stage(device, script, *words):
    """Run a stage in a process of its own, on the CPU even where there is a GPU."""
    plain = ["-c", PLAIN_ADAMW] if device == "cuda" and lacking("bitsandbytes") else []
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, *plain, script, *map(str, words)],
        cwd=ROOT,
        env=os.environ | hidden,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{script} on {device}: {done.stderr.strip()[-300:]}")


def outcome(args):
    """Pairs: the tiny world's answers without chatter against those with it. A low rate: margins must not saturate."""
    row, ends, (steps_sft, steps_dpo) = {}, [], (8, 8) if args.tiny else (150, 200)
    clean, chatty = (
        [row for _, row in read_jsonl(WORLD / f"{name}.jsonl")] for name in ("sft_clean", "sft")
    )
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(
            f"{folder}/pairs.jsonl",
            [
                {name: a[name] for name in ("id", "prompt", "tools", "slice") if name in a}
                | {"chosen": a["completion"], "rejected": b["completion"]}
                for a, b in zip(clean, chatty)
                if a["completion"] != b["completion"]
            ][:: 8 if args.tiny else 1],
        )
        stage(
            "cpu",
            "sft.py",
            "--model",
            TINY,
            "--data",
            "data/tiny/sft.jsonl",
            "--out",
            f"{folder}/sft",
            "--lr",
            2e-3,
            "--max-steps",
            steps_sft,
            "--eval-every",
            0,
        )
        for device in dict.fromkeys(("cpu", DEVICE)):
            stage(
                device,
                "dpo.py",
                "--model",
                f"{folder}/sft",
                "--data",
                f"{folder}/pairs.jsonl",
                "--out",
                f"{folder}/{device}/dpo",
                "--lr",
                5e-5,
                "--epochs",
                3,
                "--max-steps",
                steps_dpo,
                "--quantize",
                "none",
            )
            last = json.loads(Path(f"{folder}/{device}/dpo/log.jsonl").read_text().splitlines()[-1])
            row |= {f"{device}:{name}": last.get(name) for name in LAST}
            ends.append((last["eval_rewards/margins"], last["eval_rewards/accuracies"]))
            log(f"outcome {device}: {last['loss']}")
    emit("outcome", TINY, **row, **({} if CUDA else {"skipped": "the half on a GPU needs CUDA"}))
    (margin, accuracy), (other_margin, other_accuracy) = ends[0], ends[-1]
    check(
        abs(margin - other_margin) <= 0.2 * abs(margin) and abs(accuracy - other_accuracy) <= 0.1,
        f"held-out margin and accuracy on the CPU and on the GPU: {ends}",
    )


PARTS = {
    "correctness": (correctness, ["peft"]),
    "speed": (speed, ["peft", "accelerate"]),
    "memory": (memory, ["peft", "accelerate"]),
    "nf4": (nf4, ["peft", "bitsandbytes"]),
    "outcome": (outcome, ["peft", "accelerate", "matplotlib"]),
}


def main(args):
    with contextlib.redirect_stdout(sys.stderr):
        for name in args.parts:
            part, needs = PARTS[name]
            if lacking(*needs):
                emit(name, **lacking(*needs))
                continue
            log(f"== {name}")
            try:
                part(args)
            except Exception as error:
                emit(name, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
                check(False, f"{name} failed")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
