"""Tool calls without marks, which only their place tells from what an answer speaks of.

JSON with a name and arguments, and f(x=1) in Python's syntax, are calls where they are meant: at
the end of an answer, outside of code. Each function here looks at a whole answer:

    read(text, shown, functions) -> Reading, or None where no call is meant

text: the answer; shown: the same, with `code in a line` blanked, which only speaks of calls;
functions: {name: function} of the tools on offer. ValueError: a call is meant, and malformed.
"""

import re

from posttrain.chat.call_parts import (
    ARGUMENTS_KEYS,
    OTHER_KEYS,
    SEMICOLONS,
    Reading,
    call_of,
    json_calls,
    json_object,
    python_call,
    python_list,
    value_calls,
)
from posttrain.chat.scan import Scan, is_json

# `Code in a line` only speaks of what stands there.
INLINE_CODE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def blank(match):
    """As many spaces as a match is long."""
    return " " * len(match[0])


# A name alone on its line, or right before an object.
NAMED_OBJECT = re.compile(r"^[ \t]*([^\W\d][\w.-]*)(?:[ \t]*\n)?[ \t]*(?=\{)", re.MULTILINE)


def named_object(text, shown, functions):
    """A tool's name and its arguments as JSON at the end of an answer: f\n{"x": 1}"""
    named = [match for match in NAMED_OBJECT.finditer(shown) if match[1] in functions]
    if not named:
        return None
    prose = text[: named[0].start()].strip()
    scan = Scan(text, named[0].end())
    try:
        arguments = json_object(scan)
    except ValueError:
        if prose:
            return None
        raise
    if scan.space().at_end():
        return Reading(prose, [call_of(named[0][1], arguments)])
    if prose:
        return None
    raise ValueError("text behind a call")


# As ReAct's prompts ask for it: the name stands alone on its line. What is cut off may end there.
REACT = re.compile(
    r"^[ \t*]*Action:[ \t*`]*(?:([\w.-]+)[ \t*`]*)?"
    r"(?:\n\s*\**Action Input:[ \t*`]*|\Z|(?=\n))",
    re.MULTILINE,
)
REACT_INPUT = re.compile(r"Action Input:[ \t*`]*\{")


def react(text, shown, functions):
    """Action: f, and on the next line Action Input: with the arguments in JSON."""
    steps = list(REACT.finditer(text))
    if not steps and not REACT_INPUT.search(text):
        return None
    out_of_code = CODE_BLOCK.sub(blank, text)
    for step in steps:
        name, end = step[1] or "", step.end()
        is_cut = end == len(text) and any(tool.startswith(name) for tool in functions)
        if name in functions or is_cut or out_of_code.startswith("{", end):
            scan = Scan(text, end)
            call = call_of(name, json_object(scan))
            if not scan.space().at_end():
                raise ValueError("text behind a call")
            return Reading(text[: step.start()].strip(), [call])
    if REACT_INPUT.search(out_of_code):
        raise ValueError("an input without its action")
    return None


# ---- JSON --------------------------------------------------------------------------------------


class Node:
    """A JSON object or list in a text, seen from afar: it need not be well-formed."""

    def __init__(self, start, bracket):
        self.start = start
        self.bracket = bracket
        self.is_closed = False
        self.keys = []
        self.name = None  # the value of the key "name"
        self.children = []


