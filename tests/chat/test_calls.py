"""Tool calls in the text of an answer: each format read right, prose left alone, torn calls refused."""

import json
import os
import random
import re
from pathlib import Path

import pytest

from posttrain.chat import calls
from posttrain.chat.call_parts import json_calls
from posttrain.chat.calls import END_TOKENS, FORMATS, OPENINGS, Format, message_calls, read_calls
from posttrain.chat.scan import DEEPEST, strict_json
from posttrain.chat.schemas import standard, typed_value

PROPERTIES = {
    "harbour": {"type": "string"},
    "days": {"type": "integer"},
    "height": {"type": "number"},
    "exact": {"type": "boolean"},
    "stations": {"type": "array"},
    "options": {"type": "object"},
    "note": {"type": ["string", "null"]},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "parameters": {"type": "object", "properties": PROPERTIES},
        },
    },
    {"type": "function", "function": {"name": "get_time"}},
]
ARGUMENTS = {"harbour": "75001", "days": 3}
CALL = {"name": "get_tide", "arguments": ARGUMENTS}
TIME = {"name": "get_time", "arguments": {}}

# (format, what a model writes for CALL), typed by hand from the formats' definitions.
SAMPLES = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}\n'
        "</tool_call><|im_end|>",
    ),
    (
        "hermes, a list",
        '<tool_call>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]'
        "</tool_call>",
    ),
    (
        "hermes, cut behind the JSON",
        '<tool_call>\n{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}',
    ),
    ("llama", '{"name": "get_tide", "parameters": {"harbour": "75001", "days": 3}}<|eot_id|>'),
    (
        "llama with type",
        '{"type": "function", "name": "get_tide", "parameters": {"harbour": "75001", "days": 3}}',
    ),
    (
        "llama-tag",
        '<|python_tag|>{"name": "get_tide", "parameters": {"harbour": "75001", "days": 3}}'
        "<|eom_id|>",
    ),
    ("llama-tag, python", '<|python_tag|>get_tide.call(harbour="75001", days=3)<|eom_id|>'),
    (
        "llama-function",
        '<function=get_tide>{"harbour": "75001", "days": 3}</function><|eot_id|>',
    ),
    (
        "qwen3-coder",
        "<tool_call>\n<function=get_tide>\n<parameter=harbour>\n75001\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call><|im_end|>",
    ),
    (
        "qwen3-coder without the outer tag",
        "<function=get_tide>\n<parameter=harbour>\n75001\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>",
    ),
    (
        "qwen3-coder with the closing mark alone",
        "<function=get_tide>\n<parameter=harbour>\n75001\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    ),
    (
        "seed",
        "<seed:tool_call>\n<function=get_tide>\n<parameter=harbour>75001</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call><seed:eos>",
    ),
    (
        "glm",
        "<tool_call>get_tide\n<arg_key>harbour</arg_key>\n<arg_value>75001</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call><|observation|>",
    ),
    (
        "glm without line breaks",
        "<tool_call>get_tide<arg_key>harbour</arg_key><arg_value>75001</arg_value>"
        "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
    ),
    ("glm of 2024", 'get_tide\n{"harbour": "75001", "days": 3}'),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}, '
        '"id": "a1b2c3d4e"}]</s>',
    ),
    ("mistral of 2025", '[TOOL_CALLS]get_tide[ARGS]{"harbour": "75001", "days": 3}</s>'),
    (
        "mistral with an id",
        '[TOOL_CALLS]get_tide[CALL_ID]a1b2c3d4e[ARGS]{"harbour": "75001", "days": 3}</s>',
    ),
    (
        "lfm2",
        "<|tool_call_start|>[get_tide(harbour='75001', days=3)]<|tool_call_end|><|im_end|>",
    ),
    (
        "minicpm3",
        '<|tool_call_start|>\n```python\nget_tide(harbour="75001", days=3)\n```\n<|tool_call_end|>',
    ),
    (
        "solar",
        "<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_tide<|tool_call:args|>"
        '{"harbour": "75001", "days": 3}<|tool_call:end|><|calls|>',
    ),
    (
        "solar behind a thought or an answer",
        "<|begin|>assistant<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>get_tide"
        '<|tool_call:args|>{"harbour": "75001", "days": 3}<|tool_call:end|>',
    ),
    (
        "hunyuan a13b",
        '<tool_calls>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]'
        "</tool_calls><|eos|>",
    ),
    (
        "xlam, object",
        '{"tool_calls": [{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]}',
    ),
    (
        "xlam, object with its thought",
        '{"thought": "I need it.", "tool_calls": [{"name": "get_tide", "arguments": '
        '{"harbour": "75001", "days": 3}}]}',
    ),
    ("react", 'Action: get_tide\nAction Input: {"harbour": "75001", "days": 3}'),
    ("react, bold", '**Action:** `get_tide`\n**Action Input:** {"harbour": "75001", "days": 3}'),
    ("python list", '[get_tide(harbour="75001", days=3)]'),
    ("python call", "get_tide(harbour='75001', days=3)"),
    (
        "gemma4",
        '<|tool_call>call:get_tide{days:3,harbour:<|"|>75001<|"|>}<tool_call|><|tool_response>',
    ),
    (
        "functiongemma",
        "<start_function_call>call:get_tide{days:3,harbour:<escape>75001<escape>}"
        "<end_function_call><start_function_response>",
    ),
    ("gemma3", '```tool_code\nget_tide(harbour="75001", days=3)\n```<end_of_turn>'),
    ("gemma3, printed", '```tool_code\nprint(default_api.get_tide(harbour="75001", days=3))\n```'),
    (
        "gpt-oss",
        " to=functions.get_tide<|channel|>commentary json<|message|>"
        '{"harbour": "75001", "days": 3}<|call|>',
    ),
    (
        "gpt-oss, channel first",
        "<|channel|>commentary to=functions.get_tide <|constrain|>json<|message|>"
        '{"harbour": "75001", "days": 3}<|call|>',
    ),
    (
        "muse",
        ' to=get_tide<|message|><atem:function_calls>\n<atem:invoke name="get_tide">\n'
        '<atem:parameter name="harbour">75001</atem:parameter>\n'
        '<atem:parameter name="days">3</atem:parameter>\n'
        "</atem:invoke>\n</atem:function_calls><|eot|>",
    ),
    (
        "deepseek-v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_tide\n```json\n"
        '{"harbour": "75001", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        "<｜end▁of▁sentence｜>",
    ),
    (
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_tide<｜tool▁sep｜>"
        '{"harbour": "75001", "days": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    (
        "deepseek-dsml",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_tide">\n'
        '<｜DSML｜parameter name="harbour" string="true">75001</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    ),
    (
        "phi4-mini",
        '<|tool_call|>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]'
        "<|/tool_call|><|end|>",
    ),
    (
        "functools",
        'functools[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]',
    ),
    (
        "granite",
        '<|tool_call|>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]'
        "<|end_of_text|>",
    ),
    (
        "nemotron",
        '<TOOLCALL>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]</TOOLCALL>'
        "<SPECIAL_12>",
    ),
    ("apertus", '<|tools_prefix|>[{"get_tide": {"harbour": "75001", "days": 3}}]<|tools_suffix|>'),
    (
        "longcat",
        '<longcat_tool_call>{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}'
        "</longcat_tool_call>",
    ),
    (
        "longcat, tags",
        "<longcat_tool_call>get_tide\n<longcat_arg_key>harbour</longcat_arg_key>\n"
        "<longcat_arg_value>75001</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n"
        "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call></longcat_s>",
    ),
    (
        "granite-20b, open",
        '<function_call> {"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}'
        "<|endoftext|>",
    ),
    (
        "granite-20b",
        '<function_call> {"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}',
    ),
    (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_tide:0"
        '<|tool_call_argument_begin|>{"harbour": "75001", "days": 3}<|tool_call_end|>'
        "<|tool_calls_section_end|><|im_end|>",
    ),
    (
        "minimax",
        '<minimax:tool_call>\n<invoke name="get_tide">\n<parameter name="harbour">75001'
        '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>[e~[',
    ),
    (
        "minimax-m1",
        '<tool_calls>\n{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}\n'
        "</tool_calls>",
    ),
    ("olmo3", '<function_calls>\nget_tide(harbour="75001", days=3)\n</function_calls>'),
    (
        "command-r",
        'Action: ```json\n[\n    {\n        "tool_name": "get_tide",\n        "parameters": '
        '{"harbour": "75001", "days": 3}\n    }\n]```',
    ),
    (
        "command-a",
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_tide", "parameters": '
        '{"harbour": "75001", "days": 3}}]<|END_ACTION|><|END_OF_TURN_TOKEN|>',
    ),
    (
        "internlm",
        '<|action_start|><|plugin|>\n{"name": "get_tide", "parameters": {"harbour": "75001", '
        '"days": 3}}<|action_end|>',
    ),
    (
        "llama4",
        "<|python_start|>[get_tide(harbour='75001', days=3)]<|python_end|><|eot|>",
    ),
    ("functionary", '>>>get_tide\n{"harbour": "75001", "days": 3}<|eot_id|>'),
    (
        "kimi-k3",
        '<|open|>tools<|sep|><|open|>call tool="get_tide" index="1"<|sep|>'
        '<|open|>argument key="harbour" type="string"<|sep|>75001<|close|>argument<|sep|>'
        '<|open|>argument key="days" type="number"<|sep|>3<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
    ),
    (
        "step3",
        "<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="get_tide"><steptml:parameter name="harbour">75001'
        '</steptml:parameter><steptml:parameter name="days">3</steptml:parameter>'
        "</steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>",
    ),
    (
        "hunyuan",
        "<tool_calls>\n<tool_call>get_tide<tool_sep>\n<arg_key>harbour</arg_key>\n"
        "<arg_value>75001</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n</tool_calls>",
    ),
    (
        "dots",
        '<dots_function_call>\n<invoke name="get_tide">\n<parameter name="harbour">75001'
        '</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n</dots_function_call>',
    ),
    (
        "minicpm5",
        '<function name="get_tide"><param name="harbour"><![CDATA[75001]]></param>'
        '<param name="days">3</param></function>',
    ),
    (
        "nemotron-nano-2",
        '<TOOLCALL>[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]</TOOLCALL>',
    ),
    (
        "apertus",
        '<|tools_prefix|>[{"get_tide": {"harbour": "75001", "days": 3}}]<|tools_suffix|>',
    ),
    (
        "inkling",
        "<|message_model|><|content_invoke_tool_json|>"
        '{"name":"get_tide","args":{"harbour":"75001","days":3}}<|end_message|>',
    ),
    (
        "gigachat3",
        'function call<|role_sep|>\n{"name": "get_tide", "arguments": {"harbour": "75001", '
        '"days": 3}}</s>',
    ),
    (
        "gigachat3.1",
        '<|function_call|>{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}',
    ),
    ("JSON list", '[{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}]'),
    (
        "fenced",
        '```json\n{"name": "get_tide", "arguments": {"harbour": "75001", "days": 3}}\n```',
    ),
]
NAMES = [name for name, _ in SAMPLES]
TEXTS = [text for _, text in SAMPLES]


