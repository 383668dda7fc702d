"""A judge behind an OpenAI-compatible endpoint: how it is asked, how its replies become numbers.

Where the server gives log-probabilities the judge is asked for a digit, as a local one is.
Elsewhere it is asked for a JSON object, by a schema if the server takes schemas, and only a reply
that is that object counts: sentences around a number may deny, quote or weigh it. For anything else
it is asked once more, and then the answer is None: never 0, never a tie.
"""

import itertools
import json
import math

import torch

from posttrain.cli import BadInput
from posttrain.judging.constitution import BEST, rubric_for
from posttrain.judging.digits import DIGITS, digit_scores, first_is_better
from posttrain.judging.prompt import (
    PAIR_QUESTION,
    endpoint_message,
    fenced_answer,
    fenced_pairs,
    score_question,
)

# The ways to ask, best first. find_way says which one a server allows.
DIGIT, SCHEMA, JSON = "digit", "schema", "json"

# What a request of each way has beside its messages. A top_logprobs of 20 is the most that servers
# take; a JSON object is short.
ONE_TOKEN = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
ONE_OBJECT = {"max_tokens": 200, "seed": 0}
ASKED_AGAIN = {"temperature": 0.5, "seed": 1}

VERDICT_SD = 0.5  # taken for the spread of a written number, which has none of its own
SMALLEST = 1e-12  # probability, so that there is a logarithm

# What ask_endpoint's message names when there is no server at all.
NO_SERVER = ("APIConnection", "APITimeout")


# ---- requests ------------------------------------------------------------------------------------


def score_requests(constitution, case, way):
    """The chat requests that score a case's answers: for each answer one per criterion."""
    criteria, _ = rubric_for(constitution, case.slice, case.prompt)
    names = [criterion["name"] for criterion in criteria]
    requests = []
    for completion, name in itertools.product(case.completions, names):
        message = endpoint_message(
            constitution, case, fenced_answer(completion), endpoint_question(name, way)
        )
        requests.append(_request(message, way, name, {"type": "number"}))
    return requests


def pair_requests(constitution, case, way):
    """The chat requests that compare a case's two answers: in this order, in the other."""
    requests = []
    for shown in fenced_pairs(case):
        message = endpoint_message(constitution, case, shown, endpoint_pair_question(way))
        letter = {"type": "string", "enum": ["A", "B"]}
        requests.append(_request(message, way, "better", letter))
    return requests


def endpoint_question(name, way):
    """What an endpoint is asked about a criterion."""
    if way == DIGIT:
        return score_question(name)
    return f'Score {name} from 0 to {BEST}. Reply with one JSON object: {{"{name}": number}}'


def endpoint_pair_question(way):
    """What an endpoint is asked about two answers."""
    if way == DIGIT:
        return PAIR_QUESTION
    return PAIR_QUESTION + ' Reply with one JSON object: {"better": "A"} or {"better": "B"}'


def _request(message, way, key, value_schema):
    """One chat request for a token, or for an object of one key whose value has this schema."""
    request = {"messages": [message], "temperature": 0.0}
    if way == DIGIT:
        return request | ONE_TOKEN
    if way == JSON:
        return request | ONE_OBJECT
    schema = {
        "type": "object",
        "properties": {key: value_schema},
        "required": [key],
        "additionalProperties": False,
    }
    named = {"name": "verdict", "strict": True, "schema": schema}
    response_format = {"type": "json_schema", "json_schema": named}
    return request | ONE_OBJECT | {"response_format": response_format}


# ---- what a server can do ------------------------------------------------------------------------


def find_way(ask):
    """The best way that an endpoint allows, in two to three requests. ask(requests) -> replies."""
    if has_logprobs(ask):
        print("judge    the endpoint gives log-probabilities: scores from digits")
        return DIGIT
    print(
        "judge    the endpoint gives no log-probabilities: JSON verdicts, asked again once, "
        "else null"
    )
    return SCHEMA if takes_schema(ask) else JSON


def has_logprobs(ask):
    """Does an endpoint give the log-probabilities of first tokens?"""
    message = {"role": "user", "content": "Reply with a digit from 0 to 5:"}
    plain = {"messages": [message], "temperature": 0.0, "max_tokens": 1}
    try:
        [reply] = ask([plain | ONE_TOKEN])
    except BadInput as error:
        if any(name in str(error) for name in NO_SERVER):
            raise
        ask([plain])  # a server that refuses this, too, is ill
        return False
    return bool(reply["top"])


def takes_schema(ask):
    """Does an endpoint accept requests for JSON of a schema?"""
    message = {"role": "user", "content": 'Reply with one JSON object: {"digit": number}'}
    try:
        ask([_request(message, SCHEMA, "digit", {"type": "number"})])
    except BadInput as error:
        if any(name in str(error) for name in NO_SERVER):
            raise
        return False
    return True


