"""Loading tokenizers, models and adapters, in 4 bits where --quantize says so (QLoRA)."""

import contextlib
import warnings

import torch
import transformers
from safetensors import SafetensorError
from transformers.quantizers.base import get_keys_to_not_convert

from posttrain.chat.template import PLAIN_TEMPLATE
from posttrain.cli import BadInput
from posttrain.model.adapter import (
    adapted_parameters,
    add_adapter,
    check_adapter,
    reach_line,
    read_past,
    without_bitsandbytes,
)
from posttrain.model.memory import check_fits, model_without_weights
from posttrain.model.names import (
    UNPACKED,
    architecture_of,
    quantize_mode,
    read_config,
    resolve_model,
)
from posttrain.processes import shard, sharded

transformers.utils.logging.disable_progress_bar()

# What the libraries raise for folders that are torn, foreign or of another version.
LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError)


# ---- tokenizers ----------------------------------------------------------------------------------


def load_tokenizer(name):
    """The tokenizer of a model or run folder; without a chat template it gets PLAIN_TEMPLATE.

    Its attribute generation_stops has the tokens at which the model ends an answer (chat/stops.py).
    """
    base, adapter = resolve_model(name)
    folder = adapter or base
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the library raises a dozen kinds
        raise BadInput(f"{folder}: no tokenizer can be loaded ({str(error)[:160]})") from None
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
        if begins_every_text(tokenizer):  # the model expects it
            tokenizer.chat_template = "{{ bos_token }}" + PLAIN_TEMPLATE
    tokenizer.generation_stops = read_generation_stops(base)
    return tokenizer


def load_shared_tokenizer(name, ref=None):
    """The tokenizer of a model. BadInput when ref, the model of --ref, has another vocabulary.

    The same ids would be other words: log-probabilities could not be compared.
    """
    tokenizer = load_tokenizer(name)
    if ref:
        require_vocabulary(ref, tokenizer)
    return tokenizer


def require_vocabulary(name, tokenizer):
    """BadInput when the model of --ref has another vocabulary than this tokenizer."""
    if load_tokenizer(name).get_vocab() != tokenizer.get_vocab():
        raise BadInput(
            f"--ref {name}: not the tokenizer of --model: log-probabilities cannot be compared"
        )


def read_generation_stops(base):
    """Ids of the end tokens of a model's generation_config.json, or else of its config.json.

    As generate() has them. A folder without either (a bare tokenizer) has none.
    """
    try:
        stops = transformers.GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:
        stops = None
    if stops is None:
        stops = getattr(read_config(base).get_text_config(), "eos_token_id", None)
    if stops is None:
        return []
    return stops if isinstance(stops, list) else [stops]


def begins_every_text(tokenizer):
    """Does this tokenizer put its beginning-of-sequence token before every text?"""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a").input_ids[0] == bos


# ---- models --------------------------------------------------------------------------------------


def load_model(name, quantize="auto", trainable=False, classifier=False):
    """A model by its hub name, model folder or run folder, in eval mode, on a GPU if there is one.

    quantize: "nf4" = 4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314; also runs
    on CPU), "none" = bf16 on a GPU and fp32 on the CPU, "auto" = nf4 on a GPU. classifier: a reward
    model, with one score. The weights are frozen; a run's adapter stays apart from them, and learns
    when `trainable`. BadInput when nothing can be loaded, or when the weights do not fit.
    """
    base, adapter = resolve_model(name)
    config = read_config(base)
    options = number_format(quantize, config)
    try:
        config = without_dropout(config)
        if classifier:
            config.num_labels = 1
            architecture = transformers.AutoModelForSequenceClassification
        else:
            architecture = architecture_of(config)
        without_weights = model_without_weights(name, config, architecture)
        check_fits(name, without_weights, quantize_mode(quantize, config))
        leave_whole(options, without_weights)
        model, info = architecture.from_pretrained(
            base, config=config, output_loading_info=True, **options
        )
        check_weights(name, info, brings_score=classifier and adapter)
        model.requires_grad_(False)
        if adapter:
            model = with_adapter(model, adapter, trainable)
    except BadInput:  # it is a ValueError, and has its own words
        raise
    except LOAD_ERRORS as error:
        raise BadInput(f"{name}: no model can be loaded ({str(error)[:160]})") from None
    switch_off_dropout(model)
    return model.eval()


def with_adapter(model, adapter, trainable):
    """The model with the adapter of a folder. BadInput when the folder lacks tensors of it.

    peft would leave them random, and warn: here its warning is an error.
    """
    with without_bitsandbytes(model), warnings.catch_warnings():
        # It takes seconds to load: a model without an adapter does without.
        from peft import PeftModel

        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        except UserWarning:
            raise BadInput(
                f"{adapter}: adapter_model.safetensors lacks tensors that its config asks for: it "
                "is torn, or another model's"
            ) from None


def load_merged(name, quantize="auto"):
    """load_model for writing answers: in full precision an adapter is merged into the weights.

    W + scaling B A costs per token what W costs. In half precision or in 4 bits the sum would be
    rounded to the format, and the answers would be another model's: there it stays apart.
    """
    model = load_model(name, quantize)
    if is_mergeable(model):
        model = model.merge_and_unload()
    return model


