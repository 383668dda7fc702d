"""The planted faults fit their files, and planting changes one place and nothing else."""

import pytest
from conftest import ROOT
from mutants import MUTANTS
from planting import Mutant, nodes_of, plant, shape

SOURCE = '''\
"""A module."""
LIMIT = 3  # ☃


class Counter:
    step = 1

    def add(self, n=0):
        "Übung ☃"; self.n = self.n + n
        return self.n


def outer(items, most=10):
    def inner(x):
        y = x + 1
        y = y * 2
        return y

    total = 0
    for item in items:
        if item > LIMIT and item < most:
            total = total + inner(item)
        else:
            total = 0
    print("ä→", total, f"{total + 1} of {most}")
    return (total + 1) * 2
'''


def planted(function, pattern, replacement):
    return plant(SOURCE, Mutant("some.py", function, pattern, replacement, []))


# ---- planting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "pattern", "replacement", "old", "new"),
    [
        ("", "LIMIT = 3", "LIMIT = 4", "LIMIT = 3", "LIMIT = 4"),
        ("Counter", "step = 1", "step = 2", "step = 1", "step = 2"),
        ("Counter.add", "self.n + n", "n", "self.n + n", "n"),  # behind letters of several bytes
        ("outer", "'ä→'", "'b'", '"ä→"', "'b'"),
        ("outer.inner", "x + 1", "x + 2", "x + 1", "x + 2"),
        ("outer", "10", "99", "most=10", "most=99"),  # arguments belong to their function
        ("outer", "items", "items[1:]", "in items", "in items[1:]"),
        ("outer", "most", "most + 1", "< most", "< most + 1"),  # parts of f-strings do not count
        ("outer", "f'{total + 1} of {most}'", "''", 'f"{total + 1} of {most}"', "''"),
        ("outer", "total + 1", "total", "total + 1) * 2", "total) * 2"),
        ("outer", "inner(item)", "item or 1", "+ inner(item)", "+ (item or 1)"),
        ("outer", "(\n  item>LIMIT  # so\n)", "True", "item > LIMIT", "True"),  # layout is free
    ],
)
def test_an_expression(function, pattern, replacement, old, new):
    assert SOURCE.count(old) == 1
    assert planted(function, pattern, replacement) == SOURCE.replace(old, new)


def test_statements_are_indented_as_those_they_replace():
    pattern = """
        y = x + 1
        y = y * 2
    """
    replacement = """
        if x:
            y = 0
        y = 1
    """
    old = "        y = x + 1\n        y = y * 2\n"
    new = "        if x:\n            y = 0\n        y = 1\n"
    assert planted("outer.inner", pattern, replacement) == SOURCE.replace(old, new)


def test_a_call_that_is_a_statement_can_become_another_statement():
    changed = planted("outer", 'print("ä→", total, f"{total + 1} of {most}")', "pass")
    assert "    pass\n    return (total + 1) * 2\n" in changed and "print" not in changed


@pytest.mark.parametrize(
    ("function", "pattern", "message"),
    [
        ("outer", "item == LIMIT", "occurs 0 times in function outer of some.py"),
        ("outer", "x + 1", "occurs 0 times in function outer"),  # it is in outer.inner
        ("inner", "x + 1", "occurs 0 times in function inner"),
        ("", "step = 1", "occurs 0 times outside functions"),
        ("outer", "total = 0", "occurs 2 times in function outer"),
        ("outer.inner", "y", "occurs 4 times in function outer.inner"),
        ("outer.inner", "y = y * 2\ny = x + 1", "occurs 0 times"),  # in this order
    ],
)
def test_a_pattern_that_does_not_fit(function, pattern, message):
    with pytest.raises(ValueError, match=message):
        planted(function, pattern, "0")


def test_a_replacement_that_does_not_fit():
    with pytest.raises(ValueError, match="cannot stand for"):
        planted("Counter.add", "self.n = self.n + n", "if n:\n    self.n = n")


def test_other_files_are_text():
    page = Mutant("page.html", "", "<th>", "<td>", [])
    assert plant("<tr><th>a</th>", page) == "<tr><td>a</th>"
    with pytest.raises(ValueError, match="occurs 2 times"):
        plant("<th><th>", page)


# ---- the planted faults ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(request):
    """{test with parameters: its cases} where whole folders of tests are run; else {}."""
    found = {}
    is_whole = all((ROOT / word).is_dir() for word in request.config.args)
    for item in request.session.items if is_whole and not request.config.option.keyword else []:
        name, bracket, _ = item.nodeid.partition("[")
        if bracket:
            found.setdefault(name, set()).add(item.nodeid)
    return found


@pytest.mark.parametrize("number", range(1, len(MUTANTS) + 1))
def test_a_mutant_fits_its_file(number, cases):
    """It fits one place, is other code than what stands there, compiles, and its tests exist."""
    mutant = MUTANTS[number - 1]
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = plant(source, mutant)
    assert changed != source and mutant.tests
    if mutant.file.endswith(".py"):
        old, new = nodes_of(mutant)
        assert [shape(node) for node in old] != [shape(node) for node in new]
        compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        function, bracket, _ = name.partition("[")
        assert not name or f"def {function}(" in text, test
        if bracket:
            assert test in cases.get(f"{path}::{function}", {test})


def test_there_are_enough_mutants():
    different = {mutant[:4] for mutant in MUTANTS}
    assert len(different) == len(MUTANTS) >= 350
