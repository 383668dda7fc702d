"""Both models' answers to an item -> their scores, a row of items.jsonl.

A score is from 0 to 1: the share of right answers. Of an item that a judge compares, the
candidate's is its mean probability to be the better one, and the baseline's one half.
"""

import numpy as np

from posttrain.gating.suite import ROLES
from posttrain.verify.refusals import is_refusal

SCORE_OF_WINNER = {"candidate": 1.0, "tie": 0.5, "baseline": 0.0}  # the candidate's


def grade(item, answers, draws):
    """A row of items.jsonl, or None where a score is missing.

    answers {role: {sample: Answer}}, with what verifiers and judge say of them; draws {role:
    answers that count, which are samples 0 to draws - 1}. "texts" of the row are for the report:
    the candidate's worst answer and the baseline's best.
    """
    scores = GRADERS[item["type"]](item, answers, draws)
    if scores is None:
        return None
    return {key: item[key] for key in ("id", "slice", "cluster", "type")} | scores


def grade_verified(item, answers, draws):
    """Right answers by a program. None when it cannot tell of one that counts."""
    scores = {}
    counted = answers_that_count(answers, draws)
    for role in ROLES:
        scores |= lengths(role, counted[role])
        verdicts = [answer.ok for answer in counted[role]]
        if None in verdicts:
            return None
        scores[role] = float(np.mean(verdicts))
        if "expected" in item:
            scores["expected"] = item["expected"]
            scores[f"refused_{role}"] = sum(is_refusal(answer.text) for answer in counted[role])
        # A wrong answer is no economy, and neither is an empty one.
        right = [answer for answer in counted[role] if answer.ok and answer.text.strip()]
        if right:
            scores[f"right_tokens_{role}"] = mean_tokens(right)
        greedy = answers[role].get("greedy")
        if greedy and greedy.ok is not None:
            scores[f"greedy_{role}"] = float(greedy.ok)

    worst = min(counted["candidate"], key=lambda answer: answer.ok)
    best = max(counted["baseline"], key=lambda answer: answer.ok)
    return scores | {"answers": draws, "texts": texts(worst, best)}


def grade_judged(item, answers, draws):
    """The judge's probability that the candidate's answer is better, the mean of both orders.

    Answers of which it could not tell in an order do not count; None when none are left.
    """
    counted = answers_that_count(answers, draws)
    means = []  # (probability, sample)
    for sample, answer in enumerate(counted["candidate"]):
        if None not in answer.p:
            means.append((sum(answer.p) / 2, sample))
    if not means:
        return None

    scores = lengths("baseline", counted["baseline"]) | lengths("candidate", counted["candidate"])
    scores["candidate"] = float(np.mean([probability for probability, _ in means]))
    scores["baseline"] = 0.5
    worst = min(means)[1]
    rival = answers["baseline"][worst % draws["baseline"]]
    return scores | {"answers": draws, "texts": texts(counted["candidate"][worst], rival)}


def grade_unjudged(item, answers, draws):
    """Of an answer that nobody judges only the length counts."""
    counted = answers_that_count(answers, draws)
    scores = lengths("baseline", counted["baseline"]) | lengths("candidate", counted["candidate"])
    first = texts(counted["candidate"][0], counted["baseline"][0])
    return scores | {"answers": draws, "texts": first}


def grade_choice(item, answers, draws):
    """Multiple choice: was the right one the likeliest?"""
    chosen = {role: answers[role]["mc"] for role in ROLES}
    scores = {role: float(answer.ok) for role, answer in chosen.items()}
    return scores | {"texts": {role: answer.text for role, answer in chosen.items()}}


def grade_winner(item, answers, draws):
    """A comparison from live traffic."""
    return {"candidate": SCORE_OF_WINNER[item["winner"]], "baseline": 0.5}


def grade_scored(item, answers, draws):
    """Scores that stand in the item."""
    return {role: float(item[role]) for role in ROLES}


GRADERS = {
    "verify": grade_verified,
    "judge": grade_judged,
    "budget": grade_unjudged,
    "mc": grade_choice,
    "ab": grade_winner,
    "scored": grade_scored,
}


def answers_that_count(answers, draws):
    """{role: [Answer of sample 0, of sample 1, ...]}, as many as the role's draws."""
    counted = {}
    for role in ROLES:
        counted[role] = [answers[role][sample] for sample in range(draws[role])]
    return counted


def lengths(role, counted):
    """The mean tokens of answers, and the share that --max-tokens cut off."""
    cut = [answer.finish == "length" for answer in counted]
    return {f"tokens_{role}": mean_tokens(counted), f"cut_{role}": float(np.mean(cut))}


def mean_tokens(answers):
    return float(np.mean([answer.tokens for answer in answers]))


def texts(worst, best):
    """What the report shows of an item, under the names of the roles."""
    return {"candidate": worst.text, "baseline": best.text}
