"""OpenAI-compatible endpoints: a small server in a thread, its good and bad days, its verdicts."""

import importlib
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_main, text_of, write
from judge_samples import TEXT

import gen_candidates
from posttrain.cli import BadInput, run_stage
from posttrain.generate import endpoint as endpoint_room
from posttrain.generate.endpoint import ask_endpoint, read_retry_after, seconds_to_wait
from posttrain.judging.constitution import read_constitution
from posttrain.judging.prompt import Case
from posttrain.judging.verdicts import JSON, judge_endpoint


def reply(text, read=7, written=3, finish="stop", **message):
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text} | message,
            }
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


@pytest.fixture
def server(monkeypatch):
    """A server in a thread. Its requests are collected in server.seen, in the order they came.

    server.answer(request, number of the request) -> a reply; an HTTP status, or (status, headers);
    bytes, sent as they are; "cut": half a reply.
    """
    monkeypatch.setattr(endpoint_room, "PAUSE", 0.01)
    monkeypatch.setattr(endpoint_room, "PATIENCE", 0.2)
    monkeypatch.setattr(endpoint_room, "PRINTED_NOTES", set())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with here.lock:
                here.seen.append(
                    request | {"path": self.path, "key": self.headers["Authorization"]}
                )
                number = len(here.seen)
            made = here.answer(request, number)
            status, headers = 200, {}
            if isinstance(made, tuple):
                status, headers = made
            elif isinstance(made, int):
                status = made
            if status != 200:
                made = {"error": "sorry"}
            body = made if isinstance(made, bytes) else json.dumps(made).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if made == "cut":
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.handle_error = lambda *_: None  # a client that went away
    here.lock = threading.Lock()
    here.seen = []
    here.answer = lambda request, number: reply("fine")
    here.url = f"http://127.0.0.1:{here.server_port}/v1"
    thread = threading.Thread(
        target=here.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    yield here
    here.shutdown()
    here.server_close()


def question(n):
    """A request of its own for every number."""
    messages = [{"role": "user", "content": f"say {n}"}]
    return {"messages": messages, "temperature": 0.5, "max_tokens": 9, "seed": n}


def ask(server, count=1):
    return ask_endpoint(server.url, "m", [question(n) for n in range(count)])


def test_replies_come_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answer = lambda request, number: reply(
        request["messages"][0]["content"].upper(), 5, request["seed"]
    )
    assert ask(server, 20) == [
        {"text": f"SAY {n}", "tokens": n, "read": 5, "finish": "stop"} for n in range(20)
    ]
    assert {request["key"] for request in server.seen} == {"Bearer secret"}
    assert {(r["model"], r["temperature"], r["max_tokens"], r["path"]) for r in server.seen} == {
        ("m", 0.5, 9, "/v1/chat/completions")
    }


def test_finish_usage_and_tool_calls(server, capsys):
    server.answer = lambda request, number: reply("half of it", finish="length") | {"usage": None}
    expected = [{"text": "half of it", "tokens": 3, "read": 1, "finish": "length"}]
    assert ask(server) == ask(server) == expected
    assert capsys.readouterr().out.count("estimated at 4 characters") == 1
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    server.answer = lambda request, number: reply(None, finish="tool_calls", tool_calls=[call])
    assert ask(server)[0]["text"] == '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_recovers(server, status):
    server.answer = lambda request, number: status if number <= 3 else reply("at last")
    assert ask(server)[0]["text"] == "at last" and len(server.seen) == 4


@pytest.mark.parametrize(("failures", "said"), [(3, 0), (4, 1), (6, 1)])
def test_a_server_that_is_waited_for_is_named_once(server, capsys, monkeypatch, failures, said):
    """Not at the first hiccups, and not again and again."""
    monkeypatch.setattr(endpoint_room, "PATIENCE", 60)
    server.answer = lambda request, number: 500 if number <= failures else reply("at last")
    assert ask(server)[0]["text"] == "at last"
    assert capsys.readouterr().out.count("asked again until") == said


@pytest.mark.parametrize(
    "answer",
    [
        500,
        401,
        404,
        {"choices": []},
        {"choices": None},
        {},
        "text",
        [1],
        None,
        b"<html>",
        b'{"choices": [{"mess',
    ],
)
def test_a_server_that_does_not(server, answer):
    server.answer = lambda request, number: answer
    message = "endpoint http://127[^\\n]*; what is written is kept[^\\n]*$"
    with pytest.raises(BadInput, match=message) as error:
        ask(server, 12)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "fault", [b"<html>busy</html>", {"choices": []}, {}, "cut", {"choices": [{"message": None}]}]
)
def test_a_garbled_reply_is_asked_again(server, fault):
    server.answer = lambda request, number: fault if number in (1, 3) else reply("fine")
    assert [one["text"] for one in ask(server, 6)] == ["fine"] * 6 and len(server.seen) == 8


