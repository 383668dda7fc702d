"""Random Qwen3 models of the published sizes with an adapter, rows of random tokens, and TRL's step on them: what
bench/gpu.py measures. No weights are loaded; trl and bitsandbytes are asked for where they are used."""

import contextlib
import gc
import importlib.util
import math
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import NormalDist

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import posttrain  # noqa: F401, I001  (quietens the libraries, which must not be loaded before)
import torch
import transformers

from posttrain.model.load import autocast
from posttrain.model.memory import memory_plan, needs_checkpointing
from posttrain.packed.reader import teach_lines

SHAPES = {  # hidden size, inner size, layers, heads, key-value heads, size of a head, vocabulary, tied head
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151936, True),
    "1.7B": (2048, 6144, 28, 16, 8, 128, 151936, True),
    "4B": (2560, 9728, 36, 32, 8, 128, 151936, True),
    "8B": (4096, 12288, 36, 32, 8, 128, 151936, False),
    "tiny": (64, 192, 2, 4, 2, 16, 512, True),
}
DATA = {
    "mixed": ((130, 50, 400), (90, 20, 300)),
    "long": ((100,) * 3, (400,) * 3),
}  # median, least, most tokens
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
REFERENCE, POLICY, MICRO = 1, 2, 8  # seeds of the two adapters; TRL's per_device_train_batch_size


def lacking(*packages):
    """{"skipped": ...} for the first package that is not installed, else {}."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return {"skipped": f"{missing[0]} is not installed"} if missing else {}


def used():
    """GiB in use once all is freed that can be (models are part of reference cycles); the peak starts again."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**30 if CUDA else 0.0


def seconds_of(work):
    """(seconds, result) of work()."""
    ends = []
    for run in (lambda: None, work):
        result = run()
        if CUDA:
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return ends[1] - ends[0], result


# ---- models --------------------------------------------------------------------------------------------------


def config_of(shape):
    hidden, inner, layers, heads, kv_heads, head_dim, vocab, tied = SHAPES[shape]
    return transformers.Qwen3Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=vocab - 1,
        pad_token_id=vocab - 2,
    )


def base_format():
    return ("bf16" if lacking("bitsandbytes") else "nf4") if CUDA else "fp32"


def planned(shape, pack_tokens, checkpointed=None):
    """memory_plan of a shape: whether it would use checkpointing, or the GiB it expects with or without."""
    with tempfile.TemporaryDirectory() as folder:
        config_of(shape).save_pretrained(folder)
        plan = memory_plan(folder, "nf4" if base_format() == "nf4" else "none", 16, pack_tokens)
    if checkpointed is None:
        return needs_checkpointing(plan)
    return (sum(plan.values()) - plan["activations" if checkpointed else "checkpointed"]) / 2**30


def make_model(shape, base, seed=POLICY):
    """A random model (base: nf4, bf16 or fp32) with an adapter, made on the device matrix by matrix: not even for a
    moment is it there, or on the CPU, in a wider format."""
    from peft import LoraConfig, get_peft_model

    dtype = torch.float32 if base == "fp32" else torch.bfloat16
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config_of(shape), dtype=dtype, attn_implementation="sdpa"
        )
    generator, head = torch.Generator(DEVICE).manual_seed(0), model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        for key, parameter in list(module.named_parameters(recurse=False)):
            data = torch.empty(
                parameter.shape, dtype=torch.bfloat16, device=DEVICE
            )  # bf16 and fp32: same weights
            data = (
                data.fill_(1) if data.dim() == 1 else data.normal_(0, 0.02, generator=generator)
            ).to(dtype)
            setattr(module, key, torch.nn.Parameter(data, requires_grad=False))
        if (
            base == "nf4" and isinstance(module, torch.nn.Linear) and module is not head
        ):  # as load_model has it
            import bitsandbytes as bnb

            new = bnb.nn.Linear4bit(
                module.in_features, module.out_features, False, dtype, True, "nf4", device="meta"
            )
            new.weight = bnb.nn.Params4bit(
                module.weight.data, False, compress_statistics=True, quant_type="nf4", module=new
            ).to(DEVICE)
            model.set_submodule(name, new)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(
        DEVICE
    )  # its tables are no parameters
    model.is_loaded_in_4bit = base == "nf4"  # for peft and TRL
    model = get_peft_model(
        model,
        LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    ).train()
    for parameter in adapter(model):
        parameter.data = parameter.data.float()
    return fill(model, seed)


def adapter(model):
    """The weights that are trained, in an order that does not depend on who wraps the model."""
    return [p for name, p in sorted(model.named_parameters()) if ".default." in name]