def tries_a_call(text, tools=TOOLS):
    """Is a call read, or refused as malformed?"""
    try:
        return bool(read_calls(text, tools).calls)
    except ValueError:
        return True


# ---- each format -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_a_call_is_read(text):
    assert read_calls(text, TOOLS) == ("", [CALL])
    assert read_calls(f"I look it up.\n{text}", TOOLS) == ("I look it up.", [CALL])


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_text_behind_a_call_is_refused(text):
    """Without marks, a call that more prose follows is only spoken of; LFM2 goes on to speak."""
    words = text
    for token in END_TOKENS:
        words = words.removesuffix(token)
    if text.startswith("get_tide("):
        assert read_calls(f"{words}\n\nThat is all.", TOOLS).calls == []
        return
    if text.startswith("<|tool_call_start|>"):
        assert read_calls(f"{words}\n\nThat is all.", TOOLS) == ("That is all.", [CALL])
        return
    with pytest.raises(ValueError):
        read_calls(f"{words}\n\nThat is all.", TOOLS)


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_a_call_that_is_cut_off_is_never_another_one(text):
    """It is the whole call, when only closing marks are missing, or it is refused."""
    for end in range(text.index("7"), len(text)):
        try:
            assert read_calls(text[:end], TOOLS).calls == [CALL], text[:end]
        except ValueError:
            pass


