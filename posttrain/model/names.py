"""Names of models: hub names, model folders, run folders of ours, models behind a server."""

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers.utils.hub import cached_file, extract_commit_hash

from posttrain.cli import BadInput
from posttrain.hashing import digest
from posttrain.run.folder import read_run
from posttrain.run.lineage import start_folder

NO_WRITERS = ("SequenceClassification", "MaskedLM")  # in the names of classes of a config
UNPACKED = "mxfp4, unpacked"  # gpt-oss: 4 bits that nothing can be trained through


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
    if looks_like_path(name) and not path.exists():
        raise BadInput(f"{name}: no such folder")
    return name, None


def looks_like_path(name):
    """Was this meant as a path? A hub name has one slash at most."""
    return name.count("/") > 1 or name.startswith((".", "/", "runs/", "data/"))


# ---- the base of a run folder --------------------------------------------------------------------


def base_record(name):
    """What run.json keeps of the base that a model begins from, so that it is found again.

    {"name", "path": where it lies, "digest": of config and weights, "commit"}. A model of the hub
    has no path and no digest; its name is enough anywhere.
    """
    base, _ = resolve_model(name)
    record = {"name": base, "path": None, "digest": None, "commit": None}
    if Path(base).exists():
        record["path"] = str(Path(base).resolve())
        record["digest"] = weights_digest(base)
    else:
        record["commit"] = commit_of(base)
    return record


def commit_of(base):
    """The commit at which a hub model lies in the cache; None for a folder."""
    if Path(base).exists():
        return None
    try:
        return extract_commit_hash(cached_file(base, "config.json"), None)
    except OSError:  # neither in the cache nor to be had
        return None


