"""Sampling answers: from a local model, or any OpenAI-compatible endpoint.

Local sampling reads each prompt once for all its samples; rows leave the batch when they end, and others may take their
places. Every sample has a random stream of its own: what is drawn depends on its seed, never on the rows beside it.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

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


TIMEOUT, RETRIES = 120, 6  # seconds for a reply; further attempts, at the client's pace or the server's Retry-After
ESTIMATED = set()  # endpoints that do not count tokens, of which it was said


def ask_endpoint(url, model, requests, concurrency=8, kept=None):
    """Chat completions for requests [{"messages", "temperature", "max_tokens", "seed"}, ...], several at a time -> in
    order [{"text", "tokens", "read", "finish"}]; with "logprobs" also "top", {token: log-probability} of the first
    token, None where the server has none.

    The key comes from OPENAI_API_KEY. Busy servers, stalls, cut and garbled replies are asked again; when that does not
    help BadInput says so. kept: a file of the replies of this batch, so that a run that goes on pays nothing twice; the
    caller deletes it when the batch is written. Tokens that a server does not count are estimated (4 characters each),
    which is said once."""
    import openai  # a second to load: only where it is used

    client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=RETRIES,
                           timeout=TIMEOUT)
    keys, lock = [f"{seed_for(url, model, request):x}" for request in requests], Lock()
    known = {row.pop("key"): row for row in read_kept(kept)}

    def one(key, request):
        for left in reversed(range(3)):
            try:
                reply = read_reply(client.chat.completions.create(model=model, **request), request)
                break
            except (ValueError, IndexError, TypeError, AttributeError, KeyError):  # no such reply, or no JSON
                if not left:
                    raise
        if reply.pop("estimated", False) and url not in ESTIMATED:
            ESTIMATED.add(url)
            print(f"note     {url} does not count tokens: estimated at 4 characters each")
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
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except (openai.OpenAIError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        raise BadInput(f"endpoint {url}: {type(error).__name__}: {str(error)[:160]}; what is written is kept, run "
                       "again to continue") from None


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
    read, tokens = sum(len(str(m["content"])) for m in request["messages"]) // 4, len(text) // 4 + 1
    if usage:
        read, tokens = usage.prompt_tokens, usage.completion_tokens
    found = {"text": text, "tokens": int(tokens), "read": int(read), "estimated": not usage,
             "finish": "length" if choice.finish_reason == "length" else "stop"}
    if request.get("logprobs"):
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        found["top"] = {one.token: one.logprob for one in first.top_logprobs} if first else None
    return found