PARALLEL = [
    '<tool_call>\n{"name": "get_tide", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
    '{"name": "get_tide", "parameters": {}}; {"name": "get_time", "parameters": {}}',
    '{"name": "get_tide", "parameters": {}}\n{"name": "get_time", "parameters": {}}',
    '```json\n{"name": "get_tide", "arguments": {}}\n```\n'
    '```json\n{"name": "get_time", "arguments": {}}\n```',
    "<|python_tag|>get_tide.call(); get_time.call()",
    "<tool_call>\n<function=get_tide>\n</function>\n</tool_call>\n"
    "<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
    "<tool_call>get_tide\n</tool_call>\n<tool_call>get_time\n</tool_call>",
    "[TOOL_CALLS]get_tide[ARGS]{}[TOOL_CALLS]get_time[ARGS]{}</s>",
    "<|tool_call_start|>[get_tide(), get_time()]<|tool_call_end|>",
    "get_tide()\nget_time()",
    "```tool_code\nget_tide()\nget_time()\n```",
    "<|tool_call>call:get_tide{}<tool_call|><|tool_call>call:get_time{}<tool_call|>",
    "<|channel|>commentary to=functions.get_tide <|constrain|>json<|message|>{}<|call|>"
    "<|start|>assistant<|channel|>commentary to=functions.get_time<|message|>{}<|call|>",
    'to=get_tide<|message|><atem:function_calls>\n<atem:invoke name="get_tide">\n</atem:invoke>\n'
    "</atem:function_calls><|eom|><|start|>assistant to=get_time<|message|><atem:function_calls>"
    '\n<atem:invoke name="get_time">\n</atem:invoke>\n</atem:function_calls><|eot|>',
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_tide<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_tide:0"
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_call_begin|>functions.get_time:1"
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    '<minimax:tool_call>\n<invoke name="get_tide">\n</invoke>\n<invoke name="get_time">\n</invoke>'
    "\n</minimax:tool_call>",
    "<function=get_tide>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n"
    "</tool_call>",
    '<function_call> {"name": "get_tide", "arguments": {}}\n'
    '<function_call> {"name": "get_time", "arguments": {}}',
    "<|python_start|>[get_tide(), get_time()]<|python_end|>",
    ">>>get_tide\n{}>>>get_time\n{}",
    '<|open|>tools<|sep|><|open|>call tool="get_tide" index="1"<|sep|><|close|>call<|sep|>'
    '<|open|>call tool="get_time" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    '<｜tool_calls_begin｜><｜tool_call_begin｜><steptml:invoke name="get_tide"></steptml:invoke>'
    "<｜tool_call_end｜><｜tool_sep｜><｜tool_call_begin｜>"
    '<steptml:invoke name="get_time"></steptml:invoke><｜tool_call_end｜><｜tool_calls_end｜>',
    "<tool_calls><tool_call>get_tide<tool_sep></tool_call><tool_call>get_time<tool_sep></tool_call>"
    "</tool_calls>",
    '<|tools_prefix|>[{"get_tide": {}}, {"get_time": {}}]<|tools_suffix|>',
    '<|content_invoke_tool_json|>{"name":"get_tide","args":{}}<|end_message|><|message_model|>'
    '<|content_invoke_tool_json|>{"name":"get_time","args":{}}<|end_message|>',
    '<function name="get_tide"></function>\n<function name="get_time"></function>',
    "<|tool_calls|><|tool_call:begin|>a<|tool_call:name|>get_tide<|tool_call:args|>{}<|tool_call:end|>"
    "<|tool_call:begin|>b<|tool_call:name|>get_time<|tool_call:args|>{}<|tool_call:end|>",
    "<|tool_call_start|>\n```python\nget_tide()\nget_time()\n```\n<|tool_call_end|>",
    '{"tool_calls": [{"name": "get_tide", "arguments": {}}, {"name": "get_time", "arguments": {}}]}',
]


@pytest.mark.parametrize("text", PARALLEL)
def test_parallel_calls(text):
    both = [{"name": "get_tide", "arguments": {}}, TIME]
    assert read_calls(text, TOOLS).calls == both
    assert read_calls("Both, then:\n" + text, TOOLS) == ("Both, then:", both)


LFM2 = "<|tool_call_start|>[get_time()]<|tool_call_end|>"


def test_text_behind_a_call_where_the_format_has_it():
    """As Liquid's own example. A further call in that text is refused, whole or torn."""
    assert read_calls(f"{LFM2}I look at the clock.<|im_end|>") == ("I look at the clock.", [TIME])
    assert read_calls(f"Yes.\n{LFM2}\n{LFM2} Twice.") == ("Yes.\nTwice.", [TIME, TIME])
    again = (
        LFM2,
        "<|tool_call_start|>[get_tide(",
        "<|tool_call_end|>",
        "<tool_ca",
        "[TOOL_CALLS]get_tide[ARGS]{}",
        '{"name": "get_tide", "arguments": {}}',
        '{"name": "get_tide", "argum',
        "\nget_tide()",
    )
    for more in again:
        with pytest.raises(ValueError):
            read_calls(f"{LFM2}I look. {more}", TOOLS)
    for torn in ("<|tool_call_start|>[get_time()]I look.", "[get_time()]<|tool_call_end|>I look."):
        with pytest.raises(ValueError):
            read_calls(torn, TOOLS)
    with pytest.raises(ValueError, match="two formats"):
        read_calls(f"get_tide()\n{LFM2}I look.", TOOLS)


