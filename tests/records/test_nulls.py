"""Nulls: those that a table puts where other rows have a value go, those that somebody meant stay."""

import json

import pytest
from conftest import write

from posttrain.records.files import read_records
from posttrain.records.layouts import normalise
from posttrain.records.nulls import allows_null, clean_arguments, clean_function
from posttrain.verify.checks import check_fields

CITY = {"type": "string", "enum": ["Rome", "Oslo"]}
WEATHER = {
    "type": "object",
    "properties": {
        "city": CITY,
        "when": {"type": "object", "properties": {"day": {"type": "string"}}},
    },
    "required": ["city"],
}
SCALE = {
    "type": "object",
    "properties": {"recipe": {"type": "string"}, "factor": {"type": "number", "default": 2.0}},
    "required": ["recipe", "factor"],
}


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("weather", WEATHER), tool("scale", SCALE)]
CALLS = [
    {"name": "weather", "arguments": {"city": "Rome", "when": {"day": "Mon"}}},
    {"name": "scale", "arguments": {"recipe": "bread", "factor": 2.0}},
]


def chat(call, more):
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": call}]}
    return {"messages": [{"role": "user", "content": "Do it."}, message], "tools": TOOLS} | more


ROWS = [
    chat(CALLS[0], {"call": CALLS[0], "sql": None, "answer": "sunny"}),
    chat(CALLS[1], {"call": CALLS[1], "sql": {"setup": "", "rows": [[None]], "ordered": True}}),
    chat(CALLS[0], {"call": None, "constraints": [{"type": "paragraphs", "value": {"max": 1}}]}),
]


@pytest.mark.parametrize("form", ["folder", "parquet", "file", "jsonl"])
def test_rows_of_a_table_read_as_they_were(tmp_path, form):
    """Through Arrow every call has the arguments of both tools, every schema the words of both."""
    datasets = pytest.importorskip("datasets")
    columns = dict.fromkeys(key for row in ROWS for key in row)
    data = datasets.Dataset.from_list([columns | row for row in ROWS])
    assert data[0]["tools"][0]["function"]["parameters"]["properties"]["recipe"] is None
    assert data[0]["call"]["arguments"]["factor"] is None
    name = f"hf:{tmp_path / 'set'}"
    if form == "folder":
        data.save_to_disk(tmp_path / "set")
    elif form in ("parquet", "file"):
        data.to_parquet(tmp_path / "set" / "train.parquet")
        name += "/train.parquet" if form == "file" else ""
    else:
        name = tmp_path / "set.jsonl"
        data.to_json(name)
    plain = write(tmp_path / "plain.jsonl", ROWS)
    for kind in ("sft", "prompts"):
        tabled = read_records(name, kind)
        for record, expected in zip(tabled, read_records(plain, kind), strict=True):
            for field in ("prompt", "completion", "tools", "answer", "constraints"):
                assert record.get(field) == expected.get(field)
            assert record["call"] == expected["call"]
            assert record.get("sql") == expected.get("sql")
    assert "answer" not in tabled[1] and tabled[2]["call"] is None, "null: no call is right"
    assert tabled[1]["sql"]["rows"] == [[None]]


def test_null_columns_of_a_row_without_tools(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "Hi", "tools": TOOLS, "call": CALLS[0]}, {"prompt": "Hi", "answer": "Yo"}]
    data = datasets.Dataset.from_list(
        [dict.fromkeys(["prompt", "tools", "call", "answer"]) | r for r in rows]
    )
    data.save_to_disk(tmp_path / "set")
    data.to_json(tmp_path / "set.jsonl")
    for name in (f"hf:{tmp_path / 'set'}", tmp_path / "set.jsonl"):
        records = read_records(name, "prompts")
        assert records[0]["call"] == CALLS[0] and "answer" not in records[0]
        assert "call" not in records[1] and records[1]["answer"] == "Yo"
    assert normalise({"prompt": "Hi", "call": None}, "prompts")["call"] is None


RECIPE = {"name": "scale", "arguments": {"recipe": "bread", "factor": 2.0}}
CITY_CALL = {"name": "weather", "arguments": {"city": "Rome"}}
ROME = CITY_CALL | {"accepted": {"city": ["Oslo", "Rome"]}}
BREAD = RECIPE | {"accepted": {"factor": [2, 3]}, "optional": ["factor"]}