def fill(model, seed):
    """Random A and B: a B of 0, as a new adapter has, would hide errors. Leaves no gradient behind."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter(model):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.zero_grad(set_to_none=True)
    gc.collect()
    return model


def gradient(model):
    return torch.cat([p.grad.flatten().float().cpu() for p in adapter(model)])


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def checkpointing(model, on):
    """As load_policy switches it on, or off."""
    if model.get_base_model().is_gradient_checkpointing == on:
        return
    if on:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def policy(shape, base):
    """(model, context of its arithmetic, GiB) that reads lines, as load_policy makes it; fp32 has no autocast."""
    before = used()
    model = make_model(shape, base)
    gib, context = (
        used() - before,
        contextlib.nullcontext if base == "fp32" else partial(autocast, model),
    )
    with context():
        teach_lines(model)
    return model, context, gib


def needed_operations(model, rows, shape):
    """Of one step: forward and backward without weight gradients of the base, each prompt read once."""
    hidden, layers, vocab, total = SHAPES[shape][0], SHAPES[shape][2], SHAPES[shape][6], 0
    body = sum(
        m.in_features * m.out_features
        for name, m in model.named_modules()
        if name.endswith("base_layer")
    )
    for row in rows:
        cut, answers = row["cut"], [sum(seq["mask"]) for seq in row["seqs"]]
        seen = sum(m * cut + m * m / 2 for m in answers) + cut * cut / 2  # keys, over all queries
        total += (sum(answers) + cut) * (4 * body + 6 * sum(p.numel() for p in adapter(model)))
        total += sum(answers) * 4 * hidden * vocab + seen * 12 * hidden * layers
    return total


# ---- rows, and TRL's step on them ----------------------------------------------------------------------------


def make_rows(shape, kind, n, tiny):
    """Rows of one step, of random tokens; lengths are quantiles of the log-normal distribution, combined by chance."""
    vocab, rng, rows = SHAPES[shape][6], random.Random(0), []

    def lengths(middle, least, most, count):
        found = [
            middle * math.exp(0.55 * NormalDist().inv_cdf((k + 0.5) / count)) for k in range(count)
        ]
        return rng.sample(
            [round(min(most, max(least, x)) / (8 if tiny else 1)) for x in found], count
        )

    prompts, answers = (lengths(*spread, count) for spread, count in zip(DATA[kind], (n, 2 * n)))
    for k, cut in enumerate(prompts):
        draws = [
            [rng.randrange(vocab - 2) for _ in range(m)] for m in (cut, *answers[2 * k : 2 * k + 2])
        ]
        seqs = [
            {
                "ids": draws[0] + draw[1:] + [vocab - 1],
                "mask": [0] * cut + [1] * len(draw),
                "truncated": False,
            }
            for draw in draws[1:]
        ]
        rows.append(
            {
                "id": str(k),
                "prompt": str(k),
                "cut": cut,
                "seqs": seqs,
                "weight": 1.0,
                "slice": "all",
            }
        )
    return rows


def trl_steps(shape, rows, folder):
    """(model, GiB, {variant: step}) of TRL's trainer: its loss, metrics and backward on batches made beforehand."""
    import train  # bench/train.py
    import trl

    before = used()
    model = make_model(
        shape, base_format(), REFERENCE
    )  # the trainer copies its adapter: adapter "ref"
    gib = used() - before
    options = trl.DPOConfig(
        output_dir=folder,
        bf16=CUDA,
        use_cpu=not CUDA,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        beta=0.1,
        gradient_checkpointing=False,
        per_device_train_batch_size=MICRO,
        precompute_ref_log_probs=True,
    )
    trainer = trl.DPOTrainer(
        model,
        args=options,
        train_dataset=train.as_text("dpo", rows),
        processing_class=train.make_tokenizer(SHAPES[shape][6]),
    )
    if not CUDA:
        trl.trainer.utils._use_triton = lambda device: (
            True
        )  # only supervised tokens reach the head, as on a GPU
    trainer._set_signature_columns_if_needed()
    examples = [
        {name: value for name, value in row.items() if name in trainer._signature_columns}
        for row in trainer.train_dataset
    ]

    def step(order, precomputed):
        trainer.precompute_ref_logps, trainer.current_gradient_accumulation_steps = (
            precomputed,
            len(order),
        )
        with trainer.accelerator.autocast():  # train() puts it around the model's forward
            return sum(
                trainer.training_step(trainer.model, dict(batch), None).item() for batch in order
            )

    given = range(len(rows))
    by_length = sorted(given, key=lambda k: -max(len(seq["ids"]) for seq in rows[k]["seqs"]))
    given, by_length = (
        [
            trainer.data_collator([examples[k] for k in order[at : at + MICRO]])
            for at in range(0, len(rows), MICRO)
        ]
        for order in (given, by_length)
    )
    steps = {
        "trl_sorted": partial(step, by_length, True),
        "trl_default": partial(step, given, False),
    }
    return trainer.model, gib, steps
