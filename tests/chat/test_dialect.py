"""What a template does not know reaches the model all the same, or the messages are refused."""

import pytest
from conftest import make_tokenizer

from posttrain.chat import dialect
from posttrain.chat.dialect import changes_for
from posttrain.chat.template import render, writer
from posttrain.cli import BadInput

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "How high is the tide?"}
NEXT = {"role": "user", "content": "And now?"}
CALL = {"type": "function", "function": {"name": "get_tide", "arguments": {"harbour": "Emden"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "3.4 metres"}
ANSWER = {"role": "assistant", "content": "It is high."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "description": "level",
            "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}},
        },
    }
]
TURN = "<{{ m.role }}>{{ m.content }}<|im_end|>"
LOOP = "{% for m in messages %}" + TURN + "{% endfor %}"
WRITES_CALLS = "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
# Every role, every call, every definition.
COMPLETE = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    + WRITES_CALLS
    + "<|im_end|>{% endfor %}"
)


def with_template(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def names(template):
    """{feature: the name of the way} of all that is not left as it is."""
    tokenizer = with_template(template)
    changes = changes_for(writer(tokenizer, None, False))
    return {name: way.__name__ for name, way in changes.items() if way.__name__ != "as_it_is"}


def test_a_template_that_knows_all_gets_all_as_it_is():
    assert names(COMPLETE) == {}
    text = render(with_template(COMPLETE), [SYSTEM, USER, CALLS, RESULT], TOOLS)
    assert text.startswith('[{"type": "function"') and "<tool>3.4 metres" in text
    assert '<assistant>[get_tide {"harbour": "Emden"}]<|im_end|>' in text


def test_templates_that_know_no_tools():
    assert names(LOOP) == {"tools": "tools_as_text", "calls": "calls_as_text"}
    text = render(with_template(LOOP), [USER, CALLS, RESULT], TOOLS)
    assert text.startswith("<system>You may call these functions:\n{")
    assert (
        '<tool_call>\n{"name": "get_tide", "arguments": {"harbour": "Emden"}}\n</tool_call>' in text
    )


def test_a_word_is_no_check():
    """A template that speaks of tools and tool calls does not thereby write them."""
    for idle in ("{% set tools = tools %}", "{# tools tool_calls #}"):
        assert names(idle + LOOP) == {"tools": "tools_as_text", "calls": "calls_as_text"}


def test_definitions_in_a_short_form():
    """A model's own form may leave descriptions out: it gets its tools as it has learned them."""
    short = "{% for t in tools or [] %}{{ t.function.name }}({{ t.function.parameters.properties | join(', ') }})"
    assert "tools" not in names(short + "{% endfor %}" + LOOP)
    text = render(with_template(short + "{% endfor %}" + LOOP), [USER], TOOLS)
    assert text.startswith("get_tide(harbour)<user>")
    nameless = short.replace("{{ t.function.name }}", "tool")
    assert names(nameless + "{% endfor %}" + LOOP)["tools"] == "tools_as_text"


def test_definitions_in_the_system_message():
    """As Phi-4-mini wants them: JSON under a key, of a system message that may be empty."""
    phi = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'system' and m.tools %}"
        "(tools {{ m.tools }}){% endif %}<|im_end|>{% endfor %}"
    )
    assert names(phi)["tools"] == "tools_in_system_message"
    text = render(with_template(phi), [SYSTEM, USER], TOOLS)
    assert text.startswith('<system>Be brief.(tools [{"name": "get_tide", "description": "level"')
    assert render(with_template(phi), [USER], TOOLS).startswith("<system>(tools [{")


def test_a_template_that_drops_what_tools_say():
    """As Phi-3: the results stand in user turns, those in a row in one, with what the user says next."""
    three = "{% if m.role in ['system', 'user', 'assistant'] %}"
    phi = "{% for m in messages %}" + three + TURN + "{% endif %}{% endfor %}"
    assert names(phi)["results"] == "results_in_user_turns"
    text = render(with_template(phi), [USER, CALLS, RESULT, RESULT, NEXT, ANSWER], TOOLS)
    block = "<tool_response>\n3.4 metres\n</tool_response>"
    assert f"<user>{block}\n{block}\nAnd now?<|im_end|><assistant>It is high." in text
    assert "is_result" not in text
    # A user turn that follows no result stays by itself.
    text = render(with_template(phi), [USER, NEXT, CALLS, RESULT])
    assert "<user>How high is the tide?<|im_end|><user>And now?<|im_end|>" in text


