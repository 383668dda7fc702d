"""What a model can read: positions and tokens by its config, prompts that are cut to them."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import make_tokenizer

from posttrain.cli import BadInput
from posttrain.model import limits as room
from posttrain.model.limits import (
    Limits,
    check_length,
    check_tokens,
    cut_prompts,
    fit_prompts,
    note_tokens_beyond,
    positions_of,
    read_limits,
)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
BY_KIND = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_theta": 10000.0} | YARN,
}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (transformers.LlamaConfig(max_position_embeddings=100), 100),
        (transformers.GPT2Config(n_positions=77), 77),
        (transformers.Qwen2Config(max_position_embeddings=100, rope_scaling=YARN), 400),
        (transformers.Qwen2Config(max_position_embeddings=900, rope_scaling=YARN), 900),
        (transformers.LlamaConfig(max_position_embeddings=131072, rope_scaling=LLAMA3), 131072),
        (transformers.Gemma3Config(), 131072),  # of its text part
        (
            SimpleNamespace(max_position_embeddings=100, rope_parameters=BY_KIND, model_type="x"),
            400,
        ),
        (transformers.LlamaConfig(max_position_embeddings=100, rope_scaling=LINEAR), 100),
        (transformers.MptConfig(max_seq_len=50), 50),
        (transformers.RobertaConfig(max_position_embeddings=60, pad_token_id=4), 55),
        (transformers.XLNetConfig(), None),
        (transformers.MambaConfig(), None),
        (transformers.BloomConfig(), None),
    ],
)
def test_positions_of_a_config(config, positions):
    if isinstance(config, SimpleNamespace):
        config.get_text_config = lambda: config
    assert positions_of(config) == positions


def test_limits_are_those_of_the_text_part(tmp_path):
    """Models of text and images have them there, and nothing at the top."""
    text = {"vocab_size": 777, "max_position_embeddings": 55}
    transformers.Gemma3Config(text_config=text).save_pretrained(tmp_path)
    assert read_limits(str(tmp_path))[:3] == (str(tmp_path), 777, 55)


# ---- tokens --------------------------------------------------------------------------------------


def test_tokens_beyond_the_embedding(tokenizer, capsys):
    """The last token that there is may be used; one that is not used may be missing."""
    limits = Limits("m", 318, None)
    check_tokens(limits, tokenizer, [("a", [1, 317]), ("b", [])])
    with pytest.raises(BadInput, match=r"^b: the token '.*' has the id 318, .* m has 318 tokens"):
        check_tokens(limits, tokenizer, [("a", [1, 317]), ("b", [3, 318, 2])])
    note_tokens_beyond(limits, tokenizer)
    assert "note     2 tokens of the tokenizer, such as " in capsys.readouterr().out
    note_tokens_beyond(Limits("m", 320, None), tokenizer)
    note_tokens_beyond(Limits("m", None, None), tokenizer)
    check_tokens(Limits("m", None, None), tokenizer, [("a", [10**9])])
    assert not capsys.readouterr().out


# ---- length --------------------------------------------------------------------------------------

SMALL = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
OPT = SMALL | {"ffn_dim": 8, "word_embed_proj_dim": 8, "max_position_embeddings": 40}
GPT2 = {"vocab_size": 32, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40}


@pytest.mark.parametrize(
    "config", [transformers.GPT2Config(**GPT2), transformers.OPTConfig(**OPT)], ids=["gpt2", "opt"]
)
def test_learned_positions_have_an_end(tmp_path, config):
    config.save_pretrained(tmp_path / "m")
    limits = read_limits(str(tmp_path / "m"))
    check_length(limits, 40, "text", "shorten")
    with pytest.raises(BadInput, match=r"^text, but .*m has 40 positions: shorten$"):
        check_length(limits, 41, "text", "shorten")


def test_positions_that_are_turned_have_none(base, capsys):
    """But the model was not made for them."""
    limits = read_limits(base)
    check_length(limits, 512, "text", "shorten")
    check_length(limits._replace(positions=None), 10**9, "text", "shorten")
    assert not capsys.readouterr().out
    check_length(limits, 513, "text", "shorten")
    line = f"WARNING  text, but {base} was made for 512: poor results beyond\n"
    assert capsys.readouterr().out == line


def test_a_table_of_images_is_not_one_of_texts(base, monkeypatch, capsys):
    """It is shorter than the text's positions."""
    model = torch.nn.Module()
    monkeypatch.setattr(room, "model_without_weights", lambda name, config, kind: model)
    for rows, is_learned in ((511, False), (512, True)):
        model.position_embeddings = torch.nn.Embedding(rows, 2)
        assert room.has_learned_positions(read_limits(base)) == is_learned


