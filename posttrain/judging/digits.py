"""A local judge's scores, from the probabilities of its next token.

The judge is asked for a digit and writes none: of all tokens that read as 0 to 5 the probabilities
are taken, and the score is the expected digit. So one reading gives a score, its spread, and how
much of the probability went to digits at all (the mass). A judge whose mass is low did not answer:
it gives None, never 0 and never a tie.
"""

import torch

from posttrain.cli import BadInput
from posttrain.judging.prompt import judge_ids, pair_ids, trusted_ids
from posttrain.model.load import load_model
from posttrain.packed.reader import teach_lines
from posttrain.packed.trees import tree_logits

DIGITS = "012345"
MIN_MASS = 0.5  # of the next token's probability: with less of it on the choices, no answer


def load_judge(name, quantize="auto"):
    """The model of a judge, taught to read what its prompts share once."""
    model = load_model(name, quantize)
    teach_lines(model)
    return model


# ---- probabilities -> numbers --------------------------------------------------------------------


def choice_ids(tokenizer, choices=DIGITS):
    """[[ids of the tokens that read as the choice], ...] for each character of choices.

    Such a token is the bare character, with a leading space, or as it stands inside a text.
    BadInput when a choice has no single token.
    """
    ids = []
    for choice in choices:
        ways = [
            trusted_ids(tokenizer, choice),
            trusted_ids(tokenizer, " " + choice),
            trusted_ids(tokenizer, ":" + choice)[-1:],  # SentencePiece: another one inside a text
        ]
        singles = [way for way in ways if len(way) == 1 and tokenizer.decode(way).strip() == choice]
        ids.append(sorted({way[0] for way in singles}))
    if not all(ids):
        raise BadInput(
            f"this judge's tokenizer has no single token for each of {choices}; take another or an "
            "endpoint"
        )
    return ids


def choice_mass(logits, choices):
    """The probability of each choice, from next-token logits [n, V] -> [n, choices] float64."""
    probabilities = logits.double().softmax(-1)
    return torch.stack([probabilities[:, ids].sum(-1) for ids in choices], 1)


def digit_scores(logits, digits, min_mass=MIN_MASS):
    """[{"score", "sd", "mass"}, ...] from next-token logits [n, V].

    digits: see choice_ids. score: the expected digit; sd: its standard deviation; mass: the
    probability of all digits. Below min_mass score and sd are None.
    """
    p = choice_mass(logits, digits)  # [n, 6]
    values = torch.arange(len(digits), dtype=torch.float64, device=p.device)
    mass = p.sum(1)
    mean = (p * values).sum(1) / mass
    sd = ((p * (values - mean[:, None]) ** 2).sum(1) / mass).sqrt()
    scores = []
    for row_mean, row_sd, row_mass in torch.stack([mean, sd, mass], 1).tolist():
        if row_mass >= min_mass:
            scores.append({"score": row_mean, "sd": row_sd, "mass": row_mass})
        else:  # too little, or not a number
            scores.append({"score": None, "sd": None, "mass": row_mass})
    return scores


def first_is_better(p_a, p_b, min_mass=MIN_MASS):
    """P(A is better) from the probabilities of the letters; None when they hold too little."""
    mass = p_a + p_b
    return p_a / mass if mass >= min_mass else None


# ---- a local model reads -------------------------------------------------------------------------


def judge_answers(model, tokenizer, constitution, cases, *, min_mass=MIN_MASS):
    """Digit scores of the answers of many cases.

    Returns for each case ([{criterion: {"score", "sd", "mass"}} of each answer], tokens read). A
    text that several rows begin with is read, and counted, for the first of them.
    """
    rows = []  # of token ids
    places = []  # for each row: case, answer, criterion
    scores = []
    tokens = [0] * len(cases)
    for c, case in enumerate(cases):
        prefix, answers, tails = judge_ids(tokenizer, constitution, case)
        scores.append([dict.fromkeys(tails) for _ in answers])
        for a, answer in enumerate(answers):
            for name, tail in tails.items():
                rows.append(prefix + answer + tail)
                places.append((c, a, name))

    digits = choice_ids(tokenizer)
    for numbers, logits, tokens_read in tree_logits(model, rows):
        row_scores = digit_scores(logits, digits, min_mass)
        for number, score, count in zip(numbers, row_scores, tokens_read):
            c, a, name = places[number]
            scores[c][a][name] = score
            tokens[c] += count
    return list(zip(scores, tokens))


def judge_pairs(model, tokenizer, constitution, cases, *, min_mass=MIN_MASS):
    """Which of two answers is better, asked in both orders, since many judges prefer a place.

    Returns for each case ([P(the first is better) in this order, in the other], tokens read); None
    for an order whose letters hold less than min_mass.
    """
    rows = []
    for case in cases:
        prefix, orders, tail = pair_ids(tokenizer, constitution, case)
        rows += [prefix + order + tail for order in orders]

    letters = choice_ids(tokenizer, "AB")
    first = [[None, None] for _ in cases]
    tokens = [0] * len(cases)
    for numbers, logits, tokens_read in tree_logits(model, rows):
        masses = choice_mass(logits, letters).tolist()
        for number, mass, count in zip(numbers, masses, tokens_read):
            pair, order = divmod(number, 2)
            # In the other order the first answer is B.
            first[pair][order] = first_is_better(mass[order], mass[1 - order], min_mass)
            tokens[pair] += count
    return list(zip(first, tokens))
