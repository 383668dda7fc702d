"""A judge's replies by an endpoint: strict JSON, or nothing."""

import math
import random

import pytest

from posttrain.cli import BadInput
from posttrain.judging.prompt import Case
from posttrain.judging.verdicts import (
    DIGIT,
    JSON,
    SCHEMA,
    find_way,
    has_logprobs,
    pair_endpoint,
    pair_requests,
    parse_letter,
    parse_score,
    score_requests,
    takes_schema,
    top_choices,
    top_digits,
    with_retry,
    written_score,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"kind": 4}', 4.0),
        (' {"kind":3.5}\n', 3.5),
        ('```json\n{"kind": 0}\n```', 0.0),
        ('{\n "kind": 5\n}', 5.0),
        ('{"kind": 0.0}', 0.0),
        ('{"kind": 5.01}', None),
        ('{"kind": -0.01}', None),
        ('```{"kind": 4}```', 4.0),
        ('```json\n{"kind": 4}', None),
        ('{"kind": 4}\n```', None),
        ('```python\n{"kind": 4}\n```', None),
        ("```", None),
        ('no {"kind": 4}```', None),
        ('```{"kind": 4}not', None),
        ('[["kind", 4]]', None),
        ('"kind"', None),
        ('<think>2 or 3, no</think>\n{"kind": 4}', 4.0),
        ('{"kind": 4e0}', 4.0),
        ("4", None),
        ("", None),
        ("garbage", None),
        ('{"kind": 4', None),
        ('{"kind": "4"}', None),
        ('{"kind": 6}', None),
        ('{"kind": -1}', None),
        ('{"kind": null}', None),
        ('{"kind": true}', None),
        ('{"kind": NaN}', None),
        ('{"kind": [4]}', None),
        ('{"kind": 4, "why": "x"}', None),
        ('{"Kind": 4}', None),
        ('{"true": 4}', None),
        ("{}", None),
        ("[4]", None),
        ('{"kind": 4} {"kind": 2}', None),
        ('{"kind": 4, "kind": 2}', None),
        ('not {"kind": 5}', None),
        ('{"kind": 5} out of 10', None),
        ('{"a": {"kind": 5}}', None),
        ('[{"kind": 5}]', None),
        ('{"kind": 1e999}', None),
        ('{"kind": 04}', None),
        ("{'kind': 4}", None),
        ('{"kind": 4}}', None),
        ('{"kind": ' + "9" * 5000 + "}", None),
        ("{" * 10000, None),
        ("a" * 100_000 + '.\n{"kind": 4}', None),
        ('{"kind": ' + "[" * 100_000 + "}", None),
        (" " * 100_000, None),
        ('{"kind": 4}' + " " * 100_000 + "x", None),
        ('Three or four, hmm </think>\n\n{"kind": 4}', 4.0),
        ('<think>Perhaps\n{"kind": 4}', None),
    ],
)
def test_parse_score(text, value):
    assert parse_score(text, "kind") == value
    assert value is None or type(parse_score(text, "kind")) is float


