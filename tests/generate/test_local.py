"""Sampling: greedy as transformers does it, random as softmax(logits / temperature) says.

And each answer for itself alone, whatever rows are beside it.
"""

import contextlib
import itertools

import pytest
import torch
from conftest import make_model, make_tokenizer, text_of
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from posttrain.chat.encode import encode_all_turns, prompt_ids
from posttrain.generate import local
from posttrain.generate.local import (
    Row,
    generation_batches,
    next_tokens,
    rows_that_stay,
    sample,
)
from posttrain.generate.reading import padded_ids, reading_of

STOPS = [2, 1]  # <|im_end|> closes the turn, <|im_start|> stands for an eos of its own


@pytest.fixture(scope="module")
def two_stops():
    """A tokenizer whose template ends turns in one token and whose eos is another."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|im_start|>"
    return tokenizer


@pytest.fixture(scope="module")
def ending():
    """The tiny model, made to end its answers now and then: both stop tokens get likelier."""
    model = make_model(0)
    bias = torch.zeros(320)
    bias[1], bias[2] = 1.2, 1.2
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    reading_of(model)  # tried now, so that no test counts these calls
    return model


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Token lists of clearly different lengths."""
    return [
        prompt_ids(tokenizer, [{"role": "user", "content": text_of(n, 1 + 3 * n)}])
        for n in range(8)
    ]


@contextlib.contextmanager
def calls_of(decoder):
    """A list that fills with (rows, columns) of each call of the decoder's model."""
    calls = []
    hook = decoder.embed_tokens.register_forward_hook(
        lambda module, inputs, output: calls.append(tuple(inputs[0].shape))
    )
    try:
        yield calls
    finally:
        hook.remove()


def greedy_alone(model, ids, max_tokens, **settings):
    """The answer of transformers' own generate to one prompt."""
    out = model.generate(
        input_ids=torch.tensor([ids]), max_new_tokens=max_tokens, do_sample=False, **settings
    )
    return out[0, len(ids) :].tolist()


def first_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double()


def fits(counts, probabilities):
    """p-value of a chi-square test; rare tokens are taken together."""
    total = sum(counts)
    rare = [total * p < 5 for p in probabilities]
    expected = [total * p for p, r in zip(probabilities, rare) if not r]
    seen = [c for c, r in zip(counts, rare) if not r]
    return chisquare(seen + [total - sum(seen)], expected + [total - sum(expected)]).pvalue


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.25 - 1e-12, 0), (0.25, 1), (1 - 1e-12, 3)]
)
def test_which_token_a_number_falls_into(uniform, token):
    """Four words that are as likely as each other, a quarter each; the last of them, too."""
    row = Row(0, 1.0, [uniform])
    assert next_tokens([row], torch.zeros(1, 4)).tolist() == [token]


def test_greedy_equals_generate(ending, two_stops, prompts):
    answers = sample(ending, two_stops, [(ids, [(0.0, 5)]) for ids in prompts], 24)
    ids, attention = padded_ids(prompts, 0, "cpu", left=True)
    settings = {"eos_token_id": STOPS, "pad_token_id": 0}
    batch = ending.generate(
        input_ids=ids, attention_mask=attention, max_new_tokens=24, do_sample=False, **settings
    )
    ends = set()
    finishes = set()
    for row, prompt, [answer] in zip(batch[:, ids.shape[1] :].tolist(), prompts, answers):
        alone = greedy_alone(ending, prompt, 24, **settings)
        assert answer["ids"] == alone == row[: len(alone)]
        ends.add(answer["ids"][-1])
        finishes.add(answer["finish"])
    assert ends > set(STOPS), "the example must show every kind of end"
    assert finishes == {"stop", "length"}


