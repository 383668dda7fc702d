"""Templates that think, print the date, know no system turns or close a turn twice."""

import pytest

from posttrain.chat.encode import encode, encode_all_turns
from posttrain.chat.stops import stop_ids
from posttrain.chat.template import render
from posttrain.cli import BadInput

USER, ANSWER = (
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "assistant", "content": "It is 4."}],
)
TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def with_template(tokenizer, template):
    copy = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    copy.chat_template = template
    return copy


def test_thinking_is_switched_off_where_a_template_can(tokenizer):
    empty = "{{ '<think>\n\n</think>\n\n' }}"
    turn = TURN.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}" + empty + "{% endif %}{{ m.content }}"
    )
    thinking = with_template(
        tokenizer,
        turn + "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if not (enable_thinking | default(true)) %}" + empty + "{% endif %}{% endif %}",
    )
    row = encode(thinking, USER, ANSWER)
    assert (
        thinking.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == "It is 4.<|im_end|>"
    )
    assert "<think>" in thinking.decode(row["ids"]), "the model is told not to think"


@pytest.mark.parametrize("name", ["enable_thinking", "thinking", "open_thinking"])
def test_names_of_the_switch(tokenizer, name):
    switched = with_template(tokenizer, TURN + "{{ " + name + " | default('unsaid') }}")
    assert render(switched, USER).endswith("False")
    assert render(switched, USER, think=True).endswith("True")


def test_two_stop_tokens_in_a_row_end_the_answer_at_the_first(tokenizer):
    """Phi closes a turn with <|end|> and the conversation with <|endoftext|>."""
    end = "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|pad|>{% endif %}"
    phi = with_template(tokenizer, TURN + end)
    phi.eos_token = "<|pad|>"
    assert len(stop_ids(phi)) == 2
    row = encode(phi, USER, ANSWER)
    assert phi.decode([i for i, m in zip(row["ids"], row["mask"]) if m]) == "It is 4.<|im_end|>"


def test_stop_tokens_follow_a_change_of_the_tokenizer(tokenizer):
    """They are remembered, but not beyond a change of the template or of the end token."""
    changing = with_template(tokenizer, TURN)
    names = [changing.convert_ids_to_tokens(stop_ids(changing))]
    changing.eos_token = "<|pad|>"
    names.append(changing.convert_ids_to_tokens(stop_ids(changing)))
    changing.chat_template = TURN.replace("<|im_end|>", "<|im_start|>")
    names.append(changing.convert_ids_to_tokens(stop_ids(changing)))
    closed, end, opened = "<|im_end|>", "<|pad|>", "<|im_start|>"
    assert names == [[closed], [closed, end], [opened, end]]
    stop_ids(changing).clear()
    assert stop_ids(changing), "whoever gets the list may change it"


def test_the_date_in_a_template_does_not_move(tokenizer):
    dated = with_template(tokenizer, "{{ strftime_now('%d %b %Y') }} {{ date_string }}\n" + TURN)
    assert render(dated, USER).startswith("26 Jul 2024 26 Jul 2024\n")


