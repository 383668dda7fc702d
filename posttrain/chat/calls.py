"""Tool calls in the text of an answer, in every format that models write by themselves.

    read_calls('<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>')
    -> Reading(prose="", calls=[{"name": "f", "arguments": {"x": 1}}])

A call that is tried and not well-formed is a ValueError: it is never read as no call, nor as
another call. Text may stand before the calls, none behind them but where the format has it so.

How to add a format. Write a function that reads one block of calls: it gets a Scan, which stands at
the block's first mark, and the functions on offer, moves the scan behind the block, and returns the
calls. Put it into FORMATS with a regular expression of the mark by which a block begins:

    def read_shout(scan, functions):
        scan.expects("CALL!")
        return json_calls(scan)

    "shout": Format("CALL!", read_shout),

The mark alone says that a call is tried. Its further marks go into TORN, its opening into OPENINGS:
a text that has or ends in those alone is a torn call. Formats without a mark (bare JSON, f(x=1))
stand in UNMARKED: such a function looks at the whole answer; None says that no call is meant.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from posttrain.chat.call_blocks import (
    behind,
    between,
    gemma,
    invoke,
    python_between,
    read_apertus,
    read_command,
    read_deepseek,
    read_function_tag,
    read_functionary,
    read_harmony,
    read_hunyuan,
    read_inkling,
    read_intern,
    read_key_tags,
    read_kimi,
    read_kimi_3,
    read_mistral,
    read_muse,
    read_named_tags,
    read_parameter_tags,
    read_python_tag,
    read_solar,
    read_step,
    read_tool_code,
)
from posttrain.chat.call_parts import Reading, call_of
from posttrain.chat.calls_in_prose import (
    INLINE_CODE,
    blank,
    json_in_prose,
    named_object,
    python_alone,
    python_in_prose,
    react,
)
from posttrain.chat.scan import Scan, is_json, strict_json
from posttrain.chat.schemas import functions_of


class Format(NamedTuple):
    """A line of FORMATS."""

    mark: str  # a regular expression that matches where a block of calls begins
    read: Callable  # read(scan, functions) -> calls of the block
    speaks_on: bool = False  # does the model say behind its calls what it does?


# ---- the tables ----------------------------------------------------------------------------------

# {name: its mark and reader}. The block whose mark comes first in a text is read; of several marks
# at one place, the first of this table.
FORMATS = {
    "hermes": Format(r"<tool_call>\s*(?=[{\[])", between("<tool_call>", "</tool_call>")),
    "longcat": Format(
        r"<longcat_tool_call>\s*(?=[{\[])", between("<longcat_tool_call>", "</longcat_tool_call>")
    ),
    "llama-function": Format(r"<function=[^<>\n]*>\s*(?=\{)", read_function_tag),
    "qwen3-coder": Format(r"(?:<(?:seed:)?tool_call>\s*)?<function=", read_parameter_tags),
    "seed": Format("<seed:tool_call>", read_parameter_tags),
    "glm": Format("<(?:longcat_)?tool_call>", read_key_tags),
    "llama-tag": Format(r"<\|python_tag\|>", read_python_tag),
    "mistral": Format(r"\[TOOL_CALLS\]", read_mistral),
    "lfm2": Format(
        r"<\|tool_call_start\|>",
        python_between("<|tool_call_start|>", "<|tool_call_end|>"),
        speaks_on=True,
    ),
    "llama4": Format(r"<\|python_start\|>", python_between("<|python_start|>", "<|python_end|>")),
    "gemma4": Format(
        r"<\|tool_call>",
        gemma(opening="<|tool_call>", closing="<tool_call|>", quote='<|"|>'),
    ),
    "functiongemma": Format(
        "<start_function_call>",
        gemma(opening="<start_function_call>", closing="<end_function_call>", quote="<escape>"),
    ),
    "gemma3": Format("```tool_code", read_tool_code),
    "gpt-oss": Format(
        r"(?:<\|start\|>assistant)?\s?(?:<\|channel\|>\w+)?\s?\bto=functions\.|"
        r"<\|channel\|>\w+ to=\w",
        read_harmony,
    ),
    "muse": Format(
        r"(?:<\|start\|>assistant)?\s?\bto=(?!user\b|self\b)[\w.:/-]+<\|message\|>|"
        "<atem:function_calls>",
        read_muse,
    ),
    "deepseek": Format("<｜tool▁calls▁begin｜>|<｜tool▁call▁begin｜>", read_deepseek),
    "deepseek-dsml": Format(
        "<｜DSML｜function_calls>", invoke("｜DSML｜function_calls", "｜DSML｜")
    ),
    "deepseek-dsml-4": Format("<｜DSML｜tool_calls>", invoke("｜DSML｜tool_calls", "｜DSML｜")),
    "phi4-mini": Format(r"<\|tool_call\|>", behind("<|tool_call|>", "<|/tool_call|>")),
    "firefunction": Format(r"functools(?=\[\s*\{)", behind("functools")),
    "functionary": Format(r">>>(?!all\b)[\w.-]+\n\s*(?=\{)", read_functionary),
    "kimi": Format(r"<\|tool_calls_section_begin\|>|<\|tool_call_begin\|>", read_kimi),
    "minimax": Format("<minimax:tool_call>", invoke("minimax:tool_call")),
    "kimi-k3": Format(r"<\|open\|>tools<\|sep\|>", read_kimi_3),
    "step3": Format("<｜tool_calls_begin｜>", read_step),
    "hunyuan": Format(r"<tool_calls>\s*(?=<tool_call>)", read_hunyuan),
    "minimax-m1": Format("<tool_calls>", between("<tool_calls>", "</tool_calls>")),
    "invoke": Format(r"<function_calls>\s*(?=<)", invoke("function_calls")),
    "olmo3": Format("<function_calls>", python_between("<function_calls>", "</function_calls>")),
    "dots": Format("<dots_function_call>", invoke("dots_function_call")),
    "minicpm5": Format('<function name="', read_named_tags),
    "command-r": Format(r"Action:\s*```json", read_command),
    "command-a": Format(r"<\|START_ACTION\|>", between("<|START_ACTION|>", "<|END_ACTION|>")),
    "internlm": Format(r"<\|action_start\|>", read_intern),
    "granite-20b": Format("<function_call>", behind("<function_call>", "</function_call>")),
    "nemotron-nano-2": Format("<TOOLCALL>", between("<TOOLCALL>", "</TOOLCALL>")),
    "apertus": Format(r"<\|tools_prefix\|>", read_apertus),
    "inkling": Format(
        r"(?:<\|message_model\|>)?<\|content_invoke_tool_json\|>",
        read_inkling,
    ),
    "solar": Format(r"(?:<\|begin\|>assistant)?<\|tool_calls\|>|<\|tool_call:begin\|>", read_solar),
    "gigachat3": Format(r"function call<\|role_sep\|>", behind("function call<|role_sep|>")),
    "gigachat3.1": Format(r"<\|function_call\|>", behind("<|function_call|>")),
}

MARKS = [(re.compile(form.mark), form) for form in FORMATS.values()]

# The functions that look for calls without marks, in the order in which they are tried.
UNMARKED = (python_alone, react, named_object, json_in_prose, python_in_prose)

# Tokens that end a turn. They may still stand behind an answer.
END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|call|>",
    "<|calls|>",
    "<|return|>",
    "<|flush|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|tool_response>",
    "<|observation|>",
    "<|user|>",
    "<turn|>",
    "<end_of_turn>",
    "<start_function_response>",
    "<eos>",
    "<|eos|>",
    "<seed:eos>",
    "</s>",
    "</longcat_s>",
    "<SPECIAL_12>",
    "[e~[",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<|close|>message<|sep|>",
    "<|end_of_msg|>",
    "<|content_model_end_sampling|>",
)


# ---- what others use -----------------------------------------------------------------------------


def read_calls(text, tools=None):
    """The calls of an answer's visible text -> Reading.

    tools: definitions as in OpenAI's API; they say which names are tools, and what types values
    without quotes have. ValueError(reason): a call is tried, and not well-formed, or text follows.
    """
    text = text[: end_of_words(text)]
    functions = functions_of(tools)
    try:
        # Marks inside the texts of JSON are no marks.
        reading = None if is_json(text) else marked_calls(text, functions)
        if reading is None:
            reading = unmarked_calls(text, functions)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return Reading(text.strip(), []) if reading is None else reading


def message_calls(message, tools=None):
    """The calls of an assistant message -> Reading: of its `tool_calls`, else of its text.

    ValueError as of read_calls, and where both the field and the text try a call.
    """
    content = message.get("content")
    reading = read_calls(content if isinstance(content, str) else "", tools)
    field = message.get("tool_calls") or None
    if field is None:
        return reading
    if reading.calls:
        raise ValueError("calls in the text and beside it")
    if not isinstance(field, list):
        raise ValueError("tool_calls is no list")
    return Reading(reading.prose, [field_call(call) for call in field])


def field_call(call):
    """A call of the field `tool_calls`; its arguments may be JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError("a call that is no object")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = strict_json(arguments)
    return call_of(function.get("name"), arguments)