def test_stop_token_is_counted_but_not_in_the_text(ending, two_stops, prompts):
    jobs = [(ids, [(1.0, n) for n in range(40)]) for ids in prompts]
    answers = list(itertools.chain(*sample(ending, two_stops, jobs, 6)))
    for answer in answers:
        assert answer["tokens"] == len(answer["ids"]) <= 6
        inside = answer["ids"][:-1] if answer["finish"] == "stop" else answer["ids"]
        assert not set(inside) & set(STOPS) and answer["text"] == two_stops.decode(inside)
        assert (answer["ids"][-1] in STOPS) == (answer["finish"] == "stop")
        assert answer["finish"] == "stop" or answer["tokens"] == 6
    assert {a["finish"] for a in answers} == {"stop", "length"}
    assert any(a["ids"][-1] in STOPS and len(a["ids"]) == 6 for a in answers), (
        "an answer that stops at the last token"
    )


def test_an_answer_depends_on_its_own_seed_alone(ending, two_stops, prompts):
    """Not on the other rows of the batch, nor on those that end, nor on order, nor on how many
    samples its prompt has.
    """

    def draw(jobs):
        drawn = {}
        for (ids, samples), answers in zip(jobs, sample(ending, two_stops, jobs, 16)):
            for (_, seed), answer in zip(samples, answers):
                drawn[str(ids), seed] = answer["ids"]
        return drawn

    def job(n, *numbers):
        return prompts[n], [(1.0, 10 * n + number) for number in numbers]

    together = draw([job(n, 0, 1, 2, 3) for n in range(8)])
    turned = draw([job(n, 3, 1) for n in reversed(range(8))])
    alone = {}
    for n in range(5):
        alone |= draw([job(n, 2)])
    assert len(together) == 32 and len({len(ids) for ids in together.values()}) > 5
    for other in (turned, alone):
        assert all(together[key] == ids for key, ids in other.items())
    assert len(set(map(str, together.values()))) > 28, "seeds make a difference"


def test_seed_decides(model, tokenizer, prompts):
    def draw(seed):
        return sample(model, tokenizer, [(prompts[0], [(1.0, seed)])], 12)[0][0]["ids"]

    assert draw(7) == draw(7) != draw(8)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7])
def test_temperature_is_that_of_the_softmax(model, tokenizer, prompts, temperature):
    logits = first_logits(model, prompts[1])
    jobs = [(prompts[1], [(temperature, seed) for seed in range(4000)])]
    [answers] = sample(model, tokenizer, jobs, 1)
    tokens = torch.tensor([a["ids"][0] for a in answers])
    counts = torch.bincount(tokens, minlength=320).tolist()
    assert fits(counts, (logits / temperature).softmax(-1).tolist()) > 1e-3
    for other in {0.4, 1.0, 1.7} - {temperature}:
        assert fits(counts, (logits / other).softmax(-1).tolist()) < 1e-9


def test_each_step_draws_anew(model, tokenizer, prompts):
    """The second token, given the first, follows its own distribution: each uniform number is used
    once.
    """
    jobs = [(prompts[2], [(0.8, seed) for seed in range(2500)])]
    [answers] = sample(model, tokenizer, jobs, 2)
    firsts = [a["ids"][0] for a in answers]
    first = max(set(firsts) - set(STOPS), key=firsts.count)
    seconds = [a["ids"][1] for a in answers if a["ids"][0] == first]
    assert len(seconds) > 100
    probabilities = (first_logits(model, prompts[2] + [first]) / 0.8).softmax(-1).tolist()
    assert fits(torch.bincount(torch.tensor(seconds), minlength=320).tolist(), probabilities) > 1e-3


def test_greedy_and_warm_rows_share_a_batch(ending, two_stops, prompts):
    both = sample(ending, two_stops, [(ids, [(0.0, 1), (1.3, 2), (0.0, 3)]) for ids in prompts], 12)
    greedy = sample(ending, two_stops, [(ids, [(0.0, 9)]) for ids in prompts], 12)
    warm = sample(ending, two_stops, [(ids, [(1.3, 2)]) for ids in prompts], 12)
    for three, [cold], [hot] in zip(both, greedy, warm):
        assert three[0]["ids"] == three[2]["ids"] == cold["ids"] and three[1]["ids"] == hot["ids"]
    assert any(three[0]["ids"] != three[1]["ids"] for three in both)


