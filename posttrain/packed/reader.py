"""Reading lines with a model: taught, compared with the padded path, used.

    teach_lines(model)                              # once, behind loading
    logps, tokens, line = seq_logps(model, seqs)    # by padded rows where it cannot read lines

A model that reads lines has a LineReader, which calls the model's decoder with the line and then
its output layer. The model's own forward stays as it is.
"""

import contextlib

import torch
from torch.nn.utils.rnn import pad_sequence

from common import completion_logps
from posttrain.cli import BadInput
from posttrain.model.adapter import decoder_of
from posttrain.model.load import autocast, trained
from posttrain.packed.attention import register_attention
from posttrain.packed.head import OutputLayer
from posttrain.packed.lines import lay_out
from posttrain.packed.lora import fuse_lora, restore_lora
from posttrain.processes import as_forward

# What a model that is no good for lines, or for a cache, may raise when it is tried.
FAILURES = (RuntimeError, TypeError, KeyError, IndexError, AttributeError, ValueError)


# ---- the reader ---------------------------------------------------------------------------------


class LineReader:
    """Reads lines with one causal LM.

    kind: "segments", an attention call for each segment, or "varlen", one for all (CUDA, half
    precision)."""

    def __init__(self, model, kind):
        self.base = base_of(model)
        self.kind = kind
        self.output = OutputLayer(self.base)
        self.read = as_forward(model, self.read_line)

    def logps(self, line):
        """Log-probabilities of the line's targets [S] float32."""
        return self.read(line)

    def logits(self, line):
        """Next-token logits [S, V] float32 at the places line.source."""
        return self.read(line, logits=True)

    def read_line(self, line, logits=False):
        """What logps and logits return. Call those: they find the weights gathered under FSDP."""
        if self.base.config.get_text_config()._attn_implementation != "packed":
            raise RuntimeError(
                "another model that shares this one's config object has changed its attention"
            )
        line.varlen = self.kind == "varlen"
        # A mask of one element keeps transformers from making one: attend knows who sees whom.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.base.device)
        decoded = decoder_of(self.base)(
            input_ids=line.ids[None],
            position_ids=line.positions[None],
            attention_mask=mask,
            use_cache=False,
            line=line,  # transformers hands it on to attend
        )
        hidden = decoded.last_hidden_state[0]  # [T, H]
        hidden = hidden.index_select(0, line.source)  # [S, H]
        if logits:
            return self.output.logits(hidden)
        return self.output.logps(hidden, line.target)


