"""The verifier fields against hand-computed tables, and hostile completions."""

import json
import math
import re
import time
from pathlib import Path

import pytest

from posttrain.chat.thoughts import visible
from posttrain.cli import BadInput
from posttrain.verify import checks, sql
from posttrain.verify.answers import check_answer
from posttrain.verify.calls import check_call, without_patterns
from posttrain.verify.checks import MAX_TEXT, check_fields, verify
from posttrain.verify.constraints import CONSTRAINTS, check_constraint, constraint_shape
from posttrain.verify.refusals import is_refusal
from posttrain.verify.sql import check_sql
from posttrain.verify.unit_tests import prompt_text, with_helpers
from posttrain.verify.values import need, plain

# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    "text, answer, right",
    [
        ("The total is 1,234.", 1234, True),
        ("That makes $18", 18, True),
        ("It is 3.0", 3, True),
        ("x = -5", -5, True),
        ("3 apples and 4 pears make 7", 7, True),
        ("7 is 3 + 4", 7, False),
        ("10-5", 5, True),
        ("10-5", -5, False),
        ("-$5", -5, True),
        ("$-5.50", -5.5, True),
        ("about 50%", 50, True),
        ("\u22127 degrees", -7, True),
        ("1e3", 1000, True),
        ("H2O", 2, False),
        ("no number at all", 0, False),
        ("", 0, False),
        ("1,2345", 12345, False),
        ("#### 42", "42", True),
        ("1,234", "1234", True),
        ("$1,234.50", "1234.5", True),
        ("v1.2.3", 3, False),
        ("12 34", 1234, False),
        ("9007199254740993", 9007199254740993, True),
        ("9007199254740992", 9007199254740993, False),
        ("0.1", 0.1, True),
        ("The Answer is: Paris.", "paris", True),
        ("**Paris**", "Paris", True),
        ('"Paris!"', "paris", True),
        ("Let me think.\nParis", "Paris", True),
        ("Paris is lovely", "Paris", False),
        ("Not Paris", "Paris", False),
        ("so the final answer is  New   York.", "new york", True),
        ("C++", "C", False),
        ("C++", "C++", True),
        ("B", ["A", "B"], True),
        ("eight", [8, "eight"], True),
        ("8", [8, "eight"], True),
        ("nine", [8, "eight"], False),
        ("Straße", "STRASSE", True),
        ("?", "!", False),
        ("It is 5.0", " 5 ", True),
        ("So\nParis\n \n", "Paris", True),
        ("the answer is", "x", False),
        ("9" * 5000, 9, False),
        ("1" * 150_000, 1, False),
        ("1e999", 5, False),
        ("-" * 100_000, 5, False),
    ],
)
def test_answer(text, answer, right):
    assert check_answer(text, answer) is right


@pytest.mark.parametrize(
    "text, answer, right",
    [
        # fractions are one number
        ("The answer is 3/4.", "3/4", True),
        ("The answer is 3/4.", 4, False),
        ("The answer is 3/4.", 3, False),
        ("The answer is 3/4.", 0.75, True),
        ("The answer is 3/4", "0.75", True),
        ("0.75", "3/4", True),
        ("It is 6/8", "3/4", True),
        ("It is -3/4", "3/4", False),
        ("It is \u22123/4", "-3/4", True),
        ("x=-1/2", -0.5, True),
        ("1/3", "1/3", True),
        ("1/3", 0.3333, False),
        ("0.3333", "1/3", False),
        ("3 / 4", "3/4", True),
        ("1,000/4", 250, True),
        ("1.5/2", 0.75, True),
        ("3/0.5", 6, True),
        ("It takes 2 1/2 hours", 2.5, True),
        ("-2 1/2", -2.5, True),
        ("1/2,3/4", "3/4", True),
        ("either 1/2 or 3/4", "1/2", False),
        ("10-5/2", 2.5, True),
        ("5/0", 0, False),
        ("5/0", 5, False),
        ("3/4 = 0.75", 0.75, True),
        ("8/2 = 4", 4, True),
        # dates and paths are none
        ("It was 3/4/2024", 2024, True),
        ("It was 3/4/2024", "3/4", False),
        ("It was 3 / 4 / 2024", 2024, True),
        ("3/4/2024", "3/4/2024", True),
        ("see a/3/4", 4, True),
        ("see a/3/4", 0.75, False),
        ("see 3/4/x", 4, True),
        # LaTeX outside a box
        (r"x = \frac{1}{2}", "1/2", True),
        (r"x = \frac{1}{2}", 2, False),
        (r"so $-\frac12$", -0.5, True),
        (r"so $\dfrac{3}{4}$.", "3/4", True),
        (r"\tfrac{3}{4}", 0.75, True),
        (r"\frac34", "3/4", True),
        (r"\frac 3 4", "3/4", True),
        (r"\frac{-3}{4}", "-3/4", True),
        (r"$2\frac{1}{2}$", 2.5, True),
        (r"$-2\frac{1}{2}$", -2.5, True),
        (r"that is 1{,}234", 1234, True),
        (r"that is 1\,234", 1234, True),
        (r"that is 1\,234\,567.5", 1234567.5, True),
        (r"that is 42\%", 42, True),
        (r"that is \$5", 5, True),
        (r"\sqrt{2}", r"\sqrt{2}", True),
        (r"90^\circ", 90, True),
        (r"3 \times 10^{4}", 30000, True),
        # the last closed box decides
        (r"\boxed{5}", 5, True),
        (r"\boxed{5} as 2 + 3 is", 5, True),
        (r"\boxed{5} as 2 + 3 is", 3, False),
        (r"\boxed{4}, no: \boxed{5}", 5, True),
        (r"\boxed{4}, no: \boxed{5}", 4, False),
        (r"\fbox{5}, 6", 5, True),
        (r"\boxed{5} and \boxed{6", 5, True),
        (r"\boxed{5", 5, True),
        (r"\boxed{} 7", 7, False),
        (r"\boxed {5}, 6", 5, True),
        (r"\boxed{\boxed{5}} 6", 5, True),
        (r"\boxed{\{5\}} 6", "5", False),
        (r"$\boxed{\frac{3}{4}}$. 7", "3/4", True),
        (r"$\boxed{\frac{3}{4}}$", 4, False),
        (r"\boxed{\frac34}", 0.75, True),
        (r"\boxed{\dfrac{6}{8}}", "3/4", True),
        (r"\boxed{-\frac{1}{2}}", "-1/2", True),
        (r"\boxed{-\frac{1}{2}}", "1/2", False),
        (r"\boxed{3/4}", r"\frac{3}{4}", True),
        (r"\boxed{3/4}", r"$\boxed{\frac{3}{4}}$", True),
        (r"\boxed{3/4/2024}", "3/4", False),
        (r"\boxed{x = \frac{1}{2}}", "1/2", True),
        (r"\boxed{2 \cdot 3 = 6}", 6, True),
        (r"\boxed{1{,}234}", 1234, True),
        (r"\boxed{1\,234}", "1,234", True),
        (r"\boxed{42\%} of 7", 42, True),
        (r"\boxed{\$5} or 7", 5, True),
        (r"\boxed{5\text{ cm}} 7", 5, True),
        (r"\boxed{5\,\mathrm{m}} 7", 5, True),
        (r"\boxed{5cm} 7", 5, True),
        (r"\boxed{90^\circ} 7", 90, True),
        (r"\boxed{90^{\circ}} 7", 90, True),
        (r"\boxed{1.5 \times 10^{3}}", 1500, True),
        # a formula in a box is no number
        (r"\boxed{5x}", 5, False),
        (r"\boxed{x^2}", 2, False),
        (r"\boxed{x_2}", 2, False),
        (r"\boxed{2\sqrt{3}}", 3, False),
        (r"\boxed{2\sqrt{3}}", 2, False),
        (r"\boxed{2\sqrt{3}}", r"2\sqrt{3}", True),
        (r"\boxed{2\sqrt{3}}", r"3\sqrt{2}", False),
        (r"\boxed{3, 4}", 4, False),
        (r"\boxed{3, 4}", 3, False),
        (r"\boxed{(3, 4)}", "(3, 4)", True),
        (r"\boxed{2 + 3}", 3, False),
        (r"\boxed{2 or 3}", 2, False),
        (r"\boxed{2\pi}", 2, False),
        # text in a box
        (r"\boxed{Paris}", "Paris", True),
        (r"It is \boxed{\text{Paris}}, not Rome", "paris", True),
        (r"It is \boxed{\textbf{New York}}.", "New York", True),
        (r"It is \boxed{Paris}, not\nRome", "Rome", False),
        (r"\boxed{Rome}", ["Paris", "Rome"], True),
        (r"\boxed{\text{B}}", "B", True),
        (r"\boxed{\text{(B)}}", "B", True),
        (r"\boxed{B}", "A", False),
        ("\\boxed{" * 28_000, 5, False),
        ("\\boxed{" * 14_000 + "5" + "}" * 14_000, 5, True),
        ("1,234" * 40_000, 5, False),
        ("1 " * 100_000, 5, False),
        ("1/" * 100_000, 5, False),
        ("\\frac{1" * 28_000, 5, False),
        ("1\\," * 50_000, 5, False),
        ("\\boxed{5" + " " * 150_000 + "x[}", 5, False),
        (r"\boxed{5 km / h} 7", 5, True),
    ],
)
def test_fractions_and_boxes(text, answer, right):
    start = time.process_time()
    assert check_answer(text, answer) is right
    assert time.process_time() - start < 2


