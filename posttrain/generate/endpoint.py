"""Answers from any OpenAI-compatible endpoint."""

import itertools
import json
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Event, Lock

from posttrain.cli import BadInput
from posttrain.hashing import seed_for
from posttrain.records.jsonl import append_lines

TIMEOUT, PATIENCE, PAUSE = (
    300,
    60,
    0.5,
)  # seconds: for a reply; without any reply; before the second attempt

LONGEST = 600  # seconds that a server may ask us to wait

REMEDY = {
    "AuthenticationError": "set OPENAI_API_KEY",
    "PermissionDeniedError": "set OPENAI_API_KEY",
    "NotFoundError": "check the URL (it ends in /v1) and the model's name there",
    "APIConnectionError": "check the URL and that the server runs",
    "APITimeoutError": "lower --concurrency",
    "RateLimitError": "lower --concurrency or wait",
    "BadRequestError": "the server refuses such requests",
    "UnprocessableEntityError": "the server refuses such requests",
}

SAID = set()  # notes that are printed once


def ask_endpoint(url, model, requests, concurrency=8, kept=None):
    """Chat completions for requests [{"messages", "temperature", "max_tokens", "seed"}, ...], several at a time -> in
    order [{"text", "tokens", "read", "finish"}]; with "logprobs" also "top", [[token, log-probability], ...] of the
    first token, None where the server has none.

    The key comes from OPENAI_API_KEY. Busy servers, stalls, cut and garbled replies are asked again, all requests
    pausing together, until none has been answered for PATIENCE seconds: then BadInput says what to do. kept: a file of
    this batch's replies, so that a run that goes on pays nothing twice; the caller deletes it when the batch is
    written. Tokens that a server does not count are estimated (4 characters each), which is said once."""
    import openai  # a second to load: only where it is used

    client = openai.OpenAI(
        base_url=url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        max_retries=0,
        timeout=TIMEOUT,
    )
    keys, lock, ended = (
        [f"{seed_for(url, model, request):x}" for request in requests],
        Lock(),
        Event(),
    )
    known = {row.pop("key"): row for row in read_kept(kept)}
    clock = {
        "open": 0.0,
        "answered": time.monotonic(),
    }  # from when on to ask again; the latest reply

    def one(key, request):
        garbled = 0
        for attempt in itertools.count():
            ended.wait(clock["open"] - time.monotonic())
            try:
                reply = read_reply(client.chat.completions.create(model=model, **request), request)
                if request.get("logprobs") and not reply["top"] and attempt < 2:
                    continue
                break
            except (openai.OpenAIError, *GARBLED) as error:
                garbled += isinstance(error, GARBLED)  # paid for: a few times only
                wait = seconds_to_wait(error, attempt)
                alone = time.monotonic() - clock["answered"] > PATIENCE and attempt > 2
                if ended.is_set() or wait is None or garbled > 3 or alone:
                    raise
                clock["open"] = max(clock["open"], time.monotonic() + wait)
                ended.wait(random.uniform(0, wait / 2))  # not all at the same moment
                if attempt == 3:
                    say(
                        f"{url}: {describe(error)}; asked again until {PATIENCE} s pass without any reply"
                    )
        clock["answered"] = time.monotonic()
        if reply.pop("estimated", False):
            say(f"{url} does not count tokens: estimated at 4 characters each")
        if kept:
            with lock:
                append_lines(kept, [{"key": key} | reply])
        return reply

    try:
        with ThreadPoolExecutor(concurrency) as pool:
            jobs = [
                None if key in known else pool.submit(one, key, request)
                for key, request in zip(keys, requests)
            ]
            try:
                return [known[key] if job is None else job.result() for key, job in zip(keys, jobs)]
            except BaseException:
                ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except (openai.OpenAIError, *GARBLED) as error:
        raise BadInput(
            f"endpoint {url}: {describe(error)}; {REMEDY.get(type(error).__name__, 'is the server well?')}; "
            "what is written is kept, run again to continue"
        ) from None


GARBLED = (
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    KeyError,
)  # what reading such a reply raises


def describe(error):
    """An error of a server in a few words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def say(note):
    """Print a note, once."""
    if note not in SAID:
        SAID.add(note)
        print(f"note     {note}")


def seconds_to_wait(error, attempt):
    """Seconds before a failed request is sent again: what the server names, else longer and longer; None: asking again
    does not help."""
    status, headers = (
        getattr(error, "status_code", None),
        getattr(getattr(error, "response", None), "headers", {}),
    )
    if (
        status
        and status < 500
        and status not in (408, 409, 425, 429)
        or getattr(error, "code", "") == "insufficient_quota"
    ):
        return None
    named = headers.get("retry-after", "")
    try:
        named = (
            float(named)
            if re.fullmatch(r"[\d.]+", named)
            else parsedate_to_datetime(named).timestamp() - time.time()
        )
        return max(named, 0.0) if named <= LONGEST else None
    except ValueError:  # none named
        return min(PAUSE * 2**attempt, 20)


def read_kept(path):
    """Replies of a batch that was not finished; a torn last line is left out."""
    text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""
    if text and not text.endswith("\n"):
        Path(path).write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read_reply(reply, request):
    """A server's reply as ask_endpoint returns it; ValueError and others when it is none."""
    choice, usage = reply.choices[0], reply.usage
    calls = [
        f'{{"name": {json.dumps(c.function.name)}, "arguments": {c.function.arguments}}}'
        for c in choice.message.tool_calls or []
    ]
    text = "\n".join(filter(None, [choice.message.content or "", *calls]))
    text = text.encode("utf-8", "replace").decode()  # half an emoji
    tokens, read = (getattr(usage, name, None) for name in ("completion_tokens", "prompt_tokens"))
    estimated = type(tokens) is not int or type(read) is not int
    if estimated:
        read, tokens = (
            sum(len(str(m["content"])) for m in request["messages"]) // 4,
            len(text) // 4 + 1,
        )
    found = {
        "text": text,
        "tokens": tokens,
        "read": read,
        "estimated": estimated,
        "finish": "length" if choice.finish_reason == "length" else "stop",
    }
    if request.get("logprobs"):
        first = (getattr(choice.logprobs, "content", None) or [None])[0]
        found["top"] = (
            [[one.token + "", min(float(one.logprob), 0.0)] for one in first.top_logprobs or []]
            if first
            else None
        )
    return found
