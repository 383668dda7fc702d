"""Log-probabilities of packs: a prompt is read once for all its answers, nothing is padded, no [T, V] is held.

A pack is one line of tokens: each prompt with its first answer behind it, then its further answers, each of which sees
its prompt and itself only. A tree is a line, too: whatever rows of tokens have in common at their start stands there
once. T = tokens of the line, S = supervised tokens, H = hidden size, V = vocabulary. The padded path of common.py stays
the yardstick: share_prompts compares the two on every model before it is used.
"""

import functools
import inspect
import types
from collections import UserDict

import torch
import torch.nn.functional as F

from common import BadInput, completion_logps

# ---- the line of tokens --------------------------------------------------------------------------------------


def prompt_length(seq):
    """Number of tokens before the first supervised one (at least 1: nothing predicts the first token)."""
    return seq["mask"].index(1, 1) if 1 in seq["mask"][1:] else len(seq["ids"])


def lay_out(seqs, device="cpu", memory=None):
    """Sequences [{"ids", "mask"}] on one line -> {"ids", "positions" [T], "segments", "source", "target", "row" [S]}.

    Sequences with the same tokens before their first supervised one share them. segments: [(seen, start, end)]: the
    queries start:end see the keys of the ranges in `seen`, each from the start of a segment, then their own past.
    source[s] is the place whose hidden state predicts target[s], a token of sequence row[s]; the last token of a prompt
    predicts several. memory: a line that was read before and kept its keys and values; its prompts are not read again
    but for the last token, which predicts the first of an answer."""
    groups, known = {}, memory["prompts"] if memory else {}
    for number, seq in enumerate(seqs):
        groups.setdefault(tuple(seq["ids"][:prompt_length(seq)]), []).append(number)
    ids, positions, segments, source, target, row, prompts = [], [], [], [], [], [], {}
    for prompt, members in groups.items():
        cut = len(prompt)
        begin = prompts[prompt] = known[prompt] if memory else len(ids)
        for k, number in enumerate(members):
            own, mask = seqs[number]["ids"], seqs[number]["mask"]
            skip = cut - 1 if memory else cut * (k > 0)  # tokens of the prompt that are not read again
            start, shift = len(ids), len(ids) - skip  # token t of this sequence stands at shift + t
            ids += own[skip:]
            positions += range(skip, len(own))
            segments.append(([(begin, begin + skip)] * (skip > 0), start, len(ids)))
            scored = [t for t in range(cut, len(own)) if mask[t]]
            source += [begin + cut - 1 if t == cut and not memory else shift + t - 1 for t in scored]
            target += [own[t] for t in scored]
            row += [number] * len(scored)
    line = {"ids": ids, "positions": positions, "source": source, "target": target, "row": row}
    return as_line(line, device, segments) | {"prompts": prompts, "past": memory["kept"] if memory else None}


def as_line(values, device, segments):
    """A line from lists of numbers and its segments."""
    line = {name: torch.tensor(numbers, device=device) for name, numbers in values.items()}
    return UserDict(line | {  # of a plain dict FSDP hands on a copy, and the layers write into this one
        "segments": segments, "kept": {}, "past": None, "cache": {}, "windows": 0})


def line_tokens(seqs):
    """Tokens that sequences take on a line."""
    prompts = {tuple(seq["ids"][:prompt_length(seq)]) for seq in seqs} if len(seqs) > 1 else ()
    return sum(map(len, prompts)) + sum(len(seq["ids"]) - prompt_length(seq) * bool(prompts) for seq in seqs)


# ---- trees ---------------------------------------------------------------------------------------------------


def lay_out_tree(rows, shared, device="cpu"):
    """Sorted rows of tokens, of which number i begins with the same shared[i] tokens as the one before, on one line:
    what is shared stands there once. As lay_out; source [rows] is the place of each row's last token."""
    ids, positions, segments, source, path = [], [], [], [], []
    for row, common in zip(rows, shared):
        seen, left = [], common
        for first, last in path:  # the ranges of the row before
            seen += [(first, min(last, first + left))] * (left > 0)
            left -= last - first
        if common < len(row):
            segments.append((seen, len(ids), len(ids) + len(row) - common))
            path = [*seen, segments[-1][1:]]
            ids += row[common:]
            positions += range(common, len(row))
        source.append(len(ids) - 1)
    return as_line({"ids": ids, "positions": positions, "source": source}, device, segments)


