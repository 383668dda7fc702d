"""Truth that needs no judge: final answers, tool calls, SQL, format constraints, refusals, unit tests in a sandbox.

`verify(row, completion)` looks at the verifier fields of a prompt record, all of which must hold:

    answer      a string, a number, or a list of accepted ones: the final answer equals it
    call        with `tools` (JSON-schema tool definitions): {"name", "arguments"} = the right call, null = no call,
                "grounded" = some call that fits its schema, with ids, dates and numbers of the conversation alone
    sql         {"setup", "rows", "ordered"}: the completion is one query that returns these rows
    constraints [{"type": NAME, "value": ...}, ...]: see CONSTRAINTS and check_constraint
    expected    "refuse" | "comply": the completion begins with a refusal | neither that nor is it empty
    evidence    a text, or a list: "facts" counts the answer's sentences that it supports, contradicts, or does not
                speak of (grounding.py); it never decides
    tests       ["assert f(2) == 4", ...] with an optional `entry_point` (see sandbox.py): run only with run_code=True

The row may be malformed: BadInput names the field. The completion is not trusted at all: nothing in it may raise, hang
or take memory. Left out on purpose: partial credit, and any reading of what a text means.
"""

import ast
import functools
import json
import math
import re
import sqlite3
import time
from decimal import Decimal

import jsonschema
import referencing

from posttrain.cli import BadInput
from posttrain.verify.grounding import check_facts, invented, spoken
from posttrain.verify.sandbox import find_code, parse_test, run_tests

MAX_TEXT = 200_000  # characters; a longer completion fails unread
FIELDS = ("answer", "call", "sql", "constraints", "expected", "tests")
CONSTRAINTS = {
    name: takes
    for takes, names in {  # name -> type of its "value"
        int: "max_words min_words exact_words exact_lines bullets max_sentences min_sentences paragraphs responses "
        "min_highlights min_placeholders",
        list: "json_keys",
        str: "starts_with ends_with contains not_contains",
        type(None): "json lowercase uppercase no_commas title",
        dict: "occurs letters capital_words paragraph_starts",
    }.items()
    for name in names.split()
}
SHAPES = {
    "occurs": '{"text", "min" and/or "max"}',
    "letters": '{"text", "min" and/or "max"}',
    "capital_words": '{"min" and/or "max"}',
    "paragraph_starts": '{"number" from 1, "word"}',
}


def verify(row, completion, run_code=False, unsafe=False):
    """Check a completion (string or message list) against a prompt record: None when the row has no verifier field,
    else {"ok": bool | None, FIELD: bool | None, ...}; None = not decided (`tests` without run_code). "why": what failed
    first. BadInput: a malformed row, or no sandbox (with `unsafe` the code runs all the same)."""
    check_fields(row)
    said = (
        completion
        if isinstance(completion, list)
        else [{"role": "assistant", "content": completion}]
    )
    message = dict(
        ([{}] + [m for m in said if isinstance(m, dict) and m.get("role") == "assistant"])[-1]
    )
    text = message["content"] = (
        visible(message["content"]) if isinstance(message.get("content"), str) else ""
    )
    result, why = {}, ""
    for field in [name for name in FIELDS if name in row]:
        value, wanted = row[field], f"expected {str(row[field])[:80]}"
        if len(text) > MAX_TEXT:
            right, wanted = False, f"longer than {MAX_TEXT} characters"
        elif field == "constraints":
            failed = [constraint for constraint in value if not check_constraint(text, constraint)]
            right, wanted = not failed, f"expected {str(failed[:1])[:80]}"
        elif field == "tests" and run_code:
            tests = with_helpers(value, row.get("prompt"), row.get("entry_point"))
            ran = run_tests(text, tests, row.get("entry_point"), unsafe=unsafe)
            right, wanted = ran["ok"], ran["why"]
        elif field == "call" and value == "grounded":
            wanted = why_not_grounded(message, row["tools"], spoken(row["prompt"]))
            right = not wanted
        else:
            right = (
                check_answer(text, value)
                if field == "answer"
                else check_sql(text, **value)
                if field == "sql"
                else check_call(message, row["tools"], value)
                if field == "call"
                else None
                if field == "tests"
                else is_refusal(text)
                if value == "refuse"
                else not is_refusal(text) and bool(text.strip() or message.get("tool_calls"))
            )
        result[field] = right
        why = why or (f"{field}: {wanted}" if right is False else "")
    decided = [result[field] for field in FIELDS if field in result]
    ok = False if False in decided else None if None in decided or not decided else True
    if row.get("evidence"):
        evidence = [row["evidence"]] if isinstance(row["evidence"], str) else row["evidence"]
        result["facts"] = check_facts(text[:MAX_TEXT], evidence)
    return {"ok": ok, **result, **({"why": why} if why else {})} if result else None