# ---- replies -> numbers --------------------------------------------------------------------------


def read_verdict(text):
    """(key, value) of a reply that is one JSON object of one key, else (None, None).

    The object may stand in a ``` fence, and behind thoughts that end in </think>.
    """
    text = text.rpartition("</think>")[2].strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # an array would be a list
        [(key, value)] = pairs if isinstance(pairs, tuple) else ()
    except (ValueError, RecursionError):
        return None, None
    return key, value


def parse_score(text, criterion):
    """The number 0-5 of a reply {criterion: number}; None for any other reply."""
    key, value = read_verdict(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == criterion and is_number and 0 <= value <= BEST:
        return float(value)
    return None


def parse_letter(text):
    """1.0 for {"better": "A"}, 0.0 for {"better": "B"}; None for any other reply."""
    key, value = read_verdict(text)
    if key == "better" and value in ("A", "B"):
        return 1.0 if value == "A" else 0.0
    return None


def top_choices(reply, choices):
    """The probability of each choice among the likeliest first tokens of a reply -> [p, ...]."""
    p = [0.0] * len(choices)
    for token, logprob in reply["top"] or []:
        word = token.strip()
        if len(word) == 1 and word in choices:
            p[choices.index(word)] += math.exp(logprob)
    return p


def top_digits(replies):
    """Digit scores of replies, as digit_scores has them from logits."""
    rows = []
    for reply in replies:
        p = top_choices(reply, DIGITS)
        rows.append([*p, 1 - sum(p)])  # all other tokens as one
    p = torch.tensor(rows, dtype=torch.float64)
    return digit_scores(p.clamp(SMALLEST).log(), [[digit] for digit in range(len(DIGITS))])


def tokens_of(reply):
    """Tokens that a reply cost, read and written."""
    return reply["tokens"] + reply["read"]


def with_retry(ask, requests, parse):
    """Replies parsed; those without a verdict are asked for once more, at another temperature.

    parse(n, text): the value of a reply to request number n, or None. Returns ([value or None],
    tokens of each).
    """
    values = [None] * len(requests)
    tokens = [0] * len(requests)
    for changes in ({}, ASKED_AGAIN):
        left = [n for n, value in enumerate(values) if value is None]
        replies = ask([requests[n] | changes for n in left]) if left else []
        for n, reply in zip(left, replies):
            if reply["finish"] == "stop":  # else it was cut off, perhaps in a sentence
                values[n] = parse(n, reply["text"])
            tokens[n] += tokens_of(reply)
    return values, tokens


# ---- an endpoint reads ---------------------------------------------------------------------------


def judge_endpoint(ask, way, constitution, cases):
    """As judge_answers, by an endpoint: ask(requests) -> replies. JSON verdicts have no mass."""
    requests = []
    places = []  # for each request: case, answer, criterion
    scores = []
    tokens = [0] * len(cases)
    for c, case in enumerate(cases):
        criteria, _ = rubric_for(constitution, case.slice, case.prompt)
        names = [criterion["name"] for criterion in criteria]
        requests += score_requests(constitution, case, way)
        places += itertools.product([c], range(len(case.completions)), names)
        scores.append([dict.fromkeys(names) for _ in case.completions])

    if way == DIGIT:
        replies = ask(requests)
        request_scores = top_digits(replies)
        counts = [tokens_of(reply) for reply in replies]
    else:
        values, counts = with_retry(ask, requests, lambda n, text: parse_score(text, places[n][-1]))
        request_scores = [written_score(value) for value in values]
    for (c, a, name), score, count in zip(places, request_scores, counts):
        scores[c][a][name] = score
        tokens[c] += count
    return list(zip(scores, tokens))


def written_score(value):
    """The score of a written number, or of None."""
    return {"score": value, "sd": None if value is None else VERDICT_SD, "mass": None}


def pair_endpoint(ask, way, constitution, cases):
    """As judge_pairs, by an endpoint; a JSON verdict is 0 or 1."""
    requests = []
    for case in cases:
        requests += pair_requests(constitution, case, way)
    if way == DIGIT:
        replies = ask(requests)
        values = [first_is_better(*top_choices(reply, "AB")) for reply in replies]
        counts = [tokens_of(reply) for reply in replies]
    else:
        values, counts = with_retry(ask, requests, lambda n, text: parse_letter(text))

    pairs = []
    for n in range(0, len(requests), 2):
        p, p_of_other = values[n : n + 2]  # P(what stands as A is better)
        if p_of_other is not None:
            p_of_other = 1 - p_of_other
        pairs.append(([p, p_of_other], sum(counts[n : n + 2])))
    return pairs
