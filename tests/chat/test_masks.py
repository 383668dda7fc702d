"""What is trained on: exactly the answer and its stop token, under this kit's template and under real ones."""

import copy
import functools

import pytest
import torch
import transformers
from conftest import TEMPLATE, make_tokenizer, run_main, sft_rows, write

from posttrain.chat.encode import (
    cut_answers,
    encode,
    encode_all_turns,
    encode_answers,
    keep_end,
    prompt_ids,
    show_mask,
)
from posttrain.chat.stops import stop_ids
from posttrain.chat.template import PLAIN_TEMPLATE, render
from posttrain.cli import BadInput
from posttrain.train.rows import data_line, prepare

REAL = ("qwen2", "smollm2", "minimind", "gpt2")
USER = [{"role": "user", "content": "What is two plus three?"}]
LONG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello there."},
    {"role": "user", "content": "And now?"},
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "drei ü"}}}
    ],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "string"}},
            },
        },
    }
]


def answer(text):
    return [{"role": "assistant", "content": text}]


def parts(tokenizer, row):
    """The supervised stretches of a row as text."""
    found, now = [], []
    for token, m in zip(row["ids"] + [None], row["mask"] + [0]):
        if m:
            now.append(token)
        elif now:
            found.append(tokenizer.decode(now))
            now = []
    return found


@pytest.fixture(scope="module", params=["own", "plain", *REAL])
def any_tokenizer(request, tmp_path_factory):
    """Our ChatML tokenizer, one without template and pad (pad = none, plain template), and four real ones."""
    if request.param == "own":
        return make_tokenizer()
    if request.param == "plain":
        tokenizer = make_tokenizer()
        tokenizer.chat_template = PLAIN_TEMPLATE
        tokenizer.pad_token = None
        return tokenizer
    return real_tokenizer(request.getfixturevalue("real"), request.param)