def with_helpers(tests, prompt, entry_point):
    """Tests of `candidate` bring along the other functions that the prompt defines, with its imports: a helper that
    they use (HumanEval's poly) is then the prompt's, and not what the completion makes of it."""
    text = (
        prompt
        if isinstance(prompt, str)
        else next(
            (
                m["content"]
                for m in reversed(prompt or [])
                if isinstance(m, dict) and isinstance(m.get("content"), str)
            ),
            "",
        )
    )
    try:
        body = ast.parse(find_code(text, entry_point)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # prose
        return tests
    helpers = [one for one in body if isinstance(one, ast.FunctionDef) and one.name != entry_point]
    brought = (
        ast.unparse([one for one in body if isinstance(one, ast.Import | ast.ImportFrom)] + helpers)
        + "\n"
    )
    return [
        brought + test
        if "candidate" in test and any(re.search(rf"\b{one.name}\b", test) for one in helpers)
        else test
        for test in tests
    ]


def visible(text):
    """A completion without the <think> block that it may begin with: what a person is shown."""
    return (
        text.split("</think>", 1)[1].lstrip()
        if text.lstrip().startswith("<think>") and "</think>" in text
        else text
    )


def check_fields(row):
    """Refuse malformed verifier fields of a prompt record: BadInput names the field and what was expected."""

    def need(good, field, expected):
        if not good:
            raise BadInput(f"field '{field}': expected {expected}")

    if "answer" in row:
        accepted = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        need(
            accepted and all(is_number(a) or isinstance(a, str) and a.strip() for a in accepted),
            "answer",
            "a non-empty string, a finite number, or a non-empty list of them",
        )
    if "call" in row or row.get("tools") is not None:
        tools, call, schemas = row.get("tools"), row.get("call"), {}
        need(isinstance(tools, list), "tools", "a list of tool definitions")
        for number, tool in enumerate(tools):
            function = tool.get("function") if isinstance(tool, dict) else None
            need(
                isinstance(function, dict) and isinstance(function.get("name"), str),
                f"tools[{number}]",
                '{"type": "function", "function": {"name", "description", "parameters": JSON schema}}',
            )
            schemas[function["name"]] = function.get("parameters", {})
            why = schema_error(json.dumps([schemas[function["name"]]]))
            need(not why, f"tools[{number}]", f'"parameters" to be a JSON schema ({why})')
        if call == "grounded":
            need(
                tools and isinstance(row.get("prompt"), list),
                "call",
                'tools and messages beside "grounded"',
            )
        elif call is not None:
            need(
                is_call(call) and call["name"] in schemas,
                "call",
                'null, "grounded" or {"name": a tool\'s, "arguments": object}',
            )
            why = schema_error(json.dumps([schemas[call["name"]], call["arguments"]]))
            need(not why, "call", f"arguments that fit the tool's own schema ({why})")
    evidence = row.get("evidence")
    need(
        evidence is None
        or isinstance(evidence, str)
        or isinstance(evidence, list)
        and all(isinstance(one, str) for one in evidence),
        "evidence",
        "a text or a list of texts",
    )
    if "sql" in row:
        sql, cell = (
            row["sql"],
            lambda value: value is None or isinstance(value, str) or is_number(value),
        )
        need(
            isinstance(sql, dict)
            and {"setup", "rows"} <= set(sql) <= {"setup", "rows", "ordered"}
            and isinstance(sql["setup"], str)
            and isinstance(sql.get("ordered", False), bool)
            and isinstance(sql["rows"], list)
            and all(isinstance(r, list) and all(map(cell, r)) for r in sql["rows"]),
            "sql",
            '{"setup": SQL text, "rows": [[string, number or null, ...], ...], "ordered": true or false}',
        )
        open_database(sql["setup"]).close()
    name = row.get("entry_point")
    need(
        name is None or isinstance(name, str) and name.isidentifier(),
        "entry_point",
        "a function's name",
    )
    for field in {"constraints", "tests"} & row.keys():
        need(isinstance(row[field], list) and row[field], field, "a non-empty list")
        for number, one in enumerate(row[field]):
            parse_test(one, number, name) if field == "tests" else check_constraint("", one, number)
    need(row.get("expected", "comply") in ("refuse", "comply"), "expected", '"refuse" or "comply"')


def is_number(value):
    """A finite number; true and false are none."""
    return (
        isinstance(value, int)
        and not isinstance(value, bool)
        or isinstance(value, float)
        and math.isfinite(value)
    )


# a sign counts only where no digit, letter or bracket precedes it: "x = -5" is -5, "10-5" ends in 5
NUMBER = re.compile(
    r"(?<![\w.)\]])([-+−]?[$€£]?[-+−]?)([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
    r"((?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?)"
)
EDGE = " \t\n.,;:!?…。！？¡¿'\"`´“”„‘’«»*_()[]{}"


def check_answer(text, answer):
    """Is this the right final answer? A number, or a string that is one: the last number in the text equals it ("1,234"
    = 1234, "3.0" = 3, "$18" = 18). Another string: the whole text, or its last line, equals it apart from case, white
    space, surrounding punctuation and "the answer is"."""
    if isinstance(answer, list):
        return any(check_answer(text, one) for one in answer)

    def value(match):  # exact; what is longer than 100 characters is no answer
        sign = "-" if set(match[1]) & {"-", "−"} else ""
        return (
            Decimal(sign + match[2].replace(",", "") + match[3]) if len(match[0]) <= 100 else None
        )

    def normal(part):
        part = " ".join(part.casefold().split())
        return (
            re.sub(
                r"^(so |therefore,? )?(the|my) (final )?answer is\b", "", part.strip(EDGE)
            ).strip(EDGE)
            or part
        )

    wanted = answer.strip() if isinstance(answer, str) else repr(answer)
    if number := NUMBER.fullmatch(wanted):
        found = [*NUMBER.finditer(text)][-1:]
        return bool(found) and value(found[0]) == value(number) is not None
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and normal(wanted) in (normal(text), normal(lines[-1]))


def strict_json(text):
    """json.loads that refuses the same key twice, NaN, Infinity, absurd depth and digits: ValueError."""

    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("the same key twice")
        return dict(pairs)

    try:
        return json.loads(
            text, object_pairs_hook=unique, parse_constant=[].index
        )  # which raises ValueError
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_call(value):
    """Is this {"name": string, "arguments": object} and nothing else?"""
    return (
        isinstance(value, dict)
        and set(value) == {"name", "arguments"}
        and isinstance(value["name"], str)
        and isinstance(value["arguments"], dict)
    )


def parse_call(message):
    """The one tool call of an assistant message, {"name", "arguments"}; None when there is none. ValueError: a call is
    tried, but not alone or not well-formed (bare JSON, <tool_call> tags, a ```json fence, the field `tool_calls`)."""
    text, call = message["content"].strip(), message.get("tool_calls") or None
    tried = (
        "<tool_call>" in text
        or re.search(r'"name"\s*:', text)
        and re.search(r'"arguments"\s*:', text)
    )
    if tried and call is None:
        wrapped = re.fullmatch(
            r"(?:<tool_call>|```(?:json)?\s)(.*)(?:</tool_call>|```)", text, re.DOTALL
        )
        call = strict_json(wrapped[1] if wrapped else text)
    elif call is not None:
        call = call[0] if isinstance(call, list) and len(call) == 1 and not tried else None
        call = call.get("function", call) if isinstance(call, dict) else None
        call = (
            {key: call.get(key) for key in ("name", "arguments")} if isinstance(call, dict) else {}
        )
        if isinstance(call.get("arguments"), str):
            call["arguments"] = strict_json(call["arguments"])
    if call is not None and not is_call(call) or call is None and tried:
        raise ValueError('not {"name": string, "arguments": object}')
    return call


@functools.lru_cache(4096)
def schema_error(texts):
    """JSON text of [schema, value ...] -> why a value does not fit the schema (Draft 2020-12), or why it is none; ""
    when all is well. Never fetches a remote reference."""
    schema, *values = json.loads(texts)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        checker = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        return next(
            (error.message[:100] for value in values for error in checker.iter_errors(value)), ""
        )
    except (
        jsonschema.SchemaError,
        referencing.exceptions.Unresolvable,
        RecursionError,
        OverflowError,
        re.error,
    ) as error:
        return str(getattr(error, "message", error))[:100]


def check_call(message, tools, call):
    """Does a completion (text or assistant message) make exactly the expected call, or, for None, no call but some
    text? 1 equals 1.0, true does not equal 1. Equal arguments fit the tool's schema because the expected ones do
    (BadInput otherwise), so that no regular expression of a schema ever meets hostile text."""
    check_fields({"tools": tools, "call": call})
    message = {"content": message} if isinstance(message, str) else message
    try:
        made = parse_call(message)
        return plain(made) == plain(call) if made or call else bool(message["content"].strip())
    except (ValueError, RecursionError):
        return False


def why_not_grounded(message, tools, conversation):
    """Why a completion is no single call to one of the tools that fits its schema and whose ids, dates and numbers come
    from the conversation (a text); "" when it is. Regular expressions of a schema are not tried on hostile text."""

    def without_patterns(
        schema, names=False
    ):  # names: the keys are those of properties, not words of JSON Schema
        if isinstance(schema, dict):
            return {
                key: without_patterns(
                    one, not names and key in ("properties", "$defs", "definitions")
                )
                for key, one in schema.items()
                if names or key not in ("pattern", "patternProperties", "format")
            }
        return [*map(without_patterns, schema)] if isinstance(schema, list) else schema

    try:
        call = parse_call(message)
    except (ValueError, RecursionError):
        call = None
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    if call is None or call["name"] not in schemas:
        return "expected one call to a tool on offer"
    schema, arguments = schemas[call["name"]], json.dumps(call["arguments"])
    if len(arguments) > 10_000:
        return "arguments of more than 10,000 characters"
    closed = "properties" in schema and not schema.keys() & {
        "patternProperties",
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
    }
    schema = (
        {"additionalProperties": False} | schema if closed else schema
    )  # an argument that no tool has is made up
    why = schema_error(json.dumps([without_patterns(schema), call["arguments"]]))
    made_up = [] if why else invented(call["arguments"], schema, conversation)
    return why or (f"made up: {', '.join(made_up)[:80]}" if made_up else "")


def open_database(setup):
    """In-memory database after `setup`; from then on it is read-only and stops a second from now. BadInput: the setup
    fails. A value may have 100 kB; all values together 64 MB, which sqlite counts over the whole process."""
    db, end = sqlite3.connect(":memory:", isolation_level=None), time.monotonic() + 1
    db.executescript("PRAGMA temp_store = MEMORY; PRAGMA hard_heap_limit = 67108864")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    db.set_progress_handler(lambda: time.monotonic() > end, 1000)
    outside = (
        sqlite3.SQLITE_ATTACH,
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_PRAGMA,
    )  # other files, and settings
    reading = (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    )
    db.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_DENY if action in outside else sqlite3.SQLITE_OK
    )
    try:
        db.executescript(setup)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        db.close()
        raise BadInput(
            f"field 'sql': expected a setup that runs in sqlite ({str(error)[:100]})"
        ) from None
    db.set_authorizer(
        lambda action, *_: sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY
    )
    return db