def test_a_template_without_system_turns_gets_the_text_in_the_first_user_turn(tokenizer):
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    strict = with_template(tokenizer, refuse + TURN)
    text = render(strict, [{"role": "system", "content": "Be brief."}, *USER])
    assert "Be brief.\n\nWhat is 2+2?" in text and "system" not in text
    text = render(strict, [{"role": "system", "content": "Be brief."}, *USER, *ANSWER, *USER])
    assert text.count("Be brief.") == 1 and text.count("What is 2+2?") == 2
    with pytest.raises(BadInput, match="no system"):
        render(strict, [{"role": "system", "content": "Be brief."}, *ANSWER])
    opens = with_template(
        tokenizer,
        refuse + TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    system = [{"role": "system", "content": "Be brief."}, *USER]
    assert render(opens, system, None, True) == render(opens, system) + "<|im_start|>assistant\n"


def test_tools_join_the_system_turn_that_is_there(tokenizer):
    """The template knows no tools: they are text behind the system's own."""
    plain = with_template(tokenizer, TURN)
    tools = [{"type": "function", "function": {"name": "add", "description": "für zwei"}}]
    told = "You may call these functions:\n" + '{"name": "add", "description": "für zwei"}'
    system = {"role": "system", "content": "Be brief."}
    text = render(plain, [system, *USER], tools)
    assert text.startswith(f"<|im_start|>system\nBe brief.\n\n{told}<|im_end|>\n<|im_start|>user")
    assert render(plain, USER, tools).startswith(f"<|im_start|>system\n{told}<|im_end|>")


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("all_turns", [True, False])
def test_an_assistant_turn_that_opens_a_conversation(tokenizer, tools, all_turns):
    """It answers nothing, so it is not trained on: the row is left out and counted with the reason."""
    greeting = [{"role": "assistant", "content": "Welcome!"}]
    if all_turns:
        with pytest.raises(BadInput, match="begins with an assistant turn, which answers nothing"):
            encode_all_turns(tokenizer, greeting + USER + ANSWER, tools)
    else:
        row = encode(tokenizer, greeting + USER, ANSWER, tools)
        assert "Welcome!" in tokenizer.decode(row["ids"])
        trained = [token for token, mark in zip(row["ids"], row["mask"]) if mark]
        assert tokenizer.decode(trained) == "It is 4.<|im_end|>"


def test_a_tokenizer_without_an_end_of_sequence_token(tokenizer):
    """The template's own stop token ends an answer; where it writes none, the model could not learn to stop."""
    copy = with_template(
        tokenizer, TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    copy.eos_token = None
    assert stop_ids(copy) == [2]
    row = encode(copy, USER, ANSWER)
    assert row["ids"][-1] == 2 and row["mask"][-1] == 1
    copy.chat_template = TURN.replace("<|im_end|>", "")
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        stop_ids(copy)


def test_stops_are_the_templates_first(tokenizer):
    """Text behind an answer is no stop token, nor is a second special token; the tokenizer's own is the other one."""
    copy = with_template(tokenizer, TURN.replace("<|im_end|>", " a<|pad|><|im_start|>"))
    assert stop_ids(copy) == [0, 2]
    copy.chat_template = TURN.replace("<|im_end|>", " a")
    assert stop_ids(copy) == [2]
    assert stop_ids(tokenizer) == [2]


def test_one_of_several_templates_that_knows_tools(tokenizer):
    """Where a tokenizer has templates by name, the one for tools gets them as they are."""
    several = with_template(tokenizer, TURN)
    several.chat_template = {"default": TURN, "tool_use": "{{ tools[0].function.name }}!" + TURN}
    assert render(several, USER, TOOLS) == "add!" + render(several, USER)

    # The other one writes them as text, and dates are fixed in both.
    dated = "{{ strftime_now('%Y-%m-%d') }}" + TURN
    several.chat_template = {"default": dated, "tool_use": "Calls! " + dated}
    assert render(several, USER).startswith("2024-07-26<|im_start|>user")
    with_tools = render(several, USER, TOOLS)
    assert with_tools.startswith("Calls! 2024-07-26<|im_start|>system") and '"add"' in with_tools

    several.chat_template = {"rag": TURN}
    with pytest.raises(BadInput, match="no chat template to take .*multiple chat templates"):
        render(several, USER)


def test_calls_as_text_stand_behind_what_was_said(tokenizer):
    """In a template that knows no calls; without a call every message stays as it is."""
    names = with_template(tokenizer, TURN.replace("{{ m.role }}", "{{ m.role }}{{ m.name }}"))
    call = {"type": "function", "function": {"name": "add", "arguments": {}}}
    written = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    for said, text in (("", written), ("I add.", f"I add.\n{written}\n{written}")):
        calls = [call] if not said else [call, call]
        turn = {"role": "assistant", "content": said, "tool_calls": calls}
        expected = render(names, USER) + f"<|im_start|>assistant\n{text}<|im_end|>\n"
        assert render(names, [*USER, turn]) == expected
    result = {"role": "tool", "content": "4", "name": "add"}
    assert render(names, [result]) == "<|im_start|>tooladd\n4<|im_end|>\n"


def test_text_behind_the_stop_token_is_not_trained_on(tokenizer):
    """What a template writes behind a turn does not make the turn one that ends in the middle."""
    polite = with_template(
        tokenizer,
        TURN.replace("<|im_end|>", "<|im_end|> bye")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    row = encode(polite, USER, ANSWER)
    trained = [token for token, mark in zip(row["ids"], row["mask"]) if mark]
    assert polite.decode(trained) == "It is 4.<|im_end|>" and row["ids"][-1] == trained[-1]
