"""What a model has read: by its cache, or whole for every token; and which of the two is taken."""

import random
from types import SimpleNamespace

import pytest
import torch
import transformers
from architectures import tiny
from conftest import make_model
from transformers import DynamicLayer
from transformers.cache_utils import DynamicSlidingWindowLayer

from posttrain.generate.reading import (
    CachedText,
    WholeText,
    is_plain,
    padded_ids,
    reading_of,
    trial_of_cache,
)

LENGTHS = (3, 17, 9)


@pytest.fixture(scope="module")
def prompts():
    rng = random.Random(0)
    return [[rng.randrange(3, 300) for _ in range(length)] for length in LENGTHS]


def falcon_h1():
    """Layers with attention and a state side by side: rows of both must move together."""
    return tiny("falcon_h1")


def logits_by(reading, prompts):
    """What is said of five rows of three prompts, of three of them a token later, of two after."""
    first = reading.admit(prompts, [0, 0, 1, 2, 2])
    reading.keep_rows([0, 3, 2])
    second = reading.read(torch.tensor([5, 6, 7]))
    reading.keep_rows([2, 1])
    third = reading.read(torch.tensor([8, 9]))
    return torch.cat([first, second, third])


@torch.no_grad()
def logits_alone(model, prompts):
    """The same from each text by itself, in one call of the model."""
    short, long, middle = prompts
    texts = [short, short, long, middle, middle]
    texts += [[*short, 5], [*middle, 6], [*long, 7]]
    texts += [[*long, 7, 8], [*middle, 6, 9]]
    return torch.stack([model(torch.tensor([text])).logits[0, -1] for text in texts])


@pytest.mark.parametrize("make", [make_model, falcon_h1])
@pytest.mark.parametrize("kind", [CachedText, WholeText])
def test_both_ways_say_what_the_model_says_of_the_whole_texts(make, kind, prompts):
    model = make()
    with torch.no_grad():
        logits = logits_by(kind(model, pad_id=0), prompts)
    assert torch.allclose(logits, logits_alone(model, prompts), atol=1e-4)


def test_a_cache_is_read(capsys):
    """By the models that have one; nothing is said of it."""
    for model in (make_model(), falcon_h1()):
        assert trial_of_cache(model) is None
        assert reading_of(model) is CachedText
    assert capsys.readouterr().out == ""


def test_states_follow_their_rows(prompts):
    """transformers' batch_select_indices moves keys and values of such a layer, not its state."""
    model = falcon_h1()
    with torch.no_grad():
        reading = CachedText(model, pad_id=0)
        reading.admit(prompts, [0, 1, 2])
        reading.keep_rows([2])
        logits = reading.read(torch.tensor([6]))
        alone = model(torch.tensor([[*prompts[2], 6]])).logits[:, -1]
    assert torch.allclose(logits, alone, atol=1e-4)


def test_a_cache_that_is_wrong_is_not_used(prompts, capsys, monkeypatch):
    """Keys of other rows: the trial finds it out, and answers stay those of the whole texts."""
    model = make_model()
    select = "posttrain.generate.reading.select_rows"
    monkeypatch.setattr(select, lambda cache, rows: cache.batch_select_indices([0] * len(rows)))
    assert reading_of(model) is WholeText
    line = capsys.readouterr().out
    assert "read anew for every token" in line and "would be others" in line
    with torch.no_grad():
        logits = logits_by(reading_of(model)(model, pad_id=0), prompts)
    assert torch.allclose(logits, logits_alone(model, prompts), atol=1e-4)
    assert capsys.readouterr().out == "", "it is tried and said once"


def test_a_model_without_a_cache_is_read_whole(capsys):
    torch.manual_seed(0)
    config = transformers.RwkvConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2)
    model = transformers.RwkvForCausalLM(config).eval()
    assert reading_of(model) is WholeText
    assert "it has no cache that we know" in capsys.readouterr().out


def test_rows_read_whole_are_the_rows_of_a_cache(prompts):
    """Rows come and go alike, and rows may join those that are there."""
    model = make_model()
    results = []
    for kind in (CachedText, WholeText):
        reading = kind(model, pad_id=0)
        with torch.no_grad():
            logits = [logits_by(reading, prompts)]
            logits.append(reading.admit(prompts[:1], [0, 0]))
            reading.keep_rows([0, 3, 2])
            logits.append(reading.read(torch.tensor([3, 4, 5])))
        results.append(torch.cat(logits))
    assert torch.allclose(*results, atol=1e-4)
    assert reading.can_grow


def test_half_precision_is_no_reason(capsys):
    """Rounding is larger there, and depends on the batch."""
    assert reading_of(falcon_h1().bfloat16()) is CachedText
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("left", [True, False])
def test_padded_ids(left):
    ids, attention = padded_ids([[5], [6, 7]], 9, "cpu", left=left)
    assert ids.tolist() == [[9, 5] if left else [5, 9], [6, 7]]
    assert attention.tolist() == [[0, 1] if left else [1, 0], [1, 1]]


def test_a_cache_without_keys_and_values_of_every_token_does_not_grow():
    """A layer that borrows those of another stays empty; a window forgets."""
    kept, empty, window = DynamicLayer(), DynamicLayer(), DynamicSlidingWindowLayer(4)
    for layer in (kept, window):
        layer.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    assert is_plain(SimpleNamespace(layers=[kept, kept]))
    for other in (empty, window):
        assert not is_plain(SimpleNamespace(layers=[kept, other]))
