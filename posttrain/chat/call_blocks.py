"""Readers of one block of tool calls, by the format in which a model writes it.

read(scan, functions): the scan stands at the block's first mark and is moved behind the block;
functions: {name: function} of the tools on offer. The calls come back, or ValueError says why not.
"""

import re

from posttrain.chat.call_parts import (
    SEMICOLONS,
    call_of,
    json_calls,
    json_object,
    python_call,
    python_calls,
    python_list,
    tag_name,
    typed_arguments,
)
from posttrain.chat.scan import DEEPEST, strict_json, unique_keys


def between(opening, closing):
    """A reader of JSON between two marks."""

    def read(scan, functions):
        scan.expects(opening)
        calls = json_calls(scan)
        scan.closes(closing)
        return calls

    return read


def behind(opening, closing=""):
    """A reader of JSON behind a mark; some models of the family write a closing one as well."""

    def read(scan, functions):
        scan.expects(opening)
        calls = json_calls(scan)
        scan.space().takes(closing)
        return calls

    return read


def python_between(opening, closing):
    """A reader of calls in Python's syntax, or in JSON, between two marks."""

    def read(scan, functions):
        scan.expects(opening)
        is_fenced = scan.space().takes("```python")  # by MiniCPM3
        if JSON_LIST.match(scan.space().text, scan.place) or scan.sees("{"):
            calls = json_calls(scan)
        else:
            calls = python_calls(scan, "```" if is_fenced else closing)
        if is_fenced:
            scan.closes("```")
        scan.closes(closing)
        return calls

    return read


JSON_LIST = re.compile(r"\[\s*\{")


def read_function_tag(scan, functions):
    """<function=f>{"x": 1}</function>"""
    scan.expects("<function=")
    name = tag_name(scan.until(">"))
    arguments = json_object(scan)
    scan.closes("</function>")
    return [call_of(name, arguments)]


def read_parameter_tags(scan, functions):
    """<tool_call><function=f><parameter=k>\\nv\\n</parameter></function></tool_call>"""
    opening = scan.matches(OUTER_TAG)
    calls = [parameter_call(scan, functions)]
    while opening and scan.space().sees("<function="):
        calls.append(parameter_call(scan, functions))
    if opening:
        scan.closes(f"</{opening[1]}>")
    else:
        scan.space().takes("</tool_call>")  # Qwen3-Coder forgets the opening mark, and closes it
    return calls


OUTER_TAG = re.compile(r"<(tool_call|seed:tool_call)>\s*")


def parameter_call(scan, functions):
    scan.expects("<function=")
    name = tag_name(scan.until(">"))
    pairs = []
    while scan.space().takes("<parameter="):
        key = tag_name(scan.until(">"))
        text = scan.until("</parameter>", ("<parameter=", "<function=", "</function>"))
        # The template puts a line break before and behind the value.
        pairs.append((key, text.removeprefix("\n").removesuffix("\n")))
    scan.expects("</function>")
    return call_of(name, typed_arguments(name, pairs, functions))


def read_named_tags(scan, functions):
    """<function name="f"><param name="k">v</param></function>, a value perhaps in <![CDATA[v]]>"""
    scan.expects('<function name="')
    name = tag_name(scan.until('"'))
    scan.expects(">")
    pairs = []
    while scan.space().takes('<param name="'):
        key = tag_name(scan.until('"'))
        scan.expects(">")
        if scan.takes("<![CDATA["):
            text = scan.until("]]>")
            scan.expects("</param>")
        else:
            text = scan.until("</param>", ("<param name=", "</function>"))
        pairs.append((key, text))
    scan.expects("</function>")
    return [call_of(name, typed_arguments(name, pairs, functions))]


def read_key_tags(scan, functions):
    """<tool_call>f <arg_key>k</arg_key> <arg_value>v</arg_value></tool_call>"""
    return [key_call(scan, functions)]


def read_hunyuan(scan, functions):
    """<tool_calls><tool_call>f<tool_sep>, pairs as in read_key_tags, </tool_call></tool_calls>"""
    scan.expects("<tool_calls>")
    calls = []
    while scan.space().sees("<tool_call>"):
        calls.append(key_call(scan, functions))
    scan.closes("</tool_calls>")
    return calls


