"""What a model thinks, apart from what it says: in texts, in messages, in prompts, and in what is trained on."""

import json

import pytest
from conftest import make_tokenizer, run_main, write

import dpo
from posttrain.chat.encode import encode, encode_all_turns, prompt_ids, show_mask
from posttrain.chat.template import render
from posttrain.chat.thoughts import (
    PAIRS,
    close_thought,
    opened_thought,
    split_thought,
    with_thought_apart,
)
from posttrain.gating.answers import answer_of
from posttrain.generate import local

USER = [{"role": "user", "content": "What is 2+2?"}]
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "text, thought, shown",
    [
        ("4", "", "4"),
        ("<think>\n2+2\n</think>\n\n4", "2+2", "4"),
        ("\n<think>2+2</think>4 ", "2+2", "4 "),
        ("<think>a</think>\n<think>b</think>\nc", "a\nb", "c"),
        ("<think>\n\n</think>\n\n4", "", "4"),
        # Opened by the prompt, and never closed.
        ("2+2\n</think>\n\n4", "2+2", "4"),
        ("<think>\n2+2 is 4, so 4", "2+2 is 4, so 4", ""),
        # Words of a text that speaks about thoughts.
        ("The tags <think> and </think> frame it.", "", "The tags <think> and </think> frame it."),
        ("I <think>no</think>", "", "I <think>no</think>"),
        # Marks of other families.
        ("[THINK]2+2[/THINK]4", "2+2", "4"),
        ("<|channel>thought\n2+2\n<channel|>4", "2+2", "4"),
        ("<|START_THINKING|>2+2<|END_THINKING|>4", "2+2", "4"),
        ("◁think▷2+2◁/think▷4", "2+2", "4"),
        ("<thought>2+2</thought>4", "2+2", "4"),
        (
            "<reasoning>2+2</reasoning>4",
            "",
            "<reasoning>2+2</reasoning>4",
        ),  # a form that was asked for
        # Turns in parts: gpt-oss, then Muse.
        (
            "<|channel|>analysis<|message|>2+2<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            "2+2",
            "4",
        ),
        ("<|channel|>final<|message|>4", "", "4"),
        ("<|channel|>analysis<|message|>2+2 is", "2+2 is", ""),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.f<|channel|>commentary json"
            "<|message|>{}",
            "a",
            " to=functions.f<|channel|>commentary json<|message|>{}",
        ),
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.f<|message|>{}",
            "",
            "I look.\n<|channel|>commentary to=functions.f<|message|>{}",
        ),
        (" to=self<|message|>2+2<|eom|><|start|>assistant to=user<|message|>4<|eot|>", "2+2", "4"),
        (" to=user<|message|>4", "", "4"),
        ("<|START_RESPONSE|>4<|END_RESPONSE|>", "", "4"),
        ("<|START_THINKING|>2+2<|END_THINKING|><|START_TEXT|>4", "2+2", "4"),
        ("<|thought_start|>\n2+2\n<|thought_end|>\n4", "2+2", "4"),
        ("<|thought_start|>\n2+2 is 4", "2+2 is 4", ""),
        # Apertus, whose thought may stay open while it calls.
        ("<|inner_prefix|>2+2<|inner_suffix|>4", "2+2", "4"),
        ("<|inner_prefix|>2+2 is 4", "2+2 is 4", ""),
        (
            "<|inner_prefix|>2+2<|tools_prefix|>[]<|tools_suffix|>",
            "2+2",
            "<|tools_prefix|>[]<|tools_suffix|>",
        ),
        # Command: the prompt may have opened the answer.
        ("4<|END_RESPONSE|>", "", "4"),
        ("a<|START_RESPONSE|>4<|END_RESPONSE|>", "", "a<|START_RESPONSE|>4<|END_RESPONSE|>"),
        ("4<|END_TEXT|>", "", "4<|END_TEXT|>"),
        # Solar Open: each part is a turn.
        ("<|think|>2+2<|end|><|begin|>assistant<|content|>4<|end|>", "2+2", "4"),
        ("<|think|>2+2 is 4<|end|>", "2+2 is 4<|end|>", ""),
        (
            "<|content|>I look.<|end|><|begin|>assistant<|tool_calls|>",
            "",
            "<|content|>I look.<|end|><|begin|>assistant<|tool_calls|>",
        ),
        # Other families end their turns with the same token.
        ("4<|end|>", "", "4<|end|>"),
        # OpenThoughts.
        (
            "<|begin_of_thought|>\n\n2+2\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n4\n\n"
            "<|end_of_solution|>",
            "2+2",
            "4",
        ),
        ("<|begin_of_thought|>2+2 is 4", "2+2 is 4", ""),
        # Granite 3.3 and ERNIE, Hunyuan: words around the answer, behind a thought alone.
        ("<think>2+2</think><response>4</response>", "2+2", "4"),
        ("2+2\n</think>\n\n<response>\n4\n</response>\n", "2+2", "4"),
        ("<think>\n\n</think>\n<answer>\n4\n</answer>", "", "4"),
        ("<think>2+2</think><answer>4", "2+2", "4"),
        ("<answer>4</answer>", "", "<answer>4</answer>"),
        ("[THINK]2+2[/THINK]<answer>4</answer>", "2+2", "<answer>4</answer>"),
        ("<think>2+2</think><answer>4</answer> is it.", "2+2", "<answer>4</answer> is it."),
    ],
)
def test_thought_and_answer_of_a_text(text, thought, shown):
    assert split_thought(text) == (thought, shown)