def base_of(model):
    """The transformers model inside adapters and wrappers of accelerate."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def line_reader(model):
    """The LineReader of this model, or None when it reads padded rows."""
    return getattr(base_of(model), "line_reader", None)


def reads_lines(model):
    """True when this model reads lines, False when it reads padded rows."""
    return line_reader(model) is not None


def line_kind(model):
    """How this model reads lines, "segments" or "varlen" (see LineReader); None: by padded rows."""
    reader = line_reader(model)
    return None if reader is None else reader.kind


@contextlib.contextmanager
def padded_rows_only(model):
    """Within the `with` block the model reads padded rows, as one that was never taught lines."""
    base = base_of(model)
    reader = line_reader(model)
    base.line_reader = None
    try:
        yield
    finally:
        base.line_reader = reader


# ---- log-probabilities --------------------------------------------------------------------------


def seq_logps(model, seqs, keep=False):
    """completion_logps by the fastest path this model has.

    -> (log-probabilities [B] float64, numbers of supervised tokens [B], line or None)

    keep: the line also holds keys and values, without gradient, for logps_after."""
    reader = line_reader(model)
    if reader is None:
        logps, tokens = completion_logps(model, seqs)
        return logps, tokens, None
    line = lay_out(seqs, reader.base.device)
    if keep:
        line.keep()
    logps, tokens = line_logps(reader, line, len(seqs))
    return logps, tokens, line


def token_logps(model, seqs):
    """Log-probabilities [S] of the supervised tokens, in an order that depends on seqs alone."""
    reader = line_reader(model)
    if reader is None:
        return completion_logps(model, seqs, by_token=True)
    return reader.logps(lay_out(seqs, reader.base.device))


@torch.no_grad()
def logps_after(model, seqs, line):
    """Log-probabilities [B] of other answers to the prompts of a line, without gradient.

    line: what seq_logps returned for first answers to these prompts, with keep. None: it has read
    padded rows, and the prompts are read once more."""
    if line is None:
        return completion_logps(model, seqs)[0]
    reader = line_reader(model)
    return line_logps(reader, lay_out(seqs, reader.base.device, memory=line), len(seqs))[0]


@torch.no_grad()
def last_logits(model, rows):
    """Next-token logits [B, V] float32 after each row of token ids, by padded rows.

    The padding is on the right, where no token of a causal model can see it.
    """
    device = base_of(model).device
    ids = [torch.tensor(row) for row in rows]
    ids = pad_sequence(ids, batch_first=True).to(device)  # [B, T]
    length = torch.tensor([len(row) for row in rows], device=device)[:, None]
    column = torch.arange(ids.shape[1], device=device)
    output = model(
        input_ids=ids,
        attention_mask=(column < length).long(),
        logits_to_keep=column == length - 1,
        use_cache=False,
    )
    logits = output.logits
    if logits.dim() == 3:  # a model that ignores logits_to_keep
        logits = logits[column == length - 1]
    return logits.float()


def line_logps(reader, line, rows):
    """Sums over each sequence of a line -> (logps [rows] float64, tokens [rows])."""
    by_token = reader.logps(line)
    logps = torch.zeros(rows, dtype=torch.float64, device=by_token.device)
    logps = logps.index_add(0, line.row, by_token.double())
    return logps, torch.bincount(line.row, minlength=rows)


# ---- teaching -----------------------------------------------------------------------------------


def teach_lines(model):
    """Teach a causal LM, with or without LoRA, to read lines.

    When it must keep to padded rows, one printed line says why. What is tried is compared with the
    padded path on a few tokens. BadInput when the output layer is trained: then its gradient would
    be missing. A model that reads lines is left as it is."""
    if reads_lines(model):
        return
    base = base_of(model)
    head = base.get_output_embeddings()
    if hasattr(head, "lora_A") or any(p.requires_grad for p in head.parameters()):
        raise BadInput(
            "an adapter on the output layer (lm_head): its gradient is not computed here; "
            "train one without"
        )
    require_causal(model)
    reason = unfit(base.config.get_text_config())
    if reason is None:
        with arithmetic(model):
            reason = try_lines(model)
    if reason is not None:
        print(f"packs    padded rows, every prompt read for each answer: {reason}")


@torch.no_grad()
def require_causal(model):
    """BadInput when what a model says after a text depends on what comes behind it, as in BERT.

    transformers loads encoders as causal language models, too; all numbers would be wrong.
    """
    base = base_of(model)
    text = made_up_answers(base.config.get_text_config().vocab_size)[1]["ids"]
    start = text[: len(text) // 2]
    try:
        with arithmetic(model):
            alone = last_logits(model, [start])[0]  # [V]
            whole = model(input_ids=torch.tensor([text], device=base.device), use_cache=False)
    except FAILURES as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise BadInput(
            f"{base.config.name_or_path}: cannot read a text by itself ({reason})"
        ) from None
    within = whole.logits[0, len(start) - 1].float()
    if not same_logits(within, alone, base):
        raise BadInput(
            f"{base.config.name_or_path}: {type(base).__name__} sees the tokens behind the one it "
            "predicts: it is no causal language model, and cannot be trained or asked as one"
        )


def same_logits(logits, expected, base):
    """Are two tensors of logits the same but for rounding? False where a number is NaN.

    Rounding depends on the batch, in half precision so much that a token may meet other experts.
    Kernels for 4 bits compute in half precision, too.
    """
    is_exact = base.dtype == torch.float32 and not getattr(base, "is_quantized", False)
    allowed = 0.001 if is_exact else 0.3
    return bool((logits - expected).std() <= allowed * expected.std())


def unfit(config):
    """Why an architecture cannot read lines, as its config tells; None: it is worth a try."""
    kinds = {*(getattr(config, "layer_types", None) or ["full_attention"])}
    if not kinds <= {"full_attention", "sliding_attention"}:
        return f"it has layers of another kind ({', '.join(sorted(kinds))})"
    if config._attn_implementation not in ("sdpa", "packed"):
        return f"this architecture's attention is computed by {config._attn_implementation!r}"
    return None


def arithmetic(model):
    """The arithmetic in which the model is going to read, as a context.

    Trainers, which hold the model in train mode, read under autocast: their adapter in float32 lies
    on weights in half precision. All others read in the model's own formats."""
    if model.training and base_of(model).dtype != torch.float32:
        return autocast(model)
    return contextlib.nullcontext()