def end_of_words(text):
    """How many characters an answer has without white space and end tokens behind it."""
    end = len(text)
    before = None
    while end != before:
        before = end
        while end and text[end - 1].isspace():
            end -= 1
        for token in END_TOKENS:
            if text.endswith(token, 0, end):
                end -= len(token)
    return end


# ---- answers with marks --------------------------------------------------------------------------

# Marks inside and behind calls. Where they stand without an opening one, a call is torn.
TORN = re.compile(
    r"</(?:longcat_)?tool_call>|<(?:longcat_)?arg_key>|</(?:longcat_)?arg_value>|<parameter=|"
    r"</minimax:tool_call>|<invoke name=|<atem:|"
    r"<\|tool_call_end\|>|<tool_call\|>|<end_function_call>|<\|/tool_call\|>|<\|END_ACTION\|>|"
    r"<\|tool_call_argument_begin\|>|<\|tool_calls_section_end\|>|<\|action_end\|>|<\|constrain\|>|"
    r"\[ARGS\]|\[CALL_ID\]|\bTOOL_CALLS\b|=functions\.|<\|channel\|>commentary\s|"
    r"</function(?:_calls?)?>|</tool_calls>|\btool_code\s*\n|"
    r"<｜tool▁(?:sep|call▁end|calls▁end)｜>|</?｜DSML｜|</?dots_function_call>|"
    r"</TOOLCALL>|<\|tools_suffix\|>|<\|python_end\|>|<tool_sep>|<param name=|"
    r"<｜tool_(?:call_begin|call_end|calls_end|sep)｜>|</?steptml:|"
    r"<\|(?:open|close)\|>(?:call|argument|tools)\b|<\|content_invoke_tool|<\|tool_call:|"
    # Of PLaMo 3, K2 Horizon and MiniMax M3, which nothing here reads.
    r"<\|plamo:begin_tool|</?ifm\|tool_call|\]<\]minimax\[>\["
)
# How calls begin. An answer that ends inside one of these was cut off.
OPENINGS = (
    "<tool_call>",
    "<tool_calls>",
    "<function=",
    "<function_call",
    "<|python_tag|>",
    "<|tool_call_start|>",
    "<|tool_call_begin|>",
    "<|tool_call|>",
    "<|tool_calls_section_begin|>",
    "<|action_start|>",
    "<|START_ACTION|>",
    "<|channel|>commentary to=",
    "<start_function_call>",
    "<minimax:tool_call>",
    "<seed:tool_call>",
    "<atem:",
    "<｜tool▁calls▁begin｜>",
    "<｜DSML｜",
    "<|python_start|>",
    "<|tools_prefix|>",
    "<|open|>tools<|sep|>",
    "<|content_invoke_tool_json|>",
    "<|tool_calls|>",
    "<|tool_call:begin|>",
    "<｜tool_calls_begin｜>",
    "<dots_function_call>",
    "<TOOLCALL>",
    "<longcat_tool_call>",
    "[TOOL_CALLS]",
    "to=functions.",
    "functools[{",
    "```tool_code",
    '{"name":',
    '[{"name":',
    '{"tool_calls":',
)
LEAST_CUT = 4  # characters of an opening
# What stands around prose where an answer has channels.
CHANNELS = re.compile(
    r"<\|start\|>assistant|<\|channel\|>[^<]*(?=<)|(?:^|\s)to=\w+(?=<\|message\|>)|<\|message\|>|"
    r"<\|(?:end|eom)\|>|"
    # Of Kimi K3, Inkling and Functionary.
    r"<\|(?:open|close)\|>\w+<\|sep\|>|<\|message_model\|>|<\|content_text\|>|"
    r"<\|end_message\|>|>>>all\n|"
    # Of Solar Open and Command.
    r"<\|begin\|>assistant|<\|content\|>|<\|(?:START|END)_(?:RESPONSE|TEXT)\|>"
)


