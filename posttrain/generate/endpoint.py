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

from posttrain.chat.dialect import Chat, arguments_as_json, with_call_ids
from posttrain.cli import BadInput
from posttrain.hashing import seed_for
from posttrain.records.jsonl import append_lines

# Seconds.
TIMEOUT = 300  # for one reply
PATIENCE = 60  # without any reply, until the server counts as gone
PAUSE = 0.5  # before the second attempt; it doubles with every further one
LONGEST_PAUSE = 20  # that we choose
LONGEST_RETRY_AFTER = 600  # that a server may ask us to wait

# Attempts of one request.
MIN_ATTEMPTS = 4  # before PATIENCE can run out
GARBLED_ATTEMPTS = 4  # whose reply cannot be read, at most: each of them is paid for
LOGPROB_ATTEMPTS = 3  # to get the log-probabilities that were asked for; then without

# What reading a reply raises that is not what it should be.
GARBLED = (ValueError, IndexError, TypeError, AttributeError, KeyError)

# Client errors of HTTP that pass: timeout, conflict, too early, too many requests.
PASSING_STATUS = (408, 409, 425, 429)

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

# Keys of our messages that OpenAI's protocol does not have.
UNSENT_KEYS = ("reasoning_content", "weight")

PRINTED_NOTES = set()  # each is printed once


def messages_for_server(messages):
    """Messages of a record -> the same in OpenAI's protocol.

    There the arguments of a call are JSON text, every call has an id, and every result names that
    of its call. There is no place for what the assistant thought in earlier turns, nor for whether
    a turn is trained on.
    """
    chat = arguments_as_json(with_call_ids(Chat(messages), _id_for_server))
    sent = []
    for message in chat.messages:
        sent.append({key: value for key, value in message.items() if key not in UNSENT_KEYS})
    return sent


def _id_for_server(call, number):
    """The id in the data, or else one from the number of the call in the conversation."""
    return call.get("id") or f"call_{number}"


def ask_endpoint(url, model, requests, concurrency=8, *, kept=None):
    """Chat completions for requests [{"messages", "temperature", "max_tokens", "seed"}, ...].

    Returns in their order [{"text", "tokens", "read", "finish"}, ...]: tokens are those written,
    read those of the prompt. With "logprobs" in a request there is also "top", [[token,
    log-probability], ...] of the first token, or None where the server has none.

    The key comes from OPENAI_API_KEY. `concurrency` requests are under way at a time. Busy servers,
    stalls, cut and garbled replies are asked again, all requests pausing together, until none has
    been answered for PATIENCE seconds: then BadInput says what to do. Tokens that a server does not
    count are estimated (4 characters each), which is said once.

    kept: a file of this batch's replies, so that a run that goes on pays nothing twice; the caller
    deletes it when the batch is written.
    """
    client = EndpointClient(url, model, kept)
    keys = [f"{seed_for(url, model, request):x}" for request in requests]
    kept_replies = {row.pop("key"): row for row in read_kept(kept)}
    try:
        return client.ask_all(keys, requests, kept_replies, concurrency)
    except client.errors as error:
        remedy = REMEDY.get(type(error).__name__, "is the server well?")
        raise BadInput(
            f"endpoint {url}: {describe(error)}; {remedy}; "
            "what is written is kept, run again to continue"
        ) from None


