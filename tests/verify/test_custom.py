"""A verifier of one's own: a line in the table, or a file for --verifiers. Nothing of it is silently wrong."""

import re

import pytest
from conftest import ROOT
from recipes import follow

from posttrain.cli import BadInput
from posttrain.records.jsonl import read_jsonl
from posttrain.verify import checks, constraints
from posttrain.verify.checks import CHECKS, check_fields, verify
from posttrain.verify.custom import RESERVED, read_checks, refuse_unused

IMPORTS = "import re\n"


# ---- the kit's tables ------------------------------------------------------------------------------


def test_the_recipe_for_a_field():
    changed = follow(checks, "CHECKS", IMPORTS)
    for text, right in (("2024-05-03", True), ("on the third of May", False)):
        assert changed["verify"]({"regex": "[0-9]{4}-[0-9]{2}"}, text)["ok"] is right
    assert changed["verify"]({"answer": 4}, "4") == {"ok": True, "answer": True}


def test_the_recipe_for_a_constraint():
    changed = follow(constraints, "CONSTRAINTS")
    question = {"type": "question"}
    changed["constraint_shape"](question, "constraints[0]")
    assert changed["check_constraint"]("Is it? ", question) is True
    assert changed["check_constraint"]("It is.", question) is False
    with pytest.raises(BadInput, match="takes \\(none\\)"):
        changed["constraint_shape"](question | {"value": 1}, "constraints[0]")


def test_the_docstrings_tell_what_the_tables_have():
    told = re.findall(r"^    (\w+) +", checks.__doc__, re.MULTILINE)
    told += [name for name, check in CHECKS.items() if check.verdict.__doc__]
    assert {*CHECKS, "evidence"} <= {*told}


def test_an_unknown_constraint_raises():
    with pytest.raises(KeyError, match="rhyme"):
        constraints.check_constraint("x", {"type": "rhyme"})


# ---- a file of one's own ---------------------------------------------------------------------------


def write_checks(folder, text):
    path = folder / "my_checks.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_sample():
    assert read_checks() is CHECKS
    table = read_checks(ROOT / "data" / "my_checks.py")
    assert [*table] == [*CHECKS, "regex", "shorter"]
    row = {"id": "a", "prompt": [{"role": "user", "content": "x" * 200}], "regex": "[0-9]{4}"}
    assert verify(row, "2024 ", checks=table) == {"ok": True, "regex": True}
    assert verify(row, "in 2024", checks=table) == {
        "ok": False,
        "regex": False,
        "why": "regex: expected [0-9]{4}",
    }
    both = row | {"answer": 2024, "shorter": 0.5}
    assert [*verify(both, "2024", checks=table)] == ["ok", "answer", "regex", "shorter"]
    long = {**row, "shorter": 0.5}
    del long["regex"]
    assert verify(long, "y" * 100, checks=table)["ok"] is True
    assert verify(long, "y" * 101, checks=table)["ok"] is False
    short = long | {"prompt": [{"role": "user", "content": "x" * 199}]}
    assert verify(short, "y", checks=table) == {"ok": None, "shorter": None}
    assert verify(row, "x") is None, "without the file the field is any other"
    check_fields(row, checks=table)
    assert verify({"regex": "x*"}, "x" * 200_001, checks=table)["why"].startswith("regex: longer")


def test_what_is_a_check_and_what_is_none(tmp_path):
    path = write_checks(
        tmp_path,
        "import functools, os.path as way\nfrom re import match, search as find\n"
        "from dataclasses import dataclass\n@dataclass\nclass Box:\n    n: int\n"
        "LIMIT = 3\ndef _helper(a, b, c): return a\n"
        "def first(text, value): return len(text) < Box(LIMIT).n\n"
        "@functools.cache\ndef second(text, value): return find(value, text) is not None\n"
        "def match(text, value, row): return row['id'] == value\n",
    )
    table = read_checks(str(path))
    assert [*table][len(CHECKS) :] == ["match", "first", "second"], "match is the file's own"
    row = {"id": "a", "first": 1, "second": "b", "match": "a", "find": 1, "_helper": 2}
    assert verify(row, "ab", checks=table) == {
        "ok": True,
        "match": True,
        "first": True,
        "second": True,
    }


def test_a_changed_file_is_read_anew(tmp_path):
    for value in (True, False, True):
        path = write_checks(tmp_path, f"def x(text, value): return {value!s:5}\n")
        assert verify({"x": 1}, "a", checks=read_checks(path))["ok"] is value
    assert [file.name for file in tmp_path.iterdir()] == ["my_checks.py"]


def test_a_check_gets_copies(tmp_path):
    path = write_checks(
        tmp_path,
        "def words(text, value, row):\n    value.pop()\n    row['id'] = 'b'\n    row['prompt'].pop()\n"
        "    return row['words'] == ['a']\n",
    )
    row = {"id": "a", "prompt": ["x"], "words": ["a", "b"]}
    for _ in range(2):
        assert verify(row, "t", checks=read_checks(path))["ok"] is True
    assert row == {"id": "a", "prompt": ["x"], "words": ["a", "b"]}


