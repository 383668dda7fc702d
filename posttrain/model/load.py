"""Tokenizers, models and adapters: QLoRA loading."""

import contextlib

import torch
import torch.distributed
import transformers
from safetensors import SafetensorError

from posttrain.chat.template import PLAIN_TEMPLATE
from posttrain.cli import BadInput
from posttrain.model.names import quantize_mode, read_config, resolve_model
from posttrain.processes import shard, sharded, trained

transformers.utils.logging.disable_progress_bar()


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
    return model


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
    return model


def autocast(model):
    """bf16 arithmetic on a GPU, full precision on the CPU."""
    return torch.autocast("cuda", torch.bfloat16) if model.device.type == "cuda" else contextlib.nullcontext()
