"""What the three trainers share because a mistake in it would be silent: model loading (QLoRA), packs, order, reference
log-probabilities, schedule, checkpoints and the checks before step 1. The training loop itself stands in each trainer.

A training row is {"seqs": [{"ids", "mask", "truncated"}, ...], "weight", "slice", "id", "source", ...}: one sequence
for SFT and KTO, two (chosen, rejected) for DPO. Sums are over rows or tokens of a whole batch, so packs never matter.
"""

import contextlib
import hashlib
import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from tqdm import tqdm

from common import PLAIN_TEMPLATE, BadInput, digest, read_run, seed_for, stop_ids, write_whole
from packed import line_tokens, prompt_length, seq_logps, share_prompts

transformers.utils.logging.disable_progress_bar()

# ---- models --------------------------------------------------------------------------------------------------


def resolve_model(name):
    """A hub name, a model folder or a run folder of ours -> (base model, adapter folder or None)."""
    path = Path(name)
    if not read_run(path / "run.json").get("finished", True):
        raise BadInput(f"{name}: this run has not finished; run its command again to continue it")
    if (path / "adapter_config.json").exists() and not (path / "adapter_model.safetensors").exists():
        raise BadInput(f"{name}: adapter_model.safetensors is missing")
    if (path / "adapter_config.json").exists():
        return json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"], str(path)
    if path.exists() and not (path / "config.json").exists():
        raise BadInput(f"{name}: no config.json or adapter_config.json in it: neither a model nor a run folder")
    if not path.exists() and (name.count("/") > 1 or name.startswith((".", "/", "runs/", "data/"))):
        raise BadInput(f"{name}: no such folder")
    return name, None


def fingerprint(name, quantize):
    """What the log-probabilities of a model depend on: weights of base and adapter, number format and device."""
    base, adapter = resolve_model(name)
    parts = ("adapter_model.safetensors", "adapter_config.json") if adapter else ()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "+".join([digest(base), *(digest(Path(adapter) / part) for part in parts), quantize_mode(quantize), device])


def quantize_mode(quantize):
    """auto -> nf4 on a GPU, none on the CPU."""
    return quantize if quantize != "auto" else "nf4" if torch.cuda.is_available() else "none"


def load_tokenizer(name):
    """The tokenizer of a model or run folder; one without a chat template gets the plain one of common.py."""
    base, adapter = resolve_model(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(adapter or base)
    except (OSError, ValueError) as error:
        raise BadInput(f"{adapter or base}: no tokenizer can be loaded ({str(error)[:160]})") from None
    if tokenizer.chat_template is None:
        starts = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        tokenizer.chat_template = "{{ bos_token }}" * starts + PLAIN_TEMPLATE
    return tokenizer


def load_model(name, quantize="auto", trainable=False):
    """The model behind a hub name, model folder or run folder, on the GPU if there is one.

    quantize: "nf4" = 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314; also runs on CPU), "none" =
    bf16 on a GPU and fp32 on the CPU, "auto" = nf4 on a GPU. A run's adapter stays apart from the base weights."""
    from peft import PeftModel  # seconds to load: --help and --plan do without

    base, adapter = resolve_model(name)
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    options = {"dtype": dtype, "device_map": {"": 0 if cuda else "cpu"}}
    if quantize_mode(quantize) == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    try:
        config = transformers.AutoConfig.from_pretrained(base)
        for key, value in vars(config).items():  # dropout would make policy and reference differ before step 1
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)
        model = transformers.AutoModelForCausalLM.from_pretrained(base, config=config, **options)
        model.requires_grad_(False)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{name}: no model can be loaded ({str(error)[:160]})") from None
    return model.eval()


def load_reference(name, tokenizer, quantize):
    """The model of --ref, for scoring. BadInput when its vocabulary is another: the same ids would be other words."""
    if load_tokenizer(name).get_vocab() != tokenizer.get_vocab():
        raise BadInput(f"--ref {name}: not the tokenizer of --model: log-probabilities cannot be compared")
    model = load_model(name, quantize).train()  # as the policy: in eval mode 4-bit layers on a CPU round differently
    with autocast(model):
        share_prompts(model)
    return model


