"""What a model can read, from its config alone: which tokens, how many, in which number format.

Every stage asks before a model is loaded: what a model cannot read crashes hours later, or is read
in silence as something else.
"""

import math
from typing import NamedTuple

import transformers

from posttrain.chat.encode import cut_start
from posttrain.chat.stops import stop_ids
from posttrain.cli import BadInput
from posttrain.model.memory import model_without_weights
from posttrain.model.names import architecture_of, quantize_mode, read_config, resolve_model

# Names of tables of positions: GPT-2's wpe, OPT's and GPT-J's embed_positions, BERT's, GPT-1's.
POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "positions_embed")
ENDS_THERE = ("mpt", "ctrl")  # their tables are neither parameters nor buffers


class Limits(NamedTuple):
    """What a model can read."""

    name: str  # hub name, model folder or run folder
    embedding: int | None  # its tokens are 0 ... embedding - 1; None: the config does not tell
    positions: int | None  # tokens of the longest text; None: there is no limit
    turn: int | None = None  # beyond so many tokens all positions of a batch are read otherwise
    stand_ins: tuple = ()  # ids of the tokens in whose place an image or a sound is read
    writes: bool = True  # is it a language model, or one that gives a reward?

    @property
    def long(self):
        """Tokens beyond which there is something to say of a text; infinite: never."""
        return min(self.positions or math.inf, self.turn or math.inf)


def read_limits(name, *, writes=True):
    """The Limits of a model. BadInput when its config cannot be read.

    writes: it is asked or trained as a language model. BadInput when it is none.
    """
    config = read_config(resolve_model(name)[0])
    if writes:
        architecture_of(config)
    embedding = getattr(config.get_text_config(), "vocab_size", None)
    positions, turn, stand_ins = positions_of(config), turn_of(config), stand_ins_of(config)
    return Limits(name, embedding, positions, turn, stand_ins, writes)


def positions_of(config):
    """Tokens that a model was made for; None without a limit (state spaces, ALiBi).

    Models of text and images have it in the config of their text part. Where rotations are
    stretched by yarn, it is what they are stretched to. The tables of RoBERTa and its kin begin
    behind the id of padding.
    """
    config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    positions = positions or getattr(config, "max_seq_len", None) or 0  # as MPT calls it
    if positions <= 0:
        return None
    if any(name in config.model_type for name in ("roberta", "camembert")):
        return positions - config.pad_token_id - 1
    rope = getattr(config, "rope_parameters", None) or {}
    # Models with windows have settings for each kind of layer.
    by_kind = [settings for settings in rope.values() if isinstance(settings, dict)]
    for settings in by_kind or [rope]:
        original = settings.get("original_max_position_embeddings")
        factor = settings.get("factor")
        if settings.get("rope_type") == "yarn" and original and factor:
            positions = max(positions, round(original * factor))
    return positions