@pytest.mark.parametrize(
    "calls",
    [
        [ROME, BREAD, None],
        [[CITY_CALL, RECIPE], [RECIPE], None, []],
        [[ROME, BREAD], [BREAD], [RECIPE]],
        [{"in_order": [CITY_CALL, RECIPE]}, RECIPE, {"in_order": [BREAD]}],
    ],
    ids=["one", "lists", "lists of more", "in order"],
)
def test_expected_calls_of_a_table_read_as_they_were(tmp_path, calls):
    """Of every form: a list, an order, further accepted values."""
    datasets = pytest.importorskip("datasets")
    tools = [tool("weather", WEATHER), tool("scale", SCALE | {"required": ["recipe"]})]
    rows = [{"prompt": "Do it.", "tools": json.dumps(tools), "call": call} for call in calls]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "set")
    data.to_json(tmp_path / "set.jsonl")
    for name in (f"hf:{tmp_path / 'set'}", tmp_path / "set.jsonl"):
        read = read_records(name, "prompts", check=check_fields)
        assert [record["call"] for record in read] == calls


def test_accepted_values_keep_what_is_meant():
    """A null in a list is somebody's; one inside an object is a table's."""
    accepted = {"when": [{"day": "Mon", "hour": None}, None], "factor": None}
    call = {"name": "weather", "arguments": {"city": "Rome"}, "accepted": accepted}
    read = normalise({"prompt": "Hi", "tools": TOOLS, "call": call}, "prompts")["call"]
    assert read["accepted"] == {"when": [{"day": "Mon"}, None]}


def test_pairs_whose_columns_have_other_nulls():
    """The prompt and the answers that repeat it come from columns of different types."""
    user = {"role": "user", "content": "Do it."}
    result = {"role": "tool", "content": "Done."}

    def turn(arguments):
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "f", "arguments": arguments}],
        }

    answers = [{"role": "assistant", "content": text} for text in ("Yes.", "No.")]
    padded = [user, turn({"a": 1, "b": None}), result]
    row = {
        "chosen": [*padded, answers[0]],
        "rejected": [user, turn({"a": 1}), result, answers[1]],
    }
    record = normalise(row, "pairs")
    assert record["prompt"] == normalise({"prompt": padded}, "prompts")["prompt"]
    assert record["chosen"] == answers[:1]
    assert normalise(row | {"prompt": [user, turn({"c": None, "a": 1}), result]}, "pairs") == record


# ---- which nulls are meant -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "allowed"),
    [
        ({"type": "string"}, False),
        ({"type": "null"}, True),
        ({"type": ["string", "null"]}, True),
        ({"type": ["string", "integer"]}, False),
        ({"type": ["str", "None"]}, True),
        ({"type": "NoneType"}, True),
        ({"type": "any"}, True),
        ({"type": "dict"}, False),
        ({"type": "string", "nullable": True}, True),
        ({"type": "string", "nullable": False}, False),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
        ({"oneOf": [{"type": "string"}, {"anyOf": [{"type": "null"}]}]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, False),
        ({"allOf": [{"type": "string"}]}, False),
        ({"enum": ["a", None]}, True),
        ({"enum": ["a"]}, False),
        ({"type": "string", "enum": ["a", None]}, False),
        ({"const": None}, True),
        ({"const": "a"}, False),
        ({"$ref": "#/$defs/name"}, False),
        ({"$ref": "#/$defs/maybe"}, True),
        ({"$ref": "#/$defs/loop"}, False),
        ({"$ref": "#/$defs/self"}, False),
        ({"$ref": "https://example.org/x"}, True),
        ({"description": "anything"}, True),
        ({}, True),
        (True, True),
        (False, False),
    ],
)
def test_a_null_that_the_tools_schema_allows_stays(schema, allowed):
    definitions = {
        "name": {"type": "string"},
        "maybe": {"type": ["string", "null"]},
        "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "string"}]},
        "self": {"$ref": "#/$defs/self", "type": "string"},
    }
    parameters = {"type": "object", "properties": {"x": schema, "y": {}}, "$defs": definitions}
    assert allows_null(schema, parameters) == allowed
    expected = {"x": None} if allowed else {}
    assert clean_arguments({"x": None, "z": None}, parameters) == expected
    # The same inside an object in a list.
    inside = {"type": "object", "properties": {"xs": {"type": "array", "items": parameters}}}
    inside["$defs"] = definitions
    assert clean_arguments({"xs": [{"x": None, "z": None}]}, inside) == {"xs": [expected]}


