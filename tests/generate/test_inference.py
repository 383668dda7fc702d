"""Sampling: greedy as transformers does it, random as softmax(logits / T) says, and each answer for itself alone."""

import itertools

import pytest
import torch
from conftest import make_model, make_tokenizer, text_of
from scipy.stats import chisquare
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from posttrain.chat.encode import encode, prompt_ids
from posttrain.generate.local import generation_batches, padded_ids, sample

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
    return model


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Token lists of clearly different lengths."""
    return [prompt_ids(tokenizer, [{"role": "user", "content": text_of(n, 1 + 3 * n)}]) for n in range(8)]


def first_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double()


def fits(counts, probabilities):
    """p-value of a chi-square test; rare tokens are taken together."""
    total, rare = sum(counts), [5 > sum(counts) * p for p in probabilities]
    expected = [total * p for p, r in zip(probabilities, rare) if not r]
    seen = [c for c, r in zip(counts, rare) if not r]
    return chisquare(seen + [total - sum(seen)], expected + [total - sum(expected)]).pvalue


def test_greedy_equals_generate(ending, two_stops, prompts):
    answers = sample(ending, two_stops, [(ids, [(0.0, 5)]) for ids in prompts], 24)
    ids, attention = padded_ids(prompts, 0, "cpu", left=True)
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": STOPS, "pad_token_id": 0}
    batch = ending.generate(input_ids=ids, attention_mask=attention, **settings)[:, ids.shape[1]:].tolist()
    ends, finishes = set(), set()
    for row, prompt, [answer] in zip(batch, prompts, answers):
        alone = ending.generate(input_ids=torch.tensor([prompt]), **settings)[0, len(prompt):].tolist()
        assert answer["ids"] == alone == row[:len(alone)]
        ends.add(answer["ids"][-1])
        finishes.add(answer["finish"])
    assert ends > set(STOPS) and finishes == {"stop", "length"}, "the example must show every kind of end"


def test_stop_token_is_counted_but_not_in_the_text(ending, two_stops, prompts):
    answers = [a for found in sample(ending, two_stops, [(ids, [(1.0, n) for n in range(40)]) for ids in prompts], 6)
               for a in found]
    for answer in answers:
        assert answer["tokens"] == len(answer["ids"]) <= 6
        inside = answer["ids"][:-1] if answer["finish"] == "stop" else answer["ids"]
        assert not set(inside) & set(STOPS) and answer["text"] == two_stops.decode(inside)
        assert (answer["ids"][-1] in STOPS) == (answer["finish"] == "stop")
        assert answer["finish"] == "stop" or answer["tokens"] == 6
    assert {a["finish"] for a in answers} == {"stop", "length"}
    assert any(a["ids"][-1] in STOPS and len(a["ids"]) == 6 for a in answers), "an answer that stops at the last token"


def test_an_answer_depends_on_its_own_seed_alone(ending, two_stops, prompts):
    """Not on what else is in the batch, nor on order, nor on how many samples its prompt has, nor on rows that end."""
    def draw(jobs):
        found = sample(ending, two_stops, jobs, 16)
        return {(str(ids), seed): a["ids"] for (ids, own), some in zip(jobs, found) for (_, seed), a in zip(own, some)}

    together = draw([(ids, [(1.0, 10 * n + s) for s in range(4)]) for n, ids in enumerate(prompts)])
    turned = draw([(ids, [(1.0, 10 * n + s) for s in (3, 1)]) for n, ids in reversed(list(enumerate(prompts)))])
    alone = {}
    for n, ids in enumerate(prompts[:5]):
        alone |= draw([(ids, [(1.0, 10 * n + 2)])])
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
    found = sample(model, tokenizer, [(prompts[1], [(temperature, seed) for seed in range(4000)])], 1)[0]
    counts = torch.bincount(torch.tensor([a["ids"][0] for a in found]), minlength=320).tolist()
    assert fits(counts, (logits / temperature).softmax(-1).tolist()) > 1e-3
    for other in {0.4, 1.0, 1.7} - {temperature}:
        assert fits(counts, (logits / other).softmax(-1).tolist()) < 1e-9


def test_each_step_draws_anew(model, tokenizer, prompts):
    """The second token, given the first, follows its own distribution: no uniform number is used twice."""
    found = sample(model, tokenizer, [(prompts[2], [(0.8, seed) for seed in range(2500)])], 2)[0]
    first = max({a["ids"][0] for a in found} - set(STOPS), key=[a["ids"][0] for a in found].count)
    seconds = [a["ids"][1] for a in found if a["ids"][0] == first]
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
    seen = []
    hook = ending.model.embed_tokens.register_forward_hook(lambda m, inputs, o: seen.append(tuple(inputs[0].shape)))
    answers = sample(ending, two_stops, [(ids, [(1.0, n) for n in range(6)]) for ids in prompts], 20)
    hook.remove()
    lengths = [a["tokens"] for found in answers for a in found]
    assert seen[0] == (len(prompts), max(map(len, prompts)))
    assert seen[1:] == [(sum(n > step for n in lengths), 1) for step in range(1, max(lengths))]


@pytest.mark.parametrize("slots", [1, 2, 5, 9, 64])
def test_rows_that_wait_change_no_answer(ending, two_stops, prompts, slots):
    """Greedy as transformers alone, drawn as all at once, with any places; one job has more rows than places."""
    jobs = [(ids, [(0.0, 0)] + [(0.7 + s / 4, 10 * n + s) for s in range(2 + 9 * (n == 3))])
            for n, ids in enumerate(prompts)]
    calls = []
    hook = ending.model.embed_tokens.register_forward_hook(lambda m, inputs, o: calls.append(tuple(inputs[0].shape)))
    refilled = sample(ending, two_stops, jobs, 20, slots=slots)
    hook.remove()
    assert refilled == sample(ending, two_stops, jobs, 20)
    for (ids, _), found in zip(jobs, refilled):
        alone = ending.generate(input_ids=torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=STOPS,
                                pad_token_id=0)[0, len(ids):].tolist()
        assert found[0]["ids"] == alone
    assert {a["finish"] for found in refilled for a in found} == {"stop", "length"}
    steps = [shape[0] for shape in calls if shape[1] == 1]
    assert 0 < max(steps) <= slots and (slots > 9 or max(steps) == slots), "places are used, and never more"


def test_waiting_rows_take_the_places_of_those_that_end(ending, two_stops, prompts):
    """While rows wait, few places are empty: filled several at a time, and a prompt is read once for all that start."""
    calls = []
    hook = ending.model.embed_tokens.register_forward_hook(lambda m, inputs, o: calls.append(tuple(inputs[0].shape)))
    found = sample(ending, two_stops, [(ids, [(1.0, 10 * n + s) for s in range(6)]) for n, ids in enumerate(prompts)],
                   20, slots=16)
    hook.remove()
    last = max(n for n, shape in enumerate(calls) if shape[1] > 1)
    busy, reads = [shape[0] for shape in calls[:last] if shape[1] == 1], [shape[0] for shape in calls if shape[1] > 1]
    assert reads[0] == 3 and len(reads) > 3 and sum(busy) > 0.85 * 16 * len(busy)
    assert len(reads) < 48 / 3 and sum(reads) < 8 + len(reads), "several at once; read again where rows split"
    assert len(calls) - len(reads) <= sum(a["tokens"] for some in found for a in some) / (0.85 * 16) + 20, "and a tail"


def test_a_sliding_window_is_not_refilled(tokenizer, prompts):
    """Its cache is cut to the window: rows that wait start when all others have ended, and nothing changes."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.2, eos_token_id=2, pad_token_id=0)).eval()
    bias = torch.zeros(320)
    bias[2] = 4.0
    model.lm_head.register_forward_hook(lambda module, inputs, output: output + bias)
    jobs, reads = [(ids, [(0.0, 0), (1.0, n)]) for n, ids in enumerate(prompts)], []
    hook = model.model.embed_tokens.register_forward_hook(lambda m, inputs, o: reads.append(tuple(inputs[0].shape)))
    found = sample(model, tokenizer, jobs, 12, slots=4)
    hook.remove()
    assert [shape[0] for shape in reads if shape[1] > 1] == [2, 2, 2, 2]
    assert len({a["tokens"] for some in found for a in some}) > 3, "rows end at different times"
    for ids, some in zip(prompts, found):
        alone = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids):].tolist()
        assert some[0]["ids"] == alone
    assert found == sample(model, tokenizer, jobs, 12)