def cut_lines(fresh, whole, limit):
    """Neighbouring rows as lines of at most `limit` tokens, so that as few as can be are read twice -> [(from, to)].

    fresh[i]: tokens that row i does not share with the row before; whole[i]: all its tokens, which it costs as the
    first of a line."""
    best = [(0, 0)]  # (tokens of all lines up to row i, first row of the last one)
    for end in range(1, len(whole) + 1):
        tokens, found = 0, []
        for start in range(end - 1, -1, -1):
            size = whole[start] + tokens
            if size > limit and found:
                break
            found.append((best[start][0] + size, start))
            tokens += fresh[start]
        best.append(min(found))
    lines, end = [], len(whole)
    while end:
        lines.append((best[end][1], end))
        end = best[end][1]
    return lines[::-1]


def common_start(one, other):
    """Number of tokens that two rows have in common at their start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


@torch.no_grad()
def tree_logits(model, rows, limit=4096):
    """Next-token logits after each row of tokens; yields (row numbers, logits [n, V] float32, tokens read for each).

    What rows have in common at their start is read once a line, for the first of them in sorted order; a line has at
    most `limit` tokens, or one row. A model that reads no lines gets every row alone."""
    device, order = base_of(model).device, sorted(range(len(rows)), key=rows.__getitem__)
    if not shares_prompts(model):
        for number, row in enumerate(rows):
            logits = model(input_ids=torch.tensor([row], device=device), logits_to_keep=1).logits
            yield [number], logits[:, -1].float(), [len(row)]
        return
    rows = [rows[number] for number in order]
    shared = [0, *(common_start(*pair) for pair in zip(rows, rows[1:]))]
    fresh = [len(row) - common for row, common in zip(rows, shared)]
    for start, end in cut_lines(fresh, [*map(len, rows)], limit):
        line = lay_out_tree(rows[start:end], [0, *shared[start + 1:end]], device)
        yield order[start:end], model(line=line), [len(rows[start]), *fresh[start + 1:end]]


# ---- attention -----------------------------------------------------------------------------------------------


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


# ---- the head and the adapter --------------------------------------------------------------------------------


class HeadLogps(torch.autograd.Function):
    """log softmax(cap(scale x (hidden W^T + bias)))[target] of every token: [S, H] -> [S] float32, tile by tile.

    W is frozen, so d logp / d hidden = scale x (W[target] - softmax W) is known in the forward: [S, H] is kept for the
    backward, [S, V] never. cap(z) = c tanh(z / c) where the model caps its logits; its slope multiplies both terms.
    tile: (tokens, words) at a time. Over tiles of words the softmax is summed against a running maximum; on a GPU a
    tile has all words, as sums of products in half precision would be rounded at every tile."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, scale, softcap, tile):
        logps, wanted = torch.empty(len(target), dtype=torch.float32, device=hidden.device), ctx.needs_input_grad[0]
        direction = torch.empty_like(hidden) if wanted else None
        for at in range(0, len(target), tile[0]):
            here = slice(at, at + tile[0])
            x, t = hidden[here].to(weight.dtype), target[here, None]
            own = total = pull = torch.zeros(len(t), 1, device=x.device)
            top, own_slope = torch.full_like(own, -torch.inf), torch.ones_like(own)
            for v in range(0, len(weight), tile[1]):
                w = weight[v:v + tile[1]]
                logits = F.linear(x, w, None if bias is None else bias[v:v + tile[1]]).float()  # [tokens, words]
                logits = logits if scale == 1 else logits * scale
                if softcap:
                    logits = torch.tanh(logits / softcap)
                    slope, logits = 1 - logits**2, logits * softcap
                inside, place = (v <= t) & (t < v + len(w)), (t - v).clamp(0, len(w) - 1)
                own, before = torch.where(inside, logits.gather(1, place), own), top
                top = torch.maximum(top, logits.amax(1, keepdim=True))
                mass, shrink = logits.sub_(top).exp_(), (before - top).exp()
                total = total * shrink + mass.sum(1, keepdim=True)
                if wanted and softcap:
                    own_slope, mass = torch.where(inside, slope.gather(1, place), own_slope), mass * slope
                if wanted:
                    pull = pull * shrink + (mass.to(w.dtype) @ w).float()  # [tokens, H]
            logps[here] = (own - top - total.log())[:, 0]
            if wanted:
                direction[here] = scale * (weight[t[:, 0]] * own_slope - pull / total)
        ctx.save_for_backward(direction)
        return logps

    @staticmethod
    def backward(ctx, grad):
        direction, = ctx.saved_tensors
        return direction * grad[:, None].to(direction.dtype), *[None] * 6