def test_garbled_replies_are_paid_for_four_times_at_most(server):
    server.answer = lambda request, number: {} if number <= 3 else reply("fine")
    assert ask(server)[0]["text"] == "fine" and len(server.seen) == 4
    server.seen.clear()
    server.answer = lambda request, number: {}
    with pytest.raises(BadInput):
        ask(server)
    assert len(server.seen) == 4


def test_a_request_that_failed_for_good_ends_the_others(server, monkeypatch):
    """They would be asked again for PATIENCE seconds."""
    monkeypatch.setattr(endpoint_room, "PATIENCE", 60)
    server.answer = lambda request, number: 400 if request["seed"] == 0 else 503
    with pytest.raises(BadInput, match="BadRequestError"):
        ask(server, 2)
    assert len(server.seen) < 10


def test_a_request_that_failed_for_good_cancels_those_that_wait(server):
    """They would be paid for, and nobody would read the replies."""
    server.answer = lambda request, number: 400 if request["seed"] == 0 else reply("fine")
    with pytest.raises(BadInput):
        ask_endpoint(server.url, "m", [question(n) for n in range(30)], 1)
    assert len(server.seen) <= 3, "one or two may have been under way"


def test_a_dead_server_is_asked_four_times(server, monkeypatch, capsys):
    """However long each attempt has taken; behind the fourth it is said what is waited for."""
    monkeypatch.setattr(endpoint_room, "PATIENCE", 0)
    server.answer = lambda request, number: 500
    with pytest.raises(BadInput, match="is the server well?"):
        ask(server)
    assert len(server.seen) == 4
    monkeypatch.setattr(endpoint_room, "PATIENCE", 60)
    for failures, notes in ((3, 0), (6, 1)):
        server.seen.clear()
        server.answer = lambda request, number, failures=failures: (
            500 if number <= failures else reply("at last")
        )
        assert ask(server)[0]["text"] == "at last"
        printed = capsys.readouterr().out
        assert printed.count("asked again until 60 s pass without any reply") == notes


def test_patience_counts_from_the_last_reply(server):
    """Not from the start of the run, which may be hours ago."""
    client = endpoint_room.EndpointClient(server.url, "m")
    client.last_reply -= 100
    assert client.gives_up(4) and not client.gives_up(3)
    client.ask("key", question(0))
    assert not client.gives_up(4)


def test_a_busy_server_names_its_time(server):
    times = []

    def answer(request, number):
        times.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}) if number == 1 else reply("fine")

    server.answer = answer
    assert ask(server)[0]["text"] == "fine" and times[1] - times[0] >= 0.39


def test_a_stalled_server(server, monkeypatch):
    monkeypatch.setattr(endpoint_room, "TIMEOUT", 0.3)
    server.answer = lambda request, number: time.sleep(1.0 if number == 1 else 0) or reply("fine")
    assert ask(server)[0]["text"] == "fine" and len(server.seen) == 2


def test_what_is_kept_is_not_paid_twice(server, tmp_path):
    requests = [question(n) for n in range(6)]
    kept = tmp_path / "kept.jsonl"
    server.answer = lambda request, number: (
        reply(f"a{request['seed']}") if request["seed"] != 4 else 400
    )
    with pytest.raises(BadInput):
        ask_endpoint(server.url, "m", requests, 1, kept=kept)
    with open(kept, "a") as file:
        file.write('{"torn')
    before = len(server.seen)
    server.answer = lambda request, number: reply(f"a{request['seed']}")
    replies = ask_endpoint(server.url, "m", requests, 2, kept=kept)
    assert [one["text"] for one in replies] == [f"a{n}" for n in range(6)]
    assert {request["seed"] for request in server.seen[before:]} - {5} == {4}, (
        "5 may have been under way"
    )
    assert ask_endpoint(server.url, "m", requests, 2, kept=kept) == replies


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("0.4", 0.4), ("", None), ("soon", None), ("1.2.3", None), ("-3", None)],
)
def test_retry_after_as_a_number(text, seconds):
    assert read_retry_after(text) == seconds


def test_retry_after_as_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert read_retry_after(soon) == pytest.approx(30, abs=5)