def test_tables_of_all_kinds(tmp_path):
    """Trained, computed, in no list of a module; and a reward model that is no language model."""
    kinds = {
        "gptj": transformers.GPTJConfig(
            n_embd=32, n_layer=1, n_head=2, n_positions=40, rotary_dim=8
        ),
        "gpt1": transformers.OpenAIGPTConfig(n_embd=32, n_layer=1, n_head=2, n_positions=40),
        "mpt": transformers.MptConfig(d_model=32, n_layers=1, n_heads=2, max_seq_len=40),
        "llama": transformers.LlamaConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=32
        ),
    }
    for name, config in kinds.items():
        config.save_pretrained(tmp_path / name)
        limits = read_limits(str(tmp_path / name))
        assert room.has_learned_positions(limits) == (name != "llama"), name
    reward = transformers.DebertaV2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=40,
        architectures=["DebertaV2ForSequenceClassification"],
    )
    reward.save_pretrained(tmp_path / "reward")
    assert room.has_learned_positions(read_limits(str(tmp_path / "reward"), writes=False))
    with pytest.raises(BadInput, match="is no causal language model"):
        read_limits(str(tmp_path / "reward"))


def test_texts_that_must_be_seen(tokenizer):
    """Not for their length, but for a token that none may have; and from which length on."""
    limits = Limits("m", 320, 50)
    assert not room.must_see_tokens(limits, tokenizer) and limits.long == 50
    assert room.must_see_tokens(limits._replace(stand_ins=(7,)), tokenizer)
    assert room.must_see_tokens(limits._replace(embedding=319), tokenizer)
    assert limits._replace(turn=20).long == 20
    assert limits._replace(positions=None).long == float("inf")


def test_prompts_that_are_cut(tokenizer, capsys):
    """To what leaves room for the answer; the begin-of-text token stays."""
    limits = Limits("m", 320, 10)
    texts = [("a", [7] * 6), ("b", [1, 2, 3, 4, 5, 6, 7, 8]), ("c", [])]
    assert cut_prompts(limits, tokenizer, texts, 4) == [
        ("a", [7] * 6),
        ("b", [3, 4, 5, 6, 7, 8]),
        ("c", []),
    ]
    assert capsys.readouterr().out == "prompts  1 of 3 cut at their start to 6 tokens\n"
    begins = SimpleNamespace(bos_token_id=1)
    assert cut_prompts(limits, begins, texts, 4)[1] == ("b", [1, 4, 5, 6, 7, 8])
    assert cut_prompts(limits, begins, texts, 9)[1] == ("b", [1])
    with pytest.raises(BadInput, match="--max-tokens 10 leaves no room for a prompt: m has 10 "):
        cut_prompts(limits, tokenizer, texts, 10)


def test_prompts_that_are_too_long(base, tokenizer, capsys):
    """The longest is named; they are cut only where that is asked for."""
    prompts = [("a", [5] * 300), ("b", [6] * 400), ("c", [7] * 100)]
    ids = [ids for _, ids in prompts]
    assert fit_prompts(base, tokenizer, prompts, 112) == ids
    assert not capsys.readouterr().out
    assert fit_prompts(base, tokenizer, prompts, 113) == ids
    printed = capsys.readouterr().out
    assert "WARNING  id 'b': 400 tokens of prompt + --max-tokens 113 are 513 tokens" in printed
    cut = fit_prompts(base, tokenizer, prompts, 113, truncate="left")
    assert cut == [[5] * 300, [6] * 399, [7] * 100]
    assert "WARNING" not in capsys.readouterr().out
    assert fit_prompts(base, tokenizer, [], 9) == []


def test_no_prompt_is_cut_without_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "read_limits", lambda name, **more: Limits(name, None, None))
    prompts = [("a", [5] * 5000)]
    assert fit_prompts("m", make_tokenizer(), prompts, 9000, truncate="left") == [[5] * 5000]


def test_a_stand_in_for_an_image_is_refused(tokenizer):
    """Its place in a text is the image's; without one the numbers depend on how it is read."""
    for config in (
        transformers.Qwen3VLConfig(image_token_id=7, video_token_id=8),
        transformers.Mistral3Config(image_token_index=7),
    ):
        stand_ins = room.stand_ins_of(config)
        assert 7 in stand_ins
        limits = Limits("m", None, None, stand_ins=stand_ins)
        room.check_tokens(limits, tokenizer, [("id 1", [5, 6])])
        with pytest.raises(BadInput, match="id 2: the token .* stands for an image"):
            room.check_tokens(limits, tokenizer, [("id 1", [5]), ("id 2", [6, 7])])


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("config", "turn"),
    [
        (transformers.LlamaConfig(max_position_embeddings=50), None),
        (
            transformers.LlamaConfig(
                max_position_embeddings=50,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            ),
            50,
        ),
        (
            transformers.Phi3Config(
                hidden_size=32,
                num_attention_heads=2,
                max_position_embeddings=50,
                original_max_position_embeddings=20,
                rope_parameters=LONGROPE | {"rope_theta": 1e4},
                pad_token_id=0,
            ),
            20,
        ),
    ],
)
def test_rotations_that_depend_on_the_batch_are_said(config, turn, capsys):
    assert room.turn_of(config) == turn
    limits = Limits("m", None, None, turn)
    room.check_length(limits, turn or 99, "a text", "shorten it")
    assert capsys.readouterr().out == ""
    room.check_length(limits, (turn or 99) + 1, "a text", "shorten it")
    assert ("depend on long ones beside them" in capsys.readouterr().out) == bool(turn)