def key_call(scan, functions):
    opening = scan.matches(KEY_TAGS)
    name = tag_name(scan.matches(UP_TO_TAG)[0])
    scan.takes("<tool_sep>")
    pairs = []
    argument = scan.space().matches(ARGUMENT_TAG)
    while argument:
        prefix = argument[1]
        key = tag_name(scan.until(f"</{prefix}arg_key>"))
        scan.space().expects(f"<{prefix}arg_value>")
        inner = (f"<{prefix}arg_key>", f"<{prefix}arg_value>", opening[0])
        pairs.append((key, scan.until(f"</{prefix}arg_value>", inner)))
        argument = scan.space().matches(ARGUMENT_TAG)
    scan.expects(f"</{opening[1]}>")
    return call_of(name, typed_arguments(name, pairs, functions))


KEY_TAGS = re.compile(r"<(tool_call|longcat_tool_call)>")
ARGUMENT_TAG = re.compile(r"<(|longcat_)arg_key>")
UP_TO_TAG = re.compile(r"[^<]*")


def read_mistral(scan, functions):
    """[TOOL_CALLS][{"name", "arguments"}], or [TOOL_CALLS]f[CALL_ID]id[ARGS]{"x": 1}"""
    scan.expects("[TOOL_CALLS]")
    if scan.space().sees("[{") or scan.sees("{") or JSON_LIST.match(scan.text, scan.place):
        return json_calls(scan)
    name = tag_name(scan.matches(MISTRAL_NAME)[0])
    if scan.takes("[CALL_ID]"):
        tag_name(scan.matches(MISTRAL_NAME)[0])
    scan.takes("[ARGS]")
    return [call_of(name, json_object(scan))]


MISTRAL_NAME = re.compile(r"[^\[{]*")


def read_python_tag(scan, functions):
    """<|python_tag|>{"name", "parameters"}; ..., or <|python_tag|>f.call(x=1)"""
    scan.expects("<|python_tag|>")
    if scan.space().sees("{") or scan.sees("[{"):
        return json_calls(scan)
    calls = python_calls(scan)
    return [call_of(call["name"].removesuffix(".call"), call["arguments"]) for call in calls]


def read_tool_code(scan, functions):
    """```tool_code, a call a line, each perhaps inside print(), ```"""
    scan.expects("```tool_code")
    calls = []
    while not scan.space().sees("```") and not (calls and scan.at_end()):
        is_printed = scan.takes("print(")
        calls += python_list(scan) if scan.sees("[") else [python_call(scan)]
        if is_printed:
            scan.space().expects(")")
        scan.matches(SEMICOLONS)
    scan.closes("```")
    if not calls:
        raise ValueError("no call between the marks")
    names = [call["name"].removeprefix("default_api.") for call in calls]
    return [call_of(name, call["arguments"]) for name, call in zip(names, calls)]


def gemma(opening, closing, quote):
    """A reader of OPENING call:f{days:3,harbour:QUOTEHusumQUOTE} CLOSING."""

    def read(scan, functions):
        scan.expects(opening)
        scan.space().expects("call:")
        name = tag_name(scan.until("{"))
        arguments = gemma_pairs(scan, quote, 0)
        scan.closes(closing)
        return [call_of(name, arguments)]

    return read


GEMMA_KEY = re.compile(r"[^:,{}\[\]<>\"'\n]+")
GEMMA_WORD = re.compile(r"[^\s,{}\[\]<>]+")


def gemma_pairs(scan, quote, depth):
    """{key: value} behind an opening brace."""
    pairs = []
    while not scan.space().takes("}"):
        if pairs:
            scan.expects(",")
            scan.space()
        if scan.takes(quote):
            key = scan.until(quote)
        else:
            key = (scan.matches(GEMMA_KEY) or [""])[0].strip()
        if not key:
            raise ValueError("an argument without a name")
        scan.space().expects(":")
        pairs.append((key, gemma_value(scan, quote, depth)))
    return unique_keys(pairs)


def gemma_value(scan, quote, depth):
    scan.space()
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if scan.takes(quote):
        return scan.until(quote)
    if scan.takes("{"):
        return gemma_pairs(scan, quote, depth + 1)
    if scan.takes("["):
        items = []
        while not scan.space().takes("]"):
            if items:
                scan.expects(",")
            items.append(gemma_value(scan, quote, depth + 1))
        return items
    word = (scan.matches(GEMMA_WORD) or [""])[0]
    words = {"True": True, "False": False, "None": None}
    return words[word] if word in words else strict_json(word)