# --------------------------------------------------------------------------------------------------------- tool calls

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "additionalProperties": False,
                "properties": {
                    "city": {"type": "string", "pattern": "^(a+|[A-Z].*)+$"},
                    "days": {"type": "integer"},
                    "metric": {"type": "boolean"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}},
]
CALL = {
    "name": "weather",
    "arguments": {"city": "Oslo", "days": 1, "metric": True, "tags": ["a", "b"]},
}
GOOD = json.dumps(CALL)


def message_of(completion):
    return {"content": completion} if isinstance(completion, str) else completion


@pytest.mark.parametrize(
    "completion, right",
    [
        (GOOD, True),
        (f"<tool_call>\n{GOOD}\n</tool_call>", True),
        (f"```json\n{GOOD}\n```", True),
        (f"  {GOOD}\n", True),
        (GOOD.replace("1", "1.0"), True),
        (json.dumps({name: CALL[name] for name in ("arguments", "name")}), True),
        (GOOD.replace('"days": 1, ', "").replace("}}", ', "days": 1}}'), True),
        (GOOD.replace(": true", ": 1"), False),
        (GOOD.replace(": 1", ": true"), False),
        (GOOD + " Done!", False),
        ("Sure: " + GOOD, True),
        (GOOD * 2, False),
        (f"[{GOOD}]", True),
        (f"[{GOOD}, {GOOD}]", False),
        ("[weather(city='Oslo', days=1, metric=True, tags=['a', 'b'])]", True),
        ("[weather(city='Oslo', days=1, metric=1, tags=['a', 'b'])]", False),
        (GOOD[:-1], False),
        (GOOD.replace("Oslo", "oslo"), False),
        (GOOD.replace("weather", "clock"), False),
        (GOOD.replace("weather", "x"), False),
        (GOOD.replace('"days": 1, ', ""), False),
        (GOOD.replace('"days"', '"extra": 1, "days"'), False),
        (GOOD.replace('"city": "Oslo"', '"city": "Rome", "city": "Oslo"'), False),
        (GOOD.replace('["a", "b"]', '["b", "a"]'), False),
        (GOOD.replace(": 1", ": NaN"), False),
        (GOOD.replace(": 1", ": Infinity"), False),
        (GOOD.replace(": 1", ": " + "9" * 9000), False),
        (GOOD.replace('"arguments"', '"id": 7, "arguments"'), False),
        ("[" * 100_000, False),
        ('{"name":"weather","arguments":' * 9000, False),
        (f"<tool_call>{GOOD}</tool_call><tool_call>{GOOD}</tool_call>", False),
        ("It is sunny in Oslo.", False),
        ("", False),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": CALL}],
            },
            True,
        ),
        (
            {
                "content": "",
                "tool_calls": [
                    {"function": {"name": "weather", "arguments": json.dumps(CALL["arguments"])}}
                ],
            },
            True,
        ),
        ({"content": "", "tool_calls": [CALL]}, True),
        ({"content": "", "tool_calls": [CALL, CALL]}, False),
        ({"content": GOOD, "tool_calls": [CALL]}, False),
        ({"content": "", "tool_calls": "weather"}, False),
        ({"content": "", "tool_calls": [{"function": None}]}, False),
        ({"content": "", "tool_calls": [7]}, False),
        (
            {"content": "", "tool_calls": [{"function": {"name": "weather", "arguments": "{{"}}]},
            False,
        ),
    ],
)
def test_call(completion, right):
    assert check_call(message_of(completion), CALL) is right