def test_strict_turns_and_no_system():
    """As Gemma: definitions join the system text, and both join the user's."""
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}"
        + TURN
        + "{% endfor %}"
    )
    assert names(strict) == {
        "system": "system_in_user_turn",
        "tools": "tools_as_text",
        "calls": "calls_as_text",
        "results": "results_in_user_turns",
    }
    text = render(with_template(strict), [SYSTEM, USER, CALLS, RESULT], TOOLS)
    assert text.startswith("<user>Be brief.\n\nYou may call these functions:\n{")
    assert "\n\nHow high is the tide?<|im_end|><assistant><tool_call>" in text
    with pytest.raises(BadInput, match="take turns"):
        render(with_template(strict), [USER, NEXT])


def test_text_in_parts():
    """Models that see pictures: a plain string is dropped, or they trip over it."""
    for write in ("{{ p.text }}", "{{ p['text'] }}{{ p.type.upper() }}"):
        parts = (
            "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}"
            + write
            + "{% endfor %}{% endfor %}"
        )
        assert names(parts)["text"] == "text_in_parts"
        assert "How high is the tide?" in render(with_template(parts), [USER])


def test_ids_of_calls():
    nine = "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
    mistral = COMPLETE.replace("{% for c in m.tool_calls or [] %}", nine).replace(
        "{{ m.content }}", "{{ m.content }}{{ m.tool_call_id }}"
    )
    assert names(mistral)["calls"] == "short_call_ids"
    first, second = CALL | {"id": "call_1"}, CALL | {"id": "call_2"}
    both = {"role": "assistant", "content": "", "tool_calls": [first, second]}
    results = [
        {"role": "tool", "content": "SECOND", "tool_call_id": "call_2"},
        {"role": "tool", "content": "FIRST", "tool_call_id": "call_1"},
    ]
    changes = changes_for(writer(with_template(mistral), None, False))
    messages = dialect.rewritten(dialect.Chat([USER, both, *results]), changes).messages
    ids = [call["id"] for call in messages[1]["tool_calls"]]
    answered = {message["tool_call_id"]: message["content"] for message in messages[2:]}
    assert answered == dict(zip(ids, ["FIRST", "SECOND"]))
    assert len(set(ids)) == 2 and all(len(name) == 9 and name.isalnum() for name in ids)
    # Without ids, and with one id for all, results belong to the calls in their order.
    for same in ({}, {"id": "call"}):
        calls = {"role": "assistant", "content": "", "tool_calls": [CALL | same, CALL | same]}
        result = RESULT | {f"tool_call_{key}": value for key, value in same.items()}
        messages = dialect.rewritten(dialect.Chat([USER, calls, result, result]), changes).messages
        ids = [call["id"] for call in messages[1]["tool_calls"]]
        assert [message["tool_call_id"] for message in messages[2:]] == ids
    assert first["id"] == "call_1", "the rows themselves are not changed"

    kimi = COMPLETE.replace("c.function.name", "c.id")
    assert names(kimi)["calls"] == "call_ids_that_name_the_function"
    text = render(with_template(kimi), [USER, both])
    assert "[functions.get_tide:0 {" in text and "[functions.get_tide:1 {" in text