def read_harmony(scan, functions):
    """<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>"""
    header = scan.matches(HARMONY)
    if not header:
        raise ValueError("a channel's header that is not complete")
    arguments = json_object(scan)
    scan.matches(HARMONY_END)
    return [call_of(header[1], arguments)]


HARMONY = re.compile(
    r"(?:<\|start\|>assistant)?\s?(?:<\|channel\|>\w+)?\s?\bto=(?:functions\.)?([\w.:-]+?)\s?"
    r"(?:<\|channel\|>\w+)?\s?(?:<\|constrain\|>)?\s?(?:json|code)?\s?<\|message\|>"
)
HARMONY_END = re.compile(r"\s*(?:<\|(?:call|end)\|>)?")


def read_muse(scan, functions):
    """to=f<|message|><atem:function_calls>...</atem:function_calls>"""
    header = scan.matches(MUSE)
    scan.space()
    calls = invoke_block(scan, functions, "atem:function_calls", "atem:")
    if header and [header[1]] != [call["name"] for call in calls]:
        raise ValueError("a header of another tool")
    scan.matches(MUSE_END)
    return calls


MUSE = re.compile(r"(?:<\|start\|>assistant)?\s?to=([\w.:/-]+)<\|message\|>")
MUSE_END = re.compile(r"\s*(?:<\|eom\|>)?")


def invoke(outer, prefix=""):
    """A reader of <OUTER><PREFIXinvoke name="f"><PREFIXparameter name="k">v..."""

    def read(scan, functions):
        return invoke_block(scan, functions, outer, prefix)

    return read


def invoke_block(scan, functions, outer, prefix):
    scan.expects(f"<{outer}>")
    calls = invoke_calls(scan, functions, prefix)
    scan.closes(f"</{outer}>")
    return calls


def invoke_calls(scan, functions, prefix):
    opening = f'<{prefix}invoke name="'
    calls = []
    while scan.space().takes(opening):
        name = tag_name(scan.until('"'))
        scan.expects(">")
        pairs, arguments = invoke_parameters(scan, prefix)
        typed = typed_arguments(name, pairs, functions)
        if typed.keys() & arguments.keys():
            raise ValueError("an argument twice")
        calls.append(call_of(name, typed | arguments))
        scan.expects(f"</{prefix}invoke>")
    if not calls:
        raise ValueError("no call between the marks")
    return calls


def invoke_parameters(scan, prefix):
    """(pairs of a key and a text, {key: value} of what says itself whether it is a string)."""
    opening = f'<{prefix}parameter name="'
    pairs, arguments = [], {}
    while scan.space().takes(opening):
        key = tag_name(scan.until('"'))
        is_string = scan.matches(IS_STRING)
        scan.expects(">")
        text = scan.until(f"</{prefix}parameter>", (opening, f"<{prefix}invoke"))
        if not is_string:
            pairs.append((key, text))
        elif key in arguments:
            raise ValueError(f"the argument {key} twice")
        else:
            arguments[key] = text if is_string[1] == "true" else strict_json(text)
    return pairs, arguments


IS_STRING = re.compile(r'\s+string="(true|false)"')


def read_step(scan, functions):
    """<｜tool_calls_begin｜><｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="f">..."""
    scan.expects("<｜tool_calls_begin｜>")
    calls = []
    while scan.matches(STEP_CALL):
        calls += invoke_calls(scan, functions, "steptml:")
        scan.closes("<｜tool_call_end｜>")
    if not calls:
        raise ValueError("no call between the marks")
    scan.closes("<｜tool_calls_end｜>")
    return calls


STEP_CALL = re.compile(
    r"\s*(?:<｜tool_sep｜>\s*)?<｜tool_call_begin｜>\s*(?:function\s*<｜tool_sep｜>)?"
)


def read_deepseek(scan, functions):
    """<｜tool▁call▁begin｜>function<｜tool▁sep｜>f, a ```json fence, or f<｜tool▁sep｜>{...}"""
    scan.takes("<｜tool▁calls▁begin｜>")
    calls = []
    while scan.space().takes("<｜tool▁call▁begin｜>"):
        name = tag_name(scan.until("<｜tool▁sep｜>"))
        if not scan.space().sees("{"):
            name = tag_name(scan.until("```json"))
            arguments = json_object(scan)
            scan.closes("```")
        else:
            arguments = json_object(scan)
        calls.append(call_of(name, arguments))
        scan.closes("<｜tool▁call▁end｜>")
    if not calls:
        raise ValueError("no call between the marks")
    scan.closes("<｜tool▁calls▁end｜>")
    return calls