@functools.cache
def real_tokenizer(real, name):
    """As load_tokenizer makes it; these folders hold no model, so it would refuse them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(real / "tokenizers" / name)
    tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    return tokenizer


@pytest.fixture
def own():
    return make_tokenizer()


def stop(tokenizer):
    return tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)[0])


@pytest.mark.parametrize(
    "text",
    [
        "Five.",
        "It is 5, of course!",
        "Zwölf — 五 🙂",
        "a",
        "Answers:\n\n* five\n* 5\n",
        "assistant",
        "### Assistant:\nhm",
        '{"a": [1, 2]}',
    ],
)
@pytest.mark.parametrize("prompt", [USER, LONG])
def test_supervised_is_the_answer_and_its_stop_token(any_tokenizer, prompt, text):
    tokenizer = any_tokenizer
    row = encode(tokenizer, prompt, answer(text))
    stretches = parts(tokenizer, row)
    assert len(stretches) == 1 and not row["truncated"]
    head = render(tokenizer, prompt, None, True)
    full = render(tokenizer, prompt + answer(text))
    expected = full[len(head) :]
    expected = expected[: expected.index(stop(tokenizer))] + stop(tokenizer)
    assert stretches[0] == expected and stretches[0].endswith(stop(tokenizer))
    said = stretches[0].removesuffix(stop(tokenizer)).strip()
    assert said == text.strip()
    assert row["ids"][: len(prompt_ids(tokenizer, prompt))] == prompt_ids(
        tokenizer, prompt
    )  # as in generation
    assert row["mask"].index(1) == len(prompt_ids(tokenizer, prompt))
    assert row["mask"][-1] == 1 and row["ids"][-1] in stop_ids(
        tokenizer
    )  # nothing follows the stop token


@pytest.mark.parametrize("form", ["in the text", "apart"])
def test_a_thought_is_trained_on_with_think_and_left_out_without(any_tokenizer, form):
    """It may stand in the text or beside it. minimind's prompt opens the thought, the others' do not."""
    if form == "in the text":
        message = {"role": "assistant", "content": "<think>no</think> yes"}
    else:
        message = {"role": "assistant", "content": "yes", "reasoning_content": "no"}
    row = encode(any_tokenizer, USER, [message])
    assert row == encode(any_tokenizer, USER, answer("yes"))
    assert "no" not in parts(any_tokenizer, row)[0]
    [trained] = parts(any_tokenizer, encode(any_tokenizer, USER, [message], think=True))
    opens = render(any_tokenizer, USER, None, True, think=True).endswith("<think>\n")
    opening = "" if opens else "<think>\n"
    assert trained == f"{opening}no\n</think>\n\nyes{stop(any_tokenizer)}"


@pytest.mark.parametrize(
    "text", ["\nFive.", "\n\nFive.", "  Five.", "\tFive.", "Five.  ", "Five.\n"]
)
def test_white_space_around_the_answer(any_tokenizer, text):
    """It crosses no seam: the prompt's tokens stay those of generation, and whatever of it the template keeps is
    supervised."""
    tokenizer = any_tokenizer
    row = encode(tokenizer, USER, answer(text))
    prompt = prompt_ids(tokenizer, USER)
    assert row["ids"][: len(prompt)] == prompt and row["mask"][: len(prompt)] == [0] * len(prompt)
    assert all(row["mask"][len(prompt) :])
    kept = render(tokenizer, USER + answer(text))[len(render(tokenizer, USER, None, True)) :]
    assert tokenizer.decode(row["ids"][len(prompt) :]) == kept[
        : kept.index(stop(tokenizer))
    ] + stop(tokenizer)


def test_all_turns(any_tokenizer):
    tokenizer = any_tokenizer
    [row] = encode_all_turns(tokenizer, LONG + answer("Goodbye."))
    texts = [text.removesuffix(stop(tokenizer)).strip() for text in parts(tokenizer, row)]
    assert [text.rpartition("</think>")[2].strip() for text in texts] == [
        "Hello there.",
        "Goodbye.",
    ]
    last = encode(tokenizer, LONG, answer("Goodbye."))
    assert last["ids"] == row["ids"] and sum(last["mask"]) < sum(
        row["mask"]
    )  # every context is that of generation


def test_tool_calls_and_results(any_tokenizer):
    """Call and final answer are supervised, the tool's result is not; the definitions reach the model in any case."""
    tokenizer = any_tokenizer
    first = encode(tokenizer, USER, [CALL], TOOLS)
    said = "".join(parts(tokenizer, first))
    assert '"add"' in said and "drei ü" in said and said.endswith(stop(tokenizer))
    assert "adds" in tokenizer.decode(first["ids"][: first["mask"].index(1)])
    result = [*USER, CALL, {"role": "tool", "content": "RESULT 5"}]
    [row] = encode_all_turns(tokenizer, result + answer("It is 5."), TOOLS)
    stretches = parts(tokenizer, row)
    assert len(stretches) == 2 and '"add"' in stretches[0] and "It is 5." in stretches[1]
    assert "RESULT" not in "".join(stretches) and "RESULT 5" in tokenizer.decode(row["ids"])


def test_truncation_takes_the_stop_token_and_says_so(any_tokenizer):
    tokenizer, text = any_tokenizer, "one two three four five six seven eight"
    whole = encode(tokenizer, USER, answer(text))
    for cut in (1, 3):
        row = encode(tokenizer, USER, answer(text), max_len=len(whole["ids"]) - cut)
        assert (
            row["truncated"]
            and row["ids"] == whole["ids"][:-cut]
            and row["mask"] == whole["mask"][:-cut]
        )
        assert row["ids"][-1] not in stop_ids(tokenizer)
    exact = encode(tokenizer, USER, answer(text), max_len=len(whole["ids"]))
    assert exact == whole and not exact["truncated"]
    with pytest.raises(ValueError, match="max-len"):
        encode(tokenizer, USER, answer(text), max_len=whole["mask"].index(1))


# ---- --truncate left -----------------------------------------------------------------------------


def seq_of(prompt, answer, **more):
    """A sequence of these tokens."""
    row = {"ids": prompt + answer, "mask": [0] * len(prompt) + [1] * len(answer)}
    return row | {"truncated": False, "prompt_cut": False} | more