def test_finished_rows_leave_the_batch(ending, two_stops, prompts):
    """A prompt is read once for its samples, and a row costs nothing after its end."""
    jobs = [(ids, [(1.0, n) for n in range(6)]) for ids in prompts]
    with calls_of(ending.model) as calls:
        answers = sample(ending, two_stops, jobs, 20)
    lengths = [a["tokens"] for a in itertools.chain(*answers)]
    assert calls[0] == (len(prompts), max(map(len, prompts)))
    assert calls[1:] == [(sum(n > step for n in lengths), 1) for step in range(1, max(lengths))]


@pytest.mark.parametrize("slots", [1, 2, 5, 9, 64])
def test_rows_that_wait_change_no_answer(ending, two_stops, prompts, slots):
    """Greedy as transformers alone, drawn as all at once, with any number of places."""
    jobs = []
    for n, ids in enumerate(prompts):
        count = 11 if n == 3 else 2  # one job has more rows than places
        warm = [(0.7 + s / 4, 10 * n + s) for s in range(count)]
        jobs.append((ids, [(0.0, 0), *warm]))
    with calls_of(ending.model) as calls:
        refilled = sample(ending, two_stops, jobs, 20, slots=slots)
    assert refilled == sample(ending, two_stops, jobs, 20)
    for ids, answers in zip(prompts, refilled):
        alone = greedy_alone(ending, ids, 20, eos_token_id=STOPS, pad_token_id=0)
        assert answers[0]["ids"] == alone
    assert {a["finish"] for a in itertools.chain(*refilled)} == {"stop", "length"}
    steps = [rows for rows, columns in calls if columns == 1]
    assert 0 < max(steps) <= slots, "never more than there are places"
    assert slots > 9 or max(steps) == slots, "places are used"


def test_waiting_rows_take_the_places_of_those_that_end(ending, two_stops, prompts):
    """While rows wait, few places are empty: they are filled several at a time, and a prompt is
    read once for all rows that start.
    """
    jobs = [(ids, [(1.0, 10 * n + s) for s in range(6)]) for n, ids in enumerate(prompts)]
    with calls_of(ending.model) as calls:
        answers = sample(ending, two_stops, jobs, 20, slots=16)
    last_read = max(n for n, (_, columns) in enumerate(calls) if columns > 1)
    busy = [rows for rows, columns in calls[:last_read] if columns == 1]
    reads = [rows for rows, columns in calls if columns > 1]
    assert reads[0] == 3 and len(reads) > 3 and sum(busy) > 0.85 * 16 * len(busy)
    assert len(reads) < 48 / 3, "several at once"
    assert sum(reads) < 8 + len(reads), "read again where rows of one prompt start apart"
    tokens = sum(a["tokens"] for a in itertools.chain(*answers))
    assert len(calls) - len(reads) <= tokens / (0.85 * 16) + 20, "and a tail"


def test_a_sliding_window_is_not_refilled(tokenizer, prompts):
    """Its cache is cut to the window: rows that wait start when all others have ended, and no
    answer changes.
    """
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.2,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = MistralForCausalLM(config).eval()
    bias = torch.zeros(320)
    bias[2] = 4.0
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    jobs = [(ids, [(0.0, 0), (1.0, n)]) for n, ids in enumerate(prompts)]
    reading_of(model)
    with calls_of(model.model) as calls:
        answers = sample(model, tokenizer, jobs, 12, slots=4)
    assert [rows for rows, columns in calls if columns > 1] == [2, 2, 2, 2]
    lengths = {a["tokens"] for a in itertools.chain(*answers)}
    assert len(lengths) > 3, "rows end at different times"
    for ids, (greedy, _) in zip(prompts, answers):
        assert greedy["ids"] == greedy_alone(model, ids, 12)
    assert answers == sample(model, tokenizer, jobs, 12)


def test_equal_logits_take_the_first(tokenizer, prompts):
    """As argmax does, which transformers uses: in 16 bits ties are common."""
    model = make_model(0)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.clamp(max=0).mul(0))
    answers = sample(model, tokenizer, [(ids, [(0.0, 0)]) for ids in prompts], 2)
    assert [answer["ids"] for [answer] in answers] == [[0, 0]] * len(prompts)


