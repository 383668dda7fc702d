"""The field `call`: the tool calls that an answer makes, or none.

    null, or []                  no call, but some text
    {"name", "arguments"}        this call. With "accepted": {argument: [further values]}, and
                                 "optional": [arguments that may be left out]
    [call, call, ...]            all of these calls, in any order
    {"in_order": [call, ...]}    all of these calls, in this order
    "grounded"                   a call that fits the schema of its tool and makes up no id, date or
                                 number (grounding.py)

`tools` beside it has the definitions, in JSON Schema; of its types, words of other languages are
understood ("str", "dict", "float"). An answer's calls are read in every format that models write
(posttrain/chat/calls.py); one that is tried and malformed is never right.
"""

import functools
import json
import re

from posttrain.chat.calls import message_calls
from posttrain.chat.schemas import NAME_WORDS, functions_of, parameters_of, standard
from posttrain.verify.grounding import invented, spoken
from posttrain.verify.values import Verdict, need, plain

LONGEST_ARGUMENTS = 10_000  # characters of JSON, for a grounded call
# Words of JSON Schema with regular expressions, which hostile text could keep busy for ever.
PATTERN_WORDS = ("pattern", "patternProperties", "format")
# Words of JSON Schema by which an object may have more properties than those named beside them.
OPEN_WORDS = {"patternProperties", "$ref", "allOf", "anyOf", "oneOf"}

TOOL_SHAPE = '{"type": "function", "function": {"name", "description", "parameters": JSON schema}}'


CALL_SHAPE = '{"name": a tool\'s, "arguments": object}'

# ---- the prompt record ---------------------------------------------------------------------------


def check_tools(row):
    """Refuse malformed `tools` of a record, and a record that has calls to make and no tools."""
    tools = row.get("tools")
    if tools is None:
        need(not row.get("call"), "tools", "a list of tool definitions beside `call`")
        return
    need(isinstance(tools, list), "tools", "a list of tool definitions")
    for number, tool in enumerate(tools):
        field = f"tools[{number}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        is_function = isinstance(function, dict) and isinstance(function.get("name"), str)
        need(is_function, field, TOOL_SHAPE)
        why = schema_error(parameters_of(function))
        need(not why, field, f'"parameters" to be a JSON schema ({why})')


def schemas_of(tools):
    """{name of a tool: JSON schema of its arguments}."""
    return {name: parameters_of(function) for name, function in functions_of(tools).items()}


def call_shape(row, field):
    call = row[field]
    tools = row.get("tools")  # well-formed: check_tools came before
    if call == "grounded":
        has_messages = isinstance(row.get("prompt"), list)
        need(tools and has_messages, field, 'tools and messages beside "grounded"')
        for name, schema in schemas_of(tools).items():
            why = reference_error(schema)
            need(not why, "tools", f"every $ref of {name} to lead somewhere ({why})")
        return
    if isinstance(call, dict) and "in_order" in call:
        is_list = isinstance(call["in_order"], list) and bool(call["in_order"])
        need(is_list and len(call) == 1, field, '{"in_order": [calls]} and nothing beside it', call)
    is_known = call is None or isinstance(call, list | dict)
    need(is_known, field, f'null, "grounded", {CALL_SHAPE}, a list of such or {{"in_order"}}', call)
    schemas = schemas_of(tools)
    for expected in expected_calls(call):
        check_expected(expected, schemas, field)


def expected_calls(call):
    """The calls that a value of the field expects, as a list."""
    if call is None:
        return []
    if isinstance(call, dict):
        return call.get("in_order", [call])
    return call


def check_expected(expected, schemas, field):
    """Refuse an expected call that no answer could make."""
    shape = f'{CALL_SHAPE}, perhaps with "accepted" and "optional"'
    need(isinstance(expected, dict), field, shape, expected)
    keys = {"name", "arguments"}
    is_whole = keys <= expected.keys() <= keys | {"accepted", "optional"}
    need(is_whole and isinstance(expected["arguments"], dict), field, shape, expected)
    name, arguments = expected["name"], expected["arguments"]
    is_tool = isinstance(name, str) and name in schemas
    need(is_tool, field, f"the name of one of the tools ({', '.join(schemas) or 'none'})", name)
    why = schema_error(schemas[name], arguments)
    need(not why, field, f"arguments that fit the tool's own schema ({why})")

    optional = expected.get("optional", [])
    is_list = isinstance(optional, list)
    are_names = is_list and all(isinstance(key, str) and key in arguments for key in optional)
    need(are_names, field, '"optional" to be a list of arguments of this call', optional)
    least = {key: value for key, value in arguments.items() if key not in optional}
    why = schema_error(schemas[name], least)
    need(not why, field, f'"optional" arguments that the tool\'s schema does not require ({why})')
    accepted = expected.get("accepted", {})
    is_object = isinstance(accepted, dict)
    need(is_object, field, '"accepted" to be {argument: [values]}', accepted)
    for key, values in accepted.items():
        is_list = key in arguments and isinstance(values, list)
        need(is_list, field, '"accepted" to have a list of values for arguments of this call', key)
        why = schema_error(schemas[name], *[arguments | {key: value} for value in values])
        need(not why, field, f'"accepted" values that fit the tool\'s own schema ({why})')