PROMPT = [9, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("max_len", "bos", "expected"),
    [
        (None, None, seq_of(PROMPT, [5, 6, 7])),
        (8, None, seq_of(PROMPT, [5, 6, 7])),
        (7, None, seq_of([1, 2, 3, 4], [5, 6, 7], prompt_cut=True)),
        (7, 9, seq_of([9, 2, 3, 4], [5, 6, 7], prompt_cut=True)),
        (7, 1, seq_of([1, 2, 3, 4], [5, 6, 7], prompt_cut=True)),  # no row begins with it
        (4, None, seq_of([4], [5, 6, 7], prompt_cut=True)),
        (4, 9, seq_of([9], [5, 6, 7], prompt_cut=True)),
        (3, None, seq_of([4], [5, 6], prompt_cut=True, truncated=True)),
        (2, None, seq_of([4], [5], prompt_cut=True, truncated=True)),
    ],
)
def test_the_start_of_a_prompt_is_cut(max_len, bos, expected):
    """The answer survives; one token of the prompt stays, and the begin-of-text token in front."""
    assert cut_answers([seq_of(PROMPT, [5, 6, 7])], max_len, "left", bos) == [expected]


def test_answers_to_a_prompt_keep_the_same_prompt():
    """Cut by what the longer answer needs, though the shorter one would fit behind more of it."""
    seqs = [seq_of(PROMPT, [5]), seq_of(PROMPT, [6, 7, 8])]
    assert cut_answers(seqs, 5, "left") == [
        seq_of([3, 4], [5], prompt_cut=True),
        seq_of([3, 4], [6, 7, 8], prompt_cut=True),
    ]
    assert cut_answers(seqs, 6, "right") == [seqs[0], seq_of(PROMPT, [6], truncated=True)]


def test_the_end_of_a_conversation_is_kept():
    """Several turns: the last tokens. A turn whose start is gone is read, not trained on; a last one that is too
    long keeps its start.
    """
    row = {"ids": [9, 1, 2, 3, 4, 5], "mask": [0, 0, 1, 1, 0, 1]}
    row |= {"truncated": False, "prompt_cut": False}
    assert keep_end(row, None, 9) == keep_end(row, 6, 9) == row
    cut = row | {"prompt_cut": True}
    assert keep_end(row, 3, None) == cut | {"ids": [3, 4, 5], "mask": [0, 0, 1]}
    assert keep_end(row, 4, None) == cut | {"ids": [2, 3, 4, 5], "mask": [0, 0, 0, 1]}
    assert keep_end(row, 5, 9) == cut | {"ids": [9, 2, 3, 4, 5], "mask": [0, 1, 1, 0, 1]}
    long = row | {"mask": [0, 1, 0, 1, 1, 1]}
    short = long | {"ids": [2, 3, 4], "mask": [0, 1, 1], "prompt_cut": True, "truncated": True}
    assert keep_end(long, 3, None) == short


def test_a_long_prompt_leaves_its_answer(own):
    """To the right nothing is left of it, and the reason says what would help."""
    long = [{"role": "user", "content": "cat " * 60}]
    whole = encode(own, long, answer("Five."))
    with pytest.raises(ValueError, match="left within --max-len: --truncate left cuts the prompt"):
        encode(own, long, answer("Five."), max_len=30)
    row = encode(own, long, answer("Five."), max_len=30, truncate="left")
    assert row["ids"] == whole["ids"][-30:] and parts(own, row) == ["Five.<|im_end|>"]
    assert row["prompt_cut"] and not row["truncated"] and not whole["prompt_cut"]
    both = [answer("Five."), answer("It is five, I think.")]
    short, longer = encode_answers(own, long, both, max_len=40, truncate="left")
    prompts = [seq["ids"][: seq["mask"].index(1)] for seq in (short, longer)]
    assert prompts[0] == prompts[1] and len(longer["ids"]) == 40 > len(short["ids"])


def test_the_last_turns_are_kept(own):
    whole = encode_all_turns(own, LONG + answer("Ten."))[0]
    [row] = encode_all_turns(own, LONG + answer("Ten."), max_len=25, truncate="left")
    assert row["ids"] == whole["ids"][-25:] and parts(own, row)[-1] == "Ten.<|im_end|>"
    size = len(whole["ids"]) - 3
    [row] = encode_all_turns(own, LONG + answer("Ten."), max_len=size)
    assert row["ids"] == whole["ids"][:size] and row["truncated"]


