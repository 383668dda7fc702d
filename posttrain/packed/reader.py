"""Reading lines with a model: taught, compared with the padded path, used."""

import types

import torch
import torch.nn.functional as F

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.packed.attention import register_attention
from posttrain.packed.head import HeadLogps
from posttrain.packed.lines import lay_out
from posttrain.packed.lora import lora_forward


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


def teach_lines(model):
    from posttrain.model.load import autocast
    with autocast(model):
        share_prompts(model)


reads_lines = shares_prompts
