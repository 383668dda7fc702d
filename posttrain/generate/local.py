"""Sampling answers from a local model.

Each prompt is read once for all its samples; rows leave the batch when they end, and others may take their places.
Every sample has a random stream of its own: what is drawn depends on its seed, never on the rows beside it.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicLayer

from posttrain.chat.stops import stop_ids
from posttrain.generate.cache import GrowingLayer


def padded_ids(rows, pad_id, device, left):
    """Token lists -> (ids, attention) [B, T], padded on the left or right."""
    side, rows = "left" if left else "right", [torch.tensor(row) for row in rows]
    ids, ones = pad_sequence(rows, True, pad_id, side), pad_sequence([torch.ones_like(x) for x in rows], True, 0, side)
    return ids.to(device), ones.to(device)


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