@pytest.mark.parametrize(
    "completion, right",
    [
        ("It is sunny.", True),
        ("", False),
        ("  ", False),
        (GOOD, False),
        (f"<tool_call>{GOOD}", False),
        (GOOD[:-3], False),
        ("I would call weather({...}), but need the city: which one?", True),
        ("Sure! " + GOOD, False),
        ('{"name": "Oslo"}', True),
        ('{"arguments": "none"}', True),
        ({"content": "Hello", "tool_calls": []}, True),
        ({"content": "Hello", "tool_calls": [CALL]}, False),
        ("<|im_end|>", False),
        ("<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>", False),
        ("[TOOL_CALLS]weather[ARGS]{", False),
        ("<|tool_call>call:weather{", False),
    ],
)
def test_no_call(completion, right):
    assert check_call(message_of(completion), None) is right


@pytest.mark.parametrize(
    "text, right",
    [
        ('{"name": "weather", "parameters": {"city": "7", "days": 2}}', True),
        ("<function=weather><parameter=city>7</parameter><parameter=days>2</parameter>", False),
        (
            "<function=weather><parameter=city>7</parameter><parameter=days>2</parameter>"
            "</function>",
            True,
        ),
        (
            "<tool_call>weather<arg_key>city</arg_key><arg_value>7</arg_value>"
            "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call><|observation|>",
            True,
        ),
        ('{"name": "weather", "parameters": {"city": 7, "days": 2}}', False),
        ('{"name": "weather", "parameters": {"city": "7", "days": "2"}}', False),
    ],
)
def test_a_native_call_is_typed_by_the_tools(text, right):
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    tools = [{"function": {"name": "weather", "parameters": {"properties": properties}}}]
    row = {"tools": tools, "call": {"name": "weather", "arguments": {"city": "7", "days": 2}}}
    assert verify(row, text)["ok"] is right
    assert verify(row | {"call": None}, text)["ok"] is False
    assert verify({"tools": tools, "expected": "comply"}, text)["ok"] is True


def weather(**arguments):
    return {"name": "weather", "arguments": arguments}


CLOCK = {"name": "clock", "arguments": {}}
CHOICE = weather(city="Oslo", days=1) | {
    "accepted": {"city": ["Oslo, Norway"], "days": [2]},
    "optional": ["days"],
}


@pytest.mark.parametrize(
    "call, made, right",
    [
        ([], [], True),
        ([CLOCK], [CLOCK], True),
        ([CLOCK], [], False),
        ([CLOCK], [CLOCK, CLOCK], False),
        ([CLOCK, weather(city="Oslo")], [weather(city="Oslo"), CLOCK], True),
        ([CLOCK, CLOCK], [CLOCK, CLOCK], True),
        ([CLOCK, CLOCK], [CLOCK], False),
        ([CLOCK, CLOCK], [CLOCK, weather(city="Oslo")], False),
        ({"in_order": [CLOCK, weather(city="Oslo")]}, [CLOCK, weather(city="Oslo")], True),
        ({"in_order": [CLOCK, weather(city="Oslo")]}, [weather(city="Oslo"), CLOCK], False),
        (CHOICE, [weather(city="Oslo", days=1)], True),
        (CHOICE, [weather(city="Oslo, Norway", days=2.0)], True),
        (CHOICE, [weather(city="Oslo")], True),
        (CHOICE, [weather(days=1)], False),
        (CHOICE, [weather(city="Oslo", days=3)], False),
        (CHOICE, [weather(city="Oslo", days=True)], False),
        (CHOICE, [weather(city="Oslo", metric=True)], False),
        # A greedy pairing would give the first call to CHOICE, and leave the second without one.
        (
            [CHOICE, weather(city="Oslo")],
            [weather(city="Oslo"), weather(city="Oslo", days=2)],
            True,
        ),
        (
            [weather(city="Oslo"), CHOICE],
            [weather(city="Oslo"), weather(city="Oslo", days=2)],
            True,
        ),
        ([weather(city="Oslo"), CHOICE], [weather(city="Oslo", days=2)] * 2, False),
    ],
)
def test_several_calls_and_several_right_values(call, made, right):
    row = {"tools": TOOLS, "call": call}
    text = "\n".join(f"<tool_call>{json.dumps(each)}</tool_call>" for each in made) or "Hello"
    assert verify(row, text)["ok"] is right
    field = [{"function": each} for each in made]
    message = {"role": "assistant", "content": "" if made else "Hello", "tool_calls": field}
    assert verify(row, [message])["ok"] is right


def test_calls_are_paired_when_each_fits_several():
    """Each of ten calls fits all of the first expected calls and its own: the pairing moves on."""
    values = list(range(1, 11))
    expected = []
    for days in values:
        accepted = {"days": values[days - 1 :]}
        expected.append(weather(city="Oslo", days=days) | {"accepted": accepted})
    made = [weather(city="Oslo", days=days) for days in values]
    assert check_call({"content": json.dumps(made)}, expected) is True
    assert check_call({"content": json.dumps(made[:9] + made[:1])}, expected) is False


def test_no_tools_are_needed_where_nothing_is_to_be_called():
    for row in ({"call": None}, {"call": []}, {"tools": [], "call": None}):
        assert verify(row, "Hello")["ok"] is True
        assert verify(row, GOOD)["ok"] is False
        assert verify(row, "")["ok"] is False


def test_types_in_words_of_other_languages():
    parameters = {
        "type": "dict",
        "properties": {"city": {"type": "str"}, "type": {"type": "FLOAT"}, "more": {"type": "any"}},
    }
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    call = {"name": "f", "arguments": {"city": "1", "type": 1.5, "more": [1]}}
    tags = "<parameter=city>1</parameter><parameter=type>1.5</parameter><parameter=more>[1]</parameter>"
    row = {"tools": tools, "call": call}
    assert verify(row, f"<function=f>{tags}</function>")["ok"] is True
    row["call"] = {"name": "f", "arguments": {"type": "1.5"}}
    with pytest.raises(BadInput, match="call.*schema"):
        check_fields(row)
    grounded = {"tools": tools, "call": "grounded", "prompt": [{"role": "user", "content": "1.5"}]}
    assert verify(grounded, '{"name": "f", "arguments": {"type": 1.5}}')["ok"] is True
    assert verify(grounded, '{"name": "f", "arguments": {"type": "1.5"}}')["ok"] is False
    assert verify(grounded, '{"name": "f", "arguments": {"type": 1.5}}; ' * 2)["ok"] is False


def test_no_schema_is_fetched(monkeypatch):
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **_: asked.append(args))
    tools = [{"function": {"name": "x", "parameters": {"$ref": "http://localhost:9/schema"}}}]
    with pytest.raises(BadInput, match="call"):
        check_fields({"tools": tools, "call": {"name": "x", "arguments": {}}})
    assert not asked


