"""Models and tokenizers: names and folders, QLoRA loading, GPU memory, and the processes that share a model."""

import atexit
import contextlib
import functools
import gc
import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import torch
import torch.distributed
import transformers
from safetensors import SafetensorError
from tqdm import tqdm

from common import PLAIN_TEMPLATE, BadInput, digest, read_run
from packed import share_prompts

transformers.utils.logging.disable_progress_bar()


def resolve_model(name):
    """A hub name, a model folder or a run folder of ours -> (base model, adapter folder or None)."""
    path = Path(name)
    if not read_run(path / "run.json").get("finished", True):
        raise BadInput(f"{name}: this run has not finished; run its command again to continue it")
    if (path / "adapter_config.json").exists() and not (path / "adapter_model.safetensors").exists():
        raise BadInput(f"{name}: adapter_model.safetensors is missing")
    if (path / "adapter_config.json").exists():
        try:
            return str(json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]), str(path)
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{name}: adapter_config.json is broken or names no base model") from None
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
    commit = None if Path(base).exists() else read_config(base)._commit_hash  # of a hub name
    return "+".join([digest(base), str(commit), *(digest(Path(adapter) / part) for part in parts),
                     quantize_mode(quantize), device, torch.__version__, transformers.__version__])


def read_config(base):
    """The config of a base model. BadInput when it cannot be read."""
    try:
        return transformers.AutoConfig.from_pretrained(base)
    except Exception as error:  # the library raises a dozen kinds
        raise BadInput(f"{base}: no config can be loaded ({' '.join(str(error).split())[:160]})") from None


def quantize_mode(quantize):
    """auto -> nf4 on a GPU, none on the CPU."""
    return quantize if quantize != "auto" else "nf4" if torch.cuda.is_available() else "none"