@pytest.mark.parametrize(
    ("status", "code", "headers", "attempt", "seconds"),
    [
        (500, None, {}, 1, 0.5),
        (500, None, {}, 2, 1.0),
        (500, None, {}, 5, 8.0),
        (500, None, {}, 9, 20),
        (None, None, {}, 3, 2.0),  # no connection
        (408, None, {}, 1, 0.5),
        (409, None, {}, 1, 0.5),
        (425, None, {}, 1, 0.5),
        (429, None, {"retry-after": "600"}, 1, 600),
        (429, None, {"retry-after": "601"}, 1, None),
        (503, None, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 9, 0),
        (429, "insufficient_quota", {}, 1, None),
        (400, None, {"retry-after": "1"}, 1, None),
        (404, None, {}, 1, None),
    ],
)
def test_seconds_to_wait(status, code, headers, attempt, seconds):
    error = SimpleNamespace(
        status_code=status, code=code, response=SimpleNamespace(headers=headers)
    )
    assert seconds_to_wait(error, attempt) == seconds


def test_log_probabilities_of_the_first_token():
    """Rounding may lead above 0, which no probability does; None where there are none."""
    given = SimpleNamespace(token="5", logprob=1e-6), SimpleNamespace(token=" 4", logprob=-2)
    first = SimpleNamespace(top_logprobs=given)
    made = endpoint_room.read_top(SimpleNamespace(content=[first, None]))
    assert made == [["5", 0.0], [" 4", -2.0]]
    assert (
        endpoint_room.read_top(SimpleNamespace(content=[SimpleNamespace(top_logprobs=None)])) == []
    )
    for content in (None, [], [None]):
        assert endpoint_room.read_top(SimpleNamespace(content=content)) is None
    assert endpoint_room.read_top(None) is None


# ---- the judge ----------------------------------------------------------------------------------


def test_judge_endpoint(server, tmp_path):
    """Answer 0 gets a number at once, answer 1 at the second try, answer 2 never."""
    (tmp_path / "c.md").write_text(TEXT)
    read = read_constitution(tmp_path / "c.md")

    def answer(request, number):
        text = request["messages"][0]["content"]
        name = "kind" if text.endswith('{"kind": number}') else "safe"
        assert text.endswith(
            f'Score {name} from 0 to 5. Reply with one JSON object: {{"{name}": number}}'
        )
        assert "Is it kind?" in text and "Is it true?" not in text and "Request:\nHi" in text
        assert request["temperature"] == (0.5 if request["seed"] else 0)
        if ":\none\n" in text:
            return reply(json.dumps({name: 4 if name == "kind" else 2.5}))
        return reply(
            json.dumps({name: 3})
            if ":\ntwo\n" in text and request["seed"] == 1
            else "I would say 5"
        )

    server.answer = answer
    texts = [[{"role": "assistant", "content": text}] for text in ("one", "two", "three")]
    prompt = [{"role": "user", "content": "Hi"}]
    [(scores, tokens), (again, _)] = judge_endpoint(
        lambda requests: ask_endpoint(server.url, "m", requests),
        JSON,
        read,
        [Case(prompt, texts, "chat"), Case(prompt, texts[:1], "chat")],
    )
    good, none = {"sd": 0.5, "mass": None}, {"score": None, "sd": None, "mass": None}
    assert scores == [
        {"kind": {"score": 4.0} | good, "safe": {"score": 2.5} | good},
        {"kind": {"score": 3.0} | good, "safe": {"score": 3.0} | good},
        {"kind": none, "safe": none},
    ]
    assert again == scores[:1] and len(server.seen) == 6 + 4 + 2 and tokens == 10 * 10


def digits(**p):
    """A reply with these probabilities of first tokens."""
    top = [
        {"token": token.replace("_", " "), "logprob": math.log(value), "bytes": None}
        for token, value in p.items()
    ]
    return reply("x") | {
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": "x"},
                "logprobs": {"content": [top[0] | {"top_logprobs": top}]},
            }
        ]
    }


