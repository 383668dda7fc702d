"""Sampling answers: from a local model, or any OpenAI-compatible endpoint.

Local sampling reads each prompt once for all its samples; rows leave the batch when they end, and others may take their
places. Every sample has a random stream of its own: what is drawn depends on its seed, never on the rows beside it.
"""

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

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicLayer

from common import BadInput, append_lines, seed_for, stop_ids

# ---- sampling from a local model ------------------------------------------------------------------------------


def padded_ids(rows, pad_id, device, left):
    """Token lists -> (ids, attention) [B, T], padded on the left or right."""
    side, rows = "left" if left else "right", [torch.tensor(row) for row in rows]
    ids, ones = pad_sequence(rows, True, pad_id, side), pad_sequence([torch.ones_like(x) for x in rows], True, 0, side)
    return ids.to(device), ones.to(device)


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, T, d] with room for more columns: a step writes its own, and the last row takes the
    place of one that leaves. A layer of transformers copies everything for either."""

    def __init__(self, layers, T):
        super().__init__()
        self.is_initialized, pairs = True, zip(*((layer.keys, layer.values) for layer in layers))
        self.keys, self.values = (torch.cat([F.pad(x, (0, 0, T - x.shape[2], 0)) for x in same]) for same in pairs)
        self.room = self.keys, self.values

    def update(self, keys, values, *args, **kwargs):
        rows, _, T, _ = self.keys.shape
        if T == self.room[0].shape[2]:
            self.room = [F.pad(x, (0, 0, 0, 32)) for x in (self.keys, self.values)]
        self.keys, self.values = (x[:rows, :, :T + 1] for x in self.room)
        self.keys[:, :, T:], self.values[:, :, T:] = keys, values
        return self.keys, self.values

    def batch_select_indices(self, indices):
        moved = [i for i, j in enumerate(indices) if i != j]
        for x in (self.keys, self.values):
            x[moved] = x[[indices[i] for i in moved]]
        self.keys, self.values = self.keys[:len(indices)], self.values[:len(indices)]


@torch.no_grad()
def sample(model, tokenizer, jobs, max_tokens, slots=None):
    """Answers for jobs [(prompt token ids, [(temperature, seed), ...])] -> [[{"text", "ids", "tokens", "finish"}]].

    Temperature 0 is greedy. `tokens` counts the stop token too; finish is "stop" or "length". A sampled token is the
    one whose cumulative probability first exceeds the sample's next uniform number. slots: so many rows at once, those
    that wait take the places of those that end (a GPU step costs the same for few rows as for many); None: all at once
    (a CPU step costs by the row). With sliding windows or state spaces those that wait start when all rows ended."""
    stops = stop_ids(tokenizer)
    rows = [(j, t, torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist(),
             []) for j, (_, own) in enumerate(jobs) for t, seed in own]  # (job, temperature, uniform numbers, answer)
    waiting, alive, plain, slots = rows, [], False, slots or len(rows)
    cache = position = logits = None
    while waiting or alive:
        free = slots - len(alive)
        if waiting and (not alive or plain and free > slots // 8):  # reading costs a step or more: several at once
            new, waiting = waiting[:free], waiting[free:]
            read = list(dict.fromkeys(row[0] for row in new))  # each prompt once for all its rows
            ids, attention = padded_ids([jobs[j][0] for j in read], stops[0], model.device, left=True)
            place = attention.cumsum(1).sub(1).clamp(min=0)
            out = model(input_ids=ids, attention_mask=attention, position_ids=place, use_cache=True, logits_to_keep=1)
            expand, old = [read.index(row[0]) for row in new], [cache.layers] if alive else []
            cache, place, first = out.past_key_values, place[expand, -1:], out.logits[:, -1].float()[expand]
            cache.batch_select_indices(expand)
            position, logits = (torch.cat([position, place]), torch.cat([logits, first])) if alive else (place, first)
            alive, T = alive + new, position.max().item() + 1  # T columns: every row ends in the last
            plain = all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
            cache.layers = [GrowingLayer(same, T) for same in zip(*old, cache.layers)] if plain else cache.layers
        token = logits.max(-1).indices  # the first of equals, as argmax; faster on a CPU
        if any(row[1] for row in alive):
            heat = torch.tensor([[row[1]] for row in alive], device=model.device)
            uniform = torch.tensor([[row[2][len(row[3])]] for row in alive], dtype=torch.float64, device=model.device)
            mass = (logits / heat.where(heat > 0, 1)).softmax(-1).cumsum(-1, dtype=torch.float64)
            drawn = torch.searchsorted(mass, uniform * mass[:, -1:], right=True).clamp(max=mass.shape[1] - 1)
            token = token.where(heat[:, 0] == 0, drawn[:, 0])
        for row, t in zip(alive, token.tolist()):
            row[3].append(t)
        ended = {i for i, row in enumerate(alive) if row[3][-1] in stops or len(row[3]) == max_tokens}
        if ended:  # rows from beyond the new end take the places of those that leave
            last = [i for i in range(len(alive) - len(ended), len(alive)) if i not in ended]
            keep = [last.pop() if i in ended else i for i in range(len(alive) - len(ended))]
            alive, token, position = [alive[i] for i in keep], token[keep], position[keep]
            cache.batch_select_indices(keep)
        if alive:
            T, position = T + 1, position + 1
            attention = (torch.arange(T, device=model.device) >= T - 1 - position).long()
            logits = model(input_ids=token[:, None], attention_mask=attention, position_ids=position,
                           past_key_values=cache, use_cache=True).logits[:, -1].float()
    ends = [(ids[:-1], ids, "stop") if ids[-1] in stops else (ids, ids, "length") for _, _, _, ids in rows]
    results = iter({"text": tokenizer.decode(a), "ids": ids, "tokens": len(ids), "finish": f} for a, ids, f in ends)
    return [[next(results) for _ in own] for _, own in jobs]


def generation_batches(lengths, rows_per_job, batch_rows):
    """Job numbers of each batch: similar prompt lengths together, at most batch_rows answers (one job at least).

    A pure function of the input, so that a continued run forms the batches of an uninterrupted one."""
    batches, rows = [], 0
    for job in sorted(range(len(lengths)), key=lambda j: (lengths[j], j)):
        if not batches or rows + rows_per_job[job] > batch_rows:
            batches, rows = batches + [[]], 0
        batches[-1].append(job)
        rows += rows_per_job[job]
    return batches


# ---- OpenAI-compatible endpoints ------------------------------------------------------------------------------


TIMEOUT, PATIENCE, PAUSE = 300, 60, 0.5  # seconds: for a reply; without any reply; before the second attempt
LONGEST = 600  # seconds that a server may ask us to wait
REMEDY = {"AuthenticationError": "set OPENAI_API_KEY", "PermissionDeniedError": "set OPENAI_API_KEY",
          "NotFoundError": "check the URL (it ends in /v1) and the model's name there",
          "APIConnectionError": "check the URL and that the server runs", "APITimeoutError": "lower --concurrency",
          "RateLimitError": "lower --concurrency or wait", "BadRequestError": "the server refuses such requests",
          "UnprocessableEntityError": "the server refuses such requests"}
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

    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0,
                           timeout=TIMEOUT)
    keys, lock, ended = [f"{seed_for(url, model, request):x}" for request in requests], Lock(), Event()
    known = {row.pop("key"): row for row in read_kept(kept)}
    clock = {"open": 0.0, "answered": time.monotonic()}  # from when on to ask again; the latest reply

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
                    say(f"{url}: {describe(error)}; asked again until {PATIENCE} s pass without any reply")
        clock["answered"] = time.monotonic()
        if reply.pop("estimated", False):
            say(f"{url} does not count tokens: estimated at 4 characters each")
        if kept:
            with lock:
                append_lines(kept, [{"key": key} | reply])
        return reply

    try:
        with ThreadPoolExecutor(concurrency) as pool:
            jobs = [None if key in known else pool.submit(one, key, request) for key, request in zip(keys, requests)]
            try:
                return [known[key] if job is None else job.result() for key, job in zip(keys, jobs)]
            except BaseException:
                ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except (openai.OpenAIError, *GARBLED) as error:
        raise BadInput(f"endpoint {url}: {describe(error)}; {REMEDY.get(type(error).__name__, 'is the server well?')}; "
                       "what is written is kept, run again to continue") from None


GARBLED = (ValueError, IndexError, TypeError, AttributeError, KeyError)  # what reading such a reply raises


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
    status, headers = getattr(error, "status_code", None), getattr(getattr(error, "response", None), "headers", {})
    if status and status < 500 and status not in (408, 409, 425, 429) or getattr(error, "code", "") == \
            "insufficient_quota":
        return None
    named = headers.get("retry-after", "")
    try:
        named = float(named) if re.fullmatch(r"[\d.]+", named) else \
            parsedate_to_datetime(named).timestamp() - time.time()
        return max(named, 0.0) if named <= LONGEST else None
    except ValueError:  # none named
        return min(PAUSE * 2 ** attempt, 20)


def read_kept(path):
    """Replies of a batch that was not finished; a torn last line is left out."""
    text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""
    if text and not text.endswith("\n"):
        Path(path).write_text(text[:text.rfind("\n") + 1], encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read_reply(reply, request):
    """A server's reply as ask_endpoint returns it; ValueError and others when it is none."""
    choice, usage = reply.choices[0], reply.usage
    calls = [f'{{"name": {json.dumps(c.function.name)}, "arguments": {c.function.arguments}}}'
             for c in choice.message.tool_calls or []]
    text = "\n".join(filter(None, [choice.message.content or "", *calls]))
    text = text.encode("utf-8", "replace").decode()  # half an emoji
    tokens, read = (getattr(usage, name, None) for name in ("completion_tokens", "prompt_tokens"))
    estimated = type(tokens) is not int or type(read) is not int
    if estimated:
        read, tokens = sum(len(str(m["content"])) for m in request["messages"]) // 4, len(text) // 4 + 1
    found = {"text": text, "tokens": tokens, "read": read, "estimated": estimated,
             "finish": "length" if choice.finish_reason == "length" else "stop"}
    if request.get("logprobs"):
        first = (getattr(choice.logprobs, "content", None) or [None])[0]
        found["top"] = [[one.token + "", min(float(one.logprob), 0.0)] for one in first.top_logprobs or []
                        ] if first else None
    return found
