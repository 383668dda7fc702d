"""Attention along a line: every segment sees its prompt and itself only.

Shapes: T = tokens of the line, D = width of a head. Keys and values may have fewer heads than
queries (grouped-query attention): then each is shared by several heads of queries.
"""

import functools
import inspect

import torch
import torch.nn.functional as F


@functools.cache
def register_attention():
    """Make attend known to transformers as "packed"; once.

    It waits for the first model, as the import takes a second."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register("packed", attend)
    # Ordinary calls of the same model keep their masks.
    AttentionMaskInterface.register("packed", sdpa_mask)


def attend(
    module,
    query,
    key,
    value,
    attention_mask,
    *,
    line=None,
    scaling=None,
    sliding_window=None,
    **options,
):
    """The attention of one layer, as transformers calls it.

    -> (outputs [1, T, heads, D], None for the attention weights)

    query [1, heads, T, D], key and value [1, kv heads, T, D]. The argument `line` of the model's
    call arrives here. Without a line it is what transformers does with "sdpa"."""
    if line is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            sliding_window=sliding_window,
            **options,
        )
    if sliding_window is not None:
        line.window_layers.add(module.layer_idx)
    if line.kept is not None:
        line.kept[module.layer_idx] = key.detach(), value.detach()
    past = None if line.past is None else line.past[module.layer_idx]
    way = attend_varlen if line.varlen else attend_segments
    return way(query, key, value, line, past=past, scaling=scaling, window=sliding_window), None


# ---- a call for each segment --------------------------------------------------------------------


def attend_segments(query, key, value, line, *, past, scaling, window):
    """Attention segment by segment; its keys are those it sees, and its own behind them.

    past: (keys, values) that this layer kept of the line before, or None."""
    sizes = [segment.end - segment.start for segment in line.segments]
    pieces = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2))
    past_keys, past_values = past or (None, None)
    keys_of, values_of = {}, {}  # by the place where a segment starts
    outputs = []
    for segment, (q, k, v) in zip(line.segments, pieces):
        keys_of[segment.start], values_of[segment.start] = k, v
        if segment.seen:
            k = torch.cat([*seen_pieces(segment, keys_of, past_keys), k], 2)
            v = torch.cat([*seen_pieces(segment, values_of, past_values), v], 2)

        # Where a segment sees nothing before it, and no window cuts it, the mask is plainly causal.
        queries = q.shape[2]
        mask = None
        if segment.seen or (window and window < queries):
            mask = causal_mask(line, queries, k.shape[2] - queries, window, device=q.device)
        if mask is not None and q.is_cuda:  # no fused kernel takes both a mask and shared heads
            k = one_for_each_head(k, q.shape[1])
            v = one_for_each_head(v, q.shape[1])
        outputs.append(
            F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2)


def one_for_each_head(shared, heads):
    """Keys or values [1, kv heads, n, D] -> [1, heads, n, D]: neighbouring heads share one."""
    return shared.repeat_interleave(heads // shared.shape[1], 1)


def seen_pieces(segment, by_start, past):
    """The keys, or the values, that a segment sees: pieces [1, kv heads, n, D].

    by_start: those of this line's segments, by where they start. past: those of the line before,
    [1, kv heads, its tokens, D], or None."""
    if past is not None:
        return [past[:, :, first:last] for first, last in segment.seen]
    return [by_start[first][:, :, : last - first] for first, last in segment.seen]


def causal_mask(line, queries, before, window, *, device):
    """[queries, before + queries] bool: query i sees the keys up to before + i.

    With a window it sees the last `window` of them. The masks of a line are the same in all its
    layers, so they are made once."""
    size = queries, before, window
    if size not in line.masks:
        mask = torch.ones(queries, before + queries, dtype=torch.bool, device=device).tril(before)
        line.masks[size] = mask.triu(before - window + 1) if window else mask
    return line.masks[size]


# ---- one call for all segments ------------------------------------------------------------------


def attend_varlen(query, key, value, line, *, past, scaling, window):
    """Attention by one call of a kernel for segments of any length.

    What a segment sees is gathered in front of its own keys. The kernel aligns queries and keys at
    their ends, as a segment needs it that sees more than itself."""
    past_tokens = 0
    if past is not None:
        past_tokens = past[0].shape[2]
        key = torch.cat([past[0], key], 2)
        value = torch.cat([past[1], value], 2)
    if line.gather is None:
        line.gather = gathered_places(line.segments, past_tokens, query.device)
    places, ends_q, ends_k, longest_q, longest_k = line.gather

    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))  # [T, heads, D]
    k = k.index_select(0, places)
    v = v.index_select(0, places)
    kernel = varlen_kernel()
    keys_before = window - 1 if window else -1  # that a query sees beside its own; -1: all
    options = {"scale": scaling, "window_size": (keys_before, 0)}
    if "enable_gqa" in inspect.signature(kernel).parameters:  # not every torch has it
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return kernel(q.contiguous(), k, v, ends_q, ends_k, longest_q, longest_k, **options)[None]


def gathered_places(segments, past_tokens, device):
    """What the kernel must know of the segments: places, ends_q, ends_k, longest_q, longest_k.

    places: of all keys, segment behind segment. ends_q, ends_k [segments + 1] int32: where each
    segment's queries and keys end, after a 0. longest_q, longest_k: the most in one segment.

    past_tokens: keys of the line before, which stand in front of this line's own."""
    places, queries, keys = [], [], []
    for segment in segments:
        before = len(places)
        for first, last in segment.seen:
            places += range(first, last)
        places += range(past_tokens + segment.start, past_tokens + segment.end)
        queries.append(segment.end - segment.start)
        keys.append(len(places) - before)
    ends_q = torch.tensor([0, *queries]).cumsum(0).to(device, torch.int32)
    ends_k = torch.tensor([0, *keys]).cumsum(0).to(device, torch.int32)
    return torch.tensor(places, device=device), ends_q, ends_k, max(queries), max(keys)


def varlen_kernel():
    """torch's attention for segments of any length (CUDA, half precision); tests put their own."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn
