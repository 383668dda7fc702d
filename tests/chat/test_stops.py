"""Where an answer ends: the same tokens in training, sampling and gating."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import make_tokenizer, run_main, write

from posttrain.chat.encode import encode, encode_all_turns
from posttrain.chat.stops import stop_ids, stops_of
from posttrain.model.load import load_tokenizer

USER = {"role": "user", "content": "How high?"}
CALL = {"type": "function", "function": {"name": "get_tide", "arguments": {"harbour": "Emden"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "3.4"}
ANSWER = {"role": "assistant", "content": "High."}
WRITES_CALLS = (
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}"
)
END = "{% if add_generation_prompt %}<a>{% endif %}"


def with_tokens(template, *tokens, eos=None):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.eos_token = eos or tokenizer.eos_token
    tokenizer.chat_template = template
    return tokenizer


def texts(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


def last_tokens(tokenizer, messages, all_turns=False):
    """The last supervised token of every turn that is trained on."""
    if all_turns:
        rows = encode_all_turns(tokenizer, messages)
    else:
        rows = [encode(tokenizer, messages[:-1], messages[-1:])]
    ends = []
    for row in rows:
        for n, mark in enumerate(row["mask"]):
            if mark and not (row["mask"] + [0])[n + 1]:
                ends.append(tokenizer.convert_ids_to_tokens(row["ids"][n]))
    return ends


def test_a_turn_that_calls_ends_in_another_token():
    """As gpt-oss and Gemma 4; what closes each of two calls ends no turn."""
    template = (
        "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}"
        + WRITES_CALLS
        + "{% if m.tool_calls %}<stop_call>"
        "{% elif m.role == 'assistant' %}<stop>{% endif %}{% endfor %}" + END
    )
    tokenizer = with_tokens(
        template,
        "<u>",
        "<a>",
        "<t>",
        "<call>",
        "</call>",
        "<stop>",
        "<stop_call>",
        "<eos>",
        eos="<eos>",
    )
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<stop>", "<stop_call>", "<eos>"]
    assert last_tokens(tokenizer, [USER, CALLS]) == ["<stop_call>"]
    assert last_tokens(tokenizer, [USER, CALLS, RESULT, ANSWER], True) == ["<stop_call>", "<stop>"]


def test_a_template_that_always_opens_one_more_turn():
    """As Command R7B: a call ends in the end-of-sequence token, and not in the mark of that turn.

    An answer is closed before its turn is: what generation stops at ends both.
    """
    template = (
        "{% for m in messages %}{{ '<more>' if m.role == 'assistant' else '<u>' }}{{ m.content }}"
        + WRITES_CALLS
        + "{{ '<stop>' if m.role == 'assistant' and not m.tool_calls }}<end>{% endfor %}<more>"
    )
    tokenizer = with_tokens(template, "<stop>", "<end>", "<more>", "<call>", "</call>", eos="<end>")
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<end>"]
    assert last_tokens(tokenizer, [USER, CALLS]) == ["<end>"]
    assert last_tokens(tokenizer, [USER, ANSWER]) == ["<end>"]
    # Where an answer has an end of its own, calls still end in the end-of-sequence token.
    apart = template.replace("}}<end>{% endfor", "}}{{ '<end>' if m.tool_calls }}{% endfor")
    tokenizer = with_tokens(apart, "<stop>", "<end>", "<more>", "<call>", "</call>", eos="<end>")
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<stop>", "<end>"]
    assert last_tokens(tokenizer, [USER, CALLS]) == ["<end>"]
    # As Phi: what follows at the end of the conversation alone is no end of the turn.
    phi = "{% for m in messages %}<u>{{ m.content }}<stop>{% endfor %}"
    phi += "{% if not add_generation_prompt %}<end>{% endif %}"
    tokenizer = with_tokens(phi, "<stop>", "<end>", "<u>", eos="<end>")
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<stop>", "<end>"]
    assert last_tokens(tokenizer, [USER, ANSWER]) == ["<stop>"]


def test_a_template_that_closes_no_turn():
    """As GLM: a turn ends where the next one opens, the user's behind text, the tool's behind a call."""
    template = (
        "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}"
        + WRITES_CALLS
        + "{% endfor %}"
        + END
    )
    tokenizer = with_tokens(
        template, "<u>", "<a>", "<t>", "<call>", "</call>", "<eos>", eos="<eos>"
    )
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<u>", "<t>", "<eos>"]
    assert last_tokens(tokenizer, [USER, ANSWER]) == ["<u>"]
    assert last_tokens(tokenizer, [USER, CALLS]) == ["<t>"]
    [row] = encode_all_turns(tokenizer, [USER, CALLS, RESULT, ANSWER, USER, ANSWER])
    assert last_tokens(tokenizer, [USER, CALLS, RESULT, ANSWER, USER, ANSWER], True) == [
        "<t>",
        "<u>",
        "<u>",
    ]
    assert tokenizer.decode(row["ids"]).count("<u>") == 3, "no turn is closed twice"


def test_a_line_break_between_turns_is_no_end():
    """The next turn's token is an end only where nothing has to be written before it."""
    template = "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}" + END
    tokenizer = with_tokens(template, "<u>", "<a>", "<eos>", eos="<eos>")
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<eos>"]
    assert last_tokens(tokenizer, [USER, ANSWER]) == ["<eos>"]