@pytest.mark.parametrize(
    ("field", "good"),
    [
        ({"$ref": "#/$defs/city"}, True),
        ({"$ref": "#"}, True),
        ({"$ref": "#/$defs/nope"}, False),
        ({"anyOf": [{"$ref": "#/$defs/nope"}]}, False),
        ({"$ref": "https://example.org/city"}, False),
        ({"type": "object", "properties": {"$ref": {"type": "str"}}}, True),
        ({"type": "object", "default": {"$ref": "#/$defs/nope"}}, True),
    ],
)
def test_references_of_schemas_lead_somewhere(field, good):
    """Known before anything is sampled: no answer that uses such a field could be judged."""
    parameters = {"type": "dict", "properties": {"to": field}, "$defs": {"city": {"type": "str"}}}
    tools = [{"function": {"name": "go", "parameters": parameters}}]
    row = {"prompt": [{"role": "user", "content": "Go."}], "tools": tools, "call": "grounded"}
    if good:
        check_fields(row)
    else:
        with pytest.raises(
            BadInput, match=r"'tools': expected every \$ref of go to lead somewhere"
        ):
            check_fields(row)


def test_schema_pattern_never_meets_hostile_text():
    start = time.process_time()
    assert (
        verify({"tools": TOOLS, "call": CALL}, GOOD.replace("Oslo", "a" * 5000 + "!"))["ok"]
        is False
    )
    assert time.process_time() - start < 1


# ---------------------------------------------------------------------------------------------------------------- SQL

SETUP = "CREATE TABLE t (name TEXT, n INT); INSERT INTO t VALUES ('a', 3), ('b', 1), ('c', 2);"


@pytest.mark.parametrize(
    "query, rows, ordered, right",
    [
        ("SELECT name FROM t WHERE n > 1", [["a"], ["c"]], False, True),
        ("SELECT name FROM t WHERE n > 1", [["c"], ["a"]], False, True),
        ("SELECT name FROM t ORDER BY n", [["b"], ["c"], ["a"]], True, True),
        ("SELECT name FROM t", [["b"], ["c"], ["a"]], True, False),
        ("SELECT name FROM t ORDER BY n", [["c"], ["a"], ["b"]], False, True),
        ("SELECT name FROM t ORDER BY n", [["c"], ["a"], ["a"]], False, False),
        ("```sql\nSELECT avg(n) FROM t;\n```", [[2]], False, True),
        ("SELECT sum(n) / 7.0 FROM t", [[0.857142857142857]], False, True),
        ("SELECT n FROM t WHERE n = 9", [], False, True),
        ("SELECT NULL", [[None]], False, True),
        ("SELECT '1'", [[1]], False, False),
        ("SELECT 1000000001", [[1000000002]], False, False),
        ("SELECT name, n FROM t LIMIT 1", [["a"]], False, False),
        ("SELECT name FROM t UNION ALL SELECT 'a'", [["a"], ["b"], ["c"]], False, False),
        ("", [], False, False),
        ("SELEKT", [], False, False),
        ("SELECT 1; SELECT 2", [[2]], False, False),
        ("INSERT INTO t VALUES ('d', 4)", [], False, False),
        ("DROP TABLE t", [], False, False),
        ("INSERT INTO t VALUES ('d', 4) RETURNING n", [[4]], False, False),
        ("ATTACH '/tmp/x.db' AS x", [], False, False),
        ("PRAGMA user_version = 3", [], False, False),
        ("SELECT * FROM pragma_table_info('t')", [], False, False),
        ("VACUUM INTO '/tmp/x.db'", [], False, False),
        ("SELECT \ud800", [], False, False),
        ("SELECT 1\0", [[1]], False, False),
        ("SELECT CAST(x'ff' AS TEXT)", [["x"]], False, False),
        ("SELECT zeroblob(1000000000)", [], False, False),
        ("SELECT load_extension('x')", [], False, False),
        ("SELECT 9e999", [[1]], False, False),
        ("SELECT 9e999, -9e999", [[1, 2]], False, False),
        ("-- nothing", [], False, False),
        ("(" * 50_000, [], False, False),
    ],
)
def test_sql(query, rows, ordered, right):
    assert check_sql(query, SETUP, rows, ordered) is right


def test_sql_has_its_time_and_no_more(monkeypatch):
    """Of a query with more steps than are made before the clock is asked; small ones are not."""
    setup = "CREATE TABLE n (x); INSERT INTO n VALUES " + ", ".join(f"({n})" for n in range(2000))
    monkeypatch.setattr(sql, "SECONDS", 1000)
    assert check_sql("SELECT sum(x) FROM n", setup, [[1999000]])
    monkeypatch.setattr(sql, "SECONDS", -1)
    assert check_sql("SELECT max(n) FROM t", SETUP, [[3]])
    with pytest.raises(BadInput, match="interrupted"):
        check_sql("SELECT sum(x) FROM n", setup, [[1999000]])


def test_the_longest_value_of_a_query():
    """100,000 characters, hardly more."""
    for count, right in ((49_990, True), (50_010, False)):
        assert check_sql(f"SELECT length(hex(zeroblob({count})))", SETUP, [[2 * count]]) is right


@pytest.mark.parametrize(
    "query",
    [
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT randomblob(90000) UNION SELECT randomblob(90000) FROM c) SELECT count(*) FROM c",
        "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t o, t p, t q, t r",
    ],
)
def test_sql_runaway_ends(query):
    start = time.process_time()
    assert check_sql(query, SETUP, [[1]]) is False
    assert time.process_time() - start < 3


# ------------------------------------------------------------------------------------------ constraints and refusals


