"""What was sampled becomes the message that the template writes as the same text again."""

import json

import pytest
from conftest import make_tokenizer
from test_templates import templates, tokenizer_for

from posttrain.chat.calls import message_calls
from posttrain.chat.encode import turn_texts
from posttrain.chat.replies import reply_message, reply_text, reply_to
from posttrain.chat.stops import stop_ids
from posttrain.chat.thoughts import opened_thought

PROMPT = [{"role": "user", "content": "How high is the tide?"}]
PROPERTIES = {"harbour": {"type": "string"}, "days": {"type": "integer"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "description": "level",
            "parameters": {"type": "object", "properties": PROPERTIES},
        },
    }
]
CALL = {"name": "get_tide", "arguments": {"harbour": "Emden 7", "days": 3}}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": CALL}],
}
ANSWER = {"role": "assistant", "content": "It is high."}
THOUGHT = {"reasoning_content": "Let me see."}


def sampled(tokenizer, message, think):
    """The text that a model would have to write to give this message, as sample returns it."""
    prompt_text, turn_text = turn_texts(tokenizer, [*PROMPT, message], TOOLS, think=think)
    stops = stop_ids(tokenizer)
    ids = tokenizer(turn_text[len(prompt_text) :], add_special_tokens=False).input_ids
    end = [n for n, token in enumerate(ids) if token in stops]
    text = tokenizer.decode(ids[: end[0]] if end else ids)
    return opened_thought(prompt_text) + text


@pytest.mark.parametrize(("name", "template"), templates().items(), ids=templates())
def test_a_reply_is_written_again_as_it_was_sampled(name, template):
    """Text, thought and call, in every template: what is kept trains on what was sampled."""
    tokenizer = tokenizer_for(name, template)
    for message in (ANSWER, CALLS, ANSWER | THOUGHT, CALLS | THOUGHT):
        think = "reasoning_content" in message
        text = sampled(tokenizer, message, think)
        reply = reply_to(tokenizer, PROMPT, TOOLS, text, think=think)
        # White space around the marks of a thought is the template's own.
        again = sampled(tokenizer, reply, think)
        assert "".join(again.split()) == "".join(text.split())
        assert reply.get("reasoning_content", "") == message.get("reasoning_content", "")
        assert message_calls(reply, TOOLS) == message_calls(message, TOOLS)


def test_calls_stay_in_the_text_where_the_template_writes_them_so():
    tokenizer = tokenizer_for("qwen3", templates()["qwen3"])
    text = f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    assert reply_to(tokenizer, PROMPT, TOOLS, text) == {"role": "assistant", "content": text}
    harmony = tokenizer_for("gptoss", templates()["gptoss"])
    text = f" to=functions.get_tide<|channel|>commentary json<|message|>{json.dumps(CALL['arguments'])}"
    assert reply_to(harmony, PROMPT, TOOLS, text) == CALLS


def test_a_call_that_is_not_well_formed_is_a_text():
    tokenizer = tokenizer_for("qwen3", templates()["qwen3"])
    text = '<tool_call>\n{"name": "get_tide", "arg'
    assert reply_to(tokenizer, PROMPT, TOOLS, text) == {"role": "assistant", "content": text}


def test_thoughts_of_a_server():
    assert reply_message("4", "2+2") == {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "2+2",
    }
    both = reply_message("<think>b</think>4", "a")
    assert both["reasoning_content"] == "a\nb" and both["content"] == "4"
    assert reply_message("4") == {"role": "assistant", "content": "4"}


# ---- response templates ---------------------------------------------------------------------------------------------

# A form that nothing but its response template knows: (( thought )) and !name{json}.
TURN = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}(({{ m.reasoning_content }}))"
    "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}!{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RESPONSES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "((", "close": "))", "content": "text"},
        "tool_calls": {
            "open_pattern": r"!(?P<name>\w+)(?=\{)",
            "close_pattern": r"(?<=\})(?=!|$)",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close_pattern": r"<\|im_end\|>|$", "content": "text"},
    },
}


@pytest.fixture
def shouting():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TURN
    tokenizer.response_template = RESPONSES
    return tokenizer


def test_a_response_template_is_gone_by(shouting):
    text = "((Let me see.))I look.!get_tide" + json.dumps(CALL["arguments"])
    message = CALLS | THOUGHT | {"content": "I look."}
    assert reply_to(shouting, PROMPT, TOOLS, text) == message
    readable = reply_text(shouting, PROMPT, TOOLS, text)
    assert readable == f"<think>\nLet me see.\n</think>\n\nI look.\n{json.dumps(CALL)}"
    assert reply_message(readable)["reasoning_content"] == "Let me see."


def test_what_verifiers_read_themselves_is_left_alone(shouting):
    for text in ("It is high.", f"<tool_call>{json.dumps(CALL)}</tool_call>", "!get_tide{broken"):
        assert reply_text(shouting, PROMPT, TOOLS, text) == text
        assert reply_to(shouting, PROMPT, TOOLS, text) == {"role": "assistant", "content": text}
    shouting.response_template = None
    text = "!get_tide" + json.dumps(CALL["arguments"])
    assert reply_text(shouting, PROMPT, TOOLS, text) == text
