"""The JSON schemas of tools: words of other languages for types, and values that come as text."""

from posttrain.chat.scan import Scan, read_literal, strict_json

# What people write as "type" in tool definitions -> the word of JSON Schema; "": any type.
DIALECT = {
    "dict": "object",
    "map": "object",
    "hashmap": "object",
    "hashtable": "object",
    "float": "number",
    "double": "number",
    "int": "integer",
    "long": "integer",
    "short": "integer",
    "byte": "integer",
    "bigint": "integer",
    "bool": "boolean",
    "str": "string",
    "char": "string",
    "tuple": "array",
    "list": "array",
    "arraylist": "array",
    "set": "array",
    "queue": "array",
    "stack": "array",
    "any": "",
    "": "",
    "none": "null",
    "nonetype": "null",
}
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
TYPE_OF_VALUE = {
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}

# Words of JSON Schema under which the keys are names of the user's.
NAME_WORDS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
# Words of JSON Schema under which values stand, and no schemas.
VALUE_WORDS = ("enum", "const", "default", "examples")

# The words of Python and of JSON for what is no text.
PLAIN_WORDS = {"True": True, "true": True, "False": False, "false": False}
NULL_WORDS = {"None": None, "null": None}


# ---- schemas -------------------------------------------------------------------------------------


def functions_of(tools):
    """{name: the "function" of its definition}, of what is well-formed in a list of tools."""
    functions = {}
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    return functions


def parameters_of(function):
    """The JSON schema of a function's arguments."""
    parameters = function.get("parameters")
    return {} if parameters is None else parameters


def standard_type(word):
    """The word of JSON Schema for a type; "" for any; what is unknown stays as it is."""
    if not isinstance(word, str):
        return word
    small = word.lower()
    return small if small in TYPES else DIALECT.get(small, word)


def standard(schema, keys_are_names=False):
    """A JSON schema whose types are words of JSON Schema.

    keys_are_names: the keys of this object are names of properties, not words of JSON Schema.
    """
    if isinstance(schema, list):
        return [standard(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, part in schema.items():
        if keys_are_names:
            kept[key] = standard(part)
        elif key in VALUE_WORDS:
            kept[key] = part
        elif key != "type":
            kept[key] = standard(part, key in NAME_WORDS)
        else:
            kept |= standard_types(part)
    return kept


def standard_types(types):
    """{"type": the same in words of JSON Schema}; {} where any type will do."""
    if not isinstance(types, list):
        word = standard_type(types)
        return {} if word == "" else {"type": word}
    words = [standard_type(word) for word in types]
    unique = [word for place, word in enumerate(words) if word not in words[:place]]
    return {} if "" in unique else {"type": unique}


def field_schema(parameters, name):
    """The JSON schema of an argument; {} where there is none."""
    if not isinstance(parameters, dict):
        return {}
    properties = parameters.get("properties")
    field = properties.get(name) if isinstance(properties, dict) else None
    if field is None:
        field = parameters.get("additionalProperties")
    reference = field.get("$ref") if isinstance(field, dict) else None
    if isinstance(reference, str) and reference.startswith("#/"):
        field = parameters
        for step in reference.split("/")[1:]:
            field = field.get(step) if isinstance(field, dict) else None
    return field if isinstance(field, dict) else {}


def types_of(field):
    """The types that a schema allows, in words of JSON Schema; none: it does not say."""
    values = as_list(field.get("enum"))
    if values:
        return {TYPE_OF_VALUE.get(type(value), "string") for value in values}
    types = field.get("type", [])
    words = [standard_type(word) for word in (types if isinstance(types, list) else [types])]
    allowed = {word for word in TYPES if word in words}
    for part in [*as_list(field.get("anyOf")), *as_list(field.get("oneOf"))]:
        if isinstance(part, dict):
            allowed |= types_of(part)
    return allowed


def as_list(value):
    return value if isinstance(value, list) else []


# ---- values that come as text --------------------------------------------------------------------


def typed_value(text, field):
    """The value of an argument that was written without quotes, as its JSON schema has it.

    A string stays as it is: "75001" is no number. Without a schema it is JSON if it can be.
    ValueError: the schema wants no string, and this is neither JSON nor a value in Python's words.
    """
    types = types_of(field)
    bare = text.strip()
    if "string" in types:
        return None if "null" in types and bare in NULL_WORDS else text
    words = PLAIN_WORDS | NULL_WORDS
    if bare in words:
        return words[bare]
    try:
        return strict_json(bare)
    except ValueError:
        if not types:
            return text
    scan = Scan(bare)
    value = read_literal(scan)
    if not scan.space().at_end():
        raise ValueError("text behind a value")
    return value