class EndpointClient:
    """One model of one server. Requests run in threads and share what they learn of the server."""

    def __init__(self, url, model, kept=None):
        import openai  # a second to load: only where it is used

        self.url = url
        self.model = model
        self.kept = kept
        self.client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=0,
            timeout=TIMEOUT,
        )
        self.errors = (openai.OpenAIError, *GARBLED)
        self.resume_at = 0.0  # no request is sent before this moment of time.monotonic()
        self.last_reply = time.monotonic()  # when any request was last answered
        self.stopping = Event()  # one request failed for good: the others give up, too
        self.lock = Lock()  # for the file of kept replies

    def ask_all(self, keys, requests, kept_replies, concurrency):
        """Replies to all requests, in their order. kept_replies {key: reply} are not asked for."""
        replies = [kept_replies.get(key) for key in keys]
        with ThreadPoolExecutor(concurrency) as pool:
            futures = {}
            for i, reply in enumerate(replies):
                if reply is None:
                    futures[i] = pool.submit(self.ask, keys[i], requests[i])
            try:
                for i, future in futures.items():
                    replies[i] = future.result()
            except BaseException:  # an interrupt from the keyboard, too
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
                raise
        return replies

    def ask(self, key, request):
        """The reply to one request, which is then also kept in the file."""
        reply = self.send_until_answered(request)
        self.last_reply = time.monotonic()
        if reply.pop("estimated"):
            say(f"{self.url} does not count tokens: estimated at 4 characters each")
        if self.kept:
            with self.lock:
                append_lines(self.kept, [{"key": key} | reply])
        return reply

    def send_until_answered(self, request):
        """Send a request again and again until its reply can be read, or asking again is no use."""
        garbled = 0
        for attempt in itertools.count(1):
            self.stopping.wait(self.resume_at - time.monotonic())
            try:
                reply = self.send(request)
            except self.errors as error:
                if isinstance(error, GARBLED):
                    garbled += 1
                wait = seconds_to_wait(error, attempt)
                if wait is None or garbled >= GARBLED_ATTEMPTS or self.gives_up(attempt):
                    raise
                self.pause(wait)
                if attempt == MIN_ATTEMPTS:
                    until = f"asked again until {PATIENCE} s pass without any reply"
                    say(f"{self.url}: {describe(error)}; {until}")
                continue

            # A server may leave log-probabilities out now and then; one that has none always does.
            if not request.get("logprobs") or reply["top"] or attempt >= LOGPROB_ATTEMPTS:
                return reply

    def send(self, request):
        """One attempt. Raises an error of openai, or one of GARBLED where this is no reply."""
        reply = self.client.chat.completions.create(model=self.model, **request)
        return read_reply(reply, request)

    def gives_up(self, attempt):
        """Has another request failed for good, or none been answered for too long?"""
        silence = time.monotonic() - self.last_reply
        return self.stopping.is_set() or (silence > PATIENCE and attempt >= MIN_ATTEMPTS)

    def pause(self, seconds):
        """Let all requests wait, and this one a little longer: not all come at the same moment."""
        self.resume_at = max(self.resume_at, time.monotonic() + seconds)
        self.stopping.wait(random.uniform(0, seconds / 2))


def describe(error):
    """An error of a server in a few words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def say(note):
    """Print a note, once."""
    if note not in PRINTED_NOTES:
        PRINTED_NOTES.add(note)
        print(f"note     {note}")


def seconds_to_wait(error, attempt):
    """Seconds before a failed request is sent again; None: asking again does not help.

    As many as the server names, else twice as many as before the last attempt (1 is the first).
    """
    status = getattr(error, "status_code", None)
    if status and status < 500 and status not in PASSING_STATUS:
        return None
    if getattr(error, "code", "") == "insufficient_quota":
        return None

    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    seconds = read_retry_after(headers.get("retry-after", ""))
    if seconds is None:
        return min(PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
    if seconds > LONGEST_RETRY_AFTER:
        return None
    return max(seconds, 0.0)


def read_retry_after(text):
    """Seconds from now that a Retry-After header names, as a number or as a date; None: neither."""
    try:
        if re.fullmatch(r"[\d.]+", text):
            return float(text)
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None


def read_kept(path):
    """Replies of a batch that was not finished; a torn last line is cut off the file."""
    if not path or not Path(path).exists():
        return []
    text = Path(path).read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        Path(path).write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read_reply(reply, request):
    """A server's reply as ask_endpoint returns it, with "estimated": were its tokens not counted?

    Raises an error of GARBLED when this is no reply.
    """
    choice = reply.choices[0]
    usage = reply.usage

    # Tool calls stand behind the text, one JSON object a line.
    calls = []
    for call in choice.message.tool_calls or []:
        name = json.dumps(call.function.name)
        calls.append(f'{{"name": {name}, "arguments": {call.function.arguments}}}')
    lines = [choice.message.content or "", *calls]
    text = "\n".join(line for line in lines if line)
    text = text.encode("utf-8", "replace").decode()  # half an emoji cannot be written to a file

    tokens = getattr(usage, "completion_tokens", None)
    read = getattr(usage, "prompt_tokens", None)
    estimated = type(tokens) is not int or type(read) is not int
    if estimated:
        tokens = len(text) // 4 + 1
        read = sum(len(str(message["content"])) for message in request["messages"]) // 4

    answer = {
        "text": text,
        "tokens": tokens,
        "read": read,
        "estimated": estimated,
        "finish": "length" if choice.finish_reason == "length" else "stop",
    }
    thought = read_thought(choice.message)
    if thought:
        answer["thought"] = thought
    if request.get("logprobs"):
        answer["top"] = read_top(choice.logprobs)
    return answer


def read_thought(message):
    """What a server says apart from the answer, under one of two names; "" for nothing."""
    for name in ("reasoning_content", "reasoning"):
        thought = getattr(message, name, None)
        if isinstance(thought, str) and thought.strip():
            return thought.encode("utf-8", "replace").decode().strip()
    return ""


def read_top(logprobs):
    """[[token, log-probability], ...] of a reply's first token, None if the server gives none."""
    content = getattr(logprobs, "content", None)
    if not content or not content[0]:
        return None
    top = []
    for entry in content[0].top_logprobs or []:
        token = entry.token + ""  # TypeError if it is no text
        top.append([token, min(float(entry.logprob), 0.0)])
    return top