def test_what_channels_write_around_prose_is_left_out():
    call = "<|start|>assistant<|channel|>commentary to=functions.get_time<|message|>{}<|call|>"
    text = f"<|channel|>commentary<|message|>I look it up.<|end|>{call}"
    assert read_calls(text) == ("I look it up.", [TIME])
    atem = '<atem:function_calls><atem:invoke name="get_time"></atem:invoke></atem:function_calls>'
    text = f" to=user<|message|>I look.<|eom|><|start|>assistant to=get_time<|message|>{atem}"
    assert read_calls(text) == ("I look.", [TIME])
    call = ">>>get_time\n{}"
    assert read_calls(f">>>all\nI look.{call}") == ("I look.", [TIME])
    call = '<|content_invoke_tool_json|>{"name":"get_time","args":{}}<|end_message|>'
    text = f"<|message_model|><|content_text|>I look.<|end_message|><|message_model|>{call}"
    assert read_calls(text) == ("I look.", [TIME])
    call = '<|open|>tools<|sep|><|open|>call tool="get_time"<|sep|><|close|>call<|sep|>'
    call = "<|tool_calls|><|tool_call:begin|>a<|tool_call:name|>get_time<|tool_call:args|>{}"
    text = f"<|content|>I look.<|end|><|begin|>assistant{call}<|tool_call:end|>"
    assert read_calls(text) == ("I look.", [TIME])
    call = '<|START_ACTION|>[{"tool_name": "get_time", "parameters": {}}]<|END_ACTION|>'
    text = f"<|START_RESPONSE|>I look.<|END_RESPONSE|>{call}"
    assert read_calls(text) == ("I look.", [TIME])
    call = '<|open|>tools<|sep|><|open|>call tool="get_time"<|sep|><|close|>call<|sep|>'
    text = f"<|open|>response<|sep|>I look.<|close|>response<|sep|>{call}"
    assert read_calls(text) == ("I look.", [TIME])
    with pytest.raises(ValueError, match="another tool"):
        read_calls(f"to=get_tide<|message|>{atem}")


# ---- values ----------------------------------------------------------------------------------

VALUES = {
    "harbour": 'It\'s\n<b>\\ "Husum"',
    "days": -2,
    "height": 1.5,
    "exact": False,
    "stations": ["a", 1.5, None, {"k": [True]}],
    "options": {"deep": {"er": []}},
    "note": None,
}


def xml_text(value):
    return value if isinstance(value, str) else json.dumps(value)


def test_values_of_all_types():
    call = [{"name": "get_tide", "arguments": VALUES}]
    qwen = "".join(f"<parameter={k}>\n{xml_text(v)}\n</parameter>\n" for k, v in VALUES.items())
    assert read_calls(f"<function=get_tide>\n{qwen}</function>", TOOLS).calls == call
    glm = "".join(
        f"<arg_key>{k}</arg_key><arg_value>{xml_text(v)}</arg_value>" for k, v in VALUES.items()
    )
    assert read_calls(f"<tool_call>get_tide{glm}</tool_call>", TOOLS).calls == call
    python = ", ".join(f"{k}={v!r}" for k, v in VALUES.items())
    assert read_calls(f"[get_tide({python})]", TOOLS).calls == call
    mixed = ", ".join(f"{k}={json.dumps(v)}" for k, v in VALUES.items())
    assert read_calls(f"[get_tide({mixed})]", TOOLS).calls == call


def test_gemma_values():
    text = (
        '<|tool_call>call:get_tide{days:3,exact:true,harbour:<|"|>Hus{um},"\'<|"|>,'
        'stations:[<|"|>a<|"|>,1.5,null,[]],options:{<|"|>a b<|"|>:{c d:-1}}}<tool_call|>'
    )
    assert read_calls(text).calls[0]["arguments"] == {
        "days": 3,
        "exact": True,
        "harbour": "Hus{um},\"'",
        "stations": ["a", 1.5, None, []],
        "options": {"a b": {"c d": -1}},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it's windy'", "it's windy"),
        ("'a\\'b'", "a'b"),
        ('"a\\n\\u00e9\\ud83d\\ude00"', "a\né😀"),
        ("'\\d \\\\d'", "\\d \\d"),
        ("(1, 2,)", [1, 2]),
        ("{'a': true, \"b\": None,}", None),
        ("1e3", 1000.0),
        ("-0.5", -0.5),
    ],
)
def test_literals(text, value):
    if value is None:
        with pytest.raises(ValueError):
            read_calls(f"[f(x={text})]")
    else:
        assert read_calls(f"[f(x={text})]").calls == [{"name": "f", "arguments": {"x": value}}]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("75001", {"type": "string"}, "75001"),
        ("true", {"type": "str"}, "true"),
        (" a ", {"type": "string"}, " a "),
        ("75001", {}, 75001),
        ("Husum", {}, "Husum"),
        ("True", {}, True),
        ("{'a': 1}", {}, "{'a': 1}"),
        ("{'a': True}", {"type": "dict"}, {"a": True}),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("None", {"type": ["string", "null"]}, None),
        ("None", {"type": "string"}, "None"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("7", {"enum": ["7", "8"]}, "7"),
        ("7", {"enum": [7, 8]}, 7),
        ("7", {"type": ["string", "integer"]}, "7"),
        ("False", {"type": "boolean"}, False),
        (" 3\n", {"type": "integer"}, 3),
        ('"3"', {"type": "integer"}, "3"),
    ],
)
def test_a_value_without_quotes_is_typed_by_its_schema(text, schema, value):
    assert typed_value(text, schema) == value
    assert type(typed_value(text, schema)) is type(value)


@pytest.mark.parametrize("text", ["three", '{"a": 1', "NaN", "1e999", '{"a": 1, "a": 2}', "[1] 2"])
def test_a_value_that_its_schema_cannot_take_is_refused(text):
    with pytest.raises(ValueError):
        typed_value(text, {"type": ["integer", "object", "array"]})


def test_a_schema_may_refer_and_be_open():
    parameters = {
        "properties": {"a": {"$ref": "#/$defs/code"}, "b": True, "c": {"$ref": "#/$defs/no"}},
        "additionalProperties": {"type": "string"},
        "$defs": {"code": {"type": "string"}},
    }
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    tags = "".join(f"<parameter={k}>1</parameter>" for k in "abcd")
    arguments = {"a": "1", "b": 1, "c": 1, "d": "1"}
    assert read_calls(f"<function=f>{tags}</function>", tools).calls[0]["arguments"] == arguments
    for broken in (None, [], [None], [{}], [{"function": {"name": "f", "parameters": 7}}], "x"):
        assert read_calls(f"<function=f>{tags}</function>", broken).calls[0]["arguments"]["a"] == 1


