"""What a model descends from, and what kind it is."""

import hashlib
import json
import re
from pathlib import Path

from posttrain.model.load import load_tokenizer
from posttrain.model.names import read_config, resolve_model


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