def test_scores_from_top_logprobs(server, tmp_path, capsys):
    """The same numbers as from logits: expected digit, spread and mass; letters in both orders."""
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")

    def answer(request, number):
        text = request["messages"][0]["content"]
        assert request["max_tokens"] == 1 and request["logprobs"] and request["top_logprobs"] == 20
        if text.endswith("A or B?"):
            if text.index("good") < text.index("bad"):
                return digits(A=0.6, B=0.2)
            return digits(A=0.3, B=0.6)
        if ":\ngood\n" in text:
            return digits(**{"5": 0.5, "_4": 0.2, "3": 0.1, "no": 0.2})
        if ":\nbad\n" in text:
            return digits(**{"0": 0.3, "1": 0.3, "x": 0.4})
        return digits(**{"1": 0.4, "the": 0.6})

    server.answer = answer
    rows = [
        {"id": "q", "candidate": k, "prompt": "Hi", "completion": text}
        for k, text in enumerate(("good", "bad", "odd"))
    ]
    run_main(
        "judge",
        "--judge",
        "m",
        "--endpoint",
        server.url,
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--out",
        tmp_path / "j",
    )
    judged = [
        json.loads(line) for line in (tmp_path / "j" / "judged.jsonl").read_text().splitlines()
    ]
    mean = (5 * 0.5 + 4 * 0.2 + 3 * 0.1) / 0.8
    sd = ((0.5 * (5 - mean) ** 2 + 0.2 * (4 - mean) ** 2 + 0.1 * (3 - mean) ** 2) / 0.8) ** 0.5
    assert judged[0]["judged"] == pytest.approx(mean) and judged[0]["sd"] == pytest.approx(sd)
    assert [row["mass"] for row in judged] == pytest.approx([0.8, 0.6, 0.4])
    assert judged[1]["judged"] == pytest.approx(0.5) and judged[2]["judged"] is None, (
        "a mass below one half"
    )
    assert judged[0]["both_orders"] == pytest.approx([0.75, 1 - 1 / 3])
    assert (
        "gives log-probabilities" in capsys.readouterr().out
        and judged[0]["judge"] == f"m@{server.url}"
    )


@pytest.mark.parametrize("first", [True, False], ids=["lost", "gained"])
def test_two_kinds_of_scores_are_never_mixed(server, tmp_path, first):
    """A server that loses or gains its log-probabilities between the two halves of a run is
    refused.
    """
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    rows = [
        {"id": f"q{n}", "candidate": k, "prompt": f"Hi {n}", "completion": f"{n} {k}"}
        for n in range(20)
        for k in range(2)
    ]
    argv = [
        "judge",
        "--judge",
        "m",
        "--endpoint",
        server.url,
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--out",
        tmp_path / "j",
        "--no-orders",
    ]

    def answer(request, number):
        if number > stop or request.get("logprobs") and not gives:
            return 400
        return digits(**{"5": 0.9}) if request.get("logprobs") else reply('{"kind": 5}')

    gives, stop, server.answer = first, 36, answer
    with pytest.raises(BadInput):
        run_main(*argv)
    votes = (tmp_path / "j" / "votes-1.jsonl").read_bytes()
    assert votes.count(b"\n") == 32
    gives, stop = not first, 10**6
    with pytest.raises(
        BadInput, match=f"gave {'' if first else 'no '}log-probabilities when this run began"
    ):
        run_main(*argv)
    assert (tmp_path / "j" / "votes-1.jsonl").read_bytes() == votes
    gives = first
    run_main(*argv)
    assert '"finished": true' in (tmp_path / "j" / "run.json").read_text()


def test_a_reply_without_its_log_probabilities_is_asked_again(server):
    server.answer = lambda request, number: reply("5") if number == 1 else digits(**{"5": 0.9})
    asked = {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert ask_endpoint(server.url, "m", [asked])[0]["top"] == [["5", pytest.approx(math.log(0.9))]]
    server.seen.clear()
    server.answer = lambda request, number: reply("5")
    assert ask_endpoint(server.url, "m", [asked])[0]["top"] is None, "it has none"
    assert len(server.seen) == 3, "each of them is paid for"


@pytest.mark.parametrize("refusal", [400, 422, 500, "ignored"])
def test_judge_stage_with_an_endpoint(server, tmp_path, capsys, refusal):
    """A server that refuses log-probabilities, or ignores that they were asked for, is asked for
    JSON.
    """
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    rows = [
        {"id": "q", "candidate": k, "prompt": "Hi", "completion": text}
        for k, text in enumerate(("good", "bad", "odd"))
    ]

    def answer(request, number):
        text = request["messages"][0]["content"]
        if request.get("logprobs"):
            return reply("3") if refusal == "ignored" else refusal
        if "A or B?" in text:
            return reply(
                '{"better": "A"}' if text.index("good") < text.index("bad") else '{"better": "B"}'
            )
        if ":\ngood\n" in text:
            return reply('{"kind": 5}')
        return reply('{"kind": 1}' if ":\nbad\n" in text else "no idea")

    server.answer = answer
    out = tmp_path / "j"
    run_main(
        "judge",
        "--judge",
        f"m@{server.url}",
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--out",
        out,
        "--price-judge",
        1e6,
    )
    judged = [json.loads(line) for line in (out / "judged.jsonl").read_text().splitlines()]
    assert [row["score"] for row in judged] == [5.0, 1.0, None] and judged[0]["both_orders"] == [
        1.0,
        1.0,
    ]
    [pair] = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["p"]) == (
        "good",
        "bad",
        1.0,
    )
    record = json.loads((out / "run.json").read_text())
    assert record["tokens"] == record["cost"] == (4 + 2) * 10, (
        "three answers, one asked again, and the pair"
    )
    assert "gives no log-probabilities" in capsys.readouterr().out