def test_words_of_other_languages_in_schemas():
    schema = {
        "type": "dict",
        "properties": {
            "type": {"type": "String", "enum": ["dict"], "default": {"type": "int"}},
            "a": {"type": "tuple", "items": {"type": "float"}},
            "b": {"type": ["int", "NoneType", "long"]},
            "c": {"type": "any", "description": "x"},
            "d": {"anyOf": [{"type": "BOOLEAN"}, {"type": "List"}]},
            "e": {"type": "nonsense"},
            "f": {"type": ["any", "str"]},
            "g": {"type": "HashMap"},
            "h": {"type": ["Bigint", "byte", "short"]},
            "i": {"anyOf": [{"type": "ArrayList"}, {"type": "char"}]},
        },
    }
    assert standard(schema) == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["dict"], "default": {"type": "int"}},
            "a": {"type": "array", "items": {"type": "number"}},
            "b": {"type": ["integer", "null"]},
            "c": {"description": "x"},
            "d": {"anyOf": [{"type": "boolean"}, {"type": "array"}]},
            "e": {"type": "nonsense"},
            "f": {},
            "g": {"type": "object"},
            "h": {"type": ["integer"]},
            "i": {"anyOf": [{"type": "array"}, {"type": "string"}]},
        },
    }


# ---- no calls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The tide is high.",
        "I would call get_tide({...}), but need the harbour: which one?",
        "get_tide(harbour='Husum') would tell you (roughly).",
        "get_tide(harbour=...) is the function that I would use.",
        "You can use get_tide() and get_time().",
        "Qwen puts its calls into `<tool_call>` and `</tool_call>`.",
        'Such as `{"name": "get_tide", "arguments": {}}`.',
        '{"name": "Husum", "height": 3}',
        '{"arguments": "none"}',
        '[{"harbour": "Husum"}, {"harbour": "Emden"}]',
        '{"runs": [{"name": "a", "parameters": {"rate": 0.1}}]}',
        '{"name": "run 1", "parameters": {"rate": 0.1}, "loss": 2.5}',
        '{"name": "get_tide", "description": "The tide.", "parameters": {"type": "object"}}',
        '[{"type": "function", "function": {"name": "get_tide", "parameters": {}}}]',
        "```python\nget_tide(harbour='Husum')\n```",
        "```python\ntides = [get_tide(harbour=h) for h in harbours]\n```",
        "tides = [get_tide(harbour=h) for h in harbours]",
        "print(get_tide(harbour='Husum'))",
        "get_tide(harbour='Husum')\nprint(end='')",
        "[1, 2, 3]",
        "[f(x), g(y)]",
        "['a', 'b']",
        "[the tide table](https://example.org/tide(x=1))",
        "f(x=1)",
        "sum(x=1)\n",
        "{a, b} is a set, and [x] a list.",
        "to=user is an address.",
        "An <b>important</b> tag, and <function> is none.",
        "Action: look at the tide.",
        "Action: wait.\nAction input is none.",
        "Action: none\nAction Input: none\nFinal Answer: It is high.",
        'As ReAct has it:\n```\nAction: f\nAction Input: {"x": 1}\n```\nThat is all.',
        '{"tool_calls": []}',
        '{"tool_calls": 3, "errors": 0}',
        '{"tool_calls": [{"user": "Ada", "count": 3}]}',
        "get_tide\n\nreads a table {of tides}",
        "get_tide(x) = get_time(2)",
        "get_tide(x) + get_time(y)",
        'The station:\n```json\n{"name": "Husum", "source": "get_tide"}\n```',
        'The station:\n```json\n{"name": "Husum", "get_tide": {"deep": 3}\n```',
        '```py\n"""The tide."""\nuse("get_tide")\nif __name__ == "__main__":\n    use()\n```',
    ],
)
def test_no_call(text):
    assert read_calls(text, TOOLS) == (text.strip(), [])
    assert read_calls(text + "<|im_end|>\n", TOOLS) == (text.strip(), [])


def test_marks_inside_the_texts_of_json_are_none():
    note = "<tool_call> or [TOOL_CALLS]"
    assert read_calls(json.dumps({"note": note}), TOOLS).calls == []
    call = {"name": "get_tide", "arguments": {"note": note}}
    assert read_calls(json.dumps(call), TOOLS).calls == [call]
    with pytest.raises(ValueError):
        read_calls(f"{json.dumps(call)} <tool_call>", TOOLS)


def test_data_of_other_names_is_no_call_when_prose_goes_on():
    text = '{"name": "adam", "parameters": {"rate": 0.1}} is what I would choose.'
    assert read_calls(text, TOOLS).calls == []
    with pytest.raises(ValueError):
        read_calls(text.replace("adam", "get_tide"), TOOLS)


@pytest.mark.skipif("KIT_REAL" not in os.environ, reason="no real data")
def test_real_answers_are_no_calls():
    path = Path(os.environ["KIT_REAL"]) / "data/sft/dolly1000.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        for text in json.loads(line).values():
            assert not tries_a_call(str(text)), text