def test_words_around_an_answer_are_trained_on():
    """A form that may have been asked for does not vanish from the data."""
    message = {"role": "assistant", "content": "<think>a</think>\n<answer>b</answer>"}
    apart = {"role": "assistant", "content": "<answer>b</answer>", "reasoning_content": "a"}
    assert with_thought_apart(message) == apart and with_thought_apart(apart) == apart
    solution = message | {"content": "<|begin_of_solution|>b<|end_of_solution|>"}
    assert with_thought_apart(solution) == {"role": "assistant", "content": "b"}


def test_messages():
    """The thought of an assistant's text stands apart; whatever else there is stays as it is."""
    message = {"role": "assistant", "content": "<think>a</think>b", "weight": 0}
    apart = {"role": "assistant", "content": "b", "reasoning_content": "a", "weight": 0}
    assert with_thought_apart(message) == apart and with_thought_apart(apart) == apart
    empty = {"role": "assistant", "content": "<think>\n</think>\n\nb"}
    assert with_thought_apart(empty) == {"role": "assistant", "content": "b"}
    for role, content in (("user", "<think>a</think>b"), ("assistant", "b")):
        other = {"role": role, "content": content}
        assert with_thought_apart(other) is other


@pytest.mark.parametrize(
    ("content", "thought", "shown"),
    [
        ("<think>\na\n</think>\n\nb", "a", "b"),  # the same in both places
        ("<think>\nc\n</think>\n\nb", "a\nc", "b"),
        ("<think>\n\n</think>\n\nb", "a", "b"),
        ("<think>\nc", "a\nc", ""),
        ("The mark </think> ends it.", "a", "The mark </think> ends it."),
    ],
)
def test_a_thought_beside_the_content_and_in_it(content, thought, shown):
    """Else its marks would be trained on as a part of the answer."""
    message = {"role": "assistant", "content": content, "reasoning_content": "a"}
    apart = {"role": "assistant", "content": shown, "reasoning_content": thought}
    assert with_thought_apart(message) == apart and with_thought_apart(apart) == apart


def test_prompts_that_open_a_thought():
    for pair in PAIRS:
        opened = f"Hi {pair.opening}\n"
        assert opened_thought(opened) == f"{pair.opening}\n"
        assert close_thought(opened) == opened + pair.after
        closed = f"Hi {pair.opening}\n\n{pair.closing}\n\n"
        assert opened_thought(closed) == "" and close_thought(closed) == closed
    assert opened_thought("Hi <think> there") == "" and close_thought("Hi") == "Hi"


# ---- templates ------------------------------------------------------------------------------------------------------


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.chat_template = template
    return tokenizer


