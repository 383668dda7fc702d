"""Measures a reader of native tool calls: random calls in every format, changed calls, damaged texts, honest answers.

    python tests/native_calls.py    prints the table of 10,000 calls

read_calls(text, tools) gives an object with the field `calls`, or raises ValueError for a call that is not
well-formed. check_call(message, call, tools) says whether a message makes that call, or, for None, no call.
The formats are in call_formats.py, the honest answers in honest_answers.py.
"""

import json
import random
import re
from collections import Counter
from typing import NamedTuple

from call_formats import KEYED, Habits, call_begins, formats, written
from honest_answers import HONEST
from honest_answers import TOOLS as HONEST_TOOLS

# ---- nasty values --------------------------------------------------------------------------------

NASTY = {
    "empty": "",
    "double quotes": 'She said "no" twice',
    "single quotes": "it's Ada's",
    "both quotes": "\"it's\" and 'so'",
    "backslashes": "C:\\temp\\new\\",
    "escapes as text": "\\n is a line break, \\u0041 an A",
    "line breaks": "first\nsecond\n\nthird",
    "carriage return": "one\r\ntwo",
    "tab": "a\tb",
    "other line ends": "a\u2028b\u0085c",
    "accents": "Zürich, naïve, Ångström",
    "other scripts": "東京の天気, قطار, Привет",
    "emoji": "👩‍👩‍👧 to the 🚀",
    "digits": "75001",
    "leading zeros": "007",
    "exponent": "1e5",
    "decimal": "3.10",
    "minus": "-12",
    "true": "true",
    "False": "False",
    "null": "null",
    "None": "None",
    "leading spaces": "  padded",
    "trailing space": "padded ",
    "edge line breaks": "\npadded\n",
    "only a space": " ",
    "commas": "a, b=c; d: e",
    "brackets": "{[()]} and ]}) and ({[",
    "a list as text": '["a", 1, true]',
    "an object as text": '{"a": {"b": 1}}',
    "a call as text": '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
    "a Python call as text": "[get_weather(city='Oslo')]",
    "a tagged call as text": '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>',
    "HTML": "<b>bold</b> &amp; <br/>",
    "parameter tag": "x</parameter>y",
    "nearly a parameter tag": "x</param>y < parameter >",
    "function tag": "</function>",
    "tool_call tag": "</tool_call>",
    "arg_value tag": "</arg_value>",
    "atem tag": "</atem:parameter>",
    "Gemma's quote": 'a<|"|>b',
    "fence": "```json\n{}\n```",
    "Mistral's marker": "[TOOL_CALLS]f[ARGS]{}",
    "call of Python": "f(x=1)",
    "comment": "# no comment // really",
    "SQL": "SELECT * FROM t WHERE name = 'O''Hara' -- done",
    "format": "100% {x} %s $HOME ${y}",
    "very long": "All work and no play makes Jack a dull boy. " * 120 + "End",
}
WORDS = (
    "Oslo",
    "New York",
    "celsius",
    "red",
    "tomorrow at noon",
    "ada@example.org",
    "rain or shine",
)
NULL_WORDS = ("null", "none", "None", "NULL")


def expressible(style, text, is_parameter=True):
    """Can a format express this string? is_parameter: it is a parameter's value, not inside one."""
    if any(part in text for part in style.taboo):
        return False
    if not is_parameter:
        return True
    if not style.edges and text != text.strip():
        return False
    return not any(part in text for part in style.raw_taboo)


def inexpressible(style):
    """[names of the nasty values that a format cannot express as a string parameter]."""
    return [name for name, text in NASTY.items() if not expressible(style, text)]


def limit_lines():
    """A table of what each format cannot express, and why."""
    lines = ["| format | nasty values left out | which | why |", "|---|---|---|---|"]
    for name, style in formats().items():
        missing = inexpressible(style)
        reasons = []
        if style.taboo:
            reasons.append("its own tags inside a value")
        if not style.edges:
            reasons.append("whitespace at the edges")
        if style.raw_taboo:
            reasons.append("characters that it does not escape")
        if not style.typed:
            reasons.append("(values without types: also null words for nullable strings)")
        which = ", ".join(missing) or "-"
        lines.append(
            f"| {name} | {len(missing)} of {len(NASTY)} | {which} | {', '.join(reasons) or '-'} |"
        )
    return lines