def test_results_stand_in_the_order_of_their_calls():
    """A template without ids would tell the model that Emden's level is Husum's."""
    calls = {
        "role": "assistant",
        "content": "",
        "tool_calls": [CALL | {"id": "a"}, CALL | {"id": "b"}],
    }
    first = {"role": "tool", "content": "FIRST", "tool_call_id": "a"}
    second = {"role": "tool", "content": "SECOND", "tool_call_id": "b"}
    text = render(with_template(COMPLETE), [USER, calls, second, first, ANSWER])
    assert text.index("FIRST") < text.index("SECOND")
    # Each turn's by itself, and only where every result names a call.
    again = [USER, calls, second, first, ANSWER, NEXT, calls, second]
    text = render(with_template(COMPLETE), again)
    assert [text.index("FIRST") < text.index("SECOND"), text.count("SECOND")] == [True, 2]
    # Rows without ids: by the tool's name, where that names one call.
    other = CALL | {"function": CALL["function"] | {"name": "get_wind"}}
    wind, tide = (
        {"role": "tool", "content": name, "name": f"get_{name}"} for name in ("wind", "tide")
    )
    mixed = calls | {"tool_calls": [CALL, other]}
    text = render(with_template(COMPLETE), [USER, mixed, wind, tide])
    assert text.index(">tide") < text.index(">wind")
    twice = calls | {"tool_calls": [other, CALL, other]}
    again = [wind, tide, wind | {"content": "more wind"}]
    text = render(with_template(COMPLETE), [USER, twice, *again])
    assert text.index(">wind") < text.index(">tide") < text.index("more wind")
    unnamed = {"role": "tool", "content": "UNNAMED"}
    text = render(with_template(COMPLETE), [USER, calls, unnamed, first])
    assert text.index("UNNAMED") < text.index("FIRST")


def test_arguments_that_a_template_joins_as_text():
    joins = COMPLETE.replace(
        "{{ c.function.arguments | tojson }}", "{{ 'x' + c.function.arguments }}"
    )
    assert names(joins)["calls"] == "arguments_as_json"
    assert '[get_tide x{"harbour": "Emden"}]' in render(with_template(joins), [USER, CALLS])


def test_arguments_as_python_prints_them():
    """As Phi-4-mini: joined as they are, they would be no JSON, and no call that any reader knows."""
    prints = COMPLETE.replace("{{ c.function.arguments | tojson }}", "{{ c.function.arguments }}")
    assert names(prints)["calls"] == "arguments_as_json"
    assert '[get_tide {"harbour": "Emden"}]' in render(with_template(prints), [USER, CALLS])


def test_results_that_need_a_name():
    """As Gemma 4 and functionary: OpenAI's rows have the id of the call, others not even that."""
    named = COMPLETE.replace("{{ m.role }}", "{{ m.role + (m.name if m.role == 'tool' else '') }}")
    assert names(named)["results"] == "results_with_names"
    other = {"type": "function", "function": {"name": "get_wind", "arguments": {}}}
    calls = CALLS | {"tool_calls": [CALL | {"id": "a"}, other | {"id": "b"}]}
    by_id = [
        {"role": "tool", "content": "WIND", "tool_call_id": "b"},
        {"role": "tool", "content": "TIDE", "tool_call_id": "a"},
    ]
    tokenizer = with_template(named)
    text = render(tokenizer, [USER, calls, *by_id])
    assert "<toolget_tide>TIDE<|im_end|>" in text and "<toolget_wind>WIND<|im_end|>" in text
    assert "<toolget_tide>3.4 metres<|im_end|><toolget_wind>" in render(
        tokenizer, [USER, calls, RESULT, RESULT]
    )
    # The second call's result alone, by its id.
    text = render(tokenizer, [USER, calls, RESULT | {"tool_call_id": "b"}])
    assert "<toolget_wind>" in text and "<toolget_tide>" not in text
    own_name = RESULT | {"name": "mine"}
    assert "<toolmine>" in render(tokenizer, [USER, calls, own_name])


def test_white_space_beside_a_call():
    """A template that writes either the text or the calls writes the calls."""
    either = COMPLETE.replace(
        "{{ m.content }}" + WRITES_CALLS,
        "{% if m.content %}{{ m.content }}{% else %}" + WRITES_CALLS + "{% endif %}",
    )
    tokenizer = with_template(either)
    for blank in ("", " \n"):
        assert "[get_tide" in render(tokenizer, [USER, CALLS | {"content": blank}])
    with pytest.raises(BadInput, match="drops the name of a called tool"):
        render(tokenizer, [USER, CALLS | {"content": "I look."}])