def lora_forward(self, x, *args, **kwargs):
    """peft's LoRA layer with one pass over its output instead of three."""
    active = self.active_adapters
    plain = len(active) == 1 and active[0] not in self.lora_variant and self.lora_B[active[0]].bias is None
    if not plain or self.disable_adapters or self.merged or kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    low_rank = F.linear(x, self.lora_A[active[0]].weight.to(x.dtype)).flatten(0, -2)  # [T, r]
    out = self.base_layer(x)
    up = self.lora_B[active[0]].weight.T.to(out.dtype)
    return torch.addmm(out.flatten(0, -2), low_rank, up, alpha=self.scaling[active[0]]).view_as(out)


# ---- the model -----------------------------------------------------------------------------------------------


def base_of(model):
    """The transformers model inside adapters and wrappers of accelerate."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shares_prompts(model):
    """True when this model reads lines, False when it reads padded rows."""
    return bool(getattr(base_of(model), "packed", None))


def share_prompts(model):
    """Teach a causal LM (with or without LoRA) to read lines; says in one line when it must keep to padded rows.

    What is tried is compared with the padded path on a few tokens. BadInput when the output layer is trained: then its
    gradient would be missing. One that can is left as it is."""
    base = base_of(model)
    if shares_prompts(model):
        return
    head = base.get_output_embeddings()
    if hasattr(head, "lora_A") or any(p.requires_grad for p in head.parameters()):
        raise BadInput("an adapter on the output layer (lm_head): its gradient is not computed here; train one without")
    base.packed, base.padded_forward = None, base.forward
    config = base.config.get_text_config()
    if config._attn_implementation not in ("sdpa", "packed"):
        return padded(model, f"this architecture's attention is computed by {config._attn_implementation!r}")
    kinds = {*(getattr(config, "layer_types", None) or ["full_attention"])}
    if not kinds <= {"full_attention", "sliding_attention"}:
        return padded(model, f"it has layers of another kind ({', '.join(sorted(kinds))})")
    rows = padded_rows(model)  # before anything is changed
    register_attention()
    base.forward = types.MethodType(line_forward, base)
    for module in base.modules():
        if hasattr(module, "lora_A") and type(module).__name__ in ("Linear", "Linear4bit"):  # peft's, plain or NF4
            module.forward = types.MethodType(lora_forward, module)
    for part in base.modules():
        if getattr(getattr(part, "config", None), "_attn_implementation", None) == "sdpa":
            part.config._attn_implementation = "packed"
    half = base.device.type == "cuda" and (torch.is_autocast_enabled("cuda") or base.dtype != torch.float32)
    for base.packed in ["varlen"] * half + ["segments"]:
        try:
            reason = differs(model, *rows)
        except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        if not reason:
            return
    padded(model, reason)


def padded(model, reason):
    """Back to padded rows, said in one line."""
    base = base_of(model)
    base.packed, base.forward = None, base.padded_forward
    for part in base.modules():
        if getattr(part.__dict__.get("forward"), "__func__", None) is lora_forward:
            del part.forward
        if getattr(getattr(part, "config", None), "_attn_implementation", None) == "packed":
            part.config._attn_implementation = "sdpa"
    print(f"packs    padded rows, every prompt read for each answer: {reason}")


def padded_rows(model):
    """A few made-up answers, their log-probabilities by the padded path, and the error that is allowed: that path's own
    rounding, which shows when an answer is read alone; in half precision at least 0.01 a token."""
    rng = torch.Generator().manual_seed(0)
    draw = torch.randint(0, base_of(model).config.get_text_config().vocab_size, (64,), generator=rng).tolist()
    seqs = [{"ids": draw[:12] + draw[20:31], "mask": [0] * 12 + [1] * 11}, {"ids": draw[:12] + draw[31:50],
            "mask": [0] * 12 + [1] * 19}, {"ids": draw[12:20] + draw[50:], "mask": [0] * 8 + [1] * 14}]
    with torch.no_grad():
        logps = completion_logps(model, seqs)[0]
        noise = max(abs(completion_logps(model, [seq])[0] - logp).item() for seq, logp in zip(seqs, logps))
    return seqs, logps, max(8 * noise, 1e-4 if base_of(model).device.type == "cpu" else 0.2)


def differs(model, seqs, logps, allowed):
    """None when lines and ordinary calls of the same model give the log-probabilities of before, else what differs."""
    config = base_of(model).config.get_text_config()
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    window = window and getattr(config, "use_sliding_window", True)
    sliding = kinds.count("sliding_attention") if kinds else config.num_hidden_layers * bool(window)
    line = lay_out(seqs, base_of(model).device)
    found = line_logps(model, line, len(seqs))[0]
    if found.requires_grad:  # a kernel may fail in its backward pass only
        torch.autograd.grad(found.sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    with torch.no_grad():
        error = (found - logps).abs().max().item()
        error = max(error, (completion_logps(model, seqs)[0] - logps).abs().max().item())
    if line["windows"] != sliding:
        return f"{sliding} layers have a window, {line['windows']} use it"
    return None if error <= allowed else f"log-probabilities would differ by {error:.2g}"


def line_forward(self, *args, line=None, **kwargs):
    """The model's forward: with a line, token log-probabilities [S] instead of logits; without targets, the logits
    [S, V] float32 at its places."""
    if line is None:
        return self.padded_forward(*args, **kwargs)
    config, head = self.config.get_text_config(), self.get_output_embeddings()
    if config._attn_implementation != "packed":
        raise RuntimeError("another model that shares this one's config object has changed its attention")
    line["varlen"] = self.packed == "varlen"
    skip = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)  # transformers makes no mask of its own
    hidden = self.get_decoder()(input_ids=line["ids"][None], position_ids=line["positions"][None], attention_mask=skip,
                                use_cache=False, line=line).last_hidden_state[0]  # [T, H]
    hidden, softcap = hidden.index_select(0, line["source"]), getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    if "target" not in line:
        logits = F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float() * scale
        return torch.tanh(logits / softcap) * softcap if softcap else logits
    words = len(head.weight)
    tile = (max(16, (1 << 25) // words), words) if hidden.is_cuda else (512, 1024)
    return HeadLogps.apply(hidden, head.weight, head.bias, line["target"], scale, softcap, tile)


def line_logps(model, line, rows):
    """Summed log-probabilities of the sequences on a line -> (logps [rows] float64, tokens [rows])."""
    token_logps = model(line=line)
    logps = torch.zeros(rows, dtype=torch.float64, device=token_logps.device)
    return logps.index_add(0, line["row"], token_logps.double()), torch.bincount(line["row"], minlength=rows)


def seq_logps(model, seqs, keep=False):
    """completion_logps by the fastest path this model has -> (logps [B] float64, tokens [B], line or None).

    keep: the line also holds keys and values, without gradient, for logps_after."""
    if not shares_prompts(model):
        return *completion_logps(model, seqs), None
    line = lay_out(seqs, base_of(model).device) | {"keep": keep}
    return *line_logps(model, line, len(seqs)), line


def token_logps(model, seqs):
    """Log-probabilities [S] of the supervised tokens of all sequences, in an order that depends on seqs alone."""
    if shares_prompts(model):
        return model(line=lay_out(seqs, base_of(model).device))
    return completion_logps(model, seqs, by_token=True)


def logps_after(model, seqs, line):
    """Log-probabilities [B] of other answers to the prompts of a line that was read with keep; no gradient."""
    with torch.no_grad():
        if line is None:
            return completion_logps(model, seqs)[0]
        return line_logps(model, lay_out(seqs, base_of(model).device, memory=line), len(seqs))[0]