def load_tokenizer(name):
    """The tokenizer of a model or run folder; one without a chat template gets the plain one of common.py."""
    base, adapter = resolve_model(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(adapter or base)
    except Exception as error:  # the library raises a dozen kinds
        raise BadInput(f"{adapter or base}: no tokenizer can be loaded ({str(error)[:160]})") from None
    if tokenizer.chat_template is None:
        starts = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        tokenizer.chat_template = "{{ bos_token }}" * starts + PLAIN_TEMPLATE
    return tokenizer


def is_classifier(name):
    """Is this a reward model: a sequence classifier, or an adapter that makes one?"""
    base, adapter = resolve_model(name)
    if adapter:
        return json.loads((Path(adapter) / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS"
    return any("SequenceClassification" in kind for kind in read_config(base).architectures or [])


def family_of(name):
    """What a model descends from, "word/hash": the first word of its base's name and a hash of its vocabulary, which
    fine-tunes keep. An endpoint's model, or one that is not here, has the word alone."""
    base, here = name.partition("@http")[0], bool(name) and Path(name).exists()
    base = resolve_model(base)[0] if here else base
    word = re.match(r"(?:meta-)?([a-z]*)", Path(base).name.lower())[1]
    if not here:
        return word
    tokenizer = load_tokenizer(name)
    words = sorted(tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys())
    return f"{word}/{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"


def related(a, b):
    """Are two families one? By vocabulary where both are known, else by name."""
    (word_a, _, hash_a), (word_b, _, hash_b) = a.partition("/"), b.partition("/")
    return hash_a == hash_b if hash_a and hash_b else word_a == word_b != ""


def load_model(name, quantize="auto", trainable=False, classifier=False):
    """The model behind a hub name, model folder or run folder, on the GPU if there is one. classifier: a reward model.

    quantize: "nf4" = 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314; also runs on CPU), "none" =
    bf16 on a GPU and fp32 on the CPU, "auto" = nf4 on a GPU. A run's adapter stays apart from the base weights."""
    from peft import PeftModel  # seconds to load: --help and --plan do without

    base, adapter = resolve_model(name)
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    device = torch.cuda.current_device() if cuda and not sharded() else "cpu"  # shard takes the layers to the GPU
    options = {"dtype": dtype, "device_map": {"": device}}
    if quantize_mode(quantize) == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    try:
        config = read_config(base)
        for key, value in vars(config).items():  # dropout would make policy and reference differ before step 1
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)
        kind = transformers.AutoModelForCausalLM
        if classifier:
            kind, config.num_labels = transformers.AutoModelForSequenceClassification, 1
        model = kind.from_pretrained(base, config=config, **options)
        model.requires_grad_(False)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except BadInput:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
        raise BadInput(f"{name}: no model can be loaded ({str(error)[:160]})") from None
    for module in model.modules():  # also that of an adapter made elsewhere
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.eval()


def load_reference(name, tokenizer, quantize):
    """The model of --ref, for scoring. BadInput when its vocabulary is another: the same ids would be other words."""
    if load_tokenizer(name).get_vocab() != tokenizer.get_vocab():
        raise BadInput(f"--ref {name}: not the tokenizer of --model: log-probabilities cannot be compared")
    model = load_model(name, quantize).train()  # as the policy: in eval mode 4-bit layers on a CPU round differently
    shard(model)
    with autocast(model):
        share_prompts(model)
    return model


def free_memory():
    """Give back what a deleted model held: its patched functions refer to it, and only this finds such circles."""
    gc.collect()
    torch.cuda.empty_cache()


def check_length(model, longest):
    """Say it when a sequence is longer than the positions the model was made for; BadInput where it has no more."""
    limit = getattr(model.config, "max_position_embeddings", None) or longest
    learned = any(name.split(".")[-2] in ("wpe", "embed_positions") for name, _ in model.named_parameters())
    if longest > limit and learned:
        raise BadInput(f"{longest} tokens in a sequence, {limit} positions: lower --max-len or --max-tokens")
    if longest > limit:
        print(f"WARNING  {longest} tokens in a sequence, but the model was made for {limit}: poor results beyond")


def load_policy(name, quantize="auto", lora_r=None, lora_alpha=None, seed=0, checkpointing=False):
    """A model with a trainable LoRA adapter: a new one (B = 0, so it starts as the base), or the run folder's own.

    lora_r defaults to 16 and lora_alpha to 2 * lora_r. BadInput when they contradict the adapter that is continued.
    checkpointing: activations of a layer are computed anew in the backward pass: a third more time, far less memory."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model = load_model(name, quantize, trainable=True)
    if not isinstance(model, PeftModel):
        torch.manual_seed(seed)
        rank, head = lora_r or 16, model.get_output_embeddings()
        model = get_peft_model(model, LoraConfig(
            r=rank, lora_alpha=lora_alpha or 2 * rank, lora_dropout=0.0, target_modules="all-linear",
            exclude_modules=[name for name, module in model.named_modules() if module is head], task_type="CAUSAL_LM"))
    config = model.peft_config["default"]
    if not isinstance(config, LoraConfig):
        raise BadInput(f"{name}: an adapter of another kind than LoRA ({config.peft_type}): merge it first")
    if lora_r not in (None, config.r) or lora_alpha not in (None, config.lora_alpha):
        raise BadInput(f"{name} continues an adapter of rank {config.r}, alpha {config.lora_alpha}: leave --lora-r and "
                       "--lora-alpha out, or start from the base model")
    for parameter in trained(model):
        parameter.data = parameter.data.float()
    model.train()  # harmless without dropout; in eval mode 4-bit layers on a CPU pass no gradient through
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    shard(model)
    with autocast(model):
        share_prompts(model)
    return model


def trained(model):
    """The parameters that are trained (the adapter's)."""
    return [p for p in model.parameters() if p.requires_grad]


def make_optimizer(model, lr):
    """AdamW without weight decay; on a GPU with 8-bit states in paged memory, which leave it when room is short."""
    if model.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(trained(model), lr=lr, weight_decay=0.0)
    return torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)


def memory_plan(name, quantize, lora_r, pack_tokens):
    """GPU memory of training in bytes, by part, from the model's config alone: {"weights", "adapter" (with gradient and
    optimiser), "activations", "checkpointed" (the same with gradient checkpointing), "head", "dequantise"}. Estimated
    from what each layer keeps for its backward pass."""
    from transformers.pytorch_utils import Conv1D

    config = read_config(resolve_model(name)[0])
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # a config that contradicts itself
        raise BadInput(f"{name}: its config makes no model ({' '.join(str(error).split())[:160]})") from None
    head, config = model.get_output_embeddings(), config.get_text_config()
    linear = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    packed = sum(weight.numel() for weight in linear)
    whole = sum(p.numel() for p in model.parameters()) - packed  # tied parameters are listed once
    per_weight = 0.516 if quantize_mode(quantize) == "nf4" else 2  # 4 bits, a scale per 64 in 8 bits, theirs per 256
    adapter = sum((lora_r or 16) * sum(weight.shape) for weight in linear)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    # bf16: input and output of every matrix and its low-rank half; in the norms the hidden state, in fp32 and bf16
    per_layer = 2 * sum(sum(weight.shape) + (lora_r or 16) for weight in linear) / layers + 16 * hidden
    kept = pack_tokens * per_layer
    chunk = max(16, (1 << 25) // config.vocab_size) * config.vocab_size
    return {"weights": packed * per_weight + 2 * whole, "adapter": adapter * (4 + 4 + 2), "activations": layers * kept,
            "checkpointed": layers * pack_tokens * 2 * hidden + kept, "head": 3 * 4 * chunk + 4 * pack_tokens * hidden,
            "dequantise": 2 * max(weight.numel() for weight in linear) if per_weight < 1 else 0}


def needs_checkpointing(memory, free=None):
    """True when activations would not fit into 90 % of the free GPU memory (bytes); False on the CPU."""
    if free is None:
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else float("inf")
    return sum(value for part, value in memory.items() if part != "checkpointed") > 0.9 * free


def memory_line(memory):
    """One line for --plan."""
    shared = sum(memory[part] for part in ("weights", "adapter", "head", "dequantise"))
    parts = ", ".join(f"{part} {memory[part] / 2**30:.2f}" for part in ("weights", "adapter", "head", "dequantise"))
    return (f"memory   about {(shared + memory['checkpointed']) / 2**30:.1f} GiB on a GPU with gradient checkpointing, "
            f"{(shared + memory['activations']) / 2**30:.1f} without ({parts}, activations "
            f"{memory['checkpointed'] / 2**30:.2f} or {memory['activations'] / 2**30:.2f})")


def autocast(model):
    """bf16 arithmetic on a GPU, full precision on the CPU."""
    return torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else contextlib.nullcontext()


# ---- processes: accelerate launch dpo.py ... -----------------------------------------------------------------


def join_processes():
    """Join the processes of `accelerate launch` if there are several -> (number of this one, how many). Each holds the
    whole model (a part of it under FSDP: shard) and reads its share of the packs; gradients are summed once a
    step, so the update is that of one. Only the first speaks and writes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    import accelerate

    state = accelerate.PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise BadInput("the processes of accelerate launch do not find each other: each would train alone")
    atexit.register(torch.distributed.destroy_process_group)  # else a process may end by an abort after its work
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would give weights to the first process only
    if state.process_index:
        sys.stdout = open(os.devnull, "w")  # errors stay visible
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)
    return state.process_index, state.num_processes


def is_first():
    """False in the other processes of accelerate launch."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def from_first(make):
    """make() of the first process, for all: a run record must be opened once. So is its refusal: nobody waits."""
    found = [None, None]
    try:
        found[0] = make() if is_first() else None
    except (BadInput, OSError) as error:
        found[1] = error
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    if found[1]:
        raise found[1]
    return found[0]


def summed(values):
    """Sum of Counters or lists over all processes."""
    if not torch.distributed.is_initialized():
        return values
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, values)
    total = type(values)()
    for one in everyone:
        total.extend(one) if isinstance(total, list) else total.update(one)
    return total


def sum_gradients(model):
    """Sum the adapter's gradient over all processes, in one message."""
    if torch.distributed.is_initialized():
        parameters = trained(model)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([grad.flatten() for grad in grads])
        torch.distributed.all_reduce(flat)
        for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = grad.view_as(parameter).clone()


def sharded():
    """True when accelerate launch was told to use FSDP."""
    return torch.distributed.is_initialized() and os.environ.get("ACCELERATE_USE_FSDP") == "true"


def shard(model):
    """Under FSDP spread the frozen weights over the processes; a layer is gathered while it is read. The adapter stays
    whole in each, so gradients, clipping and checkpoints are those of one process. From then on all must read the model
    equally often (training.packs)."""
    if not sharded():
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    device, whole = "cuda" if torch.cuda.is_available() else "cpu", set(trained(model))
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for part in [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] + [model]:
        fully_shard(part, mesh=mesh, ignored_params=whole)
    frozen = [p for p in model.parameters() if p not in whole]
    sizes = [sum(p.nbytes for p in same) / 2**20 for same in ([p.to_local() for p in frozen], frozen)]
    print(f"fsdp     {sizes[0]:,.1f} of {sizes[1]:,.1f} MiB of frozen weights in each process")

    def same_logits(module, inputs, options, output):  # while sampling: with other tokens the steps could be more
        if options.get("use_cache"):
            torch.distributed.broadcast(output.logits, 0)
    model.register_forward_hook(same_logits, with_kwargs=True)