# ---- malformed calls -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "get_tide", "arguments": {"days": 1, "days": 2}}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": {"days": NaN}}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": {"days": 1e999}}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": "get_tide"}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": {}, "parameters": {}}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": {}, "more": 1}</tool_call>',
        '<tool_call>{"name": "get_tide", "arguments": {}, "id": 7}</tool_call>',
        "<tool_call>{'name': 'get_tide', 'arguments': {}}</tool_call>",
        '<tool_call>{"name": "get_tide", "arguments": {}} or so</tool_call>',
        '<tool_call>{"name": "a", "arguments": {}}<tool_call>{"name": "b", "arguments": {}}',
        "<tool_call>[]</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>I do not know</tool_call>",
        '{"name": "get_tide", "arguments": {}}\n</tool_call>',
        '{"name": "get_tide", "arguments": {"days": 3}',
        '{"name": "get_tide", "arguments": {"days": [3}}',
        '{"name": "get_tide", "arguments": {}}}',
        '{"name": "get_tide", "argum',
        '{"name": "get_ti',
        '{name": "get_tide", "parameters": {}}',
        '"name": "get_tide", "parameters": {}}',
        '{"name" "get_tide", "parameters": {}}',
        '{"name": "get_tide", "parameters" {}}',
        '{"name": "get_tide, "parameters": {}}',
        '{"nam": "get_tide", "parameters": {}}',
        '{"name": "get_tide", "params": {}}',
        '{{"name": "get_tide", "parameters": {}}',
        '{"type": "object", "name": "get_tide", "parameters": {}}',
        "TOOL_CALLS] [{}]",
        'tofunctions.get_tide<|channel|>commentary json<|message|>{"days": 3}',
        "<|tool_call_begin|>functions.get_tide<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "<|tool_call_begin|>.get_tide:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "<|tool_call>call:get_tide{:3}<tool_call|>",
        '{"days": 3}</function>',
        '{"name": "get_tide"}, "arguments": {}}',
        "{'name': 'get_tide', 'arguments': {}}",
        '{"name": "get_tide", "parameters": {}, "why": "so"}',
        '{"tool": "get_tide", "args": {"days": 3}}',
        '[{"name": "get_tide", "arguments": {}}, {"height": 3}]',
        '{"type": "function", "function": {"name": "get_tide", "arguments": "{}"}}',
        "<function=get_tide>\n<parameter=days>\n3\n</function>",
        "<function=get_tide>\n<parameter=days>\n3\n<parameter=height>\n1\n</parameter>\n</function>",
        "<function=get_tide><parameter=harbour>a<parameter=note>b</parameter></function>",
        "<tool_call>get_tide<arg_key>harbour</arg_key><arg_value>a<arg_key>note</arg_key>"
        "<arg_value>b</arg_value></tool_call>",
        '<minimax:tool_call><invoke name="get_tide"><parameter name="harbour">a'
        '<parameter name="note">b</parameter></invoke></minimax:tool_call>',
        "<function=get_tide><parameter=days>1</parameter><parameter=days>2</parameter></function>",
        "<function=get_tide><parameter=days>three</parameter></function>",
        "<function=get_tide><parameter=days>3</parameter>",
        "<function=get_tide>[]</function>",
        "<function=>{}</function>",
        "<tool_call>get_tide<arg_key>days</arg_key></tool_call>",
        "<tool_call>get_tide<arg_value>3</arg_value></tool_call>",
        "<tool_call>get_tide<arg_key>days</arg_key><arg_value>3</arg_value>",
        "get_tide\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]get_tide",
        "[TOOL_CALLS]get_tide[ARGS][]",
        "[TOOL_CALLS][ARGS]{}",
        "get_tide[ARGS]{}",
        "<|tool_call_start|>[get_tide('Husum')]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(harbour='Husum', days=)]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(harbour=Husum)]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(days=1, days=2)]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(days=007)]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(harbour='Husum, days=3)]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(harbour='Husum, note='x')]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(days=get_time())]<|tool_call_end|>",
        "<|tool_call_start|>[get_tide(options={1: 2})]<|tool_call_end|>",
        "<|tool_call_start|>[]<|tool_call_end|>",
        "<|tool_call_start|><|tool_call_end|>",
        "[get_tide(harbour='Husum'",
        "[get_tide((harbour='Husum')]",
        "[[get_tide(harbour='Husum')]",
        "get_tide(harbour='Husum'))",
        "[get_tide(harbour=Husum)]",
        "[get_tide(harbour='Husum')]\n\nThat is the call.",
        "get_tide(harbour='Husum', harbour='Emden')",
        "get_tide(harbour=Husum)",
        "get_tide(harbour='Hus",
        'get_tide("Husum")',
        "<|python_tag|>import os",
        "```tool_code\ntides = get_tide()\n```",
        "```tool_code\n```",
        "``tool_code\nget_tide()\n```",
        '<|tool_call>call:get_tide{harbour:<|"|>Husum}<tool_call|>',
        "<|tool_call>call:get_tide{harbour:Husum}<tool_call|>",
        "<|tool_call>call:get_tide{days:1,days:2}<tool_call|>",
        "<|tool_call>call:get_tide{days:[1}<tool_call|>",
        "<|tool_call>call:get_tide{days,3}<tool_call|>",
        "<|tool_call>get_tide{}<tool_call|>",
        "<|channel|>commentary to=functions.get_tide <|constrain|>json<|message|>{<|call|>",
        "<|channel|>commentary to=functions.get_tide <|constrain|>json",
        " to=get_tide<|message|>Husum",
        '<atem:function_calls><atem:invoke name="get_tide"></atem:function_calls>',
        "<atem:function_calls></atem:function_calls>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_tide<｜tool▁sep｜>{}<｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
        '<｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="k" string="false">x'
        "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>",
        "<|tool_calls_section_begin|><|tool_calls_section_end|>",
        "<|tool_call_begin|>functions.get_tide:0{}<|tool_call_end|>",
        '<invoke name="get_tide"></invoke>',
        "<|tool_call|>get_tide",
        "Action: ```json\n[]```",
        'Action: ```json\n[{"tool_name": "get_tide", "parameters": {}}]```\n'
        '{"tool_name": "get_time", "parameters": {}}',
        "<|action_start|><|interpreter|>print(1)<|action_end|>",
        'get_tide\n{"harbour": "Husum"',
        'get_tide {"harbour": "Husum"} now',
        "<tool_ca",
        "[get_time(, get_tide(days=3)]",
        "<TOOLCALL>[]</TOOLCALL>",
        "<|python_start|>I look it up.<|python_end|>",
        "<|tools_prefix|>[]<|tools_suffix|>",
        '<|tools_prefix|>{"get_time": {}}<|tools_suffix|>',
        '<|tools_prefix|>[{"get_tide": {}, "get_time": {}}]<|tools_suffix|>',
        '<|tools_prefix|>[{"get_tide": {"days": 3}',
        '<|content_invoke_tool_json|>{"name":"get_time"}<|end_message|>',
        '<|content_invoke_tool_json|>{"name":"get_time","args":{}} is a call.',
        '<|open|>tools<|sep|><|open|>call tool="get_tide"<|sep|><|open|>argument key="days" '
        'type="number"<|sep|>three<|close|>argument<|sep|><|close|>call<|sep|>',
        '<|open|>tools<|sep|><|open|>call tool="get_tide"<|sep|>three<|close|>call<|sep|>',
        '<|open|>call tool="get_time"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
        "<|open|>tools<|sep|><|close|>tools<|sep|>",
        "<｜tool_calls_begin｜><｜tool_calls_end｜>",
        "<｜tool_calls_begin｜><｜tool_call_begin｜>get_time<｜tool_call_end｜><｜tool_calls_end｜>",
        "<tool_calls><tool_call>get_time<tool_sep></tool_calls>",
        '<function name="get_tide"><param name="days">3</function>',
        '<function name="get_tide"><param name="harbour"><![CDATA[a]]>b</param></function>',
        '<dots_function_call><invoke name="get_time"></dots_function_call>',
        ">>>get_tide\n{",
        "<|tool_calls|>",
        "<|tool_call:begin|>a get_tide<|tool_call:args|>{}<|tool_call:end|>",
        "<|tool_call:begin|>a<|tool_call:begin|>b<|tool_call:name|>get_tide<|tool_call:args|>{}",
        "<|tool_call:name|>get_tide<|tool_call:args|>{}<|tool_call:end|>",
        "<|tool_calls|><|tool_call:begin|>a<|tool_call:name|>get_tide<|tool_call:args|>{<|tool_call:end|>",
        "<|tool_call_start|>\n```python\nget_tide()\n<|tool_call_end|>",
        "<|tool_call_start|>\nget_tide()\n```\n<|tool_call_end|>",
        "```python\nget_tide()\n```\n<|tool_call_end|>",
        '{"tool_calls": [{"id": "a", "type": "function", "function": '
        '{"name": "get_tide", "arguments": "{\\"days\\": 3}"}}]}',
        '{"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function", '
        '"function": {"arguments": "{}", "name": "nothing"}}]}',
        '{"choices": [{"tool_calls": [{"function": {"name": "get_tide", "arguments": "{}"}}]}]}',
        '{"tool_calls": {"name": "get_tide", "arguments": {}}}',
        '{"tool_calls": {"function": {"name": "get_tide", "arguments": {}}}}',
        '{"tool_calls": [{"type": "function", "function": {"name": "get_tide", "argument": "{}"}}]}',
        '{"tool_calls": [{"name": "nothing", "arguments": {}}]',
        '{"tool_calls": [{',
        "Action: get_tide\nAction Input: Husum",
        'Action: get_tide\nAction Input: {"days": 3',
        'Action: get_tide\nAction Input: {"days": 3}\nObservation: high',
        'Action: nothing\nAction Input: {"days": 3',
        'Action:\nAction Input: {"days": 3}',
        'Actio: get_tide\nAction Input: {"days": 3}',
        'Action: get_tide\nction Input: {"days": 3}',
        "I need it.\nAction: get_ti",
        "I need it.\nAction: get_tide\nActi",
        '```\nAction: get_tide\nAction Input: {"days": 3}\n```',
        "<|plamo:begin_tool_requests:plamo|>",
        "<ifm|tool_calls><ifm|tool_call>get_time</ifm|tool_call></ifm|tool_calls>",
        ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_time">]<]minimax[>[</invoke>',
    ],
)
def test_a_malformed_call_is_refused(text):
    with pytest.raises(ValueError):
        read_calls(text, TOOLS)


