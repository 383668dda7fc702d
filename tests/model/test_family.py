"""What a model descends from, and whether it is a reward model."""

import json
import shutil

import pytest
import transformers
from conftest import make_model, make_tokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from posttrain.model.family import family_of, is_classifier, vocabulary_hash
from posttrain.model.load import load_tokenizer
from posttrain.model.names import endpoint_of, is_endpoint


def test_a_vocabulary_is_known_by_its_words_without_those_added(base):
    """Fine-tunes add control tokens; the words and their number stay."""
    first = vocabulary_hash(make_tokenizer())
    assert len(first) == 8 and int(first, 16) >= 0
    more = make_tokenizer()
    more.add_tokens(["<tool_call>"])
    assert vocabulary_hash(more) == first == vocabulary_hash(load_tokenizer(base))
    words = WordLevel({"cat": 0, "cow": 1}, unk_token="cat")
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))
    assert vocabulary_hash(other) != first


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Qwen/Qwen3-0.6B", "qwen"),
        ("meta-llama/Llama-3-8B", "llama"),
        ("meta-llama/Meta-Llama-3-8B", "llama"),
        ("gpt-4o@http://localhost:1", "gpt"),
        ("org/Mistral@http://localhost:1", "mistral"),
        ("", ""),
    ],
)
def test_names_of_models_that_are_elsewhere(name, word):
    assert family_of(name) == word


def test_a_model_behind_a_server():
    assert is_endpoint("m@http://h:1/v1") and is_endpoint("m@https://h/v1")
    assert not is_endpoint("http/m") and not is_endpoint("runs/m")
    assert endpoint_of("org/m@https://h/v1") == ("org/m", "https://h/v1")


def test_a_folder_is_known_by_name_and_vocabulary(base, tmp_path):
    shutil.copytree(base, tmp_path / "Meta-Tiny2-base")
    expected = f"tiny/{vocabulary_hash(make_tokenizer())}"
    assert family_of(str(tmp_path / "Meta-Tiny2-base")) == expected


def test_reward_models(base, tmp_path):
    """Classifiers by their architecture; an adapter by what it says it was trained for."""
    assert not is_classifier(base)
    config = make_model().config
    config.num_labels = 1
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    assert is_classifier(str(tmp_path / "reward"))
    for task, expected in (("SEQ_CLS", True), ("CAUSAL_LM", False), (None, False)):
        folder = tmp_path / str(task)
        folder.mkdir()
        settings = {"base_model_name_or_path": base, "task_type": task}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        assert is_classifier(str(folder)) == expected