def try_lines(model):
    """Give the model the fastest reader that passes the comparison -> None, or why none does.

    Where none does the model is left as it was."""
    base = base_of(model)
    yardstick = Yardstick(model)  # before anything is changed
    register_attention()
    set_attention(base, "sdpa", "packed")
    fuse_lora(base)

    half_precision = torch.is_autocast_enabled("cuda") or base.dtype != torch.float32
    kinds = ["segments"]
    if base.device.type == "cuda" and half_precision:
        kinds = ["varlen", "segments"]
    for kind in kinds:
        reader = LineReader(model, kind)
        try:
            reason = yardstick.difference(reader)
        except FAILURES as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        if reason is None:
            base.line_reader = reader
            return None

    restore_lora(base)
    set_attention(base, "packed", "sdpa")
    return reason


def set_attention(base, old, new):
    """Change the attention of a model and of its parts, by name, where it is `old`.

    transformers looks the name up at every call. Its own set_attn_implementation logs warnings
    about architectures that the comparison finds out anyway."""
    for module in base.modules():
        config = getattr(module, "config", None)
        if getattr(config, "_attn_implementation", None) == old:
            config._attn_implementation = new


# ---- the comparison -----------------------------------------------------------------------------


class Yardstick:
    """Made-up answers, their log-probabilities by the padded path, and the allowed error."""

    def __init__(self, model):
        self.model = model
        self.seqs = made_up_answers(base_of(model).config.get_text_config().vocab_size)
        with torch.no_grad():
            self.logps = completion_logps(model, self.seqs)[0]
            alone = [completion_logps(model, [seq])[0] for seq in self.seqs]
        # The padded path's own rounding shows when an answer is read alone. In half precision the
        # allowance is at least 0.01 a token.
        noise = max(abs(logp - in_rows).item() for logp, in_rows in zip(alone, self.logps))
        self.allowed = max(8 * noise, 1e-4 if base_of(model).device.type == "cpu" else 0.2)

    def difference(self, reader):
        """What differs from the log-probabilities of before, or None.

        The reader, without and with prompts that were kept, and ordinary calls of the same model
        are compared."""
        line = lay_out(self.seqs, reader.base.device)
        logps, _ = line_logps(reader, line, len(self.seqs))
        if logps.requires_grad:  # a kernel may fail in its backward pass only
            torch.autograd.grad(logps.sum(), trained(self.model), allow_unused=True)
        with torch.no_grad():
            ordinary = completion_logps(self.model, self.seqs)[0]
            kept = self.logps_of_kept_prompts(reader)
            error = (torch.stack([logps, ordinary, kept]) - self.logps).abs().max().item()

        # A window longer than the made-up answers does not show in their log-probabilities.
        expected = window_layers(reader.base.config.get_text_config())
        if len(line.window_layers) != expected:
            return f"{expected} layers have a window, {len(line.window_layers)} use it"
        if not error <= self.allowed:  # so that NaN is refused
            return f"log-probabilities would differ by {error:.2g}"
        return None

    def logps_of_kept_prompts(self, reader):
        """Log-probabilities of the same answers behind keys and values that a line has kept.

        A layer that attends twice has kept those of its second time alone.
        """
        device = reader.base.device
        line = lay_out(self.seqs, device)
        line.keep()
        reader.logps(line)
        after, _ = line_logps(reader, lay_out(self.seqs, device, memory=line), len(self.seqs))
        return after


def made_up_answers(words):
    """Three sequences of random tokens below `words`; the first two share their prompt."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, words, (64,), generator=rng).tolist()
    parts = [
        (ids[:12], ids[20:31]),
        (ids[:12], ids[31:50]),
        (ids[12:20], ids[50:]),
    ]
    return [
        {"ids": prompt + answer, "mask": [0] * len(prompt) + [1] * len(answer)}
        for prompt, answer in parts
    ]


def window_layers(config):
    """Number of layers that attend to a sliding window, by the config."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return kinds.count("sliding_attention")
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return config.num_hidden_layers
    return 0