def test_a_begin_of_text_token_stays_in_front(own):
    """That of the tokenizer, where a row begins with it."""
    begins = copy.deepcopy(own)
    begins.bos_token = "<|im_start|>"
    long = [{"role": "user", "content": "cat " * 60}]
    for encoded in (
        encode(begins, long, answer("Five."), max_len=30, truncate="left"),
        encode_all_turns(begins, long + answer("Five."), max_len=30, truncate="left")[0],
    ):
        assert encoded["ids"][0] == begins.bos_token_id and len(encoded["ids"]) == 30


def test_truncated_only_when_something_supervised_is_lost(own):
    """What a template writes after the last stop token (a line break) is no part of the row."""
    whole = encode(own, USER, answer("Five."))
    assert render(own, USER + answer("Five.")).endswith("<|im_end|>\n")
    assert own.decode(whole["ids"][-1:]) == "<|im_end|>"


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_empty_answers_are_dropped(any_tokenizer, text):
    with pytest.raises(ValueError, match="empty answer"):
        encode(any_tokenizer, USER, answer(text))


def test_a_stop_token_inside_the_answer_is_dropped(any_tokenizer):
    for text in (f"Five.{stop(any_tokenizer)} More.", f"{stop(any_tokenizer)}x"):
        with pytest.raises(ValueError, match="stop token inside"):
            encode(any_tokenizer, USER, answer(text))


def test_a_template_whose_prompt_is_no_prefix_is_refused(own):
    own.chat_template = TEMPLATE.replace("'<|im_start|>assistant", "'<|im_start|>ASSISTANT")
    with pytest.raises(ValueError, match="not a prefix"):
        encode(own, USER, answer("Five."))
    with pytest.raises(BadInput, match="not a prefix"):
        prepare(
            [{"prompt": USER, "weight": 1.0}],
            lambda row: row | {"seqs": [encode(own, row["prompt"], answer("Five."))]},
            own,
            0.05,
        )


def test_a_header_that_only_the_turn_behind_a_result_has(own):
    """As Apriel, whose header goes on behind its first word: it would be trained on as an answer."""
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'tool' %}<|im_start|>assistant\nI think:\n{% endif %}"
    )
    result = [{"role": "tool", "content": "2+3"}]
    with pytest.raises(ValueError, match="does not open the assistant's turn"):
        encode(own, USER + result, answer("Five."))


def test_white_space_that_only_the_prompt_has(own):
    """As Granite 20B: the prompt of generation is trained on, and the answer behind it."""
    own.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    for content in ("Five.", "<think>2+3</think>Five."):
        row = encode(own, USER, answer(content), think="<think>" in content)
        before = prompt_ids(own, USER, think="<think>" in content)
        assert row["ids"][: len(before)] == before and row["mask"].index(1) == len(before)
        assert own.decode(row["ids"][len(before) :]).endswith("Five.<|im_end|>")


def test_a_template_without_a_stop_token_gets_one(own):
    own.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    row = encode(own, LONG, answer("Five."))
    assert parts(own, row) == ["Five.\n<|im_end|>"] and row["ids"][-1] == own.eos_token_id
    # Generation would never see such a token between turns: each turn is a sequence of its own.
    first, second = encode_all_turns(own, LONG + answer("Five."))
    assert second == row and parts(own, first) == ["Hello there.\n<|im_end|>"]


def test_a_template_that_refuses_is_bad_input(own):
    own.chat_template = "{{ raise_exception('only users') }}"
    with pytest.raises(BadInput, match="only users"):
        encode(own, USER, answer("Five."))


@pytest.mark.parametrize("pad", [None, "<|im_end|>", "a"])
def test_pad_changes_nothing(own, pad):
    """No pad, pad = eos, pad = a letter that occurs in the answer."""
    before = encode(own, USER, answer("a cat and a mat"))
    changed = copy.deepcopy(own)
    changed.pad_token = pad
    assert encode(changed, USER, answer("a cat and a mat")) == before


