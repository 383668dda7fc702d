"""Names of models: hub names, model folders and run folders of ours."""

import json
from pathlib import Path

import torch
import torch.distributed
import transformers

from posttrain.cli import BadInput
from posttrain.hashing import digest
from posttrain.run.folder import read_run


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
