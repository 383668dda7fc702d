"""What the readers of tool calls share: a call from its parts, in JSON, in Python's syntax."""

import re
from typing import NamedTuple

from posttrain.chat.scan import NAME, read_arguments
from posttrain.chat.schemas import field_schema, parameters_of, typed_value


class Reading(NamedTuple):
    """What an answer says and calls."""

    prose: str  # the text before the calls and behind them, all of it without any, stripped
    calls: list  # [{"name": str, "arguments": dict}, ...]


def call_of(name, arguments):
    if not isinstance(name, str) or not CALL_NAME.fullmatch(name.strip()):
        raise ValueError("a call without a name")
    if not isinstance(arguments, dict):
        raise ValueError("arguments that are no object")
    return {"name": name.strip(), "arguments": arguments}


# A name begins and ends with a letter, a digit or _.
CALL_NAME = re.compile(r"\w(?:.*\w)?")


def tag_name(text):
    """The name of a tool or of an argument between marks; it has neither space nor quotes."""
    name = text.strip()
    if not TAG_NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} is no name")
    return name


TAG_NAME = re.compile(r"[^\s<>{}()\[\]\"'`,;=|]+")


def typed_arguments(name, pairs, functions):
    """The arguments of a call to `name` from pairs of a key and a text."""
    parameters = parameters_of(functions.get(name, {}))
    arguments = {}
    for key, text in pairs:
        if key in arguments:
            raise ValueError(f"the argument {key} twice")
        arguments[key] = typed_value(text, field_schema(parameters, key))
    return arguments


# Keys that a call in JSON may have: its name, its arguments, and what says nothing.
NAME_KEYS = ("name", "tool_name")
ARGUMENTS_KEYS = ("arguments", "parameters")
OTHER_KEYS = ("id", "tool_call_id", "type")


def json_call(value):
    """The call of {"name", "arguments"}, with the words that models have for these keys."""
    if isinstance(value, dict) and set(value) <= {"type", "function", "id"} and "function" in value:
        value = value["function"]
    if not isinstance(value, dict):
        raise ValueError("a call that is no object")
    if set(value) - {*NAME_KEYS, *ARGUMENTS_KEYS, *OTHER_KEYS}:
        raise ValueError("a call with keys that no call has")
    if not all(isinstance(value.get(key, ""), str) for key in OTHER_KEYS):
        raise ValueError("an id that is no text")
    if value.get("type", "function") != "function":
        raise ValueError("a call of another type")
    names = [value[key] for key in NAME_KEYS if key in value]
    arguments = [value[key] for key in ARGUMENTS_KEYS if key in value]
    if len(names) != 1 or len(arguments) != 1:
        raise ValueError("a call without one name and one set of arguments")
    return call_of(names[0], arguments[0])


def value_calls(value):
    """The calls of a JSON value: of one, or of a list."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("an empty list of calls")
    return [json_call(item) for item in values]


def json_calls(scan):
    """The calls of the JSON that stands here: one, a list, or several behind each other."""
    calls = value_calls(scan.json())
    while scan.matches(BETWEEN):
        calls += value_calls(scan.json())
    return calls


# What may stand between two calls in JSON.
BETWEEN = re.compile(r"[\s;]*(?=[{\[])")


def json_object(scan):
    value = scan.json()
    if not isinstance(value, dict):
        raise ValueError("arguments that are no object")
    return value


def python_call(scan):
    """f(a=1, b='x') -> the call."""
    name = scan.space().matches(NAME)
    if not name:
        raise ValueError("a call without a name")
    scan.expects("(")
    return call_of(name[0], read_arguments(scan))


def python_list(scan):
    """[f(a=1), g()] -> the calls."""
    scan.expects("[")
    calls = [python_call(scan)]
    while not scan.space().takes("]"):
        scan.expects(",")
        if scan.space().takes("]"):
            break
        calls.append(python_call(scan))
    return calls


def python_calls(scan, end=""):
    """Calls as a list or behind each other, up to the mark `end` or the end of the text."""
    calls = []
    while not scan.space().at_end() and not (end and scan.sees(end)):
        if scan.sees("["):
            calls += python_list(scan)
        else:
            calls.append(python_call(scan))
        scan.matches(SEMICOLONS)
    if not calls:
        raise ValueError("no call between the marks")
    return calls


SEMICOLONS = re.compile(r"[\s;,]*")