@pytest.mark.parametrize("value", [0.0, 1 - 2**-53])
def test_uniform_numbers_at_the_edge(model, tokenizer, prompts, monkeypatch, value):
    """Drawing 0 gives the first token with mass, drawing just below 1 stays in the vocabulary."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), value, dtype=torch.float64))
    [answers] = sample(model, tokenizer, [(prompts[0], [(0.01, 1), (5.0, 2)])], 1)
    for answer, temperature in zip(answers, (0.01, 5.0)):
        [token] = answer["ids"]
        assert 0 <= token < 320
        logits = first_logits(model, prompts[0]).float()
        assert (logits / temperature).softmax(-1)[token] > 0


@pytest.mark.parametrize(
    ("count", "ended", "expected"),
    [
        (5, {4}, [0, 1, 2, 3]),
        (5, {1}, [0, 4, 2, 3]),
        (6, {0, 2}, [5, 1, 4, 3]),
        (6, {0, 2, 5}, [4, 1, 3]),
        (3, {0, 1, 2}, []),
    ],
)
def test_rows_that_stay(count, ended, expected):
    """The last row takes the first place that is free; all others stay where they are."""
    assert rows_that_stay(count, ended) == expected


def test_numbers_of_16_bits_are_widened_before_a_draw(two_stops, prompts, monkeypatch):
    """Else the probabilities of a large vocabulary would be rounded to a few steps."""
    seen = []

    def note(rows, logits):
        seen.append(logits.dtype)
        return next_tokens(rows, logits)

    monkeypatch.setattr(local, "next_tokens", note)
    sample(make_model().bfloat16(), two_stops, [(prompts[0], [(1.0, n) for n in range(3)])], 3)
    assert len(seen) > 1 and set(seen) == {torch.float32}


def test_a_model_saved_without_a_cache_gets_one(model, tokenizer, prompts):
    """As trainers that save memory leave it behind in the model's configuration."""
    saved = make_model(0)
    saved.config.use_cache = False
    jobs = [(ids, [(0.0, 0), (1.0, 1)]) for ids in prompts[:3]]
    assert sample(saved, tokenizer, jobs, 5) == sample(model, tokenizer, jobs, 5)


def test_batches_are_full():
    assert generation_batches([1, 1, 1, 1], [3, 3, 1, 5], 6) == [[0, 1], [2, 3]]


def test_batches_hold_every_job_once():
    lengths = [5, 2, 9, 2, 7, 1, 30, 4]
    rows = [3, 3, 1, 9, 2, 3, 3, 3]
    batches = generation_batches(lengths, rows, 6)
    assert sorted(itertools.chain(*batches)) == list(range(8))
    assert batches == generation_batches(lengths, rows, 6)
    assert all(len(batch) == 1 or sum(rows[j] for j in batch) <= 6 for batch in batches)
    order = [lengths[j] for j in itertools.chain(*batches)]
    assert order == sorted(order), "similar lengths together"
    assert [3] in batches, "a job too big for a batch gets its own"
    assert generation_batches([], [], 4) == []


def test_training_reads_the_text_that_generation_continues():
    """Where a token would cross the seam of an earlier turn, the line break behind that turn must
    not get lost.
    """
    vocab = {"a": 0, ":": 1, "\n": 2, "\n\n": 3, "b": 4, "$": 5}
    joined = Tokenizer(models.BPE(vocab=vocab, merges=[("\n", "\n")]))
    joined.pre_tokenizer = pre_tokenizers.Split("$", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=joined, eos_token="$")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'a:\n' + m['content'] }}{{ '$\n' if m['role'] == 'assistant' "
        "else '' }}{% endfor %}{% if add_generation_prompt %}{{ 'a:\n' }}{% endif %}"
    )
    messages = [
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "\nb"},
        {"role": "user", "content": "b"},
    ]
    [row] = encode_all_turns(tokenizer, [*messages, {"role": "assistant", "content": "\nb"}])
    assert "".join(tokenizer.convert_ids_to_tokens(row["ids"])) == "a:\nba:\n\nb$\na:\nba:\n\nb$"
    assert [n for n, m in enumerate(row["mask"]) if m] == [7, 8, 9, 18, 19, 20]