def test_no_token_crosses_the_seam():
    """A tokenizer that would join the prompt's line break with the answer's: the prompt's tokens must not change."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    joined = Tokenizer(
        models.BPE(
            vocab={"a": 0, ":": 1, "\n": 2, "\n\n": 3, "b": 4, "$": 5}, merges=[("\n", "\n")]
        )
    )
    joined.pre_tokenizer = pre_tokenizers.Split("$", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=joined, eos_token="$")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'a:\n' + m['content'] }}{{ '$' if m['role'] == 'assistant' "
        "else '' }}{% endfor %}{% if add_generation_prompt %}{{ 'a:\n' }}{% endif %}"
    )
    prompt = [{"role": "user", "content": "b"}]
    row = encode(tokenizer, prompt, answer("\nb"))
    assert row["ids"] == [*prompt_ids(tokenizer, prompt), 2, 4, 5]
    assert row["mask"] == [0] * len(prompt_ids(tokenizer, prompt)) + [1, 1, 1]


def test_rows_without_a_supervised_stop_token_stop_the_run(own):
    seq = encode(own, USER, answer("Five."))
    for broken in (
        seq | {"mask": [*seq["mask"][:-1], 0]},
        seq | {"ids": seq["ids"][:-1], "mask": seq["mask"][:-1]},
    ):
        with pytest.raises(BadInput, match="stop token"):
            prepare(
                [{"weight": 1.0}], lambda row, broken=broken: row | {"seqs": [broken]}, own, 0.05
            )
    cut = encode(own, USER, answer("Five. Six."), max_len=len(seq["ids"]) - 2)
    assert prepare([{"weight": 1.0}], lambda row: row | {"seqs": [cut]}, own, 0.05)


def test_drops_are_counted_by_reason_and_limited(own, capsys):
    rows = [{"weight": 1.0, "text": text} for text in ["good"] * 8 + ["", "a<|im_end|>b"]]

    def encode_row(row):
        return row | {"seqs": [encode(own, USER, answer(row["text"]))]}

    assert len(prepare(rows, encode_row, own, 0.2)) == 8
    line = capsys.readouterr().out
    assert (
        "10 rows, 8 kept, 2 dropped" in line
        and "empty answer: 1" in line
        and "a stop token inside" in line
    )
    with pytest.raises(BadInput, match="2 of 10 rows would be dropped"):
        prepare(rows, encode_row, own, 0.19)
    assert (
        len(prepare([*rows, {"weight": 0.0, "text": ""}], encode_row, own, 0.2)) == 8
    )  # weight 0: not used at all


def test_calls_that_verifiers_do_not_read_are_counted(own, capsys):
    """A template may write them in a form of its own, or leave a quote open: training goes on, and says so."""
    row = {"prompt": USER, "completion": [CALL], "tools": TOOLS, "weight": 1.0}

    def encode_row(row):
        return row | {"seqs": [encode(own, row["prompt"], row["completion"], row["tools"])]}

    assert len(prepare([row, row], encode_row, own, 0)) == 2
    assert "verifiers do not read" not in capsys.readouterr().out
    own.chat_template = TEMPLATE.replace(
        "m['content']",
        "m['content'] + ('!' + m['tool_calls'][0]['function']['name'] + '~' "
        "+ (m['tool_calls'][0]['function']['arguments'] | tojson) if m['tool_calls'] else '')",
    )
    assert len(prepare([row, row], encode_row, own, 0)) == 2
    assert "tool calls of 2 answers in a form that verifiers do not read" in capsys.readouterr().out
    spoken = {"prompt": USER, "completion": answer("Five."), "tools": TOOLS, "weight": 1.0}
    prepare([spoken], encode_row, own, 0)
    assert "verifiers" not in capsys.readouterr().out


def test_the_line_on_the_data_by_hand():
    """Rows and reasons; answers cut, tokens, and those of them that are trained on."""
    seqs = [
        {"ids": [1] * 1200, "mask": [0] * 200 + [1] * 1000, "truncated": True},
        {"ids": [1] * 30, "mask": [0] * 7 + [1] * 23, "truncated": False},
    ]
    rows = [{"seqs": [seq]} for seq in seqs]
    assert data_line([{}] * 3, rows, seqs, "empty: 1") == (
        "data     3 rows, 2 kept, 1 dropped (empty: 1), 1 answers truncated, 1,230 tokens, "
        "1,023 supervised"
    )
    assert "2 rows, 2 kept, 0 dropped, 1 answers" in data_line([{}] * 2, rows, seqs, "")
    pair = [{"seqs": [seq | {"prompt_cut": True} for seq in seqs]}]
    assert "1 answers truncated, 1 prompts cut, " in data_line([{}], pair, pair[0]["seqs"], "")


def test_show_mask_prints_what_is_trained_on(own):
    text = show_mask(own, encode_all_turns(own, LONG + answer("Goodbye."))[0])
    assert text.count("⟦") == text.count("⟧") == 2
    assert "⟦Hello there.<|im_end|>⟧" in text and text.endswith("⟦Goodbye.<|im_end|>⟧")


def test_show_mask_is_readable_in_any_script(any_tokenizer):
    """A letter of several tokens is one letter, and stretches meet where they should."""
    text = "नमस्ते दुनिया 👋🏽 — 你好, grüße"
    row = encode(any_tokenizer, [{"role": "user", "content": "Grüße auf Hindi? 🤔"}], answer(text))
    shown = show_mask(any_tokenizer, row)
    assert "Grüße auf Hindi? 🤔" in shown and "\ufffd" not in shown
    assert f"⟦{text}{stop(any_tokenizer)}⟧" in shown
    assert shown.replace("⟦", "").replace("⟧", "") == any_tokenizer.decode(row["ids"])


def test_a_turn_of_weight_0_is_read_and_not_trained_on(own):
    wrong = {"role": "assistant", "content": "WRONG", "weight": 0}
    messages = [*USER, wrong, *USER, *answer("Right.")]
    [row] = encode_all_turns(own, messages)
    assert parts(own, row) == ["Right.<|im_end|>"] and "WRONG" in own.decode(row["ids"])
    with pytest.raises(ValueError, match="the answer has weight 0"):
        encode(own, USER, [wrong])
    with pytest.raises(ValueError, match="the answer has weight 0"):
        encode_all_turns(own, [*USER, wrong])


def test_the_prompt_of_generation_is_the_prompt_of_training(any_tokenizer):
    row = encode(any_tokenizer, LONG, answer("Goodbye."), TOOLS)
    start = row["mask"].index(1)
    assert row["ids"][:start] == prompt_ids(any_tokenizer, LONG, TOOLS)


def test_qwen2_and_smollm2_insert_a_system_prompt_that_is_not_trained_on(real):
    for name in ("qwen2", "smollm2"):
        tokenizer = real_tokenizer(real, name)
        row = encode(tokenizer, USER, answer("Five."))
        assert tokenizer.decode(row["ids"]).startswith("<|im_start|>system")
        assert parts(tokenizer, row) == ["Five.<|im_end|>"]


def test_all_turns_of_one_file_train_on_more(base, tmp_path, capsys):
    rows = [
        row
        | {
            "prompt": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": row["prompt"]},
            ]
        }
        for row in sft_rows(3)
    ]
    data = write(tmp_path / "data.jsonl", rows)
    for flags, count in (([], 3), (["--all-turns"], 6)):
        run_main(
            "sft", "--model", base, "--data", data, "--out", tmp_path / "x", "--show-mask", *flags
        )
        assert capsys.readouterr().out.count("⟦") == count


def test_supervised_tokens_reach_the_loss(model, own):
    """Changing a token after the mask, or of the prompt's future, moves nothing that it should not."""
    from common import completion_logps

    row = encode(own, USER, answer("Five."))
    with torch.no_grad():
        plain = completion_logps(model, [row])[0].item()
        longer = {"ids": row["ids"] + [7, 8, 9], "mask": row["mask"] + [0, 0, 0]}
        assert completion_logps(model, [longer])[0].item() == pytest.approx(plain, rel=1e-6)