def test_a_system_turn_that_only_prompts_have():
    """As Mistral: it stands in the last of all messages, if that is a user's."""
    last = (
        "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>"
        "{% if loop.last and m.role == 'user' and messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% endif %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert names(last)["system"] == "system_in_user_turn"
    text = render(with_template(last), [SYSTEM, USER, ANSWER, NEXT, ANSWER])
    assert text.startswith("<user>Be brief.\n\nHow high is the tide?<|im_end|>")


def test_fields_that_need_a_description():
    """As Command-R: the template is not taken for one that knows no tools."""
    described = COMPLETE.replace(
        "tools | tojson",
        "tools[0].function.name + tools[0].function.description + tools[0].function.parameters.properties"
        ".values() | map(attribute='description') | join + tools[0].function.parameters | tojson",
    )
    assert "tools" not in names(described)


@pytest.mark.parametrize(
    "template, messages, lost",
    [
        (  # a call or what is said beside it
            COMPLETE.replace("{{ m.content }}", "{{ '' if m.tool_calls else m.content }}"),
            [USER, CALLS | {"content": "I look."}],
            "drops the text of the role assistant beside a tool call",
        ),
        (  # all calls but the first
            COMPLETE.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"),
            [USER, CALLS | {"tool_calls": [CALL, CALL]}],
            "drops the name of a called tool and the arguments of a tool call",
        ),
        (  # every system turn but the first
            "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
            + TURN
            + "{% endif %}{% endfor %}",
            [SYSTEM, USER, SYSTEM, NEXT],
            "drops the text of the role system",
        ),
        (  # the call comes first
            COMPLETE.replace("{{ m.content }}" + WRITES_CALLS, WRITES_CALLS + "{{ m.content }}"),
            [USER, CALLS | {"content": "I look."}],
            "drops the order of text and tool call",
        ),
        (  # all definitions but the first
            COMPLETE.replace("tools | tojson", "tools[:1] | tojson"),
            [USER],
            "drops a tool definition and a field of a tool",
        ),
    ],
)
def test_what_vanishes_is_refused_and_named(template, messages, lost):
    tools = TOOLS * 2 if "tools[:1]" in template else None
    with pytest.raises(BadInput, match=f"^the chat template {lost}$"):
        render(with_template(template), messages, tools)


def test_what_does_not_vanish_is_not_refused():
    """Empty texts, calls without arguments, definitions without a description or fields."""
    bare_call = {"type": "function", "function": {"name": "stop", "arguments": {}}}
    bare_tool = {"type": "function", "function": {"name": "stop"}}
    messages = [
        {"role": "system", "content": " "},
        USER,
        CALLS | {"tool_calls": [bare_call]},
        RESULT,
    ]
    assert "[stop {}]" in render(with_template(COMPLETE), messages, [bare_tool])
    trims = COMPLETE.replace("{{ m.content }}", "{{ m.content | trim }}")
    assert "<user>hi<|im_end|>" in render(
        with_template(trims), [{"role": "user", "content": " hi\n"}]
    )


def test_a_shape_is_looked_at_once(monkeypatch):
    """What a template drops depends on the shape of a conversation, not on its words."""
    tokenizer = with_template(COMPLETE + "{# counted #}")
    looked = []
    whole = dialect._with_marks
    monkeypatch.setattr(dialect, "_with_marks", lambda chat: looked.append(1) or whole(chat))
    for words in ("a", "b", "c"):
        render(tokenizer, [{"role": "user", "content": words}])
    assert len(looked) == 1
    render(tokenizer, [{"role": "user", "content": "a"}, ANSWER])
    render(tokenizer, [{"role": "user", "content": "a"}], TOOLS)
    render(tokenizer, [{"role": "user", "content": ""}])
    render(tokenizer, [USER, CALLS])
    render(tokenizer, [USER, CALLS | {"tool_calls": [CALL, CALL]}])
    assert len(looked) == 6