def test_equal_logits_take_the_first(tokenizer, prompts):
    """As argmax does, which transformers uses: in 16 bits ties are common."""
    model = make_model(0)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.clamp(max=0).mul(0))
    found = sample(model, tokenizer, [(ids, [(0.0, 0)]) for ids in prompts], 2)
    assert [answer["ids"] for [answer] in found] == [[0, 0]] * len(prompts)


def test_uniform_numbers_at_the_edge(model, tokenizer, prompts, monkeypatch):
    """Drawing 0 gives the first token with mass, drawing just below 1 never runs out of the vocabulary."""
    for value in (0.0, 1 - 2**-53):
        monkeypatch.setattr(torch, "rand", lambda n, value=value, **_: torch.full((n,), value, dtype=torch.float64))
        token = sample(model, tokenizer, [(prompts[0], [(0.01, 1), (5.0, 2)])], 1)[0]
        assert all(0 <= a["ids"][0] < 320 for a in token)
        for answer, temperature in zip(token, (0.01, 5.0)):
            assert (first_logits(model, prompts[0]).float() / temperature).softmax(-1)[answer["ids"][0]] > 0


def test_batches_hold_every_job_once():
    lengths, rows = [5, 2, 9, 2, 7, 1, 30, 4], [3, 3, 1, 9, 2, 3, 3, 3]
    batches = generation_batches(lengths, rows, 6)
    assert sorted(itertools.chain(*batches)) == list(range(8)) and batches == generation_batches(lengths, rows, 6)
    assert all(len(batch) == 1 or sum(rows[j] for j in batch) <= 6 for batch in batches)
    order = [lengths[j] for batch in batches for j in batch]
    assert order == sorted(order) and [3] in batches, "similar lengths together; a job too big for a batch gets its own"
    assert generation_batches([], [], 4) == []


def test_training_reads_the_text_that_generation_continues():
    """Where a token would cross the seam of an earlier turn, the line break after that turn must not get lost."""
    joined = Tokenizer(models.BPE(vocab={"a": 0, ":": 1, "\n": 2, "\n\n": 3, "b": 4, "$": 5}, merges=[("\n", "\n")]))
    joined.pre_tokenizer = pre_tokenizers.Split("$", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=joined, eos_token="$")
    tokenizer.chat_template = ("{% for m in messages %}{{ 'a:\n' + m['content'] }}{{ '$\n' if m['role'] == 'assistant' "
                               "else '' }}{% endfor %}{% if add_generation_prompt %}{{ 'a:\n' }}{% endif %}")
    said = [{"role": "user", "content": "b"}, {"role": "assistant", "content": "\nb"}, {"role": "user", "content": "b"}]
    row = encode(tokenizer, said, [{"role": "assistant", "content": "\nb"}], all_turns=True)
    assert "".join(tokenizer.convert_ids_to_tokens(row["ids"])) == "a:\nba:\n\nb$\na:\nba:\n\nb$"
    assert [n for n, m in enumerate(row["mask"]) if m] == [7, 8, 9, 18, 19, 20]