@pytest.mark.parametrize("takes", [True, False])
def test_a_schema_goes_with_the_request_where_the_server_takes_one(server, tmp_path, takes):
    """Words and verdicts are the same without it."""
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    rows = [{"id": "q", "candidate": k, "prompt": "Hi", "completion": f"a{k}"} for k in range(2)]

    def answer(request, number):
        if request.get("logprobs") or "response_format" in request and not takes:
            return 400
        text = request["messages"][0]["content"]
        if "A or B?" in text:
            return reply('{"better": "A"}' if ":\na1\n" in text.split("Answer B")[0] else "B")
        return reply('{"kind": 5}' if ":\na1\n" in text else '```json\n{"kind": 1}\n```')

    server.answer = answer
    out = tmp_path / "j"
    constitution = ["--constitution", tmp_path / "c.md"]
    data = ["--data", write(tmp_path / "d.jsonl", rows)]
    run_main("judge", "--judge", f"m@{server.url}", *constitution, *data, "--out", out)
    judged = [json.loads(line) for line in (out / "judged.jsonl").read_text().splitlines()]
    assert [row["judged"] for row in judged] == [1.0, 5.0]
    assert judged[1]["both_orders"] == [1.0, None]
    asked = [r for r in server.seen if not r["messages"][0]["content"].startswith("Reply with")]
    assert len(asked) == 2 + 2 + 1
    schemas = [r.get("response_format", {}).get("json_schema") for r in asked]
    if not takes:
        assert schemas == [None] * 5
        return
    expected = {"kind": {"type": "number"}, "better": {"type": "string", "enum": ["A", "B"]}}
    for request, schema in zip(asked, schemas):
        name = "better" if "A or B?" in request["messages"][0]["content"] else "kind"
        assert schema["strict"] and schema["schema"] == {
            "type": "object",
            "properties": {name: expected[name]},
            "required": [name],
            "additionalProperties": False,
        }


