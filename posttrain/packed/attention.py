"""Attention along a line: every segment sees its prompt and itself only."""

import functools
import inspect

import torch
import torch.nn.functional as F


def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, line=None, **options):
    """The attention of one layer: query [1, heads, T, D], key and value [1, kv heads, T, D] -> [1, T, heads, D]. A call
    per segment of the line, or one for all where the GPU has a kernel for them; without a line as transformers does."""
    if line is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling,
                                      sliding_window=sliding_window, **options)
    line["windows"] += sliding_window is not None
    if line.get("keep"):
        line["kept"][module.layer_idx] = key.detach(), value.detach()
    before = line["past"][module.layer_idx] if line["past"] else None
    if line.get("varlen"):
        return attend_varlen(query, key, value, line, before, scaling, sliding_window), None
    sizes = [end - start for _, start, end in line["segments"]]
    outputs, parts = [], {}  # where a segment starts: its keys and values
    pieces = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2))
    for (seen, start, end), (q, k, v) in zip(line["segments"], pieces):
        parts[start] = k, v
        if seen:
            old = [[x[:, :, a:b] for x in before] if before else [x[:, :, :b - a] for x in parts[a]] for a, b in seen]
            k, v = (torch.cat(same, 2) for same in zip(*old, (k, v)))
        mask = None
        if seen or (sliding_window or end) < end - start:
            mask = causal_mask(line, end - start, k.shape[2] - q.shape[2], sliding_window, q.device)
        if mask is not None and q.is_cuda:  # no fused kernel takes both a mask and shared heads
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling,
                                                      enable_gqa=q.shape[1] != k.shape[1]))
    return torch.cat(outputs, 2).transpose(1, 2), None


def causal_mask(line, queries, before, window, device):
    """[queries, before + queries] bool: query i sees the keys up to before + i, the last `window` of them. Kept for the
    layers that follow."""
    wanted = queries, before, window
    if wanted not in line["cache"]:
        mask = torch.ones(queries, before + queries, dtype=torch.bool, device=device).tril(before)
        line["cache"][wanted] = mask.triu(before - window + 1) if window else mask
    return line["cache"][wanted]


def attend_varlen(query, key, value, line, before, scaling, window):
    """attend by one call of a kernel for segments of any length: a segment's keys are gathered behind what it sees. The
    kernel aligns queries and keys at their ends, as a branch needs it."""
    if before:
        key, value = (torch.cat([old, new], 2) for old, new in zip(before, (key, value)))
    if "gather" not in line["cache"]:
        shift = before[0].shape[2] if before else 0
        ranges = [(*seen, (shift + start, shift + end)) for seen, start, end in line["segments"]]
        gather = [i for own in ranges for first, last in own for i in range(first, last)]
        sizes = [(own[-1][1] - own[-1][0], sum(last - first for first, last in own)) for own in ranges]
        ends = torch.tensor([(0, 0), *sizes]).cumsum(0).to(query.device, torch.int32)
        line["cache"]["gather"] = (torch.tensor(gather, device=query.device), ends[:, 0].contiguous(),
                                   ends[:, 1].contiguous(), *(max(column) for column in zip(*sizes)))
    gather, ends_q, ends_k, longest_q, longest_k = line["cache"]["gather"]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
    k, v = k.index_select(0, gather), v.index_select(0, gather)
    kernel = varlen_kernel()
    gqa = {"enable_gqa": q.shape[1] != k.shape[1]} if "enable_gqa" in inspect.signature(kernel).parameters else {}
    return kernel(q.contiguous(), k, v, ends_q, ends_k, longest_q, longest_k, scale=scaling,
                  window_size=((window or 0) - 1, 0), **gqa)[None]


def varlen_kernel():
    """torch's attention for segments of any length (CUDA, half precision); a function, so that tests can put theirs."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@functools.cache
def register_attention():
    """Make attend known to transformers as "packed"; once, when a model is there: the import takes a second."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register("packed", attend)
    AttentionMaskInterface.register("packed", sdpa_mask)  # ordinary calls of the same model keep their masks