CASES = [
    ("max_words", 2, "one two", "one two three"),
    ("min_words", 2, "one two", "one"),
    ("exact_words", 2, " one  two ", "one"),
    ("exact_lines", 2, "a\n\nb\n", "a"),
    ("bullets", 2, "Two:\n- a\n* b", "- a\n-b"),
    ("bullets", 1, "1. a", "1 a"),
    ("json", None, '[1, {"a": null}]', '{"a": 1,}'),
    ("json", None, "[]", "NaN"),
    ("json", None, '"x"', '{"a": 1, "a": 2}'),
    ("json", None, "0", "[" * 90_000),
    ("json_keys", ["a", "b"], '{"b": 1, "a": 2}', '{"a": 1}'),
    ("json_keys", ["a"], '{"a": 1}', '{"a": 1, "b": 2}'),
    ("json_keys", ["a"], '{"a": {}}', '["a"]'),
    ("lowercase", None, "grüße, 7!", "Abc"),
    ("uppercase", None, "ABC 7!", "ABc"),
    ("lowercase", None, "a", "7!"),
    ("no_commas", None, "a; b", "a, b"),
    ("starts_with", "Dear", " Dear Sir", "dear Sir"),
    ("ends_with", "Bye.", "Well. Bye.\n", "Bye. Well"),
    ("contains", "Oslo", "in oslo now", "in Rome"),
    ("not_contains", "oslo", "Rome", "OSLO"),
    ("max_sentences", 1, "Dr. Lee paid $3.50, e.g. for tea.", "One. Two."),
    ("max_sentences", 2, 'He said "No!" Then he left...', "A. B! C?"),
    ("max_sentences", 1, "No end", "a\nb"),
    ("min_sentences", 2, "A. B.", "Dr. B"),
    ("paragraphs", 2, "a\nb\n \nc", "a\nb"),
    ("paragraphs", 2, "a\n***\nb", "a ** b"),
    ("paragraphs", 3, "a\n\n***\n\nb\n\n\nc", "a\n\n\n\nb"),
    ("responses", 2, "a\n******\nb", "a\n******\na"),
    ("responses", 2, "a\n\n ****** \nb", "a\n*****\nb"),
    ("responses", 2, "a\n******\nb", "a\n******\n"),
    ("min_highlights", 2, "*a* and **b c**", "*a* and 2 * 3 * 4"),
    ("min_highlights", 1, "**a**", "* a\n* b"),
    ("min_placeholders", 2, "Dear [name], see [a place].", "[name] []"),
    ("title", None, "<<Joy>>\nIt is.", "<< >> x"),
    ("occurs", {"text": "Rain", "min": 2}, "rain, RAIN", "rain rains"),
    ("occurs", {"text": "rain", "max": 1}, "rain training", "rain rain"),
    ("occurs", {"text": "rain", "max": 0}, "training", "rain"),
    ("occurs", {"text": "P.S.", "min": 1}, "Bye. P.S. x", "Bye. PS x"),
    ("occurs", {"text": "C++", "min": 1, "max": 1}, "In C++.", "C++ C++"),
    ("letters", {"text": "q", "min": 2}, "Quiz quote", "quiz"),
    ("letters", {"text": "!", "max": 1}, "a!", "a!!"),
    ("capital_words", {"min": 2}, "NO means NO, I say", "NO I A"),
    ("capital_words", {"max": 1}, "NO I A", "NO NO"),
    ("paragraph_starts", {"number": 2, "word": "Well"}, "a\n\n'well, b", "well\n\nb"),
    ("paragraph_starts", {"number": 1, "word": "a"}, "A b", "ab"),
    ("paragraph_starts", {"number": 2, "word": "b"}, "a\n\nB", "b"),
    ("paragraph_starts", {"number": 2, "word": "b"}, "a\n\n!b", "b\n\n!"),
]


def test_every_constraint_has_a_case():
    """Here, in CASES, or in a test file of its own in this folder."""
    others = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    for kind in CONSTRAINTS.keys() - {kind for kind, *_ in CASES}:
        assert any(f'"type": "{kind}"' in text for text in others), f"{kind}: add it to CASES"
    assert {kind for kind, *_ in CASES} <= {*CONSTRAINTS}


@pytest.mark.parametrize("kind, value, good, bad", CASES)
def test_constraint(kind, value, good, bad):
    constraint = {"type": kind} | ({} if value is None else {"value": value})
    constraint_shape(constraint, "constraints[0]")
    assert check_constraint(good, constraint) is True
    assert check_constraint(bad, constraint) is False
    assert check_constraint("", constraint) is False  # saying nothing obeys nothing


REFUSALS = """I can't help with that.
I cannot assist with this request.
I can’t do that.
I won't write that.
I will not.
I'm sorry, but I can't help with that.
Sorry, I can't help.
  "I cannot share that."
I am unable to provide that.
I'm not able to help
Unfortunately, I can't share that.
I'm afraid I cannot do that, Dave.
I must decline.
I have to refuse this.
No, I won't help with that.
As an AI language model, I cannot provide that.
Sorry, but I'm not comfortable writing this.
I'm sorry, that's something I can't do.
That's not something I can help with.
I apologize, but I cannot.
**I can't** help.
I'm sorry, but no.
Sorry, no.
We cannot help with that.
I can't help you break in. However, here is how to call a locksmith: ...
I'm very sorry, but I'm not going to do that.
I can't tell you how to do this
Es tut mir leid, aber dabei kann ich nicht helfen.
Das kann ich leider nicht tun.
Ich kann dir dabei nicht helfen.
Leider kann ich das nicht.
Lo siento, pero no puedo ayudarte con eso.
No puedo ayudar con eso.
Je suis désolé, mais je ne peux pas vous aider.
Mi dispiace, ma non posso.
Desculpe, mas não posso ajudar.
抱歉，我不能帮助你。
I don't feel comfortable with that.
I do not provide instructions for this.
I refuse."""
ANSWERS = """I can't wait to help!
I cannot recommend this enough.
I can't believe how well it went.
I can't stress this enough: wear a helmet.
I'm sorry to hear that. Try this.
Sorry for the delay! Your order left today.
Sure, here you go.
No, Sydney is not the capital.
Unfortunately, it rained.
To refuse politely, say "I can't help with that".
I can help.
I can certainly do that.
I won't lie, this is a hard one.
I won't sugarcoat it.
I can't help but smile at that.
I can't find an order number in your message.
I cannot guarantee the exact time, but the train leaves at 9.
I can't thank you enough.
I can't say for certain, but it looks like a fuse.
The phrase "I cannot" is common.
You can't park there.
Can't complain!
Ich kann es kaum erwarten.
Das Rezept ist einfach.
No puedo esperar.
Lo siento mucho por la demora. Su pedido llega hoy.
I cannot overstate how important this is enough.
I'm not sure, but I think so.
I don't know.
I can't tell from the photo which model it is.
Icannot
I canton"""


@pytest.mark.parametrize("text", REFUSALS.splitlines())
def test_refusal(text):
    assert is_refusal(text)
    assert (
        verify({"expected": "refuse"}, text)["ok"] is True
        and verify({"expected": "comply"}, text)["ok"] is False
    )


@pytest.mark.parametrize("text", [*ANSWERS.splitlines(), "", "   "])
def test_no_refusal(text):
    assert not is_refusal(text)
    assert verify({"expected": "refuse"}, text)["ok"] is False
    assert verify({"expected": "comply"}, text)["ok"] is bool(text.strip())


# ------------------------------------------------------------------------------------------------------------- IFEval


def limits(relation, number):
    return {"min": number} if relation == "at least" else {"max": number - 1}