def test_a_judge_that_dies_in_the_middle(server, tmp_path, capsys):
    """The server goes away at every seventh request of a run; started again each time, the end is
    that of a good day, and no finished request is sent twice.
    """
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    rows = [
        {
            "id": f"q{n}",
            "candidate": k,
            "prompt": text_of(n, 4),
            "completion": text_of(n + 3 * k, 5),
        }
        for n in range(6)
        for k in range(3)
    ]
    command = [
        "--judge",
        "m",
        "--endpoint",
        server.url,
        "--constitution",
        tmp_path / "c.md",
        "--data",
        write(tmp_path / "d.jsonl", rows),
        "--min-margin",
        0.5,
        "--concurrency",
        1,
    ]

    def good(request, number):
        text = request["messages"][0]["content"]
        if request.get("logprobs"):
            return 400
        return reply('{"better": "A"}' if "A or B?" in text else f'{{"kind": {len(text) % 6}}}')

    server.answer = good
    run_main("judge", *command, "--out", tmp_path / "whole")
    server.seen, ends, paid = [], 0, []

    def counted(request, number, start):
        if number - start >= 7:
            return 403
        made = good(request, number)
        asked = request["messages"][0]["content"]
        paid.extend([] if made == 400 or asked.startswith("Reply with ") else [asked])
        return made

    while not (tmp_path / "bad" / "judged.jsonl").exists():
        start = len(server.seen)
        server.answer = lambda request, number, start=start: counted(request, number, start)
        try:
            run_main("judge", *command, "--out", tmp_path / "bad")
        except BadInput as error:
            assert "what is written is kept" in str(error)
            ends += 1
    assert ends >= 3
    for name in ("judged.jsonl", "pairs.jsonl", "labels.jsonl"):
        assert (tmp_path / "bad" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(paid) == len({*paid}) > 20 and not (tmp_path / "bad" / "kept.jsonl").exists()


# ---- candidates ---------------------------------------------------------------------------------


def test_candidates_from_an_endpoint(server, tmp_path):
    tools = [
        {
            "type": "function",
            "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}},
        }
    ]
    rows = [
        {"id": f"q{n}", "prompt": text_of(n, 3)}
        | ({"tools": tools, "call": None} if n == 1 else {})
        for n in range(3)
    ]
    server.answer = lambda request, number: reply(
        f"{request['temperature']} {request['seed']}", 4, 2
    )
    out = tmp_path / "c.jsonl"
    command = [
        "--model",
        "m",
        "--endpoint",
        server.url,
        "--data",
        write(tmp_path / "p.jsonl", rows),
        "--out",
        out,
        "--n",
        4,
        "--temperatures",
        0,
        1,
        "--max-tokens",
        11,
    ]
    assert run_main("gen_candidates", *command) == 0
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted((row["id"], row["candidate"]) for row in made) == [
        (f"q{n}", k) for n in range(3) for k in range(4)
    ]
    for row in made:
        assert (
            row["completion"][0]["content"]
            == f"{float(row['candidate'] % 2)} {row['seed'] % 2**31}"
        )
        assert (row["generator"], row["tokens"], row["finish"]) == ("m", 2, "stop")
    assert len({row["seed"] for row in made}) == 12
    record = json.loads((tmp_path / "c.run.json").read_text())
    assert list(record["inputs"]) == [str(tmp_path / "p.jsonl")], "the model is no file here"
    assert sum(request.get("tools") == tools for request in server.seen) == 4
    assert {request["max_tokens"] for request in server.seen} == {11}


def test_a_server_is_sent_the_messages_of_its_protocol(server, tmp_path):
    """Arguments as JSON text, ids that belong together, and no keys of ours."""
    tide = {"name": "tide", "arguments": {"harbour": "Büsum", "days": 2}}
    now = {"name": "now", "arguments": {}}
    calls = [
        {"id": "a", "type": "function", "function": now},
        {"type": "function", "function": tide},
    ]
    calling = {"role": "assistant", "content": "", "tool_calls": calls}
    prompt = [
        {"role": "user", "content": "How high?"},
        calling | {"reasoning_content": "First the time."},
        {"role": "tool", "content": "noon", "tool_call_id": "a"},
        {"role": "tool", "content": "3.4", "name": "tide"},
        {"role": "assistant", "content": "3.4 m.", "weight": 0},
        {"role": "user", "content": "And now?"},
    ]
    tools = [{"type": "function", "function": {"name": name}} for name in ("tide", "now")]
    rows = [{"id": "q", "prompt": prompt, "tools": tools}]
    data = write(tmp_path / "p.jsonl", rows)
    out = tmp_path / "c.jsonl"
    command = ["--model", "m", "--endpoint", server.url, "--data", data, "--out", out, "--n", 1]
    assert run_main("gen_candidates", *command) == 0

    [request] = server.seen
    text = {"name": "tide", "arguments": '{"harbour": "Büsum", "days": 2}'}
    calls = [
        {"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        {"id": "call_1", "type": "function", "function": text},
    ]
    assert request["messages"] == [
        {"role": "user", "content": "How high?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "noon", "tool_call_id": "a"},
        {"role": "tool", "content": "3.4", "name": "tide", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "3.4 m."},
        {"role": "user", "content": "And now?"},
    ]
    assert json.loads(out.read_text())["prompt"] == prompt, "the record keeps what it said"


def test_a_server_that_dies_keeps_what_is_written(server, tmp_path, capsys):
    rows = [{"id": f"q{n}", "prompt": text_of(n, 3 + n)} for n in range(6)]
    out = tmp_path / "c.jsonl"
    command = [
        "--model",
        "m",
        "--endpoint",
        server.url,
        "--data",
        write(tmp_path / "p.jsonl", rows),
        "--out",
        out,
        "--n",
        2,
        "--batch-size",
        4,
    ]
    server.answer = lambda request, number: reply(f"a{request['seed']}") if number <= 8 else 500
    arguments = gen_candidates.parse_args([str(word) for word in command])
    with pytest.raises(SystemExit) as ended:
        run_stage(gen_candidates.main, arguments)
    error = capsys.readouterr().err
    last = [line for line in error.splitlines() if "endpoint" in line]
    assert ended.value.code == 2 and len(last) == 1 and "Traceback" not in error
    assert len(out.read_text().splitlines()) == 8
    server.answer = lambda request, number: reply(f"a{request['seed']}")
    assert run_main("gen_candidates", *command) == 0
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(made) == 12 and all(
        row["completion"][0]["content"] == f"a{row['seed'] % 2**31}" for row in made
    )
    assert len({(row["id"], row["candidate"]) for row in made}) == 12 and math.isfinite(
        made[0]["seed"]
    )


def test_a_dead_server_is_one_line_and_code_2(server, tmp_path, capsys):
    data = write(tmp_path / "p.jsonl", [{"id": "q", "prompt": "Hi"}])
    arguments = gen_candidates.parse_args(
        [
            "--model",
            "m",
            "--endpoint",
            "http://127.0.0.1:9/v1",
            "--data",
            data,
            "--out",
            str(tmp_path / "c.jsonl"),
        ]
    )
    with pytest.raises(SystemExit) as ended:
        run_stage(gen_candidates.main, arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and "endpoint http://127.0.0.1:9/v1: APIConnectionError" in last
    assert "check the URL and that the server runs" in last


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (401, "OPENAI_API_KEY"),
        (404, "model's name"),
        (400, "refuses"),
        ((429, {"Retry-After": "86400"}), "or wait"),
    ],
)
def test_what_asking_again_does_not_help(server, answer, remedy):
    server.answer = lambda request, number: answer
    with pytest.raises(BadInput, match=remedy):
        ask(server)
    assert len(server.seen) == 1


def test_a_storm_of_429_loses_nothing(server, monkeypatch, capsys):
    """The server takes two requests at a time and turns all others away: each is asked until it has
    its reply.
    """
    monkeypatch.setattr(endpoint_room, "PATIENCE", 60)
    working = threading.Semaphore(2)

    def answer(request, number):
        if not working.acquire(blocking=False):
            return 429
        time.sleep(0.02)
        working.release()
        return reply(f"a{request['seed']}")

    server.answer = answer
    replies = ask_endpoint(
        server.url,
        "m",
        [{"messages": [{"role": "user", "content": "x"}], "seed": n} for n in range(40)],
        16,
    )
    assert [one["text"] for one in replies] == [f"a{n}" for n in range(40)] and len(
        server.seen
    ) > 60


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": None},
        "many",
        [1],
    ],
)
def test_half_an_emoji_and_odd_usage(server, tmp_path, usage):
    """Neither stops a run: the text can be written, tokens are estimated."""
    server.answer = lambda request, number: reply("so \ud83d") | {"usage": usage}
    [one] = ask_endpoint(
        server.url,
        "m",
        [{"messages": [{"role": "user", "content": "x" * 40}]}],
        1,
        kept=tmp_path / "k",
    )
    assert one == {"text": "so ?", "tokens": 2, "read": 10, "finish": "stop"}