CLEAN = [
    '{{"kind": {x}}}',
    '```json\n{{"kind": {x}}}\n```',
    '```\n{{"kind": {x}}}```',
    '\n  {{ "kind" : {x} }}  ',
    '<think>maybe {y}, or {{"kind": {y}}}</think>{{"kind": {x}}}',
    '{y} at first sight </think>\n{{"kind": {x}}}',
    '<think>{y}</think>\n\n```json\n{{"kind": {x}}}\n```',
    '{{"kind":{x}}}\r\n',
]
# Not the object alone: whatever else stands there may deny, quote or weigh the number.
PROSE = [
    'I give it {x}: {{"kind": {x}}}',
    'It is friendly. I give it {x}.\n\n{{"kind": {x}}}',
    '{{"kind": {x}}}.',
    'I cannot give:\n{{"kind": {y}}}',
    'Das ist nicht: {{"kind": {y}}}',
    'The answer wants me to reply {{"kind": {y}}}',
    'It says:\n```json\n{{"kind": {y}}}\n```',
    'Between {x} and a bit more. {{"kind": {y}}}',
    '不是:\n{{"kind": {y}}}',
    '★★☆☆☆\n{{"kind": {y}}}',
    '{{"kind": {y}}} would be too much',
]
FOUL = [
    "{x}",
    "Score: {x}",
    'I say {{"kind": {x}}} or {{"kind": {y}}}',
    '{{"kind": {x}}}, not {{"kind": {y}}}',
    'Not {{"kind": {y}}} but {{"kind": {x}}}',
    'Instead of {{"kind": {y}}} I give {x}',
    'not {{"kind": {y}}}, {x}',
    '{{"kind": {y}}} would be too much. {x}',
    '{{"kind": {x}, "other": {y}}}',
    '{{"other": {y}}}\n{{"kind": {x}}}',
    '{{"kind": "{x}"}}',
    '{{"kind": {x}/5}}',
    '{{"kind": {y}, "kind": {x}}}',
    '{{"kind": {x}, "kind": {y}}}',
    '{{"example": {{"kind": {y}}}, "kind": {x}}}',
    '{{"kind": {x}, "example": {{"kind": {y}}}}}',
    'On a scale where {{"kind": {y}}} is best: {{"kind": {x}}}',
    '{{"kind": {y}}}\nWait: {x}.',
    "{x} of 5",
    '{{"kind": {x}}} # {{"kind": {y}}}',
    '{{"kind": -{x}}}',
    '{{"answer": "x", "kind": {x}}}',
    '{{"kind": [{x}, {y}]}}',
    '{{"kind": {{"kind": {y}}}}}',
    '{{"kind": {x}, {y}}}',
    "{{kind: {x}}}",
    '{{"kind"= {x}}}',
    '[{{"kind": {y}}}, {{"kind": {x}}}]',
    '{{"safe": {y}}}',
    '{{"scores": {{"kind": {y}}}}}',
    '"{{\\"kind\\": {y}}}" they wrote; {{"kind": {x}}}',
    '{{"kind": {x}',
    'It is a {x}, so {{"kind": {y}}}',
    'I would have said {x}: {{"kind": {y}}}',
    'Nicht {{"kind": {y}}}',
    'No es {{"kind": {y}}}',
    '{x}% {{"kind": {y}}}',
    'Between {x} and {y}: {{"kind": {y}}}',
    '{x}/10. {{"kind": {y}}}',
    '<tool_call>{{"name": "score", "arguments": {{"kind": {x}}}}}</tool_call>',
    'kind={x}; {{"kind": {y}}}',
    '<tool_call>\n{{"kind": {y}}}',
    '<answer>{{"kind": {y}}}',
    '{{"kind": {y}}}</s>',
    '{{"kind": {y}}}\n\nCorrection: {{"kind": {x}}}',
    'Unless it were {x}, {{"kind": {y}}}',
    '"kind": {x}',
    'wrong would be {{"kind": {y}}}',
    '{{"KIND": {y}}}',
    '{{"kind": {y}}} {x}',
    '{{"kind": {x}}}{{"kind": {y}}}',
    '{{"kind": {y}}}\n```\nThat is wrong: {x}',
    '{{"kind": {y}}}\n* I mean {x}',
    "{{'kind': {y}}}",
    '<think>{x}? Or\n{{"kind": {y}}}',
    '{{"kind": {y}, }}',
    '{{"kind": {y} }} }}',
    '// {x}\n{{"kind": {y}}}',
]


def test_thousands_of_replies_and_no_other_number():
    """Each is built from the number x that the judge means; y is another one. Of a clear reply x is read, of a foul one
    nothing."""
    draw = random.Random(4)
    numbers = [0, 1, 2, 3, 4, 5, 2.5, 3.75, round(draw.uniform(0, 5), 2), -2, 7, 10, 80]
    for _ in range(3000):
        x, y = draw.sample(numbers, 2)
        clean = draw.choice(CLEAN).format(x=x, y=y)
        assert parse_score(clean, "kind") == (x if 0 <= x <= 5 else None), clean
        foul = draw.choice(FOUL + PROSE).format(x=x, y=y)
        assert parse_score(foul, "kind") is None or foul == '{"kind": -0}', foul


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"better": "A"}', 1.0),
        ('```json\n{"better": "B"}\n```', 0.0),
        ('Hm. </think>{"better": "B"}', 0.0),
        ('I think {"better": "A"}', None),
        ('{"better": "C"}', None),
        ('{"better": "a"}', None),
        ('{"better": ["A"]}', None),
        ('{"better": {"A": 1}}', None),
        ('{"better": 1}', None),
        ('{"kind": "A"}', None),
        ("A", None),
    ],
)
def test_parse_letter(text, value):
    assert parse_letter(text) == value


def test_a_written_number_has_half_a_point_of_spread_and_null_has_none():
    assert written_score(4.0) == {"score": 4.0, "sd": 0.5, "mass": None}
    assert written_score(None) == {"score": None, "sd": None, "mass": None}


def test_those_without_a_verdict_are_asked_once_more_and_no_others():
    """Every request is paid for: what has a verdict is not asked again, and nothing a third time."""
    sent = []

    def ask(requests):
        sent.append(requests)
        return [
            {"text": "?" if r["n"] else '{"kind": 3}', "tokens": 1, "read": 2, "finish": "stop"}
            for r in requests
        ]

    requests = [{"n": 0, "temperature": 0.0, "seed": 0}, {"n": 1, "temperature": 0.0, "seed": 0}]
    values, tokens = with_retry(ask, requests, lambda n, text: parse_score(text, "kind"))
    assert (values, tokens) == ([3.0, None], [3, 6])
    assert sent == [requests, [{"n": 1, "temperature": 0.5, "seed": 1}]]
    sent.clear()
    with_retry(ask, requests[:1], lambda n, text: parse_score(text, "kind"))
    assert sent == [requests[:1]], "with nothing left to ask the server is left alone"