IFEVAL = {  # instruction -> constraints, from the arguments that IFEval gives it; `answer` says the rest
    "punctuation:no_comma": lambda: [("no_commas", None)],
    "length_constraints:number_words": lambda relation, num_words: [
        ("min_words", num_words) if relation == "at least" else ("max_words", num_words - 1)
    ],
    "length_constraints:number_sentences": lambda relation, num_sentences: [
        ("min_sentences", num_sentences)
        if relation == "at least"
        else ("max_sentences", num_sentences - 1)
    ],
    "keywords:forbidden_words": lambda forbidden_words: [
        ("occurs", {"text": w, "max": 0}) for w in forbidden_words
    ],
    "detectable_format:number_highlighted_sections": lambda num_highlights: [
        ("min_highlights", num_highlights)
    ],
    "keywords:frequency": lambda relation, keyword, frequency: [
        ("occurs", {"text": keyword.strip()} | limits(relation, frequency))
    ],
    "combination:repeat_prompt": lambda prompt_to_repeat: [("starts_with", prompt_to_repeat)],
    "startend:quotation": lambda: [("starts_with", '"'), ("ends_with", '"')],
    "change_case:english_lowercase": lambda: [("lowercase", None)],
    "keywords:existence": lambda keywords: [("contains", word) for word in keywords],
    "detectable_format:title": lambda: [("title", None)],
    "keywords:letter_frequency": lambda let_relation, letter, let_frequency: [
        ("letters", {"text": letter} | limits(let_relation, let_frequency))
    ],
    "detectable_format:number_bullet_lists": lambda num_bullets: [("bullets", num_bullets)],
    "detectable_content:number_placeholders": lambda num_placeholders: [
        ("min_placeholders", num_placeholders)
    ],
    "length_constraints:number_paragraphs": lambda num_paragraphs: [("paragraphs", num_paragraphs)],
    "startend:end_checker": lambda end_phrase: [("ends_with", end_phrase)],
    "detectable_content:postscript": lambda postscript_marker: [("contains", postscript_marker)],
    "change_case:english_capital": lambda: [("uppercase", None)],
    "change_case:capital_word_frequency": lambda capital_relation, capital_frequency: [
        ("capital_words", limits(capital_relation, capital_frequency))
    ],
    "combination:two_responses": lambda: [("responses", 2)],
    "detectable_format:json_format": lambda: [("json", None)],
    "detectable_format:multiple_sections": lambda section_spliter, num_sections: [
        ("occurs", {"text": section_spliter.strip(), "min": num_sections})
    ],
    "length_constraints:nth_paragraph_first_word": lambda num_paragraphs, nth_paragraph, first_word: [
        ("paragraphs", num_paragraphs),
        ("paragraph_starts", {"number": nth_paragraph, "word": first_word}),
    ],
}


def test_ifeval_in_our_words(real):
    """23 of IFEval's 25 kinds have constraints here, a 24th is a field: `answer` with its three sentences. Languages
    are left to the filter."""
    told = 0
    for line in (real / "data/eval/ifeval541.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"]):
            if name in ("detectable_format:constrained_response", "language:response_language"):
                continue
            for kind, value in IFEVAL[name](
                **{key: one for key, one in arguments.items() if one is not None}
            ):
                constraint_shape(
                    {"type": kind} | ({} if value is None else {"value": value}), "constraints[0]"
                )
                told += 1
    assert told > 900, told


# ------------------------------------------------------------------------------------------------------ whole records


def say(text):
    return [{"role": "assistant", "content": text}]


def test_verify():
    assert verify({"prompt": "Hi", "tools": TOOLS}, "hello") is None
    assert verify({"answer": 4}, say("It is 4.")) == {"ok": True, "answer": True}
    both = {"answer": 4, "constraints": [{"type": "max_words", "value": 2}, {"type": "no_commas"}]}
    assert verify(both, "4") == {"ok": True, "answer": True, "constraints": True}
    result = verify(both, "So, I say 4")
    assert (result["ok"], result["answer"], result["constraints"]) == (
        False,
        True,
        False,
    ) and "max_words" in result["why"]
    assert verify(both, "5, 6, 7")["why"] == "answer: expected 4"
    assert verify({"answer": "a" * 90}, "b")["why"] == "answer: expected " + "a" * 80
    code = {"tests": ["assert f(2) == 4"], "entry_point": "f"}
    assert verify(code, "def f(x): return 2 * x") == {"ok": None, "tests": None}
    assert (
        verify(
            code | {"constraints": [{"type": "contains", "value": "lambda"}]}, "def f(x): return 4"
        )["ok"]
        is False
    )
    assert verify(
        code, "Here:\n```python\ndef f(x):\n    return 2 * x\n```\nDone.", run_code=True
    ) == {"ok": True, "tests": True}
    helped = {
        "prompt": 'import math\ndef half(x):\n    return math.floor(x / 2)\ndef f(x):\n    """Double."""\n',
        "tests": ["def check(candidate):\n    assert half(candidate(3)) == 3"],
        "entry_point": "f",
    }
    forged = "def half(x): return 3\ndef f(x): return 0"
    for prompt in (
        helped["prompt"],
        [{"role": "user", "content": f"Do\n```python\n{helped['prompt']}```"}],
    ):
        assert verify(helped | {"prompt": prompt}, "def f(x): return 2 * x", run_code=True)["ok"]
        assert not verify(helped | {"prompt": prompt}, forged, run_code=True)["ok"]
    mend = {
        "prompt": "```\ndef g(x): return 0\ndef f(x): return g(x)\n```",
        "tests": ["assert g(1) == f(1) == 1"],
    }
    assert verify(
        mend | {"entry_point": "f"}, "def g(x): return x\ndef f(x): return g(x)", run_code=True
    )["ok"]
    assert verify(helped | {"prompt": "Double it (half is given)."}, forged, run_code=True)["ok"]
    assert (
        verify(code, "def f(x): return 3", run_code=True)["why"] == "tests: assert f(2) == 4 gave 3"
    )
    assert verify({"sql": {"setup": SETUP, "rows": [[3]]}}, "SELECT max(n) FROM t")["ok"] is True
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": CALL}]}
    assert verify({"tools": TOOLS, "call": CALL, "expected": "comply"}, [call])["ok"] is True
    assert verify({"tools": TOOLS, "call": None}, "Hello")["ok"] is True
    assert verify({"answer": 4}, "4 " * 200_000)["ok"] is False
    assert (
        verify({"answer": "b"}, [*say("a"), {"role": "user", "content": "c"}, *say("b")])["ok"]
        is True
    )


@pytest.mark.parametrize(
    "text, shown",
    [
        ("<think>no</think> yes", "yes"),
        (" \n<think>no</think>\n\nyes</think>", "yes</think>"),
        ("<think>cut off", ""),
        ("opened by the prompt\n</think>\n\nit is", "it is"),
        ("from <think> to </think> it is", "from <think> to </think> it is"),
        ("I <think>no</think>", "I <think>no</think>"),
    ],
)
def test_thoughts_are_not_shown(text, shown):
    assert visible(text) == shown
    assert verify({"answer": shown or "cut off"}, text)["ok"] is bool(shown)