# ---- random tools and calls ----------------------------------------------------------------------

TOOL_NAMES = (
    "get_weather",
    "search_flights",
    "send_email",
    "create_calendar_event",
    "math.factorial",
    "weather.get_current",
    "db.users.find",
    "getStockPrice",
    "sendMessage",
    "translate",
    "lookup2",
    "get-forecast",
    "book-a-table",
)
PARAMETER_NAMES = (
    "city",
    "query",
    "max_results",
    "userId",
    "unit",
    "from",
    "to",
    "class",
    "name",
    "arguments",
    "parameters",
    "type",
    "id",
    "q",
    "lat",
    "text",
    "due-date",
    "is_urgent",
    "items",
    "function",
)
PLAIN_KEYS = ("x", "label", "sub_key", "n")
OTHER_KEYS = ("a b", "ключ", "x-y", 'with "quotes"', "it's", "name", "a:b,c")
SIMPLE = ("string", "string", "integer", "number", "boolean")
KINDS = (*SIMPLE, "string", "array", "object", "enum", "nullable", "nullable")
NUMBERS = (0, 1, -1, 7, 75001, 10**15 + 1, 0.5, -2.25, 3.0, 48.8566, 1e-07, 2.5e22)
INTEGERS = tuple(number for number in NUMBERS if isinstance(number, int))


def random_schema(rng, kinds=KINDS):
    kind = rng.choice(kinds)
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, ("string", "number", "object"))}
    if kind == "object":
        count = rng.randrange(1, 3)
        inner = {key: random_schema(rng, SIMPLE) for key in rng.sample(PLAIN_KEYS, count)}
        return {"type": "object", "properties": inner}
    if kind == "enum":
        return {"type": "string", "enum": ["celsius", "fahrenheit", "kelvin"]}
    if kind == "nullable":
        plain_type = rng.choice(("string", "integer", "boolean"))
        if rng.random() < 0.5:
            return {"type": [plain_type, "null"]}
        return {"anyOf": [{"type": plain_type}, {"type": "null"}]}
    return {"type": kind}


def types_of(schema):
    """The JSON types that a parameter may have: ["string"], ["integer", "null"], ..."""
    if "anyOf" in schema:
        return [part["type"] for part in schema["anyOf"]]
    return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]


def random_string(rng, style, nullable=False, is_parameter=True):
    while True:
        draw = rng.random()
        if draw < 0.25:
            text = rng.choice(WORDS)
        elif draw < 0.85:
            text = rng.choice(list(NASTY.values()))
        else:
            text = " ".join(rng.sample(list(NASTY.values()), 2))
        # Without types, nothing tells the text "null" from null where both are allowed.
        is_unclear = nullable and not style.typed and text in NULL_WORDS
        if expressible(style, text, is_parameter) and not is_unclear:
            return text


def random_value(rng, style, schema, is_parameter=True):
    """A value that fits a schema and that a format can express."""
    types = types_of(schema)
    if "null" in types:
        may_be_null = "string" not in types or not style.none_is_a_word
        if may_be_null and rng.random() < 0.4:
            return None
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "string" in types:
        return random_string(rng, style, "null" in types, is_parameter)
    if "integer" in types:
        return rng.choice(INTEGERS)
    if "number" in types:
        return rng.choice(NUMBERS)
    if "boolean" in types:
        return rng.random() < 0.5
    if "array" in types:
        count = rng.randrange(4)
        return [random_value(rng, style, schema["items"], False) for _ in range(count)]
    made = {}
    for key, inner in schema["properties"].items():
        made[key] = random_value(rng, style, inner, False)
    if not style.plain_keys and rng.random() < 0.3:
        made[rng.choice(OTHER_KEYS)] = random_value(rng, style, {"type": "number"}, False)
    return made


