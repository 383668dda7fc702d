"""The field `tests`: ["assert f(2) == 4", ...], with an optional `entry_point` beside it.

The code of an answer runs against them in a sandbox (sandbox.py), and only with run_code.
"""

import ast
import re

from posttrain.verify.sandbox import find_code, parse_test, run_tests
from posttrain.verify.values import Verdict, need


def check_entry_point(row):
    name = row.get("entry_point")
    is_name = isinstance(name, str) and name.isidentifier()
    need(name is None or is_name, "entry_point", "a function's name")


def tests_shape(row, field):
    need(isinstance(row[field], list) and row[field], field, "a non-empty list")
    for number, test in enumerate(row[field]):
        parse_test(test, number, row.get("entry_point"))


def tests_verdict(answer, tests):
    if not answer.run_code:
        return Verdict(None)
    entry_point = answer.row.get("entry_point")
    tests = with_helpers(tests, prompt_text(answer.row.get("prompt")), entry_point)
    result = run_tests(answer.text, tests, entry_point, unsafe=answer.unsafe)
    return Verdict(result["ok"], result["why"])


def prompt_text(prompt):
    """The text of a prompt: itself, or the last message that has one."""
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt or []):
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            return message["content"]
    return ""


def with_helpers(tests, prompt, entry_point):
    """Tests of `candidate`, with the other functions that the prompt (a text) defines before them.

    A helper that such a test uses (HumanEval's poly) is then the prompt's, and not what the
    completion makes of it. The prompt's imports come along.
    """
    try:
        body = ast.parse(find_code(prompt, entry_point)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # prose
        return tests
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    helpers = [node for node in functions if node.name != entry_point]
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    before = ast.unparse(imports + helpers) + "\n"

    names = [node.name for node in helpers]
    return [before + test if uses_helper(test, names) else test for test in tests]


def uses_helper(test, names):
    """Does a test speak of `candidate`, and of one of these names?"""
    return "candidate" in test and any(re.search(rf"\b{name}\b", test) for name in names)