def opening(block):
    """ChatML whose prompt ends with a block and whose turns know nothing of it."""
    return TURN + "{% if add_generation_prompt %}" + HEADER + block + "{% endif %}"


def trained(tokenizer, message, think, prompt=USER):
    row = encode(tokenizer, prompt, [message], think=think)
    start = row["mask"].index(1)
    return tokenizer.decode(row["ids"][:start]), tokenizer.decode(row["ids"][start:])


THINKING = {"role": "assistant", "content": "4.", "reasoning_content": "2+2"}
PLAIN = {"role": "assistant", "content": "4."}


def test_a_prompt_that_opens_a_thought_and_turns_that_do_not_write_it():
    """As DeepSeek R1: with --think the thought follows the prompt; without, the thought is closed at once."""
    tokenizer = with_template(opening("<think>\n"))
    before, answer = trained(tokenizer, THINKING, True)
    assert before.endswith(f"{HEADER}<think>\n") and answer == "2+2\n</think>\n\n4.<|im_end|>"
    for message, think in ((THINKING, False), (PLAIN, False), (PLAIN, True)):
        before, answer = trained(tokenizer, message, think)
        assert before.endswith(f"{HEADER}<think>\n\n</think>\n\n") and answer == "4.<|im_end|>"
    ids = prompt_ids(tokenizer, USER, think=True)
    assert tokenizer.decode(ids).endswith("<think>\n")


def test_a_template_that_writes_thoughts_in_the_last_turn_alone():
    """As Qwen3: an empty thought is never trained on, an earlier turn's thought is left out."""
    write_turn = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    switch = "{% if not (enable_thinking | default(true)) %}<think>\n\n</think>\n\n{% endif %}"
    tokenizer = with_template(
        write_turn + "{% if add_generation_prompt %}" + HEADER + switch + "{% endif %}"
    )
    assert trained(tokenizer, THINKING, True)[1] == "<think>\n2+2\n</think>\n\n4.<|im_end|>"
    for message, think in ((THINKING, False), (PLAIN, False), (PLAIN, True)):
        before, answer = trained(tokenizer, message, think)
        assert answer == "4.<|im_end|>" and before.endswith("<think>\n\n</think>\n\n")
    before, _ = trained(tokenizer, THINKING, True, [*USER, THINKING, *USER])
    assert "2+2" in before and before.count("<think>") == 0


def test_a_thought_before_a_call_that_goes_when_the_answer_is_there():
    """As gpt-oss: generation reads the thought behind the call, the finished conversation has none. Both are trained on."""
    turns = TURN.replace(
        "{{ m.content }}",
        "{% set reads = m.reasoning_content and (loop.last or messages[-1].role == 'tool') %}"
        "{% if reads %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ m.content }}",
    )
    tokenizer = with_template(turns + "{% if add_generation_prompt %}" + HEADER + "{% endif %}")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    calls = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "CALL"}
    prompt = [*USER, calls, {"role": "tool", "content": "4"}]
    before, answer = trained(tokenizer, THINKING, True, prompt)
    assert before == render(tokenizer, prompt, None, True, think=True) and "<think>CALL" in before
    assert answer == "<think>2+2</think>4.<|im_end|>"
    [row] = encode_all_turns(tokenizer, [*prompt, THINKING], think=True)
    assert show_mask(tokenizer, row).count("⟧") == 2


def test_a_template_that_knows_no_thoughts():
    """It is written between the usual marks, or those that are tokens."""
    tokenizer = with_template(opening(""))
    assert trained(tokenizer, THINKING, True)[1] == "<think>\n2+2\n</think>\n\n4.<|im_end|>"
    marked = make_tokenizer()
    marked.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    marked.chat_template = opening("")
    assert trained(marked, THINKING, True)[1] == "[THINK]2+2[/THINK]4.<|im_end|>"


def test_a_thought_that_stands_in_the_answer_too_is_written():
    """A template that drops thoughts is not taken for one that writes them because the words occur."""
    tokenizer = with_template(opening(""))
    message = {"role": "assistant", "content": "It is 2+2.", "reasoning_content": "2+2"}
    assert trained(tokenizer, message, True)[1].startswith("<think>\n2+2\n</think>")