def turn_of(config):
    """The length of texts at which a model changes how it reads positions; None: it never does.

    Phi-3's rotations (longrope) and dynamic ones depend on the longest text of a batch.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type")
    if kind == "longrope":
        return rope.get("original_max_position_embeddings")
    if kind == "dynamic":
        return config.max_position_embeddings
    return None


def stand_ins_of(config):
    """Ids of the tokens in whose place a model reads an image, a film or a sound."""
    ids = []
    for key, value in vars(config).items():
        is_stand_in = key.startswith(("image_token", "video_token", "audio_token"))
        if is_stand_in and isinstance(value, int):
            ids.append(value)
    return tuple(ids)


def check_format(name, quantize):
    """BadInput when --quantize asks for what the weights of a model cannot be."""
    quantize_mode(quantize, read_config(resolve_model(name)[0]))


# ---- which tokens --------------------------------------------------------------------------------


def check_tokens(limits, tokenizer, texts):
    """BadInput when a text has a token that the model's embedding lacks, or one for an image.

    texts: [(place, ids), ...], a place such as "id 'a7'". Tokens that no text has may be missing:
    the tokenizer of Gemma 3 1B has one more than its embedding.
    """
    for place, ids in texts:
        for id_ in set(limits.stand_ins).intersection(ids):
            token = tokenizer.convert_ids_to_tokens(id_)
            raise BadInput(
                f"{place}: the token {token!r} stands for an image or a sound, which is not read "
                "here: leave such rows out"
            )
        if limits.embedding is None:
            continue
        largest = max(ids, default=0)
        if largest >= limits.embedding:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise BadInput(
                f"{place}: the token {token!r} has the id {largest}, but the embedding of "
                f"{limits.name} has {limits.embedding} tokens: the model was saved without "
                "resize_token_embeddings, or the tokenizer is another model's"
            )


def note_tokens_beyond(limits, tokenizer):
    """Say it in a line when the tokenizer has tokens that the embedding lacks, and no text has."""
    beyond = tokens_beyond(limits, tokenizer)
    if beyond:
        print(
            f"note     {len(beyond)} tokens of the tokenizer, such as {beyond[0]!r}, are not among "
            f"the {limits.embedding} of the embedding of {limits.name}: nothing here has them"
        )


def must_see_tokens(limits, tokenizer):
    """Has the tokenizer tokens that no text may have? Then the length of a text is not enough."""
    return bool(limits.stand_ins or tokens_beyond(limits, tokenizer))


def tokens_beyond(limits, tokenizer):
    """Tokens that the tokenizer has and the embedding lacks."""
    if limits.embedding is None:
        return []
    return [token for token, id_ in tokenizer.get_vocab().items() if id_ >= limits.embedding]


def ends_of_answers(tokenizer):
    """The tokens that end answers, as a text for check_tokens."""
    return "the end of an answer", stop_ids(tokenizer)


# ---- how many ------------------------------------------------------------------------------------


def check_length(limits, tokens, text, remedy):
    """Say it when a text is longer than what the model was made for.

    tokens: of the longest text. text: the same in words, with the place. BadInput with the remedy
    where positions are learned one by one: there are no more of them.
    """
    if limits.turn and tokens > limits.turn:
        print(
            f"WARNING  {text}: beyond {limits.turn} {limits.name} reads all positions of a batch "
            "otherwise, so that results of short texts depend on long ones beside them"
        )
    if limits.positions is None or tokens <= limits.positions:
        return
    if has_learned_positions(limits):
        raise BadInput(f"{text}, but {limits.name} has {limits.positions} positions: {remedy}")
    print(
        f"WARNING  {text}, but {limits.name} was made for {limits.positions}: poor results beyond"
    )


def has_learned_positions(limits):
    """Does the model look positions up in a table? Tables of images or sounds are shorter ones.

    Some tables are computed (GPT-J's), and lie among the buffers.
    """
    config = read_config(resolve_model(limits.name)[0])
    if config.model_type in ENDS_THERE:
        return True
    architecture = None if limits.writes else transformers.AutoModelForSequenceClassification
    model = model_without_weights(limits.name, config, architecture)
    for name, table in [*model.named_parameters(), *model.named_buffers()]:
        is_table = any(word in name for word in POSITION_TABLES) and table.dim() > 1
        if is_table and table.shape[0] >= limits.positions:
            return True
    return False


def fit_prompts(name, tokenizer, prompts, max_tokens, *, truncate=None):
    """Prompts as a model can read them before it writes an answer -> [ids, ...].

    prompts: [(id of the row, ids), ...]. max_tokens: of the longest answer. truncate "left": what
    is too long is cut at its start, and a line says how many. BadInput when a token is not in the
    embedding, or when prompt and answer have more tokens than the model has positions.
    """
    limits = read_limits(name)
    texts = [(f"id {key!r}", ids) for key, ids in prompts]
    check_tokens(limits, tokenizer, [ends_of_answers(tokenizer), *texts])
    note_tokens_beyond(limits, tokenizer)
    if truncate == "left" and limits.positions:
        texts = cut_prompts(limits, tokenizer, texts, max_tokens)
    if texts:
        place, longest = max(texts, key=length_of)
        check_length(
            limits,
            len(longest) + max_tokens,
            f"{place}: {len(longest)} tokens of prompt + --max-tokens {max_tokens} are "
            f"{len(longest) + max_tokens} tokens",
            "lower --max-tokens, or cut prompts with --truncate left",
        )
    return [ids for _, ids in texts]


def length_of(text):
    """Tokens of a text with its place."""
    return len(text[1])


def cut_prompts(limits, tokenizer, texts, max_tokens):
    """Texts whose start is cut until an answer of max_tokens fits behind them."""
    room = limits.positions - max_tokens
    if room < 1:
        raise BadInput(
            f"--max-tokens {max_tokens} leaves no room for a prompt: {limits.name} has "
            f"{limits.positions} positions"
        )
    too_long = sum(len(ids) > room for _, ids in texts)
    if too_long:
        print(f"prompts  {too_long} of {len(texts)} cut at their start to {room} tokens")
    return [(place, cut_start(ids, room, tokenizer.bos_token_id)) for place, ids in texts]