def test_arguments_keep_the_entries_of_lists_and_other_values():
    arguments = {"a": [1, None, {"b": None}], "c": 0, "d": "", "e": {"f": None}, "g": None}
    assert clean_arguments(arguments, None) == {"a": [1, None, {}], "c": 0, "d": "", "e": {}}
    branch = {
        "anyOf": [{"type": "object", "properties": {"f": {"type": "null"}}}, {"type": "null"}]
    }
    schema = {"type": "object", "properties": {"e": branch}}
    assert clean_arguments({"e": {"f": None}}, schema) == {"e": {"f": None}}


def test_calls_follow_the_schema_of_their_own_tool():
    tools = [
        tool("set", {"properties": {"until": {"type": ["string", "null"]}}}),
        tool("get", None),
    ]
    calls = []
    for name in ("set", "get", "unknown"):
        calls.append({"name": name, "arguments": {"until": None}})
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    row = {"prompt": "Hi", "completion": [answer], "tools": tools}
    for given in (tools, json.dumps(tools)):
        record = normalise(row | {"tools": given, "call": calls[0]}, "sft")
        read = [call["function"]["arguments"] for call in record["completion"][0]["tool_calls"]]
        assert read == [{"until": None}, {}, {}] and record["call"] == calls[0]
    record = normalise(row | {"call": calls[1]}, "sft")
    assert record["call"] == {"name": "get", "arguments": {}}
    record = normalise(row | {"call": {"name": "get", "arguments": None, "x": None}}, "sft")
    assert record["call"] == {"name": "get", "arguments": {}}
    assert "parameters" not in record["tools"][1]["function"]


def test_schemas_lose_what_a_table_has_added():
    padded = {"type": "string", "enum": None, "default": None, "const": None, "properties": None}
    function = {
        "name": "f",
        "description": None,
        "parameters": {
            "type": "object",
            "properties": {
                "a": padded,
                "b": None,
                "const": None,
                "default": {"type": "integer", "description": None},
                "enum": None,
                "maybe": padded | {"type": ["string", "null"], "enum": ["x", None]},
                "any": padded | {"type": None, "description": "anything"},
                "bare": {"default": None},
                "no": {"type": "string", "enum": ["x", None], "examples": [None, "y"]},
                "object": {"type": "object", "default": {"a": None, "b": 1}},
            },
            "anyOf": [{"required": ["a"], "properties": None}],
        },
    }
    assert clean_function(function) == {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "string"},
                "default": {"type": "integer"},
                "maybe": {
                    "type": ["string", "null"],
                    "enum": ["x", None],
                    "default": None,
                    "const": None,
                },
                "any": {"description": "anything"},
                "bare": {"default": None},
                "no": {"type": "string", "enum": ["x"], "examples": ["y"]},
                "object": {"type": "object", "default": {"b": 1}},
            },
            "anyOf": [{"required": ["a"]}],
        },
    }


def test_constraints_and_sql_lose_what_a_table_has_added():
    row = {
        "prompt": "Hi",
        "constraints": [
            {"type": "words", "value": {"max": 3, "min": None}, "other": None},
            {"type": "json", "value": None},
        ],
        "sql": {"setup": "", "rows": [[None]], "ordered": None},
    }
    record = normalise(row, "prompts")
    assert record["constraints"] == [{"type": "words", "value": {"max": 3}}, {"type": "json"}]
    assert record["sql"] == {"setup": "", "rows": [[None]]}
    for field in ("answer", "sql", "constraints", "expected", "tests", "entry_point", "evidence"):
        assert field not in normalise({"prompt": "Hi", field: None}, "prompts")


def test_null_among_the_schemas_of_a_list():
    """Arrow pads no lists, but JSON that somebody wrote may have it: no schema is null."""
    either = {"anyOf": [None, {"type": "string"}]}
    parameters = {"type": "object", "properties": {"x": either}}
    cleaned = clean_function({"name": "f", "parameters": parameters})
    assert cleaned["parameters"]["properties"]["x"] == {"anyOf": [{"type": "string"}]}
