"""OpenAI-compatible endpoints: a small server in a thread, its good and bad days, and replies that are no verdict."""

import json
import math
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import run_main, run_script, text_of, write
from test_judge import TEXT

import common
import gen_candidates
from common import BadInput
from inference import ask_endpoint
from scoring import judge_endpoint, parse_score, read_constitution


def reply(text, read=7, written=3, finish="stop", **message):
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
            "finish_reason": finish, "message": {"role": "assistant", "content": text} | message}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


@pytest.fixture
def server(monkeypatch):
    """server.answer(request, number of the request) -> reply, or an HTTP status; server.seen: what was asked."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with here.lock:
                here.seen.append(request | {"path": self.path, "key": self.headers["Authorization"]})
                number = len(here.seen)
            made = here.answer(request, number)
            body = json.dumps({"error": "sorry"} if isinstance(made, int) else made).encode()
            self.send_response(made if isinstance(made, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.lock, here.seen, here.answer = threading.Lock(), [], lambda request, number: reply("fine")
    here.url = f"http://127.0.0.1:{here.server_port}/v1"
    thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield here
    here.shutdown()
    here.server_close()


def ask(server, count=1):
    return ask_endpoint(server.url, "m", [{"messages": [{"role": "user", "content": f"say {n}"}], "temperature": 0.5,
                                           "max_tokens": 9, "seed": n} for n in range(count)])


def test_replies_come_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.answer = lambda request, number: reply(request["messages"][0]["content"].upper(), 5, request["seed"])
    assert ask(server, 20) == [{"text": f"SAY {n}", "tokens": n, "read": 5, "finish": "stop"} for n in range(20)]
    assert {request["key"] for request in server.seen} == {"Bearer secret"}
    assert {(r["model"], r["temperature"], r["max_tokens"], r["path"]) for r in server.seen} == {
        ("m", 0.5, 9, "/v1/chat/completions")}


def test_finish_usage_and_tool_calls(server):
    server.answer = lambda request, number: reply("half", finish="length") | {"usage": None}
    assert ask(server) == [{"text": "half", "tokens": 0, "read": 0, "finish": "length"}]
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    server.answer = lambda request, number: reply(None, finish="tool_calls", tool_calls=[call])
    assert ask(server)[0]["text"] == '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_recovers(server, status):
    server.answer = lambda request, number: status if number <= 3 else reply("at last")
    assert ask(server)[0]["text"] == "at last" and len(server.seen) == 4


@pytest.mark.parametrize("answer", [500, 401, 404, {"choices": []}, {"choices": None}, {}, "text", [1], None])
def test_a_server_that_does_not(server, answer):
    server.answer = lambda request, number: answer
    with pytest.raises(BadInput, match="endpoint http://127.*what is written is kept") as error:
        ask(server, 12)
    assert len(str(error.value)) < 400


# ---- verdicts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ('{"kind": 4}', 4.0), (' {"kind":3.5}\n', 3.5), ('```json\n{"kind": 0}\n```', 0.0), ('{\n "kind": 5\n}', 5.0),
    ('{"kind": 0.0}', 0.0),
    ("4", None), ("", None), ("garbage", None), ('{"kind": 4', None), ('{"kind": "4"}', None), ('{"kind": 6}', None),
    ('{"kind": -1}', None), ('{"kind": null}', None), ('{"kind": true}', None), ('{"kind": NaN}', None),
    ('{"kind": [4]}', None),
    ('{"kind": 4, "why": "x"}', None), ('{"Kind": 4}', None), ('{"true": 4}', None), ("{}", None), ("[4]", None),
    ('{"kind": 4} {"kind": 2}', None), ('{"kind": 4, "kind": 2}', None), ('not {"kind": 5}', None),
    ('{"kind": 5} out of 10', None),
    ('{"a": {"kind": 5}}', None), ('[{"kind": 5}]', None), ('{"kind": 1e999}', None), ('{"kind": 4e0}', 4.0),
    ('{"kind": 04}', None),
    ("{'kind': 4}", None), ('{"kind": 4}}', None), ('{"kind": ' + "9" * 5000 + "}", None), ("{" * 10000, None)])
def test_parse_score(text, value):
    assert parse_score(text, "kind") == value


def test_a_reply_never_becomes_a_number_that_it_does_not_mean():
    """2,000 replies built from a known number: that number, or None."""
    draw, numbers = random.Random(4), 0
    shapes = ['{{"kind": {x}}}', '```json\n{{"kind": {x}}}\n```', '```\n{{"kind": {x}}}```',
              '\n  {{ "kind" : {x} }}  ', "{x}", "Score: {x}",
              'I say {{"kind": {x}}}', '{{"kind": {x}}}, not {{"kind": {y}}}',
              'Not {{"kind": {y}}} but {{"kind": {x}}}',
              'Instead of {{"kind": {y}}} I give {x}', '{{"kind": {y}}} would be too much. {x}',
              '{{"kind": {x}, "other": {y}}}',
              '{{"other": {y}}}\n{{"kind": {x}}}', '{{"kind": "{x}"}}', '{{"kind": {x}/5}}',
              '{{"kind": {y}, "kind": {x}}}',
              '{{"kind": {x}, "kind": {y}}}', '{{"example": {{"kind": {y}}}, "kind": {x}}}',
              '{{"kind": {x}, "example": {{"kind": {y}}}}}',
              'On a scale where {{"kind": {y}}} is best: {{"kind": {x}}}', '{{"kind": {x}}}\nWait, {y}? No, {x}.',
              "{x} of 5",
              '{{"kind": {x}}} # {{"kind": {y}}}', '<think>{{"kind": {y}}}</think>{{"kind": {x}}}', '{{"kind": -{x}}}',
              '{{"answer": "x", "kind": {x}}}', '{{"kind": [{x}, {y}]}}', '{{"kind": {{"kind": {y}}}}}',
              '{{"kind": {x}, {y}}}',
              '"{{\\"kind\\": {y}}}" they wrote; {{"kind": {x}}}', "{{kind: {x}}}", '{{"kind"= {x}}}', '{{"kind": {x}']
    for _ in range(2000):
        x, y = (draw.choice([draw.randint(0, 5), round(draw.uniform(0, 5), 2), draw.randint(-3, 99)]) for _ in "xy")
        text = draw.choice(shapes).format(x=x, y=y)
        got = parse_score(text, "kind")
        assert got is None or (got == x and 0 <= x <= 5), (text, x, got)
        numbers += got is not None
    assert numbers > 100


# ---- the judge -----------------------------------------------------------------------------------------------


def test_judge_endpoint(server, tmp_path):
    """Answer 0 gets a number at once, answer 1 at the second try, answer 2 never."""
    (tmp_path / "c.md").write_text(TEXT)
    read = read_constitution(tmp_path / "c.md")

    def answer(request, number):
        text = request["messages"][0]["content"]
        name = "kind" if text.endswith('{"kind": number}') else "safe"
        assert text.endswith(f'Score {name} from 0 to 5. Reply with one JSON object: {{"{name}": number}}')
        assert "Is it kind?" in text and "Is it true?" not in text and "Request:\nHi" in text
        assert request["temperature"] == 0
        if ":\none\n" in text:
            return reply(json.dumps({name: 4 if name == "kind" else 2.5}))
        return reply(json.dumps({name: 3}) if ":\ntwo\n" in text and request["seed"] == 1 else "I would say 5")

    server.answer = answer
    texts = [[{"role": "assistant", "content": text}] for text in ("one", "two", "three")]
    scores, tokens = judge_endpoint(server.url, "m", read, [{"role": "user", "content": "Hi"}], texts, "chat")
    good, none = {"sd": 0.5, "mass": None}, {"score": None, "sd": None, "mass": None}
    assert scores == [{"kind": {"score": 4.0} | good, "safe": {"score": 2.5} | good},
                      {"kind": {"score": 3.0} | good, "safe": {"score": 3.0} | good}, {"kind": none, "safe": none}]
    assert len(server.seen) == 6 + 4 and tokens == 10 * 10


def test_judge_stage_with_an_endpoint(server, tmp_path):
    (tmp_path / "c.md").write_text("## kind\nIs it kind?\n0: no 3: so 5: yes\n")
    rows = [{"id": "q", "candidate": k, "prompt": "Hi", "completion": text} for k,
            text in enumerate(("good", "bad", "odd"))]
    server.answer = lambda request, number: reply(
        {"good": '{"kind": 5}', "bad": '{"kind": 1}', "odd": "no idea"}[request["messages"][0]["content"].split()[-16]])
    words = 'Answer x:\ngood\nEnd x\n\nScore kind from 0 to 5. Reply with one JSON object: {"kind": number}'.split()
    assert words[-16] == "good"
    out = tmp_path / "j"
    run_main("judge", "--judge", "m", "--endpoint", server.url, "--constitution", tmp_path / "c.md", "--data",
             write(tmp_path / "d.jsonl", rows), "--out", out, "--price-judge", 1e6)
    judged = [json.loads(line) for line in (out / "judged.jsonl").read_text().splitlines()]
    assert [row["score"] for row in judged] == [5.0, 1.0, None]
    [pair] = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("good", "bad") and 0.5 <= pair["p"] <= 1
    record = json.loads((out / "run.json").read_text())
    assert record["tokens"] == record["cost"] == 4 * 10, "three answers, and one asked again"


# ---- candidates ----------------------------------------------------------------------------------------------


def test_candidates_from_an_endpoint(server, tmp_path):
    tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
    rows = [{"id": f"q{n}", "prompt": text_of(n, 3)} | ({"tools": tools, "call": None} if n == 1 else {})
            for n in range(3)]
    server.answer = lambda request, number: reply(f"{request['temperature']} {request['seed']}", 4, 2)
    out = tmp_path / "c.jsonl"
    command = ["--model", "m", "--endpoint", server.url, "--data", write(tmp_path / "p.jsonl", rows), "--out", out,
               "--n", 4,
               "--temperatures", 0, 1, "--max-tokens", 11]
    assert run_main("gen_candidates", *command) == 0
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted((row["id"], row["candidate"]) for row in made) == [(f"q{n}", k) for n in range(3) for k in range(4)]
    for row in made:
        assert row["completion"][0]["content"] == f"{float(row['candidate'] % 2)} {row['seed'] % 2**31}"
        assert (row["generator"], row["tokens"], row["finish"]) == ("m", 2, "stop")
    assert len({row["seed"] for row in made}) == 12
    assert sum(request.get("tools") == tools for request in server.seen) == 4
    assert {request["max_tokens"] for request in server.seen} == {11}


def test_a_server_that_dies_keeps_what_is_written(server, tmp_path, capsys):
    rows = [{"id": f"q{n}", "prompt": text_of(n, 3 + n)} for n in range(6)]
    out = tmp_path / "c.jsonl"
    command = ["--model", "m", "--endpoint", server.url, "--data", write(tmp_path / "p.jsonl", rows), "--out", out,
               "--n", 2,
               "--batch-size", 4]
    server.answer = lambda request, number: reply(f"a{request['seed']}") if number <= 8 else 500
    arguments = gen_candidates.parse_args([str(word) for word in command])
    with pytest.raises(SystemExit) as ended:
        common.run(gen_candidates.main, arguments)
    error = capsys.readouterr().err
    last = [line for line in error.splitlines() if "endpoint" in line]
    assert ended.value.code == 2 and len(last) == 1 and "Traceback" not in error
    assert len(out.read_text().splitlines()) == 8
    server.answer = lambda request, number: reply(f"a{request['seed']}")
    assert run_main("gen_candidates", *command) == 0
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(made) == 12 and all(row["completion"][0]["content"] == f"a{row['seed'] % 2**31}" for row in made)
    assert len({(row["id"], row["candidate"]) for row in made}) == 12 and math.isfinite(made[0]["seed"])


@pytest.mark.slow
def test_a_dead_server_is_one_line_and_code_2(tmp_path):
    data = write(tmp_path / "p.jsonl", [{"id": "q", "prompt": "Hi"}])
    ended = run_script("gen_candidates", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1", "--data", data, "--out",
                       tmp_path / "c.jsonl")
    assert ended.returncode == 2 and ended.stderr.count("Traceback") == 0 and ended.stderr.splitlines()[-1].startswith(
        "gen_candidates.py: endpoint http://127.0.0.1:9/v1: APIConnectionError")