OPEN_NODE = re.compile(r"\{(?=\s*\")|\[(?=\s*\{)")
# A text, closed or cut off, with the colon that makes it a key; or a bracket.
TOKEN = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)(?:"|\\?\Z)(\s*:)?|[{}\[\]]', re.DOTALL)


def json_nodes(text):
    """The outermost objects and lists of a text; of what never closes, also what is inside."""
    outermost = []
    stack = []
    place = 0
    while True:
        match = (TOKEN if stack else OPEN_NODE).search(text, place)
        if not match:
            break
        place = match.end()
        if match[0] in ("{", "["):
            stack.append(Node(match.start(), match[0]))
        elif match[0] not in ("}", "]"):
            note_text(stack[-1], match)
        else:
            node = stack.pop()
            node.is_closed = True
            siblings = stack[-1].children if stack else outermost
            siblings.append(node)
    for node in stack:
        outermost.append(node)
        outermost += node.children
    return sorted(outermost, key=node_start)


def node_start(node):
    return node.start


def note_text(node, match):
    """Keep the key, or the value of "name", that a token of an object is."""
    if match[2]:
        node.keys.append(match[1])
    elif node.keys and node.keys[-1] == "name" and node.name is None:
        node.name = match[1]


# What xLAM puts its list of calls into, and what an assistant's message in JSON has.
LIST_KEY = "tool_calls"
WRAPPER_KEYS = {LIST_KEY, "thought", "role", "content"}


def is_meant(node, functions):
    """Does an object, or the first of a list, look like a call and not like other data?"""
    if node.bracket == "[":
        return any(is_meant(child, functions) for child in node.children)
    keys = set(node.keys)
    if LIST_KEY in keys <= WRAPPER_KEYS:
        return not node.is_closed or holds_calls(node, functions)
    if keys <= {"id", "type", "function"}:
        inner = [set(child.keys) for child in node.children]
        return any({"name", "arguments"} <= names for names in inner)
    if "name" not in keys or "description" in keys:
        return False
    if not keys & set(ARGUMENTS_KEYS):
        # Cut off before its arguments.
        begun = [name for name in functions if name.startswith(node.name or "")]
        return not node.is_closed and keys <= {"name", *OTHER_KEYS} and bool(begun)
    is_bare = keys <= {"name", *ARGUMENTS_KEYS, *OTHER_KEYS}
    return is_bare or "arguments" in keys or node.name in functions


def holds_calls(node, functions):
    """Does one of the objects under "tool_calls" look like a call?"""
    items = [item for values in node.children for item in values.children]
    return any("function" in item.keys or is_meant(item, functions) for item in items)


def bare_calls(scan):
    """The calls of the JSON that stands here; their list may stand under "tool_calls"."""
    start = scan.place
    value = scan.json()
    if not isinstance(value, dict) or LIST_KEY not in value:
        scan.place = start
        return json_calls(scan)
    if not isinstance(value[LIST_KEY], list):
        raise ValueError("tool_calls is no list")
    return value_calls(value[LIST_KEY])


def json_in_prose(text, shown, functions):
    """{"name", "arguments"} or a list of such, at the end of an answer, perhaps fenced."""
    meant = [node for node in json_nodes(shown) if is_meant(node, functions)]
    if not meant:
        if tries_in_json(shown, functions):
            raise ValueError("a call in JSON that cannot be read")
        return None
    prose = text[: meant[0].start].rstrip()
    if prose.endswith(UNCLOSED):
        raise ValueError("a call inside of something that does not close")
    scan = Scan(text, meant[0].start)
    calls = bare_calls(scan)
    fence = FENCE_AT_END.search(prose, max(0, len(prose) - LONGEST_FENCE))
    if fence:
        prose = prose.removesuffix(fence[0])
        scan.closes("```")
        while scan.space().matches(FENCE):
            calls += json_calls(scan)
            scan.closes("```")
    if scan.space().at_end():
        return Reading(prose.strip(), calls)
    if functions and not any(call["name"] in functions for call in calls):
        return None  # data, of which the text goes on to speak
    raise ValueError("text behind a call")


# Before a call they mean that it stands inside of something.
UNCLOSED = ("{", "[", '"')
FENCE = re.compile(r"```\w*")
FENCE_AT_END = re.compile(r"```\w*\Z")
LONGEST_FENCE = 20  # characters of a fence with its language

# Keys that stand for name and arguments in words of other systems.
JSON_NAME = re.compile(
    r"""["'](?:name|tool|tool_name|function|function_name|action)["']\s*:\s*["']([^"'\n]*)["']"""
)
JSON_ARGUMENTS = re.compile(
    r"""(?:"(?:arguments|args|action_input)"|'(?:arguments|parameters)')\s*:"""
)
# Where JSON may begin, what a tool's definition has, and the words and names of a call in JSON.
JSON_BEGINS = re.compile(r"^[ \t]*(?=[{\[\"])", re.MULTILINE)
DEFINITION = re.compile(r'"description"|"function"\s*:\s*\{(?=\s*"name")(?![^{}]*"arguments")')
ARGUMENTS_KEY = re.compile(r'"(?:arguments|parameters)"\s*:\s*\{')
JSON_WORDS = re.compile(r"\b(?:name|arguments|parameters)\b")
QUOTED_NAME = re.compile(r"(?:[\"':]|: )([^\W\d][\w.-]*)(?=[\"',])(?![\"']\s*:)")


def tries_in_json(text, functions):
    """Does a text name a tool in what looks like JSON, or like Python's objects, and is no call?"""
    if DEFINITION.search(text):
        return False
    begin = JSON_BEGINS.search(text)
    named = any(match[1] in functions for match in JSON_NAME.finditer(text))
    if named and (begin or JSON_ARGUMENTS.search(text)):
        return True
    # A bracket, a quote or a colon is missing.
    if not begin or not text.rstrip().endswith(("}", "]", "```")):
        return False
    shape = text[begin.end() :].rstrip().removesuffix("```")
    names = [match[1] for match in QUOTED_NAME.finditer(text, begin.start())]
    if not any(name in functions for name in names):
        return False
    if is_json(shape):
        return bool(ARGUMENTS_KEY.search(shape))
    return bool(JSON_WORDS.search(text, begin.start()))


# ---- calls in Python's syntax --------------------------------------------------------------------

# [f(a= or [f() anywhere, and f(a= or f() at the beginning of a line.
PYTHON_CALL = re.compile(
    r"(?:^[ \t]*|(\[)\s*)([^\W\d][\w.-]*)\((?=\s*(?:[^\W\d]\w*\s*(?:=|\Z)|[)\],]|\Z))",
    re.MULTILINE,
)
CALL_BEGINS = re.compile(r"(\[?)\s*([^\W\d][\w.-]*)\(")
# A call and nothing else, perhaps with arguments without names or with brackets too many.
LONE_CALL = re.compile(r"\[?\s*([^\W\d][\w.-]*)\([^\n]*\)\s*\]?")
MORE_BEHIND = re.compile(r"\)\s+[^\s)\]]")
ATTEMPTS = 5  # places of an answer at which calls are looked for


LIST_BEGINS = re.compile(r"\s*\[\s*[^\W\d][\w.-]*\(")


def python_alone(text, shown, functions):
    """[f(x=1), g()] as the whole answer, so that JSON in an argument is not taken for a call."""
    if not LIST_BEGINS.match(text):
        return None
    scan = Scan(text, 0)
    try:
        calls = python_list(scan.space())
    except ValueError:
        return None  # the others say what it is
    return Reading("", calls) if scan.space().at_end() else None


def python_in_prose(text, shown, functions):
    """[f(x=1), g()] as an answer's last paragraph, or f(x=1) where f is a tool on offer."""
    attempts = 0
    place = 0
    other_list = None
    for match in PYTHON_CALL.finditer(CODE_BLOCK.sub(blank, shown)):
        if match[2] not in functions:
            other_list = match if match[1] else other_list
        elif match.start() >= place and attempts < ATTEMPTS:
            attempts += 1
            scan = Scan(text, match.start())
            reading = read_run(scan, functions, bool(match[1]))
            if reading is not None:
                return reading
            place = scan.place
    lone = LONE_CALL.fullmatch(text.strip())
    if lone and lone[1] in functions and not MORE_BEHIND.search(text):
        raise ValueError("a call whose arguments cannot be read")
    return other_list and read_other_list(text, other_list.start(), functions)


def read_run(scan, functions, is_list):
    """The Reading of calls of tools from here to the end of the text; None when it ends in prose.

    ValueError: it is no prose, but a torn or malformed call.
    """
    start = scan.place
    is_alone = starts_line(scan.text, start)
    calls = []
    try:
        while sees_call(scan.space(), functions):
            calls += python_list(scan) if scan.sees("[") else [python_call(scan)]
            scan.matches(SEMICOLONS)
    except ValueError:
        rest = scan.text[start:].rstrip()
        is_whole = ")" not in rest or rest.endswith((")", "]"))
        if is_alone and (is_list or is_whole):
            raise
        return None
    if scan.at_end():
        prose = scan.text[:start].strip()
        if prose.endswith(UNCLOSED):
            raise ValueError("a call inside of something that does not close")
        return Reading(prose, calls)
    if is_alone and is_list:
        raise ValueError("text behind a call")
    return None


def starts_line(text, place):
    """Does nothing but white space stand before this place on its line?"""
    return not text[text.rfind("\n", 0, place) + 1 : place].strip()


def sees_call(scan, functions):
    """Does a list of calls, or a call of a tool, begin here?"""
    match = CALL_BEGINS.match(scan.text, scan.place)
    return bool(match and (match[1] or match[2] in functions))


def read_other_list(text, start, functions):
    """The Reading of a list of calls of names that are no tools, the last paragraph of a text."""
    if not starts_line(text, start):
        return None
    scan = Scan(text, start)
    try:
        calls = python_list(scan)
    except ValueError:
        if functions or "\n\n" in text[start:]:
            return None
        raise
    return Reading(text[:start].strip(), calls) if scan.space().at_end() else None
