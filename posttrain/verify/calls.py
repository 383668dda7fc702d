"""The field `call`: the one tool call that an answer makes, or none.

{"name", "arguments"} is the right call, null no call but some text, "grounded" some call that fits
the schema of its tool and makes up no id, date or number (grounding.py). `tools` beside it has
the definitions, in JSON Schema.
"""

import functools
import json
import re

import jsonschema
import referencing

from posttrain.verify.grounding import invented, spoken
from posttrain.verify.values import Verdict, need, plain, strict_json

LONGEST_ARGUMENTS = 10_000  # characters of JSON, for a grounded call
# Words of JSON Schema with regular expressions in them: hostile text could keep those busy for ever.
PATTERN_WORDS = ("pattern", "patternProperties", "format")
# Words of JSON Schema under which the keys are names of the user's.
NAME_WORDS = ("properties", "$defs", "definitions")
# Words of JSON Schema by which an object may have more properties than those named beside them.
OPEN_WORDS = {"patternProperties", "$ref", "allOf", "anyOf", "oneOf"}

TOOL_SHAPE = '{"type": "function", "function": {"name", "description", "parameters": JSON schema}}'


# ---- the prompt record -----------------------------------------------------------------------------


def check_tools(row):
    """Refuse malformed `tools` of a record, and a record that has a call and no tools."""
    tools = row.get("tools")
    if tools is None and "call" not in row:
        return
    need(isinstance(tools, list), "tools", "a list of tool definitions")
    for number, tool in enumerate(tools):
        field = f"tools[{number}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        is_function = isinstance(function, dict) and isinstance(function.get("name"), str)
        need(is_function, field, TOOL_SHAPE)
        why = schema_error(function.get("parameters", {}))
        need(not why, field, f'"parameters" to be a JSON schema ({why})')


def schemas_of(tools):
    """{name of a tool: JSON schema of its arguments}."""
    functions = [tool["function"] for tool in tools]
    return {function["name"]: function.get("parameters", {}) for function in functions}


def call_shape(row, field):
    tools = row["tools"]  # well-formed: check_tools came before
    call = row[field]
    if call == "grounded":
        has_messages = isinstance(row.get("prompt"), list)
        need(tools and has_messages, field, 'tools and messages beside "grounded"')
    elif call is not None:
        schemas = schemas_of(tools)
        need(
            is_call(call) and call["name"] in schemas,
            field,
            'null, "grounded" or {"name": a tool\'s, "arguments": object}',
        )
        why = schema_error(schemas[call["name"]], call["arguments"])
        need(not why, field, f"arguments that fit the tool's own schema ({why})")


def schema_error(schema, *values):
    """Why one of the values does not fit a JSON schema (Draft 2020-12), or why it is none; or "".

    Never fetches a remote reference.
    """
    return cached_schema_error(json.dumps([schema, *values]))


@functools.lru_cache(4096)
def cached_schema_error(texts):
    """schema_error of the JSON text of [schema, value, ...]."""
    schema, *values = json.loads(texts)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        checker = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        for value in values:
            for error in checker.iter_errors(value):
                return error.message[:100]
    except (
        jsonschema.SchemaError,
        referencing.exceptions.Unresolvable,
        RecursionError,
        OverflowError,
        re.error,
    ) as error:
        return str(getattr(error, "message", error))[:100]
    return ""


# ---- the call of an answer -------------------------------------------------------------------------


def is_call(value):
    """Is this {"name": string, "arguments": object} and nothing else?"""
    return (
        isinstance(value, dict)
        and set(value) == {"name", "arguments"}
        and isinstance(value["name"], str)
        and isinstance(value["arguments"], dict)
    )


def parse_call(message):
    """The one tool call of an assistant message, {"name", "arguments"}; None when there is none.

    It may stand in the field `tool_calls`, or in the text: bare JSON, in <tool_call> tags or in a
    ```json fence. ValueError: a call is tried, but not alone or not well-formed.
    """
    text = message["content"].strip()
    tool_calls = message.get("tool_calls") or None
    if tool_calls is not None:
        call = None if tries_a_call(text) else field_call(tool_calls)
    elif tries_a_call(text):
        call = text_call(text)
    else:
        return None
    if not is_call(call):
        raise ValueError('not {"name": string, "arguments": object}')
    return call


def tries_a_call(text):
    """Does a text look as if it wanted to call a tool?"""
    if "<tool_call>" in text:
        return True
    return bool(re.search(r'"name"\s*:', text) and re.search(r'"arguments"\s*:', text))


def text_call(text):
    """The JSON of a text that is a call and nothing else; ValueError when it is none."""
    fence = r"(?:<tool_call>|```(?:json)?\s)(.*)(?:</tool_call>|```)"
    wrapped = re.fullmatch(fence, text, re.DOTALL)
    return strict_json(wrapped[1] if wrapped else text)


def field_call(tool_calls):
    """The call of a message's `tool_calls`, {"name", "arguments"}; None unless it is just one."""
    call = tool_calls[0] if isinstance(tool_calls, list) and len(tool_calls) == 1 else None
    if isinstance(call, dict):
        call = call.get("function", call)
    if not isinstance(call, dict):
        return None
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        arguments = strict_json(arguments)
    return {"name": call.get("name"), "arguments": arguments}


# ---- the verdict -----------------------------------------------------------------------------------


def call_verdict(answer, call):
    if call == "grounded":
        conversation = spoken(answer.row["prompt"])
        why = why_not_grounded(answer.message, answer.row["tools"], conversation)
        return Verdict(not why, why)
    return Verdict(check_call(answer.message, call))


def check_call(message, call):
    """Does a message make exactly the expected call, or, for None, no call but say something?

    1 equals 1.0, true does not equal 1. Equal arguments fit the tool's schema, because call_shape
    has seen that the expected ones do: no regular expression of a schema ever meets hostile text.
    """
    try:
        made = parse_call(message)
        if made is None and call is None:
            return bool(message["content"].strip())
        return plain(made) == plain(call)
    except (ValueError, RecursionError):
        return False


def why_not_grounded(message, tools, conversation):
    """Why a message is no grounded call; "" when it is one.

    Grounded: one call to one of the tools, whose arguments fit the schema and whose ids, dates and
    numbers come from the conversation (a text). An argument that the schema does not name is made
    up. Regular expressions of a schema are not tried on hostile text.
    """
    try:
        call = parse_call(message)
    except (ValueError, RecursionError):
        call = None
    schemas = schemas_of(tools)
    if call is None or call["name"] not in schemas:
        return "expected one call to a tool on offer"

    arguments, schema = call["arguments"], schemas[call["name"]]
    if len(json.dumps(arguments)) > LONGEST_ARGUMENTS:
        return "arguments of more than 10,000 characters"
    if isinstance(schema, dict) and "properties" in schema and not schema.keys() & OPEN_WORDS:
        schema = {"additionalProperties": False} | schema
    why = schema_error(without_patterns(schema), arguments)
    if why:
        return why
    made_up = invented(arguments, schema, conversation)
    return f"made up: {', '.join(made_up)[:80]}" if made_up else ""


def without_patterns(schema, keys_are_names=False):
    """A JSON schema without its regular expressions.

    keys_are_names: the keys of this object are names of properties, not words of JSON Schema.
    """
    if isinstance(schema, list):
        return [without_patterns(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, part in schema.items():
        if keys_are_names or key not in PATTERN_WORDS:
            kept[key] = without_patterns(part, not keys_are_names and key in NAME_WORDS)
    return kept
