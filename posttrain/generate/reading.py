"""What a model has read of the rows that are being written: kept by its cache, or read anew.

Two ways with the same four methods. CachedText is the fast one: the model keeps what it makes of a
text (keys and values of attention, states of Mamba and its like), and a step reads one token of
each row. WholeText keeps nothing and reads the rows whole for every token: slow, and right for any
causal model. reading_of tries the first on every model and takes the second where it fails, so that
an architecture whose cache we do not understand is slow and never wrong.

B = rows, T = columns of tokens so far, V = vocabulary, P = prompts.
"""

import inspect

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicLayer

from posttrain.generate.cache import GrowingLayer
from posttrain.packed.reader import (
    FAILURES,
    base_of,
    last_logits,
    made_up_answers,
    require_causal,
    same_logits,
)

# Names under which models hand out their cache and take it back.
CACHE_NAMES = ("past_key_values", "cache_params")


class CachedText:
    """Rows that a model reads token by token, as its cache holds what came before.

    All rows end in the last of the T columns, so that every row goes on in the same column; the
    shorter ones have padding on the left.
    """

    def __init__(self, model, pad_id):
        self.model = model
        self.pad_id = pad_id
        self.rows = 0  # B
        self.columns = 0  # T
        self.cache = None
        self.position = None  # [B, 1], the place of a row's last token, padding not counted
        self.can_grow = False  # may rows join while others are being written?
        parameters = inspect.signature(base_of(model).forward).parameters
        self.cache_name = cache_name(parameters)
        self.takes_positions = "position_ids" in parameters

    def admit(self, prompts, prompt_of_row):
        """Read prompts, once each, and put new rows below those that are there.

        prompts: P lists of token ids. prompt_of_row: for each new row the number of its prompt.
        Returns the logits [new rows, V] of the tokens to come.
        """
        ids, attention = padded_ids(prompts, self.pad_id, self.model.device, left=True)  # [P, T]
        position = attention.cumsum(1).sub(1).clamp(min=0)
        out = self.call(ids, attention, position, logits_to_keep=1)

        # Copy what was read of a prompt for each of its rows: from P prompts to the new rows.
        cache = out[self.cache_name]
        select_rows(cache, prompt_of_row)
        position = position[prompt_of_row, -1:]

        # Join the old rows and the new. The longest row decides how many columns are needed.
        layers = [[layer] for layer in cache.layers]
        if self.rows:
            position = torch.cat([self.position, position])
            layers = zip(self.cache.layers, cache.layers)
        self.rows += len(prompt_of_row)
        self.columns = position.max().item() + 1
        self.can_grow = is_plain(cache)
        if self.can_grow:
            cache.layers = [GrowingLayer(old_and_new, self.columns) for old_and_new in layers]
        self.cache = cache
        self.position = position
        return out.logits[:, -1].float()[prompt_of_row]

    def keep_rows(self, rows):
        """Keep the rows of these numbers, in this order."""
        self.rows = len(rows)
        self.position = self.position[rows]
        select_rows(self.cache, rows)

    def read(self, tokens):
        """Read one more token of each row, [B] -> the logits [B, V] of the next."""
        self.columns += 1
        self.position = self.position + 1
        # A row's position + 1 tokens fill the last columns; what is left of them is padding.
        column = torch.arange(self.columns, device=self.model.device)
        attention = (column >= self.columns - 1 - self.position).long()  # [B, T]
        out = self.call(tokens[:, None], attention, self.position, cache=self.cache)
        return out.logits[:, -1].float()

    def call(self, ids, attention, position, cache=None, **options):
        """The model's answer to these tokens behind what the cache holds."""
        if cache is not None:
            options[self.cache_name] = cache
        if self.takes_positions:
            options["position_ids"] = position
        return self.model(input_ids=ids, attention_mask=attention, use_cache=True, **options)


class WholeText:
    """Rows that a model reads whole, from their first token, for every token that is written."""

    can_grow = True

    def __init__(self, model, pad_id):
        self.model = model
        self.texts = []  # the token ids of each row so far

    def admit(self, prompts, prompt_of_row):
        """As CachedText has it."""
        texts = [list(prompts[number]) for number in prompt_of_row]
        self.texts += texts
        return last_logits(self.model, texts)

    def keep_rows(self, rows):
        self.texts = [self.texts[number] for number in rows]

    def read(self, tokens):
        for text, token in zip(self.texts, tokens.tolist()):
            text.append(token)
        return last_logits(self.model, self.texts)


def cache_name(parameters):
    """Under which of CACHE_NAMES a model, of these parameters, hands out its cache."""
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    raise ValueError("it has no cache that we know")


# ---- a cache whose rows come and go --------------------------------------------------------------


def select_rows(cache, rows):
    """Let a cache hold these rows, in this order; a row may come up several times.

    Layers with states and the others have one method in common, which beam search uses, too.
    """
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.batch_select_indices(rows)
        else:
            layer.reorder_cache(torch.tensor(rows, dtype=torch.long))


def is_plain(cache):
    """Does every layer of this cache keep the keys and values of all tokens?

    Sliding windows (subclasses of DynamicLayer), state spaces and layers that share a cache do not.
    """
    return all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)


def padded_ids(rows, pad_id, device, *, left):
    """Token lists -> (ids, attention) [B, T], padded on the left or right, where attention is 0."""
    side = "left" if left else "right"
    ids = [torch.tensor(row) for row in rows]
    ones = [torch.ones_like(row) for row in ids]
    ids = pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side)
    attention = pad_sequence(ones, batch_first=True, padding_value=0, padding_side=side)
    return ids.to(device), attention.to(device)


# ---- which way -----------------------------------------------------------------------------------


@torch.no_grad()
def reading_of(model):
    """The class that reads this model's rows: CachedText, or WholeText where that is not right.

    It is tried once for each model, on made-up rows: prompts of several lengths side by side, each
    with two rows, of which some leave. What it says of the next tokens is compared with what the
    model says of the whole rows. One printed line says why a model is read the slow way. BadInput
    when the model is not causal.
    """
    base = base_of(model)
    if not hasattr(base, "reading"):
        require_causal(model)
        reason = trial_of_cache(model)
        base.reading = WholeText if reason else CachedText
        if reason:
            print(f"sampling every row is read anew for every token, which is slow: {reason}")
    return base.reading


def trial_of_cache(model):
    """Why the model's rows cannot be read by its cache, or None."""
    words = base_of(model).config.get_text_config().vocab_size
    texts = [seq["ids"] for seq in made_up_answers(words)]
    prompts = [text[:-2] for text in texts]
    last = [text[-2] for text in texts]
    try:
        expected = last_logits(model, prompts + [text[:-1] for text in texts])
        reading = CachedText(model, pad_id=0)
        first = reading.admit(prompts, [0, 0, 1, 2, 2])
        reading.keep_rows([0, 3, 2])
        second = reading.read(torch.tensor([last[0], last[2], last[1]], device=model.device))
    except (*FAILURES, StopIteration, IndexError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    logits = torch.cat([first[[0, 2, 3]], second[[0, 2, 1]]])
    if same_logits(logits, expected, base_of(model)):
        return None
    return "with its cache the logits would be others"