def check_length(model, longest):
    """Say it when a sequence is longer than the positions the model was made for; BadInput where it has no more."""
    limit = getattr(model.config, "max_position_embeddings", None) or longest
    learned = any(name.split(".")[-2] in ("wpe", "embed_positions") for name, _ in model.named_parameters())
    if longest > limit and learned:
        raise BadInput(f"{longest} tokens in a sequence, {limit} positions: lower --max-len or --max-tokens")
    if longest > limit:
        print(f"WARNING  {longest} tokens in a sequence, but the model was made for {limit}: poor results beyond")


def load_policy(name, quantize="auto", lora_r=None, lora_alpha=None, seed=0):
    """A model with a trainable LoRA adapter: a new one (B = 0, so it starts as the base), or the run folder's own.

    lora_r defaults to 16 and lora_alpha to 2 * lora_r. BadInput when they contradict the adapter that is continued."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model = load_model(name, quantize, trainable=True)
    if not isinstance(model, PeftModel):
        torch.manual_seed(seed)
        rank, head = lora_r or 16, model.get_output_embeddings()
        model = get_peft_model(model, LoraConfig(
            r=rank, lora_alpha=lora_alpha or 2 * rank, lora_dropout=0.0, target_modules="all-linear",
            exclude_modules=[name for name, module in model.named_modules() if module is head], task_type="CAUSAL_LM"))
    config = model.peft_config["default"]
    if lora_r not in (None, config.r) or lora_alpha not in (None, config.lora_alpha):
        raise BadInput(f"{name} continues an adapter of rank {config.r}, alpha {config.lora_alpha}: leave --lora-r and "
                       "--lora-alpha out, or start from the base model")
    for parameter in trained(model):
        parameter.data = parameter.data.float()
    model.train()  # harmless without dropout; in eval mode 4-bit layers on a CPU pass no gradient through
    if model.device.type == "cuda":  # trade time for memory
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    with autocast(model):
        share_prompts(model)
    return model


def trained(model):
    """The parameters that are trained (the adapter's)."""
    return [p for p in model.parameters() if p.requires_grad]


def autocast(model):
    """bf16 arithmetic on a GPU, full precision on the CPU."""
    return torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else contextlib.nullcontext()


# ---- rows, order, packs --------------------------------------------------------------------------------------


def prepare(rows, encode_row, tokenizer, max_dropped):
    """encode_row(row) for every row -> training rows; rows that raise ValueError(reason) are counted, printed, dropped.

    BadInput when more than the share max_dropped is lost, or an untruncated answer has no supervised stop token."""
    kept, dropped, stops = [], Counter(), stop_ids(tokenizer)
    rows = [row for row in rows if row["weight"] > 0]
    if not rows:
        raise BadInput("every row has weight 0: nothing to train on")
    for row in tqdm(rows, desc="tokenise", leave=False):
        try:
            kept.append(encode_row(row))
        except ValueError as reason:
            dropped[str(reason)] += 1
    seqs = [seq for row in kept for seq in row["seqs"]]
    truncated = sum(seq["truncated"] for seq in seqs)
    reasons = "; ".join(f"{reason}: {n}" for reason, n in dropped.most_common())
    lost, tokens = len(rows) - len(kept), sum(len(seq["ids"]) for seq in seqs)
    print(f"data     {len(rows)} rows, {len(kept)} kept, {lost} dropped{f' ({reasons})' if lost else ''}, "
          f"{truncated} answers truncated, {tokens:,} tokens, {sum(sum(seq['mask']) for seq in seqs):,} supervised")
    if not kept or lost > max_dropped * len(rows):
        raise BadInput(f"{lost} of {len(rows)} rows would be dropped ({reasons}): mend the data, raise --max-len, or "
                       "allow it with --max-dropped")
    if not all(seq["truncated"] or (seq["mask"][-1] and seq["ids"][-1] in stops) for seq in seqs):
        raise BadInput("an answer has no supervised stop token: the model would not learn to stop (chat template?)")
    return kept


def batches(rows, batch_size, epochs, seed, max_steps=None):
    """Row numbers of every optimiser step: ceil(rows / batch_size) steps an epoch, a pure function of its arguments.

    A file of weight w gives w times its rows to an epoch (whole copies and a random rest), spread evenly, so that every
    batch is drawn to the mixture."""
    sources = {}
    for number, row in enumerate(rows):
        sources.setdefault(row["source"], []).append(number)
    steps = []
    for epoch in range(epochs):
        rng, keyed = random.Random(seed_for("order", seed, epoch)), []
        for (_, weight), members in sorted(sources.items()):
            picks = members * int(weight) + rng.sample(members, round(len(members) * (weight % 1)))
            rng.shuffle(picks)
            keyed += [((k + rng.random()) / len(picks), number) for k, number in enumerate(picks)]
        order = [number for _, number in sorted(keyed)]
        steps += [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    if not steps:
        raise BadInput("the weights in --data leave no row to train on: raise them")
    return steps[:max_steps]


def packs(rows, pack_tokens):
    """Rows in groups of at most pack_tokens tokens, prompts counted once (one row at least): the longest first, each
    into the first group with room. Sums over a batch do not depend on the groups."""
    found = []
    for row in sorted(rows, key=lambda row: line_tokens(row["seqs"]), reverse=True):
        size = line_tokens(row["seqs"])
        pack = next((pack for pack in found[-32:] if pack["size"] + size <= pack_tokens), None)
        if not pack:
            pack = {"size": 0, "rows": []}
            found.append(pack)
        pack["size"] += size
        pack["rows"].append(row)
    return [pack["rows"] for pack in found]


def pack_logps(model, pack):
    """Log-probabilities of a pack of rows -> (logps [rows, seqs] float64, tokens [rows, seqs])."""
    with autocast(model):
        logps, tokens, _ = seq_logps(model, [seq for row in pack for seq in row["seqs"]])
    return logps.view(len(pack), -1), tokens.view(len(pack), -1)


# ---- the reference policy ------------------------------------------------------------------------------------


def reference_logps(model, rows, pack_tokens, key, out):
    """Set seq["ref"], the log-probability under the reference; computed once, kept in out/ref_logps.jsonl.

    `key` is the fingerprint of the reference. Runs beside `out` lend their cache, so another loss on the same data is
    free; what is borrowed is copied before step 1. A killed run redoes its partial pack whole: packs, and so the last
    digits, do not depend on interruptions. model None: all must be in the cache (the policy has already moved).
    Returns the tokens that were read."""
    path, known, own, unique, prompts = Path(out) / "ref_logps.jsonl", {}, set(), {}, {}
    for seq in (seq for row in rows for seq in row["seqs"]):
        seq["key"] = hashlib.sha256(f"{key}|{pack_tokens}|{seq['ids']}|{seq['mask']}".encode()).hexdigest()[:24]
        unique.setdefault(seq["key"], seq)
    for seq in unique.values():  # all answers to a prompt in one row, so that it is read once, as far as a pack goes
        mine = prompts.setdefault(tuple(seq["ids"][:prompt_length(seq)]), [{"seqs": []}])
        if mine[-1]["seqs"] and line_tokens([*mine[-1]["seqs"], seq]) > pack_tokens:
            mine.append({"seqs": []})
        mine[-1]["seqs"].append(seq)
    files = sorted(path.parent.parent.glob("*/ref_logps.jsonl"), key=lambda p: (p == path, p))  # our own last: it wins
    for file in files:
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a torn last line is redone
                entry = json.loads(line)
                known[entry["key"]] = float(entry["logp"])
                own |= {entry["key"]} if file == path else set()
    groups = [[seq for row in pack for seq in row["seqs"]]
              for pack in packs([row for mine in prompts.values() for row in mine], pack_tokens)]
    missing = [group for group in groups if not all(seq["key"] in known for seq in group)]
    if missing and model is None:
        raise BadInput(f"{path} is incomplete though training has begun: delete {out} and start again")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" if path.stat().st_size else "")  # a torn line stays alone
        for borrowed in [k for k in unique if k in known and k not in own]:
            file.write(json.dumps({"key": borrowed, "logp": known[borrowed]}) + "\n")
        for group in tqdm(missing, desc="reference", leave=False):
            with torch.no_grad():
                logps = pack_logps(model, [{"seqs": group}])[0][0].tolist()
            for seq, logp in zip(group, logps):
                known[seq["key"]] = logp
                file.write(json.dumps({"key": seq["key"], "logp": logp}) + "\n")
            file.flush()
    for seq in (seq for row in rows for seq in row["seqs"]):
        seq["ref"] = known[seq["key"]]
    return sum(line_tokens(group) for group in missing)


def check_start(name, value, expected, model):
    """Print the step-0 invariant and refuse to start when it fails: policy and reference must be the same model."""
    tolerance = 1e-3 if model.device.type == "cpu" else 0.05  # bf16 rounding depends on the pack
    print(f"check    {name} loss before step 1 = {value:.6f}, expected {expected:.6f}")
    if not abs(value - expected) <= tolerance * max(1.0, expected):
        raise BadInput(f"the {name} loss before step 1 is {value:.6f} instead of {expected:.6f}: the reference is not "
                       "the policy that training starts from (stale ref_logps.jsonl? delete it and start again)")


# ---- steps, checkpoints, logs --------------------------------------------------------------------------------


def lr_at(step, steps, lr, warmup=0.1):
    """Learning rate of step 0..steps-1: linear warm-up over the share `warmup`, then a cosine to 0."""
    ramp = math.ceil(warmup * steps)
    if step < ramp:
        return lr * (step + 1) / ramp
    return lr * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def optimiser_step(optimizer, lr, max_norm=1.0):
    """Clip, step, clear -> gradient norm before clipping. One that is not finite stops the run, checkpoint intact."""
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    if not math.isfinite(norm):
        raise BadInput(f"the gradient norm is {norm}: lower --lr or look for broken rows; the checkpoint is intact")
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    return norm


def warn_if_still(step, grad_norm, moved):
    """Say it when the run does not train: no gradient at all, or nothing has moved after three steps."""
    if grad_norm == 0:
        tqdm.write(f"WARNING  step {step + 1}: the adapter's gradient is zero: nothing is being trained")
    elif step == 2 and moved is not None and moved == 0:
        tqdm.write("WARNING  after 3 steps the margin has not moved: is --lr too small?")


def write_log(out, step, steps, **values):
    """Append one line to out/log.jsonl (step counts from 1)."""
    values = {k: float(f"{v:.8g}") if isinstance(v, float) else v for k, v in values.items()}
    with open(Path(out) / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step + 1, "steps": steps, **values}) + "\n")