@pytest.mark.parametrize("opening", OPENINGS)
def test_an_answer_that_ends_inside_an_opening_is_refused(opening):
    with pytest.raises(ValueError):
        read_calls(f"I look it up. {opening[:4]}", TOOLS)


# ---- messages --------------------------------------------------------------------------------


def test_message_calls():
    both = [
        {"id": "1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
        TIME,
    ]
    message = {"role": "assistant", "content": " Now. ", "tool_calls": both}
    assert message_calls(message) == ("Now.", [TIME, TIME])
    assert message_calls({"content": None, "tool_calls": both[:1]}) == ("", [TIME])
    assert message_calls({"content": json.dumps(CALL), "tool_calls": []}) == ("", [CALL])
    assert message_calls({"content": "Hello", "tool_calls": None}) == ("Hello", [])
    bad_fields = ("x", {"a": 1}, [7], [{"function": None}], [{"name": "f", "arguments": "{{"}])
    bad_fields += ([{"name": "f", "arguments": []}], [{"name": 7, "arguments": {}}])
    for field in bad_fields:
        with pytest.raises(ValueError):
            message_calls({"content": "", "tool_calls": field})
    with pytest.raises(ValueError):
        message_calls({"content": json.dumps(CALL), "tool_calls": both})


# ---- hostile texts ---------------------------------------------------------------------------

PIECES = [
    *("{", "}", "[", "]", "(", ")", '"', "'", "\\", "`", "```", "\n", " ", ",", ":", ";", "=", "1"),
    *('{"', "f", "f(", "f(a=", "\nf(a=", "[f(a=", '{"name": "f", "arguments": {', "f\n{", "\ud800"),
    *('"name": "f"', '"arguments":', "<tool_call>", "</tool_call>", "<function=f>", "</function>"),
    *("<parameter=a>", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>", "[TOOL_CALLS]"),
    *("<|channel|>commentary to=", "functions.f", "<|message|>", "<|tool_call>call:f{", '<|"|>'),
    *("<atem:function_calls>", '<atem:invoke name="f">', "<｜tool▁calls▁begin｜>", "<|tool_call|>"),
    *(
        "```tool_code\n",
        "print(",
        "<|python_tag|>",
        "<|im_end|>",
        "1e999",
        "NaN",
        "Action: ```json",
    ),
    *("Action: f", "Action: ", "\nAction Input:", "<|tool_call:begin|>", "<|tool_call:name|>f"),
    *("<|tool_call_start|>", "<minimax:tool_call>", '<invoke name="f">', "<function_calls>"),
]
HOSTILE_TOOLS = [{"function": {"name": "f"}}]


@pytest.mark.parametrize("piece", PIECES)
def test_hostile_texts_are_read_to_their_end(piece):
    """Nothing but ValueError, and no work that grows faster than the text."""
    repeated = piece * (20_000 // len(piece))
    for before in ("", "Hi ", '{"name": "f", "arguments": ', "[f(a='", '[f(a="'):
        tries_a_call(before + repeated + "}", HOSTILE_TOOLS)


def test_random_texts_raise_nothing_else():
    draw = random.Random(0)
    for _ in range(4000):
        pieces = draw.choices(PIECES, k=draw.randint(1, 12))
        tries_a_call("".join(pieces), draw.choice([None, HOSTILE_TOOLS]))


def test_depth_is_bounded():
    for depth, is_read in ((DEEPEST + 1, True), (DEEPEST + 2, False), (5000, False)):
        text = f"[f(x={'[' * depth}{']' * depth})]"
        assert tries_a_call(text, None) is True
        try:
            assert bool(read_calls(text).calls) is is_read
        except ValueError:
            assert not is_read
        gemma = f"<|tool_call>call:f{{x:{'[' * depth}{']' * depth}}}<tool_call|>"
        if is_read:
            assert read_calls(gemma).calls
    with pytest.raises(ValueError, match="deeply"):
        strict_json("[" * 100_000)


# ---- the table, and real templates -----------------------------------------------------------


def test_every_format_has_a_sample():
    without = {
        "invoke": "<function_calls>\n<invoke name=",
        "deepseek-dsml-4": "<｜DSML｜tool_calls>",
    }
    for name, form in FORMATS.items():
        texts = [text for text in TEXTS if re.search(form.mark, text)]
        assert texts or re.search(form.mark, without[name]), name


def test_a_format_is_a_function_and_a_line(monkeypatch):
    """As the docstring of calls.py shows it."""

    def read_shout(scan, functions):
        scan.expects("CALL!")
        return json_calls(scan)

    marks = [*calls.MARKS, (re.compile("CALL!"), Format("CALL!", read_shout))]
    monkeypatch.setattr(calls, "MARKS", marks)
    shout = 'Now. CALL! {"name": "get_time", "arguments": {}}'
    assert read_calls(shout) == ("Now.", [TIME])
    with pytest.raises(ValueError):
        read_calls("CALL!")


SPOKEN = [
    {"role": "user", "content": "Will it be high?"},
    {"role": "assistant", "content": ""},
]
# (template of TRL, the text by which it opens the assistant's turn, the type it asks of arguments)
TEMPLATES = [
    ("qwen2_5", "<|im_start|>assistant\n", dict),
    ("qwen3", "</think>\n\n", dict),
    ("qwen3_5_nothink", "</think>\n\n", dict),
    ("qwen3_8", "</think>\n\n", dict),
    ("nemotron_3_super", "</think>", dict),
    ("llama3_1", "assistant<|end_header_id|>\n\n", dict),
    ("llama3_2", "assistant<|end_header_id|>\n\n", dict),
    ("glm4moe", "</think>", dict),
    ("lfm2_2_5", "<|im_start|>assistant\n", dict),
    ("gemma4_v5", "<|turn>model\n", dict),
    ("gptoss", "<|start|>assistant", dict),
    ("muse_glimmer", "<|start|>assistant", dict),
    ("deepseekv3", "<｜Assistant｜>", str),
]


@pytest.fixture(scope="module")
def qwen():
    """A tokenizer to render templates with; which one makes no difference to the text."""
    if "KIT_REAL" not in os.environ:
        pytest.skip("no real tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = Path(os.environ["KIT_REAL"]) / "tokenizers" / "qwen2"
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("name", "opening", "kind"), TEMPLATES, ids=[t[0] for t in TEMPLATES])
def test_what_real_templates_write_is_read(qwen, name, opening, kind):
    trl = pytest.importorskip("trl")
    template = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    if not template.exists():
        pytest.skip("another version of TRL")
    arguments = {
        "harbour": 'It is "Husum", 25813',
        "days": 3,
        "height": -1.5,
        "exact": True,
        "stations": ["a", 2],
        "options": {"k": "v"},
    }
    shown = json.dumps(arguments) if kind is str else arguments
    call = {"type": "function", "function": {"name": "get_tide", "arguments": shown}}
    messages = [SPOKEN[0], SPOKEN[1] | {"tool_calls": [call]}]
    text = qwen.apply_chat_template(
        messages, TOOLS_WITH_TEXTS, chat_template=template.read_text(), tokenize=False
    )
    answer = text[text.rindex(opening) + len(opening) :]
    expected = [{"name": "get_tide", "arguments": arguments}]
    assert read_calls(answer, TOOLS) == ("", expected), answer


TOOLS_WITH_TEXTS = [
    {
        "type": "function",
        "function": {
            "name": "get_tide",
            "description": "The tide.",
            "parameters": {
                "type": "object",
                "properties": {
                    name: schema | {"description": name} for name, schema in PROPERTIES.items()
                },
                "required": ["harbour"],
            },
        },
    }
]


MARKED = "[TOOL_CALLS]get_tide[ARGS]{}"


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"name": "get_tide", "arguments": {"harbour": "MARK"}}\n```',
        '{"name": "get_tide", "parameters": {"harbour": "MARK"}}',
        "[get_tide(harbour='MARK')]",
        'I look.\n{"name": "get_tide", "arguments": {"harbour": "MARK"}}',
    ],
)
def test_marks_in_arguments_of_calls_without_marks(text):
    """A text that an argument has is no call, and what is torn does not become the call inside it."""
    tools = [{"type": "function", "function": {"name": "get_tide"}}]
    for value in (MARKED, "</arg_value>", "<tool_call>", "functools[{"):
        [call] = read_calls(text.replace("MARK", value), tools).calls
        assert call == {"name": "get_tide", "arguments": {"harbour": value}}
    torn = text[: text.index("MARK")] + MARKED
    with pytest.raises(ValueError):
        read_calls(torn, tools)


def test_json_in_an_argument_of_a_list_of_calls():
    """The list is the answer; the object in its text is none."""
    inner = '{"name": "g", "arguments": {}}'
    text = f"[f(x='{inner} {{}}'), f(x='{inner}')]"
    assert [call["arguments"]["x"] for call in read_calls(text).calls] == [f"{inner} {{}}", inner]


def test_what_lists_and_texts_of_calls_may_hold():
    """A list in a list is no list of calls; a number between marks is no call; a line may go on behind a backslash."""
    for text in ('[[{"name": "f", "arguments": {}}]]', "<|tools_prefix|>5<|tools_suffix|>"):
        with pytest.raises(ValueError):
            read_calls(text)
    assert read_calls("[f(x='a\\\nb')]").calls == [{"name": "f", "arguments": {"x": "ab"}}]