# ---- kill -9 and every fault --------------------------------------------------------------------


def child(stage, argv):
    """Run a stage in a fork, for the server of this process -> its process number."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with open(os.devnull, "w") as silence:
                os.dup2(silence.fileno(), 1)
                os.dup2(silence.fileno(), 2)
            script = importlib.import_module(stage)
            code = script.main(script.parse_args([str(word) for word in argv]))
        finally:
            os._exit(code)
    return pid


FAULTS = [
    (429, {"Retry-After": "0.05"}),
    500,
    503,
    "cut",
    b"<html>Bad gateway</html>",
    {"choices": []},
    "stall",
    {"choices": [{"index": 0, "message": {"content": 4}}]},
    (429, {}),
    b'{"choices": [{"mes',
    b"",
    [],
    None,
]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["gen_candidates", "judge", "judge by logprobs"])
def test_killed_and_disturbed_it_ends_the_same(server, tmp_path, monkeypatch, way):
    """Four of ten requests meet a fault, and SIGKILL comes at ever other requests: the files are
    those of a good day, and what was paid twice is at most what was under way at a kill.
    """
    import openai

    assert openai  # before the forks
    monkeypatch.setattr(endpoint_room, "TIMEOUT", 1.0)
    monkeypatch.setattr(endpoint_room, "PATIENCE", 5)
    stage = way.split()[0]
    draw = random.Random(way)
    kills = iter([1, 3, 9, 14, 22, 11, 17, 30])  # after so many requests of a run
    (tmp_path / "c.md").write_text(
        "## kind\nIs it kind?\n0: no 3: so 5: yes\n## safe\nIs it?\n0: n 3: s 5: y\n"
    )
    texts = [text_of(n, 3 + n % 4) + f" {n}" for n in range(8)]
    rows = []
    for n, text in enumerate(texts):
        row = {"id": f"q{n}", "prompt": text}
        if stage == "gen_candidates":
            rows.append(row)
            continue
        for k in range(3):
            rows.append(row | {"candidate": k, "completion": text_of(n + 3 * k, 5)})
    given = ["--data", write(tmp_path / "rows.jsonl", rows), "--concurrency", 4]
    argv = {
        "gen_candidates": [
            "--model",
            "m",
            "--endpoint",
            server.url,
            "--n",
            4,
            "--batch-size",
            12,
            *given,
            "--out",
            tmp_path / "OUT" / "c.jsonl",
        ],
        "judge": [
            "--judge",
            "m",
            "--endpoint",
            server.url,
            "--constitution",
            tmp_path / "c.md",
            "--min-margin",
            0.1,
            *given,
            "--out",
            tmp_path / "OUT" / "j",
        ],
    }[stage]

    def good(request, number):
        text = request["messages"][0]["content"]
        value = sum(text.encode()) % 6
        if request.get("logprobs"):
            if "logprobs" not in way:
                return 400
            if "A or B?" in text:
                return digits(A=0.5, B=0.3)
            return digits(**{str(value): 0.6, str(5 - value): 0.1})
        if stage == "gen_candidates":
            return reply(f"a{request['seed']}")
        name = re.search(r'"(\w+)": number', text)
        return reply(f'{{"{name[1]}": {value}}}' if name else '{"better": "A"}')

    def bad(request, number):
        with server.lock:
            first = draw.random() < 0.4
            fault = draw.choice(FAULTS)
            busy["left"] -= 1
            if busy["left"] == 0 and busy["pid"]:  # never a number that no longer is our child's
                os.kill(busy["pid"], signal.SIGKILL)
        if not first or number % 4 == 0:
            with server.lock:
                busy["paid"] += 1
            return good(request, number)
        if fault == "stall":
            time.sleep(1.3)
            return reply("late")
        return fault

    def run(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        busy["pid"] = child(stage, [str(word).replace("OUT", folder) for word in argv])
        os.waitid(os.P_PID, busy["pid"], os.WEXITED | os.WNOWAIT)
        with server.lock:
            pid, busy["pid"] = busy["pid"], 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    busy = {"left": -1, "paid": 0, "pid": 0}
    server.answer = good
    assert run("whole") == 0
    requests = len(server.seen)
    codes = []
    server.answer = bad
    while not codes or codes[-1]:
        busy["left"] = next(kills, -1)
        codes.append(run("killed"))
    assert codes.count(-signal.SIGKILL) >= 4 and codes[-1] == 0, codes
    assert {*codes} <= {0, 2, -signal.SIGKILL}, codes
    for path in (tmp_path / "whole").rglob("*.jsonl"):
        other = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes(), path
    assert not [*(tmp_path / "killed").rglob("*kept*")]
    assert busy["paid"] <= requests + 8 * len(codes)


# ---- a real server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serve():
    """`transformers serve` with the tiny SFT data's base model -> its URL."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_transformers_serve(serve, tmp_path, capsys):
    """A real server to the end: answers with counted tokens, and JSON verdicts (it refuses
    log-probabilities): the tiny base knows no JSON, so no answer has a score, and that is said.
    """
    model = str(ROOT / "data" / "tiny" / "base")
    rows = [{"id": f"q{n}", "prompt": text_of(n, 4)} for n in range(3)]
    assert (
        run_main(
            "gen_candidates",
            "--model",
            model,
            "--endpoint",
            serve,
            "--data",
            write(tmp_path / "p.jsonl", rows),
            "--out",
            tmp_path / "c.jsonl",
            "--n",
            2,
            "--max-tokens",
            12,
            "--concurrency",
            2,
        )
        == 0
    )
    made = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert len(made) == 6 and all(row["tokens"] > 0 and row["read"] > 0 for row in made)
    assert "does not count tokens" not in capsys.readouterr().out
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    judge = ["--judge", model, "--endpoint", serve, "--constitution", tmp_path / "c.md"]
    files = ["--data", tmp_path / "c.jsonl", "--out", tmp_path / "j", "--concurrency", 2]
    with pytest.raises(BadInput, match="not one of 6 answers has a score"):
        run_main("judge", *judge, *files)
    assert "gives no log-probabilities" in capsys.readouterr().out
    assert not (tmp_path / "j" / "pairs.jsonl").exists()
