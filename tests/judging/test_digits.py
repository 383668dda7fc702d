"""Scores from the probabilities of the next token."""

import math
import random

import pytest
import torch
import transformers
from conftest import make_model, make_tokenizer, text_of
from judge_samples import TEXT, message, save_judge

from posttrain.cli import BadInput
from posttrain.judging.constitution import read_constitution
from posttrain.judging.digits import (
    choice_ids,
    choice_mass,
    digit_scores,
    first_is_better,
    judge_answers,
    judge_pairs,
)
from posttrain.judging.prompt import Case, judge_ids, pair_ids
from posttrain.packed.reader import teach_lines
from posttrain.packed.trees import tree_logits


@pytest.fixture(scope="module")
def constitution(tmp_path_factory):
    path = tmp_path_factory.mktemp("constitution") / "c.md"
    path.write_text(TEXT)
    return str(path)


def test_tree_logits_equal_one_by_one(tokenizer):
    """Rows that begin alike, in any order, on one line or on several: the logits of each row alone."""
    model, draw = make_model().requires_grad_(False), random.Random(0)
    teach_lines(model)
    texts = [tokenizer(text_of(n, 1 + n % 7), add_special_tokens=False).input_ids for n in range(9)]
    for limit in (4096, 60, 1):
        rows = [
            sum((texts[draw.randrange(9)] for _ in range(draw.randint(1, 4))), [])
            for _ in range(30)
        ]
        rows += [rows[0] + texts[3], rows[0] + texts[3], rows[1][:2], rows[2]]
        found, read = {}, 0
        for numbers, logits, tokens in tree_logits(model, rows, limit):
            found |= dict(zip(numbers, logits))
            read += sum(tokens)
        assert len(found) == len(rows) and all(one.dtype == torch.float32 for one in found.values())
        for number, row in enumerate(rows):
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([row])).logits[0, -1]
            assert torch.allclose(found[number], alone, atol=1e-4), (limit, number)
        if limit == 4096:
            assert read == len({tuple(row[:k]) for row in rows for k in range(1, len(row) + 1)}), (
                "every prefix once"
            )


def lettered(place, content):
    """A stand-in for the judge's forward pass: letter A gets `place` more, the answer "good" gets `content` more."""

    def logits(model, rows):
        out, tokenizer = torch.full((len(rows), 320), -30.0), make_tokenizer()
        a, b = (choice_ids(tokenizer, letter)[0] for letter in "AB")
        for row, ids in enumerate(rows):
            good_first = "good" in tokenizer.decode(ids).split("Answer B")[0]
            out[row, a] = place + content * good_first
            out[row, b] = content * (not good_first)
        yield [*range(len(rows))], out, [len(row) for row in rows]

    return logits


def test_judge_pairs_asks_both_ways(tokenizer, constitution, monkeypatch):
    read, prompt = read_constitution(constitution), [{"role": "user", "content": "x"}]
    pair = Case(prompt, [message("good"), message("bad")], "chat")
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for place, content in ((0.0, 2.0), (1.0, 2.0), (3.0, 1.0), (0.0, -1.0)):
        monkeypatch.setattr("posttrain.judging.digits.tree_logits", lettered(place, content))
        [(p, tokens), (again, _)] = judge_pairs(None, tokenizer, read, [pair, pair])
        assert (
            p
            == again
            == pytest.approx([sigmoid(place + content), sigmoid(content - place)], abs=1e-6)
        )
    prefix, orders, tail = pair_ids(tokenizer, read, pair)
    assert tokens == 2 * len(prefix) + sum(map(len, orders)) + 2 * len(tail)
    monkeypatch.setattr(
        "posttrain.judging.digits.tree_logits",
        lambda model, rows: [([0, 1], torch.zeros(2, 320), [1, 1])],
    )
    assert judge_pairs(None, tokenizer, read, [pair])[0][0] == [None, None]


def test_digit_score_by_hand():
    """Tokens 0-5 are the digits, 6 is " 4", 7 anything else."""
    digits = [[0], [1], [2], [3], [4, 6], [5]]
    p = torch.tensor([0.0, 0.1, 0.0, 0.2, 0.1, 0.1, 0.3, 0.2], dtype=torch.float64)
    got = digit_scores((p + 1e-30).log()[None] + 7.0, digits)[0]
    mean = (0.1 * 1 + 0.2 * 3 + 0.4 * 4 + 0.1 * 5) / 0.8
    variance = (
        0.1 * (1 - mean) ** 2
        + 0.2 * (3 - mean) ** 2
        + 0.4 * (4 - mean) ** 2
        + 0.1 * (5 - mean) ** 2
    ) / 0.8
    assert (
        got == pytest.approx({"score": mean, "sd": math.sqrt(variance), "mass": 0.8}, abs=1e-9)
        and mean == 3.5
    )
    p = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.09, 0.0, 0.0, 0.51], dtype=torch.float64)
    low = digit_scores((p + 1e-30).log()[None], digits)[0]
    assert low["score"] is None and low["sd"] is None and low["mass"] == pytest.approx(0.49)
    assert digit_scores((p + 1e-30).log()[None], digits, min_mass=0.4)[0]["score"] is not None
    assert digit_scores(torch.full((1, 8), math.nan), digits)[0]["score"] is None
    sure = digit_scores(torch.tensor([[60.0] + [0.0] * 7]), digits)[0]
    assert sure == pytest.approx({"score": 0.0, "sd": 0.0, "mass": 1.0}, abs=1e-9)