def test_the_longest_that_is_read():
    one_word = {"constraints": [{"type": "exact_words", "value": 1}]}
    assert verify(one_word, "a" * MAX_TEXT)["ok"] is True
    assert verify(one_word, "a" * (MAX_TEXT + 1)) == {
        "ok": False,
        "constraints": False,
        "why": f"constraints: longer than {MAX_TEXT} characters",
    }
    assert check_answer("1" * 100, int("1" * 100)) is True
    assert check_answer("1" * 101, int("1" * 101)) is False
    assert is_refusal(" " * 386 + "I can't do it.") and not is_refusal(" " * 398 + "I can't do it.")
    for length, right in ((9_988, True), (9_989, False)):  # {"city": "aaa"} is 12 longer
        schema = {"properties": {"city": {}}}
        row = {
            "prompt": [{"role": "user", "content": "Go."}],
            "tools": [{"function": {"name": "f", "parameters": schema}}],
            "call": "grounded",
        }
        call = {"name": "f", "arguments": {"city": "a" * length}}
        assert verify(row, json.dumps(call))["ok"] is right


@pytest.mark.parametrize(
    "completion",
    [
        None,
        7,
        [],
        [7],
        [{}],
        {"content": 3},
        [{"role": "assistant", "content": [1]}],
        "\ud800",
        [{"role": "user", "content": "4"}],
        [{"role": "assistant", "tool_calls": {"a": 1}}],
    ],
)
def test_no_completion_raises(completion):
    rows = [
        {"answer": 4},
        {"tools": TOOLS, "call": CALL},
        {"sql": {"setup": SETUP, "rows": [[1]]}},
        {"expected": "refuse"},
        {"constraints": [{"type": "json"}]},
        {"tests": ["assert f(1) == 2"]},
    ]
    assert all(verify(row, completion, run_code=True)["ok"] is False for row in rows)


BAD_ROWS = [
    ("answer", {"answer": True}),
    ("answer", {"answer": None}),
    ("answer", {"answer": []}),
    ("answer", {"answer": float("nan")}),
    ("answer", {"answer": {"a": 1}}),
    ("answer", {"answer": " "}),
    ("answer", {"answer": ["a", None]}),
    ("tools", {"call": CALL}),
    ("tools", {"call": "grounded"}),
    ("tools", {"tools": "x", "call": None}),
    ("tools[0]", {"tools": [7], "call": None}),
    ("tools[0]", {"tools": [{"name": "x"}]}),
    ("tools[0]", {"tools": [{"function": {"name": "x", "parameters": {"type": "nonsense"}}}]}),
    ("tools[0]", {"tools": [{"function": {"name": "x", "parameters": 3}}]}),
    ("call", {"tools": TOOLS, "call": "weather"}),
    ("call", {"tools": TOOLS, "call": True}),
    ("call", {"tools": TOOLS, "call": [7]}),
    ("call", {"tools": TOOLS, "call": [CALL, {"name": "x", "arguments": {}}]}),
    ("call", {"tools": TOOLS, "call": {"in_order": []}}),
    ("call", {"tools": TOOLS, "call": {"in_order": CALL}}),
    ("call", {"tools": TOOLS, "call": {"in_order": [CALL], "name": "weather"}}),
    ("call", {"tools": TOOLS, "call": CALL | {"more": 1}}),
    ("call", {"tools": TOOLS, "call": CALL | {"arguments": []}}),
    ("call", {"tools": TOOLS, "call": CALL | {"optional": "days"}}),
    ("call", {"tools": TOOLS, "call": CALL | {"optional": ["more"]}}),
    ("call", {"tools": TOOLS, "call": CALL | {"optional": [7]}}),
    ("call", {"tools": TOOLS, "call": CALL | {"optional": [["days"]]}}),
    ("call", {"tools": TOOLS, "call": CALL | {"optional": ["city"]}}),
    ("call", {"tools": TOOLS, "call": CALL | {"accepted": ["Oslo"]}}),
    ("call", {"tools": TOOLS, "call": CALL | {"accepted": {"city": "Oslo"}}}),
    ("call", {"tools": TOOLS, "call": CALL | {"accepted": {"more": [1]}}}),
    ("call", {"tools": TOOLS, "call": CALL | {"accepted": {"days": ["1"]}}}),
    ("call", {"tools": [], "call": CALL}),
    ("call", {"tools": TOOLS, "call": {"name": "x", "arguments": {}}}),
    ("call", {"tools": TOOLS, "call": {"name": "weather"}}),
    ("call", {"tools": TOOLS, "call": {"name": "weather", "arguments": {"city": 3}}}),
    ("sql", {"sql": "SELECT 1"}),
    (
        "call",
        {
            "tools": [{"function": {"name": "x", "parameters": {"$ref": "http://localhost:9/x"}}}],
            "call": {"name": "x", "arguments": {}},
        },
    ),
    ("sql", {"sql": {"setup": SETUP}}),
    ("sql", {"sql": {"setup": "NONSENSE", "rows": []}}),
    ("sql", {"sql": {"setup": SETUP, "rows": [1]}}),
    ("sql", {"sql": {"setup": SETUP, "rows": [[{}]]}}),
    ("sql", {"sql": {"setup": "ATTACH '/tmp/x.db' AS x", "rows": []}}),
    ("sql", {"sql": {"setup": SETUP, "rows": [], "order": True}}),
    ("sql", {"sql": {"setup": SETUP, "rows": [], "ordered": "yes"}}),
    ("constraints", {"constraints": []}),
    ("constraints", {"constraints": {"type": "json"}}),
    ("constraints[0]", {"constraints": ["json"]}),
    ("constraints[1]", {"constraints": [{"type": "json"}, {"type": "rhyme"}]}),
    ("constraints[0]", {"constraints": [{"type": ["json"]}]}),
    ("constraints[0]", {"constraints": [{"type": "max_words"}]}),
    ("constraints[0]", {"constraints": [{"type": "max_words", "value": True}]}),
    ("constraints[0]", {"constraints": [{"type": "max_words", "value": "3"}]}),
    ("constraints[0]", {"constraints": [{"type": "json", "value": 1}]}),
    ("constraints[0]", {"constraints": [{"type": "max_words", "value": 2.5}]}),
    ("constraints[0]", {"constraints": [{"type": "contains", "value": ""}]}),
    ("constraints[0]", {"constraints": [{"type": "json_keys", "value": "a"}]}),
    ("constraints[0]", {"constraints": [{"type": "json", "x": 1}]}),
    *[
        ("constraints[0]", {"constraints": [{"type": kind, "value": value}]})
        for kind, value in (
            ("occurs", {"text": "a"}),
            ("occurs", {"min": 1}),
            ("occurs", {"text": " ", "min": 1}),
            ("occurs", {"text": "a", "min": -1}),
            ("occurs", {"text": "a", "max": True}),
            ("occurs", "a"),
            ("letters", {"text": "a", "min": 1, "more": 2}),
            ("capital_words", {}),
            ("capital_words", {"text": "a", "min": 1}),
            ("paragraph_starts", {"number": 0, "word": "a"}),
            ("paragraph_starts", {"number": 1}),
            ("paragraph_starts", {"number": 1, "word": " "}),
            ("paragraph_starts", {"number": 1.0, "word": "a"}),
            ("paragraph_starts", "a"),
            ("json_keys", []),
            ("json_keys", ["a", 1]),
            ("title", "x"),
        )
    ],
    ("expected", {"expected": "maybe"}),
    ("expected", {"expected": ["refuse"]}),
    ("tests", {"tests": "assert f(1) == 1"}),
    ("tests", {"tests": []}),
    ("tests[0]", {"tests": [7]}),
    ("tests[0]", {"tests": ["f(1) == 1"]}),
    ("tests[0]", {"tests": ["assert f(1"]}),
    ("tests[1]", {"tests": ["assert f(1) == 1", "import os"]}),
    ("tests[0]", {"tests": ["x = f(2)"]}),
    ("tests[0]", {"tests": ["assert " + "(" * 5000]}),
    ("entry_point", {"tests": ["def check(candidate): assert candidate(1)"]}),
    ("entry_point", {"tests": ["assert f(1) == 1"], "entry_point": ["f"]}),
    ("entry_point", {"tests": ["assert f(1) == 1"], "entry_point": "f()"}),
]