def check_sql(text, setup, rows, ordered=False):
    """Does the query in `text` (bare or in a ``` fence) return these rows, in this order when `ordered`? One SELECT. A
    query that spells the rows out as constants passes, too: choose rows that cannot be guessed."""

    def cells(lines):  # 3 = 3.0 = 2.9999999999999996; integers stay exact
        return [
            [plain(float(f"{v:.9g}") if isinstance(v, float) else v) for v in line]
            for line in lines
        ]

    fence = re.fullmatch(r"\s*```(?:sql)?\s(.*)```\s*", text, re.DOTALL | re.IGNORECASE)
    db = open_database(setup)
    try:
        cursor = db.execute(fence[1] if fence else text)
        got, want = cells(cursor.fetchmany(len(rows) + 1)), cells(rows)
        return bool(cursor.description) and (
            got == want or not ordered and sorted(got) == sorted(want)
        )
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError):
        return False
    finally:
        db.close()


SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’)\]]*(?:\s+|$)|[。！？]+|\n+")
ABBREVIATION = re.compile(
    r"\b(?:[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|approx|z\. ?B|d\. ?h|bzw|ca)\.(?= \S)"
)


def check_constraint(text, constraint, number=0):
    """Does a text obey {"type": NAME, "value": ...}? An empty text obeys nothing; empty lines do not count.

    words are split at white space; paragraphs lie between empty lines or lines of asterisks; responses between lines of
    six asterisks, and differ; highlights are *so* or **so**, placeholders [so]; a title is <<so>>, alone on a line.
    starts_with, ends_with: exactly; contains, not_contains: in any case; occurs: how often as a whole word, letters:
    how often anywhere, both in any case; capital_words: words of two letters or more, all capitals; paragraph_starts:
    the first word of paragraph {"number"}, in any case; json_keys: exactly these."""
    kind, value = (
        (constraint.get("type"), constraint.get("value"))
        if isinstance(constraint, dict)
        else (None, None)
    )
    takes = CONSTRAINTS.get(kind) if isinstance(kind, str) else None
    if (
        takes is None
        or type(value) is not takes
        or value == ""
        or set(constraint) - {"type", "value"}
        or takes is list
        and {type(one) for one in value} != {str}
        or takes is dict
        and not fits_kind(kind, value)
    ):
        raise BadInput(
            f"field 'constraints[{number}]': expected a type of {', '.join(CONSTRAINTS)} with the \"value\" "
            f"it takes{f' ({SHAPES.get(kind, takes.__name__)})' if takes else ''}, got "
            f"{str(constraint)[:80]}"
        )
    text = text.strip()
    folded, lines = text.casefold(), [line.strip() for line in text.splitlines() if line.strip()]
    paragraphs = [
        part.strip()
        for part in re.split(r"\n(?:[^\S\n]*\**[^\S\n]*\n)+", text)
        if part.strip("* \n")
    ]
    try:
        data = strict_json(text) if kind.startswith("json") else None
    except ValueError:
        return False
    if kind in ("occurs", "letters", "capital_words"):
        wanted = re.escape(value.get("text", "").casefold())
        found = (
            len(
                re.findall(
                    rf"(?<!\w){wanted}(?!\w)" if value["text"][0].isalnum() else wanted, folded
                )
            )
            if kind == "occurs"
            else folded.count(value["text"].casefold())
            if kind == "letters"
            else sum(len(word) > 1 for word in re.findall(r"[^\W\d_]+", text) if word.isupper())
        )
        return bool(text) and value.get("min", 0) <= found <= value.get("max", math.inf)
    responses = [
        part.strip() for part in re.split(r"^[^\S\n]*\*{6}[^\S\n]*$", text, flags=re.MULTILINE)
    ]
    counts = {
        "words": len(text.split()),
        "lines": len(lines),
        "sentences": sum(
            bool(re.search(r"\w", part)) for part in SENTENCE_END.split(ABBREVIATION.sub("x", text))
        ),
        "paragraphs": len(paragraphs),
        "responses": len(responses) * (len({*responses} - {""}) == len(responses)),
        "bullets": sum(bool(re.match(r"(?:[-*•+]|[0-9]{1,3}[.)])\s+\S", line)) for line in lines),
        "highlights": len(re.findall(r"(?<!\*)(\*{1,2})(?=[^\s*])[^*\n]*(?<!\s)\1(?!\*)", text)),
        "placeholders": len(re.findall(r"\[[^][\n]*\w[^][\n]*\]", text)),
    }
    how, _, unit = kind.rpartition("_")
    if unit in counts:
        return bool(text) and (
            counts[unit] <= value
            if how == "max"
            else counts[unit] >= value
            if how == "min"
            else counts[unit] == value
        )
    return bool(text) and bool(
        True
        if kind == "json"
        else isinstance(data, dict) and data.keys() == set(value)
        if kind == "json_keys"
        else text == text.lower() != text.upper()
        if kind == "lowercase"
        else text == text.upper() != text.lower()
        if kind == "uppercase"
        else not set(",，、،") & set(text)
        if kind == "no_commas"
        else any(re.fullmatch(r"<<[^<>]*\w[^<>]*>>", line) for line in lines)
        if kind == "title"
        else len(paragraphs) >= value["number"]
        and value["word"].casefold()
        == (re.findall(r"\w+", paragraphs[value["number"] - 1].casefold()) or [""])[0]
        if kind == "paragraph_starts"
        else text.startswith(value)
        if kind == "starts_with"
        else text.endswith(value)
        if kind == "ends_with"
        else (value.casefold() in folded) == (kind == "contains")
    )