def test_choice_ids(tokenizer):
    plain = [tokenizer(d, add_special_tokens=False).input_ids for d in "012345"]
    assert choice_ids(tokenizer) == plain

    class Spaced:
        """ " 4" and "4" are single tokens; inside a text a digit is a third one, as in SentencePiece."""

        def __call__(self, text, add_special_tokens):
            digit = int(text.strip(" :"))
            return transformers.BatchEncoding(
                {
                    "input_ids": [20, 30 + digit]
                    if ":" in text
                    else [digit + 10 * text.startswith(" ")]
                }
            )

        def decode(self, ids):
            return " " * (ids[0] // 10 == 1) + str(ids[0] % 10)

    assert choice_ids(Spaced()) == [[d, d + 10, d + 30] for d in range(6)]

    class Pieces(Spaced):
        def decode(self, ids):
            return "x"

    with pytest.raises(BadInput, match="single token"):
        choice_ids(Pieces())


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    return save_judge(tmp_path_factory.mktemp("models") / "judge")


def test_judge_answers(judge_folder, constitution):
    """Scores are those of each answer alone, whoever shares the line; tokens are those that the model reads, once."""
    model, tokenizer = (
        transformers.AutoModelForCausalLM.from_pretrained(judge_folder),
        make_tokenizer(),
    )
    model.requires_grad_(False)
    read, digits = read_constitution(constitution), choice_ids(tokenizer)
    groups = [
        Case(
            [{"role": "user", "content": text_of(3 + g, 5)}],
            [message(text_of(n + g, 1 + 3 * n)) for n in range(4)],
            "math",
        )
        for g in range(5)
    ]
    padded = judge_answers(model, tokenizer, read, groups)  # every row alone
    teach_lines(model)
    told = judge_answers(model, tokenizer, read, groups)
    rows = set()
    for group, (scores, _), (before, _) in zip(groups, told, padded):
        prefix, answers, tails = judge_ids(tokenizer, read, group)
        [(alone, _)] = judge_answers(model, tokenizer, read, [group])
        for ids, score, other, lone in zip(answers, scores, before, alone):
            assert list(score) == ["true", "kind", "safe"]
            for name, tail in tails.items():
                rows.add(tuple(prefix + ids + tail))
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([prefix + ids + tail])).logits[0, -1:]
                assert score[name] == pytest.approx(digit_scores(logits, digits)[0], abs=1e-4)
                assert score[name] == pytest.approx(other[name], abs=1e-4)
                assert (
                    score[name] == pytest.approx(lone[name], abs=1e-5) and score[name]["mass"] > 0.5
                )
        assert len({round(s["kind"]["score"], 3) for s in scores}) == 4
    assert sum(tokens for _, tokens in told) == len(
        {row[:k] for row in rows for k in range(1, len(row) + 1)}
    )
    weak = judge_answers(make_model(), tokenizer, read, groups[:1])[0][0]
    assert all(s["score"] is None and s["mass"] < 0.5 for row in weak for s in row.values()), (
        "it does not answer in digits"
    )
    only = read | {"criteria": read["criteria"][:1]}
    assert judge_answers(model, tokenizer, only, [groups[0]._replace(slice="chat")]) == [
        ([{}] * 4, 0)
    ]


def test_a_mass_of_exactly_one_half_is_an_answer():
    """Two equally likely tokens, of which one is a digit: 0.5 to the last bit; a little less is no answer."""
    digits = [[n] for n in range(6)]
    logits = torch.full((3, 8), -math.inf, dtype=torch.float64)
    logits[:, 4] = 0.0
    logits[:, 7] = torch.tensor([0.0, 1e-9, -1e-9])
    exactly, less, more = digit_scores(logits, digits)
    assert exactly == {"score": 4.0, "sd": 0.0, "mass": 0.5}
    assert less["score"] is less["sd"] is None and less["mass"] < 0.5
    assert more["score"] == 4.0


def test_letters_that_hold_exactly_one_half():
    assert first_is_better(0.375, 0.125) == 0.75
    assert first_is_better(0.375, 0.1249) is None
    assert first_is_better(0.0, 0.0) is None and first_is_better(math.nan, 0.5) is None
    assert first_is_better(0.2, 0.2, min_mass=0.4) == 0.5


def test_probabilities_are_added_in_double_precision():
    """Of a vocabulary of a million tokens, too."""
    mass = choice_mass(torch.zeros(1, 1_000_000), [list(range(300_000)), [5]])
    assert mass.dtype == torch.float64
    assert mass.tolist() == [pytest.approx([0.3, 1e-6], rel=1e-12)]


def test_another_least_mass_is_kept(tokenizer, constitution, monkeypatch):
    """A judge of which less of the probability goes to digits or letters has an answer with it."""
    read = read_constitution(constitution)
    case = Case([{"role": "user", "content": "x"}], [message("good"), message("bad")], "chat")

    def even(model, rows):
        yield [*range(len(rows))], torch.zeros(len(rows), 320), [1] * len(rows)

    monkeypatch.setattr("posttrain.judging.digits.tree_logits", even)
    for least, has in ((0.5, False), (0.001, True)):
        [(scores, _)] = judge_answers(None, tokenizer, read, [case], min_mass=least)
        assert all((score["score"] is not None) == has for one in scores for score in one.values())
        [(first, _)] = judge_pairs(None, tokenizer, read, [case], min_mass=least)
        assert first == ([0.5, 0.5] if has else [None, None])