def test_a_thought_is_closed_as_the_prompt_opens_it():
    """As EXAONE Deep, whatever tokens there are."""
    tokenizer = with_template(opening("<thought>\n"))
    assert trained(tokenizer, THINKING, True)[1] == "2+2\n</thought>\n\n4.<|im_end|>"


def test_an_empty_thought_of_the_turn_stands_in_the_prompt():
    """As Kimi K2 and DeepSeek V3.2: the model answers at once, and no empty thought is trained on."""
    empty = (
        "{% if m.role == 'assistant' %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}"
    )
    turns = TURN.replace("{{ m.content }}", empty + "{{ m.content }}")
    start = "{% if add_generation_prompt %}<|im_start|>assistant\n"
    for end in ("{% endif %}", "<think>{% endif %}"):
        tokenizer = with_template(turns + start + end)
        before, answer = trained(tokenizer, PLAIN, False)
        assert answer == "4.<|im_end|>" and before.endswith("assistant\n<think></think>")
        assert render(tokenizer, USER, None, True).endswith("assistant\n<think></think>")
        assert trained(tokenizer, THINKING, True)[1].endswith("2+2</think>4.<|im_end|>")


def test_an_answer_that_is_written_as_a_thought():
    """As Nemotron Nano 2, which opens a thought in the last turn and leaves it to the text to close it."""
    opened = TURN.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}<think>\n{% endif %}{{ m.content }}"
    )
    for end in ("", "<think>\n\n</think>\n\n", "<think>\n"):
        start = "{% if add_generation_prompt %}<|im_start|>assistant\n" + end + "{% endif %}"
        with pytest.raises(ValueError, match="writes the answer as a thought"):
            encode(with_template(opened + start), USER, [PLAIN])


def test_a_prompt_that_always_ends_the_thought():
    tokenizer = with_template(opening("<think>\n\n</think>\n\n"))
    assert trained(tokenizer, PLAIN, True)[1] == "4.<|im_end|>"
    with pytest.raises(ValueError, match="with it no model can think"):
        encode(tokenizer, USER, [THINKING], think=True)


def test_names_that_templates_read_thoughts_by():
    for name in ("reasoning_content", "thinking", "reasoning"):
        turn = TURN.replace("{{ m.content }}", "{{ m." + name + " }}|{{ m.content }}")
        message = PLAIN | {"reasoning_content": "MOUSE"}
        assert "MOUSE|4." in render(with_template(turn), [*USER, message], think=True)
        assert "MOUSE" not in render(with_template(turn), [*USER, message])


def test_an_answer_that_is_all_thought_is_empty():
    message = {"role": "assistant", "content": "<think>2+2"}
    with pytest.raises(ValueError, match="no answer behind the thought"):
        encode(with_template(opening("")), USER, [message], think=True)


# ---- scripts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("think", ["on", "off"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_trainers_say_what_becomes_of_thoughts(base, tmp_path, capsys, stage, think):
    rows = {
        "sft": {"prompt": "a cat", "completion": "<think>MOUSE</think>the mat"},
        "dpo": {"prompt": "a cat", "chosen": "<think>MOUSE</think>the mat", "rejected": "late"},
        "kto": {"prompt": "a cat", "completion": "<think>MOUSE</think>the mat", "label": True},
    }
    other = {
        "sft": {"prompt": "a", "completion": "b"},
        "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
        "kto": {"prompt": "a", "completion": "b", "label": False},
    }
    data = write(tmp_path / "rows.jsonl", [rows[stage], other[stage]])
    words = ["--model", base, "--data", data, "--out", tmp_path / "run", "--show-mask"]
    assert run_main(stage, *words, "--think", think) == 0
    printed = capsys.readouterr().out
    if think == "on":
        assert "thoughts 1 of 2 rows have thoughts: trained on\n" in printed
        assert "⟦<think>\nMOUSE\n</think>\n\nthe mat<|im_end|>⟧" in printed
    else:
        assert "thoughts 1 of 2 rows have thoughts: left out" in printed and "--think on" in printed
        assert "MOUSE" not in printed and "⟦the mat<|im_end|>⟧" in printed