def read_kimi(scan, functions):
    """<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}<|tool_call_end|>"""
    is_section = scan.takes("<|tool_calls_section_begin|>")
    calls = []
    while scan.space().takes("<|tool_call_begin|>"):
        label = scan.until("<|tool_call_argument_begin|>")
        name = tag_name(label).removeprefix("functions.")
        name, number = KIMI_NUMBER.subn("", name)
        if not number:
            raise ValueError("a call without its number")
        calls.append(call_of(name, json_object(scan)))
        scan.closes("<|tool_call_end|>")
    if not calls:
        raise ValueError("no call between the marks")
    if is_section:
        scan.closes("<|tool_calls_section_end|>")
    return calls


KIMI_NUMBER = re.compile(r":\d+\Z")


def read_solar(scan, functions):
    """<|tool_call:begin|>id<|tool_call:name|>f<|tool_call:args|>{"x": 1}<|tool_call:end|>"""
    scan.takes("<|begin|>assistant")
    scan.takes("<|tool_calls|>")
    calls = []
    while scan.space().takes("<|tool_call:begin|>"):
        scan.until("<|tool_call:name|>", ("<|",))  # an id, which says nothing
        name = tag_name(scan.until("<|tool_call:args|>"))
        calls.append(call_of(name, json_object(scan)))
        scan.closes("<|tool_call:end|>")
    if not calls:
        raise ValueError("no call between the marks")
    return calls


def read_kimi_3(scan, functions):
    """<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|>, arguments, each closed by name"""
    scan.expects("<|open|>tools<|sep|>")
    calls = []
    while header := scan.matches(KIMI_CALL):
        pairs = []
        while argument := scan.matches(KIMI_ARGUMENT):
            text = scan.until("<|close|>argument<|sep|>", ("<|open|>",))
            value = text if argument[2] == "string" else strict_json(text)
            pairs.append((tag_name(argument[1]), value))
        scan.space().expects("<|close|>call<|sep|>")
        calls.append(call_of(tag_name(header[1]), unique_keys(pairs)))
    if not calls:
        raise ValueError("no call between the marks")
    scan.closes("<|close|>tools<|sep|>")
    return calls


KIMI_CALL = re.compile(r'\s*<\|open\|>call tool="([^"]*)"(?: index="\d+")?<\|sep\|>')
KIMI_ARGUMENT = re.compile(r'\s*<\|open\|>argument key="([^"]*)" type="(\w+)"<\|sep\|>')


def read_command(scan, functions):
    """Action: ```json [{"tool_name", "parameters"}]```"""
    scan.matches(COMMAND)
    calls = json_calls(scan)
    scan.closes("```")
    return calls


COMMAND = re.compile(r"Action:\s*```json")


def read_intern(scan, functions):
    """<|action_start|><|plugin|>{...}<|action_end|>"""
    scan.expects("<|action_start|>")
    scan.space().expects("<|plugin|>")
    calls = json_calls(scan)
    scan.closes("<|action_end|>")
    return calls


def read_apertus(scan, functions):
    """<|tools_prefix|>[{"f": {"x": 1}}]<|tools_suffix|>"""
    scan.expects("<|tools_prefix|>")
    calls = []
    items = scan.json()
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict) or len(item) != 1:
            raise ValueError("a call that is no object of one name")
        calls += [call_of(name, arguments) for name, arguments in item.items()]
    if not calls:
        raise ValueError("no call between the marks")
    scan.closes("<|tools_suffix|>")
    return calls


def read_inkling(scan, functions):
    """<|content_invoke_tool_json|>{"name", "args"}<|end_message|>"""
    scan.matches(INKLING)
    value = json_object(scan)
    if value.keys() != {"name", "args"}:
        raise ValueError("a call with keys that no call has")
    scan.closes("<|end_message|>")
    return [call_of(value["name"], value["args"])]


INKLING = re.compile(r"(?:<\|message_model\|>)?<\|content_invoke_tool_json\|>")


def read_functionary(scan, functions):
    """>>>f, a line break, and the arguments in JSON"""
    scan.expects(">>>")
    name = tag_name(scan.until("\n"))
    return [call_of(name, json_object(scan))]
