"""What a model descends from, and what kind it is."""

import hashlib
import json
import re
from pathlib import Path

from posttrain.model.load import load_tokenizer
from posttrain.model.names import endpoint_of, read_config, resolve_model


def is_classifier(name):
    """Is this a reward model: a sequence classifier, or an adapter that makes one?"""
    base, adapter = resolve_model(name)
    if adapter:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text())
        return config.get("task_type") == "SEQ_CLS"
    architectures = read_config(base).architectures or []
    return any("SequenceClassification" in architecture for architecture in architectures)


def family_of(name):
    """What a model descends from, as "word/hash".

    The word is the first of its base's name, the hash that of its vocabulary, which fine-tunes
    keep. A model behind an endpoint (NAME@URL), or one that is not on this machine, has the word
    alone.
    """
    is_here = bool(name) and Path(name).exists()
    if is_here:
        base, _ = resolve_model(name)
    else:
        base, _ = endpoint_of(name)
    word = re.match(r"(?:meta-)?([a-z]*)", Path(base).name.lower())[1]
    if not is_here:
        return word
    return f"{word}/{vocabulary_hash(load_tokenizer(name))}"


def vocabulary_hash(tokenizer):
    """Eight hex digits of a vocabulary, without the tokens that were added to it."""
    words = sorted(tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys())
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]


def related(family, other):
    """Are two families the same? By vocabulary where both are known, else by name.

    Two families without a name are not.
    """
    word, _, vocabulary = family.partition("/")
    other_word, _, other_vocabulary = other.partition("/")
    if vocabulary and other_vocabulary:
        return vocabulary == other_vocabulary
    return word != "" and word == other_word