def schema_error(schema, *values):
    """Why one of the values does not fit a JSON schema (Draft 2020-12), or why it is none; or "".

    Types in words of other languages are understood. Never fetches a remote reference.
    """
    return cached_schema_error(json.dumps([schema, *values]))


@functools.lru_cache(4096)
def cached_schema_error(texts):
    """schema_error of the JSON text of [schema, value, ...]."""
    import jsonschema  # few prompts have tools
    import referencing

    schema, *values = json.loads(texts)
    try:
        schema = standard(schema)
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


def reference_error(schema):
    """Why a "$ref" of a JSON schema leads nowhere; "" when all lead somewhere inside it.

    A schema says so only when a value is held against that place: too late, if it is a model's.
    """
    import referencing
    import referencing.jsonschema

    resource = referencing.jsonschema.DRAFT202012.create_resource(standard(schema))
    address = resource.id() or ""
    resolver = referencing.Registry().with_resource(address, resource).resolver(address)
    for reference in references_in(resource):
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable as error:
            return str(error)[:100]
    return ""


def references_in(resource):
    """The texts of every "$ref" in a JSON schema, a referencing.Resource."""
    schema = resource.contents
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        yield schema["$ref"]
    for part in resource.subresources():
        yield from references_in(part)


# ---- the verdict ---------------------------------------------------------------------------------


def call_verdict(answer, call):
    tools = answer.row.get("tools")
    if call == "grounded":
        conversation = spoken(answer.row["prompt"])
        why = why_not_grounded(answer.message, tools, conversation)
        return Verdict(not why, why)
    return Verdict(check_call(answer.message, call, tools))


def check_call(message, call, tools=None):
    """Does a message make exactly the expected calls, or, for none, no call but say something?

    1 equals 1.0, true does not equal 1. Equal arguments fit the tool's schema, because call_shape
    has seen that the expected ones do: no regular expression of a schema ever meets hostile text.
    """
    expected = expected_calls(call)
    try:
        reading = message_calls(message, tools)
        if not expected:
            return not reading.calls and bool(reading.prose)
        if len(reading.calls) != len(expected):
            return False
        if isinstance(call, dict):
            return all(fits(made, right) for made, right in zip(reading.calls, expected))
        return can_be_paired(reading.calls, expected)
    except (ValueError, RecursionError):
        return False


def fits(made, right):
    """Is this call the right one?"""
    arguments = made["arguments"]
    missing = right["arguments"].keys() - arguments.keys() - set(right.get("optional", []))
    if made["name"] != right["name"] or missing or arguments.keys() - right["arguments"].keys():
        return False
    for key, value in arguments.items():
        values = [right["arguments"][key], *right.get("accepted", {}).get(key, [])]
        if plain(value) not in [plain(choice) for choice in values]:
            return False
    return True


def can_be_paired(calls, expected):
    """Can each call be given an expected one that it fits, and each of them to one call only?"""
    targets = []  # for each call, the places of the expected ones that it fits
    for made in calls:
        targets.append([place for place, right in enumerate(expected) if fits(made, right)])
    holders = {}  # {place of an expected call: the call that holds it}
    return all(find_target(number, targets, holders, set()) for number in range(len(calls)))


def find_target(number, targets, holders, tried):
    """Give a call an expected one; a call that holds it already moves on to another, if it can.

    tried: places that were looked at on the way here.
    """
    for target in targets[number]:
        if target in tried:
            continue
        tried.add(target)
        if target not in holders or find_target(holders[target], targets, holders, tried):
            holders[target] = number
            return True
    return False


def why_not_grounded(message, tools, conversation):
    """Why a message is no grounded call; "" when it is one.

    Grounded: one call to one of the tools, whose arguments fit the schema and whose ids, dates and
    numbers come from the conversation (a text). An argument that the schema does not name is made
    up. Regular expressions of a schema are not tried on hostile text.
    """
    try:
        calls = message_calls(message, tools).calls
    except ValueError:
        calls = []
    schemas = schemas_of(tools)
    if len(calls) != 1 or calls[0]["name"] not in schemas:
        return "expected one call to a tool on offer"

    arguments, schema = calls[0]["arguments"], schemas[calls[0]["name"]]
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