def random_tool(rng, style, name):
    keys = [key for key in PARAMETER_NAMES if re.fullmatch(style.keys, key)]
    chosen = rng.sample(keys, rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5)))
    properties = {key: random_schema(rng) for key in chosen}
    required = [key for key in chosen if rng.random() < 0.6]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": f"The tool {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


def twin_of(tool):
    """The same tool under another name: a call to it reads alike in every format."""
    function = tool["function"]
    return {"type": "function", "function": function | {"name": function["name"] + "_v2"}}


def random_tools(rng, style):
    """Two to four tools, each with its twin."""
    names = [name for name in TOOL_NAMES if re.fullmatch(style.names, name)]
    tools = [random_tool(rng, style, name) for name in rng.sample(names, rng.randrange(1, 3))]
    return tools + [twin_of(tool) for tool in tools]


def random_call(rng, style, tools):
    function = rng.choice(tools)["function"]
    parameters = function["parameters"]
    arguments = {}
    for key, schema in parameters["properties"].items():
        if key in parameters["required"] or rng.random() < 0.5:
            arguments[key] = random_value(rng, style, schema)
    return {"name": function["name"], "arguments": arguments}


PROSE = (
    "Let me check that for you.\n",
    "I'll look this up. ",
    "Sure!\n\n",
    "Let's see [1]: the user's \"question\" needs (at least) two tools.\n\n",
    "Ich sehe nach, einen Moment …\n",
)


def random_habits(rng, style):
    prose = rng.choice(PROSE) if style.prose and rng.random() < 0.3 else ""
    return Habits(
        prose=prose,
        template=rng.randrange(60),
        compact=rng.random() < 0.3,
        escaped=rng.random() < 0.3,
        indented=rng.random() < 0.2,
        name_last=rng.random() < 0.3,
        double_quotes=rng.random() < 0.5,
        variant=rng.random() < 0.3,
    )


class Case(NamedTuple):
    """A written answer and what must be read in it."""

    name: str  # of the format
    style: object  # the Format
    tools: list
    calls: list
    habits: Habits

    def text(self, calls=None):
        return written(self.style, self.calls if calls is None else calls, self.habits)

    def schema(self):
        """{parameter: schema} of the tool that the first call names."""
        for tool in self.tools:
            if tool["function"]["name"] == self.calls[0]["name"]:
                return tool["function"]["parameters"]["properties"]


def random_case(rng, name):
    style = formats()[name]
    tools = random_tools(rng, style)
    count = rng.choice((1, 1, 1, 2, 3)) if style.parallel else 1
    calls = [random_call(rng, style, tools) for _ in range(count)]
    return Case(name, style, tools, calls, random_habits(rng, style))


def random_cases(count, seed):
    """(random generator, case), as many of every format."""
    names = list(formats())
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        yield rng, random_case(rng, names[number % len(names)])


# ---- other calls ---------------------------------------------------------------------------------
# Each gives the calls that are written in place of the case's, or None where it does not apply.


def replace_first(case, **more):
    return [case.calls[0] | more, *case.calls[1:]]


def other_name(case, rng):
    name = case.calls[0]["name"]
    twin = name.removesuffix("_v2") if name.endswith("_v2") else name + "_v2"
    return replace_first(case, name=twin)


def unknown_name(case, rng):
    """A tool that is not on offer; without a marker or with untyped values this could be read in several ways."""
    if case.style.kind != "json" or case.style.marker == '"name":':
        return None
    return replace_first(case, name="launch_rocket")


def other_value(case, rng):
    arguments = case.calls[0]["arguments"]
    if not arguments:
        return None
    key = rng.choice(list(arguments))
    for _ in range(20):
        value = random_value(rng, case.style, case.schema()[key])
        if not same(value, arguments[key]):
            return replace_first(case, arguments=arguments | {key: value})
    return None


def missing_argument(case, rng):
    arguments = dict(case.calls[0]["arguments"])
    if not arguments:
        return None
    del arguments[rng.choice(list(arguments))]
    return replace_first(case, arguments=arguments)


def extra_argument(case, rng):
    """A parameter that the tool does not name; its value is a word in every format."""
    arguments = case.calls[0]["arguments"]
    return replace_first(case, arguments=arguments | {"surplus": "extra words"})


def text_for_number(case, rng):
    arguments = case.calls[0]["arguments"]
    keys = [key for key, value in arguments.items() if type(value) in (int, float)]
    if not case.style.typed or not keys:
        return None
    key = rng.choice(keys)
    return replace_first(case, arguments=arguments | {key: str(arguments[key])})


def two_for_one(case, rng):
    if not case.style.parallel:
        return None
    return [*case.calls, random_call(rng, case.style, case.tools)]


CHANGES = (
    other_name,
    unknown_name,
    other_value,
    missing_argument,
    extra_argument,
    text_for_number,
    two_for_one,
)


def random_change(case, rng):
    """(name of the change, the calls that are written instead)."""
    while True:
        change = rng.choice(CHANGES)
        calls = change(case, rng)
        if calls is not None:
            return change.__name__, calls


# ---- damage --------------------------------------------------------------------------------------


class Damaged(NamedTuple):
    """A malformed text. ValueError is right for all of them."""

    how: str
    text: str
    allowed: object = None  # the calls that the text says all the same, if it is well-formed
    strict: bool = True  # False: any calls but the case's may be read, none may not


# Marks that close a call whose name and arguments are complete, or a whole block of calls.
CLOSERS = re.compile(
    r"(?:\s|</(?:tool_calls?|function|minimax:tool_call|atem:function_calls)>"
    r"|<\|/?[a-z_:]+\|>|<[a-z_]+\|>|<｜[\w▁]+｜>|```)*"
)


def cut_positions(case, text):
    """Where a text may be cut so that a call is tried and not finished."""
    end = len(text.rstrip())
    positions = list(range(call_begins(case.style, text)[1], end))
    closing = case.style.optional_end
    if closing and text.rstrip().endswith(closing):
        positions.remove(end - len(closing))
    return positions


def cut(case, text, position):
    """The text up to a position. Where it ends just behind a call, it says the calls up to there.

    So it may where marks alone are missing that close a whole call: samplers stop at some of them,
    and servers cut them off.
    """
    start = text[:position]
    allowed = None
    for count in range(1, len(case.calls) + 1):
        shorter = case.text(case.calls[:count]).strip()
        written = start.strip().removesuffix("<|eom|>").strip()
        if shorter.startswith(written) and CLOSERS.fullmatch(shorter[len(written) :]):
            allowed = case.calls[:count]
    return Damaged("cut off", start, allowed)


def random_cut(case, rng, text):
    return cut(case, text, rng.choice(cut_positions(case, text)))


QUOTES = {"json": ('"',), "python": ('"', "'"), "gemma": ('<|"|>',)}


def structural_brackets(text, begin, quotes):
    """Positions of the brackets outside strings, from `begin` on."""
    positions = []
    position = begin
    while position < len(text):
        quote = next((mark for mark in quotes if text.startswith(mark, position)), None)
        if quote:
            position = closing_quote(text, position + len(quote), quote)
        else:
            if text[position] in "()[]{}":
                positions.append(position)
            position += 1
    return positions


def closing_quote(text, position, quote):
    """The position behind the string that is open at `position`."""
    while not text.startswith(quote, position):
        has_escapes = len(quote) == 1
        position += 2 if has_escapes and text[position] == "\\" else 1
    return position + len(quote)


def bracket_removed(case, rng, text):
    if case.style.kind not in QUOTES:
        return None
    begin = call_begins(case.style, text)[1]
    if case.style.arguments_at == r"\{":
        begin = text.index("{", begin)  # brackets before are part of markers
    position = rng.choice(structural_brackets(text, begin, QUOTES[case.style.kind]))
    return Damaged("bracket removed", text[:position] + text[position + 1 :])


def tag_removed(case, rng, text):
    """One closing tag is missing. What stands behind may then be read as part of a value.

    The tag that closes the whole may be missing; see cut.
    """
    positions = []
    for tag in case.style.tags:
        for match in re.finditer(re.escape(tag), text):
            positions.append(match)
    if not positions:
        return None
    tag = rng.choice(positions)
    without = text[: tag.start()] + text[tag.end() :]
    allowed = case.calls if CLOSERS.fullmatch(text[tag.start() :]) else None
    return Damaged("tag removed", without, allowed, strict=False)


def key_twice(case, rng, text):
    """The first key of the arguments once more: no JSON that can be trusted, and no Python."""
    arguments = case.calls[0]["arguments"]
    if case.style.kind not in ("json", "python") or not arguments:
        return None
    opening = arguments_open(case, text)
    key = next(iter(arguments))
    is_python = text[opening.end() - 1] == "("
    pair = f"{key}=0, " if is_python else f"{json.dumps(key)}: 0, "
    return Damaged("key twice", text[: opening.end()] + pair + text[opening.end() :])


def arguments_open(case, text):
    """The match of what opens the first call's arguments."""
    begin = call_begins(case.style, text)[1]
    return re.compile(case.style.arguments_at).search(text, begin)


def comma_added(case, rng, text):
    """A comma before a closing bracket: Python allows it, JSON does not."""
    if case.style.kind != "json":
        return None
    positions = structural_brackets(text, arguments_open(case, text).end(), QUOTES["json"])
    closing = [place for place in positions if text[place] in "]}" and not opens(text, place)]
    if not closing:
        return None
    position = rng.choice(closing)
    return Damaged("comma added", text[:position] + "," + text[position:])


def opens(text, position):
    """Does an opening bracket stand before this place?"""
    return text[:position].rstrip().endswith(("[", "{"))


def quote_removed(case, rng, text):
    """The first quote of the arguments is missing."""
    if case.style.kind != "json" or not case.calls[0]["arguments"]:
        return None
    position = text.index('"', arguments_open(case, text).end())
    return Damaged("quote removed", text[:position] + text[position + 1 :])


def key_renamed(case, rng, text):
    """A call without its arguments. Without a marker it would be data, and no call."""
    if case.style.arguments_at != KEYED or case.style.marker in ('"name":', '"tool_name":'):
        return None
    opening = arguments_open(case, text)
    renamed = text[: opening.start()] + '"argumentz": {' + text[opening.end() :]
    return Damaged("key renamed", renamed)


def text_after(case, rng, text):
    if not case.style.text_after:
        return None
    return Damaged("text after", text + "\n\nI hope that helps.")


DAMAGE = (
    random_cut,
    random_cut,
    bracket_removed,
    quote_removed,
    comma_added,
    tag_removed,
    key_twice,
    key_renamed,
    text_after,
)


# ---- measuring -----------------------------------------------------------------------------------


def same(left, right):
    """Are two JSON values the same? 1 equals 1.0; true is no number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    is_number = isinstance(left, int | float) and isinstance(right, int | float)
    return left == right and (is_number or type(left) is type(right))


COUNTS = ("calls", "right", "changed", "damaged", "unwanted", "honest")
FAULTS = {
    "another": "calls read as another call",
    "none": "calls read as none",
    "refused": "calls refused",
    "prose": "calls whose prose before them is not given back",
    "verdict": "right calls that check_call refuses",
    "changed misread": "changed calls not read as what they are",
    "changed accepted": "changed calls that check_call takes for the expected",
    "damage read": "malformed texts read as a call",
    "damage unseen": "malformed texts read as none",
    "damage accepted": "malformed texts that check_call takes for the expected",
    "unwanted accepted": "texts with a call accepted as no call",
    "honest called": "honest answers read as a call",
    "honest refused": "honest answers refused",
    "crash": "texts that raise anything but ValueError",
}


class Tally:
    """Counts by format, and the first text of every fault."""

    def __init__(self):
        self.counts = Counter()
        self.first = {}

    def count(self, name, what):
        self.counts[name, what] += 1

    def fault(self, name, what, text, why):
        self.counts[name, what] += 1
        self.first.setdefault((name, what), f"{why}: {text!r}")

    def total(self, what):
        return sum(count for (_, other), count in self.counts.items() if other == what)

    def faults(self):
        return {what: self.total(what) for what in FAULTS if self.total(what)}


class Reader:
    """The two functions under test, with their exceptions as outcomes."""

    def __init__(self, read_calls, check_call, tally):
        self.read_calls = read_calls
        self.check_call = check_call
        self.tally = tally

    def read(self, name, text, tools):
        """The calls of a text; None when it is refused."""
        reading = self.reading(name, text, tools)
        return None if reading is None else reading.calls

    def reading(self, name, text, tools):
        """What read_calls gives; None when it raises."""
        try:
            return self.read_calls(text, tools)
        except ValueError:
            return None
        except Exception as error:
            self.tally.fault(name, "crash", text, repr(error))
            return None

    def accepts(self, text, call, tools):
        return self.check_call({"role": "assistant", "content": text}, call, tools)


def measure_right(reader, case, text):
    """The case as it was written."""
    tally, reading = reader.tally, reader.reading(case.name, text, case.tools)
    tally.count(case.name, "calls")
    if reading is None:
        tally.fault(case.name, "refused", text, "refused")
    elif same(reading.calls, case.calls):
        tally.count(case.name, "right")
        # Prose in a channel of its own is wrapped in markers, and who strips them is open.
        if case.name != "gpt-oss, channel" and not gives_prose(reading, case):
            tally.fault(case.name, "prose", text, f"prose {reading.prose!r}")
    else:
        why = f"read {reading.calls!r} in place of {case.calls!r}"
        tally.fault(case.name, "another" if reading.calls else "none", text, why)

    if reader.accepts(text, case.calls[0], case.tools) != (len(case.calls) == 1):
        tally.fault(case.name, "verdict", text, f"against {case.calls[0]!r}")
    measure_unwanted(reader, case, text)


def gives_prose(reading, case):
    prose = case.habits.prose.strip()
    return not prose or reading.prose.strip() == prose


def measure_unwanted(reader, case, text):
    reader.tally.count(case.name, "unwanted")
    if reader.accepts(text, None, case.tools):
        reader.tally.fault(case.name, "unwanted accepted", text, "no call was expected")


def measure_changed(reader, case, rng):
    """Another call, in the same habits: read as what it is, and not taken for the expected."""
    change, calls = random_change(case, rng)
    text = case.text(calls)
    reader.tally.count(case.name, "changed")
    made = reader.read(case.name, text, case.tools)
    if made is None or not same(made, calls):
        why = f"{change}: read {made!r} in place of {calls!r}"
        reader.tally.fault(case.name, "changed misread", text, why)
    if reader.accepts(text, case.calls[0], case.tools):
        reader.tally.fault(case.name, "changed accepted", text, change)
    measure_unwanted(reader, case, text)


def measure_damaged(reader, case, damaged):
    tally, text = reader.tally, damaged.text
    tally.count(case.name, "damaged")
    calls = reader.read(case.name, text, case.tools)
    if calls is not None and not calls:
        tally.fault(case.name, "damage unseen", text, damaged.how)
    elif calls is not None and not may_be_read(case, damaged, calls):
        tally.fault(case.name, "damage read", text, f"{damaged.how}: read {calls!r}")

    is_expected = damaged.allowed is not None and same(damaged.allowed, case.calls[:1])
    if not is_expected and reader.accepts(text, case.calls[0], case.tools):
        tally.fault(case.name, "damage accepted", text, damaged.how)
    measure_unwanted(reader, case, text)


def may_be_read(case, damaged, calls):
    """May these calls be read in a damaged text?"""
    if damaged.allowed is not None:
        return same(calls, damaged.allowed)
    return not damaged.strict and not same(calls, case.calls)


def measure_honest(reader):
    for text in HONEST:
        reader.tally.count("honest answers", "honest")
        calls = reader.read("honest answers", text, HONEST_TOOLS)
        if calls:
            reader.tally.fault("honest answers", "honest called", text, f"read {calls!r}")
        elif calls is None or not reader.accepts(text, None, HONEST_TOOLS):
            reader.tally.fault("honest answers", "honest refused", text, "nothing is called")


def measure(read_calls, check_call, count, seed=0):
    """Tally of `count` calls over all formats evenly, each also changed and damaged, and of the honest answers."""
    tally = Tally()
    reader = Reader(read_calls, check_call, tally)
    for rng, case in random_cases(count, seed):
        text = case.text()
        has_end = rng.random() < 0.25
        measure_right(reader, case, text + rng.choice(case.style.ends) if has_end else text)
        measure_changed(reader, case, rng)
        for damage in DAMAGE:
            damaged = damage(case, rng, text)
            if damaged:
                measure_damaged(reader, case, damaged)
    measure_honest(reader)
    return tally


# ---- what is printed -----------------------------------------------------------------------------


def table_lines(tally):
    """Lines of a Markdown table: format x outcome."""
    columns = [*COUNTS, *(what for what in FAULTS if tally.total(what))]
    lines = ["| format | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    names = [*formats(), "honest answers"]
    for name in names:
        cells = [str(tally.counts[name, what] or "-") for what in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    totals = [str(tally.total(what)) for what in columns]
    lines.append("| all | " + " | ".join(totals) + " |")
    return lines


def report(tally, longest=1500):
    """The table and the first failing text of every format and fault."""
    lines = table_lines(tally)
    for (name, what), text in tally.first.items():
        lines.append(f"\n{name}: {FAULTS[what]}\n    {text[:longest]}")
    return "\n".join(lines)


def main():
    """Prints the table for bench/RESULTS.md."""
    from posttrain.chat.calls import read_calls
    from posttrain.verify.calls import check_call

    print(report(measure(read_calls, check_call, count=10_000)))


if __name__ == "__main__":
    main()