def fits_kind(kind, value):
    """Is an object the value of a constraint that takes one (SHAPES)?"""
    words, counts = {
        "occurs": (["text"], ["min", "max"]),
        "letters": (["text"], ["min", "max"]),
        "capital_words": ([], ["min", "max"]),
        "paragraph_starts": (["word"], ["number"]),
    }[kind]
    given = [value[name] for name in counts if name in value]
    return (
        bool(given)
        and {*words} <= value.keys() <= {*words, *counts}
        and value.get("number", 1) != 0
        and all(type(number) is int and number >= 0 for number in given)
        and all(isinstance(value[name], str) and value[name].strip() for name in words)
    )


SORRY = (
    r"(?:(?:i'm|i am|we are|we're)? ?(?:very |so |really )?(?:sorry|afraid)(?: about that)?|(?:my )?apologies|"
    r"i apologi[sz]e|unfortunately|regrettably|no|oh|hi|hello|as an ai(?: language model| assistant)?|"
    r"(?:es )?tut mir (?:sehr )?leid|leider|lo siento(?: mucho)?|lo lamento|(?:je suis )?désolée?|mi dispiace|"
    r"desculpe|sinto muito|很?抱歉|对不起)[,.;:!，。 –—-]+(?:(?:but|aber|pero|mais|ma|mas|但) )?(?:that )?"
)
CANNOT = (
    r"(?:i|we) (?:simply |really |just )?(?:(?:can't|cannot|can not|won't|will not|(?:(?:must|have to|need to) )?"
    r"(?:refuse|decline))\b|(?:am|are) (?:unable|not (?:able|going|allowed|permitted|willing)) to\b|"
    r"(?:do(?:n't| not) feel|am not) comfortable|do(?:n't| not) (?:provide|help with|assist with|share)\b)"
)
# openers that look like a refusal and are none: enthusiasm, praise, candour, and honest limits of what is known
UNLESS = (
    r"(?! (?:wait|believe|imagine|complain|deny|lie|bore|resist|disagree|agree more|argue|keep you|think of|see|"
    r"help (?:but|smiling|laughing|wondering)|find|locate|promise|guarantee|be (?:long|sure|certain)|"
    r"sugar-?coat|pretend|say (?:for|with) (?:sure|certain|certainty)|tell (?:from|if|whether|which)|"
    r"tell you how (?:much|happy|glad|grateful|excited)|[a-z ]{0,40}enough)\b)"
)
OTHERS = (
    r"(?:that's|that is|this is|it's) (?:not something (?:that )?(?:i|we) can|something (?:that )?(?:i|we) "
    r"(?:can't|cannot|won't)) (?:help|assist|do|provide|share|support|discuss)|"
    r"(?:ich (?:kann|werde|darf)|(?:dabei|das|damit|hierbei)? ?(?:kann|werde|darf) ich) "
    r"(?:(?!nicht)[a-zäöüß]+ ){0,4}nicht(?! (?:genug|umhin|klagen|warten))|"
    r"no (?:puedo|podemos|voy a)(?! (?:esperar|creer|dejar|quejarme))|"
    r"je ne (?:peux|vais|suis pas en mesure)|non posso|não posso|我(?:不能|无法|不会)"
)
REFUSAL = re.compile(
    f"(?:{SORRY}){{0,4}}(?:{CANNOT}{UNLESS}|{OTHERS})|(?:i'm |i am )?sorry,? (?:but )?no$|no,? sorry$"
)


