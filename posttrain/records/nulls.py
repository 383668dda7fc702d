"""Nulls that a table has put into rows, told from those that somebody meant.

Arrow (the library `datasets`, parquet) gives all rows of a column one type. Where two tools have
different parameters, every call gets the parameters of both, and every schema the keys of both:
those that a row did not have are null. They come out of `datasets` like that, and stand in JSONL
that was exported from it. In a prompt they would tell the model of parameters that its tool does
not have.

So a null goes, unless the tool's own schema allows it for a property that it names. What a table
never adds, an entry of a list, stays.
"""

# Words of JSON Schema under which the keys are names of the user's.
NAME_WORDS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Words of JSON Schema that hold values, not schemas.
VALUE_WORDS = ("default", "const", "example")
VALUE_LISTS = ("enum", "examples")
# Words of JSON Schema with a list of schemas that speak of the same value.
BRANCH_WORDS = ("anyOf", "oneOf", "allOf")

# Types that allow null, also in words of Python.
NULL_TYPES = {"null", "none", "nonetype", "any", ""}

MOST_BRANCHES = 100  # of a schema; a $ref may lead back to where it stands
MOST_REFERENCES = 10  # from one $ref to the next


def is_nothing(value):
    """Does a value say nothing: null, empty, or an object of nulls alone?"""
    if isinstance(value, dict):
        return all(is_nothing(part) for part in value.values())
    return value is None or value == "" or value == []


def without_null_keys(value):
    """A JSON value without its keys that are null, at every depth."""
    if isinstance(value, list):
        return [without_null_keys(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, part in value.items():
        if part is not None:
            kept[key] = without_null_keys(part)
    return kept


# ---- tool definitions ----------------------------------------------------------------------------


def clean_function(function):
    """A function's definition {"name", "description", "parameters"} without a table's nulls."""
    return _clean_schema(function, function.get("parameters"))


def _clean_schema(schema, root):
    """A JSON schema, or an object with schemas in it, without a table's nulls.

    root: the schema that a local $ref starts from.
    """
    if isinstance(schema, list):
        return [_clean_schema(part, root) for part in schema if part is not None]
    if not isinstance(schema, dict):
        return schema
    # Only a table writes the type null: then the other nulls beside it are its own, too.
    keeps_null = allows_null(schema, root, untyped="type" not in schema)
    cleaned = {}
    for word, part in schema.items():
        if part is None and not (word in VALUE_WORDS and keeps_null):
            continue
        if word in NAME_WORDS and isinstance(part, dict):
            cleaned[word] = _clean_properties(part, root)
        elif word in VALUE_WORDS:
            cleaned[word] = _clean_value(part, [schema], root)
        elif word in VALUE_LISTS and isinstance(part, list):
            values = [value for value in part if value is not None or keeps_null]
            cleaned[word] = [_clean_value(value, [schema], root) for value in values]
        else:
            cleaned[word] = _clean_schema(part, root)
    return cleaned


def _clean_properties(schemas, root):
    """{name of the user's: schema} without the names that other tools have brought."""
    cleaned = {}
    for name, schema in schemas.items():
        if schema is not None:
            cleaned[name] = _clean_schema(schema, root)
    return cleaned


# ---- arguments -----------------------------------------------------------------------------------


def clean_arguments(arguments, schema):
    """Arguments of a tool call without a table's nulls.

    schema: that of the tool's parameters; None for an unknown tool, whose nulls all go.
    """
    return _clean_value(arguments, [schema], schema)


def _clean_value(value, schemas, root):
    """A value without the null keys that none of its schemas allows."""
    if isinstance(value, list):
        items = [branch.get("items") for branch in _branches(schemas, root)]
        return [_clean_value(entry, items, root) for entry in value]
    if not isinstance(value, dict):
        return value
    branches = _branches(schemas, root)
    cleaned = {}
    for key, part in value.items():
        of_key = _property_schemas(branches, key)
        if part is not None or any(allows_null(schema, root) for schema in of_key):
            cleaned[key] = _clean_value(part, of_key, root)
    return cleaned


def _property_schemas(branches, key):
    """The schemas that name this property."""
    schemas = []
    for branch in branches:
        properties = branch.get("properties")
        if isinstance(properties, dict) and properties.get(key) is not None:
            schemas.append(properties[key])
    return schemas


def allows_null(schema, root, untyped=True):
    """May a value under this schema be null? untyped: the answer for a schema that names no type.

    root: the schema that a local $ref starts from.
    """
    verdict = _verdict_on_null(_resolve(schema, root), untyped)
    if verdict is not None:
        return verdict
    branches = _branches([schema], root)[1:]
    return any(_verdict_on_null(branch, untyped) for branch in branches)


def _verdict_on_null(schema, untyped):
    """Does a schema by itself allow null? None: its branches say."""
    if not isinstance(schema, dict):
        return schema is not False
    if schema.get("nullable") is True:
        return True
    kinds = schema.get("type")
    if kinds is not None:
        words = kinds if isinstance(kinds, list) else [kinds]
        return any(str(word).lower() in NULL_TYPES for word in words)
    values = schema.get("enum")
    if isinstance(values, list):
        return None in values
    if schema.get("const") is not None:
        return False
    if any(schema.get(word) for word in BRANCH_WORDS):
        return None
    return untyped


def _branches(schemas, root):
    """These schemas and those of their anyOf, oneOf and allOf, at every depth; no references."""
    branches = []
    todo = list(schemas)
    while todo and len(branches) < MOST_BRANCHES:
        schema = _resolve(todo.pop(0), root)
        if not isinstance(schema, dict):
            continue
        branches.append(schema)
        for word in BRANCH_WORDS:
            parts = schema.get(word)
            if isinstance(parts, list):
                todo += parts
    return branches


def _resolve(schema, root):
    """The schema that a local $ref (#/$defs/NAME) leads to; without one the schema itself."""
    for _ in range(MOST_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        schema = root
        for name in reference.removeprefix("#/").split("/"):
            schema = schema.get(name) if isinstance(schema, dict) else None
    return schema
