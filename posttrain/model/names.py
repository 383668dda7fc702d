"""Names of models: hub names, model folders, run folders of ours, models behind a server."""

import json
from pathlib import Path

import torch
import transformers

from posttrain.cli import BadInput
from posttrain.hashing import digest
from posttrain.run.folder import read_run


def is_endpoint(name):
    """Is this NAME@URL, a model behind a server?"""
    return "@http" in name


def endpoint_of(name):
    """NAME@URL -> (the model's name at the server, URL)."""
    model, _, rest = name.partition("@http")
    return model, f"http{rest}"


def resolve_model(name):
    """A hub name, a model folder or a run folder of ours -> (base model, adapter folder or None).

    BadInput for a run that has not finished, and for a path that holds neither a model nor an
    adapter.
    """
    path = Path(name)
    if not read_run(path / "run.json").get("finished", True):
        raise BadInput(f"{name}: this run has not finished; run its command again to continue it")
    if (path / "adapter_config.json").exists():
        return base_of_adapter(path, name), str(path)

    if path.exists() and not (path / "config.json").exists():
        raise BadInput(
            f"{name}: no config.json or adapter_config.json in it: neither a model nor a run folder"
        )
    # A hub name has one slash at most; what looks like a path was meant as one.
    looks_like_path = name.count("/") > 1 or name.startswith((".", "/", "runs/", "data/"))
    if looks_like_path and not path.exists():
        raise BadInput(f"{name}: no such folder")
    return name, None


def base_of_adapter(folder, name):
    """The base model that a folder's adapter was made for; BadInput when it is damaged."""
    if not (folder / "adapter_model.safetensors").exists():
        raise BadInput(f"{name}: adapter_model.safetensors is missing")
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        return str(config["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{name}: adapter_config.json is broken or names no base model") from None


def fingerprint(name, quantize):
    """A text that changes with whatever the log-probabilities of a model depend on.

    These are the weights of base and adapter, the number format, the device and the libraries. It
    is the key under which reference log-probabilities are kept.
    """
    base, adapter = resolve_model(name)
    # digest() reads the files of a model folder; a hub name stands for itself, so add its commit.
    commit = None if Path(base).exists() else read_config(base)._commit_hash
    marks = [digest(base), str(commit)]
    if adapter:
        marks.append(digest(Path(adapter) / "adapter_model.safetensors"))
        marks.append(digest(Path(adapter) / "adapter_config.json"))
    marks.append(quantize_mode(quantize))
    marks.append("cuda" if torch.cuda.is_available() else "cpu")
    marks += [torch.__version__, transformers.__version__]
    return "+".join(marks)


def read_config(base):
    """The config of a base model. BadInput when it cannot be read."""
    try:
        return transformers.AutoConfig.from_pretrained(base)
    except Exception as error:  # the library raises a dozen kinds
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"{base}: no config can be loaded ({reason})") from None


def architecture_of(config):
    """transformers' class of models that can be loaded for a config and write text.

    Models that read images, too (Mistral 3, Qwen3-VL), are no causal LMs for it. Their text part is
    what is used here.
    """
    is_causal_lm = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if not is_causal_lm and type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def quantize_mode(quantize):
    """What --quantize stands for on this machine: auto is nf4 on a GPU, none on the CPU."""
    if quantize != "auto":
        return quantize
    return "nf4" if torch.cuda.is_available() else "none"