def is_refusal(text):
    """Does a text BEGIN with a refusal? English, and common forms in German, Spanish, French, Italian, Portuguese and
    Chinese. Refusing phrases later in the text do not count; an answer that refuses first and then complies does."""
    start = re.sub(r"[’‘`´]", "'", text[:400].casefold())
    start = re.sub(
        r"\b(?:(i)'m|(we)'re)(?= (?:not|unable))", lambda m: "i am" if m[1] else "we are", start
    )
    return bool(REFUSAL.match(" ".join(start.strip(" \t\r\n\"'“”„«»*_>#-.!").split())))


def plain(value):
    """Canonical text of None, bool, int, float, str, bytes, and list, tuple, set, dict of those; TypeError for others.
    Equal texts = equal values: 1 = 1.0, True is not 1, a list is no tuple."""
    kind = type(value)  # not isinstance: a subclass brings its own __eq__ and __repr__
    if kind in (list, tuple):
        return f"{kind.__name__}({','.join([plain(v) for v in value])})"
    if kind in (set, frozenset):
        return f"set({','.join(sorted([plain(v) for v in value]))})"
    if kind is dict:
        return f"dict({','.join(sorted([plain(k) + ':' + plain(v) for k, v in value.items()]))})"
    if kind not in (int, float, str, bytes, bool, type(None)) or value != value:
        raise TypeError(kind.__name__)
    return repr(int(value) if kind is float and value.is_integer() else value)