def test_a_template_that_refuses_two_calls():
    template = (
        "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% if m.tool_calls | length > 1 %}"
        "{{ raise_exception('one') }}{% endif %}" + WRITES_CALLS + "<stop>{% endfor %}" + END
    )
    tokenizer = with_tokens(template, "<u>", "<a>", "<call>", "</call>", "<stop>", eos="<stop>")
    assert texts(tokenizer, stop_ids(tokenizer)) == ["<stop>"]
    assert (
        stops_of(tokenizer).after_call == stops_of(tokenizer).after_text == stop_ids(tokenizer)[0]
    )


# ---- generation_config ----------------------------------------------------------------------------------------------


def test_ends_of_the_generation_config(base, tmp_path):
    """A list or a number; of its file, or else of the model's config. Ordinary words are no ends."""
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    path = folder / "generation_config.json"
    for ends, stops in (([2, 0], [2, 0]), (0, [2, 0]), ([2, 0, 100], [2, 0]), (None, [2])):
        path.write_text(json.dumps({"eos_token_id": ends}))
        assert stop_ids(load_tokenizer(str(folder))) == stops
    path.unlink()
    assert load_tokenizer(str(folder)).generation_stops == [2]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [0, 2]}))
    assert stop_ids(load_tokenizer(str(folder))) == [2, 0]


def scripted(base, folder, tokens, ends):
    """A model folder whose model writes these tokens, one after the other, behind any prompt."""
    shutil.copytree(base, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    size = 64
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        # Every token that is not of the script points to its first, each of the script to its next.
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[ids[0], 0] = 10
        for place, (token, following) in enumerate(zip(ids, ids[1:]), 1):
            model.model.embed_tokens.weight[token] = 0
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[following, place] = 10
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


def test_sampling_stops_where_generate_does(base, tmp_path):
    folder = scripted(base, tmp_path / "model", ["t", "<|pad|>", "h", "e"], [2, 0])
    data = write(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    out = tmp_path / "out.jsonl"
    words = ["--model", folder, "--data", data, "--out", out, "--n", 1, "--temperatures", 0]
    assert run_main("gen_candidates", *words, "--max-tokens", 9) == 0
    row = json.loads(out.read_text())
    assert row["finish"] == "stop" and row["tokens"] == 2
    assert row["completion"] == [{"role": "assistant", "content": "t"}]


@pytest.mark.parametrize("name", ["<unk>", None])
def test_a_token_for_the_unknown_is_no_text(tokenizer, name):
    """A model that samples it has not written the word <unk>, which filters would call broken."""
    from posttrain.generate.local import Row, answer_of

    unknown = make_tokenizer()
    if name:
        unknown.add_special_tokens({"unk_token": name})
    ids = unknown("the cat").input_ids
    extra = [unknown.unk_token_id] if name else []
    row = Row(0, 1.0, [], [*ids, *extra, 2])
    answer = answer_of(row, unknown, [2], "")
    assert answer["text"] == "the cat" and answer["tokens"] == len(ids) + len(extra) + 1