def save_checkpoint(out, model, optimizer, step, **counters):
    """Adapter, optimiser and counters after `step` steps in one file that is replaced at once. Order and learning rate
    are functions of the step, and nothing in a step is random, so this is all that an exact resume needs."""
    adapter = {n: p for n, p in model.named_parameters() if p.requires_grad}
    temporary = Path(out) / "checkpoint.pt.tmp"
    with open(temporary, "wb") as file:
        torch.save({"step": step, "adapter": adapter, "optimizer": optimizer.state_dict(), **counters}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, Path(out) / "checkpoint.pt")


def load_checkpoint(out, model, optimizer):
    """Continue from out/checkpoint.pt -> {"step", counters}; {"step": 0} when there is none. Cuts later log lines."""
    out, state = Path(out), {"step": 0}
    if (out / "checkpoint.pt").exists():
        state = torch.load(out / "checkpoint.pt", map_location=model.device, weights_only=True)
        parameters = dict(model.named_parameters())
        for name, value in state.pop("adapter").items():
            parameters[name].data.copy_(value)
        optimizer.load_state_dict(state.pop("optimizer"))
        print(f"resume   from step {state['step']}")
    if (out / "log.jsonl").exists():
        lines = (out / "log.jsonl").read_text().splitlines()[:state["step"]]
        write_whole(out / "log.jsonl", "".join(line + "\n" for line in lines))
    return state


def save_adapter(out, model, tokenizer):
    """The adapter (relative to the untouched base), tokenizer and chat template: what --model reads."""
    model.save_pretrained(out, save_embedding_layers=False)
    tokenizer.save_pretrained(out)
    (Path(out) / "README.md").unlink(missing_ok=True)  # peft's empty model card