CASE = Case([{"role": "user", "content": "Hi"}], [[{"role": "assistant", "content": "Hello"}]] * 2)
READ = {"criteria": [{"name": "kind", "weight": 1.0, "slices": None, "veto": None, "text": "?\n"}]}


@pytest.mark.parametrize("way", [DIGIT, SCHEMA, JSON])
def test_what_stands_beside_the_message(way):
    """Sampling is off; a token with its alternatives, or a short object."""
    for requests in (score_requests(READ, CASE, way), pair_requests(READ, CASE, way)):
        assert len(requests) == 2
        for request in requests:
            beside = {key: request[key] for key in request.keys() - {"messages", "response_format"}}
            assert ("response_format" in request) == (way == SCHEMA)
            if way == DIGIT:
                more = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
            else:
                more = {"max_tokens": 200, "seed": 0}
            assert beside == {"temperature": 0.0} | more


class Server:
    """It refuses requests with one of these keys, or with a message, all."""

    def __init__(self, refuses=(), down=False):
        self.refuses, self.down, self.seen = refuses, down, []

    def __call__(self, requests):
        self.seen += requests
        if self.down:
            raise BadInput("no answer (APIConnectionError)")
        if any(key in request for request in requests for key in self.refuses):
            raise BadInput("refused (400)")
        return [{"top": [["5", -0.1]]} for _ in requests]


def test_what_a_server_can_do_is_asked_in_two_or_three_requests(capsys):
    assert find_way(Server()) == DIGIT
    assert find_way(Server(["logprobs"])) == SCHEMA
    poor = Server(["logprobs", "response_format"])
    assert find_way(poor) == JSON and len(poor.seen) == 3
    logprobs, plain, schema = poor.seen
    assert {"temperature": 0.0, "max_tokens": 1}.items() <= logprobs.items()
    assert {key: plain[key] for key in plain if key != "messages"} == {
        "temperature": 0.0,
        "max_tokens": 1,
    }
    assert schema["response_format"]["json_schema"]["schema"]["properties"] == {
        "digit": {"type": "number"}
    }
    with pytest.raises(BadInput, match="refused"):
        find_way(Server(["max_tokens"]))
    for question in (has_logprobs, takes_schema):
        gone = Server(down=True)
        with pytest.raises(BadInput, match="APIConnection"):
            question(gone)
        assert len(gone.seen) == 1, "a server that is not there is asked once"


def test_digits_of_replies_by_hand():
    """All other tokens are one more; of probabilities that add up to more than one they have none."""
    top = [["5", math.log(0.5)], ["4", math.log(0.1)], ["x", math.log(0.3)]]
    [score] = top_digits([{"top": top}])
    mean = (5 * 0.5 + 4 * 0.1) / 0.6
    spread = ((0.5 * (5 - mean) ** 2 + 0.1 * (4 - mean) ** 2) / 0.6) ** 0.5
    expected = {"score": mean, "sd": spread, "mass": 0.6}
    assert score == pytest.approx(expected, rel=1e-9)
    [sure] = top_digits([{"top": [["5", math.log(0.8)], ["4", math.log(0.8)]]}])
    assert sure == pytest.approx({"score": 4.5, "sd": 0.5, "mass": 1.0}, abs=1e-9)


def test_pairs_cost_their_own_tokens():
    """Two requests each."""

    def ask(requests):
        replies = []
        for number, _ in enumerate(requests, 1):
            top = [["A", math.log(0.6)], ["B", math.log(0.2)]]
            replies.append({"top": top, "read": 10**number, "tokens": 0})
        return replies

    assert pair_endpoint(ask, DIGIT, READ, [CASE, CASE]) == [
        ([pytest.approx(0.75), pytest.approx(0.25)], 110),
        ([pytest.approx(0.75), pytest.approx(0.25)], 11_000),
    ]


def test_top_choices_and_a_reply_cut_off():
    """Two tokens that read alike are both counted; a reply that was cut off is no verdict."""
    top = [
        ["5", math.log(0.3)],
        ["5", math.log(0.2)],
        [" 4\n", math.log(0.1)],
        ["55", -1.0],
        ["", -1.0],
    ]
    assert top_choices({"top": top}, "012345") == pytest.approx([0, 0, 0, 0, 0.1, 0.5])
    assert top_choices({"top": None}, "AB") == [0, 0]
    said = {"text": '{"kind": 4}', "tokens": 2, "read": 3}
    for finish, values in (("stop", [4.0]), ("length", [None])):
        assert with_retry(
            lambda requests, finish=finish: [said | {"finish": finish}],
            [{}],
            lambda n, text: parse_score(text, "kind"),
        ) == (values, [5 if finish == "stop" else 10])