def base_of_adapter(folder, name):
    """The base model that a folder's adapter was made for.

    BadInput when the folder is damaged, or when the base is not found or has changed.
    """
    if not (folder / "adapter_model.safetensors").exists():
        raise BadInput(f"{name}: adapter_model.safetensors is missing")
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        written = config["base_model_name_or_path"]
        if not isinstance(written, str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{name}: adapter_config.json is broken or names no base model") from None

    record = read_run(folder / "run.json")
    # The folder where the run was started, as far as its record tells: by its path as it is
    # written, and without links (runs/ may be one to another disk).
    starts = [Path()]
    if record:
        for place in (folder.absolute() / "run.json", (folder / "run.json").resolve()):
            starts.append(start_folder(str(place), record["path"], Path()))
    if "base" in record:
        return find_base(folder, name, record["base"], starts)
    return base_as_written(name, written, starts[-1])


def find_base(folder, name, base, starts):
    """Where the base of a run lies now. base: what its record says of it (base_record).

    starts: folders to which its name may be relative.

    A folder of the same name may be another model: config and weights must be those of the
    training. BadInput names the places that were looked at.
    """
    if base["path"] is None:  # a model of the hub
        if Path(base["name"]).exists():
            raise BadInput(
                f"{name}: its base model is {base['name']} of the hub, but a folder of that name "
                "lies here: start from another directory"
            )
        warn_of_commit(name, base)
        return base["name"]

    beside = folder.resolve().parent / Path(base["name"]).name
    places = {}  # in full: as it is written; each place once
    relative = [start / base["name"] for start in starts]
    for place in (*relative, Path(base["path"]), beside):
        places.setdefault(place.resolve(), place)
    reasons = []
    for place in places.values():
        if not (place / "config.json").exists():
            reasons.append(f"{place} (no model there)")
        elif weights_digest(place) == base["digest"]:
            return str(place)
        else:
            reasons.append(f"{place} (another model, or changed since training)")
    raise BadInput(
        f"{name}: its base model is not found as it was in training; looked at "
        f"{', '.join(reasons)}: put it back into one of these places"
    )


def warn_of_commit(name, base):
    """A warning when the base of a run, a hub model, is at another commit than in training."""
    then, now = base["commit"], commit_of(base["name"])
    if then and now and now != then:
        print_once(
            f"WARNING  {name}: its base model was at commit {then} in training and is at {now}: if "
            "its weights have changed, the adapter does not fit them"
        )


@cache
def print_once(line):
    """Print a line that would come up again and again."""
    print(line)


def base_as_written(name, written, start):
    """The base of an adapter without a record of it: an older run's, or made elsewhere.

    BadInput for a path that does not exist: the hub must not be asked for it.
    """
    if Path(written).exists():
        return written
    if (start / written).exists():
        return str(start / written)
    first = start / Path(written).parts[0]
    was_a_path = start != Path() and "/" in written and first.is_dir()
    if looks_like_path(written) or was_a_path:
        raise BadInput(
            f"{name}: its base model {written!r} is a folder that is not there (a relative path is "
            "that of the directory where training ran): start from there, or write the full path "
            "into adapter_config.json"
        )
    return written


def weights_digest(folder):
    """Hash of what an adapter adds to: config.json and the weights of a model folder.

    Its tokenizer may be mended, or something be put beside it, and it is still the same base.
    """
    files = []
    for file in sorted(Path(folder).iterdir()):
        if file.name == "config.json" or is_weights(file):
            stat = file.stat()
            files.append((str(file.resolve()), file.name, stat.st_size, stat.st_mtime_ns))
    return digest_of_files(tuple(files))


def is_weights(file):
    """Is this a file of a model's weights? A trainer's own (training_args.bin) is none."""
    return file.suffix == ".safetensors" or file.name.startswith("pytorch_model")


@cache
def digest_of_files(files):
    """Hash of files, computed once. files: (path, name, bytes, time of the last change) of each."""
    hashes = []
    for path, name, _, _ in files:
        hashes.append(f"{name} {config_digest(path) if name == 'config.json' else digest(path)}")
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def config_digest(path):
    """Hash of a config without the version of the library that has written it."""
    config = json.loads(Path(path).read_text())
    config.pop("transformers_version", None)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


# ---- what a model's numbers depend on ------------------------------------------------------------


def fingerprint(name, quantize):
    """A text that changes with whatever the log-probabilities of a model depend on.

    These are the weights of base and adapter, the number format, the device and the libraries. It
    is the key under which reference log-probabilities are kept.
    """
    base, adapter = resolve_model(name)
    # digest() reads the files of a model folder; a hub name stands for itself, so add its commit.
    marks = [digest(base), str(commit_of(base))]
    if adapter:
        marks.append(digest(Path(adapter) / "adapter_model.safetensors"))
        marks.append(digest(Path(adapter) / "adapter_config.json"))
    marks.append(quantize_mode(quantize, read_config(base)))
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
    what is used here. BadInput for encoders with or without a decoder, and for reward models.
    """
    kind = type(config)
    classes = config.architectures or []
    writes = not any(word in name for name in classes for word in NO_WRITERS)
    if writes and not config.is_encoder_decoder:
        if kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            return transformers.AutoModelForCausalLM
        if kind in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return transformers.AutoModelForImageTextToText
    what = ", ".join(classes) or config.model_type
    raise BadInput(
        f"{config.name_or_path or kind.__name__}: {what} is no causal language model, one that "
        "writes a text token by token"
    )


def quantised_already(config):
    """How a base model's weights are quantised ("bitsandbytes nf4", "gptq" ...); None: not at all.

    config: of the base model.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        text_config = getattr(config, "text_config", None)
        settings = getattr(text_config, "quantization_config", None)
    if settings is None:
        return None
    if not isinstance(settings, dict):
        settings = settings.to_dict()
    if settings.get("load_in_4bit"):
        return f"bitsandbytes {settings.get('bnb_4bit_quant_type', 'fp4')}"
    if settings.get("load_in_8bit"):
        return "bitsandbytes int8"
    method = settings.get("quant_method", "an unknown method")
    return str(getattr(method, "value", method))


def quantize_mode(quantize, config):
    """What --quantize stands for on this machine and for this base model.

    auto is nf4 on a GPU, none on the CPU. Weights that are quantised already stay as they are,
    whatever the machine: then it is their method. mxfp4 is unpacked. BadInput for an explicit nf4
    of such weights.
    """
    method = quantised_already(config)
    if method and quantize == "nf4":
        raise BadInput(
            f"--quantize nf4: {config.name_or_path} is quantised already ({method}): leave "
            "--quantize out, or take the base with plain weights"
        )
    if method:
        return UNPACKED if method == "mxfp4" else method
    if quantize != "auto":
        return quantize
    return "nf4" if torch.cuda.is_available() else "none"