GOOD = "def x(text, value): return True\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"my_checks\.py: no check in it; expected .*def regex\(text, value\)"),
        ("from re import search\ndef _x(text, value): pass\n", r"my_checks\.py: no check in it"),
        ("X = 1\ndef x(text, value:\n    pass\n", r"my_checks\.py:2: not Python \("),
        ("x = '\0'\n", r"my_checks\.py:1: not Python \("),
        (GOOD + "1 / 0\n", r"my_checks\.py:2: it cannot be loaded \(ZeroDivisionError: division"),
        (GOOD + "\nimport no_such_module\n", r"my_checks\.py:3: it cannot be loaded .*no_such_mod"),
        (GOOD + "exit(0)\n", r"my_checks\.py:2: it cannot be loaded \(SystemExit: 0"),
        (GOOD + "from re import *\n", r"my_checks\.py:2: `import \*` hides"),
        *[
            (f"{GOOD}{definition}\n", r"my_checks\.py: y\(\): expected def y\(text, value\) or")
            for definition in (
                "def y(): pass",
                "def y(text): pass",
                "def y(value, text): pass",
                "def y(text, pattern): pass",
                "def y(text, value, more): pass",
                "def y(text, row, value): pass",
                "def y(text, value, row, more): pass",
                "def y(text, *, value): pass",
                "def y(*text): pass",
                "async def y(text, value): pass",
                "def y(text, value): yield True",
                "async def y(text, value): yield True",
                "y = int.from_bytes",
                "y = dict.get",
            )
        ],
        (
            "def answer(text, value): pass",
            r"answer\(\): under this name the kit has a check; rename",
        ),
        ("def prompt(text, value): pass", r"prompt\(\): under this name records have something"),
        ("def tools(text, value): pass", r"tools\(\): under this name records have something"),
        ("def ok(text, value): pass", r"ok\(\): under this name records have something"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        read_checks(write_checks(tmp_path, text))


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.py: no such file; --verifiers takes .*my_checks"):
        read_checks(tmp_path / "none.py")
    with pytest.raises(BadInput, match="a folder or device; --verifiers takes"):
        read_checks(tmp_path)
    path = tmp_path / "latin.py"
    path.write_bytes(b"# \xe4\n" + GOOD.encode())
    with pytest.raises(BadInput, match=r"latin\.py: no text in UTF-8"):
        read_checks(path)


def test_the_names_that_records_have():
    """No field of the samples, and no key of a verdict, may be the name of a check."""
    fields = set()
    for path in (ROOT / "data").rglob("*.jsonl"):
        if "tiny" not in path.parts:
            for _, row in read_jsonl(path):
                fields |= row.keys()
    assert len(fields) > 30 and fields | {"ok", "why", "facts"} <= RESERVED | {*CHECKS}
    assert not RESERVED & {*CHECKS}


def test_a_file_that_checks_no_row(capsys):
    table = read_checks(ROOT / "data" / "my_checks.py")
    with pytest.raises(
        BadInput, match=r"no row has a field that it checks \(regex, shorter\); name"
    ):
        refuse_unused(table, [{"answer": 4}, {"regexp": "a"}])
    refuse_unused(table, [{"answer": 4}, {"regex": "a"}])
    printed = capsys.readouterr().out
    assert printed == "verify   regex: in 1 of 2 rows\nverify   shorter: in 0 of 2 rows\n"
    refuse_unused(CHECKS, [{"prompt": "x"}])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return 1",
            r"my_checks\.py: x\(\) returned int '1' on the row with id 'q7'; expected True",
        ),
        ("return 'no'", r"x\(\) returned str 'no' on the row with id 'q7'"),
        ("import re\n    return re.search('a', text)", r"returned Match \"<re\.Match"),
        ("y = 1\n    return y / 0", r"my_checks\.py:3: x\(\) raised ZeroDivisionError: .*id 'q7'"),
        ("raise SystemExit(0)", r"my_checks\.py:2: x\(\) raised SystemExit: 0"),
        ("return x(text, value)", r"my_checks\.py:[12]: x\(\) raised RecursionError"),
    ],
)
def test_a_check_that_fails_stops_the_run(tmp_path, body, message):
    """Neither wrong, nor right, nor "cannot tell"."""
    table = read_checks(write_checks(tmp_path, f"def x(text, value):\n    {body}\n"))
    with pytest.raises(BadInput, match=message):
        verify({"id": "q7", "x": 1}, "a", checks=table)
    if "raised" in message:
        with pytest.raises(BadInput, match="on a row without id; mend it"):
            verify({"x": 1}, "a", checks=table)