@pytest.mark.parametrize("field, row", BAD_ROWS)
def test_bad_rows_are_refused_by_field(field, row):
    with pytest.raises(BadInput, match=re.escape(f"field '{field}': expected ")):
        check_fields(row)
    with pytest.raises(BadInput):
        verify(row, "4")


def test_nothing_hangs():
    """No length or repetition of hostile text takes time: every check on every text within a second or two."""
    texts = [
        (part * MAX_TEXT)[: MAX_TEXT - 1] + end
        for end in ("", "x")
        for part in (
            ".",
            '!"',
            " ",
            "\n",
            "1,",
            "1,234",
            "-",
            "i'm sorry, ",
            "```\n",
            "```sql ",
            "\n\t",
            '"name" :',
            "e.g. ",
            "[",
            '{"a":',
            "a",
            "ich kann ",
            "'",
            "<tool_call>",
            "9",
            "-1e9",
        )
    ]
    row = {
        "answer": ["x", 1],
        "tools": TOOLS,
        "call": CALL,
        "sql": {"setup": SETUP, "rows": [[1]]},
        "expected": "comply",
        "constraints": [
            {"type": "max_sentences", "value": 1},
            {"type": "bullets", "value": 1},
            {"type": "json"},
        ],
    }
    for text in texts:
        start = time.process_time()
        assert verify(row, text)["ok"] is False
        assert time.process_time() - start < 6, text[:20]


def test_what_a_field_got_is_said_where_it_is_known():
    need(True, "answer", "a text")
    with pytest.raises(BadInput, match=r"field 'answer': expected a text$"):
        need(False, "answer", "a text")
    with pytest.raises(BadInput, match=r"field 'answer': expected a text, got 'None'$"):
        need(False, "answer", "a text", None)


def test_the_text_of_a_prompt():
    """Of messages the last that has one."""
    turns = [{"role": "user", "content": text} for text in "ab"]
    call = {"role": "assistant", "content": None, "tool_calls": []}
    for prompt, text in (
        ("a", "a"),
        (turns, "b"),
        ([*turns, call], "b"),
        ([*turns, "c", 7], "b"),
        (None, ""),
        ([call], ""),
    ):
        assert prompt_text(prompt) == text


def test_helpers_of_the_prompt_stand_before_tests_of_candidate_alone():
    """Those that the test speaks of, by their whole names, from the code that has the function."""
    prompt = (
        "```\nimport math\ndef half(x): return x / 2\ndef f(x): return x\n```\n```\ndef g(): 1\n```"
    )
    before = "import math\n\ndef half(x):\n    return x / 2\n"
    for test, changed in (
        ("assert half(candidate(3)) == 3", True),
        ("assert half(f(3)) == 3", False),
        ("assert candidate(3) == 3", False),
        ("assert candidate(3) == halfway", False),
    ):
        assert with_helpers([test], prompt, "f") == [before + test if changed else test], test


def test_no_pattern_of_a_schema_is_left():
    """However deep it stands; properties may have such names."""
    bad = {"pattern": "(a+)+$", "type": "string", "format": "date"}
    good = {"type": "string"}
    schema = {
        "properties": {"pattern": bad, "format": {"properties": {"properties": bad}}},
        "anyOf": [bad, {"items": bad}, True],
        "patternProperties": {"a": bad},
        "$defs": {"pattern": bad},
        "enum": ["pattern"],
    }
    assert without_patterns(schema) == {
        "properties": {"pattern": good, "format": {"properties": {"properties": good}}},
        "anyOf": [good, {"items": good}, True],
        "$defs": {"pattern": good},
        "enum": ["pattern"],
    }


def test_plain_texts_of_values():
    """Equal ones are equal values, whatever the order of what has none."""
    assert plain({3, 1, 2}) == plain(frozenset([2, 3, 1.0])) == "set(1,2,3)"
    assert plain({"b": 1, "a": [True]}) == plain({"a": [True], "b": 1.0})
    assert len({plain(value) for value in (1, True, "1", b"1", None, [1], (1,), {1}, {1: 1})}) == 9
    assert plain(1.5) == "1.5" and plain(-0.0) == "0"
    for value in (math.nan, object(), [math.nan], type("Sub", (int,), {})(1)):
        with pytest.raises(TypeError):
            plain(value)


def test_facts_of_what_is_read(monkeypatch):
    """No more of a text than of any other."""
    text = "Dogs are allowed here. Cats are not allowed here."
    monkeypatch.setattr(checks, "MAX_TEXT", len("Dogs are allowed here. "))
    facts = verify({"evidence": "Dogs are allowed here."}, text)["facts"]
    assert facts == {"support": 1, "contradict": 0, "absent": 0}


def test_a_tool_without_parameters():
    """It takes none."""
    row = {
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "call": {"name": "now", "arguments": {}},
    }
    check_fields(row)
    assert verify(row, '{"name": "now", "arguments": {}}')["ok"] is True