def test_a_pair_of_which_one_answer_thinks():
    """Where the template's prompts differ, the pair would compare answers to two prompts; elsewhere it is trained on."""
    switched = with_template(opening("<think>\n"))
    row = {"prompt": USER, "chosen": [THINKING], "rejected": [PLAIN | {"content": "5."}]}
    with pytest.raises(ValueError, match="one answer has a thought and the other none"):
        dpo.encode_pair(switched, row, 2048, think=True)
    for tokenizer, think in ((switched, False), (with_template(opening("")), True)):
        encoded = dpo.encode_pair(tokenizer, row, 2048, think=think)["seqs"]
        assert len({tuple(dpo.prompt_of(seq)) for seq in encoded}) == 1
    both = row | {"rejected": [THINKING | {"content": "5."}]}
    chosen, rejected = dpo.encode_pair(switched, both, 2048, think=True)["seqs"]
    assert dpo.prompt_of(chosen) == dpo.prompt_of(rejected) and 1 in rejected["mask"]


def test_thoughts_are_counted_of_the_answers_that_are_trained_on(base, tmp_path, capsys):
    """KTO makes two rows of a pair: one of them thinks."""
    pair = {"prompt": "a cat", "chosen": "<think>MOUSE</think>the mat", "rejected": "late"}
    data = write(tmp_path / "rows.jsonl", [pair])
    words = ["--model", base, "--data", data, "--out", tmp_path / "run", "--show-mask"]
    assert run_main("kto", *words) == 0
    assert "thoughts 1 of 2 rows have thoughts" in capsys.readouterr().out


def test_nothing_is_said_where_no_row_thinks(base, tmp_path, capsys):
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    run_main("sft", "--model", base, "--data", data, "--out", tmp_path / "run", "--show-mask")
    assert "thoughts" not in capsys.readouterr().out


def opening_model(base, tmp_path, block):
    """A copy of the model folder whose prompts end with a block."""
    import shutil

    folder = tmp_path / "opens"
    shutil.copytree(base, folder)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = opening(block)
    tokenizer.save_pretrained(folder)
    return folder


def test_candidates_of_a_model_that_thinks(base, tmp_path):
    """A thought that the prompt has opened and that never closes is no answer; all its tokens are a thought's."""
    folder = opening_model(base, tmp_path, "<think>\n")
    data = write(tmp_path / "prompts.jsonl", [{"id": "a", "prompt": "the cat"}])
    for think in ("on", "off"):
        out = tmp_path / f"{think}.jsonl"
        words = ["--model", folder, "--data", data, "--out", out, "--n", 1, "--max-tokens", 6]
        assert run_main("gen_candidates", *words, "--think", think) == 0
        row = json.loads(out.read_text())
        [message] = row["completion"]
        if think == "on":
            assert message["content"] == "" and message["reasoning_content"]
            assert row["thought_tokens"] == row["tokens"] == 6
        else:
            assert message.keys() == {"role", "content"} and message["content"]
            assert "thought_tokens" not in row


def test_the_gate_counts_what_is_shown():
    """Budgets are of answers; what a run costs is counted elsewhere, thoughts and all."""
    line = {"sample": 0, "text": "<think>a b</think>c", "tokens": 9, "finish": "stop"}
    assert answer_of(line, {}).tokens == 9
    assert answer_of(line | {"thought_tokens": 7}, {}).tokens == 2


def test_tokens_of_a_thought():
    """What is left of an answer's tokens when those of the visible part and the stop token are taken away."""
    tokenizer = with_template(opening(""))
    ids = tokenizer("<think>\na cat\n</think>\n\nthe mat").input_ids
    answer = local.answer_of(local.Row(0, 1.0, [], [*ids, 2]), tokenizer, [2], "")
    assert answer["tokens"] == len(ids) + 1
    assert answer["thought_tokens"] == len(ids) - len(tokenizer("the mat").input_ids)
    for text in ("the mat", "the mat<|END_RESPONSE|>"):  # a mark of the answer's end is no thought
        row = local.Row(0, 1.0, [], tokenizer(text).input_ids)
        assert local.answer_of(row, tokenizer, [2], "")["thought_tokens"] == 0