def is_mergeable(model):
    """Has a model an adapter that can be merged without changing what the model says?"""
    if not hasattr(model, "merge_and_unload"):  # no adapter, or one without weights to add
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    in_full_precision = all(weight.dtype == torch.float32 for weight in model.parameters())
    # What is added to the output layer would be added to the embeddings too, where they are tied.
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    if any(isinstance(layer, BaseTunerLayer) for layer in embeddings):
        return False
    return in_full_precision and not has_shared_layers(model)


def has_shared_layers(model):
    """Do two adapters lie on one matrix? Zamba's blocks share weights, and have adapters apart:
    merged, each would count at the other's places, too."""
    matrices = [id(weight) for weight in adapted_parameters(model)]
    return len(matrices) > len(set(matrices))


def number_format(quantize, config):
    """from_pretrained's keyword arguments for the weights' number format and device.

    config: of the base model. Weights that are quantised already need none for their format.
    """
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    device = "cpu"
    if on_gpu and not sharded():  # under FSDP, shard() takes the layers to the GPU
        device = torch.cuda.current_device()
    options = {"dtype": dtype, "device_map": {"": device}}
    mode = quantize_mode(quantize, config)
    if mode == "nf4":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    elif mode == UNPACKED:
        print("note     mxfp4 weights are unpacked: they take four times the memory of the files")
        options["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    return options


def leave_whole(options, model):
    """Let from_pretrained(**options) leave those linear layers as they are that 4 bits would break.

    model: without weights.
    """
    quantization = options.get("quantization_config")
    if not isinstance(quantization, transformers.BitsAndBytesConfig):
        return
    names = read_past(model)
    if not torch.cuda.is_available():
        names += odd_layers(model)
    if names:
        # A list of our own replaces the one that transformers would make: output layer and such.
        quantization.llm_int8_skip_modules = [*get_keys_to_not_convert(model), *names]


def odd_layers(model):
    """Names of linear layers of sizes that the CPU's kernels for 4 bits do not take.

    They want outputs in blocks of 32, and inputs in blocks of 64. Hybrids have layers with as many
    outputs as heads.
    """
    odd = []
    for name, module in model.named_modules():
        is_linear = isinstance(module, torch.nn.Linear)
        if is_linear and (module.out_features % 32 or module.in_features % 64):
            odd.append(name)
    return odd


def check_weights(name, info, brings_score):
    """BadInput when files lack weights of the model: they would be random, other ones every time.

    What the files have beside those of the model is said. info: from_pretrained's loading info.
    brings_score: an adapter has the score of a reward model.
    """
    missing = sorted(info["missing_keys"])
    if brings_score:
        missing = [key for key in missing if not key.startswith("score.")]
    if missing:
        raise BadInput(
            f"{name}: its files lack {len(missing)} of the model's tensors, such as {missing[0]}, "
            "which would be random: not all files are there, or they are another model's"
        )
    extra = sorted(info["unexpected_keys"])
    if extra:
        print(
            f"note     {name}: {len(extra)} tensors of its files are not read, such as {extra[0]}"
        )


def without_dropout(config):
    """The config with all dropout at 0, which would make policy and reference differ.

    So would noise at a router ("jitter"), which mixtures of experts add in training. The config of
    a wrapper has others inside, one for each part.
    """
    for key, value in vars(config).items():
        is_noise = "drop" in key or "jitter" in key
        if is_noise and isinstance(value, float):
            setattr(config, key, 0.0)
        if isinstance(value, transformers.PreTrainedConfig):
            without_dropout(value)
    return config


def switch_off_dropout(model):
    """Set the dropout layers to 0, too: an adapter that was made elsewhere brings its own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def load_reference(name, tokenizer, quantize):
    """The model of --ref, for scoring.

    BadInput when its vocabulary is another: the same ids would be other words.
    """
    require_vocabulary(name, tokenizer)
    # In train mode, as the policy: in eval mode 4-bit layers on a CPU round differently.
    model = load_model(name, quantize).train()
    shard(model, trained(model))
    return model


# ---- the policy: a model with an adapter that is trained -----------------------------------------


def load_policy(
    name,
    quantize="auto",
    *,
    lora_r=None,
    lora_alpha=None,
    seed=0,
    checkpointing=False,
):
    """A model with a trainable LoRA adapter: a new one, or the run folder's own.

    lora_r defaults to 16 and lora_alpha to 2 * lora_r for a new adapter. BadInput when they
    contradict the adapter that is continued. checkpointing: the activations of a layer are computed
    anew in the backward pass, which takes a third more time and far less memory.
    """
    model = load_model(name, quantize, trainable=True)
    if not hasattr(model, "peft_config"):
        model = add_adapter(model, lora_r, lora_alpha, seed)
    check_adapter(name, model, lora_r, lora_alpha)
    print(reach_line(model))

    # The adapter learns in fp32: steps of a small learning rate would be lost in bf16.
    for parameter in trained(model):
        parameter.data = parameter.data.float()
    # In eval mode 4-bit layers on a CPU pass no gradient through. There is no dropout to mind.
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    shard(model, trained(model))
    return model


def trained(model):
    """The parameters that are trained: the adapter's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def autocast(model):
    """A context of bf16 arithmetic on a GPU; on the CPU nothing changes: full precision."""
    if model.device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