def marked_calls(text, functions):
    """The Reading of an answer that has the mark of a format; None when there is none."""
    shown = INLINE_CODE.sub(blank, text)
    start, mark, form = first_block(shown)
    torn = TORN.search(shown)
    first = min(start, torn.start() if torn else start)
    if INSIDE_OF_TEXT.search(shown, 0, first):
        reading = call_around(text, first, functions)
        if reading is not None:
            return reading
    if mark is None:
        if torn or is_cut(text):
            raise ValueError("a call without its beginning or its end")
        return None
    scan = Scan(text, start)
    calls = form.read(scan, functions)
    while mark.match(text, scan.space().place):
        calls += form.read(scan, functions)
    before = CHANNELS.sub("", text[:start]).strip()
    rest = text[scan.place :]
    if rest and (not form.speaks_on or has_marks(rest)):
        raise ValueError("text behind a call")
    prose = [words for words in (before, rest) if words]
    if any(unmarked_calls(words, functions) is not None for words in prose):
        raise ValueError("calls of two formats")
    return Reading("\n".join(prose), calls)


# A quote before a mark: the mark may stand in an argument of a call without marks.
INSIDE_OF_TEXT = re.compile("[\"']")


def call_around(text, start, functions):
    """The Reading of a call without marks that begins before a mark and has it in an argument."""
    try:
        reading = unmarked_calls(text, functions)
    except ValueError:
        return None
    begins_before = reading is not None and len(reading.prose) < len(text[:start].strip())
    return reading if begins_before and reading.calls else None


def first_block(text):
    """(place, mark, Format) of the first mark in a text, (length, None, None) without one."""
    first = (len(text), None, None)
    for mark, form in MARKS:
        match = mark.search(text)
        if match and match.start() < first[0]:
            first = (match.start(), mark, form)
    return first


def has_marks(text):
    """Does a text have the mark of a call, whole, torn or cut off?"""
    shown = INLINE_CODE.sub(blank, text)
    return bool(first_block(shown)[1] or TORN.search(shown)) or is_cut(text)


def is_cut(text):
    """Does a text end inside the opening of a call?"""
    for opening in OPENINGS:
        for length in range(LEAST_CUT, len(opening) + 1):
            if text.endswith(opening[:length]):
                return True
    return False


def unmarked_calls(text, functions):
    """The Reading of an answer that is, or ends in, calls without marks; None for no call."""
    shown = INLINE_CODE.sub(blank, text)
    for read in UNMARKED:
        reading = read(text, shown, functions)
        if reading is not None:
            return reading
    return None
